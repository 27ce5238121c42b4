"""Whether the process lives, whether it is of use, and what it counts."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app import telemetry
from app.api import problems
from app.api.straight import Plain
from app.house import house

router = APIRouter(tags=["health"], route_class=Plain)


@router.get("/healthz", summary="Is the process alive?", response_model=dict[str, str])
async def show_health(_: Request) -> Response:
    """Always 200; asks nobody else, so that a restart is only caused by what a restart mends."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    summary="Should requests be sent here?",
    responses={503: {"description": "Not now: the database is away, or the process is stopping."}},
)
async def show_readiness(request: Request) -> Response:
    """200 when the database answers within two seconds and the process is not stopping."""
    here = await house(request)
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
async def show_metrics(request: Request) -> Response:
    """Metrics in the OpenMetrics text format."""
    here = await house(request)
    telemetry.body_bytes.set(request.app.state.bodies.held_bytes)
    telemetry.waiting_signals.set(here.intake.waiting)
    return Response(telemetry.scrape(), media_type=telemetry.SCRAPE_CONTENT_TYPE)
