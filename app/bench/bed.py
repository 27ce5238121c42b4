"""The bed: starts what a measure needs in processes of their own, and stops it again."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from app.bench import workload
from app.bench.lines import BenchFailed
from app.bench.plan import Plan
from app.demo import processes
from app.demo.client import Client
from app.demo.processes import Wanted
from app.embedded import Embedded

_KEY = Wanted("bench", "admin")
_ORDER_SECONDS = 300
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


class Bed:
    """A running service with a history, and the tools beside it; each tool starts when first used.

    ``minute`` is the next that nobody has reported; ``start`` the instant of minute 0.
    """

    def __init__(
        self, stack: ExitStack, plan: Plan, service: str, folder: Path, start: datetime
    ) -> None:
        self._stack = stack
        self.plan = plan
        self.service = service
        self.folder = folder
        self.start = start
        self.minute = plan.samples

    @cached_property
    def key(self) -> str:
        """A key that may do everything."""
        return processes.create_keys(self.folder, [_KEY])[_KEY.name].token

    @cached_property
    def client(self) -> Client:
        """Speaks to the service where no time is taken."""
        return self._stack.enter_context(Client(self.service, self.key))

    @cached_property
    def hand(self) -> Tool:
        """Puts load on and runs bare limits."""
        return self._stack.enter_context(_tool("app.bench.hand"))

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
    def database(self) -> str:
        """The URL of the service's own PostgreSQL."""
        return Embedded(self.folder).url

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
        """Has every series report once, so that the service has met them all."""
        batch = min(1_000, self.plan.series)
        for _ in range(2):
            self.post(f"{self.service}/v1/signals", batch=batch, connections=1, seconds=0.5)

    def subscribe(self, endpoint: str, **wishes: Any) -> str:
        """Subscribes an endpoint and waits until it has consented; the subscription's id.

        Raises:
            BenchFailed: it did not consent.
        """
        made = self.client.subscribe(endpoint, "bench", wishes)
        until = time.monotonic() + _ACTIVE_SECONDS
        while self.client.subscription(str(made["id"]))["status"] != "active":
            if time.monotonic() > until:
                raise BenchFailed("A sink of the bench did not become an active endpoint.")
            time.sleep(0.05)
        return str(made["id"])


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
        bed = Bed(stack, plan, url, folder, start)
        asyncio.run(
            workload.store_history(bed.database, plan.series, plan.samples, start),
        )
        yield bed


def _fresh_folder(stack: ExitStack) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix=".forewarn-bench-", dir=Path.cwd()))
    except OSError as error:
        told = f"The bench needs a folder it may write in; here it may not ({error.strerror})."
        raise BenchFailed(told) from error
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


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
