"""Replays recorded history through the engine and scores what it says against what happened.

reading    labels and signals from CSV files, with faults by line
spool      signals sorted on disk, by the alerts they may feed, in order of time
judging    shards replayed on all cores
report     what was found, as a document
stored     what the service has stored, replayed beside it
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from pathlib import Path

from alerts import replay, skill
from alerts.catalogue import Catalogue, Good, Place, Sector
from alerts.mechanisms import Profile
from alerts.signals import SeriesKey
from alerts.skill import Exemption, Label
from app import documents
from app.backtest import judging, pictures, spool
from app.backtest.judging import Crew, Played
from app.backtest.pictures import Picture
from app.backtest.reading import (
    DataFaulty,
    Noted,
    Row,
    instant,
    microseconds,
    unknown_codes,
)
from app.backtest.report import Report
from app.backtest.spool import Layout, Shard, Written
from app.settings import Unusable

Source = Path | Iterable[Row]
"""A folder of CSV files, one such file, or rows from anywhere."""

Tell = Callable[[str, int, int], None]
"""Hears what is being done, how much of it, and of how much."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of a backtest.

    ``labels`` are what is known to have happened. ``as_of`` judges every value when it was
    available. ``since`` and ``until`` limit what is scored; earlier observations are judged all
    the same, later ones are not read. ``workers`` changes nothing but the time it takes.
    """

    labels: tuple[Label, ...] = ()
    as_of: bool = False
    since: date | None = None
    until: date | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    exemptions: tuple[Exemption, ...] = skill.DECLARED
    catalogue: Catalogue = field(default_factory=documents.load_catalogue)


@dataclass(slots=True)
class Recording:
    """A history, spooled; as many profiles as one likes may be replayed over it."""

    plan: Plan
    layout: Layout
    shards: list[Shard]
    noted: Noted
    ends_at: datetime
    crew: Crew
    tell: Tell

    @property
    def rows(self) -> int:
        """How many records there are to judge."""
        return sum(shard.records + len(shard.events) for shard in self.shards)

    def report(self, profile: Profile) -> Report:
        """Replays one profile and scores it."""
        return self.reports([profile])[0]

    def reports(self, profiles: Sequence[Profile]) -> list[Report]:
        """Replays several profiles, the largest shards first."""
        catalogue = _widened(self.plan.catalogue, self.noted)
        largest = sorted(self.shards, key=lambda s: (-s.records, s.number))
        work = [
            (self.layout, shard, replay.lasting(profile), catalogue, self.ends_at)
            for shard in largest
            for profile in profiles
        ]
        total, done = self.rows * len(profiles), 0

        def tell(played: Played) -> None:
            nonlocal done
            done += played.samples
            self.tell("Judging", done, total)

        outcomes = self.crew.do(judging.judge_shard, work, tell)
        found: list[Report] = []
        for n, profile in enumerate(profiles):
            played = Played()
            for outcome in outcomes[n :: len(profiles)]:
                played.add(outcome)
            played.sort()
            found.append(self._scored(profile, played))
        return found

    def pictures(self, report: Report, at_most: int = pictures.AT_MOST) -> list[Picture]:
        """Every miss and every false episode as it looked, the first ``at_most`` of them."""
        wanted = pictures.wanted(
            report.profile, report.score, report.played.watched, self.plan.labels
        )[:at_most]
        by_shard: dict[int, list[pictures.Wanted]] = {}
        for one in wanted:
            by_shard.setdefault(self.layout.shard_of(one.series), []).append(one)
        profile = replay.lasting(report.profile)
        work = [
            (self.layout, shard, profile, self.plan.catalogue, by_shard[shard.number])
            for shard in self.shards
            if shard.number in by_shard
        ]
        done = 0

        def tell(drawn: list[Picture]) -> None:
            nonlocal done
            done += len(drawn)
            self.tell("Drawing", done, len(wanted))

        drawn = [p for found in self.crew.do(judging.draw_shard, work, tell) for p in found]
        return sorted(drawn, key=lambda p: p.number)

    def _scored(self, profile: Profile, played: Played) -> Report:
        plan = self.plan
        score = skill.score(
            plan.labels, played.watched, played.episodes, plan.exemptions, plan.since
        )
        return Report(
            profile,
            played,
            score,
            self.noted,
            plan.as_of,
            plan.since,
            plan.until,
            bool(plan.labels),
        )


def run(profile: Profile, source: Source, plan: Plan, tell: Tell | None = None) -> Report:
    """Replays one profile over a history and scores it.

    Raises:
        DataFaulty: with every fault of the files.
        Unusable: there is nothing to replay.
    """
    with recording(plan, source, [profile], tell) as recorded:
        return recorded.report(profile)


@contextmanager
def recording(
    plan: Plan, source: Source, profiles: Sequence[Profile], tell: Tell | None = None
) -> Iterator[Recording]:
    """Spools a history so that any of these profiles can be replayed over it; removed at the end.

    Raises:
        DataFaulty: with every fault of the files.
        Unusable: there is nothing to replay.
    """
    tell = tell or (lambda *_: None)
    until = None if plan.until is None else _end_of(plan.until)
    with tempfile.TemporaryDirectory(prefix="forewarn-backtest-") as folder:
        layout = Layout(
            Path(folder),
            plan.catalogue,
            spool.dimensions_of(profiles),
            plan.as_of,
            until,
            speaks=any(rule.trust is not None for p in profiles for rule in p.rules),
        )
        parts = spool.parts(_files(source)) if isinstance(source, Path) else []
        size = sum(span.end - span.begin for part in parts for span in part)
        rows_about = size // 64 * max(len(profiles), 1)
        workers = plan.workers if rows_about >= judging.WORTH_A_POOL else 1
        with judging.crew(workers) as crew:
            if isinstance(source, Path):
                written = _read(layout, parts, size, crew, tell)
            else:
                written = [_take(layout, source)]
            noted = Noted()
            for part in written:
                noted.add(part.noted)
            ends_at = max(part.until for part in written)
            if not any(part.series for part in written):
                raise Unusable("There is nothing to replay: the data has no rows.")
            yield Recording(
                plan,
                layout,
                spool.shards(layout, written),
                noted,
                instant(ends_at),
                crew,
                tell,
            )


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise Unusable(f"{folder} is not there.")
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise Unusable(f"There is no .csv file in {folder}.")
    return files


def _read(
    layout: Layout, parts: list[list[spool.Span]], size: int, crew: Crew, tell: Tell
) -> list[Written]:
    done = 0
    sizes = [sum(span.end - span.begin for span in part) for part in parts]

    def hear(written: Written) -> None:
        nonlocal done
        done += sizes[written.number]
        tell("Reading", done, size)

    work = [(layout, number, part) for number, part in enumerate(parts)]
    written = crew.do(spool.write_part, work, hear)
    faults = [fault for part in written for fault in part.faults]
    if faults:
        raise DataFaulty(faults)
    return written


def _take(layout: Layout, rows: Iterable[Row]) -> Written:
    writer, seen = spool.Writer(layout, 0), set[SeriesKey]()
    noted = writer.written.noted
    for row in rows:
        writer.add(row)
        noted.rows += 1
        if row.key not in seen:
            seen.add(row.key)
            is_event = row.told is not None
            noted.unknown |= unknown_codes(layout.catalogue, row.key, is_event=is_event)
    return writer.close()


def _end_of(day: date) -> int:
    return microseconds(datetime.combine(day, time.max, UTC))


def _widened(catalogue: Catalogue, noted: Noted) -> Catalogue:
    """The catalogue with the codes that it does not know, each its own title."""
    codes: dict[str, list[str]] = {"sector": [], "good": [], "place": []}
    for kind, code in sorted(noted.unknown):
        codes.setdefault(kind, []).append(code)
    return replace(
        catalogue,
        sectors={**catalogue.sectors, **{c: Sector(c, c) for c in codes["sector"]}},
        goods={**catalogue.goods, **{c: Good(c, c, ()) for c in codes["good"]}},
        places={**catalogue.places, **{c: Place(c, c) for c in codes["place"]}},
    )
