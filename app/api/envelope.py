"""Around every request: its id, its limit, its line in the log, and a calm answer when we fail."""

from __future__ import annotations

import re
import secrets
from time import perf_counter

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.api.problems import Problem

_SOUND_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class Envelope:
    """The outermost layer of the service, as plain ASGI: it costs the hot path microseconds."""

    def __init__(self, app: ASGIApp, *, body_limit_bytes: int) -> None:
        self._app = app
        self._limit = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and writes one line about it when it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request.state.request_id = request_id = _request_id(request)
        started = perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        try:
            if _declared_length(request) > self._limit:
                await self._too_large().answer(request_id)(scope, receive, sending)
            else:
                await self._app(scope, self._limited(receive), sending)
        except ClientDisconnect:
            request.state.fault = "the caller hung up"
        except Exception:  # The last line: whatever it is, the caller gets an answer.
            telemetry.line("request.failed", level="error", exc_info=True, request_id=request_id)
            if status:  # The answer had begun; the server will break the connection off.
                raise
            problem = Problem(
                "internal", "Something failed on our side; it was recorded under the request's id."
            )
            await problem.answer(request_id)(scope, receive, sending)
        finally:
            self._tell(request, status, perf_counter() - started)

    def _too_large(self) -> Problem:
        return Problem("too-large", f"A body may have at most {self._limit} bytes.")

    def _limited(self, receive: Receive) -> Receive:
        read = 0

        async def receiving() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise HTTPException(413, self._too_large().detail)
            return message

        return receiving

    def _tell(self, request: Request, status: int, seconds: float) -> None:
        route = getattr(request.scope.get("route"), "path", "unmatched")
        method = request.method if request.method in _METHODS else "other"
        telemetry.requests.labels(method, route, str(status)).inc()
        telemetry.request_seconds.labels(method, route).observe(seconds)
        if request.url.path in _QUIET and status < 500:
            return
        caller = getattr(request.state, "caller", None)
        fault = getattr(request.state, "fault", None)
        telemetry.line(
            "request.answered",
            level="warning" if status >= 500 else "info",
            method=request.method,
            path=request.url.path,
            status=status,
            request_id=request.state.request_id,
            milliseconds=round(seconds * 1000, 2),
            **({"partner": caller.partner, "key": caller.key_id} if caller else {}),
            **({"fault": fault} if fault else {}),
        )


def _request_id(request: Request) -> str:
    """The caller's own id where it is harmless, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _SOUND_ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"


def _declared_length(request: Request) -> int:
    given = request.headers.get("content-length", "")
    return int(given[:18]) if given.isascii() and given.isdigit() else 0
