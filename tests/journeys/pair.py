"""A primary and its standby, as users run them: one is promoted when the other is lost."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil

from app.embedded import DATABASE, SUPERUSER, Embedded

_OPTIONS = {"shared_buffers": "64MB", "max_wal_size": "256MB"}


@dataclass(slots=True)
class Host:
    """One of the two: a server in a folder of its own, which waits for the disk as users' do."""

    name: str
    folder: Path
    server: Embedded = field(init=False)
    processes: list[psutil.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = Embedded(self.folder, options={**_OPTIONS, "cluster_name": self.name})

    @property
    def cluster(self) -> Path:
        """The folder of its files."""
        return self.folder / "postgres"

    @property
    def socket(self) -> str:
        """The folder of its socket, which is its host name."""
        return parse_qs(urlsplit(self.server.url).query)["host"][0]

    def run(self, program: str, *words: str) -> str:
        """Runs one of PostgreSQL's programs, as the user that the server runs as."""
        done = self.server._programs.run(program, *words)
        assert done.returncode == 0, done.stdout
        return str(done.stdout)

    def promote(self) -> None:
        """Makes the standby the primary, as docs/postgresql.md has it."""
        self.run("pg_ctl", "promote", "-D", str(self.cluster), "-w", "-t", "30")

    def signal(self, number: signal.Signals) -> None:
        """Sends every process of the server a signal; what is stopped cannot say good-bye."""
        pid = self.server.postmaster()
        if pid is not None:
            postmaster = psutil.Process(pid)
            self.processes = [postmaster, *postmaster.children(recursive=True)]
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def kill(self) -> None:
        """Ends it as a loss of power does."""
        self.signal(signal.SIGKILL)
        psutil.wait_procs(self.processes, timeout=10)

    async def execute(self, *statements: str) -> None:
        """Runs statements as the superuser."""
        connection = await asyncpg.connect(self.server.url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()


@dataclass(slots=True)
class Pair:
    """Two hosts; which of them is the primary changes."""

    primary: Host
    standby: Host

    @property
    def url(self) -> str:
        """Both hosts, the first one first whatever it is by now."""
        names = sorted([self.primary, self.standby], key=lambda host: host.name)
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={','.join(h.socket for h in names)}"

    def follow(self) -> None:
        """Starts the standby anew on what the primary has."""
        source = f"host={self.primary.socket} user={SUPERUSER} dbname=postgres"
        target = str(self.standby.cluster)
        shutil.rmtree(target, ignore_errors=True)
        self.primary.run("pg_basebackup", "-D", target, "-d", source, "-R", "-c", "fast")
        self.standby.server.start()

    async def wait_for_each_other(self, within_seconds: float = 30) -> None:
        """Commits wait for the standby from now on."""
        await self.primary.execute(
            f"ALTER SYSTEM SET synchronous_standby_names = '{self.standby.name}'",
            "SELECT pg_reload_conf()",
        )
        connection = await asyncpg.connect(self.primary.server.url)
        until = time.monotonic() + within_seconds
        while not await connection.fetchval("SELECT sync_state = 'sync' FROM pg_stat_replication"):
            assert time.monotonic() < until, "the standby does not follow"
        await connection.close()

    def fail_over(self) -> None:
        """Promotes the standby; the primary is lost."""
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary


@contextmanager
def pair() -> Iterator[Pair]:
    """A pair with an empty database; in folders whose paths are short enough for sockets."""
    folders = [Path(tempfile.mkdtemp(prefix=f"fw-{name}-")) for name in "ab"]
    made = Pair(*(Host(name, folder) for name, folder in zip("ab", folders, strict=True)))
    try:
        made.primary.server.start()
        made.follow()
        yield made
    finally:
        for host in (made.primary, made.standby):
            host.kill()
            host.server.stop()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
