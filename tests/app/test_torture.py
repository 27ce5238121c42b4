"""A short torture, and proof that its checker can fail: what it read is tampered with, and it says so."""

from __future__ import annotations

import ast
import asyncio
import copy
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from app import documents
from app.torture import checker, plan, process, running, telling
from app.torture.checker import laws, replay
from app.torture.checker.evidence import Heard, Item, Logs, Rows
from app.torture.plan import Kind
from app.torture.running import Outcome

SEED = 278

T = TypeVar("T", Logs, Rows)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """What came of a few seconds of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("torture"))
        yield asyncio.run(running.run(seed=SEED, minutes=0.2, tell=lambda _: None))


def test_a_service_that_is_killed_paused_and_cut_off_keeps_every_promise(outcome: Outcome) -> None:
    told = telling.document(outcome)
    assert told["violations"] == []
    assert list(told)[:7] == [
        "requests", "acknowledged", "kills", "lost", "duplicate_ids", "out_of_order", "violations"
    ]  # fmt: skip
    assert told["faults"] >= 3
    assert told["acknowledged"] > 20
    assert all(law.checked for law in outcome.laws)


# Tampering: each of these breaks the promise that it is named for, and the checker says so.


def _lose_a_signal(logs: Logs, rows: Rows) -> None:
    item = _acknowledged(logs)
    del rows.signals[item]


def _store_it_twice(logs: Logs, rows: Rows) -> None:
    rows.signals[_acknowledged(logs)] = 2


def _store_what_nobody_sent(_: Logs, rows: Rows) -> None:
    item = next(iter(rows.signals))
    stranger = item.observation._replace(partner="cygnus")
    rows.signals[item._replace(observation=stranger)] = 1


def _leave_a_revision_out(logs: Logs, rows: Rows) -> None:
    item = _acknowledged(logs)
    del rows.signals[item]
    rows.signals[item._replace(revision=3)] = 1


def _take_it_as_new_again(logs: Logs, _: Rows) -> None:
    asked = next(
        a for a in logs.asked if "accepted" in (*(s for n in a.answers for s in n.statuses),)
    )
    asked.answers.append(next(n for n in asked.answers if "accepted" in n.statuses))


def _answer_with_a_crash(logs: Logs, _: Rows) -> None:
    asked = next(a for a in logs.asked if a.answers)
    asked.answers.append(asked.answers[0]._replace(status=500, statuses=()))


def _change_a_finding(_: Logs, rows: Rows) -> None:
    name, (state, severity) = next(iter(rows.findings.items()))
    rows.findings[name] = state, (severity + 1) % 5


def _forget_an_alert(_: Logs, rows: Rows) -> None:
    number, alert = next((n, a) for n, a in rows.alerts.items() if a["state"] == "open")
    rows.alerts[number] = dict(alert) | {"state": "resolved"}


def _skip_a_transition(_: Logs, rows: Rows) -> None:
    first = next(t for t in rows.transitions if t["number"] == 1)
    rows.transitions[rows.transitions.index(first)] = dict(first) | {"number": 7}


def _tell_of_something_else(_: Logs, rows: Rows) -> None:
    place, told = next(
        (n, t)
        for n, t in enumerate(rows.transitions)
        if rows.alerts[t["alert_id"]]["good"] in laws.ORDERLY
    )
    rows.transitions[place] = dict(told) | {"at": told["at"] + timedelta(seconds=1)}


def _owe_nothing(logs: Logs, rows: Rows) -> None:
    rows.deliveries.remove(_of_an_alert(logs, rows))


def _owe_it_twice(logs: Logs, rows: Rows) -> None:
    rows.deliveries.append(dict(_of_an_alert(logs, rows)) | {"id": -1, "sequence": 10**6})


def _owe_it_to_somebody_else(logs: Logs, rows: Rows) -> None:
    deaf = next(w for w in logs.wishes.values() if w.filter.get("mechanisms") == ["supply-watch"])
    rows.deliveries.append(
        dict(_of_an_alert(logs, rows)) | {"subscription_id": deaf.id, "sequence": 9}
    )


def _drop_a_delivery(logs: Logs, _: Rows) -> None:
    logs.heard = [h for h in logs.heard if h.id != logs.heard[0].id]


def _say_it_was_not_delivered(_: Logs, rows: Rows) -> None:
    row = next(d for d in rows.deliveries if d["subscription_id"] in rows.subscriptions)
    rows.deliveries[rows.deliveries.index(row)] = dict(row) | {"state": "owed"}


def _send_it_under_another_id(logs: Logs, _: Rows) -> None:
    place = next(n for n, h in enumerate(logs.heard) if '"type":"alert.' in h.body)
    heard = logs.heard[place]
    logs.heard.insert(place, heard._replace(id=f"{heard.id.rpartition('_')[0]}_99999"))


def _send_another_body(logs: Logs, _: Rows) -> None:
    logs.heard.append(logs.heard[0]._replace(body=logs.heard[0].body.replace('"type"', ' "type"')))


def _swap_the_order(logs: Logs, _: Rows) -> None:
    earlier, later = _two_of_an_alert(logs.heard)
    logs.heard[earlier], logs.heard[later] = logs.heard[later], logs.heard[earlier]


def _sign_with_another_key(logs: Logs, _: Rows) -> None:
    logs.heard[0] = logs.heard[0]._replace(signature="v1,bm90IG91cnM=")


def _alter_a_change(_: Logs, rows: Rows) -> None:
    rows.audit[0] = dict(rows.audit[0]) | {"reason": "It was always so."}


def _remove_a_change(_: Logs, rows: Rows) -> None:
    del rows.audit[1]


def _forget_a_change(logs: Logs, _: Rows) -> None:
    logs.saved.append("It was acknowledged.")


TAMPERINGS: list[tuple[str, Callable[[Logs, Rows], None]]] = [
    ("stored", _lose_a_signal),
    ("stored", _store_it_twice),
    ("stored", _take_it_as_new_again),
    ("unsent", _store_what_nobody_sent),
    ("revised", _leave_a_revision_out),
    ("answered", _answer_with_a_crash),
    ("findings", _change_a_finding),
    ("alerts", _forget_an_alert),
    ("transitions", _skip_a_transition),
    ("told", _tell_of_something_else),
    ("owed", _owe_nothing),
    ("owed", _owe_it_twice),
    ("owed", _owe_it_to_somebody_else),
    ("received", _drop_a_delivery),
    ("received", _say_it_was_not_delivered),
    ("one id", _send_it_under_another_id),
    ("one id", _send_another_body),
    ("in order", _swap_the_order),
    ("signed", _sign_with_another_key),
    ("audit", _alter_a_change),
    ("audit", _remove_a_change),
    ("audit", _forget_a_change),
]


@pytest.mark.parametrize(("name", "tamper"), TAMPERINGS, ids=[t.__name__ for _, t in TAMPERINGS])
def test_the_checker_names_the_promise_that_was_broken(
    outcome: Outcome, name: str, tamper: Callable[[Logs, Rows], None]
) -> None:
    logs, rows = _copied(outcome.logs), _copied(outcome.rows)
    logs.asked = [dataclasses.replace(a, answers=list(a.answers)) for a in logs.asked]
    tamper(logs, rows)
    found = {law.name: law for law in laws.judge(logs, rows)}
    assert found[name].broken
    told = telling.document(dataclasses.replace(outcome, laws=list(found.values())))
    assert any(said.startswith(f"{name}: ") for said in told["violations"])


def _copied(one: T) -> T:
    """Whatever is in it can be replaced, and the original stays."""
    again = copy.copy(one)
    for part in dataclasses.fields(again):
        setattr(again, part.name, copy.copy(getattr(one, part.name)))
    return again


def _acknowledged(logs: Logs) -> Item:
    """One that was taken as it was first said, and never said otherwise."""
    revised = {i.observation for a in logs.asked for i in a.items if i.revision > 1}
    return next(
        a.items[0]
        for a in logs.asked
        for n in a.answers
        if n.statuses[:1] == ("accepted",) and a.items[0].observation not in revised
    )


def _of_an_alert(logs: Logs, rows: Rows) -> dict[str, object]:
    """A delivery to whoever hears everything, and subscribed before there was any load."""
    everything = next(w.id for w in logs.wishes.values() if w.filter == {"exercises": True})
    opened = {t["id"] for t in rows.transitions if t["number"] == 1}
    return next(
        dict(d)
        for d in rows.deliveries
        if d["subscription_id"] == everything and d["transition_id"] in opened
    )


def _two_of_an_alert(heard: list[Heard]) -> tuple[int, int]:
    """The places of the first two events of one alert at one endpoint, each heard for the first time."""
    seen: dict[tuple[str, str], tuple[int, str]] = {}
    for place, one in enumerate(heard):
        said = json.loads(one.body)
        if said["type"].startswith("alert."):
            event = one.id.rpartition("_")[0], said["data"]["alert"]["ref"]
            first, id = seen.setdefault(event, (place, one.id))
            if id != one.id:
                return first, place
    raise AssertionError("no alert was told of twice")


# What the torture stands on


def test_the_checker_imports_nothing_of_what_it_checks() -> None:
    for file in Path(str(checker.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                own = name.startswith("app.torture.checker")
                known = name.split(".", maxsplit=1)[0] in {*sys.stdlib_module_names, "asyncpg"}
                assert own or known, f"{file.name} imports {name}"


def test_the_checker_has_the_numbers_of_the_profile() -> None:
    file = Path(running.__file__).parent / "profiles" / "torture.yaml"
    profile = documents.load_profile(file, documents.load_catalogue())
    assert timedelta(days=profile.closing.hold_days) == replay.HOLD
    assert profile.closing.fresh_observations == replay.FRESH
    asked = {rule.indicators[0]: rule for rule in profile.rules}
    assert {code: asked[code].id for code in replay.EVENTS} == replay.EVENTS
    for code, ask in replay.MEASURED.items():
        rule = asked.pop(code)
        bands = tuple((int(b.severity), b.raise_at, b.clear_at) for b in rule.detector.bands)  # type: ignore[union-attr]
        found = rule.id, bands, rule.raise_after, rule.clear_after
        assert found == tuple(ask)
    assert set(asked) == set(replay.EVENTS)


def test_the_same_seed_plans_the_same_faults_and_everything_is_among_them() -> None:
    faults = plan.plan(7, 40, lease_seconds=2)
    assert faults == plan.plan(7, 40, lease_seconds=2)
    assert faults[:10] == plan.plan(7, 10, lease_seconds=2)
    assert faults != plan.plan(8, 40, lease_seconds=2)
    assert {fault.kind for fault in faults} == set(Kind)
    pauses = [fault.seconds for fault in faults if fault.kind is Kind.pause_service]
    assert min(pauses) > 2, "others take over what it holds"


def test_a_stepped_clock_changes_now_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text("-3600")
    instants = process.step_by(file)
    now = datetime.now(UTC)
    assert abs(instants.now(UTC) - (now - timedelta(hours=1))) < timedelta(minutes=1)
    assert isinstance(now, instants)
    assert instants(2026, 1, 2, tzinfo=UTC) == datetime(2026, 1, 2, tzinfo=UTC)
    assert type(instants.now(UTC)) is datetime
    assert instants.fromtimestamp(0, UTC) == datetime(1970, 1, 1, tzinfo=UTC)
