"""The web framework alone: FastAPI and msgspec decoding the same signals, with nothing behind them.

    python -m app.bench.echo

``POST /echo`` decodes and counts. ``POST /relay`` also sends a signed webhook, over the client that the
service sends with, to the address in ``to``: what is left of the way of a signal without a database.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from app.api.arrivals import Item
from app.bench import sending

_items = msgspec.json.Decoder(list[Item])
_item = msgspec.json.Decoder(Item)


def create_app() -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.way = sending.outbound()
        app.state.under_way = set()
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
        about = msgspec.json.encode(
            {"sector": item.sector, "good": item.good, "place": item.place}
        ).decode()
        said = f'{{"alert":{about},"more":"{"x" * size}"}}'
        task = asyncio.create_task(sending.send(app.state.way, to, "msg_bench_1", said))
        app.state.under_way.add(task)
        task.add_done_callback(app.state.under_way.discard)
        return _counted(body)

    return app


def _counted(body: bytes) -> Response:
    count = len(_items.decode(body)) if body[:1] == b"[" else len([_item.decode(body)])
    return Response(msgspec.json.encode({"accepted": count, "items": []}), 200)


def main() -> int:
    """Listens until it is told to stop; the first line on standard output is its address."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(create_app(), log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
