"""Judges what is spooled, shard by shard on all cores, and brings the outcomes together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any, TypeVar

from alerts.catalogue import Catalogue
from alerts.mechanisms import Profile
from alerts.replay import Arrival, Moved, Replay
from alerts.signals import PartnerId, Report, Sample, SeriesId, Voice
from alerts.skill import Episode, Watched
from app.backtest import pictures, spool
from app.backtest.pictures import Picture, Wanted
from app.backtest.reading import EPOCH, MICROSECOND, NOT_GIVEN, instant, microseconds
from app.backtest.spool import Event, Layout, Record, Shard

JUDGED_AT_ONCE = 8_192
"""So many samples go to the engine at a time, and more where there are many series: each series
touched costs a little every time."""

AT_ONCE_PER_SERIES = 16
AT_ONCE_AT_MOST = 200_000

WORTH_A_POOL = 100_000
"""Fewer rows are judged here and now: starting processes would take longer."""

T = TypeVar("T")


@dataclass(slots=True)
class Played:
    """What happened in a replay: series, their episodes, the transitions of their alerts."""

    watched: list[Watched] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    broken: set[tuple[str, str]] = field(default_factory=set)
    samples: int = 0

    def add(self, other: Played) -> None:
        """Takes in what happened in another shard."""
        self.watched += other.watched
        self.episodes += other.episodes
        self.moved += other.moved
        self.broken |= other.broken
        self.samples += other.samples

    def sort(self) -> None:
        """Brings everything into an order that does not depend on who was ready first."""
        self.watched.sort(key=lambda w: w.key)
        self.episodes.sort(key=lambda e: (e.opened, e.series))
        self.moved.sort(key=lambda m: m.scope)  # Each scope's own are in order already.


class Crew:
    """As many processes as there is work for, or this one alone."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        """Takes a pool, or none."""
        self._pool = pool

    def do(
        self, work: Callable[..., T], each: Iterable[tuple[Any, ...]], tell: Callable[[T], None]
    ) -> list[T]:
        """The outcomes of one kind of work in the order of ``each``; ``tell`` hears as they come."""
        if self._pool is None:
            found: list[T] = []
            for given in each:
                found.append(work(*given))
                tell(found[-1])
            return found
        futures = [self._pool.submit(work, *given) for given in each]
        waiting: set[Future[T]] = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when="FIRST_COMPLETED")
                for future in done:
                    tell(future.result())
        finally:
            for future in waiting:
                future.cancel()
        return [future.result() for future in futures]


@contextmanager
def crew(workers: int) -> Iterator[Crew]:
    """So many processes; one is this process.

    They are started afresh, not forked: a copy of a process with threads may hang.
    """
    if workers <= 1:
        yield Crew(None)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield Crew(pool)


def judge_shard(
    layout: Layout, shard: Shard, profile: Profile, catalogue: Catalogue, now: datetime
) -> Played:
    """Replays one shard: in the order of observation, or ``as_of`` each instant what was known."""
    keys = {SeriesId(number): key for number, key in shard.series.values()}
    replay = Replay(profile, catalogue, keys)
    told = _reports(shard)
    if layout.as_of:
        samples = _arrive(layout, shard, replay, told)
    else:
        samples = _observe(layout, shard, replay, told, now)
    return Played(replay.watched(), replay.episodes(), replay.moved, replay.broken, samples)


_Heard = tuple[int, int, SeriesId, Report]
"""Observed, available, series, report."""


def _reports(shard: Shard) -> list[_Heard]:
    """The reported events of a shard in the order of observation.

    Partners are numbered by name. Without a party a partner speaks for itself.
    """
    names = sorted({event.told.partner for event in shard.events})
    numbers = {name: PartnerId(n) for n, name in enumerate(names, start=1)}
    found = [
        (e.at, e.available_at, SeriesId(shard.series[e.series][0]), _report(e, numbers))
        for e in shard.events
    ]
    return sorted(found, key=lambda heard: (heard[0], heard[2], heard[3].partner))


def _report(event: Event, numbers: dict[str, PartnerId]) -> Report:
    told = event.told
    return Report(
        instant(event.at),
        told.severity,
        numbers[told.partner],
        told.party,
        told.origin,
        told.origin_ref,
        None if told.announced_at == NOT_GIVEN else instant(told.announced_at),
        None if told.effective_at == NOT_GIVEN else instant(told.effective_at),
        told.note,
    )


def _observe(
    layout: Layout, shard: Shard, replay: Replay, told: Sequence[_Heard], now: datetime
) -> int:
    """In the order of observation, by the last vintage of everything."""
    waiting = _last_vintages(told)
    at_once = min(max(JUDGED_AT_ONCE, AT_ONCE_PER_SERIES * len(shard.series)), AT_ONCE_AT_MOST)
    ids = {number: SeriesId(series) for number, (series, _) in shard.series.items()}
    keys = dict(shard.series.values())
    fresh: dict[SeriesId, list[Sample]] = {}
    known: dict[tuple[SeriesId, datetime], datetime] = {}
    indicators = replay.catalogue.indicators

    def known_at(series: SeriesId, at: datetime) -> datetime:
        given = known.get((series, at))
        if given is not None:
            return given
        indicator = indicators.get(keys[series].indicator)
        published = indicator.published if indicator else None
        return published.known_at(at) if published else at

    def flush(until: int | None) -> None:
        heard: dict[SeriesId, list[Report]] = {}
        while waiting and (until is None or waiting[-1][0] <= until):
            _, available, series, report = waiting.pop()
            heard.setdefault(series, []).append(report)
            if available != NOT_GIVEN:
                known[series, report.at] = instant(available)
        if fresh or heard:
            replay.observe(fresh, heard, now, known_at, said)
        fresh.clear()
        said.clear()
        known.clear()

    voices = _Voices(shard)
    said: dict[SeriesId, dict[datetime, tuple[Voice, ...]]] = {}
    count = held = 0
    at = -(2**63)
    when = EPOCH
    for observed, series, value, available, words in _counted(spool.records(layout, shard)):
        if observed != at:
            if held >= at_once:
                flush(at)
                held = 0
            at = observed
            when = EPOCH + MICROSECOND * observed
        number = ids[series]
        row = fresh.get(number)
        if row is None:
            row = fresh[number] = []
        row.append(Sample(when, value))
        if layout.speaks:
            said.setdefault(number, {})[when] = voices.of(words)
        held += 1
        count += 1
        if available != NOT_GIVEN:
            known[number, when] = EPOCH + MICROSECOND * available
    flush(None)
    return count + len(told)


class _Voices:
    """Who says what, as rules that ask hear it; partners numbered by name."""

    def __init__(self, shard: Shard) -> None:
        names = sorted({speaker.partner for speaker in shard.speakers.values()})
        self._numbers = {name: PartnerId(n) for n, name in enumerate(names, start=1)}
        self._speakers = shard.speakers

    def of(self, words: Iterable[_Word]) -> tuple[Voice, ...]:
        """The voices of one observation."""
        return tuple(self._voice(*word) for word in words)

    def _voice(self, speaker: int, value: float, at: int) -> Voice:
        one = self._speakers[speaker]
        return Voice(
            self._numbers[one.partner],
            one.partner,
            one.party,
            value,
            one.origin,
            instant(at),
            one.origin_ref,
            one.reliability,
        )


_Word = tuple[int, float, int]
"""Speaker, value, and when it was said."""


def _counted(records: Iterable[Record]) -> Iterator[tuple[int, int, float, int, list[_Word]]]:
    """What each observation counts for: the median over partners of their last vintages.

    Gives when, which series, the value, when the first vintage was available, and the last word of
    each partner.
    """
    at = series = who = first = NOT_GIVEN
    words: list[_Word] = []
    for observed, number, partner, available, _, value, speaker in records:
        word = speaker, value, max(available, observed)
        if observed == at and number == series:
            if partner == who:
                words[-1] = word
            else:
                words.append(word)
                who = partner
            first = min(first, available)  # One without an instant was known by its usual lag.
            continue
        if words:
            yield at, series, _median(words), first, words
        at, series, who, first = observed, number, partner, available
        words = [word]
    if words:
        yield at, series, _median(words), first, words


def _median(words: Sequence[_Word]) -> float:
    return words[0][1] if len(words) == 1 else median(value for _, value, _ in words)


def _last_vintages(told: Sequence[_Heard]) -> list[_Heard]:
    """The newest word of each partner on each instant, newest instant first."""
    last: dict[tuple[int, SeriesId, PartnerId], _Heard] = {}
    for heard in sorted(told, key=lambda h: h[1]):
        at, available, series, report = heard
        before = last.get((at, series, report.partner))
        first = available if before is None else before[1]
        last[at, series, report.partner] = (at, first, series, report)
    kept = [heard for heard in last.values() if heard[3].severity]
    return sorted(kept, key=lambda h: (h[0], h[2], h[3].partner), reverse=True)


def _arrive(layout: Layout, shard: Shard, replay: Replay, told: Sequence[_Heard]) -> int:
    """In the order in which everything became known, corrections as corrections."""
    waiting = sorted(told, key=lambda h: (h[1], h[0], h[2], h[3].partner), reverse=True)
    ids = {number: SeriesId(series) for number, (series, _) in shard.series.items()}
    said: dict[tuple[int, int], dict[int, _Word]] = {}
    voices = _Voices(shard)
    arrivals: dict[tuple[SeriesId, int], Arrival] = {}
    count, now = 0, -(2**63)

    def flush(until: int) -> None:
        """Judges what came at ``now``, then events that came by themselves before ``until``."""
        while waiting and waiting[-1][1] < now:
            hear(waiting[-1][1])
        events = take(now)
        if arrivals or events:
            replay.arrive([*arrivals.values(), *events], instant(now))
        arrivals.clear()
        while waiting and waiting[-1][1] < until:
            hear(waiting[-1][1])

    def take(at: int) -> list[Arrival]:
        found: list[Arrival] = []
        while waiting and waiting[-1][1] == at:
            _, _, series, report = waiting.pop()
            found.append(Arrival(series, report.at, report=report))
        return found

    def hear(at: int) -> None:
        replay.arrive(take(at), instant(at))

    for available, at, series, partner, _, value, speaker in spool.records(layout, shard):
        if available != now:
            if count:
                flush(available)
            now = available
        count += 1
        words = [(speaker, value, available)]
        if series in shard.many:
            by_partner = said.setdefault((series, at), {})
            by_partner[partner] = words[0]
            words = [by_partner[who] for who in sorted(by_partner)]
        number = ids[series]
        heard = voices.of(words) if layout.speaks else ()
        arrivals[number, at] = Arrival(number, instant(at), _median(words), voices=heard)
    if count:
        flush(2**63)
    while waiting:
        hear(waiting[-1][1])
    return count + len(told)


def draw_shard(
    layout: Layout,
    shard: Shard,
    profile: Profile,
    catalogue: Catalogue,
    wanted: Sequence[Wanted],
) -> list[Picture]:
    """The pictures of some series of a shard, by the last vintage of every value."""
    numbers = {key: number for number, (_, key) in shard.series.items()}
    by_series: dict[int, list[tuple[int, int, int]]] = {}
    for place, one in enumerate(wanted):
        span = (microseconds(one.reads_from), microseconds(one.until), place)
        by_series.setdefault(numbers[one.series], []).append(span)
    found: list[list[Sample]] = [[] for _ in wanted]
    for at, series, value, *_ in _counted(_by_observation(layout, shard, by_series)):
        for begin, end, place in by_series[series]:
            if begin <= at <= end:
                found[place].append(Sample(instant(at), value))
    return [
        pictures.draw(one, profile, catalogue, samples)
        for one, samples in zip(wanted, found, strict=True)
    ]


def _by_observation(layout: Layout, shard: Shard, series: Container[int]) -> Iterable[Record]:
    """The records of some series in the order of observation, whatever the spool's own."""
    records = spool.records(layout, shard)
    if not layout.as_of:
        return (r for r in records if r[1] in series)
    return sorted((r[1], r[2], r[3], r[0], *r[4:]) for r in records if r[2] in series)
