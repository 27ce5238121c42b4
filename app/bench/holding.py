"""Measures of a service that holds much: its rate, its size, its pages, its memory, and how it starts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.bench import backlog, bed
from app.bench.accepting import Found, Tick
from app.bench.bed import Bed
from app.bench.lines import Line, compare

_SIZE = "SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree('signals') WHERE isleaf"
_COUNT = "SELECT count(*) FROM signals"
_REFS = 200
_SAMPLE_SECONDS = 0.1
_FLAT_CONNECTIONS = 4
_FLAT_LONGER = 2
"""Times ``Plan.seconds``: a hundred requests are needed before a p99 says something."""

_WARM, _CHECKPOINT = "warm", "right after a checkpoint"


def flat(few: Bed, many: Bed, tick: Tick) -> Iterator[Line]:
    """Signals accepted a second, and how long a request takes, with little and with more and more stored,
    warm and right after a checkpoint. Limit: the same with little.
    """
    plan, found = few.plan, Found(list)
    least, *stages = plan.stored
    size = min(1_000, plan.series)
    load = {
        "batch": size,
        "connections": _FLAT_CONNECTIONS,
        "seconds": plan.seconds * _FLAT_LONGER,
    }
    few.warm_up()
    for stored in stages:
        many.grow(stored)
        many.warm_up()
        tick()
        for _ in range(plan.runs):
            for when in (_WARM, _CHECKPOINT):
                for which, one in ((least, few), (stored, many)):
                    if when is _CHECKPOINT:
                        one.sql("CHECKPOINT")
                    posted = one.post(f"{one.service}/v1/signals", **load)
                    found[f"{when} rate {stored} {which}"].append(posted["rate"])
                    found[f"{when} p99 {stored} {which}"].append(posted["p99"])
                tick()
        found[f"size {stored}"].append(many.sql(_SIZE) / many.sql(_COUNT))
    for what, unit in (("rate", "signals/s"), ("p99", "ms")):
        for when in (_WARM, _CHECKPOINT):
            shown = f"batch {size}, {when}{', p99 of a request' if what == 'p99' else ''}"
            small = [x for stored in stages for x in found[f"{when} {what} {stored} {least}"]]
            yield compare("flat", f"{shown}, {least:,} stored", unit, small)
            for stored in stages:
                yield compare(
                    "flat",
                    f"{shown}, {stored:,} stored, beside {least:,}",
                    unit,
                    found[f"{when} {what} {stored} {stored}"],
                    found[f"{when} {what} {stored} {least}"],
                )
    written = few.sql(_SIZE) / few.sql(_COUNT)
    case = f"table and index, {least:,} stored and what the runs brought"
    yield compare("flat", case, "bytes/signal", [written])
    for stored in stages:
        case = f"table and index, {stored:,} stored"
        yield compare("flat", case, "bytes/signal", found[f"size {stored}"])


@dataclass(frozen=True, slots=True)
class Burden:
    """What a bed was filled with: open alerts, and deliveries owed to these suspended subscriptions."""

    alerts: int
    owed: int
    subscriptions: Sequence[str]

    def __str__(self) -> str:
        return f"{self.alerts:,} open alerts and {self.owed:,} owed"


def fill(bed: Bed) -> Burden:
    """Has an alert open about each of many series, each owed to several subscriptions that are suspended."""
    urls = [f"{bed.sinks[n % len(bed.sinks)]}/count/{n}" for n in range(bed.plan.owed_to)]
    subscriptions = bed.subscribe_all(urls, types=["alert.opened"])
    alerts = bed.plan.open_alerts
    owed = backlog.make(bed, subscriptions, alerts, first=bed.plan.series - alerts)
    return Burden(alerts, owed.count, subscriptions)


def reads(bed: Bed, burden: Burden, tick: Tick) -> Iterator[Line]:
    """How long pages take while many alerts are open and much is stored."""
    plan, found = bed.plan, Found(list)
    pages = {
        "list of alerts, /v1/alerts": ["/v1/alerts"],
        "dashboard, /": ["/"],
        "page of one alert, /alerts/…": [f"/alerts/{ref}" for ref in _refs(bed)],
    }
    for _ in range(plan.runs):
        for page, paths in pages.items():
            took = bed.hand.do(
                "read", url=bed.service, key=bed.key, paths=paths, seconds=plan.seconds
            )
            for share in ("p50", "p99"):
                found[f"{page} {share}"].append(took[share])
            tick()
    held = f"{burden}, {bed.history.stored:,} stored"
    for page in pages:
        for share in ("p50", "p99"):
            yield compare("reads", f"{page}, {share}; {held}", "ms", found[f"{page} {share}"])


def _refs(bed: Bed) -> list[str]:
    page = bed.ask("GET", f"/v1/alerts?limit={_REFS}")["items"]
    return [alert["ref"] for alert in page]


def memory(one: Bed, burden: Burden, tick: Tick) -> Iterator[Line]:
    """How much memory a process takes that has much to do, and how long it takes to start."""
    plan, found = one.plan, Found(list)
    found["opened"].append(one.process().memory / 2**20)
    pages = ["/v1/alerts", "/", *(f"/alerts/{ref}" for ref in _refs(one)[:10])]
    for _ in range(plan.runs):
        one.stop_service()
        found["start full"].append(one.start_service())
        found["started"].append(one.process().memory / 2**20)
        backlog.resume(one, burden.subscriptions)
        seconds = plan.seconds * 2
        one.hand.begin("read", url=one.service, key=one.key, paths=pages, seconds=seconds)
        most, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            most = max(most, one.process().memory)
            time.sleep(_SAMPLE_SECONDS)
        one.hand.found()
        found["busy"].append(most / 2**20)
        for subscription in burden.subscriptions:
            one.ask("POST", f"/v1/subscriptions/{subscription}/suspend")
        tick()
    for _ in range(plan.runs):
        starts = bed.starts()
        found["start fresh"].append(starts.fresh)
        found["start again"].append(starts.again)
        found["bare start"].append(starts.bare)
        tick()
    held = f"{burden}, {one.history.stored:,} stored"
    for name, words in (
        ("opened", "the process that opened them"),
        ("started", "right after a start"),
        ("busy", "while it sends and shows pages"),
    ):
        yield compare("memory", f"{words}; {held}", "MB", found[name])
    for name, words in (
        ("start fresh", "start to ready, in a fresh folder"),
        ("start again", "start to ready, in an existing folder, beside bare start"),
        ("start full", f"start to ready; {held}"),
    ):
        limits = found["bare start"] if name == "start again" else ()
        yield compare("memory", words, "s", found[name], limits)
