"""Detectors that compare a value, or how it changed, with bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from alerts.detectors.baselines import (
    counted,
    earlier_values,
    mean,
    middle,
    newest,
    reach_of_baseline,
)
from alerts.detectors.reading import TOLERANCE, Measure, Reading, compare, undefined
from alerts.rules import Bands, PercentChange, RateOfChange, Run, SiteHazard, towards
from alerts.signals import Sample


def read_bands(detector: Bands, window: Sequence[Sample]) -> Reading:
    """The value itself beside the bands, in the indicator's unit."""
    tested = window[-1]
    return compare(detector.direction, detector.bands, tested, tested.value)


def read_percent_change(
    detector: PercentChange, window: Sequence[Sample], frozen_at: datetime | None
) -> Reading:
    """By what fraction of its baseline the value, or the mean of the newest, lies away from it.

    A baseline of zero has no fractions: the reading is undefined, however large the value.
    """
    rule = detector.baseline
    tested, missing = window[-1], ""
    if detector.mean_of > 1:  # Else nothing is averaged, and how far back it may is not worked out.
        tested, missing = newest(window, detector.mean_of, reach_of_baseline(rule).span)
    if missing:
        return undefined(detector.bands, tested, missing)
    earlier = len(window) - detector.mean_of
    values, missing = earlier_values(rule, window, earlier, frozen_at)
    if missing:
        return undefined(detector.bands, tested, missing)
    baseline = middle(rule, values)
    if abs(baseline) < TOLERANCE:
        return undefined(detector.bands, tested, "the baseline is zero")
    change = (tested.value - baseline) / abs(baseline)
    return compare(detector.direction, detector.bands, tested, change, baseline)


def read_rate_of_change(detector: RateOfChange, window: Sequence[Sample]) -> Reading:
    """The slope of the least-squares line through the newest observations, per observation.

    It is about the newest observations, so it is not frozen; gaps between them do not count.
    """
    tested, count = window[-1], detector.observations
    if len(window) < count:
        missing = f"it needs {counted(count)} for a slope and has {len(window)}"
        return undefined(detector.bands, tested, missing)
    values = [s.value for s in window[-count:]]
    centre = (count - 1) / 2
    places = [place - centre for place in range(count)]
    weight = math.fsum(p * p for p in places)
    moved = [p / weight * value for p, value in zip(places, values, strict=True)]
    slope = mean(moved) * count if all(map(math.isfinite, moved)) else math.inf
    if not detector.relative:
        return compare(detector.direction, detector.bands, tested, slope)
    level = mean(values)
    if abs(level) < TOLERANCE:
        return undefined(detector.bands, tested, "the mean that the slope is a fraction of is zero")
    measures = (Measure("slope", slope), Measure("mean", level))
    fraction = slope / abs(level) if math.isfinite(level) else math.inf
    return compare(detector.direction, detector.bands, tested, fraction, measures=measures)


def read_run(detector: Run, window: Sequence[Sample]) -> Reading:
    """How many moves in a row, up to the newest observation, were harmful and large enough.

    It is about the newest observations, so it is not frozen. A move of exactly ``least_move``
    counts; none that is zero does. The baseline is the value that the moves set out from.
    """
    tested = window[-1]
    if len(window) < 2:
        missing = "there is no observation before it to have moved from"
        return undefined(detector.bands, tested, missing)
    moves = 0
    for place in range(len(window) - 1, max(len(window) - 1 - detector.longest, 0), -1):
        before = window[place - 1].value
        move = detector.direction.sign * (window[place].value - before)
        if move <= 0 or move < (detector.least_move - TOLERANCE) * abs(before):
            break
        moves += 1
    begun = window[-1 - max(moves, 1)].value
    return compare(towards(detector), detector.bands, tested, float(moves), begun)


def read_site_hazard(detector: SiteHazard, window: Sequence[Sample], place: str) -> Reading:
    """What a hazard means at a site: its size times exposure times vulnerability (GDACS)."""
    tested = window[-1]
    site = next((s for s in detector.sites if s.place == place), None)
    if site is None:
        named = f"the place {place}" if place else "a series without a place"
        return undefined(detector.bands, tested, f"{named} is not in the register of sites")
    score = tested.value * site.exposure * site.vulnerability
    measures = (
        Measure("hazard", tested.value),
        Measure("exposure", site.exposure),
        Measure("vulnerability", site.vulnerability),
    )
    return compare(detector.direction, detector.bands, tested, score, measures=measures)
