"""The engine with a memory as narrow as the service's: one transaction after another, and sweeps.

It drives ``judgement`` and ``hindsight`` as the service does between its database and them, for
timetables and tests, of a few series each. Between transactions it keeps what the service stores:
signals, findings that need memory, what they feed, and open alerts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from alerts import detectors, hindsight, judgement
from alerts.catalogue import Catalogue
from alerts.detectors.agreement import Views
from alerts.detectors.joint import joint_questions
from alerts.findings import QUIET, Finding
from alerts.hindsight import Horizon
from alerts.lifecycle import Alert, AlertState, EventType, Evidence
from alerts.mechanisms import Profile, Scope
from alerts.rules import Effect, Rule
from alerts.signals import Origin, PartnerId, Report, Sample, SeriesId, SeriesKey, Severity, Voice
from alerts.tracks import Correction, Docket, FindingKey, Judgement, Track

_instant = attrgetter("at")


class Partner(NamedTuple):
    """Who reports, and for which party; an empty party is none."""

    id: PartnerId
    name: str = ""
    party: str = ""


NOBODY = Partner(PartnerId(1))


@dataclass(frozen=True, slots=True)
class Entry:
    """What one partner says of one instant of a series, instead of what it said of it before.

    Of an event ``report`` says it, and one of severity none takes it back; of a measurement
    ``value`` does, in the indicator's unit, and None takes it back.
    """

    key: SeriesKey
    at: datetime
    value: float | None = None
    report: Report | None = None
    by: Partner = NOBODY
    origin: Origin = Origin.assessment
    origin_ref: str = ""
    reliability: str = ""


@dataclass(slots=True)
class _File:
    """Everything said of one series; ``until`` is the newest instant of which something was."""

    voices: dict[datetime, dict[PartnerId, Voice]] = field(default_factory=dict)
    reports: dict[tuple[datetime, PartnerId], Report] = field(default_factory=dict)
    until: datetime | None = None
    history: list[Sample] = field(default_factory=list)

    def value(self, at: datetime) -> float | None:
        """What an instant counts for: the median over those who report it."""
        said = self.voices.get(at)
        return median(v.value for v in said.values()) if said else None

    def put(self, at: datetime) -> None:
        """Brings the history up to date with what is said of an instant."""
        place, value = bisect_left(self.history, at, key=_instant), self.value(at)
        stood = place < len(self.history) and self.history[place].at == at
        self.history[place : place + stood] = [] if value is None else [Sample(at, value)]

    def told(self) -> list[Report]:
        return [self.reports[place] for place in sorted(self.reports)]


@dataclass(slots=True)
class Desk:
    """Profiles, what was reported so far, and what stands open because of it.

    ``feeds`` says which finding feeds which open alert; ``ids`` number the series. All is what the
    service stores, but for ``_views``: what detectors remember may be forgotten at any time.
    """

    profiles: Sequence[Profile]
    catalogue: Catalogue
    _: KW_ONLY
    alerts: dict[Scope, Alert] = field(default_factory=dict)
    findings: dict[FindingKey, Finding] = field(default_factory=dict)
    feeds: dict[FindingKey, Scope] = field(default_factory=dict)
    ids: dict[SeriesKey, SeriesId] = field(default_factory=dict)
    _files: dict[SeriesKey, _File] = field(default_factory=dict)
    _ended: dict[Scope, datetime] = field(default_factory=dict)
    _numbers: dict[tuple[str, int], int] = field(default_factory=dict)
    _views: dict[SeriesKey, dict[tuple[str, str], Views]] = field(default_factory=dict)

    def post(self, entries: Sequence[Entry], now: datetime) -> Judgement:
        """One transaction: files the entries and judges them together.

        Returns:
            What was judged; alerts that were published carry their references.
        """
        before = {key: file.until for key, file in self._files.items()}
        news: dict[SeriesKey, list[Entry]] = {}
        for entry in entries:
            news.setdefault(entry.key, []).append(entry)
        tracks = self._tracks_of({*self._files, *news})
        for track in tracks:
            if track.key in news:
                self._take(track, news[track.key], now)
        changed = {t.series: list(t.corrections) for t in tracks if t.begins_at is not None}
        joint = {t.series: self._joint_scopes(t.key) for t in tracks}
        again = hindsight.late(tracks, {}, self._ended, joint)
        begins_at = min((e.at for e in entries), default=now)
        ahead = [self._ahead(track, begins_at) for track in tracks]
        outcome = judgement.judge(ahead, self._dockets(), self.catalogue, now)
        looked_at = outcome.touched.union(*joint.values())
        again |= hindsight.late(tracks, self._horizons(looked_at, before), {}, joint)
        outcome = outcome.without(again)
        for scope in sorted(again):
            outcome.add(self._judge_again(scope, changed, now, before))
        return self._write(outcome, now)

    def sweep(self, now: datetime) -> Judgement:
        """What is due by time alone: feeds gone quiet first, then open alerts."""
        tracks = self._tracks_of(self._files)
        newest = [replace(t, known=t.known[-1:]) for t in tracks]
        self.findings.update(judgement.judge_silence(newest, now))
        tracks = self._tracks_of(self._files)
        unheard = [replace(t, questions=q) for t in tracks if (q := self._unheard(t, now))]
        outcome = judgement.judge_time(self._dockets(), self.profiles, self.catalogue, now, unheard)
        return self._write(outcome, now)

    def evidence(self, key: SeriesKey, profile: Profile, rule: Rule) -> Evidence:
        """A finding with what is needed to speak of it."""
        series = self._id(key)
        finding = self.findings.get((series, profile.id, rule.id), QUIET)
        behind = [r for r in self._file(key).told() if r.at == finding.observed_at]
        report = behind[-1] if behind else None
        return Evidence(rule, series, key, self._unit(key), finding, report)

    def _id(self, key: SeriesKey) -> SeriesId:
        return self.ids.setdefault(key, SeriesId(len(self.ids) + 1))

    def _file(self, key: SeriesKey) -> _File:
        return self._files.setdefault(key, _File())

    def _unit(self, key: SeriesKey) -> str:
        indicator = self.catalogue.indicators.get(key.indicator)
        return indicator.unit if indicator else ""

    def _questions(self, key: SeriesKey) -> list[tuple[Profile, Rule]]:
        return [(p, r) for p in self.profiles for r in p.rules if r.asks(key) and not r.is_joint]

    def _joint_scopes(self, key: SeriesKey) -> set[Scope]:
        return {p.scope_of(subject) for p, _, subject in joint_questions(self.profiles, key)}

    def _scopes(self, key: SeriesKey) -> set[Scope]:
        """Every scope that a series may move."""
        return {p.scope_of(key) for p, _ in self._questions(key)} | self._joint_scopes(key)

    def _tracks_of(self, keys: Iterable[SeriesKey]) -> list[Track]:
        """The tracks of these series, as known; then those of the joint rules they have a part in.

        A desk holds few series: all of them are judged together, to be read by any.
        """
        measured = sorted(k for k in keys if not k.indicator.startswith("rule:"))
        tracks = [self._track(key, self._questions(key)) for key in measured]
        asked: dict[SeriesKey, dict[tuple[str, str], tuple[Profile, Rule]]] = {}
        for key in measured:
            for profile, rule, subject in joint_questions(self.profiles, key):
                asked.setdefault(subject, {})[profile.id, rule.id] = (profile, rule)
        tracks += [self._track(key, list(asked[key].values())) for key in sorted(asked)]
        return tracks

    def _track(self, key: SeriesKey, questions: Sequence[tuple[Profile, Rule]]) -> Track:
        file, series = self._file(key), self._id(key)
        return Track(
            series,
            key,
            self._unit(key),
            questions,
            known=list(file.history),
            reports=file.told(),
            findings={k[1:]: f for k, f in self.findings.items() if k[0] == series},
            breaks=sorted({at for p, _ in questions for at in p.breaks_of(key)}),
            views=self._views.setdefault(key, {}),
            voices=_voices(file, questions),
        )

    def _take(self, track: Track, entries: Sequence[Entry], now: datetime) -> None:
        """Files what is said of one series, and notes on its track what of it is new."""
        file = self._file(track.key)
        until = file.until
        for entry in entries:
            if entry.report is None:
                self._take_value(track, file, entry, now)
            else:
                _take_report(track, file, entry.report)
        file.until = max([e.at for e in entries] + ([until] if until else []))
        begin = 0 if until is None else bisect_right(file.history, until, key=_instant)
        track.known, track.fresh = file.history[:begin], file.history[begin:]
        track.voices = _voices(file, track.questions)
        new = {(r.at, r.partner) for r in track.fresh_reports}
        track.reports = file.told()
        track.fresh_reports = [r for r in track.reports if (r.at, r.partner) in new]

    def _take_value(self, track: Track, file: _File, entry: Entry, now: datetime) -> None:
        was, said = file.value(entry.at), file.voices.setdefault(entry.at, {})
        if entry.value is None:
            said.pop(entry.by.id, None)
        else:
            said[entry.by.id] = Voice(
                *entry.by, entry.value, entry.origin, now, entry.origin_ref, entry.reliability
            )
        file.put(entry.at)
        stands, trusts = file.value(entry.at), _trusts(track.questions)
        if file.until is not None and entry.at <= file.until and (was != stands or trusts):
            track.corrections.append(Correction(entry.at, was, stands))

    def _ahead(self, track: Track, begins_at: datetime) -> Track:
        """The track as it is judged ahead, known only as far back as the rules say they look.

        What corrects the past is not judged ahead. Rules look back from where the transaction
        begins, or from the onset at which a finding or an alert freezes what is usual.
        """
        if track.corrections:
            track = replace(track, fresh=[], fresh_reports=[])
        known, first = track.known, len(track.known)
        asked = [(p, r, track.key) for p, r in track.questions]
        for profile, rule, key in asked + joint_questions(self.profiles, track.key):
            span, observations = detectors.reach_of(rule)
            finding = self.findings.get((self._id(key), profile.id, rule.id), QUIET)
            alert = self.alerts.get(profile.scope_of(key))
            onsets = [finding.onset, alert.opened_at if alert else None]
            anchor = min([begins_at, *(at for at in onsets if at is not None)])
            place = bisect_left(known, anchor, key=_instant)
            since = bisect_left(known, anchor - span, hi=place, key=_instant)
            first = min(first, since, max(place - observations, 0))
        return replace(track, known=known[first:])

    def _horizons(
        self, scopes: Collection[Scope], before: Mapping[SeriesKey, datetime | None]
    ) -> dict[Scope, Horizon]:
        """The newest observation that each scope's series had before."""
        found: dict[Scope, Horizon] = {}
        for key, at in before.items():
            for scope in self._scopes(key) & set(scopes):
                if at is not None:
                    found[scope] = max(found.get(scope, (at, key)), (at, key))
        return found

    def _judge_again(
        self,
        scope: Scope,
        changed: Mapping[SeriesId, Sequence[Correction]],
        now: datetime,
        before: Mapping[SeriesKey, datetime | None],
    ) -> Judgement:
        profile = next(p for p in self.profiles if p.id == scope.mechanism)
        tracks = self._tracks_of(key for key in self._files if scope in self._scopes(key))
        for track in tracks:
            track.fresh, track.known = track.known, []
        docket = self._dockets().get(scope, Docket())
        horizon = self._horizons([scope], before).get(scope)
        until = horizon[0] if horizon else None
        return hindsight.judge_again(
            profile, scope, tracks, changed, docket, self.catalogue, now, until
        )

    def _unheard(self, track: Track, now: datetime) -> list[tuple[Profile, Rule]]:
        """The rules that may open an alert now, fire on the track, and feed none."""
        return [
            (profile, rule)
            for profile, rule in track.questions
            if rule.effect is Effect.early_warning
            and not rule.shadow
            and profile.in_force(now.date())
            and track.findings.get((profile.id, rule.id), QUIET).fires
            and (track.series, profile.id, rule.id) not in self.feeds
        ]

    def _dockets(self) -> dict[Scope, Docket]:
        """Every open alert with what feeds it."""
        keys = {series: key for key, series in self.ids.items()}
        asked = {(p.id, r.id): (p, r) for p in self.profiles for r in p.rules}
        dockets = {scope: Docket(alert) for scope, alert in self.alerts.items()}
        for found, scope in self.feeds.items():
            dockets[scope].evidence[found] = self.evidence(keys[found[0]], *asked[found[1:]])
        return dockets

    def _write(self, outcome: Judgement, now: datetime) -> Judgement:
        self._ended.update(outcome.ended)
        for key, finding in outcome.findings.items():
            self.findings.pop(key, None)
            self.feeds.pop(key, None)
            if not finding.is_quiet:
                self.findings[key] = finding
                if key in outcome.feeds:
                    self.feeds[key] = outcome.feeds[key]
        for place, published in enumerate(outcome.published):
            scope = published.scope
            if published.transition.type is EventType.opened:
                ref = self._next_ref(scope.mechanism, now.year)
            else:
                ref = self.alerts[scope].ref
            alert = replace(published.alert, ref=ref)
            self.alerts[scope] = alert
            if alert.state is AlertState.resolved:
                del self.alerts[scope]
            outcome.published[place] = replace(published, alert=alert)
        for scope, why in outcome.restated.items():
            self.alerts[scope] = replace(self.alerts[scope], why=why)
        return outcome

    def _next_ref(self, mechanism: str, year: int) -> str:
        prefix = next(p.reference_prefix for p in self.profiles if p.id == mechanism)
        number = self._numbers[prefix, year] = self._numbers.get((prefix, year), 0) + 1
        return f"{prefix}-{year}-{number:04d}"


def _trusts(questions: Iterable[tuple[Profile, Rule]]) -> bool:
    """Whether any rule asks who says so."""
    return any(rule.trust is not None for _, rule in questions)


def _voices(
    file: _File, questions: Iterable[tuple[Profile, Rule]]
) -> dict[datetime, Sequence[Voice]]:
    """Who said what of each instant, where a rule asks."""
    if not _trusts(questions):
        return {}
    return {at: list(said.values()) for at, said in file.voices.items()}


def _take_report(track: Track, file: _File, report: Report) -> None:
    """Files one report; of one instant a partner's newest word counts."""
    place = (report.at, report.partner)
    was = file.reports.pop(place, None)
    if report.severity is not Severity.none:
        file.reports[place] = report
    if was is None and report.severity is not Severity.none:
        track.fresh_reports.append(report)
    elif was is not None and was != report:
        now = float(report.severity) or None
        track.corrections.append(Correction(report.at, float(was.severity), now))
