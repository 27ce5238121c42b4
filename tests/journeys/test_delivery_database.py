"""PostgreSQL is killed, cut off and restarted under a sender: nothing is lost, nothing recorded twice.

Observable oracles: the logs that receiver processes write before they answer, and rows after a commit.
The server is one of its own, which waits for the disk as users' do (``fsync``).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from app.database import Database, DatabaseAway, pool
from app.embedded import Embedded
from tests.journeys.relay import Nursery, Relay, until

POSTMASTERS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[Embedded]:
    """A server of its own with a migrated database, in a folder whose path is short enough for its socket."""
    folder = Path(tempfile.mkdtemp(prefix="fw-"))
    made = Embedded(folder, options={"shared_buffers": "64MB"})

    async def migrate() -> None:
        database = Database(made.url)
        await database.migrate()
        await database.close()

    made.start()
    asyncio.run(migrate())
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def relay(server: Embedded, nursery: Nursery, tmp_path: Path) -> AsyncIterator[Relay]:
    """A relay on a fresh database of that server."""
    connection = await asyncpg.connect(_url(server, "postgres"))
    await connection.execute("DROP DATABASE IF EXISTS relay WITH (FORCE)")
    await connection.execute("CREATE DATABASE relay TEMPLATE forewarn")
    await connection.close()
    database = Database(_url(server, "relay"))
    with ExitStack() as stack:
        yield Relay(database, _url(server, "relay"), nursery, tmp_path, stack)
    await database.close()


def _url(server: Embedded, name: str) -> str:
    return urlsplit(server.url)._replace(path=f"/{name}").geturl()


class _Debtor:
    """Owes without a pause, and counts what was acknowledged: of what was cut off nobody knows."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.acknowledged = 0
        self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while True:
            for alert in range(1, 9):
                with suppress(DatabaseAway):
                    await self._relay.owe(alert)
                    self.acknowledged += 1
                await asyncio.sleep(0.03)

    async def rest(self) -> None:
        """Owes no more."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def test_postgresql_is_killed_again_and_again_and_what_was_acknowledged_is_delivered(
    relay: Relay, server: Embedded
) -> None:
    far = relay.listener("far")
    await relay.subscribe(*(far.url(m) for m in ("ok", "after/0.02", "after/0.2")))
    sender = relay.sender()
    debtor = _Debtor(relay)
    for _ in range(POSTMASTERS):
        await asyncio.sleep(0.7)
        pid = server.postmaster()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(server.ensure_running)
    await asyncio.sleep(1.2)  # it works again by itself, whoever had noticed
    await debtor.rest()
    await relay.settled(30)
    sender.stop()
    times = await relay.reckon()
    assert len(times) >= 3 * debtor.acknowledged > 30
    print(f"owed {len(times)}, heard {times.total()}")


async def test_connections_are_cut_in_storms_and_everything_is_delivered(relay: Relay) -> None:
    far = relay.listener("far")
    await relay.subscribe(*(far.url(m) for m in ("ok", "after/0.02", "after/0.1")))
    sender = relay.sender()
    debtor = _Debtor(relay)
    connection = await asyncpg.connect(relay.database_url)
    until = time.monotonic() + 3
    cut = 0
    while time.monotonic() < until:
        cut += await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'forewarn' AND backend_type = 'client backend'"
        )
        await asyncio.sleep(0.3)
    await connection.close()
    await debtor.rest()
    await relay.settled(30)
    sender.stop()
    times = await relay.reckon()
    assert len(times) >= 3 * debtor.acknowledged > 0
    assert cut > 10
    print(f"cut {cut}; owed {len(times)}, heard {times.total()}")


@pytest.mark.parametrize("manner", ["after/0.5", "once/status/500/0.5"])
async def test_a_commit_whose_acknowledgement_was_lost_is_not_recorded_twice(
    relay: Relay, manner: str
) -> None:
    """The record is on the disk when its connection is cut, and the sender cannot know that.

    A commit that waits for a standby that never comes is such a one: cut off while it waits, it is
    "already committed locally" (PostgreSQL's documentation, 26.2.8 Synchronous Replication).
    """
    far = relay.listener("far")
    await relay.subscribe(far.url(manner))
    connection = await asyncpg.connect(relay.database_url)
    await relay.owe(1)
    sender = relay.sender(retry_schedule="3,3", lease_seconds=30)  # no lease is kept meanwhile
    await until(far.heard)
    await _wait_for_a_standby(connection, "nobody")
    await until(lambda: _cut_commits_off(connection))
    await _wait_for_a_standby(connection, "")
    await connection.close()
    await relay.settled(30)
    sender.stop()
    times = await relay.reckon()
    assert times.total() == (1 if manner == "after/0.5" else 2)


async def test_a_commit_that_waits_for_a_lost_standby_is_away_and_unseen_until_that_is_back(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen, it would be sent; and a failover to that standby may still undo it."""
    monkeypatch.setattr(pool, "_COMMIT_SECONDS", 0.3)
    await relay.subscribe("http://127.0.0.1:1/")
    connection = await asyncpg.connect(relay.database_url)
    await _wait_for_a_standby(connection, "nobody")
    with pytest.raises(DatabaseAway):
        await relay.owe(1)
    assert await relay.left() == 0
    await _wait_for_a_standby(connection, "")
    await connection.close()
    await until(relay.left)


async def _wait_for_a_standby(connection: asyncpg.Connection[asyncpg.Record], name: str) -> None:
    await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    await connection.execute("SELECT pg_reload_conf()")


async def _cut_commits_off(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """Cuts off the connections whose commits wait for a standby; how many those were."""
    found = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    )
    return int(found)
