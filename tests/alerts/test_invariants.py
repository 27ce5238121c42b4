"""The thirteen invariants of MECHANISMS 7.11, over long random lives of a service.

Each test says in brackets which it holds, and what it covers where people's part is not built yet.
A life is signals in and out of order, revisions, gaps, sweeps, restarts, people who set levels, and
a mechanism that expires, is renewed and changes its label (``histories.lives``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import payloads, routing
from alerts.catalogue import Catalogue
from alerts.findings import QUIET, State
from alerts.lifecycle import Alert, EventType
from alerts.mechanisms import (
    ClockPolicy,
    Level,
    LevelPolicy,
    Profile,
    Scope,
    SetBy,
    Span,
    Tlp,
    Unit,
    soundness,
)
from alerts.routing import Filter, Reached
from alerts.rules import Effect, Freshness
from alerts.signals import Origin, Report, SeriesKey, Severity
from alerts.tracks import FindingKey, Published
from tests.alerts.cast import (
    CATALOGUE,
    DORADO,
    LEAD_TIME,
    OUTAGE,
    PARTIES,
    Desk,
    Entry,
    days,
    event,
    report,
    value,
)
from tests.alerts.histories import (
    DRILL,
    FIRST,
    LATE,
    OURS,
    RULES,
    WATCH,
    Do,
    Moment,
    Step,
    desk,
    histories,
    judged,
    law,
    lived,
    lives,
    shuffled,
)

BANDS: dict[str, list[Severity]] = {
    rule.id: sorted({Severity.none, *(b.severity for b in getattr(rule.detector, "bands", ()))})
    for rule in RULES
}
FRESHNESS: dict[str, Freshness | None] = {rule.id: rule.freshness for rule in RULES}
STRICTEST_FIRST = list(Tlp)


def published_of(moments: Sequence[Moment]) -> Iterator[tuple[Moment, Published]]:
    for moment in moments:
        for published in moment.published:
            yield moment, published


def in_turn(history: Sequence[Entry], waits: Sequence[int]) -> list[Step]:
    """Each entry posted when it was observed, with a sweep so many days after some of them."""
    steps = [Step(e.at, Do.post, (e,)) for e in history]
    for number, wait in enumerate(waits[: len(steps)]):
        if wait:
            steps.append(Step(steps[number].when + days(wait), Do.sweep))
    return sorted(steps, key=lambda s: s.when)


@law(25)
@given(lives())
def test_automation_never_sets_alert_or_crisis(life: list[Step]) -> None:
    """(1): from whatever level people have set, nothing that happens makes the engine set another
    above early warning, or lower one that people set; it only recommends what is above.
    """
    _, moments = lived(life)
    for _, published in published_of(moments):
        transition, advice = published.transition, published.alert.recommendation
        assert transition.decided_by == "engine"
        if transition.level_to > Level.early_warning:
            assert transition.level_to is transition.level_from
        assert advice is None or advice.level > published.alert.level
    for moment in moments:
        if moment.step.do is Do.people:
            continue
        for scope, alert in moment.alerts.items():
            after = moment.alerts_after.get(scope)
            if alert.level > Level.early_warning:
                assert after is not None, "people ended nothing"
                assert after.level is alert.level
                assert after.validated is alert.validated


@law(25)
@given(histories(), st.lists(st.sampled_from([0, 0, 1, 9, 30, 90]), max_size=24))
def test_no_data_never_lowers(history: list[Entry], waits: list[int]) -> None:
    """(2): neither silence nor a reading that cannot be made lowers a severity; and time alone
    closes only what was ok long enough on observations that are fresh.
    """
    here, moments = lived([*in_turn(history, waits), Step(LATE, Do.sweep)])
    for moment in moments:
        for key, before in moment.findings.items():
            after = moment.findings_after.get(key, QUIET)
            if after.state in {State.stale, State.no_data, State.not_evaluable}:
                assert after.severity == before.severity
            if moment.step.do is Do.sweep:
                assert after.severity == before.severity or not _still_fed(here, moment, key)
        if moment.step.do is not Do.sweep:
            continue
        for published in moment.published:
            assert published.transition.severity_to >= published.transition.severity_from
            if published.transition.level_to < published.transition.level_from:
                for one in published.evidence:
                    _assert_fresh_and_ok(
                        one.rule.id, one.finding.state, one.finding.observed_at, moment
                    )


def _still_fed(here: Desk, moment: Moment, key: FindingKey) -> bool:
    keys = {series: found for found, series in here.ids.items()}
    return moment.profile.scope_of(keys[key[0]]) in moment.alerts_after


def _assert_fresh_and_ok(
    rule: str, state: State, observed_at: datetime | None, moment: Moment
) -> None:
    freshness = FRESHNESS[rule]
    asked = next(r for r in RULES if r.id == rule)
    if asked.is_event or asked.effect is not Effect.early_warning:
        return
    assert state is State.ok
    assert observed_at is not None
    if freshness is not None:
        assert moment.step.when - observed_at <= days(freshness.stale_after_days)


@law(25)
@given(lives())
def test_an_exercise_never_changes_an_actual_level(life: list[Step]) -> None:
    """(3): without its signals everything else happens just as it did."""
    without = [replace(s, entries=tuple(e for e in s.entries if not e.key.exercise)) for s in life]
    without = [s for s in without if s.entries or s.do is not Do.post]
    here, moments = lived(life)
    alone, moments_alone = lived(without)
    assert _actual(moments) == _actual(moments_alone)
    assert _levels(here) == _levels(alone)


def _actual(moments: Sequence[Moment]) -> list[tuple[object, ...]]:
    actual = [p for _, p in published_of(moments) if not p.scope.exercise]
    return [
        (*_issue(p), p.transition.recorded_at, p.alert.level, p.transition.reason) for p in actual
    ]


def _levels(here: Desk) -> dict[Scope, tuple[object, ...]]:
    return {
        s: (a.level, a.severity, a.opened_at, a.why)
        for s, a in here.alerts.items()
        if not s.exercise
    }


wishes = st.builds(
    Filter,
    mechanisms=st.sampled_from([(), (WATCH.id,), ("another",)]),
    sectors=st.sampled_from([(), ("semiconductors",), ("shipping",)]),
    goods=st.sampled_from([(), ("neon",), ("gallium",), ("neon", "gallium")]),
    places=st.sampled_from([(), ("UA",)]),
    min_level=st.sampled_from(Level),
    min_severity=st.sampled_from(Severity),
    exercises=st.booleans(),
)


@law(25)
@given(lives(), wishes)
def test_an_exercise_never_reaches_who_takes_none(life: list[Step], wish: Filter) -> None:
    """(3): nor is what reaches those who do anything but labelled as one."""
    for _, published in published_of(lived(life)[1]):
        alert, transition = published.alert, published.transition
        if alert.scope.exercise:
            quiet = replace(wish, exercises=False)
            was = Reached(transition.level_from, transition.severity_from)
            assert routing.why_not(quiet, alert, transition.type, was)
            assert _document(published)["alert"]["exercise"] == DRILL
        assert all(e.key.exercise == alert.scope.exercise for e in published.evidence)


def _document(published: Published) -> dict[str, dict[str, object]]:
    found = published.transition.explanation["findings"]
    text = payloads.render(published.alert, published.transition, found)  # type: ignore[arg-type]
    document: dict[str, dict[str, object]] = json.loads(text)
    return document


@law(25)
@given(lives())
def test_every_level_change_names_its_signals_rule_versions_decider_and_time(
    life: list[Step],
) -> None:
    """(4): as data, in what is published; the signals are ones that somebody sent."""
    here, moments = lived(life)
    said = {(here.ids[e.key], e.at) for s in life for e in s.entries}
    for moment, published in published_of(moments):
        transition = published.transition
        assert transition.decided_by
        assert transition.reason
        assert transition.at.tzinfo is not None
        assert transition.recorded_at == moment.step.when
        assert set(published.fed_by) <= said
        assert published.fed_by or moment.step.do is Do.sweep
        found = transition.explanation["findings"]
        assert isinstance(found, list)
        assert found
        for one in found:
            assert one["rule"] in BANDS
            assert one["rule_version"] == 1
            assert one["series_id"]
        told = _document(published)["transition"]
        assert told.keys() >= {"from", "to", "reason", "at", "decided_by"}


@law(25)
@given(lives())
def test_a_label_never_widens(life: list[Step]) -> None:
    """(5): an alert bears its mechanism's label from its beginning to its end, whatever label the
    mechanism's later alerts bear; every message says it. Signals bear no label yet.
    """
    label: dict[str, Tlp] = {}
    for moment, published in published_of(lived(life)[1]):
        alert = published.alert
        if published.transition.type is EventType.opened:
            label[alert.ref] = moment.profile.default_tlp
        assert STRICTEST_FIRST.index(alert.tlp) <= STRICTEST_FIRST.index(label[alert.ref])
        assert _document(published)["alert"]["tlp"] == alert.tlp


@law(60)
@given(st.integers(1, 2_000), st.sampled_from(Unit))
def test_a_crisis_may_be_declared_for_twelve_months_at_most(amount: int, unit: Unit) -> None:
    """(6): a profile whose crisis could last longer is refused. Nobody can declare one yet."""
    most = {
        Unit.seconds: 366 * 86_400,
        Unit.hours: 366 * 24,
        Unit.days: 366,
        Unit.business_days: 262,
        Unit.months: 12,
        Unit.years: 1,
    }
    faults = soundness.check(with_crisis(Span(amount, unit)), CATALOGUE)
    is_refused = any(f.pointer == "/levels/2/lasts_at_most" for f in faults)
    if amount > most[unit]:
        assert is_refused


def test_a_crisis_without_an_end_is_refused() -> None:
    """(6)."""
    faults = soundness.check(with_crisis(None), CATALOGUE)
    assert any(f.pointer == "/levels/2/lasts_at_most" for f in faults)


def with_crisis(longest: Span | None) -> Profile:
    return replace(
        WATCH,
        levels=(
            LevelPolicy(Level.monitoring, "Monitoring", "Watched.", (SetBy.engine,), OURS),
            LevelPolicy(Level.early_warning, "Warning", "May come.", (SetBy.engine,), OURS),
            LevelPolicy(
                Level.crisis,
                "Crisis",
                "Shortage.",
                (SetBy.all_parties,),
                OURS,
                lasts_at_most=longest,
                falls_to=Level.early_warning if longest else None,
            ),
        ),
    )


@law(25)
@given(st.data(), histories(), st.booleans())
def test_one_party_or_one_origin_cannot_corroborate_itself(
    data: st.DataObject, history: list[Entry], is_one_party: bool
) -> None:
    """(7): however often it says so, in whatever order, and revises what it said."""
    told: dict[tuple[SeriesKey, datetime, int], Entry] = {}
    for entry in history:
        if entry.report is not None:
            said = replace(entry.report, origin=Origin.press, origin_ref="wire")
            if is_one_party:
                said = replace(
                    said, partner=DORADO, party=PARTIES[DORADO], origin_ref=entry.report.origin_ref
                )
            told[entry.key, entry.at, said.partner] = replace(entry, report=said)
    twice = [*told.values(), *told.values()]
    here = judged(data.draw(shuffled(twice)))
    here.sweep(LATE)
    assert here.published == []
    assert all(f.state in {State.pending, State.ok} for f in here.findings.values())


@law(25)
@given(lives())
def test_restarts_change_nothing(life: list[Step]) -> None:
    """(8): that any order of arrival ends alike is held in test_arrival_order; here that what a
    process remembers beside what is stored decides nothing.
    """
    here, moments = lived(life)
    again, moments_again = lived([s for s in life if s.do is not Do.restart])
    often, moments_often = lived([r for s in life for r in (s, Step(s.when, Do.restart))])
    for one, of_it in ((again, moments_again), (often, moments_often)):
        assert one.findings == here.findings
        assert one.alerts == here.alerts
        assert _facts(of_it) == _facts(moments)


def _facts(moments: Sequence[Moment]) -> list[tuple[object, ...]]:
    return [(p.scope, p.alert, p.transition, p.fed_by) for _, p in published_of(moments)]


@law(25)
@given(lives(), wishes)
def test_every_recipient_of_an_issue_gets_its_update_or_cancel(
    life: list[Step], wish: Filter
) -> None:
    """(9): whoever hears of an alert hears all that follows, to its end; or, who asked for a least
    level or severity, until it has heard the alert fall below that, and then of its end.
    """
    hears: dict[str, bool] = {}
    has_heard: set[str] = set()
    highest: dict[str, Reached] = {}
    _, moments = lived(life)
    for moment in moments:
        told = [
            (
                p.alert,
                p.transition.type,
                Reached(p.transition.level_from, p.transition.severity_from),
            )
            for p in moment.published
        ]
        told += [(a, EventType.updated, Reached(was, a.severity)) for a, was in moment.by_people]
        for alert, kind, just_before in told:
            top = highest.get(alert.ref, just_before)
            was = routing.reached(kind, just_before, top)
            heard = not routing.why_not(wish, alert, kind, was)
            assert heard or not hears.get(alert.ref, False)
            assert heard or kind is not EventType.resolved or alert.ref not in has_heard
            hears[alert.ref] = (
                heard and alert.level >= wish.min_level and alert.severity >= wish.min_severity
            )
            if heard:
                has_heard.add(alert.ref)
            highest[alert.ref] = Reached(
                max(top.level, alert.level), max(top.severity, alert.severity)
            )


@law(25)
@given(histories())
def test_severity_drops_one_band_at_a_time(history: list[Entry]) -> None:
    """(10): of each finding, from one observation to the next."""
    for moment in lived(in_turn(history, ()))[1]:
        for turn in moment.outcome.turns:
            ladder = BANDS[turn.key[2]]
            if turn.after.severity >= turn.before.severity:
                continue
            assert ladder.index(turn.before.severity) - ladder.index(turn.after.severity) == 1


@law(25)
@given(histories())
def test_missing_fields_never_block_issue(history: list[Entry]) -> None:
    """(11): what is told of names nobody knows, and of reports that say only what they must, is
    issued as soon and as grave.
    """
    told, bare = desk(), Desk([WATCH], Catalogue({}, {}, {}, {}, {}), now=LATE)
    for entry in history:
        said = entry.report
        if said is not None:
            said = Report(said.at, said.severity, said.partner, said.party, said.origin)
        ref = replace(said, origin_ref=entry.report.origin_ref) if said and entry.report else said
        told.post(replace(entry, report=ref))
        bare.post(replace(entry, report=ref))
    assert [_issue(p) for p in bare.published] == [_issue(p) for p in told.published]
    for published in bare.published:
        document = _document(published)
        assert document["alert"]["title"]
        assert document["transition"]["reason"]


def _issue(published: Published) -> tuple[object, ...]:
    transition = published.transition
    return published.scope, transition.type, transition.at, transition.severity_to


FULL = report("2022-03-01", announced="2022-02-01", effective="2022-04-01", ref="gazette")


@pytest.mark.parametrize(
    ("said", "key"),
    [
        (replace(FULL, party=""), OUTAGE),  # its reporter acts for no party
        (replace(FULL, origin_ref=""), OUTAGE),
        (replace(FULL, announced_at=None), OUTAGE),
        (replace(FULL, effective_at=None), OUTAGE),
        (FULL, OUTAGE._replace(place="XX")),  # a place nobody knows
        (FULL, OUTAGE._replace(good="")),  # the whole sector
        (report("2022-03-01"), OUTAGE._replace(good="")),  # all of these at once
    ],
)
def test_an_official_word_is_issued_whatever_it_leaves_out(said: Report, key: SeriesKey) -> None:
    """(11)."""
    (issued,) = desk().post(event(key, said))
    assert issued.transition.type is EventType.opened


@law(25)
@given(lives())
def test_an_expired_mechanism_takes_signals_and_issues_nothing_and_says_so(
    life: list[Step],
) -> None:
    """(12): while it is out of force no alert opens, moves or ends; what would have is said."""
    for moment in lived(life)[1]:
        if moment.is_in_force or moment.step.do is Do.people:
            continue
        assert moment.published == ()
        assert _frozen(moment.alerts) == _frozen(moment.alerts_after)
        fired = [
            f
            for (_, _, rule), f in moment.outcome.findings.items()
            if f.fires
            and next(r for r in RULES if r.id == rule).effect is Effect.early_warning
            and not next(r for r in RULES if r.id == rule).shadow
        ]
        if moment.step.do is Do.post and fired:
            assert moment.outcome.held_back == {WATCH.id}


def test_what_fires_still_is_issued_when_the_mechanism_is_renewed() -> None:
    """(12): by the observation's own time, naming signals that somebody sent (4)."""
    told = value(LEAD_TIME, "2022-03-01", 17)
    here, moments = lived(
        [
            Step(FIRST, Do.expire),
            Step(told.at, Do.post, (told,)),
            Step(told.at + days(3), Do.sweep),
            Step(told.at + days(4), Do.renew),
            Step(told.at + days(5), Do.sweep),
        ]
    )
    ((moment, issued),) = published_of(moments)
    assert moment.step.when == told.at + days(5)
    assert issued.transition.type is EventType.opened
    assert issued.alert.opened_at == told.at
    assert set(issued.fed_by) == {(here.ids[LEAD_TIME], told.at)}


def _frozen(alerts: dict[Scope, Alert]) -> dict[Scope, tuple[object, ...]]:
    return {s: (a.ref, a.level, a.severity, a.number, a.state) for s, a in alerts.items()}


@law(25)
@given(lives())
def test_an_announced_measure_is_told_on_its_day_or_its_alert_has_ended(life: list[Step]) -> None:
    """(13): the clocks that run so far are the days of announced measures; none is left running
    past its day. People's clocks: every clock of a profile says when it ends, or it is refused.
    """
    here, moments = lived([*life, Step(LATE, Do.renew), Step(LATE, Do.sweep)])
    for moment in moments:
        if moment.step.do is Do.sweep and moment.is_in_force:
            for alert in moment.alerts_after.values():
                assert all(m.at > moment.step.when for m in alert.awaiting)
    assert all(alert.awaiting == () for alert in here.alerts.values())


@pytest.mark.parametrize(
    ("within", "wording", "is_refused"),
    [
        (Span(2, Unit.days), "", False),
        (None, "without undue delay", False),
        (None, "", True),  # it would never end
        (Span(0, Unit.days), "", True),  # it would be over before it began
        (Span(-1, Unit.days), "", True),
    ],
)
def test_a_clock_that_has_no_end_is_refused(
    within: Span | None, wording: str, is_refused: bool
) -> None:
    """(13)."""
    clock = ClockPolicy("ack", "Acknowledged", "issue", "asked again", OURS, within, wording)
    faults = soundness.check(replace(WATCH, clocks=(clock,)), CATALOGUE)
    assert any(f.pointer.startswith("/clocks/0") for f in faults) is is_refused
