"""How clients of the torture ask, try again and write down what they were told.

The standard library alone: it shares no code with the product, and a request can be cut in the middle.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

TIMEOUT_SECONDS = 3.0
GIVES_UP_SECONDS = 120.0

_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class Diary:
    """A log of one process: each line in one write, so that a kill leaves whole ones."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, did: str, **what: Any) -> int:
        """One line; gives its instant by the monotonic clock, in nanoseconds."""
        at = time.monotonic_ns()
        os.write(self._file, json.dumps({"did": did, "at": at, **what}).encode() + b"\n")
        return at


class CutOff(Exception):
    """No whole answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


@dataclass(slots=True)
class Client:
    """One caller with a key, a list of doors to try, and dice that say how its connections break.

    ``cuts`` is how often it cuts a request in the middle, or leaves before the answer.
    """

    key: str
    ports: Sequence[int]
    dice: Random
    cuts: float = 0.0
    _open: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(
        default_factory=dict
    )

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        tried: Callable[[], object] = lambda: None,
        answered: Callable[[Answer], object] = lambda _: None,
    ) -> Answer:
        """Asks with the same bytes, at any of the doors, until there is an answer that does not pass.

        Raises:
            CutOff: there was none for two minutes.
        """
        sent = b"" if body is None else json.dumps(body).encode()
        until, wait = time.monotonic() + GIVES_UP_SECONDS, 0.05
        while time.monotonic() < until:
            port = self.dice.choice(self.ports)
            tried()
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    answer = await self._try(port, method, path, sent, headers or {})
            except (OSError, EOFError, TimeoutError, CutOff, ValueError):
                self._close(port)
            else:
                answered(answer)
                if answer.status not in _PASSING:
                    return answer
                wait = max(wait, min(float(answer.headers.get("retry-after", "0")), 1.0))
            await asyncio.sleep(wait * (0.5 + self.dice.random()))
            wait = min(wait * 2, 1.0)
        raise CutOff(f"{method} {path} had no answer for {GIVES_UP_SECONDS:g} s")

    async def _try(
        self, port: int, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        if port not in self._open:
            self._open[port] = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = self._open[port]
        said = {
            "host": f"127.0.0.1:{port}",
            "authorization": f"Bearer {self.key}",
            "content-type": "application/json",
            "content-length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        whole = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
        cut = self.dice.random()
        if cut < self.cuts / 2:
            writer.write(whole[: self.dice.randrange(1, len(whole))])
            await writer.drain()
            raise CutOff
        writer.write(whole)
        await writer.drain()
        if cut < self.cuts:
            await asyncio.sleep(self.dice.random() * 0.01)
            raise CutOff
        answer = await _read(reader)
        if answer.headers.get("connection", "").lower() == "close":
            self._close(port)
        return answer

    def _close(self, port: int) -> None:
        """Closes at once, whatever was under way."""
        if (pair := self._open.pop(port, None)) is not None:
            pair[1].transport.abort()


async def is_ready(port: int) -> bool:
    """Whether the service there says that it can work."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
                )
                return (await _read(reader)).status == 200
            finally:
                writer.transport.abort()
    except (OSError, EOFError, TimeoutError, ValueError):
        return False


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(first.split(" ")[1]), headers, body)
