"""Load, judge, write down: the verb between the engine and the store, live and by sweep."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from alerts import hindsight, judgement, overflow
from alerts.detectors.screens import Screen
from alerts.findings import Finding
from alerts.hindsight import Horizon
from alerts.lifecycle import Alert
from alerts.mechanisms import Scope
from alerts.rules import Effect
from alerts.signals import Sample, SeriesId, SeriesKey
from alerts.tracks import Correction, Docket, FindingKey, Judgement, Track
from app import store, telemetry
from app.database import Database, Transaction, write
from app.evaluate import loading, writing
from app.evaluate.loading import Movement, OnFile
from app.evaluate.writing import Evaluation, Offering, nothing_offered
from app.policy import Brief, Policy
from app.recall import Calm, Ground, Recall, Remembered
from app.store.standing import Standing

_SCOPES_AT_ONCE = 100
"""So many open alerts are swept in one transaction, in some 20 ms."""


class ScopesNeeded(Exception):
    """An alert moved between looking and locking; begin again with these scopes' lanes locked."""

    def __init__(self, scopes: Collection[Scope]) -> None:
        super().__init__("an alert moved while it was being judged")
        self.scopes = frozenset(scopes)


async def evaluate_series(
    connection: Transaction,
    policy: Policy,
    movements: Sequence[Movement],
    now: datetime,
    recall: Recall,
    standing: Standing,
    locked: Collection[Scope] = (),
    offer: Offering = nothing_offered,
) -> Evaluation:
    """Judges what moved and writes down findings, alerts, transitions and what is owed.

    The lanes of the series must be locked and the signals stored. Lanes of scopes are locked
    here, after looking; ``locked`` names those that already are. ``standing`` was read before. ``offer`` says
    what a worker of this process takes at once of what comes to be owed. Does not commit.

    Raises:
        ScopesNeeded: another transaction moved an alert in between; roll back and call again.
    """
    policy = policy.as_it_stands()
    briefed = [(m, policy.brief(m.key)) for m in movements]
    asked = [m for m, brief in briefed if brief.questions or brief.joint]
    if not asked:
        return Evaluation()
    together = {m.series: brief.joint for m, brief in briefed if brief.joint}
    joint = {
        series: {p.scope_of(subject) for p, _, subject in found}
        for series, found in together.items()
    }
    about_joint = {scope for found in joint.values() for scope in found}
    scopes = about_joint.union(*(brief.scopes for _, brief in briefed))
    versions, quiet = standing.versions, standing.quiet
    if about_joint - set(locked):
        if locked:
            raise ScopesNeeded(scopes)
        # Joint rules read what others may be writing: one transaction at a time for each scope.
        await store.series.lock_scopes(connection, about_joint)
        locked = about_joint
        # While this waited for the lanes, others may have moved their alerts.
        quiet = {scope: ended for scope, ended in quiet.items() if scope not in about_joint}
    with_findings = [m.series for m in asked if m.state.has_findings]
    kept = await store.findings.of_series(connection, with_findings) if with_findings else []
    on_file, ended = await loading.standing(connection, scopes - quiet.keys())
    ended |= {s: last for s in scopes if (last := quiet.get(s)) is not None}
    dockets = await loading.dockets(connection, policy, on_file, now)
    questions = [question for found in together.values() for question in found]
    subjects = await loading.subject_tracks(connection, policy, questions, now)
    frozen = loading.frozen_since(subjects, dockets)
    tracks = await loading.tracks(connection, policy, recall, asked, kept, dockets, now, frozen)
    again = hindsight.late(tracks, {}, ended, joint)
    ahead = [t for t in tracks if not t.corrections]
    beside = await loading.siblings(connection, policy, ahead, about_joint, frozen)
    outcome = judgement.judge([*ahead, *beside, *subjects], dockets, policy.catalogue, now)
    looked_at = outcome.touched | about_joint
    if looked_at:
        horizons = await _horizons(connection, policy, looked_at, asked)
        again |= hindsight.late(ahead, horizons, {}, joint)
    if again:
        outcome = outcome.without(again)
        changed = {t.series: t.corrections for t in tracks if t.begins_at is not None}
        for scope in sorted(again):
            horizon = (await _horizons(connection, policy, [scope], asked)).get(scope)
            until = horizon[0] if horizon else None
            outcome.add(await _judge_again(connection, policy, scope, changed, on_file, now, until))
    unlocked = outcome.touched - set(locked)
    if unlocked and locked:
        raise ScopesNeeded(scopes)
    prepared = await writing.prepare(connection, policy, outcome, now, unlocked)
    if unlocked:
        # Where no alert was open and none has opened or ended since, there is nothing to look at again.
        doubted = {s for s in unlocked if s in on_file or _has_moved(s, versions, prepared.held)}
        seen, over = await loading.standing(connection, doubted)
        if any((seen.get(s), over.get(s)) != (on_file.get(s), ended.get(s)) for s in doubted):
            raise ScopesNeeded(scopes)
    late = {t.series for t in ahead for p, _ in t.questions if p.scope_of(t.key) in again}
    restless = outcome.touched.union(on_file)
    grounds = {s: Ground.of(s, versions, ended.get(s)) for s in scopes if s not in restless}
    noisy = {*with_findings, *(series for series, *_ in outcome.findings)}
    told = [t for t in ahead if t.series not in late]
    _remember(policy, recall, asked, told, dockets, grounds, noisy)
    return await writing.write(connection, policy, outcome, on_file, now, offer, prepared)


def _has_moved(scope: Scope, versions: Sequence[int], held: Mapping[int, int]) -> bool:
    """Whether an alert of the scope's lane opened or ended between ``versions`` and taking the lane."""
    lane, place = store.series.lane_of_scope(scope), store.series.place_of_scope(scope)
    return held[lane] != versions[place]


async def _horizons(
    connection: Transaction,
    policy: Policy,
    scopes: Collection[Scope],
    asked: Sequence[Movement],
) -> dict[Scope, Horizon]:
    """For each of the scopes, the newest observation its series had before this transaction."""
    before = {m.series: m.state.last_observed_at for m in asked}
    found: dict[Scope, Horizon] = {}
    for scope, members in (await loading.members(connection, policy, scopes)).items():
        known = [
            (at, m.key)
            for m in members
            if (at := before.get(m.series, m.last_observed_at)) is not None
        ]
        if known:
            found[scope] = max(known)
    return found


async def _judge_again(
    connection: Transaction,
    policy: Policy,
    scope: Scope,
    changed: Mapping[SeriesId, Sequence[Correction]],
    on_file: Mapping[Scope, OnFile],
    now: datetime,
    until: datetime | None,
) -> Judgement:
    """Judges a scope whose past has changed from its beginning: all its series are read whole."""
    members = (await loading.members(connection, policy, [scope])).get(scope, [])
    ids = [m.series for m in members]
    kept = loading.by_series(await store.findings.of_series(connection, ids))
    events = {m.series for m in members if policy.brief(m.key).is_event}
    reports = await store.signals.reports(connection, events) if events else {}
    measured = [(s, store.signals.BEGINNING) for s in ids if s not in events]
    histories = await store.signals.windows(connection, measured) if measured else {}
    tracks = [
        Track(
            m.series,
            m.key,
            policy.brief(m.key).unit,
            policy.brief(m.key).questions,
            fresh=histories.get(m.series, []),
            reports=reports.get(m.series, []),
            findings=loading.told(policy, kept.get(m.series, ())),
            breaks=policy.brief(m.key).breaks,
            shelved=policy.shelved(m.series, now),
        )
        for m in members
    ]
    await loading.load_voices(connection, policy, tracks)
    about = [q for m in members for q in policy.brief(m.key).joint if q[0].scope_of(q[2]) == scope]
    tracks += await loading.subject_tracks(connection, policy, about, now)
    here = {s: changed[s] for s in ids if s in changed}
    # Loaded anew: judging ahead has moved what was loaded before.
    filed = {scope: on_file[scope]} if scope in on_file else {}
    docket = (await loading.dockets(connection, policy, filed, now)).get(scope, Docket())
    profile = policy.profiles[scope.mechanism]
    return hindsight.judge_again(profile, scope, tracks, here, docket, policy.catalogue, now, until)


def _remember(
    policy: Policy,
    recall: Recall,
    asked: Sequence[Movement],
    ahead: Sequence[Track],
    dockets: Mapping[Scope, Docket],
    grounds: Mapping[Scope, Ground],
    noisy: Collection[SeriesId],
) -> None:
    """Keeps windows and detectors' memories of what was judged ahead for the next transaction.

    ``grounds`` are the scopes without an open alert, ``noisy`` the series of which findings are remembered.
    """
    movements = {m.series: m for m in asked}
    for track in ahead:
        if not track.fresh:
            continue
        brief, movement = policy.brief(track.key), movements[track.series]
        calm = None
        if (
            brief.screens is not None
            and not movement.corrections  # Too late to be judged, and yet what is held is another past.
            and track.series not in noisy
            and grounds.keys() >= brief.scopes
        ):
            calm = _calm(brief, brief.screens, movement, [grounds[s] for s in brief.scopes])
        samples: Sequence[Sample] = track.fresh[-1:]
        if loading.looks_back(brief.reach):
            samples = [*track.known, *track.fresh]
            begin = loading.needed(samples, loading.anchor_of(track, dockets), brief.reach)
            samples = samples[max(0, begin) :]
        # What the ring of the series' state holds anyway needs no memory for itself.
        if calm or track.views or len(samples) > store.series.RING_SAMPLES:
            version = movement.state.version + 1
            remembered = Remembered.of(version, policy.edition, samples)
            remembered.views, remembered.calm = track.views, calm
            recall.put(track.series, remembered)


def _calm(
    brief: Brief, screens: Sequence[Screen], movement: Movement, grounds: Sequence[Ground]
) -> Calm:
    assert movement.written_until is not None, "Something was written of it."
    last = movement.state.last_observed_at
    newest = max(movement.written_until, last or movement.written_until)
    observations = movement.state.observations + len(movement.fresh)
    return Calm.of(screens, brief.reach, newest, observations, grounds)


async def sweep(database: Database, policy: Policy, now: datetime) -> int:
    """Judges what is due by time alone: feeds gone quiet, announced measures, lasting warnings,
    shelves that have ended, and what is beyond the limit of open alerts. Gives the number of transitions.
    """
    policy = policy.as_it_stands()
    await _sweep_silence(database, policy, now)
    moved = await _sweep_alerts(database, policy, now)
    return moved + await _sweep_overflow(database, policy, now)


async def _sweep_overflow(database: Database, policy: Policy, now: datetime) -> int:
    """Tells, in one summary a mechanism and sector, of the alerts beyond the limit."""
    async with database.begin() as connection:
        seen = await store.alerts.all_open(connection, folded=True)
        folded: dict[Scope, list[Alert]] = {s: [] for s in seen if overflow.is_summary(s)}
        for scope, kept in seen.items():
            if kept.alert.is_folded:
                folded.setdefault(overflow.summary_scope(scope), []).append(kept.alert)
        if not folded:
            return 0
        await store.series.lock_scopes(connection, folded)
        on_file = await loading.on_file(connection, list(folded))
        outcome = Judgement()
        for scope, alerts in sorted(folded.items()):
            profile = policy.profiles.get(scope.mechanism)
            told = on_file[scope].alert if scope in on_file else None
            if profile is not None:
                published = overflow.summarise(profile, scope, told, alerts, policy.catalogue, now)
                outcome.published += [published] if published else []
        found = await writing.write(connection, policy, outcome, on_file, now)
    return found.tell()


async def _sweep_alerts(database: Database, policy: Policy, now: datetime) -> int:
    """First what is unheard, in one transaction; then the open alerts, a few at a time, so that neither
    other requests nor other writers wait until ten thousand are judged.
    """
    async with database.begin() as connection:
        unheard = await _unheard(connection, policy, now)
        # What is heard now is written too: its series must stand still as well, and come first.
        heard = {t.series for t in unheard}
        scopes = {p.scope_of(t.key) for t in unheard for p, _ in t.questions}
        if heard:
            await store.series.lock(connection, [store.series.lane_of_series(s) for s in heard])
        found = await _sweep_scopes(connection, policy, scopes, heard, now)
        seen = [s for s in await store.alerts.open_scopes(connection) if s not in scopes]
    moved = found.tell()
    for first in range(0, len(seen), _SCOPES_AT_ONCE):
        some = seen[first : first + _SCOPES_AT_ONCE]
        async with database.begin() as connection:
            found = await _sweep_scopes(connection, policy, some, (), now)
        moved += found.tell()
    return moved


async def _sweep_scopes(
    connection: Transaction,
    policy: Policy,
    scopes: Collection[Scope],
    heard: Collection[SeriesId],
    now: datetime,
) -> Evaluation:
    """Judges these scopes; the lanes of the series that are ``heard`` now must be locked."""
    if not scopes:
        return Evaluation()
    await store.series.lock_scopes(connection, scopes)
    # Read again, now that nobody else may write them. What has come since waits for the next.
    unheard = (
        [t for t in await _unheard(connection, policy, now) if t.series in heard] if heard else []
    )
    for track in unheard:
        track.questions = [q for q in track.questions if q[0].scope_of(track.key) in scopes]
    on_file = await loading.on_file(connection, scopes)
    dockets = await loading.dockets(connection, policy, on_file, now)
    outcome = judgement.judge_time(
        dockets, policy.profiles.values(), policy.catalogue, now, unheard
    )
    return await writing.write(connection, policy, outcome, on_file, now)


async def _unheard(connection: Transaction, policy: Policy, now: datetime) -> list[Track]:
    """The series with findings that fire, feed no alert, and now may: their shelf has ended, or
    their mechanism is in force again.
    """
    kept = loading.by_series(await store.findings.unheard(connection))
    keys = await store.series.keys_of(connection, list(kept)) if kept else {}
    tracks: list[Track] = []
    for series, found in kept.items():
        rules = {(p.id, r.id): (p, r) for p, r in policy.brief(keys[series]).questions}
        asked = [
            rules[k.key[1:]]
            for k in found
            if k.key[1:] in rules and k.key[1:] not in policy.shelved(series, now)
        ]
        may = [
            (p, r)
            for p, r in asked
            if not r.shadow and r.effect is Effect.early_warning and p.in_force(now.date())
        ]
        if may:
            tracks.append(
                Track(
                    series,
                    keys[series],
                    policy.brief(keys[series]).unit,
                    may,
                    findings=loading.told(policy, found),
                )
            )
    events = {t.series for t in tracks if policy.brief(t.key).is_event}
    reports = await store.signals.reports(connection, events) if events else {}
    for track in tracks:
        track.reports = reports.get(track.series, [])
    return tracks


async def _sweep_silence(database: Database, policy: Policy, now: datetime) -> None:
    limits = [
        r.freshness.stale_after_days
        for p in policy.profiles.values()
        for r in p.rules
        if r.freshness is not None
    ]
    if not limits:
        return
    async with database.begin() as connection:
        silent = await store.series.silent_since(connection, now - timedelta(days=min(limits)))
        silent = [entry for entry in silent if policy.brief(entry[1]).questions]
        # Most have been silent for long: look first, and lock only where something changes.
        changed, _ = await _fall_silent(connection, policy, silent, now)
        due = {series for series, *_ in changed}
        if not due:
            return
        await store.series.lock(connection, [store.series.lane_of_series(s) for s in due])
        states = await store.series.states(connection, sorted(due))
        still = [e for e in silent if e[0] in due and states[e[0]].last_valued_at == e[2].at]
        changed, feeds = await _fall_silent(connection, policy, still, now)
        if changed:
            await write(connection, writing.findings_kept(policy, changed, feeds))
    if changed:
        telemetry.line("findings.fell_silent", findings=len(changed))


async def _fall_silent(
    connection: Transaction,
    policy: Policy,
    silent: Sequence[tuple[SeriesId, SeriesKey, Sample]],
    now: datetime,
) -> tuple[dict[FindingKey, Finding], dict[FindingKey, int]]:
    """The findings that the silence of these series changes, and the alerts that findings feed."""
    kept = await store.findings.of_series(connection, [s for s, *_ in silent])
    by_series = loading.by_series(kept)
    tracks = [
        Track(
            series,
            key,
            policy.brief(key).unit,
            policy.brief(key).questions,
            known=[last],
            findings=loading.told(policy, by_series.get(series, ())),
        )
        for series, key, last in silent
    ]
    feeds = {k.key: k.alert_id for k in kept if k.alert_id is not None}
    return judgement.judge_silence(tracks, now), feeds
