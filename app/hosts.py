"""Which of several hosts of PostgreSQL is used: the one that accepts writes, until it falls silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Set
from contextlib import suppress
from typing import TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakKeyDictionary

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from app.settings import Unusable

SILENCE_SECONDS = 10.0
CONNECT_SECONDS = 5.0
CONNECT_SECONDS_EACH = 2.0
"""To one of several hosts: one that is gone must not use up the time of the others."""

_PULSE_SECONDS = 1.0

# A machine that vanishes does not say so. PostgreSQL asks after its clients, so that what one held, such as
# the lock of the one runner, is free within half a minute.
_ASKED_AFTER = {
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

_TRIES = 5
_POOLED = (
    "FOREWARN_DATABASE_URL leads to a pooler that hands sessions round between transactions, as PgBouncer "
    "does with pool_mode = transaction. Forewarn listens, holds a lock and keeps prepared statements in its "
    "sessions: connect it to PostgreSQL itself, or set pool_mode = session for it."
)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class NoHost(ConnectionError):
    """No host can be used; the message says why of each."""


class Pooled(Unusable):
    """A pooler hands sessions round between transactions; the message says what to do."""


class Hosts:
    """Opens connections to the host that accepts writes, and remembers which that was.

    Args:
        url: as libpq writes it, with several hosts or a socket folder if need be.
        silence_seconds: how long a host may not answer before it is taken for gone.
        record_class: of the rows that connections give.
    """

    def __init__(
        self,
        url: str,
        *,
        silence_seconds: float,
        record_class: type[asyncpg.Record] = asyncpg.Record,
    ) -> None:
        self._urls = one_each(url)
        self._silence_seconds = silence_seconds
        self._record_class = record_class
        self._opened: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()

    async def connect(self, settings: Mapping[str, str] | None = None) -> Connection:
        """A connection with these settings of PostgreSQL; the host of the last one is asked first.

        Raises:
            NoHost: none of them can be reached, lets us in and accepts writes.
        """
        faults = []
        for url in tuple(self._urls):
            try:
                made = await self._connect(url, {**_ASKED_AFTER, **(settings or {})})
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                faults.append(self._fault(url, error))
            except asyncpg.InternalClientError as error:
                told = isinstance(error, asyncpg.TargetServerAttributeNotMatched)
                faults.append(f"{_place(url)} accepts no writes" if told else str(error))
            else:
                self._opened[made] = url
                self._urls.sort(key=lambda other: other != url)
                return made
        raise NoHost("; ".join(faults))

    async def check_sessions(self) -> None:
        """Makes sure that a connection is a session of its own, and not only while in a transaction.

        Raises:
            Pooled: somebody between us and PostgreSQL hands sessions round.
            NoHost: none can be used.
        """
        first, second = await self.connect(), None
        try:
            second = await self.connect()
            # Poolers make up the number by which a session is cancelled.
            if first.get_server_pid() == await _backend(first):
                return
            for _ in range(_TRIES):
                held = await _backend(first)
                if held == await _backend(second) or held != await _backend(first):
                    raise Pooled(_POOLED)
        except (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError):
            raise Pooled(_POOLED) from None  # They met in one session.
        finally:
            first.terminate()
            if second is not None:
                second.terminate()

    async def watch(self, left: Callable[[], Awaitable[None]]) -> None:
        """Asks the host every second whether it is there and accepts writes, until cancelled.

        When it does not answer for so long as a host may be silent, or has become a standby, every
        connection to it is cut off, whoever uses it, and ``left`` is called. Such a host says nothing
        to connections that wait for it, and TCP would let them wait for a quarter of an hour.
        """
        while True:
            with suppress(NoHost):
                connection = await self.connect()
                url = self._opened[connection]
                try:
                    if self._cut_off({other for other in self._urls if other != url}):
                        await left()  # Another host has taken over.
                    is_gone = await self._is_gone(connection)
                finally:
                    connection.terminate()
                if is_gone and self._cut_off({url}):
                    await left()
            await asyncio.sleep(_PULSE_SECONDS)

    async def _is_gone(self, connection: Connection) -> bool:
        """Asks until there is no good answer; False when the connection broke, as the others then do."""
        try:
            while True:
                asked = asyncio.ensure_future(connection.fetchval("SELECT pg_is_in_recovery()"))
                asked.add_done_callback(lambda done: done.cancelled() or done.exception())
                # In two halves: after a stop of this process the first ends before the answer is looked for.
                for _ in range(2):
                    await asyncio.wait({asked}, timeout=self._silence_seconds / 2)
                if not asked.done() or asked.result():
                    return True
                await asyncio.sleep(_PULSE_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    async def _connect(self, url: str, settings: Mapping[str, str]) -> Connection:
        several = len(self._urls) > 1
        seconds = CONNECT_SECONDS_EACH if several else CONNECT_SECONDS
        made = await asyncpg.connect(
            url,
            timeout=seconds,
            target_session_attrs=(
                SessionAttribute.read_write
                if several and "target_session_attrs" not in url
                else None
            ),
            record_class=self._record_class,
            max_cached_statement_lifetime=0,  # A plan is made once, and kept as long as the connection.
            server_settings={"application_name": "forewarn", "timezone": "UTC"},
        )
        try:
            # Not as parameters of the connection: a pooler refuses those that it does not know.
            await made.execute(_set(settings), timeout=seconds)
        except BaseException:
            made.terminate()
            raise
        return made

    def _cut_off(self, urls: Set[str]) -> bool:
        """Ends every connection to these hosts, and asks them last from now on; whether there were any."""
        ended = [made for made, url in self._opened.items() if url in urls and not made.is_closed()]
        for connection in ended:
            connection.terminate()
        self._urls.sort(key=urls.__contains__)
        return bool(ended)

    def _fault(self, url: str, error: BaseException) -> str:
        words = str(error).splitlines()[0] if str(error) else "no answer in time"
        return words if len(self._urls) == 1 else f"{_place(url)}: {words}"


async def _backend(connection: Connection) -> int:
    """The process that serves this connection now; in a transaction, where poolers leave it alone."""
    async with connection.transaction():
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


def one_each(url: str) -> list[str]:
    """The same URL for each of the hosts it lists, in their order.

    A port for all hosts, or one for each, may be given in the query, as libpq has it.

    Raises:
        Unusable: it is no such URL; the message holds nothing of it.
    """
    try:
        made = _one_each(url)
        for each in made:
            urlsplit(each).port  # noqa: B018 - raises where it is no number
    except ValueError:
        # Not told in its words, nor as its cause: they may hold a part of the password.
        raise Unusable(
            "FOREWARN_DATABASE_URL cannot be read. Write postgresql://user:password@host:port/database, "
            "with %23, %2F, %3F and %40 for #, /, ? and @ in a password, and a port for each host or for all."
        ) from None
    return made


def _one_each(url: str) -> list[str]:
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query))
    who, at, listed = parts.netloc.rpartition("@")
    places = (listed or asked.get("host", "")).split(",")
    ports = asked.get("port", "").split(",")
    if len(places) == 1:
        return [url]
    if len(ports) == 1:
        ports *= len(places)
    made = []
    for place, port in zip(places, ports, strict=True):
        here = asked | ({"port": port} if port else {}) | ({} if listed else {"host": place})
        netloc = f"{who}{at}{place if listed else ''}"
        made.append(parts._replace(netloc=netloc, query=urlencode(here)).geturl())
    return made


def _place(url: str) -> str:
    """A host as it is told to people: without user and password."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "")


def _set(settings: Mapping[str, str]) -> str:
    return "".join(f"SET {name} TO '{value}';" for name, value in settings.items())
