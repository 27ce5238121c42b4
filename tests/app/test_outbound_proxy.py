"""The way out through a proxy: a real one of a few lines, with a real TLS endpoint behind it.

Nothing here allows connections to this machine: only the proxy is on it, and it may be.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from alerts.retries import ErrorCode
from app import settings as house
from app.outbound import Outbound, dialling
from app.outbound.proxies import Proxies
from app.settings import Proxy, Settings, SettingsFaulty
from tests.app.endpoint import OK, Manner, answers, authority, endpoint, post

SECRET = "s3cret"


def through(proxy: object, **changes: object) -> Settings:
    """A way out through a proxy; any port may be used, and no network of this machine."""
    given = {"webhook_proxy": proxy, "webhook_allow": "10.255.0.0/16", "webhook_allow_http": True}
    return Settings.model_validate({**given, "webhook_timeout_seconds": 3, **changes})


async def nobody(host: str) -> Sequence[str]:
    pytest.fail(f"{host} was looked up, which is for the proxy to do")


def tunnels(heard: list[bytes]) -> Manner:
    """A proxy: whatever name is asked for is on this machine."""

    async def pour(reader: Reader, writer: Writer) -> None:
        with suppress(OSError):
            while more := await reader.read(65_536):
                writer.write(more)
                await writer.drain()
        writer.close()

    async def manner(reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head)
        port = int(head.split()[1].rpartition(b":")[2])
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 squid\r\n\r\n")
        await asyncio.gather(pour(reader, back), pour(there, writer))

    return manner


async def test_through_a_proxy_tls_reaches_to_the_endpoint_and_the_proxy_finds_it(
    tmp_path: Path,
) -> None:
    server, client = authority(tmp_path, "hooks.example")
    asked: list[bytes] = []
    heard: list[bytes] = []
    async with endpoint(tunnels(asked)) as proxy, endpoint(answers(OK, heard), tls=server) as port:
        out = Outbound(
            through(f"http://aurora:{SECRET}%21@127.0.0.1:{proxy}"), lookup=nobody, tls=client
        )
        outcomes = [await post(f"https://hooks.example:{port}/hook", out) for _ in range(2)]
        stranger = await post(f"https://other.example:{port}/hook", out)
        await out.close()
    assert [outcome.status for outcome in outcomes] == [200, 200]
    lines = asked[0].split(b"\r\n")
    credentials = b64encode(f"aurora:{SECRET}!".encode())
    assert lines[0] == f"CONNECT hooks.example:{port} HTTP/1.1".encode()
    assert f"Host: hooks.example:{port}".encode() in lines
    assert b"Proxy-Authorization: Basic " + credentials in lines
    assert len(asked) == 2  # the second request went through the first one's tunnel
    assert len(heard) == 2
    assert b"proxy-authorization" not in heard[0].lower()
    assert (stranger.error, stranger.sent_after) == (ErrorCode.tls, None)
    assert "not trusted" in stranger.detail


async def test_plain_http_is_handed_to_the_proxy_with_the_whole_url() -> None:
    heard: list[bytes] = []
    async with endpoint(answers(OK, heard)) as proxy:
        out = Outbound(through(f"http://aurora:{SECRET}@127.0.0.1:{proxy}"), lookup=nobody)
        outcome = await post("http://hooks.example/hook?a=b", out)
        await out.close()
    assert outcome.status == 200
    lines = heard[0].split(b"\r\n")
    assert lines[:2] == [b"POST http://hooks.example/hook?a=b HTTP/1.1", b"Host: hooks.example"]
    credentials = b64encode(f"aurora:{SECRET}".encode())
    assert b"Proxy-Authorization: Basic " + credentials in lines


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://2130706433/",
        "https://127。0。0。1/",
    ],
)
async def test_addresses_written_in_a_url_are_refused_before_any_proxy_is_asked(url: str) -> None:
    heard: list[bytes] = []
    async with endpoint(tunnels(heard)) as proxy:
        out = Outbound(through(f"http://127.0.0.1:{proxy}"))
        outcome = await post(url, out)
        await out.close()
    assert outcome.error is ErrorCode.ssrf_blocked
    assert heard == []


def says(raw: bytes, *, then_hangs: bool = False) -> Manner:
    async def manner(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        if then_hangs:
            await reader.read()

    return manner


async def _floods(reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: y\r\n" * 1_000)
        await writer.drain()


@pytest.mark.parametrize(
    ("manner", "error", "detail"),
    [
        (
            says(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
            ErrorCode.connect,
            "The proxy answered 407 and made no connection.",
        ),
        (  # as smokescreen refuses, with a body
            says(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\ndenied"),
            ErrorCode.connect,
            "The proxy answered 403 and made no connection.",
        ),
        (
            says(b"HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\n\r\n"),
            ErrorCode.connect,
            "The proxy answered 302 and made no connection.",
        ),
        (says(b""), ErrorCode.connect, "The proxy closed the connection."),
        (says(b"HTTP/1.1 200 OK\r\n"), ErrorCode.connect, "The proxy closed the connection."),
        (says(b"ssh-2.0\r\n\r\n"), ErrorCode.connect, "The proxy's answer was not HTTP."),
        (
            says(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", then_hangs=True),
            ErrorCode.timeout,
            "The proxy was reached, but no TLS connection to the endpoint was made within 0.5 s.",
        ),
        (_floods, ErrorCode.connect, "The proxy's answer was not HTTP."),
        (
            says(b"", then_hangs=True),
            ErrorCode.timeout,
            "The proxy was reached, but no TLS connection to the endpoint was made within 0.5 s.",
        ),
        (
            says(b"HTTP/1.1 200 OK\r\n\r\n", then_hangs=True),
            ErrorCode.timeout,
            "The proxy was reached, but no TLS connection to the endpoint was made within 0.5 s.",
        ),
        (
            says(b"HTTP/1.1 200 OK\r\n\r\n"),
            ErrorCode.tls,
            "The connection was closed during the TLS handshake.",
        ),
    ],
)
async def test_whatever_a_proxy_does_is_an_outcome_that_does_not_tell_its_password(
    monkeypatch: pytest.MonkeyPatch, manner: Manner, error: ErrorCode, detail: str
) -> None:
    monkeypatch.setattr(dialling, "CONNECT_SECONDS", 0.5)
    async with endpoint(manner) as proxy:
        out = Outbound(through(f"http://aurora:{SECRET}@127.0.0.1:{proxy}"), lookup=nobody)
        outcome = await post("https://hooks.example/", out)
        await out.close()
    assert (outcome.status, outcome.error, outcome.sent_after) == (None, error, None)
    assert outcome.detail == detail
    assert SECRET not in repr(asdict(outcome))


async def test_a_proxy_that_is_not_there_is_told_apart_from_the_endpoint() -> None:
    async def unknown(_: str) -> Sequence[str]:
        raise OSError("there is no such name")

    away = Outbound(through("http://127.0.0.1:1"))
    refused = await post("https://hooks.example/", away)
    await away.close()
    astray = Outbound(through("http://proxy.example:3128"), lookup=unknown)
    nameless = await post("https://hooks.example/", astray)
    await astray.close()
    assert refused.detail == "The proxy could not be connected to: Connection refused."
    assert nameless.detail == (
        "The proxy could not be connected to: "
        "proxy.example could not be resolved: there is no such name."
    )
    assert {refused.error, nameless.error} == {ErrorCode.connect}


# --- which proxy ---------------------------------------------------------------------------------


async def test_proxies_of_the_environment_are_obeyed_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, client = authority(tmp_path, "localhost")
    asked: list[bytes] = []
    allowed = {"webhook_allow": "127.0.0.0/8,::1/128"}
    async with endpoint(tunnels(asked)) as proxy, endpoint(answers(OK), tls=server) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy}")
        for name in ("http_proxy", "no_proxy", "NO_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for setting, through_it in ((None, 0), ("environment", 1)):
            out = Outbound(through(setting, **allowed), tls=client)
            assert (await post(f"https://localhost:{port}/", out)).status == 200
            await out.close()
            assert len(asked) == through_it
        monkeypatch.setenv("NO_PROXY", "localhost")
        out = Outbound(through("environment", **allowed), tls=client)
        assert (await post(f"https://localhost:{port}/", out)).status == 200
        await out.close()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "hooks.example", 443, False),
        ("*", "hooks.example", 443, True),
        ("hooks.example", "hooks.example", 443, True),
        ("example", "hooks.example", 443, True),  # what is below a name
        (".example", "hooks.example", 443, True),
        ("ooks.example", "hooks.example", 443, False),  # a part of a label is not above it
        ("other.example, Hooks.Example", "hooks.example", 443, True),
        ("hooks.example:8443", "hooks.example", 443, False),
        ("hooks.example:8443", "hooks.example", 8443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "10.example", 443, False),
        ("0.0.3", "10.0.0.3", 443, False),  # addresses have no suffixes
        ("fd00::/8,banana/8", "fd00::1", 443, True),
        ("banana/8", "10.0.0.1", 443, False),
    ],
)
def test_no_proxy_lists_what_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, port: int, direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found = Proxies("environment").of("https", host, port)
    assert found == (None if direct else Proxy("proxy.example", 3128))


def test_a_proxy_of_the_environment_that_cannot_be_used_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://aurora:{SECRET}@proxy.example:1080")
    with pytest.raises(SettingsFaulty, match="HTTPS_PROXY or ALL_PROXY cannot be used") as caught:
        Outbound(through("environment"))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy.example:3128", Proxy("proxy.example", 3128)),
        ("http://proxy.example:3128/", Proxy("proxy.example", 3128)),
        ("http://[fd00::1]:3128", Proxy("fd00::1", 3128)),
        ("http://a:b@10.0.0.1:1", Proxy("10.0.0.1", 1, "Basic YTpi")),
        ("http://a%40b:c%3Ad@10.0.0.1:1", Proxy("10.0.0.1", 1, "Basic YUBiOmM6ZA==")),
        ("http://a@10.0.0.1:1", Proxy("10.0.0.1", 1, "Basic YTo=")),
    ],
)
def test_a_proxy_is_read_from_its_url(text: str, proxy: Proxy) -> None:
    read = through(text).webhook_proxy
    assert read == proxy
    assert not proxy.credentials or proxy.credentials not in repr(read)


@pytest.mark.parametrize(
    "text",
    [
        f"https://aurora:{SECRET}@proxy.example:3128",  # TLS to the proxy is not offered
        f"socks5://aurora:{SECRET}@proxy.example:1080",
        f"http://aurora:{SECRET}@proxy.example",  # which port?
        f"http://aurora:{SECRET}@proxy.example:0",
        f"http://aurora:{SECRET}@proxy.example:65536",
        f"http://aurora:{SECRET}@proxy.example:3128/path",
        f"http://aurora:{SECRET}@proxy.example:3128\r\nx: y",
        f"http://aurora:{SECRET}@pro xy:3128",
        f"aurora:{SECRET}@proxy.example:3128",
        "",
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_telling_its_password(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("FOREWARN_WEBHOOK_PROXY", text)
    with pytest.raises(
        SettingsFaulty, match="FOREWARN_WEBHOOK_PROXY: a proxy is written"
    ) as caught:
        house.from_environment()
    assert SECRET not in str(caught.value)
