"""Versions of profiles in the database: kept once, never changed, the newest in use."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app import documents, store
from app.database import Database
from app.documents import ProfileDocument
from app.store.profiles import VersionRefused

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 4, 1, 12, tzinfo=UTC)
TEXT = (Path(__file__).with_name("house-watch.yaml")).read_text("utf-8")


def version(number: int, title: str = "House watch") -> ProfileDocument:
    """The house watch under another version and title."""
    text = TEXT.replace("\nversion: 1\n", f"\nversion: {number}\n", 1)
    return documents.read_profile(text.replace("title: House watch", f"title: {title}"))


async def keep(database: Database, document: ProfileDocument, now: datetime = NOW) -> bool:
    async with database.begin() as connection:
        return await store.profiles.keep(connection, document, now)


async def in_use(database: Database) -> store.profiles.Kept:
    async with database.begin() as connection:
        return (await store.profiles.newest(connection))["house-watch"]


async def test_a_profile_is_kept_once_and_read_back_as_it_was(database: Database) -> None:
    assert await keep(database, version(1))
    assert not await keep(database, version(1), LATER)
    kept = await in_use(database)
    assert (kept.version, kept.loaded_at) == (1, NOW)
    assert kept.sha256 == version(1).sha256
    assert documents.profile_from_document(kept.content) == version(1).profile


async def test_a_higher_version_comes_into_use(database: Database) -> None:
    await keep(database, version(1))
    assert await keep(database, version(2, "Second"), LATER)
    assert (await in_use(database)).content["title"] == "Second"


async def test_a_change_without_a_new_version_is_refused(database: Database) -> None:
    await keep(database, version(1))
    with pytest.raises(VersionRefused, match="give the new text version 2"):
        await keep(database, version(1, "Changed"))
    assert (await in_use(database)).content["title"] == "House watch"


async def test_an_older_process_may_still_bring_the_version_it_knows(database: Database) -> None:
    await keep(database, version(1))
    await keep(database, version(2, "Second"))
    assert not await keep(database, version(1))
    assert (await in_use(database)).version == 2


async def test_a_version_older_than_the_newest_cannot_be_slipped_in(database: Database) -> None:
    await keep(database, version(3))
    with pytest.raises(VersionRefused, match="version 3 is already in use: give it version 4"):
        await keep(database, version(2))


async def test_a_changed_comment_is_no_change(database: Database) -> None:
    await keep(database, version(1))
    commented = documents.read_profile("# Reviewed in March.\n" + TEXT)
    assert not await keep(database, commented)


async def test_of_many_processes_that_start_at_once_one_keeps_it(database: Database) -> None:
    kept = await asyncio.gather(*(keep(database, version(1)) for _ in range(8)))
    assert sorted(kept) == [False] * 7 + [True]


async def test_of_two_that_bring_different_texts_at_once_one_is_refused(database: Database) -> None:
    texts = [version(1), version(1, "Changed")]
    outcomes = await asyncio.gather(
        *(keep(database, text) for text in texts), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["VersionRefused", "bool"]


async def test_each_mechanism_has_its_own_versions(database: Database) -> None:
    house = version(7)
    other = replace(
        house,
        profile=replace(house.profile, id="other-watch", version=1),
        content={**house.content, "id": "other-watch", "version": 1},
    )
    await keep(database, house)
    assert await keep(database, other)
    async with database.begin() as connection:
        found = await store.profiles.newest(connection)
    assert {name: kept.version for name, kept in found.items()} == {
        "house-watch": 7,
        "other-watch": 1,
    }
