"""Subscribes partners: asks endpoints for consent, gives and rotates secrets, suspends and resumes.

    pending --(endpoint answers the challenge)--> active <--> suspended --> removed

Consent is asked through the queue, like everything that is sent: a ``webhook.verify`` that the
endpoint answers with its challenge. What happens then stands in ``store.queue.record``, and so does
what the service itself suspends.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from alerts.routing import SubscriptionId
from app.database import Connection
from app.seals import Seals
from app.store import deliveries, endpoints, subscriptions
from app.store.deliveries import Debt
from app.store.delivery_log import Delivery
from app.store.subscriptions import Status, Subscription

OVERLAP = timedelta(hours=24)
LONGEST_OVERLAP = timedelta(days=7)
OLD_SECRETS = 3


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
    await deliveries.withdraw(connection, subscription.id, now, kind=deliveries.VERIFY)
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
            debt = Debt(subscription.id, deliveries.TEST, data=said)
            await deliveries.owe(connection, [debt], now)
            return deliveries.TEST
        case Status.pending:
            await _ask_consent(connection, subscription.id, challenge, now)
            return deliveries.VERIFY
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
    if delivery.type == deliveries.VERIFY:
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


async def remove(connection: Connection, subscription: Subscription, now: datetime) -> None:
    """Ends it for ever; what is owed is withdrawn, what was recorded stays. Must be locked."""
    await subscriptions.set_status(connection, subscription.id, Status.removed, now=now)
    await deliveries.withdraw(connection, subscription.id, now)


async def _ask_consent(
    connection: Connection, subscription_id: SubscriptionId, challenge: str, now: datetime
) -> None:
    """Owes a challenge, and takes back an earlier one that waits: one is asked at a time."""
    await deliveries.withdraw(connection, subscription_id, now, kind=deliveries.VERIFY)
    said = json.dumps({"challenge": challenge}, separators=(",", ":"))
    await deliveries.owe(connection, [Debt(subscription_id, deliveries.VERIFY, data=said)], now)
