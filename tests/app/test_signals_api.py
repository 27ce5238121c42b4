"""The door for signals: what is accepted, what is refused and how, whatever is sent."""

from __future__ import annotations

import asyncio
import base64
import json
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from app import telemetry

Connect = Callable[..., Awaitable[httpx.AsyncClient]]

LEAD_TIME: dict[str, Any] = {
    "sector": "semiconductors",
    "indicator": "lead_time",
    "good": "mcu",
    "place": "TW",
    "observed_at": "2021-03-31T00:00:00Z",
    "value": 16.0,
    "unit": "weeks",
}
CONTROL: dict[str, Any] = {
    "sector": "semiconductors",
    "event": "export_control",
    "good": "gallium",
    "place": "CN",
    "observed_at": "2023-07-03T00:00:00Z",
    "severity": "severe",
    "origin": "government",
    "announced_at": "2023-07-03T00:00:00Z",
    "effective_at": "2023-08-01T00:00:00Z",
}


@pytest.fixture
async def aurora(caller: Connect) -> httpx.AsyncClient:
    return await caller("aurora", party="EU")


async def test_a_measurement_that_breaches_names_its_alert(aurora: httpx.AsyncClient) -> None:
    answer = await aurora.post("/v1/signals", json=LEAD_TIME)
    assert answer.status_code == 200
    assert answer.json() == {
        "accepted": 1,
        "duplicate": 0,
        "revised": 0,
        "late": 0,
        "rejected": 0,
        "items": [],
        "alerts": ["TTC-SEMI-2026-0001"],
    } | {"alerts": answer.json()["alerts"]}
    alert = (await aurora.get(f"/v1/alerts/{answer.json()['alerts'][0]}")).json()
    assert (alert["level"], alert["severity"], alert["validated"]) == (
        "early_warning",
        "moderate",
        False,
    )
    assert alert["findings"][0]["value"] == 16.0


async def test_an_official_event_opens_an_alert_and_recommends_more(
    aurora: httpx.AsyncClient,
) -> None:
    answer = await aurora.post("/v1/signals", json=CONTROL)
    alert = (await aurora.get(f"/v1/alerts/{answer.json()['alerts'][0]}")).json()
    assert (alert["level"], alert["severity"]) == ("early_warning", "severe")
    assert alert["recommendation"]["level"] == "disruption"


async def test_a_rumour_of_one_partner_opens_nothing_and_a_second_party_does(
    aurora: httpx.AsyncClient, caller: Connect
) -> None:
    rumour = {**CONTROL, "origin": "press", "origin_ref": "daily-1"}
    assert (await aurora.post("/v1/signals", json=rumour)).json()["alerts"] == []
    again = {**rumour, "observed_at": "2023-07-04T00:00:00Z"}
    assert (await aurora.post("/v1/signals", json=again)).json()["alerts"] == []
    dorado = await caller("dorado", party="US")
    same_story = {**rumour, "observed_at": "2023-07-05T00:00:00Z"}
    assert (await dorado.post("/v1/signals", json=same_story)).json()["alerts"] == []
    own_story = {**rumour, "observed_at": "2023-07-06T00:00:00Z", "origin_ref": "gazette"}
    assert len((await dorado.post("/v1/signals", json=own_story)).json()["alerts"]) == 1


WRONG: list[tuple[dict[str, Any], str, list[str] | None]] = [
    ({"unit": "days"}, "/unit", ["weeks"]),
    ({"unit": None}, "/unit", ["weeks"]),
    ({"value": None}, "/value", None),
    ({"value": -1}, "/value", None),
    ({"value": 1e308}, "/value", None),
    ({"value": "16"}, "/value", None),
    ({"value": True}, "/value", None),
    ({"sector": "semiconductor"}, "/sector", ["semiconductors"]),
    ({"indicator": "lead_tim"}, "/indicator", ["lead_time"]),
    ({"good": "MCU"}, "/good", ["mcu"]),
    ({"place": "Taiwan"}, "/place", None),
    ({"place": "XX"}, "/place", None),
    ({"event": "export_control"}, "", None),
    ({"observed_at": "2021-03-31T00:00:00"}, "/observed_at", None),
    ({"observed_at": "yesterday"}, "/observed_at", None),
    ({"observed_at": "1899-12-31T00:00:00Z"}, "/observed_at", None),
    ({"observed_at": "9999-12-31T23:59:59Z"}, "/observed_at", None),
    ({"revision": 0}, "/revision", None),
    ({"reliability": "Z9"}, "/reliability", None),
    ({"origin": "hearsay"}, "/origin", None),
    ({"tlp": "PINK"}, "/tlp", None),
    ({"severity": "severe"}, "/severity", None),
    ({"effective_at": "2021-03-31T00:00:00Z"}, "/effective_at", None),
    ({"note": "a\x00b"}, "/note", None),
    ({"note": "x" * 2_001}, "/note", None),
    ({"exercise": "Cold Winter!"}, "/exercise", None),
    ({"observd_at": "2021-03-31T00:00:00Z"}, "/observd_at", ["observed_at"]),
]


async def test_what_is_wrong_is_named(aurora: httpx.AsyncClient) -> None:
    for change, pointer, allowed in WRONG:
        for body, prefix in (({**LEAD_TIME, **change}, ""), ([{**LEAD_TIME, **change}], "/0")):
            answer = await aurora.post("/v1/signals", json=body)
            assert answer.status_code == 422, (change, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            found = {error["pointer"]: error for error in problem["errors"]}
            assert prefix + pointer in found, (change, problem)
            if allowed is not None:
                assert set(allowed) <= set(found[prefix + pointer]["allowed"]), change
            assert problem["rejected"] == 1
            assert problem["type"] == "/problems/invalid"
            assert problem["request_id"]


async def test_a_signal_from_the_future_is_refused_and_from_just_ahead_is_not(
    aurora: httpx.AsyncClient,
) -> None:
    now = datetime.now(UTC)
    for minutes, status in ((4, 200), (6, 422)):
        at = (now + timedelta(minutes=minutes)).isoformat()
        answer = await aurora.post("/v1/signals", json={**LEAD_TIME, "observed_at": at})
        assert answer.status_code == status


HOSTILE = [
    (b"", 400),
    (b"{", 400),
    (b'{"a":', 400),
    (b'[{"sector":"semiconductors"},', 400),
    (b"\xff\xfe", 400),
    (b'{"sector":"\xff"}', 400),
    (b'{"value":NaN}', 400),
    (b'{"value":1e999}', 400),
    (b"[" * 100_000, 400),
    (b'{"sector":' * 50_000, 400),
    (b"null", 422),
    (b"3", 422),
    (b'"x"', 422),
    (b"[]", 422),
    (b"[[]]", 422),
    (b"[1,2]", 422),
    (b"{}", 422),
]


async def test_hostile_bodies_get_a_clear_answer(aurora: httpx.AsyncClient) -> None:
    for body, status in HOSTILE:
        answer = await aurora.post(
            "/v1/signals", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status, (body[:40], answer.text[:500])
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


async def test_sql_and_html_in_every_string_are_harmless_text(aurora: httpx.AsyncClient) -> None:
    nasty = "'; DROP TABLE signals; -- <script>alert(1)</script> \u202e{{7*7}}"
    answer = await aurora.post(
        "/v1/signals", json={**LEAD_TIME, "note": nasty, "id": nasty, "origin_ref": nasty}
    )
    assert answer.status_code == 200
    for field in ("sector", "indicator", "good", "place", "exercise", "unit"):
        answer = await aurora.post("/v1/signals", json={**LEAD_TIME, field: nasty[:60]})
        assert answer.status_code == 422
    assert (await aurora.get(f"/v1/alerts/{nasty[:20]}")).status_code == 404


async def test_good_items_are_stored_beside_bad_ones(aurora: httpx.AsyncClient) -> None:
    batch = [LEAD_TIME, {**LEAD_TIME, "unit": "days"}, 7, {**LEAD_TIME, "value": 16.5}, LEAD_TIME]
    answer = await aurora.post("/v1/signals", json=batch)
    assert answer.status_code == 207
    said = answer.json()
    assert {name: said[name] for name in ("accepted", "revised", "rejected", "duplicate")} == {
        "accepted": 1,
        "revised": 2,
        "rejected": 2,
        "duplicate": 0,
    }
    assert [(item["index"], item["status"]) for item in said["items"]] == [
        (1, "rejected"),
        (2, "rejected"),
        (3, "revised"),
        (4, "revised"),
    ]
    assert said["items"][0]["problem"]["errors"][0]["pointer"] == "/1/unit"
    assert said["items"][0]["retryable"] is False
    answer = await aurora.post("/v1/signals?verbose=true", json=[LEAD_TIME])
    assert answer.json()["items"] == [{"index": 0, "status": "duplicate"}]


async def test_a_batch_has_at_most_a_thousand_items(aurora: httpx.AsyncClient) -> None:
    answer = await aurora.post("/v1/signals", json=[LEAD_TIME] * 1_001)
    assert answer.status_code == 413
    answer = await aurora.post("/v1/signals", json=[LEAD_TIME] * 1_000)
    assert (answer.status_code, answer.json()["accepted"], answer.json()["duplicate"]) == (
        200,
        1,
        999,
    )


async def test_a_body_over_five_mebibytes_is_refused_declared_or_streamed(
    aurora: httpx.AsyncClient,
) -> None:
    body = b" " * (5 * 2**20 + 1)

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 2**16):
            yield body[start : start + 2**16]

    for content in (body, stream()):
        answer = await aurora.post(
            "/v1/signals", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 413
        assert str(5 * 2**20) in answer.json()["detail"]


async def test_the_line_about_a_request_says_what_became_of_its_signals(
    aurora: httpx.AsyncClient,
) -> None:
    telemetry.configure("info", "json")
    with structlog.testing.capture_logs() as lines:
        await aurora.post("/v1/signals", json=[LEAD_TIME, {**LEAD_TIME, "unit": "days"}])
    assert [line["signals"] for line in lines if line["event"] == "request.answered"] == [
        {"accepted": 1, "duplicate": 0, "revised": 0, "late": 0, "rejected": 1}
    ]


async def test_other_kinds_of_body_are_refused(aurora: httpx.AsyncClient) -> None:
    for kind in ("text/csv", "application/x-www-form-urlencoded", "text/plain"):
        answer = await aurora.post(
            "/v1/signals", content=json.dumps(LEAD_TIME), headers={"Content-Type": kind}
        )
        assert answer.status_code == 415


async def test_only_a_live_key_with_the_scope_may_report(
    service: object, aurora: httpx.AsyncClient, caller: Connect
) -> None:
    baltica = await caller("baltica", role="subscriber")
    assert (await baltica.post("/v1/signals", json=LEAD_TIME)).status_code == 403
    for header in (
        {},
        {"Authorization": "Bearer fw_nobody_nothing"},
        {"Authorization": "Basic eA=="},
    ):
        aurora.headers.pop("Authorization", None)
        answer = await aurora.post("/v1/signals", json=LEAD_TIME, headers=header)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_retraction_takes_a_signal_back_and_only_ones_own(
    aurora: httpx.AsyncClient, caller: Connect
) -> None:
    ref = (await aurora.post("/v1/signals", json=LEAD_TIME)).json()["alerts"][0]
    key = {k: v for k, v in LEAD_TIME.items() if k not in {"value", "unit"}}
    dorado = await caller("dorado", party="US")
    theirs = await dorado.post("/v1/signals/retract", json={**key, "reason": "not mine"})
    assert theirs.status_code == 404
    mine = await aurora.post("/v1/signals/retract", json={**key, "reason": "a typing error"})
    assert (mine.status_code, mine.json()["revised"]) == (200, 1)
    assert (await aurora.get(f"/v1/alerts/{ref}")).json()["severity"] == "none"
    timeline = (await aurora.get(f"/v1/alerts/{ref}/timeline")).json()["items"]
    assert "was taken back" in timeline[-1]["reason"]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("observed_at", "0001-01-01T00:00:00+23:59"),
        ("observed_at", "9999-12-31T23:59:59-23:59"),
        ("observed_at", "1899-12-31T00:00:00Z"),
        ("exercise", "No Such Name"),
        ("reason", "a\x00b"),
    ],
)
async def test_what_cannot_have_been_reported_cannot_be_taken_back(
    aurora: httpx.AsyncClient, field: str, said: str
) -> None:
    key = {k: v for k, v in LEAD_TIME.items() if k not in {"value", "unit"}}
    answer = await aurora.post("/v1/signals/retract", json={**key, "reason": "typing", field: said})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/{field}"


async def test_an_alert_list_is_paged_without_gap_or_repeat(aurora: httpx.AsyncClient) -> None:
    goods = ("mcu", "dram", "nand", "chips", "analog")
    await aurora.post("/v1/signals", json=[{**LEAD_TIME, "good": good} for good in goods])
    seen: list[str] = []
    url = "/v1/alerts?limit=2&state=open"
    while url:
        answer = await aurora.get(url)
        seen += [alert["good"] for alert in answer.json()["items"]]
        url = str(answer.links["next"]["url"]) if "next" in answer.links else ""
    assert sorted(seen) == sorted(goods)
    assert (await aurora.get("/v1/alerts?after=rubbish")).status_code == 422
    assert (await aurora.get("/v1/alerts?after=WzFd")).status_code == 422
    nested = base64.urlsafe_b64encode(b"[" * 10_000).decode()
    assert (await aurora.get(f"/v1/alerts?after={nested}")).status_code == 422
    assert (await aurora.get("/v1/alerts?limit=0")).status_code == 422


async def test_the_description_of_the_api_is_openapi_31(aurora: httpx.AsyncClient) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    document = (await aurora.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()
    assert "/v1/signals" in document["paths"]
    assert "alert.opened" in document["webhooks"]


class Served:
    """A request as the server holds it: with its scope, and with what gives its body."""

    def __init__(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        self._body = json.dumps(body).encode()
        self.status = 0
        key = client.headers["authorization"].encode()
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/signals",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"authorization", key)],
        }

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.status = message.get("status", self.status)


@pytest.mark.parametrize(
    ("body", "status"), [(LEAD_TIME | {"value": 9.0}, 200), ({"good": "mcu"}, 422)]
)
async def test_what_is_left_of_an_answered_request_needs_no_collector(
    service: FastAPI,
    aurora: httpx.AsyncClient,
    no_collector: None,
    body: dict[str, Any],
    status: int,
) -> None:
    """Else it comes every few thousand requests, and all others wait until it is done."""
    request = Served(aurora, body)
    await service(request.scope, request.receive, request.send)
    assert request.status == status
    left = weakref.ref(request)
    del request
    await asyncio.sleep(0)
    assert left() is None
