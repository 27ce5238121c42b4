"""A release is rolled out under load: the schema first, then each process in turn; no request is refused.

Observable oracles: answers over HTTP, as clients got them through a proxy that follows ``/readyz``.
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
from tests.journeys.test_kills import Site
from tests.journeys.town import ROOT

NEXT = """
from alembic import op

revision, down_revision = "{revision}", "{before}"
{works_with}

def upgrade():
    for statement in "{sql}".split(";"):
        op.execute(statement)
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
        await until(lambda: len(self.ready) == len(self.sites))
        yield
        task.cancel()

    async def _look(self) -> None:
        async with httpx.AsyncClient(timeout=2) as http:
            while True:
                for site in self.sites:
                    try:
                        answered = (await http.get(f"{site.url}/readyz")).status_code
                    except httpx.TransportError:
                        answered = 0
                    (self.ready.add if answered == 200 else self.ready.discard)(site.url)
                await asyncio.sleep(0.1)


def _release(folder: Path, revision: str, before: str, sql: str, works_with: str = "") -> None:
    """A later release, as far as its schema goes."""
    if not folder.exists():
        shutil.copytree(ROOT / "migrations", folder / "migrations")
    said = f'works_with = "{works_with}"' if works_with else ""
    written = NEXT.format(revision=revision, before=before, works_with=said, sql=sql)
    (folder / "migrations" / "versions" / f"{revision}_next.py").write_text(written)


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
        {"FOREWARN_DRAIN_NOTICE_SECONDS": "1"},
    )
    sites = [one, replace(one, port=processes.free_port("127.0.0.1"))]
    proxy = Proxy(sites)
    partners = Partners(proxy.where, await key_of_aurora(database))
    later = tmp_path / "later"
    wider = "ALTER TABLE series_state ADD COLUMN mood text; CREATE TABLE moods (mood text)"
    _release(later, "9001", head, wider, works_with=head)
    with ExitStack() as stack:
        running = [stack.enter_context(site.serving("api")) for site in sites]
        async with proxy.looking(), partners.at_work():
            await partners.go_on(30)
            await _expand(partners, one, later, database_url)
            for site, process in zip(sites, running, strict=True):
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 30) == 0
                await asyncio.to_thread(stack.enter_context, site.serving("api"))
                await until(lambda: len(proxy.ready) == len(sites))
                await partners.go_on(30)
        assert partners.refused == []
    await database.check_revision()
    _release(later, "9002", "9001", "ALTER TABLE series_state DROP COLUMN mood")
    assert "9002" in await _done(_migrate(one, later))
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
