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
    Overflow,
    Party,
    PartyStatement,
    Profile,
    Requirement,
    SeriesBreak,
    SetBy,
    Source,
    Span,
    Tlp,
    Unit,
    soundness,
)
from alerts.rules import (
    Agreement,
    Band,
    Bands,
    Combination,
    Combine,
    Composite,
    Concentration,
    Corroboration,
    Count,
    Cusum,
    Detector,
    Direction,
    Ears,
    EarsMethod,
    Effect,
    EventTrigger,
    Ewma,
    Family,
    Freshness,
    LastObservations,
    LevelView,
    MedianOfWindow,
    Member,
    Method,
    PercentChange,
    Previous,
    RateOfChange,
    Rule,
    Run,
    SamePeriod,
    Season,
    Share,
    ShortView,
    Site,
    SiteHazard,
    Surge,
    SurgeGate,
    Target,
    Transform,
    Trust,
    ZScore,
)
from alerts.signals import SeriesKey, Severity

OURS = ("our_design",)
KNOWN = Catalogue(
    sectors={"chips": Sector("chips", "Chips"), "shipping": Sector("shipping", "Shipping")},
    goods={"neon": Good("neon", "Neon", ("chips",)), "ships": Good("ships", "S", ("shipping",))},
    indicators={
        "lead_time": Indicator("lead_time", "Lead time", "weeks", Harm.up, 30, minimum=0),
        "transits": Indicator("transits", "Transits", "1/day", Harm.down, 1, ("shipping",)),
        "share": Indicator("share", "Share", "fraction", Harm.up, 365, minimum=0, maximum=1),
        "volume": Indicator("volume", "Volume", "kg", Harm.down, 30, minimum=0),
        "stock": Indicator("stock", "Stock", "days", Harm.both, 30, minimum=0),
        "wait": Indicator("wait", "Wait", "weeks", Harm.up, 30, minimum=0),
        "pressure": Indicator("pressure", "Pressure", "sd", Harm.up, 30, minimum=-20, maximum=20),
    },
    events={"strike": Event("strike", "Strike", Severity.moderate)},
    countries={"TW": "Taiwan", "NL": "Netherlands"},
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


UP, DOWN = Direction.up, Direction.down
MINOR = (Band(Severity.minor, 3, 2),)
ONE = (Band(Severity.minor, 1, 0.5),)
LAST = LastObservations("last_observations", 24, 12)
MEDIAN = MedianOfWindow("median_of_window", 90, 3)
KNOWN_MEAN = Target("target", 10, 2)
Z = ZScore("z_score", UP, Method.robust, LAST, MINOR)
CHANGE = PercentChange("percent_change", UP, LAST, ONE)
EWMA = Ewma("ewma", UP, 0.3, 10, KNOWN_MEAN, MINOR)
CUSUM = Cusum("cusum", UP, 0.5, 10, KNOWN_MEAN, MINOR)
EARS = Ears("ears", UP, EarsMethod.c2, MINOR)
SLOPE = RateOfChange("rate_of_change", UP, 6, ONE)
MOVES = Run("run", UP, MINOR)
SITES = (Site("TW", "Fabs", 0.6, 0.5), Site("NLRTM", "Port", 0.2, 1))
HAZARD = SiteHazard("site_hazard", UP, SITES, ONE)
VIEWS = Agreement(
    kind="agreement",
    direction=UP,
    transform=Transform.log,
    mean_of=1,
    levels=(LevelView(12, 1, 6), LevelView(36, 2, 12)),
    changes=(1, 3),
    need=3,
    quantile=0.98,
    ratio=1.1,
    least=2.5,
    memory=120,
    min_memory=24,
    guard=1,
    floor=0.01,
    bands=ONE,
    short=ShortView(7, 0.5, 60),
)
SHARES = Concentration("concentration", UP, Share.hhi, (Band(Severity.minor, 0.4001, 0.35),), 2, 3)
GATE = SurgeGate("Price", "lead_time", DOWN, -0.1, 3)
GATES = Surge(
    "surge", UP, (GATE, SurgeGate("Share", "share", UP, 0.1)), (Band(Severity.minor, 2, 1),)
)
INDEX = Composite(
    "composite", UP, (Member("lead_time", UP), Member("volume", DOWN)), LAST, 45, 0.6, MINOR
)
BOTH = Combination("combination", UP, ("lead-time", "strike"), (Band(Severity.severe, 2, 1),))


def asked(detector: Detector, *indicators: str, **fields: Any) -> dict[str, Any]:
    """Changes that make it the detector of the first rule, with the strike beside it."""
    kind: dict[str, Any] = {"indicators": indicators or ("lead_time",), "source": OURS, **fields}
    if isinstance(detector, Surge):
        kind["indicators"] = indicators or ("lead_time", "share")
    if isinstance(detector, Composite):
        kind = {**kind, "indicators": ("lead_time", "volume"), "effect": Effect.follow_up} | fields
    return {"rules": (replace(RULE, detector=detector, **kind), STRIKE)}


def combined(detector: Combination = BOTH, **fields: Any) -> dict[str, Any]:
    both = replace(RULE, id="both", indicators=(), detector=detector)
    return {"rules": (RULE, STRIKE, replace(both, **fields))}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (asked(Z), "robust z against the last observations"),
        (asked(replace(Z, baseline=SamePeriod("same_period", 3, 21, 2, 6))), "a season"),
        (asked(replace(CHANGE, baseline=Previous("previous", 1))), "against the one before"),
        (asked(replace(Z, baseline=Target("target", 10), min_spread=1)), "min_spread is a spread"),
        (asked(EWMA), "EWMA with a known mean"),
        (asked(replace(CUSUM, direction=DOWN), "volume"), "the bands of a sum point up either way"),
        (asked(replace(CUSUM, direction=DOWN, two_sided=True)), "two sides are no direction"),
        (asked(EARS, "pressure"), "EARS can be computed of anything that has a spread"),
        (asked(SLOPE), "a slope in weeks"),
        (asked(replace(SLOPE, relative=True), "lead_time", "volume", effect=Effect.follow_up),
         "fractions have no unit; a follow-up may look the other way"),
        (asked(replace(MOVES, direction=DOWN), "volume"), "moves are counted either way"),
        (asked(HAZARD), "two sites"),
        (asked(VIEWS, "lead_time", "wait"), "logarithms have no unit"),
        (asked(SHARES, "share"), "shares are fractions"),
        (asked(GATES), "a gate may look where no harm is: what is cheap is dumped"),
        (asked(INDEX), "a sector's index"),
        (asked(bands(UP, *BANDS)[0].detector, "lead_time", "wait"), "two indicators in weeks"),
        (asked(bands(DOWN, Band(Severity.minor, 9, 12))[0].detector, "stock"), "harm both ways"),
        (combined(), "two rules"),
        (combined(replace(BOTH, bands=(Band(Severity.minor, 1, 0),), count=Count.families)), "any"),
        ({"rules": (replace(RULE, trust=Trust(Combine.weighted_median, 2, "B2", (), {"AA": 0.5})),)},
         "whom a rule believes"),
        ({"rules": (replace(RULE, shadow=True, effective_from=date(2026, 1, 1)),)}, "from day one"),
        ({"series_breaks": (SeriesBreak("chips", "lead_time", date(2026, 3, 1), "New panel."),)},
         "a break"),
        ({"overflow": Overflow(1, OURS)}, "one alert at a time"),
    ],
)  # fmt: skip
def test_what_can_be_meant_has_no_faults(changes: dict[str, Any], reason: str) -> None:
    assert soundness.check(replace(SOUND, **changes), KNOWN) == (), reason


D = "/rules/0/detector"


@pytest.mark.parametrize(
    ("changes", "pointer", "words"),
    [
        # the same number means different things in different units
        (asked(bands(UP, *BANDS)[0].detector, "lead_time", "stock"), "/rules/0/indicators",
         "lead_time in weeks and stock in days differ: write a rule for each"),
        (asked(SLOPE, "lead_time", "stock"), "/rules/0/indicators", "'raise_at' stands"),
        (asked(replace(Z, min_spread=1), "lead_time", "stock"), "/rules/0/indicators", "'min_spr"),
        (asked(EWMA, "lead_time", "stock"), "/rules/0/indicators", "'mean' of the target"),
        (asked(replace(EARS, min_sigma=1), "lead_time", "stock"), "/rules/0/indicators", "'min_si"),
        (asked(replace(VIEWS, transform=Transform.identity), "lead_time", "stock"),
         "/rules/0/indicators", "'floor' stands"),
        (asked(HAZARD, "lead_time", "stock"), "/rules/0/indicators", "'raise_at' stands"),
        (asked(SHARES, "lead_time"), "/rules/0/indicators/0", "in weeks, and shares are fractions"),
        (asked(SHARES, "share", "pressure"), "/rules/0/indicators", "cannot be added"),
        # and percents written for fractions are beyond all fractions
        (asked(bands(UP, Band(Severity.minor, 40, 30))[0].detector, "share"),
         f"{D}/bands/0/raise_at", "never be reached: share, in fraction, ends at 1."),
        (asked(replace(SHARES, bands=(Band(Severity.minor, 40, 30),)), "share"),
         f"{D}/bands/0/raise_at", "a share of the whole ends at 1"),
        (asked(replace(CHANGE, direction=DOWN, bands=(Band(Severity.minor, -25, -15),)), "volume"),
         f"{D}/bands/0/raise_at", "of what is never negative, ends at -1"),
        (asked(replace(Z, baseline=Target("target", 40, 1)), "share"), f"{D}/baseline/mean",
         "40 is impossible for share"),
        (asked(replace(GATES, gates=(GATE, SurgeGate("Share", "share", UP, 10)))),
         f"{D}/gates/1/at", "never be passed: share, in fraction, ends at 1"),
        (asked(replace(GATES, gates=(replace(GATE, at=-10), GATES.gates[1]))),
         f"{D}/gates/0/at", "a change of lead_time, as a fraction, ends at -1"),
        (asked(replace(HAZARD, bands=(Band(Severity.minor, 7, 6),)), "pressure"),
         f"{D}/bands/0/raise_at", "the hazard at these sites ends at 6"),
        # what is counted has an end, and what is usual should not be alarming
        (asked(replace(MOVES, longest=2)), f"{D}/bands/0/raise_at", "looked back on ends at 2"),
        (asked(replace(GATES, bands=MINOR)), f"{D}/bands/0/raise_at", "number of gates ends at 2"),
        (combined(replace(BOTH, bands=MINOR)), "/rules/2/detector/bands/0/raise_at", "rules ends at 2"),
        (combined(replace(BOTH, count=Count.families)), "/rules/2/detector/bands/0/raise_at",
         "number of families ends at 1"),
        (asked(bands(UP, Band(Severity.minor, 0, -1))[0].detector), f"{D}/bands/0/raise_at",
         "reached by anything: lead_time, in weeks, begins at 0"),
        (asked(bands(UP, Band(Severity.minor, 1, -1))[0].detector), f"{D}/bands/0/clear_at",
         "never clear"),
        (asked(replace(Z, bands=(Band(Severity.minor, -3, -4),))), f"{D}/bands/0/raise_at",
         "what is unusual begins at 0"),
        (asked(replace(Z, direction=DOWN), "volume"), f"{D}/bands/0/clear_at", "above 3"),
        # which way harm lies
        (asked(replace(Z, direction=DOWN, bands=(Band(Severity.minor, -3, -2),))), f"{D}/direction",
         "lead_time does harm when it goes up, and this would warn when it goes down"),
        (asked(replace(INDEX, members=(Member("lead_time", DOWN), Member("volume", DOWN)))),
         f"{D}/members/0/direction", "does harm when it goes up"),
        (asked(replace(SHARES, direction=DOWN), "share"), f"{D}/direction", "the direction is up"),
        (asked(replace(GATES, direction=DOWN)), f"{D}/direction", "the direction is up"),
        (asked(replace(INDEX, direction=DOWN)), f"{D}/direction", "the direction is up"),
        (combined(replace(BOTH, direction=DOWN)), "/rules/2/detector/direction", "is up"),
        # what has no logarithm or root
        (asked(replace(Z, transform=Transform.log), "pressure"), f"{D}/transform",
         "pressure can be -20 sd, and below 0 there is no logarithm"),
        (asked(replace(EARS, transform=Transform.square_root), "pressure"), f"{D}/transform",
         "no square root"),
        (asked(replace(Z, transform=Transform.log, baseline=Target("target", 0, 1))),
         f"{D}/baseline/mean", "no logarithm of 0"),
        # baselines
        (asked(replace(Z, baseline=LastObservations("last_observations", 5, 6))),
         f"{D}/baseline/min_observations", "needs 6 observations and looks at 5"),
        (asked(replace(Z, baseline=LastObservations("last_observations", 5, 1))),
         f"{D}/baseline/min_observations", "A spread needs at least two"),
        (asked(replace(CHANGE, baseline=LastObservations("last_observations", 5, 0))),
         f"{D}/baseline/min_observations", "at least one"),
        (asked(replace(Z, baseline=LastObservations("last_observations", 5, 5, 5))),
         f"{D}/baseline/guard", "fewer observations than the 5"),
        (asked(replace(Z, baseline=replace(LAST, guard=-1))), f"{D}/baseline/guard", "from 0"),
        (asked(replace(Z, baseline=replace(LAST, observations=10**9))),
         f"{D}/baseline/observations", "At most 100000"),
        (asked(replace(CHANGE, baseline=replace(MEDIAN, days=1e9))), f"{D}/baseline/days", "century"),
        (asked(replace(CHANGE, baseline=SamePeriod("same_period", 3, 21, 4, 6))),
         f"{D}/baseline/min_years", "needs 4 years and looks at 3"),
        (asked(replace(CHANGE, baseline=SamePeriod("same_period", 3, 183, 2, 6))),
         f"{D}/baseline/width_days", "years meet"),
        (asked(replace(CHANGE, baseline=Previous("previous", 0))), f"{D}/baseline/back", "one back"),
        (asked(replace(CHANGE, baseline=Target("target", 0))), f"{D}/baseline/mean", "fractions"),
        (asked(replace(Z, baseline=Target("target", 10))), f"{D}/baseline", "needs its 'spread'"),
        (asked(replace(EWMA, baseline=Target("target", 10, 0))), f"{D}/baseline/spread", "above 0"),
        (asked(replace(CHANGE, mean_of=25)), f"{D}/mean_of", "averages more than the 24"),
        # plain numbers
        (asked(replace(Z, mean_of=0)), f"{D}/mean_of", "At least one"),
        (asked(replace(Z, min_spread=-1)), f"{D}/min_spread", "negative"),
        (asked(replace(EWMA, weight=0)), f"{D}/weight", "more than 0 and at most 1"),
        (asked(replace(EWMA, weight=1.1)), f"{D}/weight", "more than 0 and at most 1"),
        (asked(replace(EWMA, run=0)), f"{D}/run", "at least one"),
        (asked(replace(CUSUM, slack=-0.5)), f"{D}/slack", "grow by itself"),
        (asked(replace(EARS, observations=1)), f"{D}/observations", "at least two"),
        (asked(replace(EARS, min_sigma=-1)), f"{D}/min_sigma", "negative"),
        (asked(replace(SLOPE, observations=1)), f"{D}/observations", "at least two"),
        (asked(replace(MOVES, least_move=-0.1)), f"{D}/least_move", "negative"),
        (asked(replace(Z, bands=(Band(Severity.minor, float("inf"), 2),))),
         f"{D}/bands/0/raise_at", "inf is not a number that can be compared"),
        (asked(replace(EWMA, weight=float("nan"))), f"{D}/weight", "nan is not a number"),
        # agreement
        (asked(replace(VIEWS, need=6)), f"{D}/need", "6 views must agree, and there are 5"),
        (asked(replace(VIEWS, need=0)), f"{D}/need", "0 views"),
        (asked(replace(VIEWS, need=2)), f"{D}/need", "hold it for ever"),
        (asked(replace(VIEWS, quantile=98)), f"{D}/quantile", "between 0 and 1"),
        (asked(replace(VIEWS, memory=23)), f"{D}/min_memory", "24 values of a memory of 23"),
        (asked(replace(VIEWS, ratio=0)), f"{D}/ratio", "above 0"),
        (asked(replace(VIEWS, least=0)), f"{D}/least", "above 0"),
        (asked(replace(VIEWS, levels=(LevelView(12, 1, 13),))), f"{D}/levels/0/min_observations",
         "needs 13 observations and looks at 12"),
        (asked(replace(VIEWS, mean_of=13)), f"{D}/levels/0/observations", "a mean of 13"),
        (asked(replace(VIEWS, levels=(LevelView(12, -1, 6),))), f"{D}/levels/0/guard", "than 0"),
        (asked(replace(VIEWS, changes=(1, 0))), f"{D}/changes/1", "at least one"),
        (asked(replace(VIEWS, changes=(3, 3))), f"{D}/changes/1", "twice"),
        (asked(replace(VIEWS, short=ShortView(61, 0.5, 60))), f"{D}/short/observations", "long ones"),
        (asked(replace(VIEWS, season=Season(0, 3, 0, 2))), f"{D}/season/period", "at least one"),
        (asked(replace(VIEWS, season=Season(12, 3, 6, 2))), f"{D}/season/width", "fewer than 6"),
        (asked(replace(VIEWS, season=Season(12, 3, -1, 2))), f"{D}/season/width", "From 0"),
        (asked(replace(VIEWS, season=Season(12, 0, 1, 2))), f"{D}/season/years", "At least one"),
        (asked(replace(VIEWS, season=Season(12, 3, 1, -1))), f"{D}/season/margin", "negative"),
        (asked(replace(VIEWS, levels=(), need=2, season=Season(12, 3, 1, 2))), f"{D}/season",
         "there is no level"),
        (asked(replace(VIEWS, season=Season(12, 3, 1, 2), bands=(Band(Severity.minor, 0.9, 0.5),))),
         f"{D}/bands/0/raise_at", "1 is the least that raises"),
        # sites
        (asked(replace(HAZARD, sites=())), f"{D}/sites", "At least one site"),
        (asked(replace(HAZARD, sites=(*SITES, SITES[0]))), f"{D}/sites/2/place", "'TW' is there twice"),
        (asked(replace(HAZARD, sites=(Site("TX", "X", 1, 1),))), f"{D}/sites/0/place", "no place 'TX'"),
        (asked(replace(HAZARD, sites=(Site("TW", "X", 60, 1),))), f"{D}/sites/0/exposure", "fraction"),
        (asked(replace(HAZARD, sites=SITES[:1]), places=("NLRTM",)), "/rules/0/places/0",
         "not among the sites"),
        # several series
        (asked(replace(SHARES, times=4), "share"), f"{D}/times", "4 times in 3 periods"),
        (asked(replace(GATES, gates=())), f"{D}/gates", "At least one gate"),
        (asked(replace(GATES, gates=(GATE, GATE)), "lead_time"), f"{D}/gates/1/title", "twice"),
        (asked(replace(GATES, gates=(replace(GATE, change_over=0), GATES.gates[1]))),
         f"{D}/gates/0/change_over", "at least one"),
        (asked(GATES, "lead_time"), f"{D}/gates/1/indicator", "'share' is not among the rule's"),
        (asked(GATES, "lead_time", "share", "stock"), "/rules/0/indicators/2", "None of its gates"),
        (asked(replace(GATES, fresh_days=0)), f"{D}/fresh_days", "some days"),
        (asked(INDEX, effect=Effect.early_warning), "/rules/0/effect", "never raises an alert alone"),
        (asked(INDEX, indicators=("lead_time",)), f"{D}/members/1/indicator", "'volume' is not among"),
        (asked(replace(INDEX, coverage=60)), f"{D}/coverage", "at most 1"),
        (asked(replace(INDEX, fresh_days=0)), f"{D}/fresh_days", "some days"),
        (asked(replace(INDEX, members=(*INDEX.members, INDEX.members[0]))), f"{D}/members/2", "twice"),
        (asked(replace(INDEX, members=(Member("lead_time", UP, 0), INDEX.members[1]))),
         f"{D}/members/0/weight", "above 0"),
        (asked(replace(INDEX, members=(Member("lead_time", UP, good="noen"), INDEX.members[1]))),
         f"{D}/members/0/good", "Did you mean neon?"),
        (asked(replace(INDEX, baseline=replace(LAST, min_observations=25))),
         f"{D}/baseline/min_observations", "needs 25"),
        # other findings
        (combined(replace(BOTH, rules=("lead-time", "strik"))), "/rules/2/detector/rules/1",
         "no rule 'strik'"),
        (combined(replace(BOTH, rules=("lead-time", "both"))), "/rules/2/detector/rules/1", "itself"),
        ({"rules": (*combined()["rules"], replace(combined()["rules"][2], id="all",
                                                  detector=replace(BOTH, rules=("both", "strike"))))},
         "/rules/3/detector/rules/0", "combinations count no others"),
        (combined(replace(BOTH, rules=("strike", "strike"))), "/rules/2/detector/rules/1", "twice"),
        (combined(replace(BOTH, rules=())), "/rules/2/detector/rules", "At least one"),
        (combined(replace(BOTH, at_least=Severity.none)), "/rules/2/detector/at_least", "none is none"),
        ({"rules": (replace(RULE, shadow=True), *combined()["rules"][1:])},
         "/rules/2/detector/rules/0", "lead-time is a shadow"),
        ({"rules": (RULE, replace(STRIKE, effect=Effect.component))}, "/rules/1/effect",
         "No combination counts strike"),
        # whom it believes, and from when on
        ({"rules": (replace(RULE, trust=Trust(parties=0)),)}, "/rules/0/trust/parties", "one party"),
        ({"rules": (replace(RULE, trust=Trust(least_reliability="2B")),)},
         "/rules/0/trust/least_reliability", "such as B2"),
        ({"rules": (replace(RULE, trust=Trust(Combine.weighted_median, weights={"AA": 0})),)},
         "/rules/0/trust/weights/AA", "above 0"),
        ({"rules": (replace(RULE, trust=Trust(weights={"AA": 2})),)}, "/rules/0/trust/weights",
         "not to a median"),
        ({"rules": (replace(RULE, effective_from=date(2027, 1, 1)),)}, "/rules/0/effective_from",
         "outside the validity of the profile, 2026-01-01 to 2026-12-31"),
        # breaks and overflow
        ({"series_breaks": (SeriesBreak("chips", "lead_tim", date(2026, 3, 1), "x"),)},
         "/series_breaks/0/indicator", "Did you mean lead_time?"),
        ({"series_breaks": (SeriesBreak("shipping", "transits", date(2026, 3, 1), "x"),)},
         "/series_breaks/0/sector", "not a sector of this mechanism"),
        ({"series_breaks": (SeriesBreak("chips", "lead_time", date(2026, 3, 1), "x", "noen", "XX"),)},
         "/series_breaks/0/good", "Did you mean neon?"),
        ({"series_breaks": (SeriesBreak("chips", "lead_time", date(2026, 3, 1), "x", "neon", "XX"),)},
         "/series_breaks/0/place", "no place 'XX'"),
        ({"series_breaks": (SeriesBreak("chips", "transits", date(2026, 3, 1), "x"),)},
         "/series_breaks/0/indicator", "chips does not have the indicator transits"),
        ({"series_breaks": (SeriesBreak("chips", "lead_time", date(2026, 3, 1), " "),)},
         "/series_breaks/0/reason", "Say what changed"),
        ({"series_breaks": (SeriesBreak("chips", "lead_time", date(2026, 3, 1), "x"),) * 2},
         "/series_breaks/1", "twice"),
        ({"overflow": Overflow(0, OURS)}, "/overflow/open_alerts", "At least one"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_refused_with_the_reason(
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
