"""A file of scenarios -> what comes when, and what must follow; or everything wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

import alerts.catalogue
from alerts import replay
from alerts.catalogue import Catalogue, Event, Indicator, did_you_mean, nearest
from alerts.desk import Entry, Partner
from alerts.detectors.joint import joint_questions
from alerts.lifecycle import EventType
from alerts.mechanisms import Profile
from alerts.rules import Rule
from alerts.signals import PartnerId, Report, SeriesKey, Severity
from app import documents
from app.documents import DocumentFaulty, LineFault, marks, shapes
from app.timetable import instants
from app.timetable.instants import Span, Unreadable
from app.timetable.written import (
    File,
    Move,
    Named,
    Open,
    Scenario,
    Stands,
    Step,
    TakenBack,
    Told,
)

MOST_MOMENTS = 20_000
"""A scenario holds at most so many values and sweeps; more is a slip, or a backtest."""

TYPES = tuple(t.value.removeprefix("alert.") for t in EventType)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Moment:
    """What comes in one transaction."""

    at: datetime
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How one finding must stand, and whose it is."""

    line: int
    stands: Stands
    key: SeriesKey
    rule: Rule


@dataclass(frozen=True, slots=True)
class Stage:
    """A step with its instants: what comes, then what must have followed by ``ends_at``.

    Every expectation comes with its line; ``at`` and ``recorded`` of a move are read.
    """

    line: int
    begins_at: datetime
    ends_at: datetime
    moments: tuple[Moment, ...]
    moves: tuple[tuple[int, Move, datetime | None, datetime | None], ...]
    findings: tuple[Wanted, ...]
    alerts: tuple[tuple[int, Open], ...] | None


@dataclass(frozen=True, slots=True)
class Planned:
    """A scenario ready to be played; ``sweeps`` are when the service looks by itself."""

    name: str
    line: int
    profile: Profile
    sweeps: tuple[datetime, ...]
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Timetable:
    """A file of scenarios, ready to be played."""

    file: str
    keys: dict[str, SeriesKey]
    scenarios: tuple[Planned, ...]


def read(file: Path, catalogue: Catalogue, instead: Sequence[Profile] = ()) -> Timetable:
    """Reads a file of scenarios.

    Args:
        file: YAML, as docs/rule-tests.md describes it.
        catalogue: what may be reported.
        instead: profiles that judge in place of those of the same id that the file names.

    Raises:
        DocumentFaulty: with every fault that could be found, or those of the profile.
    """
    name = str(file)
    try:
        text = file.read_bytes()
    except OSError as error:
        detail = f"The file cannot be read: {error.strerror}."
        raise DocumentFaulty([LineFault(name, 1, 1, "", detail)]) from None
    try:
        marked = marks.read(text)
    except marks.TextFaulty as error:
        at = error.mark
        fault = LineFault(name, at.line, at.column, error.pointer, error.detail)
        raise DocumentFaulty([fault]) from None
    plan = _Plan(name, marked, catalogue)
    try:
        written = shapes.read(File, marked.content)
    except shapes.DoesNotFit as error:
        for misfit in error.misfits:
            plan.blame(misfit.pointer, misfit.detail, misfit.allowed, of_key=misfit.of_key)
        raise DocumentFaulty(plan.in_order()) from None
    profile = _profile(plan, written, file, catalogue)
    if profile is None:
        raise DocumentFaulty(plan.in_order())
    profile = next((p for p in instead if p.id == profile.id), profile)
    timetable = plan.whole(written, profile)
    if plan.faults:
        raise DocumentFaulty(plan.in_order())
    return timetable


def _profile(plan: _Plan, written: File, file: Path, catalogue: Catalogue) -> Profile | None:
    shipped = {path.stem: path for path in documents.shipped_profiles()}
    path = shipped.get(written.profile)
    if path is None and not written.profile.endswith((".yaml", ".yml")):
        detail = (
            f"No profile {written.profile[:64]!r} ships; a file of your own ends in .yaml."
            f"{did_you_mean(written.profile, shipped)}"
        )
        plan.blame("/profile", detail, nearest(written.profile, shipped))
        return None
    return documents.load_profile(path or file.parent / written.profile, catalogue)


@dataclass(slots=True)
class _Plan:
    """The file in hand: where everything in it stands, and what is wrong with it so far."""

    file: str
    marked: marks.Marked
    catalogue: Catalogue
    faults: list[LineFault] = field(default_factory=list)
    keys: dict[str, SeriesKey] = field(default_factory=dict)
    partners: dict[str, Partner] = field(default_factory=dict)

    def blame(
        self, pointer: str, detail: str, allowed: tuple[str, ...] = (), *, of_key: bool = False
    ) -> None:
        mark = self.marked.mark_of(pointer, of_key=of_key)
        detail = detail[:1].upper() + detail[1:]
        self.faults.append(LineFault(self.file, mark.line, mark.column, pointer, detail, allowed))

    def in_order(self) -> list[LineFault]:
        return sorted(self.faults, key=lambda f: (f.line, f.column))

    def line(self, pointer: str) -> int:
        return self.marked.mark_of(pointer).line

    def read(self, pointer: str, reading: Callable[[], T], otherwise: T) -> T:
        """What a time says, or a fault and something to go on with."""
        try:
            return reading()
        except Unreadable as error:
            self.blame(pointer, str(error))
            return otherwise

    def whole(self, written: File, profile: Profile) -> Timetable:
        for name, named in written.series.items():
            self._learn_series(name, named)
        parties = [p.code for p in profile.parties]
        for number, (name, party) in enumerate(written.partners.items(), 2):
            if party and party not in parties:
                detail = f"{party!r} is not a party of {profile.id}.{did_you_mean(party, parties)}"
                self.blame(marks.step("/partners", name), detail, tuple(parties))
            self.partners[name] = Partner(PartnerId(number), name, party)
        if not written.scenarios:
            self.blame("/scenarios", "There is no scenario.")
        names: dict[str, int] = {}
        planned = []
        for number, scenario in enumerate(written.scenarios):
            pointer = f"/scenarios/{number}"
            first = names.setdefault(scenario.name, self.line(pointer))
            if first != self.line(pointer):
                detail = f"The name {scenario.name!r} is taken; see line {first}."
                self.blame(f"{pointer}/name", detail)
            planned.append(_Story(self, profile, scenario, pointer).planned())
        return Timetable(self.file, self.keys, tuple(planned))

    def _learn_series(self, name: str, named: Named) -> None:
        pointer = marks.step("/series", name)
        found = alerts.catalogue.faults(
            self.catalogue,
            named.sector,
            indicator=named.indicator,
            event=named.event,
            good=named.good,
            place=named.place,
        )
        for fault in found:
            self.blame(pointer + fault.pointer, fault.detail, fault.allowed)
        code = named.indicator or named.event
        self.keys[name] = SeriesKey(named.sector, code, named.good, named.place, named.exercise)

    def key(self, pointer: str, name: str) -> SeriesKey | None:
        """The series of that name; none, and a fault, where there is none."""
        if name not in self.keys:
            detail = (
                f"No series of this file is called {name[:64]!r}.{did_you_mean(name, self.keys)}"
            )
            self.blame(f"{pointer}/series", detail, nearest(name, self.keys))
        return self.keys.get(name)

    def partner(self, pointer: str, name: str) -> Partner:
        if name and name not in self.partners:
            detail = f"No partner of this file is called {name[:64]!r}."
            detail += did_you_mean(name, self.partners)
            self.blame(f"{pointer}/partner", detail, nearest(name, self.partners))
        return self.partners.get(name, Partner(PartnerId(1)))


@dataclass(slots=True)
class _Story:
    """One scenario in the making; ``standing`` is what each partner said of each instant."""

    plan: _Plan
    profile: Profile
    written: Scenario
    pointer: str
    moments: int = 0
    standing: set[tuple[SeriesKey, datetime, PartnerId]] = field(default_factory=set)

    def planned(self) -> Planned:
        plan, written, at = self.plan, self.written, self.pointer
        someday = instants.day("2025-01-01")
        start = plan.read(f"{at}/start", lambda: instants.day(written.start), someday)
        sweep_every = self._every(f"{at}/sweep_every", written.sweep_every)
        if not written.steps:
            plan.blame(f"{at}/steps", "A scenario has at least one step.")
        self._change_profile()
        stages: list[Stage] = []
        before = start
        for number, step in enumerate(written.steps):
            stages.append(self._stage(f"{at}/steps/{number}", step, start, before))
            before = stages[-1].ends_at
        sweeps = tuple(self._sweeps(start, sweep_every, before))
        return Planned(written.name, plan.line(at), self.profile, sweeps, tuple(stages))

    def _sweeps(self, start: datetime, every: Span, until: datetime) -> Iterator[datetime]:
        for number in range(MOST_MOMENTS):
            try:
                at = every.after(start, number)
            except Unreadable:  # Beyond the last instant, and so after the scenario's end.
                return
            if at > until:
                return
            yield at
        detail = f"A scenario is swept at most {MOST_MOMENTS} times; sweep it less often."
        self.plan.blame(self.pointer, detail)

    def _change_profile(self) -> None:
        """Applies what the scenario changes of the profile."""
        written, ids = self.written, [r.id for r in self.profile.rules]
        for number, rule in enumerate(written.shadow):
            if rule not in ids:
                detail = f"{self.profile.id} has no rule {rule[:64]!r}.{did_you_mean(rule, ids)}"
                place = f"{self.pointer}/shadow/{number}"
                self.plan.blame(place, detail, nearest(rule, ids))
        if written.always_in_force:
            self.profile = replay.lasting(self.profile)
        self.profile = dataclasses.replace(
            self.profile,
            rules=tuple(
                dataclasses.replace(r, shadow=True) if r.id in written.shadow else r
                for r in self.profile.rules
            ),
            series_breaks=(*self.profile.series_breaks, *written.breaks),
        )

    def _every(self, pointer: str, written: str) -> Span:
        a_day = Span(exact=timedelta(days=1))
        found = self.plan.read(pointer, lambda: instants.span(written), a_day)
        if not found.months and not found.exact:
            self.plan.blame(pointer, "A span of nothing never ends.")
            return a_day
        return found

    def _stage(self, pointer: str, step: Step, start: datetime, before: datetime) -> Stage:
        plan = self.plan
        begins_at = plan.read(
            f"{pointer}/at", lambda: instants.instant(step.at, start, before), before
        )
        if begins_at < before:
            detail = f"{instants.shown(begins_at)} is before what came last, on {instants.shown(before)}."
            plan.blame(f"{pointer}/at", detail)
            begins_at = before
        coming: dict[datetime, list[Entry]] = {}
        for kind in ("report", "revise"):
            for number, told in enumerate(getattr(step, kind)):
                place = f"{pointer}/{kind}/{number}"
                for at, entry in self._entries(place, told, begins_at, start):
                    self._check_standing(place, entry, is_new=kind == "report")
                    coming.setdefault(at, []).append(entry)
        for number, taken in enumerate(step.retract):
            back = self._retraction(f"{pointer}/retract/{number}", taken, begins_at, start)
            if back is not None:
                coming.setdefault(begins_at, []).append(back)
        moments = tuple(Moment(at, tuple(coming[at])) for at in sorted(coming))
        ends_at = max([begins_at, *coming])
        return Stage(
            plan.line(pointer),
            begins_at,
            ends_at,
            moments,
            tuple(self._moves(pointer, step, start)),
            tuple(self._findings(pointer, step)),
            self._alerts(pointer, step),
        )

    def _check_standing(self, pointer: str, entry: Entry, *, is_new: bool) -> None:
        """Reports say something first, revisions again."""
        said = (entry.key, entry.at, entry.by.id)
        if is_new and said in self.standing:
            detail = f"This was reported for {instants.shown(entry.at)} before; revise it."
            self.plan.blame(pointer, detail)
        if not is_new and said not in self.standing:
            detail = f"Nothing was reported for {instants.shown(entry.at)} that could be revised."
            self.plan.blame(pointer, detail)
        self.standing.add(said)

    def _entries(
        self, pointer: str, told: Told, begins_at: datetime, start: datetime
    ) -> Iterable[tuple[datetime, Entry]]:
        """What comes when; nothing where something is wrong."""
        plan = self.plan
        by, key = plan.partner(pointer, told.partner), plan.key(pointer, told.series)
        if key is None:
            return []
        observed = begins_at
        if told.observed:
            place = f"{pointer}/observed"
            observed = plan.read(
                place, lambda: instants.instant(told.observed, start, begins_at), begins_at
            )
            if observed > begins_at:
                plan.blame(place, "It is observed after it comes.")
        event = plan.catalogue.events.get(key.indicator)
        if event is not None:
            return self._event(pointer, told, key, by, event, begins_at, observed)
        indicator = plan.catalogue.indicators.get(key.indicator)
        if indicator is None:  # A fault of the series, told before.
            return []
        return self._values(pointer, told, key, by, indicator, begins_at, observed)

    def _event(
        self,
        pointer: str,
        told: Told,
        key: SeriesKey,
        by: Partner,
        event: Event,
        begins_at: datetime,
        observed: datetime,
    ) -> list[tuple[datetime, Entry]]:
        plan = self.plan
        if told.value is not None or told.values or told.repeat != 1 or told.every:
            plan.blame(
                pointer, f"An event has a severity and no value, and {key.indicator} is one."
            )
        severity = event.severity if told.severity is None else told.severity
        if severity is Severity.none:
            plan.blame(
                f"{pointer}/severity", "An event of no severity is none; retract it instead."
            )
        announced, effective = (
            self._day(f"{pointer}/{word}", getattr(told, word))
            for word in ("announced", "effective")
        )
        report = Report(
            observed, severity, by.id, by.party, told.origin, told.ref, announced, effective
        )
        return [(begins_at, Entry(key, observed, report=report, by=by))]

    def _values(
        self,
        pointer: str,
        told: Told,
        key: SeriesKey,
        by: Partner,
        indicator: Indicator,
        begins_at: datetime,
        observed: datetime,
    ) -> list[tuple[datetime, Entry]]:
        plan = self.plan
        for word in ("severity", "announced", "effective"):
            if getattr(told, word):
                detail = f"An indicator has a value and no {word}, and {key.indicator} is one."
                plan.blame(f"{pointer}/{word}", detail)
        if (told.value is None) == (not told.values):
            plan.blame(pointer, "Give either a value or values.")
            return []
        given = told.values or (told.value,)
        for number, value in enumerate(given):
            fault = value is not None and alerts.catalogue.value_fault(
                indicator, indicator.unit, value
            )
            if fault:
                place = f"{pointer}/values/{number}" if told.values else f"{pointer}/value"
                plan.blame(place, fault.detail)
        count = len(given) * told.repeat
        self.moments += max(count, 0)
        if told.repeat < 1 or self.moments > MOST_MOMENTS:
            detail = f"Repeat it at least once; a scenario holds at most {MOST_MOMENTS} values."
            plan.blame(f"{pointer}/repeat", detail)
            return []
        every = Span()
        if count > 1 and not told.every:
            plan.blame(pointer, "Say with 'every' how far apart the values are.")
        elif told.every:
            every = self._every(f"{pointer}/every", told.every)
        try:
            return [
                (
                    every.after(begins_at, n),
                    Entry(
                        key,
                        every.after(observed, n),
                        value,
                        by=by,
                        origin=told.origin,
                        origin_ref=told.ref,
                        reliability=told.reliability,
                    ),
                )
                for n, value in enumerate(islice(cycle(given), count))
                if value is not None
            ]
        except Unreadable as error:
            plan.blame(f"{pointer}/every", str(error))
            return []

    def _retraction(
        self, pointer: str, taken: TakenBack, begins_at: datetime, start: datetime
    ) -> Entry | None:
        plan = self.plan
        by, key = plan.partner(pointer, taken.partner), plan.key(pointer, taken.series)
        observed = plan.read(
            f"{pointer}/observed",
            lambda: instants.instant(taken.observed, start, begins_at),
            begins_at,
        )
        if key is None:
            return None
        if (key, observed, by.id) not in self.standing:
            plan.blame(pointer, f"Nothing was reported for {instants.shown(observed)}.")
        self.standing.discard((key, observed, by.id))
        if key.indicator in plan.catalogue.events:
            nothing = Report(observed, Severity.none, by.id, by.party)
            return Entry(key, observed, report=nothing, by=by)
        return Entry(key, observed, by=by)

    def _moves(
        self, pointer: str, step: Step, start: datetime
    ) -> Iterable[tuple[int, Move, datetime | None, datetime | None]]:
        plan = self.plan
        for number, move in enumerate(step.expect):
            place = f"{pointer}/expect/{number}"
            if move.type not in TYPES:
                detail = f"'type' cannot be {move.type[:64]!r}.{did_you_mean(move.type, TYPES)}"
                plan.blame(f"{place}/type", detail, TYPES)
            if move.series:
                plan.key(place, move.series)
            at, recorded = (
                self._day(f"{place}/{word}", getattr(move, word), start)
                for word in ("at", "recorded")
            )
            yield plan.line(place), move, at, recorded

    def _day(self, pointer: str, written: str, start: datetime | None = None) -> datetime | None:
        """A day, or with a ``start`` any instant; none where nothing is written."""
        if not written:
            return None
        someday = instants.day("2025-01-01")

        def reading() -> datetime:
            return instants.instant(written, start, start) if start else instants.day(written)

        return self.plan.read(pointer, reading, someday)

    def _findings(self, pointer: str, step: Step) -> Iterable[Wanted]:
        plan = self.plan
        for number, stands in enumerate(step.findings):
            place = f"{pointer}/findings/{number}"
            key = plan.key(place, stands.series)
            if key is None:
                continue
            asking = {r.id: (r, key) for r in self.profile.rules if not r.is_joint and r.asks(key)}
            asking |= {r.id: (r, kept) for _, r, kept in joint_questions([self.profile], key)}
            wanted = stands.rule or (next(iter(asking)) if len(asking) == 1 else "")
            if wanted in asking:
                rule, kept = asking[wanted]
                yield Wanted(plan.line(place), stands, kept, rule)
                continue
            detail = (
                f"{self.profile.id} asks no rule {wanted[:64]!r} of {stands.series}."
                if wanted
                else f"{len(asking)} rules of {self.profile.id} are asked of {stands.series}; name one."
            )
            plan.blame(place, detail, nearest(wanted, asking))

    def _alerts(self, pointer: str, step: Step) -> tuple[tuple[int, Open], ...] | None:
        if step.alerts is None:
            return None
        for number, one in enumerate(step.alerts):
            self.plan.key(f"{pointer}/alerts/{number}", one.series)
        lines = (self.plan.line(f"{pointer}/alerts/{n}") for n in range(len(step.alerts)))
        return tuple(zip(lines, step.alerts, strict=True))
