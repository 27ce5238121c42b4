"""Format ``cap``: the event as a message of the Common Alerting Protocol 1.2 (OASIS; ITU X.1303).

A message is named after its transition and not after its delivery: whichever subscription it goes
to, however often it is tried, and where it is read over HTTP, it is the same message. Numbers in
brackets below are of the standard, http://docs.oasis-open.org/emergency/cap/v1.2/.

The mapping of levels is our design (docs/formats.md); the severities are CAP's own words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from alerts.mechanisms import Level, Tlp
from alerts.payloads import markup, telling
from alerts.payloads.documents import MOST_REFERENCES
from alerts.payloads.markup import Element, element, text
from alerts.payloads.messages import (
    LONGEST_BODY,
    TEST,
    Message,
    Written,
    is_cancel,
    is_end,
    parts,
)
from alerts.payloads.words import line, link_of, spoken

CONTENT_TYPE = "application/cap+xml"
NAMESPACE = "urn:oasis:names:tc:emergency:cap:1.2"

_LONGEST_HEADLINE = 160
"""Of a headline as short devices show it (3.2.2, headline)."""
_LONGEST_VALUE = 200

# What an identifier and a sender must not hold (3.2.1); and the slash of a transition's name, as
# collectors keep a message in a file of its identifier.
_UNSAFE_IN_NAME = re.compile(r"[^\x21-\x7e]|[,<&/]")

_RESTRICTIONS = {
    Tlp.green.value: "TLP:GREEN: for the community of the mechanism, not for public channels.",
    Tlp.amber.value: "TLP:AMBER: for those who need to know in your organisation and its clients.",
    Tlp.amber_strict.value: "TLP:AMBER+STRICT: for those who need to know in your organisation only.",
}

_CATEGORIES = {"shipping": "Transport", "pharmaceuticals": "Health", "medical_devices": "Health"}
"""By sector; every other one is infrastructure that others stand on."""

_EVENTS = {
    Level.monitoring: "Supply-chain watch",
    Level.early_warning: "Supply-chain early warning",
    Level.disruption: "Supply-chain disruption",
    Level.crisis: "Supply-chain crisis",
}
_RESPONSES = {
    Level.monitoring: "Monitor",
    Level.early_warning: "Monitor",
    Level.disruption: "Prepare",
    Level.crisis: "Execute",
}
_INSTRUCTIONS = {
    Level.monitoring: "Nothing is asked of you.",
    Level.early_warning: "Watch this supply and read the reasons before you act on it.",
    Level.disruption: "Look to your stocks and other sources; the market can still manage.",
    Level.crisis: "Follow what the parties of the mechanism have agreed.",
}
_SEVERITIES = {
    "none": "Minor",  # Minimal to no known threat (3.2.2): what an end says.
    "minor": "Minor",
    "moderate": "Moderate",
    "severe": "Severe",
    "extreme": "Extreme",
}

# Room for a description in characters, and how many references, tried until the message is short.
_SIZES = ((8_000, MOST_REFERENCES), (4_000, MOST_REFERENCES), (2_000, 20), (1_000, 8), (300, 2))


class _Judged(NamedTuple):
    """How soon, how bad and how sure, in CAP's words."""

    urgency: str
    severity: str
    certainty: str


def write(message: Message, origin: str) -> Written:
    """The message as CAP; a long description is cut, and says where the whole is."""
    body = b""
    for room, references in _SIZES:
        body = markup.document(_alert(message, origin, room, references))
        if len(body) <= LONGEST_BODY:
            break
    return Written(CONTENT_TYPE, body=body)


def identifier(transition_id: str) -> str:
    """The name of a transition as CAP allows it: ``TTC-SEMI-2026-0007.2``."""
    return _UNSAFE_IN_NAME.sub(
        lambda found: "." if found[0] == "/" else "-", transition_id[:_LONGEST_VALUE]
    )


def sender(origin: str) -> str:
    """Who sends: the deployment's host (and path), unique on the Internet; or our name (3.2.1)."""
    place = origin.partition("://")[2]
    return re.sub(r"[^\x21-\x7e]|[,<&]", "-", place[:_LONGEST_VALUE]) or "forewarn"


def stamp(at: datetime) -> str:
    """An instant in UTC as CAP writes it: with ``-00:00``, never with a Z (3.3.2)."""
    whole = at.astimezone(UTC).isoformat(timespec="seconds")
    return whole.replace("+00:00", "-00:00")


def _alert(message: Message, origin: str, room: int, references: int) -> Element:
    alert, transition = parts(message)
    if not alert:
        return _of_ourselves(message, origin)
    tlp, exercise = line(alert.get("tlp") or "", 20), line(alert.get("exercise") or "", 100)
    kind = "Cancel" if is_cancel(message, transition) else "Update" if message.earlier else "Alert"
    return element(
        "alert",
        text("identifier", identifier(str(transition.get("id")))),
        text("sender", sender(origin)),
        text("sent", stamp(_recorded(message, transition))),
        text("status", "Exercise" if alert.get("exercise") else "Actual"),
        text("msgType", kind),
        text("source", "Forewarn"),
        *_scope(tlp, message),
        text("code", f"TLP:{tlp}"),
        text("note", f"Exercise {exercise}: this is a drill." if alert.get("exercise") else ""),
        text("references", _references(message, origin, references)),
        text("incidents", identifier(str(alert.get("ref")))),
        _red(message, alert, origin) if tlp == Tlp.red.value else None,
        None if tlp == Tlp.red.value else _info(message, alert, transition, origin, room),
        xmlns=NAMESPACE,
    )


def _scope(tlp: str, message: Message) -> tuple[Element | None, ...]:
    """Public, restricted to some, or private to those named (3.2.1, scope)."""
    if tlp == Tlp.clear.value:
        return (text("scope", "Public"),)
    if tlp in _RESTRICTIONS:
        return text("scope", "Restricted"), text("restriction", _RESTRICTIONS[tlp])
    return text("scope", "Private"), text("addresses", message.subscription or "named-recipients")


def _references(message: Message, origin: str, most: int) -> str:
    """Every earlier message as ``sender,identifier,sent``: the opening and the newest others."""
    kept = [*message.earlier[:1], *message.earlier[1:][-(most - 1) :]]
    return " ".join(f"{sender(origin)},{identifier(name)},{stamp(at)}" for name, at in kept)


def _info(
    message: Message,
    alert: Mapping[str, Any],
    transition: Mapping[str, Any],
    origin: str,
    room: int,
) -> Element:
    ended, cancelled = is_end(message), is_cancel(message, transition)
    level = max(_level(transition.get("from")), _level(transition.get("to")))
    judged = _judged(message, alert, transition, level)
    more = link_of(origin, alert, "page")
    return element(
        "info",
        text("language", "en"),
        text("category", _CATEGORIES.get(str(alert.get("sector")), "Infra")),
        text("event", _EVENTS[level]),
        text("responseType", "AllClear" if ended else _RESPONSES[level]),
        text("urgency", judged.urgency),
        text("severity", judged.severity),
        text("certainty", judged.certainty),
        text("effective", _instant(transition.get("recorded_at"))),
        text("onset", _instant(alert.get("opened_at"))),
        text("senderName", f"Forewarn, {line(alert.get('mechanism'), _LONGEST_VALUE)}"),
        text("headline", _headline(alert, level, ended=ended, cancelled=cancelled)),
        text("description", _description(alert, transition, more, room)),
        text("instruction", _instruction(level, ended=ended, cancelled=cancelled)),
        text("web", more),
        *_parameters(message, alert, transition),
        _resource(alert, origin),
        _area(line(alert.get("place") or "", 100)),
    )


def _judged(
    message: Message, alert: Mapping[str, Any], transition: Mapping[str, Any], level: Level
) -> _Judged:
    """The mapping of docs/formats.md, row by row."""
    word = str(alert.get("severity"))
    severity = _SEVERITIES.get(word, "Unknown")
    grave = word in {"severe", "extreme"}
    if is_cancel(message, transition):
        return _Judged("Past", severity, "Unlikely")
    if is_end(message):
        return _Judged("Past", severity, "Observed")
    if level is Level.crisis:
        return _Judged("Immediate", severity, "Observed")
    if level is Level.disruption:
        return _Judged("Immediate" if grave else "Expected", severity, "Observed")
    certainty = (
        "Observed"
        if _rests_on_an_event(transition)
        else "Likely"
        if alert.get("validated")
        else "Possible"
    )
    return _Judged("Expected" if grave else "Future", severity, certainty)


def _rests_on_an_event(transition: Mapping[str, Any]) -> bool:
    """Whether something that happened was reported, rather than read out of numbers.

    While it fires, what is measured is in a band; only an event has none.
    """
    found = (transition.get("explanation") or {}).get("findings") or ()
    return any(one.get("state") == "firing" and one.get("band", ...) is None for one in found)


def _headline(alert: Mapping[str, Any], level: Level, *, ended: bool, cancelled: bool) -> str:
    drill = "EXERCISE. " if alert.get("exercise") else ""
    severity = line(alert.get("severity"), 20).capitalize()
    news = (
        "Cancelled"
        if cancelled
        else "Over"
        if ended
        else f"{severity} {spoken(level.name)}"
        if severity != "None"
        else spoken(level.name).capitalize()
    )
    return line(f"{drill}{news}: {alert.get('title')}", _LONGEST_HEADLINE)


def _description(
    alert: Mapping[str, Any], transition: Mapping[str, Any], more: str, room: int
) -> str:
    """Why, what changed, and what each finding says, as far as there is room; each told once."""
    recommended = alert.get("recommendation") or {}
    reasons = "; ".join(map(str, recommended.get("reasons", ())))
    found = (transition.get("explanation") or {}).get("findings") or ()
    told = [
        alert.get("why"),
        transition.get("reason"),
        "" if alert.get("validated") else "Raised by the engine; no person has validated it yet.",
        recommended and f"Recommended: {spoken(str(recommended.get('level')))} ({reasons}).",
        *(one.get("sentence") for one in found),
    ]
    lines = list(dict.fromkeys(said for one in told if (said := line(one or "", room))))
    kept: list[str] = []
    for number, said in enumerate(lines):
        if sum(map(len, kept)) + len(said) > room:
            kept.append(f"{len(lines) - number} more; {more or 'ask for the explanation'}")
            break
        kept.append(said)
    return "\n".join(kept)


def _instruction(level: Level, *, ended: bool, cancelled: bool) -> str:
    if cancelled:
        return "Disregard the earlier messages: nothing that they rested on stands."
    return "Nothing more is asked of you." if ended else _INSTRUCTIONS[level]


def _parameters(
    message: Message, alert: Mapping[str, Any], transition: Mapping[str, Any]
) -> tuple[Element, ...]:
    """What CAP has no element for, under our own names (3.2.2, parameter)."""
    told = {
        "type": message.type,
        "level": alert.get("level"),
        "level_from": transition.get("from"),
        "severity_from": transition.get("severity_from"),
        "tlp": alert.get("tlp"),
        "validated": "true" if alert.get("validated") else "false",
        "mechanism": alert.get("mechanism"),
        "sector": alert.get("sector"),
        "good": alert.get("good"),
        "place": alert.get("place"),
        "recommended": (alert.get("recommendation") or {}).get("level"),
        "sequence": message.sequence or None,
    }
    return tuple(
        _pair("parameter", name, line(value, _LONGEST_VALUE))
        for name, value in told.items()
        if value
    )


def _pair(name: str, key: str, value: str) -> Element:
    return element(name, Element("valueName", key), Element("value", value))


def _resource(shown: Mapping[str, Any], origin: str) -> Element | None:
    """Where the reasons are as data; nothing without an origin."""
    address = link_of(origin, shown, "explanation")
    if not address:
        return None
    return element(
        "resource",
        text("resourceDesc", "The reasons as data"),
        text("mimeType", "application/json"),
        text("uri", address),
    )


def _area(place: str) -> Element:
    """The place as far as codes tell it; ``EU`` is reserved in ISO 3166 and names no country."""
    if not place:
        return element("area", text("areaDesc", "Not limited to one place"))
    if place == "EU":
        return element("area", text("areaDesc", "European Union"))
    standard = (
        "ISO 3166-1"
        if re.fullmatch(r"[A-Z]{2}", place)
        else "ISO 3166-2"
        if re.fullmatch(r"[A-Z]{2}-[A-Z0-9]{1,3}", place)
        else "UN/LOCODE"
        if re.fullmatch(r"[A-Z]{2}[A-Z2-9]{3}", place)
        else ""
    )
    return element(
        "area",
        text("areaDesc", f"{spoken(place)} ({standard})" if standard else spoken(place)),
        _pair("geocode", standard, place) if standard else None,
    )


def _red(message: Message, alert: Mapping[str, Any], origin: str) -> Element:
    """That there is one, and where to read it; see ``withheld``."""
    ref = line(alert.get("ref"), _LONGEST_VALUE)
    where = link_of(origin, alert, "page")
    return element(
        "info",
        text("language", "en"),
        text("category", "Other"),
        text("event", "TLP:RED item"),
        text("responseType", "AllClear" if is_end(message) else "Assess"),
        text("urgency", "Unknown"),
        text("severity", "Unknown"),
        text("certainty", "Unknown"),
        text("senderName", "Forewarn"),
        text("headline", line(f"There is a TLP:RED item, {ref}.", _LONGEST_HEADLINE)),
        text("description", "Its content is for named recipients and is not sent."),
        text("instruction", f"Those it is for read it at {where or 'this service'}."),
        text("web", where),
    )


def _of_ourselves(message: Message, origin: str) -> Element:
    """A test, or news of an endpoint: no alert, so it is named after its delivery."""
    test = message.type == TEST
    headline, *more = telling.lines(message, origin)
    return element(
        "alert",
        text("identifier", identifier(message.id)),
        text("sender", sender(origin)),
        text("sent", stamp(message.created_at)),
        text("status", "Test" if test else "System"),
        text("msgType", "Alert"),
        text("source", "Forewarn"),
        text("scope", "Private"),
        text("addresses", message.subscription or "named-recipients"),
        element(
            "info",
            text("language", "en"),
            text("category", "Other"),
            text("event", "Test" if test else "Webhook endpoint"),
            text("responseType", "None" if test else "Assess"),
            text("urgency", "Unknown"),
            text("severity", "Unknown"),
            text("certainty", "Observed"),
            text("senderName", "Forewarn"),
            text("headline", line(headline, _LONGEST_HEADLINE)),
            text("description", "\n".join(more)),
            *(
                _pair("parameter", name, value)
                for name, value in (
                    ("type", line(message.type, _LONGEST_VALUE)),
                    ("sequence", str(message.sequence)),
                )
            ),
        ),
        xmlns=NAMESPACE,
    )


def _recorded(message: Message, transition: Mapping[str, Any]) -> datetime:
    said = transition.get("recorded_at")
    return datetime.fromisoformat(said) if isinstance(said, str) else message.created_at


def _instant(said: object) -> str:
    return stamp(datetime.fromisoformat(said)) if isinstance(said, str) else ""


def _level(name: object) -> Level:
    return Level[name] if isinstance(name, str) and name in Level.__members__ else Level.monitoring
