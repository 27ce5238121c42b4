"""A pooler in front of PostgreSQL that has one session for all its clients, as a transaction pooler may."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_MADE_UP = struct.pack("!cIII", b"K", 12, 4_711, 4_712)


@asynccontextmanager
async def pooler(socket: str) -> AsyncIterator[int]:
    """One on a free port, before the server that listens at that socket; gives its port.

    Who speaks has the session to himself until the next one speaks.
    """
    session = await asyncio.open_unix_connection(socket)
    speaks: list[asyncio.StreamWriter] = []
    greeting = bytearray()

    async def read_message(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(5)
        return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)

    async def greet(startup: bytes) -> None:
        session[1].write(startup)
        while not greeting.endswith(b"Z\x00\x00\x00\x05I"):
            said = await read_message(session[0])
            greeting.extend(_MADE_UP if said[:1] == b"K" else said)

    async def answer() -> None:
        while True:
            said = await session[0].read(65_536)
            if not said:
                return
            speaks[-1].write(said)

    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup = await reader.readexactly(8)
        if startup[4:] == struct.pack("!I", 80_877_103):
            writer.write(b"N")  # No TLS.
            startup = await reader.readexactly(8)
        startup += await reader.readexactly(struct.unpack("!I", startup[:4])[0] - 8)
        if not greeting:
            await greet(startup)
            tasks.append(asyncio.create_task(answer()))
        writer.write(bytes(greeting))
        with suppress(ConnectionError):
            while said := await reader.read(65_536):
                speaks.append(writer)
                if said[:1] != b"X":
                    session[1].write(said)
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        session[1].close()
        await session[1].wait_closed()
        await asyncio.gather(*tasks, return_exceptions=True)
