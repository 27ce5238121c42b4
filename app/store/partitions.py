"""The months of ``signals``: a partition for each that is worth one; what is left lies in the default.

Making and taking away a partition locks out whoever reads all of ``signals``, for milliseconds once the
lock is had. It is waited for in steps of a tenth of a second, so that nobody waits behind it for
longer: while a dump or an export reads, nothing is made, and it is tried again later.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from alerts.retention import month_after, month_of
from app.database import Connection, statement

WORTH_A_PARTITION = 10_000
"""A month of the past with so many signals in the default gets a partition: a statement that looks
everywhere takes some 50 µs longer for each there is, and 10,000 rows are nothing to look through.
"""

MOST_PARTITIONS = 400
"""Beyond so many no month of the past gets one: each is two locks for whoever reads them all."""

_LOCK = 4_706_301_218_002
_LOCK_TIMEOUT_MS = 100
_LOCK_TRIES = 3
_LOCK_PAUSE_SECONDS = 0.1

_DEFAULT = "signals_default"
_TAKEN_OUT = "Taken out by the retention policy, to be dropped."
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class Partition(NamedTuple):
    """A partition of one month, from its first instant; ``month`` None is the default."""

    name: str
    month: datetime | None


class Heap(NamedTuple):
    """How many signals of one month lie in the default; counted up to a limit."""

    month: datetime
    signals: int


async def partitions(connection: Connection) -> list[Partition]:
    """The months by their order, the default last. One query of the catalogue."""
    rows = await connection.execute(
        statement(
            "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid "
            "WHERE inhparent = 'signals'::regclass"
        )
    )
    found = [Partition(str(row[0]), _month_in(str(row[0]))) for row in rows]
    return sorted(found, key=lambda p: (p.month is None, p.month, p.name))


async def missing_months(
    connection: Connection, now: datetime, *, ahead: int = 2
) -> list[datetime]:
    """Which of this month and the next ``ahead`` have no partition."""
    there = {p.month for p in await partitions(connection)}
    months = [month_after(month_of(now), number) for number in range(ahead + 1)]
    return [month for month in months if month not in there]


async def heaps(connection: Connection, most: int = WORTH_A_PARTITION) -> list[Heap]:
    """What lies in the default, month by month, the oldest first; counts each up to ``most``.

    Reads an index, a few pages for each month, in two queries each.
    """
    found: list[Heap] = []
    begin = _BEGINNING
    while True:
        # Not one recursive statement: where tables are spread over machines there is none.
        oldest = await connection.scalar(
            statement("SELECT min(observed_at) FROM signals_default WHERE observed_at >= :begin"),
            {"begin": begin},
        )
        if oldest is None:
            return found
        month, begin = month_of(oldest), month_after(oldest, 1)
        signals = await connection.scalar(
            statement(
                "SELECT count(*) FROM (SELECT 1 FROM signals_default "
                "WHERE observed_at >= :month AND observed_at < :end LIMIT :most) AS few"
            ),
            {"month": month, "end": begin, "most": most},
        )
        found.append(Heap(month, signals or 0))


async def insertions(connection: Connection, name: str = _DEFAULT) -> int:
    """A count that rises when a partition is written to, some seconds later; from 0 after a crash."""
    found = await connection.execute(
        statement("SELECT pg_stat_get_tuples_inserted(CAST(CAST(:name AS text) AS regclass))"),
        {"name": name},
    )
    return int(found.scalar_one())


async def open_month(connection: Connection, month: datetime) -> int | None:
    """Gives a month its partition, and moves there what the default holds of it.

    In one transaction, so that whoever reads sees every signal, before and after. While rows move
    nobody waits; at the end those wait who write or read the default, for one reading of it from end
    to end, about 0.2 s a million rows. An INSERT that is on its way there meanwhile is refused by
    PostgreSQL and must be tried again (``store.signals.MonthOpened``).

    Returns:
        How many rows moved; None when another process is at it, or the partition is there.

    Raises:
        DatabaseAway: by the transaction; somebody reads for longer than this waits.
    """
    if not await _alone(connection) or await _exists(connection, _name(month)):
        return None
    name, (begin, end) = _name(month), _bounds(month)
    inside = f"observed_at >= {begin} AND observed_at < {end}"
    await _lock_out(connection, _DEFAULT, hold=False)
    await _run(connection, f"CREATE TABLE {name} (LIKE signals INCLUDING DEFAULTS) {_STORAGE}")
    await _run(connection, f"ALTER TABLE {name} ADD CONSTRAINT {name}_month CHECK ({inside})")
    moved = await _move(connection, name, inside)
    await _run(
        connection,
        f"ALTER TABLE {name} ADD PRIMARY KEY (series_id, observed_at, partner_id, revision) "
        "INCLUDE (value)",
    )
    await _lock_out(connection, _DEFAULT, hold=True)
    moved += await _move(connection, name, inside)
    await _run(
        connection,
        f"ALTER TABLE signals ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({end})",
    )
    await _run(connection, f"ALTER TABLE {name} DROP CONSTRAINT {name}_month")
    return moved


async def detach(connection: Connection, partition: Partition) -> bool:
    """Takes a month out of ``signals``: its table stands by itself then, and nobody writes to it.

    Not CONCURRENTLY, which PostgreSQL refuses beside a default partition; with the lock it takes
    milliseconds. False when another process is at it.

    Raises:
        DatabaseAway: by the transaction; somebody reads for longer than this waits.
    """
    if not await _alone(connection):
        return False
    await _lock_out(connection, "signals", hold=True)
    await _run(connection, f"ALTER TABLE signals DETACH PARTITION {partition.name}")
    await _run(connection, f"COMMENT ON TABLE {partition.name} IS '{_TAKEN_OUT}'")
    return True


async def detached(connection: Connection) -> list[Partition]:
    """Months that ``detach`` took out and that are not dropped yet, because a process died in between.

    Not those that somebody took out by hand, to keep them elsewhere.
    """
    rows = await connection.execute(
        statement(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND NOT relispartition "
            "AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'signals'::regclass) "
            r"AND relname ~ '^signals_\d{4}_\d{2}$' "
            "AND obj_description(oid, 'pg_class') = :taken_out ORDER BY relname"
        ),
        {"taken_out": _TAKEN_OUT},
    )
    return [Partition(str(row[0]), _month_in(str(row[0]))) for row in rows]


async def drop(connection: Connection, partition: Partition) -> None:
    """Drops a month that was taken out before."""
    await _run(connection, f"DROP TABLE {partition.name}")


_STORAGE = "WITH (autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.05)"


async def _alone(connection: Connection) -> bool:
    found = await connection.execute(
        statement("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}
    )
    return bool(found.scalar_one())


async def _exists(connection: Connection, name: str) -> bool:
    found = await connection.execute(
        statement("SELECT to_regclass(:name) IS NOT NULL"), {"name": name}
    )
    return bool(found.scalar_one())


async def _lock_out(connection: Connection, table: str, *, hold: bool) -> None:
    """Locks a table for itself, without letting others wait behind it for long.

    Unless ``hold`` it only shows that this is possible, before much is done that hangs on it.
    """
    await _run(connection, f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_MS}ms'")
    for left in reversed(range(_LOCK_TRIES)):
        attempt = await connection.begin_nested()
        try:
            # Of a partitioned table itself alone: its partitions are locked as far as they must be.
            await _run(connection, f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")
        except sa.exc.DBAPIError:
            await attempt.rollback()
            if not left:
                raise
            await asyncio.sleep(_LOCK_PAUSE_SECONDS)
            continue
        await (attempt.commit() if hold else attempt.rollback())
        return


async def _move(connection: Connection, name: str, inside: str) -> int:
    done = await connection.exec_driver_sql(
        f"WITH moved AS (DELETE FROM {_DEFAULT} WHERE {inside} RETURNING *) "
        f"INSERT INTO {name} SELECT * FROM moved"
    )
    return int(done.rowcount)


async def _run(connection: Connection, sql: str) -> None:
    """DDL: identifiers and bounds cannot be parameters; here they are made of numbers."""
    await connection.exec_driver_sql(sql)


def _name(month: datetime) -> str:
    return f"signals_{month:%Y_%m}"


def _bounds(month: datetime) -> tuple[str, str]:
    return f"'{month:%Y-%m-%d}+00'", f"'{month_after(month, 1):%Y-%m-%d}+00'"


def _month_in(name: str) -> datetime | None:
    year, _, number = name.removeprefix("signals_").partition("_")
    if not (year.isdigit() and number.isdigit()):
        return None
    return datetime(int(year), int(number), 1, tzinfo=UTC)
