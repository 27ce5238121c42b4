"""What comes in: one checked signal, and what became of it."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import NamedTuple

from alerts.signals import PartnerId, SeriesKey


class Arrival(NamedTuple):
    """One checked signal of a request; a value of None takes the observation back.

    ``revision`` is given when the reporter numbers revisions itself. ``detail`` is JSON text of
    what else was said. An event's value is its severity.
    """

    partner: PartnerId
    key: SeriesKey
    observed_at: datetime
    value: float | None
    revision: int | None = None
    detail: str | None = None
    is_event: bool = False


class Status(enum.StrEnum):
    """What became of an item."""

    accepted = "accepted"
    duplicate = "duplicate"
    revised = "revised"
    late = "late"
    conflict = "conflict"
    unknown = "unknown"
