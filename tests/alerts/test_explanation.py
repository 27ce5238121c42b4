"""What a minister reads: the exact sentences."""

# ruff: noqa: ISC004 - the sentences are longer than the lines, and stand in tables

from __future__ import annotations

from dataclasses import replace

import pytest

from alerts import explanation
from alerts.findings import Finding, State
from alerts.lifecycle import Advice, AlertState, Cause, EventType, Evidence, News, Occasion, Step
from alerts.mechanisms import Level, Scope
from alerts.rules import Detector, Ending
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
    median_of,
    open_alert,
    report,
    rule,
    trigger,
)

CHIPS = SeriesKey("semiconductors", "lead_time", "chips")
STOCKS = SeriesKey("semiconductors", "inventory_days", "dram", "TW")
SUEZ = SeriesKey("shipping", "transits", "", "suez")
UNKNOWN = SeriesKey("semiconductors", "wafer_age", "unobtainium", "NLRTM")


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
    assert explanation.why([mild, worst, followed], CATALOGUE) == f"{first} 1 more finding agrees."
    assert explanation.why([mild, worst, mild], CATALOGUE) == f"{first} 2 more findings agree."
    assert explanation.why([followed], CATALOGUE) == (
        "Nothing fires at present; the alert closes when that has held on fresh observations."
    )
    assert explanation.why([worst], CATALOGUE, AlertState.resolved) == (
        "It is over: nothing that fed the alert weighs any more."
    )


@pytest.mark.parametrize(
    ("news", "advice", "words"),
    [
        (News.closed, None,
         "All that is measured has been back to normal long enough, on fresh observations."),
        (News.taken_back, None, "What it rested on has been taken back."),
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
    assert explanation.reason(step, Cause(Occasion.time, at("2023-08-01")), CATALOGUE) == words


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
        "band": {"severity": "severe", "raise_at": -0.8, "clear_at": -0.5},
        "missing": None,
        "source": None,
    }
