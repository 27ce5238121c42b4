"""The load: up to 10,000 series that report once a minute, calm; and marks, which open alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from alerts.retention import month_after, month_of
from alerts.signals import Sample, SeriesId, SeriesKey
from app import documents, store
from app.bench.forms import Form
from app.database import Database
from app.store.series import RING_SAMPLES, SeriesState, packed

PROFILES = Path(__file__).parent / "profiles"
"""Two rules for each of the series: a threshold, and a change against the median."""

# Asked by no shipped rule, so that each signal is judged by the bench's two.
INDICATOR = "delivery_delay"
SECTORS = (
    "batteries", "critical_minerals", "medical_devices", "pharmaceuticals", "semiconductors", "shipping",
)  # fmt: skip
MOST_SERIES = 10_000

# Calm: no rule fires, and every judgement is made. No value is the one of the minute before.
LEVELS = (10.0, 10.5, 11.0, 10.25, 10.75)
MARK = 100.0
"""Far above the lower band of each rule."""

SPAN = timedelta(days=36 * 365 / 12)
"""So long before its first minute the spread part of a history begins: 36 months."""

_ROWS_AT_ONCE = 300_000


def instant(start: datetime, minute: int) -> datetime:
    """The instant of a minute of the history that begins at ``start``."""
    return start + timedelta(minutes=minute)


def series(count: int, exercise: str = "") -> list[SeriesKey]:
    """The keys of the first ``count`` series, the same in every process; each is about another subject."""
    catalogue = documents.load_catalogue()
    places = [*sorted(catalogue.countries), "EU"]
    every = (
        SeriesKey(sector, INDICATOR, good.code, place, exercise)
        for sector in SECTORS
        for good in catalogue.goods.values()
        if sector in good.sectors
        for place in places
    )
    return [key for key, _ in zip(every, range(count), strict=False)]


def level(number: int, minute: int) -> float:
    """What a series reports in a minute."""
    return LEVELS[(number + minute) % len(LEVELS)]


class Bodies:
    """Makes request bodies by joining bytes: a load generator must not cost what it measures."""

    def __init__(
        self,
        keys: Sequence[SeriesKey],
        numbers: Sequence[int],
        start: datetime,
        form: Form,
        firing: int = 0,
    ) -> None:
        """``firing`` of all series, the first ones, report far too much each time."""
        self._numbers = numbers
        self._start = start
        self._form = form
        self._heads = [form.head(keys[number]) for number in numbers]
        calm, high = ([form.tail(value + more) for value in LEVELS] for more in (0, MARK))
        self._tails = [high if number < firing else calm for number in numbers]

    def batches(self, size: int, first_minute: int) -> Iterator[bytes]:
        """Bodies without end: series after series, minute after minute."""
        minute, place = first_minute, 0
        stamp = _text(instant(self._start, minute))
        while True:
            parts = []
            for _ in range(size):
                tail = self._tails[place][(self._numbers[place] + minute) % len(LEVELS)]
                parts.append(b"".join((self._heads[place], stamp, tail)))
                place += 1
                if place == len(self._heads):
                    minute, place = minute + 1, 0
                    stamp = _text(instant(self._start, minute))
            yield self._form.body(parts)


def marks(keys: Sequence[SeriesKey], at: datetime, form: Form, size: int) -> Iterator[bytes]:
    """Bodies of ``size`` signals, each of which opens an alert of its own."""
    stamp, tail = _text(at), form.tail(MARK)
    for first in range(0, len(keys), size):
        some = keys[first : first + size]
        yield form.body([b"".join((form.head(key), stamp, tail)) for key in some])


def _text(at: datetime) -> bytes:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ").encode()


@dataclass(slots=True)
class History:
    """What series reported before the bench begins: ``samples`` minutes from ``start`` on, and what was
    spread over the 36 months before. Written as ingest would have left it, signals in order of time.
    """

    count: int
    samples: int
    start: datetime
    spread: list[int] = field(default_factory=list)

    @property
    def stored(self) -> int:
        """How many signals that makes."""
        return self.count * (self.samples + sum(self.spread))

    async def begin(self, database_url: str) -> None:
        """Stores the minutes from ``start`` on, in an empty database."""
        await self._make_months(database_url, self.start)
        minutes = [instant(self.start, minute) for minute in range(self.samples)]
        await self._store(database_url, minutes)

    async def grow(self, database_url: str, stored: int) -> None:
        """Stores so much more, spread over 36 months, that it is ``stored``. No service may run."""
        more = (stored - self.stored) // self.count
        if more <= 0:
            return
        await self._make_months(database_url, self.start - SPAN)
        # Each time a second later than the time before: no two report the same instant.
        begin, gap = self.start - SPAN + timedelta(seconds=len(self.spread)), SPAN / (more + 1)
        self.spread.append(more)
        await self._store(database_url, [begin + gap * number for number in range(more)])

    async def _make_months(self, database_url: str, since: datetime) -> None:
        database, now, month = Database(database_url), datetime.now(UTC), month_of(since)
        try:
            while month < now + timedelta(days=31):
                async with database.begin() as connection:
                    await store.partitions.open_month(connection, month)
                month = month_after(month, 1)
        finally:
            await database.close()

    async def _store(self, database_url: str, instants: Sequence[datetime]) -> None:
        """Two connections store a half each; then tables and statistics are as after a quiet night."""
        ids = await self._keep_states(database_url, instants)
        half = len(instants) // 2
        await asyncio.gather(
            _insert(database_url, ids, instants, range(half)),
            _insert(database_url, ids, instants, range(half, len(instants))),
        )
        raw = await asyncpg.connect(database_url)
        try:
            await raw.execute("VACUUM ANALYZE")
            await raw.execute("CHECKPOINT")
        finally:
            await raw.close()

    async def _keep_states(self, database_url: str, instants: Sequence[datetime]) -> list[SeriesId]:
        """Has every series know of these samples too; the ids in the order of the series."""
        now, keys = datetime.now(UTC), series(self.count)
        # What a series reports depends on its number by this alone.
        newest = [
            [Sample(at, level(number, k)) for k, at in enumerate(instants)][-RING_SAMPLES:]
            for number in range(len(LEVELS))
        ]
        database = Database(database_url)
        try:
            async with database.begin() as connection:
                found = await store.series.find_or_make(connection, keys, now)
                ids = [found[key] for key in keys]
                before = await store.series.states(connection, ids)
                after = [
                    _with(before[i], newest[number % len(newest)], len(instants))
                    for number, i in enumerate(ids)
                ]
                await store.series.move(connection, after, now)
        finally:
            await database.close()
        return ids


def _with(state: SeriesState, newest: Sequence[Sample], count: int) -> SeriesState:
    """A state that knows of ``count`` samples more, of which these are the newest."""
    ring = sorted([*state.samples(), *newest])[-RING_SAMPLES:]
    return state._replace(
        last_observed_at=ring[-1].at,
        last_value=ring[-1].value,
        observations=state.observations + count,
        ring=packed(ring),
    )


async def _insert(
    database_url: str, ids: Sequence[SeriesId], instants: Sequence[datetime], which: range
) -> None:
    raw = await asyncpg.connect(database_url)
    now, some = datetime.now(UTC), max(1, _ROWS_AT_ONCE // len(ids))
    try:
        for first in range(which.start, which.stop, some):
            until = min(first + some, which.stop)
            await raw.execute(
                "INSERT INTO signals SELECT s.id, m.at, 1, 1, "
                "($3::float8[])[((s.number - 1 + $4 + m.number - 1) % $5)::int + 1], $6, NULL "
                "FROM unnest($2::timestamptz[]) WITH ORDINALITY AS m (at, number), "
                "unnest($1::bigint[]) WITH ORDINALITY AS s (id, number) ORDER BY m.at, s.number",
                *(ids, instants[first:until], list(LEVELS), first, len(LEVELS), now),
            )
    finally:
        await raw.close()
