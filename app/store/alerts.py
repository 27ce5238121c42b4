"""Alerts and their transitions: one open alert a scope, transitions append-only."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    RowMapping,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from alerts.lifecycle import Advice, Alert, AlertState, TakesEffect, Transition
from alerts.mechanisms import Level, Scope, Tlp
from alerts.signals import SeriesId, Severity
from app import tables
from app.database import Connection


@dataclass(frozen=True, slots=True)
class Kept:
    """An alert as stored, with the number the store knows it by."""

    id: int
    alert: Alert


_SCOPE = ("mechanism", "sector", "good", "place", "exercise")


def _select_open_of() -> Select[Any]:
    """The open alerts whose scope is among five arrays of equal length, one a column."""
    arrays = [cast(bindparam(name), ARRAY(Text)) for name in _SCOPE]
    wanted = func.unnest(*arrays).table_valued(*_SCOPE, name="wanted").render_derived()
    table = tables.alerts
    same = [table.c[name] == wanted.c[name] for name in _SCOPE]
    return select(table).join(wanted, and_(*same)).where(table.c.state == AlertState.open.value)


_OPEN_OF = _select_open_of()


async def open_of(connection: Connection, scopes: Collection[Scope]) -> dict[Scope, Kept]:
    """The open alerts of these scopes. One query of one shape, however many scopes."""
    if not scopes:
        return {}
    names = {name: [getattr(scope, name) for scope in scopes] for name in _SCOPE}
    rows = await connection.execute(_OPEN_OF, names)
    return {kept.alert.scope: kept for kept in map(_kept, rows.mappings())}


async def all_open(connection: Connection) -> dict[Scope, Kept]:
    """Every open alert."""
    table = tables.alerts
    rows = await connection.execute(select(table).where(table.c.state == AlertState.open.value))
    return {kept.alert.scope: kept for kept in map(_kept, rows.mappings())}


async def by_ref(connection: Connection, ref: str) -> Kept | None:
    """The alert with this reference."""
    rows = await connection.execute(select(tables.alerts).where(tables.alerts.c.ref == ref))
    row = rows.mappings().first()
    return None if row is None else _kept(row)


async def newest(
    connection: Connection,
    *,
    before: tuple[datetime, int] | None,
    limit: int,
    equal_to: dict[str, object],
) -> list[Kept]:
    """Alerts by their last update, newest first, from behind a (updated_at, id) on.

    ``equal_to`` narrows by columns of the alerts table.
    """
    table = tables.alerts
    query = select(table).order_by(table.c.updated_at.desc(), table.c.id.desc()).limit(limit)
    for column, value in equal_to.items():
        query = query.where(table.c[column] == value)
    if before is not None:
        query = query.where(tuple_(table.c.updated_at, table.c.id) < before)
    rows = await connection.execute(query)
    return [_kept(row) for row in rows.mappings()]


async def take_numbers(connection: Connection, prefix: str, year: int, count: int) -> range:
    """Numbers for new references, gapless within a prefix and year; held until commit."""
    row = await connection.execute(
        text(
            "INSERT INTO alert_numbers AS n (prefix, year, last) VALUES (:prefix, :year, :count) "
            "ON CONFLICT (prefix, year) DO UPDATE SET last = n.last + excluded.last RETURNING last"
        ),
        {"prefix": prefix, "year": year, "count": count},
    )
    last = int(row.scalar_one())
    return range(last - count + 1, last + 1)


async def take_ids(connection: Connection, table: str, count: int) -> list[int]:
    """Row ids for ``alerts`` or ``transitions``, so that rows can name each other before writing."""
    rows = await connection.execute(
        text(
            f"SELECT nextval(pg_get_serial_sequence('{table}', 'id')) "
            "FROM generate_series(1, :count)"
        ),
        {"count": count},
    )
    return sorted(rows.scalars())


async def keep(connection: Connection, new: Sequence[Kept], changed: Sequence[Kept]) -> None:
    """Writes alerts that changed, then new ones: a scope may have resolved one and opened the next."""
    if changed:
        table = tables.alerts
        statement = update(table).where(table.c.id == bindparam("alert_id"))
        await connection.execute(
            statement, [{"alert_id": k.id, **_columns(k.alert)} for k in changed]
        )
    if new:
        await connection.execute(
            insert(tables.alerts), [{"id": k.id, **_columns(k.alert)} for k in new]
        )


@dataclass(frozen=True, slots=True)
class Debited:
    """A transition to write: its row id, its alert's, and its rendered ``data``."""

    id: int
    alert_id: int
    transition: Transition
    data: str
    fed_by: tuple[tuple[SeriesId, datetime], ...]


async def record(connection: Connection, transitions: Sequence[Debited]) -> None:
    """Appends transitions and what fed them."""
    await connection.execute(
        insert(tables.transitions),
        [
            {
                "id": t.id,
                "alert_id": t.alert_id,
                "number": t.transition.number,
                "type": t.transition.type.value,
                "level_from": int(t.transition.level_from),
                "level_to": int(t.transition.level_to),
                "severity_from": int(t.transition.severity_from),
                "severity_to": int(t.transition.severity_to),
                "at": t.transition.at,
                "recorded_at": t.transition.recorded_at,
                "decided_by": t.transition.decided_by,
                "reason": t.transition.reason,
                "explanation": dict(t.transition.explanation),
                "data": t.data,
            }
            for t in transitions
        ],
    )
    fed = [
        {"series_id": s, "observed_at": at, "alert_id": t.alert_id, "number": t.transition.number}
        for t in transitions
        for s, at in t.fed_by
    ]
    if fed:
        await connection.execute(insert(tables.alert_signals), fed)


async def timeline(
    connection: Connection, alert_id: int, *, after: int, limit: int
) -> list[dict[str, Any]]:
    """The transitions of an alert as published, oldest first, with number above ``after``."""
    table = tables.transitions
    rows = await connection.execute(
        select(table.c.data)
        .where(table.c.alert_id == alert_id, table.c.number > after)
        .order_by(table.c.number)
        .limit(limit)
    )
    return [json.loads(published)["transition"] for published in rows.scalars()]


async def last_explanations(
    connection: Connection, alert_ids: Iterable[int]
) -> dict[int, dict[str, Any]]:
    """The explanation each alert's newest transition gave."""
    table = tables.transitions
    newest_number = (
        select(table.c.alert_id, func.max(table.c.number).label("number"))
        .where(table.c.alert_id.in_(list(alert_ids)))
        .group_by(table.c.alert_id)
        .subquery()
    )
    rows = await connection.execute(
        select(table.c.alert_id, table.c.explanation).join(
            newest_number,
            (table.c.alert_id == newest_number.c.alert_id)
            & (table.c.number == newest_number.c.number),
        )
    )
    return {row.alert_id: row.explanation for row in rows}


def _kept(row: RowMapping) -> Kept:
    advice = row["recommendation"]
    return Kept(
        row["id"],
        Alert(
            scope=Scope(
                row["mechanism"], row["sector"], row["good"], row["place"], row["exercise"]
            ),
            profile_version=row["profile_version"],
            level=Level(row["level"]),
            state=AlertState(row["state"]),
            severity=Severity(row["severity"]),
            tlp=Tlp(row["tlp"]),
            opened_at=row["opened_at"],
            recorded_at=row["recorded_at"],
            updated_at=row["updated_at"],
            number=row["number"],
            title=row["title"],
            why=row["why"],
            ref=row["ref"],
            validated=row["validated"],
            eased_at=row["eased_at"],
            resolved_at=row["resolved_at"],
            recommendation=advice and Advice(Level[advice["level"]], tuple(advice["reasons"])),
            awaiting=tuple(
                TakesEffect(datetime.fromisoformat(m["at"]), m["what"]) for m in row["awaiting"]
            ),
        ),
    )


def _columns(alert: Alert) -> dict[str, object]:
    advice = alert.recommendation
    return {
        "ref": alert.ref,
        "mechanism": alert.scope.mechanism,
        "profile_version": alert.profile_version,
        "sector": alert.scope.sector,
        "good": alert.scope.good,
        "place": alert.scope.place,
        "exercise": alert.scope.exercise,
        "level": int(alert.level),
        "state": alert.state.value,
        "severity": int(alert.severity),
        "title": alert.title,
        "why": alert.why,
        "validated": alert.validated,
        "tlp": alert.tlp.value,
        "opened_at": alert.opened_at,
        "recorded_at": alert.recorded_at,
        "updated_at": alert.updated_at,
        "eased_at": alert.eased_at,
        "resolved_at": alert.resolved_at,
        "recommendation": advice and {"level": advice.level.name, "reasons": list(advice.reasons)},
        "awaiting": [{"at": m.at.isoformat(), "what": m.what} for m in alert.awaiting],
        "number": alert.number,
    }
