"""What is done because time passes: by one runner, whatever fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from apscheduler.schedulers import base
from apscheduler.triggers import interval
from sqlalchemy import text

from app import scheduler, store, telemetry
from app.database import Database, DatabaseAway
from app.scheduler import Duty, Scheduler
from app.torture import process
from tests.app.post_office import GALLIUM, NEON, Post, failing
from tests.app.receiver import receiver


async def test_one_of_two_runners_does_the_duties_and_the_other_follows(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_LOOK_AGAIN_SECONDS", 0.05)
    other = Database(database_url)
    done: asyncio.Queue[str] = asyncio.Queue()

    def runner(of: Database, name: str) -> asyncio.Task[None]:
        async def do(now: datetime) -> dict[str, object]:
            assert now.tzinfo is not None
            done.put_nowait(name)
            return {}

        return asyncio.create_task(Scheduler(of, [Duty("duty.done", 0.05, do)]).run())

    first = runner(database, "first")
    assert await asyncio.wait_for(done.get(), 10) == "first"
    second = runner(other, "second")
    assert {await asyncio.wait_for(done.get(), 10) for _ in range(10)} == {"first"}
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    while await asyncio.wait_for(done.get(), 10) == "first":
        pass
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await other.close()


async def test_a_runner_that_loses_its_connection_takes_the_lock_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_LOOK_AGAIN_SECONDS", 0.05)
    took_over: asyncio.Queue[datetime] = asyncio.Queue()

    async def do(now: datetime) -> dict[str, object]:
        took_over.put_nowait(now)
        return {}

    runner = asyncio.create_task(Scheduler(database, [Duty("duty.done", 3600, do)]).run())
    await asyncio.wait_for(took_over.get(), 10)
    async with database.begin() as connection:
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks "
                "WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
        )
    await asyncio.wait_for(took_over.get(), 10)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


@pytest.mark.parametrize("hour", [3_600, -3_600], ids=["ahead", "back"])
async def test_a_clock_that_jumps_an_hour_and_back_does_not_stop_the_duties(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hour: int
) -> None:
    monkeypatch.setattr(scheduler, "_WATCH_SECONDS", 0.05)
    clock = tmp_path / "clock"
    clock.write_text("0")
    instants = process.step_by(clock)
    for module in (scheduler, base, interval):
        monkeypatch.setattr(module, "datetime", instants)
    ticks: asyncio.Queue[datetime] = asyncio.Queue()

    async def do(now: datetime) -> dict[str, object]:
        ticks.put_nowait(now)
        return {}

    runner = asyncio.create_task(Scheduler(database, [Duty("duty.done", 0.1, do)]).run())
    for ahead in (0, hour, 0):
        clock.write_text(str(ahead))
        expected = datetime.now(UTC) + timedelta(seconds=ahead)
        while abs(await asyncio.wait_for(ticks.get(), 10) - expected) > timedelta(minutes=1):
            pass
        await asyncio.wait_for(ticks.get(), 10)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


async def test_only_the_runner_says_what_is_owed_and_falls_silent_when_it_is_no_more(
    post: Post,
) -> None:
    async with receiver(failing(503)) as endpoint:
        made = await post.active(endpoint)
        other = await post.subscribe(endpoint.url)
        await post.owe(made, NEON, GALLIUM)
        await post.pass_time(post.sender(), 120)
        await post.act(other, "suspend", reason="at night")
    gauge = telemetry.REGISTRY.get_sample_value
    async with post.database.begin() as connection:
        await connection.execute(
            text("UPDATE deliveries SET created_at = created_at - interval '1 hour'")
        )

    def said() -> tuple[float | None, ...]:
        return (
            gauge("forewarn_owed_deliveries"),
            *(
                gauge("forewarn_endpoints", {"standing": standing})
                for standing in store.endpoint_health.STANDINGS
            ),
        )

    duty, done = scheduler.tally_duty(post.database), asyncio.Event()

    async def do(now: datetime) -> dict[str, object]:
        found = await duty.do(now)
        done.set()
        return found

    runner = asyncio.create_task(Scheduler(post.database, [replace(duty, do=do)]).run())
    await asyncio.wait_for(done.wait(), 10)
    assert said() == (2, 1, 1, 0, 0)
    oldest = gauge("forewarn_oldest_owed_seconds")
    assert oldest is not None
    assert 3_400 < oldest < 3_800
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    assert said() == (0, 0, 0, 0, 0)
    assert gauge("forewarn_oldest_owed_seconds") == 0


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), DatabaseAway("gone")], ids=["broken", "away"]
)
async def test_a_duty_that_fails_is_done_again_at_its_next_tick(
    database: Database, error: Exception
) -> None:
    ticks: asyncio.Queue[None] = asyncio.Queue()

    async def do(now: datetime) -> dict[str, object]:
        ticks.put_nowait(None)
        raise error

    runner = asyncio.create_task(Scheduler(database, [Duty("duty.done", 0.05, do)]).run())
    for _ in range(3):
        await asyncio.wait_for(ticks.get(), 10)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
