"""Made-up series of the kinds a profile asks: what ails real ones, and two disruptions in each.

The recipe, in logarithms, signs turned where up is harm: a level; a weekly and a yearly season; a
dip around the new moon nearest to 4 February; drift; noise that remembers, or a random walk; booms;
strikes of a few observations; in every third series receivers that cover more from some day on; and
two disruptions (see ``SHAPES``), which alone are labelled. Then counts are drawn from the level,
or values rounded; gaps are cut, in every second series single observations too. Everything that
varies is drawn from one sequence of numbers for each series, made by arithmetic from its seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

from alerts.signals import SeriesKey
from alerts.skill import Cadence, Label
from app.backtest.reading import NOT_GIVEN, Row, microseconds

T = TypeVar("T")

SCORED = range(10)
"""The series of each kind that are scored, by number; from it comes the seed."""

LEARNT_FROM = range(100, 104)
"""Others, that are there to choose constants by."""

SHAPES = ("stop", "slow", "partial", "halve")
"""A stop of days or weeks; a fall over weeks that lasts for months; a third less for a month or two;
half for half a year."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of series.

    ``level`` is drawn between its two numbers evenly in logarithms. ``noise`` is the spread of what
    is remembered from one observation to the next by ``memory``, ``jitter`` of what is not; a memory
    of 1 is a random walk. ``depth`` scales disruptions and booms. ``digits`` of None are counts.
    """

    title: str
    sector: str
    indicator: str
    cadence: Cadence
    years: int
    level: tuple[float, float]
    noise: float
    memory: float
    jitter: float
    weekly: float = 0.0
    yearly: float = 0.0
    lunar: float = 0.0
    depth: float = 1.0
    harm: int = -1
    digits: int | None = None


KINDS = (
    Kind("ships passing a strait", "shipping", "chokepoint_transits", Cadence.daily, 7,
         (8, 250), 0.04, 0.7, 0.0, weekly=0.1, yearly=0.1, lunar=0.2),
    Kind("ships calling at a port", "shipping", "port_calls", Cadence.weekly, 9,
         (5, 250), 0.05, 0.6, 0.0, yearly=0.12, lunar=0.25),
    Kind("freight rates", "shipping", "container_rate", Cadence.weekly, 9,
         (500, 8000), 0.025, 1.0, 0.0, depth=0.8, harm=1, digits=0),
    Kind("lead times", "semiconductors", "lead_time", Cadence.monthly, 22,
         (6, 20), 0.07, 0.95, 0.01, depth=0.6, harm=1, digits=0),
    Kind("inventories", "semiconductors", "inventory", Cadence.monthly, 22,
         (50, 5000), 0.09, 0.96, 0.02, depth=0.9, digits=1),
    Kind("volumes traded", "critical_minerals", "export_volume", Cadence.monthly, 22,
         (2e4, 2e6), 0.08, 0.8, 0.14, yearly=0.08, lunar=0.2, depth=1.4, digits=0),
    Kind("output", "semiconductors", "industrial_production", Cadence.monthly, 22,
         (60, 140), 0.008, 1.0, 0.004, depth=0.3, digits=4),
    Kind("reports a day", "semiconductors", "report_count", Cadence.daily, 4,
         (0.3, 6), 0.15, 0.8, 0.0, weekly=0.2, depth=1.8, harm=1),
)  # fmt: skip

A_MONTH = {Cadence.daily: 30.4, Cadence.weekly: 4.35, Cadence.monthly: 1.0}
"""Observations in a month."""


@dataclass(frozen=True, slots=True)
class Series:
    """A made-up series: its kind, its rows in order, and its disruptions."""

    kind: Kind
    key: SeriesKey
    rows: tuple[Row, ...]
    labels: tuple[Label, ...]


def unseen() -> tuple[Series, ...]:
    """The series that are scored: no constant was chosen by them."""
    return _lot(KINDS, SCORED)


def learnt_from() -> tuple[Series, ...]:
    """Others, by which constants are chosen where a recorded series is left out.

    They are of the kinds as often observed as recorded series, and judged by agreement.
    """
    kinds = [
        k for k in KINDS if k.cadence is Cadence.monthly or k.indicator == "chokepoint_transits"
    ]
    return _lot(kinds, LEARNT_FROM)


def _lot(kinds: Sequence[Kind], numbers: range) -> tuple[Series, ...]:
    return tuple(make(kind, n) for kind in kinds for n in numbers)


class Dice:
    """Numbers that look random, by arithmetic alone: splitmix64 (Steele, Lea and Flood 2014)."""

    def __init__(self, seed: int) -> None:
        """Begins the sequence of a seed."""
        self._state = seed

    def even(self, low: float = 0.0, high: float = 1.0) -> float:
        """Evenly between two numbers."""
        self._state = (self._state + 0x9E3779B97F4A7C15) % 2**64
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return low + (high - low) * ((z ^ (z >> 31)) >> 11) / 2**53

    def normal(self) -> float:
        """Nearly normal, mean 0 and spread 1: twelve even numbers summed."""
        return math.fsum(self.even() for _ in range(12)) - 6

    def whole(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self.even() * (high - low + 1))

    def count(self, mean: float) -> int:
        """A count of that mean, Poisson; from 30 on by its normal approximation."""
        if mean >= 30:
            return max(0, round(mean + math.sqrt(mean) * self.normal()))
        left, found = math.exp(-mean), 0
        chance = self.even()
        while chance > left:
            chance *= self.even()
            found += 1
        return found


def make(kind: Kind, number: int) -> Series:
    """One series of a kind."""
    dice = Dice(1000 * KINDS.index(kind) + number)
    month = A_MONTH[kind.cadence]
    size = int(kind.years * 12 * month)
    days = [_day(kind.cadence, n) for n in range(size)]
    path = _calm(kind, dice, days)
    told: list[tuple[int, int, str]] = []
    for n, share in enumerate(((0.45, 0.6), (0.75, 0.9))):
        shape = SHAPES[(number + 2 * n + number // 4) % len(SHAPES)]
        begin = int(dice.even(*share) * size)
        told.append((begin, _disrupt(kind, dice, path, begin, shape), shape))
    values = [
        dice.count(math.exp(x)) if kind.digits is None else round(math.exp(x), kind.digits)
        for x in path
    ]
    gone = _gone(dice, size, month, told, number)
    key = SeriesKey(kind.sector, kind.indicator, f"made_up_{number:03}", "")
    return Series(
        kind,
        key,
        tuple(
            Row(key, _instant(days[n]), NOT_GIVEN, "", float(values[n]))
            for n in range(size)
            if n not in gone
        ),
        tuple(
            Label(
                f"{kind.indicator}-{number:03}-{n}", *key[:4], days[begin], days[end], title=shape
            )
            for n, (begin, end, shape) in enumerate(told, start=1)
        ),
    )


def _calm(kind: Kind, dice: Dice, days: Sequence[date]) -> list[float]:
    """The logarithms of a series to which nothing happens that must be told."""
    size, month = len(days), A_MONTH[kind.cadence]
    harm, scale = kind.harm, min(kind.depth, 1.0)
    low, high = map(math.log, kind.level)
    level = dice.even(low, high)
    weekday = [kind.weekly * dice.normal() for _ in range(7)]
    yearly, phase = kind.yearly * dice.even(), dice.even()
    lunar = kind.lunar * dice.even()
    drift = 0.03 * dice.normal() / (12 * month)
    fresh = kind.noise * (1.0 if kind.memory == 1 else math.sqrt(1 - kind.memory**2))
    path: list[float] = []
    state = 0.0
    for n, day in enumerate(days):
        state = kind.memory * state + fresh * dice.normal()
        season = weekday[day.weekday()] + yearly * math.sin(
            2 * math.pi * (day.timetuple().tm_yday / 365.25 + phase)
        )
        feast = lunar * new_year(kind.cadence, day)
        path.append(level + season - feast + drift * n + state + kind.jitter * dice.normal())
    for _ in range(dice.whole(0, 2)):  # Booms: trade that comes, and goes again.
        _bump(
            path,
            dice.whole(0, size - 1),
            month * dice.even(1, 4),
            -harm * scale * dice.even(0.15, 0.4),
        )
    for _ in range(dice.whole(1, 4)):  # Strikes, storms, feasts: over before anybody is warned.
        most = {Cadence.daily: 3, Cadence.weekly: 1, Cadence.monthly: 1}[kind.cadence]
        at = dice.whole(0, size - 1)
        less = harm * scale * dice.even(0.1, 0.5) / (1 if kind.cadence is Cadence.daily else 2)
        for n in range(at, min(at + dice.whole(1, most), size)):
            path[n] += less
    if dice.even() < 1 / 3:  # More is counted than before, and nothing has happened.
        more = -harm * scale * dice.even(0.15, 0.4)
        for n in range(int(dice.even(0.25, 0.7) * size), size):
            path[n] += more
    return path


def _bump(path: list[float], begin: int, length: float, height: float) -> None:
    rise = max(length / 4, 1.0)
    for n in range(begin, min(begin + int(length), len(path))):
        path[n] += height * min(1.0, (n - begin + 1) / rise, (begin + length - n) / rise)


def _disrupt(kind: Kind, dice: Dice, path: list[float], begin: int, shape: str) -> int:
    """Adds a disruption and returns where it ends, before what is lost comes back."""
    month = A_MONTH[kind.cadence]
    fall, back = 1, 1
    match shape:
        case "stop":
            left = dice.even(0.05, 0.4) if kind.harm < 0 else dice.even(0.3, 0.5)
            length = max(2, round(month * dice.even(0.2, 0.7)))
        case "slow":
            left = dice.even(0.35, 0.6)
            fall = max(2, round(month * dice.even(0.7, 1.6)))
            length = fall + round(month * dice.even(3, 8))
            back = round(3 * month)
        case "partial":
            left = dice.even(0.6, 0.75)
            length = max(3, round(month * dice.even(0.8, 2)))
        case _:
            left = dice.even(0.4, 0.6)
            length, back = round(6 * month), round(3 * month)
    depth = -kind.harm * kind.depth * math.log(left)
    end = min(begin + length, len(path)) - 1
    for n in range(begin, len(path)):
        if n <= end:
            path[n] += depth * min(1.0, (n - begin + 1) / fall)
        elif n <= end + back:
            path[n] += depth * (1 - (n - end) / (back + 1))
    return end


def _gone(
    dice: Dice, size: int, month: float, told: Sequence[tuple[int, int, str]], number: int
) -> set[int]:
    """Which observations are not there; none is gone near a disruption."""
    gone = {n for n in range(size) if number % 2 and dice.even() < 0.01}
    for _ in range(dice.whole(0, 2)):
        begin = dice.whole(0, size - 1)
        gone.update(range(begin, begin + max(1, round(month * dice.even(0.2, 1.5)))))
    for begin, end, _ in told:
        gone -= set(range(begin - max(2, round(month)), end + 1))
    return gone


def _day(cadence: Cadence, number: int) -> date:
    if cadence is Cadence.daily:
        return date(2015, 1, 1) + timedelta(number)
    if cadence is Cadence.weekly:
        return date(2012, 1, 2) + timedelta(7 * number)
    return date(2000 + number // 12, number % 12 + 1, 1)


def new_year(cadence: Cadence, day: date) -> float:
    """How much of an observation's period is in the feast: 1 at its height, 0 outside it."""
    moons = 29.530588
    early = date(day.year, 2, 4)
    since = (early - date(2000, 2, 5)).days % moons  # A new moon was on 5 February 2000.
    newest = early + timedelta(-since if since < moons / 2 else moons - since)
    span = {Cadence.daily: 1, Cadence.weekly: 7, Cadence.monthly: 30}[cadence]
    begins, ends = newest - timedelta(3), newest + timedelta(12)
    inside = (min(ends, day + timedelta(span)) - max(begins, day)).days
    return max(0, inside) / min(span, 15) if inside > 0 else 0.0


def _instant(day: date) -> int:
    return microseconds(datetime(day.year, day.month, day.day, tzinfo=UTC))
