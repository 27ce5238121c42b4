"""The skill page: its data are sound and told of, its figures are those the engine gives now."""

from __future__ import annotations

import csv
import json
import re
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from alerts import skill as scoring
from alerts.rules import Agreement, towards
from alerts.signals import SeriesKey
from alerts.skill import Cadence, Kind, Outcome, Verdict
from app import documents
from app import skill as skills
from app.demo import history
from app.skill import choosing, made_up, methods, page, plays, recorded
from app.skill.methods import Point
from app.skill.plays import Play, Played

PAGE = Path(__file__).parents[2] / "docs" / "skill.md"
PROFILE = skills.shipped()

SCORED = {
    ("SEMI-2011-TOHOKU", "gscpi"),
    ("ALL-2020-COVID1", "gscpi"),
    ("ALL-2020-COVID2", "gscpi"),
    ("SEMI-2020-SHORTAGE", "gscpi"),
    ("SEMI-2020-SHORTAGE", "inventory"),
    ("SEMI-2020-SHORTAGE", "inventory_sales_ratio"),
    ("SEMI-2021-MALAYSIA", "industrial_production"),
    ("ALL-2022-SHANGHAI", "gscpi"),
    ("SHIP-2021-EVERGIVEN", "chokepoint_transits"),
    ("SHIP-2021-EVERGIVEN-BAB", "chokepoint_transits"),
    ("SHIP-2023-REDSEA", "chokepoint_transits"),
    ("SHIP-2023-REDSEA-SUEZ", "chokepoint_transits"),
}


@pytest.fixture(scope="module")
def final() -> Played:
    """The profile on recorded history, by the last vintage."""
    return plays.play_one(Play("recorded", PROFILE))


@pytest.fixture(scope="module")
def as_of() -> Played:
    """The profile on recorded history, every vintage when it came out."""
    return plays.play_one(Play("recorded", PROFILE, as_of=True))


def opened(played: Played, label: str, series: SeriesKey) -> date:
    pair = next(p for p in played.score.pairs if (p.label.id, p.series) == (label, series))
    assert pair.outcome is Outcome.hit, pair.why
    assert pair.episode is not None
    return pair.episode.opened.date()


def section(title: str) -> str:
    """A part of the committed page, without its heading."""
    text = PAGE.read_text(encoding="utf-8")
    parts = (part.partition("\n") for part in f"\n{text}".split("\n## "))
    return {name: told for name, _, told in parts}[title]


# What is asked of the profile by name.


@pytest.mark.parametrize("basis", ["final", "as_of"])
def test_ten_of_twelve_pairs_are_hit_with_few_false_episodes_and_none_on_the_control(
    basis: str, request: pytest.FixtureRequest
) -> None:
    score = request.getfixturevalue(basis).score
    assert {(p.label.id, p.series.indicator) for p in score.pairs} == SCORED
    assert score.hits >= 10
    assert score.false_per_series_year <= 0.05
    controls = [j for j in score.episodes if j.label == "SHIP-2021-MALACCA-ARTEFACT"]
    assert controls == []


@pytest.mark.parametrize("basis", ["final", "as_of"])
@pytest.mark.parametrize(
    ("label", "series", "latest"),
    [
        ("SHIP-2021-EVERGIVEN", page.SUEZ, date(2021, 3, 25)),
        ("SHIP-2023-REDSEA", page.BAB_EL_MANDEB, date(2024, 1, 1)),
        ("SHIP-2023-REDSEA-SUEZ", page.SUEZ, date(2024, 1, 12)),
        ("SEMI-2020-SHORTAGE", page.INVENTORY, date(2021, 3, 1)),
    ],
    ids=["Ever Given", "Red Sea at Bab el-Mandeb", "Red Sea at Suez", "chip shortage"],
)
def test_the_great_disruptions_are_observed_in_time(
    label: str, series: SeriesKey, latest: date, basis: str, request: pytest.FixtureRequest
) -> None:
    assert opened(request.getfixturevalue(basis), label, series) <= latest


@pytest.mark.parametrize("vintage", recorded.VINTAGES)
def test_the_chip_shortage_is_seen_in_march_2021_in_every_vintage(vintage: str) -> None:
    played = plays.play_one(Play("recorded", PROFILE, vintage=vintage))
    assert list(played.by_series) == [page.INVENTORY]
    assert opened(played, "SEMI-2020-SHORTAGE", page.INVENTORY) <= date(2021, 3, 1)


def test_the_scores_of_single_series_add_up_to_the_score_of_all(final: Played) -> None:
    parts = choosing.tally(final.by_series.values())
    assert (parts.hits, parts.pairs, parts.false) == (
        final.score.hits,
        len(final.score.pairs),
        final.score.false_episodes,
    )
    assert parts.years == pytest.approx(final.score.series_years)


# The page says what the engine gives.


@pytest.mark.parametrize(
    ("title", "basis"),
    [("By the last vintage", "final"), ("As of: every vintage when it came out", "as_of")],
)
def test_the_committed_page_has_the_pairs_and_totals_of_today(
    title: str, basis: str, request: pytest.FixtureRequest
) -> None:
    score = request.getfixturevalue(basis).score
    told = section(title)
    assert "\n".join(page.pairs(score)) in told, "run make skill"
    assert page.totals(score) in told, "run make skill"


def test_the_committed_page_has_the_false_episodes_of_today(final: Played, as_of: Played) -> None:
    assert section("False episodes").strip() == "\n".join(page.false(final.score, as_of.score))


def test_the_committed_page_lists_what_the_data_cannot_see() -> None:
    assert section("What these data cannot see").strip() == "\n".join(page.unseen())


def test_the_committed_page_has_todays_figures_of_another_method() -> None:
    played = plays.play_one(Play("recorded", methods.compared(PROFILE)["EARS C2"]))
    row = " | ".join(page.compared_row("EARS C2", played))
    assert f"| {row} |" in section("Other methods on the same data")


def test_every_check_of_the_committed_page_is_met() -> None:
    rows = [r.split(" | ") for r in section("What must be so").strip().splitlines()[2:]]
    assert len(rows) == 16
    assert {row[4] for row in rows} == {"yes"}


def test_the_page_and_the_document_are_well_formed(final: Played, as_of: Played) -> None:
    """Whatever was found: here every method did as the profile does."""
    everyone = dict.fromkeys(methods.METHODS, final)
    found = skills.Found(
        PROFILE,
        final,
        as_of,
        dict.fromkeys(recorded.VINTAGES, final),
        everyone,
        {PROFILE.title: final, **everyone},
        [choosing.Choice(k, methods.GRID[0], 1, s) for k, s in final.by_series.items()],
    )
    widths: list[int] = []
    for line in page.markdown(found).splitlines():
        assert "{" not in line, line
        widths = [*widths, line.count(" | ")] if line.startswith("| ") else []
        assert len(set(widths)) <= 1, line
    told = json.loads(json.dumps(page.document(found)))
    assert {check["met"] for check in told["checks"]} == {True}
    assert told["final"]["hits"] == final.score.hits
    assert set(told["methods"]) == set(methods.METHODS)


def test_no_line_of_the_page_names_a_place_outside_the_project() -> None:
    assert not re.search(r"/(work|tmp|home)/", PAGE.read_text(encoding="utf-8"))


# The data.


def test_the_provenance_names_every_file_with_its_source_and_terms() -> None:
    told = (recorded.FOLDER / "README.md").read_text(encoding="utf-8")
    parts = {p.partition("\n")[0]: p for p in told.split("\n## ")[1:]}
    assert set(parts) == {f.name for f in recorded.files()} | {"../labels.csv"}
    for file in recorded.files():
        for word in ("**Publisher:**", "**Copied:**", "**Terms:**", "**Address:**"):
            assert word in parts[file.name], f"{file.name} lacks {word}"
        assert re.search(r"\b[0-9a-f]{40}\b", parts[file.name]), f"{file.name} lacks a commit"


def test_every_series_is_asked_of_and_no_month_comes_twice_in_a_vintage() -> None:
    catalogue = documents.load_catalogue()
    seen: set[tuple[str, ...]] = set()
    for file in recorded.files():
        with file.open(encoding="utf-8", newline="") as text:
            for cells in csv.DictReader(text):
                key = SeriesKey(*(cells[n] for n in ("sector", "indicator", "good", "place")))
                assert any(rule.asks(key) for rule in PROFILE.rules), key
                assert key.indicator in catalogue.indicators
                stamp = (*key, cells["observed_at"], cells.get("vintage", ""))
                assert stamp not in seen, stamp
                seen.add(stamp)


def test_a_later_vintage_is_known_later_and_changes_something() -> None:
    by_instant: dict[tuple[str, ...], list[tuple[str, str, str]]] = {}
    for file in recorded.files():
        with file.open(encoding="utf-8", newline="") as text:
            for cells in csv.DictReader(text):
                if "vintage" in cells:
                    found = by_instant.setdefault((file.name, cells["observed_at"]), [])
                    found.append((cells["vintage"], cells["available_at"], cells["value"]))
    for instant, vintages in by_instant.items():
        for (name, known, value), (later, known_later, changed) in pairwise(sorted(vintages)):
            assert name < later, instant
            assert known < known_later, instant
            assert value != changed, instant


def test_straits_are_those_of_the_demo() -> None:
    theirs = {
        (row.body["place"], str(row.body["observed_at"])[:10]): row.body["value"]
        for row in history.read(["chokepoints.csv"])
    }
    with (recorded.FOLDER / "chokepoints.csv").open(encoding="utf-8", newline="") as text:
        ours = {
            (cells["place"], cells["observed_at"]): float(cells["value"])
            for cells in csv.DictReader(text)
            if cells["place"] != "malacca"
        }
    assert ours == theirs


def test_labels_are_sound() -> None:
    labels = recorded.labels()
    counted = [x for x in labels if x.kind is Kind.positive and x.counts]
    assert {(x.id, x.indicator) for x in counted} == SCORED
    assert sum(x.kind is Kind.negative_control for x in labels) == 1
    assert sum(x.kind is Kind.ambiguous for x in labels) == 1
    assert len({(x.id, x.indicator, x.good, x.place) for x in labels}) == len(labels)
    catalogue = documents.load_catalogue()
    for label in labels:
        assert label.title, label.id
        assert label.indicator in catalogue.indicators, label.id
        assert label.sector in catalogue.sectors, label.id
        assert not label.place or catalogue.is_place(label.place), label.id


def test_a_label_that_cannot_be_seen_excuses_nothing(final: Played) -> None:
    hidden = {x.id for x in recorded.labels() if not x.counts}
    excused = {j.label for j in final.score.episodes if j.verdict is not Verdict.false}
    assert not hidden & excused


# Other methods and other constants.


def test_every_method_asks_each_indicator_once_and_in_the_direction_of_harm() -> None:
    asked = {code: rule for rule in reversed(PROFILE.rules) for code in rule.indicators}
    for name, profile in methods.compared(PROFILE).items():
        codes = [code for rule in profile.rules for code in rule.indicators]
        assert len(codes) == len(set(codes)), name
        lacking = set(asked) - set(codes)
        assert lacking == (methods.WITHOUT_PERCENT if name == "25 %" else set()), name
        for rule in profile.rules:
            own = asked[rule.indicators[0]]
            assert rule.detector.direction is own.detector.direction  # type: ignore[union-attr]
            assert rule.clear_after == own.clear_after
            sign = towards(rule.detector).sign  # type: ignore[arg-type]
            for band in rule.detector.bands:  # type: ignore[union-attr]
                assert sign * band.raise_at > sign * band.clear_at > 0, name


def test_the_grid_has_the_shipped_profile_and_sound_neighbours() -> None:
    grid = methods.grid(PROFILE)
    assert len(grid) == len(methods.GRID) == 27
    for before, after in zip(PROFILE.rules, grid[methods.SHIPPED].rules, strict=True):
        if any(before.asks(key) for key in page.NAMES):
            assert after == before, "the point called shipped is not what ships"
    for point, profile in grid.items():
        for rule in profile.rules:
            if isinstance(rule.detector, Agreement):
                views = len(rule.detector.levels) + len(rule.detector.changes)
                views += rule.detector.short is not None
                assert 1 < rule.detector.need <= views, point


def test_a_choice_keeps_the_budget_and_never_sees_what_is_left_out() -> None:
    """The point that is perfect on the series left out and costly elsewhere is not chosen."""
    left_out, other = page.SUEZ, page.BAB_EL_MANDEB
    calm = scoring.Score(series=1, series_years=10.0)
    noisy = plays.play_one(Play("recorded", methods.compared(PROFILE)["EARS C1"]))
    strict = Point(0.25, 0.98, 0)

    def played(of_left_out: scoring.Score, of_other: scoring.Score) -> tuple[Played, Played]:
        return Played(calm, {left_out: of_left_out, other: of_other}), Played(calm, {})

    outcomes = {
        methods.SHIPPED: played(calm, noisy.by_series[other]),
        strict: played(noisy.by_series[left_out], calm),
    }
    chosen = choosing.choices(PROFILE, outcomes)[0]
    assert (chosen.series, chosen.point, chosen.allowed) == (left_out, strict, 1)
    assert chosen.score is noisy.by_series[left_out]


# Made-up series.


def test_made_up_series_are_always_the_same() -> None:
    dice = made_up.Dice(0)
    # The first numbers of splitmix64 from 0, 0xE220A8397B1DCDAF and on, as published with it.
    assert [dice.even(), dice.even()] == [
        (0xE220A8397B1DCDAF >> 11) / 2**53,
        (0x6E789E6AA1B965F4 >> 11) / 2**53,
    ]
    kind = made_up.KINDS[0]
    assert made_up.make(kind, 3) == made_up.make(kind, 3)
    assert made_up.make(kind, 3).rows != made_up.make(kind, 4).rows


@pytest.mark.parametrize("kind", made_up.KINDS, ids=[kind.title for kind in made_up.KINDS])
def test_every_kind_is_asked_of_and_has_two_disruptions(kind: made_up.Kind) -> None:
    known = documents.load_catalogue().indicators[kind.indicator]
    assert scoring.cadence_of(known.every_days) is kind.cadence
    assert known.harm.value == ("up" if kind.harm > 0 else "down")
    series = made_up.make(kind, 1)
    assert any(rule.asks(series.key) for rule in PROFILE.rules)
    assert all(row.value is not None and row.value >= 0 for row in series.rows)
    first, second = series.labels
    assert first.end is not None
    assert first.start < first.end < second.start


def test_constants_are_chosen_by_series_that_are_not_scored() -> None:
    assert not set(made_up.SCORED) & set(made_up.LEARNT_FROM)


@pytest.mark.parametrize(
    ("day", "share", "why"),
    [
        (date(2024, 2, 10), 1.0, "the new year of 2024"),
        (date(2023, 1, 22), 1.0, "that of 2023, three weeks earlier in the year"),
        (date(2024, 3, 15), 0.0, "long after it"),
    ],
)
def test_the_feast_moves_with_the_moon(day: date, share: float, why: str) -> None:
    assert made_up.new_year(Cadence.daily, day) == share, why
