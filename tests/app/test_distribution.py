"""The step beyond one PostgreSQL is open: the real catalogue and the real statements keep Citus' rules.

Citus itself is not here. What is asserted of the statements is what PostgreSQL wrote into its log
while the product went every way that touches a table by series (``hot_walk``), as its own parser
understands it; of the catalogue, what the migrations made; of the command, what arrives at a far
end that stands in for the extension.
"""

from __future__ import annotations

import ast
import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

import app.store
from app import access
from app.cli import app as command_line
from app.database import Database
from app.demo import validity
from app.main import create_app
from app.settings import Settings
from app.store import distribution
from tests.app import citus_laws, hot_walk, wiretap
from tests.app.citus_laws import Judged, Tables
from tests.conftest import TEMPLATE

STORE = Path(app.store.__file__).parent
MONTHS = ("CREATE TABLE", "ALTER TABLE", "DROP TABLE", "LOCK TABLE ONLY")
"""Partitions come and go by these. What they are like is for the catalogue to say."""

HOT = re.compile(rf"\b({'|'.join(distribution.BY_SERIES)})\b")


@dataclass(frozen=True, slots=True)
class Walked:
    """What was sent on the walk, transaction by transaction, and which functions of the store ran."""

    url: str
    sent: list[list[str]]
    ran: set[tuple[str, str]]


@pytest.fixture(scope="module")
def walked(postgres_url: str, short_tmp: Path, tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """The walk, gone once; its database stays."""
    name, folder = "walked", tmp_path_factory.mktemp("walked")
    log = short_tmp / "server" / "postgres.log"
    url = postgres_url.replace("/forewarn?", f"/{name}?")
    own = validity.prolong(folder, datetime.now(UTC).date()) or folder / "own"
    own.mkdir(exist_ok=True)
    hot_walk.prepare(own)
    begun = log.stat().st_size
    ran: set[tuple[str, str]] = set()

    def notice(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(STORE)):
            ran.add((Path(frame.f_code.co_filename).stem, frame.f_code.co_name))

    async def go() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        await wiretap.listen(connection, name)
        await connection.close()
        settings = Settings(
            data_dir=folder / "data",
            database_url=url,
            secret_key=SecretStr("a secret key for tests, long enough to be one"),
            dashboard_sign_in=False,
            profiles_dir=own,
        )
        service = create_app(settings)
        async with service.router.lifespan_context(service), AsyncExitStack() as stack:

            async def connect(
                name: str, role: str = "partner", party: str = ""
            ) -> httpx.AsyncClient:
                async with service.state.house.database.begin() as connection:
                    key = await access.issue_key(
                        connection, name=name, role=role, party=party, now=datetime.now(UTC)
                    )
                client = httpx.AsyncClient(
                    transport=httpx.ASGITransport(service),
                    base_url="http://forewarn",
                    headers={"Authorization": f"Bearer {key.token}"},
                )
                return await stack.enter_async_context(client)

            await hot_walk.walk(service, connect, folder)

    sys.setprofile(notice)
    try:
        asyncio.run(go())
    finally:
        sys.setprofile(None)
    said = log.read_bytes()[begun:].decode()
    return Walked(url, wiretap.transactions(said, name), ran)


@pytest.fixture
async def parser(walked: Walked) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to the walk's database, for asking how a statement is understood."""
    connection = await asyncpg.connect(walked.url)
    yield connection
    await connection.close()


# ---- the statements ----------------------------------------------------------------------------


def test_the_walk_reaches_every_function_that_names_a_table_by_series(walked: Walked) -> None:
    missed = sorted(_naming_hot_tables() - walked.ran)
    assert missed == [], "let tests/app/hot_walk.py come by here: what is not sent is not judged"


def test_both_ways_of_storing_signals_were_sent(walked: Walked) -> None:
    sent = {sql for transaction in walked.sent for sql in transaction}
    assert any(sql.startswith("COPY") and "signals" in sql for sql in sent)
    assert any(sql.startswith("INSERT INTO signals") for sql in sent)


async def test_every_statement_of_the_product_keeps_the_laws_of_citus(
    walked: Walked, parser: asyncpg.Connection[asyncpg.Record]
) -> None:
    tables = await Tables.of(parser)
    judged: dict[str, Judged] = {}
    for sql in {sql for transaction in walked.sent for sql in transaction}:
        if HOT.search(sql) or re.search(rf"\b{distribution.EVERYWHERE}\b", sql):
            if sql.startswith(MONTHS):
                continue
            judged[sql] = await citus_laws.judge(parser, tables, sql)
    assert len([one for one in judged.values() if one.touches]) > 30
    broken = {sql: one.breaches for sql, one in judged.items() if one.breaches}
    assert broken == {}
    late = [
        transaction
        for transaction in walked.sent
        if citus_laws.order([judged[sql] for sql in transaction if sql in judged])
    ]
    assert late == []
    assert any(one.makes_series for one in judged.values())


OFFENDING = {
    "SELECT version FROM series_state WHERE series_id = ANY($1) ORDER BY series_id FOR UPDATE":
        "a lock over many rows",
    "WITH s AS (SELECT 1 FROM findings WHERE alert_id = $1 FOR NO KEY UPDATE) SELECT count(*) FROM s":
        "a lock over many rows",
    "SELECT value FROM signals WHERE series_id = $1 OR revision = 1 FOR SHARE":
        "a lock over many rows",
    "MERGE INTO findings AS f USING unnest($1::bigint[]) AS u (id) ON f.series_id = u.id "
    "WHEN MATCHED THEN DELETE": "MERGE",
    "INSERT INTO series_state (series_id) SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING "
    "RETURNING series_id": "ON CONFLICT … RETURNING",
    "SELECT w.id, m.most FROM unnest($1::bigint[]) AS w (id) CROSS JOIN LATERAL (SELECT max(value) "
    "AS most FROM signals AS s WHERE s.series_id = w.id) AS m":
        "an aggregate within a LATERAL of a function's rows",
    "SELECT w.id, m.value FROM unnest($1::bigint[]) AS w (id) LEFT JOIN LATERAL (SELECT value FROM "
    "(SELECT value FROM signals AS s WHERE s.series_id = w.id ORDER BY observed_at DESC LIMIT 1) AS n) "
    "AS m ON true": "an aggregate within a LATERAL of a function's rows",
    "SELECT mechanism FROM profiles WHERE EXISTS (SELECT FROM signals)":
        "a subquery without columns",
    "SELECT s.series_id, (SELECT max(value) FROM signals AS g WHERE g.series_id = s.series_id) FROM "
    "(SELECT series_id FROM series_state ORDER BY version LIMIT 3) AS s":
        "a subquery about the rows of a subquery",
    "SELECT id FROM unnest($1::bigint[]) AS h (id) WHERE EXISTS (SELECT 1 FROM signals WHERE series_id = id)":
        "a subquery about rows that are not by series",
    "UPDATE series_state AS s SET version = 0 FROM unnest($1::bigint[]) AS m (id) WHERE s.series_id = m.id "
    "AND (SELECT true FROM findings WHERE series_id = m.id LIMIT 1) IS NULL":
        "a subquery about rows that are not by series",
    "WITH RECURSIVE m AS (SELECT min(revision) AS r FROM signals UNION ALL SELECT (SELECT min(revision) "
    "FROM signals WHERE revision > r) FROM m WHERE r < 9) SELECT r FROM m": "WITH RECURSIVE",
    "SELECT version, ARRAY(SELECT version FROM lanes) FROM series_state WHERE series_id = ANY($1)":
        "a column from plain tables beside tables by series",
    "COPY (SELECT version FROM series_state WHERE version > 1 FOR UPDATE) TO STDOUT":
        "a lock over many rows",
}  # fmt: skip

HARMLESS = (
    "WITH h AS (SELECT ARRAY(SELECT version FROM lanes) AS v) SELECT version, v FROM h, series_state",
    "SELECT version FROM series_state WHERE $1 = series_id AND version > 1 FOR NO KEY UPDATE",
    "SELECT lane FROM lanes WHERE lane = ANY($1) ORDER BY lane FOR NO KEY UPDATE",
    "INSERT INTO alert_numbers VALUES ('X', 1, 1) ON CONFLICT (prefix, year) DO NOTHING RETURNING last",
    "SELECT m FROM findings f, LATERAL (SELECT max(value) FROM signals s WHERE s.series_id = f.series_id) m",
)


@pytest.mark.parametrize("sql", [*OFFENDING, *HARMLESS])
async def test_each_law_finds_its_offence_and_lets_the_harmless_pass(
    parser: asyncpg.Connection[asyncpg.Record], sql: str
) -> None:
    found = await citus_laws.judge(parser, await Tables.of(parser), sql)
    if sql in OFFENDING:
        assert OFFENDING[sql] in found.breaches
    else:
        assert found.breaches == []


async def test_a_series_that_is_made_after_something_was_read_of_others_is_late(
    parser: asyncpg.Connection[asyncpg.Record],
) -> None:
    tables = await Tables.of(parser)
    make, read, lock = [
        await citus_laws.judge(parser, tables, sql)
        for sql in (
            "INSERT INTO series (sector, indicator, created_at) VALUES ($1, $2, $3)",
            "SELECT version FROM series_state WHERE series_id = ANY($1)",
            "SELECT lane FROM lanes FOR UPDATE",
        )
    ]
    assert citus_laws.order([lock, make, read]) == []
    assert citus_laws.order([make, read, make]) == ["series are made late"]


def _naming_hot_tables() -> set[tuple[str, str]]:
    """The functions of the store with a string, constant or table in them that names one."""
    found: set[tuple[str, str]] = set()
    for path in STORE.glob("*.py"):
        if path.stem == "distribution":  # It names them in order to place them.
            continue
        module = ast.parse(path.read_text(encoding="utf-8"))
        constants: set[str] = set()
        for top in module.body:
            is_hot = any(_names_one(node, constants) for node in ast.walk(_without_words(top)))
            match top:
                case ast.Assign(targets=[ast.Name(id=name)]) if is_hot:
                    constants.add(name)
                case ast.FunctionDef() | ast.AsyncFunctionDef() if is_hot:
                    found.add((path.stem, top.name))
    return found


def _names_one(node: ast.AST, constants: set[str]) -> bool:
    match node:
        case ast.Constant(value=str(said)):
            return bool(HOT.search(said))
        case ast.Name(id=name):
            return name in constants
        case ast.Attribute(value=ast.Name(id="tables"), attr=name):
            return name in distribution.BY_SERIES
        case _:
            return False


def _without_words(top: ast.stmt) -> ast.stmt:
    """A function without its docstring."""
    if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(top):
        return ast.Module(top.body[1:], [])  # type: ignore[return-value]
    return top


# ---- the catalogue -----------------------------------------------------------------------------


async def test_nothing_in_the_schema_is_in_the_way(database: Database) -> None:
    async with database.begin() as connection:
        assert await distribution.in_the_way(connection, {}) == []


IN_THE_WAY = {
    "CREATE UNIQUE INDEX one_alert ON findings (alert_id) WHERE series_id = 0":
        "one_alert is unique on findings without series_id.",
    "CREATE UNIQUE INDEX once ON signals_default (partner_id) WHERE revision = 0":
        "once is unique on signals_default without series_id.",
    "ALTER TABLE series_state ADD EXCLUDE USING btree (version WITH =) WHERE (version < 0)":
        "series_state_version_excl is unique on series_state without series_id.",
    "ALTER TABLE alert_signals DROP CONSTRAINT alert_signals_pkey": "alert_signals has no key.",
    "ALTER TABLE findings ADD CONSTRAINT feeds FOREIGN KEY (alert_id) REFERENCES alerts":
        "The foreign key feeds leads from findings to alerts.",
    "ALTER TABLE shelves ADD CONSTRAINT shelved FOREIGN KEY (series_id) REFERENCES series_state":
        "The foreign key shelved leads from shelves to series_state.",
    "ALTER TABLE shelves ADD CONSTRAINT shelved FOREIGN KEY (series_id) REFERENCES series":
        "The foreign key shelved leads from shelves to series.",
    "CREATE TRIGGER suppress BEFORE UPDATE ON series_state FOR EACH ROW "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()": "The trigger suppress is on series_state.",
    "CREATE RULE never AS ON DELETE TO signals DO INSTEAD NOTHING": "The rule never is on signals.",
    "DROP TABLE findings": "findings is missing: this is no database of Forewarn at its newest schema.",
    "ALTER TABLE signals ADD FOREIGN KEY (series_id) REFERENCES series": None,
}  # fmt: skip


class Undone(Exception):
    """Nothing of it stays."""


@pytest.mark.parametrize("change", IN_THE_WAY)
async def test_what_is_in_the_way_is_named(walked: Walked, change: str) -> None:
    database = Database(walked.url)
    with pytest.raises(Undone):
        async with database.begin() as connection:
            await connection.exec_driver_sql(change)
            found = await distribution.in_the_way(connection, {})
            assert found == ([IN_THE_WAY[change]] if IN_THE_WAY[change] else [])
            raise Undone
    await database.close()


# ---- the command -------------------------------------------------------------------------------

STAND_IN = """
CREATE TABLE calls (number serial, call text);
CREATE TABLE citus_tables (
    table_name regclass, citus_table_type text, distribution_column text, colocation_id integer);
CREATE TABLE pg_dist_node (isactive boolean, shouldhaveshards boolean);
INSERT INTO pg_dist_node VALUES (true, true), (true, true), (true, false);

CREATE FUNCTION create_reference_table(table_name regclass) RETURNS void LANGUAGE sql AS $$
    INSERT INTO calls (call) VALUES (format('reference %s', $1));
    INSERT INTO citus_tables VALUES ($1, 'reference', '<none>', 1);
$$;
CREATE FUNCTION create_distributed_table(table_name regclass, distribution_column text,
    distribution_type text DEFAULT 'hash', colocate_with text DEFAULT 'default',
    shard_count integer DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
    INSERT INTO calls (call) VALUES (format('distributed %s by %s %s beside %s in %s', $1, $2, $3, $4, $5));
    INSERT INTO citus_tables VALUES ($1, 'distributed', $2, 2);
$$;
CREATE FUNCTION truncate_local_data_after_distributing_table(function_name regclass)
RETURNS void LANGUAGE sql AS $$ INSERT INTO calls (call) VALUES (format('truncate %s', $1)); $$;
"""

IN_ORDER = [
    "reference series",
    "distributed series_state by series_id hash beside none in 64",
    "distributed signals by series_id hash beside series_state in ",
    "distributed findings by series_id hash beside series_state in ",
    "distributed alert_signals by series_id hash beside series_state in ",
]


APART = """
    SELECT create_distributed_table('series_state', 'series_id');
    SELECT create_distributed_table('findings', 'series_id');
    UPDATE citus_tables SET colocation_id = 3 WHERE table_name = 'findings'::regclass
"""


@dataclass(frozen=True, slots=True)
class FarEnd:
    """A database of the test's own, and what its extension was called for."""

    connection: asyncpg.Connection[asyncpg.Record]

    async def calls(self) -> list[str]:
        return [
            row[0] for row in await self.connection.fetch("SELECT call FROM calls ORDER BY number")
        ]


@pytest.fixture
async def far_end(
    database_url: str, short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FarEnd]:
    """A PostgreSQL where an extension called citus, which writes down its calls, may be created."""
    monkeypatch.setenv("FOREWARN_DATABASE_URL", database_url)
    monkeypatch.setenv("FOREWARN_DATA_DIR", str(tmp_path))
    folder = short_tmp / "stand-in" / "extension"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "citus.control").write_text("default_version = '0'\nrelocatable = true\n")
    (folder / "citus--0.sql").write_text(STAND_IN)
    connection = await asyncpg.connect(database_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(
        f"ALTER DATABASE {name} SET extension_control_path = '{folder.parent}:$system'"
    )
    await connection.close()
    connection = await asyncpg.connect(database_url)
    yield FarEnd(connection)
    await connection.close()


async def _distribute(*options: str) -> Result:
    """Runs the command beside the test's loop: it runs a loop of its own."""
    words = ["db", "distribute", *options]
    return await asyncio.to_thread(CliRunner().invoke, command_line, words)


async def test_without_the_extension_the_command_says_so(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREWARN_DATABASE_URL", database_url)
    monkeypatch.setenv("FOREWARN_DATA_DIR", str(tmp_path))
    done = await _distribute()
    assert done.exit_code == 1
    assert str(done.exception).startswith("Citus is not installed on this PostgreSQL")


async def test_where_it_is_installed_and_not_created_the_command_says_how(far_end: FarEnd) -> None:
    done = await _distribute("--dry-run")
    assert done.exit_code == 1
    assert "run CREATE EXTENSION citus in it" in str(done.exception)


async def test_the_tables_are_placed_once_in_order(far_end: FarEnd) -> None:
    await far_end.connection.execute("CREATE EXTENSION citus")
    shown = await _distribute("--dry-run")
    assert shown.stdout.splitlines()[0] == "SELECT create_reference_table('series');"
    assert len(shown.stdout.splitlines()) == len(IN_ORDER) + 1
    assert await far_end.calls() == []
    done = json.loads((await _distribute("--shards", "64", "--json")).stdout)
    assert (done["citus"], done["workers"], done["moved"], done["done"]) == ("0", 2, [], True)
    assert await far_end.calls() == IN_ORDER
    again = await _distribute()
    assert (again.exit_code, again.stdout.strip()) == (
        0,
        "The tables are distributed already; there is nothing to do.",
    )
    assert await far_end.calls() == IN_ORDER


async def test_rows_are_moved_their_shadow_is_removed_and_who_waits_is_said(
    far_end: FarEnd,
) -> None:
    await far_end.connection.execute(
        "CREATE EXTENSION citus; INSERT INTO series_state (series_id) VALUES (1)"
    )
    shown = await _distribute("--dry-run")
    assert "Rows of series_state will be moved, and whoever writes them waits" in shown.stdout
    done = await _distribute("--shards", "64")
    assert "over 2 machines. Rows of series_state were moved" in done.stdout
    assert await far_end.calls() == [*IN_ORDER, "truncate series_state"]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("CREATE UNIQUE INDEX one ON findings (alert_id)", "one is unique on findings without series_id."),
        ("SELECT create_reference_table('signals')", "signals is a reference table already"),
        ("SELECT create_distributed_table('signals', 'partner_id')", "signals is distributed by partner_id"),
        (APART, "findings is not placed beside series_state."),
    ],
)  # fmt: skip
async def test_what_is_in_the_way_stops_the_command_before_it_begins(
    far_end: FarEnd, before: str, said: str
) -> None:
    await far_end.connection.execute(f"CREATE EXTENSION citus; {before}")
    begun = await far_end.calls()
    done = await _distribute()
    assert done.exit_code == 1
    assert said in str(done.exception)
    assert await far_end.calls() == begun
