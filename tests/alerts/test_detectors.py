"""Detectors, as tables: every row says why it must be so."""

from __future__ import annotations

import pytest

from alerts import detectors
from alerts.detectors import Reading
from alerts.rules import Bands, EventTrigger, PercentChange
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


def read(detector: Bands | PercentChange, window: list[Sample], frozen: str = "") -> Reading:
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
         "the change is beyond all numbers", "an overflow is no change"),
        (change((MINOR, 0.25, 0.15), baseline=median_of(10)),
         daily("2023-01-01", 1.7e308, 1.7e308, 1), "the change is beyond all numbers",
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


@pytest.mark.parametrize(
    ("detector", "reach", "reason"),
    [
        (LEAD_TIME_BANDS, 0, "bands look at the value alone"),
        (change((MINOR, 1, 0), baseline=median_of(84, guard=14)), 98, "days and guard"),
        (change((MINOR, 1, 0), baseline=SAME_MONTH), 397, "a leap year and the whole month"),
    ],
)
def test_a_rule_says_how_far_back_it_looks(
    detector: Bands | PercentChange, reach: float, reason: str
) -> None:
    assert detectors.memory(detector) == days(reach), reason


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
    reading = detectors.read_reports(detector, reports)
    assert reading.raised is raised, reason
    assert reading.held is EXTREME, "events do not clear by being read"
    assert bool(reading.awaits) is (raised is NONE and reports[-1].severity >= MODERATE), reason


def test_reporters_that_act_for_no_party_count_as_themselves() -> None:
    alone = report("2023-07-01", partner=CYGNUS, origin=Origin.press)
    another = Report(at("2023-07-02"), SEVERE, PartnerId(4), origin=Origin.press)
    assert detectors.read_reports(trigger(), [alone]).raised is NONE
    assert detectors.read_reports(trigger(), [alone, alone]).raised is NONE
    assert detectors.read_reports(trigger(), [alone, another]).raised is SEVERE


def test_an_uncorroborated_event_says_what_it_lacks() -> None:
    rumour = [report("2023-07-01", partner=AURORA, origin=Origin.press)]
    assert detectors.read_reports(trigger(), rumour).awaits == (
        "2 parties must report it independently within 14 days, or one official source"
    )
    assert detectors.read_reports(trigger(official=()), rumour).awaits == (
        "2 parties must report it independently within 14 days"
    )
