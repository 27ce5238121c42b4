"""The bytes of every published version of every format: what is written in one does not change.

A wanted difference is a new version, beside the old one. Only a format or an event that is new here
may add files: `python -m tests.golden.test_format_bytes` writes those that are missing, and no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import xmlschema
from jsonschema import Draft202012Validator

from alerts import payloads
from alerts.lifecycle import AlertState, EventType
from alerts.mechanisms import Level, Tlp
from alerts.payloads import Format, Message
from alerts.signals import Severity
from tests.golden.test_webhook_bytes import ESCALATED, FINDING, NEON, OPENED_AT, RECORDED_AT

FOLDER = Path(__file__).parent / "formats"
SCHEMAS = Path(__file__).parent / "schemas"
ORIGIN = "https://forewarn.example"
SUBSCRIPTION = "sub_0a1b2c3d4e5f60718293"
REF = "TTC-SEMI-2026-0007"
EARLIER = ((f"{REF}/1", OPENED_AT), (f"{REF}/2", RECORDED_AT))

CAP = xmlschema.XMLSchema(SCHEMAS / "CAP-v1.2.xsd")
CLOUDEVENT = Draft202012Validator(json.loads((SCHEMAS / "cloudevents-1.0.json").read_text()))

CONTROL = {
    "rule": "export-control",
    "series_id": 18,
    "family": "availability",
    "band": None,
    "state": "firing",
    "severity": "severe",
    "value": 3.0,
    "unit": "",
    "observed_at": "2026-03-06T00:00:00Z",
    "sentence": "Reported on 6 March 2026 for neon in Ukraine: export control, severity severe.",
}


def told(
    kind: EventType, number: int, alert: Mapping[str, Any], explained: object = None
) -> Message:
    """An alert's message: the cast's alert with some fields changed."""
    shown = replace(NEON, number=number, **alert)
    opened, over = kind is EventType.opened, kind is EventType.resolved
    moved = replace(
        ESCALATED,
        number=number,
        type=kind,
        level_from=Level.monitoring if opened else Level.early_warning,
        level_to=shown.level,
        severity_from=Severity.none if opened else Severity.severe if over else Severity.moderate,
        severity_to=shown.severity,
        explanation={**ESCALATED.explanation, **(explained or {})},  # type: ignore[dict-item]
    )
    found: list[Mapping[str, object]] = [FINDING, CONTROL] if opened else [FINDING]
    return message(kind.value, payloads.render(shown, moved, found), EARLIER[: number - 1])


def message(kind: str, data: str, earlier: tuple[Any, ...] = ()) -> Message:
    return Message("msg_0a1b2c3d4e5f60718293_4", SUBSCRIPTION, kind, RECORDED_AT, 4, data, earlier)


OVER = MappingProxyType(
    {
        "state": AlertState.resolved,
        "level": Level.monitoring,
        "severity": Severity.none,
        "resolved_at": RECORDED_AT,
        "recommendation": None,
        "why": "It is over: nothing that fed the alert weighs any more.",
    }
)
SUSPENDED = {
    "endpoint": {
        "subscription": "sub_99999999999999999999",
        "url": "https://alerts.example.org/forewarn",
        "status": "suspended",
        "since": "2026-03-07T09:30:00Z",
        "reason": "Nothing was delivered for five days.",
        "last_error": "timeout",
        "failed_attempts": 61,
        "owed": 17,
        "oldest_owed_at": "2026-03-02T09:30:00Z",
        "notice_percent": 100,
        "links": {"self": "/v1/subscriptions/sub_99999999999999999999"},
    }
}


def messages() -> dict[str, Message]:
    """One message of every kind that a format writes in its own way, by a name for its files."""
    exercise = NEON.scope._replace(exercise="spring-drill")
    said = {"message": "This is a test.", "subscription": SUBSCRIPTION}
    return {
        "opened": told(EventType.opened, 1, {"tlp": Tlp.clear}),
        "escalated": told(EventType.escalated, 2, {}),
        "resolved": told(EventType.resolved, 3, OVER),
        "cancelled": told(EventType.resolved, 3, OVER, {"taken_back": True}),
        "exercise": told(EventType.escalated, 2, {"scope": exercise, "tlp": Tlp.amber}),
        "red": told(EventType.escalated, 2, {"tlp": Tlp.red}),
        "test": message("webhook.test", json.dumps(said, separators=(",", ":"))),
        "verify": message("webhook.verify", '{"challenge":"jJ6rF0yTz0Bz6nUq"}'),
        "suspended": message("endpoint.suspended", json.dumps(SUSPENDED, separators=(",", ":"))),
    }


PROMISED = [
    (name, format, version)
    for name in messages()
    for format in Format
    for version in payloads.VERSIONS[format]
]


def sent(name: str, format: Format, version: int) -> bytes:
    """Headers, an empty line, and the body."""
    written = payloads.write(format, version, messages()[name], ORIGIN)
    headers = {"content-type": written.content_type, **written.headers}
    head = "".join(f"{key}: {value}\n" for key, value in headers.items())
    return f"{head}\n".encode("ascii") + written.body


def file_of(name: str, format: Format, version: int) -> Path:
    return FOLDER / f"{name}.{format.value}.{version}"


@pytest.mark.parametrize(("name", "format", "version"), PROMISED)
def test_what_is_written_in_a_published_version_does_not_change(
    name: str, format: Format, version: int
) -> None:
    assert sent(name, format, version) == file_of(name, format, version).read_bytes()


def test_every_file_is_one_that_is_promised() -> None:
    promised = {file_of(*one).name for one in PROMISED}
    assert {path.name for path in FOLDER.iterdir()} == promised


def body_of(name: str, format: Format) -> bytes:
    return file_of(name, format, 1).read_bytes().partition(b"\n\n")[2]


@pytest.mark.parametrize("name", [name for name in messages() if name != "verify"])
def test_cap_is_valid_by_the_schema_of_its_standard(name: str) -> None:
    CAP.validate(body_of(name, Format.cap).decode())


@pytest.mark.parametrize("name", list(messages()))
def test_a_cloudevent_is_valid_and_its_binary_form_says_the_same(name: str) -> None:
    event = json.loads(body_of(name, Format.cloudevents))
    CLOUDEVENT.validate(event)
    assert json.loads(body_of(name, Format.cloudevents_binary)) == event["data"]


@pytest.mark.parametrize("name", list(messages()))
def test_json_is_what_it_was_before_there_were_other_formats(name: str) -> None:
    if name == "red":
        assert b"neon" not in body_of(name, Format.json)
        return
    one = messages()[name]
    stamp = "2026-03-07T09:30:00.250000Z"
    assert body_of(name, Format.json) == payloads.body(one.type, stamp, 4, one.data)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in PROMISED:
        if not file_of(*one).exists():
            file_of(*one).write_bytes(sent(*one))
