"""A walk along every path of the product that touches the tables by ``series_id``, as its users go it.

*aurora* (EU) and *dorado* (US) report, *olga* operates; all of it over the service's own doors, duties
and verbs. What PostgreSQL is sent meanwhile is for others to read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from alerts.retention import Keep, Retention
from app import evaluate, scheduler, store, tidy
from app.database import DatabaseAway
from app.ingest import Arrival, Intake
from tests.app.test_engine_in_service import AGREEMENT, EU, FIRST, PROFILE, SUEZ, TRUSTED, traffic

Connect = Callable[..., Awaitable[httpx.AsyncClient]]

COMBINED = """
  - id: price
    title: Price
    version: 1
    family: price
    sectors: [semiconductors]
    indicators: [price_index]
    clear_after: 1
    detector: { kind: bands, direction: up, bands: [{ severity: minor, raise_at: 120, clear_at: 110 }] }
    freshness: { stale_after_days: 14, no_data_after_days: 28 }
    source: our_design
  - id: volume
    title: Volume
    version: 1
    family: quantity
    sectors: [semiconductors]
    indicators: [export_volume]
    effect: component
    detector: { kind: bands, direction: down, bands: [{ severity: minor, raise_at: 50, clear_at: 60 }] }
    source: our_design
  - id: both
    title: Price and volume
    version: 1
    family: availability
    sectors: [semiconductors]
    indicators: [price_index, export_volume]
    detector:
      kind: combination
      direction: up
      rules: [price, volume]
      bands: [{ severity: moderate, raise_at: 2, clear_at: 1 }]
    source: our_design
"""

DAYS = 157
MARCH = "signals_2021_03"


def prepare(folder: Path) -> None:
    """Puts a mechanism with rules of every kind that loads more than one series among the operator's."""
    (folder / "trial.yaml").write_text(PROFILE + TRUSTED + COMBINED + AGREEMENT)


async def walk(service: FastAPI, caller: Connect, folder: Path) -> None:
    """Reports, revises, takes back, sweeps, reads and replays."""
    aurora, dorado = await caller("aurora", party="EU"), await caller("dorado", party="US")
    olga = await caller("olga", role="operator")
    refs = await _report(service, aurora, dorado)
    await _let_time_pass(service)
    await _read(olga, refs)
    await _replay(service, folder)
    await _keep_order(service)


async def _report(
    service: FastAPI, aurora: httpx.AsyncClient, dorado: httpx.AsyncClient
) -> list[str]:
    refs: set[str] = set()

    async def post(who: httpx.AsyncClient, *signals: dict[str, Any], to: str = "") -> None:
        for signal in signals:
            signal.setdefault("sector", "semiconductors")
        answer = await who.post(f"/v1/signals{to}", json=list(signals))
        assert answer.status_code == 200, answer.text
        refs.update(answer.json()["alerts"])

    # In one batch, then by a process that remembers nothing of it.
    await post(aurora, *(transits(n) for n in range(DAYS - 1)))
    house = service.state.house
    last = Arrival(EU, SUEZ, FIRST + timedelta(days=DAYS - 1), traffic(DAYS - 1))
    await Intake(house.database, house.policy).accept([last], datetime.now(UTC))
    # Two parties are needed; then one of them revises, and takes it back.
    await post(aurora, chips("lead_time", 26, "weeks"))
    await post(dorado, chips("lead_time", 27, "weeks"))
    await post(aurora, chips("lead_time", 28, "weeks"))
    taken = chips("lead_time", 28, "weeks") | {"reason": "A slip."}
    await post(
        aurora, {k: v for k, v in taken.items() if k not in ("value", "unit")}, to="/retract"
    )
    # A rule over two series; then calm, and the finding is forgotten.
    await post(aurora, chips("price_index", 150, "index"), chips("export_volume", 10, "kg"))
    await post(aurora, *(chips("price_index", 100, "index", day=n) for n in range(2, 5)))
    await post(aurora, chips("price_index", 150, "index", day=20))
    # Calm, and stored at a glance once it is known to be.
    for day in range(1, 4):
        calm = chips("gscpi", 0.1, "sd", day=day) | {"sector": "all_sectors"}
        await post(aurora, {k: v for k, v in calm.items() if k != "good"})
    # An event, and one more voice about it.
    control = chips("export_control", 0, "") | {"severity": "severe", "origin": "government"}
    control["event"] = control.pop("indicator")
    del control["value"], control["unit"]
    await post(aurora, dict(control))
    await post(dorado, dict(control))
    return sorted(refs)


def transits(day: int) -> dict[str, Any]:
    at = FIRST + timedelta(days=day)
    return {
        "sector": "shipping",
        "indicator": "chokepoint_transits",
        "place": "suez",
        "observed_at": at.isoformat(),
        "value": traffic(day),
        "unit": "transits/day",
    }


def chips(indicator: str, value: float, unit: str, *, day: int = 1) -> dict[str, Any]:
    at = FIRST + timedelta(days=day)
    about = {"indicator": indicator, "good": "chips", "observed_at": at.isoformat()}
    return {**about, "value": value, "unit": unit}


async def _let_time_pass(service: FastAPI) -> None:
    house = service.state.house
    now = datetime.now(UTC)
    await evaluate.sweep(house.database, house.policy, now + timedelta(days=40))


async def _read(olga: httpx.AsyncClient, refs: list[str]) -> None:
    async def get(path: str) -> Any:
        answer = await olga.get(path)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer

    listed = (await get("/v1/series")).json()["items"]
    for one in listed:
        number = one["id"]
        await get(f"/v1/series/{number}")
        await get(f"/v1/series/{number}/samples?since=2021-01-02T00:00:00Z")
        await get(f"/series/{number}")
        await get(f"/v1/series/{number}/why")
    for ref in refs:
        await get(f"/v1/alerts/{ref}")
        await get(f"/v1/alerts/{ref}/explanation")
        await get(f"/alerts/{ref}")
    await get("/v1/findings?mechanism=trial&limit=2")
    await get("/v1/findings?fires=true")
    await get("/v1/alerts/why?sector=semiconductors&good=chips")
    for path in ("/", "/alerts", "/rules", "/rules/trial/price", "/v1/dashboard", "/v1/alerts"):
        await get(path)


async def _replay(service: FastAPI, folder: Path) -> None:
    """What a backtest reads; the replay itself has nothing to do with the database."""
    house, now = service.state.house, datetime.now(UTC)
    sectors = {"semiconductors", "shipping"}
    async with house.database.begin() as connection:
        there = [series for series, _ in await store.recorded.series_of(connection, sectors)]
        size = await store.recorded.size(connection, there, before=now, known=now, most=100)
        assert size.rows > 100
        for only_newest in (True, False):
            await store.recorded.export(
                connection,
                there,
                folder / "signals.csv",
                before=now,
                known=now,
                events=house.catalogue.events,
                only_newest=only_newest,
            )


async def _keep_order(service: FastAPI) -> None:
    """Months get their partitions, and the policy takes signals out of them, or months as a whole."""
    database, now = service.state.house.database, datetime.now(UTC)
    policy = Retention((Keep("all_sectors", None, 1), Keep("shipping", None, 72)))

    async def opened(month: datetime) -> bool:
        async with database.begin() as connection:
            return await store.partitions.open_month(connection, month) is not None

    async def detached(name: str) -> bool:
        async with database.begin() as connection:
            assert name in await store.vitals.partition_sizes(connection)
            (found,) = [p for p in await store.partitions.partitions(connection) if p.name == name]
            return await store.partitions.detach(connection, found)

    async def thinned() -> bool:
        return (await tidy.retire(database, policy, now)).thinned == ["2021-01"]

    async def dropped() -> bool:
        return (await tidy.retire(database, policy, now)).months == ["2021-03"]

    await scheduler.month_duty(database).do(now)
    for month in (FIRST, FIRST + timedelta(days=59)):
        await _patiently(partial(opened, month))
    await _patiently(thinned)
    await _patiently(partial(detached, MARCH))
    await _patiently(dropped)


async def _patiently(work: Callable[[], Awaitable[bool]]) -> None:
    """Again while the service's own duties are at it, or read for longer than is waited for."""
    for _ in range(100):
        with suppress(DatabaseAway):
            if await work():
                return
    raise AssertionError(f"{work} was not to be done")
