"""The bodies of requests: how long one may be and may take, and how much all together may hold in memory."""

from __future__ import annotations

import asyncio
import zlib

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from app import telemetry
from app.api.problems import Problem

_RETRY_SECONDS = 1
_MOST_MEMBERS = 256  # Block-wise writers such as bgzip make one of every 64 KiB.


class Bodies:
    """What all bodies of one process hold, from their first bytes until they are answered."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.held_bytes = 0
        self._unfinished: dict[Body, None] = {}  # the longest without a byte first

    def grow(self, body: Body, size: int, *, is_whole: bool) -> bool:
        """Makes room for so many bytes more of a body; False when there is none.

        Where there is too little, the unfinished body that has been without a byte for longest gives way:
        whoever stops half-way holds up nobody who does not.
        """
        self._unfinished.pop(body, None)
        while self.held_bytes + size > self._most:
            if not self._unfinished:
                return False
            stalest = next(iter(self._unfinished))
            del self._unfinished[stalest]
            stalest.give_way()
        self.held_bytes += size
        if not is_whole:
            self._unfinished[body] = None
        return True

    def shrink(self, body: Body, size: int) -> None:
        """Gives back what a body held."""
        self.held_bytes -= size
        self._unfinished.pop(body, None)


class Body:
    """The body of one request on its way in: read up to its limit, and only while it keeps coming."""

    __slots__ = (
        "_all",
        "_gives_way",
        "_held",
        "_limit",
        "_patience",
        "_read",
        "_receive",
        "_until",
        "_wait",
        "_whole",
    )

    def __init__(self, all_of_them: Bodies, receive: Receive, limit: int, patience: float) -> None:
        self._all = all_of_them
        self._receive = receive
        self._limit = limit
        self._patience = patience
        self._until = asyncio.get_running_loop().time() + patience
        self._wait: asyncio.Timeout | None = None
        self._read = 0
        self._held = 0
        self._whole = False
        self._gives_way = False

    async def receive(self) -> Message:
        """The next message of the server's.

        Raises:
            HTTPException: 408, 413, or 503 when all bodies together hold too much; of that kind because
                FastAPI, which reads bodies too, lets no other pass.
        """
        if self._gives_way:
            raise _crowded()
        if self._whole:  # What comes now is only that the caller has hung up, whenever that is.
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until) as self._wait:
                message = await self._receive()
        except TimeoutError as error:
            if self._gives_way:
                raise _crowded() from error
            telemetry.refusals.labels("slow_body").inc()
            said = f"The body was not there within {self._patience:g} seconds."
            raise HTTPException(408, said) from error
        finally:
            self._wait = None
        size = len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        self._read += size
        if self._read > self._limit:
            telemetry.refusals.labels("body").inc()
            raise HTTPException(413, too_large(self._limit).detail)
        if size:
            self.hold(size)
        return message

    async def whole(self) -> bytes:
        """All of it, where nobody has read any of it.

        Raises:
            ClientDisconnect: the caller hung up.
            HTTPException: as ``receive``.
        """
        parts: list[bytes] = []
        while not self._whole:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
        return b"".join(parts)

    def hold(self, size: int) -> None:
        """Counts so many bytes more, read or made of what was read.

        Raises:
            HTTPException: 503, there is no room for them.
        """
        if self._gives_way or not self._all.grow(self, size, is_whole=self._whole):
            raise _crowded()
        self._held += size

    def give_way(self) -> None:
        """Ends the wait for the rest: the room is needed."""
        self._gives_way = True
        self._all.held_bytes -= self._held
        self._held = 0
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(asyncio.get_running_loop().time())

    def let_go(self) -> None:
        """The request is answered."""
        if self._held:
            self._all.shrink(self, self._held)
            self._held = 0


async def inflated(request: Request, limit: int) -> bytes:
    """The body of a request that is encoded with gzip, inflated while it is read.

    Never holds more than the limit and what one read inflates to beyond it, which is a byte.

    Raises:
        Problem: it is longer than ``limit``, or no gzip.
    """
    body: Body = request.state.body
    parts: list[bytes] = []
    size, members = 0, 1
    inflating = zlib.decompressobj(wbits=31)
    async for chunk in request.stream():
        rest = chunk
        while rest:
            if inflating.eof:  # RFC 1952, 2.2: members follow one another, and are one text.
                members += 1
                inflating = zlib.decompressobj(wbits=31)
                if members > _MOST_MEMBERS:
                    raise Problem("malformed-request", f"More than {_MOST_MEMBERS} gzip members.")
            try:
                part = inflating.decompress(rest, limit - size + 1)
            except zlib.error as error:
                raise Problem("malformed-request", "The body is not gzip as it says.") from error
            size += len(part)
            if size > limit:
                telemetry.refusals.labels("body").inc()
                raise Problem(
                    "too-large", f"The body is more than {limit} bytes when it is inflated."
                )
            if part:
                body.hold(len(part))
                parts.append(part)
            rest = inflating.unused_data if inflating.eof else inflating.unconsumed_tail
    if not inflating.eof:
        raise Problem("malformed-request", "The body breaks off before the end of its gzip.")
    return b"".join(parts)


def too_large(limit: int) -> Problem:
    """The problem of a body that is longer than ``limit``."""
    return Problem("too-large", f"A body may have at most {limit} bytes here.")


def _crowded() -> HTTPException:
    telemetry.refusals.labels("bodies").inc()
    said = "The bodies of all requests together hold as much as they may."
    return HTTPException(503, said, {"Retry-After": str(_RETRY_SECONDS)})
