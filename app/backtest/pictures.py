"""Draws what a backtest found as SVG: misses and false episodes, and the points of a sweep.

A picture is text alone: it needs no script, takes its colours from where it stands, and says in
words what it shows. Every line differs from the others by its dashes too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from html import escape
from typing import NamedTuple

from alerts import detectors
from alerts.catalogue import Catalogue
from alerts.mechanisms import Profile
from alerts.rules import Bands, Measured, PercentChange, Rule, Transform
from alerts.signals import Sample, SeriesKey
from alerts.skill import Label, Outcome, Score, Verdict, Watched
from app.backtest.reading import series_name

AT_MOST = 200
"""So many pictures are drawn; of more the report says so."""

PERIODS_BEFORE = 180
PERIODS_AFTER = 90
POINTS_DRAWN = 600

WIDTH, HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 14, 34

STYLE = (
    "text{font:12px system-ui,sans-serif;fill:currentColor}"
    ".value{fill:none;stroke:currentColor;stroke-width:1.5}"
    ".baseline{fill:none;stroke:#1f77b4;stroke-width:1.5;stroke-dasharray:6 3}"
    ".raises{fill:none;stroke:#c2410c;stroke-width:1.5;stroke-dasharray:2 3}"
    ".window{fill:#1f77b4;fill-opacity:.13}.control{fill:#6b7280;fill-opacity:.2}"
    ".opening{stroke:#c2410c;stroke-width:2}.episode{fill:#c2410c;fill-opacity:.12}"
    ".axis{stroke:currentColor;stroke-opacity:.35}.point{fill:#1f77b4}"
)
"""The colours of lines; blue and orange hold on light and on dark ground."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A picture to draw: of which series, between which days, and what is marked in it.

    ``kind`` is miss or false. Samples are read from ``reads_from``, where baselines begin.
    """

    number: int
    kind: str
    title: str
    series: SeriesKey
    reads_from: datetime
    since: datetime
    until: datetime
    opened: datetime | None = None
    resolved: datetime | None = None
    rule: str = ""
    windows: tuple[Label, ...] = ()


class Drawn(NamedTuple):
    """One observation, what it was compared with, and from where on the rule raises."""

    at: datetime
    value: float
    baseline: float | None = None
    raises: float | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A series around a miss or a false episode."""

    number: int
    wanted: Wanted
    unit: str
    rule: str
    points: tuple[Drawn, ...]

    @property
    def said(self) -> str:
        """What it shows, in a sentence."""
        one, points = self.wanted, self.points
        if not points:
            return f"{series_name(one.series)}: nothing was observed."
        fired = f"It turned on at {one.opened:%Y-%m-%d}." if one.opened else "No warning of it."
        return (
            f"{series_name(one.series)} from {points[0].at:%Y-%m-%d} to {points[-1].at:%Y-%m-%d}, "
            f"in {self.unit or 'its own unit'}. {fired}"
        )


def wanted(
    profile: Profile, score: Score, series: Iterable[Watched], labels: Sequence[Label]
) -> list[Wanted]:
    """The pictures of a score, misses before false episodes, each in order of time."""
    watched = {w.key: w for w in series}
    found: list[Wanted] = []

    def add(kind: str, title: str, series: SeriesKey, span: _Span, rule: str = "") -> None:
        gap = _gap(watched[series])
        since, until = span.begin - PERIODS_BEFORE * gap, span.end + PERIODS_AFTER * gap
        about = tuple(label for label in labels if label.is_about(series))
        asked = _asked(profile, series, rule)
        back = _reach(asked, timedelta(days=watched[series].every_days))
        reads_from = since - back if since - _EARLIEST > back else _EARLIEST
        place, rule = len(found), asked.id if asked else ""
        found.append(
            Wanted(
                place,
                kind,
                title,
                series,
                reads_from,
                since,
                until,
                span.opened,
                span.resolved,
                rule,
                about,
            )
        )

    for pair in score.pairs:
        if pair.outcome is Outcome.miss:
            label, gap = pair.label, _gap(watched[pair.series])
            end = min(label.end or date.max, label.start + 365 * gap)
            title = f"Missed: {label.id} {label.title}".strip()
            add("miss", title, pair.series, _Span(_midnight(label.window[0]), _midnight(end)))
    for judged in score.episodes:
        if judged.verdict is Verdict.false:
            episode = judged.episode
            its = watched[episode.series]
            end_at = min(episode.resolved or its.last, episode.opened + PERIODS_AFTER * _gap(its))
            title = f"False: {episode.opened:%Y-%m-%d}, {series_name(episode.series)}"
            span = _Span(episode.opened, end_at, episode.opened, episode.resolved)
            add("false", title, episode.series, span, episode.rules[0] if episode.rules else "")
    return found[:AT_MOST]


class _Span(NamedTuple):
    begin: datetime
    end: datetime
    opened: datetime | None = None
    resolved: datetime | None = None


def _gap(series: Watched) -> timedelta:
    """What one step to the side is; of a series by the minute not so little."""
    return timedelta(days=max(series.every_days, 1 / 24))


def _asked(profile: Profile, series: SeriesKey, rule: str) -> Rule | None:
    """The rule whose view is drawn: the one named, or the first that reads the series."""
    rules = [r for r in profile.rules if r.asks(series) and isinstance(r.detector, Measured)]
    return next((r for r in rules if r.id == rule), rules[0] if rules else None)


def _reach(rule: Rule | None, gap: timedelta) -> timedelta:
    if rule is None or not isinstance(rule.detector, Measured):
        return timedelta(0)
    span, observations = detectors.reach(rule.detector)
    return span + observations * gap * 1.5


_EARLIEST = datetime(1, 1, 2, tzinfo=UTC)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def draw(one: Wanted, profile: Profile, catalogue: Catalogue, samples: Sequence[Sample]) -> Picture:
    """The picture of some samples, oldest first, as a rule of the profile sees them."""
    rule = _asked(profile, one.series, one.rule)
    indicator = catalogue.indicators.get(one.series.indicator)
    points = _read(rule, samples, one)
    unit = indicator.unit if indicator else ""
    return Picture(one.number, one, unit, rule.title if rule else "", _thinned(points))


def _read(rule: Rule | None, samples: Sequence[Sample], one: Wanted) -> list[Drawn]:
    detector = rule.detector if rule else None
    if not isinstance(detector, Measured):
        return [Drawn(s.at, s.value) for s in samples if s.at >= one.since]
    if isinstance(detector, Bands):
        raises = min(detector.bands, key=lambda b: b.severity).raise_at
        return [Drawn(s.at, s.value, None, raises) for s in samples if s.at >= one.since]
    transform = getattr(detector, "transform", Transform.identity)
    views, window, points = detectors.views_of(detector), list[Sample](), list[Drawn]()
    for sample in samples:
        window.append(sample)
        if sample.at < one.since and views is None:
            continue
        frozen = one.opened if one.opened and one.opened < sample.at else None
        if frozen and one.resolved and sample.at > one.resolved:
            frozen = None
        reading = detectors.read(detector, window, frozen, place=one.series.place, views=views)
        if sample.at < one.since:
            continue
        baseline = reading.baseline if transform is Transform.identity else None
        line = None
        if baseline is not None and isinstance(detector, PercentChange):
            lowest = min(detector.bands, key=lambda b: b.severity).raise_at
            line = baseline + lowest * abs(baseline)
        points.append(Drawn(sample.at, sample.value, baseline, line))
    return points


def _thinned(points: Sequence[Drawn]) -> tuple[Drawn, ...]:
    """At most ``POINTS_DRAWN`` points: of each stretch the lowest and the highest."""
    if len(points) <= POINTS_DRAWN:
        return tuple(points)
    size = -(-len(points) // (POINTS_DRAWN // 2))
    kept: list[Drawn] = []
    for begin in range(0, len(points), size):
        stretch = points[begin : begin + size]
        ends = {min(stretch, key=lambda p: p.value), max(stretch, key=lambda p: p.value)}
        kept += sorted(ends, key=lambda p: p.at)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values stand on the drawing."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _frame(xs: Sequence[float], ys: Sequence[float]) -> _Frame:
    low, high = min(ys), max(ys)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    left, right = min(xs), max(xs)
    return _Frame(left, right if right > left else left + 1.0, low - room, high + room)


def svg(picture: Picture, *, alone: bool = False) -> str:
    """The picture as SVG; ``alone`` brings its style along."""
    if not picture.points:
        return _wrapped(picture.wanted.title, "There is nothing to draw.", "", alone)
    stamps = [p.at.timestamp() for p in picture.points]
    ys = [v for p in picture.points for v in (p.value, p.baseline, p.raises) if v is not None]
    frame = _frame(stamps, ys)
    one = picture.wanted
    parts = [_marks(frame, one)]
    for name in ("raises", "baseline", "value"):
        line = [
            (p.at.timestamp(), v) for p in picture.points if (v := getattr(p, name)) is not None
        ]
        if line:
            parts.append(_polyline(frame, line, name))
    parts.append(_axis(frame, _ticks_of_time(picture.points), ""))
    if one.opened is not None:
        x = _in(frame, one.opened)
        parts.append(
            f'<line class="opening" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        )
    return _wrapped(one.title, picture.said, "".join(parts), alone)


def _in(frame: _Frame, at: datetime) -> float:
    return frame.x(min(max(at.timestamp(), frame.left), frame.right))


def _marks(frame: _Frame, one: Wanted) -> str:
    """The windows of labels, and the episode, as shaded stretches."""
    parts: list[str] = []
    spans = [
        ("control" if label.kind.value == "negative_control" else "window", *label.window)
        for label in one.windows
    ]
    if one.opened is not None:
        resolved = one.resolved.date() if one.resolved else date.max
        spans.append(("episode", one.opened.date(), resolved))
    for name, begin, end in spans:
        last = _midnight(end) + timedelta(days=1) if end < date.max else one.until
        left, right = _in(frame, _midnight(begin)), _in(frame, last)
        if right - left > 0.05:
            parts.append(
                f'<rect class="{name}" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
                f'height="{HEIGHT - _TOP - _BOTTOM}"/>'
            )
    return "".join(parts)


def _polyline(frame: _Frame, line: Sequence[tuple[float, float]], name: str) -> str:
    at = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line)
    return f'<polyline class="{name}" points="{at}"/>'


def _ticks_of_time(points: Sequence[Drawn]) -> list[tuple[float, str]]:
    first, last = points[0].at, points[-1].at
    ticks = [first + n * (last - first) / 4 for n in range(5)]
    return [(t.timestamp(), f"{t:%Y-%m-%d}") for t in ticks]


def _axis(frame: _Frame, ticks: Sequence[tuple[float, str]], title: str) -> str:
    bottom = HEIGHT - _BOTTOM
    parts = [
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>',
        f'<line class="axis" x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{bottom}"/>',
    ]
    for x, said in ticks:
        ends = {frame.left: "start", frame.right: "end"}
        anchor = ends.get(x, "middle")
        parts.append(
            f'<text x="{frame.x(x):.1f}" y="{bottom + 16}" text-anchor="{anchor}">{escape(said)}</text>'
        )
    parts += [
        f'<text x="{_LEFT - 6}" y="{frame.y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in _round_numbers(frame.low, frame.high)
    ]
    if title:
        parts.append(
            f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(title)}</text>'
        )
    return "".join(parts)


def _round_numbers(low: float, high: float) -> list[float]:
    """Three to seven round numbers between two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    return [round(n * step, 12) for n in range(first, math.floor(high / step) + 1)]


def _wrapped(title: str, said: str, inner: str, alone: bool) -> str:
    style = f"<style>svg{{color:#111;background:#fff}}{STYLE}</style>" if alone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(said)}</desc>{style}{inner}</svg>"
    )


class SweptPoint(NamedTuple):
    """One point of a sweep's curve."""

    value: float
    false_per_series_year: float
    lead_days: float


def sweep_svg(name: str, points: Sequence[SweptPoint], *, alone: bool = False) -> str:
    """Median lead time against false episodes a series-year, a point for each value."""
    title = f"Lead time against false alarms, as {name} changes"
    if not points:
        return _wrapped(title, "No point has both a hit and a rate.", "", alone)
    frame = _frame([p.false_per_series_year for p in points], [p.lead_days for p in points])
    spread = (frame.right - frame.left) * 0.05 or 0.05
    frame = replace(frame, left=max(frame.left - spread, -spread / 5), right=frame.right + spread)
    ticks = [(t, f"{t:g}") for t in _round_numbers(frame.left, frame.right)]
    parts = [
        _axis(frame, ticks, "false episodes a series-year"),
        f'<text x="{_LEFT + 4}" y="{_TOP + 8}">median lead, days</text>',
        _polyline(frame, [(p.false_per_series_year, p.lead_days) for p in points], "baseline"),
    ]
    places: dict[tuple[float, float], list[str]] = {}
    for p in points:
        place = frame.x(p.false_per_series_year), frame.y(p.lead_days)
        places.setdefault(place, []).append(f"{p.value:g}")
    for (x, y), values in places.items():
        parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}">{escape(", ".join(values))}</text>')
    said = "; ".join(
        f"{name} {p.value:g}: {p.false_per_series_year:.3g} a year, {p.lead_days:g} days"
        for p in points
    )
    return _wrapped(title, said, "".join(parts), alone)
