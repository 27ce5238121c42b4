"""What is drawn of a series: its values, what a rule compared them with, and the rule's lines.

The engine's own detectors say what each value was compared with, so the picture cannot disagree
with the judgement.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from alerts import detectors
from alerts.rules import Bands, PercentChange, Rule
from alerts.signals import Sample, SeriesId, Severity

POINTS_SHOWN = 3_000
BEFORE_THE_ALERT = timedelta(days=183)


@dataclass(frozen=True, slots=True)
class Line:
    """A severity's line: raised at one value and cleared at the other, in ``Plot``'s terms."""

    severity: Severity
    raise_at: float
    clear_at: float


@dataclass(frozen=True, slots=True)
class Point:
    """One observation. ``mean`` is what is compared when a rule averages several."""

    at: datetime
    value: float
    mean: float | None = None
    baseline: float | None = None
    compared: float | None = None


@dataclass(frozen=True, slots=True)
class Plot:
    """One series as one rule sees it, points oldest first.

    ``relative`` lines are fractions of each point's own baseline, the others values in ``unit``.
    """

    series: SeriesId
    title: str
    unit: str
    points: tuple[Point, ...]
    lines: tuple[Line, ...] = ()
    relative: bool = False
    frozen_at: datetime | None = None
    mean_of: int = 1
    downward: bool = False
    marks: Mapping[datetime, int] | None = None


def since(rule: Rule | None, opened_at: datetime) -> datetime:
    """From when on a series is read for the picture of an alert that opened then."""
    return opened_at - max(_memory(rule), BEFORE_THE_ALERT)


def draw(
    rule: Rule | None,
    samples: Sequence[Sample],
    frozen: tuple[datetime, datetime | None] | None,
    *,
    series: SeriesId,
    title: str,
    unit: str,
    shown_since: datetime | None = None,
    marks: Mapping[datetime, int] | None = None,
) -> Plot:
    """The picture of a series.

    Args:
        rule: whose lines are drawn; None, or a rule of events, draws the values alone.
        samples: oldest first, reaching back as far as ``since`` says.
        frozen: from when and until when the alert froze the baseline; no end while it is open.
        series: its id.
        title: its title.
        unit: of its values.
        shown_since: older samples serve as baseline only.
        marks: the observations that moved the alert, by transition number.
    """
    begin = bisect_left([s.at for s in samples], shown_since) if shown_since else 0
    begin = max(begin, len(samples) - POINTS_SHOWN)
    detector = rule.detector if rule else None
    shown = samples[begin:]
    if not isinstance(detector, Bands | PercentChange):
        points = tuple(Point(s.at, s.value) for s in shown)
        return Plot(series, title, unit, points, marks=marks)
    lines = tuple(
        Line(b.severity, b.raise_at, b.clear_at)
        for b in sorted(detector.bands, key=lambda b: b.severity)
    )
    if isinstance(detector, Bands):
        points = tuple(Point(s.at, s.value, compared=s.value) for s in shown)
    else:
        points = tuple(
            _compared(detector, samples[: begin + n + 1], frozen) for n in range(len(shown))
        )
    return Plot(
        series,
        title,
        unit,
        points,
        lines,
        relative=isinstance(detector, PercentChange),
        frozen_at=frozen[0] if frozen and isinstance(detector, PercentChange) else None,
        mean_of=detector.mean_of if isinstance(detector, PercentChange) else 1,
        downward=detector.direction.sign < 0,
        marks=marks,
    )


def _compared(
    detector: PercentChange,
    window: Sequence[Sample],
    frozen: tuple[datetime, datetime | None] | None,
) -> Point:
    tested = window[-1]
    frozen_at = None
    if frozen and frozen[0] < tested.at and (frozen[1] is None or tested.at <= frozen[1]):
        frozen_at = frozen[0]
    reading = detectors.read(detector, window, frozen_at)
    mean = reading.value if detector.mean_of > 1 and len(window) >= detector.mean_of else None
    return Point(tested.at, tested.value, mean, reading.baseline, reading.compared)


def _memory(rule: Rule | None) -> timedelta:
    if rule is None or not isinstance(rule.detector, Bands | PercentChange):
        return timedelta()
    return detectors.memory(rule.detector)
