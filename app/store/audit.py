"""Who changed what, and why: append-only, each row's hash covering the hash of the row before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import sqlalchemy as sa

from app.database import Connection
from app.tables import audit

_LOCK = 4_706_301_218_005
_ROWS_AT_ONCE = 1_000
_BEFORE_THE_FIRST = b""


Action = Literal[
    "rule.made",
    "rule.changed",
    "rule.retired",
    "shelf.made",
    "shelf.ended",
    "profile.kept",
    "subscription.suspended",
    "subscription.resumed",
    "subscription.tested",
    "delivery.redelivered",
    "signals.retired",
    "database.restored",
]
"""What may be done; new words may be added, none is ever taken away."""


class Actor(NamedTuple):
    """Whose key it was; the service itself has none."""

    key_id: str
    partner: str


SERVICE = Actor("", "service")
"""What no person does: the profiles that a process brings along."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. ``before`` and ``after`` are documents, None where there was or is nothing."""

    at: datetime
    actor: Actor
    action: Action
    subject: str
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None
    reason: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A change as recorded; ``before`` and ``after`` are JSON text as it was hashed."""

    id: int
    at: datetime
    actor: Actor
    action: str
    subject: str
    before: str | None
    after: str | None
    reason: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of following the chain: its rows, its last hash, and where it breaks, if it does."""

    rows: int
    head: bytes
    broken: str = ""


async def lock(connection: Connection) -> None:
    """Waits until no other change is under way; held until the transaction ends.

    Changes of rules are rare, and each must be checked against the one before.
    """
    await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


async def record(connection: Connection, entry: Entry) -> int:
    """Adds a change to the chain, in the transaction that makes it; gives its number. Locks."""
    await lock(connection)
    last = (
        await connection.execute(
            sa.select(audit.c.id, audit.c.hash).order_by(audit.c.id.desc()).limit(1)
        )
    ).first()
    recorded = Recorded(
        id=last.id + 1 if last else 1,
        at=entry.at.astimezone(UTC),
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        before=_text(entry.before),
        after=_text(entry.after),
        reason=entry.reason,
        hash=b"",
    )
    await connection.execute(
        sa.insert(audit).values(
            id=recorded.id,
            at=recorded.at,
            key_id=recorded.actor.key_id,
            partner=recorded.actor.partner,
            action=recorded.action,
            subject=recorded.subject,
            before=recorded.before,
            after=recorded.after,
            reason=recorded.reason,
            hash=hash_of(recorded, last.hash if last else _BEFORE_THE_FIRST),
        )
    )
    return recorded.id


async def newest(connection: Connection) -> int:
    """The number of the newest change; 0 before the first.

    Numbers are given under a lock that is held until commit, so that whoever sees one sees
    every change up to it.
    """
    found = await connection.scalar(sa.select(sa.func.max(audit.c.id)))
    return int(found or 0)


async def listing(
    connection: Connection,
    *,
    before: int | None,
    limit: int,
    subject: str | None = None,
    action: str | None = None,
) -> list[Recorded]:
    """Changes, newest first, from before a number on; of one subject or action, or of all."""
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    if action is not None:
        query = query.where(audit.c.action == action)
    return [_recorded(row) for row in await connection.execute(query)]


async def verify(connection: Connection, noted: str = "") -> Verified:
    """Follows the chain from its first row; stops where it breaks.

    A chain alone does not show that its end was cut off: ``noted`` is a hash, in hexadecimal,
    that some row must have.
    """
    count, head, is_met = 0, _BEFORE_THE_FIRST, not noted
    while True:
        rows = await connection.execute(
            sa.select(audit).where(audit.c.id > count).order_by(audit.c.id).limit(_ROWS_AT_ONCE)
        )
        found = [_recorded(row) for row in rows]
        for row in found:
            if row.id != count + 1:
                return Verified(count, head, f"Row {count + 1} is missing.")
            if hash_of(row, head) != row.hash:
                return Verified(count, head, f"Row {row.id} is not as it was written.")
            count, head = row.id, row.hash
            is_met = is_met or head.hex() == noted
        if not found:
            cut = "" if is_met else f"No row has the hash {noted}: its end was cut off."
            return Verified(count, head, cut)


def hash_of(row: Recorded, previous: bytes) -> bytes:
    """The SHA-256 of the hash before and of everything in the row, as JSON."""
    fields = (
        row.id,
        row.at.astimezone(UTC).isoformat(),
        *row.actor,
        row.action,
        row.subject,
        row.before,
        row.after,
        row.reason,
    )
    return hashlib.sha256(previous + json.dumps(fields, ensure_ascii=False).encode()).digest()


def _text(document: Mapping[str, object] | None) -> str | None:
    return None if document is None else json.dumps(document, sort_keys=True, ensure_ascii=False)


def _recorded(row: sa.Row[tuple[object, ...]]) -> Recorded:
    return Recorded(
        id=row.id,
        at=row.at,
        actor=Actor(row.key_id, row.partner),
        action=row.action,
        subject=row.subject,
        before=row.before,
        after=row.after,
        reason=row.reason,
        hash=row.hash,
    )
