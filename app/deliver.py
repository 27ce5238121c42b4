"""Sends what is owed: claims deliveries under a lease, sends them signed, records what came of it.

The relay of one attempt, each step a type of its own, so that none can be left out:

    store.deliveries.claim_due -> Claimed -> outbound.post -> Outcome
        -> retries.judge -> Verdict -> store.deliveries.record

No transaction is open while the network is. A crash after sending and before recording sends the
same ``webhook-id`` again when the lease has ended: at least once, never lost, never under two ids.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from alerts import payloads, retries, signing
from alerts.explanation import instant
from alerts.retries import Decision, ErrorCode, Outcome
from app import telemetry
from app.database import Database, DatabaseAway
from app.outbound import Outbound
from app.seals import SealBroken, Seals
from app.settings import Settings
from app.store import deliveries
from app.store.deliveries import Attempted, Claimed

POLL_SECONDS = 1.0
AWAY_SECONDS = 1.0
# How much longer than one attempt a stop waits for attempts under way to be recorded.
DRAIN_SPARE_SECONDS = 5.0
RECORDED_TOGETHER = 256


class Sender:
    """Sends what is due, many at a time. Any number may run on one database.

    Args:
        database: where the deliveries are.
        outbound: the way out; closed by its maker.
        seals: opens the subscriptions' secrets.
        settings: limits, times and the retry schedule.
        clock: tells the instant, aware.
        dice: numbers in [0, 1) that spread retries.
    """

    def __init__(
        self,
        database: Database,
        outbound: Outbound,
        seals: Seals,
        settings: Settings,
        *,
        clock: Callable[[], datetime],
        dice: Callable[[], float],
    ) -> None:
        self._database = database
        self._outbound = outbound
        self._seals = seals
        self._settings = settings
        self._clock = clock
        self._dice = dice
        self._ledger = _Ledger(database, clock)
        self._lease = timedelta(
            seconds=max(settings.lease_seconds, settings.webhook_timeout_seconds + 5)
        )
        self._busy: Counter[str] = Counter()
        self._attempts: set[asyncio.Task[None]] = set()
        self._nudged = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Sends until ``stop`` is called or it is cancelled; PostgreSQL may go away and come back.

        Hears of new debts by NOTIFY and looks every second in case it did not.
        """
        listener = asyncio.create_task(self._listen())
        away = False
        try:
            while not self._stopping:
                self._nudged.clear()
                try:
                    more = await self.deliver_due(self._clock())
                    if away:
                        telemetry.line("delivery.database_back")
                    away = False
                except DatabaseAway as error:
                    more = False
                    if not away:
                        telemetry.line("delivery.database_away", level="warning", fault=str(error))
                    away = True
                except Exception:  # noqa: BLE001 - one failed look must not end all sending
                    more = False
                    telemetry.line("delivery.claim_failed", level="error", exc_info=True)
                if not more:
                    await self._rest()
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    def nudge(self) -> None:
        """Says that something may be due; looks at once."""
        self._nudged.set()

    async def deliver_due(self, now: datetime) -> bool:
        """Claims what is due and begins to send it; True when it claimed anything, so that there
        may be more. Does not wait for the attempts: ``settle`` does.

        Raises:
            DatabaseAway: nothing was claimed.
        """
        slots = self._settings.webhook_in_flight - self._busy.total()
        if slots <= 0:
            return False
        async with self._database.begin() as connection:
            claimed = await deliveries.claim_due(
                connection,
                now,
                slots=slots,
                per_endpoint=self._settings.webhook_in_flight_per_endpoint,
                in_flight=+self._busy,
                lease_until=now + self._lease,
            )
        for one in claimed:
            self._busy[one.subscription_id] += 1
            attempt = asyncio.create_task(self._attempt(one))
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)
        return bool(claimed)

    async def settle(self) -> None:
        """Waits until every attempt under way is recorded."""
        while self._attempts:
            await asyncio.wait(self._attempts)

    async def stop(self) -> None:
        """Claims nothing more and waits for the attempts under way to be recorded.

        Not longer than an attempt may take: what is left then is sent again after its lease.
        """
        self._stopping = True
        self.nudge()
        self._ledger.patience = self._settings.webhook_timeout_seconds + DRAIN_SPARE_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ledger.patience):
                await self.settle()
        for attempt in self._attempts:
            attempt.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._nudged.wait()

    async def _listen(self) -> None:
        while True:
            try:
                async with self._database.listening(
                    deliveries.CHANNEL, lambda _: self.nudge()
                ) as lost:
                    self.nudge()  # What came before we listened was not heard.
                    await lost.wait()
            except DatabaseAway:
                await asyncio.sleep(AWAY_SECONDS)

    async def _attempt(self, claimed: Claimed) -> None:
        try:
            began = self._clock()
            try:
                outcome = await self._send(claimed, began)
            except Exception:  # noqa: BLE001 - one delivery that cannot be sent stops only itself
                telemetry.line(
                    "delivery.broken", level="error", exc_info=True, id=claimed.webhook_id
                )
                outcome = Outcome(error=ErrorCode.internal)
            now = self._clock()
            verdict = retries.judge(
                outcome,
                attempt=claimed.attempt,
                schedule=self._settings.retry_schedule,
                now=now,
                jitter=self._dice(),
            )
            attempted = Attempted(claimed, began, outcome, verdict, self._excerpt(outcome.answer))
            recorded = await self._ledger.record(attempted)
            self._tell(attempted, now, recorded=recorded)
        finally:
            self._busy[claimed.subscription_id] -= 1
            if not self._busy[claimed.subscription_id]:
                del self._busy[claimed.subscription_id]
            self.nudge()

    async def _send(self, claimed: Claimed, at: datetime) -> Outcome:
        try:
            keys = [
                self._seals.unseal("webhook secret", sealed, at)
                for sealed in claimed.sealed_secrets
            ]
        except SealBroken:
            return Outcome(error=ErrorCode.no_secret)
        if not keys:
            return Outcome(error=ErrorCode.no_secret)
        body = payloads.body(
            claimed.type, instant(claimed.created_at) or "", claimed.sequence, claimed.data
        )
        headers = {
            "content-type": "application/json",
            **signing.headers(keys, claimed.webhook_id, at, body),
        }
        outcome = await self._outbound.post(claimed.url, headers, body)
        if claimed.type == deliveries.VERIFY and not _consents(outcome, claimed.data):
            return replace(outcome, error=outcome.error or _missing_consent(outcome))
        return outcome

    def _excerpt(self, answer: bytes) -> str:
        """The beginning of an answer as text."""
        return answer[: self._settings.webhook_excerpt_bytes].decode("utf-8", "replace")

    def _tell(self, attempted: Attempted, now: datetime, *, recorded: bool) -> None:
        claimed, verdict = attempted.claimed, attempted.verdict
        telemetry.attempts.labels(verdict.decision.value).inc()
        telemetry.attempt_seconds.observe(attempted.outcome.milliseconds / 1000)
        if verdict.decision is Decision.delivered and recorded and not claimed.again:
            telemetry.delivery_seconds.observe(max(0.0, (now - claimed.created_at).total_seconds()))
        telemetry.line(
            "delivery.attempted",
            id=claimed.webhook_id,
            subscription=claimed.subscription_id,
            type=claimed.type,
            alert_id=claimed.alert_id,
            attempt=claimed.attempt,
            status=attempted.outcome.status,
            error=verdict.error.value if verdict.error else None,
            verdict=verdict.decision.value,
            retry_at=instant(verdict.retry_at),
            reason=verdict.reason,
            recorded=recorded,
            milliseconds=round(attempted.outcome.milliseconds, 2),
        )


def _consents(outcome: Outcome, data: str) -> bool:
    """Whether an endpoint answered a challenge with the same challenge."""
    try:
        answer = json.loads(outcome.answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and answer.get("challenge") == json.loads(data)["challenge"]


def _missing_consent(outcome: Outcome) -> ErrorCode | None:
    """Only a success needs another judgement: a refusal says enough as it is."""
    return ErrorCode.challenge if retries.error_of(outcome.status) is None else None


@dataclass(slots=True)
class _Entry:
    attempted: Attempted
    done: asyncio.Future[bool]


class _Ledger:
    """Records attempts; those that end while a transaction commits are recorded by the next.

    While PostgreSQL is away it holds on to what it has and tries every second, as long as
    ``patience`` lasts (seconds, None for ever): an attempt that was made is worth remembering.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self.patience: float | None = None
        self._database = database
        self._clock = clock
        self._waiting: list[_Entry] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, attempted: Attempted) -> bool:
        """True once recorded; False when another worker has taken the delivery over since."""
        entry = _Entry(attempted, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return await entry.done

    async def _write_all(self) -> None:
        while self._waiting:
            batch = self._waiting[:RECORDED_TOGETHER]
            del self._waiting[: len(batch)]
            await self._write(batch)

    async def _write(self, batch: list[_Entry]) -> None:
        waited = 0.0
        while True:
            try:
                kept = await self._write_once(batch)
            except DatabaseAway:
                if self.patience is not None and waited >= self.patience:
                    self._settle(batch, set())
                    return
                await asyncio.sleep(AWAY_SECONDS)
                waited += AWAY_SECONDS
            except Exception:  # noqa: BLE001 - what cannot be recorded stops only itself
                if len(batch) > 1:
                    for entry in batch:
                        await self._write([entry])
                    return
                telemetry.line(
                    "delivery.not_recorded",
                    level="error",
                    exc_info=True,
                    id=batch[0].attempted.claimed.webhook_id,
                )
                self._settle(batch, set())
                return
            else:
                self._settle(batch, kept)
                return

    async def _write_once(self, batch: list[_Entry]) -> set[int]:
        async with self._database.begin() as connection:
            return await deliveries.record(
                connection, [entry.attempted for entry in batch], self._clock()
            )

    def _settle(self, batch: list[_Entry], kept: set[int]) -> None:
        for entry in batch:
            if not entry.done.done():
                entry.done.set_result(entry.attempted.claimed.id in kept)
