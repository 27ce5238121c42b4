"""Laws of the engine, for any history (numbers in brackets: MECHANISMS 7.11)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerts import detectors, explanation, findings, payloads
from alerts.detectors.events import is_corroborated
from alerts.findings import QUIET
from alerts.lifecycle import AlertState
from alerts.mechanisms import (
    EventOnConcentratedGood,
    FamiliesTogether,
    KeyGood,
    Level,
    OpenWithoutEasing,
)
from alerts.rules import Corroboration, Family, Rule
from alerts.signals import Origin, PartnerId, Report, Sample, SeriesId, Severity
from alerts.tracks import Published
from tests.alerts.cast import (
    AURORA,
    CONTROL,
    CONTROL_RULE,
    DORADO,
    EXEMPTION,
    EXEMPTION_RULE,
    LEAD_TIME,
    LEAD_TIME_RULE,
    MINOR,
    MODERATE,
    OFFICIAL,
    OUTAGE,
    OUTAGE_RULE,
    PARTIES,
    PRICE,
    PRICE_RULE,
    SAME_MONTH,
    SEVERE,
    VOLUME,
    VOLUME_RULE,
    Desk,
    Entry,
    at,
    change,
    days,
    mechanism,
    median_of,
    rule,
)

LAW = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

OURS = ("our_design",)
FIRST = at("2022-01-01")
LATE = at("2026-01-01")

STALE = rule("x", OUTAGE_RULE.detector, stale=(20, 40)).freshness
MEAN_RULE = rule(
    "price",
    change((MINOR, 0.3, 0.2), baseline=median_of(40, 2, guard=3), mean_of=3),
    Family.price,
    raise_after=2,
)
ALL = mechanism(
    replace(LEAD_TIME_RULE, freshness=STALE),
    PRICE_RULE,
    replace(MEAN_RULE, id="price-mean"),
    VOLUME_RULE,
    CONTROL_RULE,
    OUTAGE_RULE,
    EXEMPTION_RULE,
    hold_days=5,
    recommendations=(
        FamiliesTogether("families_together", Level.disruption, MODERATE, 2, tuple(Family), OURS),
        EventOnConcentratedGood(
            "event_on_concentrated_good", Level.crisis, SEVERE, 0.4, 0.65, OURS
        ),
        OpenWithoutEasing("open_without_easing", Level.disruption, 30, OURS),
    ),
    key_goods=(KeyGood("neon", OURS, hhi=0.7),),
)

SERIES = [LEAD_TIME, PRICE, VOLUME, CONTROL, OUTAGE, EXEMPTION]
IDS = {key: SeriesId(number) for number, key in enumerate(sorted(SERIES), 1)}

# Values that cross bands often, and go back to normal often enough for alerts to close.
VALUES = {
    LEAD_TIME: [12.0, 12.0, 12.0, 12.0, 13.5, 14.0, 15.0, 17.0, 19.0, 23.0],
    PRICE: [10.0, 10.0, 10.0, 10.0, 12.0, 13.0, 14.0, 15.0, 19.0],
    VOLUME: [0.0, 3.0, 5.0, 8.0, 10.0, 10.0],
}
partners = st.sampled_from([AURORA, DORADO])
origins = st.sampled_from([Origin.press, Origin.company, Origin.government])
graver = st.sampled_from([s for s in Severity if s])


@st.composite
def histories(draw: st.DrawFn, most: int = 30) -> list[Entry]:
    """Entries of several series of one good in the order of observation, a few days apart."""
    entries: list[Entry] = []
    day = FIRST
    told_of = draw(st.sampled_from([SERIES, [LEAD_TIME, PRICE], [PRICE, PRICE, PRICE, CONTROL]]))
    for _ in range(draw(st.integers(1, most))):
        day += timedelta(days=draw(st.sampled_from([0, 1, 1, 2, 5, 15, 31])))
        key = draw(st.sampled_from(told_of))
        if any(e.key == key and e.at == day for e in entries):
            continue
        if key in VALUES:
            entries.append(Entry(key, day, draw(st.sampled_from(VALUES[key]))))
            continue
        partner = draw(partners)
        told = Report(day, draw(graver), partner, PARTIES[partner], draw(origins))
        if draw(st.booleans()):
            told = replace(told, effective_at=day + days(draw(st.integers(1, 30))))
        entries.append(Entry(key, day, report=told))
    return sorted(entries, key=lambda e: (e.at, e.key))


@st.composite
def batched(draw: st.DrawFn) -> list[list[Entry]]:
    """A history cut into batches."""
    history = draw(histories())
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(history) - 1)))) | {0, len(history)})
    return [history[a:b] for a, b in pairwise(cuts) if a < b]


def live(batches: Sequence[Sequence[Entry]]) -> Desk:
    here = Desk([ALL], now=LATE, ids=dict(IDS))
    for batch in batches:
        here.post(*batch)
    return here


def replayed(history: Sequence[Entry]) -> Desk:
    """Each entry as a transaction of its own, in the order of observation."""
    return live([[entry] for entry in history])


def facts(here: Desk) -> list[tuple[object, ...]]:
    return [(p.scope, p.alert, p.transition, p.fed_by) for p in here.published]


@LAW
@given(batched())
def test_any_batches_of_one_history_tell_the_same(batches: list[list[Entry]]) -> None:
    here, together = live(batches), live([[e for b in batches for e in b]])
    assert facts(here) == facts(together)
    assert here.findings == together.findings
    assert here.feeds == together.feeds
    assert here.alerts == together.alerts


@LAW
@given(batched())
def test_replay_equals_live(batches: list[list[Entry]]) -> None:
    here, again = live(batches), replayed([e for b in batches for e in b])
    assert facts(here) == facts(again)
    assert here.findings == again.findings


@LAW
@given(histories())
def test_automation_never_sets_what_people_set_however_much_it_recommends(
    history: list[Entry],
) -> None:
    """(1)."""
    here = replayed(history)
    here.sweep(LATE + days(400))
    for published in here.published:
        assert published.transition.level_to <= Level.early_warning
        assert published.transition.decided_by == "engine"
        advice = published.alert.recommendation
        assert advice is None or advice.level > published.alert.level


@LAW
@given(histories(), st.lists(st.integers(1, 200), max_size=4))
def test_no_data_never_lowers_anything(history: list[Entry], waits: list[int]) -> None:
    """(2)."""
    here = replayed([e for e in history if e.report is None])
    now = max((e.at for e in history), default=FIRST)
    for wait in waits:
        before = {key: f.severity for key, f in here.findings.items()}
        now += days(wait)
        for published in here.sweep(now):
            assert published.transition.severity_to >= published.transition.severity_from
        for key, severity in before.items():
            stands = here.findings.get(key)
            if stands is not None:
                assert stands.severity == severity


@LAW
@given(histories())
def test_every_transition_names_what_decided_it(history: list[Entry]) -> None:
    """(4)."""
    for published in replayed(history).published:
        transition = published.transition
        assert transition.decided_by
        assert transition.recorded_at == LATE
        assert transition.at.tzinfo is not None
        assert published.fed_by
        found = transition.explanation["findings"]
        assert isinstance(found, list)
        assert found
        for said in found:
            assert said["rule_version"] == 1
            assert said["series_id"]
            assert said["observed_at"] or said["severity"] == "none"


@LAW
@given(histories())
def test_numbers_are_gapless_and_at_most_one_alert_of_a_scope_is_open(
    history: list[Entry],
) -> None:
    here = replayed(history)
    here.sweep(LATE + days(40))
    is_open, last = False, 0
    for published in here.published:
        transition, alert = published.transition, published.alert
        if transition.type.value == "alert.opened":
            assert not is_open
            assert transition.number == 1
        else:
            assert is_open
            assert transition.number == last + 1
        assert alert.number == transition.number
        is_open, last = alert.state is AlertState.open, transition.number
    assert len(here.alerts) == is_open


@LAW
@given(histories())
def test_a_transition_begins_where_the_one_before_ended(history: list[Entry]) -> None:
    here = replayed(history)
    level, severity = Level.monitoring, Severity.none
    for published in here.published:
        transition = published.transition
        assert (transition.level_from, transition.severity_from) == (level, severity)
        level, severity = transition.level_to, transition.severity_to
        if transition.type.value == "alert.updated":
            assert transition.severity_from == transition.severity_to


@LAW
@given(st.lists(st.integers(8, 30), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_a_severity_falls_one_band_at_a_time_and_rises_at_once(
    found: list[int], raise_after: int, clear_after: int
) -> None:
    """(10)."""
    asked = replace(LEAD_TIME_RULE, raise_after=raise_after, clear_after=clear_after)
    ladder = [Severity.none, MINOR, MODERATE, SEVERE]
    finding = QUIET
    for number, weeks in enumerate(found):
        reading = detectors.read(
            LEAD_TIME_RULE.detector,  # type: ignore[arg-type]
            [Sample(FIRST + days(number), float(weeks))],
        )
        after = findings.advance(asked, finding, reading)
        fell = ladder.index(finding.severity) - ladder.index(after.severity)
        assert fell <= 1
        assert fell < 1 or reading.held < finding.severity
        if reading.raised > finding.severity and (finding.fires or raise_after == 1):
            assert after.severity is reading.raised
        finding = after


@LAW
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([13, 14, 15])), max_size=40))
def test_late_values_lead_to_the_same_finding_as_values_in_order(
    arrivals: list[tuple[int, int]],
) -> None:
    """(8), for one series."""
    by_day = {day: Entry(LEAD_TIME, FIRST + days(day), float(weeks)) for day, weeks in arrivals}
    shuffled, ordered = (
        replayed(list(by_day.values())),
        replayed([by_day[day] for day in sorted(by_day)]),
    )
    one, other = shuffled.finding(LEAD_TIME), ordered.finding(LEAD_TIME)
    assert one.severity == other.severity
    if one.fires:
        assert (one.state, one.onset, one.clear_run) == (other.state, other.onset, other.clear_run)
        assert shuffled.alert.severity == ordered.alert.severity


@LAW
@given(st.permutations(range(6)), st.data())
def test_reports_corroborate_in_any_order(order: list[int], data: st.DataObject) -> None:
    """(8), for one event."""
    told = [
        Report(FIRST + days(n), SEVERE, p, PARTIES[p], Origin.press, data.draw(st.sampled_from(["", "wire"])))
        for n, p in enumerate(data.draw(st.lists(partners, min_size=6, max_size=6)))
    ]  # fmt: skip
    entries = [Entry(OUTAGE, r.at, report=r) for r in told]
    ordered, shuffled = replayed(entries), replayed([entries[n] for n in order])
    assert ordered.finding(OUTAGE).severity == shuffled.finding(OUTAGE).severity
    assert len(ordered.alerts) == len(shuffled.alerts)


@LAW
@given(st.lists(st.tuples(st.integers(0, 20), graver, origins), min_size=1, max_size=12))
def test_one_party_cannot_corroborate_itself(told: list[tuple[int, Severity, Origin]]) -> None:
    """(7)."""
    wanted = Corroboration(2, 14)
    reports = [
        Report(FIRST + days(day), severity, PartnerId(number), "EU", origin, f"ref-{number}")
        for number, (day, severity, origin) in enumerate(sorted(told, key=lambda t: t[0]))
    ]
    assert not is_corroborated(wanted, reports)


@LAW
@given(st.lists(st.tuples(st.integers(0, 20), graver), min_size=1, max_size=12))
def test_one_origin_cannot_corroborate_itself(told: list[tuple[int, Severity]]) -> None:
    """(7)."""
    wanted = Corroboration(2, 14, OFFICIAL)
    reports = [
        Report(FIRST + days(day), severity, PartnerId(n), f"party {n}", Origin.press, "wire")
        for n, (day, severity) in enumerate(sorted(told, key=lambda t: t[0]))
    ]
    assert not is_corroborated(wanted, reports)


@LAW
@given(histories())
def test_an_expired_mechanism_issues_nothing_and_says_so(history: list[Entry]) -> None:
    """(12)."""
    here = Desk([replace(ALL, valid_until=FIRST.date())], now=LATE)
    for entry in history:
        here.post(entry)
        if any(f.fires for f in here.outcome.findings.values()):
            assert here.outcome.held_back == {ALL.id}
    here.sweep(LATE + days(40))
    assert here.published == []


def promised(published: Published) -> None:
    """What every webhook's data must keep to."""
    alert = replace(published.alert, ref="AB-2026-0001")
    found = published.transition.explanation["findings"]
    text = payloads.render(alert, published.transition, found)  # type: ignore[arg-type]
    assert len(text.encode()) <= payloads.LONGEST_DATA
    data = json.loads(text)
    assert data.keys() >= {"alert", "transition", "references"}
    assert data["transition"].keys() >= {"from", "to", "reason", "at"}
    assert data["alert"].keys() >= {
        "ref", "mechanism", "sector", "good", "place", "level", "state", "severity", "title", "why",
        "opened_at", "updated_at", "resolved_at", "validated", "tlp", "exercise", "findings",
        "recommendation", "positions", "clocks", "references", "links",
    }  # fmt: skip
    for one in data["alert"]["findings"]:
        assert one.keys() == {
            "rule", "series_id", "state", "severity", "value", "unit", "observed_at",
        }  # fmt: skip


def said(published: Published) -> list[str]:
    """Every sentence a person may read of a transition."""
    transition, alert = published.transition, published.alert
    found = transition.explanation["findings"]
    assert isinstance(found, list)
    sentences = [one["sentence"] for one in found]
    clears = [one["to_clear"] for one in found if one["to_clear"]]
    reasons = list(alert.recommendation.reasons) if alert.recommendation else []
    whole = [transition.reason, alert.why, str(transition.explanation["sentence"]), *sentences]
    assert all(one.endswith(".") and one[:1].isupper() for one in whole)
    return [*whole, alert.title, *clears, *reasons]


@LAW
@given(histories())
def test_what_is_told_is_whole(history: list[Entry]) -> None:
    here = replayed(history)
    here.sweep(LATE + days(40))
    for published in here.published:
        promised(published)
        for sentence in said(published):
            assert sentence
            assert not {"None", "nan", "inf", "unknown"} & set(
                sentence.replace(",", " ").replace(".", " ").split()
            )
            assert "  " not in sentence
            assert ".." not in sentence


@LAW
@given(
    st.sampled_from([LEAD_TIME_RULE, PRICE_RULE, VOLUME_RULE]),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
    st.sampled_from(["weeks", "transits/day", "index", "sd", ""]),
)
def test_any_finite_numbers_make_a_finite_payload(
    asked: Rule, found: list[float], unit: str
) -> None:
    key = {"lead_time": LEAD_TIME, "price": PRICE, "export_volume": VOLUME}[asked.indicators[0]]
    here = Desk([mechanism(asked)], now=LATE)
    for number, one in enumerate(found):
        here.post(Entry(key, FIRST + days(31 * number), one))
    for published in here.published:
        promised(published)
        for sentence in said(published):
            assert len(sentence) < 400
    for one in found:
        assert explanation.amount(one, unit)


@pytest.mark.parametrize("count", [8, 60])
def test_however_many_findings_feed_an_alert_its_payload_stays_small(count: int) -> None:
    asked = replace(
        VOLUME_RULE, detector=change((SEVERE, -0.5, -0.2), baseline=SAME_MONTH, direction="down")
    )
    here = Desk([mechanism(asked)], now=LATE)
    keys = [VOLUME._replace(place=f"X{n}") for n in range(count)]
    here.post(*[Entry(key, FIRST, 100.0) for key in keys])
    here.post(*[Entry(key, FIRST + days(365), 1.0) for key in keys])
    assert len(here.published) == count
    promised(here.published[-1])
    data = json.loads(
        payloads.render(
            here.published[-1].alert,
            here.published[-1].transition,
            here.published[-1].transition.explanation["findings"],  # type: ignore[arg-type]
        )
    )
    assert len(data["alert"]["findings"]) + data.get("findings_left_out", 0) == count
    assert len(data["references"]) <= payloads.MOST_REFERENCES
