"""A thousand endpoints of which three hundred are dead; ten thousand deliveries in flight at once.

Observable oracles: the logs that receiver processes write before they answer, rows after a commit, and the
memory of the sender's process as the kernel counts it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import pytest

from alerts.routing import SubscriptionId
from app.settings import Settings
from tests.app.receiver import free_port
from tests.journeys.relay import Relay

WELL, DEAD = 700, 300
MEASURES = int(os.environ.get("TEST_MEASURES", "0"))
PARTS = 20
SPREAD_SECONDS = 2.0
ALLOWANCE_MILLISECONDS = 250.0

_DEFAULTS = {
    name: field.default
    for name, field in Settings.model_fields.items()
    if name
    in {
        "retry_schedule",
        "lease_seconds",
        "endpoint_open_seconds",
        "endpoint_longest_open_seconds",
    }
}
"""Of a service as it is installed."""

_alerts = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Waits:
    """From the commit to the first hearing, of endpoints that are well, in milliseconds."""

    p50: float
    p99: float
    longest: float

    def __str__(self) -> str:
        return f"p50 {self.p50:.0f} ms, p99 {self.p99:.0f} ms, longest {self.longest:.0f} ms"


async def _measure(
    relay: Relay,
    well: Sequence[SubscriptionId],
    others: Sequence[SubscriptionId],
    *,
    parts: int,
    each: int,
) -> Waits:
    """Owes everybody so many events, a part of them after the other, and waits for those that are well."""
    committed: dict[int, int] = {}
    everybody = sorted([*well, *others], key=lambda one: one[::-1])  # the dead among the living
    began = time.monotonic()
    for part in range(parts):
        alerts = [next(_alerts) for _ in range(each)]
        at = await relay.owe(*alerts, to=everybody[part::parts])
        committed.update(dict.fromkeys(alerts, at))
        next_at = began + (part + 1) * SPREAD_SECONDS / parts
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
    await relay.settled(30, but=[*others, *relay.dead])
    owed = {one.id: one for one in await relay.owed() if one.subscription in set(well)}
    waited: dict[str, float] = {}
    for heard in relay.heard():
        alert = owed[heard.id].alert if heard.id in owed else None
        if alert in committed:
            waited.setdefault(heard.id, (heard.at - committed[alert]) / 1e6)
    assert len(waited) == len(well) * each
    cuts = statistics.quantiles(waited.values(), n=100)
    return Waits(cuts[49], cuts[98], max(waited.values()))


@pytest.mark.parametrize(
    ("parts", "each"), [(PARTS, 1), (1, 2)], ids=["spread over two seconds", "two each at once"]
)
async def test_a_thousand_endpoints_of_which_300_are_dead_and_the_others_do_not_feel_it(
    relay: Relay, parts: int, each: int
) -> None:
    """The same load twice in one run: all alive, then three hundred of them dead since just now.

    No machine that does other things at the same time measures a 99th percentile to a few
    milliseconds; so the bound is twice the other plus a quarter of a second, and is asked up to three times,
    of other endpoints that nobody yet knows to be dead. `TEST_MEASURES=5` prints so many and asks the same
    of the median.
    """
    alive, ill = relay.listener("alive"), relay.listener("ill")
    nobody = f"http://127.0.0.1:{free_port()}/"
    well = await relay.subscribe(*[alive.url("ok")] * WELL)
    spare = await relay.subscribe(*[alive.url("ok")] * DEAD)
    sender = relay.sender(**_DEFAULTS)
    await _measure(relay, well, spare, parts=parts, each=1)  # connections are made, plans too
    measured: list[tuple[Waits, Waits]] = []
    while True:
        third = DEAD // 3
        dead = await relay.subscribe(
            *[nobody] * third, *[ill.url("silent")] * third, *[ill.url("status/500/0")] * third
        )
        relay.dead += dead
        free = await _measure(relay, well, spare, parts=parts, each=each)
        faulty = await _measure(relay, well, dead, parts=parts, each=each)
        measured.append((free, faulty))
        print(f"all alive: {free}\n{DEAD} dead: {faulty}")
        ratios = [f.p99 / (2 * a.p99 + ALLOWANCE_MILLISECONDS) for a, f in measured]
        fair = statistics.median(ratios) if MEASURES else min(ratios)
        if len(measured) >= (MEASURES or 3) or (fair <= 1 and not MEASURES):
            break
    assert fair <= 1, measured
    sender.kill()
    await relay.reckon(dead=relay.dead)


async def test_ten_thousand_in_flight_to_receivers_that_take_five_seconds(relay: Relay) -> None:
    """None is answered before all are held at the same time, and none before five seconds have passed."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    at_once = min(10_000, files - 500)  # each is a socket on either side
    endpoints = 100
    each = at_once // endpoints
    slow = relay.listener("slow")
    await relay.subscribe(*[slow.url(f"held/{each * endpoints}/5")] * endpoints)
    sender = relay.sender(
        webhook_in_flight=at_once,
        webhook_in_flight_per_endpoint=each,
        webhook_timeout_seconds=120,
        lease_seconds=30,
    )
    process = psutil.Process(sender.pid)
    await asyncio.sleep(1)
    before = most = process.memory_info().rss
    began = time.monotonic()
    for first in range(0, each, 10):
        await relay.owe(*range(first + 1, first + 11))
    delivered = asyncio.create_task(relay.settled(120))
    while not delivered.done():
        most = max(most, process.memory_info().rss)
        await asyncio.sleep(0.05)
    await delivered
    took = time.monotonic() - began
    sender.stop()
    times = await relay.reckon()
    assert len(times) == each * endpoints
    print(
        f"{len(times)} in flight: {before / 2**20:.0f} MiB before, {most / 2**20:.0f} MiB at most, "
        f"{(most - before) / len(times) / 1024:.1f} KiB each; {took:.1f} s; "
        f"{times.total() - len(times)} heard again"
    )
    assert most < 1_000 * 2**20


async def test_a_sender_without_open_files_left_blames_no_endpoint_and_delivers_everything(
    relay: Relay,
) -> None:
    far = relay.listener("far")
    await relay.subscribe(*[far.url("after/0.6")] * 150)
    sender = relay.sender(open_files=100)
    await relay.owe(1, 2)
    await relay.settled(60)
    sender.stop()
    await relay.reckon()
    errors = await relay.errors()
    assert errors, "they were used up"
    assert set(errors) == {"internal"}
