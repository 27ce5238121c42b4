"""Calm signals: their series are moved on without anything having been read before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from alerts.signals import SeriesId
from app.database import Driver, fetch
from app.store import signals
from app.store.series import RING_BYTES, SCOPE_VERSIONS


class Advance(NamedTuple):
    """How a series moves on from ``version``: to its newest sample, by so many more, in these slots."""

    series: SeriesId
    version: int
    at: datetime
    value: float
    gained: int
    slots: bytes


# A subquery that is asked for each row: joined, the planner might read every finding there is.
_MOVED = f"""
    WITH moved AS (
        UPDATE series_state AS s SET version = s.version + 1, last_observed_at = m.at, last_valued_at = m.at,
            last_value = m.value, observations = s.observations + m.gained, last_received_at = :now,
            ring = substring(s.ring || m.slots FROM greatest(
                length(s.ring) + length(m.slots) - {RING_BYTES - 1}, 1))
        FROM unnest(CAST(:series AS bigint[]), CAST(:version AS bigint[]), CAST(:at AS timestamptz[]),
            CAST(:newest AS float8[]), CAST(:gained AS int[]), CAST(:slots AS bytea[]))
            AS m (series_id, version, at, value, gained, slots)
        WHERE s.series_id = m.series_id AND s.version = m.version
            AND coalesce(s.last_observed_at < m.at, true)
            AND (SELECT true FROM findings AS f WHERE f.series_id = s.series_id LIMIT 1) IS NULL
        RETURNING 1
    )
"""
# Where not all are moved, what is to be stored may be stored already, and be no fault.
_ALL_MOVED = "(SELECT count(*) FROM moved) = cardinality(CAST(:series AS bigint[]))"
_STORED = f"stored AS ({signals.INSERT} WHERE {_ALL_MOVED})"
_SAID = f"SELECT (SELECT count(*) FROM moved), {SCOPE_VERSIONS}"
_ADVANCE = f"{_MOVED} {_SAID}"
_ADVANCE_AND_STORE = f"{_MOVED}, {_STORED} {_SAID}"
_NAMES = ("series", "version", "at", "newest", "gained", "slots")


async def advance(
    connection: Driver,
    advances: Sequence[Advance],
    received_at: datetime,
    rows: Sequence[signals.Row] = (),
) -> tuple[int, Sequence[int]]:
    """Moves series on, whose lanes must be locked, and stores ``rows`` if all are moved: call it while
    ``heeding_months``.

    ``advances`` by series. Gives how many series were moved: one is not that has another version, or of
    which a finding is remembered. And the versions of the scopes' lanes, in order. The caller rolls back
    when either is not as it thought.
    """
    given = dict(zip(_NAMES, map(list, zip(*advances, strict=True)), strict=True))
    more = signals.arrays(rows) if rows else {}
    sql = _ADVANCE_AND_STORE if rows else _ADVANCE
    ((count, versions),) = await fetch(connection, sql, {**given, **more, "now": received_at})
    return count, versions
