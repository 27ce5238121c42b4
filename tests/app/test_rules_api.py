"""The doors of rules, shelves, findings, the audit, and the questions why not."""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from sqlalchemy import text

from alerts.findings import Finding, State
from alerts.lifecycle import EventType
from alerts.mechanisms import Level
from alerts.routing import Filter, SubscriptionId
from alerts.signals import SeriesId
from app import store
from app.database import write
from app.inquire import Obstacle, Outcome
from app.store.audit import Action
from app.store.subscriptions import Status, Subscription

Connect = Callable[..., Awaitable[httpx.AsyncClient]]

NOW = datetime.now(UTC)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
WHY = "The index runs hotter since it was rebased."
RULE = "/v1/rules/supply-watch/pressure-early"


@dataclass(slots=True)
class House:
    """The service with *olga*, its operator, and *aurora*, who reports."""

    service: FastAPI
    olga: httpx.AsyncClient
    aurora: httpx.AsyncClient

    async def report(self, value: float, days_ago: int = 1, **more: object) -> int:
        """Reports the index of global pressure, or what ``more`` says; gives the series' id."""
        said: dict[str, Any] = {"sector": "all_sectors", "indicator": "gscpi", "unit": "sd", **more}
        at = (MIDNIGHT - timedelta(days=days_ago)).isoformat()
        answer = await self.aurora.post(
            "/v1/signals", json={**said, "observed_at": at, "value": value}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["accepted"] == 1, answer.text
        query = {k: v for k, v in said.items() if k in {"sector", "indicator", "good", "place"}}
        listed = (await self.aurora.get("/v1/series", params=query)).json()["items"]
        return int(listed[0]["id"])

    async def make(self, **changes: object) -> httpx.Response:
        body = {"mechanism": "supply-watch", "rule": pressure(**changes), "reason": WHY}
        return await self.olga.post("/v1/rules", json=body)

    async def change(self, version: int, **changes: object) -> httpx.Response:
        body = {"rule": pressure(**changes), "reason": "Too early after all."}
        return await self.olga.put(RULE, json=body, headers={"If-Match": f'"{version}"'})

    async def shelve(self, **what: object) -> httpx.Response:
        until = (NOW + timedelta(days=2)).isoformat()
        return await self.olga.post(
            "/v1/shelves", json={"until": until, "reason": "Carnival week.", **what}
        )


def pressure(**changes: object) -> dict[str, Any]:
    return {
        "id": "pressure-early",
        "title": "Pressure, early",
        "family": "pressure",
        "sectors": ["all_sectors"],
        "indicators": ["gscpi"],
        "detector": {
            "kind": "bands",
            "direction": "up",
            "bands": [{"severity": "minor", "raise_at": 0.8, "clear_at": 0.4}],
        },
        "source": "our_design",
        **changes,
    }


def banded(**band: object) -> dict[str, Any]:
    return {"kind": "bands", "direction": "up", "bands": [{"severity": "minor", **band}]}


@pytest.fixture
async def house(service: FastAPI, caller: Connect) -> House:
    return House(service, await caller("olga", role="operator"), await caller("aurora", party="EU"))


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    return told


async def test_an_operator_makes_a_rule_and_it_is_asked_at_once(house: House) -> None:
    made = await house.make()
    assert made.status_code == 201, made.text
    assert (made.headers["Location"], made.headers["ETag"]) == (RULE, '"1"')
    series = await house.report(0.9)
    query: dict[str, Any] = {"mechanism": "supply-watch", "series_id": series}
    answer = await house.aurora.get("/v1/findings", params=query)
    (found,) = answer.json()["items"]
    assert (found["rule"], found["rule_version"], found["severity"]) == (
        "pressure-early",
        1,
        "minor",
    )
    assert found["alert"].startswith("SW-")


async def test_a_shadow_rule_is_judged_and_recorded_and_moves_no_alert(house: House) -> None:
    await house.make(shadow=True)
    await house.report(0.9)
    assert (await house.aurora.get("/v1/alerts")).json()["items"] == []
    for shadow, count in ((True, 1), (False, 0)):
        query: dict[str, Any] = {"mechanism": "supply-watch", "shadow": shadow}
        listed = await house.aurora.get("/v1/findings", params=query)
        assert len(listed.json()["items"]) == count


async def test_every_version_says_who_made_it_and_why(house: House) -> None:
    await house.make()
    changed = await house.change(1, title="Pressure, later")
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    gone = await house.olga.delete(
        RULE, params={"reason": "Not worth it."}, headers={"If-Match": '"2"'}
    )
    assert gone.json()["status"] == "retired"
    shown = (await house.aurora.get(RULE)).json()
    assert [
        (v["version"], v["created_by"], v["reason"], v["retired"]) for v in shown["versions"]
    ] == [
        (1, "olga", WHY, False),
        (2, "olga", "Too early after all.", False),
        (3, "olga", "Not worth it.", True),
    ]
    assert shown["versions"][0]["rule"]["title"] == "Pressure, early"
    back = await house.change(3)
    assert (back.json()["status"], back.json()["version"]) == ("in_use", 4)


async def test_the_versions_of_a_profile_are_among_those_of_its_rules(house: House) -> None:
    shown = await house.aurora.get("/v1/rules/supply-watch/global-pressure")
    assert shown.headers["ETag"] == '"1"'
    assert shown.json()["origin"] == "profile"
    assert [(v["version"], v["created_by"]) for v in shown.json()["versions"]] == [(1, "profile")]


async def test_who_comes_second_is_told_that_somebody_was_first(house: House) -> None:
    await house.make()
    assert (await house.change(1)).status_code == 200
    told = problem(await house.change(1), 409)
    assert "version 2, not 1" in told["detail"]
    problem(await house.make(), 409)
    problem(
        await house.olga.delete(RULE, params={"reason": "Gone."}, headers={"If-Match": '"1"'}), 409
    )


async def test_a_change_needs_the_version_it_was_made_from(house: House) -> None:
    await house.make()
    body = {"rule": pressure(), "reason": WHY}
    problem(await house.olga.put(RULE, json=body), 422)
    told = problem(await house.olga.put(RULE, json=body, headers={"If-Match": "*"}), 422)
    assert told["errors"][0]["parameter"] == "If-Match"
    problem(
        await house.olga.put(
            "/v1/rules/supply-watch/nothing", json=body | {"rule": {}}, headers={"If-Match": "1"}
        ),
        404,
    )


REFUSED = [
    (
        {"detector": banded(raise_at=1, clear_at=2)},
        "/rule/detector/bands/0/clear_at",
        "clears too late",
    ),
    ({"indicators": ["gscpy"]}, "/rule/indicators/0", "unknown indicator"),
    ({"source": ""}, "/rule/detector/bands/0/raise_at", "a number without a source"),
    ({"source": "hearsay"}, "/rule/source", "a source the profile does not know"),
    ({"detector": {"kind": "guess"}}, "/rule/detector/kind", "unknown detector"),
    ({"colour": "red"}, "/rule/colour", "unknown key"),
    ({"id": "Not An Id/.."}, "/rule/id", "no id"),
    (
        {"detector": banded(raise_at=10**400, clear_at=0)},
        "/rule/detector/bands/0/raise_at",
        "beyond all numbers",
    ),
    ({"sectors": ["shoes"]}, "/rule/sectors/0", "unknown sector"),
]


@pytest.mark.parametrize(("changes", "pointer", "_why"), REFUSED, ids=[r[2] for r in REFUSED])
async def test_a_rule_that_cannot_be_meant_is_refused_with_what_is_wrong_where(
    house: House, changes: dict[str, object], pointer: str, _why: str
) -> None:
    told = problem(await house.make(**changes), 422)
    assert pointer in [e["pointer"] for e in told["errors"]]
    problem(await house.aurora.get(RULE), 404)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


HOSTILE = [
    ('{"title": "half \\ud800"}', "/rule/title", "half a character"),
    ('{"title": "\\u0000"}', "/rule/title", "U+0000"),
    ('{"\\udfff": 1}', "/rule", "half a character as a key"),
    (f'{{"goods": {nested(900)}}}', None, "nested 900 deep"),
    ('{"raise_after": NaN}', "/rule/raise_after", "no number"),
    ('{"raise_after": 1e999}', "/rule/raise_after", "beyond all numbers"),
    ("{}", "/rule", "nothing"),
]


@pytest.mark.parametrize(("rule", "pointer", "_why"), HOSTILE, ids=[h[2] for h in HOSTILE])
async def test_hostile_rules_are_refused_with_a_clear_error(
    house: House, rule: str, pointer: str | None, _why: str
) -> None:
    body = f'{{"mechanism": "supply-watch", "reason": "Because.", "rule": {rule}}}'
    answer = await house.olga.post(
        "/v1/rules", content=body, headers={"Content-Type": "application/json"}
    )
    told = problem(answer, 422)
    assert pointer in {None, *(e["pointer"] for e in told["errors"])}


async def test_an_unknown_mechanism_a_changed_id_and_no_reason_are_refused(house: House) -> None:
    body = {"mechanism": "house-wach", "rule": pressure(), "reason": WHY}
    told = problem(await house.olga.post("/v1/rules", json=body), 422)
    assert told["errors"][0]["pointer"] == "/mechanism"
    assert "supply-watch" in told["errors"][0]["allowed"]
    problem(await house.olga.post("/v1/rules", json={**body, "reason": ""}), 422)
    await house.make()
    told = problem(await house.change(1, id="another"), 422)
    assert told["errors"][0]["pointer"] == "/rule/id"


async def test_only_operators_and_admins_change_rules(house: House, caller: Connect) -> None:
    body = {"mechanism": "supply-watch", "rule": pressure(), "reason": WHY}
    admin = await caller("ada", role="admin")
    reader = await caller("baltica", role="subscriber")
    for web in (house.aurora, reader):
        problem(await web.post("/v1/rules", json=body), 403)
        problem(await web.put(RULE, json=body, headers={"If-Match": "1"}), 403)
        problem(await web.delete(RULE, params={"reason": WHY}, headers={"If-Match": "1"}), 403)
        problem(await web.post("/v1/shelves", json={}), 403)
        problem(await web.get("/v1/audit"), 403)
        assert (await web.get("/v1/rules")).status_code == 200
    assert (await admin.post("/v1/rules", json=body)).status_code == 201


async def test_the_list_of_rules_is_narrowed_and_paged(house: House) -> None:
    await house.make(shadow=True)
    await house.make(id="pressure-late")

    async def ids(**params: Any) -> list[str]:
        query = {"mechanism": "supply-watch", **params}
        return [r["id"] for r in (await house.olga.get("/v1/rules", params=query)).json()["items"]]

    assert await ids(indicator="gscpi") == ["global-pressure", "pressure-early", "pressure-late"]
    everything = await ids()
    assert {"chokepoint-transits", "pressure-early", "pressure-late"} < set(everything)
    assert everything == sorted(everything)
    assert await ids(shadow=True) == ["pressure-early"]
    await house.olga.delete(RULE, params={"reason": "Gone."}, headers={"If-Match": "1"})
    assert "pressure-early" not in await ids()
    assert await ids(status="retired") == ["pressure-early"]
    page = await house.olga.get("/v1/rules", params={"mechanism": "supply-watch", "limit": 2})
    rest = await house.olga.get(
        "/v1/rules", params={"mechanism": "supply-watch", "after": page.json()["next"]}
    )
    everything.remove("pressure-early")
    assert [r["id"] for r in (*page.json()["items"], *rest.json()["items"])] == everything


async def test_a_broken_rule_in_the_database_is_shown_with_what_is_wrong(house: House) -> None:
    await house.make()
    async with house.service.state.house.database.begin() as connection:
        await connection.execute(
            text('UPDATE rules SET document = document || \'{"indicators": ["gscpi_old"]}\'')
        )
    await house.make(id="pressure-late")
    (shown,) = (await house.olga.get("/v1/rules", params={"status": "refused"})).json()["items"]
    assert (shown["id"], shown["faults"][0]["pointer"]) == ("pressure-early", "/indicators/0")
    assert "forewarn_rules_refused 1.0" in (await house.olga.get("/metrics")).text
    await house.report(0.9)
    listed = await house.olga.get("/v1/findings", params={"mechanism": "supply-watch"})
    assert [f["rule"] for f in listed.json()["items"]] == ["pressure-late"]


async def test_a_shelf_is_made_listed_and_ended_with_reasons_and_names(house: House) -> None:
    made = await house.shelve(mechanism="supply-watch", rule="global-pressure")
    assert made.status_code == 201, made.text
    shelf = made.json()
    assert (shelf["created_by"], shelf["on"], shelf["series_id"]) == ("olga", True, None)
    listed = (await house.aurora.get("/v1/shelves", params={"on": True})).json()["items"]
    assert [s["id"] for s in listed] == [shelf["id"]]
    path = f"/v1/shelves/{shelf['id']}/end"
    ended = (await house.olga.post(path, json={"reason": "Carnival is over."})).json()
    assert (ended["on"], ended["ended_by"], ended["ended_reason"]) == (
        False,
        "olga",
        "Carnival is over.",
    )
    problem(await house.olga.post(path, json={"reason": "Once more."}), 409)
    problem(await house.olga.post("/v1/shelves/99/end", json={"reason": "None."}), 404)
    assert (await house.aurora.get("/v1/shelves", params={"on": True})).json()["items"] == []
    assert len((await house.aurora.get("/v1/shelves")).json()["items"]) == 1


async def test_a_shelf_of_nothing_or_for_too_long_is_refused(house: House) -> None:
    told = problem(await house.shelve(mechanism="supply-watch", rule="global"), 422)
    assert told["errors"][0]["allowed"][0] == "global-pressure"
    late = (NOW + timedelta(days=31)).isoformat()
    told = problem(
        await house.shelve(mechanism="supply-watch", rule="global-pressure", until=late), 422
    )
    assert told["errors"][0]["pointer"] == "/until"


async def test_the_audit_says_who_changed_what_from_what_to_what(house: House) -> None:
    await house.make()
    await house.change(1, title="Pressure, later")
    newest = (await house.olga.get("/v1/audit", params={"limit": 1})).json()
    (row,) = newest["items"]
    assert (row["partner"], row["action"]) == ("olga", "rule.changed")
    assert (row["before"]["title"], row["after"]["title"]) == ("Pressure, early", "Pressure, later")
    assert row["reason"] == "Too early after all."
    older = (await house.olga.get("/v1/audit", params={"after": newest["next"]})).json()["items"]
    assert [r["id"] for r in older] == list(range(row["id"] - 1, 0, -1))
    of_rule = await house.olga.get("/v1/audit", params={"subject": row["subject"]})
    assert [r["action"] for r in of_rule.json()["items"]] == ["rule.changed", "rule.made"]


async def test_findings_are_narrowed_by_what_they_say(house: House) -> None:
    series = await house.report(2.4)

    async def count(**params: Any) -> int:
        query = {"mechanism": "supply-watch", **params}
        answer = await house.aurora.get("/v1/findings", params=query)
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    for params, expected in (
        ({}, 1),
        ({"firing": True}, 1),
        ({"firing": False}, 0),
        ({"rule": "global-pressure"}, 1),
        ({"mechanism": "ttc-semiconductors"}, 0),
        ({"rule": "chokepoint-transits"}, 0),
        ({"series_id": series, "state": "firing"}, 1),
        ({"state": "stale"}, 0),
        ({"severity": "moderate"}, 1),
        ({"severity": "minor"}, 0),
    ):
        assert await count(**params) == expected, params
    told = problem(await house.aurora.get("/v1/findings", params={"severity": "awful"}), 422)
    assert "moderate" in told["errors"][0]["allowed"]


def answer_of(told: dict[str, Any], rule: str) -> dict[str, Any]:
    """What one rule of the house watch answers."""
    (found,) = [a for a in told["rules"] if (a["mechanism"], a["rule"]) == ("supply-watch", rule)]
    return dict(found)


async def alert_of(house: House) -> str:
    listed = await house.olga.get("/v1/alerts", params={"mechanism": "supply-watch"})
    (alert,) = listed.json()["items"]
    return str(alert["ref"])


async def why(web: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    answer = await web.get(path, params=params)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_a_calm_series_says_how_far_each_rule_is_from_raising(house: House) -> None:
    series = await house.report(0.7)
    told = await why(house.aurora, f"/v1/series/{series}/why")
    answer = answer_of(told, "global-pressure")
    assert answer["obstacles"] == ["quiet"]
    assert answer["short"] == {
        "severity": "minor", "compared": 0.7, "raise_at": 1.0, "by": pytest.approx(0.3),
    }  # fmt: skip
    assert "0.3" in answer["why"]
    assert answer["alert"] is None


async def test_an_alert_is_named_where_there_is_one(house: House) -> None:
    series = await house.report(1.5)
    told = await why(house.aurora, f"/v1/series/{series}/why")
    answer = answer_of(told, "global-pressure")
    assert answer["obstacles"] == ["alerting"]
    assert answer["alert"] in told["alerts"]
    assert answer["alert"] in told["sentence"]


OBSTACLES = [
    ({"shadow": True}, "shadow", "a shadow"),
    ({"effect": "follow_up"}, "follow_up", "a follow-up"),
    ({"raise_after": 3}, "pending", "one observation of three"),
    (
        {"effective_from": (NOW + timedelta(days=9)).date().isoformat()},
        "scheduled",
        "begins later",
    ),
    (
        {
            "detector": {
                "kind": "percent_change",
                "direction": "up",
                "baseline": {"kind": "median_of_window", "days": 90, "min_observations": 3},
                "bands": [{"severity": "minor", "raise_at": 0.2, "clear_at": 0.1}],
            }
        },
        "undefined",
        "nothing to compare with",
    ),
]


@pytest.mark.parametrize(("changes", "obstacle", "_why"), OBSTACLES, ids=[o[2] for o in OBSTACLES])
async def test_what_keeps_a_rule_from_an_alert_is_said(
    house: House, changes: dict[str, object], obstacle: str, _why: str
) -> None:
    made = await house.make(**changes)
    assert made.status_code == 201, made.text
    series = await house.report(0.9)
    told = await why(house.aurora, f"/v1/series/{series}/why")
    answer = answer_of(told, "pressure-early")
    assert obstacle in answer["obstacles"], answer


async def test_a_rule_that_only_counts_in_a_combination_says_so(house: House) -> None:
    await house.make()
    together = {
        "kind": "combination",
        "direction": "up",
        "rules": ["pressure-early", "global-pressure"],
        "bands": [{"severity": "severe", "raise_at": 2, "clear_at": 1}],
    }
    made = await house.make(id="both", detector=together, indicators=[])
    assert made.status_code == 201, made.text
    assert (await house.change(1, effect="component")).status_code == 200
    series = await house.report(0.9)
    told = await why(house.aurora, f"/v1/series/{series}/why")
    assert "component" in answer_of(told, "pressure-early")["obstacles"]
    assert answer_of(told, "both")["alert"] is None


async def test_a_stale_finding_says_that_silence_raises_nothing(house: House) -> None:
    series = await house.report(0.2)
    stale = Finding(State.stale, observed_at=LONG_AGO, value=0.2, since=NOW)
    async with house.service.state.house.database.begin() as connection:
        key = (SeriesId(series), "supply-watch", "global-pressure")
        await write(connection, store.findings.keep({key: (stale, 1)}, {}))
    told = await why(house.aurora, f"/v1/series/{series}/why")
    assert answer_of(told, "global-pressure")["obstacles"] == ["stale"]


async def test_an_event_that_one_party_reports_waits_for_another(house: House) -> None:
    said = {"sector": "semiconductors", "event": "site_outage", "good": "dram", "place": "TW"}
    reported = await house.aurora.post(
        "/v1/signals",
        json={**said, "observed_at": MIDNIGHT.isoformat(), "severity": "severe", "origin": "press"},
    )
    assert reported.json()["accepted"] == 1, reported.text
    told = await why(house.aurora, "/v1/alerts/why", sector="semiconductors", good="dram")
    (answer,) = [a for a in told["rules"] if a["rule"] == "site-outage"]
    assert answer["obstacles"] == ["pending"]
    assert "2 parties" in answer["why"]


async def test_a_shelf_is_an_answer_with_its_end_reason_and_name(house: House) -> None:
    series = await house.report(0.2, days_ago=2)
    await house.shelve(series_id=series)
    await house.report(1.5)
    told = await why(house.aurora, f"/v1/series/{series}/why")
    answer = answer_of(told, "global-pressure")
    assert "shelved" in answer["obstacles"]
    assert answer["shelf"]["reason"] == "Carnival week."
    assert "olga has shelved it until" in answer["why"]
    alerts = await house.olga.get("/v1/alerts", params={"mechanism": "supply-watch"})
    assert alerts.json()["items"] == []


async def test_a_retired_rule_is_named_among_those_left_out(house: House) -> None:
    series = await house.report(1.5)
    await house.olga.delete(
        "/v1/rules/supply-watch/global-pressure",
        params={"reason": "Too coarse."},
        headers={"If-Match": "1"},
    )
    told = await why(house.aurora, f"/v1/series/{series}/why")
    assert [(r["rule"], r["status"]) for r in told["left_out"]] == [("global-pressure", "retired")]


async def test_a_subject_that_nobody_reports_says_which_rules_wait_for_it(house: House) -> None:
    told = await why(house.aurora, "/v1/alerts/why", sector="shipping", place="suez")
    key = ("supply-watch", "chokepoint-transits")
    (waiting,) = [r for r in told["unreported"] if (r["mechanism"], r["rule"]) == key]
    assert waiting["indicators"] == ["chokepoint_transits"]
    assert told["rules"] == []
    await house.report(
        40, sector="shipping", indicator="chokepoint_transits", place="suez", unit="transits/day"
    )
    told = await why(house.aurora, "/v1/alerts/why", sector="shipping", place="suez")
    assert answer_of(told, key[1])["obstacles"] == ["undefined"]
    assert key not in {(r["mechanism"], r["rule"]) for r in told["unreported"]}


async def test_a_series_that_no_rule_asks_says_what_rules_of_its_sector_ask(house: House) -> None:
    for rule in (await house.olga.get("/v1/rules", params={"indicator": "gscpi"})).json()["items"]:
        gone = await house.olga.delete(
            rule["links"]["self"],
            params={"reason": "None."},
            headers={"If-Match": str(rule["newest_version"])},
        )
        assert gone.status_code == 200, gone.text
    series = await house.report(3)
    told = await why(house.aurora, f"/v1/series/{series}/why")
    assert told["rules"] == []
    assert [u["series_id"] for u in told["unasked"]] == [series]
    assert "No rule asks about gscpi here" in told["unasked"][0]["why"]


async def test_unknown_codes_and_series_are_told(house: House) -> None:
    told = problem(await house.aurora.get("/v1/alerts/why", params={"sector": "shiping"}), 422)
    assert told["errors"][0]["allowed"][0] == "shipping"
    problem(await house.aurora.get("/v1/series/99/why"), 404)
    problem(await house.aurora.get("/v1/alerts/SW-2020-0001/why"), 404)


async def subscribe(
    house: House,
    name: str,
    wish: Filter,
    owed_since: datetime | None,
    status: Status = Status.suspended,
) -> str:
    """A subscription as one that consented at that instant has it; nothing is sent from here."""
    made = SubscriptionId(f"sub_{name.encode().hex():0>20}"[:24])
    async with house.service.state.house.database.begin() as connection:
        partner = await store.partners.keep(connection, name, "", NOW)
        await store.subscriptions.add(
            connection,
            Subscription(
                made, partner.id, "http://127.0.0.1:9/hook", "json", wish, "",
                status, NOW - timedelta(days=3),
            ),
        )  # fmt: skip
        await connection.execute(
            text(
                "UPDATE subscriptions SET owed_since = :at, verified_at = :at, "
                "suspended_at = :at WHERE id = :id"
            ),
            {"at": owed_since, "id": made},
        )
    return str(made)


async def deliver(house: House, subscription: str) -> None:
    async with house.service.state.house.database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE deliveries SET state = 'delivered', attempts = 1, finished_at = now() "
                "WHERE subscription_id = :id"
            ),
            {"id": subscription},
        )


LONG_AGO = NOW - timedelta(days=2)
NOT_TOLD = [
    (Filter(), LONG_AGO, "suspended", "owed, and suspended"),
    (Filter(sectors=("shipping",)), LONG_AGO, "filtered", "another sector"),
    (Filter(min_level=Level.crisis), LONG_AGO, "filtered", "only crises"),
    (Filter(types=(EventType.resolved,)), LONG_AGO, "filtered", "only ends"),
    (Filter(), None, "not_consented", "never consented"),
]


@pytest.mark.parametrize(
    ("wish", "owed_since", "outcome", "_why"), NOT_TOLD, ids=[n[3] for n in NOT_TOLD]
)
async def test_a_subscriber_learns_why_it_was_not_told(
    house: House, wish: Filter, owed_since: datetime | None, outcome: str, _why: str
) -> None:
    made = await subscribe(house, "bal", wish, owed_since)
    await house.report(1.5)
    alert = await alert_of(house)
    told = await why(house.olga, f"/v1/subscriptions/{made}/why", alert=alert)
    assert [t["outcome"] for t in told["transitions"]] == [outcome], told
    assert told["transitions"][0]["why"] in told["sentence"]


async def test_a_subscriber_learns_how_its_endpoint_fails(house: House) -> None:
    made = await subscribe(house, "bal", Filter(), LONG_AGO, Status.active)
    await house.report(1.5)
    alert = await alert_of(house)
    told: dict[str, Any] = {}
    for _ in range(100):
        told = await why(house.olga, f"/v1/subscriptions/{made}/why", alert=alert)
        if told["transitions"][0]["attempts"]:
            break
        await asyncio.sleep(0.05)
    (first,) = told["transitions"]
    assert first["outcome"] == "failing", told
    assert first["attempts"][0]["verdict"] == "retry"
    assert first["attempts"][0]["reason"] in first["why"]


async def test_a_subscriber_learns_when_it_was_told(house: House, caller: Connect) -> None:
    made = await subscribe(house, "bal", Filter(), LONG_AGO)
    await house.report(1.5)
    alert = await alert_of(house)
    await deliver(house, made)
    baltica = await caller("bal", role="subscriber")
    told = await why(baltica, f"/v1/subscriptions/{made}/why", alert=alert)
    (first,) = told["transitions"]
    assert (first["outcome"], first["type"]) == ("delivered", "alert.opened")
    assert first["delivered_at"] is not None
    assert told["sentence"] == "1 of 1 transitions of this alert were delivered."
    cygnus = await caller("cygnus", role="subscriber")
    problem(await cygnus.get(f"/v1/subscriptions/{made}/why", params={"alert": alert}), 404)
    problem(await baltica.get(f"/v1/subscriptions/{made}/why", params={"alert": "SW-1"}), 404)


def test_the_page_about_rules_knows_every_word_of_their_doors() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
    words = {*Obstacle, *get_args(Outcome), *get_args(Action)}
    assert {word for word in words if f"`{word}`" not in page} == set()


async def test_the_description_of_the_doors_is_valid_openapi(house: House) -> None:
    described = (await house.aurora.get("/openapi.json")).json()
    validate(described)
    for reference in set(re.findall(r'"\$ref": ?"#/([^"]*)"', json.dumps(described))):
        functools.reduce(operator.getitem, reference.split("/"), described)
    paths = set(described["paths"])
    assert {"/v1/rules", "/v1/shelves", "/v1/audit", "/v1/findings", "/v1/alerts/why"} <= paths
