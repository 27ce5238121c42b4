"""Shelves: what an operator has quietened, until when and why. Nothing is ever deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from alerts.signals import SeriesId
from app.database import Connection
from app.tables import shelves


@dataclass(frozen=True, slots=True)
class Shelf:
    """A rule on every series, a series under every rule, or one rule on one series.

    ``mechanism`` and ``rule`` are empty where every rule is meant, ``series`` None where every
    series is. It is on from ``created_at`` until ``until``, unless it was ended before; at the
    very instant of its end it is off.
    """

    id: int
    mechanism: str
    rule: str
    series: SeriesId | None
    reason: str
    created_at: datetime
    created_by: str
    until: datetime
    ended_at: datetime | None = None
    ended_by: str = ""
    ended_reason: str = ""

    @property
    def over_at(self) -> datetime:
        """When it is over."""
        return self.until if self.ended_at is None else min(self.ended_at, self.until)

    def is_on(self, now: datetime) -> bool:
        """Whether it quietens anything at that instant."""
        return now < self.over_at

    def covers(self, series: SeriesId, mechanism: str, rule: str) -> bool:
        """Whether that rule on that series is meant."""
        return self.series in {None, series} and (
            not self.rule or (self.mechanism, self.rule) == (mechanism, rule)
        )


async def add(
    connection: Connection,
    *,
    mechanism: str,
    rule: str,
    series: SeriesId | None,
    reason: str,
    created_by: str,
    until: datetime,
    now: datetime,
) -> Shelf:
    """Makes a shelf."""
    made = await connection.execute(
        sa.insert(shelves)
        .values(
            mechanism=mechanism,
            rule=rule,
            series_id=series,
            reason=reason,
            created_at=now,
            created_by=created_by,
            until=until,
        )
        .returning(shelves)
    )
    return _shelf(made.one())


async def find(connection: Connection, shelf_id: int) -> Shelf | None:
    """One shelf, on or over."""
    row = (await connection.execute(sa.select(shelves).where(shelves.c.id == shelf_id))).first()
    return None if row is None else _shelf(row)


async def end(
    connection: Connection, shelf_id: int, *, ended_by: str, reason: str, now: datetime
) -> Shelf | None:
    """Ends a shelf before its time; None when it was over already."""
    ended = await connection.execute(
        sa.update(shelves)
        .where(shelves.c.id == shelf_id, shelves.c.ended_at.is_(None), shelves.c.until > now)
        .values(ended_at=now, ended_by=ended_by, ended_reason=reason)
        .returning(shelves)
    )
    row = ended.first()
    return None if row is None else _shelf(row)


async def on(connection: Connection, now: datetime) -> list[Shelf]:
    """The shelves that are on, oldest first."""
    return await _select(connection, sa.select(shelves).where(_is_on(now)).order_by(shelves.c.id))


async def listing(
    connection: Connection,
    now: datetime,
    *,
    before: int | None,
    limit: int,
    is_on: bool | None = None,
    mechanism: str | None = None,
    rule: str | None = None,
    series: SeriesId | None = None,
) -> list[Shelf]:
    """Shelves, newest first, from before an id on, narrowed by what is given."""
    query = sa.select(shelves).order_by(shelves.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(shelves.c.id < before)
    if is_on is not None:
        query = query.where(_is_on(now) if is_on else sa.not_(_is_on(now)))
    if mechanism is not None:
        query = query.where(shelves.c.mechanism == mechanism)
    if rule is not None:
        query = query.where(shelves.c.rule == rule)
    if series is not None:
        query = query.where(shelves.c.series_id == series)
    return await _select(connection, query)


def _is_on(now: datetime) -> sa.ColumnElement[bool]:
    return shelves.c.ended_at.is_(None) & (shelves.c.until > now)


async def _select(connection: Connection, query: sa.Select[tuple[object, ...]]) -> list[Shelf]:
    return [_shelf(row) for row in await connection.execute(query)]


def _shelf(row: sa.Row[tuple[object, ...]]) -> Shelf:
    return Shelf(
        id=row.id,
        mechanism=row.mechanism,
        rule=row.rule,
        series=None if row.series_id is None else SeriesId(row.series_id),
        reason=row.reason,
        created_at=row.created_at,
        created_by=row.created_by,
        until=row.until,
        ended_at=row.ended_at,
        ended_by=row.ended_by,
        ended_reason=row.ended_reason,
    )
