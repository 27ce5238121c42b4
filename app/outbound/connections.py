"""Connections that stay open between requests, and aiohttp's side of one."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from time import perf_counter

from aiohttp.client_proto import ResponseHandler

# Shorter than the five seconds after which common servers close an idle connection, so that a
# request is hardly ever written to one that is being closed.
KEEP_ALIVE_SECONDS = 4.0

_CLOSING_SECONDS = 1.0


class Wire(ResponseHandler):
    """One connection, as aiohttp's client speaks HTTP/1.1 on it.

    aiohttp's session, request and response objects are left out: measured, they cost twice as
    much as everything that remains. ``heard`` says whether any byte came since it was set False.
    """

    heard = False
    _held = False

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.heard = True
        super().data_received(data)

    def pause_reading(self) -> None:
        """Called by the reader of an answer when more has come than it wants."""
        self._held = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called after every read of an answer, paused or not; a seventh of a request's cost."""
        if self._held:
            self._held = False
            super().resume_reading(resume_parser)


class Connections:
    """The open connections of one way out; those that wait are kept by whom they lead to.

    They are not counted: who sends decides how many requests are under way.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[tuple[Wire, float]]] = {}
        self._busy: set[Wire] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, key: Hashable) -> Wire | None:
        """A connection that waits for a request, the last used first; None if there is none.

        One on which something came that nobody asked for is closed: it would be taken for the
        answer to the next request.
        """
        waiting = self._waiting.get(key)
        while waiting:
            wire, since = waiting.pop()
            if not waiting:
                del self._waiting[key]
            if (
                wire.is_connected()
                and not wire.should_close
                and perf_counter() - since <= KEEP_ALIVE_SECONDS
            ):
                self._busy.add(wire)
                return wire
            wire.close()
        return None

    def add(self, wire: Wire) -> None:
        """Takes charge of a new connection, which is in use."""
        self._busy.add(wire)

    def keep(self, key: Hashable, wire: Wire) -> None:
        """Lets a connection wait for its next request, if both sides are done with the last."""
        self._busy.discard(wire)
        transport = wire.transport
        # An answer may come before the whole request was taken; whoever does so may never take
        # the rest, and the next request would wait behind it.
        if transport is None or wire.should_close or transport.get_write_buffer_size():
            wire.abort()
            return
        self._waiting.setdefault(key, []).append((wire, perf_counter()))
        if self._sweep is None:
            self._plan()

    def drop(self, wire: Wire) -> None:
        """Ends a connection at once, with whatever is still to be written on it.

        A mere close would first wait for a peer that does not read, for ever.
        """
        self._busy.discard(wire)
        wire.abort()

    async def close(self) -> None:
        """Ends every connection, those in use too."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        wires = [wire for waiting in self._waiting.values() for wire, _ in waiting]
        wires += self._busy
        self._waiting.clear()
        self._busy.clear()
        ends = [end for wire in wires if (end := wire.closed) is not None]
        for wire in wires:
            wire.abort()
        if ends:
            await asyncio.wait(ends, timeout=_CLOSING_SECONDS)

    def _plan(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self._tidy)

    def _tidy(self) -> None:
        """Closes what has waited too long. Runs only while something waits."""
        self._sweep = None
        oldest = perf_counter() - KEEP_ALIVE_SECONDS
        for key, waiting in list(self._waiting.items()):
            fresh = []
            for wire, since in waiting:
                if wire.is_connected() and since > oldest:
                    fresh.append((wire, since))
                else:
                    wire.close()
            if fresh:
                self._waiting[key] = fresh
            else:
                del self._waiting[key]
        if self._waiting:
            self._plan()
