"""Our detectors equal published implementations, number by number. Each test names its source."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import pytest

from alerts import detectors
from alerts.detectors.reading import Reading
from alerts.rules import (
    Band,
    Cusum,
    Direction,
    Ears,
    EarsMethod,
    Ewma,
    LastObservations,
    Measured,
    Method,
    Reset,
    Target,
    ZScore,
)
from tests.alerts.cast import MINOR, NONE, daily


def readings(detector: Measured, values: Sequence[float]) -> list[Reading]:
    """What is read of each value when it is the newest."""
    window = daily("2024-01-01", *values)
    return [detectors.read(detector, window[: n + 1]) for n in range(len(window))]


def measure(reading: Reading, name: str) -> float:
    return next(m.value for m in reading.measures if m.name == name)


def band(raise_at: float) -> tuple[Band, ...]:
    return (Band(MINOR, raise_at, raise_at / 2),)


def ewma(weight: float, limit: float, mean: float, sd: float, run: int) -> Ewma:
    return Ewma("ewma", Direction.up, weight, run, Target("target", mean, sd), band(limit))


def cusum(slack: float, limit: float, mean: float, sd: float, **more: object) -> Cusum:
    target = Target("target", mean, sd)
    return Cusum("cusum", Direction.up, slack, 30, target, band(limit), **more)  # type: ignore[arg-type]


def ears(method: str, limit: float = 3.0) -> Ears:
    return Ears("ears", Direction.up, EarsMethod(method), band(limit))


NIST_EWMA = (
    52.0, 47.0, 53.0, 49.3, 50.1, 47.0, 51.0, 50.1, 51.2, 50.5,
    49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6, 52.1,
)  # fmt: skip
NIST_EWMA_STATISTIC = (
    50.60, 49.52, 50.56, 50.18, 50.16, 49.21, 49.75, 49.85, 50.26, 50.33,
    50.11, 49.36, 49.52, 50.05, 49.38, 49.92, 50.73, 51.23, 51.94, 51.99,
)  # fmt: skip


def test_ewma_of_the_nist_handbook() -> None:
    """NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.2.4: weight 0.3, mean 50, sd 2.0539.

    Its limits are those of a long run, 50 +- 3 s sqrt(0.3 / 1.7); nothing is out of control.
    """
    read = readings(ewma(0.3, 3, 50, 2.0539, 20), NIST_EWMA)
    assert [round(measure(r, "weighted mean"), 2) for r in read] == list(NIST_EWMA_STATISTIC)
    assert read[-1].measures[0].limit == pytest.approx(52.5884, abs=1e-4)
    assert {r.raised for r in read} == {NONE}


NIST_CUSUM = (
    324.925, 324.675, 324.725, 324.350, 325.350, 325.225, 324.125, 324.525, 325.225, 324.600,
    324.625, 325.150, 328.325, 327.250, 327.825, 328.500, 326.675, 327.775, 326.875, 328.350,
)  # fmt: skip


def test_cusum_of_the_nist_handbook() -> None:
    """NIST/SEMATECH e-Handbook, 6.3.2.3: mean 325, k 0.3175, h 4.1959; first alarm at group 14."""
    read = readings(cusum(0.3175, 4.1959, 325, 1, two_sided=True), NIST_CUSUM)
    above = [measure(r, "sum above") for r in read]
    assert [above[n - 1] for n in (13, 14, 20)] == pytest.approx([3.01, 4.94, 19.04], abs=0.006)
    assert [n for n, r in enumerate(read, 1) if r.raised] == list(range(14, 21))
    assert max(measure(r, "sum below") for r in read) < 4.1959


MONTGOMERY = (
    9.45, 7.99, 9.29, 11.66, 12.16, 10.18, 8.04, 11.46, 9.20, 10.34,
    9.03, 11.47, 10.51, 9.40, 10.08, 9.37, 10.62, 10.31, 8.52, 10.84,
    10.90, 9.33, 12.29, 11.50, 10.60, 11.08, 10.38, 11.62, 11.31, 10.52,
)  # fmt: skip
MONTGOMERY_UPPER = (
    0.0, 0.0, 0.0, 1.16, 2.82, 2.50, 0.04, 1.00, 0.0, 0.0, 0.0, 0.97, 0.98, 0.0, 0.0,
    0.0, 0.12, 0.0, 0.0, 0.34, 0.74, 0.0, 1.79, 2.79, 2.89, 3.47, 3.35, 4.47, 5.28, 5.30,
)  # fmt: skip


def test_cusum_of_montgomery() -> None:
    """Montgomery, Introduction to Statistical Quality Control, 9.1: the tabular CUSUM's upper sum.

    Mean 10, sigma 1, k 0.5, h 5: the first alarm is at period 29 with 5.28, and the sum goes on
    to 5.30. The same numbers stand in the tests of the Python package process-improve.
    """
    read = readings(cusum(0.5, 5, 10, 1, two_sided=True), MONTGOMERY)
    assert [round(measure(r, "sum above"), 2) for r in read] == list(MONTGOMERY_UPPER)
    assert [round(measure(r, "sum below"), 2) for r in read[:3]] == [0.05, 1.56, 1.77]
    assert [n for n, r in enumerate(read, 1) if r.raised] == [29, 30]


def test_cusum_of_montgomery_that_starts_anew_after_an_alarm() -> None:
    """The same data: after the alarm at 29 the sum of period 30 is 10.52 - 10.5 (process-improve).

    R ``surveillance::algo.cusum`` resets in the same place: the sum that alarms is followed by one
    that begins at zero, and a sum equal to h alarms.
    """
    read = readings(cusum(0.5, 5, 10, 1, reset=Reset.after_alarm), MONTGOMERY)
    assert round(measure(read[28], "sum above"), 2) == 5.28
    assert measure(read[29], "sum above") == pytest.approx(0.02)
    equal = readings(cusum(0.5, 1.0, 10, 1, reset=Reset.after_alarm), [11.5, 11.5])
    assert [(r.raised, r.compared) for r in equal] == [(MINOR, 1.0), (MINOR, 1.0)]


def test_ewma_of_montgomery() -> None:
    """Montgomery, 9.2: the same data with weight 0.1 and L 2.7, limits 10.27, 10.36 and 10.62.

    z_1 = 9.945 and z_2 = 9.7495 are the book's; the others were computed by its formula. The mean
    is 10.5731 at period 28, still within its limit of 10.6186, and first beyond at 29.
    """
    read = readings(ewma(0.1, 2.7, 10, 1, 30), MONTGOMERY)
    means = [measure(r, "weighted mean") for r in read]
    assert means[:2] == pytest.approx([9.945, 9.7495])
    assert [round(m, 4) for m in means[27:]] == [10.5731, 10.6468, 10.6341]
    limits = [r.measures[0].limit for r in read]
    assert [round(x, 2) for x in (*limits[:2], limits[-1]) if x] == [10.27, 10.36, 10.62]
    assert [n for n, r in enumerate(read, 1) if r.raised] == [29, 30]


SALMONELLA_NEWPORT = (1, 1, 1, 3, 3, 1, 2, 1, 0, 3, 3)
"""Germany, the last seven weeks of 2010 and the first four of 2011 (R ``surveillance``)."""


def test_ears_c1_of_r_surveillance() -> None:
    """R ``surveillance`` 1.26, tests/testthat/test-earsC.R: upper bounds of ``salmNewport``, 2011.

    There C1 with alpha 0.05 gives 3.278854, 3.278854, 3.436517, 3.855617. An upper bound is the
    baseline's mean and z(1 - alpha) times its deviation.
    """
    z = NormalDist().inv_cdf(0.95)
    read = readings(ears("C1", z), SALMONELLA_NEWPORT)
    assert all("C1 needs 8 observations" in r.undefined for r in read[:7])
    bounds = [(r.baseline or 0) + z * measure(r, "spread") for r in read[7:]]
    assert bounds == pytest.approx([3.278854, 3.278854, 3.436517, 3.855617], abs=1e-6)
    assert [r.raised for r in read[7:]] == [NONE] * 4


OUTBREAK = (3, 4, 2, 5, 3, 4, 3, 4, 3, 12, 13, 4)


@pytest.mark.parametrize(
    ("method", "place", "expected"),
    [
        ("C1", 7, 0.5855),
        ("C1", 9, 8.7831),
        ("C1", 10, 2.5158),
        ("C2", 9, 8.7831),
        ("C2", 10, 9.6614),
        ("C2", 11, 0.5855),
        ("C3", 11, 16.4445),
    ],
)
def test_ears_on_an_outbreak_of_two_days(method: str, place: int, expected: float) -> None:
    """Computed by the formulas of R ``surveillance::earsC`` (Fricker, Hegler and Dunfee 2008).

    C1 misses the second day, which the first has masked; the guard of C2 is there for it.
    """
    assert readings(ears(method), OUTBREAK)[place].compared == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("method", "first"), [("C1", 8), ("C2", 10), ("C3", 12)])
def test_ears_can_first_be_read_where_r_surveillance_first_does(method: str, first: int) -> None:
    """R ``surveillance::earsC``: index baseline + 1, + 3 and + 5, counted from 1."""
    read = readings(ears(method), OUTBREAK)
    assert [n for n, r in enumerate(read, 1) if not r.undefined] == list(range(first, 13))


@pytest.mark.parametrize(
    ("value", "z", "raised"), [(12, 0.6745, NONE), (16, 3.3725, NONE), (17, 4.0470, MINOR)]
)
def test_the_robust_z_score(value: float, z: float, raised: object) -> None:
    """Iglewicz and Hoaglin 1993: 0.6745 (x - median) / MAD, an outlier from 3.5 on."""
    baseline = LastObservations("last_observations", 7, 7)
    asked = ZScore("z_score", Direction.up, Method.robust, baseline, band(3.5))
    read = readings(asked, [10, 11, 10, 12, 11, 10, 11, value])[-1]
    assert read.compared == pytest.approx(z, abs=1e-4)
    assert read.raised is raised
