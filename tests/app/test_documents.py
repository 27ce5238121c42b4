"""The shipped documents, the faults of broken ones, and the documentation of the format."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.catalogue import Catalogue
from alerts.mechanisms import Level, Profile, SetBy, soundness
from alerts.rules import (
    Bands,
    Baseline,
    CarryOver,
    Combine,
    Detector,
    EarsMethod,
    Effect,
    Ending,
    EventTrigger,
    Family,
    MedianOfWindow,
    Method,
    PercentChange,
    Reset,
    Share,
    Statistic,
    Transform,
)
from alerts.signals import Severity
from app import documents
from app.documents import DocumentFaulty, LineFault

ROOT = Path(__file__).parents[2]
OTHERS = sorted((ROOT / "tests" / "alerts" / "profiles").glob("*.yaml"))
SHIPPED = documents.shipped_profiles()
HOUSE_WATCH = (Path(__file__).with_name("house-watch.yaml")).read_text("utf-8")
EVERY = Path(__file__).with_name("every-detector.yaml")
EVERY_DETECTOR = EVERY.read_text("utf-8")


@pytest.fixture(scope="module")
def known() -> Catalogue:
    return documents.load_catalogue()


@pytest.fixture(scope="module")
def ttc() -> Profile:
    return documents.load_profile(documents.PROFILES_DIR / "ttc-semiconductors.yaml")


@pytest.fixture(scope="module")
def house_watch() -> Profile:
    return documents.load_profile(Path(__file__).with_name("house-watch.yaml"))


# The catalogue


def test_the_catalogue_has_the_six_sectors_and_one_for_all(known: Catalogue) -> None:
    assert set(known.sectors) == {
        "semiconductors",
        "critical_minerals",
        "shipping",
        "medical_devices",
        "pharmaceuticals",
        "batteries",
        "all_sectors",
    }


@pytest.mark.parametrize(
    ("code", "unit"),
    [
        ("lead_time", "weeks"),
        ("export_volume", "kg"),
        ("price", "USD/kg"),
        ("price_index", "index"),
        ("chokepoint_transits", "transits/day"),
        ("gscpi", "sd"),
    ],
)
def test_indicators_that_history_is_told_in_keep_their_units(
    known: Catalogue, code: str, unit: str
) -> None:
    assert known.indicators[code].unit == unit


def test_the_gscpi_belongs_to_all_sectors_and_to_no_single_one(known: Catalogue) -> None:
    assert "gscpi" in known.indicators_of("all_sectors")
    assert "gscpi" not in known.indicators_of("shipping")


def test_gallium_and_germanium_are_goods_of_two_sectors(known: Catalogue) -> None:
    for code in ("gallium", "germanium"):
        assert known.goods[code].sectors == ("semiconductors", "critical_minerals")
        assert [hs.code for hs in known.goods[code].hs] == ["8112.92"]


def test_every_sector_has_something_to_report(known: Catalogue) -> None:
    for sector in known.sectors:
        assert known.indicators_of(sector)
        assert known.events_of(sector)
        assert known.goods_of(sector) or sector == "all_sectors"


def test_codes_of_the_harmonized_system_are_of_the_edition_of_2022(known: Catalogue) -> None:
    for good in known.goods.values():
        for hs in good.hs:
            assert re.fullmatch(r"\d{4}(\.\d{2})?", hs.code), good.code
            assert hs.edition == 2022


def test_the_events_contain_the_causes_that_the_ipef_preamble_lists(known: Catalogue) -> None:
    assert len(known.events) >= 20
    named = {e.code for e in known.events.values() if "preamble" in e.source}
    assert named == {
        "epidemic",
        "severe_weather",
        "declared_disaster",
        "cyber_incident",
        "logistical_interruption",
        "input_shortage",
        "bottleneck",
        "armed_conflict",
    }


def test_norway_is_a_country_and_not_a_truth_value(known: Catalogue) -> None:
    assert "NO" in known.countries
    assert len(known.countries) == 249
    assert known.is_place("suez")
    assert known.is_place("bab_el_mandeb")
    assert known.is_place("EU")


def test_codes_are_lower_case_words(known: Catalogue) -> None:
    for kind in (known.sectors, known.goods, known.indicators, known.events, known.places):
        for code in kind:
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", code)


def test_a_code_in_two_files_of_the_catalogue_is_told_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("sectors:\n  - { code: chips, title: Chips }\n")
    (tmp_path / "b.yaml").write_text("sectors:\n  - title: Chips again\n    code: chips\n")
    _, (fault,) = documents.read_catalogue(sorted(tmp_path.iterdir()))
    assert (fault.file, fault.line, fault.column) == ("b.yaml", 3, 11)
    assert "a.yaml:2" in fault.detail


def test_a_catalogue_that_names_an_unknown_sector_points_at_the_good(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "sectors: [{ code: chips, title: Chips }]\n"
        "goods:\n  - { code: neon, title: Neon, sectors: chps }\n"
    )
    with pytest.raises(DocumentFaulty) as raised:
        documents.load_catalogue(tmp_path)
    assert raised.value.faults[0].line == 3
    assert "Did you mean chips?" in str(raised.value)


# The profiles


def test_two_profiles_ship() -> None:
    assert [path.stem for path in SHIPPED] == ["supply-watch", "ttc-semiconductors"]
    assert documents.check_files(SHIPPED) == []


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_the_format_carries_other_mechanisms_without_code(path: Path, known: Catalogue) -> None:
    profile = documents.load_profile(path, known)
    assert profile.id == path.stem
    assert profile.clocks
    assert profile.records


def test_four_other_mechanisms_are_tried() -> None:
    assert [path.stem for path in OTHERS] == [
        "eu-chips-act",
        "eu-japan-semiconductors",
        "ipef-supply-chain",
        "usmca-emergency-response",
    ]


def kinds_of(shape: object) -> set[str]:
    """The kinds that a union of dataclasses is told apart by."""
    shapes = {inner for inner in typing.get_args(shape) if isinstance(inner, type)}
    return {typing.get_args(typing.get_type_hints(inner)["kind"])[0] for inner in shapes}


def test_every_detector_and_every_baseline_is_tried() -> None:
    tried = set(re.findall(r"kind: ([a-z_]+)", EVERY_DETECTOR))
    assert tried == kinds_of(Detector) | kinds_of(Baseline)
    assert documents.check_files([EVERY]) == []


@pytest.mark.parametrize("path", [*SHIPPED, *OTHERS, EVERY], ids=lambda path: path.stem)
def test_a_profile_survives_the_way_through_the_database_and_the_api(path: Path) -> None:
    document = documents.read_profile(path)
    kept = json.loads(json.dumps(document.content))
    assert documents.profile_from_document(kept) == document.profile
    shown = json.loads(json.dumps(documents.plain(document.profile)))
    assert documents.profile_from_document(shown) == document.profile


def test_the_ttc_profile_is_in_force_from_lulea_until_three_years_after_the_renewal(
    ttc: Profile,
) -> None:
    assert (ttc.valid_from, ttc.valid_until) == (date(2023, 5, 31), date(2027, 4, 5))
    assert [party.code for party in ttc.parties] == ["EU", "US"]
    assert ttc.reference_prefix == "TTC-SEMI"
    assert "not published" in ttc.summary


def test_the_ttc_levels_say_who_sets_them(ttc: Profile) -> None:
    assert [(p.level, p.set_by) for p in ttc.levels] == [
        (Level.monitoring, (SetBy.engine,)),
        (Level.early_warning, (SetBy.engine, SetBy.any_party)),
        (Level.disruption, (SetBy.no_objection,)),
        (Level.crisis, (SetBy.all_parties,)),
    ]
    crisis = ttc.level(Level.crisis)
    assert crisis is not None
    assert crisis.falls_to is Level.disruption
    assert [r.id for r in crisis.requires][:2] == [
        "significant_shortage",
        "essential_products_not_supplied",
    ]


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        ("lead-time", [("minor", 14, 13), ("moderate", 16, 14), ("severe", 20, 18)]),
        ("export-volume", [("moderate", -0.5, -0.25), ("severe", -0.8, -0.5)]),
        ("price", [("minor", 0.25, 0.15), ("moderate", 0.4, 0.25), ("severe", 0.8, 0.6)]),
    ],
)
def test_the_bands_of_the_ttc_profile(
    ttc: Profile, rule: str, written: list[tuple[str, float, float]]
) -> None:
    (found,) = (r for r in ttc.rules if r.id == rule)
    assert isinstance(found.detector, Bands | PercentChange)
    bands = found.detector.bands
    assert [(b.severity.name, b.raise_at, b.clear_at) for b in bands] == written


def test_the_ttc_events_need_two_parties_or_one_official_word(ttc: Profile) -> None:
    events = {r.id: r.detector for r in ttc.rules if isinstance(r.detector, EventTrigger)}
    assert len(events) == 6
    for detector in events.values():
        assert detector.corroboration.parties == 2
        assert detector.corroboration.within_days == 14
    assert events["export-control"].ending is Ending.with_measurements
    assert events["supply-not-guaranteed"].ending is Ending.by_people


def test_the_ttc_key_goods_are_gallium_and_germanium(ttc: Profile) -> None:
    assert [(k.good, k.hhi, k.top_share) for k in ttc.key_goods] == [
        ("gallium", 0.96, 0.98),
        ("germanium", 0.40, 0.60),
    ]


def test_the_house_watches_chokepoints_against_twelve_weeks_before_the_last_two(
    house_watch: Profile,
) -> None:
    transits, pressure = house_watch.rules
    assert isinstance(transits.detector, PercentChange)
    assert transits.detector.mean_of == 7
    assert transits.clear_after == 14
    baseline = MedianOfWindow("median_of_window", days=84, min_observations=60, guard_days=14)
    assert transits.detector.baseline == baseline
    assert isinstance(pressure.detector, Bands)
    assert [(b.raise_at, b.clear_at) for b in pressure.detector.bands] == [
        (1, 0.5),
        (2, 1.5),
        (3, 2.5),
    ]


def test_comments_and_layout_do_not_change_a_document_but_numbers_do() -> None:
    before = documents.read_profile(Path(__file__).with_name("house-watch.yaml")).sha256
    text = "# Watched.\n" + HOUSE_WATCH.replace("title: House watch", 'title:   "House watch"')
    profile = documents.load_profile(text)
    assert profile.title == "House watch"
    content = documents.marks.read(text.encode()).content
    assert isinstance(content, dict)
    assert documents.canonical_sha256(content) == before
    reordered = dict(reversed(content.items()))
    assert documents.canonical_sha256(reordered) == before
    assert documents.canonical_sha256({**content, "version": 2}) != before


# Faults


def faults_of(text: str | bytes, tmp_path: Path) -> list[LineFault]:
    path = tmp_path / "ours.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DocumentFaulty) as raised:
        documents.load_profile(path)
    assert all(fault.file == str(path) for fault in raised.value.faults)
    return raised.value.faults


SEVERE = "{ severity: severe, raise_at: 3, clear_at: 2.5 }"


@pytest.mark.parametrize(
    ("was", "becomes", "pointer", "sentence"),
    [
        (
            SEVERE,
            "{ severity: ^sever, raise_at: 3, clear_at: 2.5 }",
            "/rules/1/detector/bands/2/severity",
            "'severity' cannot be 'sever'. Did you mean severe?",
        ),
        (
            SEVERE,
            "{ severity: ^3, raise_at: 3, clear_at: 2.5 }",
            "/rules/1/detector/bands/2/severity",
            "'severity' must be one of its words, not 3.",
        ),
        (
            SEVERE,
            "{ severity: severe, raise_at: 3, clear_at: ^3.5 }",
            "/rules/1/detector/bands/2/clear_at",
            "Severe must clear below 3, where it is raised; 3.5 is not below it.",
        ),
        (
            SEVERE,
            "^{ severity: severe, raise_at: 3 }",
            "/rules/1/detector/bands/2",
            "Number 3 of 'bands' needs 'clear_at'.",
        ),
        (
            SEVERE,
            "{ severity: severe, raise_at: ^.inf, clear_at: 2.5 }",
            "/rules/1/detector/bands/2/raise_at",
            ".inf is not a number that can be compared.",
        ),
        (
            "      mean_of: 7",
            "      ^mean_off: 7",
            "/rules/0/detector/mean_off",
            "'mean_off' is not a key of 'detector'. Did you mean mean_of?",
        ),
        (
            "mean_of: 7",
            "mean_of: ^7.5",
            "/rules/0/detector/mean_of",
            "'mean_of' must be a whole number, not 7.5.",
        ),
        (
            "mean_of: 7",
            "mean_of: ^seven",
            "/rules/0/detector/mean_of",
            "'mean_of' must be a whole number, not the text 'seven'.",
        ),
        (
            "kind: percent_change",
            "kind: ^percent_chnage",
            "/rules/0/detector/kind",
            "'kind' cannot be 'percent_chnage'. Did you mean percent_change?",
        ),
        (
            "direction: down",
            "direction: ^sideways",
            "/rules/0/detector/direction",
            "'direction' cannot be 'sideways'.",
        ),
        (
            "indicators: [gscpi]",
            "indicators: [^gcspi]",
            "/rules/1/indicators/0",
            "There is no indicator 'gcspi' in the catalogue. Did you mean gscpi?",
        ),
        (
            "valid_until: 2099-12-31",
            "valid_until: ^2099-13-31",
            "/valid_until",
            "'valid_until' must be a date such as 2027-04-05, not the text '2099-13-31'.",
        ),
        (
            "valid_until: 2099-12-31",
            "valid_until: ^2018-12-31",
            "/valid_until",
            "It ends on 2018-12-31 before it begins on 2019-01-01.",
        ),
        (
            "title: House watch",
            "title: ^7",
            "/title",
            "'title' must be text, not 7. Put it in quotes if it is meant as text.",
        ),
        (
            "alert_per: [place]",
            "alert_per: ^{ place: true }",
            "/alert_per",
            "'alert_per' must be a list, not a mapping.",
        ),
        (
            "source: [gscpi, our_design]",
            "source: ^[gcspi, our_design]",
            "/rules/1/detector/source",
            "There is no source 'gcspi' in 'sources'.",
        ),
        (
            "  fresh_observations: 2",
            "  fresh_observations: 2\n  ^hold_days: 15",
            "/closing/hold_days",
            "'hold_days' is written twice; first in line",
        ),
    ],
)
def test_a_fault_is_told_with_its_line_and_column_in_a_sentence(
    was: str, becomes: str, pointer: str, sentence: str, tmp_path: Path
) -> None:
    told_at_the_mark(HOUSE_WATCH, was, becomes, pointer, sentence, tmp_path)


def told_at_the_mark(
    document: str, was: str, becomes: str, pointer: str, sentence: str, tmp_path: Path
) -> None:
    """Writes ``becomes`` for ``was``: the fault must be told where the ^ stands in it."""
    assert was in document
    before, _, after = document.replace(was, becomes, 1).partition("^")
    found = {fault.pointer: fault for fault in faults_of(before + after, tmp_path)}
    assert pointer in found, list(map(str, found.values()))
    fault = found[pointer]
    assert fault.detail.startswith(sentence)
    line = before.count("\n") + 1
    column = len(before) - before.rfind("\n")
    assert (fault.line, fault.column) == (line, column)


@pytest.mark.parametrize(
    ("was", "becomes", "pointer", "sentence"),
    [
        # read against the shape
        ("{ EU: 1, aurora: 0.5 }", "{ EU: ^much, aurora: 0.5 }", "/rules/0/trust/weights/EU",
         "'EU' must be a number, not the text 'much'."),
        ("{ EU: 1, aurora: 0.5 }", "^[EU]", "/rules/0/trust/weights",
         "'weights' must be a mapping, not a list."),
        ("method: C2", "method: ^C4", "/rules/7/detector/method", "'method' cannot be 'C4'."),
        ("changes: [1, 3]", "changes: [1, ^3.5]", "/rules/11/detector/changes/1",
         "Number 2 of 'changes' must be a whole number, not 3.5."),
        ("effective_from: 2024-01-01", "effective_from: ^soon", "/rules/0/effective_from",
         "'effective_from' must be a date such as 2027-04-05, not the text 'soon'."),
        ("baseline: { kind: target, mean: 0, spread: 1 }", "baseline: { kind: ^same_period }",
         "/rules/6/detector/baseline/kind", "'kind' cannot be 'same_period'."),
        ("kind: combination", "kind: ^combinaton", "/rules/15/detector/kind",
         "'kind' cannot be 'combinaton'. Did you mean combination?"),
        # units
        ("indicators: [lead_time]", "indicators: ^[lead_time, inventory_days]", "/rules/0/indicators",
         "'raise_at' stands in the indicator's unit, but lead_time in weeks and inventory_days in days"),
        ("indicators: [import_share]", "indicators: [^price]", "/rules/12/indicators/0",
         "Price is measured in USD/kg, and shares are fractions."),
        ("raise_at: 0.4001, clear_at: 0.35", "raise_at: ^40, clear_at: 35",
         "/rules/12/detector/bands/0/raise_at",
         "Minor can never be reached: a share of the whole ends at 1."),
        ("direction: up, at: 0.1 }", "direction: up, at: ^10 }", "/rules/13/detector/gates/0/at",
         "Import share can never be passed: import_share, in fraction, ends at 1."),
        ("indicators: [report_count]", "indicators: [report_count, ^gscpi]",
         "/rules/7/indicators/1", "No sector of the rule has the indicator gscpi."),
        # windows shorter than their minimum
        ("min_observations: 60, guard: 14", "min_observations: ^91, guard: 14",
         "/rules/5/detector/baseline/min_observations",
         "It needs 91 observations and looks at 90."),
        ("min_observations: 60, guard: 14", "min_observations: 60, guard: ^90",
         "/rules/5/detector/baseline/guard", "A guard has from 0 to fewer observations than the 90"),
        ("min_years: 2", "min_years: ^4", "/rules/4/detector/baseline/min_years",
         "It needs 4 years and looks at 3."),
        ("min_memory: 24", "min_memory: ^121", "/rules/11/detector/min_memory",
         "It needs 121 values of a memory of 120."),
        ("most: 6", "most: ^2", "/rules/11/detector/most",
         "A threshold cannot be at least 2.5 and at most 2."),
        ("need: 3", "need: ^5", "/rules/11/detector/need", "5 views must agree, and there are 4."),
        ("times: 2", "times: ^4", "/rules/12/detector/times",
         "It cannot be beyond 4 times in 3 periods."),
        ("days: 90,", "days: ^1e300,", "/rules/1/detector/baseline/days",
         "At most 36525 days, a century, are looked at."),
        # fractions and spreads
        ("weight: 0.3", "weight: ^30", "/rules/5/detector/weight", "The newest observation weighs"),
        ("quantile: 0.98", "quantile: ^98", "/rules/11/detector/quantile", "A quantile is a fraction"),
        ("coverage: 0.6", "coverage: ^60", "/rules/14/detector/coverage", "Coverage is a fraction"),
        ("mean: 0, spread: 1", "mean: 0, spread: ^0", "/rules/6/detector/baseline/spread",
         "A spread is above 0."),
        ("{ kind: target, mean: 0, spread: 1 }", "^{ kind: target, mean: 0 }",
         "/rules/6/detector/baseline", "It is compared in spreads, so the target needs its 'spread'."),
        ("exposure: 0.6", "exposure: ^60", "/rules/10/detector/sites/0/exposure",
         "Exposure is a fraction between 0 and 1."),
        ("place: NLRTM,", "place: ^TW,", "/rules/10/detector/sites/1/place", "'TW' is there twice."),
        # bands
        ("raise_at: 4, clear_at: 1", "raise_at: ^13, clear_at: 1", "/rules/9/detector/bands/0/raise_at",
         "Minor can never be reached: the number of moves looked back on ends at 12."),
        ("severe, raise_at: 2, clear_at: 1", "severe, raise_at: ^3, clear_at: 1",
         "/rules/15/detector/bands/0/raise_at",
         "Severe can never be reached: the number of families ends at 2."),
        ("raise_at: -3.5, clear_at: -2", "raise_at: -3.5, clear_at: ^-4",
         "/rules/4/detector/bands/0/clear_at", "Minor must clear above -3.5"),
        # what it may do, with whom
        ("effect: follow_up", "effect: ^early_warning", "/rules/14/effect",
         "An index is shown and never raises an alert alone."),
        ("indicators: [lead_time, export_volume]", "indicators: [export_volume, ^inventory_days]",
         "/rules/14/indicators/1", "None of its members reads inventory_days."),
        ("[price-level, volume-month]", "[price-level, ^volume-mont]", "/rules/15/detector/rules/1",
         "There is no rule 'volume-mont' in this profile."),
        ("rules: [price-level, volume-month]", "rules: [^dearer-and-less, volume-month]",
         "/rules/15/detector/rules/0", "A combination cannot count itself."),
        ("rules: [price-level, volume-month]", "rules: [price-level, volume-month, ^price-step]",
         "/rules/15/detector/rules/2", "Price-step is a shadow and may move nothing"),
        ("    effect: component\n    source: our_design\n\n  - id: price-step",
         "    effect: component\n    source: our_design\n\n  - id: price-step\n    effect: ^component",
         "/rules/3/effect", "No combination counts price-step, so it would do nothing."),
        ("direction: down\n      method: robust", "direction: ^up\n      method: robust",
         "/rules/4/detector/direction", "Export_volume does harm when it goes down"),
        ("least_reliability: B2", "least_reliability: ^2B", "/rules/0/trust/least_reliability",
         "'2B' is no grade"),
        ("parties: 2\n      least", "parties: ^0\n      least", "/rules/0/trust/parties",
         "At least one party"),
        ("aurora: 0.5", "aurora: ^0", "/rules/0/trust/weights/aurora", "A weight is above 0."),
        ("effective_from: 2024-01-01", "effective_from: ^2018-12-31", "/rules/0/effective_from",
         "2018-12-31 lies outside the validity of the profile, 2019-01-01 to 2099-12-31."),
        # the profile around them
        ("indicator: lead_time\n    at:", "indicator: ^led_time\n    at:",
         "/series_breaks/0/indicator", "There is no indicator 'led_time' in the catalogue."),
        ("open_alerts: 20", "open_alerts: ^0", "/overflow/open_alerts", "At least one alert"),
        ("{ open_alerts: 20, source: our_design }", "{ open_alerts: ^20 }", "/overflow/open_alerts",
         "'open_alerts' is a number without a source"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_refused_with_the_line_and_the_reason(
    was: str, becomes: str, pointer: str, sentence: str, tmp_path: Path
) -> None:
    told_at_the_mark(EVERY_DETECTOR, was, becomes, pointer, sentence, tmp_path)


def test_integers_beyond_all_numbers_are_refused() -> None:
    content: Any = documents.plain(documents.load_profile(EVERY))
    content["rules"][0]["detector"]["bands"][0]["raise_at"] = 10**400
    with pytest.raises(DocumentFaulty, match="'raise_at' must be a number"):
        documents.profile_from_document(content)


def test_only_the_branch_meant_is_spoken_of(tmp_path: Path) -> None:
    text = HOUSE_WATCH.replace("kind: percent_change", "kind: bands")
    found = faults_of(text, tmp_path)
    assert [fault.pointer for fault in found] == [
        "/rules/0/detector/mean_of",
        "/rules/0/detector/baseline",
    ]
    assert "'baseline' is not a key of 'detector'" in found[1].detail


def test_the_allowed_words_are_told_and_the_line_reads_like_a_compilers(tmp_path: Path) -> None:
    text = HOUSE_WATCH.replace("default_tlp: GREEN", "default_tlp: GREN")
    (fault,) = faults_of(text, tmp_path)
    line = HOUSE_WATCH[: HOUSE_WATCH.index("default_tlp")].count("\n") + 1
    assert fault.allowed == ("GREEN", "RED", "AMBER", "CLEAR", "AMBER+STRICT")
    assert str(fault).startswith(f"{tmp_path}/ours.yaml:{line}:14: 'default_tlp' cannot be 'GREN'")
    assert "Allowed: GREEN, RED" in str(fault)


def test_a_number_without_a_source_is_a_fault(tmp_path: Path) -> None:
    text = HOUSE_WATCH.replace(
        "  fresh_observations: 2\n  source: our_design", "  fresh_observations: 2"
    )
    found = faults_of(text, tmp_path)
    assert "/closing/hold_days" in [fault.pointer for fault in found]


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = HOUSE_WATCH.replace("clear_after: 14", "clear_after: 0")
    text = text.replace("raise_at: -0.25", "raise_at: -0.05").replace("[gscpi]", "[gscp]")
    found = faults_of(text, tmp_path)
    assert [fault.pointer for fault in found] == [
        "/rules/0/clear_after",
        "/rules/0/detector/bands/0/clear_at",
        "/rules/1/indicators/0",
    ]


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "empty"),
        ("# only a comment\n", 1, 1, "empty"),
        ("- a\n- b\n", 1, 1, "must be a mapping"),
        ("just words\n", 1, 1, "must be a mapping"),
        ("42\n", 1, 1, "must be a mapping"),
        ("id: a\nid: b\n", 2, 1, "written twice; first in line 1"),
        ("id: a\n\ttitle: b\n", 2, 1, "Indent with spaces"),
        ("parties:\n  \t- b\n", 2, 3, "Indent with spaces"),
        ("id: 'never closed\n", None, None, "Not valid YAML"),
        ("id: [a, b\n", None, None, "Not valid YAML"),
        ("id: a\n---\nid: b\n", 2, 1, "One file holds one document"),
        ("id: !!python/object:os.system x\n", 1, 5, "Tags"),
        ("id: !secret x\n", 1, 5, "Tags"),
        ("a: &a [x]\nb: *a\n", 1, 4, "Anchors"),
        ("a: *b\n", 1, 4, "Aliases"),
        ("a: [x]\n<<: *a\n", 2, 5, "Aliases"),
        ("? [a]\n: b\n", 1, 3, "A key is a word"),
        ("x: 1e999\n", 1, 4, "too large"),
        ("x: .nan\n", 1, 4, "not a number that can be compared"),
        (b"id: a\ntitle: caf\xe9\n", 2, 11, "not UTF-8"),
        (b"id: a\x00b\n", None, None, "Not valid YAML"),
        ("[" * 100_000, 1, 33, "Nested more than 32 deep"),
        ("a: " * 50_000, None, None, ""),
        ("x" * 2**20 + "x", 1, 1, "larger than 1024 KiB"),
    ],
)
def test_a_text_that_is_no_document_is_refused_at_the_place(
    text: str | bytes, line: int | None, column: int | None, words: str, tmp_path: Path
) -> None:
    fault, *_ = faults_of(text, tmp_path)
    assert words in fault.detail
    if line is not None:
        assert (fault.line, fault.column) == (line, column)


def test_a_bomb_of_aliases_is_refused_at_its_first_anchor(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (fault,) = faults_of("\n".join(rows), tmp_path)
    assert "Anchors" in fault.detail


def test_a_file_that_is_not_there_is_a_fault_and_not_a_traceback(tmp_path: Path) -> None:
    (fault,) = documents.check_files([tmp_path / "none.yaml"])
    assert (
        str(fault)
        == f"{tmp_path}/none.yaml:1:1: The file cannot be read: No such file or directory."
    )


def test_two_files_of_one_mechanism_are_a_fault(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(HOUSE_WATCH)
    (fault,) = documents.check_files([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert "is also in" in fault.detail


def test_a_kept_document_with_keys_of_a_newer_version_is_told(house_watch: Profile) -> None:
    shown = documents.plain(house_watch)
    assert isinstance(shown, dict)
    with pytest.raises(DocumentFaulty, match="'moods' is not a key"):
        documents.profile_from_document({**shown, "moods": []})


@given(st.binary(max_size=200))
def test_any_bytes_are_a_fault_and_never_a_crash(content: bytes) -> None:
    text = content.decode("latin-1")
    with pytest.raises(DocumentFaulty):
        documents.load_profile(text)


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(-1e6, 1e6)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("text", [HOUSE_WATCH, EVERY_DETECTOR], ids=["house-watch", "every"])
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_and_never_a_crash(
    text: str, data: st.DataObject
) -> None:
    document: Any = documents.marks.read(text.encode()).content
    spot: Any = document
    while True:
        steps = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        step = data.draw(st.sampled_from(steps))
        if not isinstance(spot[step], dict | list) or not spot[step] or data.draw(st.booleans()):
            spot[step] = data.draw(trees)
            break
        spot = spot[step]
    soundness.unsourced(document)
    try:
        profile = documents.profile_from_document(document)
    except DocumentFaulty as error:
        assert error.faults  # noqa: PT017 - either outcome will do, but a refusal says why
    else:
        soundness.check(profile, documents.load_catalogue())


# The documentation


def dataclasses_of(shape: object, found: set[type]) -> set[type]:
    """The dataclasses that make up a shape."""
    for inner in typing.get_args(shape):
        dataclasses_of(inner, found)
    if isinstance(shape, type) and dataclasses.is_dataclass(shape) and shape not in found:
        found.add(shape)
        for hint in typing.get_type_hints(shape).values():
            dataclasses_of(hint, found)
    return found


@pytest.mark.parametrize(
    ("shape", "page"),
    [(Profile, "profiles.md"), (documents.CatalogueFile, "catalogue.md")],
)
def test_every_field_of_the_format_is_described(shape: type, page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    described = set(re.findall(r"`([a-z_]+)`", text))
    shapes = dataclasses_of(shape, set())
    assert len(shapes) > 5
    fields = {f.name for found in shapes for f in dataclasses.fields(found)}
    assert fields - described == set()


def test_every_word_of_the_format_is_described() -> None:
    text = (ROOT / "docs" / "profiles.md").read_text("utf-8")
    words = {member.value for member in SetBy} | {member.name for member in Level}
    words |= {s.name for s in Severity if s}
    for enumeration in (
        *(CarryOver, Combine, EarsMethod, Effect, Ending),
        *(Family, Method, Reset, Share, Statistic, Transform),
    ):
        words |= {member.value for member in enumeration}
    for found in dataclasses_of(Profile, set()):
        words |= set(typing.get_args(typing.get_type_hints(found).get("kind")))
    assert {word for word in words if f"`{word}`" not in text} == set()
