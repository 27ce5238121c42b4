"""What is surely calm is stored without being read for; what comes of it is what judging it brings.

Observable oracles: the rows of the database, and the metric of signals taken at a glance.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from alerts.rules import Band, Concentration, Direction, Share
from alerts.signals import SeriesId, SeriesKey
from app import store, telemetry
from app.database import Database, DatabaseAway
from app.ingest import Arrival, Intake
from app.policy import Policy
from tests.alerts.cast import (
    AURORA,
    CATALOGUE,
    DORADO,
    LEAD_TIME,
    LEAD_TIME_RULE,
    MINOR,
    PRICE,
    PRICE_RULE,
    SAME_MONTH,
    VOLUME,
    at,
    change,
    days,
    mechanism,
    rule,
)
from tests.app.test_differential import empty

GALLIUM = LEAD_TIME._replace(good="gallium")
PROFILE = mechanism(LEAD_TIME_RULE, PRICE_RULE, hold_days=3)
FIRST = at("2026-01-01")
NOW = at("2026-06-01")
ROWS = {
    "signals": "series_id, observed_at, partner_id, revision, value, received_at, detail",
    "series_state": "series_id, version, last_observed_at, last_value, last_received_at, observations, "
    "encode(ring, 'hex'), last_valued_at",
    "findings": "series_id, mechanism, rule, state, severity, onset, since, observed_at, value, alert_id",
    "transitions": "alert_id, number, type, severity_to, at, reason, data",
    "alert_ends": "mechanism, good, ended_at",
}


def policy() -> Policy:
    return Policy(CATALOGUE, {PROFILE.id: PROFILE})


def one_lane(database: Database) -> Intake:
    """A process with one lane, so that its transactions have one order."""
    return Intake(database, policy(), lanes=1)


def glances() -> float:
    """How many signals were taken at a glance so far."""
    return telemetry.REGISTRY.get_sample_value("forewarn_signals_at_a_glance_total") or 0.0


async def execute(database: Database, sql: str) -> None:
    async with database.begin() as connection:
        await connection.execute(text(sql))


async def rows(database: Database) -> dict[str, list[tuple[object, ...]]]:
    async with database.begin() as connection:
        return {
            table: [
                tuple(row)
                for row in await connection.execute(
                    text(f"SELECT {columns} FROM {table} ORDER BY {columns}")
                )
            ]
            for table, columns in ROWS.items()
        }


@pytest.fixture
async def intake(database: Database) -> Intake:
    await empty(database, PROFILE)
    return one_lane(database)


async def calm_days(intake: Intake, count: int, first: int = 0, key: SeriesKey = LEAD_TIME) -> None:
    for day in range(first, first + count):
        await intake.accept([Arrival(AURORA, key, FIRST + days(day), 10.0)], NOW)


def life(seed: int) -> Iterator[list[Arrival]]:
    """Requests about three series, mostly calm and in order; now and then late, revised, taken back
    or alarming.
    """
    dice = random.Random(seed)
    day = 0
    for _ in range(60):
        request = []
        for _ in range(dice.randint(1, 4)):
            key = dice.choice([LEAD_TIME, GALLIUM, PRICE])
            odd = dice.random()
            when = day if odd < 0.85 else dice.randint(0, day)
            value: float | None = dice.choice([10.0, 10.5, 11.0])
            if odd > 0.97 and day:
                value = None
            elif odd < 0.1:
                value = dice.choice([15.0, 17.0, 21.0])
            partner = AURORA if odd < 0.9 else DORADO
            request.append(Arrival(partner, key, FIRST + days(when), value))
            day += dice.random() < 0.5
        yield request
        if dice.random() < 0.1:  # A back-fill, of more than is kept of a series.
            key, first = dice.choice([LEAD_TIME, GALLIUM, PRICE]), day + 1
            day += 100
            yield [Arrival(AURORA, key, FIRST + days(first + n), 10.0) for n in range(90)]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_processes_that_take_turns_end_as_one_that_remembers_nothing(
    database: Database, seed: int
) -> None:
    async def lived(
        intakes: Sequence[Intake], *, judging_all: bool = False
    ) -> dict[str, list[tuple[object, ...]]]:
        await empty(database, PROFILE)
        async with database.begin() as connection:  # So that they have the same numbers each time.
            await store.series.find_or_make(connection, [LEAD_TIME, GALLIUM, PRICE], NOW)
        turns = random.Random(seed)
        for request in life(seed):
            here = turns.choice(intakes) if intakes else one_lane(database)
            if judging_all:
                here._policy._screens = dict.fromkeys(here._policy._screens)
            await here.accept(request, NOW)
        return await rows(database)

    forgetful = await lived([], judging_all=True)
    assert await lived([]) == forgetful, "what is looked at by states alone"
    before = glances()
    assert await lived([one_lane(database)]) == forgetful
    assert glances() > before
    assert await lived([one_lane(database), one_lane(database)]) == forgetful


async def test_of_what_another_process_stored_nothing_is_taken_for_calm(
    database: Database, intake: Intake
) -> None:
    await calm_days(intake, 2)
    await calm_days(one_lane(database), 1, first=2)
    told = await intake.accept([Arrival(AURORA, LEAD_TIME, FIRST + days(2), 10.0)], NOW)
    assert told.statuses == ["duplicate"]
    before = glances()
    await calm_days(intake, 2, first=3)
    assert glances() - before == 1


def closer_looks() -> float:
    """How many signals were taken for calm after their series' states were read so far."""
    name = "forewarn_signals_at_a_closer_look_total"
    return telemetry.REGISTRY.get_sample_value(name) or 0.0


async def test_processes_that_take_turns_with_a_series_need_not_judge_what_is_calm(
    database: Database, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    await calm_days(intake, 3)
    looked = glances() + closer_looks()
    before, other, tries = closer_looks(), one_lane(database), []
    keep = store.calm.advance

    async def counting(*given: Any) -> Any:
        tries.append(1)
        return await keep(*given)

    monkeypatch.setattr(store.calm, "advance", counting)
    for day in range(3, 43):
        await calm_days((intake, other)[day % 2], 1, first=day)
    assert glances() + closer_looks() - looked == 40, "none was judged"
    assert closer_looks() - before >= 38
    assert len(tries) < 40 + 10, "nor was each one begun twice"


async def test_where_looks_are_in_vain_again_and_again_all_is_judged(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    await calm_days(intake, 3)
    before, tries = glances() + closer_looks(), []

    async def in_vain(*_: Any) -> tuple[int, list[int]]:
        tries.append(1)
        return 0, [0] * store.series.SERIES_LANES

    monkeypatch.setattr(store.calm, "advance", in_vain)
    async with asyncio.timeout(20):
        told = await intake.accept([Arrival(AURORA, LEAD_TIME, FIRST + days(3), 10.0)], NOW)
    assert (told.statuses, len(tries)) == (["accepted"], 2)
    assert glances() + closer_looks() == before


async def test_an_alert_that_another_process_opened_is_heeded(
    database: Database, intake: Intake
) -> None:
    """Its baseline is frozen, for all series of its good."""
    await calm_days(intake, 3, key=PRICE)
    before = glances()
    other = one_lane(database)
    await other.accept([Arrival(AURORA, LEAD_TIME, FIRST + days(3), 21.0)], NOW)
    await calm_days(intake, 1, first=4, key=PRICE)
    assert glances() == before


async def test_an_alert_that_opens_while_a_joint_rule_waits_for_its_lane_is_gone_on_with(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was known of the scope is as old as the versions, which were read before."""
    shares = Concentration("concentration", Direction.up, Share.hhi, (Band(MINOR, 0.4, 0.3),))
    profile = mechanism(LEAD_TIME_RULE, rule("export_volume", shares))
    await empty(database, profile)
    first, second = (
        Intake(database, Policy(CATALOGUE, {profile.id: profile}), lanes=1) for _ in range(2)
    )
    await calm_days(first, 2)
    take, told, alarming = store.series.lock_scopes, [], FIRST + days(2)

    async def after_the_other(*given: Any) -> None:
        monkeypatch.setattr(store.series, "lock_scopes", take)
        abroad = Arrival(DORADO, LEAD_TIME._replace(place="UA"), alarming, 21.0)
        told.append(await second.accept([abroad], NOW))
        await take(*given)

    monkeypatch.setattr(store.series, "lock_scopes", after_the_other)
    both = [Arrival(AURORA, key, alarming, 21.0) for key in (LEAD_TIME, VOLUME)]
    told.append(await first.accept(both, NOW))
    assert [receipt.refs for receipt in told] == [["AB-2026-0001"]] * 2


async def test_a_finding_that_appears_meanwhile_is_heeded(
    database: Database, intake: Intake
) -> None:
    await calm_days(intake, 3)
    await execute(
        database,
        "INSERT INTO findings (series_id, mechanism, rule, rule_version, state, severity, "
        "raise_run, clear_run, ok_run) SELECT series_id, 'aurora-borealis', 'lead-time', 1, "
        "'stale', 0, 0, 0, 0 FROM series",
    )
    before = glances()
    await calm_days(intake, 1, first=3)
    assert glances() == before
    assert len((await rows(database))["signals"]) == 4


async def test_new_rules_ask_series_that_were_calm_by_the_old_ones(
    database: Database,
) -> None:
    await empty(database, PROFILE)
    ours = policy()
    intake = Intake(database, ours)
    await calm_days(intake, 3)
    stricter = mechanism(PRICE_RULE)
    ours.renew({stricter.id: stricter}, ())
    before = glances()
    await calm_days(intake, 1, first=3)
    assert glances() == before


async def until_taken(intake: Intake, day: int) -> None:
    """Sends a day's signal again until each kind of connection has noticed that it was cut."""
    for _ in range(3):
        with suppress(DatabaseAway):
            await calm_days(intake, 1, first=day)
            return
    raise AssertionError("The database did not come back.")


async def test_what_was_known_of_a_database_that_went_away_is_forgotten(
    database: Database, intake: Intake
) -> None:
    """Another may answer next, in which other things have happened."""
    await calm_days(intake, 3)
    await execute(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    before = glances()
    await until_taken(intake, 3)
    assert glances() == before
    await until_taken(intake, 4)
    assert glances() == before + 1


async def test_one_that_must_be_judged_takes_its_own_series_along_and_no_other(
    database: Database, intake: Intake
) -> None:
    await calm_days(intake, 3)
    await calm_days(intake, 3, key=GALLIUM)
    before = glances()
    several = [
        Arrival(AURORA, GALLIUM, FIRST + days(3), 10.0),
        Arrival(AURORA, LEAD_TIME, FIRST + days(3), 10.0),
        Arrival(AURORA, LEAD_TIME, FIRST + days(4), 21.0),
        Arrival(AURORA, GALLIUM, FIRST + days(4), 10.0),
        Arrival(AURORA, LEAD_TIME, FIRST + days(1), 10.0),
    ]
    told = await intake.accept(several, NOW)
    assert told.statuses == ["accepted"] * 4 + ["duplicate"]
    assert len(told.refs) == 1
    assert glances() - before == 2


async def test_a_back_fill_at_a_glance_leaves_no_hole_in_what_is_kept_of_the_series(
    database: Database, intake: Intake
) -> None:
    await calm_days(intake, 2)
    before = glances()
    many = [Arrival(AURORA, LEAD_TIME, FIRST + days(day), 10.0) for day in range(2, 102)]
    await intake.accept(many, NOW)
    assert glances() - before == 100
    async with database.ingest() as connection:
        (state,) = (await store.series.states(connection, [SeriesId(1)])).values()
    assert [s.at for s in state.samples()] == [FIRST + days(day) for day in range(70, 102)]


async def test_a_failover_that_lost_a_commit_is_not_taken_for_the_database_that_was(
    database: Database, intake: Intake
) -> None:
    await calm_days(intake, 3)
    # As a standby that lagged has it.
    await execute(
        database,
        "DELETE FROM signals WHERE observed_at = (SELECT max(observed_at) FROM signals)",
    )
    await execute(
        database,
        "UPDATE series_state SET version = version - 1, observations = observations - 1, "
        "last_observed_at = last_observed_at - interval '1 day', last_valued_at = "
        "last_valued_at - interval '1 day', ring = substring(ring FOR length(ring) - 16)",
    )
    await database.close()  # As when a host is lost.
    await one_lane(database).accept([Arrival(AURORA, LEAD_TIME, FIRST + days(5), 10.0)], NOW)
    before = glances()
    late = await intake.accept([Arrival(AURORA, LEAD_TIME, FIRST + days(4), 10.0)], NOW)
    assert (late.statuses, glances() - before) == (["late"], 0)
    again = await intake.accept([Arrival(AURORA, LEAD_TIME, FIRST + days(5), 10.0)], NOW)
    assert again.statuses == ["duplicate"]


async def test_a_series_that_the_database_lost_is_made_anew_when_the_same_is_sent_again(
    database: Database, intake: Intake
) -> None:
    """Also when its number has been given to another since."""
    await calm_days(intake, 2)
    await execute(database, "TRUNCATE series, series_state, signals RESTART IDENTITY")
    await calm_days(one_lane(database), 1, key=GALLIUM)
    await database.close()
    with pytest.raises(DatabaseAway, match="lost a series"):
        await calm_days(intake, 1, first=2)
    await calm_days(intake, 1, first=2)
    async with database.begin() as connection:
        ids = await store.series.ids_of(connection, [GALLIUM, LEAD_TIME])
    assert [row[0] for row in (await rows(database))["signals"]] == [ids[GALLIUM], ids[LEAD_TIME]]


async def test_a_series_that_is_gone_though_no_connection_was_is_made_anew_too(
    database: Database, intake: Intake
) -> None:
    await calm_days(intake, 2)
    await execute(database, "TRUNCATE series, series_state, signals")
    with pytest.raises(DatabaseAway, match="lost a series"):
        await calm_days(intake, 1, first=2)
    await calm_days(intake, 1, first=2)
    assert len((await rows(database))["signals"]) == 1


async def test_a_series_whose_scope_is_known_anew_is_calm_beside_one_whose_scope_is_not(
    database: Database, intake: Intake
) -> None:
    """An alert in a lane makes all scopes of it be looked at again, each once."""
    lanes: dict[int, list[SeriesKey]] = {}
    for number in range(200):
        key = LEAD_TIME._replace(good=f"good-{number}")
        lanes.setdefault(store.series.lane_of_scope(PROFILE.scope_of(key)), []).append(key)
    first, second, alarming = max(lanes.values(), key=len)[:3]
    for key in (first, second):
        await calm_days(intake, 2, key=key)
    other = one_lane(database)
    await other.accept([Arrival(AURORA, alarming, FIRST, 21.0)], NOW)
    await calm_days(intake, 1, first=2, key=second)
    before = glances()
    both = [Arrival(AURORA, key, FIRST + days(3), 10.0) for key in (first, second)]
    await intake.accept(both, NOW)
    assert glances() - before == 1
    await calm_days(intake, 1, first=4, key=first)
    assert glances() - before == 2


async def test_what_a_look_does_not_do_for_is_remembered_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seasonal = mechanism(rule("lead_time", change((MINOR, 0.2, 0.1), baseline=SAME_MONTH)))
    await empty(database, seasonal)
    intake = Intake(database, Policy(CATALOGUE, {seasonal.id: seasonal}), lanes=1)
    loads = 0
    load = store.signals.windows

    async def counted(*asked: Any) -> Any:
        nonlocal loads
        loads += 1
        return await load(*asked)

    monkeypatch.setattr(store.signals, "windows", counted)
    for day in range(60):
        await intake.accept([Arrival(AURORA, LEAD_TIME, FIRST + days(day), 10.0)], NOW)
    assert loads < 5
