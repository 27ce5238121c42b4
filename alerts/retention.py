"""How long signals are kept, by sector and sharing label, in whole months; decides and deletes nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from alerts.mechanisms import Tlp

UNMARKED = ""
"""The label of a signal that carries none."""

LABELS = (*(label.value for label in Tlp), UNMARKED)

_LINE = re.compile(r"(\*|[a-z0-9_-]+)(?:/(?:TLP:)?([A-Z+]+))?=([0-9]{1,4}|forever)")
_LONGEST_MONTHS = 1_200


@dataclass(frozen=True, slots=True)
class Keep:
    """One line of the policy: what it speaks of, and for how many months that is kept.

    ``sector`` empty: of every sector. ``label`` None: whatever its label, and without one.
    ``months`` None: for ever.
    """

    sector: str
    label: Tlp | None
    months: int | None

    @classmethod
    def read(cls, text: str) -> Keep:
        """Reads ``semiconductors/RED=24``, ``*/AMBER=36``, ``energy=forever`` or ``*=120``.

        Raises:
            ValueError: it has another form; the message says which would do.
        """
        found = _LINE.fullmatch(text)
        labels = {label.value: label for label in Tlp}
        if found is None or found[2] not in {None, *labels}:
            raise ValueError(
                f"{text!r} is no line of a retention policy; write sector/label=months, such as "
                f"semiconductors/RED=24, */AMBER=60 or *=120 (labels: {', '.join(labels)}; "
                "months: 1 to 1200, or forever)"
            )
        months = None if found[3] == "forever" else int(found[3])
        if months is not None and not 1 <= months <= _LONGEST_MONTHS:
            raise ValueError(f"{text!r}: months are 1 to {_LONGEST_MONTHS}, or forever")
        return cls("" if found[1] == "*" else found[1], labels.get(found[2]), months)

    def __str__(self) -> str:
        """As it is read."""
        label = f"/{self.label.value}" if self.label else ""
        return f"{self.sector or '*'}{label}={self.months or 'forever'}"

    def fits(self, sector: str, label: str) -> bool:
        """Whether it speaks of signals of that sector and label."""
        return self.sector in {"", sector} and (self.label is None or self.label.value == label)


@dataclass(frozen=True, slots=True)
class Retention:
    """The whole policy: the first line that fits a signal counts; what no line fits is kept for ever.

    A signal goes with its month: kept for 24 months means that what was observed in January 2024 goes
    on 1 February 2026.
    """

    lines: tuple[Keep, ...] = ()

    def __str__(self) -> str:
        """As it is written in the setting."""
        return ",".join(str(line) for line in self.lines)

    def months(self, sector: str, label: str) -> int | None:
        """For how many months signals of a sector and label are kept; None for ever."""
        return next((line.months for line in self.lines if line.fits(sector, label)), None)

    def goes_on(self, month: datetime, sector: str, label: str) -> datetime | None:
        """When what was observed in that month, of that sector and label, goes; None never."""
        months = self.months(sector, label)
        return None if months is None else month_after(month, months + 1)

    def kept_from(self, now: datetime, sector: str, label: str) -> datetime | None:
        """The first instant of which signals of a sector and label are kept; None for all."""
        months = self.months(sector, label)
        return None if months is None else month_after(month_of(now), -months)

    def all_kept_from(self, now: datetime) -> datetime | None:
        """From when on everything is kept, whatever its sector and label; None for all."""
        shortest = min((line.months for line in self.lines if line.months), default=None)
        return None if shortest is None else month_after(month_of(now), -shortest)

    def expired(
        self, month: datetime, sectors: Iterable[str], now: datetime
    ) -> list[tuple[str, str]]:
        """The sectors and labels whose signals of that month have gone or go now."""
        return [
            (sector, label)
            for sector in sectors
            for label in LABELS
            if (at := self.goes_on(month, sector, label)) is not None and at <= now
        ]

    def unknown(self, sectors: Collection[str]) -> list[str]:
        """The sectors that the policy names and nobody knows, by its order."""
        return [line.sector for line in self.lines if line.sector and line.sector not in sectors]


def month_of(at: datetime) -> datetime:
    """The first instant of the month, UTC, that an instant lies in."""
    at = at.astimezone(UTC)
    return datetime(at.year, at.month, 1, tzinfo=UTC)


def month_after(month: datetime, count: int) -> datetime:
    """The first instant of the month so many after another; negative for before. Not before year 1."""
    months = max(month.year * 12 + month.month - 1 + count, 12)
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
