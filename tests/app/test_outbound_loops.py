"""The way out on either event loop: the service runs on uvloop, and asyncio is where there is none.

The loops differ in how they tell of a broken handshake, in what they read at once and in how they end
a connection; what came of an attempt must not.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from alerts.retries import ErrorCode
from app.outbound import Outbound, dialling
from tests.app.endpoint import (
    OK,
    answers,
    authority,
    endpoint,
    post,
    request,
    settings,
    sockets_end,
)

Loop = Callable[[], asyncio.AbstractEventLoop]

on_either_loop = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


async def here(_: str) -> Sequence[str]:
    return ["127.0.0.1"]


async def _reads_hello_and_hangs_up(reader: Reader, _: Writer) -> None:
    await reader.read(5)


async def _says_nothing(reader: Reader, _: Writer) -> None:
    await reader.read()


async def _hangs_up(reader: Reader, _: Writer) -> None:
    await request(reader)


@on_either_loop
def test_a_connection_is_kept_and_one_that_was_closed_meanwhile_is_not_used(loop: Loop) -> None:
    connections = 0

    async def two_and_no_more(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await request(reader)
            writer.write(OK)

    async def scene() -> None:
        out = Outbound(settings())
        async with endpoint(two_and_no_more) as port:
            for _ in range(3):
                assert (await post(f"http://127.0.0.1:{port}/", out)).status == 200
                await asyncio.sleep(0.02)
        await out.close()
        assert connections == 2

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene())


@on_either_loop
def test_tls_succeeds_or_fails_by_name_and_says_how(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "CONNECT_SECONDS", 0.5)
    server, client = authority(tmp_path, "hooks.example")

    async def scene() -> None:
        out = Outbound(settings(), lookup=here, tls=client)
        async with endpoint(answers(OK), tls=server) as port:
            assert (await post(f"https://hooks.example:{port}/", out)).status == 200
            other = await post(f"https://other.example:{port}/", out)
        async with endpoint(_reads_hello_and_hangs_up) as port:
            closed = await post(f"https://hooks.example:{port}/", out)
        async with endpoint(_says_nothing) as port:
            hung = await post(f"https://hooks.example:{port}/", out)
            await sockets_end(port)
        async with endpoint(_hangs_up, tls=server) as port:
            dropped = await post(f"https://hooks.example:{port}/", out)
        await out.close()
        assert other.error is ErrorCode.tls
        assert "not trusted" in other.detail
        assert (closed.error, closed.detail) == (
            ErrorCode.tls,
            "The connection was closed during the TLS handshake.",
        )
        assert (hung.error, hung.detail) == (
            ErrorCode.timeout,
            "The TLS handshake did not end within 0.5 s.",
        )
        assert (dropped.error, dropped.detail) == (
            ErrorCode.connect,
            "The connection was closed before an answer came.",
        )

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene())


@on_either_loop
def test_a_body_that_is_not_read_is_not_held_after_the_deadline(loop: Loop) -> None:
    async def never_reads(_: Reader, writer: Writer) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(30)

    async def scene() -> None:
        out = Outbound(settings(webhook_timeout_seconds=0.5))
        async with endpoint(never_reads, narrow=True) as port:
            outcome = await post(f"http://127.0.0.1:{port}/", out, bytes(2**20))
            await sockets_end(port)
        await out.close()
        assert outcome.error is ErrorCode.timeout

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene())


@contextmanager
def flooding(raw: bytes) -> Iterator[int]:
    """An endpoint in a thread, which sends the same without end as fast as it is taken."""

    def flood(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                made, _ = listener.accept()
                with made, suppress(OSError):
                    made.recv(65_536)
                    while True:
                        made.sendall(raw * 1_000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=flood, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@on_either_loop
def test_an_endpoint_that_sends_as_fast_as_it_can_does_not_hold_up_the_others(loop: Loop) -> None:
    async def scene(flooded: int) -> None:
        out = Outbound(settings(webhook_timeout_seconds=2))
        async with endpoint(answers(OK)) as port:
            url = f"http://127.0.0.1:{port}/"
            assert (await post(url, out)).status == 200
            held = asyncio.create_task(post(f"http://127.0.0.1:{flooded}/", out))
            await asyncio.sleep(0.1)
            others = 0
            while not held.done():
                assert (await post(url, out)).status == 200  # within its own 2 s
                others += 1
            outcome = await held
        await out.close()
        assert others > 2
        assert outcome.error is ErrorCode.timeout
        assert outcome.milliseconds < 3_000

    with (
        flooding(b"HTTP/1.1 103 Early Hints\r\n\r\n") as port,
        asyncio.Runner(loop_factory=loop) as runner,
    ):
        runner.run(scene(port))
