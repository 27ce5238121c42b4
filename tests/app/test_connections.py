"""What a process takes from its callers' connections: real sockets, and no clock to wait for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import msgspec
import pytest
import uvicorn

from app import doorstep, main
from app.connections import (
    MOST_HEAD_BYTES,
    MOST_HEADERS,
    MOST_PIPELINED,
    MOST_TARGET_BYTES,
    SPARE,
    Connections,
    Joining,
)

PATIENCE = 20
OLDER = 1_000.0


class Place:
    """A server on a free port, and what its application was asked."""

    def __init__(self, connections: Connections, port: int) -> None:
        self.connections = connections
        self.port = port
        self.asked: list[str] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.calls: list[asyncio.StreamWriter] = []
        self.may_answer = asyncio.Event()

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers at once; /slow and /readyz when it may, /body when it is whole, /large with much; /parts
        with its head at once and the rest when it may.
        """
        self.asked.append(scope["path"])
        self.headers = scope["headers"]
        if scope["path"] in {"/slow", "/readyz"}:
            await self.may_answer.wait()
        while scope["path"] == "/body" and (await receive()).get("more_body"):
            pass
        answer = b"x" * (20_000_000 if scope["path"] == "/large" else 2)
        length = str(len(answer)).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
        )
        if scope["path"] == "/parts":
            await self.may_answer.wait()
        await send({"type": "http.response.body", "body": answer})

    def grow_older(self, seconds: float = OLDER) -> None:
        """Looks at the connections as they are looked at so many seconds from now."""
        now = asyncio.get_running_loop().time() + seconds
        for connection in tuple(self.connections.open):
            connection.look(now)

    async def call(self, said: bytes = b"") -> Call:
        """A connection on which that was said."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(said)
        self.calls.append(writer)
        return Call(reader, writer)


class Call:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """The status, and the problem if it is one; 0 when the connection was closed without a word."""
        try:
            async with asyncio.timeout(PATIENCE):
                head = await self.reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, {}
        said = msgspec.json.decode(body) if b"problem+json" in head else {}
        return int(head.split(b" ")[1]), said

    async def end(self) -> bytes:
        """What is left to read until the service closes."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.reader.read(-1)
        except ConnectionError:
            return b""


@asynccontextmanager
async def _place(most: int = 100) -> AsyncIterator[Place]:
    connections = Connections(most=most, head_seconds=10, unread_seconds=30)
    listening = doorstep.listen("127.0.0.1", 0)
    place = Place(connections, listening.getsockname()[1])
    protocol = cast("type[asyncio.Protocol]", connections.protocol)
    config = uvicorn.Config(
        place.application,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        interface="asgi3",
    )
    server = main._Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await _until(lambda: server.started)
        yield place
    finally:
        place.may_answer.set()
        server.should_exit = server.force_exit = True
        await serving
        listening.close()
        for connection in tuple(connections.open):
            connection.transport.abort()
        await _until(lambda: not connections.open)
        for call in place.calls:
            call.close()
            with suppress(ConnectionError):
                await call.wait_closed()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """A server with room for a hundred."""
    async with _place() as made:
        yield made


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - nothing in there tells
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("head", "status", "because"),
    [
        (b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n", 200, "an ordinary one"),
        (
            b"GET /" + b"a" * (MOST_TARGET_BYTES - 1) + b" HTTP/1.1\r\n\r\n",
            200,
            "as long as may be",
        ),
        (b"GET /" + b"a" * MOST_TARGET_BYTES + b" HTTP/1.1\r\n\r\n", 414, "one more"),
        (b"GET /" + b"a" * 300_000, 414, "an address that does not end"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MOST_HEADERS + b"\r\n", 200, "as many as may be"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MOST_HEADERS + 1) + b"\r\n", 431, "one more"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 12_000 + b"\r\n\r\n", 200, "a long one"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * MOST_HEAD_BYTES + b"\r\n\r\n", 431, "too long a one"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 300_000, 431, "a header that does not end"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9_000, 431, "headers that do not end"),
        (b"GIVE ME\r\n\r\n", 400, "no HTTP at all"),
    ],
)
async def test_a_head_is_measured_while_it_comes(
    place: Place, head: bytes, status: int, because: str
) -> None:
    call = await place.call(head)
    answered, said = await call.answer()
    assert answered == status, because
    assert said.get("status", 200) == status
    assert len(place.asked) == (status == 200), "what is refused does not reach the application"


@pytest.mark.parametrize(
    ("body", "status", "because"),
    [
        (b"0\r\n" + b"authorization: b\r\n" * MOST_HEADERS + b"\r\n", 200, "as many as may be"),
        (b"0\r\n" + b"a: b\r\n" * (MOST_HEADERS + 1) + b"\r\n", 0, "one more"),
        (b"0\r\n" + b"a: b\r\n" * 90_000, 0, "trailers that do not end"),
        (b"0\r\na: " + b"b" * 600_000, 0, "a trailer that does not end"),
        (b"1\r\nx\r\n" * 90_000 + b"0\r\n\r\n", 200, "small chunks are no trailers"),
        (b"c3500\r\n" + b"x" * 800_000 + b"\r\n0\r\n\r\n", 200, "nor is a large one"),
    ],
)
async def test_the_trailers_of_a_body_are_dropped_and_more_of_them_than_headers_end_the_connection(
    place: Place, body: bytes, status: int, because: str
) -> None:
    call = await place.call(b"POST /body HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + body)
    assert (await call.answer())[0] == status, because
    assert place.headers == [(b"transfer-encoding", b"chunked")]


async def test_requests_that_do_not_wait_for_answers_are_answered_in_order_up_to_a_number(
    place: Place,
) -> None:
    call = await place.call(b"GET /slow HTTP/1.1\r\n\r\n" + b"GET /a HTTP/1.1\r\n\r\n" * 10)
    await _until(lambda: place.asked == ["/slow"])
    place.may_answer.set()
    for _ in range(11):
        assert (await call.answer())[0] == 200
    place.may_answer.clear()
    flood = await place.call(b"GET /slow HTTP/1.1\r\n\r\n" * (MOST_PIPELINED + 2))
    assert await flood.answer() == (0, {})


async def test_who_says_nothing_or_half_a_head_is_waited_for_a_while(place: Place) -> None:
    silent = await place.call()
    half = await place.call(b"GET / HTTP/1.1\r\nhost:")
    between = await place.call(b"GET / HTTP/1.1\r\n\r\n")
    assert (await between.answer())[0] == 200
    between.writer.write(b"GET / HTTP/1.1\r\nho")
    asked = await place.call(b"GET /slow HTTP/1.1\r\n\r\n")
    await _until(lambda: sum(c._in_head for c in place.connections.open) == 2)
    await _until(lambda: len(place.connections.open) == 4 and "/slow" in place.asked)
    place.grow_older(9)
    assert len(place.connections.open) == 4, "nobody is too slow yet"
    place.grow_older(11)
    assert await silent.end() == b""
    for call in (half, between):
        answered, said = await call.answer()
        assert (answered, said["type"]) == (408, "/problems/too-slow")
    place.may_answer.set()
    assert (await asked.answer())[0] == 200, "who waits for us is not cut off"


async def test_who_does_not_read_is_cut_off_and_who_reads_slowly_is_not(place: Place) -> None:
    mute = await _deaf_call(place)
    slow = await _deaf_call(place)
    await _until(
        lambda: sum(c.transport.get_write_buffer_size() > 0 for c in place.connections.open) == 2
    )
    place.grow_older(0)
    loop = asyncio.get_running_loop()
    owed = [c.transport.get_write_buffer_size() for c in place.connections.open]
    async with asyncio.timeout(PATIENCE):
        while all(c.transport.get_write_buffer_size() in owed for c in place.connections.open):
            assert await loop.sock_recv(slow, 65_536)
    place.grow_older(31)
    await _until(lambda: len(place.connections.open) == 1)
    place.grow_older(62)
    await _until(lambda: not place.connections.open)
    mute.close()
    slow.close()


async def _deaf_call(place: Place) -> socket.socket:
    calling = socket.socket()
    calling.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    calling.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(calling, ("127.0.0.1", place.port))
    await loop.sock_sendall(calling, b"GET /large HTTP/1.1\r\n\r\n")
    return calling


async def test_at_the_limit_those_who_keep_us_waiting_make_room_and_nobody_who_waits_for_us() -> (
    None
):
    async with _place(most=4) as place:
        body = await place.call(b"POST /body HTTP/1.1\r\ncontent-length: 9\r\n\r\n1")
        await _until(lambda: place.asked == ["/body"])
        asked = [await place.call(b"GET /slow HTTP/1.1\r\n\r\n") for _ in range(2)]
        await _until(lambda: len(place.asked) == 3)
        silent = await place.call()
        await _until(lambda: len(place.connections.open) == 4)
        asked.append(await place.call(b"GET /slow HTTP/1.1\r\n\r\n"))
        await silent.end()
        await _until(lambda: len(place.asked) == 4)
        asked.append(await place.call(b"GET /slow HTTP/1.1\r\n\r\n"))
        await body.end()
        await _until(lambda: len(place.asked) == 5)
        late = await place.call(b"GET /late HTTP/1.1\r\n\r\n")
        answered, said = await late.answer()
        assert (answered, said["type"]) == (503, "/problems/busy")
        health = await place.call(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await health.answer())[0] == 200
        place.may_answer.set()
        assert [(await call.answer())[0] for call in asked] == [200] * 4
        assert "/late" not in place.asked


async def test_far_beyond_the_limit_nobody_is_let_in_at_all() -> None:
    async with _place(most=1) as place:
        for number in range(1 + SPARE):
            await place.call(b"GET /readyz HTTP/1.1\r\n\r\n")
            await _until(lambda count=number + 1: len(place.asked) == count)  # type: ignore[misc]
        answered, said = await (await place.call()).answer()
        assert (answered, said["type"]) == (503, "/problems/busy")


async def test_the_head_of_an_answer_does_not_wait_for_a_body_that_is_late(place: Place) -> None:
    call = await place.call(b"GET /parts HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        assert (await call.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        place.may_answer.set()
        assert await call.reader.readexactly(2) == b"xx"


class Sent:
    """A transport that keeps what it is given, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        """Keeps it."""
        self.pieces.append(data)

    def close(self) -> None:
        """Notes it."""
        self.pieces.append("closed")

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return "closed" in self.pieces

    def write_eof(self) -> None:
        """Notes it."""
        self.pieces.append("ended")

    def get_write_buffer_size(self) -> int:
        """Nothing waits here."""
        return 0


def _joining() -> tuple[Joining, Sent]:
    sent = Sent()
    return Joining(cast("asyncio.Transport", sent), asyncio.get_running_loop()), sent


async def test_a_small_piece_goes_out_with_the_next_one_in_one_call() -> None:
    transport, sent = _joining()
    large = b"b" * 100_000
    transport.write(b"head")
    assert transport.get_write_buffer_size() == 4
    transport.write(large)
    transport.write(large)
    assert sent.pieces == [b"head" + large, large]
    assert transport.get_write_buffer_size() == 0
    await asyncio.sleep(0)
    assert len(sent.pieces) == 2


async def test_a_small_piece_alone_goes_out_when_the_loop_comes_round() -> None:
    transport, sent = _joining()
    transport.write(b"head")
    assert sent.pieces == []
    await asyncio.sleep(0)
    assert sent.pieces == [b"head"]


@pytest.mark.parametrize(("end", "noted"), [("close", "closed"), ("write_eof", "ended")])
async def test_what_waits_goes_out_before_the_end(end: str, noted: str) -> None:
    transport, sent = _joining()
    transport.write(b"last")
    getattr(transport, end)()
    await asyncio.sleep(0)
    assert sent.pieces == [b"last", noted]


async def test_what_waits_when_the_connection_breaks_off_is_dropped() -> None:
    """After that a write to uvloop's transport raises."""
    transport, sent = _joining()
    sent.close()
    transport.write(b"head")
    await asyncio.sleep(0)
    assert sent.pieces == ["closed"]
    assert transport.get_write_buffer_size() == 0
