"""What the engine recommends people to set, and that it never sets it itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alerts import lifecycle
from alerts.findings import State
from alerts.lifecycle import Advice, Cause, EventType, Evidence, News, Occasion, Step
from alerts.mechanisms import (
    EventOnConcentratedGood,
    FamiliesTogether,
    KeyGood,
    Level,
    OpenWithoutEasing,
    PartyStatement,
)
from alerts.rules import Family
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
    NOW,
    OUTAGE_RULE,
    PRICE,
    PRICE_RULE,
    SEVERE,
    VOLUME,
    VOLUME_RULE,
    days,
    evidence,
    finding,
    mechanism,
    open_alert,
    rule,
)

OURS = ("our_design",)

TOGETHER = FamiliesTogether(
    "families_together",
    Level.disruption,
    MODERATE,
    2,
    (Family.availability, Family.quantity),
    OURS,
)
CONCENTRATED = EventOnConcentratedGood(
    "event_on_concentrated_good", Level.disruption, SEVERE, 0.4, 0.65, OURS
)
LASTING = OpenWithoutEasing("open_without_easing", Level.disruption, 30, OURS)
STATED = PartyStatement("party_statement", Level.crisis, ("significant_shortage",), OURS)


@pytest.mark.parametrize(
    ("held", "met", "reason"),
    [
        ([LEAD], False, "one family is not two"),
        ([LEAD, evidence(PRICE_RULE, finding(MODERATE), PRICE)], True, "availability and price"),
        ([LEAD, evidence(PRICE_RULE, finding(MINOR), PRICE)], False, "minor is too mild"),
        ([LEAD, evidence(rule("inventory_days", LEAD_TIME_RULE.detector), finding(SEVERE))], False,
         "two rules of one family"),
        ([evidence(PRICE_RULE, finding(SEVERE), PRICE),
          evidence(OUTAGE_RULE, finding(SEVERE))], False, "neither availability nor quantity"),
        ([evidence(VOLUME_RULE, finding(SEVERE), VOLUME),
          evidence(CONTROL_RULE, finding(SEVERE), CONTROL)], True, "quantity and an event"),
        ([LEAD, evidence(EXEMPTION_RULE, finding(SEVERE))], False, "a follow-up is no second"),
        ([LEAD, evidence(PRICE_RULE, finding(MODERATE, state=State.no_data), PRICE)], True,
         "silence does not weaken"),
    ],
)  # fmt: skip
def test_families_together_recommend(held: list[Evidence], met: bool, reason: str) -> None:
    profile = mechanism(recommendations=(TOGETHER,))
    advice = open_alert(*held, profile=profile).recommendation
    assert (advice.level if advice else None) == (Level.disruption if met else None), reason


def test_a_recommendation_says_why() -> None:
    profile = mechanism(recommendations=(TOGETHER,))
    price = evidence(PRICE_RULE, finding(SEVERE), PRICE)
    volume = evidence(VOLUME_RULE, finding(SEVERE), VOLUME)
    advice = open_alert(LEAD, price, volume, profile=profile).recommendation
    assert advice == Advice(
        Level.disruption,
        ("availability, price and quantity findings are at least moderate together",),
    )


@pytest.mark.parametrize(
    ("good", "severity", "met", "reason"),
    [
        (KeyGood("neon", OURS, hhi=0.96, top_share=0.98), SEVERE, True, "a single supplier"),
        (KeyGood("neon", OURS, hhi=0.40, top_share=0.60), SEVERE, False, "0.40 is not above 0.4"),
        (KeyGood("neon", OURS, hhi=0.4000000001), SEVERE, False, "nor is what a float makes of it"),
        (KeyGood("neon", OURS, hhi=0.6**2 + 4 * 0.1**2), SEVERE, False, "nor a sum of squares"),
        (KeyGood("neon", OURS, hhi=0.41), SEVERE, True, "above"),
        (KeyGood("neon", OURS, hhi=0.2, top_share=0.65), SEVERE, False, "a share of exactly 65 %"),
        (KeyGood("neon", OURS, hhi=0.2, top_share=0.66), SEVERE, True, "the share alone is enough"),
        (KeyGood("neon", OURS), SEVERE, False, "nothing is known of its structure"),
        (KeyGood("argon", OURS, hhi=0.96), SEVERE, False, "another good is concentrated"),
        (KeyGood("neon", OURS, hhi=0.96), MODERATE, False, "the event is too mild"),
        (KeyGood("neon", OURS, hhi=0.96), EXTREME, True, "worse than severe is severe too"),
    ],
)
def test_a_grave_event_on_a_concentrated_good_recommends(
    good: KeyGood, severity: Severity, met: bool, reason: str
) -> None:
    profile = mechanism(recommendations=(CONCENTRATED,), key_goods=(good,))
    control = evidence(CONTROL_RULE, finding(severity), CONTROL)
    assert (open_alert(control, profile=profile).recommendation is not None) is met, reason


def test_a_measurement_on_a_concentrated_good_is_no_event() -> None:
    profile = mechanism(recommendations=(CONCENTRATED,), key_goods=(KeyGood("neon", OURS, 0.96),))
    assert open_alert(
        evidence(LEAD_TIME_RULE, finding(SEVERE)), profile=profile
    ).recommendation is (None)


@pytest.mark.parametrize(
    ("open_days", "met", "reason"),
    [(29.9, False, "not yet"), (30, True, "exactly thirty days"), (400, True, "and ever after")],
)
def test_an_alert_that_does_not_ease_recommends(open_days: float, met: bool, reason: str) -> None:
    profile = mechanism(recommendations=(LASTING,))
    alert, now = open_alert(LEAD, profile=profile), NOW + days(open_days)
    steps = lifecycle.advance(profile, alert, [LEAD], Cause(Occasion.time, now), now)
    assert [s.news for s in steps] == ([News.advice] if met else []), reason


def test_easing_begins_the_wait_again_and_takes_the_advice_back_in_the_same_step() -> None:
    profile = mechanism(recommendations=(LASTING,))
    alert = open_alert(evidence(LEAD_TIME_RULE, finding(SEVERE)), profile=profile)
    late = NOW + days(31)
    (advised,) = lifecycle.advance(profile, alert, [LEAD], Cause(Occasion.time, late), late)
    assert advised.type is EventType.eased, "it eases first: nothing has lasted"
    assert advised.alert.recommendation is None
    later = late + days(29)
    assert (
        lifecycle.advance(profile, advised.alert, [LEAD], Cause(Occasion.time, later), later) == ()
    )
    last = late + days(30)
    (step,) = lifecycle.advance(profile, advised.alert, [LEAD], Cause(Occasion.time, last), last)
    assert step.alert.recommendation is not None


def test_the_highest_recommended_level_is_told_with_its_own_reasons() -> None:
    crisis = replace(TOGETHER, level=Level.crisis)
    profile = mechanism(recommendations=(CONCENTRATED, crisis), key_goods=())
    price = evidence(PRICE_RULE, finding(SEVERE), PRICE)
    advice = open_alert(LEAD, price, profile=profile).recommendation
    assert advice is not None
    assert (advice.level, len(advice.reasons)) == (Level.crisis, 1)


def test_what_people_already_set_is_not_recommended() -> None:
    profile = mechanism(recommendations=(TOGETHER,))
    price = evidence(PRICE_RULE, finding(SEVERE), PRICE)
    alert = replace(open_alert(LEAD, price, profile=profile), level=Level.disruption)
    assert lifecycle.recommend(profile, alert, [LEAD, price], NOW) is None


def test_what_parties_must_state_is_never_recommended_by_the_engine_alone() -> None:
    profile = mechanism(recommendations=(STATED,))
    assert open_alert(LEAD, profile=profile).recommendation is None


def test_however_much_is_recommended_the_engine_stays_at_early_warning() -> None:
    profile = mechanism(
        recommendations=(TOGETHER, CONCENTRATED, LASTING),
        key_goods=(KeyGood("neon", OURS, hhi=0.96),),
    )
    held = [evidence(r, finding(EXTREME)) for r in (LEAD_TIME_RULE, PRICE_RULE, CONTROL_RULE)]
    alert = open_alert(*held, profile=profile)
    late = NOW + days(400)
    steps = lifecycle.advance(profile, alert, held, Cause(Occasion.time, late), late)
    assert {s.alert.level for s in [Step(EventType.opened, alert, NOW, News.finding), *steps]} == {
        Level.early_warning
    }
