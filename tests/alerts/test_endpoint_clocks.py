"""An endpoint's machine under a clock that jumped: what was counted in the future is not believed later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from alerts.endpoints import Health, Patience, Seen, Step, advance
from alerts.retries import Decision, ErrorCode, Verdict

NOW = datetime(2026, 3, 7, 9, 30, tzinfo=UTC)
AHEAD = NOW + timedelta(days=40)
PATIENCE = Patience()


def _fails(health: Health, delivery: int, at: datetime) -> Step:
    verdict = Verdict(Decision.retry, "It failed.", error=ErrorCode.connect)
    return advance(health, Seen(delivery, at, verdict), PATIENCE)


def test_a_window_that_began_in_the_future_is_not_counted_in_for_weeks() -> None:
    ahead = _fails(Health(), 1, AHEAD).health
    assert ahead.window_began == AHEAD
    right = _fails(ahead, 1, NOW).health
    assert (right.window_began, right.window_attempts) == (NOW, 1)


def test_a_first_failure_in_the_future_does_not_keep_an_endpoint_from_being_suspended() -> None:
    """It fails since the earliest of its failures, in whatever order the clock had them."""
    health = _fails(_fails(Health(), 1, AHEAD).health, 1, NOW).health
    assert health.failing_since == NOW
    later = _fails(health, 2, NOW + timedelta(days=5))
    assert later.suspends is not None
