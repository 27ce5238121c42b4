"""What a clock that ran ahead for a while has put off, brought forward once it is right again."""

from __future__ import annotations

from datetime import datetime, timedelta

from alerts import endpoints as machine
from alerts.endpoints import Suspension
from alerts.retries import LONGEST_HINT
from alerts.routing import SubscriptionId
from app.database import Connection, statement
from app.store import deliveries, endpoints

SKEW = timedelta(minutes=10)
"""More than the clocks of two hosts differ: what is further ahead was set by a clock that jumped."""


async def bring_forward(
    connection: Connection, now: datetime, *, lease: timedelta, longest_open: timedelta
) -> int:
    """Makes due what a clock that ran ahead for a while has put off; how many endpoints that concerned.

    * a lease that ends later than any may: it ends now
    * what is owed from the future on: due now
    * a retry after an attempt in the future: due after the same wait, counted from now
    * an endpoint left in peace because of attempts in the future: is so no more
    * an endpoint suspended in the future for failing for days: is active, for those days were none

    What somebody has under way may then be sent twice under its id. Reads one index entry an endpoint
    where nothing is put off.

    Args:
        connection: inside a transaction.
        now: by a clock that is right again.
        lease: how long a lease is.
        longest_open: for how long an endpoint that fails is left in peace at most.
    """
    bounds = {
        "ahead": now + SKEW,
        "lease_ahead": now + lease + SKEW,
        "hint_ahead": now + LONGEST_HINT + SKEW,
        "open_ahead": now + longest_open + SKEW,
        "failing": machine.WORDS[Suspension.failing],
    }
    rows = await connection.execute(
        statement(
            f"""
            SELECT s.id FROM subscriptions AS s WHERE {_TOO_SOON} OR s.ready_at IS NOT NULL AND (
                {_IN_THE_FUTURE} OR EXISTS (
                    SELECT FROM deliveries AS d WHERE d.subscription_id = s.id AND d.lane IN (0, 1)
                        AND d.state = 'owed' AND NOT d.blocked AND d.due_at > :ahead AND {_PUT_OFF}
                ))
            ORDER BY s.id FOR NO KEY UPDATE OF s
            """
        ),
        bounds,
    )
    ids = [SubscriptionId(row.id) for row in rows]
    if not ids:
        return 0
    await connection.execute(
        statement(
            f"""
            UPDATE deliveries AS d SET lease_until = NULL, due_at = CASE
                WHEN d.lease_until IS NOT NULL OR d.attempts = 0 THEN CAST(:now AS timestamptz)
                ELSE GREATEST(CAST(:now AS timestamptz),
                    d.due_at - ({_LAST_TRY} - CAST(:now AS timestamptz))) END
            WHERE d.subscription_id = ANY(CAST(:ids AS text[])) AND d.state = 'owed'
                AND NOT d.blocked AND d.due_at > :ahead AND {_PUT_OFF}
            """
        ),
        {"ids": ids, "now": now, "ahead": bounds["ahead"], "lease_ahead": bounds["lease_ahead"]},
    )
    await connection.execute(
        statement(
            f"""
            UPDATE subscriptions AS s SET not_before = NULL, health = s.health - CAST(:spans AS text[]),
                status = CASE WHEN {_TOO_SOON} THEN 'active' ELSE s.status END,
                reason = CASE WHEN {_TOO_SOON} THEN '' ELSE s.reason END,
                suspended_at = CASE WHEN {_TOO_SOON} THEN NULL ELSE s.suspended_at END
            WHERE s.id = ANY(CAST(:ids AS text[])) AND ({_TOO_SOON} OR {_IN_THE_FUTURE})
            """
        ),
        {
            "ids": ids,
            "spans": list(machine.SPANS),
            "ahead": bounds["ahead"],
            "hint_ahead": bounds["hint_ahead"],
            "open_ahead": bounds["open_ahead"],
            "failing": bounds["failing"],
        },
    )
    await endpoints.refresh(connection, ids)
    await deliveries.wake(connection)
    return len(ids)


_LAST_TRY = (
    """(SELECT a.at FROM attempts AS a WHERE a.delivery_id = d.id AND a.number = d.attempts)"""
)
# Those spread over time by a resume or a recovery have no try that counts, and keep their instants.
_PUT_OFF = f"""(d.lease_until > :lease_ahead OR d.lease_until IS NULL AND CASE
    WHEN d.attempts = 0 THEN d.created_at > :ahead
    ELSE (d.attempts > d.forgiven OR d.throttled > 0) AND {_LAST_TRY} > :ahead END)"""
_TOO_SOON = "(s.status = 'suspended' AND s.suspended_at > :ahead AND s.reason = :failing)"
# The last attempt of a fast clock may end by the right one: it begins a window of now, and the breaker stays.
_IN_THE_FUTURE = """(coalesce(CAST(s.health ->> 'window_began' AS timestamptz) > :ahead, false)
    OR coalesce(CAST(s.health ->> 'open_until' AS timestamptz) > :open_ahead, false)
    OR coalesce(CAST(s.health ->> 'pause_until' AS timestamptz) > :hint_ahead, false))"""
