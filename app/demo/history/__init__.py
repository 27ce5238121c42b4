"""History as it is replayed: the figures of this folder's CSV files, in the order they became known.

``README.md`` beside this module says where every figure comes from and which are stand-ins.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from pathlib import Path

FOLDER = Path(__file__).parent

PARTNERS = {"aurora statistics": "EU", "dorado trade desk": "US"}
"""Who reports the history, and for which party they act. Both are inventions."""

NUMBERS = {"value": float, "revision": int}
NOT_SENT = ("partner", "available_at")


@dataclass(frozen=True, slots=True)
class Row:
    """One signal of the past: who reports it, when it became known, and the body that is posted.

    ``body`` has the fields of the API's signals; what the file leaves empty is left out.
    """

    file: str
    line: int
    partner: str
    known_at: datetime
    body: dict[str, str | float | int]

    @property
    def month(self) -> date:
        """The first day of the month in which it became known."""
        return self.known_at.date().replace(day=1)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one partner reports within one month, in the order it became known."""

    partner: str
    month: date
    rows: tuple[Row, ...]

    @property
    def bodies(self) -> list[dict[str, str | float | int]]:
        """What is posted, in order."""
        return [row.body for row in self.rows]


def files() -> list[Path]:
    """The CSV files, by name."""
    return sorted(FOLDER.glob("*.csv"))


def read(names: Iterable[str] = ()) -> list[Row]:
    """All rows of the named files (all files when none is named), in the order they became known.

    Rows that became known at the same instant keep the order of file name and line.

    Raises:
        ValueError: a row cannot be read; the message names file and line.
    """
    wanted = [FOLDER / name for name in names] or files()
    rows = [row for file in wanted for row in _read_file(file)]
    return sorted(rows, key=lambda row: row.known_at)


def batches(rows: Sequence[Row], most: int = 1_000) -> list[Batch]:
    """The rows as requests: one for each run of rows of one partner within one month.

    Order is kept, so the last row of a batch became known no later than the first of the next.
    """
    made: list[Batch] = []
    for (month, partner), run in groupby(rows, key=lambda row: (row.month, row.partner)):
        together = tuple(run)
        made.extend(
            Batch(partner, month, together[start : start + most])
            for start in range(0, len(together), most)
        )
    return made


def _read_file(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as text:
        lines = csv.DictReader(text)
        for fields in lines:
            try:
                yield _row(path.name, lines.line_num, fields)
            except (KeyError, ValueError) as error:
                fault = f"{path.name}, line {lines.line_num}: {error}"
                raise ValueError(fault) from error


def _row(file: str, line: int, fields: dict[str, str]) -> Row:
    partner = fields["partner"]
    if partner not in PARTNERS:
        unknown = f"partner {partner!r} is not one of {', '.join(PARTNERS)}"
        raise ValueError(unknown)
    body: dict[str, str | float | int] = {
        name: NUMBERS[name](text) if name in NUMBERS else text
        for name, text in fields.items()
        if text and name not in NOT_SENT
    }
    known = datetime.fromisoformat(fields.get("available_at") or fields["observed_at"])
    return Row(file, line, partner, known, body)
