"""What takes long to count: counted once for all who look, beside those who need not wait, and shown with
its age.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from app.database import Connection, Database

COUNTED_EACH_TIME = 5_000
"""Up to so many rows are counted for everyone who looks: it takes some milliseconds."""

FRESH_FOR = timedelta(seconds=5)
SHOWN_FOR = timedelta(seconds=15)


class Counted(Protocol):
    """Something that was counted ``at`` an instant, by looking at so many rows."""

    @property
    def at(self) -> datetime: ...

    @property
    def looked_at(self) -> int: ...


T = TypeVar("T", bound=Counted)


class Lately(Generic[T]):
    """Something this process counts for its pages. What says how old it is, is for the page to show.

    1. Little is counted anew for everyone who looks, one after the other.
    2. Of much, what was counted within ``FRESH_FOR`` is shown as it is.
    3. What is older is shown until ``SHOWN_FOR``, while it is counted anew beside: a page that is looked at
       every five seconds never waits.
    4. Older still, or of a later time than now, whoever looks waits for the count, which is one for all.

    Nothing is counted while nobody looks. Other processes count for themselves.
    """

    def __init__(
        self, database: Database, count: Callable[[Connection, datetime], Awaitable[T]]
    ) -> None:
        self._database = database
        self._count = count
        self._last: T | None = None
        self._counting: asyncio.Task[T] | None = None
        self._turn = asyncio.Lock()

    async def look(self, now: datetime) -> T:
        """The count that is to be shown now.

        Raises:
            DatabaseAway: it must be counted, and cannot be.
        """
        last = self._last
        if last is None or last.looked_at <= COUNTED_EACH_TIME:
            return await self._in_turn(now)
        if self._is_fresh(last, now):
            return last
        if self._counting is None:
            self._counting = asyncio.create_task(self._count_now(now))
            self._counting.add_done_callback(self._counted)
        if FRESH_FOR < now - last.at <= SHOWN_FOR:
            return last
        return await asyncio.shield(self._counting)

    async def _in_turn(self, now: datetime) -> T:
        """A count of one's own, unless it turns out to be much and was made while one waited."""
        async with self._turn:  # Ten at once would take all the connections that readers have.
            last = self._last
            if last and last.looked_at > COUNTED_EACH_TIME and self._is_fresh(last, now):
                return last
            return await self._count_now(now)

    def _is_fresh(self, last: T, now: datetime) -> bool:
        return abs(now - last.at) <= FRESH_FOR

    async def _count_now(self, now: datetime) -> T:
        async with self._database.begin() as connection:
            self._last = await self._count(connection, now)
        return self._last

    def _counted(self, task: asyncio.Task[T]) -> None:
        self._counting = None
        if not task.cancelled():
            task.exception()  # Whoever waited was told; if nobody did, whoever waits next will be.
