"""Detectors: rule + window -> reading. Each is a pure function that says one thing once.

A reading that cannot be made says why (``undefined``); it is never "ok" and never infinite.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from statistics import fmean, median

from alerts.rules import (
    Band,
    Bands,
    Corroboration,
    Direction,
    EventTrigger,
    MedianOfWindow,
    PercentChange,
)
from alerts.signals import Report, Sample, Severity

TOLERANCE = 1e-9
"""Comparisons allow for this much: a change of exactly 40 % must not hang on a rounding."""

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
"""In words of our own: the standard library's follow the machine's language."""

_instant = attrgetter("at")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a detector says of one observation.

    ``raised`` is the highest band the value breaches, ``held`` the highest band whose clear it
    has not yet passed; ``bands`` the rule's severities from low to high. ``value`` is the observed
    one, or the mean where the rule averages. ``awaits`` says what a grave but uncorroborated event
    still lacks. A reading of ``Severity.none`` without ``awaits`` means nothing to report.
    """

    at: datetime
    value: float | None
    raised: Severity = Severity.none
    held: Severity = Severity.none
    compared: float | None = None
    baseline: float | None = None
    bands: tuple[Severity, ...] = ()
    undefined: str = ""
    awaits: str = ""

    @property
    def is_calm(self) -> bool:
        """Whether there is nothing to report."""
        return self.raised is Severity.none and not self.undefined and not self.awaits

    def next_below(self, severity: Severity) -> Severity:
        """The rule's next severity below the given one; none below the lowest."""
        return max((b for b in self.bands if b < severity), default=Severity.none)


def read(
    detector: Bands | PercentChange, window: Sequence[Sample], frozen_at: datetime | None = None
) -> Reading:
    """Reads the newest sample of ``window``, judged against those before it.

    Args:
        detector: what to ask.
        window: samples oldest first, the tested one last; gaps allowed; values in the
            indicator's unit. It must reach back as far as ``memory`` says.
        frozen_at: baselines use only samples before this instant (a finding's or alert's onset),
            so that a crisis does not become the new normal.
    """
    tested = window[-1]
    if isinstance(detector, Bands):
        return _compare(detector.direction, detector.bands, tested, tested.value)
    return _percent_change(detector, window, frozen_at)


def memory(detector: Bands | PercentChange) -> timedelta:
    """How far before the tested sample, or before the frozen onset, the window must reach."""
    if isinstance(detector, Bands):
        return timedelta(0)
    if isinstance(detector.baseline, MedianOfWindow):
        return timedelta(days=detector.baseline.days + detector.baseline.guard_days)
    return timedelta(days=366 + 31)


def _percent_change(
    detector: PercentChange, window: Sequence[Sample], frozen_at: datetime | None
) -> Reading:
    tested = window[-1]
    bands = tuple(sorted(b.severity for b in detector.bands))
    since = tested.at - memory(detector)
    averaged = [s.value for s in window[-detector.mean_of :] if s.at >= since]
    if len(averaged) < detector.mean_of:
        missing = f"it averages {detector.mean_of} observations and has {len(averaged)}"
        return Reading(tested.at, tested.value, bands=bands, undefined=missing)
    value = fmean(averaged) if detector.mean_of > 1 else tested.value
    if isinstance(detector.baseline, MedianOfWindow):
        earlier = len(window) - detector.mean_of
        baseline, missing = _median_before(detector.baseline, window, earlier, frozen_at)
    else:
        baseline, missing = _same_month(window, frozen_at)
    if baseline is not None and abs(baseline) < TOLERANCE:
        missing = "the baseline is zero"
    if baseline is None or missing:
        return Reading(tested.at, value, bands=bands, undefined=missing)
    change = (value - baseline) / abs(baseline)
    if not math.isfinite(change):
        return Reading(tested.at, value, bands=bands, undefined="the change is beyond all numbers")
    return _compare(detector.direction, detector.bands, Sample(tested.at, value), change, baseline)


def _median_before(
    rule: MedianOfWindow, window: Sequence[Sample], earlier: int, frozen_at: datetime | None
) -> tuple[float | None, str]:
    """The median among the first ``earlier`` samples: what is tested or averaged stays out."""
    begin, end = median_span(rule, window[-1].at, frozen_at)
    first = bisect_left(window, begin, hi=earlier, key=_instant)
    values = [s.value for s in window[first : bisect_left(window, end, hi=earlier, key=_instant)]]
    if len(values) < rule.min_observations:
        return None, (
            f"it needs {_observations(rule.min_observations)} from the {rule.days:g} days before "
            f"and has {len(values)}"
        )
    return median(values), ""


def median_span(
    rule: MedianOfWindow, tested: datetime, frozen_at: datetime | None
) -> tuple[datetime, datetime]:
    """The span whose median is the baseline; its end is not part of it."""
    end = tested - timedelta(days=rule.guard_days)
    if frozen_at is not None and frozen_at < end:
        end = frozen_at
    return end - timedelta(days=rule.days), end


def _same_month(window: Sequence[Sample], frozen_at: datetime | None) -> tuple[float | None, str]:
    tested = window[-1].at
    year = year_compared(tested, frozen_at)
    if year < 1:
        return None, "there is no year before to compare with"
    after = tested.replace(year=year, day=1, hour=0, minute=0, second=0, microsecond=0)
    after += timedelta(days=32)
    place = bisect_left(window, after.replace(day=1), hi=len(window) - 1, key=_instant) - 1
    if place >= 0 and (window[place].at.year, window[place].at.month) == (year, tested.month):
        return window[place].value, ""
    return None, f"no observation of {MONTHS[tested.month - 1]} {year} is known to compare with"


def year_compared(tested: datetime, frozen_at: datetime | None) -> int:
    """The year whose same month is the baseline: the last one that ended before the limit.

    The limit is the tested instant, or the frozen one where that is earlier: a month begun before
    a crisis is compared with its like of before, however many years that is.
    """
    limit = tested if frozen_at is None else min(tested, frozen_at)
    year = tested.year - 1
    while (year, tested.month) >= (limit.year, limit.month):
        year -= 1
    return year


def _compare(
    direction: Direction,
    bands: Sequence[Band],
    tested: Sample,
    compared: float,
    baseline: float | None = None,
) -> Reading:
    harm = direction.sign * compared
    raised = held = Severity.none
    for band in bands:
        if harm >= direction.sign * band.raise_at - TOLERANCE:
            raised = max(raised, band.severity)
        if harm > direction.sign * band.clear_at + TOLERANCE:
            held = max(held, band.severity)
    return Reading(
        tested.at,
        tested.value,
        raised=raised,
        held=held,
        compared=compared,
        baseline=baseline,
        bands=tuple(sorted(b.severity for b in bands)),
    )


def read_reports(detector: EventTrigger, reports: Sequence[Report]) -> Reading:
    """Reads the newest report of an event against those before it, oldest first.

    An official origin raises its own severity alone; others raise the highest severity up to their
    own that enough distinct parties call at least as bad. Events do not clear by being read:
    ``held`` never falls below what was raised.
    """
    newest = reports[-1]
    severity = newest.severity
    reading = Reading(newest.at, float(severity), held=Severity.extreme, bands=(severity,))
    if severity < detector.min_severity:
        return reading
    wanted = detector.corroboration
    for reached in range(severity, max(detector.min_severity, Severity.minor) - 1, -1):
        if is_corroborated(wanted, [r for r in reports if r.severity >= reached]):
            raised = Severity(reached)
            return replace(reading, raised=raised, bands=(raised,))
    lacks = (
        f"{wanted.parties} parties must report it independently within {wanted.within_days:g} days"
    )
    official = ", or one official source" if wanted.official_origins else ""
    return replace(reading, awaits=f"{lacks}{official}")


def is_corroborated(wanted: Corroboration, reports: Sequence[Report]) -> bool:
    """Whether the newest report stands: official, or told by enough distinct parties.

    Enough means: so many reports can be found of which no two share a party or an origin
    reference. So one party counts once however often it reports, and one story once however many
    repeat it (MECHANISMS invariant 7). A reporter that acts for no party counts as itself.
    Reports exactly ``within_days`` old still count.
    """
    newest = reports[-1]
    if newest.origin in wanted.official_origins:
        return True
    since = newest.at - timedelta(days=wanted.within_days)
    told: dict[str, set[str]] = {}
    for report in reports:
        if report.at >= since:
            voice = report.party or f"partner {report.partner}"
            told.setdefault(voice, set()).add(report.origin_ref or f"word of {voice}")
    return _pairs(told) >= wanted.parties


def _pairs(told: dict[str, set[str]]) -> int:
    """How many voices can each be given an origin of their own (a maximum matching)."""
    given: dict[str, str] = {}

    def finds(voice: str, asked: set[str]) -> bool:
        for origin in sorted(told[voice]):
            if origin in asked:
                continue
            asked.add(origin)
            if origin not in given or finds(given[origin], asked):
                given[origin] = voice
                return True
        return False

    return sum(finds(voice, set()) for voice in sorted(told))


def _observations(count: int) -> str:
    return f"{count} observation{'' if count == 1 else 's'}"
