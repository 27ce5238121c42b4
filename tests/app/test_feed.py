"""The pull feed: after any absence everything is had again, exactly, and whoever is late knows it.

Asserted on: the answers of the feed, beside what the store says was owed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from alerts import payloads
from alerts.payloads import Format
from alerts.routing import SubscriptionId
from app import access, store
from app.main import create_app
from app.store.debts import Debt
from tests.app.post_office import GALLIUM, NEON, Post
from tests.app.receiver import receiver
from tests.golden.test_format_bytes import messages


@dataclass(slots=True)
class Desk:
    """The doors of the service for *baltica*; they may be closed and opened anew."""

    post: Post
    token: str
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    service: FastAPI = field(default_factory=FastAPI)
    web: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)

    async def open(self) -> None:
        """Opens the doors, closing those that are open: a restart."""
        await self.stack.aclose()
        self.service = create_app(self.post.settings, role="api")
        await self.stack.enter_async_context(self.service.router.lifespan_context(self.service))
        self.web = await self.stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(self.service, raise_app_exceptions=False),
                base_url="http://forewarn",
                headers={"Authorization": f"Bearer {self.token}"},
            )
        )

    async def pull(self, of: SubscriptionId, etag: str = "", **query: object) -> httpx.Response:
        params = {name: str(value) for name, value in query.items()}
        headers = {"If-None-Match": etag} if etag else {}
        return await self.web.get(f"/v1/subscriptions/{of}/events", params=params, headers=headers)

    async def waiters(self, many: int) -> None:
        """Watches until so many requests wait, for longer than a waiter looks away."""
        for _ in range(200):
            if self.service.state.house.waiting.taken == many:
                return
            await asyncio.sleep(0.025)
        raise AssertionError(self.service.state.house.waiting)


@pytest.fixture
async def desk(post: Post) -> AsyncIterator[Desk]:
    async with post.database.begin() as connection:
        key = await access.issue_key(
            connection, name="baltica", role="subscriber", now=datetime.now(UTC)
        )
    opened = Desk(post, key.token)
    await opened.open()
    yield opened
    await opened.stack.aclose()


async def asleep(post: Post) -> SubscriptionId:
    """A subscription whose endpoint consented and then went away."""
    async with receiver() as endpoint:
        return await post.active(endpoint)


async def test_two_weeks_of_absence_are_made_good_exactly_through_pages_and_restarts(
    desk: Desk,
) -> None:
    """540 events in 14 days; the doors are opened anew amid the pages, and events go on coming."""
    post = desk.post
    post.now -= timedelta(days=14)
    made = await asleep(post)
    for hour in range(14 * 24):
        post.now += timedelta(hours=1)
        if hour % 2:
            await post.owe(made, NEON, GALLIUM, 3 + hour, note=f"hour {hour}")
    had: list[dict[str, Any]] = []
    pages, after = 0, 0
    while True:
        answer = await desk.pull(made, after=after, limit=31)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["oldest"] == 1
        had += told["items"]
        pages += 1
        after = had[-1]["sequence"]
        if pages % 5 == 0:
            await desk.open()
            await post.owe(made, NEON, 900 + pages, 901 + pages, note="meanwhile")
        if told["next"] is None:
            assert after == told["last"]
            break
        assert told["next"] == str(after)
    owed = await post.deliveries(made)
    assert len(owed) > 510
    assert pages > 15
    assert [event["sequence"] for event in had] == list(range(1, len(owed) + 1))
    assert [event["id"] for event in had] == [d.webhook_id for d in owed]
    assert [event["data"] for event in had[1:]] == [json.loads(d.data) for d in owed[1:]]
    first, last = (datetime.fromisoformat(had[n]["timestamp"]) for n in (0, -1))
    assert last - first > timedelta(days=13)


async def test_a_page_that_has_not_changed_is_not_sent_again(desk: Desk) -> None:
    made = await asleep(desk.post)
    await desk.post.owe(made, NEON, GALLIUM)
    first = await desk.pull(made, limit=10)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for given in (tag, f"W/{tag}", f'"another", {tag}', "*"):
        same = await desk.pull(made, given, limit=10)
        assert (same.status_code, same.content) == (304, b""), given
        assert same.headers["etag"] == tag
        assert same.headers["cache-control"] == "private, no-cache"
    await desk.open()
    assert (await desk.pull(made, tag, limit=10)).status_code == 304, "it outlives a restart"
    for other in ({"limit": 9}, {"limit": 10, "after": 1}):
        assert (await desk.pull(made, tag, **other)).status_code == 200, other
    for nonsense in ('"', tag.strip('"'), "W/", ","):
        assert (await desk.pull(made, nonsense, limit=10)).status_code == 200, nonsense
    await desk.post.owe(made, NEON)
    news = await desk.pull(made, tag, limit=10)
    assert news.status_code == 200
    assert [event["sequence"] for event in news.json()["items"]] == [1, 2, 3, 4]
    assert news.headers["etag"] != tag


async def test_whoever_comes_too_late_learns_where_what_is_kept_begins(desk: Desk) -> None:
    made = await asleep(desk.post)
    await desk.post.owe(made, *range(1, 10))
    kept = (await desk.pull(made, after=2)).json()
    assert (kept["oldest"], kept["last"], kept["items"][0]["sequence"]) == (1, 10, 3)
    tag = (await desk.pull(made)).headers["etag"]
    await forget(desk, made, up_to=6)
    late = await desk.pull(made, tag, after=0)
    assert late.status_code == 200
    told = late.json()
    assert (told["oldest"], told["last"]) == (7, 10)
    assert [event["sequence"] for event in told["items"]] == [7, 8, 9, 10]
    await forget(desk, made, up_to=10)
    told = (await desk.pull(made, after=3)).json()
    assert told == {"items": [], "next": None, "oldest": 11, "last": 10}


async def forget(desk: Desk, of: SubscriptionId, *, up_to: int) -> None:
    async with desk.post.database.begin() as connection:
        for table in ("attempts", "deliveries"):
            key = "delivery_id" if table == "attempts" else "id"
            await connection.execute(
                text(
                    f"DELETE FROM {table} WHERE {key} IN (SELECT id FROM deliveries "
                    "WHERE subscription_id = :id AND sequence <= :up_to)"
                ),
                {"id": of, "up_to": up_to},
            )


async def test_who_waits_is_answered_once_there_is_something_newer(desk: Desk) -> None:
    made = await asleep(desk.post)
    waiting = asyncio.create_task(desk.pull(made, after=1, wait=20))
    await desk.waiters(1)
    assert not waiting.done()
    await desk.post.owe(made, NEON)
    answer = await asyncio.wait_for(waiting, timeout=8)
    assert [event["sequence"] for event in answer.json()["items"]] == [2]
    assert desk.service.state.house.waiting.taken == 0
    at_once = await asyncio.wait_for(desk.pull(made, after=1, wait=20), timeout=8)
    assert [event["sequence"] for event in at_once.json()["items"]] == [2]


async def test_who_waits_in_vain_gets_an_empty_page_or_hears_that_nothing_changed(
    desk: Desk,
) -> None:
    made = await asleep(desk.post)
    empty = await desk.pull(made, after=1, wait=1)
    assert empty.json() == {"items": [], "next": None, "oldest": 1, "last": 1}
    same = await desk.pull(made, empty.headers["etag"], after=1, wait=1)
    assert (same.status_code, same.content) == (304, b"")


async def test_only_so_many_wait_at_once_and_nobody_keeps_a_place(desk: Desk) -> None:
    made = await asleep(desk.post)
    places = desk.service.state.house.waiting
    places.most = 4  # of which one partner has as many as are left for others
    waiting = [asyncio.create_task(desk.pull(made, after=1, wait=20)) for _ in range(2)]
    await desk.waiters(2)
    refused = await desk.pull(made, after=1, wait=20)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["retryable"]
    assert (await desk.pull(made, after=1)).status_code == 200, "without waiting there is room"
    assert (await desk.pull(made, after=0, wait=20)).status_code == 200, "nothing to wait for"
    desk.service.state.house.draining = True
    answers = await asyncio.wait_for(asyncio.gather(*waiting), timeout=8)
    assert [a.status_code for a in answers] == [200, 200], "a process that stops lets them go"
    assert places.taken == 0


async def test_who_waits_for_a_subscription_that_ends_is_told(desk: Desk) -> None:
    made = await asleep(desk.post)
    waiting = asyncio.create_task(desk.pull(made, after=1, wait=20))
    await desk.waiters(1)
    await desk.post.act(made, "remove")
    assert (await asyncio.wait_for(waiting, timeout=8)).status_code == 404
    assert desk.service.state.house.waiting.taken == 0


async def test_a_caller_who_hangs_up_gives_its_place_back(desk: Desk) -> None:
    made = await asleep(desk.post)
    async with calling(desk, f"/v1/subscriptions/{made}/events", b"after=1&wait=25") as hang_up:
        await desk.waiters(1)
        hang_up.set()
        await desk.waiters(0)


@asynccontextmanager
async def calling(desk: Desk, path: str, query: bytes) -> AsyncIterator[asyncio.Event]:
    """A caller as a server sees one: its connection is gone once the event is set."""
    gone = asyncio.Event()
    sent = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert message["type"].startswith("http.response")

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query,
        "headers": [(b"authorization", f"Bearer {desk.token}".encode())],
        "client": ("127.0.0.1", 1), "server": ("forewarn", 80), "root_path": "",
    }  # fmt: skip
    task = asyncio.create_task(desk.service(scope, receive, send))
    yield gone
    gone.set()
    await task


@pytest.mark.parametrize(
    "query",
    [
        {"wait": 26}, {"wait": -1}, {"wait": "nan"}, {"wait": "soon"},
        {"after": -1}, {"after": 2**63}, {"after": "\x00"}, {"limit": 0}, {"limit": 201},
    ],
)  # fmt: skip
async def test_a_question_that_makes_no_sense_is_refused_by_its_parameter(
    desk: Desk, query: dict[str, object]
) -> None:
    made = await asleep(desk.post)
    told = (await desk.pull(made, "", **query)).json()
    assert told["status"] == 422
    assert [error["parameter"] for error in told["errors"]] == list(query)


async def test_who_is_ahead_of_the_feed_sees_where_it_ends(desk: Desk) -> None:
    """Its numbers are of another life of the database, or of another subscription."""
    made = await asleep(desk.post)
    told = (await desk.pull(made, after=2**63 - 1)).json()
    assert told == {"items": [], "next": None, "oldest": 1, "last": 1}


async def test_what_a_webhook_withholds_of_a_red_alert_is_not_to_be_pulled_either(
    desk: Desk,
) -> None:
    post, red = desk.post, messages()["red"]
    made = await asleep(post)
    async with post.database.begin() as connection:
        debt = Debt(made, red.type, alert_id=NEON, data=red.data)
        await store.debts.owe(connection, [debt], post.now)
    sent = json.loads(payloads.write(Format.json, 1, red, "").body)["data"]
    (pulled,) = (await desk.pull(made, after=1)).json()["items"]
    assert pulled["data"] == sent
    shown = await desk.web.get(f"/v1/deliveries/{pulled['id']}")
    assert shown.json()["data"] == sent
