"""Accepts signals: keeps what is new, judges it and owes what follows, in one transaction.

Requests that arrive while a transaction is being committed gather and are committed together by
the next one, in a few lanes by series (group commit without a timer).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter
from typing import Protocol

from alerts.mechanisms import Scope
from alerts.routing import SubscriptionId
from alerts.signals import PartnerId, SeriesId, SeriesKey
from app import evaluate, store, telemetry
from app.database import Database, DatabaseAway, Driver
from app.evaluate import ScopesNeeded
from app.evaluate.writing import Evaluation, Offering, nothing_offered
from app.ingest import calm, ledger
from app.ingest.arriving import Arrival, Status
from app.ingest.calm import Glance, Overtaken, Request
from app.policy import Policy
from app.recall import Recall
from app.store.debts import Offer, Taken
from app.store.signals import MonthOpened

__all__ = ["Arrival", "Behind", "Intake", "Receipt", "Status"]

SERIES_REMEMBERED = 1_000_000
"""So many ids are kept in memory; then they are forgotten and looked up again."""

_OFTEN = 8
"""When others were there before twice within so many transactions, as many read the states of their series
first: where processes take turns, a look by what is remembered would be in vain each time.
"""

LONGEST_WAIT_SECONDS = 30.0
"""When the oldest of what waits has waited so long, nobody is let in behind it."""


@dataclass(slots=True)
class Receipt:
    """What became of each arrival of a request, in order, and the alerts that moved."""

    statuses: list[Status]
    refs: list[str] = field(default_factory=list)


class Worker(Protocol):
    """Whoever sends in this process: it takes at once what comes to be owed, as far as it has room."""

    def offer(self, to: Collection[SubscriptionId]) -> Offer | None:
        """What it takes of what is about to be owed to these; None for nothing."""

    def take(self, taken: Taken) -> None:
        """Has it begin what was claimed for it: the transaction is committed."""


class SeriesLost(DatabaseAway):
    """A series that was known is not in the database that answers now."""

    def __init__(self) -> None:
        super().__init__("The database has lost a series. Sent again, it is made anew.")


class Behind(Exception):
    """So much is waiting to be stored that more is refused for now."""


@dataclass(slots=True)
class _Part:
    """The arrivals of one request that belong to one lane, and who waits for them.

    ``accepted`` is when they were accepted, by the monotonic clock; ``cuts`` how many connections had been
    cut when the ids of their series were looked up.
    """

    received_at: datetime
    accepted: float
    cuts: int
    series: list[SeriesId]
    arrivals: list[Arrival]
    done: asyncio.Future[Outcome]

    def pairs(self) -> Iterable[tuple[SeriesId, Arrival]]:
        """Each arrival after its series."""
        return zip(self.series, self.arrivals, strict=True)


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
        most_waiting: so many signals may wait; of one partner, as many as are left for others.
        worker: sends in this process; None where another one does.
    """

    def __init__(
        self,
        database: Database,
        policy: Policy,
        *,
        lanes: int = 2,
        most_signals: int = 4_000,
        most_waiting: int = 100_000,
        worker: Worker | None = None,
    ) -> None:
        self._database = database
        self._policy = policy
        self._lanes = [_Lane() for _ in range(lanes)]
        self._most_signals = most_signals
        self._most_waiting = most_waiting
        self._worker = worker
        self._offer = worker.offer if worker is not None else nothing_offered
        self._waiting = 0
        self._waiting_of: dict[PartnerId, int] = {}
        self._ids: dict[SeriesKey, SeriesId] = {}
        self._edition = policy.edition  # of the rules whose subjects' series are known too
        self._learning = asyncio.Lock()
        self._recall = Recall()
        self._cuts = database.ingest_cuts
        self._overtaken = 0  # raised each time, and lowered by each transaction

    async def accept(self, arrivals: Sequence[Arrival], now: datetime) -> Receipt:
        """Stores and judges the arrivals of one request; returns after the commit.

        Raises:
            Behind: too much is waiting; nothing of this request was stored.
            DatabaseAway: the database cannot be reached; nothing is known to be stored, and
                sending the same again is safe.
        """
        accepted = perf_counter()
        count, partner = len(arrivals), arrivals[0].partner
        held = self._waiting_of.get(partner, 0)
        # Nobody has more than is left: one who floods fills half, two a third each, and a newcomer gets in.
        if held + count > self._most_waiting - self._waiting or self._is_late(accepted):
            raise Behind
        self._waiting += count
        self._waiting_of[partner] = held + count
        try:
            while (series := self._known(arrivals)) is None:
                await self._learn_series({a.key for a in arrivals}, now)
            return await self._through_lanes(series, arrivals, now, accepted)
        finally:
            self._waiting -= count
            self._waiting_of[partner] -= count
            if not self._waiting_of[partner]:
                del self._waiting_of[partner]

    @property
    def waiting(self) -> int:
        """Signals that are not stored yet."""
        return self._waiting

    def _is_late(self, now: float) -> bool:
        """Whether what waits has waited for so long that whoever comes would wait in vain."""
        return any(
            lane.waiting and now - lane.waiting[0].accepted > LONGEST_WAIT_SECONDS
            for lane in self._lanes
        )

    async def stop(self) -> None:
        """Waits until everything accepted so far is committed."""
        await asyncio.gather(*(lane.task for lane in self._lanes if lane.task is not None))

    def _known(self, arrivals: Sequence[Arrival]) -> list[SeriesId] | None:
        """The series of each arrival; None where one is not known, or not what its rules need."""
        if self._edition != self._policy.edition:
            self._edition = self._policy.edition
            self._ids.clear()  # Another rule may need series of another subject.
        ids = self._ids
        try:
            return [ids[arrival.key] for arrival in arrivals]
        except KeyError:
            return None

    async def _learn_series(self, keys: set[SeriesKey], now: datetime) -> None:
        """Makes series not seen before, and those of the subjects of their joint rules, in a short
        transaction of its own.

        One after the other: who waited for another that made the same has nothing left to make. While it
        waits, another request may forget what it learns: whoever calls looks again.
        """
        async with self._learning:
            edition, cuts = self._edition, self._cuts
            subjects = {subject for k in keys for _, _, subject in self._policy.brief(k).joint}
            wanted = keys | subjects
            new = wanted - self._ids.keys()
            if len(self._ids) >= SERIES_REMEMBERED:
                self._ids.clear()
                new = wanted
            if new:
                async with self._database.brief() as connection:
                    found = await store.series.find_or_make(connection, new, now)
                if (edition, cuts) == (self._policy.edition, self._cuts):
                    self._ids.update(found)

    async def _through_lanes(
        self,
        series: Sequence[SeriesId],
        arrivals: Sequence[Arrival],
        now: datetime,
        accepted: float,
    ) -> Receipt:
        loop = asyncio.get_running_loop()
        parts: dict[int, _Part] = {}
        places: dict[int, list[int]] = {}
        for place, (one, arrival) in enumerate(zip(series, arrivals, strict=True)):
            number = one % len(self._lanes)
            part = parts.get(number)
            if part is None:
                part = _Part(now, accepted, self._cuts, [], [], loop.create_future())
                parts[number] = part
                places[number] = []
            part.series.append(one)
            part.arrivals.append(arrival)
            places[number].append(place)
        for number, part in parts.items():
            lane = self._lanes[number]
            lane.waiting.append(part)
            if lane.task is None or lane.task.done():
                lane.task = asyncio.create_task(self._run(lane))
        if len(parts) == 1:  # As a single signal has, of which the most come.
            return Receipt(*await next(iter(parts.values())).done)
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

    async def _transaction(self, parts: Sequence[_Part]) -> list[Outcome]:
        now = max(p.received_at for p in parts)
        requests = [(p.series, p.arrivals) for p in parts]
        scopes: frozenset[Scope] = frozenset()
        touched = {s for p in parts for s in p.series}
        lanes = [store.series.lane_of_series(s) for s in touched]
        in_vain = 0
        while True:
            locking = store.series.locking([*lanes, *map(store.series.lane_of_scope, scopes)])
            try:
                async with self._database.ingest(locking) as connection:
                    await self._doubt(connection, parts)
                    glance = self._look(requests, touched, in_vain, now)
                    at_once = len(glance.rows)
                    results, found = await accept_signals(
                        connection,
                        self._policy,
                        requests,
                        now,
                        self._recall,
                        glance,
                        scopes,
                        self._offer,
                    )
            except ScopesNeeded as needed:
                scopes = needed.scopes
            except SeriesLost:
                self._forget()
                raise
            except Overtaken:
                in_vain += 1
                self._overtaken = min(self._overtaken + _OFTEN, 2 * _OFTEN)
            except MonthOpened:
                pass  # The month has a partition now.
            else:
                self._overtaken = max(0, self._overtaken - 1)
                if found.taken is not None and self._worker is not None:
                    self._worker.take(found.taken)
                found.tell()
                self._recall.committed(touched)
                telemetry.signals_at_a_glance.inc(at_once)
                telemetry.signals_at_a_closer_look.inc(len(glance.rows) - at_once)
                return results
            finally:
                self._recall.forgotten(touched)

    def _look(
        self, requests: Sequence[Request], touched: set[SeriesId], in_vain: int, now: datetime
    ) -> Glance:
        """What to make of these after so many looks in vain: twice, and all of them are judged, for where
        alerts open and end all the time a look might be in vain for ever.
        """
        if in_vain or self._overtaken > _OFTEN:
            return Glance(others=set(touched), is_last=in_vain > 1)
        return calm.look(requests, self._recall, self._policy, now)

    async def _doubt(self, connection: Driver, parts: Sequence[_Part]) -> None:
        """Forgets what is remembered when a connection was cut: what answers now may not be what did.

        Raises:
            SeriesLost: a series of these parts is none here, or another one.
        """
        cuts = self._database.ingest_cuts
        if self._cuts != cuts:
            self._cuts = cuts
            self._forget()
        asked = {s: a.key for p in parts if p.cuts != cuts for s, a in p.pairs()}
        if asked and await store.series.keys_of(connection, asked) != asked:
            raise SeriesLost

    def _forget(self) -> None:
        self._recall.forget()
        self._ids.clear()


Outcome = tuple[list[Status], list[str]]
"""Of one request: the status of each arrival, and the references of the alerts it moved."""


def _tell(part: _Part, error: Exception) -> None:
    if not part.done.done():
        part.done.set_exception(error)


async def accept_signals(
    connection: Driver,
    policy: Policy,
    requests: Sequence[Request],
    now: datetime,
    recall: Recall,
    glance: Glance,
    scopes: frozenset[Scope] = frozenset(),
    offer: Offering = nothing_offered,
) -> tuple[list[Outcome], Evaluation]:
    """Stores and judges the arrivals of many requests at once; does not commit.

    Args:
        connection: inside a transaction that holds the lanes of the series, and of ``scopes``.
        policy: what is asked of the signals.
        requests: for each, the series of its arrivals, and the arrivals.
        now: the instant of receipt.
        recall: what this process remembers of series; the caller says whether this committed.
        glance: what is surely calm among them; it is stored. The others are looked at closer, and judged if
            need be.
        scopes: whose lanes are locked too.
        offer: says what a worker of this process takes at once of what comes to be owed.

    Returns:
        The outcome of each request; and what came of judging, which must be told, and what was taken of it
        given to the worker, once that is committed.

    Raises:
        SeriesLost: forget all that was known.
        ScopesNeeded: roll back and call again with these scopes.
        Overtaken: roll back and call again; what was thought calm must be looked at anew.
        MonthOpened: roll back and call again.
    """
    if not glance.others:
        await calm.keep(connection, glance, recall)
        return _all_accepted(requests), Evaluation()
    left_over = glance.left_over(requests)
    about = {s for came in left_over.values() for s in policy.brief(came[0].key).scopes}
    standing = await store.standing.read(connection, sorted(left_over), about)
    states = standing.states
    if len(states) < len(glance.others):
        raise SeriesLost
    if not glance.is_last:
        calm.look_closer(glance, requests, left_over, standing, recall, policy, now)
    if glance.rows:
        await calm.keep(connection, glance, recall)
    if not glance.others:
        return _all_accepted(requests), Evaluation()
    places, left = glance.left_of(requests)
    book = await ledger.open_ledger(connection, states, left)
    told = [
        [book.enter(s, a, now) for s, a in zip(series, arrivals, strict=True)]
        for series, arrivals in left
    ]
    # What is behind the newest is read back, to see what it changes.
    if book.rows and not book.is_ahead:
        await store.signals.keep(connection, book.rows)
    movements = await ledger.movements_of(connection, policy, book, states)
    moved = [ledger.moved(m, book) for m in movements]
    if moved:
        beside = [store.signals.insertion(book.rows)] if book.is_ahead else []
        with store.signals.heeding_months():
            await store.series.move(connection, moved, now, beside)
    found = await evaluate.evaluate_series(
        connection,
        policy,
        movements,
        now,
        recall,
        standing,
        scopes,
        offer,
    )
    results: list[Outcome] = []
    for (series, _), places_of, told_of in zip(requests, places, told, strict=True):
        statuses = [Status.accepted] * len(series)
        for place, status in zip(places_of, told_of, strict=True):
            statuses[place] = status
        results.append((statuses, _refs(series, found.refs)))
    return results, found


def _all_accepted(requests: Sequence[Request]) -> list[Outcome]:
    return [([Status.accepted] * len(series), []) for series, _ in requests]


def _refs(series: Iterable[SeriesId], refs: Mapping[SeriesId, list[str]]) -> list[str]:
    if not refs:
        return []
    return list(dict.fromkeys(ref for s in dict.fromkeys(series) for ref in refs.get(s, ())))
