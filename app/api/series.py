"""Series: what is measured, and the value that counts at each instant."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from alerts.signals import SeriesId
from app import store
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, page, place_of
from app.api.problems import Problem
from app.house import House, house
from app.store.dossiers import SeriesRow

router = APIRouter(tags=["series"])

Code = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
Reader = Annotated[Caller, Depends(needs("signals:read"))]
Here = Annotated[House, Depends(house)]
MOST_SAMPLES = 1_000


class SeriesShown(BaseModel):
    """One series: the signals of one indicator or event, sector, good, place and exercise in time."""

    id: int
    sector: str
    indicator: str = Field(description="The code of the indicator, or of the event.")
    good: str | None
    place: str | None
    exercise: str | None
    unit: str = Field(description="Of every value of the series; empty for events.")
    last_observed_at: datetime | None
    last_value: float | None
    last_received_at: datetime | None
    observations: int
    retired_before: datetime | None = Field(
        default=None,
        description="What was observed of its sector before then has been retired in part or whole by the "
        "retention policy. Told of one series, not in lists.",
    )


class SeriesList(BaseModel):
    """A page of series by id."""

    items: list[SeriesShown]
    next: str | None


class SampleShown(BaseModel):
    """The value that counts at one instant."""

    observed_at: datetime
    value: float = Field(description="The median over partners of each one's newest revision.")
    partners: int = Field(description="How many partners the value is made of.")
    revision: int = Field(description="The highest revision among them; 1 when none was revised.")
    received_at: datetime = Field(description="When the last of them was received.")


class SampleList(BaseModel):
    """A page of samples, oldest first."""

    items: list[SampleShown]
    next: str | None


@router.get("/v1/series", summary="List series", response_model=SeriesList)
async def list_series(
    request: Request,
    response: Response,
    _: Reader,
    here: Here,
    sector: Code = None,
    indicator: Code = None,
    good: Code = None,
    place: Code = None,
    exercise: Code = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """Series by id, narrowed by any of the parameters; an empty one means "not limited to one"."""
    (last,) = place_of(after, int) or (0,)
    key = {
        "sector": sector,
        "indicator": indicator,
        "good": good,
        "place": place,
        "exercise": exercise,
    }
    wanted = {column: code for column, code in key.items() if code is not None}
    async with here.database.begin() as connection:
        rows = await store.dossiers.series_list(connection, last, limit + 1, wanted)
    following = cursor(rows[limit - 1].id) if len(rows) > limit else None
    return page(request, response, [_shown(here, row) for row in rows[:limit]], following)


@router.get("/v1/series/{series_id}", summary="One series", response_model=SeriesShown)
async def show_series(series_id: Id, _: Reader, here: Here) -> SeriesShown:
    """A series and where it stands."""
    async with here.database.begin() as connection:
        row = await store.dossiers.one_series(connection, SeriesId(series_id))
        if row is None:
            raise Problem("not-found", f"There is no series {series_id}.")
        shown = _shown(here, row)
        shown.retired_before = await store.retirement.retired_before(connection, row.key.sector)
    return shown


@router.get(
    "/v1/series/{series_id}/samples", summary="The samples of a series", response_model=SampleList
)
async def list_samples(
    series_id: Id,
    request: Request,
    response: Response,
    _: Reader,
    here: Here,
    since: Annotated[
        AwareDatetime | None, Query(alias="from", description="The first instant wanted.")
    ] = None,
    until: Annotated[
        AwareDatetime | None, Query(alias="to", description="The instant to stop before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_SAMPLES)] = MOST_SAMPLES,
    after: After = None,
) -> dict[str, object]:
    """Samples oldest first, one an instant: corrected values as they now stand, retracted ones not."""
    (behind,) = place_of(after, datetime.fromisoformat) or (None,)
    async with here.database.begin() as connection:
        if await store.dossiers.one_series(connection, SeriesId(series_id)) is None:
            raise Problem("not-found", f"There is no series {series_id}.")
        found = await store.dossiers.samples(
            connection, SeriesId(series_id), since, until, limit + 1, behind=behind
        )
    shown = [
        SampleShown(
            observed_at=s.observed_at,
            value=s.value,
            partners=s.partners,
            revision=s.revision,
            received_at=s.received_at,
        )
        for s in found[:limit]
    ]
    following = cursor(found[limit - 1].observed_at.isoformat()) if len(found) > limit else None
    return page(request, response, shown, following)


def _shown(here: House, row: SeriesRow) -> SeriesShown:
    key = row.key
    return SeriesShown(
        id=row.id,
        sector=key.sector,
        indicator=key.indicator,
        good=key.good or None,
        place=key.place or None,
        exercise=key.exercise or None,
        unit=here.policy.brief(key).unit,
        last_observed_at=row.last_observed_at,
        last_value=row.last_value,
        last_received_at=row.last_received_at,
        observations=row.observations,
    )
