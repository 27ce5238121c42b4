"""The queue: deliveries claimed under a lease, recorded under a fence, endpoint by endpoint.

A claim takes endpoints in the order in which they became ready, and from each no more than there is
room for, so that a long backlog of one holds up no other. While a transaction claims from an endpoint or
records for it, it holds the endpoint's lock; claims pass over endpoints that others hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from alerts import endpoints as machine
from alerts.endpoints import Health, Notice, Patience, Seen, Suspension
from alerts.payloads import VERIFY, Format, earlier_numbers, transition_id
from alerts.retries import FRESH_ATTEMPTS, LONGEST_HINT, Decision, Outcome, Verdict
from alerts.routing import SubscriptionId
from app.database import Connection, statement
from app.store import deliveries, endpoints
from app.store.deliveries import OVERTAKES_AFTER, webhook_id

_STILL_OWED = "d.state || '' = 'owed'"
"""SQL: whether a delivery that is found by its id is still owed. Written so that no index of the queue can
serve it: their statistics are mostly of an empty queue, and a plan that trusts these reads all that is owed,
which took 20 seconds a record behind 300 dead endpoints.
"""

SKEW = timedelta(minutes=10)
"""More than the clocks of two hosts differ: what is further ahead was set by a clock that jumped."""

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
    endpoints stand, what owners must hear.
    """

    kept: dict[tuple[int, int], int] = field(default_factory=dict)
    standings: dict[SubscriptionId, Standing] = field(default_factory=dict)
    notices: list[tuple[SubscriptionId, Notice]] = field(default_factory=list)


async def claim(
    connection: Connection,
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
    found = await connection.execute(
        statement(
            """
            SELECT s.id, s.url, s.format, s.format_version, s.status, s.at_once, s.per_second,
                (SELECT array_agg(k.sealed ORDER BY k.number DESC) FROM subscription_secrets AS k
                 WHERE k.subscription_id = s.id AND (k.retires_at IS NULL OR k.retires_at > :now)
                ) AS sealed
            FROM subscriptions AS s
            WHERE s.ready_at <= :now AND s.id NOT IN (SELECT unnest(CAST(:full AS text[])))
                AND (:retry_slots > 0 OR (
                    SELECT d.id FROM deliveries AS d WHERE d.subscription_id = s.id AND d.lane = 0
                        AND d.state = 'owed' AND NOT d.blocked AND d.due_at <= :now
                    ORDER BY d.due_at LIMIT 1) IS NOT NULL)
            ORDER BY s.ready_at, s.id LIMIT :most FOR NO KEY UPDATE OF s SKIP LOCKED
            """
        ),
        {
            "now": now,
            "full": [i for i, room in rooms.items() if room <= 0],
            "retry_slots": retry_slots,
            "most": slots,
        },
    )
    ready = found.all()
    if not ready:
        return []
    wanted = [_room(row.at_once, row.per_second, rooms.get(row.id, per_endpoint)) for row in ready]
    rows = await connection.execute(
        statement(_CLAIM),
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
    claimed = [
        Claimed(
            id=row.id,
            endpoint=at[row.subscription_id],
            sequence=row.sequence,
            type=row.type,
            alert_id=row.alert_id,
            transition_id=row.transition_id,
            created_at=row.created_at,
            due_at=row.was_due_at,
            attempt=row.attempt,
            fence=row.fence,
            again=row.again,
            lane=row.lane,
            throttled=row.throttled,
            throttled_since=row.throttled_since,
            data=row.data,
        )
        for row in rows
    ]
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
        t.attempts - t.forgiven + 1 AS attempt, t.fence, t.finished_at IS NOT NULL AS again, t.lane,
        t.throttled, t.throttled_since, p.due_at AS was_due_at,
        coalesce(t.data, (SELECT r.data FROM transitions AS r WHERE r.id = t.transition_id)) AS data
    FROM taken AS t JOIN picked AS p ON p.id = t.id ORDER BY p.n, p.place
"""


def _room(at_once: int | None, per_second: float | None, room: int) -> int:
    """How many to take of one endpoint: one at a time while it fails, and at its pace."""
    if at_once is not None:
        room = min(room, at_once)
    if per_second is not None:
        room = min(room, math.ceil(per_second / _PACE_SPANS))
    return room


async def _make_them_wait(
    connection: Connection,
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
    await connection.execute(
        statement(
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
            """
        ),
        {"ids": [row.id for row in ready], "waits": waits, "now": now},
    )


async def next_ready(connection: Connection, *, after: datetime) -> datetime | None:
    """When the next endpoint is ready for something after an instant; None when none will be."""
    found = await connection.execute(
        statement("SELECT min(ready_at) FROM subscriptions WHERE ready_at > :after"),
        {"after": after},
    )
    at: datetime | None = found.scalar_one()
    return at


async def with_earlier(connection: Connection, claimed: Sequence[Claimed]) -> list[Claimed]:
    """The same, and those whose format refers to earlier transitions of the alert with these."""
    asking = [
        one.transition_id
        for one in claimed
        if one.endpoint.format == Format.cap and one.transition_id is not None
    ]
    if not asking:
        return list(claimed)
    rows = await connection.execute(
        statement(
            "SELECT t.id, t.number AS of, a.ref, e.number, e.recorded_at FROM transitions AS t "
            "JOIN alerts AS a ON a.id = t.alert_id "
            "JOIN transitions AS e ON e.alert_id = t.alert_id AND e.number < t.number "
            "WHERE t.id = ANY(CAST(:ids AS bigint[])) ORDER BY t.id, e.number"
        ),
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
    connection: Connection, held: Sequence[Claimed], lease_until: datetime
) -> set[int]:
    """Keeps deliveries in this worker's hands for longer; gives those that still were.

    Endpoints are locked first, as everywhere. One that fails waits for its probe as long.
    """
    subscriptions = {one.subscription_id for one in held}
    await endpoints.lock(connection, subscriptions)
    rows = await connection.execute(
        statement(
            "UPDATE deliveries AS d SET due_at = :lease_until, lease_until = :lease_until "
            "FROM unnest(CAST(:ids AS bigint[]), CAST(:fences AS bigint[])) AS h (id, fence) "
            f"WHERE d.id = h.id AND d.fence = h.fence AND {_STILL_OWED} "
            "RETURNING d.id, d.subscription_id"
        ),
        {
            "ids": [one.id for one in held],
            "fences": [one.fence for one in held],
            "lease_until": lease_until,
        },
    )
    kept = rows.all()
    await connection.execute(
        statement(
            "UPDATE subscriptions SET not_before = GREATEST(not_before, :lease_until), "
            "ready_at = GREATEST(ready_at, CASE WHEN ready_at IS NOT NULL THEN :lease_until END) "
            "WHERE id = ANY(CAST(:ids AS text[])) AND at_once IS NOT NULL"
        ),
        {"ids": [row.subscription_id for row in kept], "lease_until": lease_until},
    )
    return {row.id for row in kept}


async def let_go(connection: Connection, held: Sequence[Claimed]) -> None:
    """Gives back deliveries that were not begun; they are due when they were.

    An endpoint that fails and of which nothing else is claimed waits no longer for a probe that is not
    made, but only for what its health says.
    """
    subscriptions = {one.subscription_id for one in held}
    await endpoints.lock(connection, subscriptions)
    await connection.execute(
        statement(
            "UPDATE deliveries AS d SET due_at = h.due_at, lease_until = NULL "
            "FROM unnest(CAST(:ids AS bigint[]), CAST(:fences AS bigint[]), "
            "CAST(:due AS timestamptz[])) AS h (id, fence, due_at) "
            f"WHERE d.id = h.id AND d.fence = h.fence AND {_STILL_OWED}"
        ),
        {
            "ids": [one.id for one in held],
            "fences": [one.fence for one in held],
            "due": [one.due_at for one in held],
        },
    )
    await connection.execute(
        statement(
            "UPDATE subscriptions AS s SET not_before = GREATEST("
            "CAST(s.health ->> 'open_until' AS timestamptz), "
            "CAST(s.health ->> 'pause_until' AS timestamptz)) "
            "WHERE s.id = ANY(CAST(:ids AS text[])) AND s.at_once IS NOT NULL AND NOT EXISTS ("
            "SELECT FROM deliveries AS d WHERE d.subscription_id = s.id AND d.state = 'owed' "
            "AND d.lease_until IS NOT NULL)"
        ),
        {"ids": sorted(subscriptions)},
    )
    await endpoints.refresh(connection, subscriptions)


async def bring_forward(connection: Connection, now: datetime, lease: timedelta) -> int:
    """Makes due what a clock that ran ahead for a while has put off; how many endpoints that concerned.

    * a lease that ends later than any may: it ends now
    * what is owed from the future on: due now
    * a retry after an attempt in the future: due after the same wait, counted from now
    * an endpoint left in peace because of attempts in the future: is so no more
    * an endpoint suspended in the future for failing for days: is active, for those days were none

    What somebody has under way may then be sent twice under its id. Reads one index entry an endpoint
    where nothing is put off.

    Args:
        connection: inside a transaction.
        now: by a clock that is right again.
        lease: how long a lease is.
    """
    bounds = {
        "ahead": now + SKEW,
        "lease_ahead": now + lease + SKEW,
        "hint_ahead": now + LONGEST_HINT + SKEW,
        "failing": machine.WORDS[Suspension.failing],
    }
    rows = await connection.execute(
        statement(
            f"""
            SELECT s.id FROM subscriptions AS s WHERE {_TOO_SOON} OR s.ready_at IS NOT NULL AND (
                {_IN_THE_FUTURE} OR EXISTS (
                    SELECT FROM deliveries AS d WHERE d.subscription_id = s.id AND d.lane IN (0, 1)
                        AND d.state = 'owed' AND NOT d.blocked AND d.due_at > :ahead AND {_PUT_OFF}
                ))
            ORDER BY s.id FOR NO KEY UPDATE OF s
            """
        ),
        bounds,
    )
    ids = [SubscriptionId(row.id) for row in rows]
    if not ids:
        return 0
    await connection.execute(
        statement(
            f"""
            UPDATE deliveries AS d SET lease_until = NULL, due_at = CASE
                WHEN d.lease_until IS NOT NULL OR d.attempts = 0 THEN CAST(:now AS timestamptz)
                ELSE GREATEST(CAST(:now AS timestamptz),
                    d.due_at - ({_LAST_TRY} - CAST(:now AS timestamptz))) END
            WHERE d.subscription_id = ANY(CAST(:ids AS text[])) AND d.state = 'owed'
                AND NOT d.blocked AND d.due_at > :ahead AND {_PUT_OFF}
            """
        ),
        {"ids": ids, "now": now, "ahead": bounds["ahead"], "lease_ahead": bounds["lease_ahead"]},
    )
    await connection.execute(
        statement(
            f"""
            UPDATE subscriptions AS s SET not_before = NULL, health = s.health - CAST(:spans AS text[]),
                status = CASE WHEN {_TOO_SOON} THEN 'active' ELSE s.status END,
                reason = CASE WHEN {_TOO_SOON} THEN '' ELSE s.reason END,
                suspended_at = CASE WHEN {_TOO_SOON} THEN NULL ELSE s.suspended_at END
            WHERE s.id = ANY(CAST(:ids AS text[])) AND ({_TOO_SOON} OR {_IN_THE_FUTURE})
            """
        ),
        {
            "ids": ids,
            "spans": list(machine.SPANS),
            "ahead": bounds["ahead"],
            "hint_ahead": bounds["hint_ahead"],
            "failing": bounds["failing"],
        },
    )
    await endpoints.refresh(connection, ids)
    await deliveries.wake(connection)
    return len(ids)


_LAST_TRY = (
    """(SELECT a.at FROM attempts AS a WHERE a.delivery_id = d.id AND a.number = d.attempts)"""
)
# Those spread over time by a resume or a recovery have no try that counts, and keep their instants.
_PUT_OFF = f"""(d.lease_until > :lease_ahead OR d.lease_until IS NULL AND CASE
    WHEN d.attempts = 0 THEN d.created_at > :ahead
    ELSE (d.attempts > d.forgiven OR d.throttled > 0) AND {_LAST_TRY} > :ahead END)"""
_TOO_SOON = "(s.status = 'suspended' AND s.suspended_at > :ahead AND s.reason = :failing)"
_IN_THE_FUTURE = """(coalesce(CAST(s.health ->> 'window_began' AS timestamptz) > :ahead, false)
    OR coalesce(CAST(s.health ->> 'pause_until' AS timestamptz) > :hint_ahead, false))"""


async def record(
    connection: Connection, attempts: Sequence[Attempted], patience: Patience, now: datetime
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
    rows = await connection.execute(
        statement(
            "SELECT id, url, status, ordering, health FROM subscriptions "
            "WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR NO KEY UPDATE"
        ),
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
    await _change_endpoints(connection, changes, now)
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
    connection: Connection, attempts: Sequence[Attempted], now: datetime
) -> dict[tuple[int, int], int]:
    """Writes the attempts and where they leave their deliveries; gives the claims that were kept, and
    which attempt of its delivery each was.

    Of each alert that has moved on, the next delivery waits no more.
    """
    ordered = sorted(attempts, key=lambda a: a.claimed.id)
    charged = [a.verdict.decision is not Decision.throttled for a in ordered]
    rows = await connection.execute(
        statement(
            f"""
            WITH said AS (
                SELECT * FROM unnest(
                    CAST(:ids AS bigint[]), CAST(:fences AS bigint[]), CAST(:states AS text[]),
                    CAST(:due AS timestamptz[]), CAST(:lanes AS smallint[]),
                    CAST(:charged AS boolean[]), CAST(:at AS timestamptz[]),
                    CAST(:verdicts AS text[]), CAST(:reasons AS text[]),
                    CAST(:statuses AS integer[]), CAST(:errors AS text[]),
                    CAST(:milliseconds AS double precision[]), CAST(:excerpts AS text[]),
                    CAST(:sent_after AS double precision[]),
                    CAST(:answered_after AS double precision[]), CAST(:answer_headers AS text[]),
                    CAST(:moves AS boolean[])
                ) AS s (id, fence, state, due_at, lane, charged, at, verdict, reason, status, error,
                    milliseconds, excerpt, sent_after, answered_after, answer_headers, moves)
            ), kept AS (
                UPDATE deliveries AS d
                SET state = s.state, due_at = s.due_at, lease_until = NULL, lane = s.lane,
                    attempts = d.attempts + 1, fence = d.fence + 1,
                    forgiven = d.forgiven + (NOT s.charged)::int,
                    throttled = d.throttled + (NOT s.charged)::int,
                    throttled_since = CASE WHEN s.charged THEN d.throttled_since
                        ELSE coalesce(d.throttled_since, s.at) END,
                    finished_at = CASE WHEN s.state = 'owed' THEN d.finished_at ELSE :now END
                FROM said AS s
                WHERE d.id = ANY (CAST(:ids AS bigint[]))
                    AND d.id = s.id AND d.fence = s.fence AND {_STILL_OWED}
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
            """
        ),
        {
            "ids": [a.claimed.id for a in ordered],
            "fences": [a.claimed.fence for a in ordered],
            "states": [_STATES[a.verdict.decision] for a in ordered],
            "due": [
                now if a.verdict.decision is Decision.gone else a.verdict.retry_at for a in ordered
            ],
            "lanes": [int(a.claimed.attempt >= FRESH_ATTEMPTS) for a in ordered],
            "charged": charged,
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
    return _storable(json.dumps(dict(said), ensure_ascii=False)) if said else ""


def _storable(text: str) -> str:
    """Text as PostgreSQL can hold it, whatever an endpoint put into it."""
    if text.isascii() and "\0" not in text:
        return text
    sound = text.encode("utf-8", "replace").decode()
    return sound.replace("\0", "\N{REPLACEMENT CHARACTER}")


async def _overtake(
    connection: Connection,
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
    connection: Connection, changes: Mapping[str, _Change], now: datetime
) -> None:
    """Writes what attempts changed about their endpoints, and when each is ready for more."""
    if not changes:
        return
    names = list(changes)
    await connection.execute(
        statement(
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
            FROM due AS m WHERE s.id = m.id
            """
        ),
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
