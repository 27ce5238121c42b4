"""What takes long to count: how old it may be, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from app.database import Connection, Database
from app.lately import COUNTED_EACH_TIME, FRESH_FOR, SHOWN_FOR, Lately

NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
SHORTLY = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted then."""

    at: datetime
    looked_at: int


@dataclass(slots=True)
class Ledger:
    """Has so many rows; counting them waits for ``open``, and raises what is in its way."""

    rows: int
    counted: list[datetime] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None

    def __post_init__(self) -> None:
        self.open.set()

    async def count(self, connection: Connection, now: datetime) -> Tally:
        self.counted.append(now)
        self.begun.set()
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return Tally(now, self.rows)


@pytest.fixture
async def nothing(postgres_url: str) -> AsyncIterator[Database]:
    """A database without tables: only transactions are begun in it."""
    database = Database(postgres_url)
    yield database
    await database.close()


async def _seen(lately: Lately[Tally], looks: Iterable[timedelta]) -> list[timedelta]:
    """How old what was shown is, by when somebody looked."""
    return [NOW + after - (await lately.look(NOW + after)).at for after in looks]


async def test_little_is_counted_for_everyone_who_looks(nothing: Database) -> None:
    ledger = Ledger(COUNTED_EACH_TIME)
    assert set(await _seen(Lately(nothing, ledger.count), [SHORTLY * n for n in range(4)])) == {
        timedelta(0)
    }
    assert len(ledger.counted) == 4


async def test_much_is_counted_once_in_a_while_and_nobody_waits_who_looks_often(
    nothing: Database,
) -> None:
    ledger = Ledger(COUNTED_EACH_TIME + 1)
    lately = Lately(nothing, ledger.count)
    await _seen(lately, [timedelta(0)])
    assert await _seen(lately, [FRESH_FOR, -FRESH_FOR]) == [FRESH_FOR, -FRESH_FOR]
    assert len(ledger.counted) == 1, "the clock may have been set back a little"
    ledger.open.clear()
    assert await _seen(lately, [FRESH_FOR + SHORTLY, SHOWN_FOR]) == [FRESH_FOR + SHORTLY, SHOWN_FOR]
    waiting = [asyncio.create_task(lately.look(NOW + SHOWN_FOR + SHORTLY)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    ledger.open.set()
    assert {found.at for found in await asyncio.gather(*waiting)} == {NOW + FRESH_FOR + SHORTLY}
    assert len(ledger.counted) == 2, "one count for all, begun by the first to whom it was old"


async def test_what_could_not_be_counted_beside_is_said_to_whoever_must_wait(
    nothing: Database,
) -> None:
    ledger = Ledger(COUNTED_EACH_TIME + 1)
    lately = Lately(nothing, ledger.count)
    await _seen(lately, [timedelta(0)])
    ledger.fault = LookupError("The shelf is empty.")
    assert await _seen(lately, [SHOWN_FOR]) == [SHOWN_FOR]
    with pytest.raises(LookupError):
        await lately.look(NOW + 2 * SHOWN_FOR)
    ledger.fault = None
    assert await _seen(lately, [3 * SHOWN_FOR]) == [timedelta(0)]


async def test_ten_who_look_first_wait_for_one_count_and_leave_connections_to_others(
    nothing: Database,
) -> None:
    ledger = Ledger(COUNTED_EACH_TIME + 1)
    lately = Lately(nothing, ledger.count)
    ledger.open.clear()
    looking = [asyncio.create_task(lately.look(NOW)) for _ in range(10)]
    await ledger.begun.wait()
    async with nothing.begin():
        ledger.open.set()
    await asyncio.gather(*looking)
    assert len(ledger.counted) == 1


async def test_a_count_of_a_later_time_is_not_shown(nothing: Database) -> None:
    """The clock was set back."""
    ledger = Ledger(COUNTED_EACH_TIME + 1)
    lately = Lately(nothing, ledger.count)
    ages = await _seen(lately, [timedelta(0), -FRESH_FOR - SHORTLY])
    assert ages == [timedelta(0)] * 2
