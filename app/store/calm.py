"""Calm signals: their series are moved on without anything having been read before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from alerts.signals import SeriesId
from app.database import Driver, fetch
from app.store import signals
from app.store.series import RING_BYTES, SCOPE_VERSIONS, as_instant


class Advances(NamedTuple):
    """How series move on, a column each, by series: from these versions to their newest samples, of instants
    in microseconds after 1970; by so many samples, in these slots. Without ``gained``, by one each.
    """

    series: Sequence[SeriesId]
    version: Sequence[int]
    at: Sequence[int]
    newest: Sequence[float]
    slots: Sequence[bytes]
    gained: Sequence[int] = ()


# Of findings is asked row by row: joined, the planner might read every finding there is. Where not all series
# are moved, what is to be stored may be stored already, and be no fault.
_ADVANCE = f"""
    WITH given AS (
        SELECT series_id, version, {as_instant("at")} AS observed_at, value,
            coalesce(gained, 1) AS gained, slots{{columns}}
        FROM unnest(CAST(:series AS bigint[]), CAST(:version AS bigint[]), CAST(:at AS bigint[]),
            CAST(:newest AS float8[]), CAST(:gained AS int[]), CAST(:slots AS bytea[]){{arrays}})
            AS given (series_id, version, at, value, gained, slots{{columns}})
    ), moved AS (
        UPDATE series_state AS s SET version = s.version + 1, last_observed_at = m.observed_at,
            last_valued_at = m.observed_at, last_value = m.value, observations = s.observations + m.gained,
            last_received_at = :received_at, ring = substring(s.ring || m.slots FROM greatest(
                length(s.ring) + length(m.slots) - {RING_BYTES - 1}, 1))
        FROM given AS m
        WHERE s.series_id = m.series_id AND s.version = m.version
            AND coalesce(s.last_observed_at < m.observed_at, true)
            AND (SELECT true FROM findings AS f WHERE f.series_id = s.series_id LIMIT 1) IS NULL
        RETURNING 1
    ), stored AS (
        {{insert}} WHERE (SELECT count(*) FROM moved) = (SELECT count(*) FROM given)
    )
    SELECT (SELECT count(*) FROM moved), {SCOPE_VERSIONS}
"""
# Nearly always each series has one row, whose values need not be sent twice.
_ONE_EACH = _ADVANCE.format(
    columns=", partner_id, revision, detail",
    arrays=f", {signals.ALIKE}",
    insert=signals.INSERT_FROM.format(given="given"),
)
_SEVERAL = _ADVANCE.format(columns="", arrays="", insert=signals.INSERT)


async def advance(
    connection: Driver, advances: Advances, rows: Sequence[signals.Row]
) -> tuple[int, Sequence[int]]:
    """Moves series on, whose lanes must be locked, and if all are moved stores ``rows``, which are what they
    are moved by. Call it while ``heeding_months``.

    Both are by series. Gives how many series were moved: one is not that has another version, or of which a
    finding is remembered. And the versions of the scopes' lanes, in order. The caller rolls back when either
    is not as it thought.
    """
    if advances.gained:
        sql, of_rows = _SEVERAL, signals.parameters(rows)
    else:
        sql, of_rows = _ONE_EACH, signals.alike(rows)
    ((count, versions),) = await fetch(connection, sql, {**of_rows, **advances._asdict()})
    return count, versions
