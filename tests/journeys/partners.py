"""Partners who report without a pause, and remember what was acknowledged and what was not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx

from app import access
from app.database import Database
from tests.journeys.relay import until
from tests.journeys.sites import LEAD_TIME

GOODS = ("mcu", "dram", "nand", "chips", "analog", "discretes")
LEVELS = (13.0, 14.5, 16.5, 21.0, 16.5, 15.0)


async def key_of_aurora(database: Database) -> str:
    """A partner's key."""
    async with database.begin() as connection:
        made = await access.issue_key(
            connection, name="aurora", role="partner", party="EU", now=datetime.now(UTC)
        )
    return made.token


@dataclass(slots=True)
class Partners:
    """Six that report day after day, each the next only when the one before is acknowledged.

    As real clients do, they send the same again after a 503, when it says so, or when no answer came.
    ``where`` is asked before each request.
    """

    where: Callable[[], str]
    key: str
    acknowledged: dict[tuple[str, datetime], float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """They report while the block runs."""
        self.tasks = [asyncio.create_task(self._report(good)) for good in GOODS]
        try:
            yield
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _report(self, good: str) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(headers=headers, timeout=30, verify=False) as http:
            day = 0
            while True:
                at = datetime(1950, 1, 1, tzinfo=UTC) + timedelta(days=day)
                value = LEVELS[day % len(LEVELS)]
                body = {**LEAD_TIME, "good": good, "observed_at": at.isoformat(), "value": value}
                try:
                    answer = await http.post(f"{self.where()}/v1/signals", json=body)
                except httpx.TransportError as error:
                    self.refused.append(repr(error))
                    await asyncio.sleep(0.2)
                    continue
                if answer.status_code == 503:
                    self.refused.append(answer.text)
                    await asyncio.sleep(min(0.5, float(answer.headers["retry-after"])))
                    continue
                assert answer.status_code == 200, answer.text
                self.acknowledged[good, at] = value
                day += 1
                await asyncio.sleep(0.05)  # They are not alone on this machine.

    async def go_on(self, many: int) -> None:
        """Waits until so many more are acknowledged."""
        before = len(self.acknowledged)

        def is_done() -> bool:
            for task in self.tasks:
                assert not task.done(), task.exception()
            return len(self.acknowledged) >= before + many

        await until(is_done)
