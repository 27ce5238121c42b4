"""Copies of a running service, restored to other folders: the same answers, and on it goes."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.demo import processes
from app.demo.client import Client
from app.demo.processes import Heard
from app.embedded import BackupFailed, Embedded

LEAD_TIME = {"sector": "semiconductors", "indicator": "lead_time", "good": "mcu", "unit": "weeks"}


@dataclass(frozen=True, slots=True)
class Original:
    """A service that was, what it answered, and its copies: a data folder and a dump."""

    answers: dict[str, Any]
    audit: dict[str, Any]
    folder: Path
    copy: Path
    dump: Path
    tokens: dict[str, str]
    subscription: str
    receiver: Heard


def _forewarn(folder: Path, *words: str) -> dict[str, Any]:
    """Runs a command beside the service, in this process: starting one takes longer than most."""
    done = CliRunner().invoke(app, [*words, "--json"], env=processes.environment(folder))
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _post(url: str, token: str, days_ago: int, value: float) -> None:
    """Fresh values: of old ones the service says, a sweep later, that the feed is silent."""
    at = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()
    with Client(url, token) as aurora:
        told = aurora.post_signals([{**LEAD_TIME, "observed_at": at, "value": value}])
    assert (told["accepted"], told["rejected"]) == (1, 0)


def _answers(url: str, tokens: dict[str, str], subscription: str) -> dict[str, Any]:
    """What a service says of all that it holds; without ages, which pass."""
    found: dict[str, Any] = {}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {tokens['olga']}"}) as olga:
        for path in ("/v1/alerts", "/v1/series", "/v1/series/1/samples", "/v1/rules", "/v1/audit"):
            found[path] = olga.get(path).raise_for_status().json()
        for alert in found["/v1/alerts"]["items"]:
            for part in ("", "/timeline", "/explanation"):
                path = f"/v1/alerts/{alert['ref']}{part}"
                found[path] = olga.get(path).raise_for_status().json()
    headers = {"Authorization": f"Bearer {tokens['baltica']}"}
    with httpx.Client(base_url=url, headers=headers) as baltica:
        for part in ("", "/deliveries", "/events?after=0"):
            path = f"/v1/subscriptions/{subscription}{part}"
            found[path] = baltica.get(path).raise_for_status().json()
    assert found["/v1/alerts"]["items"]
    assert found["/v1/series/1/samples"]["items"]
    return found


def _hear(receiver: Heard, kind: str) -> dict[str, Any]:
    """The next alert that the receiver verified, of that type; others before it are passed over."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        told = receiver.lines.get(timeout=60)
        assert told.get("verified"), told
        if told["type"] == kind:
            return told
    raise AssertionError(f"no {kind} was heard")


@pytest.fixture(scope="module")
def original() -> Iterator[Original]:
    """An alert was told; then the subscription was suspended, and what came since is owed."""
    root = Path(tempfile.mkdtemp(prefix="fw-copies-"))
    folder = root / "original"
    folder.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        receiver = stack.enter_context(processes.receiver(folder))
        with processes.service("127.0.0.1", processes.free_port("127.0.0.1"), folder) as url:
            roles = {"aurora": "partner", "baltica": "subscriber", "olga": "operator"}
            tokens = {
                name: _forewarn(folder, "keys", "create", "--name", name, "--role", role)["key"]
                for name, role in roles.items()
            }
            with Client(url, tokens["baltica"]) as baltica:
                made = baltica.subscribe(receiver.url, "baltica's desk")
                receiver.learn(str(made["secret"]))
                subscription, until = str(made["id"]), time.monotonic() + 20
                while baltica.subscription(subscription)["status"] != "active":
                    assert time.monotonic() < until, "the challenge was not answered"
                    time.sleep(0.05)
            _post(url, tokens["aurora"], 3, 14.0)
            _hear(receiver, "alert.opened")
            _change(url, tokens["baltica"], subscription, "suspend", reason="moving house")
            _post(url, tokens["aurora"], 2, 16.0)
            copy, dump = root / "copy", root / "forewarn.dump"
            _forewarn(folder, "db", "backup", str(copy))
            _forewarn(folder, "db", "dump", str(dump))
            answers = _answers(url, tokens, subscription)
            audit = _forewarn(folder, "audit", "verify")
        yield Original(answers, audit, folder, copy, dump, tokens, subscription, receiver)


def _change(url: str, token: str, subscription: str, verb: str, **body: str) -> None:
    httpx.post(
        f"{url}/v1/subscriptions/{subscription}/{verb}",
        headers={"Authorization": f"Bearer {token}"},
        json=body,
    ).raise_for_status()


@pytest.mark.parametrize("kind", ["base backup", "dump"])
def test_a_restored_service_answers_as_the_one_that_was_and_goes_on(
    original: Original, kind: str
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fw-restored-"))
    try:
        if kind == "dump":
            _forewarn(folder, "db", "restore", str(original.dump))
            shutil.copy(original.folder / "secret.key", folder)
        else:
            shutil.copytree(original.copy, folder, dirs_exist_ok=True, copy_function=shutil.copy2)
            owner = (original.copy / "postgres").stat()
            for path in (folder / "postgres", *(folder / "postgres").rglob("*")):
                shutil.chown(path, owner.st_uid, owner.st_gid)
        with processes.service("127.0.0.1", processes.free_port("127.0.0.1"), folder) as url:
            assert _answers(url, original.tokens, original.subscription) == original.answers
            assert _forewarn(folder, "audit", "verify", "--head", original.audit["head"])["whole"]
            _change(url, original.tokens["baltica"], original.subscription, "resume")
            owed = _hear(original.receiver, "alert.escalated")
            # Both copies owe it: whoever runs both is told twice, under one id.
            assert owed["duplicate"] is (kind == "dump")
            _post(url, original.tokens["aurora"], 1, 21.0)
            _hear(original.receiver, "alert.escalated")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_copy_is_not_made_over_what_is_there(original: Original) -> None:
    embedded = Embedded(original.folder)
    with pytest.raises(BackupFailed, match="not empty"):
        embedded.back_up(original.copy)
