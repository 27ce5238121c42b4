"""Self-calibrated agreement: unusual for this series, in more than one way.

No number here belongs to a series. Each view of a series is measured in spreads of that series'
own past and compared with a high quantile of what the same view has shown before; a series is in
trouble when enough views are beyond what is usual for them at once.

Choices that the rule leaves open, all of them held by tests:

- Windows count observations, never days, so that a gap in the feed moves no baseline. A window
  "ending g before" has as its newest the observation g before the tested one, at least 1.
- An observation that cannot be transformed keeps its place and says nothing: a negative value
  under a logarithm or a root, or one of zero or less where harm is up (a price of nothing is an
  error, and the return from it no surge). Where harm is down, zero under a logarithm is a total
  stop, the worst there is, and counts as ``LEAST``.
- Spreads of changes, like thresholds, come from ``memory`` values ending ``guard`` ago and need
  ``min_memory`` of them. A spread is never below ``floor``, so ties do not divide by zero.
- Quantiles are interpolated between neighbours (type 7 of Hyndman and Fan).
- A view without enough past is left out; where fewer than ``need`` remain, the reading is
  undefined.
- A season is asked only of what is not on yet: frozen levels mean that it was asked before. A year
  of it is known where more than half of its observations are. What the worst lay from its level is
  told from the level of that time, so that growth makes no season. It counts observations, like
  all windows; what a gap moves, ``width`` must bear.
- Frozen are the medians and spreads of levels alone, as they stood at the first observation at or
  after the onset. Changes, the short view and all thresholds look at the newest observations;
  ``guard`` keeps the crisis out of them long enough to be told.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

from alerts.detectors.reading import TOLERANCE, Measure, Reading, compare
from alerts.rules import Agreement, Direction, Season, Transform
from alerts.signals import Sample

LEAST = 1e-9
"""What zero counts as under a logarithm where harm is down: less than any traffic measured."""

RECENT = 100
"""For how many observations back the levels that stood then are remembered."""

IN_SEASON = 0.99
"""The most strength that is no worse than usual for these weeks: raises nothing, holds all."""

SEASON = "beyond the worst of the same weeks in other years"
"""The name of the measure that a season adds: it is no view and counts towards no agreement."""

NORMAL = 1.4826
"""Makes a median absolute deviation equal the standard deviation of a normal distribution."""

_NOTHING = math.nan
"""Stands in a row of numbers where there is none."""

_instant = attrgetter("at")

_Level = tuple[float, float]
"""Median and spread of a level's window; not numbers where it is too short."""


def read_agreement(
    detector: Agreement,
    window: Sequence[Sample],
    frozen_at: datetime | None = None,
    views: Views | None = None,
) -> Reading:
    """Reads the newest sample of ``window`` against its past, in several views.

    ``compared`` is the strength of agreement: of the views' ratios to their thresholds the one
    that ``need`` views reach, so that bands start at 1 and point up whatever the direction.
    ``baseline`` is the median of the longest level in the indicator's unit.

    Args:
        detector: what to ask.
        window: samples oldest first, the tested one last. Without ``views``, or where they do
            not serve, it must hold ``reach_of_agreement`` observations before the tested one and
            before ``frozen_at``; else those newer than ``views.until`` are enough.
        frozen_at: levels are those that stood at the first sample at or after this instant.
        views: the memory of this series under this detector; it is moved along. Where it does not
            serve it starts anew from the window; where it knows a newer sample it is left alone.
    """
    newest = window[-1]
    if views is None or (views.until is not None and newest.at < views.until):
        views = Views(detector)
    elif not views.serves(frozen_at) or (views.until == newest.at and views.newest != newest):
        views.forget()
    until = views.until
    fresh = 0 if until is None else bisect_left(window, until, key=_instant)
    if until is not None and fresh < len(window) and window[fresh].at == until:
        fresh += 1
    for place in range(fresh, len(window)):
        views.see(window[place], frozen_at)
    return views.read(frozen_at)


def reach_of_agreement(detector: Agreement) -> int:
    """How many observations before the tested one make a reading as exact as all of them.

    The oldest threshold value a reading rests on lies ``memory`` and ``guard`` back, and itself
    rests on the longest of the windows behind it.
    """
    wide = [level.observations + max(level.guard, 1) for level in detector.levels]
    wide += [detector.memory + max(detector.guard, 1) + k for k in detector.changes]
    if detector.short is not None:
        wide += [detector.short.observations, detector.short.long_observations]
    views = detector.memory + max(detector.guard, 1) + max(wide, default=0)
    season, longest = detector.season, _longest(detector)
    if season is not None and longest is not None:
        level = detector.levels[longest]
        years = season.years * season.period + season.width
        views = max(views, years + level.observations + max(level.guard, 1))
    return views + detector.mean_of


class Views:
    """The memory of one series under one detector, which makes the next reading cheap.

    It is shown the samples of the series in the order of time, each once. Its size is bounded:
    for daily constants about 250 kB. Forgetting it is always allowed: one that has seen the last
    ``reach_of_agreement`` observations and the tested one says exactly the same.
    """

    __slots__ = (
        "_apart",
        "_before",
        "_change_windows",
        "_changes",
        "_depth",
        "_detector",
        "_frozen",
        "_guard",
        "_harm",
        "_level_windows",
        "_levels",
        "_longest",
        "_names",
        "_now",
        "_past",
        "_past_windows",
        "_recent",
        "_season_window",
        "_seen",
        "_short_window",
        "_spans",
        "_tested",
        "_worst",
        "_years",
        "newest",
    )

    def __init__(self, detector: Agreement) -> None:
        self._detector = detector
        self._guard = max(detector.guard, 1)
        self._spans = [(v.observations, max(v.guard, 1)) for v in detector.levels]
        self._names = _names(detector)
        self._longest = _longest(detector)
        season = detector.season
        self._years = (
            [n * season.period - season.width for n in range(1, season.years + 1)] if season else []
        )
        depth = [n + guard for n, guard in self._spans]
        depth += [detector.memory + self._guard + k for k in detector.changes]
        if detector.short is not None:
            depth += [detector.short.observations, detector.short.long_observations + 1]
        self._depth = max(depth, default=0) + 1
        self.forget()

    def forget(self) -> None:
        """Starts anew, as if it had seen nothing."""
        views = len(self._names)
        self.newest: Sample | None = None
        self._seen = 0
        self._before: deque[float] = deque(maxlen=self._detector.mean_of)
        self._harm = _Row(self._depth)
        self._level_windows = [_Window() for _ in self._spans]
        self._change_windows = [_Window() for _ in self._detector.changes]
        self._short_window = _Window()
        self._past = [_Row(self._detector.memory + self._guard + 1) for _ in range(views)]
        self._past_windows = [_Window() for _ in range(views)]
        season = self._detector.season
        near = 2 * season.width + 1 if season else 0
        self._apart = _Row(near + 1)
        self._season_window = _Window()
        self._worst = _Row(max(self._years, default=0) + 1)
        self._tested = _NOTHING
        self._levels: tuple[_Level, ...] = ()
        self._now: list[float] = []
        self._recent: deque[tuple[datetime, tuple[_Level, ...]]] = deque(maxlen=RECENT)
        self._frozen: tuple[datetime, tuple[_Level, ...]] | None = None

    @property
    def until(self) -> datetime | None:
        """The instant of the newest sample it has seen."""
        return self.newest.at if self.newest else None

    @property
    def size(self) -> int:
        """How many numbers it keeps, of eight bytes each."""
        rows = (self._harm, *self._past, self._apart, self._worst)
        windows = (*self._level_windows, *self._change_windows, *self._past_windows)
        lone = (self._short_window, self._season_window)
        return sum(len(row) for row in rows) + sum(len(w) for w in (*windows, *lone))

    def serves(self, frozen_at: datetime | None) -> bool:
        """Whether it knows the levels that stood then: of the last ``RECENT`` observations.

        It knows those of the onset it was asked for last however long ago that was.
        """
        if frozen_at is None or not self._recent:
            return True
        if self._frozen is not None and self._frozen[0] == frozen_at:
            return True
        return self._seen <= len(self._recent) or frozen_at > self._recent[0][0]

    def see(self, sample: Sample, frozen_at: datetime | None = None) -> None:
        """Takes in one sample, newer than all before; remembers the levels of ``frozen_at``."""
        detector = self._detector
        self.newest = sample
        self._seen += 1
        self._before.append(sample.value)
        harm = self._harm
        harm.append(self._transformed())
        newest = harm.back(0)
        self._move_windows()
        self._levels = tuple(
            window.middle(view.min_observations, detector.floor)
            for window, view in zip(self._level_windows, detector.levels, strict=True)
        )
        self._recent.append((sample.at, self._levels))
        if frozen_at is not None:
            self._freeze(frozen_at)
        if detector.season is not None:
            self._see_season(detector.season)
        now = [(newest - median) / spread for median, spread in self._levels]
        for window, k in zip(self._change_windows, detector.changes, strict=True):
            _, spread = window.middle(detector.min_memory, detector.floor)
            now.append((newest - harm.back(k)) / spread)
        if detector.short is not None:
            now.append(self._short())
        self._now = now
        oldest = self._guard + detector.memory
        for past, window, value in zip(self._past, self._past_windows, now, strict=True):
            past.append(value if math.isfinite(value) else _NOTHING)
            window.move(past.back(self._guard), past.back(oldest))

    def read(self, frozen_at: datetime | None = None) -> Reading:
        """The reading of the newest sample."""
        detector = self._detector
        assert self.newest is not None, "Nothing was seen yet."
        bands = tuple(sorted(b.severity for b in detector.bands))
        at, observed = self.newest
        if not math.isfinite(self._tested) or math.isnan(self._harm.back(0)):
            return Reading(at, observed, bands=bands, undefined=self._unusable())
        levels = self._levels
        values = self._now
        if frozen_at is not None:
            levels = self._freeze(frozen_at)
            newest = self._harm.back(0)
            values = [(newest - m) / s for m, s in levels] + values[len(levels) :]
        measures = []
        for name, value, past in zip(self._names, values, self._past_windows, strict=True):
            limit = self._threshold(past)
            if math.isfinite(value) and math.isfinite(limit):
                measures.append(Measure(name, value, limit))
        ratios = sorted((m.value / m.limit for m in measures if m.limit), reverse=True)
        if len(ratios) < detector.need:
            return Reading(at, self._tested, bands=bands, undefined=self._too_short(len(ratios)))
        strength = ratios[detector.need - 1]
        beyond = self._beyond_season(levels)
        if beyond is not None and beyond.limit is not None:
            measures.append(beyond)
            if frozen_at is None and beyond.value < beyond.limit - TOLERANCE:
                strength = min(strength, IN_SEASON)
        return compare(
            Direction.up,  # Strength grows with harm, whichever way harm lies.
            detector.bands,
            Sample(at, self._tested),
            strength,
            self._baseline(levels),
            tuple(measures),
        )

    def _transformed(self) -> float:
        """The mean of the newest observations, transformed so that it grows with harm."""
        detector = self._detector
        self._tested = _NOTHING
        if len(self._before) < detector.mean_of:
            return _NOTHING
        self._tested = mean = sum(self._before) / detector.mean_of
        harm = detector.direction.sign * _transform(detector, mean)
        return harm if math.isfinite(harm) else _NOTHING

    def _move_windows(self) -> None:
        """Every window goes on by one observation."""
        detector, harm = self._detector, self._harm
        for window, (observations, guard) in zip(self._level_windows, self._spans, strict=True):
            window.move(harm.back(guard), harm.back(guard + observations))
        new, old = self._guard, self._guard + detector.memory
        for window, k in zip(self._change_windows, detector.changes, strict=True):
            window.move(harm.back(new) - harm.back(new + k), harm.back(old) - harm.back(old + k))
        if detector.short is not None:
            window = self._short_window
            window.move(harm.back(1), harm.back(1 + detector.short.long_observations))

    def _short(self) -> float:
        """EARS C1: in standard deviations of the observations just before."""
        short = self._detector.short
        assert short is not None
        before = [self._harm.back(n) for n in range(1, short.observations + 1)]
        mean = sum(before) / short.observations
        squares = sum((b - mean) * (b - mean) for b in before)
        sigma = math.sqrt(squares / (short.observations - 1))
        _, spread = self._short_window.middle(short.observations, 0.0)
        # The share is one of the plain deviation, not of one made equal to a standard deviation.
        least = max(short.min_sigma_share * spread / NORMAL, self._detector.floor)
        sigma = max(sigma, least)
        return (self._harm.back(0) - mean) / sigma if sigma else _NOTHING

    def _see_season(self, season: Season) -> None:
        """Remembers the worst of the observations within ``width`` of the one ``width`` back."""
        apart, window = self._apart, self._season_window
        median = _NOTHING if self._longest is None else self._levels[self._longest][0]
        newest = self._harm.back(0) - median
        apart.append(newest)
        window.move(newest, apart.back(2 * season.width + 1))
        self._worst.append(window.highest if len(window) > season.width else _NOTHING)

    def _beyond_season(self, levels: tuple[_Level, ...]) -> Measure | None:
        """In spreads of the longest level; nothing where no earlier year is known."""
        season, longest = self._detector.season, self._longest
        if season is None or longest is None:
            return None
        median, spread = levels[longest]
        worst = sorted(w for w in map(self._worst.back, self._years) if not math.isnan(w))
        if not worst:
            return None
        half = len(worst) // 2
        usual = (worst[half] + worst[-1 - half]) / 2
        beyond = (self._harm.back(0) - median - usual) / spread
        return Measure(SEASON, beyond, season.margin) if math.isfinite(beyond) else None

    def _threshold(self, past: _Window) -> float:
        """What a view must reach: not a number while its past is too short."""
        if len(past) < max(self._detector.min_memory, 1):
            return _NOTHING
        usual = self._detector.ratio * past.quantile(self._detector.quantile)
        most = self._detector.most
        return max(self._detector.least, usual if most is None else min(usual, most))

    def _freeze(self, frozen_at: datetime) -> tuple[_Level, ...]:
        """The levels at the first observation at or after an instant; until then the newest."""
        if self._frozen is not None and self._frozen[0] == frozen_at:
            return self._frozen[1]
        if self._recent[-1][0] < frozen_at:
            return self._levels
        place = bisect_left(self._recent, frozen_at, key=lambda entry: entry[0])
        self._frozen = (frozen_at, self._recent[place][1])
        return self._frozen[1]

    def _baseline(self, levels: tuple[_Level, ...]) -> float | None:
        """The median of the longest level, in the indicator's unit."""
        known = [
            (view.observations, median)
            for view, (median, _) in zip(self._detector.levels, levels, strict=True)
            if math.isfinite(median)
        ]
        if not known:
            return None
        _, median = max(known)
        value = _back(self._detector.transform, self._detector.direction.sign * median)
        return value if math.isfinite(value) else None

    def _unusable(self) -> str:
        wanted, has = self._detector.mean_of, len(self._before)
        if has < wanted:
            return f"it averages {wanted} observations and has {has}"
        if not math.isfinite(self._tested):
            return "the mean is beyond all numbers"
        function = {Transform.log: "a logarithm", Transform.square_root: "a root"}
        taken = function.get(self._detector.transform, "the detector")
        return f"{taken} cannot be taken of {self._tested:g}"

    def _too_short(self, known: int) -> str:
        has = min(self._seen, reach_of_agreement(self._detector))
        return (
            f"{self._detector.need} views must agree and {known} have enough of a past to be "
            f"compared with; it has {has} observations"
        )


class _Row:
    """The newest numbers of an endless row, as many as ``depth``."""

    __slots__ = ("_depth", "_numbers")

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._numbers = array("d")

    def __len__(self) -> int:
        return len(self._numbers)

    def append(self, number: float) -> None:
        self._numbers.append(number)
        if len(self._numbers) > 2 * self._depth:
            del self._numbers[: -self._depth]

    def back(self, steps: int) -> float:
        """The number so many before the newest; none, where there was none."""
        return self._numbers[-1 - steps] if steps < len(self._numbers) else _NOTHING


class _Window:
    """Numbers in order of size, one in and one out at a time; what is no number stays out."""

    __slots__ = ("_ordered",)

    def __init__(self) -> None:
        self._ordered = array("d")

    def __len__(self) -> int:
        return len(self._ordered)

    def move(self, entering: float, leaving: float) -> None:
        """Takes one number in and another, which is in it, out."""
        if math.isfinite(leaving):
            del self._ordered[bisect_left(self._ordered, leaving)]
        if math.isfinite(entering):
            insort(self._ordered, entering)

    @property
    def highest(self) -> float:
        return self._ordered[-1]

    def middle(self, at_least: int, floor: float) -> _Level:
        """Median, and median absolute deviation as a standard deviation of at least ``floor``.

        The half of the numbers that lies nearest to the median stands together, so it is found
        by halving. Neither is a number where there are fewer than ``at_least``, and the spread
        is none where it is zero without a floor.
        """
        ordered = self._ordered
        count = len(ordered)
        if count < max(at_least, 1):
            return _NOTHING, _NOTHING
        half = count // 2
        median = ordered[half] if count % 2 else ordered[half - 1] / 2 + ordered[half] / 2
        near = half + count % 2
        low, high = 0, count - near
        while low < high:
            place = (low + high) // 2
            if median - ordered[place] > ordered[place + near] - median:
                low = place + 1
            else:
                high = place
        deviation = max(median - ordered[low], ordered[low + near - 1] - median)
        if count % 2 == 0:
            below = median - ordered[low - 1] if low else math.inf
            above = ordered[low + near] - median if low + near < count else math.inf
            deviation = deviation / 2 + min(below, above) / 2
        spread = max(NORMAL * deviation, floor)
        return median, spread if 0 < spread < math.inf else _NOTHING

    def quantile(self, share: float) -> float:
        """The number that ``share`` of them do not exceed, interpolated."""
        ordered = self._ordered
        place = share * (len(ordered) - 1)
        low = int(place)
        below = ordered[low]
        if low + 1 == len(ordered):
            return below
        return below + (ordered[low + 1] - below) * (place - low)


def _longest(detector: Agreement) -> int | None:
    """Which of the levels looks at the most observations."""
    sizes = [view.observations for view in detector.levels]
    return sizes.index(max(sizes)) if sizes else None


def _names(detector: Agreement) -> tuple[str, ...]:
    """What each view is called beside its number."""
    names = [f"level over {view.observations} observations" for view in detector.levels]
    names += [f"change over {k}" for k in detector.changes]
    if detector.short is not None:
        names.append(f"newest against the {detector.short.observations} before")
    return tuple(names)


def _transform(detector: Agreement, mean: float) -> float:
    """Not a number where the transform cannot take the mean; see the module."""
    match detector.transform:
        case Transform.log:
            if mean <= 0 and (mean < 0 or detector.direction is Direction.up):
                return _NOTHING
            return math.log(max(mean, LEAST))
        case Transform.square_root:
            return 2 * math.sqrt(mean + 0.375) if mean >= 0 else _NOTHING
        case Transform.identity:
            return mean


def _back(transform: Transform, transformed: float) -> float:
    """The value whose transform this is."""
    match transform:
        case Transform.log:
            return math.exp(transformed)
        case Transform.square_root:
            return (transformed / 2) ** 2 - 0.375
        case Transform.identity:
            return transformed
