"""What the queue reads: as much as is due, and not as much as is owed.

Asserts on PostgreSQL's own count of the rows it read, so that no clock is part of it.
"""

from __future__ import annotations

import asyncpg
from sqlalchemy import text

from tests.app.post_office import NEON, Post
from tests.app.receiver import receiver

BACKLOG = 5_000
ROUNDS = 10
"""Enough for PostgreSQL to have made the plans it keeps: it does from the sixth execution on."""


async def test_a_backlog_of_one_endpoint_is_not_read_for_what_is_sent_to_another(
    post: Post, database_url: str
) -> None:
    """The statistics are those of an empty queue, as they mostly are when something breaks."""
    async with receiver() as baltica, receiver() as away:
        sound, down = await post.active(baltica), await post.active(away)
        await away.down()
        async with post.database.begin() as connection:
            await connection.execute(text("ANALYZE deliveries"))
            await connection.execute(text("ANALYZE subscriptions"))
        await post.owe(down, *range(1, BACKLOG + 1))
        sender = post.sender()
        await post.round(sender)
        before = await _rows_read(post, database_url)
        for _ in range(ROUNDS):
            await post.owe(sound, NEON, NEON)
            await post.round(sender)
        assert set(await post.states(sound)) == {"delivered"}
        assert await _rows_read(post, database_url) - before < BACKLOG


async def _rows_read(post: Post, database_url: str) -> int:
    """Entries of indexes and rows of whole tables read so far, of deliveries."""
    await post.database.close()  # A connection that ends tells what it has read.
    connection = await asyncpg.connect(database_url)
    try:
        found = await connection.fetchval(
            "SELECT sum(i.idx_tup_read) + (SELECT t.seq_tup_read FROM pg_stat_user_tables AS t "
            "WHERE t.relname = 'deliveries') FROM pg_stat_user_indexes AS i "
            "WHERE i.relname = 'deliveries'"
        )
    finally:
        await connection.close()
    return int(found)
