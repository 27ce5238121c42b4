"""The feed that lists alerts, as Atom (RFC 4287): an entry an alert, each with its CAP message.

It is also the index of CAP messages, as the feeds of national warning services are: the newest
message of every alert that is open or ended lately, under ``application/cap+xml``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from alerts.explanation import instant
from alerts.lifecycle import Alert
from alerts.mechanisms import Tlp
from alerts.payloads import cap, markup
from alerts.payloads.markup import Element, element, text
from alerts.payloads.words import line, spoken

CONTENT_TYPE = "application/atom+xml"
NAMESPACE = "http://www.w3.org/2005/Atom"

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""When an empty feed was last updated: an instant has to be said (RFC 4287, 4.2.15)."""

_NAMESPACE_URL = bytes.fromhex("6ba7b8119dad11d180b400c04fd430c8")
"""The namespace of addresses (RFC 9562, 6.6)."""

_LONGEST_TITLE = 300
_LONGEST_SUMMARY = 2_000
_LONGEST_TERM = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """An alert as it stands, when it was last told of by the service's clock, and how it ended.

    ``page``, ``document`` and ``message`` are paths: of its page, of itself and of its CAP message.
    """

    alert: Alert
    told_at: datetime
    page: str
    document: str
    message: str


def write(
    entries: Sequence[Entry], origin: str, *, path: str, this: str, following: str | None
) -> bytes:
    """One page of the feed; the same bytes while nothing has changed.

    Args:
        entries: the last told first.
        origin: as for ``payloads.write``; without one every link is relative to the feed's own.
        path: of the feed, the same for every page: its id comes from it.
        this: path and query of this page.
        following: path and query of the next page; None on the last.
    """
    updated = max((e.told_at for e in entries), default=_NEVER)
    return markup.document(
        element(
            "feed",
            text("id", urn(f"{origin}{path}")),
            text("title", "Forewarn: alerts"),
            text("subtitle", "Alerts about supply chains, open or ended lately."),
            text("updated", instant(updated) or ""),
            element("author", text("name", f"Forewarn, {cap.sender(origin)}")),
            text("generator", "Forewarn"),
            _link("self", CONTENT_TYPE, _address(origin, this)),
            None if following is None else _link("next", CONTENT_TYPE, _address(origin, following)),
            *(_entry(one, origin) for one in entries),
            xmlns=NAMESPACE,
        )
    )


def urn(address: str) -> str:
    """An id that stays: the UUID of an address, version 5 (RFC 9562, 5.5)."""
    digest = hashlib.sha1(_NAMESPACE_URL + address.encode(), usedforsecurity=False).digest()
    number = bytearray(digest[:16])
    number[6] = number[6] & 0x0F | 0x50
    number[8] = number[8] & 0x3F | 0x80
    found = number.hex()
    parts = found[:8], found[8:12], found[12:16], found[16:20], found[20:]
    return f"urn:uuid:{'-'.join(parts)}"


def _entry(one: Entry, origin: str) -> Element:
    alert = one.alert
    if alert.tlp is Tlp.red:
        title, summary = "TLP:RED item", "Its content is for named recipients."
    else:
        drill = "EXERCISE: " if alert.scope.exercise else ""
        title, summary = f"{drill}{alert.title}", alert.why
    return element(
        "entry",
        text("id", urn(f"{origin}{one.document}")),
        text("title", line(title, _LONGEST_TITLE) or alert.ref),
        text("updated", instant(one.told_at) or ""),
        text("published", instant(alert.recorded_at) or ""),
        *_categories(alert, origin),
        _link("alternate", "text/html", _address(origin, one.page)),
        _link("alternate", cap.CONTENT_TYPE, _address(origin, one.message)),
        _link("related", "application/json", _address(origin, one.document)),
        Element("summary", line(summary, _LONGEST_SUMMARY), {"type": "text"}),
    )


def _categories(alert: Alert, origin: str) -> list[Element]:
    told = [("tlp", f"TLP:{alert.tlp.value}")]
    if alert.tlp is not Tlp.red:
        told += [
            ("sector", alert.scope.sector),
            ("level", alert.level.name),
            ("severity", alert.severity.name),
            ("state", alert.state.value),
            *([("exercise", alert.scope.exercise)] if alert.scope.exercise else []),
        ]
    return [
        Element(
            "category",
            "",
            {
                "term": line(term, _LONGEST_TERM),
                "scheme": f"{origin}/v1/alerts#{scheme}",
                "label": spoken(line(term, _LONGEST_TERM)),
            },
        )
        for scheme, term in told
    ]


def _address(origin: str, path: str) -> str:
    """Of a path and query that are written as addresses are already."""
    return f"{origin}{path}" if origin else path


def _link(relation: str, kind: str, address: str) -> Element:
    return Element("link", "", {"rel": relation, "type": kind, "href": address})
