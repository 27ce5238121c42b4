"""Deliveries: what is owed to whom, in which order.

The rows are the queue. A delivery is *due* when it is owed, not blocked, and its ``due_at`` has come.
Of the owed deliveries of one alert to one subscription all but the earliest are blocked, and the next
is let go when that one is finished; one that was finished before and is sent again by hand neither
blocks nor is blocked. Whoever touches a delivery holds its endpoint's lock (``store.endpoints``), which
is what makes this safe. How they come to be owed is ``store.debts``, how they are claimed ``store.queue``,
how attempts are recorded ``store.records``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from alerts.payloads import VERIFY
from alerts.routing import SubscriptionId
from app.database import Transaction, fetch
from app.store import endpoints

CHANNEL = "forewarn_deliveries"

OVERTAKES_AFTER = 4
"""Failures after which the newest of an alert may overtake, where a subscription asks for the latest:
with the default schedule 13 minutes."""

STILL_OWED = "CASE WHEN d.state = 'owed' THEN true ELSE false END"
"""SQL: whether a delivery that is found by its id is still owed. Written so that no index of the queue can
serve it: their statistics are mostly of an empty queue, and a plan that trusts these reads all that is owed,
which took 20 seconds a record behind 300 dead endpoints. As a CASE it is taken to hold for half of them: when
it was taken to hold for hardly any, two lists of 256 were compared each with each, and a record took thrice
as long.
"""

_MOST_DIGITS = 18  # of a sequence, so that it fits a bigint


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


async def wake(connection: Transaction) -> None:
    """Tells every sender at commit that something may be due."""
    await fetch(connection, "SELECT pg_notify(:channel, '')", {"channel": CHANNEL})


async def drain(
    connection: Transaction, subscription_id: SubscriptionId, now: datetime, *, every: timedelta
) -> None:
    """Spreads what is owed over time, oldest first, one each ``every``; what is under way stays.

    The subscription must be locked; its endpoint is not refreshed.
    """
    await fetch(
        connection,
        """
        WITH backlog AS (
            SELECT id, row_number() OVER (ORDER BY sequence) - 1 AS n FROM deliveries
            WHERE subscription_id = :id AND state = 'owed'
                AND (lease_until IS NULL OR lease_until <= :now)
        )
        UPDATE deliveries AS d
        SET due_at = CAST(:now AS timestamptz) + b.n * CAST(:every AS interval),
            lane = 0, forgiven = d.attempts, throttled = 0, throttled_since = NULL
        FROM backlog AS b WHERE d.id = b.id
        """,
        {"id": subscription_id, "now": now, "every": every},
    )


async def keep_latest(
    connection: Transaction,
    subscription_id: SubscriptionId,
    now: datetime,
    *,
    alerts: Sequence[int] | None = None,
) -> None:
    """Of what is owed, only the newest of each alert stays; those before it are superseded.

    They stay in the pull feed. What is under way stays, and the newest waits for it; one that is alone
    is left as it is. ``alerts`` says of which alerts, None of all. The subscription must be locked; its
    endpoint is not refreshed.
    """
    await fetch(
        connection,
        """
        WITH waiting AS (
            SELECT id, alert_id, sequence, lease_until > :now AS under_way FROM deliveries
            WHERE subscription_id = :id AND alert_id IS NOT NULL AND state = 'owed'
                AND finished_at IS NULL
                AND (CAST(:alerts AS bigint[]) IS NULL OR alert_id = ANY(CAST(:alerts AS bigint[])))
        ), ranked AS (
            SELECT id, row_number() OVER (PARTITION BY alert_id ORDER BY sequence DESC) = 1 AS stays,
                coalesce(bool_or(under_way) OVER (PARTITION BY alert_id), false) AS waits,
                coalesce(under_way, false) AS under_way,
                count(*) OVER (PARTITION BY alert_id) = 1 AS alone
            FROM waiting
        )
        UPDATE deliveries AS d SET
            state = CASE WHEN r.stays THEN d.state ELSE 'superseded' END,
            finished_at = CASE WHEN r.stays THEN d.finished_at ELSE CAST(:now AS timestamptz) END,
            due_at = CASE WHEN r.stays THEN CAST(:now AS timestamptz) END,
            lease_until = NULL,
            blocked = r.stays AND r.waits
        FROM ranked AS r WHERE d.id = r.id AND NOT r.under_way AND NOT r.alone
        """,
        {
            "id": subscription_id,
            "now": now,
            "alerts": None if alerts is None else list(alerts),
        },
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """The challenge that an endpoint was asked last, by whatever way it is answered."""

    delivery_id: int
    challenge: str
    asked_at: datetime


async def asked(connection: Transaction, subscription_id: SubscriptionId) -> Asked | None:
    """The newest challenge of a subscription, unless it was withdrawn.

    It is the one of the endpoint it has now: whoever changes the endpoint of a subscription that
    waits asks anew. The subscription must be locked.
    """
    rows = await fetch(
        connection,
        "SELECT id, state, data::jsonb ->> 'challenge' AS challenge, created_at "
        "FROM deliveries WHERE subscription_id = :id AND type = :verify "
        "ORDER BY sequence DESC LIMIT 1",
        {"id": subscription_id, "verify": VERIFY},
    )
    if not rows or rows[0].state == "withdrawn":
        return None
    (row,) = rows
    return Asked(row.id, row.challenge, row.created_at)


async def accept(
    connection: Transaction, subscription_id: SubscriptionId, asked: Asked, now: datetime
) -> None:
    """Takes a challenge as answered, as if its endpoint had: the subscription becomes active.

    It is not tried again, and an attempt that is under way is not recorded any more. The
    subscription must be locked and pending.
    """
    await _finish(connection, asked, "delivered", now)
    await fetch(
        connection,
        "UPDATE subscriptions SET status = 'active', reason = '', verified_at = :now, "
        "owed_since = coalesce(owed_since, :now) WHERE id = :id AND status = 'pending'",
        {"id": subscription_id, "now": now},
    )
    await endpoints.refresh(connection, [subscription_id])
    await wake(connection)


async def spoil(connection: Transaction, asked: Asked, now: datetime) -> None:
    """Makes a challenge worthless. The subscription must be locked."""
    await _finish(connection, asked, "withdrawn", now)


async def _finish(connection: Transaction, asked: Asked, state: str, now: datetime) -> None:
    await fetch(
        connection,
        "UPDATE deliveries SET state = :state, due_at = NULL, lease_until = NULL, "
        "finished_at = :now WHERE id = :id",
        {"id": asked.delivery_id, "state": state, "now": now},
    )


async def withdraw(
    connection: Transaction,
    subscription_id: SubscriptionId,
    now: datetime,
    *,
    kind: str | None = None,
) -> None:
    """Takes back what is owed, of one type or all: there is nobody left to send it to.

    An attempt that is under way is not recorded any more. The subscription must be locked; its
    endpoint is not refreshed.
    """
    await fetch(
        connection,
        "UPDATE deliveries SET state = 'withdrawn', due_at = NULL, lease_until = NULL, "
        "blocked = false, finished_at = coalesce(finished_at, :now) "
        "WHERE subscription_id = :id AND state = 'owed' "
        "AND (CAST(:kind AS text) IS NULL OR type = :kind)",
        {"id": subscription_id, "now": now, "kind": kind},
    )


async def redeliver(
    connection: Transaction,
    subscription_id: SubscriptionId,
    ids: Sequence[int],
    now: datetime,
    *,
    begins: datetime | None = None,
    every: timedelta = timedelta(),
) -> int:
    """Owes finished deliveries again under the same ids, or hastens such as wait for a retry.

    The first is due when that ``begins``, None for at once, and each other one ``every`` later. The
    schedule begins anew for each. Gives how many; what was withdrawn, waits behind another of its alert
    or is under way is left as it is. The subscription must be locked and active.
    """
    done = await fetch(
        connection,
        """
        UPDATE deliveries AS d SET state = 'owed', lease_until = NULL, lane = 0,
            due_at = CAST(:begins AS timestamptz) + (w.place - 1) * CAST(:every AS interval),
            forgiven = d.attempts, throttled = 0, throttled_since = NULL
        FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS w (id, place)
        WHERE d.id = w.id AND d.subscription_id = :subscription AND d.state <> 'withdrawn'
            AND NOT d.blocked AND (d.lease_until IS NULL OR d.lease_until <= :now)
        RETURNING d.id
        """,
        {
            "ids": list(ids),
            "subscription": subscription_id,
            "now": now,
            "begins": begins or now,
            "every": every,
        },
    )
    await endpoints.refresh(connection, [subscription_id])
    await wake(connection)
    return len(done)


async def expire(connection: Transaction, before: datetime, now: datetime, limit: int) -> int:
    """Gives up on what suspended endpoints are owed since before an instant; how many that were.

    It stays in the pull feed and can be sent again by hand. What is under way is let end first.
    """
    rows = await fetch(
        connection,
        """
        SELECT s.id FROM subscriptions AS s WHERE s.status = 'suspended' AND EXISTS (
            SELECT FROM deliveries AS d WHERE d.subscription_id = s.id AND d.state = 'owed'
                AND d.created_at < :before)
        ORDER BY s.id FOR NO KEY UPDATE
        """,
        {"before": before},
    )
    touched = [SubscriptionId(row.id) for row in rows]
    done = await fetch(
        connection,
        """
        WITH old AS (
            SELECT id FROM deliveries WHERE subscription_id = ANY(CAST(:ids AS text[]))
                AND state = 'owed' AND created_at < :before
                AND (lease_until IS NULL OR lease_until <= :now) ORDER BY id LIMIT :limit
        )
        UPDATE deliveries AS d SET state = 'expired', finished_at = coalesce(finished_at, :now),
            due_at = NULL, lease_until = NULL, blocked = false
        FROM old WHERE d.id = old.id RETURNING d.id
        """,
        {"ids": touched, "before": before, "now": now, "limit": limit},
    )
    await unblock(connection, touched)
    return len(done)


async def unblock(connection: Transaction, ids: Sequence[SubscriptionId]) -> None:
    """Lets the earliest of every alert go where others were taken from before it. They must be locked."""
    await fetch(
        connection,
        """
        UPDATE deliveries AS d SET blocked = false FROM (
            SELECT DISTINCT ON (subscription_id, alert_id) id FROM deliveries
            WHERE subscription_id = ANY(CAST(:ids AS text[])) AND alert_id IS NOT NULL
                AND state = 'owed' AND finished_at IS NULL
            ORDER BY subscription_id, alert_id, sequence
        ) AS first
        WHERE d.id = first.id AND d.blocked
        """,
        {"ids": list(ids)},
    )


async def forget(
    connection: Transaction, *, attempts_before: datetime, deliveries_before: datetime, limit: int
) -> int:
    """Deletes attempts, and finished deliveries with theirs, that are older than they are kept.

    Of a subscription only from its beginning on: the pull feed has no gaps, and one that took long to be
    delivered keeps those behind it.

    Gives how many rows went; call again while it is ``limit`` or more.
    """
    tried = await fetch(
        connection,
        "DELETE FROM attempts WHERE (delivery_id, number) IN (SELECT delivery_id, number "
        "FROM attempts WHERE at < :before ORDER BY at LIMIT :limit) RETURNING number",
        {"before": attempts_before, "limit": limit},
    )
    finished = await fetch(
        connection,
        """
        WITH old AS (
            SELECT d.id FROM deliveries AS d WHERE d.state <> 'owed' AND d.finished_at < :before
                AND (
                    SELECT e.id FROM deliveries AS e
                    WHERE e.subscription_id = d.subscription_id AND e.sequence < d.sequence
                        AND (e.state = 'owed' OR e.finished_at >= :before)
                    ORDER BY e.sequence LIMIT 1
                ) IS NULL
            ORDER BY d.finished_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ), tried AS (DELETE FROM attempts AS a USING old WHERE a.delivery_id = old.id)
        SELECT id FROM old
        """,
        {"before": deliveries_before, "limit": limit},
    )
    ids = [row.id for row in finished]
    if ids:
        await fetch(
            connection,
            "DELETE FROM deliveries WHERE id = ANY(CAST(:ids AS bigint[]))",
            {"ids": ids},
        )
    return len(tried) + len(ids)
