"""Recovers a range of a subscription's deliveries: a job in the database, worked on bit by bit.

Each step is a transaction that owes some again and notes how far it has come, so that a job survives
whatever happens to whoever works on it, and goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from alerts.routing import SubscriptionId
from app import store
from app.database import Connection, Database
from app.store.recoveries import Recovery

FARTHEST_BACK = timedelta(days=30)
MOST_RECOVERED = 10_000
STEP = 100
_STEPS_AT_A_TIME = 20


class TooMany(Exception):
    """More deliveries than one job may owe again."""


class Nothing(Exception):
    """No delivery is in that range and in such a state."""


async def start(
    connection: Connection,
    subscription_id: SubscriptionId,
    states: Sequence[str],
    *,
    since: datetime,
    until: datetime,
    after: int,
    by: str,
    now: datetime,
) -> tuple[Recovery, int]:
    """Writes a job down; gives it and how many deliveries it will owe again. Must be locked.

    Raises:
        Nothing: there is none.
        TooMany: there are more than ``MOST_RECOVERED``.
    """
    reached = await store.recoveries.reach(
        connection,
        subscription_id,
        states,
        since=since,
        until=until,
        after=after,
        limit=MOST_RECOVERED + 1,
    )
    if reached is None:
        raise Nothing
    if reached.count > MOST_RECOVERED:
        raise TooMany
    job = await store.recoveries.add(connection, subscription_id, reached, states, by, now)
    return job, reached.count


async def work(database: Database, now: datetime, *, per_second: float) -> int:
    """Goes on with every job there is; how many deliveries were owed again."""
    async with database.begin() as connection:
        waiting = await store.recoveries.open_for(connection)
    total = 0
    for subscription_id in waiting:
        for _ in range(_STEPS_AT_A_TIME):
            async with database.begin() as connection:
                count = await step(connection, subscription_id, now, per_second=per_second)
            if count is None:
                break
            total += count
    return total


async def step(
    connection: Connection, subscription_id: SubscriptionId, now: datetime, *, per_second: float
) -> int | None:
    """Owes the next deliveries of the oldest job again; how many, None when there is no job.

    The n-th delivery of a job is due n / ``per_second`` after the job began.
    """
    held = await store.subscriptions.find(connection, subscription_id, lock=True)
    job = await store.recoveries.oldest_open(connection, subscription_id)
    if job is None:
        return None
    found = await store.recoveries.next_of(connection, job, STEP) if held else []
    if not found:
        await store.recoveries.finish(connection, job, now)
        return 0
    every = timedelta(seconds=1 / per_second)
    begins = max(now, job.created_at + job.redelivered * every)
    ids = [id for id, _ in found]
    count = await store.deliveries.redeliver(
        connection, subscription_id, ids, now, begins=begins, every=every
    )
    await store.recoveries.move_on(connection, job, found[-1][1] + 1, count)
    return count
