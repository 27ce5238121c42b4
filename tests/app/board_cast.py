"""The cast on the operators' stage: real history through the real engine, and three endpoints.

Gallium and germanium are under alert since July 2023, the straits since the winter of 2023, chip
lead times have come back to normal (their way down is invented), and three neighbours subscribe:
*baltica* hears everything, *dorado*'s endpoint fails and its breaker is open, *ember*'s has gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from sqlalchemy import text

from alerts.endpoints import Health, document_of
from alerts.routing import Filter, SubscriptionId
from alerts.signals import PartnerId, SeriesKey, Severity
from app import documents, store
from app.database import Connection, Database
from app.demo import history
from app.ingest import Arrival, Intake
from app.policy import Policy
from app.store.subscriptions import Status, Subscription

AURORA = "aurora"
SUBSCRIBERS = {
    "baltica": "https://hooks.baltica.example/forewarn",
    "dorado": "https://dorado.example/in/early-warning",
    "ember": "https://old.ember.example/hook",
}
WAY_DOWN = (24.0, 21.0, 17.5, 15.8, 14.4, 13.6, 12.9, 12.8, 12.5, 12.4)
SINCE = {"chokepoints.csv": datetime(2023, 6, 1, tzinfo=UTC)}
UNTIL = datetime(2024, 9, 2, tzinfo=UTC)
FILES = ("lead_times.csv", "gallium_germanium.csv", "prices.csv", "events.csv", "chokepoints.csv")


async def stage(postgres_url: str, template: str, name: str, now: datetime) -> str:
    """Makes a database of that name with the whole cast in it; gives its URL."""
    connection = await asyncpg.connect(urlsplit(postgres_url)._replace(path="/postgres").geturl())
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    finally:
        await connection.close()
    url = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    database = Database(url)
    await play(database, now)
    await database.close()
    return url


async def policy_of(database: Database, now: datetime) -> Policy:
    """Two profiles with few rules, kept."""
    watch = Path(__file__).with_name("house-watch.yaml")
    ttc = documents.PROFILES_DIR / "ttc-semiconductors.yaml"
    read = [documents.read_profile(path) for path in (watch, ttc)]
    async with database.begin() as connection:
        for document in read:
            await store.profiles.keep(connection, document, now)
    return Policy(documents.load_catalogue(), {d.profile.id: d.profile for d in read})


async def play(database: Database, now: datetime) -> None:
    """Puts the whole cast on stage; everything was received within the last minutes before now."""
    policy = await policy_of(database, now)
    async with database.begin() as connection:
        aurora = (await store.partners.keep(connection, AURORA, "EU", now)).id
        for name, url in SUBSCRIBERS.items():
            await subscribe(connection, name, url, now - timedelta(days=40))
    intake = Intake(database, policy)
    for _, together in groupby(_arrivals(aurora), key=lambda known: f"{known[0]:%Y-%m}"):
        await intake.accept([arrival for _, arrival in together], now - timedelta(minutes=7))
    await intake.stop()
    async with database.begin() as connection:
        await _age_feeds(connection, now)
        await _deliver(connection, now)


def _arrivals(partner: PartnerId) -> Sequence[tuple[datetime, Arrival]]:
    rows = [
        (row.known_at, arrival_of(partner, row.body))
        for row in history.read(FILES)
        if SINCE.get(row.file, row.known_at) <= row.known_at <= UNTIL
    ]
    chips = SeriesKey("semiconductors", "lead_time", "chips")
    for number, weeks in enumerate(WAY_DOWN):
        at = datetime(2022 + (9 + number) // 12, (9 + number) % 12 + 1, 28, tzinfo=UTC)
        rows.append((at, Arrival(partner, chips, at, weeks)))
    return sorted(rows, key=lambda known: known[0])


def arrival_of(partner: PartnerId, body: dict[str, str | float | int]) -> Arrival:
    """A signal as the door would hand it on."""
    said = {
        name: body[name]
        for name in ("origin", "origin_ref", "note", "announced_at", "effective_at")
        if name in body
    }
    event = body.get("event")
    code, value = event or body["indicator"], body.get("value")
    return Arrival(
        partner,
        SeriesKey(
            str(body["sector"]), str(code), str(body.get("good", "")), str(body.get("place", ""))
        ),
        datetime.fromisoformat(str(body["observed_at"])),
        float(Severity[str(body["severity"])]) if event else float(value or 0),
        detail=json.dumps(said) if said else None,
        is_event=event is not None,
    )


async def subscribe(connection: Connection, name: str, url: str, at: datetime) -> None:
    partner = await store.partners.keep(connection, name, "", at)
    wish = Subscription(
        SubscriptionId(f"sub_{name}"),
        partner.id,
        url,
        "json",
        Filter(),
        "",
        Status.active,
        at,
    )
    await store.subscriptions.add(connection, wish)
    await connection.execute(
        text("UPDATE subscriptions SET verified_at = :at, owed_since = :at WHERE id = :id"),
        {"at": at, "id": wish.id},
    )


async def _age_feeds(connection: Connection, now: datetime) -> None:
    """Suez has gone stale and the price of germanium silent; the rest came minutes ago."""
    for ago, key in (
        (timedelta(days=3), {"indicator": "chokepoint_transits", "good": "", "place": "suez"}),
        (timedelta(days=210), {"indicator": "price", "good": "germanium", "place": ""}),
    ):
        await connection.execute(
            text(
                "UPDATE series_state SET last_received_at = :at WHERE series_id IN ("
                "SELECT series_id FROM series WHERE indicator = :indicator AND good = :good "
                "AND place = :place)"
            ),
            {"at": now - ago, **key},
        )


async def _deliver(connection: Connection, now: datetime) -> None:
    """Spreads the tries over the last day: baltica hears all, dorado fails lately, ember is gone."""
    rows = await connection.execute(
        text("SELECT id, subscription_id, sequence FROM deliveries ORDER BY id")
    )
    by_name: dict[str, list[tuple[int, int]]] = {}
    for delivery, subscription, sequence in rows:
        by_name.setdefault(subscription.removeprefix("sub_"), []).append((delivery, sequence))
    await _try(connection, by_name["baltica"], now, "delivered", "The endpoint answered 204.", 204)
    owed = by_name["dorado"][-6:]
    await _try(
        connection, by_name["dorado"][:-6], now, "delivered", "The endpoint answered 200.", 200
    )
    await _try(connection, owed, now, "retry", "The endpoint failed. It answered 503.", 503)
    await _try(connection, by_name["ember"][:1], now, "gone", "It answered 410.", 410)
    await _fail(connection, "dorado", now)
    ids = [SubscriptionId(f"sub_{name}") for name in SUBSCRIBERS]
    await store.deliveries.unblock(connection, ids)
    await connection.execute(
        text(
            "UPDATE subscriptions SET status = 'suspended', suspended_at = :at, "
            "reason = 'gone: the endpoint answered 410' WHERE id = 'sub_ember'"
        ),
        {"at": now - timedelta(hours=20)},
    )


async def _fail(connection: Connection, name: str, now: datetime) -> None:
    """Leaves an endpoint as the machine would after 18 failures: its breaker is open for hours."""
    until = now + timedelta(hours=6)
    health = Health(
        failures=18,
        failing_since=now - timedelta(minutes=50),
        first_failed=1,
        last_error="The endpoint failed. It answered 503.",
        open_until=until,
        open_for=600.0,
        noticed=1,
    )
    await connection.execute(
        text(
            "UPDATE subscriptions SET health = CAST(:health AS jsonb), not_before = :until, "
            "ready_at = :until, at_once = 1 WHERE id = :id"
        ),
        {"health": json.dumps(document_of(health)), "until": until, "id": f"sub_{name}"},
    )


async def _try(
    connection: Connection,
    deliveries: Iterable[tuple[int, int]],
    now: datetime,
    verdict: str,
    reason: str,
    status: int,
) -> None:
    for delivery, sequence in deliveries:
        done = verdict == "delivered"
        back = timedelta(minutes=4 + 37 * (sequence % 36) if done else 50)
        times = 1 if done else 3
        for number in range(1, times + 1):
            await connection.execute(
                text(
                    "INSERT INTO attempts (delivery_id, number, at, verdict, reason, status, error, "
                    "milliseconds, sent_after, answered_after, excerpt, answer_headers) VALUES "
                    "(:delivery, :number, :at, :verdict, :reason, :status, :error, 41.5, 3.5, 38, "
                    ":excerpt, :headers)"
                ),
                {
                    "delivery": delivery,
                    "number": number,
                    "at": now - back / number,
                    "excerpt": "" if done else '{"error": "upstream is away"}',
                    "headers": "" if done else '{"content-type": "application/json"}',
                    "verdict": verdict,
                    "reason": reason,
                    "status": status,
                    "error": "" if done else f"http_{status // 100}xx",
                },
            )
        await connection.execute(
            text(
                "UPDATE deliveries SET attempts = :times, created_at = :owed, "
                "state = CASE WHEN :done THEN 'delivered' ELSE state END, "
                "finished_at = CASE WHEN :done THEN CAST(:at AS timestamptz) END WHERE id = :id"
            ),
            {
                "times": times,
                "owed": now - back - timedelta(seconds=0.4),
                "done": done,
                "at": now - back,
                "id": delivery,
            },
        )
