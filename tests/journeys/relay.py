"""A relay to tell faults in: senders that can be killed, listeners that can be killed, debts between them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from inspect import isawaitable
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import text

from alerts import signing
from alerts.routing import Filter, SubscriptionId
from app import seals, store
from app.database import Database
from app.settings import Settings
from app.store.debts import Debt
from app.store.subscriptions import Status, Subscription
from tests.journeys import reckoning
from tests.journeys.nursery import Order
from tests.journeys.reckoning import Heard, Owed
from tests.journeys.town import ENVIRONMENT, ROOT

KEY = bytes(range(32))
SECRET = signing.secret_of(KEY)
SETTINGS: dict[str, Any] = {
    "secret_key": "a secret key for tests, long enough to be one",
    "webhook_allow": "127.0.0.0/8",
    "webhook_allow_http": True,
    "lease_seconds": 1,
    "retry_schedule": ",".join(["0.2"] * 100),
    "endpoint_open_seconds": 0.3,
    "endpoint_longest_open_seconds": 0.3,
}
"""Of a sender whose leases end soon, and who tries again soon and often."""


@dataclass(slots=True)
class Listener:
    """A receiver process (``tests.journeys.listener``) and its log, which outlive each other."""

    log: Path
    any_time: bool = False
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def up(self) -> None:
        """Starts it, on the port it had before if it had one."""
        command = [
            sys.executable, "-m", "tests.journeys.listener",
            "--log", str(self.log), "--secret", SECRET, "--port", str(self.port),
        ]  # fmt: skip
        if self.any_time:
            command.append("--any-time")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def url(self, manner: str) -> str:
        """An endpoint that answers in that manner."""
        return f"http://127.0.0.1:{self.port}/{manner}"

    def recover(self) -> None:
        """From now on it takes what comes to its endpoints that were ``ill/``."""
        self.log.with_suffix(".well").touch()

    def heard(self) -> list[Heard]:
        """What it has verified so far."""
        return reckoning.heard(self.log)


@contextmanager
def listener(folder: Path, name: str, *, any_time: bool = False) -> Iterator[Listener]:
    """One that is up."""
    made = Listener(folder / f"{name}.jsonl", any_time)
    made.up()
    try:
        yield made
    finally:
        made.kill()


@dataclass(slots=True)
class Life:
    """A sender: a process of its own."""

    pid: int
    nursery: Nursery

    def kill(self) -> None:
        """Ends it as `kill -9` does, unless it is over."""
        self.signal(signal.SIGKILL)
        assert self.end() == -signal.SIGKILL

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def end(self, within_seconds: float = 60) -> int:
        """Waits for its end: its exit code, or minus the signal it died of."""
        status = self.nursery.ask({"reap": self.pid, "within": within_seconds})
        assert status >= 0, "the sender lives on"
        return os.waitstatus_to_exitcode(status)

    def stop(self) -> None:
        """Asks it to stop in order, as a service does at its end."""
        self.signal(signal.SIGTERM)
        assert self.end() == 0


@dataclass(slots=True)
class Nursery:
    """The process that senders are forked from (``tests.journeys.nursery``)."""

    process: subprocess.Popen[str]

    def ask(self, order: dict[str, Any]) -> int:
        """Gives an order; its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def nursery() -> Iterator[Nursery]:
    """One that is warm; whoever it bore and still lives dies at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.journeys.nursery"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Nursery(process)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@dataclass(slots=True)
class Relay:
    """Subscriptions at listeners, what they are owed, and the senders between."""

    database: Database
    database_url: str
    nursery: Nursery
    folder: Path
    stack: ExitStack
    listeners: dict[str, Listener] = field(default_factory=dict)
    subscriptions: list[SubscriptionId] = field(default_factory=list)
    dead: list[SubscriptionId] = field(default_factory=list)
    numbers: Counter[int] = field(default_factory=Counter)

    def listener(self, name: str, *, any_time: bool = False) -> Listener:
        """A new receiver process."""
        made = self.stack.enter_context(listener(self.folder, name, any_time=any_time))
        self.listeners[name] = made
        return made

    def sender(
        self,
        *,
        dies: str = "",
        clock: Path | None = None,
        duties: bool = False,
        open_files: int = 0,
        **settings: Any,
    ) -> Life:
        """A new sender, at work; ``dies`` is the step at which it kills itself."""
        order = Order(
            {"database_url": self.database_url, **SETTINGS, **settings},
            log=str(self.log),
            dies=dies,
            clock=str(clock or ""),
            duties=duties,
            open_files=open_files,
        )
        return Life(self.nursery.ask(json.loads(order.line())), self.nursery)

    @property
    def log(self) -> Path:
        """Where senders write."""
        return self.folder / "senders.log"

    async def subscribe(self, *urls: str) -> list[SubscriptionId]:
        """Active subscriptions of one partner's, as if their endpoints had consented."""
        now = datetime.now(UTC)
        sealed = _SEALS.seal("webhook secret", KEY, now)
        made = []
        async with self.database.begin() as connection:
            partner = (await store.partners.keep(connection, "baltica", "", now)).id
            for url in urls:
                one = SubscriptionId(f"sub_{len(self.subscriptions):020x}")
                self.subscriptions.append(one)
                made.append(one)
                await store.subscriptions.add(
                    connection,
                    Subscription(
                        one, partner, url, "json", Filter(), "", Status.active, created_at=now
                    ),
                )
                await store.subscriptions.add_secret(
                    connection, one, sealed, now, others_retire_at=now, keep_at_most=1
                )
        return made

    async def owe(
        self,
        *alerts: int,
        to: Sequence[SubscriptionId] | None = None,
        padding: int = 0,
        at: datetime | None = None,
    ) -> int:
        """Moves each of these alerts once, owing that to all subscriptions, or to some, in one transaction.

        Gives the instant of the commit, in nanoseconds of the monotonic clock.
        """
        debts = []
        for alert in alerts:
            self.numbers[alert] += 1
            data = json.dumps({"alert": alert, "number": self.numbers[alert], "p": "x" * padding})
            debts += [
                Debt(one, "alert.updated", alert_id=alert, data=data)
                for one in (self.subscriptions if to is None else to)
            ]
        async with self.database.begin() as connection:
            await store.debts.owe(connection, debts, at or datetime.now(UTC))
        return time.monotonic_ns()

    async def settled(self, within_seconds: float, *, but: Sequence[SubscriptionId] = ()) -> None:
        """Waits until nothing is owed any more, but to these."""
        until = time.monotonic() + within_seconds
        while left := await self.left(but=but):
            assert time.monotonic() < until, f"{left} are still owed; {self.last_words()}"
            await asyncio.sleep(0.05)

    async def left(self, *, but: Sequence[SubscriptionId] = ()) -> int:
        """How many are still owed, to others than these."""
        async with self.database.begin() as connection:
            found = await connection.execute(
                text(
                    "SELECT count(*) FROM deliveries WHERE state = 'owed' "
                    "AND subscription_id NOT IN (SELECT unnest(CAST(:but AS text[])))"
                ),
                {"but": list(but)},
            )
            return int(found.scalar_one())

    async def owed(self) -> list[Owed]:
        """Everything that was ever owed."""
        return await reckoning.owed(self.database_url)

    async def types(self, of: SubscriptionId) -> list[str]:
        """The types of what a subscription was ever owed, by sequence."""
        async with self.database.begin() as connection:
            found = await store.delivery_log.events(connection, of, after=0, limit=1_000)
        return [one.type for one in found]

    async def errors(self) -> Counter[str]:
        """The error codes of all tries that had one."""
        connection = await asyncpg.connect(self.database_url)
        try:
            rows = await connection.fetch("SELECT error FROM attempts WHERE error <> ''")
        finally:
            await connection.close()
        return Counter(row["error"] for row in rows)

    def heard(self) -> list[Heard]:
        """Everything that was ever heard."""
        return reckoning.heard(*(one.log for one in self.listeners.values()))

    async def reckon(self, *, dead: Sequence[SubscriptionId] = ()) -> Counter[str]:
        """Asserts that the promise was kept; how often each id was heard."""
        heard = self.heard()
        refused = [name for one in self.listeners.values() for name in reckoning.refused(one.log)]
        found = reckoning.faults(await self.owed(), heard, dead=dead, refused=refused)
        assert not found, (len(found), found[:20], self.last_words())
        return Counter(one.id for one in heard)

    def last_words(self) -> str:
        """The end of what senders wrote, for whoever reads why a test failed."""
        with suppress(FileNotFoundError):
            return self.log.read_text(encoding="utf-8", errors="replace")[-2_000:]
        return "no sender said anything"


async def until(
    holds: Callable[[], object] | Callable[[], Awaitable[object]], within_seconds: float = 60
) -> None:
    """Waits until something is so; what must be awaited to be known may be given as well."""
    end = time.monotonic() + within_seconds
    while True:
        found = holds()
        if await found if isawaitable(found) else found:
            return
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.005)


_SEALS = seals.from_settings(Settings.model_validate(SETTINGS))
