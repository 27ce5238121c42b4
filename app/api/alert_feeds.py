"""Alerts for the readers of warnings: each as a CAP message, all of them as an Atom feed.

What is TLP:CLEAR and no drill is for everyone; a key with ``alerts:read`` sees the rest as well. For
anyone else the rest is not there: 404, as for what never was.

This file comes before ``alerts`` in the order of names, and must: a reference matches anything, so
``/v1/alerts/{ref}`` would take ``TTC-SEMI-2026-0007.cap`` for one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request, Response

from alerts import payloads
from alerts.payloads import Format, Message, atom, cap, transition_id
from app import store
from app.access import Caller, may_have
from app.api import conditional
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, place_of
from app.api.problems import Problem
from app.database import Connection
from app.house import House, house

router = APIRouter(tags=["alerts"])

Reader = Annotated[Caller | None, Depends(may_have("alerts:read"))]
Here = Annotated[House, Depends(house)]

FEED = "/v1/alerts.atom"
KEPT_FOR = timedelta(days=30)
"""How long an alert that ended stays in the feed, so that its end is seen and not only its absence."""

_MOST_NUMBER = 2**31 - 1
_VERSION = payloads.VERSIONS[Format.cap][-1]


def _documents(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"content": {media_type: {"schema": {"type": "string"}}}},
        304: {"description": "You hold the same."},
        404: {"description": "There is none, or none for you."},
    }


@router.head(FEED, include_in_schema=False)
@router.get(
    FEED,
    summary="Alerts as a feed",
    response_class=Response,
    responses=_documents(atom.CONTENT_TYPE),
)
async def show_feed(
    request: Request,
    reader: Reader,
    here: Here,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Response:
    """Every alert that is open or ended in the last 30 days, the last told first, as Atom.

    It is the index of CAP messages too: each entry links to its newest one.
    """
    (before,) = place_of(after, int) or (None,)
    async with here.database.begin() as connection:
        found = await store.alerts.newest_told(
            connection,
            before=before,
            limit=limit + 1,
            ended_since=datetime.now(UTC) - KEPT_FOR,
            public_only=reader is None,
        )
    shown = found[:limit]
    following = cursor(shown[-1].id) if len(found) > limit else None
    body = atom.write(
        [_entry(one) for one in shown],
        here.settings.public_url or "",
        path=FEED,
        this=_page(limit, after),
        following=None if following is None else _page(limit, following),
    )
    newest = max((one.recorded_at for one in shown), default=datetime(1970, 1, 1, tzinfo=UTC))
    return conditional.answer(request, body, atom.CONTENT_TYPE, newest, is_public=reader is None)


@router.head("/v1/alerts/{ref}.cap", include_in_schema=False)
@router.get(
    "/v1/alerts/{ref}.cap",
    summary="An alert's newest CAP message",
    response_class=Response,
    responses=_documents(cap.CONTENT_TYPE),
)
async def show_newest_message(ref: str, request: Request, reader: Reader, here: Here) -> Response:
    """The newest transition of an alert in the Common Alerting Protocol 1.2."""
    return await _message(ref, None, request, reader, here)


@router.head("/v1/alerts/{ref}/{number}.cap", include_in_schema=False)
@router.get(
    "/v1/alerts/{ref}/{number}.cap",
    summary="One transition as a CAP message",
    response_class=Response,
    responses=_documents(cap.CONTENT_TYPE),
)
async def show_message(
    ref: str, number: int, request: Request, reader: Reader, here: Here
) -> Response:
    """A transition as it was told, under the identifier that later messages refer to it by."""
    return await _message(ref, number, request, reader, here)


async def _message(
    ref: str, number: int | None, request: Request, reader: Caller | None, here: House
) -> Response:
    async with here.database.begin() as connection:
        told = await _find(connection, ref, number, public_only=reader is None)
        before = await store.alerts.earlier(
            connection, told.kept.id, payloads.earlier_numbers(told.number)
        )
    message = Message(
        id="",
        subscription="",
        type=told.type,
        created_at=told.recorded_at,
        sequence=0,
        data=told.data,
        earlier=tuple((transition_id(ref, n), at) for n, at in before),
    )
    written = payloads.write(Format.cap, _VERSION, message, here.settings.public_url or "")
    return conditional.answer(
        request,
        written.body,
        written.content_type,
        told.recorded_at,
        is_public=reader is None,
    )


async def _find(
    connection: Connection, ref: str, number: int | None, *, public_only: bool
) -> store.alerts.Told:
    told = None
    if "\x00" not in ref and (number is None or number <= _MOST_NUMBER):
        told = await store.alerts.told(connection, ref, number, public_only=public_only)
    if told is None:
        what = f"alert {ref}" if number is None else f"transition {number} of an alert {ref}"
        raise Problem("not-found", f"There is no {what}.")
    return told


def _entry(told: store.alerts.Told) -> atom.Entry:
    ref = quote(told.kept.alert.ref, safe="")
    return atom.Entry(
        alert=told.kept.alert,
        told_at=told.recorded_at,
        page=f"/alerts/{ref}",
        document=f"/v1/alerts/{ref}",
        message=f"/v1/alerts/{ref}.cap",
    )


def _page(limit: int, after: str | None) -> str:
    """Path and query of a page; what is usual is left out, so that one page has one address."""
    asked = {
        **({"limit": str(limit)} if limit != DEFAULT_LIMIT else {}),
        **({"after": after} if after is not None else {}),
    }
    return f"{FEED}?{urlencode(asked)}" if asked else FEED
