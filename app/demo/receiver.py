"""A webhook receiver in its own process: verifies with the reference library, tells what it got.

    python -m app.demo.receiver --port 0 --secret-file secret.txt

It prints one JSON object a line on standard output: first ``{"listening": "http://…"}``, then one for
every request it answered. It shares no code with the service: the signature is checked by
``standardwebhooks``, and the challenge of a new endpoint is answered as the API documents it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from standardwebhooks import Webhook, WebhookVerificationError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SECRET_WAIT_SECONDS = 5.0
"""A challenge may arrive just before whoever subscribed us has written the secret down."""

BODY_LIMIT_BYTES = 2**20
CHALLENGE = "webhook.verify"


@dataclass(slots=True)
class Receiver:
    """What has been received: ``verified`` and ``failed`` count requests, ``seen`` holds their ids.

    A repeated ``webhook-id`` is answered like the first and told as a duplicate: deliveries come at
    least once, and the id is how a receiver tells.
    """

    secret_file: Path
    tell: Callable[[Mapping[str, object]], None]
    verified: int = 0
    failed: int = 0
    seen: set[str] = field(default_factory=set)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request (ASGI). Anything but POST is answered 405."""
        if scope["type"] != "http":
            return
        if scope["method"] != "POST":
            await _answer(send, 405, {"detail": "Webhooks are sent with POST."})
            return
        body = await _whole(receive)
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        secret = await self._secret()
        status, answer, told = self._judge(secret, body, headers)
        await _answer(send, status, answer)
        self.tell(told)

    def _judge(
        self, secret: str | None, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, object], dict[str, object]]:
        """The status and body to answer with, and what to tell about it."""
        message_id = headers.get("webhook-id", "")
        if body is None:
            return self._refuse(
                413, message_id, f"The body is longer than {BODY_LIMIT_BYTES} bytes."
            )
        if secret is None:
            return self._refuse(503, message_id, "The secret is not known yet; send it again.")
        try:
            told = Webhook(secret).verify(body, dict(headers))
        except WebhookVerificationError as error:
            return self._refuse(401, message_id, f"{error}.")
        except (UnicodeDecodeError, json.JSONDecodeError):
            return self._refuse(400, message_id, "The body is signed but is not JSON.")
        duplicate = message_id in self.seen
        self.seen.add(message_id)
        self.verified += 1
        summary = {"id": message_id, "verified": True, "duplicate": duplicate, **summarise(told)}
        if told.get("type") == CHALLENGE:
            return 200, {"challenge": told.get("data", {}).get("challenge")}, summary
        return 200, {"received": message_id}, summary

    def _refuse(
        self, status: int, message_id: str, why: str
    ) -> tuple[int, dict[str, object], dict[str, object]]:
        self.failed += 1
        return status, {"detail": why}, {"id": message_id, "verified": False, "error": why}

    async def _secret(self) -> str | None:
        """The secret as the file has it now; waits a little for a file that is not there yet."""
        for _ in range(int(SECRET_WAIT_SECONDS / 0.05)):
            if self.secret_file.exists():
                secret = self.secret_file.read_text(encoding="ascii").strip()
                if secret:
                    return secret
            await asyncio.sleep(0.05)
        return None


def summarise(body: Mapping[str, Any]) -> dict[str, object]:
    """What one line needs to tell of a webhook's body; absent fields are null."""
    told = body.get("data") or {}
    alert = told.get("alert") or {}
    transition = told.get("transition") or {}
    advice = alert.get("recommendation") or {}
    return {
        "type": body.get("type"),
        "sequence": body.get("sequence"),
        "ref": alert.get("ref"),
        "title": alert.get("title"),
        "level": alert.get("level"),
        "severity": alert.get("severity"),
        "why": alert.get("why"),
        "recommended": advice.get("level"),
        "at": transition.get("at"),
        "reason": transition.get("reason"),
    }


async def _whole(receive: Receive) -> bytes | None:
    """The request's body, or nothing when it is longer than we read."""
    parts: list[bytes] = []
    length = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part: bytes = message.get("body", b"")
        length += len(part)
        if length <= BODY_LIMIT_BYTES:
            parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts) if length <= BODY_LIMIT_BYTES else None


async def _answer(send: Send, status: int, body: Mapping[str, object]) -> None:
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _print_line(told: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Listens until it is told to stop; returns 1 with one sentence when the port is taken."""
    parser = argparse.ArgumentParser(prog="app.demo.receiver", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--secret-file", type=Path, required=True, help="holds the whsec_… secret")
    chosen = parser.parse_args(arguments)
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((chosen.host, chosen.port))
        listener.listen(128)
    except OSError as error:
        sys.stderr.write(
            f"Port {chosen.port} of {chosen.host} cannot be used ({error.strerror}); "
            "choose another with --port.\n"
        )
        listener.close()
        return 1
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    _print_line({"listening": f"http://{host}:{listener.getsockname()[1]}/webhooks"})
    receiver = Receiver(chosen.secret_file, _print_line)
    config = uvicorn.Config(receiver, log_level="error", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
