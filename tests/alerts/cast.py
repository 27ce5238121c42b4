"""The cast of the engine's tests: a small catalogue, rules by the spoonful, and a desk.

The desk keeps between batches exactly what the service stores (findings that need memory, what
they feed, open alerts), so that a test that passes here does not lean on anything in memory.
*aurora* acts for the EU, *dorado* for the US, *cygnus* for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from alerts import detectors, hindsight, judgement, lifecycle
from alerts.catalogue import Catalogue, Event, Good, Harm, Indicator, Place, Sector
from alerts.findings import Finding, State
from alerts.lifecycle import Alert, AlertState, Cause, EventType, Evidence, Occasion
from alerts.mechanisms import (
    Closing,
    Dimension,
    KeyGood,
    Level,
    Party,
    Profile,
    Recommendation,
    Scope,
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
    Measured,
    MedianOfWindow,
    PercentChange,
    Rule,
    SameMonthLastYear,
)
from alerts.signals import Origin, PartnerId, Report, Sample, SeriesId, SeriesKey, Severity
from alerts.tracks import Correction, Docket, FindingKey, Judgement, Published, Track

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


BEGINNING = at("1900-01-01")
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that arrives: a report, or a value of an instant (None takes it back)."""

    key: SeriesKey
    at: datetime
    value: float | None = None
    report: Report | None = None

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


@dataclass(slots=True)
class Desk:
    """The engine with a memory as narrow as the service's."""

    profiles: Sequence[Profile]
    catalogue: Catalogue = CATALOGUE
    now: datetime = field(default_factory=lambda: at("2026-01-01"))
    values: dict[SeriesKey, dict[datetime, float]] = field(default_factory=dict)
    reports: dict[SeriesKey, list[Report]] = field(default_factory=dict)
    findings: dict[FindingKey, Finding] = field(default_factory=dict)
    feeds: dict[FindingKey, Scope] = field(default_factory=dict)
    alerts: dict[Scope, Alert] = field(default_factory=dict)
    ended: dict[Scope, datetime] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    outcome: Judgement = field(default_factory=Judgement)
    seen_until: dict[SeriesKey, datetime] = field(default_factory=dict)
    ids: dict[SeriesKey, SeriesId] = field(default_factory=dict)
    opened: int = 0
    begins_at: datetime = field(default_factory=lambda: at("2026-01-01"))

    def post(self, *entries: Entry, now: datetime | None = None) -> list[Published]:
        """One transaction: stores the entries, judges them together; gives what it published."""
        keys = list(dict.fromkeys(e.key for e in entries))
        self.begins_at = min(e.at for e in entries)
        before = dict(self.seen_until)
        tracks = [self._track(key, [e for e in entries if e.key == key]) for key in sorted(keys)]
        changed = {t.series: list(t.corrections) for t in tracks if t.begins_at is not None}
        scopes = {p.scope_of(k) for k in keys for p in self.profiles}
        clock = now or self.now
        again = hindsight.late(tracks, {}, self.ended, {})
        ahead = [t for t in tracks if not t.corrections]
        outcome = judgement.judge(ahead, self._dockets(scopes), self.catalogue, clock)
        again |= hindsight.late(ahead, self._horizons(outcome.touched, before), {}, {})
        outcome = outcome.without(again)
        for scope in sorted(again):
            outcome.add(self._judge_again(scope, changed, clock, before))
        return self._write(outcome)

    def _horizons(
        self, scopes: Iterable[Scope], seen: Mapping[SeriesKey, datetime]
    ) -> dict[Scope, tuple[datetime, SeriesKey]]:
        """The newest instant that each scope's series had before."""
        found: dict[Scope, tuple[datetime, SeriesKey]] = {}
        for scope in scopes:
            instants = [(t, k) for k, t in seen.items() if scope in self._scopes_of(k)]
            if instants:
                found[scope] = max(instants)
        return found

    def _scopes_of(self, key: SeriesKey) -> set[Scope]:
        return {p.scope_of(key) for p in self.profiles if any(r.asks(key) for r in p.rules)}

    def _judge_again(
        self,
        scope: Scope,
        changed: Mapping[SeriesId, list[Correction]],
        now: datetime,
        seen: Mapping[SeriesKey, datetime],
    ) -> Judgement:
        profile = next(p for p in self.profiles if p.id == scope.mechanism)
        keys = sorted(k for k in self.ids if scope in self._scopes_of(k))
        tracks = []
        for key in keys:
            track = self._blank(key)
            track.fresh = [Sample(t, v) for t, v in sorted(self.values.get(key, {}).items())]
            track.reports = self.reports.get(key, [])
            tracks.append(track)
        here = {t.series: changed[t.series] for t in tracks if t.series in changed}
        docket = self._dockets([scope]).get(scope, Docket())
        horizon = self._horizons([scope], seen).get(scope)
        until = horizon[0] if horizon else None
        return hindsight.judge_again(
            profile, scope, tracks, here, docket, self.catalogue, now, until
        )

    def judge_again(self) -> list[Published]:
        """Every scope from its beginning, although nothing has changed."""
        outcome = Judgement()
        for scope in sorted({s for key in self.ids for s in self._scopes_of(key)}):
            outcome.add(self._judge_again(scope, {}, self.now, self.seen_until))
        return self._write(outcome)

    def sweep(self, now: datetime) -> list[Published]:
        """What is due by time alone: silence first, then the open alerts."""
        tracks = [
            self._blank(key, known=[Sample(last, self.values[key][last])])
            for key in self.values
            if (last := max(self.values[key], default=None)) is not None
        ]
        for key, finding in judgement.judge_silence(tracks, now).items():
            self.findings[key] = finding
        unheard = self._unheard(now)
        scopes = {p.scope_of(t.key) for t in unheard for p, _ in t.questions}
        dockets = self._dockets({*self.alerts, *scopes})
        return self._write(
            judgement.judge_time(dockets, self.profiles, self.catalogue, now, unheard)
        )

    def _unheard(self, now: datetime) -> list[Track]:
        """The series with findings that fire, feed no alert, and now may."""
        tracks = [self._blank(key) for key in self.ids]
        for track in tracks:
            firing = {k[1:] for k, f in self.findings.items() if k[0] == track.series and f.fires}
            firing -= {k[1:] for k in self.feeds if k[0] == track.series}
            track.reports = self.reports.get(track.key, [])
            track.questions = [
                (p, r)
                for p, r in track.questions
                if (p.id, r.id) in firing
                and not r.shadow
                and r.effect is Effect.early_warning
                and p.in_force(now.date())
            ]
        return [t for t in tracks if t.questions]

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

    def _blank(self, key: SeriesKey, known: list[Sample] | None = None) -> Track:
        series = self.ids.setdefault(key, SeriesId(len(self.ids) + 1))
        indicator = self.catalogue.indicators.get(key.indicator)
        return Track(
            series,
            key,
            indicator.unit if indicator else "",
            [(p, r) for p in self.profiles for r in p.rules if r.asks(key)],
            known=known or [],
            findings={k[1:]: f for k, f in self.findings.items() if k[0] == series},
            breaks=sorted({b for p in self.profiles for b in p.breaks_of(key)}),
        )

    def _track(self, key: SeriesKey, entries: Sequence[Entry]) -> Track:
        track = self._blank(key)
        if entries[0].report is not None:
            self._hear(track, [e.report for e in entries if e.report is not None])
            self.seen_until[key] = max(
                self.seen_until.get(key, BEGINNING), *(e.at for e in entries)
            )
            return track
        until = self.seen_until.get(key)
        stored = self.values.setdefault(key, {})
        for entry in entries:
            was = stored.get(entry.at)
            if entry.value is None:
                stored.pop(entry.at, None)
            else:
                stored[entry.at] = entry.value
            if until is not None and entry.at <= until and was != entry.value:
                track.corrections.append(Correction(entry.at, was, entry.value))
        history = [Sample(t, v) for t, v in sorted(stored.items())]
        track.fresh = [s for s in history if until is None or s.at > until]
        if not track.corrections:
            track.known = self._remembered(track, [s for s in history if until and s.at <= until])
        self.seen_until[key] = max(e.at for e in entries)
        if until is not None:
            self.seen_until[key] = max(until, self.seen_until[key])
        return track

    def _hear(self, track: Track, told: Sequence[Report]) -> None:
        """Reports of one instant and partner replace each other: the later one is a revision."""
        standing = {(r.at, r.partner): r for r in self.reports.get(track.key, [])}
        fresh = []
        for one in told:
            place = (one.at, one.partner)
            if one.severity is NONE and place not in standing:
                continue
            if place in standing:
                track.corrections.append(Correction(one.at, 1.0, float(one.severity)))
            else:
                fresh.append(place)
            standing[place] = one
            if one.severity is NONE:
                del standing[place]
                track.corrections[-1] = Correction(one.at, 1.0, None)
        track.reports = self.reports[track.key] = [standing[p] for p in sorted(standing)]
        track.fresh_reports = [r for r in track.reports if (r.at, r.partner) in fresh]

    def _remembered(self, track: Track, history: Sequence[Sample]) -> list[Sample]:
        """As far back as the rules say they look, and not further."""
        kept: list[Sample] = []
        for profile, asked in track.questions:
            if not isinstance(asked.detector, Measured) or not track.fresh:
                continue
            finding = track.findings.get((profile.id, asked.id))
            alert = self.alerts.get(profile.scope_of(track.key))
            anchors = [track.fresh[0].at, self.begins_at]
            anchors += [finding.onset] if finding and finding.onset else []
            anchors += [alert.opened_at] if alert else []
            span, observations = detectors.reach(asked.detector)
            before = [s for s in history if s.at < min(anchors)]
            first = max(0, len(before) - observations)
            since = min([min(anchors) - span, *(s.at for s in before[first : first + 1])])
            remembered = [s for s in history if s.at >= since]
            kept = max(kept, remembered, key=len)
        return kept

    def _dockets(self, scopes: Iterable[Scope]) -> dict[Scope, Docket]:
        keys = {series: key for key, series in self.ids.items()}
        rules = {(p.id, r.id): r for p in self.profiles for r in p.rules}
        dockets = {s: Docket(self.alerts[s]) for s in scopes if s in self.alerts}
        for found, scope in self.feeds.items():
            if scope in dockets:
                finding, key = self.findings[found], keys[found[0]]
                behind = [r for r in self.reports.get(key, []) if r.at == finding.observed_at]
                dockets[scope].evidence[found] = Evidence(
                    rules[found[1:]],
                    found[0],
                    key,
                    self._blank(key).unit,
                    finding,
                    behind[-1] if behind else None,
                )
        return dockets

    def _write(self, outcome: Judgement) -> list[Published]:
        self.outcome = outcome
        self.ended.update(outcome.ended)
        for key, finding in outcome.findings.items():
            self.findings.pop(key, None)
            self.feeds.pop(key, None)
            if not finding.is_quiet:
                self.findings[key] = finding
                if key in outcome.feeds:
                    self.feeds[key] = outcome.feeds[key]
        named: list[Published] = []
        for published in outcome.published:
            if published.transition.type is EventType.opened:
                self.opened += 1
                ref = f"AB-2026-{self.opened:04d}"
            else:
                ref = self.alerts[published.scope].ref
            alert = replace(published.alert, ref=ref)
            self.alerts[published.scope] = alert
            if alert.state is AlertState.resolved:
                del self.alerts[published.scope]
            named.append(replace(published, alert=alert))
        for scope, why in outcome.restated.items():
            self.alerts[scope] = replace(self.alerts[scope], why=why)
        self.published += named
        return named


def told(published: Sequence[Published]) -> list[tuple[str, Level, Severity]]:
    """What was published: type without its prefix, level and severity after it."""
    return [
        (p.transition.type.value.removeprefix("alert."), p.alert.level, p.alert.severity)
        for p in published
    ]
