"""Makes connections to endpoints: resolves, vets, dials, asks a proxy, shakes hands.

Every step ends by a limit of its own, or with the attempt if that ends sooner, and a failure says
which step it was. What is dialled is what was vetted: an address is never looked up twice.

    name         within DNS_SECONDS; every address behind it is vetted, those that are open are dialled
    connection   these three together within CONNECT_SECONDS
    tunnel       through a proxy, asked for by CONNECT (RFC 9110 §9.3.6)
    handshake    TLS, the certificate checked for the endpoint's name
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from time import perf_counter

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from alerts.retries import ErrorCode
from app.outbound.addresses import Policy, literal_of
from app.outbound.connections import Wire
from app.outbound.names import Lookup
from app.settings import Proxy

DNS_SECONDS = 3.0
CONNECT_SECONDS = 5.0
# How long the first address may keep the next waiting (RFC 8305 §8: "recommended … 250 ms").
NEXT_ADDRESS_SECONDS = 0.25

_LONGEST_TUNNEL_HEAD = 16_384
_TUNNEL_ANSWER = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
# Time for both sides to say goodbye in TLS before the connection is cut.
_GOODBYE_SECONDS = 1.0


class NotConnected(Exception):
    """No connection was made; the message is a sentence that says at which step and why."""

    def __init__(self, code: ErrorCode, words: str) -> None:
        super().__init__(words)
        self.code = code


@dataclass(frozen=True, slots=True)
class Party:
    """Whom to connect to; ``tls`` is None for plain http, ``proxy`` None to dial it directly."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    proxy: Proxy | None


class Dialler:
    """Makes connections.

    Args:
        lookup: resolves a name to addresses.
        policy: vets every address that is dialled, except that of a proxy.
    """

    def __init__(self, lookup: Lookup, policy: Policy) -> None:
        self._lookup = lookup
        self._policy = policy

    async def dial(self, party: Party, seconds: float) -> Wire:
        """A connection on which a request may be written.

        Args:
            party: to whom.
            seconds: what is left of the attempt.

        Raises:
            NotConnected: there is none, whatever the reason.
        """
        ends = perf_counter() + seconds
        addresses = await self._addresses(party, min(DNS_SECONDS, seconds))
        limit = max(0.0, min(CONNECT_SECONDS, ends - perf_counter()))
        step = _Step()
        try:
            async with asyncio.timeout(limit):
                return await _connected(party, addresses, step)
        except TimeoutError:
            took = f"{CONNECT_SECONDS:g} s" if limit == CONNECT_SECONDS else "the attempt's time"
            raise NotConnected(ErrorCode.timeout, f"{step.missing} within {took}.") from None
        except ssl.SSLCertVerificationError as error:
            raise NotConnected(
                ErrorCode.tls,
                f"The certificate is not trusted: {error.verify_message.rstrip('.')}.",
            ) from error
        except ssl.SSLError as error:
            words = error.reason or str(error)
            raise NotConnected(ErrorCode.tls, f"TLS failed: {words}.") from error
        # uvloop raises RuntimeError for some addresses that cannot be connected to.
        except (OSError, RuntimeError) as error:
            if step.code is ErrorCode.tls:
                words = "The connection was closed during the TLS handshake."
            else:
                words = f"{step.failed}: {_reason(error)}."
            raise NotConnected(step.code, words) from error

    async def _addresses(self, party: Party, limit: float) -> list[AddrInfoType]:
        """What may be dialled for a party, as the socket module wants it."""
        if party.proxy is not None:
            # Who set a proxy meant it, wherever it is.
            try:
                found = await self._found(party.proxy.host, limit)
            except NotConnected as error:
                words = f"The proxy could not be connected to: {error}"
                raise NotConnected(ErrorCode.connect, words) from error
            return [_dialled(text, party.proxy.port) for text in found]
        found = await self._found(party.host, limit)
        refused: list[str] = []
        vetted: list[AddrInfoType] = []
        for text in found:
            if reason := self._policy.why_not(ip_address(text), party.port):
                refused.append(reason)
            else:
                vetted.append(_dialled(text, party.port))
        if not vetted:
            words = "; ".join(refused)
            raise NotConnected(
                ErrorCode.ssrf_blocked, f"{party.host} is not open to webhooks: {words}."
            )
        return vetted

    async def _found(self, host: str, limit: float) -> Sequence[str]:
        if (literal := literal_of(host)) is not None:
            return [str(literal)]
        try:
            async with asyncio.timeout(limit):
                found = await self._lookup(host)
        except TimeoutError:
            raise NotConnected(
                ErrorCode.dns, f"{host} was not resolved within {limit:g} s."
            ) from None
        except (OSError, UnicodeError) as error:
            words = getattr(error, "strerror", None) or str(error)
            raise NotConnected(ErrorCode.dns, f"{host} could not be resolved: {words}.") from error
        if not found:
            raise NotConnected(ErrorCode.dns, f"{host} has no address.")
        return found


class _Step:
    """The step that a connection has come to, in words for when it ends there."""

    __slots__ = ("code", "failed", "missing")

    def __init__(self) -> None:
        self.code = ErrorCode.connect
        self.failed = "No connection could be made"
        self.missing = "No connection was made"

    def tunnel(self) -> None:
        self.failed = "The connection to the proxy broke"
        self.missing = "The proxy made no connection"

    def handshake(self) -> None:
        self.code = ErrorCode.tls
        self.missing = "The TLS handshake did not end"


async def _connected(party: Party, addresses: Sequence[AddrInfoType], step: _Step) -> Wire:
    loop = asyncio.get_running_loop()
    if party.proxy is not None:
        step.failed = "The proxy could not be connected to"
        step.missing = "No connection to the proxy was made"
    made = await aiohappyeyeballs.start_connection(
        addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, loop=loop
    )
    if party.proxy is not None and party.tls is not None:
        step.tunnel()
        try:
            await _tunnel(loop, made, party.proxy, party)
        except BaseException:
            made.close()
            raise
    if party.tls is None:
        _, wire = await loop.create_connection(lambda: Wire(loop), sock=made)
    else:
        step.handshake()
        _, wire = await loop.create_connection(
            lambda: Wire(loop),
            sock=made,
            ssl=party.tls,
            server_hostname=party.host,
            ssl_shutdown_timeout=_GOODBYE_SECONDS,
        )
    return wire


async def _tunnel(
    loop: asyncio.AbstractEventLoop, made: socket.socket, proxy: Proxy, party: Party
) -> None:
    """Has the proxy connect to the party; what is written from here on reaches it."""
    host = f"[{party.host}]" if ":" in party.host else party.host
    asked = f"CONNECT {host}:{party.port} HTTP/1.1\r\nhost: {host}:{party.port}\r\n"
    if proxy.credentials:
        asked += f"proxy-authorization: {proxy.credentials}\r\n"
    await loop.sock_sendall(made, f"{asked}\r\n".encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > _LONGEST_TUNNEL_HEAD:
            raise NotConnected(ErrorCode.connect, "The proxy's answer was too long.")
        more = await loop.sock_recv(made, 4_096)
        if not more:
            raise NotConnected(ErrorCode.connect, "The proxy closed the connection.")
        head += more
    status = _TUNNEL_ANSWER.match(head)
    if status is None:
        raise NotConnected(ErrorCode.connect, "The proxy's answer was not HTTP.")
    if status[1][:1] != b"2":
        raise NotConnected(
            ErrorCode.connect, f"The proxy answered {status[1].decode()} and made no connection."
        )
    # The endpoint speaks second in TLS: whatever came already is not from it.
    if not head.endswith(b"\r\n\r\n") or head.count(b"\r\n\r\n") > 1:
        raise NotConnected(ErrorCode.connect, "The proxy said more than it was asked.")


def _dialled(text: str, port: int) -> AddrInfoType:
    if ip_address(text).version == 6:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, port))


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
