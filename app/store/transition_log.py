"""Transitions as routing saw them when they were recorded, newest first, and as they were published.

Reads only.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from alerts.lifecycle import Alert, AlertState, EventType
from alerts.mechanisms import Level, Scope, Tlp
from alerts.routing import TYPES, Reached, reached
from alerts.signals import Severity
from app.database import Connection


@dataclass(frozen=True, slots=True)
class Past:
    """One transition as routing saw it. ``at`` is observation time, ``recorded_at`` our clock.

    ``alert`` is the alert after it, with all that routing looks at; its words are in what was
    published. ``was`` is what it had reached before.
    """

    id: int
    alert_id: int
    type: EventType
    alert: Alert
    was: Reached
    at: datetime
    recorded_at: datetime


_LEVELS = {int(level): level for level in Level}
_SEVERITIES = {int(severity): severity for severity in Severity}
_TLPS = {tlp.value: tlp for tlp in Tlp}


async def newest(connection: Connection, *, behind: int | None, limit: int) -> list[Past]:
    """Transitions by their number in the store, newest first, from behind one on. One query.

    Those numbers follow ``recorded_at`` but for transactions that ran beside each other, and need
    no index of their own.
    """
    rows = await connection.execute(
        text(
            "SELECT t.id, t.alert_id, t.number, t.type, t.level_from, t.level_to, t.severity_from, "
            "t.severity_to, t.at, t.recorded_at, coalesce(e.level, t.level_from), "
            "coalesce(e.severity, t.severity_from), a.ref, a.mechanism, a.sector, a.good, a.place, "
            "a.exercise, a.profile_version, a.tlp, a.opened_at, a.recorded_at, a.folded "
            "FROM (SELECT * FROM transitions WHERE CAST(:behind AS bigint) IS NULL OR id < :behind "
            "ORDER BY id DESC LIMIT :limit) AS t JOIN alerts AS a ON a.id = t.alert_id "
            "LEFT JOIN LATERAL (SELECT max(b.level_to) AS level, max(b.severity_to) AS severity "
            "FROM transitions AS b WHERE b.alert_id = t.alert_id AND b.number < t.number "
            "AND t.type = :end) AS e ON true ORDER BY t.id DESC"
        ),
        {"behind": behind, "limit": limit, "end": EventType.resolved.value},
    )
    return [_past(*row) for row in rows]


def _past(
    id: int,
    alert_id: int,
    number: int,
    kind: str,
    level_from: int,
    level_to: int,
    severity_from: int,
    severity_to: int,
    at: datetime,
    recorded_at: datetime,
    highest_level: int,
    highest_severity: int,
    ref: str,
    mechanism: str,
    sector: str,
    good: str,
    place: str,
    exercise: str,
    profile_version: int,
    tlp: str,
    opened_at: datetime,
    begun_at: datetime,
    is_folded: bool,
) -> Past:
    """A row of ``newest``. Columns by place and enums by table: there are thousands of them."""
    type_ = TYPES[kind]
    assert isinstance(type_, EventType)
    alert = Alert(
        scope=Scope(mechanism, sector, good, place, exercise),
        profile_version=profile_version,
        level=_LEVELS[level_to],
        state=AlertState.resolved if type_ is EventType.resolved else AlertState.open,
        severity=_SEVERITIES[severity_to],
        tlp=_TLPS[tlp],
        opened_at=opened_at,
        recorded_at=begun_at,
        updated_at=at,
        number=number,
        ref=ref,
        is_folded=is_folded,
    )
    was = reached(
        type_,
        Reached(_LEVELS[level_from], _SEVERITIES[severity_from]),
        Reached(_LEVELS[highest_level], _SEVERITIES[highest_severity]),
    )
    return Past(id, alert_id, type_, alert, was, at, recorded_at)


async def published(connection: Connection, ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """The ``data`` that these transitions were published with, by their numbers in the store."""
    rows = await connection.execute(
        text("SELECT id, data FROM transitions WHERE id = ANY(CAST(:ids AS bigint[]))"),
        {"ids": list(ids)},
    )
    return {row.id: json.loads(row.data) for row in rows}
