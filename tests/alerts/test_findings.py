"""Machine A, case by case as its docstring numbers them, and what silence does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from alerts import detectors, findings
from alerts.detectors.events import read_reports
from alerts.detectors.reading import Reading
from alerts.findings import QUIET, Finding, State
from alerts.rules import Bands, Freshness, Rule
from alerts.signals import Sample, Severity
from tests.alerts.cast import (
    LEAD_TIME_RULE,
    MODERATE,
    NONE,
    OUTAGE_RULE,
    SEVERE,
    at,
    daily,
    days,
    report,
)

FRESHNESS = Freshness(stale_after_days=46, no_data_after_days=92)


def fold(rule: Rule, found: Sequence[Sample], finding: Finding = QUIET) -> Finding:
    """The finding after all of these values."""
    assert isinstance(rule.detector, Bands)
    for sample in found:
        finding = findings.advance(rule, finding, detectors.read(rule.detector, [sample]))
    return finding


def course(rule: Rule, *weeks: float) -> list[tuple[str, str]]:
    """State and severity after each value, one a day."""
    finding, seen = QUIET, []
    for sample in daily("2021-03-01", *weeks):
        finding = fold(rule, [sample], finding)
        seen.append((finding.state.value, finding.severity.name))
    return seen


def undefined(day: str) -> Reading:
    return Reading(at(day), 5.0, undefined="nothing to compare with")


# ---- the cases ---------------------------------------------------------------------------------


def test_case_1_an_undefined_reading_keeps_severity_onset_and_runs() -> None:
    firing = fold(LEAD_TIME_RULE, daily("2021-03-01", 21, 17))
    assert (firing.state, firing.clear_run) == (State.recovering, 1)
    after = findings.advance(LEAD_TIME_RULE, firing, undefined("2021-03-03"))
    assert after.state is State.not_evaluable
    assert (after.severity, after.onset, after.clear_run) == (SEVERE, at("2021-03-01"), 1)
    assert (after.reason, after.since) == ("nothing to compare with", at("2021-03-03"))
    eased = fold(LEAD_TIME_RULE, daily("2021-03-04", 17), after)
    assert (eased.state, eased.severity) == (State.firing, MODERATE), "the second clear observation"


def test_case_1_nothing_compared_with_nothing_is_not_ok() -> None:
    after = findings.advance(LEAD_TIME_RULE, QUIET, undefined("2021-03-01"))
    assert (after.state, after.severity) == (State.not_evaluable, NONE)
    assert not after.is_quiet


def test_case_2_severity_rises_at_once_to_the_highest_breached_band() -> None:
    rising = fold(LEAD_TIME_RULE, daily("2021-03-01", 12, 21))
    assert (rising.state, rising.severity, rising.onset) == (State.firing, SEVERE, at("2021-03-02"))


def test_case_2_it_rises_again_from_recovering_and_keeps_its_onset() -> None:
    again = fold(LEAD_TIME_RULE, daily("2021-03-01", 16, 13, 21))
    assert (again.state, again.severity) == (State.firing, SEVERE)
    assert (again.onset, again.clear_run) == (at("2021-03-01"), 0)


def test_case_2_where_more_observations_are_wanted_it_is_pending_until_then() -> None:
    patient = replace(LEAD_TIME_RULE, raise_after=3)
    assert course(patient, 16, 17, 14, 12) == [
        ("pending", "none"),
        ("pending", "none"),
        ("firing", "minor"),  # as bad as the third observation says
        ("recovering", "minor"),
    ]


def test_case_2_breaches_must_be_consecutive() -> None:
    patient = replace(LEAD_TIME_RULE, raise_after=3)
    assert course(patient, 16, 17, 13.9, 16, 17) == [
        ("pending", "none"),
        ("pending", "none"),
        ("ok", "none"),
        ("pending", "none"),
        ("pending", "none"),
    ]


def test_case_2_the_onset_is_the_first_of_the_breaches() -> None:
    patient = replace(LEAD_TIME_RULE, raise_after=3)
    assert fold(patient, daily("2021-03-01", 12, 16, 17, 18)).onset == at("2021-03-02")
    assert fold(patient, daily("2021-03-01", 16, 12)).onset is None


def test_case_2_once_firing_it_rises_without_waiting() -> None:
    patient = replace(LEAD_TIME_RULE, raise_after=3)
    assert course(patient, 14, 14, 14, 20)[-1] == ("firing", "severe")


def test_case_3_severity_falls_one_band_at_a_time_however_far_the_value_fell() -> None:
    assert course(LEAD_TIME_RULE, 26, 9, 9, 9, 9, 9, 9) == [
        ("firing", "severe"),
        ("recovering", "severe"),
        ("firing", "moderate"),
        ("recovering", "moderate"),
        ("firing", "minor"),
        ("recovering", "minor"),
        ("ok", "none"),
    ]


def test_case_3_back_to_ok_is_remembered_with_its_instant_and_the_onset_forgotten() -> None:
    over = fold(LEAD_TIME_RULE, daily("2021-03-01", 14, 13, 13, 12))
    assert (over.state, over.ok_since, over.ok_run) == (State.ok, at("2021-03-03"), 2)
    assert over.onset is None
    assert not over.is_quiet


def test_case_3_one_observation_may_do() -> None:
    hasty = replace(LEAD_TIME_RULE, clear_after=1)
    assert course(hasty, 16, 13) == [("firing", "moderate"), ("firing", "minor")]


def test_case_4_neither_higher_nor_past_the_clear_holds_and_begins_the_way_down_again() -> None:
    assert course(LEAD_TIME_RULE, 16, 14, 15, 14, 14) == [
        ("firing", "moderate"),
        ("recovering", "moderate"),
        ("firing", "moderate"),
        ("recovering", "moderate"),
        ("firing", "minor"),
    ]


def test_case_4_an_event_told_again_is_an_event_anew() -> None:
    first, again = report("2023-07-03"), report("2023-08-03")
    told = read_reports(OUTAGE_RULE.detector, [first])  # type: ignore[arg-type]
    finding = findings.advance(OUTAGE_RULE, QUIET, told)
    assert (finding.state, finding.severity, finding.since) == (
        State.firing,
        SEVERE,
        at("2023-07-03"),
    )
    retold = read_reports(OUTAGE_RULE.detector, [first, again])  # type: ignore[arg-type]
    assert findings.advance(OUTAGE_RULE, finding, retold).since == at("2023-08-03")


def test_case_5_an_uncorroborated_event_is_pending_with_what_it_awaits() -> None:
    reading = Reading(at("2023-07-03"), 3.0, held=SEVERE, awaits="another voice")
    finding = findings.advance(OUTAGE_RULE, QUIET, reading)
    assert (finding.state, finding.severity, finding.reason) == (
        State.pending,
        NONE,
        "another voice",
    )


def test_case_6_nothing_breached_is_ok_and_needs_no_memory() -> None:
    calm = fold(LEAD_TIME_RULE, daily("2021-03-01", 12, 13.9, 12))
    assert (calm.state, calm.severity, calm.ok_run) == (State.ok, NONE, 0)
    assert calm.is_quiet


# ---- what the cases add up to ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "reason"),
    [(14, "the lowest band"), (16, "between two bands"), (20, "the highest band")],
)
def test_a_series_that_swings_by_one_around_a_limit_never_flaps(limit: float, reason: str) -> None:
    seen = course(LEAD_TIME_RULE, *[limit + (-0.99 if n % 2 else 1) for n in range(40)])
    severities = [severity for _, severity in seen]
    assert len(set(severities)) == 1, reason
    assert severities[0] != "none"


def test_single_good_observations_between_bad_ones_never_add_up() -> None:
    seen = course(LEAD_TIME_RULE, *[21, 12] * 20)
    assert {severity for _, severity in seen} == {"severe"}


@pytest.mark.parametrize(
    ("silent_days", "state", "reason"),
    [
        (46, State.recovering, "silent exactly as long as allowed"),
        (46.01, State.stale, "a little longer"),
        (92, State.stale, "not yet without data"),
        (92.01, State.no_data, "longer than the second limit"),
    ],
)
def test_silence_ages_a_finding_and_never_moves_its_severity(
    silent_days: float, state: State, reason: str
) -> None:
    before = fold(LEAD_TIME_RULE, daily("2021-03-01", 21, 17))
    last = at("2021-03-02")
    after = findings.fall_silent(FRESHNESS, before, last, last + days(silent_days))
    assert after.state is state, reason
    assert (after.severity, after.clear_run, after.onset) == (SEVERE, 1, at("2021-03-01"))


def test_silence_says_since_when_and_is_told_once() -> None:
    calm = findings.fall_silent(FRESHNESS, QUIET, at("2021-03-01"), at("2021-05-01"))
    assert (calm.state, calm.severity) == (State.stale, NONE)
    assert (calm.observed_at, calm.reason) == (
        at("2021-03-01"),
        "nothing observed since 2021-03-01",
    )
    later = findings.fall_silent(FRESHNESS, calm, at("2021-03-01"), at("2021-05-20"))
    assert later == calm


@pytest.mark.parametrize(
    ("weeks", "state", "severity", "reason"),
    [
        (17, State.firing, MODERATE, "the second observation past the clear of severe"),
        (19, State.firing, SEVERE, "not past it: the way down starts again"),
        (25, State.firing, SEVERE, "as bad as it was"),
    ],
)
def test_after_silence_the_next_observation_continues(
    weeks: float, state: State, severity: Severity, reason: str
) -> None:
    before = fold(LEAD_TIME_RULE, daily("2021-03-01", 21, 17))
    stale = findings.fall_silent(FRESHNESS, before, at("2021-03-02"), at("2021-05-01"))
    lost = findings.fall_silent(FRESHNESS, stale, at("2021-03-02"), at("2021-07-01"))
    assert (stale.state, lost.state) == (State.stale, State.no_data)
    back = fold(LEAD_TIME_RULE, daily("2021-07-02", weeks), lost)
    assert (back.state, back.severity, back.reason) == (state, severity, ""), reason
    assert back.onset == at("2021-03-01")


def test_a_quiet_series_that_fell_silent_needs_no_memory_once_it_speaks() -> None:
    stale = findings.fall_silent(FRESHNESS, QUIET, at("2021-03-02"), at("2021-05-01"))
    assert fold(LEAD_TIME_RULE, daily("2021-05-02", 12), stale).is_quiet


def test_a_band_that_a_new_version_of_the_rule_dropped_is_left_downwards() -> None:
    severe = fold(LEAD_TIME_RULE, daily("2021-03-01", 21))
    assert isinstance(LEAD_TIME_RULE.detector, Bands)
    fewer = replace(LEAD_TIME_RULE.detector, bands=LEAD_TIME_RULE.detector.bands[:2])
    eased = fold(replace(LEAD_TIME_RULE, detector=fewer), daily("2021-03-02", 22, 22), severe)
    assert eased.severity is MODERATE
