"""Deliveries: what is owed to one endpoint, how each try went, and sending one again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from alerts.explanation import instant
from alerts.payloads import VERIFY
from alerts.retries import Decision
from app import store, subscribe
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, page, place_of
from app.api.problems import Problem
from app.api.subscriptions import event_data, owned, the_one
from app.database import Connection
from app.house import House, house
from app.store.delivery_log import Attempt, Delivery
from app.store.subscriptions import Subscription
from app.subscribe import WrongState

router = APIRouter(tags=["deliveries"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Writer = Annotated[Caller, Depends(needs("subscriptions:write"))]
Here = Annotated[House, Depends(house)]

State = Literal["owed", "delivered", "failed", "superseded", "expired", "withdrawn"]


class DeliveryShown(BaseModel):
    """One event owed to one endpoint."""

    id: str = Field(description="The `webhook-id` on every try.")
    subscription: str
    sequence: int
    type: str
    alert: str | None = Field(description="The reference of the alert it tells of.")
    state: State = Field(
        description="`failed`: the retries are spent, or the endpoint did not want it; `superseded`: a newer "
        "one of the same alert was sent instead; `expired`: a suspended endpoint was away for too long; "
        "`withdrawn`: there is no endpoint left to send it to."
    )
    attempts: int = Field(description="How many tries are recorded.")
    created_at: str
    due_at: str | None = Field(
        description="The earliest next try; null when there is none, or while the subscription waits."
    )
    finished_at: str | None
    links: dict[str, str]


class AttemptShown(BaseModel):
    """One HTTP try."""

    number: int
    at: str
    verdict: Decision
    reason: str
    status: int | None
    error: str | None = Field(description="A code; docs/webhooks.md explains each.")
    milliseconds: float = Field(description="The whole try, to the last byte of the answer.")
    sent_after: float | None = Field(
        description="Milliseconds until the first byte of the request was sent; null if it never was."
    )
    answered_after: float | None = Field(
        description="Milliseconds until the head of the answer was read; null if there was none."
    )
    answer_headers: dict[str, str] = Field(
        description="The headers of the answer that matter here."
    )
    excerpt: str = Field(description="The beginning of the answer; not of one to a challenge.")


class DeliveryDetail(DeliveryShown):
    """A delivery with every try and the data it carries."""

    history: list[AttemptShown]
    data: dict[str, Any]


class DeliveryList(BaseModel):
    """A page of deliveries, the newest first."""

    items: list[DeliveryShown]
    next: str | None


@router.get(
    "/v1/subscriptions/{id}/deliveries",
    summary="A subscription's deliveries",
    response_model=DeliveryList,
)
async def list_deliveries(
    id: str,
    request: Request,
    response: Response,
    caller: Reader,
    here: Here,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """Everything owed to a subscription so far, the newest first, whatever became of it."""
    (before,) = place_of(after, int) or (None,)
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id)
        found = await store.delivery_log.listing(
            connection, held.id, state=state, before=before, limit=limit + 1
        )
    following = cursor(found[limit - 1].sequence) if len(found) > limit else None
    return page(request, response, [_shown(d) for d in found[:limit]], following)


@router.get("/v1/deliveries/{id}", summary="One delivery", response_model=DeliveryDetail)
async def show_delivery(id: str, caller: Reader, here: Here) -> dict[str, object]:
    """A delivery with every try: when, how long, the answer's beginning, and what it was taken for."""
    async with here.database.begin() as connection:
        _, found = await _find(connection, caller, id)
        history = await store.delivery_log.attempts_of(connection, found.id)
    return {
        **_shown(found),
        "history": [_tried(found, attempt) for attempt in history],
        "data": event_data(found),
    }


@router.post(
    "/v1/deliveries/{id}/redeliver",
    status_code=202,
    summary="Send one again",
    response_model=DeliveryShown,
)
async def redeliver(id: str, caller: Writer, here: Here) -> dict[str, object]:
    """Sends an event once more under the same id, or at once if it waits for a retry.

    The retry schedule begins anew. Nothing waits behind an event that was finished before. One that
    waits for an earlier event of its alert, or is under way, stays as it is.
    """
    async with here.database.begin() as connection:
        held, found = await _find(connection, caller, id, lock=True)
        try:
            await subscribe.redeliver(connection, held, found, datetime.now(UTC))
        except WrongState as error:
            raise Problem("conflict", str(error)) from None
        _, found = await _find(connection, caller, id)
    return _shown(found)


async def _find(
    connection: Connection, caller: Caller, webhook_id: str, *, lock: bool = False
) -> tuple[Subscription, Delivery]:
    place = store.deliveries.place_of(webhook_id)
    if place is not None:
        held = await owned(connection, caller, place[0], lock=lock)
        found = held and await store.delivery_log.find(connection, *place)
        if held and found:
            return held, found
    raise Problem("not-found", f"There is no delivery {webhook_id[:100]!r}.")


def _shown(delivery: Delivery) -> dict[str, object]:
    alert = delivery.alert_ref
    links = {
        "self": f"/v1/deliveries/{delivery.webhook_id}",
        "subscription": f"/v1/subscriptions/{delivery.subscription_id}",
    }
    return {
        "id": delivery.webhook_id,
        "subscription": delivery.subscription_id,
        "sequence": delivery.sequence,
        "type": delivery.type,
        "alert": alert,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "created_at": instant(delivery.created_at),
        "due_at": instant(delivery.due_at),
        "finished_at": instant(delivery.finished_at),
        "links": {**links, "alert": f"/v1/alerts/{alert}"} if alert else links,
    }


def _tried(delivery: Delivery, attempt: Attempt) -> dict[str, object]:
    """A try. What an endpoint said to a challenge may repeat it, and is for nobody to read: whoever
    could, could confirm an endpoint that only echoes.
    """
    asked = delivery.type == VERIFY
    return {
        "number": attempt.number,
        "at": instant(attempt.at),
        "verdict": attempt.verdict,
        "reason": attempt.reason,
        "status": attempt.status,
        "error": attempt.error or None,
        "milliseconds": attempt.milliseconds,
        "sent_after": attempt.sent_after,
        "answered_after": attempt.answered_after,
        "answer_headers": attempt.answer_headers,
        "excerpt": "" if asked else attempt.excerpt,
    }
