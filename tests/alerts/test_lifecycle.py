"""Machine B, case by case as its docstring numbers them: opening, moving, measures, closing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alerts import lifecycle
from alerts.findings import Finding, State
from alerts.lifecycle import (
    Alert,
    AlertState,
    Cause,
    EventType,
    Evidence,
    News,
    Occasion,
    TakesEffect,
)
from alerts.mechanisms import (
    Level,
    Profile,
)
from alerts.rules import Ending
from alerts.signals import Severity
from tests.alerts.cast import (
    CONTROL,
    CONTROL_RULE,
    EXEMPTION_RULE,
    EXTREME,
    LEAD,
    LEAD_TIME_RULE,
    MINOR,
    MODERATE,
    NONE,
    NOW,
    OUTAGE_RULE,
    PLAIN,
    PRICE,
    PRICE_RULE,
    SEVERE,
    VOLUME,
    VOLUME_RULE,
    at,
    evidence,
    finding,
    mechanism,
    observed,
    ok,
    open_alert,
    report,
    rule,
    trigger,
)


def steps_of(
    alert: Alert, held: list[Evidence], cause: Cause, profile: Profile = PLAIN
) -> list[tuple[str, Severity]]:
    found = lifecycle.advance(profile, alert, held, cause, NOW)
    return [(s.type.value.removeprefix("alert."), s.alert.severity) for s in found]


# ---- opening -----------------------------------------------------------------------------------


def test_a_finding_that_fires_opens_an_early_warning_of_its_severity() -> None:
    alert = open_alert(LEAD)
    assert (alert.level, alert.state) == (Level.early_warning, AlertState.open)
    assert (alert.severity, alert.number, alert.validated) == (MODERATE, 1, False)
    assert (alert.opened_at, alert.recorded_at) == (at("2021-03-31"), NOW)
    assert (alert.scope.good, alert.scope.place) == ("neon", "")
    assert (alert.profile_version, alert.tlp) == (PLAIN.version, PLAIN.default_tlp)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (evidence(LEAD_TIME_RULE, Finding()), "nothing fires"),
        (evidence(LEAD_TIME_RULE, finding(NONE, state=State.pending)), "pending is not firing"),
        (evidence(LEAD_TIME_RULE, finding(NONE, state=State.not_evaluable)), "nor is not judged"),
        (evidence(EXEMPTION_RULE, finding(MINOR)), "a follow-up follows, it opens nothing"),
    ],
)
def test_nothing_else_opens_one(held: Evidence, reason: str) -> None:
    cause = Cause(Occasion.observation, at("2021-03-31"), held)
    assert lifecycle.advance(PLAIN, None, [held], cause, NOW) == (), reason


@pytest.mark.parametrize(
    ("now", "opens", "reason"),
    [
        ("2023-05-30T23:59:59", False, "the day before it enters into force"),
        ("2023-05-31", True, "the first day counts"),
        ("2027-04-05T23:59:59", True, "the last day counts to its end"),
        ("2027-04-06", False, "the day after it expired"),
    ],
)
def test_a_mechanism_issues_only_while_in_force(now: str, opens: bool, reason: str) -> None:
    profile = mechanism(LEAD_TIME_RULE, valid=("2023-05-31", "2027-04-05"))
    steps = lifecycle.advance(profile, None, [LEAD], observed(LEAD), at(now))
    assert bool(steps) is opens, reason


def test_an_alert_of_an_expired_mechanism_stands_as_it_is_until_renewal() -> None:
    profile = mechanism(LEAD_TIME_RULE, valid=("2023-05-31", "2027-04-05"))
    alert = open_alert(LEAD)
    worse = evidence(LEAD_TIME_RULE, finding(SEVERE, "2027-04-30"))
    after, renewed = at("2027-05-01"), at("2027-04-05")
    assert lifecycle.advance(profile, alert, [worse], observed(worse), after) == ()
    (step,) = lifecycle.advance(profile, alert, [worse], observed(worse), renewed)
    assert step.type is EventType.escalated


# ---- moving ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [(MODERATE, SEVERE, "escalated"), (SEVERE, MODERATE, "eased"), (SEVERE, EXTREME, "escalated")],
)
def test_the_worst_finding_is_the_alerts_severity(
    before: Severity, after: Severity, kind: str
) -> None:
    calm = evidence(PRICE_RULE, finding(MINOR), PRICE)
    alert = open_alert(evidence(LEAD_TIME_RULE, finding(before)), calm)
    moved = evidence(LEAD_TIME_RULE, finding(after, "2021-04-30"))
    assert steps_of(alert, [moved, calm], observed(moved, finding(before))) == [(kind, after)]


def test_the_same_severity_again_is_no_transition() -> None:
    again = evidence(LEAD_TIME_RULE, finding(MODERATE, "2021-04-30"))
    assert steps_of(open_alert(LEAD), [again], observed(again, LEAD.finding)) == []


def test_a_milder_finding_is_told_when_it_rises_under_a_worse_one_and_not_when_it_falls() -> None:
    worse = evidence(LEAD_TIME_RULE, finding(SEVERE))
    risen = evidence(PRICE_RULE, finding(MODERATE, "2021-04-30"), PRICE)
    fallen = evidence(PRICE_RULE, finding(MINOR, "2021-04-30"), PRICE)
    alert = open_alert(worse)
    told = steps_of(alert, [worse, risen], observed(risen, finding(MINOR)))
    assert told == [("updated", SEVERE)]
    assert steps_of(alert, [worse, fallen], observed(fallen, finding(MODERATE))) == []


def test_a_second_finding_that_begins_to_fire_is_told_although_the_severity_stays() -> None:
    price = evidence(PRICE_RULE, finding(MINOR, "2021-04-30"), PRICE)
    told = steps_of(open_alert(LEAD), [LEAD, price], observed(price, Finding()))
    assert told == [("updated", MODERATE)]


def test_a_revision_of_what_fed_it_is_told_although_nothing_changes() -> None:
    cause = Cause(Occasion.revision, at("2021-03-31"), LEAD, LEAD.finding, "It was revised.")
    assert steps_of(open_alert(LEAD), [LEAD], cause) == [("updated", MODERATE)]


def test_a_follow_up_is_told_and_weighs_nothing() -> None:
    exemption = evidence(EXEMPTION_RULE, finding(EXTREME, "2021-04-30"))
    cause = Cause(Occasion.report, at("2021-04-30"), exemption, Finding())
    assert steps_of(open_alert(LEAD), [LEAD, exemption], cause) == [("updated", MODERATE)]


def test_time_alone_tells_nothing_where_nothing_was_due() -> None:
    assert steps_of(open_alert(LEAD), [LEAD], Cause(Occasion.time, at("2021-09-30"))) == []


# ---- announced measures ------------------------------------------------------------------------


def announced(day: str, effective: str, told: str = "2023-07-03") -> tuple[Evidence, Cause]:
    said = report(told, effective=effective)
    one = evidence(CONTROL_RULE, finding(SEVERE, told), CONTROL, report=said)
    return one, Cause(Occasion.report, at(day), one, Finding())


def test_an_announced_measure_is_told_when_its_day_has_come_and_once() -> None:
    control, cause = announced("2023-07-03", "2023-08-01")
    (opened,) = lifecycle.advance(PLAIN, None, [control], cause, NOW)
    assert opened.alert.awaiting == (TakesEffect(at("2023-08-01"), "Export control (UA)"),)
    early = Cause(Occasion.time, at("2023-07-31"))
    assert lifecycle.advance(PLAIN, opened.alert, [control], early, NOW) == ()
    due = Cause(Occasion.time, at("2023-08-02"))
    (step,) = lifecycle.advance(PLAIN, opened.alert, [control], due, NOW)
    assert (step.type, step.at, step.news) == (EventType.updated, at("2023-08-01"), News.measure)
    assert (step.alert.level, step.alert.severity) == (Level.early_warning, SEVERE)
    assert step.alert.awaiting == ()
    assert lifecycle.advance(PLAIN, step.alert, [control], due, NOW) == ()


def test_an_observation_after_the_day_tells_of_the_measure_before_itself() -> None:
    control, cause = announced("2023-07-03", "2023-08-01")
    (opened,) = lifecycle.advance(PLAIN, None, [control], cause, NOW)
    volume = evidence(VOLUME_RULE, finding(SEVERE, "2023-08-31"), VOLUME)
    found = lifecycle.advance(PLAIN, opened.alert, [control, volume], observed(volume), NOW)
    assert [(s.at, s.news) for s in found] == [
        (at("2023-08-01"), News.measure),
        (at("2023-08-31"), News.finding),
    ]


@pytest.mark.parametrize(
    ("effective", "reason"),
    [
        ("2023-07-03", "in effect with its announcement"),
        ("2023-06-01", "announced afterwards"),
        ("", "no day given"),
    ],
)
def test_a_measure_already_in_effect_is_not_awaited(effective: str, reason: str) -> None:
    control, cause = announced("2023-07-03", effective)
    (opened,) = lifecycle.advance(PLAIN, None, [control], cause, NOW)
    assert opened.alert.awaiting == (), reason


def test_the_same_measure_told_by_two_is_awaited_once_and_a_correction_moves_its_day() -> None:
    control, cause = announced("2023-07-03", "2023-08-01")
    (opened,) = lifecycle.advance(PLAIN, None, [control], cause, NOW)
    (again,) = lifecycle.advance(PLAIN, opened.alert, [control], cause, NOW)
    assert again.alert.awaiting == opened.alert.awaiting
    later, _ = announced("2023-07-03", "2023-09-01")
    revised = Cause(Occasion.revision, at("2023-07-03"), later, control.finding)
    (moved,) = lifecycle.advance(PLAIN, again.alert, [later], revised, NOW)
    assert [m.at for m in moved.alert.awaiting] == [at("2023-09-01")]


def test_a_report_revised_after_its_measure_was_told_does_not_tell_it_again() -> None:
    control, cause = announced("2023-07-03", "2023-08-01")
    (opened,) = lifecycle.advance(PLAIN, None, [control], cause, NOW)
    due = Cause(Occasion.time, at("2023-08-02"))
    (step,) = lifecycle.advance(PLAIN, opened.alert, [control], due, NOW)
    revised = replace(cause, occasion=Occasion.revision)
    (told,) = lifecycle.advance(PLAIN, step.alert, [control], revised, NOW)
    assert (told.news, told.alert.awaiting) == (News.finding, ())


# ---- closing -----------------------------------------------------------------------------------

FRESH_RULE = replace(LEAD_TIME_RULE, freshness=rule("x", trigger(), stale=(46, 92)).freshness)


@pytest.mark.parametrize(
    ("held", "at_day", "closes", "reason"),
    [
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15"))], "2021-05-15", True,
         "fourteen days on two observations"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-14"))], "2021-05-14T23:59", False,
         "not quite fourteen days"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15", run=1))], "2021-05-15", False,
         "one observation is not two"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-02"))], "2021-06-17", True,
         "the newest is as old as it may be"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-02"))], "2021-06-17T00:01", False,
         "the newest is stale"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15", state=State.stale))], "2021-05-15",
         False, "found stale by the sweep"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15", state=State.no_data))], "2021-05-15",
         False, "without data"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15", state=State.not_evaluable))],
         "2021-05-15", False, "not judged"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15", state=State.pending))], "2021-05-15",
         False, "on its way up again"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15")),
          evidence(PRICE_RULE, finding(MINOR, "2021-05-10"), PRICE)], "2021-05-15", False,
         "another still fires"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15")),
          evidence(PRICE_RULE, ok("2021-05-03", "2021-05-15"), PRICE)], "2021-05-15", False,
         "another came back later"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15")),
          evidence(OUTAGE_RULE, finding(SEVERE))], "2021-05-15", False,
         "only people end an outage"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15")),
          evidence(CONTROL_RULE, finding(SEVERE), CONTROL)], "2021-05-15", True,
         "what is measured has recovered since the control was told"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15")),
          evidence(CONTROL_RULE, finding(SEVERE, "2021-05-10"), CONTROL)], "2021-05-15", False,
         "the control was told after the recovery"),
        ([evidence(CONTROL_RULE, finding(SEVERE), CONTROL)], "2023-05-15", False,
         "nothing is measured that could answer the control"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15")),
          evidence(EXEMPTION_RULE, finding(MINOR))], "2021-05-15", True, "a follow-up holds nothing"),
        ([evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15")), evidence(OUTAGE_RULE, Finding())],
         "2021-05-15", True, "the outage was taken back"),
        ([evidence(OUTAGE_RULE, Finding())], "2021-05-15", True,
         "all that it rested on was taken back"),
        ([evidence(OUTAGE_RULE, finding(NONE, state=State.pending))], "2021-05-15", False,
         "one voice was taken back, another still stands"),
        ([evidence(EXEMPTION_RULE, finding(MINOR))], "2021-05-15", False,
         "a follow-up alone says nothing of an end"),
        ([], "2021-05-15", True, "the rules it rested on are gone"),
    ],
)  # fmt: skip
def test_an_early_warning_closes_by_itself(
    held: list[Evidence], at_day: str, closes: bool, reason: str
) -> None:
    alert = open_alert(evidence(LEAD_TIME_RULE, finding(MODERATE)))
    assert lifecycle.may_close(PLAIN.closing, alert, held, at(at_day)) is closes, reason


@pytest.mark.parametrize("level", [Level.disruption, Level.crisis])
def test_what_people_set_only_people_close(level: Level) -> None:
    alert = replace(open_alert(LEAD), level=level)
    held = [evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15"))]
    assert not lifecycle.may_close(PLAIN.closing, alert, held, at("2021-05-15"))


def test_closing_is_a_step_of_its_own_back_to_monitoring() -> None:
    over = evidence(FRESH_RULE, ok("2021-05-01", "2021-05-15"))
    alert = open_alert(evidence(LEAD_TIME_RULE, finding(MODERATE)))
    eased = replace(alert, severity=NONE, number=2)
    (step,) = lifecycle.advance(PLAIN, eased, [over], observed(over), NOW)
    assert (step.type, step.news) == (EventType.resolved, News.closed)
    assert (step.alert.state, step.alert.level) == (AlertState.resolved, Level.monitoring)
    assert (step.alert.resolved_at, step.alert.number) == (at("2021-05-15"), 3)


# ---- events that measurements answer -----------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "told", "severity", "reason"),
    [
        (Ending.with_measurements, "2021-04-01", MINOR, "answered by the volume that came back"),
        (Ending.with_measurements, "2021-05-01", SEVERE, "told on the day of the recovery"),
        (Ending.with_measurements, "2021-05-10", SEVERE, "told after the recovery: a new fear"),
        (Ending.by_people, "2021-04-01", SEVERE, "only people end it"),
    ],
)
def test_an_event_stops_weighing_once_measurements_answer_it(
    ending: Ending, told: str, severity: Severity, reason: str
) -> None:
    feared = evidence(rule("export_control", trigger(ending)), finding(SEVERE, told), CONTROL)
    volume = evidence(VOLUME_RULE, ok("2021-05-01", "2021-05-15"), VOLUME)
    price = evidence(PRICE_RULE, finding(MINOR), PRICE)
    assert lifecycle.severity_of([feared, volume, price]) is severity, reason


def test_silence_does_not_take_back_the_answer_that_a_measurement_gave() -> None:
    feared = evidence(CONTROL_RULE, finding(SEVERE, "2021-04-01"), CONTROL)
    volume = evidence(VOLUME_RULE, ok("2021-05-01", "2021-05-15", state=State.stale), VOLUME)
    assert lifecycle.severity_of([feared, volume]) is NONE
