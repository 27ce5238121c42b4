"""The frame around every page: templates, headers, files, and what is shown when a page cannot be."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from alerts.explanation import instant
from app.dashboard import words
from app.database import DatabaseAway, ValueRefused

HERE = Path(__file__).parent
STATIC = HERE / "static"
CONTENT_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
AWAY_RETRY_SECONDS = 5
FOR_EVER = "public, max-age=31536000, immutable"

_UNBROKEN = re.compile(r"\d{4}-\d\d-\d\d|[-+]?\d[\d,.]* ?%|[-+]\d[\d,.]*")
_SENTENCES_REMEMBERED = 2_048
_files = StaticFiles(directory=STATIC)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is looking, and what their key opens; the name is empty where nobody is asked to sign in."""

    name: str = ""
    key_id: str = ""
    scopes: frozenset[str] = frozenset()

    def may(self, scope: str) -> bool:
        """Whether their key opens doors of that scope."""
        return scope in self.scopes or "admin" in self.scopes


class SignInNeeded(Exception):
    """Nobody is signed in, or no longer."""


class Missing(Exception):
    """There is no such thing to show; the message is a sentence."""


class Page(APIRoute):
    """A route of pages: its failures are pages too, and every answer carries our headers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with the frame around it."""
        show = super().get_route_handler()

        async def framed(request: Request) -> Response:
            try:
                response = await show(request)
            except SignInNeeded:
                response = _to_sign_in(request)
            except Missing as error:
                response = trouble(request, 404, "There is nothing here", str(error))
            except (RequestValidationError, ValueRefused):
                detail = f"{request.url.path} is no address of this service."
                response = trouble(request, 404, "There is nothing here", detail)
            except DatabaseAway as error:
                request.state.fault = str(error)
                response = _away(request)
            for name, value in HEADERS.items():
                response.headers[name] = value
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return framed


def page(
    request: Request,
    name: str,
    who: Visitor | None,
    *,
    part: str = "",
    status: int = 200,
    **shown: Any,
) -> HTMLResponse:
    """The page of that name, or only its moving part, where it has one, when htmx asks."""
    chosen = f"parts/{part}" if part and "hx-request" in request.headers else name
    template = _templates().get_template(f"{chosen}.html")
    html = template.render(who=who, path=request.url.path, **shown)
    return HTMLResponse(html, status_code=status, headers={"Vary": "HX-Request"})


def trouble(request: Request, status: int, title: str, detail: str) -> HTMLResponse:
    """A page that says why there is no page."""
    html = (
        _templates()
        .get_template("trouble.html")
        .render(who=None, path=request.url.path, title=title, detail=detail)
    )
    return HTMLResponse(html, status_code=status)


async def file(path: str, request: Request) -> Response:
    """A static file; one asked for by its content's sum may be kept for ever."""
    try:
        response = await _files.get_response(path, request.scope)
    except HTTPException as error:
        raise Missing(f"There is no file {path}.") from error
    lasting = "v" in request.query_params
    response.headers["Cache-Control"] = FOR_EVER if lasting else "no-cache"
    return response


def _away(request: Request) -> Response:
    detail = "The database is away. Nothing is known to be lost; this page tries again by itself."
    response = trouble(request, 503, "The board cannot be read just now", detail)
    response.headers["Retry-After"] = str(AWAY_RETRY_SECONDS)
    response.headers["Refresh"] = str(AWAY_RETRY_SECONDS)
    return response


def _to_sign_in(request: Request) -> Response:
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    asked = request.url_for("show_sign_in").include_query_params(next=here)
    target = f"{asked.path}?{asked.query}"
    if "hx-request" in request.headers:
        page_there = request.url_for("show_sign_in").path
        return Response(status_code=401, headers={"HX-Redirect": page_there})
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
        # A link from a chat or a mail: the browser keeps a strict cookie back on this request
        # and sends it with the next one, which comes from ourselves.
        return HTMLResponse(_templates().get_template("again.html").render(target=here))
    return RedirectResponse(target, status_code=303)


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        ago=words.ago,
        ahead=words.ahead,
        amount=words.amount,
        capital=words.capital,
        change=words.change,
        clock=words.clock,
        day=words.day,
        in_an_address=words.in_an_address,
        harmless=words.harmless,
        instant=instant,
        lapse=words.lapse,
        level=words.level,
        pace=words.pace,
        prose=_prose,
        span=words.span,
        what_changed=words.what_changed,
    )
    made.globals.update(
        asset=_asset, delivered=words.DELIVERED, severity_of=words.severity_of, trend=words.trend
    )
    return made


# By type as well: what is markup already equals a text that is none.
@functools.lru_cache(_SENTENCES_REMEMBERED, typed=True)
def _prose(sentence: str) -> Markup:
    """A sentence, escaped, in which dates and numbers do not break at the end of a line."""
    whole = _UNBROKEN.sub(r'<span class="whole">\g<0></span>', str(escape(sentence)))
    return Markup(whole)  # noqa: S704 - escaped a line above


@functools.cache
def _asset(path: str) -> str:
    """The address of a static file, with the sum of its content."""
    found = hashlib.sha256((STATIC / path).read_bytes()).hexdigest()[:12]
    return f"/static/{path}?v={found}"
