"""A real process under more than it can take: floods, slow callers, bombs. The honest are answered."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import resource
import socket
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from app import access
from app.database import Database
from app.demo import processes
from tests.app.test_quotas import lead_times
from tests.conftest import TEMPLATE

PATIENCE = 60
WAITING = 1_000
BODIES = 8 * 2**20
BODY = 2**20
OF_A_KIND = 1_000
PARTNERS = ("aurora", "baltica")


class Service:
    """The process, and the keys of its partners."""

    def __init__(self, url: str, database_url: str, keys: dict[str, str]) -> None:
        self.url, self.database_url, self.keys = url, database_url, keys

    @property
    def where(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)


@pytest.fixture(scope="module")
def service(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with little patience and little room, on a database of its own."""
    folder = tmp_path_factory.mktemp("pressed")
    asyncio.run(_on(postgres_url, f"CREATE DATABASE pressed TEMPLATE {TEMPLATE}"))
    settings = {
        "FOREWARN_DATABASE_URL": urlsplit(postgres_url)._replace(path="/pressed").geturl(),
        "FOREWARN_SECRET_KEY": "a secret key for tests, long enough to be one",
        "FOREWARN_HEAD_TIMEOUT_SECONDS": "3",
        "FOREWARN_BODY_TIMEOUT_SECONDS": "3",
        "FOREWARN_UNREAD_TIMEOUT_SECONDS": "3",
        "FOREWARN_CONNECTIONS_LIMIT": "10000",
        "FOREWARN_INGEST_BODY_LIMIT_BYTES": str(BODY),
        "FOREWARN_BODIES_LIMIT_BYTES": str(BODIES),
        "FOREWARN_INGEST_WAITING_LIMIT": str(WAITING),
        "FOREWARN_LOG_LEVEL": "error",
    }
    port = processes.free_port("127.0.0.1")
    keys = asyncio.run(_keys(settings["FOREWARN_DATABASE_URL"]))
    with processes.service("127.0.0.1", port, folder, settings) as url:
        yield Service(url, settings["FOREWARN_DATABASE_URL"], keys)


async def _keys(database_url: str) -> dict[str, str]:
    database = Database(database_url)
    async with database.begin() as connection:
        made = [
            await access.issue_key(connection, name=name, role="partner", now=datetime.now(UTC))
            for name in PARTNERS
        ]
    await database.close()
    return {key.partner: key.token for key in made}


async def _on(server_url: str, statement: str) -> None:
    connection = await asyncpg.connect(urlsplit(server_url)._replace(path="/postgres").geturl())
    await connection.execute(statement)
    await connection.close()


@pytest.fixture
async def aurora(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(service, "aurora") as client:
        yield client


def _client(service: Service, name: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=service.url,
        headers={"Authorization": f"Bearer {service.keys[name]}"},
        timeout=PATIENCE,
        # One that idles is closed by the service, maybe in the very moment it is used again.
        limits=httpx.Limits(max_keepalive_connections=0),
    )


async def _metric(client: httpx.AsyncClient, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", (await client.get("/metrics")).text, flags=re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def _is_well(client: httpx.AsyncClient) -> None:
    """Health, reading and the dashboard are answered."""
    for path in ("/healthz", "/readyz", "/metrics", "/v1/alerts", "/"):
        assert (await client.get(path)).status_code == 200, path


@contextlib.asynccontextmanager
async def _held(service: Service, statement: str) -> AsyncIterator[None]:
    """Holds the locks of a statement on the service's database while the block runs."""
    connection = await asyncpg.connect(service.database_url)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


async def test_one_partner_who_floods_is_refused_and_another_and_all_reading_are_not(
    service: Service, aurora: httpx.AsyncClient
) -> None:
    assert (await aurora.post("/v1/signals", json=lead_times(1))).status_code == 200
    async with _client(service, "baltica") as baltica:
        async with _held(service, "SELECT lane FROM lanes FOR UPDATE"):
            flood = [
                asyncio.create_task(aurora.post("/v1/signals", json=lead_times(100)))
                for _ in range(8)
            ]
            while sum(task.done() for task in flood) < 3:  # noqa: ASYNC110 - the process's events
                await asyncio.sleep(0.01)
            patient = asyncio.create_task(baltica.post("/v1/signals", json=lead_times(100)))
            while await _metric(aurora, "forewarn_waiting_signals") < 600:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await _is_well(aurora)
            refused = [task.result() for task in flood if task.done()]
            assert not patient.done()
        assert (await patient).status_code == 200
        stored = [answer for answer in await asyncio.gather(*flood) if answer not in refused]
    assert [answer.status_code for answer in stored] == [200] * 5, "half the room was aurora's"
    for answer in refused:
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems/busy"
        assert answer.json()["retryable"] is True
        assert int(answer.headers["retry-after"]) > 0


async def test_readers_who_take_every_connection_change_nothing_for_health_and_for_keys(
    service: Service, aurora: httpx.AsyncClient
) -> None:
    async with _held(service, "LOCK TABLE alerts"):
        readers = [asyncio.create_task(aurora.get("/v1/alerts")) for _ in range(30)]
        connection = await asyncpg.connect(service.database_url)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while await connection.fetchval(waiting) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await connection.close()
        assert (await aurora.get("/readyz")).status_code == 200
        async with _client(service, "baltica") as baltica:
            assert (await baltica.get("/v1/indicators")).status_code == 200
    assert {(await reader).status_code for reader in readers} <= {200, 503}


def _gzip_of_zeros(mebibytes: int) -> bytes:
    packing = zlib.compressobj(9, wbits=31)
    return b"".join(packing.compress(bytes(2**20)) for _ in range(mebibytes)) + packing.flush()


_GOOD = json.dumps(lead_times(2)).encode()


@pytest.mark.parametrize(
    ("encoding", "body", "status", "because"),
    [
        ("gzip", gzip.compress(_GOOD), 200, "gzip is read"),
        ("x-gzip", gzip.compress(_GOOD[:40]) + gzip.compress(_GOOD[40:]), 200, "in members too"),
        ("gzip", gzip.compress(b" " * BODY), 400, "exactly the limit is read, and is no JSON"),
        ("gzip", gzip.compress(b" " * (BODY + 1)), 413, "one byte more"),
        ("gzip", _gzip_of_zeros(500), 413, "half a gibibyte"),
        ("gzip", gzip.compress(b"") * 10_000, 400, "members without end"),
        ("gzip", gzip.compress(_GOOD)[:-1], 400, "broken off"),
        ("gzip", _GOOD, 400, "not gzip"),
        ("gzip", b"", 400, "nothing"),
        ("gzip, gzip", gzip.compress(gzip.compress(_GOOD)), 415, "one in the other"),
        ("zstd", b"\x28\xb5\x2f\xfd", 415, "what is not read is refused before it is read"),
    ],
)
async def test_what_is_compressed_is_refused_while_it_is_read(
    aurora: httpx.AsyncClient, encoding: str, body: bytes, status: int, because: str
) -> None:
    head = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    answer = await aurora.post("/v1/signals", content=body, headers=head)
    assert answer.status_code == status, (because, answer.text)
    assert answer.headers.get("accept-encoding") == ("gzip" if status == 415 else None)
    assert await _metric(aurora, "process_resident_memory_bytes") < 400e6


@pytest.mark.parametrize(
    "body",
    [
        b"[" * BODY,
        b'[{"a":' * 150_000,
        b'[{"sector":' + b"[" * 400_000 + b"]" * 400_000 + b"}]",
    ],
)
async def test_a_body_that_is_nested_without_end_is_refused(
    aurora: httpx.AsyncClient, body: bytes
) -> None:
    assert (await aurora.post("/v1/signals", content=body)).status_code in {400, 422}


async def test_four_thousand_slow_callers_stop_nobody(
    service: Service, aurora: httpx.AsyncClient
) -> None:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    key = service.keys["baltica"].encode()
    says = {
        "silent": b"",
        "slowloris": b"GET /v1/alerts HTTP/1.1\r\nhost: x\r\nx-on",
        "half a body": b"POST /v1/signals HTTP/1.1\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\ncontent-length: 1000000\r\n\r\n[%b" % (key, b" " * 60_000),
        "mute": b"GET /openapi.json HTTP/1.1\r\n\r\n",
    }
    crowd: list[socket.socket] = []
    try:
        for kind, said in says.items():
            crowd += await asyncio.gather(
                *(_caller(service, said, is_mute=kind == "mute") for _ in range(OF_A_KIND))
            )
            answer = await aurora.post("/v1/signals", json=lead_times(3))
            assert answer.status_code == 200, (kind, answer.text)
            await _is_well(aurora)
            assert await _metric(aurora, "process_resident_memory_bytes") < 400e6, kind
            assert await _metric(aurora, "forewarn_body_bytes") <= BODIES
        crowd += await asyncio.gather(
            *(_caller(service, says["mute"] * 15, is_mute=True) for _ in range(10))
        )
        until = time.monotonic() + PATIENCE
        while await _metric(aurora, "forewarn_connections") > 5:
            assert time.monotonic() < until, "slow callers are still connected"
            await asyncio.sleep(0.1)
    finally:
        for one in crowd:
            one.close()
    assert await _metric(aurora, "forewarn_body_bytes") == 0
    for reason in ("bodies", "slow_head", "unread"):
        assert await _metric(aurora, f'forewarn_refusals_total{{reason="{reason}"}}') > 0, reason


async def _caller(service: Service, said: bytes, *, is_mute: bool) -> socket.socket:
    calling = socket.socket()
    calling.setblocking(False)
    if is_mute:
        calling.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_024)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(calling, service.where)
    with contextlib.suppress(ConnectionError):  # Some are refused while they still talk.
        await loop.sock_sendall(calling, said)
    return calling
