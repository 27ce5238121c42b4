"""The processes the demo starts, and how they are stopped again whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from app.demo import validity
from app.settings import PREFIX, Unusable

if TYPE_CHECKING:
    from app.database import Connection

T = TypeVar("T")

READY_WITHIN_SECONDS = 60
STOP_WITHIN_SECONDS = 20
DEFAULT_FOLDER = Path(".forewarn-demo")


class DemoFailed(Unusable):
    """The demo cannot go on; the message is one sentence for whoever started it."""


@contextmanager
def data_folder(chosen: Path | None) -> Iterator[Path]:
    """The chosen folder, kept; or a fresh one below ``.forewarn-demo``, removed afterwards.

    Raises:
        DemoFailed: the folder cannot be written.
    """
    try:
        if chosen is not None:
            chosen.mkdir(parents=True, exist_ok=True)
            folder = chosen
        else:
            DEFAULT_FOLDER.mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=DEFAULT_FOLDER))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        where = chosen or DEFAULT_FOLDER
        told = f"The folder {where} cannot be written ({error.strerror}); choose another with --data-dir."
        raise DemoFailed(told) from error
    try:
        yield folder.resolve()
    finally:
        if chosen is None:
            shutil.rmtree(folder, ignore_errors=True)
            if not any(DEFAULT_FOLDER.iterdir()):
                DEFAULT_FOLDER.rmdir()


def free_port(host: str, wanted: int = 0) -> int:
    """The wanted port if nobody listens there; for 0, any that is free.

    Raises:
        DemoFailed: it is taken, or the host is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            told = f"Port {wanted} of {host} cannot be used ({error.strerror}); choose another with --port."
            raise DemoFailed(told) from error
        port: int = probe.getsockname()[1]
        return port


def address(host: str, port: int) -> str:
    """The base address of what listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def outside() -> dict[str, str]:
    """The environment without the settings of your own service, which the demo must not touch."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def environment(folder: Path) -> dict[str, str]:
    """What the service is told: this folder, endpoints on this machine, no sign-in."""
    profiles = validity.prolong(folder, datetime.now(UTC).date())
    return outside() | {
        **({"FOREWARN_PROFILES_DIR": str(profiles)} if profiles else {}),
        "FOREWARN_DATA_DIR": str(folder),
        "FOREWARN_WEBHOOK_ALLOW": "127.0.0.0/8,::1/128",
        "FOREWARN_WEBHOOK_ALLOW_HTTP": "true",
        "FOREWARN_DASHBOARD_SIGN_IN": "false",
    }


@contextmanager
def service(
    host: str,
    port: int,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    tick: Callable[[], None] = lambda: None,
    role: str = "all",
) -> Iterator[str]:
    """``forewarn serve`` on that port and folder, ready; stopped afterwards. Gives its address.

    Its log is ``service.log`` in the folder, or that of its role.

    Args:
        host: where it listens.
        port: where it listens.
        folder: its data folder.
        settings: environment variables that replace the demo's own.
        tick: called about ten times a second while waiting.
        role: what it does; several processes may share a folder, if one of them does all.

    Raises:
        DemoFailed: it ended, or was not ready in time; the message has its last words.
    """
    log = folder / ("service.log" if role == "all" else f"{role}.log")
    command = forewarn("serve", "--host", host, "--port", str(port), "--role", role)
    with (
        log.open("ab") as out,
        _running(command, environment(folder) | dict(settings or {}), out) as process,
    ):
        url = address(host, port)
        until = time.monotonic() + READY_WITHIN_SECONDS
        while not is_ready(url):
            if process.poll() is not None:
                told = f"The service ended with exit code {process.returncode}: {last_words(log)}"
                raise DemoFailed(told)
            if time.monotonic() > until:
                told = (
                    f"The service was not ready within {READY_WITHIN_SECONDS} s: {last_words(log)}"
                )
                raise DemoFailed(told)
            tick()
            time.sleep(0.1)
        yield url


def last_words(log: Path) -> str:
    """The last line of a log, or that there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:500] if said else "it said nothing"


def is_ready(url: str) -> bool:
    """Whether the service there says that it can work."""
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def forewarn(*arguments: str) -> list[str]:
    """The command line of this very installation."""
    return [sys.executable, "-m", "app.cli", *arguments]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key to be made: whose, for what, acting for which party."""

    name: str
    role: str
    party: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was made: its id, and the whole of it."""

    id: str
    token: str = field(repr=False)


def create_keys(folder: Path, wanted: Iterable[Wanted]) -> dict[str, Key]:
    """Makes the keys as ``forewarn keys create`` does, in the database of that folder; key by name.

    Raises:
        KeyRefused: one cannot be made, and so none is.
    """
    from app import access  # noqa: PLC0415 - slow, and only needed here

    async def make(connection: Connection) -> dict[str, Key]:
        made = {}
        for one in wanted:
            key = await access.issue_key(
                connection, name=one.name, role=one.role, party=one.party, now=datetime.now(UTC)
            )
            made[one.name] = Key(key.id, key.token)
        return made

    return asyncio.run(_on_database(folder, make))


def revoke_keys(folder: Path, keys: Iterable[Key]) -> None:
    """Takes the keys back; a partner may hold only two, so a kept folder would soon have too many."""
    from app.store import partners  # noqa: PLC0415 - slow, and only needed here

    async def revoke(connection: Connection) -> None:
        for key in keys:
            await partners.revoke(connection, key.id, datetime.now(UTC))

    asyncio.run(_on_database(folder, revoke))


async def _on_database(folder: Path, do: Callable[[Connection], Awaitable[T]]) -> T:
    """Does something in one transaction on the embedded server of a folder, which runs."""
    from app.database import Database  # noqa: PLC0415 - slow, and only needed here
    from app.embedded import Embedded  # noqa: PLC0415 - slow, and only needed here

    database = Database(Embedded(folder).url)
    try:
        async with database.begin() as connection:
            return await do(connection)
    finally:
        await database.close()


@dataclass(slots=True)
class Heard:
    """A running receiver: where it listens, where its secret goes, what it has told so far."""

    url: str
    secret_file: Path
    lines: queue.Queue[dict[str, Any]]
    process: subprocess.Popen[bytes]

    def learn(self, secret: str) -> None:
        """Gives the receiver the secret it checks signatures with."""
        ready = self.secret_file.with_suffix(".new")
        ready.touch(mode=0o600)
        ready.write_text(secret, encoding="ascii")
        ready.replace(self.secret_file)


@contextmanager
def receiver(folder: Path, host: str = "127.0.0.1", port: int = 0) -> Iterator[Heard]:
    """A webhook receiver in a process of its own; stopped afterwards.

    Raises:
        DemoFailed: it did not start.
    """
    secret_file = folder / "receiver.secret"
    secret_file.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "app.demo.receiver",
        "--host", host, "--port", str(port), "--secret-file", str(secret_file),
    ]  # fmt: skip
    log = folder / "receiver.log"
    with (
        log.open("ab") as errors,
        _running(command, outside(), subprocess.PIPE, errors) as process,
    ):
        lines: queue.Queue[dict[str, Any]] = queue.Queue()
        reader = threading.Thread(target=_read_lines, args=(process, lines), daemon=True)
        reader.start()
        try:
            first = lines.get(timeout=READY_WITHIN_SECONDS)
        except queue.Empty:
            first = {}
        if "listening" not in first:
            told = f"The receiver did not start: {last_words(log)}"
            raise DemoFailed(told)
        try:
            yield Heard(first["listening"], secret_file, lines, process)
        finally:
            _stop(process)
            reader.join(timeout=STOP_WITHIN_SECONDS)


def _read_lines(process: subprocess.Popen[bytes], lines: queue.Queue[dict[str, Any]]) -> None:
    """Moves the receiver's lines to the queue; an empty object says that it has ended."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(json.loads(line))
    lines.put({})


@contextmanager
def _running(
    command: list[str], env: Mapping[str, str], out: Any, errors: Any = subprocess.STDOUT
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, so that Ctrl-C reaches us alone and we end it in order."""
    process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
        command, env=dict(env), stdout=out, stderr=errors, start_new_session=True
    )
    try:
        yield process
    finally:
        _stop(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks a process to end, and ends it when it does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
