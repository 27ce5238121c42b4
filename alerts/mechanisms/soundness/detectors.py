"""What cannot be meant by how a rule looks, and by its bands above all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from alerts.catalogue import Catalogue, Fault, Indicator
from alerts.mechanisms.soundness.joint import joint_faults
from alerts.mechanisms.soundness.measured import measured_faults
from alerts.mechanisms.soundness.parts import bounds, codes
from alerts.rules import (
    Agreement,
    Band,
    Bands,
    Combination,
    Composite,
    Concentration,
    Count,
    Cusum,
    Direction,
    Ears,
    EventTrigger,
    Ewma,
    Joint,
    Measured,
    PercentChange,
    RateOfChange,
    Rule,
    Run,
    SiteHazard,
    Surge,
    ZScore,
    towards,
)
from alerts.signals import Severity


class Possible(NamedTuple):
    """Where what is compared with the bands can lie; None where nothing bounds it.

    ``usual`` says that the calm end is no bound, but where it lies while nothing is unusual.
    """

    what: str
    low: float | None = None
    high: float | None = None
    usual: bool = False


def detector_faults(
    rule: Rule, siblings: Mapping[str, Rule], catalogue: Catalogue, pointer: str
) -> Iterator[Fault]:
    """Everything wrong with a rule's detector, of itself and with what the rule is asked of.

    ``pointer`` is the rule's, ``siblings`` are the rules of its profile by id. Indicators that the
    catalogue does not know are not spoken of here.
    """
    detector, at = rule.detector, f"{pointer}/detector"
    known = [catalogue.indicators[c] for c in rule.indicators if c in catalogue.indicators]
    if isinstance(detector, EventTrigger):
        yield from _event_trigger(detector, at)
        return
    yield from _bands(towards(detector), detector.bands, f"{at}/bands")
    yield from _reachable(detector, _possible(detector, known, siblings), f"{at}/bands")
    if isinstance(detector, Measured):
        yield from measured_faults(rule, detector, known, catalogue, pointer)
    else:
        yield from joint_faults(rule, detector, siblings, catalogue, pointer)


# Bands


def _bands(direction: Direction, bands: Sequence[Band], pointer: str) -> Iterator[Fault]:
    if not bands:
        yield Fault(pointer, "At least one band is needed.")
    sign = direction.sign
    side = "below" if direction is Direction.up else "above"
    for number, band in enumerate(bands):
        if band.severity is Severity.none:
            yield Fault(f"{pointer}/{number}/severity", "A band raises a severity; none is none.")
        if sign * band.clear_at >= sign * band.raise_at:
            detail = (
                f"{band.severity.name} must clear {side} {band.raise_at:g}, where it is raised; "
                f"{band.clear_at:g} is not {side} it."
            )
            yield Fault(f"{pointer}/{number}/clear_at", detail)
        if number == 0:
            continue
        before = bands[number - 1]
        if band.severity <= before.severity:
            detail = f"{band.severity.name} must come before {before.severity.name}."
            yield Fault(f"{pointer}/{number}/severity", detail)
        for name in ("raise_at", "clear_at"):
            if sign * getattr(band, name) <= sign * getattr(before, name):
                detail = (
                    f"{name} of {band.severity.name} must lie further {direction.value} than that "
                    f"of {before.severity.name}, {getattr(before, name):g}."
                )
                yield Fault(f"{pointer}/{number}/{name}", detail)


def _reachable(detector: Measured | Joint, possible: Possible, pointer: str) -> Iterator[Fault]:
    """Bands that nothing reaches, that anything reaches, or that could never clear.

    Percents written for fractions, or weeks for days, are often found out here.
    """
    what, low, high, usual = possible
    sign = towards(detector).sign
    begins, ends = (low, high) if sign > 0 else (high, low)
    for number, band in enumerate(detector.bands):
        at, name = f"{pointer}/{number}", band.severity.name
        if ends is not None and sign * band.raise_at > sign * ends:
            yield Fault(f"{at}/raise_at", f"{name} can never be reached: {what} ends at {ends:g}.")
        if begins is None:
            continue
        if sign * band.raise_at <= sign * begins:
            detail = f"{name} would be reached by anything: {what} begins at {begins:g}."
            yield Fault(f"{at}/raise_at", detail)
        elif not usual and sign * band.clear_at < sign * begins:
            detail = f"{name} could never clear: {what} begins at {begins:g}."
            yield Fault(f"{at}/clear_at", detail)


def _possible(
    detector: Measured | Joint, known: Sequence[Indicator], siblings: Mapping[str, Rule]
) -> Possible:
    low, high = bounds(known)
    match detector:
        case Bands():
            units = " or ".join(dict.fromkeys(i.unit for i in known))
            return Possible(f"{codes(known)}, in {units},", low, high)
        case PercentChange():
            bottom = -1 if low is not None and low >= 0 else None
            return Possible("a change, as a fraction of what is never negative,", bottom)
        case SiteHazard():
            weights = [site.exposure * site.vulnerability for site in detector.sites]
            top = high * max(weights) if high is not None and weights else None
            return Possible("the hazard at these sites", 0 if low == 0 else None, top)
        case ZScore() | Ewma() | Ears() | Composite():
            is_up = detector.direction is Direction.up
            what = "what is unusual"
            return Possible(what, 0 if is_up else None, None if is_up else 0, usual=True)
        case Agreement():
            return Possible("the strength of agreement", 0, usual=True)
        case Cusum():
            return Possible("a cumulative sum", 0)
        case RateOfChange():
            return Possible("a slope")
        case Run():
            return Possible("the number of moves looked back on", 0, detector.longest)
        case Concentration():
            return Possible("a share of the whole", 0, 1)
        case Surge():
            return Possible("the number of gates", 0, len(detector.gates))
        case Combination():
            return Possible(f"the number of {detector.count}", 0, _most(detector, siblings))


def _most(detector: Combination, siblings: Mapping[str, Rule]) -> int:
    """How many of its rules, or of their families, a combination can count."""
    if detector.count is Count.rules:
        return len(detector.rules)
    return len({siblings[rule].family for rule in detector.rules if rule in siblings})


def _event_trigger(trigger: EventTrigger, pointer: str) -> Iterator[Fault]:
    if trigger.corroboration.parties < 1:
        yield Fault(f"{pointer}/corroboration/parties", "At least one party must say it.")
    if trigger.corroboration.within_days <= 0:
        yield Fault(f"{pointer}/corroboration/within_days", "Reports need some days to meet in.")
