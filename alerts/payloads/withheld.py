"""What is said of a TLP:RED item, in every format: that there is one, and where to read it.

TLP 2.0: RED is for the eyes and ears of individual recipients only. An endpoint is not one, and
what it is sent is kept in logs, queues and chats that nobody counted when the label was given.
Source: FIRST, Traffic Light Protocol 2.0 (2022), https://www.first.org/tlp/.
"""

from __future__ import annotations

import json
from dataclasses import replace

from alerts.mechanisms import Tlp
from alerts.payloads.messages import Message

_MARK = f'"tlp":"{Tlp.red.value}"'
_ALERT = ("ref", "tlp", "exercise", "links")
_TRANSITION = ("id", "number", "type", "recorded_at")


def withhold(message: Message) -> Message:
    """The message as it may be sent: unchanged, unless it tells of an alert that is TLP:RED."""
    said = sendable(message.data)
    return message if said is message.data else replace(message, data=said)


def sendable(text: str) -> str:
    """The data of an event, as JSON, as it may leave to a machine; the very text when all of it may.

    Only what holds the mark is parsed. Rendered data has no space after a colon, and within a
    text a quotation mark is escaped, so no text can hold the mark and no RED alert lack it.
    """
    if _MARK not in text:
        return text
    data = json.loads(text)
    alert, transition = data.get("alert"), data.get("transition")
    if not isinstance(alert, dict) or not isinstance(transition, dict):
        return text
    if alert.get("tlp") != Tlp.red.value:
        return text
    kept: dict[str, object] = {name: transition[name] for name in _TRANSITION if name in transition}
    if (transition.get("explanation") or {}).get("taken_back"):
        kept["explanation"] = {"taken_back": True}  # Who heard of it must hear that it is void.
    said = {
        "alert": {name: alert[name] for name in _ALERT if name in alert},
        "transition": kept,
        "references": data.get("references", []),
    }
    return json.dumps(said, separators=(",", ":"))
