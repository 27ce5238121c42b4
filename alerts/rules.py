"""Rules: standing questions asked of a series. Pure data; detectors answer them.

Every number of a rule stands in a mechanism's profile with its source. ``source`` fields name
entries of the profile's ``sources`` or say ``our_design``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
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
    """What a firing finding may do: open an early warning, only tell those who follow one, or
    nothing but count towards a combination.
    """

    early_warning = "early_warning"
    follow_up = "follow_up"
    component = "component"


class CarryOver(enum.StrEnum):
    """What a new version of a rule does with the findings of the version before."""

    keep = "keep"
    fresh = "fresh"


class Combine(enum.StrEnum):
    """Which value several partners' reports of one observation make."""

    median = "median"
    mean = "mean"
    latest = "latest"
    lowest = "lowest"
    highest = "highest"
    sum = "sum"
    weighted_median = "weighted_median"


@dataclass(frozen=True, slots=True)
class Trust:
    """How far a rule believes those who report one observation.

    ``combine`` makes one value of several; ``weights`` (by party, or by the partner's name; 1
    where not named) matter to a weighted median. ``parties`` distinct parties must report an
    observation before it may raise, and reports less reliable than ``least_reliability`` (the
    Admiralty's grades such as "B2": source A to F, information 1 to 6; empty: all) are not heard.
    One report of an official origin is enough alone. What is too little to raise still keeps a
    finding from clearing.
    """

    combine: Combine = Combine.median
    parties: int = 1
    least_reliability: str = ""
    official_origins: tuple[Origin, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    source: Provenance = ()


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


class Statistic(enum.StrEnum):
    """What stands for the middle of the observations compared with."""

    median = "median"
    mean = "mean"


@dataclass(frozen=True, slots=True)
class LastObservations:
    """Baseline: the last ``observations`` before the tested one, however far apart they lie.

    The newest ``guard`` of them are left out. Counting observations instead of days keeps a
    baseline across gaps. Fewer than ``min_observations`` make the reading undefined.
    """

    kind: Literal["last_observations"]
    observations: int
    min_observations: int
    guard: int = 0
    statistic: Statistic = Statistic.median
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class SamePeriod:
    """Baseline: the same time of the year in the ``years`` before, give or take ``width_days``.

    ``width_days`` is what makes it robust to feasts that move with the moon: the Chinese New Year
    wanders over 30 days. It needs ``min_observations`` from at least ``min_years`` of the years.
    """

    kind: Literal["same_period"]
    years: int
    width_days: float
    min_years: int
    min_observations: int
    statistic: Statistic = Statistic.median
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Previous:
    """Baseline: the observation ``back`` observations before the tested one."""

    kind: Literal["previous"]
    back: int
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Target:
    """Baseline: a known mean, and a known standard deviation where one is compared with."""

    kind: Literal["target"]
    mean: float
    spread: float | None = None
    source: Provenance = ()


Baseline = MedianOfWindow | LastObservations | SamePeriod | SameMonthLastYear | Previous | Target


class Transform(enum.StrEnum):
    """What is done to values before they are compared.

    ``log`` for volumes and prices, which move by fractions; ``square_root`` is Anscombe's
    2 sqrt(x + 3/8) for small counts, whose spread grows with them; ``identity`` for indices.
    """

    identity = "identity"
    log = "log"
    square_root = "square_root"


@dataclass(frozen=True, slots=True)
class PercentChange:
    """Compares ``(value - baseline) / |baseline|`` with bands given as fractions.

    ``mean_of`` first replaces the value by the mean of that many newest observations.
    """

    kind: Literal["percent_change"]
    direction: Direction
    baseline: Baseline
    bands: tuple[Band, ...]
    mean_of: int = 1
    source: Provenance = ()


class Method(enum.StrEnum):
    """Classic: mean and standard deviation. Robust: median and median absolute deviation."""

    classic = "classic"
    robust = "robust"


@dataclass(frozen=True, slots=True)
class ZScore:
    """Compares how many spreads a value lies from its baseline with bands in those spreads.

    Classic: (x - mean) / sd. Robust: 0.6745 (x - median) / MAD, and where more than half of the
    baseline ties, (x - median) / (1.2533 mean absolute deviation). A spread of zero is undefined
    unless ``min_spread`` is above it. ``mean_of`` and ``transform`` come first.
    """

    kind: Literal["z_score"]
    direction: Direction
    method: Method
    baseline: MedianOfWindow | LastObservations | SamePeriod | Target
    bands: tuple[Band, ...]
    min_spread: float = 0.0
    mean_of: int = 1
    transform: Transform = Transform.identity
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Ewma:
    """Compares an exponentially weighted mean with its control limits, in their own unit L.

    z_t = weight x_t + (1 - weight) z_(t-1), from the baseline's mean on; compared is
    (z_t - mean) / (sd sqrt(weight / (2 - weight) (1 - (1 - weight)^2t))), so limits widen while t
    is small. It runs over the newest ``run`` observations, the tested one included; the baseline
    ends before them.
    """

    kind: Literal["ewma"]
    direction: Direction
    weight: float
    run: int
    baseline: LastObservations | Target
    bands: tuple[Band, ...]
    min_spread: float = 0.0
    transform: Transform = Transform.identity
    source: Provenance = ()


class Reset(enum.StrEnum):
    """When a CUSUM starts from zero again besides at the beginning of its run."""

    never = "never"
    after_alarm = "after_alarm"


@dataclass(frozen=True, slots=True)
class Cusum:
    """Compares a cumulative sum of deviations, in standard deviations, with bands h.

    S_t = max(0, S_(t-1) + (x_t - mean) / sd - slack), mirrored where down is the direction;
    ``two_sided`` takes the larger of both; it is never negative. It sums the newest ``run``
    observations, the tested one included; the baseline ends before them. ``reset`` after_alarm
    starts anew after every sum at or beyond the lowest band.
    """

    kind: Literal["cusum"]
    direction: Direction
    slack: float
    run: int
    baseline: LastObservations | Target
    bands: tuple[Band, ...]
    reset: Reset = Reset.never
    two_sided: bool = False
    min_spread: float = 0.0
    transform: Transform = Transform.identity
    source: Provenance = ()


class EarsMethod(enum.StrEnum):
    """C1 without a guard, C2 with two observations between, C3 the sum of three days of C2."""

    c1 = "C1"
    c2 = "C2"
    c3 = "C3"


@dataclass(frozen=True, slots=True)
class Ears:
    """Compares a count with the mean and deviation of the ``observations`` before (EARS).

    ``min_sigma`` is the least standard deviation; a deviation of zero without it is undefined.
    """

    kind: Literal["ears"]
    direction: Direction
    method: EarsMethod
    bands: tuple[Band, ...]
    observations: int = 7
    min_sigma: float = 0.0
    transform: Transform = Transform.identity
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class RateOfChange:
    """Compares the least-squares slope over the newest ``observations``, per observation.

    ``relative`` divides it by the size of their mean, so that bands are fractions.
    """

    kind: Literal["rate_of_change"]
    direction: Direction
    observations: int
    bands: tuple[Band, ...]
    relative: bool = False
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Counts consecutive moves in the harmful direction, and compares the count with bands.

    A move smaller than ``least_move`` (a fraction of the value before) ends the run, so that
    noise does not count. No more than ``longest`` moves are looked back on.
    """

    kind: Literal["run"]
    direction: Direction
    bands: tuple[Band, ...]
    least_move: float = 0.0
    longest: int = 24
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Site:
    """What stands at a place: how much of the supply, and how easily a hazard stops it, 0 to 1."""

    place: str
    title: str
    exposure: float
    vulnerability: float
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class SiteHazard:
    """Compares hazard x exposure x vulnerability with bands: impact, not size, as GDACS does.

    The value observed is the hazard; exposure and vulnerability come from the ``sites`` register.
    A place that is not in the register is undefined.
    """

    kind: Literal["site_hazard"]
    direction: Direction
    sites: tuple[Site, ...]
    bands: tuple[Band, ...]
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class LevelView:
    """How far the value lies from the median of ``observations`` that end ``guard`` before it."""

    observations: int
    guard: int
    min_observations: int


@dataclass(frozen=True, slots=True)
class ShortView:
    """EARS C1 on the ``observations`` before, sd at least ``min_sigma_share`` of the long MAD.

    The long MAD is that of ``long_observations`` before the tested one.
    """

    observations: int
    min_sigma_share: float
    long_observations: int


@dataclass(frozen=True, slots=True)
class Season:
    """What the same weeks of other years were like: feasts that come every year are no alarm.

    Asked how far the value lies from the longest level, and how far it lay on the worst of the
    observations within ``width`` of ``period``, twice ``period`` and so on before, up to ``years``
    times. The value must be worse than the median of these worst by ``margin`` spreads of that
    level. ``period`` counts the observations of a year; ``width`` is wide enough for feasts that
    wander with the moon.
    """

    period: int
    years: int
    width: int
    margin: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Self-calibrated agreement: unusual for this series, in more than one way.

    The transformed mean of the last ``mean_of`` observations is looked at in several views: how
    far from its ``levels``, how far moved over each number of observations in ``changes``, and
    ``short``. Each view has a threshold of its own: ``least`` or, where that is more, ``ratio``
    times the ``quantile`` of the view's own past, of at most ``memory`` and at least
    ``min_memory`` values ending ``guard`` observations ago; but never more than ``most``, so that
    a crisis that the series has been through does not hide the next one.

    Compared with the bands is the strength of agreement: of the views' ratios to their
    thresholds, the one that ``need`` views reach. At 1 exactly ``need`` views are over. With a
    ``season`` it stays below 1, so that nothing is raised, while the series is no worse than it
    usually is in these weeks; what is on already is held, and where no earlier year is known
    nothing is asked.
    """

    kind: Literal["agreement"]
    direction: Direction
    transform: Transform
    mean_of: int
    levels: tuple[LevelView, ...]
    changes: tuple[int, ...]
    need: int
    quantile: float
    ratio: float
    least: float
    memory: int
    min_memory: int
    guard: int
    floor: float
    bands: tuple[Band, ...]
    most: float | None = None
    short: ShortView | None = None
    season: Season | None = None
    source: Provenance = ()


class Share(enum.StrEnum):
    """How concentrated a supply is: Herfindahl-Hirschman index, or the largest share; 0 to 1."""

    hhi = "hhi"
    largest_share = "largest_share"


@dataclass(frozen=True, slots=True)
class Concentration:
    """Compares how concentrated the shares of a good's suppliers are with bands from 0 to 1.

    Shares are fractions, one series a supplier (a place), of one period. Where they leave part
    of the whole unnamed, bounds are computed: the unnamed part spread thinly, and all of it
    with one supplier. It raises on the lower bound and is undefined where the bounds fall on
    either side of a band. ``times`` of the last ``of`` periods must be beyond.
    """

    kind: Literal["concentration"]
    direction: Direction
    measure: Share
    bands: tuple[Band, ...]
    times: int = 1
    of: int = 1
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class SurgeGate:
    """One condition of a surge: an indicator, or its change over a span, beyond ``at``.

    With ``change_over`` the mean of the newest so many observations is compared with the mean of
    as many before them, as a fraction; without, the newest value is compared as it is.
    """

    title: str
    indicator: str
    direction: Direction
    at: float
    change_over: int | None = None
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Surge:
    """Fires when every gate is passed, as EU import monitors do: materiality, volume and price.

    What is compared with ``bands`` is how many gates are passed. With ``fresh_days`` a gate whose
    indicator was not observed in the last so many days cannot be judged.
    """

    kind: Literal["surge"]
    direction: Direction
    gates: tuple[SurgeGate, ...]
    bands: tuple[Band, ...]
    fresh_days: float | None = None
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Member:
    """One series of a composite index, or all of its indicator, and how much it weighs."""

    indicator: str
    direction: Direction
    weight: float = 1.0
    good: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Composite:
    """A sector's index: the weighted mean of its members' robust z-scores, in spreads.

    A member counts while it was observed in the last ``fresh_days``. Below a ``coverage`` of the
    weights it is undefined. It is shown and never raises an alert alone.
    """

    kind: Literal["composite"]
    direction: Direction
    members: tuple[Member, ...]
    baseline: LastObservations
    fresh_days: float
    coverage: float
    bands: tuple[Band, ...]
    source: Provenance = ()


class Count(enum.StrEnum):
    """What a combination counts: the rules that fire, or the families they belong to."""

    rules = "rules"
    families = "families"


@dataclass(frozen=True, slots=True)
class Combination:
    """Counts which of other ``rules`` of the profile fire on one subject, and compares with bands.

    ``at_least`` is the severity from which a finding counts. All of them: raise at their number;
    any: raise at 1.
    """

    kind: Literal["combination"]
    direction: Direction
    rules: tuple[str, ...]
    bands: tuple[Band, ...]
    count: Count = Count.rules
    at_least: Severity = Severity.minor
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


Measured = (
    Bands
    | PercentChange
    | ZScore
    | Ewma
    | Cusum
    | Ears
    | RateOfChange
    | Run
    | SiteHazard
    | Agreement
)
"""Detectors that read the observations of one series."""

Joint = Concentration | Surge | Composite | Combination
"""Detectors that read several series, or other findings, of one subject."""

Detector = Measured | Joint | EventTrigger


def towards(detector: Measured | Joint) -> Direction:
    """Which way what is compared with the bands grows with harm.

    The detector's own direction, but for a cumulative sum, a count of moves and a strength of
    agreement: they grow with harm whichever way the value goes, and so do their bands.
    """
    return Direction.up if isinstance(detector, Cusum | Run | Agreement) else detector.direction


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
    falls one band after every ``clear_after`` observations past the band's clear. A ``shadow``
    rule judges and records, and moves no alert. From ``effective_from`` on observations are
    judged by it; with ``young_until`` only while the series has fewer observations before, for a
    rule that speaks where better ones have too little history. ``carry_over`` says what becomes of
    the findings of the version before.
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
    shadow: bool = False
    effective_from: date | None = None
    young_until: int | None = None
    carry_over: CarryOver = CarryOver.keep
    trust: Trust | None = None
    source: Provenance = ()

    def asks(self, key: SeriesKey) -> bool:
        """Whether this rule is asked of that series."""
        return (
            key.sector in self.sectors
            and key.indicator in self.indicators
            and (not self.goods or key.good in self.goods)
            and (not self.places or key.place in self.places)
        )

    def judges(self, at: datetime) -> bool:
        """Whether what was observed at that instant is judged by this rule."""
        return self.effective_from is None or at.date() >= self.effective_from

    @property
    def is_event(self) -> bool:
        """Whether the rule waits for an event rather than reading a measurement."""
        return self.detector.kind == "event"

    @property
    def is_joint(self) -> bool:
        """Whether the rule reads several series, or other findings, of one subject."""
        return isinstance(self.detector, Joint)
