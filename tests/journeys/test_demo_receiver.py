"""The demo's receiver as a real process: what it accepts, what it refuses, what it tells.

Observable oracles: the receiver's HTTP answers and its lines on standard output. Requests are signed
here with the reference library, never with the service's own code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from app.demo import processes
from app.demo.processes import Heard

CHALLENGE = "webhook.verify"
SECRET = "whsec_" + "QmFsdGljYSBrbm93cyB0aGlzIHNlY3JldCBvZiAzMg=="
OTHER = "whsec_" + "Q3lnbnVzIGtub3dzIGFub3RoZXIgb25lLCBvZiAzMg=="


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Heard]:
    with processes.receiver(tmp_path) as listening:
        yield listening


def send(
    heard: Heard, body: dict[str, Any], *, secret: str = SECRET, late: float = 0
) -> httpx.Response:
    message = "msg_baltica_1"
    at = datetime.now(UTC) - timedelta(seconds=late)
    text = json.dumps(body)
    headers = {
        "webhook-id": message,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message, at, text),
    }
    return httpx.post(heard.url, content=text, headers=headers)


def opened(sequence: int = 1) -> dict[str, Any]:
    return {
        "type": "alert.opened",
        "timestamp": "2026-01-01T00:00:00Z",
        "sequence": sequence,
        "data": {
            "alert": {"ref": "TTC-SEMI-2026-0001", "severity": "severe", "title": "Neon"},
            "transition": {"at": "2026-01-01T00:00:00Z", "reason": "the price has tripled"},
        },
    }


def next_line(heard: Heard) -> dict[str, Any]:
    return heard.lines.get(timeout=10)


def test_a_challenge_is_answered_with_what_it_asked(heard: Heard) -> None:
    heard.learn(SECRET)
    answer = send(heard, {"type": CHALLENGE, "data": {"challenge": "prove-it"}})
    assert (answer.status_code, answer.json()) == (200, {"challenge": "prove-it"})
    assert next_line(heard)["type"] == CHALLENGE


def test_a_challenge_that_overtakes_the_secret_waits_for_it(heard: Heard) -> None:
    with ThreadPoolExecutor(max_workers=1) as pool:
        asking = pool.submit(send, heard, {"type": CHALLENGE, "data": {"challenge": "early"}})
        with pytest.raises(TimeoutError):
            asking.result(timeout=0.5)
        heard.learn(SECRET)
        assert asking.result(timeout=10).json() == {"challenge": "early"}


def test_a_verified_webhook_is_told_with_what_it_says(heard: Heard) -> None:
    heard.learn(SECRET)
    assert send(heard, opened()).status_code == 200
    told = next_line(heard)
    assert {
        k: told[k] for k in ("id", "type", "ref", "severity", "sequence", "verified", "duplicate")
    } == {
        "id": "msg_baltica_1",
        "type": "alert.opened",
        "ref": "TTC-SEMI-2026-0001",
        "severity": "severe",
        "sequence": 1,
        "verified": True,
        "duplicate": False,
    }


def test_a_repeated_id_is_answered_alike_and_told_as_a_duplicate(heard: Heard) -> None:
    heard.learn(SECRET)
    assert [send(heard, opened()).status_code for _ in range(2)] == [200, 200]
    assert [next_line(heard)["duplicate"] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret": OTHER}, "signed with a secret that is not ours"),
        ({"late": 3600.0}, "an hour old: it may have been recorded and sent again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_verify_is_refused(
    heard: Heard, changes: dict[str, Any], reason: str
) -> None:
    heard.learn(SECRET)
    assert send(heard, opened(), **changes).status_code == 401, reason
    told = next_line(heard)
    assert (told["verified"], told["id"]) == (False, "msg_baltica_1")


def test_an_unsigned_request_is_refused(heard: Heard) -> None:
    heard.learn(SECRET)
    assert httpx.post(heard.url, json=opened()).status_code == 401
    assert next_line(heard)["verified"] is False


def test_a_taken_port_is_one_sentence_and_exit_1(heard: Heard, tmp_path: Path) -> None:
    port = httpx.URL(heard.url).port
    command = [sys.executable, "-m", "app.demo.receiver", "--port", str(port)]
    ended = subprocess.run(
        [*command, "--secret-file", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert str(port) in ended.stderr
