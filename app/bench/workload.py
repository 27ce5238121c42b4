"""The load: up to 10,000 series that report once a minute, calm; and marks, which open alerts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from alerts.signals import Sample, SeriesId, SeriesKey
from app import documents, store
from app.database import Database
from app.store.series import RING_SAMPLES, SeriesState, packed

PROFILES = Path(__file__).parent / "profiles"
"""Two rules for each of the series: a threshold, and a change against the median."""

SECTOR = "medical_devices"
# The indicators that report; asked by no shipped rule, so that each signal is judged by the bench's two.
UNITS = {
    "supply_interruption": "days",
    "notified_body_capacity": "days",
    "delivery_delay": "days",
    "labour_report_count": "reports/month",
}
MOST_SERIES = 10_000

# Calm: no rule fires, and every judgement is made. No value is the one of the minute before.
LEVELS = (10.0, 10.5, 11.0, 10.25, 10.75)
MARK = 100.0
"""Far above the lower band of each rule."""


def instant(start: datetime, minute: int) -> datetime:
    """The instant of a minute of the history that begins at ``start``."""
    return start + timedelta(minutes=minute)


def series(count: int, exercise: str = "") -> list[SeriesKey]:
    """The keys of the first ``count`` series, the same in every process."""
    catalogue = documents.load_catalogue()
    goods = [good.code for good in catalogue.goods.values() if SECTOR in good.sectors]
    places = [*sorted(catalogue.countries), "EU"]
    every = (
        SeriesKey(SECTOR, indicator, good, place, exercise)
        for indicator in UNITS
        for good in goods
        for place in places
    )
    return [key for key, _ in zip(every, range(count), strict=False)]


def level(number: int, minute: int) -> float:
    """What a series reports in a minute."""
    return LEVELS[(number + minute) % len(LEVELS)]


class Bodies:
    """Makes request bodies by joining bytes: a load generator must not cost what it measures."""

    def __init__(self, keys: Sequence[SeriesKey], numbers: Sequence[int], start: datetime) -> None:
        self._numbers = numbers
        self._start = start
        self._heads = [_head(keys[number]) for number in numbers]
        self._tails = [f'","value":{value}}}'.encode() for value in LEVELS]

    def batches(self, size: int, first_minute: int) -> Iterator[bytes]:
        """Bodies without end: series after series, minute after minute. One signal is an object."""
        minute, place = first_minute, 0
        stamp = _text(instant(self._start, minute))
        while True:
            parts = []
            for _ in range(size):
                tail = self._tails[(self._numbers[place] + minute) % len(LEVELS)]
                parts.append(b"".join((self._heads[place], stamp, tail)))
                place += 1
                if place == len(self._heads):
                    minute, place = minute + 1, 0
                    stamp = _text(instant(self._start, minute))
            yield parts[0] if size == 1 else b"[" + b",".join(parts) + b"]"


def mark(key: SeriesKey, at: datetime) -> bytes:
    """A body of one signal that opens an alert."""
    return b"".join((_head(key), _text(at), f'","value":{MARK}}}'.encode()))


def _head(key: SeriesKey) -> bytes:
    said = "".join(f'"{name}":"{code}",' for name, code in key._asdict().items() if code)
    return f'{{{said}"unit":"{UNITS[key.indicator]}","observed_at":"'.encode()


def _text(at: datetime) -> bytes:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ").encode()


async def store_history(database_url: str, count: int, samples: int, start: datetime) -> None:
    """Puts ``samples`` minutes of ``count`` series into an empty database, as ingest would have."""
    now = datetime.now(UTC)
    database = Database(database_url)
    try:
        async with database.begin() as connection:
            found = await store.series.find_or_make(connection, series(count), now)
            ids = [found[key] for key in series(count)]
            await store.series.move(
                connection, [_state(n, i, samples, start) for n, i in enumerate(ids)], now
            )
    finally:
        await database.close()
    raw = await asyncpg.connect(database_url)
    try:
        await raw.execute(
            "INSERT INTO signals SELECT s.id, $3::timestamptz + m * interval '1 minute', 1, 1, "
            "($4::float8[])[((s.number - 1 + m) % $5)::int + 1], $6, NULL "
            "FROM generate_series(0, $2::int - 1) AS m, "
            "unnest($1::bigint[]) WITH ORDINALITY AS s (id, number) ORDER BY m, s.number",
            *(ids, samples, start, list(LEVELS), len(LEVELS), now),
        )
        await raw.execute("VACUUM ANALYZE")
        await raw.execute("CHECKPOINT")
    finally:
        await raw.close()


def _state(number: int, series_id: SeriesId, samples: int, start: datetime) -> SeriesState:
    newest = [
        Sample(instant(start, minute), level(number, minute))
        for minute in range(max(0, samples - RING_SAMPLES), samples)
    ]
    return SeriesState(series_id, 0, newest[-1].at, newest[-1].value, samples, packed(newest))
