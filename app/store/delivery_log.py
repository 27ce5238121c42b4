"""Deliveries as they are shown: lists, the pull feed, one with its attempts. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import RowMapping, text

from alerts.routing import SubscriptionId
from app.database import Connection
from app.store.deliveries import webhook_id


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery as it is shown. ``data`` is JSON text; ``due_at`` is null when parked or finished."""

    id: int
    subscription_id: SubscriptionId
    sequence: int
    type: str
    alert_ref: str | None
    state: str
    attempts: int
    created_at: datetime
    due_at: datetime | None
    lease_until: datetime | None
    blocked: bool
    finished_at: datetime | None
    data: str

    @property
    def webhook_id(self) -> str:
        """The name by which everyone knows it."""
        return webhook_id(self.subscription_id, self.sequence)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP try, as recorded."""

    number: int
    at: datetime
    verdict: str
    reason: str
    status: int | None
    error: str
    milliseconds: float
    excerpt: str


_SHOWN = (
    "SELECT d.id, d.subscription_id, d.sequence, d.type, a.ref AS alert_ref, d.state, d.attempts, "
    "d.created_at, CASE WHEN d.state = 'owed' AND NOT d.blocked "
    "AND (s.status = 'active' OR s.status = 'pending' AND d.type = 'webhook.verify') "
    "THEN GREATEST(d.due_at, s.not_before) END AS due_at, d.lease_until, d.blocked, d.finished_at, "
    "coalesce(d.data, t.data) AS data FROM deliveries AS d "
    "JOIN subscriptions AS s ON s.id = d.subscription_id "
    "LEFT JOIN transitions AS t ON t.id = d.transition_id LEFT JOIN alerts AS a ON a.id = d.alert_id "
)


async def find(
    connection: Connection, subscription_id: SubscriptionId, sequence: int
) -> Delivery | None:
    """One delivery, whatever its state."""
    rows = await connection.execute(
        text(_SHOWN + "WHERE d.subscription_id = :id AND d.sequence = :sequence"),
        {"id": subscription_id, "sequence": sequence},
    )
    row = rows.mappings().first()
    return None if row is None else _delivery(row)


@dataclass(frozen=True, slots=True)
class Extent:
    """From which sequence to which the events of a subscription are kept.

    ``oldest`` is beyond ``last`` when none is: the next event will have it.
    """

    oldest: int
    last: int


async def extent(connection: Connection, subscription_id: SubscriptionId) -> Extent | None:
    """What is kept for a subscription; None when it was removed. One query of two look-ups."""
    rows = await connection.execute(
        text(
            "SELECT coalesce((SELECT min(sequence) FROM deliveries WHERE subscription_id = s.id), "
            "s.last_sequence + 1) AS oldest, s.last_sequence AS last "
            "FROM subscriptions AS s WHERE s.id = :id AND s.status <> 'removed'"
        ),
        {"id": subscription_id},
    )
    row = rows.first()
    return None if row is None else Extent(row.oldest, row.last)


async def events(
    connection: Connection, subscription_id: SubscriptionId, *, after: int, limit: int
) -> list[Delivery]:
    """Deliveries in sequence, oldest first, from behind ``after`` on."""
    rows = await connection.execute(
        text(
            _SHOWN + "WHERE d.subscription_id = :id AND d.sequence > :after "
            "ORDER BY d.sequence LIMIT :limit"
        ),
        {"id": subscription_id, "after": after, "limit": limit},
    )
    return [_delivery(row) for row in rows.mappings()]


async def listing(
    connection: Connection,
    subscription_id: SubscriptionId,
    *,
    state: str | None,
    before: int | None,
    limit: int,
) -> list[Delivery]:
    """Deliveries of a subscription, newest first, from before a sequence on; of one state or all."""
    rows = await connection.execute(
        text(
            _SHOWN + "WHERE d.subscription_id = :id "
            "AND (CAST(:before AS bigint) IS NULL OR d.sequence < :before) "
            "AND (CAST(:state AS text) IS NULL OR d.state = :state) "
            "ORDER BY d.sequence DESC LIMIT :limit"
        ),
        {"id": subscription_id, "before": before, "state": state, "limit": limit},
    )
    return [_delivery(row) for row in rows.mappings()]


async def attempts_of(connection: Connection, delivery_id: int) -> list[Attempt]:
    """Every recorded attempt of a delivery, first to last."""
    rows = await connection.execute(
        text(
            "SELECT number, at, verdict, reason, status, error, milliseconds, excerpt "
            "FROM attempts WHERE delivery_id = :id ORDER BY number"
        ),
        {"id": delivery_id},
    )
    return [Attempt(**row) for row in rows.mappings()]


def _delivery(row: RowMapping) -> Delivery:
    return Delivery(**{**row, "subscription_id": SubscriptionId(row["subscription_id"])})
