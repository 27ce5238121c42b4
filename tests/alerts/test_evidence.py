"""Who says it: several partners on one observation, and what it takes to raise on their word."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from statistics import median

import pytest

from alerts import judgement
from alerts.detectors import voices
from alerts.findings import Finding, State
from alerts.rules import Combine, Rule, Trust
from alerts.signals import Origin, PartnerId, SeriesId, Severity, Voice
from alerts.tracks import Docket, Track
from tests.alerts.cast import (
    AURORA,
    CATALOGUE,
    DORADO,
    LEAD_TIME,
    LEAD_TIME_RULE,
    MINOR,
    NONE,
    NOW,
    SEVERE,
    change,
    daily,
    mechanism,
    median_of,
)

ECHO = PartnerId(4)


def voice(
    value: float,
    partner: PartnerId = AURORA,
    party: str = "EU",
    origin: Origin = Origin.press,
    ref: str = "",
    grade: str = "",
    hours: float = 0,
) -> Voice:
    return Voice(
        partner,
        f"partner {partner}",
        party,
        value,
        origin,
        NOW + timedelta(hours=hours),
        ref,
        grade,
    )


THREE = [voice(12, AURORA, hours=2), voice(20, DORADO, "US"), voice(13, ECHO, "", hours=1)]


@pytest.mark.parametrize(
    ("combine", "weights", "expected"),
    [
        (Combine.median, {}, 13),
        (Combine.mean, {}, 15),
        (Combine.latest, {}, 12),
        (Combine.lowest, {}, 12),
        (Combine.highest, {}, 20),
        (Combine.sum, {}, 45),
        (Combine.weighted_median, {}, 13),
        (Combine.weighted_median, {"US": 3.0}, 20),
        (Combine.weighted_median, {"partner 1": 5.0}, 12),
        (Combine.weighted_median, {"US": 2.0}, 16.5),
    ],
)
def test_several_values_of_one_observation_become_one(
    combine: Combine, weights: dict[str, float], expected: float
) -> None:
    assert voices.combined(Trust(combine, weights=weights), THREE) == expected


@pytest.mark.parametrize(
    ("grade", "least", "is_heard"),
    [
        ("B2", "B2", True),
        ("A1", "B2", True),
        ("C2", "B2", False),
        ("B3", "B2", False),
        ("", "B2", False),
        ("F6", "", True),
    ],
)
def test_what_is_not_reliable_enough_is_not_heard(grade: str, least: str, is_heard: bool) -> None:
    told = voices.heard(Trust(least_reliability=least), [voice(14, grade=grade)])
    assert bool(told) is is_heard


@pytest.mark.parametrize(
    ("backing", "is_believed", "reason"),
    [
        ([voice(20)], False, "one party"),
        ([voice(20), voice(20, ECHO, "EU")], False, "two partners of one party"),
        ([voice(20), voice(20, DORADO, "US")], True, "two parties"),
        ([voice(20, ref="wire"), voice(20, DORADO, "US", ref="wire")], False, "one story twice"),
        ([voice(20, origin=Origin.official_statistics)], True, "an official source alone"),
        ([voice(20, ECHO, ""), voice(20, PartnerId(5), "")], True, "two that act for no party"),
        ([], False, "nobody"),
    ],
)
def test_who_is_believed(backing: list[Voice], is_believed: bool, reason: str) -> None:
    trust = Trust(parties=2, official_origins=(Origin.official_statistics,))
    assert voices.believed(trust, backing) is is_believed, reason


def asked(trust: Trust) -> Rule:
    return replace(LEAD_TIME_RULE, trust=trust)


def judged(trust: Trust, told: list[list[Voice]]) -> Finding:
    return judged_by(asked(trust), told)


def judged_by(rule: Rule, told: list[list[Voice]]) -> Finding:
    """The finding after one observation a day, each told by these voices."""
    profile = mechanism(rule)
    series = SeriesId(1)
    fresh = daily("2021-03-01", *(median(v.value for v in day) for day in told))
    track = Track(
        series,
        LEAD_TIME,
        "weeks",
        [(profile, rule)],
        fresh=fresh,
        voices={s.at: day for s, day in zip(fresh, told, strict=True)},
    )
    outcome = judgement.judge([track], {profile.scope_of(LEAD_TIME): Docket()}, CATALOGUE, NOW)
    return outcome.findings.get((series, profile.id, LEAD_TIME_RULE.id), Finding())


def test_one_poisoned_feed_cannot_raise_alone() -> None:
    told = [[voice(900), voice(12, DORADO, "US")]]
    finding = judged(Trust(Combine.highest, parties=2), told)
    assert (finding.state, finding.severity) == (State.pending, NONE)
    assert finding.reason == "2 parties must report it independently; 1 of them does"


def test_what_two_parties_report_is_raised_as_far_as_both_would() -> None:
    finding = judged(Trust(Combine.highest, parties=2), [[voice(26), voice(14.5, DORADO, "US")]])
    assert (finding.state, finding.severity) == (State.firing, MINOR)


def test_an_official_source_raises_alone() -> None:
    trust = Trust(parties=2, official_origins=(Origin.official_statistics,))
    finding = judged(trust, [[voice(26, origin=Origin.official_statistics)]])
    assert (finding.state, finding.severity) == (State.firing, SEVERE)


def test_too_little_to_raise_is_still_too_much_to_clear() -> None:
    both = [voice(26), voice(26, DORADO, "US")]
    finding = judged(Trust(parties=2), [both, [voice(26)], [voice(26)], [voice(26)]])
    assert (finding.state, finding.severity) == (State.firing, Severity.severe)


def test_an_observation_nobody_reliable_reports_is_none() -> None:
    told = [[voice(26, grade="F6")], [voice(12, grade="A1")]]
    finding = judged(Trust(least_reliability="B2"), told)
    assert finding == Finding()


def test_a_poisoned_feed_cannot_raise_alone_through_a_mean_either() -> None:
    asks = Rule(
        id="lead-time",
        title="Lead time",
        version=1,
        family=LEAD_TIME_RULE.family,
        sectors=("semiconductors",),
        indicators=("lead_time",),
        detector=change((SEVERE, 0.5, 0.2), baseline=median_of(30, 5), mean_of=3),
        trust=Trust(Combine.highest, parties=2),
    )
    told = [[voice(12), voice(12, DORADO, "US")]] * 8
    told += [[voice(900), voice(12, DORADO, "US")]] * 3
    assert judged_by(asks, told).severity is NONE
