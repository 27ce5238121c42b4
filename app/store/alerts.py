"""Alerts and their transitions: one open alert a scope, transitions append-only."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    Table,
    and_,
    func,
    make_url,
    or_,
    select,
    tuple_,
)

from alerts import overflow
from alerts.lifecycle import Advice, Alert, AlertState, TakesEffect, Transition
from alerts.mechanisms import Level, Scope, Tlp
from alerts.routing import Reached
from alerts.signals import SeriesId, Severity
from app import tables
from app.database import Connection, Transaction, Write, fetch


@dataclass(frozen=True, slots=True)
class Kept:
    """An alert as stored, with the number the store knows it by."""

    id: int
    alert: Alert


_SCOPE = ("mechanism", "sector", "good", "place", "exercise")


_OPEN_OF = f"""
    SELECT {", ".join(f"a.{column.name}" for column in tables.alerts.columns)}, e.ended_at,
        {", ".join(f"w.{name} AS of_{name}" for name in _SCOPE)}
    FROM unnest({", ".join(f"CAST(:{name} AS text[])" for name in _SCOPE)}) AS w ({", ".join(_SCOPE)})
    LEFT JOIN alerts AS a ON a.state = 'open' AND {" AND ".join(f"a.{n} = w.{n}" for n in _SCOPE)}
    LEFT JOIN alert_ends AS e ON {" AND ".join(f"e.{n} = w.{n}" for n in _SCOPE)}
    WHERE a.id IS NOT NULL OR e.ended_at IS NOT NULL
"""
"""The open alerts whose scope is among five arrays of equal length, one a column; and where the last
alert of a scope ended."""


class Standing(NamedTuple):
    """The open alerts of some scopes, and up to when the last one was open that is open no more."""

    open: dict[Scope, Kept]
    ended: dict[Scope, datetime]


async def standing(connection: Transaction, scopes: Collection[Scope]) -> Standing:
    """How these scopes stand. One query of one shape, however many scopes."""
    found = Standing({}, {})
    if not scopes:
        return found
    names = {name: [getattr(scope, name) for scope in scopes] for name in _SCOPE}
    for row in await fetch(connection, _OPEN_OF, names):
        scope = Scope(*(getattr(row, f"of_{name}") for name in _SCOPE))
        if row.id is not None:
            found.open[scope] = _kept(row)
        if row.ended_at is not None:
            found.ended[scope] = row.ended_at
    return found


def end(ended: Mapping[Scope, datetime]) -> Write:
    """What notes up to when alerts were open that are open no more; the latest counts."""
    columns = {name: [getattr(scope, name) for scope in ended] for name in _SCOPE}
    return Write(
        "INSERT INTO alert_ends AS e (mechanism, sector, good, place, exercise, ended_at) "
        "SELECT * FROM unnest(CAST(:mechanism AS text[]), CAST(:sector AS text[]), "
        "CAST(:good AS text[]), CAST(:place AS text[]), CAST(:exercise AS text[]), "
        "CAST(:at AS timestamptz[])) "
        "ON CONFLICT (mechanism, sector, good, place, exercise) DO UPDATE "
        "SET ended_at = greatest(e.ended_at, excluded.ended_at)",
        {**columns, "at": list(ended.values())},
    )


async def all_open(connection: Connection, *, folded: bool = False) -> dict[Scope, Kept]:
    """Every open alert; with ``folded`` only the summaries and what is folded into them."""
    table = tables.alerts
    query = select(table).where(table.c.state == AlertState.open.value)
    if folded:
        query = query.where(table.c.folded | (table.c.good == overflow.SUMMARY))
    return {kept.alert.scope: kept for kept in map(_kept, await connection.execute(query))}


async def open_scopes(connection: Connection) -> list[Scope]:
    """The scopes of every open alert but of the summaries, in order."""
    rows = await fetch(
        connection,
        f"SELECT {', '.join(_SCOPE)} FROM alerts WHERE state = 'open' AND good <> :summary",
        {"summary": overflow.SUMMARY},
    )
    return sorted(Scope(*row) for row in rows)


async def by_ref(connection: Connection, ref: str) -> Kept | None:
    """The alert with this reference."""
    rows = await connection.execute(select(tables.alerts).where(tables.alerts.c.ref == ref))
    row = rows.first()
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
    return [_kept(row) for row in rows]


async def keep(
    connection: Transaction, new: Sequence[Kept], changed: Sequence[Kept]
) -> list[Write]:
    """Writes alerts; what can be written beside others is left to the caller.

    Where there are both, those that changed are written at once: a scope may have resolved one and opened
    the next, and only one may be open.
    """
    adds = [Write(_NEW_ALERTS, _arrays(tables.alerts, map(_row, new)))] if new else []
    if not changed:
        return adds
    changes = Write(_CHANGED_ALERTS, _arrays(tables.alerts, map(_row, changed)))
    if not new:
        return [changes]
    await fetch(connection, *changes)
    return adds


_POSTGRESQL = make_url("postgresql://").get_dialect()()


def _row(kept: Kept) -> Mapping[str, object]:
    return {"id": kept.id, **_columns(kept.alert)}


def _arrays(table: Table, rows: Iterable[Mapping[str, object]]) -> dict[str, list[object]]:
    held = list(rows)
    return {name: [row[name] for row in held] for name in _names(table)}


@lru_cache(maxsize=16)
def _names(table: Table) -> tuple[str, ...]:
    """The names of a table's columns: to ask SQLAlchemy costs as much as all else here."""
    return tuple(column.name for column in table.columns)


def _unnested(table: Table) -> str:
    """Rows of a table from an array for each column, JSON as text: the driver makes no arrays of it."""
    types = {c.name: c.type.compile(dialect=_POSTGRESQL) for c in table.columns}
    given = ", ".join(
        f"CAST(:{name} AS {'TEXT' if kind == 'JSONB' else kind}[])" for name, kind in types.items()
    )
    read = ", ".join(
        f"CAST({name} AS JSONB) AS {name}" if kind == "JSONB" else name
        for name, kind in types.items()
    )
    return f"SELECT {read} FROM unnest({given}) AS given ({', '.join(types)})"


def _insert(table: Table) -> str:
    names = ", ".join(column.name for column in table.columns)
    return f"INSERT INTO {table.name} ({names}) {_unnested(table)}"


_NEW_ALERTS = _insert(tables.alerts)
_CHANGED_ALERTS = (
    "UPDATE alerts SET "
    + ", ".join(f"{c.name} = given.{c.name}" for c in tables.alerts.columns if not c.primary_key)
    + f" FROM ({_unnested(tables.alerts)}) AS given WHERE alerts.id = given.id"
)
_NEW_TRANSITIONS = _insert(tables.transitions)
_NEW_SIGNALS = _insert(tables.alert_signals)


@dataclass(frozen=True, slots=True)
class Debited:
    """A transition to write: its row id, its alert's, and its rendered ``data``."""

    id: int
    alert_id: int
    transition: Transition
    data: str
    fed_by: tuple[tuple[SeriesId, datetime], ...]


def record(transitions: Sequence[Debited]) -> Write:
    """What appends transitions."""
    rows = [
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
            "explanation": json.dumps(dict(t.transition.explanation)),
            "data": t.data,
        }
        for t in transitions
    ]
    return Write(_NEW_TRANSITIONS, _arrays(tables.transitions, rows))


def feed(transitions: Sequence[Debited]) -> list[Write]:
    """What appends which signals fed transitions, if any did."""
    fed = [
        {"series_id": s, "observed_at": at, "alert_id": t.alert_id, "number": t.transition.number}
        for t in transitions
        for s, at in t.fed_by
    ]
    return [Write(_NEW_SIGNALS, _arrays(tables.alert_signals, fed))] if fed else []


async def highest(connection: Transaction, alert_ids: Collection[int]) -> dict[int, Reached]:
    """The highest level and the highest severity that any transition of these alerts led to.

    One query; none where there are no alerts.
    """
    if not alert_ids:
        return {}
    rows = await fetch(
        connection,
        "SELECT alert_id, max(level_to), max(severity_to) FROM transitions "
        "WHERE alert_id = ANY(CAST(:alerts AS bigint[])) GROUP BY alert_id",
        {"alerts": list(alert_ids)},
    )
    return {row[0]: Reached(Level(row[1]), Severity(row[2])) for row in rows}


@dataclass(frozen=True, slots=True)
class Told:
    """A transition as it was published, and the alert as it stands now.

    ``data`` is the text that was rendered with it.
    """

    id: int
    kept: Kept
    number: int
    type: str
    recorded_at: datetime
    data: str


_TOLD = select(
    tables.alerts,
    tables.transitions.c.id.label("transition_id"),
    tables.transitions.c.number.label("of_number"),
    tables.transitions.c.type,
    tables.transitions.c.recorded_at.label("told_at"),
    tables.transitions.c.data,
).join(tables.transitions, tables.transitions.c.alert_id == tables.alerts.c.id)

_IS_PUBLIC = and_(tables.alerts.c.tlp == Tlp.clear.value, tables.alerts.c.exercise == "")
"""What everyone may see: TLP:CLEAR, and no drill."""


async def told(
    connection: Connection, ref: str, number: int | None, *, public_only: bool
) -> Told | None:
    """One transition of an alert, the newest where no number is given."""
    table = tables.transitions
    query = _TOLD.where(
        tables.alerts.c.ref == ref,
        table.c.number == (tables.alerts.c.number if number is None else number),
    )
    if public_only:
        query = query.where(_IS_PUBLIC)
    row = (await connection.execute(query)).first()
    return None if row is None else _told(row)


async def newest_told(
    connection: Connection,
    *,
    before: int | None,
    limit: int,
    ended_since: datetime,
    public_only: bool,
) -> list[Told]:
    """The newest transition of each alert, the last told first, from behind a transition's id on.

    Alerts that ended, by the service's clock, before ``ended_since`` are left out. Reads the
    transitions backwards as far as the page reaches: the last page, of alerts that are open and
    have not moved for long, costs one look at every transition since.
    """
    table = tables.transitions
    query = (
        _TOLD.where(
            table.c.number == tables.alerts.c.number,
            or_(tables.alerts.c.state == AlertState.open.value, table.c.recorded_at >= ended_since),
        )
        .order_by(table.c.id.desc())
        .limit(limit)
    )
    if public_only:
        query = query.where(_IS_PUBLIC)
    if before is not None:
        query = query.where(table.c.id < before)
    return [_told(row) for row in await connection.execute(query)]


async def earlier(
    connection: Connection, alert_id: int, numbers: Collection[int]
) -> tuple[tuple[int, datetime], ...]:
    """When these transitions of an alert were recorded, by number."""
    table = tables.transitions
    rows = await connection.execute(
        select(table.c.number, table.c.recorded_at)
        .where(table.c.alert_id == alert_id, table.c.number.in_(list(numbers)))
        .order_by(table.c.number)
    )
    return tuple((row.number, row.recorded_at) for row in rows)


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


def _kept(row: Any) -> Kept:
    advice = row.recommendation
    return Kept(
        row.id,
        Alert(
            scope=Scope(row.mechanism, row.sector, row.good, row.place, row.exercise),
            profile_version=row.profile_version,
            level=Level(row.level),
            state=AlertState(row.state),
            severity=Severity(row.severity),
            tlp=Tlp(row.tlp),
            opened_at=row.opened_at,
            recorded_at=row.recorded_at,
            updated_at=row.updated_at,
            number=row.number,
            title=row.title,
            why=row.why,
            ref=row.ref,
            validated=row.validated,
            eased_at=row.eased_at,
            resolved_at=row.resolved_at,
            recommendation=advice and Advice(Level[advice["level"]], tuple(advice["reasons"])),
            awaiting=tuple(
                TakesEffect(datetime.fromisoformat(m["at"]), m["what"]) for m in row.awaiting
            ),
            is_folded=row.folded,
        ),
    )


def _told(row: Any) -> Told:
    return Told(
        id=row.transition_id,
        kept=_kept(row),
        number=row.of_number,
        type=row.type,
        recorded_at=row.told_at,
        data=row.data,
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
        "recommendation": advice
        and json.dumps({"level": advice.level.name, "reasons": list(advice.reasons)}),
        "awaiting": json.dumps([{"at": m.at.isoformat(), "what": m.what} for m in alert.awaiting]),
        "number": alert.number,
        "folded": alert.is_folded,
    }
