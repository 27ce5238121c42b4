"""What cannot be meant by a detector of one series: its baseline, views, sites and units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from alerts.catalogue import Catalogue, Fault, Harm, Indicator, nearest
from alerts.mechanisms.soundness.parts import bounds, codes, twice
from alerts.mechanisms.soundness.terms import place_faults
from alerts.rules import (
    Agreement,
    Bands,
    Baseline,
    Cusum,
    Ears,
    Effect,
    Ewma,
    LastObservations,
    Measured,
    MedianOfWindow,
    PercentChange,
    Previous,
    RateOfChange,
    Rule,
    Run,
    SameMonthLastYear,
    SamePeriod,
    Season,
    SiteHazard,
    Target,
    Transform,
    ZScore,
)

LEAST_ROOT = -0.375
"""Anscombe's 2 sqrt(x + 3/8) takes nothing below."""

ABOVE_ZERO = 1e-9
"""What must be above 0 is at least this."""

WIDEST_DAYS = 183
"""Half a year: wider periods of one year would meet those of the next."""


def measured_faults(
    rule: Rule,
    detector: Measured,
    known: Sequence[Indicator],
    catalogue: Catalogue,
    pointer: str,
) -> Iterator[Fault]:
    """Everything but the bands. ``pointer`` is the rule's, ``known`` what it is asked of."""
    at = f"{pointer}/detector"
    yield from _units(detector, known, pointer)
    yield from _harm(rule, detector, known, f"{at}/direction")
    yield from _transform(detector, known, f"{at}/transform")
    yield from _baseline_of(detector, known, f"{at}/baseline")
    yield from _numbers(detector, at)
    if isinstance(detector, SiteHazard):
        yield from _sites(rule, detector, catalogue, pointer)
    if isinstance(detector, Agreement):
        yield from _views(detector, at)


def _units(detector: Measured, known: Sequence[Indicator], pointer: str) -> Iterator[Fault]:
    """Several indicators with different units, where a number of the detector is in their unit."""
    if len({i.unit for i in known}) < 2:
        return
    name = _in_the_unit(detector)
    if name:
        units = " and ".join(f"{i.code} in {i.unit}" for i in known)
        detail = (
            f"{name} stands in the indicator's unit, but {units} differ: write a rule for each."
        )
        yield Fault(f"{pointer}/indicators", detail)


def _in_the_unit(detector: Measured) -> str:
    """The key of a number that is in the indicator's unit; empty where all are relative."""
    match detector:
        case Bands() | SiteHazard():
            return "'raise_at'"
        case RateOfChange():
            return "" if detector.relative else "'raise_at'"
        case PercentChange() | ZScore() | Ewma() | Cusum() if isinstance(detector.baseline, Target):
            return "the 'mean' of the target"
        case ZScore() | Ewma() | Cusum() if detector.transform is Transform.identity:
            return "'min_spread'" if detector.min_spread > 0 else ""
        case Ears() if detector.transform is Transform.identity:
            return "'min_sigma'" if detector.min_sigma > 0 else ""
        case Agreement() if detector.transform is Transform.identity:
            return "'floor'" if detector.floor > 0 else ""
        case _:
            return ""


def _harm(
    rule: Rule, detector: Measured, known: Sequence[Indicator], pointer: str
) -> Iterator[Fault]:
    """A warning of what does good. A follow-up may tell of easing, and a component of anything."""
    if rule.effect is not Effect.early_warning:
        return
    if isinstance(detector, Cusum) and detector.two_sided:
        return
    for indicator in known:
        if indicator.harm not in (Harm.both, detector.direction):
            detail = (
                f"{indicator.code} does harm when it goes {indicator.harm}, and this would warn when "
                f"it goes {detector.direction}."
            )
            yield Fault(pointer, detail, (indicator.harm.value,))


def _transform(detector: Measured, known: Sequence[Indicator], pointer: str) -> Iterator[Fault]:
    transform = getattr(detector, "transform", Transform.identity)
    least = {Transform.log: 0.0, Transform.square_root: LEAST_ROOT}.get(transform)
    for indicator in known:
        if least is not None and indicator.minimum is not None and indicator.minimum < least:
            root = "square root" if transform is Transform.square_root else "logarithm"
            detail = (
                f"{indicator.code} can be {indicator.minimum:g} {indicator.unit}, "
                f"and below {least:g} there is no {root}."
            )
            yield Fault(pointer, detail, (Transform.identity.value,))


# Least and most of plain numbers: (key, least, most, sentence).
_LIMITS: Mapping[type, tuple[tuple[str, float, float, str], ...]] = {
    PercentChange: (("mean_of", 1, math.inf, "At least one observation is averaged."),),
    ZScore: (
        ("mean_of", 1, math.inf, "At least one observation is averaged."),
        ("min_spread", 0, math.inf, "A spread cannot be negative."),
    ),
    Ewma: (
        ("weight", ABOVE_ZERO, 1, "The newest observation weighs more than 0 and at most 1."),
        ("run", 1, math.inf, "The mean runs over at least one observation."),
        ("min_spread", 0, math.inf, "A spread cannot be negative."),
    ),
    Cusum: (
        ("slack", 0, math.inf, "A slack cannot be negative: the sum would grow by itself."),
        ("run", 1, math.inf, "The sum runs over at least one observation."),
        ("min_spread", 0, math.inf, "A spread cannot be negative."),
    ),
    Ears: (
        ("observations", 2, math.inf, "A deviation needs at least two observations."),
        ("min_sigma", 0, math.inf, "A deviation cannot be negative."),
    ),
    RateOfChange: (("observations", 2, math.inf, "A slope needs at least two observations."),),
    Run: (
        ("least_move", 0, math.inf, "A least move cannot be negative."),
        ("longest", 1, math.inf, "At least one move is looked back on."),
    ),
    Agreement: (
        ("mean_of", 1, math.inf, "At least one observation is averaged."),
        ("quantile", 0, 1, "A quantile is a fraction between 0 and 1."),
        ("ratio", ABOVE_ZERO, math.inf, "The ratio to the view's own past is above 0."),
        ("least", ABOVE_ZERO, math.inf, "The least threshold is above 0."),
        ("min_memory", 1, math.inf, "A quantile needs at least one value."),
        ("guard", 0, math.inf, "A guard has no fewer than 0 observations."),
        ("floor", 0, math.inf, "A spread cannot be negative."),
    ),
}


def _numbers(detector: Measured, pointer: str) -> Iterator[Fault]:
    for key, least, most, sentence in _LIMITS.get(type(detector), ()):
        if not least <= getattr(detector, key) <= most:
            yield Fault(f"{pointer}/{key}", sentence)
    if isinstance(detector, PercentChange | ZScore):
        compared = detector.baseline
        if isinstance(compared, LastObservations) and detector.mean_of > compared.observations:
            detail = f"It averages more than the {compared.observations} it is compared with."
            yield Fault(f"{pointer}/mean_of", detail)


def _baseline_of(detector: Measured, known: Sequence[Indicator], pointer: str) -> Iterator[Fault]:
    if not isinstance(detector, PercentChange | ZScore | Ewma | Cusum):
        return
    baseline, is_change = detector.baseline, isinstance(detector, PercentChange)
    yield from baseline_faults(baseline, pointer, least=1 if is_change else 2)
    if not isinstance(baseline, Target):
        return
    yield from _target(baseline, known, pointer)
    if isinstance(detector, PercentChange):
        if baseline.mean == 0:
            yield Fault(f"{pointer}/mean", "There are no fractions of a mean of 0.")
        return
    if baseline.spread is None and detector.min_spread <= 0:
        yield Fault(pointer, "It is compared in spreads, so the target needs its 'spread'.")
    if detector.transform is Transform.log and baseline.mean <= 0:
        yield Fault(f"{pointer}/mean", f"There is no logarithm of {baseline.mean:g}.")


def _target(target: Target, known: Sequence[Indicator], pointer: str) -> Iterator[Fault]:
    if target.spread is not None and target.spread <= 0:
        yield Fault(f"{pointer}/spread", "A spread is above 0.")
    low, high = bounds(known)
    if (low is not None and target.mean < low) or (high is not None and target.mean > high):
        detail = f"{target.mean:g} is impossible for {codes(known)}: the unit may be another."
        yield Fault(f"{pointer}/mean", detail)


def baseline_faults(baseline: Baseline, pointer: str, least: int) -> Iterator[Fault]:
    """``least`` is how many observations at least it takes to compare with them."""
    match baseline:
        case MedianOfWindow():
            if baseline.days <= 0 or baseline.guard_days < 0:
                detail = "A window has more than 0 days, and a guard no fewer than 0."
                yield Fault(pointer, detail)
        case LastObservations():
            yield from _enough(baseline.min_observations, baseline.observations, pointer)
            if not 0 <= baseline.guard < max(baseline.observations, 1):
                detail = (
                    f"A guard has from 0 to fewer observations than the {baseline.observations} "
                    f"compared with."
                )
                yield Fault(f"{pointer}/guard", detail)
        case SamePeriod():
            if not 1 <= baseline.min_years <= baseline.years:
                detail = f"It needs {baseline.min_years} years and looks at {baseline.years}."
                yield Fault(f"{pointer}/min_years", detail)
            if not 0 <= baseline.width_days < WIDEST_DAYS:
                detail = f"From 0 to fewer than {WIDEST_DAYS} days to either side, or years meet."
                yield Fault(f"{pointer}/width_days", detail)
        case Previous():
            if baseline.back < 1:
                detail = "The observation compared with lies at least one back."
                yield Fault(f"{pointer}/back", detail)
        case SameMonthLastYear() | Target():
            pass
    if getattr(baseline, "min_observations", least) < least:
        few, one = "A spread needs at least two observations", "A median needs at least one"
        yield Fault(f"{pointer}/min_observations", f"{few if least > 1 else one}.")


def _enough(needed: int, looked_at: int, pointer: str) -> Iterator[Fault]:
    if needed > looked_at:
        detail = f"It needs {needed} observations and looks at {looked_at}."
        yield Fault(f"{pointer}/min_observations", detail)


def _views(detector: Agreement, pointer: str) -> Iterator[Fault]:
    levels = len(detector.levels)
    views = levels + len(detector.changes) + (detector.short is not None)
    if not 1 <= detector.need <= views:
        detail = f"{detector.need} views must agree, and there are {views}."
        yield Fault(f"{pointer}/need", detail)
    elif detector.need <= levels:
        detail = (
            f"{detector.need} views must agree and {levels} are levels, which are frozen while it "
            f"is on: they alone would hold it for ever. It must need more."
        )
        yield Fault(f"{pointer}/need", detail)
    if detector.min_memory > detector.memory:
        detail = f"It needs {detector.min_memory} values of a memory of {detector.memory}."
        yield Fault(f"{pointer}/min_memory", detail)
    if detector.most is not None and detector.most < detector.least:
        detail = f"A threshold cannot be at least {detector.least:g} and at most {detector.most:g}."
        yield Fault(f"{pointer}/most", detail)
    for number, level in enumerate(detector.levels):
        at = f"{pointer}/levels/{number}"
        yield from _enough(level.min_observations, level.observations, at)
        if level.min_observations < 1:
            yield Fault(f"{at}/min_observations", "A median needs at least one observation.")
        if level.guard < 0:
            yield Fault(f"{at}/guard", "A guard has no fewer than 0 observations.")
        if level.observations < detector.mean_of:
            detail = f"Each is a mean of {detector.mean_of}, more than the level looks at."
            yield Fault(f"{at}/observations", detail)
    yield from twice(detector.changes, f"{pointer}/changes")
    for number, change in enumerate(detector.changes):
        if change < 1:
            yield Fault(f"{pointer}/changes/{number}", "A change is over at least one observation.")
    short = detector.short
    if short is not None:
        at = f"{pointer}/short"
        if not 2 <= short.observations <= short.long_observations:
            detail = "It compares at least two observations with no fewer long ones."
            yield Fault(f"{at}/observations", detail)
        if short.min_sigma_share < 0:
            yield Fault(f"{at}/min_sigma_share", "A share of a deviation cannot be negative.")
    if detector.season is not None:
        yield from _season(detector, detector.season, pointer)


def _season(detector: Agreement, season: Season, pointer: str) -> Iterator[Fault]:
    at = f"{pointer}/season"
    if season.period < 1:
        yield Fault(f"{at}/period", "A year has at least one observation.")
    elif not 0 <= 2 * season.width < season.period:
        detail = f"From 0 to fewer than {season.period / 2:g} to either side, or years meet."
        yield Fault(f"{at}/width", detail)
    if season.years < 1:
        yield Fault(f"{at}/years", "At least one year is looked at.")
    if season.margin < 0:
        yield Fault(f"{at}/margin", "A margin cannot be negative.")
    if not detector.levels:
        yield Fault(at, "It is told in spreads of the longest level, and there is no level.")
    for number, band in enumerate(detector.bands):
        if band.raise_at < 1:
            detail = "With a season 1 is the least that raises: what is usual for it stays below."
            yield Fault(f"{pointer}/bands/{number}/raise_at", detail)


def _sites(rule: Rule, detector: SiteHazard, catalogue: Catalogue, pointer: str) -> Iterator[Fault]:
    at = f"{pointer}/detector/sites"
    places = [site.place for site in detector.sites]
    if not places:
        yield Fault(at, "At least one site is needed; a place that is not listed is not judged.")
    yield from twice(places, at, "/place")
    for number, site in enumerate(detector.sites):
        yield from place_faults(catalogue, site.place, f"{at}/{number}/place")
        for name in ("exposure", "vulnerability"):
            if not 0 <= getattr(site, name) <= 1:
                yield Fault(f"{at}/{number}/{name}", f"{name} is a fraction between 0 and 1.")
    for number, place in enumerate(rule.places):
        if place not in places:
            detail = f"{place} is not among the sites, so it could never be judged."
            yield Fault(f"{pointer}/places/{number}", detail, nearest(place, places))
