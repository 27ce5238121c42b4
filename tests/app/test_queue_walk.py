"""A walk through everything that can happen to the queue, with its laws asked after every step.

Workers claim, record, renew, give back and die; owners suspend, resume, move, remove and send again;
time passes. Then everybody is well, and what is owed arrives, in order per alert. A failure names its
seed; the same seed walks the same way.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

import pytest

from alerts.payloads import VERIFY
from alerts.retries import Outcome
from alerts.routing import SubscriptionId
from app import store
from app.deliver import owners
from app.store.debts import Debt, Offer
from app.store.queue import Claimed
from app.store.subscriptions import Ordering, Status
from app.subscribe import Backlog
from tests.app import queue_laws
from tests.app.post_office import Post
from tests.app.receiver import Receiver, receiver

STEPS = 200
ALERTS = range(1, 5)
LEASE = timedelta(seconds=90)

OUTCOMES = [
    *[Outcome(204)] * 8,
    *[Outcome(500)] * 5,
    Outcome(429),
    Outcome(429, retry_after="40"),
    Outcome(503, retry_after="40"),
    Outcome(401),
    Outcome(410),
    Outcome(),  # nothing came
    Outcome(422, answer_headers={"webhook-delivery": "abort-message"}),
    Outcome(204, answer_headers={"webhook-delivery": "disable"}),
]


@dataclass(slots=True)
class Walk:
    """The post office, three subscriptions and one that will be removed, and two workers."""

    post: Post
    dice: Random
    endpoint: Receiver
    subscriptions: list[SubscriptionId] = field(default_factory=list)
    hands: list[list[Claimed]] = field(default_factory=lambda: [[], []])
    stale: list[Claimed] = field(default_factory=list)
    holder: dict[int, Claimed] = field(default_factory=dict)
    taken: list[tuple[SubscriptionId, int, int]] = field(default_factory=list)

    async def owe(self) -> None:
        debts = []
        for _ in range(self.dice.randint(1, 5)):
            to, alert = self.dice.choice(self.subscriptions), self.dice.choice(ALERTS)
            if self.dice.random() < 0.1:
                debts.append(Debt(to, "webhook.test", data='{"alert":0}'))
            else:
                said = json.dumps({"alert": alert})
                debts.append(Debt(to, "alert.updated", alert_id=alert, data=said))
        worker, offer = self.dice.randrange(len(self.hands)), None
        if self.dice.random() < 0.5:
            full = self.dice.sample(self.subscriptions, self.dice.randint(0, 1))
            slots, each = self.dice.randint(0, 6), self.dice.randint(1, 3)
            offer = Offer(self.post.now + LEASE, slots, each, full)
        async with self.post.database.begin() as connection:
            taken = await store.debts.owe(connection, debts, self.post.now, offer=offer)
        if taken is not None and offer is not None:
            assert len(taken.claimed) <= offer.slots
            assert not {one.subscription_id for one in taken.claimed} & set(offer.full)
            self._take(worker, taken.claimed)

    async def claim(self) -> None:
        worker = self.dice.randrange(len(self.hands))
        claimed = await self.post.claim(
            slots=self.dice.randint(1, 6),
            retry_slots=self.dice.randint(0, 3),
            per_endpoint=self.dice.randint(1, 3),
            lease_until=self.post.now + LEASE,
        )
        self._take(worker, claimed)

    def _take(self, worker: int, claimed: list[Claimed]) -> None:
        under_way = [one for hand in self.hands for one in hand]
        for one in claimed:
            beside = [
                other
                for other in under_way
                if other.subscription_id == one.subscription_id
                and (other.id == one.id or self._same_alert(other, one))
            ]
            assert not beside, f"{one} was claimed beside {beside}"
            self.holder[one.id] = one
        self.hands[worker] += claimed

    async def record(self) -> None:
        hand = self.dice.choice(self.hands)
        batch = [hand.pop() for _ in range(min(len(hand), self.dice.randint(1, 3)))]
        await self._record(batch)

    async def record_late(self) -> None:
        """A worker that was thought dead comes back with what it did."""
        batch, self.stale = self.stale, []
        await self._record(batch)

    async def _record(self, batch: list[Claimed]) -> None:
        if not batch:
            return
        met = {one.id: self.dice.choice(OUTCOMES) for one in batch}
        recorded = await self.post.record(batch, met)
        for one in batch:
            if one.key in recorded.kept:
                assert self.holder[one.id].key == one.key, f"{one} was recorded under an old fence"
                if met[one.id].status == 204 and one.alert_id is not None and not one.again:
                    self.taken.append((one.subscription_id, one.alert_id, one.sequence))

    async def renew(self) -> None:
        for hand in self.hands:
            if hand:
                until = self.post.now + LEASE
                async with self.post.database.begin() as connection:
                    kept = await store.queue.extend(connection, hand, until)
                hand[:] = [one for one in hand if one.id in kept]

    async def give_back(self) -> None:
        hand = self.dice.choice(self.hands)
        if hand:
            one = hand.pop(self.dice.randrange(len(hand)))
            async with self.post.database.begin() as connection:
                await store.queue.let_go(connection, [one])

    async def die(self) -> None:
        """A worker is not heard of until all leases have ended."""
        hand = self.dice.choice(self.hands)
        self.stale += hand
        hand.clear()
        for _ in range(2):  # the living renew theirs meanwhile
            self.post.now += LEASE / 2
            await self.renew()

    async def suspend(self) -> None:
        one = self.dice.choice(self.subscriptions)
        await self.post.act(one, "suspend", reason="maintenance")

    async def resume(self) -> None:
        for one in self.subscriptions:
            if (await self.post.held(one)).status is Status.suspended:
                backlog = self.dice.choice(list(Backlog))
                pace = self.dice.choice([2.0, 100.0])
                await self.post.act(
                    one, "resume", challenge="again", backlog=backlog, per_second=pace
                )

    async def move(self) -> None:
        one = self.dice.choice(self.subscriptions)
        await self.post.move(one, f"{self.endpoint.url}/{self.dice.randrange(3)}")

    async def redeliver(self) -> None:
        one = self.dice.choice(self.subscriptions)
        if (await self.post.held(one)).status is not Status.active:
            return
        events = [d for d in await self.post.deliveries(one) if d.type != VERIFY]
        chosen = [d.id for d in self.dice.sample(events, min(len(events), 2))]
        async with self.post.database.begin() as connection:
            await store.deliveries.redeliver(connection, one, chosen, self.post.now)

    async def expire(self) -> None:
        before = self.post.now - timedelta(minutes=5)
        async with self.post.database.begin() as connection:
            await store.deliveries.expire(
                connection, before, self.post.now, self.dice.randint(1, 10)
            )

    async def tell(self) -> None:
        async with self.post.database.begin() as connection:
            await owners.tell(connection, self.post.now)

    async def wait(self) -> None:
        await self.renew()
        self.post.now += timedelta(seconds=self.dice.choice([0.2, 1, 5, 30, 60]))

    def _same_alert(self, one: Claimed, other: Claimed) -> bool:
        about = {one.alert_id, other.alert_id}
        return len(about) == 1 and None not in about and not (one.again or other.again)


async def _owed(walk: Walk) -> list[tuple[SubscriptionId, int]]:
    return [
        (one, delivery.sequence)
        for one in walk.subscriptions
        for delivery in await walk.post.deliveries(one)
        if delivery.state == "owed"
    ]


async def _arrives(walk: Walk) -> None:
    """Everybody is well again, and everything that is owed arrives, in order per alert."""
    post = walk.post
    walk.hands = [[], []]
    post.now += timedelta(minutes=5)
    for one in walk.subscriptions:
        match (await post.held(one)).status:
            case Status.suspended:
                await post.act(one, "resume", challenge="at last")
            case Status.pending:  # A challenge may have failed for good, and is asked anew by hand.
                await post.act(one, "send_test", challenge="at last")
            case _:
                pass
    again = {
        (one, d.sequence)
        for one in walk.subscriptions
        for d in await post.deliveries(one)
        if d.finished_at is not None
    }
    sender = post.sender(webhook_in_flight_per_endpoint=2)
    for seconds in [3_600] * 4 + [1] * 100:  # for retries, and for the one that has a pace
        await post.pass_time(sender, seconds)
        if not await _owed(walk):
            break
    assert await _owed(walk) == []
    for one in walk.subscriptions:
        assert (await post.held(one)).status is Status.active
    names = {one.removeprefix("sub_"): one for one in walk.subscriptions}
    for heard in walk.endpoint.events():
        to = names.get(heard.id.split("_")[1])
        alert = heard.body["data"].get("alert")
        if to is not None and alert and (to, heard.sequence) not in again:
            walk.taken.append((to, alert, heard.sequence))
    orders: dict[tuple[SubscriptionId, int], list[int]] = {}
    for to, alert, sequence in walk.taken:
        orders.setdefault((to, alert), []).append(sequence)
    assert orders
    for order in orders.values():
        assert order == sorted(set(order))


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_the_queue_keeps_its_laws_and_everything_arrives_in_the_end(
    post: Post, seed: int
) -> None:
    async with receiver() as endpoint:
        walk = Walk(post, Random(seed), endpoint)
        walk.subscriptions = [
            await post.active(endpoint),
            await post.active(endpoint, ordering=Ordering.latest),
            await post.active(endpoint, per_second=20.0),
        ]
        ended = await post.active(endpoint)
        walk.subscriptions.append(ended)
        steps: dict[Callable[[], Awaitable[None]], int] = {
            walk.owe: 6, walk.claim: 12, walk.record: 10, walk.record_late: 2, walk.renew: 1,
            walk.give_back: 2, walk.die: 1, walk.suspend: 1, walk.resume: 2, walk.move: 1,
            walk.redeliver: 2, walk.expire: 1, walk.tell: 1, walk.wait: 6,
        }  # fmt: skip
        path = walk.dice.choices(list(steps), list(steps.values()), k=STEPS)
        for number, step in enumerate(path):
            if number == STEPS // 2:
                await post.act(ended, "remove")
                walk.subscriptions.remove(ended)
            await step()
            broken = await queue_laws.broken(post.database, post.now)
            name = getattr(step, "__name__", "")
            assert broken == {}, f"with seed {seed} after step {number}, {name}: {broken}"
        await _arrives(walk)
        assert await queue_laws.broken(post.database, post.now) == {}
