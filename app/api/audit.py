"""Who changed what, when and why. Read only; `forewarn audit verify` follows the chain."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from alerts.explanation import instant
from app import store
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, page, place_of
from app.house import House, house
from app.store.audit import Recorded

router = APIRouter(tags=["audit"])

Reader = Annotated[Caller, Depends(needs("rules:write"))]
Here = Annotated[House, Depends(house)]
Word = Annotated[str | None, Query(max_length=300, pattern=r"^[^\x00]*$")]


class ChangeShown(BaseModel):
    """One change, in the transaction that made it."""

    id: int = Field(description="Without gaps.")
    at: str
    partner: str = Field(description="`service` for what no person did.")
    key_id: str | None
    action: str = Field(examples=["rule.changed"])
    subject: str = Field(examples=["rules/supply-watch/global-pressure"])
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str
    hash: str = Field(description="SHA-256 of this row and of the hash before it.")


class ChangeList(BaseModel):
    """A page of changes, newest first."""

    items: list[ChangeShown]
    next: str | None


@router.get("/v1/audit", summary="Who changed what", response_model=ChangeList)
async def list_changes(
    request: Request,
    response: Response,
    _: Reader,
    here: Here,
    subject: Word = None,
    action: Word = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """Changes of rules, shelves and profiles, and what operators did to endpoints, newest first."""
    (before,) = place_of(after, int) or (None,)
    async with here.database.begin() as connection:
        found = await store.audit.listing(
            connection, before=before, limit=limit + 1, subject=subject, action=action
        )
    following = cursor(found[limit - 1].id) if len(found) > limit else None
    return page(request, response, [_shown(row) for row in found[:limit]], following)


def _shown(row: Recorded) -> dict[str, object]:
    return {
        "id": row.id,
        "at": instant(row.at),
        "partner": row.actor.partner,
        "key_id": row.actor.key_id or None,
        "action": row.action,
        "subject": row.subject,
        "before": None if row.before is None else json.loads(row.before),
        "after": None if row.after is None else json.loads(row.after),
        "reason": row.reason,
        "hash": row.hash.hex(),
    }
