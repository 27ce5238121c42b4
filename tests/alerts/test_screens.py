"""Screens: what a look calls calm, a reading calls calm; nearly all that is calm, a look calls calm."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import detectors
from alerts.detectors.screens import screen_of
from alerts.rules import (
    Baseline,
    LastObservations,
    Measured,
    Previous,
    Rule,
    SamePeriod,
    Statistic,
    Target,
    Trust,
)
from alerts.signals import Sample
from tests.alerts.cast import (
    MINOR,
    MODERATE,
    SAME_MONTH,
    at,
    bands,
    change,
    daily,
    days,
    median_of,
    rule,
)
from tests.alerts.histories import law

BASELINES: tuple[Baseline, ...] = (
    median_of(5),
    median_of(3, observations=2, guard=1.5),
    LastObservations("last_observations", 4, 2),
    LastObservations("last_observations", 3, 1, guard=1, statistic=Statistic.mean),
    Previous("previous", 2),
    Target("target", 100.0),
    Target("target", 0.0),
)
UP = ((MINOR, 0.2, 0.1), (MODERATE, 0.5, 0.4))
DOWN = ((MINOR, -0.2, -0.1), (MODERATE, -0.5, -0.4))
DETECTORS: tuple[Measured, ...] = (
    bands((MINOR, 110, 105), (MODERATE, 120, 115)),
    bands((MODERATE, 80, 85), (MINOR, 90, 95), direction="down"),
    *(
        replace(change(*limits, baseline=median_of(1), direction=way), baseline=baseline)
        for baseline in BASELINES
        for limits, way in ((UP, "up"), (DOWN, "down"))
    ),
)
VALUES = st.one_of(
    st.floats(50, 150),
    st.sampled_from(
        [0.0, 80.0, 100.0, 110.0, 120.0, 150.0, -1e-12, 1e308, -1e308, math.inf, math.nan]
    ),
)
STEPS = st.lists(st.sampled_from([0.25, 1.0, 1.5, 4.0]), min_size=1, max_size=12)


@law(300)
@given(data=st.data(), steps=STEPS, detector=st.sampled_from(DETECTORS))
def test_what_a_look_calls_calm_a_reading_calls_calm(
    data: st.DataObject, steps: list[float], detector: Measured
) -> None:
    screen = screen_of(rule("lead_time", detector))
    assert screen is not None
    instants = [at("2026-01-01") + days(sum(steps[: n + 1])) for n in range(len(steps))]
    values = data.draw(st.lists(VALUES, min_size=len(steps), max_size=len(steps)))
    window = [Sample(i, v) for i, v in zip(instants, values, strict=True)]
    ours = [(i - at("1970-01-01")) // days(1 / 86_400_000_000) for i in instants]
    reading = detectors.read(detector, window)
    assert screen(ours, values) == reading.is_calm


HANGS_ON_MORE: list[tuple[str, Rule]] = [
    ("who says so", replace(rule("lead_time", DETECTORS[0]), trust=Trust())),
    ("how young the series is", replace(rule("lead_time", DETECTORS[0]), young_until=5)),
    ("the day", replace(rule("lead_time", DETECTORS[0]), effective_from=date(2026, 1, 1))),
    ("a mean", rule("lead_time", change(*UP, baseline=median_of(5), mean_of=3))),
    ("the month", rule("lead_time", change(*UP, baseline=SAME_MONTH))),
    (
        "the season",
        rule(
            "lead_time",
            replace(
                change(*UP, baseline=median_of(5)), baseline=SamePeriod("same_period", 2, 5, 1, 1)
            ),
        ),
    ),
]


@pytest.mark.parametrize(("what", "asked"), HANGS_ON_MORE, ids=[what for what, _ in HANGS_ON_MORE])
def test_a_rule_that_hangs_on_more_has_no_screen(what: str, asked: Rule) -> None:
    assert screen_of(asked) is None, what


def test_a_value_equal_to_the_threshold_is_not_calm() -> None:
    screen = screen_of(rule("lead_time", bands((MINOR, 14, 13))))
    assert screen is not None
    window = daily("2026-01-01", 14.0)
    assert not screen([0], [window[0].value])
    assert screen([0], [13.999])
