"""What is done because time passes: the door that APScheduler knocks at.

Every worker has a scheduler; the one that holds the advisory lock of the database does the duties,
and when it dies another takes over within seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING

from alerts.retention import Retention
from app import evaluate, recover, store, telemetry, tidy
from app.database import Database, DatabaseAway
from app.deliver import owners
from app.policy import Policy
from app.settings import Settings

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

_RUNNER_LOCK = 4_706_301_218_003
_LOOK_AGAIN_SECONDS = 5.0
_HOUR_SECONDS = 3_600.0
_MINUTE_SECONDS = 60.0
_RECOVERY_SECONDS = 2.0
_MONTHS_SECONDS = 10.0
_TOGETHER = 1_000
_TALLY_SECONDS = 10.0
_WATCH_SECONDS = 1.0
_JUMP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Duty:
    """Something done every so often, and once when its runner takes over.

    ``do`` is given the instant of the tick, opens its own transactions, and returns what it found,
    for the log; nothing when there was nothing to do. ``lapse`` is called when its runner is the
    runner no more.
    """

    name: str
    every_seconds: float
    do: Callable[[datetime], Awaitable[dict[str, object]]]
    lapse: Callable[[], None] | None = None


def month_duty(database: Database) -> Duty:
    """Makes the months of ``signals`` ahead of time, and those of the past that are worth it.

    It looks into the default only when something has been written there.
    """
    seen: int | None = None

    async def ensure_months(now: datetime) -> dict[str, object]:
        nonlocal seen
        async with database.begin() as connection:
            written = await store.partitions.insertions(connection)
        found = await tidy.open_months(database, now, look_through=written != seen)
        if not found.waiting:
            seen = written
        told: dict[str, object] = {}
        if found.opened:
            told |= {"made": found.opened, "moved": found.moved}
        if found.waiting:
            told["waiting"] = found.waiting
        return told

    return Duty("partitions.ensured", _MONTHS_SECONDS, ensure_months)


def signals_duty(database: Database, settings: Settings) -> Duty:
    """Takes away the signals that the retention policy keeps no longer."""
    retention = Retention(settings.retention)

    async def retire(now: datetime) -> dict[str, object]:
        found = await tidy.retire(database, retention, now)
        told = {
            "signals": found.signals,
            "dropped": found.months,
            "thinned": found.thinned,
            "waiting": found.waiting,
        }
        return {name: what for name, what in told.items() if what}

    return Duty("signals.retention_kept", _HOUR_SECONDS, retire)


def sweep_duty(database: Database, policy: Policy, every_seconds: float) -> Duty:
    """Judges what is due by time alone."""

    async def sweep(now: datetime) -> dict[str, object]:
        moved = await evaluate.sweep(database, policy, now)
        return {"transitions": moved} if moved else {}

    return Duty("sweep.judged", every_seconds, sweep)


def retention_duty(database: Database, settings: Settings) -> Duty:
    """Gives up on what suspended endpoints missed too long ago, and forgets what is kept no longer."""

    async def forget(now: datetime) -> dict[str, object]:
        found = {"expired": 0, "forgotten": 0}
        more = True
        while more:
            async with database.begin() as connection:
                expired = await store.deliveries.expire(
                    connection, now - timedelta(days=settings.backlog_days), now, _TOGETHER
                )
                forgotten = await store.deliveries.forget(
                    connection,
                    attempts_before=now - timedelta(days=settings.attempts_kept_days),
                    deliveries_before=now - timedelta(days=settings.deliveries_kept_days),
                    limit=_TOGETHER,
                )
            found["expired"] += expired
            found["forgotten"] += forgotten
            more = max(expired, forgotten) >= _TOGETHER
        return {name: count for name, count in found.items() if count}

    return Duty("deliveries.retired", _HOUR_SECONDS, forget)


def recovery_duty(database: Database, settings: Settings) -> Duty:
    """Goes on with the ranges of deliveries that are to be owed again."""

    async def go_on(now: datetime) -> dict[str, object]:
        count = await recover.work(database, now, per_second=settings.drain_per_second)
        return {"owed_again": count} if count else {}

    return Duty("recoveries.moved_on", _RECOVERY_SECONDS, go_on)


def owners_duty(database: Database) -> Duty:
    """Tells owners of their endpoints what a worker that died could not."""

    async def tell(now: datetime) -> dict[str, object]:
        async with database.begin() as connection:
            told = await owners.tell(connection, now)
        return {"told": told} if told else {}

    return Duty("owners.told", _MINUTE_SECONDS, tell)


def tally_duty(database: Database) -> Duty:
    """Sets the gauges of deliveries. Only the runner's say something: those of others are 0, so that a
    sum over all processes is right.
    """

    async def tally(now: datetime) -> dict[str, object]:
        async with database.begin() as connection:
            found = await store.endpoint_health.tally(connection)
        telemetry.show_deliveries(
            found.standings,
            found.owed,
            (now - found.oldest_owed_at).total_seconds() if found.oldest_owed_at else 0.0,
        )
        return {}

    def lapse() -> None:
        telemetry.show_deliveries(dict.fromkeys(store.endpoint_health.STANDINGS, 0), 0, 0.0)

    return Duty("deliveries.tallied", _TALLY_SECONDS, tally, lapse)


def clocks_duty(database: Database, settings: Settings) -> Duty:
    """Makes due what a clock that ran ahead for a while has put off."""

    async def bring_forward(now: datetime) -> dict[str, object]:
        async with database.begin() as connection:
            found = await store.jumps.bring_forward(
                connection,
                now,
                lease=timedelta(seconds=settings.lease_seconds),
                longest_open=timedelta(seconds=settings.endpoint_longest_open_seconds),
            )
        return {"endpoints": found} if found else {}

    return Duty("deliveries.brought_forward", _MINUTE_SECONDS, bring_forward)


class Scheduler:
    """Runs the duties while, and only while, this process is the database's one runner."""

    def __init__(self, database: Database, duties: Sequence[Duty]) -> None:
        self._database = database
        self._duties = tuple(duties)

    async def run(self) -> None:
        """Stands in the queue for the lock and does the duties while holding it, until cancelled."""
        while True:
            try:
                async with self._database.holding(_RUNNER_LOCK) as lost:
                    if lost is not None:
                        telemetry.line("scheduler.took_over", duties=[d.name for d in self._duties])
                        await self._do_duties_until(lost)
            except DatabaseAway as error:
                telemetry.line("scheduler.waiting", level="warning", fault=str(error))
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _do_duties_until(self, lost: asyncio.Event) -> None:
        # It looks through all that is installed: neither a start nor the loop need wait for it.
        await asyncio.to_thread(import_module, "apscheduler.schedulers.asyncio")
        from apscheduler.schedulers.asyncio import AsyncIOScheduler  # noqa: PLC0415 - see above
        from apscheduler.triggers.interval import IntervalTrigger  # noqa: PLC0415 - see above

        scheduler = AsyncIOScheduler(timezone=UTC)
        for duty in self._duties:
            scheduler.add_job(
                _tick,
                IntervalTrigger(seconds=duty.every_seconds, timezone=UTC),
                args=(duty,),
                id=duty.name,
                next_run_time=datetime.now(UTC),
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )
        scheduler.start()
        watch = asyncio.create_task(_mind_the_clock(scheduler))
        try:
            await lost.wait()
        finally:
            watch.cancel()
            scheduler.shutdown(wait=False)
            for duty in self._duties:
                if duty.lapse is not None:
                    duty.lapse()


async def _mind_the_clock(scheduler: AsyncIOScheduler) -> None:
    """Makes every duty due when the clock has jumped.

    The next tick is an instant by the clock, and the way to it is slept: after a jump of an hour, ahead
    and back again or only back, nothing would be done for an hour, and nobody else would do it.
    """
    ahead = _ahead_of_the_monotonic()
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        was, ahead = ahead, _ahead_of_the_monotonic()
        if abs(ahead - was) > _JUMP_SECONDS:
            telemetry.line("scheduler.clock_jumped", level="warning", seconds=round(ahead - was, 1))
            for job in scheduler.get_jobs():
                job.modify(next_run_time=datetime.now(UTC))


def _ahead_of_the_monotonic() -> float:
    return datetime.now(UTC).timestamp() - time.monotonic()


async def _tick(duty: Duty) -> None:
    """Does one duty; a failing one is recorded and tried again at its next tick."""
    try:
        with telemetry.unit_of_work(duty.name) as found:
            told = await duty.do(datetime.now(UTC))
            found.update(told or {"skip": True})
    except DatabaseAway:
        telemetry.sweeps.labels("away").inc()
    except Exception:  # noqa: BLE001 - recorded by the unit of work; the next tick is not lost
        telemetry.sweeps.labels("failed").inc()
    else:
        telemetry.sweeps.labels("done").inc()
