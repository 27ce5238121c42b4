"""Deliveries as they are shown: lists, the pull feed, one with its attempts. Reads only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, text

from alerts.payloads import VERIFY
from alerts.routing import SubscriptionId
from app.database import Connection
from app.store import queue
from app.store.deliveries import webhook_id
from app.store.queue import Claimed, Endpoint

LOOKED_THROUGH = 100_000
"""Those of a rare state are looked for among so many of the newest deliveries of all subscriptions."""


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
    """One HTTP try, as recorded.

    ``sent_after`` and ``answered_after`` are milliseconds from ``at`` until the first byte was sent and
    until the head of the answer was read, None if that never was; ``milliseconds`` is the whole of it.
    ``answer_headers`` are those of the answer that were kept, by lower-case name.
    """

    number: int
    at: datetime
    verdict: str
    reason: str
    status: int | None
    error: str
    milliseconds: float
    excerpt: str
    sent_after: float | None = None
    answered_after: float | None = None
    answer_headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listed:
    """A delivery as a line of a list, without what it says; ``last_…`` is of its newest attempt."""

    id: int
    subscription_id: SubscriptionId
    partner: str
    url: str
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
    last_at: datetime | None
    last_verdict: str
    last_reason: str
    last_status: int | None

    @property
    def webhook_id(self) -> str:
        """The name by which everyone knows it."""
        return webhook_id(self.subscription_id, self.sequence)


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
    """Every recorded attempt of a delivery, first to last.

    A challenge is for its endpoint alone: where an answer repeats it, it is left out of the excerpt.
    """
    rows = await connection.execute(
        text(
            "SELECT a.number, a.at, a.verdict, a.reason, a.status, a.error, a.milliseconds, "
            "CASE WHEN d.type = :verify "
            "THEN replace(a.excerpt, CAST(d.data AS json) ->> 'challenge', :left_out) "
            "ELSE a.excerpt END AS excerpt, a.sent_after, a.answered_after, a.answer_headers "
            "FROM attempts AS a JOIN deliveries AS d ON d.id = a.delivery_id "
            "WHERE a.delivery_id = :id ORDER BY a.number"
        ),
        {"id": delivery_id, "verify": VERIFY, "left_out": "(the challenge)"},
    )
    return [
        Attempt(**{**row, "answer_headers": _headers(row["answer_headers"])})
        for row in rows.mappings()
    ]


# When it is due is not asked of an endpoint that is sent nothing.
_LISTED = """
    SELECT d.id, d.subscription_id, p.name AS partner, s.url, d.sequence, d.type, al.ref AS alert_ref,
        d.state, d.attempts, d.created_at,
        CASE WHEN d.state = 'owed' AND NOT d.blocked
            AND (s.status = 'active' OR s.status = 'pending' AND d.type = 'webhook.verify')
            THEN GREATEST(d.due_at, s.not_before) END AS due_at,
        d.lease_until, d.blocked, d.finished_at, last.at AS last_at,
        coalesce(last.verdict, '') AS last_verdict, coalesce(last.reason, '') AS last_reason,
        last.status AS last_status
    FROM ({chosen}) AS d JOIN subscriptions AS s ON s.id = d.subscription_id
    JOIN partners AS p ON p.id = s.partner_id LEFT JOIN alerts AS al ON al.id = d.alert_id
    LEFT JOIN LATERAL (SELECT at, verdict, reason, status FROM attempts AS a
        WHERE a.delivery_id = d.id ORDER BY a.number DESC LIMIT 1) AS last ON true
"""


async def newest(
    connection: Connection, *, state: str | None, before: int | None, limit: int
) -> list[Listed]:
    """Deliveries of all subscriptions, newest first, from before an id on; of one state or all.

    Of a state other than owed only those among the newest ``LOOKED_THROUGH``.
    """
    from_before = "(CAST(:before AS bigint) IS NULL OR id < :before)"
    if state is None:
        chosen = f"SELECT * FROM deliveries WHERE {from_before} ORDER BY id DESC LIMIT :limit"
    elif state == "owed":
        chosen = (
            f"SELECT * FROM deliveries WHERE state = 'owed' AND {from_before} "
            "ORDER BY id DESC LIMIT :limit"
        )
    else:
        chosen = (
            f"SELECT * FROM (SELECT * FROM deliveries WHERE {from_before} ORDER BY id DESC "
            "LIMIT :looked_through) AS recent WHERE state = :state ORDER BY id DESC LIMIT :limit"
        )
    values = {"before": before, "limit": limit, "state": state, "looked_through": LOOKED_THROUGH}
    rows = await connection.execute(
        text(_LISTED.format(chosen=chosen) + "ORDER BY d.id DESC"),
        {name: value for name, value in values.items() if f":{name}" in chosen},
    )
    return [_listed(row) for row in rows.mappings()]


async def newest_of(
    connection: Connection,
    subscription_id: SubscriptionId,
    *,
    state: str | None,
    before: int | None,
    limit: int,
) -> list[Listed]:
    """A subscription's deliveries, newest first, from before a sequence on; of one state or all."""
    chosen = (
        "SELECT * FROM deliveries WHERE subscription_id = :id "
        "AND (CAST(:before AS bigint) IS NULL OR sequence < :before) "
        "AND (CAST(:state AS text) IS NULL OR state = :state) ORDER BY sequence DESC LIMIT :limit"
    )
    rows = await connection.execute(
        text(_LISTED.format(chosen=chosen) + "ORDER BY d.sequence DESC"),
        {"id": subscription_id, "before": before, "state": state, "limit": limit},
    )
    return [_listed(row) for row in rows.mappings()]


async def ahead_of(connection: Connection, delivery: Delivery) -> int | None:
    """The sequence of the delivery that a blocked one waits for; None when it waits for none."""
    found: int | None = await connection.scalar(
        text(
            "SELECT min(e.sequence) FROM deliveries AS d JOIN deliveries AS e "
            "ON e.subscription_id = d.subscription_id AND e.alert_id = d.alert_id "
            "AND e.state = 'owed' AND e.finished_at IS NULL AND e.sequence < d.sequence "
            "WHERE d.id = :id AND d.blocked"
        ),
        {"id": delivery.id},
    )
    return found


async def as_sent(
    connection: Connection, delivery_id: int, instants: Sequence[datetime]
) -> list[Claimed]:
    """A delivery as a worker had it in hand at each of these instants: with the secrets that signed then.

    The address and the form of what is written are the subscription's of today.
    """
    rows = await connection.execute(
        text(
            "SELECT d.*, coalesce(d.data, t.data) AS said, s.url, s.format, s.format_version, "
            "i.at, (SELECT array_agg(k.sealed ORDER BY k.number DESC) FROM subscription_secrets AS k "
            "WHERE k.subscription_id = s.id AND k.created_at <= i.at "
            "AND (k.retires_at IS NULL OR k.retires_at > i.at)) AS sealed "
            "FROM deliveries AS d JOIN subscriptions AS s ON s.id = d.subscription_id "
            "LEFT JOIN transitions AS t ON t.id = d.transition_id "
            "CROSS JOIN unnest(CAST(:instants AS timestamptz[])) WITH ORDINALITY AS i (at, place) "
            "WHERE d.id = :id ORDER BY i.place"
        ),
        {"id": delivery_id, "instants": list(instants)},
    )
    found = [
        Claimed(
            id=row.id,
            endpoint=Endpoint(
                SubscriptionId(row.subscription_id),
                row.url,
                row.format,
                row.format_version,
                None,
                tuple(row.sealed or ()),
            ),
            sequence=row.sequence,
            type=row.type,
            alert_id=row.alert_id,
            transition_id=row.transition_id,
            created_at=row.created_at,
            due_at=row.at,
            attempt=row.attempts,
            fence=row.fence,
            again=row.finished_at is not None,
            lane=row.lane,
            throttled=row.throttled,
            throttled_since=row.throttled_since,
            data=row.said,
        )
        for row in rows
    ]
    return await queue.with_earlier(connection, found)


def _delivery(row: RowMapping) -> Delivery:
    return Delivery(**{**row, "subscription_id": SubscriptionId(row["subscription_id"])})


def _listed(row: RowMapping) -> Listed:
    return Listed(**{**row, "subscription_id": SubscriptionId(row["subscription_id"])})


def _headers(document: str) -> dict[str, str]:
    said: dict[str, Any] = json.loads(document) if document else {}
    return {name: str(value) for name, value in said.items()}
