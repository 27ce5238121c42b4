"""The receivers in `docs/receivers`, each run as its reader would run it, against the real service.

Observable oracles: the receivers' HTTP answers and exit codes, the lines they print, what they keep,
and what the API says became of a delivery. Hostile requests are signed here with the reference library.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from standardwebhooks import Webhook

from app import access
from app.database import Database
from app.demo import processes
from tests.conftest import TEMPLATE

RECEIVERS = Path(__file__).parents[2] / "docs" / "receivers"
SHELL = RECEIVERS / "shell"


def secret_of(name: str) -> str:
    return "whsec_" + base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


SECRET, OLDER, CYGNUS = secret_of("baltica"), secret_of("baltica, last year"), secret_of("cygnus")


def until(holds: Callable[[], object], what: str, within_seconds: float = 30) -> None:
    end = time.monotonic() + within_seconds
    while not holds():
        assert time.monotonic() < end, f"not within {within_seconds} s: {what}"
        time.sleep(0.05)


# ---- the examples and what they keep ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What a receiver's store holds: sequences, ids and whether each was handled; alerts by reference."""

    events: list[tuple[int, str, bool]]
    alerts: dict[str, tuple[str, str]]

    @property
    def handled(self) -> list[int]:
        return [sequence for sequence, _, handled in self.events if handled]


def kept_in_sqlite(store: Path) -> Kept:
    if not store.exists():
        return Kept([], {})
    with closing(sqlite3.connect(store)) as connection:
        events = connection.execute(
            "SELECT sequence, webhook_id, handled FROM inbox ORDER BY sequence"
        ).fetchall()
        alerts = connection.execute("SELECT ref, level, state FROM alerts").fetchall()
    return Kept(
        [(sequence, webhook_id, bool(handled)) for sequence, webhook_id, handled in events],
        {ref: (level, state) for ref, level, state in alerts},
    )


def lose_from_sqlite(store: Path, sequence: int) -> None:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("DELETE FROM inbox WHERE sequence = ?", (sequence,))
        connection.commit()


def kept_in_folder(store: Path) -> Kept:
    names = sorted(path.name for path in (store / "inbox").glob("*.json"))
    handled = {path.name for path in (store / "handled").glob("*.json")}
    events = [
        (int(name.split(".")[0]), name.split(".")[1], name in handled)
        for name in names
        if json.loads((store / "inbox" / name).read_text())["sequence"] == int(name.split(".")[0])
    ]
    assert len(events) == len(names), "a file's name tells another sequence than the event in it"
    told = [json.loads(path.read_text()) for path in (store / "alerts").glob("*.json")]
    return Kept(events, {alert["ref"]: (alert["level"], alert["state"]) for alert in told})


def lose_from_folder(store: Path, sequence: int) -> None:
    for place in ("inbox", "handled"):
        for path in (store / place).glob(f"{sequence:010}.*.json"):
            path.unlink()


@dataclass(frozen=True, slots=True)
class Example:
    """One of the servers: how it is started, and how its store is read."""

    name: str
    good: str
    command: tuple[str, ...]
    kept: Callable[[Path], Kept]
    lose: Callable[[Path, int], None]


PYTHON = RECEIVERS / "python"
WITH_SQLITE = (kept_in_sqlite, lose_from_sqlite)
WITH_FOLDER = (kept_in_folder, lose_from_folder)


def _python(file: str) -> tuple[str, ...]:
    return (sys.executable, str(PYTHON / file))


EXAMPLES = [
    Example("python", "mcu", _python("receiver.py"), *WITH_SQLITE),
    Example("python-with-library", "dram", _python("receiver_with_library.py"), *WITH_SQLITE),
    Example("node", "nand", ("node", str(RECEIVERS / "node" / "receiver.mjs")), *WITH_FOLDER),
]
NAMES = [example.name for example in EXAMPLES]
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
# Where the signature plays no part, the two in Python are one.
every_language = pytest.mark.parametrize(
    "example", [EXAMPLES[0], EXAMPLES[2]], ids=["python", "node"]
)


@dataclass(slots=True)
class Receiver:
    """An example in its folder, running or not."""

    example: Example
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    url: str = ""

    @property
    def secret_file(self) -> Path:
        return self.folder / "secret.txt"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def learn(self, *secrets: str) -> None:
        new = self.folder / "secret.new"
        new.write_text("".join(f"{secret}\n" for secret in secrets))
        new.replace(self.secret_file)

    @property
    def kept(self) -> Kept:
        return self.example.kept(self.store)

    def told(self) -> list[dict[str, Any]]:
        """The lines it has printed since it was started last."""
        lines = (self.folder / "out").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _address(self) -> str:
        """Where it listens; before that line it may tell of what it had kept and handles now."""
        return next((line["listening"] for line in self.told() if "listening" in line), "")

    @contextmanager
    def serving(self, *more: str, port: int = 0) -> Iterator[None]:
        store = ("--store", str(self.store))
        if self.example.name == "node":
            command = (*self.example.command, "serve", *store)
        else:
            command = (*self.example.command, *store, "serve")
        command += ("--port", str(port), "--secret-file", str(self.secret_file), *more)
        with (self.folder / "out").open("wb") as out, (self.folder / "errors").open("ab") as errors:
            process = subprocess.Popen(command, stdout=out, stderr=errors)
        self.process = process
        try:
            until(lambda: self._address() or process.poll() is not None, "the example listens")
            assert process.poll() is None, (self.folder / "errors").read_text()
            self.url = self._address()
            yield
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=10) == 0

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def reconcile(self, url: str, key_file: Path, subscription: str) -> list[int]:
        arguments = ["--url", url, "--key-file", str(key_file), "--subscription", subscription]
        command = list(self.example.command)
        store = ["--store", str(self.store)]
        command += ["reconcile", *store] if self.example.name == "node" else [*store, "reconcile"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        missing: list[int] = json.loads(done.stdout)["missing"]
        return missing


# ---- requests, fair and hostile ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A webhook as bytes. ``headers`` by lower-case name; a value may hold any Latin-1 character."""

    headers: Mapping[str, str]
    body: bytes

    def but(self, **changes: str | None) -> Request:
        """With other headers; None leaves one out."""
        headers = dict(self.headers)
        for name, value in changes.items():
            if value is None:
                del headers[f"webhook-{name}"]
            else:
                headers[f"webhook-{name}"] = value
        return Request(headers, self.body)

    @property
    def signature(self) -> str:
        return self.headers["webhook-signature"]


def signed(
    *,
    secret: str = SECRET,
    sequence: int = 1,
    late_seconds: float = 0,
    body: bytes | None = None,
    kind: str = "alert.opened",
    level: str = "early_warning",
) -> Request:
    at = datetime.now(UTC) - timedelta(seconds=late_seconds)
    webhook_id = f"msg_0a1b2c3d4e5f60718293_{sequence}"
    alert = {
        "ref": "TTC-SEMI-2026-0001",
        "level": level,
        "state": "open",
        "title": "Néon",
    }
    event = {
        "type": kind,
        "timestamp": "2026-01-01T00:00:00Z",
        "sequence": sequence,
        "data": {"alert": alert, "challenge": "prove-it"},
    }
    content = json.dumps(event, ensure_ascii=False).encode() if body is None else body
    return Request(
        {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(secret).sign(webhook_id, at, content.decode()),
        },
        content,
    )


def in_hexadecimal(request: Request) -> str:
    return "v1," + base64.b64decode(request.signature.removeprefix("v1,")).hex()


HOSTILE: dict[str, Callable[[Request], Request]] = {
    "the body was altered": lambda r: Request(r.headers, r.body.replace(b"open", b"shut")),
    "a newline was added": lambda r: Request(r.headers, r.body + b"\n"),
    "the body was cut off": lambda r: Request(r.headers, r.body[:-1]),
    "the body was taken away": lambda r: Request(r.headers, b""),
    "parsed and written again": lambda r: Request(r.headers, json.dumps(json.loads(r.body)).encode()),
    "signed with another's secret": lambda _: signed(secret=CYGNUS),
    "recorded an hour ago": lambda _: signed(late_seconds=3600),
    "recorded just too long ago": lambda _: signed(late_seconds=302),
    "signed for the next hour": lambda _: signed(late_seconds=-3600),
    "an old one with a fresh timestamp": lambda r: r.but(signature=signed(late_seconds=3600).signature),
    "sent again under another id": lambda r: r.but(id="msg_0a1b2c3d4e5f60718293_2"),
    "no id": lambda r: r.but(id=None),
    "no timestamp": lambda r: r.but(timestamp=None),
    "no signature": lambda r: r.but(signature=None),
    "an empty signature": lambda r: r.but(signature=""),
    "an unsigned challenge": lambda _: signed(kind="webhook.verify").but(signature=None),
    "a challenge signed by another": lambda _: signed(kind="webhook.verify", secret=CYGNUS),
    "garbage": lambda r: r.but(signature="garbage"),
    "commas": lambda r: r.but(signature="v1,,,"),
    "only a version": lambda r: r.but(signature="v1"),
    "a version and nothing": lambda r: r.but(signature="v1,"),
    "not base64": lambda r: r.but(signature="v1,%%%"),
    "not ASCII": lambda r: r.but(signature="v1,é\u00ff"),
    "padding alone": lambda r: r.but(signature="v1,===="),
    "the beginning of the right one": lambda r: r.but(signature=r.signature[:8]),
    "the right one in hexadecimal": lambda r: r.but(signature=in_hexadecimal(r)),
    "the right one as a version we do not know": lambda r: r.but(signature="v9" + r.signature[2:]),
    "the right one without its version": lambda r: r.but(signature=r.signature[3:]),
    "a pattern that fits everything": lambda r: r.but(signature="v1,*"),
    "a thousand wrong ones": lambda r: r.but(signature=" ".join(["v1,QUJD"] * 1000)),
    "a timestamp in words": lambda r: r.but(timestamp="now"),
    "a timestamp that is no number": lambda r: r.but(timestamp="NaN"),
    "a timestamp before 1970": lambda r: r.but(timestamp="-1"),
    "a timestamp without end": lambda r: r.but(timestamp="9" * 5000),
    "a timestamp that is a command": lambda r: r.but(timestamp="a[$(touch hacked)]"),
}  # fmt: skip

FAIR: dict[str, Callable[[Request], Request]] = {
    "as it is signed": lambda r: r,
    "almost five minutes ago": lambda _: signed(late_seconds=295),
    "an older secret beside the new one": lambda r: r.but(
        signature=f"{r.signature} {signed(secret=OLDER).signature}"
    ),
    "a newer secret than ours first": lambda r: r.but(
        signature=f"{signed(secret=CYGNUS).signature} {r.signature}"
    ),
    "a version we do not know beside it": lambda r: r.but(signature=f"v1a,QUJD {r.signature}"),
}


def send(url: str, request: Request, method: str = "POST") -> httpx.Response:
    headers = [
        (name.encode(), value.encode("latin-1"))
        for name, value in [*request.headers.items(), ("content-type", "application/json")]
    ]
    # No certificates are loaded: that takes longer than all the rest.
    with httpx.Client(verify=False, trust_env=False, timeout=10) as client:
        return client.request(method, url, content=request.body, headers=headers)


def verify_in_shell(folder: Path, request: Request, *more: str) -> subprocess.CompletedProcess[str]:
    headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    (folder / "headers.txt").write_bytes(headers.encode("latin-1"))
    (folder / "body.bin").write_bytes(request.body)
    command = [str(SHELL / "verify.sh"), "secret.txt", "headers.txt", "body.bin", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Receiver]]:
    """One of each example, all running, all with baltica's secret."""
    with ExitStack() as stack:
        receivers = {}
        for example in EXAMPLES:
            receiver = Receiver(example, tmp_path_factory.mktemp(example.name))
            receiver.learn(SECRET)
            stack.enter_context(receiver.serving())
            receivers[example.name] = receiver
        yield receivers


@pytest.mark.parametrize("far_end", [*NAMES, "shell"])
@pytest.mark.parametrize("what", HOSTILE)
def test_what_forewarn_did_not_just_sign_is_refused_and_not_kept(
    running: dict[str, Receiver], tmp_path: Path, far_end: str, what: str
) -> None:
    request = HOSTILE[what](signed())
    if far_end == "shell":
        (tmp_path / "secret.txt").write_text(f"{SECRET}\n")
        ended = verify_in_shell(tmp_path, request)
        assert (ended.returncode, ended.stderr[:9]) == (1, "Refused: ")
        assert not (tmp_path / "hacked").exists()
        return
    receiver = running[far_end]
    before = receiver.kept.events
    answer = send(receiver.url, request)
    assert answer.status_code == 401
    assert "prove-it" not in answer.text
    assert receiver.kept.events == before


@pytest.mark.parametrize("far_end", [*NAMES, "shell"])
@pytest.mark.parametrize("what", FAIR)
def test_what_forewarn_signed_is_accepted_and_kept_once(
    running: dict[str, Receiver], tmp_path: Path, far_end: str, what: str
) -> None:
    request = FAIR[what](signed())
    if far_end == "shell":
        (tmp_path / "secret.txt").write_text(f"{SECRET}\n")
        ended = verify_in_shell(tmp_path, request)
        assert (ended.returncode, ended.stderr) == (0, "")
        return
    receiver = running[far_end]
    assert [send(receiver.url, request).status_code for _ in range(2)] == [200, 200]
    assert [event[:2] for event in receiver.kept.events] == [(1, request.headers["webhook-id"])]


@pytest.mark.parametrize("far_end", ["python", "node", "shell"])
@pytest.mark.parametrize(("late_seconds", "fits"), [(0, True), (300, True), (301, False)])
def test_the_standards_own_example_verifies_for_five_minutes(
    tmp_path: Path, far_end: str, late_seconds: int, fits: bool
) -> None:
    example = Request(
        {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
        b'{"test": 2432232314}',
    )
    secret, now = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330 + late_seconds
    (tmp_path / "secret.txt").write_text(secret)
    headers, body = json.dumps(dict(example.headers)), example.body.decode()
    if far_end == "shell":
        ended = verify_in_shell(tmp_path, example, str(now))
    elif far_end == "python":
        script = (
            f"import receiver; receiver.verify([{secret!r}], {headers}, {body!r}.encode(), {now})"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script], cwd=PYTHON, capture_output=True, text=True, check=False
        )
    else:
        script = (
            f"import {{ verify }} from './receiver.mjs'; "
            f"verify([{secret!r}], {headers}, Buffer.from({body!r}), {now})"
        )
        command = ["node", "--input-type=module", "--eval", script]
        ended = subprocess.run(
            command, cwd=RECEIVERS / "node", capture_output=True, text=True, check=False
        )
    assert (ended.returncode == 0) is fits, ended.stderr
    assert fits or "five minutes off" in ended.stderr


@every_example
def test_what_is_signed_but_no_webhook_is_not_taken_for_one(
    running: dict[str, Receiver], example: Example
) -> None:
    url = running[example.name].url
    for body in (b"no JSON", b"[]", b"null", b'{"type":"alert.opened"}'):
        assert send(url, signed(body=body)).status_code == 400, body
    assert send(url, signed(), "PUT").status_code in {405, 501}
    port = httpx.URL(url).port
    assert port is not None
    for head, status in (
        (b"Content-Length: 99999999", b"413"),
        (b"Transfer-Encoding: chunked", b"411"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
            stranger.sendall(b"POST / HTTP/1.1\r\nHost: here\r\n" + head + b"\r\n\r\n")
            assert stranger.recv(100).split(b" ")[1] == status


@every_language
def test_killed_right_after_its_answer_it_has_the_event_and_handles_it_once(
    example: Example, tmp_path: Path
) -> None:
    receiver = Receiver(example, tmp_path)
    receiver.learn(SECRET)
    for sequence in (1, 2, 3):
        with receiver.serving():
            assert send(receiver.url, signed(sequence=sequence)).status_code == 200
            receiver.kill()
    with receiver.serving():
        assert send(receiver.url, signed(sequence=2)).status_code == 200
        until(lambda: receiver.kept.handled == [1, 2, 3], "all were handled")
    assert [sequence for sequence, _, _ in receiver.kept.events] == [1, 2, 3]
    assert [line["new"] for line in receiver.told() if "new" in line] == [False]


@every_language
def test_an_event_that_comes_late_does_not_take_back_what_a_newer_one_said(
    example: Example, tmp_path: Path
) -> None:
    receiver = Receiver(example, tmp_path)
    receiver.learn(SECRET)
    with receiver.serving():
        for sequence, level in ((2, "crisis"), (1, "early_warning"), (3, "disruption")):
            request = signed(sequence=sequence, level=level)
            assert send(receiver.url, request).status_code == 200
            until(lambda: sequence in receiver.kept.handled, "it was handled")  # noqa: B023 - at once
            expected = "disruption" if sequence == 3 else "crisis"
            assert receiver.kept.alerts == {"TTC-SEMI-2026-0001": (expected, "open")}


# ---- with the real service --------------------------------------------------------------------


@dataclass(slots=True)
class Service:
    """A running service, with aurora who reports and baltica who subscribes."""

    url: str
    aurora: str
    baltica: str
    key_file: Path
    http: httpx.Client

    def post(self, good: str, month: int, weeks: float) -> None:
        told = {
            "sector": "semiconductors", "indicator": "lead_time", "good": good, "value": weeks,
            "unit": "weeks", "observed_at": f"2021-{month:02}-28T00:00:00Z",
        }  # fmt: skip
        answer = self.http.post(
            f"{self.url}/v1/signals", json=told, headers={"Authorization": f"Bearer {self.aurora}"}
        )
        assert answer.json()["accepted"] == 1, answer.text

    def ask(self, method: str, path: str, body: object = None) -> Any:
        answer = self.http.request(
            method,
            f"{self.url}/v1{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.baltica}"},
        )
        assert answer.is_success, answer.text
        return answer.json()

    def delivery(self, webhook_id: str) -> tuple[str, int]:
        found = self.ask("GET", f"/deliveries/{webhook_id}")
        return found["state"], found["attempts"]

    def status(self, subscription: str) -> str:
        return str(self.ask("GET", f"/subscriptions/{subscription}")["status"])

    def subscribe(self, receiver: Receiver, good: str) -> str:
        """Subscribes it to the alerts of one good, and waits until it has consented."""
        body = {"url": receiver.url, "filter": {"goods": [good]}}
        made = self.ask("POST", "/subscriptions", body)
        receiver.learn(made["secret"])
        until(lambda: self.status(made["id"]) == "active", "it answered the challenge")
        return str(made["id"])


async def a_database_with_keys(server_url: str, name: str) -> tuple[str, str, str]:
    """A migrated database of that name: its URL, aurora's key and baltica's."""
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    await connection.close()
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    database = Database(url)
    now = datetime.now(UTC)
    async with database.begin() as transaction:
        aurora = await access.issue_key(
            transaction, name="aurora", role="partner", party="EU", now=now
        )
        baltica = await access.issue_key(transaction, name="baltica", role="subscriber", now=now)
    await database.close()
    return url, aurora.token, baltica.token


@pytest.fixture(scope="module")
def service(postgres_url: str) -> Iterator[Service]:
    database_url, aurora, baltica = asyncio.run(a_database_with_keys(postgres_url, "receivers"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fw-receivers-")))
        settings = {
            "FOREWARN_DATABASE_URL": database_url,
            "FOREWARN_SECRET_KEY": "a secret key for tests, long enough to be one",
            "FOREWARN_RETRY_SCHEDULE": ",".join(["0.5"] * 200),
        }
        port = processes.free_port("127.0.0.1")
        url = stack.enter_context(processes.service("127.0.0.1", port, folder, settings))
        key_file = folder / "key.txt"
        key_file.write_text(f"{baltica}\n")
        http = stack.enter_context(httpx.Client(timeout=30))
        yield Service(url, aurora, baltica, key_file, http)


@every_example
def test_a_receiver_hears_each_change_once_through_resends_rotation_and_absence(
    service: Service, example: Example, tmp_path: Path
) -> None:
    receiver = Receiver(example, tmp_path)
    with receiver.serving():
        # Not ready: it has no secret yet, and says when to come again.
        answer = send(receiver.url, signed())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        subscription = service.subscribe(receiver, example.good)
        message = f"msg_{subscription.removeprefix('sub_')}_"

        # March: lead times of 14.5 weeks. The alert opens and is heard of.
        service.post(example.good, 3, 14.5)
        until(lambda: receiver.kept.handled == [1, 2], "the opening was handled")
        assert receiver.kept.events[1][:2] == (2, f"{message}2")
        (ref,) = receiver.kept.alerts

        # Baltica asks for it once more. It is answered like the first time and kept once.
        until(lambda: service.delivery(f"{message}2") == ("delivered", 1), "the first was recorded")
        service.ask("POST", f"/deliveries/{message}2/redeliver")
        until(
            lambda: service.delivery(f"{message}2") == ("delivered", 2), "the resend was recorded"
        )
        assert [line["new"] for line in receiver.told() if line.get("stored") == f"{message}2"] == [
            True,
            False,
        ]

        # The secret changes: while both sign, the old one and then the new one fits.
        new = service.ask("POST", f"/subscriptions/{subscription}/rotate-secret")["secret"]
        service.post(example.good, 4, 16.5)
        until(lambda: receiver.kept.handled == [1, 2, 3], "the old secret still fits")
        receiver.learn(new)
        service.ask("POST", f"/subscriptions/{subscription}/test")
        until(lambda: receiver.kept.handled == [1, 2, 3, 4], "the new secret fits")
        assert [line for line in receiver.told() if "refused" in line] == []

    # Away: it rises, and eases once it was lower twice. And of what it had, one event is lost.
    for month, weeks in ((5, 21.0), (6, 17.0), (7, 17.0)):
        service.post(example.good, month, weeks)
    example.lose(receiver.store, 3)
    assert receiver.reconcile(service.url, service.key_file, subscription) == [3, 5, 6]
    assert receiver.reconcile(service.url, service.key_file, subscription) == []

    # Back on its port: what was pulled is handled, what is sent meanwhile is known.
    port = httpx.URL(receiver.url).port or 0
    with receiver.serving(port=port):
        until(
            lambda: [service.delivery(f"{message}{n}")[0] for n in (5, 6)] == ["delivered"] * 2,
            "what it missed was delivered",
        )
        until(lambda: receiver.kept.handled == [1, 2, 3, 4, 5, 6], "all was handled")
        assert {line["new"] for line in receiver.told() if "new" in line} == {False}
    assert [webhook_id for _, webhook_id, _ in receiver.kept.events] == [
        f"{message}{n}" for n in (1, 2, 3, 4, 5, 6)
    ]
    alert = service.ask("GET", f"/alerts/{ref}")
    assert receiver.kept.alerts == {ref: (alert["level"], alert["state"])}


@every_language
def test_a_receiver_that_answers_410_is_sent_nothing_more(
    service: Service, example: Example, tmp_path: Path
) -> None:
    receiver = Receiver(example, tmp_path)
    with receiver.serving():
        subscription = service.subscribe(receiver, "discretes")
        port = httpx.URL(receiver.url).port or 0
    with receiver.serving("--unsubscribe", port=port):
        assert send(receiver.url, signed(secret=CYGNUS)).status_code == 401, (
            "strangers learn nothing"
        )
        service.ask("POST", f"/subscriptions/{subscription}/test")
        until(lambda: service.status(subscription) == "suspended", "410 was heard")
    assert "410" in service.ask("GET", f"/subscriptions/{subscription}")["reason"]


@every_language
def test_a_command_that_cannot_go_on_says_so_in_one_sentence(
    service: Service, example: Example, tmp_path: Path
) -> None:
    arguments = ["--url", service.url, "--subscription", "sub_" + "0" * 20]
    for more, word in (
        (["--key-file", str(service.key_file)], "404"),
        (["--key-file", str(tmp_path / "none")], "none"),
    ):
        command = [*example.command, "reconcile", *arguments, *more]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert word in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_the_page_offers_every_example_and_nothing_that_is_not_there() -> None:
    page = (RECEIVERS / "README.md").read_text()
    offered = set(re.findall(r"\]\(((?:python|node|shell)/[^)]+)\)", page))
    there = {
        path.relative_to(RECEIVERS).as_posix()
        for path in RECEIVERS.glob("*/*")
        if path.suffix in {".py", ".mjs", ".sh"}
    }
    assert offered == there


@contextmanager
def door_of_scripts(folder: Path) -> Iterator[str]:
    """An endpoint whose every request is judged by ``verify.sh``; gives its address."""

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = dict(self.headers.items())
            secret = folder / "secret.txt"
            until(lambda: secret.exists() and secret.read_text(), "the secret was written")
            genuine = verify_in_shell(folder, Request(headers, body)).returncode == 0
            event = json.loads(body)
            answer = json.dumps({"challenge": event["data"].get("challenge")}).encode()
            self.send_response(200 if genuine else 401)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_scripts_subscribe_verify_and_pull_exactly_what_a_folder_has_not(
    service: Service, tmp_path: Path
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "FOREWARN_URL": service.url,
        "FOREWARN_KEY_FILE": str(service.key_file),
    }

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SHELL / name, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    # Only alerts: the same owner's receivers of other tests come and go, and it would be told of these.
    wish = {"goods": ["analog"], "types": ["alert.opened", "alert.updated", "alert.escalated"]}
    with door_of_scripts(tmp_path) as url:
        made = run("subscribe.sh", url, "secret.txt", json.dumps(wish))
        assert made.returncode == 0, made.stderr
        shown = json.loads(made.stdout)
        assert "secret" not in shown
        assert (tmp_path / "secret.txt").stat().st_mode & 0o077 == 0
        again = run("subscribe.sh", url, "secret.txt")
        assert (again.returncode, "not overwritten" in again.stderr) == (1, True)
        until(lambda: service.status(shown["id"]) == "active", "verify.sh accepted the challenge")
        service.post("analog", 3, 14.5)
        service.post("analog", 4, 16.5)
        message = f"msg_{shown['id'].removeprefix('sub_')}_"
        until(
            lambda: service.delivery(f"{message}3") == ("delivered", 1), "verify.sh accepted them"
        )

    def pull() -> list[int]:
        pulled = run("pull.sh", shown["id"], "inbox")
        assert pulled.returncode == 0, pulled.stderr
        return [int(line) for line in pulled.stdout.split()]

    assert pull() == [1, 2, 3]
    assert pull() == []
    (tmp_path / "inbox" / f"0000000002.{message}2.json").unlink()
    service.ask("POST", f"/subscriptions/{shown['id']}/test")
    assert pull() == [2, 4]
    events = [json.loads(path.read_text()) for path in sorted((tmp_path / "inbox").iterdir())]
    listed = service.ask("GET", f"/subscriptions/{shown['id']}/events")["items"]
    assert events == [{k: v for k, v in item.items() if k != "id"} for item in listed]
    refused = run("pull.sh", "sub_" + "0" * 20, "inbox")
    assert (refused.returncode, "404" in refused.stderr) == (1, True)
