"""The primary PostgreSQL is lost under load and its standby promoted: the service goes on, and loses nothing.

Observable oracles: answers over HTTP as clients wrote them down, rows after a commit, and the log of a
receiver process.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest

from app.database import Database
from app.demo import processes
from tests.journeys import pair as pairs
from tests.journeys.pair import Pair
from tests.journeys.partners import Partners, key_of_aurora
from tests.journeys.relay import SETTINGS, Nursery, Relay
from tests.journeys.sites import Site


@pytest.fixture
def pair() -> Iterator[Pair]:
    with pairs.pair() as made:
        yield made


async def test_the_primary_is_lost_twice_under_load_and_the_service_goes_on_without_a_restart(
    pair: Pair, nursery: Nursery, tmp_path: Path
) -> None:
    database = Database(pair.url)
    await database.migrate()
    await pair.wait_for_each_other()
    told = {f"FOREWARN_{name.upper()}": str(value) for name, value in SETTINGS.items()}
    told["FOREWARN_DATABASE_SILENCE_SECONDS"] = "2"
    api = Site(tmp_path, pair.url, processes.free_port("127.0.0.1"), told)
    worker = replace(api, port=processes.free_port("127.0.0.1"))
    partners = Partners(lambda: api.url, await key_of_aurora(database))
    with ExitStack() as stack:
        relay = Relay(database, pair.url, nursery, tmp_path, stack)
        far = relay.listener("far")
        await relay.subscribe(far.url("ok"), far.url("after/0.05"))
        await database.close()  # It is only asked again at the end.
        living = [
            stack.enter_context(site.serving(role))
            for site, role in ((api, "api"), (worker, "worker"))
        ]
        async with partners.at_work():
            await partners.go_on(60)

            pair.primary.kill()  # its clients hear of it at once
            await asyncio.to_thread(pair.fail_over)
            await partners.go_on(60)

            await asyncio.to_thread(pair.follow)
            await pair.wait_for_each_other()
            await partners.go_on(60)

            pair.primary.signal(signal.SIGSTOP)  # and now nobody tells them anything
            await asyncio.to_thread(pair.fail_over)
            await partners.go_on(60)
        await relay.settled(30)
        assert [process.poll() for process in living] == [None, None]
        times = await relay.reckon()
    said = {one.data: one.id for one in relay.heard()}
    by_endpoint = {(one.data, one.id.split("_")[1]) for one in relay.heard()}
    assert len(by_endpoint) == len(times) > 2 * len(said) - 1, "nothing comes under two ids"
    assert await _stored(pair.primary.server.url, partners.acknowledged)
    await database.close()
    print(f"acknowledged {len(partners.acknowledged)}, refused {len(partners.refused)}")


async def _stored(url: str, acknowledged: dict[tuple[str, datetime], float]) -> bool:
    """Whether everything that was acknowledged is stored, once and as it was said."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT good, observed_at, value FROM signals JOIN series USING (series_id)"
    )
    await connection.close()
    found = [((row["good"], row["observed_at"]), row["value"]) for row in rows]
    assert len(found) == len(dict(found))
    missing = acknowledged.items() - dict(found).items()
    assert not missing, sorted(missing)
    return True
