"""The clock of a sender jumps back and ahead: nothing is lost, and nothing waits when it is right again.

Observable oracles: the logs that receiver processes write before they answer, and rows after a commit.

What a jump may do meanwhile: back, nothing new is sent until the clock is right, and what is under
way is taken over by another and sent twice under its id; ahead, retries come early, and receivers that
check the age of a signature, as libraries do, refuse what they are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from alerts.routing import SubscriptionId
from app import scheduler
from app.settings import Settings
from tests.journeys import reckoning
from tests.journeys.relay import SETTINGS, Relay, until

HOUR = 3_600
JUMPS = [-HOUR, HOUR, 40 * 24 * HOUR]


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A file with the seconds by which the clocks of senders are ahead."""
    file = tmp_path / "clock"
    _set(file, 0)
    return file


def _set(clock: Path, seconds: float) -> None:
    ready = clock.with_suffix(".new")
    ready.write_text(str(seconds))
    ready.replace(clock)


@asynccontextmanager
async def _duty(relay: Relay) -> AsyncIterator[None]:
    """What a worker does each minute, by the right clock, done each quarter of a second."""
    duty = scheduler.clocks_duty(relay.database, Settings.model_validate(SETTINGS))

    async def again_and_again() -> None:
        while True:
            await duty.do(datetime.now(UTC))
            await asyncio.sleep(0.25)

    task = asyncio.create_task(again_and_again())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("jump", JUMPS, ids=["an hour back", "an hour ahead", "40 days ahead"])
async def test_a_clock_that_jumps_while_attempts_are_under_way_loses_and_holds_up_nothing(
    relay: Relay, clock: Path, jump: float
) -> None:
    far, strict = relay.listener("far", any_time=True), relay.listener("strict")
    await relay.subscribe(
        *(far.url(m) for m in ("ok", "after/0.3", "once/status/500/0.2")), strict.url("ok")
    )
    sender = relay.sender(clock=clock)
    await relay.owe(*range(1, 7))
    await until(lambda: len(far.heard()) >= 6)
    for offset in (jump, 0, jump):  # between attempts, and during some
        _set(clock, offset)
        await relay.owe(*range(1, 7))
        await asyncio.sleep(0.7)
    _set(clock, 0)
    await relay.owe(1, 2)
    async with _duty(relay):
        await relay.settled(20 * 3)
    sender.stop()
    await relay.reckon()
    if jump > 0:
        assert reckoning.refused(strict.log), "its signatures were of another time"


@pytest.mark.parametrize("jump", JUMPS, ids=["an hour back", "an hour ahead", "40 days ahead"])
async def test_a_sender_killed_while_its_clock_is_wrong_is_succeeded_by_one_whose_clock_is_right(
    relay: Relay, clock: Path, jump: float
) -> None:
    far = relay.listener("far", any_time=True)
    well, failing = await relay.subscribe(far.url("once/silent"), far.url("status/500/0"))
    await relay.owe(1, 2)
    _set(clock, max(jump, 0))  # one that is behind begins when it is right, or it would do nothing
    first = relay.sender(clock=clock)
    await until(lambda: len(far.heard()) >= 4)
    _set(clock, jump)
    await asyncio.sleep(0.7)  # leases are kept by the wrong clock
    first.kill()
    second = relay.sender(webhook_timeout_seconds=2)  # once silent is what the owner hears, too
    async with _duty(relay):
        await relay.settled(60, but=[failing])
        before = await _tries(relay, failing)

        async def tried_again() -> bool:
            return await _tries(relay, failing) > before

        async def told() -> bool:
            return "endpoint.failing" in await relay.types(well)

        await until(tried_again)
        await until(told)  # its owner hears of it, and that is owed like everything else
        await relay.settled(60, but=[failing])
    second.kill()
    await relay.reckon(dead=[failing])


async def _tries(relay: Relay, of: SubscriptionId) -> int:
    return sum(one.attempts for one in await relay.owed() if one.subscription == of)
