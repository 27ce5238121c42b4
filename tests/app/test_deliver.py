"""Delivery keeps its word: everything owed arrives, in order per alert, signed, under one id.

Asserts on what a real receiver heard and on the recorded deliveries and attempts; the clock is
turned by hand, PostgreSQL is real.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from alerts import signing
from app import seals, store, subscribe
from app.store.subscriptions import Status
from tests.app.post_office import GALLIUM, NEON, Post, failing
from tests.app.receiver import Answer, Heard, consenting, receiver


async def test_a_receiver_that_was_down_gets_everything_in_order_when_it_returns(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await baltica.down()
        sender = post.sender()
        for hour in range(6):  # away for hours, while two alerts move on
            await post.owe(made, NEON, GALLIUM, NEON, note=f"hour {hour}")
            await post.pass_time(sender, 3_600)
        assert set(await post.states(made)) == {"owed"}
        await baltica.up()
        await post.pass_time(sender, 12 * 3_600)
        events = baltica.events()
        assert await post.states(made) == ["delivered"] * 18
        assert set(baltica.times_heard().values()) == {1}
        assert sorted(heard.sequence for heard in events) == list(range(2, 20))
        for alert in (NEON, GALLIUM):
            about = [h.sequence for h in events if h.body["data"]["alert"] == alert]
            assert about == sorted(about)
        assert all(heard.verified_by == tuple(baltica.secrets) for heard in events)


async def test_the_same_bytes_and_id_are_sent_on_every_try(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        baltica.manner = failing(503)
        sender = post.sender()
        await post.owe(made, NEON)
        await post.round(sender)
        await post.pass_time(sender, 5)
        baltica.manner = consenting
        await post.pass_time(sender, 30)
        first, second, third = baltica.events()
        assert first.raw == second.raw == third.raw
        assert first.id == f"msg_{made.removeprefix('sub_')}_2" == second.id == third.id
        assert first.headers["webhook-timestamp"] != third.headers["webhook-timestamp"]
        (delivery,) = (await post.deliveries(made))[1:]
        tries = await post.attempts(delivery)
        assert [(t.number, t.verdict, t.status, t.error) for t in tries] == [
            (1, "retry", 503, "http_5xx"),
            (2, "retry", 503, "http_5xx"),
            (3, "delivered", 204, ""),
        ]
        assert tries[0].excerpt == "no"


async def test_an_event_waits_for_the_one_before_it_of_the_same_alert_and_of_no_other(
    post: Post,
) -> None:
    async with receiver(failing(when=lambda h: h.body["data"].get("n") == "stuck")) as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        await post.owe(made, NEON, note="stuck")
        await post.owe(made, NEON, GALLIUM, NEON)
        await post.round(sender)
        assert await post.states(made) == ["owed", "owed", "delivered", "owed"]
        await post.pass_time(sender, 5)
        assert [h.sequence for h in baltica.events()] == [2, 4, 2]
        baltica.manner = consenting
        await post.pass_time(sender, 30)
        assert [h.sequence for h in baltica.events()] == [2, 4, 2, 2, 3, 5]


async def test_a_delivery_whose_retries_are_spent_has_failed_and_lets_the_next_go(
    post: Post,
) -> None:
    async with receiver(failing(404, lambda h: h.sequence == 2)) as baltica:
        made = await post.active(baltica)
        sender = post.sender(retry_schedule="5,30")
        await post.owe(made, NEON, NEON)
        for seconds in (0, 5, 30):
            await post.pass_time(sender, seconds)
        assert await post.states(made) == ["failed", "delivered"]
        failed = (await post.deliveries(made))[1]
        assert [t.verdict for t in await post.attempts(failed)] == ["retry", "retry", "give_up"]


async def test_an_endpoint_that_is_gone_is_suspended_and_loses_nothing(post: Post) -> None:
    async with receiver(failing(410)) as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        await post.owe(made, NEON, NEON, GALLIUM)
        await post.round(sender)
        held = await post.held(made)
        assert (held.status, held.reason) == (Status.suspended, "gone: the endpoint answered 410")
        await post.owe(made, NEON)
        await post.pass_time(sender, 7 * 86_400)
        heard_before = len(baltica.heard)
        assert await post.states(made) == ["owed"] * 4
        baltica.manner = consenting
        await post.act(made, "resume", challenge="unused")
        await post.pass_time(sender, 1)
        assert await post.states(made) == ["delivered"] * 4
        neon = [h.sequence for h in baltica.heard[heard_before:] if h.body["data"]["alert"] == NEON]
        assert neon == [2, 3, 5]


async def test_what_a_removed_subscription_was_owed_is_withdrawn_even_under_way(post: Post) -> None:
    go_on = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        if heard.type != "webhook.verify":
            await go_on.wait()
        return await consenting(heard)

    async with receiver(slow) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON)
        sender = post.sender()
        await sender.deliver_due(post.now)
        await baltica.hear(2)
        await post.act(made, "remove")
        go_on.set()
        await sender.settle()
        await post.round(sender)
        assert await post.states(made) == ["withdrawn", "withdrawn"]
        assert len(baltica.events()) == 1
        await post.owe(made, NEON)  # a transaction that looked before it was removed
        assert len(await post.states(made)) == 2


async def test_a_delivery_sent_again_by_hand_has_the_same_id_and_holds_up_nothing(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        sender = post.sender(retry_schedule="1000,1000")
        await post.owe(made, NEON)
        await post.round(sender)
        delivery = (await post.deliveries(made))[1]
        baltica.manner = failing(500, lambda h: h.sequence == 2)
        async with post.database.begin() as connection:
            assert await store.deliveries.redeliver(connection, made, [delivery.id], post.now)
        await post.round(sender)
        await post.owe(made, NEON)
        await post.round(sender)
        assert await post.states(made) == ["owed", "delivered"]
        baltica.manner = consenting
        await post.pass_time(sender, 1_000)
        assert await post.states(made) == ["delivered", "delivered"]
        assert [h.sequence for h in baltica.events()] == [2, 2, 3, 2]
        assert baltica.times_heard()[delivery.webhook_id] == 3
        assert [t.number for t in await post.attempts(delivery)] == [1, 2, 3]


async def test_the_old_secret_signs_beside_the_new_one_until_it_retires(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        new = bytes(32)
        async with post.database.begin() as connection:
            sealing = seals.from_settings(post.settings)
            await subscribe.rotate_secret(
                connection, sealing, made, new, timedelta(hours=24), post.now
            )
        old, baltica.secrets = baltica.secrets[0], [*baltica.secrets, signing.secret_of(new)]
        await post.owe(made, NEON)
        await post.round(sender)
        await post.owe(made, NEON)
        await post.pass_time(sender, 24 * 3_600)
        assert [h.verified_by for h in baltica.events()] == [
            (old, signing.secret_of(new)),
            (signing.secret_of(new),),
        ]
