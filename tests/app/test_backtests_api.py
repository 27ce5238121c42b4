"""Backtests of what is stored, at the door: found, drawn, compared, refused, and beside ingest."""

from __future__ import annotations

import asyncio
import csv
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app import backtest, store
from app.backtest import reading, stored
from app.house import House
from app.settings import Settings
from tests.app import strait_watch
from tests.app.strait_watch import RULE

Connect = Callable[..., Awaitable[httpx.AsyncClient]]

FIRST = date(2021, 1, 1)
CLOSED = range(150, 170)
FELL = range(250, 270)
LABEL = {
    "id": "CLOSED", "sector": "shipping", "indicator": "chokepoint_transits", "place": "suez",
    "start": "2021-05-31", "end": "2021-06-20", "label": "positive",
}  # fmt: skip
DEAF = [{"severity": "severe", "raise_at": -0.95, "clear_at": -0.9}]


def transits(place: str, falls: range, length: int = 400) -> list[dict[str, Any]]:
    """Sixty ships a day, ten in the falls."""
    return [
        {
            "sector": "shipping",
            "indicator": "chokepoint_transits",
            "place": place,
            "observed_at": f"{FIRST + timedelta(n)}T00:00:00Z",
            "value": 10 if n in falls else 58 + n * 7 % 5,
            "unit": "transits/day",
        }
        for n in range(length)
    ]


def gscpi(**changes: object) -> dict[str, Any]:
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


@dataclass(slots=True)
class Desk:
    """The service with *olga*, its operator, and *aurora*, who has reported two straits.

    Suez closed, and that is labelled; Malacca fell, and that is not.
    """

    service: FastAPI
    olga: httpx.AsyncClient
    aurora: httpx.AsyncClient

    async def ask(self, **what: object) -> httpx.Response:
        body = {"mechanism": "strait-watch", "known": "published", **what}
        return await self.olga.post("/v1/backtests", json=body, timeout=120)

    async def found(self, **what: object) -> dict[str, Any]:
        answer = await self.ask(**what)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def report(self, signals: list[dict[str, Any]]) -> None:
        answer = await self.aurora.post("/v1/signals", json=signals)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return strait_watch.beside_the_shipped(settings, tmp_path)


@pytest.fixture
async def desk(service: FastAPI, caller: Connect) -> Desk:
    made = Desk(service, await caller("olga", role="operator"), await caller("aurora", party="EU"))
    await made.report(transits("suez", CLOSED))
    await made.report(transits("malacca", FELL))
    return made


async def test_a_backtest_of_what_is_stored_says_what_the_command_line_says(
    desk: Desk, tmp_path: Path
) -> None:
    found = await desk.found(labels=[LABEL])
    assert (found["hits"], found["misses"], found["false_episodes"]) == (1, 0, 1)
    assert [(e["series"].rpartition("/")[2], e["verdict"]) for e in found["episodes"]] == [
        ("suez", "hit"),
        ("malacca", "false"),
    ]
    rows = [
        f"shipping,chokepoint_transits,,{s['place']},{s['observed_at']},{s['value']}"
        for place, falls in (("malacca", FELL), ("suez", CLOSED))
        for s in transits(place, falls)
    ]
    data = written(tmp_path, rows)
    labels = tuple(reading.labels_in([",".join(LABEL), ",".join(LABEL.values())], "labels"))
    profile = desk.service.state.house.profiles["strait-watch"]
    plan = backtest.Plan(labels=labels, workers=1)
    expected = backtest.run(profile, data, plan).document()
    for one in [*found["pairs"], *found["episodes"]]:
        one.pop("picture")
    assert {name: found[name] for name in expected} == expected


def written(folder: Path, rows: list[str]) -> Path:
    path = folder / "data.csv"
    header = "sector,indicator,good,place,observed_at,value"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


async def test_each_false_episode_has_its_picture(desk: Desk) -> None:
    found = await desk.found(labels=[LABEL])
    assert [e["picture"] is None for e in found["episodes"]] == [True, False]
    (picture,) = found["pictures"]
    assert picture["href"] == found["episodes"][1]["picture"]
    drawn = await desk.olga.get(picture["href"])
    assert drawn.headers["content-type"] == "image/svg+xml"
    assert ElementTree.fromstring(drawn.text).tag.endswith("svg")
    again = await desk.olga.get(found["links"]["self"])
    assert again.json() == found
    for gone in ("/v1/backtests/nothing", f"{found['links']['self']}/pictures/miss-009.svg"):
        assert (await desk.olga.get(gone)).status_code == 404


async def test_a_draft_is_judged_and_not_kept(desk: Desk) -> None:
    whole = (await desk.olga.get(f"/v1/rules/strait-watch/{RULE}")).json()["rule"]
    whole["detector"]["bands"] = DEAF
    found = await desk.found(rule=whole, labels=[LABEL], compare={})
    assert (found["hits"], found["misses"]) == (0, 1)
    assert [(c["name"], c["hits"]) for c in found["compare"]] == [("as asked", 0), ("in use", 1)]
    assert found["pictures"][0]["kind"] == "miss"
    assert found["pairs"][0]["picture"] == found["pictures"][0]["href"]
    now = (await desk.olga.get(f"/v1/rules/strait-watch/{RULE}")).json()
    assert now["newest_version"] == now["profile_version"]


async def test_one_rule_is_compared_with_its_earlier_version(desk: Desk) -> None:
    address = f"/v1/rules/strait-watch/{RULE}"
    shown = await desk.olga.get(address)
    version = shown.json()["newest_version"]
    rule = {**shown.json()["rule"], "shadow": True}
    rule["detector"]["bands"] = DEAF
    changed = await desk.olga.put(
        address,
        json={"rule": rule, "reason": "Too many calls at night."},
        headers={"If-Match": shown.headers["ETag"]},
    )
    assert changed.status_code == 200, changed.text
    body = {"known": "published", "labels": [LABEL], "compare": {"rule_version": version}}
    answer = await desk.olga.post(f"{address}/backtest", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    assert [(c["name"], c["hits"]) for c in answer.json()["compare"]] == [
        ("as asked", 0),
        (f"version {version}", 1),
    ]
    missing = {"compare": {"rule_version": 99}}
    refused = await desk.olga.post(f"{address}/backtest", json=missing)
    assert refused.json()["errors"][0]["pointer"] == "/compare/rule_version"
    gone = await desk.olga.post("/v1/rules/strait-watch/nothing/backtest", json={})
    assert gone.status_code == 404


async def test_a_shadow_rule_asked_for_by_name_is_judged_as_if_it_were_none(desk: Desk) -> None:
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    hot = [
        {
            "sector": "all_sectors",
            "indicator": "gscpi",
            "unit": "sd",
            "observed_at": (now - timedelta(days=31 * n)).isoformat(),
            "value": 0.9 if n < 3 else 0.1,
        }
        for n in range(10, 0, -1)
    ]
    await desk.report(hot)
    body = {"mechanism": "strait-watch", "rule": gscpi(shadow=True), "reason": "Let us see."}
    assert (await desk.olga.post("/v1/rules", json=body)).status_code == 201
    found = await desk.found(rules=["pressure-early"])
    assert [e["rules"] for e in found["episodes"]] == [["pressure-early"]]
    assert found["series"] == 1
    draft = gscpi(id="pressure-later", effective_from=f"{now + timedelta(days=9):%Y-%m-%d}")
    found = await desk.found(rule=draft)
    assert [e["rules"] for e in found["episodes"]] == [["pressure-later"]]


async def test_a_sweep_has_its_points_and_its_curve(desk: Desk) -> None:
    sweep = {"name": "band", "from": 0.8, "to": 1.2, "step": 0.2}
    found = await desk.found(rules=[RULE], labels=[LABEL], sweep=sweep)
    assert [p["value"] for p in found["sweep"]["points"]] == [0.8, 1.0, 1.2]
    assert (await desk.olga.get(found["sweep"]["picture"])).text.startswith("<svg")


async def test_revisions_count_from_when_they_were_received_and_what_is_taken_back_does_not(
    desk: Desk,
) -> None:
    house: House = desk.service.state.house
    async with house.database.begin() as connection:
        for day, value, on in (
            ("2021-07-01", 11.0, "2021-07-20"),
            ("2021-07-02", None, "2021-07-21"),
        ):
            await connection.execute(
                text(
                    "INSERT INTO signals SELECT series_id, observed_at, partner_id, 2, "
                    "CAST(:value AS float8), CAST(:received AS timestamptz) FROM signals "
                    "JOIN series USING (series_id) WHERE place = 'suez' "
                    "AND observed_at = CAST(:at AS timestamptz)"
                ),
                {
                    "value": value,
                    "received": datetime.fromisoformat(f"{on}T00:00:00+00:00"),
                    "at": datetime.fromisoformat(f"{day}T00:00:00+00:00"),
                },
            )
        await connection.execute(
            text(
                "UPDATE signals SET received_at = observed_at + interval '1 day' WHERE revision = 1"
            )
        )
    rows = await exported(house)
    told = [(r.available_at, r.value) for r in rows if r.at == micro("2021-07-01")]
    assert told == [(micro("2021-07-02"), 60.0), (micro("2021-07-20"), 11.0)]
    assert [r for r in rows if r.at == micro("2021-07-02")] == []
    newest = await exported(house, only_newest=True)
    assert [(r.available_at, r.value) for r in newest if r.at == micro("2021-07-01")] == [
        (reading.NOT_GIVEN, 11.0)
    ]
    assert {r.partner for r in rows} == {"aurora"}
    found = await desk.found(known="received", as_of=True, labels=[LABEL])
    assert (found["as_of"], found["hits"], found["warnings"]) == (True, 1, [])


def micro(day: str) -> int:
    return reading.microseconds(reading.parse_instant(day))


async def exported(house: House, *, only_newest: bool = False) -> list[reading.Row]:
    """What is stored of Suez, as a backtest reads it."""
    file = Path(house.settings.profiles_dir or "") / "signals.csv"
    async with house.database.begin() as connection:
        there = await store.recorded.series_of(connection, ["shipping"])
        wanted = [s for s, key in there if key.place == "suez"]
        await store.recorded.export(
            connection,
            wanted,
            file,
            before=datetime(2030, 1, 1, tzinfo=UTC),
            known=datetime.now(UTC),
            events=house.catalogue.events,
            only_newest=only_newest,
        )
    return read(file, house)


def read(file: Path, house: House) -> list[reading.Row]:
    lines = csv.reader(file.read_text().splitlines())
    faults: list[reading.Fault] = []
    columns = reading.Columns(file.name, next(lines), house.catalogue)
    rows = list(columns.rows(lines, lambda: 0, faults))
    assert faults == []
    return rows


async def test_reports_of_events_are_replayed_and_exercises_are_not(desk: Desk) -> None:
    event = {
        "sector": "semiconductors", "event": "export_control", "good": "gallium", "place": "CN",
        "observed_at": "2023-07-03T00:00:00Z", "severity": "severe", "origin": "government",
        "origin_ref": "decree,\n23", "note": "a \"note\", of\ntwo lines",
    }  # fmt: skip
    await desk.report([event])
    house: House = desk.service.state.house
    async with house.database.begin() as connection:
        await connection.execute(text("UPDATE series SET exercise = 'drill' WHERE place = 'suez'"))
        there = await store.recorded.series_of(connection, ["shipping"])
    assert [key.place for _, key in there] == ["malacca"]
    found = await desk.olga.post(
        "/v1/backtests", json={"mechanism": "ttc-semiconductors"}, timeout=120
    )
    assert found.status_code == 200, found.text
    assert [(e["verdict"], e["series"]) for e in found.json()["episodes"]] == [
        ("told", "semiconductors/export_control/gallium/CN")
    ]


async def test_history_that_was_loaded_later_is_said(desk: Desk) -> None:
    found = await desk.found(known="received", labels=[LABEL])
    assert "were received more than a year after they were observed" in found["warnings"][0]
    assert found["lead_days"]["median"] < -365


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"mechanism": "strait-wach"}, "/mechanism", "There is no mechanism"),
        ({"rules": ["transit"]}, None, "Did you mean transits"),
        ({"from": "2022-01-01", "to": "2021-01-01"}, "/to", "before `from`"),
        ({"rule": {"id": "x"}}, "/rule", "needs"),
        (
            {"rule": gscpi(detector={"kind": "bands", "direction": "up", "bands": [
                {"severity": "minor", "raise_at": 0.8, "clear_at": 0.9}]})},
            "/rule/detector/bands/0/clear_at",
            "",
        ),
        ({"compare": {"rule": {"id": "x"}}}, "/compare/rule", ""),
        ({"compare": {"profile_version": 99}}, "/compare/profile_version", "No version 99"),
        ({"compare": {"rule_version": 1}}, "/compare/rule_version", "one rule"),
        ({"compare": {"profile_version": 1, "rule_version": 1}}, "/compare", "Name one of"),
        ({"labels": [{**LABEL, "label": "sure"}]}, "/labels/0/label", "positive"),
        ({"labels": [LABEL, {**LABEL, "end": "2021-01-01"}]}, "/labels/1", "before it starts"),
        ({"sweep": {"name": "nothing", "from": 1, "to": 2, "step": 1}}, None, "nothing to sweep"),
        ({"sweep": {"name": "band", "from": 1, "to": 2, "step": -1}}, None, "never reaches"),
        ({"until": "2021-01-01"}, "/until", "Extra"),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused_with_a_pointer(
    desk: Desk, changes: dict[str, Any], pointer: str | None, said: str
) -> None:
    refused = await desk.ask(**changes)
    assert refused.status_code == 422, refused.text
    told = refused.json()
    assert said in told["detail"], told
    if pointer is not None:
        assert told["errors"][0]["pointer"].startswith(pointer), told


async def test_too_much_is_refused_before_it_begins(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MOST_JUDGED", 500)
    refused = await desk.ask()
    assert refused.status_code == 422
    assert "more than 500 rows" in refused.json()["detail"]


async def test_where_nothing_was_reported_there_is_nothing_to_replay(desk: Desk) -> None:
    refused = await desk.ask(mechanism="ttc-semiconductors")
    assert refused.status_code == 409
    assert "was ever reported" in refused.json()["detail"]


async def test_one_runs_at_a_time_and_signals_are_taken_meanwhile(desk: Desk) -> None:
    first = asyncio.create_task(desk.ask(labels=[LABEL]))
    await asyncio.sleep(0.2)
    second = await desk.ask()
    assert (second.status_code, second.headers["Retry-After"]) == (429, "15")
    assert second.json()["retryable"] is True
    await desk.report(transits("panama", range(0), length=3))
    assert not first.done()
    assert (await first).status_code == 200
    assert (await desk.ask(to="2021-06-01")).status_code == 200


async def test_one_that_is_cut_off_leaves_nothing_behind(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stored, "MOST_SECONDS", 0.05)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = left(tmp_path)
    refused = await desk.ask()
    assert refused.status_code == 422
    assert "took longer" in refused.json()["detail"]
    assert left(tmp_path) == before


def left(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def test_only_operators_may_ask(desk: Desk, caller: Connect) -> None:
    cygnus = await caller("cygnus", role="subscriber")
    body = {"mechanism": "strait-watch"}
    for asker in (desk.aurora, cygnus):
        assert (await asker.post("/v1/backtests", json=body)).status_code == 403
        assert (await asker.get("/v1/backtests/x")).status_code == 403


def test_the_limits_are_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "backtest.md").read_text(encoding="utf-8")
    assert f"{stored.MOST_JUDGED:,} rows" in page
    assert f"first {stored.PICTURES_SHOWN}" in page
    assert (stored.MOST_SECONDS, stored.OUTCOMES_KEPT) == (5 * 60, 4)  # "five minutes", "last four"
