"""Answers that a client may hold already: validators, conditions, and nothing sent twice.

Source: RFC 9110, sections 8.8 and 13.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from fastapi import Request, Response

_FRESH_SECONDS = 60


def answer(
    request: Request, body: bytes, media_type: str, modified_at: datetime, *, is_public: bool
) -> Response:
    """The body with its validators; 304 without it when the client holds the same; HEAD works.

    Args:
        request: whose conditions count.
        body: the whole representation; its ETag is a digest of it, so a strong one.
        media_type: of the body.
        modified_at: the service's clock.
        is_public: whether everyone is answered so. If not, only the caller's own cache may keep
            it, and asks again each time: a key may have been revoked.
    """
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    modified_at = modified_at.astimezone(UTC).replace(microsecond=0)
    headers = {
        "ETag": etag,
        "Last-Modified": format_datetime(modified_at, usegmt=True),
        "Cache-Control": f"public, max-age={_FRESH_SECONDS}" if is_public else "private, no-cache",
        "Vary": "Authorization",
    }
    if _holds(request, etag, modified_at):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        headers["Content-Length"] = str(len(body))
        return Response(headers=headers, media_type=media_type)
    return Response(body, headers=headers, media_type=media_type)


def _holds(request: Request, etag: str, modified_at: datetime) -> bool:
    """A condition on the ETag outweighs one on time, which is then not looked at (13.2.2)."""
    held = request.headers.get("if-none-match")
    if held is not None:
        tags = (tag.strip().removeprefix("W/") for tag in held.split(","))
        return any(tag in {"*", etag} for tag in tags)
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        held_at = parsedate_to_datetime(since)
    except (ValueError, OverflowError):  # A date that cannot be read is ignored (13.1.3).
        return False
    return held_at.tzinfo is not None and modified_at <= held_at
