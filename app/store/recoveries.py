"""Recoveries: ranges of a subscription's deliveries that are owed again, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import RowMapping

from alerts.routing import SubscriptionId
from app.database import Connection, statement


@dataclass(frozen=True, slots=True)
class Recovery:
    """A job: of the sequences from first to last, those in these states are owed again.

    ``next_sequence`` is how far it has come; ``finished_at`` is set when it has come through, or was
    stopped by somebody.
    """

    id: int
    subscription_id: SubscriptionId
    first_sequence: int
    last_sequence: int
    states: tuple[str, ...]
    next_sequence: int
    redelivered: int
    created_at: datetime
    created_by: str
    finished_at: datetime | None = None
    stopped_by: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """What a wish comes to: the sequences it reaches from and to, and how many deliveries that is."""

    first: int
    last: int
    count: int


async def reach(
    connection: Connection,
    subscription_id: SubscriptionId,
    states: Sequence[str],
    *,
    since: datetime,
    until: datetime,
    after: int,
    limit: int,
) -> Range | None:
    """The deliveries in these states from between two instants and behind a sequence; None when there
    are none. Counts to ``limit`` and no further.
    """
    rows = await connection.execute(
        statement(
            "SELECT min(sequence) AS first, max(sequence) AS last, count(*) AS many FROM ("
            "SELECT sequence FROM deliveries WHERE subscription_id = :id "
            "AND state = ANY(CAST(:states AS text[])) AND created_at >= :since "
            "AND created_at <= :until AND sequence > :after AND type <> 'webhook.verify' "
            "ORDER BY sequence LIMIT :limit) AS d"
        ),
        {
            "id": subscription_id,
            "states": list(states),
            "since": since,
            "until": until,
            "after": after,
            "limit": limit,
        },
    )
    row = rows.one()
    return Range(row.first, row.last, row.many) if row.many else None


async def add(
    connection: Connection,
    subscription_id: SubscriptionId,
    reached: Range,
    states: Sequence[str],
    by: str,
    now: datetime,
) -> Recovery:
    """Writes a job down; it is worked on from the next look on."""
    rows = await connection.execute(
        statement(
            "INSERT INTO recoveries (subscription_id, first_sequence, last_sequence, states, "
            "next_sequence, created_at, created_by) VALUES (:id, :first, :last, "
            "CAST(:states AS text[]), :first, :now, :by) RETURNING *"
        ),
        {
            "id": subscription_id,
            "first": reached.first,
            "last": reached.last,
            "states": list(states),
            "now": now,
            "by": by,
        },
    )
    return _recovery(rows.mappings().one())


async def listing(connection: Connection, subscription_id: SubscriptionId) -> list[Recovery]:
    """The jobs of a subscription, the newest first, at most a hundred."""
    rows = await connection.execute(
        statement(
            "SELECT * FROM recoveries WHERE subscription_id = :id ORDER BY id DESC LIMIT 100"
        ),
        {"id": subscription_id},
    )
    return [_recovery(row) for row in rows.mappings()]


async def find(
    connection: Connection, subscription_id: SubscriptionId, number: int
) -> Recovery | None:
    """One job of a subscription."""
    rows = await connection.execute(
        statement("SELECT * FROM recoveries WHERE subscription_id = :id AND id = :number"),
        {"id": subscription_id, "number": number},
    )
    row = rows.mappings().first()
    return None if row is None else _recovery(row)


async def open_for(connection: Connection) -> list[SubscriptionId]:
    """The subscriptions with jobs to be worked on: such as are sent to now, or are no more."""
    rows = await connection.execute(
        statement(
            "SELECT DISTINCT r.subscription_id FROM recoveries AS r "
            "JOIN subscriptions AS s ON s.id = r.subscription_id "
            "WHERE r.finished_at IS NULL AND s.status IN ('active', 'removed') ORDER BY 1"
        )
    )
    return [SubscriptionId(row.subscription_id) for row in rows]


async def oldest_open(connection: Connection, subscription_id: SubscriptionId) -> Recovery | None:
    """The job to go on with. The subscription must be locked."""
    rows = await connection.execute(
        statement(
            "SELECT * FROM recoveries WHERE subscription_id = :id AND finished_at IS NULL "
            "ORDER BY id LIMIT 1"
        ),
        {"id": subscription_id},
    )
    row = rows.mappings().first()
    return None if row is None else _recovery(row)


async def next_of(connection: Connection, job: Recovery, limit: int) -> list[tuple[int, int]]:
    """The next deliveries of a job, as row id and sequence, in sequence."""
    rows = await connection.execute(
        statement(
            "SELECT id, sequence FROM deliveries WHERE subscription_id = :id "
            "AND sequence BETWEEN :next AND :last AND state = ANY(CAST(:states AS text[])) "
            "AND type <> 'webhook.verify' ORDER BY sequence LIMIT :limit"
        ),
        {
            "id": job.subscription_id,
            "next": job.next_sequence,
            "last": job.last_sequence,
            "states": list(job.states),
            "limit": limit,
        },
    )
    return [(row.id, row.sequence) for row in rows]


async def move_on(
    connection: Connection, job: Recovery, next_sequence: int, redelivered: int
) -> None:
    """Notes how far a job has come, and how many more were owed again."""
    await connection.execute(
        statement(
            "UPDATE recoveries SET next_sequence = :next, redelivered = redelivered + :count "
            "WHERE id = :id"
        ),
        {"id": job.id, "next": next_sequence, "count": redelivered},
    )


async def finish(connection: Connection, job: Recovery, now: datetime, *, by: str = "") -> None:
    """Ends a job: it has come through, or somebody stopped it."""
    await connection.execute(
        statement(
            "UPDATE recoveries SET finished_at = :now, stopped_by = :by "
            "WHERE id = :id AND finished_at IS NULL"
        ),
        {"id": job.id, "now": now, "by": by},
    )


def _recovery(row: RowMapping) -> Recovery:
    fields = {**row, "states": tuple(row["states"])}
    return Recovery(**{**fields, "subscription_id": SubscriptionId(row["subscription_id"])})
