"""Series, their narrow state row, and the lanes that order all writing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import NamedTuple

from sqlalchemy import text

from alerts.mechanisms import Dimension, Scope
from alerts.signals import Sample, SeriesId, SeriesKey
from app.database import Connection, Transaction, Write, driver, fetch, fetch_beside

SERIES_LANES = 64
RING_SAMPLES = 32

_SLOT = struct.Struct("<qd")
RING_BYTES = RING_SAMPLES * _SLOT.size
# Each batch makes tens of thousands: without a call in Python for each it takes a quarter of the time.
_sample = partial(tuple.__new__, Sample)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SeriesState(NamedTuple):
    """Where a series stands: its newest sample and, packed, the last 32 of them.

    ``has_findings`` says whether anything is remembered of it, as of when it was read.
    """

    series: SeriesId
    version: int = 0
    last_observed_at: datetime | None = None
    last_value: float | None = None
    observations: int = 0
    ring: bytes = b""
    has_findings: bool = True

    def samples(self) -> list[Sample]:
        """The newest samples, at most 32, oldest first."""
        return samples_of(*self.slots())

    def slots(self) -> tuple[Sequence[int], Sequence[float]]:
        """The same: their instants, in microseconds after 1970, and their values."""
        slots = struct.unpack(f"<{'qd' * (len(self.ring) // _SLOT.size)}", self.ring)
        return slots[::2], slots[1::2]

    @property
    def last_valued_at(self) -> datetime | None:
        """The instant of the newest sample that stands: a later one may have been taken back."""
        return None if self.last_valued is None else instant(self.last_valued)

    @property
    def last_valued(self) -> int | None:
        """The same, in microseconds after 1970."""
        return _SLOT.unpack_from(self.ring, -_SLOT.size)[0] if self.ring else None

    @property
    def is_whole(self) -> bool:
        """Whether the ring holds every sample the series has."""
        return self.observations <= RING_SAMPLES


@lru_cache(maxsize=100_000)
def instant(number: int) -> datetime:
    """The instant so many microseconds after 1970; series report at the same few instants."""
    return _EPOCH + timedelta(microseconds=number)


def microseconds(at: datetime) -> int:
    """The instant as microseconds after 1970."""
    return (at - _EPOCH) // _MICROSECOND


def as_instant(number: str) -> str:
    """SQL: the instant so many microseconds after 1970; exact for 285 years before and after."""
    return f"timestamptz 'epoch' + {number} * interval '1 microsecond'"


def samples_of(instants: Iterable[int], values: Iterable[float]) -> list[Sample]:
    """Samples from their instants, in microseconds after 1970, and their values."""
    return list(map(_sample, zip(map(instant, instants), values, strict=True)))


def packed(samples: Iterable[Sample], ring: bytes = b"") -> bytes:
    """The ring after more samples, oldest first: 16 bytes each, the newest 32 kept."""
    slots = [_SLOT.pack(microseconds(s.at), s.value) for s in samples]
    return (ring + b"".join(slots[-RING_SAMPLES:]))[-RING_BYTES:]


def slots(instants: Iterable[int], values: Iterable[float]) -> list[bytes]:
    """What the rings of as many series gain by one sample each."""
    return list(map(_SLOT.pack, instants, values))


def slots_of(instants: Sequence[int], values: Sequence[float]) -> bytes:
    """What one ring gains by these samples, oldest first: no more than it holds."""
    return b"".join(slots(instants[-RING_SAMPLES:], values[-RING_SAMPLES:]))


async def find_or_make(
    connection: Connection, keys: Collection[SeriesKey], now: datetime
) -> dict[SeriesKey, SeriesId]:
    """The ids of the series with these keys; those not seen before are made.

    In key order, so that two callers making the same series do not deadlock.
    """
    columns = [list(column) for column in zip(*sorted(keys), strict=True)]
    names = dict(zip(SeriesKey._fields, columns, strict=True))
    wanted = (
        "unnest(CAST(:sector AS text[]), CAST(:indicator AS text[]), CAST(:good AS text[]), "
        "CAST(:place AS text[]), CAST(:exercise AS text[])) "
        "AS wanted (sector, indicator, good, place, exercise)"
    )
    await connection.execute(
        text(
            "INSERT INTO series (sector, indicator, good, place, exercise, created_at) "
            f"SELECT wanted.*, CAST(:now AS timestamptz) FROM {wanted} ON CONFLICT DO NOTHING"
        ),
        {**names, "now": now},
    )
    rows = await connection.execute(
        text(
            "SELECT series_id, sector, indicator, good, place, exercise FROM series "
            f"JOIN {wanted} USING (sector, indicator, good, place, exercise)"
        ),
        names,
    )
    found = {SeriesKey(*row[1:]): SeriesId(row[0]) for row in rows}
    await connection.execute(
        text(
            "INSERT INTO series_state (series_id) SELECT unnest(CAST(:ids AS bigint[])) "
            "ON CONFLICT DO NOTHING"
        ),
        {"ids": sorted(found.values())},
    )
    return found


async def ids_of(connection: Transaction, keys: Collection[SeriesKey]) -> dict[SeriesKey, SeriesId]:
    """The ids of the series with these keys, as far as they exist."""
    columns = [list(column) for column in zip(*sorted(keys), strict=True)]
    rows = await fetch(
        connection,
        "SELECT series_id, sector, indicator, good, place, exercise FROM series "
        "JOIN unnest(CAST(:sector AS text[]), CAST(:indicator AS text[]), "
        "CAST(:good AS text[]), CAST(:place AS text[]), CAST(:exercise AS text[])) "
        "AS wanted (sector, indicator, good, place, exercise) "
        "USING (sector, indicator, good, place, exercise)",
        dict(zip(SeriesKey._fields, columns, strict=True)),
    )
    return {SeriesKey(*row[1:]): SeriesId(row[0]) for row in rows}


async def keys_of(connection: Transaction, ids: Collection[SeriesId]) -> dict[SeriesId, SeriesKey]:
    """The natural keys of series."""
    rows = await fetch(
        connection,
        "SELECT series_id, sector, indicator, good, place, exercise FROM series "
        "WHERE series_id = ANY(CAST(:ids AS bigint[]))",
        {"ids": list(ids)},
    )
    return {SeriesId(row[0]): SeriesKey(*row[1:]) for row in rows}


class Member(NamedTuple):
    """A series of a scope, with the newest instant of which it has anything."""

    series: SeriesId
    key: SeriesKey
    last_observed_at: datetime | None


async def of_scopes(
    connection: Transaction, scopes: Collection[Scope], alert_per: Collection[Dimension]
) -> list[Member]:
    """All series about these scopes of one mechanism, whose alerts are told apart by ``alert_per``."""
    # No OR that says what does not matter: the index would not be used.
    same = [
        "sector",
        "exercise",
        *(d.value for d in (Dimension.good, Dimension.place) if d in alert_per),
    ]
    columns = [
        list(c)
        for c in zip(*((s.sector, s.good, s.place, s.exercise) for s in scopes), strict=True)
    ]
    rows = await fetch(
        connection,
        "SELECT series_id, s.sector, indicator, s.good, s.place, s.exercise, last_observed_at "
        "FROM unnest(CAST(:sector AS text[]), CAST(:good AS text[]), CAST(:place AS text[]), "
        "CAST(:exercise AS text[])) AS wanted (sector, good, place, exercise) "
        f"JOIN series AS s ON {' AND '.join(f's.{name} = wanted.{name}' for name in same)} "
        "JOIN series_state USING (series_id) ORDER BY series_id",
        dict(zip(("sector", "good", "place", "exercise"), columns, strict=True)),
    )
    return [Member(SeriesId(r[0]), SeriesKey(*r[1:6]), r[6]) for r in rows]


def lane_of_series(series: SeriesId) -> int:
    """The lane whose lock orders all writing of a series."""
    return series % SERIES_LANES


def place_of_scope(scope: Scope) -> int:
    """Where the version of a scope's lane is among ``SCOPE_VERSIONS``."""
    name = "|".join((scope.mechanism, scope.sector, scope.good, scope.place, scope.exercise))
    return zlib.crc32(name.encode()) % SERIES_LANES


def lane_of_scope(scope: Scope) -> int:
    """The lane whose lock orders all writing of a scope's alert; above every series' lane."""
    return SERIES_LANES + place_of_scope(scope)


def locking(lanes: Iterable[int]) -> str:
    """The statement that takes lanes until the transaction ends, in sorted order: no two callers deadlock.

    A transaction takes its series' lanes first and its scopes' lanes after, once each.
    """
    return (
        "SELECT count(*) FROM (SELECT FROM lanes "
        f"WHERE lane IN ({', '.join(map(str, sorted(set(lanes))))}) "
        "ORDER BY lane FOR NO KEY UPDATE) AS held"
    )


HELD = (
    "SELECT lane, version FROM lanes WHERE lane = ANY(CAST(:lanes AS integer[])) "
    "ORDER BY lane FOR NO KEY UPDATE"
)
"""SQL that takes ``:lanes`` as ``locking`` does, and gives their versions as they are then: by the snapshot
of the statement they may be older.
"""


async def lock(connection: Transaction, lanes: Iterable[int]) -> None:
    """Takes lanes as ``locking`` says, in a transaction that has begun otherwise."""
    await fetch(connection, HELD, {"lanes": sorted(set(lanes))})


async def lock_scopes(connection: Transaction, scopes: Iterable[Scope]) -> None:
    """Takes the lanes of scopes, as ``lock`` does."""
    await lock(connection, map(lane_of_scope, scopes))


SCOPE_VERSIONS = f"ARRAY(SELECT version FROM lanes WHERE lane >= {SERIES_LANES} ORDER BY lane)"
"""The versions of the scopes' lanes as one SQL value, in order."""


def mark(scopes: Collection[Scope]) -> Write:
    """What tells every process that alerts of these scopes opened or ended; their lanes must be locked."""
    lanes = sorted({lane_of_scope(scope) for scope in scopes})
    return Write(
        "UPDATE lanes SET version = version + 1 WHERE lane = ANY(CAST(:lanes AS integer[]))",
        {"lanes": lanes},
    )


async def states(connection: Transaction, ids: Sequence[SeriesId]) -> dict[SeriesId, SeriesState]:
    """The states of series, by the primary key. Call with their lanes locked to change them."""
    rows = await driver(connection).fetch(
        f"SELECT {STATE} FROM series_state AS s WHERE series_id = ANY($1::bigint[])", ids
    )
    return {row[0]: SeriesState(*row) for row in rows}


STATE = (
    "series_id, version, last_observed_at, last_value, observations, ring, "
    "EXISTS (SELECT 1 FROM findings AS f WHERE f.series_id = s.series_id)"
)
"""SQL: the columns of a ``SeriesState``, of ``series_state AS s``."""


async def move(
    connection: Transaction,
    moved: Sequence[SeriesState],
    received_at: datetime,
    beside: Sequence[Write] = (),
) -> None:
    """Writes states back, and others beside them; each carries the version it was read with.

    Raises:
        RuntimeError: another writer changed one although its lane was locked.
    """
    given: dict[str, object] = {
        name: [getattr(state, name) for state in moved]
        for name in ("series", "version", "last_value", "observations", "ring")
    }
    given["last_observed_at"] = [
        None if (at := state.last_observed_at) is None else microseconds(at) for state in moved
    ]
    given["valued_at"] = [state.last_valued for state in moved]
    given["received_at"] = received_at
    done = await fetch_beside(connection, beside, _MOVE, given)
    if len(done) != len(moved):
        raise RuntimeError(
            f"A series' state changed under its lock: {len(done)} of {len(moved)} were moved."
        )


_MOVE = f"""
    UPDATE series_state AS s SET version = s.version + 1, last_observed_at = {as_instant("m.at")},
        last_value = m.value, observations = m.observations, ring = m.ring,
        last_received_at = :received_at, last_valued_at = {as_instant("m.valued_at")}
    FROM unnest(CAST(:series AS bigint[]), CAST(:version AS bigint[]),
        CAST(:last_observed_at AS bigint[]), CAST(:last_value AS float8[]),
        CAST(:observations AS bigint[]), CAST(:ring AS bytea[]), CAST(:valued_at AS bigint[]))
        AS m (series_id, version, at, value, observations, ring, valued_at)
    WHERE s.series_id = m.series_id AND s.version = m.version RETURNING 1
"""


async def silent_since(
    connection: Connection, before: datetime
) -> list[tuple[SeriesId, SeriesKey, Sample]]:
    """Series whose newest sample that stands is older than an instant, with that sample."""
    rows = await connection.execute(
        text(
            "SELECT series_id, sector, indicator, good, place, exercise, last_valued_at, "
            "last_value FROM series_state JOIN series USING (series_id) "
            "WHERE last_valued_at < :before AND last_value IS NOT NULL ORDER BY series_id"
        ),
        {"before": before},
    )
    return [(SeriesId(r[0]), SeriesKey(*r[1:6]), Sample(r[6], r[7])) for r in rows]
