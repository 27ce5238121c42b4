"""The way to PostgreSQL: a socket that passes on, and can be cut, held up, or closed for a while."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from random import Random

_SOCKET = ".s.PGSQL.5432"
_CHUNK = 65_536


class Relay:
    """Listens in a folder as PostgreSQL does, and passes on to the socket in another."""

    def __init__(self, folder: Path, behind: Path) -> None:
        self.folder = folder
        self._behind = behind / _SOCKET
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pairs: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_unix_server(self._join, self.folder / _SOCKET)

    async def stop(self) -> None:
        """Ends every connection, and listens no more."""
        if self._server is not None:
            self._server.close()
        for task in list(self._pairs):
            task.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    def cut(self, dice: Random, share: float) -> int:
        """Breaks off about that share of the connections, without a word; how many."""
        chosen = [task for task in list(self._pairs) if dice.random() < share]
        for task in chosen:
            task.cancel()
        return len(chosen)

    async def hold_up(self, seconds: float) -> None:
        """Passes nothing on for a while, in neither direction; connections stay."""
        self._flows.clear()
        await asyncio.sleep(seconds)
        self._flows.set()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        ends = [writer]
        try:
            with suppress(OSError):
                there, back = await asyncio.open_unix_connection(self._behind)
                ends.append(back)
                ways = [
                    asyncio.create_task(self._pass_on(reader, back)),
                    asyncio.create_task(self._pass_on(there, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # It was cut.
        finally:
            self._pairs.discard(task)
            for end in ends:
                end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
