"""The doors of subscriptions and deliveries: whose they are, what is refused, what can be read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from sqlalchemy import text

from alerts.endpoints import EndpointEvent
from alerts.lifecycle import EventType
from alerts.routing import Filter, SubscriptionId
from app import store
from app.store.debts import Debt
from tests.app.receiver import Answer, Heard, Receiver, consenting, free_port, receiver

Connect = Callable[..., Awaitable[httpx.AsyncClient]]


@dataclass(slots=True)
class Baltica:
    """The partner that subscribes: a client and an endpoint."""

    web: httpx.AsyncClient
    endpoint: Receiver
    service: FastAPI

    async def subscribe(self, **more: object) -> dict[str, Any]:
        """Subscribes the endpoint; its secret is known to it before it is asked."""
        answer = await self.web.post("/v1/subscriptions", json={"url": self.endpoint.url, **more})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        self.endpoint.secrets.append(made["secret"])
        return made

    async def active(self) -> str:
        """Subscribes and waits until the endpoint has consented."""
        made = str((await self.subscribe())["id"])
        await self.until(f"/v1/subscriptions/{made}", "status", "active")
        return made

    async def until(self, path: str, field: str, value: object) -> dict[str, Any]:
        """Reads until a field has that value."""
        shown: dict[str, Any] = {}
        for _ in range(200):
            shown = (await self.web.get(path)).json()
            if shown[field] == value:
                return shown
            await asyncio.sleep(0.025)
        raise AssertionError(shown)

    async def owe(self, to: str, *alerts: int) -> None:
        """Owes one event about each alert, as the engine would."""
        debts = [
            Debt(SubscriptionId(to), "alert.updated", None, alert, '{"a":1}') for alert in alerts
        ]
        async with self.service.state.house.database.begin() as connection:
            await store.debts.owe(connection, debts, datetime.now(UTC))


@pytest.fixture
async def baltica(service: FastAPI, caller: Connect) -> AsyncIterator[Baltica]:
    async with receiver() as endpoint:
        yield Baltica(await caller("baltica", role="subscriber"), endpoint, service)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["request_id"]
    return told


# --- making, changing, ending --------------------------------------------------------------------


async def test_an_endpoint_that_consents_becomes_active_and_its_secret_is_shown_once(
    baltica: Baltica,
) -> None:
    answer = await baltica.web.post(
        "/v1/subscriptions", json={"url": baltica.endpoint.url, "description": "our desk"}
    )
    made = answer.json()
    assert answer.headers["location"] == f"/v1/subscriptions/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert made["secret"].startswith("whsec_")
    assert made["status"] == "pending"
    shown = await baltica.until(f"/v1/subscriptions/{made['id']}", "status", "active")
    assert shown == {
        **{name: value for name, value in made.items() if name != "secret"},
        "status": "active",
        "verified_at": shown["verified_at"],
        "last_sequence": 1,
    }
    assert shown["filter"] == {
        "mechanisms": [],
        "sectors": [],
        "goods": [],
        "places": [],
        "min_level": "monitoring",
        "min_severity": "none",
        "types": [],
        "exercises": False,
    }
    assert made["secret"] not in (await baltica.web.get("/v1/subscriptions")).text


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({}, "/url", "required"),
        ({"url": "http://10.0.0.1/"}, "/url", "private address"),
        ({"url": "http://127.1/"}, "/url", "usual form"),
        ({"url": "https://u:p@example.org/"}, "/url", "user name"),
        ({"url": "https://example.org/" + "a" * 3_000}, "/url", "2048"),
        ({"format": "xml"}, "/format", "json"),
        ({"format": "json/1"}, "/format", "json"),
        ({"order": "newest"}, "/order", "latest"),
        ({"per_second": 0}, "/per_second", "greater than 0"),
        ({"filter": {"sectors": ["semiconductor"]}}, "/filter/sectors/0", "semiconductors"),
        ({"filter": {"goods": ["mcu", "unobtainium"]}}, "/filter/goods/1", "no good"),
        ({"filter": {"places": ["XX"]}}, "/filter/places/0", "no place"),
        ({"filter": {"mechanisms": ["ttc"]}}, "/filter/mechanisms/0", "no mechanism"),
        ({"filter": {"min_level": "panic"}}, "/filter/min_level", "crisis"),
        ({"filter": {"places": ["TW", "XX"]}}, "/filter/places/1", "no place"),
        ({"filter": {"min_severity": "panic"}}, "/filter/min_severity", "moderate"),
        ({"filter": {"types": ["alert.exploded"]}}, "/filter/types/0", "alert.opened"),
        ({"filter": {"types": ["alert.opened", "webhook.test"]}}, "/filter/types/1", "recovered"),
        ({"filter": {"types": [{}]}}, "/filter/types/0", "endpoint.failing"),
        ({"filter": {"types": "alert.opened"}}, "/filter/types", "list"),
        ({"filter": {"types": ["alert.opened"] * 51}}, "/filter/types", "50"),
        ({"filter": {"goods": ["mcu"] * 201}}, "/filter/goods", "200"),
        ({"filter": {"goods": ["m" * 101]}}, "/filter/goods/0", "100"),
        ({"filter": {"goods": [7]}}, "/filter/goods/0", "string"),
        ({"filter": {"sectors": ["semi\u0000conductors"]}}, "/filter/sectors/0", "no sector"),
        ({"filter": {"sectors": ["sémiconducteurs\u202e"]}}, "/filter/sectors/0", "no sector"),
        ({"filter": {"sectors": ["'; DROP TABLE alerts --"]}}, "/filter/sectors/0", "no sector"),
        ({"filter": [[[[]]]]}, "/filter", "dictionary"),
        ({"filter": None}, "/filter", "dictionary"),
        ({"filter": {"colour": ["red"]}}, "/filter/colour", "not permitted"),
        ({"filter": {"exercises": "perhaps"}}, "/filter/exercises", "boolean"),
        ({"description": "a\u0000b"}, "/description", "match"),
        ({"secret": "whsec_mine"}, "/secret", "not permitted"),
    ],
)
async def test_a_wrong_wish_is_refused_naming_the_field_and_what_would_do(
    baltica: Baltica, body: dict[str, Any], pointer: str, said: str
) -> None:
    whole = body if body == {} else {"url": baltica.endpoint.url, **body}
    told = problem(await baltica.web.post("/v1/subscriptions", json=whole), 422)
    fault = next(error for error in told["errors"] if error["pointer"] == pointer)
    assert said in fault["detail"] + str(fault.get("allowed", ""))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b'{"url": "https://example.org/", "filter": ' + b"[" * 60_000, 400),
        (b'{"url": "https://example.org/", "description": "\xff\xfe"}', 400),
        (b'{"url": "https://example.org/", "description": "\\ud800"}', 422),
        (b'{"url": "https://example.org/", "filter": {"min_level": NaN}}', 422),
        (b'{"url": "https://example.org/", "filter": {"goods": [' + b'"mcu",' * 20_000, 413),
    ],
    ids=["deep", "no utf-8", "half a character", "not a number", "huge"],
)
async def test_a_hostile_wish_is_a_clear_problem_and_nothing_else(
    baltica: Baltica, raw: bytes, status: int
) -> None:
    """Half a character is refused by the fields; nobody sees a failure of ours."""
    made = await baltica.active()
    json_body = {"content-type": "application/json"}
    for method, path in (("POST", ""), ("PATCH", f"/{made}")):
        answer = await baltica.web.request(
            method, f"/v1/subscriptions{path}", content=raw, headers=json_body
        )
        assert problem(answer, status)["detail"]


async def test_a_filter_that_was_stored_without_a_least_severity_has_none(baltica: Baltica) -> None:
    made = await baltica.active()
    async with baltica.service.state.house.database.begin() as connection:
        await connection.execute(
            text("UPDATE subscriptions SET filter = filter - 'min_severity' WHERE id = :id"),
            {"id": made},
        )
        (listener,) = (await store.publishing.prepare(connection, transitions=1)).listeners
    assert listener.filter == Filter()
    shown = (await baltica.web.get(f"/v1/subscriptions/{made}")).json()
    assert shown["filter"]["min_severity"] == "none"


async def test_a_subscription_is_changed_in_part(baltica: Baltica) -> None:
    made = await baltica.active()
    path = f"/v1/subscriptions/{made}"
    wish = {
        "sectors": ["semiconductors"],
        "min_level": "early_warning",
        "min_severity": "severe",
        "types": ["alert.opened", "endpoint.suspended"],
    }
    changed = (await baltica.web.patch(path, json={"filter": wish})).json()
    assert {name: changed["filter"][name] for name in wish} == wish
    assert (changed["status"], changed["url"]) == ("active", baltica.endpoint.url)
    again = (await baltica.web.patch(path, json={"description": "night shift"})).json()
    assert (again["description"], again["filter"]) == ("night shift", changed["filter"])
    problem(await baltica.web.patch(path, json={"url": "https://192.168.0.1/"}), 422)


async def test_another_address_must_consent_and_old_events_wait_for_it(baltica: Baltica) -> None:
    made = await baltica.active()
    async with receiver() as other:
        other.secrets = baltica.endpoint.secrets
        changed = await baltica.web.patch(f"/v1/subscriptions/{made}", json={"url": other.url})
        assert (changed.json()["status"], changed.json()["verified_at"]) == ("pending", None)
        await baltica.owe(made, 1)
        heard = await other.hear(2)
        assert [h.type for h in heard] == ["webhook.verify", "alert.updated"]
        assert all(h.verified_by for h in heard)


async def test_what_is_ended_is_gone(baltica: Baltica) -> None:
    made = await baltica.active()
    path = f"/v1/subscriptions/{made}"
    assert (await baltica.web.delete(path)).status_code == 204
    problem(await baltica.web.get(path), 404)
    problem(await baltica.web.delete(path), 404)
    assert (await baltica.web.get("/v1/subscriptions")).json() == {"items": [], "next": None}


async def test_a_list_comes_in_pages(baltica: Baltica) -> None:
    made = sorted([(await baltica.subscribe())["id"] for _ in range(5)])
    found: list[str] = []
    path = "/v1/subscriptions?limit=2"
    while path:
        answer = await baltica.web.get(path)
        found += [entry["id"] for entry in answer.json()["items"]]
        path = answer.links.get("next", {}).get("url", "")
    assert found == made
    problem(await baltica.web.get("/v1/subscriptions?after=nonsense"), 422)


# --- whose it is ---------------------------------------------------------------------------------


async def test_cygnus_sees_nothing_of_balticas_and_an_operator_everything(
    baltica: Baltica, caller: Connect
) -> None:
    made = await baltica.active()
    delivery = (await baltica.web.get(f"/v1/subscriptions/{made}/deliveries")).json()["items"][0]
    cygnus, operator = await caller("cygnus", role="partner"), await caller("desk", role="operator")
    reads = [
        f"/v1/subscriptions/{made}",
        f"/v1/subscriptions/{made}/deliveries",
        f"/v1/subscriptions/{made}/events",
        f"/v1/deliveries/{delivery['id']}",
    ]
    for path in reads:
        told = problem(await cygnus.get(path), 404)
        assert "There is no" in told["detail"]
        assert (await operator.get(path)).status_code == 200
    for action in ("test", "rotate-secret", "suspend", "resume"):
        problem(await cygnus.post(f"/v1/subscriptions/{made}/{action}"), 404)
    problem(await cygnus.post(f"/v1/deliveries/{delivery['id']}/redeliver"), 404)
    problem(await cygnus.patch(f"/v1/subscriptions/{made}", json={}), 404)
    problem(await cygnus.delete(f"/v1/subscriptions/{made}"), 404)
    assert (await cygnus.get("/v1/subscriptions")).json()["items"] == []
    assert [s["id"] for s in (await operator.get("/v1/subscriptions")).json()["items"]] == [made]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/subscriptions/sub_00000000000000000000",  # none of that name
        "/v1/subscriptions/%00",
        "/v1/subscriptions/sub_' OR 1=1--",
        "/v1/subscriptions/x/events",
        "/v1/deliveries/msg_00000000000000000000_1",
        "/v1/deliveries/msg_00000000000000000000_%00",
        "/v1/deliveries/msg__",
        "/v1/deliveries/msg_0_99999999999999999999999",
        "/v1/deliveries/1",
    ],
)
async def test_a_name_that_is_none_is_not_found(baltica: Baltica, path: str) -> None:
    problem(await baltica.web.get(path), 404)


async def test_a_key_without_the_scope_may_look_and_not_touch(
    baltica: Baltica, service: FastAPI
) -> None:
    made = await baltica.active()
    from app import access

    async with service.state.house.database.begin() as connection:
        key = await access.issue_key(
            connection,
            name="baltica",
            role="subscriber",
            scopes=["alerts:read"],
            now=datetime.now(UTC),
        )
    headers = {"Authorization": f"Bearer {key.token}"}
    assert (await baltica.web.get(f"/v1/subscriptions/{made}", headers=headers)).status_code == 200
    problem(await baltica.web.post("/v1/subscriptions", json={}, headers=headers), 403)
    problem(await baltica.web.delete(f"/v1/subscriptions/{made}", headers=headers), 403)


# --- sending -------------------------------------------------------------------------------------


async def test_a_test_goes_the_way_alerts_go(baltica: Baltica) -> None:
    made = await baltica.active()
    sent = await baltica.web.post(f"/v1/subscriptions/{made}/test")
    assert (sent.status_code, sent.json()["type"]) == (202, "webhook.test")
    heard = (await baltica.endpoint.hear(2))[-1]
    assert (heard.id, heard.type) == (sent.json()["id"], "webhook.test")
    assert heard.verified_by
    shown = await baltica.until(sent.json()["links"]["delivery"], "state", "delivered")
    assert [attempt["verdict"] for attempt in shown["history"]] == ["delivered"]


async def test_a_challenge_that_an_answer_repeats_is_not_shown_to_its_owner(
    baltica: Baltica,
) -> None:
    async def echoing(heard: Heard) -> Answer:
        return 500, b"you said " + json.dumps(heard.body["data"]).encode()

    baltica.endpoint.manner = echoing
    made = str((await baltica.subscribe())["id"])
    (heard,) = await baltica.endpoint.hear(1)
    shown = await baltica.until(f"/v1/deliveries/{heard.id}", "attempts", 1)
    (tried,) = shown["history"]
    assert tried["excerpt"] == ""
    assert heard.body["data"]["challenge"] not in json.dumps(shown), made


async def test_an_endpoint_that_has_not_consented_is_asked_anew_by_a_test(baltica: Baltica) -> None:
    async def confused(heard: Heard) -> Answer:
        return 200, b"{}"

    baltica.endpoint.manner = confused
    made = str((await baltica.subscribe())["id"])
    await baltica.endpoint.hear(1)
    baltica.endpoint.manner = consenting
    sent = (await baltica.web.post(f"/v1/subscriptions/{made}/test")).json()
    assert sent["type"] == "webhook.verify"
    await baltica.until(f"/v1/subscriptions/{made}", "status", "active")
    first, second = baltica.endpoint.heard[0], baltica.endpoint.heard[-1]
    assert first.body["data"]["challenge"] != second.body["data"]["challenge"]


async def test_a_challenge_is_for_the_endpoint_alone(baltica: Baltica) -> None:
    baltica.endpoint.port = free_port()  # nobody is there
    made = str((await baltica.subscribe())["id"])
    async with baltica.service.state.house.database.begin() as connection:
        (owed,) = await store.delivery_log.events(
            connection, SubscriptionId(made), after=0, limit=2
        )
    challenge = json.loads(owed.data)["challenge"]
    for path in (
        f"/v1/subscriptions/{made}/events",
        f"/v1/subscriptions/{made}/deliveries",
        f"/v1/deliveries/{owed.webhook_id}",
    ):
        answer = await baltica.web.get(path)
        assert answer.status_code == 200
        assert challenge not in answer.text


async def test_both_secrets_sign_after_a_rotation(baltica: Baltica) -> None:
    made = await baltica.active()
    answer = await baltica.web.post(f"/v1/subscriptions/{made}/rotate-secret")
    assert answer.headers["cache-control"] == "no-store"
    old, new = baltica.endpoint.secrets[0], answer.json()["secret"]
    baltica.endpoint.secrets.append(new)
    await baltica.web.post(f"/v1/subscriptions/{made}/test")
    assert (await baltica.endpoint.hear(2))[-1].verified_by == (old, new)
    at_once = {"overlap_hours": 0}
    newest = await baltica.web.post(f"/v1/subscriptions/{made}/rotate-secret", json=at_once)
    baltica.endpoint.secrets.append(newest.json()["secret"])
    await baltica.web.post(f"/v1/subscriptions/{made}/test")
    assert (await baltica.endpoint.hear(3))[-1].verified_by == (newest.json()["secret"],)
    problem(
        await baltica.web.post(
            f"/v1/subscriptions/{made}/rotate-secret", json={"overlap_hours": 169}
        ),
        422,
    )


async def test_what_happens_while_it_is_suspended_comes_when_it_is_resumed(
    baltica: Baltica,
) -> None:
    made = await baltica.active()
    path = f"/v1/subscriptions/{made}"
    shown = (await baltica.web.post(f"{path}/suspend")).json()
    assert (shown["status"], shown["reason"]) == ("suspended", "suspended by baltica")
    problem(await baltica.web.post(f"{path}/test"), 409)
    await baltica.owe(made, 1, 1, 2)
    await asyncio.sleep(0.2)
    assert baltica.endpoint.events() == []
    owed = (await baltica.web.get(f"{path}/deliveries?state=owed")).json()["items"]
    assert [(d["sequence"], d["due_at"]) for d in owed] == [(4, None), (3, None), (2, None)]
    problem(await baltica.web.post(f"/v1/deliveries/{owed[0]['id']}/redeliver"), 409)
    assert (await baltica.web.post(f"{path}/resume")).json()["status"] == "active"
    assert {h.sequence for h in (await baltica.endpoint.hear(4))[1:]} == {2, 3, 4}
    problem(await baltica.web.post(f"{path}/resume"), 409)


async def test_a_delivery_tells_its_whole_story_and_is_sent_again_under_its_id(
    baltica: Baltica,
) -> None:
    made = await baltica.active()

    async def broken(heard: Heard) -> Answer:
        return 503, b"<h1>later & later</h1>"

    baltica.endpoint.manner = broken
    await baltica.owe(made, 1)
    await baltica.endpoint.hear(2)
    listed = await baltica.web.get(f"/v1/subscriptions/{made}/deliveries?limit=1")
    (entry,) = listed.json()["items"]
    assert listed.json()["next"]
    path = f"/v1/deliveries/{entry['id']}"
    shown = await baltica.until(path, "attempts", 1)
    (tried,) = shown["history"]
    assert {"sent_after", "answered_after", "answer_headers"} <= tried.keys()
    assert (tried["status"], tried["error"], tried["verdict"]) == (503, "http_5xx", "retry")
    assert tried["excerpt"] == "<h1>later & later</h1>"
    assert (shown["state"], shown["data"], shown["type"]) == ("owed", {"a": 1}, "alert.updated")
    assert shown["due_at"] > tried["at"]
    baltica.endpoint.manner = consenting
    assert (await baltica.web.post(f"{path}/redeliver")).status_code == 202
    shown = await baltica.until(path, "state", "delivered")
    assert [t["verdict"] for t in shown["history"]] == ["retry", "delivered"]
    await baltica.web.post(f"{path}/redeliver")
    await baltica.until(path, "attempts", 3)
    assert baltica.endpoint.times_heard()[entry["id"]] == 3
    challenge = baltica.endpoint.heard[0].id
    problem(await baltica.web.post(f"/v1/deliveries/{challenge}/redeliver"), 409)


async def test_the_pull_feed_has_the_same_events_without_gaps(baltica: Baltica) -> None:
    made = await baltica.active()
    await baltica.owe(made, *range(1, 8))
    heard = {h.id: h for h in await baltica.endpoint.hear(8)}
    pulled: list[dict[str, Any]] = []
    after: str | None = "0"
    while after is not None:
        answer = await baltica.web.get(
            f"/v1/subscriptions/{made}/events", params={"after": after, "limit": 3}
        )
        pulled += answer.json()["items"]
        after = answer.json()["next"]
    assert [event["sequence"] for event in pulled] == list(range(1, 9))
    for event in pulled[1:]:
        same = {name: value for name, value in event.items() if name != "id"}
        assert same == heard[event["id"]].body
    rest = await baltica.web.get(f"/v1/subscriptions/{made}/events?after=7")
    assert [event["sequence"] for event in rest.json()["items"]] == [8]
    problem(await baltica.web.get(f"/v1/subscriptions/{made}/events?after=-1"), 422)


async def test_the_openapi_document_describes_every_webhook(baltica: Baltica) -> None:
    document = (await baltica.web.get("/openapi.json")).json()
    validate(document)
    assert set(document["webhooks"]) == {
        *EventType,
        *EndpointEvent,
        "webhook.verify",
        "webhook.test",
    }
    headers = document["webhooks"]["alert.opened"]["post"]["parameters"]
    assert [h["name"] for h in headers] == ["webhook-id", "webhook-timestamp", "webhook-signature"]
