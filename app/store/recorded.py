"""What was ever reported, with its revisions, streamed as CSV for a backtest to read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from alerts.signals import SeriesId, SeriesKey, Severity
from app.database import Connection, driver

LONG_AFTER = timedelta(days=400)
"""What was received so long after it was observed was loaded as history, not reported."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many rows there are, and how many of them were received long after they were observed."""

    rows: int
    long_after: int


async def series_of(
    connection: Connection, sectors: Collection[str]
) -> list[tuple[SeriesId, SeriesKey]]:
    """Every series of these sectors that is no exercise's. One query."""
    rows = await connection.execute(
        text(
            "SELECT series_id, sector, indicator, good, place FROM series "
            "WHERE exercise = '' AND sector = ANY(:sectors) ORDER BY series_id"
        ),
        {"sectors": list(sectors)},
    )
    return [(SeriesId(series), SeriesKey(*key)) for series, *key in rows]


async def size(
    connection: Connection,
    series: Collection[SeriesId],
    *,
    before: datetime,
    known: datetime,
    most: int,
) -> Size:
    """How much was reported of these series; counts no further than one beyond ``most``."""
    row = await driver(connection).fetchrow(
        "SELECT count(*) AS rows, count(*) FILTER (WHERE received_at - observed_at > $5) AS late "
        "FROM (SELECT observed_at, received_at FROM signals WHERE series_id = ANY($1::bigint[]) "
        "AND observed_at < $2 AND received_at <= $3 LIMIT $4) AS counted",
        list(series),
        before,
        known,
        most + 1,
        LONG_AFTER,
    )
    return Size(row["rows"], row["late"]) if row is not None else Size(0, 0)


# A value that was taken back later is left out; a report that was, is told again with severity none.
_EXPORT = """
    SELECT k.sector, CASE WHEN told THEN '' ELSE k.indicator END AS indicator,
        CASE WHEN told THEN k.indicator ELSE '' END AS event, k.good, k.place,
        s.observed_at, CASE WHEN told THEN NULL ELSE s.value END AS value,
        CASE WHEN told THEN ($5::text[])[coalesce(s.value, 0)::int + 1] ELSE '' END AS severity,
        CASE WHEN $6::bool THEN NULL ELSE s.received_at END AS available_at,
        p.name AS partner, p.party, said ->> 'origin' AS origin,
        translate(said ->> 'origin_ref', E'\\n\\r', '  ') AS origin_ref,
        said ->> 'reliability' AS reliability,
        said ->> 'announced_at' AS announced_at, said ->> 'effective_at' AS effective_at
    FROM (
        SELECT series_id, observed_at, partner_id, revision, value, received_at, detail,
            bool_or(value IS NULL) OVER (later ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
                AS taken_back,
            lead(revision) OVER later AS next_revision
        FROM signals
        WHERE series_id = ANY($1::bigint[]) AND observed_at < $2 AND received_at <= $3
        WINDOW later AS (PARTITION BY series_id, observed_at, partner_id ORDER BY revision)
    ) AS s
    JOIN series AS k USING (series_id)
    JOIN partners AS p ON p.id = s.partner_id
    CROSS JOIN LATERAL (
        SELECT s.detail::jsonb AS said, k.indicator = ANY($4::text[]) AS told
    ) AS read
    WHERE (told OR s.value IS NOT NULL AND s.taken_back IS NOT TRUE)
        AND (NOT $6::bool OR s.next_revision IS NULL)
    ORDER BY s.series_id, s.observed_at, s.partner_id, s.revision
"""


async def export(
    connection: Connection,
    series: Collection[SeriesId],
    file: Path,
    *,
    before: datetime,
    known: datetime,
    events: Collection[str],
    only_newest: bool = False,
) -> None:
    """Writes every revision of these series as CSV, oldest first, in the columns of a backtest.

    One statement, so one instant of the database; no more than a block of the answer is held.

    Args:
        connection: an open transaction.
        series: which.
        file: is written anew.
        before: what was observed then or later is left out.
        known: what was received later is left out.
        events: the codes of events; their values are severities.
        only_newest: of each partner's observation the newest revision alone, and no
            ``available_at``: as if it had been published when the catalogue says.
    """
    await driver(connection).copy_from_query(
        _EXPORT,
        list(series),
        before,
        known,
        list(events),
        [severity.name for severity in sorted(Severity)],
        only_newest,
        output=file,
        format="csv",
        header=True,
    )
