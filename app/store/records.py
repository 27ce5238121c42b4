"""Attempts recorded under a fence, and what follows for their deliveries and endpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from alerts import endpoints as machine
from alerts.endpoints import Health, Notice, Patience, Seen
from alerts.payloads import VERIFY
from alerts.retries import FRESH_ATTEMPTS, Decision, Outcome, Verdict
from alerts.routing import SubscriptionId
from app.database import Transaction, fetch
from app.store import deliveries, endpoints
from app.store.deliveries import OVERTAKES_AFTER, STILL_OWED
from app.store.queue import Claimed


@dataclass(frozen=True, slots=True)
class Attempted:
    """A claimed delivery after its attempt; ``excerpt`` is the beginning of the answer.

    ``per_second`` is the pace that an endpoint asked for when it consented.
    """

    claimed: Claimed
    at: datetime
    outcome: Outcome
    verdict: Verdict
    excerpt: str
    per_second: float | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an endpoint stands after attempts were recorded: whether, when and how it is sent more."""

    is_open: bool
    not_before: datetime | None
    at_once: int | None


@dataclass(slots=True)
class Recorded:
    """The claims, by delivery and fence, whose attempts were recorded, and under which numbers; how their
    endpoints stand, what owners must hear, and when the first of these endpoints is ready for more.
    """

    kept: dict[tuple[int, int], int] = field(default_factory=dict)
    standings: dict[SubscriptionId, Standing] = field(default_factory=dict)
    notices: list[tuple[SubscriptionId, Notice]] = field(default_factory=list)
    ready_at: datetime | None = None


async def record(
    connection: Transaction, attempts: Sequence[Attempted], patience: Patience, now: datetime
) -> Recorded:
    """Records attempts and what follows for their deliveries and endpoints.

    An attempt is left out when its fence is old or its delivery is no longer owed: somebody else
    has claimed it since, or it was withdrawn. Recording raises the fence as well, so that an attempt whose
    commit was acknowledged to nobody is not recorded a second time. Three statements.

    * delivered, given up, aborted: finished; the next of the same alert is let go
    * retry, throttled: due later, and those of the same alert behind it wait on
    * gone: stays owed for an endpoint that is suspended
    * a verification delivered: its subscription becomes active
    """
    rows = await fetch(
        connection,
        "SELECT id, url, status, ordering, health FROM subscriptions "
        "WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR NO KEY UPDATE",
        {"ids": sorted({a.claimed.subscription_id for a in attempts})},
    )
    held = {row.id: row for row in rows}
    recorded = Recorded(kept=await _write_down(connection, attempts, now))
    counted = sorted((a for a in attempts if a.claimed.key in recorded.kept), key=lambda a: a.at)
    await _overtake(connection, held, counted, now)
    changes: dict[str, _Change] = {}
    for attempted in counted:
        row = held[attempted.claimed.subscription_id]
        if row.id not in changes:
            changes[row.id] = _Change(machine.health_of(row.health), row.status, row.url)
        changes[row.id].fold(attempted, patience)
    recorded.ready_at = await _change_endpoints(connection, changes, now)
    for name, change in changes.items():
        one = SubscriptionId(name)
        recorded.standings[one] = Standing(
            change.status == "active", change.health.not_before, change.health.at_once
        )
        recorded.notices += [(one, notice) for notice in change.notices]
    return recorded


@dataclass(slots=True)
class _Change:
    """What attempts change about one endpoint."""

    health: Health
    status: str
    url: str
    reason: str | None = None
    suspended_at: datetime | None = None
    is_verified: bool = False
    per_second: float | None = None
    notices: list[Notice] = field(default_factory=list)

    def fold(self, attempted: Attempted, patience: Patience) -> None:
        """Takes in one attempt, unless it was made at an address the subscription has left, or ended
        after the endpoint was suspended: that is told once, and a resumed endpoint begins anew.
        """
        claimed, verdict = attempted.claimed, attempted.verdict
        if claimed.endpoint.url != self.url or self.status not in {"active", "pending"}:
            return
        if claimed.type == VERIFY:
            self.is_verified |= verdict.decision is Decision.delivered and self.status == "pending"
            if self.is_verified:
                self.status, self.per_second = "active", attempted.per_second
            if verdict.parting is None:
                return  # A machine that has not consented yet owes us no health.
        outcome = attempted.outcome
        status = outcome.status if outcome.error is None else None
        ended_at = attempted.ended_at or attempted.at
        step = machine.advance(self.health, Seen(claimed.id, ended_at, verdict, status), patience)
        self.health = step.health
        if step.suspends is not None:
            self.status, self.reason = "suspended", machine.WORDS[step.suspends]
            self.suspended_at = attempted.at
        self.notices += step.notices


async def _write_down(
    connection: Transaction, attempts: Sequence[Attempted], now: datetime
) -> dict[tuple[int, int], int]:
    """Writes the attempts and where they leave their deliveries; gives the claims that were kept, and
    which attempt of its delivery each was.

    Of each alert that has moved on, the next delivery waits no more.
    """
    ordered = sorted(attempts, key=lambda a: a.claimed.id)
    rows = await fetch(
        connection,
        f"""
        WITH said AS (
            SELECT * FROM unnest(
                CAST(:ids AS bigint[]), CAST(:fences AS bigint[]), CAST(:states AS text[]),
                CAST(:due AS timestamptz[]), CAST(:lanes AS smallint[]),
                CAST(:at AS timestamptz[]),
                CAST(:verdicts AS text[]), CAST(:reasons AS text[]),
                CAST(:statuses AS integer[]), CAST(:errors AS text[]),
                CAST(:milliseconds AS double precision[]), CAST(:excerpts AS text[]),
                CAST(:sent_after AS double precision[]),
                CAST(:answered_after AS double precision[]), CAST(:answer_headers AS text[]),
                CAST(:moves AS boolean[])
            ) AS s (id, fence, state, due_at, lane, at, verdict, reason, status, error,
                milliseconds, excerpt, sent_after, answered_after, answer_headers, moves)
        ), kept AS (
            UPDATE deliveries AS d
            SET state = s.state, due_at = s.due_at, lease_until = NULL, lane = s.lane,
                attempts = d.attempts + 1, fence = d.fence + 1,
                forgiven = d.forgiven + (s.verdict = :throttled)::int,
                throttled = d.throttled + (s.verdict = :throttled)::int,
                throttled_since = CASE WHEN s.verdict = :throttled
                    THEN coalesce(d.throttled_since, s.at) ELSE d.throttled_since END,
                finished_at = CASE WHEN s.state = 'owed' THEN d.finished_at ELSE :now END
            FROM said AS s
            WHERE d.id = ANY (CAST(:ids AS bigint[]))
                AND d.id = s.id AND d.fence = s.fence AND {STILL_OWED}
            RETURNING d.id, d.attempts, s.fence, d.subscription_id, d.alert_id, d.sequence, s.moves
        ), released AS (
            -- The subquery is asked row by row, so that no plan joins the queue by statistics of
            -- yesterday.
            UPDATE deliveries SET blocked = false
            WHERE blocked AND id = ANY (ARRAY(
                SELECT (
                    SELECT f.id FROM deliveries AS f
                    WHERE f.subscription_id = k.subscription_id AND f.alert_id = k.alert_id
                        AND f.state = 'owed' AND f.finished_at IS NULL AND f.sequence > k.sequence
                    ORDER BY f.sequence LIMIT 1
                ) FROM kept AS k WHERE k.moves
            ))
        ), written AS (
            INSERT INTO attempts
                (delivery_id, number, at, verdict, reason, status, error, milliseconds, excerpt,
                sent_after, answered_after, answer_headers)
            SELECT k.id, k.attempts, s.at, s.verdict, s.reason, s.status, s.error, s.milliseconds,
                s.excerpt, s.sent_after, s.answered_after, s.answer_headers
            FROM kept AS k JOIN said AS s ON s.id = k.id AND s.fence = k.fence
        )
        SELECT id, fence, attempts FROM kept
        """,
        {
            "ids": [a.claimed.id for a in ordered],
            "fences": [a.claimed.fence for a in ordered],
            "states": [_STATES[a.verdict.decision] for a in ordered],
            "due": [
                now if a.verdict.decision is Decision.gone else a.verdict.retry_at for a in ordered
            ],
            "lanes": [int(a.claimed.attempt >= FRESH_ATTEMPTS) for a in ordered],
            "at": [a.at for a in ordered],
            "verdicts": [a.verdict.decision.value for a in ordered],
            "reasons": [_storable(a.verdict.reason) for a in ordered],
            "statuses": [a.outcome.status for a in ordered],
            "errors": [a.verdict.error.value if a.verdict.error else "" for a in ordered],
            "milliseconds": [a.outcome.milliseconds for a in ordered],
            "excerpts": [_storable(a.excerpt) for a in ordered],
            "sent_after": [a.outcome.sent_after for a in ordered],
            "answered_after": [a.outcome.answered_after for a in ordered],
            "answer_headers": [_headers(a.outcome.answer_headers) for a in ordered],
            "moves": [_moves_on(a) for a in ordered],
            "throttled": Decision.throttled.value,
            "now": now,
        },
    )
    return {(row.id, row.fence): row.attempts for row in rows}


_STATES = {
    Decision.delivered: "delivered",
    Decision.retry: "owed",
    Decision.throttled: "owed",
    Decision.give_up: "failed",
    Decision.aborted: "failed",
    Decision.gone: "owed",
}
_FINISHED = frozenset(decision for decision, state in _STATES.items() if state != "owed")


def _moves_on(attempted: Attempted) -> bool:
    """Whether the next of the same alert need wait no more."""
    claimed = attempted.claimed
    is_first = claimed.alert_id is not None and not claimed.again
    return is_first and attempted.verdict.decision in _FINISHED


def _headers(said: Mapping[str, str]) -> str:
    return _storable(msgspec.json.encode(said).decode()) if said else ""


def _storable(text: str) -> str:
    """Text as PostgreSQL can hold it, whatever an endpoint put into it."""
    if text.isascii() and "\0" not in text:
        return text
    sound = text.encode("utf-8", "replace").decode()
    return sound.replace("\0", "\N{REPLACEMENT CHARACTER}")


async def _overtake(
    connection: Transaction,
    held: Mapping[str, Any],
    attempts: Sequence[Attempted],
    now: datetime,
) -> None:
    """Where a subscription asks for the latest, the newest of an alert overtakes one that fails and
    fails; what it leaves behind is superseded.
    """
    stuck: dict[SubscriptionId, list[int]] = {}
    for a in attempts:
        if (
            held[a.claimed.subscription_id].ordering == "latest"
            and a.verdict.decision is Decision.retry
            and a.claimed.attempt >= OVERTAKES_AFTER
            and a.claimed.alert_id is not None
            and not a.claimed.again
        ):
            stuck.setdefault(a.claimed.subscription_id, []).append(a.claimed.alert_id)
    for subscription, alerts in stuck.items():
        await deliveries.keep_latest(connection, subscription, now, alerts=alerts)


async def _change_endpoints(
    connection: Transaction, changes: Mapping[str, _Change], now: datetime
) -> datetime | None:
    """Writes what attempts changed about their endpoints, and when each is ready for more; gives the earliest
    of that.
    """
    if not changes:
        return None
    names = list(changes)
    rows = await fetch(
        connection,
        f"""
        WITH said AS (
            SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:healths AS text[]),
                CAST(:not_before AS timestamptz[]), CAST(:at_once AS smallint[]),
                CAST(:status AS text[]), CAST(:reasons AS text[]),
                CAST(:suspended_at AS timestamptz[]), CAST(:verified AS boolean[]),
                CAST(:untold AS text[]), CAST(:per_second AS double precision[]))
                AS m (id, health, not_before, at_once, status, reason, suspended_at, verified,
                untold, per_second)
        ), due AS (
            SELECT m.*, n.due_at,
                CASE WHEN s.at_once IS NULL THEN GREATEST(s.not_before, m.not_before)
                    ELSE GREATEST(m.not_before, CAST(:now AS timestamptz)
                        + CAST('1 second' AS interval) / s.per_second) END AS bound
            FROM said AS m CROSS JOIN LATERAL (
                SELECT o.at_once, o.not_before, o.per_second, m.id, m.status FROM subscriptions AS o
                WHERE o.id = m.id
            ) AS s CROSS JOIN LATERAL (SELECT {endpoints.NEXT_DUE} AS due_at) AS n
        )
        UPDATE subscriptions AS s SET
            health = CAST(m.health AS jsonb), at_once = m.at_once, not_before = m.bound,
            ready_at = CASE WHEN m.due_at IS NOT NULL THEN GREATEST(m.due_at, m.bound) END,
            status = m.status,
            reason = CASE WHEN m.status = s.status THEN s.reason ELSE m.reason END,
            suspended_at = CASE WHEN m.status = 'suspended'
                THEN coalesce(s.suspended_at, m.suspended_at) END,
            verified_at = CASE WHEN m.verified THEN :now ELSE s.verified_at END,
            owed_since = CASE WHEN m.verified THEN coalesce(s.owed_since, :now)
                ELSE s.owed_since END,
            per_second = coalesce(m.per_second, s.per_second),
            untold = CASE WHEN m.untold = '' THEN s.untold
                ELSE coalesce(s.untold, '[]') || CAST(m.untold AS jsonb) END
        FROM due AS m WHERE s.id = m.id RETURNING s.ready_at
        """,
        {
            "ids": names,
            "healths": [
                json.dumps(machine.document_of(change.health)) for change in changes.values()
            ],
            "not_before": [change.health.not_before for change in changes.values()],
            "at_once": [change.health.at_once for change in changes.values()],
            "status": [change.status for change in changes.values()],
            "reasons": [change.reason or "" for change in changes.values()],
            "suspended_at": [change.suspended_at for change in changes.values()],
            "verified": [change.is_verified for change in changes.values()],
            "untold": [_untold(change, now) for change in changes.values()],
            "per_second": [change.per_second for change in changes.values()],
            "now": now,
        },
    )
    return min((row.ready_at for row in rows if row.ready_at is not None), default=None)


def _untold(change: _Change, now: datetime) -> str:
    """Notices as a JSON list; empty when there are none."""
    if not change.notices:
        return ""
    return _storable(
        json.dumps(
            [
                {
                    "type": notice.type.value,
                    "reason": notice.reason,
                    "percent": notice.percent,
                    "at": now.isoformat(),
                    "failures": notice.failures,
                    "since": notice.since and notice.since.isoformat(),
                    "last_error": notice.error,
                }
                for notice in change.notices
            ],
            ensure_ascii=False,
        )
    )
