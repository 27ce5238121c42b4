"""Endpoints that are real sockets and send exact bytes, and a way out that may reach them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from time import perf_counter

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from alerts.retries import Outcome
from app.outbound import Outbound
from app.settings import Settings

Manner = Callable[[Reader, Writer], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LOOPBACK = (ip_network("127.0.0.0/8"),)


def settings(**changes: object) -> Settings:
    given = {"webhook_allow": LOOPBACK, "webhook_allow_http": True, "webhook_timeout_seconds": 3}
    return Settings.model_validate({**given, **changes})


@asynccontextmanager
async def endpoint(
    manner: Manner,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    *,
    narrow: bool = False,
) -> AsyncIterator[int]:
    """A server that treats every connection in that manner; gives its port.

    Through a narrow one the kernels take some hundred kilobytes that are not read, and no more.
    """
    busy: set[asyncio.Task[None]] = set()

    async def serve(reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await manner(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    if narrow:
        for listener in server.sockets:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await server.wait_closed()


async def request(reader: Reader) -> bytes:
    """One whole request; one that gives no length has no body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = (line.lower() for line in head.split(b"\r\n"))
    length = next((int(x.split(b":")[1]) for x in lines if x.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


def answers(raw: bytes, heard: list[bytes] | None = None) -> Manner:
    """Answers every request on a connection with the same bytes, then closes if they end it."""

    async def manner(reader: Reader, writer: Writer) -> None:
        while True:
            said = await request(reader)
            if heard is not None:
                heard.append(said)
            writer.write(raw)
            await writer.drain()
            if b"content-length" not in raw:
                return

    return manner


async def sockets_end(port: int, seconds: float = 1.0) -> None:
    """Fails if this process still has a socket that leads to a port after so long; a second is less
    than a connection is kept for.
    """
    until = perf_counter() + seconds
    while perf_counter() < until:
        ends = [c.raddr.port for c in psutil.Process().net_connections("tcp") if c.raddr]
        if port not in ends:
            return
        await asyncio.sleep(0.01)
    pytest.fail("The connection was not ended.")


async def post(url: str, out: Outbound | None = None, body: bytes = b"{}") -> Outcome:
    given = out or Outbound(settings())
    try:
        return await given.post(url, {"content-type": "application/json"}, body)
    finally:
        if out is None:
            await given.close()


def authority(
    folder: Path, name: str, *, expired: bool = False
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for that name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC) - timedelta(days=7 if expired else 0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=str(file))
