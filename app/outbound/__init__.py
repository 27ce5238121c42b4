"""The one window out: posts to partners' endpoints and says what came of it.

Requests are httpx's, sent over aiohttp's connections by calling the transport directly. Nothing an
endpoint does raises: it becomes an :class:`alerts.retries.Outcome`.

    addresses   which URLs and addresses may be connected to
    names       resolves a name within a time, without holding up others
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from time import perf_counter

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from alerts.retries import ErrorCode, Outcome
from app.outbound.addresses import EndpointRefused, Policy
from app.outbound.names import Lookup, Names
from app.settings import Settings

__all__ = ["EndpointRefused", "Outbound", "Policy"]

DNS_SECONDS = 3.0
CONNECT_SECONDS = 5.0
# Shorter than the five seconds after which common servers close an idle connection, so that a
# request is hardly ever written to one that is being closed.
KEEP_ALIVE_SECONDS = 4.0

_USER_AGENT = "forewarn-webhooks/1"


class _Blocked(OSError):
    """No address behind the name may be connected to."""


class _Unresolved(OSError):
    """The name has no address, or none in time."""


class Outbound:
    """Posts to endpoints. Make one a process; it opens connections as needed and keeps them a while.

    Args:
        settings: networks, limits and times.
        lookup: resolves a name to addresses; the system's resolver by default.
        tls: trusts the public authorities by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        lookup: Lookup | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = Policy(settings.webhook_allow, settings.webhook_allow_http)
        self._timeout = settings.webhook_timeout_seconds
        self._limit = settings.webhook_answer_limit_bytes
        self._lookup = lookup or Names()
        self._tls = tls
        self._transport: AiohttpTransport | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Posts once. Never raises for what an endpoint, its name or its network does.

        The whole attempt, from resolving the name to the last byte read, is bounded by one
        deadline. Redirects are not followed. At most the answer limit is read, and an answer
        that is longer is a failure.
        """
        started = perf_counter()
        attempt = _Attempt()
        try:
            target = self.policy.read(url)
            async with asyncio.timeout(self._timeout):
                await self._exchange(attempt, target, headers, body)
        except EndpointRefused as error:
            attempt.fail(ErrorCode.ssrf_blocked, str(error))
        except TimeoutError:
            missing = "no answer came" if attempt.status is None else "the answer did not end"
            attempt.fail(ErrorCode.timeout, f"Within {self._timeout:g} s {missing}.")
        except (
            httpx.HTTPError,
            aiohttp.ClientError,
            HttpProcessingError,
            OSError,
            ValueError,
        ) as e:
            attempt.fail(*_judged(e))
        return Outcome(
            status=attempt.status,
            error=attempt.error,
            retry_after=attempt.retry_after,
            detail=attempt.detail,
            answer=bytes(attempt.answer),
            milliseconds=(perf_counter() - started) * 1000,
        )

    async def close(self) -> None:
        """Closes every connection."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    async def _exchange(
        self, attempt: _Attempt, url: httpx.URL, headers: Mapping[str, str], body: bytes
    ) -> None:
        if self._transport is None:
            self._transport = self._open()
        request = httpx.Request(
            "POST",
            url,
            headers={"accept-encoding": "identity", "user-agent": _USER_AGENT, **headers},
            content=body,
            extensions={"timeout": {"connect": CONNECT_SECONDS}},
        )
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        try:
            attempt.status = response.status_code
            attempt.retry_after = response.headers.get("retry-after")
            async for chunk in response.stream:
                attempt.answer += chunk
                if len(attempt.answer) > self._limit:
                    del attempt.answer[self._limit :]
                    attempt.fail(
                        ErrorCode.too_large, f"The answer is longer than {self._limit} bytes."
                    )
                    break
        finally:
            # A body that was not read to its end closes the connection instead of reusing it.
            await response.stream.aclose()

    def _open(self) -> AiohttpTransport:
        tls = self._tls or httpx.create_ssl_context(trust_env=False)
        connector = aiohttp.TCPConnector(
            resolver=_VettingResolver(self._lookup, self.policy),
            socket_factory=self._socket,
            use_dns_cache=False,
            limit=0,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            ssl=tls,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return AiohttpTransport(verify=tls, trust_env=False, client=session)

    def _socket(self, address: AddrInfoType) -> socket.socket:
        """Makes the socket for one address, and so sees every address that is ever dialled.

        The resolver has vetted names and ``post`` literal addresses; this is the last gate, in
        case two libraries read one URL differently.
        """
        family, kind, protocol, _, peer = address
        if reason := self.policy.why_not(ip_address(str(peer[0])), int(peer[1])):
            raise _Blocked(f"{reason}.")
        made = socket.socket(family, kind, protocol)
        with suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


class _Attempt:
    """What is known of an attempt so far; kept outside, so that a deadline does not lose it."""

    __slots__ = ("answer", "detail", "error", "retry_after", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.retry_after: str | None = None
        self.answer = bytearray()
        self.error: ErrorCode | None = None
        self.detail = ""

    def fail(self, error: ErrorCode, detail: str) -> None:
        """Notes what went wrong; the first fault stands."""
        if self.error is None:
            self.error, self.detail = error, detail


class _VettingResolver(AbstractResolver):
    """Resolves a name and gives only addresses that may be connected to; aiohttp dials these and
    no others, so what was vetted is what is met.
    """

    def __init__(self, lookup: Lookup, policy: Policy) -> None:
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
            if reason := self._policy.why_not(address, port):
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
            raise _Blocked(f"{host} is not open to webhooks: {'; '.join(refused)}.")
        raise _Unresolved(f"{host} has no address.")

    async def close(self) -> None:
        """There is nothing to close."""

    async def _found(self, host: str) -> Sequence[str]:
        try:
            async with asyncio.timeout(DNS_SECONDS):
                return await self._lookup(host)
        except TimeoutError:
            raise _Unresolved(f"{host} was not resolved within {DNS_SECONDS:g} s.") from None
        except (OSError, UnicodeError) as error:
            words = getattr(error, "strerror", None) or str(error)
            raise _Unresolved(f"{host} could not be resolved: {words}.") from error


def _judged(error: Exception) -> tuple[ErrorCode, str]:
    """The code and the sentence for what the client libraries raised."""
    # The transport gives httpx's errors; the ones they were raised from say more.
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
    reason = getattr(cause, "os_error", None)
    match cause:
        case aiohttp.ClientConnectorDNSError() | aiohttp.ClientConnectorError() if isinstance(
            reason, _Blocked
        ):
            return ErrorCode.ssrf_blocked, str(reason)
        case aiohttp.ClientConnectorDNSError():
            return ErrorCode.dns, str(reason)
        case aiohttp.ClientConnectorCertificateError():
            return ErrorCode.tls, f"The certificate is not trusted: {cause.certificate_error}."
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return ErrorCode.tls, f"TLS failed: {reason or cause}."
        case aiohttp.ServerTimeoutError():
            return ErrorCode.timeout, f"No connection was made within {CONNECT_SECONDS:g} s."
        case aiohttp.ServerDisconnectedError():
            return ErrorCode.connect, "The connection was closed before an answer came."
        case aiohttp.ClientConnectorError():
            number = getattr(reason, "errno", None)
            words = os.strerror(number) if number else str(reason)
            return ErrorCode.connect, f"No connection could be made: {words}."
        case aiohttp.ClientPayloadError():
            return ErrorCode.invalid_http, "The answer broke off or was malformed."
        case OSError() | aiohttp.ClientConnectionError():
            return ErrorCode.connect, "The connection broke before an answer came."
        case _:
            return ErrorCode.invalid_http, "The answer was not HTTP."
