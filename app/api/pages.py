"""Lists in pages: opaque cursors, at most 200 entries, a Link to the next page."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Query, Request, Response

from app.api.problems import Problem

DEFAULT_LIMIT = 50
MOST = 200

Limit = Annotated[int, Query(ge=1, le=MOST, description="How many entries a page has.")]
After = Annotated[str | None, Query(description="The `next` of the page before.")]


def cursor(*place: object) -> str:
    """An opaque cursor for a place in a list; ``place_of`` reads it back."""
    return base64.urlsafe_b64encode(json.dumps(place, default=str).encode()).decode().rstrip("=")


def place_of(after: str | None, *kinds: Callable[[Any], Any]) -> tuple[Any, ...] | None:
    """The place a cursor stands for, each part turned by its kind; None for the beginning.

    Raises:
        Problem: ``invalid``, when it is no cursor of this list.
    """
    if after is None:
        return None
    try:
        padded = after + "=" * (-len(after) % 4)
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return tuple(kind(part) for kind, part in zip(kinds, parts, strict=True))
    except (
        binascii.Error,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        detail = "`after` is not a cursor of this list; take `next` of the page before"
        raise Problem(
            "invalid", f"{detail}.", errors=[{"parameter": "after", "detail": detail}]
        ) from error


def page(
    request: Request, response: Response, items: Sequence[object], following: str | None
) -> dict[str, object]:
    """A page's body; sets its Link header."""
    if following is not None:
        url = request.url.include_query_params(after=following)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return {"items": items, "next": following}
