"""Accepts signals: keeps what is new, judges it and owes what follows, in one transaction.

Requests that arrive while a transaction is being committed gather and are committed together by
the next one, in a few lanes by series (group commit without a timer).
"""

from __future__ import annotations

import asyncio
import enum
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter

from alerts.mechanisms import Scope
from alerts.signals import PartnerId, Sample, SeriesId, SeriesKey
from alerts.tracks import Correction
from app import evaluate, store, telemetry
from app.database import Connection, Database, DatabaseAway
from app.evaluate import ScopesNeeded
from app.evaluate.loading import Movement
from app.policy import Policy
from app.recall import Recall
from app.store.series import RING_SAMPLES, SeriesState, packed
from app.store.signals import Row, Stored

SERIES_REMEMBERED = 1_000_000
"""So many ids are kept in memory; then they are forgotten and looked up again."""

_AFTER_ALL = datetime.max.replace(tzinfo=UTC)
"""After anything that is ever observed."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One checked signal of a request; a value of None takes the observation back.

    ``revision`` is given when the reporter numbers revisions itself. ``detail`` is JSON text of
    what else was said. An event's value is its severity.
    """

    partner: PartnerId
    key: SeriesKey
    observed_at: datetime
    value: float | None
    revision: int | None = None
    detail: str | None = None
    is_event: bool = False


class Status(enum.StrEnum):
    """What became of an item."""

    accepted = "accepted"
    duplicate = "duplicate"
    revised = "revised"
    late = "late"
    conflict = "conflict"
    unknown = "unknown"


@dataclass(slots=True)
class Receipt:
    """What became of each arrival of a request, in order, and the alerts that moved."""

    statuses: list[Status]
    refs: list[str] = field(default_factory=list)


class Behind(Exception):
    """So much is waiting to be stored that more is refused for now."""


@dataclass(slots=True)
class _Part:
    """The arrivals of one request that belong to one lane, and who waits for them.

    ``accepted`` is when they were accepted, by the monotonic clock.
    """

    received_at: datetime
    accepted: float
    series: list[SeriesId]
    arrivals: list[Arrival]
    done: asyncio.Future[tuple[list[Status], list[str]]]


@dataclass(slots=True)
class _Lane:
    waiting: list[_Part] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Intake:
    """Gathers arrivals into few transactions; one in flight a lane.

    Args:
        database: where they are kept.
        policy: what is asked of them.
        lanes: how many transactions may be in flight; a power of two, so that lanes never
            share a lock.
        most_signals: of one transaction; what waits longer goes into the next.
        most_waiting: beyond this many signals ``accept`` raises ``Behind``.
    """

    def __init__(
        self,
        database: Database,
        policy: Policy,
        *,
        lanes: int = 2,
        most_signals: int = 4_000,
        most_waiting: int = 50_000,
    ) -> None:
        self._database = database
        self._policy = policy
        self._lanes = [_Lane() for _ in range(lanes)]
        self._most_signals = most_signals
        self._most_waiting = most_waiting
        self._waiting = 0
        self._ids: dict[SeriesKey, SeriesId] = {}
        self._recall = Recall()

    async def accept(self, arrivals: Sequence[Arrival], now: datetime) -> Receipt:
        """Stores and judges the arrivals of one request; returns after the commit.

        Raises:
            Behind: too much is waiting; nothing of this request was stored.
            DatabaseAway: the database cannot be reached; nothing is known to be stored, and
                sending the same again is safe.
        """
        accepted = perf_counter()
        if self._waiting + len(arrivals) > self._most_waiting:
            raise Behind
        self._waiting += len(arrivals)
        try:
            keys = {a.key for a in arrivals}
            subjects = {subject for k in keys for _, _, subject in self._policy.brief(k).joint}
            await self._learn_series(keys | subjects, now)
            return await self._through_lanes(arrivals, now, accepted)
        finally:
            self._waiting -= len(arrivals)

    async def stop(self) -> None:
        """Waits until everything accepted so far is committed."""
        await asyncio.gather(*(lane.task for lane in self._lanes if lane.task is not None))

    async def _learn_series(self, keys: set[SeriesKey], now: datetime) -> None:
        """Makes series not seen before, in a short transaction of its own."""
        # Until none is missing: while this waits, another request may forget what this one knew.
        while new := {key for key in keys if key not in self._ids}:
            if len(self._ids) >= SERIES_REMEMBERED:
                self._ids.clear()
                new = keys
            async with self._database.begin() as connection:
                found = await store.series.find_or_make(connection, new, now)
            self._ids.update(found)

    async def _through_lanes(
        self, arrivals: Sequence[Arrival], now: datetime, accepted: float
    ) -> Receipt:
        loop = asyncio.get_running_loop()
        parts: dict[int, _Part] = {}
        places: dict[int, list[int]] = {}
        for place, arrival in enumerate(arrivals):
            series = self._ids[arrival.key]
            number = series % len(self._lanes)
            part = parts.get(number)
            if part is None:
                part = parts[number] = _Part(now, accepted, [], [], loop.create_future())
                places[number] = []
            part.series.append(series)
            part.arrivals.append(arrival)
            places[number].append(place)
        for number, part in parts.items():
            lane = self._lanes[number]
            lane.waiting.append(part)
            if lane.task is None or lane.task.done():
                lane.task = asyncio.create_task(self._run(lane))
        results = await asyncio.gather(*(p.done for p in parts.values()), return_exceptions=True)
        receipt = Receipt([Status.accepted] * len(arrivals))
        for number, result in zip(parts, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            statuses, refs = result
            for place, status in zip(places[number], statuses, strict=True):
                receipt.statuses[place] = status
            receipt.refs.extend(r for r in refs if r not in receipt.refs)
        return receipt

    async def _run(self, lane: _Lane) -> None:
        """Commits what waits, together, until nothing waits."""
        while lane.waiting:
            together = [lane.waiting.pop(0)]
            size = len(together[0].arrivals)
            while lane.waiting and size + len(lane.waiting[0].arrivals) <= self._most_signals:
                size += len(lane.waiting[0].arrivals)
                together.append(lane.waiting.pop(0))
            await self._commit(together)

    async def _commit(self, together: Sequence[_Part]) -> None:
        """Commits the parts together; when that fails, each alone, so that a bad one fails alone."""
        started = perf_counter()
        try:
            results = await self._transaction(together)
        except DatabaseAway as error:
            for part in together:
                _tell(part, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            if len(together) == 1:
                _tell(together[0], error)
                return
            for part in together:
                await self._commit([part])
            return
        ended = perf_counter()
        telemetry.ingest_seconds.observe(ended - started)
        telemetry.ingest_requests_per_transaction.observe(len(together))
        for part, result in zip(together, results, strict=True):
            telemetry.commit_seconds.observe(ended - part.accepted)
            if not part.done.done():
                part.done.set_result(result)

    async def _transaction(self, parts: Sequence[_Part]) -> list[tuple[list[Status], list[str]]]:
        now = max(p.received_at for p in parts)
        scopes: frozenset[Scope] = frozenset()
        touched = {s for p in parts for s in p.series}
        try:
            while True:
                try:
                    async with self._database.ingest() as connection:
                        results = await accept_signals(
                            connection,
                            self._policy,
                            [(p.series, p.arrivals) for p in parts],
                            now,
                            self._recall,
                            scopes,
                        )
                except ScopesNeeded as needed:
                    scopes = needed.scopes
                    self._recall.forgotten(touched)
                else:
                    self._recall.committed(touched)
                    return results
        finally:
            self._recall.forgotten(touched)


def _tell(part: _Part, error: Exception) -> None:
    if not part.done.done():
        part.done.set_exception(error)


async def accept_signals(
    connection: Connection,
    policy: Policy,
    requests: Sequence[tuple[Sequence[SeriesId], Sequence[Arrival]]],
    now: datetime,
    recall: Recall,
    scopes: frozenset[Scope] = frozenset(),
) -> list[tuple[list[Status], list[str]]]:
    """Stores and judges the arrivals of many requests at once; does not commit.

    Args:
        connection: inside a transaction.
        policy: what is asked of the signals.
        requests: for each, the series of its arrivals, and the arrivals.
        now: the instant of receipt.
        recall: what this process remembers of series; the caller says whether this committed.
        scopes: lock these scopes' lanes too, before judging.

    Returns:
        For each request the status of each arrival and the references of the alerts it moved.

    Raises:
        ScopesNeeded: roll back and call again with these scopes.
    """
    touched = sorted({s for series, _ in requests for s in series})
    await store.series.lock(connection, [store.series.lane_of_series(s) for s in touched])
    if scopes:
        await store.series.lock(connection, [store.series.lane_of_scope(s) for s in scopes])
    states = await store.series.states(connection, touched)
    ledger = await _open_ledger(connection, states, requests)
    statuses = [
        [ledger.enter(s, a, now) for s, a in zip(series, arrivals, strict=True)]
        for series, arrivals in requests
    ]
    if ledger.rows:
        await store.signals.keep(connection, ledger.rows)
    movements = await _movements(connection, policy, ledger, states)
    moved = [_moved(m, ledger) for m in movements]
    if moved:
        await store.series.move(connection, moved, now)
    found = await evaluate.evaluate_series(connection, policy, movements, now, recall, scopes)
    return [
        (told, _refs(series, found.refs))
        for told, (series, _) in zip(statuses, requests, strict=True)
    ]


def _refs(series: Iterable[SeriesId], refs: Mapping[SeriesId, list[str]]) -> list[str]:
    if not refs:
        return []
    return list(dict.fromkeys(ref for s in dict.fromkeys(series) for ref in refs.get(s, ())))


@dataclass(slots=True)
class _Ledger:
    """What is known of the observations in hand, and what is to be written about them.

    ``book`` holds, by series and instant, each partner's revisions; an instant newer than the
    series' last one cannot be stored yet, so it needs no look-up. ``was`` is the value an
    instant counted for before this transaction; ``said_again`` are the instants of which a
    partner said something else than before this transaction, ``new`` who says something of an
    instant for the first time.
    """

    states: Mapping[SeriesId, SeriesState]
    book: dict[tuple[SeriesId, datetime], dict[PartnerId, list[Stored]]]
    was: dict[tuple[SeriesId, datetime], float | None] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    keys: dict[SeriesId, SeriesKey] = field(default_factory=dict)
    events: set[SeriesId] = field(default_factory=set)
    said_again: set[tuple[SeriesId, datetime]] = field(default_factory=set)
    new: set[tuple[SeriesId, datetime, PartnerId]] = field(default_factory=set)

    def enter(self, series: SeriesId, arrival: Arrival, now: datetime) -> Status:
        """Decides what an arrival is; exactly one case applies.

        1. nothing is known of it and it takes something back: unknown
        2. nothing is known of it: accepted, or late when the series has gone on since
        3. it repeats what this partner said, or that very revision: duplicate
        4. it claims a revision number that said something else: conflict
        5. it says something else: revised
        """
        instant = (series, arrival.observed_at)
        by_partner = self.book.get(instant)
        if by_partner is None:
            by_partner = self.book[instant] = {}
        if instant not in self.was:
            self.was[instant] = counted(by_partner)
        said = by_partner.get(arrival.partner)
        if said is None:
            if arrival.value is None:
                return Status.unknown  # case 1
            self._write(series, arrival, arrival.revision or 1, now)
            last = self.states[series].last_observed_at
            is_late = last is not None and arrival.observed_at < last
            return Status.late if is_late else Status.accepted  # case 2
        if arrival.revision is None:
            newest = max(said)
            if _same(newest, arrival):
                return Status.duplicate  # case 3
            self._write(series, arrival, newest.revision + 1, now)
            return Status.revised  # case 5
        numbered = next((s for s in said if s.revision == arrival.revision), None)
        if numbered is not None:  # case 3 or 4
            return Status.duplicate if _same(numbered, arrival) else Status.conflict
        self._write(series, arrival, arrival.revision, now)
        return Status.revised  # case 5

    def _write(self, series: SeriesId, arrival: Arrival, revision: int, now: datetime) -> None:
        instant = (series, arrival.observed_at)
        said = self.book[instant].setdefault(arrival.partner, [])
        voice = (*instant, arrival.partner)
        if not said:
            self.new.add(voice)
        elif voice not in self.new:
            self.said_again.add(instant)
        said.append(Stored(revision, arrival.value, arrival.detail))
        self.keys[series] = arrival.key
        if arrival.is_event:
            self.events.add(series)
        self.rows.append(
            Row(
                series,
                arrival.observed_at,
                arrival.partner,
                revision,
                arrival.value,
                now,
                arrival.detail,
            )
        )


def _same(said: Stored, arrival: Arrival) -> bool:
    """Whether it says nothing new; of an event the particulars count too."""
    if said.value != arrival.value:
        return False
    return not arrival.is_event or said.detail == arrival.detail


def counted(by_partner: Mapping[PartnerId, Sequence[Stored]]) -> float | None:
    """The value an observation counts for: the median over partners of their newest revisions.

    The same in whatever order they arrived. None when nobody (any more) reports a value.
    """
    if not by_partner:
        return None
    values = [v for said in by_partner.values() if (v := _newest(said).value) is not None]
    if len(values) == 1:
        return values[0]
    if not values:
        return None
    low, high = statistics.median_low(values), statistics.median_high(values)
    return low + (high - low) * 0.5  # As percentile_cont has it, which reads the record.


def _newest(said: Sequence[Stored]) -> Stored:
    """The newest revision; nearly always there is one alone."""
    return said[0] if len(said) == 1 else max(said)


async def _open_ledger(
    connection: Connection,
    states: Mapping[SeriesId, SeriesState],
    requests: Sequence[tuple[Sequence[SeriesId], Sequence[Arrival]]],
) -> _Ledger:
    old = {
        (s, a.observed_at)
        for series, arrivals in requests
        for s, a in zip(series, arrivals, strict=True)
        if (last := states[s].last_observed_at) is not None and a.observed_at <= last
    }
    book = await store.signals.stored(connection, old) if old else {}
    return _Ledger(states, book)


async def _movements(
    connection: Connection,
    policy: Policy,
    ledger: _Ledger,
    states: Mapping[SeriesId, SeriesState],
) -> list[Movement]:
    """What changed on each series: new samples in order, or corrections with the newest samples."""
    movements: dict[SeriesId, Movement] = {}
    voices: dict[tuple[SeriesId, datetime], set[PartnerId]] = {}
    for row in ledger.rows:
        voices.setdefault((row.series, row.observed_at), set()).add(row.partner)
    for series, at in sorted(voices):
        movement = movements.get(series)
        if movement is None:
            movement = Movement(series, ledger.keys[series], states[series])
            movements[series] = movement
        movement.written_until = at
        was, now_is = ledger.was[series, at], counted(ledger.book[series, at])
        last = states[series].last_observed_at
        if series in ledger.events:
            if now_is is not None:
                movement.fresh.append(Sample(at, now_is))
            if (series, at) in ledger.said_again:
                movement.corrections.append(Correction(at, was, now_is))
            movement.said.update(
                (at, partner)
                for partner in voices[series, at]
                if (series, at, partner) in ledger.new
            )
        elif last is None or at > last:
            if now_is is not None:
                movement.fresh.append(Sample(at, now_is))
        elif was != now_is or policy.brief(movement.key).trusts:  # Who says it may be what matters.
            movement.corrections.append(Correction(at, was, now_is))
    corrected = [m for m in movements.values() if m.corrections and m.series not in ledger.events]
    if corrected:
        # What the state keeps of it: the history itself is read where it is judged again.
        newest = [(m.series, _AFTER_ALL, RING_SAMPLES) for m in corrected]
        since = await store.signals.instants_back(connection, newest)
        rings = await store.signals.windows(
            connection, [(m.series, at) for m, at in zip(corrected, since, strict=True)]
        )
        for movement in corrected:
            movement.gained = len(movement.fresh) + sum(
                (c.now is not None) - (c.was is not None) for c in movement.corrections
            )
            movement.newer, movement.fresh = movement.fresh, rings[movement.series]
    return list(movements.values())


def _moved(movement: Movement, ledger: _Ledger) -> SeriesState:
    """The series' state after a movement.

    ``last_observed_at`` never goes back, not even when the newest value is taken back: up to
    there something may be stored, and a look-up is due.
    """
    before, fresh = movement.state, movement.fresh
    instants = [at for at in (before.last_observed_at, movement.written_until) if at is not None]
    if movement.corrections and movement.series not in ledger.events:
        value = fresh[-1].value if fresh else None
        observations, ring = before.observations + movement.gained, packed(fresh)
    else:
        last = before.last_observed_at
        is_newer = bool(fresh) and (last is None or fresh[-1].at >= last)
        value = fresh[-1].value if is_newer else before.last_value
        observations, ring = before.observations + len(fresh), packed(fresh, before.ring)
    return SeriesState(
        before.series, before.version, max(instants, default=None), value, observations, ring
    )
