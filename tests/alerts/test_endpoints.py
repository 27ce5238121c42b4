"""Endpoints: breaker, suspension and notices, as one machine that sees every attempt in order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import endpoints
from alerts.endpoints import (
    EndpointEvent,
    Health,
    Notice,
    Patience,
    Seen,
    Step,
    Suspension,
    document_of,
    health_of,
)
from alerts.retries import Decision, ErrorCode, Parting, Verdict

T0 = datetime(2026, 3, 7, 18, 0, tzinfo=UTC)
PATIENCE = Patience()
SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)

TAKEN = Verdict(Decision.delivered, "The endpoint answered 204.")
REFUSED = Verdict(Decision.retry, "The endpoint refused it.", ErrorCode.http_4xx)
FAILED = Verdict(Decision.retry, "The endpoint failed.", ErrorCode.http_5xx)
SPENT = Verdict(Decision.give_up, "It was the last of the schedule.", ErrorCode.http_5xx)
ABORTED = Verdict(Decision.aborted, "It does not want this message.", ErrorCode.http_4xx)
GONE = Verdict(Decision.gone, "It wants nothing more.", ErrorCode.http_4xx, parting=Parting.gone)


@dataclass(slots=True)
class Endpoint:
    """An endpoint that lives through attempts, one after the other."""

    health: Health = field(default_factory=Health)
    suspended: Suspension | None = None
    notices: list[Notice] = field(default_factory=list)

    def sees(
        self, verdict: Verdict, at: datetime, *, delivery: int = 1, status: int | None = 500
    ) -> Step:
        step = endpoints.advance(self.health, Seen(delivery, at, verdict, status), PATIENCE)
        self.health = step.health
        self.suspended = step.suspends
        self.notices += step.notices
        return step

    def fails(self, often: int, at: datetime, *, every: timedelta = SECOND) -> None:
        for number in range(often):
            self.sees(FAILED, at + every * number, delivery=number)

    @property
    def is_open(self) -> bool:
        return self.health.open_until is not None

    @property
    def told(self) -> list[tuple[EndpointEvent, int | None]]:
        return [(notice.type, notice.percent) for notice in self.notices]


def test_ten_failures_in_a_row_open_the_breaker_for_half_a_minute() -> None:
    endpoint = Endpoint()
    endpoint.fails(9, T0, every=MINUTE)  # slowly, so that no window holds ten
    assert not endpoint.is_open
    tenth = T0 + 9 * MINUTE
    endpoint.sees(FAILED, tenth)
    assert endpoint.health.open_until == tenth + 30 * SECOND == endpoint.health.not_before
    assert endpoint.told == [(EndpointEvent.failing, None)]
    (notice,) = endpoint.notices
    assert (notice.failures, notice.since) == (10, T0)
    assert notice.reason == (
        "10 attempts in a row failed; it is tried less often now. The endpoint failed."
    )


def test_each_failed_probe_doubles_the_opening_up_to_ten_minutes() -> None:
    endpoint = Endpoint()
    endpoint.fails(10, T0)
    spans = []
    for _ in range(7):
        probe = endpoint.health.open_until
        assert probe is not None
        endpoint.sees(FAILED, probe)
        assert endpoint.health.open_until is not None
        spans.append((endpoint.health.open_until - probe) / SECOND)
    assert spans == [60, 120, 240, 480, 600, 600, 600]
    assert endpoint.told == [(EndpointEvent.failing, None)]  # told once, however long it lasts


def test_one_success_closes_the_breaker_and_forgets_all_that_failed() -> None:
    endpoint = Endpoint()
    endpoint.fails(10, T0)
    probe = endpoint.health.open_until
    assert probe is not None
    endpoint.sees(TAKEN, probe, status=204)
    assert endpoint.health == Health(last_error="The endpoint failed.")
    endpoint.fails(9, probe + SECOND, every=SECOND)
    assert not endpoint.is_open  # it is as patient again as with a new one


def test_seven_failures_of_ten_within_five_minutes_open_the_breaker() -> None:
    endpoint = Endpoint()
    for number in range(10):  # never more than three failures in a row
        taken = number in {1, 4, 7}
        assert not endpoint.is_open
        endpoint.sees(TAKEN if taken else FAILED, T0 + number * 33 * SECOND)
    assert endpoint.health.open_until == T0 + 297 * SECOND + 30 * SECOND


@pytest.mark.parametrize(
    ("taken", "every", "because"),
    [
        ({1, 4, 7, 8}, 33 * SECOND, "six of ten are less than 70 percent"),
        ({1, 4, 7}, 34 * SECOND, "the tenth is in the next five minutes"),
        ({9}, 33 * SECOND, "a success does not open it, however many failed before"),
    ],
)
def test_fewer_or_slower_failures_leave_the_breaker_closed(
    taken: set[int], every: timedelta, because: str
) -> None:
    endpoint = Endpoint()
    for number in range(10):
        endpoint.sees(TAKEN if number in taken else FAILED, T0 + number * every)
    assert not endpoint.is_open, because


def test_an_attempt_begun_before_the_breaker_opened_is_counted_and_opens_nothing() -> None:
    endpoint = Endpoint()
    endpoint.fails(10, T0)
    before = endpoint.health
    endpoint.sees(FAILED, T0 + 12 * SECOND)
    assert endpoint.health.failures == 11
    assert (endpoint.health.open_until, endpoint.health.open_for) == (before.open_until, 30)
    probe = endpoint.health.open_until
    assert probe is not None
    endpoint.sees(FAILED, probe)
    assert endpoint.health.open_for == 60


def test_while_it_fails_one_attempt_at_a_time_is_made() -> None:
    endpoint = Endpoint()
    assert endpoint.health.at_once is None
    steps = [endpoint.sees(verdict, T0) for verdict in (FAILED, FAILED, TAKEN)]
    assert [step.health.at_once for step in steps] == [1, 1, None]


@pytest.mark.parametrize(
    ("seen", "suspends", "because"),
    [
        ([(1, 401), (2, 403), (3, 401)], True, "three different messages in a row"),
        ([(1, 401), (1, 401), (1, 401), (1, 401)], False, "retries of one message are one"),
        ([(1, 401), (2, 401), (1, 401), (2, 401)], False, "nor are those of two"),
        ([(1, 401), (2, 401), (1, 401), (3, 401)], True, "retries between do not begin anew"),
        ([(1, 401), (2, 401), (3, 500), (4, 401)], False, "a 500 between them does"),
        ([(1, 401), (2, 401), (3, 204), (4, 401)], False, "and so does a success"),
        ([(1, 401), (2, 401), (3, None), (4, 401)], False, "and one without a whole answer"),
        ([(1, 401), (2, 401), (3, 429), (4, 401)], True, "asking for patience does not"),
        ([(1, 404), (2, 404), (3, 404)], False, "another 4xx may be a deployment"),
    ],
)
def test_three_messages_in_a_row_refused_for_their_credentials_suspend(
    seen: Sequence[tuple[int, int | None]], suspends: bool, because: str
) -> None:
    endpoint = Endpoint()
    patient = Verdict(Decision.throttled, "A slower pace.", ErrorCode.http_429, pause_until=T0)
    verdicts = {204: TAKEN, 429: patient, 500: FAILED, None: FAILED}
    for number, (delivery, status) in enumerate(seen):
        verdict = verdicts.get(status, REFUSED)
        endpoint.sees(verdict, T0 + number * SECOND, delivery=delivery, status=status)
    assert (endpoint.suspended is Suspension.auth) is suspends, because


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (GONE, Suspension.gone),
        (
            Verdict(Decision.gone, "…", ErrorCode.http_5xx, parting=Parting.disable),
            Suspension.disable,
        ),
        (Verdict(Decision.delivered, "…", parting=Parting.disable), Suspension.disable),
    ],
)
def test_an_endpoint_that_takes_leave_is_suspended_at_once(
    verdict: Verdict, why: Suspension
) -> None:
    endpoint = Endpoint()
    endpoint.fails(3, T0)
    endpoint.sees(verdict, T0 + MINUTE)
    assert endpoint.suspended is why
    assert endpoint.told == [(EndpointEvent.suspended, 100)]
    assert endpoint.notices[0].reason.endswith(".")
    assert endpoint.health == Health(last_error=endpoint.health.last_error)  # it begins anew


def test_a_leave_taken_beside_the_success_that_recovers_is_told_after_it() -> None:
    endpoint = Endpoint()
    endpoint.fails(10, T0)
    endpoint.sees(Verdict(Decision.delivered, "…", parting=Parting.disable), T0 + HOUR)
    assert endpoint.told[1:] == [(EndpointEvent.recovered, None), (EndpointEvent.suspended, 100)]


def test_five_days_without_a_success_suspend_and_the_owner_is_told_on_the_way() -> None:
    endpoint = Endpoint()
    timetable: list[tuple[float, EndpointEvent, int | None]] = []
    for hour in range(121):
        before = len(endpoint.notices)
        endpoint.sees(FAILED, T0 + hour * HOUR, delivery=hour)
        timetable += [(hour, n.type, n.percent) for n in endpoint.notices[before:]]
    assert timetable == [
        (9, EndpointEvent.failing, None),  # the breaker opens
        (60, EndpointEvent.failing, 50),
        (84, EndpointEvent.failing, 70),
        (108, EndpointEvent.failing, 90),
        (120, EndpointEvent.suspended, 100),
    ]
    assert endpoint.suspended is Suspension.failing
    assert endpoint.notices[1].reason == (
        "Nothing was delivered for 2 days, 50 % of the way to a suspension. The endpoint failed."
    )
    last = endpoint.notices[-1]
    assert (last.failures, last.since) == (121, T0)


@pytest.mark.parametrize(
    ("failures", "suspends", "because"),
    [
        ([(0, 1), (130, 2)], True, "two messages, and the second half a day after the first"),
        ([(0, 1), (12, 2), (120, 1)], True, "the second may have been long before"),
        ([(0, 1), (60, 1), (200, 1)], False, "one message alone may be at fault itself"),
        ([(0, 1), (11, 2), (120, 1)], False, "two within one bad night"),
        ([(0, 1), (12, 2), (119, 2)], False, "not five days yet"),
        ([(0, 1), (11, 2), (119, 2), (120, 2)], True, "the second fails on, half a day apart"),
    ],
)
def test_only_two_messages_half_a_day_apart_suspend_after_five_days(
    failures: Sequence[tuple[int, int]], suspends: bool, because: str
) -> None:
    endpoint = Endpoint()
    for hour, delivery in failures:
        endpoint.sees(FAILED, T0 + hour * HOUR, delivery=delivery)
    assert (endpoint.suspended is Suspension.failing) is suspends, because


def test_a_success_within_the_five_days_begins_them_anew() -> None:
    endpoint = Endpoint()
    endpoint.sees(FAILED, T0, delivery=1)
    endpoint.sees(FAILED, T0 + DAY, delivery=2)
    endpoint.sees(TAKEN, T0 + 4 * DAY)
    endpoint.sees(FAILED, T0 + 4 * DAY + HOUR, delivery=3)
    endpoint.sees(FAILED, T0 + 8 * DAY, delivery=4)
    assert endpoint.suspended is None
    endpoint.sees(FAILED, T0 + 9 * DAY + HOUR, delivery=4)
    assert endpoint.suspended is Suspension.failing


def test_a_late_look_tells_the_highest_notice_only() -> None:
    endpoint = Endpoint()
    endpoint.sees(FAILED, T0)
    endpoint.sees(FAILED, T0 + 4.5 * DAY)
    endpoint.sees(FAILED, T0 + 4.6 * DAY)
    assert endpoint.told == [(EndpointEvent.failing, 90)]


def test_only_an_owner_who_was_told_of_failing_hears_of_the_recovery() -> None:
    quiet, told = Endpoint(), Endpoint()
    quiet.fails(9, T0, every=MINUTE)
    quiet.sees(TAKEN, T0 + HOUR)
    assert quiet.told == []
    told.fails(10, T0, every=MINUTE)
    told.sees(TAKEN, T0 + 3 * HOUR)
    assert told.told == [(EndpointEvent.failing, None), (EndpointEvent.recovered, None)]
    assert told.notices[1].reason == "The endpoint answers again after 3 hours."
    assert (told.notices[1].failures, told.notices[1].since) == (10, T0)
    told.sees(TAKEN, T0 + 4 * HOUR)
    assert len(told.notices) == 2


@pytest.mark.parametrize("error", [ErrorCode.internal, ErrorCode.no_secret])
def test_faults_of_ours_count_nothing(error: ErrorCode) -> None:
    endpoint = Endpoint()
    endpoint.fails(3, T0)
    before = endpoint.health
    for decision in (Decision.retry, Decision.give_up):
        step = endpoint.sees(Verdict(decision, "Our side.", error), T0 + 6 * DAY, status=None)
        assert step == Step(before)


def test_to_ask_for_patience_is_no_failure_and_everything_waits() -> None:
    endpoint = Endpoint()
    for number in range(20):
        pause = T0 + number * MINUTE + 30 * SECOND
        patient = Verdict(Decision.throttled, "Slower.", ErrorCode.http_429, pause_until=pause)
        endpoint.sees(patient, T0 + number * MINUTE, status=429)
        assert endpoint.health == Health(pause_until=pause)
    sooner = Verdict(Decision.throttled, "Slower.", ErrorCode.http_429, pause_until=T0)
    endpoint.sees(sooner, T0 + HOUR, status=429)
    assert endpoint.health.pause_until == T0 + 19 * MINUTE + 30 * SECOND  # the later one holds


def test_a_failure_that_asks_for_patience_is_counted_and_everything_waits() -> None:
    endpoint = Endpoint()
    asked = Verdict(Decision.retry, "It failed.", ErrorCode.http_5xx, pause_until=T0 + HOUR)
    endpoint.sees(asked, T0, status=503)
    assert (endpoint.health.failures, endpoint.health.not_before) == (1, T0 + HOUR)
    endpoint.sees(TAKEN, T0 + SECOND)
    assert endpoint.health.not_before == T0 + HOUR  # one that was under way ends no pause


def test_a_message_the_endpoint_does_not_want_is_a_failure_of_the_endpoint() -> None:
    endpoint = Endpoint()
    endpoint.sees(ABORTED, T0, status=422)
    assert endpoint.health.failures == 1


instants = st.integers(0, 8 * 86_400).map(lambda seconds: T0 + timedelta(seconds=seconds))
pauses = st.none() | instants
verdicts = st.one_of(
    st.sampled_from([TAKEN, TAKEN, REFUSED, FAILED, FAILED, SPENT, ABORTED, GONE]),
    st.builds(
        Verdict,
        st.just(Decision.throttled),
        st.just("Slower."),
        st.just(ErrorCode.http_429),
        pause_until=instants,
    ),
    st.builds(
        Verdict,
        st.just(Decision.retry),
        st.text(max_size=5),
        st.sampled_from(ErrorCode),
        pause_until=pauses,
    ),
    st.just(Verdict(Decision.delivered, "Taken.", parting=Parting.disable)),
)
attempts = st.lists(
    st.builds(Seen, st.integers(1, 4), instants, verdicts, st.sampled_from([None, 401, 403, 500])),
    max_size=40,
)
in_order = attempts.map(lambda many: sorted(many, key=lambda seen: seen.at))


@given(in_order)
def test_whatever_happens_to_an_endpoint_its_health_makes_sense(many: list[Seen]) -> None:
    health = Health()
    told = 0
    for seen in many:
        step = endpoints.advance(health, seen, PATIENCE)
        ours = seen.verdict.error in {ErrorCode.internal, ErrorCode.no_secret}
        kinds = Counter(notice.type for notice in step.notices)
        assert max(kinds.values(), default=0) <= 1
        if ours:
            assert step == Step(health)
        if seen.verdict.decision is Decision.throttled:
            assert (step.health.failures, step.suspends, step.notices) == (
                health.failures,
                None,
                (),
            )
        if seen.verdict.decision is Decision.delivered:
            assert step.health.at_once is None
            assert step.health.open_until is None
            assert (kinds[EndpointEvent.recovered] == 1) is (health.noticed > 0)
        else:
            assert not kinds[EndpointEvent.recovered]
        assert (step.suspends is not None) is (kinds[EndpointEvent.suspended] == 1)
        health = step.health
        if step.suspends is not None:
            assert health == Health(last_error=health.last_error)
        assert (health.failing_since is None) is (health.failures == 0)
        assert (health.first_failed is None) is (health.failures == 0)
        assert (health.open_until is None) is (health.open_for == 0)
        assert health.open_until is None or health.failures > 0
        assert health.open_for <= PATIENCE.longest_open.total_seconds()
        assert (health.at_once == 1) is (health.failures > 0)
        assert health.window_failed <= health.window_attempts
        assert len(set(health.refused)) == len(health.refused) < PATIENCE.refused
        assert len(health.refused) <= health.failures
        assert not (health.noticed and not health.failures)
        told = max(told, health.noticed) if health.failures else 0
        assert health.noticed == told  # what was told is not told again


@given(in_order)
def test_health_survives_the_database(many: list[Seen]) -> None:
    health = Health()
    for seen in many:
        health = endpoints.advance(health, seen, PATIENCE).health
        assert health_of(json.loads(json.dumps(document_of(health)))) == health


def test_a_new_endpoint_is_an_empty_document_and_unknown_words_in_one_are_passed_over() -> None:
    assert document_of(Health()) == {}
    assert health_of({"failures": 2, "mood": "of a later version"}) == Health(failures=2)


@given(in_order)
def test_what_an_endpoint_lived_through_twice_it_says_twice_the_same(many: list[Seen]) -> None:
    def lived() -> list[Step]:
        health, steps = Health(), []
        for seen in many:
            steps.append(endpoints.advance(health, seen, PATIENCE))
            health = steps[-1].health
        return steps

    assert lived() == lived()
