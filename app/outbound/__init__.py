"""The one window out: asks partners' endpoints and says what came of it.

Nothing an endpoint does raises: it becomes an :class:`alerts.retries.Outcome`. The client is aiohttp's
session, whose connector dials what was vetted and nothing else.

    addresses   which URLs and addresses may be connected to
    names       resolves a name within a time, without holding up others
    proxies     through which proxy a request leaves, if any
    dialling    the connector: vets on connecting, and notes when a request goes
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter

import aiohttp
import httpx
from aiohttp import hdrs
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from alerts.retries import ErrorCode, Outcome
from app.outbound.addresses import EndpointRefused, Policy, port_of
from app.outbound.dialling import CONNECT_SECONDS, Blocked, Connector, going_of
from app.outbound.names import Lookup, Names
from app.outbound.proxies import Proxies
from app.settings import Proxy, Settings

__all__ = ["EndpointRefused", "Outbound", "Policy"]

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


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL that was read and found good, and the proxy to reach it by."""

    url: URL
    proxy: Proxy | None


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
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None
        # Of a URL that is refused nothing is remembered, so that a hostile one costs only itself.
        self._target = lru_cache(_TARGETS_REMEMBERED)(self._read)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Posts once. Never raises for what an endpoint, its name or its network does.

        The whole attempt, from resolving the name to the last byte read, is bounded by one
        deadline. Redirects are not followed. At most the answer limit is read, and an answer
        that is longer is a failure.
        """
        return await self._attempt(hdrs.METH_POST, url, headers, body)

    async def ask(self, url: str, headers: Mapping[str, str]) -> Outcome:
        """Sends ``OPTIONS`` without a body, as CloudEvents' webhooks begin (§4.1); else as ``post``."""
        return await self._attempt(hdrs.METH_OPTIONS, url, headers, None)

    async def close(self) -> None:
        """Closes every connection."""
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()
        self._direct = self._proxied = None

    async def _attempt(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Outcome:
        attempt = _Attempt()
        going_of.set(attempt.go)
        try:
            target = self._target(url)
            async with asyncio.timeout(self._timeout):
                await self._exchange(attempt, target, method, headers, body)
        except EndpointRefused as error:
            attempt.fail(ErrorCode.ssrf_blocked, str(error))
        except TimeoutError:
            missing = "no answer came" if attempt.status is None else "the answer did not end"
            attempt.fail(ErrorCode.timeout, f"Within {self._timeout:g} s {missing}.")
        # uvloop raises RuntimeError for some addresses that cannot be connected to.
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError, RuntimeError) as e:
            attempt.fail(*_judged(e))
        return attempt.outcome()

    async def _exchange(
        self,
        attempt: _Attempt,
        target: _Target,
        method: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> None:
        proxy = target.proxy
        async with self._session(proxy).request(
            method,
            target.url,
            headers=headers,
            data=body,
            allow_redirects=False,
            proxy=None if proxy is None else f"http://{_authority(proxy)}",
            proxy_headers={hdrs.PROXY_AUTHORIZATION: proxy.credentials}
            if proxy is not None and proxy.credentials
            else None,
        ) as response:
            attempt.answered(response)
            async for chunk in response.content.iter_any():
                attempt.answer += chunk
                if len(attempt.answer) > self._limit:
                    attempt.answer = attempt.answer[: self._limit]
                    words = f"The answer is longer than {self._limit} bytes."
                    attempt.fail(ErrorCode.too_large, words)
                    response.close()  # What was not read to its end is not used again.
                    return

    def _read(self, url: str) -> _Target:
        read = self.policy.read(url)
        host = read.raw_host.decode("ascii")
        proxy = self._proxies.of(read.scheme, host, port_of(read))
        return _Target(URL(str(read), encoded=True), proxy)

    def _session(self, proxy: Proxy | None) -> aiohttp.ClientSession:
        """The session for going directly, or by a proxy: whoever set one meant it, wherever it is."""
        if proxy is None:
            if self._direct is None:
                self._direct = self._open(self.policy)
            return self._direct
        if self._proxied is None:
            self._proxied = self._open(None)
        return self._proxied

    def _open(self, policy: Policy | None) -> aiohttp.ClientSession:
        tls = self._tls
        if tls is None:
            tls = httpx.create_ssl_context(trust_env=False)
            tls.set_alpn_protocols(["http/1.1"])
        return aiohttp.ClientSession(
            connector=Connector(self._lookup, policy, tls),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={hdrs.ACCEPT_ENCODING: "identity", hdrs.USER_AGENT: _USER_AGENT},
            skip_auto_headers=(hdrs.ACCEPT,),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )


def _authority(proxy: Proxy) -> str:
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    return f"{host}:{proxy.port}"


class _Attempt:
    """What is known of an attempt so far; kept outside, so that a deadline does not lose it."""

    __slots__ = (
        "answer", "answered_after", "detail", "error", "headers", "sent_after", "started", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.started = perf_counter()
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.answer = b""
        self.error: ErrorCode | None = None
        self.detail = ""
        self.sent_after: float | None = None
        self.answered_after: float | None = None

    def go(self) -> None:
        """Notes that there is a connection, and that the request is written on it now."""
        self.sent_after = (perf_counter() - self.started) * 1000

    def answered(self, response: aiohttp.ClientResponse) -> None:
        """Notes the head of the answer."""
        self.answered_after = (perf_counter() - self.started) * 1000
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
            answer=self.answer,
            milliseconds=(perf_counter() - self.started) * 1000,
            answer_headers=self.headers,
            sent_after=self.sent_after,
            answered_after=self.answered_after,
        )


def _printable(value: str) -> str:
    """A header of an answer as we pass it on; its writer may be hostile."""
    if not value.isprintable():
        value = "".join(c for c in value if c.isprintable())
    return value[:LONGEST_ANSWER_HEADER]


def _judged(error: Exception) -> tuple[ErrorCode, str]:
    """The code and the sentence for what the client raised."""
    reason = getattr(error, "os_error", None)
    if (number := getattr(reason or error, "errno", None)) in _OURS:
        return ErrorCode.internal, f"This machine could not connect: {os.strerror(number)}."
    match error:
        case aiohttp.ClientConnectorError() if isinstance(reason, Blocked):
            return ErrorCode.ssrf_blocked, str(reason)
        case aiohttp.ClientProxyConnectionError():
            return ErrorCode.connect, f"The proxy could not be connected to: {_reason(reason)}."
        case aiohttp.ClientHttpProxyError():
            return ErrorCode.connect, f"The proxy answered {error.status}."
        case aiohttp.ClientConnectorDNSError():
            return ErrorCode.dns, str(reason)
        case aiohttp.ClientConnectorCertificateError():
            told = error.certificate_error
            words = getattr(told, "verify_message", None) or str(told)
            return ErrorCode.tls, f"The certificate is not trusted: {words.rstrip('.')}."
        case aiohttp.ClientSSLError() | ssl.SSLError():
            words = getattr(reason, "reason", None) or str(reason or error)
            return ErrorCode.tls, f"TLS failed: {words}."
        case aiohttp.ServerTimeoutError():
            return ErrorCode.timeout, f"No connection was made within {CONNECT_SECONDS:g} s."
        case aiohttp.ServerDisconnectedError():
            return ErrorCode.connect, "The connection was closed before an answer came."
        case aiohttp.ClientConnectorError():
            return ErrorCode.connect, f"No connection could be made: {_reason(reason)}."
        case aiohttp.ClientPayloadError():
            return ErrorCode.invalid_http, "The answer broke off or was malformed."
        case OSError() | aiohttp.ClientConnectionError() | RuntimeError():
            return ErrorCode.connect, "The connection broke before an answer came."
        case _:
            return ErrorCode.invalid_http, "The answer was not HTTP."


# What says something of this machine and nothing of the endpoint: no open files, ports or memory left.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})


def _reason(error: OSError | None) -> str:
    """What the system said, without the address it said it of."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
