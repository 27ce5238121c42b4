"""Shelves: an operator quietens a rule, a series, or a rule on a series, until an instant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from alerts.explanation import instant
from alerts.signals import SeriesId
from app import rulebook, store
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, page, place_of
from app.api.rules import Reason, actor, told
from app.house import House, house
from app.store.shelves import Shelf

router = APIRouter(tags=["shelves"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Writer = Annotated[Caller, Depends(needs("rules:write"))]
Here = Annotated[House, Depends(house)]
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
Code = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]


class ShelfBody(BaseModel):
    """What to quieten: a rule everywhere, a series under every rule, or one rule on one series."""

    model_config = ConfigDict(extra="forbid")

    mechanism: str = Field(default="", max_length=100, pattern=r"^[^\x00]*$")
    rule: str = Field(
        default="", max_length=100, pattern=r"^[^\x00]*$", description="Named with its mechanism."
    )
    series_id: int | None = Field(default=None, ge=1, le=2**63 - 1)
    until: AwareDatetime = Field(
        description=f"When it ends by itself; at most {rulebook.LONGEST_SHELF.days} days ahead."
    )
    reason: Reason


class ShelfEnd(BaseModel):
    """Why a shelf ends before its time."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason


class ShelfShown(BaseModel):
    """One shelf. It is never deleted, only over."""

    id: int
    mechanism: str | None
    rule: str | None
    series_id: int | None
    on: bool = Field(description="Whether it quietens anything now.")
    reason: str
    created_at: str
    created_by: str
    until: str
    ended_at: str | None = Field(description="When it was ended before its time.")
    ended_by: str | None
    ended_reason: str | None


class ShelfList(BaseModel):
    """A page of shelves, newest first."""

    items: list[ShelfShown]
    next: str | None


@router.post("/v1/shelves", status_code=201, summary="Shelve", response_model=ShelfShown)
async def make_shelf(
    body: ShelfBody, response: Response, caller: Writer, here: Here
) -> dict[str, object]:
    """Quietens something until an instant, with a reason.

    It is judged and recorded as before, and neither opens an alert nor weighs in one. Whoever
    was told that an alert opened is told when it is over.
    """
    now = datetime.now(UTC)
    with told():
        async with here.database.begin() as connection:
            made = await rulebook.shelve(
                connection,
                here.policy,
                mechanism=body.mechanism,
                rule=body.rule,
                series=None if body.series_id is None else SeriesId(body.series_id),
                until=body.until,
                reason=body.reason,
                actor=actor(caller),
                now=now,
            )
    await here.rulebook.renew()
    response.headers["Location"] = f"/v1/shelves/{made.id}"
    return shown(made, now)


@router.get("/v1/shelves", summary="List shelves", response_model=ShelfList)
async def list_shelves(
    request: Request,
    response: Response,
    _: Reader,
    here: Here,
    on: Annotated[bool | None, Query(description="Only those that are on, or are over.")] = None,
    mechanism: Code = None,
    rule: Code = None,
    series_id: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """What is and was quietened, newest first, narrowed by any of the parameters."""
    (before,) = place_of(after, int) or (None,)
    now = datetime.now(UTC)
    async with here.database.begin() as connection:
        found = await store.shelves.listing(
            connection,
            now,
            before=before,
            limit=limit + 1,
            is_on=on,
            mechanism=mechanism,
            rule=rule,
            series=None if series_id is None else SeriesId(series_id),
        )
    following = cursor(found[limit - 1].id) if len(found) > limit else None
    return page(request, response, [shown(shelf, now) for shelf in found[:limit]], following)


@router.post("/v1/shelves/{id}/end", summary="End a shelf", response_model=ShelfShown)
async def end_shelf(id: Id, body: ShelfEnd, caller: Writer, here: Here) -> dict[str, object]:
    """Ends a shelf before its time; what it quietened is looked at again within a minute or so."""
    now = datetime.now(UTC)
    with told():
        async with here.database.begin() as connection:
            ended = await rulebook.end_shelf(
                connection, id, actor=actor(caller), reason=body.reason, now=now
            )
    await here.rulebook.renew()
    return shown(ended, now)


def shown(shelf: Shelf, now: datetime) -> dict[str, object]:
    """A shelf as the API has it."""
    return {
        "id": shelf.id,
        "mechanism": shelf.mechanism or None,
        "rule": shelf.rule or None,
        "series_id": shelf.series,
        "on": shelf.is_on(now),
        "reason": shelf.reason,
        "created_at": instant(shelf.created_at),
        "created_by": shelf.created_by,
        "until": instant(shelf.until),
        "ended_at": instant(shelf.ended_at),
        "ended_by": shelf.ended_by or None,
        "ended_reason": shelf.ended_reason or None,
    }
