"""How endpoints do: how they stand, what they are owed, and how soon they hear. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import text

from alerts.endpoints import Health, health_of
from alerts.routing import SubscriptionId
from app.database import Connection

HOURS_SHOWN = 24
_HOUR = timedelta(hours=1)

STANDINGS = ("suspended", "failing", "pending", "active")
"""How an endpoint may stand: its status, or ``failing`` while it is active and does not answer well."""

MOST_LOOKED_AT = 30_000
"""Of more attempts a day than so many the percentiles are those of a random sample of about so many:
all of a million take seconds, and the board is asked for every five."""

_SHARES = [0.5, 0.95, 0.99]


@dataclass(frozen=True, slots=True)
class Hour:
    """One clock hour: deliveries that were delivered in it, and tries that failed."""

    begins_at: datetime
    delivered: int
    failed: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds within which half, 95 and 99 in a hundred of the ``count`` that were looked at came."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How soon changes of alerts came, from the acceptance of their signal; first attempts only.

    ``first_byte`` is until the first byte was sent, ``success`` until a 2xx was whole. None where
    there was none. What waited for an endpoint that failed or was suspended counts like all else.
    """

    first_byte: Percentiles | None = None
    success: Percentiles | None = None


Done: TypeAlias = "tuple[int, int]"
"""How many deliveries were delivered, and how many were given up."""

Faults: TypeAlias = "tuple[int, datetime | None, str]"
"""How many tries failed, when the last of them did, and why."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted over deliveries and tries at one instant; it takes the longer the more there are.

    By subscription and hour, by subscription, and under None over all of them.
    """

    at: datetime
    finished: Mapping[tuple[str, datetime], Done]
    failed: Mapping[tuple[str, datetime], Faults]
    speeds: Mapping[str | None, tuple[Speed, Speed]]
    owed: Mapping[str, tuple[int, datetime | None]]

    @property
    def looked_at(self) -> int:
        """Deliveries that are owed, and what was finished and tried in the day."""
        return _tried(self.finished, self.failed) + sum(owed for owed, _ in self.owed.values())


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """How deliveries to one subscription go. ``hours`` are the last 24, oldest first.

    ``oldest_owed_at`` leaves out what is sent again by hand. ``ready_at`` is when it may next be sent
    something, None when there is nothing to send or nothing may be sent. ``given_up`` counts deliveries
    that were given up within the hours. ``speed`` is that of the last 24 hours.
    """

    subscription: SubscriptionId
    partner: str
    url: str
    status: str
    reason: str
    created_at: datetime
    suspended_at: datetime | None
    ready_at: datetime | None
    health: Health
    owed: int
    oldest_owed_at: datetime | None
    delivered: int
    failed: int
    given_up: int
    hours: tuple[Hour, ...]
    last_error: str
    last_error_at: datetime | None
    speed: Speed

    @property
    def standing(self) -> str:
        """One of ``STANDINGS``."""
        is_failing = self.status == "active" and self.health.failing_since is not None
        return "failing" if is_failing else self.status

    @property
    def is_troubled(self) -> bool:
        """Whether an operator should look at it: it is suspended or fails, deliveries were given up, or
        a try failed since the oldest delivery that waits became owed.
        """
        if self.standing in {"suspended", "failing"} or self.given_up > 0:
            return True
        if self.oldest_owed_at is None or self.last_error_at is None:
            return False
        return self.last_error_at >= self.oldest_owed_at


@dataclass(frozen=True, slots=True)
class Survey:
    """Every endpoint, those in trouble first, and how soon all of them together heard.

    How endpoints stand is as of now; what is owed, finished and tried was counted at ``counted_at``.
    """

    endpoints: tuple[EndpointHealth, ...]
    counted_at: datetime
    last_hour: Speed = field(default_factory=Speed)
    last_day: Speed = field(default_factory=Speed)

    @property
    def standings(self) -> Mapping[str, int]:
        """How many endpoints stand how; every standing is named, the worst first."""
        counted = Counter(endpoint.standing for endpoint in self.endpoints)
        return {standing: counted[standing] for standing in STANDINGS}

    @property
    def troubled(self) -> int:
        """How many an operator should look at."""
        return sum(endpoint.is_troubled for endpoint in self.endpoints)

    @property
    def owed(self) -> int:
        """How many deliveries are owed, suspended endpoints included."""
        return sum(endpoint.owed for endpoint in self.endpoints)

    @property
    def oldest_owed_at(self) -> datetime | None:
        """Since when the oldest delivery is owed to an active endpoint."""
        waiting = [
            endpoint.oldest_owed_at
            for endpoint in self.endpoints
            if endpoint.status == "active" and endpoint.oldest_owed_at
        ]
        return min(waiting, default=None)


@dataclass(frozen=True, slots=True)
class Tally:
    """What the gauges of deliveries show."""

    standings: Mapping[str, int]
    owed: int
    oldest_owed_at: datetime | None


_OWED = (
    "SELECT subscription_id, count(*) AS owed, min(created_at) FILTER (WHERE finished_at IS NULL) "
    "AS oldest FROM deliveries WHERE state = 'owed' "
    # Every owed one is either; said so, the partial indexes find them among all that were ever delivered.
    "AND (NOT blocked OR finished_at IS NULL AND alert_id IS NOT NULL) "
    "{only} GROUP BY subscription_id"
)


async def survey(
    connection: Connection,
    now: datetime,
    only: SubscriptionId | None = None,
    counts: Counts | None = None,
) -> Survey:
    """Every subscription that is not removed, or only one. One query where ``counts`` are at hand."""
    if counts is None:
        counts = await count(connection, now, only)
    rows = await connection.execute(
        text(
            "SELECT s.id, p.name, s.url, s.status, s.reason, s.created_at, s.suspended_at, "
            "s.ready_at, s.health FROM subscriptions AS s JOIN partners AS p ON p.id = s.partner_id "
            f"WHERE s.status <> 'removed' {_only('s.id', only)}"
        ),
        _bound({}, only),
    )
    first = _first_hour(counts.at)
    begins = [first + n * _HOUR for n in range(HOURS_SHOWN)]
    found = [_health(row, begins, counts) for row in rows]
    return Survey(tuple(sorted(found, key=_need)), counts.at, *counts.speeds.get(None, _UNHEARD))


def _health(row: Any, begins: Sequence[datetime], counts: Counts) -> EndpointHealth:
    done = [counts.finished.get((row.id, at), (0, 0)) for at in begins]
    faults = [counts.failed.get((row.id, at), _NO_FAULT) for at in begins]
    _, error_at, error = next((each for each in reversed(faults) if each[0]), _NO_FAULT)
    owed, oldest = counts.owed.get(row.id, (0, None))
    return EndpointHealth(
        subscription=SubscriptionId(row.id),
        partner=row.name,
        url=row.url,
        status=row.status,
        reason=row.reason,
        created_at=row.created_at,
        suspended_at=row.suspended_at,
        ready_at=row.ready_at,
        health=health_of(row.health),
        owed=owed,
        oldest_owed_at=oldest,
        delivered=sum(delivered for delivered, _ in done),
        failed=sum(each[0] for each in faults),
        given_up=sum(given_up for _, given_up in done),
        hours=tuple(
            Hour(at, delivered, each[0])
            for at, (delivered, _), each in zip(begins, done, faults, strict=True)
        ),
        last_error=error,
        last_error_at=error_at,
        speed=counts.speeds.get(row.id, _UNHEARD)[1],
    )


async def count(
    connection: Connection, now: datetime, only: SubscriptionId | None = None
) -> Counts:
    """What endpoints are owed, and how their last day went; of all, or only of one. Four queries.

    They read what was finished and tried in the last day, by the indexes on time, and what is owed.
    """
    since = _first_hour(now)
    finished = await _finished(connection, since, only)
    failed = await _failed(connection, since, only)
    one_in = max(1, _tried(finished, failed) // MOST_LOOKED_AT)
    speeds = await _speeds(connection, now, only, one_in=one_in)
    rows = await connection.execute(
        text(_OWED.format(only=_only("subscription_id", only))), _bound({}, only)
    )
    return Counts(now, finished, failed, speeds, {row[0]: (row[1], row[2]) for row in rows})


def _first_hour(now: datetime) -> datetime:
    """When the oldest of the hours shown begins."""
    return now.replace(minute=0, second=0, microsecond=0) - (HOURS_SHOWN - 1) * _HOUR


def _tried(
    finished: Mapping[tuple[str, datetime], Done], failed: Mapping[tuple[str, datetime], Faults]
) -> int:
    return sum(done for done, _ in finished.values()) + sum(each[0] for each in failed.values())


async def tally(connection: Connection) -> Tally:
    """How many endpoints stand how, what is owed, and since when to active ones. One query.

    Its cost grows with what is owed, not with what was ever delivered.
    """
    rows = await connection.execute(
        text(
            "SELECT CASE WHEN s.status = 'active' AND s.health -> 'failing_since' IS NOT NULL "
            "THEN 'failing' ELSE s.status END AS standing, count(*) AS endpoints, "
            "coalesce(sum(o.owed), 0)::bigint AS owed, "
            "min(o.oldest) FILTER (WHERE s.status = 'active') AS oldest "
            f"FROM subscriptions AS s LEFT JOIN ({_OWED.format(only='')}) AS o "
            "ON o.subscription_id = s.id WHERE s.status <> 'removed' GROUP BY standing"
        )
    )
    found = rows.all()
    counted = {row.standing: row.endpoints for row in found}
    return Tally(
        {standing: counted.get(standing, 0) for standing in STANDINGS},
        sum(row.owed for row in found),
        min((row.oldest for row in found if row.oldest), default=None),
    )


def _need(endpoint: EndpointHealth) -> tuple[object, ...]:
    """What makes an operator look: trouble, the worst standing, then what is owed."""
    return (
        not endpoint.is_troubled,
        STANDINGS.index(endpoint.standing),
        -endpoint.owed,
        endpoint.partner,
        endpoint.subscription,
    )


async def _finished(
    connection: Connection, since: datetime, only: SubscriptionId | None
) -> dict[tuple[str, datetime], Done]:
    """Deliveries that were delivered, and given up, by subscription and hour."""
    rows = await connection.execute(
        text(
            "SELECT subscription_id, date_bin('1 hour', finished_at, :since), "
            "count(*) FILTER (WHERE state = 'delivered'), count(*) FILTER (WHERE state = 'failed') "
            "FROM deliveries WHERE state <> 'owed' AND finished_at >= :since "
            f"{_only('subscription_id', only)} GROUP BY 1, 2"
        ),
        _bound({"since": since}, only),
    )
    return {(r[0], r[1]): (r[2], r[3]) for r in rows}


_NO_FAULT: Faults = (0, None, "")
_UNHEARD = (Speed(), Speed())


async def _failed(
    connection: Connection, since: datetime, only: SubscriptionId | None
) -> dict[tuple[str, datetime], Faults]:
    """Tries that failed, when the last of them was and why it did, by subscription and hour."""
    rows = await connection.execute(
        text(
            "SELECT d.subscription_id, date_bin('1 hour', a.at, :since), count(*), max(a.at), "
            "(array_agg(a.reason ORDER BY a.at DESC))[1] "
            "FROM attempts AS a JOIN deliveries AS d ON d.id = a.delivery_id "
            f"WHERE a.at >= :since AND a.verdict <> 'delivered' {_only('d.subscription_id', only)} "
            "GROUP BY 1, 2"
        ),
        _bound({"since": since}, only),
    )
    return {(r[0], r[1]): (r[2], r[3], r[4]) for r in rows}


async def _speeds(
    connection: Connection, now: datetime, only: SubscriptionId | None, *, one_in: int
) -> dict[str | None, tuple[Speed, Speed]]:
    """How soon each subscription heard, and under None all of them: in the last hour, in the last day.

    Of so many attempts one is looked at, chosen by a hash, so that no fan-out falls into step with it.
    """
    sent = "CASE WHEN a.sent_after IS NOT NULL THEN w.waited + a.sent_after / 1000 END"
    whole = "w.waited + a.milliseconds / 1000"
    in_hour, well = "a.at >= :hour_ago", "a.verdict = 'delivered'"
    measured = ", ".join(
        f"count({value}) FILTER (WHERE {kept}) AS {name}_count, "
        f"percentile_cont(CAST(:shares AS float8[])) WITHIN GROUP (ORDER BY {value}) "
        f"FILTER (WHERE {kept}) AS {name}"
        for name, value, kept in (
            ("hour_sent", sent, in_hour),
            ("hour_well", whole, f"{in_hour} AND {well}"),
            ("day_sent", sent, "true"),
            ("day_well", whole, well),
        )
    )
    rows = await connection.execute(
        text(
            f"SELECT d.subscription_id, {measured} "
            "FROM attempts AS a JOIN deliveries AS d ON d.id = a.delivery_id "
            "CROSS JOIN LATERAL (SELECT GREATEST(0, extract(epoch FROM a.at - d.created_at)::float8)"
            " AS waited) AS w "
            "WHERE a.at >= :day_ago AND a.number = 1 AND d.transition_id IS NOT NULL "
            "AND hashint8(a.delivery_id) % :one_in = 0 "
            f"{_only('d.subscription_id', only)} GROUP BY GROUPING SETS ((d.subscription_id), ())"
        ),
        _bound(
            {
                "shares": _SHARES,
                "one_in": one_in,
                "hour_ago": now - timedelta(hours=1),
                "day_ago": now - timedelta(hours=24),
            },
            only,
        ),
    )
    return {
        row.subscription_id: (
            Speed(
                _percentiles(row.hour_sent_count, row.hour_sent),
                _percentiles(row.hour_well_count, row.hour_well),
            ),
            Speed(
                _percentiles(row.day_sent_count, row.day_sent),
                _percentiles(row.day_well_count, row.day_well),
            ),
        )
        for row in rows
    }


def _percentiles(count: int, seconds: Sequence[float] | None) -> Percentiles | None:
    return Percentiles(count, *seconds) if count and seconds else None


def _only(column: str, only: SubscriptionId | None) -> str:
    return f"AND {column} = :only" if only is not None else ""


def _bound(values: dict[str, Any], only: SubscriptionId | None) -> dict[str, Any]:
    return values | ({"only": only} if only is not None else {})
