"""The database: connections, transactions, and migrations; no SQL of the domain."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.database.faults import (
    FAULTS,
    DatabaseAway,
    DatabaseBusy,
    ValueRefused,
    is_late,
    is_read_only,
    raise_as_ours,
    sentence,
)
from app.database.pool import Pool, commit_in_time
from app.database.statements import (
    Connection,
    Driver,
    Row,
    Transaction,
    Write,
    driver,
    fetch,
    fetch_beside,
    statement,
    write,
)
from app.hosts import CONNECT_SECONDS, SILENCE_SECONDS, Hosts, NoHost
from app.settings import Unusable

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "Connection",
    "Database",
    "DatabaseAway",
    "DatabaseBusy",
    "Driver",
    "Row",
    "SchemaAhead",
    "SchemaBehind",
    "Transaction",
    "ValueRefused",
    "Write",
    "driver",
    "fetch",
    "fetch_beside",
    "head_revision",
    "statement",
    "write",
]

_MIGRATION_LOCK = 4_706_301_218_001
# Whoever reads a table makes a change of it wait, and all who come later wait behind the change. So it gives
# up soon, before PostgreSQL looks for deadlocks (1 s) and might refuse a request instead, and tries again.
_MIGRATION_LOCK_TIMEOUT = "500ms"
_MIGRATION_TRIES = 60
_MIGRATION_REST_SECONDS = 1.0

_READY_SECONDS = 2.0

_BRIEF_CONNECTIONS = 2
_INGEST_CONNECTIONS = 64  # one a lane
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
        self._ingest = Pool(partial(self._connect, _PLANNED_ONCE, _speak_json), _INGEST_CONNECTIONS)
        claims = _PLANNED_ONCE | _NEVER_IDLE
        self._queue = Pool(partial(self._connect, claims, _speak_json), _QUEUE_CONNECTIONS)

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

    def ingest(self, first: str = "") -> AbstractAsyncContextManager[Driver]:
        """As ``begin``, on connections of the driver's that are kept for signals.

        ``first`` is as for ``Pool.begin``.
        """
        return self._ingest.begin(first)

    @property
    def ingest_cuts(self) -> int:
        """How many connections for signals were lost or made: another database may answer after each."""
        return self._ingest.cuts

    def queue(self, *, flushed: bool = True) -> AbstractAsyncContextManager[Driver]:
        """As ``begin``, on connections of the driver's that are kept for what is owed: claims and records.

        ``flushed`` is as for ``Pool.begin``.
        """
        return self._queue.begin(flushed=flushed)

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
            raise DatabaseAway(sentence(error)) from error

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
        for engine in (self._engine, self._brief_engine, self._health_engine):
            await engine.dispose()
        for pool in (self._ingest, self._queue):
            pool.drop()

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
                if not tries_left or not is_late(error.__cause__ or error):
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
            raise DatabaseAway(sentence(error)) from error
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            yield connection, lost
        except (ConnectionError, *FAULTS) as error:
            raise DatabaseAway(sentence(error)) from error
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
    except (OSError, exc.SQLAlchemyError, *FAULTS) as error:
        raise DatabaseAway(sentence(error)) from error
    patience = None
    try:
        async with connection.begin():
            yield connection
            patience = commit_in_time(driver(connection))
    except (exc.DBAPIError, ConnectionError, *FAULTS) as error:
        if is_read_only(error):
            await connection.invalidate()
            await engine.dispose()  # It was demoted: all connections to it are of no use any more.
        raise_as_ours(error)
    finally:
        if patience is not None:
            patience.cancel()
        await connection.close()
