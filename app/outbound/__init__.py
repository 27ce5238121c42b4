"""The one window out: asks partners' endpoints and says what came of it.

Nothing an endpoint does raises: it becomes an :class:`alerts.retries.Outcome`. The client is aiohttp's
session, whose connector dials what was vetted and nothing else. It is not loaded with the room: it is a tenth
of a start, which need not wait for it.

    addresses   which URLs and addresses may be connected to
    names       resolves a name within a time, without holding up others
    proxies     through which proxy a request leaves, if any
    dialling    how far the connecting of an attempt has come, and its limit
    connector   vets on connecting, and notes when a request goes; aiohttp is loaded with it
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING

from alerts.retries import ErrorCode, Outcome
from app.outbound import dialling
from app.outbound.addresses import EndpointRefused, Policy, port_of
from app.outbound.dialling import Blocked, Dialling, dialling_of
from app.outbound.names import Lookup, Names
from app.outbound.proxies import Proxies
from app.settings import Settings

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

__all__ = ["EndpointRefused", "Outbound", "Policy", "load_client"]

# The headers of an answer that mean something here: RFC 9110 §10.2.3, Standard Webhooks,
# CloudEvents' webhooks §4.2, and what people look for in a failed attempt.
ANSWER_HEADERS = (
    "retry-after",
    "webhook-delivery",
    "content-type",
    "webhook-allowed-origin",
    "webhook-allowed-rate",
    "location",
)
LONGEST_ANSWER_HEADER = 200
_TARGETS_REMEMBERED = 4_096

_USER_AGENT = "forewarn-webhooks/1"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
# These frame a request or speak for its connection, and are ours alone to write.
_OURS = frozenset({
    "accept-encoding", "connection", "content-length", "expect", "host", "proxy-authorization",
    "transfer-encoding", "upgrade", "user-agent",
})  # fmt: skip
_NAMES_REMEMBERED = 256
_HEADERS: Mapping[str, str] = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "User-Agent": _USER_AGENT,
}
# How a connection ends that was made, as asyncio and uvloop tell it.
_BROKEN = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL that was read and found good, the proxy to reach it by, and our own headers for it."""

    url: URL
    headers: Mapping[str, str]
    proxy: URL | None
    proxy_headers: Mapping[str, str] | None


def load_client() -> None:
    """Loads what attempts need, before the first has to; it blocks, for a tenth of a second and more."""
    from app.outbound import connector  # noqa: F401, PLC0415 - a tenth of a start


class Outbound:
    """Asks endpoints. Make one a process; it opens connections as needed and keeps them a while.

    Args:
        settings: networks, limits, times and the proxy.
        lookup: resolves a name to addresses; the system's resolver by default.
        tls: trusts the public authorities by default.

    Raises:
        SettingsFaulty: the environment was to name a proxy, and names none that can be used.
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
        self._proxies = Proxies(settings.webhook_proxy)
        self._lookup = lookup or Names()
        self._tls = tls
        self._has_client = False
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None
        # Of a URL that is refused nothing is remembered, so that a hostile one costs only itself.
        self._target = lru_cache(_TARGETS_REMEMBERED)(self._read)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Posts once. Never raises for what an endpoint, its name or its network does.

        The whole attempt, from resolving the name to the last byte read, is bounded by one
        deadline. Redirects are not followed. At most the answer limit is read, and an answer
        that is longer is a failure.

        Raises:
            ValueError: a header is not one that may be sent; nothing was.
        """
        return await self._attempt("POST", url, headers, body)

    async def ask(self, url: str, headers: Mapping[str, str]) -> Outcome:
        """Sends ``OPTIONS`` without a body, as CloudEvents' webhooks begin (§4.1); else as ``post``."""
        return await self._attempt("OPTIONS", url, headers, None)

    async def close(self) -> None:
        """Closes every connection."""
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()
        self._direct = self._proxied = None

    async def _attempt(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Outcome:
        _check(headers)
        if not self._has_client:
            await asyncio.to_thread(load_client)  # The loop goes on answering meanwhile.
            self._has_client = True
        import aiohttp  # noqa: PLC0415 - a tenth of a start

        attempt = _Attempt()
        try:
            target = self._target(url)
        except EndpointRefused as error:
            attempt.fail(ErrorCode.ssrf_blocked, str(error))
            return attempt.outcome()
        deadline = asyncio.timeout(self._timeout)
        attempt.dialling = way = Dialling(deadline)
        here = dialling_of.set(way)
        try:
            async with deadline:
                await self._exchange(attempt, target, method, headers, body)
        except TimeoutError:
            attempt.fail(ErrorCode.timeout, _late(attempt, target, self._timeout))
        # uvloop raises RuntimeError for some addresses that cannot be connected to.
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            attempt.fail(*_judged(error, attempt, target))
        finally:
            way.part()
            # Else the task, its context and this hold each other until the collector comes by.
            dialling_of.reset(here)
        return attempt.outcome()

    async def _exchange(
        self,
        attempt: _Attempt,
        target: _Target,
        method: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> None:
        async with self._session(target).request(
            method,
            target.url,
            headers={**target.headers, **headers},
            data=body,
            allow_redirects=False,
            proxy=target.proxy,
            proxy_headers=target.proxy_headers,
        ) as response:
            attempt.answered(response)
            content = response.content
            while not content.at_eof():
                attempt.answer += await content.readany()
                if len(attempt.answer) > self._limit:
                    del attempt.answer[self._limit :]
                    words = f"The answer is longer than {self._limit} bytes."
                    attempt.fail(ErrorCode.too_large, words)
                    response.close()  # What was not read to its end is not used again.
                    return

    def _read(self, url: str) -> _Target:
        from yarl import URL  # noqa: PLC0415 - loaded with aiohttp

        read = self.policy.read(url)
        try:
            target = URL(str(read), encoded=True)
        except ValueError as error:
            raise EndpointRefused(f"The URL cannot be read: {error}.") from None
        host = read.raw_host.decode("ascii")
        proxy = self._proxies.of(read.scheme, host, port_of(read))
        if proxy is None:
            return _Target(target, _HEADERS, None, None)
        told: dict[str, str] = {}
        if proxy.credentials:
            told["Proxy-Authorization"] = proxy.credentials
        by = URL.build(scheme="http", host=proxy.host, port=proxy.port)
        if read.scheme == "https":
            return _Target(target, _HEADERS, by, told)
        # Without a tunnel the proxy reads the request itself (RFC 9112 §3.2.2).
        return _Target(target, {**_HEADERS, **told}, by, None)

    def _session(self, target: _Target) -> aiohttp.ClientSession:
        """The session for going directly, or by a proxy: whoever set one meant it, wherever it is."""
        if target.proxy is None:
            if self._direct is None:
                self._direct = self._open(self.policy)
            return self._direct
        if self._proxied is None:
            self._proxied = self._open(None)
        return self._proxied

    def _open(self, policy: Policy | None) -> aiohttp.ClientSession:
        from app.outbound import connector  # noqa: PLC0415 - aiohttp is loaded with it

        return connector.open_session(self._lookup, policy, self._tls)


def _check(headers: Mapping[str, str]) -> None:
    """Raises ValueError unless every header is one header, and the caller's to set.

    A value is visible ASCII and spaces, which is stricter than RFC 9110 §5.5 and all that we write.
    """
    values = "".join(headers.values())
    if not (values.isascii() and values.isprintable()):
        raise ValueError("A value cannot be sent in a header.")
    for name in headers:
        if not _may_be_set(name):
            raise ValueError(f"{name!r} is not a header that a caller sets.")


@lru_cache(_NAMES_REMEMBERED)
def _may_be_set(name: str) -> bool:
    return _TOKEN.fullmatch(name) is not None and name.lower() not in _OURS


class _Attempt:
    """What is known of an attempt so far; kept outside, so that a deadline does not lose it."""

    __slots__ = (
        "answer", "answered_at", "detail", "dialling", "error", "headers", "started", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.started = perf_counter()
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.answer = bytearray()
        self.error: ErrorCode | None = None
        self.detail = ""
        self.dialling: Dialling | None = None
        self.answered_at: float | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there was a connection, to the endpoint itself if it speaks TLS."""
        return self.dialling is not None and self.dialling.connected_at is not None

    def answered(self, response: aiohttp.ClientResponse) -> None:
        """Notes the head of the answer."""
        self.answered_at = perf_counter()
        self.status = response.status
        self.headers = {
            name: _printable(value)
            for name in ANSWER_HEADERS
            if (value := response.headers.get(name)) is not None
        }

    def fail(self, error: ErrorCode, detail: str) -> None:
        """Notes what went wrong; the first fault stands."""
        if self.error is None:
            self.error, self.detail = error, detail

    def outcome(self) -> Outcome:
        return Outcome(
            status=self.status,
            error=self.error,
            retry_after=self.headers.get("retry-after"),
            detail=self.detail,
            answer=bytes(self.answer),
            milliseconds=(perf_counter() - self.started) * 1000,
            answer_headers=self.headers,
            sent_after=self._after(self.dialling.connected_at if self.dialling else None),
            answered_after=self._after(self.answered_at),
        )

    def _after(self, instant: float | None) -> float | None:
        return None if instant is None else (instant - self.started) * 1000


def _printable(value: str) -> str:
    """A header of an answer as we pass it on; its writer may be hostile."""
    if not value.isprintable():
        value = "".join(c for c in value if c.isprintable())
    return value[:LONGEST_ANSWER_HEADER]


def _late(attempt: _Attempt, target: _Target, seconds: float) -> str:
    """What had not come about when the time was over: all of it, or that for connecting."""
    way = attempt.dialling
    limit = f"within {dialling.CONNECT_SECONDS:g} s"
    if way is not None and way.stuck_after_tcp is not None:
        if not way.stuck_after_tcp:
            return f"No connection{' to the proxy' if target.proxy else ''} was made {limit}."
        if target.proxy:
            return f"The proxy was reached, but no TLS connection to the endpoint was made {limit}."
        return f"The TLS handshake did not end {limit}."
    if attempt.status is not None:
        missing = "the answer did not end"
    elif attempt.is_connected:
        missing = "no answer came, or not its whole head"
    else:
        missing = "no connection was made"
    return f"Within {seconds:g} s {missing}."


def _judged(error: Exception, attempt: _Attempt, target: _Target) -> tuple[ErrorCode, str]:
    """The code and the sentence for what the client raised.

    Nothing that aiohttp says of a proxy is repeated, for it may hold the proxy's credentials.
    """
    import aiohttp  # noqa: PLC0415 - a tenth of a start

    reason = getattr(error, "os_error", None)
    at_proxy = target.proxy is not None and not attempt.is_connected
    if (number := getattr(reason or error, "errno", None)) in _OUR_LACKS:
        return ErrorCode.internal, f"This machine could not connect: {os.strerror(number)}."
    match error:
        case aiohttp.ClientConnectorError() if isinstance(reason, Blocked):
            return ErrorCode.ssrf_blocked, str(reason)
        case aiohttp.ClientProxyConnectionError():
            return ErrorCode.connect, f"The proxy could not be connected to: {_reason(reason)}."
        case aiohttp.ClientConnectorDNSError() if at_proxy:
            return ErrorCode.connect, f"The proxy could not be connected to: {reason}"
        case aiohttp.ClientConnectorDNSError():
            return ErrorCode.dns, str(reason)
        case aiohttp.ClientConnectorCertificateError():
            told = error.certificate_error
            words = getattr(told, "verify_message", None) or str(told)
            return ErrorCode.tls, f"The certificate is not trusted: {words.rstrip('.')}."
        case aiohttp.ClientSSLError() | ssl.SSLError():
            words = getattr(reason, "reason", None) or str(reason or error)
            return ErrorCode.tls, f"TLS failed: {words}."
        # A connection that is not there yet cannot be reset: it was, and TLS began on it.
        case aiohttp.ClientConnectorError() if isinstance(reason, _BROKEN):
            return ErrorCode.tls, "The connection was closed during the TLS handshake."
        case aiohttp.ClientConnectorError():
            return ErrorCode.connect, f"No connection could be made: {_reason(reason)}."
        case aiohttp.ClientHttpProxyError():
            return ErrorCode.connect, f"The proxy answered {error.status} and made no connection."
        case OSError() | aiohttp.ClientConnectionError() | RuntimeError() if at_proxy:
            return ErrorCode.connect, "The proxy closed the connection."
        case _ if at_proxy:
            return ErrorCode.connect, "The proxy's answer was not HTTP."
        case aiohttp.ServerDisconnectedError():
            return ErrorCode.connect, "The connection was closed before an answer came."
        case aiohttp.ClientPayloadError():
            return ErrorCode.invalid_http, "The answer broke off or was malformed."
        case OSError() | aiohttp.ClientConnectionError() | RuntimeError():
            return ErrorCode.connect, "The connection broke before an answer came."
        case _:
            return ErrorCode.invalid_http, "The answer was not HTTP."


# What says something of this machine and nothing of the endpoint: no open files, ports or memory left.
_OUR_LACKS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
)


def _reason(error: OSError | None) -> str:
    """What the system said, without the address it said it of."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
