"""What one batch does to findings and alerts: order, corrections, late reports, broken rules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from alerts import explanation
from alerts.findings import State
from alerts.rules import Band, Bands, Corroboration, Direction, EventTrigger
from alerts.signals import Origin, Report
from tests.alerts.cast import (
    CATALOGUE,
    CONTROL,
    CONTROL_RULE,
    DORADO,
    EXEMPTION,
    EXEMPTION_RULE,
    EXTREME,
    LEAD_TIME,
    LEAD_TIME_RULE,
    MINOR,
    MODERATE,
    NONE,
    OUTAGE,
    OUTAGE_RULE,
    PRICE,
    PRICE_RULE,
    SEVERE,
    VOLUME_RULE,
    Desk,
    Entry,
    at,
    daily,
    event,
    mechanism,
    report,
    rule,
    value,
    values,
)

ALL = mechanism(LEAD_TIME_RULE, PRICE_RULE, VOLUME_RULE, CONTROL_RULE, OUTAGE_RULE, EXEMPTION_RULE)


def weeks(first: str, *found: float) -> list[Entry]:
    return values(LEAD_TIME, daily(first, *found))


# ---- order within a batch ----------------------------------------------------------------------


def test_series_of_one_scope_are_taken_in_the_order_they_were_observed() -> None:
    here = Desk([ALL])
    here.post(
        *weeks("2021-03-10", 15), value(PRICE, "2021-03-01", 10), value(PRICE, "2021-03-05", 14)
    )
    seen = [(p.transition.type.value, p.transition.at, p.alert.severity) for p in here.published]
    assert seen == [
        ("alert.opened", at("2021-03-05"), MODERATE),
        ("alert.updated", at("2021-03-10"), MODERATE),
    ]
    assert here.alert.opened_at == at("2021-03-05")


def test_an_alert_resolves_and_another_opens_within_one_batch() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 14, 12, 12, *[12] * 13, 12, 21))
    assert here.types() == ["opened", "eased", "resolved", "opened"]
    first, second = here.published[0].alert, here.published[3].alert
    assert (first.ref, second.ref) == ("AB-2026-0001", "AB-2026-0002")
    assert (second.number, second.severity, second.opened_at) == (1, SEVERE, at("2021-03-18"))
    assert list(here.alerts.values()) == [second]


def test_an_open_alert_says_its_newest_observation_and_is_put_into_words_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 15))
    put_into_words: list[object] = []
    say = explanation.why

    def counted(*given: object) -> str:
        put_into_words.append(given)
        return say(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(explanation, "why", counted)
    here.post(*weeks("2021-03-02", 15.5, 15.75, 15.25))
    assert here.types() == ["opened"]
    assert "15.25 weeks" in here.alert.why
    assert len(put_into_words) == 1


def test_what_a_batch_changed_is_what_is_remembered() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 12, 13))
    assert here.findings == {}, "a quiet finding needs no memory"
    here.post(*weeks("2021-03-03", 16))
    assert [f.state for f in here.findings.values()] == [State.firing]
    assert list(here.feeds.values()) == [here.alert.scope]


def test_what_a_transition_says_of_a_finding_is_what_it_was_then() -> None:
    here = Desk([ALL])
    leads = daily("2021-03-01", 12, 15, 16, 21, 16, 12, 12, 12)
    prices = daily("2021-03-01", 10, 10, 14, 14, 20, 14, 10, 10)
    here.post(*values(LEAD_TIME, leads), *values(PRICE, prices))
    say = partial(explanation.sentence, catalogue=CATALOGUE)
    told = []
    for one in here.published:
        why = explanation.why(one.evidence, say, one.alert.state)
        anew = [explanation.describe(e, CATALOGUE) for e in one.evidence]
        said = one.transition.explanation
        assert (one.alert.why, said["sentence"], said["findings"]) == (why, why, anew)
        told += [f["sentence"] for f in anew]
    assert 3 <= len(set(told)) < len(told), "some changed in between, and some stood as they were"


# ---- a broken rule -----------------------------------------------------------------------------

BROKEN = rule("lead_time", Bands("bands", Direction.up, (Band(MINOR, "many", 1),)))  # type: ignore[arg-type]


def test_a_broken_rule_stops_only_itself_and_says_so() -> None:
    here = Desk([mechanism(replace(BROKEN, id="broken"), LEAD_TIME_RULE, PRICE_RULE)])
    here.post(*weeks("2021-03-01", 12, 16, 17))
    assert here.types() == ["opened"]
    (failure,) = here.outcome.broken
    assert failure[:2] == ("aurora-borealis", "broken")
    assert "TypeError" in failure[2]
    broken = here.findings[here.ids[LEAD_TIME], "aurora-borealis", "broken"]
    assert (broken.state, broken.severity) == (State.not_evaluable, NONE)
    assert broken.reason == failure[2]


def test_what_a_broken_rule_says_is_cut() -> None:
    long = Bands("bands", Direction.up, (Band(MINOR, {"x": "y" * 9999}, 1),))  # type: ignore[arg-type]
    here = Desk([mechanism(rule("lead_time", long))])
    here.post(*weeks("2021-03-01", 12))
    assert len(here.finding(LEAD_TIME).reason) < 300


def test_a_broken_event_rule_stops_only_itself() -> None:
    nobody = Corroboration(parties=2, within_days=1e300)
    broken = rule("site_outage", EventTrigger("event", MODERATE, nobody))
    broken = replace(broken, id="broken")
    here = Desk([mechanism(broken, OUTAGE_RULE)])
    here.post(event(OUTAGE, report("2023-07-03")))
    assert here.types() == ["opened"]
    assert [f[1] for f in here.outcome.broken] == ["broken"]


# ---- not in force ------------------------------------------------------------------------------


def test_an_expired_mechanism_judges_issues_nothing_and_says_so() -> None:
    here = Desk([mechanism(LEAD_TIME_RULE, valid=("2019-01-01", "2020-12-31"))])
    here.post(*weeks("2021-03-01", 16))
    assert here.published == []
    assert here.outcome.held_back == {"aurora-borealis"}
    assert here.finding(LEAD_TIME).severity is MODERATE
    here.post(*weeks("2021-03-02", 12))
    assert here.outcome.held_back == {"aurora-borealis"}


def test_an_alert_open_when_its_mechanism_expires_is_issued_no_further() -> None:
    here = Desk([mechanism(LEAD_TIME_RULE, valid=("2019-01-01", "2020-12-31"))])
    here.post(*weeks("2020-12-30", 16), now=at("2020-12-31"))
    here.post(*weeks("2021-01-30", 26), now=at("2021-01-30"))
    assert here.sweep(at("2021-06-01")) == []
    assert here.types() == ["opened"]
    assert here.finding(LEAD_TIME).severity is SEVERE, "what it would say is known all the same"


# ---- corrections -------------------------------------------------------------------------------


def test_a_revision_that_falls_into_an_alert_is_told_though_nothing_else_changes() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 16, 17))
    (step,) = here.post(value(LEAD_TIME, "2021-03-01", 16.5))
    assert step.transition.type.value == "alert.updated"
    assert step.transition.reason == (
        "The value for 1 March 2021 was revised from 16 to 16.5 weeks. Lead time of neon stood at "
        "17 weeks on 2 March 2021, above the limit of 16 weeks for moderate."
    )


def test_a_revision_from_before_the_alert_that_changes_nothing_is_not_told() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 10, 11, 16))
    assert here.post(value(LEAD_TIME, "2021-03-01", 10.5)) == []


def test_a_late_value_is_judged_in_its_place() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 16), *weeks("2021-03-03", 13))
    assert here.finding(LEAD_TIME).state is State.recovering
    (step,) = here.post(*weeks("2021-03-02", 13))
    assert (step.transition.type.value, step.alert.severity) == ("alert.eased", MINOR)
    assert step.transition.reason.startswith("A late value for 2 March 2021 came in: 13 weeks.")


def test_what_another_good_reported_since_does_not_put_off_what_a_revision_finds_due() -> None:
    here = Desk([ALL], now=at("2021-03-06"))
    gallium = LEAD_TIME._replace(good="gallium")
    here.post(*weeks("2021-03-01", 14, 12, 12, 12), value(gallium, "2021-03-20", 12))
    here.now = at("2021-04-20")
    (step,) = here.post(value(LEAD_TIME, "2021-03-01", 15))
    assert step.transition.type.value == "alert.resolved"


def test_what_is_new_beside_a_late_value_is_judged_as_if_it_had_come_by_itself() -> None:
    here, apart = Desk([ALL]), Desk([ALL])
    late, new = weeks("2021-03-02", 12), weeks("2021-03-04", 26, 12, 12, 12, 12, 12, 12)
    for one in (here, apart):
        one.post(*weeks("2021-03-01", 12), *weeks("2021-03-03", 12))
    here.post(*late, *new)
    apart.post(*late)
    apart.post(*new)
    assert here.types() == apart.types() == ["opened", "eased", "eased", "eased"]
    assert here.findings == apart.findings


def test_a_slip_that_was_corrected_cancels_the_alert_it_raised() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 12, 126))
    (step,) = here.post(value(LEAD_TIME, "2021-03-02", 12.6))
    assert (step.transition.type.value, step.alert.severity) == ("alert.resolved", NONE)
    assert step.transition.reason == (
        "The value for 2 March 2021 was revised from 126 to 12.6 weeks. "
        "Nothing that it rested on stands any more."
    )
    assert here.alerts == {}
    assert here.findings == {}


def test_a_value_taken_back_re_judges_what_it_fed() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 15, 21))
    (step,) = here.post(value(LEAD_TIME, "2021-03-02", None))
    assert (step.transition.type.value, step.alert.severity) == ("alert.eased", MINOR)
    assert step.transition.reason.startswith(
        "The value for 2 March 2021, 21 weeks, was taken back."
    )


def test_a_late_value_does_not_reopen_a_resolved_alert() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 14, 12), *weeks("2021-03-04", *[12] * 16))
    assert here.types()[-1] == "resolved"
    assert "taken_back" not in here.published[-1].transition.explanation
    assert here.post(*weeks("2021-03-03", 26)) == []
    assert here.alerts == {}


# ---- reports out of order ----------------------------------------------------------------------

FIRST = report("2023-07-01", origin=Origin.press)
SECOND = report("2023-07-05", partner=DORADO, origin=Origin.press)


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([[FIRST], [SECOND]], "in order"),
        ([[SECOND], [FIRST]], "the earlier one comes late"),
        ([[FIRST, SECOND]], "together"),
        ([[SECOND, FIRST]], "together, the other way round"),
    ],
)
def test_two_parties_corroborate_in_whatever_order_they_are_heard(
    batches: list[list[Report]], reason: str
) -> None:
    here = Desk([ALL])
    for batch in batches:
        here.post(*[event(OUTAGE, one) for one in batch])
    assert here.types() == ["opened"], reason
    assert (here.alert.opened_at, here.alert.severity) == (at("2023-07-05"), SEVERE)
    assert here.finding(OUTAGE).observed_at == at("2023-07-05")


def test_two_reports_of_one_instant_in_one_batch_open_once() -> None:
    here = Desk([ALL])
    other = report("2023-07-01", partner=DORADO, origin=Origin.press)
    here.post(event(OUTAGE, FIRST), event(OUTAGE, other))
    assert here.types() == ["opened"]


def test_a_report_taken_back_takes_its_alert_back() -> None:
    here = Desk([ALL])
    here.post(event(OUTAGE, report("2023-07-03")))
    here.post(event(OUTAGE, report("2023-07-03", NONE)))
    assert here.types() == ["opened", "resolved"]
    assert here.published[1].transition.reason == (
        "The report of 3 July 2023 was taken back. Nothing that it rested on stands any more."
    )
    assert here.published[1].transition.explanation["taken_back"] is True


def test_one_voice_of_two_taken_back_takes_back_what_only_both_could_raise() -> None:
    here = Desk([ALL])
    here.post(event(OUTAGE, FIRST), event(OUTAGE, SECOND))
    here.post(event(OUTAGE, replace(SECOND, severity=NONE)))
    assert here.types() == ["opened", "resolved"]
    assert here.alerts == {}


def test_a_report_told_worse_in_a_revision_escalates() -> None:
    here = Desk([ALL])
    here.post(event(OUTAGE, report("2023-07-03", MODERATE)))
    (step,) = here.post(event(OUTAGE, report("2023-07-03", EXTREME)))
    assert (step.transition.type.value, step.alert.severity) == ("alert.escalated", EXTREME)
    assert step.transition.reason.startswith("The report of 3 July 2023 was revised.")


# ---- an event and what measures it -------------------------------------------------------------


def recovered() -> Desk:
    """A control is told, the price jumps and comes back, the alert closes."""
    here = Desk([ALL])
    here.post(*values(PRICE, daily("2023-06-01", 10, 10, 10)))
    here.post(event(CONTROL, report("2023-06-04")))
    here.post(*values(PRICE, daily("2023-06-05", 13, 10, 10)))
    here.post(*values(PRICE, daily("2023-06-08", *[10] * 14)))
    return here


def test_a_measured_recovery_answers_an_event_and_closes_its_alert() -> None:
    here = recovered()
    assert here.types() == ["opened", "updated", "eased", "resolved"]
    assert here.alerts == {}
    assert here.published[-1].alert.why == "It is over: nothing that fed the alert weighs any more."


def test_an_event_after_the_recovery_weighs_anew() -> None:
    here = Desk([ALL])
    here.post(*values(PRICE, daily("2023-06-01", 10, 13, 10, 10)))
    assert (here.types(), here.alert.severity) == (["opened", "eased"], NONE)
    here.post(event(CONTROL, report("2023-06-10")))
    assert here.alert.severity is SEVERE
    here.post(*values(PRICE, daily("2023-06-11", *[10] * 20)))
    assert here.alert.state.value == "open", "no measurement answered the new fear"


def test_a_report_of_an_event_that_is_over_is_amended_without_reopening_it() -> None:
    here = recovered()
    amended = replace(report("2023-06-04"), note="the gazette's number was wrong")
    assert here.post(event(CONTROL, amended)) == []
    assert here.alerts == {}


def test_an_event_told_again_after_it_was_over_opens_another_alert() -> None:
    here = recovered()
    here.post(event(CONTROL, report("2023-08-01", MODERATE)))
    assert here.types()[-1] == "opened"
    assert here.alert.severity is MODERATE, "the severe report of June is over"


def test_news_of_an_event_from_before_the_end_is_still_news() -> None:
    here = recovered()
    here.post(event(CONTROL, report("2023-06-20", partner=DORADO)))
    assert here.types()[-1] == "opened", "better an alert too many than a control overlooked"


def test_a_rumour_does_not_undo_an_answer() -> None:
    here = Desk([ALL])
    here.post(*values(PRICE, daily("2023-06-01", 10, 10, 10)))
    here.post(event(CONTROL, report("2023-06-04")))
    here.post(*values(PRICE, daily("2023-06-05", 13, 10, 10)))
    assert here.alert.severity is NONE
    rumour = report("2023-06-25", partner=DORADO, origin=Origin.press)
    here.post(event(CONTROL, rumour))
    assert here.alert.severity is NONE


def test_a_follow_up_is_told_where_an_alert_is_open_and_nowhere_else() -> None:
    here = Desk([ALL])
    here.post(event(EXEMPTION, report("2023-07-01", MINOR)))
    assert here.published == []
    here.post(*weeks("2023-07-02", 16))
    here.post(event(EXEMPTION, report("2023-07-03", MINOR)))
    assert here.types() == ["opened", "updated"]


# ---- silence -----------------------------------------------------------------------------------


def test_silence_is_noted_moves_no_alert_and_blocks_its_end() -> None:
    fresh = replace(
        LEAD_TIME_RULE, freshness=rule("x", OUTAGE_RULE.detector, stale=(5, 10)).freshness
    )
    here = Desk([mechanism(fresh)])
    here.post(*weeks("2021-03-01", 14, 12, 12, 12))
    assert here.alert.severity is NONE
    assert here.sweep(at("2021-03-10")) == []
    assert here.finding(LEAD_TIME).state is State.stale
    assert here.sweep(at("2021-03-30")) == []
    assert here.finding(LEAD_TIME).state is State.no_data
    assert here.alert.state.value == "open"
    here.post(*weeks("2021-03-31", 12))
    assert here.types() == ["opened", "eased", "resolved"]


def test_time_alone_closes_what_has_held_on_fresh_observations() -> None:
    here = Desk([ALL])
    here.post(*weeks("2021-03-01", 14, 12, 12, 12))
    assert here.sweep(at("2021-03-16")) == []
    (step,) = here.sweep(at("2021-03-17"))
    assert (step.transition.type.value, step.fed_by) == ("alert.resolved", ())


# ---- the frozen baseline -----------------------------------------------------------------------


def test_while_an_alert_is_open_every_baseline_of_it_stays_where_it_was_at_the_onset() -> None:
    here = Desk([ALL])
    here.post(*values(PRICE, daily("2023-06-01", 10, 10, 10)))
    here.post(event(CONTROL, report("2023-06-04")))
    for day in ("2023-06-05", "2023-08-05", "2023-10-05", "2023-12-05"):
        here.post(value(PRICE, day, 30))
    price = here.finding(PRICE)
    assert (price.baseline, price.severity, price.onset) == (10, SEVERE, at("2023-06-05"))
    evidence = next(e for e in here.published[-1].evidence if e.key == PRICE)
    assert evidence.frozen_at == at("2023-06-04"), "the alert's onset, which is earlier"


def test_an_alert_that_opens_within_a_batch_freezes_what_comes_later_in_it() -> None:
    together, apart = Desk([ALL]), Desk([ALL])
    control = event(CONTROL, report("2022-03-04"))
    price = value(PRICE, "2022-04-04", 13)
    for here in (together, apart):
        here.post(value(PRICE, "2022-01-01", 10))
    together.post(control, price)
    apart.post(control)
    apart.post(price)
    assert together.finding(PRICE) == apart.finding(PRICE)
    assert together.finding(PRICE).severity is MINOR
