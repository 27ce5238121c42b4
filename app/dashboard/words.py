"""Words for people: times, amounts, titles and changes as the pages say them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from urllib.parse import quote

from alerts.catalogue import Catalogue
from alerts.mechanisms import Level
from alerts.signals import SeriesKey, Severity
from app.store.board import Change, Trend
from app.store.dossiers import Entry

CHANGES = {
    "alert.opened": "opened",
    "alert.updated": "updated",
    "alert.escalated": "rose",
    "alert.eased": "eased",
    "alert.resolved": "resolved",
}

DELIVERED = {"failed": "given up"}


_REMEMBERED = 4_096
"""So many instants in UTC are kept as text: a page writes the same ones many times, and so does the next."""


@lru_cache(_REMEMBERED)
def day(at: datetime) -> str:
    """``2023-07-03``, with the time of day only where it says something."""
    return f"{at:%Y-%m-%d}" if (at.hour, at.minute) == (0, 0) else f"{at:%Y-%m-%d %H:%M}"


@lru_cache(_REMEMBERED)
def clock(at: datetime) -> str:
    """``2023-07-03 14:05:09 UTC``: when the service wrote something down."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def ago(at: datetime, now: datetime) -> str:
    """How long ago in the largest unit that fits; ``now`` within a minute and for the future."""
    return span(now - at) + " ago" if now - at >= timedelta(minutes=1) else "just now"


def span(length: timedelta) -> str:
    """A length of time in the largest unit that fits twice, else the next smaller."""
    seconds = max(length.total_seconds(), 0)
    for size, unit in ((31_557_600, "years"), (86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    if seconds >= 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"


def lapse(seconds: float | None) -> str:
    """A measured time as it helps to compare: ``41 ms``, ``1.2 s``, ``34 s``, ``3 min``."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else span(timedelta(seconds=seconds))


def ahead(at: datetime, now: datetime) -> str:
    """How long until then; ``now`` for the past."""
    return f"in {span(at - now)}" if at > now else "now"


def harmless(text: str) -> str:
    """Text from elsewhere with nothing in it that moves the text around it.

    Control characters become their pictures, and marks that turn the direction of writing
    (Unicode Technical Report 36, 2.10) a replacement character. HTML is the templates' to escape.
    """
    return text.translate(_HARMLESS)


_HARMLESS = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
    **dict.fromkeys((0x061C, 0x200E, 0x200F, 0x2028, 0x2029), 0xFFFD),
}


def pace(days: float) -> str:
    """How often a feed usually speaks."""
    known = {1.0: "daily", 7.0: "weekly", 14.0: "fortnightly"}
    if days in known:
        return known[days]
    if 28 <= days <= 31:
        return "monthly"
    if 89 <= days <= 93:
        return "quarterly"
    if 360 <= days <= 370:
        return "yearly"
    return f"every {days:g} days" if days >= 1 else f"every {days * 24:.2g} h"


def amount(value: float | None, unit: str = "") -> str:
    """A value with its unit; four significant digits, thousands apart."""
    if value is None:
        return "\N{EN DASH}"
    digits = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    return f"{digits} {unit}".rstrip().replace("-", "\N{MINUS SIGN}")


def change(fraction: float) -> str:
    """A fraction as a signed percentage."""
    return f"{fraction:+.1%}".replace("-", "\N{MINUS SIGN}")


def in_an_address(part: str) -> str:
    """One part of the path of an address."""
    return quote(part, safe="")


def level(value: Level) -> str:
    """A level's name in words."""
    return value.name.replace("_", " ")


def capital(words: str) -> str:
    """With a capital first letter, the rest untouched."""
    return words[:1].upper() + words[1:]


def severity_of(name: str | None) -> Severity:
    """A severity by its name; none for no name."""
    return Severity[name] if name else Severity.none


def what_changed(moved: Change | Entry) -> str:
    """What a transition did, in a few words."""
    word = CHANGES.get(moved.type, moved.type.removeprefix("alert."))
    if moved.severity_from is moved.severity_to or moved.type == "alert.resolved":
        return word
    if moved.severity_from is Severity.none:
        return f"{word}, {moved.severity_to.name}"
    return f"{word} to {severity(moved.severity_to)}"


def severity(value: Severity) -> str:
    """A severity's name; its absence is calm."""
    return value.name if value else "calm"


def trend(value: Trend, changes: tuple[Change, ...]) -> str:
    """Where a sector is going and since when."""
    if not changes:
        return "no change on record"
    return f"{value} since {changes[-1].at:%Y-%m-%d}"


@dataclass(frozen=True, slots=True)
class Titles:
    """Titles by code; a code the catalogue no longer has stands for itself."""

    catalogue: Catalogue

    def sector(self, code: str) -> str:
        """A sector's title."""
        found = self.catalogue.sectors.get(code)
        return found.title if found else code

    def good(self, code: str) -> str:
        """A good's title."""
        found = self.catalogue.goods.get(code)
        return found.title if found else code

    def place(self, code: str) -> str:
        """A place's title, or a country's name."""
        found = self.catalogue.places.get(code)
        return found.title if found else self.catalogue.countries.get(code, code)

    def indicator(self, code: str) -> str:
        """An indicator's or an event's title."""
        found = self.catalogue.indicators.get(code) or self.catalogue.events.get(code)
        return found.title if found else code

    def unit(self, key: SeriesKey) -> str:
        """The unit of a series; empty for events."""
        found = self.catalogue.indicators.get(key.indicator)
        return found.unit if found else ""

    def series(self, key: SeriesKey) -> str:
        """``Export volume · Gallium · CN``."""
        parts = [self.indicator(key.indicator)]
        parts += [self.good(key.good)] if key.good else []
        parts += [self.place(key.place)] if key.place else []
        return " · ".join(parts)
