"""Measures of sending: what is owed, how fast it goes, what it costs, and how soon a thousand hear."""

from __future__ import annotations

from collections.abc import Iterator

from app.bench import backlog
from app.bench.accepting import BODY_BYTES, PAUSE_SECONDS, Found, Tick
from app.bench.bed import Bed
from app.bench.lines import Line, compare

_IN_FLIGHT, _PER_ENDPOINT = 256, 4
_BURST_SECONDS = 60
_UPDATING_CONNECTIONS = 10
_STORM_BATCH = 100


def deliver(bed: Bed, tick: Tick) -> Iterator[Line]:
    """Deliveries a second, attempts recorded, when many are owed at once; what one costs; how fast many
    alerts that open at once are told; and how long one alert takes to reach a thousand subscriptions.

    Limits: signing and sending over the same client to the same receivers, as many at a time, with
    nothing recorded; one UPDATE and commit for each delivery, with nothing sent. First by one process, which
    does all there is to do, then by it and a worker.
    """
    for receivers in bed.plan.receivers:
        yield from _backlog(bed, tick, receivers, processes=1)
    yield from _storm(bed, tick)
    yield from _burst(bed, tick)
    with bed.more(1, "worker"):
        for receivers in bed.plan.receivers:
            yield from _backlog(bed, tick, receivers, processes=2)


def _backlog(bed: Bed, tick: Tick, receivers: int, *, processes: int) -> Iterator[Line]:
    plan, found = bed.plan, Found(list)
    case = f"{receivers} receiver{'s' if receivers > 1 else ''}"
    if processes > 1:
        case += ", two processes"
    urls = [f"{sink}/count" for sink in bed.sinks[:receivers]]
    subscriptions = bed.subscribe_all(urls, types=["alert.opened"], exercises=True)
    in_flight = min(_IN_FLIGHT, _PER_ENDPOINT * receivers)
    for run in range(plan.runs):
        alerts = max(1, plan.deliveries // receivers)
        owed = backlog.make(bed, subscriptions, alerts, f"deliver-{receivers}-{processes}-{run}")
        tick()
        before = bed.process()
        found[case].append(backlog.work_off(bed, subscriptions, owed))
        after = bed.process()
        found[f"{case} cpu"].append((after.cpu - before.cpu) / owed.count * 1e6)
        found[f"{case} memory"].append(after.memory / 2**20)
        tick()
        sent = bed.hand.do(
            "send",
            urls=urls,
            count=owed.count,
            size=owed.mean_bytes,
            in_flight=in_flight,
            per_endpoint=_PER_ENDPOINT,
        )
        found[f"{case} sending"].append(sent["rate"])
        found[f"{case} sending cpu"].append(sent["cpu"] * 1e6)
        tick()
        updated = bed.hand.do(
            "update",
            database=bed.database,
            count=owed.count,
            connections=min(in_flight, _UPDATING_CONNECTIONS),
        )
        found[f"{case} updating"].append(updated["rate"])
        tick()
    bed.unsubscribe(subscriptions)
    yield from _delivered(case, found)


def _delivered(case: str, found: Found) -> Iterator[Line]:
    for limit, words in (("sending", "bare signed sending"), ("updating", "one UPDATE a delivery")):
        yield compare(
            "deliver",
            f"{case}, beside {words}",
            "deliveries/s",
            found[case],
            found[f"{case} {limit}"],
        )
    words = f"{case}, processor of the service, beside bare signed sending"
    yield compare(
        "deliver", words, "µs/delivery", found[f"{case} cpu"], found[f"{case} sending cpu"]
    )
    yield compare(
        "deliver", f"{case}, memory of the service after it", "MB", found[f"{case} memory"]
    )


def _storm(bed: Bed, tick: Tick) -> Iterator[Line]:
    """From the beginning of the first POST of many that open alerts until the last webhook has come."""
    plan, found = bed.plan, Found(list)
    sink = f"{bed.sinks[0]}/count"
    subscription = bed.subscribe(sink, types=["alert.opened"], exercises=True)
    ways = {"": (f"{bed.service}/v1/signals", "ours")}
    if plan.peer:
        ways[" peer"] = (bed.peer, "peer, counted")
    count = plan.deliveries
    for run in range(plan.runs):
        for name, (url, form) in ways.items():
            before, exercise = bed.counted().count, f"storm-{run}"
            with bed.awake(url):
                begun = bed.mark(
                    url,
                    form=form,
                    first=0,
                    count=count,
                    batch=_STORM_BATCH,
                    exercise=exercise,
                    pause=0,
                )
                counted = bed.wait_for(before + count, _BURST_SECONDS)
            found[f"storm{name}"].append(count / (counted.last - min(begun.values())) * 1e9)
            tick()
        sent = bed.hand.do(
            "send",
            urls=[sink],
            count=count,
            size=BODY_BYTES,
            in_flight=_PER_ENDPOINT,
            per_endpoint=_PER_ENDPOINT,
        )
        found["storm limit"].append(sent["rate"])
    bed.unsubscribe([subscription])
    yield compare(
        "deliver",
        f"storm of {count:,} alerts, 1 receiver, beside bare signed sending",
        "deliveries/s",
        *(found[f"storm{name}"] for name in ("", " limit", " peer")),
    )


def _burst(bed: Bed, tick: Tick) -> Iterator[Line]:
    """From the beginning of a POST that opens one alert until every subscription has its webhook."""
    plan, found = bed.plan, Found(list)
    sinks = bed.sinks
    urls = [f"{sinks[n % len(sinks)]}/count/{n}" for n in range(plan.subscriptions)]
    subscriptions = bed.subscribe_all(urls, types=["alert.opened"])
    for run in range(plan.runs):
        heard = bed.counted().count
        marked = bed.mark(
            f"{bed.service}/v1/signals",
            # A subject about which no other measure opens an alert: those begin at the first.
            first=plan.series * 5 // 8 + run,
            count=1,
            pause=PAUSE_SECONDS,
        )
        (begun,) = marked.values()
        counted = bed.wait_for(heard + len(urls), _BURST_SECONDS)
        found["burst"].append((counted.last - begun) / 1e6)
        tick()
        bare = bed.hand.do(
            "send",
            urls=urls,
            count=len(urls),
            size=BODY_BYTES,
            in_flight=_IN_FLIGHT,
            per_endpoint=1,
        )
        found["limit"].append(len(urls) / bare["rate"] * 1e3)
        tick()
    bed.unsubscribe(subscriptions)
    case = f"one alert to {len(urls):,} subscriptions, beside bare signed sending"
    yield compare("deliver", case, "ms", found["burst"], found["limit"])


def scale(bed: Bed, tick: Tick) -> Iterator[Line]:
    """What one process does beside what several do that each do everything, on one database.

    Limit: the rate of one process.
    """
    plan, found = bed.plan, Found(list)
    receivers = max(plan.receivers)
    sinks = [f"{sink}/count" for sink in bed.sinks[:receivers]]
    subscriptions = bed.subscribe_all(sinks, types=["alert.opened"], exercises=True)
    batch = max(plan.batches)
    loads = {
        f"batch {batch}, 16 connections": {"batch": batch, "connections": 16},
        "batch 1, 64 connections": {"batch": 1, "connections": 64},
    }
    owing = f"{receivers} receivers"
    for count in plan.processes:
        with bed.more(count - 1, "all") as services:
            bed.warm_up(*services)
            urls = [f"{service}/v1/signals" for service in services]
            for run in range(plan.runs):
                for case, load in loads.items():
                    posted = bed.post(*urls, seconds=plan.seconds, **load)
                    found[f"{case} {count}"].append(posted["rate"])
                    tick()
                alerts = max(1, plan.deliveries // receivers)
                owed = backlog.make(bed, subscriptions, alerts, f"scale-{count}-{run}")
                found[f"{owing} {count}"].append(backlog.work_off(bed, subscriptions, owed))
                tick()
    bed.unsubscribe(subscriptions)
    one = plan.processes[0]
    for case, unit in (*((case, "signals/s") for case in loads), (owing, "deliveries/s")):
        yield compare("scale", f"{case}, {one} process", unit, found[f"{case} {one}"])
        for count in plan.processes[1:]:
            words = f"{case}, {count} processes, beside {one}"
            yield compare("scale", words, unit, found[f"{case} {count}"], found[f"{case} {one}"])
