"""Statements: how hot SQL runs, on SQLAlchemy's connection or on the driver alone."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import asyncpg
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

Connection = AsyncConnection
Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Transaction: TypeAlias = "AsyncConnection | asyncpg.Connection[asyncpg.Record]"
"""A transaction under way, begun by SQLAlchemy or on the driver alone; hot statements run in either."""


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


class Write(NamedTuple):
    """A statement that writes and of which no rows are wanted, with its parameters as for ``fetch``."""

    sql: str
    parameters: Mapping[str, Any]


async def write(connection: Transaction, writes: Sequence[Write]) -> None:
    """Writes these in one round trip, in no order."""
    if writes:
        *others, (sql, parameters) = writes
        await fetch_beside(connection, others, sql, parameters)


async def fetch_beside(
    connection: Transaction, writes: Sequence[Write], sql: str, parameters: Mapping[str, Any]
) -> Sequence[Any]:
    """The rows of a hot statement, and in the same round trip writes that it does not read, nor any of them
    what another writes: which of them comes first is not said.
    """
    given = dict(parameters)
    for number, write in enumerate(writes):
        given.update({f"{name}_{number}": value for name, value in write.parameters.items()})
    if writes:
        sql = _together(tuple(write.sql for write in writes), sql)
    return await fetch(connection, sql, given)


@functools.lru_cache(maxsize=1_024)
def _together(writes: tuple[str, ...], sql: str) -> str:
    named = [_NAMED.sub(rf":\1_{number}", write) for number, write in enumerate(writes)]
    return f"WITH {', '.join(f'w{n} AS ({write})' for n, write in enumerate(named))} {sql}"


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
