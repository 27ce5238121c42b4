"""The connections of one process: how many, how long their clients may take, how large a head may be.

uvicorn and httptools set no limit to any of these (0.54 and 0.9): a client that sends a header a minute, or
never reads its answer, is waited for as long as it likes, and a head grows as long as it comes. So each
connection notes when its client began to keep it waiting, and once a second all are looked at: a timer for
each would cost as much as to parse a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app import telemetry
from app.api.envelope import QUIET
from app.api.problems import MEDIA_TYPE, Problem

MOST_HEAD_BYTES = 16_384
MOST_TARGET_BYTES = 8_000  # What RFC 9110, 4.1, asks every server to read at least.
MOST_HEADERS = 100
MOST_PIPELINED = 16
SPARE = 64
"""So many connections beyond the limit are let in, and told only whether the process is well."""

_UNFINISHED_BYTES = 2 * MOST_HEAD_BYTES
_LOOK_SECONDS = 1.0
_LINGER_SECONDS = 2.0
_PROGRESS_BYTES = 16_384
_RETRY_SECONDS = 2
_SMALL_BYTES = 4_096

_NO_REQUEST, _HALF_A_BODY, _UNREAD = 2, 1, 0

_App = Callable[[Any, Any, Any], Awaitable[None]]


class Connections:
    """All connections of a process.

    Args:
        most: so many may be open. Beyond, those whose clients have kept us waiting longest are closed:
            first those without a request, then those with half of one, then those that do not read.
            When all are being answered, a new one is told to come back.
        head_seconds: how long a client may take for the head of a request, and for the rest of a body
            that was answered before it was whole.
        unread_seconds: within so long a client must read 16 KiB of its answer, or the rest.
    """

    def __init__(self, *, most: int, head_seconds: float, unread_seconds: float) -> None:
        self.most = most
        self.head_seconds = head_seconds
        self.unread_seconds = unread_seconds
        self.open: set[Connection] = set()

    def protocol(self, **given: Any) -> Connection:
        """A connection, as uvicorn makes them."""
        return Connection(self, **given)

    def welcome(self, newcomer: Connection) -> None:
        """Counts a connection, and makes room for it when there are too many."""
        self.open.add(newcomer)
        if len(self.open) <= self.most:
            return
        now = newcomer.loop.time()
        waiting = [(c.keeps_waiting(now), c) for c in self.open if c is not newcomer]
        patient = sorted(((w, c) for w, c in waiting if w is not None), key=lambda one: one[0])
        if not patient:
            newcomer.let_in_for_health(is_full=len(self.open) > self.most + SPARE)
        # Several at once, so that in a flood they are not all looked at for each newcomer.
        for _, connection in patient[-max(1, self.most // 20) :]:
            telemetry.refusals.labels("connections").inc()
            connection.transport.abort()

    async def watch(self) -> None:
        """Looks at every connection once a second, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.open):
                connection.look(now)
            telemetry.connections.set(len(self.open))


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits."""

    def __init__(self, all_of_them: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._all = all_of_them
        self._since = self.loop.time()  # of what ``keeps_waiting`` says
        self._in_head = False
        self._read_bytes = 0  # of the read that is being parsed
        self._head_bytes = 0  # of a head that has not ended, in the reads before
        self._in_trailers = False  # or in a chunk none of whose bytes has come
        self._trailer_bytes = 0  # in the reads after the one in which they began
        self._trailers = 0
        self._fault: Problem | None = None
        self._is_refused = False
        self._unread_bytes = 0
        self._unread_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts it."""
        super().connection_made(cast("asyncio.Transport", Joining(transport, self.loop)))
        self._all.welcome(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets it."""
        self._all.open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses a read; a head that does not end is refused while it comes."""
        if self._is_refused:
            return
        self._read_bytes = len(data)
        super().data_received(data)
        if self._in_head and not self._is_refused:
            # The head is what follows the last blank line. A body without one is counted in, but only of a
            # client that sends its next request before it was answered, which none does that we know.
            self._head_bytes += len(data) - (data.rfind(b"\r\n\r\n") + 1)
            if self._head_bytes > _UNFINISHED_BYTES:
                self._refuse(_head_fault(self.url), "head")
        elif self._in_trailers and not self._is_refused:
            self._trailer_bytes += len(data)
            if self._trailer_bytes > _UNFINISHED_BYTES:
                self._refuse(_head_fault(self.url), "head")

    def on_message_begin(self) -> None:
        """The client's time for a head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._since = True, 0, self.loop.time()
        self._in_trailers, self._trailers = False, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a header. A trailer is counted and dropped (RFC 9110, 6.5.1, lets us): uvicorn would add it
        to the headers of a request that is being answered.
        """
        if self._in_head:
            super().on_header(name, value)
            return
        self._trailers += 1
        if self._trailers > MOST_HEADERS:
            self._stop(_head_fault(self.url))

    def on_chunk_header(self) -> None:
        """What follows is a chunk, or after the last one the trailers."""
        self._in_trailers, self._trailer_bytes = True, -self._read_bytes

    def on_body(self, body: bytes) -> None:
        """It was a chunk."""
        self._in_trailers = False
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Measures the head, and begins to answer."""
        self._in_head = False
        # What came in one small read is within all limits but that of the headers' number.
        if (
            self._head_bytes + self._read_bytes > MOST_TARGET_BYTES
            or len(self.headers) > MOST_HEADERS
        ):
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if (
                size > MOST_HEAD_BYTES
                or len(self.url) > MOST_TARGET_BYTES
                or len(self.headers) > MOST_HEADERS
            ):
                self._stop(_head_fault(self.url))
        if len(self.pipeline) >= MOST_PIPELINED:
            said = (
                f"At most {MOST_PIPELINED} requests may wait on one connection; wait for answers."
            )
            self._stop(Problem("too-many-requests", said, retryable=True))
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The client's time for its next request begins."""
        super().on_response_complete()
        self._since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed, and what the callbacks above stopped at."""
        if self._fault is not None:
            self._refuse(self._fault, "head")
        else:
            self._refuse(Problem("malformed-request", msg), None)

    def keeps_waiting(self, now: float) -> tuple[int, float] | None:
        """How long its client has kept it waiting, after for what; None while it waits for us."""
        if self._is_idle():
            return _NO_REQUEST, now - self._since
        if self.cycle.more_body:
            return _HALF_A_BODY, now - self._since
        if self.transport.get_write_buffer_size():
            return _UNREAD, now - self._since
        return None

    def look(self, now: float) -> None:
        """Closes it when its client has taken too long."""
        unread = self.transport.get_write_buffer_size()
        if unread:
            least = self._unread_bytes - _PROGRESS_BYTES
            if not least < unread <= self._unread_bytes:
                self._unread_bytes, self._unread_since = unread, now
            elif now - self._unread_since > self._all.unread_seconds:
                telemetry.refusals.labels("unread").inc()
                self.transport.abort()
            return
        self._unread_bytes = 0
        waited = now - self._since
        if self._is_refused:
            if waited > _LINGER_SECONDS:
                self.transport.abort()
        elif not self._is_idle():
            return  # Its body has a limit of its own.
        elif self.timeout_keep_alive_task is None and waited > self._all.head_seconds:
            # Between requests uvicorn has a timer, until the first byte of the next.
            if self._in_head:
                said = f"The head was not there within {self._all.head_seconds:g} seconds."
                self._refuse(Problem("too-slow", said, retryable=True), "slow_head")
            else:
                telemetry.refusals.labels("slow_head").inc()
                self.transport.close()

    def let_in_for_health(self, *, is_full: bool) -> None:
        """Answers nothing but whether the process is well; not even that when there are too many of these."""
        said = "As many callers are being answered as this process can answer at once."
        headers = {"Retry-After": str(_RETRY_SECONDS), "Connection": "close"}
        busy = Problem("busy", said, headers=headers, retryable=True)
        if is_full:
            self._refuse(busy, "connections")
            self.transport.close()
            return
        answer: _App = self.app

        async def answer_health(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] in QUIET:
                await answer(scope, receive, send)
            else:
                telemetry.refusals.labels("connections").inc()
                await busy.answer()(scope, receive, send)

        self.app = answer_health

    def _is_idle(self) -> bool:
        """Whether nothing is being answered; before the first request there is no cycle."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _stop(self, fault: Problem) -> None:
        """Makes the parser give up; it then asks for ``send_400_response``."""
        self._fault = fault
        raise ValueError(fault.detail)

    def _refuse(self, fault: Problem, reason: str | None) -> None:
        """Says why not, and hears no more. Waits a little for the client to close, who may still send:
        what is unread when we close would destroy the answer on its way (RFC 9112, 9.6).
        """
        if reason is not None:
            telemetry.refusals.labels(reason).inc()
        self._is_refused, self._in_head, self._since = True, False, self.loop.time()
        if not self._is_idle():
            self.transport.abort()  # The next answer on this connection is not this one.
            return
        body = msgspec.json.encode(fault.document())
        headers = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(body)),
            **fault.headers,
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {fault.kind.status} {fault.kind.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "\r\n"]).encode() + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()


class Joining:
    """A transport on which a small piece waits for the next one, at most until the loop's next turn.

    uvicorn writes the head of an answer and then its body, and uvloop sends each of them at once: the second
    system call, which wakes the client a second time, was a twelfth of what a small request costs.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends what waits, and this with it; or has this wait."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif len(data) < _SMALL_BYTES:
            self._held = data
            self._loop.call_soon(self._send)
        else:
            self._transport.write(data)

    def write_eof(self) -> None:
        """Ends what is sent, after what waits."""
        self._send()
        self._transport.write_eof()

    def close(self) -> None:
        """Closes, after what waits is sent."""
        self._send()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """How many bytes are not sent yet."""
        return len(self._held) + self._transport.get_write_buffer_size()

    def _send(self) -> None:
        held, self._held = self._held, b""
        # Broken off meanwhile, uvloop's raises, and nobody is there to read.
        if held and not self._transport.is_closing():
            self._transport.write(held)


def _head_fault(target: bytes) -> Problem:
    if len(target) > MOST_TARGET_BYTES:
        return Problem("address-too-long", f"An address may have {MOST_TARGET_BYTES} bytes.")
    said = f"The head of a request may have {MOST_HEAD_BYTES} bytes and {MOST_HEADERS} headers."
    return Problem("head-too-large", said)
