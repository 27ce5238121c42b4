"""Self-calibrated agreement: what it sees, what it leaves alone, and that its memory is exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from statistics import fmean, median, stdev

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerts.detectors.agreement import (
    IN_SEASON,
    LEAST,
    RECENT,
    SEASON,
    Views,
    reach_of_agreement,
    read_agreement,
)
from alerts.detectors.reading import Reading
from alerts.rules import Agreement, Band, Direction, LevelView, Season, ShortView, Transform
from alerts.signals import Sample, Severity
from tests.alerts.cast import MODERATE, NONE, SEVERE, at

LAW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

SMALL = Agreement(
    kind="agreement",
    direction=Direction.down,
    transform=Transform.log,
    mean_of=2,
    levels=(LevelView(12, 2, 4), LevelView(6, 3, 3)),
    changes=(1, 3),
    need=3,
    quantile=0.9,
    ratio=1.5,
    least=3,
    memory=15,
    min_memory=5,
    guard=4,
    floor=0.02,
    bands=(Band(Severity.moderate, 1.0, 0.6), Band(Severity.severe, 2.0, 1.2)),
    short=ShortView(4, 0.3, 10),
)
"""All that the real one has, in windows short enough to fill."""

DAILY = replace(
    SMALL,
    mean_of=7,
    levels=(LevelView(365, 7, 180), LevelView(84, 28, 60)),
    changes=(7, 14, 28),
    need=4,
    quantile=0.98,
    ratio=1.75,
    memory=1095,
    min_memory=180,
    guard=28,
    floor=0.05,
    most=6,
    short=None,
)

MONTHLY = replace(
    SMALL,
    mean_of=1,
    levels=(LevelView(120, 3, 24), LevelView(36, 3, 24)),
    changes=(1, 2, 3),
    need=2,
    quantile=0.98,
    least=2,
    memory=120,
    min_memory=24,
    floor=0.005,
    short=ShortView(7, 0.3, 60),
)


def series(values: Sequence[float], step: float = 1) -> list[Sample]:
    start = at("2019-01-01")
    return [Sample(start + timedelta(days=step * n), v) for n, v in enumerate(values)]


def weekly_swing(count: int, level: float = 60) -> list[float]:
    """Ships a day: a quiet weekend, and an uneven walk of a few per cent without any dice."""
    return [
        level * (0.85 if n % 7 > 4 else 1.0) * (1 + 0.06 * math.sin(n * 1.7) + 0.04 * math.sin(n))
        for n in range(count)
    ]


def read_all(detector: Agreement, window: Sequence[Sample]) -> list[Reading]:
    views = Views(detector)
    return [read_agreement(detector, [sample], None, views) for sample in window]


def first_raised(readings: Sequence[Reading], since: int) -> int | None:
    """How many observations after ``since`` the first alarm comes."""
    return next((n for n, r in enumerate(readings[since:]) if r.raised), None)


# What it sees and what it leaves alone


@pytest.mark.parametrize(
    ("change", "seen_within", "reason"),
    [
        (lambda n: 0.0, 3, "a blocked canal is seen within days although the mean is of seven"),
        (lambda n: 0.5, 6, "half the ships stay away from one day to the next"),
        (lambda n: max(0.4, 1 - n / 35), 21, "a fall over five weeks is not its own normal"),
        (lambda n: 0.97, None, "three in a hundred fewer is nothing"),
        (lambda n: 1.5, None, "half as many again harms nobody who fears too few"),
        (lambda n: 0.5 if n < 1 else 1.0, None, "one day of storm is lost in the mean"),
    ],
)
def test_a_disruption_of_daily_traffic_is_told_and_the_usual_is_not(
    change: Callable[[int], float], seen_within: int | None, reason: str
) -> None:
    values = weekly_swing(900)
    values += [v * change(n) for n, v in enumerate(weekly_swing(40))]
    found = first_raised(read_all(DAILY, series(values)), 0)
    if seen_within is None:
        assert found is None, reason
    else:
        assert found is not None, reason
        assert 900 <= found <= 900 + seen_within, reason


def test_only_the_harmful_direction_raises() -> None:
    values = weekly_swing(900) + [v * 2 for v in weekly_swing(40)]
    assert not any(r.raised for r in read_all(DAILY, series(values)))
    upward = replace(DAILY, direction=Direction.up)
    assert first_raised(read_all(upward, series(values)), 900) is not None


def test_scale_does_not_matter() -> None:
    values = weekly_swing(900) + [v * 0.4 for v in weekly_swing(20)]
    small = read_all(DAILY, series(values))[-1]
    large = read_all(DAILY, series([v * 1e6 for v in values]))[-1]
    assert small.compared == pytest.approx(large.compared)
    assert small.baseline is not None
    assert large.baseline == pytest.approx(small.baseline * 1e6)


def test_a_total_stop_is_the_worst_there_is_and_not_undefined() -> None:
    values = [100.0 + n % 5 for n in range(60)] + [0.0]
    reading = read_all(replace(MONTHLY, direction=Direction.down), series(values, 30.4))[-1]
    assert not reading.undefined
    assert reading.raised is SEVERE
    assert reading.value == 0
    assert reading.compared is not None
    assert math.isfinite(reading.compared)


def test_a_crisis_that_was_lived_through_does_not_hide_the_next() -> None:
    """With thresholds as high as its own worst days, the second blockage would be a usual thing."""
    usual = weekly_swing(400)
    values = weekly_swing(700) + [5.0] * 30 + usual + [v * 0.6 for v in weekly_swing(25)]
    window = series(values)
    again = 700 + 30 + 400
    assert first_raised(read_all(DAILY, window), again) is not None
    assert first_raised(read_all(replace(DAILY, most=None), window), again) is None


def test_days_without_data_move_no_baseline() -> None:
    values = weekly_swing(930)
    whole = read_all(DAILY, series(values))[-1]
    samples = series(values)
    moved = [
        Sample(s.at + timedelta(days=90 if n > 600 else 0), s.value) for n, s in enumerate(samples)
    ]
    assert read_all(DAILY, moved)[-1].compared == whole.compared


def test_a_level_is_frozen_at_the_onset_and_changes_are_not() -> None:
    values = weekly_swing(900) + [v * 0.5 for v in weekly_swing(400)]
    window = series(values)
    onset = window[903].at
    moved = read_agreement(DAILY, window)
    frozen = read_agreement(DAILY, window, onset)
    assert moved.baseline == pytest.approx(28, rel=0.1), "the crisis has become the new normal"
    assert frozen.baseline == pytest.approx(57, rel=0.1), "the normal of before the onset"
    assert moved.measures[2:] == frozen.measures[2:]
    assert [m.limit for m in moved.measures] == [m.limit for m in frozen.measures]
    assert frozen.measures[0].value > moved.measures[0].value + 3


# The season

SEASONAL = replace(DAILY, season=Season(365, 3, 25, 2))

FEASTS = (300, 665, 1030, 1395)
"""The first days of a feast that comes every year."""


def feasts(days: Sequence[int], factor: float = 0.5, lasting: int = 8) -> list[float]:
    """Four and a half years of daily traffic, less by ``factor`` for some days from each on."""
    values = weekly_swing(1650)
    for day in days:
        for n in range(day, day + lasting):
            values[n] *= factor
    return values


def raised_between(detector: Agreement, values: Sequence[float], first: int, last: int) -> bool:
    """Whether any of the observations from ``first`` on, and before ``last``, raises."""
    views, window = Views(detector), series(values[:last])
    for sample in window[:first]:
        views.see(sample)
    return any(read_agreement(detector, [s], None, views).raised for s in window[first:])


@pytest.mark.parametrize(
    ("values", "since", "raises", "reason"),
    [
        (feasts(FEASTS), 1390, False, "every year it is as quiet in these weeks"),
        (feasts((*FEASTS[:3], 1395 + 19)), 1390, False, "the moon moves its year by 19 days"),
        (feasts((*FEASTS[:3], 1395 - 11)), 1380, False, "or by 11 days the other way"),
        (feasts(FEASTS[:3])[:1395] + feasts(FEASTS, 0.47)[1395:], 1390, False, "hardly worse"),
        (feasts(FEASTS[:3])[:1395] + feasts(FEASTS, 0.2)[1395:], 1390, True, "this is no feast"),
        (feasts((*FEASTS[:3], 1395 - 90)), 1300, True, "as bad as a feast where there is none"),
        (feasts(FEASTS)[730:], 660, False, "a single year before is enough to know it"),
        (feasts((FEASTS[0], 1395)), 1390, True, "once in three years is not every year"),
        (feasts(FEASTS[3:]), 1390, True, "it never was before"),
    ],
)
def test_what_comes_every_year_is_no_alarm(
    values: Sequence[float], since: int, raises: bool, reason: str
) -> None:
    assert raised_between(DAILY, values, since, since + 40), "without a season it raises"
    assert raised_between(SEASONAL, values, since, since + 40) is raises, reason


def test_one_year_of_crisis_does_not_hide_the_next_in_the_same_weeks() -> None:
    values = feasts(FEASTS[:3])
    values[1030 - 5 : 1030 + 25] = [2.0] * 30
    values[1395:1420] = [v * 0.2 for v in values[1395:1420]]
    assert raised_between(SEASONAL, values, 1390, 1420)


def test_growth_makes_no_season() -> None:
    """In the same weeks of two of three years fewer ships came than in this crisis."""
    grown = [v * math.exp(0.001 * n) for n, v in enumerate(weekly_swing(1420))]
    crisis = [v * 0.6 for v in grown[1395:]]
    assert all(fmean(grown[day : day + 25]) < fmean(crisis) for day in FEASTS[:2])
    assert raised_between(SEASONAL, grown[:1395] + crisis, 1390, 1420)


def test_a_season_holds_what_is_on() -> None:
    window = series(feasts(FEASTS)[: 1395 + 7])
    free = read_agreement(DAILY, window)
    asked = read_agreement(SEASONAL, window)
    held = read_agreement(SEASONAL, window, window[-3].at)
    assert free.raised
    assert (asked.raised, asked.held, asked.compared) == (NONE, MODERATE, IN_SEASON)
    assert held.compared == read_agreement(DAILY, window, window[-3].at).compared


def test_where_no_earlier_year_is_known_nothing_is_asked() -> None:
    values = weekly_swing(530) + [20.0] * 8
    assert read_all(SEASONAL, series(values)) == read_all(DAILY, series(values))


def test_the_measure_of_a_season_is_the_formula_written_out() -> None:
    detector = replace(SMALL, mean_of=1, season=Season(20, 3, 2, 1.5))
    values = [50 + 9 * math.sin(n * 2.3) + 5 * math.sin(n / 9) for n in range(90)]
    y = [-math.log(v) for v in values]
    medians = [median(y[max(n - 13, 0) : n - 1]) if n > 4 else math.nan for n in range(90)]
    apart = [one - other for one, other in zip(y, medians, strict=True)]
    worst = [max(apart[89 - back - 2 : 89 - back + 3]) for back in (20, 40, 60)]
    before = y[89 - 13 : 88]
    spread = 1.4826 * median(abs(one - median(before)) for one in before)
    *_, measure = read_all(detector, series(values))[-1].measures
    assert measure.name == SEASON
    assert measure.value == pytest.approx((apart[89] - sorted(worst)[1]) / spread)
    assert measure.limit == 1.5


# Each number, against the formula written out


def naive(detector: Agreement, values: Sequence[float]) -> list[list[float]]:
    """Each view's value at every step, straight from the formula; NaN where there is none."""
    size = detector.mean_of
    means = [
        fmean(values[n - size + 1 : n + 1]) if n >= size - 1 else math.nan
        for n in range(len(values))
    ]
    y = [detector.direction.sign * math.log(m) if m > 0 else math.nan for m in means]

    def spread(numbers: Sequence[float]) -> float:
        middle = median(numbers)
        return max(1.4826 * median(abs(x - middle) for x in numbers), detector.floor)

    def between(row: Sequence[float], newest: int, count: int) -> list[float]:
        return [
            x for x in row[max(newest - count + 1, 0) : max(newest + 1, 0)] if not math.isnan(x)
        ]

    rows = []
    for t in range(len(y)):
        row = []
        for level in detector.levels:
            seen = between(y, t - level.guard, level.observations)
            enough = len(seen) >= level.min_observations
            row.append((y[t] - median(seen)) / spread(seen) if enough else math.nan)
        for k in detector.changes:
            moves = [y[n] - y[n - k] if n >= k else math.nan for n in range(len(y))]
            seen = between(moves, t - detector.guard, detector.memory)
            enough = len(seen) >= detector.min_memory
            row.append((y[t] - y[t - k]) / spread(seen) if enough else math.nan)
        if detector.short is not None:
            seen, long = (
                y[t - detector.short.observations : t],
                between(y, t - 1, detector.short.long_observations),
            )
            if t >= detector.short.observations and not any(math.isnan(x) for x in seen):
                mad = median(abs(x - median(long)) for x in long)
                sigma = max(stdev(seen), detector.short.min_sigma_share * mad, detector.floor)
                row.append((y[t] - fmean(seen)) / sigma)
            else:
                row.append(math.nan)
        rows.append(row)
    return rows


def test_every_number_is_the_formula_written_out() -> None:
    values = [
        50 + 9 * math.sin(n * 2.3) + 5 * math.sin(n / 9) - (20 if n > 70 else 0) for n in range(90)
    ]
    rows = naive(SMALL, values)
    readings = read_all(SMALL, series(values))
    told = 0
    for t, reading in enumerate(readings):
        if len(reading.measures) < len(rows[t]):
            continue  # Some views have too little past; the others still speak.
        past = rows[max(t - SMALL.guard - SMALL.memory + 1, 0) : t - SMALL.guard + 1]
        columns = [
            sorted(x for x in column if not math.isnan(x)) for column in zip(*past, strict=True)
        ]
        ratios = []
        for measure, value, column in zip(reading.measures, rows[t], columns, strict=True):
            place = SMALL.quantile * (len(column) - 1)
            low = int(place)
            usual = column[low] + (column[min(low + 1, len(column) - 1)] - column[low]) * (
                place - low
            )
            limit = max(SMALL.least, SMALL.ratio * usual)
            assert measure.value == pytest.approx(value)
            assert measure.limit == pytest.approx(limit)
            ratios.append(value / limit)
        assert reading.compared == pytest.approx(sorted(ratios)[-SMALL.need])
        told += 1
    assert told > 50
    assert any(r.raised for r in readings)


@pytest.mark.parametrize("need", [1, 2, 3, 4, 5])
def test_strength_is_what_enough_views_reach(need: int) -> None:
    values = [50 + 9 * math.sin(n * 2.3) - (20 if n > 57 else 0) for n in range(60)]
    reading = read_all(replace(SMALL, need=need), series(values))[-1]
    ratios = [m.value / m.limit for m in reading.measures if m.limit]
    assert len(set(ratios)) == 5
    assert reading.compared == sorted(ratios, reverse=True)[need - 1]


def test_the_measures_are_named_so_that_a_minister_can_follow() -> None:
    reading = read_all(MONTHLY, series([100.0 + n % 7 for n in range(80)], 30.4))[-1]
    assert [m.name for m in reading.measures] == [
        "level over 120 observations",
        "level over 36 observations",
        "change over 1",
        "change over 2",
        "change over 3",
        "newest against the 7 before",
    ]
    assert all(m.limit is not None and m.limit >= MONTHLY.least for m in reading.measures)


@pytest.mark.parametrize(
    ("raise_to", "raised", "held", "reason"),
    [
        (0.95, NONE, MODERATE, "below the thresholds it holds and does not raise"),
        (0.6, NONE, NONE, "at six tenths of them it has cleared"),
        (1.0, MODERATE, MODERATE, "equal to the thresholds is over"),
        (2.0, SEVERE, SEVERE, "twice them is severe"),
    ],
)
def test_bands_point_up_whatever_the_direction(
    raise_to: float, raised: Severity, held: Severity, reason: str
) -> None:
    detector = replace(SMALL, mean_of=1, ratio=1.0, short=None, changes=(1, 3))
    fall = SMALL.least * SMALL.floor * raise_to
    reading = read_all(detector, series([100.0] * 40 + [100 * math.exp(-fall)]))[-1]
    assert reading.compared == pytest.approx(raise_to)
    assert (reading.raised, reading.held) == (raised, held), reason


# What cannot be read


@pytest.mark.parametrize(
    ("detector", "values", "said"),
    [
        (SMALL, [5.0], "it averages 2 observations and has 1"),
        (SMALL, [5.0] * 6, "have enough of a past to be compared with; it has 6 observations"),
        (SMALL, [5.0] * 40 + [-9.0], "a logarithm cannot be taken of -2"),
        (replace(SMALL, direction=Direction.up), [5.0] * 40 + [0.0] * 2, "a logarithm cannot"),
        (replace(SMALL, transform=Transform.square_root), [5.0] * 40 + [-9.0], "a root cannot"),
        (SMALL, [5.0] * 40 + [math.inf], "the mean is beyond all numbers"),
        (SMALL, [5.0] * 40 + [math.nan], "the mean is beyond all numbers"),
        (replace(SMALL, floor=0.0), [5.0] * 60, "0 have enough of a past"),
    ],
)
def test_what_cannot_be_read_says_why(detector: Agreement, values: list[float], said: str) -> None:
    reading = read_all(detector, series(values))[-1]
    assert said in reading.undefined
    assert reading.raised is NONE
    assert reading.compared is None
    assert reading.bands == (MODERATE, SEVERE)


def test_what_cannot_be_read_leaves_the_next_reading_alone() -> None:
    upward = replace(SMALL, mean_of=1, direction=Direction.up)
    usual = [5 + n % 3 for n in range(60)]
    calm = read_all(upward, series([*usual, 5.0, 6.0]))[-1]
    after = read_all(upward, series([*usual, 0.0, 6.0]))[-1]
    assert not calm.raised
    assert not after.raised, "a price of nothing is an error; the return from it is no surge"


def test_small_counts_do_not_alarm_on_nothing() -> None:
    counts = replace(SMALL, direction=Direction.up, transform=Transform.square_root, floor=0.5)
    values = [float(n % 11 == 0) for n in range(60)]
    assert not any(r.raised for r in read_all(counts, series([*values, 2.0])))


def test_zero_is_less_than_any_traffic() -> None:
    assert 0 < LEAST < 1e-6


# The memory


NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, 5.0, 5.0, 7.0, -1.0, 1e-12, 1e300, -1e300, math.inf, math.nan]),
    st.floats(0.5, 500.0),
)
DETECTORS = st.builds(
    replace,
    st.sampled_from(
        [
            SMALL,
            replace(SMALL, mean_of=1, need=2, most=4),
            replace(SMALL, short=None, floor=0.0),
            replace(SMALL, least=0.5, ratio=0.5, season=Season(30, 2, 3, 0.5)),
            replace(SMALL, mean_of=1, season=Season(9, 3, 4, 0)),
        ]
    ),
    direction=st.sampled_from(Direction),
    transform=st.sampled_from(Transform),
)


def same(one: Reading, other: Reading) -> bool:
    """Equal, or both of a value that is not a number."""
    return repr(one) == repr(other)


@LAW
@given(DETECTORS, st.lists(NUMBERS, min_size=1, max_size=130), st.data())
def test_a_warm_memory_reads_exactly_what_a_cold_window_does(
    detector: Agreement, values: list[float], data: st.DataObject
) -> None:
    window = series(values)
    frozen = data.draw(st.none() | st.integers(0, len(window) - 1))
    frozen_at = None if frozen is None else window[frozen].at - timedelta(hours=6)
    since = len(window) - 1 if frozen is None else frozen
    views = Views(detector)
    for end in range(1, len(window)):
        read_agreement(detector, window[:end], frozen_at if end > since else None, views)
    warm = read_agreement(detector, window, frozen_at, views)
    reach = reach_of_agreement(detector)
    cold = read_agreement(detector, window[max(since - reach, 0) :], frozen_at)
    assert same(warm, cold)
    for number in (warm.compared, warm.baseline, *(m.value for m in warm.measures)):
        assert number is None or math.isfinite(number)


@LAW
@given(DETECTORS, st.lists(NUMBERS, min_size=2, max_size=80), st.integers(1, 79))
def test_forgetting_is_always_allowed(
    detector: Agreement, values: list[float], forgotten: int
) -> None:
    window = series(values)
    kept, views = Views(detector), Views(detector)
    for end in range(1, len(window) + 1):
        if end == forgotten:
            views = Views(detector)
        told = read_agreement(detector, window[:end], None, views)
        assert same(told, read_agreement(detector, window[:end], None, kept))


def test_it_knows_the_levels_of_an_onset_it_was_asked_for_however_long_ago() -> None:
    window = series(weekly_swing(3000))
    views = Views(DAILY)
    for sample in window[:2500]:
        views.see(sample)
    asked, unasked = window[2498].at, window[2300].at
    assert views.serves(None)
    assert views.serves(asked)
    assert not views.serves(unasked), f"no more than the last {RECENT} are remembered"
    for sample in window[2500:]:
        views.see(sample, asked)
    assert views.serves(asked)
    assert views.until == window[-1].at
    assert same(views.read(asked), read_agreement(DAILY, window, asked))


def test_a_memory_that_does_not_serve_starts_anew_from_the_window() -> None:
    window = series(weekly_swing(700))
    views = Views(DAILY)
    for sample in window:
        views.see(sample)
    onset = window[450].at
    assert not views.serves(onset)
    assert same(read_agreement(DAILY, window, onset, views), read_agreement(DAILY, window, onset))
    assert views.serves(onset)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (699, 9.0, "the newest was corrected after it was seen"),
        (500, 60.0, "an older one is read again while newer ones are known"),
    ],
)
def test_a_memory_that_knows_better_is_not_believed(place: int, value: float, reason: str) -> None:
    window = series(weekly_swing(700))
    views = Views(DAILY)
    for sample in window:
        views.see(sample)
    asked = [*window[:place], window[place]._replace(value=value)]
    assert same(read_agreement(DAILY, asked, None, views), read_agreement(DAILY, asked)), reason


def test_its_size_is_bounded() -> None:
    views = Views(SMALL)
    largest = 0
    for sample in series(weekly_swing(600)):
        views.see(sample)
        largest = max(largest, views.size)
    assert views.size <= largest
    assert largest < 1000
    assert Views(DAILY).size == 0
