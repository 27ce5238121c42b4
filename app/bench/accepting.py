"""Measures of accepting signals: how many, how soon the answer comes, and how soon others hear."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from app.bench.bed import Bed
from app.bench.lines import Line, compare, quantile

Tick = Callable[[], None]
"""Called after every part, so that people see that it goes on."""

Found = defaultdict[str, list[float]]

PAUSE_SECONDS = 0.03
BODY_BYTES = 3_000
_HEARD_SECONDS = 60
_CRISIS_CONNECTIONS = 16
_LIMITS_SHARE = 0.5
"""Of ``Plan.seconds``: what does little needs less time to show how fast it is."""


def ingest(bed: Bed, tick: Tick) -> Iterator[Line]:
    """Signals accepted a second: stored and judged by two rules each before the answer.

    Limits: the same rows inserted into the same layout with nothing else; a commit a request that writes
    next to nothing; the framework decoding the same requests with nothing else.
    """
    plan, found = bed.plan, Found(list)
    cases = [(batch, connections) for batch in plan.batches for connections in plan.connections]
    short = plan.seconds * _LIMITS_SHARE
    bed.warm_up()
    for _ in range(plan.runs):
        committed = {}
        for connections in plan.connections:
            committed[connections] = bed.hand.do(
                "commit", database=bed.database, connections=connections, seconds=short
            )["rate"]
            tick()
        for batch, connections in cases:
            case = f"batch {batch}, {connections} connection{'s' if connections > 1 else ''}"
            load = {"batch": batch, "connections": connections}
            posted = bed.post(f"{bed.service}/v1/signals", seconds=plan.seconds, **load)
            found[case].append(posted["rate"])
            tick()
            found[f"{case} insert"].append(_insert(bed, seconds=short, **load)["rate"])
            found[f"{case} commit"].append(committed[connections] * batch)
            echoed = bed.post(f"{bed.echo}/echo", again=True, seconds=short, **load)
            found[f"{case} echo"].append(echoed["rate"])
            tick()
            if plan.peer:
                taken = bed.post(bed.peer, form="peer, to nobody", seconds=short, **load)
                found[f"{case} peer"].append(taken["rate"])
    for case in [name for name in found if f"{name} echo" in found]:
        for limit in ("insert", "commit", "echo"):
            yield compare(
                "ingest",
                f"{case}, beside bare {limit}",
                "signals/s",
                found[case],
                found[f"{case} {limit}"],
                found[f"{case} peer"],
            )


def single(bed: Bed, tick: Tick) -> Iterator[Line]:
    """One signal after the other on one connection. Limit: a bare commit of the same row."""
    plan, found = bed.plan, Found(list)
    load = {"batch": 1, "connections": 1, "seconds": plan.seconds}
    bed.warm_up()
    for _ in range(plan.runs):
        posted = bed.post(f"{bed.service}/v1/signals", **load)
        tick()
        committed = _insert(bed, **load)
        tick()
        taken = bed.post(bed.peer, form="peer, to nobody", **load) if plan.peer else {}
        for share in ("p50", "p99"):
            found[share].append(posted[share])
            found[f"{share} limit"].append(committed[share])
            found[f"{share} peer"] += [taken[share]] if taken else []
    for share in ("p50", "p99"):
        case = f"sequential {share}, beside a bare commit"
        yield compare(
            "single", case, "ms", found[share], found[f"{share} limit"], found[f"{share} peer"]
        )


def _insert(bed: Bed, **load: Any) -> dict[str, Any]:
    return bed.hand.do("insert", database=bed.database, series=bed.plan.series, **load)


def crisis(calm: Bed, troubled: Bed, tick: Tick) -> Iterator[Line]:
    """Signals accepted a second while some series fire again and again and their alerts are open.

    Limit: the same where all are calm.
    """
    plan, found = calm.plan, Found(list)
    load = {"batch": max(plan.batches), "connections": _CRISIS_CONNECTIONS, "seconds": plan.seconds}
    calm.warm_up()
    troubled.warm_up()
    for share in plan.firing:
        firing = plan.series * share // 100
        case = f"batch {load['batch']}, {share} series in 100 fire, beside none"
        troubled.post(f"{troubled.service}/v1/signals", **load, firing=firing)  # The alerts open.
        tick()
        for _ in range(plan.runs):
            posted = calm.post(f"{calm.service}/v1/signals", **load)
            found[f"{case} limit"].append(posted["rate"])
            posted = troubled.post(f"{troubled.service}/v1/signals", **load, firing=firing)
            found[case].append(posted["rate"])
            tick()
    for case in [name for name in found if f"{name} limit" in found]:
        yield compare("crisis", case, "signals/s", found[case], found[f"{case} limit"])


def latency(bed: Bed, tick: Tick) -> Iterator[Line]:
    """From the beginning of a POST until another process has the webhook: while nothing else happens, and
    while others report steadily.

    Limit: the framework alone that decodes, signs and sends over the same client, without a database.
    """
    plan, found = bed.plan, Found(list)
    bed.warm_up()
    subscription = bed.subscribe(f"{bed.sinks[0]}/hear", types=["alert.opened"])
    relay = f"{bed.echo}/relay?to={bed.sinks[0]}/hear&size={BODY_BYTES}"
    # Where marks are sent, where the steady signals are, and how each is written.
    ways = {
        "": (f"{bed.service}/v1/signals", "ours", f"{bed.service}/v1/signals", "ours"),
        " limit": (relay, "ours", f"{bed.echo}/echo", "ours"),
    }
    if plan.peer:
        ways[" peer"] = (bed.peer, "peer, heard", bed.peer, "peer, to nobody")
    for url, form, _, _ in ways.values():  # The first webhook opens a connection: not measured.
        _mark(bed, url, form, 0, 3)
    first = 0
    for _ in range(plan.runs):
        for batch in (0, *plan.background_batches):
            case = _occasion(bed, batch)
            first += plan.marks
            for name, (url, form, steady, steady_form) in ways.items():
                if not batch:
                    took = _mark(bed, url, form, first, plan.marks)
                else:
                    wanted = {"batch": batch, "rate": plan.background, "form": steady_form}
                    with bed.awake(steady), bed.flow(steady, **wanted) as reached:
                        took = _mark(bed, url, form, first, plan.marks)
                    found[f"{case} reached{name}"] += reached
                found[f"{case} p50{name}"].append(quantile(took, 0.5))
                found[f"{case} p99{name}"].append(quantile(took, 0.99))
            tick()
    bed.unsubscribe([subscription])
    for batch in (0, *plan.background_batches):
        case = _occasion(bed, batch)
        for what, unit in (
            ("p50", "ms"),
            ("p99", "ms"),
            *([("reached", "signals/s")] * (batch > 0)),
        ):
            yield compare(
                "latency",
                f"{case} {what}, beside bare echo and send",
                unit,
                *(found[f"{case} {what}{name}"] for name in ("", " limit", " peer")),
            )


def _occasion(bed: Bed, batch: int) -> str:
    if not batch:
        return "idle"
    written = f"in batches of {batch}" if batch > 1 else "one by one"
    return f"{bed.plan.background:,} signals/s {written},"


def _mark(bed: Bed, url: str, form: str, first: int, count: int) -> list[float]:
    """How long each mark took until its webhook came, in milliseconds."""
    with bed.awake(url):
        begun = bed.mark(url, form=form, first=first, count=count, pause=PAUSE_SECONDS)
        heard = bed.heard(begun, _HEARD_SECONDS)
    return [(heard[name] - at) / 1e6 for name, at in begun.items()]
