"""A name server of the tests' own, over real UDP sockets, and a resolver that asks it."""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import cast

Script = Callable[[str, int], Sequence[str] | None]
"""Name and how often it was asked before -> its addresses; None never answers."""

A, AAAA = 1, 28


class NameServer(asyncio.DatagramProtocol):
    """Answers A and AAAA queries as its script says, with a time to live of zero."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.asked: list[str] = []
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _name(data)
        answers = self._script(name, self.asked.count(name))
        self.asked.append(name)
        if answers is None or self._transport is None:
            return
        flags = 0x8180 if answers else 0x8183  # NXDOMAIN
        (kind,) = struct.unpack("!H", data[end : end + 2])
        version = 6 if kind == AAAA else 4
        fitting = [found for text in answers if (found := ip_address(text)).version == version]
        reply = data[:2] + struct.pack("!HHHHH", flags, 1, len(fitting), 0, 0) + data[12 : end + 4]
        for found in fitting:
            packed = found.packed
            reply += struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed
        self._transport.sendto(reply, addr)


class Resolver:
    """Asks one name server for records of each kind, once a call; a ``Lookup`` for the way out."""

    def __init__(self, port: int, kinds: Sequence[int]) -> None:
        self._port = port
        self._kinds = kinds

    async def __call__(self, host: str) -> Sequence[str]:
        return [found for kind in self._kinds for found in await self._ask(host, kind)]

    async def _ask(self, host: str, kind: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Ear(reply), remote_addr=("127.0.0.1", self._port)
        )
        try:
            labels = b"".join(
                bytes([len(label)]) + label.encode() for label in host.rstrip(".").split(".")
            )
            head = secrets.token_bytes(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0)
            transport.sendto(head + labels + b"\0" + struct.pack("!HH", kind, 1))
            return _addresses(await reply)
        finally:
            transport.close()


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, reply: asyncio.Future[bytes]) -> None:
        self._reply = reply

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self._reply.done():
            self._reply.set_result(data)


async def name_server(
    script: Script, kinds: Sequence[int] = (A,)
) -> tuple[NameServer, Resolver, asyncio.DatagramTransport]:
    """Starts one on a free port; close the transport to end it."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(script), local_addr=("127.0.0.1", 0)
    )
    return server, Resolver(transport.get_extra_info("sockname")[1], kinds), transport


def _name(message: bytes) -> tuple[str, int]:
    labels, place = [], 12
    while message[place]:
        length = message[place]
        labels.append(message[place + 1 : place + 1 + length].decode())
        place += 1 + length
    return ".".join(labels), place + 1


def _addresses(message: bytes) -> Sequence[str]:
    flags, _, count = struct.unpack("!HHH", message[2:8])
    if flags & 0xF:
        raise OSError("there is no such name")
    _, place = _name(message)
    place += 4
    found = []
    for _ in range(count):
        (length,) = struct.unpack("!H", message[place + 10 : place + 12])
        found.append(str(ip_address(message[place + 12 : place + 12 + length])))
        place += 12 + length
    return found
