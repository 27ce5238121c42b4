"""The web framework alone: FastAPI and msgspec decoding the same signals, with nothing behind them.

    python -m app.bench.echo --port 0

``POST /echo`` decodes and counts. ``POST /relay`` also sends a signed webhook, over the client that the
service sends with, to the address in ``to``: what is left of the way of a signal without a database.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_network

import msgspec
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from alerts import payloads, signing
from app import main as service
from app.api.signals import Item
from app.outbound import Outbound
from app.settings import Settings

_items = msgspec.json.Decoder(list[Item])
_item = msgspec.json.Decoder(Item)
KEY = bytes(range(32))


def outbound() -> Outbound:
    """The service's way out, open to this machine."""
    allowed = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    return Outbound(Settings(webhook_allow=allowed, webhook_allow_http=True))


async def send(way: Outbound, url: str, webhook_id: str, said: str) -> bool:
    """Signs and posts as the service does; whether it was taken."""
    now = datetime.now(UTC)
    body = payloads.body("alert.opened", now.isoformat(), 1, said)
    headers = {"content-type": "application/json", **signing.headers([KEY], webhook_id, now, body)}
    outcome = await way.post(url, headers, body)
    return outcome.status == 200


def create_app() -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.way = outbound()
        app.state.sending = set()
        yield
        await app.state.way.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return _counted(await request.body())

    @app.post("/relay")
    async def relay(request: Request, to: str, size: int) -> Response:
        body = await request.body()
        item = _item.decode(body)
        about = msgspec.json.encode({"good": item.good, "place": item.place}).decode()
        said = f'{{"alert":{about},"more":"{"x" * size}"}}'
        sending = asyncio.create_task(send(app.state.way, to, "msg_bench_1", said))
        app.state.sending.add(sending)
        sending.add_done_callback(app.state.sending.discard)
        return _counted(body)

    return app


def _counted(body: bytes) -> Response:
    count = len(_items.decode(body)) if body[:1] == b"[" else len([_item.decode(body)])
    return Response(msgspec.json.encode({"accepted": count, "items": []}), 200)


def main() -> int:
    """Listens until it is told to stop; the first line on standard output is its address."""
    parser = argparse.ArgumentParser(prog="app.bench.echo")
    parser.add_argument("--port", type=int, default=0)
    listening = service.listen("127.0.0.1", parser.parse_args().port)
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(create_app(), log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
