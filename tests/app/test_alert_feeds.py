"""CAP messages and the Atom feed over HTTP: what everyone sees, what a key adds, and what never shows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.database import Database
from app.settings import Settings
from tests.app.test_engine_in_service import PROFILE
from tests.golden.test_format_bytes import CAP

Connect = Callable[..., Awaitable[httpx.AsyncClient]]

ORIGIN = "https://forewarn.example"
ATOM = {"a": "http://www.w3.org/2005/Atom"}
SPACE = {"cap": "urn:oasis:names:tc:emergency:cap:1.2"}
HOSTILE = "<b>\x0b]]>&amp;\u202e\"'</title>"

# Of the trial, whose alerts are for everyone; the mechanism that ships is TLP:AMBER.
RULES = """
  - id: lead
    title: Lead time
    version: 1
    family: availability
    sectors: [semiconductors]
    indicators: [lead_time]
    detector:
      kind: bands
      direction: up
      bands:
        - { severity: moderate, raise_at: 16, clear_at: 14 }
        - { severity: severe, raise_at: 20, clear_at: 18 }
    source: our_design
"""


def lead_time(value: float, day: int = 1, good: str = "mcu") -> dict[str, object]:
    return {
        "sector": "semiconductors",
        "indicator": "lead_time",
        "good": good,
        "place": "TW",
        "observed_at": f"2026-03-{day:02d}T00:00:00Z",
        "value": value,
        "unit": "weeks",
    }


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    folder = tmp_path / "profiles"
    folder.mkdir(exist_ok=True)
    profile = PROFILE.replace("default_tlp: GREEN", "default_tlp: CLEAR")
    (folder / "trial.yaml").write_text(profile + RULES, encoding="utf-8")
    return settings.model_copy(update={"profiles_dir": folder, "public_url": ORIGIN})


@pytest.fixture
async def aurora(caller: Connect) -> httpx.AsyncClient:
    return await caller("aurora", party="EU")


@pytest.fixture
async def visitor(service: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a key."""
    transport = httpx.ASGITransport(service, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://forewarn") as client:
        yield client


async def refs_of(aurora: httpx.AsyncClient, *signals: dict[str, object]) -> tuple[str, str]:
    """Posts, and gives the references of the alerts that are for everyone, and not."""
    refs = (await aurora.post("/v1/signals", json=list(signals))).json()["alerts"]
    public = next(ref for ref in refs if ref.startswith("TRY-"))
    return public, next(ref for ref in refs if not ref.startswith("TRY-"))


def entries(feed: httpx.Response) -> dict[str, ElementTree.Element]:
    """The entries of a feed by the reference in their link."""
    root = ElementTree.fromstring(feed.content)
    found = {}
    for entry in root.findall("a:entry", ATOM):
        links = {e.get("type"): e.get("href", "") for e in entry.findall("a:link", ATOM)}
        found[links["text/html"].rpartition("/")[2]] = entry
    return found


def said(root: ElementTree.Element, path: str) -> str:
    return root.findtext(path, "", SPACE)


async def test_everyone_reads_what_is_clear_and_nothing_else_is_there(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    public, private = await refs_of(aurora, lead_time(17))
    answer = await visitor.get(f"/v1/alerts/{public}.cap")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/cap+xml")
    assert answer.headers["cache-control"] == "public, max-age=60"
    CAP.validate(answer.text)
    for path in (f"{private}.cap", f"{private}/1.cap"):
        hidden = await visitor.get(f"/v1/alerts/{path}")
        never = await visitor.get(f"/v1/alerts/{path.replace('0001', '9999')}")
        assert (hidden.status_code, never.status_code) == (404, 404)
        assert hidden.json()["type"] == never.json()["type"] == "/problems/not-found"
        assert hidden.json()["detail"].replace("0001", "9999") == never.json()["detail"]
        assert "www-authenticate" not in hidden.headers
    assert list(entries(await visitor.get("/v1/alerts.atom"))) == [public]


async def test_a_key_that_may_read_alerts_sees_the_rest(
    aurora: httpx.AsyncClient, caller: Connect
) -> None:
    public, private = await refs_of(aurora, lead_time(17))
    baltica = await caller("baltica", role="subscriber")
    answer = await baltica.get(f"/v1/alerts/{private}.cap")
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["vary"] == "Authorization"
    root = ElementTree.fromstring(answer.content)
    assert (said(root, "cap:scope"), said(root, "cap:code")) == ("Restricted", "TLP:AMBER")
    assert set(entries(await baltica.get("/v1/alerts.atom"))) == {public, private}


async def test_a_key_that_is_not_live_is_refused_whatever_is_asked_for(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    public, private = await refs_of(aurora, lead_time(17))
    headers = {"Authorization": "Bearer fw_0_none"}
    for path in (f"{public}.cap", f"{private}.cap", "nothing.cap"):
        answer = await visitor.get(f"/v1/alerts/{path}", headers=headers)
        assert answer.status_code == 401


async def test_each_transition_is_a_message_that_refers_to_those_before_it(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    ref, _ = await refs_of(aurora, lead_time(17))
    await aurora.post("/v1/signals", json=lead_time(21, 2))
    first, second = [
        ElementTree.fromstring((await visitor.get(f"/v1/alerts/{ref}/{n}.cap")).content)
        for n in (1, 2)
    ]
    assert (said(first, "cap:msgType"), said(second, "cap:msgType")) == ("Alert", "Update")
    name = ",".join(said(first, f"cap:{part}") for part in ("sender", "identifier", "sent"))
    assert said(second, "cap:references") == name
    assert name.startswith(f"forewarn.example,{ref}.1,")
    assert said(second, "cap:info/cap:severity") == "Severe"
    newest = await visitor.get(f"/v1/alerts/{ref}.cap")
    assert newest.content == (await visitor.get(f"/v1/alerts/{ref}/2.cap")).content


@pytest.mark.parametrize("number", ["0", "2", "99999999999999999999999"])
async def test_a_transition_that_never_was_is_not_there(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient, number: str
) -> None:
    ref, _ = await refs_of(aurora, lead_time(17))
    assert (await visitor.get(f"/v1/alerts/{ref}/{number}.cap")).status_code == 404


@pytest.mark.parametrize("number", ["x", "1.5", "%00", "-", pytest.param("9" * 5_000, id="long")])
async def test_what_is_no_number_of_a_transition_is_the_callers_fault(
    visitor: httpx.AsyncClient, number: str
) -> None:
    answer = await visitor.get(f"/v1/alerts/TTC-SEMI-2026-0001/{number}.cap")
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid")


async def test_what_is_taken_back_is_cancelled(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    control: dict[str, object] = {
        "sector": "semiconductors",
        "event": "export_control",
        "good": "gallium",
        "place": "CN",
        "observed_at": "2026-03-01T00:00:00Z",
        "severity": "severe",
        "origin": "government",
    }
    (ref,) = (await aurora.post("/v1/signals", json=control)).json()["alerts"]
    opened = ElementTree.fromstring((await aurora.get(f"/v1/alerts/{ref}.cap")).content)
    assert said(opened, "cap:info/cap:certainty") == "Observed"
    key = {k: v for k, v in control.items() if k not in {"severity", "origin"}}
    await aurora.post("/v1/signals/retract", json={**key, "reason": "it was a draft"})
    root = ElementTree.fromstring((await aurora.get(f"/v1/alerts/{ref}.cap")).content)
    assert (said(root, "cap:msgType"), said(root, "cap:info/cap:responseType")) == (
        "Cancel",
        "AllClear",
    )
    assert (await visitor.get(f"/v1/alerts/{ref}.cap")).status_code == 404


async def test_an_entry_says_what_and_how_bad_and_links_to_its_page_and_its_message(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    ref, _ = await refs_of(aurora, lead_time(17))
    feed = await visitor.get("/v1/alerts.atom")
    assert feed.headers["content-type"] == "application/atom+xml"
    root = ElementTree.fromstring(feed.content)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", root.findtext("a:id", "", ATOM))
    assert root.findtext("a:author/a:name", "", ATOM)
    entry = entries(feed)[ref]
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", entry.findtext("a:id", "", ATOM))
    assert entry.findtext("a:updated", "", ATOM) == root.findtext("a:updated", "", ATOM)
    assert "17 weeks" in entry.findtext("a:summary", "", ATOM)
    assert {e.get("scheme", "").partition("#")[2]: e.get("term") for e in
            entry.findall("a:category", ATOM)} == {
        "tlp": "TLP:CLEAR", "sector": "semiconductors", "level": "early_warning",
        "severity": "moderate", "state": "open",
    }  # fmt: skip
    links = {
        (e.get("rel"), e.get("type")): e.get("href", "") for e in entry.findall("a:link", ATOM)
    }
    assert links["alternate", "text/html"] == f"{ORIGIN}/alerts/{ref}"
    message = links["alternate", "application/cap+xml"]
    assert message == f"{ORIGIN}/v1/alerts/{ref}.cap"
    CAP.validate((await visitor.get(message.removeprefix(ORIGIN))).text)


async def test_a_follow_up_moves_the_entry_and_keeps_its_id(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    first, _ = await refs_of(aurora, lead_time(17))
    await refs_of(aurora, lead_time(17, good="dram"))
    before = entries(await visitor.get("/v1/alerts.atom"))
    await aurora.post("/v1/signals", json=lead_time(21, 2))
    after = entries(await visitor.get("/v1/alerts.atom"))
    assert (list(before)[-1], next(iter(after))) == (first, first)

    def of(entry: ElementTree.Element, name: str) -> str:
        return entry.findtext(f"a:{name}", "", ATOM)

    assert of(before[first], "id") == of(after[first], "id")
    assert of(before[first], "published") == of(after[first], "published")
    assert of(before[first], "updated") < of(after[first], "updated")


async def test_the_feed_is_paged_without_gap_or_repeat(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    goods = ("mcu", "dram", "nand", "chips", "analog")
    await aurora.post("/v1/signals", json=[lead_time(17, good=good) for good in goods])
    seen: list[str] = []
    address, pages = f"{ORIGIN}/v1/alerts.atom?limit=2", 0
    while address:
        feed = await visitor.get(address.removeprefix(ORIGIN))
        seen += entries(feed)
        pages += 1
        links = ElementTree.fromstring(feed.content).findall("a:link", ATOM)
        by_relation = {e.get("rel"): e.get("href", "") for e in links}
        assert by_relation["self"] == address
        address = by_relation.get("next", "")
    assert (len(seen), len(set(seen)), pages) == (5, 5, 3)


async def change(database: Database, statement: str, **values: object) -> None:
    async with database.begin() as connection:
        await connection.execute(text(statement), values)


@pytest.mark.parametrize(("days", "is_listed"), [(29, True), (31, False)])
async def test_an_end_stays_in_the_feed_for_thirty_days(
    aurora: httpx.AsyncClient,
    visitor: httpx.AsyncClient,
    database: Database,
    days: int,
    is_listed: bool,
) -> None:
    ref, _ = await refs_of(aurora, lead_time(17))
    await change(
        database,
        "UPDATE alerts SET state = 'resolved' WHERE ref = :ref",
        ref=ref,
    )
    await change(
        database,
        "UPDATE transitions SET recorded_at = :at",
        at=datetime.now(UTC) - timedelta(days=days),
    )
    listed = entries(await visitor.get("/v1/alerts.atom"))
    assert (ref in listed) is is_listed
    assert (await visitor.get(f"/v1/alerts/{ref}.cap")).status_code == 200


async def test_a_drill_is_for_nobody_without_a_key_and_says_that_it_is_one(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient, database: Database
) -> None:
    ref, _ = await refs_of(aurora, lead_time(17))
    await change(database, "UPDATE alerts SET exercise = 'spring' WHERE ref = :ref", ref=ref)
    assert (await visitor.get(f"/v1/alerts/{ref}.cap")).status_code == 404
    assert entries(await visitor.get("/v1/alerts.atom")) == {}
    entry = entries(await aurora.get("/v1/alerts.atom"))[ref]
    assert entry.findtext("a:title", "", ATOM).startswith("EXERCISE: ")


async def test_hostile_text_is_text_in_the_feed(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient, database: Database
) -> None:
    ref, _ = await refs_of(aurora, lead_time(17))
    await change(database, "UPDATE alerts SET title = :t, why = :t", t=HOSTILE)
    entry = entries(await visitor.get("/v1/alerts.atom"))[ref]
    assert entry.findtext("a:title", "", ATOM) == "<b> ]]>&amp; \"'</title>"
    assert entry.findtext("a:summary", "", ATOM) == "<b> ]]>&amp; \"'</title>"


async def test_of_a_red_alert_the_feed_says_only_that_there_is_one(
    aurora: httpx.AsyncClient, database: Database
) -> None:
    ref, _ = await refs_of(aurora, lead_time(17))
    await change(database, "UPDATE alerts SET tlp = 'RED' WHERE ref = :ref", ref=ref)
    entry = entries(await aurora.get("/v1/alerts.atom"))[ref]
    assert entry.findtext("a:title", "", ATOM) == "TLP:RED item"
    assert "17 weeks" not in ElementTree.tostring(entry, "unicode")
    assert [e.get("term") for e in entry.findall("a:category", ATOM)] == ["TLP:RED"]


@pytest.mark.parametrize(
    "path", ["/v1/alerts.atom", "/v1/alerts/{ref}.cap", "/v1/alerts/{ref}/1.cap"]
)
async def test_nothing_is_sent_twice_to_who_holds_it(
    aurora: httpx.AsyncClient, visitor: httpx.AsyncClient, path: str
) -> None:
    ref, _ = await refs_of(aurora, lead_time(17))
    path = path.format(ref=ref)
    whole = await visitor.get(path)
    tag, modified = whole.headers["etag"], whole.headers["last-modified"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    earlier = format_datetime(parsedate_to_datetime(modified) - timedelta(seconds=1), usegmt=True)
    for headers, status in (
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": f'"other", W/{tag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": earlier}, 200),
        ({"If-Modified-Since": "soon"}, 200),
        ({"If-Modified-Since": f"Fri, 31 Dec {10**20} 23:59:59 GMT"}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": modified}, 200),
    ):
        answer = await visitor.get(path, headers=headers)
        assert answer.status_code == status, headers
        assert answer.headers["etag"] == tag
        assert answer.content == (whole.content if status == 200 else b"")
    head = await visitor.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "last-modified", "content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]


async def test_an_empty_feed_is_a_feed_and_the_same_every_time(visitor: httpx.AsyncClient) -> None:
    first, second = await visitor.get("/v1/alerts.atom"), await visitor.get("/v1/alerts.atom")
    root = ElementTree.fromstring(first.content)
    assert (root.tag, entries(first)) == ("{http://www.w3.org/2005/Atom}feed", {})
    assert first.headers["etag"] == second.headers["etag"]


async def test_what_is_no_cursor_is_a_problem(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get("/v1/alerts.atom?after=nonsense")
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid")
