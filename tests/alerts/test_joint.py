"""Joint detectors, as tables: several series, or other findings, of one subject."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.detectors.joint import panel_reach, read_findings, read_panel, subject_of
from alerts.detectors.reading import Measure, Reach, Reading
from alerts.rules import (
    Band,
    Combination,
    Composite,
    Concentration,
    Count,
    Detector,
    Direction,
    Family,
    LastObservations,
    Member,
    Rule,
    Share,
    Surge,
    SurgeGate,
)
from alerts.signals import Sample, SeriesKey, Severity
from tests.alerts.cast import MINOR, MODERATE, NONE, SEVERE, at, daily, days

Shares = Mapping[str, float]
NOW = at("2024-01-01")
UP, DOWN = Direction.up, Direction.down


def key(indicator: str, good: str = "", place: str = "", exercise: str = "") -> SeriesKey:
    return SeriesKey("semiconductors", indicator, good, place, exercise)


def named(reading: Reading) -> dict[str, tuple[float, float | None]]:
    return {measure.name: measure[1:] for measure in reading.measures}


# The subject


def rule(detector: Detector) -> Rule:
    return Rule("r", "R", 1, Family.quantity, ("semiconductors",), ("x",), detector)


# CEPII: concentrated where HHI > 0.4 in at least two of three years; the next HHI that shares in
# whole percents can make is 0.4001. Korea: a share above 0.5. EU CRMA: above 0.65.
HHI = Concentration("concentration", UP, Share.hhi, (Band(MINOR, 0.4001, 0.35),))
CEPII = replace(HHI, times=2, of=3)
KOREA = Concentration("concentration", UP, Share.largest_share, (Band(MINOR, 0.5001, 0.45),))
CRMA = replace(KOREA, bands=(Band(MODERATE, 0.6501, 0.6),))
TIERS = replace(HHI, bands=(Band(MINOR, 0.25, 0.2), Band(SEVERE, 0.5, 0.45)))

GATES = (
    SurgeGate("Import share", "import_share", UP, 0.1),
    SurgeGate("Import volume", "import_volume", UP, 0.25, change_over=2),
    SurgeGate("Import price", "price", DOWN, -0.1, change_over=2),
)
SURGE = Surge("surge", UP, GATES, (Band(MODERATE, 3, 2),))

LAST = LastObservations("last_observations", 7, 5)
MEMBERS = (
    Member("lead_time", UP, 2),
    Member("price", UP, 1, good="neon"),
    Member("export_volume", DOWN, 1, good="neon", place="UA"),
)
COMPOSITE = Composite("composite", UP, MEMBERS, LAST, 45, 0.6, (Band(MINOR, 1, 0.5),))

BOTH = Combination("combination", UP, ("volume", "price"), (Band(SEVERE, 2, 1),))


@pytest.mark.parametrize(
    ("detector", "good", "place", "reason"),
    [
        (HHI, "neon", "", "all suppliers of a good make one finding"),
        (SURGE, "neon", "UA", "a surge is of one good from one place"),
        (COMPOSITE, "", "", "an index is of the whole sector"),
        (BOTH, "neon", "UA", "a combination is given the scope of its alert"),
    ],
)
def test_a_joint_finding_is_kept_under_its_subject(
    detector: Detector, good: str, place: str, reason: str
) -> None:
    found = subject_of(rule(detector), key("x", "neon", "UA", "drill"))
    assert found == ("semiconductors", "rule:r", good, place, "drill"), reason


# Concentration


def shares(*years: Shares) -> dict[SeriesKey, list[Sample]]:
    """Yearly shares by supplier; the last year ends at NOW."""
    panel: dict[SeriesKey, list[Sample]] = {}
    for back, year in enumerate(reversed(years)):
        when = NOW.replace(year=NOW.year - back)
        for place, share in year.items():
            panel.setdefault(key("share", "neon", place), []).insert(0, Sample(when, share))
    return panel


def equal(count: int, share: float, *more: float) -> Shares:
    return {f"P{number}": s for number, s in enumerate([*more, *[share] * count])}


@pytest.mark.parametrize(
    ("detector", "year", "low", "high", "raised", "reason"),
    [
        (HHI, equal(1, 0.02, 0.98), 0.9608, 0.9608, MINOR, "gallium: 0.98 and 0.02"),
        (HHI, equal(4, 0.1, 0.6), 0.4, 0.4, NONE, "0.40 is not above 0.4, whatever floats add"),
        (HHI, equal(5, 0.2), 0.2, 0.2, NONE, "five equal suppliers"),
        (HHI, equal(1, 1.0), 1, 1, MINOR, "a single source is as concentrated as can be"),
        (HHI, equal(1, 0.7), 0.49, 0.58, MINOR, "however the rest is spread, 0.7 alone is enough"),
        (HHI, equal(2, 0.3), 0.18, 0.34, NONE, "even with the rest in one hand it is below"),
        (HHI, equal(3, 0.338), 0.342732, 0.342732, NONE, "a sum of 1.014 is rounding of three"),
        (KOREA, equal(2, 0.25, 0.5), 0.5, 0.5, NONE, "a share of a half is not above it"),
        (KOREA, equal(2, 0.24, 0.51), 0.51, 0.51, MINOR, "but 0.51 is"),
        (KOREA, equal(1, 0.6), 0.6, 0.6, MINOR, "the unnamed 0.4 cannot be the largest"),
        (CRMA, equal(4, 0.1, 0.6), 0.6, 0.6, NONE, "germanium's 0.60 is not above 0.65"),
        (CRMA, equal(1, 0.02, 0.98), 0.98, 0.98, MODERATE, "gallium's 0.98 is"),
    ],
)  # fmt: skip
def test_concentration_is_what_the_shares_make(
    detector: Concentration, year: Shares, low: float, high: float, raised: Severity, reason: str
) -> None:
    reading = read_panel(detector, shares(year), NOW)
    assert (reading.raised, reading.undefined) == (raised, ""), reason
    assert reading.compared == pytest.approx(low), reason
    lowest, highest, *_ = reading.measures
    assert [lowest.value, highest.value] == pytest.approx([low, high]), reason


@pytest.mark.parametrize(
    ("detector", "year", "words", "reason"),
    [
        (HHI, {}, "no supplier's share is known", "nothing was reported"),
        (HHI, {"": 0.9}, "no supplier's share", "a share of no place names no supplier"),
        (HHI, equal(1, 0.6), "between 0.36 and 0.52, because 40% of", "the rest decides"),
        (KOREA, equal(1, 0.3), "between 0.3 and 0.7", "the unnamed 0.7 may be one supplier's"),
        (HHI, equal(2, 0.55), "make 1.1, more than the whole", "more than rounding explains"),
        (HHI, equal(1, -0.1, 0.9), "not between 0 and 1", "a share below zero"),
        (HHI, equal(1, 60.0), "not between 0 and 1", "percents in place of fractions"),
        (HHI, equal(1, math.nan), "not between 0 and 1", "not a number"),
        (HHI, equal(2, 1e308), "not between 0 and 1", "huge values are no crash"),
    ],
)
def test_shares_that_do_not_decide_are_undefined(
    detector: Concentration, year: Shares, words: str, reason: str
) -> None:
    reading = read_panel(detector, shares(year), NOW)
    assert words in reading.undefined, reason
    assert (reading.raised, reading.held, reading.is_calm) == (NONE, NONE, False)
    assert reading.bands == (MINOR,)


@pytest.mark.parametrize(
    ("years", "raised", "undefined", "beyond", "reason"),
    [
        ((0.7, 0.3, 0.7), MINOR, False, 2, "beyond in two of three years, not in a row"),
        ((0.3, 0.7, 0.7), MINOR, False, 2, "and in the last two"),
        ((0.7, 0.7, 0.3), MINOR, False, 2, "and when the newest is calm"),
        ((0.3, 0.3, 0.7), NONE, False, 1, "once is not held"),
        ((0.7, 0.7, 0.3, 0.3), NONE, False, 1, "four years ago is not one of the last three"),
        ((0.7, 0.7), MINOR, False, 2, "two years are enough when both are beyond"),
        ((0.3, 0.3), NONE, False, 0, "or when neither is: a third could not change it"),
        ((0.3, 0.7), NONE, True, 1, "with one each the year not known decides"),
        ((0.7,), NONE, True, 1, "one year cannot be two"),
        ((0.3, 0.3, 7.0), NONE, True, None, "a newest year that cannot be judged"),
        ((7.0, 0.7, 0.3), NONE, True, 1, "an old one that cannot be judged may have been beyond"),
        ((7.0, 0.3, 0.3), NONE, False, 0, "but not where it could not change anything"),
    ],
)
def test_concentration_must_be_held_in_some_of_the_last_periods(
    years: tuple[float, ...], raised: Severity, undefined: bool, beyond: int | None, reason: str
) -> None:
    rests = [(1 - min(share, 1)) / 7 for share in years]
    panel = shares(*(equal(7, rest, s) for s, rest in zip(years, rests, strict=True)))
    reading = read_panel(CEPII, panel, NOW)
    assert (reading.raised, bool(reading.undefined)) == (raised, undefined), reason
    assert named(reading).get("periods beyond", (None, 2)) == (beyond, 2), reason


@pytest.mark.parametrize(
    ("years", "why"),
    [
        ((equal(1, 0.6), equal(7, 0.1, 0.3), equal(7, 0.04, 0.72)), "shares of an earlier period"),
        ((equal(7, 0.04, 0.72),), "because it knows 1 of 3 periods"),
        (
            (equal(1, 0.6), equal(1, 0.6)),
            "40% of the supply is of no named supplier and it knows 2 of 3",
        ),
    ],
)
def test_an_undefined_concentration_says_what_is_missing(
    years: tuple[Shares, ...], why: str
) -> None:
    assert why in read_panel(CEPII, shares(*years), NOW).undefined


@pytest.mark.parametrize(
    ("year", "raised", "held", "reason"),
    [
        ((0.6, 0.4), SEVERE, SEVERE, "0.52: all of it named"),
        ((0.6,), MINOR, SEVERE, "0.36 to 0.52: minor for certain; it may still be severe"),
        ((0.6, 0.2), MINOR, MINOR, "0.40 to 0.44: severe has cleared either way"),
        ((0.42, 0.2), NONE, NONE, "0.216 to 0.361 is undefined, not calm"),
        ((0.3, 0.3), NONE, NONE, "0.18 to 0.34 likewise"),
        ((0.3, 0.3, 0.2), NONE, MINOR, "0.22 to 0.26 is undefined"),
        (
            (0.28, 0.28, 0.16, 0.1),
            NONE,
            MINOR,
            "0.192 to 0.225: it cannot raise, and may not clear",
        ),
    ],
)
def test_what_is_not_known_neither_raises_nor_clears(
    year: tuple[float, ...], raised: Severity, held: Severity, reason: str
) -> None:
    reading = read_panel(TIERS, shares(equal(0, 0, *year)), NOW)
    assert reading.raised is raised, reason
    assert reading.held is (NONE if reading.undefined else held), reason
    assert bool(reading.undefined) == ("undefined" in reason or "likewise" in reason), reason


def test_suppliers_of_another_year_are_not_added_to_the_newest() -> None:
    reading = read_panel(HHI, shares(equal(2, 0.5), {"P0": 0.7}), NOW)
    assert reading.compared == pytest.approx(0.49)
    assert named(reading)["suppliers named"] == (1, None)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.data())
def test_naming_more_of_the_supply_never_widens_the_bounds(
    parts: list[float], data: st.DataObject
) -> None:
    whole = sum(parts) or 1
    year = [part / whole for part in parts]
    few = year[: data.draw(st.integers(1, len(year)))]
    less = read_panel(HHI, shares(equal(0, 0, *few)), NOW).measures
    more = read_panel(HHI, shares(equal(0, 0, *year)), NOW).measures
    assert less[0].value <= more[0].value + 1e-9
    assert more[1].value <= less[1].value + 1e-9


# Surge


def surge(
    share: float | None = 0.2,
    volume: tuple[float, ...] = (10, 10, 15, 15),
    price: tuple[float, ...] = (5, 5, 4, 4),
) -> dict[SeriesKey, list[Sample]]:
    day = "2023-12-28"
    panel = {
        key("import_share", "neon", "CN"): [] if share is None else [Sample(at(day), share)],
        key("import_volume", "neon", "CN"): daily(day, *volume),
        key("price", "neon", "CN"): daily(day, *price),
    }
    return {of: found for of, found in panel.items() if found}


@pytest.mark.parametrize(
    ("panel", "passed", "raised", "failed", "reason"),
    [
        (surge(), 3, MODERATE, [], "material, much more of it, and cheaper"),
        (surge(share=0.05), 2, NONE, ["Import share"], "much more of next to nothing"),
        (surge(volume=(10, 10, 12, 12)), 2, NONE, ["Import volume"], "20 % is not 25"),
        (surge(volume=(10, 10, 12.5, 12.5)), 3, MODERATE, [], "exactly at the gate passes it"),
        (surge(share=0.1), 3, MODERATE, [], "for a value as well"),
        (surge(price=(5, 5, 5, 5)), 2, NONE, ["Import price"], "more of it, not cheaper"),
        (surge(price=(5, 5, 6, 6)), 2, NONE, ["Import price"], "a gate has a direction of its own"),
        (surge(0.05, (10, 10, 10, 10), (5, 5, 5, 5)), 0, NONE,
         ["Import share", "Import volume", "Import price"], "every gate that failed is told"),
        (surge(volume=(90, 10, 10, 15, 15)), 3, MODERATE, [], "only as many as it says are averaged"),
    ],
)  # fmt: skip
def test_a_surge_fires_when_every_gate_is_passed(
    panel: dict[SeriesKey, list[Sample]],
    passed: int,
    raised: Severity,
    failed: list[str],
    reason: str,
) -> None:
    reading = read_panel(SURGE, panel, NOW)
    assert (reading.compared, reading.raised, reading.undefined) == (passed, raised, ""), reason
    assert [m.name for m in reading.measures if "failed" in m.name] == [
        f"{gate}: failed" for gate in failed
    ], reason
    assert reading.measures[0] == ("gates passed", passed, 3)


@pytest.mark.parametrize(
    ("panel", "words", "reason"),
    [
        (surge(share=None), "Import share cannot be judged: it was never observed", "no share"),
        (surge(volume=(10, 15, 15)), "it needs 4 observations and has 3", "one too few before"),
        (surge(volume=()), "Import volume cannot be judged: it was never", "no volume"),
        (surge(price=(0, 0, 4, 4)), "Import price cannot be judged: the mean before is zero",
         "there is no change from nothing"),
        (surge(volume=(1e-8, 1e-8, 1e308, 1e308)), "the result is beyond all numbers", "huge"),
        (surge(None, (10,)), "never observed; Import volume cannot be judged: it needs 4", "both"),
    ],
)  # fmt: skip
def test_a_gate_that_cannot_be_judged_makes_the_surge_undefined(
    panel: dict[SeriesKey, list[Sample]], words: str, reason: str
) -> None:
    reading = read_panel(SURGE, panel, NOW)
    assert words in reading.undefined, reason
    assert reading.raised is NONE
    assert all(math.isfinite(measure.value) for measure in reading.measures)


def test_a_gate_that_cannot_be_judged_does_not_matter_where_another_failed() -> None:
    reading = read_panel(SURGE, surge(share=None, price=(5, 5, 5, 5)), NOW)
    assert reading.is_calm
    assert reading.measures == (
        Measure("gates passed", 1, 3),
        Measure("Import share: observations", 0, 1),
        Measure("Import volume: passed", 0.5, 0.25),
        Measure("Import price: failed", 0, -0.1),
    )


def test_a_gate_that_cannot_be_judged_does_not_let_a_surge_go() -> None:
    strict = replace(SURGE, bands=(Band(MODERATE, 3, 1),))
    assert read_panel(strict, surge(price=(5, 5, 5, 5)), NOW).held is MODERATE, "2 has not cleared"
    known = surge(share=0.05, price=(5, 5, 5, 5))
    assert read_panel(strict, known, NOW).held is NONE, "1 has"
    unknown = surge(share=None, price=(5, 5, 5, 5))
    assert read_panel(strict, unknown, NOW).held is MODERATE, "1 or 2 may not have"


def test_a_gate_is_stale_after_its_fresh_days() -> None:
    seen_days_ago = (NOW - at("2023-12-28")) / timedelta(days=1)
    fresh = replace(SURGE, fresh_days=seen_days_ago)
    assert not read_panel(fresh, surge(), NOW).undefined, "exactly as old is fresh"
    reading = read_panel(replace(SURGE, fresh_days=3), surge(), NOW)
    assert reading.undefined == "Import share cannot be judged: it was last observed 4 days ago"
    assert named(reading)["Import share: days since observed"] == (4, 3)


def test_while_frozen_a_surge_is_compared_with_what_was_before_it() -> None:
    panel = surge(volume=(10, 10, 15, 15, 15, 15), price=(5, 5, 4, 4, 4, 4))
    assert read_panel(SURGE, panel, NOW).compared == 1, "unfrozen it has become the normal"
    frozen = read_panel(SURGE, panel, NOW, frozen_at=at("2023-12-30"))
    assert frozen.raised is MODERATE
    assert named(frozen)["Import volume: passed"] == (0.5, 0.25)


# Composite


BEFORE = (10, 11, 10, 12, 11, 10, 11)  # median 11, median absolute deviation 1


def series(newest: float, *before: float, ends: str = "2023-12-31") -> list[Sample]:
    values = [*(before or BEFORE), newest]
    return daily((at(ends) - days(len(values) - 1)).date().isoformat(), *values)


def sector(**newest: float | list[Sample]) -> dict[SeriesKey, list[Sample]]:
    keys = {
        "lead": key("lead_time", "neon"),
        "lead_dram": key("lead_time", "dram"),
        "price": key("price", "neon"),
        "price_dram": key("price", "dram"),
        "volume": key("export_volume", "neon", "UA"),
    }
    return {keys[n]: v if isinstance(v, list) else series(v) for n, v in newest.items()}


# Of values 1 apart from the median of BEFORE the robust z is 0.6745.
@pytest.mark.parametrize(
    ("panel", "index", "coverage", "reason"),
    [
        (sector(lead=11, price=11, volume=11), 0, 1, "everything at its median"),
        (sector(lead=12, price=12, volume=10), 0.6745, 1, "less exported is as bad as longer waits"),
        (sector(lead=12, price=11, volume=11), 0.6745 / 2, 1, "lead time weighs half of it all"),
        (sector(lead=11, price=12, volume=12), 0, 1, "dearer, but more of it"),
        (sector(lead=12, lead_dram=10, price=11, volume=11), 0, 1, "two series share one weight"),
        (sector(lead=12, price=12), 0.6745, 0.75, "a member never observed does not count"),
        (sector(lead=12, lead_dram=series(50, 10, 10), price=11, volume=11), 0.6745 / 3, 0.75,
         "a series with too little past takes its part of the weight with it"),
        (sector(lead=12, price=12, price_dram=99, volume=10), 0.6745, 1, "DRAM is no member"),
        (sector(lead=series(12, ends="2023-11-17"), price=12, volume=10), 0.6745, 1,
         "45 days old is fresh"),
        (sector(lead=12, price=series(15, *[11] * 7), volume=10), 0.6745, 0.75,
         "a series that never moved has no spread and is not counted"),
        (sector(lead=series(12, 10, 10, 10, 10, 10, 10, 17), price=11, volume=11),
         2 / 1.2533 / 2, 1, "more than half tie: 2 from the median, mean absolute deviation 1"),
    ],
)  # fmt: skip
def test_a_composite_is_the_weighted_mean_of_robust_z_scores(
    panel: dict[SeriesKey, list[Sample]], index: float, coverage: float, reason: str
) -> None:
    reading = read_panel(COMPOSITE, panel, NOW)
    assert reading.undefined == "", reason
    assert reading.compared == pytest.approx(index), reason
    assert named(reading)["coverage"] == pytest.approx((coverage, 0.6)), reason


@pytest.mark.parametrize(
    ("panel", "words", "reason"),
    [
        ({}, "0% of the weights", "nothing was observed"),
        (sector(price=12, volume=10), "50% of the weights can be counted, and it needs 60%", "half"),
        (sector(lead=series(12, ends="2023-11-16"), price=12, volume=10), "50%", "46 days are stale"),
        (sector(lead=series(12, 10, 11, 10, 12), price=12, volume=10), "50%", "four are not five"),
        (sector(lead=series(1e308, *[-1e308] * 3, *[-9e307] * 4), price=11, volume=11), "50%", "overflow"),
    ],
)  # fmt: skip
def test_a_composite_below_its_coverage_is_undefined(
    panel: dict[SeriesKey, list[Sample]], words: str, reason: str
) -> None:
    reading = read_panel(COMPOSITE, panel, NOW)
    assert words in reading.undefined, reason
    assert all(math.isfinite(measure.value) for measure in reading.measures)


def test_a_composite_shows_every_member() -> None:
    reading = read_panel(COMPOSITE, sector(lead=12, price=12), NOW)
    assert list(named(reading)) == [
        "coverage",
        "lead_time: spreads from its median",
        "price of neon: spreads from its median",
        "export_volume of neon at UA: series counted",
    ]


def test_the_newest_observation_is_never_in_its_own_past() -> None:
    alone = replace(COMPOSITE, members=MEMBERS[:1])
    for newest in (12, 1000):
        reading = read_panel(alone, sector(lead=newest), NOW)
        assert reading.compared == pytest.approx(0.6745 * (newest - 11))


def test_the_guard_and_the_onset_keep_a_slow_rise_out_of_the_past() -> None:
    guarded = replace(COMPOSITE, members=MEMBERS[:1], baseline=replace(LAST, guard=2))
    risen = series(12, *BEFORE, 40, 50)
    assert read_panel(guarded, sector(lead=risen), NOW).compared == pytest.approx(0.6745)
    alone = replace(COMPOSITE, members=MEMBERS[:1])
    frozen = read_panel(alone, sector(lead=risen), NOW, frozen_at=risen[-3].at)
    assert frozen.compared == pytest.approx(0.6745)


# Combination

OF_VOLUME, OF_PRICE = Family.quantity, Family.price
Told = dict[str, list[tuple[Family, Severity]]]


@pytest.mark.parametrize(
    ("detector", "states", "count", "raised", "reason"),
    [
        (BOTH, {}, 0, NONE, "nobody found anything"),
        (BOTH, {"volume": [(OF_VOLUME, MINOR)]}, 1, NONE, "one of two"),
        (BOTH, {"volume": [(OF_VOLUME, MINOR)], "price": [(OF_PRICE, MINOR)]}, 2, SEVERE, "both"),
        (BOTH, {"volume": [(OF_VOLUME, MINOR)] * 3}, 1, NONE, "a rule counts once"),
        (BOTH, {"volume": [(OF_VOLUME, NONE)], "price": [(OF_PRICE, MINOR)]}, 1, NONE,
         "a finding that is ok does not count"),
        (BOTH, {"volume": [(OF_VOLUME, NONE), (OF_VOLUME, SEVERE)]}, 1, NONE,
         "any of its findings will do"),
        (BOTH, {"other": [(OF_PRICE, SEVERE)]}, 0, NONE, "only the rules it names"),
        (replace(BOTH, at_least=MODERATE),
         {"volume": [(OF_VOLUME, MODERATE)], "price": [(OF_PRICE, MINOR)]}, 1, NONE,
         "equal to the least severity counts, below it does not"),
        (replace(BOTH, bands=(Band(MINOR, 1, 0),)), {"price": [(OF_PRICE, MINOR)]}, 1, MINOR,
         "any: raised at one"),
        (replace(BOTH, count=Count.families),
         {"volume": [(OF_VOLUME, MINOR)], "price": [(OF_VOLUME, SEVERE)]}, 1, NONE,
         "two rules of one family say one thing"),
        (replace(BOTH, count=Count.families),
         {"volume": [(OF_VOLUME, MINOR)], "price": [(OF_PRICE, SEVERE)]}, 2, SEVERE,
         "two families"),
        (replace(BOTH, count=Count.families, at_least=SEVERE),
         {"volume": [(OF_VOLUME, MINOR)], "price": [(OF_PRICE, SEVERE)]}, 1, NONE,
         "a family counts from the least severity on"),
    ],
)  # fmt: skip
def test_a_combination_counts_what_fires(
    detector: Combination, states: Told, count: int, raised: Severity, reason: str
) -> None:
    reading = read_findings(detector, states, NOW)
    assert (reading.compared, reading.raised) == (count, raised), reason
    assert (reading.at, reading.undefined) == (NOW, "")


def test_a_combination_tells_the_worst_of_each_of_its_rules() -> None:
    reading = read_findings(BOTH, {"price": [(OF_PRICE, MINOR), (OF_PRICE, SEVERE)]}, NOW)
    assert reading.measures == (
        Measure("rules firing", 1, 2),
        Measure("volume", NONE, MINOR),
        Measure("price", SEVERE, MINOR),
    )


# The reach


@pytest.mark.parametrize(
    ("detector", "observations", "reason"),
    [
        (HHI, 1, "the newest period alone"),
        (CEPII, 3, "three periods"),
        (SURGE, 4, "the widest gate: two and the two before"),
        (replace(SURGE, gates=GATES[:1]), 1, "a gate of a value needs the value"),
        (
            replace(COMPOSITE, baseline=replace(LAST, guard=2)),
            10,
            "seven, two left out, the newest",
        ),
    ],
)
def test_each_series_of_a_panel_reaches_as_far_as_is_read(
    detector: Concentration | Surge | Composite, observations: int, reason: str
) -> None:
    assert panel_reach(detector) == Reach(observations=observations), reason


@pytest.mark.parametrize("detector", [SURGE, COMPOSITE, CEPII])
@given(data=st.data())
def test_what_lies_beyond_the_reach_does_not_matter(
    detector: Surge | Composite | Concentration, data: st.DataObject
) -> None:
    values = st.lists(st.floats(0, 100), min_size=12, max_size=12)
    keys = [*surge(), *sector(lead=1, volume=1), *shares(equal(2, 0.1))]
    panel = {of: series(*reversed(data.draw(values))) for of in keys}
    _, observations = panel_reach(detector)
    cut = {of: found[-observations:] for of, found in panel.items()}
    assert read_panel(detector, cut, NOW) == read_panel(detector, panel, NOW)
