"""Subscriptions and their secrets: who wants to hear what, and where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from alerts.endpoints import Health, health_of
from alerts.mechanisms import Level
from alerts.routing import TYPES, Filter, Listener, SubscriptionId
from alerts.signals import PartnerId, Severity
from app import tables
from app.database import Connection

_table = tables.subscriptions
_secrets = tables.subscription_secrets


class Ordering(StrEnum):
    """What comes first when an event of an alert cannot be delivered and newer ones wait behind it.

    ``strict``: they wait. ``latest``: the newest overtakes it, and it is superseded.
    """

    strict = "strict"
    latest = "latest"


class Status(StrEnum):
    """Where a subscription stands.

    ``pending`` waits for its endpoint's consent; ``suspended`` is owed everything and sent nothing.
    """

    pending = "pending"
    active = "active"
    suspended = "suspended"
    removed = "removed"


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription as stored; its secrets are not part of it.

    ``verified_at`` is when the endpoint it has now consented. ``per_second`` is the most it is sent in
    a second, None for as fast as it takes it. ``not_before`` is until when its endpoint is left in peace,
    and ``health`` what it has been through.
    """

    id: SubscriptionId
    partner_id: PartnerId
    url: str
    format: str
    filter: Filter
    description: str
    status: Status
    created_at: datetime
    verified_at: datetime | None = None
    suspended_at: datetime | None = None
    reason: str = ""
    last_sequence: int = 0
    format_version: int = 1
    ordering: Ordering = Ordering.strict
    per_second: float | None = None
    not_before: datetime | None = None
    health: Health = field(default_factory=Health)


IS_LISTENING = "status <> 'removed' AND owed_since IS NOT NULL"
"""SQL: whether a subscription is owed what it asks for: whose endpoint consented once, suspended meanwhile or
not. Where it has never consented, nothing is owed.
"""


def listener(subscription_id: str, said: str) -> Listener:
    """A subscription as routing sees it, from its filter as stored, in JSON text."""
    return Listener(SubscriptionId(subscription_id), _wishes(said))


@lru_cache(maxsize=100_000)
def _wishes(said: str) -> Filter:
    """A filter as it is stored; asked again and again, for every change of every alert."""
    return filter_of(json.loads(said))


async def add(connection: Connection, subscription: Subscription) -> None:
    """Writes a new subscription, without a secret yet."""
    await connection.execute(
        sa.insert(_table).values(
            id=subscription.id,
            partner_id=subscription.partner_id,
            url=subscription.url,
            format=subscription.format,
            format_version=subscription.format_version,
            ordering=subscription.ordering.value,
            per_second=subscription.per_second,
            filter=document_of(subscription.filter),
            description=subscription.description,
            status=subscription.status.value,
            created_at=subscription.created_at,
        )
    )


async def find(
    connection: Connection, subscription_id: str, *, lock: bool = False
) -> Subscription | None:
    """One subscription; None when there is none or it was removed.

    ``lock`` holds it still until the transaction ends; transactions that owe it wait.
    """
    query = sa.select(_table).where(
        _table.c.id == subscription_id, _table.c.status != Status.removed.value
    )
    if lock:
        query = query.with_for_update(key_share=True)
    row = (await connection.execute(query)).mappings().first()
    return None if row is None else _subscription(row)


async def listing(
    connection: Connection, *, partner: PartnerId | None, after: str, limit: int
) -> list[Subscription]:
    """Subscriptions by id, from behind ``after`` on; of one partner, or of all."""
    query = (
        sa.select(_table)
        .where(_table.c.status != Status.removed.value, _table.c.id > after)
        .order_by(_table.c.id)
        .limit(limit)
    )
    if partner is not None:
        query = query.where(_table.c.partner_id == partner)
    return [_subscription(row) for row in (await connection.execute(query)).mappings()]


async def describe(connection: Connection, subscription: Subscription) -> None:
    """Writes what is asked for and how: all but address, status and secrets. What is owed stays owed."""
    await _update(
        connection,
        subscription.id,
        filter=document_of(subscription.filter),
        description=subscription.description,
        format=subscription.format,
        format_version=subscription.format_version,
        ordering=subscription.ordering.value,
        per_second=subscription.per_second,
    )


async def move(connection: Connection, subscription_id: SubscriptionId, url: str) -> None:
    """Sets another endpoint, which has not consented yet and has been through nothing. What is owed is
    kept for it.
    """
    await _update(connection, subscription_id, url=url, verified_at=None, **_FRESH)


async def set_status(
    connection: Connection,
    subscription_id: SubscriptionId,
    status: Status,
    *,
    now: datetime,
    reason: str = "",
) -> None:
    """Changes the status, with the reason in words and the instant that goes with it.

    An endpoint that is resumed begins anew: no breaker, no failures. When it may be sent something is
    for ``endpoints.refresh`` to say; while suspended or removed it may not.
    """
    changes: dict[str, Any] = {"reason": reason, "suspended_at": None}
    match status:
        case Status.suspended:
            changes |= {"suspended_at": now, "ready_at": None}
        case Status.removed:
            changes |= {"removed_at": now, "ready_at": None}
        case Status.pending | Status.active:
            changes |= _FRESH
    await _update(connection, subscription_id, status=status.value, **changes)


_FRESH: dict[str, Any] = {"health": {}, "not_before": None, "at_once": None}


async def add_secret(
    connection: Connection,
    subscription_id: SubscriptionId,
    sealed: bytes,
    now: datetime,
    *,
    others_retire_at: datetime,
    keep_at_most: int,
) -> None:
    """Adds the newest secret; older ones sign on until they retire, the newest few of them.

    The subscription must be locked or new.
    """
    held = (
        await connection.execute(
            sa.select(_secrets.c.number, _secrets.c.retires_at)
            .where(_secrets.c.subscription_id == subscription_id)
            .order_by(_secrets.c.number.desc())
        )
    ).all()
    for place, row in enumerate(held):
        until = min(row.retires_at or others_retire_at, others_retire_at)
        if place >= keep_at_most:
            until = min(until, now)
        await connection.execute(
            sa.update(_secrets)
            .where(_secrets.c.subscription_id == subscription_id, _secrets.c.number == row.number)
            .values(retires_at=until)
        )
    await connection.execute(
        sa.insert(_secrets).values(
            subscription_id=subscription_id,
            number=held[0].number + 1 if held else 1,
            sealed=sealed,
            created_at=now,
        )
    )


def filter_of(document: Mapping[str, Any]) -> Filter:
    """A filter as it stands in the database; one without a least severity is older than those."""
    return Filter(
        mechanisms=tuple(document["mechanisms"]),
        sectors=tuple(document["sectors"]),
        goods=tuple(document["goods"]),
        places=tuple(document["places"]),
        min_level=Level[document["min_level"]],
        min_severity=Severity[document.get("min_severity", Severity.none.name)],
        types=tuple(TYPES[name] for name in document["types"]),
        exercises=bool(document["exercises"]),
    )


def document_of(wish: Filter) -> dict[str, Any]:
    """A filter as the database and the API have it, every field written."""
    return {
        "mechanisms": list(wish.mechanisms),
        "sectors": list(wish.sectors),
        "goods": list(wish.goods),
        "places": list(wish.places),
        "min_level": wish.min_level.name,
        "min_severity": wish.min_severity.name,
        "types": [kind.value for kind in wish.types],
        "exercises": wish.exercises,
    }


async def _update(connection: Connection, subscription_id: SubscriptionId, **values: Any) -> None:
    await connection.execute(
        sa.update(_table).where(_table.c.id == subscription_id).values(**values)
    )


def _subscription(row: sa.RowMapping) -> Subscription:
    return Subscription(
        id=SubscriptionId(row["id"]),
        partner_id=PartnerId(row["partner_id"]),
        url=row["url"],
        format=row["format"],
        filter=filter_of(row["filter"]),
        description=row["description"],
        status=Status(row["status"]),
        created_at=row["created_at"],
        verified_at=row["verified_at"],
        suspended_at=row["suspended_at"],
        reason=row["reason"],
        last_sequence=row["last_sequence"],
        format_version=row["format_version"],
        ordering=Ordering(row["ordering"]),
        per_second=row["per_second"],
        not_before=row["not_before"],
        health=health_of(row["health"]),
    )
