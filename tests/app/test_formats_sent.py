"""Each format over the wire: how its endpoint consents, and what it then hears of an alert.

Asserts on what real receivers heard and on the subscriptions as the API shows them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
from fastapi import FastAPI

from app.settings import Settings
from tests.app.receiver import Answer, Heard, Receiver, consenting, receiver

Connect = Callable[..., Awaitable[httpx.AsyncClient]]

LEAD_TIME: dict[str, Any] = {
    "sector": "semiconductors", "indicator": "lead_time", "good": "mcu", "unit": "weeks",
}  # fmt: skip
CAP = "{urn:oasis:names:tc:emergency:cap:1.2}"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": "https://forewarn.example"})


async def taking(heard: Heard) -> Answer:
    """Takes everything and gives no challenge back, as a chat does."""
    return 200, b"ok"


async def subscribed(web: httpx.AsyncClient, endpoint: Receiver, format: str) -> str:
    made = await web.post("/v1/subscriptions", json={"url": endpoint.url, "format": format})
    assert made.status_code == 201, made.text
    endpoint.secrets.append(made.json()["secret"])
    return str(made.json()["id"])


async def until_active(web: httpx.AsyncClient, made: str) -> dict[str, Any]:
    async with asyncio.timeout(15):
        while True:
            shown: dict[str, Any] = (await web.get(f"/v1/subscriptions/{made}")).json()
            if shown["status"] == "active":
                return shown
            await asyncio.sleep(0.05)


async def rise(aurora: httpx.AsyncClient) -> None:
    """Lead times rise in two steps: an alert opens and escalates."""
    for day, value in (("2026-01-31", 14.5), ("2026-02-28", 21.0)):
        told = {**LEAD_TIME, "observed_at": f"{day}T00:00:00Z", "value": value}
        assert (await aurora.post("/v1/signals", json=told)).status_code == 200


async def test_cloudevents_shake_hands_and_set_the_pace(service: FastAPI, caller: Connect) -> None:
    aurora, baltica = await caller("aurora", party="EU"), await caller("baltica", "subscriber")
    async with receiver(taking) as endpoint:
        endpoint.handshake = {
            "WebHook-Allowed-Origin": "forewarn.example", "WebHook-Allowed-Rate": "120",
        }  # fmt: skip
        made = await subscribed(baltica, endpoint, "cloudevents")
        shown = await until_active(baltica, made)
        assert shown["per_second"] == 2.0
        assert endpoint.asked[0]["webhook-request-origin"] == "forewarn.example"
        assert endpoint.heard == [], "a handshake needs no challenge"
        await rise(aurora)
        opened, escalated = await endpoint.hear(2)
        assert all(heard.verified_by == tuple(endpoint.secrets) for heard in (opened, escalated))
        assert opened.headers["content-type"] == "application/cloudevents+json"
        assert opened.headers["webhook-format"] == "cloudevents/1"
        said = opened.body
        assert (said["specversion"], said["type"], said["id"]) == ("1.0", "alert.opened", opened.id)
        assert said["source"].startswith("https://forewarn.example")
        assert escalated.body["type"] == "alert.escalated"


@pytest.mark.parametrize(
    "handshake",
    [
        None,  # OPTIONS is refused
        {},  # a mere 200 is no consent
        {"WebHook-Allowed-Origin": "elsewhere.example"},  # it consents to somebody else
    ],
)
async def test_without_a_handshake_cloudevents_are_consented_to_by_the_challenge(
    service: FastAPI, caller: Connect, handshake: dict[str, str] | None
) -> None:
    baltica = await caller("baltica", "subscriber")

    async def gives_back(heard: Heard) -> Answer:
        return 200, json.dumps({"challenge": heard.body["data"]["challenge"]}).encode()

    async with receiver(gives_back) as endpoint:
        endpoint.handshake = handshake
        made = await subscribed(baltica, endpoint, "cloudevents")
        assert (await until_active(baltica, made))["per_second"] is None
        assert [heard.type for heard in endpoint.heard] == ["webhook.verify"]


async def test_binary_cloudevents_carry_their_attributes_as_headers(
    service: FastAPI, caller: Connect
) -> None:
    aurora, baltica = await caller("aurora", party="EU"), await caller("baltica", "subscriber")
    async with receiver(taking) as endpoint:
        endpoint.handshake = {"WebHook-Allowed-Origin": "*"}
        await until_active(baltica, await subscribed(baltica, endpoint, "cloudevents_binary"))
        await rise(aurora)
        opened = (await endpoint.hear(2))[0]
        assert opened.headers["ce-type"] == "alert.opened"
        assert opened.headers["ce-id"] == opened.id == opened.headers["webhook-id"]
        assert opened.body["alert"]["good"] == "mcu"


async def test_cap_refers_to_what_was_said_before(service: FastAPI, caller: Connect) -> None:
    aurora, baltica = await caller("aurora", party="EU"), await caller("baltica", "subscriber")

    async def manner(heard: Heard) -> Answer:
        if heard.headers["content-type"] == "application/json":
            return await consenting(heard)
        return 204, b""

    async with receiver(manner) as endpoint:
        await until_active(baltica, await subscribed(baltica, endpoint, "cap"))
        await rise(aurora)
        opened, escalated = (await endpoint.hear(3))[1:]
        assert opened.headers["content-type"].startswith("application/cap+xml")
        first, second = ET.fromstring(opened.raw), ET.fromstring(escalated.raw)
        assert first.findtext(f"{CAP}msgType") == "Alert"
        assert second.findtext(f"{CAP}msgType") == "Update"
        triple = [first.findtext(f"{CAP}{name}") for name in ("sender", "identifier", "sent")]
        assert second.findtext(f"{CAP}references") == ",".join(str(part) for part in triple)


@pytest.mark.parametrize("format", ["text", "chat"])
async def test_a_chat_is_confirmed_by_whoever_reads_in_it(
    service: FastAPI, caller: Connect, format: str
) -> None:
    aurora, baltica = await caller("aurora", party="EU"), await caller("baltica", "subscriber")
    async with receiver(taking) as endpoint:
        made = await subscribed(baltica, endpoint, format)
        (asked,) = await endpoint.hear(1)
        shown = asked.raw.decode() if format == "text" else asked.body["text"]
        async with service.state.house.database.begin() as connection:
            from app import store

            open_ = await store.deliveries.asked(connection, made)  # type: ignore[arg-type]
        assert open_ is not None
        assert open_.challenge in shown, "a person can read the code"
        path = f"/v1/subscriptions/{made}/confirm"
        assert (await baltica.post(path, json={"challenge": "guessed"})).status_code == 422
        confirmed = await baltica.post(path, json={"challenge": open_.challenge})
        assert confirmed.json()["status"] == "active"
        await rise(aurora)
        told = (await endpoint.hear(3))[-1]
        line = told.raw.decode() if format == "text" else told.body["text"]
        assert "weeks" in line
        assert told.headers["webhook-format"] == f"{format}/1"
