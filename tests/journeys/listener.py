"""A receiver of webhooks as a process of its own, which writes down what it hears before it answers.

    python -m tests.journeys.listener --log heard.jsonl --secret whsec_...

The first line on standard output is its port. The path of a request says how it is answered; ``once/``
before it means the first time an id comes, and afterwards it is taken, ``ill/`` as long as there is no file
``far.well`` beside a log ``far.jsonl``:

    ok                 taken
    after/0.5          taken after so many seconds
    held/100/5         taken once so many are held at the same time, and so many seconds after it came
    status/500/0.1     answered with that after so many seconds
    silent             never answered
    sips               read no further than the head, where the body is a long one
    garbage/<kind>     answered with something that is no answer (``GARBAGE``)
    hangs/<kind>       answered with the beginning of an answer (``HANGS``)

Everything verified is a line of the log, in one write, before the answer: what came, and when by the
monotonic clock. What could not be verified is a line as well, and is answered 400. A signature's
instant may be five minutes off, as libraries have it; ``--any-time`` takes any.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.bench import loops

GARBAGE = {
    "noise": b"\x00\xff\x16\x03\x01 there is no HTTP here \r\n\r\n",
    "nothing": b"",
    "broken-off": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
    "two-lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "bad-chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nno\r\n",
    "no-status": b"HTTP/1.1 OK\r\n\r\n",
    "too-long": b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000,
    "elsewhere": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
}
"""What is no answer; the connection is closed behind it."""

HANGS = {
    "head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "body": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
}
"""Answers that stop in the middle, and nothing follows."""

_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(slots=True)
class Notes:
    """What is written down, and what is remembered to answer by."""

    log: int
    well: Path
    webhook: Webhook
    any_time: bool
    seen: set[str] = field(default_factory=set)
    held: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, line: dict[str, Any]) -> None:
        """One line, in one write: a process that is killed leaves whole ones."""
        os.write(self.log, json.dumps(line).encode() + b"\n")

    def hear(self, headers: dict[str, str], body: bytes) -> dict[str, Any] | None:
        """Writes down a request; what it says, or None when it is not verified."""
        webhook_id = headers.get("webhook-id", "")
        try:
            self._verify(headers, body)
        except (WebhookVerificationError, ValueError, KeyError) as error:
            self.write({"refused": webhook_id, "because": repr(error)})
            return None
        said: dict[str, Any] = json.loads(body)
        data = json.dumps(said["data"], sort_keys=True).encode()
        self.write(
            {
                "id": webhook_id,
                "sequence": said["sequence"],
                "body": hashlib.sha256(body).hexdigest(),
                "data": hashlib.sha256(data).hexdigest(),
                "at": time.monotonic_ns(),
            }
        )
        return said

    def _verify(self, headers: dict[str, str], body: bytes) -> None:
        if not self.any_time:
            self.webhook.verify(body, headers)
            return
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        signed = self.webhook.sign(headers["webhook-id"], at, body.decode())
        if signed not in headers["webhook-signature"].split(" "):
            raise WebhookVerificationError


class Line(asyncio.Protocol):
    """One connection of a sender."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._read = bytearray()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way to write."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for the answers any more."""
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """Answers every whole request; bodies have a Content-Length."""
        self._read += data
        while (end := self._read.find(b"\r\n\r\n") + 4) >= 4:
            first, *pairs = self._read[: end - 4].decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (p.partition(":") for p in pairs)
            }
            length = int(headers.get("content-length", "0"))
            manner = self._manner(first.split(" ")[1], headers.get("webhook-id", ""))
            if manner[0] == "sips" and len(self._read) < end + length:
                self._notes.seen.add(headers["webhook-id"])
                self._notes.write({"sipped": headers["webhook-id"]})
                assert self._transport is not None
                self._transport.pause_reading()
                return
            if len(self._read) < end + length:
                return
            body = bytes(self._read[end : end + length])
            del self._read[: end + length]
            self._answer(manner, headers, body)

    def _manner(self, path: str, webhook_id: str) -> list[str]:
        words = path.strip("/").split("/")
        match words[0]:
            case "once":
                return ["ok"] if webhook_id in self._notes.seen else words[1:]
            case "ill":
                return ["ok"] if self._notes.well.exists() else words[1:]
            case _:
                return words

    def _answer(self, manner: list[str], headers: dict[str, str], body: bytes) -> None:
        assert self._transport is not None
        self._notes.seen.add(headers.get("webhook-id", ""))
        said = self._notes.hear(headers, body)
        if said is None:
            self._transport.write(b"HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n")
            return
        if said["type"] == "webhook.verify":
            self._transport.write(_told({"challenge": said["data"]["challenge"]}))
            return
        match manner:
            case ["status", status, seconds]:
                answer = f"HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n"
                self._later(self._say(answer.encode(), float(seconds)))
            case ["garbage", kind]:
                self._transport.write(GARBAGE[kind])
                self._transport.close()
            case ["hangs", kind]:
                self._transport.write(HANGS[kind])
            case ["silent"]:
                return
            case ["after", seconds]:
                self._later(self._say(_TAKEN, float(seconds)))
            case ["held", many, seconds]:
                self._later(self._hold(int(many), float(seconds)))
            case _:
                self._transport.write(_TAKEN)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _say(self, answer: bytes, seconds: float) -> None:
        await asyncio.sleep(seconds)
        assert self._transport is not None
        self._transport.write(answer)

    async def _hold(self, many: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._notes.held += 1
        if self._notes.held >= many:
            self._notes.full.set()
        await self._notes.full.wait()
        await self._say(_TAKEN, max(0.0, until - time.monotonic()))


def _told(said: Any) -> bytes:
    body = json.dumps(said).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def listen(port: int, notes: Notes) -> None:
    """Listens until it is told to stop, or killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Line(notes), "127.0.0.1", port, backlog=4_096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> int:
    """Runs the listener."""
    parser = argparse.ArgumentParser(prog="tests.journeys.listener")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--any-time", action="store_true")
    told = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    log = os.open(told.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    notes = Notes(log, told.log.with_suffix(".well"), Webhook(told.secret), told.any_time)
    loops.run(listen(told.port, notes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
