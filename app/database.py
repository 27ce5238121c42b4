"""The database: connections, transactions, and migrations; no SQL of the domain."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import asyncpg
from sqlalchemy import TextClause, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.hosts import CONNECT_SECONDS, SILENCE_SECONDS, Hosts, NoHost
from app.settings import Unusable

if TYPE_CHECKING:
    from alembic.config import Config

Connection = AsyncConnection
Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Transaction: TypeAlias = "AsyncConnection | asyncpg.Connection[asyncpg.Record]"
"""A transaction under way, begun by SQLAlchemy or on the driver alone; hot statements run in either."""

_MIGRATION_LOCK = 4_706_301_218_001
# Whoever reads a table makes a change of it wait, and all who come later wait behind the change. So it gives
# up soon, before PostgreSQL looks for deadlocks (1 s) and might refuse a request instead, and tries again.
_MIGRATION_LOCK_TIMEOUT = "500ms"
_MIGRATION_TRIES = 60
_MIGRATION_REST_SECONDS = 1.0

_READY_SECONDS = 2.0

_BRIEF_CONNECTIONS = 2
_QUEUE_CONNECTIONS = 4  # one claims or records; leases are renewed and claims given back beside it
_PLANNED_ONCE = {
    "plan_cache_mode": "force_generic_plan",
    # A plan made while a table was all but empty reads it from end to end for as long as nobody analyses
    # it: with 4,000 owed to 50 endpoints a claim took a second.
    "enable_seqscan": "off",
}

# A worker that is stopped in a transaction holds its endpoints' locks, and nothing is sent to them meanwhile.
_NEVER_IDLE = {"idle_in_transaction_session_timeout": "10s"}

_ALWAYS = {
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "15s",  # What waits behind a commit that waits for a lost standby is told so.
    "jit": "off",  # Compiling takes longer than any statement of ours runs.
}

_COMMIT_SECONDS = 15.0

_READ_ONLY = "25006"
_NOT_IN_TIME = "55P03"

# By SQLSTATE class or code: these pass, and the same request may then succeed.
_PASSING = (
    "08",  # connection exceptions
    "40",  # serialization failures, deadlocks
    "53",  # insufficient resources: disk full, out of memory, too many connections
    "57P",  # shut down by an operator, crashed, not accepting connections yet
    "58030",  # input or output error
    _READ_ONLY,  # this host is no longer the one that accepts writes
    _NOT_IN_TIME,  # a lock was not available in time
    "25P03",  # this process was stopped in a transaction for so long that it was ended
)


_UNHOLDABLE = frozenset(
    {
        "22003",  # a number out of range
        "22008",  # an instant out of range
        "22021",  # a text with U+0000
        "22P05",  # the same inside JSON
    }
)


# The last is what the driver says when it is asked before it has read that it was cut off.
_FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class DatabaseAway(Unusable):
    """The database cannot be reached or cannot work now. Nothing was committed unless it died while
    committing; every write of ours may be sent again.
    """


class DatabaseBusy(DatabaseAway):
    """All connections to the database are in use, and none became free in time; nothing was begun."""


class ValueRefused(Exception):
    """PostgreSQL cannot hold a value that came from outside: a text with U+0000, a number too large."""


class SchemaBehind(Unusable):
    """The schema of the database is older than this version needs."""


class SchemaAhead(Unusable):
    """The schema of the database is newer than this version can work on."""


class Database:
    """Pools of connections to one PostgreSQL. Nothing is opened before the first use.

    ``url`` is as libpq writes it, with several hosts or a socket folder if need be. Ingest and
    sending have pools of their own, whose plans are made once.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._hosts = Hosts(url, silence_seconds=silence_seconds, record_class=Row)
        self._ready: asyncio.Task[bool] | None = None
        self._engine = self._make_engine(pool_size, {})
        self._brief_engine = self._make_engine(_BRIEF_CONNECTIONS, {})
        self._health_engine = self._make_engine(1, {})
        self._queue_engine = self._make_engine(_QUEUE_CONNECTIONS, _PLANNED_ONCE | _NEVER_IDLE)
        self._ingest: list[Driver] = []
        self.ingest_cuts = 0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Connection]:
        """A transaction: commits when the block ends, rolls back when it raises.

        Raises:
            DatabaseAway: the database is unreachable, read-only, full or starting.
        """
        async with _transaction(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def brief(self) -> AsyncIterator[Connection]:
        """As ``begin``, for what is over in a moment and what signals need: keys, new series.

        Readers, who may take all the connections of ``begin``, keep none of these.
        """
        async with _transaction(self._brief_engine) as connection:
            yield connection

    @asynccontextmanager
    async def ingest(self) -> AsyncIterator[Driver]:
        """As ``begin``, on connections of the driver's that are kept for ingest, as many as were ever wanted
        at the same time: SQLAlchemy's beginning and end cost as much as all that a calm signal needs.
        Every one of them that is lost is counted in ``ingest_cuts``.
        """
        try:
            raw = self._idle_ingest() or await self._connect(_PLANNED_ONCE, _speak_json)
        except (OSError, *_FAULTS) as error:
            raise DatabaseAway(_sentence(error)) from error
        is_idle, patience = False, None
        try:
            await raw.execute("BEGIN")
            try:
                yield raw
            except Exception:
                await raw.execute("ROLLBACK")
                is_idle = True
                raise
            patience = _commit_in_time(raw)
            await raw.execute("COMMIT")
            is_idle = True
        except (ConnectionError, *_FAULTS) as error:
            if _sqlstate(error) == _READ_ONLY:
                is_idle = False
                self._drop_ingest()  # It was demoted: all connections to it are of no use any more.
            _raise_as_ours(error)
        finally:
            if patience is not None:
                patience.cancel()
            if is_idle:
                self._ingest.append(raw)
            else:
                self.ingest_cuts += 1
                raw.terminate()  # It may be in the middle of anything; PostgreSQL rolls back.

    def _idle_ingest(self) -> Driver | None:
        """A connection that is free and open."""
        while self._ingest:
            raw = self._ingest.pop()
            if not raw.is_closed():
                return raw
            self.ingest_cuts += 1
        return None

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[Connection]:
        """As ``begin``, on the connections that are kept for what is owed: claims and records."""
        async with _transaction(self._queue_engine) as connection:
            yield connection

    @asynccontextmanager
    async def listening(
        self, channel: str, heard: Callable[[str], None]
    ) -> AsyncIterator[asyncio.Event]:
        """Calls ``heard`` with the payload of each ``NOTIFY`` on ``channel`` while the block runs.

        Yields an event that is set when the connection is lost: leave the block then, and enter
        it anew. Notifications sent meanwhile are lost, so poll as well.
        """
        async with self._own_connection() as (connection, lost):
            await connection.add_listener(channel, lambda *said: heard(str(said[-1])))
            yield lost

    @asynccontextmanager
    async def holding(self, lock: int) -> AsyncIterator[asyncio.Event | None]:
        """Tries to hold an advisory lock while the block runs; None when another process holds it.

        Yields an event that is set when the connection, and with it the lock, is lost.
        """
        async with self._own_connection() as (connection, lost):
            held = await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock)
            yield lost if held else None

    async def watch(self) -> None:
        """Leaves a host that has fallen silent or become a standby, until cancelled; see ``app.hosts``."""
        await self._hosts.watch(self.close)

    async def check_sessions(self) -> None:
        """Makes sure that nobody hands our sessions to others between transactions.

        Raises:
            Pooled: a pooler does.
            DatabaseAway: nobody can be asked.
        """
        try:
            await self._hosts.check_sessions()
        except NoHost as error:
            raise DatabaseAway(_sentence(error)) from error

    async def is_ready(self) -> bool:
        """Whether the database answers a query within two seconds.

        By a connection that is kept for this: the load of other callers is nothing that this would say.
        """
        if self._ready is None or self._ready.done():
            self._ready = asyncio.create_task(self._ask())
        # Not cancelled when it is late: the driver would wait for a silent host to hear of that.
        await asyncio.wait({self._ready}, timeout=_READY_SECONDS)
        return self._ready.done() and not self._ready.cancelled() and self._ready.result()

    async def _ask(self) -> bool:
        try:
            async with _transaction(self._health_engine) as connection:
                await connection.execute(text("SELECT 1"))
        except DatabaseAway:
            return False
        return True

    async def close(self) -> None:
        """Closes every connection that is not in use."""
        for engine in (self._engine, self._brief_engine, self._health_engine, self._queue_engine):
            await engine.dispose()
        self._drop_ingest()

    def _drop_ingest(self) -> None:
        self.ingest_cuts += 1
        while self._ingest:
            self._ingest.pop().terminate()

    async def migrate(self, revision: str = "head") -> None:
        """Brings the schema up to ``revision``; two at once wait for each other.

        Each step in a transaction of its own: what a step locks is locked while it runs, and not while a
        later one builds an index. Leaves a later schema as it is, if this version works on it.

        Raises:
            SchemaAhead: it does not.
        """
        found, head = await self.revision(), head_revision()
        if found is not None and found > head:
            await self.check_revision()
            return
        if (revision, found) == ("head", head):
            return  # As at nearly every start, which would be half a second longer by Alembic's import.
        from alembic import command  # noqa: PLC0415 - slow, and only needed here

        wanted = head if revision == "head" else revision
        for step in _revisions():
            if (found or "") < step <= wanted:
                await self._run_migrations(command.upgrade, step)

    async def migrate_down(self, revision: str) -> None:
        """Takes the schema back to ``revision``, or to nothing with ``base``. Data is lost."""
        from alembic import command  # noqa: PLC0415 - slow, and only needed here

        await self._run_migrations(command.downgrade, revision)

    async def revision(self) -> str | None:
        """The revision of the schema, None for an empty database."""
        return (await self._standing())[0]

    async def check_revision(self) -> None:
        """Makes sure that this version works on the schema: it has its revision, or a later one that says so.

        Raises:
            SchemaBehind: it is older; the message names the command to run.
            SchemaAhead: it is newer, and has lost what this version needs.
        """
        found, oldest = await self._standing()
        head = head_revision()
        if found is None or found < head:
            raise SchemaBehind(
                f"The schema of the database is at revision {found or 'none'}, and this version needs "
                f"{head}. Run `forewarn migrate` first."
            )
        if found > head and (oldest or found) > head:
            raise SchemaAhead(
                f"The schema of the database is at revision {found}, which works with versions from revision "
                f"{oldest or found} on, and this one is at {head}. Install the newer version."
            )

    async def _standing(self) -> tuple[str | None, str | None]:
        """The revision of the schema, and the oldest one whose code works on it, where that is known."""
        async with self.begin() as connection:
            found = await connection.execute(
                text("SELECT to_regclass('alembic_version') IS NOT NULL")
            )
            if not found.scalar_one():
                return None, None
            rows = await connection.execute(
                text(
                    "SELECT version_num, to_jsonb(alembic_version) ->> 'works_with' FROM alembic_version"
                )
            )
            row = rows.first()
            return (None, None) if row is None else (str(row[0]), row[1])

    async def _run_migrations(self, run: Callable[[Config, str], None], revision: str) -> None:
        def migrate(connection: Any) -> None:
            config = _alembic_config()
            config.attributes["connection"] = connection
            run(config, revision)

        for tries_left in reversed(range(_MIGRATION_TRIES)):
            try:
                async with self.begin() as connection:
                    await connection.execute(text("SET LOCAL lock_timeout = 0"))
                    await connection.execute(
                        text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                    )
                    await connection.execute(
                        text(f"SET LOCAL lock_timeout = '{_MIGRATION_LOCK_TIMEOUT}'")
                    )
                    await connection.run_sync(migrate)
            except DatabaseAway as error:
                if not tries_left or _sqlstate(_cause(error.__cause__ or error)) != _NOT_IN_TIME:
                    raise
                await asyncio.sleep(_MIGRATION_REST_SECONDS)
            else:
                return

    def _make_engine(self, size: int, server_settings: dict[str, str]) -> AsyncEngine:
        async def connect() -> Driver:
            return await self._connect(server_settings)

        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            pool_size=size,
            max_overflow=0,
            pool_timeout=CONNECT_SECONDS,
            hide_parameters=True,  # Errors go into logs, and secrets go into statements.
        )

    async def _connect(
        self,
        server_settings: dict[str, str],
        prepare: Callable[[Driver], Awaitable[None]] | None = None,
    ) -> Driver:
        connection = await self._hosts.connect(_ALWAYS | server_settings)
        try:
            if "plan_cache_mode" in server_settings:
                await _plan_as_citus_can(connection)
            if prepare is not None:
                await prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    @asynccontextmanager
    async def _own_connection(
        self,
    ) -> AsyncIterator[tuple[Driver, asyncio.Event]]:
        try:
            connection = await self._hosts.connect(_ALWAYS)
        except NoHost as error:
            raise DatabaseAway(_sentence(error)) from error
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            yield connection, lost
        except (ConnectionError, *_FAULTS) as error:
            raise DatabaseAway(_sentence(error)) from error
        finally:
            connection.terminate()


async def _speak_json(connection: Driver) -> None:
    """As SQLAlchemy's connections do: JSON comes parsed and goes as text."""
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind, schema="pg_catalog", encoder=str, decoder=json.loads, format="text"
        )


async def _plan_as_citus_can(connection: Driver) -> None:
    """Has plans made anew where tables are spread over machines: which of them to ask depends on the
    parameters, so Citus refuses a plan that is made without them.
    """
    if await connection.fetchval("SELECT true FROM pg_extension WHERE extname = 'citus'"):
        await connection.execute("SET plan_cache_mode = auto")


@functools.lru_cache(maxsize=1_024)
def statement(sql: str) -> TextClause:
    """A statement, read for its parameters once: that costs as much as to send it.

    For statements that are constants; the hot ones are.
    """
    return text(sql)


class Row(asyncpg.Record):
    """A row of the driver's whose columns are attributes too, as those of SQLAlchemy's rows are."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


async def fetch(
    connection: Transaction, sql: str, parameters: Mapping[str, Any] | None = None
) -> Sequence[Any]:
    """The rows of a hot statement, whose SQL and parameters are as for ``statement``.

    By the driver where the transaction has begun: the way through SQLAlchemy costs twice as much as
    all else that this process does for a small statement. Columns are attributes of a row on both ways.
    JSON comes parsed and goes as text.
    """
    raw = driver(connection)
    if isinstance(connection, AsyncConnection) and not raw.is_in_transaction():
        found = await connection.execute(statement(sql), parameters or {})
        return found.all() if found.returns_rows else ()
    numbered, names = _numbered(sql)
    return await raw.fetch(numbered, *(parameters[name] for name in names) if parameters else ())


async def fill(connection: Transaction, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Runs a statement once for each of these parameters, all in one round trip or two.

    The transaction must have begun.
    """
    numbered, names = _numbered(sql)
    raw = driver(connection)
    assert raw.is_in_transaction(), "It would commit by itself."
    await raw.executemany(numbered, [[row[name] for name in names] for row in rows])


@functools.lru_cache(maxsize=1_024)
def _numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """A statement with its parameters as the driver writes them, and their names in that order."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"${names.setdefault(found[1], len(names) + 1)}"

    return _NAMED.sub(number, sql), tuple(names)


_NAMED = re.compile(r"(?<![:\w]):(\w+)")


def driver(connection: Transaction) -> Driver:
    """The driver's connection inside the transaction of ``connection``, for the hot statements.

    SQLAlchemy begins its transaction with its first statement, so that one must have run.
    """
    if isinstance(connection, asyncpg.Connection):
        return connection
    # What `get_raw_connection` gives, which goes to fetch it in a greenlet.
    assert connection.sync_connection is not None, "The connection was not opened."
    raw = connection.sync_connection.connection.driver_connection
    return cast("Driver", raw)


def head_revision() -> str:
    """The revision that this version of the code needs: the highest number of a migration's file.

    Without Alembic, whose import takes as long as all else that a command does.
    """
    numbers = _revisions()
    if not numbers:
        raise SchemaBehind("The migrations are missing from this installation; install it again.")
    return numbers[-1]


def _revisions() -> list[str]:
    """All revisions, the oldest first: the numbers of the migrations' files."""
    files = [file.name for file in (resources.files("migrations") / "versions").iterdir()]
    return sorted(found[1] for name in files if (found := _MIGRATION.fullmatch(name)))


_MIGRATION = re.compile(r"(\d{4})_\w+\.py")


def _alembic_config() -> Config:
    from alembic.config import Config  # noqa: PLC0415 - slow, and only needed here

    config = Config()
    with resources.as_file(resources.files("migrations")) as folder:
        config.set_main_option("script_location", str(Path(folder)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@asynccontextmanager
async def _transaction(engine: AsyncEngine) -> AsyncIterator[Connection]:
    connection = engine.connect()
    try:
        await connection.start()
    except exc.TimeoutError as error:
        raise DatabaseBusy("All connections to the database are in use.") from error
    except (OSError, exc.SQLAlchemyError, *_FAULTS) as error:
        raise DatabaseAway(_sentence(error)) from error
    patience = None
    try:
        async with connection.begin():
            yield connection
            patience = _commit_in_time(driver(connection))
    except (exc.DBAPIError, ConnectionError, *_FAULTS) as error:
        if _sqlstate(_cause(error)) == _READ_ONLY:
            await connection.invalidate()
            await engine.dispose()  # It was demoted: all connections to it are of no use any more.
        _raise_as_ours(error)
    finally:
        if patience is not None:
            patience.cancel()
        await connection.close()


def _commit_in_time(raw: Driver) -> asyncio.TimerHandle:
    """Cuts the connection off when its commit takes too long; the caller cancels that.

    A commit may wait for a standby that is gone. Cut off, it stays unseen until that is back; cancelled, it
    would be seen, and sent, although a failover may still undo it.
    """
    return asyncio.get_running_loop().call_later(_COMMIT_SECONDS, raw.terminate)


def _raise_as_ours(error: BaseException) -> NoReturn:
    """Raises what the database said as callers know it, or as it is."""
    if _passes(error):
        raise DatabaseAway(_sentence(error)) from error
    if _is_unholdable(error):
        raise ValueRefused from error
    raise error


def _passes(error: BaseException) -> bool:
    """Whether the fault is the database's and passes, rather than ours."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    cause = _cause(error)
    if isinstance(cause, asyncpg.DataError):  # Its words hold the value, which may say anything.
        return False
    if isinstance(cause, asyncpg.InterfaceError):  # Misuse by us, or a connection that was cut.
        return "closed" in str(cause)
    cut_off = isinstance(cause, ConnectionError | asyncpg.InternalClientError)
    return cut_off or _sqlstate(cause).startswith(_PASSING)


def _is_unholdable(error: BaseException) -> bool:
    cause = _cause(error)
    unsendable = "value out of" in str(cause) or "surrogates not allowed" in str(cause)
    return _sqlstate(cause) in _UNHOLDABLE or (
        isinstance(cause, asyncpg.DataError) and unsendable  # The driver refuses to send it.
    )


def _cause(error: BaseException) -> BaseException:
    """What the driver said, without what SQLAlchemy wrapped around it."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _sqlstate(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _sentence(error: BaseException) -> str:
    cause = _cause(error)
    words = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    return f"The database is away: {words}"
