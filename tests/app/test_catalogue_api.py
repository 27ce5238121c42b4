"""What the API says of the catalogue and of the mechanisms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from alerts.mechanisms import Profile
from app import access, documents
from app.api import catalogue, mechanisms, problems
from app.api.bodies import Bodies
from app.api.envelope import Envelope
from app.api.mechanisms import _not_in_force
from app.database import Database

PATHS = (
    "/v1/sectors",
    "/v1/sectors/semiconductors",
    "/v1/goods",
    "/v1/indicators",
    "/v1/events-catalogue",
    "/v1/levels",
    "/v1/mechanisms",
    "/v1/mechanisms/ttc-semiconductors",
)


@dataclass
class Shown:
    """As much of a house as these doors look at."""

    catalogue: Any
    profiles: dict[str, Profile]
    draining: bool = False


def ended(profile: Profile) -> Profile:
    """The same mechanism, over since yesterday."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    return replace(profile, id="old-pact", title="Old pact", valid_until=yesterday)


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A client with baltica's key, which may only read alerts and subscribe."""
    profiles = {p.id: p for p in map(documents.load_profile, documents.shipped_profiles())}
    profiles["old-pact"] = ended(profiles["ttc-semiconductors"])
    app = FastAPI()
    app.include_router(catalogue.router)
    app.include_router(mechanisms.router)
    problems.install(app)
    app.state.key_ring = access.KeyRing(database)
    app.state.house = Shown(documents.load_catalogue(), profiles)
    app.add_middleware(
        Envelope, bodies=Bodies(100_000), ingest_limit_bytes=1000, body_timeout_seconds=30
    )
    async with database.begin() as connection:
        key = await access.issue_key(
            connection, name="baltica", role="subscriber", now=datetime.now(UTC)
        )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://forewarn.test",
        headers={"Authorization": f"Bearer {key.token}"},
    ) as client:
        yield client


async def items(client: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["next"] is None
    found: list[dict[str, Any]] = body["items"]
    return found


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_reads_without_a_key(client: httpx.AsyncClient, path: str) -> None:
    del client.headers["Authorization"]
    assert (await client.get(path)).status_code == 401


async def test_sectors_are_listed(client: httpx.AsyncClient) -> None:
    found = await items(client, "/v1/sectors")
    assert {"code": "semiconductors", "title": "Semiconductors"} in found
    assert len(found) == 7


async def test_one_sector_shows_all_that_may_be_reported_of_it(client: httpx.AsyncClient) -> None:
    sector = (await client.get("/v1/sectors/semiconductors")).json()
    gallium = next(good for good in sector["goods"] if good["code"] == "gallium")
    assert gallium == {
        "code": "gallium",
        "title": "Gallium",
        "sectors": ["semiconductors", "critical_minerals"],
        "hs": [{"code": "8112.92", "edition": 2022}],
    }
    assert "lead_time" in [indicator["code"] for indicator in sector["indicators"]]
    assert "export_control" in [event["code"] for event in sector["events"]]
    assert "gscpi" not in [indicator["code"] for indicator in sector["indicators"]]


async def test_an_unknown_sector_is_not_found_and_the_nearest_is_named(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/v1/sectors/semiconductor")
    assert answer.status_code == 404
    assert answer.json()["detail"].endswith("Did you mean semiconductors?")


async def test_an_indicator_says_its_unit_harm_and_range(client: httpx.AsyncClient) -> None:
    found = {i["code"]: i for i in await items(client, "/v1/indicators?sector=semiconductors")}
    assert found["lead_time"] == {
        "code": "lead_time",
        "title": "Lead time",
        "unit": "weeks",
        "harm": "up",
        "every_days": 30.4,
        "sectors": [],
        "minimum": 0,
        "maximum": 520,
        "published": None,
        "source": "our_design",
    }


async def test_an_event_says_its_severity_by_name(client: httpx.AsyncClient) -> None:
    found = {e["code"]: e for e in await items(client, "/v1/events-catalogue")}
    assert found["export_control"]["severity"] == "severe"
    assert "IPEF" in found["armed_conflict"]["source"]


@pytest.mark.parametrize("path", ["/v1/goods", "/v1/indicators", "/v1/events-catalogue"])
async def test_a_list_of_an_unknown_sector_is_refused_with_the_nearest(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(path, params={"sector": "shiping"})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["parameter"] == "sector"
    assert error["allowed"][0] == "shipping"


async def test_lists_narrow_to_a_sector(client: httpx.AsyncClient) -> None:
    goods = await items(client, "/v1/goods?sector=batteries")
    assert goods
    assert all("batteries" in good["sectors"] for good in goods)
    assert len(goods) < len(await items(client, "/v1/goods"))


async def test_levels_are_published_with_their_sources(client: httpx.AsyncClient) -> None:
    found = await items(client, "/v1/levels?mechanism=ttc-semiconductors")
    assert [level["level"] for level in found] == [
        "monitoring",
        "early_warning",
        "disruption",
        "crisis",
    ]
    crisis = found[-1]
    assert crisis["set_by"] == ["all_parties"]
    assert crisis["falls_to"] == "disruption"
    assert crisis["lasts_at_most"]["amount"] == 12
    assert crisis["sources"]["chips_act_2023_1781"]["address"].startswith("https://")


async def test_levels_of_every_mechanism_are_listed_together(client: httpx.AsyncClient) -> None:
    found = await items(client, "/v1/levels")
    assert {level["mechanism"] for level in found} == {
        "supply-watch",
        "old-pact",
        "ttc-semiconductors",
    }
    answer = await client.get("/v1/levels", params={"mechanism": "ttc"})
    assert answer.status_code == 422


async def test_a_mechanism_is_shown_whole_with_where_its_numbers_come_from(
    client: httpx.AsyncClient,
) -> None:
    shown = (await client.get("/v1/mechanisms/ttc-semiconductors")).json()
    assert (shown["valid_from"], shown["valid_until"]) == ("2023-05-31", "2027-04-05")
    assert [party["code"] for party in shown["parties"]] == ["EU", "US"]
    lead_time = shown["rules"][0]
    assert lead_time["detector"]["bands"][0]["severity"] == "minor"
    assert lead_time["detector"]["source"] == ["lead_times_2021", "our_design"]
    assert lead_time["freshness"] == {
        "stale_after_days": 46.0,
        "no_data_after_days": 92.0,
        "source": [],
    }
    assert shown["recommendations"][0]["level"] == "disruption"
    profile = documents.load_profile(documents.PROFILES_DIR / "ttc-semiconductors.yaml")
    del shown["in_force"], shown["in_force_note"]
    assert documents.profile_from_document(shown) == profile


async def test_mechanisms_are_listed_with_whether_they_are_in_force(
    client: httpx.AsyncClient,
) -> None:
    found = {mechanism["id"]: mechanism for mechanism in await items(client, "/v1/mechanisms")}
    assert found["supply-watch"]["in_force"] is True
    assert found["supply-watch"]["in_force_note"] is None
    assert found["old-pact"]["in_force"] is False
    assert found["old-pact"]["in_force_note"].startswith("Old pact ended on ")
    assert "rules" not in found["supply-watch"]


async def test_an_unknown_mechanism_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/mechanisms/ttc")
    assert answer.status_code == 404
    assert "ttc-semiconductors" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("day", "words"),
    [
        (date(2023, 5, 30), "begins on 2023-05-31"),
        (date(2023, 5, 31), None),  # the first day counts
        (date(2027, 4, 5), None),  # and so does the last
        (date(2027, 4, 6), "ended on 2027-04-05"),
    ],
)
def test_a_sentence_says_why_a_mechanism_issues_nothing(day: date, words: str | None) -> None:
    profile = documents.load_profile(documents.PROFILES_DIR / "ttc-semiconductors.yaml")
    note = _not_in_force(profile, day)
    assert (note is None) == (words is None)
    assert words is None or words in (note or "")
