"""The formulas alone: the statistic of each kind of rule, computed directly over lists of numbers.

As one would write them for one series in one script: no samples, no readings, no findings, nothing
said of what is missing. They are the bare limit of ``judge``; a test holds that they give the same
numbers as the engine.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from operator import mul
from statistics import fmean, median

from alerts.rules import (
    Agreement,
    Bands,
    Cusum,
    Ears,
    EarsMethod,
    Ewma,
    LastObservations,
    Measured,
    PercentChange,
    RateOfChange,
    Run,
    SamePeriod,
    ZScore,
)

Formula = Callable[[Sequence[datetime], Sequence[float]], float]
"""What it makes of instants and values, oldest first; the newest value is the one tested."""


def formula(rule: Measured) -> Formula:
    """The formula of a rule of ``questions``; harm is up, and values are positive.

    Raises:
        ValueError: of a rule that the bench does not ask.
    """
    match rule:
        case Bands():
            return lambda at, values: values[-1]
        case PercentChange(baseline=LastObservations() as baseline):
            return _change(baseline)
        case PercentChange(baseline=SamePeriod() as baseline):
            return _same_period(baseline)
        case ZScore(baseline=LastObservations() as baseline):
            return _robust_z(baseline)
        case Ewma(baseline=LastObservations() as baseline):
            return _ewma(rule, baseline)
        case Cusum(baseline=LastObservations() as baseline):
            return _cusum(rule, baseline)
        case Ears():
            return _ears(rule)
        case RateOfChange():
            return _slope(rule)
        case Run():
            return _moves(rule)
        case Agreement():
            return _Agreement(rule)
        case _:
            raise ValueError(f"the bench asks nothing of kind {rule.kind}")


def _change(baseline: LastObservations) -> Formula:
    first, last = -1 - baseline.guard - baseline.observations, -1 - baseline.guard

    def change(at: Sequence[datetime], values: Sequence[float]) -> float:
        return values[-1] / median(values[first:last]) - 1

    return change


def _same_period(baseline: SamePeriod) -> Formula:
    width = timedelta(days=baseline.width_days)

    def change(at: Sequence[datetime], values: Sequence[float]) -> float:
        tested, found = at[-1], list[float]()
        day = 28 if (tested.month, tested.day) == (2, 29) else tested.day
        for back in range(1, baseline.years + 1):
            centre = tested.replace(year=tested.year - back, day=day)
            found += values[bisect_left(at, centre - width) : bisect_right(at, centre + width)]
        return values[-1] / median(found) - 1

    return change


def _robust_z(baseline: LastObservations) -> Formula:
    first, last = -1 - baseline.guard - baseline.observations, -1 - baseline.guard

    def z(at: Sequence[datetime], values: Sequence[float]) -> float:
        before = list(map(math.log, values[first:last]))
        middle = median(before)
        return 0.6745 * (math.log(values[-1]) - middle) / median(abs(v - middle) for v in before)

    return z


def _ewma(rule: Ewma, baseline: LastObservations) -> Formula:
    run, weight = rule.run, rule.weight
    width = math.sqrt(weight / (2 - weight) * (1 - (1 - weight) ** (2 * run)))

    def smoothed(at: Sequence[datetime], values: Sequence[float]) -> float:
        logs = list(map(math.log, values[-run - baseline.guard - baseline.observations :]))
        mean, deviation = _level(logs[: baseline.observations])
        smooth = mean
        for value in logs[-run:]:
            smooth += weight * (value - smooth)
        return (smooth - mean) / (deviation * width)

    return smoothed


def _cusum(rule: Cusum, baseline: LastObservations) -> Formula:
    run, slack = rule.run, rule.slack

    def summed(at: Sequence[datetime], values: Sequence[float]) -> float:
        logs = list(map(math.log, values[-run - baseline.guard - baseline.observations :]))
        mean, deviation = _level(logs[: baseline.observations])
        above = 0.0
        for value in logs[-run:]:
            above = max(0.0, above + (value - mean) / deviation - slack)
        return above

    return summed


def _ears(rule: Ears) -> Formula:
    guard = 0 if rule.method is EarsMethod.c1 else 2
    count, least = rule.observations, rule.min_sigma

    def score(values: Sequence[float], tested: int) -> float:
        mean, deviation = _level(values[tested - guard - count : tested - guard])
        return (values[tested] - mean) / max(deviation, least)

    if rule.method is not EarsMethod.c3:
        return lambda at, values: score(values, len(values) - 1)
    return lambda at, values: sum(max(0.0, score(values, len(values) - n) - 1) for n in (1, 2, 3))


def _slope(rule: RateOfChange) -> Formula:
    count = rule.observations
    places = [place - (count - 1) / 2 for place in range(count)]
    squares = math.fsum(place * place for place in places)

    def slope(at: Sequence[datetime], values: Sequence[float]) -> float:
        newest = values[-count:]
        return math.fsum(map(mul, places, newest)) / squares / fmean(newest)

    return slope


def _moves(rule: Run) -> Formula:
    least = rule.least_move

    def moves(at: Sequence[datetime], values: Sequence[float]) -> float:
        newest = values[-1 - rule.longest :]
        for count in range(len(newest) - 1):
            move = newest[-1 - count] - newest[-2 - count]
            if move <= 0 or move < least * newest[-2 - count]:
                return count
        return len(newest) - 1

    return moves


class _Agreement:
    """Keeps what the views have shown, in order of size; takes in what is new since it was asked."""

    def __init__(self, rule: Agreement) -> None:
        self._rule = rule
        self._seen = 0
        self._logs: list[float] = []
        self._changes: list[list[float]] = [[] for _ in rule.changes]
        self._ordered: list[list[float]] = [[] for _ in rule.changes]
        self._shown: list[list[float]] = [[] for _ in (*rule.levels, *rule.changes)]
        self._past: list[list[float]] = [[] for _ in self._shown]

    def __call__(self, at: Sequence[datetime], values: Sequence[float]) -> float:
        """The strength of agreement."""
        now: list[float] = []
        for place in range(self._seen, len(values)):
            now = self._take(values[place])
        self._seen = len(values)
        rule = self._rule
        ratios = [
            value / max(rule.least, rule.ratio * _quantile(past, rule.quantile))
            for value, past in zip(now, self._past, strict=True)
        ]
        return sorted(ratios)[-rule.need]

    def _take(self, value: float) -> list[float]:
        rule, logs = self._rule, self._logs
        logs.append(math.log(value))
        newest, count, now = logs[-1], len(logs), list[float]()
        for view in rule.levels:
            last = max(0, count - view.guard)
            window = sorted(logs[max(0, last - view.observations) : last])
            now.append(self._distance(newest, window, view.min_observations))
        for k, changes, ordered in zip(rule.changes, self._changes, self._ordered, strict=True):
            change = newest - logs[-1 - k] if count > k else math.nan
            changes.append(change)
            self._move(changes, ordered)
            spread = _spread(ordered)[1] if len(ordered) >= rule.min_memory else math.nan
            now.append(change / max(spread, rule.floor))
        for shown, past, one in zip(self._shown, self._past, now, strict=True):
            shown.append(one)
            self._move(shown, past)
        return now

    def _distance(self, value: float, window: list[float], at_least: int) -> float:
        if len(window) < at_least:
            return math.nan
        middle, spread = _spread(window)
        return (value - middle) / max(spread, self._rule.floor)

    def _move(self, row: list[float], ordered: list[float]) -> None:
        """Takes in the number ``guard`` back, and out the one that is ``memory`` older."""
        new = -1 - self._rule.guard
        old = new - self._rule.memory
        if len(row) >= -old and not math.isnan(row[old]):
            del ordered[bisect_left(ordered, row[old])]
        if len(row) >= -new and not math.isnan(row[new]):
            insort(ordered, row[new])


def _level(values: Sequence[float]) -> tuple[float, float]:
    mean = fmean(values)
    squares = [(value - mean) ** 2 for value in values]
    return mean, math.sqrt(sum(squares) / (len(values) - 1))


def _spread(ordered: list[float]) -> tuple[float, float]:
    """Median, and median absolute deviation as a standard deviation, of numbers in order."""
    half = len(ordered) // 2
    middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    return middle, 1.4826 * median(abs(value - middle) for value in ordered)


def _quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
