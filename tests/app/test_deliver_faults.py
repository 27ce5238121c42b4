"""What goes wrong stops only itself: poison, lost databases, stops, foreign keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import text

from alerts.retries import Outcome
from app import deliver
from app.database import Database
from app.outbound import Outbound
from tests.app.post_office import GALLIUM, NEON, Post, failing, running
from tests.app.receiver import Answer, Heard, consenting, receiver


class _Breaks(Outbound):
    """A way out with a fault of ours, for one endpoint."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        if b'"n": "poison"' in body:
            raise RuntimeError("a fault of ours")
        return await super().post(url, headers, body)


async def test_a_delivery_that_cannot_be_sent_stops_only_itself(post: Post) -> None:
    async with receiver() as baltica:
        sound, unsealable = await post.active(baltica), await post.active(baltica)
        async with post.database.begin() as connection:
            await connection.execute(
                text(
                    "UPDATE subscription_secrets SET sealed = '\\x00' WHERE subscription_id = :id"
                ),
                {"id": unsealable},
            )
        await post.owe(unsealable, NEON)
        await post.owe(sound, NEON, note="poison")
        await post.owe(sound, GALLIUM)
        with structlog.testing.capture_logs() as lines:
            await post.round(post.sender(_Breaks))
        assert await post.states(sound) == ["owed", "delivered"]
        assert await post.states(unsealable) == ["owed"]
        assert [h.body["data"]["alert"] for h in baltica.events()] == [GALLIUM]
        broken = [line for line in lines if line["event"] == "delivery.broken"]
        assert len(broken) == 1
        errors = {line["error"] for line in lines if line["event"] == "delivery.attempted"}
        assert errors == {"internal", "no_secret", None}
        tries = await post.attempts((await post.deliveries(unsealable))[1])
        assert "nothing is sent unsigned" in tries[0].reason


async def test_an_answer_that_no_text_can_hold_is_recorded_all_the_same(post: Post) -> None:
    async def binary(heard: Heard) -> Answer:
        if heard.type == "webhook.verify":
            return await consenting(heard)
        return 500, b"\x00\xff\xed\xa0\x80 " + b"x" * 9_000

    async with receiver(binary) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        await post.round(post.sender())
        (tried,) = await post.attempts((await post.deliveries(made))[1])
        assert tried.excerpt.startswith("\N{REPLACEMENT CHARACTER}" * 2)
        assert len(tried.excerpt.encode()) <= 4_096 + 4 * 3


async def test_postgresql_may_go_away_and_come_back(
    post: Post, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "AWAY_SECONDS", 0.1)
    monkeypatch.setattr(deliver, "POLL_SECONDS", 0.1)
    name = database_url.rsplit("/", 1)[1]
    elsewhere = Database(database_url.rsplit("/", 1)[0] + "/postgres")
    post.stack.push_async_callback(elsewhere.close)

    async def close_the_door(shut: bool) -> None:
        async with elsewhere.begin() as connection:
            await connection.execute(
                text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {not shut}")
            )
        if shut:
            async with elsewhere.begin() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n"
                    ),
                    {"n": name},
                )

    answer_now = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        if heard.type != "webhook.verify":
            await answer_now.wait()
        return await consenting(heard)

    async with receiver(slow) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        async with running(post.sender()):
            await baltica.hear(2)
            await close_the_door(True)
            answer_now.set()  # the answer comes while there is nowhere to record it
            await asyncio.sleep(0.5)
            await close_the_door(False)
            for _ in range(200):
                if await post.states(made) == ["delivered"]:
                    break
                await asyncio.sleep(0.05)
            await post.owe(made, NEON)
            await baltica.hear(3)
        assert set(baltica.times_heard().values()) == {1}  # what was known was not sent again
        assert await post.states(made) == ["delivered"] * 2


async def test_a_debt_is_heard_of_at_its_commit_and_not_only_by_looking(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "POLL_SECONDS", 3_600)
    async with receiver() as baltica:
        made = await post.active(baltica)
        async with running(post.sender()):
            await post.owe(made, NEON)
            await baltica.hear(2, within_seconds=5)
            await post.owe(made, NEON, NEON)
            await baltica.hear(4, within_seconds=5)


async def test_a_sender_that_stops_records_what_is_under_way_and_claims_nothing_more(
    post: Post,
) -> None:
    async def slow(heard: Heard) -> Answer:
        await asyncio.sleep(0.3)
        return await consenting(heard)

    async with receiver(slow) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON, NEON)
        sender = post.sender()
        async with running(sender):
            await baltica.hear(2)
        assert await post.states(made) == ["delivered", "owed"]
        assert len(baltica.events()) == 1


async def test_each_attempt_is_one_line_with_its_ids_and_without_secrets(post: Post) -> None:
    async with receiver(failing(500)) as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        with structlog.testing.capture_logs() as lines:
            await post.round(post.sender())
        (line,) = [line for line in lines if line["event"] == "delivery.attempted"]
        assert {name: line[name] for name in ("subscription", "type", "alert_id", "attempt")} == {
            "subscription": made,
            "type": "alert.updated",
            "alert_id": NEON,
            "attempt": 1,
        }
        assert (line["verdict"], line["status"], line["error"]) == ("retry", 500, "http_5xx")
        assert baltica.secrets[0] not in str(line)
        assert baltica.events()[0].headers["webhook-signature"] not in str(line)


async def test_another_deployments_key_sends_nothing(post: Post) -> None:
    async with receiver() as baltica:
        made = await post.active(baltica)
        await post.owe(made, NEON)
        other = replace(
            post, settings=post.settings.model_copy(update={"secret_key": SecretStr("o" * 40)})
        )
        await other.round(other.sender())
        assert baltica.events() == []
        assert await post.states(made) == ["owed"]
