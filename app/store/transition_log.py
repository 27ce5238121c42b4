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
from alerts.routing import Reached, reached
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


async def newest(connection: Connection, *, behind: int | None, limit: int) -> list[Past]:
    """Transitions by their number in the store, newest first, from behind one on. One query.

    Those numbers follow ``recorded_at`` but for transactions that ran beside each other, and need
    no index of their own.
    """
    rows = await connection.execute(
        text(
            "SELECT t.id, t.alert_id, t.number, t.type, t.level_from, t.level_to, t.severity_from, "
            "t.severity_to, t.at, t.recorded_at, a.ref, a.mechanism, a.sector, a.good, a.place, "
            "a.exercise, a.profile_version, a.tlp, a.opened_at, a.recorded_at AS begun_at, a.folded, "
            "coalesce(e.level, t.level_from) AS highest_level, "
            "coalesce(e.severity, t.severity_from) AS highest_severity "
            "FROM (SELECT * FROM transitions WHERE CAST(:behind AS bigint) IS NULL OR id < :behind "
            "ORDER BY id DESC LIMIT :limit) AS t JOIN alerts AS a ON a.id = t.alert_id "
            "LEFT JOIN LATERAL (SELECT max(b.level_to) AS level, max(b.severity_to) AS severity "
            "FROM transitions AS b WHERE b.alert_id = t.alert_id AND b.number < t.number "
            "AND t.type = :end) AS e ON true ORDER BY t.id DESC"
        ),
        {"behind": behind, "limit": limit, "end": EventType.resolved.value},
    )
    return [
        Past(
            id=r.id,
            alert_id=r.alert_id,
            type=EventType(r.type),
            alert=Alert(
                scope=Scope(r.mechanism, r.sector, r.good, r.place, r.exercise),
                profile_version=r.profile_version,
                level=Level(r.level_to),
                state=AlertState.resolved if r.type == EventType.resolved else AlertState.open,
                severity=Severity(r.severity_to),
                tlp=Tlp(r.tlp),
                opened_at=r.opened_at,
                recorded_at=r.begun_at,
                updated_at=r.at,
                number=r.number,
                ref=r.ref,
                is_folded=r.folded,
            ),
            was=reached(
                EventType(r.type),
                Reached(Level(r.level_from), Severity(r.severity_from)),
                Reached(Level(r.highest_level), Severity(r.highest_severity)),
            ),
            at=r.at,
            recorded_at=r.recorded_at,
        )
        for r in rows
    ]


async def published(connection: Connection, ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """The ``data`` that these transitions were published with, by their numbers in the store."""
    rows = await connection.execute(
        text("SELECT id, data FROM transitions WHERE id = ANY(CAST(:ids AS bigint[]))"),
        {"ids": list(ids)},
    )
    return {row.id: json.loads(row.data) for row in rows}
