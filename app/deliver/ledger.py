"""Records attempts; those that end while a transaction commits are recorded by the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from alerts.endpoints import Patience
from app import store, telemetry
from app.database import Database, DatabaseAway
from app.store.records import Attempted, Recorded

AWAY_SECONDS = 1.0
RECORDED_TOGETHER = 256
GATHER_SECONDS = 0.02
GATHER_TURNS = 4
"""While many are under way a transaction waits up to so many times so long for others to end: most of what it
costs is the same for many as for one."""

MOST_UNRECORDED = 4_096
"""With so many attempts to be recorded nothing more is begun."""


class Ledger:
    """Writes attempts down in the background, in batches.

    While PostgreSQL is away it holds on to what it has and tries every second, as long as
    ``patience`` lasts (seconds, None for ever): an attempt that was made is worth remembering.

    Args:
        database: where they are recorded.
        endpoints: the numbers of the endpoints' machine.
        clock: tells the instant, aware.
        turn: held while a transaction of this worker goes on.
        more: whether other attempts are about to end.
        done: called with each batch once it is recorded, or given up.
    """

    def __init__(
        self,
        database: Database,
        endpoints: Patience,
        clock: Callable[[], datetime],
        turn: asyncio.Lock,
        more: Callable[[], bool],
        done: Callable[[list[Attempted], Recorded], None],
    ) -> None:
        self.patience: float | None = None
        self._database = database
        self._endpoints = endpoints
        self._clock = clock
        self._turn = turn
        self._more = more
        self._done = done
        self._waiting: list[Attempted] = []
        self._writer: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether so much waits that nothing more should be begun."""
        return len(self._waiting) >= MOST_UNRECORDED

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return self._writer is None or self._writer.done()

    def add(self, attempted: Attempted) -> None:
        """Records an attempt soon."""
        self._waiting.append(attempted)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())

    async def settle(self) -> None:
        """Waits until everything is recorded, or given up."""
        if self._writer is not None:
            await asyncio.wait({self._writer})

    async def _write_all(self) -> None:
        while self._waiting:
            for _ in range(GATHER_TURNS):
                if len(self._waiting) >= RECORDED_TOGETHER or not self._more():
                    break
                await asyncio.sleep(GATHER_SECONDS)
            batch = self._waiting[:RECORDED_TOGETHER]
            del self._waiting[: len(batch)]
            await self._write(batch)

    async def _write(self, batch: list[Attempted]) -> None:
        waited = 0.0
        while True:
            try:
                recorded = await self._write_once(batch)
            except DatabaseAway:
                if self.patience is not None and waited >= self.patience:
                    self._done(batch, Recorded())
                    return
                await asyncio.sleep(AWAY_SECONDS)
                waited += AWAY_SECONDS
            except Exception:  # noqa: BLE001 - what cannot be recorded stops only itself
                if len(batch) > 1:
                    for attempted in batch:
                        await self._write([attempted])
                    return
                telemetry.line(
                    "delivery.not_recorded",
                    level="error",
                    exc_info=True,
                    id=batch[0].claimed.webhook_id,
                )
                self._done(batch, Recorded())
                return
            else:
                self._done(batch, recorded)
                return

    async def _write_once(self, batch: list[Attempted]) -> Recorded:
        async with self._turn, self._database.queue() as connection:
            return await store.records.record(connection, batch, self._endpoints, self._clock())
