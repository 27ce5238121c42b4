"""Tells the owners of endpoints what became of these, at the other endpoints they have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from alerts.endpoints import EndpointEvent
from alerts.explanation import instant
from app import store, telemetry
from app.database import Transaction
from app.store.debts import Debt
from app.store.endpoints import Neighbour, Untold

TOLD_TOGETHER = 50

_STANDINGS = {
    EndpointEvent.failing: "failing",
    EndpointEvent.suspended: "suspended",
    EndpointEvent.recovered: "active",
}


async def tell(connection: Transaction, now: datetime) -> int:
    """Owes what owners must hear of their endpoints to the other endpoints they have; how many notices.

    Notices wait in the database from the transaction that caused them, so that none is lost. An owner
    without another active endpoint finds them on the dashboard and in the log.
    """
    ids = await store.endpoints.with_untold(connection, TOLD_TOGETHER)
    if not ids:
        return 0
    others = await store.endpoints.neighbours(connection, ids)
    await store.endpoints.lock(connection, {*ids, *(one.id for one in others)})
    told = await store.endpoints.take_untold(connection, ids)
    debts = [
        Debt(one.id, notice["type"], data=_said(about, notice))
        for about in told
        for notice in about.notices
        for one in others
        if _hears(one, about, notice["type"])
    ]
    await store.debts.owe(connection, debts, now)
    for about in told:
        for notice in about.notices:
            telemetry.endpoint_events.labels(notice["type"]).inc()
            telemetry.line(
                notice["type"],
                level="warning",
                subscription=about.id,
                url=about.url,
                reason=notice["reason"],
                percent=notice["percent"],
            )
    return sum(len(about.notices) for about in told)


def _hears(one: Neighbour, about: Untold, kind: str) -> bool:
    if one.partner_id != about.partner_id or one.id == about.id:
        return False
    return not one.filter.types or kind in {str(wanted) for wanted in one.filter.types}


def _said(about: Untold, notice: Mapping[str, Any]) -> str:
    """The data of an endpoint's event, as JSON: how it stood then, whatever has become of it since."""
    here = f"/v1/subscriptions/{about.id}"
    kind = EndpointEvent(notice["type"])
    # It is suspended, or well again, since it was noticed; it failed before anybody noticed.
    since = notice["since"] if kind is EndpointEvent.failing else notice["at"]
    return json.dumps(
        {
            "endpoint": {
                "subscription": about.id,
                "url": about.url,
                "status": _STANDINGS[kind],
                "since": instant(datetime.fromisoformat(since)),
                "reason": notice["reason"],
                "last_error": notice["last_error"],
                "failed_attempts": notice["failures"],
                "owed": about.owed,
                "oldest_owed_at": instant(about.oldest_owed_at),
                "notice_percent": notice["percent"],
                "links": {
                    "self": here,
                    "deliveries": f"{here}/deliveries",
                    "events": f"{here}/events",
                },
            }
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
