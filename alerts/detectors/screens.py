"""Whether a sample is surely calm, on bare numbers: nearly every one is, and needs no reading.

A screen says less than ``read``: where it says calm, the reading is calm; where it does not, ``read``
is asked. A test holds the two together.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import timedelta
from statistics import median

from alerts.detectors.baselines import middle
from alerts.detectors.reading import TOLERANCE
from alerts.rules import (
    Band,
    Bands,
    Baseline,
    Direction,
    LastObservations,
    MedianOfWindow,
    PercentChange,
    Previous,
    Rule,
    Target,
)

Screen = Callable[[Sequence[int], Sequence[float]], bool]
"""Given the instants, in microseconds, and the values of a window, oldest first, the tested one last and
nothing frozen: whether the newest is surely calm. The window reaches back as for ``read``."""

_Middle = Callable[[Sequence[int], Sequence[float]], float | None]

_MICROSECOND = timedelta(microseconds=1)


def screen_of(rule: Rule) -> Screen | None:
    """The screen of a rule; None for rules that hang on more than the window, or have none."""
    if rule.trust is not None or rule.young_until is not None or rule.effective_from is not None:
        return None
    match rule.detector:
        case Bands() as detector:
            return _value_screen(detector)
        case PercentChange(mean_of=1) as detector:
            return _change_screen(detector)
        case _:
            return None


def _value_screen(detector: Bands) -> Screen:
    sign, least = detector.direction.sign, _least(detector.direction, detector.bands)

    def is_calm(instants: Sequence[int], values: Sequence[float]) -> bool:
        return -math.inf < sign * values[-1] < least

    return is_calm


def _change_screen(detector: PercentChange) -> Screen | None:
    sign, least = detector.direction.sign, _least(detector.direction, detector.bands)
    compared_with = _middle_of(detector.baseline)
    if compared_with is None:
        return None

    def is_calm(instants: Sequence[int], values: Sequence[float]) -> bool:
        baseline = compared_with(instants, values)
        if baseline is None or not TOLERANCE <= abs(baseline) < math.inf:
            return False
        return -math.inf < sign * ((values[-1] - baseline) / abs(baseline)) < least

    return is_calm


def _middle_of(rule: Baseline) -> _Middle | None:
    match rule:
        case MedianOfWindow():
            guard = timedelta(days=rule.guard_days) // _MICROSECOND
            span = timedelta(days=rule.days) // _MICROSECOND
            wanted = max(rule.min_observations, 1)

            def of_window(instants: Sequence[int], values: Sequence[float]) -> float | None:
                end = instants[-1] - guard
                before = len(instants) - 1
                last = bisect_left(instants, end, hi=before) if guard else before
                first = bisect_left(instants, end - span, hi=last)
                return median(values[first:last]) if last - first >= wanted else None

            return of_window
        case LastObservations():
            least = max(rule.min_observations, 1)

            def of_last(instants: Sequence[int], values: Sequence[float]) -> float | None:
                last = max(len(values) - 1 - rule.guard, 0)
                found = values[max(last - rule.observations, 0) : last]
                return middle(rule, found) if len(found) >= least else None

            return of_last
        case Previous():
            return lambda _, values: values[-1 - rule.back] if len(values) > rule.back else None
        case Target():
            return lambda _, __: rule.mean
        case _:
            return None


def _least(direction: Direction, bands: Sequence[Band]) -> float:
    """The harm from which on a band is breached, as ``compare`` has it."""
    return min(direction.sign * band.raise_at for band in bands) - TOLERANCE
