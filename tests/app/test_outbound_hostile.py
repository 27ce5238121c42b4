"""Endpoints that mean harm or are broken: every phase of an attempt ends in time and is named.

Asserts on outcomes, on what the far end of the socket sees, and on this process's own sockets.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from pathlib import Path
from time import perf_counter

import pytest

from alerts.retries import ErrorCode
from app.outbound import Outbound, dialling
from tests.app.endpoint import (
    OK,
    Manner,
    answers,
    authority,
    endpoint,
    post,
    request,
    settings,
    sockets_end,
)
from tests.app.nameserver import name_server


def _drips(*parts: bytes) -> Manner:
    """Sends the first parts at once, and then the last for ever, a piece at a time."""

    async def manner(reader: Reader, writer: Writer) -> None:
        await request(reader)
        for part in parts[:-1]:
            writer.write(part)
        while True:
            writer.write(parts[-1])
            await writer.drain()
            await asyncio.sleep(0.01)

    return manner


def _floods(start: bytes, more: bytes) -> Manner:
    """Sends a start, and then the same without end, as fast as it is taken."""

    async def manner(reader: Reader, writer: Writer) -> None:
        await request(reader)
        writer.write(start)
        while True:
            writer.write(more * 1_000)
            await writer.drain()

    return manner


def _closes(raw: bytes) -> Manner:
    """Sends so much and closes."""

    async def manner(reader: Reader, writer: Writer) -> None:
        await request(reader)
        writer.write(raw)

    return manner


def _resets(start: bytes) -> Manner:
    """Sends a start and then a TCP reset."""

    async def manner(reader: Reader, writer: Writer) -> None:
        await request(reader)
        writer.write(start)
        await writer.drain()
        await asyncio.sleep(0.05)
        made = writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return manner


async def _says_nothing(reader: Reader, writer: Writer) -> None:
    await reader.read()


async def _hangs_up_on_hello(reader: Reader, writer: Writer) -> None:
    await reader.read(5)


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("manner", "status", "error", "detail"),
    [
        # No status line, or one that never ends.
        (_says_nothing, None, ErrorCode.timeout, r"Within 0.7 s no answer came, or"),
        (_drips(b"HTTP/1.1 200 ", b"O"), None, ErrorCode.timeout, "or not its whole head"),
        (answers(b"<html>HTTP/0.9</html>"), None, ErrorCode.invalid_http, "not HTTP"),
        (answers(b"HTTP/2 200\r\n\r\n"), None, ErrorCode.invalid_http, "not HTTP"),
        (answers(b"ICY 200 OK\r\n\r\n"), None, ErrorCode.invalid_http, "not HTTP"),
        # Heads.
        (_drips(HEAD + b"x-a: ", b"b"), None, ErrorCode.timeout, "or not its whole head"),
        (_drips(HEAD, b"x-a: b\r\n"), None, ErrorCode.timeout, "or not its whole head"),
        (_floods(HEAD, b"x-a: b\r\n"), None, ErrorCode.invalid_http, "not HTTP"),
        (_floods(HEAD + b"x-a: ", b"b"), None, ErrorCode.invalid_http, "not HTTP"),
        # Any number of interim answers may come before the answer (RFC 9110 §15.2), in its time.
        (
            _floods(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
            None,
            ErrorCode.timeout,
            "no answer came",
        ),
        (_drips(b"HTTP/1.1 102 Processing\r\n\r\n"), None, ErrorCode.timeout, "no answer came"),
        (answers(HEAD + b"content-length: -1\r\n\r\n"), None, ErrorCode.invalid_http, "not HTTP"),
        (
            answers(HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok"),
            None,
            ErrorCode.invalid_http,
            "not HTTP",
        ),
        (_resets(b""), None, ErrorCode.connect, "broke before an answer"),
        (_resets(HEAD), None, ErrorCode.connect, "broke before an answer"),
        (_closes(HEAD), None, ErrorCode.connect, "closed before an answer"),
        # Bodies.
        (_closes(HEAD + b"content-length: 9\r\n\r\n"), 200, ErrorCode.invalid_http, "broke off"),
        (_resets(HEAD + b"content-length: 9\r\n\r\n1"), 200, ErrorCode.invalid_http, "broke off"),
        (_resets(CHUNKED + b"5\r\nhello\r\n"), 200, ErrorCode.invalid_http, "broke off"),
        (
            _drips(HEAD + b"content-length: 999999\r\n\r\n", b"."),
            200,
            ErrorCode.timeout,
            r"Within 0.7 s the answer did not end\.",
        ),
        (_drips(HEAD + b"\r\n", b"."), 200, ErrorCode.timeout, "the answer did not end"),
        (_drips(CHUNKED, b"1\r\n.\r\n"), 200, ErrorCode.timeout, "the answer did not end"),
        (_floods(HEAD + b"\r\n", b"."), 200, ErrorCode.too_large, "longer than 65536 bytes"),
        (_floods(CHUNKED, b"1\r\n.\r\n"), 200, ErrorCode.too_large, "longer than 65536 bytes"),
        (answers(CHUNKED + b"banana\r\n"), 200, ErrorCode.invalid_http, "malformed|not HTTP"),
        (answers(CHUNKED + b"f" * 17 + b"\r\n"), 200, ErrorCode.invalid_http, "malformed|not HTTP"),
        (answers(CHUNKED + b"-1\r\n"), 200, ErrorCode.invalid_http, "malformed|not HTTP"),
        (answers(CHUNKED + b"2\r\nokok"), 200, ErrorCode.invalid_http, "malformed|not HTTP"),
        # TLS spoken where plain http was to be: an alert record (RFC 8446 §6).
        (answers(b"\x15\x03\x01\x00\x02\x02\x46"), None, ErrorCode.invalid_http, "not HTTP"),
    ],
)
async def test_every_phase_of_an_answer_ends_in_time_and_is_named(
    manner: Manner, status: int | None, error: ErrorCode, detail: str
) -> None:
    # Reading the public authorities takes a good part of such a short time.
    out = Outbound(settings(webhook_timeout_seconds=0.7), tls=ssl.create_default_context())
    async with endpoint(manner) as port:
        outcome = await post(f"http://127.0.0.1:{port}/", out)
        await sockets_end(port)
    await out.close()
    assert outcome.error is error, outcome
    if status is not None and error is not ErrorCode.invalid_http:
        assert outcome.status == status
    assert re.search(detail, outcome.detail), outcome.detail
    assert outcome.milliseconds < 1_500
    assert outcome.sent_after is not None


async def test_a_connection_that_is_never_accepted_ends_by_the_limit_for_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialling, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        callers = [socket.socket() for _ in range(8)]
        for caller in callers:  # more than its queue has room for; further SYNs are dropped
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        outcome = await post(f"http://127.0.0.1:{port}/")
        hurried = Outbound(settings(webhook_timeout_seconds=0.1))
        short = await post(f"http://127.0.0.1:{port}/", hurried)
        await hurried.close()
        for caller in callers:
            caller.close()
    assert (outcome.error, outcome.sent_after) == (ErrorCode.timeout, None)
    assert outcome.detail == "No connection was made within 0.3 s."
    assert 250 < outcome.milliseconds < 1_000
    assert short.detail == "Within 0.1 s no connection was made."
    assert short.milliseconds < 280


async def test_the_time_for_connecting_is_not_given_again_for_every_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialling, "CONNECT_SECONDS", 0.3)
    _, resolver, transport = await name_server(lambda *_: [f"127.0.0.{n}" for n in range(2, 9)])
    out = Outbound(settings(), lookup=resolver)
    async with endpoint(_says_nothing, "0.0.0.0") as port:
        outcome = await post(f"https://many.example:{port}/", out)
    await out.close()
    transport.close()
    assert outcome.error is ErrorCode.timeout
    assert outcome.milliseconds < 900


async def _never_reads(_: Reader, writer: Writer) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(30)


async def test_an_endpoint_that_never_reads_holds_nothing_after_the_deadline() -> None:
    out = Outbound(settings(webhook_timeout_seconds=0.5))
    async with endpoint(_never_reads, narrow=True) as port:
        outcome = await post(f"http://127.0.0.1:{port}/", out, bytes(2**20))
        await sockets_end(port)
    await out.close()
    assert outcome.error is ErrorCode.timeout


async def test_an_endpoint_that_answers_and_never_reads_holds_nothing_either() -> None:
    async def answers_at_once(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(1)
        writer.write(OK)
        await _never_reads(reader, writer)

    out = Outbound(settings())
    async with endpoint(answers_at_once, narrow=True) as port:
        outcome = await post(f"http://127.0.0.1:{port}/", out, bytes(2**20))
        await sockets_end(port)
    await out.close()
    assert outcome.status == 200


async def test_an_answer_that_nobody_asked_for_is_not_the_answer_to_the_next_request() -> None:
    connections = 0

    async def talkative(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        await request(reader)
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n")
        await reader.read()

    out = Outbound(settings())
    async with endpoint(talkative) as port:
        first = await post(f"http://127.0.0.1:{port}/", out)
        await asyncio.sleep(0.1)
        second = await post(f"http://127.0.0.1:{port}/", out)
        both = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"
        async with endpoint(answers(both)) as other:
            glued = [await post(f"http://127.0.0.1:{other}/", out) for _ in range(2)]
    await out.close()
    assert (first.status, second.status, connections) == (200, 200, 2)
    assert [outcome.status for outcome in glued] == [200, 200]


async def test_switching_protocols_is_no_success_and_the_connection_is_not_kept() -> None:
    raw = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
    out = Outbound(settings())
    async with endpoint(answers(raw)) as port:
        outcome = await post(f"http://127.0.0.1:{port}/", out)
        await sockets_end(port)
    await out.close()
    assert outcome.status == 101


# --- TLS -----------------------------------------------------------------------------------------


async def test_an_expired_certificate_is_not_trusted(tmp_path: Path) -> None:
    server, client = authority(tmp_path, "hooks.example", expired=True)
    _, resolver, transport = await name_server(lambda *_: ["127.0.0.1"])
    out = Outbound(settings(), lookup=resolver, tls=client)
    async with endpoint(answers(OK), tls=server) as port:
        outcome = await post(f"https://hooks.example:{port}/", out)
    await out.close()
    transport.close()
    assert (outcome.error, outcome.sent_after) == (ErrorCode.tls, None)
    assert outcome.detail == "The certificate is not trusted: certificate has expired."


async def test_plain_http_to_a_port_that_speaks_tls_is_not_http(tmp_path: Path) -> None:
    server, _ = authority(tmp_path, "hooks.example")
    async with endpoint(answers(OK), tls=server) as port:
        outcome = await post(f"http://127.0.0.1:{port}/")
    assert outcome.status is None
    assert outcome.error in {ErrorCode.invalid_http, ErrorCode.connect}  # an alert, or a close


@pytest.mark.parametrize(
    ("manner", "detail"),
    [
        (answers(OK), "TLS failed"),  # plain http on the port
        (_hangs_up_on_hello, "closed during the TLS handshake"),
    ],
)
async def test_a_handshake_that_fails_is_a_failure_of_tls(manner: Manner, detail: str) -> None:
    async def at_once(reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(5)

    async with endpoint(at_once if "failed" in detail else manner) as port:
        outcome = await post(f"https://127.0.0.1:{port}/")
    assert outcome.error is ErrorCode.tls, outcome
    assert detail in outcome.detail


async def test_a_handshake_that_drips_ends_by_the_limit_for_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def drips(reader: Reader, writer: Writer) -> None:
        writer.write(b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb")  # a ServerHello of 16 kB begins
        while True:
            writer.write(b"\x03")
            await writer.drain()
            await asyncio.sleep(0.01)

    monkeypatch.setattr(dialling, "CONNECT_SECONDS", 0.3)
    started = perf_counter()
    async with endpoint(drips) as port:
        outcome = await post(f"https://127.0.0.1:{port}/")
        await sockets_end(port)
    assert outcome.error is ErrorCode.timeout
    assert outcome.detail == "The TLS handshake did not end within 0.3 s."
    assert perf_counter() - started < 2


async def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    server, client = authority(tmp_path, "hooks.example")
    server.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1_1
    _, resolver, transport = await name_server(lambda *_: ["127.0.0.1"])
    out = Outbound(settings(), lookup=resolver, tls=client)
    async with endpoint(answers(OK), tls=server) as port:
        outcome = await post(f"https://hooks.example:{port}/", out)
    await out.close()
    transport.close()
    assert outcome.error is ErrorCode.tls
