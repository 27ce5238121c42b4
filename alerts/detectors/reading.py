"""What a detector says once, and how a value is compared with bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from alerts.rules import Band, Direction
from alerts.signals import Sample, Severity

TOLERANCE = 1e-9
"""Comparisons allow for this much: a change of exactly 40 % must not hang on a rounding."""

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
"""In words of our own: the standard library's follow the machine's language."""

BEYOND = "the result is beyond all numbers"
"""Why a reading is undefined whose numbers overflow."""


class Reach(NamedTuple):
    """How far a window must reach before the tested sample, or before the frozen onset.

    Back over ``span``, and over at least ``observations`` samples, whichever is further.
    """

    span: timedelta = timedelta(0)
    observations: int = 0


class Measure(NamedTuple):
    """One number behind a reading, beside the threshold it was held against, where there is one."""

    name: str
    value: float
    limit: float | None = None


class Reading(NamedTuple):
    """What a detector says of one observation.

    ``raised`` is the highest band the value breaches, ``held`` the highest band whose clear it
    has not yet passed; ``bands`` the rule's severities from low to high. ``value`` is the observed
    one, or the mean where the rule averages. ``awaits`` says what a grave but uncorroborated event
    still lacks; ``measures`` are the numbers behind it. A reading of ``Severity.none`` without
    ``awaits`` means nothing to report.
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
    measures: tuple[Measure, ...] = ()

    @property
    def is_calm(self) -> bool:
        """Whether there is nothing to report."""
        return self.raised is Severity.none and not self.undefined and not self.awaits

    def next_below(self, severity: Severity) -> Severity:
        """The rule's next severity below the given one; none below the lowest."""
        return max((b for b in self.bands if b < severity), default=Severity.none)


def compare(
    direction: Direction,
    bands: Sequence[Band],
    tested: Sample,
    compared: float,
    baseline: float | None = None,
    measures: tuple[Measure, ...] = (),
) -> Reading:
    """The reading of a number that bands can judge; ``tested`` is what was observed.

    Numbers that overflowed on the way make it undefined.
    """
    isfinite = math.isfinite
    are_finite = isfinite(compared) and isfinite(tested.value) and isfinite(baseline or 0.0)
    if not are_finite or not all(map(_is_finite, measures)):
        return undefined(bands, tested, BEYOND)
    sign = direction.sign
    harm = sign * compared
    raised = held = Severity.none
    for band in bands:
        if harm >= sign * band.raise_at - TOLERANCE:
            raised = max(raised, band.severity)
        if harm > sign * band.clear_at + TOLERANCE:
            held = max(held, band.severity)
    return Reading(
        tested.at,
        tested.value,
        raised=raised,
        held=held,
        compared=compared,
        baseline=baseline,
        bands=_severities(bands),
        measures=measures,
    )


def undefined(bands: Sequence[Band], tested: Sample, why: str) -> Reading:
    """A reading that cannot be made, and why in words."""
    value = tested.value if math.isfinite(tested.value) else None
    return Reading(tested.at, value, bands=_severities(bands), undefined=why)


def _is_finite(measure: Measure) -> bool:
    return math.isfinite(measure.value) and math.isfinite(measure.limit or 0.0)


def _severities(bands: Sequence[Band]) -> tuple[Severity, ...]:
    return tuple(sorted(b.severity for b in bands))
