"""What partners report: observations and events, as values in time order."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, NewType

PartnerId = NewType("PartnerId", int)
SeriesId = NewType("SeriesId", int)


class Severity(enum.IntEnum):
    """How bad, in the words of CAP 1.2; ``none`` is the absence of a finding."""

    none = 0
    minor = 1
    moderate = 2
    severe = 3
    extreme = 4


class Origin(enum.StrEnum):
    """The kind of source a signal comes from, which decides what it may do alone."""

    official_statistics = "official_statistics"
    government = "government"
    company = "company"
    association = "association"
    sensor = "sensor"
    market = "market"
    press = "press"
    assessment = "assessment"


class SeriesKey(NamedTuple):
    """The natural key of a series; an empty string means "not limited to one".

    ``indicator`` is an indicator's code, or an event's: the catalogue keeps the two apart.
    """

    sector: str
    indicator: str
    good: str = ""
    place: str = ""
    exercise: str = ""


class Sample(NamedTuple):
    """One value of a series at one instant, in the indicator's unit."""

    at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class Voice:
    """What one partner says of one observation, and how far it is to be believed.

    ``name`` is the partner's; ``reliability`` an Admiralty grade such as "B2", or empty.
    """

    partner: PartnerId
    name: str
    party: str
    value: float
    origin: Origin
    received_at: datetime
    origin_ref: str = ""
    reliability: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """An event as one partner reported it.

    ``at`` is when it was observed; ``announced_at`` and ``effective_at`` may differ from it and
    from each other: an export control announced in July can bite in August.
    """

    at: datetime
    severity: Severity
    partner: PartnerId
    party: str = ""
    origin: Origin = Origin.assessment
    origin_ref: str = ""
    announced_at: datetime | None = None
    effective_at: datetime | None = None
    note: str = ""
