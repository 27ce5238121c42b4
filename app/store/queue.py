"""The queue: deliveries claimed under a lease, kept in hand, given back, endpoint by endpoint.

A claim takes endpoints in the order in which they became ready, and from each no more than there is
room for, so that a long backlog of one holds up no other. While a transaction claims from an endpoint or
records for it, it holds the endpoint's lock; claims pass over endpoints that others hold. What
came of attempts is ``store.records``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from alerts.payloads import VERIFY, Format, earlier_numbers, transition_id
from alerts.routing import SubscriptionId
from app.database import Transaction, fetch
from app.store import endpoints
from app.store.deliveries import STILL_OWED, webhook_id

_PACE_SPANS = 10  # a paced endpoint is given what it may have in a tenth of a second


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to send; ``sealed_secrets`` are those that sign now, newest first."""

    subscription_id: SubscriptionId
    url: str
    format: str
    format_version: int
    at_once: int | None
    sealed_secrets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery in this worker's hands until its lease ends, with all that sending needs.

    ``attempt`` is the number of the coming attempt among those the schedule counts. ``fence``
    rises with every claim and every record: who records with an old one is refused. ``again`` says that
    it was finished before. ``due_at`` is when it was due. ``earlier`` are the transitions of its alert before
    this one and when they were recorded, oldest first, for formats that refer to them.
    """

    id: int
    endpoint: Endpoint
    sequence: int
    type: str
    alert_id: int | None
    transition_id: int | None
    created_at: datetime
    due_at: datetime
    attempt: int
    fence: int
    again: bool
    lane: int
    throttled: int
    throttled_since: datetime | None
    data: str
    earlier: tuple[tuple[str, datetime], ...] = ()

    @property
    def subscription_id(self) -> SubscriptionId:
        """Whose it is."""
        return self.endpoint.subscription_id

    @property
    def key(self) -> tuple[int, int]:
        """This claim among all that there ever were of this delivery and of others."""
        return self.id, self.fence

    @property
    def webhook_id(self) -> str:
        """The same on every try."""
        return webhook_id(self.subscription_id, self.sequence)


async def claim(
    connection: Transaction,
    now: datetime,
    *,
    slots: int,
    retry_slots: int,
    per_endpoint: int,
    rooms: Mapping[SubscriptionId, int],
    lease_until: datetime,
) -> list[Claimed]:
    """Claims due deliveries, one endpoint's after the other's in turn. Three statements, four with CAP.

    What was claimed and not recorded before its lease ended is due again.

    Args:
        connection: inside a transaction.
        now: what is due by now.
        slots: at most so many in all.
        retry_slots: at most so many of them third or later attempts.
        per_endpoint: at most so many of an endpoint that ``rooms`` does not name.
        rooms: how many more this worker takes of each endpoint of which it has some in hand.
        lease_until: until when they are this worker's.
    """
    ready = await fetch(
        connection,
        f"""
        SELECT s.id, s.url, s.format, s.format_version, s.status, s.at_once, s.per_second,
            {endpoints.SEALED} AS sealed
        FROM subscriptions AS s
        WHERE s.ready_at <= :now AND s.id NOT IN (SELECT unnest(CAST(:full AS text[])))
            AND (:retry_slots > 0 OR (
                SELECT d.id FROM deliveries AS d WHERE d.subscription_id = s.id AND d.lane = 0
                    AND d.state = 'owed' AND NOT d.blocked AND d.due_at <= :now
                ORDER BY d.due_at LIMIT 1) IS NOT NULL)
        ORDER BY s.ready_at, s.id LIMIT :most FOR NO KEY UPDATE OF s SKIP LOCKED
        """,
        {
            "now": now,
            "full": _full(rooms),
            "retry_slots": retry_slots,
            "most": slots,
        },
    )
    if not ready:
        return []
    wanted = [_room(row.at_once, row.per_second, rooms.get(row.id, per_endpoint)) for row in ready]
    rows = await fetch(
        connection,
        _CLAIM,
        {
            "ids": [row.id for row in ready],
            "rooms": wanted,
            "pending": [row.status == "pending" for row in ready],
            "now": now,
            "verify": VERIFY,
            "slots": slots,
            "retry_slots": retry_slots,
            "lease_until": lease_until,
        },
    )
    at = {
        row.id: Endpoint(
            SubscriptionId(row.id),
            row.url,
            row.format,
            row.format_version,
            row.at_once,
            tuple(row.sealed or ()),
        )
        for row in ready
    }
    # The columns are in the order of the fields: to name each cost more than to fetch them.
    claimed = [Claimed(number, at[whose], *rest) for number, whose, *rest in rows]
    await _make_them_wait(connection, ready, claimed, now, lease_until)
    return await with_earlier(connection, claimed)


_DUE = """
    SELECT d.id, d.lane, d.due_at FROM deliveries AS d
    WHERE d.subscription_id = w.id AND d.lane = {lane} AND d.state = 'owed' AND NOT d.blocked
        AND d.due_at <= :now AND (NOT w.pending OR d.type = :verify)
    ORDER BY d.due_at, d.id LIMIT w.room
"""

# Ranked within its endpoint first, so that the first of every endpoint goes before the second of any.
_CLAIM = f"""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:rooms AS integer[]),
            CAST(:pending AS boolean[])) WITH ORDINALITY AS w (id, room, pending, place)
    ), due AS (
        SELECT u.*, w.place, w.room,
            row_number() OVER (PARTITION BY w.place ORDER BY u.lane, u.due_at, u.id) AS n
        FROM wanted AS w CROSS JOIN LATERAL (
            ({_DUE.format(lane=0)}) UNION ALL ({_DUE.format(lane=1)})
        ) AS u
    ), allowed AS (
        SELECT due.*, row_number() OVER (PARTITION BY lane ORDER BY n, place) AS nth
        FROM due WHERE n <= room
    ), picked AS (
        SELECT id, due_at, place, n FROM allowed WHERE lane = 0 OR nth <= :retry_slots
        ORDER BY n, place LIMIT :slots
    ), taken AS (
        UPDATE deliveries AS d
        SET due_at = :lease_until, lease_until = :lease_until, fence = d.fence + 1
        WHERE d.id = ANY (ARRAY(SELECT id FROM picked))
        RETURNING d.*
    )
    SELECT t.id, t.subscription_id, t.sequence, t.type, t.alert_id, t.transition_id, t.created_at,
        p.due_at, t.attempts - t.forgiven + 1 AS attempt, t.fence, t.finished_at IS NOT NULL AS again,
        t.lane, t.throttled, t.throttled_since,
        coalesce(t.data, (SELECT r.data FROM transitions AS r WHERE r.id = t.transition_id)) AS data
    FROM taken AS t JOIN picked AS p ON p.id = t.id ORDER BY p.n, p.place
"""


def _full(rooms: Mapping[SubscriptionId, int]) -> list[SubscriptionId]:
    return [name for name, room in rooms.items() if room <= 0]


def _room(at_once: int | None, per_second: float | None, room: int) -> int:
    """How many to take of one endpoint: one at a time while it fails, and at its pace."""
    if at_once is not None:
        room = min(room, at_once)
    if per_second is not None:
        room = min(room, math.ceil(per_second / _PACE_SPANS))
    return room


async def _make_them_wait(
    connection: Transaction,
    ready: Sequence[Any],
    claimed: Sequence[Claimed],
    now: datetime,
    lease_until: datetime,
) -> None:
    """Notes when each endpoint is ready for more.

    A failing one is not before its probe is recorded, or the probe's lease has ended: so there is one
    probe, however many workers there are. A paced one is when its pace allows.
    """
    counts: dict[str, int] = {}
    for one in claimed:
        counts[one.subscription_id] = counts.get(one.subscription_id, 0) + 1
    waits: list[datetime | None] = []
    for row in ready:
        count = counts.get(row.id, 0)
        if count and row.at_once is not None:
            waits.append(lease_until)
        elif count and row.per_second is not None:
            waits.append(now + timedelta(seconds=count / row.per_second))
        else:
            waits.append(None)
    await fetch(
        connection,
        f"""
        UPDATE subscriptions AS s SET not_before = n.not_before,
            ready_at = CASE WHEN n.due_at IS NOT NULL
                THEN GREATEST(n.due_at, n.not_before, CAST(:now AS timestamptz)) END
        FROM (
            SELECT s.id, coalesce(w.not_before, s.not_before) AS not_before, d.due_at
            FROM unnest(CAST(:ids AS text[]), CAST(:waits AS timestamptz[]))
                AS w (id, not_before) JOIN subscriptions AS s ON s.id = w.id
            CROSS JOIN LATERAL (SELECT {endpoints.NEXT_DUE} AS due_at) AS d
        ) AS n WHERE s.id = n.id
        """,
        {"ids": [row.id for row in ready], "waits": waits, "now": now},
    )


async def next_ready(
    connection: Transaction, rooms: Mapping[SubscriptionId, int]
) -> datetime | None:
    """When the next endpoint is ready for something of those that have room; None when none will be.

    In the past where a claim passed it over because another transaction held it.
    """
    found = await fetch(
        connection,
        "SELECT ready_at FROM subscriptions "
        "WHERE ready_at IS NOT NULL AND id NOT IN (SELECT unnest(CAST(:full AS text[]))) "
        "ORDER BY ready_at, id LIMIT 1",
        {"full": _full(rooms)},
    )
    return found[0].ready_at if found else None


async def with_earlier(connection: Transaction, claimed: Sequence[Claimed]) -> list[Claimed]:
    """The same, and those whose format refers to earlier transitions of the alert with these."""
    asking = [
        one.transition_id
        for one in claimed
        if one.endpoint.format == Format.cap and one.transition_id is not None
    ]
    if not asking:
        return list(claimed)
    rows = await fetch(
        connection,
        "SELECT t.id, t.number AS of, a.ref, e.number, e.recorded_at FROM transitions AS t "
        "JOIN alerts AS a ON a.id = t.alert_id "
        "JOIN transitions AS e ON e.alert_id = t.alert_id AND e.number < t.number "
        "WHERE t.id = ANY(CAST(:ids AS bigint[])) ORDER BY t.id, e.number",
        {"ids": asking},
    )
    found: dict[int | None, list[tuple[str, datetime]]] = {}
    for row in rows:
        if row.number in earlier_numbers(row.of):
            name = transition_id(row.ref, row.number)
            found.setdefault(row.id, []).append((name, row.recorded_at))
    return [
        replace(one, earlier=tuple(found[one.transition_id])) if one.transition_id in found else one
        for one in claimed
    ]


async def extend(
    connection: Transaction, held: Sequence[Claimed], lease_until: datetime
) -> set[int]:
    """Keeps deliveries in this worker's hands for longer; gives those that still were.

    Endpoints are locked first, as everywhere. One that fails waits for its probe as long.
    """
    subscriptions = {one.subscription_id for one in held}
    await endpoints.lock(connection, subscriptions)
    kept = await fetch(
        connection,
        "UPDATE deliveries AS d SET due_at = :lease_until, lease_until = :lease_until "
        "FROM unnest(CAST(:ids AS bigint[]), CAST(:fences AS bigint[])) AS h (id, fence) "
        f"WHERE d.id = h.id AND d.fence = h.fence AND {STILL_OWED} "
        "RETURNING d.id, d.subscription_id",
        {
            "ids": [one.id for one in held],
            "fences": [one.fence for one in held],
            "lease_until": lease_until,
        },
    )
    await fetch(
        connection,
        "UPDATE subscriptions SET not_before = GREATEST(not_before, :lease_until), "
        "ready_at = GREATEST(ready_at, CASE WHEN ready_at IS NOT NULL THEN :lease_until END) "
        "WHERE id = ANY(CAST(:ids AS text[])) AND at_once IS NOT NULL",
        {"ids": [row.subscription_id for row in kept], "lease_until": lease_until},
    )
    return {row.id for row in kept}


async def let_go(connection: Transaction, held: Sequence[Claimed]) -> None:
    """Gives back deliveries that were not begun; they are due when they were.

    An endpoint that fails and of which nothing else is claimed waits no longer for a probe that is not
    made, but only for what its health says.
    """
    subscriptions = {one.subscription_id for one in held}
    await endpoints.lock(connection, subscriptions)
    await fetch(
        connection,
        "UPDATE deliveries AS d SET due_at = h.due_at, lease_until = NULL "
        "FROM unnest(CAST(:ids AS bigint[]), CAST(:fences AS bigint[]), "
        "CAST(:due AS timestamptz[])) AS h (id, fence, due_at) "
        f"WHERE d.id = h.id AND d.fence = h.fence AND {STILL_OWED}",
        {
            "ids": [one.id for one in held],
            "fences": [one.fence for one in held],
            "due": [one.due_at for one in held],
        },
    )
    await fetch(
        connection,
        "UPDATE subscriptions AS s SET not_before = GREATEST("
        "CAST(s.health ->> 'open_until' AS timestamptz), "
        "CAST(s.health ->> 'pause_until' AS timestamptz)) "
        "WHERE s.id = ANY(CAST(:ids AS text[])) AND s.at_once IS NOT NULL AND NOT EXISTS ("
        "SELECT FROM deliveries AS d WHERE d.subscription_id = s.id AND d.state = 'owed' "
        "AND d.lease_until IS NOT NULL)",
        {"ids": sorted(subscriptions)},
    )
    await endpoints.refresh(connection, subscriptions)
