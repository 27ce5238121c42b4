"""Judges a scope again, from its beginning, when its past has changed.

Signals come late, are revised and are taken back, and monthly figures come weeks after daily ones.
Whatever is older than what a scope has judged is put in its place, the scope's whole history goes
through the same engine in the order it was observed, and what was published is corrected by one
update or cancel. So the same signals end in the same state in whatever order they arrive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from alerts import explanation, lifecycle
from alerts.catalogue import Catalogue
from alerts.findings import QUIET, Finding
from alerts.judgement import Bench, evidence_of
from alerts.lifecycle import Cause, EventType, Evidence, Occasion
from alerts.mechanisms import Profile, Scope
from alerts.signals import PartnerId, Report, SeriesId, SeriesKey
from alerts.tracks import Correction, Docket, FindingKey, Judgement, Track, Turn

Horizon = tuple[datetime, SeriesKey]
"""The newest observation of a scope: its instant, and the last series, by key, that has it."""


def late(
    tracks: Sequence[Track],
    horizons: Mapping[Scope, Horizon],
    ended: Mapping[Scope, datetime],
    joint: Mapping[SeriesId, Collection[Scope]],
) -> set[Scope]:
    """The scopes whose past the tracks change: they must be judged again.

    Args:
        tracks: with what is new or corrected on them.
        horizons: for each scope that an alert was looked at for, and for each that a joint rule
            is about, the newest observation of its series before. What is older comes late, and
            what is as old when its series comes first by its key: that is the order of judging.
        ended: up to when an alert of a scope was open that is open no more (``Judgement.ended``).
            What belongs before that would have been judged beside it, against frozen baselines.
        joint: the scopes that joint rules on each series are about. A joint rule reads an instant
            once, so for these what is as old comes late too.
    """
    changed: set[Scope] = set()
    for track in tracks:
        is_changed = bool(track.corrections) or _is_overtaken(track)
        if not (is_changed or horizons or ended):
            continue
        scopes = {profile.scope_of(track.key) for profile, _ in track.questions}
        together = set(joint.get(track.series, ()))
        begins_at = track.begins_at
        if is_changed:
            changed |= scopes | together
        elif begins_at is not None:
            place = begins_at, track.key
            changed |= {s for s in scopes if s in horizons and place < horizons[s]}
            changed |= {s for s in scopes if s in ended and begins_at <= ended[s]}
            changed |= {s for s in together if s in horizons and begins_at <= horizons[s][0]}
    return changed


def _is_overtaken(track: Track) -> bool:
    """Whether a new report belongs before one that was heard already: what reports say together
    hangs on their order.
    """
    if not track.fresh_reports:
        return False
    fresh = [_place(r) for r in track.fresh_reports]
    standing = {_place(r) for r in track.reports}.difference(fresh)
    return bool(standing) and min(fresh) < max(standing)


def _place(report: Report) -> tuple[datetime, PartnerId]:
    return report.at, report.partner


def judge_again(
    profile: Profile,
    scope: Scope,
    tracks: Sequence[Track],
    changed: Mapping[SeriesId, Sequence[Correction]],
    docket: Docket,
    catalogue: Catalogue,
    now: datetime,
    until: datetime | None,
) -> Judgement:
    """Judges one scope from its beginning and says what that changes in what was told before.

    Args:
        profile: the scope's mechanism; the rules of now judge all of the past.
        scope: what is judged.
        tracks: every series of the scope: ``fresh`` its whole history as it is known now,
            ``reports`` all that stand, ``findings`` as they were kept. Their ``views`` are brought
            up to date.
        changed: the series with something new, and what of it corrects the past.
        docket: the open alert as it was told, with what feeds it.
        catalogue: names and units for the explanations.
        now: the instant of judgement.
        until: the newest instant the scope had judged before. Up to there the past is corrected by
            one transition; what is newer follows one by one, as if it had come by itself.
    """
    past = Bench({}, catalogue, now, {t.series: _past(scope, t, until) for t in tracks})
    past.run()
    future = {t.series: _future(t, past.tracks[t.series], until) for t in tracks}
    is_last = not any(t.fresh or t.fresh_reports for t in future.values())
    hindsight = past.dockets.get(scope, Docket())
    if hindsight.alert is not None and is_last:  # What is due by time alone is due.
        past.consider(profile, scope, Cause(Occasion.time, now))
    outcome = _corrected(profile, scope, tracks, changed, docket, past)
    bench = Bench({scope: outcome.docket}, catalogue, now, future, outcome.judgement)
    bench.run()
    for track in tracks:
        track.views.update(future[track.series].views)
    return bench.finish()


@dataclass(frozen=True, slots=True)
class _Corrected:
    """What correcting the past made of a scope: what to write down, and how it stands then."""

    judgement: Judgement
    docket: Docket


def _corrected(
    profile: Profile,
    scope: Scope,
    tracks: Sequence[Track],
    changed: Mapping[SeriesId, Sequence[Correction]],
    docket: Docket,
    past: Bench,
) -> _Corrected:
    """Brings the alert as it was told to what the past leaves of it."""
    now = past.now
    told = {
        (t.series, *k): f
        for t in tracks
        if profile.scope_of(t.key) == scope
        for k, f in t.findings.items()
        if k[0] == profile.id
    }
    seen = {(t.series, *k): f for t in past.tracks.values() for k, f in t.findings.items()}
    hindsight = past.dockets.get(scope, Docket())
    if profile.in_force(now.date()) and hindsight.evidence:
        evidence = dict(hindsight.evidence)
    else:  # Nothing is open in hindsight, or nothing is issued: what fed the alert still does.
        evidence = _with_findings(docket.evidence, seen)
    correcting = Bench({scope: Docket(docket.alert, evidence)}, past.catalogue, now, past.tracks)
    outcome = correcting.outcome
    outcome.broken, outcome.held_back = past.outcome.broken, past.outcome.held_back
    outcome.ended.update(past.outcome.ended)
    outcome.touched.add(scope)
    for key in sorted({*told, *seen}):
        before, after = told.get(key, QUIET), seen.get(key, QUIET)
        if before != after:
            outcome.findings[key] = after
        if (before.state, before.severity) != (after.state, after.severity):
            at = after.observed_at or before.observed_at or now
            outcome.turns.append(Turn(key, at, before, after))
    outcome.findings.update({k: e.finding for k, e in evidence.items()})
    outcome.feeds.update(dict.fromkeys(evidence, scope))
    news = [
        one
        for t in past.tracks.values()
        if t.series in changed or any(r.is_joint for _, r in t.questions)
        for one in _news(t, changed.get(t.series, ()), told, evidence)
    ]
    if news:
        cause, is_news = max(news, key=_weight)
        steps = lifecycle.correct(
            profile,
            docket.alert,
            hindsight.alert,
            correcting.dockets[scope].in_order(),
            cause,
            now,
            is_news=is_news,
            has_ended=_has_ended(docket, past),
        )
        correcting.follow(scope, steps, cause)
        correcting.finish()
    corrected = correcting.dockets[scope]
    if corrected.alert is None:
        outcome.feeds.clear()
        for key in outcome.findings:  # What was let go of stands as the past left it.
            outcome.findings[key] = left = seen.get(key, QUIET)
            if key[0] in past.tracks:  # A rule may ask a series no more that feeds the alert.
                past.tracks[key[0]].findings[key[1:]] = left
    outcome.scopes = dict.fromkeys(outcome.findings, scope)
    return _Corrected(outcome, corrected)


def _has_ended(docket: Docket, past: Bench) -> bool:
    """Whether the alert that was told is one that the past opens and closes."""
    told = docket.alert
    return told is not None and any(
        p.transition.type is EventType.resolved and p.alert.opened_at == told.opened_at
        for p in past.outcome.published
    )


def _past(scope: Scope, track: Track, until: datetime | None) -> Track:
    """A series up to an instant as if nothing of it had been judged, asked only for the scope."""
    return replace(
        track,
        questions=[(p, r) for p, r in track.questions if p.scope_of(track.key) == scope],
        known=[],
        fresh=[s for s in track.fresh if until is not None and s.at <= until],
        corrections=[],
        reports=(known := [r for r in track.reports if until is not None and r.at <= until]),
        fresh_reports=known,
        findings={},
        views={},
    )


def _future(track: Track, past: Track, until: datetime | None) -> Track:
    """The rest of the series, with what its past left."""
    return replace(
        past,
        known=past.fresh,
        fresh=[s for s in track.fresh if until is None or s.at > until],
        reports=track.reports,
        fresh_reports=[r for r in track.reports if until is None or r.at > until],
    )


def _with_findings(
    evidence: Mapping[FindingKey, Evidence], findings: Mapping[FindingKey, Finding]
) -> dict[FindingKey, Evidence]:
    return {k: replace(e, finding=findings.get(k, QUIET)) for k, e in evidence.items()}


_News = tuple[Cause, bool]


def _news(
    track: Track,
    corrections: Sequence[Correction],
    told: Mapping[FindingKey, Finding],
    evidence: Mapping[FindingKey, Evidence],
) -> Iterator[_News]:
    """What is to be said of each finding of a changed series, and whether it is news by itself.

    A finding that feeds the alert is news when it differs, and when the correction falls into
    what it has fired on, even if nothing else changes: an update, never a silent edit. What only
    came after others is news when it makes the finding worse, or is a report.
    """
    newest = track.reports[-1] if track.reports else None
    for profile, rule in track.questions:
        key = (track.series, profile.id, rule.id)
        before, after = told.get(key, QUIET), track.findings.get(key[1:], QUIET)
        one = evidence.get(key) or evidence_of(track, profile, rule, after, newest)
        instants = [c.at for c in corrections]
        instants += [at for at in (after.observed_at, before.observed_at) if at is not None]
        instants = instants or [*(s.at for s in track.fresh), *(r.at for r in track.reports)]
        if not instants:
            continue  # All that is new of this series lies ahead.
        words = (
            explanation.corrected(
                [(c.at, c.was, c.now) for c in corrections], track.unit, is_event=rule.is_event
            )
            if corrections
            else ""
        )
        cause = Cause(Occasion.revision, max(instants), one, before, words)
        is_news = key in evidence and (
            _falls_within(corrections, before, after)
            or (
                before != after
                if corrections or rule.is_event
                else after.severity > before.severity
            )
        )
        yield cause, is_news


def _falls_within(corrections: Sequence[Correction], before: Finding, after: Finding) -> bool:
    """Whether a correction lies in the time that a finding has fired."""
    onsets = [f.onset for f in (before, after) if f.onset is not None]
    return bool(onsets) and any(c.at >= min(onsets) for c in corrections)


def _weight(news: _News) -> tuple[bool, int, str]:
    """What is news comes first, then the worst, then by the rule's name."""
    cause, is_news = news
    assert cause.evidence is not None
    before = cause.before.severity if cause.before else 0
    return is_news, max(before, cause.evidence.finding.severity), cause.evidence.rule.id
