"""Consent: an endpoint is asked before anything else, and so is every new address."""

from __future__ import annotations

import asyncio

from app import store
from app.store.subscriptions import Status
from tests.app.post_office import GALLIUM, NEON, Post
from tests.app.receiver import Answer, Heard, consenting, free_port, receiver


async def test_an_endpoint_is_active_once_it_gives_its_challenge_back(post: Post) -> None:
    said = [b"", b'{"challenge":"another"}', b'["challenge 1"]', b"[" * 60_000, b"\xff\xfe"]

    async def slow_to_understand(heard: Heard) -> Answer:
        return (200, said.pop(0)) if said else await consenting(heard)

    async with receiver(slow_to_understand) as baltica:
        made = await post.subscribe(baltica.url, baltica)
        sender = post.sender(retry_schedule="1,1,1,1,1,1,1")
        await post.round(sender)
        for _ in range(4):
            assert (await post.held(made)).status is Status.pending
            await post.pass_time(sender, 1.2)
        await post.pass_time(sender, 1.2)
        assert (await post.held(made)).status is Status.active
        (asked,) = await post.deliveries(made)
        tries = await post.attempts(asked)
        assert [t.error for t in tries] == ["challenge"] * 5 + [""]
        assert len(baltica.times_heard()) == 1
        assert all(heard.verified_by for heard in baltica.heard)


async def test_who_has_never_consented_is_owed_nothing_and_who_has_stays_owed(post: Post) -> None:
    async def listening() -> list[str]:
        async with post.database.begin() as connection:
            return [
                who.id
                for who in (await store.publishing.prepare(connection, transitions=1)).listeners
            ]

    async with receiver() as baltica:
        made = await post.subscribe(baltica.url, baltica)
        assert await listening() == []
        await post.round(post.sender())
        assert await listening() == [made]
        await post.act(made, "suspend", reason="holidays")
        assert await listening() == [made]
        await post.act(made, "remove")
        assert await listening() == []


async def test_a_new_address_is_asked_first_and_then_gets_what_was_kept(post: Post) -> None:
    async with receiver() as old, receiver() as new:
        made = await post.active(old)
        new.secrets = old.secrets
        await old.down()
        await post.owe(made, NEON)
        await post.move(made, new.url)
        await post.owe(made, GALLIUM)
        assert [d.due_at is None for d in await post.deliveries(made)] == [True, True, False, True]
        await post.round(post.sender())
        assert [heard.type for heard in new.heard] == ["webhook.verify", *["alert.updated"] * 2]
        assert (await post.held(made)).status is Status.active


async def test_an_answer_of_the_old_address_does_not_speak_for_the_new_one(post: Post) -> None:
    go_on = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        await go_on.wait()
        return await consenting(heard)

    async with receiver(slow) as old:
        made = await post.subscribe(old.url, old)
        sender = post.sender()
        await sender.deliver_due(post.now)
        await old.hear(1)
        await post.move(made, f"http://127.0.0.1:{free_port()}/")
        go_on.set()
        await sender.settle()
        assert (await post.held(made)).status is Status.pending
        assert [d.state for d in await post.deliveries(made)] == ["withdrawn", "owed"]


async def test_an_address_that_was_left_cannot_end_the_subscription(post: Post) -> None:
    go_on = asyncio.Event()

    async def slow_to_go(heard: Heard) -> Answer:
        if heard.type != "webhook.verify":
            await go_on.wait()
            return 410, b""
        return await consenting(heard)

    async with receiver(slow_to_go) as old, receiver() as new:
        made = await post.active(old)
        new.secrets = old.secrets
        await post.owe(made, NEON)
        sender = post.sender()
        await sender.deliver_due(post.now)
        await old.hear(2)
        await post.move(made, new.url)
        go_on.set()
        await sender.settle()
        assert (await post.held(made)).status is Status.pending
        await post.round(sender)
        assert [h.type for h in new.heard] == ["webhook.verify", "alert.updated"]
