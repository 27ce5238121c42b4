"""A judgement, written down: alerts numbered, transitions rendered, deliveries owed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from alerts import payloads, routing
from alerts.findings import Finding
from alerts.lifecycle import Alert, AlertState, EventType, Transition
from alerts.mechanisms import Scope
from alerts.overflow import is_summary
from alerts.routing import Reached, SubscriptionId
from alerts.signals import SeriesId
from alerts.tracks import FindingKey, Judgement
from app import store, telemetry
from app.database import Transaction, Write
from app.evaluate.loading import OnFile
from app.policy import Policy
from app.store.debts import Debt, Offer, Taken
from app.store.publishing import NOTHING_PREPARED, Prepared

_TURNS = frozenset({EventType.opened, EventType.resolved})
"""The types after which another alert of a scope is open, or none."""


Offering = Callable[[Collection[SubscriptionId]], Offer | None]
"""Says what a worker of this process takes at once of what comes to be owed to these subscriptions."""


def nothing_offered(_: Collection[SubscriptionId]) -> None:
    """Nobody sends in this process."""


@dataclass(slots=True)
class Evaluation:
    """What came of it: the alerts each series moved, the transitions with the alerts after them, of what is
    owed for them that which a worker of this process has claimed; the rules that raised (mechanism, rule,
    what), and the mechanisms that would have issued but are not in force.
    """

    refs: dict[SeriesId, list[str]] = field(default_factory=dict)
    moves: list[tuple[Alert, Transition]] = field(default_factory=list)
    taken: Taken | None = None
    broken: Sequence[tuple[str, str, str]] = ()
    held_back: Collection[str] = ()

    def tell(self) -> int:
        """Says what has moved, in lines and numbers, once that is committed; gives how many transitions."""
        for mechanism, rule, said in self.broken:
            telemetry.rule_failures.labels(mechanism, rule).inc()
            telemetry.line("rule.failed", level="error", mechanism=mechanism, rule=rule, said=said)
        for mechanism in self.held_back:
            telemetry.line("mechanism.not_in_force", level="warning", mechanism=mechanism)
        for alert, transition in self.moves:
            telemetry.transitions.labels(alert.scope.mechanism, transition.type.value).inc()
            telemetry.line(
                "alert.moved",
                ref=alert.ref,
                type=transition.type.value,
                severity=alert.severity.name,
                alert_level=alert.level.name,
                observed_at=transition.at.isoformat(),
            )
        return len(self.moves)


async def prepare(
    connection: Transaction,
    policy: Policy,
    outcome: Judgement,
    now: datetime,
    scopes: Collection[Scope] = (),
) -> Prepared:
    """What is needed to write a judgement down, and with it the lanes of ``scopes``."""
    if not (outcome.published or scopes):
        return NOTHING_PREPARED
    opened = _opened(outcome)
    return await store.publishing.prepare(
        connection,
        scopes,
        prefixes=[policy.profiles[scope.mechanism].reference_prefix for scope in opened],
        year=now.year,
        alerts=len(opened),
        transitions=len(outcome.published),
    )


def _opened(outcome: Judgement) -> list[Scope]:
    """The scopes of new alerts, in order."""
    return [p.scope for p in outcome.published if p.transition.type is EventType.opened]


async def write(
    connection: Transaction,
    policy: Policy,
    outcome: Judgement,
    on_file: Mapping[Scope, OnFile],
    now: datetime,
    offer: Offering = nothing_offered,
    prepared: Prepared | None = None,
) -> Evaluation:
    """Writes a judgement down: numbers new alerts, renders transitions, owes deliveries.

    ``offer`` is asked where something is owed; ``prepared`` is what ``prepare`` gave, if called before.
    """
    open_ids = {scope: kept.id for scope, kept in on_file.items()}
    evaluation = Evaluation(broken=outcome.broken, held_back=outcome.held_back)
    writes: list[Write] = []
    debts: list[Debt] = []
    rendered: dict[int, str] = {}
    if outcome.published or outcome.restated or outcome.ended:
        if prepared is None:
            prepared = await prepare(connection, policy, outcome, now)
        drawn = await _draw_up(connection, policy, outcome, on_file, evaluation, now, prepared)
        open_ids, writes, debts, rendered = drawn
    feeds = {key: open_ids[scope] for key, scope in outcome.feeds.items() if scope in open_ids}
    writes += findings_kept(policy, outcome.findings, feeds)
    offered = offer({debt.subscription_id for debt in debts}) if debts else None
    evaluation.taken = await store.debts.owe(connection, debts, now, writes, offered, rendered)
    return evaluation


class _Drawn(NamedTuple):
    """Alerts and transitions drawn up: the ids of the alerts still open, what is to be written, what is owed,
    and the data of each transition by its row id.
    """

    open_ids: dict[Scope, int]
    writes: list[Write]
    debts: list[Debt]
    rendered: dict[int, str]


async def _draw_up(
    connection: Transaction,
    policy: Policy,
    outcome: Judgement,
    on_file: Mapping[Scope, OnFile],
    evaluation: Evaluation,
    now: datetime,
    prepared: Prepared,
) -> _Drawn:
    """Numbers and renders what is to be written and owed."""
    latest: dict[int, Alert] = {}
    opened = _opened(outcome)
    refs = _references(policy, prepared, opened, now)
    beyond = await _beyond_limit(connection, policy, opened)
    numbered = iter(zip(prepared.alerts, refs, beyond, strict=True))
    # By alert: a scope may resolve one that was told and open one beyond the limit, or the reverse.
    standing = {
        scope: (kept.id, kept.alert.ref, kept.alert.is_folded) for scope, kept in on_file.items()
    }
    before = {kept.id for kept in on_file.values()}
    ending = {p.scope for p in outcome.published if p.transition.type is EventType.resolved}
    highest = await store.alerts.highest(
        connection, [kept.id for scope, kept in on_file.items() if scope in ending]
    )
    debited: list[store.alerts.Debited] = []
    debts: list[Debt] = []
    for row_id, published in zip(prepared.transitions, outcome.published, strict=True):
        transition = published.transition
        if transition.type is EventType.opened:
            standing[published.scope] = next(numbered)
        alert_id, ref, is_folded = standing[published.scope]
        alert = replace(published.alert, ref=ref, is_folded=is_folded)
        latest[alert_id] = alert
        described = transition.explanation["findings"]
        data = payloads.render(alert, transition, described)  # type: ignore[arg-type]
        debited.append(store.alerts.Debited(row_id, alert_id, transition, data, published.fed_by))
        just_before = Reached(transition.level_from, transition.severity_from)
        top = highest.get(alert_id, just_before)
        was = routing.reached(transition.type, just_before, top)
        highest[alert_id] = Reached(
            max(top.level, transition.level_to), max(top.severity, transition.severity_to)
        )
        debts.extend(
            Debt(to, transition.type.value, row_id, alert_id, None)
            for to in routing.recipients(prepared.listeners, alert, transition.type, was)
        )
        for series, _ in published.fed_by:
            refs_of = evaluation.refs.setdefault(series, [])
            if ref not in refs_of:
                refs_of.append(ref)
        evaluation.moves.append((alert, transition))
    for scope, why in outcome.restated.items():  # Of a scope's alerts, the one that is open now.
        alert_id, *_ = standing[scope]
        alert = latest[alert_id] if alert_id in latest else on_file[scope].alert
        latest[alert_id] = replace(alert, why=why)
    written = [store.alerts.Kept(alert_id, alert) for alert_id, alert in latest.items()]
    writes = await store.alerts.keep(
        connection,
        [k for k in written if k.id not in before],
        [k for k in written if k.id in before],
    )
    if debited:
        writes += [store.alerts.record(debited), *store.alerts.feed(debited)]
    if outcome.ended:
        writes.append(store.alerts.end(outcome.ended))
    turned = {p.scope for p in outcome.published if p.transition.type in _TURNS}
    if turned or outcome.ended:
        writes.append(store.series.mark(turned.union(outcome.ended)))
    open_ids = {
        scope: alert_id
        for scope, (alert_id, *_) in standing.items()
        if alert_id not in latest or latest[alert_id].state is AlertState.open
    }
    return _Drawn(open_ids, writes, debts, {d.id: d.data for d in debited})


def _references(
    policy: Policy, prepared: Prepared, opened: Sequence[Scope], now: datetime
) -> list[str]:
    """The references of new alerts, in order."""
    prefixes = [policy.profiles[scope.mechanism].reference_prefix for scope in opened]
    counting = {prefix: iter(numbers) for prefix, numbers in prepared.numbers.items()}
    return [f"{prefix}-{now.year}-{next(counting[prefix]):04d}" for prefix in prefixes]


async def _beyond_limit(
    connection: Transaction, policy: Policy, opened: Sequence[Scope]
) -> list[bool]:
    """Whether each new alert, in order, is beyond its mechanism's limit of open ones."""
    limits = {
        s.mechanism: limit.open_alerts
        for s in opened
        if (limit := policy.profiles[s.mechanism].overflow) is not None
    }
    told = await store.publishing.count_told(connection, limits) if limits else {}
    beyond: list[bool] = []
    for scope in opened:
        if scope.mechanism not in limits or scope.exercise or is_summary(scope):
            beyond.append(False)
            continue
        beyond.append(told.get(scope.mechanism, 0) >= limits[scope.mechanism])
        told[scope.mechanism] = told.get(scope.mechanism, 0) + 1
    return beyond


def findings_kept(
    policy: Policy, changed: Mapping[FindingKey, Finding], feeds: Mapping[FindingKey, int]
) -> list[Write]:
    """What writes changed findings, each with the version its rule has now."""
    versions = {
        key: rule.version for key in changed if (rule := policy.rule(key[1], key[2])) is not None
    }
    rows = {key: (finding, versions.get(key, 0)) for key, finding in changed.items()}
    return store.findings.keep(rows, feeds)
