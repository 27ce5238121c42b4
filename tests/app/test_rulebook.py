"""The rulebook: versions laid over profiles, what cannot be used, shelves, and who changed what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from typer.testing import CliRunner

from alerts.catalogue import Catalogue
from alerts.signals import SeriesId, SeriesKey
from app import documents, rulebook, store
from app.cli.audit import app as command
from app.database import Database
from app.policy import Policy
from app.rulebook import NotNow, NotThere, Refused, Rulebook, Status
from app.store.audit import Actor
from app.store.rules import Kept

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TODAY = NOW.date()
OLGA = Actor("k1", "olga")
WATCH_FILE = Path(__file__).with_name("house-watch.yaml")
WATCH = documents.load_profile(WATCH_FILE)
CATALOGUE = documents.load_catalogue()
WHY = "The index runs hotter since it was rebased."


def pressure(**changes: object) -> dict[str, Any]:
    """A rule on the index of global pressure, as an operator would send it."""
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


def kept(version: int, content: Mapping[str, object], *, retired: bool = False) -> Kept:
    return Kept(
        "house-watch",
        str(content["id"]),
        version,
        {**content, "version": version},
        b"",
        WHY,
        NOW,
        OLGA.partner,
        OLGA.key_id,
        retired,
    )


def laid(
    *versions: Kept, day: date = TODAY, catalogue: Catalogue = CATALOGUE
) -> tuple[dict[str, int], dict[str, rulebook.Clause]]:
    """The rules in the house watch with their versions, and every clause, by id."""
    profiles, clauses = rulebook.overlay({"house-watch": WATCH}, versions, catalogue, day)
    rules = {r.id: r.version for r in profiles["house-watch"].rules}
    return rules, {c.id: c for c in clauses.values()}


SHIPPED = {"chokepoint-transits": 1, "global-pressure": 1}


def test_without_versions_a_profile_is_as_it_ships() -> None:
    rules, clauses = laid()
    assert rules == SHIPPED
    assert {c.status for c in clauses.values()} == {Status.in_use}


def test_a_version_replaces_the_rule_of_the_same_id_and_a_new_id_is_added() -> None:
    rules, clauses = laid(kept(2, pressure(id="global-pressure")), kept(1, pressure()))
    assert rules == {**SHIPPED, "global-pressure": 2, "pressure-early": 1}
    assert clauses["global-pressure"].profile_version == 1
    assert clauses["pressure-early"].profile_version is None


def test_the_newest_version_counts_and_a_retired_one_takes_the_rule_out() -> None:
    assert laid(kept(1, pressure()), kept(2, pressure(title="Second")))[0]["pressure-early"] == 2
    rules, clauses = laid(kept(2, pressure(id="global-pressure"), retired=True))
    assert rules == {"chokepoint-transits": 1}
    assert clauses["global-pressure"].status is Status.retired


def test_a_version_for_a_later_day_leaves_the_one_before_in_use_until_then() -> None:
    later = pressure(effective_from="2026-04-01")
    versions = (kept(1, pressure()), kept(2, later))
    rules, clauses = laid(*versions)
    assert (rules["pressure-early"], clauses["pressure-early"].newest) == (1, 2)
    assert laid(*versions, day=date(2026, 4, 1))[0]["pressure-early"] == 2
    rules, clauses = laid(kept(2, {**later, "id": "global-pressure"}))
    assert (rules["global-pressure"], clauses["global-pressure"].newest) == (1, 2)


def test_a_new_rule_for_a_later_day_stands_ready() -> None:
    rules, clauses = laid(kept(1, pressure(effective_from="2026-04-01")))
    assert rules["pressure-early"] == 1
    assert clauses["pressure-early"].status is Status.scheduled


def test_retiring_does_not_wait_for_a_day_to_come() -> None:
    later = pressure(effective_from="2026-04-01")
    _, clauses = laid(kept(1, later), kept(2, later, retired=True))
    assert clauses["pressure-early"].status is Status.retired


UNUSABLE = [
    ({"detector": {"kind": "of_tomorrow"}}, "/detector/kind", "unreadable: a newer version's kind"),
    ({"cadence": 3}, "/cadence", "unreadable: a key that this version does not know"),
    (
        {"indicators": ["gscpi_old"]},
        "/indicators/0",
        "unsound: the catalogue dropped the indicator",
    ),
    (
        {
            "detector": {
                "kind": "bands",
                "direction": "up",
                "bands": [{"severity": "minor", "raise_at": 1, "clear_at": 2}],
            }
        },
        "/detector/bands/0/clear_at",
        "unsound: it clears on the wrong side",
    ),
]


@pytest.mark.parametrize(("broken", "pointer", "_why"), UNUSABLE, ids=[u[2] for u in UNUSABLE])
def test_a_rule_that_cannot_be_used_stops_only_itself(
    broken: dict[str, object], pointer: str, _why: str
) -> None:
    rules, clauses = laid(kept(1, pressure(**broken)), kept(1, pressure(id="pressure-late")))
    assert rules == {**SHIPPED, "pressure-late": 1}
    refused = clauses["pressure-early"]
    assert refused.status is Status.refused
    assert pointer in {f.pointer for f in refused.faults}


def test_what_counts_on_a_broken_rule_is_left_out_with_it() -> None:
    together = pressure(
        id="both",
        detector={
            "kind": "combination",
            "direction": "up",
            "rules": ["pressure-early", "global-pressure"],
            "bands": [{"severity": "severe", "raise_at": 2, "clear_at": 1}],
        },
    )
    together["indicators"] = []
    whole, _ = laid(kept(1, pressure()), kept(1, together))
    assert "both" in whole
    rules, clauses = laid(kept(1, pressure(indicators=["gscpi_old"])), kept(1, together))
    assert rules == SHIPPED
    assert clauses["both"].status is Status.refused


async def open_book(database: Database) -> tuple[Rulebook, Policy]:
    policy = Policy(CATALOGUE, {})
    book = Rulebook(database, policy, clock=lambda: NOW)
    await book.keep_profiles([WATCH_FILE])
    await book.renew()
    return book, policy


async def add(database: Database, content: Mapping[str, object]) -> Kept:
    async with database.begin() as connection:
        return await rulebook.add(
            connection, CATALOGUE, "house-watch", content, actor=OLGA, reason=WHY, now=NOW
        )


async def change(database: Database, content: Mapping[str, object], expected: int) -> Kept:
    async with database.begin() as connection:
        return await rulebook.change(
            connection,
            CATALOGUE,
            ("house-watch", str(content["id"])),
            content,
            expected=expected,
            actor=OLGA,
            reason=WHY,
            now=NOW,
        )


async def retire(database: Database, rule: str, expected: int) -> Kept:
    async with database.begin() as connection:
        return await rulebook.retire(
            connection,
            CATALOGUE,
            ("house-watch", rule),
            expected=expected,
            actor=OLGA,
            reason=WHY,
            now=NOW,
        )


async def test_every_process_asks_a_new_rule_and_forgets_what_it_remembered_of_the_old(
    database: Database,
) -> None:
    key = SeriesKey("all_sectors", "gscpi")
    book, policy = await open_book(database)
    other, elsewhere = await open_book(database)
    assert [r.id for _, r in elsewhere.brief(key).questions] == ["global-pressure"]
    before, edition = elsewhere.as_it_stands(), elsewhere.edition
    await add(database, pressure())
    assert await book.renew()
    assert await other.renew()
    assert not await other.renew()
    for each in (policy, elsewhere):
        assert [r.id for _, r in each.brief(key).questions] == ["global-pressure", "pressure-early"]
    assert elsewhere.rule("house-watch", "pressure-early") is not None
    assert elsewhere.edition == edition + 1
    assert [r.id for _, r in before.brief(key).questions] == ["global-pressure"]
    assert before.rule("house-watch", "pressure-early") is None


async def test_other_processes_take_a_change_up_within_two_seconds(database: Database) -> None:
    book, policy = await open_book(database)
    watching = asyncio.create_task(book.run())
    try:
        await add(database, pressure())
        for _ in range(20):
            await asyncio.sleep(0.1)
            if policy.rule("house-watch", "pressure-early") is not None:
                break
        else:
            raise AssertionError("nobody took it up")
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_newer_profile_of_another_process_is_taken_up_and_told(
    database: Database, tmp_path: Path
) -> None:
    book, policy = await open_book(database)
    shipped = WATCH_FILE.read_text("utf-8")
    newer = tmp_path / "house-watch.yaml"
    newer.write_text(shipped.replace("\nversion: 1\n", "\nversion: 2\n", 1))
    other = Rulebook(database, Policy(CATALOGUE, {}), clock=lambda: NOW)
    await other.keep_profiles([newer])
    with capture_logs() as lines:
        assert await book.renew()
    assert policy.profiles["house-watch"].version == 2
    told = [line for line in lines if line["event"] == "profile.renewed"]
    assert [(line["mechanism"], line["version"]) for line in told] == [("house-watch", 2)]


async def test_a_version_comes_into_use_at_midnight_without_any_change(database: Database) -> None:
    policy = Policy(CATALOGUE, {})
    clock = [NOW]
    book = Rulebook(database, policy, clock=lambda: clock[0])
    await book.keep_profiles([WATCH_FILE])
    await change(database, pressure(id="global-pressure", effective_from="2026-03-02"), 1)
    for hours, version in ((0, 1), (11, 1), (12, 2)):
        clock[0] = NOW + timedelta(hours=hours)
        await book.renew()
        rule = policy.rule("house-watch", "global-pressure")
        assert rule is not None
        assert rule.version == version, hours


async def test_a_broken_rule_in_the_database_is_told_once_and_counted(database: Database) -> None:
    book, policy = await open_book(database)
    async with database.begin() as connection:
        await store.rules.keep(connection, kept(1, pressure(indicators=["gscpi_old"])))
    await add(database, pressure(id="pressure-late"))
    with capture_logs() as lines:
        await book.renew()
    assert [line["rule"] for line in lines if line["event"] == "rule.refused"] == ["pressure-early"]
    assert list(book.edition.refused) == [("house-watch", "pressure-early")]
    assert policy.rule("house-watch", "pressure-late") is not None
    await add(database, pressure(id="pressure-later"))
    with capture_logs() as lines:
        await book.renew()
    assert [line for line in lines if line["event"] == "rule.refused"] == []


async def test_a_profile_that_became_unreadable_leaves_the_one_before_in_use(
    database: Database,
) -> None:
    book, policy = await open_book(database)
    async with database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO profiles SELECT mechanism, 9, sha256, "
                "document || '{\"of_tomorrow\": 1}', loaded_at FROM profiles "
                "WHERE mechanism = 'house-watch'"
            )
        )
    await add(database, pressure())
    await book.renew()
    assert policy.profiles["house-watch"].version == 1
    assert policy.rule("house-watch", "pressure-early") is not None


async def test_of_two_who_change_the_same_version_the_second_is_told(database: Database) -> None:
    await open_book(database)
    await add(database, pressure())
    outcomes = await asyncio.gather(
        *(change(database, pressure(title=f"Title {n}"), 1) for n in range(6)),
        return_exceptions=True,
    )
    assert sorted(type(o).__name__ for o in outcomes) == ["Kept"] + ["NotNow"] * 5
    async with database.begin() as connection:
        versions = await store.rules.versions(connection, "house-watch", "pressure-early")
    assert [v.version for v in versions] == [1, 2]


async def test_a_rule_of_a_profile_is_changed_from_the_version_it_has_there(
    database: Database,
) -> None:
    book, policy = await open_book(database)
    made = await change(database, pressure(id="global-pressure"), 1)
    assert made.version == 2
    await book.renew()
    rule = policy.rule("house-watch", "global-pressure")
    assert rule is not None
    assert (rule.version, rule.title) == (2, "Pressure, early")


async def test_a_retired_rule_is_brought_back_by_its_next_version(database: Database) -> None:
    book, policy = await open_book(database)
    await retire(database, "global-pressure", 1)
    await book.renew()
    assert policy.rule("house-watch", "global-pressure") is None
    with pytest.raises(NotNow, match="retired already"):
        await retire(database, "global-pressure", 2)
    with pytest.raises(NotNow, match="is there already, in version 2, retired"):
        await add(database, pressure(id="global-pressure"))
    assert (await change(database, pressure(id="global-pressure"), 2)).version == 3
    await book.renew()
    assert policy.rule("house-watch", "global-pressure") is not None


async def test_a_rule_that_another_counts_on_is_not_retired(database: Database) -> None:
    await open_book(database)
    await add(database, pressure())
    together = pressure(
        id="both",
        indicators=[],
        detector={
            "kind": "combination",
            "direction": "up",
            "rules": ["pressure-early", "global-pressure"],
            "bands": [{"severity": "severe", "raise_at": 2, "clear_at": 1}],
        },
    )
    await add(database, together)
    with pytest.raises(NotNow, match="'both' counts on 'pressure-early'"):
        await retire(database, "pressure-early", 1)


async def test_a_rule_that_is_not_there_is_neither_changed_nor_retired(database: Database) -> None:
    await open_book(database)
    with pytest.raises(NotThere):
        await change(database, pressure(), 1)
    with pytest.raises(NotThere):
        await retire(database, "pressure-early", 1)


async def shelve(database: Database, policy: Policy, **what: Any) -> store.shelves.Shelf:
    given = {"mechanism": "", "rule": "", "series": None, "until": NOW + timedelta(days=2), **what}
    async with database.begin() as connection:
        return await rulebook.shelve(
            connection, policy, **given, reason="Carnival week.", actor=OLGA, now=NOW
        )


async def make_series(database: Database) -> SeriesId:
    key = SeriesKey("all_sectors", "gscpi")
    async with database.begin() as connection:
        return (await store.series.find_or_make(connection, [key], NOW))[key]


async def test_a_shelf_covers_a_rule_a_series_or_one_on_the_other_until_its_end(
    database: Database,
) -> None:
    book, policy = await open_book(database)
    series = await make_series(database)
    other = SeriesId(series + 1)
    rule = ("house-watch", "global-pressure")
    assert not policy.shelved(series, NOW)
    await shelve(database, policy, mechanism=rule[0], rule=rule[1])
    await book.renew()
    assert set(policy.shelved(series, NOW)) == set(policy.shelved(other, NOW)) == {rule}
    until = NOW + timedelta(days=2)
    assert rule in policy.shelved(series, until - timedelta(seconds=1))
    assert rule not in policy.shelved(series, until)
    long = await shelve(database, policy, series=series, until=NOW + timedelta(days=20))
    await book.renew()
    assert ("house-watch", "chokepoint-transits") in policy.shelved(series, NOW)
    assert ("house-watch", "chokepoint-transits") not in policy.shelved(other, NOW)
    assert policy.shelf(series, *rule, NOW) == long
    shown = policy.shelf(other, *rule, NOW)
    assert shown is not None
    assert (shown.created_by, shown.reason) == ("olga", "Carnival week.")


async def test_a_shelf_ended_early_is_off_at_once(database: Database) -> None:
    book, policy = await open_book(database)
    series = await make_series(database)
    made = await shelve(database, policy, series=series)
    await book.renew()
    later = NOW + timedelta(hours=1)
    async with database.begin() as connection:
        await rulebook.end_shelf(connection, made.id, actor=OLGA, reason="Over.", now=later)
    await book.renew()
    assert policy.shelf(series, "house-watch", "global-pressure", later) is None
    async with database.begin() as connection:
        with pytest.raises(NotNow, match="over already"):
            await rulebook.end_shelf(connection, made.id, actor=OLGA, reason="Again.", now=later)
        with pytest.raises(NotThere):
            await rulebook.end_shelf(connection, 999, actor=OLGA, reason="None.", now=later)


NOT_SHELVED = [
    ({}, "", "nothing named"),
    ({"mechanism": "house-watch"}, "/rule", "a mechanism without a rule"),
    ({"rule": "global-pressure"}, "/mechanism", "a rule without its mechanism"),
    ({"mechanism": "house-watch", "rule": "global-presure"}, "/rule", "no such rule"),
    ({"series": SeriesId(77)}, "/series_id", "no such series"),
    (
        {"mechanism": "house-watch", "rule": "global-pressure", "until": NOW},
        "/until",
        "an end that is not ahead",
    ),
    (
        {
            "mechanism": "house-watch",
            "rule": "global-pressure",
            "until": NOW + timedelta(days=30, seconds=1),
        },
        "/until",
        "longer than thirty days",
    ),
]


@pytest.mark.parametrize(("what", "pointer", "_why"), NOT_SHELVED, ids=[n[2] for n in NOT_SHELVED])
async def test_what_cannot_be_shelved_is_refused(
    database: Database, what: dict[str, Any], pointer: str, _why: str
) -> None:
    _, policy = await open_book(database)
    with pytest.raises(Refused) as refused:
        await shelve(database, policy, **what)
    assert pointer in {f.pointer for f in refused.value.faults}


async def test_each_change_is_a_link_of_a_chain_in_the_transaction_that_made_it(
    database: Database,
) -> None:
    _, policy = await open_book(database)
    await add(database, pressure())
    with pytest.raises(NotNow):
        await add(database, pressure())
    await change(database, pressure(title="Second"), 1)
    await retire(database, "pressure-early", 2)
    series = await make_series(database)
    await shelve(database, policy, series=series)
    async with database.begin() as connection:
        rows = await store.audit.listing(connection, before=None, limit=100)
        verified = await store.audit.verify(connection)
    by_olga = [(r.id, r.action, r.subject) for r in reversed(rows) if r.actor == OLGA]
    first = by_olga[0][0]
    assert by_olga == [
        (first, "rule.made", "rules/house-watch/pressure-early"),
        (first + 1, "rule.changed", "rules/house-watch/pressure-early"),
        (first + 2, "rule.retired", "rules/house-watch/pressure-early"),
        (first + 3, "shelf.made", "shelves/1"),
    ]
    retired = rows[1]
    assert retired.after is None
    assert retired.before is not None
    assert '"title": "Second"' in retired.before
    assert (verified.rows, verified.head, verified.broken) == (first + 3, rows[0].hash, "")


async def test_many_at_once_still_make_one_chain(database: Database) -> None:
    await open_book(database)
    await asyncio.gather(*(add(database, pressure(id=f"pressure-{n}")) for n in range(8)))
    async with database.begin() as connection:
        verified = await store.audit.verify(connection)
    assert not verified.broken
    assert verified.rows == 8 + 1


TAMPERED = [
    ("UPDATE audit SET reason = 'Nothing to see.' WHERE id = 2", "Row 2 is not as it was written."),
    ("UPDATE audit SET partner = 'cygnus' WHERE id = 3", "Row 3 is not as it was written."),
    ("UPDATE audit SET at = at + interval '1 day' WHERE id = 1", "Row 1 is not as it was written."),
    ("DELETE FROM audit WHERE id = 3", "Row 3 is missing."),
]


@pytest.mark.parametrize(("statement", "broken"), TAMPERED, ids=[t[0][:30] for t in TAMPERED])
async def test_a_row_that_was_altered_or_removed_breaks_the_chain(
    database: Database, statement: str, broken: str
) -> None:
    await open_book(database)
    for n in range(3):
        await add(database, pressure(id=f"pressure-{n}"))
    async with database.begin() as connection:
        await connection.execute(text(statement))
        assert (await store.audit.verify(connection)).broken == broken


async def test_a_chain_cut_off_at_its_end_lacks_the_hash_that_was_noted(database: Database) -> None:
    await open_book(database)
    await add(database, pressure())
    async with database.begin() as connection:
        noted = (await store.audit.verify(connection)).head.hex()
        assert not (await store.audit.verify(connection, noted)).broken
        await connection.execute(text("DELETE FROM audit WHERE id = (SELECT max(id) FROM audit)"))
        assert not (await store.audit.verify(connection)).broken
        assert "cut off" in (await store.audit.verify(connection, noted)).broken


async def test_the_command_follows_the_chain(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREWARN_DATABASE_URL", database_url)
    monkeypatch.setenv("FOREWARN_DATA_DIR", str(tmp_path))

    async def verify(*words: str) -> tuple[int, dict[str, Any]]:
        done = await asyncio.to_thread(CliRunner().invoke, command, ["verify", "--json", *words])
        return done.exit_code, json.loads(done.stdout)

    assert await verify() == (0, {"rows": 0, "head": "", "whole": True, "broken": None})
    await open_book(database)
    await add(database, pressure())
    code, found = await verify()
    assert (code, found["rows"], found["whole"]) == (0, 2, True)
    assert (await verify("--head", found["head"]))[0] == 0
    async with database.begin() as connection:
        await connection.execute(text("UPDATE audit SET reason = 'Nothing to see.' WHERE id = 2"))
    code, told = await verify("--head", found["head"])
    assert (code, told["broken"]) == (1, "Row 2 is not as it was written.")


def test_a_renewal_without_a_change_keeps_what_is_remembered() -> None:
    policy = Policy(CATALOGUE, {"house-watch": WATCH})
    policy.brief(SeriesKey("all_sectors", "gscpi"))
    policy.renew({"house-watch": replace(WATCH)}, [])
    assert policy.edition == 0
