"""What the engine needs beyond one series, loaded and written by the service; on real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from alerts import detectors
from alerts.findings import State
from alerts.rules import CarryOver, Measured
from alerts.signals import PartnerId, Sample, SeriesKey, Severity
from app import documents, evaluate, store
from app.database import Database
from app.evaluate import loading, sweep
from app.ingest import Arrival, Intake
from app.policy import Policy

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FIRST = datetime(2021, 1, 1, tzinfo=UTC)
EU, EU_TOO, US = PartnerId(1), PartnerId(2), PartnerId(3)
LEAD, PRICE = (SeriesKey("semiconductors", i, "chips") for i in ("lead_time", "price_index"))
SUEZ = SeriesKey("shipping", "chokepoint_transits", "", "suez")

PROFILE = """
id: trial
version: 1
title: Trial
summary: For tests.
reference_prefix: TRY
valid_from: 2019-01-01
valid_until: 2099-12-31
validity_source: our_design
default_tlp: GREEN
alert_per: [good, place]
parties: [{ code: EU, title: European Union }, { code: US, title: United States }]
sectors: [semiconductors, shipping]
levels:
  - { level: monitoring, title: Monitoring, meaning: Watched., set_by: engine, source: our_design }
  - { level: early_warning, title: Early warning, meaning: May occur., set_by: engine, source: our_design }
closing: { hold_days: 14, fresh_observations: 2, source: our_design }
rules:
"""

TRUSTED = """
  - id: lead
    title: Lead time
    version: 1
    family: availability
    sectors: [semiconductors]
    indicators: [lead_time]
    trust: { combine: highest, parties: 2, source: our_design }
    detector:
      kind: bands
      direction: up
      bands: [{ severity: severe, raise_at: 20, clear_at: 18 }]
    source: our_design
"""

COMBINED = """
  - id: lead
    title: Lead time
    version: 1
    family: availability
    sectors: [semiconductors]
    indicators: [lead_time]
    effect: component
    detector: { kind: bands, direction: up, bands: [{ severity: severe, raise_at: 20, clear_at: 18 }] }
    source: our_design
  - id: price
    title: Price
    version: 1
    family: price
    sectors: [semiconductors]
    indicators: [price_index]
    effect: component
    detector: { kind: bands, direction: up, bands: [{ severity: minor, raise_at: 120, clear_at: 110 }] }
    source: our_design
  - id: both
    title: Lead time and price
    version: 1
    family: availability
    sectors: [semiconductors]
    indicators: [lead_time, price_index]
    detector:
      kind: combination
      direction: up
      rules: [lead, price]
      bands: [{ severity: moderate, raise_at: 2, clear_at: 1 }]
    source: our_design
"""

AGREEMENT = """
  - id: traffic
    title: Ships passing
    version: 1
    family: quantity
    sectors: [shipping]
    indicators: [chokepoint_transits]
    clear_after: 3
    detector:
      kind: agreement
      direction: down
      transform: log
      mean_of: 3
      levels:
        - { observations: 40, guard: 3, min_observations: 20 }
        - { observations: 14, guard: 3, min_observations: 10 }
      changes: [3, 7]
      need: 3
      quantile: 0.98
      ratio: 1.5
      least: 3
      memory: 60
      min_memory: 20
      guard: 7
      floor: 0.02
      bands: [{ severity: moderate, raise_at: 1, clear_at: 0.6 }]
    source: our_design
"""


async def use(database: Database, rules: str, *, more: str = "") -> tuple[Policy, Intake]:
    """A policy of one profile with these rules, its intake, and three partners."""
    document = documents.read_profile(PROFILE + rules + more)
    async with database.begin() as connection:
        await store.profiles.keep(connection, document, NOW)
        for name, party in (("aurora", "EU"), ("boreas", "EU"), ("dorado", "US")):
            await store.partners.keep(connection, name, party, NOW)
    policy = Policy(documents.load_catalogue(), {document.profile.id: document.profile})
    return policy, Intake(database, policy, lanes=2)


async def open_alerts(database: Database) -> dict[str, Severity]:
    async with database.begin() as connection:
        found = await store.alerts.all_open(connection)
    return {f"{s.good}{s.place}": kept.alert.severity for s, kept in found.items()}


async def the_finding(database: Database, key: SeriesKey) -> tuple[State, Severity, str]:
    async with database.begin() as connection:
        ids = await store.series.ids_of(connection, [key])
        (kept,) = await store.findings.of_series(connection, list(ids.values()))
    return kept.finding.state, kept.finding.severity, kept.finding.reason


async def test_one_feed_cannot_raise_alone_and_a_second_party_can(database: Database) -> None:
    _, intake = await use(database, TRUSTED)
    await intake.accept([Arrival(EU, LEAD, FIRST, 26.0), Arrival(EU_TOO, LEAD, FIRST, 26.0)], NOW)
    assert await the_finding(database, LEAD) == (
        State.pending,
        Severity.none,
        "2 parties must report it independently; 1 of them does",
    )
    told = await intake.accept([Arrival(US, LEAD, FIRST, 26.0)], NOW)
    assert told.refs == ["TRY-2026-0001"]
    assert await open_alerts(database) == {"chips": Severity.severe}


async def test_one_story_told_by_two_parties_is_one_source(database: Database) -> None:
    _, intake = await use(database, TRUSTED)
    detail = json.dumps({"origin": "press", "origin_ref": "the same wire"})
    both = [Arrival(p, LEAD, FIRST, 26.0, detail=detail) for p in (EU, US)]
    await intake.accept(both, NOW)
    assert await open_alerts(database) == {}


@pytest.mark.parametrize("lead_first", [True, False])
async def test_a_combination_reads_series_that_come_in_requests_of_their_own(
    database: Database, lead_first: bool
) -> None:
    _, intake = await use(database, COMBINED)
    requests = [[Arrival(EU, LEAD, FIRST, 26.0)], [Arrival(EU, PRICE, FIRST, 150.0)]]
    for request in requests if lead_first else reversed(requests):
        assert await open_alerts(database) == {}
        await intake.accept(request, NOW)
    assert await open_alerts(database) == {"chips": Severity.moderate}


async def test_a_combination_lets_go_when_a_part_is_taken_back(database: Database) -> None:
    _, intake = await use(database, COMBINED)
    await intake.accept([Arrival(EU, LEAD, FIRST, 26.0), Arrival(EU, PRICE, FIRST, 150.0)], NOW)
    await intake.accept([Arrival(EU, PRICE, FIRST, None)], NOW)
    assert await open_alerts(database) == {}


def traffic(day: int) -> float:
    """Seventy ships a day, give or take a few, and half of them from day 150 on."""
    usual = 70 + 4 * math.sin(day) + 3 * math.cos(day * 1.7)
    return round(usual if day < 150 else usual / 2, 1)


async def test_what_is_remembered_between_requests_changes_nothing(database: Database) -> None:
    """One request a day on a warm process, a cold one every so often, and all in one by the engine."""
    policy, intake = await use(database, AGREEMENT)
    days = [FIRST + timedelta(days=n) for n in range(157)]
    for n, at in enumerate(days):
        if n % 40 == 39:
            intake = Intake(database, policy, lanes=2)  # A process that knows nothing yet.
        await intake.accept([Arrival(EU, SUEZ, at, traffic(n))], NOW)
    (rule,) = policy.profiles["trial"].rules
    assert isinstance(rule.detector, Measured)
    window = [Sample(at, traffic(n)) for n, at in enumerate(days)]
    async with database.begin() as connection:
        ids = await store.series.ids_of(connection, [SUEZ])
        (kept,) = await store.findings.of_series(connection, list(ids.values()))
    cold = detectors.read(rule.detector, window, kept.finding.onset)
    assert kept.finding.onset == days[150]
    assert kept.finding.measures == cold.measures
    assert kept.finding.compared == cold.compared


async def test_open_alerts_are_swept_a_few_at_a_time_and_each_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = TRUSTED.replace("    trust: { combine: highest, parties: 2, source: our_design }\n", "")
    policy, intake = await use(database, rules)
    keys = [LEAD._replace(good=good) for good in ("chips", "mcu", "dram", "nand", "analog")]
    await intake.accept([Arrival(EU, key, FIRST, 26.0) for key in keys], NOW)
    loaded, swept = loading.dockets, []

    async def noting(*given: Any) -> Any:
        found = await loaded(*given)
        swept.append([scope.good for scope in found])
        return found

    monkeypatch.setattr(loading, "dockets", noting)
    monkeypatch.setattr(evaluate, "_SCOPES_AT_ONCE", 2)
    await sweep(database, policy, NOW)
    assert [len(goods) for goods in swept] == [2, 2, 1]
    assert sorted(good for goods in swept for good in goods) == sorted(key.good for key in keys)


async def test_beyond_the_limit_alerts_are_folded_and_told_in_one(database: Database) -> None:
    rules = TRUSTED.replace("    trust: { combine: highest, parties: 2, source: our_design }\n", "")
    limit = "overflow: { open_alerts: 2, source: our_design }\n"
    policy, intake = await use(database, rules, more=limit)
    goods = ("chips", "mcu", "dram", "nand", "analog")
    keys = [LEAD._replace(good=good) for good in goods]
    told = await intake.accept([Arrival(EU, key, FIRST, 26.0) for key in keys], NOW)
    assert len(told.refs) == 5, "each has a reference, and can be looked at"
    await sweep(database, policy, NOW)
    async with database.begin() as connection:
        found = await store.alerts.all_open(connection)
        folded = sorted(s.good for s, kept in found.items() if kept.alert.is_folded)
        (summary,) = [kept.alert for s, kept in found.items() if s.good == "*"]
    assert len(folded) == 3
    assert summary.why.startswith("3 more alerts are open than are told one by one: 3 severe.")
    await intake.accept([Arrival(EU, key, FIRST, 12.0) for key in keys], NOW)
    await sweep(database, policy, NOW)
    assert await open_alerts(database) == {}
    async with database.begin() as connection:
        types = (
            await connection.execute(
                text(
                    "SELECT type FROM transitions JOIN alerts ON alerts.id = alert_id WHERE good = '*'"
                )
            )
        ).scalars()
        assert list(types) == ["alert.opened", "alert.resolved"]


# ---- what a hostile reading found --------------------------------------------------------------

LEADS = TRUSTED.replace("    trust: { combine: highest, parties: 2, source: our_design }\n", "")
QUICK = LEADS.replace("  - id: lead\n", "  - id: lead\n    clear_after: 1\n")
DAY = timedelta(days=1)


async def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.begin() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def test_a_rule_that_asks_a_series_no_more_does_not_stop_a_correction(
    database: Database,
) -> None:
    price = LEADS.replace("id: lead", "id: price").replace("lead_time", "price_index")
    policy, intake = await use(
        database,
        LEADS + price.replace("raise_at: 20, clear_at: 18", "raise_at: 120, clear_at: 110"),
    )
    await intake.accept([Arrival(EU, LEAD, FIRST, 26.0), Arrival(EU, PRICE, FIRST, 150.0)], NOW)
    assert await open_alerts(database) == {"chips": Severity.severe}
    (profile,) = policy.profiles.values()
    narrowed = [
        replace(r, version=2, goods=("dram",)) if r.id == "price" else r for r in profile.rules
    ]
    policy.renew({profile.id: replace(profile, rules=tuple(narrowed))}, ())
    await intake.accept([Arrival(EU, LEAD, FIRST, None)], NOW)
    assert await open_alerts(database) == {}


async def test_values_at_the_end_of_all_numbers_stop_nothing(database: Database) -> None:
    rules = TRUSTED.replace("combine: highest, parties: 2", "combine: mean, parties: 1")
    _, intake = await use(database, rules)
    huge = [Arrival(p, LEAD, FIRST, 1.7e308) for p in (EU, US)]
    await intake.accept(huge, NOW)
    await intake.accept([Arrival(EU, LEAD, FIRST + DAY, 10.0)], NOW)
    assert await rows(database, "SELECT count(*) FROM signals") == [(3,)]


CONCENTRATED = """
  - id: who
    title: Who supplies
    version: 1
    family: availability
    sectors: [semiconductors]
    indicators: [country_share]
    detector:
      kind: concentration
      direction: up
      measure: hhi
      bands: [{ severity: severe, raise_at: 0.25, clear_at: 0.2 }]
    source: our_design
"""


@pytest.mark.parametrize("together", [True, False])
async def test_shares_of_one_instant_are_read_together_however_they_come(
    database: Database, together: bool
) -> None:
    _, intake = await use(database, CONCENTRATED)
    shares = {"UA": 0.4, "CN": 0.5}

    def told(place: str, share: float | None) -> Arrival:
        key = SeriesKey("semiconductors", "country_share", "gallium", place)
        return Arrival(EU, key, FIRST, share)

    arrivals = [told(place, share) for place, share in shares.items()]
    for request in [arrivals] if together else [[a] for a in arrivals]:
        await intake.accept(request, NOW)
    assert await open_alerts(database) == {"gallium": Severity.severe}
    for place in shares:
        await intake.accept([told(place, None)], NOW)
    assert await open_alerts(database) == {}, "every share was taken back"


async def test_silence_does_not_undo_what_a_new_version_began_afresh(database: Database) -> None:
    silent = "    freshness: { stale_after_days: 10, no_data_after_days: 20, source: our_design }\n"
    policy, intake = await use(database, LEADS.removesuffix("    source: our_design\n") + silent
                               + "    source: our_design\n")  # fmt: skip
    await intake.accept([Arrival(EU, LEAD, FIRST, 26.0)], NOW)
    (profile,) = policy.profiles.values()
    anew = [replace(r, version=2, carry_over=CarryOver.fresh) for r in profile.rules]
    policy.renew({profile.id: replace(profile, rules=tuple(anew))}, ())
    await sweep(database, policy, NOW)
    found = await rows(database, "SELECT rule_version, severity FROM findings")
    assert (2, int(Severity.severe)) not in found


async def test_an_alert_that_was_told_stays_told_when_the_next_of_its_subject_is_folded(
    database: Database,
) -> None:
    _, intake = await use(
        database, QUICK, more="overflow: { open_alerts: 1, source: our_design }\n"
    )
    await intake.accept([Arrival(EU, LEAD, FIRST, 26.0)], NOW)
    await intake.accept([Arrival(EU, LEAD._replace(good="dram"), FIRST, 26.0)], NOW)
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alerts SET folded = false"))
    again = [(1, 1.0), (20, 1.0), (21, 1.0), (22, 26.0)]
    await intake.accept([Arrival(EU, LEAD, FIRST + n * DAY, value) for n, value in again], NOW)
    found = await rows(database, "SELECT good, state, folded FROM alerts ORDER BY id")
    assert found == [
        ("chips", "resolved", False),
        ("dram", "open", False),
        ("chips", "open", True),
    ]


async def test_a_summary_does_not_count_towards_the_limit(database: Database) -> None:
    policy, intake = await use(
        database, QUICK, more="overflow: { open_alerts: 2, source: our_design }\n"
    )
    keys = [LEAD._replace(good=good) for good in ("chips", "mcu", "dram")]
    await intake.accept([Arrival(EU, key, FIRST, 26.0) for key in keys], NOW)
    await sweep(database, policy, NOW)
    calm = [Arrival(EU, keys[0], FIRST + n * DAY, 1.0) for n in (1, 20, 21)]
    await intake.accept(calm, NOW)
    await intake.accept([Arrival(EU, LEAD._replace(good="nand"), FIRST + 30 * DAY, 26.0)], NOW)
    assert await rows(database, "SELECT folded FROM alerts WHERE good = 'nand'") == [(False,)]


async def test_what_comes_while_a_shelf_ends_is_not_overwritten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, intake = await use(database, QUICK)
    async with database.begin() as connection:
        ids = await store.series.find_or_make(connection, {LEAD}, NOW)
        shelf = await store.shelves.add(
            connection,
            mechanism="",
            rule="",
            series=ids[LEAD],
            reason="Maintenance.",
            created_by="olga",
            until=NOW + timedelta(hours=1),
            now=NOW,
        )
    policy.renew(policy.profiles, [shelf])
    await intake.accept([Arrival(EU, LEAD, FIRST, 26.0)], NOW)
    assert await open_alerts(database) == {}
    later, loaded = NOW + timedelta(hours=2), loading.dockets
    meanwhile: list[asyncio.Task[object]] = []

    async def slowly(*given: object) -> object:
        found = await loaded(*given)  # type: ignore[arg-type]
        if not meanwhile:
            calm = intake.accept([Arrival(EU, LEAD, FIRST + DAY, 1.0)], later)
            meanwhile.append(asyncio.ensure_future(calm))
            await asyncio.wait(meanwhile, timeout=1)
        return found

    monkeypatch.setattr(loading, "dockets", slowly)
    await sweep(database, policy, later)
    await asyncio.gather(*meanwhile)
    assert await rows(database, "SELECT max(severity) FROM findings") == [(0,)]


async def test_a_value_beyond_the_lateness_allowed_is_stored_and_judges_nothing_again(
    database: Database,
) -> None:
    _, intake = await use(
        database, LEADS, more="allowed_lateness: { days: 10, source: our_design }\n"
    )
    await intake.accept([Arrival(EU, LEAD, FIRST + n * DAY, 12.0) for n in (0, 20)], NOW)
    beyond = [Arrival(EU, LEAD, FIRST + DAY, 26.0), Arrival(EU, LEAD, FIRST + 21 * DAY, 12.0)]
    await intake.accept(beyond, NOW)
    assert await open_alerts(database) == {}
    assert await rows(database, "SELECT count(*) FROM signals") == [(4,)]
    await intake.accept([Arrival(EU, LEAD, FIRST + 12 * DAY, 26.0)], NOW)
    await intake.accept([Arrival(EU, LEAD, FIRST + 21 * DAY, 26.0)], NOW)
    assert await open_alerts(database) == {"chips": Severity.severe}, "ten days are allowed"


async def test_beside_a_value_too_late_every_new_one_is_judged(database: Database) -> None:
    _, intake = await use(
        database, LEADS, more="allowed_lateness: { days: 10, source: our_design }\n"
    )
    await intake.accept([Arrival(EU, LEAD, FIRST + n * DAY, 12.0) for n in (0, 20)], NOW)
    late = Arrival(EU, LEAD, FIRST + DAY, 26.0)
    new = [Arrival(EU, LEAD, FIRST + (21 + n) * DAY, 12.0 if n else 26.0) for n in range(40)]
    await intake.accept([late, *new], NOW)
    found = await rows(database, "SELECT type, at FROM transitions ORDER BY id")
    assert found[0] == ("alert.opened", FIRST + 21 * DAY), "the first of forty"
