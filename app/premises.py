"""The database that the settings name, or the embedded one: found, started, migrated, closed after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from app.database import Database
from app.embedded import Embedded, EmbeddedFailed
from app.settings import Settings


@asynccontextmanager
async def database_of(
    settings: Settings, *, migrate: bool = True
) -> AsyncIterator[tuple[Database, Embedded | None]]:
    """The database that the settings name, or the embedded one: started, migrated, closed after.

    An external database is never migrated here, the embedded one if ``migrate``.

    Raises:
        EmbeddedFailed: the embedded server cannot be used.
    """
    embedded = None
    url = settings.database_url
    if url is None:
        embedded = Embedded(settings.data_dir)
        url = await _started(embedded)
    database = Database(
        url,
        silence_seconds=settings.database_silence_seconds,
    )
    try:
        if embedded is None:
            await database.check_sessions()
        elif migrate:
            await database.migrate()
        yield database, embedded
    finally:
        await database.close()
        if embedded is not None:
            await asyncio.to_thread(embedded.stop)


async def _started(embedded: Embedded) -> str:
    """Its URL. Whoever is cancelled meanwhile leaves it again: the thread cannot be."""
    starting = asyncio.create_task(asyncio.to_thread(embedded.start))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        embedded.give_up()
        with suppress(EmbeddedFailed):
            await starting
        await asyncio.to_thread(embedded.stop)
        raise
