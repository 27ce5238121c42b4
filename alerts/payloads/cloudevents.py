"""Formats ``cloudevents`` and ``cloudevents_binary``: the event as CNCF CloudEvents 1.0 knows it.

Structured, attributes and data are one JSON document (JSON event format 1.0); binary, attributes
are ``ce-`` headers and the body is the data alone (HTTP protocol binding 1.0, 3.1). Headers are not
signed, so what rests on an attribute should take the structured one.

``type`` is ours as it is, without a reversed domain name before it: the same word that filters and
the catalogue of types use, on whichever domain the service runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from alerts.explanation import instant
from alerts.mechanisms import Tlp
from alerts.payloads.messages import Message, Written, parts
from alerts.payloads.words import line, link, percent

CONTENT_TYPE = "application/cloudevents+json"
_DATA_TYPE = "application/json"
_LONGEST = 200

# HTTP protocol binding 1.0, 3.1.3.2: a space, a quotation mark, a percent sign, and whatever is not
# printable ASCII.
_UNSAFE_IN_HEADER = re.compile(r'[^\x21-\x7e]|["%]')

_SEQUENCE_DIGITS = 12
"""The sequence extension wants a text that sorts like its numbers."""

# TLP 2.0 in the words of the data classification extension.
_CLASSIFICATION = {
    Tlp.clear.value: "public",
    Tlp.green.value: "internal",
    Tlp.amber.value: "confidential",
    Tlp.amber_strict.value: "restricted",
    Tlp.red.value: "restricted",
}


def write(message: Message, origin: str) -> Written:
    """The message in structured mode; its data stands in it as it was rendered."""
    head = json.dumps(_attributes(message, origin), ensure_ascii=False, separators=(",", ":"))
    return Written(CONTENT_TYPE, body=f'{head[:-1]},"data":{message.data}}}'.encode())


def write_binary(message: Message, origin: str) -> Written:
    """The message in binary mode; ``datacontenttype`` is the content type."""
    told = _attributes(message, origin)
    content_type = told.pop("datacontenttype")
    headers = {f"ce-{name}": percent(value, _UNSAFE_IN_HEADER) for name, value in told.items()}
    return Written(content_type, headers, message.data.encode())


def _attributes(message: Message, origin: str) -> dict[str, str]:
    """Names are lower-case letters and digits, at most 20; empty ones are left out (1.0, 3.1)."""
    alert, transition = parts(message)
    told = {
        "specversion": "1.0",
        "id": message.id,
        "source": f"{origin}{_source(message, alert)}",
        "type": message.type,
        "subject": line(_subject(message, alert), _LONGEST),
        "time": instant(message.created_at) or "",
        "datacontenttype": _DATA_TYPE,
        # Only an absolute address may stand here, while a source may be relative (1.0, 3.1.1).
        "dataschema": link(origin, f"/v1/event-types/{message.type}"),
        "sequence": f"{message.sequence:0{_SEQUENCE_DIGITS}d}",
        "severitytext": line(alert.get("severity") or "", _LONGEST),
        "recordedtime": line(transition.get("recorded_at") or "", _LONGEST),
        "dataclassification": _CLASSIFICATION.get(str(alert.get("tlp")), ""),
        "tlp": line(alert.get("tlp") or "", _LONGEST),
        "exercise": line(alert.get("exercise") or "", _LONGEST),
    }
    return {name: value for name, value in told.items() if value}


def _source(message: Message, alert: Mapping[str, Any]) -> str:
    """Where it happened. Ids are unique by themselves: they hold the subscription's own."""
    return "/v1/alerts" if alert else f"/v1/subscriptions/{message.subscription}"


def _subject(message: Message, alert: Mapping[str, Any]) -> str:
    return str(alert.get("ref") or "") if alert else message.subscription
