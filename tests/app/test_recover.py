"""A range is sent again as a job that survives, waits and can be stopped.

Asserts on what a real receiver heard, on deliveries and on the job as the API shows it.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from app import recover, store
from app.store.recoveries import Recovery
from tests.app.post_office import NEON, Post, failing
from tests.app.receiver import consenting, receiver

ALL = ("failed", "expired", "superseded")


async def begin(post: Post, of: str, states: tuple[str, ...] = ALL, after: int = 0) -> Recovery:
    async with post.database.begin() as connection:
        held = await store.subscriptions.find(connection, of, lock=True)
        assert held is not None
        job, _ = await recover.start(
            connection,
            held.id,
            states,
            since=post.now - timedelta(days=30),
            until=post.now,
            after=after,
            by="baltica",
            now=post.now,
        )
        return job


async def go_on(post: Post, job: Recovery) -> Recovery:
    async with post.database.begin() as connection:
        await recover.step(connection, job.subscription_id, post.now, per_second=1_000)
    async with post.database.begin() as connection:
        found = await store.recoveries.find(connection, job.subscription_id, job.id)
        assert found is not None
        return found


async def test_what_has_failed_is_sent_again_in_order_and_under_its_ids(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "STEP", 4)
    async with receiver(failing(404)) as baltica:
        made = await post.active(baltica)
        sender = post.sender(retry_schedule="1")
        for _ in range(10):
            await post.owe(made, NEON)
            await post.pass_time(sender, 600)
            await post.pass_time(sender, 600)
        assert await post.states(made) == ["failed"] * 10
        lost = [d.webhook_id for d in await post.deliveries(made)][1:]
        baltica.manner = consenting
        before = len(baltica.heard)
        job = await go_on(post, await begin(post, made, after=3))
        assert (job.redelivered, job.next_sequence, job.finished_at) == (4, 8, None)
        # Whoever worked on it dies here; another goes on from what is written down.
        job = await go_on(post, job)
        assert (job.redelivered, job.finished_at) == (8, None)
        job = await go_on(post, job)
        assert job.finished_at is not None
        await post.pass_time(sender, 700)  # its breaker is open until then
        again = [heard.id for heard in baltica.heard[before:]]
        assert sorted(again) == sorted(lost[2:])
        assert await post.states(made) == ["failed"] * 2 + ["delivered"] * 8


async def test_a_recovery_waits_while_its_subscription_is_suspended_and_ends_with_it(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        await post.owe(made, NEON)
        await post.round(sender)
        job = await begin(post, made, ("delivered",))
        await post.act(made, "suspend", reason="holidays")
        assert await recover.work(post.database, post.now, per_second=10) == 0
        await post.act(made, "resume", challenge="unused")
        assert await recover.work(post.database, post.now, per_second=10) == 1
        await post.pass_time(sender, 1)
        assert list(baltica.times_heard().values()) == [1, 2]
        job = await begin(post, made, ("delivered",))
        await post.act(made, "remove")
        assert await recover.work(post.database, post.now, per_second=10) == 0
        assert (await go_on(post, job)).finished_at == post.now


async def test_a_recovery_is_not_sent_faster_than_the_drain(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        await post.owe(made, *range(1, 31))
        await post.round(sender)
        await begin(post, made, ("delivered",))
        assert await recover.work(post.database, post.now, per_second=10) == 30
        await post.round(sender)
        heard = [len(baltica.events())]
        for _ in range(3):
            await post.pass_time(sender, 1)
            heard.append(len(baltica.events()))
        assert heard == [31, 41, 51, 60]


async def test_there_must_be_something_and_not_too_much_of_it(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        with pytest.raises(recover.Nothing):
            await begin(post, made)
        await post.owe(made, *range(1, 4))
        await post.round(post.sender())
        monkeypatch.setattr(recover, "MOST_RECOVERED", 2)
        with pytest.raises(recover.TooMany):
            await begin(post, made, ("delivered",))
