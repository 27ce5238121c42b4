"""Long random histories for the engine's laws: what is observed, how it arrives, what people do.

A *history* is what happened: one entry for each observation, of many series of two goods and of an
exercise. *Arrivals* are the same entries in any order, cut into transactions. *Steps* are what a
service lives through: arrivals, revisions, sweeps, restarts, people, a mechanism that expires.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from alerts.findings import Finding
from alerts.lifecycle import Advice, Alert
from alerts.mechanisms import (
    EventOnConcentratedGood,
    FamiliesTogether,
    KeyGood,
    Level,
    OpenWithoutEasing,
    Profile,
    Scope,
    SeriesBreak,
    Tlp,
)
from alerts.rules import Band, Direction, Family, Freshness, LastObservations, Method, Rule, ZScore
from alerts.signals import Origin, Report, SeriesKey, Severity
from alerts.tracks import FindingKey, Judgement, Published
from tests.alerts.cast import (
    AURORA,
    CONTROL,
    CONTROL_RULE,
    DORADO,
    EXEMPTION,
    EXEMPTION_RULE,
    LEAD_TIME,
    LEAD_TIME_RULE,
    MINOR,
    MODERATE,
    OUTAGE,
    OUTAGE_RULE,
    PARTIES,
    PRICE,
    PRICE_RULE,
    SEVERE,
    VOLUME,
    VOLUME_RULE,
    Desk,
    Entry,
    at,
    bands,
    change,
    days,
    mechanism,
    median_of,
    rule,
)

EXAMPLES = int(os.environ.get("LAW_EXAMPLES", "0"))
"""How many examples each law tries; 0 leaves each law its own, small number."""


def law(examples: int) -> settings:
    """The settings of a law: the same examples every time, unless more are asked for."""
    return settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


OURS = ("our_design",)
FIRST = at("2022-01-01")
LATE = at("2026-01-01")
DRILL = "drill-1"

INDEX = SeriesKey("semiconductors", "price_index", "neon")
STOCK = SeriesKey("semiconductors", "inventory_days", "neon")
GALLIUM_LEAD = LEAD_TIME._replace(good="gallium")
GALLIUM_CONTROL = CONTROL._replace(good="gallium")
DRILL_LEAD = LEAD_TIME._replace(exercise=DRILL)
DRILL_OUTAGE = OUTAGE._replace(exercise=DRILL)

Z = ZScore(
    "z_score",
    Direction.up,
    Method.robust,
    LastObservations("last_observations", 6, 3),
    (Band(MODERATE, 3, 2),),
    min_spread=1,
)
RULES: tuple[Rule, ...] = (
    replace(LEAD_TIME_RULE, freshness=Freshness(20, 40)),
    PRICE_RULE,
    replace(
        rule(
            "price",
            change((MINOR, 0.3, 0.2), baseline=median_of(40, 2, guard=3), mean_of=3),
            Family.price,
            raise_after=2,
        ),
        id="price-mean",
    ),
    replace(
        rule("price", change((SEVERE, 0.1, 0.05), baseline=median_of(90)), Family.price),
        id="price-in-the-shadow",
        shadow=True,
    ),
    VOLUME_RULE,
    replace(rule("price_index", Z, Family.price), clear_after=1),
    replace(
        rule("inventory_days", bands((MODERATE, 20, 25), (SEVERE, 10, 15), direction="down")),
        effective_from=date(2022, 1, 20),
    ),
    CONTROL_RULE,
    OUTAGE_RULE,
    EXEMPTION_RULE,
)
WATCH = replace(
    mechanism(
        *RULES,
        hold_days=5,
        recommendations=(
            FamiliesTogether(
                "families_together", Level.disruption, MODERATE, 2, tuple(Family), OURS
            ),
            EventOnConcentratedGood(
                "event_on_concentrated_good", Level.crisis, SEVERE, 0.4, 0.65, OURS
            ),
            OpenWithoutEasing("open_without_easing", Level.disruption, 30, OURS),
        ),
        key_goods=(KeyGood("neon", OURS, hhi=0.7),),
    ),
    series_breaks=(
        SeriesBreak("semiconductors", "price_index", date(2022, 2, 1), "a new base year"),
    ),
)

# Values that cross bands often, and go back to normal often enough for alerts to close.
VALUES: dict[str, list[float]] = {
    "lead_time": [12, 12, 12, 12, 13.5, 14, 15, 17, 19, 23],
    "price": [10, 10, 10, 10, 12, 13, 14, 15, 19],
    "price_index": [100, 101, 102, 103, 120, 180],
    "export_volume": [0, 3, 5, 8, 10, 10],
    "inventory_days": [30, 30, 30, 24, 18, 8],
}
ONE_GOOD = [LEAD_TIME, PRICE, INDEX, STOCK, VOLUME, CONTROL, OUTAGE, EXEMPTION]
CASTS = [
    [LEAD_TIME, PRICE],
    [LEAD_TIME, CONTROL],
    [LEAD_TIME, OUTAGE],
    [PRICE, INDEX, STOCK],
    [OUTAGE],
    ONE_GOOD,
    [*ONE_GOOD, GALLIUM_LEAD, GALLIUM_CONTROL, DRILL_LEAD, DRILL_OUTAGE],
]

# Daily figures beside weekly and monthly ones, some a year apart; equal instants are frequent.
INSTANTS = [FIRST + days(n) for n in [*range(30), *range(35, 120, 7), *range(0, 800, 31), 365]]


@st.composite
def entries_of(draw: st.DrawFn, key: SeriesKey) -> Entry:
    """One observation of a series, or one partner's report of an event."""
    observed = draw(st.sampled_from(INSTANTS))
    if key.indicator in VALUES:
        return Entry(key, observed, draw(st.sampled_from(VALUES[key.indicator])))
    partner = draw(st.sampled_from([AURORA, DORADO]))
    told = Report(
        observed,
        draw(st.sampled_from([SEVERE, MODERATE, MINOR])),
        partner,
        PARTIES[partner],
        draw(st.sampled_from([Origin.press, Origin.government])),
        draw(st.sampled_from(["", "wire"])),
        effective_at=observed + days(draw(st.sampled_from([3, 30])))
        if draw(st.booleans())
        else None,
    )
    return Entry(key, observed, report=told)


Place = tuple[SeriesKey, datetime, int]


def place_of(entry: Entry) -> Place:
    """What an entry speaks of: what comes later about the same place is a revision of it."""
    return entry.key, entry.at, entry.report.partner if entry.report else 0


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """The entries as they were observed."""
    return sorted(entries, key=lambda e: (e.at, e.key, place_of(e)[2]))


@st.composite
def histories(draw: st.DrawFn, most: int = 40) -> list[Entry]:
    """What happened, in the order of observation; every place is spoken of once."""
    keys = draw(st.sampled_from(CASTS))
    drawn = st.sampled_from(keys).flatmap(entries_of)
    least = draw(
        st.sampled_from([1, most // 2, most])
    )  # Left alone, hypothesis prefers short ones.
    return in_order(draw(st.lists(drawn, unique_by=place_of, min_size=least, max_size=most)))


T = TypeVar("T")


@st.composite
def cut(draw: st.DrawFn, entries: Sequence[T]) -> list[list[T]]:
    """The entries in their order, cut into transactions."""
    ends = draw(st.lists(st.booleans(), min_size=len(entries), max_size=len(entries)))
    batches: list[list[T]] = [[]]
    for entry, ends_here in zip(entries, ends, strict=True):
        batches[-1].append(entry)
        if ends_here:
            batches.append([])
    return [b for b in batches if b]


@st.composite
def arrivals(draw: st.DrawFn, entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries in any order, cut into transactions."""
    return draw(cut(draw(st.permutations(entries))))


def desk(profile: Profile = WATCH, now: datetime = LATE) -> Desk:
    return Desk([profile], now=now)


def judged(batches: Sequence[Sequence[Entry]], profile: Profile = WATCH) -> Desk:
    """The desk after these transactions."""
    here = desk(profile)
    for batch in batches:
        here.post(*batch)
    return here


@st.composite
def revised(draw: st.DrawFn, history: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """What is said in all, revisions of one place in their order; and what stands in the end.

    Everything said of a place before the last word is a draft; the last word may take it back.
    """
    said: list[Entry] = []
    stands: list[Entry] = []
    for entry in history:
        drafts = draw(st.lists(entries_at(entry), max_size=2))
        last = taken_back(entry) if drafts and draw(st.integers(0, 4)) == 0 else entry
        said += [*drafts, last]
        stands += [entry] if last is entry else []
    return said, stands


def taken_back(entry: Entry) -> Entry:
    """The word that an observation never was."""
    if entry.report is None:
        return replace(entry, value=None)
    return replace(entry, report=replace(entry.report, severity=Severity.none))


@st.composite
def entries_at(draw: st.DrawFn, entry: Entry) -> Entry:
    """Something else said of the place of an entry."""
    other = draw(entries_of(entry.key))
    if other.report is None or entry.report is None:
        return replace(other, at=entry.at)
    report = replace(
        other.report, at=entry.at, partner=entry.report.partner, party=entry.report.party
    )
    return replace(other, at=entry.at, report=report)


@st.composite
def shuffled(draw: st.DrawFn, said: Sequence[Entry]) -> list[list[Entry]]:
    """Everything said in any order, but for what is said of one place; cut into transactions."""
    places = draw(st.permutations([place_of(e) for e in said]))
    waiting: dict[Place, list[Entry]] = {}
    for entry in said:
        waiting.setdefault(place_of(entry), []).append(entry)
    return draw(cut([waiting[place].pop(0) for place in places]))


Known = tuple[object, ...]


def known_of(finding: Finding) -> Known:
    """What a finding says of the world, without the service's own instants."""
    return (
        finding.state,
        finding.severity,
        finding.onset,
        finding.value,
        finding.compared,
        finding.baseline,
    )


def standing(here: Desk) -> tuple[dict[tuple[SeriesKey, str], Known], dict[Scope, Known]]:
    """What a desk holds to be true: findings, and open alerts with what they recommend."""
    keys = {series: key for key, series in here.ids.items()}
    found = {(keys[s], r): known_of(f) for (s, _, r), f in here.findings.items()}
    return found, {
        scope: (a.level, a.severity, a.opened_at, advised(a.recommendation))
        for scope, a in here.alerts.items()
    }


def advised(advice: Advice | None) -> Known | None:
    return (advice.level, *sorted(advice.reasons)) if advice else None


class Do(enum.StrEnum):
    """What a service lives through."""

    post = "post"
    sweep = "sweep"
    restart = "restart"
    expire = "expire"
    renew = "renew"
    people = "people"
    relabel = "relabel"


@dataclass(frozen=True, slots=True)
class Step:
    """What happens at one instant of the service's clock.

    ``entries`` are posted together; ``level`` is what people set of every open alert; ``tlp`` is
    the label that the mechanism's alerts bear from then on.
    """

    when: datetime
    do: Do
    entries: tuple[Entry, ...] = ()
    level: Level = Level.early_warning
    tlp: Tlp = Tlp.amber

    def __repr__(self) -> str:
        """Short, since a life is made of many."""
        what = {
            Do.post: " ".join(map(repr, self.entries)),
            Do.people: self.level.name,
            Do.relabel: self.tlp,
        }.get(self.do, "")
        return f"[{self.when:%Y-%m-%d} {self.do} {what}]"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How hypothesis shows it."""
        printer.text(repr(self))


@st.composite
def lives(draw: st.DrawFn, most: int = 40) -> list[Step]:
    """A service's life by its clock: most signals come at once, some late, some are revised."""
    steps: list[Step] = []
    for entry in draw(histories(most)):
        came = entry.at + days(draw(st.sampled_from([0, 0, 0, 0, 6, 40])))
        steps.append(Step(came, Do.post, (entry,)))
        if draw(st.integers(0, 5)) == 0:
            other = draw(st.one_of(st.just(taken_back(entry)), entries_at(entry)))
            steps.append(Step(came + days(draw(st.integers(0, 9))), Do.post, (other,)))
    steps += draw(st.lists(others(), max_size=8))
    steps.sort(key=lambda s: s.when)
    return together(steps) if draw(st.booleans()) else steps


def others() -> st.SearchStrategy[Step]:
    """Anything but a post."""
    return st.builds(
        Step,
        st.sampled_from(INSTANTS),
        st.sampled_from([d for d in Do if d is not Do.post] + [Do.sweep] * 3),
        level=st.sampled_from([level for level in Level if level]),
        tlp=st.sampled_from(Tlp),
    )


def together(steps: Sequence[Step]) -> list[Step]:
    """What is posted at one instant comes in one transaction."""
    joined: list[Step] = []
    for step in steps:
        before = joined[-1] if joined else step
        if joined and step.do is Do.post is before.do and step.when == before.when:
            joined[-1] = replace(before, entries=before.entries + step.entries)
        else:
            joined.append(step)
    return joined


@dataclass(frozen=True, slots=True)
class Moment:
    """One step with the open alerts and the findings before and after it, and what it published.

    ``by_people`` are the alerts that people moved, each with its level before.
    """

    step: Step
    profile: Profile
    alerts: dict[Scope, Alert]
    alerts_after: dict[Scope, Alert]
    findings: dict[FindingKey, Finding]
    findings_after: dict[FindingKey, Finding]
    published: tuple[Published, ...]
    outcome: Judgement
    by_people: tuple[tuple[Alert, Level], ...] = ()

    @property
    def is_in_force(self) -> bool:
        return self.profile.in_force(self.step.when.date())


def lived(steps: Sequence[Step], profile: Profile = WATCH) -> tuple[Desk, list[Moment]]:
    """The desk after a life, and every moment of it."""
    here = desk(profile)
    moments: list[Moment] = []
    for step in steps:
        (profile,) = here.profiles
        alerts, found, told = dict(here.alerts), dict(here.findings), len(here.published)
        here.now, here.outcome = step.when, Judgement()
        by_people: list[tuple[Alert, Level]] = []
        match step.do:
            case Do.post:
                here.post(*step.entries)
            case Do.sweep:
                here.sweep(step.when)
            case Do.restart:
                here = here.restarted()
            case Do.expire:
                yesterday = (step.when - days(1)).date()
                here.profiles = [replace(profile, valid_until=yesterday)]
            case Do.renew:
                here.profiles = [replace(profile, valid_until=WATCH.valid_until)]
            case Do.relabel:
                here.profiles = [replace(profile, default_tlp=step.tlp)]
            case Do.people:
                by_people = people_set(here, step.level)
        moments.append(
            Moment(
                step,
                here.profiles[0],
                alerts,
                dict(here.alerts),
                found,
                dict(here.findings),
                tuple(here.published[told:]),
                here.outcome,
                tuple(by_people),
            )
        )
    return here, moments


def people_set(here: Desk, level: Level) -> list[tuple[Alert, Level]]:
    """Sets the level of every open alert, and says what it was."""
    moved = [(a, a.level) for a in here.alerts.values() if a.level is not level]
    set_by_people = [
        (replace(a, level=level, number=a.number + 1, validated=True), was) for a, was in moved
    ]
    here.alerts |= {a.scope: a for a, _ in set_by_people}
    return set_by_people
