"""Where senders are born: a warm process that forks one for each life, so that hundreds can be killed.

    python -m tests.journeys.nursery

A line on standard input is an order (``Order``, as JSON) and is answered with the new process's id, or
``{"reap": 4711, "within": 5}``, answered with the wait status of that one once it is over, or with -1 when
it is not over within so many seconds. A sender has real sockets and
connections of its own, and nothing that its parent holds. It may be ordered to kill itself at a step
of the relay: with SIGKILL, as if the machine had died there.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
import signal
import ssl
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from alerts.retries import Outcome
from app import scheduler, seals, store, telemetry
from app.bench import loops
from app.database import Database
from app.deliver import Sender, owners
from app.outbound import Outbound, load_client
from app.settings import Settings
from app.store.records import Attempted, Recorded


@dataclass(frozen=True, slots=True)
class Order:
    """A sender to be made.

    ``settings`` as ``Settings`` takes them. ``dies`` is the step at which it kills itself, of ``STEPS``;
    empty for none. ``clock`` is a file with the seconds by which its clock is ahead. ``duties`` has it do
    what a worker does because time passes.
    """

    settings: Mapping[str, Any]
    log: str
    dies: str = ""
    clock: str = ""
    duties: bool = False
    open_files: int = 0

    def line(self) -> str:
        """As it is given to the nursery."""
        return json.dumps(asdict(self))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _around(module: Any, name: str, *, before: bool) -> None:
    """Has a function of a module, done in a transaction, be the last thing that is done."""
    original: Callable[..., Awaitable[Any]] = getattr(module, name)

    async def last(*args: Any, **more: Any) -> Any:
        if before:
            _die()
        done = await original(*args, **more)
        if done is None or done:  # a claim that finds nothing is no step
            _die()
        return done

    setattr(module, name, last)


class _DiesBeforeItSends(Outbound):
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        _die()
        return await super().post(url, headers, body)


class _DiesOfTheAnswer(Outbound):
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        await super().post(url, headers, body)
        _die()
        raise AssertionError("it is dead")


class _DiesOnceItRecorded(Sender):
    def _recorded(self, batch: Sequence[Attempted], recorded: Recorded) -> None:
        _die()
        super()._recorded(batch, recorded)


@dataclass(frozen=True, slots=True)
class _Step:
    """Where a sender kills itself: in a class of its own, or around a function of the store."""

    sender: type[Sender] = Sender
    outbound: type[Outbound] = Outbound
    around: tuple[Any, str] | None = None
    before: bool = False


STEPS = {
    "": _Step(),
    "a claim, not committed": _Step(around=(store.queue, "claim")),
    "a claim, committed": _Step(outbound=_DiesBeforeItSends),
    "an answer, not recorded": _Step(outbound=_DiesOfTheAnswer),
    "a record, not begun": _Step(around=(store.records, "record"), before=True),
    "a record, not committed": _Step(around=(store.records, "record")),
    "a record, committed": _Step(sender=_DiesOnceItRecorded),
    "a lease, not kept": _Step(around=(store.queue, "extend"), before=True),
    "a lease, not committed": _Step(around=(store.queue, "extend")),
    "giving back, not begun": _Step(around=(store.queue, "let_go"), before=True),
    "giving back, not committed": _Step(around=(store.queue, "let_go")),
    "telling owners, not begun": _Step(around=(owners, "tell"), before=True),
    "telling owners, not committed": _Step(around=(owners, "tell")),
}


async def live(order: Order, tls: ssl.SSLContext) -> None:
    """One sender's life: until SIGTERM, after which it stops in order, or until it is killed."""
    step = STEPS[order.dies]
    if step.around is not None:
        _around(*step.around, before=step.before)
    settings = Settings.model_validate(dict(order.settings))
    assert settings.database_url is not None
    database = Database(settings.database_url)
    outbound = step.outbound(settings, tls=tls)
    sender = step.sender(
        database,
        outbound,
        seals.from_settings(settings),
        settings,
        clock=_clock(order.clock),
        dice=secrets.SystemRandom().random,
    )
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    work = [asyncio.create_task(sender.run())]
    if order.duties:
        duties = [scheduler.owners_duty(database), scheduler.clocks_duty(database, settings)]
        work.append(asyncio.create_task(scheduler.Scheduler(database, duties).run()))
    await over.wait()
    await sender.stop()
    for task in work[1:]:
        task.cancel()
    await asyncio.wait(work)
    await outbound.close()
    await database.close()


def _clock(file: str) -> Callable[[], datetime]:
    if not file:
        return lambda: datetime.now(UTC)
    path = Path(file)
    return lambda: datetime.now(UTC) + timedelta(seconds=float(path.read_text()))


def _fork(order: Order, tls: ssl.SSLContext) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for number, target in ((0, nothing), (1, log), (2, log)):
            os.dup2(target, number)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (order.open_files or most, most))
        loops.run(live(order, tls))
        code = 0
    except BaseException:  # noqa: BLE001 - written into its log; the parent's code must not go on here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass(slots=True)
class _Children:
    alive: set[int] = field(default_factory=set)

    def reap(self, pid: int, within: float) -> int:
        until = time.monotonic() + within
        while time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.alive.discard(pid)
                return status
            time.sleep(0.002)
        return -1


def main() -> int:
    """Takes orders until there are no more, and leaves nobody behind."""
    telemetry.configure("info", "json")
    tls = httpx.create_ssl_context(trust_env=False)
    load_client()  # Each would load it while the lease of its first attempt runs out.
    children = _Children()
    try:
        for line in sys.stdin:
            told = json.loads(line)
            if "reap" in told:
                said = children.reap(told["reap"], told["within"])
            else:
                said = _fork(Order(**told), tls)
                children.alive.add(said)
            sys.stdout.write(f"{said}\n")
            sys.stdout.flush()
    finally:
        for pid in children.alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
