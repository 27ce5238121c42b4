"""How endpoints do: how they stand, what they are owed, and how soon they hear. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from alerts.endpoints import Health, health_of
from alerts.routing import SubscriptionId
from app.database import Connection

HOURS_SHOWN = 24

STANDINGS = ("suspended", "failing", "pending", "active")
"""How an endpoint may stand: its status, or ``failing`` while it is active and does not answer well."""

_SHARES = [0.5, 0.95, 0.99]


@dataclass(frozen=True, slots=True)
class Hour:
    """Attempts of one clock hour: those that were answered well and those that were not."""

    begins_at: datetime
    delivered: int
    failed: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds within which half, 95 and 99 in a hundred of ``count`` came."""

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


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """How deliveries to one subscription go. ``hours`` are the last 24, oldest first.

    ``oldest_owed_at`` leaves out what is sent again by hand. ``ready_at`` is when it may next be sent
    something, None when there is nothing to send or nothing may be sent. ``given_up`` counts deliveries
    attempted within the hours whose tries are spent. ``speed`` is that of the last 24 hours.
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
    """Every endpoint, those in trouble first, and how soon all of them together heard."""

    endpoints: tuple[EndpointHealth, ...]
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
    "AS oldest FROM deliveries WHERE state = 'owed' {only} GROUP BY subscription_id"
)


async def survey(
    connection: Connection, now: datetime, only: SubscriptionId | None = None
) -> Survey:
    """Every subscription that is not removed, or only one. Four queries.

    Two of them read the attempts of the last day, by their index on time.
    """
    since = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS_SHOWN - 1)
    hours = await _hours(connection, since, only)
    errors = await _errors(connection, since, only)
    speeds = await _speeds(connection, now, only)
    rows = await connection.execute(
        text(
            "SELECT s.id, p.name, s.url, s.status, s.reason, s.created_at, s.suspended_at, "
            "s.ready_at, s.health, coalesce(o.owed, 0) AS owed, o.oldest "
            "FROM subscriptions AS s JOIN partners AS p ON p.id = s.partner_id "
            f"LEFT JOIN ({_OWED.format(only=_only('subscription_id', only))}) AS o "
            "ON o.subscription_id = s.id "
            f"WHERE s.status <> 'removed' {_only('s.id', only)}"
        ),
        _bound({}, only),
    )
    found = []
    for row in rows:
        begins = [since + timedelta(hours=n) for n in range(HOURS_SHOWN)]
        counts = [hours.get((row.id, at), (0, 0, 0)) for at in begins]
        blocks = tuple(Hour(at, *count[:2]) for at, count in zip(begins, counts, strict=True))
        error_at, error = errors.get(row.id, (None, ""))
        found.append(
            EndpointHealth(
                subscription=SubscriptionId(row.id),
                partner=row.name,
                url=row.url,
                status=row.status,
                reason=row.reason,
                created_at=row.created_at,
                suspended_at=row.suspended_at,
                ready_at=row.ready_at,
                health=health_of(row.health),
                owed=row.owed,
                oldest_owed_at=row.oldest,
                delivered=sum(block.delivered for block in blocks),
                failed=sum(block.failed for block in blocks),
                given_up=sum(count[2] for count in counts),
                hours=blocks,
                last_error=error,
                last_error_at=error_at,
                speed=speeds.get(row.id, (Speed(), Speed()))[1],
            )
        )
    return Survey(tuple(sorted(found, key=_need)), *speeds.get(None, (Speed(), Speed())))


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


async def _hours(
    connection: Connection, since: datetime, only: SubscriptionId | None
) -> dict[tuple[str, datetime], tuple[int, int, int]]:
    """Tries answered well, tries that were not, and deliveries given up, by subscription and hour."""
    rows = await connection.execute(
        text(
            "SELECT d.subscription_id, date_trunc('hour', a.at, 'UTC'), "
            "count(*) FILTER (WHERE a.verdict = 'delivered'), "
            "count(*) FILTER (WHERE a.verdict <> 'delivered'), "
            "count(*) FILTER (WHERE d.state = 'failed' AND a.number = d.attempts) "
            "FROM attempts AS a JOIN deliveries AS d ON d.id = a.delivery_id "
            f"WHERE a.at >= :since {_only('d.subscription_id', only)} GROUP BY 1, 2"
        ),
        _bound({"since": since}, only),
    )
    return {(r[0], r[1]): (r[2], r[3], r[4]) for r in rows}


async def _errors(
    connection: Connection, since: datetime, only: SubscriptionId | None
) -> dict[str, tuple[datetime, str]]:
    """The last try that was not answered well, by subscription."""
    rows = await connection.execute(
        text(
            "SELECT DISTINCT ON (d.subscription_id) d.subscription_id, a.at, a.reason "
            "FROM attempts AS a JOIN deliveries AS d ON d.id = a.delivery_id "
            f"WHERE a.at >= :since AND a.verdict <> 'delivered' {_only('d.subscription_id', only)} "
            "ORDER BY d.subscription_id, a.at DESC"
        ),
        _bound({"since": since}, only),
    )
    return {r[0]: (r[1], r[2]) for r in rows}


async def _speeds(
    connection: Connection, now: datetime, only: SubscriptionId | None
) -> dict[str | None, tuple[Speed, Speed]]:
    """How soon each subscription heard, and under None all of them: in the last hour, in the last day."""
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
            f"{_only('d.subscription_id', only)} GROUP BY GROUPING SETS ((d.subscription_id), ())"
        ),
        _bound(
            {
                "shares": _SHARES,
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
