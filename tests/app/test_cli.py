"""The command line: keys, and sending signals from files to a service that may refuse or be busy."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.settings import Unusable

Answer = Callable[[list[dict[str, Any]]], tuple[int, dict[str, str], dict[str, Any]]]


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def on_database(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands work on the test's database."""
    monkeypatch.setenv("FOREWARN_DATABASE_URL", database_url)
    monkeypatch.setenv("FOREWARN_DATA_DIR", str(tmp_path))


async def _in_thread(*words: str) -> Result:
    """Runs a command beside the test's loop: it runs a loop of its own."""
    return await asyncio.to_thread(_run, *words)


@pytest.mark.usefixtures("on_database")
async def test_a_key_is_made_listed_and_revoked() -> None:
    made = await _in_thread(
        "keys", "create", "--name", "aurora", "--role", "partner", "--party", "EU",
        "--scopes", "signals:write, alerts:read", "--expires-in-days", "30", "--json",
    )  # fmt: skip
    key = json.loads(made.stdout)
    assert key["key"].startswith(f"fw_{key['id']}_")
    assert key["scopes"] == ["alerts:read", "signals:write"]
    assert key["expires_at"].endswith("Z")
    listed = await _in_thread("keys", "list", "--json")
    assert key["key"] not in listed.stdout
    assert [(k["id"], k["partner"], k["party"], k["state"]) for k in json.loads(listed.stdout)] == [
        (key["id"], "aurora", "EU", "live")
    ]
    assert (await _in_thread("keys", "revoke", key["id"])).exit_code == 0
    listed = await _in_thread("keys", "list")
    assert "revoked" in listed.stdout
    assert key["id"] in listed.stdout, "whole, however narrow the terminal"


@pytest.mark.usefixtures("on_database")
async def test_a_key_that_is_not_there_cannot_be_revoked() -> None:
    done = await _in_thread("keys", "revoke", "nosuchkey")
    assert done.exit_code == 1
    assert "forewarn keys list" in done.stderr


@pytest.mark.usefixtures("on_database")
async def test_a_role_that_is_not_there_is_a_sentence() -> None:
    done = await _in_thread("keys", "create", "--name", "aurora", "--role", "king")
    assert isinstance(done.exception, Unusable)
    assert "the roles are" in str(done.exception)


@pytest.mark.usefixtures("on_database")
async def test_the_schema_says_where_it_is() -> None:
    done = await _in_thread("migrate", "--json")
    assert json.loads(done.stdout)["revision"]


class _Service:
    """A far end that answers batches as told and keeps what it was sent."""

    def __init__(self, answer: Answer) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.keys: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.keys.add(self.headers["authorization"])
                batch = json.loads(body)
                outer.batches.append(batch)
                status, headers, said = answer(batch)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> _Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _all_accepted(batch: list[dict[str, Any]]) -> tuple[int, dict[str, str], dict[str, Any]]:
    return (
        200,
        {},
        {"accepted": len(batch), "rejected": 0, "items": [], "alerts": ["TTC-SEMI-2026-0007"]},
    )


def _csv(folder: Path, rows: int) -> Path:
    file = folder / "neon.csv"
    lines = ["sector,indicator,good,place,observed_at,value,available_at,partner"]
    lines += [
        f"semiconductors,price,neon,,2022-03-{1 + n % 28:02},{n},2022-04-01,x" for n in range(rows)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_csv_is_sent_a_thousand_at_a_time_in_order(tmp_path: Path) -> None:
    with _Service(_all_accepted) as service:
        done = _run(
            "signals", "send", str(_csv(tmp_path, 2_500)), "--url", service.url, "--key", "fw_a_b"
        )
    assert done.exit_code == 0
    assert [len(batch) for batch in service.batches] == [1_000, 1_000, 500]
    assert service.batches[0][1] == {
        "sector": "semiconductors",
        "indicator": "price",
        "good": "neon",
        "observed_at": "2022-03-02T00:00:00Z",
        "value": 1.0,
    }
    assert service.keys == {"Bearer fw_a_b"}
    assert "2500 accepted" in done.stdout
    assert "alerts: TTC-SEMI-2026-0007" in done.stdout


def test_an_ndjson_is_sent_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    event = {
        "sector": "semiconductors",
        "event": "export_control",
        "observed_at": "2023-07-03T00:00:00Z",
    }
    file.write_text(f"{json.dumps(event)}\n\n{json.dumps(event)}\n")
    with _Service(_all_accepted) as service:
        done = _run("signals", "send", str(file), "--url", service.url, "--key", "k", "--json")
    assert service.batches == [[event, event]]
    assert json.loads(done.stdout)["accepted"] == 2


def test_refused_signals_are_shown_with_their_lines_and_exit_code_1(tmp_path: Path) -> None:
    def refuse_second(batch: list[dict[str, Any]]) -> tuple[int, dict[str, str], dict[str, Any]]:
        problem = {"detail": "There is no good 'neon'."}
        items = [{"index": 1, "status": "rejected", "problem": problem, "retryable": False}]
        return 207, {}, {"accepted": len(batch) - 1, "rejected": 1, "items": items, "alerts": []}

    with _Service(refuse_second) as service:
        done = _run("signals", "send", str(_csv(tmp_path, 3)), "--url", service.url, "--key", "k")
    assert done.exit_code == 1
    assert "line 3: There is no good 'neon'." in done.stdout
    assert "1 rejected" in done.stdout


def test_a_busy_service_is_waited_for(tmp_path: Path) -> None:
    answers = iter([503, 429])

    def busy_twice(batch: list[dict[str, Any]]) -> tuple[int, dict[str, str], dict[str, Any]]:
        busy = next(answers, None)
        return _all_accepted(batch) if busy is None else (busy, {"Retry-After": "0"}, {})

    with _Service(busy_twice) as service:
        done = _run("signals", "send", str(_csv(tmp_path, 1)), "--url", service.url, "--key", "k")
    assert done.exit_code == 0
    assert len(service.batches) == 3


def test_a_refused_key_is_a_sentence(tmp_path: Path) -> None:
    def refuse(_: list[dict[str, Any]]) -> tuple[int, dict[str, str], dict[str, Any]]:
        return 401, {}, {"detail": "This key is unknown, revoked or expired."}

    with _Service(refuse) as service:
        done = _run("signals", "send", str(_csv(tmp_path, 1)), "--url", service.url, "--key", "k")
    assert done.exit_code == 1
    assert "answered 401: This key is unknown" in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "sector,colour\nx,red\n", "There is no column colour"),
        ("a.csv", "sector,value\nx,many\n", "Line 2: the value 'many' is not a number"),
        ("a.csv", "sector,value\nx,1,2\n", "Line 2 has more cells than the header"),
        ("a.ndjson", '{"sector": "x"}\n{"sector"\n', "Line 2 is not JSON"),
        ("a.ndjson", "[1]\n", "Line 1 is not a JSON object"),
        ("a.xml", "<x/>", "neither .csv nor .ndjson"),
    ],
)
def test_a_file_that_cannot_be_sent_is_a_sentence(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_text(text)
    done = _run(
        "signals", "send", str(tmp_path / name), "--url", "http://127.0.0.1:1", "--key", "k"
    )
    assert done.exit_code == 1
    assert says in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--key", "k"), "cannot be read: No such file"),
        ((), "Give a key with --key or in FOREWARN_KEY"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    done = _run("signals", "send", str(tmp_path / "none.csv"), *words)
    assert done.exit_code == 1
    assert says in done.stderr


def test_a_service_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    done = _run(
        "signals", "send", str(_csv(tmp_path, 1)), "--url", "http://127.0.0.1:1", "--key", "k"
    )
    assert done.exit_code == 1
    assert "did not reach http://127.0.0.1:1" in done.stderr
