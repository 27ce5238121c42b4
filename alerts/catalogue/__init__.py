"""What may be reported: sectors, goods, indicators, event codes and places, as data.

The YAML files beside this module hold the catalogue; the service reads them into these values.
Codes are lower_snake_case and unique within their kind; an indicator and an event never share one.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from alerts.signals import Severity

LISTED = 30
"""A fault lists at most this many allowed values, the nearest first."""

LONGEST = 64
"""Longer codes are cut where a fault repeats or compares them."""

ALIKE = 0.6
"""From this ratio of ``difflib`` on, a word is thought to be a slip for another."""

EU = "EU"
"""The European Union: exceptionally reserved in ISO 3166-1, so a place although not a country."""

_LOCODE = re.compile(r"[A-Z]{2}[A-Z2-9]{3}")
_SUBDIVISION = re.compile(r"[A-Z]{2}-[A-Z0-9]{1,3}")


class Harm(enum.StrEnum):
    """The direction in which an indicator does harm."""

    up = "up"
    down = "down"
    both = "both"


@dataclass(frozen=True, slots=True)
class Sector:
    """A part of the economy."""

    code: str
    title: str


@dataclass(frozen=True, slots=True)
class HsCode:
    """A heading of the Harmonized System with its edition: codes move every five years."""

    code: str
    edition: int


@dataclass(frozen=True, slots=True)
class Good:
    """A product within one or more sectors."""

    code: str
    title: str
    sectors: tuple[str, ...]
    hs: tuple[HsCode, ...] = ()


class Weekday(enum.IntEnum):
    """The days of the week, Monday first, as ``datetime.weekday`` counts them."""

    monday = 0
    tuesday = 1
    wednesday = 2
    thursday = 3
    friday = 4
    saturday = 5
    sunday = 6


class CountedFrom(enum.StrEnum):
    """Where the days until a figure comes out are counted from."""

    observation = "observation"
    month = "month"


@dataclass(frozen=True, slots=True)
class Publication:
    """How long after what it speaks of a figure comes out.

    ``after_days`` are counted from the day of the observation or from the first of its month;
    with ``on_weekday`` it comes out on the first such weekday from then on.
    """

    after_days: int
    counted_from: CountedFrom = CountedFrom.observation
    on_weekday: Weekday | None = None
    source: str = "our_design"

    def known_at(self, observed_at: datetime) -> datetime:
        """When an observation can be known: the beginning of the day (UTC) it comes out on."""
        day = observed_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if self.counted_from is CountedFrom.month:
            day = day.replace(day=1)
        day += timedelta(days=self.after_days)
        if self.on_weekday is not None:
            day += timedelta(days=(self.on_weekday - day.weekday()) % 7)
        return day


@dataclass(frozen=True, slots=True)
class Indicator:
    """What is measured. ``minimum`` and ``maximum`` bound the possible, not the normal.

    ``every_days`` is the usual gap between observations; empty ``sectors`` means every sector.
    ``published`` says how late its figures come out; without it they are known when observed.
    """

    code: str
    title: str
    unit: str
    harm: Harm
    every_days: float
    sectors: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    source: str = "our_design"
    published: Publication | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A kind of happening; ``severity`` is taken when the reporter gives none."""

    code: str
    title: str
    severity: Severity
    sectors: tuple[str, ...] = ()
    source: str = "our_design"


@dataclass(frozen=True, slots=True)
class Place:
    """A place without an ISO 3166 code that supply passes through, such as a strait."""

    code: str
    title: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a document or a signal: where (JSON pointer), what, and what would do."""

    pointer: str
    detail: str
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that may be reported, by code."""

    sectors: Mapping[str, Sector] = field(default_factory=dict)
    goods: Mapping[str, Good] = field(default_factory=dict)
    indicators: Mapping[str, Indicator] = field(default_factory=dict)
    events: Mapping[str, Event] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    countries: Mapping[str, str] = field(default_factory=dict)

    def is_place(self, code: str) -> bool:
        """Whether a place is a country, EU, a named place, or shaped like a code of a country's.

        UN/LOCODE (``NLRTM``) and ISO 3166-2 (``US-TX``) codes are known by their shape and their
        country only; the catalogue does not list them.
        """
        if code in self.countries or code == EU or code in self.places:
            return True
        shaped = _LOCODE.fullmatch(code) or _SUBDIVISION.fullmatch(code)
        return shaped is not None and code[:2] in self.countries

    def goods_of(self, sector: str) -> tuple[str, ...]:
        """The codes of a sector's goods, sorted."""
        return tuple(sorted(g.code for g in self.goods.values() if sector in g.sectors))

    def indicators_of(self, sector: str) -> tuple[str, ...]:
        """The codes of the indicators a sector may report, sorted."""
        return _codes_of(self.indicators.values(), sector)

    def events_of(self, sector: str) -> tuple[str, ...]:
        """The codes of the events a sector may report, sorted."""
        return _codes_of(self.events.values(), sector)


Near = Callable[[str, Iterable[str]], tuple[str, ...]]


def faults(
    catalogue: Catalogue,
    sector: str,
    *,
    indicator: str = "",
    event: str = "",
    good: str = "",
    place: str = "",
    unit: str | None = None,
    value: float | None = None,
    suggest: bool = True,
) -> tuple[Fault, ...]:
    """What is wrong with one incoming signal; empty when nothing is.

    Exactly one of ``indicator`` and ``event`` is wanted. An empty ``good`` or ``place`` means "not
    limited to one" and is never wrong; a ``unit`` or ``value`` of None is not looked at. Codes
    are asked of series not seen before; ``value_fault`` alone is for every signal. Finding the
    nearest codes costs up to a few milliseconds; without ``suggest`` the known ones are listed.
    """
    near = nearest if suggest else _first
    found: list[Fault] = []
    if sector not in catalogue.sectors:
        found.append(unknown("/sector", "sector", sector, catalogue.sectors, near))
    if bool(indicator) == bool(event):
        found.append(Fault("", "A signal names either an indicator or an event, and not both."))
    elif indicator:
        found.extend(_indicator_faults(catalogue, sector, indicator, unit, value, near))
    else:
        found.extend(_event_faults(catalogue, sector, event, near))
    if good:
        found.extend(_good_faults(catalogue, sector, good, near))
    if place and not catalogue.is_place(place):
        known = {*catalogue.countries, EU} if len(place) <= 2 else catalogue.places.keys()
        detail = (
            f"{_shown(place)} is not a place: write an ISO 3166-1 country such as TW, EU, an ISO 3166-2 "
            f"code such as US-TX, a UN/LOCODE such as NLRTM, or a named place such as suez."
        )
        found.append(Fault("/place", detail, near(place, known)))
    return tuple(found)


def value_fault(indicator: Indicator, unit: str, value: float) -> Fault | None:
    """What is wrong with a measured value; None when nothing is. Cheap: three comparisons.

    A value equal to the indicator's minimum or maximum is possible.
    """
    if unit != indicator.unit:
        return _unit_fault(indicator, unit)
    if not math.isfinite(value):
        return Fault("/value", f"The value must be a finite number, not {value}.")
    below = indicator.minimum is not None and value < indicator.minimum
    if below or (indicator.maximum is not None and value > indicator.maximum):
        detail = f"{value:g} {unit} is impossible for {indicator.code}: {_range_of(indicator)}."
        return Fault("/value", detail)
    return None


def unknown(
    pointer: str, kind: str, code: str, known: Iterable[str], near: Near | None = None
) -> Fault:
    """The fault of a code that is not known, with the known ones that ``near`` picks."""
    listed = (near or nearest)(code, known)
    detail = f"There is no {kind} {_shown(code)} in the catalogue.{did_you_mean(code, listed[:1])}"
    return Fault(pointer, detail, listed)


def _first(code: str, known: Iterable[str]) -> tuple[str, ...]:
    """The first known codes by name, whatever the given one is."""
    return tuple(sorted(known)[:LISTED])


def nearest(code: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known codes most like the given one first, at most ``LISTED``; case does not matter."""
    likeness = _likeness(code, known)
    return tuple(sorted(likeness, key=lambda c: (-likeness[c], c))[:LISTED])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to put behind a sentence, or nothing when no known word is like the given one."""
    likeness = _likeness(word, known)
    best = max(likeness, key=lambda c: likeness[c], default="")
    return f" Did you mean {best}?" if best and likeness[best] >= ALIKE else ""


def _likeness(code: str, known: Iterable[str]) -> dict[str, float]:
    matcher = difflib.SequenceMatcher(b=code[:LONGEST].casefold())
    found: dict[str, float] = {}
    for candidate in known:
        matcher.set_seq1(candidate.casefold())
        found[candidate] = matcher.ratio()
    return found


def _indicator_faults(
    catalogue: Catalogue,
    sector: str,
    code: str,
    unit: str | None,
    value: float | None,
    near: Near,
) -> Iterable[Fault]:
    indicator = catalogue.indicators.get(code)
    if indicator is None:
        if code in catalogue.events:
            detail = f"{code} is an event, not an indicator: send it as `event`, with a severity."
            yield Fault("/indicator", detail)
            return
        known = catalogue.indicators_of(sector) or tuple(catalogue.indicators)
        yield unknown("/indicator", "indicator", code, known, near)
        return
    if indicator.sectors and sector in catalogue.sectors and sector not in indicator.sectors:
        detail = f"{code} is not an indicator of {sector}, but of {_listed(indicator.sectors)}."
        yield Fault("/indicator", detail, near(code, catalogue.indicators_of(sector)))
    if unit is not None and unit != indicator.unit:
        yield _unit_fault(indicator, unit)
    fault = None if value is None else value_fault(indicator, indicator.unit, value)
    if fault is not None:
        yield fault


def _event_faults(catalogue: Catalogue, sector: str, code: str, near: Near) -> Iterable[Fault]:
    event = catalogue.events.get(code)
    if event is None:
        if code in catalogue.indicators:
            detail = f"{code} is an indicator, not an event: send it as `indicator`, with a value."
            yield Fault("/event", detail)
            return
        known = catalogue.events_of(sector) or tuple(catalogue.events)
        yield unknown("/event", "event", code, known, near)
        return
    if event.sectors and sector in catalogue.sectors and sector not in event.sectors:
        detail = f"{code} is not an event of {sector}, but of {_listed(event.sectors)}."
        yield Fault("/event", detail, near(code, catalogue.events_of(sector)))


def _good_faults(catalogue: Catalogue, sector: str, code: str, near: Near) -> Iterable[Fault]:
    good = catalogue.goods.get(code)
    if good is None:
        yield unknown(
            "/good", "good", code, catalogue.goods_of(sector) or tuple(catalogue.goods), near
        )
        return
    if sector in catalogue.sectors and sector not in good.sectors:
        detail = f"{code} is not a good of {sector}, but of {_listed(good.sectors)}."
        yield Fault("/good", detail, near(code, catalogue.goods_of(sector)))


def _unit_fault(indicator: Indicator, unit: str) -> Fault:
    detail = f"{indicator.code} is measured in {indicator.unit}, not in {_shown(unit)}."
    return Fault("/unit", detail, (indicator.unit,))


def _shown(code: str) -> str:
    """What somebody wrote, quoted and short enough for a sentence."""
    return repr(code if len(code) <= LONGEST else f"{code[:LONGEST]}…")


def _range_of(indicator: Indicator) -> str:
    if indicator.maximum is None:
        return f"it is never below {indicator.minimum:g}"
    if indicator.minimum is None:
        return f"it is never above {indicator.maximum:g}"
    return f"it lies between {indicator.minimum:g} and {indicator.maximum:g}"


def _listed(codes: Sequence[str]) -> str:
    return " and ".join(codes)


def _codes_of(entries: Iterable[Indicator] | Iterable[Event], sector: str) -> tuple[str, ...]:
    return tuple(sorted(e.code for e in entries if not e.sectors or sector in e.sectors))


def catalogue_faults(catalogue: Catalogue) -> tuple[Fault, ...]:
    """What is wrong with a catalogue as a whole: codes that name nothing, or name two things."""
    found: list[Fault] = []
    named: list[tuple[str, str, Sequence[str]]] = [
        *(("goods", g.code, g.sectors) for g in catalogue.goods.values()),
        *(("indicators", i.code, i.sectors) for i in catalogue.indicators.values()),
        *(("events", e.code, e.sectors) for e in catalogue.events.values()),
    ]
    for kind, code, sectors in named:
        found.extend(
            unknown(f"/{kind}/{code}/sectors", "sector", sector, catalogue.sectors)
            for sector in sectors
            if sector not in catalogue.sectors
        )
    for code in sorted(set(catalogue.indicators) & set(catalogue.events)):
        detail = f"{code} is both an indicator and an event; a series could not tell them apart."
        found.append(Fault(f"/events/{code}", detail))
    for code, indicator in catalogue.indicators.items():
        low, high = indicator.minimum, indicator.maximum
        if low is not None and high is not None and low >= high:
            detail = f"{code} has a minimum that is not below its maximum."
            found.append(Fault(f"/indicators/{code}/minimum", detail))
        published = indicator.published
        if published is not None and published.after_days < 0:
            detail = f"{code} is published {-published.after_days} days before it is observed."
            found.append(Fault(f"/indicators/{code}/published/after_days", detail))
    return tuple(found)
