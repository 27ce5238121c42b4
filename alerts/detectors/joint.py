"""Detectors that read several series, or other findings, of one subject.

Where a part is not known they compute bounds: the mildest and the gravest the whole can be. A
severity is raised when even the mildest raises it, and let go when even the gravest has cleared;
where only the gravest would raise one the reading is undefined.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from alerts.detectors.baselines import counted, earlier_values, mean
from alerts.detectors.charts import robust_spread
from alerts.detectors.reading import BEYOND, TOLERANCE, Measure, Reach, Reading, compare, undefined
from alerts.mechanisms import Profile
from alerts.rules import (
    Combination,
    Composite,
    Concentration,
    Count,
    Direction,
    Family,
    Member,
    Rule,
    Share,
    Surge,
    SurgeGate,
)
from alerts.signals import Sample, SeriesKey, Severity

Panel = Mapping[SeriesKey, Sequence[Sample]]
"""The series of one subject, each oldest first and without gaps filled; no sample is later than
the instant read at."""

ROUNDING = 0.005
"""Shares are published in whole percents, so each may be off by half of one."""

_instant = attrgetter("at")


class Within(NamedTuple):
    """What is known of a number: it lies between the two, both counted in."""

    low: float
    high: float


def subject_of(rule: Rule, key: SeriesKey) -> SeriesKey:
    """The key under which a joint finding is kept, of any series the rule is asked of.

    Suppliers of one good share a finding of concentration, a sector shares its composite. Sector
    and exercise always stay: what is drilled never meets what is real. The key of a combination is
    the scope of the alert its findings would feed.
    """
    match rule.detector:
        case Concentration():
            good, place = key.good, ""
        case Composite():
            good, place = "", ""
        case _:
            good, place = key.good, key.place
    return SeriesKey(key.sector, f"rule:{rule.id}", good, place, key.exercise)


def joint_questions(
    profiles: Iterable[Profile], key: SeriesKey
) -> list[tuple[Profile, Rule, SeriesKey]]:
    """The joint rules that a series has a part in, each with the key of its finding."""
    found: list[tuple[Profile, Rule, SeriesKey]] = []
    for profile in profiles:
        for rule in profile.rules:
            if isinstance(rule.detector, Combination):
                if any(r.id in rule.detector.rules and r.asks(key) for r in profile.rules):
                    scope = profile.scope_of(key)
                    subject = key._replace(good=scope.good, place=scope.place)
                    found.append((profile, rule, subject_of(rule, subject)))
            elif rule.is_joint and rule.asks(key):
                found.append((profile, rule, subject_of(rule, key)))
    return found


def read_panel(
    detector: Concentration | Surge | Composite,
    panel: Panel,
    at: datetime,
    frozen_at: datetime | None = None,
) -> Reading:
    """Reads several series together, as they were known at ``at``.

    Args:
        detector: what to ask.
        panel: every series of the subject that the rule is asked of, samples oldest first, none
            later than ``at``; each reaching back as far as ``panel_reach`` says.
        at: the instant judged, usually that of the newest sample.
        frozen_at: what a change or a member is compared with comes from before this instant, so
            that a crisis does not become the new normal. Shares are compared with nothing.
    """
    match detector:
        case Concentration():
            return _read_shares(detector, panel, at)
        case Surge():
            return _read_gates(detector, panel, at, frozen_at)
        case Composite():
            return _read_members(detector, panel, at, frozen_at)


def read_findings(
    detector: Combination,
    states: Mapping[str, Sequence[tuple[Family, Severity]]],
    at: datetime,
) -> Reading:
    """Counts the rules, or their families, that have a finding of ``at_least`` on one subject.

    ``states`` gives the family and severity of each finding by rule id; a rule that is not there
    has none. A stale finding keeps its severity, so silence does not lower the count.
    """
    least = max(detector.at_least, Severity.minor)
    told = {rule: states.get(rule, ()) for rule in detector.rules}
    worst = {
        rule: max((severity for _, severity in found), default=Severity.none)
        for rule, found in told.items()
    }
    if detector.count is Count.families:
        count = len({f for found in told.values() for f, severity in found if severity >= least})
    else:
        count = sum(severity >= least for severity in worst.values())
    measures = (
        Measure(f"{detector.count} firing", count, _lowest(detector)),
        *(Measure(rule, severity, least) for rule, severity in worst.items()),
    )
    tested = Sample(at, float(count))
    return compare(detector.direction, detector.bands, tested, tested.value, measures=measures)


def panel_reach(detector: Concentration | Surge | Composite) -> Reach:
    """How far each series must reach before the instant read at, and before the frozen onset.

    The newest observation is counted too: it may be older than the instant.
    """
    if isinstance(detector, Concentration):
        observations = detector.of
    elif isinstance(detector, Surge):
        observations = max((2 * (gate.change_over or 0) for gate in detector.gates), default=0)
    else:
        observations = detector.baseline.observations + detector.baseline.guard + 1
    return Reach(observations=max(observations, 1))


def _lowest(detector: Concentration | Surge | Composite | Combination) -> float | None:
    """Where the mildest band is raised."""
    return detector.bands[0].raise_at if detector.bands else None


def _nothing(
    detector: Concentration | Composite, at: datetime, why: str, measures: tuple[Measure, ...] = ()
) -> Reading:
    """An undefined reading where not even an observed value can be told."""
    return undefined(detector.bands, Sample(at, math.nan), why)._replace(measures=measures)


def _within(
    detector: Concentration | Surge,
    tested: Sample,
    compared: Within,
    measures: tuple[Measure, ...],
    unsure: str,
) -> Reading:
    """The reading of a number of which only bounds are known; ``unsure`` says why only those."""
    low, high = (
        compare(detector.direction, detector.bands, tested, v, None, measures) for v in compared
    )
    mild, grave = (low, high) if detector.direction is Direction.up else (high, low)
    if grave.raised and not mild.raised:
        return undefined(detector.bands, tested, unsure)._replace(measures=measures)
    return mild._replace(held=grave.held)


# Concentration


def _read_shares(detector: Concentration, panel: Panel, at: datetime) -> Reading:
    """Shares observed at one instant are those of one period.

    A period nobody reported does not count as one; a period that cannot be judged, or that lies
    before the first, may have been anything between 0 and 1.
    """
    shares: dict[datetime, list[float]] = {}
    for key, samples in panel.items():
        if key.place:  # A share of no place in particular names no supplier.
            for sample in samples:
                shares.setdefault(sample.at, []).append(sample.value)
    if not shares:
        return _nothing(detector, at, "no supplier's share is known")
    periods = [shares[instant] for instant in sorted(shares)[-detector.of :]]
    if fault := _fault_of(periods[-1]):
        return _nothing(detector, at, fault)
    bounds = [Within(0, 1) if _fault_of(p) else _bounds(detector.measure, p) for p in periods]
    newest, harm = bounds[-1], detector.direction.sign
    bounds += [Within(0, 1)] * (detector.of - len(periods))
    low, high = (
        sorted(ends, key=lambda end: -harm * end)[detector.times - 1]
        for ends in zip(*bounds, strict=True)
    )
    name, named = detector.measure.value.replace("_", " "), math.fsum(periods[-1])
    lowest = _lowest(detector)
    measures = [
        Measure(f"{name}, at least", newest.low, lowest),
        Measure(f"{name}, at most", newest.high),
        Measure("suppliers named", len(periods[-1])),
        Measure("share named", named),
    ]
    if detector.of > 1 and lowest is not None:
        beyond = sum(harm * (period.low - lowest) >= -TOLERANCE for period in bounds)
        measures.append(Measure("periods beyond", beyond, detector.times))
    lacks = (
        [f"{1 - named:.0%} of the supply is of no named supplier"] if named < 1 - TOLERANCE else []
    )
    if len(periods) < detector.of:
        lacks.append(f"it knows {len(periods)} of {detector.of} periods")
    why = " and ".join(lacks) or "shares of an earlier period are missing"
    unsure = f"it lies between {low:.4g} and {high:.4g}, because {why}"
    tested = Sample(at, newest.low)
    return _within(detector, tested, Within(low, high), tuple(measures), unsure)


def _fault_of(shares: Sequence[float]) -> str:
    """Why these cannot be the shares of one whole; empty when they can."""
    if not all(0 <= share <= 1 + ROUNDING for share in shares):
        return "a share is not between 0 and 1"
    named = math.fsum(shares)
    if named > 1 + ROUNDING * len(shares) + TOLERANCE:
        return f"the shares of {len(shares)} suppliers make {named:.4g}, more than the whole"
    return ""


def _bounds(measure: Share, shares: Sequence[float]) -> Within:
    """The unnamed part spread over ever so many suppliers adds nothing; all of it may be one's."""
    unnamed = max(0.0, 1 - math.fsum(shares))
    if measure is Share.largest_share:
        return Within(max(shares), max([*shares, unnamed]))
    low = math.fsum(share**2 for share in shares)
    return Within(low, low + unnamed**2)


# Surge


def _read_gates(detector: Surge, panel: Panel, at: datetime, frozen_at: datetime | None) -> Reading:
    """A gate that cannot be judged may be passed or not; where that decides, it is undefined."""
    observed = {key.indicator: samples for key, samples in panel.items()}
    passed = 0
    doubts: list[str] = []
    measures: list[Measure] = []
    for gate in detector.gates:
        samples = observed.get(gate.indicator, ())
        number = _gate_number(gate, samples, at, frozen_at, detector.fresh_days)
        if isinstance(number, tuple):
            lacks, why = number
            doubts.append(f"{gate.title} cannot be judged: {why}")
            measures.append(lacks)
            continue
        passes = gate.direction.sign * (number - gate.at) >= -TOLERANCE
        passed += passes
        word = "passed" if passes else "failed"
        measures.append(Measure(f"{gate.title}: {word}", number, gate.at))
    measures.insert(0, Measure("gates passed", passed, _lowest(detector)))
    compared = Within(passed, passed + len(doubts))
    tested = Sample(at, float(passed))
    return _within(detector, tested, compared, tuple(measures), "; ".join(doubts))


def _gate_number(
    gate: SurgeGate,
    samples: Sequence[Sample],
    at: datetime,
    frozen_at: datetime | None,
    fresh_days: float | None,
) -> float | tuple[Measure, str]:
    """What is compared with the gate; or else what is lacking, as a number and in words."""
    if not samples:
        return Measure(f"{gate.title}: observations", 0, 1), "it was never observed"
    age = at - samples[-1].at
    if fresh_days is not None and age > timedelta(days=fresh_days):
        days = age / timedelta(days=1)
        stale = Measure(f"{gate.title}: days since observed", days, fresh_days)
        return stale, f"it was last observed {days:.0f} days ago"
    span = gate.change_over
    if span is None:
        return samples[-1].value
    end = len(samples) - span
    if frozen_at is not None:
        end = bisect_left(samples, frozen_at, hi=max(end, 0), key=_instant)
    newest = [s.value for s in samples[-span:]]
    before = [s.value for s in samples[max(end - span, 0) : max(end, 0)]]
    has = len(newest) + len(before)
    if has < 2 * span:
        short = Measure(f"{gate.title}: observations", has, 2 * span)
        return short, f"it needs {counted(2 * span)} and has {has}"
    base = mean(before)
    if abs(base) < TOLERANCE:
        return Measure(f"{gate.title}: mean before", base), "the mean before is zero"
    change = (mean(newest) - base) / abs(base)
    if not math.isfinite(change):
        found = Measure(f"{gate.title}: observations", has, 2 * span)
        return found, BEYOND
    return change


# Composite


def _read_members(
    detector: Composite, panel: Panel, at: datetime, frozen_at: datetime | None
) -> Reading:
    """A member's weight is shared evenly by its series; those that count make the coverage."""
    weights = total = 0.0
    parts: list[float] = []
    measures: list[Measure] = []
    for member in detector.members:
        series = [samples for key, samples in panel.items() if _is_of(member, key)]
        spreads = [_spreads_away(detector, samples, at, frozen_at) for samples in series]
        known = [z for z in spreads if z is not None]
        total += member.weight
        if not known:
            measures.append(Measure(f"{_name(member)}: series counted", 0, max(len(series), 1)))
            continue
        weight = member.weight * len(known) / len(series)
        weights += weight
        parts.append(weight * member.direction.sign * mean(known))
        measures.append(Measure(f"{_name(member)}: spreads from its median", mean(known)))
    coverage = weights / total if total > 0 else 0.0
    shown = (Measure("coverage", coverage, detector.coverage), *measures)
    if weights <= 0 or coverage < detector.coverage - TOLERANCE:
        lacks = (
            f"{coverage:.0%} of the weights can be counted, and it needs {detector.coverage:.0%}"
        )
        return _nothing(detector, at, lacks, shown)
    index = sum(parts) / weights
    tested = Sample(at, index)
    return compare(detector.direction, detector.bands, tested, index, measures=shown)


def _is_of(member: Member, key: SeriesKey) -> bool:
    return (
        key.indicator == member.indicator
        and member.good in ("", key.good)
        and member.place in ("", key.place)
    )


def _name(member: Member) -> str:
    of = f" of {member.good}" if member.good else ""
    at = f" at {member.place}" if member.place else ""
    return f"{member.indicator}{of}{at}"


def _spreads_away(
    detector: Composite, samples: Sequence[Sample], at: datetime, frozen_at: datetime | None
) -> float | None:
    """The robust z of the newest sample against its own past; None where it cannot be counted.

    A sample exactly ``fresh_days`` old still counts. The newest is never in its own past.
    """
    if not samples or at - samples[-1].at > timedelta(days=detector.fresh_days):
        return None
    past, missing = earlier_values(detector.baseline, samples, len(samples) - 1, frozen_at)
    if missing:
        return None
    middle = median(past)
    spread = robust_spread(past, middle)
    z = (samples[-1].value - middle) / spread if spread > 0 else math.nan
    return z if math.isfinite(z) else None
