"""What an attempt to deliver means for its message: delivered, again at an instant, or no more.

The whole judgement is :func:`judge`; what attempts mean for their endpoint is :mod:`alerts.endpoints`.
When to try again is a list of waits that is given in: with the service's default, an endpoint that
stays down is tried at 0 s, 5 s, 35 s, 2.6 min, 12.6 min, 42.6 min, 1.7 h, 4.7 h, 10.7 h, 22.7 h,
46.7 h and 70.7 h, which spans a weekend; then the delivery has failed and waits for a person.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

JITTER = 0.2
LONGEST_HINT = timedelta(hours=1)
# Being asked for patience is no failure, up to a point: then the schedule counts it after all.
MOST_THROTTLED = 10
LONGEST_THROTTLED = timedelta(hours=6)
FRESH_ATTEMPTS = 2
"""First and second attempts go before later ones, so that retries cannot starve what is new."""


class ErrorCode(enum.StrEnum):
    """Why an attempt failed; the codes are a promise to subscribers and operators."""

    dns = "dns"
    ssrf_blocked = "ssrf_blocked"
    connect = "connect"
    tls = "tls"
    timeout = "timeout"
    too_large = "too_large"
    invalid_http = "invalid_http"
    http_3xx = "http_3xx"
    http_4xx = "http_4xx"
    http_429 = "http_429"
    http_5xx = "http_5xx"
    challenge = "challenge"
    no_secret = "no_secret"  # noqa: S105 - a code, not a secret
    internal = "internal"


class Decision(enum.StrEnum):
    """What happens to the delivery next."""

    delivered = "delivered"
    retry = "retry"
    throttled = "throttled"
    """Again later, and the schedule does not count the attempt."""
    give_up = "give_up"
    aborted = "aborted"
    """The endpoint does not want this message."""
    gone = "gone"
    """The endpoint wants nothing more; the delivery stays owed."""


class Parting(enum.StrEnum):
    """How an endpoint says that it wants nothing more."""

    gone = "gone"
    disable = "disable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt met with.

    ``status`` is set once the head of an answer was read, even if ``error`` says that the rest
    went wrong; ``error`` is left None for a complete answer of whatever status. ``detail`` is a
    sentence for people, ``answer`` the bytes of the body that were read, ``answer_headers`` those of
    interest, by lower-case name. ``sent_after`` and ``answered_after`` are milliseconds from the start
    until the first byte was sent and until the head of the answer was read; None if that never was.
    """

    status: int | None = None
    error: ErrorCode | None = None
    retry_after: str | None = None
    detail: str = ""
    answer: bytes = b""
    milliseconds: float = 0.0
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    sent_after: float | None = None
    answered_after: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The next step, why in one sentence, and the code of the failure if it was one.

    ``retry_at`` is the next try of this message; ``pause_until`` holds back everything for the same
    endpoint; ``parting`` is how the endpoint took its leave, if it did.
    """

    decision: Decision
    reason: str
    error: ErrorCode | None = None
    retry_at: datetime | None = None
    pause_until: datetime | None = None
    parting: Parting | None = None


_WORDS = {
    ErrorCode.dns: "The endpoint's name could not be resolved.",
    ErrorCode.ssrf_blocked: "The endpoint's address is not one we may connect to.",
    ErrorCode.connect: "The endpoint could not be connected to.",
    ErrorCode.tls: "No trusted TLS connection could be made.",
    ErrorCode.timeout: "The endpoint took too long.",
    ErrorCode.too_large: "The endpoint's answer was too long.",
    ErrorCode.invalid_http: "The endpoint's answer was not HTTP.",
    ErrorCode.http_3xx: "The endpoint redirects, and redirects are not followed.",
    ErrorCode.http_4xx: "The endpoint refused it.",
    ErrorCode.http_429: "The endpoint asks for a slower pace.",
    ErrorCode.http_5xx: "The endpoint failed.",
    ErrorCode.challenge: "The endpoint did not answer with the challenge it was sent.",
    ErrorCode.no_secret: "The subscription's secret cannot be read here, and nothing is sent unsigned.",
    ErrorCode.internal: "The attempt failed on our side before anything was sent.",
}


def judge(
    outcome: Outcome,
    *,
    attempt: int,
    schedule: Sequence[float],
    now: datetime,
    jitter: float,
    throttled: int = 0,
    throttled_since: datetime | None = None,
) -> Verdict:
    """What an attempt means. Of these rows the first that matches wins.

    ==  ============================================  ==============================================
    1   a complete answer 200 to 299                  delivered
    2   a complete answer 410, or any complete one    gone: the endpoint wants nothing more, and the
        that says ``webhook-delivery: disable``       delivery is kept for it
    3   a complete answer that says                   aborted: the endpoint does not want this message
        ``webhook-delivery: abort-message``
    4   429, fewer than ten times and six hours       throttled: the schedule does not count the
                                                      attempt
    5   anything else, waits left in the schedule     retry, after the next wait
    6   anything else                                 give up
    ==  ============================================  ==============================================

    In rows 4 to 6 the whole endpoint waits after a complete 429, and after a complete 503 with
    ``Retry-After``: what it asks for is patience, whichever message it happened to be.

    An answer whose head said 2xx but whose body never ended, or was too long, is row 5: the
    endpoint may have taken it, and hears the same ``webhook-id`` again. ``disable`` beside a 2xx is
    row 1 and takes leave as well.

    Sources: Standard Webhooks 1.0 (410 disables, 429 throttles); CloudEvents webhooks 1.0 §4 (a 429
    with ``Retry-After`` must be observed); the header ``webhook-delivery`` is Svix's.

    Args:
        outcome: what the attempt met with.
        attempt: its number, from 1, among those the schedule counts.
        schedule: seconds to wait after the first, second, … failed attempt.
        now: when the attempt ended.
        jitter: in [0, 1); spreads a wait evenly over ±20 %, so that endpoints that failed together
            do not come back together. A wait is never shorter than a ``Retry-After``, which
            counts up to one hour.
        throttled: how many attempts of this message the schedule has forgiven so far.
        throttled_since: when the first of them was.
    """
    error = outcome.error or error_of(outcome.status)
    asked = _control(outcome)
    if error is None:  # row 1
        parting = Parting.disable if asked == "disable" else None
        return Verdict(
            Decision.delivered, f"The endpoint answered {outcome.status}.", parting=parting
        )
    reason = _sentence(outcome, error)
    if outcome.error is None and outcome.status == 410:  # row 2
        said = "The endpoint answered 410: it wants nothing more."
        return Verdict(Decision.gone, said, error=error, parting=Parting.gone)
    if asked == "disable":  # row 2
        said = f"{reason} It asked to be sent nothing more."
        return Verdict(Decision.gone, said, error=error, parting=Parting.disable)
    if asked == "abort-message":  # row 3
        return Verdict(Decision.aborted, f"{reason} It does not want this message.", error=error)
    hint = min(retry_after(outcome.retry_after, now), LONGEST_HINT)
    wait = schedule[min(attempt, len(schedule)) - 1] * (1 - JITTER + 2 * JITTER * jitter)
    retry_at = now + max(timedelta(seconds=wait), hint)
    pause: datetime | None = None
    if outcome.error is None and outcome.status == 429:
        pause = min(retry_at, now + LONGEST_HINT)
        since = throttled_since or now
        if throttled < MOST_THROTTLED and now - since < LONGEST_THROTTLED:  # row 4
            return Verdict(Decision.throttled, reason, error, retry_at=pause, pause_until=pause)
    elif outcome.error is None and outcome.status == 503 and hint:
        pause = now + hint
    if attempt <= len(schedule):  # row 5
        return Verdict(Decision.retry, reason, error, retry_at=retry_at, pause_until=pause)
    return Verdict(  # row 6
        Decision.give_up,
        f"{reason} It was attempt {attempt}, the last of the schedule.",
        error=error,
        pause_until=pause,
    )


def _control(outcome: Outcome) -> str:
    """What a complete answer asks for by ``webhook-delivery``; empty when it asks for nothing."""
    if outcome.error is not None:
        return ""
    return outcome.answer_headers.get("webhook-delivery", "").strip().lower()


def error_of(status: int | None) -> ErrorCode | None:
    """The code of a complete answer; None for success, which is 2xx and nothing else."""
    match status:
        case None:
            return ErrorCode.invalid_http
        case 429:
            return ErrorCode.http_429
        case _ if 200 <= status < 300:
            return None
        case _ if 300 <= status < 400:
            return ErrorCode.http_3xx
        case _ if 400 <= status < 500:
            return ErrorCode.http_4xx
        case _ if 500 <= status < 600:
            return ErrorCode.http_5xx
        case _:
            return ErrorCode.invalid_http


def retry_after(header: str | None, now: datetime) -> timedelta:
    """How long a ``Retry-After`` asks to wait: seconds or an HTTP date (RFC 9110 §10.2.3).

    Zero when there is none, it cannot be read, or its date has passed.
    """
    if header is None:
        return timedelta()
    text = header.strip()
    if text.isascii() and text.isdigit():
        # More digits than a century of seconds would not fit a timedelta.
        return timedelta(seconds=min(int(text[:12]), 3_155_760_000))
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # A year, an hour or an offset beyond all calendars.
        return timedelta()
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(date - now, timedelta())


def _sentence(outcome: Outcome, error: ErrorCode) -> str:
    words = outcome.detail or _WORDS[error]
    if outcome.status is None or outcome.detail:
        return words
    return f"{words} It answered {outcome.status}."
