"""Z-scores and control charts: tables with a reason per row, and what must hold of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import detectors
from alerts.detectors.charts import NO_SPREAD
from alerts.detectors.reading import BEYOND, Reach, Reading
from alerts.rules import (
    Band,
    Baseline,
    Cusum,
    Direction,
    Ears,
    EarsMethod,
    Ewma,
    LastObservations,
    Measured,
    MedianOfWindow,
    Method,
    PercentChange,
    RateOfChange,
    Reset,
    SamePeriod,
    Target,
    Transform,
    ZScore,
)
from alerts.signals import Severity
from tests.alerts.cast import MINOR, MODERATE, NONE, at, daily, days, median_of, samples

UP, DOWN = Direction.up, Direction.down
LIMITS = (Band(MINOR, 3, 2), Band(MODERATE, 5, 4))
FALLS = (Band(MINOR, -3, -2), Band(MODERATE, -5, -4))


def last(count: int, guard: int = 0, least: int = 2) -> LastObservations:
    return LastObservations("last_observations", count, least, guard)


def z_score(
    method: str,
    baseline: MedianOfWindow | LastObservations | SamePeriod | Target,
    direction: Direction = UP,
    **more: object,
) -> ZScore:
    bands = LIMITS if direction is UP else FALLS
    return ZScore("z_score", direction, Method(method), baseline, bands, **more)  # type: ignore[arg-type]


def ewma(
    baseline: LastObservations | Target,
    run: int = 3,
    weight: float = 0.5,
    direction: Direction = UP,
    **more: object,
) -> Ewma:
    bands = LIMITS if direction is UP else FALLS
    return Ewma("ewma", direction, weight, run, baseline, bands, **more)  # type: ignore[arg-type]


def cusum(
    baseline: LastObservations | Target, run: int = 3, direction: Direction = UP, **more: object
) -> Cusum:
    return Cusum("cusum", direction, 0.5, run, baseline, LIMITS, **more)  # type: ignore[arg-type]


def ears(method: str, direction: Direction = UP, **more: object) -> Ears:
    bands = LIMITS if direction is UP else FALLS
    return Ears("ears", direction, EarsMethod(method), bands, **more)  # type: ignore[arg-type]


def read(detector: Measured, values: Sequence[float], frozen: str = "") -> Reading:
    return detectors.read(detector, daily("2024-01-01", *values), at(frozen) if frozen else None)


KNOWN = Target("target", 10, 2)


@pytest.mark.parametrize(
    ("detector", "values", "compared", "baseline", "raised", "reason"),
    [
        (z_score("classic", last(9)), (8, 10, 12, 16), 3.0, 10, MINOR, "sd 2 with n - 1"),
        (z_score("classic", last(9)), (8, 10, 12, 15.9), 2.95, 10, NONE, "not quite three"),
        (z_score("classic", last(9), DOWN), (8, 10, 12, 4), -3.0, 10, MINOR, "a fall by three"),
        (z_score("classic", last(9), DOWN), (8, 10, 12, 16), 3.0, 10, NONE, "a rise is no fall"),
        (z_score("classic", last(9, guard=1)), (8, 10, 12, 99, 16), 3.0, 10, MINOR,
         "the guard keeps yesterday's outlier out of the spread"),
        (z_score("classic", last(9), mean_of=2), (8, 10, 12, 14, 18), 3.0, 10, MINOR,
         "the mean of the newest two"),
        (z_score("classic", last(9), min_spread=4), (8, 10, 12, 16), 1.5, 10, NONE,
         "the spread is at least four"),
        (z_score("classic", last(9), min_spread=2), (10, 10, 10, 16), 3.0, 10, MINOR,
         "a least spread judges what never moved"),
        (z_score("classic", KNOWN), (20,), 5.0, 10, MODERATE, "a known mean and deviation"),
        (z_score("robust", KNOWN), (20,), 5.0, 10, MODERATE, "known is known, by either method"),
        (z_score("classic", Target("target", 10), min_spread=5), (20,), 2.0, 10, NONE,
         "a known mean with the least spread alone"),
        (z_score("robust", last(9)), (8, 9, 10, 11, 99, 16), 0.6745 * 6, 10, MINOR,
         "one outlier moves neither median nor MAD"),
        (z_score("robust", last(9)), (10, 10, 10, 10, 15, 16), 6 / 1.2533, 10, MINOR,
         "more than half tie: the mean absolute deviation, 1, takes over"),
        (z_score("robust", last(9), min_spread=3), (10, 10, 10, 10, 15, 16), 2.0, 10, NONE,
         "and is at least the least spread too"),
        (z_score("classic", last(9), transform=Transform.log), (1, 10, 100, 10000), 3.0, 10, MINOR,
         "in logarithms: the geometric mean, and factors of ten"),
        (z_score("classic", last(9), transform=Transform.square_root),
         (0.625, 3.625, 8.625, 24.625), 3.0, 3.625, MINOR, "Anscombe: 2, 4, 6 and then 10"),
        (z_score("robust", median_of(3)), (99, 8, 10, 12, 14), 1.349, 10, NONE, "three days"),
    ],
)  # fmt: skip
def test_a_z_score_counts_spreads(
    detector: ZScore,
    values: Sequence[float],
    compared: float,
    baseline: float,
    raised: Severity,
    reason: str,
) -> None:
    reading = read(detector, values)
    assert reading.compared == pytest.approx(compared), reason
    assert reading.baseline == pytest.approx(baseline), reason
    assert reading.raised is raised, reason


def test_a_frozen_z_score_keeps_the_spread_of_before() -> None:
    crisis = (8, 10, 12, 40, 60, 50, 16)
    assert read(z_score("classic", last(9)), crisis).raised is NONE
    assert read(z_score("classic", last(9)), crisis, "2024-01-04").compared == pytest.approx(3.0)


def test_a_z_score_against_the_same_weeks_of_earlier_years() -> None:
    season = SamePeriod("same_period", 3, 10, 2, 3)
    window = samples(
        ("2021-01-28", 8), ("2021-07-01", 90), ("2022-02-03", 10), ("2022-07-01", 95),
        ("2023-01-25", 12), ("2023-07-01", 99), ("2024-01-30", 16),
    )  # fmt: skip
    reading = detectors.read(z_score("classic", season), window)
    assert reading.compared == pytest.approx(3.0)
    assert reading.baseline == 10


@pytest.mark.parametrize(
    ("detector", "values", "compared", "reason"),
    [
        (ewma(KNOWN), (12,), 1.0, "the first limit is that of one weighted observation"),
        (ewma(KNOWN), (12, 12), 1.5 / math.sqrt(1.25), "then it widens towards that of many"),
        (ewma(KNOWN, run=1), (99, 12), 1.0, "a run of one forgets what was before"),
        (ewma(KNOWN, weight=1), (99, 12), 1.0, "a weight of one remembers nothing: a z-score"),
        (ewma(last(9), run=1), (8, 10, 12, 12), 1.0, "the baseline ends where the run begins"),
        (ewma(last(9), run=2), (8, 10, 12, 12, 12), 1.5 / math.sqrt(1.25), "with two as well"),
        (ewma(last(3, guard=1), run=1), (8, 10, 12, 99, 12), 1.0, "a guard before the run"),
        (ewma(KNOWN, direction=DOWN), (8,), -1.0, "a fall has its own sign"),
        (ewma(Target("target", 10), min_spread=2), (12,), 1.0, "the least spread"),
    ],
)
def test_an_ewma_in_its_own_deviations(
    detector: Ewma, values: Sequence[float], compared: float, reason: str
) -> None:
    assert read(detector, values).compared == pytest.approx(compared), reason


def test_an_ewma_says_its_mean_and_limit_in_the_unit_compared() -> None:
    mean, spread = read(ewma(KNOWN), (12,)).measures
    assert (mean.name, mean.value, mean.limit) == ("weighted mean", 11.0, 13.0)
    assert (spread.name, spread.value) == ("spread", 2.0)


@pytest.mark.parametrize(
    ("detector", "values", "compared", "raised", "reason"),
    [
        (cusum(KNOWN), (12,), 0.5, NONE, "one deviation less the slack"),
        (cusum(KNOWN), (12, 12, 12), 1.5, NONE, "small and persistent adds up"),
        (cusum(KNOWN), (18, 12), 4.0, MINOR, "3.5 and 0.5"),
        (cusum(KNOWN), (18, 2), 0.0, NONE, "it falls to zero and not below"),
        (cusum(KNOWN, run=1), (18, 12), 0.5, NONE, "a run of one forgets what was before"),
        (cusum(KNOWN, direction=DOWN), (2, 8), 4.0, MINOR, "mirrored: the sum of falls, positive"),
        (cusum(KNOWN), (2, 8), 0.0, NONE, "falls are none of its business upwards"),
        (cusum(KNOWN, two_sided=True), (2, 8), 4.0, MINOR, "unless both sides are"),
        (cusum(KNOWN, direction=DOWN, two_sided=True), (18, 12), 4.0, MINOR, "either way"),
        (cusum(KNOWN, reset=Reset.after_alarm), (18, 12), 0.5, NONE, "3.5 alarmed: anew"),
        (cusum(KNOWN, reset=Reset.after_alarm), (17, 12), 0.5, NONE, "3 alarmed too: equal"),
        (cusum(KNOWN, reset=Reset.after_alarm), (16.9, 12), 3.45, MINOR, "2.95 did not"),
        (cusum(last(9)), (8, 10, 12, 12, 12, 12), 1.5, NONE, "the baseline ends before the run"),
    ],
)
def test_a_cusum_adds_up_what_exceeds_the_slack(
    detector: Cusum, values: Sequence[float], compared: float, raised: Severity, reason: str
) -> None:
    reading = read(detector, values)
    assert reading.compared == pytest.approx(compared), reason
    assert reading.raised is raised, reason


def test_a_cusum_shows_the_sums_it_is_asked_for_beside_the_lowest_limit() -> None:
    both = read(cusum(KNOWN, two_sided=True), (18, 12)).measures
    assert [(m.name, m.value, m.limit) for m in both[:2]] == [
        ("sum above", 4.0, 3),
        ("sum below", 0.0, 3),
    ]
    assert [m.name for m in read(cusum(KNOWN, direction=DOWN), (8,)).measures] == [
        "sum below",
        "spread",
    ]


@pytest.mark.parametrize("detector", [ewma(last(3), run=2), cusum(last(3), run=2)])
def test_a_frozen_chart_keeps_the_baseline_that_ended_a_run_before_the_onset(
    detector: Ewma | Cusum,
) -> None:
    quiet, crisis = (8, 10, 12, 11), (16, 20, 24, 28)
    window = (*quiet, *crisis)
    onset = "2024-01-05"
    assert read(detector, window[:5], onset) == read(detector, window[:5])
    frozen, moving = read(detector, window, onset), read(detector, window)
    assert frozen.baseline == pytest.approx(10)
    assert frozen.raised is MODERATE
    assert moving.baseline == pytest.approx((11 + 16 + 20) / 3)


@pytest.mark.parametrize(
    ("detector", "values", "compared", "reason"),
    [
        (ears("C1", observations=3), (8, 10, 12, 16), 3.0, "the three before"),
        (ears("C2", observations=3), (8, 10, 12, 99, 99, 16), 3.0, "two stay between"),
        (ears("C3", observations=3), (8, 10, 12, 8, 10, 12, 10, 10), 0.0, "nothing above one"),
        (ears("C1", observations=3, min_sigma=4), (8, 10, 12, 16), 1.5, "the least deviation"),
        (ears("C1", DOWN, observations=3), (8, 10, 12, 4), -3.0, "a fall has its own sign"),
        (ears("C1", observations=3, transform=Transform.log), (1, 10, 100, 10000), 3.0, "logs"),
    ],
)
def test_ears_looks_at_the_newest(
    detector: Ears, values: Sequence[float], compared: float, reason: str
) -> None:
    assert read(detector, values).compared == pytest.approx(compared), reason
    assert read(detector, values, "2024-01-02") == read(detector, values), "it is not frozen"


def test_c3_adds_what_exceeds_one_on_three_days_and_shows_each() -> None:
    reading = read(ears("C3", observations=3), (8, 10, 12, 8, 10, 12, 16, 18, 10))
    shown = {m.name: m.value for m in reading.measures}
    # Baselines: (10, 12, 8), (12, 8, 10) and (8, 10, 12), each with mean 10 and deviation 2.
    assert shown == pytest.approx(
        {"spread": 2, "C2": 0, "C2 one before": 4, "C2 two before": 3}, abs=1e-9
    )
    assert reading.compared == pytest.approx((4 - 1) + (3 - 1))


@pytest.mark.parametrize(
    ("detector", "values", "undefined", "reason"),
    [
        (z_score("classic", last(9)), (10, 10, 10, 16), NO_SPREAD, "no spread at all"),
        (z_score("classic", last(9)), (0.1, 0.1, 0.1, 16), NO_SPREAD, "nor by a rounding"),
        (z_score("classic", last(9, least=1)), (10, 16), NO_SPREAD, "one value has none"),
        (z_score("robust", last(9)), (10, 10, 10, 16), NO_SPREAD, "all tie: MAD and fall-back"),
        (z_score("classic", Target("target", 10)), (16,), NO_SPREAD, "a mean without a deviation"),
        (z_score("classic", last(9)), (10,), "it needs 2 observations to compare with and has 0",
         "the tested one is none of them"),
        (z_score("classic", last(9), mean_of=2), (10,),
         "it averages 2 observations and has 1", "too few to average"),
        (z_score("classic", last(9), transform=Transform.log), (8, 10, 12, 0),
         "there is no logarithm of 0", "nothing has no logarithm"),
        (z_score("classic", last(9), transform=Transform.log), (8, -10, 12, 10),
         "there is no logarithm of -10", "nor has anything below, among what it is compared with"),
        (z_score("classic", last(9), transform=Transform.square_root), (8, 10, 12, -1),
         "there is no square root of -1 + 3/8", "counts are not negative"),
        (z_score("classic", Target("target", -1, 2), transform=Transform.log), (8,),
         "there is no logarithm of -1", "nor are means of prices"),
        (z_score("classic", last(9)), (-1.7e308, 1.7e308, 0), BEYOND, "the spread overflows"),
        (z_score("robust", last(9)), (1.7e308, 1.7e308, 0), BEYOND, "the median overflows"),
        (z_score("classic", KNOWN, mean_of=2), (1.7e308, 1.7e308), BEYOND, "the mean overflows"),
        (ewma(last(9)), (8, 10, 12, 11),
         "it needs 2 observations to compare with and has 1, before the newest 3 observations",
         "the run is not part of its baseline"),
        (ewma(last(9)), (10, 10, 10, 10, 10, 16), NO_SPREAD, "no spread"),
        (ewma(KNOWN, weight=1e-17), (16,), "its weight is too small to be told from zero", "1e-17"),
        (ewma(KNOWN, transform=Transform.log), (16, 0, 16), "there is no logarithm of 0", "in run"),
        (ewma(Target("target", 0, 1e-300)), (1.7e308,), BEYOND, "beyond all deviations"),
        (cusum(last(9)), (10, 10, 10, 10, 10, 16), NO_SPREAD, "no spread"),
        (cusum(Target("target", 0, 0.1)), (1.7e308, -1.7e308, 0), BEYOND,
         "two overflows are not a calm"),
        (ears("C1"), (1, 2, 3), "C1 needs 8 observations and has 3", "seven before"),
        (ears("C3"), range(11), "C3 needs 12 observations and has 11", "eleven before"),
        (ears("C1"), (5,) * 7 + (9,), NO_SPREAD, "a week without change, and no least sigma"),
        (ears("C3"), (5,) * 8 + (9, 2, 3, 4), NO_SPREAD, "C3 needs all three of C2"),
        (ears("C1", transform=Transform.log), (5, 6) * 4 + (0,), "there is no logarithm of 0", "0"),
    ],
)  # fmt: skip
def test_a_chart_that_cannot_be_read_says_why(
    detector: Measured, values: Sequence[float], undefined: str, reason: str
) -> None:
    reading = read(detector, values)
    assert reading.undefined == undefined, reason
    assert (reading.raised, reading.held, reading.compared) == (NONE, NONE, None)


@pytest.mark.parametrize(
    ("detector", "span", "observations"),
    [
        (z_score("classic", last(60, guard=7), mean_of=3), 0, 69),
        (z_score("robust", median_of(90)), 90, 0),
        (z_score("robust", KNOWN), 0, 0),
        (ewma(last(60, guard=7), run=20), 0, 86),
        (cusum(KNOWN, run=20), 0, 19),
        (ears("C1"), 0, 7),
        (ears("C2"), 0, 9),
        (ears("C3"), 0, 11),
    ],
)
def test_a_chart_says_how_far_back_it_looks(
    detector: Measured, span: float, observations: int
) -> None:
    assert detectors.reach(detector) == Reach(days(span), observations)


# Laws

ALL_BASELINES: tuple[Baseline, ...] = (
    last(4),
    LastObservations("last_observations", 5, 2, 1),
    median_of(6, 2),
    SamePeriod("same_period", 2, 3, 1, 1),
    KNOWN,
)
SPREADING = (last(4), median_of(6, 2), KNOWN)
EVERY: tuple[Measured, ...] = (
    *(PercentChange("percent_change", UP, b, LIMITS, 2) for b in ALL_BASELINES),
    *(z_score(m, b, transform=t) for m in Method for b in SPREADING for t in Transform),
    *(ewma(b, transform=t) for b in (last(4), KNOWN) for t in Transform),
    *(cusum(b, two_sided=s) for b in (last(4), KNOWN) for s in (True, False)),
    *(cusum(KNOWN, reset=Reset.after_alarm, transform=t) for t in Transform),
    *(ears(m, observations=3, transform=t) for m in ("C1", "C2", "C3") for t in Transform),
    RateOfChange("rate_of_change", UP, 3, LIMITS),
    RateOfChange("rate_of_change", UP, 3, LIMITS, relative=True),
)
ANY = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0, -1.0, 1e-320, 1e-9, 1.7e308, -1.7e308, 0.1]),
)
MODEST = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))


@given(
    detector=st.sampled_from(EVERY),
    values=st.lists(ANY, min_size=1, max_size=14),
    onset=st.none() | st.integers(0, 15),
)
def test_no_reading_is_ever_infinite_or_not_a_number(
    detector: Measured, values: list[float], onset: int | None
) -> None:
    frozen = None if onset is None else at("2024-01-01") + days(onset)
    reading = detectors.read(detector, daily("2024-01-01", *values), frozen)
    numbers = [reading.value, reading.compared, reading.baseline]
    numbers += [n for m in reading.measures for n in (m.value, m.limit)]
    assert all(math.isfinite(n) for n in numbers if n is not None)
    assert (reading.compared is None) is bool(reading.undefined)
    if reading.undefined:
        assert (reading.raised, reading.held) == (NONE, NONE)


@given(
    detector=st.sampled_from(EVERY),
    values=st.lists(MODEST, min_size=8, max_size=40),
    onset=st.none() | st.integers(0, 45),
)
def test_what_lies_beyond_the_reach_changes_nothing(
    detector: Measured, values: list[float], onset: int | None
) -> None:
    window = daily("2024-01-01", *values)
    tested = len(window) - 1
    frozen = None if onset is None else window[0].at + days(onset)
    span, observations = detectors.reach(detector)
    anchor = tested if onset is None else min(tested, onset)
    first = max(min(anchor - observations, anchor - math.ceil(span / days(1))), 0)
    assert detectors.read(detector, window[first:], frozen) == detectors.read(
        detector, window, frozen
    )


def mirrored(detector: Measured) -> Measured:
    """The same question asked of the opposite direction; sums stay positive, and so their bands."""
    bands = tuple(Band(b.severity, -b.raise_at, -b.clear_at) for b in detector.bands)
    if isinstance(detector, Cusum):
        bands = detector.bands
    other = replace(detector, direction=DOWN, bands=bands)
    if isinstance(other, PercentChange | ZScore | Ewma | Cusum) and other.baseline is KNOWN:
        return replace(other, baseline=replace(KNOWN, mean=-KNOWN.mean))
    return other


PLAIN = [
    d
    for d in EVERY
    if getattr(d, "transform", Transform.identity) is Transform.identity
    and not getattr(d, "relative", False)
]


@given(detector=st.sampled_from(PLAIN), values=st.lists(MODEST, min_size=1, max_size=20))
def test_a_fall_is_judged_as_the_rise_that_mirrors_it(
    detector: Measured, values: list[float]
) -> None:
    rise = read(detector, values)
    fall = read(mirrored(detector), [-v for v in values])
    assert (fall.raised, fall.held, fall.undefined) == (rise.raised, rise.held, rise.undefined)


UNITLESS = [d for d in PLAIN if not isinstance(d, RateOfChange) and d.kind != "percent_change"]


@given(
    detector=st.sampled_from([d for d in UNITLESS if getattr(d, "baseline", None) is not KNOWN]),
    values=st.lists(st.integers(-1000, 1000), min_size=4, max_size=20),
    shift=st.integers(-1000, 1000),
    scale=st.sampled_from([0.001, 0.5, 3.0, 1000.0]),
)
def test_a_score_knows_neither_units_nor_zero_points(
    detector: Measured, values: list[int], shift: int, scale: float
) -> None:
    plain = read(detector, values)
    moved = read(detector, [scale * (v + shift) for v in values])
    assert moved.undefined == plain.undefined
    if plain.compared is not None:
        assert moved.compared == pytest.approx(plain.compared, rel=1e-6, abs=1e-6)
