"""How series and what they are about stand: what is read before anything is judged, in one statement."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from alerts.mechanisms import Scope
from alerts.signals import SeriesId
from app.database import Transaction, driver
from app.store.series import OF_SERIES, SCOPE_VERSIONS, STATE, SeriesState, instant

_NEVER = -(2**63)


class Standing(NamedTuple):
    """The states of series, the versions of all scopes' lanes, in order, and the scopes of which no alert
    is open, with up to when the last one was, if any ever was. All of one moment.
    """

    states: dict[SeriesId, SeriesState]
    versions: Sequence[int]
    quiet: dict[Scope, datetime | None]


async def standing(
    connection: Transaction, series: Sequence[SeriesId], scopes: Collection[Scope]
) -> Standing:
    """How at least one series stands, and those scopes. Call with the lanes of the series locked."""
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
    return Standing(states, (), {})  # The first series is none.


# Of each scope asked by itself: joined, the planner might read every alert there is.
_ENDS = f"""
    ARRAY(
        SELECT CASE WHEN NOT EXISTS (
                SELECT FROM alerts AS a
                WHERE a.state = 'open' AND {" AND ".join(f"a.{n} = w.{n}" for n in Scope._fields)})
            THEN coalesce((
                SELECT CAST(extract(epoch FROM e.ended_at) * 1000000 AS bigint) FROM alert_ends AS e
                WHERE {" AND ".join(f"e.{n} = w.{n}" for n in Scope._fields)}), {_NEVER}) END
        FROM unnest({", ".join(f"${n}::text[]" for n in range(2, 2 + len(Scope._fields)))})
            WITH ORDINALITY AS w ({", ".join(Scope._fields)}, nth)
        ORDER BY nth)
"""
_ONCE = "CASE WHEN series_id = ($1::bigint[])[1] THEN {} END"
_STANDING = f"SELECT {_ONCE.format(SCOPE_VERSIONS)}, {_ONCE.format(_ENDS)}, {STATE} {OF_SERIES}"
