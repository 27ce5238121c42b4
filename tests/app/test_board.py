"""The operators' board from the database: what is wrong, what changed, feeds, deliveries, samples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from alerts.mechanisms import Level
from alerts.signals import PartnerId, SeriesKey, Severity
from app import access, documents, store, subscribe, telemetry
from app.database import Database
from app.ingest import Arrival, Intake
from app.main import create_app
from app.settings import Settings
from app.store.board import Board, Freshness, Trend, freshness
from app.store.endpoint_health import Speed, Survey
from tests.app import board_cast
from tests.app.post_office import NEON, Post, failing
from tests.app.receiver import consenting, receiver
from tests.conftest import TEMPLATE

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
CHIPS = SeriesKey("semiconductors", "lead_time", "chips")
Connect = Callable[..., Any]


@pytest.fixture(scope="module")
def staged_url(postgres_url: str) -> str:
    return asyncio.run(board_cast.stage(postgres_url, TEMPLATE, "stage_of_board", NOW))


@pytest.fixture
async def staged(staged_url: str) -> AsyncIterator[Database]:
    """The database with the whole cast; only read from it."""
    database = Database(staged_url)
    yield database
    await database.close()


@pytest.fixture
async def board(staged: Database) -> Board:
    async with staged.begin() as connection:
        return await store.board.read(connection, documents.load_catalogue(), NOW)


async def test_sectors_stand_worst_first_and_those_never_heard_of_last(board: Board) -> None:
    first, second, *others = board.sectors
    assert {first.code, second.code} == {"semiconductors", "shipping"}
    for row in (first, second):
        assert (row.level, row.severity, row.open_alerts) == (
            Level.early_warning,
            Severity.severe,
            2,
        )
    assert {row.severity for row in others} == {Severity.none}
    assert len(board.sectors) == len(documents.load_catalogue().sectors)


async def test_the_trend_is_the_last_change_of_the_sector(board: Board) -> None:
    shipping = next(row for row in board.sectors if row.code == "shipping")
    assert shipping.trend is Trend.rising
    assert [c.type for c in shipping.changes] == [
        "alert.opened",
        "alert.opened",
        "alert.escalated",
        "alert.escalated",
    ]
    assert [row.trend for row in board.sectors if not row.changes] == [Trend.steady] * 5


async def test_among_equals_the_alert_with_a_recommendation_comes_first(board: Board) -> None:
    worst = board.worst
    assert worst is not None
    assert worst.recommendation is not None
    assert worst.recommendation.level is Level.disruption
    assert [alert.good for alert in board.alerts[:2]] == ["gallium", "germanium"]
    assert all(alert.why for alert in board.alerts)
    assert board.open_alerts == 4


async def test_the_worst_alerts_are_read_from_an_index_in_their_order(staged: Database) -> None:
    async with staged.begin() as connection:
        for way in ("seqscan", "sort", "incremental_sort"):
            await connection.execute(text(f"SET LOCAL enable_{way} = off"))
        await store.board.open_alerts(connection)
        scans = await connection.execute(
            text("SELECT pg_stat_get_xact_numscans(CAST('alerts_in_need' AS regclass))")
        )
        assert scans.scalar_one() == 1


async def test_what_changed_is_told_newest_recorded_first(board: Board) -> None:
    places = [(change.recorded_at, change.at, change.id) for change in board.changes]
    assert places == sorted(places, reverse=True)
    assert len(places) == store.board.CHANGES_SHOWN
    assert all(change.reason for change in board.changes)


async def test_feeds_that_fell_quiet_stand_first_and_are_named(board: Board) -> None:
    first, second, *others = board.feeds
    assert (first.key.indicator, first.freshness) == ("price", Freshness.silent)
    assert (second.key.place, second.freshness) == ("suez", Freshness.stale)
    assert {feed.freshness for feed in others} == {Freshness.ok}
    assert {feed.partners for feed in board.feeds} == {"aurora"}
    assert (board.feed_counts.stale, board.feed_counts.silent) == (1, 1)
    assert board.feed_counts.series == len(board.feeds)


@pytest.mark.parametrize(
    ("lateness", "word", "reason"),
    [
        (0.0, Freshness.ok, "just heard"),
        (2.0, Freshness.ok, "exactly twice its gap is not yet late"),
        (2.1, Freshness.stale, "missed two"),
        (5.0, Freshness.stale, "exactly five times its gap is not yet silence"),
        (5.1, Freshness.silent, "missed five"),
    ],
)
def test_a_feed_is_late_by_its_own_pace(lateness: float, word: Freshness, reason: str) -> None:
    assert freshness(lateness) is word, reason


async def test_endpoints_in_trouble_stand_first_with_what_they_are_owed(board: Board) -> None:
    ember, dorado, baltica = board.delivery.endpoints
    assert (ember.status, ember.reason) == ("suspended", "gone: the endpoint answered 410")
    assert (dorado.status, dorado.owed) == ("active", 6)
    assert dorado.oldest_owed_at == NOW - timedelta(minutes=50, seconds=0.4)
    assert dorado.last_error == "The endpoint failed. It answered 503."
    assert dorado.failed == sum(hour.failed for hour in dorado.hours) == 18
    assert (baltica.owed, baltica.failed, baltica.last_error) == (0, 0, "")
    assert baltica.delivered > 0
    assert board.delivery.troubled == 2


async def test_an_endpoint_says_why_since_when_and_when_it_is_tried_next(board: Board) -> None:
    ember, dorado, baltica = board.delivery.endpoints
    assert [e.standing for e in (ember, dorado, baltica)] == ["suspended", "failing", "active"]
    assert ember.suspended_at == NOW - timedelta(hours=20)
    assert dorado.health.failing_since == NOW - timedelta(minutes=50)
    assert dorado.ready_at == dorado.health.open_until == NOW + timedelta(hours=6)
    assert board.delivery.standings == {"suspended": 1, "failing": 1, "pending": 0, "active": 1}
    assert board.delivery.oldest_owed_at == dorado.oldest_owed_at, "ember's is not waited for"


@pytest.fixture
async def tried(post: Post) -> Post:
    """One endpoint and a hundred events of alerts, the n-th first tried n ms after it became owed."""
    policy = await board_cast.policy_of(post.database, NOW)
    async with post.database.begin() as connection:
        aurora = (await store.partners.keep(connection, "aurora", "EU", NOW)).id
        await board_cast.subscribe(connection, "baltica", "https://b.example/", NOW)
    intake = Intake(post.database, policy)
    await intake.accept([Arrival(aurora, CHIPS, NOW - timedelta(days=1), 26.0)], NOW)
    await intake.stop()
    async with post.database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO deliveries (subscription_id, sequence, type, transition_id, alert_id, "
                "created_at, state, finished_at) SELECT 'sub_baltica', 1000 + n, t.type, t.id, "
                "t.alert_id, CAST(:now AS timestamptz) - interval '90 minutes', 'delivered', :now "
                "FROM transitions AS t, generate_series(1, 100) AS n WHERE t.number = 1"
            ),
            {"now": NOW},
        )
        await connection.execute(
            text(
                "INSERT INTO attempts (delivery_id, number, at, verdict, reason, milliseconds, sent_after) "
                "SELECT id, 1, created_at + (sequence - 1000) * interval '1 millisecond', 'delivered', "
                "'', 500, 200 FROM deliveries WHERE sequence > 1000"
            )
        )
    return post


async def _survey(post: Post) -> Survey:
    async with post.database.begin() as connection:
        return await store.endpoint_health.survey(connection, NOW)


async def test_the_times_of_deliveries_are_those_of_changes_of_alerts_each_first_byte_once(
    post: Post,
) -> None:
    def counted() -> tuple[float, float]:
        gauge = telemetry.REGISTRY.get_sample_value
        first = gauge("forewarn_first_byte_seconds_count")
        whole = gauge("forewarn_delivery_seconds_count")
        return first or 0, whole or 0

    first, whole = counted()
    async with receiver(failing(429)) as baltica:
        made = await post.active(baltica)  # a challenge follows from no signal
        assert counted() == (first, whole)
        policy = await board_cast.policy_of(post.database, post.now)
        async with post.database.begin() as connection:
            aurora = (await store.partners.keep(connection, "aurora", "EU", post.now)).id
        intake = Intake(post.database, policy)
        await intake.accept([Arrival(aurora, CHIPS, post.now - timedelta(days=1), 26.0)], post.now)
        await intake.stop()
        sender = post.sender()
        await post.round(sender)
        assert counted() == (first + 1, whole)
        await post.pass_time(
            sender, 60
        )  # the schedule forgives a 429, and it was a try all the same
        assert len(baltica.events()) == 2
        assert counted() == (first + 1, whole)
        baltica.manner = consenting
        await post.pass_time(sender, 60)
        assert counted() == (first + 1, whole + 1)
        async with post.database.begin() as connection:
            held = await store.subscriptions.find(connection, made, lock=True)
            again = await store.delivery_log.find(connection, made, 2)
            assert held is not None
            assert again is not None
            await subscribe.redeliver(connection, held, again, post.now)
        await post.round(sender)
        assert len(baltica.events()) == 4
        assert counted() == (first + 1, whole + 1)


async def test_the_percentiles_are_those_of_first_attempts_from_acceptance_on(tried: Post) -> None:
    survey = await _survey(tried)
    assert survey.last_hour == Speed(), "they were 90 minutes ago"
    first, success = survey.last_day.first_byte, survey.last_day.success
    assert first is not None
    assert success is not None
    assert (first.count, success.count) == (100, 100)
    assert (first.p50, first.p95, first.p99) == pytest.approx((0.2505, 0.29505, 0.29901))
    assert (success.p50, success.p95, success.p99) == pytest.approx((0.5505, 0.59505, 0.59901))
    assert survey.endpoints[0].speed == survey.last_day


@pytest.mark.parametrize(
    ("change", "counts", "reason"),
    [
        ("UPDATE attempts SET number = 2", None, "a second try says nothing of the service"),
        ("UPDATE attempts SET at = at - interval '2 days'", None, "too long ago"),
        ("UPDATE attempts SET sent_after = NULL", (0, 100), "nothing was sent"),
        ("UPDATE attempts SET verdict = 'retry'", (100, 0), "it failed"),
        ("UPDATE deliveries SET transition_id = NULL, data = '{}'", None, "no change of an alert"),
        (
            "UPDATE attempts SET at = at + interval '45 minutes'",
            (100, 100),
            "late ones count like all else",
        ),
    ],
)
async def test_what_does_not_count_among_the_percentiles(
    tried: Post, change: str, counts: tuple[int, int] | None, reason: str
) -> None:
    async with tried.database.begin() as connection:
        await connection.execute(text(change))
    speed = (await _survey(tried)).last_day
    told = tuple(found.count if found else 0 for found in (speed.first_byte, speed.success))
    assert told == (counts or (0, 0)), reason


async def test_of_very_many_a_sample_is_looked_at(
    tried: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.endpoint_health, "MOST_LOOKED_AT", 20)
    survey = await _survey(tried)
    assert survey.endpoints[0].delivered == 100, "counts are of all"
    found = survey.last_day.first_byte
    assert found is not None
    assert 5 < found.count < 50
    assert 0.2 < found.p50 < found.p99 <= 0.3


async def test_what_is_sent_again_by_hand_is_owed_and_not_old(post: Post) -> None:
    async with receiver() as endpoint:
        made = await post.active(endpoint)
        await post.owe(made, NEON)
        await post.round(post.sender())
        (_, done) = await post.deliveries(made)
        async with post.database.begin() as connection:
            await connection.execute(
                text("UPDATE deliveries SET created_at = created_at - interval '9 days'")
            )
            await store.deliveries.redeliver(connection, made, [done.id], post.now)
    async with post.database.begin() as connection:
        survey = await store.endpoint_health.survey(connection, post.now)
        tally = await store.endpoint_health.tally(connection)
    assert (survey.owed, survey.oldest_owed_at) == (1, None)
    assert (tally.owed, tally.oldest_owed_at) == (1, None)
    assert tally.standings == survey.standings


async def test_the_hours_are_the_last_twenty_four_and_the_newest_is_under_way(
    board: Board,
) -> None:
    for endpoint in board.delivery.endpoints:
        begins = [hour.begins_at for hour in endpoint.hours]
        assert len(begins) == 24
        assert begins[-1] == NOW.replace(minute=0)
        assert begins[0] == begins[-1] - timedelta(hours=23)


async def test_partners_that_may_report_are_listed_longest_unseen_first(
    database: Database,
) -> None:
    async with database.begin() as connection:
        for name, role in (("aurora", "partner"), ("dorado", "partner"), ("baltica", "subscriber")):
            await access.issue_key(connection, name=name, role=role, now=NOW)
        await connection.execute(
            text("UPDATE keys SET last_used_at = :at WHERE role = 'partner' AND partner_id = 1"),
            {"at": NOW},
        )
        board = await store.board.read(connection, documents.load_catalogue(), NOW)
    assert [(p.name, p.last_seen_at) for p in board.partners] == [("dorado", None), ("aurora", NOW)]


async def test_an_empty_database_is_a_calm_board(database: Database) -> None:
    async with database.begin() as connection:
        board = await store.board.read(connection, documents.load_catalogue(), NOW)
    assert board.worst is None
    assert not board.alerts
    assert not board.changes
    assert not board.feeds
    assert not board.delivery.endpoints
    assert board.feed_counts.newest_observed_at is None


async def test_a_drill_is_shown_but_weighs_on_no_sector(database: Database) -> None:
    policy = await board_cast.policy_of(database, NOW)
    async with database.begin() as connection:
        aurora = (await store.partners.keep(connection, "aurora", "EU", NOW)).id
    intake = Intake(database, policy)
    drill = CHIPS._replace(exercise="autumn-drill")
    await intake.accept([Arrival(aurora, drill, NOW - timedelta(days=1), 26.0)], NOW)
    await intake.stop()
    async with database.begin() as connection:
        board = await store.board.read(connection, policy.catalogue, NOW)
    assert [alert.exercise for alert in board.alerts] == ["autumn-drill"]
    assert board.open_alerts == 0
    assert {row.severity for row in board.sectors} == {Severity.none}
    assert all(not row.changes for row in board.sectors)
    assert [change.exercise for change in board.changes] == ["autumn-drill"]
    assert board.feed_counts.series == 0


async def test_a_dossier_holds_the_timeline_the_findings_and_who_was_told(
    staged: Database,
) -> None:
    async with staged.begin() as connection:
        alerts = await store.board.open_alerts(connection)
        gallium = next(alert for alert in alerts if alert.good == "gallium")
        dossier = await store.dossiers.read(connection, gallium.ref)
    assert dossier is not None
    numbers = [entry.number for entry in dossier.timeline]
    assert numbers == list(range(len(numbers), 0, -1))
    assert {f.key.indicator for f in dossier.feeding} == {
        "export_control",
        "export_volume",
        "price_index",
    }
    assert all(f.said["sentence"] and f.finding for f in dossier.feeding)
    assert any(f.observed for f in dossier.feeding)
    assert {told.partner for told in dossier.told} == set(board_cast.SUBSCRIBERS)
    assert dossier.told[0].number == numbers[0]


async def test_there_is_no_dossier_of_an_unknown_alert(database: Database) -> None:
    async with database.begin() as connection:
        assert await store.dossiers.read(connection, "TTC-SEMI-1999-0001") is None


# --- the API ----------------------------------------------------------------------------------------


async def test_the_board_is_served_as_json_to_operators_only(
    staged_url: str, settings: Settings
) -> None:
    app = create_app(settings.model_copy(update={"database_url": staged_url}), role="api")
    async with app.router.lifespan_context(app), _client(app) as client:
        async with app.state.house.database.begin() as connection:
            keys = [
                await access.issue_key(connection, name=name, role=role, now=datetime.now(UTC))
                for name, role in (("zita", "operator"), ("cygnus", "subscriber"))
            ]
        asked = [
            await client.get("/v1/dashboard", headers={"Authorization": f"Bearer {key.token}"})
            for key in keys
        ]
        asked.append(await client.get("/v1/dashboard"))
    assert [answer.status_code for answer in asked] == [200, 403, 401]
    told = asked[0].json()
    assert told["open_alerts"] == 4
    assert told["alerts"][0]["good"] == "gallium"
    assert told["alerts"][0]["place"] is None
    assert told["alerts"][0]["recommendation"]["level"] == "disruption"
    assert [len(endpoint["hours"]) for endpoint in told["endpoints"]] == [24, 24, 24]
    assert {row["severity"] for row in told["sectors"]} == {"severe", "none"}
    assert told["delivery"]["standings"] == {
        "suspended": 1,
        "failing": 1,
        "pending": 0,
        "active": 1,
    }
    assert set(told["delivery"]["last_day"]) == {"first_byte", "success"}
    assert [endpoint["standing"] for endpoint in told["endpoints"]] == [
        "suspended",
        "failing",
        "active",
    ]
    assert told["endpoints"][1]["next_try_at"] == told["endpoints"][1]["open_until"]


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://forewarn")


@pytest.fixture
async def lead_times(service: FastAPI) -> int:
    """Two partners on one series: four months, one revised, one taken back; the series' id."""
    house = service.state.house
    async with house.database.begin() as connection:
        aurora = (await store.partners.keep(connection, "aurora", "EU", NOW)).id
        dorado = (await store.partners.keep(connection, "dorado", "US", NOW)).id
    for partner, month, value in (
        (aurora, 1, 12.0),
        (dorado, 1, 13.0),
        (aurora, 2, 11.0),
        (aurora, 2, 11.5),
        (aurora, 3, 99.0),
        (aurora, 3, None),
        (dorado, 4, 10.0),
    ):
        arrival = Arrival(PartnerId(partner), CHIPS, datetime(2026, month, 28, tzinfo=UTC), value)
        await house.intake.accept([arrival], datetime.now(UTC))
    async with house.database.begin() as connection:
        (row,) = await store.dossiers.series_list(connection, 0, 10, {})
    return int(row.id)


async def test_a_sample_is_the_median_of_each_partners_newest_revision(
    lead_times: int, caller: Connect
) -> None:
    zita = await caller("zita", role="operator")
    told = (await zita.get(f"/v1/series/{lead_times}/samples")).json()
    assert [
        (s["observed_at"][:7], s["value"], s["partners"], s["revision"]) for s in told["items"]
    ] == [
        ("2026-01", 12.5, 2, 1),
        ("2026-02", 11.5, 1, 2),
        ("2026-04", 10.0, 1, 1),
    ]
    assert told["next"] is None


async def test_samples_come_in_pages_and_between_instants(lead_times: int, caller: Connect) -> None:
    zita = await caller("zita", role="operator")
    path = f"/v1/series/{lead_times}/samples"
    first = await zita.get(path, params={"limit": 2})
    assert 'rel="next"' in first.headers["Link"]
    rest = await zita.get(path, params={"limit": 2, "after": first.json()["next"]})
    seen = [s["observed_at"][:7] for page in (first, rest) for s in page.json()["items"]]
    assert seen == ["2026-01", "2026-02", "2026-04"]
    between = await zita.get(
        path, params={"from": "2026-01-28T00:00:00Z", "to": "2026-02-28T00:00:00Z"}
    )
    assert [s["value"] for s in between.json()["items"]] == [12.5]


async def test_series_are_listed_and_narrowed(lead_times: int, caller: Connect) -> None:
    zita = await caller("zita", role="operator")
    told = (await zita.get("/v1/series", params={"good": "chips"})).json()
    assert [(s["id"], s["unit"], s["good"], s["place"]) for s in told["items"]] == [
        (lead_times, "weeks", "chips", None)
    ]
    assert (await zita.get("/v1/series", params={"good": "gallium"})).json()["items"] == []
    one = (await zita.get(f"/v1/series/{lead_times}")).json()
    assert one == told["items"][0]


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/series/999", 404, "no such series"),
        ("/v1/series/999/samples", 404, "no such series"),
        ("/v1/series/99999999999999999999", 422, "no number the database has"),
        ("/v1/series?good=%00", 422, "no text the database has"),
        ("/v1/series?after=nonsense", 422, "no cursor"),
        ("/v1/series/1/samples?from=2026-01-28T00:00:00", 422, "an instant without a zone"),
    ],
)
async def test_what_is_not_there_is_a_problem(
    caller: Connect, path: str, status: int, reason: str
) -> None:
    zita = await caller("zita", role="operator")
    assert (await zita.get(path)).status_code == status, reason
