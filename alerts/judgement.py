"""Folds what is new on many series into findings and alerts: the one engine behind live, sweep,
replay, backtest and exercise.

Everything needed is loaded first and given in; nothing is fetched from here. Time runs by the
observations: entries of all series are taken together in the order they were observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter

from alerts import detectors, explanation, findings, lifecycle
from alerts.catalogue import Catalogue
from alerts.detectors import Reading
from alerts.findings import QUIET, Finding, State
from alerts.lifecycle import Alert, AlertState, Cause, Evidence, Occasion, Transition
from alerts.mechanisms import Level, Profile, Scope
from alerts.rules import Bands, EventTrigger, PercentChange, Rule
from alerts.signals import Report, Sample, SeriesId, SeriesKey, Severity

LONGEST_ERROR = 200
"""What a broken rule says is cut there: it goes into webhooks."""

FindingKey = tuple[SeriesId, str, str]
"""Series, mechanism, rule id."""

_Asked = tuple[Profile, Rule, Bands | PercentChange]
_AskedEvent = tuple[Profile, Rule, EventTrigger]

_report_at = attrgetter("at", "partner")


@dataclass(frozen=True, slots=True)
class Correction:
    """A value that was revised, came late (no ``was``) or was taken back (no ``now``)."""

    at: datetime
    was: float | None
    now: float | None


@dataclass(slots=True)
class Track:
    """One series as loaded, with what is new on it.

    ``known`` and ``fresh`` are oldest first and do not overlap; ``known`` reaches back as far as
    the rules' memory. When something already judged was corrected, ``corrections`` says what:
    then ``known`` is empty, ``fresh`` is the whole history and findings are judged from the
    beginning; what is newer than ``judged_until`` follows one by one, as if it had come by itself.
    ``reports`` are all reports of an event series, oldest first; ``fresh_reports`` those of them
    that are new.
    """

    series: SeriesId
    key: SeriesKey
    unit: str
    questions: Sequence[tuple[Profile, Rule]]
    known: list[Sample] = field(default_factory=list)
    fresh: list[Sample] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    fresh_reports: list[Report] = field(default_factory=list)
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    judged_until: datetime | None = None


@dataclass(slots=True)
class Docket:
    """The open alert of a scope and the findings that feed it, from any series."""

    alert: Alert | None = None
    evidence: dict[FindingKey, Evidence] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """One transition with the alert and the evidence as they stood right after it.

    ``fed_by`` names the observations that caused it.
    """

    scope: Scope
    alert: Alert
    transition: Transition
    evidence: tuple[Evidence, ...]
    fed_by: tuple[tuple[SeriesId, datetime], ...]


@dataclass(slots=True)
class Judgement:
    """What must be written down.

    ``findings`` holds every changed finding (a quiet one needs no memory) and ``feeds`` the scope
    whose open alert it feeds. ``published`` are the transitions in order; ``restated`` is what
    open alerts say now although nothing was published since. ``touched`` are all scopes an alert
    was looked at for; ``broken`` the rules that raised (mechanism, rule, what); ``held_back`` the
    mechanisms that would have issued but are not in force.
    """

    findings: dict[FindingKey, Finding] = field(default_factory=dict)
    feeds: dict[FindingKey, Scope] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    restated: dict[Scope, str] = field(default_factory=dict)
    touched: set[Scope] = field(default_factory=set)
    broken: list[tuple[str, str, str]] = field(default_factory=list)
    held_back: set[str] = field(default_factory=set)


def judge(
    tracks: Sequence[Track], dockets: dict[Scope, Docket], catalogue: Catalogue, now: datetime
) -> Judgement:
    """Judges everything new on the tracks, in the order it was observed.

    Args:
        tracks: the series with something new; their findings and windows loaded. Their
            ``findings`` are moved along in place.
        dockets: open alerts by scope; scopes without one may be missing. Changed in place.
        catalogue: names and units for the explanations.
        now: the instant of judgement.
    """
    bench = _Bench(dockets, catalogue, now, {t.series: t for t in tracks})
    windows: dict[SeriesId, list[Sample]] = {}
    heard: dict[SeriesId, list[Report]] = {}
    entries: list[tuple[datetime, SeriesId, int, Sample | Report]] = []
    for track in tracks:
        history, fresh = _history(track)
        windows[track.series] = history
        entries += [(s.at, track.series, n, s) for n, s in enumerate(fresh)]
        new = {(r.at, r.partner) for r in track.fresh_reports}
        heard[track.series] = [r for r in track.reports if (r.at, r.partner) not in new]
        entries += [(r.at, track.series, n, r) for n, r in enumerate(track.fresh_reports)]
        if track.corrections:
            bench.judge_anew(track, history, heard[track.series])
    entries.sort(key=lambda entry: entry[:3])
    for _, series, _, entry in entries:
        track = bench.tracks[series]
        if isinstance(entry, Report):
            bench.judge_report(track, heard[series], entry)
        else:
            windows[series].append(entry)
            bench.judge_sample(track, windows[series])
    return bench.outcome


def _history(track: Track) -> tuple[list[Sample], list[Sample]]:
    """What of a track was judged before, and what is to be judged one by one."""
    if not track.corrections:
        return list(track.known), track.fresh
    until = track.judged_until
    if until is None:
        return list(track.fresh), []
    return [s for s in track.fresh if s.at <= until], [s for s in track.fresh if s.at > until]


def judge_time(
    dockets: dict[Scope, Docket], profiles: Iterable[Profile], catalogue: Catalogue, now: datetime
) -> Judgement:
    """Judges open alerts when only time has passed: announced measures, lasting warnings."""
    by_id = {p.id: p for p in profiles}
    bench = _Bench(dockets, catalogue, now, {})
    for scope in sorted(dockets):
        profile = by_id.get(scope.mechanism)
        if profile is not None and dockets[scope].alert is not None:
            bench.consider(profile, scope, Cause(Occasion.time, now))
    return bench.outcome


def judge_silence(tracks: Iterable[Track], now: datetime) -> dict[FindingKey, Finding]:
    """The findings that silence changes: no severity moves, and no alert hears of it.

    Each track's last ``known`` sample is the newest its series has.
    """
    changed: dict[FindingKey, Finding] = {}
    for track in tracks:
        for profile, rule in track.questions:
            if rule.freshness is None or not track.known:
                continue
            before = track.findings.get((profile.id, rule.id), QUIET)
            after = findings.fall_silent(rule.freshness, before, track.known[-1].at, now)
            if after != before:
                changed[track.series, profile.id, rule.id] = after
    return changed


@dataclass(slots=True)
class _Bench:
    dockets: dict[Scope, Docket]
    catalogue: Catalogue
    now: datetime
    tracks: dict[SeriesId, Track]
    outcome: Judgement = field(default_factory=Judgement)

    def judge_sample(self, track: Track, window: list[Sample]) -> None:
        """Asks every rule of the newest sample of the window."""
        for profile, rule in track.questions:
            if isinstance(rule.detector, EventTrigger):
                continue
            scope = profile.scope_of(track.key)
            before = track.findings.get((profile.id, rule.id), QUIET)
            asked = (profile, rule, rule.detector)
            after = self._next(asked, before, window, self._alert(scope))
            if after.is_quiet and before.is_quiet:
                continue
            evidence = _evidence(track, rule, after)
            cause = Cause(Occasion.observation, window[-1].at, evidence, before)
            self._settle(track, profile, scope, cause)

    def judge_report(self, track: Track, heard: list[Report], report: Report) -> None:
        """Asks every event rule of one new report, in the light of those heard before it.

        A report that is older than one heard before is put in its place, and all are judged anew:
        what the reports say together does not hang on the order in which they came.
        """
        is_late = bool(heard) and report.at < heard[-1].at
        heard.append(report)
        heard.sort(key=_report_at)
        at = heard[-1].at
        for profile, rule in track.questions:
            if not isinstance(rule.detector, EventTrigger):
                continue
            before = track.findings.get((profile.id, rule.id), QUIET)
            asked = (profile, rule, rule.detector)
            told = [r for r in heard if r is report or not _is_over(before, r)]
            judged = self._reports_anew if is_late else self._told
            after = judged(asked, before, told)
            if after.is_quiet and before.is_quiet:
                continue
            cause = Cause(Occasion.report, at, _evidence(track, rule, after, report), before)
            self._settle(track, profile, profile.scope_of(track.key), cause)

    def judge_anew(self, track: Track, history: list[Sample], reports: list[Report]) -> None:
        """Judges a corrected series from its beginning, then looks at its alerts once.

        An open alert is told of a correction that falls into it even when nothing else changes:
        an update, never a silent edit.
        """
        for profile, rule in track.questions:
            scope = profile.scope_of(track.key)
            alert = self._alert(scope)
            before = track.findings.get((profile.id, rule.id), QUIET)
            if isinstance(rule.detector, EventTrigger):
                told_since = [r for r in reports if not _is_over(before, r)]
                after = self._reports_anew((profile, rule, rule.detector), before, told_since)
            else:
                after = self._samples_anew((profile, rule, rule.detector), history, alert)
            told = [c for c in track.corrections if alert and c.at >= alert.opened_at]
            feeds = (track.series, profile.id, rule.id) in self._evidence_of(scope)
            if before == after and not (told and feeds):
                continue
            times = [c.at for c in track.corrections]
            at = max([*times, *([after.observed_at] if after.observed_at else [])])
            if feeds and not rule.is_event and after.state is State.ok and after.ok_since is None:
                # In hindsight it never fired; what it fed closes as if it had come back now.
                since = before.ok_since or at
                after = replace(after, ok_since=since, ok_run=before.ok_run, since=since)
            newest = reports[-1] if reports else None
            corrections = [(c.at, c.was, c.now) for c in track.corrections]
            cause = Cause(
                Occasion.revision,
                at,
                _evidence(track, rule, after, newest),
                before,
                explanation.corrected(corrections, track.unit, is_event=rule.is_event),
            )
            self._settle(track, profile, scope, cause)

    def _samples_anew(
        self, asked: _Asked, history: Sequence[Sample], alert: Alert | None
    ) -> Finding:
        finding, window = QUIET, list[Sample]()
        for sample in history:
            window.append(sample)
            finding = self._next(asked, finding, window, alert)
        return finding

    def _reports_anew(
        self, asked: _AskedEvent, before: Finding, reports: Sequence[Report]
    ) -> Finding:
        finding = replace(QUIET, ok_since=before.ok_since)
        for count in range(1, len(reports) + 1):
            finding = self._told(asked, finding, reports[:count])
        return finding

    def _alert(self, scope: Scope) -> Alert | None:
        docket = self.dockets.get(scope)
        return docket.alert if docket else None

    def _evidence_of(self, scope: Scope) -> dict[FindingKey, Evidence]:
        docket = self.dockets.get(scope)
        return docket.evidence if docket else {}

    def _next(
        self, asked: _Asked, before: Finding, window: Sequence[Sample], alert: Alert | None
    ) -> Finding:
        """The finding after the newest sample. A rule that raises stops only itself."""
        profile, rule, detector = asked
        at = window[-1].at
        onsets = [o for o in (before.onset, alert.opened_at if alert else None) if o and o < at]
        try:
            reading = detectors.read(detector, window, min(onsets, default=None))
        except Exception as error:  # noqa: BLE001 - one broken rule must not stop the others
            reading = Reading(at, window[-1].value, undefined=self._break(profile, rule, error))
        if reading.is_calm and before.is_quiet:
            return before  # Nearly every sample: nothing to remember, so nothing is made.
        return findings.advance(rule, before, reading)

    def _told(self, asked: _AskedEvent, before: Finding, reports: Sequence[Report]) -> Finding:
        """The finding after the newest report. A rule that raises stops only itself."""
        profile, rule, detector = asked
        try:
            reading = detectors.read_reports(detector, reports)
        except Exception as error:  # noqa: BLE001 - one broken rule must not stop the others
            said = self._break(profile, rule, error)
            reading = Reading(reports[-1].at, float(reports[-1].severity), undefined=said)
        return findings.advance(rule, before, reading)

    def _break(self, profile: Profile, rule: Rule, error: Exception) -> str:
        """Notes once that a rule raised, and what."""
        said = f"the rule failed ({type(error).__name__}: {str(error)[:LONGEST_ERROR]})"
        failure = (profile.id, rule.id, said)
        if failure not in self.outcome.broken:
            self.outcome.broken.append(failure)
        return said

    def _settle(self, track: Track, profile: Profile, scope: Scope, cause: Cause) -> None:
        """Remembers a changed finding and looks at the alert it feeds, or could open."""
        assert cause.evidence is not None
        rule, after = cause.evidence.rule, cause.evidence.finding
        key = (track.series, profile.id, rule.id)
        docket = self.dockets.setdefault(scope, Docket())
        feeds = after.fires or key in docket.evidence
        if not feeds and not rule.is_event and after.state is State.ok and not after.raise_run:
            after = QUIET
        track.findings[profile.id, rule.id] = self.outcome.findings[key] = after
        if not feeds:
            return
        docket.evidence[key] = cause.evidence
        self.outcome.feeds[key] = scope
        self.consider(profile, scope, cause)
        if docket.alert is None:
            docket.evidence.pop(key, None)
            self.outcome.feeds.pop(key, None)

    def consider(self, profile: Profile, scope: Scope, cause: Cause) -> None:
        """Lets machine B look at a scope and writes down what it does."""
        docket = self.dockets[scope]
        self.outcome.touched.add(scope)
        evidence = [docket.evidence[k] for k in sorted(docket.evidence)]
        steps = lifecycle.advance(profile, docket.alert, evidence, cause, self.now)
        if cause.evidence is not None and not profile.in_force(self.now.date()):
            self.outcome.held_back.add(profile.id)
        for step in steps:
            self._publish(scope, docket, step, cause, evidence)
        if docket.alert is None:
            return
        if docket.alert.state is AlertState.resolved:
            self._release(docket)
        elif not steps:
            self._restate(scope, docket.alert, evidence)

    def _restate(self, scope: Scope, alert: Alert, evidence: Sequence[Evidence]) -> None:
        """Keeps an open alert's sentence true to its newest observation, between transitions."""
        said = [frozen(e, alert.opened_at) for e in evidence]
        why = explanation.why(said, self.catalogue, alert.state)
        if why != alert.why:
            self.outcome.restated[scope] = why
            self.dockets[scope].alert = replace(alert, why=why)

    def _publish(
        self,
        scope: Scope,
        docket: Docket,
        step: lifecycle.Step,
        cause: Cause,
        evidence: Sequence[Evidence],
    ) -> None:
        was = docket.alert
        opened_at = step.alert.opened_at
        evidence = [frozen(e, opened_at) for e in evidence]
        if cause.evidence is not None:
            cause = replace(cause, evidence=frozen(cause.evidence, opened_at))
        alert = replace(
            step.alert,
            title=explanation.title(scope, self.catalogue),
            why=explanation.why(evidence, self.catalogue, step.alert.state),
        )
        transition = Transition(
            number=alert.number,
            type=step.type,
            level_from=was.level if was else Level.monitoring,
            level_to=alert.level,
            severity_from=was.severity if was else Severity.none,
            severity_to=alert.severity,
            at=step.at,
            recorded_at=self.now,
            reason=explanation.reason(step, cause, self.catalogue),
            explanation=explanation.explain(evidence, alert, self.catalogue),
        )
        fed_by = () if cause.evidence is None else ((cause.evidence.series, cause.at),)
        self.outcome.published.append(Published(scope, alert, transition, tuple(evidence), fed_by))
        self.outcome.restated.pop(scope, None)
        docket.alert = alert

    def _release(self, docket: Docket) -> None:
        """Lets go of a resolved alert's findings. Of an event it is remembered when it was over."""
        over_at = docket.alert.resolved_at if docket.alert else None
        for (series, mechanism, rule), evidence in docket.evidence.items():
            over = QUIET
            if evidence.rule.is_event:
                over = replace(QUIET, since=over_at, ok_since=over_at)
            self.outcome.findings[series, mechanism, rule] = over
            self.outcome.feeds.pop((series, mechanism, rule), None)
            if series in self.tracks:
                self.tracks[series].findings[mechanism, rule] = over
        docket.evidence.clear()
        docket.alert = None


def _is_over(event: Finding, report: Report) -> bool:
    """Whether a report was known, and over, when the alert that it fed was resolved."""
    return event.ok_since is not None and report.at <= event.ok_since


def frozen(evidence: Evidence, opened_at: datetime) -> Evidence:
    """The evidence with the instant its baseline was frozen at, by the rule that ``judge`` follows."""
    finding = evidence.finding
    if finding.baseline is None or finding.observed_at is None:
        return evidence
    onsets = [o for o in (finding.onset, opened_at) if o and o < finding.observed_at]
    return replace(evidence, frozen_at=min(onsets, default=None))


def _evidence(track: Track, rule: Rule, finding: Finding, report: Report | None = None) -> Evidence:
    return Evidence(rule, track.series, track.key, track.unit, finding, report)
