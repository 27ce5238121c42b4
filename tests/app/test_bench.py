"""The bench on a tiny plan: its lines are well formed, and its numbers are numbers."""

from __future__ import annotations

import json
import math
import subprocess
import time
import typing
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from alerts import detectors
from alerts.rules import Measured
from app import documents
from app.bench import (
    accepting,
    bed,
    delivering,
    holding,
    judging,
    measures,
    page,
    peer,
    plain,
    questions,
    workload,
)
from app.bench.bed import Bed
from app.bench.lines import BenchFailed, Line, compare, quantile
from app.bench.plan import TINY, Plan
from app.cli import app as command_line
from app.cli.bench import bench
from app.demo import processes
from app.policy import Policy

FIELDS = ["measure", "case", "value", "unit", "limit", "ratio", "peer", "runs", "low", "high"]


@pytest.fixture(scope="module")
def tiny() -> Iterator[Bed]:
    """One bed for all measures: a real service, its own PostgreSQL, a hand, an echo and a sink."""
    with bed.make(TINY) as made:
        yield made


def occasion() -> page.Occasion:
    at = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
    return page.Occasion(at, Plan(), 0.5, 2.5, "forewarn bench all")


def check(lines: list[Line], measure: str, *units: str) -> None:
    for line in lines:
        said = json.loads(json.dumps(line.document()))
        assert list(said) == FIELDS
        assert (said["measure"], said["runs"]) == (measure, TINY.runs)
        assert said["unit"] in units
        assert said["peer"] is None
        assert 0 < said["low"] <= said["value"] <= said["high"] < math.inf
        if said["limit"] is not None:
            assert said["ratio"] == pytest.approx(said["value"] / said["limit"], rel=0.01)


def test_ingest_stands_beside_a_bare_insert_and_a_bare_echo(tiny: Bed) -> None:
    ticked: list[None] = []
    lines = list(accepting.ingest(tiny, lambda: ticked.append(None)))
    check(lines, "ingest", "signals/s")
    assert len(lines) == 3 * len(TINY.batches) * len(TINY.connections)
    assert lines[0].case == "batch 1, 1 connection, beside bare insert"
    assert lines[-1].case == "batch 50, 2 connections, beside bare echo"
    assert len(ticked) == measures.ticks(["ingest"], TINY)


def test_single_stands_beside_a_bare_commit(tiny: Bed) -> None:
    lines = list(accepting.single(tiny, lambda: None))
    check(lines, "single", "ms")
    assert lines[0].value <= lines[1].value, "the p50 is above the p99"


def test_latency_is_taken_until_another_process_has_the_webhook(tiny: Bed) -> None:
    lines = list(accepting.latency(tiny, lambda: None))
    check(lines, "latency", "ms", "signals/s")
    assert [line.case.removesuffix(", beside bare echo and send") for line in lines] == [
        "idle p50",
        "idle p99",
        "100 signals/s in batches of 10, p50",
        "100 signals/s in batches of 10, p99",
        "100 signals/s in batches of 10, reached",
    ]
    assert lines[0].value <= lines[1].value, "the p50 is above the p99"


def test_crisis_stands_beside_the_rate_of_calm(tiny: Bed) -> None:
    """Two beds are two services; that both sides are the same one here does not change the lines."""
    ticked: list[None] = []
    lines = list(accepting.crisis(tiny, tiny, lambda: ticked.append(None)))
    check(lines, "crisis", "signals/s")
    assert [line.case for line in lines] == [
        "batch 50, 1 series in 100 fire, beside none",
        "batch 50, 20 series in 100 fire, beside none",
    ]
    assert len(ticked) == measures.ticks(["crisis"], TINY)
    assert tiny.sql("SELECT count(*) FROM alerts WHERE state = 'open' AND exercise = ''") >= 20


def test_deliver_sends_everything_that_is_owed_to_each_receiver(tiny: Bed) -> None:
    ticked: list[None] = []
    before = tiny.ask("GET", "/v1/alerts?limit=1")
    lines = list(delivering.deliver(tiny, lambda: ticked.append(None)))
    check(lines, "deliver", "deliveries/s", "µs/delivery", "MB", "ms")
    beside_bare = [line for line in lines if line.unit in {"deliveries/s", "ms"}]
    assert [line.case for line in beside_bare if "UPDATE" not in line.case] == [
        f"{case}, beside bare signed sending"
        for case in (
            "1 receiver",
            "2 receivers",
            "storm of 20 alerts, 1 receiver",
            "one alert to 6 subscriptions",
            "1 receiver, two processes",
            "2 receivers, two processes",
        )
    ]
    assert len(ticked) == measures.ticks(["deliver"], TINY)
    assert tiny.ask("GET", "/v1/alerts?limit=1") != before


def test_scale_stands_beside_one_process(tiny: Bed) -> None:
    ticked: list[None] = []
    lines = list(delivering.scale(tiny, lambda: ticked.append(None)))
    check(lines, "scale", "signals/s", "deliveries/s")
    assert [line.case for line in lines] == [
        "batch 50, 16 connections, 1 process",
        "batch 50, 16 connections, 2 processes, beside 1",
        "batch 1, 64 connections, 1 process",
        "batch 1, 64 connections, 2 processes, beside 1",
        "2 receivers, 1 process",
        "2 receivers, 2 processes, beside 1",
    ]
    assert len(ticked) == measures.ticks(["scale"], TINY)


def test_flat_stands_beside_the_rate_with_little_stored(tiny: Bed) -> None:
    """Two beds are two services; that both sides are the same one here does not change the lines."""
    ticked: list[None] = []
    before = tiny.sql("SELECT count(*) FROM signals")
    lines = list(holding.flat(tiny, tiny, lambda: ticked.append(None)))
    check(lines, "flat", "signals/s", "ms", "bytes/signal")
    assert [line.limit is None for line in lines] == [True, False] * 4 + [True, True]
    assert len(ticked) == measures.ticks(["flat"], TINY)
    old = "SELECT count(*) FROM signals WHERE observed_at < now() - interval '30 days'"
    assert tiny.sql(old) == tiny.plan.stored[-1] - tiny.plan.series * tiny.plan.samples
    assert tiny.sql("SELECT count(*) FROM signals") > before + tiny.sql(old)
    counted = "SELECT sum(observations)::bigint FROM series_state"
    assert tiny.sql(counted) == tiny.sql("SELECT count(*) FROM signals")


def test_reads_and_memory_are_taken_while_alerts_are_open_and_deliveries_owed(tiny: Bed) -> None:
    ticked: list[None] = []
    burden = holding.fill(tiny)
    assert (burden.alerts, burden.owed) == (20, 40)
    check(list(holding.reads(tiny, burden, lambda: ticked.append(None))), "reads", "ms")
    lines = list(holding.memory(tiny, burden, lambda: ticked.append(None)))
    check(lines, "memory", "MB", "s")
    assert len(ticked) == measures.ticks(["reads", "memory"], TINY) - 1


def test_a_peer_that_is_not_installed_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer, "PROGRAM", "forewarn-no-such-program")
    refused = CliRunner().invoke(command_line, ["bench", "single", "--peer", "alertmanager"])
    assert isinstance(refused.exception, BenchFailed)
    assert str(refused.exception).startswith("There is no program forewarn-no-such-program")


def test_judge_stands_beside_a_plain_loop_and_beside_a_short_history() -> None:
    """It needs no service. That every signal is calm is asserted where the engine is called."""
    ticked: list[None] = []
    with bed.hand() as hand:
        lines = list(measures.judge(hand, TINY, lambda: ticked.append(None)))
    check(lines, "judge", "µs")
    assert [line.case for line in lines if line.case.startswith("10 ")] == [
        "10 rules (one of each kind), 100 held, batch 1, beside a plain loop",
        "10 rules (one of each kind), 200 held, batch 1, beside a plain loop",
        "10 rules (one of each kind), 5,000 held, batch 1, beside a plain loop",
        "10 rules (one of each kind), 200 held, batch 5, beside a plain loop",
        "10 rules (one of each kind), 5,000 held, batch 1, beside 100",
    ]
    by_case = {line.case: line for line in lines}
    few, flat = (by_case[lines[place].case] for place in (0, -2))
    assert flat.limit == few.value
    assert len(ticked) == measures.ticks(["judge"], TINY)


@pytest.mark.parametrize(
    "detector",
    [one for turn in range(5) for one in questions.each(turn)],
    ids=lambda detector: detector.kind,
)
@pytest.mark.parametrize("held", [100, 1_500], ids="{} held".format)
def test_the_plain_loop_computes_the_numbers_of_the_engine(detector: Measured, held: int) -> None:
    """Otherwise the ratio of `judge` would compare two different things."""
    reported = judging.samples(held)
    window = [next(reported) for _ in range(held)]
    formula, views = plain.formula(detector), detectors.views_of(detector)
    for _ in range(10):
        reading = detectors.read(detector, window, views=views)
        told = formula([s.at for s in window], [s.value for s in window])
        assert not reading.undefined
        assert told == pytest.approx(reading.compared, rel=1e-9, abs=1e-12)
        window.append(next(reported))


def test_the_engine_is_given_what_the_service_would_remember_however_much_is_held() -> None:
    """And the page says how much that is."""
    lengths = {}
    for rules in questions.MIXES:
        assert len(questions.rules(rules)) == rules
        assert len(judging.prepare(rules, 100, 1).window) <= 100
        lengths[rules] = {len(judging.prepare(rules, held, 1).window) for held in (3_000, 9_000)}
    assert lengths == {1: {57}, 2: {57}, 10: {543}, 50: {959}}
    text = " ".join(page.markdown([compare("judge", "case", "µs", [1.0])], occasion()).split())
    assert "newest 57 samples for the first two" in text
    assert "543 and 959 for the others" in text


def test_a_series_of_the_engine_has_as_many_samples_as_it_says_each_later_than_the_one_before() -> (
    None
):
    reported = judging.samples(2_500)
    at = [next(reported).at for _ in range(2_510)]
    assert at == sorted(set(at))
    assert {later - earlier for earlier, later in pairwise(at[-2_010:])} == {timedelta(weeks=1)}
    assert {later - earlier for earlier, later in pairwise(at[:500])} == {timedelta(hours=1)}


def test_every_signal_of_the_bench_is_judged_by_two_rules_and_is_calm(tiny: Bed) -> None:
    """Otherwise `ingest` would measure something else than it says."""
    catalogue = documents.load_catalogue()
    files = [*documents.shipped_profiles(), *workload.PROFILES.iterdir()]
    profiles = [documents.load_profile(file, catalogue) for file in files]
    policy = Policy(catalogue, {profile.id: profile for profile in profiles})
    for key in workload.series(workload.MOST_SERIES):
        brief = policy.brief(key)
        assert [profile.id for profile, _ in brief.questions] == ["bench", "bench"]
        assert not brief.joint
    # Those who measure mark the first ones, the last ones, and one or two between.
    calm = workload.series(TINY.series)[TINY.series // 2]
    alerts = tiny.ask("GET", f"/v1/alerts?good={calm.good}&place={calm.place}")
    assert [a for a in alerts["items"] if (a["good"], a["place"]) == (calm.good, calm.place)] == []


def test_a_refused_signal_ends_the_bench_with_a_sentence(tiny: Bed) -> None:
    with pytest.raises(BenchFailed, match="not accepted: 404"):
        tiny.post(f"{tiny.service}/v1/nothing", batch=1, connections=1, seconds=0.1)


def test_the_command_knows_every_measure() -> None:
    named = typing.get_args(typing.get_args(typing.get_type_hints(bench)["measure"])[0])
    assert not named or set(named) == {"all", *measures.NAMES}
    refused = CliRunner().invoke(command_line, ["bench", "speed"])
    assert refused.exit_code == 2


def test_ten_thousand_series_are_different_and_the_same_in_every_process() -> None:
    keys = workload.series(Plan().series)
    assert len(set(keys)) == workload.MOST_SERIES == Plan().series
    assert keys == workload.series(Plan().series)


def test_a_line_has_the_medians_and_their_ratio() -> None:
    line = compare("single", "p50", "ms", [3.0, 1.0, 2.0], [1.0, 0.5, 4.0])
    assert (line.value, line.limit, line.ratio, line.low, line.high) == (2.0, 1.0, 2.0, 1.0, 3.0)
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert quantile([1.0], 0.99) == 1.0


def test_the_page_has_machine_versions_date_and_every_line() -> None:
    lines = [
        compare(name, f"case of {name}", "ms", [1.0, 2.0, 3.0], [4.0]) for name in measures.NAMES
    ]
    text = page.markdown(lines, occasion())
    for expected in ("2026-11-23 10:00 UTC", "Python 3.", "fastapi ", "cores", "0.50, 2.50"):
        assert expected in text
    for line in lines:
        assert f"| {line.case} | 2.00 | 1.00 to 3.00 | 4.00 | 0.50 |" in text
    assert str(Path.cwd()) not in text


def test_a_bench_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        processes.forewarn("bench", "ingest", "--json"),
        cwd=tmp_path,
        env=processes.outside() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while not (begun := [p for p in _about(tmp_path) if "app.bench.hand" in p.cmdline()]):
        assert process.poll() is None
        assert time.monotonic() < until, "the bench did not begin"
        time.sleep(0.1)
    begun += _about(tmp_path)
    process.terminate()
    assert process.wait(timeout=60) != 0
    _, left = psutil.wait_procs(begun, timeout=20)
    for one in left:
        one.kill()
    assert left == []
    assert list(tmp_path.iterdir()) == []


def _about(folder: Path) -> list[psutil.Process]:
    """The processes that work in a folder, and PostgreSQL below it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder) or str(folder) in " ".join(process.cmdline()):
                found.append(process)
    return found
