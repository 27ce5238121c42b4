"""What is measured: each measure has the product and its bare limits take turns, several times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from app.bench import backlog, bed, questions
from app.bench.bed import Bed, Tool
from app.bench.lines import Line, compare, quantile
from app.bench.plan import Plan

Tick = Callable[[], None]
"""Called after every part, so that people see that it goes on."""

Found = defaultdict[str, list[float]]

_PAUSE_SECONDS = 0.01
_HEARD_SECONDS = 10
_BODY_BYTES = 3_000
_IN_FLIGHT, _PER_ENDPOINT = 256, 4
_BURST_SECONDS = 60
_UPDATING_CONNECTIONS = 10
_JUDGING_SHARE = 0.2
"""Of ``Plan.seconds``: what takes microseconds needs less time than a service does."""


def ingest(bed: Bed, tick: Tick) -> Iterator[Line]:
    """Signals accepted a second: stored and judged by two rules each before the answer.

    Limits: the same rows inserted into the same layout with nothing else; the framework decoding
    the same requests with nothing else.
    """
    plan, found = bed.plan, Found(list)
    cases = [(batch, connections) for batch in plan.batches for connections in plan.connections]
    bed.warm_up()
    for _ in range(plan.runs):
        for batch, connections in cases:
            case = f"batch {batch}, {connections} connection{'s' if connections > 1 else ''}"
            load = {"batch": batch, "connections": connections, "seconds": plan.seconds}
            found[case].append(bed.post(f"{bed.service}/v1/signals", **load)["rate"])
            tick()
            found[f"{case} insert"].append(_insert(bed, **load)["rate"])
            tick()
            found[f"{case} echo"].append(bed.post(f"{bed.echo}/echo", again=True, **load)["rate"])
            tick()
    for case in [name for name in found if f"{name} echo" in found]:
        for limit in ("insert", "echo"):
            yield compare(
                "ingest",
                f"{case}, beside bare {limit}",
                "signals/s",
                found[case],
                found[f"{case} {limit}"],
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
        for share in ("p50", "p99"):
            found[share].append(posted[share])
            found[f"{share} limit"].append(committed[share])
    for share in ("p50", "p99"):
        case = f"sequential {share}, beside a bare commit"
        yield compare("single", case, "ms", found[share], found[f"{share} limit"])


def latency(bed: Bed, tick: Tick) -> Iterator[Line]:
    """From the beginning of a POST until another process has the webhook, while nothing else happens.

    Limit: the framework alone that decodes, signs and sends over the same client, without a database.
    """
    plan, found = bed.plan, Found(list)
    bed.warm_up()
    subscription = bed.subscribe(f"{bed.sinks[0]}/hear", types=["alert.opened"])
    service = f"{bed.service}/v1/signals"
    relay = f"{bed.echo}/relay?to={bed.sinks[0]}/hear&size={_BODY_BYTES}"
    first = 0
    for url in (service, relay):  # The first webhook opens a connection; that is not measured.
        _mark(bed, url, 0, 3)
    for _ in range(plan.runs):
        first += plan.marks
        for name, url in (("", service), (" limit", relay)):
            took = _mark(bed, url, first, plan.marks)
            found[f"p50{name}"].append(quantile(took, 0.5))
            found[f"p99{name}"].append(quantile(took, 0.99))
            tick()
    bed.ask("DELETE", f"/v1/subscriptions/{subscription}")
    for share in ("p50", "p99"):
        case = f"idle {share}, beside bare echo and send"
        yield compare("latency", case, "ms", found[share], found[f"{share} limit"])


def _mark(bed: Bed, url: str, first: int, count: int) -> list[float]:
    """How long each mark took until its webhook came, in milliseconds."""
    sent = bed.hand.do(
        "post_marks",
        url=url,
        key=bed.key,
        series=bed.plan.series,
        start=bed.start.isoformat(),
        minute=bed.minute,
        first=first,
        count=count,
        pause=_PAUSE_SECONDS,
    )
    bed.minute += 1
    begun: dict[str, int] = sent["begun"]
    heard = bed.heard(begun, _HEARD_SECONDS)
    return [(heard[name] - at) / 1e6 for name, at in begun.items()]


def deliver(bed: Bed, tick: Tick) -> Iterator[Line]:
    """Deliveries a second, attempts recorded, when many are owed at once; what one costs; and how long
    one alert takes to reach a thousand subscriptions.

    Limits: signing and sending over the same client to the same receivers, as many at a time, with
    nothing recorded; one UPDATE and commit for each delivery, with nothing sent. First by one process, which
    does all there is to do, then by it and a worker.
    """
    for receivers in bed.plan.receivers:
        yield from _backlog(bed, tick, receivers, processes=1)
    yield from _burst(bed, tick)
    bed.add_worker()
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
        exercise = f"deliver-{receivers}-{processes}-{run}"
        owed = backlog.make(bed, subscriptions, exercise, alerts)
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


def _burst(bed: Bed, tick: Tick) -> Iterator[Line]:
    """From the beginning of a POST that opens one alert until every subscription has its webhook."""
    plan, found = bed.plan, Found(list)
    sinks = bed.sinks
    urls = [f"{sinks[n % len(sinks)]}/count/{n}" for n in range(plan.subscriptions)]
    subscriptions = bed.subscribe_all(urls, types=["alert.opened"])
    for run in range(plan.runs):
        heard = bed.counted().count
        sent = bed.hand.do(
            "post_marks",
            url=f"{bed.service}/v1/signals",
            key=bed.key,
            series=plan.series,
            start=bed.start.isoformat(),
            minute=bed.minute,
            # Of goods and places about which no other measure opens an alert: those begin at the first.
            first=plan.series * 5 // 8 + run,
            count=1,
            pause=_PAUSE_SECONDS,
        )
        bed.minute += 1
        (begun,) = sent["begun"].values()
        counted = bed.wait_for(heard + len(urls), _BURST_SECONDS)
        found["burst"].append((counted.last - begun) / 1e6)
        tick()
        bare = bed.hand.do(
            "send",
            urls=urls,
            count=len(urls),
            size=_BODY_BYTES,
            in_flight=_IN_FLIGHT,
            per_endpoint=1,
        )
        found["limit"].append(len(urls) / bare["rate"] * 1e3)
        tick()
    bed.unsubscribe(subscriptions)
    case = f"one alert to {len(urls):,} subscriptions, beside bare signed sending"
    yield compare("deliver", case, "ms", found["burst"], found["limit"])


def flat(few: Bed, many: Bed, tick: Tick) -> Iterator[Line]:
    """Signals accepted a second with few and with many stored before. Limit: the rate with few."""
    found = Found(list)
    for one in (few, many):
        one.warm_up()
    for _ in range(few.plan.runs):
        for name, one in (("few", few), ("many", many)):
            url, size = f"{one.service}/v1/signals", min(1_000, one.plan.series)
            posted = one.post(url, batch=size, connections=1, seconds=one.plan.seconds)
            found[name].append(posted["rate"])
            tick()
    stored = [one.plan.series * one.plan.samples for one in (few, many)]
    size = min(1_000, few.plan.series)
    yield compare("flat", f"batch {size}, {stored[0]:,} stored", "signals/s", found["few"])
    case = f"batch {size}, {stored[1]:,} stored, beside {stored[0]:,}"
    yield compare("flat", case, "signals/s", found["many"], found["few"])


def judge(hand: Tool, plan: Plan, tick: Tick) -> Iterator[Line]:
    """Microseconds of the engine for one more signal, with more and more rules and samples held.

    Limit: a plain loop that computes the same statistics from the same window.
    """
    found = Found(list)
    middle = plan.held[len(plan.held) // 2]
    parts = [
        (rules, held, batch)
        for rules in plan.rules
        for held, batch in ((plan.held, 1), ((middle,), plan.call))
    ]
    seconds = plan.seconds * _JUDGING_SHARE
    for _ in range(plan.runs):
        for rules, held, batch in parts:
            took = hand.do("judge", rules=rules, held=held, batch=batch, seconds=seconds)
            for place, count in enumerate(held):
                case = _judged(rules, count, batch)
                found[case].append(took["engine"][place])
                found[f"{case} plain"].append(took["plain"][place])
            tick()
    for rules, held, batch in parts:
        for count in held:
            case = _judged(rules, count, batch)
            words = f"{case}, beside a plain loop"
            yield compare("judge", words, "µs", found[case], found[f"{case} plain"])
    for rules in plan.rules:
        few, many = (_judged(rules, count, 1) for count in (plan.held[0], plan.held[-1]))
        yield compare("judge", f"{many}, beside {plan.held[0]:,}", "µs", found[many], found[few])


def _judged(rules: int, held: int, batch: int) -> str:
    """The case in words."""
    asked = f"{rules} rule{'s' if rules > 1 else ''} ({questions.MIXES[rules]})"
    return f"{asked}, {held:,} held, batch {batch:,}"


def _insert(bed: Bed, **load: Any) -> dict[str, Any]:
    return bed.hand.do("insert", database=bed.database, series=bed.plan.series, **load)


ON_ONE_BED: dict[str, Callable[[Bed, Tick], Iterator[Line]]] = {
    "ingest": ingest,
    "single": single,
    "latency": latency,
    "deliver": deliver,
}
NAMES = (*ON_ONE_BED, "flat", "judge")


def take(names: Sequence[str], plan: Plan, tick: Tick) -> Iterator[Line]:
    """Takes measures in the order of ``NAMES``; gives each line when its measure is done.

    Raises:
        BenchFailed: one could not be taken.
        DemoFailed: a service did not start.
    """
    together = [name for name in ON_ONE_BED if name in names]
    if together:
        with bed.make(plan) as one:
            for name in together:
                yield from ON_ONE_BED[name](one, tick)
    if "flat" in names:
        small, large = (
            replace(plan, series=plan.flat_series, samples=stored // plan.flat_series)
            for stored in plan.stored
        )
        with bed.make(small) as few, bed.make(large) as many:
            yield from flat(few, many, tick)
    if "judge" in names:
        with bed.hand() as hand:
            yield from judge(hand, plan, tick)


def ticks(names: Sequence[str], plan: Plan) -> int:
    """How often ``take`` ticks."""
    each = {
        "ingest": len(plan.batches) * len(plan.connections) * 3,
        "single": 2,
        "latency": 2,
        "deliver": len(plan.receivers) * 8 + 2,
        "flat": 2,
        "judge": len(plan.rules) * 2,
    }
    return plan.runs * sum(each[name] for name in names)
