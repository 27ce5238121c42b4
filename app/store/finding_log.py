"""Findings as they are shown, with the alerts they feed, and what one subscriber heard of an alert.

Reads only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from alerts.lifecycle import EventType
from alerts.mechanisms import Level
from alerts.routing import Reached, SubscriptionId, reached
from alerts.signals import SeriesId, SeriesKey, Severity
from app.database import Connection
from app.store import findings, series
from app.store.findings import Kept


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding with the key of its series and, where it feeds one, its open alert."""

    kept: Kept
    key: SeriesKey
    alert_ref: str | None
    alert_opened_at: datetime | None


@dataclass(frozen=True, slots=True)
class Hearing:
    """One transition of an alert, and what became of it for one subscription.

    ``was`` is what the alert had reached before it; ``delivery`` is None where it was never owed.
    """

    number: int
    type: EventType
    was: Reached
    level_to: Level
    severity_to: Severity
    at: datetime
    recorded_at: datetime
    reason: str
    delivery: int | None
    sequence: int | None
    state: str
    attempts: int
    due_at: datetime | None
    finished_at: datetime | None


async def listing(
    connection: Connection,
    *,
    behind: tuple[int, str, str],
    limit: int,
    equal_to: Mapping[str, object],
    fires: bool | None = None,
    among: Collection[tuple[str, str]] | None = None,
    beside: Collection[tuple[str, str]] = (),
) -> list[Shown]:
    """Remembered findings by series, mechanism and rule, from behind a place on.

    Args:
        connection: an open transaction.
        behind: series, mechanism and rule of the last one seen.
        limit: how many at most.
        equal_to: narrows by ``mechanism``, ``rule``, ``series_id``, ``state`` or ``severity``.
        fires: only those that hold a severity, or only those that hold none.
        among: only findings of these rules (mechanism, rule).
        beside: no findings of these rules.
    """
    narrowed = "".join(f" AND f.{column} = :{column}" for column in equal_to)
    if fires is not None:
        narrowed += f" AND f.severity {'>' if fires else '='} 0"
    wanted = "(f.mechanism, f.rule) IN (SELECT * FROM unnest(CAST(:{0}_m AS text[]), CAST(:{0}_r AS text[])))"
    named: dict[str, object] = {}
    for name, keys, is_wanted in (("among", among, True), ("beside", beside, False)):
        if keys is not None and (keys or is_wanted):
            narrowed += f" AND {'' if is_wanted else 'NOT '}{wanted.format(name)}"
            named |= {f"{name}_m": [m for m, _ in keys], f"{name}_r": [r for _, r in keys]}
    rows = await connection.execute(
        text(
            "SELECT f.series_id, f.mechanism, f.rule, a.ref, a.opened_at FROM findings AS f "
            "LEFT JOIN alerts AS a ON a.id = f.alert_id WHERE (f.series_id, f.mechanism, f.rule) > "
            f"(:behind_series, :behind_mechanism, :behind_rule){narrowed} "
            "ORDER BY f.series_id, f.mechanism, f.rule LIMIT :most"
        ),
        {
            "behind_series": behind[0],
            "behind_mechanism": behind[1],
            "behind_rule": behind[2],
            "most": limit,
            **equal_to,
            **named,
        },
    )
    feeds = {(SeriesId(r[0]), r[1], r[2]): (r[3], r[4]) for r in rows}
    return await _shown(connection, feeds)


async def of_series(connection: Connection, ids: Collection[SeriesId]) -> list[Shown]:
    """Every remembered finding of these series."""
    rows = await connection.execute(
        text(
            "SELECT f.series_id, f.mechanism, f.rule, a.ref, a.opened_at FROM findings AS f "
            "LEFT JOIN alerts AS a ON a.id = f.alert_id WHERE f.series_id = ANY(:ids) "
            "ORDER BY f.series_id, f.mechanism, f.rule"
        ),
        {"ids": list(ids)},
    )
    feeds = {(SeriesId(r[0]), r[1], r[2]): (r[3], r[4]) for r in rows}
    return await _shown(connection, feeds)


async def hearings(
    connection: Connection, subscription_id: SubscriptionId, alert_id: int
) -> list[Hearing]:
    """Every transition of an alert, oldest first, with its delivery to one subscription."""
    rows = await connection.execute(
        text(
            "SELECT t.number, t.type, t.level_from, t.level_to, t.severity_from, t.severity_to, "
            "coalesce(max(t.level_to) OVER earlier, t.level_from) AS highest_level, "
            "coalesce(max(t.severity_to) OVER earlier, t.severity_from) AS highest_severity, "
            "t.at, t.recorded_at, t.reason, "
            "d.id, d.sequence, d.state, d.attempts, "
            "CASE WHEN d.state = 'owed' THEN d.due_at END AS due_at, d.finished_at "
            "FROM transitions AS t LEFT JOIN deliveries AS d "
            "ON d.transition_id = t.id AND d.subscription_id = :subscription "
            "WHERE t.alert_id = :alert WINDOW earlier AS (ORDER BY t.number "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) ORDER BY t.number"
        ),
        {"subscription": subscription_id, "alert": alert_id},
    )
    return [
        Hearing(
            number=r.number,
            type=EventType(r.type),
            was=reached(
                EventType(r.type),
                Reached(Level(r.level_from), Severity(r.severity_from)),
                Reached(Level(r.highest_level), Severity(r.highest_severity)),
            ),
            level_to=Level(r.level_to),
            severity_to=Severity(r.severity_to),
            at=r.at,
            recorded_at=r.recorded_at,
            reason=r.reason,
            delivery=r.id,
            sequence=r.sequence,
            state=r.state or "",
            attempts=r.attempts or 0,
            due_at=r.due_at,
            finished_at=r.finished_at,
        )
        for r in rows
    ]


async def owed_since(connection: Connection, subscription_id: SubscriptionId) -> datetime | None:
    """Since when a subscription is owed what it asks for; None while its endpoint never consented."""
    found: datetime | None = await connection.scalar(
        text("SELECT owed_since FROM subscriptions WHERE id = :id"), {"id": subscription_id}
    )
    return found


async def firing(connection: Connection) -> dict[tuple[str, str], int]:
    """How many findings of each rule (mechanism, id) fire, exercises left out. One query."""
    rows = await connection.execute(
        text(
            "SELECT f.mechanism, f.rule, count(*) FROM findings AS f JOIN series USING (series_id) "
            "WHERE f.severity > 0 AND series.exercise = '' GROUP BY f.mechanism, f.rule"
        )
    )
    return {(mechanism, rule): count for mechanism, rule, count in rows}


async def _shown(
    connection: Connection,
    feeds: Mapping[tuple[SeriesId, str, str], tuple[str | None, datetime | None]],
) -> list[Shown]:
    """The findings of these keys, in their order."""
    if not feeds:
        return []
    ids = sorted({series_id for series_id, *_ in feeds})
    keys = await series.keys_of(connection, ids)
    kept = {k.key: k for k in await findings.of_series(connection, ids)}
    return [
        Shown(kept[key], keys[key[0]], *feeds[key])
        for key in feeds
        if key in kept and key[0] in keys
    ]
