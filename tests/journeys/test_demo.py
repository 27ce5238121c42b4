"""The demo as a newcomer runs it.

Observable oracles: its exit code, its output, and what is left of its folder and its ports.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from app.demo import processes
from app.demo.processes import DemoFailed, Wanted
from tests.journeys.town import ENVIRONMENT, Town

HANGS_AFTER_SECONDS = 300


def test_once_ends_well_with_a_line_of_json_and_leaves_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = subprocess.run(
        processes.forewarn("demo", "--once"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2_000:] + ended.stderr
    *story, last = ended.stdout.rstrip("\n").split("\n")
    found = json.loads(last)
    assert list(found) == [
        "signals", "alerts", "transitions", "webhooks_verified", "webhooks_failed", "seconds",
    ]  # fmt: skip
    assert found["webhooks_failed"] == 0
    assert found["webhooks_verified"] == found["transitions"] > found["alerts"] >= 10
    assert found["signals"] > 5_000
    assert 0 < found["seconds"] <= time.monotonic() - started
    for word in ("opens", "rises", "eases", "resolves"):
        assert any(f"  {word}  " in line for line in story), f"nothing {word}"
    assert list(tmp_path.iterdir()) == []


def test_a_partner_of_the_demo_can_play_again_in_a_folder_that_is_kept(town: Town) -> None:
    """A partner holds at most two live keys; the demo takes its own back."""
    again = Wanted("eridanus desk", "partner", "EU")
    for _ in range(3):
        made = processes.create_keys(town.folder, [again])
        processes.revoke_keys(town.folder, made.values())


def test_a_taken_port_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            processes.forewarn("demo", "--once", "--port", port),
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert port in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    port = processes.free_port("127.0.0.1")
    wrong = {"FOREWARN_RETRY_SCHEDULE": "soon"}
    with (
        pytest.raises(DemoFailed, match="FOREWARN_RETRY_SCHEDULE"),
        processes.service("127.0.0.1", port, tmp_path, wrong),
    ):
        pytest.fail("it started")


def test_ctrl_c_stops_everything_and_leaves_nothing(tmp_path: Path) -> None:
    port = processes.free_port("127.0.0.1")
    demo = subprocess.Popen(
        processes.forewarn("demo", "--port", str(port)),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    url = processes.address("127.0.0.1", port)
    until = time.monotonic() + 60
    while not processes.is_ready(url):
        assert time.monotonic() < until
        assert demo.poll() is None
        time.sleep(0.1)
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=60)
    assert (demo.returncode, said) == (0, b"")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", timeout=2)
    assert list(tmp_path.iterdir()) == []
