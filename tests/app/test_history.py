"""The history that ships: every row can be reported, and every file says where it comes from."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from alerts import catalogue, detectors, signals
from alerts.rules import PercentChange
from alerts.signals import Sample, Severity
from app import documents
from app.demo import history

NAMES = [file.name for file in history.files()]
README = (history.FOLDER / "README.md").read_text(encoding="utf-8")


def section_of(name: str) -> str:
    """What the README says of one file."""
    found = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


def test_the_files_are_the_six_that_the_replay_needs() -> None:
    assert NAMES == [
        "chokepoints.csv",
        "events.csv",
        "gallium_germanium.csv",
        "gscpi.csv",
        "lead_times.csv",
        "prices.csv",
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("word", ["**Publisher:**", "**Copied:**", "**Terms:**", "https://"])
def test_every_file_names_its_provenance(name: str, word: str) -> None:
    assert word in section_of(name), f"README.md says nothing of {word} for {name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_row_can_be_reported_as_the_catalogue_has_it(name: str) -> None:
    known = documents.load_catalogue()
    for row in history.read([name]):
        body = row.body
        value = body.get("value")
        faults = catalogue.faults(
            known,
            str(body["sector"]),
            indicator=str(body.get("indicator", "")),
            event=str(body.get("event", "")),
            good=str(body.get("good", "")),
            place=str(body.get("place", "")),
            unit=str(body["unit"]) if "unit" in body else None,
            value=float(value) if value is not None else None,
        )
        assert not faults, f"{name}, line {row.line}: {faults}"
        assert body["origin"] in {str(o) for o in signals.Origin}
        assert body.get("severity", "none") in signals.Severity.__members__
        assert datetime.fromisoformat(str(body["observed_at"])).tzinfo is not None
        assert row.known_at <= datetime.now(UTC), "nothing of the past may lie in the future"


def test_no_signal_is_there_twice() -> None:
    named = ("sector", "indicator", "event", "good", "place", "observed_at", "revision")
    keys = Counter(tuple(row.body.get(name, "") for name in named) for row in history.read())
    # Two partners report one event on different days; nothing is reported twice.
    assert [key for key, times in keys.items() if times > 1] == []


def test_history_is_played_in_the_order_it_became_known() -> None:
    rows = [row for batch in history.batches(history.read()) for row in batch.rows]
    assert rows == history.read()
    assert all(earlier.known_at <= later.known_at for earlier, later in pairwise(rows))


def test_a_batch_is_one_partner_within_one_month() -> None:
    for batch in history.batches(history.read()):
        assert {row.partner for row in batch.rows} == {batch.partner}
        assert {row.month for row in batch.rows} == {batch.month}
        assert len(batch.rows) <= 1_000


def test_a_value_that_nobody_published_says_so() -> None:
    assumed = [row for row in history.read() if row.body["origin"] == "assessment"]
    assert assumed
    assert all(re.search(r"not a reported|assumed", str(row.body["note"])) for row in assumed)


def test_a_revision_is_known_after_what_it_revises() -> None:
    first, again = [
        row
        for row in history.read(["lead_times.csv"])
        if str(row.body["observed_at"]).startswith("2021-03")
    ]
    assert (first.body["value"], again.body["value"], again.body["revision"]) == (16.0, 18.1, 2)
    assert first.known_at < again.known_at


def test_an_unreadable_row_names_its_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "sector,indicator,observed_at,value,unit,partner,origin"
    good = (
        "shipping,chokepoint_transits,2020-01-01T00:00:00Z,50,transits/day,aurora statistics,sensor"
    )
    (tmp_path / "odd.csv").write_text(f"{header}\n{good}\n{good.replace('50', 'many')}\n")
    monkeypatch.setattr(history, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"odd\.csv, line 3: .*many"):
        history.read()


def test_with_a_moving_baseline_the_price_of_gallium_would_have_been_forgotten() -> None:
    """The negative of what the journeys assert: 195 for five months becomes its own normal."""
    profile = documents.load_profile(documents.PROFILES_DIR / "ttc-semiconductors.yaml")
    price = next(rule.detector for rule in profile.rules if rule.id == "price")
    assert isinstance(price, PercentChange)
    window = [
        Sample(datetime.fromisoformat(str(row.body["observed_at"])), float(row.body["value"]))
        for row in history.read(["prices.csv"])
        if row.body["good"] == "gallium"
    ]
    window += [Sample(window[-1].at + timedelta(days=30 * n), 195.0) for n in range(1, 6)]
    announced = datetime(2023, 7, 3, tzinfo=UTC)
    assert detectors.read(price, window, frozen_at=announced).raised is Severity.severe
    assert detectors.read(price, window, frozen_at=None).held is Severity.none
