"""Previews: what a filter would have let through is what a subscription with it was in fact owed.

Asserted on: the answer of a preview, and the deliveries that the service owed while it happened.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from alerts.endpoints import EndpointEvent
from alerts.lifecycle import EventType
from alerts.mechanisms import Level
from alerts.routing import Filter, SubscriptionId
from alerts.signals import PartnerId, SeriesKey, Severity
from app import documents, preview, store
from app.database import Database
from app.evaluate import sweep
from app.ingest import Arrival, Intake
from app.policy import Policy
from app.store.subscriptions import Status, Subscription

Connect = Callable[..., Awaitable[httpx.AsyncClient]]

NOW = datetime.now(UTC).replace(microsecond=0)
DAYS = 130
BEGIN = NOW - timedelta(days=DAYS)
GOODS = ("chips", "mcu", "dram", "nand", "analog")

PROFILE = """
id: trial
version: 1
title: Trial
summary: For tests.
reference_prefix: TRY
valid_from: 2019-01-01
valid_until: 2099-12-31
validity_source: our_design
default_tlp: GREEN
alert_per: [good, place]
parties: [{ code: EU, title: European Union }]
sectors: [semiconductors]
levels:
  - { level: monitoring, title: Monitoring, meaning: Watched., set_by: engine, source: our_design }
  - { level: early_warning, title: Early warning, meaning: May occur., set_by: engine, source: our_design }
closing: { hold_days: 3, fresh_observations: 2, source: our_design }
overflow: { open_alerts: 2, source: our_design }
rules:
  - id: lead
    title: Lead time
    version: 1
    family: availability
    sectors: [semiconductors]
    indicators: [lead_time]
    clear_after: 1
    detector:
      kind: bands
      direction: up
      bands:
        - { severity: minor, raise_at: 14, clear_at: 13 }
        - { severity: moderate, raise_at: 18, clear_at: 17 }
        - { severity: severe, raise_at: 22, clear_at: 21 }
    source: our_design
"""

WISHES = {
    "everything": Filter(),
    "drills too": Filter(exercises=True),
    "at least moderate": Filter(min_severity=Severity.moderate),
    "at least severe": Filter(min_severity=Severity.severe),
    "nothing is extreme": Filter(min_severity=Severity.extreme),
    "only crises": Filter(min_level=Level.crisis),
    "warnings": Filter(min_level=Level.early_warning),
    "one good": Filter(goods=("mcu",), min_severity=Severity.moderate),
    "ends": Filter(types=(EventType.resolved,)),
    "rises and endpoints": Filter(types=(EventType.escalated, EndpointEvent.failing)),
    "its endpoint alone": Filter(types=(EndpointEvent.failing,)),
    "another mechanism": Filter(mechanisms=("supply-watch",)),
    "a place": Filter(places=("TW",)),
    "its sector": Filter(sectors=("semiconductors",), mechanisms=("trial",)),
}


def weeks(good: int, day: int) -> float:
    """Lead times that rise and fall, each good at a pace of its own; calm in between."""
    return round(12 + 13 * max(0.0, math.sin(day / (4 + 1.3 * good) + good)) ** 2, 1)


async def history(database: Database) -> None:
    """A hundred and thirty days, posted and swept day by day; every wish subscribed all the time."""
    document = documents.read_profile(PROFILE)
    policy = Policy(documents.load_catalogue(), {document.profile.id: document.profile})
    async with database.begin() as connection:
        await store.profiles.keep(connection, document, BEGIN)
        partner = (await store.partners.keep(connection, "baltica", "EU", BEGIN)).id
        for name, wish in WISHES.items():
            await subscribe(connection, partner, name, wish)
    intake = Intake(database, policy)
    for day in range(DAYS):
        now = BEGIN + timedelta(days=day)
        arrivals = [
            Arrival(partner, key._replace(exercise=drill), now, weeks(number, day))
            for number, good in enumerate(GOODS)
            for key in (SeriesKey("semiconductors", "lead_time", good),)
            for drill in ("", "spring-drill")[: 2 if good == "mcu" else 1]
        ]
        await intake.accept(arrivals, now)
        await sweep(database, policy, now)
    await intake.stop()


def id_of(name: str) -> SubscriptionId:
    return SubscriptionId(f"sub_{list(WISHES).index(name):020x}")


async def subscribe(connection: Any, partner: PartnerId, name: str, wish: Filter) -> None:
    await store.subscriptions.add(
        connection,
        Subscription(
            id_of(name), partner, "https://hooks.baltica.example/", "json", wish, name,
            Status.suspended, BEGIN,
        ),
    )  # fmt: skip
    await connection.execute(
        text("UPDATE subscriptions SET owed_since = :at WHERE id = :id"),
        {"at": BEGIN, "id": id_of(name)},
    )


async def owed(database: Database, name: str, since: datetime) -> list[tuple[int, str, str]]:
    """What was owed to a wish since then, newest first: the transition, its type, its alert."""
    async with database.begin() as connection:
        rows = await connection.execute(
            text(
                "SELECT d.transition_id, d.type, a.ref FROM deliveries AS d "
                "JOIN alerts AS a ON a.id = d.alert_id WHERE d.subscription_id = :id "
                "AND d.created_at >= :since ORDER BY d.transition_id DESC"
            ),
            {"id": id_of(name), "since": since},
        )
        return [(row[0], row[1], row[2]) for row in rows]


async def test_a_preview_is_what_a_subscription_with_that_filter_was_in_fact_owed(
    database: Database,
) -> None:
    await history(database)
    total = Counter[str]()
    for days in (90, 30, 200):
        since = NOW - timedelta(days=days)
        for name, wish in WISHES.items():
            async with database.begin() as connection:
                found = await preview.preview(connection, wish, since)
            truth = await owed(database, name, since)
            assert found.events == Counter(kind for _, kind, _ in truth), name
            assert len(found.alerts) == len({ref for *_, ref in truth}), name
            shown = [(past.id, past.type.value, past.alert.ref) for past in found.newest]
            assert shown == truth[: preview.MOST_EVENTS], name
            left_out = found.filtered + found.exercise + found.folded
            assert found.events.total() + left_out == found.examined, name
            assert found.is_whole
            total += Counter(
                filtered=found.filtered, exercise=found.exercise, folded=found.folded,
                told=found.events.total(),
            )  # fmt: skip
    assert min(total.values()) > 50, "it was a lively history, or this proves little"


async def test_whoever_heard_an_alert_open_heard_its_end(database: Database) -> None:
    """By severity too, although alerts ease to nothing days before they end."""
    await history(database)
    async with database.begin() as connection:
        rows = await connection.execute(
            text("SELECT ref FROM alerts WHERE state = 'resolved' AND NOT folded")
        )
        ended = set(rows.scalars())
        eased = await connection.scalar(
            text("SELECT count(*) FROM transitions WHERE type = 'alert.resolved' "
                 "AND severity_from = 0")
        )  # fmt: skip
    assert eased
    for name in ("everything", "at least moderate", "at least severe", "one good"):
        truth = await owed(database, name, BEGIN)
        heard = {ref for _, kind, ref in truth if kind != EventType.resolved} & ended
        assert heard
        assert {ref for _, kind, ref in truth if kind == EventType.resolved} == heard, name


async def test_no_more_than_so_many_transitions_are_examined_and_the_answer_says_so(
    database: Database,
) -> None:
    await history(database)
    async with database.begin() as connection:
        whole = await preview.preview(connection, Filter(), BEGIN)
        cut = await preview.preview(connection, Filter(), BEGIN, most=40)
        exact = await preview.preview(connection, Filter(), BEGIN, most=whole.examined)
    assert (whole.is_whole, whole.since) == (True, BEGIN)
    assert (exact.is_whole, exact.since) == (True, BEGIN)
    assert (cut.is_whole, cut.examined) == (False, 40)
    assert cut.since > BEGIN
    assert [p.id for p in cut.newest] == [p.id for p in whole.newest][: len(cut.newest)]


async def test_examples_of_what_is_left_out_show_different_reasons(database: Database) -> None:
    await history(database)
    wish = Filter(goods=("mcu",), min_severity=Severity.severe)
    async with database.begin() as connection:
        found = await preview.preview(connection, wish, BEGIN)
    reasons = Counter(why for _, why in found.examples)
    assert len(found.examples) == preview.MOST_EXAMPLES
    assert max(reasons.values()) <= preview.MOST_ALIKE
    assert any("spring-drill" in why for why in reasons)
    assert any("asks for mcu" in why for why in reasons)


# --- the doors -----------------------------------------------------------------------------------


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    return told


async def pressed(aurora: httpx.AsyncClient) -> None:
    """The index of pressure rises, rises again and falls; a drill does so as well."""
    for ago, value in ((80, 1.6), (50, 2.6), (20, 1.4)):
        at = (NOW - timedelta(days=ago)).isoformat()
        told = {"sector": "all_sectors", "indicator": "gscpi", "unit": "sd", "value": value}
        for drill in ({}, {"exercise": "spring-drill"}):
            answer = await aurora.post("/v1/signals", json={**told, "observed_at": at, **drill})
            assert answer.status_code == 200, answer.text


async def test_a_filter_is_tried_before_anyone_subscribes(
    service: FastAPI, caller: Connect
) -> None:
    aurora = await caller("aurora")
    baltica = await caller("baltica", role="subscriber")
    await pressed(aurora)
    answer = await baltica.post("/v1/subscriptions/preview", json={})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["days"] == 90
    assert told["events"] == sum(told["by_type"].values()) == len(told["items"]) > 0
    assert told["per_day"] == round(told["events"] / 90, 2)
    assert told["left_out"] == {"filtered": 0, "exercise": told["events"], "folded": 0}
    assert told["is_whole"]
    first = told["items"][-1]
    alert = (await baltica.get(first["link"])).json()
    assert (first["type"], first["ref"]) == ("alert.opened", alert["ref"])
    assert first["title"] == alert["title"]
    assert all(item["why"] and item["at"] for item in told["items"])
    assert all("spring-drill" in item["reason"] for item in told["examples_left_out"])
    picky = {"filter": {"min_severity": "moderate", "exercises": True}, "days": 1}
    fewer = (await baltica.post("/v1/subscriptions/preview", json=picky)).json()
    assert 0 < fewer["events"] < 2 * told["events"]
    assert fewer["left_out"]["exercise"] == 0
    assert (await baltica.get("/v1/subscriptions")).json()["items"] == []
    async with service.state.house.database.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM deliveries")) == 0


async def test_a_subscription_previews_the_filter_it_has(caller: Connect) -> None:
    aurora = await caller("aurora")
    baltica = await caller("baltica", role="subscriber")
    await pressed(aurora)
    wish = {"exercises": True, "min_severity": "moderate"}
    body = {"url": "https://hooks.baltica.example/", "filter": wish}
    made = (await baltica.post("/v1/subscriptions", json=body)).json()["id"]
    path = f"/v1/subscriptions/{made}/preview"
    by_id = (await baltica.get(path, params={"days": 7})).json()
    by_body = (
        await baltica.post("/v1/subscriptions/preview", json={"filter": wish, "days": 7})
    ).json()
    assert by_id["events"] > 0
    clocks = {"since"}
    assert {k: v for k, v in by_id.items() if k not in clocks} == {
        k: v for k, v in by_body.items() if k not in clocks
    }
    cygnus = await caller("cygnus", role="subscriber")
    operator = await caller("desk", role="operator")
    problem(await cygnus.get(path), 404)
    assert (await operator.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"days": 0}, "/days"),
        ({"days": 91}, "/days"),
        ({"days": 10**30}, "/days"),
        ({"days": "soon"}, "/days"),
        ({"filter": {"sectors": ["semiconductor"]}}, "/filter/sectors/0"),
        ({"filter": {"places": ["TW", "X\u0000"]}}, "/filter/places/1"),
        ({"filter": {"types": ["webhook.test"]}}, "/filter/types/0"),
        ({"filter": {"min_severity": 3}}, "/filter/min_severity"),
        ({"url": "https://example.org/"}, "/url"),
    ],
)
async def test_a_wrong_filter_is_refused_in_a_preview_as_in_a_subscription(
    caller: Connect, body: dict[str, object], pointer: str
) -> None:
    baltica = await caller("baltica", role="subscriber")
    told = problem(await baltica.post("/v1/subscriptions/preview", json=body), 422)
    assert [error["pointer"] for error in told["errors"]] == [pointer]


async def test_who_may_not_read_alerts_may_not_preview_them(caller: Connect) -> None:
    baltica = await caller("baltica", role="subscriber")
    no_key = {"Authorization": ""}
    problem(await baltica.post("/v1/subscriptions/preview", json={}, headers=no_key), 401)
    name = "/v1/subscriptions/sub_00000000000000000000/preview"
    problem(await baltica.get(name), 404)
    problem(await baltica.get(name, params={"days": "many"}), 422)


async def test_no_more_than_so_many_previews_are_made_at_once(
    service: FastAPI, caller: Connect
) -> None:
    baltica = await caller("baltica", role="subscriber")
    places = service.state.house.previews
    with places.one(), places.one():
        refused = await baltica.post("/v1/subscriptions/preview", json={})
        assert problem(refused, 429)["retryable"]
        assert refused.headers["retry-after"] == "2"
    assert (await baltica.post("/v1/subscriptions/preview", json={})).status_code == 200
    assert places.taken == 0
