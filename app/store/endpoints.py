"""Endpoints as the queue sees them: when something may be sent, and what owners must be told.

The row of a subscription is the one lock of its endpoint: whoever owes, claims, records, suspends or
sends again holds it, and whoever needs several takes them in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from alerts.payloads import VERIFY
from alerts.routing import Filter, SubscriptionId
from alerts.signals import PartnerId
from app.database import Transaction, Write, fetch, fetch_beside
from app.store.subscriptions import filter_of

# What may be sent next to s: a pending endpoint is sent nothing but challenges.
_NEXT = f"""
    (SELECT d.due_at FROM deliveries AS d WHERE d.subscription_id = s.id AND d.lane = {{lane}}
        AND d.state = 'owed' AND NOT d.blocked
        AND (s.status = 'active' OR s.status = 'pending' AND d.type = '{VERIFY}')
        ORDER BY d.due_at LIMIT 1)
"""
NEXT_DUE = f"LEAST({_NEXT.format(lane=0)}, {_NEXT.format(lane=1)})"
"""SQL: the earliest instant at which a delivery of the subscription ``s`` is due, or null."""


SEALED = """
    (SELECT array_agg(k.sealed ORDER BY k.number DESC) FROM subscription_secrets AS k
     WHERE k.subscription_id = s.id AND (k.retires_at IS NULL OR k.retires_at > :now))
"""
"""SQL: the sealed secrets that sign for the subscription ``s`` at ``:now``, newest first, or null."""


async def lock(
    connection: Transaction, ids: Collection[SubscriptionId], beside: Sequence[Write] = ()
) -> None:
    """Locks endpoints in the order of their ids, and writes what is to be written beside it.

    A statement of its own, so that the next one sees what other holders wrote.
    """
    await fetch_beside(
        connection,
        beside,
        "SELECT id FROM subscriptions WHERE id = ANY(CAST(:ids AS text[])) "
        "ORDER BY id FOR NO KEY UPDATE",
        {"ids": sorted(ids)},
    )


async def refresh(connection: Transaction, ids: Collection[SubscriptionId]) -> None:
    """Works out anew when each of these may next be sent something. They must be locked."""
    await fetch(
        connection,
        f"""
        UPDATE subscriptions AS s SET ready_at = n.ready_at
        FROM (
            SELECT s.id, CASE WHEN n.due_at IS NOT NULL THEN GREATEST(n.due_at, s.not_before) END
                AS ready_at
            FROM subscriptions AS s CROSS JOIN LATERAL (SELECT {NEXT_DUE} AS due_at) AS n
            WHERE s.id = ANY (CAST(:ids AS text[]))
        ) AS n
        WHERE s.id = n.id AND s.ready_at IS DISTINCT FROM n.ready_at
        """,
        {"ids": list(ids)},
    )


@dataclass(frozen=True, slots=True)
class Untold:
    """What the owner of an endpoint must still be told: documents of notices, oldest first."""

    id: SubscriptionId
    partner_id: PartnerId
    url: str
    notices: Sequence[dict[str, Any]]
    owed: int
    oldest_owed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another endpoint of an owner."""

    id: SubscriptionId
    partner_id: PartnerId
    filter: Filter


async def with_untold(connection: Transaction, limit: int) -> list[SubscriptionId]:
    """Endpoints whose owners must be told something."""
    rows = await fetch(
        connection,
        "SELECT id FROM subscriptions WHERE untold IS NOT NULL ORDER BY id LIMIT :limit",
        {"limit": limit},
    )
    return [SubscriptionId(row.id) for row in rows]


async def neighbours(connection: Transaction, ids: Collection[SubscriptionId]) -> list[Neighbour]:
    """The active endpoints of the owners of these, themselves included."""
    rows = await fetch(
        connection,
        "SELECT id, partner_id, filter FROM subscriptions WHERE status = 'active' "
        "AND partner_id IN (SELECT partner_id FROM subscriptions WHERE id = ANY(CAST(:ids AS text[])))",
        {"ids": list(ids)},
    )
    return [
        Neighbour(SubscriptionId(row.id), PartnerId(row.partner_id), filter_of(row.filter))
        for row in rows
    ]


async def take_untold(connection: Transaction, ids: Collection[SubscriptionId]) -> list[Untold]:
    """Takes what must be told about these; they must be locked."""
    rows = await fetch(
        connection,
        """
        WITH told AS (
            SELECT s.id, s.untold FROM subscriptions AS s
            WHERE s.id = ANY(CAST(:ids AS text[])) AND s.untold IS NOT NULL
        ), cleared AS (
            UPDATE subscriptions AS s SET untold = NULL FROM told WHERE s.id = told.id
            RETURNING s.id, s.partner_id, s.url, told.untold
        )
        SELECT c.*, o.owed, o.oldest FROM cleared AS c CROSS JOIN LATERAL (
            SELECT count(*) AS owed, min(d.created_at) AS oldest FROM deliveries AS d
            WHERE d.subscription_id = c.id AND d.state = 'owed'
        ) AS o ORDER BY c.id
        """,
        {"ids": list(ids)},
    )
    return [
        Untold(
            SubscriptionId(row.id),
            PartnerId(row.partner_id),
            row.url,
            row.untold,
            row.owed,
            row.oldest,
        )
        for row in rows
    ]
