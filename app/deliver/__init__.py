"""Sends what is owed: claims deliveries under a lease, sends them signed, records what came of it.

The relay of one attempt, each step a type of its own, so that none can be left out:

    store.queue.claim -> Claimed -> letters.write -> Letter -> outbound.post -> Outcome
        -> retries.judge -> Verdict -> store.records.record -> Recorded

No transaction is open while the network is. A crash after sending and before recording sends the
same ``webhook-id`` again when the lease has ended: at least once, never lost, never under two ids.

    consent   whether an endpoint wants to be sent anything
    hand      what is claimed and not recorded, and what is begun next
    letters   a delivery as signed bytes
    ledger    records attempts in batches
    owners    tells the owners of endpoints what became of these
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic

from alerts import retries
from alerts.endpoints import Patience
from alerts.explanation import instant
from alerts.payloads import VERIFY
from alerts.retries import Decision, ErrorCode, Outcome
from alerts.routing import SubscriptionId
from app import store, telemetry
from app.database import Database, DatabaseAway
from app.deliver import consent, owners
from app.deliver.hand import Hand
from app.deliver.ledger import AWAY_SECONDS, Ledger
from app.deliver.letters import Desk, Unsigned
from app.outbound import Outbound
from app.seals import SealBroken, Seals
from app.settings import Settings
from app.store.debts import Offer, Taken
from app.store.deliveries import CHANNEL
from app.store.queue import Claimed
from app.store.records import Attempted, Recorded

POLL_SECONDS = 1.0
PASSED_OVER_SECONDS = 0.02
"""After so long an endpoint is asked for again that another worker held, as long as a transaction takes."""
# How much longer than one attempt a stop waits for attempts under way to be recorded.
DRAIN_SPARE_SECONDS = 5.0
SLOW_SECONDS = 0.5
"""An attempt that takes longer counts among the slow ones."""
CLAIMED_TOGETHER = 512
BEGUN_TOGETHER = 16
"""So many attempts are begun at once, and the next when the event loop has looked round: two hundred take it
40 ms, and each question to the database waited as long for its answer, endpoints locked meanwhile.
"""
JUMP = timedelta(minutes=1)
"""A clock that is further ahead than this after an attempt has jumped."""
EXTENDED_TOGETHER = 512


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
        self._settings = settings
        self._clock = clock
        self._dice = dice
        self._origin = settings.public_url or ""
        self._desk = Desk(seals, self._origin)
        self._hand = Hand(settings.webhook_in_flight, settings.webhook_in_flight_per_endpoint)
        # Claims pass over endpoints that others hold, and would pass over those that this worker is just
        # recording for: so it claims and records in turn.
        self._turn = asyncio.Lock()
        self._ledger = Ledger(
            database,
            patience_of(settings),
            clock,
            self._turn,
            lambda: self._hand.is_busy,
            self._recorded,
        )
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._under_way: set[asyncio.Task[None]] = set()
        self._asides: set[asyncio.Task[None]] = set()
        self._to_begin = BEGUN_TOGETHER
        self._nudged = asyncio.Event()
        self._next_at: datetime | None = None
        self._is_short = False  # of places: something may be due that was not claimed
        self._stopping = False

    async def run(self) -> None:
        """Sends until ``stop`` is called or it is cancelled; PostgreSQL may go away and come back.

        Hears of new debts by NOTIFY and looks every second in case it did not.
        """
        beside = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_leases())]
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
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def nudge(self) -> None:
        """Says that something may be due; looks at once."""
        self._nudged.set()

    async def deliver_due(self, now: datetime) -> bool:
        """Claims what is due and begins to send it; True when it claimed anything, so that there
        may be more. Does not wait for the attempts: ``settle`` does.

        Raises:
            DatabaseAway: nothing was claimed.
        """
        async with self._turn:
            claimed = await self._claim(now)
        if self._stopping:  # It was stopped while it claimed.
            self._let_go(self._hand.drop_all())
            return False
        self._begin()
        return claimed

    async def _claim(self, now: datetime) -> bool:
        slots = min(self._hand.slots, CLAIMED_TOGETHER)
        self._is_short = slots <= 0 or self._ledger.is_full
        if self._is_short:
            return False
        rooms = self._hand.rooms(monotonic())
        lease_until = now + self._lease
        # A claim that is lost with the machine is made again, and its delivery sent again under its id.
        async with self._database.queue(flushed=False) as connection:
            claimed = await store.queue.claim(
                connection,
                now,
                slots=slots,
                retry_slots=self._hand.retry_slots,
                per_endpoint=self._settings.webhook_in_flight_per_endpoint,
                rooms=rooms,
                lease_until=lease_until,
            )
            self._next_at = None if claimed else await store.queue.next_ready(connection, rooms)
        self._hand.add(claimed, lease_until)
        self._hand.filled(claimed, rooms)
        return bool(claimed)

    def offer(self, to: Collection[SubscriptionId]) -> Offer | None:
        """What it takes at once of what is about to be owed to these, so that nobody need claim it: no more
        than it might begin at once.
        """
        if self._stopping or self._ledger.is_full or not self._hand.free:
            return None
        return Offer(
            self._clock() + self._lease,
            self._hand.free,
            self._settings.webhook_in_flight_per_endpoint,
            self._hand.full(to, monotonic()),
        )

    def take(self, taken: Taken) -> None:
        """Begins to send what was claimed as it came to be owed, which is committed."""
        if taken.lease_until <= self._clock():
            self.nudge()  # Their commit took as long; they are due again, and may be others' by now.
            return
        if self._stopping:
            self._let_go(taken.claimed)
            return
        telemetry.deliveries_born_claimed.inc(len(taken.claimed))
        self._hand.add(*taken)
        self._begin()

    async def settle(self) -> None:
        """Waits until every attempt under way is recorded, and everything else begun here is done."""
        while self._under_way or self._asides or not self._ledger.is_idle:
            waited = {*self._under_way, *self._asides}
            if waited:
                await asyncio.wait(waited)
            await self._ledger.settle()

    async def stop(self) -> None:
        """Claims nothing more, gives back what was not begun and waits for the attempts under way.

        Not longer than an attempt may take: what is left then is sent again after its lease.
        """
        self._stopping = True
        self.nudge()
        self._let_go(self._hand.drop_all())
        self._ledger.patience = self._settings.webhook_timeout_seconds + DRAIN_SPARE_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ledger.patience):
                await self.settle()
        left = [*self._under_way, *self._asides]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _rest(self) -> None:
        seconds = POLL_SECONDS
        if self._next_at is not None:
            wait = (self._next_at - self._clock()).total_seconds()
            seconds = min(seconds, max(PASSED_OVER_SECONDS, wait))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudged.wait()

    async def _listen(self) -> None:
        while True:
            try:
                async with self._database.listening(CHANNEL, lambda _: self.nudge()) as lost:
                    self.nudge()  # What came before we listened was not heard.
                    await lost.wait()
            except DatabaseAway:
                await asyncio.sleep(AWAY_SECONDS)

    async def _keep_leases(self) -> None:
        """Renews the leases of what is in hand, a third of their length before they end at the latest."""
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            now = self._clock()
            old = self._hand.leases_before(now + self._lease * (2 / 3))
            for first in range(0, len(old), EXTENDED_TOGETHER):
                held = old[first : first + EXTENDED_TOGETHER]
                try:
                    async with self._database.queue() as connection:
                        kept = await store.queue.extend(connection, held, now + self._lease)
                except DatabaseAway:
                    continue  # They are sent again, under their ids, if it stays away.
                except Exception:  # noqa: BLE001 - one failed renewal must not end all renewing
                    telemetry.line("delivery.renewal_failed", level="error", exc_info=True)
                    continue
                self._hand.extended((one for one in held if one.id in kept), now + self._lease)
                self._hand.forget(one for one in held if one.id not in kept)

    def _begin(self) -> None:
        """Begins what may be begun, a few now and the others in the next turns of the event loop."""
        while self._to_begin and not self._ledger.is_full and not self._stopping:
            one = self._hand.begin()
            if one is None:
                return
            if self._to_begin == BEGUN_TOGETHER:
                asyncio.get_running_loop().call_soon(self._begin_more)
            self._to_begin -= 1
            task = asyncio.create_task(self._attempt(one))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _begin_more(self) -> None:
        self._to_begin = BEGUN_TOGETHER
        self._begin()

    async def _attempt(self, claimed: Claimed) -> None:
        was_slow = False

        def slow() -> None:
            nonlocal was_slow
            was_slow = self._hand.slow(claimed)
            if was_slow:
                self._begin()

        is_taken = False
        alarm = asyncio.get_running_loop().call_later(SLOW_SECONDS, slow)
        try:
            began = self._clock()
            try:
                outcome, pace = await self._send(claimed, began)
            except Exception:  # noqa: BLE001 - one delivery that cannot be sent stops only itself
                telemetry.line(
                    "delivery.broken", level="error", exc_info=True, id=claimed.webhook_id
                )
                outcome, pace = Outcome(error=ErrorCode.internal), None
            ended = self._ended(began, outcome)
            verdict = retries.judge(
                outcome,
                attempt=claimed.attempt,
                schedule=self._settings.retry_schedule,
                now=ended,
                jitter=self._dice(),
                throttled=claimed.throttled,
                throttled_since=claimed.throttled_since,
            )
            is_taken = verdict.decision is Decision.delivered
            self._ledger.add(
                Attempted(
                    claimed, began, outcome, verdict, self._excerpt(outcome.answer), pace, ended
                )
            )
        finally:
            alarm.cancel()
            if self._hand.end(claimed, monotonic(), was_slow=was_slow, was_taken=is_taken):
                self.nudge()
            self._begin()

    def _ended(self, began: datetime, outcome: Outcome) -> datetime:
        """When an attempt ended; where the clock jumped meanwhile, the earlier of what it says now and of
        what it said at first and how long it took.

        A retry that comes too early harms less than one put off by as much as the clock jumped.
        """
        now = self._clock()
        ended = began + timedelta(milliseconds=outcome.milliseconds)
        return now if now - ended < JUMP else ended

    async def _send(self, claimed: Claimed, at: datetime) -> tuple[Outcome, float | None]:
        """What an attempt met with, and the pace the endpoint asked for if it did."""
        if claimed.type == VERIFY:
            hands = await consent.shake_hands(self._outbound, claimed, self._origin)
            if hands is not None:
                return hands.outcome, hands.per_second
        try:
            letter = self._desk.write(claimed, at)
        except (SealBroken, Unsigned):
            return Outcome(error=ErrorCode.no_secret), None
        outcome = await self._outbound.post(claimed.endpoint.url, letter.headers, letter.body)
        return consent.answered(outcome, claimed.data) if claimed.type == VERIFY else outcome, None

    def _excerpt(self, answer: bytes) -> str:
        """The beginning of an answer as text."""
        return answer[: self._settings.webhook_excerpt_bytes].decode("utf-8", "replace")

    def _recorded(self, batch: Sequence[Attempted], recorded: Recorded) -> None:
        """Heeds what recording brought to light."""
        now = self._clock()
        for attempted in batch:
            self._hand.recorded(attempted.claimed)
            self._tell(attempted, now, recorded.kept.get(attempted.claimed.key))
        for name, standing in recorded.standings.items():
            self._let_go(self._hand.stand(name, standing, now))
        if recorded.notices:
            self._aside(self._tell_owners())
        self._begin()
        soon = now + timedelta(seconds=POLL_SECONDS)
        is_soon = recorded.ready_at is not None and recorded.ready_at <= soon
        if is_soon or self._is_short or len(recorded.kept) < len(batch):
            self.nudge()

    def _let_go(self, dropped: Sequence[Claimed]) -> None:
        if dropped:
            self._aside(self._give_back(dropped))

    async def _give_back(self, dropped: Sequence[Claimed]) -> None:
        with suppress(DatabaseAway):  # Their leases end by themselves.
            async with self._database.queue() as connection:
                await store.queue.let_go(connection, dropped)

    async def _tell_owners(self) -> None:
        with suppress(DatabaseAway):  # They wait in the database; a duty looks for them.
            async with self._database.queue() as connection:
                await owners.tell(connection, self._clock())

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _tell(self, attempted: Attempted, now: datetime, number: int | None) -> None:
        """Counts and logs an attempt; ``number`` is which of its delivery's it was, None where it was not
        recorded.
        """
        claimed, verdict, outcome = attempted.claimed, attempted.verdict, attempted.outcome
        telemetry.attempts.labels(verdict.decision.value).inc()
        telemetry.attempt_seconds.observe(outcome.milliseconds / 1000)
        # Challenges, tests and news of endpoints follow from no signal.
        if number is not None and claimed.transition_id is not None and not claimed.again:
            owed_for = (attempted.at - claimed.created_at).total_seconds()
            if outcome.sent_after is not None and number == 1:
                telemetry.first_byte_seconds.observe(max(0.0, owed_for + outcome.sent_after / 1000))
            if verdict.decision is Decision.delivered:
                telemetry.delivery_seconds.observe(max(0.0, owed_for + outcome.milliseconds / 1000))
        telemetry.line(
            "delivery.attempted",
            id=claimed.webhook_id,
            subscription=claimed.subscription_id,
            type=claimed.type,
            alert_id=claimed.alert_id,
            attempt=claimed.attempt,
            status=outcome.status,
            error=verdict.error.value if verdict.error else None,
            verdict=verdict.decision.value,
            retry_at=instant(verdict.retry_at),
            reason=verdict.reason,
            recorded=number is not None,
            milliseconds=round(outcome.milliseconds, 2),
        )


def patience_of(settings: Settings) -> Patience:
    """The numbers of the endpoints' machine as an operator has set them."""
    return Patience(
        open_for=timedelta(seconds=settings.endpoint_open_seconds),
        longest_open=timedelta(seconds=settings.endpoint_longest_open_seconds),
        suspend_after=timedelta(hours=settings.endpoint_suspend_after_hours),
    )
