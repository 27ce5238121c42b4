"""The pages of deliveries over HTTP: what they say of real tries, what their forms do and refuse."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from alerts.endpoints import Health, Patience
from alerts.routing import SubscriptionId
from app import access, store
from app.dashboard import delivery_words, frame, words
from app.dashboard.delivery_words import STATES
from app.main import create_app
from app.store.delivery_log import Delivery
from app.store.endpoint_health import EndpointHealth, Speed
from app.store.subscriptions import Status
from tests.app.post_office import GALLIUM, NEON, Post, failing
from tests.app.receiver import Receiver, receiver

HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>\x07\u202e"
NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)


@dataclass(slots=True)
class Desk:
    """A service that sends nothing by itself, *zita* signed in at it, and the post office behind it."""

    service: FastAPI
    zita: httpx.AsyncClient
    post: Post

    async def see(self, path: str, status: int = 200) -> str:
        page = await self.zita.get(path)
        assert page.status_code == status, page.text
        return page.text

    async def read(self, path: str) -> str:
        """The words of a page, and nothing else of it."""
        return words_of(await self.see(path))

    async def audit(self) -> list[tuple[str, str, str, str]]:
        async with self.post.database.begin() as connection:
            rows = await store.audit.listing(connection, before=None, limit=20)
        return [
            (row.action, row.subject, row.actor.partner, row.reason)
            for row in rows
            if not row.subject.startswith("mechanisms/")
        ]


def words_of(page: str) -> str:
    bare = re.sub(r"<(svg|style|head)\b.*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare)).strip())


@pytest.fixture
async def service(post: Post) -> AsyncIterator[FastAPI]:
    app = create_app(post.settings, role="api")
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def visitor(service: FastAPI, name: str, *scopes: str) -> AsyncIterator[httpx.AsyncClient]:
    """An operator signed in, with these scopes or the usual ones."""
    async with service.state.house.database.begin() as connection:
        key = await access.issue_key(
            connection, name=name, role="operator", scopes=scopes, now=datetime.now(UTC)
        )
    transport = httpx.ASGITransport(service, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://forewarn") as client:
        await client.post("/sign-in", data={"key": key.token})
        yield client


@pytest.fixture
async def desk(service: FastAPI, post: Post) -> AsyncIterator[Desk]:
    async with visitor(service, "zita") as zita:
        yield Desk(service, zita, post)


@pytest.fixture
async def baltica() -> AsyncIterator[Receiver]:
    """An endpoint that consents and fails every event."""
    async with receiver(failing(503)) as endpoint:
        yield endpoint


async def _failed_once(post: Post, endpoint: Receiver) -> tuple[SubscriptionId, Delivery]:
    made = await post.active(endpoint)
    await post.owe(made, NEON)
    await post.round(post.sender())
    return made, (await post.deliveries(made))[-1]


# --- what they say ----------------------------------------------------------------------------------


async def test_an_endpoint_that_fails_stands_before_one_that_answers(
    desk: Desk, baltica: Receiver
) -> None:
    async with receiver() as well:
        good = await desk.post.active(well)
        bad, _ = await _failed_once(desk.post, baltica)
        await desk.post.owe(good, NEON)
        await desk.post.round(desk.post.sender())
    page = await desk.see("/deliveries")
    assert page.index(f'id="endpoint-{bad}"') < page.index(f'id="endpoint-{good}"')
    said = words_of(page)
    assert "1 of 2 endpoints in trouble" in said
    assert f"failing since {words.clock(desk.post.now)}" in said
    assert "It answered 503." in said
    failing_only = await desk.see("/deliveries?standing=failing")
    assert f'id="endpoint-{good}"' not in failing_only
    assert f'id="endpoint-{bad}"' in failing_only


async def test_the_newest_deliveries_can_be_narrowed_to_a_state(
    desk: Desk, baltica: Receiver
) -> None:
    made, owed = await _failed_once(desk.post, baltica)
    challenge = (await desk.post.deliveries(made))[0]
    for state in STATES:
        page = await desk.see(f"/deliveries?state={state}")
        of_one = await desk.see(f"/endpoints/{made}?state={state}")
        for shown in (page, of_one):
            assert (f"/deliveries/{owed.webhook_id}" in shown) == (state == "owed"), state
            assert (f"/deliveries/{challenge.webhook_id}" in shown) == (state == "delivered"), state
    assert (await desk.zita.get("/deliveries?state=lost")).status_code == 404


async def test_older_deliveries_are_on_the_next_page_and_none_is_left_out(
    desk: Desk, baltica: Receiver
) -> None:
    made = await desk.post.subscribe(baltica.url, baltica)
    await desk.post.owe(made, *range(1, 120))
    for path in (f"/endpoints/{made}", "/deliveries", "/deliveries?state=owed"):
        seen: list[str] = []
        following: str | None = path
        while following is not None:
            page = await desk.see(following)
            seen += re.findall(r'scope="row"><a href="/deliveries/(msg_\w+)">', page)
            link = re.search(r'rel="next" href="([^"]+)"', page)
            following = html.unescape(link[1]) if link else None
        assert len(seen) == len(set(seen)) == 120, path


async def test_every_try_shows_what_was_sent_what_was_answered_and_what_comes_next(
    desk: Desk, baltica: Receiver
) -> None:
    made, owed = await _failed_once(desk.post, baltica)
    await desk.post.pass_time(desk.post.sender(), 10)
    said = await desk.read(f"/deliveries/{owed.webhook_id}")
    events = baltica.events()
    assert len(events) == 2
    for heard in events:
        signature = heard.headers["webhook-signature"]
        assert f"webhook-timestamp {heard.headers['webhook-timestamp']}" in said
        assert f"webhook-signature {signature[:13]}…" in said
        assert signature not in said
    assert f"webhook-id {owed.webhook_id}" in said
    assert f"POST {baltica.url}" in said
    assert "503" in said
    (found,) = [d for d in await desk.post.deliveries(made) if d.id == owed.id]
    assert found.due_at is not None
    assert f"Owed; next try at {words.clock(found.due_at)}" in said


async def test_the_body_can_be_downloaded_byte_for_byte(desk: Desk, baltica: Receiver) -> None:
    _, owed = await _failed_once(desk.post, baltica)
    (heard,) = baltica.events()
    body = await desk.zita.get(f"/deliveries/{owed.webhook_id}/body")
    assert body.content == heard.raw
    assert body.headers["content-disposition"] == f'attachment; filename="{owed.webhook_id}.json"'
    assert body.headers["x-content-type-options"] == "nosniff"
    assert body.headers["content-security-policy"] == frame.CONTENT_POLICY
    assert '"n": "moved"' in await desk.read(f"/deliveries/{owed.webhook_id}")


async def test_what_a_challenge_asks_is_nowhere_and_neither_is_a_secret(
    desk: Desk, baltica: Receiver
) -> None:
    made, owed = await _failed_once(desk.post, baltica)
    challenge = (await desk.post.deliveries(made))[0]
    asked = json.loads(challenge.data)["challenge"]
    paths = (
        "/", "/deliveries", f"/endpoints/{made}", f"/deliveries/{challenge.webhook_id}",
        f"/deliveries/{owed.webhook_id}",
    )  # fmt: skip
    for path in paths:
        page = await desk.see(path)
        assert asked not in page, path
        assert "whsec_" not in page, path
        assert baltica.secrets[0] not in page, path
    assert "for its endpoint alone" in await desk.see(
        f"/deliveries/{challenge.webhook_id}/body", status=404
    )


async def test_the_times_of_a_try_are_a_bar_and_the_same_numbers_in_the_table(
    desk: Desk, baltica: Receiver
) -> None:
    _, owed = await _failed_once(desk.post, baltica)
    async with desk.post.database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE attempts SET sent_after = 20, answered_after = 60, milliseconds = 80, "
                """answer_headers = '{"retry-after": "120"}' WHERE delivery_id = :id"""
            ),
            {"id": owed.id},
        )
    page = await desk.see(f"/deliveries/{owed.webhook_id}")
    widths = re.findall(r'class="(connect|wait|read)" x="([\d.]+)" y="1" width="([\d.]+)"', page)
    assert widths == [("connect", "0", "40.0"), ("wait", "40.0", "80.0"), ("read", "120.0", "40.0")]
    assert "20 ms 60 ms 80 ms" in words_of(page)
    assert "retry-after 120" in words_of(page)


async def test_one_that_waits_for_an_earlier_one_leads_to_it(desk: Desk, baltica: Receiver) -> None:
    made, first = await _failed_once(desk.post, baltica)
    await desk.post.owe(made, NEON)
    second = (await desk.post.deliveries(made))[-1]
    page = await desk.see(f"/deliveries/{second.webhook_id}")
    assert f"it waits for event {first.sequence} of the same alert" in words_of(page)
    assert f'href="/deliveries/{first.webhook_id}">See that one.' in page


async def test_an_endpoint_says_what_it_asks_for_and_its_recoveries(
    desk: Desk, baltica: Receiver
) -> None:
    made, _ = await _failed_once(desk.post, baltica)
    async with desk.post.database.begin() as connection:
        await connection.execute(
            text(
                "UPDATE subscriptions SET per_second = 2.5, ordering = 'latest', "
                """filter = filter || '{"sectors": ["semiconductors"], "min_level": "crisis"}' """
                "WHERE id = :id"
            ),
            {"id": made},
        )
        await connection.execute(
            text(
                "INSERT INTO recoveries (subscription_id, first_sequence, last_sequence, states, "
                "next_sequence, redelivered, created_at, created_by) VALUES (:id, 3, 90, "
                "ARRAY['failed', 'expired'], 41, 12, :now, 'olga')"
            ),
            {"id": made, "now": desk.post.now},
        )
    said = await desk.read(f"/endpoints/{made}")
    for words_there in (
        "sectors Semiconductors", "from level crisis", "exercises none", "at most 2.5 a second",
        "latest: the newest", "3 to 90", "given up, expired", "at 41", "olga", "under way",
    ):  # fmt: skip
        assert words_there in said, words_there


async def test_the_page_of_why_says_what_it_does_not_know(desk: Desk, baltica: Receiver) -> None:
    made = await desk.post.active(baltica)
    assert "There is no alert" in await desk.see(f"/endpoints/{made}/why?alert=TTC-1", status=404)
    missing = await desk.see("/endpoints/sub_nobody/why?alert=TTC-1", status=404)
    assert "There is no endpoint" in missing


@pytest.mark.parametrize(
    "path",
    ["/endpoints/sub_nobody", "/endpoints/%00", "/deliveries/msg_nobody_1", "/deliveries/%00",
     "/deliveries/msg_00_99999999999999999999", "/deliveries/nonsense", "/deliveries?before=0",
     "/deliveries/msg_nobody_1/body", f"/endpoints/sub_{'0' * 20}?before=x"],
)  # fmt: skip
async def test_what_is_not_there_is_a_page_that_says_so(desk: Desk, path: str) -> None:
    assert "There is nothing here" in await desk.see(path, status=404)


async def test_html_and_control_marks_of_an_endpoint_are_harmless(
    desk: Desk, baltica: Receiver
) -> None:
    made, owed = await _failed_once(desk.post, baltica)
    async with desk.post.database.begin() as connection:
        for statement in (
            "UPDATE attempts SET excerpt = :text, reason = :text, answer_headers = :headers",
            (
                "UPDATE subscriptions SET url = :text, description = :text, reason = :text, "
                "health = health || jsonb_build_object('last_error', CAST(:text AS text))"
            ),
            "UPDATE partners SET name = :text WHERE name = 'baltica'",
        ):
            values = {"text": HOSTILE, "headers": json.dumps({HOSTILE: HOSTILE})}
            await connection.execute(
                text(statement), {n: v for n, v in values.items() if f":{n}" in statement}
            )
    for path in ("/", "/deliveries", f"/endpoints/{made}", f"/deliveries/{owed.webhook_id}"):
        page = await desk.see(path)
        assert "<script>alert" not in page, path
        assert "<img" not in page, path
        assert "&lt;script&gt;" in page, path
        assert not re.search(r"\sstyle=|\son\w+=\"|<style|javascript:", page), path
    page = await desk.see(f"/deliveries/{owed.webhook_id}")
    excerpt = re.search(r"beginning of the answer\"><code>(.*?)</code>", page, re.DOTALL)
    assert excerpt is not None
    assert "\x07" not in excerpt[1]
    assert "\u202e" not in excerpt[1]
    assert "\N{SYMBOL FOR BELL}\N{REPLACEMENT CHARACTER}" in excerpt[1]


async def test_htmx_gets_only_the_part_that_moves(desk: Desk, baltica: Receiver) -> None:
    made, owed = await _failed_once(desk.post, baltica)
    for path in ("/deliveries", f"/endpoints/{made}", f"/deliveries/{owed.webhook_id}"):
        part = await desk.zita.get(path, headers={"HX-Request": "true"})
        assert "<html" not in part.text
        assert "<form" not in part.text, "what is typed must not be taken away"
        assert 'id="read-at"' in part.text


# --- what they do -----------------------------------------------------------------------------------


async def test_suspending_and_resuming_is_done_said_and_written_down(
    desk: Desk, baltica: Receiver
) -> None:
    made, _ = await _failed_once(desk.post, baltica)
    done = await desk.zita.post(f"/endpoints/{made}/suspend", data={"reason": " It pages them. "})
    assert (done.status_code, done.headers["location"]) == (
        303,
        f"/endpoints/{made}?said=suspended",
    )
    held = await desk.post.held(made)
    assert (held.status, held.reason) == (Status.suspended, "suspended by zita: It pages them.")
    said = await desk.read(done.headers["location"])
    assert "It is suspended. What happens meanwhile is kept." in said
    assert "because suspended by zita: It pages them." in said
    assert "Nothing is sent until it is resumed" in said
    again = await desk.zita.post(f"/endpoints/{made}/suspend", data={"reason": "Once more."})
    assert again.status_code == 409

    done = await desk.zita.post(f"/endpoints/{made}/resume", data={"backlog": "latest"})
    assert (done.status_code, done.headers["location"]) == (303, f"/endpoints/{made}?said=resumed")
    assert (await desk.post.held(made)).status is Status.active
    assert (await desk.zita.post(f"/endpoints/{made}/resume")).status_code == 409
    assert await desk.audit() == [
        ("subscription.resumed", f"subscriptions/{made}", "zita", ""),
        ("subscription.suspended", f"subscriptions/{made}", "zita", "It pages them."),
    ]
    async with desk.post.database.begin() as connection:
        assert (await store.audit.verify(connection)).broken == ""


async def test_resuming_with_the_latest_leaves_the_rest_in_the_feed(
    desk: Desk, baltica: Receiver
) -> None:
    made = await desk.post.active(baltica)
    await desk.post.act(made, "suspend", reason="at night")
    await desk.post.owe(made, NEON, NEON, GALLIUM)
    await desk.zita.post(f"/endpoints/{made}/resume", data={"backlog": "latest"})
    assert await desk.post.states(made) == ["superseded", "owed", "owed"]


async def test_a_test_and_a_redelivery_reach_the_endpoint_under_their_ids(
    desk: Desk, baltica: Receiver
) -> None:
    made, owed = await _failed_once(desk.post, baltica)
    sent = await desk.zita.post(f"/endpoints/{made}/test")
    assert (sent.status_code, sent.headers["location"]) == (303, f"/endpoints/{made}?said=tested")
    again = await desk.zita.post(f"/deliveries/{owed.webhook_id}/redeliver")
    address = f"/deliveries/{owed.webhook_id}?said=redelivered"
    assert (again.status_code, again.headers["location"]) == (303, address)
    desk.post.now = datetime.now(UTC)
    await desk.post.round(desk.post.sender())
    assert baltica.times_heard()[owed.webhook_id] == 2
    assert "webhook.test" in {heard.type for heard in baltica.heard}
    assert [row[:2] for row in await desk.audit()] == [
        ("delivery.redelivered", f"subscriptions/{made}/{owed.webhook_id}"),
        ("subscription.tested", f"subscriptions/{made}"),
    ]


async def test_one_that_waits_its_turn_is_left_and_the_page_says_so(
    desk: Desk, baltica: Receiver
) -> None:
    made, _ = await _failed_once(desk.post, baltica)
    await desk.post.owe(made, NEON)
    second = (await desk.post.deliveries(made))[-1]
    done = await desk.zita.post(f"/deliveries/{second.webhook_id}/redeliver")
    assert done.headers["location"] == f"/deliveries/{second.webhook_id}?said=left"
    assert "It was left as it is" in await desk.read(done.headers["location"])
    assert await desk.audit() == []


async def test_what_cannot_be_done_now_is_a_sentence(desk: Desk, baltica: Receiver) -> None:
    made, owed = await _failed_once(desk.post, baltica)
    challenge = (await desk.post.deliveries(made))[0]
    refused = await desk.zita.post(f"/deliveries/{challenge.webhook_id}/redeliver")
    assert refused.status_code == 409
    assert "A challenge is not sent twice" in refused.text
    await desk.post.act(made, "suspend", reason="at night")
    for path in (f"/deliveries/{owed.webhook_id}/redeliver", f"/endpoints/{made}/test"):
        refused = await desk.zita.post(path)
        assert refused.status_code == 409, path
        assert "The subscription is suspended" in refused.text, path
    assert (await desk.zita.post("/deliveries/msg_00_1/redeliver")).status_code == 404
    assert (await desk.zita.post("/endpoints/sub_00/test")).status_code == 404


async def test_a_suspension_without_a_reason_comes_back_with_what_was_typed(
    desk: Desk, baltica: Receiver
) -> None:
    made = await desk.post.active(baltica)
    for reason in ("", "a", "a\x00bc", "it\npages"):
        refused = await desk.zita.post(f"/endpoints/{made}/suspend", data={"reason": reason})
        assert refused.status_code == 422
        assert "Say in a few words why" in refused.text
    assert (await desk.post.held(made)).status is Status.active


async def test_forms_need_the_scope_and_the_service_s_own_page(
    service: FastAPI, desk: Desk, baltica: Receiver
) -> None:
    made, owed = await _failed_once(desk.post, baltica)
    paths = [
        f"/deliveries/{owed.webhook_id}/redeliver",
        *(f"/endpoints/{made}/{verb}" for verb in ("suspend", "resume", "test")),
    ]
    async with visitor(service, "yuri", "dashboard:read", "rules:write") as yuri:
        for path in paths:
            refused = await yuri.post(path, data={"reason": "For a laugh."})
            assert refused.status_code == 403, path
            assert "scope subscriptions:write" in refused.text, path
        page = await yuri.get(f"/endpoints/{made}")
        assert "Your key has not the scope" in page.text
        assert f"{made}/suspend" not in re.sub(r"<code>.*?</code>", "", page.text)
    for path in paths:
        there = {"Sec-Fetch-Site": "cross-site"}
        foreign = await desk.zita.post(path, data={"reason": "For a laugh."}, headers=there)
        assert foreign.status_code == 403, path
        assert "Not from here" in foreign.text, path
    desk.zita.cookies.clear()
    for path in paths:
        assert (await desk.zita.post(path)).headers["location"].startswith("/sign-in"), path
    assert (await desk.post.held(made)).status is Status.active
    assert await desk.audit() == []


# --- words ------------------------------------------------------------------------------------------


def _endpoint(status: str, health: Health, ready_at: datetime | None = None) -> EndpointHealth:
    return EndpointHealth(
        subscription=SubscriptionId("sub_x"), partner="baltica", url="https://b.example/", status=status,
        reason="gone: the endpoint answered 410" if status == "suspended" else "",
        created_at=NOW, suspended_at=NOW if status == "suspended" else None, ready_at=ready_at,
        health=health, owed=1 if ready_at else 0, oldest_owed_at=None, delivered=0, failed=0,
        given_up=0, hours=(), last_error="", last_error_at=None, speed=Speed(),
    )  # fmt: skip


SINCE = NOW - timedelta(days=2, hours=12)
SOON = NOW + timedelta(minutes=4)


@pytest.mark.parametrize(
    ("endpoint", "stands", "comes"),
    [
        (_endpoint("active", Health()), "active", "Nothing waits; the next event goes out at once."),
        (
            _endpoint("active", Health(), SOON),
            "active",
            "The next of what is owed goes out at 2026-11-25 03:04:00 UTC (in 4 min).",
        ),
        (
            _endpoint("pending", Health(), SOON),
            "pending: it has not answered its challenge yet",
            ("It is asked again at 2026-11-25 03:04:00 UTC (in 4 min); until it answers its challenge "
            "nothing else is sent."),
        ),
        (
            _endpoint("suspended", Health()),
            "suspended since 2026-11-25 03:00:00 UTC (just now) because gone: the endpoint answered 410",
            ("Nothing is sent until it is resumed; what is owed waits for it for 30 days and stays in "
            "the pull feed."),
        ),
        (
            _endpoint("active", Health(failures=12, failing_since=SINCE, open_until=SOON), SOON),
            ("failing since 2026-11-22 15:00:00 UTC (2 days ago), 12 tries in a row; "
            "breaker open until 2026-11-25 03:04:00 UTC (in 4 min)"),
            ("Next try at 2026-11-25 03:04:00 UTC (in 4 min); after 5 days without success it is "
            "suspended: 50 % of the way, if two messages at least 12 h apart fail."),
        ),
        (
            _endpoint(
                "active",
                Health(failures=1, failing_since=SINCE, failed_apart=True, pause_until=SOON),
            ),
            ("failing since 2026-11-22 15:00:00 UTC (2 days ago), 1 try in a row; "
            "paused until 2026-11-25 03:04:00 UTC (in 4 min) because it asked (Retry-After)"),
            ("It is tried again with the next event; after 5 days without success it is suspended: "
            "50 % of the way."),
        ),
    ],
)  # fmt: skip
def test_an_endpoint_says_how_it_stands_and_what_comes_next(
    endpoint: EndpointHealth, stands: str, comes: str
) -> None:
    assert "; ".join(delivery_words.standing(endpoint, NOW)) == stands
    kept = timedelta(days=30)
    assert delivery_words.what_next(endpoint, Patience(), kept, NOW) == comes


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.0041, "4 ms"), (0.9996, "1.0 s"), (9.94, "9.9 s"), (34, "34 s"), (400, "7 min")],  # noqa: RUF001 - as shown
)  # fmt: skip
def test_measured_times_are_said_so_that_they_can_be_compared(
    seconds: float | None, said: str
) -> None:
    assert words.lapse(seconds) == said
