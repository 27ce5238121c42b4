"""Deliveries: what is owed to whom, claimed under a lease, recorded under a fence.

The rows are the queue. A delivery is *due* when it is owed and its ``due_at`` has come; a null
``due_at`` parks it while its endpoint may not be sent to. Of the owed deliveries of one alert to one
subscription only the earliest may be claimed; one that was finished before and is sent again by
hand neither blocks nor counts as earlier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from alerts.retries import Decision, Outcome, Verdict
from alerts.routing import SubscriptionId
from app.database import Connection

CHANNEL = "forewarn_deliveries"
VERIFY = "webhook.verify"
TEST = "webhook.test"

_FEWEST_LOOKED_AT = 128
_MOST_DIGITS = 18  # of a sequence, so that it fits a bigint


@dataclass(frozen=True, slots=True)
class Debt:
    """Something to owe to one subscription: a transition, or ``data`` of its own (JSON text)."""

    subscription_id: SubscriptionId
    type: str
    transition_id: int | None = None
    alert_id: int | None = None
    data: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery in this worker's hands until its lease ends, with all that sending needs.

    ``attempt`` is the number of the coming attempt among those the schedule counts. ``fence``
    rises with every claim: who records with an old one is refused. ``again`` says that it was
    finished before. ``sealed_secrets`` are those that sign now, newest first.
    """

    id: int
    subscription_id: SubscriptionId
    sequence: int
    type: str
    alert_id: int | None
    created_at: datetime
    attempt: int
    fence: int
    again: bool
    url: str
    data: str
    sealed_secrets: tuple[bytes, ...]

    @property
    def webhook_id(self) -> str:
        """The same on every try."""
        return webhook_id(self.subscription_id, self.sequence)


@dataclass(frozen=True, slots=True)
class Attempted:
    """A claimed delivery after its attempt; ``excerpt`` is the beginning of the answer."""

    claimed: Claimed
    at: datetime
    outcome: Outcome
    verdict: Verdict
    excerpt: str


def webhook_id(subscription_id: SubscriptionId, sequence: int) -> str:
    """The id of a delivery: ``msg_``, the subscription's id without its prefix, the sequence."""
    return f"msg_{subscription_id.removeprefix('sub_')}_{sequence}"


def place_of(webhook_id: str) -> tuple[SubscriptionId, int] | None:
    """The subscription and sequence that a webhook id names; None for any other text."""
    head, _, number = webhook_id.rpartition("_")
    name = head.removeprefix("msg_")
    if name == head or not (name.isascii() and name.isalnum()):
        return None
    if not (number.isascii() and number.isdigit()) or len(number) > _MOST_DIGITS:
        return None
    return SubscriptionId(f"sub_{name}"), int(number)


async def owe(connection: Connection, debts: Sequence[Debt], now: datetime) -> None:
    """Owes, and wakes the senders at commit. Three statements, however many debts.

    Each debt gets its subscription's next sequence, in the order given: gapless, because the
    subscription's row stays locked until the transaction ends. Rows are locked in the order of
    their ids. Removed subscriptions are owed nothing.
    """
    if not debts:
        return
    subscriptions = [debt.subscription_id for debt in debts]
    parameters = {
        "subscriptions": subscriptions,
        "types": [debt.type for debt in debts],
        "transitions": [debt.transition_id for debt in debts],
        "alerts": [debt.alert_id for debt in debts],
        "data": [debt.data for debt in debts],
        "now": now,
        "verify": VERIFY,
    }
    # The locks are a statement of their own, so that the next one sees what their holders wrote.
    await connection.execute(
        text(
            "SELECT id FROM subscriptions WHERE id = ANY(CAST(:ids AS text[])) "
            "ORDER BY id FOR NO KEY UPDATE"
        ),
        {"ids": sorted(set(subscriptions))},
    )
    await connection.execute(
        text(
            """
            WITH debts AS (
                SELECT *, row_number() OVER (PARTITION BY subscription_id ORDER BY place) AS n
                FROM unnest(
                    CAST(:subscriptions AS text[]), CAST(:types AS text[]),
                    CAST(:transitions AS bigint[]), CAST(:alerts AS bigint[]), CAST(:data AS text[])
                ) WITH ORDINALITY AS d (subscription_id, type, transition_id, alert_id, data, place)
            ), counted AS (
                UPDATE subscriptions AS s SET last_sequence = s.last_sequence + c.n
                FROM (SELECT subscription_id, max(n) AS n FROM debts GROUP BY 1) AS c
                WHERE s.id = c.subscription_id AND s.status <> 'removed'
                RETURNING s.id, s.last_sequence - c.n AS before, s.status
            )
            INSERT INTO deliveries
                (subscription_id, sequence, type, transition_id, alert_id, data, created_at, due_at)
            SELECT d.subscription_id, c.before + d.n, d.type, d.transition_id, d.alert_id, d.data,
                CAST(:now AS timestamptz),
                CASE WHEN c.status = 'active' OR (c.status = 'pending' AND d.type = :verify)
                    THEN CAST(:now AS timestamptz) END
            FROM debts AS d JOIN counted AS c ON c.id = d.subscription_id
            ORDER BY d.place
            """
        ),
        parameters,
    )
    await wake(connection)


async def wake(connection: Connection) -> None:
    """Tells every sender at commit that something may be due."""
    await connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})


async def claim_due(
    connection: Connection,
    now: datetime,
    *,
    slots: int,
    per_endpoint: int,
    in_flight: Mapping[str, int],
    lease_until: datetime,
) -> list[Claimed]:
    """Claims due deliveries, oldest due first: at most ``slots``, and per subscription no more than
    ``per_endpoint`` together with those ``in_flight`` in this worker.

    Rows that another worker is claiming are passed over. What was claimed and not recorded before
    its lease ended is due again. One statement.
    """
    # A queue's statistics are always out of date, and joins planned by them took a second with two
    # thousand rows. So the statement leaves the planner one way: walk deliveries_due in order (OFFSET 0
    # keeps the subquery whole, scalar subqueries are asked row by row, LIMIT ends the walk), then
    # find rows by arrays of ids (IS TRUE keeps deliveries_due out of that).
    rows = await connection.execute(
        text(
            """
            WITH due AS (
                SELECT d.id, d.subscription_id, d.due_at
                FROM (
                    SELECT * FROM deliveries
                    WHERE state = 'owed' AND due_at <= :now
                        AND (lease_until IS NULL OR lease_until <= :now)
                        AND subscription_id <> ALL (CAST(:full AS text[]))
                    ORDER BY due_at, id OFFSET 0
                ) AS d
                WHERE (
                    SELECT s.status = 'active' OR (s.status = 'pending' AND d.type = :verify)
                    FROM subscriptions AS s WHERE s.id = d.subscription_id
                ) AND (
                    SELECT e.id FROM deliveries AS e
                    WHERE e.subscription_id = d.subscription_id AND e.alert_id = d.alert_id
                        AND e.state = 'owed' AND e.sequence < d.sequence AND e.finished_at IS NULL
                    LIMIT 1
                ) IS NULL
                LIMIT :window
            ), ranked AS (
                SELECT due.*, row_number() OVER (PARTITION BY subscription_id ORDER BY due_at, id) AS n
                FROM due
            ), chosen AS (
                SELECT r.id
                FROM ranked AS r LEFT JOIN unnest(CAST(:busy AS text[]), CAST(:counts AS integer[]))
                    AS b (subscription_id, n) ON b.subscription_id = r.subscription_id
                WHERE r.n + coalesce(b.n, 0) <= :per_endpoint
                ORDER BY r.due_at, r.id LIMIT :slots
            ), locked AS (
                SELECT d.id FROM deliveries AS d
                WHERE d.id = ANY (ARRAY(SELECT id FROM chosen))
                    AND d.state = 'owed' AND (d.due_at <= :now) IS TRUE
                    AND (d.lease_until IS NULL OR d.lease_until <= :now)
                FOR UPDATE SKIP LOCKED
            ), taken AS (
                UPDATE deliveries AS d SET lease_until = :lease_until, fence = d.fence + 1
                WHERE d.id = ANY (ARRAY(SELECT id FROM locked))
                RETURNING d.*
            )
            SELECT d.id, d.subscription_id, d.sequence, d.type, d.alert_id, d.created_at,
                d.attempts - d.forgiven + 1 AS attempt, d.fence, d.finished_at IS NOT NULL AS again, s.url,
                coalesce(d.data, t.data) AS data,
                (SELECT array_agg(k.sealed ORDER BY k.number DESC) FROM subscription_secrets AS k
                 WHERE k.subscription_id = d.subscription_id
                    AND (k.retires_at IS NULL OR k.retires_at > :now)) AS sealed
            FROM taken AS d JOIN subscriptions AS s ON s.id = d.subscription_id
            LEFT JOIN transitions AS t ON t.id = d.transition_id
            ORDER BY d.due_at, d.id
            """
        ),
        {
            "now": now,
            "verify": VERIFY,
            "full": [name for name, count in in_flight.items() if count >= per_endpoint],
            "busy": list(in_flight),
            "counts": list(in_flight.values()),
            "per_endpoint": per_endpoint,
            "window": max(_FEWEST_LOOKED_AT, slots * 4),
            "slots": slots,
            "lease_until": lease_until,
        },
    )
    return [
        Claimed(
            id=row.id,
            subscription_id=SubscriptionId(row.subscription_id),
            sequence=row.sequence,
            type=row.type,
            alert_id=row.alert_id,
            created_at=row.created_at,
            attempt=row.attempt,
            fence=row.fence,
            again=row.again,
            url=row.url,
            data=row.data,
            sealed_secrets=tuple(row.sealed or ()),
        )
        for row in rows
    ]


async def record(connection: Connection, attempts: Sequence[Attempted], now: datetime) -> set[int]:
    """Records attempts and what follows for their deliveries; gives the ids that were recorded.

    An attempt is left out when its fence is old or its delivery is no longer owed: somebody else
    has claimed it since, or it was withdrawn. Two statements, four when a subscription changes.

    * delivered: finished; the next of the same alert is due at once
    * retry: due later, and so are those of the same alert behind it
    * give up: finished as failed; the next of the same alert is due at once
    * gone: stays owed, and its subscription is suspended with all that it is owed
    * a verification delivered: its subscription becomes active, and what it is owed is due
    """
    # Subscriptions before deliveries, and each in one order, so that no two wait for each other.
    gone = [a.claimed.subscription_id for a in attempts if a.verdict.decision is Decision.gone]
    verified = [
        a.claimed.subscription_id
        for a in attempts
        if a.claimed.type == VERIFY and a.verdict.decision is Decision.delivered
    ]
    if gone or verified:
        await connection.execute(
            text(
                "SELECT id FROM subscriptions WHERE id = ANY(CAST(:ids AS text[])) "
                "ORDER BY id FOR NO KEY UPDATE"
            ),
            {"ids": sorted({*gone, *verified})},
        )
    ordered = sorted(attempts, key=lambda a: a.claimed.id)
    rows = await connection.execute(
        text(
            """
            WITH said AS (
                SELECT * FROM unnest(
                    CAST(:ids AS bigint[]), CAST(:fences AS bigint[]), CAST(:states AS text[]),
                    CAST(:due AS timestamptz[]), CAST(:at AS timestamptz[]),
                    CAST(:verdicts AS text[]), CAST(:reasons AS text[]),
                    CAST(:statuses AS integer[]), CAST(:errors AS text[]),
                    CAST(:milliseconds AS double precision[]), CAST(:excerpts AS text[])
                ) AS s (id, fence, state, due_at, at, verdict, reason, status, error, milliseconds,
                    excerpt)
            ), kept AS (
                UPDATE deliveries AS d
                SET state = s.state, due_at = s.due_at, lease_until = NULL,
                    attempts = d.attempts + 1,
                    finished_at = CASE WHEN s.state = 'owed' THEN d.finished_at ELSE :now END
                FROM said AS s
                WHERE d.id = ANY (CAST(:ids AS bigint[]))
                    AND d.id = s.id AND d.fence = s.fence AND d.state = 'owed'
                RETURNING d.id, d.attempts
            )
            INSERT INTO attempts
                (delivery_id, number, at, verdict, reason, status, error, milliseconds, excerpt)
            SELECT k.id, k.attempts, s.at, s.verdict, s.reason, s.status, s.error, s.milliseconds,
                s.excerpt
            FROM kept AS k JOIN said AS s ON s.id = k.id
            RETURNING delivery_id
            """
        ),
        {
            "ids": [a.claimed.id for a in ordered],
            "fences": [a.claimed.fence for a in ordered],
            "states": [_STATES[a.verdict.decision] for a in ordered],
            "due": [a.verdict.retry_at for a in ordered],
            "at": [a.at for a in ordered],
            "verdicts": [a.verdict.decision.value for a in ordered],
            "reasons": [_storable(a.verdict.reason) for a in ordered],
            "statuses": [a.outcome.status for a in ordered],
            "errors": [a.verdict.error.value if a.verdict.error else "" for a in ordered],
            "milliseconds": [a.outcome.milliseconds for a in ordered],
            "excerpts": [_storable(a.excerpt) for a in ordered],
            "now": now,
        },
    )
    kept = set(rows.scalars())
    await _move_followers(connection, [a for a in ordered if a.claimed.id in kept], now)
    for attempted in ordered:
        if attempted.claimed.id not in kept:
            continue
        subscription_id = attempted.claimed.subscription_id
        if attempted.verdict.decision is Decision.gone:
            await _suspend_gone(connection, attempted.claimed, now)
        elif subscription_id in verified and attempted.claimed.type == VERIFY:
            await _activate_verified(connection, subscription_id, now)
    return kept


_GONE = "gone: the endpoint answered 410"
_STATES = {
    Decision.delivered: "delivered",
    Decision.retry: "owed",
    Decision.give_up: "failed",
    Decision.gone: "owed",
}


def _storable(text: str) -> str:
    """Text as PostgreSQL can hold it, whatever an endpoint put into it."""
    sound = text.encode("utf-8", "replace").decode()
    return sound.replace("\0", "\N{REPLACEMENT CHARACTER}")


async def _move_followers(
    connection: Connection, attempts: Sequence[Attempted], now: datetime
) -> None:
    """Moves what waits behind: with the one it waits for, so that claiming need not look at it.

    Only spares work: whether something may be claimed is decided by ``claim_due`` alone.
    """
    moved = [
        a
        for a in attempts
        if a.claimed.alert_id is not None
        and not a.claimed.again
        and a.verdict.decision is not Decision.gone
    ]
    if not moved:
        return
    await connection.execute(
        text(
            """
            WITH followers AS (
                SELECT f.id, m.due_at
                FROM unnest(CAST(:subscriptions AS text[]), CAST(:alerts AS bigint[]),
                    CAST(:sequences AS bigint[]), CAST(:due AS timestamptz[]))
                    AS m (subscription_id, alert_id, sequence, due_at)
                CROSS JOIN LATERAL (
                    SELECT d.id FROM deliveries AS d
                    WHERE d.subscription_id = m.subscription_id AND d.alert_id = m.alert_id
                        AND d.sequence > m.sequence AND d.state = 'owed' AND d.finished_at IS NULL
                        AND (m.due_at > :now OR d.due_at > :now) AND d.due_at IS NOT NULL
                    OFFSET 0
                ) AS f
            )
            UPDATE deliveries AS d SET due_at = f.due_at
            FROM followers AS f
            WHERE d.id = ANY (ARRAY(SELECT id FROM followers)) AND d.id = f.id AND d.state = 'owed'
            """
        ),
        {
            "subscriptions": [a.claimed.subscription_id for a in moved],
            "alerts": [a.claimed.alert_id for a in moved],
            "sequences": [a.claimed.sequence for a in moved],
            "due": [a.verdict.retry_at or now for a in moved],
            "now": now,
        },
    )


async def _suspend_gone(connection: Connection, claimed: Claimed, now: datetime) -> None:
    """Suspends, unless the subscription has moved to another endpoint since it was claimed."""
    done = await connection.execute(
        text(
            "UPDATE subscriptions SET status = 'suspended', suspended_at = :now, reason = :reason "
            "WHERE id = :id AND url = :url AND status IN ('active', 'pending')"
        ),
        {"id": claimed.subscription_id, "url": claimed.url, "now": now, "reason": _GONE},
    )
    if done.rowcount:
        await park(connection, claimed.subscription_id)
        return
    await connection.execute(
        text(
            "UPDATE deliveries SET due_at = :now WHERE id = :delivery AND state = 'owed' "
            "AND EXISTS (SELECT FROM subscriptions WHERE id = :id AND status = 'active')"
        ),
        {"id": claimed.subscription_id, "delivery": claimed.id, "now": now},
    )


async def _activate_verified(
    connection: Connection, subscription_id: SubscriptionId, now: datetime
) -> None:
    done = await connection.execute(
        text(
            "UPDATE subscriptions SET status = 'active', reason = '', "
            "verified_at = :now, owed_since = coalesce(owed_since, :now) "
            "WHERE id = :id AND status = 'pending'"
        ),
        {"id": subscription_id, "now": now},
    )
    if done.rowcount:
        await unpark(connection, subscription_id, now)


@dataclass(frozen=True, slots=True)
class Asked:
    """The challenge that an endpoint was asked last, by whatever way it is answered."""

    delivery_id: int
    challenge: str
    asked_at: datetime


async def asked(connection: Connection, subscription_id: SubscriptionId) -> Asked | None:
    """The newest challenge of a subscription, unless it was withdrawn.

    It is the one of the endpoint it has now: whoever changes the endpoint of a subscription that
    waits asks anew. The subscription must be locked.
    """
    rows = await connection.execute(
        text(
            "SELECT id, state, data::jsonb ->> 'challenge' AS challenge, created_at "
            "FROM deliveries WHERE subscription_id = :id AND type = :verify "
            "ORDER BY sequence DESC LIMIT 1"
        ),
        {"id": subscription_id, "verify": VERIFY},
    )
    row = rows.first()
    if row is None or row.state == "withdrawn":
        return None
    return Asked(row.id, row.challenge, row.created_at)


async def accept(
    connection: Connection, subscription_id: SubscriptionId, asked: Asked, now: datetime
) -> None:
    """Takes a challenge as answered, as if its endpoint had: the subscription becomes active.

    It is not tried again, and an attempt that is under way is not recorded any more. The
    subscription must be locked and pending.
    """
    await _finish(connection, asked, "delivered", now)
    await _activate_verified(connection, subscription_id, now)


async def spoil(connection: Connection, asked: Asked, now: datetime) -> None:
    """Makes a challenge worthless. The subscription must be locked."""
    await _finish(connection, asked, "withdrawn", now)


async def _finish(connection: Connection, asked: Asked, state: str, now: datetime) -> None:
    await connection.execute(
        text(
            "UPDATE deliveries SET state = :state, due_at = NULL, lease_until = NULL, "
            "finished_at = :now WHERE id = :id"
        ),
        {"id": asked.delivery_id, "state": state, "now": now},
    )


async def park(connection: Connection, subscription_id: SubscriptionId) -> None:
    """Keeps what is owed from being sent. The subscription must be locked."""
    await connection.execute(
        text("UPDATE deliveries SET due_at = NULL WHERE subscription_id = :id AND state = 'owed'"),
        {"id": subscription_id},
    )


async def unpark(connection: Connection, subscription_id: SubscriptionId, now: datetime) -> None:
    """Makes what is owed due, all of it, and wakes the senders. The subscription must be locked."""
    await connection.execute(
        text("UPDATE deliveries SET due_at = :now WHERE subscription_id = :id AND state = 'owed'"),
        {"id": subscription_id, "now": now},
    )
    await wake(connection)


async def withdraw(
    connection: Connection,
    subscription_id: SubscriptionId,
    now: datetime,
    *,
    kind: str | None = None,
) -> None:
    """Takes back what is owed, of one type or all: there is nobody left to send it to.

    An attempt that is under way is not recorded any more. The subscription must be locked.
    """
    await connection.execute(
        text(
            "UPDATE deliveries SET state = 'withdrawn', due_at = NULL, lease_until = NULL, "
            "finished_at = coalesce(finished_at, :now) WHERE subscription_id = :id "
            "AND state = 'owed' AND (CAST(:kind AS text) IS NULL OR type = :kind)"
        ),
        {"id": subscription_id, "now": now, "kind": kind},
    )


async def redeliver(connection: Connection, delivery_id: int, now: datetime) -> bool:
    """Owes a finished delivery again under the same id, or hastens one that waits for a retry.

    The schedule begins anew. False when it was withdrawn. Its subscription must be locked and
    active.
    """
    done = await connection.execute(
        text(
            "UPDATE deliveries SET state = 'owed', due_at = :now, forgiven = attempts "
            "WHERE id = :id AND state IN ('owed', 'delivered', 'failed')"
        ),
        {"id": delivery_id, "now": now},
    )
    await wake(connection)
    return done.rowcount == 1
