"""A receiver of webhooks that notes when they came, as cheaply as it can.

    python -m app.bench.sink --ports 50

The first line on standard output is its addresses as a JSON list. A path that begins with ``/hear``
keeps every body with its instant; any other is only counted. ``GET /heard`` gives, by the name of what
it is about, when an alert was first heard of, in nanoseconds of the monotonic clock, and forgets it;
``GET /counted`` gives how many bodies were taken, of how many bytes, and when the last came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, cast

from app.bench import forms, loops

_TAKEN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass(slots=True)
class Notes:
    """What came so far."""

    heard: list[tuple[int, bytes]] = field(default_factory=list)
    count: int = 0
    size: int = 0
    last: int = 0

    def answer(self, head: bytes, body: bytes) -> bytes:
        """What to say to one request."""
        now = time.monotonic_ns()
        if head.startswith(b"GET /heard"):
            return _told(self._first_heard())
        if head.startswith(b"GET /counted"):
            return _told({"count": self.count, "bytes": self.size, "last": self.last})
        if b'"webhook.verify"' in body[:100]:
            return _told({"challenge": json.loads(body)["data"]["challenge"]})
        self.count += 1
        self.last = now
        self.size += len(body)
        if head.startswith(b"POST /hear"):
            self.heard.append((now, body))
        return _TAKEN

    def _first_heard(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for at, body in self.heard:
            said = json.loads(body)
            # The peer tells of several at once, and names what they are about by labels.
            about = (
                [a["labels"] for a in said["alerts"]]
                if "alerts" in said
                else [said["data"]["alert"]]
            )
            for one in about:
                found.setdefault(forms.subject(one["sector"], one["good"], one["place"]), at)
        self.heard.clear()
        return found


def _told(said: Any) -> bytes:
    body = json.dumps(said).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Line(asyncio.Protocol):
    """One connection of a sender."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way to write."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answers every whole request; bodies have a Content-Length."""
        self._read += data
        while (end := self._read.find(b"\r\n\r\n") + 4) >= 4:
            head = self._read[:end]
            _, named, rest = head.lower().partition(b"content-length:")
            length = int(rest.split(b"\r\n", 1)[0]) if named else 0
            if len(self._read) < end + length:
                return
            body, self._read = self._read[end : end + length], self._read[end + length :]
            assert self._transport is not None
            self._transport.write(self._notes.answer(head, body))


async def listen(ports: int) -> None:
    """Listens on so many free ports until it is told to stop."""
    notes = Notes()
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Line(notes), "127.0.0.1", 0, backlog=1024)
        for _ in range(ports)
    ]
    found = [f"http://127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in servers]
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> int:
    """Runs the sink."""
    parser = argparse.ArgumentParser(prog="app.bench.sink")
    parser.add_argument("--ports", type=int, default=1)
    loops.run(listen(parser.parse_args().ports))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
