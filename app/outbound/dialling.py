"""How far the connecting of an attempt has come, how long it may take, and what it ends in."""

from __future__ import annotations

import asyncio
import socket
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp.connector import Connection

DNS_SECONDS = 3.0
CONNECT_SECONDS = 5.0


class Blocked(OSError):
    """No address behind the name may be connected to."""


class Unresolved(OSError):
    """The name has no address, or none in time."""


class Dialling:
    """How far the connecting of one attempt has come, and its limit.

    The limit runs from the first socket, after the name was resolved, to the end of the TLS handshake.

    Args:
        deadline: the deadline of the attempt, which is brought forward when the limit is over.
    """

    __slots__ = ("_deadline", "_limit", "_sockets", "_transport", "connected_at", "stuck_after_tcp")

    def __init__(self, deadline: asyncio.Timeout) -> None:
        self._deadline = deadline
        self._limit: asyncio.TimerHandle | None = None
        self._sockets: list[socket.socket] = []
        self._transport: asyncio.Transport | None = None
        self.connected_at: float | None = None
        """When there was a connection, and the request was written on it, by ``perf_counter``."""
        self.stuck_after_tcp: bool | None = None
        """Once the limit is over: whether an address had been connected to by then."""

    def tried(self, made: socket.socket) -> None:
        """Notes a socket that is about to be connected."""
        self._sockets.append(made)
        if self._limit is None:
            loop = asyncio.get_running_loop()
            self._limit = loop.call_later(CONNECT_SECONDS, self._end)

    @property
    def is_fresh(self) -> bool:
        """Whether the connection was made for this attempt."""
        return bool(self._sockets)

    def connected(self, connection: Connection) -> None:
        """Notes that there is a connection, and that the request is written on it now."""
        self.connected_at = perf_counter()
        self._transport = connection.transport

    def over(self) -> None:
        """Lifts the limit: there is a connection, or there will be none."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        self._sockets.clear()

    def part(self) -> None:
        """Ends a connection that aiohttp has closed, though its endpoint did not take every byte."""
        if self._transport is not None and self._transport.is_closing():
            self._transport.abort()

    def _end(self) -> None:
        if not self._deadline.expired():
            self.stuck_after_tcp = any(_is_connected(made) for made in self._sockets)
            self._deadline.reschedule(asyncio.get_running_loop().time())


dialling_of: ContextVar[Dialling] = ContextVar("dialling_of")
"""The connecting of the attempt that this task makes."""


def _is_connected(made: socket.socket) -> bool:
    try:
        made.getpeername()
    except OSError:
        return False
    return True
