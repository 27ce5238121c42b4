"""What attempts mean for their endpoint: breaker, suspension, and what its owner must be told.

The whole machine is :func:`advance`. It sees every recorded attempt of an endpoint in order and
gives the endpoint's new health and, where something must happen, a parting or a notice.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from alerts.retries import Decision, ErrorCode, Verdict


class EndpointEvent(enum.StrEnum):
    """What the owner of an endpoint hears about it, at the other endpoints it has."""

    failing = "endpoint.failing"
    suspended = "endpoint.suspended"
    recovered = "endpoint.recovered"


class Suspension(enum.StrEnum):
    """Why the service stopped sending to an endpoint."""

    gone = "gone"
    disable = "disable"
    auth = "auth"
    failing = "failing"


WORDS = {
    Suspension.gone: "gone: the endpoint answered 410",
    Suspension.disable: "disable: the endpoint asked to be sent nothing more",
    Suspension.auth: "auth: the endpoint refused three messages in a row with 401 or 403",
    Suspension.failing: "failing: nothing was delivered for days",
}

# Faults of ours say nothing about the endpoint (hookdeck/outpost#571).
_OURS = frozenset({ErrorCode.internal, ErrorCode.no_secret})


@dataclass(frozen=True, slots=True)
class Patience:
    """The numbers of the machine. Source of the defaults: a comparison of what senders do and their
    users ask for; Svix's hosted rule (two messages half a day apart) keeps one quiet weekend's
    failure from suspending.

    Attributes:
        in_a_row: failures in a row that open the breaker.
        share: of failures among at least ``attempts`` within ``window`` that opens it.
        attempts: see ``share``.
        window: see ``share``; counted from its first attempt, then anew.
        open_for: how long it opens first; each failed probe doubles that.
        longest_open: up to this long.
        refused: different messages in a row answered 401 or 403 that suspend.
        suspend_after: without one success, given that two different messages failed at least
            ``apart`` from each other.
        apart: see ``suspend_after``.
        notices: percent of ``suspend_after`` at which the owner is told.
    """

    in_a_row: int = 10
    share: float = 0.7
    attempts: int = 10
    window: timedelta = timedelta(minutes=5)
    open_for: timedelta = timedelta(seconds=30)
    longest_open: timedelta = timedelta(minutes=10)
    refused: int = 3
    suspend_after: timedelta = timedelta(days=5)
    apart: timedelta = timedelta(hours=12)
    notices: Sequence[int] = (50, 70, 90)


@dataclass(frozen=True, slots=True)
class Health:
    """What an endpoint has been through; a new one has been through nothing.

    Attributes:
        failures: in a row.
        failing_since: the first of them.
        first_failed: the delivery of the first of them.
        failed_apart: a different delivery failed long enough after it.
        last_error: what the last failure was, for people.
        refused: different deliveries in a row answered 401 or 403.
        window_began: the first attempt of the window in which failures are counted.
        window_attempts: in that window.
        window_failed: in that window.
        open_until: nothing is sent before; None while the breaker is closed.
        open_for: the breaker's last opening, in seconds; 0 while it is closed.
        pause_until: nothing is sent before, because the endpoint asked for patience.
        noticed: whether the owner was told that it fails: 0 no, else the percent told last, at least 1.
    """

    failures: int = 0
    failing_since: datetime | None = None
    first_failed: int | None = None
    failed_apart: bool = False
    last_error: str = ""
    refused: tuple[int, ...] = ()
    window_began: datetime | None = None
    window_attempts: int = 0
    window_failed: int = 0
    open_until: datetime | None = None
    open_for: float = 0.0
    pause_until: datetime | None = None
    noticed: int = 0

    @property
    def not_before(self) -> datetime | None:
        """The earliest instant of the next attempt; None for at once."""
        return max((at for at in (self.open_until, self.pause_until) if at), default=None)

    @property
    def at_once(self) -> int | None:
        """How many attempts may be under way: one while it fails, None for as many as usual."""
        return 1 if self.failures else None


@dataclass(frozen=True, slots=True)
class Seen:
    """One attempt as its endpoint's machine sees it; ``status`` is None without a complete answer."""

    delivery: int
    at: datetime
    verdict: Verdict
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the owner must be told, and why in one sentence; ``percent`` of the way to suspension."""

    type: EndpointEvent
    reason: str
    percent: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The endpoint after an attempt; ``suspends`` and ``notices`` are empty when nothing follows."""

    health: Health
    suspends: Suspension | None = None
    notices: tuple[Notice, ...] = ()


def advance(health: Health, seen: Seen, patience: Patience) -> Step:
    """What an attempt means for its endpoint. Of these cases the first that matches wins.

    1. A fault of ours: nothing. It says nothing about the endpoint.
    2. Throttled: everything waits; to ask for patience is no failure.
    3. Success: the breaker closes, failures are forgotten, and an owner who was told hears of it.
       A success that takes leave suspends.
    4. A failure: counted; then
       a. it took leave (410, ``disable``): suspended.
       b. three different messages in a row were refused with 401 or 403: suspended.
       c. nothing was delivered for days, and two messages half a day apart failed: suspended.
       d. a probe of an open breaker failed: it opens again, for twice as long.
       e. too many failures in a row, or in the window: the breaker opens, and the owner is told.
       f. on the way to c the owner is told at 50, 70 and 90 %.

    An attempt that ended while the breaker was open had begun before: it is counted and opens
    nothing.
    """
    verdict = seen.verdict
    if verdict.error in _OURS:
        return Step(health)
    if verdict.decision is Decision.throttled:
        return Step(replace(health, pause_until=_later(health.pause_until, verdict.pause_until)))
    if verdict.decision is Decision.delivered:
        return _succeeded(health, seen, patience)
    return _failed(health, seen, patience)


def _succeeded(health: Health, seen: Seen, patience: Patience) -> Step:
    since = health.failing_since
    was_open = health.open_until is not None
    well = replace(
        Health() if was_open else _counted(health, seen.at, patience, failed=False),
        pause_until=health.pause_until,
        last_error=health.last_error,
        failures=0,
        failing_since=None,
        first_failed=None,
        failed_apart=False,
        refused=(),
        noticed=0,
    )
    notices: tuple[Notice, ...] = ()
    if health.noticed and since is not None:
        reason = f"The endpoint answers again after {_words(seen.at - since)}."
        notices = (Notice(EndpointEvent.recovered, reason),)
    if seen.verdict.parting is not None:
        return _suspend(well, Suspension(seen.verdict.parting.value), notices)
    return Step(well, notices=notices)


def _failed(health: Health, seen: Seen, patience: Patience) -> Step:
    verdict = seen.verdict
    first = health.failing_since is None
    after = replace(
        _counted(health, seen.at, patience, failed=True),
        failures=health.failures + 1,
        failing_since=min(health.failing_since or seen.at, seen.at),
        first_failed=seen.delivery if first else health.first_failed,
        last_error=verdict.reason,
        refused=_refused(health.refused, seen),
        pause_until=_later(health.pause_until, verdict.pause_until),
    )
    assert after.failing_since is not None
    failing_for = seen.at - after.failing_since
    if seen.delivery != after.first_failed and failing_for >= patience.apart:
        after = replace(after, failed_apart=True)
    if verdict.parting is not None:  # a
        return _suspend(after, Suspension(verdict.parting.value))
    if len(after.refused) >= patience.refused:  # b
        return _suspend(after, Suspension.auth)
    if after.failed_apart and failing_for >= patience.suspend_after:  # c
        return _suspend(after, Suspension.failing)
    opened = _opened(after, seen.at, patience)
    return _noticed(opened, failing_for, verdict.reason, patience)


def _refused(before: tuple[int, ...], seen: Seen) -> tuple[int, ...]:
    if seen.status not in {401, 403}:
        return ()
    return before if seen.delivery in before else (*before, seen.delivery)


def _counted(health: Health, at: datetime, patience: Patience, *, failed: bool) -> Health:
    """The window with one more attempt in it, or a new one that begins with it.

    One that began later than this attempt was begun by a clock that ran ahead.
    """
    began = health.window_began
    if began is None or not began <= at < began + patience.window:
        return replace(health, window_began=at, window_attempts=1, window_failed=int(failed))
    return replace(
        health,
        window_attempts=health.window_attempts + 1,
        window_failed=health.window_failed + failed,
    )


def _opened(health: Health, at: datetime, patience: Patience) -> Health:
    """The breaker after a failure."""
    if health.open_until is not None:
        if at < health.open_until:
            return health
        span = min(timedelta(seconds=health.open_for) * 2, patience.longest_open)  # d
        return replace(health, open_until=at + span, open_for=span.total_seconds())
    many = (
        health.window_attempts >= patience.attempts
        and health.window_failed >= patience.share * health.window_attempts
    )
    if health.failures < patience.in_a_row and not many:
        return health
    span = patience.open_for  # e
    return replace(health, open_until=at + span, open_for=span.total_seconds())


def _noticed(health: Health, failing_for: timedelta, reason: str, patience: Patience) -> Step:
    """Tells the owner when the breaker has opened, and on the way to a suspension."""
    reached = max(
        (p for p in patience.notices if failing_for >= patience.suspend_after * p / 100), default=0
    )
    if reached > health.noticed:
        told = f"Nothing was delivered for {_words(failing_for)}, {reached} % of the way to a suspension."
        notice = Notice(EndpointEvent.failing, f"{told} {reason}", reached)
        return Step(replace(health, noticed=reached), notices=(notice,))
    if health.open_until is not None and not health.noticed:
        told = f"{health.failures} attempts in a row failed; it is tried less often now."
        notice = Notice(EndpointEvent.failing, f"{told} {reason}")
        return Step(replace(health, noticed=1), notices=(notice,))
    return Step(health)


def _suspend(health: Health, why: Suspension, before: tuple[Notice, ...] = ()) -> Step:
    said = WORDS[why]
    notice = Notice(EndpointEvent.suspended, f"{said[0].upper()}{said[1:]}.", 100)
    return Step(Health(last_error=health.last_error), why, (*before, notice))


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _words(span: timedelta) -> str:
    """A span in its greatest unit: 5 days, 3 hours, 20 minutes."""
    for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(span.total_seconds() // seconds)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def document_of(health: Health) -> dict[str, Any]:
    """Health as JSON-ready values, with only what is not as in a new one."""
    fresh = Health()
    found: dict[str, Any] = {}
    for name in Health.__dataclass_fields__:
        value = getattr(health, name)
        if value != getattr(fresh, name):
            found[name] = value.isoformat() if isinstance(value, datetime) else value
    return found


def health_of(document: Mapping[str, Any]) -> Health:
    """Health from what ``document_of`` gave."""
    known = {name: value for name, value in document.items() if name in Health.__dataclass_fields__}
    for name in _INSTANTS & known.keys():
        known[name] = datetime.fromisoformat(known[name])
    if "refused" in known:
        known["refused"] = tuple(known["refused"])
    return Health(**known)


SPANS = (
    "window_began", "window_attempts", "window_failed", "open_until", "open_for", "pause_until",
)  # fmt: skip
"""What of a document of health is measured from attempts just made, and worth nothing when their clock was
wrong."""

_INSTANTS = frozenset({"failing_since", "window_began", "open_until", "pause_until"})
