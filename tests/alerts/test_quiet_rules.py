"""What is judged and yet moves no alert: shadow rules, components, shelves, breaks, days to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest

from alerts import judgement, overflow
from alerts.findings import State, carried
from alerts.lifecycle import Alert, AlertState
from alerts.mechanisms import Profile, Scope, SeriesBreak
from alerts.rules import (
    Band,
    CarryOver,
    Combination,
    Concentration,
    Direction,
    Effect,
    Family,
    Rule,
    Share,
)
from alerts.signals import Sample, SeriesId, SeriesKey, Severity
from alerts.tracks import Docket, Judgement, Track
from tests.alerts.cast import (
    CATALOGUE,
    LEAD,
    LEAD_TIME,
    LEAD_TIME_RULE,
    MINOR,
    MODERATE,
    NONE,
    NOW,
    PRICE,
    PRICE_RULE,
    SEVERE,
    Desk,
    at,
    change,
    daily,
    days,
    finding,
    mechanism,
    median_of,
    open_alert,
    rule,
    values,
)

HIGH = daily("2021-03-01", 12, 26)


def test_a_shadow_rule_judges_and_records_and_tells_nobody() -> None:
    here = Desk([mechanism(replace(LEAD_TIME_RULE, shadow=True))])
    here.post(*values(LEAD_TIME, HIGH))
    assert here.types() == []
    assert (here.finding(LEAD_TIME).state, here.finding(LEAD_TIME).severity) == (
        State.firing,
        SEVERE,
    )
    here.post(*values(LEAD_TIME, daily("2021-03-03", *[12] * 6)))
    assert here.findings == {}, "a shadow that has passed needs no memory"


def test_what_is_observed_before_a_rule_comes_into_effect_is_not_judged_by_it() -> None:
    here = Desk([mechanism(replace(LEAD_TIME_RULE, effective_from=date(2021, 3, 3)))])
    here.post(*values(LEAD_TIME, HIGH))
    assert here.findings == {}
    here.post(*values(LEAD_TIME, daily("2021-03-03", 26)))
    assert here.alert.opened_at == at("2021-03-03")


@pytest.mark.parametrize(
    ("carry", "version", "state", "reason"),
    [
        (CarryOver.keep, 1, State.firing, "carried over as it is"),
        (CarryOver.fresh, 2, State.firing, "the same version"),
        (CarryOver.fresh, 1, State.ok, "begun afresh"),
    ],
)
def test_a_new_version_says_what_it_carries_over(
    carry: CarryOver, version: int, state: State, reason: str
) -> None:
    asked = replace(LEAD_TIME_RULE, version=2, carry_over=carry)
    assert carried(asked, finding(SEVERE), version).state is state, reason


def test_what_begins_afresh_lets_its_alert_close_on_fresh_observations() -> None:
    asked = replace(LEAD_TIME_RULE, version=2, carry_over=CarryOver.fresh)
    anew = carried(asked, finding(SEVERE, "2021-03-31"), 1)
    assert (anew.severity, anew.ok_since, anew.ok_run) == (NONE, at("2021-03-31"), 0)


# ---- breaks ------------------------------------------------------------------------------------

TRAFFIC = SeriesKey("shipping", "transits", "", "suez")
TRAFFIC_RULE = rule(
    "transits",
    change((SEVERE, -0.25, -0.15), baseline=median_of(28, 5), direction="down"),
    Family.quantity,
)


def traffic(profile: Profile, *parts: float, begins: str = "2021-01-01") -> Judgement:
    track = Track(
        SeriesId(1),
        TRAFFIC,
        "transits/day",
        [(profile, r) for r in profile.rules],
        fresh=daily(begins, *parts),
        breaks=profile.breaks_of(TRAFFIC),
    )
    return judgement.judge([track], {}, CATALOGUE, NOW)


def broken(reason: str = "fewer ships carry the sensor") -> Profile:
    declared = SeriesBreak("shipping", "transits", date(2021, 1, 11), reason, place="suez")
    return replace(mechanism(TRAFFIC_RULE), series_breaks=(declared,))


def test_a_declared_break_resets_the_baseline_instead_of_alarming() -> None:
    jump = [70.0] * 10 + [40.0] * 10
    assert [p.transition.type.value for p in traffic(mechanism(TRAFFIC_RULE), *jump).published] == [
        "alert.opened"
    ]
    assert traffic(broken(), *jump).published == []


def test_after_a_break_a_rule_waits_until_it_has_something_to_compare_with() -> None:
    turns = traffic(broken(), *[70.0] * 10, 40.0).turns
    assert [(t.at, t.after.state) for t in turns] == [
        (at("2021-01-01"), State.not_evaluable),
        (at("2021-01-06"), State.ok),
        (at("2021-01-11"), State.not_evaluable),
    ]


def test_a_fall_after_a_break_is_seen() -> None:
    outcome = traffic(broken(), *[70.0] * 10, *[40.0] * 10, 20.0)
    assert [p.transition.at for p in outcome.published] == [at("2021-01-21")]


# ---- shelves -----------------------------------------------------------------------------------


def lead_track(profile: Profile, fresh: Sequence[Sample], **more: object) -> Track:
    questions = [(profile, r) for r in profile.rules if r.asks(LEAD_TIME)]
    track = Track(SeriesId(1), LEAD_TIME, "weeks", questions, fresh=list(fresh))
    return replace(track, **more)  # type: ignore[arg-type]


ONE = mechanism(LEAD_TIME_RULE)
SHELVED = {(ONE.id, LEAD_TIME_RULE.id)}
SCOPE = ONE.scope_of(LEAD_TIME)


def test_a_shelved_rule_opens_nothing_and_is_recorded() -> None:
    outcome = judgement.judge([lead_track(ONE, HIGH, shelved=SHELVED)], {}, CATALOGUE, NOW)
    assert outcome.published == []
    assert [f.severity for f in outcome.findings.values()] == [SEVERE]
    assert outcome.feeds == {}


def test_when_a_shelf_ends_what_still_fires_is_told() -> None:
    kept = {(ONE.id, LEAD_TIME_RULE.id): finding(SEVERE)}
    track = lead_track(ONE, [], findings=kept)
    outcome = judgement.judge_time({}, [ONE], CATALOGUE, NOW, [track])
    assert [p.transition.type.value for p in outcome.published] == ["alert.opened"]
    assert set(outcome.feeds.values()) == {SCOPE}


def test_an_alert_whose_only_finding_is_shelved_eases_and_stays() -> None:
    held = replace(LEAD, is_shelved=True)
    docket = Docket(open_alert(LEAD), {(SeriesId(1), ONE.id, LEAD_TIME_RULE.id): held})
    outcome = judgement.judge_time({SCOPE: docket}, [ONE], CATALOGUE, NOW)
    (told,) = outcome.published
    assert (told.transition.type.value, told.alert.severity) == ("alert.eased", NONE)
    assert told.alert.state is AlertState.open


# ---- joint rules -------------------------------------------------------------------------------

BOTH = Combination("combination", Direction.up, ("lead-time", "price"), (Band(MODERATE, 2, 1),))
TOGETHER = replace(rule("lead_time", BOTH), id="both", indicators=("lead_time", "price"))
PARTS = tuple(replace(r, effect=Effect.component) for r in (LEAD_TIME_RULE, PRICE_RULE))
JOINT = mechanism(*PARTS, TOGETHER)
BOTH_KEY = SeriesKey("semiconductors", "rule:both", "neon")


def together(lead: Sequence[Sample], price: Sequence[Sample]) -> Judgement:
    tracks = [
        Track(SeriesId(1), LEAD_TIME, "weeks", [(JOINT, PARTS[0])], fresh=list(lead)),
        Track(SeriesId(2), PRICE, "USD/kg", [(JOINT, PARTS[1])], fresh=list(price)),
        Track(SeriesId(3), BOTH_KEY, "", [(JOINT, TOGETHER)]),
    ]
    return judgement.judge(tracks, {}, CATALOGUE, NOW)


def test_components_open_nothing_alone() -> None:
    assert together(HIGH, daily("2021-03-01", 10, 10)).published == []


def test_a_combination_opens_when_enough_of_its_rules_fire() -> None:
    outcome = together(HIGH, daily("2021-03-01", 10, 30))
    (opened,) = outcome.published
    assert (opened.alert.severity, opened.transition.at) == (MODERATE, at("2021-03-02"))
    assert [e.rule.id for e in opened.evidence] == ["both"]


def test_a_combination_eases_when_its_rules_do() -> None:
    calm = daily("2021-03-03", 12, 12, 12, 12, 12, 12, 12)
    outcome = together([*HIGH, *calm], daily("2021-03-01", 10, 30, *[30] * 7))
    assert [p.transition.type.value for p in outcome.published] == ["alert.opened", "alert.eased"]


SHARES = Rule(
    id="concentrated",
    title="Concentration of supply",
    version=1,
    family=Family.availability,
    sectors=("semiconductors",),
    indicators=("export_volume",),
    detector=Concentration(
        "concentration", Direction.up, Share.hhi, (Band(MODERATE, 0.4, 0.35),), times=2, of=3
    ),
    clear_after=1,
)


def test_shares_of_one_good_are_read_together_once_an_instant() -> None:
    profile = mechanism(SHARES)
    shares = {"CN": (0.5, 0.7, 0.7), "UA": (0.3, 0.2, 0.2), "TW": (0.2, 0.1, 0.1)}
    years = [at("2021-12-31"), at("2022-12-31"), at("2023-12-31")]
    tracks = [
        Track(
            SeriesId(n),
            SeriesKey("semiconductors", "export_volume", "neon", place),
            "fraction",
            [],
            fresh=[Sample(y, v) for y, v in zip(years, told, strict=True)],
        )
        for n, (place, told) in enumerate(shares.items())
    ]
    subject = SeriesKey("semiconductors", "rule:concentrated", "neon")
    tracks.append(Track(SeriesId(9), subject, "", [(profile, SHARES)]))
    outcome = judgement.judge(tracks, {}, CATALOGUE, NOW)
    assert [p.transition.at for p in outcome.published] == [years[2]], "in two of three years"
    assert outcome.findings[SeriesId(9), profile.id, "concentrated"].value == pytest.approx(0.54)


# ---- overflow ----------------------------------------------------------------------------------

SUMMARY = overflow.summary_scope(Scope("aurora-borealis", "semiconductors", "neon"))


def folded(*severities: Severity) -> list[Alert]:
    alert = open_alert(LEAD)
    return [
        replace(alert, ref=f"AB-2026-{n:04d}", title="Neon", severity=s, is_folded=True)
        for n, s in enumerate(severities, 1)
    ]


def test_alerts_beyond_the_limit_are_told_in_one_summary() -> None:
    told = overflow.summarise(ONE, SUMMARY, None, folded(MINOR, SEVERE), CATALOGUE, NOW)
    assert told is not None
    assert told.transition.type.value == "alert.opened"
    assert told.alert.severity is SEVERE
    assert told.alert.why == (
        "2 more alerts are open than are told one by one: 1 severe, 1 minor. "
        "The worst is AB-2026-0002, Neon."
    )
    listed = told.transition.explanation["folded"]
    assert [one["ref"] for one in listed] == ["AB-2026-0002", "AB-2026-0001"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("severities", "kind", "reason"),
    [
        ((SEVERE, MINOR), None, "nothing changed"),
        ((SEVERE, MINOR, MINOR), "alert.updated", "one more"),
        ((SEVERE, MINOR, SEVERE), "alert.updated", "one more, as grave"),
        ((MINOR,), "alert.eased", "the worst is over"),
        ((), "alert.resolved", "all are over"),
    ],
)
def test_the_summary_follows_what_is_folded(
    severities: tuple[Severity, ...], kind: str | None, reason: str
) -> None:
    first = overflow.summarise(ONE, SUMMARY, None, folded(SEVERE, MINOR), CATALOGUE, NOW)
    assert first is not None
    told = overflow.summarise(
        ONE, SUMMARY, first.alert, folded(*severities), CATALOGUE, NOW + days(1)
    )
    assert (told.transition.type.value if told else None) == kind, reason


def test_a_finding_of_a_dropped_rule_lets_its_alert_go() -> None:
    outcome = judgement.judge_time({SCOPE: Docket(open_alert(LEAD))}, [ONE], CATALOGUE, NOW)
    told = outcome.published[-1]
    assert told.alert.state is AlertState.resolved
    assert told.transition.reason == "Nothing that it rested on stands any more."


# ---- young series ------------------------------------------------------------------------------


def test_a_rule_for_young_series_falls_silent_when_the_series_has_grown_up() -> None:
    young = replace(LEAD_TIME_RULE, young_until=3)
    profile = mechanism(young)
    calm, high = [12.0] * 2, [26.0] * 8
    track = lead_track(profile, daily("2021-03-01", *calm, *high))
    outcome = judgement.judge([track], {}, CATALOGUE, NOW)
    opened, *eased = [(p.transition.type.value, p.transition.at) for p in outcome.published]
    assert opened == ("alert.opened", at("2021-03-03")), "the third observation: it is young"
    assert {kind for kind, _ in eased} == {"alert.eased"}, "from the fifth on it says nothing"
    grown = lead_track(profile, daily("2021-03-01", *[12.0] * 5, *high))
    assert judgement.judge([grown], {}, CATALOGUE, NOW).published == []
