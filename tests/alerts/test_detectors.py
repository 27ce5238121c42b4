"""Detectors, as tables: every row says why it must be so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alerts import detectors
from alerts.detectors.agreement import Views, reach_of_agreement
from alerts.detectors.events import read_reports
from alerts.detectors.reading import Reach, Reading
from alerts.rules import (
    Agreement,
    Band,
    Bands,
    Baseline,
    Direction,
    EventTrigger,
    LastObservations,
    LevelView,
    Measured,
    PercentChange,
    Previous,
    RateOfChange,
    Run,
    SamePeriod,
    Site,
    SiteHazard,
    Statistic,
    Target,
    Transform,
    towards,
)
from alerts.signals import Origin, PartnerId, Report, Sample, Severity
from tests.alerts.cast import (
    AURORA,
    CYGNUS,
    DORADO,
    EXTREME,
    LEAD_TIME_BANDS,
    MINOR,
    MODERATE,
    NONE,
    SAME_MONTH,
    SEVERE,
    at,
    bands,
    change,
    daily,
    days,
    median_of,
    report,
    samples,
    trigger,
)

INVENTORY_BANDS = bands((MODERATE, 30, 40), (SEVERE, 15, 25), direction="down")


def read(detector: Measured, window: list[Sample], frozen: str = "") -> Reading:
    return detectors.read(detector, window, at(frozen) if frozen else None)


@pytest.mark.parametrize(
    ("detector", "value", "raised", "held", "reason"),
    [
        (LEAD_TIME_BANDS, 12.0, NONE, NONE, "below every clear"),
        (LEAD_TIME_BANDS, 13.0, NONE, NONE, "a value equal to the clear has cleared"),
        (LEAD_TIME_BANDS, 13.5, NONE, MINOR, "between clear and raise: holds, does not raise"),
        (LEAD_TIME_BANDS, 14.0, MINOR, MINOR, "equal to the raise breaches; moderate has cleared"),
        (LEAD_TIME_BANDS, 15.9, MINOR, MODERATE, "raises minor, would hold moderate"),
        (LEAD_TIME_BANDS, 16.0, MODERATE, MODERATE, "equal to the second raise"),
        (LEAD_TIME_BANDS, 18.0, MODERATE, MODERATE, "equal to the clear of severe"),
        (LEAD_TIME_BANDS, 18.1, MODERATE, SEVERE, "just above the clear of severe"),
        (LEAD_TIME_BANDS, 20.0, SEVERE, SEVERE, "equal to the highest raise"),
        (LEAD_TIME_BANDS, 1e300, SEVERE, SEVERE, "there is nothing above the highest band"),
        (INVENTORY_BANDS, 45.0, NONE, NONE, "downward: more is safe"),
        (INVENTORY_BANDS, 40.0, NONE, NONE, "downward: equal to the clear has cleared"),
        (INVENTORY_BANDS, 35.0, NONE, MODERATE, "downward: between raise and clear"),
        (INVENTORY_BANDS, 30.0, MODERATE, MODERATE, "downward: equal to the raise breaches"),
        (INVENTORY_BANDS, 25.0, MODERATE, MODERATE, "downward: severe has cleared"),
        (INVENTORY_BANDS, 15.0, SEVERE, SEVERE, "downward: equal to the worst raise"),
        (INVENTORY_BANDS, -5.0, SEVERE, SEVERE, "downward: below zero is worse still"),
        (bands((MINOR, 0.3, 0.2)), 0.1 + 0.1 + 0.1, MINOR, MINOR, "0.30000000000000004 is 0.3"),
        (bands((MINOR, 0.3, 0.2)), 0.3 - 1e-12, MINOR, MINOR, "a rounding below is equal"),
        (bands((MINOR, 0.3, 0.2)), 0.3 - 1e-6, NONE, MINOR, "but a millionth below is below"),
    ],
)
def test_a_band_is_raised_and_held(
    detector: Bands, value: float, raised: Severity, held: Severity, reason: str
) -> None:
    reading = read(detector, samples(("2021-03-31", value)))
    assert (reading.raised, reading.held) == (raised, held), reason
    assert (reading.value, reading.compared, reading.undefined) == (value, value, "")


def test_severity_falls_to_the_next_band_the_rule_has() -> None:
    reading = read(bands((MINOR, 1, 0), (SEVERE, 3, 2)), samples(("2021-03-31", 2.5)))
    assert reading.next_below(SEVERE) is MINOR
    assert reading.next_below(MODERATE) is MINOR
    assert reading.next_below(MINOR) is NONE


@pytest.mark.parametrize(
    ("rule", "window", "frozen", "baseline", "reason"),
    [
        (median_of(10), daily("2023-01-01", 1, 2, 9, 50), "", 2.0, "the tested 50 stays out"),
        (median_of(10), daily("2023-01-01", 1, 2, 3, 4, 50), "", 2.5, "an even count: the middle"),
        (median_of(2), daily("2023-01-01", 1, 2, 9, 50), "", 5.5, "begins exactly two days before"),
        (median_of(2), samples(("2023-01-01", 1), ("2023-01-09", 7), ("2023-01-10", 50)), "", 7.0,
         "a gap: only what lies within the days counts"),
        (median_of(10, guard=2), daily("2023-01-01", 1, 2, 3, 40, 50), "", 1.5,
         "the guard ends two days before; the observation at its edge is out"),
        (median_of(2, guard=1), daily("2023-01-01", 1, 5, 7, 40, 50), "", 6.0,
         "the days are counted before the guard"),
        (median_of(10), daily("2023-01-01", 1, 3, 40, 50, 60), "2023-01-03", 2.0,
         "frozen: what came at and after the onset stays out"),
        (median_of(2), daily("2023-01-01", 1, 3, 40, 50, 60), "2023-01-04", 21.5,
         "frozen: the days are counted back from the onset"),
        (median_of(10, guard=3), daily("2023-01-01", 1, 3, 40, 50, 60), "2023-01-04", 1.0,
         "frozen later than the guard: the guard decides"),
        (median_of(90), samples(("2023-05-01", 10), ("2024-08-01", 50)), "2023-06-01", 10.0,
         "frozen a year ago: the baseline of then still stands"),
    ],
)  # fmt: skip
def test_the_median_of_the_window_is_the_baseline(
    rule: object, window: list[Sample], frozen: str, baseline: float, reason: str
) -> None:
    reading = read(change((MINOR, 0.25, 0.15), baseline=rule), window, frozen)  # type: ignore[arg-type]
    assert reading.baseline == baseline, reason
    assert reading.compared == pytest.approx((window[-1].value - baseline) / baseline)


@pytest.mark.parametrize(
    ("detector", "window", "undefined", "reason"),
    [
        (change((MINOR, 0.25, 0.15), baseline=median_of(10, 3)), daily("2023-01-01", 1, 2, 3),
         "it needs 3 observations from the 10 days before and has 2", "the tested is not one"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10)), daily("2023-01-01", 3),
         "it needs 1 observation from the 10 days before and has 0", "nothing came before"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10)),
         samples(("2023-01-01", 3), ("2023-03-01", 4)),
         "it needs 1 observation from the 10 days before and has 0", "the gap is too long"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10)), daily("2023-01-01", 0, 0, 5),
         "the baseline is zero", "a change from nothing is never infinite"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10)), daily("2023-01-01", 1e-12, 5),
         "the baseline is zero", "nor from next to nothing"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10)), daily("2023-01-01", -1.7e308, 1.7e308),
         "the result is beyond all numbers", "an overflow is no change"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10)),
         daily("2023-01-01", 1.7e308, 1.7e308, 1), "the result is beyond all numbers",
         "nor is one in the median"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10), mean_of=3), daily("2023-01-01", 1, 2),
         "it averages 3 observations and has 2", "too few to average"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10), mean_of=3),
         samples(("2022-01-01", 1), ("2023-01-01", 2), ("2023-01-02", 3)),
         "it averages 3 observations and has 2", "what is out of memory is not averaged"),
        (change((MINOR, 0.25, 0.15), baseline=SAME_MONTH),
         samples(("2022-10-31", 5), ("2022-12-01", 6), ("2023-11-30", 7)),
         "no observation of November 2022 is known to compare with",
         "neighbouring months do not stand in"),
        (change((MINOR, 0.25, 0.15), baseline=SAME_MONTH),
         samples(("2022-11-30", 0), ("2023-11-30", 7)), "the baseline is zero", "a month of none"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_says_why(
    detector: PercentChange, window: list[Sample], undefined: str, reason: str
) -> None:
    reading = read(detector, window)
    assert reading.undefined == undefined, reason
    assert (reading.raised, reading.held, reading.compared) == (NONE, NONE, None)


PRICE_BANDS = ((MINOR, 0.25, 0.15), (MODERATE, 0.4, 0.25), (SEVERE, 0.8, 0.6))
FALL_BANDS = ((MODERATE, -0.5, -0.25), (SEVERE, -0.8, -0.5))


@pytest.mark.parametrize(
    ("detector", "before", "value", "raised", "held", "reason"),
    [
        (change(*PRICE_BANDS, baseline=median_of(9)), 100, 140, MODERATE, MODERATE, "40 % exactly"),
        (change(*PRICE_BANDS, baseline=median_of(9)), 1.0, 1.4, MODERATE, MODERATE,
         "1.4 - 1.0 is 0.3999999999999999, and means 40 %"),
        (change(*PRICE_BANDS, baseline=median_of(9)), 100, 139.99, MINOR, MODERATE, "not quite 40 %"),
        (change(*PRICE_BANDS, baseline=median_of(9)), 100, 125, MINOR, MINOR,
         "equal to the raise of minor and to the clear of moderate"),
        (change(*PRICE_BANDS, baseline=median_of(9)), 100, 115, NONE, NONE, "equal to the clear"),
        (change(*PRICE_BANDS, baseline=median_of(9)), 100, 20, NONE, NONE, "a fall is no rise"),
        (change(*FALL_BANDS, baseline=median_of(9), direction="down"), 5611, 1530, MODERATE, SEVERE,
         "-72.7 %: past the raise of severe, not past its clear"),
        (change(*FALL_BANDS, baseline=median_of(9), direction="down"), 5488, 721, SEVERE, SEVERE,
         "-86.9 %"),
        (change(*FALL_BANDS, baseline=median_of(9), direction="down"), 100, 0, SEVERE, SEVERE,
         "nothing at all is -100 %"),
        (change(*FALL_BANDS, baseline=median_of(9), direction="down"), 100, 50, MODERATE, MODERATE,
         "-50 % raises moderate and has cleared severe"),
        (change(*FALL_BANDS, baseline=median_of(9), direction="down"), 100, 300, NONE, NONE,
         "a rise is no fall"),
        (change(*PRICE_BANDS, baseline=median_of(9)), -100, -50, MODERATE, MODERATE,
         "from -100 to -50 is a rise by half: the baseline's size counts"),
        (change(*FALL_BANDS, baseline=median_of(9), direction="down"), -100, -190, SEVERE, SEVERE,
         "from -100 to -190 is a fall by nine tenths"),
    ],
)  # fmt: skip
def test_a_change_is_compared_with_its_bands(
    detector: PercentChange,
    before: float,
    value: float,
    raised: Severity,
    held: Severity,
    reason: str,
) -> None:
    reading = read(detector, daily("2023-01-01", before, value))
    assert (reading.raised, reading.held) == (raised, held), reason


def test_a_mean_takes_the_newest_observations_and_keeps_them_out_of_its_baseline() -> None:
    detector = change((MINOR, 0.25, 0.15), baseline=median_of(10), mean_of=3)
    reading = read(detector, daily("2023-01-01", 10, 10, 12, 30, 40, 50))
    assert (reading.value, reading.baseline, reading.compared) == (40, 10, 3.0)


@pytest.mark.parametrize(
    ("window", "frozen", "baseline", "reason"),
    [
        (samples(("2022-11-30", 5), ("2023-11-30", 7)), "", 5, "the last day of the month"),
        (samples(("2022-11-01", 5), ("2023-11-30", 7)), "", 5, "any day of the month will do"),
        (samples(("2022-11-03", 4), ("2022-11-28", 5), ("2022-12-01", 6), ("2023-11-15", 7)), "", 5,
         "of several the newest of the month"),
        (samples(("2023-02-28", 5), ("2024-02-29", 7)), "", 5, "29 February looks at 28 February"),
        (samples(("2024-02-29", 5), ("2025-02-28", 7)), "", 5, "28 February finds 29 February"),
        (samples(("2022-12-31", 5), ("2023-12-31", 7)), "", 5, "December does not run over"),
        (samples(("2023-01-31", 5), ("2024-01-01", 7)), "", 5, "January does not run under"),
        (samples(("2022-08-31", 5), ("2023-08-31", 0), ("2024-08-31", 7)), "", 0,
         "unfrozen, the crisis has become what is compared with"),
        (samples(("2022-08-31", 5), ("2023-08-31", 0), ("2024-08-31", 7)), "2023-08-31", 5,
         "frozen at the onset, it goes back to the year before"),
        (samples(("2022-08-31", 5), ("2023-08-31", 0), ("2024-08-31", 7)), "2023-08-01", 5,
         "a month that had not ended at the onset is not before it"),
        (samples(("2023-05-31", 5), ("2024-05-31", 7)), "2023-07-03", 5,
         "a month before the onset stays the year before"),
        (samples(("2021-08-31", 5), ("2022-08-31", 1), ("2023-08-31", 0), ("2025-08-31", 7)),
         "2022-08-15", 5, "year by year, as far as it takes"),
        (samples(("2022-11-30", 5), ("2023-11-30", 7)), "2024-01-01", 5,
         "an onset that is still to come freezes nothing"),
    ],
)  # fmt: skip
def test_the_same_month_of_an_earlier_year_is_the_baseline(
    window: list[Sample], frozen: str, baseline: float, reason: str
) -> None:
    reading = read(change((MINOR, 0.25, 0.15), baseline=SAME_MONTH), window, frozen)
    assert (reading.baseline, reading.undefined) == (
        (baseline, "") if baseline else (None, "the baseline is zero")
    ), reason


def test_a_frozen_month_without_an_observation_is_not_replaced_by_an_earlier_year() -> None:
    window = samples(("2021-08-31", 5), ("2023-08-31", 0), ("2024-08-31", 7))
    reading = read(change((MINOR, 0.25, 0.15), baseline=SAME_MONTH), window, "2023-08-31")
    assert reading.undefined == "no observation of August 2022 is known to compare with"


def last(count: int, guard: int = 0, least: int = 1, statistic: str = "median") -> LastObservations:
    return LastObservations("last_observations", count, least, guard, Statistic(statistic))


def against(baseline: Baseline, mean_of: int = 1) -> PercentChange:
    held = (Band(MINOR, 0.25, 0.15),)
    return PercentChange("percent_change", Direction.up, baseline, held, mean_of)


def season(years: int, width: float, least_years: int = 1, least: int = 1) -> SamePeriod:
    return SamePeriod("same_period", years, width, least_years, least)


def mean_season(years: int, width: float) -> SamePeriod:
    return SamePeriod("same_period", years, width, 1, 1, Statistic.mean)


def back(count: int) -> Previous:
    return Previous("previous", count)


SPRINGS = samples(
    ("2020-03-20", 1), ("2020-05-01", 2), ("2021-04-25", 4), ("2021-05-06", 8),
    ("2022-05-02", 16), ("2022-05-11", 32), ("2023-05-01", 64),
)  # fmt: skip
"""Around 1 May of four years; each value doubles, so that a sum tells what was in it."""


@pytest.mark.parametrize(
    ("baseline", "window", "frozen", "expected", "reason"),
    [
        (last(3), daily("2023-01-01", 1, 2, 9, 4, 50), "", 4.0, "the median of the last three"),
        (last(3, statistic="mean"), daily("2023-01-01", 1, 2, 9, 4, 50), "", 5.0, "their mean"),
        (last(3), samples(("2019-01-01", 7), ("2022-01-01", 8), ("2023-01-01", 50)), "", 7.5,
         "a gap of years does not matter to a count"),
        (last(2, guard=2), daily("2023-01-01", 1, 3, 40, 45, 50), "", 2.0, "the newest two stay out"),
        (last(9), daily("2023-01-01", 1, 3, 40, 45, 50), "2023-01-03", 2.0, "frozen at the onset"),
        (last(2), daily("2023-01-01", 1, 3, 5, 45, 50), "2023-01-04", 4.0,
         "frozen: as many as before, counted from the onset"),
        (last(9, guard=3), daily("2023-01-01", 1, 3, 40, 45, 50), "2023-01-04", 1.0,
         "frozen later than the guard: the guard decides"),
        (back(1), daily("2023-01-01", 1, 2, 50), "", 2.0, "the one before"),
        (back(2), daily("2023-01-01", 1, 2, 50), "", 1.0, "the one before that"),
        (back(1), daily("2023-01-01", 1, 2, 40, 50), "2023-01-03", 2.0, "the last before the onset"),
        (back(3), daily("2023-01-01", 1, 2, 40, 50), "2023-01-03", 1.0, "already before the onset"),
        (Target("target", 40), daily("2023-01-01", 50), "", 40.0, "a known mean needs no history"),
        (mean_season(1, 10), SPRINGS, "", 24.0, "ten days to either side, the tenth among them"),
        (mean_season(1, 9), SPRINGS, "", 16.0, "11 May 2022 lies ten days after the first"),
        (mean_season(2, 10), SPRINGS, "", 15.0, "two years"),
        (mean_season(3, 10), SPRINGS, "", 12.4, "three years"),
        (mean_season(9, 10), SPRINGS, "", 12.4, "no more years than are known"),
        (season(3, 10), SPRINGS, "", 8.0, "their median"),
        (mean_season(1, 10), SPRINGS, "2022-05-01", 6.0,
         "frozen within the period of last year: the year before is compared with"),
        (mean_season(1, 10), SPRINGS, "2022-05-12", 24.0, "frozen after it: last year's stands"),
        (season(1, 0), samples(("2023-02-28", 5), ("2024-02-29", 7)), "", 5.0,
         "29 February looks at 28 February"),
        (mean_season(3, 300), samples(("2020-06-01", 3), ("2021-06-01", 5), ("2023-06-01", 50)), "",
         4.0, "periods so wide that they meet count nothing twice"),
    ],
)  # fmt: skip
def test_what_a_value_is_compared_with(
    baseline: Baseline, window: list[Sample], frozen: str, expected: float, reason: str
) -> None:
    reading = read(against(baseline), window, frozen)
    assert reading.baseline == pytest.approx(expected), reason
    assert reading.compared == pytest.approx((window[-1].value - expected) / expected)


@pytest.mark.parametrize(
    ("baseline", "window", "frozen", "undefined"),
    [
        (last(9, least=3), daily("2023-01-01", 1, 2, 50), "",
         "it needs 3 observations to compare with and has 2"),
        (last(9, least=0), daily("2023-01-01", 50), "",
         "it needs 1 observation to compare with and has 0"),
        (last(9), daily("2023-01-01", 1, 2, 50), "2023-01-01",
         "it needs 1 observation to compare with and has 0"),
        (last(9, guard=9), daily("2023-01-01", 1, 2, 50), "",
         "it needs 1 observation to compare with and has 0"),
        (back(3), daily("2023-01-01", 1, 2, 50), "",
         "there is no observation 3 before it to compare with"),
        (back(1), daily("2023-01-01", 1, 50), "2023-01-01",
         "there is no observation 1 before it to compare with"),
        (season(3, 10, least_years=3, least=6), SPRINGS, "",
         "it needs 6 observations about 1 May of at least 3 years before and has 5 of 3"),
        (season(1, 10, least_years=2), SPRINGS, "",
         "it needs 1 observation about 1 May of at least 2 years before and has 2 of 1"),
        (season(3, 10), samples(("2023-05-01", 7)), "",
         "it needs 1 observation about 1 May of at least 1 year before and has 0 of 0"),
        (SAME_MONTH, samples(("0001-05-01", 7)), "", "there is no year before to compare with"),
        (season(3, 10), samples(("0001-05-01", 7)), "",
         "it needs 1 observation about 1 May of at least 1 year before and has 0 of 0"),
        (season(3, 150), samples(("0002-05-01", 7)), "",
         "it needs 1 observation about 1 May of at least 1 year before and has 0 of 0"),
        (Target("target", 0), daily("2023-01-01", 7), "", "the baseline is zero"),
    ],
)  # fmt: skip
def test_what_has_nothing_to_be_compared_with_says_why(
    baseline: Baseline, window: list[Sample], frozen: str, undefined: str
) -> None:
    reading = read(against(baseline), window, frozen)
    assert (reading.undefined, reading.value) == (undefined, window[-1].value)


def test_a_mean_across_years_counts_observations_where_its_baseline_does() -> None:
    detector = against(last(2), mean_of=2)
    window = samples(("2019-01-01", 1), ("2020-01-01", 3), ("2022-01-01", 5), ("2023-01-01", 7))
    reading = read(detector, window)
    assert (reading.value, reading.baseline) == (6, 2)


def test_a_mean_is_compared_with_the_one_before_all_it_averages() -> None:
    detector = against(back(1), mean_of=2)
    assert read(detector, daily("2023-01-01", 1, 2, 10, 20)).baseline == 2


def slope(observations: int, *, relative: bool = False, direction: str = "up") -> RateOfChange:
    sign = Direction(direction).sign
    held = (Band(MINOR, 1.0 * sign, 0.5 * sign),)
    return RateOfChange("rate_of_change", Direction(direction), observations, held, relative)


@pytest.mark.parametrize(
    ("detector", "values", "compared", "raised", "reason"),
    [
        (slope(3), (9, 1, 2, 3), 1.0, MINOR, "the newest three rise by one each; equal breaches"),
        (slope(3), (9, 1, 5, 3), 1.0, MINOR, "the middle one does not turn a line through three"),
        (slope(4), (1, 2, 4, 4), 1.1, MINOR, "least squares, not the ends"),
        (slope(3), (3, 2, 1), -1.0, NONE, "a fall is no rise"),
        (slope(3, direction="down"), (3, 2, 1), -1.0, MINOR, "where down is harm it is"),
        (slope(3, relative=True), (-10, 1, 2, 3), 0.5, NONE, "half of their mean each time"),
        (slope(3, relative=True), (-3, -2, -1), 0.5, NONE, "of the size of their mean"),
        (slope(2), (0, 0), 0.0, NONE, "nothing moved"),
    ],
)
def test_a_rate_of_change_is_a_slope(
    detector: RateOfChange,
    values: tuple[float, ...],
    compared: float,
    raised: Severity,
    reason: str,
) -> None:
    reading = read(detector, daily("2023-01-01", *values), "2023-01-02")
    assert reading.compared == pytest.approx(compared), reason
    assert reading.raised is raised, reason


def moves(direction: str = "up", least: float = 0.0, longest: int = 24) -> Run:
    return Run("run", Direction(direction), (Band(MINOR, 4, 1),), least, longest)


@pytest.mark.parametrize(
    ("detector", "values", "count", "baseline", "reason"),
    [
        (moves(), (9, 1, 2, 3, 4, 5), 4, 1, "four in a row, as quoted of chip lead times in 2021"),
        (moves(), (1, 2, 3, 3), 0, 3, "no move is no rise"),
        (moves(), (1, 2, 3, 2), 0, 3, "a fall ends it"),
        (moves("down"), (1, 5, 4, 2), 2, 5, "falls count where down is harm"),
        (moves(least=0.1), (100, 110, 121), 2, 100, "a move of exactly the least counts"),
        (moves(least=0.1), (100, 120, 125), 0, 120, "noise does not, and ends the run"),
        (moves(least=0.1), (0, 1, 2), 2, 0, "from nothing every move is large"),
        (moves(least=0.1), (-100, -95, -80), 1, -95, "the size of the value before counts"),
        (moves(longest=3), (1, 2, 3, 4, 5, 6), 3, 3, "no more are looked back on"),
    ],
)
def test_a_run_counts_harmful_moves(
    detector: Run, values: tuple[float, ...], count: float, baseline: float, reason: str
) -> None:
    reading = read(detector, daily("2023-01-01", *values), "2023-01-02")
    assert (reading.compared, reading.baseline) == (count, baseline), reason
    assert reading.raised is (MINOR if count >= 4 else NONE)


FAB = Site("hsinchu", "Fab cluster", exposure=0.8, vulnerability=0.5)
HAZARD = SiteHazard("site_hazard", Direction.up, (FAB,), (Band(MINOR, 1.0, 0.5),))


@pytest.mark.parametrize(
    ("place", "value", "compared", "raised", "reason"),
    [
        ("hsinchu", 2.5, 1.0, MINOR, "2.5 x 0.8 x 0.5 reaches one"),
        ("hsinchu", 2.0, 0.8, NONE, "the same hazard, a little smaller"),
        ("hsinchu", 0.0, 0.0, NONE, "no hazard"),
    ],
)
def test_a_hazard_counts_by_what_stands_there(
    place: str, value: float, compared: float, raised: Severity, reason: str
) -> None:
    reading = detectors.read(HAZARD, daily("2023-01-01", value), place=place)
    assert reading.compared == pytest.approx(compared), reason
    assert reading.raised is raised, reason


@pytest.mark.parametrize(
    ("detector", "values", "undefined"),
    [
        (slope(3), (1, 2), "it needs 3 observations for a slope and has 2"),
        (slope(2), (-1.7e308, 1.7e308), "the result is beyond all numbers"),
        (slope(3, relative=True), (-1, 0, 1), "the mean that the slope is a fraction of is zero"),
        (moves(), (1,), "there is no observation before it to have moved from"),
        (HAZARD, (1,), "a series without a place is not in the register of sites"),
    ],
)
def test_what_has_not_moved_or_stands_nowhere_says_why(
    detector: Measured, values: tuple[float, ...], undefined: str
) -> None:
    assert read(detector, daily("2023-01-01", *values)).undefined == undefined


def test_a_place_without_a_site_is_named() -> None:
    reading = detectors.read(HAZARD, daily("2023-01-01", 1), place="dresden")
    assert reading.undefined == "the place dresden is not in the register of sites"


AGREEMENT = Agreement(
    "agreement", Direction.up, Transform.log, 2, (LevelView(30, 5, 10),), (1, 7), 2, 0.98, 1.1, 3.0,
    100, 30, 5, 1e-6, (Band(MINOR, 1, 0.8),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("detector", "span", "observations", "reason"),
    [
        (LEAD_TIME_BANDS, 0, 0, "bands look at the value alone"),
        (HAZARD, 0, 0, "so does a hazard"),
        (change((MINOR, 1, 0), baseline=median_of(84, guard=14)), 98, 0, "days and guard"),
        (change((MINOR, 1, 0), baseline=median_of(84), mean_of=7), 84, 6, "and what is averaged"),
        (change((MINOR, 1, 0), baseline=SAME_MONTH), 397, 0, "a leap year and the whole month"),
        (against(last(90, guard=7), mean_of=7), 0, 103, "all observations"),
        (against(back(12)), 0, 12, "as far back as it says"),
        (against(season(3, 20)), 3 * 366 + 40, 0,
         "frozen, the newest period may end a width before the onset"),
        (against(Target("target", 1)), 0, 0, "a known mean"),
        (slope(4), 0, 3, "four with the tested one"),
        (moves(longest=24), 0, 24, "one before each move"),
    ],
)  # fmt: skip
def test_a_rule_says_how_far_back_it_looks(
    detector: Measured, span: float, observations: int, reason: str
) -> None:
    assert detectors.reach(detector) == Reach(days(span), observations), reason


@pytest.mark.parametrize(
    ("detector", "grows", "reason"),
    [
        (INVENTORY_BANDS, Direction.down, "the value itself falls"),
        (slope(3, direction="down"), Direction.down, "a slope has the sign of its fall"),
        (moves("down"), Direction.up, "a count of falls grows with harm"),
        (replace(AGREEMENT, direction=Direction.down), Direction.up, "so does a strength"),
    ],
)
def test_bands_point_the_way_what_is_compared_grows_with_harm(
    detector: Measured, grows: Direction, reason: str
) -> None:
    assert towards(detector) is grows, reason


def test_an_agreement_has_a_memory_and_nothing_else_has() -> None:
    assert isinstance(detectors.views_of(AGREEMENT), Views)
    assert detectors.reach(AGREEMENT) == Reach(days(0), reach_of_agreement(AGREEMENT))
    assert detectors.views_of(LEAD_TIME_BANDS) is None


def test_an_agreement_is_read_with_and_without_its_memory() -> None:
    window = daily("2023-01-01", *(100 + n % 7 for n in range(200)), 400, 400)
    views = detectors.views_of(AGREEMENT)
    warm = [detectors.read(AGREEMENT, window[:n], views=views) for n in range(1, len(window) + 1)]
    assert warm[-1] == detectors.read(AGREEMENT, window)
    assert warm[-1].raised is MINOR


WIRE = "wire-story-1"


@pytest.mark.parametrize(
    ("detector", "reports", "raised", "reason"),
    [
        (trigger(), [report("2023-07-03")], SEVERE, "a government is enough alone"),
        (trigger(), [report("2023-07-03", origin=Origin.official_statistics)], SEVERE, "statistics"),
        (trigger(), [report("2023-07-03", origin=Origin.press)], NONE, "the press alone is not"),
        (trigger(official=()), [report("2023-07-03")], NONE, "where no origin is official"),
        (trigger(parties=1), [report("2023-07-03", origin=Origin.press)], SEVERE, "one may do"),
        (trigger(), [report("2023-07-03", MINOR)], NONE, "too mild, official or not"),
        (trigger(), [report("2023-07-03", MODERATE)], MODERATE, "just grave enough"),
        (trigger(),
         [report("2023-07-01", origin=Origin.press),
          report("2023-07-03", partner=DORADO, origin=Origin.press)],
         SEVERE, "two parties agree"),
        (trigger(),
         [report("2023-07-01", origin=Origin.press), report("2023-07-03", origin=Origin.company)],
         NONE, "one party twice is one party"),
        (trigger(),
         [report("2023-07-01", origin=Origin.press, ref=WIRE),
          report("2023-07-03", partner=DORADO, origin=Origin.press, ref=WIRE)],
         NONE, "one story told by two partners is one source"),
        (trigger(),
         [report("2023-07-01", origin=Origin.press, ref=WIRE),
          report("2023-07-02", origin=Origin.company, ref="letter"),
          report("2023-07-03", partner=DORADO, origin=Origin.press, ref=WIRE)],
         SEVERE, "the first party has a source of its own besides"),
        (trigger(parties=3),
         [report("2023-07-01", origin=Origin.press, ref="a"),
          report("2023-07-01", origin=Origin.press, ref="b"),
          report("2023-07-01", origin=Origin.press, ref=WIRE),
          report("2023-07-02", partner=DORADO, origin=Origin.press, ref=WIRE),
          report("2023-07-03", partner=CYGNUS, origin=Origin.press, ref=WIRE)],
         NONE, "three voices and three sources, but two of the voices share one story"),
        (trigger(),
         [report("2023-06-19", origin=Origin.press),
          report("2023-07-03", partner=DORADO, origin=Origin.press)],
         SEVERE, "exactly fourteen days apart still counts"),
        (trigger(),
         [report("2023-06-18", origin=Origin.press),
          report("2023-07-03", partner=DORADO, origin=Origin.press)],
         NONE, "fifteen days apart does not"),
        (trigger(),
         [report("2023-07-01", MINOR, origin=Origin.press),
          report("2023-07-03", partner=DORADO, origin=Origin.press)],
         NONE, "what is too mild to count does not corroborate"),
        (trigger(),
         [report("2023-07-01", MODERATE, origin=Origin.press),
          report("2023-07-03", EXTREME, DORADO, Origin.press)],
         MODERATE, "what two agree on is moderate; the rest is one party's word"),
        (trigger(),
         [report("2023-07-01", EXTREME, origin=Origin.press),
          report("2023-07-03", MODERATE, DORADO, Origin.press)],
         MODERATE, "the newest report raises no more than it says"),
    ],
)  # fmt: skip
def test_an_event_counts_when_it_stands_on_enough(
    detector: EventTrigger, reports: list[Report], raised: Severity, reason: str
) -> None:
    reading = read_reports(detector, reports)
    assert reading.raised is raised, reason
    assert reading.held is EXTREME, "events do not clear by being read"
    assert bool(reading.awaits) is (raised is NONE and reports[-1].severity >= MODERATE), reason


def test_reporters_that_act_for_no_party_count_as_themselves() -> None:
    alone = report("2023-07-01", partner=CYGNUS, origin=Origin.press)
    another = Report(at("2023-07-02"), SEVERE, PartnerId(4), origin=Origin.press)
    assert read_reports(trigger(), [alone]).raised is NONE
    assert read_reports(trigger(), [alone, alone]).raised is NONE
    assert read_reports(trigger(), [alone, another]).raised is SEVERE


def test_an_uncorroborated_event_says_what_it_lacks() -> None:
    rumour = [report("2023-07-01", partner=AURORA, origin=Origin.press)]
    assert read_reports(trigger(), rumour).awaits == (
        "2 parties must report it independently within 14 days, or one official source"
    )
    assert read_reports(trigger(official=()), rumour).awaits == (
        "2 parties must report it independently within 14 days"
    )
