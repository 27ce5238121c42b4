"""How the database itself does: sizes, settings, standbys, vacuum. Reads only, also on a standby.

Numbers of rows are PostgreSQL's estimates, as of the last time it looked (ANALYZE, VACUUM); None until
then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.database import Connection, statement


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table with its indexes; of a partitioned one all partitions together."""

    name: str
    rows: int | None
    table_bytes: int
    index_bytes: int


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby that follows this server; ``behind_*`` None when it has nothing to say yet."""

    name: str
    state: str
    sync: str
    behind_bytes: int | None
    behind_seconds: float | None


@dataclass(frozen=True, slots=True)
class Server:
    """The server that answers. On a standby ``behind_seconds`` is how old what it shows is."""

    version: str
    is_standby: bool
    behind_seconds: float | None
    database_bytes: int
    connections: int
    most_connections: int
    standbys: tuple[Standby, ...]
    settings: dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Health:
    """How one table is swept. ``visible`` is the part of its pages that index-only reads need not visit."""

    name: str
    rows: int
    dead: int
    pages: int
    visible: float | None
    swept_at: datetime | None
    analysed_at: datetime | None
    freeze_age: int
    freeze_limit: int


@dataclass(frozen=True, slots=True)
class IndexSize:
    """An index, and what it would have built anew, by the widths of its columns; about right."""

    name: str
    table: str
    index_bytes: int
    packed_bytes: int


async def server(connection: Connection, settings: Sequence[str]) -> Server:
    """The server, and those of these settings that it knows, each with its unit."""
    row = (
        await connection.execute(
            statement(
                "SELECT current_setting('server_version'), pg_is_in_recovery(), "
                "extract(epoch FROM now() - pg_last_xact_replay_timestamp()), "
                "pg_database_size(current_database()), "
                "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
                "CAST(current_setting('max_connections') AS int)"
            )
        )
    ).one()
    followers = await connection.execute(
        statement(
            "SELECT application_name, state, sync_state, CASE WHEN NOT pg_is_in_recovery() THEN "
            "pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) END, extract(epoch FROM replay_lag) "
            "FROM pg_stat_replication ORDER BY application_name"
        )
    )
    known = await connection.execute(
        statement(
            "SELECT name, setting, coalesce(unit, '') FROM pg_settings "
            "WHERE name = ANY(CAST(:names AS text[]))"
        ),
        {"names": list(settings)},
    )
    return Server(
        version=row[0],
        is_standby=row[1],
        behind_seconds=_number(row[2]) if row[1] else None,
        database_bytes=row[3],
        connections=row[4],
        most_connections=row[5],
        standbys=tuple(
            Standby(
                r[0], r[1] or "", r[2] or "", None if r[3] is None else int(r[3]), _number(r[4])
            )
            for r in followers
        ),
        settings={r[0]: (r[1], r[2]) for r in known},
    )


async def sizes(connection: Connection) -> list[TableSize]:
    """Every table, the largest first."""
    rows = await connection.execute(
        statement(
            "SELECT coalesce(p.relname, c.relname), "
            "CASE WHEN bool_or(c.reltuples >= 0) THEN sum(greatest(c.reltuples, 0)) END, "
            "sum(pg_table_size(c.oid)), sum(pg_indexes_size(c.oid)) FROM pg_class AS c "
            "LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid "
            "LEFT JOIN pg_class AS p ON p.oid = i.inhparent "
            "WHERE c.relkind = 'r' AND c.relnamespace = CAST('public' AS regnamespace) "
            "GROUP BY 1 ORDER BY sum(pg_total_relation_size(c.oid)) DESC, 1"
        )
    )
    return [
        TableSize(r[0], None if r[1] is None else int(r[1]), int(r[2]), int(r[3])) for r in rows
    ]


async def partition_sizes(connection: Connection) -> dict[str, TableSize]:
    """The partitions of ``signals`` by name."""
    rows = await connection.execute(
        statement(
            "SELECT relname, CASE WHEN reltuples >= 0 THEN reltuples END, pg_table_size(oid), "
            "pg_indexes_size(oid) FROM pg_inherits JOIN pg_class ON oid = inhrelid "
            "WHERE inhparent = CAST('signals' AS regclass)"
        )
    )
    return {
        r[0]: TableSize(r[0], None if r[1] is None else int(r[1]), int(r[2]), int(r[3]))
        for r in rows
    }


async def open_alerts(connection: Connection) -> int:
    """How many alerts are open, counted."""
    found = await connection.execute(statement("SELECT count(*) FROM alerts WHERE state = 'open'"))
    return int(found.scalar_one())


async def health(connection: Connection) -> list[Health]:
    """How every table is swept, the fullest of dead rows first."""
    rows = await connection.execute(
        statement(
            "SELECT s.relname, greatest(n_live_tup, CAST(reltuples AS bigint), 0), n_dead_tup, "
            "CAST(pg_relation_size(c.oid) / CAST(current_setting('block_size') AS int) AS int), "
            "CASE WHEN relpages > 0 THEN least(CAST(relallvisible AS float8) "
            "/ greatest(1, pg_relation_size(c.oid) / CAST(current_setting('block_size') AS int)), 1) "
            "END, greatest(last_vacuum, last_autovacuum), greatest(last_analyze, last_autoanalyze), "
            "age(relfrozenxid), CAST(current_setting('autovacuum_freeze_max_age') AS int) "
            "FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid "
            "WHERE c.relkind = 'r' AND s.schemaname = 'public' ORDER BY n_dead_tup DESC, s.relname"
        )
    )
    return [Health(*row) for row in rows]


async def indexes(connection: Connection, at_least_bytes: int) -> list[IndexSize]:
    """The b-trees of at least that size, with what they would have built anew.

    A row of one takes 12 bytes and its columns, rounded up to eight; a tenth of a page stays free.
    """
    rows = await connection.execute(
        statement(
            "SELECT i.relname, t.relname, pg_relation_size(i.oid), CAST(greatest(t.reltuples, 0) * "
            "(12 + 8 * ceil(sum(coalesce(w.avg_width, 8)) / 8.0)) / 0.9 AS bigint) "
            "FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid "
            "JOIN pg_class AS t ON t.oid = x.indrelid JOIN pg_am AS m ON m.oid = i.relam "
            "JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = ANY(x.indkey) "
            "LEFT JOIN pg_stats AS w ON w.schemaname = 'public' AND w.tablename = t.relname "
            "AND w.attname = a.attname "
            "WHERE m.amname = 'btree' AND i.relkind = 'i' AND x.indpred IS NULL "
            "AND t.relnamespace = CAST('public' AS regnamespace) "
            "AND pg_relation_size(i.oid) >= :least GROUP BY i.oid, i.relname, t.relname, t.reltuples "
            "ORDER BY pg_relation_size(i.oid) DESC"
        ),
        {"least": at_least_bytes},
    )
    return [IndexSize(*row) for row in rows]


async def skip_numbers(connection: Connection, by: int) -> tuple[int, int]:
    """Leaves out numbers that may have been given already by a service of which this is a copy.

    Of the events of each subscription, and of the references of alerts. Returns how many
    subscriptions and series of references there are.
    """
    moved = await connection.execute(
        statement("UPDATE subscriptions SET last_sequence = last_sequence + :by"), {"by": by}
    )
    numbers = await connection.execute(
        statement("UPDATE alert_numbers SET last = last + :by"), {"by": by}
    )
    return int(moved.rowcount), int(numbers.rowcount)


def _number(found: Any) -> float | None:
    return None if found is None else float(found)
