"""Rules in words for people: what one asks, and what changed from one version to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from alerts.rules import (
    Agreement,
    Bands,
    Baseline,
    Combination,
    Composite,
    Concentration,
    Count,
    Cusum,
    Detector,
    Direction,
    Ears,
    Ending,
    EventTrigger,
    Ewma,
    LastObservations,
    MedianOfWindow,
    Method,
    PercentChange,
    Previous,
    RateOfChange,
    Run,
    SameMonthLastYear,
    SamePeriod,
    Share,
    SiteHazard,
    Surge,
    Target,
    ZScore,
)

LONGEST_VALUE = 200


def question(detector: Detector) -> str:
    """What a detector asks, in a sentence or two, without its bands."""
    match detector:
        case EventTrigger():
            return _event(detector)
        case Bands():
            return f"Is the value itself too {_far(detector.direction)}?"
        case PercentChange() | ZScore() | Ewma() | Cusum():
            return _compared(detector)
        case Ears():
            return (
                f"EARS {detector.method.value}: how many standard deviations is the value "
                f"{_above(detector.direction)} the {detector.observations} observations before it?"
            )
        case RateOfChange():
            unit = "percent" if detector.relative else "its unit"
            verb = "risen" if detector.direction is Direction.up else "fallen"
            count = _observations(detector.observations)
            return f"By how much has the value {verb} over {count}, in {unit}?"
        case Run():
            verb = "rises" if detector.direction is Direction.up else "falls"
            return f"How many {verb} in a row has it seen?"
        case SiteHazard():
            return (
                f"How hard is what is at stake hit: the hazard at {len(detector.sites)} sites, "
                "each times its exposure and vulnerability?"
            )
        case Agreement():
            return _agreement(detector)
        case Concentration():
            share = (
                "the Herfindahl-Hirschman index of all shares"
                if detector.measure is Share.hhi
                else "the largest share"
            )
            held = f", in {detector.times} of {detector.of} periods" if detector.of > 1 else ""
            return f"How concentrated is the supply, by {share}{held}?"
        case Surge():
            gates = "; ".join(gate.title for gate in detector.gates)
            return f"How many of these gates are open at once: {gates}?"
        case Composite():
            return (
                f"A sector's index of {len(detector.members)} members' robust z-scores; shown "
                f"where at least {detector.coverage:.0%} of the weights are fresh."
            )
        case Combination():
            counted = "families among them" if detector.count is Count.families else "them"
            rules = ", ".join(detector.rules)
            return f"How many of {counted} fire on one subject: {rules}?"


def _far(direction: Direction) -> str:
    return "high" if direction is Direction.up else "low"


def _above(direction: Direction) -> str:
    return "above" if direction is Direction.up else "below"


def _compared(detector: PercentChange | ZScore | Ewma | Cusum) -> str:
    side = _above(detector.direction)
    against = f"The baseline is {_baseline(detector.baseline)}."
    match detector:
        case PercentChange():
            return (
                f"How far {side} its baseline is {_mean(detector.mean_of)}, in percent? {against}"
            )
        case ZScore():
            spreads = (
                "robust spreads (from the median absolute deviation)"
                if detector.method is Method.robust
                else "standard deviations"
            )
            mean = _mean(detector.mean_of)
            return f"How many {spreads} {side} its baseline is {mean}? {against}"
        case Ewma():
            return (
                f"How far {side} its baseline is the weighted mean of the newest "
                f"{_observations(detector.run)} (EWMA, weight {detector.weight:g}), in its own "
                f"standard deviations? {against}"
            )
        case Cusum():
            sides = "on either side of" if detector.two_sided else side
            return (
                f"How much has gathered {sides} its baseline over {_observations(detector.run)} "
                f"(CUSUM, slack {detector.slack:g}), in standard deviations? {against}"
            )


def _mean(count: int) -> str:
    return "the value" if count == 1 else f"the mean of the newest {count} observations"


def _observations(count: int) -> str:
    return f"{count} observation{'' if count == 1 else 's'}"


def _baseline(baseline: Baseline) -> str:
    match baseline:
        case MedianOfWindow():
            guard = f" that end {baseline.guard_days:g} days before" if baseline.guard_days else ""
            return f"the median of {baseline.days:g} days{guard}"
        case LastObservations():
            guard = f" before the last {baseline.guard}" if baseline.guard else ""
            count = _observations(baseline.observations)
            return f"the {baseline.statistic.value} of {count}{guard}"
        case SamePeriod():
            return (
                f"the {baseline.statistic.value} of the same time of year, give or take "
                f"{baseline.width_days:g} days, in up to {baseline.years} years"
            )
        case SameMonthLastYear():
            return "the same month of the year before"
        case Previous():
            return f"the observation {baseline.back} before it"
        case Target():
            return f"fixed at {baseline.mean:g}"


def _agreement(detector: Agreement) -> str:
    views = len(detector.levels) + len(detector.changes)
    return (
        f"Do at least {detector.need} of {views} robust views of the series agree that the value "
        f"is unusually {_far(detector.direction)}? Each view is held against the "
        f"{detector.quantile:.1%} quantile of its own past: the newest {detector.memory} "
        f"observations, at least {detector.min_memory}. No number of it belongs to one series."
    )


def _event(detector: EventTrigger) -> str:
    needed = detector.corroboration
    parties = "one party" if needed.parties == 1 else f"{needed.parties} parties"
    official = ", ".join(word.value.replace("_", " ") for word in needed.official_origins)
    alone = f" One official origin is enough alone: {official}." if official else ""
    ends = (
        "people decide"
        if detector.ending is Ending.by_people
        else "the measurements beside it ease"
    )
    return (
        f"Has an event of at least {detector.min_severity.name} severity been reported by "
        f"{parties} within {needed.within_days:g} days?{alone} It ends when {ends}."
    )


def changes(
    before: Mapping[str, object], after: Mapping[str, object]
) -> list[tuple[str, str, str]]:
    """What differs between two versions of a rule: where, was, is; the version itself left out."""
    was, now = dict(_leaves("", before)), dict(_leaves("", after))
    return [
        (where, was.get(where, "not there"), now.get(where, "not there"))
        for where in sorted({*was, *now})
        if was.get(where) != now.get(where) and where != "version"
    ]


def _leaves(where: str, value: object) -> Iterator[tuple[str, str]]:
    """The values of a rule as it was written, by their way from the top; the empty ones left out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{where}.{name}" if where else str(name), inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(one, str | int | float) for one in value):
            said = ", ".join(str(one) for one in value)
            if said:
                yield where, said[:LONGEST_VALUE]
            return
        for number, inner in enumerate(value):
            yield from _leaves(f"{where}.{number}", inner)
    elif value is not None and value != "":
        yield where, str(value)[:LONGEST_VALUE]
