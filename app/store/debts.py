"""Debts: how deliveries come to be owed, and which of them are claimed in the moment they do.

What is owed is claimed like anything that is due, which asks the database five times more. Where a worker of
the same process has room, and the endpoint is well and has nothing else waiting, that is spared: the delivery
is in the worker's hands as soon as the transaction is committed, under a lease like every claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from alerts.payloads import VERIFY
from alerts.routing import SubscriptionId
from app.database import Transaction, Write, fetch
from app.store import endpoints, queue
from app.store.deliveries import CHANNEL, OVERTAKES_AFTER, keep_latest
from app.store.queue import Claimed, Endpoint


@dataclass(frozen=True, slots=True)
class Debt:
    """Something to owe to one subscription: a transition, or ``data`` of its own (JSON text)."""

    subscription_id: SubscriptionId
    type: str
    transition_id: int | None = None
    alert_id: int | None = None
    data: str | None = None


class Taken(NamedTuple):
    """What was claimed as it came to be owed, and until when."""

    claimed: list[Claimed]
    lease_until: datetime


class Offer(NamedTuple):
    """What a worker takes at once, until when: so many in all, so many of one endpoint, none of those that
    are ``full``.
    """

    lease_until: datetime
    slots: int
    per_endpoint: int
    full: Sequence[SubscriptionId]


async def owe(
    connection: Transaction,
    debts: Sequence[Debt],
    now: datetime,
    beside: Sequence[Write] = (),
    offer: Offer | None = None,
    rendered: Mapping[int, str] | None = None,
) -> Taken | None:
    """Owes, and gives what is claimed with that, if anything is. Two statements, however many debts; two more
    for each subscription that asks for the latest of an alert while an earlier one fails and fails, and one
    where a format refers to earlier transitions.

    Each debt gets its subscription's next sequence, in the order given: gapless, because the
    subscription's row stays locked until the transaction ends. Removed subscriptions are owed nothing.
    Senders are woken at commit where something is left to claim.

    Args:
        connection: inside a transaction.
        debts: what to owe.
        now: the instant.
        beside: written even where nothing is owed: what the debts are about.
        offer: what is claimed for a worker of this process; None for nothing.
        rendered: the data of transitions, by their row ids: of all that an offer is made for.
    """
    if debts or beside:
        await endpoints.lock(connection, {debt.subscription_id for debt in debts}, beside)
    if not debts:
        return None
    rows = await fetch(
        connection,
        _OWE,
        {
            "subscriptions": [debt.subscription_id for debt in debts],
            "types": [debt.type for debt in debts],
            "transitions": [debt.transition_id for debt in debts],
            "alerts": [debt.alert_id for debt in debts],
            "data": [debt.data for debt in debts],
            "now": now,
            "verify": VERIFY,
            "channel": CHANNEL,
            "lease_until": offer and offer.lease_until,
            "slots": offer.slots if offer else 0,
            "per_endpoint": offer.per_endpoint if offer else 0,
            "full": offer.full if offer else (),
        },
    )
    claimed: list[Claimed] = []
    stuck: dict[SubscriptionId, list[int]] = {}
    for row in rows:
        if row.is_claimed:
            claimed.append(_claimed(row, debts[row.place - 1], now, rendered or {}))
        elif row.place is not None:
            alert_id = debts[row.place - 1].alert_id
            assert alert_id is not None, "Only what is about an alert waits."
            stuck.setdefault(SubscriptionId(row.subscription_id), []).append(alert_id)
    for subscription, alerts in stuck.items():
        await _overtake(connection, subscription, alerts, now)
    if offer is None or not claimed:
        return None
    return Taken(await queue.with_earlier(connection, claimed), offer.lease_until)


# What is claimed is of endpoints that are well (``is_free``): active, not failing, without a pace, and with
# nothing that is due, for then ``ready_at`` is null or when the lease of something ends; a backlog goes
# first. What is blocked is due all the same where the latest counts: ``_overtake`` takes the endpoint to be
# ready.
# Whether an alert waits already is asked debt by debt: EXISTS would be planned as a hash of all that is owed
# to anybody, read anew for every signal while an endpoint is down.
_OWE = f"""
    WITH debts AS (
        SELECT d.place, d.subscription_id, d.type, d.transition_id, d.alert_id, d.data, s.ordering,
            s.last_sequence + row_number() OVER (PARTITION BY d.subscription_id ORDER BY d.place)
                AS sequence,
            d.alert_id IS NOT NULL AND (
                row_number() OVER (PARTITION BY d.subscription_id, d.alert_id ORDER BY d.place) > 1
                OR (
                    SELECT e.id FROM deliveries AS e WHERE e.subscription_id = d.subscription_id
                        AND e.alert_id = d.alert_id AND e.state = 'owed' AND e.finished_at IS NULL
                    ORDER BY e.sequence LIMIT 1
                ) IS NOT NULL) AS blocked,
            s.status = 'active' AND s.at_once IS NULL AND s.per_second IS NULL
                AND coalesce(s.not_before <= :now, true) AND coalesce(s.ready_at > :now, true)
                AND s.id <> ALL (CAST(:full AS text[])) AS is_free
        FROM unnest(
            CAST(:subscriptions AS text[]), CAST(:types AS text[]),
            CAST(:transitions AS bigint[]), CAST(:alerts AS bigint[]), CAST(:data AS text[])
        ) WITH ORDINALITY AS d (subscription_id, type, transition_id, alert_id, data, place)
        JOIN subscriptions AS s ON s.id = d.subscription_id
        WHERE s.status <> 'removed'
    ), ranked AS (
        SELECT *, is_free AND NOT blocked
            AND count(*) FILTER (WHERE NOT blocked)
                OVER (PARTITION BY subscription_id ORDER BY place) <= :per_endpoint
            AND count(*) FILTER (WHERE is_free AND NOT blocked) OVER (ORDER BY place) <= :slots
            AS is_claimed
        FROM debts
    ), waiting AS (
        SELECT *, NOT is_claimed AND (NOT blocked OR ordering = 'latest') AS is_due FROM ranked
    ), counted AS (
        UPDATE subscriptions AS s SET last_sequence = c.last,
            ready_at = CASE
                WHEN NOT c.is_due THEN LEAST(s.ready_at, c.lease_until)
                WHEN s.status = 'active' OR s.status = 'pending' AND c.asks
                THEN LEAST(s.ready_at, GREATEST(CAST(:now AS timestamptz), s.not_before))
                ELSE s.ready_at END
        FROM (
            SELECT subscription_id, max(sequence) AS last, bool_or(type = :verify) AS asks,
                bool_or(is_due) AS is_due,
                CASE WHEN bool_or(is_claimed) THEN CAST(:lease_until AS timestamptz) END AS lease_until
            FROM waiting GROUP BY 1
        ) AS c
        WHERE s.id = c.subscription_id
    ), owed AS (
        INSERT INTO deliveries
            (subscription_id, sequence, type, transition_id, alert_id, data, created_at, due_at,
            lease_until, fence, blocked)
        SELECT subscription_id, sequence, type, transition_id, alert_id, data,
            CAST(:now AS timestamptz),
            CASE WHEN is_claimed THEN CAST(:lease_until AS timestamptz)
                ELSE CAST(:now AS timestamptz) END,
            CASE WHEN is_claimed THEN CAST(:lease_until AS timestamptz) END,
            CASE WHEN is_claimed THEN 1 ELSE 0 END, blocked
        FROM ranked ORDER BY place
        RETURNING id, subscription_id, sequence
    ), told AS (
        SELECT CASE WHEN bool_or(is_due) THEN pg_notify(:channel, '') END AS told FROM waiting
    )
    SELECT told.told, heeded.* FROM told LEFT JOIN (
        SELECT r.place, r.is_claimed, r.subscription_id, o.id, r.sequence,
            s.url, s.format, s.format_version,
            {endpoints.SEALED} AS sealed
        FROM ranked AS r
        JOIN owed AS o ON o.subscription_id = r.subscription_id AND o.sequence = r.sequence
        JOIN subscriptions AS s ON s.id = r.subscription_id
        WHERE r.is_claimed OR r.blocked AND r.ordering = 'latest'
    ) AS heeded ON true ORDER BY heeded.place
"""


def _claimed(row: Any, debt: Debt, now: datetime, rendered: Mapping[int, str]) -> Claimed:
    """A debt that was claimed, as its sender needs it: the first attempt is to be made."""
    data = rendered[debt.transition_id] if debt.transition_id is not None else debt.data
    assert data is not None, "A debt is a transition, or has data of its own."
    whose = Endpoint(
        debt.subscription_id,
        row.url,
        row.format,
        row.format_version,
        at_once=None,
        sealed_secrets=tuple(row.sealed or ()),
    )
    return Claimed(
        row.id,
        whose,
        row.sequence,
        debt.type,
        debt.alert_id,
        debt.transition_id,
        created_at=now,
        due_at=now,
        attempt=1,
        fence=1,
        again=False,
        lane=0,
        throttled=0,
        throttled_since=None,
        data=data,
    )


async def _overtake(
    connection: Transaction, subscription_id: SubscriptionId, alerts: Sequence[int], now: datetime
) -> None:
    """Of these alerts, the newest overtakes one that has failed often enough and waits for a retry.

    What is under way is let end first: ``store.records`` judges it then. The subscription must be
    locked; its endpoint is taken to be ready, as ``owe`` has left it.
    """
    rows = await fetch(
        connection,
        "SELECT alert_id FROM deliveries WHERE subscription_id = :id AND state = 'owed' "
        "AND alert_id = ANY(CAST(:alerts AS bigint[])) AND finished_at IS NULL AND NOT blocked "
        "AND attempts - forgiven >= :often AND (lease_until IS NULL OR lease_until <= :now)",
        {"id": subscription_id, "alerts": list(alerts), "often": OVERTAKES_AFTER, "now": now},
    )
    stuck = [row.alert_id for row in rows]
    if stuck:
        await keep_latest(connection, subscription_id, now, alerts=stuck)
