"""What may be reported: sectors, goods, indicators, events, and the levels of every mechanism."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Generic, TypeVar

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from alerts import catalogue
from alerts.catalogue import Catalogue
from alerts.mechanisms import Profile
from app import documents
from app.access import needs
from app.api.problems import Problem
from app.house import House, house

router = APIRouter(tags=["catalogue"], dependencies=[Depends(needs("alerts:read"))])

Here = Annotated[House, Depends(house)]
SectorFilter = Annotated[
    str | None, Query(alias="sector", description="Only what this sector may report.")
]

T = TypeVar("T")


class Listed(BaseModel, Generic[T]):
    """A whole list; ``next`` is null because nothing follows."""

    items: list[T]
    next: None = None


class SectorOut(BaseModel):
    code: str
    title: str


class HsCodeOut(BaseModel):
    code: str = Field(description="Heading or subheading of the Harmonized System.")
    edition: int = Field(description="Edition of the Harmonized System.")


class GoodOut(BaseModel):
    code: str
    title: str
    sectors: list[str]
    hs: list[HsCodeOut]


class PublicationOut(BaseModel):
    after_days: int
    counted_from: str = Field(description="From the observation, or from the first of its month.")
    on_weekday: str | None = Field(description="It comes out on the first such day from then on.")
    source: str


class IndicatorOut(BaseModel):
    code: str
    title: str
    unit: str
    harm: str = Field(description="The direction that does harm: up, down or both.")
    every_days: float = Field(description="The usual gap between observations.")
    sectors: list[str] = Field(description="Sectors that may report it; empty: every sector.")
    minimum: float | None = Field(description="The least possible value.")
    maximum: float | None = Field(description="The greatest possible value.")
    published: PublicationOut | None = Field(description="How late its figures come out.")
    source: str


class EventOut(BaseModel):
    code: str
    title: str
    severity: str = Field(description="Taken when the reporter gives none.")
    sectors: list[str] = Field(description="Sectors that may report it; empty: every sector.")
    source: str


class SectorDetail(SectorOut):
    goods: list[GoodOut]
    indicators: list[IndicatorOut]
    events: list[EventOut]


class SourceOut(BaseModel):
    title: str
    address: str


class SpanOut(BaseModel):
    amount: float
    unit: str
    source: list[str]


class RequirementOut(BaseModel):
    id: str
    text: str


class LevelOut(BaseModel):
    mechanism: str
    version: int
    level: str
    title: str
    meaning: str
    set_by: list[str]
    requires: list[RequirementOut]
    objection_window: SpanOut | None
    lasts_at_most: SpanOut | None
    falls_to: str | None
    report_every: SpanOut | None
    source: list[str]
    sources: dict[str, SourceOut] = Field(description="What the keys in `source` stand for.")


@router.get("/v1/sectors", summary="Sectors")
async def list_sectors(here: Here) -> Listed[SectorOut]:
    """The sectors that signals may be reported for."""
    sectors = here.catalogue.sectors
    return Listed(items=[SectorOut(code=c, title=sectors[c].title) for c in sorted(sectors)])


@router.get("/v1/sectors/{code}", summary="One sector with its goods, indicators and events")
async def show_sector(code: str, here: Here) -> SectorDetail:
    """Everything that may be reported of a sector, what every sector may report included."""
    sector = here.catalogue.sectors.get(code)
    if sector is None:
        raise Problem(
            "not-found", catalogue.unknown("", "sector", code, here.catalogue.sectors).detail
        )
    return SectorDetail(
        code=sector.code,
        title=sector.title,
        goods=_goods(here.catalogue, code),
        indicators=_indicators(here.catalogue, code),
        events=_events(here.catalogue, code),
    )


@router.get("/v1/goods", summary="Goods")
async def list_goods(here: Here, sector: SectorFilter = None) -> Listed[GoodOut]:
    """Goods with their codes in the Harmonized System."""
    return Listed(items=_goods(here.catalogue, _known(here, sector)))


@router.get("/v1/indicators", summary="Indicators")
async def list_indicators(here: Here, sector: SectorFilter = None) -> Listed[IndicatorOut]:
    """What is measured: unit, direction of harm, usual gap, possible range."""
    return Listed(items=_indicators(here.catalogue, _known(here, sector)))


@router.get("/v1/events-catalogue", summary="Events")
async def list_events(here: Here, sector: SectorFilter = None) -> Listed[EventOut]:
    """What may happen, and the severity that is taken when a reporter gives none."""
    return Listed(items=_events(here.catalogue, _known(here, sector)))


@router.get("/v1/levels", summary="Levels of every mechanism")
async def list_levels(
    here: Here,
    mechanism: Annotated[str | None, Query(description="Only this mechanism's.")] = None,
) -> Listed[LevelOut]:
    """What each level means, who sets it, how long it may last, and where that is written."""
    if mechanism is not None and mechanism not in here.profiles:
        known = catalogue.nearest(mechanism, here.profiles)
        detail = f"There is no mechanism {mechanism!r}."
        raise _wrong("mechanism", detail, known)
    profiles = (here.profiles[m] for m in sorted(here.profiles) if mechanism in (None, m))
    return Listed(items=[level for profile in profiles for level in _levels(profile)])


def _known(here: House, sector: str | None) -> str | None:
    if sector is not None and sector not in here.catalogue.sectors:
        fault = catalogue.unknown("", "sector", sector, here.catalogue.sectors)
        raise _wrong("sector", fault.detail, fault.allowed)
    return sector


def _wrong(parameter: str, detail: str, allowed: Iterable[str]) -> Problem:
    error = {"parameter": parameter, "detail": detail, "allowed": list(allowed)}
    return Problem("invalid", f"{parameter}: {detail}", errors=[error])


def _goods(known: Catalogue, sector: str | None) -> list[GoodOut]:
    codes = sorted(known.goods) if sector is None else known.goods_of(sector)
    return [GoodOut.model_validate(documents.plain(known.goods[code])) for code in codes]


def _indicators(known: Catalogue, sector: str | None) -> list[IndicatorOut]:
    codes = sorted(known.indicators) if sector is None else known.indicators_of(sector)
    return [IndicatorOut.model_validate(documents.plain(known.indicators[code])) for code in codes]


def _events(known: Catalogue, sector: str | None) -> list[EventOut]:
    codes = sorted(known.events) if sector is None else known.events_of(sector)
    return [EventOut.model_validate(documents.plain(known.events[code])) for code in codes]


def _levels(profile: Profile) -> list[LevelOut]:
    return [
        LevelOut.model_validate(
            {
                "mechanism": profile.id,
                "version": profile.version,
                "sources": documents.plain(
                    {key: s for key, s in profile.sources.items() if key in policy.source}
                ),
                **fields,
            }
        )
        for policy in profile.levels
        if isinstance(fields := documents.plain(policy), dict)
    ]
