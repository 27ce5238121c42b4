"""What `kill -9` may do: send a webhook twice under one id; never lose one, never invent one.

Observable oracles: answers over HTTP, rows after a commit, and what a real receiver heard.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from standardwebhooks import Webhook

from app import access
from app.database import Database
from app.demo import processes

LEAD_TIME: dict[str, Any] = {
    "sector": "semiconductors",
    "indicator": "lead_time",
    "good": "mcu",
    "observed_at": "2021-03-31T00:00:00Z",
    "value": 16.0,
    "unit": "weeks",
}


@dataclass(slots=True)
class Receiver:
    """An endpoint that verifies what it hears and answers as the test says.

    ``before_answer`` is called with each alert before it is answered.
    """

    secret: str = ""
    port: int = 0
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    before_answer: Callable[[], None] = lambda: None

    def ids(self) -> list[str]:
        return [webhook_id for webhook_id, _ in self.heard]

    def wait_for(self, many: int, within_seconds: float = 30) -> None:
        until = time.monotonic() + within_seconds
        while len(self.heard) < many:
            assert time.monotonic() < until, f"heard {len(self.heard)} of {many}"
            time.sleep(0.02)

    def hear(self, headers: dict[str, str], body: bytes) -> bytes:
        said: dict[str, Any] = json.loads(body)
        if said["type"] == "webhook.verify":
            return json.dumps({"challenge": said["data"]["challenge"]}).encode()
        Webhook(self.secret).verify(body, headers)
        self.heard.append((headers["webhook-id"], said))
        self.before_answer()
        return b"{}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    listening = Receiver()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = listening.hear(headers, body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    listening.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield listening
    server.shutdown()
    server.server_close()


@dataclass(slots=True)
class Site:
    """A data folder, a database and a port on which services are started and killed."""

    folder: Path
    database_url: str
    port: int
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return processes.environment(self.folder) | {
            "FOREWARN_DATABASE_URL": self.database_url,
            "FOREWARN_SECRET_KEY": "a secret key for tests, long enough to be one",
            "FOREWARN_LEASE_SECONDS": "1",  # what a dead worker had in hand waits no longer
            **self.settings,
        }

    @contextmanager
    def serving(self, role: str = "all") -> Iterator[subprocess.Popen[bytes]]:
        command = processes.forewarn("serve", "--port", str(self.port), "--role", role)
        with (self.folder / "service.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            until = time.monotonic() + 30
            while not processes.is_ready(self.url):
                assert process.poll() is None, processes.last_words(self.folder / "service.log")
                assert time.monotonic() < until, "the service was not ready in time"
                time.sleep(0.05)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    return Site(tmp_path, database_url, processes.free_port("127.0.0.1"))


@dataclass(slots=True)
class Cast:
    """Aurora, who reports, and baltica, who subscribes; their keys outlive every service."""

    url: str
    aurora: str
    baltica: str
    http: httpx.Client

    def post(self, *signals: dict[str, Any]) -> httpx.Response:
        return self.http.post(
            f"{self.url}/v1/signals",
            json=list(signals),
            headers={"Authorization": f"Bearer {self.aurora}"},
        )

    def subscribe(self, receiver: Receiver) -> str:
        """Baltica's endpoint, verified and active; call while the service runs."""
        headers = {"Authorization": f"Bearer {self.baltica}"}
        made = self.http.post(
            f"{self.url}/v1/subscriptions",
            json={"url": f"http://127.0.0.1:{receiver.port}/hook", "format": "json", "filter": {}},
            headers=headers,
        )
        assert made.status_code == 201, made.text
        receiver.secret = made.json()["secret"]
        where = f"{self.url}/v1/subscriptions/{made.json()['id']}"
        until = time.monotonic() + 20
        while self.http.get(where, headers=headers).json()["status"] != "active":
            assert time.monotonic() < until, "the endpoint was not verified"
            time.sleep(0.05)
        return str(made.json()["id"])


@pytest.fixture
async def cast(site: Site, database: Database) -> AsyncIterator[Cast]:
    now = datetime.now(UTC)
    async with database.begin() as connection:
        aurora = await access.issue_key(
            connection, name="aurora", role="partner", party="EU", now=now
        )
        baltica = await access.issue_key(connection, name="baltica", role="subscriber", now=now)
    with httpx.Client(timeout=30) as http:
        yield Cast(site.url, aurora.token, baltica.token, http)


def kill(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


async def _deliveries(site: Site) -> list[tuple[str, int]]:
    connection = await asyncpg.connect(site.database_url)
    try:
        rows = await connection.fetch(
            "SELECT state, attempts FROM deliveries WHERE transition_id IS NOT NULL ORDER BY id"
        )
        return [(row["state"], row["attempts"]) for row in rows]
    finally:
        await connection.close()


async def test_killed_between_commit_and_send_everything_owed_is_sent(
    site: Site, cast: Cast, receiver: Receiver
) -> None:
    with site.serving():
        cast.subscribe(receiver)
    with site.serving(role="api") as api:
        assert cast.post(LEAD_TIME).json()["alerts"] == ["TTC-SEMI-2026-0001"]
        kill(api)
    assert await _deliveries(site) == [("owed", 0)]
    assert receiver.heard == []
    with site.serving():
        receiver.wait_for(1)
        await _all_delivered(site)
    assert receiver.heard[0][1]["data"]["alert"]["ref"] == "TTC-SEMI-2026-0001"
    assert await _deliveries(site) == [("delivered", 1)]


async def test_killed_between_send_and_record_the_same_id_is_sent_again(
    site: Site, cast: Cast, receiver: Receiver
) -> None:
    with site.serving() as first:
        cast.subscribe(receiver)
        receiver.before_answer = lambda: kill(first)
        cast.post(LEAD_TIME)
        receiver.wait_for(1)
        first.wait(timeout=10)
    receiver.before_answer = lambda: None
    assert [state for state, _ in await _deliveries(site)] == ["owed"]
    with site.serving():
        receiver.wait_for(2)
        await _all_delivered(site)
    assert len(receiver.heard) == 2
    assert len(set(receiver.ids())) == 1
    assert receiver.heard[0][1] == receiver.heard[1][1]
    assert [state for state, _ in await _deliveries(site)] == ["delivered"]


async def _all_delivered(site: Site, within_seconds: float = 60) -> None:
    until = time.monotonic() + within_seconds
    while any(state == "owed" for state, _ in await _deliveries(site)):
        assert time.monotonic() < until, "something is still owed"
        await asyncio.sleep(0.05)


async def test_killed_at_any_instant_nothing_acknowledged_or_owed_is_lost(
    site: Site, cast: Cast, receiver: Receiver
) -> None:
    """Signals are posted while the service is killed again and again at arbitrary instants."""
    goods = ("mcu", "dram", "nand", "chips", "analog", "discretes")
    levels = (13.0, 14.5, 16.5, 21.0, 16.5, 15.0)
    acknowledged = 0
    with site.serving():
        cast.subscribe(receiver)
    for life in range(5):
        with site.serving() as process:
            timer = threading.Timer(0.4 + 0.17 * life, kill, [process])
            timer.start()
            while process.poll() is None:
                good, month = goods[acknowledged % 6], acknowledged // 6
                at = f"{1950 + month // 12}-{month % 12 + 1:02d}-28T00:00:00Z"
                told = {**LEAD_TIME, "good": good, "observed_at": at, "value": levels[month % 6]}
                try:
                    answer = cast.post(told)
                except httpx.TransportError:
                    continue  # not acknowledged: the same is sent again in the next life
                assert answer.status_code == 200, answer.text
                acknowledged += 1
            timer.join()
    with site.serving():
        await _all_delivered(site)
    connection = await asyncpg.connect(site.database_url)
    stored = await connection.fetchval("SELECT count(*) FROM signals")
    owed = await connection.fetch("SELECT 1 FROM deliveries WHERE transition_id IS NOT NULL")
    transitions = await connection.fetchval("SELECT count(*) FROM transitions")
    await connection.close()
    assert acknowledged > 10
    assert stored in {acknowledged, acknowledged + 1}, "more only by the one that was cut off"
    assert transitions == len(owed) == len(set(receiver.ids()))
    numbers: dict[str, list[int]] = {}
    for _, said in receiver.heard:
        heard = numbers.setdefault(said["data"]["alert"]["ref"], [])
        number = said["data"]["transition"]["number"]
        assert number in heard or number == len(heard) + 1, "out of order within an alert"
        if number not in heard:
            heard.append(number)


async def test_the_answer_is_sent_only_after_the_commit(site: Site, cast: Cast) -> None:
    """A trigger makes the commit itself slow, then fail: the answer must wait, then say so."""
    connection = await asyncpg.connect(site.database_url)
    await connection.execute(
        "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(1); "
        "IF NEW.last_value = 15 THEN RAISE 'refused at commit'; END IF; RETURN NULL; END $$"
    )
    await connection.execute(
        "CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON series_state "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit()"
    )
    with site.serving():
        began = time.monotonic()
        answer = cast.post(LEAD_TIME)
        assert time.monotonic() - began >= 1
        assert answer.json()["accepted"] == 1
        assert await connection.fetchval("SELECT count(*) FROM signals") == 1
        refused = cast.post({**LEAD_TIME, "observed_at": "2021-04-30T00:00:00Z", "value": 15.0})
        assert refused.status_code == 500
        assert "refused at commit" not in refused.text
        assert await connection.fetchval("SELECT count(*) FROM signals") == 1
    await connection.close()


async def test_a_receiver_that_was_down_gets_everything_in_order(
    site: Site, cast: Cast, receiver: Receiver
) -> None:
    """The receiver breaks every connection through a whole rise and fall, then comes back."""
    site.settings["FOREWARN_RETRY_SCHEDULE"] = ",".join(["0.2"] * 100)
    down = threading.Event()

    def refuse() -> None:
        if down.is_set():
            receiver.heard.pop()
            raise ConnectionAbortedError

    receiver.before_answer = refuse
    with site.serving():
        cast.subscribe(receiver)
        down.set()
        for month, value in enumerate((14.5, 16.5, 21.0, 17.0, 17.0), start=1):
            at = f"2021-{month:02d}-28T00:00:00Z"
            assert cast.post({**LEAD_TIME, "observed_at": at, "value": value}).status_code == 200
        await asyncio.sleep(1)
        assert receiver.heard == []
        down.clear()
        receiver.wait_for(4)
        await _all_delivered(site)
    assert [said["type"] for _, said in receiver.heard] == [
        "alert.opened",
        "alert.escalated",
        "alert.escalated",
        "alert.eased",
    ]
    sequences = [said["sequence"] for _, said in receiver.heard]
    assert sequences == sorted(set(sequences))
