"""Accepting signals: what is stored, what each item is told, what is judged; on real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from alerts.lifecycle import AlertState
from alerts.signals import PartnerId, Sample, SeriesKey, Severity
from app import documents, store, telemetry
from app.database import Database, DatabaseAway
from app.evaluate import sweep
from app.ingest import Arrival, Behind, Intake, Receipt, Status
from app.policy import Policy
from app.store.series import packed

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
AURORA, BALTICA = PartnerId(1), PartnerId(2)
CHIPS = SeriesKey("semiconductors", "lead_time", "chips")
PRICE = SeriesKey("semiconductors", "price_index", "gallium")
VOLUME = SeriesKey("semiconductors", "export_volume", "gallium", "CN")
CONTROL = SeriesKey("semiconductors", "export_control", "gallium", "CN")
SUEZ = SeriesKey("shipping", "chokepoint_transits", "", "suez")


@pytest.fixture
async def policy(database: Database) -> Policy:
    """Two profiles with few rules, known to the database; and two partners."""
    watch = Path(__file__).with_name("house-watch.yaml")
    ttc = documents.PROFILES_DIR / "ttc-semiconductors.yaml"
    read = [documents.read_profile(path) for path in (watch, ttc)]
    async with database.begin() as connection:
        for document in read:
            await store.profiles.keep(connection, document, NOW)
        for name in ("aurora", "baltica"):
            await store.partners.keep(connection, name, "", NOW)
    return Policy(documents.load_catalogue(), {d.profile.id: d.profile for d in read})


@pytest.fixture
def intake(database: Database, policy: Policy) -> Intake:
    return Intake(database, policy, lanes=2)


def month(number: int, year: int = 2021) -> datetime:
    return datetime(year + (number - 1) // 12, (number - 1) % 12 + 1, 28, tzinfo=UTC)


def lead_time(at: datetime, value: float | None, partner: PartnerId = AURORA) -> Arrival:
    return Arrival(partner, CHIPS, at, value)


async def _count(database: Database, table: str) -> int:
    async with database.begin() as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


async def _open(database: Database) -> dict[str, Severity]:
    async with database.begin() as connection:
        found = await store.alerts.all_open(connection)
    return {f"{s.sector}/{s.good}/{s.place}": k.alert.severity for s, k in found.items()}


async def _state(database: Database, key: SeriesKey) -> store.series.SeriesState:
    async with database.begin() as connection:
        ids = await store.series.find_or_make(connection, [key], NOW)
        return (await store.series.states(connection, list(ids.values())))[ids[key]]


async def test_each_item_is_told_what_became_of_it(intake: Intake) -> None:
    told = await intake.accept([lead_time(month(1), 13.0), lead_time(month(3), 13.5)], NOW)
    assert told == Receipt([Status.accepted, Status.accepted], [])
    told = await intake.accept(
        [
            lead_time(month(3), 13.5),
            lead_time(month(3), 13.75),
            lead_time(month(2), 13.25),
            lead_time(month(9), None),
            Arrival(AURORA, CHIPS, month(3), 12.0, revision=2),
            Arrival(AURORA, CHIPS, month(3), 13.75, revision=2),
        ],
        NOW,
    )
    assert told.statuses == [
        Status.duplicate,
        Status.revised,
        Status.late,
        Status.unknown,
        Status.conflict,
        Status.duplicate,
    ]


async def test_the_same_batch_again_changes_nothing(intake: Intake, database: Database) -> None:
    batch = [lead_time(month(n), 12.0 + n) for n in range(1, 6)]
    first = await intake.accept(batch, NOW)
    before = await _state(database, CHIPS)
    again = await intake.accept(batch, NOW)
    assert first.refs == ["TTC-SEMI-2026-0001"]
    assert set(again.statuses) == {Status.duplicate}
    assert again.refs == []
    assert await _state(database, CHIPS) == before
    assert await _count(database, "signals") == 5


async def test_a_repeated_item_within_one_batch_is_a_duplicate(intake: Intake) -> None:
    told = await intake.accept([lead_time(month(1), 13.0), lead_time(month(1), 13.0)], NOW)
    assert told.statuses == [Status.accepted, Status.duplicate]


async def test_a_breach_opens_an_alert_in_the_transaction_that_stores_it(
    intake: Intake, database: Database
) -> None:
    told = await intake.accept([lead_time(month(2), 14.0), lead_time(month(3), 16.0)], NOW)
    assert told.refs == ["TTC-SEMI-2026-0001"]
    assert await _open(database) == {"semiconductors/chips/": Severity.moderate}
    assert await _count(database, "transitions") == 2
    assert await _count(database, "alert_signals") == 2


async def test_what_an_open_alert_says_next_stays_on_its_page(
    intake: Intake, database: Database
) -> None:
    """Else each observation of an open alert would write all indexes of alerts."""
    drills = [CHIPS._replace(exercise=f"drill-{number}") for number in range(100)]
    for number in range(6):
        at, weeks = month(3 + number), 16.0 + number / 10
        await intake.accept([Arrival(AURORA, drill, at, weeks) for drill in drills], NOW)
    async with database.begin() as connection:
        said = {kept.alert.why for kept in (await store.alerts.all_open(connection)).values()}
    assert len(said) == 1
    assert "16.5 weeks" in said.pop()
    await database.close()  # What its connections have counted is seen then.
    async with database.begin() as connection:
        counts = await connection.execute(
            text(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'alerts'"
            )
        )
        updated, on_the_page = counts.one()
    assert updated == 500
    assert on_the_page > 0.9 * updated


async def test_an_alert_is_told_of_once_it_is_committed_and_not_before(
    intake: Intake, database: Database
) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE 'refused at commit'; END $$"
            )
        )
        await connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER refused AFTER INSERT ON alerts "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    with capture_logs() as lines, pytest.raises(asyncpg.RaiseError, match="refused at commit"):
        await intake.accept([lead_time(month(3), 16.0)], NOW)
    assert "alert.moved" not in [line["event"] for line in lines]
    async with database.begin() as connection:
        await connection.execute(text("DROP TRIGGER refused ON alerts"))
    with capture_logs() as lines:
        await intake.accept([lead_time(month(3), 16.0)], NOW)
    moved = [line for line in lines if line["event"] == "alert.moved"]
    assert [(line["ref"], line["type"]) for line in moved] == [
        ("TTC-SEMI-2026-0001", "alert.opened")
    ]


async def test_a_batch_that_ends_an_open_alert_and_begins_the_next_is_accepted(
    intake: Intake, database: Database
) -> None:
    calm = [lead_time(month(n), 12.0) for n in range(4, 16)]
    await intake.accept([lead_time(month(2), 14.0), lead_time(month(3), 21.0)], NOW)
    told = await intake.accept([*calm, lead_time(month(16), 21.0)], NOW)
    assert told.refs == ["TTC-SEMI-2026-0001", "TTC-SEMI-2026-0002"]
    assert await _open(database) == {"semiconductors/chips/": Severity.severe}


async def test_a_resolved_alert_keeps_its_own_sentence_when_the_next_one_goes_on(
    intake: Intake, database: Database
) -> None:
    calm = [lead_time(month(n), 12.0) for n in range(4, 16)]
    again = [lead_time(month(16), 21.0), lead_time(month(17), 21.5)]
    await intake.accept([lead_time(month(3), 21.0), *calm, *again], NOW)
    async with database.begin() as connection:
        ended = await store.alerts.by_ref(connection, "TTC-SEMI-2026-0001")
        going_on = await store.alerts.by_ref(connection, "TTC-SEMI-2026-0002")
    assert ended is not None
    assert going_on is not None
    assert "21.5 weeks" not in ended.alert.why
    assert "21.5 weeks" in going_on.alert.why


async def test_a_sweep_that_finds_nothing_newly_silent_waits_for_no_series(
    intake: Intake, database: Database, policy: Policy
) -> None:
    await intake.accept([lead_time(month(3), 12.0)], NOW)
    await sweep(database, policy, NOW)
    async with database.begin() as holder:
        await store.series.lock(holder, range(store.series.SERIES_LANES))
        async with asyncio.timeout(5):
            await sweep(database, policy, NOW + timedelta(minutes=1))


async def test_series_forgotten_to_bound_memory_are_found_again(
    database: Database, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ingest.SERIES_REMEMBERED", 2)
    intake = Intake(database, policy, lanes=2)
    drills = [
        Arrival(AURORA, CHIPS._replace(exercise=f"drill-{n}"), month(3), 12.0) for n in range(9)
    ]
    await asyncio.gather(*(intake.accept(drills[n : n + 3], NOW) for n in range(0, 9, 3)))
    again = await intake.accept(drills, NOW)
    assert set(again.statuses) == {Status.duplicate}
    assert await _count(database, "series") == 9


async def test_a_revised_observation_updates_the_alert_it_fed(
    intake: Intake, database: Database
) -> None:
    await intake.accept([lead_time(month(3), 16.0), lead_time(month(4), 17.0)], NOW)
    told = await intake.accept([lead_time(month(3), 18.1)], NOW)
    assert told == Receipt([Status.revised], ["TTC-SEMI-2026-0001"])
    async with database.begin() as connection:
        kept = await store.alerts.by_ref(connection, "TTC-SEMI-2026-0001")
        assert kept is not None
        timeline = await store.alerts.timeline(connection, kept.id, after=1, limit=10)
    assert kept.alert.severity is Severity.moderate
    assert [t["type"] for t in timeline] == ["alert.updated"]
    assert "revised from 16 to 18.1 weeks" in timeline[0]["reason"]


async def test_a_retraction_judges_the_series_again(intake: Intake, database: Database) -> None:
    await intake.accept([lead_time(month(1), 13.0), lead_time(month(2), 21.0)], NOW)
    assert await _open(database) == {"semiconductors/chips/": Severity.severe}
    told = await intake.accept([lead_time(month(2), None)], NOW)
    assert told.statuses == [Status.revised]
    assert await _open(database) == {}, "nothing that it rested on stands any more"
    state = await _state(database, CHIPS)
    assert (state.last_observed_at, state.last_value) == (month(2), 13.0)


async def test_what_was_taken_back_may_be_said_again(intake: Intake, database: Database) -> None:
    await intake.accept([lead_time(month(1), 13.0), lead_time(month(2), 21.0)], NOW)
    await intake.accept([lead_time(month(2), None)], NOW)
    told = await intake.accept([lead_time(month(2), 21.0)], NOW)
    assert told.statuses == [Status.revised]
    assert await _open(database) == {"semiconductors/chips/": Severity.severe}
    told = await intake.accept([lead_time(month(2), 21.0, BALTICA)], NOW)
    assert told.statuses == [Status.accepted]
    both = [lead_time(month(3), 12.0), lead_time(month(3), None), lead_time(month(3), 12.5)]
    told = await intake.accept(both[:2], NOW)
    assert told.statuses == [Status.accepted, Status.revised]
    told = await intake.accept(both[2:], NOW)
    assert told.statuses == [Status.revised]
    state = await _state(database, CHIPS)
    assert (state.last_observed_at, state.last_value, state.observations) == (month(3), 12.5, 3)


async def test_two_partners_on_one_observation_count_as_their_median(
    intake: Intake, database: Database
) -> None:
    await intake.accept([lead_time(month(1), 13.0)], NOW)
    told = await intake.accept([lead_time(month(1), 15.0, BALTICA)], NOW)
    assert told.statuses == [Status.accepted]
    state = await _state(database, CHIPS)
    assert (state.last_value, state.observations) == (14.0, 1)
    assert await _open(database) == {"semiconductors/chips/": Severity.minor}


async def test_any_order_of_arrival_ends_in_the_same_state(
    database: Database, policy: Policy
) -> None:
    values = [13.0, 14.5, 16.0, 17.0, 13.5, 13.5, 26.0, 12.0, 12.0, 19.0]
    batch = [lead_time(month(n), value) for n, value in enumerate(values, start=1)]
    ends = set()
    for seed in range(4):
        async with database.begin() as connection:
            await connection.execute(
                text(
                    "TRUNCATE signals, series_state, series, findings, alert_signals, "
                    "transitions, alerts CASCADE"
                )
            )
        shuffled = list(batch)
        random.Random(seed).shuffle(shuffled)
        intake = Intake(database, policy, lanes=2)
        for arrival in shuffled:
            await intake.accept([arrival], NOW)
        state = await _state(database, CHIPS)
        ends.add((state.last_observed_at, state.last_value, state.observations, state.ring))
        assert await _open(database) == {"semiconductors/chips/": Severity.moderate}
    assert ends == {
        (month(10), 19.0, 10, packed(Sample(a.observed_at, a.value or 0.0) for a in batch))
    }


async def test_windows_longer_than_the_ring_are_read_from_the_record(
    intake: Intake, database: Database
) -> None:
    """84 days of transits are more than the 32 samples of the ring."""
    start = datetime(2023, 1, 1, tzinfo=UTC)
    days = [start + timedelta(days=n) for n in range(120)]
    steady = [Arrival(AURORA, SUEZ, day, 70.0 + day.day % 3) for day in days]
    for first in range(0, 120, 10):
        await intake.accept(steady[first : first + 10], NOW)
    assert await _open(database) == {}
    fall = [Arrival(AURORA, SUEZ, days[-1] + timedelta(days=n), 40.0) for n in range(1, 9)]
    for arrival in fall:
        await intake.accept([arrival], NOW)
    assert await _open(database) == {"shipping//suez": Severity.moderate}


async def test_one_batch_and_many_end_alike(database: Database, policy: Policy) -> None:
    start = datetime(2023, 1, 1, tzinfo=UTC)
    values = [70.0] * 90 + [30.0] * 40 + [71.0] * 60
    batch = [
        Arrival(AURORA, SUEZ, start + timedelta(days=n), value) for n, value in enumerate(values)
    ]
    seen = []
    for size in (190, 7):
        async with database.begin() as connection:
            await connection.execute(
                text(
                    "TRUNCATE signals, series_state, series, findings, alert_signals, "
                    "transitions, alerts, alert_numbers RESTART IDENTITY CASCADE"
                )
            )
        intake = Intake(database, policy, lanes=2)
        for first in range(0, len(batch), size):
            await intake.accept(batch[first : first + size], NOW)
        async with database.begin() as connection:
            kept = await store.alerts.by_ref(connection, "HW-2026-0001")
            assert kept is not None
            seen.append(
                (kept.alert, await store.alerts.timeline(connection, kept.id, after=0, limit=50))
            )
    assert seen[0] == seen[1]
    assert seen[0][0].state is AlertState.resolved


async def test_fifty_partners_with_the_same_signals_open_one_alert_each(
    database: Database, database_url: str, policy: Policy
) -> None:
    """Every partner's word is kept once; what it means is one alert a good, however many say it."""
    goods = policy.catalogue.goods_of("semiconductors")[:10]
    batch = [
        (SeriesKey("semiconductors", "lead_time", good), month(n), 13.0 + n * 0.05)
        for good in goods
        for n in range(1, 101)
    ]
    other = Database(database_url)
    intakes = [Intake(database, policy, lanes=2), Intake(other, policy, lanes=2)]

    async def report(number: int) -> Receipt:
        partner = PartnerId(100 + number)
        arrivals = [Arrival(partner, key, at, value) for key, at, value in batch]
        await intakes[number % 2].accept(arrivals, NOW)
        return await intakes[number % 2].accept(arrivals, NOW)

    told = await asyncio.gather(*(report(number) for number in range(50)))
    await other.close()
    assert all(set(receipt.statuses) == {Status.duplicate} for receipt in told)
    assert await _count(database, "signals") == 50 * 1_000
    assert set((await _open(database)).values()) == {Severity.moderate}
    assert await _count(database, "alerts") == len(goods)


async def test_fifty_clients_of_one_partner_store_the_same_signals_once(
    database: Database, policy: Policy, intake: Intake
) -> None:
    batch = [lead_time(month(n, 1950), 10.0) for n in range(1, 901)]
    told = await asyncio.gather(*(intake.accept(batch, NOW) for _ in range(50)))
    outcomes = [status for receipt in told for status in receipt.statuses]
    assert outcomes.count(Status.accepted) == 900
    assert outcomes.count(Status.duplicate) == 49 * 900
    assert await _count(database, "signals") == 900


async def test_series_of_one_good_in_two_lanes_share_its_alert(
    database: Database, database_url: str, policy: Policy
) -> None:
    """Volume, price and control of gallium are judged by two processes at once."""

    def arrivals() -> Sequence[Arrival]:
        a_year = [Arrival(AURORA, VOLUME, month(n, 2022), 7_800.0) for n in range(1, 13)]
        prices = [Arrival(AURORA, PRICE, month(n, 2023), 100.0) for n in range(1, 7)]
        return [*a_year, *prices]

    other = Database(database_url)
    first, second = (Intake(each, policy, lanes=2) for each in (database, other))
    await first.accept(arrivals(), NOW)
    at = month(7, 2023)
    told = await asyncio.gather(
        first.accept([Arrival(AURORA, VOLUME, at, 0.0)], NOW),
        second.accept([Arrival(BALTICA, PRICE, at, 150.0)], NOW),
        first.accept(
            [Arrival(AURORA, CONTROL, at, 3.0, detail='{"origin":"government"}', is_event=True)],
            NOW,
        ),
    )
    await other.close()
    assert {ref for receipt in told for ref in receipt.refs} == {"TTC-SEMI-2026-0001"}
    assert await _open(database) == {"semiconductors/gallium/": Severity.severe}
    async with database.begin() as connection:
        kept = await store.alerts.by_ref(connection, "TTC-SEMI-2026-0001")
        assert kept is not None
        explained = (await store.alerts.last_explanations(connection, [kept.id]))[kept.id]
    assert {f["rule"] for f in explained["findings"]} == {
        "export-volume",
        "price",
        "export-control",
    }


async def test_an_alert_that_opens_between_a_look_and_the_lock_is_gone_on_with(
    database: Database, database_url: str, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Database(database_url)
    first, second = (Intake(each, policy, lanes=1) for each in (database, other))
    for key, value in ((VOLUME, 7_800.0), (PRICE, 100.0)):
        await first.accept([Arrival(AURORA, key, month(n), value) for n in range(1, 13)], NOW)
    prepare, at, told = store.publishing.prepare, month(13), []

    async def after_the_other(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(store.publishing, "prepare", prepare)
        told.append(await second.accept([Arrival(BALTICA, PRICE, at, 150.0)], NOW))
        return await prepare(*given, **named)

    monkeypatch.setattr(store.publishing, "prepare", after_the_other)
    told.append(await first.accept([Arrival(AURORA, VOLUME, at, 0.0)], NOW))
    await other.close()
    assert [receipt.refs for receipt in told] == [["TTC-SEMI-2026-0001"]] * 2
    assert await _count(database, "alerts") == 1


async def test_an_alert_that_another_process_opened_is_fed_where_all_was_known_to_be_calm(
    database: Database, database_url: str, policy: Policy
) -> None:
    other = Database(database_url)
    first, second = (Intake(each, policy, lanes=1) for each in (database, other))
    for key, value in ((VOLUME, 7_800.0), (PRICE, 100.0)):
        await first.accept([Arrival(AURORA, key, month(n), value) for n in range(1, 13)], NOW)
    told = [
        await intake.accept([Arrival(AURORA, key, month(13), value)], NOW)
        for intake, key, value in ((second, PRICE, 150.0), (first, VOLUME, 0.0))
    ]
    await other.close()
    assert [receipt.refs for receipt in told] == [["TTC-SEMI-2026-0001"]] * 2
    assert await _count(database, "alerts") == 1


async def test_open_alerts_of_many_scopes_are_found_in_one_batch(
    intake: Intake, database: Database, policy: Policy
) -> None:
    goods = policy.catalogue.goods_of("semiconductors")[:5]
    keys = [SeriesKey("semiconductors", "lead_time", good) for good in goods]
    first = await intake.accept([Arrival(AURORA, key, month(1), 17.0) for key in keys], NOW)
    again = await intake.accept([Arrival(AURORA, key, month(2), 21.0) for key in keys], NOW)
    assert sorted(again.refs) == sorted(first.refs)
    assert await _count(database, "alerts") == len(goods)
    assert set((await _open(database)).values()) == {Severity.severe}


async def test_a_bad_request_fails_alone(database: Database, policy: Policy) -> None:
    intake = Intake(database, policy, lanes=1)
    bad = Arrival(AURORA, CHIPS, month(1), 13.0, detail="\ud800")
    good = [Arrival(AURORA, CHIPS, month(n), 13.0) for n in range(2, 6)]
    await intake.accept([lead_time(month(1, 2020), 13.0)], NOW)
    told = await asyncio.gather(
        intake.accept([good[0]], NOW),
        intake.accept([bad], NOW),
        *(intake.accept([arrival], NOW) for arrival in good[1:]),
        return_exceptions=True,
    )
    assert isinstance(told[1], Exception)
    assert [t.statuses for t in told if isinstance(t, Receipt)] == [[Status.accepted]] * 4
    assert await _count(database, "signals") == 5


async def test_the_time_from_acceptance_to_commit_is_measured_of_what_was_committed(
    intake: Intake, policy: Policy, tmp_path: Path
) -> None:
    gauge = telemetry.REGISTRY.get_sample_value

    def measured() -> tuple[float, float]:
        names = ("forewarn_commit_seconds_count", "forewarn_commit_seconds_sum")
        return tuple(gauge(name) or 0.0 for name in names)  # type: ignore[return-value]

    count, seconds = measured()
    await intake.accept([lead_time(month(n), 12.0 + n) for n in range(1, 4)], NOW)
    after, longer = measured()
    assert after == count + 1, "one request of one lane is one part"
    assert 0 < longer - seconds < 60
    away = Database(f"postgresql://forewarn@/nothing?host={tmp_path}/nowhere")
    with pytest.raises(DatabaseAway):
        await Intake(away, policy).accept([lead_time(month(9), 1.0)], NOW)
    assert measured() == (after, longer)
    await away.close()


async def test_more_than_can_wait_is_refused(database: Database, policy: Policy) -> None:
    intake = Intake(database, policy, lanes=1, most_waiting=10)
    with pytest.raises(Behind):
        await intake.accept([lead_time(month(n), 13.0) for n in range(1, 12)], NOW)
    assert await _count(database, "signals") == 0


async def test_a_database_that_is_away_is_said_so(tmp_path: object, policy: Policy) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseAway):
        await Intake(away, policy).accept([lead_time(month(1), 13.0)], NOW)
    await away.close()


async def test_a_feed_that_goes_quiet_is_stale_and_clears_nothing(
    intake: Intake, database: Database, policy: Policy
) -> None:
    at = NOW - timedelta(days=10)
    await intake.accept([lead_time(at, 17.0)], NOW)
    for days, state in ((30, "firing"), (60, "stale"), (200, "no_data")):
        await sweep(database, policy, at + timedelta(days=days))
        async with database.begin() as connection:
            row = await connection.execute(text("SELECT state, severity FROM findings"))
            assert tuple(row.one()) == (state, int(Severity.moderate)), days
    assert await _open(database) == {"semiconductors/chips/": Severity.moderate}
    await intake.accept([lead_time(at + timedelta(days=201), 17.0)], NOW)
    async with database.begin() as connection:
        row = await connection.execute(text("SELECT state FROM findings"))
        assert row.scalar_one() == "firing"
