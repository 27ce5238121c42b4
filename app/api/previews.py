"""What you would have received: a filter, or a subscription's, asked of the alerts of past days."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from alerts.explanation import instant
from alerts.routing import Filter
from app import preview, store
from app.access import Caller, needs
from app.api.problems import Problem
from app.api.subscriptions import FilterBody, the_one, wish_of
from app.house import Crowded, House, house
from app.preview import Preview
from app.store.transition_log import Past

router = APIRouter(tags=["subscriptions"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Here = Annotated[House, Depends(house)]

MOST_DAYS = 90

_AGAIN_SECONDS = 2

_DAYS = "How many days back to look."


class PreviewBody(BaseModel):
    """A filter to try."""

    model_config = ConfigDict(extra="forbid")

    filter: FilterBody = Field(default_factory=FilterBody)
    days: int = Field(default=MOST_DAYS, ge=1, le=MOST_DAYS, description=_DAYS)


class Previewed(BaseModel):
    """One event as it would have come, in short."""

    type: str
    timestamp: str = Field(description="When it would have become owed.")
    at: str = Field(description="Observation time.")
    ref: str
    severity: str
    level: str
    title: str
    why: str
    link: str


class LeftOutPreviewed(Previewed):
    """One event that would not have come."""

    reason: str = Field(description="Why it would not.")


class LeftOutCounts(BaseModel):
    """How many events would not have come."""

    filtered: int = Field(description="By the filter.")
    exercise: int = Field(description="Because they are drills, and the filter takes none.")
    folded: int = Field(description="Because a summary told of their alerts.")


class PreviewShown(BaseModel):
    """What a filter would have let through. Challenges, tests and `endpoint.*` are not part of it."""

    days: int
    since: str = Field(
        description="From when on transitions were examined: `days` ago, or later where there are "
        "more than are examined."
    )
    transitions_examined: int
    most_examined: int = Field(description="Of more transitions the newest are examined.")
    is_whole: bool = Field(description="Whether all transitions of these days were examined.")
    events: int
    alerts: int = Field(description="Of how many alerts these events tell.")
    per_day: float = Field(description="Events a day since `since`.")
    by_type: dict[str, int]
    items: list[Previewed] = Field(description="The newest of the events, the newest first.")
    left_out: LeftOutCounts
    examples_left_out: list[LeftOutPreviewed] = Field(
        description="Some of the newest that would not have come, a few for each reason."
    )


@router.post("/v1/subscriptions/preview", summary="Try a filter", response_model=PreviewShown)
async def preview_filter(body: PreviewBody, _: Reader, here: Here) -> dict[str, object]:
    """What a subscription with this filter would have received in the last days. Makes nothing."""
    return await _preview(here, wish_of(here, body.filter), body.days)


@router.get(
    "/v1/subscriptions/{id}/preview",
    summary="Try a subscription's filter",
    response_model=PreviewShown,
)
async def preview_subscription(
    id: str,
    caller: Reader,
    here: Here,
    days: Annotated[int, Query(ge=1, le=MOST_DAYS, description=_DAYS)] = MOST_DAYS,
) -> dict[str, object]:
    """What a subscription's filter, as it is now, would have let through in the last days."""
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id)
    return await _preview(here, held.filter, days)


async def _preview(here: House, wish: Filter, days: int) -> dict[str, object]:
    now = datetime.now(UTC)
    try:
        with here.previews.one():
            async with here.database.begin() as connection:
                found = await preview.preview(connection, wish, now - timedelta(days=days))
                shown = [*found.newest, *(past for past, _ in found.examples)]
                said = await store.transition_log.published(connection, [past.id for past in shown])
    except Crowded:
        raise Problem(
            "too-many-requests",
            f"{here.previews.most} previews are being made; ask again in a moment.",
            headers={"Retry-After": str(_AGAIN_SECONDS)},
            retryable=True,
        ) from None
    return _shown(found, said, days, now)


def _shown(
    found: Preview, said: Mapping[int, Mapping[str, Any]], days: int, now: datetime
) -> dict[str, object]:
    events = found.events.total()
    span = max(now - found.since, timedelta(minutes=1))
    return {
        "days": days,
        "since": instant(found.since),
        "transitions_examined": found.examined,
        "most_examined": preview.MOST_EXAMINED,
        "is_whole": found.is_whole,
        "events": events,
        "alerts": len(found.alerts),
        "per_day": round(events / (span / timedelta(days=1)), 2),
        "by_type": dict(sorted(found.events.items())),
        "items": [_event(past, said[past.id]) for past in found.newest],
        "left_out": {
            "filtered": found.filtered,
            "exercise": found.exercise,
            "folded": found.folded,
        },
        "examples_left_out": [
            {**_event(past, said[past.id]), "reason": why} for past, why in found.examples
        ],
    }


def _event(past: Past, said: Mapping[str, Any]) -> dict[str, object]:
    alert = said["alert"]
    return {
        "type": past.type.value,
        "timestamp": instant(past.recorded_at),
        "at": instant(past.at),
        "ref": past.alert.ref,
        "severity": past.alert.severity.name,
        "level": past.alert.level.name,
        "title": alert["title"],
        "why": alert["why"],
        "link": alert["links"]["self"],
    }
