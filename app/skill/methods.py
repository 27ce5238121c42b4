"""The questions of a profile asked by textbook methods, and by agreement with other constants.

Constants of the methods are those of their sources, none of them tuned. All are one-sided in the
direction of harm, and clear as the profile does: at six tenths of the limit, after as many
observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from alerts.mechanisms import Profile
from alerts.rules import (
    Agreement,
    Band,
    Cusum,
    Direction,
    Ears,
    EarsMethod,
    Ewma,
    LastObservations,
    Measured,
    Method,
    PercentChange,
    Rule,
    ZScore,
)
from alerts.signals import Severity
from alerts.skill import Cadence, cadence_of
from app import documents

HELD = 0.6
"""The part of its limit above which a method holds, as in the profile."""

WITHOUT_PERCENT = frozenset({"gscpi"})
"""Indices that pass through zero, of which there is no percentage."""


class Span(NamedTuple):
    """How far a method looks back, in observations."""

    baseline: int
    at_least: int
    run: int
    mean_of: int
    naive: int


SPANS = {
    Cadence.daily: Span(365, 180, 28, 7, 84),
    Cadence.weekly: Span(104, 52, 8, 1, 12),
    Cadence.monthly: Span(60, 24, 6, 1, 12),
}
"""By how often a series is observed."""

Make = Callable[[Direction, Span], Measured]


def _ears(method: EarsMethod) -> Make:
    def make(direction: Direction, span: Span) -> Ears:
        del span
        return Ears("ears", direction, method, _bands(direction.sign * 3.0))

    return make


def _robust_z(direction: Direction, span: Span) -> ZScore:
    baseline = LastObservations("last_observations", span.baseline, span.at_least)
    bands = _bands(direction.sign * 3.5)
    return ZScore("z_score", direction, Method.robust, baseline, bands)


def _ewma(direction: Direction, span: Span) -> Ewma:
    baseline = LastObservations("last_observations", span.baseline, span.at_least)
    return Ewma("ewma", direction, 0.2, span.run, baseline, _bands(direction.sign * 3.0))


def _cusum(direction: Direction, span: Span) -> Cusum:
    baseline = LastObservations("last_observations", span.baseline, span.at_least)
    return Cusum("cusum", direction, 0.5, span.run, baseline, _bands(5.0))


def _naive(direction: Direction, span: Span) -> PercentChange:
    baseline = LastObservations("last_observations", span.naive, span.naive // 2)
    bands = _bands(direction.sign * 0.25)
    return PercentChange("percent_change", direction, baseline, bands, span.mean_of)


_SPANS_SAID = "365 days, 104 weeks or 60 months"

METHODS: dict[str, tuple[Make, str]] = {
    "EARS C1": (
        _ears(EarsMethod.c1),
        "3 standard deviations from the mean of the 7 observations before (R `surveillance`)",
    ),
    "EARS C2": (_ears(EarsMethod.c2), "the same, the two newest observations before left out"),
    "robust z": (
        _robust_z,
        "3.5 robust spreads (Iglewicz and Hoaglin 1993) from the median of the newest observations: "
        + _SPANS_SAID,
    ),
    "EWMA": (
        _ewma,
        "weight 0.2, limit 3 (NIST e-Handbook 6.3.2.4), over the newest 28 days, 8 weeks or 6 months, "
        "beside mean and deviation of those before: " + _SPANS_SAID,
    ),
    "CUSUM": (
        _cusum,
        "slack 0.5, limit 5 deviations (Montgomery, Statistical Quality Control), over the same spans",
    ),
    "25 %": (
        _naive,
        "a quarter from the median of the 84 days (by the mean of a week), 12 weeks or 12 months before",
    ),
}
"""How each method is made, and its constants in words."""


def compared(profile: Profile) -> dict[str, Profile]:
    """The profile's questions, each indicator once, asked by each method."""
    return {
        name: replace(profile, id=f"{profile.id}-by-{number}", rules=_asked_by(profile, make, name))
        for number, (name, (make, _)) in enumerate(METHODS.items(), start=1)
    }


def _asked_by(profile: Profile, make: Make, name: str) -> tuple[Rule, ...]:
    indicators = documents.load_catalogue().indicators
    asked: set[str] = set()
    rules: list[Rule] = []
    for rule in profile.rules:
        own = tuple(
            code
            for code in rule.indicators
            if code not in asked and not (name == "25 %" and code in WITHOUT_PERCENT)
        )
        asked.update(own)
        if own and isinstance(rule.detector, Measured):
            cadence = cadence_of(indicators[own[0]].every_days)
            detector = make(rule.detector.direction, SPANS[cadence])
            rules.append(replace(rule, indicators=own, detector=detector))
    return tuple(rules)


def _bands(limit: float) -> tuple[Band, ...]:
    return (Band(Severity.moderate, limit, HELD * limit),)


class Point(NamedTuple):
    """Constants of agreement: by how much ``ratio`` and ``need`` differ from the shipped ones."""

    ratio: float
    quantile: float
    need: int


SHIPPED = Point(0.0, 0.98, 0)

GRID = tuple(Point(*p) for p in product((-0.25, 0.0, 0.25), (0.97, 0.98, 0.99), (-1, 0, 1)))
"""What is chosen from where a series is left out."""


def grid(profile: Profile) -> dict[Point, Profile]:
    """The profile with the constants of each point in all its agreements."""
    return {
        point: replace(
            profile,
            id=f"{profile.id}-at-{number}",
            rules=tuple(_moved(rule, point) for rule in profile.rules),
        )
        for number, point in enumerate(GRID, start=1)
    }


def _moved(rule: Rule, point: Point) -> Rule:
    detector = rule.detector
    if not isinstance(detector, Agreement):
        return rule
    moved = replace(
        detector,
        ratio=detector.ratio + point.ratio,
        quantile=point.quantile,
        need=detector.need + point.need,
    )
    return replace(rule, detector=moved)
