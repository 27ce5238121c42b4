"""Whether the process lives, whether it is of use, and what it counts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from app import telemetry
from app.api import problems
from app.house import House, house

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is the process alive?")
async def show_health() -> dict[str, str]:
    """Always 200; asks nobody else, so that a restart is only caused by what a restart mends."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Should requests be sent here?",
    responses={503: {"description": "Not now: the database is away, or the process is stopping."}},
)
async def show_readiness(request: Request, here: Annotated[House, Depends(house)]) -> Response:
    """200 when the database answers within two seconds and the process is not stopping."""
    if here.draining:
        problem = problems.Problem(
            "draining", "This process is stopping.", headers={"Retry-After": "2"}, retryable=True
        )
        return problem.answer(request.state.request_id)
    ready = await here.database.is_ready()
    telemetry.database_reachable.set(ready)
    if not ready:
        return problems.away().answer(request.state.request_id)
    return JSONResponse({"status": "ready", "role": here.role})


@router.get("/metrics", summary="For Prometheus", response_class=Response)
async def show_metrics(request: Request, here: Annotated[House, Depends(house)]) -> Response:
    """Metrics in the OpenMetrics text format."""
    telemetry.body_bytes.set(request.app.state.bodies.held_bytes)
    telemetry.waiting_signals.set(here.intake.waiting)
    return Response(telemetry.scrape(), media_type=telemetry.SCRAPE_CONTENT_TYPE)
