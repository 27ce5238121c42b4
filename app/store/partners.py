"""Partners and their keys. Secrets never come here, only their SHA-256."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from alerts.signals import PartnerId
from app.database import Connection
from app.tables import keys, partners


@dataclass(frozen=True, slots=True)
class Partner:
    """An organisation with credentials; ``party`` is empty when it acts for none."""

    id: PartnerId
    name: str
    party: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret."""

    id: str
    partner: Partner
    role: str
    scopes: frozenset[str]
    secret_sha256: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def is_live(self, now: datetime) -> bool:
        """Whether it opens anything; a key is dead at the very instant it expires."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


async def keep(connection: Connection, name: str, party: str, now: datetime) -> Partner:
    """Finds the partner of that name, or makes it, and locks it until the transaction ends.

    ``party`` counts only for a new partner; compare the answer's.
    """
    await connection.execute(
        insert(partners)
        .values(name=name, party=party, created_at=now)
        .on_conflict_do_nothing(index_elements=[partners.c.name])
    )
    row = (
        await connection.execute(
            sa.select(partners.c.id, partners.c.party)
            .where(partners.c.name == name)
            .with_for_update()
        )
    ).one()
    return Partner(PartnerId(row.id), name, row.party)


async def add_key(
    connection: Connection,
    key_id: str,
    partner: PartnerId,
    role: str,
    scopes: Iterable[str],
    secret_sha256: bytes,
    now: datetime,
    expires_at: datetime | None = None,
) -> None:
    """Adds a key; how many a partner may have is not decided here."""
    await connection.execute(
        insert(keys).values(
            id=key_id,
            partner_id=partner,
            role=role,
            scopes=sorted(scopes),
            secret_sha256=secret_sha256,
            created_at=now,
            expires_at=expires_at,
        )
    )


async def key(connection: Connection, key_id: str) -> Key | None:
    """One key, live or not."""
    found = await _select(connection, keys.c.id == key_id)
    return found[0] if found else None


async def keys_of(connection: Connection, partner: PartnerId) -> list[Key]:
    """A partner's keys, live or not, oldest first."""
    return await _select(connection, keys.c.partner_id == partner)


async def all_keys(connection: Connection) -> list[Key]:
    """Every key, live or not, oldest first."""
    return await _select(connection, sa.true())


async def is_empty(connection: Connection) -> bool:
    """Whether nobody has ever had a key."""
    found = await connection.execute(sa.select(sa.exists(sa.select(keys.c.id))))
    return not found.scalar_one()


async def revoke(connection: Connection, key_id: str, now: datetime) -> bool:
    """Revokes a key for ever. False when there is none or it was revoked before."""
    done = await connection.execute(
        sa.update(keys)
        .where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return done.rowcount == 1


async def touch(connection: Connection, key_id: str, now: datetime) -> None:
    """Notes that a key was used."""
    await connection.execute(sa.update(keys).where(keys.c.id == key_id).values(last_used_at=now))


async def _select(connection: Connection, which: sa.ColumnElement[bool]) -> list[Key]:
    rows = await connection.execute(
        sa.select(keys, partners.c.name, partners.c.party)
        .join_from(keys, partners)
        .where(which)
        .order_by(keys.c.created_at, keys.c.id)
    )
    return [
        Key(
            id=row.id,
            partner=Partner(PartnerId(row.partner_id), row.name, row.party),
            role=row.role,
            scopes=frozenset(row.scopes),
            secret_sha256=row.secret_sha256,
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            last_used_at=row.last_used_at,
        )
        for row in rows
    ]
