"""The connector of the way out: what it dials was vetted a moment ago, and nothing else is dialled.

aiohttp resolves and connects in one breath, and dials the addresses it was given and no others: so the
vetting stands in the resolver, and once more where the socket is made, in case two libraries read one
URL differently. Where the socket is made, the time for connecting begins too: aiohttp would give it
again to every address.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.tracing import Trace

from app.outbound import dialling
from app.outbound.addresses import Policy
from app.outbound.dialling import Blocked, Unresolved, dialling_of
from app.outbound.names import Lookup

# Shorter than the five seconds after which common servers close an idle connection, so that a
# request is hardly ever written to one that is being closed.
KEEP_ALIVE_SECONDS = 4.0

# About what the kernel may hold of an answer before we read it, and so what is read at once. Parsing
# interim answers (1xx) takes longer than receiving them, and uvloop reads a socket until it is empty: with
# the kernel's own limit an endpoint that sends nothing else held up every other for seconds.
RECEIVE_BYTES = 16_384


def open_session(
    lookup: Lookup, policy: Policy | None, tls: ssl.SSLContext | None
) -> aiohttp.ClientSession:
    """A session that dials by the connector; it trusts the public authorities unless ``tls`` says whom."""
    if tls is None:
        tls = httpx.create_ssl_context(trust_env=False)
        tls.set_alpn_protocols(["http/1.1"])
    return aiohttp.ClientSession(
        connector=Connector(lookup, policy, tls),
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        # The attempt has a deadline, and the connector a limit, of their own.
        timeout=aiohttp.ClientTimeout(total=None),
    )


class Connector(aiohttp.TCPConnector):
    """Connections to endpoints, kept for a few seconds.

    Args:
        lookup: resolves names.
        policy: vets every address; None where a proxy does that.
        tls: whom to trust.
    """

    def __init__(self, lookup: Lookup, policy: Policy | None, tls: ssl.SSLContext) -> None:
        self._policy = policy
        super().__init__(
            resolver=_Resolver(lookup, policy),
            socket_factory=self._socket,
            use_dns_cache=False,
            limit=0,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            ssl=tls,
        )

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the name is aiohttp's
    ) -> Connection:
        """A connection on which the request is written next."""
        way = dialling_of.get()
        try:
            while True:
                connection = await super().connect(req, traces, timeout)
                # On a kept one an answer may have come that nobody asked for. It is not the answer
                # to what is asked next.
                if way.is_fresh or not _has_spoken(connection):
                    break
                connection.close()
        finally:
            way.over()
        way.connected(connection)
        return connection

    def _socket(self, address: AddrInfoType) -> socket.socket:
        """Makes the socket for one address, and so sees every address that is ever dialled."""
        family, kind, protocol, _, peer = address
        policy = self._policy
        if policy and (reason := policy.why_not(ip_address(str(peer[0])), int(peer[1]))):
            raise Blocked(f"{reason}.")
        made = socket.socket(family, kind, protocol)
        with suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        dialling_of.get().tried(made)
        return made


def _has_spoken(connection: Connection) -> bool:
    return connection.protocol is None or connection.protocol.should_close


class _Resolver(AbstractResolver):
    """Resolves a name and gives only addresses that may be connected to."""

    def __init__(self, lookup: Lookup, policy: Policy | None) -> None:
        self._lookup = lookup
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The vetted addresses of a name, on connecting and never before."""
        found = await self._found(host)
        refused: list[str] = []
        vetted: list[ResolveResult] = []
        for text in found:
            address = ip_address(text)
            if self._policy and (reason := self._policy.why_not(address, port)):
                refused.append(reason)
                continue
            vetted.append(
                ResolveResult(
                    hostname=host,
                    host=str(address),
                    port=port,
                    family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                    proto=socket.IPPROTO_TCP,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        if vetted:
            return vetted
        if refused:
            raise Blocked(f"{host} is not open to webhooks: {'; '.join(refused)}.")
        raise Unresolved(f"{host} has no address.")

    async def close(self) -> None:
        """There is nothing to close."""

    async def _found(self, host: str) -> Sequence[str]:
        try:
            async with asyncio.timeout(dialling.DNS_SECONDS):
                return await self._lookup(host)
        except TimeoutError:
            raise Unresolved(
                f"{host} was not resolved within {dialling.DNS_SECONDS:g} s."
            ) from None
        except (OSError, UnicodeError) as error:
            words = getattr(error, "strerror", None) or str(error)
            raise Unresolved(f"{host} could not be resolved: {words}.") from error
