"""A partner's endpoint on a real socket: checks every signature with the reference library."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from standardwebhooks.webhooks import Webhook


@dataclass(frozen=True, slots=True)
class Heard:
    """One request: its headers, its body, and how many of its signatures each secret made."""

    id: str
    headers: dict[str, str]
    raw: bytes
    verified_by: tuple[str, ...]

    @property
    def body(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.raw)
        return told

    @property
    def type(self) -> str:
        return str(self.body["type"])

    @property
    def sequence(self) -> int:
        return int(self.body["sequence"])


Answer = tuple[int, bytes] | tuple[int, bytes, Mapping[str, str]]
"""A status, a body, and headers if there are any."""
Manner = Callable[[Heard], Awaitable[Answer]]


async def consenting(heard: Heard) -> Answer:
    """Takes everything, and answers a challenge as the documentation says."""
    if heard.type == "webhook.verify":
        return 200, json.dumps({"challenge": heard.body["data"]["challenge"]}).encode()
    return 204, b""


@dataclass(slots=True)
class Receiver:
    """An endpoint in some manner; it may go down and come back on the same port.

    ``handshake`` are the headers with which it answers ``OPTIONS``; None refuses to. ``asked`` are the
    headers of those who did.
    """

    manner: Manner = consenting
    handshake: dict[str, str] | None = None
    secrets: list[str] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _busy: set[asyncio.Task[None]] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def up(self) -> None:
        """Listens, on the port it had before if it had one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Stops listening and breaks every connection."""
        if self._server is None:
            return
        self._server.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def hear(self, many: int, within_seconds: float = 10) -> list[Heard]:
        """Waits until that many requests have come, and gives all that have."""
        async with asyncio.timeout(within_seconds):
            while len(self.heard) < many:
                self._news.clear()
                await self._news.wait()
        return self.heard

    def events(self) -> list[Heard]:
        """What came besides challenges, in the order in which it came."""
        return [heard for heard in self.heard if heard.type != "webhook.verify"]

    def times_heard(self) -> Counter[str]:
        """How often each id came."""
        return Counter(heard.id for heard in self.heard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                heard = await self._read(reader, writer)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    answer = await self.manner(heard)
                finally:
                    self.at_once -= 1
                status, body = answer[0], answer[1]
                more = answer[2] if len(answer) == 3 else {}
                said = "".join(f"{name}: {value}\r\n" for name, value in more.items())
                writer.write(
                    f"HTTP/1.1 {status} Said\r\n{said}content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        self._busy.discard(task)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Heard:
        """The next webhook; what asks before it by ``OPTIONS`` is answered with the handshake."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            pairs = [line.partition(":") for line in head.split("\r\n")[1:] if line]
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            if not head.startswith("OPTIONS "):
                break
            self.asked.append(headers)
            status = 405 if self.handshake is None else 200
            said = "".join(f"{name}: {value}\r\n" for name, value in (self.handshake or {}).items())
            writer.write(f"HTTP/1.1 {status} Said\r\n{said}content-length: 0\r\n\r\n".encode())
        raw = await reader.readexactly(int(headers["content-length"]))
        heard = Heard(headers["webhook-id"], headers, raw, self._signers(headers, raw))
        self.heard.append(heard)
        self._news.set()
        return heard

    def _signers(self, headers: dict[str, str], raw: bytes) -> tuple[str, ...]:
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        given = headers["webhook-signature"].split(" ")
        return tuple(
            secret
            for secret in self.secrets
            if Webhook(secret).sign(headers["webhook-id"], at, raw.decode()) in given
        )


@asynccontextmanager
async def receiver(manner: Manner = consenting) -> AsyncIterator[Receiver]:
    """One that is up while the block runs."""
    made = Receiver(manner)
    await made.up()
    try:
        yield made
    finally:
        await made.down()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
