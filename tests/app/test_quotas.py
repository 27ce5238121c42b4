"""How much a key may write in a minute, and what its answers say of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.database import Database
from app.ingest import Intake
from app.quotas import Quota, Quotas, Spent

Caller = Callable[..., Any]


def _headers(remains: int, seconds: int) -> tuple[tuple[str, str], ...]:
    policy = '"signals";q=60;w=60;qu="signals"'
    return (("RateLimit-Policy", policy), ("RateLimit", f'"signals";r={remains};t={seconds}'))


def test_a_quota_comes_back_evenly_and_is_never_more_than_itself() -> None:
    quota = Quota("signals", "signals", 60)
    timetable: list[tuple[float, int, int, int, str]] = [
        (0, 0, 60, 0, "who takes nothing is told what there is"),
        (0, 50, 10, 50, "most of it at once"),
        (0, 10, 0, 60, "the rest"),
        (30, 30, 0, 60, "half a minute gives half of it back"),
        (1_000, 1, 59, 1, "never more than all of it"),
        (2_000, 150, 0, 150, "who wants more than there ever is gets it, and pays afterwards"),
        (2_091, 1, 0, 60, "when that is paid"),
    ]
    for now, cost, remains, seconds, because in timetable:
        assert quota.take("aurora", cost, now) == _headers(remains, seconds), because


@pytest.mark.parametrize(
    ("now", "cost", "retry_after", "because"),
    [
        (0.0, 0, 1, "nothing is left, so even a look is refused"),
        (0.5, 1, 1, "half a signal is none"),
        (0.0, 5, 5, "five seconds bring five"),
        (20.0, 60, 40, "the whole quota is there when a minute has passed"),
        (0.0, 90, 60, "and no wait is longer, whatever it costs"),
    ],
)
def test_who_has_used_it_up_is_told_when_to_come_back(
    now: float, cost: int, retry_after: int, because: str
) -> None:
    quota = Quota("signals", "signals", 60)
    quota.take("aurora", 60, 0.0)
    with pytest.raises(Spent) as refused:
        quota.take("aurora", cost, now)
    assert ("Retry-After", str(retry_after)) in refused.value.headers, because
    quota.take("aurora", max(cost, 1), now + retry_after)
    assert quota.take("baltica", 60, now) == _headers(0, 60), "every key has its own"


def test_what_was_taken_for_nothing_is_given_back() -> None:
    quota = Quota("signals", "signals", 60)
    quota.take("aurora", 60, 0.0)
    quota.give_back("aurora", 60)
    assert quota.take("aurora", 60, 0.0) == _headers(0, 60)


def lead_times(count: int, first: int = 0) -> list[dict[str, object]]:
    """Calm signals of one series, a minute apart."""
    return [
        {
            "sector": "semiconductors",
            "indicator": "lead_time",
            "good": "mcu",
            "observed_at": f"2020-01-01T{n // 60:02}:{n % 60:02}:00Z",
            "value": 12.0,
            "unit": "weeks",
        }
        for n in range(first, first + count)
    ]


def _refused(answer: httpx.Response) -> None:
    assert answer.status_code == 429, answer.text
    assert answer.json()["type"] == "/problems/too-many-requests"
    assert answer.json()["retryable"] is True
    assert int(answer.headers["retry-after"]) > 0
    assert "ratelimit-policy" in answer.headers


async def test_signals_are_counted_and_not_requests_and_each_key_for_itself(
    service: FastAPI, caller: Caller
) -> None:
    service.state.house.quotas = Quotas(Quota("signals", "signals", 10), None)
    aurora, baltica = await caller("aurora"), await caller("baltica")
    first = await aurora.post("/v1/signals", json=lead_times(7))
    assert first.status_code == 200, first.text
    assert first.headers["ratelimit-policy"] == '"signals";q=10;w=60;qu="signals"'
    assert first.headers["ratelimit"].startswith('"signals";r=3;t=')
    _refused(await aurora.post("/v1/signals", json=lead_times(4, 7)))
    second = await aurora.post("/v1/signals", json=lead_times(3, 7))
    assert second.status_code == 200, second.text
    _refused(await aurora.post("/v1/signals", content=b"no JSON is read of who has used it up"))
    assert (await baltica.post("/v1/signals", json=lead_times(10))).status_code == 200
    read = await aurora.get("/v1/alerts")
    assert read.status_code == 200
    assert "ratelimit" not in read.headers, "reading costs nothing"
    wrong = await baltica.get("/v1/signals/retract")
    assert wrong.status_code == 405


async def test_signals_that_are_not_stored_because_the_database_is_away_cost_nothing(
    service: FastAPI, caller: Caller
) -> None:
    here = service.state.house
    here.quotas = Quotas(Quota("signals", "signals", 10), None)
    aurora = await caller("aurora")
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    here.intake, at_home = Intake(away, here.policy), here.intake
    for _ in range(2):
        refused = await aurora.post("/v1/signals", json=lead_times(10))
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/database-away")
    await away.close()
    here.intake = at_home
    assert (await aurora.post("/v1/signals", json=lead_times(10))).status_code == 200


async def test_other_writing_has_a_quota_of_its_own(service: FastAPI, caller: Caller) -> None:
    service.state.house.quotas = Quotas(None, Quota("writes", "requests", 2))
    aurora = await caller("aurora")
    for remains in (1, 0):
        answer = await aurora.post("/v1/subscriptions", json={"url": "no address"})
        assert answer.status_code == 422
        assert answer.headers["ratelimit"].startswith(f'"writes";r={remains};t=')
        assert answer.headers["ratelimit-policy"] == '"writes";q=2;w=60;qu="requests"'
    _refused(await aurora.post("/v1/subscriptions", json={"url": "no address"}))
    _refused(await aurora.delete("/v1/subscriptions/none"))
    assert (await aurora.post("/v1/signals", json=lead_times(5))).status_code == 200
    assert (await aurora.get("/v1/subscriptions")).status_code == 200


async def test_as_the_service_comes_signals_have_no_quota_and_other_writing_a_wide_one(
    service: FastAPI, caller: Caller
) -> None:
    aurora = await caller("aurora")
    assert "ratelimit" not in (await aurora.post("/v1/signals", json=lead_times(1))).headers
    answer = await aurora.delete("/v1/subscriptions/none")
    assert answer.headers["ratelimit-policy"] == '"writes";q=6000;w=60;qu="requests"'
