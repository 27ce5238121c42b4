"""What must be held and known before transitions are written: lanes, numbers, listeners, limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from alerts import overflow
from alerts.mechanisms import Scope
from alerts.routing import Listener
from app.database import Transaction, fetch
from app.store import series, subscriptions


class Prepared(NamedTuple):
    """What transitions are written with.

    ``held`` are the versions of the lanes that were taken, by lane; ``numbers`` those for new references, by
    prefix; ``alerts`` and ``transitions`` ids of rows; ``listeners`` who is owed what they ask for.
    """

    held: dict[int, int]
    numbers: dict[str, range]
    alerts: list[int]
    transitions: list[int]
    listeners: tuple[Listener, ...]


NOTHING_PREPARED = Prepared({}, {}, [], [], ())
"""What is needed where no transition is written."""


async def prepare(
    connection: Transaction,
    scopes: Collection[Scope] = (),
    *,
    prefixes: Collection[str] = (),
    year: int = 0,
    alerts: int = 0,
    transitions: int = 0,
) -> Prepared:
    """Takes the lanes of scopes, and numbers for references of that year, one for each of ``prefixes``,
    gapless and held until commit; and so many row ids for alerts and for transitions, so that rows can name
    each other before writing. One statement.

    Who listens is read where there are transitions, before the lanes are waited for: whoever consents
    meanwhile is not among them.
    """
    lanes = sorted(set(map(series.lane_of_scope, scopes)))
    wanted = sorted(Counter(prefixes).items())
    rows = await fetch(
        connection,
        _PREPARE,
        {
            "lanes": lanes,
            "prefixes": [prefix for prefix, _ in wanted],
            "counts": [count for _, count in wanted],
            "year": year,
            "alerts": alerts,
            "transitions": transitions,
        },
    )
    ((held, last, of_alerts, of_transitions, ids, filters),) = rows
    lasts = zip(wanted, last, strict=True)
    return Prepared(
        dict(zip(lanes, held, strict=True)),
        {prefix: range(end - count + 1, end + 1) for (prefix, count), end in lasts},
        sorted(of_alerts),
        sorted(of_transitions),
        tuple(map(subscriptions.listener, ids or (), filters or ())),
    )


_IDS = ", ".join(
    f"ARRAY(SELECT nextval(pg_get_serial_sequence('{table}', 'id')) "
    f"FROM generate_series(1, CAST(:{table} AS integer)))"
    for table in ("alerts", "transitions")
)
# Numbers are taken after the lanes, by whomever: else two could wait for each other.
_PREPARE = f"""
    WITH held AS ({series.HELD}), numbered AS (
        INSERT INTO alert_numbers AS n (prefix, year, last)
        SELECT w.prefix, CAST(:year AS integer), w.count
        FROM unnest(CAST(:prefixes AS text[]), CAST(:counts AS integer[])) AS w (prefix, count)
        WHERE (SELECT count(*) FROM held) = cardinality(CAST(:lanes AS integer[]))
        ON CONFLICT (prefix, year) DO UPDATE SET last = n.last + excluded.last RETURNING prefix, last
    )
    SELECT ARRAY(SELECT version FROM held ORDER BY lane),
        ARRAY(SELECT last FROM numbered ORDER BY prefix COLLATE "C"), {_IDS},
        listening.*
    FROM (SELECT array_agg(id), array_agg(CAST(filter AS text))
        FROM subscriptions
        WHERE CAST(:transitions AS integer) > 0 AND {subscriptions.IS_LISTENING}) AS listening
"""


async def count_told(connection: Transaction, mechanisms: Collection[str]) -> dict[str, int]:
    """How many alerts of each mechanism are open and told one by one; drills and summaries do not count.

    A statement of its own: whoever has taken a number sees what those before him have opened.
    """
    rows = await fetch(
        connection,
        "SELECT mechanism, count(*) FROM alerts WHERE mechanism = ANY(CAST(:mechanisms AS text[])) "
        "AND state = 'open' AND exercise = '' AND good <> :summary AND NOT folded GROUP BY mechanism",
        {"mechanisms": list(mechanisms), "summary": overflow.SUMMARY},
    )
    return {row[0]: row[1] for row in rows}
