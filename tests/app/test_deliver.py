"""Delivery keeps its word: everything owed arrives, in order per alert, signed, under one id.

Asserts on what a real receiver heard and on the recorded deliveries and attempts; the clock is
turned by hand, PostgreSQL is real.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import text

from alerts import signing
from alerts.retries import Outcome
from alerts.routing import Filter, SubscriptionId
from alerts.signals import PartnerId
from app import deliver, seals, store, subscribe
from app.database import Database
from app.deliver import Sender
from app.outbound import Outbound
from app.settings import Settings
from app.store.deliveries import Debt
from app.store.delivery_log import Attempt, Delivery
from app.store.subscriptions import Status, Subscription
from app.subscribe import Dice
from tests.app.receiver import Answer, Heard, Manner, Receiver, consenting, free_port, receiver

NEON, GALLIUM = 1, 2  # alerts


@dataclass(slots=True)
class Post:
    """A post office: one database, any number of senders, a clock turned by hand."""

    database: Database
    settings: Settings
    stack: AsyncExitStack
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    number: int = 0

    def clock(self) -> datetime:
        return self.now

    def sender(self, way: type[Outbound] = Outbound, **changes: object) -> Sender:
        settings = Settings.model_validate({**self.settings.model_dump(), **changes})
        out = way(settings)
        self.stack.push_async_callback(out.close)
        return Sender(
            self.database,
            out,
            seals.from_settings(settings),
            settings,
            clock=self.clock,
            dice=lambda: 0.5,
        )

    async def subscribe(self, url: str, secret_to: Receiver | None = None) -> SubscriptionId:
        """Subscribes an endpoint; its consent is asked by the next round."""
        self.number += 1
        key = bytes([self.number]) * 32
        made = Subscription(
            id=SubscriptionId(f"sub_{self.number:020x}"),
            partner_id=await self._partner(),
            url=url,
            format="json",
            filter=Filter(),
            description="",
            status=Status.pending,
            created_at=self.now,
        )
        async with self.database.begin() as connection:
            sealing = seals.from_settings(self.settings)
            dice = Dice(key, f"challenge {self.number}")
            await subscribe.subscribe(connection, sealing, made, dice, self.now)
        if secret_to is not None:
            secret_to.secrets.append(signing.secret_of(key))
        return made.id

    async def active(self, endpoint: Receiver) -> SubscriptionId:
        """Subscribes an endpoint that consents at once."""
        made = await self.subscribe(endpoint.url, endpoint)
        await self.round(self.sender())
        assert (await self.held(made)).status is Status.active
        return made

    async def owe(self, to: SubscriptionId, *alerts: int, note: str = "moved") -> None:
        """Owes one event about each of the alerts, in that order, in one transaction."""
        debts = [
            Debt(to, "alert.updated", alert_id=alert, data=json.dumps({"alert": alert, "n": note}))
            for alert in alerts
        ]
        async with self.database.begin() as connection:
            await store.deliveries.owe(connection, debts, self.now)

    async def round(self, sender: Sender) -> None:
        """Sends everything that is due now, and what becomes due by that."""
        while await sender.deliver_due(self.now):
            await sender.settle()

    async def pass_time(self, sender: Sender, seconds: float) -> None:
        """Turns the clock on, then sends what is due."""
        self.now += timedelta(seconds=seconds)
        await self.round(sender)

    async def held(self, of: SubscriptionId) -> Subscription:
        async with self.database.begin() as connection:
            found = await store.subscriptions.find(connection, of)
        assert found is not None
        return found

    async def deliveries(self, of: SubscriptionId) -> list[Delivery]:
        """All that was ever owed, by sequence."""
        async with self.database.begin() as connection:
            return await store.delivery_log.events(connection, of, after=0, limit=10_000)

    async def attempts(self, delivery: Delivery) -> list[Attempt]:
        async with self.database.begin() as connection:
            return await store.delivery_log.attempts_of(connection, delivery.id)

    async def states(self, of: SubscriptionId) -> list[str]:
        """The states of its events, challenges left out, by sequence."""
        return [d.state for d in await self.deliveries(of) if d.type != "webhook.verify"]

    async def act(self, of: SubscriptionId, what: str, **more: object) -> None:
        """Suspends, resumes or removes a subscription."""
        async with self.database.begin() as connection:
            found = await store.subscriptions.find(connection, of, lock=True)
            assert found is not None
            await getattr(subscribe, what)(connection, found, *more.values(), self.now)

    async def _partner(self) -> PartnerId:
        async with self.database.begin() as connection:
            return (await store.partners.keep(connection, "baltica", "", self.now)).id


@pytest.fixture
async def post(database: Database, settings: Settings) -> AsyncIterator[Post]:
    async with AsyncExitStack() as stack:
        yield Post(database, settings, stack)


@asynccontextmanager
async def running(sender: Sender) -> AsyncIterator[None]:
    """The sender at work by itself."""
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        await sender.stop()
        await task


def failing(status: int = 500, when: Callable[[Heard], bool] = lambda _: True) -> Manner:
    """Consents, then answers that status to what ``when`` says."""

    async def manner(heard: Heard) -> Answer:
        if heard.type == "webhook.verify" or not when(heard):
            return await consenting(heard)
        return status, b"no"

    return manner


# --- consent -------------------------------------------------------------------------------------


async def test_an_endpoint_is_active_once_it_gives_its_challenge_back(post: Post) -> None:
    said = [b"", b'{"challenge":"another"}', b'["challenge 1"]', b"[" * 60_000, b"\xff\xfe"]

    async def slow_to_understand(heard: Heard) -> Answer:
        return (200, said.pop(0)) if said else await consenting(heard)

    async with receiver(slow_to_understand) as baltica:
        made = await post.subscribe(baltica.url, baltica)
        sender = post.sender(retry_schedule="1,1,1,1,1,1,1")
        await post.round(sender)
        for _ in range(4):
            assert (await post.held(made)).status is Status.pending
            await post.pass_time(sender, 1.2)
        await post.pass_time(sender, 1.2)
        assert (await post.held(made)).status is Status.active
        (asked,) = await post.deliveries(made)
        tries = await post.attempts(asked)
        assert [t.error for t in tries] == ["challenge"] * 5 + [""]
        assert len(baltica.times_heard()) == 1
        assert all(heard.verified_by for heard in baltica.heard)


async def test_who_has_never_consented_is_owed_nothing_and_who_has_stays_owed(post: Post) -> None:
    async def listening() -> list[str]:
        async with post.database.begin() as connection:
            return [who.id for who in await store.subscriptions.listening(connection)]

    async with receiver() as baltica:
        made = await post.subscribe(baltica.url, baltica)
        assert await listening() == []
        await post.round(post.sender())
        assert await listening() == [made]
        await post.act(made, "suspend", reason="holidays")
        assert await listening() == [made]
        await post.act(made, "remove")
        assert await listening() == []


async def test_a_new_address_is_asked_first_and_then_gets_what_was_kept(post: Post) -> None:
    async with receiver() as old, receiver() as new:
        made = await post.active(old)
        new.secrets = old.secrets
        await old.down()
        await post.owe(made, NEON)
        async with post.database.begin() as connection:
            found = await store.subscriptions.find(connection, made, lock=True)
            assert found is not None
            await subscribe.change(
                connection,
                found,
                url=new.url,
                wish=found.filter,
                description="",
                challenge="again",
                now=post.now,
            )
        await post.owe(made, GALLIUM)
        assert [d.due_at is None for d in await post.deliveries(made)] == [True, True, False, True]
        await post.round(post.sender())
        assert [heard.type for heard in new.heard] == ["webhook.verify", *["alert.updated"] * 2]
        assert (await post.held(made)).status is Status.active


async def test_an_answer_of_the_old_address_does_not_speak_for_the_new_one(post: Post) -> None:
    go_on = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        await go_on.wait()
        return await consenting(heard)

    async with receiver(slow) as old:
        made = await post.subscribe(old.url, old)
        sender = post.sender()
        await sender.deliver_due(post.now)
        await old.hear(1)
        async with post.database.begin() as connection:
            found = await store.subscriptions.find(connection, made, lock=True)
            assert found is not None
            await subscribe.change(
                connection,
                found,
                url=f"http://127.0.0.1:{free_port()}/",
                wish=found.filter,
                description="",
                challenge="again",
                now=post.now,
            )
        go_on.set()
        await sender.settle()
        assert (await post.held(made)).status is Status.pending
        assert [d.state for d in await post.deliveries(made)] == ["withdrawn", "owed"]


# --- what is owed arrives ------------------------------------------------------------------------


async def test_a_receiver_that_was_down_gets_everything_in_order_when_it_returns(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await baltica.down()
        sender = post.sender()
        for hour in range(6):  # away for hours, while two alerts move on
            await post.owe(made, NEON, GALLIUM, NEON, note=f"hour {hour}")
            await post.pass_time(sender, 3_600)
        assert set(await post.states(made)) == {"owed"}
        await baltica.up()
        await post.pass_time(sender, 12 * 3_600)
        events = baltica.events()
        assert await post.states(made) == ["delivered"] * 18
        assert set(baltica.times_heard().values()) == {1}
        assert sorted(heard.sequence for heard in events) == list(range(2, 20))
        for alert in (NEON, GALLIUM):
            about = [h.sequence for h in events if h.body["data"]["alert"] == alert]
            assert about == sorted(about)
        assert all(heard.verified_by == tuple(baltica.secrets) for heard in events)


async def test_the_same_bytes_and_id_are_sent_on_every_try(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        baltica.manner = failing(503)
        sender = post.sender()
        await post.owe(made, NEON)
        await post.round(sender)
        await post.pass_time(sender, 5)
        baltica.manner = consenting
        await post.pass_time(sender, 30)
        first, second, third = baltica.events()
        assert first.raw == second.raw == third.raw
        assert first.id == f"msg_{made.removeprefix('sub_')}_2" == second.id == third.id
        assert first.headers["webhook-timestamp"] != third.headers["webhook-timestamp"]
        (delivery,) = (await post.deliveries(made))[1:]
        tries = await post.attempts(delivery)
        assert [(t.number, t.verdict, t.status, t.error) for t in tries] == [
            (1, "retry", 503, "http_5xx"),
            (2, "retry", 503, "http_5xx"),
            (3, "delivered", 204, ""),
        ]
        assert tries[0].excerpt == "no"


async def test_an_event_waits_for_the_one_before_it_of_the_same_alert_and_of_no_other(
    post: Post,
) -> None:
    async with receiver(failing(when=lambda h: h.body["data"].get("n") == "stuck")) as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        await post.owe(made, NEON, note="stuck")
        await post.owe(made, NEON, GALLIUM, NEON)
        await post.round(sender)
        assert await post.states(made) == ["owed", "owed", "delivered", "owed"]
        await post.pass_time(sender, 5)
        assert [h.sequence for h in baltica.events()] == [2, 4, 2]
        baltica.manner = consenting
        await post.pass_time(sender, 30)
        assert [h.sequence for h in baltica.events()] == [2, 4, 2, 2, 3, 5]


async def test_a_delivery_whose_retries_are_spent_has_failed_and_lets_the_next_go(
    post: Post,
) -> None:
    async with receiver(failing(404, lambda h: h.sequence == 2)) as baltica:
        made = await post.active(baltica)
        sender = post.sender(retry_schedule="5,30")
        await post.owe(made, NEON, NEON)
        for seconds in (0, 5, 30):
            await post.pass_time(sender, seconds)
        assert await post.states(made) == ["failed", "delivered"]
        failed = (await post.deliveries(made))[1]
        assert [t.verdict for t in await post.attempts(failed)] == ["retry", "retry", "give_up"]


async def test_an_endpoint_that_is_gone_is_suspended_and_loses_nothing(post: Post) -> None:
    async with receiver(failing(410)) as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        await post.owe(made, NEON, NEON, GALLIUM)
        await post.round(sender)
        held = await post.held(made)
        assert (held.status, held.reason) == (Status.suspended, "gone: the endpoint answered 410")
        await post.owe(made, NEON)
        await post.pass_time(sender, 7 * 86_400)
        heard_before = len(baltica.heard)
        assert await post.states(made) == ["owed"] * 4
        baltica.manner = consenting
        await post.act(made, "resume", challenge="unused")
        await post.round(sender)
        assert await post.states(made) == ["delivered"] * 4
        neon = [h.sequence for h in baltica.heard[heard_before:] if h.body["data"]["alert"] == NEON]
        assert neon == [2, 3, 5]


async def test_what_a_removed_subscription_was_owed_is_withdrawn_even_under_way(post: Post) -> None:
    go_on = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        if heard.type != "webhook.verify":
            await go_on.wait()
        return await consenting(heard)

    async with receiver(slow) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON)
        sender = post.sender()
        await sender.deliver_due(post.now)
        await baltica.hear(2)
        await post.act(made, "remove")
        go_on.set()
        await sender.settle()
        await post.round(sender)
        assert await post.states(made) == ["withdrawn", "withdrawn"]
        assert len(baltica.events()) == 1
        await post.owe(made, NEON)  # a transaction that looked before it was removed
        assert len(await post.states(made)) == 2


async def test_a_delivery_sent_again_by_hand_has_the_same_id_and_holds_up_nothing(
    post: Post,
) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        sender = post.sender(retry_schedule="1000,1000")
        await post.owe(made, NEON)
        await post.round(sender)
        delivery = (await post.deliveries(made))[1]
        baltica.manner = failing(500, lambda h: h.sequence == 2)
        async with post.database.begin() as connection:
            assert await store.deliveries.redeliver(connection, delivery.id, post.now)
        await post.round(sender)
        await post.owe(made, NEON)
        await post.round(sender)
        assert await post.states(made) == ["owed", "delivered"]
        baltica.manner = consenting
        await post.pass_time(sender, 1_000)
        assert await post.states(made) == ["delivered", "delivered"]
        assert [h.sequence for h in baltica.events()] == [2, 2, 3, 2]
        assert baltica.times_heard()[delivery.webhook_id] == 3
        assert [t.number for t in await post.attempts(delivery)] == [1, 2, 3]


async def test_the_old_secret_signs_beside_the_new_one_until_it_retires(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        sender = post.sender()
        new = bytes(32)
        async with post.database.begin() as connection:
            sealing = seals.from_settings(post.settings)
            await subscribe.rotate_secret(
                connection, sealing, made, new, timedelta(hours=24), post.now
            )
        old, baltica.secrets = baltica.secrets[0], [*baltica.secrets, signing.secret_of(new)]
        await post.owe(made, NEON)
        await post.round(sender)
        await post.owe(made, NEON)
        await post.pass_time(sender, 24 * 3_600)
        assert [h.verified_by for h in baltica.events()] == [
            (old, signing.secret_of(new)),
            (signing.secret_of(new),),
        ]


# --- several at once -----------------------------------------------------------------------------


async def test_a_claim_whose_lease_ended_is_taken_over_under_the_same_id(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON)
        async with post.database.begin() as connection:  # a sender that dies with its claim
            (lost,) = await store.deliveries.claim_due(
                connection,
                post.now,
                slots=64,
                per_endpoint=4,
                in_flight={},
                lease_until=post.now + timedelta(seconds=90),
            )
        sender = post.sender()
        await post.pass_time(sender, 89)
        assert baltica.events() == []
        await post.pass_time(sender, 1)
        assert [h.sequence for h in baltica.events()] == [2, 3]
        assert baltica.events()[0].id == lost.webhook_id


async def test_a_slow_sender_cannot_overwrite_what_its_successor_recorded(post: Post) -> None:
    first_may_end = asyncio.Event()

    async def first_slow(heard: Heard) -> Answer:
        if heard.type != "webhook.verify" and len(baltica.events()) == 1:
            await first_may_end.wait()
            return 500, b"too late"
        return await consenting(heard)

    async with receiver(first_slow) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        slow = post.sender()
        await slow.deliver_due(post.now)
        await baltica.hear(2)
        await post.pass_time(post.sender(), 91)
        assert await post.states(made) == ["delivered"]
        first_may_end.set()
        with structlog.testing.capture_logs() as lines:
            await slow.settle()
        assert await post.states(made) == ["delivered"]
        (delivery,) = (await post.deliveries(made))[1:]
        assert [(t.number, t.status) for t in await post.attempts(delivery)] == [(1, 204)]
        assert [line["recorded"] for line in lines if line["event"] == "delivery.attempted"] == [
            False
        ]


async def test_two_senders_never_send_one_claim_twice_nor_one_alert_side_by_side(
    post: Post,
) -> None:
    side_by_side: dict[tuple[str, int], int] = {}

    async def watchful(heard: Heard) -> Answer:
        if heard.type == "webhook.verify":
            return await consenting(heard)
        alert = (heard.id.rsplit("_", 1)[0], heard.body["data"]["alert"])
        side_by_side[alert] = side_by_side.get(alert, 0) + 1
        assert side_by_side[alert] == 1, f"two at once about {alert}"
        await asyncio.sleep(0.002)
        side_by_side[alert] -= 1
        return 204, b""

    async with receiver(watchful) as baltica:
        subscriptions = [await post.active(baltica) for _ in range(5)]
        for made in subscriptions:
            await post.owe(made, *([1, 2, 3, 4, 5, 6] * 5))
        senders = [post.sender(webhook_in_flight=8) for _ in range(2)]
        async with running(senders[0]), running(senders[1]):
            await baltica.hear(5 + 150, within_seconds=30)
        assert set(baltica.times_heard().values()) == {1}
        for made in subscriptions:
            assert await post.states(made) == ["delivered"] * 30
            for alert in range(1, 7):
                about = [
                    h.sequence
                    for h in baltica.events()
                    if h.id.startswith(f"msg_{made.removeprefix('sub_')}_")
                    and h.body["data"]["alert"] == alert
                ]
                assert about == sorted(about)


async def test_a_hanging_endpoint_takes_its_share_of_the_slots_and_no_more(post: Post) -> None:
    forever = asyncio.Event()

    async def hangs(heard: Heard) -> Answer:
        if heard.type != "webhook.verify":
            await forever.wait()
        return await consenting(heard)

    async with receiver(hangs) as stuck, receiver() as sound:
        bad, good = await post.active(stuck), await post.active(sound)
        await post.owe(bad, *range(1, 201))
        post.now += timedelta(seconds=1)  # the backlog of the one is due before the other's
        await post.owe(good, *range(1, 21))
        sender = post.sender(webhook_in_flight=8)
        async with running(sender):
            await sound.hear(21)
            await stuck.hear(5)
            async with post.database.begin() as connection:
                idle = await connection.execute(
                    text(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                        "AND state LIKE 'idle in transaction%'"
                    )
                )
                assert idle.scalar_one() == 0  # no transaction is open while the network is
            forever.set()
            await stuck.hear(201)
        assert stuck.most_at_once == 4
        assert set(stuck.times_heard().values()) == {1}


async def test_many_who_owe_at_once_leave_no_gap_and_wait_in_no_circle(post: Post) -> None:
    async with receiver() as baltica:
        subscriptions = [await post.active(baltica) for _ in range(4)]

        async def owe_all(alert: int) -> None:
            chosen = subscriptions if alert % 2 else subscriptions[::-1]
            debts = [Debt(to, "alert.updated", alert_id=alert, data="{}") for to in chosen]
            async with post.database.begin() as connection:
                await store.deliveries.owe(connection, debts, post.now)

        await asyncio.gather(*(owe_all(alert) for alert in range(25)))
        for made in subscriptions:
            assert [d.sequence for d in await post.deliveries(made)] == list(range(1, 27))
            assert (await post.held(made)).last_sequence == 26


# --- what goes wrong -----------------------------------------------------------------------------


class _Breaks(Outbound):
    """A way out with a fault of ours, for one endpoint."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        if b'"n": "poison"' in body:
            raise RuntimeError("a fault of ours")
        return await super().post(url, headers, body)


async def test_a_delivery_that_cannot_be_sent_stops_only_itself(post: Post) -> None:
    async with receiver() as baltica:
        sound, unsealable = await post.active(baltica), await post.active(baltica)
        async with post.database.begin() as connection:
            await connection.execute(
                text(
                    "UPDATE subscription_secrets SET sealed = '\\x00' WHERE subscription_id = :id"
                ),
                {"id": unsealable},
            )
        await post.owe(unsealable, NEON)
        await post.owe(sound, NEON, note="poison")
        await post.owe(sound, GALLIUM)
        with structlog.testing.capture_logs() as lines:
            await post.round(post.sender(_Breaks))
        assert await post.states(sound) == ["owed", "delivered"]
        assert await post.states(unsealable) == ["owed"]
        assert [h.body["data"]["alert"] for h in baltica.events()] == [GALLIUM]
        broken = [line for line in lines if line["event"] == "delivery.broken"]
        assert len(broken) == 1
        errors = {line["error"] for line in lines if line["event"] == "delivery.attempted"}
        assert errors == {"internal", "no_secret", None}
        tries = await post.attempts((await post.deliveries(unsealable))[1])
        assert "nothing is sent unsigned" in tries[0].reason


async def test_an_answer_that_no_text_can_hold_is_recorded_all_the_same(post: Post) -> None:
    async def binary(heard: Heard) -> Answer:
        if heard.type == "webhook.verify":
            return await consenting(heard)
        return 500, b"\x00\xff\xed\xa0\x80 " + b"x" * 9_000

    async with receiver(binary) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        await post.round(post.sender())
        (tried,) = await post.attempts((await post.deliveries(made))[1])
        assert tried.excerpt.startswith("\N{REPLACEMENT CHARACTER}" * 2)
        assert len(tried.excerpt.encode()) <= 4_096 + 4 * 3


async def test_postgresql_may_go_away_and_come_back(
    post: Post, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "AWAY_SECONDS", 0.1)
    monkeypatch.setattr(deliver, "POLL_SECONDS", 0.1)
    name = database_url.rsplit("/", 1)[1]
    elsewhere = Database(database_url.rsplit("/", 1)[0] + "/postgres")
    post.stack.push_async_callback(elsewhere.close)

    async def close_the_door(shut: bool) -> None:
        async with elsewhere.begin() as connection:
            await connection.execute(
                text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {not shut}")
            )
        if shut:
            async with elsewhere.begin() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n"
                    ),
                    {"n": name},
                )

    answer_now = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        if heard.type != "webhook.verify":
            await answer_now.wait()
        return await consenting(heard)

    async with receiver(slow) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        async with running(post.sender()):
            await baltica.hear(2)
            await close_the_door(True)
            answer_now.set()  # the answer comes while there is nowhere to record it
            await asyncio.sleep(0.5)
            await close_the_door(False)
            for _ in range(200):
                if await post.states(made) == ["delivered"]:
                    break
                await asyncio.sleep(0.05)
            await post.owe(made, NEON)
            await baltica.hear(3)
        assert set(baltica.times_heard().values()) == {1}  # what was known was not sent again
        assert await post.states(made) == ["delivered"] * 2


async def test_a_debt_is_heard_of_at_its_commit_and_not_only_by_looking(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "POLL_SECONDS", 3_600)
    async with receiver() as baltica:
        made = await post.active(baltica)
        async with running(post.sender()):
            await post.owe(made, NEON)
            await baltica.hear(2, within_seconds=5)
            await post.owe(made, NEON, NEON)
            await baltica.hear(4, within_seconds=5)


async def test_a_sender_that_stops_records_what_is_under_way_and_claims_nothing_more(
    post: Post,
) -> None:
    async def slow(heard: Heard) -> Answer:
        await asyncio.sleep(0.3)
        return await consenting(heard)

    async with receiver(slow) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON)
        sender = post.sender()
        async with running(sender):
            await baltica.hear(2)
        assert await post.states(made) == ["delivered", "owed"]
        assert len(baltica.events()) == 1


async def test_each_attempt_is_one_line_with_its_ids_and_without_secrets(post: Post) -> None:
    async with receiver(failing(500)) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        with structlog.testing.capture_logs() as lines:
            await post.round(post.sender())
        (line,) = [line for line in lines if line["event"] == "delivery.attempted"]
        assert {name: line[name] for name in ("subscription", "type", "alert_id", "attempt")} == {
            "subscription": made,
            "type": "alert.updated",
            "alert_id": NEON,
            "attempt": 1,
        }
        assert (line["verdict"], line["status"], line["error"]) == ("retry", 500, "http_5xx")
        assert baltica.secrets[0] not in str(line)
        assert baltica.events()[0].headers["webhook-signature"] not in str(line)


async def test_another_deployments_key_sends_nothing(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        other = replace(
            post, settings=post.settings.model_copy(update={"secret_key": SecretStr("o" * 40)})
        )
        await other.round(other.sender())
        assert baltica.events() == []
        assert await post.states(made) == ["owed"]
