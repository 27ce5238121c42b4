"""Connections of the driver's alone, for what is hot: SQLAlchemy's beginning and end cost as much as all that
a calm signal needs, or a claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from app.database.faults import (
    FAULTS,
    DatabaseAway,
    is_read_only,
    raise_as_ours,
    sentence,
)
from app.database.statements import Driver

_COMMIT_SECONDS = 15.0
_BEGIN = "BEGIN"
_BEGIN_UNFLUSHED = "BEGIN; SET LOCAL synchronous_commit TO off"


class Pool:
    """Keeps connections as many as were ever wanted at the same time, and ``most`` of them at most.

    ``cuts`` counts those that were lost and those that were made: after each, another PostgreSQL may answer
    than the one that did.
    """

    def __init__(self, connect: Callable[[], Awaitable[Driver]], most: int) -> None:
        self._connect = connect
        self._free: list[Driver] = []
        self._room = asyncio.Semaphore(most)
        self.cuts = 0

    @asynccontextmanager
    async def begin(self, first: str = "", *, flushed: bool = True) -> AsyncIterator[Driver]:
        """A transaction: commits when the block ends, rolls back when it raises.

        ``first`` is a statement without parameters that is sent together with the beginning; of what it
        gives nothing is wanted.

        Without ``flushed`` the commit does not wait for the disk, nor for a standby: for what may be lost
        with the machine as if it had not been.

        Raises:
            DatabaseAway: the database is unreachable, read-only, full or starting.
        """
        async with self._room:
            try:
                raw = self._take() or await self._make()
            except (OSError, *FAULTS) as error:
                raise DatabaseAway(sentence(error)) from error
            is_free, patience = False, None
            try:
                begin = _BEGIN if flushed else _BEGIN_UNFLUSHED
                try:
                    await raw.execute(f"{begin}; {first}" if first else begin)
                    yield raw
                except Exception:
                    await raw.execute("ROLLBACK")
                    is_free = True
                    raise
                patience = commit_in_time(raw)
                await raw.execute("COMMIT")
                is_free = True
            except (ConnectionError, *FAULTS) as error:
                if is_read_only(error):
                    is_free = False
                    self.drop()  # It was demoted: all connections to it are of no use any more.
                raise_as_ours(error)
            finally:
                if patience is not None:
                    patience.cancel()
                if is_free:
                    self._free.append(raw)
                else:
                    self.cuts += 1
                    raw.terminate()  # It may be in the middle of anything; PostgreSQL rolls back.

    async def _make(self) -> Driver:
        self.cuts += 1
        return await self._connect()

    def drop(self) -> None:
        """Closes every connection that is not in use."""
        self.cuts += 1
        while self._free:
            self._free.pop().terminate()

    def _take(self) -> Driver | None:
        """A connection that is free and open."""
        while self._free:
            raw = self._free.pop()
            if not raw.is_closed():
                return raw
            self.cuts += 1
        return None


def commit_in_time(raw: Driver) -> asyncio.TimerHandle:
    """Cuts the connection off when its commit takes too long; the caller cancels that.

    A commit may wait for a standby that is gone. Cut off, it stays unseen until that is back; cancelled, it
    would be seen, and sent, although a failover may still undo it.
    """
    return asyncio.get_running_loop().call_later(_COMMIT_SECONDS, raw.terminate)
