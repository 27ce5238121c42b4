"""Reads labels and recorded signals from CSV files; what is wrong is said with file and line."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from alerts.catalogue import Catalogue, Indicator
from alerts.signals import Origin, SeriesKey, Severity
from alerts.skill import Kind, Label
from app.settings import Unusable

FAULTS_SHOWN = 20
"""Of so many faults each is said; of more only how many."""

NOT_GIVEN = -(2**62)
"""Stands for an instant that a row does not give, in microseconds."""

EARLIEST_YEAR, LATEST_YEAR = 1900, 2200
"""Dates beyond these are slips of the pen, as in scenarios; arithmetic around them could overflow."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_INSTANTS_REMEMBERED = 100_000


class DataFaulty(Unusable):
    """The input cannot be used; ``faults`` says why, in the order of file and line."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        shown = [str(f) for f in faults[:FAULTS_SHOWN]]
        if len(faults) > FAULTS_SHOWN:
            shown.append(f"and {len(faults) - FAULTS_SHOWN} more")
        super().__init__("\n".join(shown))
        self.faults = list(faults)


class Fault(NamedTuple):
    """One thing wrong with a file."""

    file: str
    line: int
    said: str

    def __str__(self) -> str:
        """``file:line: sentence``."""
        return f"{self.file}:{self.line}: {self.said}"


class Told(NamedTuple):
    """A reported event as it stands in a row; instants in microseconds since 1970."""

    severity: Severity
    partner: str
    party: str
    origin: Origin
    origin_ref: str
    announced_at: int
    effective_at: int
    note: str


class Speaker(NamedTuple):
    """Who says a value, and how far it is to be believed, for rules that ask."""

    partner: str
    party: str = ""
    origin: Origin = Origin.assessment
    origin_ref: str = ""
    reliability: str = ""


class Row(NamedTuple):
    """One row of data, instants in microseconds since 1970.

    ``value`` is None where nothing was said; ``told`` is set of events instead. Without a
    ``speaker`` nothing more than the partner's name is known of who says it.
    """

    key: SeriesKey
    at: int
    available_at: int
    partner: str
    value: float | None
    told: Told | None = None
    speaker: Speaker | None = None


@dataclass(slots=True)
class Noted:
    """What is worth saying of the data although nothing is refused.

    ``unknown`` holds (kind, code); ``impossible`` counts values that the service would refuse, by
    series; ``blank`` counts rows without a value.
    """

    rows: int = 0
    blank: int = 0
    unknown: set[tuple[str, str]] = field(default_factory=set)
    impossible: dict[SeriesKey, int] = field(default_factory=dict)

    def add(self, other: Noted) -> None:
        """Takes in what another part of the data has."""
        self.rows += other.rows
        self.blank += other.blank
        self.unknown |= other.unknown
        for key, count in other.impossible.items():
            self.impossible[key] = self.impossible.get(key, 0) + count


def series_name(key: SeriesKey) -> str:
    """A series in one word: ``sector/indicator/good/place``, empty parts left empty."""
    return "/".join(key[:4])


def microseconds(at: datetime) -> int:
    """An instant as a number that keeps its order."""
    return (at - EPOCH) // MICROSECOND


def instant(at: int) -> datetime:
    """The instant of a number of microseconds."""
    return EPOCH + timedelta(microseconds=at)


def parse_instant(text: str) -> datetime:
    """A date (midnight UTC) or an instant (UTC where it says nothing else).

    Raises:
        ValueError: it is neither, or lies where no date can be meant.
    """
    at = datetime.fromisoformat(text)
    if not EARLIEST_YEAR <= at.year <= LATEST_YEAR:
        raise ValueError(f"{text} is not between {EARLIEST_YEAR} and {LATEST_YEAR}.")
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def read_labels(path: Path) -> list[Label]:
    """The labels of a CSV file, in its order.

    Raises:
        DataFaulty: with every fault.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            return labels_in(text, path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataFaulty([Fault(path.name, 1, _unreadable(error))]) from None


def labels_in(text: Iterable[str], name: str) -> list[Label]:
    """The labels of the lines of a CSV, in their order; ``name`` stands in the faults.

    Raises:
        DataFaulty: with every fault.
    """
    wanted = ("id", "sector", "indicator", "start", "label")
    faults: list[Fault] = []
    labels: list[Label] = []
    try:
        lines = csv.DictReader(text, strict=True)
        lacking = [column for column in wanted if column not in (lines.fieldnames or ())]
        if lacking:
            said = f"There is no column {', '.join(lacking)}."
            raise DataFaulty([Fault(name, 1, said)])
        if twice := _twice(list(lines.fieldnames or ())):
            said = f"The column {', '.join(twice)} is there twice."
            raise DataFaulty([Fault(name, 1, said)])
        for fields in lines:
            if None in fields:
                said = "It has more cells than the header."
                faults.append(Fault(name, lines.line_num, said))
                continue
            cells = {column: (cell or "").strip() for column, cell in fields.items()}
            try:
                labels.append(_label(cells))
            except ValueError as error:
                faults.append(Fault(name, lines.line_num, str(error)))
    except csv.Error as error:
        raise DataFaulty([Fault(name, 1, _unreadable(error))]) from None
    if faults:
        raise DataFaulty(faults)
    return labels


def _twice(header: Sequence[str]) -> list[str]:
    """Columns that a header names more than once: nobody can say which of them is meant."""
    return sorted({name for name in header if name and header.count(name) > 1})


def _unreadable(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "It is not UTF-8."
    return f"It cannot be read: {getattr(error, 'strerror', None) or error}."


def _label(cells: dict[str, str]) -> Label:
    if not cells["id"]:
        raise ValueError("A label needs an id.")
    start = _day(cells, "start")
    if start is None:
        raise ValueError("A label needs a start.")
    end = _day(cells, "end")
    if end is not None and end < start:
        raise ValueError(f"It ends on {end}, before it starts on {start}.")
    try:
        kind = Kind(cells["label"])
    except ValueError:
        words = ", ".join(kind.value for kind in Kind)
        raise ValueError(f"{cells['label']!r} is not a label; use {words}.") from None
    return Label(
        id=cells["id"],
        sector=cells["sector"],
        indicator=cells["indicator"],
        good=cells.get("good", ""),
        place=cells.get("place", ""),
        start=start,
        end=end,
        kind=kind,
        announced=_day(cells, "announced"),
        visible=cells.get("visible", "") or "yes",
        title=cells.get("event", "") or cells.get("title", ""),
    )


def _day(cells: dict[str, str], name: str) -> date | None:
    text = cells.get(name, "")
    if not text:
        return None
    try:
        return parse_instant(text).date()
    except ValueError:
        raise ValueError(f"The {name} {text!r} is not a date such as 2021-03-23.") from None


def unknown_codes(catalogue: Catalogue, key: SeriesKey, *, is_event: bool) -> set[tuple[str, str]]:
    """What of a series the catalogue does not know, as (kind, code)."""
    known = catalogue.events if is_event else catalogue.indicators
    found: set[tuple[str, str]] = set()
    if key.indicator not in known:
        found.add(("event" if is_event else "indicator", key.indicator))
    if key.sector not in catalogue.sectors:
        found.add(("sector", key.sector))
    if key.good and key.good not in catalogue.goods:
        found.add(("good", key.good))
    if key.place and not catalogue.is_place(key.place):
        found.add(("place", key.place))
    return found


class Columns:
    """Where the columns of one file stand, and how its rows are read."""

    def __init__(self, file: str, header: Sequence[str], catalogue: Catalogue) -> None:
        """Finds the columns.

        Raises:
            DataFaulty: one is lacking.
        """
        place = {name.strip(): n for n, name in enumerate(header)}
        if twice := _twice([name.strip() for name in header]):
            raise DataFaulty([Fault(file, 1, f"The column {', '.join(twice)} is there twice.")])
        lacking = [name for name in ("sector", "observed_at") if name not in place]
        if "indicator" not in place and "event" not in place:
            lacking.append("indicator")
        if "indicator" in place and "value" not in place:
            lacking.append("value")
        if lacking:
            raise DataFaulty([Fault(file, 1, f"There is no column {', '.join(lacking)}.")])
        self.file = file
        self._width = len(header)
        self._place = place
        self._catalogue = catalogue
        self._noted = Noted()
        self._keys: dict[tuple[str, ...], tuple[SeriesKey, Indicator | None, bool]] = {}
        self._instants: dict[str, int] = {}

    @property
    def noted(self) -> Noted:
        """What was noted so far."""
        return self._noted

    def rows(
        self,
        reader: Iterable[list[str]],
        line_of: Callable[[], int],
        faults: list[Fault],
        *,
        speaks: bool = False,
    ) -> Iterator[Row]:
        """The rows of the file; what is wrong is added to ``faults`` and left out.

        With ``speaks`` rows tell more of who says them than the partner's name.
        """
        # The names are bound once: this loop runs for every row of tens of millions.
        sector, observed = self._place["sector"], self._place["observed_at"]
        indicator, event = self._place.get("indicator", -1), self._place.get("event", -1)
        good, place = self._place.get("good", -1), self._place.get("place", -1)
        value_at, unit = self._place.get("value", -1), self._place.get("unit", -1)
        available, partner = self._place.get("available_at", -1), self._place.get("partner", -1)
        speaking = [self._place.get(name, -1) for name in Speaker._fields]
        speakers: dict[tuple[str, ...], Speaker] = {}
        width, noted, keys, instants = self._width, self._noted, self._keys, self._instants
        for cells in reader:
            if len(cells) != width:
                if cells:
                    said = f"It has {len(cells)} cells and the header {width}."
                    faults.append(Fault(self.file, line_of(), said))
                continue
            cells.append("")  # What a file has no column for stands at -1, and is empty.
            noted.rows += 1
            try:
                named = (
                    cells[sector], cells[indicator], cells[good], cells[place], cells[event],
                    cells[unit],
                )  # fmt: skip
                found = keys.get(named)
                if found is None:
                    found = keys[named] = self._series(named)
                key, known, is_event = found
                text = cells[observed]
                at = instants.get(text)
                if at is None:
                    at = self._instant(text, "observed_at")
                text = cells[available]
                known_at = NOT_GIVEN
                if text:
                    known_at = instants.get(text) or self._instant(text, "available_at")
                    known_at = max(known_at, at)  # Nothing is known before it is observed.
                if is_event:
                    told = self._told(key, cells)
                    yield Row(key, at, known_at, cells[partner], None, told)
                    continue
                text = cells[value_at]
                if not text or text.isspace():
                    noted.blank += 1
                    continue
                value = float(text) if text.isascii() else math.nan
                if not math.isfinite(value):
                    said = f"The value {text!r} is not a finite number."
                    faults.append(Fault(self.file, line_of(), said))
                    continue
                if known is not None and (
                    (known.minimum is not None and value < known.minimum)
                    or (known.maximum is not None and value > known.maximum)
                ):
                    noted.impossible[key] = noted.impossible.get(key, 0) + 1
                    continue
                if not speaks:
                    yield Row(key, at, known_at, cells[partner], value)
                    continue
                words = tuple(cells[n] for n in speaking)
                speaker = speakers.get(words)
                if speaker is None:
                    speaker = speakers[words] = _speaker(words)
                yield Row(key, at, known_at, cells[partner], value, None, speaker)
            except ValueError as error:
                said = str(error)
                if said.startswith("could not convert"):
                    said = f"The value {cells[value_at]!r} is not a number."
                faults.append(Fault(self.file, line_of(), said))

    def _series(self, named: tuple[str, ...]) -> tuple[SeriesKey, Indicator | None, bool]:
        """The series a row speaks of, looked at once: what is unknown is noted, not refused."""
        sector, indicator, good, place, event, unit = (word.strip() for word in named)
        if bool(indicator) == bool(event):
            raise ValueError("A row names either an indicator or an event, and not both.")
        if not sector:
            raise ValueError("A row needs a sector.")
        key = SeriesKey(sector, indicator or event, good, place)
        self._noted.unknown |= unknown_codes(self._catalogue, key, is_event=bool(event))
        known = self._catalogue.indicators.get(indicator)
        if known is not None and unit and unit != known.unit:
            raise ValueError(f"{indicator} is measured in {known.unit}, not in {unit!r}.")
        return key, known, bool(event)

    def _instant(self, text: str, name: str) -> int:
        try:
            at = microseconds(parse_instant(text.strip()))
        except (ValueError, OverflowError):
            raise ValueError(
                f"The {name} {text!r} is not a date or an instant from 1900 to 2200, such as 2021-03-23."
            ) from None
        if len(self._instants) >= _INSTANTS_REMEMBERED:
            self._instants.clear()
        self._instants[text] = at
        return at

    def _told(self, key: SeriesKey, cells: Sequence[str]) -> Told:
        def cell(name: str) -> str:
            return cells[self._place.get(name, -1)].strip()

        def when(name: str) -> int:
            return self._instant(cell(name), name) if cell(name) else NOT_GIVEN

        known = self._catalogue.events.get(key.indicator)
        severity = cell("severity") or (known.severity.name if known else Severity.moderate.name)
        if severity not in Severity.__members__:
            words = ", ".join(Severity.__members__)
            raise ValueError(f"The severity {severity!r} is none of {words}.")
        return Told(
            Severity[severity],
            cell("partner"),
            cell("party"),
            _origin(cell("origin")),
            cell("origin_ref"),
            when("announced_at"),
            when("effective_at"),
            cell("note"),
        )


def _speaker(words: tuple[str, ...]) -> Speaker:
    partner, party, origin, origin_ref, reliability = (word.strip() for word in words)
    return Speaker(partner, party, _origin(origin), origin_ref, reliability)


def _origin(word: str) -> Origin:
    """The origin of that name; nothing said is an assessment."""
    if word and word not in set(Origin):
        raise ValueError(f"The origin {word!r} is none of {', '.join(Origin)}.")
    return Origin(word) if word else Origin.assessment
