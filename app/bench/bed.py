"""The bed: starts what a measure needs in processes of their own, and stops it again."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import asyncpg
import httpx

from app.bench import peer, workload
from app.bench.lines import BenchFailed
from app.bench.peer import Peer
from app.bench.plan import Plan
from app.demo import processes
from app.demo.processes import Wanted
from app.embedded import Embedded

_KEY = Wanted("bench", "admin")
_STOP_SECONDS = 20
_ACTIVE_SECONDS = 20
_LOOK_SECONDS = 0.01
_LATELY = 6
"""Minutes that all report before time is taken: the bench's rule wants four observations within 28, and the
first and the last of these may be of a part only."""


@dataclass(slots=True)
class Tool:
    """A helping process that talks in lines."""

    process: subprocess.Popen[str]

    @property
    def said(self) -> IO[str]:
        """Its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout

    def line(self) -> str:
        """The next line it says."""
        line = self.said.readline()
        if not line:
            told = f"A process of the bench ended: {self.process.args!r}."
            raise BenchFailed(told)
        return line.strip()

    def do(self, task: str, **details: Any) -> dict[str, Any]:
        """Has a hand do something, and gives what it found.

        Raises:
            BenchFailed: it could not.
        """
        self.begin(task, **details)
        return self.found()

    def begin(self, task: str, **details: Any) -> None:
        """Has a hand begin something; ``found`` gives what it found."""
        self._say(json.dumps({"do": task, **details}))

    def end(self) -> dict[str, Any]:
        """Has a hand end what goes on until then, and gives what it found.

        Raises:
            BenchFailed: it could not do it.
        """
        self._say("")
        return self.found()

    def found(self) -> dict[str, Any]:
        """Waits for what a hand has begun.

        Raises:
            BenchFailed: it could not do it.
        """
        answer = json.loads(self.line())
        if "failed" in answer:
            raise BenchFailed(f"The bench could not go on: {answer['failed']}")
        done: dict[str, Any] = answer["done"]
        return done

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@dataclass(frozen=True, slots=True)
class Process:
    """What a process has used: seconds of the processor, and bytes of memory now."""

    cpu: float
    memory: int


@dataclass(frozen=True, slots=True)
class Counted:
    """How many webhooks sinks have taken, and when the last came, in nanoseconds of the monotonic clock."""

    count: int
    last: int


class Bed:
    """A running service with a history, and the tools beside it; they start when first used.

    ``service`` is its address, ``database`` the URL of its own PostgreSQL, ``key`` may do everything.
    ``minute`` is the next of which the service was told nothing, and ``minute_of_others`` the next of which
    others were not, such as the peer: what they take must leave no gap in our series. ``start`` is the
    instant of minute 0.
    """

    def __init__(self, stack: ExitStack, plan: Plan) -> None:
        self._stack = stack
        self.plan = plan
        spare = timedelta(minutes=plan.samples + plan.spare_minutes)
        self.start = (datetime.now(UTC) - spare).replace(second=0, microsecond=0)
        self.minute = self.minute_of_others = plan.samples
        self.history = workload.History(plan.series, plan.samples, self.start)
        self._folder = _fresh_folder(stack)
        self.database = Embedded(self._folder).url
        self.service, self._running = "", stack.enter_context(ExitStack())
        self._others: list[str] = []
        self.start_service()
        with ThreadPoolExecutor(1) as beside:
            keys = beside.submit(processes.create_keys, self._folder, [_KEY])
            asyncio.run(self.history.begin(self.database))
            self.key = keys.result()[_KEY.name].token

    @cached_property
    def _client(self) -> httpx.Client:
        said = {"Authorization": f"Bearer {self.key}"}
        return self._stack.enter_context(httpx.Client(headers=said, timeout=60))

    @cached_property
    def hand(self) -> Tool:
        """Puts load on and runs bare limits."""
        return self._stack.enter_context(hand())

    @cached_property
    def other_hand(self) -> Tool:
        """Puts load on while the first hand does something else."""
        return self._stack.enter_context(hand())

    @cached_property
    def echo(self) -> str:
        """The address of the bare framework."""
        return self._stack.enter_context(_tool("app.bench.echo")).line()

    @cached_property
    def sinks(self) -> list[str]:
        """The addresses of a receiver, as many as the plan has receivers."""
        ports = str(max(self.plan.receivers))
        found: list[str] = json.loads(
            self._stack.enter_context(_tool("app.bench.sink", "--ports", ports)).line()
        )
        return found

    @property
    def peer(self) -> str:
        """The address of the peer's way in."""
        return self._peer.url

    @cached_property
    def _peer(self) -> Peer:
        return self._stack.enter_context(peer.running(self.sinks[0]))

    def awake(self, *urls: str) -> AbstractContextManager[None]:
        """Lets the peer run while the block does, if one of these is its address."""
        if self.plan.peer and self.peer in urls:
            return self._peer.awake()
        return nullcontext()

    def start_service(self) -> float:
        """Starts the service, and its PostgreSQL if that does not run; seconds until it was ready."""
        url, context, took = _service(self._folder, "all")
        self.service = url
        self._running.enter_context(context)
        return took()

    def stop_service(self) -> None:
        """Stops the service, and its PostgreSQL if nobody else uses it."""
        self._running.close()

    def grow(self, stored: int) -> None:
        """Has so many signals stored, spread over 36 months, while the service is stopped."""
        embedded = Embedded(self._folder)
        embedded.start()
        try:
            self.stop_service()
            asyncio.run(self.history.grow(self.database, stored))
            self.start_service()
        finally:
            embedded.stop()

    @contextmanager
    def more(self, count: int, role: str) -> Iterator[list[str]]:
        """So many more processes on the same database while the block runs. Gives all addresses."""
        with ExitStack() as stack:
            for _ in range(count):
                url, context, _ = _service(self._folder, role)
                stack.enter_context(context)
                self._others.append(url)
                stack.callback(self._others.remove, url)
            yield [self.service, *self._others]

    def sql(self, query: str) -> Any:
        """What the database answers: the first column of the first row."""

        async def ask() -> Any:
            raw = await asyncpg.connect(self.database)
            try:
                return await raw.fetchval(query)
            finally:
                await raw.close()

        return asyncio.run(ask())

    def _when(self, *urls: str) -> dict[str, Any]:
        """What a hand must know to report there."""
        start = self.start.isoformat()
        minute = self.minute if self._is_told(urls) else self.minute_of_others
        return {"key": self.key, "series": self.plan.series, "start": start, "minute": minute}

    def _is_told(self, urls: Iterable[str]) -> bool:
        return any(url.startswith((self.service, *self._others)) for url in urls)

    def _move_on(self, urls: Iterable[str], minute: int) -> None:
        if self._is_told(urls):
            self.minute = max(self.minute, minute)
        else:
            self.minute_of_others = max(self.minute_of_others, minute)

    def post(self, *urls: str, **details: Any) -> dict[str, Any]:
        """Has the hand post signals to services, to the echo or to the peer, and moves on in time."""
        with self.awake(*urls):
            found = self.hand.do("post", urls=urls, **self._when(*urls), **details)
        if not details.get("again"):
            self._move_on(urls, int(found["minute"]))
        return found

    def warm_up(self, *urls: str) -> None:
        """Has every series report to each of the services (to the one of the bed if none is named), so
        that it has met them all before time is taken, and each has reported lately as often as rules want.
        """
        batch = min(1_000, self.plan.series)
        for url in urls or (self.service,):
            until, seconds = self.minute + _LATELY, min(1.0, self.plan.seconds)
            while self.minute < until:
                self.post(f"{url}/v1/signals", batch=batch, connections=1, seconds=seconds)
                seconds *= 2

    def mark(self, url: str, **details: Any) -> dict[str, int]:
        """Has the hand open alerts; when each POST began, by what its first alert is about."""
        when = self._when(url)
        sent = self.hand.do("post_marks", url=url, **when, **details)
        self._move_on([url], int(when["minute"]) + 1)
        begun: dict[str, int] = sent["begun"]
        return begun

    @contextmanager
    def flow(self, url: str, **details: Any) -> Iterator[list[float]]:
        """Has the other hand report steadily while the block runs; afterwards gives the rate it reached."""
        reached: list[float] = []
        self.other_hand.begin("flow", url=url, **self._when(url), **details)
        try:
            yield reached
        finally:
            found = self.other_hand.end()
        self._move_on([url], int(found["minute"]))
        reached.append(float(found["rate"]))

    def subscribe(self, endpoint: str, **wishes: Any) -> str:
        """Subscribes an endpoint and waits until it has consented; the subscription's id.

        Raises:
            BenchFailed: it did not consent.
        """
        (made,) = self.subscribe_all([endpoint], **wishes)
        return made

    def subscribe_all(self, endpoints: Sequence[str], **wishes: Any) -> list[str]:
        """Subscribes endpoints and waits until all have consented; the ids of the subscriptions.

        Raises:
            BenchFailed: one did not consent.
        """
        made = [
            str(self.ask("POST", "/v1/subscriptions", {"url": url, "filter": wishes})["id"])
            for url in endpoints
        ]
        until = time.monotonic() + _ACTIVE_SECONDS
        for one in made:
            while self.ask("GET", f"/v1/subscriptions/{one}")["status"] != "active":
                if time.monotonic() > until:
                    raise BenchFailed("A sink of the bench did not become an active endpoint.")
                time.sleep(0.05)
        return made

    def unsubscribe(self, subscriptions: Sequence[str]) -> None:
        """Ends subscriptions."""
        for one in subscriptions:
            self.ask("DELETE", f"/v1/subscriptions/{one}")

    def process(self) -> Process:
        """What the service has used so far, all its processes together, by their own metrics."""
        used = Process(0, 0)
        for url in (self.service, *self._others):
            said = self._client.get(f"{url}/metrics").text
            found = dict(
                line.rsplit(" ", 1) for line in said.splitlines() if line.startswith("process_")
            )
            used = Process(
                used.cpu + float(found["process_cpu_seconds_total"]),
                used.memory + int(float(found["process_resident_memory_bytes"])),
            )
        return used

    def counted(self) -> Counted:
        """What the sinks have taken so far."""
        said = self._client.get(f"{self.sinks[0]}/counted").json()
        return Counted(said["count"], said["last"])

    def wait_for(self, count: int, seconds: float) -> Counted:
        """Waits until the sinks have taken so many in all.

        Raises:
            BenchFailed: they have not in time.
        """
        until = time.monotonic() + seconds
        while (found := self.counted()).count < count:
            if time.monotonic() > until:
                raise BenchFailed(
                    f"{count - found.count} webhooks did not come within {seconds:g} s."
                )
            time.sleep(0.02)
        return found

    def heard(self, wanted: Iterable[str], seconds: float) -> dict[str, int]:
        """When the sink first heard of each alert, once it has heard of all that are wanted.

        Raises:
            BenchFailed: one did not come in time.
        """
        found: dict[str, int] = {}
        until = time.monotonic() + seconds
        while missing := set(wanted) - found.keys():
            if time.monotonic() > until:
                raise BenchFailed(f"{len(missing)} webhooks did not come within {seconds:g} s.")
            for name, at in self._client.get(f"{self.sinks[0]}/heard").json().items():
                found.setdefault(name, at)
            time.sleep(0.02)
        return found

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Asks the service something outside of what is measured.

        Raises:
            BenchFailed: it refused.
        """
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        kind = {"content-type": "application/json"}
        answer = self._client.request(method, f"{self.service}{path}", headers=kind, **sent)
        if not answer.is_success:
            raise BenchFailed(f"{method} {path} was answered {answer.status_code}: {answer.text}")
        return answer.json() if answer.content else {}


@contextmanager
def make(plan: Plan) -> Iterator[Bed]:
    """A bed in a fresh folder below the current one, so that the disk is the one you would use.

    Raises:
        BenchFailed: the folder cannot be made.
        DemoFailed: the service did not start.
    """
    with ExitStack() as stack:
        yield Bed(stack, plan)


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds until a service was ready in a fresh folder, and again in the same.

    ``bare`` is until FastAPI with one route was ready, and PostgreSQL in that folder beside it.
    """

    fresh: float
    again: float
    bare: float


def starts() -> Starts:
    """Starts them one after the other."""
    with ExitStack() as stack:
        folder, took = _fresh_folder(stack), []
        for _ in range(2):
            _, context, until_ready = _service(folder, "all")
            with context:
                took.append(until_ready())
        return Starts(took[0], took[1], _bare_start(folder))


def _bare_start(folder: Path) -> float:
    port, ended, server = processes.free_port("127.0.0.1"), threading.Event(), Embedded(folder)
    begun = time.monotonic()
    with (
        ThreadPoolExecutor(1) as beside,
        _tool("app.bench.bare_start", str(port)) as tool,
    ):
        ready_at = beside.submit(_ready_at, port, ended)
        try:
            server.start()
            started_at = time.monotonic()
            while tool.process.poll() is None and not ready_at.done():
                time.sleep(_LOOK_SECONDS)
        finally:
            ended.set()
            server.stop()
        return max(ready_at.result(), started_at) - begun


def _service(
    folder: Path, role: str
) -> tuple[str, AbstractContextManager[str], Callable[[], float]]:
    """A service that is about to be started on that folder: its address, itself, and what tells how many
    seconds it took until it was ready.
    """
    port = processes.free_port("127.0.0.1")
    settings = {
        "FOREWARN_PROFILES_DIR": str(workload.PROFILES),
        # All load comes from one partner, who may fill half: 64 batches of 1,000.
        "FOREWARN_INGEST_WAITING_LIMIT": "200000",
    }
    ended, took = threading.Event(), math.nan

    @contextmanager
    def running() -> Iterator[str]:
        nonlocal took
        with ThreadPoolExecutor(1) as beside:
            begun = time.monotonic()
            ready_at = beside.submit(_ready_at, port, ended)
            try:
                with processes.service("127.0.0.1", port, folder, settings, role=role) as url:
                    took = ready_at.result() - begun
                    yield url
            finally:
                ended.set()

    return processes.address("127.0.0.1", port), running(), lambda: took


def _ready_at(port: int, ended: threading.Event) -> float:
    """When the service on that port first said that it is ready; looks more often than who waits for it."""
    while not ended.wait(_LOOK_SECONDS):
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            asked.request("GET", "/readyz")
            if asked.getresponse().status == 200:
                return time.monotonic()
        except OSError:
            pass
        finally:
            asked.close()
    return math.nan


def _fresh_folder(stack: ExitStack) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix=".forewarn-bench-", dir=Path.cwd()))
    except OSError as error:
        told = f"The bench needs a folder it may write in; here it may not ({error.strerror})."
        raise BenchFailed(told) from error
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def hand() -> AbstractContextManager[Tool]:
    """A hand alone, for what needs no service."""
    return _tool("app.bench.hand")


@contextmanager
def _tool(module: str, *words: str) -> Iterator[Tool]:
    process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
        [sys.executable, "-m", module, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=processes.outside(),
        start_new_session=True,
    )
    try:
        yield Tool(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
