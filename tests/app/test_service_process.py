"""The service as a process: how it starts, refuses to start, is killed, comes back, and stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.embedded import Embedded
from app.settings import PREFIX

ROOT = Path(__file__).parents[2]
START_SECONDS = 40


def _environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        **{f"{PREFIX}{name}": v for name, v in settings.items()},
    }


def _forewarn(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        env=_environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass
class Running:
    """A service process and where it listens."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10)

    def wait_for(self, path: str, status: int) -> float:
        """Seconds until ``path`` answers ``status``."""
        started = time.monotonic()
        while time.monotonic() < started + START_SECONDS:
            try:
                if self.get(path).status_code == status:
                    return time.monotonic() - started
            except httpx.TransportError:
                assert self.process.poll() is None, "the service has ended"
            time.sleep(0.05)
        raise AssertionError(f"{path} was not answered {status} within {START_SECONDS} s")

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@contextmanager
def _serving(*words: str, **settings: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", "0", *words],
        env=_environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if "listens at" in line:
                break
        assert said, "the service ended before it listened"
        yield Running(process, said[-1].split(" at ")[1].split(" ")[0], said)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="fw-"))
    yield made
    server = Embedded(made)
    if (made / "postgres").exists():
        server.start()
        server.stop()
    shutil.rmtree(made, ignore_errors=True)


def test_a_first_start_prints_a_key_that_opens_the_board_and_a_second_prints_none(
    folder: Path,
) -> None:
    with _serving(DATA_DIR=str(folder)) as first:
        key = first.said[0].rsplit(" ", 1)[1].strip()
        assert key.startswith("fw_")
        answer = httpx.get(f"{first.url}/v1/dashboard", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert first.end(signal.SIGTERM) == 0, "SIGTERM drains and exits with 0"
    assert Embedded(folder).postmaster() is None, "the last one out stops PostgreSQL"
    with _serving(DATA_DIR=str(folder)) as second:
        assert len(second.said) == 1
        answer = httpx.get(f"{second.url}/v1/dashboard", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert second.end(signal.SIGINT) == 0, "and so does Ctrl-C"


def test_told_to_stop_while_it_loads_it_ends_in_a_word_and_leaves_no_postgresql(
    folder: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", "0"],
        env=_environment(DATA_DIR=str(folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + START_SECONDS
    while Embedded(folder).postmaster() is None:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < until, "PostgreSQL was not started"
    process.send_signal(signal.SIGTERM)
    _, complained = process.communicate(timeout=60)
    assert (process.returncode, complained) == (0, "")
    assert Embedded(folder).postmaster() is None


def test_postgresql_killed_under_the_service_is_503_for_a_moment_and_then_well_again(
    folder: Path,
) -> None:
    with _serving(DATA_DIR=str(folder)) as service:
        pid = Embedded(folder).postmaster()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        service.wait_for("/readyz", 503)
        away = service.get("/readyz")
        if away.status_code == 503:
            assert int(away.headers["retry-after"]) > 0
        service.wait_for("/readyz", 200)
        assert service.process.poll() is None, "without a restart of the service"
        assert service.end(signal.SIGTERM) == 0


def test_a_killed_service_starts_again_on_what_it_left(folder: Path) -> None:
    with _serving(DATA_DIR=str(folder)) as service:
        service.end(signal.SIGKILL)
    pid = Embedded(folder).postmaster()
    assert pid is not None, "PostgreSQL outlives it"
    with _serving(DATA_DIR=str(folder)) as again:
        assert Embedded(folder).postmaster() == pid
        assert again.get("/readyz").status_code == 200


def test_two_services_on_one_folder_share_it_and_commands_join_them(folder: Path) -> None:
    with _serving(DATA_DIR=str(folder)) as first, _serving(DATA_DIR=str(folder)) as second:
        made = _forewarn(
            "keys",
            "create",
            "--name",
            "aurora",
            "--role",
            "partner",
            "--json",
            DATA_DIR=str(folder),
        )
        key = json.loads(made.stdout)["key"]
        for service in (first, second):
            answer = httpx.get(
                f"{service.url}/v1/sectors", headers={"Authorization": f"Bearer {key}"}
            )
            assert answer.status_code == 200
        assert first.end(signal.SIGTERM) == 0
        assert second.get("/readyz").status_code == 200
        assert second.end(signal.SIGTERM) == 0
    assert Embedded(folder).postmaster() is None


def test_a_service_on_a_database_of_ones_own_asks_for_the_migration(
    database_url: str, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": database_url, "DATA_DIR": str(tmp_path)}
    assert "revision none" in _forewarn("migrate", "--down", "base", **settings).stdout
    refused = _forewarn("serve", "--port", "0", **settings)
    assert refused.returncode == 1
    assert "forewarn migrate" in refused.stderr.splitlines()[-1]
    assert _forewarn("migrate", **settings).returncode == 0
    with _serving(**settings) as service:
        assert service.get("/readyz").status_code == 200
        assert len(service.said) == 1, "no key is made in a database of one's own"


def _taken_port() -> tuple[socket.socket, str]:
    taken = socket.create_server(("127.0.0.1", 0))
    return taken, str(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "settings", "says"),
    [
        (("--host", "203.0.113.1"), {}, "Cannot listen on 203.0.113.1 port 8000"),
        ((), {"DATA_DIR": "/dev/null/data"}, "cannot be written"),
        ((), {"RETRY_SCHEDULE": "5,soon"}, "FOREWARN_RETRY_SCHEDULE"),
        (("--port", "0"), {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}, "database is away"),
        (
            ("--port", "0", "--role", "api"),
            {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"},
            "Set FOREWARN_SECRET_KEY",
        ),
    ],
    ids=["host", "folder", "setting", "database", "secret"],
)
def test_what_prevents_a_start_is_one_sentence_and_exit_code_1(
    words: tuple[str, ...], settings: Mapping[str, str], says: str, folder: Path
) -> None:
    done = _forewarn("serve", *words, **{"DATA_DIR": str(folder), **settings})
    assert done.returncode == 1
    assert done.stdout == ""
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_a_taken_port_is_one_sentence_and_exit_code_1(folder: Path) -> None:
    taken, port = _taken_port()
    with taken:
        done = _forewarn("serve", "--port", port, DATA_DIR=str(folder))
    assert done.returncode == 1
    assert done.stderr == (
        f"forewarn: Cannot listen on 127.0.0.1 port {port} (Address already in use). "
        "Choose another with --port, or `make run PORT=8001`.\n"
    )
    assert not (folder / "postgres").exists(), "nothing else was begun"
