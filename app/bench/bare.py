"""The bare limits: what PostgreSQL and the sending client do with the product left away."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from app.bench import sending
from app.bench.lines import BenchFailed, quantile

TABLES = """
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE IF NOT EXISTS bench.signals (LIKE public.signals INCLUDING ALL)
    PARTITION BY RANGE (observed_at);
CREATE TABLE IF NOT EXISTS bench.signals_default PARTITION OF bench.signals DEFAULT
    WITH (autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.05);
CREATE TABLE IF NOT EXISTS bench.deliveries (LIKE public.deliveries INCLUDING ALL);
CREATE TABLE IF NOT EXISTS bench.commits (number int);
"""
"""The same columns, keys and indexes as the service's own."""

_INSERT = (
    "INSERT INTO bench.signals SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::int[], "
    "$4::int[], $5::float8[], $6::timestamptz[], $7::text[])"
)
_UPDATE = (
    "UPDATE bench.deliveries SET state = 'delivered', due_at = NULL, lease_until = NULL, "
    "attempts = attempts + 1, finished_at = $2 WHERE id = $1"
)
_START = datetime(2026, 1, 1, tzinfo=UTC)


async def insert(
    *, database: str, series: int, batch: int, connections: int, seconds: float
) -> dict[str, Any]:
    """Commits the same rows as ``load.post`` causes, one INSERT … unnest a batch, and nothing else.

    Returns:
        ``rate`` in rows a second, ``p50`` and ``p99`` of a commit in milliseconds.
    """
    opened = [await asyncpg.connect(database) for _ in range(connections)]
    await opened[0].execute(TABLES)
    await opened[0].execute("TRUNCATE bench.signals")
    begun = time.perf_counter()
    counted = await asyncio.gather(
        *(
            _insert(raw, range(number + 1, series + 1, connections), batch, begun + seconds)
            for number, raw in enumerate(opened)
        )
    )
    ended = time.perf_counter()
    for raw in opened:
        await raw.close()
    took = [one for some in counted for one in some]
    return {
        "rate": len(took) * batch / (ended - begun),
        "p50": quantile(took, 0.5) * 1000,
        "p99": quantile(took, 0.99) * 1000,
    }


async def _insert(
    raw: asyncpg.Connection[asyncpg.Record], own: range, batch: int, until: float
) -> list[float]:
    """How long each commit took, in seconds."""
    statement = await raw.prepare(_INSERT)
    ones, nothing, now = [1] * batch, [None] * batch, [datetime.now(UTC)] * batch
    values = [10.5] * batch
    took: list[float] = []
    minute, place = _START, 0
    while True:
        ids, at = [], []
        for _ in range(batch):
            ids.append(own[place])
            at.append(minute)
            place += 1
            if place == len(own):
                minute, place = minute + timedelta(minutes=1), 0
        begun = time.perf_counter()
        if begun >= until:
            return took
        await statement.fetch(ids, at, ones, ones, values, now, nothing)
        took.append(time.perf_counter() - begun)


async def commit(*, database: str, connections: int, seconds: float) -> dict[str, Any]:
    """Commits one transaction after the other that writes one number and nothing else.

    Returns:
        ``rate`` in commits a second.
    """
    opened = [await asyncpg.connect(database) for _ in range(connections)]
    await opened[0].execute(TABLES)
    await opened[0].execute("TRUNCATE bench.commits")

    async def commits(raw: asyncpg.Connection[asyncpg.Record], until: float) -> int:
        statement, count = await raw.prepare("INSERT INTO bench.commits VALUES ($1)"), 0
        while time.perf_counter() < until:
            await statement.fetch(count)
            count += 1
        return count

    begun = time.perf_counter()
    counted = await asyncio.gather(*(commits(raw, begun + seconds) for raw in opened))
    ended = time.perf_counter()
    for raw in opened:
        await raw.close()
    return {"rate": sum(counted) / (ended - begun)}


async def update(*, database: str, count: int, connections: int) -> dict[str, Any]:
    """Marks so many deliveries as delivered, each by an UPDATE and a commit of its own.

    Returns:
        ``rate`` in updates a second.
    """
    opened = [await asyncpg.connect(database) for _ in range(connections)]
    await opened[0].execute(TABLES)
    await opened[0].execute("TRUNCATE bench.deliveries")
    now = datetime.now(UTC)
    await opened[0].execute(
        "INSERT INTO bench.deliveries (id, subscription_id, sequence, type, data, created_at, due_at) "
        "SELECT n, 'sub_' || n % 50, n, 'alert.opened', '{}', $2, $2 FROM generate_series(1, $1::int) AS n",
        *(count, now),
    )

    async def mark(raw: asyncpg.Connection[asyncpg.Record], own: range) -> None:
        statement = await raw.prepare(_UPDATE)
        for number in own:
            await statement.fetch(number, now)

    begun = time.perf_counter()
    await asyncio.gather(
        *(mark(raw, range(n + 1, count + 1, connections)) for n, raw in enumerate(opened))
    )
    ended = time.perf_counter()
    for raw in opened:
        await raw.close()
    return {"rate": count / (ended - begun)}


async def send(
    *, urls: list[str], count: int, size: int, in_flight: int, per_endpoint: int
) -> dict[str, Any]:
    """Signs and sends so many webhooks of ``size`` bytes over the service's own client, and that is all.

    Returns:
        ``rate`` in webhooks a second; ``cpu`` in seconds of the processor for each.
    """
    way = sending.outbound()
    said = f'{{"more":"{"x" * max(0, size - 120)}"}}'
    left = Counter({url: count // len(urls) for url in urls})
    lines = max(1, min(per_endpoint, in_flight // len(urls)))
    workers = [url for url in urls for _ in range(lines)][: max(in_flight, len(urls))]

    async def work(url: str) -> None:
        while left[url] > 0:
            left[url] -= 1
            if not await sending.send(way, url, f"msg_bench_{left[url]}", said):
                raise BenchFailed("The sink did not take a webhook.")

    begun, worked = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work(url) for url in workers))
    ended = time.perf_counter()
    await way.close()
    sent = (count // len(urls)) * len(urls)
    return {"rate": sent / (ended - begun), "cpu": (time.process_time() - worked) / sent}
