"""What is drawn of a series: its values, what a rule compared them with, and the rule's lines.

The engine's own detectors say what each value was compared with, so the picture cannot disagree
with the judgement.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from alerts import detectors
from alerts.detectors.agreement import Views
from alerts.rules import Agreement, Bands, Measured, PercentChange, Rule, ZScore
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


def since(rule: Rule | None, opened_at: datetime, every: timedelta) -> datetime:
    """From when on a series is read for the picture of an alert that opened then.

    ``every`` is the usual gap between its observations.
    """
    if rule is None or not isinstance(rule.detector, Measured):
        return opened_at - BEFORE_THE_ALERT
    span, observations = detectors.reach(rule.detector)
    try:
        return opened_at - max(span, BEFORE_THE_ALERT + observations * every)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def draw(
    rule: Rule | None,
    samples: Sequence[Sample],
    frozen: tuple[datetime, datetime | None] | None,
    *,
    series: SeriesId,
    title: str,
    unit: str,
    place: str = "",
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
        place: where it is observed.
        shown_since: older samples serve as baseline only.
        marks: the observations that moved the alert, by transition number.
    """
    begin = bisect_left([s.at for s in samples], shown_since) if shown_since else 0
    begin = max(begin, len(samples) - POINTS_SHOWN)
    detector = rule.detector if rule else None
    shown = samples[begin:]
    if not isinstance(detector, Measured):
        points = tuple(Point(s.at, s.value) for s in shown)
        return Plot(series, title, unit, points, marks=marks)
    if isinstance(detector, Bands):
        points = tuple(Point(s.at, s.value, compared=s.value) for s in shown)
    else:
        views, first = detectors.views_of(detector), 0 if _remembers(detector) else begin
        read = [
            _compared(detector, samples[: n + 1], frozen, place, views)
            for n in range(first, len(samples))
        ]
        points = tuple(read[begin - first :])
    # Of other detectors the limits are in a unit of their own, which the picture's axis is not.
    has_lines = isinstance(detector, Bands | PercentChange)
    lines = (
        Line(b.severity, b.raise_at, b.clear_at)
        for b in sorted(detector.bands, key=lambda b: b.severity)
        if has_lines
    )
    is_frozen = frozen is not None and not isinstance(detector, Bands)
    return Plot(
        series,
        title,
        unit,
        points,
        tuple(lines),
        relative=isinstance(detector, PercentChange),
        frozen_at=frozen[0] if frozen is not None and is_frozen else None,
        mean_of=_mean_of(detector),
        downward=detector.direction.sign < 0,
        marks=marks,
    )


def _compared(
    detector: Measured,
    window: Sequence[Sample],
    frozen: tuple[datetime, datetime | None] | None,
    place: str,
    views: Views | None,
) -> Point:
    tested = window[-1]
    frozen_at = None
    if frozen and frozen[0] < tested.at and (frozen[1] is None or tested.at <= frozen[1]):
        frozen_at = frozen[0]
    reading = detectors.read(detector, window, frozen_at, place=place, views=views)
    mean_of = _mean_of(detector)
    mean = reading.value if mean_of > 1 and len(window) >= mean_of else None
    return Point(tested.at, tested.value, mean, reading.baseline, reading.compared)


def _mean_of(detector: Measured) -> int:
    """How many newest observations a detector averages before it compares."""
    return detector.mean_of if isinstance(detector, PercentChange | ZScore | Agreement) else 1


def _remembers(detector: Measured) -> bool:
    """Whether a detector must be shown every sample, not only those drawn."""
    return isinstance(detector, Agreement)
