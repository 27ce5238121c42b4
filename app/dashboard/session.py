"""Signing in: an operator's key once, then a sealed cookie for twelve hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app import store
from app.dashboard import frame
from app.dashboard.frame import SignInNeeded, Visitor
from app.house import House, house
from app.seals import SealBroken

COOKIE = "forewarn_session"
LASTS = timedelta(hours=12)
SCOPE = "dashboard:read"

router = APIRouter(include_in_schema=False, route_class=frame.Page)

Here = Annotated[House, Depends(house)]


async def visitor(request: Request, here: Here) -> Visitor:
    """Who is signed in; a dependency of every page.

    The key behind the cookie is looked up each time, so revoking it ends the session.

    Raises:
        SignInNeeded: nobody is.
    """
    if not here.settings.dashboard_sign_in:
        return Visitor()
    now = datetime.now(UTC)
    key_id = _key_in(here, request.cookies.get(COOKIE, ""), now)
    if key_id is None:
        raise SignInNeeded
    async with here.database.begin() as connection:
        key = await store.partners.key(connection, key_id)
    if key is None or not key.is_live(now) or not key.scopes & {SCOPE, "admin"}:
        raise SignInNeeded
    return Visitor(key.partner.name, key.id, key.scopes)


@router.get("/sign-in", name="show_sign_in")
async def show_sign_in(request: Request, here: Here, next: str = "/") -> Response:
    """The form."""
    if not here.settings.dashboard_sign_in:
        return RedirectResponse("/", status_code=303)
    return _form(request, next)


@router.post("/sign-in")
async def sign_in(
    request: Request,
    here: Here,
    key: Annotated[str, Form(max_length=200)] = "",
    next: Annotated[str, Form(max_length=2_000)] = "/",
) -> Response:
    """Takes a key and gives a cookie."""
    if not from_ourselves(request):
        return frame.trouble(
            request, 403, "Not from here", "Sign in on this service's own page, please."
        )
    now = datetime.now(UTC)
    caller = await request.app.state.key_ring.caller(key.strip(), now)
    if caller is None:
        return _form(request, next, "This key is unknown, revoked or expired.", 401)
    if not caller.may(SCOPE):
        return _form(request, next, f"This key is live, but it has not the scope {SCOPE}.", 403)
    response = RedirectResponse(safe(next), status_code=303)
    response.set_cookie(
        COOKIE,
        here.seals.seal("dashboard cookie", caller.key_id.encode(), now).decode(),
        max_age=int(LASTS.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Forgets the cookie."""
    if not from_ourselves(request):
        return frame.trouble(
            request, 403, "Not from here", "Sign out on this service's own page, please."
        )
    response = RedirectResponse("/sign-in", status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def refusal(request: Request, who: Visitor, scope: str, instead: str) -> HTMLResponse | None:
    """Why nothing is changed for this visitor, if so.

    ``instead`` is what somebody who has a key and no sign-in may ask the API for.
    """
    if not from_ourselves(request):
        said = "Use the form on this service's own page, please."
        return frame.trouble(request, 403, "Not from here", said)
    if not who.key_id:
        said = "Nobody is signed in here, and every change is written down with who made it."
        return frame.trouble(request, 403, "Who is it?", f"{said} Use {instead} with a key.")
    if not who.may(scope):
        said = f"Your key has not the scope {scope}."
        return frame.trouble(request, 403, "This key may not do that", said)
    return None


def _form(request: Request, target: str, fault: str = "", status: int = 200) -> HTMLResponse:
    response = frame.page(request, "sign_in", None, target=safe(target), fault=fault)
    response.status_code = status
    return response


def _key_in(here: House, cookie: str, now: datetime) -> str | None:
    """The id of the key that signed in, if the cookie is ours and has not run out."""
    try:
        sealed = cookie.encode("ascii")
        return here.seals.unseal("dashboard cookie", sealed, now, lasts=LASTS).decode()
    except (SealBroken, UnicodeEncodeError):
        return None


def safe(target: str) -> str:
    """An address on this service, whatever was asked for."""
    harmless = target.startswith("/") and not target.startswith(("//", "/\\"))
    printable = target.isprintable() and "\\" not in target
    return target if harmless and printable else "/"


def from_ourselves(request: Request) -> bool:
    """Whether a form was sent from our own page; browsers that do not say at all are believed.

    Over plain http to another machine they say only the ``Origin``.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
