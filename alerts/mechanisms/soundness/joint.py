"""What cannot be meant by a detector of several series, or of other findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from alerts.catalogue import Catalogue, Fault, Harm, Indicator, nearest
from alerts.mechanisms.soundness.measured import baseline_faults
from alerts.mechanisms.soundness.parts import codes, twice
from alerts.mechanisms.soundness.terms import good_faults, place_faults
from alerts.rules import (
    Combination,
    Composite,
    Concentration,
    Direction,
    Effect,
    Joint,
    Rule,
    Surge,
    SurgeGate,
)
from alerts.signals import Severity

SHARES = ("fraction", "share")
"""Units whose values are parts of a whole."""


def joint_faults(
    rule: Rule,
    detector: Joint,
    siblings: Mapping[str, Rule],
    catalogue: Catalogue,
    pointer: str,
) -> Iterator[Fault]:
    """Everything but the bands. ``pointer`` is the rule's."""
    match detector:
        case Concentration():
            known = [catalogue.indicators[c] for c in rule.indicators if c in catalogue.indicators]
            yield from _concentration(detector, known, pointer)
        case Surge():
            yield from _surge(rule, detector, catalogue, pointer)
        case Composite():
            yield from _composite(rule, detector, catalogue, pointer)
        case Combination():
            yield from _combination(rule, detector, siblings, f"{pointer}/detector")


def _upward(detector: Joint, what: str, pointer: str) -> Iterator[Fault]:
    if detector.direction is not Direction.up:
        yield Fault(f"{pointer}/direction", f"{what}: the direction is up.", ("up",))


def _concentration(
    detector: Concentration, known: Sequence[Indicator], pointer: str
) -> Iterator[Fault]:
    at = f"{pointer}/detector"
    yield from _upward(detector, "More concentrated is worse", at)
    if len(known) > 1:
        detail = f"Shares of one whole have one indicator; {codes(known)} cannot be added."
        yield Fault(f"{pointer}/indicators", detail)
    for number, indicator in enumerate(known):
        if indicator.unit not in SHARES:
            detail = f"{indicator.code} is measured in {indicator.unit}, and shares are fractions."
            yield Fault(f"{pointer}/indicators/{number}", detail)
    if not 1 <= detector.times <= detector.of:
        detail = f"It cannot be beyond {detector.times} times in {detector.of} periods."
        yield Fault(f"{at}/times", detail)


def _surge(rule: Rule, detector: Surge, catalogue: Catalogue, pointer: str) -> Iterator[Fault]:
    at = f"{pointer}/detector"
    yield from _upward(detector, "More gates passed is worse", at)
    if not detector.gates:
        yield Fault(f"{at}/gates", "At least one gate is needed.")
    if detector.fresh_days is not None and detector.fresh_days <= 0:
        yield Fault(f"{at}/fresh_days", "An observation stays fresh for some days.")
    yield from twice([gate.title for gate in detector.gates], f"{at}/gates", "/title")
    yield from _read(rule, [gate.indicator for gate in detector.gates], "gates", pointer)
    for number, gate in enumerate(detector.gates):
        indicator = catalogue.indicators.get(gate.indicator)
        if gate.change_over is not None and gate.change_over < 1:
            detail = "A change is over at least one observation."
            yield Fault(f"{at}/gates/{number}/change_over", detail)
        if indicator is not None:
            yield from _gate(gate, indicator, f"{at}/gates/{number}/at")


def _gate(gate: SurgeGate, indicator: Indicator, pointer: str) -> Iterator[Fault]:
    """A gate that nothing passes."""
    low, high = indicator.minimum, indicator.maximum
    what = f"{indicator.code}, in {indicator.unit},"
    if gate.change_over is not None:
        what = f"a change of {indicator.code}, as a fraction,"
        low, high = (-1 if low is not None and low >= 0 else None), None
    end = high if gate.direction is Direction.up else low
    if end is not None and gate.direction.sign * (gate.at - end) > 0:
        yield Fault(pointer, f"{gate.title} can never be passed: {what} ends at {end:g}.")


def _composite(
    rule: Rule, detector: Composite, catalogue: Catalogue, pointer: str
) -> Iterator[Fault]:
    at = f"{pointer}/detector"
    yield from _upward(detector, "An index grows with the harm of its members", at)
    if rule.effect is Effect.early_warning:
        detail = "An index is shown and never raises an alert alone."
        yield Fault(f"{pointer}/effect", detail, ("follow_up", "component"))
    if not detector.members:
        yield Fault(f"{at}/members", "At least one member is needed.")
    if not 0 < detector.coverage <= 1:
        yield Fault(f"{at}/coverage", "Coverage is a fraction above 0 and at most 1.")
    if detector.fresh_days <= 0:
        yield Fault(f"{at}/fresh_days", "An observation stays fresh for some days.")
    yield from baseline_faults(detector.baseline, f"{at}/baseline", least=2)
    yield from _read(rule, [member.indicator for member in detector.members], "members", pointer)
    series = [f"{m.indicator} {m.good} {m.place}".strip() for m in detector.members]
    yield from twice(series, f"{at}/members")
    for number, member in enumerate(detector.members):
        place = f"{at}/members/{number}"
        if member.weight <= 0:
            yield Fault(f"{place}/weight", "A weight is above 0.")
        if member.good:
            yield from good_faults(rule.sectors, catalogue, member.good, f"{place}/good")
        if member.place:
            yield from place_faults(catalogue, member.place, f"{place}/place")
        indicator = catalogue.indicators.get(member.indicator)
        if indicator is not None and indicator.harm not in (Harm.both, member.direction):
            detail = f"{member.indicator} does harm when it goes {indicator.harm}."
            yield Fault(f"{place}/direction", detail, (indicator.harm.value,))


def _read(rule: Rule, read: Sequence[str], name: str, pointer: str) -> Iterator[Fault]:
    """Indicators read that the rule is not asked of, and asked of that nothing reads."""
    for number, code in enumerate(read):
        if code not in rule.indicators:
            detail = f"{code!r} is not among the rule's 'indicators'."
            place = f"{pointer}/detector/{name}/{number}/indicator"
            yield Fault(place, detail, nearest(code, rule.indicators))
    for number, code in enumerate(rule.indicators):
        if code not in read:
            detail = f"None of its {name} reads {code}."
            yield Fault(f"{pointer}/indicators/{number}", detail)


def _combination(
    rule: Rule, detector: Combination, siblings: Mapping[str, Rule], pointer: str
) -> Iterator[Fault]:
    yield from _upward(detector, "More rules firing is worse", pointer)
    if not detector.rules:
        yield Fault(f"{pointer}/rules", "At least one rule is counted.")
    if detector.at_least is Severity.none:
        yield Fault(f"{pointer}/at_least", "A finding counts from a severity on; none is none.")
    yield from twice(detector.rules, f"{pointer}/rules")
    others = [name for name in siblings if name != rule.id]
    for number, name in enumerate(detector.rules):
        place, named = f"{pointer}/rules/{number}", siblings.get(name)
        if name == rule.id:
            yield Fault(place, "A combination cannot count itself.")
        elif named is None:
            detail = f"There is no rule {name!r} in this profile."
            yield Fault(place, detail, nearest(name, others))
        elif isinstance(named.detector, Combination):
            yield Fault(place, f"{name} is a combination too, and combinations count no others.")
        elif not set(named.sectors) & set(rule.sectors):
            detail = f"{name} is asked of no sector of this rule, so they never meet."
            yield Fault(place, detail)
        elif named.shadow and not rule.shadow:
            detail = f"{name} is a shadow and may move nothing; the combination must be one too."
            yield Fault(place, detail)
