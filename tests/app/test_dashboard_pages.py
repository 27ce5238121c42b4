"""The operators' pages over HTTP: signing in, what they say, what they never let through."""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from alerts.rules import Band, Bands, Direction, Family, MedianOfWindow, PercentChange, Rule
from alerts.signals import Sample, SeriesId, SeriesKey, Severity
from app import access, lately, store
from app.dashboard import frame, pages, plots, session, words
from app.database import Database
from app.ingest import Arrival
from app.main import create_app
from app.settings import Settings
from tests.app import board_cast
from tests.conftest import TEMPLATE

NOW = datetime.now(UTC)
VENDOR = frame.STATIC / "vendor"
HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def staged_url(postgres_url: str) -> str:
    return asyncio.run(board_cast.stage(postgres_url, TEMPLATE, "stage_of_pages", NOW))


def _client(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://forewarn")


@pytest.fixture
async def open_house(settings: Settings) -> AsyncIterator[FastAPI]:
    """A service on an empty database that asks nobody to sign in."""
    app = create_app(settings.model_copy(update={"dashboard_sign_in": False}), role="api")
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def staged(staged_url: str, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A visitor who need not sign in, before the whole cast."""
    seen = {"database_url": staged_url, "dashboard_sign_in": False}
    app = create_app(settings.model_copy(update=seen), role="api")
    async with app.router.lifespan_context(app), _client(app) as client:
        yield client


@pytest.fixture
async def door(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """A service that asks its visitors to sign in."""
    app = create_app(settings, role="api")
    async with app.router.lifespan_context(app), _client(app) as client:
        yield app, client


async def _key(app: FastAPI, name: str, role: str) -> access.IssuedKey:
    async with app.state.house.database.begin() as connection:
        return await access.issue_key(connection, name=name, role=role, now=datetime.now(UTC))


# --- signing in -------------------------------------------------------------------------------------


async def test_a_visitor_is_asked_to_sign_in_and_comes_back_to_the_page(
    door: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = door
    sent = await client.get("/alerts?x=1")
    assert (sent.status_code, sent.headers["location"]) == (303, "/sign-in?next=%2Falerts%3Fx%3D1")
    form = await client.get(sent.headers["location"])
    assert 'value="/alerts?x=1"' in form.text
    key = await _key(app, "zita", "operator")
    signed = await client.post("/sign-in", data={"key": key.token, "next": "/alerts?x=1"})
    assert (signed.status_code, signed.headers["location"]) == (303, "/alerts?x=1")
    cookie = signed.headers["set-cookie"].lower()
    for word in ("httponly", "samesite=strict", "max-age=43200", "path=/"):
        assert word in cookie
    assert "secure" not in cookie
    assert key.token not in signed.headers["set-cookie"]
    page = await client.get("/")
    assert page.status_code == 200
    assert "zita" in page.text
    await client.post("/sign-out")
    assert (await client.get("/")).status_code == 303


async def test_over_https_the_cookie_stays_there(
    door: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = door
    key = await _key(app, "zita", "operator")
    signed = await client.post("https://forewarn/sign-in", data={"key": key.token})
    assert "secure" in signed.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("role", "status", "said"),
    [
        (None, 401, "unknown, revoked or expired"),
        ("subscriber", 403, "has not the scope dashboard:read"),
        ("partner", 403, "has not the scope dashboard:read"),
    ],
)
async def test_a_wrong_key_gets_a_sentence_and_no_cookie(
    door: tuple[FastAPI, httpx.AsyncClient], role: str | None, status: int, said: str
) -> None:
    app, client = door
    token = (await _key(app, "cygnus", role)).token if role else "fw_0123_nothing"
    refused = await client.post("/sign-in", data={"key": token})
    assert refused.status_code == status
    assert said in refused.text
    assert "set-cookie" not in refused.headers
    assert token not in refused.text


async def test_revoking_the_key_ends_the_session(
    door: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = door
    key = await _key(app, "zita", "operator")
    await client.post("/sign-in", data={"key": key.token})
    assert (await client.get("/")).status_code == 200
    async with app.state.house.database.begin() as connection:
        await store.partners.revoke(connection, key.id, datetime.now(UTC))
    assert (await client.get("/")).status_code == 303


async def test_a_cookie_that_is_old_changed_or_made_up_opens_nothing(
    door: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = door
    key = await _key(app, "zita", "operator")
    seals = app.state.house.seals
    now = datetime.now(UTC)
    good = seals.seal("dashboard cookie", key.id.encode(), now).decode()
    old = seals.seal("dashboard cookie", key.id.encode(), now - timedelta(hours=13)).decode()
    other = seals.seal("webhook secret", key.id.encode(), now).decode()
    for cookie, status in (
        (good, 200),
        (old, 303),
        (other, 303),
        (good[:-4] + "AAA=", 303),
        ("x", 303),
    ):
        client.cookies.clear()
        client.cookies.set(session.COOKIE, cookie)
        assert (await client.get("/")).status_code == status, cookie


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "\t//x",
        "",
    ],
)
async def test_signing_in_never_leads_to_another_site(
    door: tuple[FastAPI, httpx.AsyncClient], target: str
) -> None:
    app, client = door
    key = await _key(app, "zita", "operator")
    signed = await client.post("/sign-in", data={"key": key.token, "next": target})
    assert signed.headers["location"] == "/"


async def test_forms_of_other_sites_are_refused(
    door: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = door
    key = await _key(app, "zita", "operator")
    there = {"Sec-Fetch-Site": "cross-site"}
    refused = await client.post("/sign-in", data={"key": key.token}, headers=there)
    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers
    assert (await client.post("/sign-out", headers=there)).status_code == 403


async def test_a_link_from_a_chat_does_not_sign_the_operator_out(
    door: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    _, client = door
    again = await client.get("/alerts/TTC-SEMI-2026-0001", headers={"Sec-Fetch-Site": "cross-site"})
    assert again.status_code == 200
    assert 'content="0; url=/alerts/TTC-SEMI-2026-0001"' in again.text


async def test_a_session_that_ended_sends_the_live_page_to_the_door(
    door: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    _, client = door
    told = await client.get("/", headers={"HX-Request": "true"})
    assert (told.status_code, told.headers["HX-Redirect"]) == (401, "/sign-in")


# --- what the pages say -----------------------------------------------------------------------------


async def test_the_first_line_says_what_is_wrong_where_since_when_and_how_bad(
    staged: httpx.AsyncClient,
) -> None:
    page = (await staged.get("/")).text
    first = _words(re.search(r"<h1>(.*?)</h1>", page, re.DOTALL))
    assert first == "Severe early warning: Gallium (semiconductors) since 2023-07-03"
    assert "The engine recommends disruption" in _words(
        re.search(r"<h1>.*?</div>", page, re.DOTALL)
    )
    assert "2 of 7 feeds late" in _words(re.search(r'<ul class="tally">.*?</ul>', page, re.DOTALL))


def _words(found: re.Match[str] | None) -> str:
    assert found is not None
    bare = re.sub(r"<svg.*?</svg>", "", found.group(0), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", bare)).strip()


async def test_the_alert_page_shows_reasons_numbers_and_who_was_told(
    staged: httpx.AsyncClient,
) -> None:
    ref = _ref((await staged.get("/")).text, "Gallium")
    page = (await staged.get(f"/alerts/{ref}")).text
    for said in (
        "unvalidated",
        "TLP:AMBER",
        "The engine recommends disruption.",
        "licences needed for exports from 1 August",
        "Falls by one band when",
        f"GET /v1/alerts/{ref}",
        "baltica",
        "frozen at 2023-07-03",
        '<data value="7833.0" class="baseline">7,833</data>',
    ):
        assert said in page, said
    assert page.count('<figure class="plot"') == 2
    told = _words(re.search(r'id="told-title".*?</table>', page, re.DOTALL))
    assert "delivered in" in told


async def test_the_alert_page_leads_to_why_an_endpoint_was_told_or_not(
    staged: httpx.AsyncClient,
) -> None:
    ref = _ref((await staged.get("/")).text, "Gallium")
    page = (await staged.get(f"/alerts/{ref}")).text
    for name, became in (("baltica", "delivered"), ("dorado", "failing"), ("ember", "suspended")):
        address = f"/endpoints/sub_{name}/why?alert={ref}"
        assert address in page
        why = (await staged.get(address)).text
        assert became in _words(re.search(r"<tbody>.*?</tbody>", why, re.DOTALL)), name
        (delivery,) = set(re.findall(rf'href="(/deliveries/msg_{name}_1)"', why)) or {""}
        told = await staged.get(delivery)
        assert told.status_code == 200, name
        assert ref in told.text


async def test_the_board_says_how_soon_subscribers_hear(staged: httpx.AsyncClient) -> None:
    page = (await staged.get("/")).text
    said = _words(re.search(r'<table class="speeds">.*?</table>', page, re.DOTALL))
    assert "first byte, last hour" in said
    assert "2xx, 24 h442 ms442 ms442 ms34" in said
    row = re.search(r'id="endpoint-sub_dorado".*?</li>', page, re.DOTALL)
    assert 'href="/endpoints/sub_dorado"' in (row or [""])[0]
    assert "Breaker open until" in page


def _ref(page: str, title: str) -> str:
    found = re.search(rf'/alerts/([A-Z0-9-]+)">{title}', page)
    assert found is not None
    return found.group(1)


async def test_a_resolved_alert_keeps_its_page(staged: httpx.AsyncClient) -> None:
    listed = (await staged.get("/alerts")).text
    page = (await staged.get(f"/alerts/{_ref(listed, 'Chips')}")).text
    first = _words(re.search(r"<h1>(.*?)</h1>", page, re.DOTALL))
    assert first == "Resolved: Chips of all kinds (semiconductors), 2021-02-28 to 2023-07-28"
    assert '<figure class="plot"' in page


async def test_older_alerts_are_on_the_next_page_and_none_is_left_out(
    staged: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = re.findall(r'<tr id="alert-([^"]+)"', (await staged.get("/alerts")).text)
    monkeypatch.setattr(pages, "LISTED", 2)
    seen: list[str] = []
    following: str | None = "/alerts"
    while following is not None:
        page = (await staged.get(following)).text
        assert f'hx-get="{html.escape(following)}"' in page, "what follows is the same part"
        seen += re.findall(r'<tr id="alert-([^"]+)"', page)
        link = re.search(r'rel="next" href="([^"]+)"', page)
        following = html.unescape(link[1]) if link else None
    assert seen == every
    assert len(seen) > 4


async def test_of_many_open_alerts_the_board_shows_those_to_look_at_first(
    staged: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ALERTS_ON_THE_BOARD", 2)
    page = (await staged.get("/")).text
    shown = re.findall(r'<li id="alert-([^"]+)"', page)
    assert "; the 2 to look at first" in page
    assert len(shown) == 2
    assert _ref(page, "Gallium") in shown


async def test_what_takes_long_to_count_is_shown_with_its_age(
    staged: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lately, "COUNTED_EACH_TIME", 0)
    assert "; counted" not in (await staged.get("/")).text, "the first who looks waits for it"
    for path, times in (("/", 2), ("/deliveries", 2)):
        page = (await staged.get(path)).text
        assert len(re.findall(r"; counted [\w ]+ ago", page)) == times


async def test_htmx_gets_only_the_part_that_moves(staged: httpx.AsyncClient) -> None:
    ref = _ref((await staged.get("/")).text, "Gallium")
    for path in ("/", "/alerts", f"/alerts/{ref}"):
        part = await staged.get(path, headers={"HX-Request": "true"})
        assert part.headers["Vary"] == "HX-Request"
        assert "<html" not in part.text
        assert 'id="read-at"' in part.text
        assert "<figure" not in part.text
    pictures = await staged.get(f"/alerts/{ref}?part=series", headers={"HX-Request": "true"})
    assert pictures.text.count("<figure") == 2
    assert "<html" not in pictures.text


async def test_an_empty_service_says_what_to_do(open_house: FastAPI) -> None:
    async with _client(open_house) as client:
        page = (await client.get("/")).text
        assert "Nothing has been reported yet" in page
        assert "curl -X POST http://forewarn/v1/signals" in page
        assert "POST /v1/subscriptions" in page
        assert "There has been no alert yet" in (await client.get("/alerts")).text


async def test_without_sign_in_there_is_no_door(open_house: FastAPI) -> None:
    async with _client(open_house) as client:
        assert "Sign out" not in (await client.get("/")).text
        assert (await client.get("/sign-in")).headers["location"] == "/"


@pytest.mark.parametrize(
    "path",
    ["/alerts/TTC-SEMI-1999-0001", "/alerts/%00", "/series/999", "/series/x", "/series/0",
     "/series/99999999999999999999", "/static/nothing.js", "/static/../frame.py", "/static/%00"],
)  # fmt: skip
async def test_what_is_not_there_is_a_page_that_says_so(open_house: FastAPI, path: str) -> None:
    async with _client(open_house) as client:
        answer = await client.get(path)
    assert answer.status_code == 404
    assert "There is nothing here" in answer.text


async def test_while_the_database_is_away_the_page_says_so_and_tries_again(
    open_house: FastAPI,
) -> None:
    away = Database("postgresql://forewarn@127.0.0.1:1/nothing")
    open_house.state.house.database, real = away, open_house.state.house.database
    try:
        async with _client(open_house) as client:
            answer = await client.get("/")
    finally:
        open_house.state.house.database = real
        await away.close()
    assert (answer.status_code, answer.headers["Refresh"]) == (503, "5")
    assert "The database is away" in answer.text


# --- what they never let through --------------------------------------------------------------------


async def test_html_in_any_string_of_a_partner_is_shown_as_text(open_house: FastAPI) -> None:
    house = open_house.state.house
    async with house.database.begin() as connection:
        mallory = (await store.partners.keep(connection, f"mallory {HOSTILE}", "EU", NOW)).id
        await board_cast.subscribe(connection, f"m{HOSTILE}", f"https://x.example/{HOSTILE}", NOW)
    body: dict[str, str | float | int] = {
        "sector": "semiconductors", "event": "export_control", "good": "gallium", "place": HOSTILE,
        "observed_at": "2023-07-03T00:00:00Z", "severity": "severe", "origin": "government",
        "origin_ref": HOSTILE, "note": HOSTILE,
    }  # fmt: skip
    lead_time = SeriesKey("semiconductors", "lead_time", "chips", HOSTILE)
    await house.intake.accept(
        [
            board_cast.arrival_of(mallory, body),
            Arrival(mallory, lead_time, datetime(2023, 7, 3, tzinfo=UTC), 30.0),
        ],
        datetime.now(UTC),
    )
    advice = json.dumps({"level": "disruption", "reasons": [HOSTILE]})
    async with house.database.begin() as connection:
        for statement in (
            "UPDATE alerts SET title = :text, why = :text, recommendation = CAST(:advice AS jsonb)",
            "UPDATE transitions SET reason = :text, decided_by = :text",
            "UPDATE subscriptions SET reason = :text, status = 'suspended'",
        ):
            await connection.execute(
                text(statement),
                {"text": HOSTILE} | ({"advice": advice} if ":advice" in statement else {}),
            )
        refs = [alert.ref for alert in await store.board.open_alerts(connection)]
        series = [row.id for row in await store.dossiers.series_list(connection, 0, 9, {})]
    paths = ["/", "/alerts", *(f"/alerts/{r}" for r in refs), *(f"/series/{s}" for s in series)]
    assert len(paths) == 6
    async with _client(open_house) as client:
        for path in paths:
            page = await client.get(path)
            assert page.status_code == 200, path
            assert "<script>alert" not in page.text, path
            assert "<img" not in page.text, path
            assert "&lt;script&gt;" in page.text, path


async def test_every_page_is_under_the_strict_policy_and_keeps_to_it(
    staged: httpx.AsyncClient,
) -> None:
    ref = _ref((await staged.get("/")).text, "Suez")
    for path in ("/", "/alerts", f"/alerts/{ref}", "/series/1", "/nothing-here/", "/series/999"):
        page = await staged.get(path)
        if path == "/nothing-here/":
            assert page.status_code == 404
            continue
        policy = page.headers["content-security-policy"]
        assert policy == frame.CONTENT_POLICY
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-frame-options"] == "DENY"
        assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:", page.text), path
        assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", page.text)), path
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text), path


async def test_files_asked_for_by_their_sum_may_be_kept_for_ever(
    staged: httpx.AsyncClient,
) -> None:
    page = (await staged.get("/")).text
    (address,) = re.findall(r'href="(/static/board\.css\?v=\w+)"', page)
    kept = await staged.get(address)
    assert kept.headers["cache-control"] == frame.FOR_EVER
    assert kept.headers["content-type"].startswith("text/css")
    loose = await staged.get("/static/board.css")
    assert loose.headers["cache-control"] == "no-cache"
    same = await staged.get("/static/board.css", headers={"If-None-Match": loose.headers["etag"]})
    assert same.status_code == 304


def test_vendored_files_are_what_their_list_says() -> None:
    listed = dict(
        re.findall(
            r"\| ([\w.-]+) \| [\w./-]+ \| ([0-9a-f]{64}) \|", (VENDOR / "VENDOR.md").read_text()
        )
    )
    present = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in VENDOR.iterdir()}
    present.pop("VENDOR.md")
    assert listed == present


# --- words and pictures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "under 1 s"),
        (59, "59 s"),
        (119, "2 min"),
        (7_200, "2 h"),
        (86_400 * 2, "2 days"),
        (86_400 * 700, "700 days"),
        (86_400 * 900, "2 years"),
        (-5, "under 1 s"),
    ],
)
def test_lengths_of_time_are_said_shortly(seconds: float, said: str) -> None:
    assert words.span(timedelta(seconds=seconds)) == said


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (None, "kg", "–"),  # noqa: RUF001 - as shown
        (0.0, "kg", "0 kg"),
        (7833.3, "kg", "7,833 kg"),
        (12.345, "weeks", "12.35 weeks"),
        (-0.5, "sd", "−0.5 sd"),  # noqa: RUF001 - as shown
    ],
)
def test_amounts_are_said_with_four_digits(value: float | None, unit: str, said: str) -> None:
    assert words.amount(value, unit) == said


def _days(*values: float) -> list[Sample]:
    return [
        Sample(datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=n), v)
        for n, v in enumerate(values)
    ]


def _rule(detector: Bands | PercentChange) -> Rule:
    return Rule("r", "R", 1, Family.price, ("shipping",), ("price",), detector)


BANDS = (Band(Severity.severe, 0.5, 0.25), Band(Severity.minor, 0.2, 0.1))


def test_a_frozen_baseline_is_drawn_as_the_engine_compared_it() -> None:
    detector = PercentChange(
        "percent_change", Direction.up, MedianOfWindow("median_of_window", 3, 1), BANDS
    )
    samples = _days(10, 10, 10, 20, 20, 20, 20)
    opened = samples[3].at
    shape = {"series": SeriesId(1), "title": "t", "unit": "u"}
    moving = plots.draw(_rule(detector), samples, None, **shape)  # type: ignore[arg-type]
    frozen = plots.draw(_rule(detector), samples, (opened, None), **shape)  # type: ignore[arg-type]
    thawed = plots.draw(_rule(detector), samples, (opened, samples[5].at), **shape)  # type: ignore[arg-type]
    assert [p.baseline for p in moving.points] == [None, 10, 10, 10, 10, 20, 20]
    assert [p.baseline for p in frozen.points] == [None, 10, 10, 10, 10, 10, 10]
    assert [p.baseline for p in thawed.points] == [None, 10, 10, 10, 10, 10, 20]
    assert [line.severity for line in frozen.lines] == [Severity.minor, Severity.severe]
    assert frozen.relative
    assert frozen.points[-1].compared == pytest.approx(1.0)


def test_older_samples_serve_as_baseline_but_are_not_drawn() -> None:
    detector = PercentChange(
        "percent_change",
        Direction.down,
        MedianOfWindow("median_of_window", 30, 1),
        BANDS,
        mean_of=2,
    )
    samples = _days(10, 12, 14, 16)
    plot = plots.draw(
        _rule(detector), samples, None,
        series=SeriesId(1), title="t", unit="u", shown_since=samples[2].at,
    )  # fmt: skip
    assert [(p.value, p.mean, p.baseline) for p in plot.points] == [(14, 13, 10), (16, 15, 11)]
    assert plot.downward


def test_the_pages_are_small_enough_for_a_slow_line() -> None:
    sizes = {
        p.name: p.stat().st_size
        for p in Path(frame.STATIC).rglob("*")
        if p.suffix in {".js", ".css"}
    }
    assert sum(sizes.values()) < 250_000, sizes
