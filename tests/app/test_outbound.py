"""The way out: whatever an endpoint, its name or its network does becomes an outcome.

Endpoints here are real sockets that send exact bytes; names are resolved over real UDP.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import threading
import tracemalloc
import weakref
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from ipaddress import ip_address
from pathlib import Path
from time import perf_counter

import httpx
import pytest

from alerts.retries import ErrorCode
from app.outbound import Outbound, Policy, dialling
from app.outbound.names import Names
from tests.app.endpoint import (
    OK,
    Manner,
    answers,
    authority,
    endpoint,
    post,
    request,
    settings,
)
from tests.app.nameserver import AAAA, A, name_server


async def test_an_answer_comes_back_whole_and_the_request_says_what_it_must() -> None:
    heard: list[bytes] = []
    async with endpoint(answers(OK, heard)) as port:
        outcome = await post(f"http://127.0.0.1:{port}/hook?x=1", body=b'{"a":1}')
    assert (outcome.status, outcome.error, outcome.answer) == (200, None, b"ok")
    assert outcome.milliseconds > 0
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /hook?x=1 http/1.1"
    assert b"accept-encoding: identity" in lines
    assert b"content-type: application/json" in lines
    assert not [line for line in lines if line.startswith((b"cookie", b"authorization"))]


async def test_asking_is_an_options_request_without_a_body() -> None:
    heard: list[bytes] = []
    raw = (
        b"HTTP/1.1 204 No Content\r\nWebHook-Allowed-Origin: forewarn.example\r\n"
        b"webhook-allowed-rate: 120\r\n\r\n"
    )
    asked = {"webhook-request-origin": "forewarn.example", "webhook-request-rate": "600"}
    out = Outbound(settings())
    async with endpoint(answers(raw, heard)) as port:
        outcome = await out.ask(f"http://127.0.0.1:{port}/hook", asked)
    await out.close()
    assert (outcome.status, outcome.error, outcome.answer) == (204, None, b"")
    assert outcome.answer_headers == {
        "webhook-allowed-origin": "forewarn.example",
        "webhook-allowed-rate": "120",
    }
    lines = heard[0].split(b"\r\n")
    assert lines[0] == b"OPTIONS /hook HTTP/1.1"
    assert b"webhook-request-rate: 600" in lines
    assert not [line for line in lines if line.startswith((b"content-length", b"transfer-"))]


async def test_what_is_left_of_an_attempt_needs_no_collector(no_collector: None) -> None:
    """Else it comes every few thousand attempts, and all others wait until it is done."""
    out = Outbound(settings())
    async with endpoint(answers(OK)) as port:
        # The task that made the connection stays with it.
        await post(f"http://127.0.0.1:{port}/", out)
        attempt = asyncio.create_task(post(f"http://127.0.0.1:{port}/", out))
        assert (await attempt).status == 200
        left = weakref.ref(attempt)
        del attempt
        await asyncio.sleep(0)
        assert left() is None
    await out.close()


async def test_the_headers_of_an_answer_that_mean_something_come_back_short_and_printable() -> None:
    raw = (
        b"HTTP/1.1 503 Later\r\nRetry-After: 120\r\nLocation: /a\x1b[31mred\xff\r\n"
        b"Webhook-Delivery: " + b"x" * 3_000 + b"\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    )
    async with endpoint(answers(raw.replace(b"\x1b", b"\xc2\x9b"))) as port:
        outcome = await post(f"http://127.0.0.1:{port}/")
    assert outcome.retry_after == "120"
    assert outcome.answer_headers == {
        "retry-after": "120",
        "location": "/a[31mred",
        "webhook-delivery": "x" * 200,
    }


async def test_an_outcome_says_when_the_request_was_sent_and_when_it_was_answered() -> None:
    async def thinks(reader: Reader, writer: Writer) -> None:
        await request(reader)
        await asyncio.sleep(0.2)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(b"ok")

    # Reading the public authorities is no part of what is measured here.
    out = Outbound(settings(), tls=ssl.create_default_context())
    async with endpoint(thinks) as port:
        outcome = await post(f"http://127.0.0.1:{port}/", out)
    await out.close()
    assert outcome.sent_after is not None
    assert outcome.answered_after is not None
    assert 0 < outcome.sent_after < 150
    assert outcome.answered_after - outcome.sent_after > 150
    assert outcome.milliseconds - outcome.answered_after > 150
    refused = await post("http://127.0.0.1:1/")
    assert (refused.sent_after, refused.answered_after) == (None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-note", "a\r\nx-more: b"),  # two headers
        ("x-note\r\nx-more", "b"),
        ("x-note", "a\x00"),
        ("x-note", "ä"),  # RFC 9110 §5.5 leaves no meaning to it
        ("x note", "a"),
        ("", "a"),
        ("Host", "10.0.0.1"),  # ours to say
        ("content-length", "0"),  # ends the request early, so that the body begins another
        ("Transfer-Encoding", "chunked"),
    ],
)
async def test_a_header_that_would_not_be_one_is_a_fault_of_ours_and_nothing_is_sent(
    name: str, value: str
) -> None:
    heard: list[bytes] = []
    out = Outbound(settings())
    async with endpoint(answers(OK, heard)) as port:
        with pytest.raises(ValueError, match="header"):
            await out.post(f"http://127.0.0.1:{port}/", {name: value}, b"{}")
    await out.close()
    assert heard == []


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    elsewhere: list[bytes] = []
    async with endpoint(answers(OK, elsewhere)) as other:
        moved = f"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:{other}/\r\ncontent-length: 0\r\n\r\n"
        async with endpoint(answers(moved.encode())) as port:
            outcome = await post(f"http://127.0.0.1:{port}/")
    assert outcome.status == 307
    assert outcome.answer_headers["location"] == f"http://127.0.0.1:{other}/"
    assert elsewhere == []


async def test_an_endless_answer_is_cut_off_and_costs_no_memory() -> None:
    sent = 0

    async def endless(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    tracemalloc.start()
    async with endpoint(endless) as port:
        outcome = await post(f"http://127.0.0.1:{port}/")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (outcome.status, outcome.error) == (200, ErrorCode.too_large)
    assert len(outcome.answer) == 65_536
    assert outcome.milliseconds < 2_000
    assert peak < 8 * 2**20
    assert sent < 32 * 2**20  # what sockets buffer, not more


async def test_an_answer_that_drips_ends_at_the_deadline_of_the_whole_attempt() -> None:
    closed = asyncio.Event()

    async def drips(reader: Reader, writer: Writer) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        try:
            while True:
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.02)
        finally:
            closed.set()

    out = Outbound(settings(webhook_timeout_seconds=0.5))
    async with endpoint(drips) as port:
        outcome = await post(f"http://127.0.0.1:{port}/", out)
        async with asyncio.timeout(2):
            await closed.wait()  # our side was closed, not kept for another request
    await out.close()
    assert (outcome.status, outcome.error) == (200, ErrorCode.timeout)
    assert outcome.detail == "Within 0.5 s the answer did not end."
    assert 450 < outcome.milliseconds < 1_500


async def _says_nothing(reader: Reader, writer: Writer) -> None:
    await reader.read()


async def _talks_first(reader: Reader, writer: Writer) -> None:
    writer.write(OK)
    await reader.read()


async def _hangs_up(reader: Reader, writer: Writer) -> None:
    await request(reader)


async def _resets(reader: Reader, writer: Writer) -> None:
    await reader.read(1)
    writer.transport.abort()


async def _endless_head(reader: Reader, writer: Writer) -> None:
    await request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: yes\r\n" * 1_000)
        await writer.drain()


async def _endless_interim_answers(reader: Reader, writer: Writer) -> None:
    await request(reader)
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("manner", "status", "error"),
    [
        (_says_nothing, None, ErrorCode.timeout),  # accepts, never answers
        (_hangs_up, None, ErrorCode.connect),  # reads, then closes
        (_resets, None, ErrorCode.connect),  # resets in the middle
        (answers(b"ssh-2.0-OpenSSH_9.9\r\n"), None, ErrorCode.invalid_http),  # another protocol
        (answers(b"\x00\xff\xfe garbage\r\n\r\n"), None, ErrorCode.invalid_http),
        (answers(b"HTTP/1.1 banana\r\n\r\n"), None, ErrorCode.invalid_http),  # no status
        (answers(b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"), None, ErrorCode.invalid_http),
        (
            answers(b"HTTP/1.1 200 OK\r\n" + b"a" * 99_999),
            None,
            ErrorCode.invalid_http,
        ),  # a long line
        (_endless_head, None, ErrorCode.invalid_http),
        (_endless_interim_answers, None, ErrorCode.timeout),
        (
            answers(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"),
            200,
            ErrorCode.invalid_http,
        ),  # breaks off
        (
            answers(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
            200,
            ErrorCode.invalid_http,
        ),  # no such chunk
    ],
)
async def test_whatever_an_endpoint_does_is_an_outcome(
    manner: Manner, status: int | None, error: ErrorCode
) -> None:
    out = Outbound(settings(webhook_timeout_seconds=0.7))
    async with endpoint(manner) as port:
        outcome = await post(f"http://127.0.0.1:{port}/", out)
    await out.close()
    assert outcome.error == error, outcome
    if status is not None:
        assert outcome.status in {status, None}
    assert outcome.detail.endswith(".")


async def test_a_compressed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(50 * 2**20))
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n"
    raw = head.encode() + bomb
    async with endpoint(answers(raw)) as port:
        outcome = await post(f"http://127.0.0.1:{port}/")
    assert (outcome.error, outcome.answer) == (None, bomb)


async def test_a_refused_connection_says_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        outcome = await post(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert outcome.error is ErrorCode.connect
    assert "refused" in outcome.detail.lower()


async def test_the_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    proxied: list[bytes] = []
    async with endpoint(answers(OK, proxied)) as proxy, endpoint(answers(OK)) as port:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        outcome = await post(f"http://127.0.0.1:{port}/")
    assert outcome.status == 200
    assert proxied == []


async def test_a_connection_is_kept_for_the_next_request_and_made_anew_when_it_was_closed() -> None:
    connections = 0

    async def counted(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await request(reader)
            writer.write(OK)
            await writer.drain()

    out = Outbound(settings())
    async with endpoint(counted) as port:
        for _ in range(2):
            assert (await post(f"http://127.0.0.1:{port}/", out)).status == 200
        assert connections == 1
        await asyncio.sleep(0.05)  # the endpoint closes after two
        assert (await post(f"http://127.0.0.1:{port}/", out)).status == 200
        assert connections == 2
    await out.close()


# --- names ---------------------------------------------------------------------------------------


async def test_a_name_that_rebinds_is_dialled_where_it_was_vetted_or_not_at_all() -> None:
    """The classic attack: an open address while one looks, a closed one while one connects."""
    honeypot: list[bytes] = []
    open_one: list[bytes] = []

    def script(name: str, asked: int) -> list[str]:
        return ["127.0.0.2"] if asked == 0 else ["127.0.0.1"]

    server, resolver, transport = await name_server(script)
    out = Outbound(settings(webhook_allow="127.0.0.2/32"), lookup=resolver)
    async with (
        endpoint(answers(OK, open_one), "127.0.0.2") as port,
        endpoint(answers(OK, honeypot), "127.0.0.1", port),
    ):
        first = await post(f"http://rebind.example:{port}/", out)
        assert server.asked == ["rebind.example"]  # asked once: what was vetted was dialled
        await out.close()  # a new connection asks anew
        second = await post(f"http://rebind.example:{port}/", out)
    await out.close()
    transport.close()
    assert first.status == 200
    assert second.error is ErrorCode.ssrf_blocked
    assert second.detail == (
        "rebind.example is not open to webhooks: 127.0.0.1 is a loopback address."
    )
    assert (len(open_one), honeypot) == (1, [])


async def test_of_several_addresses_only_the_open_ones_are_dialled() -> None:
    honeypot: list[bytes] = []
    _, resolver, transport = await name_server(lambda *_: ["127.0.0.1", "10.0.0.1", "127.0.0.2"])
    out = Outbound(settings(webhook_allow="127.0.0.2/32"), lookup=resolver)
    async with (
        endpoint(answers(OK), "127.0.0.2") as port,
        endpoint(answers(OK, honeypot), "127.0.0.1", port),
    ):
        outcome = await post(f"http://mixed.example:{port}/", out)
    await out.close()
    transport.close()
    assert outcome.status == 200
    assert honeypot == []


@pytest.mark.parametrize(
    "closed",
    ["::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00:ec2::254", "fe80::1"],
)
async def test_an_ipv6_answer_is_vetted_like_any_other_and_does_not_spoil_an_open_one(
    closed: str,
) -> None:
    """A network with DNS64 answers NAT64 addresses beside real ones; that is no attack."""
    _, resolver, transport = await name_server(
        lambda name, _: [closed] if name == "closed.example" else [closed, "127.0.0.2"], (A, AAAA)
    )
    out = Outbound(settings(webhook_allow="127.0.0.2/32"), lookup=resolver)
    async with endpoint(answers(OK), "127.0.0.2") as port:
        mixed = await post(f"http://mixed.example:{port}/", out)
        alone = await post(f"http://closed.example:{port}/", out)
    await out.close()
    transport.close()
    assert mixed.status == 200
    assert alone.error is ErrorCode.ssrf_blocked
    assert str(ip_address(closed)) in alone.detail


async def test_a_name_that_rebinds_while_its_connection_is_kept_is_not_looked_up_again() -> None:
    server, resolver, transport = await name_server(
        lambda _, asked: ["127.0.0.2"] if asked == 0 else ["127.0.0.1"]
    )
    out = Outbound(settings(webhook_allow="127.0.0.2/32"), lookup=resolver)
    async with endpoint(answers(OK), "127.0.0.2") as port:
        outcomes = [await post(f"http://kept.example:{port}/", out) for _ in range(3)]
    await out.close()
    transport.close()
    assert [outcome.status for outcome in outcomes] == [200] * 3
    assert server.asked == ["kept.example"]


async def test_a_url_that_two_libraries_read_differently_is_stopped_at_the_socket() -> None:
    class Gullible(Policy):
        def read(self, text: str) -> httpx.URL:
            return httpx.URL(text)

    honeypot: list[bytes] = []
    out = Outbound(settings(webhook_allow=""))
    out.policy = Gullible((), plain_http=True)
    async with endpoint(answers(OK, honeypot)) as port:
        for host in ("127.0.0.1", "2130706433", "0x7f000001", "127.1", "localhost", "[::1]"):
            outcome = await post(f"http://{host}:{port}/", out)
            assert outcome.error is not None, host
            assert outcome.status is None
    await out.close()
    assert honeypot == []


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        ([], "could not be resolved"),  # no such name
        (None, "was not resolved within 0.3 s"),  # a name server that never answers
    ],
)
async def test_a_name_without_an_answer_is_a_dns_failure(
    monkeypatch: pytest.MonkeyPatch, reply: list[str] | None, detail: str
) -> None:
    monkeypatch.setattr(dialling, "DNS_SECONDS", 0.3)
    _, resolver, transport = await name_server(lambda *_: reply)
    out = Outbound(settings(), lookup=resolver)
    outcome = await post("http://nowhere.example:9000/", out)
    await out.close()
    transport.close()
    assert outcome.error is ErrorCode.dns
    assert detail in outcome.detail


async def test_the_systems_resolver_is_asked_once_for_a_name_that_many_want(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def slow(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        go_on.wait(5)
        return [(2, 1, 6, "", ("192.0.2.1", 0)), (2, 1, 6, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    names = Names()
    several = [asyncio.create_task(names("slow.example")) for _ in range(5)]
    await asyncio.sleep(0.05)
    several[0].cancel()  # who gives up does not take the answer from the others
    go_on.set()
    assert await asyncio.gather(*several[1:]) == [["192.0.2.1"]] * 4
    assert asked == ["slow.example"]


async def test_the_systems_resolver_knows_this_machine() -> None:
    assert "127.0.0.1" in await Names()("localhost")


async def test_a_name_the_system_does_not_know_is_told_to_everyone_who_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    names = Names()
    told = await asyncio.gather(names("no.example"), names("no.example"), return_exceptions=True)
    assert [type(error) for error in told] == [socket.gaierror] * 2


# --- TLS -----------------------------------------------------------------------------------------


async def test_tls_is_checked_against_the_name_though_the_address_was_pinned(
    tmp_path: Path,
) -> None:
    server, client = authority(tmp_path, "hooks.example")
    named: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: named.append(name)
    _, resolver, transport = await name_server(lambda *_: ["127.0.0.1"])
    async with endpoint(answers(OK), tls=server) as port:
        out = Outbound(settings(), lookup=resolver, tls=client)
        assert (await post(f"https://hooks.example:{port}/", out)).status == 200
        other = await post(f"https://other.example:{port}/", out)
        await out.close()
        stranger = Outbound(settings(), lookup=resolver)
        untrusted = await post(f"https://hooks.example:{port}/", stranger)
        await stranger.close()
    transport.close()
    assert named[0] == "hooks.example"
    assert (other.error, untrusted.error) == (ErrorCode.tls, ErrorCode.tls)
    assert "not trusted" in other.detail


async def test_an_endpoint_that_does_not_speak_tls_or_never_finishes_is_an_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with endpoint(_talks_first) as port:
        plain = await post(f"https://127.0.0.1:{port}/")
    assert plain.error is ErrorCode.tls
    monkeypatch.setattr(dialling, "CONNECT_SECONDS", 0.3)
    started = perf_counter()
    async with endpoint(_says_nothing) as port:
        hung = await post(f"https://127.0.0.1:{port}/")
    assert hung.error is ErrorCode.timeout
    assert hung.detail == "The TLS handshake did not end within 0.3 s."
    assert perf_counter() - started < 2
