"""Keeps the record in order: a partition for each month, and nothing kept longer than the policy says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import perf_counter

from alerts.retention import LABELS, Retention
from app import store, telemetry
from app.database import Connection, Database, DatabaseAway
from app.store.partitions import MOST_PARTITIONS, WORTH_A_PARTITION, Partition
from app.store.retirement import Kind, Note

_AHEAD = 2
_PAGES_AT_ONCE = 64
# What was accepted a moment before its month went may be committed a moment after.
_GRACE = timedelta(hours=1)
# What was held back is looked for again so often.
_HELD_FOR = timedelta(days=1)
# A month that was looked through is not again until it was written to, by PostgreSQL's count; which a crash
# sets to 0, and which counts nothing where tables are spread over machines. So not for longer than this.
_DONE_FOR = timedelta(days=30)


@dataclass(slots=True)
class Months:
    """Months that got a partition, and how many signals moved there; what stood in the way, if anything."""

    opened: list[str] = field(default_factory=list)
    moved: int = 0
    waiting: str = ""


async def open_months(database: Database, now: datetime, *, look_through: bool = True) -> Months:
    """Makes the partitions of this month and the next two, and of past months that are worth one.

    Each in its own transaction. Where somebody reads for long (a dump, an export), nothing is made
    now and the next call tries again.

    Args:
        database: whose months.
        now: in which month we are.
        look_through: look into the default for what belongs elsewhere, too.
    """
    found = Months()
    try:
        async with database.begin() as connection:
            wanted = await store.partitions.missing_months(connection, now, ahead=_AHEAD)
            if look_through:
                wanted = sorted({*wanted, *await _worth_one(connection)})
        for month in wanted:
            async with database.begin() as connection:
                moved = await store.partitions.open_month(connection, month)
            if moved is not None:
                found.opened.append(f"{month:%Y-%m}")
                found.moved += moved
    except DatabaseAway as error:
        found.waiting = str(error)
    return found


async def _worth_one(connection: Connection) -> list[datetime]:
    room = MOST_PARTITIONS - len(await store.partitions.partitions(connection))
    heaps = await store.partitions.heaps(connection)
    return [h.month for h in heaps if h.signals >= WORTH_A_PARTITION][: max(room, 0)]


@dataclass(slots=True)
class Retired:
    """What has gone: signals, and months that went as a whole; what stood in the way, if anything."""

    signals: int = 0
    months: list[str] = field(default_factory=list)
    thinned: list[str] = field(default_factory=list)
    waiting: str = ""


async def retire(database: Database, retention: Retention, now: datetime) -> Retired:
    """Takes away what the policy keeps no longer.

    A month of which nothing stays goes as a whole; others are thinned a few pages a transaction, with
    a pause as long as the transaction took. What feeds an open alert, or a finding that is not calm,
    is held until that is over.
    """
    found = Retired()
    retirement = _Retirement(database, retention, now, found)
    try:
        await retirement.run()
    except DatabaseAway as error:
        found.waiting = str(error)
    return found


@dataclass(slots=True)
class _Retirement:
    database: Database
    retention: Retention
    now: datetime
    found: Retired
    sectors: Sequence[str] = ()

    async def run(self) -> None:
        async with self.database.begin() as connection:
            unfinished = await store.partitions.detached(connection)
            if not (unfinished or self.retention.lines):
                return
            self.sectors = await store.retirement.sectors(connection)
            notes = await store.retirement.notes(connection)
            partitions = await store.partitions.partitions(connection)
            heaps = await store.partitions.heaps(connection)
        for partition in unfinished:
            await self._finish(partition)
        for partition in partitions:
            if partition.month is None:
                for heap in heaps:
                    if kinds := self._expired(heap.month):
                        await self._thin_default(partition, heap.month, kinds)
                continue
            kinds = self._expired(partition.month)
            known = [notes.get((partition.month, kind)) for kind in kinds]
            if await self._is_done(partition, known):
                continue
            if not await self._goes_whole(partition, kinds):
                await self._thin(partition, partition.month, kinds)
            elif await self._take_out(partition):
                await self._finish(partition)

    def _expired(self, month: datetime) -> list[Kind]:
        return self.retention.expired(month, self.sectors, self.now - _GRACE)

    async def _is_done(self, partition: Partition, known: Sequence[Note | None]) -> bool:
        """Whether all that goes had gone when it was last looked for, and nothing has come since."""
        if not known:
            return True
        async with self.database.begin() as connection:
            written = await store.partitions.insertions(connection, partition.name)
        return all(
            note is not None
            and (note.insertions == written or not note.is_whole)
            and note.retired_at > self.now - (_DONE_FOR if note.is_whole else _HELD_FOR)
            for note in known
        )

    # What is held is asked for in each transaction that takes something away: a run may last an hour,
    # and what a warning rests on that is given meanwhile must not go.

    async def _goes_whole(self, partition: Partition, kinds: Sequence[Kind]) -> bool:
        async with self.database.begin() as connection:
            held = await store.retirement.held(connection)
            if await store.retirement.holds(connection, partition, held):
                return False
            if len(kinds) == len(self.sectors) * len(LABELS):
                return True
            return not await store.retirement.stays(connection, partition, kinds, held)

    async def _take_out(self, partition: Partition) -> bool:
        """False when something in it is held by now, or another process is at it."""
        async with self.database.begin() as connection:
            held = await store.retirement.held(connection)
            if await store.retirement.holds(connection, partition, held):
                return False
            return await store.partitions.detach(connection, partition)

    async def _finish(self, partition: Partition) -> None:
        """Drops a month that was taken out, but for what came in at the last moment and stays."""
        assert partition.month is not None
        kinds = self._expired(partition.month)
        async with self.database.begin() as connection:
            held = await store.retirement.held(connection)
            gone = await store.retirement.count(connection, partition, kinds, held)
            is_whole = not await store.retirement.holds(connection, partition, held)
            await store.retirement.put_back(connection, partition, kinds, held)
            await store.partitions.drop(connection, partition)
            await store.retirement.note(
                connection, partition.month, _of(kinds, gone), self.now, is_whole=is_whole
            )
            total = sum(gone.values())
            await self._record(connection, partition.month, total, is_dropped=True)
        self._tell(partition.month, total, is_dropped=True)

    async def _thin(self, partition: Partition, month: datetime, kinds: Sequence[Kind]) -> None:
        async with self.database.begin() as connection:
            pages = await store.retirement.pages(connection, partition)
            written = await store.partitions.insertions(connection, partition.name)
        gone: dict[Kind, int] = {}
        ever_held: set[int] = set()
        for first in range(0, pages, _PAGES_AT_ONCE):
            begun = perf_counter()
            async with self.database.begin() as connection:
                held = await store.retirement.held(connection)
                ever_held.update(held)
                here = await store.retirement.thin(
                    connection, partition, month, kinds, held,
                    first_page=first, last_page=first + _PAGES_AT_ONCE,
                )  # fmt: skip
                if here and not any(gone.values()):
                    await self._record(connection, month, None, is_dropped=False)
            for kind, count in here.items():
                gone[kind] = gone.get(kind, 0) + count
            await asyncio.sleep(perf_counter() - begun)
        async with self.database.begin() as connection:
            is_whole = not await store.retirement.holds(connection, partition, ever_held)
            await store.retirement.note(
                connection, month, _of(kinds, gone), self.now, is_whole=is_whole, insertions=written
            )
        self._tell(month, sum(gone.values()), is_dropped=False)

    async def _thin_default(
        self, default: Partition, month: datetime, kinds: Sequence[Kind]
    ) -> None:
        async with self.database.begin() as connection:
            held = await store.retirement.held(connection)
            gone = await store.retirement.thin(connection, default, month, kinds, held)
            if not gone:
                return
            await self._record(connection, month, sum(gone.values()), is_dropped=False)
            noted = _of(kinds, gone)
            await store.retirement.note(connection, month, noted, self.now, is_whole=not held)
        self._tell(month, sum(gone.values()), is_dropped=False)

    async def _record(
        self, connection: Connection, month: datetime, count: int | None, *, is_dropped: bool
    ) -> None:
        """Says in the audit, in the transaction that does it, that signals of a month go."""
        after: dict[str, object] = {"month": f"{month:%Y-%m}", "dropped": is_dropped}
        if count is not None:
            after["signals"] = count
        await store.audit.record(
            connection,
            store.audit.Entry(
                at=self.now,
                actor=store.audit.SERVICE,
                action="signals.retired",
                subject=f"signals/{month:%Y-%m}",
                before=None,
                after=after,
                reason=f"The retention policy: {str(self.retention) or 'none any more'}.",
            ),
        )

    def _tell(self, month: datetime, count: int, *, is_dropped: bool) -> None:
        if not (count or is_dropped):
            return
        self.found.signals += count
        (self.found.months if is_dropped else self.found.thinned).append(f"{month:%Y-%m}")
        telemetry.signals_retired.inc(count)
        telemetry.line("signals.retired", month=f"{month:%Y-%m}", signals=count, dropped=is_dropped)


def _of(kinds: Sequence[Kind], gone: Mapping[Kind, int]) -> dict[Kind, int]:
    """How many have gone of each kind that goes; what else went along with it is not noted."""
    return {kind: gone.get(kind, 0) for kind in kinds}
