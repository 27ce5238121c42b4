"""What must hold of the queue after every transaction, asked of the tables."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text

from app.database import Database

_LAWS = {
    "of an alert's owed deliveries exactly the earliest is not blocked": """
        SELECT d.id FROM (
            SELECT id, blocked,
                row_number() OVER (PARTITION BY subscription_id, alert_id ORDER BY sequence) = 1 AS first
            FROM deliveries WHERE state = 'owed' AND finished_at IS NULL AND alert_id IS NOT NULL
        ) AS d WHERE d.first = d.blocked""",
    "nothing else is blocked": """
        SELECT id FROM deliveries
        WHERE blocked AND (state <> 'owed' OR finished_at IS NOT NULL OR alert_id IS NULL)""",
    "what is owed has an instant, and what is finished has neither instant nor lease": """
        SELECT id FROM deliveries WHERE (state = 'owed') <> (due_at IS NOT NULL)
            OR state <> 'owed' AND (lease_until IS NOT NULL OR finished_at IS NULL)""",
    "what is claimed is due when its lease ends": """
        SELECT id FROM deliveries WHERE lease_until > :now AND due_at <> lease_until""",
    "sequences have no gap": """
        SELECT s.id FROM subscriptions AS s LEFT JOIN deliveries AS d ON d.subscription_id = s.id
        GROUP BY s.id HAVING count(d.id) <> s.last_sequence
            OR coalesce(max(d.sequence), 0) <> s.last_sequence""",
    "an endpoint is looked at as soon as something may be sent to it": """
        SELECT s.id FROM subscriptions AS s WHERE s.status IN ('active', 'pending') AND EXISTS (
            SELECT FROM deliveries AS d WHERE d.subscription_id = s.id AND d.state = 'owed'
                AND NOT d.blocked AND (s.status = 'active' OR d.type = 'webhook.verify')
                AND (s.ready_at <= GREATEST(d.due_at, s.not_before, :now)) IS NOT TRUE)""",
    "an endpoint is not looked at before it may be sent something": """
        SELECT id FROM subscriptions WHERE ready_at < not_before""",
    "one that is suspended or removed is not looked at": """
        SELECT id FROM subscriptions
        WHERE status NOT IN ('active', 'pending') AND ready_at IS NOT NULL""",
    "one that was removed is owed nothing": """
        SELECT d.id FROM deliveries AS d JOIN subscriptions AS s ON s.id = d.subscription_id
        WHERE s.status = 'removed' AND d.state = 'owed'""",
    "an endpoint that fails is sent one at a time, and no other": """
        SELECT id FROM subscriptions
        WHERE (at_once IS NOT NULL) <> (health ? 'failures') OR at_once <> 1""",
    "every attempt is written down": """
        SELECT d.id FROM deliveries AS d LEFT JOIN attempts AS a ON a.delivery_id = d.id
        GROUP BY d.id HAVING count(a.number) <> d.attempts""",
}


# Asked as one statement, so that a test can ask after every step.
_BROKEN = " UNION ALL ".join(
    f"SELECT {number}, CAST(law.id AS text) FROM ({sql}) AS law (id)"
    for number, sql in enumerate(_LAWS.values())
)


async def broken(database: Database, now: datetime) -> dict[str, list[str]]:
    """The laws that do not hold, with the ids of what breaks them."""
    found: dict[str, list[str]] = {}
    async with database.begin() as connection:
        for number, name in await connection.execute(text(_BROKEN), {"now": now}):
            found.setdefault(list(_LAWS)[number], []).append(name)
    return found
