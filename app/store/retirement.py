"""Signals that are kept no longer: found, taken away, noted. What goes is decided elsewhere.

An observation of a partner goes with all its revisions as soon as one of them may go: were only the
newest taken away, an older one would count again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from app.database import Connection, statement
from app.store.partitions import Partition

Kind = tuple[str, str]
"""A sector and a sharing label, empty for signals that carry none."""


class Note(NamedTuple):
    """What has gone of one month, sector and label. ``is_whole``: nothing of it was held back.

    ``insertions``: of its partition when it was looked through; None of one that is there no longer.
    """

    signals: int
    is_whole: bool
    retired_at: datetime
    insertions: int | None


async def sectors(connection: Connection) -> list[str]:
    """The sectors of which anything was ever reported."""
    rows = await connection.execute(statement("SELECT DISTINCT sector FROM series ORDER BY sector"))
    return [str(row[0]) for row in rows]


async def held(connection: Connection) -> list[int]:
    """The series that are held: those that feed an open alert, or of which a finding is not calm.

    They are judged again from their beginning when their past changes, and a warning must not
    fall because its reasons were thrown away.
    """
    rows = await connection.execute(
        statement(
            "SELECT series_id FROM alert_signals JOIN alerts ON id = alert_id WHERE state = 'open' "
            "UNION SELECT series_id FROM findings WHERE onset IS NOT NULL OR alert_id IN ("
            "SELECT id FROM alerts WHERE state = 'open') ORDER BY 1"
        )
    )
    return [int(row[0]) for row in rows]


async def notes(connection: Connection) -> dict[tuple[datetime, Kind], Note]:
    """Everything that has gone, by month, sector and label."""
    rows = await connection.execute(
        statement("SELECT month, sector, tlp, signals, whole, retired_at, insertions FROM retired")
    )
    return {(r[0], (r[1], r[2])): Note(*r[3:]) for r in rows}


async def note(
    connection: Connection,
    month: datetime,
    gone: Mapping[Kind, int],
    now: datetime,
    *,
    is_whole: bool,
    insertions: int | None = None,
) -> None:
    """Notes what has gone of a month, if anything may; adds to what had gone of it before."""
    kinds = sorted(gone)
    await connection.execute(
        statement(
            "INSERT INTO retired (month, sector, tlp, signals, whole, retired_at, insertions) "
            "SELECT CAST(:month AS timestamptz), k.*, CAST(:whole AS boolean), "
            "CAST(:now AS timestamptz), CAST(:insertions AS bigint) "
            "FROM unnest(CAST(:sectors AS text[]), CAST(:labels AS text[]), "
            "CAST(:counts AS bigint[])) AS k ON CONFLICT (month, sector, tlp) DO UPDATE SET "
            "signals = retired.signals + excluded.signals, whole = excluded.whole, "
            "retired_at = excluded.retired_at, insertions = excluded.insertions"
        ),
        {
            "month": month,
            "whole": is_whole,
            "now": now,
            "insertions": insertions,
            "sectors": [sector for sector, _ in kinds],
            "labels": [label for _, label in kinds],
            "counts": [gone[kind] for kind in kinds],
        },
    )


async def retired_before(connection: Connection, sector: str) -> datetime | None:
    """Up to when something of a sector has gone; None when nothing has."""
    found = await connection.execute(
        statement(
            "SELECT max(month) + interval '1 month' FROM retired WHERE sector = :sector AND signals > 0"
        ),
        {"sector": sector},
    )
    at: datetime | None = found.scalar_one()
    return at


_LABEL = "coalesce(CAST(s.detail AS jsonb) ->> 'tlp', '')"
_EXPIRED = "unnest(CAST(:sectors AS text[]), CAST(:labels AS text[])) AS expired (sector, label)"
_STAYS = (
    "FROM {table} AS s JOIN series USING (series_id) LEFT JOIN " + _EXPIRED + " "
    "ON expired.sector = series.sector AND expired.label = " + _LABEL + " "
    "WHERE expired.sector IS NULL OR s.series_id = ANY(CAST(:held AS bigint[]))"
)


async def holds(connection: Connection, partition: Partition, held: Collection[int]) -> bool:
    """Whether a partition has signals of series that are held. By the primary key."""
    found = await connection.execute(
        statement(
            "SELECT EXISTS (SELECT 1 FROM series_state AS h WHERE h.series_id = ANY(CAST(:held AS bigint[])) "
            f"AND EXISTS (SELECT 1 FROM {partition.name} AS s WHERE s.series_id = h.series_id))"
        ),
        {"held": list(held)},
    )
    return bool(found.scalar_one())


async def stays(
    connection: Connection, partition: Partition, kinds: Sequence[Kind], held: Collection[int]
) -> bool:
    """Whether anything in a partition may not go: another kind, or of a series that is held.

    Ends at the first; where there is none it has read everything.
    """
    found = await connection.execute(
        statement(f"SELECT EXISTS (SELECT 1 {_STAYS.format(table=partition.name)})"),
        _parameters(kinds, held),
    )
    return bool(found.scalar_one())


async def put_back(
    connection: Connection, partition: Partition, kinds: Sequence[Kind], held: Collection[int]
) -> None:
    """Puts what may not go of a month that was taken out back where it belongs."""
    await connection.execute(
        statement(
            f"INSERT INTO signals SELECT s.* {_STAYS.format(table=partition.name)} "
            "ON CONFLICT DO NOTHING"
        ),
        _parameters(kinds, held),
    )


async def count(
    connection: Connection, partition: Partition, kinds: Sequence[Kind], held: Collection[int]
) -> dict[Kind, int]:
    """How many signals of a partition may go, by sector and label. Reads it whole."""
    rows = await connection.execute(
        statement(
            f"SELECT expired.sector, expired.label, count(*) FROM {partition.name} AS s "
            f"JOIN series USING (series_id) JOIN {_EXPIRED} ON expired.sector = series.sector "
            f"AND expired.label = {_LABEL} WHERE s.series_id <> ALL(CAST(:held AS bigint[])) "
            "GROUP BY 1, 2"
        ),
        _parameters(kinds, held),
    )
    return {(str(r[0]), str(r[1])): int(r[2]) for r in rows}


async def pages(connection: Connection, partition: Partition) -> int:
    """How many pages a partition has."""
    found = await connection.execute(
        statement(
            "SELECT pg_relation_size(CAST(CAST(:name AS text) AS regclass)) / "
            "CAST(current_setting('block_size') AS int)"
        ),
        {"name": partition.name},
    )
    return int(found.scalar_one())


async def thin(
    connection: Connection,
    partition: Partition,
    month: datetime,
    kinds: Sequence[Kind],
    held: Collection[int],
    *,
    first_page: int | None = None,
    last_page: int | None = None,
) -> dict[Kind, int]:
    """Deletes what goes of a month in some pages of a partition, or in all; says how many of what."""
    span = ""
    if first_page is not None:
        span = f"AND s.ctid >= '({first_page},0)' AND s.ctid < '({last_page},0)' "
    rows = await connection.execute(
        text(
            "WITH gone AS (SELECT DISTINCT s.series_id, s.observed_at, s.partner_id "
            f"FROM {partition.name} AS s JOIN series USING (series_id) JOIN {_EXPIRED} "
            f"ON expired.sector = series.sector AND expired.label = {_LABEL} "
            f"WHERE s.observed_at >= :month AND s.observed_at < :month + interval '1 month' {span}"
            "AND s.series_id <> ALL(CAST(:held AS bigint[]))), "
            f"deleted AS (DELETE FROM {partition.name} AS s USING gone "
            "WHERE s.series_id = gone.series_id AND s.observed_at = gone.observed_at "
            f"AND s.partner_id = gone.partner_id RETURNING s.series_id, {_LABEL} AS label) "
            "SELECT sector, label, count(*) FROM deleted JOIN series USING (series_id) GROUP BY 1, 2"
        ),
        {**_parameters(kinds, held), "month": month},
    )
    return {(str(r[0]), str(r[1])): int(r[2]) for r in rows}


def _parameters(kinds: Sequence[Kind], held: Collection[int]) -> dict[str, object]:
    return {
        "sectors": [sector for sector, _ in kinds],
        "labels": [label for _, label in kinds],
        "held": list(held),
    }
