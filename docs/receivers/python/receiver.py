"""A receiver of Forewarn's webhooks in one file that needs nothing but Python 3.11 or newer.

    python receiver.py serve --secret-file secret.txt
    python receiver.py reconcile --url https://forewarn.example --key-file key.txt --subscription sub_...

What was received is kept in one SQLite file: ``inbox`` holds every event once, ``alerts`` is what this
example makes of them. Put your own work in the place of :func:`work`; keep the rest.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import hmac
import http.client
import json
import logging
import re
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOLERANCE_SECONDS = 5 * 60
"""Standard Webhooks: refuse what is older or newer, or a recorded request could be sent again for ever."""

BODY_LIMIT_BYTES = 2**20
"""Events have less than a tenth of it. Without a limit a stranger's request could fill the memory."""

LOOK_AGAIN_SECONDS = 1.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox (
    webhook_id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, type TEXT NOT NULL, event TEXT NOT NULL,
    handled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS inbox_waiting ON inbox (sequence) WHERE handled = 0;
CREATE INDEX IF NOT EXISTS inbox_sequence ON inbox (sequence);
CREATE TABLE IF NOT EXISTS alerts (
    ref TEXT PRIMARY KEY, sequence INTEGER NOT NULL, level TEXT NOT NULL, state TEXT NOT NULL,
    title TEXT NOT NULL
);
"""


class Refused(Exception):
    """The request is not from Forewarn, or not fresh; the message says why."""


class Failed(Exception):
    """A command cannot go on; the message is one sentence for whoever started it."""


log = logging.getLogger("receiver")

Verify = Callable[[Sequence[str], Mapping[str, str], bytes, float], None]


def verify(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Returns if the body was signed, with one of our secrets and not long ago.

    Args:
        secrets: ``whsec_`` and a key in base64, each; several while a secret is being changed.
        headers: by lower-case name.
        body: the bytes as they came; JSON that was parsed and written again has another signature.
        now: in seconds since 1970.

    Raises:
        Refused: it is unsigned, signed with another secret, altered, or more than five minutes off.
    """
    webhook_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not (webhook_id and timestamp and signatures):
        raise Refused("One of webhook-id, webhook-timestamp and webhook-signature is missing.")
    if not re.fullmatch("[0-9]{1,12}", timestamp):
        raise Refused("The webhook-timestamp is not a number of seconds.")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise Refused("The webhook-timestamp is more than five minutes off.")
    # The standard library reads headers as Latin-1; so this gives back the bytes that came.
    signed = f"{webhook_id}.{timestamp}.".encode("latin-1") + body
    # A header may hold several signatures, and some of a version that we do not know.
    offered = [
        text.encode("latin-1")
        for version, _, text in (one.partition(",") for one in signatures.split(" "))
        if version == "v1"
    ]
    expected = [
        base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)) for secret in secrets
    ]
    # `==` stops at the first byte that differs, and how long it took tells a forger how many were right.
    if not any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in offered):
        raise Refused("No signature fits.")


def key_of(secret: str) -> bytes:
    """The key in a secret.

    Raises:
        Failed: it is not ``whsec_`` and base64.
    """
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith("whsec_") or not key:
        raise Failed("A secret is whsec_ and a key in base64, as POST /v1/subscriptions gave it.")
    return key


def work(connection: sqlite3.Connection, event: Mapping[str, Any], sequence: int) -> None:
    """Yours: what an event means to you. Here, the newest state of each alert is kept.

    What is written through ``connection`` is committed together with the note that the event is handled,
    so it is done exactly once. What leaves the database, such as a mail, may be done twice after a crash.

    An alert's events arrive in order; those sent again or pulled may not. So an older one never
    overwrites what a newer one said.
    """
    if not str(event["type"]).startswith("alert."):
        return  # A challenge, a test, or a type that is newer than this file.
    alert = event["data"]["alert"]
    connection.execute(
        "INSERT INTO alerts (ref, sequence, level, state, title) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (ref) DO UPDATE SET sequence = excluded.sequence, level = excluded.level, "
        "state = excluded.state, title = excluded.title WHERE excluded.sequence > alerts.sequence",
        (alert["ref"], sequence, alert["level"], alert["state"], alert["title"]),
    )


@dataclass(frozen=True, slots=True)
class Store:
    """The SQLite file; safe for several threads and processes. One file a subscription."""

    path: Path

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection that commits each statement, unless a transaction is begun."""
        with closing(sqlite3.connect(self.path, timeout=5, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            # Whatever was committed, and so answered 2xx, is on the disk.
            connection.execute("PRAGMA synchronous = FULL")
            yield connection

    def prepare(self) -> None:
        """Makes the tables where there are none."""
        with self.open() as connection:
            connection.executescript(SCHEMA)

    def keep(self, webhook_id: str, sequence: int, event: Mapping[str, Any]) -> bool:
        """Stores an event unless it is there; False when it was. Sent twice, it has the same id."""
        told = json.dumps(event, separators=(",", ":"))
        with self.open() as connection:
            stored = connection.execute(
                "INSERT INTO inbox (webhook_id, sequence, type, event) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (webhook_id) DO NOTHING",
                (webhook_id, sequence, event["type"], told),
            )
            return stored.rowcount == 1

    def handle_next(self) -> dict[str, object] | None:
        """Works off the event with the lowest sequence that waits, and tells which; None if none does.

        The work and the note that it is done are one transaction: after a crash both are there or neither.
        """
        with self.open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # Another process may be at it: one at a time.
            row = connection.execute(
                "SELECT webhook_id, sequence, type, event FROM inbox WHERE handled = 0 "
                "ORDER BY sequence LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            webhook_id, sequence, kind, told = row
            work(connection, json.loads(told), sequence)
            connection.execute("UPDATE inbox SET handled = 1 WHERE webhook_id = ?", (webhook_id,))
            connection.execute("COMMIT")
            return {"handled": webhook_id, "sequence": sequence, "type": kind}

    def whole_until(self) -> int:
        """The last sequence before the first gap: sequences begin with 1 and have none."""
        with self.open() as connection:
            (last,) = connection.execute(
                "SELECT min(sequence) FROM (SELECT 0 AS sequence UNION ALL SELECT sequence FROM inbox) "
                "AS held WHERE NOT EXISTS "
                "(SELECT 1 FROM inbox AS next WHERE next.sequence = held.sequence + 1)"
            ).fetchone()
            return int(last)


@dataclass(slots=True)
class Receiver:
    """What one running receiver knows.

    ``secret_file`` holds a secret a line and is read for every request, so that it can be changed
    while we run. ``unsubscribing`` answers 410 to whatever is signed: it asks for nothing more.
    """

    store: Store
    secret_file: Path
    verify: Verify
    unsubscribing: bool = False
    arrived: threading.Event = field(default_factory=threading.Event)

    def answer(
        self, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, object], dict[str, str]]:
        """The status, the body and further headers of the answer to one request."""
        try:
            secrets = self._secrets()
        except (OSError, Failed) as error:
            tell({"not_ready": str(error)})
            return 503, {"detail": "Not ready; send it again."}, {"Retry-After": "1"}
        try:
            self.verify(secrets, headers, body, time.time())
        except Refused as error:
            # Never 2xx: that would say "delivered", and the event would not come again.
            tell({"refused": str(error)})
            return 401, {"detail": str(error)}, {}
        if self.unsubscribing:
            return 410, {"detail": "We want nothing more."}, {}
        try:
            event = json.loads(body)
            kind, sequence = str(event["type"]), int(event["sequence"])
        except (ValueError, TypeError, KeyError):
            return 400, {"detail": "It is signed, but is no event of Forewarn's."}, {}
        try:
            new = self.store.keep(headers["webhook-id"], sequence, event)
        except sqlite3.Error as error:  # The disk is full, or another process holds the file.
            tell({"not_stored": str(error)})
            return 503, {"detail": "Not stored; send it again."}, {"Retry-After": "30"}
        tell({"stored": headers["webhook-id"], "sequence": sequence, "type": kind, "new": new})
        self.arrived.set()
        if kind == "webhook.verify":
            return 200, {"challenge": event["data"]["challenge"]}, {}
        return (
            200,
            {},
            {},
        )  # Also when we had it: whoever sends twice did not hear our first answer.

    def work_off(self) -> None:
        """Handles events as they arrive, and looks again each second for what ``reconcile`` stored.

        Work that fails is tried again, and what came later waits for it, so that the order is kept.
        """
        while True:
            self.arrived.clear()
            try:
                while handled := self.store.handle_next():
                    tell(handled)
            except Exception:
                log.exception("An event could not be handled; it is tried again.")
            self.arrived.wait(LOOK_AGAIN_SECONDS)

    def _secrets(self) -> list[str]:
        secrets = self.secret_file.read_text(encoding="ascii", errors="replace").split()
        if not secrets:
            raise Failed(f"There is no secret in {self.secret_file} yet.")
        for secret in secrets:
            key_of(secret)
        return secrets


def door(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    """What turns HTTP into calls of that receiver."""

    class Door(BaseHTTPRequestHandler):
        timeout = 15  # Whoever sends a byte a minute does not hold a thread for longer.

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch("[0-9]{1,12}", length):
                self._send(411, {"detail": "Say Content-Length."}, {})
            elif int(length) > BODY_LIMIT_BYTES:
                self._send(413, {"detail": f"More than {BODY_LIMIT_BYTES} bytes."}, {})
            else:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self._send(*receiver.answer(headers, self.rfile.read(int(length))))

        def _send(self, status: int, body: Mapping[str, object], more: Mapping[str, str]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: what matters is told by the receiver."""

    return Door


class Listener(ThreadingHTTPServer):
    """Waits for more connections than the library's five, which a burst of events may exceed."""

    request_queue_size = 128


def tell(line: Mapping[str, object]) -> None:
    """One JSON object a line on standard output: a log that programs can read, and strangers not forge."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def serve(receiver: Receiver, host: str, port: int) -> None:
    """Receives until it is told to stop. Put a proxy that speaks TLS before it."""
    receiver.store.prepare()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        listener = Listener((host, port), door(receiver))
    except OSError as error:
        raise Failed(f"Port {port} of {host} cannot be used: {error.strerror}.") from error
    with listener:
        threading.Thread(target=receiver.work_off, daemon=True).start()
        tell({"listening": f"http://{host}:{listener.server_address[1]}/"})
        listener.serve_forever()


def reconcile(store: Store, url: str, key: str, subscription: str) -> None:
    """Pulls what the webhooks did not bring, and tells the sequences that were missing.

    Asks from the first gap on, and stores under the same ids: an event that arrives meanwhile is kept once.
    The running receiver, or the next that starts, handles them.
    """
    store.prepare()
    missing: list[int] = []
    after: str | None = str(store.whole_until())
    while after is not None:
        page = fetch(url, f"/v1/subscriptions/{subscription}/events?limit=200&after={after}", key)
        for item in page["items"]:
            event = {name: value for name, value in item.items() if name != "id"}
            if store.keep(item["id"], item["sequence"], event):
                missing.append(item["sequence"])
        after = page["next"]
    tell({"missing": missing})


def fetch(url: str, path: str, key: str) -> dict[str, Any]:
    """A JSON object from the API. A redirect is not followed: the key would go along.

    Raises:
        Failed: it cannot be reached, or refuses.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    with closing(kind(parts.netloc, timeout=30)) as connection:
        try:
            connection.request(
                "GET", parts.path.rstrip("/") + path, headers={"Authorization": f"Bearer {key}"}
            )
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"{url} cannot be reached: {error}.") from error
    if answer.status != 200:
        raise Failed(f"{url} answered {answer.status}: {content.decode(errors='replace')[:500]}")
    found: dict[str, Any] = json.loads(content)
    return found


def main(arguments: Sequence[str], verify: Verify = verify) -> int:
    """Runs one command; 1, with one sentence, when it cannot."""
    parser = argparse.ArgumentParser(description="Receives Forewarn's webhooks.")
    parser.add_argument(
        "--store", type=Path, default=Path("receiver.sqlite3"), help="the SQLite file"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="receive webhooks")
    serving.add_argument("--host", default="127.0.0.1")
    serving.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    serving.add_argument("--secret-file", type=Path, required=True, help="one whsec_... a line")
    serving.add_argument("--unsubscribe", action="store_true", help="answer 410: send nothing more")
    pulling = commands.add_parser("reconcile", help="pull what is missing")
    pulling.add_argument("--url", required=True, help="where Forewarn is")
    pulling.add_argument("--key-file", type=Path, required=True, help="holds the API key, fw_...")
    pulling.add_argument("--subscription", required=True, help="sub_...")
    chosen = parser.parse_args(arguments)
    store = Store(chosen.store)
    try:
        if chosen.command == "serve":
            receiver = Receiver(store, chosen.secret_file, verify, chosen.unsubscribe)
            serve(receiver, chosen.host, chosen.port)
        else:
            key = chosen.key_file.read_text(encoding="ascii").strip()
            reconcile(store, chosen.url, key, chosen.subscription)
    except (Failed, OSError, sqlite3.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
