"""Everything one alert's page shows, and the values that count of one series. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from alerts.findings import Finding
from alerts.lifecycle import Alert
from alerts.mechanisms import Level
from alerts.routing import SubscriptionId
from alerts.signals import SeriesId, SeriesKey, Severity
from app.database import Connection
from app.store import alerts, findings, series
from app.store.deliveries import webhook_id

DELIVERIES_SHOWN = 100
ALERTS_OF_SERIES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an alert's timeline; ``at`` is observation time."""

    number: int
    type: str
    level_from: Level
    level_to: Level
    severity_from: Severity
    severity_to: Severity
    at: datetime
    recorded_at: datetime
    decided_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Told:
    """One transition owed to one endpoint, and how its delivery went."""

    subscription: str
    webhook_id: str
    partner: str
    url: str
    number: int
    type: str
    state: str
    attempts: int
    owed_at: datetime
    finished_at: datetime | None
    last_error: str


@dataclass(frozen=True, slots=True)
class Feeding:
    """One rule's view of one series that feeds an alert.

    ``said`` is the description of the newest transition that spoke of it, ``finding`` its present
    state where it is still remembered. ``observed`` are the observations that moved the alert, by
    the number of the transition.
    """

    rule: str
    series: SeriesId
    key: SeriesKey
    said: Mapping[str, Any]
    finding: Finding | None
    observed: Mapping[datetime, int]


@dataclass(frozen=True, slots=True)
class Dossier:
    """One alert with all that led to it. ``timeline`` and ``told`` are newest first."""

    alert: Alert
    timeline: tuple[Entry, ...]
    feeding: tuple[Feeding, ...]
    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """The value that counts at one instant: of each partner the newest revision, then the median.

    ``partners`` says how many of them it is made of, ``revision`` the highest among them.
    """

    observed_at: datetime
    value: float
    partners: int
    revision: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series and where it stands."""

    id: SeriesId
    key: SeriesKey
    last_observed_at: datetime | None
    last_value: float | None
    last_received_at: datetime | None
    observations: int


async def read(connection: Connection, ref: str) -> Dossier | None:
    """The alert of that reference with its timeline, what feeds it and who was told. Six queries."""
    kept = await alerts.by_ref(connection, ref)
    if kept is None:
        return None
    timeline, said = await _timeline(connection, kept.id)
    return Dossier(
        kept.alert,
        timeline,
        await _feeding(connection, kept.id, kept.alert.scope.mechanism, said),
        await _told(connection, kept.id),
    )


async def _timeline(
    connection: Connection, alert_id: int
) -> tuple[tuple[Entry, ...], dict[tuple[SeriesId, str], Mapping[str, Any]]]:
    """The transitions, newest first, and what the newest of them says of each finding."""
    rows = await connection.execute(
        text(
            "SELECT number, type, level_from, level_to, severity_from, severity_to, at, recorded_at, "
            "decided_by, reason, explanation -> 'findings' FROM transitions "
            "WHERE alert_id = :alert ORDER BY number DESC"
        ),
        {"alert": alert_id},
    )
    entries: list[Entry] = []
    said: dict[tuple[SeriesId, str], Mapping[str, Any]] = {}
    for r in rows:
        levels = (Level(r[2]), Level(r[3]), Severity(r[4]), Severity(r[5]))
        entries.append(Entry(r[0], r[1], *levels, *r[6:10]))
        for described in r[10] or ():
            said.setdefault((SeriesId(described["series_id"]), described["rule"]), described)
    return tuple(entries), said


async def _feeding(
    connection: Connection,
    alert_id: int,
    mechanism: str,
    said: Mapping[tuple[SeriesId, str], Mapping[str, Any]],
) -> tuple[Feeding, ...]:
    """Worst first, then as the newest explanation has them."""
    present = {
        (kept.key[0], kept.key[2]): kept.finding
        for kept in await findings.of_alerts(connection, [alert_id])
        if kept.key[1] == mechanism
    }
    wanted = {**dict.fromkeys(said), **dict.fromkeys(present)}
    keys = await series.keys_of(connection, {series_id for series_id, _ in wanted})
    rows = await connection.execute(
        text(
            "SELECT series_id, observed_at, number FROM alert_signals WHERE alert_id = :alert "
            "ORDER BY number"
        ),
        {"alert": alert_id},
    )
    observed: dict[SeriesId, dict[datetime, int]] = {}
    for series_id, at, number in rows:
        observed.setdefault(SeriesId(series_id), {})[at] = number
    feeding = [
        Feeding(
            rule,
            series_id,
            keys[series_id],
            said.get((series_id, rule), {}),
            present.get((series_id, rule)),
            observed.get(series_id, {}),
        )
        for series_id, rule in wanted
        if series_id in keys
    ]
    return tuple(sorted(feeding, key=lambda f: -(f.finding.severity if f.finding else 0)))


async def _told(connection: Connection, alert_id: int) -> tuple[Told, ...]:
    rows = await connection.execute(
        text(
            "SELECT d.subscription_id, d.sequence, p.name, s.url, t.number, d.type, d.state, d.attempts, "
            "d.created_at, d.finished_at, last.verdict, last.reason "
            "FROM deliveries AS d JOIN transitions AS t ON t.id = d.transition_id "
            "JOIN subscriptions AS s ON s.id = d.subscription_id "
            "JOIN partners AS p ON p.id = s.partner_id "
            "LEFT JOIN LATERAL (SELECT verdict, reason FROM attempts AS a "
            "WHERE a.delivery_id = d.id ORDER BY a.number DESC LIMIT 1) AS last ON true "
            "WHERE d.alert_id = :alert ORDER BY t.number DESC, p.name, d.id LIMIT :most"
        ),
        {"alert": alert_id, "most": DELIVERIES_SHOWN},
    )
    return tuple(
        Told(
            subscription=r.subscription_id,
            webhook_id=webhook_id(SubscriptionId(r.subscription_id), r.sequence),
            partner=r.name,
            url=r.url,
            number=r.number,
            type=r.type,
            state=r.state,
            attempts=r.attempts,
            owed_at=r.created_at,
            finished_at=r.finished_at,
            last_error=r.reason if r.verdict not in (None, "delivered") else "",
        )
        for r in rows
    )


async def series_list(
    connection: Connection, after: int, most: int, equal_to: Mapping[str, str]
) -> list[SeriesRow]:
    """Series by id, from behind ``after`` on.

    ``equal_to`` narrows by columns of the natural key; an empty string means "not limited to one".
    """
    narrowed = "".join(
        f" AND {column} = :{column}" for column in SeriesKey._fields if column in equal_to
    )
    rows = await connection.execute(
        text(f"{_SERIES} WHERE series_id > :after{narrowed} ORDER BY series_id LIMIT :most"),
        {"after": after, "most": most, **equal_to},
    )
    return [_series_row(row) for row in rows]


async def one_series(connection: Connection, series_id: SeriesId) -> SeriesRow | None:
    """One series and where it stands."""
    found = await connection.execute(text(f"{_SERIES} WHERE series_id = :id"), {"id": series_id})
    row = found.first()
    return None if row is None else _series_row(row)


_SERIES = (
    "SELECT series_id, sector, indicator, good, place, exercise, last_observed_at, last_value, "
    "last_received_at, observations FROM series JOIN series_state USING (series_id)"
)


def _series_row(row: Sequence[Any]) -> SeriesRow:
    return SeriesRow(SeriesId(row[0]), SeriesKey(*row[1:6]), *row[6:])


async def samples(
    connection: Connection,
    series_id: SeriesId,
    since: datetime | None,
    until: datetime | None,
    most: int,
    *,
    behind: datetime | None = None,
) -> list[Measured]:
    """The values that count, oldest first, by primary key.

    From ``since`` on, before ``until``, and later than ``behind``; each may be open.
    """
    bounds = {"observed_at >= :since": since, "observed_at < :until": until}
    bounds |= {"observed_at > :behind": behind}
    narrowed = "".join(f" AND {bound}" for bound, at in bounds.items() if at is not None)
    rows = await connection.execute(
        text(
            "SELECT observed_at, percentile_cont(0.5) WITHIN GROUP (ORDER BY value), count(*), "
            "max(revision), max(received_at) FROM ("
            "SELECT DISTINCT ON (observed_at, partner_id) observed_at, value, revision, received_at "
            f"FROM signals WHERE series_id = :series{narrowed} "
            "ORDER BY observed_at, partner_id, revision DESC) AS newest "
            "WHERE value IS NOT NULL GROUP BY observed_at ORDER BY observed_at LIMIT :most"
        ),
        {
            "series": series_id,
            "most": most,
            **{bound.partition(":")[2]: at for bound, at in bounds.items() if at is not None},
        },
    )
    return [Measured(*row) for row in rows]


async def alerts_of_series(connection: Connection, series_id: SeriesId) -> list[tuple[str, str]]:
    """Reference and title of the alerts a series has fed, newest first."""
    rows = await connection.execute(
        text(
            "SELECT ref, title FROM alerts WHERE id IN ("
            "SELECT alert_id FROM alert_signals WHERE series_id = :series) "
            "ORDER BY opened_at DESC LIMIT :most"
        ),
        {"series": series_id, "most": ALERTS_OF_SERIES_SHOWN},
    )
    return [(row[0], row[1]) for row in rows]
