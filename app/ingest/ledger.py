"""What is known of the observations in hand, what is written of them, and what that changes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from alerts.signals import PartnerId, Sample, SeriesId, SeriesKey
from alerts.tracks import Correction
from app import store
from app.database import Transaction
from app.evaluate.loading import Movement
from app.ingest.arriving import Arrival, Status
from app.policy import Policy
from app.store.series import RING_SAMPLES, SeriesState, packed
from app.store.signals import Row, Stored

_AFTER_ALL = datetime.max.replace(tzinfo=UTC)
"""After anything that is ever observed."""


@dataclass(slots=True)
class Ledger:
    """What is known of the observations in hand, and what is to be written about them.

    ``book`` holds, by series and instant, each partner's revisions; an instant newer than the
    series' last one cannot be stored yet, so it needs no look-up. ``was`` is the value an
    instant counted for before this transaction; ``said_again`` are the instants of which a
    partner said something else than before this transaction, ``new`` who says something of an
    instant for the first time. ``is_ahead`` says that all is newer than what its series has.
    """

    states: Mapping[SeriesId, SeriesState]
    book: dict[tuple[SeriesId, datetime], dict[PartnerId, list[Stored]]]
    is_ahead: bool
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


async def open_ledger(
    connection: Transaction,
    states: Mapping[SeriesId, SeriesState],
    requests: Sequence[tuple[Sequence[SeriesId], Sequence[Arrival]]],
) -> Ledger:
    old = {
        (s, a.observed_at)
        for series, arrivals in requests
        for s, a in zip(series, arrivals, strict=True)
        if (last := states[s].last_observed_at) is not None and a.observed_at <= last
    }
    book = await store.signals.stored(connection, old) if old else {}
    return Ledger(states, book, not old)


async def movements_of(
    connection: Transaction,
    policy: Policy,
    ledger: Ledger,
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


def moved(movement: Movement, ledger: Ledger) -> SeriesState:
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
