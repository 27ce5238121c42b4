"""Around every request: its id, its limit, its line in the log, and a calm answer when we fail."""

from __future__ import annotations

import itertools
import re
import secrets
from functools import lru_cache
from time import perf_counter
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.api.bodies import Bodies, Body, too_large
from app.api.problems import Problem

_SOUND_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_SMALL_BODY_BYTES = 65_536
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class Envelope:
    """The outermost layer of the service, as plain ASGI: it costs the hot path microseconds."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        bodies: Bodies,
        ingest_limit_bytes: int,
        body_timeout_seconds: float,
    ) -> None:
        self._app = app
        self._bodies = bodies
        self._ingest_limit = ingest_limit_bytes
        self._patience = body_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and writes one line about it when it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The dictionary behind ``request.state``, which costs more to ask than to read.
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id = _request_id(scope)
        started = perf_counter()
        status = 0
        limit = self._limit_of(scope["path"])
        body = Body(self._bodies, receive, limit, self._patience)
        state["body"] = body

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
                if scope["app"].state.house.draining:
                    headers["Connection"] = "close"  # The next one shall go to another process.
                for name, value in state.get("quota", ()):
                    headers[name] = value
            await send(message)

        try:
            if _declared_length(scope) > limit:
                telemetry.refusals.labels("body").inc()
                await too_large(limit).answer(request_id)(scope, receive, sending)
            else:
                await self._app(scope, body.receive, sending)
        except ClientDisconnect:
            state["fault"] = "the caller hung up"
        except Exception:  # The last line: whatever it is, the caller gets an answer.
            telemetry.line("request.failed", level="error", exc_info=True, request_id=request_id)
            if status:  # The answer had begun; the server will break the connection off.
                raise
            problem = Problem(
                "internal", "Something failed on our side; it was recorded under the request's id."
            )
            await problem.answer(request_id)(scope, receive, sending)
        finally:
            body.let_go()
            # Else it and the server's request hold each other until the collector comes by.
            del state["body"]
            self._tell(scope, status, perf_counter() - started)

    def _limit_of(self, path: str) -> int:
        """Only signals come in bulk; every other body is small."""
        return self._ingest_limit if path.startswith("/v1/signals") else _SMALL_BODY_BYTES

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        count, time = _meters(method, route, status)
        count.inc()
        time.observe(seconds)
        path, state = scope["path"], scope["state"]
        if path in QUIET and status < 500:
            return
        caller, fault, counts = state.get("caller"), state.get("fault"), state.get("counts")
        telemetry.line(
            "request.answered",
            level="warning" if status >= 500 else "info",
            method=scope["method"],
            path=path,
            status=status,
            request_id=state["request_id"],
            milliseconds=round(seconds * 1000, 2),
            **({"partner": caller.partner, "key": caller.key_id} if caller else {}),
            **({"signals": counts} if counts else {}),
            **({"fault": fault} if fault else {}),
        )


@lru_cache(maxsize=1_024)
def _meters(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """What counts such requests: to find it by its labels costs several times as much as to count."""
    return (
        telemetry.requests.labels(method, route, str(status)),
        telemetry.request_seconds.labels(method, route),
    )


# A random number for each would be a system call for each.
_PROCESS = secrets.token_hex(5)
_numbers = itertools.count(1)


def _request_id(scope: Scope) -> str:
    """The caller's own id where it is harmless, else a new one."""
    given = _header(scope, b"x-request-id")
    if given and _SOUND_ID.fullmatch(given):
        return given
    return f"req_{_PROCESS}{next(_numbers):06x}"


def _declared_length(scope: Scope) -> int:
    given = _header(scope, b"content-length")
    return int(given[:18]) if given.isascii() and given.isdigit() else 0


def _header(scope: Scope, name: bytes) -> str:
    """A header of a request, empty where there is none: Starlette's layers cost five times as much."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""
