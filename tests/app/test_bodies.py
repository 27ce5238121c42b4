"""Which body gives way when all together hold too much, and that only that one hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message

from app.api.bodies import Bodies, Body

ROOM = 100
LIMIT = 90


def _body(bodies: Bodies, sizes: Iterable[int], *, patience: float = 60) -> Body:
    """A body that comes in parts of these sizes, of which none is the last, and then no more."""
    coming = iter(sizes)

    async def receive() -> Message:
        size = next(coming, 0)
        if not size:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": bytes(size), "more_body": True}

    return Body(bodies, receive, LIMIT, patience)


async def _is_crowded_out(waiting: asyncio.Task[Message]) -> None:
    with pytest.raises(HTTPException) as caught:
        await waiting
    assert caught.value.status_code == 503


async def test_a_body_that_is_waited_for_gives_way_at_once() -> None:
    bodies = Bodies(ROOM)
    stale = _body(bodies, [40])
    await stale.receive()
    waiting = asyncio.create_task(stale.receive())
    await asyncio.sleep(0)
    await _body(bodies, [LIMIT]).receive()
    await _is_crowded_out(waiting)
    assert bodies.held_bytes == LIMIT


async def test_a_body_that_gave_way_between_two_reads_is_not_waited_for_any_more() -> None:
    bodies = Bodies(ROOM)
    stale = _body(bodies, [40])
    await stale.receive()
    await _body(bodies, [LIMIT]).receive()
    await _is_crowded_out(asyncio.create_task(stale.receive()))


async def test_a_body_that_was_answered_before_it_was_whole_gives_way_without_harm_to_another() -> (
    None
):
    bodies = Bodies(ROOM)
    answered = _body(bodies, [40, LIMIT])
    await answered.receive()
    with pytest.raises(HTTPException) as caught:
        await answered.receive()
    assert caught.value.status_code == 413
    await _body(bodies, [LIMIT]).receive()
    answered.let_go()
    assert bodies.held_bytes == LIMIT


async def test_a_body_whose_time_is_just_up_gives_way_without_harm_to_another() -> None:
    bodies = Bodies(ROOM)
    late = _body(bodies, [40], patience=0)
    await late.receive()
    waiting = asyncio.create_task(late.receive())
    while late._wait is None or not late._wait.expired():  # noqa: ASYNC110
        await asyncio.sleep(0)
    await _body(bodies, [LIMIT]).receive()
    await _is_crowded_out(waiting)
    assert bodies.held_bytes == LIMIT
