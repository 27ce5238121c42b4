"""What really happened, folded through the shipped profile: MECHANISMS 7.10 as tables.

Figures marked *supposed* are inventions that fill months of which nothing is known.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest

from alerts import detectors, findings, lifecycle
from alerts.findings import QUIET, Finding
from alerts.lifecycle import Evidence
from alerts.mechanisms import Level, Profile
from alerts.rules import Measured
from alerts.signals import Origin, Sample, SeriesId, SeriesKey, Severity
from app import documents
from tests.alerts.cast import (
    DORADO,
    MODERATE,
    SEVERE,
    Desk,
    at,
    days,
    event,
    report,
    samples,
    told,
    value,
)


@functools.cache
def ttc() -> Profile:
    return documents.load_profile(documents.PROFILES_DIR / "ttc-semiconductors.yaml")


def desk(now: str = "2026-01-01") -> Desk:
    return Desk([ttc()], documents.load_catalogue(), at(now))


def series(indicator: str, good: str, place: str = "") -> SeriesKey:
    return SeriesKey("semiconductors", indicator, good, place)


def states(at_desk: Desk, key: SeriesKey) -> tuple[str, str]:
    finding = at_desk.finding(key)
    return finding.state.value, finding.severity.name


# ---- gallium and germanium, 2022 to 2024 -------------------------------------------------------

CONTROL = {good: series("export_control", good, "CN") for good in ("gallium", "germanium")}
VOLUME = {good: series("export_volume", good, "CN") for good in ("gallium", "germanium")}
PRICE = series("price_index", "gallium")

VOLUMES = {
    "gallium": samples(
        ("2022-07-31", 7833),  # supposed: a twelfth of 94 t
        ("2022-08-31", 7833),  # supposed
        ("2022-10-31", 7833),  # supposed
        ("2022-11-30", 5611),
        ("2023-05-31", 5697),
        ("2023-06-30", 6000),  # supposed
        ("2023-08-31", 0),
        ("2023-10-31", 250),
        ("2023-11-30", 1530),
        ("2023-12-31", 1600),  # supposed
        ("2024-04-30", 5175),
        ("2024-05-31", 6210),
        ("2024-06-30", 6300),  # supposed from here on
        ("2024-07-31", 8000),
        ("2024-08-31", 8000),
        ("2024-10-31", 8000),
        ("2024-11-30", 8000),
        ("2024-12-31", 8000),
    ),
    "germanium": samples(
        ("2022-08-31", 3642),  # supposed: a twelfth of 43.7 t
        ("2022-10-31", 3642),  # supposed
        ("2022-11-30", 5488),
        ("2023-05-31", 4233),
        ("2023-08-31", 0),
        ("2023-10-31", 650),
        ("2023-11-30", 721),
        ("2024-04-30", 2333),
        ("2024-05-31", 1820),
    ),
}
PRICES = samples(
    ("2023-04-30", 100),  # supposed: the level of 1 August, the base of what was reported
    ("2023-05-31", 100),
    ("2023-06-30", 100),
    ("2023-08-01", 100),
    ("2023-10-31", 140),
    ("2024-08-27", 195),
    ("2024-09-30", 195),  # supposed from here on: it stays
    ("2024-10-31", 195),
    ("2024-11-30", 195),
    ("2024-12-31", 195),
    ("2025-01-31", 195),
)


def metals(until: str, good: str = "gallium") -> Desk:
    """Everything observed of a metal until a day, in the order of observation."""
    entries = [value(VOLUME[good], f"{s.at:%Y-%m-%d}", s.value) for s in VOLUMES[good]]
    if good == "gallium":
        entries += [value(PRICE, f"{s.at:%Y-%m-%d}", s.value) for s in PRICES]
    entries.append(event(CONTROL[good], report("2023-07-03", effective="2023-08-01")))
    here = desk()
    for entry in sorted(entries, key=lambda e: e.at):
        if entry.at <= at(until):
            here.post(entry)
    return here


@pytest.mark.parametrize(
    ("good", "recommended", "reason"),
    [
        ("gallium", Level.disruption, "98 % of it comes from one country"),
        ("germanium", None, "HHI 0.40 is not above 0.4, and 60 % is not above 65 %"),
    ],
)
def test_the_announcement_opens_an_early_warning(
    good: str, recommended: Level | None, reason: str
) -> None:
    here = metals("2023-07-03", good)
    assert told(here.published) == [("opened", Level.early_warning, SEVERE)]
    advice = here.alert.recommendation
    assert (advice.level if advice else None) is recommended, reason


@pytest.mark.parametrize("good", ["gallium", "germanium"])
def test_the_day_it_takes_effect_is_told_and_moves_nothing(good: str) -> None:
    here = metals("2023-07-03", good)
    assert here.sweep(at("2023-07-31")) == []
    (step,) = here.sweep(at("2023-08-01"))
    assert (step.transition.type.value, step.transition.at) == ("alert.updated", at("2023-08-01"))
    assert (step.alert.level, step.alert.severity) == (Level.early_warning, SEVERE)
    assert "takes effect" in step.transition.reason
    assert here.sweep(at("2023-08-02")) == []


@pytest.mark.parametrize("good", ["gallium", "germanium"])
def test_no_exports_in_august_recommend_disruption_for_both(good: str) -> None:
    here = metals("2023-08-31", good)
    assert states(here, VOLUME[good]) == ("firing", "severe")
    assert here.finding(VOLUME[good]).compared == -1
    advice = here.alert.recommendation
    assert advice is not None
    assert advice.level is Level.disruption
    assert any("availability and quantity" in reason for reason in advice.reasons)
    assert here.alert.level is Level.early_warning, "recommended, not set"


def test_forty_per_cent_more_is_a_moderate_price() -> None:
    assert states(metals("2023-10-31"), PRICE) == ("firing", "moderate")


@pytest.mark.parametrize(
    ("good", "change", "reason"),
    [
        ("gallium", -0.727, "back above the raise of -80 %, not past the clear of -50 %"),
        ("germanium", -0.869, "beyond the raise"),
    ],
)
def test_both_stay_severe_in_november(good: str, change: float, reason: str) -> None:
    here = metals("2023-11-30", good)
    assert states(here, VOLUME[good]) == ("firing", "severe"), reason
    assert here.finding(VOLUME[good]).compared == pytest.approx(change, abs=0.0005)


@pytest.mark.parametrize(
    ("day", "state", "severity", "reason"),
    [
        ("2024-04-30", "not_evaluable", "severe", "no April before the onset to compare with"),
        ("2024-05-31", "recovering", "severe", "+9 %: the first good month"),
        ("2024-06-30", "firing", "moderate", "the second: down by one band"),
        ("2024-07-31", "recovering", "moderate", "the third, against July 2022"),
        ("2024-08-31", "ok", "none", "the fourth, against August 2022, not against none"),
    ],
)
def test_the_volume_of_gallium_comes_back_one_band_at_a_time(
    day: str, state: str, severity: str, reason: str
) -> None:
    assert states(metals(day), VOLUME["gallium"]) == (state, severity), reason


def test_the_volume_of_germanium_stays_severe() -> None:
    here = metals("2024-05-31", "germanium")
    assert states(here, VOLUME["germanium"]) == ("firing", "severe"), "-57 % is not past -50 %"


def test_gallium_stays_open_on_its_price_although_its_volume_is_back() -> None:
    here = metals("2025-01-31")
    assert states(here, VOLUME["gallium"])[1] == "none"
    assert states(here, PRICE) == ("firing", "severe")
    assert (here.alert.level, here.alert.severity) == (Level.early_warning, SEVERE)
    assert here.finding(PRICE).baseline == 100


def unfrozen(rule_id: str, found: Sequence[Sample]) -> Finding:
    """The finding of a rule whose baseline moves along."""
    rule = next(r for r in ttc().rules if r.id == rule_id)
    assert isinstance(rule.detector, Measured)
    finding = QUIET
    for count in range(1, len(found) + 1):
        reading = detectors.read(rule.detector, found[:count], frozen_at=None)
        finding = findings.advance(rule, finding, reading)
    return finding


def test_with_a_moving_baseline_the_alert_of_gallium_would_have_closed() -> None:
    """The negative of the test above: the price, compared with the quarter before, never fires."""
    here, rules = metals("2025-01-31"), {r.id: r for r in ttc().rules}
    prices = [unfrozen("price", PRICES[:count]) for count in range(1, len(PRICES) + 1)]
    assert not any(finding.fires for finding in prices)
    volume = unfrozen("export-volume", VOLUMES["gallium"])
    control = here.finding(CONTROL["gallium"])
    left = [
        Evidence(rules["export-volume"], SeriesId(1), VOLUME["gallium"], "kg", volume),
        Evidence(rules["export-control"], SeriesId(2), CONTROL["gallium"], "", control),
    ]
    assert lifecycle.may_close(ttc().closing, here.alert, left, at("2025-01-31"))


@pytest.mark.parametrize("good", ["gallium", "germanium"])
def test_the_engine_never_sets_what_people_set(good: str) -> None:
    here = metals("2025-01-31", good)
    assert {p.transition.level_to for p in here.published} == {Level.early_warning}


# ---- chip lead times, 2020 to 2022 -------------------------------------------------------------

LEAD_TIME = series("lead_time", "chips")
LEAD_TIMES = [
    ("2020-10-31", 13.9, "none"),
    ("2021-02-28", 14.1, "minor"),  # quoted only as above 14
    ("2021-03-31", 16.0, "moderate"),
    ("2021-04-30", 17.0, "moderate"),
    ("2022-03-31", 26.6, "severe"),
    ("2022-08-31", 26.8, "severe"),
    ("2022-09-30", 26.3, "severe"),
]


def test_lead_times_rise_from_nothing_to_severe() -> None:
    here, seen = desk(), []
    for day, weeks, _ in LEAD_TIMES:
        here.post(value(LEAD_TIME, day, weeks))
        seen.append((day, weeks, here.finding(LEAD_TIME).severity.name))
    assert seen == LEAD_TIMES
    assert here.types() == ["opened", "escalated", "escalated"]


def test_the_revision_of_march_2021_is_an_update_of_the_same_severity() -> None:
    here = desk()
    for day, weeks, _ in LEAD_TIMES[:5]:
        here.post(value(LEAD_TIME, day, weeks))
    before = here.alert
    (step,) = here.post(value(LEAD_TIME, "2021-03-31", 18.1))
    assert told([step]) == [("updated", before.level, before.severity)]
    assert step.transition.reason.startswith(
        "The value for 31 March 2021 was revised from 16 to 18.1 weeks."
    )


def test_all_of_it_in_one_batch_tells_the_same() -> None:
    here = desk()
    here.post(*[value(LEAD_TIME, day, weeks) for day, weeks, _ in LEAD_TIMES])
    assert here.types() == ["opened", "escalated", "escalated"]


# ---- a maker of discretes, autumn 2025 ---------------------------------------------------------

FIRM = series("firm_control", "discretes", "NL")
BLOCK = series("export_control", "discretes", "CN")
NO_GUARANTEE = series("supply_not_guaranteed", "discretes")
EXEMPTION = series("exemption_granted", "discretes", "CN")
SUSPENDED = series("measure_suspended", "discretes", "NL")
LETTER = report("2025-10-10", origin=Origin.company, ref="letter")
WARNING = report("2025-10-16", partner=DORADO, origin=Origin.association, ref="warning")

EVENTS = [
    event(FIRM, report("2025-09-30", ref="order")),
    event(BLOCK, report("2025-10-04", ref="block")),
    event(NO_GUARANTEE, LETTER),
    event(NO_GUARANTEE, WARNING),
    event(EXEMPTION, report("2025-11-09", Severity.minor, ref="exemption")),
    event(SUSPENDED, report("2025-11-19", Severity.minor, ref="suspension")),
]


def discretes(until: str) -> Desk:
    here = desk()
    for entry in EVENTS:
        if entry.at <= at(until):
            here.post(entry, now=entry.at)
    return here


def test_a_firm_seized_opens_an_early_warning_on_the_first_day_from_the_event_alone() -> None:
    here = discretes("2025-09-30")
    assert told(here.published) == [("opened", Level.early_warning, SEVERE)]
    assert here.alert.recommendation is None


def test_the_export_block_recommends_disruption() -> None:
    advice = discretes("2025-10-04").alert.recommendation
    assert advice is not None
    assert advice.level is Level.disruption


def test_the_second_party_makes_it_certain_that_supply_is_not_guaranteed() -> None:
    assert states(discretes("2025-10-10"), NO_GUARANTEE) == ("pending", "none")
    assert states(discretes("2025-10-16"), NO_GUARANTEE) == ("firing", "severe")


def test_exemptions_and_suspension_are_follow_ups_and_only_people_end_it() -> None:
    here = discretes("2025-11-19")
    assert here.types() == ["opened", "updated", "updated", "updated", "updated"]
    assert (here.alert.level, here.alert.severity) == (Level.early_warning, SEVERE)
    late = here.sweep(here.alert.recorded_at + days(120))
    assert here.alert.state.value == "open"
    assert {p.alert.severity for p in late} <= {SEVERE}


def test_a_crisis_is_never_recommended_without_people() -> None:
    here = discretes("2025-11-19")
    advised = [p.alert.recommendation for p in here.published]
    assert Level.crisis not in {advice.level for advice in advised if advice}


def test_a_moderate_event_stays_moderate() -> None:
    here = desk()
    here.post(event(FIRM, report("2025-09-30", MODERATE)))
    assert told(here.published) == [("opened", Level.early_warning, MODERATE)]
