"""The way of the busiest routes: from the envelope straight to the function.

Starlette and FastAPI lay layers around every function, for what most of ours want of them. A route that wants
nothing but the request needs none, and they took a fifth of what it costs to answer for one signal.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems
from app.api.later import Later


class Plain(APIRoute):
    """A route whose function wants nothing but the request, and which has no parameters in its path."""


class Straight:
    """Answers the plain routes; every other request goes on to the router, theirs with other methods too,
    when the routes that come later are there.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute], later: Later) -> None:
        self._app = app
        self._later = later
        self._plain: dict[tuple[str, str], Plain] = {}
        for route in routes:
            if isinstance(route, Plain):
                assert not route.param_convertors, f"{route.path} has parameters"
                for method in route.methods or ():
                    self._plain.setdefault((method, route.path), route)  # The first wins, as ever.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, a failure as everywhere; what nobody expected is raised."""
        route = (
            self._plain.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        )
        if route is None:
            if not self._later.are_there:
                await self._later.come()
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # As the router notes it.
        request = Request(scope, receive)
        try:
            response: Response = await route.endpoint(request)
        except Exception as error:
            told = await problems.answer(request, error)
            if told is None:
                raise
            response = told
        await response(scope, receive, send)
