"""Z-scores and control charts: how unusual a value is, in the spreads of its own past.

Sources: NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.2.3 (CUSUM) and 6.3.2.4 (EWMA);
Iglewicz and Hoaglin 1993 for the robust z-score; R ``surveillance::earsC`` for EARS.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from alerts.detectors.baselines import (
    counted,
    earlier_values,
    mean,
    newest,
    reach_of_baseline,
)
from alerts.detectors.reading import BEYOND, TOLERANCE, Measure, Reading, compare, undefined
from alerts.rules import (
    Band,
    Cusum,
    Direction,
    Ears,
    EarsMethod,
    Ewma,
    Method,
    Reset,
    Target,
    Transform,
    ZScore,
    towards,
)
from alerts.signals import Sample

MAD_OF_NORMAL = 0.6745
"""The median absolute deviation of a normal distribution, in standard deviations."""

MEAN_AD_TO_SD = 1.2533
"""The standard deviation of a normal distribution, in mean absolute deviations."""

ROUNDING = 1e-12
"""A spread this small beside its values is only rounding: it is none."""

NO_SPREAD = "the observations compared with do not differ, so nothing is unusual by comparison"

C3_OBSERVATIONS = 3
"""C3 sums the C2 of the tested observation and of the two before it."""

_instant = attrgetter("at")


class Level(NamedTuple):
    """What is normal: a middle and a spread, both of transformed values; or why there is none."""

    middle: float = 0.0
    spread: float = 0.0
    missing: str = ""


def read_z_score(detector: ZScore, window: Sequence[Sample], frozen_at: datetime | None) -> Reading:
    """How many spreads the value, or the mean of the newest, lies from its baseline.

    A target's mean is in the indicator's unit and transformed as values are; its spread is that
    of transformed values.
    """
    rule = detector.baseline
    tested, missing = newest(window, detector.mean_of, reach_of_baseline(rule).span)
    if missing:
        return undefined(detector.bands, tested, missing)
    (value,), missing = transformed(detector.transform, [tested.value])
    level = Level(missing=missing)
    if not missing and isinstance(rule, Target):
        level = _target(rule, detector.transform, detector.min_spread)
    elif not missing:
        earlier = len(window) - detector.mean_of
        values, missing = earlier_values(rule, window, earlier, frozen_at)
        level = level_of(values, missing, detector.transform, detector.min_spread, detector.method)
    if level.missing:
        return undefined(detector.bands, tested, level.missing)
    z = (value - level.middle) / level.spread
    measures = (Measure("spread", level.spread),)
    normal = untransformed(detector.transform, level.middle)
    return compare(detector.direction, detector.bands, tested, z, normal, measures)


def read_ewma(detector: Ewma, window: Sequence[Sample], frozen_at: datetime | None) -> Reading:
    """The exponentially weighted mean of the newest observations, in its own standard deviations.

    While frozen the baseline stays the one that ended ``run`` observations before the onset, and
    the mean still runs over the newest ``run``: a reading never costs more than both together.
    """
    tested = window[-1]
    level, scores = _run(detector, window, frozen_at)
    weight, smooth, left = detector.weight, 0.0, 1.0
    for score in scores:
        smooth += weight * (score - smooth)
        left *= (1 - weight) ** 2
    # The variance of a mean that has run for t observations; as t grows it nears weight/(2-weight).
    width = math.sqrt(weight / (2 - weight) * (1 - left))
    missing = level.missing or ("" if width > 0 else "its weight is too small to be told from zero")
    if missing:
        return undefined(detector.bands, tested, missing)
    limit = level.middle + _lowest(detector.direction, detector.bands) * width * level.spread
    measures = (
        Measure("weighted mean", level.middle + smooth * level.spread, limit),
        Measure("spread", level.spread),
    )
    return compare(
        detector.direction,
        detector.bands,
        tested,
        smooth / width,
        untransformed(detector.transform, level.middle),
        measures,
    )


def read_cusum(detector: Cusum, window: Sequence[Sample], frozen_at: datetime | None) -> Reading:
    """The sum of how far the newest observations lie from the mean beyond a slack, in spreads.

    Frozen as the EWMA is. The sum grows with harm whichever way that is, and so do its bands.
    """
    tested = window[-1]
    level, scores = _run(detector, window, frozen_at)
    if level.missing:
        return undefined(detector.bands, tested, level.missing)
    limit = _lowest(towards(detector), detector.bands)
    above = below = 0.0
    for score in scores:
        if (
            detector.reset is Reset.after_alarm
            and _sum(detector, above, below) >= limit - TOLERANCE
        ):
            above = below = 0.0
        above = max(0.0, above + score - detector.slack)
        below = max(0.0, below - score - detector.slack)
    asked = {"sum above": above, "sum below": below}
    if not detector.two_sided:
        del asked["sum below" if detector.direction is Direction.up else "sum above"]
    measures = tuple(Measure(name, value, limit) for name, value in asked.items())
    return compare(
        towards(detector),
        detector.bands,
        tested,
        _sum(detector, above, below),
        untransformed(detector.transform, level.middle),
        (*measures, Measure("spread", level.spread)),
    )


def read_ears(detector: Ears, window: Sequence[Sample]) -> Reading:
    """EARS C1, C2 or C3 of the newest observation.

    It is about the newest observations, so it is not frozen: C2 and C3 keep the two newest out of
    their baseline instead. C1 can first be read of observation ``observations`` + 1, C2 of + 3 and
    C3 of + 5, as in R ``surveillance::earsC``.
    """
    tested = window[-1]
    needed = reach_of_ears(detector) + 1
    if len(window) < needed:
        missing = f"{detector.method.value} needs {counted(needed)} and has {len(window)}"
        return undefined(detector.bands, tested, missing)
    guard = 0 if detector.method is EarsMethod.c1 else 2
    days = C3_OBSERVATIONS if detector.method is EarsMethod.c3 else 1
    scores: list[float] = []
    levels: list[Level] = []
    for back in range(days):
        place = len(window) - 1 - back
        before = [s.value for s in window[place - guard - detector.observations : place - guard]]
        level = level_of(before, "", detector.transform, detector.min_sigma, Method.classic)
        (value,), missing = transformed(detector.transform, [window[place].value])
        if level.missing or missing:
            return undefined(detector.bands, tested, level.missing or missing)
        scores.append((value - level.middle) / level.spread)
        levels.append(level)
    score = scores[0]
    measures: tuple[Measure, ...] = (Measure("spread", levels[0].spread),)
    if detector.method is EarsMethod.c3:
        sign = detector.direction.sign
        score = sign * math.fsum(max(0.0, sign * one - 1) for one in scores)
        names = ("C2", "C2 one before", "C2 two before")
        measures += tuple(Measure(n, one) for n, one in zip(names, scores, strict=True))
    normal = untransformed(detector.transform, levels[0].middle)
    return compare(detector.direction, detector.bands, tested, score, normal, measures)


def reach_of_ears(detector: Ears) -> int:
    """How many observations before the tested one EARS looks at."""
    more = {EarsMethod.c1: 0, EarsMethod.c2: 2, EarsMethod.c3: 2 + C3_OBSERVATIONS - 1}
    return detector.observations + more[detector.method]


def level_of(
    values: Sequence[float],
    missing: str,
    transform: Transform,
    min_spread: float,
    method: Method,
) -> Level:
    """The middle and spread of values, at least ``min_spread``; or why they have none.

    Classic: mean and standard deviation (n - 1). Robust: median and MAD / 0.6745, or 1.2533 times
    the mean absolute deviation from the median where more than half of the values tie.
    """
    if not missing:
        values, missing = transformed(transform, values)
    if missing:
        return Level(missing=missing)
    if method is Method.robust:
        centre = median(values)
        spread = robust_spread(values, centre)
    else:
        centre = mean(values)
        spread = standard_deviation(values, centre)
    return _with_spread(centre, spread, min_spread)


def robust_spread(values: Sequence[float], centre: float) -> float:
    """The spread around the median that outliers do not move; 0 where all values tie."""
    away = [abs(value - centre) for value in values]
    smallest = ROUNDING * max(-min(values), *values)
    mad = median(away)
    if mad > smallest:
        return mad / MAD_OF_NORMAL
    mean_away = mean(away)
    return MEAN_AD_TO_SD * mean_away if mean_away > smallest else 0.0


def standard_deviation(values: Sequence[float], centre: float) -> float:
    """The sample's standard deviation (n - 1) around its mean; 0 where all tie, or of one value."""
    if len(values) < 2:
        return 0.0
    spread = math.hypot(*(value - centre for value in values)) / math.sqrt(len(values) - 1)
    return spread if spread > ROUNDING * max(-min(values), *values) else 0.0


def transformed(transform: Transform, values: Sequence[float]) -> tuple[list[float], str]:
    """Values as they are compared, and why one of them cannot be."""
    match transform:
        case Transform.identity:
            return list(values), ""
        case Transform.log:
            try:
                return list(map(math.log, values)), ""
            except ValueError:  # Of zero and of less.
                lacks = next(v for v in values if v <= 0)
                return list(values), f"there is no logarithm of {lacks:g}"
        case Transform.square_root:
            try:
                return [2 * math.sqrt(v + 0.375) for v in values], ""
            except ValueError:
                lacks = next(v for v in values if v < -0.375)
                return list(values), f"there is no square root of {lacks:g} + 3/8"


def untransformed(transform: Transform, value: float) -> float:
    """A transformed middle in the indicator's unit again; infinite beyond all numbers."""
    match transform:
        case Transform.identity:
            return value
        case Transform.log:
            try:
                return math.exp(value)
            except OverflowError:
                return math.inf
        case Transform.square_root:
            return (value / 2) * (value / 2) - 0.375


def _run(
    detector: Ewma | Cusum, window: Sequence[Sample], frozen_at: datetime | None
) -> tuple[Level, list[float]]:
    """What is normal, and how many spreads each of the newest ``run`` observations lies from it.

    The baseline ends where the run of the tested observation begins; while frozen, where the run
    of the onset did. Its middle is always the mean. With a known mean the run may be shorter, at
    the beginning of a series.
    """
    values, missing = transformed(detector.transform, [s.value for s in window[-detector.run :]])
    if missing:
        return Level(missing=missing), []
    if isinstance(detector.baseline, Target):
        level = _target(detector.baseline, detector.transform, detector.min_spread)
    else:
        tested = len(window) - 1
        if frozen_at is not None:
            tested = bisect_left(window, frozen_at, hi=tested, key=_instant)
        begun = max(tested + 1 - detector.run, 0)
        normal, missing = earlier_values(detector.baseline, window, begun, None)
        if missing:
            missing = f"{missing}, before the newest {counted(detector.run)}"
        level = level_of(normal, missing, detector.transform, detector.min_spread, Method.classic)
    if level.missing:
        return level, []
    scores = [(value - level.middle) / level.spread for value in values]
    return (level if all(map(math.isfinite, scores)) else Level(missing=BEYOND)), scores


def _target(rule: Target, transform: Transform, min_spread: float) -> Level:
    (middle,), missing = transformed(transform, [rule.mean])
    if missing:
        return Level(missing=missing)
    return _with_spread(middle, rule.spread or 0.0, min_spread)


def _with_spread(middle: float, spread: float, min_spread: float) -> Level:
    spread = max(spread, min_spread)
    if not math.isfinite(middle) or not math.isfinite(spread):
        return Level(missing=BEYOND)
    return Level(middle, spread) if spread > 0 else Level(missing=NO_SPREAD)


def _sum(detector: Cusum, above: float, below: float) -> float:
    if detector.two_sided:
        return max(above, below)
    return above if detector.direction is Direction.up else below


def _lowest(direction: Direction, bands: Sequence[Band]) -> float:
    """The limit at which the mildest severity is raised."""
    return direction.sign * min(direction.sign * band.raise_at for band in bands)
