"""What every request gets: an id, a limit, a problem when it fails, and never our insides."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any

import httpx
import pytest
import structlog
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from openapi_spec_validator import validate
from pydantic import BaseModel, Field

from app import access, store, telemetry
from app.api.problems import PROBLEMS, Problem, pointer
from app.api.straight import Plain
from app.database import DatabaseAway, ValueRefused
from app.main import create_app
from app.quotas import Spent
from app.settings import Settings

AWAY = "postgresql://nobody@127.0.0.1:1/none"


class Crate(BaseModel):
    """A body to send."""

    good: str = Field(max_length=5)
    count: int


FAILURES: dict[str, Exception] = {
    "problem": Problem("conflict", "Not now.", headers={"Retry-After": "7"}, retryable=True),
    "http": HTTPException(413, "Too much."),
    "invalid": RequestValidationError([{"type": "missing", "loc": ("query", "x"), "msg": "none"}]),
    "unauthenticated": access.Unauthenticated("Send your key."),
    "not allowed": access.NotAllowed("Your key may not."),
    "away": DatabaseAway("The database is away."),
    "refused by the database": ValueRefused(),
    "spent": Spent("No more this minute.", (("RateLimit", "1"),)),
    "unexpected": RuntimeError("the password is hunter2"),
}


def _fails(error: Exception) -> Callable[[Request], Awaitable[Response]]:
    async def fail(request: Request) -> Response:
        raise error

    return fail


def _app(settings: Settings) -> FastAPI:
    """The service with a few doors that fail in every way."""
    app = create_app(settings)
    for name, error in FAILURES.items():
        app.router.routes += [
            kind(f"/{kind.__name__}/{name}", _fails(error), methods=["POST"])
            for kind in (APIRoute, Plain)
        ]

    @app.post("/crates")
    async def post_crates(crates: list[Crate]) -> int:
        return len(crates)

    @app.get("/crates")
    async def list_crates(limit: Annotated[int, Query(ge=1)] = 1) -> int:
        return limit

    @app.get("/broken")
    async def break_down() -> JSONResponse:
        raise RuntimeError("the password is hunter2")

    @app.get("/refused")
    async def refuse() -> JSONResponse:
        raise Problem("conflict", "Not now.", headers={"Retry-After": "7"}, retryable=True)

    @app.get("/echoed")
    async def echo(text: str) -> int:
        async with app.state.house.database.begin() as connection:
            return int(await store.partners.revoke(connection, text, datetime.now(UTC)))

    @app.get("/admin", dependencies=[Depends(access.needs("admin"))])
    async def administer() -> int:
        return 1

    return app


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service without a key."""
    app = _app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://forewarn") as client,
    ):
        yield client


@contextmanager
def _log(capsys: pytest.CaptureFixture[str]) -> Iterator[list[dict[str, Any]]]:
    """Logs as the service does while the block runs; afterwards the list holds the lines."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    lines: list[dict[str, Any]] = []
    telemetry.configure("info", "json")
    try:
        yield lines
    finally:
        lines += [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        telemetry._logger = None


@contextmanager
def _full_disk() -> Iterator[IO[str]]:
    """A file on a disk without room, written line by line as standard error is."""
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - closing it fails too
    yield full
    with suppress(OSError):
        full.close()


def _problem(answer: httpx.Response, slug: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["type"] == f"/problems/{slug}", found
    assert found["status"] == answer.status_code == PROBLEMS[slug].status
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


@pytest.mark.parametrize(
    ("given", "kept", "because"),
    [
        ("trace-7.a:b", True, "harmless ids are kept, to be found in two logs"),
        ("x" * 128, True, "as long as it may be"),
        ("x" * 129, False, "too long"),
        ("a b", False, "a space could end a log field"),
        ("", False, "nothing was given"),
    ],
)
async def test_a_request_has_an_id(
    client: httpx.AsyncClient, given: str, kept: bool, because: str
) -> None:
    answer = await client.get("/healthz", headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) is kept, because
    assert answer.headers["x-request-id"]


async def test_values_that_cannot_be_accepted_are_pointed_at(client: httpx.AsyncClient) -> None:
    answer = await client.post("/crates", json=[{"good": "neon", "count": 1}, {"good": "gallium"}])
    found = _problem(answer, "invalid")
    assert [error["pointer"] for error in found["errors"]] == ["/1/good", "/1/count"]
    assert "and 1 more" in found["detail"]


async def test_of_many_faults_a_hundred_are_told(client: httpx.AsyncClient) -> None:
    answer = await client.post("/crates", json=[{}] * 500)
    found = _problem(answer, "invalid")
    assert len(found["errors"]) == 100
    assert "and 999 more" in found["detail"]


async def test_a_parameter_that_cannot_be_accepted_is_named(client: httpx.AsyncClient) -> None:
    found = _problem(await client.get("/crates?limit=0"), "invalid")
    assert found["errors"][0]["parameter"] == "limit"


async def test_a_body_that_is_not_json_is_malformed(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/crates", content=b'[{"good"', headers={"content-type": "application/json"}
    )
    assert "character" in _problem(answer, "malformed-request")["detail"]


async def test_a_body_of_another_kind_is_not_read(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/crates", content=b"good=neon", headers={"content-type": "text/plain"}
    )
    assert "text/plain" in _problem(answer, "unsupported-media-type")["detail"]


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "streamed"])
async def test_a_body_over_the_limit_is_not_read(client: httpx.AsyncClient, declared: bool) -> None:
    small = 65_536
    body = b" " * (small + 1)

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 2**16):
            yield body[start : start + 2**16]

    headers = {"content-type": "application/json"}
    answer = await client.post("/crates", content=body if declared else stream(), headers=headers)
    assert str(small) in _problem(answer, "too-large")["detail"]


async def test_a_body_that_trickles_is_not_waited_for(settings: Settings) -> None:
    impatient = settings.model_copy(update={"body_timeout_seconds": 0.2})

    async def trickle() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.sleep(30)

    app = _app(impatient)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://fw"
        ) as client,
    ):
        headers = {"content-type": "application/json"}
        answer = await client.post("/crates", content=trickle(), headers=headers)
    assert "0.2 seconds" in _problem(answer, "too-slow")["detail"]


async def test_a_line_that_cannot_be_written_is_lost_and_the_answer_is_not(
    client: httpx.AsyncClient,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = telemetry.REGISTRY.get_sample_value("forewarn_log_lines_lost_total") or 0
    with _log(capsys) as lines:
        with _full_disk() as full, monkeypatch.context() as patch:
            patch.setattr("sys.stderr", full)
            answer = await client.get("/crates")
        await client.get("/crates?limit=2")
    assert answer.json() == 1
    assert [line["event"] for line in lines].count("request.answered") == 1, "the second"
    assert (telemetry.REGISTRY.get_sample_value("forewarn_log_lines_lost_total") or 0) > lost


async def test_a_failure_nobody_expected_shows_nothing_of_our_insides(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with _log(capsys) as lines:
        answer = await client.get("/broken")
    _problem(answer, "internal")
    assert "hunter2" not in answer.text
    failed = next(line for line in lines if line["event"] == "request.failed")
    assert failed["request_id"] == answer.headers["x-request-id"]
    assert "hunter2" in failed["exception"], "but the operator sees it"


async def test_every_request_is_one_line(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    with _log(capsys) as lines:
        await client.get("/crates")
        await client.get("/healthz")
    assert [(line["event"], line["path"], line["status"]) for line in lines] == [
        ("request.answered", "/crates", 200)
    ]


async def test_a_text_that_postgresql_cannot_hold_is_refused(client: httpx.AsyncClient) -> None:
    found = _problem(await client.get("/echoed", params={"text": "neon\x00"}), "invalid")
    assert "U+0000" in found["detail"]


async def test_a_refusal_carries_its_headers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/refused")
    assert _problem(answer, "conflict")["retryable"] is True
    assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("method", "path", "slug"),
    [
        ("GET", "/nowhere", "not-found"),
        ("DELETE", "/healthz", "method-not-allowed"),
        ("GET", "/admin", "unauthenticated"),
        ("GET", "/problems/no-such", "not-found"),
    ],
)
async def test_every_refusal_is_a_problem(
    client: httpx.AsyncClient, method: str, path: str, slug: str
) -> None:
    _problem(await client.request(method, path), slug)


@pytest.mark.parametrize("name", FAILURES)
async def test_on_the_shortest_way_a_failure_is_what_it_is_on_every_other(
    client: httpx.AsyncClient, name: str
) -> None:
    named = {"x-request-id": "one"}
    usual = await client.post(f"/APIRoute/{name}", headers=named)
    short = await client.post(f"/Plain/{name}", headers=named)
    assert usual.status_code >= 400
    assert (short.status_code, short.content, short.headers) == (
        usual.status_code, usual.content, usual.headers,
    )  # fmt: skip
    _problem(await client.get(f"/Plain/{name}"), "method-not-allowed")


async def test_a_key_opens_what_its_scopes_say(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    from app.database import Database

    database = Database(str(settings.database_url))
    async with database.begin() as connection:
        keys = [
            await access.issue_key(connection, name=role, role=role, now=datetime.now(UTC))
            for role in ("admin", "operator")
        ]
    await database.close()
    answers = [
        await client.get("/admin", headers={"Authorization": f"Bearer {key.token}"}) for key in keys
    ]
    assert answers[0].status_code == 200
    assert "scope admin" in _problem(answers[1], "not-allowed")["detail"]
    wrong = await client.get("/admin", headers={"Authorization": "Bearer fw_x_y"})
    _problem(wrong, "unauthenticated")
    assert wrong.headers["www-authenticate"].startswith("Bearer")


async def test_while_the_database_is_away_callers_are_asked_to_come_back(
    settings: Settings,
) -> None:
    from app.database import Database

    app = _app(settings)
    async with app.router.lifespan_context(app):
        app.state.key_ring = access.KeyRing(Database(AWAY))
        app.state.house.database = Database(AWAY)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://forewarn"
        ) as client:
            for path in ("/admin", "/readyz"):
                answer = await client.get(path, headers={"Authorization": "Bearer fw_x_y"})
                assert _problem(answer, "database-away")["retryable"] is True
                assert int(answer.headers["retry-after"]) > 0
                assert "127.0.0.1" not in answer.text
            assert (await client.get("/healthz")).status_code == 200


async def test_a_stopping_process_is_not_ready(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    app = _app(settings)
    async with app.router.lifespan_context(app):
        app.state.house.draining = True
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://x"
        ) as other:
            _problem(await other.get("/readyz"), "draining")
    assert (await client.get("/readyz")).json() == {"status": "ready", "role": "all"}


async def test_the_problems_are_served_where_their_type_points(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/problems")).json()["items"]
    assert [each["type"] for each in listed] == [f"/problems/{slug}" for slug in PROBLEMS]
    for each in listed:
        assert (await client.get(each["type"])).json() == each


async def test_the_openapi_document_is_valid_and_describes_the_webhooks(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    validate(document)
    assert "alert.opened" in document["webhooks"]


async def test_the_reference_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    assert answer.status_code == 200
    assert "://" not in answer.text.partition("<main>")[0]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "/v1/signals" in answer.text
    style = answer.text.partition('href="')[2].partition('"')[0]
    assert (await client.get(style)).status_code == 200


async def test_the_metrics_count_requests_by_route(client: httpx.AsyncClient) -> None:
    await client.get("/problems/invalid")
    await client.request("BREW", "/nowhere-at-all")
    text = (await client.get("/metrics")).text
    assert 'forewarn_requests_total{method="GET",route="/problems/{slug}",status="200"}' in text
    assert 'method="other",route="unmatched"' in text
    assert "nowhere-at-all" not in text
    assert "process_resident_memory_bytes" in text


async def test_a_worker_answers_for_its_health_only(settings: Settings) -> None:
    app = create_app(settings, role="worker")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        assert (await client.get("/readyz")).json()["role"] == "worker"
        _problem(await client.get("/v1/alerts"), "not-found")


@pytest.mark.parametrize(
    ("path", "expected"),
    [([], ""), ([0, "url"], "/0/url"), (["a/b", "c~d"], "/a~1b/c~0d")],
)
def test_pointers_are_as_rfc_6901_writes_them(path: list[str | int], expected: str) -> None:
    assert pointer(path) == expected
