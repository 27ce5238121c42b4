"""Folds what is new on many series into findings and alerts: the one engine behind live, sweep,
replay, backtest and exercise.

Everything needed is loaded first and given in; nothing is fetched from here. Time runs by the
observations: entries of all series are taken together in the order they were observed. What
changes the past of a scope is for ``hindsight``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter, itemgetter
from statistics import median

from alerts import detectors, explanation, findings, lifecycle
from alerts.catalogue import Catalogue
from alerts.detectors import joint, voices
from alerts.detectors.agreement import Views
from alerts.detectors.events import read_reports
from alerts.detectors.reading import Reading
from alerts.findings import QUIET, Finding, State
from alerts.lifecycle import Alert, AlertState, Cause, Evidence, Occasion, Transition
from alerts.mechanisms import Level, Profile, Scope
from alerts.rules import Agreement, Combination, Effect, EventTrigger, Family, Joint, Measured, Rule
from alerts.signals import Report, Sample, SeriesId, SeriesKey, Severity, Voice
from alerts.tracks import Docket, FindingKey, Judgement, Published, Track, Turn

LONGEST_ERROR = 200
"""What a broken rule says is cut there: it goes into webhooks."""

_Asked = tuple[Profile, Rule, Measured]
_AskedEvent = tuple[Profile, Rule, EventTrigger]

_Entry = tuple[datetime, SeriesKey, SeriesId, int, Sample | Report]

_at = attrgetter("at")
_report_at = attrgetter("at", "partner")


def judge(
    tracks: Sequence[Track], dockets: dict[Scope, Docket], catalogue: Catalogue, now: datetime
) -> Judgement:
    """Judges everything new on the tracks, in the order it was observed.

    Right only where nothing new is older than what its scope has judged (``hindsight.late``).

    Args:
        tracks: the series with something new; their findings and windows loaded. Their
            ``findings`` are moved along in place.
        dockets: open alerts by scope; scopes without one may be missing. Changed in place.
        catalogue: names and units for the explanations.
        now: the instant of judgement.
    """
    bench = Bench(dockets, catalogue, now, {t.series: t for t in tracks})
    bench.run()
    return bench.finish()


def judge_time(
    dockets: dict[Scope, Docket],
    profiles: Iterable[Profile],
    catalogue: Catalogue,
    now: datetime,
    unheard: Sequence[Track] = (),
) -> Judgement:
    """Judges open alerts when only time has passed: announced measures, lasting warnings.

    ``unheard`` are tracks with findings that fire and feed no alert: a shelf has ended, or a
    mechanism is in force again, and what fires now opens or joins one.
    """
    by_id = {p.id: p for p in profiles}
    bench = Bench(dockets, catalogue, now, {t.series: t for t in unheard})
    bench.hear()
    for scope in sorted(dockets):
        profile = by_id.get(scope.mechanism)
        if profile is not None and dockets[scope].alert is not None:
            bench.consider(profile, scope, Cause(Occasion.time, now))
    return bench.finish()


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


@dataclass(frozen=True, slots=True)
class _Subject:
    """A joint rule with the track of its finding and the series it reads."""

    track: Track
    profile: Profile
    rule: Rule
    members: Sequence[Track]


@dataclass(slots=True)
class Bench:
    """One judgement in the making: the tracks it reads and the dockets it moves."""

    dockets: dict[Scope, Docket]
    catalogue: Catalogue
    now: datetime
    tracks: dict[SeriesId, Track]
    outcome: Judgement = field(default_factory=Judgement)
    _windows: dict[SeriesId, list[Sample]] = field(default_factory=dict)
    _trusted_windows: dict[tuple[SeriesId, str], tuple[datetime, list[Sample]]] = field(
        default_factory=dict
    )
    _heard: dict[SeriesId, list[Report]] = field(default_factory=dict)
    _described: dict[tuple[SeriesId, str], tuple[Evidence, Mapping[str, object]]] = field(
        default_factory=dict
    )
    _moved: set[SeriesId] = field(default_factory=set)
    _outdated: set[Scope] = field(default_factory=set)

    def run(self) -> None:
        """Takes what is new on all tracks together, in the order it was observed.

        Joint rules are asked once an instant, when all that was observed then is in its place.
        """
        entries: list[_Entry] = []
        for track in self.tracks.values():
            self._windows[track.series] = _since_break(track)
            place = track.key, track.series
            entries += [(s.at, *place, n, s) for n, s in enumerate(track.fresh)]
            if track.reports:
                new = {(r.at, r.partner) for r in track.fresh_reports}
                heard = [r for r in track.reports if (r.at, r.partner) not in new]
                self._heard[track.series] = heard
                entries += [(r.at, *place, n, r) for n, r in enumerate(track.fresh_reports)]
        entries.sort(key=itemgetter(0, 1, 2, 3))
        subjects = self._subjects()
        for at, together in groupby(entries, key=itemgetter(0)):
            for _, _, series, _, entry in together:
                self._judge_entry(self.tracks[series], entry)
                self._moved.add(series)
            for subject in subjects:
                self._judge_joint(subject, at)
            self._moved.clear()

    def hear(self) -> None:
        """Lets the findings of all tracks that fire feed their alerts, as they stand."""
        for track in self.tracks.values():
            for profile, rule in track.questions:
                found = track.findings.get((profile.id, rule.id), QUIET)
                if found.fires:
                    newest = next(
                        (r for r in reversed(track.reports) if r.at == found.observed_at), None
                    )
                    one = evidence_of(track, profile, rule, found, newest)
                    cause = Cause(Occasion.time, found.observed_at or self.now, one, found)
                    self._settle(track, profile, profile.scope_of(track.key), cause)

    def _judge_entry(self, track: Track, entry: Sample | Report) -> None:
        if isinstance(entry, Report):
            self._judge_report(track, self._heard[track.series], entry)
            return
        window = self._windows[track.series]
        if track.breaks and window and any(window[-1].at < b <= entry.at for b in track.breaks):
            window.clear()
            track.views.clear()
        window.append(entry)
        for profile, rule in track.questions:
            if isinstance(rule.detector, Measured) and rule.judges(entry.at):
                self._judge_sample(track, (profile, rule, rule.detector), window)

    def _judge_sample(self, track: Track, asked: _Asked, window: list[Sample]) -> None:
        """Asks one rule of the newest sample of the window."""
        profile, rule, _ = asked
        if rule.trust is not None:
            window = self._trusted(track, rule, window)
            if not window:
                return
        before = track.findings.get((profile.id, rule.id), QUIET) if track.findings else QUIET
        after = self._next(track, asked, before, window)
        if after is QUIET or (after.is_quiet and before.is_quiet):  # QUIET itself only if it was.
            return
        cause = Cause(
            Occasion.observation, window[-1].at, evidence_of(track, profile, rule, after), before
        )
        self._settle(track, profile, profile.scope_of(track.key), cause)

    def _trusted(self, track: Track, rule: Rule, window: Sequence[Sample]) -> list[Sample]:
        """The window as a rule hears it that asks who says so; empty when nobody it hears does."""
        assert rule.trust is not None
        until, own = self._trusted_windows.get((track.series, rule.id), (None, []))
        begin = 0
        if until is not None and until >= window[0].at:
            begin = bisect_right(window, until, key=_at)
        else:  # A break emptied the window, or nothing was heard yet.
            own.clear()
        self._trusted_windows[track.series, rule.id] = window[-1].at, own
        said = False
        for sample in window[begin:]:
            told = track.voices.get(sample.at)
            kept = voices.heard(rule.trust, told) if told is not None else []
            said = bool(kept) or told is None
            if said:
                value = voices.combined(rule.trust, kept) if kept else sample.value
                own.append(Sample(sample.at, value))
        return own if said else []

    def _subjects(self) -> list[_Subject]:
        """The joint rules to ask, each with the series that it is asked of."""
        found: list[_Subject] = []
        for track in self.tracks.values():
            for profile, rule in track.questions:
                if isinstance(rule.detector, Joint):
                    members = [
                        t for t in self.tracks.values() if _is_member(profile, rule, track, t)
                    ]
                    found.append(_Subject(track, profile, rule, members))
        return found

    def _judge_joint(self, subject: _Subject, at: datetime) -> None:
        """Asks a joint rule at an instant at which one of its members was observed."""
        track, profile, rule = subject.track, subject.profile, subject.rule
        if not rule.judges(at) or not any(m.series in self._moved for m in subject.members):
            return
        before = track.findings.get((profile.id, rule.id), QUIET)
        try:
            reading = self._read_joint(subject, at, before)
        except Exception as error:  # noqa: BLE001 - one broken rule must not stop the others
            reading = Reading(at, None, undefined=self._break(profile, rule, error))
        if reading.is_calm and before.is_quiet:
            return
        after = findings.advance(rule, before, reading)
        cause = Cause(Occasion.observation, at, evidence_of(track, profile, rule, after), before)
        self._settle(track, profile, profile.scope_of(track.key), cause)

    def _read_joint(self, subject: _Subject, at: datetime, before: Finding) -> Reading:
        profile, detector = subject.profile, subject.rule.detector
        if isinstance(detector, Combination):
            states: dict[str, list[tuple[Family, Severity]]] = {}
            for member in subject.members:
                for asked_by, rule in member.questions:
                    found = member.findings.get((profile.id, rule.id), QUIET)
                    if asked_by.id == profile.id and rule.id in detector.rules and found.fires:
                        states.setdefault(rule.id, []).append((rule.family, found.severity))
            return joint.read_findings(detector, states, at)
        assert isinstance(detector, Joint)
        panel = {m.key: self._windows[m.series] for m in subject.members}
        alert = self._alert(profile.scope_of(subject.track.key))
        begun = max((b for m in subject.members for b in m.breaks if b <= at), default=None)
        onsets = [o for o in (before.onset, alert.opened_at if alert else None) if o and o < at]
        frozen_at = min((o for o in onsets if begun is None or o >= begun), default=None)
        return joint.read_panel(detector, {k: w for k, w in panel.items() if w}, at, frozen_at)

    def _judge_report(self, track: Track, heard: list[Report], report: Report) -> None:
        """Asks every event rule of one new report, in the light of those heard before it."""
        heard.append(report)
        heard.sort(key=_report_at)
        at = heard[-1].at
        for profile, rule in track.questions:
            if not isinstance(rule.detector, EventTrigger) or not rule.judges(at):
                continue
            before = track.findings.get((profile.id, rule.id), QUIET)
            told = [r for r in heard if r is report or not _is_over(before, r)]
            after = self._told((profile, rule, rule.detector), before, told)
            if after.is_quiet and before.is_quiet:
                continue
            cause = Cause(
                Occasion.report, at, evidence_of(track, profile, rule, after, report), before
            )
            self._settle(track, profile, profile.scope_of(track.key), cause)

    def _alert(self, scope: Scope) -> Alert | None:
        docket = self.dockets.get(scope)
        return docket.alert if docket else None

    def _next(
        self, track: Track, asked: _Asked, before: Finding, window: Sequence[Sample]
    ) -> Finding:
        """The finding after the newest sample. A rule that raises stops only itself."""
        profile, rule, detector = asked
        at = window[-1].at
        if rule.young_until is not None and len(window) > rule.young_until:
            calm = Reading(at, window[-1].value, bands=tuple(b.severity for b in detector.bands))
            return before if before.is_quiet else findings.advance(rule, before, calm)
        frozen_at = self._onset(track, profile, before, at)
        try:
            views = self._views(track, asked)
            reading = detectors.read(
                detector, window, frozen_at, place=track.key.place, views=views
            )
            if rule.trust is not None and reading.raised > before.severity:
                reading = self._believed(track, asked, before, window, reading)
        except Exception as error:  # noqa: BLE001 - one broken rule must not stop the others
            track.views.pop((profile.id, rule.id), None)
            reading = Reading(at, window[-1].value, undefined=self._break(profile, rule, error))
        if reading.is_calm and (before is QUIET or before.is_quiet):
            return before  # Nearly every sample: nothing to remember, so nothing is made.
        return findings.advance(rule, before, reading)

    def _onset(
        self, track: Track, profile: Profile, before: Finding, at: datetime
    ) -> datetime | None:
        """Where baselines are frozen: the onset of the finding or of the alert, whichever is first.

        One before the last break of the series is of something else.
        """
        alert = self._alert(profile.scope_of(track.key)) if self.dockets else None
        if alert is None and before.onset is None:
            return None  # Nearly every sample.
        begun = max((b for b in track.breaks if b <= at), default=None)
        onsets = [o for o in (before.onset, alert.opened_at if alert else None) if o and o < at]
        return min((o for o in onsets if begun is None or o >= begun), default=None)

    def _believed(
        self,
        track: Track,
        asked: _Asked,
        before: Finding,
        window: Sequence[Sample],
        reading: Reading,
    ) -> Reading:
        """The reading with the highest severity that enough of those who report it would raise.

        One noisy or poisoned feed cannot raise alone, whatever it does to the combined value.
        """
        _, rule, detector = asked
        assert rule.trust is not None
        at = window[-1].at
        told = voices.heard(rule.trust, track.voices.get(at, ()))
        if not told:
            return reading
        alone = {
            v.partner: detectors.read(
                detector, _own(track, v, window), before.onset, place=track.key.place
            ).raised
            for v in told
        }
        for severity in sorted({b for b in reading.bands if b <= reading.raised}, reverse=True):
            if severity <= before.severity:
                break
            if voices.believed(rule.trust, [v for v in told if alone[v.partner] >= severity]):
                return reading._replace(raised=severity)
        lowest = min(b for b in reading.bands if b > before.severity)
        backing = [v for v in told if alone[v.partner] >= lowest]
        awaits = voices.lacking(rule.trust, backing) if not before.fires else ""
        return reading._replace(raised=before.severity, awaits=awaits)

    def _views(self, track: Track, asked: _Asked) -> Views | None:
        """The detector's memory of the series, where it keeps one."""
        profile, rule, detector = asked
        if not isinstance(detector, Agreement):
            return None  # Nearly every rule: no key is made to look one up.
        views = track.views.get((profile.id, rule.id))
        if views is None and (views := detectors.views_of(detector)) is not None:
            track.views[profile.id, rule.id] = views
        return views

    def _told(self, asked: _AskedEvent, before: Finding, reports: Sequence[Report]) -> Finding:
        """The finding after the newest report. A rule that raises stops only itself."""
        profile, rule, detector = asked
        try:
            reading = read_reports(detector, reports)
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
        may_feed = not rule.shadow and rule.effect is not Effect.component
        opens = after.fires and not cause.evidence.is_shelved
        feeds = may_feed and (opens or key in docket.evidence)
        if not feeds and not rule.is_event and after.state is State.ok and not after.raise_run:
            after = QUIET
        before = track.findings.get((profile.id, rule.id), QUIET)
        if (before.state, before.severity) != (after.state, after.severity):
            self.outcome.turns.append(Turn(key, cause.at, before, after))
        track.findings[profile.id, rule.id] = self.outcome.findings[key] = after
        self.outcome.scopes[key] = scope
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
        steps = lifecycle.advance(profile, docket.alert, docket.in_order(), cause, self.now)
        if cause.evidence is not None and not profile.in_force(self.now.date()):
            self.outcome.held_back.add(profile.id)
        self.follow(scope, steps, cause)

    def follow(self, scope: Scope, steps: Sequence[lifecycle.Step], cause: Cause) -> None:
        """Publishes what machine B decided and lets go of what is over."""
        docket = self.dockets[scope]
        for step in steps:
            self._publish(scope, docket, step, cause)
        if docket.alert is None:
            return
        if docket.alert.state is AlertState.resolved:
            self._release(scope, docket, cause)
        elif not steps:
            self._outdated.add(scope)

    def finish(self) -> Judgement:
        """What came of it all. The sentences of open alerts are made true to their newest observation here,
        once, though many may have been taken since the last transition.
        """
        for scope in sorted(self._outdated):
            docket = self.dockets[scope]
            alert = docket.alert
            assert alert is not None, "Whatever closes it is published."
            evidence = [frozen(e, alert.opened_at) for e in docket.in_order()]
            why = explanation.why(evidence, self._sentence, alert.state)
            if why != alert.why:
                self.outcome.restated[scope] = why
                docket.alert = replace(alert, why=why)
        return self.outcome

    def _publish(
        self,
        scope: Scope,
        docket: Docket,
        step: lifecycle.Step,
        cause: Cause,
    ) -> None:
        was = docket.alert
        opened_at = step.alert.opened_at
        evidence = [frozen(e, opened_at) for e in docket.in_order()]
        described = [self._describe(e) for e in evidence]  # First: it is put into words there.
        alert = replace(
            step.alert,
            title=explanation.title(scope, self.catalogue),
            why=explanation.why(evidence, self._sentence, step.alert.state),
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
            reason=explanation.reason(
                step, cause, lambda one: self._sentence(frozen(one, opened_at))
            ),
            explanation=explanation.explain(
                described, alert, taken_back=step.news is lifecycle.News.taken_back
            ),
        )
        fed_by = () if cause.evidence is None else ((cause.evidence.series, cause.at),)
        self.outcome.published.append(Published(scope, alert, transition, tuple(evidence), fed_by))
        self.outcome.restated.pop(scope, None)
        self._outdated.discard(scope)
        docket.alert = alert

    def _describe(self, evidence: Evidence) -> Mapping[str, object]:
        """A finding as data, made once for as long as it stands as it is: transitions tell them all."""
        key = evidence.series, evidence.rule.id
        known = self._described.get(key)
        if known is None or known[0] != evidence:
            known = evidence, explanation.describe(evidence, self.catalogue)
            self._described[key] = known
        return known[1]

    def _sentence(self, evidence: Evidence) -> str:
        """What a finding says; what is described already is not put into words again."""
        known = self._described.get((evidence.series, evidence.rule.id))
        if known is not None and known[0] == evidence:
            return str(known[1]["sentence"])
        return explanation.sentence(evidence, self.catalogue)

    def _release(self, scope: Scope, docket: Docket, cause: Cause) -> None:
        """Lets go of a resolved alert's findings. Of an event it is remembered when it was over."""
        seen = [e.finding.observed_at for e in docket.evidence.values()]
        observed = max((at for at in seen if at is not None), default=cause.at)
        self.outcome.ended[scope] = observed if cause.occasion is Occasion.time else cause.at
        over_at = docket.alert.resolved_at if docket.alert else None
        for (series, mechanism, rule), evidence in docket.evidence.items():
            over = QUIET
            if evidence.rule.is_event:
                over = replace(QUIET, since=over_at, ok_since=over_at)
            self.outcome.findings[series, mechanism, rule] = over
            if docket.alert is not None:
                self.outcome.scopes[series, mechanism, rule] = docket.alert.scope
            self.outcome.feeds.pop((series, mechanism, rule), None)
            if series in self.tracks:
                self.tracks[series].findings[mechanism, rule] = over
        docket.evidence.clear()
        docket.alert = None


def _is_member(profile: Profile, rule: Rule, subject: Track, track: Track) -> bool:
    """Whether a series is among those that a joint rule reads of its subject."""
    if track.series == subject.series or track.key.indicator.startswith("rule:"):
        return False
    if isinstance(rule.detector, Combination):
        return profile.scope_of(track.key) == profile.scope_of(subject.key)
    return rule.asks(track.key) and joint.subject_of(rule, track.key) == subject.key


def _since_break(track: Track) -> list[Sample]:
    """What is known of a track since the last break of its meaning."""
    known = track.known
    if not track.breaks:
        return known[:]
    begun = max((b for b in track.breaks if known and b <= known[-1].at), default=None)
    return known[0 if begun is None else bisect_left(known, begun, key=_at) :]


def _is_over(event: Finding, report: Report) -> bool:
    """Whether a report was known, and over, when the alert that it fed was resolved."""
    return event.ok_since is not None and report.at <= event.ok_since


def frozen(evidence: Evidence, opened_at: datetime) -> Evidence:
    """The evidence with the instant its baseline was frozen at, by the rule that ``judge`` follows."""
    finding = evidence.finding
    if finding.baseline is None or finding.observed_at is None:
        return evidence
    onsets = [o for o in (finding.onset, opened_at) if o and o < finding.observed_at]
    onset = min(onsets, default=None)
    return evidence if onset == evidence.frozen_at else replace(evidence, frozen_at=onset)


def _own(track: Track, voice: Voice, window: Sequence[Sample]) -> list[Sample]:
    """The window as one partner alone reports it; where it said nothing, the middle of the others.

    So what another feed did to the combined values is not laid at this one's door.
    """
    own: list[Sample] = []
    for sample in window:
        said = track.voices.get(sample.at, ())
        mine = [v.value for v in said if v.partner == voice.partner]
        middle = median(v.value for v in said) if said else sample.value
        own.append(Sample(sample.at, mine[0] if mine else middle))
    return own


def evidence_of(
    track: Track, profile: Profile, rule: Rule, finding: Finding, report: Report | None = None
) -> Evidence:
    """A finding with what is needed to speak of it."""
    return Evidence(
        rule,
        track.series,
        track.key,
        track.unit,
        finding,
        report,
        is_shelved=(profile.id, rule.id) in track.shelved,
    )
