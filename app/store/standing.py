"""How series and what they are about stand: what is read before anything is judged, in one statement."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from alerts.mechanisms import Scope
from alerts.signals import SeriesId
from app.database import Transaction, driver
from app.store.series import SCOPE_VERSIONS, STATE, SeriesState, instant

_NEVER = -(2**63)


class Standing(NamedTuple):
    """The states of series, the versions of all scopes' lanes, in order, and the scopes of which no alert
    is open, with up to when the last one was, if any ever was. All of one moment.
    """

    states: dict[SeriesId, SeriesState]
    versions: Sequence[int]
    quiet: dict[Scope, datetime | None]


async def read(
    connection: Transaction, series: Sequence[SeriesId], scopes: Collection[Scope]
) -> Standing:
    """Of at least one series, whose lanes must be locked, and of any number of scopes.

    A series that is none has no state; where the first one is none, nothing else is known either.
    """
    columns = list(map(list, zip(*scopes, strict=True))) or [[]] * len(Scope._fields)
    rows = await driver(connection).fetch(_STANDING, series, *columns)
    states = {row[2]: SeriesState(*row[2:]) for row in rows}
    for versions, ends, *_ in rows:
        if versions is not None:
            quiet = {
                scope: None if end == _NEVER else instant(end)
                for scope, end in zip(scopes, ends, strict=True)
                if end is not None
            }
            return Standing(states, versions, quiet)
    return Standing(states, (), {})


_ENDS = f"""
    ARRAY(
        SELECT CASE WHEN a.id IS NULL THEN coalesce(
            CAST(extract(epoch FROM e.ended_at) * 1000000 AS bigint), {_NEVER}) END
        FROM unnest({", ".join(f"${n}::text[]" for n in range(2, 2 + len(Scope._fields)))})
            WITH ORDINALITY AS w ({", ".join(Scope._fields)}, nth)
        LEFT JOIN alerts AS a ON a.state = 'open' AND {" AND ".join(f"a.{n} = w.{n}" for n in Scope._fields)}
        LEFT JOIN alert_ends AS e ON {" AND ".join(f"e.{n} = w.{n}" for n in Scope._fields)}
        ORDER BY nth)
"""
# What is of plain tables is a WITH of its own, which Citus runs first; no series need be sent it twice.
_STANDING = f"""
    WITH at_hand AS MATERIALIZED (SELECT {SCOPE_VERSIONS} AS versions, {_ENDS} AS ends)
    SELECT CASE WHEN series_id = ($1::bigint[])[1] THEN versions END,
        CASE WHEN series_id = ($1::bigint[])[1] THEN ends END, {STATE}
    FROM at_hand, series_state AS s WHERE series_id = ANY($1::bigint[])
"""
