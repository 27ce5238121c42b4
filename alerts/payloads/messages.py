"""What is to be written and what was written: one event owed to one subscription, and its bytes."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

VERIFY = "webhook.verify"
TEST = "webhook.test"

LONGEST_BODY = 20_000
"""Bytes of a body that can be shortened: what receivers take without trouble (Standard Webhooks)."""


class Format(enum.StrEnum):
    """How the body of a webhook is written; the names are a promise to subscribers."""

    json = "json"
    cloudevents = "cloudevents"
    cloudevents_binary = "cloudevents_binary"
    cap = "cap"
    text = "text"
    chat = "chat"


VERSIONS: Mapping[Format, tuple[int, ...]] = MappingProxyType(dict.fromkeys(Format, (1,)))
"""The versions of each format that are written, oldest first."""


@dataclass(frozen=True, slots=True)
class Message:
    """One event owed to one subscription.

    ``id`` is its ``webhook-id``; ``created_at`` when it became owed; ``data`` JSON text as
    ``documents.render`` gives it. ``earlier`` are the transitions of the same alert before this
    one, with when each was recorded, oldest first; only ``cap`` reads them.
    """

    id: str
    subscription: str
    type: str
    created_at: datetime
    sequence: int
    data: str
    earlier: tuple[tuple[str, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What is signed (the body) and sent. ``headers`` are those beside the content type."""

    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def parts(message: Message) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The alert and the transition that a message tells of; both empty when it tells of none."""
    data = json.loads(message.data)
    alert, transition = data.get("alert"), data.get("transition")
    if isinstance(alert, dict) and isinstance(transition, dict):
        return alert, transition
    return {}, {}


def is_cancel(message: Message, transition: Mapping[str, Any]) -> bool:
    """Whether a message takes back what was told: in hindsight nothing of it ever held."""
    explained = transition.get("explanation") or {}
    return message.type == "alert.withdrawn" or bool(explained.get("taken_back"))


def is_end(message: Message) -> bool:
    """Whether a message says that an alert is over, whether or not it ever held."""
    return message.type in {"alert.resolved", "alert.withdrawn"}
