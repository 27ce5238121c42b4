"""What is measured: each measure has the product and its bare limits take turns, several times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from app.bench import bed, holding, questions
from app.bench.accepting import Found, Tick, crisis, ingest, latency, single
from app.bench.bed import Bed, Tool
from app.bench.delivering import deliver, scale
from app.bench.lines import Line, compare
from app.bench.plan import Plan

_JUDGING_SHARE = 0.2
"""Of ``Plan.seconds``: what takes microseconds needs less time than a service does."""


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


ON_ONE_BED: dict[str, Callable[[Bed, Tick], Iterator[Line]]] = {
    "ingest": ingest,
    "single": single,
    "latency": latency,
    "deliver": deliver,
}
ON_A_LARGE_BED = ("flat", "reads", "memory")
NAMES = (*ON_ONE_BED, "crisis", "scale", *ON_A_LARGE_BED, "judge")


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
    if "crisis" in names:
        with bed.make(plan) as calm, bed.make(plan) as troubled:
            yield from crisis(calm, troubled, tick)
    if "scale" in names:  # Not where `latency` has left alerts open.
        with bed.make(plan) as one:
            yield from scale(one, tick)
    if any(name in names for name in ON_A_LARGE_BED):
        yield from _take_large(names, plan, tick)
    if "judge" in names:
        with bed.hand() as hand:
            yield from judge(hand, plan, tick)


def _take_large(names: Sequence[str], plan: Plan, tick: Tick) -> Iterator[Line]:
    """On one bed that grows: building it takes longer than any of its measures."""
    plan = replace(plan, samples=plan.flat_samples)
    least, most = plan.stored[0], plan.stored[-1]
    with ExitStack() as stack:
        large = stack.enter_context(bed.make(plan))
        large.grow(least)
        if "flat" in names:
            with bed.make(plan) as small:
                small.grow(least)
                yield from holding.flat(small, large, tick)
        elif "reads" in names:
            large.grow(most)
        if "reads" in names or "memory" in names:
            burden = holding.fill(large)
            tick()
            if "reads" in names:
                yield from holding.reads(large, burden, tick)
            if "memory" in names:
                yield from holding.memory(large, burden, tick)


def ticks(names: Sequence[str], plan: Plan) -> int:
    """How often ``take`` ticks."""
    each = {
        "ingest": len(plan.connections) * (1 + 2 * len(plan.batches)) * plan.runs,
        "single": 2 * plan.runs,
        "latency": (1 + len(plan.background_batches)) * plan.runs,
        "deliver": (len(plan.receivers) * 8 + 3 + plan.peer) * plan.runs,
        "crisis": len(plan.firing) * (1 + plan.runs),
        "scale": 3 * len(plan.processes) * plan.runs,
        "flat": (len(plan.stored) - 1) * (1 + 2 * plan.runs),
        "reads": 3 * plan.runs,
        "memory": 2 * plan.runs,
        "judge": len(plan.rules) * 2 * plan.runs,
    }
    filled = any(name in names for name in ("reads", "memory"))
    return sum(each[name] for name in names) + filled
