"""What a run stands on: the database, the services and the receivers, and how each fault is done to them."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from urllib.parse import quote

import asyncpg
import psutil

from app import access
from app.database import Database
from app.demo import processes
from app.demo.processes import DemoFailed
from app.embedded import DATABASE, SUPERUSER, Embedded
from app.torture.plan import Fault, Kind
from app.torture.relay import Relay
from app.torture.wire import is_ready

LEASE_SECONDS = 2.0
READY_WITHIN_SECONDS = 60
_DISK_MEGABYTES = 768
_ROLES = {"keeper": "all", "api": "api", "worker": "worker", "second": "all"}
"""The services. The keeper has the database's folder, and starts it again when it died; the others reach
it through a relay, and know nothing of the folder."""

_SETTINGS = {
    "FOREWARN_WEBHOOK_ALLOW": "127.0.0.0/8",
    "FOREWARN_WEBHOOK_ALLOW_HTTP": "true",
    "FOREWARN_PROFILES_DIR": str(Path(__file__).parent / "profiles"),
    "FOREWARN_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "FOREWARN_RETRY_SCHEDULE": ",".join(["0.2", "0.5", *["1"] * 400]),
    "FOREWARN_WEBHOOK_TIMEOUT_SECONDS": "3",
    "FOREWARN_ENDPOINT_OPEN_SECONDS": "0.5",
    "FOREWARN_ENDPOINT_LONGEST_OPEN_SECONDS": "2",
    "FOREWARN_SWEEP_EVERY_SECONDS": "2",
}

_SMALL = {"shared_buffers": "64MB", "max_wal_size": "96MB", "min_wal_size": "32MB"}
"""PostgreSQL's own settings, so that it fits on the small disk of a run."""


@dataclass(slots=True)
class Child:
    """A process that is kept running: begun again whenever it ends, until it is let go.

    ``is_ending`` says that it was ended by us just now; ``gave_up`` counts how often it ended by itself,
    ``unclean`` how often it was asked to end and did not with 0.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    gave_up: int = 0
    is_let_go: bool = False
    is_ending: bool = False
    unclean: int = 0

    def begin(self) -> None:
        """Starts it."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.is_ending = False

    async def keep(self) -> None:
        """Starts it again whenever it ended, after a moment."""
        while not self.is_let_go:
            if self.process is not None and self.process.poll() is not None:
                self.gave_up += not self.is_ending
                self.unclean += self.process.returncode > 0 and self.is_ending
                await asyncio.sleep(0.2)
                self.begin()
            await asyncio.sleep(0.05)

    def send(self, number: signal.Signals) -> bool:
        """Sends it a signal; whether it was there."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.is_ending = self.is_ending or number in {signal.SIGKILL, signal.SIGTERM}
        self.process.send_signal(number)
        return True

    def end(self) -> None:
        """Ends it for good, at once: what had to be proven has been."""
        self.is_let_go = True
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Ground:
    """A running system in a folder of its own.

    ``tried`` counts what was done to it, in words; ``not_tried`` says what could not be, and why.
    """

    folder: Path
    embedded: Embedded
    relay: Relay
    services: dict[str, Child]
    receivers: list[Child]
    receiver_ports: list[int]
    ports: dict[str, int]
    disk: Path | None
    dice: Random
    tried: Counter[str] = field(default_factory=Counter)
    not_tried: dict[str, str] = field(default_factory=dict)

    @property
    def doors(self) -> list[int]:
        """The ports that answer requests."""
        return [port for name, port in self.ports.items() if _ROLES[name] != "worker"]

    @property
    def database_url(self) -> str:
        """The database itself, past the relay."""
        return self.embedded.url

    def log(self, name: str) -> Path:
        """Where somebody writes down what happened."""
        return self.folder / f"{name}.jsonl"

    @property
    def calm(self) -> Path:
        """The file that has receivers take everything."""
        return self.folder / "calm"

    # Faults

    async def suffer(self, fault: Fault) -> None:
        """Does that to the system, and takes it back when its time is over."""
        services = list(self.services.values())
        service = services[fault.target % len(services)]
        match fault.kind:
            case Kind.kill_service:
                self._count(fault, service.send(signal.SIGKILL), service.name)
            case Kind.restart_service:
                self._count(fault, service.send(signal.SIGTERM), service.name)
            case Kind.pause_service:
                await self._pause([service], fault)
            case Kind.kill_postgres:
                self._count(fault, self._signal_postgres(signal.SIGKILL))
            case Kind.restart_postgres:
                self._count(fault, self._signal_postgres(signal.SIGINT))
            case Kind.kill_backend:
                self._count(fault, self._kill_backend())
            case Kind.pause_postgres:
                await self._pause_postgres(fault)
            case Kind.cut:
                self._count(fault, self.relay.cut(self.dice, 0.6))
            case Kind.hold_up:
                self._count(fault, True)
                await self.relay.hold_up(fault.seconds)
            case Kind.fill_disk:
                await self._fill_disk(fault)
            case Kind.step_clock:
                self._count(fault, True, "ahead" if fault.ahead > 0 else "back")
                self.step(service.name, fault.ahead)
                await asyncio.sleep(fault.seconds)
                self.step(service.name, 0)
            case Kind.kill_receiver:
                receiver = self.receivers[fault.target % len(self.receivers)]
                self._count(fault, receiver.send(signal.SIGKILL))

    def _count(self, fault: Fault, was_done: object, of: str = "") -> None:
        if was_done:
            self.tried[fault.kind] += 1
            if of:
                self.tried[f"{fault.kind}: {of}"] += 1

    async def _pause(self, children: Sequence[Child], fault: Fault) -> None:
        for child in children:
            self._count(fault, child.send(signal.SIGSTOP), child.name)
        await asyncio.sleep(fault.seconds)
        for child in children:
            child.send(signal.SIGCONT)

    def _postgres(self) -> list[psutil.Process]:
        """The postmaster, then its children."""
        number = self.embedded.postmaster()
        if number is None:
            return []
        with suppress(psutil.Error):
            postmaster = psutil.Process(number)
            return [postmaster, *postmaster.children()]
        return []

    def _signal_postgres(self, number: signal.Signals) -> bool:
        found = self._postgres()
        with suppress(psutil.Error):
            if found:
                found[0].send_signal(number)
                return True
        return False

    def _kill_backend(self) -> bool:
        """Kills any one process of PostgreSQL but the first; it then begins anew, all of it."""
        children = self._postgres()[1:]
        with suppress(psutil.Error):
            if children:
                self.dice.choice(children).kill()
                return True
        return False

    async def _pause_postgres(self, fault: Fault) -> None:
        found = self._postgres()
        self._count(fault, found)
        for process in found:
            with suppress(psutil.Error):
                process.suspend()
        await asyncio.sleep(fault.seconds)
        for process in found:
            with suppress(psutil.Error):
                process.resume()

    async def _fill_disk(self, fault: Fault) -> None:
        if self.disk is None:
            return
        used = os.statvfs(self.disk)
        kilobytes = (used.f_blocks - used.f_bfree) * used.f_frsize // 1_024
        self._count(fault, await asyncio.to_thread(_mount_anew, self.disk, f"{kilobytes}k"))
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(_mount_anew, self.disk, f"{_DISK_MEGABYTES}m")

    def step(self, name: str, ahead: float) -> None:
        """Puts the clock of a service ahead by so many seconds, or back to what it is."""
        file = self.folder / f"{name}.clock"
        ready = file.with_suffix(".new")
        ready.write_text(f"{ahead:g}")
        ready.replace(file)

    # Waiting

    async def are_ready(self, within_seconds: float, names: Iterable[str] = _ROLES) -> list[str]:
        """Waits until these services, or all, say that they can work; those that do not in time."""
        until, waiting = time.monotonic() + within_seconds, list(names)
        while waiting and time.monotonic() < until:
            for name in list(waiting):
                if await is_ready(self.ports[name]):
                    waiting.remove(name)
            await asyncio.sleep(0.1)
        return waiting

    def last_words(self, names: Iterable[str]) -> str:
        """What these services said last."""
        return "; ".join(f"{n}: {processes.last_words(self.services[n].log)}" for n in names)


async def lay(stack: AsyncExitStack, folder: Path, dice: Random) -> Ground:
    """Starts the database, the services and the receivers; all is ended with the stack.

    Raises:
        DemoFailed: something did not start.
    """
    data, disk, why_not = folder / "data", None, ""
    data.mkdir()
    data.chmod(0o755)
    if _mount(data):
        stack.callback(_unmount, data)
        disk = data
    else:
        why_not = "a small disk of its own needs root, on Linux"
    embedded = Embedded(data, options=_SMALL)
    await asyncio.to_thread(embedded.start)
    stack.push_async_callback(asyncio.to_thread, embedded.stop)
    await _keep_small(embedded.url)
    way = Path(tempfile.mkdtemp(prefix="fw-torture-"))
    stack.callback(shutil.rmtree, way, ignore_errors=True)
    relay = Relay(way, _socket_folder(embedded))
    await relay.start()
    stack.push_async_callback(relay.stop)
    ground = Ground(
        folder,
        embedded,
        relay,
        services={},
        receivers=[],
        receiver_ports=[processes.free_port("127.0.0.1") for _ in range(2)],
        ports={name: processes.free_port("127.0.0.1") for name in _ROLES},
        disk=disk,
        dice=dice,
    )
    if why_not:
        ground.not_tried[Kind.fill_disk] = why_not
    for child in _children(ground, secrets.token_hex(32)):
        stack.callback(child.end)
        child.begin()
        # The keeper comes first: it migrates.
        first = [child.name] if child.name == "keeper" else []
        if waiting := await ground.are_ready(READY_WITHIN_SECONDS, first):
            raise DemoFailed(f"The service was not ready: {ground.last_words(waiting)}")
    if waiting := await ground.are_ready(READY_WITHIN_SECONDS):
        raise DemoFailed(f"Not all services were ready: {ground.last_words(waiting)}")
    return ground


def _children(ground: Ground, secret: str) -> list[Child]:
    url = f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(str(ground.relay.folder))}"
    for name, role in _ROLES.items():
        ground.step(name, 0)
        where = (
            {"FOREWARN_DATA_DIR": str(ground.embedded.data_dir)}
            if name == "keeper"
            else {"FOREWARN_DATABASE_URL": url}
        )
        clock = str(ground.folder / f"{name}.clock")
        port = str(ground.ports[name])
        command = [
            sys.executable, "-m", "app.torture.process", "--port", port, "--role", role, "--clock", clock
        ]  # fmt: skip
        settings = _SETTINGS | where | {"FOREWARN_SECRET_KEY": secret}
        ground.services[name] = Child(
            name, command, processes.outside() | settings, ground.folder / f"{name}.log"
        )
    for number, own in enumerate(ground.receiver_ports):
        heard = str(ground.log(f"receiver-{number}"))
        command = [
            sys.executable, "-m", "app.torture.receiver",
            "--port", str(own), "--log", heard, "--seed", str(number), "--calm", str(ground.calm),
        ]  # fmt: skip
        child = Child(
            f"receiver-{number}",
            command,
            processes.outside(),
            ground.folder / f"receiver-{number}.log",
        )
        ground.receivers.append(child)
    return [*ground.services.values(), *ground.receivers]


async def keys(ground: Ground, wanted: Mapping[str, str]) -> dict[str, str]:
    """Makes a key for each name, in the database itself."""
    database = Database(ground.database_url)
    try:
        async with database.begin() as connection:
            return {
                name: (
                    await access.issue_key(connection, name=name, role=role, now=datetime.now(UTC))
                ).token
                for name, role in wanted.items()
            }
    finally:
        await database.close()


async def _keep_small(url: str) -> None:
    """Has the database stay small whoever starts it again."""
    connection = await asyncpg.connect(url)
    try:
        for name, value in _SMALL.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    finally:
        await connection.close()


def _socket_folder(embedded: Embedded) -> Path:
    return Path(embedded.url.partition("host=")[2].replace("%2F", "/"))


def _mount(folder: Path) -> bool:
    """Gives a folder a disk of its own in memory, where that is permitted."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    size = f"size={_DISK_MEGABYTES}m,mode=755"
    return _did("mount", "-t", "tmpfs", "-o", size, "forewarn-torture", str(folder))


def _mount_anew(folder: Path, size: str) -> bool:
    """Gives the disk another size; a little more where something was written meanwhile."""
    for _ in range(20):
        if _did("mount", "-o", f"remount,size={size}", str(folder)):
            return True
        used = os.statvfs(folder)
        size = f"{(used.f_blocks - used.f_bfree) * used.f_frsize // 1_024}k"
    return False


def _unmount(folder: Path) -> None:
    _did("umount", "-l", str(folder))


def _did(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
