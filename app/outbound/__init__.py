"""The one window out: asks partners' endpoints and says what came of it.

Nothing an endpoint does raises: it becomes an :class:`alerts.retries.Outcome`.

    addresses     which URLs and addresses may be connected to
    names         resolves a name within a time, without holding up others
    proxies       through which proxy a request leaves, if any
    dialling      makes a connection, each step within its time
    connections   keeps them open for the next request
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from time import perf_counter

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError

from alerts.retries import ErrorCode, Outcome
from app.outbound.addresses import EndpointRefused, Policy, port_of
from app.outbound.connections import Connections, Wire
from app.outbound.dialling import Dialler, NotConnected, Party
from app.outbound.names import Lookup, Names
from app.outbound.proxies import Proxies
from app.settings import Settings

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
# Some servers say 102 every few seconds while they work; none needs to say it more often.
MOST_INTERIM_ANSWERS = 20
_TARGETS_REMEMBERED = 4_096

_USER_AGENT = "forewarn-webhooks/1"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
# These frame a request or speak for its connection, and are ours alone to write.
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "user-agent"}
)


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
        self._dialler = Dialler(lookup or Names(), self.policy)
        self._proxies = Proxies(settings.webhook_proxy)
        self._given_tls = tls
        self._connections = Connections()
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
        await self._connections.close()

    async def _attempt(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Outcome:
        attempt = _Attempt()
        try:
            target = self._target(url)
        except EndpointRefused as error:
            attempt.fail(ErrorCode.ssrf_blocked, str(error))
            return attempt.outcome()
        request = target.request(method, headers, body)
        wire = self._connections.take(target.party)
        if wire is None:
            try:
                wire = await self._dialler.dial(target.party, self._timeout)
            except NotConnected as error:
                attempt.fail(error.code, str(error))
                return attempt.outcome()
            self._connections.add(wire)
        try:
            async with asyncio.timeout(self._timeout - attempt.seconds()):
                await self._exchange(attempt, wire, request)
        except TimeoutError:
            words = f"Within {self._timeout:g} s {_missing(attempt, wire)}."
            attempt.fail(ErrorCode.timeout, words)
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            attempt.fail(*_judged(error, wire))
        finally:
            if attempt.complete:
                self._connections.keep(target.party, wire)
            else:
                self._connections.drop(wire)
        return attempt.outcome()

    async def _exchange(self, attempt: _Attempt, wire: Wire, request: bytes) -> None:
        if wire.transport is None:
            raise aiohttp.ServerDisconnectedError
        wire.heard = False
        wire.set_response_params(
            read_until_eof=True, auto_decompress=False, read_bufsize=self._limit
        )
        wire.transport.write(request)
        attempt.sent_after = attempt.seconds()
        for _ in range(MOST_INTERIM_ANSWERS + 1):
            head, content = await wire.read()
            # RFC 9110 §15.2: any number of 1xx may come before the answer. 101 is the last word of
            # HTTP on a connection, and nobody asked for it.
            if not 100 <= head.code < 200 or head.code == 101:
                break
        else:
            attempt.fail(ErrorCode.invalid_http, "Interim answers came, and no answer.")
            return
        attempt.answered_after = attempt.seconds()
        attempt.status = head.code
        attempt.headers = {
            name: _printable(value)
            for name in ANSWER_HEADERS
            if (value := head.headers.get(name)) is not None
        }
        while not content.at_eof():
            attempt.answer += await content.readany()
            if len(attempt.answer) > self._limit:
                attempt.answer = attempt.answer[: self._limit]
                attempt.fail(ErrorCode.too_large, f"The answer is longer than {self._limit} bytes.")
                return
        attempt.complete = True

    def _read(self, url: str) -> _Target:
        read = self.policy.read(url)
        host, authority = read.raw_host.decode("ascii"), read.netloc.decode("ascii")
        port = port_of(read)
        proxy = self._proxies.of(read.scheme, host, port)
        party = Party(host, port, self._tls if read.scheme == "https" else None, proxy)
        path = read.raw_path.decode("ascii")
        told = ""
        if proxy is not None and party.tls is None:
            # Without a tunnel the proxy reads the request, and needs the whole URL (RFC 9112 §3.2.2).
            path = f"http://{authority}{path}"
            told = f"proxy-authorization: {proxy.credentials}\r\n" if proxy.credentials else ""
        return _Target(
            party,
            f" {path} HTTP/1.1\r\nhost: {authority}\r\n{told}"
            f"accept-encoding: identity\r\nuser-agent: {_USER_AGENT}\r\n",
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        if self._given_tls is not None:
            return self._given_tls
        made = httpx.create_ssl_context(trust_env=False)
        made.set_alpn_protocols(["http/1.1"])
        return made


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL that was read and found good: whom to connect to, and how each request to it begins."""

    party: Party
    start: str

    def request(self, method: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """The bytes of a request (RFC 9112 §2.1).

        Raises:
            ValueError: a header would not be one header, or is not the caller's to set.
        """
        parts = [method, self.start]
        for name, value in headers.items():
            if not (_TOKEN.fullmatch(name) and value.isascii() and value.isprintable()):
                raise ValueError(f"{name!r} cannot be sent as a header.")
            if name.lower() in _OURS:
                raise ValueError(f"{name!r} is not a header that a caller sets.")
            parts.append(f"{name}: {value}\r\n")
        if body is None:
            parts.append("\r\n")
            return "".join(parts).encode("ascii")
        parts.append(f"content-length: {len(body)}\r\n\r\n")
        return "".join(parts).encode("ascii") + body


class _Attempt:
    """What is known of an attempt so far; kept outside, so that a deadline does not lose it.

    Spans are in seconds here. ``complete`` says that the answer was read to its end.
    """

    __slots__ = (
        "answer", "answered_after", "complete", "detail", "error", "headers", "sent_after",
        "started", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.started = perf_counter()
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.answer = b""
        self.complete = False
        self.error: ErrorCode | None = None
        self.detail = ""
        self.sent_after: float | None = None
        self.answered_after: float | None = None

    def seconds(self) -> float:
        """Since it began."""
        return perf_counter() - self.started

    def fail(self, error: ErrorCode, detail: str) -> None:
        """Notes what went wrong."""
        self.error, self.detail = error, detail

    def outcome(self) -> Outcome:
        return Outcome(
            status=self.status,
            error=self.error,
            retry_after=self.headers.get("retry-after"),
            detail=self.detail,
            answer=self.answer,
            milliseconds=self.seconds() * 1000,
            answer_headers=self.headers,
            sent_after=None if self.sent_after is None else self.sent_after * 1000,
            answered_after=None if self.answered_after is None else self.answered_after * 1000,
        )


def _printable(value: str) -> str:
    """A header of an answer as we pass it on; its writer may be hostile."""
    if not value.isprintable():
        value = "".join(c for c in value if c.isprintable())
    return value[:LONGEST_ANSWER_HEADER]


def _missing(attempt: _Attempt, wire: Wire) -> str:
    """What had not come when the time was over."""
    if attempt.status is not None:
        return "the answer did not end"
    if wire.heard:
        return "the head of the answer did not end"
    return "no answer came"


def _judged(error: Exception, wire: Wire) -> tuple[ErrorCode, str]:
    """The code and the sentence for what aiohttp raised."""
    match error:
        case aiohttp.ClientPayloadError():
            return ErrorCode.invalid_http, "The answer broke off or was malformed."
        case aiohttp.ServerDisconnectedError() if wire.heard:
            return ErrorCode.invalid_http, "The answer broke off in its head."
        case aiohttp.ServerDisconnectedError():
            return ErrorCode.connect, "The connection was closed before an answer came."
        case OSError() | aiohttp.ClientConnectionError():
            return ErrorCode.connect, "The connection broke before an answer came."
        case _:
            return ErrorCode.invalid_http, "The answer was not HTTP."
