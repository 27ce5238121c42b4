"""Keys: what they open, how long, and that nothing of their secret is kept."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app import access
from app.access import IssuedKey, KeyRefused, KeyRing
from app.database import Connection, Database, DatabaseAway
from app.store import partners

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


async def _issue(
    database: Database, name: str = "aurora", role: str = "partner", **more: object
) -> IssuedKey:
    async with database.begin() as connection:
        return await access.issue_key(connection, name=name, role=role, now=NOW, **more)  # type: ignore[arg-type]


async def test_a_key_says_who_is_calling_and_for_whom(database: Database) -> None:
    key = await _issue(database, party="EU")
    caller = await KeyRing(database).caller(key.token, NOW)
    assert caller is not None
    assert (caller.partner, caller.party, caller.role) == ("aurora", "EU", "partner")
    assert caller.may("signals:write")
    assert not caller.may("admin")


async def test_admin_opens_every_door(database: Database) -> None:
    key = await _issue(database, role="admin", scopes=["admin"])
    caller = await KeyRing(database).caller(key.token, NOW)
    assert caller is not None
    assert all(caller.may(scope) for scope in access.SCOPES)


async def test_the_secret_of_a_key_is_nowhere_in_the_database(database: Database) -> None:
    key = await _issue(database)
    secret = key.token.split("_", 2)[2]
    async with database.begin() as connection:
        row = (await connection.execute(text("SELECT keys::text FROM keys"))).scalar_one()
    assert secret not in row
    assert secret.encode().hex() not in row


async def test_a_wrong_secret_opens_nothing(database: Database) -> None:
    key = await _issue(database)
    ring = KeyRing(database)
    wrong = [
        key.token[:-1],
        key.token + "x",
        key.token.replace("fw_", "sk_"),
        f"fw_{key.id}_",
        f"fw_{key.id}",
        "fw__x",
        "",
        "fw_\x00_x",
    ]
    assert [await ring.caller(token, NOW) for token in wrong] == [None] * len(wrong)


@pytest.mark.parametrize(
    ("later", "opens", "because"),
    [
        (timedelta(hours=1) - timedelta(microseconds=1), True, "the last instant of its life"),
        (timedelta(hours=1), False, "a key is dead at the very instant it expires"),
    ],
)
async def test_a_key_expires(
    database: Database, later: timedelta, opens: bool, because: str
) -> None:
    key = await _issue(database, expires_at=NOW + timedelta(hours=1))
    found = await KeyRing(database).caller(key.token, NOW + later)
    assert (found is not None) is opens, because


async def test_many_who_show_one_key_at_the_same_time_ask_the_database_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, asked, look = await _issue(database), [], partners.key

    async def count(connection: Connection, key_id: str) -> partners.Key | None:
        asked.append(key_id)
        return await look(connection, key_id)

    monkeypatch.setattr(partners, "key", count)
    ring = KeyRing(database)
    showing = [asyncio.create_task(ring.caller(key.token, NOW)) for _ in range(20)]
    await asyncio.sleep(0)
    showing[0].cancel()  # Whoever hangs up takes nothing from the others.
    first, *others = await asyncio.gather(*showing, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert {getattr(caller, "key_id", None) for caller in others} == {key.id}
    assert asked == [key.id]


async def test_a_database_that_was_away_is_asked_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, ring = await _issue(database), KeyRing(database)

    async def away(*_: object) -> None:
        raise DatabaseAway("away")

    with monkeypatch.context() as patch:
        patch.setattr(partners, "key", away)
        told = await asyncio.gather(
            *(ring.caller(key.token, NOW) for _ in range(3)), return_exceptions=True
        )
        assert [type(error) for error in told] == [DatabaseAway] * 3
    assert await ring.caller(key.token, NOW) is not None


async def test_a_revoked_key_opens_nothing_for_a_process_that_has_not_just_seen_it(
    database: Database,
) -> None:
    key = await _issue(database)
    remembering = KeyRing(database)
    assert await remembering.caller(key.token, NOW) is not None
    async with database.begin() as connection:
        assert await partners.revoke(connection, key.id, NOW)
        assert not await partners.revoke(connection, key.id, NOW), "it was revoked before"
    assert await KeyRing(database).caller(key.token, NOW) is None
    assert await remembering.caller(key.token, NOW) is not None, "remembered for ten seconds"


async def test_a_key_just_used_opens_while_the_database_is_away(database: Database) -> None:
    key = await _issue(database)
    ring = KeyRing(database)
    await ring.caller(key.token, NOW)
    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE keys RENAME TO keys_away"))
    assert await ring.caller(key.token, NOW) is not None


async def test_a_partner_has_at_most_two_live_keys(database: Database) -> None:
    first = await _issue(database)
    second = await _issue(database)
    assert first.id != second.id
    with pytest.raises(KeyRefused, match="Revoke one first"):
        await _issue(database)
    async with database.begin() as connection:
        await partners.revoke(connection, first.id, NOW)
    await _issue(database)


async def test_a_second_key_is_for_the_same_partner(database: Database) -> None:
    ring = KeyRing(database)
    callers = [await ring.caller((await _issue(database, party=p)).token, NOW) for p in ("EU", "")]
    assert {(c.partner_id, c.party) for c in callers if c} == {(callers[0].partner_id, "EU")}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"role": "king"}, "the roles are admin, operator, partner, subscriber"),
        ({"scopes": ["alerts:read", "signals:eat"]}, "There is no scope signals:eat"),
        ({"name": "  "}, "needs the name"),
        ({"name": "aurora\n[warning] baltica"}, "one line"),
        ({"name": "a" * 201}, "at most 200"),
        ({"party": "US"}, "acts for party EU, not for US"),
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(
    database: Database, asked: dict[str, object], says: str
) -> None:
    await _issue(database, party="EU")
    with pytest.raises(KeyRefused, match=says):
        await _issue(database, **asked)  # type: ignore[arg-type]


async def test_the_use_of_a_key_is_noted_at_most_once_a_minute(database: Database) -> None:
    key = await _issue(database)
    for seconds in (0, 59, 60):
        await KeyRing(database).caller(key.token, NOW + timedelta(seconds=seconds))
        async with database.begin() as connection:
            found = await partners.key(connection, key.id)
        assert found is not None
        assert found.last_used_at == NOW + timedelta(seconds=60 if seconds == 60 else 0)
