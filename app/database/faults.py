"""What PostgreSQL and the driver say when something fails, as callers know it."""

from __future__ import annotations

from typing import NoReturn

import asyncpg
from sqlalchemy import exc

from app.settings import Unusable

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
FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class DatabaseAway(Unusable):
    """The database cannot be reached or cannot work now. Nothing was committed unless it died while
    committing; every write of ours may be sent again.
    """


class DatabaseBusy(DatabaseAway):
    """All connections to the database are in use, and none became free in time; nothing was begun."""


class ValueRefused(Exception):
    """PostgreSQL cannot hold a value that came from outside: a text with U+0000, a number too large."""


def raise_as_ours(error: BaseException) -> NoReturn:
    """Raises what the database said as callers know it, or as it is."""
    if _passes(error):
        raise DatabaseAway(sentence(error)) from error
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


def is_read_only(error: BaseException) -> bool:
    """Whether the host accepts no writes any more."""
    return _sqlstate(_cause(error)) == _READ_ONLY


def is_late(error: BaseException) -> bool:
    """Whether a lock was not available in time."""
    return _sqlstate(_cause(error)) == _NOT_IN_TIME


def _cause(error: BaseException) -> BaseException:
    """What the driver said, without what SQLAlchemy wrapped around it."""
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _sqlstate(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def sentence(error: BaseException) -> str:
    cause = _cause(error)
    words = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    return f"The database is away: {words}"
