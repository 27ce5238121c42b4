"""A place where services are started and killed, who reports there, and who hears of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from standardwebhooks import Webhook

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


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens while the block runs."""
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
    try:
        yield listening
    finally:
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


def kill(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


async def deliveries(site: Site) -> list[tuple[str, int]]:
    connection = await asyncpg.connect(site.database_url)
    try:
        rows = await connection.fetch(
            "SELECT state, attempts FROM deliveries WHERE transition_id IS NOT NULL ORDER BY id"
        )
        return [(row["state"], row["attempts"]) for row in rows]
    finally:
        await connection.close()


async def all_delivered(site: Site, within_seconds: float = 60) -> None:
    until = time.monotonic() + within_seconds
    while any(state == "owed" for state, _ in await deliveries(site)):
        assert time.monotonic() < until, "something is still owed"
        await asyncio.sleep(0.05)
