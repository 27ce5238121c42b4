"""Subscribes partners: asks endpoints for consent, gives and rotates secrets, suspends and resumes.

    pending --(the challenge is answered, by the endpoint or a person)--> active <--> suspended --> removed

Consent is asked through the queue, like everything that is sent: a ``webhook.verify`` that the
endpoint answers with its challenge. What happens then stands in ``store.records.record``, and so does
what the service itself suspends.
"""

from __future__ import annotations

import hmac
import json
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, StrEnum

from alerts.payloads import TEST, VERIFY
from alerts.routing import SubscriptionId
from app.database import Connection
from app.seals import Seals
from app.store import debts, deliveries, endpoints, subscriptions
from app.store.debts import Debt
from app.store.delivery_log import Delivery
from app.store.subscriptions import Status, Subscription

OVERLAP = timedelta(hours=24)
LONGEST_OVERLAP = timedelta(days=7)
OLD_SECRETS = 3

CHALLENGE_HOLDS_FOR = timedelta(days=7)
MOST_GUESSES = 10
_CHALLENGES_REMEMBERED = 10_000


class WrongState(Exception):
    """The subscription is not in a state in which that can be done; the message says in which it is."""


class Backlog(StrEnum):
    """What a resumed endpoint is sent of what happened meanwhile: all of it, or of each alert the latest."""

    all = "all"
    latest = "latest"


@dataclass(frozen=True, slots=True)
class Dice:
    """What only a door can make, because it is random: a signing key and a challenge."""

    key: bytes
    challenge: str


async def subscribe(
    connection: Connection, seals: Seals, subscription: Subscription, dice: Dice, now: datetime
) -> Subscription:
    """Adds a subscription with its first secret and asks its endpoint for consent."""
    await subscriptions.add(connection, subscription)
    await rotate_secret(connection, seals, subscription.id, dice.key, timedelta(), now)
    await _ask_consent(connection, subscription.id, dice.challenge, now)
    return subscription


async def change(
    connection: Connection,
    subscription: Subscription,
    wanted: Subscription,
    challenge: str,
    now: datetime,
) -> Subscription:
    """Changes what is asked for, how it is written, and where it goes. The subscription must be locked.

    A new endpoint is asked for its consent; what is owed is kept for it meanwhile. A suspended
    subscription stays suspended, and its new endpoint is asked when it is resumed.
    """
    await subscriptions.describe(connection, wanted)
    if wanted.url == subscription.url:
        return wanted
    await subscriptions.move(connection, subscription.id, wanted.url)
    moved = replace(wanted, verified_at=None)
    await deliveries.withdraw(connection, subscription.id, now, kind=VERIFY)
    if subscription.status is Status.suspended:
        return moved
    await subscriptions.set_status(connection, subscription.id, Status.pending, now=now)
    await _ask_consent(connection, subscription.id, challenge, now)
    return replace(moved, status=Status.pending, reason="")


async def rotate_secret(
    connection: Connection,
    seals: Seals,
    subscription_id: SubscriptionId,
    key: bytes,
    overlap: timedelta,
    now: datetime,
) -> None:
    """Gives a new secret. Older ones sign beside it for ``overlap``, the newest three of them.

    The subscription must be locked or new.
    """
    await subscriptions.add_secret(
        connection,
        subscription_id,
        seals.seal("webhook secret", key, now),
        now,
        others_retire_at=now + overlap,
        keep_at_most=OLD_SECRETS,
    )


async def send_test(
    connection: Connection, subscription: Subscription, challenge: str, now: datetime
) -> str:
    """Sends a test the way alerts go; to an endpoint that has not consented, a new challenge.

    Gives the type of what was sent. The subscription must be locked.

    Raises:
        WrongState: it is suspended.
    """
    match subscription.status:
        case Status.active:
            said = json.dumps(
                {"message": "This is a test.", "subscription": subscription.id},
                separators=(",", ":"),
            )
            debt = Debt(subscription.id, TEST, data=said)
            await debts.owe(connection, [debt], now)
            return TEST
        case Status.pending:
            await _ask_consent(connection, subscription.id, challenge, now)
            return VERIFY
        case Status.suspended | Status.removed:
            raise WrongState(
                f"The subscription is {subscription.status}; resume it first, then test it."
            )


async def redeliver(
    connection: Connection, subscription: Subscription, delivery: Delivery, now: datetime
) -> bool:
    """Sends an event once more under the same id, or at once if it waits for a retry.

    False when it was left as it is, because it waits for an earlier event of its alert or is under way.
    The subscription must be locked.

    Raises:
        WrongState: the subscription or the delivery is not in a state to be sent.
    """
    if subscription.status is not Status.active:
        raise WrongState(
            f"The subscription is {subscription.status}; it must be active to be sent to."
        )
    if delivery.type == VERIFY:
        raise WrongState("A challenge is not sent twice; the endpoint has consented.")
    if delivery.state == "withdrawn":
        raise WrongState("The delivery was withdrawn and cannot be sent again.")
    return await deliveries.redeliver(connection, subscription.id, [delivery.id], now) > 0


async def suspend(
    connection: Connection, subscription: Subscription, reason: str, now: datetime
) -> Subscription:
    """Sends nothing more for now. What happens meanwhile is owed. The subscription must be locked."""
    if subscription.status is Status.suspended:
        return subscription
    await subscriptions.set_status(
        connection, subscription.id, Status.suspended, now=now, reason=reason
    )
    return replace(subscription, status=Status.suspended, suspended_at=now, reason=reason)


async def resume(
    connection: Connection,
    subscription: Subscription,
    challenge: str,
    now: datetime,
    *,
    backlog: Backlog = Backlog.all,
    per_second: float,
) -> Subscription:
    """Sends again, beginning with what was owed meanwhile. The subscription must be locked.

    An endpoint that has not consented is asked (again); one that had is not. What was owed meanwhile is
    spread over time, so that an endpoint that comes back is not knocked over by what it missed.

    Raises:
        WrongState: it is not suspended.
    """
    if subscription.status is not Status.suspended:
        raise WrongState(f"The subscription is {subscription.status}, not suspended.")
    if backlog is Backlog.latest:
        await deliveries.keep_latest(connection, subscription.id, now)
    every = timedelta(seconds=1 / per_second)
    await deliveries.drain(connection, subscription.id, now, every=every)
    back = replace(subscription, suspended_at=None, reason="")
    if subscription.verified_at is None:
        await subscriptions.set_status(connection, subscription.id, Status.pending, now=now)
        await _ask_consent(connection, subscription.id, challenge, now)
        return replace(back, status=Status.pending)
    await subscriptions.set_status(connection, subscription.id, Status.active, now=now)
    await endpoints.refresh(connection, [subscription.id])
    await deliveries.wake(connection)
    return replace(back, status=Status.active)


class Answer(Enum):
    """What a challenge that a person gives back turns out to be."""

    right = "right"
    wrong = "wrong"
    spent = "spent"


@dataclass(slots=True)
class Guesses:
    """Wrong answers to challenges, counted by this process; of the last ten thousand challenges.

    A challenge holds 192 random bits: the count keeps a mistaken script from going on for ever,
    and guessing is hopeless without it, so it need not outlive the process or be shared. What it
    leads to is stored: a challenge that is spent is spent for every process.
    """

    _wrong: OrderedDict[int, int] = field(default_factory=OrderedDict)

    def count(self, delivery_id: int) -> int:
        """Counts one more wrong answer to the challenge of that delivery; gives how many there were."""
        self._wrong[delivery_id] = self._wrong.pop(delivery_id, 0) + 1
        if len(self._wrong) > _CHALLENGES_REMEMBERED:
            self._wrong.popitem(last=False)
        return self._wrong[delivery_id]


async def confirm(
    connection: Connection,
    guesses: Guesses,
    subscription: Subscription,
    answer: str,
    now: datetime,
) -> Answer:
    """Takes a challenge from a person who read it where the endpoint shows what it is sent.

    For endpoints that cannot answer by themselves, such as a chat's: the challenge was sent to the
    endpoint alone, so whoever knows it reads there. The right one makes the subscription active,
    just as if the endpoint had answered; the tenth wrong one spends the challenge, and that must
    be committed too. The subscription must be locked.

    Raises:
        WrongState: it waits for no consent, or there is no challenge that is still good.
    """
    if subscription.status is not Status.pending:
        raise WrongState(
            f"The subscription is {subscription.status}, not pending; there is nothing to confirm."
        )
    asked = await deliveries.asked(connection, subscription.id)
    if asked is None:
        raise WrongState("No challenge is open; POST .../test sends a new one.")
    if now - asked.asked_at > CHALLENGE_HOLDS_FOR:
        raise WrongState(
            f"The challenge is older than {CHALLENGE_HOLDS_FOR.days} days; POST .../test sends a new one."
        )
    if hmac.compare_digest(answer.encode(), asked.challenge.encode()):
        await deliveries.accept(connection, subscription.id, asked, now)
        return Answer.right
    if guesses.count(asked.delivery_id) < MOST_GUESSES:
        return Answer.wrong
    await deliveries.spoil(connection, asked, now)
    return Answer.spent


async def remove(connection: Connection, subscription: Subscription, now: datetime) -> None:
    """Ends it for ever; what is owed is withdrawn, what was recorded stays. Must be locked."""
    await subscriptions.set_status(connection, subscription.id, Status.removed, now=now)
    await deliveries.withdraw(connection, subscription.id, now)


async def _ask_consent(
    connection: Connection, subscription_id: SubscriptionId, challenge: str, now: datetime
) -> None:
    """Owes a challenge, and takes back an earlier one that waits: one is asked at a time."""
    await deliveries.withdraw(connection, subscription_id, now, kind=VERIFY)
    said = json.dumps({"challenge": challenge}, separators=(",", ":"))
    await debts.owe(connection, [Debt(subscription_id, VERIFY, data=said)], now)
