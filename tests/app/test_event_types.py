"""The catalogue of event types: complete, true of what is sent, and open to everyone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from alerts.endpoints import EndpointEvent
from alerts.lifecycle import EventType
from alerts.payloads import TEST, VERIFY, Format
from app.api.webhooks import EVENTS
from tests.golden.test_format_bytes import body_of, messages


@pytest.fixture
async def visitor(service: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a key."""
    transport = httpx.ASGITransport(service, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://forewarn") as client:
        yield client


def test_every_type_that_is_sent_is_in_the_catalogue() -> None:
    assert set(EVENTS) == {*map(str, EventType), *map(str, EndpointEvent), TEST, VERIFY}


async def test_the_catalogue_lists_every_type_and_each_is_served_by_its_link(
    visitor: httpx.AsyncClient,
) -> None:
    listed = (await visitor.get("/v1/event-types")).json()
    assert listed["next"] is None
    assert [one["type"] for one in listed["items"]] == list(EVENTS)
    for one in listed["items"]:
        assert (await visitor.get(one["links"]["self"])).json() == one
        assert [f["format"] for f in one["formats"]] == [f.value for f in Format]
        assert one["formats"][0] == {
            "format": "json", "versions": [1], "content_type": "application/json",
        }  # fmt: skip


async def test_the_schemas_are_sound_and_the_examples_keep_to_them(
    visitor: httpx.AsyncClient,
) -> None:
    for one in (await visitor.get("/v1/event-types")).json()["items"]:
        assert one["schema"]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        Draft202012Validator.check_schema(one["schema"])
        validator = Draft202012Validator(one["schema"])
        validator.validate(one["example"])
        assert one["example"]["type"] == one["type"]
        assert not validator.is_valid({**one["example"], "type": "alert.invented"})
        assert not validator.is_valid({**one["example"], "data": {}})


@pytest.mark.parametrize("name", list(messages()))
async def test_the_promised_bytes_keep_to_the_schema_of_their_type(
    visitor: httpx.AsyncClient, name: str
) -> None:
    body = json.loads(body_of(name, Format.json))
    told = (await visitor.get(f"/v1/event-types/{body['type']}")).json()
    Draft202012Validator(told["schema"]).validate(body)


@pytest.mark.parametrize("type", ["alert.invented", "webhook", "%00", "cap"])
async def test_an_unknown_type_is_a_problem(visitor: httpx.AsyncClient, type: str) -> None:
    answer = await visitor.get(f"/v1/event-types/{type}")
    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/not-found"


async def test_every_type_is_described_in_the_openapi_document(visitor: httpx.AsyncClient) -> None:
    assert list((await visitor.get("/openapi.json")).json()["webhooks"]) == list(EVENTS)
