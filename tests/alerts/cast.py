"""The cast of the engine's tests: a small catalogue, rules by the spoonful, and a desk.

The desk is the product's own, of ``alerts.desk``: what holds of it here, and of the service in
tests/app/test_differential.py, holds of ``forewarn rules test``.
*aurora* acts for the EU, *dorado* for the US, *cygnus* for nobody.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

from alerts import desk, lifecycle
from alerts.catalogue import Catalogue, Event, Good, Harm, Indicator, Place, Sector
from alerts.findings import Finding, State
from alerts.lifecycle import Alert, Cause, EventType, Evidence, Occasion
from alerts.mechanisms import (
    Closing,
    Dimension,
    KeyGood,
    Level,
    Party,
    Profile,
    Recommendation,
    Tlp,
)
from alerts.rules import (
    Band,
    Bands,
    Corroboration,
    Detector,
    Direction,
    Effect,
    Ending,
    EventTrigger,
    Family,
    Freshness,
    MedianOfWindow,
    PercentChange,
    Rule,
    SameMonthLastYear,
)
from alerts.signals import Origin, PartnerId, Report, Sample, SeriesId, SeriesKey, Severity
from alerts.tracks import Judgement, Published

AURORA, DORADO, CYGNUS = PartnerId(1), PartnerId(2), PartnerId(3)
PARTIES = {AURORA: "EU", DORADO: "US", CYGNUS: ""}

NONE, MINOR, MODERATE, SEVERE, EXTREME = Severity


def at(text: str) -> datetime:
    """Midnight UTC of an ISO day, or an ISO instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def days(count: float) -> timedelta:
    return timedelta(days=count)


CATALOGUE = Catalogue(
    sectors={
        "semiconductors": Sector("semiconductors", "Semiconductors"),
        "shipping": Sector("shipping", "Shipping"),
    },
    goods={
        g.code: g
        for g in (
            Good("neon", "Neon", ("semiconductors",)),
            Good("gallium", "Gallium", ("semiconductors",)),
            Good("dram", "DRAM memory", ("semiconductors",)),
            Good("chips", "Chips of all kinds", ("semiconductors",)),
        )
    },
    indicators={
        i.code: i
        for i in (
            Indicator("lead_time", "Lead time", "weeks", Harm.up, 30),
            Indicator("inventory_days", "Inventory in days of use", "days", Harm.down, 30),
            Indicator("price", "Price", "USD/kg", Harm.up, 7),
            Indicator("price_index", "Price index", "index", Harm.up, 30),
            Indicator("export_volume", "Volume exported", "kg", Harm.down, 30),
            Indicator("transits", "Ships passing a chokepoint", "transits/day", Harm.down, 1),
        )
    },
    events={
        e.code: e
        for e in (
            Event("export_control", "Export control", SEVERE),
            Event("site_outage", "Outage of a site", SEVERE),
            Event("exemption", "Exemption granted", MINOR),
        )
    },
    places={"suez": Place("suez", "Suez Canal")},
    countries={"CN": "China", "UA": "Ukraine", "TW": "Taiwan"},
)

LEAD_TIME = SeriesKey("semiconductors", "lead_time", "neon")
PRICE = SeriesKey("semiconductors", "price", "neon")
VOLUME = SeriesKey("semiconductors", "export_volume", "neon", "UA")
CONTROL = SeriesKey("semiconductors", "export_control", "neon", "UA")
OUTAGE = SeriesKey("semiconductors", "site_outage", "neon")
EXEMPTION = SeriesKey("semiconductors", "exemption", "neon", "UA")


def bands(*limits: tuple[Severity, float, float], direction: str = "up") -> Bands:
    """Bands of (severity, raise, clear)."""
    return Bands("bands", Direction(direction), tuple(Band(*limit) for limit in limits))


def change(
    *limits: tuple[Severity, float, float],
    baseline: MedianOfWindow | SameMonthLastYear,
    direction: str = "up",
    mean_of: int = 1,
) -> PercentChange:
    """Percent change with bands of (severity, raise, clear) as fractions."""
    held = tuple(Band(*limit) for limit in limits)
    return PercentChange("percent_change", Direction(direction), baseline, held, mean_of)


def median_of(span_days: float, observations: int = 1, guard: float = 0) -> MedianOfWindow:
    return MedianOfWindow("median_of_window", span_days, observations, guard)


SAME_MONTH = SameMonthLastYear("same_month_last_year")
LEAD_TIME_BANDS = bands((MINOR, 14, 13), (MODERATE, 16, 14), (SEVERE, 20, 18))
OFFICIAL = (Origin.official_statistics, Origin.government)


def trigger(
    ending: Ending = Ending.by_people,
    *,
    least: Severity = MODERATE,
    parties: int = 2,
    within: float = 14,
    official: tuple[Origin, ...] = OFFICIAL,
) -> EventTrigger:
    return EventTrigger("event", least, Corroboration(parties, within, official), ending)


def rule(
    indicator: str,
    detector: Detector,
    family: Family = Family.availability,
    *,
    raise_after: int = 1,
    clear_after: int = 2,
    stale: tuple[float, float] | None = None,
    effect: Effect = Effect.early_warning,
    version: int = 1,
) -> Rule:
    """A rule named after its indicator; ``stale`` gives the days to stale and to no data."""
    return Rule(
        id=indicator.replace("_", "-"),
        title=indicator.replace("_", " ").capitalize(),
        version=version,
        family=family,
        sectors=("semiconductors", "shipping"),
        indicators=(indicator,),
        detector=detector,
        raise_after=raise_after,
        clear_after=clear_after,
        freshness=Freshness(*stale) if stale else None,
        effect=effect,
    )


LEAD_TIME_RULE = rule("lead_time", LEAD_TIME_BANDS)
VOLUME_RULE = rule(
    "export_volume",
    change((MODERATE, -0.5, -0.25), (SEVERE, -0.8, -0.5), baseline=SAME_MONTH, direction="down"),
    Family.quantity,
)
PRICE_RULE = rule(
    "price",
    change((MINOR, 0.25, 0.15), (MODERATE, 0.4, 0.25), (SEVERE, 0.8, 0.6), baseline=median_of(90)),
    Family.price,
)
CONTROL_RULE = rule("export_control", trigger(Ending.with_measurements), Family.event)
OUTAGE_RULE = rule("site_outage", trigger(), Family.event)
EXEMPTION_RULE = rule("exemption", trigger(least=MINOR), Family.event, effect=Effect.follow_up)


def mechanism(
    *rules: Rule,
    recommendations: tuple[Recommendation, ...] = (),
    key_goods: tuple[KeyGood, ...] = (),
    valid: tuple[str, str] = ("2019-01-01", "2099-12-31"),
    hold_days: float = 14,
    fresh: int = 2,
    alert_per: tuple[Dimension, ...] = (Dimension.good,),
) -> Profile:
    return Profile(
        id="aurora-borealis",
        version=3,
        title="A mechanism",
        summary="For tests.",
        reference_prefix="AB",
        valid_from=date.fromisoformat(valid[0]),
        valid_until=date.fromisoformat(valid[1]),
        parties=(Party("EU", "European Union"), Party("US", "United States")),
        sectors=("semiconductors", "shipping"),
        default_tlp=Tlp.amber,
        alert_per=alert_per,
        levels=(),
        closing=Closing(hold_days, fresh, ("our_design",)),
        rules=rules,
        recommendations=recommendations,
        key_goods=key_goods,
    )


def report(
    day: str,
    severity: Severity = SEVERE,
    partner: PartnerId = AURORA,
    origin: Origin = Origin.government,
    ref: str = "",
    *,
    announced: str = "",
    effective: str = "",
) -> Report:
    return Report(
        at(day),
        severity,
        partner,
        PARTIES[partner],
        origin,
        ref,
        at(announced) if announced else None,
        at(effective) if effective else None,
    )


def samples(*pairs: tuple[str, float]) -> list[Sample]:
    return [Sample(at(day), value) for day, value in pairs]


def daily(first: str, *values: float) -> list[Sample]:
    """One sample a day."""
    return [Sample(at(first) + days(n), value) for n, value in enumerate(values)]


NOW = at("2026-01-01")
PLAIN = mechanism(LEAD_TIME_RULE, PRICE_RULE, VOLUME_RULE, CONTROL_RULE, OUTAGE_RULE)


def finding(severity: Severity, day: str = "2021-03-31", state: State = State.firing) -> Finding:
    """A finding that fires since a day."""
    return Finding(state, severity, at(day), at(day), at(day), 16.0, 16.0)


def ok(since: str, until: str, run: int = 2, state: State = State.ok) -> Finding:
    """A finding that came back to ok, with its newest observation."""
    back = at(since)
    return Finding(state, NONE, None, back, at(until), 12.0, 12.0, ok_since=back, ok_run=run)


def evidence(asked: Rule, found: Finding, key: SeriesKey = LEAD_TIME, **more: object) -> Evidence:
    return Evidence(asked, SeriesId(1), key, "weeks", found, **more)  # type: ignore[arg-type]


def observed(one: Evidence, before: Finding | None = None) -> Cause:
    assert one.finding.observed_at is not None
    return Cause(Occasion.observation, one.finding.observed_at, one, before)


def open_alert(*held: Evidence, profile: Profile = PLAIN) -> Alert:
    """The alert that these findings open together."""
    (step,) = lifecycle.advance(profile, None, held, observed(held[0]), NOW)
    assert step.type is EventType.opened
    return step.alert


LEAD = evidence(LEAD_TIME_RULE, finding(MODERATE))


@dataclass(frozen=True, slots=True, repr=False)
class Entry(desk.Entry):
    """One thing that arrives: a report, or a value of an instant (None takes it back)."""

    def __repr__(self) -> str:
        """Short, since a history is made of many."""
        said: object = self.value
        if (told := self.report) is not None:
            bites = f", bites {told.effective_at:%Y-%m-%d}" if told.effective_at else ""
            source = f"{told.partner} {told.origin} {told.origin_ref!r}"
            said = f"{told.severity.name} says {source}{bites}"
        name = "/".join(part for part in self.key[1:] if part)
        return f"<{name} {self.at:%Y-%m-%d}: {said}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How hypothesis shows it."""
        printer.text(repr(self))


def value(key: SeriesKey, day: str, number: float | None) -> Entry:
    return Entry(key, at(day), number)


def values(key: SeriesKey, found: Iterable[Sample]) -> list[Entry]:
    return [Entry(key, s.at, s.value) for s in found]


def event(key: SeriesKey, told: Report) -> Entry:
    return Entry(key, told.at, report=told)


@dataclass
class Desk(desk.Desk):
    """The product's desk, said shorter: its clock stands, and it remembers what it published."""

    catalogue: Catalogue = CATALOGUE
    now: datetime = NOW
    published: list[Published] = field(default_factory=list)
    outcome: Judgement = field(default_factory=Judgement)

    def post(  # type: ignore[override]
        self, *entries: desk.Entry, now: datetime | None = None
    ) -> list[Published]:
        """One transaction; gives what it published."""
        return self._noted(super().post(entries, now or self.now))

    def sweep(self, now: datetime) -> list[Published]:  # type: ignore[override]
        """What is due by time alone; gives what it published."""
        return self._noted(super().sweep(now))

    def judge_again(self) -> list[Published]:
        """Every scope from its beginning, although nothing has changed."""
        before = {key: file.until for key, file in self._files.items()}
        outcome = Judgement()
        for scope in sorted({s for key in self._files for s in self._scopes(key)}):
            outcome.add(self._judge_again(scope, {}, self.now, before))
        return self._noted(self._write(outcome, self.now))

    def restarted(self) -> Desk:
        """The desk of a new process: nothing but what is stored goes from one to the other."""
        passing = {"profiles", "catalogue", "outcome", "_views"}
        kept = [f.name for f in fields(self) if f.name not in passing]
        stored = pickle.loads(pickle.dumps({name: getattr(self, name) for name in kept}))
        return Desk(self.profiles, self.catalogue, **stored)

    def finding(self, key: SeriesKey) -> Finding:
        """The finding of the first mechanism's one rule on a series; quiet ones are forgotten."""
        found = [f for (series, *_), f in self.findings.items() if series == self.ids.get(key)]
        return found[0] if found else Finding()

    @property
    def alert(self) -> Alert:
        """The only open alert."""
        (alert,) = self.alerts.values()
        return alert

    def types(self) -> list[str]:
        """Everything published so far, by type without the prefix."""
        return [p.transition.type.value.removeprefix("alert.") for p in self.published]

    def _noted(self, outcome: Judgement) -> list[Published]:
        self.outcome = outcome
        self.published += outcome.published
        return outcome.published


def told(published: Sequence[Published]) -> list[tuple[str, Level, Severity]]:
    """What was published: type without its prefix, level and severity after it."""
    return [
        (p.transition.type.value.removeprefix("alert."), p.alert.level, p.alert.severity)
        for p in published
    ]
