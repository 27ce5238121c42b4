"""A backlog: deliveries that wait for suspended subscriptions, and how fast they go when these resume."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from app import store, subscribe
from app.bench.bed import Bed
from app.bench.lines import BenchFailed
from app.database import Database

_BATCH = 500
_POLL_SECONDS = 0.1  # counting costs the database, and the last record tells when the end was
_PATIENCE_SECONDS = 120
_AT_ONCE = 1e6  # a second: what was missed is not spread over time

_OWED = "SELECT count(*) FROM deliveries WHERE state = 'owed' AND subscription_id = ANY($1::text[])"
_MEAN = (
    "SELECT avg(octet_length(data))::int FROM transitions WHERE id IN "
    "(SELECT transition_id FROM deliveries WHERE state = 'owed')"
)
_LAST = (
    "SELECT max(finished_at) FROM deliveries "
    "WHERE state = 'delivered' AND subscription_id = ANY($1::text[])"
)


@dataclass(frozen=True, slots=True)
class Owed:
    """How many deliveries are owed, and how long a body of theirs is on average."""

    count: int
    mean_bytes: int


def make(
    bed: Bed, subscriptions: Sequence[str], alerts: int, exercise: str = "", first: int = 0
) -> Owed:
    """Opens alerts, in an exercise if one is named, while the subscriptions are suspended."""
    for subscription in subscriptions:
        bed.ask("POST", f"/v1/subscriptions/{subscription}/suspend")
    url = f"{bed.service}/v1/signals"
    bed.mark(url, first=first, count=alerts, batch=_BATCH, exercise=exercise, pause=0)
    return asyncio.run(_owed(bed.database, subscriptions))


async def _owed(database_url: str, subscriptions: Sequence[str]) -> Owed:
    raw = await asyncpg.connect(database_url)
    try:
        count = await raw.fetchval(_OWED, subscriptions)
        if not count:
            raise BenchFailed("Nothing is owed, so that there is nothing to deliver.")
        return Owed(count, await raw.fetchval(_MEAN))
    finally:
        await raw.close()


def work_off(bed: Bed, subscriptions: Sequence[str], owed: Owed) -> float:
    """Resumes all at once; deliveries a second until the last attempt is recorded.

    Raises:
        BenchFailed: it does not end.
    """
    return asyncio.run(_work_off(bed.database, subscriptions, owed))


def resume(bed: Bed, subscriptions: Sequence[str]) -> None:
    """Resumes all at once; nothing of what they missed is spread over time."""
    asyncio.run(_resume(bed.database, subscriptions))


async def _resume(database_url: str, subscriptions: Sequence[str]) -> None:
    database, begun = Database(database_url), datetime.now(UTC)
    try:
        async with database.begin() as connection:
            for subscription_id in sorted(subscriptions):
                found = await store.subscriptions.find(connection, subscription_id, lock=True)
                assert found is not None
                await subscribe.resume(connection, found, "", begun, per_second=_AT_ONCE)
    finally:
        await database.close()


async def _work_off(database_url: str, subscriptions: Sequence[str], owed: Owed) -> float:
    raw = await asyncpg.connect(database_url)
    try:
        await _resume(database_url, subscriptions)
        begun = datetime.now(UTC)
        until = time.monotonic() + _PATIENCE_SECONDS
        while await raw.fetchval(_OWED, subscriptions):
            if time.monotonic() > until:
                raise BenchFailed(f"Not all was delivered within {_PATIENCE_SECONDS} s.")
            await asyncio.sleep(_POLL_SECONDS)
        ended: datetime = await raw.fetchval(_LAST, subscriptions)
    finally:
        await raw.close()
    return owed.count / (ended - begun).total_seconds()
