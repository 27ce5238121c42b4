"""Numbers, days, places and goods in words, as people write them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from itertools import count

from alerts.catalogue import EU, Catalogue
from alerts.detectors.reading import MONTHS, TOLERANCE
from alerts.signals import SeriesKey

_UNITS = {
    "percent": "%",
    "fraction": "",
    "index": "",
    "ratio": "",
    "score": "",
    "sd": "standard deviations",
}
"""Units that read otherwise than they are written."""


@lru_cache(maxsize=1_000)
def instant(at: datetime | None) -> str | None:
    """RFC 3339 in UTC with a Z, or null. One document writes the same few ten times."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def day(at: datetime) -> str:
    """A day as people write it: "3 July 2023"."""
    return f"{at.day} {MONTHS[at.month - 1]} {at.year}"


def amount(value: float | None, unit: str) -> str:
    """A number with its unit, no more digits than matter: "26.6 weeks", "43 transits a day"."""
    return "unknown" if value is None else with_unit(number(value), unit)


def with_unit(said: str, unit: str) -> str:
    words = _UNITS.get(unit, unit)
    first, slash, span = words.partition("/")
    if slash and span in {"day", "week", "month", "year"}:
        words = f"{first} a {span}"
    if said in {"1", "-1"}:
        counted, per, rest = words.partition(" a ")
        words = f"{counted.removesuffix('s')}{per}{rest}"
    return f"{said} {words}".rstrip()


def number(value: float, digits: int | None = None) -> str:
    """A number for people: four digits or so; ``digits`` asks for that many behind the point."""
    size = abs(value)
    if size >= 1e15 or (0 < size < 0.001 and digits is None):
        return f"{value:.3g}"
    if digits is None:
        digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    said = f"{value:,.{digits}f}"
    said = said.rstrip("0").rstrip(".") if "." in said else said
    return "0" if said == "-0" else said


def apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart."""
    said = number(one), number(other)
    if abs(one - other) <= TOLERANCE or abs(one) >= 1e15 or abs(other) >= 1e15:
        return said
    for digits in count(1):
        if said[0] != said[1]:
            break
        said = number(one, digits), number(other, digits)
    return said


def percent(fraction: float) -> str:
    return f"{number(round(100 * fraction, 1))} %"


def signed(fraction: float) -> str:
    return f"{'+' if fraction > 0 else ''}{percent(fraction)}"


def where(key: SeriesKey, catalogue: Catalogue) -> str:
    name = place_of(key.place, catalogue)
    is_land = len(key.place) == 2 or "-" in key.place
    if key.place in catalogue.places and not is_land:
        return f"at the {name}"
    if key.place in {EU, "US"} and name == key.place:
        name = f"the {name}"
    if not is_land:
        return f"at {name}"
    if key.indicator in catalogue.events:
        return f"in {name}"
    direction = {"export": "from", "import": "into"}.get(key.indicator.partition("_")[0], "in")
    return f"{direction} {name}"


def sector_of(code: str, catalogue: Catalogue) -> str:
    return small(catalogue.sectors[code].title) if code in catalogue.sectors else code


def good_of(code: str, catalogue: Catalogue) -> str:
    return small(catalogue.goods[code].title) if code in catalogue.goods else code


def place_of(code: str, catalogue: Catalogue) -> str:
    if code in catalogue.places:
        return catalogue.places[code].title
    return catalogue.countries.get(code, code)


def capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def small(words: str) -> str:
    """Words as they stand within a sentence; DRAM stays DRAM."""
    return words if words[1:2].isupper() else words[:1].lower() + words[1:]
