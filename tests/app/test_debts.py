"""What is claimed as it comes to be owed: by whom, when not, and that nothing of it is lost.

Asserts on what real receivers heard and on rows after a commit; the laws of the queue are asked of the
tables after every test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from alerts.retries import Outcome
from alerts.routing import SubscriptionId
from alerts.signals import PartnerId, SeriesKey
from app import documents, store
from app.deliver.hand import LEAST_AHEAD, Hand
from app.ingest import Arrival, Intake
from app.policy import Policy
from app.store.debts import Debt, Offer, Taken
from app.store.deliveries import CHANNEL
from tests.app.post_office import GALLIUM, LEASE, NEON, Post, running
from tests.app.receiver import Answer, Heard, consenting, receiver

CHIPS = SeriesKey("semiconductors", "lead_time", "chips")


@pytest.fixture(name="post")
def _post(lawful_post: Post) -> Post:
    return lawful_post


async def _owe(post: Post, to: SubscriptionId, *alerts: int, **offered: object) -> Taken | None:
    """Owes each of these alerts' moves in one transaction, an offer being made for them."""
    given: dict[str, Any] = {
        "lease_until": post.now + LEASE, "slots": 8, "per_endpoint": 4, "full": (), **offered,
    }  # fmt: skip
    offer = Offer(**given)
    debts = [Debt(to, "alert.updated", alert_id=alert, data='{"alert":1}') for alert in alerts]
    async with post.database.begin() as connection:
        return await store.debts.owe(connection, debts, post.now, offer=offer)


def _sequences(taken: Taken | None) -> list[int]:
    return [one.sequence for one in taken.claimed] if taken is not None else []


@asynccontextmanager
async def _overheard(database_url: str) -> AsyncIterator[list[str]]:
    """What every sender of other processes is woken by."""
    heard: list[str] = []
    connection = await asyncpg.connect(database_url)
    await connection.add_listener(CHANNEL, lambda *told: heard.append(str(told[3])))
    try:
        yield heard
        await connection.fetch("SELECT 1")  # What was notified before has been heard by now.
    finally:
        await connection.close()


async def test_a_signal_that_moves_an_alert_is_heard_without_anybody_having_claimed_its_delivery(
    post: Post,
) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        sender = post.sender()  # It does not run: nothing looks for what is due.
        read = documents.read_profile(documents.PROFILES_DIR / "ttc-semiconductors.yaml")
        async with post.database.begin() as connection:
            await store.profiles.keep(connection, read, post.now)
        policy = Policy(documents.load_catalogue(), {read.profile.id: read.profile})
        intake = Intake(post.database, policy, worker=sender)
        at = datetime(2021, 2, 28, tzinfo=UTC)
        told = await intake.accept([Arrival(PartnerId(1), CHIPS, at, 14.0)], post.now)
        await sender.settle()
        assert [heard.type for heard in endpoint.heard] == ["webhook.verify", "alert.opened"]
        opened = endpoint.heard[-1].body["data"]["alert"]
        assert [opened["ref"]] == told.refs
        assert await post.states(to) == ["delivered"]


async def test_others_are_woken_only_for_what_is_left_to_claim(
    post: Post, database_url: str
) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        async with _overheard(database_url) as heard:
            assert _sequences(await _owe(post, to, NEON, GALLIUM, slots=2)) == [2, 3]
        assert heard == []
        async with _overheard(database_url) as heard:
            assert _sequences(await _owe(post, to, 3, 4, slots=1)) == [4]
        assert len(heard) == 1
        assert [one.sequence for one in await post.claim()] == [5]


@pytest.mark.parametrize("offered", [{"slots": 1}, {"per_endpoint": 1}], ids=str)
async def test_no_more_is_claimed_than_is_offered(post: Post, offered: Mapping[str, int]) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        assert _sequences(await _owe(post, to, NEON, GALLIUM, **offered)) == [2]
        assert [one.sequence for one in await post.claim()] == [3]


async def test_of_an_alert_the_first_alone_is_claimed_and_nothing_behind_one_that_is_owed(
    post: Post,
) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        taken = await _owe(post, to, NEON, NEON, GALLIUM)
        assert _sequences(taken) == [2, 4]
        assert _sequences(await _owe(post, to, NEON)) == []
        assert taken is not None
        await post.record(taken.claimed, Outcome(204))
        assert [one.sequence for one in await post.claim()] == [3], (
            "the next of the alert is let go"
        )


async def test_nothing_is_claimed_for_an_endpoint_that_is_full_paced_pending_or_has_a_backlog(
    post: Post,
) -> None:
    async with receiver() as endpoint:
        full, behind = await post.several(endpoint, 2)
        paced = await post.active(endpoint, per_second=2.0)
        pending = await post.subscribe(endpoint.url)
        await post.owe(behind, NEON)
        assert _sequences(await _owe(post, paced, NEON)) == []
        assert _sequences(await _owe(post, behind, GALLIUM)) == []
        assert _sequences(await _owe(post, full, NEON, full=[full])) == []
        assert _sequences(await _owe(post, pending, NEON)) == []


async def test_nothing_is_claimed_for_an_endpoint_that_fails_or_is_suspended(post: Post) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        taken = await _owe(post, to, NEON)
        assert taken is not None
        await post.record(taken.claimed, Outcome(500))
        assert _sequences(await _owe(post, to, GALLIUM)) == []
        await post.act(to, "suspend", reason="maintenance")
        assert _sequences(await _owe(post, to, 3)) == []


async def test_what_a_dead_worker_had_claimed_is_sent_by_another_once_its_lease_ends(
    post: Post,
) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        taken = await _owe(post, to, NEON)
        assert taken is not None
        assert await post.claim() == []
        post.now += LEASE - timedelta(seconds=1)
        assert await post.claim() == []
        await post.pass_time(post.sender(), 1)
        assert [heard.id for heard in endpoint.heard[1:]] == [taken.claimed[0].webhook_id]
        late = await post.record(taken.claimed, Outcome(204))
        assert late.kept == {}, "the dead worker's fence is old"


async def test_what_comes_to_a_worker_that_has_stopped_is_given_back_at_once(post: Post) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        stopped = post.sender()
        taken = await _owe(post, to, NEON)
        assert taken is not None
        async with running(stopped):
            pass
        assert stopped.offer({to}) is None
        stopped.take(taken)
        await stopped.settle()
        await post.round(post.sender())
        assert [heard.type for heard in endpoint.heard[1:]] == ["alert.updated"]


async def test_what_took_longer_to_commit_than_its_lease_is_left_to_whoever_claims_it(
    post: Post,
) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        sender, other = post.sender(), post.sender()
        taken = await _owe(post, to, NEON)
        assert taken is not None
        post.now += LEASE
        await post.round(other)
        sender.take(taken)
        await sender.settle()
        assert [heard.sequence for heard in endpoint.heard] == [1, 2], "once"


async def test_a_worker_offers_to_take_no_more_than_it_may_begin(post: Post) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        sender = post.sender(webhook_in_flight=2)
        offer = sender.offer({to})
        assert offer is not None
        assert offer.slots == 2
        taken = await _owe(post, to, NEON, GALLIUM, slots=offer.slots)
        assert taken is not None
        sender.take(taken)
        assert sender.offer({to}) is None
        await sender.settle()
        assert sender.offer({to}) is not None


async def test_an_attempt_that_failed_and_is_not_recorded_yet_holds_others_back(post: Post) -> None:
    async with receiver() as endpoint:
        to = await post.active(endpoint)
        taken = await _owe(post, to, NEON, GALLIUM, 3)
        assert taken is not None
        first, *others = taken.claimed
        hand = Hand(in_flight=4, per_endpoint=4)
        hand.add([first], taken.lease_until)
        assert hand.begin() == first
        hand.end(first, 0.0, was_slow=False, was_taken=False)
        assert hand.full({to}, 0.0) == [to]
        hand.add(others, taken.lease_until)
        assert hand.begin() is not None
        assert hand.begin() is None, "one at a time, until it is known better"


async def test_of_an_endpoint_that_hangs_no_more_is_taken_than_may_be_claimed_ahead(
    post: Post,
) -> None:
    released = asyncio.Event()

    async def hanging(heard: Heard) -> Answer:
        if heard.type != "webhook.verify":
            await released.wait()
        return await consenting(heard)

    async with receiver(hanging) as endpoint:
        to = await post.active(endpoint)
        sender = post.sender(webhook_in_flight_per_endpoint=1)
        taken = 0
        for alert in range(1, 2 * LEAST_AHEAD):
            offer = sender.offer({to})
            assert offer is not None
            one = await _owe(post, to, alert, **offer._asdict())
            if one is not None:
                sender.take(one)
                taken += 1
        assert 0 < taken <= LEAST_AHEAD
        released.set()
        await sender.settle()
        await post.round(sender)
        assert [heard.sequence for heard in endpoint.heard] == list(range(1, 2 * LEAST_AHEAD + 1))
