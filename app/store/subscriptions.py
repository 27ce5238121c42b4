"""Subscriptions and their secrets: who wants to hear what, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from alerts.mechanisms import Level
from alerts.routing import TYPES, Filter, Listener, SubscriptionId
from alerts.signals import PartnerId, Severity
from app import tables
from app.database import Connection

_table = tables.subscriptions
_secrets = tables.subscription_secrets


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

    ``verified_at`` is when the endpoint it has now consented.
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


async def listening(connection: Connection) -> tuple[Listener, ...]:
    """Everyone who is owed what they ask for: whoever consented once, suspended meanwhile or not.

    A subscription whose endpoint has never consented is owed nothing.
    """
    rows = await connection.execute(
        sa.select(_table.c.id, _table.c.filter).where(
            _table.c.status != Status.removed.value, _table.c.owed_since.is_not(None)
        )
    )
    return tuple(Listener(SubscriptionId(row.id), filter_of(row.filter)) for row in rows)


async def add(connection: Connection, subscription: Subscription) -> None:
    """Writes a new subscription, without a secret yet."""
    await connection.execute(
        sa.insert(_table).values(
            id=subscription.id,
            partner_id=subscription.partner_id,
            url=subscription.url,
            format=subscription.format,
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


async def describe(
    connection: Connection, subscription_id: SubscriptionId, wish: Filter, description: str
) -> None:
    """Changes what is asked for. What is owed already stays owed."""
    await _update(connection, subscription_id, filter=document_of(wish), description=description)


async def move(connection: Connection, subscription_id: SubscriptionId, url: str) -> None:
    """Sets another endpoint, which has not consented yet. What is owed is kept for it."""
    await _update(connection, subscription_id, url=url, verified_at=None)


async def set_status(
    connection: Connection,
    subscription_id: SubscriptionId,
    status: Status,
    *,
    now: datetime,
    reason: str = "",
) -> None:
    """Changes the status, with the reason in words and the instant that goes with it."""
    changes: dict[str, Any] = {"reason": reason, "suspended_at": None}
    match status:
        case Status.suspended:
            changes["suspended_at"] = now
        case Status.removed:
            changes["removed_at"] = now
        case Status.pending | Status.active:
            pass
    await _update(connection, subscription_id, status=status.value, **changes)


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
    )
