"""What operators watch: sectors, open alerts, what changed, feeds and deliveries. Reads only.

A handful of queries make the whole board, whatever its size. What must be counted over every series
and every delivery may be given to it, counted a moment before (``app.lately``). Drills (exercises) are
shown but never weigh on a sector.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from alerts.catalogue import Catalogue
from alerts.lifecycle import Advice
from alerts.mechanisms import Level
from alerts.signals import SeriesId, SeriesKey, Severity
from app.database import Connection
from app.store import endpoint_health
from app.store.endpoint_health import Survey

ALERTS_SHOWN = 100
CHANGES_READ = 400
CHANGES_SHOWN = 14
TREND_SHOWN = 12
FEEDS_SHOWN = 25

STALE_AFTER = 2.0
"""A feed is stale when nothing came for this many times its usual gap."""
SILENT_AFTER = 5.0
"""A feed is silent when nothing came for this many times its usual gap."""


class Freshness(enum.StrEnum):
    """How a feed keeps its usual pace, by when something was last received from it."""

    ok = "ok"
    stale = "stale"
    silent = "silent"


class Trend(enum.StrEnum):
    """Where a sector is going, by the last change of any of its alerts."""

    rising = "rising"
    easing = "easing"
    steady = "steady"


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One alert as the board lists it; empty good, place and exercise mean none."""

    ref: str
    mechanism: str
    sector: str
    good: str
    place: str
    exercise: str
    level: Level
    state: str
    severity: Severity
    title: str
    why: str
    validated: bool
    opened_at: datetime
    updated_at: datetime
    recorded_at: datetime
    recommendation: Advice | None


@dataclass(frozen=True, slots=True)
class Change:
    """One transition; ``at`` is observation time, ``recorded_at`` the service's clock."""

    id: int
    ref: str
    title: str
    sector: str
    exercise: str
    type: str
    level_from: Level
    level_to: Level
    severity_from: Severity
    severity_to: Severity
    at: datetime
    recorded_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class FeedCounts:
    """How many feeds of a sector keep their pace. Events have none and are not counted."""

    series: int = 0
    stale: int = 0
    silent: int = 0
    newest_observed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Feed:
    """One series that is expected to be heard of regularly; ``every_days`` is its usual gap."""

    series: SeriesId
    key: SeriesKey
    freshness: Freshness
    last_observed_at: datetime
    last_received_at: datetime
    last_value: float | None
    every_days: float
    partners: str


@dataclass(frozen=True, slots=True)
class Feeds:
    """Every feed, counted at one instant: by sector, and those that are latest against their own pace."""

    at: datetime
    by_sector: Mapping[str, FeedCounts]
    latest: tuple[Feed, ...]

    @property
    def looked_at(self) -> int:
        """How many feeds were counted."""
        return sum(counts.series for counts in self.by_sector.values())


@dataclass(frozen=True, slots=True)
class PartnerSeen:
    """When a partner's newest key was last used; None when none ever was."""

    name: str
    party: str
    last_seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class SectorRow:
    """One sector: the worst of its open alerts, where it is going, and its feeds.

    ``changes`` are the newest of its transitions, oldest first.
    """

    code: str
    title: str
    level: Level
    severity: Severity
    open_alerts: int
    trend: Trend
    changes: tuple[Change, ...]
    feeds: FeedCounts


@dataclass(frozen=True, slots=True)
class Board:
    """Everything on the front page at one instant, but for feeds, which were counted at
    ``feeds_counted_at``, and what ``delivery`` has counted. ``open_alerts`` counts drills out.
    """

    now: datetime
    feeds_counted_at: datetime
    sectors: tuple[SectorRow, ...]
    alerts: tuple[AlertRow, ...]
    open_alerts: int
    changes: tuple[Change, ...]
    feed_counts: FeedCounts
    feeds: tuple[Feed, ...]
    partners: tuple[PartnerSeen, ...]
    delivery: Survey

    @property
    def worst(self) -> AlertRow | None:
        """The open alert to look at first; a drill only when nothing real is open."""
        return self.alerts[0] if self.alerts else None


async def read(
    connection: Connection,
    catalogue: Catalogue,
    now: datetime,
    *,
    feeds: Feeds | None = None,
    counts: endpoint_health.Counts | None = None,
) -> Board:
    """The whole board. Five queries, each over what is shown or open; and those that count what is not
    at hand.
    """
    if feeds is None:
        feeds = await count_feeds(connection, catalogue, now)
    alerts = await open_alerts(connection)
    changes, of_sectors = await _newest_changes(connection)
    tallies = await _tallies(connection)
    return Board(
        now=now,
        feeds_counted_at=feeds.at,
        sectors=_sector_rows(catalogue, tallies, of_sectors, feeds.by_sector),
        alerts=tuple(alerts),
        open_alerts=sum(tally[0] for tally in tallies.values()),
        changes=changes,
        feed_counts=_sum(feeds.by_sector.values()),
        feeds=feeds.latest,
        partners=tuple(await _partners(connection)),
        delivery=await endpoint_health.survey(connection, now, counts=counts),
    )


async def open_alerts(connection: Connection) -> list[AlertRow]:
    """The open alerts, worst first, drills last; at most ``ALERTS_SHOWN``."""
    rows = await connection.execute(
        text(
            "SELECT ref, mechanism, sector, good, place, exercise, level, state, severity, title, "
            "why, validated, opened_at, updated_at, recorded_at, recommendation "
            "FROM alerts WHERE state = 'open' "
            "ORDER BY exercise <> '', level DESC, severity DESC, "
            "array_position(ARRAY['monitoring', 'early_warning', 'disruption', 'crisis'], "
            "recommendation ->> 'level') DESC NULLS LAST, updated_at DESC, id LIMIT :most"
        ),
        {"most": ALERTS_SHOWN},
    )
    return [alert_row(row) for row in rows]


def alert_row(row: Sequence[Any]) -> AlertRow:
    """An alert from its columns in the order of ``AlertRow``'s fields."""
    values = list(row)
    values[6], values[8], values[15] = Level(row[6]), Severity(row[8]), _advice(row[15])
    return AlertRow(*values)


def _advice(document: dict[str, Any] | None) -> Advice | None:
    if not document:
        return None
    return Advice(Level[document["level"]], tuple(document["reasons"]))


async def _newest_changes(
    connection: Connection,
) -> tuple[tuple[Change, ...], dict[str, list[Change]]]:
    """The newest transitions of all alerts, and those of each sector but for drills, newest recorded first.

    Of the newest ``CHANGES_READ``. Those of one request share the instant they were recorded at,
    whichever of its transactions committed first; they stand in the order they were observed.
    """
    rows = await connection.execute(
        text(
            "SELECT * FROM (SELECT newest.*, row_number() OVER (ORDER BY {order}) AS nth, "
            "CASE WHEN exercise = '' THEN "
            "row_number() OVER (PARTITION BY sector, exercise ORDER BY {order}) END AS nth_of_sector "
            "FROM (SELECT t.id, a.ref, a.title, a.sector, a.exercise, t.type, t.level_from, "
            "t.level_to, t.severity_from, t.severity_to, t.at, t.recorded_at, t.reason "
            "FROM transitions AS t JOIN alerts AS a ON a.id = t.alert_id "
            "ORDER BY t.id DESC LIMIT :read) AS newest) AS numbered "
            "WHERE nth <= :shown OR nth_of_sector <= :trend ORDER BY nth".format(
                order="recorded_at DESC, at DESC, id DESC"
            )
        ),
        {"read": CHANGES_READ, "shown": CHANGES_SHOWN, "trend": TREND_SHOWN},
    )
    shown: list[Change] = []
    of_sectors: dict[str, list[Change]] = {}
    for r in rows:
        change = Change(
            r.id,
            r.ref,
            r.title,
            r.sector,
            r.exercise,
            r.type,
            Level(r.level_from),
            Level(r.level_to),
            Severity(r.severity_from),
            Severity(r.severity_to),
            r.at,
            r.recorded_at,
            r.reason,
        )
        if r.nth <= CHANGES_SHOWN:
            shown.append(change)
        if r.nth_of_sector is not None and r.nth_of_sector <= TREND_SHOWN:
            of_sectors.setdefault(change.sector, []).append(change)
    return tuple(shown), of_sectors


async def _tallies(connection: Connection) -> dict[str, tuple[int, Level, Severity]]:
    """By sector: open alerts that are no drills, their highest level and severity."""
    rows = await connection.execute(
        text(
            "SELECT sector, count(*), max(level), max(severity) FROM alerts "
            "WHERE state = 'open' AND exercise = '' GROUP BY sector"
        )
    )
    return {r[0]: (r[1], Level(r[2]), Severity(r[3])) for r in rows}


def _sector_rows(
    catalogue: Catalogue,
    tallies: dict[str, tuple[int, Level, Severity]],
    changes: Mapping[str, Sequence[Change]],
    counts: Mapping[str, FeedCounts],
) -> tuple[SectorRow, ...]:
    """Worst first; sectors of which nothing was ever heard last. ``changes`` are the newest first."""
    titles = {code: sector.title for code, sector in catalogue.sectors.items()}
    for code in (*tallies, *counts):
        titles.setdefault(code, code)
    rows = []
    for code, title in titles.items():
        alerts, level, severity = tallies.get(code, (0, Level.monitoring, Severity.none))
        recent = changes.get(code, ())
        rows.append(
            SectorRow(
                code,
                title,
                level,
                severity,
                alerts,
                _trend(recent),
                tuple(reversed(recent)),
                counts.get(code, FeedCounts()),
            )
        )
    return tuple(sorted(rows, key=lambda r: (-r.level, -r.severity, not r.feeds.series, r.title)))


def _trend(newest_first: Sequence[Change]) -> Trend:
    match newest_first[0].type if newest_first else "":
        case "alert.opened" | "alert.escalated":
            return Trend.rising
        case "alert.eased" | "alert.resolved":
            return Trend.easing
        case _:
            return Trend.steady


_CADENCE = (
    "unnest(CAST(:codes AS text[]), CAST(:days AS float8[])) AS cadence (indicator, every_days)"
)
_LATENESS = (
    "date_part('epoch', CAST(:now AS timestamptz) - last_received_at) / (86400 * every_days)"
)


def _pace(catalogue: Catalogue, now: datetime) -> dict[str, object]:
    indicators = catalogue.indicators.values()
    return {
        "codes": [i.code for i in indicators],
        "days": [float(i.every_days) for i in indicators],
        "now": now,
    }


async def count_feeds(connection: Connection, catalogue: Catalogue, now: datetime) -> Feeds:
    """Every feed against its own pace. Three queries, two of them over one narrow row a series."""
    by_sector = await _feed_counts(connection, catalogue, now)
    return Feeds(now, by_sector, tuple(await _latest_feeds(connection, catalogue, now)))


async def _feed_counts(
    connection: Connection, catalogue: Catalogue, now: datetime
) -> dict[str, FeedCounts]:
    rows = await connection.execute(
        text(
            "SELECT sector, count(*), "
            "count(*) FILTER (WHERE late > :stale AND late <= :silent), "
            "count(*) FILTER (WHERE late > :silent), max(last_observed_at) "
            f"FROM (SELECT sector, last_observed_at, {_LATENESS} AS late FROM series "
            f"JOIN series_state USING (series_id) JOIN {_CADENCE} USING (indicator) "
            "WHERE exercise = '' AND last_received_at IS NOT NULL) AS heard GROUP BY sector"
        ),
        {**_pace(catalogue, now), "stale": STALE_AFTER, "silent": SILENT_AFTER},
    )
    return {r[0]: FeedCounts(r[1], r[2], r[3], r[4]) for r in rows}


async def _latest_feeds(connection: Connection, catalogue: Catalogue, now: datetime) -> list[Feed]:
    """Feeds in order of lateness against their own pace, at most ``FEEDS_SHOWN``."""
    rows = await connection.execute(
        text(
            "SELECT series_id, sector, indicator, good, place, exercise, "
            f"{_LATENESS} AS late, last_observed_at, last_received_at, last_value, every_days "
            "FROM series JOIN series_state USING (series_id) "
            f"JOIN {_CADENCE} USING (indicator) "
            "WHERE exercise = '' AND last_received_at IS NOT NULL "
            "AND last_observed_at IS NOT NULL ORDER BY late DESC, series_id LIMIT :most"
        ),
        {**_pace(catalogue, now), "most": FEEDS_SHOWN},
    )
    found = rows.all()
    names = await _reporters(connection, {SeriesId(r[0]): r[7] for r in found})
    return [
        Feed(
            SeriesId(r[0]),
            SeriesKey(*r[1:6]),
            freshness(float(r[6])),
            *(*r[7:], names[SeriesId(r[0])]),
        )
        for r in found
    ]


async def _reporters(
    connection: Connection, newest: Mapping[SeriesId, datetime]
) -> dict[SeriesId, str]:
    """The partners who reported these observations, by series. One query, by primary key."""
    rows = await connection.execute(
        text(
            "SELECT series_id, string_agg(DISTINCT name, ', ') FROM signals "
            "JOIN unnest(CAST(:series AS bigint[]), CAST(:at AS timestamptz[])) "
            "AS newest (series_id, observed_at) USING (series_id, observed_at) "
            "JOIN partners ON partners.id = partner_id "
            # For the planner, which leaves out the months that this leaves out.
            "WHERE observed_at BETWEEN :first AND :last GROUP BY series_id"
        ),
        {
            "series": list(newest),
            "at": list(newest.values()),
            "first": min(newest.values(), default=None),
            "last": max(newest.values(), default=None),
        },
    )
    return dict.fromkeys(newest, "") | {SeriesId(series): names for series, names in rows}


def freshness(lateness: float) -> Freshness:
    """The word for a lateness, which is the silence so far in usual gaps."""
    if lateness > SILENT_AFTER:
        return Freshness.silent
    return Freshness.stale if lateness > STALE_AFTER else Freshness.ok


def _sum(counts: Any) -> FeedCounts:
    total = list(counts)
    newest = [c.newest_observed_at for c in total if c.newest_observed_at]
    return FeedCounts(
        sum(c.series for c in total),
        sum(c.stale for c in total),
        sum(c.silent for c in total),
        max(newest, default=None),
    )


async def _partners(connection: Connection) -> list[PartnerSeen]:
    """Partners with a key that may report, longest unseen first."""
    rows = await connection.execute(
        text(
            "SELECT p.name, p.party, max(k.last_used_at) FROM partners AS p "
            "JOIN keys AS k ON k.partner_id = p.id "
            "WHERE k.revoked_at IS NULL AND 'signals:write' = ANY(k.scopes) "
            "GROUP BY p.id ORDER BY max(k.last_used_at) NULLS FIRST, p.name"
        )
    )
    return [PartnerSeen(*r) for r in rows]
