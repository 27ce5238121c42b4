"""Instants and spans as people write them in a timetable: ``31d``, ``+1w``, ``2021-03-31``."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

FIRST_YEAR, LAST_YEAR = 1900, 2200

_SPAN = re.compile(r"(\d{1,6})(min|h|d|w|mo|y)")
_SPANS = {"min": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_SPANS["w"] = timedelta(weeks=1)


class Unreadable(ValueError):
    """What was written is no instant or span; the message is the sentence to say."""


class Span(NamedTuple):
    """A length of time: whole months, or an exact span."""

    months: int = 0
    exact: timedelta = timedelta()

    def after(self, instant: datetime, times: int = 1) -> datetime:
        """So many spans after an instant.

        Months keep the day; a day that the month lacks becomes its last, and from the last day of
        a month they lead to last days, so that month ends stay month ends.
        """
        try:
            moved = instant + self.exact * times
            if self.months:
                month = moved.year * 12 + moved.month - 1 + self.months * times
                year, month = month // 12, month % 12 + 1
                last = calendar.monthrange(year, month)[1]
                is_end = moved.day == calendar.monthrange(moved.year, moved.month)[1]
                moved = moved.replace(
                    year=year, month=month, day=last if is_end else min(moved.day, last)
                )
        except (OverflowError, ValueError):
            raise Unreadable(f"That leads beyond the year {LAST_YEAR}.") from None
        if moved.year > LAST_YEAR:
            raise Unreadable(f"That leads beyond the year {LAST_YEAR}.")
        return moved


def span(written: str) -> Span:
    """Reads ``30min``, ``6h``, ``31d``, ``2w``, ``1mo`` or ``1y``.

    Raises:
        Unreadable: it is none of these.
    """
    match = _SPAN.fullmatch(written)
    if match is None:
        raise Unreadable(f"{written[:64]!r} is not a span such as 30min, 6h, 31d, 2w, 1mo or 1y.")
    count, unit = int(match[1]), match[2]
    if unit in _SPANS:
        return Span(exact=_SPANS[unit] * count)
    return Span(months=count * (12 if unit == "y" else 1))


def instant(written: str, start: datetime, before: datetime) -> datetime:
    """Reads a span from ``start``, one with a plus from ``before``, a day or an instant of ISO 8601.

    A day is its midnight, and what names no offset is UTC.

    Raises:
        Unreadable: it is none of these.
    """
    if written.startswith("+"):
        return span(written[1:]).after(before)
    if _SPAN.fullmatch(written):
        return span(written).after(start)
    return day(written)


def day(written: str) -> datetime:
    """Reads a day or an instant of ISO 8601.

    Raises:
        Unreadable: it is neither.
    """
    try:
        found = datetime.fromisoformat(written)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        detail = (
            f"{written[:64]!r} is neither a span such as 31d or 1mo nor a day such as 2021-03-31."
        )
        raise Unreadable(detail) from None
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise Unreadable(f"{written} is not between {FIRST_YEAR} and {LAST_YEAR}.")
    return found


def shown(at: datetime) -> str:
    """An instant as it is written: the day alone at midnight."""
    return f"{at:%Y-%m-%d}" if at.time() == datetime.min.time() else f"{at:%Y-%m-%dT%H:%MZ}"
