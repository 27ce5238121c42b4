"""What the queue reads: as much as is due, and not as much as is owed.

Asserts on PostgreSQL's own count of the rows it read, so that no clock is part of it.
"""

from __future__ import annotations

import asyncpg
from sqlalchemy import text

from tests.app.post_office import NEON, Post
from tests.app.receiver import receiver

BACKLOG = 5_000
ENDPOINTS, EACH = 30, 30
ROWS_A_DELIVERY = 40
"""Read whole for each of 30 endpoints, a queue of 900 would be read thirty times over in every statement."""

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


async def test_plans_made_while_the_queue_was_all_but_empty_do_not_read_it_whole_when_it_is_full(
    post: Post, database_url: str
) -> None:
    """Plans are kept, and nobody analyses a table in the minute in which it fills."""
    async with receiver() as anyone:
        endpoints = [await post.active(anyone) for _ in range(ENDPOINTS)]
        async with post.database.begin() as connection:
            await connection.execute(text("ANALYZE deliveries"))
            await connection.execute(text("ANALYZE subscriptions"))
        sender = post.sender()
        for _ in range(ROUNDS):
            await post.owe(endpoints[0], NEON)
            await post.round(sender)
        for endpoint in endpoints:
            await post.owe(endpoint, *range(1, EACH + 1))
        await post.round(sender)
        assert set(await post.states(endpoints[-1])) == {"delivered"}
        read = await _rows_read(post, database_url)
        assert read / (ENDPOINTS * EACH) < ROWS_A_DELIVERY


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
