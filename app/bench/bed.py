"""The bed: starts what a measure needs in processes of their own, and stops it again."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import httpx

from app.bench import workload
from app.bench.lines import BenchFailed
from app.bench.plan import Plan
from app.demo import processes
from app.demo.processes import Wanted
from app.embedded import Embedded

_KEY = Wanted("bench", "admin")
_STOP_SECONDS = 20
_ACTIVE_SECONDS = 20


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
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": task, **details}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.line())
        if "failed" in answer:
            raise BenchFailed(f"The bench could not {task}: {answer['failed']}")
        done: dict[str, Any] = answer["done"]
        return done


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
    ``minute`` is the next that nobody has reported; ``start`` the instant of minute 0.
    """

    def __init__(
        self,
        stack: ExitStack,
        plan: Plan,
        service: str,
        database: str,
        key: str,
        start: datetime,
        start_worker: Callable[[], AbstractContextManager[str]],
    ) -> None:
        self._stack = stack
        self.plan = plan
        self.service = service
        self.database = database
        self.key = key
        self.start = start
        self.minute = plan.samples
        self._start_worker = start_worker
        self._workers: list[str] = []

    @cached_property
    def _client(self) -> httpx.Client:
        said = {"Authorization": f"Bearer {self.key}"}
        return self._stack.enter_context(
            httpx.Client(base_url=self.service, headers=said, timeout=30)
        )

    @cached_property
    def hand(self) -> Tool:
        """Puts load on and runs bare limits."""
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

    def add_worker(self) -> None:
        """Starts one more process that sends, for as long as the bed is there."""
        self._workers.append(self._stack.enter_context(self._start_worker()))

    def post(self, url: str, **details: Any) -> dict[str, Any]:
        """Has the hand post signals to the service or to the echo, and moves on in time."""
        found = self.hand.do(
            "post",
            url=url,
            key=self.key,
            series=self.plan.series,
            start=self.start.isoformat(),
            minute=self.minute,
            **details,
        )
        if not details.get("again"):
            self.minute = int(found["minute"])
        return found

    def warm_up(self) -> None:
        """Has every series report, so that the service has met them all before time is taken."""
        batch, first = min(1_000, self.plan.series), self.minute
        seconds = min(1.0, self.plan.seconds)
        while self.minute < first + 2:  # The next but one begins when all have reported one.
            first = self.minute
            self.post(f"{self.service}/v1/signals", batch=batch, connections=1, seconds=seconds)
            seconds *= 2

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
        for url in (self.service, *self._workers):
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
        answer = self._client.request(method, path, headers=kind, **sent)
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
    now = datetime.now(UTC)
    history = timedelta(minutes=plan.samples + plan.spare_minutes)
    start = (now - history).replace(second=0, microsecond=0)
    with ExitStack() as stack:
        folder = _fresh_folder(stack)
        port = processes.free_port("127.0.0.1")
        settings = {"FOREWARN_PROFILES_DIR": str(workload.PROFILES)}
        url = stack.enter_context(processes.service("127.0.0.1", port, folder, settings))
        database = Embedded(folder).url
        with ThreadPoolExecutor(1) as beside:
            keys = beside.submit(processes.create_keys, folder, [_KEY])
            asyncio.run(workload.store_history(database, plan.series, plan.samples, start))
            key = keys.result()[_KEY.name].token

        def worker() -> AbstractContextManager[str]:
            port = processes.free_port("127.0.0.1")
            return processes.service("127.0.0.1", port, folder, settings, role="worker")

        yield Bed(stack, plan, url, database, key, start, worker)


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
