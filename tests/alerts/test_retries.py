"""Retries: what each outcome of an attempt means, as one table; and when the next attempt is."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import retries
from alerts.retries import Decision, ErrorCode, Outcome, Parting

NOW = datetime(2026, 3, 7, 18, 0, tzinfo=UTC)
SCHEDULE = (5, 30, 120, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 86_400)
MIDDLE = 0.5  # the jitter that changes nothing


def judged(
    outcome: Outcome,
    attempt: int = 1,
    jitter: float = MIDDLE,
    throttled: int = 0,
    throttled_for: timedelta | None = None,
) -> retries.Verdict:
    return retries.judge(
        outcome,
        attempt=attempt,
        schedule=SCHEDULE,
        now=NOW,
        jitter=jitter,
        throttled=throttled,
        throttled_since=None if throttled_for is None else NOW - throttled_for,
    )


def saying(words: str, status: int, error: ErrorCode | None = None) -> Outcome:
    """An answer with the header ``webhook-delivery``."""
    return Outcome(status, error, answer_headers={"webhook-delivery": words})


@pytest.mark.parametrize(
    ("outcome", "decision", "error"),
    [
        (Outcome(200), Decision.delivered, None),  # the usual
        (Outcome(204), Decision.delivered, None),  # no body is needed
        (Outcome(299), Decision.delivered, None),  # the last that counts
        (Outcome(199), Decision.retry, ErrorCode.invalid_http),  # not a final status
        (Outcome(301), Decision.retry, ErrorCode.http_3xx),  # never followed
        (Outcome(304), Decision.retry, ErrorCode.http_3xx),  # makes no sense, is no success
        (Outcome(400), Decision.retry, ErrorCode.http_4xx),  # receivers mis-deploy
        (Outcome(401), Decision.retry, ErrorCode.http_4xx),  # may have the old secret
        (Outcome(404), Decision.retry, ErrorCode.http_4xx),  # a deployment under way
        (Outcome(410), Decision.gone, ErrorCode.http_4xx),  # Standard Webhooks: disable
        (Outcome(429), Decision.throttled, ErrorCode.http_429),  # too fast: asks for patience
        (Outcome(500), Decision.retry, ErrorCode.http_5xx),  # failing
        (Outcome(503), Decision.retry, ErrorCode.http_5xx),  # overloaded
        (Outcome(999), Decision.retry, ErrorCode.invalid_http),  # no such status
        (Outcome(), Decision.retry, ErrorCode.invalid_http),  # neither answer nor error
        (Outcome(error=ErrorCode.dns), Decision.retry, ErrorCode.dns),
        (Outcome(error=ErrorCode.ssrf_blocked), Decision.retry, ErrorCode.ssrf_blocked),
        (Outcome(error=ErrorCode.connect), Decision.retry, ErrorCode.connect),
        (Outcome(error=ErrorCode.tls), Decision.retry, ErrorCode.tls),
        (Outcome(error=ErrorCode.timeout), Decision.retry, ErrorCode.timeout),
        (Outcome(200, ErrorCode.timeout), Decision.retry, ErrorCode.timeout),  # a body that drips
        (Outcome(200, ErrorCode.too_large), Decision.retry, ErrorCode.too_large),  # never ends
        (Outcome(410, ErrorCode.timeout), Decision.retry, ErrorCode.timeout),  # not complete
        (Outcome(200, ErrorCode.challenge), Decision.retry, ErrorCode.challenge),  # no consent yet
        (Outcome(error=ErrorCode.no_secret), Decision.retry, ErrorCode.no_secret),  # never unsigned
        (Outcome(error=ErrorCode.internal), Decision.retry, ErrorCode.internal),  # our own fault
    ],
)
def test_each_outcome_has_its_verdict(
    outcome: Outcome, decision: Decision, error: ErrorCode | None
) -> None:
    verdict = judged(outcome)
    assert (verdict.decision, verdict.error) == (decision, error)
    assert (verdict.retry_at is not None) is (decision in {Decision.retry, Decision.throttled})
    assert verdict.reason.endswith(".")


@pytest.mark.parametrize(
    ("outcome", "decision", "parting"),
    [
        (Outcome(410), Decision.gone, Parting.gone),  # Standard Webhooks: disable
        (saying("disable", 204), Decision.delivered, Parting.disable),  # thanks, and no more
        (saying("disable", 400), Decision.gone, Parting.disable),
        (saying("disable", 429), Decision.gone, Parting.disable),  # no patience is asked for
        (saying("disable", 503), Decision.gone, Parting.disable),
        (saying("disable", 302), Decision.gone, Parting.disable),  # whole, if not followed
        (saying("  DISABLE ", 500), Decision.gone, Parting.disable),  # case and spaces are free
        (saying("disable", 410), Decision.gone, Parting.gone),  # the status says it already
        (saying("abort-message", 410), Decision.gone, Parting.gone),  # and outweighs a message
        (saying("abort-message", 422), Decision.aborted, None),
        (saying("abort-message", 429), Decision.aborted, None),  # not wanted later either
        (saying("abort-message", 500), Decision.aborted, None),
        (saying(" Abort-Message", 400), Decision.aborted, None),
        (saying("abort-message", 200), Decision.delivered, None),  # it was taken all the same
        (saying("later, please", 500), Decision.retry, None),  # words nobody agreed on
        (saying("", 500), Decision.retry, None),
        # An answer that broke off, or did not consent, asks for nothing: its head may be another's.
        (saying("disable", 200, ErrorCode.too_large), Decision.retry, None),
        (saying("disable", 500, ErrorCode.timeout), Decision.retry, None),
        (saying("disable", 200, ErrorCode.challenge), Decision.retry, None),
        (saying("abort-message", 500, ErrorCode.invalid_http), Decision.retry, None),
        (Outcome(410, ErrorCode.invalid_http), Decision.retry, None),
    ],
)
@pytest.mark.parametrize("attempt", [1, 12])
def test_an_endpoint_says_what_it_does_not_want(
    outcome: Outcome, decision: Decision, parting: Parting | None, attempt: int
) -> None:
    verdict = judged(outcome, attempt)
    if decision is Decision.retry and attempt == 12:
        decision = Decision.give_up
    assert (verdict.decision, verdict.parting) == (decision, parting)
    assert (verdict.retry_at is not None) is (decision is Decision.retry)
    assert verdict.pause_until is None


@pytest.mark.parametrize(
    ("hint", "attempt", "seconds"),
    [
        (None, 1, 5),  # no hint: after the schedule's wait
        ("2", 1, 5),  # never sooner than that
        ("90", 1, 90),  # seconds
        ("Sat, 07 Mar 2026 18:20:00 GMT", 1, 1_200),  # a date
        ("7200", 1, 3_600),  # an hour at most
        (None, 8, 3_600),  # after a wait of six hours too: patience is asked for, not a failure
    ],
)
def test_a_429_makes_the_whole_endpoint_wait_and_is_not_counted(
    hint: str | None, attempt: int, seconds: float
) -> None:
    verdict = judged(Outcome(429, retry_after=hint), attempt)
    assert verdict.decision is Decision.throttled
    assert verdict.retry_at == verdict.pause_until == NOW + timedelta(seconds=seconds)


SIX_HOURS = timedelta(hours=6)


@pytest.mark.parametrize(
    ("throttled", "throttled_for", "attempt", "decision"),
    [
        (9, timedelta(hours=1), 1, Decision.throttled),  # the tenth
        (10, timedelta(hours=1), 1, Decision.retry),  # the eleventh is counted
        (1, SIX_HOURS - timedelta(seconds=1), 1, Decision.throttled),
        (1, SIX_HOURS, 1, Decision.retry),  # six hours are enough of it
        (10, timedelta(hours=1), 12, Decision.give_up),  # counted, as the last
        (9, timedelta(hours=1), 12, Decision.throttled),  # the last is not counted yet
        (0, None, 12, Decision.throttled),  # nor when it is the first 429
    ],
)
def test_patience_has_an_end(
    throttled: int, throttled_for: timedelta | None, attempt: int, decision: Decision
) -> None:
    outcome = Outcome(429, retry_after="90")
    verdict = judged(outcome, attempt, throttled=throttled, throttled_for=throttled_for)
    assert verdict.decision is decision
    assert verdict.pause_until is not None  # the endpoint asks for it all the same
    assert verdict.pause_until >= NOW + timedelta(seconds=90)


def test_a_counted_429_waits_as_the_schedule_says_while_others_may_go_after_an_hour() -> None:
    verdict = judged(Outcome(429), 8, throttled=10, throttled_for=timedelta(hours=1))
    assert verdict.retry_at == NOW + timedelta(hours=6)
    assert verdict.pause_until == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("outcome", "pauses"),
    [
        (Outcome(503, retry_after="90"), True),  # overloaded, and says for how long
        (Outcome(503), False),  # a proxy before one bad instance says so too
        (Outcome(503, retry_after="0"), False),
        (Outcome(503, retry_after="soon"), False),
        (Outcome(503, ErrorCode.timeout, retry_after="90"), False),  # not whole
        (Outcome(500, retry_after="90"), False),  # this message only
        (Outcome(502, retry_after="90"), False),
        (Outcome(404, retry_after="90"), False),
    ],
)
@pytest.mark.parametrize("attempt", [1, 12])
def test_only_a_503_with_retry_after_makes_the_whole_endpoint_wait(
    outcome: Outcome, pauses: bool, attempt: int
) -> None:
    verdict = judged(outcome, attempt)
    assert verdict.decision is (Decision.retry if attempt == 1 else Decision.give_up)
    assert verdict.pause_until == (NOW + timedelta(seconds=90) if pauses else None)
    if attempt == 1 and outcome.retry_after == "90":
        assert verdict.retry_at == NOW + timedelta(seconds=90)


outcomes = st.builds(
    Outcome,
    st.none() | st.integers(100, 999),
    st.none() | st.sampled_from(ErrorCode),
    st.none() | st.sampled_from(["1", "90", "86400", "Sat, 07 Mar 2026 18:20:00 GMT", "soon"]),
    answer_headers=st.sampled_from(
        [{}, {"webhook-delivery": "disable"}, {"webhook-delivery": "abort-message"}]
    ),
)


@given(
    outcomes,
    st.integers(1, 14),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 12),
    st.none() | st.timedeltas(timedelta(), timedelta(days=1)),
)
def test_every_verdict_leaves_its_message_with_one_way_on(
    outcome: Outcome,
    attempt: int,
    jitter: float,
    throttled: int,
    throttled_for: timedelta | None,
) -> None:
    verdict = judged(outcome, attempt, jitter, throttled, throttled_for)
    again = verdict.decision in {Decision.retry, Decision.throttled}
    assert (verdict.retry_at is not None) is again
    assert (verdict.error is None) is (verdict.decision is Decision.delivered)
    assert verdict.decision is not Decision.retry or attempt <= len(SCHEDULE)
    assert (verdict.decision is Decision.gone) <= (verdict.parting is not None)
    assert verdict.parting is None or verdict.decision in {Decision.gone, Decision.delivered}
    if verdict.decision is Decision.delivered:
        assert outcome.error is None
        assert outcome.status is not None
        assert 200 <= outcome.status < 300
    if outcome.error is not None:
        assert verdict.decision in {Decision.retry, Decision.give_up}
        assert verdict.error is outcome.error
    if verdict.pause_until is not None:
        assert NOW < verdict.pause_until <= NOW + timedelta(hours=1)
        assert verdict.retry_at is None or verdict.pause_until <= verdict.retry_at
    if verdict.retry_at is not None:
        assert verdict.retry_at > NOW
        assert verdict.retry_at <= NOW + timedelta(hours=28.8)  # a day and a fifth


def test_the_default_schedule_spans_a_weekend() -> None:
    at, instants = NOW, []
    for attempt in range(1, len(SCHEDULE) + 1):
        verdict = retries.judge(
            Outcome(500), attempt=attempt, schedule=SCHEDULE, now=at, jitter=MIDDLE
        )
        assert verdict.retry_at is not None
        at = verdict.retry_at
        instants.append(round((at - NOW) / timedelta(hours=1), 2))
    assert instants == [0.0, 0.01, 0.04, 0.21, 0.71, 1.71, 4.71, 10.71, 22.71, 46.71, 70.71]
    last = retries.judge(Outcome(500), attempt=12, schedule=SCHEDULE, now=at, jitter=MIDDLE)
    assert last.decision is Decision.give_up
    assert last.reason.endswith("It was attempt 12, the last of the schedule.")


@given(st.integers(1, 11), st.floats(0, 1, exclude_max=True))
def test_jitter_moves_a_wait_by_a_fifth_at_most(attempt: int, jitter: float) -> None:
    verdict = judged(Outcome(500), attempt, jitter)
    assert verdict.retry_at is not None
    share = (verdict.retry_at - NOW) / timedelta(seconds=SCHEDULE[attempt - 1])
    assert 0.8 - 1e-6 <= share <= 1.2 + 1e-6


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),  # seconds
        (" 7 ", 7),  # spaces around
        ("0", 5),  # now: the schedule still holds
        ("2", 5),  # sooner than the schedule
        ("Sat, 07 Mar 2026 18:10:00 GMT", 600),  # a date
        ("Sat, 07 Mar 2026 17:00:00 GMT", 5),  # a date gone by
        ("86400", 3_600),  # a day: an hour is the most that is honoured
        ("9" * 400, 3_600),  # absurd
        ("soon", 5),  # unreadable
        ("-5", 5),  # not a number of seconds
        ("1.5", 5),  # nor is this
        ("²", 5),  # a digit to Python, not to HTTP
        ("", 5),  # empty
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 5),  # no calendar has that year
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999", 5),  # nor that offset
    ],
)
def test_a_retry_is_never_earlier_than_retry_after(header: str, seconds: float) -> None:
    verdict = judged(Outcome(503, retry_after=header))
    assert verdict.retry_at == NOW + timedelta(seconds=seconds)


@given(st.text(max_size=60))
def test_no_retry_after_can_break_the_judgement(header: str) -> None:
    verdict = judged(Outcome(429, retry_after=header))
    assert verdict.retry_at is not None
    assert NOW + timedelta(seconds=4) <= verdict.retry_at <= NOW + timedelta(hours=1)


def test_the_reason_says_what_happened_and_the_status() -> None:
    assert judged(Outcome(502)).reason == "The endpoint failed. It answered 502."
    blocked = Outcome(error=ErrorCode.ssrf_blocked, detail="10.0.0.1 is a private address.")
    assert judged(blocked).reason == "10.0.0.1 is a private address."


def test_every_error_code_is_explained_to_subscribers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text("utf-8")
    described = re.findall(
        r"^\| `(\w+)` \|", page.split("## Error codes of a try")[1], re.MULTILINE
    )
    assert described == [code.value for code in ErrorCode]
