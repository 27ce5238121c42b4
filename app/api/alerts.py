"""Alerts go out to those who ask: the list, one alert, its timeline and its explanation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from alerts import explanation, payloads
from alerts.findings import Finding
from alerts.lifecycle import AlertState
from alerts.mechanisms import Level
from app import store
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, page, place_of
from app.api.problems import Problem
from app.database import Connection
from app.house import House, house

router = APIRouter(tags=["alerts"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Here = Annotated[House, Depends(house)]


class FindingShown(BaseModel):
    """One finding that feeds an alert, in short."""

    rule: str
    series_id: int
    state: str
    severity: str
    value: float | None
    unit: str
    observed_at: str | None


class RecommendationShown(BaseModel):
    """A level the engine recommends people to set, and why."""

    level: str
    reasons: list[str]


class AlertShown(BaseModel):
    """One alert. `opened_at`, `updated_at` and `resolved_at` are observation times."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    ref: str
    mechanism: str
    sector: str
    good: str | None
    place: str | None
    level: str
    state: str
    severity: str
    title: str
    why: str
    opened_at: str
    updated_at: str
    resolved_at: str | None
    recorded_at: str
    validated: bool
    tlp: str
    exercise: str | None
    findings: list[FindingShown]
    recommendation: RecommendationShown | None
    positions: dict[str, str]
    clocks: list[dict[str, Any]]
    references: list[str]
    links: dict[str, str]


class AlertList(BaseModel):
    """A page of alerts, the last moved first."""

    items: list[AlertShown]
    next: str | None


class TransitionList(BaseModel):
    """A page of an alert's transitions, oldest first."""

    items: list[dict[str, Any]]
    next: str | None


@router.get("/v1/alerts", summary="List alerts", response_model=AlertList)
async def list_alerts(
    request: Request,
    response: Response,
    _: Reader,
    here: Here,
    state: Annotated[AlertState | None, Query()] = None,
    mechanism: str | None = None,
    sector: str | None = None,
    good: str | None = None,
    place: str | None = None,
    level: Literal["monitoring", "early_warning", "disruption", "crisis"] | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """Alerts by the time of their last move, newest first, narrowed by any of the parameters."""
    before = place_of(after, datetime.fromisoformat, int)
    wanted: dict[str, object] = {
        "state": state and state.value,
        "mechanism": mechanism,
        "sector": sector,
        "good": good,
        "place": place,
        "level": None if level is None else int(Level[level]),
    }
    async with here.database.begin() as connection:
        kept = await store.alerts.newest(
            connection,
            before=before,
            limit=limit + 1,
            equal_to={name: value for name, value in wanted.items() if value is not None},
        )
        shown = await _documents(connection, kept[:limit])
    last = kept[limit - 1] if len(kept) > limit else None
    following = None if last is None else cursor(last.alert.updated_at.isoformat(), last.id)
    return page(request, response, shown, following)


@router.get("/v1/alerts/{ref}", summary="One alert", response_model=AlertShown)
async def show_alert(ref: str, _: Reader, here: Here) -> dict[str, object]:
    """An alert as its last transition left it, with its findings as they stand now."""
    async with here.database.begin() as connection:
        kept = await _find(connection, ref)
        return (await _documents(connection, [kept]))[0]


@router.get(
    "/v1/alerts/{ref}/timeline", summary="An alert's transitions", response_model=TransitionList
)
async def show_timeline(
    ref: str,
    request: Request,
    response: Response,
    _: Reader,
    here: Here,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """Every transition of an alert as it was published, oldest first."""
    (number,) = place_of(after, int) or (0,)
    async with here.database.begin() as connection:
        kept = await _find(connection, ref)
        found = await store.alerts.timeline(connection, kept.id, after=number, limit=limit + 1)
    following = cursor(found[limit - 1]["number"]) if len(found) > limit else None
    return page(request, response, found[:limit], following)


@router.get("/v1/alerts/{ref}/explanation", summary="Why an alert stands where it stands")
async def show_explanation(ref: str, _: Reader, here: Here) -> dict[str, Any]:
    """The findings behind the newest transition as data: values, baselines, bands, rule versions,
    what was missing, and what would have to happen for each to clear.
    """
    async with here.database.begin() as connection:
        kept = await _find(connection, ref)
        explanations = await store.alerts.last_explanations(connection, [kept.id])
        retired = await store.retirement.retired_before(connection, kept.alert.scope.sector)
    # What was said then stands; the signals behind it may be kept no longer.
    gone = retired is not None and retired > kept.alert.opened_at
    return {
        "ref": ref,
        **explanations[kept.id],
        "retired_before": explanation.instant(retired) if gone else None,
    }


async def _find(connection: Connection, ref: str) -> store.alerts.Kept:
    kept = None if "\x00" in ref else await store.alerts.by_ref(connection, ref)
    if kept is None:
        raise Problem("not-found", f"There is no alert {ref}.")
    return kept


async def _documents(
    connection: Connection, kept: list[store.alerts.Kept]
) -> list[dict[str, object]]:
    """The alerts as documents, with the findings of open ones as they stand now.

    A finding may recover, or lack what it compares with, without any transition of its alert.
    """
    ids = [k.id for k in kept]
    explanations = await store.alerts.last_explanations(connection, ids)
    present = {
        (found.alert_id, found.key[0], found.key[2]): found.finding
        for found in await store.findings.of_alerts(connection, ids)
    }
    return [
        payloads.alert_document(
            k.alert,
            [
                _as_it_stands(said, present.get((k.id, said["series_id"], said["rule"])))
                for said in explanations[k.id]["findings"]
            ],
        )
        for k in kept
    ]


def _as_it_stands(said: Mapping[str, Any], finding: Finding | None) -> Mapping[str, Any]:
    if finding is None:
        return said
    return {
        **said,
        "state": finding.state.value,
        "severity": finding.severity.name,
        "value": finding.value,
        "observed_at": explanation.instant(finding.observed_at),
    }
