"""Calm signals: their series are moved on without anything having been read before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from alerts.signals import SeriesId
from app.database import Driver
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
_ADVANCE = f"""
    WITH moved AS (
        UPDATE series_state AS s SET version = s.version + 1, last_observed_at = m.at, last_valued_at = m.at,
            last_value = m.value, observations = s.observations + m.gained, last_received_at = $7,
            ring = substring(s.ring || m.slots FROM greatest(
                length(s.ring) + length(m.slots) - {RING_BYTES - 1}, 1))
        FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::float8[], $5::int[], $6::bytea[])
            AS m (series_id, version, at, value, gained, slots)
        WHERE s.series_id = m.series_id AND s.version = m.version
            AND coalesce(s.last_observed_at < m.at, true)
            AND (SELECT true FROM findings AS f WHERE f.series_id = s.series_id LIMIT 1) IS NULL
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM moved), {SCOPE_VERSIONS}
"""


async def advance(
    connection: Driver, advances: Sequence[Advance], received_at: datetime
) -> tuple[int, Sequence[int]]:
    """Moves series on, whose lanes must be locked.

    ``advances`` by series. Gives how many series were moved: one is not that has another version, or of
    which a finding is remembered. And the versions of the scopes' lanes, in order. The caller rolls back
    when either is not as it thought.
    """
    found = await connection.fetchrow(_ADVANCE, *zip(*advances, strict=True), received_at)
    assert found is not None
    return found[0], found[1]
