"""The queue's rules: turns, lanes, pace, leases, patience, suspensions, drains, notices, retention.

Asserts on what real receivers heard, on what is claimed and on the rows; the laws of the queue are
asked of the tables after every test. The clock is turned by hand unless a test says that it ticks.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import pytest
from jsonschema import Draft202012Validator

from alerts.explanation import instant
from alerts.retries import Outcome
from alerts.routing import SubscriptionId
from app import deliver, scheduler, store
from app.api.webhooks import EndpointNotice
from app.database import Database
from app.deliver import owners
from app.settings import Settings
from app.store.debts import Debt
from app.store.queue import Claimed
from app.store.subscriptions import Ordering, Status
from app.subscribe import Backlog
from tests.app import queue_laws
from tests.app.post_office import GALLIUM, NEON, Post, failing, running, ticking
from tests.app.receiver import Answer, Heard, consenting, receiver

SECOND = timedelta(seconds=1)
TAKEN, FAILED = Outcome(204), Outcome(500)


@pytest.fixture(name="post")
def _post(lawful_post: Post) -> Post:
    return lawful_post


async def _owe(post: Post, debts: Sequence[Debt]) -> None:
    async with post.database.begin() as connection:
        await store.debts.owe(connection, debts, post.now)


async def _redeliver(post: Post, of: SubscriptionId, *sequences: int) -> int:
    ids = [d.id for d in await post.deliveries(of) if d.sequence in sequences]
    async with post.database.begin() as connection:
        return await store.deliveries.redeliver(connection, of, ids, post.now)


async def _not_before(post: Post, of: SubscriptionId) -> datetime | None:
    return (await post.held(of)).not_before


def _alerts_heard(heard: Sequence[Heard]) -> list[int]:
    return [one.body["data"]["alert"] for one in heard]


# --- Turns, lanes, pace ---


async def test_a_backlog_of_thousands_holds_up_nobody(post: Post) -> None:
    async with receiver() as baltica:
        busy, *others = await post.several(baltica, 21)
        await _owe(post, [Debt(busy, "alert.updated", alert_id=n, data="{}") for n in range(3_000)])
        post.now += SECOND
        for other in others:
            await post.owe(other, NEON)
        claimed = await post.claim(slots=64)
        first = Counter(one.subscription_id for one in claimed)
        assert first == {busy: 4} | dict.fromkeys(others, 1)
        assert {one.subscription_id for one in claimed[:21]} == {busy, *others}  # one of each first
        few = await post.claim(slots=8)
        assert Counter(one.subscription_id for one in few) == {busy: 4}


async def test_with_fewer_slots_than_endpoints_everyone_has_a_turn(post: Post) -> None:
    async with receiver() as baltica:
        everyone = await post.several(baltica, 9)
        for one in everyone:
            await post.owe(one, *range(1, 5))
        turns: list[SubscriptionId] = []
        for _ in range(3):
            post.now += SECOND
            turns += [one.subscription_id for one in await post.claim(slots=3, per_endpoint=1)]
        assert sorted(turns) == sorted(everyone)


async def test_within_an_endpoint_first_attempts_go_before_third_ones(post: Post) -> None:
    async with receiver(failing()) as baltica:
        made = await post.active(baltica)
        sender = post.sender(retry_schedule="5,5,5,5", webhook_in_flight_per_endpoint=1)
        await post.owe(made, 1, 2, 3)
        await post.round(sender)
        await post.pass_time(sender, 5)
        assert Counter(_alerts_heard(baltica.events())) == {1: 2, 2: 2, 3: 2}
        baltica.manner = consenting
        post.now += 10 * SECOND
        await post.owe(made, 4, 5)
        await post.round(sender)
        assert _alerts_heard(baltica.events()[6:]) == [4, 5, 1, 2, 3]


async def test_third_attempts_that_hang_leave_a_quarter_of_the_slots_to_new_ones(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "SLOW_SECONDS", 3_600)  # none is counted apart
    go_on = asyncio.Event()

    async def hangs(heard: Heard) -> Answer:
        await go_on.wait()
        return await consenting(heard)

    async with receiver(failing()) as stuck, receiver() as sound:
        failed = await post.several(stuck, 12)
        well = await post.several(sound, 4)
        sender = post.sender(
            webhook_in_flight=8, webhook_in_flight_per_endpoint=1, retry_schedule="5,5,5"
        )
        for one in failed:
            await post.owe(one, NEON)
        await post.round(sender)
        await post.pass_time(sender, 5)
        stuck.manner, stuck.most_at_once = hangs, 0
        post.now += 5 * SECOND
        for one in well:
            await post.owe(one, NEON, GALLIUM)
        async with running(sender):
            await sound.hear(4 + 8)
            await stuck.hear(36 + 6)
            assert stuck.most_at_once == 6
            go_on.set()
            await stuck.hear(12 + 36)
        assert stuck.most_at_once == 6


async def test_when_no_third_attempt_may_be_made_none_stands_before_new_ones(post: Post) -> None:
    async with receiver() as baltica:
        *failed, well = await post.several(baltica, 5)
        for one in failed:
            await post.owe(one, NEON)
        for _ in range(2):
            await post.record(await post.claim(), FAILED)
            post.now += 30 * SECOND
        post.now += SECOND
        await post.owe(well, NEON)
        claimed = await post.claim(slots=2, retry_slots=0)
        assert [one.subscription_id for one in claimed] == [well]


async def test_the_smallest_worker_makes_third_attempts_too(post: Post) -> None:
    async with receiver(failing()) as baltica:
        made = await post.active(baltica)
        sender = post.sender(webhook_in_flight=1, retry_schedule="5,5,5")
        await post.owe(made, NEON)
        for seconds in (0, 5, 5, 5):
            await post.pass_time(sender, seconds)
        assert await post.states(made) == ["failed"]
        assert len(baltica.events()) == 4


@pytest.mark.parametrize(
    ("per_second", "outcome", "at_least"),
    [
        (20.0, TAKEN, 36),  # two at a time, ten times a second
        (3.0, TAKEN, 5),
        (0.5, TAKEN, 1),  # less than one a second
        (3.0, FAILED, 5),  # a failing endpoint has its pace too
    ],
)
async def test_two_workers_together_keep_an_endpoints_pace(
    post: Post, per_second: float, outcome: Outcome, at_least: int
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica, per_second=per_second)
        await post.owe(made, *range(1, 101))
        post.now += 2 * SECOND  # it was asked for its consent at this pace too
        sent: list[datetime] = []
        for _ in range(100):  # two seconds
            for _worker in range(2):
                claimed = await post.claim()
                sent += [post.now] * len(claimed)
                if claimed:
                    await post.record(claimed, outcome)
            post.now += 0.02 * SECOND
        assert len(sent) >= at_least
        spare = max(1, per_second / 10)
        for first in sent:
            within = sum(first <= at < first + SECOND for at in sent)
            assert within <= per_second + spare


async def test_what_a_pace_holds_back_is_not_forgotten(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica, per_second=50.0)
        async with ticking(post), running(post.sender()):
            await post.owe(made, *range(1, 31))
            began = post.now
            await baltica.hear(31)
            assert post.now - began >= 0.4 * SECOND  # 30 by 50 a second, the first five at once
        assert await post.states(made) == ["delivered"] * 30


async def test_a_failing_endpoint_is_sent_one_at_a_time_by_all_workers_together(post: Post) -> None:
    async def slow(heard: Heard) -> Answer:
        await asyncio.sleep(0.03)
        return 500, b""

    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        await post.record(await post.claim(), FAILED)
        baltica.manner, baltica.most_at_once = slow, 0
        senders = [
            post.sender(retry_schedule="0.01," * 40 + "0.01", endpoint_open_seconds=0.02)
            for _ in range(2)
        ]
        async with ticking(post), running(senders[0]), running(senders[1]):
            await post.owe(made, *range(2, 12))
            await baltica.hear(1 + 15)
        assert baltica.most_at_once == 1


# --- Leases ---


async def test_a_living_worker_keeps_what_takes_longer_than_its_lease(post: Post) -> None:
    """At a failing endpoint too, where everything else waits for the one that is under way."""
    go_on = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        await go_on.wait()
        return await consenting(heard)

    async with receiver() as baltica:
        well, fails = await post.several(baltica, 2)
        await post.owe(fails, GALLIUM)
        await post.record(await post.claim(), FAILED)
        baltica.manner = slow
        await post.owe(well, NEON)
        await post.owe(fails, NEON, 3)
        senders = [post.sender(lease_seconds=2) for _ in range(2)]
        async with ticking(post), running(senders[0]), running(senders[1]):
            await baltica.hear(2 + 2)
            await asyncio.sleep(2.6)
            assert len(baltica.events()) == 2
            go_on.set()
            await baltica.hear(2 + 3)
        assert set(baltica.times_heard().values()) == {1}
        assert await post.states(well) == ["delivered"]


async def test_a_stalled_worker_that_took_its_own_claim_over_records_the_new_one_only(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        old = await post.claim()
        post.now += 31 * SECOND
        new = await post.claim()
        assert [one.id for one in old] == [one.id for one in new]
        recorded = await post.record([*old, *new], FAILED)
        assert recorded.kept == {new[0].key: 1}
        assert (await post.held(made)).health.failures == 1
        assert (await post.record(old, TAKEN)).kept == {}
        assert await post.states(made) == ["owed"]


async def test_a_stop_gives_back_what_was_not_begun_at_once(post: Post) -> None:
    go_on = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        await go_on.wait()
        return await consenting(heard)

    async with receiver() as baltica:
        made = await post.active(baltica)
        baltica.manner = slow
        await post.owe(made, 1, 2, 3, 4)
        sender = post.sender(webhook_in_flight=1)
        await sender.deliver_due(post.now)
        await baltica.hear(2)
        assert [d.lease_until is None for d in (await post.deliveries(made))[1:]] == [False] * 4
        stopping = asyncio.create_task(sender.stop())
        given_back: list[Claimed] = []
        async with asyncio.timeout(5):
            while len(given_back) < 3:
                given_back += await post.claim()
        go_on.set()
        await stopping
        assert await post.states(made) == ["delivered", "owed", "owed", "owed"]
        await post.record(given_back, TAKEN)


async def test_a_probe_that_is_given_back_may_be_made_by_another_at_once(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, GALLIUM)
        first, second = await post.claim()
        await post.record([first], FAILED)
        async with post.database.begin() as connection:
            await store.queue.let_go(connection, [second])
        (probe,) = await post.claim()
        assert await post.claim() == []
        async with post.database.begin() as connection:
            await store.queue.let_go(connection, [probe])
        (again,) = await post.claim()
        assert (again.id, again.fence) == (probe.id, probe.fence + 1)
        assert again.due_at == second.due_at


async def test_what_is_given_back_by_another_than_its_holder_stays_where_it_is(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        old = await post.claim()
        post.now += 31 * SECOND
        new = await post.claim()
        async with post.database.begin() as connection:
            await store.queue.let_go(connection, old)
            assert await store.queue.extend(connection, old, post.now + 60 * SECOND) == set()
        assert await post.claim() == []
        async with post.database.begin() as connection:
            kept = await store.queue.extend(connection, new, post.now + 60 * SECOND)
        assert kept == {new[0].id}


# --- Patience ---


async def test_a_429_pauses_the_whole_endpoint_and_is_not_charged(post: Post) -> None:
    async with receiver(failing(429, headers={"Retry-After": "90"})) as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        await post.owe(made, NEON)
        await post.round(sender)
        await post.owe(made, GALLIUM)
        await post.pass_time(sender, 89)
        assert _alerts_heard(baltica.events()) == [NEON]
        baltica.manner = failing()
        await post.pass_time(sender, 1)
        assert Counter(_alerts_heard(baltica.events())) == {NEON: 2, GALLIUM: 1}
        neon, gallium = (await post.deliveries(made))[1:]
        assert [t.verdict for t in await post.attempts(neon)] == ["throttled", "retry"]
        assert neon.due_at == gallium.due_at == post.now + 5 * SECOND  # after a first failure
        assert (await post.held(made)).health.failures == 2


async def test_the_eleventh_429_in_a_row_is_counted(post: Post) -> None:
    async with receiver(failing(429)) as baltica:
        made = await post.active(baltica)
        sender = post.sender(retry_schedule="5")
        await post.owe(made, NEON)
        for _ in range(12):
            await post.pass_time(sender, 5)
        tries = await post.attempts((await post.deliveries(made))[1])
        assert [t.verdict for t in tries] == ["throttled"] * 10 + ["retry", "give_up"]
        assert (await post.held(made)).health.failures == 2


async def test_a_503_with_retry_after_pauses_the_endpoint_and_a_500_only_its_message(
    post: Post,
) -> None:
    async with receiver() as baltica:
        whole, single = await post.several(baltica, 2)
        sender = post.sender()
        for made, status in ((whole, 503), (single, 500)):
            baltica.manner = failing(status, headers={"Retry-After": "600"})
            await post.owe(made, NEON)
            await post.round(sender)
            await post.owe(made, GALLIUM)
        baltica.manner = consenting
        await post.pass_time(sender, 599)
        assert await post.states(whole) == ["owed", "owed"]
        assert await post.states(single) == ["owed", "delivered"]
        await post.pass_time(sender, 1)
        assert await post.states(whole) == await post.states(single) == ["delivered"] * 2
        assert (await post.held(whole)).health.failures == 0


async def test_the_breaker_outlives_its_worker_and_probes_with_one(post: Post) -> None:
    async with receiver(failing()) as baltica:
        made = await post.active(baltica)
        await post.owe(made, *range(1, 15))
        await post.round(post.sender())
        assert len(baltica.events()) == 10
        opened = (await post.held(made)).health.open_until
        assert opened == post.now + 30 * SECOND == await _not_before(post, made)
        for quiet, spell in ((29, 60), (59, 120)):
            heard = len(baltica.events())
            await post.pass_time(post.sender(), quiet)  # after a restart
            assert len(baltica.events()) == heard
            await post.pass_time(post.sender(), 1)
            assert len(baltica.events()) == heard + 1
            assert await _not_before(post, made) == post.now + spell * SECOND
        tried = {d.sequence: len(await post.attempts(d)) for d in await post.deliveries(made)}
        assert sum(tried.values()) == 1 + 12  # while it waited nothing was charged
        baltica.manner = consenting
        await post.pass_time(post.sender(), 120)
        assert await post.states(made) == ["delivered"] * 14
        assert (await post.held(made)).health.failures == 0


# --- Suspensions and what becomes of the backlog ---


async def _suspended_for(post: Post, of: SubscriptionId, reason: str) -> None:
    held = await post.held(of)
    assert (held.status, held.reason.partition(":")[0]) == (Status.suspended, reason)
    assert held.suspended_at == post.now


async def test_four_answers_of_410_at_once_suspend_and_are_told_once(post: Post) -> None:
    async with receiver(failing(410)) as baltica, receiver() as other:
        made, listens = await post.active(baltica), await post.active(other)
        await post.owe(made, *range(1, 9))
        await post.round(post.sender())
        await _suspended_for(post, made, "gone")
        assert await post.states(made) == ["owed"] * 8
        await post.round(post.sender())
        (told,) = other.events()
        assert told.type == "endpoint.suspended"
        assert told.body["data"]["endpoint"]["owed"] == 8
        assert len(await post.deliveries(listens)) == 2


async def test_an_endpoint_that_says_disable_is_suspended_and_what_it_took_is_taken(
    post: Post,
) -> None:
    disable = {"webhook-delivery": "disable"}
    async with receiver() as baltica:
        thanks, refuses = await post.several(baltica, 2)
        for made, status, states in (
            (thanks, 204, ["delivered", "owed"]),
            (refuses, 503, ["owed", "owed"]),
        ):
            await post.owe(made, NEON, NEON)
            await post.record(await post.claim(), Outcome(status, answer_headers=disable))
            await _suspended_for(post, made, "disable")
            assert await post.states(made) == states
            assert await post.claim() == []


async def test_a_message_the_endpoint_does_not_want_is_tried_once_and_lets_the_next_go(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON)
        unwanted = Outcome(422, answer_headers={"webhook-delivery": "abort-message"})
        await post.record(await post.claim(), unwanted)
        assert await post.states(made) == ["failed", "owed"]
        await post.record(await post.claim(), TAKEN)
        assert await post.states(made) == ["failed", "delivered"]


async def test_three_messages_refused_with_401_suspend_and_retries_of_two_do_not(
    post: Post,
) -> None:
    async with receiver(failing(401)) as baltica:
        made = await post.active(baltica)
        sender = post.sender(retry_schedule="1,1,1,1,1,1")
        await post.owe(made, NEON, NEON, GALLIUM)
        for _ in range(4):
            await post.pass_time(sender, 1)
        assert (await post.held(made)).status is Status.active
        assert len(baltica.events()) == 8
        await post.owe(made, 3)
        await post.round(sender)
        await _suspended_for(post, made, "auth")
        assert await post.states(made) == ["owed"] * 4


async def test_five_days_of_failures_suspend_with_notices_on_the_way_and_nothing_is_lost(
    post: Post,
) -> None:
    """At day 0 baltica's endpoint goes down, and an event comes twice a day."""
    async with receiver() as baltica, receiver() as other:
        made = await post.active(baltica)
        await post.active(other)
        await baltica.down()
        told: list[tuple[float, str, int | None]] = []
        for half_day in range(11):
            await post.owe(made, half_day)
            sender = post.sender(retry_schedule="43200," * 20 + "43200")
            await post.round(sender)
            await post.round(sender)  # what owners are told is owed by then
            for heard in other.events()[len(told) :]:
                about = heard.body["data"]["endpoint"]
                told.append((half_day / 2, heard.type, about["notice_percent"]))
            if half_day < 10:
                post.now += timedelta(hours=12)
        assert told == [
            (1.5, "endpoint.failing", None),  # ten in a row: 1 + 2 + 3 + 4
            (2.5, "endpoint.failing", 50),
            (3.5, "endpoint.failing", 70),
            (4.5, "endpoint.failing", 90),
            (5, "endpoint.suspended", 100),
        ]
        await _suspended_for(post, made, "failing")
        assert await post.states(made) == ["owed"] * 11
        await baltica.up()
        await post.act(made, "resume", challenge="unused", per_second=10)
        for _ in range(11):
            await post.pass_time(post.sender(), 0.1)
        assert _alerts_heard(baltica.events()) == list(range(11))
        assert [t for t, *_ in told] == sorted({t for t, *_ in told})


async def test_a_resumed_endpoint_is_sent_its_backlog_oldest_first_at_the_drains_pace(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.act(made, "suspend", reason="maintenance")
        await post.owe(made, *range(1, 21))
        post.now += timedelta(days=1)
        await post.act(
            made, "resume", challenge="unused", per_second=post.settings.drain_per_second
        )
        sender = post.sender()
        await post.round(sender)
        assert _alerts_heard(baltica.events()) == [1]
        await post.pass_time(sender, 0.1)
        assert _alerts_heard(baltica.events()) == [1, 2]
        await post.owe(made, 100)  # what is new does not wait behind what was missed
        await post.round(sender)
        assert _alerts_heard(baltica.events()) == [1, 2, 100]
        for _ in range(17):
            await post.pass_time(sender, 0.1)
        assert _alerts_heard(baltica.events()) == [1, 2, 100, *range(3, 20)]
        await post.pass_time(sender, 0.1)
        assert await post.states(made) == ["delivered"] * 21


async def test_a_resumed_endpoint_may_have_of_each_alert_the_latest_only(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.act(made, "suspend", reason="maintenance")
        await post.owe(made, NEON, GALLIUM, NEON, NEON, GALLIUM, 3)
        await _owe(post, [Debt(made, "webhook.test", data="{}")])
        await post.act(made, "resume", challenge="unused", backlog=Backlog.latest)
        assert await post.states(made) == ["superseded"] * 3 + ["owed"] * 4
        await post.pass_time(post.sender(), 1)
        assert await post.states(made) == ["superseded"] * 3 + ["delivered"] * 4
        assert sorted(heard.sequence for heard in baltica.events()) == [5, 6, 7, 8]
        feed = await post.deliveries(made)
        assert [d.sequence for d in feed] == list(range(1, 9))
        assert json.loads(feed[1].data)["alert"] == NEON
        assert await _redeliver(post, made, 2) == 1  # by hand it can still be had
        await post.round(post.sender())
        assert baltica.events()[-1].sequence == 2


async def test_the_latest_waits_for_what_was_under_way_when_it_was_chosen(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON, NEON)
        under_way = await post.claim()
        await post.act(made, "suspend", reason="maintenance")
        await post.act(made, "resume", challenge="unused", backlog=Backlog.latest)
        assert await post.states(made) == ["owed", "superseded", "owed"]
        assert await post.claim() == []
        await post.record(under_way, FAILED)
        assert await post.claim() == []
        post.now += 5 * SECOND
        await post.record(await post.claim(), TAKEN)
        await post.record(await post.claim(), TAKEN)
        assert await post.states(made) == ["delivered", "superseded", "delivered"]


async def test_the_latest_overtakes_after_the_fourth_failure_where_it_is_asked_for(
    post: Post,
) -> None:
    async with receiver(failing(when=lambda h: h.sequence == 2)) as baltica:
        latest = await post.active(baltica, ordering=Ordering.latest)
        strict = await post.active(baltica)
        sender = post.sender()
        for made in (latest, strict):
            await post.owe(made, NEON, NEON, NEON)
        for seconds in (0, 5, 30):
            await post.pass_time(sender, seconds)
        assert await post.states(latest) == await post.states(strict) == ["owed"] * 3
        await post.pass_time(sender, 120)
        assert await post.states(latest) == ["superseded", "superseded", "delivered"]
        assert await post.states(strict) == ["owed"] * 3


async def test_one_that_is_alone_keeps_its_schedule_and_is_overtaken_when_another_comes(
    post: Post,
) -> None:
    async with receiver(failing(when=lambda h: h.sequence == 2)) as baltica:
        made = await post.active(baltica, ordering=Ordering.latest)
        sender = post.sender()
        await post.owe(made, NEON)
        for seconds in (0, 5, 30, 120):
            await post.pass_time(sender, seconds)
        (alone,) = (await post.deliveries(made))[1:]
        assert (alone.attempts, alone.due_at) == (4, post.now + timedelta(minutes=10))
        await post.pass_time(sender, 60)
        await post.owe(made, NEON, GALLIUM)
        await post.round(sender)
        assert await post.states(made) == ["superseded", "delivered", "delivered"]


async def test_one_under_way_is_not_overtaken_by_what_comes_meanwhile(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica, ordering=Ordering.latest)
        await post.owe(made, NEON)
        for seconds in (5, 30, 120, 600):
            await post.record(await post.claim(), FAILED)
            post.now += seconds * SECOND
        fifth = await post.claim()
        await post.owe(made, NEON)
        assert await post.states(made) == ["owed", "owed"]
        assert await post.claim() == []
        await post.record(fifth, FAILED)
        assert await post.states(made) == ["superseded", "owed"]


async def test_an_event_sent_again_by_hand_that_fails_supersedes_nothing(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica, ordering=Ordering.latest)
        await post.owe(made, NEON)
        await post.record(await post.claim(), TAKEN)
        await _redeliver(post, made, 2)
        for seconds in (5, 30, 120):
            await post.record(await post.claim(), FAILED)
            post.now += seconds * SECOND
        again = await post.claim()
        await post.owe(made, NEON, NEON)
        await post.record(again, FAILED)
        assert await post.states(made) == ["owed", "owed", "owed"]


# --- Owners are told ---


NOTICE = Draft202012Validator(EndpointNotice.model_json_schema())


def _told(heard: Sequence[Heard]) -> list[tuple[str, int, int | None]]:
    """What was told of endpoints, each word of it as the catalogue of events promises."""
    for one in heard:
        if "endpoint" in one.body["data"]:
            NOTICE.validate(one.body)
    return [
        (one.type, about["failed_attempts"], about["notice_percent"])
        for one in heard
        if (about := one.body["data"].get("endpoint"))
    ]


async def test_the_owner_hears_at_another_endpoint_that_one_fails_and_that_it_is_well_again(
    post: Post,
) -> None:
    async with receiver(failing()) as baltica, receiver() as other, receiver() as stranger:
        made = await post.active(baltica)
        listens = await post.active(other)
        async with post.database.begin() as connection:
            cygnus = (await store.partners.keep(connection, "cygnus", "", post.now)).id
        await post.active(stranger, partner_id=cygnus)
        await post.owe(made, *range(1, 11))
        await post.round(post.sender())
        await post.round(post.sender())
        assert _told(other.events()) == [("endpoint.failing", 10, None)]
        said = other.events()[0].body["data"]["endpoint"]
        assert (said["subscription"], said["url"], said["owed"]) == (made, baltica.url, 10)
        assert (said["status"], said["last_error"]) == ("failing", "http_5xx")
        assert said["since"] == instant(post.now)
        baltica.manner = consenting
        await post.pass_time(post.sender(), 30)
        await post.round(post.sender())
        assert _told(other.events())[1:] == [("endpoint.recovered", 10, None)]
        said = other.events()[1].body["data"]["endpoint"]
        assert (said["status"], said["since"]) == ("active", instant(post.now))
        assert await post.states(listens) == ["delivered"] * 2
        assert stranger.events() == []
        assert {heard.type for heard in baltica.events()} == {"alert.updated"}


async def test_who_takes_leave_beside_a_success_is_told_of_as_suspended_since_then(
    post: Post,
) -> None:
    async def leaving(_: Heard) -> Answer:
        return 200, b"", {"webhook-delivery": "disable"}

    async with receiver() as baltica, receiver() as it:
        made = await post.active(baltica)
        await post.active(it)
        baltica.manner = leaving
        await post.owe(made, NEON)
        await post.round(post.sender())
        await post.round(post.sender())
        assert _told(it.events()) == [("endpoint.suspended", 0, 100)]
        said = it.events()[0].body["data"]["endpoint"]
        assert (said["status"], said["since"]) == ("suspended", instant(post.now))
        assert said["last_error"] is None


async def test_two_workers_that_record_and_tell_at_once_tell_once(post: Post) -> None:
    async with receiver() as baltica, receiver() as other:
        made = await post.active(baltica)
        await post.active(other)
        await post.owe(made, *range(1, 21))
        claims = [await post.claim(per_endpoint=10) for _ in range(2)]
        assert [len(claim) for claim in claims] == [10, 10]
        recorded = await asyncio.gather(*(post.record(claim, Outcome(410)) for claim in claims))
        assert sorted(len(one.notices) for one in recorded) == [0, 1]

        async def tell() -> int:
            async with post.database.begin() as connection:
                return await owners.tell(connection, post.now)

        assert sorted(await asyncio.gather(tell(), tell(), tell())) == [0, 0, 1]
        await post.round(post.sender())
        assert _told(other.events()) == [("endpoint.suspended", 1, 100)]


async def test_what_a_worker_recorded_and_did_not_live_to_tell_is_told_later(post: Post) -> None:
    async with receiver() as baltica, receiver() as other:
        made = await post.active(baltica)
        await post.active(other)
        await post.owe(made, *range(1, 11))
        for _ in range(10):  # a worker that records and never tells
            await post.record((await post.claim(per_endpoint=1))[:1], FAILED)
        post.now += 30 * SECOND
        await post.record(await post.claim(), TAKEN)
        await post.record(await post.claim(), TAKEN)
        assert other.events() == []
        async with post.database.begin() as connection:
            assert await owners.tell(connection, post.now) == 2
            assert await owners.tell(connection, post.now) == 0
        await post.round(post.sender())
        assert sorted(_told(other.events())) == [
            ("endpoint.failing", 10, None),
            ("endpoint.recovered", 10, None),
        ]


async def test_an_owner_without_another_endpoint_is_owed_nothing_and_nothing_is_kept_for_later(
    post: Post,
) -> None:
    async with receiver(failing(410)) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        await post.round(post.sender())
        await _suspended_for(post, made, "gone")
        assert await post.states(made) == ["owed"]
        async with post.database.begin() as connection:
            assert await owners.tell(connection, post.now) == 0


# --- Retention ---


async def test_what_a_suspended_endpoint_is_owed_expires_and_lets_its_followers_go(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made, active = await post.several(baltica, 2)
        for one in (made, active):
            await post.owe(one, NEON, NEON)
        await post.act(made, "suspend", reason="long away")
        post.now += timedelta(days=31)
        await post.owe(made, NEON)
        before = post.now - timedelta(days=30)
        gone = []
        for _ in range(3):
            async with post.database.begin() as connection:
                gone.append(await store.deliveries.expire(connection, before, post.now, 1))
            assert await queue_laws.broken(post.database, post.now) == {}
        assert gone == [1, 1, 0]
        assert await post.states(made) == ["expired", "expired", "owed"]
        assert await post.states(active) == ["owed", "owed"]
        await post.act(made, "resume", challenge="unused")
        assert await _redeliver(post, made, 3) == 1  # its number is in the feed still
        await post.round(post.sender())
        assert await post.states(made) == ["expired", "delivered", "delivered"]


async def test_what_is_under_way_at_a_suspended_endpoint_does_not_expire(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON)
        post.now += timedelta(days=31)
        under_way = await post.claim()
        await post.act(made, "suspend", reason="long away")
        async with post.database.begin() as connection:
            before = post.now - timedelta(days=30)
            assert await store.deliveries.expire(connection, before, post.now, 10) == 1
        assert await post.states(made) == ["owed", "expired"]
        await post.record(under_way, TAKEN)
        assert await post.states(made) == ["delivered", "expired"]


async def test_old_attempts_and_old_finished_deliveries_are_forgotten_and_what_is_owed_is_not(
    database: Database, settings: Settings
) -> None:
    async with AsyncExitStack() as stack, receiver() as baltica:
        post = Post(database, settings, stack)
        made = await post.active(baltica)
        await post.owe(made, NEON, GALLIUM)
        first, second = await post.claim()
        await post.record([first, second], {first.id: TAKEN, second.id: FAILED})
        post.now += timedelta(days=40)
        await post.owe(made, 3)
        for _ in range(2):
            await post.record(await post.claim(per_endpoint=1), FAILED)
        post.now += timedelta(days=60)

        async def forget(limit: int) -> int:
            async with database.begin() as connection:
                return await store.deliveries.forget(
                    connection,
                    attempts_before=post.now - timedelta(days=30),
                    deliveries_before=post.now - timedelta(days=90),
                    limit=limit,
                )

        assert await forget(2) == 2 + 2  # two attempts, and the challenge and NEON
        assert await forget(10) == 3
        assert await forget(10) == 0
        left = await post.deliveries(made)
        assert [(d.sequence, d.state) for d in left] == [(3, "owed"), (4, "owed")]
        assert [await post.attempts(d) for d in left] == [[], []]
        assert set(await queue_laws.broken(database, post.now)) == {  # not any more
            "sequences have no gap",
            "every attempt is written down",
        }


@pytest.mark.parametrize(
    ("word", "status", "state"),
    [("disable", Status.suspended, "owed"), ("abort-message", Status.active, "failed")],
)
async def test_what_an_endpoint_asks_by_a_header_reaches_us_over_the_wire(
    post: Post, word: str, status: Status, state: str
) -> None:
    async with receiver(failing(503, headers={"webhook-delivery": word})) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        await post.round(post.sender())
        assert (await post.held(made)).status is status
        assert await post.states(made) == [state]


async def test_a_feed_is_forgotten_from_its_beginning_and_never_in_its_middle(
    database: Database, settings: Settings
) -> None:
    """The second event is delivered weeks after the third, which must not go before it."""
    async with AsyncExitStack() as stack, receiver() as baltica:
        post = Post(database, settings, stack)
        made = await post.active(baltica)
        await post.owe(made, NEON, GALLIUM)
        first, second = await post.claim()
        await post.record([first, second], {first.id: FAILED, second.id: TAKEN})
        post.now += timedelta(days=40)
        await post.record(await post.claim(), TAKEN)
        post.now += timedelta(days=60)
        async with post.database.begin() as connection:
            await store.deliveries.forget(
                connection,
                attempts_before=post.now - timedelta(days=30),
                deliveries_before=post.now - timedelta(days=90),
                limit=100,
            )
        assert [d.sequence for d in await post.deliveries(made)] == [2, 3]


async def test_the_last_attempt_of_a_fast_clock_leaves_no_endpoint_closed_for_as_long_as_it_was_ahead(
    post: Post,
) -> None:
    """It began while the clock was ahead and ended when it was right again."""
    async with receiver() as baltica:
        endpoint = await post.active(baltica)
        await post.owe(endpoint, *range(1, 31))
        right = post.now
        post.now += timedelta(days=40)
        last, *others = await post.claim()
        while others:
            await post.record(others, Outcome(status=400))
            others = await post.claim()
        post.now = right
        await post.record([last], Outcome(status=400))
        sender = post.sender()
        await post.pass_time(sender, 1_800)
        assert "delivered" not in await post.states(endpoint)
        await scheduler.clocks_duty(post.database, post.settings).do(post.now)
        await post.pass_time(sender, 1_800)
        assert set(await post.states(endpoint)) == {"delivered"}
