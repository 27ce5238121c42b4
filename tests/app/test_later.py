"""Routes that a start does not wait for: whoever needs one of them does, and nobody else."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.api.later import Later
from app.api.straight import Plain, Straight


async def _alive(request: Request) -> Response:
    return PlainTextResponse(request.url.path)


async def test_whoever_needs_a_later_route_waits_until_all_are_made_once_and_nobody_else_waits() -> (
    None
):
    may_be_made = threading.Event()
    times_made = 0

    def make() -> list[BaseRoute]:
        nonlocal times_made
        times_made += 1
        assert may_be_made.wait(30)
        return [Route("/page", _alive)]

    first = APIRouter(route_class=Plain)
    first.get("/healthz")(_alive)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes += first.routes
    later = Later(app.router.routes, make)
    app.add_middleware(Straight, routes=first.routes, later=later)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as visitor:
        pages = [asyncio.create_task(visitor.get("/page")) for _ in range(3)]
        assert (await visitor.get("/healthz")).status_code == 200
        assert not any(page.done() for page in pages)
        may_be_made.set()
        assert [(await page).text for page in pages] == ["/page"] * 3
        assert (await visitor.get("/nowhere")).status_code == 404
    assert times_made == 1


async def test_routes_that_could_not_be_made_are_made_by_the_next_who_comes() -> None:
    routes: list[BaseRoute] = []
    made = iter([OSError("no more files"), None])

    def make() -> list[BaseRoute]:
        if fault := next(made):
            raise fault
        return [Route("/page", _alive)]

    later = Later(routes, make)
    with pytest.raises(OSError, match="no more files"):
        await later.come()
    assert not later.are_there
    await later.come()
    await later.come()
    assert len(routes) == 1
