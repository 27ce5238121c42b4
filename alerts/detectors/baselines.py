"""Which earlier observations a value is compared with. The tested one is never among them.

While frozen, nothing observed at or after the onset is either.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from statistics import median
from typing import assert_never

from alerts.detectors.reading import BEYOND, MONTHS, Reach
from alerts.rules import (
    Baseline,
    LastObservations,
    MedianOfWindow,
    Previous,
    SameMonthLastYear,
    SamePeriod,
    Statistic,
    Target,
)
from alerts.signals import Sample

MONTH_AND_YEAR = timedelta(days=366 + 31)
"""From any day back to the first of its month a year before, leap years included."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)

_instant = attrgetter("at")


def newest(window: Sequence[Sample], mean_of: int, span: timedelta) -> tuple[Sample, str]:
    """What is tested: the newest sample, or the mean of so many; and why it cannot be made.

    A mean does not look further back than ``span``, where there is one: what is so old would not
    be known to every window.
    """
    tested = window[-1]
    if mean_of == 1:
        return tested, ""
    averaged = [s.value for s in window[-mean_of:] if not span or s.at >= tested.at - span]
    if len(averaged) < mean_of:
        return tested, f"it averages {mean_of} observations and has {len(averaged)}"
    value = mean(averaged)
    return (Sample(tested.at, value), "") if math.isfinite(value) else (tested, BEYOND)


def earlier_values(
    rule: Baseline, window: Sequence[Sample], earlier: int, frozen_at: datetime | None
) -> tuple[list[float], str]:
    """The values compared with, oldest first; or none, and why in words.

    Args:
        rule: which ones to compare with.
        window: samples oldest first, the tested one last.
        earlier: how many of them come before what is tested or averaged.
        frozen_at: only samples before this instant count.
    """
    before = earlier
    if frozen_at is not None:
        before = bisect_left(window, frozen_at, hi=earlier, key=_instant)
    match rule:
        case MedianOfWindow():
            begin, end = median_span(rule, window[-1].at, frozen_at)
            first = bisect_left(window, begin, hi=before, key=_instant)
            last = bisect_left(window, end, hi=before, key=_instant)
            where = f" from the {rule.days:g} days before"
            return _enough(window[first:last], rule.min_observations, where)
        case LastObservations():
            last = max(min(earlier - rule.guard, before), 0)
            found = window[max(last - rule.observations, 0) : last]
            return _enough(found, rule.min_observations, " to compare with")
        case SamePeriod():
            return _same_period(rule, window, before, frozen_at)
        case SameMonthLastYear():
            return _same_month(window, before, frozen_at)
        case Previous():
            place = min(earlier - rule.back, before - 1)
            if place < 0:
                return [], f"there is no observation {rule.back} before it to compare with"
            return [window[place].value], ""
        case Target():
            return [rule.mean], ""
        case _ as never:
            assert_never(never)


def middle(rule: Baseline, values: Sequence[float]) -> float:
    """What stands for the values compared with; infinite where they are beyond all numbers."""
    is_mean = isinstance(rule, LastObservations | SamePeriod) and rule.statistic is Statistic.mean
    return mean(values) if is_mean else median(values)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, correctly rounded; infinite where the sum is beyond all numbers."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.inf


def reach_of_baseline(rule: Baseline) -> Reach:
    """How far before the tested sample, or the frozen onset, the values compared with lie."""
    match rule:
        case MedianOfWindow():
            return Reach(timedelta(days=rule.days + rule.guard_days))
        case LastObservations():
            return Reach(observations=rule.observations + rule.guard)
        case SamePeriod():
            # Frozen, the newest period ends just before the onset, or up to a year earlier.
            return Reach(timedelta(days=366 * rule.years + 2 * rule.width_days))
        case SameMonthLastYear():
            return Reach(MONTH_AND_YEAR)
        case Previous():
            return Reach(observations=rule.back)
        case Target():
            return Reach()
        case _ as never:
            assert_never(never)


def median_span(
    rule: MedianOfWindow, tested: datetime, frozen_at: datetime | None
) -> tuple[datetime, datetime]:
    """The span whose median is the baseline; its end is not part of it."""
    end = tested - timedelta(days=rule.guard_days)
    if frozen_at is not None and frozen_at < end:
        end = frozen_at
    return end - timedelta(days=rule.days), end


def year_compared(tested: datetime, frozen_at: datetime | None) -> int:
    """The year whose same month is the baseline: the last one that ended before the limit.

    The limit is the tested instant, or the frozen one where that is earlier: a month begun before
    a crisis is compared with its like of before, however many years that is.
    """
    limit = tested if frozen_at is None else min(tested, frozen_at)
    year = tested.year - 1
    while (year, tested.month) >= (limit.year, limit.month):
        year -= 1
    return year


def periods_compared(
    rule: SamePeriod, tested: datetime, frozen_at: datetime | None
) -> list[tuple[datetime, datetime]]:
    """The same time of earlier years, newest first; both ends are part of it.

    The newest is the last one that ended before the tested instant, or before the frozen one
    where that is earlier; the others are those of the years before it. 29 February is compared
    with 28 February. Periods so wide that they meet are cut, so that nothing counts twice.
    """
    limit = tested if frozen_at is None else min(tested, frozen_at)
    width = timedelta(days=rule.width_days)
    periods: list[tuple[datetime, datetime]] = []
    for year in range(tested.year - 1, 0, -1):
        is_leap_day = (tested.month, tested.day) == (2, 29)
        centre = tested.replace(year=year, day=28 if is_leap_day else tested.day)
        if centre + width >= limit:
            continue
        begin = centre - min(width, centre - _BEGINNING)
        end = centre + width
        if periods:
            end = min(end, periods[-1][0] - timedelta(microseconds=1))
        periods.append((begin, end))
        if len(periods) == rule.years:
            break
    return periods


def counted(count: int, noun: str = "observation") -> str:
    """How many of something, in words: "1 observation", "3 observations"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _enough(found: Sequence[Sample], wanted: int, where: str) -> tuple[list[float], str]:
    """The values; or why they are too few. At least one is needed whatever is asked for."""
    wanted = max(wanted, 1)
    if len(found) < wanted:
        return [], f"it needs {counted(wanted)}{where} and has {len(found)}"
    return [s.value for s in found], ""


def _same_period(
    rule: SamePeriod, window: Sequence[Sample], before: int, frozen_at: datetime | None
) -> tuple[list[float], str]:
    tested = window[-1].at
    found: list[Sample] = []
    years = 0
    for begin, end in reversed(periods_compared(rule, tested, frozen_at)):
        first = bisect_left(window, begin, hi=before, key=_instant)
        last = bisect_right(window, end, hi=before, key=_instant)
        years += last > first
        found += window[first:last]
    wanted = max(rule.min_observations, 1)
    if len(found) < wanted or years < rule.min_years:
        when = f"{tested.day} {MONTHS[tested.month - 1]}"
        needs = f"{counted(wanted)} about {when} of at least {counted(rule.min_years, 'year')}"
        return [], f"it needs {needs} before and has {len(found)} of {years}"
    return [s.value for s in found], ""


def _same_month(
    window: Sequence[Sample], before: int, frozen_at: datetime | None
) -> tuple[list[float], str]:
    tested = window[-1].at
    year = year_compared(tested, frozen_at)
    if year < 1:
        return [], "there is no year before to compare with"
    after = tested.replace(year=year, day=1, hour=0, minute=0, second=0, microsecond=0)
    after += timedelta(days=32)
    place = bisect_left(window, after.replace(day=1), hi=before, key=_instant) - 1
    if place >= 0 and (window[place].at.year, window[place].at.month) == (year, tested.month):
        return [window[place].value], ""
    return [], f"no observation of {MONTHS[tested.month - 1]} {year} is known to compare with"
