"""The months of ``signals``: a partition for each, made ahead; old back-fills go to the default."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from app.database import Connection

_LOCK = 4_706_301_218_002


async def ensure_months(connection: Connection, now: datetime, *, ahead: int = 2) -> list[str]:
    """Makes the partitions of this month and of the next ``ahead``; returns the names of the new.

    A month whose signals already lie in the default partition (a partner's clock ran ahead) keeps
    them there: PostgreSQL cannot make its partition any more, and nothing is lost by that.
    Two processes at once wait for each other.
    """
    await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    made = []
    for number in range(ahead + 1):
        start, end = _month(now, number), _month(now, number + 1)
        name = f"signals_{start:%Y_%m}"
        if await _stands_or_cannot(connection, name, start, end):
            continue
        # Identifiers and bounds cannot be parameters of DDL; both are made of numbers here.
        await connection.exec_driver_sql(
            f"CREATE TABLE {name} PARTITION OF signals "
            f"FOR VALUES FROM ('{start:%Y-%m-%d}+00') TO ('{end:%Y-%m-%d}+00') "
            "WITH (autovacuum_vacuum_insert_threshold = 10000, "
            "autovacuum_vacuum_insert_scale_factor = 0.05)"
        )
        made.append(name)
    return made


async def _stands_or_cannot(
    connection: Connection, name: str, start: datetime, end: datetime
) -> bool:
    found = await connection.execute(
        sa.text(
            "SELECT to_regclass(:name) IS NOT NULL OR EXISTS ("
            "SELECT 1 FROM signals_default WHERE observed_at >= :start AND observed_at < :end)"
        ),
        {"name": name, "start": start, "end": end},
    )
    return bool(found.scalar_one())


def _month(now: datetime, ahead: int) -> datetime:
    months = now.year * 12 + now.month - 1 + ahead
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
