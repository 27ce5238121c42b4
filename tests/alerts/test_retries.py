"""Retries: what each outcome of an attempt means, as one table; and when the next attempt is."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import retries
from alerts.retries import Decision, ErrorCode, Outcome

NOW = datetime(2026, 3, 7, 18, 0, tzinfo=UTC)
SCHEDULE = (5, 30, 120, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 86_400)
MIDDLE = 0.5  # the jitter that changes nothing


def judged(outcome: Outcome, attempt: int = 1, jitter: float = MIDDLE) -> retries.Verdict:
    return retries.judge(outcome, attempt=attempt, schedule=SCHEDULE, now=NOW, jitter=jitter)


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
