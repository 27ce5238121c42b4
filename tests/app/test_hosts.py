"""Which of several hosts is used, and what is left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from sqlalchemy import text

from app.database import Database, DatabaseAway
from app.hosts import Hosts, NoHost, Pooled, one_each
from app.settings import Unusable
from tests.app.pooler import pooler


@pytest.mark.parametrize(
    ("url", "each"),
    [
        ("postgresql://u:p@a/db", ["postgresql://u:p@a/db"]),
        ("postgresql:///db?host=/run/a", ["postgresql:///db?host=/run/a"]),
        (
            "postgresql://u:p%40@a,b:5433/db?sslmode=require",
            [
                "postgresql://u:p%40@a/db?sslmode=require",
                "postgresql://u:p%40@b:5433/db?sslmode=require",
            ],
        ),
        (
            "postgresql://u@[::1]:1,[::2]/db",
            ["postgresql://u@[::1]:1/db", "postgresql://u@[::2]/db"],
        ),
        (
            "postgresql://a,b/db?port=1,2",
            ["postgresql://a/db?port=1", "postgresql://b/db?port=2"],
        ),
        (
            "postgresql://u@/db?host=/run/a,/run/b&port=5433",
            [
                "postgresql://u@/db?host=%2Frun%2Fa&port=5433",
                "postgresql://u@/db?host=%2Frun%2Fb&port=5433",
            ],
        ),
    ],
)
def test_a_url_of_several_hosts_is_one_for_each(url: str, each: list[str]) -> None:
    assert one_each(url) == each


def _socket(url: str) -> str:
    return parse_qs(urlsplit(url).query)["host"][0]


@dataclass(slots=True)
class _Silent:
    """A host that takes connections and says nothing, as one does that is stopped."""

    asked: int = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        await reader.read()
        await _closed(writer)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_host_that_says_nothing_does_not_use_up_the_time_of_the_others(
    database_url: str,
) -> None:
    silent = _Silent()
    server = await asyncio.start_server(silent.take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = urlsplit(database_url)
    hosts = Hosts(
        f"postgresql://forewarn@{url.path}?host=127.0.0.1,{_socket(database_url)}&port={port},5432",
        silence_seconds=10,
    )
    connection = await hosts.connect()
    assert await connection.fetchval("SELECT 1") == 1
    (await hosts.connect()).terminate()
    assert silent.asked == 1, "the one that answered is asked first from then on"
    connection.terminate()
    server.close()


async def test_every_host_is_told_with_what_is_wrong_with_it() -> None:
    hosts = Hosts("postgresql://who:secret@127.0.0.1:1,127.0.0.1:2/db", silence_seconds=10)
    with pytest.raises(NoHost, match=r"127.0.0.1:1: .*; 127.0.0.1:2: ") as caught:
        await hosts.connect()
    assert "secret" not in str(caught.value)


async def test_a_host_that_accepts_no_writes_is_away(database_url: str) -> None:
    socket = _socket(database_url)
    admin = await asyncpg.connect(database_url)
    name = urlsplit(database_url).path.strip("/")
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    both = f"postgresql://forewarn@/{name}?host={socket},{socket}"
    database = Database(both)
    with pytest.raises(DatabaseAway, match="accepts no writes"):
        async with database.begin():
            pass
    await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert await database.is_ready()
    await admin.close()
    await database.close()


class _Wire:
    """A way to a server that may fall silent: what is sent then goes nowhere, and nobody is told."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self.carries = asyncio.Event()
        self.carries.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await asyncio.open_unix_connection(self._socket)
        await asyncio.gather(self._pass(reader, far[1]), self._pass(far[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while said := await reader.read(65_536):
                if self.carries.is_set():
                    writer.write(said)
        await _closed(writer)


async def test_a_host_that_falls_silent_is_left_by_all_who_wait_for_it(database_url: str) -> None:
    wire = _Wire(f"{_socket(database_url)}/.s.PGSQL.5432")
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    name = urlsplit(database_url).path
    database = Database(f"postgresql://forewarn@127.0.0.1:{port}{name}", silence_seconds=0.4)
    watching = asyncio.create_task(database.watch())
    async with database.listening("news", lambda _: None) as lost:
        assert await database.is_ready()
        wire.carries.clear()
        with pytest.raises(DatabaseAway):
            async with database.begin() as connection:
                await connection.execute(text("SELECT 1"))
        await asyncio.wait_for(lost.wait(), 10)
        wire.carries.set()
    while not await database.is_ready():
        pass
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await database.close()
    server.close()


async def test_a_pooler_that_hands_sessions_round_is_refused_in_a_sentence(
    database_url: str,
) -> None:
    name = urlsplit(database_url).path
    async with pooler(f"{_socket(database_url)}/.s.PGSQL.5432") as port:
        pooled = Database(f"postgresql://forewarn@127.0.0.1:{port}{name}")
        with pytest.raises(Pooled, match="pool_mode = session"):
            await pooled.check_sessions()
        await pooled.close()
    direct = Database(database_url)
    await direct.check_sessions()
    await direct.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://a:secret@h:many/d",
        "postgresql://a:secret@h1,h2/d?port=1,2,3",
        "postgresql://a:secret#2@h/d",
        "postgresql://a:secret@[::1/d",
    ],
    ids=["a port in words", "three ports for two hosts", "a # in the password", "half a bracket"],
)
def test_a_url_that_cannot_be_read_is_refused_in_a_sentence_without_its_password(url: str) -> None:
    with pytest.raises(Unusable) as refused:
        one_each(url)
    assert "FOREWARN_DATABASE_URL" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert refused.value.__suppress_context__
