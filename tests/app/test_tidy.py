"""The record in order: months made ahead and for back-fills, signals retired; while others report."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from alerts.retention import Keep, Retention
from alerts.signals import PartnerId, SeriesKey
from app import documents, scheduler, store, tidy
from app.database import Database
from app.ingest import Arrival, Intake, Status
from app.policy import Policy

NOVEMBER = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
AURORA, BALTICA = PartnerId(1), PartnerId(2)
CHIPS = SeriesKey("semiconductors", "lead_time", "chips")
SUEZ = SeriesKey("shipping", "chokepoint_transits", "", "suez")
RED = '{"tlp":"RED"}'


@pytest.fixture
async def intake(database: Database) -> Intake:
    """Accepts signals under a profile with few rules; two partners report."""
    read = documents.read_profile(documents.PROFILES_DIR / "ttc-semiconductors.yaml")
    async with database.begin() as connection:
        await store.profiles.keep(connection, read, NOW)
        for name in ("aurora", "baltica"):
            await store.partners.keep(connection, name, "", NOW)
    return Intake(database, Policy(documents.load_catalogue(), {read.profile.id: read.profile}))


def keep(*lines: str) -> Retention:
    return Retention(tuple(Keep.read(line) for line in lines))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def _say(
    database: Database, statement: str, **parameters: object
) -> list[tuple[object, ...]]:
    async with database.begin() as connection:
        found = await connection.execute(text(statement), parameters)
        return [tuple(row) for row in found] if found.returns_rows else []


async def _where(database: Database) -> dict[str, int]:
    """How many signals lie in each partition that has any."""
    found = await _say(
        database, "SELECT tableoid::regclass::text, count(*) FROM signals GROUP BY 1 ORDER BY 1"
    )
    return {str(name): int(str(count)) for name, count in found}


async def _fill(database: Database, since: str, count: int, series: int = 1) -> None:
    """So many signals, a second apart."""
    await _say(
        database,
        "INSERT INTO signals SELECT :series, CAST(CAST(:since AS text) AS timestamptz) "
        "+ n * interval '1 second', 1, 1, n, now(), NULL FROM generate_series(1, :count) AS n",
        series=series,
        since=since,
        count=count,
    )


async def test_this_month_and_the_next_two_are_made_once(database: Database) -> None:
    made = await tidy.open_months(database, NOVEMBER)
    assert made.opened == ["2026-11", "2026-12", "2027-01"]
    assert (await tidy.open_months(database, NOVEMBER)).opened == []


@pytest.mark.parametrize(
    ("observed_at", "partition", "because"),
    [
        ("2026-10-31T23:59:59.999999Z", "signals_default", "before the first month made"),
        ("2026-11-01T00:00:00Z", "signals_2026_11", "a month begins with its first instant, UTC"),
        ("2026-12-31T23:59:59.999999Z", "signals_2026_12", "and ends before the next begins"),
        ("2027-01-31T00:00:00Z", "signals_2027_01", "over the year's end"),
    ],
)
async def test_a_signal_lies_in_its_month(
    database: Database, observed_at: str, partition: str, because: str
) -> None:
    await tidy.open_months(database, NOVEMBER)
    await _fill(database, observed_at, 0)
    await _say(
        database,
        "INSERT INTO signals VALUES (1, CAST(CAST(:at AS text) AS timestamptz), 1, 1, 1, now())",
        at=observed_at,
    )
    assert await _where(database) == {partition: 1}, because


async def test_a_month_made_for_the_record_is_like_one_that_postgresql_makes(
    database: Database,
) -> None:
    await tidy.open_months(database, NOW)
    await _say(
        database,
        "CREATE TABLE its_own PARTITION OF signals FOR VALUES FROM ('2020-01-01+00') "
        "TO ('2020-02-01+00') WITH (autovacuum_vacuum_insert_threshold = 10000)",
    )
    described = {
        "(attname, atttypid, attnotnull)::text FROM pg_attribute": "attrelid",
        "(contype, conkey, conparentid <> 0)::text FROM pg_constraint": "conrelid",
        "(indisprimary, indkey, indnkeyatts)::text FROM pg_index": "indrelid",
        "(relkind, reloptions IS NOT NULL)::text FROM pg_class": "oid",
    }
    for what, owner in described.items():
        query = f"SELECT {what} WHERE {owner} = CAST(CAST(:name AS text) AS regclass) ORDER BY 1"
        ours = await _say(database, query, name="signals_2026_11")
        assert ours, what
        assert ours == await _say(database, query, name="its_own"), what


async def test_a_month_whose_signals_came_before_its_partition_takes_them_in(
    database: Database,
) -> None:
    await _fill(database, "2026-12-24T00:00:00Z", 3)
    made = await tidy.open_months(database, NOVEMBER)
    assert (made.opened, made.moved) == (["2026-11", "2026-12", "2027-01"], 3)
    assert await _where(database) == {"signals_2026_12": 3}


async def test_a_month_of_the_past_gets_a_partition_when_it_is_worth_one(
    database: Database,
) -> None:
    duty = scheduler.month_duty(database)
    await duty.do(NOW)
    await _fill(database, "2015-02-03T00:00:00Z", store.partitions.WORTH_A_PARTITION)
    await _fill(database, "2017-02-03T00:00:00Z", store.partitions.WORTH_A_PARTITION - 1)
    await _say(database, "SELECT pg_stat_force_next_flush()")
    made: dict[str, object] = {}
    while not made:  # PostgreSQL counts what was written a moment later.
        made = await duty.do(NOW)
    assert made == {"made": ["2015-02"], "moved": store.partitions.WORTH_A_PARTITION}
    assert await _where(database) == {
        "signals_2015_02": store.partitions.WORTH_A_PARTITION,
        "signals_default": store.partitions.WORTH_A_PARTITION - 1,
    }


async def test_while_somebody_reads_for_long_no_month_is_made_and_nobody_waits_for_it(
    database: Database, intake: Intake
) -> None:
    await _fill(database, "2015-02-03T00:00:00Z", store.partitions.WORTH_A_PARTITION)
    async with database.begin() as reader:
        await reader.execute(text("SELECT count(*) FROM signals"))
        made = await tidy.open_months(database, NOW)
        assert made.waiting
        told = await intake.accept([Arrival(AURORA, CHIPS, at("2015-02-05"), 12.0)], NOW)
        assert told.statuses == [Status.accepted]
    made = await tidy.open_months(database, NOW)
    assert made.opened == ["2015-02", "2026-11", "2026-12", "2027-01"]
    assert (await _where(database)) == {"signals_2015_02": store.partitions.WORTH_A_PARTITION + 1}


async def test_a_signal_on_its_way_to_the_default_when_its_month_is_made_is_stored_in_the_month(
    database: Database, intake: Intake
) -> None:
    await intake.accept([Arrival(AURORA, CHIPS, at("2015-01-05"), 12.0)], NOW)
    async with database.begin() as connection:
        assert await store.partitions.open_month(connection, at("2015-02-01")) == 0
        telling = asyncio.create_task(
            intake.accept([Arrival(AURORA, CHIPS, at("2015-02-05"), 12.0)], NOW)
        )
        while not await _say(database, "SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await telling).statuses == [Status.accepted]
    assert await _where(database) == {"signals_2015_02": 1, "signals_default": 1}


async def test_months_are_opened_thinned_and_dropped_under_load_and_nothing_is_lost_or_refused(
    database: Database, intake: Intake
) -> None:
    """Back-fills of years run while their months are opened; others report the present; old months
    go. Every signal is told what became of it, and lies in the record once, or has gone.
    """
    await tidy.open_months(database, NOW)
    months = [datetime(2024, n, 1, tzinfo=UTC) for n in range(1, 9)]
    await _fill(database, "2010-03-01T00:00:00Z", store.partitions.WORTH_A_PARTITION)
    done = False

    async def backfill(partner: PartnerId) -> int:
        count = 0
        while not done:
            batch = [
                Arrival(partner, SUEZ, month + timedelta(seconds=count + n), 60.0)
                for month in months
                for n in range(50)
            ]
            told = await intake.accept(batch, NOW)
            assert set(told.statuses) <= {Status.accepted, Status.late}
            count += 50
        return count

    async def report() -> int:
        count = 0
        while not done:
            instant = at("2026-11-01") + timedelta(seconds=count)
            told = await intake.accept([Arrival(AURORA, CHIPS, instant, 12.0)], NOW)
            assert told.statuses == [Status.accepted]
            count += 1
        return count

    async def tidy_up() -> None:
        wanted = list(months)
        while wanted:
            async with database.begin() as connection:
                if await store.partitions.open_month(connection, wanted[0]) is not None:
                    wanted.pop(0)
            await tidy.open_months(database, NOW)
            await tidy.retire(database, keep("*=120"), NOW)

    working = [
        asyncio.create_task(work) for work in (backfill(AURORA), backfill(BALTICA), report())
    ]
    try:
        await tidy_up()
    finally:
        done = True
        told = await asyncio.gather(*working)
    where = await _where(database)
    assert where.pop("signals_2026_11") == told[2]
    assert where == {f"signals_{m:%Y_%m}": told[0] + told[1] for m in months}
    assert {p.name for p in await _partitions(database)} == {
        *where, "signals_default", "signals_2026_11", "signals_2026_12", "signals_2027_01",
    }  # fmt: skip


async def _partitions(database: Database) -> Iterable[store.partitions.Partition]:
    async with database.begin() as connection:
        return await store.partitions.partitions(connection)


def lead_time(when: str, value: float, detail: str | None = None) -> Arrival:
    return Arrival(AURORA, CHIPS, at(when), value, detail=detail)


async def _kept(database: Database) -> list[str]:
    found = await _say(
        database,
        "SELECT to_char(observed_at, 'YYYY-MM-DD') || ' ' || indicator || ' ' || revision "
        "FROM signals JOIN series USING (series_id) ORDER BY observed_at, indicator, revision",
    )
    return [str(row[0]) for row in found]


async def test_what_the_policy_keeps_no_longer_goes_and_all_else_stays(
    database: Database, intake: Intake
) -> None:
    for partition in ("2014-01", "2020-01", "2024-10"):
        async with database.begin() as connection:
            await store.partitions.open_month(connection, at(f"{partition}-01"))
    ships = [Arrival(AURORA, SUEZ, at(day), 60.0) for day in ("2014-01-09", "2024-10-09")]
    await intake.accept(
        [
            *ships,
            lead_time("2014-02-05", 12.0),  # in the default
            lead_time("2017-02-05", 12.0),
            lead_time("2017-02-06", 12.0, RED),
            lead_time("2020-01-05", 12.0, RED),
            lead_time("2024-10-05", 12.0, RED),
            lead_time("2024-10-06", 12.0, '{"tlp":"GREEN"}'),
            lead_time("2024-11-05", 12.0, RED),
        ],
        NOW,
    )
    # What was marked red, revised without a mark, must not come back as it was before.
    await intake.accept([lead_time("2024-10-05", 13.0)], NOW)
    retention = keep("semiconductors/RED=24", "*=120")
    found = await tidy.retire(database, retention, NOW)
    assert (found.signals, found.months, found.thinned) == (
        6,
        ["2014-01", "2020-01"],
        ["2024-10", "2014-02", "2017-02"],
    )
    assert await _kept(database) == [
        "2017-02-05 lead_time 1",
        "2024-10-06 lead_time 1",
        "2024-10-09 chokepoint_transits 1",
        "2024-11-05 lead_time 1",
    ]
    assert "signals_2014_01" not in {p.name for p in await _partitions(database)}
    again = await tidy.retire(database, retention, NOW)
    assert (again.signals, again.months, again.thinned) == (0, [], [])
    async with database.begin() as connection:
        said = await store.audit.listing(connection, before=None, limit=9, action="signals.retired")
        assert {entry.subject for entry in said} == {
            f"signals/{month}" for month in (*found.months, *found.thinned)
        }
        assert {e.reason for e in said} == {"The retention policy: semiconductors/RED=24,*=120."}
        assert not (await store.audit.verify(connection)).broken
        before = await store.retirement.retired_before(connection, "semiconductors")
        assert before == at("2024-11-01")
        assert await store.retirement.retired_before(connection, "energy") is None


async def test_without_a_policy_everything_is_kept(database: Database, intake: Intake) -> None:
    await intake.accept([lead_time("1901-02-05", 12.0)], NOW)
    assert await tidy.retire(database, Retention(), NOW) == tidy.Retired()
    assert await _kept(database) == ["1901-02-05 lead_time 1"]


async def test_what_feeds_an_open_alert_is_held_until_it_is_resolved_and_its_reasons_stay(
    database: Database, intake: Intake
) -> None:
    async with database.begin() as connection:
        await store.partitions.open_month(connection, at("2024-03-01"))
    opened = await intake.accept(
        [lead_time("2024-02-10", 12.0), lead_time("2024-03-10", 16.0)], NOW
    )
    ships = [Arrival(AURORA, SUEZ, at("2024-03-09"), 60.0)]
    await intake.accept(ships, NOW)
    found = await tidy.retire(database, keep("*=12"), NOW)
    assert found.signals == 1, "the ships"
    assert await _kept(database) == ["2024-02-10 lead_time 1", "2024-03-10 lead_time 1"]
    calm = [lead_time(f"2026-{month:02}-10", 12.0) for month in range(1, 11)]
    await intake.accept(calm, NOW)
    found = await tidy.retire(database, keep("*=12"), NOW)
    assert found.signals == 1, "in the default; a month that was thinned is looked at once a day"
    found = await tidy.retire(database, keep("*=12"), NOW + timedelta(days=2))
    assert (found.signals, found.months) == (1, ["2024-03"])
    async with database.begin() as connection:
        dossier = await store.dossiers.read(connection, opened.refs[0])
    assert dossier is not None
    assert dossier.alert.state.value == "resolved"
    assert at("2024-03-10") in dossier.feeding[0].observed, "what fed it is still named"
    assert dossier.timeline[-1].type == "alert.opened"


async def test_a_subject_whose_beginning_has_gone_is_judged_again_from_what_is_kept(
    database: Database, intake: Intake
) -> None:
    """Late and revised values of a series, a part of whose past has been retired, say of the present
    what they say where everything was kept.
    """
    past = [
        lead_time(f"{year}-{month:02}-10", 12.0) for year in (2021, 2022) for month in (2, 5, 8)
    ]
    await intake.accept(past, NOW)
    assert (await tidy.retire(database, keep("*=24"), NOW)).signals == len(past)
    told = await intake.accept([lead_time("2026-09-10", 12.5), lead_time("2026-10-10", 21.0)], NOW)
    (ref,) = told.refs
    late = await intake.accept([lead_time("2026-08-10", 12.5)], NOW)
    assert late.statuses == [Status.late]
    async with database.begin() as connection:
        kept = await store.alerts.by_ref(connection, ref)
        ids = await store.series.ids_of(connection, [CHIPS])
        state = (await store.series.states(connection, list(ids.values())))[ids[CHIPS]]
    assert kept is not None
    assert (kept.alert.state.value, kept.alert.severity.name) == ("open", "severe")
    assert state.observations == len(past) + 3, "the state of a series survives its signals"
    revised = await intake.accept([lead_time("2026-10-10", 12.0)], NOW)
    assert (revised.statuses, revised.refs) == ([Status.revised], [ref])


async def test_a_month_taken_out_by_a_process_that_died_is_finished_by_the_next(
    database: Database, intake: Intake
) -> None:
    async with database.begin() as connection:
        await store.partitions.open_month(connection, at("2014-01-01"))
    await intake.accept([lead_time("2014-01-05", 12.0), lead_time("2014-01-06", 12.0, RED)], NOW)
    async with database.begin() as connection:
        (partition, *_) = await store.partitions.partitions(connection)
        assert await store.partitions.detach(connection, partition)
    found = await tidy.retire(database, keep("*/RED=24"), NOW)
    assert (found.signals, found.months) == (1, ["2014-01"])
    assert await _kept(database) == ["2014-01-05 lead_time 1"], "what stays is put back"
    assert await _retired(database) == [("RED", 1, True)]


async def _retired(database: Database) -> list[tuple[object, ...]]:
    """What is noted as gone, but for nothing."""
    return await _say(database, "SELECT tlp, signals, whole FROM retired WHERE signals > 0")


async def test_what_is_loaded_into_a_month_while_the_policy_is_longer_goes_when_it_is_short_again(
    database: Database, intake: Intake
) -> None:
    async with database.begin() as connection:
        await store.partitions.open_month(connection, at("2024-10-01"))
    await intake.accept([lead_time("2024-10-05", 12.0, RED), lead_time("2024-10-06", 12.0)], NOW)
    await database.close()  # What a connection has written is counted when it ends.
    assert (await tidy.retire(database, keep("*/RED=24"), NOW)).thinned == ["2024-10"]
    await intake.accept([lead_time("2024-10-07", 12.0, RED)], NOW)
    await database.close()
    async with asyncio.timeout(10):
        while not (await tidy.retire(database, keep("*/RED=24"), NOW)).signals:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await _kept(database) == ["2024-10-06 lead_time 1"]
    assert await _retired(database) == [("RED", 2, True)]


async def test_what_an_alert_that_opens_during_a_run_rests_on_is_held_by_that_run(
    database: Database, intake: Intake
) -> None:
    for month in ("2024-01", "2024-03"):
        async with database.begin() as connection:
            await store.partitions.open_month(connection, at(f"{month}-01"))
    ships = [Arrival(AURORA, SUEZ, at("2024-01-08"), 60.0, detail=RED)]
    ships += [Arrival(AURORA, SUEZ, at("2024-01-09"), 60.0)]
    await intake.accept([*ships, lead_time("2024-02-10", 12.0)], NOW)
    async with asyncio.timeout(10), database.begin() as connection:
        await connection.execute(text("SELECT 1 FROM signals_2024_01 FOR UPDATE"))
        retention = keep("shipping/RED=12", "semiconductors=12")
        retiring = asyncio.create_task(tidy.retire(database, retention, NOW))
        while not await _say(database, "SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        opened = await intake.accept([lead_time("2024-03-10", 16.0)], NOW)
        assert opened.refs
    found = await retiring
    assert (found.signals, found.months, found.thinned) == (1, [], ["2024-01"])
    assert await _kept(database) == [
        "2024-01-09 chokepoint_transits 1",
        "2024-02-10 lead_time 1",
        "2024-03-10 lead_time 1",
    ]


async def test_what_is_put_back_of_a_month_that_was_taken_out_is_not_noted_as_gone(
    database: Database, intake: Intake
) -> None:
    async with database.begin() as connection:
        await store.partitions.open_month(connection, at("2014-03-01"))
    told = await intake.accept([lead_time("2014-02-10", 12.0), lead_time("2014-03-10", 16.0)], NOW)
    assert told.refs
    await intake.accept([Arrival(AURORA, SUEZ, at("2014-03-09"), 60.0)], NOW)
    async with database.begin() as connection:
        (partition, *_) = await store.partitions.partitions(connection)
        assert await store.partitions.detach(connection, partition)
    assert (await tidy.retire(database, keep("*=24"), NOW)).signals == 1, "the ships"
    assert await _kept(database) == ["2014-02-10 lead_time 1", "2014-03-10 lead_time 1"]
    assert await _retired(database) == [("", 1, False)]


async def test_a_month_that_somebody_took_out_by_hand_is_left_to_them(
    database: Database, intake: Intake
) -> None:
    async with database.begin() as connection:
        await store.partitions.open_month(connection, at("2014-01-01"))
    await intake.accept([lead_time("2014-01-05", 12.0)], NOW)
    await _say(database, "ALTER TABLE signals DETACH PARTITION signals_2014_01")
    assert await tidy.retire(database, keep("*=24"), NOW) == tidy.Retired()
    assert await _say(database, "SELECT value FROM signals_2014_01") == [(12.0,)]
