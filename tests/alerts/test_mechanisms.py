"""Profiles: when they are in force, what their alerts are about, and what cannot be meant."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from alerts.catalogue import Catalogue, Event, Good, Harm, Indicator, Sector
from alerts.mechanisms import (
    ClockPolicy,
    Closing,
    Dimension,
    EventOnConcentratedGood,
    KeyGood,
    Level,
    LevelPolicy,
    Listing,
    OpenWithoutEasing,
    Party,
    PartyStatement,
    Profile,
    Requirement,
    SetBy,
    Source,
    Span,
    Tlp,
    Unit,
    soundness,
)
from alerts.rules import (
    Band,
    Bands,
    Corroboration,
    Direction,
    EventTrigger,
    Family,
    Freshness,
    MedianOfWindow,
    PercentChange,
    Rule,
)
from alerts.signals import SeriesKey, Severity

OURS = ("our_design",)
KNOWN = Catalogue(
    sectors={"chips": Sector("chips", "Chips"), "shipping": Sector("shipping", "Shipping")},
    goods={"neon": Good("neon", "Neon", ("chips",)), "ships": Good("ships", "S", ("shipping",))},
    indicators={
        "lead_time": Indicator("lead_time", "Lead time", "weeks", Harm.up, 30, minimum=0),
        "transits": Indicator("transits", "Transits", "1/day", Harm.down, 1, ("shipping",)),
    },
    events={"strike": Event("strike", "Strike", Severity.moderate)},
    countries={"TW": "Taiwan"},
)
BANDS = (Band(Severity.minor, 14, 13), Band(Severity.severe, 20, 18))
RULE = Rule(
    "lead-time",
    "Lead time",
    1,
    Family.availability,
    ("chips",),
    ("lead_time",),
    Bands("bands", Direction.up, BANDS, OURS),
    source=OURS,
)
STRIKE = replace(
    RULE,
    id="strike",
    indicators=("strike",),
    detector=EventTrigger("event", Severity.minor, Corroboration(2, 14), source=OURS),
)
CRISIS = LevelPolicy(
    Level.crisis,
    "Crisis",
    "Shortage.",
    (SetBy.all_parties,),
    OURS,
    (Requirement("shortage", "There is one."),),
    lasts_at_most=Span(12, Unit.months),
    falls_to=Level.early_warning,
)
LEVELS = (
    LevelPolicy(Level.monitoring, "Monitoring", "Watched.", (SetBy.engine,), OURS),
    LevelPolicy(Level.early_warning, "Warning", "May come.", (SetBy.engine,), ("treaty",)),
    CRISIS,
)
SOUND = Profile(
    id="neon-pact",
    version=1,
    title="Neon pact",
    summary="A pact about neon.",
    reference_prefix="NEON",
    valid_from=date(2026, 1, 1),
    valid_until=date(2026, 12, 31),
    parties=(Party("AA", "Aurora"), Party("BB", "Baltica")),
    sectors=("chips",),
    default_tlp=Tlp.amber,
    alert_per=(Dimension.good,),
    levels=LEVELS,
    closing=Closing(14, 2, OURS),
    rules=(RULE, STRIKE),
    sources={"treaty": Source("The pact")},
)


def test_a_sound_profile_has_no_faults() -> None:
    assert soundness.check(SOUND, KNOWN) == ()


def test_a_profile_is_in_force_on_both_its_first_and_its_last_day() -> None:
    assert SOUND.in_force(date(2026, 1, 1))
    assert SOUND.in_force(date(2026, 12, 31))
    assert not SOUND.in_force(date(2025, 12, 31))
    assert not SOUND.in_force(date(2027, 1, 1))


def test_a_series_feeds_the_alert_of_its_good_wherever_it_was_measured() -> None:
    taiwan, japan = (SeriesKey("chips", "lead_time", "neon", place) for place in ("TW", "JP"))
    assert SOUND.scope_of(taiwan) == SOUND.scope_of(japan)
    assert SOUND.scope_of(taiwan).good == "neon"
    by_place = replace(SOUND, alert_per=(Dimension.place,))
    assert by_place.scope_of(taiwan) != by_place.scope_of(japan)


def test_an_exercise_never_shares_an_alert_with_the_real_thing() -> None:
    real = SeriesKey("chips", "lead_time", "neon", "TW")
    assert SOUND.scope_of(real) != SOUND.scope_of(real._replace(exercise="drill"))


def bands(direction: Direction, *written: Band) -> tuple[Rule, ...]:
    return (replace(RULE, detector=Bands("bands", direction, written, OURS)),)


def change(**fields: Any) -> tuple[Rule, ...]:
    median = MedianOfWindow("median_of_window", 90, 3)
    detector = PercentChange("percent_change", Direction.up, median, BANDS, source=OURS)
    return (replace(RULE, detector=replace(detector, **fields)),)


def levels(**fields: Any) -> tuple[LevelPolicy, ...]:
    return (*LEVELS[:2], replace(CRISIS, **fields))


def clock(**fields: Any) -> tuple[ClockPolicy, ...]:
    due = ClockPolicy("answer", "Answer", "request", "Nothing.", OURS, Span(1, Unit.hours))
    return (replace(due, **fields),)


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        # the profile itself
        ({"id": "Neon pact"}, "/id", "lower-case"),
        ({"reference_prefix": "neon"}, "/reference_prefix", "upper-case"),
        ({"version": 0}, "/version", "from 1"),
        ({"valid_until": date(2025, 1, 1)}, "/valid_until", "before it begins"),
        ({"parties": ()}, "/parties", "at least one party"),
        ({"parties": (Party("AA", "A"), Party("AA", "B"))}, "/parties/1/code", "twice"),
        ({"sectors": ("chips", "chps")}, "/sectors/1", "Did you mean chips?"),
        # levels
        ({"levels": LEVELS[:1]}, "/levels", "early_warning is missing"),
        ({"levels": (LEVELS[1], LEVELS[0], CRISIS)}, "/levels", "lowest to the highest"),
        ({"levels": (*LEVELS, CRISIS)}, "/levels/3/level", "twice"),
        ({"levels": levels(set_by=(SetBy.engine,))}, "/levels/2/set_by", "set by people"),
        ({"levels": levels(set_by=())}, "/levels/2/set_by", "Nobody sets"),
        ({"levels": levels(set_by=(SetBy.no_objection,))}, "/levels/2", "objection_window"),
        ({"levels": levels(falls_to=Level.crisis)}, "/levels/2/falls_to", "lower level"),
        ({"levels": levels(falls_to=Level.disruption)}, "/levels/2/falls_to", "missing"),
        ({"levels": levels(falls_to=None)}, "/levels/2", "together"),
        (
            {"levels": levels(lasts_at_most=Span(13, Unit.months))},
            "/levels/2/lasts_at_most",
            "at most 12 months",
        ),
        (
            {"levels": levels(lasts_at_most=Span(2, Unit.years))},
            "/levels/2/lasts_at_most",
            "at most 12 months",
        ),
        # rules
        ({"rules": (RULE, RULE)}, "/rules/1/id", "twice"),
        ({"rules": (replace(RULE, indicators=("lead_tim",)),)}, "/rules/0/indicators/0", "mean"),
        ({"rules": (replace(RULE, indicators=("transits",)),)}, "/rules/0/indicators/0", "No sec"),
        ({"rules": (replace(RULE, indicators=("strike",)),)}, "/rules/0/indicators/0", "no indi"),
        ({"rules": (replace(STRIKE, indicators=("lead_time",)),)}, "/rules/0/indicators/0", "no e"),
        ({"rules": (replace(RULE, sectors=("shipping",)),)}, "/rules/0/sectors/0", "not a sector"),
        ({"rules": (replace(RULE, goods=("neo",)),)}, "/rules/0/goods/0", "Did you mean neon?"),
        ({"rules": (replace(RULE, goods=("ships",)),)}, "/rules/0/goods/0", "not of chips"),
        ({"rules": (replace(RULE, places=("XX",)),)}, "/rules/0/places/0", "no place"),
        ({"rules": (replace(RULE, clear_after=0),)}, "/rules/0/clear_after", "from 1"),
        ({"rules": (replace(RULE, freshness=Freshness(9, 9)),)}, "/rules/0/freshness", "first"),
        ({"rules": bands(Direction.up)}, "/rules/0/detector/bands", "At least one band"),
        # a band clears on the safe side of where it is raised, which depends on the direction
        (
            {"rules": bands(Direction.up, Band(Severity.minor, 14, 14))},
            "/rules/0/detector/bands/0/clear_at",
            "below 14",
        ),
        (
            {"rules": bands(Direction.down, Band(Severity.minor, -0.5, -0.8))},
            "/rules/0/detector/bands/0/clear_at",
            "above -0.5",
        ),
        (
            {"rules": bands(Direction.up, BANDS[1], Band(Severity.minor, 24, 22))},
            "/rules/0/detector/bands/1/severity",
            "before severe",
        ),
        (
            {"rules": bands(Direction.up, BANDS[0], Band(Severity.severe, 14, 13.5))},
            "/rules/0/detector/bands/1/raise_at",
            "further up",
        ),
        (
            {"rules": bands(Direction.up, BANDS[0], Band(Severity.severe, 20, 12))},
            "/rules/0/detector/bands/1/clear_at",
            "further up",
        ),
        (
            {"rules": bands(Direction.up, Band(Severity.none, 14, 13))},
            "/rules/0/detector/bands/0/severity",
            "raises a severity",
        ),
        ({"rules": change(mean_of=0)}, "/rules/0/detector/mean_of", "At least one"),
        (
            {"rules": change(baseline=MedianOfWindow("median_of_window", 0, 3))},
            "/rules/0/detector/baseline",
            "more than 0 days",
        ),
        (
            {"rules": change(baseline=MedianOfWindow("median_of_window", 90, 0))},
            "/rules/0/detector/baseline/min_observations",
            "at least one",
        ),
        # what is recommended, talked about and waited for
        (
            {"recommendations": (OpenWithoutEasing("open_without_easing", Level.crisis, 0, OURS),)},
            "/recommendations/0/days",
            "some days",
        ),
        (
            {
                "recommendations": (
                    OpenWithoutEasing("open_without_easing", Level.early_warning, 9, OURS),
                )
            },
            "/recommendations/0/level",
            "recommend a higher",
        ),
        (
            {
                "recommendations": (
                    EventOnConcentratedGood(
                        "event_on_concentrated_good", Level.crisis, Severity.severe, 40, 0.65, OURS
                    ),
                )
            },
            "/recommendations/0/hhi_above",
            "between 0 and 1",
        ),
        (
            {
                "recommendations": (
                    PartyStatement("party_statement", Level.crisis, ("shortag",), OURS),
                )
            },
            "/recommendations/0/requirements/0",
            "No level requires",
        ),
        ({"clocks": clock(within=None)}, "/clocks/0", "wording"),
        ({"clocks": clock(within=Span(0, Unit.days))}, "/clocks/0/within/amount", "above zero"),
        ({"clocks": clock(levels=(Level.disruption,))}, "/clocks/0/levels/0", "missing"),
        ({"key_goods": (KeyGood("noen", OURS),)}, "/key_goods/0/good", "Did you mean neon?"),
        ({"key_goods": (KeyGood("neon", OURS, hhi=40),)}, "/key_goods/0/hhi", "between 0 and 1"),
        # 0.98 squared is 0.9604: one supplier alone makes more than that HHI
        ({"key_goods": (KeyGood("neon", OURS, 0.4, 0.98),)}, "/key_goods/0/hhi", "cannot be 0.4"),
        (
            {"key_goods": (KeyGood("neon", OURS, listed_by=("CC",)),)},
            "/key_goods/0/listed_by/0",
            "not a party",
        ),
        ({"listing": Listing(OURS, 3)}, "/listing/common_when_listed_by", "3 of 2"),
        ({"closing": Closing(14, 0, OURS)}, "/closing/fresh_observations", "At least one"),
        # provenance
        ({"closing": Closing(14, 2, ("treety",))}, "/closing/source", "no source 'treety'"),
        ({"validity_source": ("pact",)}, "/validity_source", "no source 'pact'"),
    ],
)
def test_what_cannot_be_meant_is_told_with_where_it_stands(
    changes: dict[str, Any], pointer: str, words: str
) -> None:
    found = soundness.check(replace(SOUND, **changes), KNOWN)
    assert (pointer, True) in [(f.pointer, words in f.detail) for f in found], found


def test_concentrations_published_with_two_digits_are_believed() -> None:
    gallium = replace(SOUND, key_goods=(KeyGood("neon", OURS, 0.96, 0.98),))
    assert soundness.check(gallium, KNOWN) == ()


@pytest.mark.parametrize(
    ("document", "pointers"),
    [
        ({"version": 3, "valid_from": "2026-01-01"}, []),  # neither says anything about the world
        ({"closing": {"hold_days": 14}}, ["/closing/hold_days"]),
        ({"closing": {"hold_days": 14, "source": "our_design"}}, []),
        ({"closing": {"hold_days": 14, "source": []}}, ["/closing/hold_days"]),
        ({"rules": [{"source": "our_design", "detector": {"bands": [{"raise_at": 1}]}}]}, []),
        (
            {"rules": [{"detector": {"bands": [{"raise_at": 1}]}}]},
            ["/rules/0/detector/bands/0/raise_at"],
        ),
        ({"rules": [{"version": 2}]}, []),
        ({"source": "our_design", "hold_days": 14}, ["/hold_days"]),  # the root vouches for nothing
        ({"clocks": [{"repeats": True}]}, []),  # a truth value is no number
        ({"x": {"steps": [1, 2]}}, ["/x/steps/0", "/x/steps/1"]),
    ],
)
def test_every_number_says_where_it_comes_from(
    document: dict[str, Any], pointers: list[str]
) -> None:
    assert [fault.pointer for fault in soundness.unsourced(document)] == pointers
