"""A sender may be killed at any instant and at every step: nothing owed is lost, and nothing invented.

Observable oracles: the logs that receiver processes write before they answer, and rows after a commit.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import time
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text

from tests.journeys import reckoning
from tests.journeys.nursery import STEPS
from tests.journeys.relay import Relay, until

KILLS = int(os.environ.get("TEST_KILLS", "300"))
LONGEST_LIFE_SECONDS = 0.12
ALERTS = range(1, 9)
BACKLOG = 300
"""More than a life delivers, so that every one finds something to do."""


async def test_killed_at_hundreds_of_random_instants_nothing_owed_is_lost_or_invented(
    relay: Relay,
) -> None:
    """`TEST_KILLS=3000` for a long run, `TEST_SEED=<printed>` to repeat the instants of one."""
    seed = os.environ.get("TEST_SEED") or secrets.token_hex(8)
    dice = random.Random(seed)
    print(f"seed {seed}")
    near, far = relay.listener("near"), relay.listener("far")
    steady = await relay.subscribe(
        *(near.url(manner) for manner in ("ok", "ok", "after/0.002")),
        *(far.url(manner) for manner in ("ok", "after/0.01", "after/0.03")),
    )
    moody = await relay.subscribe(
        near.url("once/status/500/0"), far.url("once/garbage/broken-off"), far.url("once/silent")
    )
    killing = True

    async def keep_owing() -> None:
        while killing:
            if await relay.left() < BACKLOG:
                await relay.owe(*dice.sample(ALERTS, 2), to=steady)
                if dice.random() < 0.1:
                    await relay.owe(dice.choice(ALERTS), to=moody)
            await asyncio.sleep(0.1)

    owing = asyncio.create_task(keep_owing())
    began = time.monotonic()
    for _ in range(KILLS):
        life = relay.sender(webhook_timeout_seconds=0.5)
        await asyncio.sleep(0.02 + dice.random() * LONGEST_LIFE_SECONDS)
        life.kill()
    killing = False
    await owing
    ended = time.monotonic()
    last = relay.sender(webhook_timeout_seconds=0.5)
    await relay.settled(60)
    last.stop()
    times = await relay.reckon()
    print(
        f"{KILLS} kills in {ended - began:.1f} s, settled in {time.monotonic() - ended:.1f} s; "
        f"owed {len(times)}, heard {times.total()}, "
        f"again {times.total() - len(times)}, at most {max(times.values())} times"
    )


@dataclass(frozen=True, slots=True)
class Death:
    """A step at which a sender dies, and how its endpoint answers so that it comes to it.

    ``heard`` and ``recorded`` are how many requests were heard and how many tries recorded by then;
    None where it may be several.
    """

    step: str
    manner: str
    heard: int | None = None
    recorded: int | None = None


DEATHS = [
    Death("a claim, not committed", "ok", 0, 0),
    Death("a claim, committed", "ok", 0, 0),
    Death("an answer, not recorded", "ok", 1, 0),
    Death("a record, not begun", "ok", 1, 0),
    Death("a record, not committed", "ok", 1, 0),
    Death("a record, committed", "ok", 1, 1),
    Death("a lease, not kept", "after/0.45", 1, 0),
    Death("a lease, not committed", "after/0.45", 1, 0),
    Death("giving back, not begun", "ill/status/500/0.1"),
    Death("giving back, not committed", "ill/status/500/0.1"),
    Death("telling owners, not begun", "ill/status/500/0"),
    Death("telling owners, not committed", "ill/status/500/0"),
]


def test_there_is_a_death_for_every_step() -> None:
    assert {death.step for death in DEATHS} == set(STEPS) - {""}


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.step)
async def test_a_sender_that_dies_at_a_step_is_succeeded_and_nothing_is_lost(
    relay: Relay, death: Death
) -> None:
    """One attempt at a time, so that it is known what had happened. Where it must fail there are a dozen, and
    they fail until the owner has heard of it.
    """
    far = relay.listener("far")
    one, neighbour = await relay.subscribe(far.url(death.manner), far.url("ok"))
    await relay.owe(*range(1, 13 if death.heard is None else 2), to=[one])
    settings: dict[str, Any] = {"webhook_in_flight": 1, "retry_schedule": ",".join(["0.05"] * 50)}
    mortal = relay.sender(dies=death.step, **settings)
    assert mortal.end() == -signal.SIGKILL
    then = await relay.owed()
    assert death.heard in {None, len(far.heard())}
    assert death.recorded in {None, sum(len(delivery.tries) for delivery in then)}
    await relay.owe(1, to=[one])
    successor = relay.sender(duties=True, **settings)
    notices = ["endpoint.failing", "endpoint.recovered"] if death.heard is None else []

    async def told(*types: str) -> bool:
        return await relay.types(neighbour) == list(types)

    await until(lambda: told(*notices[:1]))  # each once, whoever died of telling them
    far.recover()
    await relay.settled(30, but=[neighbour])
    await until(lambda: told(*notices))
    await relay.settled(10)
    successor.stop()
    times = await relay.reckon()
    done = [delivery for delivery in then if delivery.state == "delivered"]
    assert all(times[delivery.id] == len(delivery.tries) for delivery in done), "sent no more"
    assert await relay.types(neighbour) == notices


async def test_killed_with_half_a_body_written_the_whole_is_sent_by_the_next(relay: Relay) -> None:
    far = relay.listener("far")
    await relay.subscribe(far.url("once/sips"))
    await relay.owe(1, padding=8_000_000)  # more than the sockets' buffers hold
    first = relay.sender()
    await until(lambda: reckoning.sipped(far.log))
    first.kill()
    assert far.heard() == []
    second = relay.sender()
    await relay.settled(20)
    second.stop()
    assert reckoning.sipped(far.log) == list(await relay.reckon())


async def test_killed_between_sending_and_the_answer_the_same_is_sent_by_the_next(
    relay: Relay,
) -> None:
    far = relay.listener("far")
    await relay.subscribe(far.url("once/silent"))
    await relay.owe(1, 2)
    first = relay.sender()
    await until(lambda: len(far.heard()) == 2)
    first.kill()
    second = relay.sender()
    await relay.settled(20)
    second.stop()
    assert set((await relay.reckon()).values()) == {2}


async def test_killed_while_its_record_commits_the_commit_stands_and_nothing_is_sent_again(
    relay: Relay,
) -> None:
    """PostgreSQL finishes what it was told to commit, whether or not anybody is left to hear of it."""
    far = relay.listener("far")
    await relay.subscribe(far.url("ok"))
    async with relay.database.begin() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$"
            )
        )
        await connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON attempts "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle()"
            )
        )
    await relay.owe(1)
    first = relay.sender()
    await until(lambda: _are_dawdling(relay))
    first.kill()
    second = relay.sender()
    await relay.settled(20)
    second.stop()
    (only,) = await relay.owed()
    assert await relay.reckon() == {only.id: 1}


async def _are_dawdling(relay: Relay) -> bool:
    async with relay.database.begin() as connection:
        found = await connection.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        )
        return bool(found.scalar_one())


async def test_a_sender_stopped_beyond_its_leases_comes_back_too_late_to_overwrite_anything(
    relay: Relay,
) -> None:
    """Another has taken over what it held; what it wakes up to record is refused."""
    far = relay.listener("far")
    await relay.subscribe(far.url("once/after/0.7"), far.url("after/0.05"))
    await relay.owe(*range(1, 13))
    first = relay.sender()
    await until(lambda: len(far.heard()) >= 6)
    first.signal(signal.SIGSTOP)
    second = relay.sender()
    await relay.settled(30)
    then = await relay.owed()
    first.signal(signal.SIGCONT)
    await asyncio.sleep(0.5)
    await relay.owe(*range(1, 5))  # it works on, beside the other
    await relay.settled(20)
    second.stop()
    first.stop()
    told = {one.id: one for one in await relay.owed()}
    assert all(told[one.id] == one for one in then), "what was recorded stands as it was"
    assert '"recorded":false' in relay.log.read_text()
    times = await relay.reckon()
    assert max(times.values()) <= 3
