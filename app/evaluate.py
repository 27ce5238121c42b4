"""Load, judge, write down: the verb between the engine and the store, live and by sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from alerts import detectors, judgement, payloads, routing
from alerts.catalogue import Catalogue, Event, Indicator
from alerts.findings import Finding
from alerts.judgement import Correction, Docket, FindingKey, Judgement, Track
from alerts.lifecycle import Alert, AlertState, EventType, Evidence
from alerts.mechanisms import Profile, Scope
from alerts.rules import EventTrigger, Rule
from alerts.signals import PartnerId, Report, Sample, SeriesId, SeriesKey
from app import store, telemetry
from app.database import Connection, Database
from app.store.deliveries import Debt
from app.store.findings import Kept as KeptFinding
from app.store.series import SeriesState

Question = tuple[Profile, Rule]

KEYS_REMEMBERED = 1_000_000
"""Of so many series the rules that ask them are kept in memory; of more they are looked for again."""


@dataclass(slots=True)
class Policy:
    """What may be reported and what is asked of it: the catalogue and the profiles in use.

    ``vetted`` remembers the series keys already found to be in the catalogue.
    """

    catalogue: Catalogue
    profiles: Mapping[str, Profile]
    vetted: dict[tuple[SeriesKey, bool], Indicator | Event] = field(default_factory=dict)
    _questions: dict[SeriesKey, tuple[Question, ...]] = field(default_factory=dict)
    _rules: dict[tuple[str, str], Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Indexes the rules by mechanism and id."""
        self._rules = {(p.id, r.id): r for p in self.profiles.values() for r in p.rules}

    def questions(self, key: SeriesKey) -> tuple[Question, ...]:
        """The rules asked of a series, with their mechanisms."""
        found = self._questions.get(key)
        if found is None:
            found = tuple((p, r) for p in self.profiles.values() for r in p.rules if r.asks(key))
            if len(self._questions) < KEYS_REMEMBERED:
                self._questions[key] = found
        return found

    def rule(self, mechanism: str, rule: str) -> Rule | None:
        """A rule of a profile in use; None when the profile has dropped it."""
        return self._rules.get((mechanism, rule))

    def unit_of(self, key: SeriesKey) -> str:
        """The unit of a series' values; empty for events."""
        indicator = self.catalogue.indicators.get(key.indicator)
        return indicator.unit if indicator else ""


@dataclass(slots=True)
class Movement:
    """What one transaction changed on one series.

    ``state`` is how the series stood before. ``fresh`` are new samples, oldest first; with
    ``corrections`` it is the whole history instead. ``written_until`` is the newest instant of
    which something was stored, counted or not. ``said`` names new reports of an event: when, and whose.
    """

    series: SeriesId
    key: SeriesKey
    state: SeriesState
    fresh: list[Sample] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    said: set[tuple[datetime, PartnerId]] = field(default_factory=set)
    written_until: datetime | None = None


class ScopesNeeded(Exception):
    """An alert moved between looking and locking; begin again with these scopes' lanes locked."""

    def __init__(self, scopes: Collection[Scope]) -> None:
        super().__init__("an alert moved while it was being judged")
        self.scopes = frozenset(scopes)


@dataclass(slots=True)
class Evaluation:
    """What came of it: the alerts each series moved, and how many transitions there were."""

    refs: dict[SeriesId, list[str]] = field(default_factory=dict)
    transitions: int = 0


async def evaluate_series(
    connection: Connection,
    policy: Policy,
    movements: Sequence[Movement],
    now: datetime,
    locked: Collection[Scope] = (),
) -> Evaluation:
    """Judges what moved and writes down findings, alerts, transitions and what is owed.

    The lanes of the series must be locked and the signals stored. Lanes of scopes are locked
    here, after looking; ``locked`` names those that already are. Does not commit.

    Raises:
        ScopesNeeded: another transaction moved an alert in between; roll back and call again.
    """
    asked = [m for m in movements if policy.questions(m.key)]
    if not asked:
        return Evaluation()
    kept = await store.findings.of_series(connection, [m.series for m in asked])
    scopes = {p.scope_of(m.key) for m in asked for p, _ in policy.questions(m.key)}
    on_file = await _on_file(connection, scopes)
    dockets = await _dockets(connection, policy, on_file)
    tracks = await _tracks(connection, policy, asked, kept, dockets)
    outcome = judgement.judge(tracks, dockets, policy.catalogue, now)
    unlocked = outcome.touched - set(locked)
    if unlocked:
        if locked:
            raise ScopesNeeded(scopes)
        await store.series.lock(connection, [store.series.lane_of_scope(s) for s in unlocked])
        again = await _on_file(connection, unlocked)
        if any(again.get(s) != on_file.get(s) for s in unlocked):
            raise ScopesNeeded(scopes)
    return await _write(connection, policy, outcome, on_file, now)


@dataclass(frozen=True, slots=True)
class _OnFile:
    """An open alert as stored, and every finding that feeds it."""

    id: int
    alert: Alert
    findings: tuple[KeptFinding, ...]


async def _on_file(connection: Connection, scopes: Collection[Scope]) -> dict[Scope, _OnFile]:
    kept = await store.alerts.open_of(connection, scopes)
    feeding: dict[int, list[KeptFinding]] = {}
    if kept:
        ids = [k.id for k in kept.values()]
        for finding in await store.findings.of_alerts(connection, ids):
            feeding.setdefault(finding.alert_id or 0, []).append(finding)
    return {
        scope: _OnFile(k.id, k.alert, tuple(sorted(feeding.get(k.id, ()), key=_key)))
        for scope, k in kept.items()
    }


def _key(kept: KeptFinding) -> FindingKey:
    return kept.key


async def sweep(database: Database, policy: Policy, now: datetime) -> Evaluation:
    """Judges what is due by time alone: feeds gone quiet, announced measures, lasting warnings."""
    await _sweep_silence(database, policy, now)
    async with database.begin() as connection:
        seen = await store.alerts.all_open(connection)
        if not seen:
            return Evaluation()
        await store.series.lock(connection, [store.series.lane_of_scope(s) for s in seen])
        on_file = await _on_file(connection, list(seen))
        dockets = await _dockets(connection, policy, on_file)
        outcome = judgement.judge_time(dockets, policy.profiles.values(), policy.catalogue, now)
        return await _write(connection, policy, outcome, on_file, now)


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
        silent = [entry for entry in silent if policy.questions(entry[1])]
        # Most have been silent for long: look first, and lock only where something changes.
        changed, _ = await _fall_silent(connection, policy, silent, now)
        due = {series for series, *_ in changed}
        if not due:
            return
        await store.series.lock(connection, [store.series.lane_of_series(s) for s in due])
        states = await store.series.states(connection, sorted(due))
        still = [e for e in silent if e[0] in due and states[e[0]].last_observed_at == e[2].at]
        changed, feeds = await _fall_silent(connection, policy, still, now)
        if changed:
            await _keep_findings(connection, policy, changed, feeds)
            telemetry.line("findings.fell_silent", findings=len(changed))


async def _fall_silent(
    connection: Connection,
    policy: Policy,
    silent: Sequence[tuple[SeriesId, SeriesKey, Sample]],
    now: datetime,
) -> tuple[dict[FindingKey, Finding], dict[FindingKey, int]]:
    """The findings that the silence of these series changes, and the alerts that findings feed."""
    kept = await store.findings.of_series(connection, [s for s, *_ in silent])
    by_series = _by_series(kept)
    tracks = [
        Track(
            series,
            key,
            policy.unit_of(key),
            policy.questions(key),
            known=[last],
            findings={k.key[1:]: k.finding for k in by_series.get(series, ())},
        )
        for series, key, last in silent
    ]
    feeds = {k.key: k.alert_id for k in kept if k.alert_id is not None}
    return judgement.judge_silence(tracks, now), feeds


async def _dockets(
    connection: Connection, policy: Policy, on_file: Mapping[Scope, _OnFile]
) -> dict[Scope, Docket]:
    """The open alerts with everything that feeds them."""
    dockets = {scope: Docket(kept.alert) for scope, kept in on_file.items()}
    if not dockets:
        return dockets
    feeding = [(scope, k) for scope, filed in on_file.items() for k in filed.findings]
    keys = await store.series.keys_of(connection, {k.key[0] for _, k in feeding})
    events = {s for s, key in keys.items() if _is_event(policy, key)}
    reports = await store.signals.reports(connection, events) if events else {}
    for scope, kept in feeding:
        series, mechanism, rule_id = kept.key
        rule = policy.rule(mechanism, rule_id)
        if rule is not None:
            dockets[scope].evidence[kept.key] = Evidence(
                rule,
                series,
                keys[series],
                policy.unit_of(keys[series]),
                kept.finding,
                _report_behind(reports.get(series, ()), kept.finding.observed_at),
            )
    return dockets


def _report_behind(reports: Sequence[Report], at: datetime | None) -> Report | None:
    return next((r for r in reversed(reports) if r.at == at), None)


async def _tracks(
    connection: Connection,
    policy: Policy,
    movements: Sequence[Movement],
    kept: Sequence[KeptFinding],
    dockets: Mapping[Scope, Docket],
) -> list[Track]:
    """The tracks to judge, with windows as far back as their rules remember."""
    by_series = _by_series(kept)
    telling = [m.series for m in movements if _is_event(policy, m.key)]
    reports = await store.signals.reports(connection, telling) if telling else {}
    begins_at = min((at for m in movements if (at := _begins_at(m)) is not None), default=None)
    tracks: list[Track] = []
    missing: dict[SeriesId, datetime] = {}
    for movement in movements:
        track = Track(
            movement.series,
            movement.key,
            policy.unit_of(movement.key),
            policy.questions(movement.key),
            fresh=movement.fresh,
            corrections=movement.corrections,
            findings={k.key[1:]: k.finding for k in by_series.get(movement.series, ())},
            judged_until=movement.state.last_observed_at,
        )
        tracks.append(track)
        if _is_event(policy, movement.key):
            track.fresh = []
            track.reports = reports.get(movement.series, [])
            track.fresh_reports = [r for r in track.reports if (r.at, r.partner) in movement.said]
        elif movement.fresh and not movement.corrections:
            since = _remembers_since(track, dockets, begins_at)
            if since is None:
                continue
            ring = movement.state.samples()
            if movement.state.is_whole or (ring and ring[0].at <= since):
                track.known = ring
            else:
                missing[movement.series] = since
    if missing:
        windows = await store.signals.windows(connection, list(missing.items()))
        for track in tracks:
            if track.series in missing:
                first = track.fresh[0].at
                track.known = [s for s in windows[track.series] if s.at < first]
    return tracks


def _begins_at(movement: Movement) -> datetime | None:
    """The first observation that is new or corrected; the whole history of a correction is not."""
    changed = movement.corrections or movement.fresh
    return min((c.at for c in changed), default=None)


def _is_event(policy: Policy, key: SeriesKey) -> bool:
    return key.indicator in policy.catalogue.events


def _remembers_since(
    track: Track, dockets: Mapping[Scope, Docket], begins_at: datetime | None
) -> datetime | None:
    """How far back the track's rules look: their memory before the newest sample, or before the
    onset at which a baseline is frozen, be it of an alert that another series opens within this
    transaction, which ``begins_at`` the first of its observations. None when no rule looks back.
    """
    earliest: datetime | None = None
    for profile, rule in track.questions:
        if isinstance(rule.detector, EventTrigger):
            continue
        span = detectors.memory(rule.detector)
        if not span:
            continue
        docket = dockets.get(profile.scope_of(track.key))
        finding = track.findings.get((profile.id, rule.id))
        anchors = [
            track.fresh[0].at,
            *([begins_at] if begins_at else []),
            *([finding.onset] if finding and finding.onset else []),
            *([docket.alert.opened_at] if docket and docket.alert else []),
        ]
        since = min(anchors) - span
        earliest = since if earliest is None else min(earliest, since)
    return earliest


async def _write(
    connection: Connection,
    policy: Policy,
    outcome: Judgement,
    on_file: Mapping[Scope, _OnFile],
    now: datetime,
) -> Evaluation:
    """Writes a judgement down: numbers new alerts, renders transitions, owes deliveries."""
    for mechanism, rule, said in outcome.broken:
        telemetry.rule_failures.labels(mechanism, rule).inc()
        telemetry.line("rule.failed", level="error", mechanism=mechanism, rule=rule, said=said)
    for mechanism in outcome.held_back:
        telemetry.line("mechanism.not_in_force", level="warning", mechanism=mechanism)
    open_ids = {scope: kept.id for scope, kept in on_file.items()}
    evaluation = Evaluation(transitions=len(outcome.published))
    if outcome.published or outcome.restated:
        open_ids = await _write_alerts(connection, policy, outcome, on_file, evaluation, now)
    feeds = {key: open_ids[scope] for key, scope in outcome.feeds.items() if scope in open_ids}
    await _keep_findings(connection, policy, outcome.findings, feeds)
    return evaluation


async def _write_alerts(
    connection: Connection,
    policy: Policy,
    outcome: Judgement,
    on_file: Mapping[Scope, _OnFile],
    evaluation: Evaluation,
    now: datetime,
) -> dict[Scope, int]:
    """Writes alerts and transitions and owes them; gives the ids of the alerts still open."""
    opened = [p for p in outcome.published if p.transition.type is EventType.opened]
    latest: dict[int, Alert] = {}
    refs = await _take_refs(connection, policy, [p.scope for p in opened], now)
    alert_ids = await store.alerts.take_ids(connection, "alerts", len(opened)) if opened else []
    numbered = iter(zip(alert_ids, refs, strict=True))
    row_ids = await store.alerts.take_ids(connection, "transitions", len(outcome.published))
    listeners = await store.subscriptions.listening(connection)
    standing = {scope: (kept.id, kept.alert.ref) for scope, kept in on_file.items()}
    before = {kept.id for kept in on_file.values()}
    debited: list[store.alerts.Debited] = []
    debts: list[Debt] = []
    for row_id, published in zip(row_ids, outcome.published, strict=True):
        transition = published.transition
        if transition.type is EventType.opened:
            standing[published.scope] = next(numbered)
        alert_id, ref = standing[published.scope]
        alert = replace(published.alert, ref=ref)
        latest[alert_id] = alert
        described = transition.explanation["findings"]
        data = payloads.render(alert, transition, described)  # type: ignore[arg-type]
        debited.append(store.alerts.Debited(row_id, alert_id, transition, data, published.fed_by))
        debts.extend(
            Debt(to, transition.type.value, row_id, alert_id, None)
            for to in routing.recipients(listeners, alert, transition.type, transition.level_from)
        )
        for series, _ in published.fed_by:
            refs_of = evaluation.refs.setdefault(series, [])
            if ref not in refs_of:
                refs_of.append(ref)
        telemetry.transitions.labels(published.scope.mechanism, transition.type.value).inc()
        telemetry.line(
            "alert.moved",
            ref=ref,
            type=transition.type.value,
            severity=alert.severity.name,
            alert_level=alert.level.name,
            observed_at=transition.at.isoformat(),
        )
    for scope, why in outcome.restated.items():  # Of a scope's alerts, the one that is open now.
        alert_id, _ = standing[scope]
        alert = latest[alert_id] if alert_id in latest else on_file[scope].alert
        latest[alert_id] = replace(alert, why=why)
    written = [store.alerts.Kept(alert_id, alert) for alert_id, alert in latest.items()]
    await store.alerts.keep(
        connection,
        [k for k in written if k.id not in before],
        [k for k in written if k.id in before],
    )
    if debited:
        await store.alerts.record(connection, debited)
    if debts:
        await store.deliveries.owe(connection, debts, now)
    return {
        scope: alert_id
        for scope, (alert_id, _) in standing.items()
        if alert_id not in latest or latest[alert_id].state is AlertState.open
    }


async def _take_refs(
    connection: Connection, policy: Policy, scopes: Sequence[Scope], now: datetime
) -> list[str]:
    """References such as TTC-SEMI-2026-0007, one for each scope, in order."""
    prefixes = [policy.profiles[s.mechanism].reference_prefix for s in scopes]
    numbers = {
        prefix: iter(
            await store.alerts.take_numbers(connection, prefix, now.year, prefixes.count(prefix))
        )
        for prefix in sorted(set(prefixes))
    }
    return [f"{prefix}-{now.year}-{next(numbers[prefix]):04d}" for prefix in prefixes]


async def _keep_findings(
    connection: Connection,
    policy: Policy,
    changed: Mapping[FindingKey, Finding],
    feeds: Mapping[FindingKey, int],
) -> None:
    versions = {
        key: rule.version for key in changed if (rule := policy.rule(key[1], key[2])) is not None
    }
    rows = {key: (finding, versions.get(key, 0)) for key, finding in changed.items()}
    if rows:
        await store.findings.keep(connection, rows, feeds)


def _by_series(kept: Iterable[KeptFinding]) -> dict[SeriesId, list[KeptFinding]]:
    found: dict[SeriesId, list[KeptFinding]] = {}
    for finding in kept:
        found.setdefault(finding.key[0], []).append(finding)
    return found
