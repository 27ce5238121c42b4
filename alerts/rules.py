"""Rules: standing questions asked of a series. Pure data; detectors answer them.

Every number of a rule stands in a mechanism's profile with its source. ``source`` fields name
entries of the profile's ``sources`` or say ``our_design``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from alerts.signals import Origin, SeriesKey, Severity

Provenance = tuple[str, ...]
"""Where numbers come from: keys of a profile's ``sources``, or ``our_design``; empty where an
enclosing part of the profile says it."""


class Direction(enum.StrEnum):
    """Which way a value must move to breach a band."""

    up = "up"
    down = "down"

    @property
    def sign(self) -> int:
        """+1 for up, -1 for down: ``sign * value`` always grows with harm."""
        return 1 if self is Direction.up else -1


class Family(enum.StrEnum):
    """What a rule looks at; two families firing together say more than two rules of one."""

    availability = "availability"
    quantity = "quantity"
    price = "price"
    pressure = "pressure"
    event = "event"


class Effect(enum.StrEnum):
    """What a firing finding may do: open an early warning, or only tell those who follow one."""

    early_warning = "early_warning"
    follow_up = "follow_up"


@dataclass(frozen=True, slots=True)
class Band:
    """A severity is raised at ``raise_at`` and cleared at ``clear_at``, on the safe side of it.

    A value equal to either counts as having reached it (hysteresis, MECHANISMS: static bands).
    """

    severity: Severity
    raise_at: float
    clear_at: float


@dataclass(frozen=True, slots=True)
class Bands:
    """Compares the value itself with bands, in the indicator's unit."""

    kind: Literal["bands"]
    direction: Direction
    bands: tuple[Band, ...]
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class MedianOfWindow:
    """Baseline: the median of the observations in the ``days`` before, the tested one left out.

    ``guard_days`` keeps the newest days out too, so that a slow fall does not become its own
    normal. Fewer than ``min_observations`` make the reading undefined.
    """

    kind: Literal["median_of_window"]
    days: float
    min_observations: int
    guard_days: float = 0
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class SameMonthLastYear:
    """Baseline: the observation of the same calendar month one year before.

    While frozen it goes back year by year to the last such month that ended before the onset.
    """

    kind: Literal["same_month_last_year"]
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class PercentChange:
    """Compares ``(value - baseline) / |baseline|`` with bands given as fractions.

    ``mean_of`` first replaces the value by the mean of that many newest observations.
    """

    kind: Literal["percent_change"]
    direction: Direction
    baseline: MedianOfWindow | SameMonthLastYear
    bands: tuple[Band, ...]
    mean_of: int = 1
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Corroboration:
    """Who must say it before it counts: ``parties`` distinct reporters within ``within_days``.

    One official origin is enough alone. Reports that name the same ``origin_ref`` are one.
    """

    parties: int
    within_days: float
    official_origins: tuple[Origin, ...] = ()
    source: Provenance = ()


class Ending(enum.StrEnum):
    """What ends an event's finding: people, or the measurements that fired beside it recovering."""

    by_people = "by_people"
    with_measurements = "with_measurements"


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """Fires on a reported event of at least ``min_severity``, corroborated."""

    kind: Literal["event"]
    min_severity: Severity
    corroboration: Corroboration
    ending: Ending = Ending.by_people
    source: Provenance = ()


Detector = Bands | PercentChange | EventTrigger


@dataclass(frozen=True, slots=True)
class Freshness:
    """After how many days without an observation a finding is stale, then without data."""

    stale_after_days: float
    no_data_after_days: float
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One standing question. Empty ``goods`` and ``places`` mean any.

    ``raise_after`` and ``clear_after`` count consecutive observations; severity rises at once and
    falls one band after every ``clear_after`` observations past the band's clear.
    """

    id: str
    title: str
    version: int
    family: Family
    sectors: tuple[str, ...]
    indicators: tuple[str, ...]
    detector: Detector
    goods: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    raise_after: int = 1
    clear_after: int = 2
    freshness: Freshness | None = None
    effect: Effect = Effect.early_warning
    source: Provenance = ()

    def asks(self, key: SeriesKey) -> bool:
        """Whether this rule is asked of that series."""
        return (
            key.sector in self.sectors
            and key.indicator in self.indicators
            and (not self.goods or key.good in self.goods)
            and (not self.places or key.place in self.places)
        )

    @property
    def is_event(self) -> bool:
        """Whether the rule waits for an event rather than reading a measurement."""
        return self.detector.kind == "event"
