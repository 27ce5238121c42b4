"""Backtests of what the service has stored: replayed in processes of their own, one at a time.

The database writes its records straight into a file, so the event loop moves bytes and judges
nothing; a process of its own, behind everything else in line for the processor, does the rest as
the command line does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from secrets import token_urlsafe

from alerts.catalogue import Catalogue, nearest
from alerts.detectors.joint import joint_questions
from alerts.mechanisms import Profile
from alerts.rules import Combination
from alerts.signals import SeriesId, SeriesKey
from alerts.skill import Label, Verdict
from alerts.skill import Outcome as PairOutcome
from app import backtest, documents, store
from app.backtest import pages, pictures, reading, variants
from app.backtest.report import Document
from app.backtest.variants import Outcome
from app.database import Database
from app.documents import ProfileDocument
from app.settings import Unusable

MOST_JUDGED = 2_000_000
"""So many rows are replayed in one go, each point of a sweep and each profile beside it counted."""

MOST_SECONDS = 300
PICTURES_SHOWN = 40
OUTCOMES_KEPT = 4
TRY_AGAIN_SECONDS = 15

_NICENESS = 10
_END = datetime(9999, 12, 31, tzinfo=UTC)


class Occupied(Exception):
    """This process is replaying something already."""


class NothingStored(Unusable):
    """Nothing that the rules ask of was ever reported."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a backtest of stored history.

    ``only_newest`` takes every observation in its newest revision and as known when the catalogue
    says that it is published, for history that was loaded long after. ``sweep`` is written as on
    the command line. ``beside`` are profiles to compare with, by the names they are shown under.
    """

    profile: Profile
    labels: tuple[Label, ...] = ()
    as_of: bool = False
    since: date | None = None
    until: date | None = None
    only_newest: bool = False
    sweep: str = ""
    beside: tuple[tuple[str, Profile], ...] = ()


@dataclass(frozen=True, slots=True)
class Drawing:
    """One miss or false episode as a picture: inside a page, by itself, and as rows of a table."""

    name: str
    kind: str
    title: str
    said: str
    rule: str
    inline: str
    alone: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What one backtest found.

    ``document`` is what the command line says as JSON, in which each miss and each false episode
    names its ``picture``, or None beyond the first ones. The curve of a sweep is there twice, for a
    page and by itself; empty without one.
    """

    id: str
    document: Document
    drawings: tuple[Drawing, ...] = ()
    sweep_inline: str = ""
    sweep_alone: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Desk:
    """One process's backtests: at most one at a time, and the last few outcomes in memory."""

    _busy: bool = False
    _kept: OrderedDict[str, Found] = dataclasses.field(default_factory=OrderedDict)

    async def run(
        self, database: Database, catalogue: Catalogue, asked: Asked, now: datetime
    ) -> Found:
        """Replays what was received until now, and scores it.

        Raises:
            Occupied: another one is under way.
            NothingStored: there is nothing to replay.
            Unusable: it is too much, takes too long, or the sweep cannot be made.
            DatabaseAway: the database cannot be reached.
        """
        if self._busy:
            raise Occupied(
                "This process replays one history at a time, and another is under way. "
                f"Try again in {TRY_AGAIN_SECONDS} seconds."
            )
        self._busy = True
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="forewarn-backtest-"))
        try:
            rows, long_after = await _export(database, catalogue, asked, now, folder)
            found = await _apart(folder, catalogue, asked, rows)
        finally:
            self._busy = False
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if long_after * 2 > rows and not asked.only_newest:
            said = (
                f"{long_after:,} of {rows:,} rows were received more than a year after they were "
                "observed, so lead times say when the history was loaded. Take values as known "
                "when they were published instead."
            )
            found = replace(found, warnings=(said, *found.warnings))
        self._kept[found.id] = found
        while len(self._kept) > OUTCOMES_KEPT:
            self._kept.popitem(last=False)
        return found

    def found(self, outcome_id: str) -> Found | None:
        """One of the last outcomes of this process."""
        return self._kept.get(outcome_id)


def narrowed(profile: Profile, rules: Collection[str]) -> Profile:
    """The profile with these rules alone, and those that they count on; none means all.

    A shadow rule that is asked for by name is judged as if it were none: that is the question.

    Raises:
        Unusable: there is no such rule in use.
    """
    if not rules:
        return profile
    known = {rule.id: rule for rule in profile.rules}
    wanted: set[str] = set()
    waiting = list(rules)
    while waiting:
        one = waiting.pop()
        if one not in known:
            near = nearest(one, known)[:3]
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise Unusable(f"No rule {one[:100]!r} is in use under {profile.id}.{hint}")
        if one not in wanted:
            wanted.add(one)
            detector = known[one].detector
            if isinstance(detector, Combination):
                waiting += detector.rules or known
    chosen = (
        replace(rule, shadow=False) if rule.id in rules else rule
        for rule in profile.rules
        if rule.id in wanted
    )
    return replace(profile, rules=tuple(chosen))


def labels_of(text: str) -> tuple[Label, ...]:
    """The labels of a CSV; none of an empty text.

    Raises:
        DataFaulty: with every fault, by line.
    """
    if not text.strip():
        return ()
    return tuple(reading.labels_in(io.StringIO(text.lstrip("\ufeff"), newline=""), "labels"))


async def _export(
    database: Database, catalogue: Catalogue, asked: Asked, now: datetime, folder: Path
) -> tuple[int, int]:
    """Writes what is to be replayed into a file of the folder; how many rows, and how many late."""
    before = _END
    if asked.until is not None and asked.until < _END.date():
        before = datetime.combine(asked.until + timedelta(days=1), time(), UTC)
    profiles = [asked.profile, *(p for _, p in asked.beside)]
    sectors = {sector for p in profiles for rule in p.rules for sector in rule.sectors}
    async with database.begin() as connection:
        there = await store.recorded.series_of(connection, sectors)
        series = await asyncio.to_thread(_asked_of, profiles, there)
        size = await store.recorded.size(
            connection, series, before=before, known=now, most=MOST_JUDGED
        )
        if size.rows > MOST_JUDGED:
            raise Unusable(f"There are more than {MOST_JUDGED:,} rows to judge. {_ADVICE}")
        if not size.rows:
            names = " and ".join(dict.fromkeys(p.id for p in profiles))
            raise NothingStored(f"Nothing that these rules of {names} ask of was ever reported.")
        await store.recorded.export(
            connection,
            series,
            folder / "signals.csv",
            before=before,
            known=now,
            events=catalogue.events,
            only_newest=asked.only_newest,
        )
    return size.rows, size.long_after


_ADVICE = "Ask for fewer rules or an earlier `to`, or run `forewarn backtest` on files."


def _asked_of(
    profiles: Sequence[Profile], series: Sequence[tuple[SeriesId, SeriesKey]]
) -> list[SeriesId]:
    rules = [rule for p in profiles for rule in p.rules if not rule.is_joint]
    return [
        one
        for one, key in series
        if any(rule.asks(key) for rule in rules) or joint_questions(profiles, key)
    ]


async def _apart(folder: Path, catalogue: Catalogue, asked: Asked, rows: int) -> Found:
    """Does the work in a process of its own, which does not outlive this call."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, folder, catalogue, asked, rows))
    process.start()
    sender.close()
    try:
        async with asyncio.timeout(MOST_SECONDS):
            told: Found | str = await asyncio.to_thread(receiver.recv)
    except TimeoutError:
        raise Unusable(f"It took longer than {MOST_SECONDS} seconds. {_ADVICE}") from None
    except EOFError:
        raise RuntimeError("the process that replayed was ended from outside") from None
    finally:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # It has not made its group yet.
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        await asyncio.to_thread(process.join)
        receiver.close()
    if isinstance(told, str):
        raise Unusable(told)
    return told


def _work(sender: Pipe, folder: Path, catalogue: Catalogue, asked: Asked, rows: int) -> None:
    """What the process of its own does; its group is what is ended with it."""
    os.setsid()
    os.nice(_NICENESS)
    tempfile.tempdir = str(folder)
    try:
        sender.send(replayed(folder, catalogue, asked, rows))
    except Unusable as error:
        sender.send(str(error))


def replayed(folder: Path, catalogue: Catalogue, asked: Asked, rows: int) -> Found:
    """Replays the CSV files of a folder, some rows, as asked.

    Raises:
        Unusable: it is too much, or the sweep cannot be made.
    """
    points = (
        variants.points(_document(asked.profile), asked.sweep, catalogue) if asked.sweep else []
    )
    profiles = [asked.profile, *(p for _, p in asked.beside), *(p.profile for p in points)]
    if rows * len(profiles) > MOST_JUDGED:
        raise Unusable(
            f"{rows:,} rows are to be judged {len(profiles)} times; at most {MOST_JUDGED:,} "
            f"are judged in one go. {_ADVICE}"
        )
    plan = backtest.Plan(
        labels=asked.labels,
        as_of=asked.as_of,
        since=asked.since,
        until=asked.until,
        workers=max((os.cpu_count() or 1) - 1, 1),
        catalogue=catalogue,
    )
    with backtest.recording(plan, folder, profiles) as recorded:
        reports = recorded.reports(profiles)
        report, begin = reports[0], 1 + len(asked.beside)
        compared = reports[:begin] if asked.beside else []
        swept = list(zip(points, reports[begin:], strict=True))
        outcome = Outcome(report, compared, asked.sweep, swept)
        drawn = recorded.pictures(report, at_most=PICTURES_SHOWN)
    document = outcome.document()
    names = ["as asked", *(name for name, _ in asked.beside)]
    for entry, name in zip(document.get("compare", ()), names, strict=False):
        entry["name"] = name
    drawings = tuple(
        Drawing(
            f"{one.wanted.kind}-{one.number + 1:03d}",
            one.wanted.kind,
            one.wanted.title,
            one.said,
            one.rule,
            pictures.svg(one),
            pictures.svg(one, alone=True),
            tuple(pages.around(one)),
        )
        for one in drawn
    )
    _name_pictures(document, drawings)
    warnings = tuple(report.warnings())
    found = Found(token_urlsafe(9), document, drawings, warnings=warnings)
    if not points:
        return found
    curve, name = pages.curve(document), document["sweep"]["name"]
    return replace(
        found,
        sweep_inline=pictures.sweep_svg(name, curve),
        sweep_alone=pictures.sweep_svg(name, curve, alone=True),
    )


def _name_pictures(document: Document, drawings: Sequence[Drawing]) -> None:
    """Puts the name of its picture to each miss, then each false episode: the order they have."""
    of_misses = [p for p in document["pairs"] if p["outcome"] == PairOutcome.miss.value]
    of_false = [e for e in document["episodes"] if e["verdict"] == Verdict.false.value]
    names = iter([d.name for d in drawings])
    for one in [*document["pairs"], *document["episodes"]]:
        one["picture"] = None
    for one in [*of_misses, *of_false]:
        one["picture"] = next(names, None)


def _document(profile: Profile) -> ProfileDocument:
    """A profile as a document that says no more than it must, which a sweep changes a number of."""
    content = written(profile)
    assert isinstance(content, dict)
    return ProfileDocument(profile, content, documents.canonical_sha256(content))


def written(value: object) -> object:
    """A value of ``alerts`` as a person would write it: without what is as by default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            one.name: written(found)
            for one in dataclasses.fields(value)
            if (found := getattr(value, one.name)) != _default(one)
        }
    if isinstance(value, tuple):
        return [written(one) for one in value]
    if isinstance(value, Mapping):
        return {key: written(one) for key, one in value.items()}
    return documents.plain(value)


def _default(one: dataclasses.Field[object]) -> object:
    if one.default_factory is not dataclasses.MISSING:
        return one.default_factory()
    return one.default
