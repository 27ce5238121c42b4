"""``forewarn db``: how the database does, on a database of one's own and on the embedded one; copies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from app import store, tidy
from app.cli import app, db
from app.database import Database
from app.store.vitals import Health, IndexSize
from tests.app.test_tidy import NOW, _fill


async def _run(*words: str) -> Result:
    """Runs a command beside the test's loop: it runs a loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["db", *words])


async def _json(*words: str) -> dict[str, Any]:
    done = await _run(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def on_database(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREWARN_DATABASE_URL", database_url)
    monkeypatch.setenv("FOREWARN_DATA_DIR", str(tmp_path))


@pytest.mark.usefixtures("on_database")
async def test_status_says_how_the_database_does(database: Database) -> None:
    await tidy.open_months(database, NOW)
    await _fill(database, "2026-11-03T00:00:00Z", 5_000)
    async with database.begin() as connection:
        await connection.execute(text("ANALYZE"))
    found = await _json("status")
    assert found["revision"] == found["revision_needed"]
    assert found["postgresql"].startswith("18")
    assert (found["role"], found["standbys"], found["embedded"]) == ("primary", [], None)
    assert found["estimates"]["signals"] == 5_000
    assert 80 < found["bytes_per_signal"] < 250
    assert (found["open_alerts"], found["owed_deliveries"], found["oldest_owed_at"]) == (0, 0, None)
    assert found["tables"][0]["name"] == "signals"
    assert {s["name"] for s in found["settings"]} >= {"fsync", "shared_buffers"}, "of the tests"
    told = (await _run("status")).stdout
    assert "5,000 signals" in told
    assert "fsync is off; the advice is on" in told
    await database.migrate_down("base")
    assert (await _json("status"))["revision"] is None
    assert "forewarn migrate" in (await _run("status")).stdout


@pytest.mark.usefixtures("on_database")
async def test_partitions_say_what_lies_where_and_when_it_goes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREWARN_RETENTION", "semiconductors/RED=24,*=120")
    await tidy.open_months(database, NOW)
    await _fill(database, "2015-02-03T00:00:00Z", 3)
    async with database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO series (sector, indicator, created_at) "
                "VALUES ('semiconductors', 'lead_time', now())"
            )
        )
    found = await _json("partitions")
    november = found["partitions"][0]
    assert (november["name"], november["from"][:10], november["to"][:10]) == (
        "signals_2026_11", "2026-11-01", "2026-12-01",
    )  # fmt: skip
    assert (november["first_go_on"], november["all_gone_on"]) == ("2028-12-01", "2036-12-01")
    (early,) = found["default"]["months"]
    assert (early["month"], early["rows"], early["or_more"]) == ("2015-02", 3, False)
    told = (await _run("partitions")).stdout
    assert "in part from 2028-12-01, all on 2036-12-01" in told
    monkeypatch.delenv("FOREWARN_RETENTION")
    assert (await _json("partitions"))["partitions"][0]["first_go_on"] is None


@pytest.mark.usefixtures("on_database")
async def test_vacuum_advice_names_the_statement_to_run(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text("ALTER TABLE signals_default SET (autovacuum_enabled = false)")
        )
    await _fill(database, "2015-02-03T00:00:00Z", 9_000)
    found = await _json("vacuum-advice")
    (default,) = [t for t in found["tables"] if t["name"] == "signals_default"]
    assert default["statement"] == "VACUUM signals_default;"
    assert default["advice"] in (await _run("vacuum-advice")).stdout


@pytest.mark.parametrize(
    ("rows", "dead", "pages", "visible", "freeze_age", "statement", "because"),
    [
        (10_000, 100, 1_000, 1.0, 1_000, None, "all is well"),
        (10_000, 2_500, 1_000, 1.0, 1_000, "VACUUM (VERBOSE) signals_2026_11;", "dead rows"),
        (100, 90, 2, 1.0, 1_000, None, "too few to matter"),
        (10_000, 0, 1_000, 0.5, 1_000, "VACUUM signals_2026_11;", "the index alone does not do"),
        (10, 0, 1, 1.0, 160, "VACUUM (FREEZE, VERBOSE) signals_2026_11;", "old rows come first"),
    ],
)
def test_a_table_has_one_advice_the_most_pressing(
    rows: int, dead: int, pages: int, visible: float, freeze_age: int, statement: str, because: str
) -> None:
    limit = 200 if freeze_age < 1_000 else 200_000_000
    table = Health("signals_2026_11", rows, dead, pages, visible, None, NOW, freeze_age, limit)
    assert db._advise(table)[1] == statement, because


def test_an_index_twice_as_large_as_built_anew_is_to_be_built_anew() -> None:
    told = db._told_index(IndexSize("i", "t", 100, 40))
    assert told["statement"] == "REINDEX INDEX CONCURRENTLY i;"
    assert db._told_index(IndexSize("i", "t", 100, 60))["statement"] is None


@pytest.mark.parametrize(
    ("name", "setting", "unit", "said"),
    [
        ("shared_buffers", "16384", "8kB", "128 MB"),
        ("shared_buffers", "65536", "8kB", None),
        ("checkpoint_timeout", "300", "s", "300 s"),
        ("synchronous_commit", "remote_apply", "", None),
        ("synchronous_commit", "off", "", "off"),
        ("wal_compression", "on", "", "on"),
        ("wal_compression", "lz4", "", None),
        ("fsync", "on", "", None),
    ],
)
def test_a_setting_that_differs_from_the_advice_is_told_in_its_unit(
    name: str, setting: str, unit: str, said: str | None
) -> None:
    told = db._differs(name, setting, unit)
    assert (told and told["is"].replace("131,072 kB", "128 MB")) == said


@pytest.mark.usefixtures("on_database")
async def test_a_database_of_ones_own_is_copied_with_its_own_tools(tmp_path: Path) -> None:
    done = await _run("backup", str(tmp_path / "copy"))
    assert done.exit_code == 1
    assert "docs/backup.md" in done.stderr


@pytest.mark.usefixtures("on_database")
async def test_numbers_that_may_have_been_given_are_left_out(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("INSERT INTO alert_numbers VALUES ('TTC-SEMI', 2026, 7)"))
        await connection.execute(
            text("INSERT INTO partners (id, name, created_at) VALUES (1, 'baltica', now())")
        )
        await connection.execute(
            text(
                "INSERT INTO subscriptions (id, partner_id, url, format, filter, status, created_at, "
                "last_sequence) VALUES ('sub_a', 1, '', 'json', '{}', 'active', now(), 5)"
            )
        )
    found = await _json("skip-numbers", "--by", "100")
    assert found == {"skipped": 100, "subscriptions": 1, "references": 1}
    async with database.begin() as connection:
        taken = await store.publishing.prepare(connection, prefixes=["TTC-SEMI"], year=2026)
        assert list(taken.numbers["TTC-SEMI"]) == [108]
        row = await connection.execute(text("SELECT last_sequence FROM subscriptions"))
        assert row.scalar_one() == 105
        (said,) = await store.audit.listing(connection, before=None, limit=9)
        assert said.action == "database.restored"
