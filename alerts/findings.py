"""Machine A: one rule on one series over time.

    ok -> pending -> firing(severity) -> recovering -> ok
    beside them: stale, no_data (silence), not_evaluable (nothing to compare with)

Severity rises at once and falls one band at a time. Silence and undefined readings keep it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from alerts.detectors.reading import Measure, Reading
from alerts.rules import CarryOver, Freshness, Rule
from alerts.signals import Severity


class State(enum.StrEnum):
    """Where a finding stands."""

    ok = "ok"
    pending = "pending"
    firing = "firing"
    recovering = "recovering"
    stale = "stale"
    no_data = "no_data"
    not_evaluable = "not_evaluable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's view of one series, after the newest reading.

    ``onset`` is the observation at which it left ok; baselines are frozen there. ``since`` is when
    it entered its state; of a firing event, when it was last told with effect. ``raise_run`` and
    ``clear_run`` count consecutive observations beyond the raise and past the clear; ``ok_run``
    counts observations since ``ok_since``, when a fired finding came back to ok; of an event it is
    when the alert that it fed was resolved: what was reported until then is over. ``value`` is in
    the indicator's unit, ``compared`` what the bands were compared with, ``baseline`` the frozen
    or moving baseline where there is one; ``measures`` the numbers behind it.
    """

    state: State = State.ok
    severity: Severity = Severity.none
    onset: datetime | None = None
    since: datetime | None = None
    observed_at: datetime | None = None
    value: float | None = None
    compared: float | None = None
    baseline: float | None = None
    raise_run: int = 0
    clear_run: int = 0
    ok_since: datetime | None = None
    ok_run: int = 0
    reason: str = ""
    measures: tuple[Measure, ...] = ()

    @property
    def fires(self) -> bool:
        """Whether it holds a severity, in whatever state silence has put it."""
        return self.severity > Severity.none

    @property
    def is_quiet(self) -> bool:
        """Whether nothing about it needs remembering."""
        return self.state is State.ok and not self.raise_run and self.ok_since is None


QUIET = Finding()


def advance(rule: Rule, finding: Finding, reading: Reading) -> Finding:
    """The finding after one more reading, which must be newer than its last.

    Exactly one case applies:

    1. the reading is undefined: not_evaluable; severity and runs stay as they were
    2. it breaches a higher band than the present severity: severity rises, at once when firing,
       after ``raise_after`` consecutive breaches when not (pending until then)
    3. it is past the clear of the present band: one more towards ``clear_after``; then the
       severity falls one band, and to ok below the lowest
    4. it fires and is neither: the severity holds and the way down starts again
    5. nothing fires, but an event awaits corroboration: pending
    6. nothing fires and nothing is breached: ok
    """
    seen = replace(
        finding,
        observed_at=reading.at,
        value=reading.value,
        compared=reading.compared,
        baseline=reading.baseline,
        reason=reading.undefined,
        measures=reading.measures,
    )
    if reading.undefined:  # case 1
        return _enter(seen, State.not_evaluable, reading.at)
    if reading.raised > finding.severity:  # case 2
        return _rise(rule, seen, reading)
    if finding.fires and reading.held < finding.severity:  # case 3
        return _ease(rule, seen, reading)
    if finding.fires:  # case 4
        held = _enter(seen, State.firing, reading.at, raise_run=0, clear_run=0)
        return _told(rule, held, reading)
    if reading.awaits:  # case 5
        return _enter(seen, State.pending, reading.at, reason=reading.awaits)
    # case 6
    ok_run = seen.ok_run + 1 if seen.ok_since else 0
    return _enter(seen, State.ok, reading.at, raise_run=0, clear_run=0, onset=None, ok_run=ok_run)


def _rise(rule: Rule, seen: Finding, reading: Reading) -> Finding:
    onset = seen.onset or reading.at
    run = seen.raise_run + 1
    if not seen.fires and run < rule.raise_after:
        return _enter(seen, State.pending, reading.at, raise_run=run, onset=onset)
    is_over = rule.is_event and seen.ok_since is not None and seen.ok_since < reading.at
    risen = _enter(
        seen,
        State.firing,
        reading.at,
        severity=reading.raised,
        onset=onset,
        raise_run=0,
        clear_run=0,
        ok_since=seen.ok_since if is_over else None,
        ok_run=0,
    )
    return _told(rule, risen, reading)


def _told(rule: Rule, finding: Finding, reading: Reading) -> Finding:
    """An event told again is an event anew: a recovery measured before does not answer it."""
    if rule.is_event and reading.raised:
        return replace(finding, since=reading.at)
    return finding


def _ease(rule: Rule, seen: Finding, reading: Reading) -> Finding:
    run = seen.clear_run + 1
    if run < rule.clear_after:
        return _enter(seen, State.recovering, reading.at, clear_run=run, raise_run=0)
    lower = reading.next_below(seen.severity)
    eased = {"severity": lower, "clear_run": 0, "raise_run": 0}
    if lower is not Severity.none:
        return _enter(seen, State.firing, reading.at, **eased)
    return _enter(seen, State.ok, reading.at, **eased, onset=None, ok_since=reading.at, ok_run=1)


def carried(rule: Rule, finding: Finding, version: int) -> Finding:
    """A finding kept by another version of its rule, as this version takes it over.

    What is carried over goes on as it is, and so does an event: what was told stays told. What
    begins afresh is ok since its last observation: an alert it fed can close on fresh
    observations, and a breach that goes on raises it anew.
    """
    if version == rule.version or rule.carry_over is CarryOver.keep or rule.is_event:
        return finding
    seen = finding.observed_at
    fed = finding.fires or finding.ok_since is not None
    since = seen if fed else None
    return Finding(since=seen, observed_at=seen, value=finding.value, ok_since=since)


def fall_silent(freshness: Freshness, finding: Finding, last: datetime, now: datetime) -> Finding:
    """The finding when nothing has been observed since ``last``; severity never changes.

    Silence exactly as long as a limit is not yet beyond it.
    """
    silent_for = now - last
    if silent_for > timedelta(days=freshness.no_data_after_days):
        state = State.no_data
    elif silent_for > timedelta(days=freshness.stale_after_days):
        state = State.stale
    else:
        return finding
    if finding.state is state:
        return finding
    said = f"nothing observed since {last:%Y-%m-%d}"
    seen = finding.observed_at or last
    return replace(finding, state=state, since=now, observed_at=seen, reason=said)


def _enter(finding: Finding, state: State, at: datetime, **changes: Any) -> Finding:
    """The finding in that state, since then if it was in another, and with what changes besides."""
    if finding.state is not state or finding.since is None:
        changes |= {"state": state, "since": at}
    return replace(finding, **changes) if changes else finding
