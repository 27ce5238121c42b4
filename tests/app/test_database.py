"""The database: transactions, migrations, and what is said when it is away."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

import migrations
from app import store
from app.database import (
    Connection,
    Database,
    DatabaseAway,
    DatabaseBusy,
    SchemaBehind,
    ValueRefused,
    Write,
    driver,
    fetch,
    fetch_beside,
    head_revision,
)
from tests.app import queue_laws


async def _tables(database: Database) -> set[str]:
    async with database.begin() as connection:
        rows = await connection.execute(
            text("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')")
        )
        return {str(row[0]) for row in rows if not str(row[0]).startswith(("pg_", "sql_"))}


async def test_the_schema_goes_up_and_down_and_up_again(database: Database) -> None:
    full = await _tables(database)
    assert {"signals", "alerts", "deliveries"} <= full
    await database.migrate_down("base")
    assert await _tables(database) == {"alembic_version"}
    assert await database.revision() is None
    with pytest.raises(SchemaBehind, match="forewarn migrate"):
        await database.check_revision()
    await database.migrate()
    assert await database.revision() == head_revision()
    assert await _tables(database) == full


_BEFORE_THE_QUEUE_BY_ENDPOINT = """
INSERT INTO partners (id, name, party, created_at) VALUES (1, 'baltica', '', now());
INSERT INTO subscriptions (id, partner_id, url, format, filter, status, created_at, verified_at,
    owed_since, suspended_at, last_sequence)
SELECT name, 1, 'https://baltica.example/', 'json', '{}', status, now(),
    CASE WHEN status <> 'pending' THEN now() END, now(),
    CASE WHEN status = 'suspended' THEN now() END, last
FROM (VALUES ('sub_a', 'active', 7), ('sub_s', 'suspended', 2), ('sub_p', 'pending', 2),
    ('sub_r', 'removed', 1)) AS s (name, status, last);
INSERT INTO deliveries (subscription_id, sequence, type, alert_id, data, state, attempts, created_at,
    due_at, lease_until, finished_at)
SELECT name, number, type, alert, '{}', state, attempts, now() - interval '1 hour',
    now() + due * interval '1 hour', now() + leased * interval '1 hour',
    CASE WHEN finished THEN now() END
FROM (VALUES
    ('sub_a', 1, 'alert.opened', 1, 'delivered', 1, NULL, NULL, true),
    ('sub_a', 2, 'alert.updated', 1, 'owed', 5, 6, NULL, false),    -- waits for its sixth attempt
    ('sub_a', 3, 'alert.updated', 1, 'owed', 0, 6, NULL, false),    -- waits behind it
    ('sub_a', 4, 'alert.opened', 2, 'owed', 0, -1, 2, false),       -- is under way
    ('sub_a', 5, 'alert.opened', 3, 'owed', 2, -1, NULL, true),     -- is sent again by hand
    ('sub_a', 6, 'alert.updated', 3, 'owed', 0, -1, NULL, false),   -- which holds up nothing
    ('sub_a', 7, 'webhook.test', NULL, 'owed', 0, -1, NULL, false),
    ('sub_s', 1, 'alert.opened', 1, 'owed', 1, NULL, NULL, false),  -- parked
    ('sub_s', 2, 'alert.updated', 1, 'owed', 0, NULL, NULL, false), -- parked behind it
    ('sub_p', 1, 'webhook.verify', NULL, 'owed', 1, 1, NULL, false),
    ('sub_p', 2, 'alert.opened', 1, 'owed', 0, NULL, NULL, false),  -- parked until it consents
    ('sub_r', 1, 'alert.opened', 1, 'withdrawn', 0, NULL, NULL, true)
) AS d (name, number, type, alert, state, attempts, due, leased, finished);
"""


async def test_what_was_owed_is_owed_before_and_after_the_queue_by_endpoint(
    database: Database,
) -> None:
    async def run(script: str) -> None:
        async with database.begin() as connection:
            await connection.execute(text("SELECT 1"))
            await driver(connection).execute(script)

    async def shown(columns: str) -> list[tuple[object, ...]]:
        async with database.begin() as connection:
            rows = await connection.execute(
                text(
                    f"SELECT subscription_id || ' ' || sequence, {columns} FROM deliveries AS d "
                    "WHERE state = 'owed' ORDER BY subscription_id, sequence"
                )
            )
            return [tuple(row) for row in rows]

    await database.migrate_down("0002")
    await run(_BEFORE_THE_QUEUE_BY_ENDPOINT)
    await database.migrate()
    hours = "CAST(round(extract(epoch FROM due_at - now()) / 3600) AS int)"
    assert await shown(f"blocked, lane, {hours}") == [
        ("sub_a 2", False, 1, 6),
        ("sub_a 3", True, 0, 0),
        ("sub_a 4", False, 0, 2),
        ("sub_a 5", False, 1, -1),
        ("sub_a 6", False, 0, -1),
        ("sub_a 7", False, 0, -1),
        ("sub_p 1", False, 0, 1),
        ("sub_p 2", False, 0, 0),
        ("sub_s 1", False, 0, 0),
        ("sub_s 2", True, 0, 0),
    ]
    async with database.begin() as connection:
        now = (await connection.execute(text("SELECT now()"))).scalar_one()
        claimed = await store.queue.claim(
            connection,
            now,
            slots=10,
            retry_slots=10,
            per_endpoint=10,
            rooms={},
            lease_until=now + timedelta(hours=3),
        )
    assert sorted(one.webhook_id for one in claimed) == ["msg_a_5", "msg_a_6", "msg_a_7"]
    assert [one.again for one in claimed if one.sequence == 5] == [True]
    written = "every attempt is written down"  # but those of before the test
    assert set(await queue_laws.broken(database, now)) == {written}

    await run("UPDATE deliveries SET state = 'expired', due_at = NULL WHERE sequence = 7")
    await database.migrate_down("0002")
    assert await shown(hours) == [
        ("sub_a 2", 6),
        ("sub_a 3", 0),
        ("sub_a 4", 2),
        ("sub_a 5", 3),
        ("sub_a 6", 3),
        ("sub_p 1", 1),
        ("sub_p 2", None),
        ("sub_s 1", None),
        ("sub_s 2", None),
    ]
    await database.migrate()
    assert [row[1] for row in await shown("blocked")].count(True) == 2


async def test_two_that_migrate_at_once_wait_for_each_other(
    database: Database, database_url: str
) -> None:
    await database.migrate_down("base")
    other = Database(database_url)
    await asyncio.gather(database.migrate(), other.migrate())
    await database.check_revision()
    await other.close()


async def test_a_migration_keeps_nothing_locked_while_the_next_waits(
    database: Database, database_url: str
) -> None:
    await database.migrate_down("0003")
    other = Database(database_url)
    async with asyncio.timeout(10), database.begin() as reporter:
        await reporter.execute(text("LOCK TABLE signals_default IN ROW EXCLUSIVE MODE"))
        migrating = asyncio.create_task(other.migrate())
        while await database.revision() != "0004":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        async with database.begin() as connection:
            await connection.execute(text("SELECT lane FROM lanes FOR UPDATE NOWAIT"))
    await migrating
    await database.check_revision()
    await other.close()


async def test_a_transaction_commits_at_the_end_and_not_when_it_raises(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("CREATE TABLE kept (n int)"))
    with pytest.raises(RuntimeError):
        async with database.begin() as connection:
            await connection.execute(text("INSERT INTO kept VALUES (1)"))
            raise RuntimeError
    async with database.begin() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM kept"))).scalar_one() == 0


async def test_ingest_connections_make_their_plans_once(database: Database) -> None:
    async with database.ingest() as connection:
        assert await connection.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
    async with database.begin() as connection:
        assert (await connection.execute(text("SHOW plan_cache_mode"))).scalar_one() == "auto"


async def test_a_transaction_of_ingest_commits_at_the_end_and_not_when_it_raises(
    database: Database,
) -> None:
    async with database.ingest() as connection:
        await connection.execute("CREATE TABLE kept (n int)")
        first = connection
    with pytest.raises(RuntimeError):
        async with database.ingest() as connection:
            await connection.execute("INSERT INTO kept VALUES (1)")
            raise RuntimeError
    async with database.ingest() as connection:
        assert connection is first, "An error of ours costs no connection."
        assert await connection.fetchval("SELECT count(*) FROM kept") == 0


async def test_a_connection_for_ingest_that_was_cut_is_replaced_and_counted(
    database: Database,
) -> None:
    async with database.ingest() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        cut = asyncio.Event()
        connection.add_termination_listener(lambda _: cut.set())
    async with database.begin() as other:
        await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    async with asyncio.timeout(30):
        await cut.wait()
    async with database.ingest() as connection:
        assert await connection.fetchval("SELECT 1") == 1
    assert database.ingest_cuts == 3, "made, cut, and made again"


@pytest.mark.parametrize(
    ("url", "because"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "nothing listens there"),
        ("postgresql:///none?host=/nowhere", "the socket folder does not exist"),
        ("postgresql://nobody@127.0.0.1:1,127.0.0.1:2/none", "none of several hosts listens"),
    ],
)
async def test_an_unreachable_database_is_away(url: str, because: str) -> None:
    database = Database(url)
    assert not await database.is_ready(), because
    with pytest.raises(DatabaseAway):
        async with database.begin():
            pass
    await database.close()


async def test_of_several_hosts_the_one_that_answers_is_used(database_url: str) -> None:
    socket_folder = database_url.partition("?host=")[2]
    database = Database(
        f"{database_url.partition('?')[0]}?host=/nowhere,{socket_folder}&port=5432,5432"
    )
    assert await database.is_ready()
    await database.close()


async def test_a_killed_connection_is_away_once_and_then_replaced(database: Database) -> None:
    kill = text("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(DatabaseAway):
        async with database.begin() as connection:
            await connection.execute(kill)
    assert await database.is_ready()


@pytest.mark.parametrize("way", ["by SQLAlchemy", "by the driver"])
async def test_a_host_that_turned_read_only_is_away_and_none_of_its_connections_is_used_again(
    database: Database, way: str
) -> None:
    async with database.begin() as first, database.begin() as second:
        old = {await _backend(first), await _backend(second)}
    refused = "CREATE TABLE refused (n int)"
    with pytest.raises(DatabaseAway):
        async with database.begin() as connection:
            await connection.execute(text("SET TRANSACTION READ ONLY"))
            if way == "by SQLAlchemy":
                await connection.execute(text(refused))
            else:
                await fetch(connection, refused)
    async with database.begin() as first, database.begin() as second:
        assert not old & {await _backend(first), await _backend(second)}


async def _backend(connection: Connection) -> int:
    return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def test_a_hot_statement_gives_the_same_first_and_later_in_a_transaction(
    database: Database,
) -> None:
    sql = (
        "SELECT CAST(:name AS text) || ':' || :name AS said, CAST(CAST(:doc AS text) AS jsonb) AS doc, "
        "1::bigint AS one, :most > 2 AS more FROM generate_series(1, 2)"
    )
    asked = {"name": "neon", "doc": '{"a": [1, null]}', "most": 3}
    async with database.begin() as connection:
        first = await fetch(connection, sql, asked)
        later = await fetch(connection, sql, asked)
    for rows in (first, later):
        assert [(r.said, r.doc, r.one, r.more) for r in rows] == [
            ("neon:neon", {"a": [1, None]}, 1, True)
        ] * 2
        with pytest.raises(AttributeError):
            rows[0].nothing  # noqa: B018 - to ask is what is tested


async def test_hot_statements_without_rows_are_the_transactions(database: Database) -> None:
    change = "UPDATE lanes SET lane = lane WHERE lane = :lane"
    with pytest.raises(RuntimeError, match="no more"):
        async with database.begin() as connection:
            assert not await fetch(connection, change, {"lane": 1})
            assert not await fetch(connection, change, {"lane": 1})
            raise RuntimeError("no more")


async def test_what_is_written_beside_a_statement_is_written_once_and_not_seen_by_it(
    database: Database,
) -> None:
    more = "INSERT INTO lanes (lane) VALUES (:lane)"
    writes = [Write(more, {"lane": 1_001}), Write(more, {"lane": 1_002})]
    read = "SELECT lane FROM lanes WHERE lane > :lane ORDER BY lane"
    async with database.begin() as connection:
        assert not await fetch_beside(connection, writes, read, {"lane": 1_000})
        found = await fetch_beside(connection, (), read, {"lane": 1_000})
    assert [row.lane for row in found] == [1_001, 1_002]


async def test_a_transaction_that_need_not_outlive_the_machine_says_so_for_itself_alone(
    database: Database,
) -> None:
    asked = "SELECT current_setting('synchronous_commit'), pg_backend_pid()"
    found = []
    for flushed in (True, False, True):
        async with database.queue(flushed=flushed) as connection:
            found.append(tuple(await connection.fetchrow(asked) or ()))
    assert [said for said, _ in found] == ["on", "off", "on"]
    assert len({pid for _, pid in found}) == 1


async def test_a_fault_of_ours_is_not_called_away(database: Database) -> None:
    with pytest.raises(Exception, match="no_such_table"):
        async with database.begin() as connection:
            await connection.execute(text("SELECT * FROM no_such_table"))


@pytest.mark.parametrize(
    ("statement", "value", "because"),
    [
        ("SELECT CAST(:value AS text)", "neon\x00", "PostgreSQL has no U+0000"),
        ("SELECT CAST(:value AS text)", "\ud800", "half a character has no UTF-8"),
        ("SELECT CAST(:value AS bigint)", 2**63, "one more than a bigint holds"),
        ("SELECT CAST(CAST(:value AS text) AS int)", "9999999999", "more than an int holds"),
        ("SELECT CAST(CAST(:value AS text) AS jsonb)", '"\\u0000"', "the same inside JSON"),
    ],
)
async def test_a_value_that_cannot_be_held_is_the_callers_fault(
    database: Database, statement: str, value: object, because: str
) -> None:
    with pytest.raises(ValueRefused):
        async with database.begin() as connection:
            await connection.execute(text(statement), {"value": value})
    assert await database.is_ready(), because


async def test_a_misuse_of_the_driver_is_not_called_away(database: Database) -> None:
    with pytest.raises(asyncpg.DataError):
        async with database.begin() as connection:
            await driver(connection).fetch("SELECT $1::int", "not a number")


async def test_one_hears_what_another_notifies(database: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with database.listening("forewarn_test", heard.put_nowait) as lost:
        async with database.begin() as connection:
            await connection.execute(text("SELECT pg_notify('forewarn_test', 'now')"))
        assert await asyncio.wait_for(heard.get(), 5) == "now"
        assert not lost.is_set()
        async with database.begin() as connection:
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        await asyncio.wait_for(lost.wait(), 5)


async def test_only_one_holds_an_advisory_lock(database: Database) -> None:
    async with database.holding(7) as mine:
        assert mine is not None
        async with database.holding(7) as theirs:
            assert theirs is None
    async with database.holding(7) as mine:
        assert mine is not None


async def test_a_database_shut_down_under_a_listener_is_away(database: Database) -> None:
    with pytest.raises(DatabaseAway):
        async with database.listening("news", lambda _: None):
            raise asyncpg.exceptions.AdminShutdownError("terminating connection")


async def test_what_went_into_a_failed_statement_stays_out_of_the_error(database: Database) -> None:
    with pytest.raises(Exception, match="no_such_table") as caught:
        async with database.begin() as connection:
            await connection.execute(
                text("INSERT INTO no_such_table VALUES (:secret)"), {"secret": "whsec_hush"}
            )
    assert "whsec_hush" not in str(caught.value)


async def test_the_tables_that_the_code_sees_are_those_that_the_migrations_make(
    database: Database,
) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from app import tables

    async with database.begin() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(
                    sync,
                    opts={
                        "include_name": lambda name, kind, parent: (
                            kind != "table" or not str(name).startswith("signals_")
                        ),
                        "compare_server_default": False,
                    },
                ),
                tables.metadata,
            )
        )
    assert differences == []


def test_the_migrations_folder_is_found_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert head_revision()


async def test_when_all_connections_are_in_use_the_database_is_busy_and_still_ready(
    database_url: str,
) -> None:
    database = Database(database_url, pool_size=1)
    database._engine.sync_engine.pool._timeout = 0.05  # type: ignore[attr-defined]
    async with database.begin():
        with pytest.raises(DatabaseBusy):
            async with database.begin():
                pass
        assert await database.is_ready()
        async with database.brief() as connection:
            assert await store.partners.is_empty(connection)
    async with database.begin() as connection:
        assert await store.partners.is_empty(connection)
    await database.close()


def test_migrations_are_numbered_in_the_order_in_which_alembic_runs_them() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    in_order = [script.revision for script in scripts.walk_revisions()][::-1]
    assert in_order == [f"{number:04}" for number in range(1, len(in_order) + 1)]
    assert [Path(script.path).name[:4] for script in scripts.walk_revisions()][::-1] == in_order
    assert head_revision() == scripts.get_current_head()
