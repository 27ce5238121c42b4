"""Versions of single rules, laid over those of the profiles; a version once kept never changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from app.database import Connection
from app.tables import rules


@dataclass(frozen=True, slots=True)
class Kept:
    """One version; ``content`` is what was written, with its version.

    A ``retired`` version says that the rule is asked no more from then on.
    """

    mechanism: str
    rule: str
    version: int
    content: Mapping[str, object]
    sha256: bytes
    reason: str
    created_at: datetime
    created_by: str
    created_key: str
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Shipped:
    """A rule as one version of a profile has it."""

    profile_version: int
    content: Mapping[str, object]
    loaded_at: datetime


async def keep(connection: Connection, version: Kept) -> None:
    """Keeps a new version. Does not commit.

    Raises:
        sqlalchemy.exc.IntegrityError: that version is kept already, which the lock prevents.
    """
    await connection.execute(
        sa.insert(rules).values(
            mechanism=version.mechanism,
            rule=version.rule,
            version=version.version,
            document=dict(version.content),
            sha256=version.sha256,
            retired=version.retired,
            reason=version.reason,
            created_at=version.created_at,
            created_by=version.created_by,
            created_key=version.created_key,
        )
    )


async def every(connection: Connection) -> list[Kept]:
    """Every version of every rule, older versions first. One query."""
    return await _select(connection, sa.true())


async def versions(connection: Connection, mechanism: str, rule: str) -> list[Kept]:
    """The versions of one rule, oldest first."""
    return await _select(connection, (rules.c.mechanism == mechanism) & (rules.c.rule == rule))


async def shipped(connection: Connection, mechanism: str, rule: str) -> list[Shipped]:
    """The rule as each kept version of its mechanism's profile has it, oldest first."""
    rows = await connection.execute(
        sa.text(
            "SELECT p.version, r.content, p.loaded_at FROM profiles AS p, "
            "jsonb_array_elements(CASE WHEN jsonb_typeof(p.document -> 'rules') = 'array' "
            "THEN p.document -> 'rules' ELSE '[]' END) AS r (content) "
            "WHERE p.mechanism = :mechanism AND r.content ->> 'id' = :rule ORDER BY p.version"
        ),
        {"mechanism": mechanism, "rule": rule},
    )
    return [Shipped(*row) for row in rows]


async def _select(connection: Connection, which: sa.ColumnElement[bool]) -> list[Kept]:
    rows = await connection.execute(
        sa.select(rules).where(which).order_by(rules.c.mechanism, rules.c.rule, rules.c.version)
    )
    return [
        Kept(
            mechanism=row.mechanism,
            rule=row.rule,
            version=row.version,
            content=row.document,
            sha256=row.sha256,
            reason=row.reason,
            created_at=row.created_at,
            created_by=row.created_by,
            created_key=row.created_key,
            retired=row.retired,
        )
        for row in rows
    ]
