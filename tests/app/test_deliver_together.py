"""Many at once: leases, fences, several senders, slow endpoints, concurrent debts."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import structlog
from sqlalchemy import text

from app import store
from app.store.debts import Debt
from tests.app.post_office import NEON, Post, running
from tests.app.receiver import Answer, Heard, consenting, receiver


async def test_a_claim_whose_lease_ended_is_taken_over_under_the_same_id(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON)
        async with post.database.begin() as connection:  # a sender that dies with its claim
            (lost,) = await store.queue.claim(
                connection,
                post.now,
                slots=64,
                retry_slots=64,
                per_endpoint=4,
                rooms={},
                lease_until=post.now + timedelta(seconds=30),
            )
        sender = post.sender()
        await post.pass_time(sender, 29)
        assert baltica.events() == []
        await post.pass_time(sender, 1)
        assert [h.sequence for h in baltica.events()] == [2, 3]
        assert baltica.events()[0].id == lost.webhook_id


@pytest.mark.parametrize(
    ("second_answer", "state"),
    [
        (204, "delivered"),  # finished meanwhile
        (500, "owed"),  # waits for a retry, and its time must not be moved
    ],
)
async def test_a_slow_sender_cannot_overwrite_what_its_successor_recorded(
    post: Post, second_answer: int, state: str
) -> None:
    first_may_end = asyncio.Event()

    async def first_slow(heard: Heard) -> Answer:
        if heard.type == "webhook.verify":
            return await consenting(heard)
        if len(baltica.events()) == 1:
            await first_may_end.wait()
            return 503, b"too late"
        return second_answer, b""

    async with receiver(first_slow) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        slow = post.sender()
        await slow.deliver_due(post.now)
        await baltica.hear(2)
        await post.pass_time(post.sender(), 31)
        (before,) = (await post.deliveries(made))[1:]
        first_may_end.set()
        with structlog.testing.capture_logs() as lines:
            await slow.settle()
        (after,) = (await post.deliveries(made))[1:]
        assert after == before
        assert after.state == state
        assert [(t.number, t.status) for t in await post.attempts(after)] == [(1, second_answer)]
        tries = [line for line in lines if line["event"] == "delivery.attempted"]
        assert [line["recorded"] for line in tries] == [False]


async def test_two_senders_never_send_one_claim_twice_nor_one_alert_side_by_side(
    post: Post,
) -> None:
    side_by_side: dict[tuple[str, int], int] = {}

    async def watchful(heard: Heard) -> Answer:
        if heard.type == "webhook.verify":
            return await consenting(heard)
        alert = (heard.id.rsplit("_", 1)[0], heard.body["data"]["alert"])
        side_by_side[alert] = side_by_side.get(alert, 0) + 1
        assert side_by_side[alert] == 1, f"two at once about {alert}"
        await asyncio.sleep(0.002)
        side_by_side[alert] -= 1
        return 204, b""

    async with receiver(watchful) as baltica:
        subscriptions = [await post.active(baltica) for _ in range(5)]
        for made in subscriptions:
            await post.owe(made, *([1, 2, 3, 4, 5, 6] * 5))
        senders = [post.sender(webhook_in_flight=8) for _ in range(2)]
        async with running(senders[0]), running(senders[1]):
            await baltica.hear(5 + 150, within_seconds=30)
        assert set(baltica.times_heard().values()) == {1}
        for made in subscriptions:
            assert await post.states(made) == ["delivered"] * 30
            for alert in range(1, 7):
                about = [
                    h.sequence
                    for h in baltica.events()
                    if h.id.startswith(f"msg_{made.removeprefix('sub_')}_")
                    and h.body["data"]["alert"] == alert
                ]
                assert about == sorted(about)


async def _open_transactions(post: Post) -> int:
    async with post.database.begin() as connection:
        rows = await connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND state LIKE 'idle in transaction%'"
            )
        )
        return int(rows.scalar_one())


async def test_a_hanging_endpoint_takes_its_share_of_the_slots_and_no_more(post: Post) -> None:
    forever = asyncio.Event()

    async def hangs(heard: Heard) -> Answer:
        if heard.type != "webhook.verify":
            await forever.wait()
        return await consenting(heard)

    async with receiver(hangs) as stuck, receiver() as sound:
        bad, good = await post.active(stuck), await post.active(sound)
        await post.owe(bad, *range(1, 201))
        post.now += timedelta(seconds=1)  # the backlog of the one is due before the other's
        await post.owe(good, *range(1, 21))
        sender = post.sender(webhook_in_flight=8)
        async with running(sender):
            await sound.hear(21)
            await stuck.hear(5)
            for _ in range(250):
                if not await _open_transactions(post):
                    break
                await asyncio.sleep(0.02)
            else:
                pytest.fail("a transaction stays open while the network is")
            forever.set()
            await stuck.hear(201)
        assert stuck.most_at_once == 4
        assert set(stuck.times_heard().values()) == {1}


async def test_many_who_owe_at_once_leave_no_gap_and_wait_in_no_circle(post: Post) -> None:
    async with receiver() as baltica:
        subscriptions = [await post.active(baltica) for _ in range(4)]

        async def owe_all(alert: int) -> None:
            chosen = subscriptions if alert % 2 else subscriptions[::-1]
            debts = [Debt(to, "alert.updated", alert_id=alert, data="{}") for to in chosen]
            async with post.database.begin() as connection:
                await store.debts.owe(connection, debts, post.now)

        await asyncio.gather(*(owe_all(alert) for alert in range(25)))
        for made in subscriptions:
            assert [d.sequence for d in await post.deliveries(made)] == list(range(1, 27))
            assert (await post.held(made)).last_sequence == 26
