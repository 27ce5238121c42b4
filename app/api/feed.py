"""The events of a subscription, to be pulled: the same as the webhooks, in sequence, without gaps.

A page is made of an extent, from the oldest sequence kept to the last, read at one instant; its
ETag names all that the page is made of, so it can be compared without reading an event.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, Field

from alerts.explanation import instant
from alerts.routing import SubscriptionId
from app import store, telemetry
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, Limit, page
from app.api.problems import Problem
from app.api.subscriptions import event_data, owned
from app.house import Crowded, House, house
from app.store.delivery_log import Delivery, Extent

router = APIRouter(tags=["subscriptions"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Here = Annotated[House, Depends(house)]

LONGEST_WAIT_SECONDS = 25
"""Shorter than the half minute after which proxies give up on a silent answer."""

_LOOK_EVERY_SECONDS = 1.0
_AGAIN_SECONDS = 5


class Event(BaseModel):
    """One event exactly as its webhook carries it, and its `webhook-id`."""

    id: str
    type: str
    timestamp: str
    sequence: int
    data: dict[str, Any]


class EventList(BaseModel):
    """A page of events in sequence; `next` is the last sequence of it while there are more."""

    items: list[Event]
    next: str | None
    oldest: int = Field(
        description="The oldest sequence that is kept. Whoever has none from `oldest` - 1 on has come too "
        "late for some."
    )
    last: int = Field(description="The last sequence there is; 0 before the first.")


@router.get(
    "/v1/subscriptions/{id}/events",
    summary="Pull the events",
    response_model=EventList,
    responses={304: {"description": "The page is the one of your `If-None-Match`."}},
)
async def pull_events(
    id: str,
    request: Request,
    response: Response,
    caller: Reader,
    here: Here,
    after: Annotated[
        int, Query(ge=0, lt=2**63, description="The last sequence you have; 0 for the beginning.")
    ] = 0,
    limit: Limit = DEFAULT_LIMIT,
    wait: Annotated[
        int,
        Query(
            ge=0,
            le=LONGEST_WAIT_SECONDS,
            description="Seconds to wait for an event after yours, if there is none yet.",
        ),
    ] = 0,
    if_none_match: Annotated[
        str, Header(description="The `ETag` of the page you have; the same page is answered 304.")
    ] = "",
) -> dict[str, object] | Response:
    """The same events as the webhooks, in sequence without gaps, whether they were delivered or not.

    A receiver that was away compares the sequences it has with these, and has everything again.
    """
    async with here.database.begin() as connection:
        held = await owned(connection, caller, id)
        extent = None if held is None else await store.delivery_log.extent(connection, held.id)
    if held is not None and extent is not None and wait and extent.last <= after:
        extent = await _news(request, here, caller.partner, held.id, after, wait)
    if held is None or extent is None:
        raise Problem("not-found", f"There is no subscription {id[:100]!r}.")
    tag = f'"{held.id}.{after}.{limit}.{extent.oldest}.{extent.last}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if _has(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    async with here.database.begin() as connection:
        read = await store.delivery_log.events(connection, held.id, after=after, limit=limit + 1)
    found = [delivery for delivery in read if delivery.sequence <= extent.last]
    response.headers.update(headers)
    following = str(found[limit - 1].sequence) if len(found) > limit else None
    shown = page(request, response, [_event(d) for d in found[:limit]], following)
    return {**shown, "oldest": extent.oldest, "last": extent.last}


async def _news(
    request: Request,
    here: House,
    whose: str,
    subscription_id: SubscriptionId,
    after: int,
    seconds: int,
) -> Extent | None:
    """The extent once it reaches beyond ``after``, or as it is when the time is up.

    Looks every second, holding no connection in between. Ends early when the caller has hung up
    or the process is stopping.
    """
    until = asyncio.get_running_loop().time() + seconds
    try:
        with here.waiting.one(whose):
            while True:
                async with here.database.begin() as connection:
                    extent = await store.delivery_log.extent(connection, subscription_id)
                left = until - asyncio.get_running_loop().time()
                if extent is None or extent.last > after or left <= 0:
                    return extent
                if here.draining or await request.is_disconnected():
                    return extent
                await asyncio.sleep(min(_LOOK_EVERY_SECONDS, left))
    except Crowded:
        telemetry.refusals.labels("feed").inc()
        raise Problem(
            "too-many-requests",
            "Too many wait already, of yours or of all; ask without `wait`, or again later.",
            headers={"Retry-After": str(_AGAIN_SECONDS)},
            retryable=True,
        ) from None


def _has(if_none_match: str, tag: str) -> bool:
    """Whether the caller has the page of that tag, by weak comparison (RFC 9110, 13.1.2)."""
    given = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return tag in given or given == ["*"]


def _event(delivery: Delivery) -> dict[str, object]:
    return {
        "id": delivery.webhook_id,
        "type": delivery.type,
        "timestamp": instant(delivery.created_at),
        "sequence": delivery.sequence,
        "data": event_data(delivery),
    }
