"""Mechanisms: agreements between parties to warn each other, each one versioned profile.

The YAML files beside this module are the profiles that ship. Everything an agreement decides
stands there as data: a new agreement needs no code. Levels and clocks that only people can move
are carried, shown and checked here even where no engine acts on them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import Literal, NamedTuple

from alerts.rules import Family, Provenance, Rule
from alerts.signals import SeriesKey, Severity


class Level(enum.IntEnum):
    """The joint level of a mechanism, sector and good; higher is worse."""

    monitoring = 0
    early_warning = 1
    disruption = 2
    crisis = 3


class Tlp(enum.StrEnum):
    """Traffic Light Protocol 2.0 labels, widest last."""

    red = "RED"
    amber_strict = "AMBER+STRICT"
    amber = "AMBER"
    green = "GREEN"
    clear = "CLEAR"


class SetBy(enum.StrEnum):
    """Who brings a level into force."""

    engine = "engine"
    any_party = "any_party"
    no_objection = "no_objection"
    majority = "majority"
    all_parties = "all_parties"
    outside_body = "outside_body"


class Unit(enum.StrEnum):
    """Units of a span; business days are counted in the calendar of the party that must act."""

    seconds = "seconds"
    hours = "hours"
    days = "days"
    business_days = "business_days"
    months = "months"
    years = "years"


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time as an agreement words it."""

    amount: float
    unit: Unit
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Party:
    """A signatory, by its ISO 3166 or exceptionally reserved code."""

    code: str
    title: str


@dataclass(frozen=True, slots=True)
class Body:
    """An organ of the agreement, such as a council or a network of contact points."""

    id: str
    title: str
    role: str
    source: Provenance


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition of a level, in the agreement's words; all of them must be met."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class LevelPolicy:
    """What a level means in this mechanism, who sets it, and how long it may last.

    ``title`` is the mechanism's own word for it. When ``lasts_at_most`` has passed without an
    extension, the level becomes ``falls_to``.
    """

    level: Level
    title: str
    meaning: str
    set_by: tuple[SetBy, ...]
    source: Provenance
    requires: tuple[Requirement, ...] = ()
    objection_window: Span | None = None
    lasts_at_most: Span | None = None
    falls_to: Level | None = None
    report_every: Span | None = None


@dataclass(frozen=True, slots=True)
class ClockPolicy:
    """A deadline: what must happen, how long after what, and what a miss causes.

    ``within`` is none where the agreement gives no length; ``wording`` then says what it asks.
    Empty ``levels`` mean that the level does not matter. ``reminders`` say how long before the
    due instant somebody is reminded.
    """

    id: str
    title: str
    runs_from: str
    on_miss: str
    source: Provenance
    within: Span | None = None
    wording: str = ""
    repeats: bool = False
    levels: tuple[Level, ...] = ()
    reminders: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsultationPolicy:
    """What a request must say, what is talked about, what may come out."""

    request_items: tuple[str, ...]
    agenda: tuple[str, ...]
    outcomes: tuple[str, ...]
    source: Provenance


@dataclass(frozen=True, slots=True)
class Gate:
    """Questions that people answer with yes, no or unknown before a step; each answer is kept."""

    id: str
    title: str
    asked_before: str
    questions: tuple[str, ...]
    source: Provenance


@dataclass(frozen=True, slots=True)
class RecordPolicy:
    """Something the parties tell each other besides alerts, and what each record must say."""

    id: str
    title: str
    fields: tuple[str, ...]
    source: Provenance
    wording: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """How goods come onto the joint list: by how many parties, and what they should weigh."""

    source: Provenance
    common_when_listed_by: int | None = None
    factors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyGood:
    """A good's structure: concentration (HHI, 0 to 1) and the largest single supplier's share."""

    good: str
    source: Provenance
    hhi: float | None = None
    top_share: float | None = None
    listed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FamiliesTogether:
    """Recommends when ``count`` families fire at ``at_least``, one of them among ``one_of``."""

    kind: Literal["families_together"]
    level: Level
    at_least: Severity
    count: int
    one_of: tuple[Family, ...]
    source: Provenance


@dataclass(frozen=True, slots=True)
class EventOnConcentratedGood:
    """Recommends when an event of ``at_least`` hits a good above either concentration."""

    kind: Literal["event_on_concentrated_good"]
    level: Level
    at_least: Severity
    hhi_above: float
    top_share_above: float
    source: Provenance


@dataclass(frozen=True, slots=True)
class OpenWithoutEasing:
    """Recommends when an alert has been open ``days`` without any fall in severity."""

    kind: Literal["open_without_easing"]
    level: Level
    days: float
    source: Provenance


@dataclass(frozen=True, slots=True)
class PartyStatement:
    """Recommends when one party has stated every one of ``requirements`` to be met.

    ``requirements`` are ids out of any level's ``requires``. With ``while_level`` the alert must be
    at that level already.
    """

    kind: Literal["party_statement"]
    level: Level
    requirements: tuple[str, ...]
    source: Provenance
    while_level: Level | None = None


Recommendation = FamiliesTogether | EventOnConcentratedGood | OpenWithoutEasing | PartyStatement


@dataclass(frozen=True, slots=True)
class Closing:
    """When an early warning closes by itself: all findings ok ``hold_days``, each on
    ``fresh_observations`` observations, and no party objecting within ``objection_window``.
    """

    hold_days: float
    fresh_observations: int
    source: Provenance
    objection_window: Span | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a number comes from."""

    title: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class SeriesBreak:
    """A day from which on an indicator means something else: a definition or a coverage changed.

    What was observed before is no baseline for what is observed from then on, and no alarm is
    raised by the difference. Empty ``good`` and ``place`` mean any.
    """

    sector: str
    indicator: str
    at: date
    reason: str
    good: str = ""
    place: str = ""
    source: Provenance = ()

    def concerns(self, key: SeriesKey) -> bool:
        """Whether a series is broken by it."""
        return (
            (self.sector, self.indicator) == (key.sector, key.indicator)
            and self.good in {"", key.good}
            and self.place in {"", key.place}
        )


@dataclass(frozen=True, slots=True)
class Overflow:
    """How many alerts may be open at once before more are folded into one summary alert.

    Nothing is lost: every alert is kept, shown and told in the summary; only the single messages
    about those beyond the limit are not sent.
    """

    open_alerts: int
    source: Provenance = ()


@dataclass(frozen=True, slots=True)
class Lateness:
    """How far behind its series' newest observation a late or corrected value is still judged.

    What comes later still is stored, shown and compared with from then on, but moves nothing.
    """

    days: float
    source: Provenance = ()


class Dimension(enum.StrEnum):
    """What tells two alerts of one mechanism and sector apart."""

    good = "good"
    place = "place"


@dataclass(frozen=True, slots=True)
class Profile:
    """One version of one mechanism, whole.

    ``reference_prefix`` begins the references of its alerts; ``valid_from`` and ``valid_until``
    are the first and the last day on which it may issue any.
    """

    id: str
    version: int
    title: str
    summary: str
    reference_prefix: str
    valid_from: date
    valid_until: date
    parties: tuple[Party, ...]
    sectors: tuple[str, ...]
    default_tlp: Tlp
    alert_per: tuple[Dimension, ...]
    levels: tuple[LevelPolicy, ...]
    closing: Closing
    rules: tuple[Rule, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)
    clocks: tuple[ClockPolicy, ...] = ()
    consultation: ConsultationPolicy | None = None
    recommendations: tuple[Recommendation, ...] = ()
    key_goods: tuple[KeyGood, ...] = ()
    listing: Listing | None = None
    bodies: tuple[Body, ...] = ()
    gates: tuple[Gate, ...] = ()
    records: tuple[RecordPolicy, ...] = ()
    series_breaks: tuple[SeriesBreak, ...] = ()
    overflow: Overflow | None = None
    allowed_lateness: Lateness | None = None
    validity_source: Provenance = ()

    def in_force(self, day: date) -> bool:
        """Whether alerts may be issued on that day; both ends count."""
        return self.valid_from <= day <= self.valid_until

    def scope_of(self, key: SeriesKey) -> Scope:
        """The scope whose alert a series feeds under this mechanism."""
        return _scope(self.id, self.alert_per, key)

    def breaks_of(self, key: SeriesKey) -> list[datetime]:
        """The instants at which a series began to mean something else; midnight UTC of the days."""
        return [datetime.combine(b.at, time(), UTC) for b in self.series_breaks if b.concerns(key)]

    def level(self, level: Level) -> LevelPolicy | None:
        """What the mechanism says of a level, where it knows it."""
        return next((p for p in self.levels if p.level is level), None)

    def key_good(self, good: str) -> KeyGood | None:
        """The structure of a good, where the profile knows it."""
        return next((k for k in self.key_goods if k.good == good), None)


class Scope(NamedTuple):
    """What one alert is about; at most one alert is open for each.

    A tuple, for it is hashed a dozen times a signal.
    """

    mechanism: str
    sector: str
    good: str = ""
    place: str = ""
    exercise: str = ""


@lru_cache(maxsize=100_000)
def _scope(mechanism: str, alert_per: tuple[Dimension, ...], key: SeriesKey) -> Scope:
    """Asked several times of every signal, and always the same of one series."""
    return Scope(
        mechanism=mechanism,
        sector=key.sector,
        good=key.good if Dimension.good in alert_per else "",
        place=key.place if Dimension.place in alert_per else "",
        exercise=key.exercise,
    )
