"""What a minister reads: the exact sentences."""

# ruff: noqa: ISC004 - the sentences are longer than the lines, and stand in tables

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial

import pytest

from alerts import detectors, explanation, findings
from alerts.detectors import joint
from alerts.detectors.joint import Panel
from alerts.detectors.reading import Reading
from alerts.findings import Finding, State
from alerts.lifecycle import Advice, AlertState, Cause, EventType, Evidence, News, Occasion, Step
from alerts.mechanisms import Level, Scope
from alerts.rules import (
    Agreement,
    Band,
    Baseline,
    Combination,
    Composite,
    Concentration,
    Count,
    Cusum,
    Detector,
    Direction,
    Ears,
    EarsMethod,
    Effect,
    Ending,
    Ewma,
    Family,
    Joint,
    LastObservations,
    LevelView,
    Measured,
    Member,
    Method,
    PercentChange,
    Previous,
    RateOfChange,
    Run,
    SamePeriod,
    Season,
    Share,
    Site,
    SiteHazard,
    Surge,
    SurgeGate,
    Target,
    Transform,
    ZScore,
)
from alerts.signals import Report, SeriesId, SeriesKey, Severity
from tests.alerts.cast import (
    CATALOGUE,
    CONTROL,
    EXEMPTION_RULE,
    LEAD,
    LEAD_TIME,
    LEAD_TIME_BANDS,
    MINOR,
    MODERATE,
    NONE,
    PRICE,
    SAME_MONTH,
    SEVERE,
    VOLUME,
    at,
    bands,
    change,
    daily,
    median_of,
    open_alert,
    report,
    rule,
    samples,
    trigger,
)

CHIPS = SeriesKey("semiconductors", "lead_time", "chips")
STOCKS = SeriesKey("semiconductors", "inventory_days", "dram", "TW")
SUEZ = SeriesKey("shipping", "transits", "", "suez")
UNKNOWN = SeriesKey("semiconductors", "wafer_age", "unobtainium", "NLRTM")

say = partial(explanation.sentence, catalogue=CATALOGUE)


def about(
    key: SeriesKey,
    detector: Detector,
    found: Finding,
    *,
    told: Report | None = None,
    raise_after: int = 1,
    frozen: str = "",
) -> Evidence:
    asked = rule(key.indicator, detector, raise_after=raise_after)
    indicator = CATALOGUE.indicators.get(key.indicator)
    unit = indicator.unit if indicator else ""
    return Evidence(asked, SeriesId(1), key, unit, found, told, at(frozen) if frozen else None)


def found(
    severity: Severity,
    value: float,
    compared: float | None = None,
    baseline: float | None = None,
    *,
    day: str = "2022-03-31",
    state: State = State.firing,
    clear_run: int = 0,
    raise_run: int = 0,
) -> Finding:
    return Finding(
        state,
        severity,
        at("2021-02-28") if severity else None,
        at(day),
        at(day),
        value,
        value if compared is None else compared,
        baseline,
        raise_run,
        clear_run,
    )


STOCK_BANDS = bands((MODERATE, 30, 40), (SEVERE, 15, 25), direction="down")
RECOVERING = State.recovering


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6)),
         "Lead time of chips of all kinds stood at 26.6 weeks on 31 March 2022, above the limit of "
         "20 weeks for severe."),
        (about(CHIPS, LEAD_TIME_BANDS, found(MODERATE, 16.0)),
         "Lead time of chips of all kinds stood at 16 weeks on 31 March 2022, at the limit of "
         "16 weeks for moderate."),
        (about(CHIPS, LEAD_TIME_BANDS, found(NONE, 13.9, state=State.ok)),
         "Lead time of chips of all kinds stood at 13.9 weeks on 31 March 2022, within the limit of "
         "14 weeks for minor."),
        (about(CHIPS, LEAD_TIME_BANDS, found(NONE, 13.9996, state=State.ok)),
         "Lead time of chips of all kinds stood at 13.9996 weeks on 31 March 2022, within the limit "
         "of 14 weeks for minor."),
        (about(CHIPS, LEAD_TIME_BANDS, found(MODERATE, 15.25)),
         "Lead time of chips of all kinds stood at 15.25 weeks on 31 March 2022, within the limit "
         "of 16 weeks for moderate, which clears at 14 weeks."),
        (about(CHIPS, LEAD_TIME_BANDS, found(MODERATE, 13.0, state=RECOVERING, clear_run=1)),
         "Lead time of chips of all kinds stood at 13 weeks on 31 March 2022; moderate clears at "
         "14 weeks, which it has reached on 1 of 2 observations in a row."),
        (about(CHIPS, LEAD_TIME_BANDS, found(MODERATE, 12.0)),
         "Lead time of chips of all kinds stood at 12 weeks on 31 March 2022; moderate clears at "
         "14 weeks, which takes 2 observations in a row."),
        (about(CHIPS, LEAD_TIME_BANDS, found(NONE, 17, state=State.pending, raise_run=1),
               raise_after=3),
         "Lead time of chips of all kinds stood at 17 weeks on 31 March 2022, above the limit of "
         "14 weeks for minor, on 1 of 3 observations in a row."),
        (about(LEAD_TIME, bands((MINOR, 1, 0.5)), found(MINOR, 1.0)),
         "Lead time of neon stood at 1 week on 31 March 2022, at the limit of 1 week for minor."),
        (about(STOCKS, STOCK_BANDS, found(SEVERE, 12.0)),
         "Inventory in days of use of DRAM memory in Taiwan stood at 12 days on 31 March 2022, below "
         "the limit of 15 days for severe."),
        (about(UNKNOWN, bands((MINOR, 1, 0.5)), found(MINOR, 1234.56)),
         "Wafer age of unobtainium at NLRTM stood at 1,235 on 31 March 2022, above the limit of 1 "
         "for minor."),
    ],
)  # fmt: skip
def test_a_value_against_its_bands(one: Evidence, sentence: str) -> None:
    assert explanation.sentence(one, CATALOGUE) == sentence


FALL = change((MODERATE, -0.5, -0.25), (SEVERE, -0.8, -0.5), baseline=SAME_MONTH, direction="down")
RISE = change((MINOR, 0.25, 0.15), (MODERATE, 0.4, 0.25), baseline=median_of(90))
PASSING = change(
    (MODERATE, -0.25, -0.15), (SEVERE, -0.5, -0.4), baseline=median_of(84, 60, guard=14),
    direction="down", mean_of=7,
)  # fmt: skip
NOVEMBER = "2023-11-30"


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (about(VOLUME, FALL, found(SEVERE, 0, -1, 7833, day=NOVEMBER), frozen="2022-07-03"),
         "Volume exported of neon from Ukraine stood at 0 kg on 30 November 2023, 100 % below November "
         "2021 (7,833 kg); the limit for severe is -80 %."),
        (about(VOLUME, FALL, found(SEVERE, 1530, -0.7273, 5611, day=NOVEMBER), frozen="2023-07-03"),
         "Volume exported of neon from Ukraine stood at 1,530 kg on 30 November 2023, 72.7 % below "
         "November 2022 (5,611 kg); severe clears at -50 %."),
        (about(VOLUME, FALL, found(SEVERE, 6210, 0.09, 5697, day=NOVEMBER, state=RECOVERING,
                                   clear_run=1), frozen="2023-07-03"),
         "Volume exported of neon from Ukraine stood at 6,210 kg on 30 November 2023, 9 % above "
         "November 2022 (5,697 kg); severe clears at -50 %, which it has reached on 1 of 2 "
         "observations in a row."),
        (about(VOLUME, FALL, found(NONE, 5611, 0.0, 5611, day=NOVEMBER, state=State.ok)),
         "Volume exported of neon from Ukraine stood at 5,611 kg on 30 November 2023, unchanged from "
         "November 2022 (5,611 kg)."),
        (about(PRICE, RISE, found(MODERATE, 140, 0.4 - 1e-12, 100, day=NOVEMBER),
               frozen="2023-07-03"),
         "Price of neon stood at 140 USD/kg on 30 November 2023, 40 % above the median of the 90 "
         "days up to 3 July 2023 (100 USD/kg); the limit for moderate is +40 %."),
        (about(PRICE, RISE, replace(found(MINOR, 130, 0.3, 100, day=NOVEMBER), onset=at(NOVEMBER))),
         "Price of neon stood at 130 USD/kg on 30 November 2023, 30 % above the median of the 90 "
         "days before (100 USD/kg); the limit for minor is +25 %."),
        (about(PRICE, RISE, found(NONE, 130, 0.3, 100, state=State.pending, raise_run=1),
               raise_after=2),
         "Price of neon stood at 130 USD/kg on 31 March 2022, 30 % above the median of the 90 days "
         "before (100 USD/kg); the limit for minor is +25 %, reached on 1 of 2 observations in a "
         "row."),
        (about(SUEZ, PASSING, replace(found(MODERATE, 38.428571, -0.3596, 60, day="2024-01-15"),
                                      onset=at("2024-01-15"))),
         "Ships passing a chokepoint at the Suez Canal averaged 38.43 transits a day over the 7 "
         "observations up to 15 January 2024, 36 % below the median of the 84 days up to 1 January "
         "2024 (60 transits a day); the limit for moderate is -25 %."),
    ],
)  # fmt: skip
def test_a_change_against_its_baseline(one: Evidence, sentence: str) -> None:
    assert explanation.sentence(one, CATALOGUE) == sentence


EVENT = found(SEVERE, 3.0, day="2023-07-03")


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (about(CONTROL, trigger(), EVENT, told=report("2023-07-03", effective="2023-08-01")),
         "Reported on 3 July 2023 for neon in Ukraine: export control, severity severe, in effect from "
         "1 August 2023."),
        (about(CONTROL, trigger(), EVENT,
               told=report("2023-07-03", announced="2023-07-01", effective="2023-08-01")),
         "Reported on 3 July 2023 for neon in Ukraine: export control, severity severe, announced on "
         "1 July 2023, in effect from 1 August 2023."),
        (about(CONTROL._replace(good="", place=""), trigger(), EVENT),
         "Reported on 3 July 2023 for semiconductors: export control, severity severe."),
        (about(CONTROL._replace(sector="shipping", good="", place="suez"), trigger(), EVENT),
         "Reported on 3 July 2023 for shipping at the Suez Canal: export control, severity severe."),
        (about(CONTROL, trigger(), replace(EVENT, severity=NONE, state=State.pending,
                                           reason="2 parties must report it independently within "
                                           "14 days, or one official source")),
         "Reported on 3 July 2023 for neon in Ukraine, not corroborated yet: export control; 2 parties "
         "must report it independently within 14 days, or one official source."),
        (about(CONTROL, trigger(), replace(EVENT, severity=NONE, state=State.ok)),
         "Reported on 3 July 2023 for neon in Ukraine: export control, too mild to count."),
        (about(CONTROL, trigger(), Finding()),
         "What was reported for neon in Ukraine no longer stands: export control."),
    ],
)  # fmt: skip
def test_an_event(one: Evidence, sentence: str) -> None:
    assert explanation.sentence(one, CATALOGUE) == sentence


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (about(VOLUME, FALL, replace(found(SEVERE, 5, day=NOVEMBER), state=State.not_evaluable,
                                     reason="the baseline is zero")),
         "Volume exported of neon from Ukraine could not be judged on 30 November 2023: the baseline is "
         "zero; its last known severity, severe, stands."),
        (about(VOLUME, FALL, replace(found(NONE, 5, day=NOVEMBER), state=State.not_evaluable,
                                     reason="the baseline is zero")),
         "Volume exported of neon from Ukraine could not be judged on 30 November 2023: the baseline is "
         "zero."),
        (about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26, state=State.stale)),
         "Lead time of chips of all kinds has not been reported since 31 March 2022; its last known "
         "severity, severe, stands."),
        (about(CHIPS, LEAD_TIME_BANDS, found(NONE, 12, state=State.no_data)),
         "Lead time of chips of all kinds has not been reported since 31 March 2022."),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_and_what_is_silent(one: Evidence, sentence: str) -> None:
    assert explanation.sentence(one, CATALOGUE) == sentence


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26)),
         "at or below 18 weeks on 2 more observations in a row"),
        (about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 17, clear_run=1)),
         "at or below 18 weeks on 1 more observation in a row"),
        (about(VOLUME, FALL, found(SEVERE, 0, -1, 9)),
         "at or above -50 % against its baseline on 2 more observations in a row"),
        (about(CONTROL, trigger(), EVENT), "people decide that it is over"),
        (about(CONTROL, trigger(Ending.with_measurements), EVENT),
         "a measurement that fired beside it comes back to ok, or people decide"),
        (about(CHIPS, LEAD_TIME_BANDS, found(NONE, 12, state=State.ok)), ""),
    ],
)  # fmt: skip
def test_what_would_have_to_happen(one: Evidence, wanted: str) -> None:
    assert explanation.to_clear(one) == wanted


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (26.6, "weeks", "26.6 weeks"),
        (1, "weeks", "1 week"),
        (1, "transits/day", "1 transit a day"),
        (43.0, "transits/day", "43 transits a day"),
        (2.3, "sd", "2.3 standard deviations"),
        (1.0, "sd", "1 standard deviation"),
        (95, "percent", "95 %"),
        (0.85, "fraction", "0.85"),
        (140, "index", "140"),
        (2280, "USD/kg", "2,280 USD/kg"),
        (1234567.89, "kg", "1,234,568 kg"),
        (123.456, "kg", "123.5 kg"),
        (0.1 + 0.2, "kg", "0.3 kg"),
        (0.00012, "kg", "0.00012 kg"),
        (-0.0, "kg", "0 kg"),
        (1e300, "kg", "1e+300 kg"),
        (None, "kg", "unknown"),
    ],
)
def test_an_amount_has_no_more_digits_than_matter(
    value: float | None, unit: str, words: str
) -> None:
    assert explanation.amount(value, unit) == words


@pytest.mark.parametrize(
    ("scope", "title"),
    [
        (Scope("m", "semiconductors", "neon"), "Neon (semiconductors)"),
        (Scope("m", "semiconductors", "dram"), "DRAM memory (semiconductors)"),
        (Scope("m", "shipping", "", "suez"), "Suez Canal (shipping)"),
        (Scope("m", "semiconductors", "neon", "UA"), "Neon, Ukraine (semiconductors)"),
        (Scope("m", "semiconductors"), "Semiconductors"),
    ],
)
def test_a_headline(scope: Scope, title: str) -> None:
    assert explanation.title(scope, CATALOGUE) == title


def test_why_speaks_of_the_worst_and_counts_the_others() -> None:
    worst = about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6))
    mild = about(PRICE, RISE, found(MINOR, 130, 0.3, 100))
    followed = replace(about(CONTROL, trigger(), EVENT), rule=EXEMPTION_RULE)
    first = explanation.sentence(worst, CATALOGUE)
    assert explanation.why([mild, worst, followed], say) == f"{first} 1 more finding agrees."
    assert explanation.why([mild, worst, mild], say) == f"{first} 2 more findings agree."
    assert explanation.why([followed], say) == (
        "Nothing fires at present; the alert closes when that has held on fresh observations."
    )
    assert explanation.why([worst], say, AlertState.resolved) == (
        "It is over: nothing that fed the alert weighs any more."
    )


@pytest.mark.parametrize(
    ("news", "advice", "words"),
    [
        (News.closed, None,
         "All that is measured has been back to normal long enough, on fresh observations."),
        (News.taken_back, None, "Nothing that it rested on stands any more."),
        (News.measure, None, "An announced measure takes effect: export control (UA)."),
        (News.advice, None, "Nothing above the present level is recommended any more."),
        (News.advice, Advice(Level.disruption, ("this", "that")),
         "The engine recommends disruption: this; that."),
        (News.finding, None, "Time has passed."),
    ],
)  # fmt: skip
def test_the_reason_of_a_transition(news: News, advice: Advice | None, words: str) -> None:
    alert = replace(open_alert(LEAD), recommendation=advice)
    step = Step(EventType.updated, alert, at("2023-08-01"), news, "Export control (UA)")
    assert explanation.reason(step, Cause(Occasion.time, at("2023-08-01")), say) == words


@pytest.mark.parametrize(
    ("corrections", "words"),
    [
        ([(16.0, 18.1)], "The value for 31 March 2021 was revised from 16 to 18.1 weeks."),
        ([(16.0, 16.0004)], "The value for 31 March 2021 was revised from 16 to 16.0004 weeks."),
        ([(None, 16.0)], "A late value for 31 March 2021 came in: 16 weeks."),
        ([(16.0, None)], "The value for 31 March 2021, 16 weeks, was taken back."),
        ([(1.0, 2.0), (16.0, 18.1)],
         "The value for 31 March 2021 was revised from 16 to 18.1 weeks (and 1 other value with "
         "it)."),
        ([(1.0, 2.0), (1.0, 2.0), (16.0, None)],
         "The value for 31 March 2021, 16 weeks, was taken back (and 2 other values with it)."),
    ],
)  # fmt: skip
def test_a_correction(corrections: list[tuple[float | None, float | None]], words: str) -> None:
    told = [(at("2021-03-31"), was, now) for was, now in corrections]
    assert explanation.corrected(told, "weeks") == words


@pytest.mark.parametrize(
    ("now", "words"),
    [(2.0, "The report of 3 July 2023 was revised."),
     (None, "The report of 3 July 2023 was taken back.")],
)  # fmt: skip
def test_a_corrected_report(now: float | None, words: str) -> None:
    assert explanation.corrected([(at("2023-07-03"), 3.0, now)], "", is_event=True) == words


def test_a_finding_as_data_can_be_checked_by_hand() -> None:
    one = about(VOLUME, FALL, found(SEVERE, 1530, -0.7273, 5611, day=NOVEMBER), frozen="2023-07-03")
    said = explanation.describe(one, CATALOGUE)
    assert {k: v for k, v in said.items() if k not in {"sentence", "to_clear"}} == {
        "rule": "export-volume",
        "rule_version": 1,
        "family": "availability",
        "series_id": 1,
        "sector": "semiconductors",
        "indicator": "export_volume",
        "good": "neon",
        "place": "UA",
        "state": "firing",
        "severity": "severe",
        "value": 1530,
        "unit": "kg",
        "observed_at": "2023-11-30T00:00:00Z",
        "compared": -0.7273,
        "baseline": 5611,
        "baseline_frozen_at": "2023-07-03T00:00:00Z",
        "window": {
            "observations": None,
            "days": 397.0,
            "from": "2022-11-01T00:00:00Z",
            "until": "2022-12-01T00:00:00Z",
        },
        "measures": [],
        "band": {"severity": "severe", "raise_at": -0.8, "clear_at": -0.5},
        "missing": None,
        "to_raise": None,
        "quiet": None,
        "source": None,
    }


# Every kind of detector


def last(count: int, guard: int = 0, least: int = 0) -> LastObservations:
    return LastObservations("last_observations", count, least or count, guard)


KNOWN = Target("target", 10, 2)
TIMES = (Band(MINOR, 3, 2), Band(MODERATE, 5, 4))
FALLS = (Band(MINOR, -3, -2),)
ONE = (Band(MINOR, 1, 0.5),)
TWO = (Band(MINOR, 2, 1),)
UP, DOWN = Direction.up, Direction.down
FAB = Site("TW", "Fab cluster", exposure=0.8, vulnerability=0.5)


def judged(
    detector: Measured,
    values: Sequence[float],
    frozen: str = "",
    key: SeriesKey = LEAD_TIME,
    **more: object,
) -> Evidence:
    """The finding that the newest of daily values makes, from 1 January 2024 on."""
    asked = replace(rule(key.indicator, detector), **more)  # type: ignore[arg-type]
    begun = at(frozen) if frozen else None
    reading = detectors.read(detector, daily("2024-01-01", *values), begun, place="TW")
    found = findings.advance(asked, Finding(), reading)
    return Evidence(asked, SeriesId(1), key, "weeks", found, None, begun)


def percent_of(baseline: Baseline) -> PercentChange:
    return PercentChange("percent_change", UP, baseline, (Band(MINOR, 0.25, 0.15),))


def z_score(method: Method, baseline: LastObservations | Target, mean_of: int = 1) -> ZScore:
    return ZScore("z_score", UP, method, baseline, TIMES, mean_of=mean_of)


AGREEMENT = Agreement(
    "agreement", UP, Transform.log, 2, (LevelView(30, 5, 10),), (1, 7), 2, 0.98, 1.1, 3.0,
    100, 30, 5, 1e-6, (Band(MINOR, 1, 0.8),),
)  # fmt: skip
FEAST = (*(400 if n % 60 in (20, 21) else 100 + n % 7 for n in range(200)), 400, 400)
SEASON = SamePeriod("same_period", 3, 10, 1, 1)


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (judged(percent_of(Previous("previous", 1)), (2, 3)),
         "stood at 3 weeks on 2 January 2024, 50 % above the observation before (2 weeks); the "
         "limit for minor is +25 %."),
        (judged(percent_of(Previous("previous", 12)), (2,) * 12 + (2,)),
         "stood at 2 weeks on 13 January 2024, unchanged from the observation 12 before (2 weeks)."),
        (judged(percent_of(Target("target", 40)), (41,)),
         "stood at 41 weeks on 1 January 2024, 2.5 % above what is expected (40 weeks)."),
        (judged(percent_of(last(4, guard=2)), (1, 1, 1, 1, 1, 1, 1.2)),
         "stood at 1.2 weeks on 7 January 2024, 20 % above the median of the 4 observations that "
         "ended 2 before (1 week)."),
        (judged(percent_of(last(9, least=1)), (1, 1, 4, 6), "2024-01-03"),
         "stood at 6 weeks on 4 January 2024, 500 % above the median of the up to 9 observations "
         "before 3 January 2024 (1 week); the limit for minor is +25 %."),
        (judged(percent_of(SEASON), (1,) * 800 + (2,)),
         "stood at 2 weeks on 11 March 2026, 100 % above the median of the same time of the 3 "
         "years before, give or take 10 days (1 week); the limit for minor is +25 %."),
        (judged(z_score(Method.classic, last(3)), (8, 10, 12, 16)),
         "stood at 16 weeks on 4 January 2024, 3 times its usual spread above the mean of the 3 "
         "observations before (10 weeks); the limit for minor is 3 times."),
        (judged(z_score(Method.classic, last(3)), (8, 10, 12, 10)),
         "stood at 10 weeks on 4 January 2024, right at the mean of the 3 observations before "
         "(10 weeks)."),
        (judged(z_score(Method.robust, last(3), mean_of=2), (8, 9, 10, 7, 8)),
         "averaged 7.5 weeks over the 2 observations up to 5 January 2024, 1.01 times its usual "
         "spread below the median of the 3 observations before (9 weeks)."),
        (judged(ZScore("z_score", DOWN, Method.classic, KNOWN, FALLS), (2,)),
         "stood at 2 weeks on 1 January 2024, 4 times its usual spread below what is expected "
         "(10 weeks); the limit for minor is 3 times below."),
        (judged(Ewma("ewma", UP, 0.5, 2, last(3), TIMES), (8, 10, 12, 40, 40)),
         "stood at 40 weeks on 5 January 2024; its weighted mean over the newest 2 observations "
         "lies 20.12 times its own usual spread above the mean of the 3 observations that ended 2 "
         "before (10 weeks); the limit for moderate is 5 times."),
        (judged(Cusum("cusum", UP, 0.5, 3, KNOWN, TIMES, two_sided=True), (2, 8)),
         "stood at 8 weeks on 2 January 2024; over the newest 3 observations what lay below what "
         "is expected (10 weeks) adds up to 4 times its usual spread; the limit for minor is 3 "
         "times."),
        (judged(Cusum("cusum", DOWN, 0.5, 3, KNOWN, TIMES), (8,)),
         "stood at 8 weeks on 1 January 2024; over the newest 3 observations what lay below what "
         "is expected (10 weeks) adds up to 0.5 times its usual spread."),
        (judged(Ears("ears", UP, EarsMethod.c1, TIMES, 3), (8, 10, 12, 16)),
         "stood at 16 weeks on 4 January 2024, 3 times its usual spread above the mean of the 3 "
         "observations before (10 weeks); the limit for minor is 3 times."),
        (judged(Ears("ears", UP, EarsMethod.c3, TIMES, 3), (8, 10, 12, 8, 10, 12, 16, 18, 10)),
         "stood at 10 weeks on 9 January 2024; its excess over the mean of the 3 observations that "
         "ended 2 before (10 weeks) adds up to 5 times its usual spread in three observations; the "
         "limit for moderate is 5 times."),
        (judged(RateOfChange("rate_of_change", UP, 3, ONE), (1, 2, 3)),
         "stood at 3 weeks on 3 January 2024, rising by 1 week an observation over the newest 3; "
         "the limit for minor is 1 week an observation."),
        (judged(RateOfChange("rate_of_change", UP, 3, ONE, relative=True), (3, 2, 1)),
         "stood at 1 week on 3 January 2024, falling by 50 % an observation over the newest 3."),
        (judged(RateOfChange("rate_of_change", UP, 3, ONE), (3, 3, 3)),
         "stood at 3 weeks on 3 January 2024, without a trend over the newest 3."),
        (judged(Run("run", UP, TWO), (1, 2, 3)),
         "stood at 3 weeks on 3 January 2024, up 2 times in a row from 1 week; the limit for minor "
         "is 2 times."),
        (judged(Run("run", DOWN, TWO), (3, 2)),
         "stood at 2 weeks on 2 January 2024, down once from 3 weeks."),
        (judged(Run("run", UP, TWO), (3, 3)),
         "stood at 3 weeks on 2 January 2024, not up from 3 weeks before."),
        (judged(SiteHazard("site_hazard", UP, (FAB,), ONE), (2.5,)),
         "stood at 2.5 weeks on 1 January 2024; for what stands there (exposure 0.8, vulnerability "
         "0.5) that is an impact of 1; the limit for minor is an impact of 1."),
        (judged(AGREEMENT, (*(100 + n % 7 for n in range(200)), 400, 400)),
         "averaged 400 weeks over the 2 observations up to 20 July 2024 (usually 103 weeks); 3 of "
         "the 3 ways of looking at it are beyond what is usual for it, and 2 are needed; the limit "
         "for minor is an agreement of 1."),
        (judged(replace(AGREEMENT, season=Season(60, 2, 3, 2)), FEAST),
         "averaged 400 weeks over the 2 observations up to 20 July 2024 (usually 103 weeks); 3 of "
         "the 3 ways of looking at it are beyond what is usual for it, and 2 are needed; it is "
         "hardly worse than the same weeks of other years."),
    ],
)  # fmt: skip
def test_every_detector_has_its_sentence(one: Evidence, sentence: str) -> None:
    assert explanation.sentence(one, CATALOGUE) == f"Lead time of neon {sentence}"


@pytest.mark.parametrize(
    ("one", "clear"),
    [
        (judged(z_score(Method.classic, KNOWN), (20,)), "at or below 4 times its usual spread"),
        (judged(ZScore("z_score", DOWN, Method.classic, KNOWN, FALLS), (2,)),
         "at or above 2 times its usual spread below what it is compared with"),
        (judged(Cusum("cusum", DOWN, 0.5, 3, KNOWN, TIMES), (2,)),
         "at or below 2 times its usual spread"),
        (judged(RateOfChange("rate_of_change", UP, 3, ONE), (1, 2, 3)),
         "at or below 0.5 weeks an observation"),
        (judged(RateOfChange("rate_of_change", UP, 2, ONE, relative=True), (0, 3)),
         "at or below +50 % an observation"),
        (judged(Run("run", DOWN, TWO), (3, 2, 1)), "at or below a run of 1"),
        (judged(SiteHazard("site_hazard", UP, (FAB,), ONE), (9,)), "at or below an impact of 0.5"),
        (judged(AGREEMENT, (*(100 + n % 7 for n in range(200)), 400, 400)),
         "at or below an agreement of 0.8"),
    ],
)  # fmt: skip
def test_what_would_have_to_happen_to_any_detector(one: Evidence, clear: str) -> None:
    assert explanation.to_clear(one) == f"{clear} on 2 more observations in a row"


# Rules that read several series, or other findings

SUPPLY = "import_share"
SHARES = {
    SeriesKey("semiconductors", SUPPLY, "neon", "UA"): samples(("2022-01-01", 0.7)),
    SeriesKey("semiconductors", SUPPLY, "neon", "CN"): samples(("2022-01-01", 0.2)),
}
GATES = (
    SurgeGate("materiality", SUPPLY, UP, 0.1),
    SurgeGate("price", "price", DOWN, 5),
)
MEMBERS = (Member("lead_time", UP, 2), Member("price", UP))


def panel(detector: Concentration | Surge | Composite, series: Panel, day: str) -> Evidence:
    return together(detector, joint.read_panel(detector, series, at(day)))


def together(detector: Joint, reading: Reading) -> Evidence:
    asked = replace(rule("supply", detector), title="Supply at risk")
    good = "" if isinstance(detector, Composite | Combination) else "neon"
    key = SeriesKey("semiconductors", "rule:supply", good)
    found = findings.advance(asked, Finding(), reading)
    return Evidence(asked, SeriesId(1), key, "", found)


def concentration(measure: str, times: int = 1, of: int = 1, limit: float = 0.4) -> Concentration:
    held = (Band(MINOR, limit, limit - 0.1),)
    return Concentration("concentration", UP, Share(measure), held, times, of)


def combination(count: str, limit: float) -> Evidence:
    detector = Combination(
        "combination", UP, ("price", "volume", "lead-time"), (Band(MINOR, limit, 1),), Count(count)
    )
    told = {
        "price": [(Family.price, SEVERE)],
        "volume": [(Family.quantity, MODERATE)],
        "lead-time": [(Family.availability, NONE)],
    }
    return together(detector, joint.read_findings(detector, told, at("2023-01-01")))


def surge(price: float) -> Evidence:
    series = {
        SeriesKey("semiconductors", SUPPLY, "neon"): samples(("2023-01-01", 0.7)),
        SeriesKey("semiconductors", "price", "neon"): samples(("2023-01-01", price)),
    }
    return panel(Surge("surge", UP, GATES, TWO), series, "2023-01-01")


def composite(bands: tuple[Band, ...]) -> Evidence:
    detector = Composite("composite", UP, MEMBERS, last(5, least=2), 60, 0.6, bands)
    return panel(detector, {LEAD_TIME: daily("2023-01-01", 8, 10, 12, 16)}, "2023-01-04")


@pytest.mark.parametrize(
    ("one", "sentence", "change"),
    [
        (panel(concentration("hhi"), SHARES, "2023-01-01"),
         "Supply at risk of neon on 1 January 2023: the Herfindahl-Hirschman index of its suppliers "
         "is 0.53; 90 % of the supply is of suppliers that are named; the limit for minor is 0.4.",
         "at or below 0.3 on 2 more observations in a row"),
        (panel(concentration("largest_share", limit=0.75), SHARES, "2023-01-01"),
         "Supply at risk of neon on 1 January 2023: the largest supplier holds 70 %; 90 % of the "
         "supply is of suppliers that are named.",
         "at or above 75 % on the next observation"),
        (panel(concentration("largest_share", 1, 2), SHARES, "2023-01-01"),
         "Supply at risk of neon on 1 January 2023: the largest supplier holds 70 % or more in 1 of "
         "the last 2 periods; 90 % of the supply is of suppliers that are named; the limit for "
         "minor is 40 %.",
         "at or below 30 % on 2 more observations in a row"),
        (panel(concentration("hhi"), {}, "2023-01-01"),
         "Supply at risk of neon could not be judged on 1 January 2023: no supplier's share is "
         "known.",
         "at or above 0.4 on the next observation"),
        (surge(7), "Supply at risk of neon on 1 January 2023: 1 of 2 gates passed, not price.",
         "at or above 2 of 2 gates on the next observation"),
        (surge(4),
         "Supply at risk of neon on 1 January 2023: 2 of 2 gates passed; the limit for minor is 2 "
         "of 2 gates.",
         "at or below 1 of 2 gates on 2 more observations in a row"),
        (combination("rules", 2),
         "Supply at risk for semiconductors on 1 January 2023: 2 of 3 rules fire (price and "
         "volume); the limit for minor is 2 rules.",
         "at or below 1 rule on 2 more observations in a row"),
        (combination("families", 3),
         "Supply at risk for semiconductors on 1 January 2023: 2 families of rules fire (price and "
         "volume).",
         "at or above 3 families on the next observation"),
        (composite(TWO),
         "Supply at risk for semiconductors on 4 January 2023: the index stands 2.02 spreads above "
         "normal, on 66.7 % of its weights; the limit for minor is 2 spreads.",
         "at or below 1 spread on 2 more observations in a row"),
    ],
)  # fmt: skip
def test_what_is_read_together_is_named_by_its_rule(
    one: Evidence, sentence: str, change: str
) -> None:
    assert explanation.sentence(one, CATALOGUE) == sentence
    assert explanation.to_clear(one) + explanation.to_raise(one) == change


# Why there is no alert

CALM = found(NONE, 13.9, state=State.ok)
TOO_LITTLE = "2 parties must report it independently within 14 days"


def ruled(one: Evidence, **more: object) -> Evidence:
    return replace(one, rule=replace(one.rule, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "in_force", "ending", "reason"),
    [
        (about(CHIPS, LEAD_TIME_BANDS, CALM), True,
         "within the limit of 14 weeks for minor. Minor is raised at 14 weeks; it is 0.1 weeks "
         "short.", "how far a value is from its limit"),
        (about(SUEZ, PASSING, found(NONE, 47, -0.22, 60, day="2024-01-15", state=State.ok)), True,
         "22 % below the median of the 84 days up to 1 January 2024 (60 transits a day). Moderate "
         "is raised at -25 %; it is 3 percentage points short.", "a change"),
        (about(PRICE, RISE, found(NONE, 124.9999, 0.249999, 100, state=State.ok)), True,
         "Minor is raised at +25 %; it is 0.0001 percentage points short.", "however little"),
        (about(CHIPS, LEAD_TIME_BANDS, found(NONE, 17, state=State.pending, raise_run=1),
               raise_after=3), True,
         "on 1 of 3 observations in a row. It needs 2 more observations in a row to be raised.",
         "beyond, and not for long enough"),
        (about(VOLUME, FALL, replace(CALM, state=State.not_evaluable, reason="the baseline is zero")),
         True, "the baseline is zero. What cannot be judged raises nothing.", "undefined"),
        (about(CHIPS, LEAD_TIME_BANDS, replace(CALM, state=State.stale)), True,
         "has not been reported since 31 March 2022. Silence raises nothing.", "silence"),
        (about(CHIPS, LEAD_TIME_BANDS, Finding()), True,
         "Nothing is known of lead time of chips of all kinds that came near a limit.",
         "a finding that needs no memory is not kept"),
        (judged(z_score(Method.classic, KNOWN), (15,)), True,
         "Minor is raised at 3 times; it is 0.5 short.", "in its usual spreads"),
        (judged(Run("run", UP, TIMES), (1, 2)), True,
         "up once from 1 week. Minor is raised at 3 times; it is 2 short.", "a count"),
        (judged(RateOfChange("rate_of_change", UP, 2, ONE, relative=True), (3, 5)), True,
         "Minor is raised at +100 % an observation; it is 50 percentage points short.", "a trend"),
        (surge(7), True, "Minor is raised at 2 of 2 gates; it is 1 short.", "gates"),
        (about(CONTROL, trigger(), replace(EVENT, severity=NONE, state=State.ok)), True,
         "export control, too mild to count. It counts from moderate on.", "a mild event"),
        (about(CONTROL, trigger(), replace(EVENT, severity=NONE, state=State.pending,
                                           reason=TOO_LITTLE)), True,
         f"not corroborated yet: export control; {TOO_LITTLE}.", "one voice"),
        (about(CONTROL, trigger(), Finding()), True,
         "What was reported for neon in Ukraine no longer stands: export control.", "taken back"),
        (ruled(about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6)), shadow=True), True,
         "above the limit of 20 weeks for severe. The rule is a shadow: it is judged and recorded, "
         "and moves no alert.", "a shadow fires for nobody"),
        (ruled(about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6)), effect=Effect.follow_up), True,
         "The rule only tells those who follow an alert, and opens none.", "a follow-up"),
        (ruled(about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6)), effect=Effect.component), True,
         "The rule only counts towards a combination of rules.", "a component"),
        (ruled(about(CHIPS, LEAD_TIME_BANDS, CALM), effective_from=date(2022, 5, 1)), True,
         "The rule judges what is observed from 1 May 2022 on.", "a rule still to come"),
        (about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6)), False,
         "The mechanism is not in force, so nothing that it finds opens an alert.", "no mechanism"),
        (about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6)), True,
         "Nothing keeps it from opening an alert.", "then there is one"),
    ],
)  # fmt: skip
def test_why_there_is_no_alert(one: Evidence, in_force: bool, ending: str, reason: str) -> None:
    assert explanation.quiet(one, CATALOGUE, in_force=in_force).endswith(ending), reason


def test_a_quiet_finding_as_data_says_what_it_lacks() -> None:
    said = explanation.describe(about(CHIPS, LEAD_TIME_BANDS, CALM), CATALOGUE)
    assert said["to_raise"] == "at or above 14 weeks on the next observation"
    assert str(said["quiet"]).endswith("it is 0.1 weeks short.")
    firing = about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6))
    assert explanation.describe(firing, CATALOGUE)["quiet"] is None
    shadow = explanation.describe(ruled(firing, shadow=True), CATALOGUE)
    assert "shadow" in str(shadow["quiet"])
    asleep = explanation.describe(firing, CATALOGUE, in_force=False)
    assert "not in force" in str(asleep["quiet"])


@pytest.mark.parametrize(
    ("one", "raises"),
    [
        (about(CONTROL, trigger(), Finding()), "a report of at least moderate, corroborated"),
        (about(CONTROL, trigger(), replace(EVENT, severity=NONE, state=State.pending,
                                           reason=TOO_LITTLE)), TOO_LITTLE),
        (about(CHIPS, LEAD_TIME_BANDS, found(NONE, 17, state=State.pending, raise_run=1),
               raise_after=3), "at or above 14 weeks on 2 more observations in a row"),
        (about(CHIPS, LEAD_TIME_BANDS, found(SEVERE, 26.6)), ""),
    ],
)  # fmt: skip
def test_what_would_raise_it(one: Evidence, raises: str) -> None:
    assert explanation.to_raise(one) == raises


@pytest.mark.parametrize(
    ("one", "window"),
    [
        (about(CHIPS, LEAD_TIME_BANDS, CALM), (None, None, None, None)),
        (about(PRICE, RISE, found(MINOR, 130, 0.3, 100, day=NOVEMBER), frozen="2023-07-03"),
         (None, 90, "2023-04-04T00:00:00Z", "2023-07-03T00:00:00Z")),
        (judged(percent_of(SEASON), (1,) * 800 + (2,)),
         (None, 1118, "2023-03-01T00:00:00Z", "2025-03-21T00:00:00Z")),
        (judged(percent_of(last(4, guard=2)), (1,) * 7), (6, None, None, None)),
        (judged(Ears("ears", UP, EarsMethod.c2, TIMES), (1,) * 7), (9, None, None, None)),
        (panel(concentration("hhi", 2, 3), SHARES, "2023-01-01"), (3, None, None, None)),
        (combination("rules", 2), (None, None, None, None)),
        (about(CONTROL, trigger(), EVENT), (None, 14, None, None)),
    ],
)  # fmt: skip
def test_the_window_that_was_looked_at(one: Evidence, window: tuple[object, ...]) -> None:
    names = ("observations", "days", "from", "until")
    assert explanation.describe(one, CATALOGUE)["window"] == dict(zip(names, window, strict=True))


def test_the_numbers_behind_a_reading_are_data() -> None:
    one = judged(z_score(Method.classic, last(3)), (8, 10, 12, 16))
    measures = explanation.describe(one, CATALOGUE)["measures"]
    assert measures == [{"name": "spread", "value": 2.0, "limit": None}]


def test_only_baselines_are_frozen() -> None:
    run = judged(Run("run", UP, TWO), (1, 2, 3), "2024-01-02")
    assert explanation.describe(run, CATALOGUE)["baseline_frozen_at"] is None
    z = judged(z_score(Method.classic, last(3)), (8, 10, 12, 16, 16), "2024-01-04")
    assert explanation.describe(z, CATALOGUE)["baseline_frozen_at"] == "2024-01-04T00:00:00Z"
