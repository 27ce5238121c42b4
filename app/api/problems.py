"""Errors as RFC 9457 problem details: the kinds there are, and how everything that fails becomes one.

``docs/errors.md`` describes every kind; a test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app import telemetry
from app.access import NotAllowed, Unauthenticated
from app.database import DatabaseAway, DatabaseBusy, ValueRefused
from app.quotas import Spent

MEDIA_TYPE = "application/problem+json"
AWAY_RETRY_SECONDS = 2
MOST_ERRORS = 100


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its HTTP status, its title, and what a client should do about it."""

    status: int
    title: str
    advice: str

    @property
    def phrase(self) -> str:
        """What HTTP calls its status."""
        return HTTPStatus(self.status).phrase


PROBLEMS: dict[str, Kind] = {
    "malformed-request": Kind(
        400,
        "The request cannot be read",
        "Send well-formed JSON in UTF-8; `detail` says where it breaks.",
    ),
    "unauthenticated": Kind(
        401, "Who is calling?", "Send `Authorization: Bearer fw_...` with a live key."
    ),
    "not-allowed": Kind(
        403, "This key may not do that", "Use a key with the scope that `detail` names."
    ),
    "not-found": Kind(
        404, "There is nothing here", "Check the address; `GET /openapi.json` lists all."
    ),
    "method-not-allowed": Kind(
        405, "That is not done here", "Use one of the methods in the `Allow` header."
    ),
    "not-acceptable": Kind(406, "No such representation", "Ask for one that `detail` lists."),
    "too-slow": Kind(
        408,
        "The request did not come in time",
        "Send the whole request without pauses; nothing was stored.",
    ),
    "conflict": Kind(
        409,
        "Not in this state",
        "The request is sound, but not now; read the resource again, then decide.",
    ),
    "too-large": Kind(
        413, "Too much at once", "Send less in one request; `detail` names the limit."
    ),
    "address-too-long": Kind(
        414, "The address is too long", "Ask for less in one address; `detail` names the limit."
    ),
    "unsupported-media-type": Kind(
        415, "That kind of body is not read here", "Send one of the types that `detail` lists."
    ),
    "invalid": Kind(
        422,
        "Some values cannot be accepted",
        "Each entry of `errors` points at a value and says what would do.",
    ),
    "too-many-requests": Kind(429, "Too many requests", "Wait as long as `Retry-After` says."),
    "head-too-large": Kind(
        431,
        "The headers are too large",
        "Send fewer or shorter headers; `detail` names the limits.",
    ),
    "internal": Kind(
        500, "This is our fault", "Try again; if it persists, give the operator the `request_id`."
    ),
    "busy": Kind(
        503, "The service is behind", "Nothing was stored. Wait as long as `Retry-After` says."
    ),
    "database-away": Kind(
        503,
        "The database is away",
        "Wait as long as `Retry-After` says and send the same again; what was stored counts as a duplicate.",
    ),
    "draining": Kind(
        503,
        "The service is stopping",
        "Wait as long as `Retry-After` says; another process will answer.",
    ),
}

_BY_STATUS = {
    400: "malformed-request",
    401: "unauthenticated",
    403: "not-allowed",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    408: "too-slow",
    409: "conflict",
    413: "too-large",
    414: "address-too-long",
    415: "unsupported-media-type",
    422: "invalid",
    429: "too-many-requests",
    431: "head-too-large",
    503: "busy",
}

_PASSING = frozenset({408, 429, 503})


class Problem(Exception):
    """A request that cannot be answered as asked, and why.

    Args:
        slug: a key of ``PROBLEMS``.
        detail: one sentence about this occurrence.
        errors: what is wrong where: ``{"pointer": "/0/unit", "detail": ..., "allowed": [...]}``.
        headers: more headers, such as ``Retry-After``.
        retryable: whether the very same request may succeed later.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.kind = PROBLEMS[slug]
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.retryable = retryable

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """The problem as JSON. A batch embeds the same for one item, without the request's id."""
        found: dict[str, Any] = {
            "type": f"/problems/{self.slug}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "retryable": self.retryable,
        }
        if self.errors:
            found["errors"] = list(self.errors)
        if request_id is not None:
            found["request_id"] = request_id
        return found

    def answer(self, request_id: str | None = None) -> Response:
        """The problem as a response."""
        return JSONResponse(
            self.document(request_id),
            status_code=self.kind.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


router = APIRouter(tags=["problems"])


@router.get("/problems", summary="Every kind of problem")
async def list_problems() -> dict[str, Any]:
    """What may go wrong, by slug."""
    return {"items": [_described(slug) for slug in PROBLEMS], "next": None}


@router.get("/problems/{slug}", summary="One kind of problem")
async def show_problem(slug: str) -> dict[str, Any]:
    """What the `type` of a problem stands for, and what to do about it."""
    if slug not in PROBLEMS:
        raise Problem("not-found", f"There is no problem {slug!r}; GET /problems lists them.")
    return _described(slug)


def _described(slug: str) -> dict[str, Any]:
    kind = PROBLEMS[slug]
    return {
        "type": f"/problems/{slug}",
        "title": kind.title,
        "status": kind.status,
        "advice": kind.advice,
    }


def install(app: FastAPI) -> None:
    """Makes every failure of a request a problem. Those nobody expected are caught by the envelope."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def answer(request: Request, error: Exception) -> Response | None:
    """The problem that a failure of a request is; None for one that nobody expected."""
    for kind in type(error).__mro__:
        if kind in _HANDLERS:
            return await _HANDLERS[kind](request, error)
    return None


def pointer(path: Iterable[str | int]) -> str:
    """A JSON pointer (RFC 6901); empty for the whole document."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.answer(request.state.request_id)


async def _on_unauthenticated(request: Request, error: Exception) -> Response:
    headers = {"WWW-Authenticate": 'Bearer realm="forewarn"'}
    return Problem("unauthenticated", str(error), headers=headers).answer(request.state.request_id)


async def _on_not_allowed(request: Request, error: Exception) -> Response:
    return Problem("not-allowed", str(error)).answer(request.state.request_id)


async def _on_spent(request: Request, error: Exception) -> Response:
    assert isinstance(error, Spent)
    telemetry.refusals.labels("quota").inc()
    request.state.quota = error.headers
    return Problem("too-many-requests", str(error), retryable=True).answer(request.state.request_id)


async def _on_away(request: Request, error: Exception) -> Response:
    request.state.fault = str(error)
    if isinstance(error, DatabaseBusy):
        telemetry.refusals.labels("readers").inc()
        headers = {"Retry-After": str(AWAY_RETRY_SECONDS)}
        busy = Problem("busy", str(error), headers=headers, retryable=True)
        return busy.answer(request.state.request_id)
    return away().answer(request.state.request_id)


async def _on_refused_value(request: Request, error: Exception) -> Response:
    request.state.fault = str(error.__cause__)
    detail = (
        "A value cannot be kept: a text holds U+0000 or half a character, or a number is too large."
    )
    return Problem("invalid", detail).answer(request.state.request_id)


def away() -> Problem:
    """The problem while the database is unreachable; says nothing about where it is."""
    return Problem(
        "database-away",
        "The database cannot be reached at the moment. Nothing is known to be lost; send the same again.",
        headers={"Retry-After": str(AWAY_RETRY_SECONDS)},
        retryable=True,
    )


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slug = _BY_STATUS.get(error.status_code)
    if slug is None:
        slug = "malformed-request" if error.status_code < 500 else "internal"
    known = error.detail and error.detail != HTTPStatus(error.status_code).phrase
    detail = (
        error.detail if known else f"{request.method} {request.url.path}: {PROBLEMS[slug].title}."
    )
    passes = error.status_code in _PASSING
    problem = Problem(slug, detail, headers=error.headers, retryable=passes)
    return problem.answer(request.state.request_id)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    return _problem_of(faults, request.headers.get("content-type", "")).answer(
        request.state.request_id
    )


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Problem: _on_problem,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
    Unauthenticated: _on_unauthenticated,
    NotAllowed: _on_not_allowed,
    Spent: _on_spent,
    DatabaseAway: _on_away,
    ValueRefused: _on_refused_value,
}


def _problem_of(faults: Sequence[Any], content_type: str) -> Problem:
    broken = next((fault for fault in faults if fault["type"] == "json_invalid"), None)
    if broken is not None:
        reason = broken.get("ctx", {}).get("error", "it breaks off")
        return Problem(
            "malformed-request", f"The body is not JSON: {reason} at character {broken['loc'][-1]}."
        )
    of_body = any(fault["loc"][:1] == ("body",) for fault in faults)
    if of_body and content_type and not _is_json(content_type):
        return Problem(
            "unsupported-media-type",
            f"The body is {content_type.partition(';')[0].strip()}; send application/json.",
        )
    errors = [_error_of(fault) for fault in faults[:MOST_ERRORS]]
    where = errors[0].get("pointer") or errors[0].get("parameter") or "the body"
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return Problem("invalid", f"{where}: {errors[0]['detail']}{more}.", errors=errors)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _error_of(fault: Mapping[str, Any]) -> dict[str, Any]:
    place, *path = fault["loc"]
    detail = str(fault["msg"]).removeprefix("Value error, ")
    where: dict[str, Any] = (
        {"pointer": pointer(path)} if place == "body" else {"parameter": ".".join(map(str, path))}
    )
    expected = str(fault.get("ctx", {}).get("expected", ""))
    if fault["type"] in {"literal_error", "enum"} and expected:
        return {**where, "detail": detail, "allowed": re.findall(r"'([^']*)'", expected)}
    return {**where, "detail": detail}
