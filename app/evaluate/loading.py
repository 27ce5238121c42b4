"""What a judgement needs, loaded: open alerts with what feeds them, series with their windows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter

from alerts.detectors.reading import Reach
from alerts.findings import Finding, carried
from alerts.lifecycle import Alert, Evidence
from alerts.mechanisms import Profile, Scope
from alerts.rules import Rule
from alerts.signals import PartnerId, Report, Sample, SeriesId, SeriesKey
from alerts.tracks import Correction, Docket, FindingKey, Track
from app import store, telemetry
from app.database import Transaction
from app.policy import Brief, Policy
from app.recall import Recall
from app.store.findings import Kept as KeptFinding
from app.store.series import SeriesState

_instant = attrgetter("at")


@dataclass(slots=True)
class Movement:
    """What one transaction changed on one series.

    ``state`` is how the series stood before. ``fresh`` are new samples, oldest first; with
    ``corrections`` the newest that stand instead, ``newer`` has the new ones, and ``gained`` says by
    how many there are more than before. ``written_until`` is the newest instant of which something
    was stored, counted or not. ``said`` names new reports of an event: when, and whose.
    """

    series: SeriesId
    key: SeriesKey
    state: SeriesState
    fresh: list[Sample] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    said: set[tuple[datetime, PartnerId]] = field(default_factory=set)
    written_until: datetime | None = None
    gained: int = 0
    newer: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OnFile:
    """An open alert as stored, and every finding that feeds it."""

    id: int
    alert: Alert
    findings: tuple[KeptFinding, ...]


async def on_file(connection: Transaction, scopes: Collection[Scope]) -> dict[Scope, OnFile]:
    """The open alerts of these scopes, with what feeds them."""
    return (await standing(connection, scopes))[0]


async def standing(
    connection: Transaction, scopes: Collection[Scope]
) -> tuple[dict[Scope, OnFile], dict[Scope, datetime]]:
    """The open alerts of these scopes, and up to when the last ones were open before."""
    found, ended = await store.alerts.standing(connection, scopes)
    feeding: dict[int, list[KeptFinding]] = {}
    if found:
        ids = [k.id for k in found.values()]
        for finding in await store.findings.of_alerts(connection, ids):
            feeding.setdefault(finding.alert_id or 0, []).append(finding)
    filed = {
        scope: OnFile(k.id, k.alert, tuple(sorted(feeding.get(k.id, ()), key=_key)))
        for scope, k in found.items()
    }
    return filed, ended


def _key(kept: KeptFinding) -> FindingKey:
    return kept.key


async def dockets(
    connection: Transaction, policy: Policy, filed: Mapping[Scope, OnFile], now: datetime
) -> dict[Scope, Docket]:
    """The open alerts with everything that feeds them."""
    found = {scope: Docket(kept.alert) for scope, kept in filed.items()}
    if not found:
        return found
    feeding = [(scope, k) for scope, one in filed.items() for k in one.findings]
    keys = await store.series.keys_of(connection, {k.key[0] for _, k in feeding})
    events = {s for s, key in keys.items() if policy.brief(key).is_event}
    reports = await store.signals.reports(connection, events) if events else {}
    for scope, kept in feeding:
        series, mechanism, rule_id = kept.key
        rule = policy.rule(mechanism, rule_id)
        if rule is not None:
            found[scope].evidence[kept.key] = Evidence(
                rule,
                series,
                keys[series],
                policy.brief(keys[series]).unit,
                carried(rule, kept.finding, kept.rule_version),
                _report_behind(reports.get(series, ()), kept.finding.observed_at),
                is_shelved=(mechanism, rule_id) in policy.shelved(series, now),
            )
    return found


def _report_behind(reports: Sequence[Report], at: datetime | None) -> Report | None:
    return next((r for r in reversed(reports) if r.at == at), None)


async def tracks(
    connection: Transaction,
    policy: Policy,
    recall: Recall,
    movements: Sequence[Movement],
    kept: Sequence[KeptFinding],
    dockets: Mapping[Scope, Docket],
    now: datetime,
    frozen: datetime | None,
) -> list[Track]:
    """The tracks to judge, with windows as far back as their rules look.

    ``frozen`` is the earliest instant that a joint rule's baseline is frozen at.
    """
    findings = by_series(kept)
    telling = [m.series for m in movements if policy.brief(m.key).is_event]
    reports = await store.signals.reports(connection, telling) if telling else {}
    begins = [at for m in movements if (at := _begins_at(m)) is not None]
    begins_at = min([*begins, *([frozen] if frozen else [])], default=None)
    loaded: list[Track] = []
    missing: list[tuple[Track, datetime]] = []
    for movement in movements:
        series, key = movement.series, movement.key
        brief = policy.brief(key)
        corrections, fresh = _in_time(brief, movement)
        track = Track(
            series,
            key,
            brief.unit,
            brief.questions,
            fresh=fresh,
            corrections=corrections,
            findings=told(policy, findings[series]) if series in findings else {},
            breaks=brief.breaks,
            shelved=policy.shelved(series, now),
        )
        loaded.append(track)
        remembered = recall.take(series, movement.state.version)
        if brief.is_event:
            track.fresh = []
            track.reports = reports.get(series, [])
            track.fresh_reports = [r for r in track.reports if (r.at, r.partner) in movement.said]
        elif fresh and not corrections and looks_back(brief.reach):
            anchor = anchor_of(track, dockets, begins_at)
            if movement.corrections:  # Too late to be judged, but what is remembered is wrong now.
                missing.append((track, anchor))
                continue
            known = remembered.samples() if remembered else movement.state.samples()
            is_whole = movement.state.observations <= len(known)
            if is_whole or _covers(known, anchor, brief.reach):
                track.known = known
                if remembered and remembered.edition == policy.edition:
                    track.views = remembered.views
            else:
                missing.append((track, anchor))
    if missing:
        await _load_windows(connection, policy, missing)
    await load_voices(connection, policy, loaded)
    return loaded


def _in_time(brief: Brief, movement: Movement) -> tuple[list[Correction], list[Sample]]:
    """The corrections of a movement that are not too late to be judged, and what is new with them.

    Where all of them are too late, only what is newer than the series' last observation is left.
    What is reported of an event is never too late: a warning must not stand on a report taken back.
    """
    allowed, last = brief.lateness, movement.state.last_observed_at
    if not movement.corrections or brief.is_event or allowed is None or last is None:
        return movement.corrections, movement.fresh
    kept = [c for c in movement.corrections if c.at >= last - allowed]
    late = len(movement.corrections) - len(kept)
    if late:
        telemetry.line("corrections.too_late", series=movement.series, corrections=late)
    return kept, movement.fresh if kept else movement.newer


def told(policy: Policy, kept: Iterable[KeptFinding]) -> dict[tuple[str, str], Finding]:
    """Findings by mechanism and rule, as the rules of now take them over."""
    found: dict[tuple[str, str], Finding] = {}
    for one in kept:
        rule = policy.rule(*one.key[1:])
        found[one.key[1:]] = carried(rule, one.finding, one.rule_version) if rule else one.finding
    return found


async def load_voices(connection: Transaction, policy: Policy, loaded: Sequence[Track]) -> None:
    """Adds to tracks with rules that ask for it who reports each instant of their windows."""
    asking = [
        t
        for t in loaded
        if (t.known or t.fresh) and not t.corrections and policy.brief(t.key).trusts
    ]
    if asking:
        wanted = [(t.series, (t.known or t.fresh)[0].at) for t in asking]
        found = await store.signals.voices(connection, wanted)
        for track in asking:
            track.voices = found.get(track.series, {})


def frozen_since(subjects: Sequence[Track], dockets: Mapping[Scope, Docket]) -> datetime | None:
    """The earliest instant that a baseline of these joint findings is frozen at."""
    frozen = [f.onset for t in subjects for f in t.findings.values() if f.onset is not None]
    scopes = {p.scope_of(t.key) for t in subjects for p, _ in t.questions}
    frozen += [d.alert.opened_at for s in scopes if (d := dockets.get(s)) and d.alert]
    return min(frozen, default=None)


async def siblings(
    connection: Transaction,
    policy: Policy,
    moved: Sequence[Track],
    scopes: Collection[Scope],
    frozen: datetime | None,
) -> list[Track]:
    """The other series that joint rules of these scopes read beside those that moved, windows as
    far back as they look.
    """
    begins = [at for t in moved if (at := t.begins_at) is not None]
    if not scopes or not begins:
        return []
    anchor = min([*begins, *([frozen] if frozen else [])])
    here = {t.series for t in moved}
    others = {
        m.series: m
        for found in (await members(connection, policy, scopes)).values()
        for m in found
        if m.series not in here
    }
    kept = by_series(await store.findings.of_series(connection, list(others)))
    beside = [
        Track(
            m.series,
            m.key,
            policy.brief(m.key).unit,
            policy.brief(m.key).questions,
            findings=told(policy, kept.get(m.series, ())),
            breaks=policy.brief(m.key).breaks,
        )
        for m in others.values()
    ]
    wanting = [
        t
        for t in beside
        if looks_back(policy.brief(t.key).reach) and not policy.brief(t.key).is_event
    ]
    states = await store.series.states(connection, [t.series for t in wanting]) if wanting else {}
    missing: list[tuple[Track, datetime]] = []
    for track in wanting:
        state = states[track.series]
        known = state.samples()
        if state.is_whole or _covers(known, anchor, policy.brief(track.key).reach):
            track.known = known
        else:
            missing.append((track, anchor))
    if missing:
        await _load_windows(connection, policy, missing)
    return beside


async def subject_tracks(
    connection: Transaction,
    policy: Policy,
    asked: Iterable[tuple[Profile, Rule, SeriesKey]],
    now: datetime,
) -> list[Track]:
    """The tracks of joint findings: no samples, judged when their members move."""
    each = {(subject, p.id, r.id): (p, r) for p, r, subject in asked}
    questions: dict[SeriesKey, list[tuple[Profile, Rule]]] = {}
    for subject, mechanism, rule in sorted(each):
        questions.setdefault(subject, []).append(each[subject, mechanism, rule])
    if not questions:
        return []
    ids = await store.series.ids_of(connection, list(questions))
    kept = by_series(await store.findings.of_series(connection, list(ids.values())))
    return [
        Track(
            series,
            key,
            "",
            questions[key],
            findings=told(policy, kept.get(series, ())),
            shelved=policy.shelved(series, now),
        )
        for key, series in ids.items()
    ]


async def members(
    connection: Transaction, policy: Policy, scopes: Collection[Scope]
) -> dict[Scope, list[store.series.Member]]:
    """The series that are asked about each scope, by themselves or together with others."""
    found: dict[Scope, list[store.series.Member]] = {}
    for mechanism in sorted({s.mechanism for s in scopes}):
        profile = policy.profiles[mechanism]
        here = {s for s in scopes if s.mechanism == mechanism}
        is_joint = any(r.is_joint for r in profile.rules)
        apart = () if is_joint else profile.alert_per
        for member in await store.series.of_scopes(connection, here, apart):
            about = {
                p.scope_of(member.key)
                for p, _ in policy.brief(member.key).questions
                if p.id == mechanism
            }
            about |= {
                p.scope_of(s) for p, _, s in policy.brief(member.key).joint if p.id == mechanism
            }
            for scope in sorted(about & here):
                found.setdefault(scope, []).append(member)
    return found


def looks_back(reach: Reach) -> bool:
    """Whether anything before the tested sample is needed."""
    return bool(reach.observations or reach.span)


def anchor_of(
    track: Track, dockets: Mapping[Scope, Docket], begins_at: datetime | None = None
) -> datetime:
    """The earliest instant before which a rule of the track may look back: its first new sample,
    or the onset at which a baseline is frozen, be it of an alert that another series opens within
    this transaction, of which ``begins_at`` is the first observation.
    """
    first = track.fresh[0].at
    if begins_at is not None and begins_at < first:
        first = begins_at
    if not dockets and not track.findings:
        return first
    opened = [
        docket.alert.opened_at
        for profile, _ in track.questions
        if (docket := dockets.get(profile.scope_of(track.key))) is not None and docket.alert
    ]
    onsets = [f.onset for f in track.findings.values() if f.onset is not None]
    return min([first, *onsets, *opened])


def needed(samples: Sequence[Sample], anchor: datetime, reach: Reach) -> int:
    """Where what is needed of the samples begins; negative when they do not reach so far back."""
    by_count = bisect_left(samples, anchor, key=_instant) - reach.observations
    by_span = (
        bisect_right(samples, anchor - reach.span, key=_instant) - 1 if reach.span else by_count
    )
    return min(by_count, by_span)


def _covers(samples: Sequence[Sample], anchor: datetime, reach: Reach) -> bool:
    return bool(samples) and needed(samples, anchor, reach) >= 0


async def _load_windows(
    connection: Transaction, policy: Policy, missing: Sequence[tuple[Track, datetime]]
) -> None:
    since = {t.series: anchor - policy.brief(t.key).reach.span for t, anchor in missing}
    counting = [
        (t.series, anchor, count)
        for t, anchor in missing
        if (count := policy.brief(t.key).reach.observations)
    ]
    begins = await store.signals.instants_back(connection, counting) if counting else []
    for (series, *_), begin in zip(counting, begins, strict=True):
        since[series] = min(since[series], begin)
    windows = await store.signals.windows(connection, list(since.items()))
    for track, _ in missing:
        first = track.fresh[0].at if track.fresh else None
        track.known = [s for s in windows[track.series] if first is None or s.at < first]


def _begins_at(movement: Movement) -> datetime | None:
    """The first observation that is new or corrected; the whole history of a correction is not."""
    if not movement.corrections:
        return movement.fresh[0].at if movement.fresh else None
    return min(c.at for c in movement.corrections)


def by_series(kept: Iterable[KeptFinding]) -> dict[SeriesId, list[KeptFinding]]:
    found: dict[SeriesId, list[KeptFinding]] = {}
    for finding in kept:
        found.setdefault(finding.key[0], []).append(finding)
    return found
