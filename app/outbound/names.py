"""Resolves names with the system's resolver, which knows the hosts file, search domains and NSS.

``getaddrinfo`` blocks, and one that waits for a dead name server cannot be interrupted. Each runs
in a thread that dies with the process; one name has at most one, so that a dead name cannot take
more than one of the few there are.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a name as text, in the order to try them. Raises OSError when there are none."""

LOOKUPS_AT_ONCE = 64


class Names:
    """A :data:`Lookup` by ``getaddrinfo``. One instance serves one event loop."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[Sequence[str]]] = {}
        self._room = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def __call__(self, host: str) -> Sequence[str]:
        """Joins a lookup of the same name if one is under way; cancelling leaves it running."""
        task = self._under_way.get(host)
        if task is None:
            task = asyncio.create_task(self._resolve(host))
            self._under_way[host] = task
            task.add_done_callback(lambda done: self._forget(host, done))
        return await asyncio.shield(task)

    def _forget(self, host: str, done: asyncio.Task[Sequence[str]]) -> None:
        self._under_way.pop(host, None)
        if not done.cancelled():
            done.exception()  # seen, even if every caller has given up waiting

    async def _resolve(self, host: str) -> Sequence[str]:
        async with self._room:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Sequence[str]] = loop.create_future()
            threading.Thread(
                target=_look_up, args=(host, loop, answer), name=f"resolve {host}", daemon=True
            ).start()
            return await answer


def _look_up(
    host: str, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Sequence[str]]
) -> None:
    found: Sequence[str] = ()
    fault: Exception | None = None
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found = list(dict.fromkeys(str(peer[0]) for *_, peer in entries))
    except (OSError, UnicodeError) as error:
        fault = error

    def tell() -> None:
        if answer.done():
            return
        if fault is not None:
            answer.set_exception(fault)
        else:
            answer.set_result(found)

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:
        return  # The loop has ended, and with it everyone who asked.
