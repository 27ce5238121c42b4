"""Sorts recorded signals into files by the alerts they may feed, in order of time, without holding them.

A *part* is some megabytes of the input, a *shard* all series whose alerts may touch, and more. Every
part writes one file a shard, of fixed records in sorted runs; a shard is read by merging the runs
of all parts. Parts and shards do not depend on how many processes there are, so nothing else does.
"""

from __future__ import annotations

import csv
import heapq
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

from alerts.catalogue import Catalogue
from alerts.mechanisms import Dimension, Profile
from alerts.signals import SeriesKey
from app.backtest import reading
from app.backtest.reading import NOT_GIVEN, DataFaulty, Fault, Noted, Row, Speaker, Told
from app.settings import Unusable

SHARDS = 64
PART_BYTES = 32 * 2**20
"""So much of the input is one part; a file is cut at the ends of lines."""

HELD = 100_000
"""So many records are sorted at a time while a part is read."""

SORTED_AT_ONCE = 250_000
"""A shard of at most so many records is sorted in memory; of a larger one the runs are merged."""

_READ_AT_ONCE = 1_024

Record = tuple[int, int, int, int, int, float, int]
"""Observed, series, partner, available, number of the row, value, speaker; with ``as_of`` the instant at
which it was available comes first, then observed, series, partner. Instants in microseconds."""

_RECORD = struct.Struct("<qqqqqdq")


class Span(NamedTuple):
    """Some bytes of a file, whole lines; the header is not among them."""

    path: Path
    begin: int
    end: int


class Event(NamedTuple):
    """A reported event: of which series, when observed, when available."""

    series: int
    at: int
    available_at: int
    told: Told


@dataclass(slots=True)
class Written:
    """What one part has written: for each shard the lengths of its runs, in records."""

    number: int
    runs: dict[int, list[int]] = field(default_factory=dict)
    series: dict[int, SeriesKey] = field(default_factory=dict)
    many: set[int] = field(default_factory=set)
    speakers: dict[int, Speaker] = field(default_factory=dict)
    events: dict[int, list[Event]] = field(default_factory=dict)
    noted: Noted = field(default_factory=Noted)
    faults: list[Fault] = field(default_factory=list)
    until: int = NOT_GIVEN

    @property
    def records(self) -> int:
        """How many records it has."""
        return sum(sum(runs) for runs in self.runs.values())


@dataclass(frozen=True, slots=True)
class Layout:
    """How signals are spooled; the same for every part.

    Series whose good and place (where ``dimensions`` names them) and sector are the same are in
    one shard. ``until`` leaves out what was observed later. ``speaks`` keeps who says each value,
    for rules that ask.
    """

    folder: Path
    catalogue: Catalogue
    dimensions: frozenset[Dimension]
    as_of: bool = False
    until: int | None = None
    speaks: bool = False

    def shard_of(self, key: SeriesKey) -> int:
        """The shard of a series."""
        good = key.good if Dimension.good in self.dimensions else ""
        place = key.place if Dimension.place in self.dimensions else ""
        return crc32("\0".join((key.sector, good, place)).encode()) % SHARDS

    def file(self, part: int, shard: int) -> Path:
        """Where a part keeps what it has of a shard."""
        return self.folder / f"{part:06d}-{shard:02d}"


def dimensions_of(profiles: Iterable[Profile]) -> frozenset[Dimension]:
    """What tells the alerts of all these profiles apart, so that one spool serves all.

    Rules over several series may read any of their sector.
    """
    common = frozenset(Dimension)
    for profile in profiles:
        joint = any(rule.is_joint for rule in profile.rules)
        common &= frozenset() if joint else frozenset(profile.alert_per)
    return common


def parts(files: Sequence[Path]) -> list[list[Span]]:
    """The input cut into parts, in the order of files and lines.

    Raises:
        Unusable: a file cannot be read.
    """
    found: list[list[Span]] = []
    held = 0
    for path in files:
        try:
            spans = list(_spans(path))
        except OSError as error:
            raise Unusable(f"{path} cannot be read ({error.strerror}).") from None
        for span in spans:
            size = span.end - span.begin
            if not found or held + size > PART_BYTES:
                found.append([])
                held = 0
            found[-1].append(span)
            held += size
    return found


def _spans(path: Path) -> Iterator[Span]:
    """A file's lines after the header, cut where a line ends.

    A file with a quoted cell is not cut, since a quoted cell may hold a line's end.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.readline()
        begin = file.tell()
        if size - begin <= PART_BYTES or _has_quotes(file):
            yield Span(path, begin, size)
            return
        while begin < size:
            file.seek(min(begin + PART_BYTES, size))
            file.readline()
            end = file.tell()
            yield Span(path, begin, end)
            begin = end


def _has_quotes(file: BinaryIO) -> bool:
    return any(b'"' in block for block in iter(lambda: file.read(2**20), b""))


def write_part(
    layout: Layout, number: int, spans: Sequence[Span], tell: Callable[[int], None] | None = None
) -> Written:
    """Reads a part of the input and spools it; ``tell`` hears of bytes read.

    What is wrong is in ``faults``. The header was looked at by ``parts`` alone, so a file without
    a needed column is found here.
    """
    writer = Writer(layout, number)
    try:
        for span in spans:
            _write_span(layout, span, writer)
            if tell is not None:
                tell(span.end - span.begin)
    finally:
        written = writer.close()
    return written


def _write_span(layout: Layout, span: Span, writer: Writer) -> None:
    written = writer.written
    try:
        with span.path.open("rb") as file:
            header = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
            columns = reading.Columns(span.path.name, header, layout.catalogue)
            lines = _Lines(file, span)
            reader = csv.reader(lines, strict=True)
            faults: list[Fault] = []
            try:
                for row in columns.rows(
                    reader, lambda: reader.line_num, faults, speaks=layout.speaks
                ):
                    writer.add(row)
            except csv.Error as error:
                faults.append(Fault(span.path.name, reader.line_num, f"It is not CSV: {error}."))
            except UnicodeDecodeError:
                faults.append(Fault(span.path.name, lines.read + 1, "It is not UTF-8."))
            if faults:
                before = _lines_before(span)
                written.faults += [f._replace(line=f.line + before) for f in faults]
            written.noted.add(columns.noted)
    except DataFaulty as error:
        written.faults += error.faults
    except csv.Error as error:
        written.faults.append(Fault(span.path.name, 1, f"It is not CSV: {error}."))
    except UnicodeDecodeError:
        written.faults.append(Fault(span.path.name, 1, "It is not UTF-8."))
    except OSError as error:
        written.faults.append(Fault(span.path.name, 1, f"It cannot be read: {error.strerror}."))


class _Lines:
    """The lines of a span as text."""

    def __init__(self, file: BinaryIO, span: Span) -> None:
        file.seek(span.begin)
        self._file = file
        self._left = span.end - span.begin
        self.read = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            if self._left <= 0:
                return
            self._left -= len(line)
            yield line.decode()
            self.read += 1


def _lines_before(span: Span) -> int:
    """How many lines a file has before a span; asked only to say where a fault is."""
    with span.path.open("rb") as file:
        left, found = span.begin, 0
        while left > 0 and (block := file.read(min(left, 2**20))):
            found += block.count(b"\n")
            left -= len(block)
    return found


class Writer:
    """Spools rows of one part, sorting some at a time."""

    def __init__(self, layout: Layout, number: int) -> None:
        """Begins a part; files are made when something is to be written."""
        self.written = Written(number)
        self._layout = layout
        self._files = ExitStack()
        self._open: dict[int, BinaryIO] = {}
        self._held: dict[int, list[Record]] = {}
        self._count = 0
        self._row = number << 40
        self._last: dict[int, Record] = {}
        self._partner_of: dict[int, int] = {}
        self._series: dict[SeriesKey, tuple[int, int]] = {}
        self._partners: dict[str, int] = {"": 0}
        self._speakers: dict[Speaker, int] = {}
        self._known_at: dict[tuple[str, int], int] = {}

    def add(self, row: Row) -> None:
        """Takes one row."""
        key, at, available, partner, value, told, speaker = row
        layout, written = self._layout, self.written
        if layout.until is not None and at > layout.until:
            return
        place = self._series.get(key)
        if place is None:
            place = self._series[key] = (_number(key), layout.shard_of(key))
            written.series[place[0]] = key
        series, shard = place
        if layout.as_of and available == NOT_GIVEN:
            available = self._public_at(key, at)
        written.until = max(written.until, at, available)
        if told is not None:
            written.events.setdefault(shard, []).append(Event(series, at, available, told))
            return
        if value is None:
            return
        who = self._partners.get(partner)
        if who is None:
            who = self._partners[partner] = _number((partner,))
        if self._partner_of.setdefault(series, who) != who:
            written.many.add(series)
        said_by = 0
        if layout.speaks:
            speaker = speaker or Speaker(partner)
            said_by = self._speakers.get(speaker, 0)
            if not said_by:
                said_by = self._speakers[speaker] = _number(speaker)
                written.speakers[said_by] = speaker
        self._row += 1
        if layout.as_of:
            record = (available, at, series, who, self._row, value, said_by)
        else:
            record = (at, series, who, available, self._row, value, said_by)
        held = self._held.get(shard)
        if held is None:
            held = self._held[shard] = []
        held.append(record)
        self._count += 1
        if self._count >= HELD:
            self._flush()

    def close(self) -> Written:
        """Writes what is held."""
        self._flush()
        self._files.close()
        return self.written

    def _public_at(self, key: SeriesKey, at: int) -> int:
        """When an observation came out whose row does not say so."""
        asked = (key.indicator, at)
        found = self._known_at.get(asked)
        if found is None:
            indicator = self._layout.catalogue.indicators.get(key.indicator)
            found = at
            if indicator is not None and indicator.published is not None:
                known_at = indicator.published.known_at(reading.instant(at))
                found = reading.microseconds(known_at)
            if len(self._known_at) > HELD:
                self._known_at.clear()
            self._known_at[asked] = found
        return found

    def _flush(self) -> None:
        for shard, records in sorted(self._held.items()):
            records.sort()
            runs = self.written.runs.setdefault(shard, [])
            file = self._open.get(shard)
            if file is None:
                path = self._layout.file(self.written.number, shard)
                file = self._open[shard] = self._files.enter_context(path.open("wb"))
            if runs and records[0] >= self._last[shard]:
                runs[-1] += len(records)
            else:
                runs.append(len(records))
            self._last[shard] = records[-1]
            pack = _RECORD.pack
            file.write(b"".join([pack(*record) for record in records]))
        self._held.clear()
        self._count = 0


def _number(words: Iterable[str]) -> int:
    """A name as a number that is the same in every process; two names sharing one is out of question."""
    digest = blake2b("\0".join(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclass(frozen=True, slots=True)
class Shard:
    """What is spooled of one shard: the runs of each part, its series and its events.

    ``many`` are the series that several partners report, ``speakers`` all who say values.
    """

    number: int
    runs: tuple[tuple[int, tuple[int, ...]], ...]
    series: dict[int, tuple[int, SeriesKey]]
    many: frozenset[int]
    speakers: dict[int, Speaker]
    events: tuple[Event, ...]

    @property
    def records(self) -> int:
        """How many records it has."""
        return sum(sum(lengths) for _, lengths in self.runs)


def shards(layout: Layout, written: Sequence[Written]) -> list[Shard]:
    """The shards that all parts make together; series are numbered in the order of their keys."""
    keys = {key: number for part in written for number, key in part.series.items()}
    ids = {key: place for place, key in enumerate(sorted(keys), start=1)}
    several = {s for part in written for s in part.many} | _in_several_parts(written)
    speakers = {number: one for part in written for number, one in part.speakers.items()}
    series: dict[int, dict[int, tuple[int, SeriesKey]]] = {}
    for key, number in keys.items():
        series.setdefault(layout.shard_of(key), {})[number] = (ids[key], key)
    return [
        Shard(
            shard,
            tuple((p.number, tuple(p.runs[shard])) for p in written if shard in p.runs),
            found,
            frozenset(several & found.keys()),
            speakers,
            tuple(e for p in written for e in p.events.get(shard, ())),
        )
        for shard, found in sorted(series.items())
    ]


def _in_several_parts(written: Sequence[Written]) -> set[int]:
    """Series of which each part may know another partner."""
    seen: set[int] = set()
    twice: set[int] = set()
    for part in written:
        twice |= seen & part.series.keys()
        seen |= part.series.keys()
    return twice


def records(layout: Layout, shard: Shard) -> Iterable[Record]:
    """The records of a shard in order."""
    runs = [
        (layout.file(part, shard.number), sum(lengths[:n]), length)
        for part, lengths in shard.runs
        for n, length in enumerate(lengths)
    ]
    if shard.records <= SORTED_AT_ONCE:
        return sorted(record for run in runs for record in _read(*run))
    if len(runs) == 1:
        return _read(*runs[0])
    return heapq.merge(*(_read(*run) for run in runs))


def _read(path: Path, first: int, count: int) -> Iterator[Record]:
    size, left = _RECORD.size, count
    place = first * size
    while left > 0:
        with path.open("rb") as file:  # Not kept open: a shard may have hundreds of runs.
            file.seek(place)
            block = file.read(min(left, _READ_AT_ONCE) * size)
        if not block:
            raise Unusable(f"{path} is shorter than it was; has somebody else written there?")
        yield from _RECORD.iter_unpack(block)
        left -= len(block) // size
        place += len(block)
