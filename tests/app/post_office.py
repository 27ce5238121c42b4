"""A post office for tests: one database, any number of senders, a clock turned by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from alerts import retries, signing
from alerts.retries import Outcome
from alerts.routing import Filter, SubscriptionId
from alerts.signals import PartnerId
from app import seals, store, subscribe
from app.database import Database
from app.deliver import Sender, patience_of
from app.outbound import Outbound
from app.settings import Settings
from app.store.debts import Debt
from app.store.delivery_log import Attempt, Delivery
from app.store.queue import Claimed
from app.store.records import Attempted, Recorded
from app.store.subscriptions import Status, Subscription
from app.subscribe import Dice
from tests.app.receiver import Answer, Heard, Manner, Receiver, consenting

NEON, GALLIUM = 1, 2  # alerts
LEASE = timedelta(seconds=30)


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

    async def subscribe(
        self, url: str, secret_to: Receiver | None = None, **wishes: object
    ) -> SubscriptionId:
        """Subscribes an endpoint; its consent is asked by the next round. ``wishes`` are fields."""
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
        made = replace(made, **wishes)  # type: ignore[arg-type]  # fields by their names
        async with self.database.begin() as connection:
            sealing = seals.from_settings(self.settings)
            dice = Dice(key, f"challenge {self.number}")
            await subscribe.subscribe(connection, sealing, made, dice, self.now)
        if secret_to is not None:
            secret_to.secrets.append(signing.secret_of(key))
        return made.id

    async def active(self, endpoint: Receiver, **wishes: object) -> SubscriptionId:
        """Subscribes an endpoint that consents at once."""
        (made,) = await self.several(endpoint, 1, **wishes)
        return made

    async def several(
        self, endpoint: Receiver, many: int, **wishes: object
    ) -> list[SubscriptionId]:
        """Subscribes an endpoint that consents at once, many times."""
        made = [await self.subscribe(endpoint.url, endpoint, **wishes) for _ in range(many)]
        await self.round(self.sender())
        for one in made:
            assert (await self.held(one)).status is Status.active
        return made

    async def owe(self, to: SubscriptionId, *alerts: int, note: str = "moved") -> None:
        """Owes one event about each of the alerts, in that order, in one transaction."""
        debts = [
            Debt(to, "alert.updated", alert_id=alert, data=json.dumps({"alert": alert, "n": note}))
            for alert in alerts
        ]
        async with self.database.begin() as connection:
            await store.debts.owe(connection, debts, self.now)

    async def round(self, sender: Sender) -> None:
        """Sends everything that is due now, and what becomes due by that."""
        while await sender.deliver_due(self.now):
            await sender.settle()

    async def pass_time(self, sender: Sender, seconds: float) -> None:
        """Turns the clock on, then sends what is due."""
        self.now += timedelta(seconds=seconds)
        await self.round(sender)

    async def claim(self, **changes: object) -> list[Claimed]:
        """Claims as a worker with nothing in hand does, which may then do with it what it likes."""
        asked: dict[str, Any] = {
            "slots": 64,
            "retry_slots": 48,
            "per_endpoint": 4,
            "rooms": {},
            "lease_until": self.now + LEASE,
            **changes,
        }
        async with self.database.begin() as connection:
            return await store.queue.claim(connection, self.now, **asked)

    async def record(
        self, claimed: Sequence[Claimed], outcome: Outcome | Mapping[int, Outcome]
    ) -> Recorded:
        """Records what an attempt met with, the same for all or by id of the delivery."""
        attempts = []
        for one in claimed:
            met = outcome if isinstance(outcome, Outcome) else outcome[one.id]
            verdict = retries.judge(
                met,
                attempt=one.attempt,
                schedule=self.settings.retry_schedule,
                now=self.now,
                jitter=0.5,
                throttled=one.throttled,
                throttled_since=one.throttled_since,
            )
            attempts.append(Attempted(one, self.now, met, verdict, ""))
        async with self.database.begin() as connection:
            patience = patience_of(self.settings)
            return await store.records.record(connection, attempts, patience, self.now)

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
            more = {"per_second": 1e6, **more} if what == "resume" else more
            words = [more.pop(name) for name in ("reason", "challenge") if name in more]
            await getattr(subscribe, what)(connection, found, *words, self.now, **more)

    async def move(self, of: SubscriptionId, url: str) -> None:
        """Gives a subscription another endpoint."""
        async with self.database.begin() as connection:
            found = await store.subscriptions.find(connection, of, lock=True)
            assert found is not None
            await subscribe.change(connection, found, replace(found, url=url), "again", self.now)

    async def _partner(self) -> PartnerId:
        async with self.database.begin() as connection:
            return (await store.partners.keep(connection, "baltica", "", self.now)).id


@asynccontextmanager
async def ticking(post: Post) -> AsyncIterator[None]:
    """The clock runs by itself, from where it stands."""
    ahead = post.now - datetime.now(UTC)

    async def tick() -> None:
        while True:
            post.now = datetime.now(UTC) + ahead
            await asyncio.sleep(0.005)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def running(sender: Sender) -> AsyncIterator[None]:
    """The sender at work by itself."""
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        await sender.stop()
        await task


def failing(
    status: int = 500,
    when: Callable[[Heard], bool] = lambda _: True,
    headers: Mapping[str, str] | None = None,
) -> Manner:
    """Consents, then answers that status, with those headers, to what ``when`` says."""

    async def manner(heard: Heard) -> Answer:
        if heard.type == "webhook.verify" or not when(heard):
            return await consenting(heard)
        return status, b"no", headers or {}

    return manner
