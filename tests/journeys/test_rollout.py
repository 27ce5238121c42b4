"""A release is rolled out under load: the schema first, then each process in turn; no request is refused, and
nothing is sent twice.

Observable oracles: answers over HTTP, as clients got them through a proxy that follows ``/readyz``, and what
a receiver heard.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.database import Database, SchemaAhead, head_revision
from app.demo import processes
from tests.journeys.partners import Partners, key_of_aurora
from tests.journeys.relay import until
from tests.journeys.sites import Cast, Receiver, Site, all_delivered
from tests.journeys.town import ROOT

NEXT = """
from alembic import op

revision, down_revision, works_with = "9001", "{before}", "{before}"

def upgrade():
    op.execute("ALTER TABLE series_state ADD COLUMN mood text")
    op.execute("CREATE TABLE moods (mood text)")
"""


@dataclass(slots=True)
class Proxy:
    """Sends requests to those processes in turn that said they were ready a moment ago."""

    sites: list[Site]
    ready: set[str] = field(default_factory=set)
    turn: itertools.count[int] = field(default_factory=itertools.count)

    def where(self) -> str:
        """Where the next request goes."""
        return sorted(self.ready)[next(self.turn) % len(self.ready)]

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """It asks each of them ten times a second while the block runs."""
        task = asyncio.create_task(self._look())
        await self.until_ready(self.sites[0])
        yield
        task.cancel()

    async def until_ready(self, site: Site) -> None:
        """Waits until it sends requests there."""
        await until(lambda: site.url in self.ready)

    async def _look(self) -> None:
        async with httpx.AsyncClient(timeout=2, verify=False) as http:
            while True:
                for site in self.sites:
                    try:
                        answered = (await http.get(f"{site.url}/readyz")).status_code
                    except httpx.TransportError:
                        answered = 0
                    (self.ready.add if answered == 200 else self.ready.discard)(site.url)
                await asyncio.sleep(0.1)


def _release(folder: Path, before: str) -> None:
    """A later release, as far as its schema goes: it adds, and takes nothing away."""
    shutil.copytree(ROOT / "migrations", folder / "migrations")
    (folder / "migrations" / "versions" / "9001_next.py").write_text(NEXT.format(before=before))


def _migrate(site: Site, folder: Path) -> subprocess.Popen[str]:
    """``forewarn migrate`` of that release."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", "migrate"],
        env=site.environment | {"PYTHONPATH": f"{folder}:{ROOT}"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def _done(process: subprocess.Popen[str]) -> str:
    said, _ = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, said
    return str(said)


async def test_a_release_is_rolled_out_and_no_request_is_refused(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    head = head_revision()
    one = Site(
        tmp_path,
        database_url,
        processes.free_port("127.0.0.1"),
        {"FOREWARN_DRAIN_NOTICE_SECONDS": "2"},
    )
    other = replace(one, port=processes.free_port("127.0.0.1"))
    proxy = Proxy([one, other])
    partners = Partners(proxy.where, await key_of_aurora(database))
    later = tmp_path / "later"
    _release(later, head)
    with ExitStack() as stack:
        running = {one.url: stack.enter_context(one.serving("api"))}
        async with proxy.looking(), partners.at_work():
            await partners.go_on(30)
            await _expand(partners, one, later, database_url)
            for new, old in ((other, one), (one, other)):
                running[new.url] = await asyncio.to_thread(stack.enter_context, new.serving("api"))
                await proxy.until_ready(new)
                running[old.url].send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running[old.url].wait, 30) == 0
                await partners.go_on(30)
        assert partners.refused == []
    await database.check_revision()
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT works_with FROM alembic_version") == head
    await connection.execute("UPDATE alembic_version SET version_num = '9002', works_with = '9002'")
    await connection.close()
    with pytest.raises(SchemaAhead, match=f"works with versions from revision 9002.* at {head}"):
        await database.check_revision()
    with pytest.raises(SchemaAhead):
        await database.migrate()


async def _expand(partners: Partners, site: Site, later: Path, url: str) -> None:
    """Migrates while somebody reads for long what is to be changed; nobody waits behind that."""
    reader = await asyncpg.connect(url)
    reading = reader.transaction()
    await reading.start()
    await reader.fetch("SELECT version FROM series_state")
    migration = _migrate(site, later)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE series_state%'"
    watcher = await asyncpg.connect(url)
    while not await watcher.fetchval(waits):
        assert migration.poll() is None, await _done(migration)
    await watcher.close()
    await partners.go_on(30)
    assert migration.poll() is None
    await reading.rollback()
    await reader.close()
    assert "9001" in await _done(migration)
    await partners.go_on(30)


async def test_workers_are_replaced_under_load_and_everything_is_sent_once(
    cast: Cast, site: Site, database_url: str, receiver: Receiver
) -> None:
    site.settings["FOREWARN_LEASE_SECONDS"] = "30"  # as it is by default: none ends meanwhile
    one, other = (replace(site, port=processes.free_port("127.0.0.1")) for _ in range(2))
    partners = Partners(lambda: site.url, cast.aurora)
    with ExitStack() as stack:
        api = stack.enter_context(site.serving("api"))
        old = stack.enter_context(one.serving("worker"))
        await asyncio.to_thread(cast.subscribe, receiver)
        async with partners.at_work():
            for place in (other, one, other):
                await partners.go_on(30)
                new = await asyncio.to_thread(stack.enter_context, place.serving("worker"))
                await partners.go_on(30)
                old.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(old.wait, 30) == 0
                old = new
            await partners.go_on(30)
        assert partners.refused == []
        await all_delivered(site)
        assert [_sends(process) for process in (api, old)] == [False, True]
    connection = await asyncpg.connect(database_url)
    transitions = await connection.fetchval("SELECT count(*) FROM transitions")
    await connection.close()
    assert len(receiver.ids()) == len(set(receiver.ids())) == transitions > 100


def _sends(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has loaded the client of webhooks."""
    return "aiohttp" in Path(f"/proc/{process.pid}/maps").read_text()
