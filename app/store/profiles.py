"""Versions of mechanisms, as documents; a version once kept never changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert

from app.database import Connection
from app.documents import ProfileDocument
from app.settings import Unusable
from app.tables import profiles


class VersionRefused(Unusable):
    """A profile cannot be kept under the version it declares; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A version as kept; ``content`` is what ``documents.profile_from_document`` reads."""

    mechanism: str
    version: int
    sha256: bytes
    content: Mapping[str, object]
    loaded_at: datetime


async def keep(connection: Connection, document: ProfileDocument, now: datetime) -> bool:
    """Keeps a profile as a new version of its mechanism; True when it is one.

    A version that is already kept with the same content is left alone, also when a newer one is
    kept beside it: an older process may still be running. Another process may win the race to
    keep the same version; then False. Does not commit.

    Raises:
        VersionRefused: that version is kept with other content, or is older than the newest and
            was never kept.
    """
    mechanism, version = document.profile.id, document.profile.version
    newest = await connection.scalar(
        sa.select(sa.func.max(profiles.c.version)).where(profiles.c.mechanism == mechanism)
    )
    if newest is None or version > newest:
        written = await connection.execute(
            insert(profiles)
            .values(
                mechanism=mechanism,
                version=version,
                sha256=document.sha256,
                document=dict(document.content),
                loaded_at=now,
            )
            .on_conflict_do_nothing(index_elements=[profiles.c.mechanism, profiles.c.version])
        )
        if written.rowcount == 1:
            return True
    kept = await connection.scalar(
        sa.select(profiles.c.sha256).where(
            profiles.c.mechanism == mechanism, profiles.c.version == version
        )
    )
    if kept == document.sha256:
        return False
    highest = max(version, newest or 0)
    if kept is None:
        raise VersionRefused(
            f"Profile {mechanism} says version {version}, but version {highest} is already in use: "
            f"give it version {highest + 1} to bring it into force."
        )
    raise VersionRefused(
        f"Profile {mechanism} version {version} was changed after it came into use; a version "
        f"never changes: give the new text version {highest + 1}."
    )


async def newest(connection: Connection) -> dict[str, Kept]:
    """The newest version of every mechanism ever kept, by mechanism. One query."""
    rows = await connection.execute(
        sa.select(profiles)
        .ext(distinct_on(profiles.c.mechanism))
        .order_by(profiles.c.mechanism, profiles.c.version.desc())
    )
    return {row.mechanism: _kept(row) for row in rows}


async def before(connection: Connection, mechanism: str, version: int) -> Kept | None:
    """The newest version older than that one."""
    rows = await connection.execute(
        sa.select(profiles)
        .where(profiles.c.mechanism == mechanism, profiles.c.version < version)
        .order_by(profiles.c.version.desc())
        .limit(1)
    )
    row = rows.first()
    return None if row is None else _kept(row)


def _kept(row: sa.Row[tuple[object, ...]]) -> Kept:
    return Kept(
        mechanism=row.mechanism,
        version=row.version,
        sha256=row.sha256,
        content=row.document,
        loaded_at=row.loaded_at,
    )
