"""A real PostgreSQL for the tests: the embedded one, and a fresh migrated database for each test."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from app import scheduler, telemetry
from app.database import Database
from app.demo import validity
from app.embedded import Embedded
from app.settings import PREFIX, Settings

TEMPLATE = "forewarn_template"
SERVED = "forewarn_served"
"""Migrated, and with the months that a service makes in its first second."""

# Nothing in a test outlives the machine, so nothing waits for the disk; all else is as users have it.
_OPTIONS = {
    "fsync": "off",
    "shared_buffers": "128MB",
    "max_wal_size": "256MB",
    "max_connections": "300",
    "log_line_prefix": "%m [%p] %d %c %v ",  # As tests.app.wiretap reads it.
}

_numbers = itertools.count(1)

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 2 * 2**30


def _keep_files_in_memory() -> None:
    """Files of tests, and of processes they start, lie in memory where there is room for them.

    A database is 1,600 small files. To copy them for a test costs a disk's file system up to 0.4 s of
    work, and memory's 0.02 s.
    """
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK):
        return
    if shutil.disk_usage(_MEMORY).free >= _ENOUGH_BYTES:
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None  # It is asked for anew.


_keep_files_in_memory()

telemetry.configure("info", "json")

for _name in [name for name in os.environ if name.startswith(PREFIX)]:
    del os.environ[_name]


def _url_of(server_url: str, name: str) -> str:
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()


async def _on_server(server_url: str, statement: str) -> None:
    connection = await asyncpg.connect(_url_of(server_url, "postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _copy(server_url: str, name: str, template: str) -> None:
    statement = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
    await _on_server(server_url, statement)


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="fw-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(short_tmp: Path) -> Iterator[str]:
    """The URL of one server for the session (one per worker of xdist), with its templates."""
    server = Embedded(short_tmp / "server", options=_OPTIONS)
    url = server.start()

    async def make_templates() -> None:
        await _on_server(url, f"CREATE DATABASE {TEMPLATE}")
        database = Database(_url_of(url, TEMPLATE))
        await database.migrate()
        await database.close()
        await _copy(url, SERVED, TEMPLATE)
        database = Database(_url_of(url, SERVED))
        await scheduler.month_duty(database).do(datetime.now(UTC))
        await database.close()

    asyncio.run(make_templates())
    yield url
    server.stop()


@pytest.fixture
async def database_url(postgres_url: str, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The URL of a fresh, migrated, empty database, dropped after the test whoever is connected."""
    name = f"test_{next(_numbers)}"
    await _copy(postgres_url, name, SERVED if "service" in request.fixturenames else TEMPLATE)
    yield _url_of(postgres_url, name)
    await _on_server(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A fresh, migrated, empty database."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings on the fresh database; receivers on this machine may be plain http."""
    return Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        secret_key=SecretStr("a secret key for tests, long enough to be one"),
        webhook_allow=(ip_network("127.0.0.0/8"),),
        webhook_allow_http=True,
        dashboard_sign_in=True,
        profiles_dir=validity.prolong(tmp_path, datetime.now(UTC).date()),
    )
