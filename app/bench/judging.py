"""The engine alone: judges signals of one series as the service does, without a database.

Beside it the plain formulas work on the same signals and the same window.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from statistics import median
from typing import Any

from alerts import judgement
from alerts.detectors.agreement import Views
from alerts.mechanisms import Profile
from alerts.rules import Measured
from alerts.signals import Sample, SeriesId, SeriesKey
from alerts.tracks import Judgement, Track
from app import documents
from app.bench import plain, questions, workload
from app.bench.lines import BenchFailed
from app.evaluate import loading
from app.policy import Policy

WEEKLY = 2_000
"""So many of the newest samples are a week apart, further back than any rule looks.

The older ones are an hour apart: a million of them are 152 years.
"""

AT_ONCE = 20
"""After so many single signals the series is as it was before: a hundred held stay about that."""

_NEWEST = datetime(2026, 1, 1, tzinfo=UTC)
_WEEK, _HOUR = timedelta(weeks=1), timedelta(hours=1)
_CHUNK = 1_000
_SERIES = SeriesId(1)


def samples(held: int) -> Iterator[Sample]:
    """``held`` samples up to 2026, oldest first, and after them those that are reported next.

    Values lie between 92 and 108, as irregular as noise, and none comes twice.
    """
    number = 1 - held
    while True:
        older = max(0, -number - WEEKLY)
        at = _NEWEST + (number + older) * _WEEK - older * _HOUR
        noise = number * 0.6180339887498949 % 1 + number * 0.7548776662466927 % 1 - 1
        yield Sample(at, 100 + 8 * noise)
        number += 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """A series with its rules, as it stands before the signals that are timed.

    ``window`` is what the service remembers of it and ``views`` what detectors made of it;
    ``formulas`` have taken in the same window. ``coming`` are the signals that are reported next.
    """

    policy: Policy
    key: SeriesKey
    window: list[Sample]
    views: dict[tuple[str, str], Views]
    formulas: list[plain.Formula]
    coming: list[Sample]


@functools.cache
def prepare(rules: int, held: int, batch: int) -> Prepared:
    """Has a series of ``held`` samples pass by, trimmed as the service trims; judges the newest."""
    catalogue = documents.load_catalogue()
    bench = documents.load_profile(workload.PROFILES / "bench.yaml")
    profile: Profile = replace(bench, rules=questions.rules(rules))
    policy = Policy(catalogue, {profile.id: profile})
    (key,) = workload.series(1)
    reported = samples(held)
    window: list[Sample] = []
    left = held - 1
    while chunk := list(islice(reported, min(_CHUNK, left))):
        left -= len(chunk)
        window = _remembered(policy, _track(policy, key, [*window, *chunk[:-1]], chunk[-1:], {}))
    track = _track(policy, key, window, [next(reported)], {})
    _judge(policy, track)
    window = _remembered(policy, track)
    detectors = [r.detector for r in profile.rules if isinstance(r.detector, Measured)]
    formulas = [plain.formula(detector) for detector in detectors]
    at, values = [s.at for s in window], [s.value for s in window]
    for one in formulas:
        one(at, values)
    coming = list(islice(reported, max(batch, AT_ONCE)))
    return Prepared(policy, key, window, track.views, formulas, coming)


async def judge(*, rules: int, held: list[int], batch: int, seconds: float) -> dict[str, Any]:
    """Judges signals of series that hold so many samples, ``batch`` in a call of the engine.

    Series, engine and formulas take turns until the engine has worked for ``seconds`` on each.
    Processor time is taken, which other processes of the machine do not lengthen; and medians.

    Returns:
        ``engine`` and ``plain`` in microseconds a signal, for each of ``held``.

    Raises:
        BenchFailed: a rule did not find everything calm.
    """
    cases = [prepare(rules, count, batch) for count in held]
    engine: list[list[float]] = [[] for _ in cases]
    formulas: list[list[float]] = [[] for _ in cases]
    while any(sum(one) < seconds for one in engine):
        for number, case in enumerate(cases):
            engine[number].append(_by_engine(case, batch))
            formulas[number].append(_by_formulas(case))
    return {
        name: [median(one) / len(c.coming) * 1e6 for one, c in zip(found, cases, strict=True)]
        for name, found in (("engine", engine), ("plain", formulas))
    }


def _by_engine(case: Prepared, batch: int) -> float:
    """Seconds inside the engine for all that is coming."""
    window, views = case.window, copy.deepcopy(case.views)
    tracks = []
    for first in range(0, len(case.coming), batch):
        fresh = case.coming[first : first + batch]
        tracks.append(_track(case.policy, case.key, window, fresh, views))
        window = _remembered(case.policy, tracks[-1])
    catalogue = case.policy.catalogue
    begun = time.thread_time()
    outcomes = [judgement.judge([one], {}, catalogue, one.fresh[-1].at) for one in tracks]
    took = time.thread_time() - begun
    for outcome in outcomes:
        _check(outcome)
    return took


def _by_formulas(case: Prepared) -> float:
    """Seconds for the same by the formulas alone."""
    at, values = [s.at for s in case.window], [s.value for s in case.window]
    formulas = copy.deepcopy(case.formulas)
    begun = time.thread_time()
    for instant, value in case.coming:
        at.append(instant)
        values.append(value)
        for one in formulas:
            one(at, values)
    return time.thread_time() - begun


def _track(
    policy: Policy,
    key: SeriesKey,
    known: list[Sample],
    fresh: list[Sample],
    views: dict[tuple[str, str], Views],
) -> Track:
    """The series as ``loading.tracks`` makes it."""
    return Track(
        _SERIES,
        key,
        "days",
        policy.brief(key).questions,
        known=known,
        fresh=fresh,
        breaks=policy.brief(key).breaks,
        views=views,
    )


def _judge(policy: Policy, track: Track) -> None:
    _check(judgement.judge([track], {}, policy.catalogue, track.fresh[-1].at))


def _check(outcome: Judgement) -> None:
    if outcome.findings or outcome.broken:
        told = f"A rule of the bench did not find everything calm: {outcome.findings!r}"
        raise BenchFailed(f"{told}, {outcome.broken!r}.")


def _remembered(policy: Policy, track: Track) -> list[Sample]:
    """What the service would keep of the window for the next transaction."""
    found = [*track.known, *track.fresh]
    anchor = loading.anchor_of(track, {})
    return found[max(0, loading.needed(found, anchor, policy.brief(track.key).reach)) :]
