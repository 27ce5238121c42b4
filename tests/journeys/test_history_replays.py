"""History through the front door: what the service would have said, as a timetable for each story.

Observable oracles (asserted on, and nothing else): ``GET /v1/alerts`` with one alert's page and
timeline, and the webhooks that a receiver process verified with the reference library. The rows
are those the demo replays; what a test adds to them is named *supposed*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from app.demo import history
from app.demo.history import Row
from tests.journeys.town import AURORA, BALTICA, Town

Shown = dict[str, Any]

LEVELS_OF_PEOPLE = {"disruption", "crisis"}


@dataclass(slots=True)
class Story:
    """The alerts of a few goods as they were shown after each day that something became known."""

    town: Town
    goods: tuple[str, ...]
    days: dict[str, dict[str, Shown | None]] = field(default_factory=dict)

    def play(self, rows: Sequence[Row]) -> None:
        """Posts the rows day by day, and keeps what is shown after each."""
        for row in rows:
            self.town.post(row.partner, row.body)
            self.look(f"{row.known_at:%Y-%m-%d}")

    def suppose(self, day: str, **body: Any) -> None:
        """Posts an observation that history does not know, as aurora."""
        observed = {"sector": "semiconductors", "observed_at": f"{day}T00:00:00Z", **body}
        self.town.post(AURORA, observed)
        self.look(day)

    def look(self, day: str) -> None:
        self.days[day] = {good: self.town.alert_of(good) for good in self.goods}

    def on(self, day: str, good: str) -> Shown:
        """The alert of a good as shown at the end of that day."""
        shown = self.days[day][good]
        assert shown is not None, f"no alert of {good} on {day}"
        return shown

    def timeline(self, good: str) -> list[Shown]:
        """The transitions of a good's alert."""
        alert = self.town.alert_of(good)
        assert alert is not None
        return self.town.clients[BALTICA].timeline(str(alert["ref"]))


def finding(alert: Shown, word: str) -> Shown:
    """The one finding of an alert whose rule's name has that word."""
    found = [f for f in alert["findings"] if word in f["rule"]]
    assert len(found) == 1, f"{word}: {alert['findings']}"
    return dict(found[0])


def recommended(alert: Shown) -> str | None:
    advice = alert["recommendation"]
    return None if advice is None else str(advice["level"])


# ---- gallium and germanium, 2022 to 2024 -------------------------------------------------------


@pytest.fixture(scope="module")
def metals(town: Town) -> Story:
    story = Story(town, ("gallium", "germanium"))
    rows = history.read(["events.csv", "gallium_germanium.csv", "prices.csv"])
    story.play([row for row in rows if row.body["good"] in story.goods])
    return story


@pytest.mark.parametrize("good", ["gallium", "germanium"])
def test_an_announced_export_control_opens_an_early_warning_at_once(
    metals: Story, good: str
) -> None:
    assert metals.days["2023-06-30"][good] is None
    alert = metals.on("2023-07-03", good)
    assert (alert["level"], alert["state"], alert["severity"]) == (
        "early_warning",
        "open",
        "severe",
    )
    assert alert["opened_at"].startswith("2023-07-03")
    told = metals.town.hear(alert["ref"], "alert.opened", within_seconds=60)
    assert told["severity"] == "severe"


def test_gallium_is_recommended_for_its_single_supplier_and_germanium_at_the_boundary_is_not(
    metals: Story,
) -> None:
    assert recommended(metals.on("2023-07-03", "gallium")) == "disruption"
    assert recommended(metals.on("2023-07-03", "germanium")) is None


@pytest.mark.parametrize("good", ["gallium", "germanium"])
def test_the_effective_date_is_a_follow_up_and_changes_no_level(metals: Story, good: str) -> None:
    steps = [step for step in metals.timeline(good) if "takes effect" in step["reason"]]
    assert [(step["type"], step["at"][:10]) for step in steps] == [("alert.updated", "2023-08-01")]
    assert steps[0]["from"] == steps[0]["to"] == "early_warning"


@pytest.mark.parametrize("good", ["gallium", "germanium"])
def test_no_exports_in_august_are_severe_and_recommend_more_for_both(
    metals: Story, good: str
) -> None:
    alert = metals.on("2023-09-20", good)
    volume = finding(alert, "export-volume")
    assert (volume["state"], volume["severity"], volume["value"]) == ("firing", "severe", 0)
    assert recommended(alert) == "disruption"


def test_forty_per_cent_more_is_a_moderate_price(metals: Story) -> None:
    assert finding(metals.on("2023-10-31", "gallium"), "price")["severity"] == "moderate"


@pytest.mark.parametrize(
    ("good", "reason"),
    [
        ("gallium", "-72.7 % is back above the raise of -80 % but not past the clear of -50 %"),
        ("germanium", "-86.9 % is beyond the raise"),
    ],
)
def test_both_stay_severe_on_the_figures_of_november(metals: Story, good: str, reason: str) -> None:
    volume = finding(metals.on("2023-12-20", good), "export-volume")
    assert (volume["state"], volume["severity"]) == ("firing", "severe"), reason


def test_a_month_without_one_to_compare_with_is_not_judged_and_clears_nothing(
    metals: Story,
) -> None:
    volume = finding(metals.on("2024-05-20", "gallium"), "export-volume")
    assert (volume["state"], volume["severity"]) == ("not_evaluable", "severe")


def test_one_good_month_of_gallium_is_a_recovery_begun_and_no_more(metals: Story) -> None:
    volume = finding(metals.on("2024-06-20", "gallium"), "export-volume")
    assert (volume["state"], volume["severity"]) == ("recovering", "severe")


def test_germanium_stays_severe_in_may_2024(metals: Story) -> None:
    volume = finding(metals.on("2024-06-20", "germanium"), "export-volume")
    assert (volume["state"], volume["severity"]) == ("firing", "severe"), "-57 % is not past -50 %"


def test_gallium_stays_open_on_its_price_against_the_baseline_of_before(metals: Story) -> None:
    alert = metals.on("2024-08-27", "gallium")
    assert alert["state"] == "open"
    assert finding(alert, "price")["severity"] == "severe"


def test_supposed_good_months_ease_gallium_one_band_at_a_time_while_its_price_keeps_it_open(
    metals: Story,
) -> None:
    volume = {"indicator": "export_volume", "good": "gallium", "place": "CN", "unit": "kg"}
    price = {"indicator": "price_index", "good": "gallium", "unit": "index"}
    metals.suppose("2024-08-31", value=8_000, **volume)  # the second good month after May
    assert finding(metals.on("2024-08-31", "gallium"), "export-volume")["severity"] == "moderate"
    metals.suppose("2024-10-31", value=8_000, **volume)
    metals.suppose("2024-11-30", value=6_000, **volume)  # two more
    back = finding(metals.on("2024-11-30", "gallium"), "export-volume")
    assert (back["state"], back["severity"]) == ("ok", "none")
    for day in ("2024-09-30", "2024-10-30", "2024-11-29", "2024-12-30", "2025-01-29"):
        metals.suppose(day, value=195, **price)
    alert = metals.on("2025-01-29", "gallium")
    assert (alert["state"], alert["severity"]) == ("open", "severe")
    assert finding(alert, "price")["severity"] == "severe", (
        "five months at 195 are not a new normal"
    )


@pytest.mark.parametrize("good", ["gallium", "germanium"])
def test_the_engine_alone_never_sets_a_level_that_people_set(metals: Story, good: str) -> None:
    assert not {step["to"] for step in metals.timeline(good)} & LEVELS_OF_PEOPLE


# ---- chip lead times, 2020 to 2022 -------------------------------------------------------------


@pytest.fixture(scope="module")
def chips(town: Town) -> Story:
    story = Story(town, ("chips",))
    story.play(history.read(["lead_times.csv"]))
    return story


def test_lead_times_rise_from_nothing_to_severe_as_they_did(chips: Story) -> None:
    shown = {day: alerts["chips"] for day, alerts in chips.days.items()}
    severities = {day: None if alert is None else alert["severity"] for day, alert in shown.items()}
    assert severities == {
        "2020-10-31": None,
        "2021-02-28": "minor",  # above 14
        "2021-03-31": "moderate",  # 16
        "2021-04-30": "moderate",  # 17
        "2022-03-31": "severe",  # 26.6
        "2022-04-30": "severe",  # March 2021 revised
        "2022-08-31": "severe",  # 26.8
        "2022-09-30": "severe",  # 26.3
    }


def test_the_revision_of_march_2021_is_told_and_moves_no_severity(chips: Story) -> None:
    before, after = chips.on("2022-03-31", "chips"), chips.on("2022-04-30", "chips")
    assert after["severity"] == before["severity"]
    told = chips.town.hear(str(after["ref"]), "alert.updated", within_seconds=30)
    assert "revised" in told["reason"].lower()


def test_lead_times_alone_recommend_nothing(chips: Story) -> None:
    assert recommended(chips.on("2022-09-30", "chips")) is None


# ---- a maker of discretes, autumn 2025 ---------------------------------------------------------


@pytest.fixture(scope="module")
def discretes(town: Town) -> Story:
    story = Story(town, ("discretes",))
    story.play([row for row in history.read(["events.csv"]) if row.body["good"] == "discretes"])
    return story


def test_an_order_over_one_firm_opens_an_early_warning_on_its_first_day(discretes: Story) -> None:
    alert = discretes.on("2025-09-30", "discretes")
    assert (alert["level"], alert["severity"]) == ("early_warning", "severe")
    assert alert["opened_at"].startswith("2025-09-30")


def test_the_export_block_makes_the_engine_recommend_more(discretes: Story) -> None:
    assert recommended(discretes.on("2025-09-30", "discretes")) is None
    assert recommended(discretes.on("2025-10-04", "discretes")) == "disruption"


def test_a_second_party_corroborates_that_supply_is_no_longer_guaranteed(discretes: Story) -> None:
    def fires(day: str) -> bool:
        found = discretes.on(day, "discretes")["findings"]
        return any("not-guaranteed" in f["rule"] and f["state"] == "firing" for f in found)

    assert not fires("2025-10-10"), "one party's word is not enough"
    assert fires("2025-10-16")


@pytest.mark.parametrize("day", ["2025-11-09", "2025-11-19"])
def test_an_exemption_and_a_suspension_are_follow_ups(discretes: Story, day: str) -> None:
    steps = [step for step in discretes.timeline("discretes") if step["at"].startswith(day)]
    assert [step["type"] for step in steps] == ["alert.updated"]


def test_only_people_end_what_people_did(discretes: Story) -> None:
    alert = discretes.on("2025-11-19", "discretes")
    assert (alert["state"], alert["level"], alert["severity"]) == (
        "open",
        "early_warning",
        "severe",
    )


def test_a_crisis_is_never_recommended_without_people(discretes: Story) -> None:
    days = [alerts["discretes"] for alerts in discretes.days.values()]
    assert "crisis" not in {recommended(alert) for alert in days if alert is not None}


# ---- all of it ---------------------------------------------------------------------------------


def test_every_transition_reaches_the_subscriber_in_order_and_verified(
    metals: Story, chips: Story, discretes: Story
) -> None:
    for story in (metals, chips, discretes):
        for good in story.goods:
            steps = story.timeline(good)
            alert = story.town.alert_of(good)
            assert alert is not None
            heard = story.town.hear_all(str(alert["ref"]), len(steps))
            assert [told["type"] for told in heard] == [step["type"] for step in steps]
            assert all(a["sequence"] < b["sequence"] for a, b in pairwise(heard))
