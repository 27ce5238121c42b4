"""Consent given by a person: for a chat that shows what it is sent and cannot answer it.

Asserted on: the answers of the doors, what the endpoint was sent, and how the challenge stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from alerts.routing import SubscriptionId
from app import access
from app.main import create_app
from app.store.subscriptions import Status
from tests.app.post_office import NEON, Post
from tests.app.receiver import Answer, Heard, Receiver, receiver


async def chat(heard: Heard) -> Answer:
    """Shows everything to its members, and answers "ok" to whatever it is."""
    return 200, b"ok"


async def echo(heard: Heard) -> Answer:
    """Gives back whatever it is sent, to anyone."""
    return 200, b"You said: " + heard.raw


@pytest.fixture
async def doors(post: Post) -> AsyncIterator[FastAPI]:
    """The doors of the service; what is owed is sent by the post office."""
    service = create_app(post.settings, role="api")
    async with service.router.lifespan_context(service):
        yield service


@pytest.fixture
async def baltica(post: Post, doors: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await caller(post, doors, "baltica") as web:
        yield web


async def caller(post: Post, doors: FastAPI, name: str) -> httpx.AsyncClient:
    async with post.database.begin() as connection:
        key = await access.issue_key(
            connection, name=name, role="subscriber", now=datetime.now(UTC)
        )
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(doors, raise_app_exceptions=False),
        base_url="http://forewarn",
        headers={"Authorization": f"Bearer {key.token}"},
    )


async def asked(post: Post, room: Receiver) -> SubscriptionId:
    """A subscription whose challenge the chat has shown."""
    made = await post.subscribe(room.url, room)
    await post.round(post.sender())
    assert (await post.held(made)).status is Status.pending
    return made


def shown(room: Receiver) -> str:
    """The challenge that somebody reads in the chat."""
    newest = [heard for heard in room.heard if heard.type == "webhook.verify"][-1]
    return str(newest.body["data"]["challenge"])


async def confirm(web: httpx.AsyncClient, made: str, challenge: object) -> httpx.Response:
    return await web.post(f"/v1/subscriptions/{made}/confirm", json={"challenge": challenge})


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_a_person_who_reads_the_challenge_in_a_chat_confirms_it(
    post: Post, baltica: httpx.AsyncClient
) -> None:
    async with receiver(chat) as room:
        made = await asked(post, room)
        answer = await confirm(baltica, made, f"  {shown(room)}\n")
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "active"
        assert answer.json()["verified_at"] is not None
        sender = post.sender()
        await post.pass_time(sender, 3600)
        assert len(room.heard) == 1, "the challenge is not sent again"
        (challenge,) = await post.deliveries(made)
        assert (challenge.state, challenge.due_at) == ("delivered", None)
        assert [t.error for t in await post.attempts(challenge)] == ["challenge"]
        await post.owe(made, NEON)
        await post.round(sender)
        assert [heard.type for heard in room.events()] == ["alert.updated"]
        assert "not pending" in problem(await confirm(baltica, made, shown(room)), 409)["detail"]


async def test_a_challenge_under_way_when_it_is_confirmed_changes_nothing(
    post: Post, baltica: httpx.AsyncClient
) -> None:
    go_on = asyncio.Event()

    async def slow_chat(heard: Heard) -> Answer:
        await go_on.wait()
        return 410, b""

    async with receiver(slow_chat) as room:
        made = await post.subscribe(room.url, room)
        sender = post.sender()
        await sender.deliver_due(post.now)
        await room.hear(1)
        assert (await confirm(baltica, made, shown(room))).status_code == 200
        go_on.set()
        await sender.settle()
        assert (await post.held(made)).status is Status.active
        (challenge,) = await post.deliveries(made)
        assert (challenge.state, challenge.attempts) == ("delivered", 0)


async def test_a_challenge_whose_retries_are_spent_may_still_be_confirmed(
    post: Post, baltica: httpx.AsyncClient
) -> None:
    async with receiver(chat) as room:
        made = await post.subscribe(room.url, room)
        sender = post.sender(retry_schedule="1")
        await post.round(sender)
        await post.pass_time(sender, 2)
        assert [d.state for d in await post.deliveries(made)] == ["failed"]
        assert (await confirm(baltica, made, shown(room))).json()["status"] == "active"


async def test_a_wrong_challenge_is_refused_and_ten_of_them_spend_it(
    post: Post, baltica: httpx.AsyncClient
) -> None:
    async with receiver(chat) as room:
        made = await asked(post, room)
        right = shown(room)
        for wrong in [
            "x",
            right[:-1],
            right + "x",
            right.upper(),
            "é\u202e",
            "\x00",
            "x",
            "y",
            "z",
        ]:
            told = problem(await confirm(baltica, made, wrong), 422)
            assert told["errors"][0]["pointer"] == "/challenge"
            assert right not in str(told)
        assert "void" in problem(await confirm(baltica, made, "the tenth"), 422)["detail"]
        told = problem(await confirm(baltica, made, right), 409)
        assert "POST .../test" in told["detail"]
        sender = post.sender()
        await post.pass_time(sender, 3600)
        assert len(room.heard) == 1, "a void challenge is not sent again"
        assert (await baltica.post(f"/v1/subscriptions/{made}/test")).status_code == 202
        await post.pass_time(sender, 3600)
        assert shown(room) != right
        assert (await confirm(baltica, made, shown(room))).status_code == 200


async def test_a_void_challenge_is_void_for_a_process_that_has_counted_nothing(
    post: Post, baltica: httpx.AsyncClient
) -> None:
    async with receiver(chat) as room:
        made = await asked(post, room)
        for _ in range(10):
            await confirm(baltica, made, "wrong")
        other = create_app(post.settings, role="api")
        async with (
            other.router.lifespan_context(other),
            await caller(post, other, "baltica") as web,
        ):
            problem(await confirm(web, made, shown(room)), 409)


async def test_only_the_newest_challenge_of_the_endpoint_it_has_now_counts(
    post: Post, baltica: httpx.AsyncClient
) -> None:
    async with receiver(chat) as old, receiver(chat) as new:
        made = await asked(post, old)
        new.secrets = old.secrets
        await post.move(made, new.url)
        await post.round(post.sender())
        problem(await confirm(baltica, made, shown(old)), 422)
        assert (await post.held(made)).status is Status.pending
        assert (await confirm(baltica, made, shown(new))).json()["status"] == "active"


async def test_a_challenge_older_than_a_week_is_refused(
    post: Post, baltica: httpx.AsyncClient
) -> None:
    async with receiver(chat) as room:
        post.now -= timedelta(days=7, minutes=5)
        late = await asked(post, room)
        told = problem(await confirm(baltica, late, shown(room)), 409)
        assert "older than 7 days" in told["detail"]
        post.now += timedelta(hours=1)
        in_time = await asked(post, room)
        assert (await confirm(baltica, in_time, shown(room))).status_code == 200


async def test_what_is_suspended_or_anothers_is_not_confirmed(
    post: Post, doors: FastAPI, baltica: httpx.AsyncClient
) -> None:
    async with receiver(chat) as room:
        made = await asked(post, room)
        async with await caller(post, doors, "cygnus") as cygnus:
            problem(await confirm(cygnus, made, shown(room)), 404)
        await post.act(made, "suspend", reason="holidays")
        assert "suspended" in problem(await confirm(baltica, made, shown(room)), 409)["detail"]
        assert (await post.held(made)).status is Status.suspended


@pytest.mark.parametrize(
    "body",
    [{}, {"challenge": ""}, {"challenge": "  "}, {"challenge": None}, {"challenge": ["x"]},
     {"challenge": "x" * 201}, {"challenge": 7}, {"challenge": "x", "force": True}, [], "x"],
)  # fmt: skip
async def test_a_body_that_holds_no_challenge_is_refused_and_not_counted(
    post: Post, baltica: httpx.AsyncClient, body: object
) -> None:
    async with receiver(chat) as room:
        made = await asked(post, room)
        for _ in range(11):
            answer = await baltica.post(f"/v1/subscriptions/{made}/confirm", json=body)
            assert problem(answer, 422)["errors"]
        assert (await confirm(baltica, made, shown(room))).status_code == 200


async def test_nobody_reads_the_challenge_in_the_answer_of_an_endpoint_that_echoes(
    post: Post, baltica: httpx.AsyncClient
) -> None:
    """Or anyone could subscribe an endpoint that is not theirs, read its echo here, and confirm."""
    async with receiver(echo) as parrot:
        made = await asked(post, parrot)
        (challenge,) = await post.deliveries(made)
        for path in (
            f"/v1/deliveries/{challenge.webhook_id}",
            f"/v1/subscriptions/{made}/deliveries",
            f"/v1/subscriptions/{made}/events",
        ):
            answer = await baltica.get(path)
            assert answer.status_code == 200
            assert shown(parrot) not in answer.text, path
