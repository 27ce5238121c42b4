"""The pages of rules and backtests over HTTP: what they say, what their forms do, what they refuse."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import httpx
import pytest
import yaml
from fastapi import FastAPI
from sqlalchemy import text

from alerts.rules import Detector
from app import access, documents
from app.backtest import stored
from app.dashboard import frame, rule_words
from app.main import create_app
from app.settings import Settings
from tests.app import strait_watch
from tests.app.strait_watch import MECHANISM, RULE
from tests.app.test_backtests_api import CLOSED, FELL, gscpi, transits

Connect = Callable[..., Awaitable[httpx.AsyncClient]]

NOW = datetime.now(UTC)
HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
PAGE = f"/rules/{MECHANISM}/{RULE}"
EVERY_DETECTOR = Path(__file__).with_name("every-detector.yaml")
LABELS = (
    "id,sector,indicator,good,place,start,end,label\n"
    "CLOSED,shipping,chokepoint_transits,,suez,2021-05-31,2021-06-20,positive\n"
    "UNSEEN,shipping,chokepoint_transits,,malacca,2021-05-31,2021-06-20,positive\n"
)


@dataclass(slots=True)
class Desk:
    """The service; *zita* at her browser, *olga* with her key, *aurora*, who reports."""

    service: FastAPI
    zita: httpx.AsyncClient
    olga: httpx.AsyncClient
    aurora: httpx.AsyncClient

    async def see(self, path: str) -> str:
        page = await self.zita.get(path)
        assert page.status_code == 200, page.text
        return page.text

    async def shelve(self, **form: str) -> httpx.Response:
        until = f"{datetime.now(UTC) + timedelta(hours=3):%Y-%m-%dT%H:%M}"
        typed = {"until": until, "reason": "Carnival week.", **form}
        return await self.zita.post(f"{PAGE}/shelve", data=typed)

    async def replay(self, **form: str) -> httpx.Response:
        typed = {"what": MECHANISM, "known": "published", **form}
        return await self.zita.post("/backtest", data=typed, timeout=120)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return strait_watch.beside_the_shipped(settings, tmp_path)


@asynccontextmanager
async def visitor(
    service: FastAPI, name: str, scopes: tuple[str, ...] = ()
) -> AsyncIterator[httpx.AsyncClient]:
    """An operator signed in."""
    async with service.state.house.database.begin() as connection:
        key = await access.issue_key(
            connection, name=name, role="operator", scopes=scopes, now=datetime.now(UTC)
        )
    transport = httpx.ASGITransport(service, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://forewarn") as client:
        await client.post("/sign-in", data={"key": key.token})
        yield client


@pytest.fixture
async def desk(service: FastAPI, caller: Connect) -> AsyncIterator[Desk]:
    olga, aurora = await caller("olga", role="operator"), await caller("aurora", party="EU")
    async with visitor(service, "zita") as zita:
        yield Desk(service, zita, olga, aurora)


def words(html: str) -> str:
    bare = re.sub(r"<(svg|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare)).strip()


async def test_the_page_of_rules_says_what_is_asked_and_what_fires(desk: Desk) -> None:
    await desk.aurora.post("/v1/signals", json=transits("suez", range(380, 400)))
    page = words(await desk.see("/rules"))
    assert "Strait watch" in page
    row = re.search(r"Ships passing (\d+).*?quantity 1", page)
    assert row is not None
    assert row[1] == "1"


async def test_a_broken_rule_stands_first_with_what_is_wrong(desk: Desk) -> None:
    body = {"mechanism": MECHANISM, "rule": gscpi(), "reason": "To see it broken."}
    assert (await desk.olga.post("/v1/rules", json=body)).status_code == 201
    async with desk.service.state.house.database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE rules SET document = document || jsonb_build_object('indicators', "
                "jsonb_build_array('gone'), 'title', CAST(:hostile AS text))"
            ),
            {"hostile": HOSTILE},
        )
    other = {"mechanism": MECHANISM, "rule": gscpi(id="another"), "reason": "Another one."}
    assert (await desk.olga.post("/v1/rules", json=other)).status_code == 201
    page = await desk.see("/rules")
    assert page.index("Cannot be used") < page.index("Strait watch")
    assert "/indicators/0" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    own = await desk.see(f"/rules/{MECHANISM}/pressure-early")
    assert "It cannot be used, and is left out" in own
    assert "<script>alert" not in own


async def test_the_page_of_a_rule_says_its_bands_sources_versions_and_findings(desk: Desk) -> None:
    await desk.aurora.post("/v1/signals", json=transits("suez", range(380, 400)))
    shown = await desk.olga.get(f"/v1{PAGE}")
    rule = {**shown.json()["rule"], "clear_after": 7}
    await desk.olga.put(
        f"/v1{PAGE}",
        json={"rule": rule, "reason": "Fourteen days were too long."},
        headers={"If-Match": shown.headers["ETag"]},
    )
    page = words(await desk.see(PAGE))
    for said in (
        "How far below its baseline is the mean of the newest 7 observations",
        "the median of 84 days that end 14 days before",
        "moderate \N{MINUS SIGN}25.0% \N{MINUS SIGN}15.0%",
        "our design",
        "olga",
        "Fourteen days were too long.",
        "clear_after 14 7",
        "Version 1 of the profile brought it.",
        "severe firing Ships passing",
    ):
        assert said.replace("Ships passing", "") in page, said
    assert 'href="/backtest?mechanism=strait-watch&amp;rule=transits"' in await desk.see(PAGE)
    pressure = words(await desk.see(f"/rules/{MECHANISM}/pressure"))
    assert "Federal Reserve Bank of New York" in pressure
    assert "minor 1 sd 0.5 sd" in pressure


async def test_a_rule_is_shelved_and_the_shelf_ended_with_who_and_why(desk: Desk) -> None:
    shelved = await desk.shelve()
    assert (shelved.status_code, shelved.headers["location"]) == (303, PAGE)
    (shelf,) = (await desk.olga.get("/v1/shelves?on=true")).json()["items"]
    assert (shelf["rule"], shelf["created_by"], shelf["reason"]) == (RULE, "zita", "Carnival week.")
    for path in ("/rules", PAGE):
        page = await desk.see(path)
        assert "Carnival week." in page, path
        assert f'action="/shelves/{shelf["id"]}/end"' in page, path
    ended = await desk.zita.post(
        f"/shelves/{shelf['id']}/end", data={"reason": "Carnival is over.", "back": PAGE}
    )
    assert (ended.status_code, ended.headers["location"]) == (303, PAGE)
    assert "by zita: Carnival is over." in words(await desk.see(PAGE))
    (entry, *_) = (await desk.olga.get("/v1/audit?action=shelf.ended")).json()["items"]
    assert (entry["partner"], entry["reason"]) == ("zita", "Carnival is over.")
    again = await desk.zita.post(f"/shelves/{shelf['id']}/end", data={"reason": "Once more."})
    assert again.status_code == 409
    away = {"reason": "Elsewhere.", "back": "https://evil.example/"}
    await desk.shelve()
    (shelf,) = (await desk.olga.get("/v1/shelves?on=true")).json()["items"]
    led = await desk.zita.post(f"/shelves/{shelf['id']}/end", data=away)
    assert led.headers["location"] == "/"


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"until": "soon"}, "It is not an instant"),
        ({"until": "2020-01-01T00:00"}, "It must lie in the future."),
        ({"until": "2100-01-01T00:00"}, "At most 30 days ahead"),
        ({"until": "9999-12-31T23:59"}, "At most 30 days ahead"),
        ({"reason": " "}, "Say in a few words why"),
        ({"reason": "a\x00b c"}, "Say in a few words why"),
    ],
)
async def test_a_form_that_cannot_be_meant_comes_back_with_what_was_typed(
    desk: Desk, form: dict[str, str], said: str
) -> None:
    refused = await desk.shelve(**form)
    assert refused.status_code == 422
    assert said in refused.text
    assert f'value="{form.get("reason", "Carnival week.")}"' in refused.text
    assert (await desk.olga.get("/v1/shelves")).json()["items"] == []


async def test_forms_of_other_sites_change_nothing(desk: Desk) -> None:
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        desk.zita.headers.update(headers)
        assert (await desk.shelve()).status_code == 403, headers
        assert (await desk.replay()).status_code == 403, headers
        assert (await desk.zita.post("/shelves/1/end", data={"reason": "xxx"})).status_code == 403
        for name in headers:
            del desk.zita.headers[name]
    desk.zita.headers["Origin"] = "http://forewarn"
    assert (await desk.shelve()).status_code == 303


async def test_who_may_only_look_is_shown_no_form_and_changes_nothing(
    desk: Desk, service: FastAPI
) -> None:
    async with visitor(service, "lena", ("dashboard:read",)) as lena:
        page = (await lena.get(PAGE)).text
        assert "rules:write" in page
        assert "<form method" not in page.partition("<main")[2]
        for path in (f"{PAGE}/shelve", "/shelves/1/end", "/backtest"):
            assert (await lena.post(path, data={"reason": "Why not."})).status_code == 403, path
    client = httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://forewarn")
    async with client:
        for path in ("/rules", PAGE, "/backtest"):
            assert (await client.get(path)).status_code == 303, path
        assert (await client.post(f"{PAGE}/shelve")).headers["location"].startswith("/sign-in")


async def test_without_sign_in_rules_are_read_and_not_changed(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"dashboard_sign_in": False}), role="api")
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://forewarn") as client,
    ):
        assert "Nobody is signed in here" in (await client.get(PAGE)).text
        refused = await client.post(f"{PAGE}/shelve", data={"reason": "Why not.", "until": "x"})
        assert refused.status_code == 403
        replayed = await client.post("/backtest", data={"what": MECHANISM}, timeout=60)
        assert replayed.status_code == 409
        assert "was ever reported" in replayed.text


async def test_a_backtest_is_a_page_with_its_tables_and_pictures(desk: Desk) -> None:
    for place, falls in (("suez", CLOSED), ("malacca", FELL)):
        await desk.aurora.post("/v1/signals", json=transits(place, falls))
    form = await desk.see(f"/backtest?mechanism={MECHANISM}&rule={RULE}")
    assert f'<option value="{MECHANISM}/{RULE}" selected>' in form
    sweep = {"sweep": "band", "sweep_from": "0.8", "sweep_to": "1.2", "sweep_step": "0.2"}
    answer = await desk.replay(what=f"{MECHANISM}/{RULE}", labels=LABELS, **sweep)
    assert answer.status_code == 200, answer.text
    page = answer.text
    heading = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert heading is not None
    assert "1 of 2 disruptions warned of, 1 false episode in" in words(heading[1])
    assert page.count('<figure class="drawing"') == 3
    assert page.count("<svg xmlns") == 3
    assert "Missed: UNSEEN" in page
    assert "UNSEEN,shipping" in page  # What was typed stands in the form again.
    assert answer.headers["content-security-policy"] == frame.CONTENT_POLICY
    assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:", page)


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ({"what": "nothing"}, 422, "Choose what to replay."),
        ({"what": f"{MECHANISM}/nothing"}, 422, "is in use under strait-watch"),
        ({"from": "soon"}, 422, "is not a date such as"),
        ({"from": "2022-01-01", "to": "2021-01-01"}, 422, "lies after To"),
        ({"labels": f"id,{HOSTILE}"}, 422, "labels:1: There is no column"),
        ({"labels": LABELS + "X,shipping,x,,,soon,,positive"}, 422, "labels:4: The start"),
        ({}, 409, "was ever reported"),
    ],
)
async def test_a_backtest_that_cannot_be_made_says_why_and_keeps_the_form(
    desk: Desk, form: dict[str, str], status: int, said: str
) -> None:
    refused = await desk.replay(**form)
    assert refused.status_code == status
    assert said in refused.text.replace("&#39;", "'")
    assert "<script>alert" not in refused.text


async def test_while_one_runs_the_page_says_to_wait(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.service.state.house.backtests, "_busy", True)
    refused = await desk.replay()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "15")
    assert "another is under way" in refused.text


async def test_the_page_of_a_series_says_why_there_is_no_alert(desk: Desk) -> None:
    await desk.aurora.post("/v1/signals", json=transits("suez", range(0)))
    (series,) = (await desk.aurora.get("/v1/series?place=suez")).json()["items"]
    page = words(await desk.see(f"/series/{series['id']}"))
    assert "Why is there no alert?" in page
    assert "quiet" in page.partition("Why is there no alert?")[2]
    await desk.shelve()
    shelved = words(await desk.see(f"/series/{series['id']}"))
    assert "zita has shelved it until" in shelved


async def test_what_is_not_there_is_a_page_that_says_so(desk: Desk) -> None:
    for path in ("/rules/strait-watch/nothing", "/rules/nothing/x", f"/rules/{MECHANISM}/%00"):
        answer = await desk.zita.get(path)
        assert answer.status_code == 404, path
        assert "There is nothing here" in answer.text
    assert (await desk.zita.post("/shelves/99/end", data={"reason": "xxx"})).status_code == 404


def test_every_detector_is_a_question_in_words() -> None:
    profile = documents.load_profile(EVERY_DETECTOR)
    asked = {type(rule.detector): rule_words.question(rule.detector) for rule in profile.rules}
    for kind, said in asked.items():
        assert said.endswith((".", "?")), kind
        assert "<" not in said, kind
    assert set(asked) <= set(get_args(Detector)) | set(asked)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 2}, [("a", "1", "2")]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [("a.b", "1, 2", "1, 3")]),
        ({"version": 1}, {"version": 2}, []),
        ({}, {"bands": [{"raise_at": 1}]}, [("bands.0.raise_at", "not there", "1")]),
        ({"a": None, "b": []}, {}, []),  # An empty value says as little as none.
    ],
)
def test_what_changed_between_versions_is_said_by_its_place(
    before: dict[str, object], after: dict[str, object], expected: list[tuple[str, str, str]]
) -> None:
    assert rule_words.changes(before, after) == expected


def test_a_profile_written_short_means_the_same() -> None:
    for path in (*documents.shipped_profiles(), EVERY_DETECTOR):
        profile = documents.load_profile(path)
        again = yaml.safe_dump(stored.written(profile), allow_unicode=True, sort_keys=False)
        assert documents.load_profile(again) == profile, path
