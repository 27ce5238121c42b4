"""The tables by series, spread over machines by Citus: how they stand, what is in the way, the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import text

from app.database import Connection

BY_SERIES = ("series_state", "signals", "findings", "alert_signals")
"""The tables that grow with what is reported. The first is the one beside which the others are placed."""

EVERYWHERE = "series"
"""Small, read with all of them, and unique by its natural key: every machine has it whole."""

KEY = "series_id"

_TABLES = (EVERYWHERE, *BY_SERIES)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a table is: ``reference`` or ``distributed``, by which column, and beside which others."""

    kind: str
    column: str
    colocation: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How far this database is on the way.

    ``version`` is that of the extension, None where it is not created here; ``is_installed`` says
    whether it could be. ``filled`` are the tables that hold rows, which would be moved.
    """

    is_installed: bool
    version: str | None
    workers: int = 0
    placed: dict[str, Placed] = field(default_factory=dict)
    filled: frozenset[str] = frozenset()

    @property
    def missing(self) -> list[str]:
        """The tables that are not placed yet, in the order in which they are."""
        return [name for name in _TABLES if name not in self.placed]


async def standing(connection: Connection) -> Standing:
    """How far this database is. A handful of queries."""
    row = (
        await connection.execute(
            text(
                "SELECT EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'citus'), "
                "(SELECT extversion FROM pg_extension WHERE extname = 'citus')"
            )
        )
    ).one()
    if row[1] is None:
        return Standing(row[0], None)
    workers = await connection.scalar(
        text("SELECT count(*) FROM pg_dist_node WHERE isactive AND shouldhaveshards")
    )
    placed = await connection.execute(
        text(
            "SELECT table_name::text, citus_table_type, distribution_column, colocation_id "
            "FROM citus_tables WHERE table_name::text = ANY(:tables)"
        ),
        {"tables": list(_TABLES)},
    )
    found = Standing(True, row[1], workers or 0, {r[0]: Placed(*r[1:]) for r in placed})
    filled = [name for name in found.missing if await _is_filled(connection, name)]
    return replace(found, filled=frozenset(filled))


async def _is_filled(connection: Connection, table: str) -> bool:
    return bool(await connection.scalar(text(f"SELECT EXISTS (SELECT 1 FROM {table})")))


async def in_the_way(connection: Connection, placed: dict[str, Placed]) -> list[str]:
    """What keeps the tables from being distributed, as sentences; nothing where the schema is ours.

    The rules of Citus, read from the catalogue: each of the tables by series carries it in all that is
    unique; foreign keys go from them to ``series`` alone, and only from them; no triggers, no rules.
    """
    rows = await connection.execute(
        text(_IN_THE_WAY),
        {"hot": list(BY_SERIES), "reference": EVERYWHERE, "key": KEY},
    )
    found = [str(sentence) for sentence in rows.scalars()]
    beside = placed.get(BY_SERIES[0])
    for name, where in placed.items():
        wanted = "reference" if name == EVERYWHERE else "distributed"
        if where.kind != wanted:
            found.append(f"{name} is a {where.kind} table already, and should be a {wanted} one.")
        elif wanted == "distributed" and where.column != KEY:
            found.append(f"{name} is distributed by {where.column} already, and not by {KEY}.")
        elif wanted == "distributed" and beside and where.colocation != beside.colocation:
            found.append(f"{name} is not placed beside {BY_SERIES[0]}.")
    return found


_IN_THE_WAY = """
WITH hot AS (
    SELECT tree.relid AS oid, tree.relid::regclass::text AS name
    FROM unnest(CAST(:hot AS text[])) AS n CROSS JOIN pg_partition_tree(to_regclass(n)) AS tree
    UNION
    SELECT to_regclass(n), n FROM unnest(CAST(:hot AS text[])) AS n WHERE to_regclass(n) IS NOT NULL
), reference AS (
    SELECT to_regclass(:reference) AS oid, :reference AS name
), place AS (SELECT * FROM hot UNION ALL SELECT * FROM reference)
SELECT n || ' is missing: this is no database of Forewarn at its newest schema.'
FROM unnest(CAST(:hot AS text[]) || CAST(:reference AS text)) AS n WHERE to_regclass(n) IS NULL
UNION ALL
SELECT format('%s is unique on %s without %s.', i.indexrelid::regclass, hot.name, CAST(:key AS text))
FROM hot JOIN pg_index AS i ON i.indrelid = hot.oid
WHERE (i.indisunique OR i.indisexclusion) AND NOT EXISTS (
    SELECT 1 FROM unnest(i.indkey[0:i.indnkeyatts - 1]) AS k
    JOIN pg_attribute AS a ON a.attrelid = hot.oid AND a.attnum = k WHERE a.attname = :key)
UNION ALL
SELECT format('%s has no key.', hot.name) FROM hot
WHERE NOT EXISTS (SELECT 1 FROM pg_index AS i WHERE i.indrelid = hot.oid AND i.indisprimary)
UNION ALL
SELECT format('The foreign key %s leads from %s to %s.', c.conname, c.conrelid::regclass,
    c.confrelid::regclass)
FROM pg_constraint AS c
WHERE c.contype = 'f' AND c.conparentid = 0
    AND (c.conrelid IN (SELECT oid FROM place) OR c.confrelid IN (SELECT oid FROM place))
    AND NOT (c.conrelid IN (SELECT oid FROM hot) AND c.confrelid IN (SELECT oid FROM reference))
UNION ALL
SELECT format('The trigger %s is on %s.', t.tgname, place.name)
FROM place JOIN pg_trigger AS t ON t.tgrelid = place.oid WHERE NOT t.tgisinternal
UNION ALL
SELECT format('The rule %s is on %s.', r.rulename, place.name)
FROM place JOIN pg_rewrite AS r ON r.ev_class = place.oid
"""


def steps(standing: Standing, shards: int) -> list[str]:
    """The statements that place what is not placed yet, in order; all within one transaction.

    ``series`` comes first, since it is looked up from the others. Rows that lay here are moved by
    Citus, which leaves a copy that nobody sees: that is removed.
    """
    missing = standing.missing
    beside = BY_SERIES[0]
    found = []
    if EVERYWHERE in missing:
        found.append(f"SELECT create_reference_table('{EVERYWHERE}')")
    if beside in missing:
        found.append(
            f"SELECT create_distributed_table('{beside}', '{KEY}', colocate_with => 'none', "
            f"shard_count => {shards})"
        )
    found += [
        f"SELECT create_distributed_table('{name}', '{KEY}', colocate_with => '{beside}')"
        for name in BY_SERIES[1:]
        if name in missing
    ]
    found += [
        f"SELECT truncate_local_data_after_distributing_table('{name}')"
        for name in missing
        if name in standing.filled
    ]
    return found


async def take(connection: Connection, steps: Sequence[str]) -> None:
    """Takes these steps; does not commit."""
    for step in steps:
        await connection.exec_driver_sql(step)
