"""Drives the engine over recorded history as the live service drives it, and keeps what happened.

There is no second judgement here: every observation goes through ``judgement.judge`` and every
correction through ``hindsight``. History is judged by the rules of now: validity and effective
dates of a profile, which say from when on alerts may be issued in earnest, are lifted (``lasting``).
Feeds that fall silent are not swept for: silence moves no severity, and no alert hears of it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from alerts import detectors, hindsight, judgement
from alerts.catalogue import Catalogue
from alerts.detectors.joint import joint_questions
from alerts.findings import QUIET, Finding
from alerts.hindsight import Horizon
from alerts.lifecycle import Alert, AlertState, EventType, Evidence
from alerts.mechanisms import OpenWithoutEasing, Profile, Scope
from alerts.rules import (
    Combination,
    Effect,
    Rule,
)
from alerts.signals import Report, Sample, SeriesId, SeriesKey, Severity, Voice
from alerts.skill import Episode, Watched
from alerts.tracks import Correction, Docket, FindingKey, Judgement, Track, Turn

GAPS_LOOKED_AT = 100
GAPS_THAT_TELL = 12
"""How often a series is observed shows in so many gaps; with fewer the catalogue is believed."""

KnownAt = Callable[[SeriesId, datetime], datetime]
"""When an observation of a series could be known."""

Voices = Mapping[datetime, Sequence[Voice]]
"""Who reported each instant of a series."""

A_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_instant = attrgetter("at")
_told_by = attrgetter("at", "partner")


def lasting(profile: Profile) -> Profile:
    """The profile as if it had always been in force, and every rule of it."""
    rules = tuple(replace(rule, effective_from=None) for rule in profile.rules)
    return replace(profile, valid_from=date.min, valid_until=date.max, rules=rules)


class Arrival(NamedTuple):
    """What is known of one instant of a series from now on; a value of None takes it back."""

    series: SeriesId
    at: datetime
    value: float | None = None
    report: Report | None = None
    voices: tuple[Voice, ...] = ()


class Moved(NamedTuple):
    """A published transition: of which alert, when it was observed and when it was told."""

    scope: Scope
    type: EventType
    at: datetime
    told_at: datetime
    severity: Severity
    level: str
    number: int


@dataclass(slots=True)
class _Seen:
    """How often a series was observed, and when."""

    count: int = 0
    first: datetime | None = None
    last: datetime | None = None
    gaps: list[float] = field(default_factory=list)

    def add(self, instants: Sequence[datetime]) -> None:
        """Takes note of instants, oldest first; only what is newer says how often there are any."""
        self.count += len(instants)
        if len(self.gaps) < GAPS_LOOKED_AT and (self.last is None or instants[0] > self.last):
            before = [] if self.last is None else [self.last]
            row = [*before, *instants[: GAPS_LOOKED_AT + 1]]
            self.gaps += [(b - a) / A_DAY for a, b in pairwise(row)]
        self.first = min(self.first or instants[0], instants[0])
        self.last = max(self.last or instants[-1], instants[-1])

    def every_days(self, usual: float) -> float:
        """The gap between its observations, or the usual one where too few were seen."""
        return median(self.gaps) if len(self.gaps) >= GAPS_THAT_TELL else usual


class _History:
    """The values of one series as they are known, in 16 bytes each."""

    __slots__ = ("_ats", "_values")

    def __init__(self) -> None:
        self._ats = array("q")
        self._values = array("d")

    def get(self, at: datetime) -> float | None:
        place, found = self._place(at)
        return self._values[place] if found else None

    def put(self, at: datetime, value: float | None) -> None:
        place, found = self._place(at)
        if value is None:
            if found:
                del self._ats[place], self._values[place]
        elif found:
            self._values[place] = value
        else:
            self._ats.insert(place, (at - _EPOCH) // _MICROSECOND)
            self._values.insert(place, value)

    def samples(self) -> list[Sample]:
        return [
            Sample(_EPOCH + at * _MICROSECOND, value)
            for at, value in zip(self._ats, self._values, strict=True)
        ]

    def _place(self, at: datetime) -> tuple[int, bool]:
        wanted = (at - _EPOCH) // _MICROSECOND
        if not self._ats or wanted > self._ats[-1]:
            return len(self._ats), False
        place = bisect_left(self._ats, wanted)
        return place, self._ats[place] == wanted


@dataclass(slots=True)
class _News:
    """What of one request is about one series; corrections are of what it has judged before."""

    arrivals: list[Arrival] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)


@dataclass(slots=True)
class _Fire:
    """An episode in the making: the rules that fire now, and all that have."""

    opened: datetime
    known_at: datetime
    peak: Severity = Severity.none
    now: dict[str, Severity] = field(default_factory=dict)
    rules: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Replay:
    """One profile, some series, and their history in the making.

    Either everything is ``observe``d in the order of observation, or everything ``arrive``s in the
    order in which it became known. Series whose alerts may touch belong into one replay; a
    replay of several scopes is the same as one of each.

    Args:
        profile: as it judges; see ``lasting``.
        catalogue: names, units and the gaps between observations.
        keys: the series, by the ids that entries name.
    """

    profile: Profile
    catalogue: Catalogue
    keys: Mapping[SeriesId, SeriesKey]
    moved: list[Moved] = field(default_factory=list)
    broken: set[tuple[str, str]] = field(default_factory=set)
    _tracks: dict[SeriesId, Track] = field(default_factory=dict)
    _members: dict[SeriesId, list[SeriesId]] = field(default_factory=dict)
    _subjects: dict[SeriesId, list[SeriesId]] = field(default_factory=dict)
    _dockets: dict[Scope, Docket] = field(default_factory=dict)
    _histories: dict[SeriesId, _History] = field(default_factory=dict)
    _horizons: dict[Scope, Horizon] = field(default_factory=dict)
    _seen: dict[SeriesId, _Seen] = field(default_factory=dict)
    _fires: dict[SeriesId, _Fire] = field(default_factory=dict)
    _episodes: list[Episode] = field(default_factory=list)
    _rules: dict[str, Rule] = field(default_factory=dict)
    _said_until: dict[SeriesId, datetime] = field(default_factory=dict)
    _ended: dict[Scope, datetime] = field(default_factory=dict)
    _time_at: datetime | None = None

    def __post_init__(self) -> None:
        """Lays out a track for every series that some rule asks, and for every joint finding."""
        profile = self.profile
        self._rules = {rule.id: rule for rule in profile.rules}
        subjects: dict[SeriesKey, SeriesId] = {}
        last = max(self.keys, default=SeriesId(0))
        for series in sorted(self.keys):
            key = self.keys[series]
            self._seen[series] = _Seen()
            alone = [(profile, r) for r in profile.rules if not r.is_joint and r.asks(key)]
            together = joint_questions([profile], key)
            if not alone and not together:
                continue
            indicator = self.catalogue.indicators.get(key.indicator)
            unit, breaks = indicator.unit if indicator else "", profile.breaks_of(key)
            self._tracks[series] = Track(series, key, unit, alone, breaks=breaks)
            for _, rule, subject in together:
                one = subjects.setdefault(subject, SeriesId(last + len(subjects) + 1))
                track = self._tracks.setdefault(one, Track(one, subject, "", []))
                if (profile, rule) not in track.questions:
                    track.questions = [*track.questions, (profile, rule)]
                if series not in self._members.setdefault(one, []):
                    self._members[one].append(series)
                    self._subjects.setdefault(series, []).append(one)

    def observe(
        self,
        fresh: Mapping[SeriesId, list[Sample]],
        told: Mapping[SeriesId, list[Report]],
        now: datetime,
        known_at: KnownAt,
        said: Mapping[SeriesId, Voices] | None = None,
    ) -> None:
        """Judges what is newer than everything before, each series oldest first.

        Args:
            fresh: new samples.
            told: new reports of events.
            now: the instant of judgement.
            known_at: when an observation of a series could be known.
            said: who reported the new samples, where rules ask for it.
        """
        moved: list[Track] = []
        for series in sorted({*fresh, *told}):
            instants = [s.at for s in fresh.get(series, ())] + [r.at for r in told.get(series, ())]
            self._seen[series].add(instants)
            track = self._tracks.get(series)
            if track is not None:
                track.fresh = fresh.get(series, [])
                track.fresh_reports = told.get(series, [])
                track.reports = [*track.reports, *track.fresh_reports]
                if said and series in said:
                    track.voices = {**track.voices, **said[series]}
                moved.append(track)
        if moved:
            outcome = self._judge(moved, now)
            self._note(outcome, now, known_at)

    def arrive(self, arrivals: Iterable[Arrival], now: datetime) -> None:
        """Judges what became known at one instant, as one request: new, late, revised, taken back.

        A scope whose past it changes is judged again from its beginning, the others go on.
        """
        self._pass_time(now)
        news = self._news(arrivals)
        for series, found in news.items():
            track = self._tracks[series]
            standing = {_told_by(r) for r in track.reports}
            self._seen[series].add([arrival.at for arrival in found.arrivals])
            for arrival in found.arrivals:
                self._keep(track, arrival)
            track.corrections = found.corrections
            if not found.corrections:
                heard = [a for a in found.arrivals if a.report is None and a.value is not None]
                track.fresh = [Sample(a.at, a.value) for a in heard if a.value is not None]
                track.fresh_reports = [r for r in track.reports if _told_by(r) not in standing]
        self._judge_news([self._tracks[series] for series in sorted(news)], news, now)
        for series, found in news.items():
            track = self._tracks[series]
            track.corrections = []
            latest = max(a.at for a in found.arrivals)
            self._said_until[series] = max(self._said_until.get(series, latest), latest)
            newest = self._said_until[series], track.key
            for scope in self._scopes_of(track):
                self._horizons[scope] = max(self._horizons.get(scope, newest), newest)

    def watched(self) -> list[Watched]:
        """Every series of which something was heard."""
        found: list[Watched] = []
        for series, seen in self._seen.items():
            if seen.first is None or seen.last is None:
                continue
            key = self.keys[series]
            indicator = self.catalogue.indicators.get(key.indicator)
            track = self._tracks.get(series)
            rules = [rule for _, rule in track.questions] if track else []
            for subject in self._subjects.get(series, ()):
                rules += [rule for _, rule in self._tracks[subject].questions]
            found.append(
                Watched(
                    key,
                    seen.every_days(indicator.every_days if indicator else 1.0),
                    seen.first,
                    seen.last,
                    seen.count,
                    judged=any(_warns(r) for r in rules),
                    told=key.indicator in self.catalogue.events,
                    pause=max((r.clear_after for r in rules if _warns(r)), default=0),
                )
            )
        return found

    def episodes(self) -> list[Episode]:
        """Every time in which a series fired; those that last have no end."""
        lasting = [self._episode(series, fire, None) for series, fire in self._fires.items()]
        return [*self._episodes, *lasting]

    def _judge(self, moved: Sequence[Track], now: datetime) -> Judgement:
        """Judges what is new on tracks, beside those that joint rules read with them."""
        begins_at = min(at for t in moved if (at := t.begins_at) is not None)
        for track in moved:
            self._forget(track, begins_at)
        here = {t.series: t for t in moved}
        for track in moved:
            for subject in self._subjects.get(track.series, ()):
                for series in (subject, *self._members[subject]):
                    here.setdefault(series, self._tracks[series])
        tracks = [here[series] for series in sorted(here)]
        outcome = judgement.judge(tracks, self._dockets, self.catalogue, now)
        for track in moved:
            track.known += track.fresh
            track.fresh, track.fresh_reports = [], []
        return outcome

    def _forget(self, track: Track, begins_at: datetime) -> None:
        """Drops what no rule reaches back to from ``begins_at``, or from where it is frozen."""
        known = track.known
        first = len(known)
        about = [track, *(self._tracks[s] for s in self._subjects.get(track.series, ()))]
        for asked in about:
            docket = self._dockets.get(self.profile.scope_of(asked.key))
            opened = [docket.alert.opened_at] if docket and docket.alert else []
            for _, rule in asked.questions:
                finding = asked.findings.get((self.profile.id, rule.id), QUIET)
                onset = [finding.onset] if finding.onset else []
                anchor = min([begins_at, *opened, *onset])
                span, observations = detectors.reach_of(rule)
                place = bisect_left(known, anchor, key=_instant)
                since = bisect_left(known, anchor - span, hi=place, key=_instant)
                first = min(first, since, max(place - observations, 0))
        if track.voices and not self._histories:
            dropped = {s.at for s in known[:first]}
            track.voices = {at: v for at, v in track.voices.items() if at not in dropped}
        del known[:first]

    def _note(
        self,
        outcome: Judgement,
        now: datetime,
        known_at: KnownAt,
    ) -> None:
        """Keeps what a judgement says, as the service would write it down."""
        for (series, mechanism, rule), finding in outcome.findings.items():
            if series in self._tracks:
                self._tracks[series].findings[mechanism, rule] = finding
        for published in outcome.published:
            alert, transition = published.alert, published.transition
            self.moved.append(
                Moved(
                    published.scope,
                    transition.type,
                    transition.at,
                    now,
                    alert.severity,
                    alert.level.name,
                    transition.number,
                )
            )
        self._ended.update(outcome.ended)
        self.broken.update((rule, said) for _, rule, said in outcome.broken)
        for turn in outcome.turns:
            self._turn(turn, known_at)

    def _turn(self, turn: Turn, known_at: KnownAt) -> None:
        """Follows a series as its rules begin and cease to fire.

        A joint finding is about the series whose own findings made it, or about all it reads.
        """
        subject, _, rule_id = turn.key
        rule = self._rules[rule_id]
        if subject not in self._tracks or not _warns(rule):
            return
        for series in self._about(subject, rule):
            fire = self._fires.get(series)
            if turn.after.fires:
                if fire is None:
                    fire = self._fires[series] = _Fire(turn.at, known_at(series, turn.at))
                fire.now[rule_id] = turn.after.severity
                fire.rules.add(rule_id)
                fire.peak = max(fire.peak, turn.after.severity)
            elif fire is not None and fire.now.pop(rule_id, None) is not None and not fire.now:
                self._episodes.append(self._episode(series, fire, turn.at))
                del self._fires[series]

    def _about(self, subject: SeriesId, rule: Rule) -> list[SeriesId]:
        """The series that a rule's finding is about."""
        members = self._members.get(subject)
        if members is None:
            return [subject]
        if not isinstance(rule.detector, Combination):
            return members
        parts = [(self.profile.id, part) for part in rule.detector.rules]
        on = [s for s in members if rule.id in (f.now if (f := self._fires.get(s)) else ())]
        fire = [
            s
            for s in members
            if s not in on
            and any(self._tracks[s].findings.get(part, QUIET).fires for part in parts)
        ]
        return [*on, *fire]

    def _episode(self, series: SeriesId, fire: _Fire, resolved: datetime | None) -> Episode:
        key, rules = self.keys[series], tuple(sorted(fire.rules))
        return Episode(key, fire.opened, resolved, fire.peak, fire.known_at, rules)

    def _standing(self, track: Track, arrival: Arrival) -> tuple[float | None, float | None]:
        """What was known of an instant and what is known now; of a report its severity."""
        report = arrival.report
        if report is None:
            return self._history(track.series).get(arrival.at), arrival.value
        before = [r for r in track.reports if _told_by(r) == _told_by(report)]
        was = float(before[0].severity) if before else None
        if before and before[0] == report:
            return was, was
        return was, float(report.severity) or None

    def _keep(self, track: Track, arrival: Arrival) -> None:
        report = arrival.report
        if report is None:
            self._history(track.series).put(arrival.at, arrival.value)
            if arrival.voices:
                track.voices = {**track.voices, arrival.at: arrival.voices}
            return
        others = [r for r in track.reports if _told_by(r) != _told_by(report)]
        track.reports = sorted([*others, *([report] if report.severity else [])], key=_told_by)

    def _history(self, series: SeriesId) -> _History:
        return self._histories.setdefault(series, _History())

    def _last(self, track: Track) -> datetime | None:
        """The newest instant of which anything was said, taken back or not."""
        return self._said_until.get(track.series)

    def _news(self, arrivals: Iterable[Arrival]) -> dict[SeriesId, _News]:
        """What is new or changed on each series; what says nothing new is left out."""
        news: dict[SeriesId, _News] = {}
        for arrival in sorted(arrivals, key=lambda a: (a.at, a.series)):
            track = self._tracks.get(arrival.series)
            if track is None:
                self._seen[arrival.series].add([arrival.at])
                continue
            was, standing = self._standing(track, arrival)
            if was == standing and _says_as_before(track, arrival):
                continue
            last = self._last(track)
            is_past = was is not None or (
                arrival.report is None and last is not None and arrival.at <= last
            )
            if standing is None and not is_past:
                continue
            found = news.setdefault(arrival.series, _News())
            found.arrivals.append(arrival)
            if is_past:
                found.corrections.append(Correction(arrival.at, was, standing))
        return news

    def _scopes_of(self, track: Track) -> set[Scope]:
        """The scopes that a series has a part in, by itself and through joint rules."""
        own = {self.profile.scope_of(track.key)} if track.questions else set()
        return own | self._joint_scopes(track.series)

    def _joint_scopes(self, series: SeriesId) -> set[Scope]:
        subjects = self._subjects.get(series, ())
        return {self.profile.scope_of(self._tracks[s].key) for s in subjects}

    def _judge_news(
        self, moved: Sequence[Track], news: Mapping[SeriesId, _News], now: datetime
    ) -> None:
        """Judges ahead what has no corrections; what proves late is taken back and judged again."""
        together = {t.series: found for t in moved if (found := self._joint_scopes(t.series))}
        again = hindsight.late(moved, {}, self._ended, together)
        ahead = [t for t in moved if not t.corrections]
        outcome = Judgement()
        if again or hindsight.late(ahead, self._horizons, {}, together):
            before = self._snapshot(ahead)
            if ahead:
                outcome = self._judge(ahead, now)
            looked_at = outcome.touched.union(*together.values())
            horizons = {s: h for s, h in self._horizons.items() if s in looked_at}
            again |= hindsight.late([b.track for b in before], horizons, {}, together)
            self._take_back(before, outcome, again)
            outcome = outcome.without(again)
        elif ahead:
            outcome = self._judge(ahead, now)
        self._note(outcome, now, lambda *_: now)
        for scope in sorted(again):
            self._judge_again(scope, news, now)

    def _snapshot(self, ahead: Sequence[Track]) -> list[_Before]:
        """How tracks stand before they are judged ahead, with those that joint rules read."""
        here = {t.series: t for t in ahead}
        for track in ahead:
            for subject in self._subjects.get(track.series, ()):
                for series in (subject, *self._members[subject]):
                    here.setdefault(series, self._tracks[series])
        scopes = {s for t in here.values() for s in self._scopes_of(t)}
        scopes |= {self.profile.scope_of(t.key) for t in here.values()}
        found = {s: self._dockets.get(s, Docket()) for s in scopes}
        dockets = {s: Docket(d.alert, dict(d.evidence)) for s, d in found.items()}
        return [_Before(replace(t), dict(t.findings), dockets) for t in here.values()]

    def _take_back(
        self, before: Sequence[_Before], outcome: Judgement, again: Collection[Scope]
    ) -> None:
        """Undoes what was judged ahead about scopes that are judged again."""
        for was in before:
            self._dockets.update({s: d for s, d in was.dockets.items() if s in again})
            track = self._tracks[was.track.series]
            for key, scope in outcome.scopes.items():
                if key[0] == track.series and scope in again:
                    track.findings[key[1:]] = was.findings.get(key[1:], QUIET)

    def _judge_again(self, scope: Scope, news: Mapping[SeriesId, _News], now: datetime) -> None:
        """Judges a scope from its beginning, and keeps the alert as it stands then."""
        tracks = [t for t in self._tracks.values() if self._has_part(t, scope)]
        changed = {t.series: news[t.series].corrections for t in tracks if t.series in news}
        for track in tracks:
            track.fresh = self._history(track.series).samples()
        docket = self._dockets.get(scope, Docket())
        horizon = self._horizons.get(scope)
        until = horizon[0] if horizon else None
        outcome = hindsight.judge_again(
            self.profile, scope, tracks, changed, docket, self.catalogue, now, until
        )
        for track in tracks:
            track.known, track.fresh, track.fresh_reports = track.fresh, [], []
        self._note(outcome, now, lambda *_: now)
        self._dockets[scope] = self._docket(scope, docket.alert, outcome)

    def _has_part(self, track: Track, scope: Scope) -> bool:
        if track.series in self._members:
            return self.profile.scope_of(track.key) == scope
        return scope in self._scopes_of(track)

    def _docket(self, scope: Scope, alert: Alert | None, outcome: Judgement) -> Docket:
        """The open alert with what feeds it, from what would have been written down."""
        for published in outcome.published:
            alert = published.alert
        if alert is None or alert.state is AlertState.resolved:
            return Docket()
        alert = replace(alert, why=outcome.restated.get(scope, alert.why))
        fed = (key for key, its in outcome.feeds.items() if its == scope)
        return Docket(alert, {key: self._evidence(key) for key in sorted(fed)})

    def _evidence(self, key: FindingKey) -> Evidence:
        series, mechanism, rule = key
        track = self._tracks[series]
        finding = track.findings.get((mechanism, rule), QUIET)
        report = _report_behind(track.reports, finding)
        return Evidence(self._rules[rule], series, track.key, track.unit, finding, report)

    def _pass_time(self, now: datetime) -> None:
        """Judges open alerts once a day until ``now``, as the sweeps of the service do."""
        began, self._time_at = self._time_at, now
        waits = any(isinstance(r, OpenWithoutEasing) for r in self.profile.recommendations)
        while began is not None and began + A_DAY < now:
            due = {
                scope: docket
                for scope, docket in self._dockets.items()
                if docket.alert is not None and (waits or docket.alert.awaiting)
            }
            if not due:
                return
            began += A_DAY
            outcome = judgement.judge_time(due, [self.profile], self.catalogue, began)
            at = began
            self._note(outcome, began, lambda *_, at=at: at)


def _says_as_before(track: Track, arrival: Arrival) -> bool:
    """Whether the same partners say the same, where that matters."""
    return not arrival.voices or tuple(track.voices.get(arrival.at, ())) == arrival.voices


class _Before(NamedTuple):
    """A track, its findings, and the dockets it may move, as they stood."""

    track: Track
    findings: dict[tuple[str, str], Finding]
    dockets: dict[Scope, Docket]


def _warns(rule: Rule) -> bool:
    """Whether a rule that fires is a warning by itself."""
    return rule.effect is Effect.early_warning and not rule.shadow


def _report_behind(reports: Sequence[Report], finding: Finding) -> Report | None:
    return next((r for r in reversed(reports) if r.at == finding.observed_at), None)
