"""Receivers that are killed, hang at every phase or answer garbage, through the whole service.

Observable oracles: answers over HTTP, the logs that receiver processes write before they answer, and rows
after a commit.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from alerts.routing import SubscriptionId
from app import access
from app.demo import processes
from app.settings import PREFIX
from tests.journeys.listener import GARBAGE, HANGS
from tests.journeys.relay import SETTINGS, Relay

GOODS = ("mcu", "dram")
WEEKS = (14.5, 16.5, 21.0, 17.0, 17.0)
"""Lead times that open an alert, raise it twice and ease it: four events a good."""


@pytest.fixture
async def aurora(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    """Aurora, who reports to a running service that gives its receivers a second."""
    settings: dict[str, Any] = {
        **SETTINGS,
        "database_url": relay.database_url,
        "webhook_timeout_seconds": 1,
    }
    port = processes.free_port("127.0.0.1")
    environment = {f"{PREFIX}{name}".upper(): str(value) for name, value in settings.items()}
    async with relay.database.begin() as connection:
        key = await access.issue_key(
            connection, name="aurora", role="partner", party="EU", now=datetime.now(UTC)
        )
    with processes.service("127.0.0.1", port, relay.folder, environment) as url:
        async with httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key.token}"}, timeout=30
        ) as client:
            yield client


async def _report(aurora: httpx.AsyncClient) -> None:
    for month, weeks in enumerate(WEEKS, start=1):
        signals = [
            {
                "sector": "semiconductors",
                "indicator": "lead_time",
                "good": good,
                "observed_at": f"2021-{month:02d}-28T00:00:00Z",
                "value": weeks,
                "unit": "weeks",
            }
            for good in GOODS
        ]
        answer = await aurora.post("/v1/signals", json=signals)
        assert answer.json()["accepted"] == len(GOODS), answer.text


async def _subscribe(relay: Relay, *urls: str) -> list[SubscriptionId]:
    """Subscriptions to everything, as if their endpoints had consented."""
    made = await relay.subscribe(*urls)
    async with relay.database.begin() as connection:
        await connection.execute(text("UPDATE subscriptions SET owed_since = created_at"))
    return made


@contextmanager
def _deaf(backlog: int) -> Iterator[int]:
    """A port whose owner never accepts; without a backlog its connections are not even made."""
    with socket.socket() as door, socket.socket() as first, socket.socket() as second:
        door.bind(("127.0.0.1", 0))
        door.listen(backlog)
        port = int(door.getsockname()[1])
        if not backlog:
            for one in (first, second):
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
        yield port


async def test_what_hangs_or_answers_garbage_the_first_time_hears_everything_and_delays_nobody(
    relay: Relay, aurora: httpx.AsyncClient
) -> None:
    far = relay.listener("far")
    with _deaf(0) as unaccepted, _deaf(100) as unspoken:
        await _subscribe(
            relay,
            *(far.url(f"once/garbage/{kind}") for kind in GARBAGE),
            *(far.url(f"once/hangs/{kind}") for kind in HANGS),
            far.url("once/silent"),
        )
        (sound,) = await _subscribe(relay, far.url("ok"))
        dead = await _subscribe(
            relay,
            f"http://127.0.0.1:{unaccepted}/",
            f"http://127.0.0.1:{unspoken}/",
            f"https://127.0.0.1:{unspoken}/",  # the handshake is never answered
        )
        await _report(aurora)
        await relay.settled(5, but=[one for one in relay.subscriptions if one != sound])
        await relay.settled(40, but=dead)
        errors = await relay.errors()
    await relay.reckon(dead=dead)
    assert {"timeout", "invalid_http", "too_large", "http_3xx", "connect"} <= errors.keys()
    assert set(errors) <= {"timeout", "invalid_http", "too_large", "http_3xx", "connect"}


async def test_a_receiver_killed_while_it_answers_hears_everything_when_it_is_back(
    relay: Relay, aurora: httpx.AsyncClient
) -> None:
    far, near = relay.listener("far"), relay.listener("near")
    *_, neighbour = await _subscribe(relay, far.url("after/0.2"), far.url("ok"), near.url("ok"))
    reporting = asyncio.create_task(_report(aurora))
    for _ in range(3):
        await asyncio.sleep(0.3)
        far.kill()
        await asyncio.sleep(0.3)
        far.up()
    await reporting
    await relay.settled(30)
    times = await relay.reckon()
    about = [one.id for one in await relay.owed() if one.subscription == neighbour and one.alert]
    assert [times[one] for one in about] == [1] * len(GOODS) * 4
