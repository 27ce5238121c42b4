"""Load as partners make it: signals over HTTP/1.1, on connections that stay open.

Written on bare asyncio: an HTTP client library costs more than the service it would measure, and
shares the machine with it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import cycle, islice
from typing import Any, cast
from urllib.parse import urlsplit

from app.bench import workload
from app.bench.forms import FORMS, subject
from app.bench.lines import BenchFailed, quantile

PATIENCE_SECONDS = 60
_MOST_PER_SECOND = 120_000
_MOST_REQUESTS_PER_SECOND = 12_000
_CYCLE = 16
_MOST_WIRES = 256


class Wire(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._read = b""
        self._needs = 0
        self._head = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way to write."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells whoever waits."""
        if self._answer is not None and not self._answer.done():
            said = f"The connection was closed before an answer came ({exc or 'in order'})."
            self._answer.set_exception(BenchFailed(said))

    def data_received(self, data: bytes) -> None:
        """Collects an answer; every answer must have a Content-Length."""
        self._read += data
        if not self._needs:
            self._head = self._read.find(b"\r\n\r\n") + 4
            if self._head < 4:
                return
            length = self._read[: self._head].lower().split(b"content-length:", 1)[1]
            self._needs = self._head + int(length.split(b"\r\n", 1)[0])
        if len(self._read) < self._needs or self._answer is None:
            return
        if not self._answer.done():  # Whoever asked may have given up.
            status = int(self._read[9:12])
            self._answer.set_result((status, self._read[self._head : self._needs]))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends a whole request and gives status and body."""
        assert self._transport is not None
        self._read, self._needs = b"", 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.close()


async def connect(url: str) -> Wire:
    """Opens a connection to the host of ``url``."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(Wire, where.hostname, where.port)
    return wire


def request(url: str, key: str, body: bytes) -> bytes:
    """The bytes of a POST."""
    where = urlsplit(url)
    target = where.path + (f"?{where.query}" if where.query else "")
    head = (
        f"POST {target} HTTP/1.1\r\nhost: {where.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def post(
    *,
    urls: list[str],
    key: str,
    series: int,
    start: str,
    minute: int,
    batch: int,
    connections: int,
    seconds: float,
    again: bool = False,
    form: str = "ours",
    firing: int = 0,
) -> dict[str, Any]:
    """Posts signals on several connections for a while; each connection reports series of its own.

    Args:
        urls: the whole addresses to post to; the connections are spread over them.
        key: of a partner.
        series: how many report.
        start: the instant of minute 0.
        minute: the first minute nobody has reported yet.
        batch: signals in a request.
        connections: how many send at the same time, each one request after the other.
        seconds: how long no further request is begun after.
        again: sends the same few bodies again and again, for who does not look at them.
        form: how signals are written, of ``FORMS``.
        firing: so many of the series report far too much, each time.

    Returns:
        ``rate`` in signals a second, ``p50`` and ``p99`` of a request in milliseconds, and
        ``minute``, the next one nobody has reported yet.

    Raises:
        BenchFailed: a signal was not accepted, so that there is nothing to measure.
    """
    keys = workload.series(series)
    bodies, wires = [], []
    made = _CYCLE if again else _enough(batch, connections, seconds)
    for number in range(connections):
        own, url = range(number, series, connections), urls[number % len(urls)]
        source = workload.Bodies(keys, own, datetime.fromisoformat(start), FORMS[form], firing)
        some = [request(url, key, body) for body in islice(source.batches(batch, minute), made)]
        bodies.append(cycle(some) if again else iter(some))
        wires.append(await connect(url))
    accepted = FORMS[form].answer(batch)
    begun = time.perf_counter()
    counted = await asyncio.gather(
        *(
            _send(wire, requests, accepted, begun + seconds)
            for wire, requests in zip(wires, bodies, strict=True)
        )
    )
    ended = time.perf_counter()
    for wire in wires:
        wire.close()
    took = [one for some in counted for one in some]
    if not took:
        raise BenchFailed("Not one request was answered.")
    furthest = max(len(some) for some in counted) * batch // max(1, series // connections)
    return {
        "rate": len(took) * batch / (ended - begun),
        "p50": quantile(took, 0.5) * 1000,
        "p99": quantile(took, 0.99) * 1000,
        "minute": minute + furthest + 1,
    }


def _enough(batch: int, connections: int, seconds: float) -> int:
    """How many bodies a connection may need, made before the clock runs."""
    most = min(_MOST_PER_SECOND / batch, _MOST_REQUESTS_PER_SECOND)
    return int(most * max(seconds, 0.2) / connections) + 2


async def _send(
    wire: Wire, requests: Iterator[bytes], accepted: bytes, until: float
) -> list[float]:
    """How long each answer took, in seconds."""
    took = []
    for sent in requests:
        begun = time.perf_counter()
        if begun >= until:
            break
        await _ask(wire, sent, accepted)
        took.append(time.perf_counter() - begun)
    return took


async def _ask(wire: Wire, sent: bytes, accepted: bytes) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        status, answer = await wire.ask(sent)
    if status != 200 or not answer.startswith(accepted):
        said = answer[:300].decode(errors="replace")
        raise BenchFailed(f"Signals were not accepted: {status} {said}")


async def flow(
    *, url: str, key: str, series: int, start: str, minute: int, batch: int, rate: float, form: str
) -> dict[str, Any]:
    """Posts calm signals at that rate a second, whether answers come or not, until told to stop.

    The second half of the series report, so that the first can be marked. A request that comes due
    while every connection waits for an answer opens one more, up to 256. A line on standard input ends it.

    Returns:
        ``rate``, signals accepted a second until the last answer; ``minute``, the next one that nobody
        has reported yet.
    """
    keys, shape = workload.series(series), FORMS[form]
    source = workload.Bodies(keys, range(series // 2, series), datetime.fromisoformat(start), shape)
    bodies, accepted = source.batches(batch, minute), shape.answer(batch)
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    waiting: asyncio.Queue[bytes] = asyncio.Queue()
    wires: list[Wire] = []
    idle = 0

    async def send_on(wire: Wire) -> None:
        """Takes what waits in its order, so that no series hears of a later minute first."""
        nonlocal idle
        while True:
            idle += 1
            sent = await waiting.get()
            idle -= 1
            await _ask(wire, sent, accepted)
            waiting.task_done()

    begun, count = time.perf_counter(), 0
    try:
        async with asyncio.TaskGroup() as under_way:
            senders: list[asyncio.Task[None]] = []
            while not told.done():
                waiting.put_nowait(request(url, key, next(bodies)))
                if waiting.qsize() > idle and len(wires) < _MOST_WIRES:
                    wires.append(wire := await connect(url))
                    senders.append(under_way.create_task(send_on(wire)))
                count += 1
                due = begun + count * batch / rate
                await asyncio.sleep(max(0, due - time.perf_counter()))
            await waiting.join()
            for sender in senders:
                sender.cancel()
    except* BenchFailed as failed:
        raise failed.exceptions[0] from failed
    ended = time.perf_counter()
    for wire in wires:
        wire.close()
    furthest = count * batch // max(1, series - series // 2)
    return {"rate": count * batch / (ended - begun), "minute": minute + furthest + 1}


async def post_marks(
    *,
    url: str,
    key: str,
    series: int,
    start: str,
    minute: int,
    first: int,
    count: int,
    pause: float,
    form: str = "ours",
    batch: int = 1,
    exercise: str = "",
) -> dict[str, Any]:
    """Posts signals that each open an alert, one request after the other with a pause between.

    Returns:
        ``begun``: for each request by the name of its first alert, when its POST began, in nanoseconds
        of the monotonic clock.
    """
    keys = workload.series(series, exercise)[first : first + count]
    when, shape = workload.instant(datetime.fromisoformat(start), minute), FORMS[form]
    sent = [request(url, key, body) for body in workload.marks(keys, when, shape, batch)]
    wire = await connect(url)
    begun = {}
    for one, body in zip(keys[::batch], sent, strict=True):
        begun[subject(one.sector, one.good, one.place)] = time.monotonic_ns()
        await _ask(wire, body, b"")
        await asyncio.sleep(pause)
    wire.close()
    return {"begun": begun}


async def read(*, url: str, key: str, paths: list[str], seconds: float) -> dict[str, Any]:
    """Reads these pages in turn, one after the other on one connection, for a while but each once at least.

    Returns:
        ``p50`` and ``p99`` of a whole answer in milliseconds.
    """
    where = urlsplit(url)
    asked = [
        f"GET {path} HTTP/1.1\r\nhost: {where.netloc}\r\nauthorization: Bearer {key}\r\n\r\n".encode()
        for path in paths
    ]
    wire, took = await connect(url), []
    until = time.perf_counter() + seconds
    for number, one in enumerate(cycle(asked)):
        begun = time.perf_counter()
        if begun >= until and number >= len(asked):
            break
        async with asyncio.timeout(PATIENCE_SECONDS):
            status, _ = await wire.ask(one)
        if status != 200:
            raise BenchFailed(f"{paths[number % len(paths)]} was answered {status}.")
        took.append(time.perf_counter() - begun)
    wire.close()
    return {"p50": quantile(took, 0.5) * 1000, "p99": quantile(took, 0.99) * 1000}
