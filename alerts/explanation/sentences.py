"""What one finding says, what would have to happen for it to change, and why it raised nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from alerts.catalogue import Catalogue
from alerts.detectors import baselines
from alerts.detectors.agreement import SEASON
from alerts.detectors.baselines import counted
from alerts.detectors.reading import MONTHS, TOLERANCE
from alerts.explanation.words import (
    amount,
    apart,
    capital,
    day,
    good_of,
    number,
    percent,
    sector_of,
    signed,
    small,
    where,
    with_unit,
)
from alerts.findings import Finding, State
from alerts.lifecycle import Evidence, listed
from alerts.rules import (
    Agreement,
    Band,
    Bands,
    Baseline,
    Combination,
    Composite,
    Concentration,
    Count,
    Cusum,
    Direction,
    Ears,
    EarsMethod,
    Effect,
    Ending,
    EventTrigger,
    Ewma,
    Joint,
    LastObservations,
    Measured,
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
    towards,
)
from alerts.signals import Severity

_Banded = Measured | Joint
_Compared = PercentChange | ZScore | Ewma | Cusum
"""Detectors with a baseline of their own."""

_FREEZES = _Compared | Agreement
_FAMILIES = ("family", "families")


def sentence(evidence: Evidence, catalogue: Catalogue) -> str:
    """What one finding says, in words a minister can read."""
    finding, detector = evidence.finding, evidence.rule.detector
    subject = what(evidence, catalogue)
    stands = f"; its last known severity, {finding.severity.name}, stands" if finding.fires else ""
    if finding.state in {State.stale, State.no_data}:
        since = f" since {day(finding.observed_at)}" if finding.observed_at else ""
        return f"{subject} has not been reported{since}{stands}."
    if finding.state is State.not_evaluable:
        return f"{subject} could not be judged{_on(finding)}: {finding.reason}{stands}."
    match detector:
        case EventTrigger():
            return _event_sentence(evidence, catalogue)
        case Bands():
            return f"{subject} stood at {_level_sentence(detector, evidence)}."
        case Concentration() | Surge() | Composite() | Combination():
            said = _together(detector, finding)
            return f"{subject}{_on(finding)}: {said}{_limit_of(detector, evidence)}."
        case _:
            said = f"{_stood(detector, evidence)}{_beside(detector, evidence)}"
            return f"{subject} {said}{_limit_of(detector, evidence)}."


def to_clear(evidence: Evidence) -> str:
    """What would have to happen for the finding to fall by one band."""
    finding, rule = evidence.finding, evidence.rule
    if not finding.fires:
        return ""
    if isinstance(rule.detector, EventTrigger):
        return (
            "people decide that it is over"
            if rule.detector.ending is Ending.by_people
            else "a measurement that fired beside it comes back to ok, or people decide"
        )
    band = band_of(rule.detector.bands, finding)
    if band is None:
        return ""
    side = "at or below" if towards(rule.detector) is Direction.up else "at or above"
    limit = _limit(rule.detector, band.clear_at, evidence.unit)
    return f"{side} {limit} on {_more(rule.clear_after - finding.clear_run)} in a row"


def to_raise(evidence: Evidence) -> str:
    """What would have to happen for a finding that does not fire to fire."""
    finding, rule = evidence.finding, evidence.rule
    if finding.fires:
        return ""
    if isinstance(rule.detector, EventTrigger):
        if finding.state is State.pending:
            return finding.reason
        return f"a report of at least {rule.detector.min_severity.name}, corroborated"
    band = band_of(rule.detector.bands, finding)
    if band is None:
        return ""
    side = "at or above" if towards(rule.detector) is Direction.up else "at or below"
    limit = _limit(rule.detector, band.raise_at, evidence.unit)
    left = rule.raise_after - finding.raise_run
    when = "the next observation" if left == 1 else f"{_more(left)} in a row"
    return f"{side} {limit} on {when}"


def quiet(evidence: Evidence, catalogue: Catalogue, *, in_force: bool = True) -> str:
    """Why there is no alert: what the finding says, what it lacks, what keeps the rule from one.

    ``in_force`` is whether the mechanism is. A finding that fires and is kept from nothing says so.
    """
    finding, rule = evidence.finding, evidence.rule
    said = [sentence(evidence, catalogue)]
    if finding.observed_at is None and not rule.is_event:
        said = [f"Nothing is known of {small(what(evidence, catalogue))} that came near a limit."]
    elif not finding.fires:
        said.append(_lacking(evidence))
    kept = _kept_from_alerts(evidence, in_force=in_force)
    if finding.fires and not kept:
        kept = ["Nothing keeps it from opening an alert."]
    return " ".join(filter(None, [*said, *kept]))


def what(evidence: Evidence, catalogue: Catalogue) -> str:
    """A series as the subject of a sentence: "Volume exported of gallium from CN".

    A rule that reads several series is named by its title.
    """
    key = evidence.key
    entry = catalogue.indicators.get(key.indicator) or catalogue.events.get(key.indicator)
    words = [entry.title if entry else key.indicator.replace("_", " ")]
    if evidence.rule.is_joint:
        words = [evidence.rule.title]
        if not key.good and not key.place:
            words.append(f"for {sector_of(key.sector, catalogue)}")
    if key.good:
        words.append(f"of {good_of(key.good, catalogue)}")
    if key.place:
        words.append(where(key, catalogue))
    return capital(" ".join(words))


def band_of(bands: Sequence[Band], finding: Finding) -> Band | None:
    """The band of the present severity, or the lowest one when nothing fires."""
    if finding.fires:
        return next((b for b in bands if b.severity is finding.severity), None)
    return min(bands, key=lambda b: b.severity, default=None)


def frozen_at(evidence: Evidence) -> datetime | None:
    """The instant the baseline is frozen at; without an alert to tell, the finding's onset."""
    finding = evidence.finding
    if not isinstance(evidence.rule.detector, _FREEZES):
        return None
    if finding.baseline is None or finding.observed_at is None:
        return None
    if evidence.frozen_at is not None:
        return evidence.frozen_at
    is_earlier = finding.onset is not None and finding.onset < finding.observed_at
    return finding.onset if is_earlier else None


# What a measured value says


def _level_sentence(detector: Bands, evidence: Evidence) -> str:
    finding, rule, unit = evidence.finding, evidence.rule, evidence.unit
    band = band_of(detector.bands, finding)
    if band is None or finding.value is None:
        return f"{amount(finding.value, unit)}{_on(finding)}"
    value, limit = apart(finding.value, band.raise_at)
    severity = band.severity.name
    said = f"{with_unit(value, unit)}{_on(finding)}"
    limit = f"the limit of {with_unit(limit, unit)} for {severity}"
    if _is_beyond(detector.direction, finding.value, band.raise_at):
        beyond = "above" if detector.direction is Direction.up else "below"
        side = "at" if abs(finding.value - band.raise_at) <= TOLERANCE else beyond
        waits = "" if finding.fires else _in_a_row(finding.raise_run, rule.raise_after)
        return f"{said}, {side} {limit}{',' if waits else ''}{waits}"
    if not finding.fires:
        return f"{said}, within {limit}"
    clear = amount(band.clear_at, unit)
    if _has_cleared(detector, finding, band):
        return f"{said}; {severity} clears at {clear}{_reached(evidence)}"
    return f"{said}, within {limit}, which clears at {clear}"


def _stood(detector: _Banded, evidence: Evidence) -> str:
    """The value observed, or the mean where the rule averages."""
    finding = evidence.finding
    value = amount(finding.value, evidence.unit)
    averaged = 1
    if isinstance(detector, PercentChange | ZScore | Agreement):
        averaged = detector.mean_of
    if averaged > 1 and finding.observed_at is not None:
        until = day(finding.observed_at)
        return f"averaged {value} over the {averaged} observations up to {until}"
    return f"stood at {value}{_on(finding)}"


def _beside(detector: Measured, evidence: Evidence) -> str:
    """What the value is beside what it is compared with, to be read on from the value."""
    finding, unit = evidence.finding, evidence.unit
    compared = finding.compared
    if compared is None:
        return ""
    normal = amount(finding.baseline, unit)
    side = "above" if compared > 0 else "below"
    spreads = f"{number(abs(round(compared, 2)))} times its usual spread"
    match detector:
        case Bands():
            return ""
        case PercentChange():
            change = percent(abs(compared))
            moved = "unchanged from" if change == "0 %" else f"{change} {side}"
            return f", {moved} {_baseline(detector, evidence)} ({normal})"
        case ZScore():
            lies = f"{spreads} {side}" if round(compared, 2) else "right at"
            return f", {lies} {_baseline(detector, evidence)} ({normal})"
        case Ewma(run=run):
            mean = f"its weighted mean over the newest {run} observations"
            spreads = f"{number(abs(round(compared, 2)))} times its own usual spread"
            return f"; {mean} lies {spreads} {side} {_baseline(detector, evidence)} ({normal})"
        case Cusum(run=run):
            side = "below" if _sums_below(detector, finding) else "above"
            beyond = f"{side} {_baseline(detector, evidence)} ({normal})"
            return f"; over the newest {run} observations what lay {beyond} adds up to {spreads}"
        case Ears():
            ends = "before" if detector.method is EarsMethod.c1 else "that ended 2 before"
            mean = f"the mean of the {detector.observations} observations {ends} ({normal})"
            if detector.method is EarsMethod.c3:
                return f"; its excess over {mean} adds up to {spreads} in three observations"
            return f", {f'{spreads} {side}' if round(compared, 2) else 'right at'} {mean}"
        case RateOfChange():
            size = percent(abs(compared)) if detector.relative else amount(abs(compared), unit)
            moved = f"{'rising' if compared > 0 else 'falling'} by {size} an observation"
            moved = moved if compared else "without a trend"
            return f", {moved} over the newest {detector.observations}"
        case Run(direction=direction):
            moved = "up" if direction is Direction.up else "down"
            if not compared:
                return f", not {moved} from {normal} before"
            times = "once" if compared == 1 else f"{compared:.0f} times in a row"
            return f", {moved} {times} from {normal}"
        case SiteHazard():
            stands = {m.name: number(m.value) for m in finding.measures}
            of = ", ".join(f"{n} {stands[n]}" for n in ("exposure", "vulnerability") if n in stands)
            return f"; for what stands there ({of}) that is an impact of {number(compared)}"
        case Agreement():
            known = [m for m in finding.measures if m.limit is not None]
            views = [m for m in known if m.name != SEASON]
            over = sum(m.value >= (m.limit or 0) - TOLERANCE for m in views)
            usually = "" if finding.baseline is None else f" (usually {normal})"
            ways = f"{over} of the {len(views)} ways of looking at it are beyond what is usual"
            told = f"{usually}; {ways} for it, and {detector.need} are needed"
            usual = [m for m in known if m.name == SEASON and m.value < (m.limit or 0) - TOLERANCE]
            if usual and over >= detector.need:
                return f"{told}; it is hardly worse than the same weeks of other years"
            return told
        case _ as never:
            assert_never(never)


def _baseline(detector: _Compared, evidence: Evidence) -> str:
    """What the value was compared with: "November 2022", "the median of the 90 days before"."""
    rule: Baseline = detector.baseline
    tested, frozen = evidence.finding.observed_at, frozen_at(evidence)
    if tested is None:
        return "its baseline"
    statistic = _statistic(detector)
    run = detector.run if isinstance(detector, Ewma | Cusum) else 0
    match rule:
        case MedianOfWindow():
            _, end = baselines.median_span(rule, tested, frozen)
            span = f"the {statistic} of the {rule.days:g} days"
            return f"{span} before" if end == tested else f"{span} up to {day(end)}"
        case LastObservations():
            most = "up to " if rule.min_observations < rule.observations else ""
            span = f"the {statistic} of the {most}{rule.observations} observations"
            when = f"before {day(frozen)}" if frozen is not None and frozen < tested else "before"
            skipped = run if frozen is not None and not run else run + rule.guard
            return f"{span} that ended {skipped} {when}" if skipped else f"{span} {when}"
        case SamePeriod():
            years = len(baselines.periods_compared(rule, tested, frozen))
            before = "year" if years == 1 else f"{years} years"
            span = f"the {statistic} of the same time of the {before} before"
            if frozen is not None and frozen < tested:
                span = f"{span} {day(frozen)}"
            return f"{span}, give or take {rule.width_days:g} days" if rule.width_days else span
        case SameMonthLastYear():
            return f"{MONTHS[tested.month - 1]} {baselines.year_compared(tested, frozen)}"
        case Previous(back=1):
            return "the observation before"
        case Previous():
            return f"the observation {rule.back} before"
        case Target():
            return "what is expected"
        case _ as never:
            assert_never(never)


def _statistic(detector: _Compared) -> str:
    match detector:
        case ZScore(method=Method.robust):
            return "median"
        case ZScore() | Ewma() | Cusum():
            return "mean"
        case PercentChange(baseline=LastObservations() | SamePeriod() as rule):
            return rule.statistic.value
        case PercentChange():
            return "median"
        case _ as never:
            assert_never(never)


def _sums_below(detector: Cusum, finding: Finding) -> bool:
    """Which of the sums is told: of two the larger."""
    sums = {m.name: m.value for m in finding.measures}
    if detector.two_sided:
        return sums.get("sum below", 0.0) > sums.get("sum above", 0.0)
    return detector.direction is Direction.down


def _together(detector: Joint, finding: Finding) -> str:
    """What several series or findings say together."""
    compared = finding.compared or 0.0
    shown = {m.name: m for m in finding.measures}
    match detector:
        case Concentration():
            said = f"the Herfindahl-Hirschman index of its suppliers is {number(compared)}"
            if detector.measure is Share.largest_share:
                said = f"the largest supplier holds {percent(compared)}"
            if detector.of > 1:
                said += f" or more in {detector.times} of the last {detector.of} periods"
            named = shown.get("share named")
            if named is not None and named.value < 1 - TOLERANCE:
                said += f"; {percent(named.value)} of the supply is of suppliers that are named"
            return said
        case Surge():
            failed = [n.removesuffix(": failed") for n in shown if n.endswith(": failed")]
            said = f"{round(compared)} of {counted(len(detector.gates), 'gate')} passed"
            return f"{said}, not {listed(failed)}" if failed else said
        case Composite():
            side = "above" if compared >= 0 else "below"
            said = f"the index stands {number(abs(round(compared, 2)))} spreads {side} normal"
            coverage = shown.get("coverage")
            return f"{said}, on {percent(coverage.value)} of its weights" if coverage else said
        case Combination():
            least = max(detector.at_least, Severity.minor)
            firing = [n for n, m in shown.items() if n in detector.rules and m.value >= least]
            kind = "families of rules" if detector.count is Count.families else "rules"
            total = "" if detector.count is Count.families else f" of {len(detector.rules)}"
            names = f" ({listed(firing)})" if firing else ""
            return f"{round(compared)}{total} {kind} fire{names}"


# Limits


def _limit_of(detector: _Banded, evidence: Evidence) -> str:
    """How the finding stands to the limit of its band, where that is worth telling."""
    finding, rule, unit = evidence.finding, evidence.rule, evidence.unit
    band = band_of(detector.bands, finding)
    if finding.compared is None or band is None or not (finding.fires or finding.raise_run):
        return ""
    severity = band.severity.name
    if _is_beyond(towards(detector), finding.compared, band.raise_at):
        waits = "" if finding.fires else _in_a_row(finding.raise_run, rule.raise_after)
        limit = _told_limit(detector, band.raise_at, unit)
        return f"; the limit for {severity} is {limit}{', reached' if waits else ''}{waits}"
    clears = f"; {severity} clears at {_told_limit(detector, band.clear_at, unit)}"
    return f"{clears}{_reached(evidence)}" if _has_cleared(detector, finding, band) else clears


def _told_limit(detector: _Banded, limit: float, unit: str) -> str:
    """A limit beside the number it limits."""
    match detector:
        case PercentChange():
            return signed(limit)
        case ZScore() | Ewma() | Cusum() | Ears():
            return f"{number(abs(limit))} times{' below' if limit < 0 else ''}"
        case Run():
            return counted(round(limit), "time")
        case _:
            return _limit(detector, limit, unit)


def _limit(detector: _Banded, limit: float, unit: str) -> str:
    """A limit in words, whatever it limits."""
    match detector:
        case Bands():
            return amount(limit, unit)
        case PercentChange():
            return f"{signed(limit)} against its baseline"
        case ZScore() | Ewma() | Cusum() | Ears():
            below = " below what it is compared with" if limit < 0 else ""
            return f"{number(abs(limit))} times its usual spread{below}"
        case RateOfChange():
            return f"{signed(limit) if detector.relative else amount(limit, unit)} an observation"
        case Run():
            return f"a run of {number(limit)}"
        case SiteHazard():
            return f"an impact of {number(limit)}"
        case Agreement():
            return f"an agreement of {number(limit)}"
        case Concentration():
            is_share = detector.measure is Share.largest_share
            return percent(limit) if is_share else number(limit)
        case Surge():
            return f"{number(limit)} of {counted(len(detector.gates), 'gate')}"
        case Composite():
            return with_unit(number(limit), "spreads")
        case Combination():
            one, many = ("rule", "rules") if detector.count is Count.rules else _FAMILIES
            return f"{number(limit)} {one if limit == 1 else many}"
        case _ as never:
            assert_never(never)


def _lacking(evidence: Evidence) -> str:
    """What a finding that does not fire lacks."""
    finding, rule = evidence.finding, evidence.rule
    if finding.state in {State.stale, State.no_data}:
        return "Silence raises nothing."
    if finding.state is State.not_evaluable:
        return "What cannot be judged raises nothing."
    if isinstance(rule.detector, EventTrigger):
        is_mild = finding.state is State.ok and finding.observed_at is not None
        return f"It counts from {rule.detector.min_severity.name} on." if is_mild else ""
    if finding.state is State.pending:
        return f"It needs {_more(rule.raise_after - finding.raise_run)} in a row to be raised."
    band = band_of(rule.detector.bands, finding)
    if band is None or finding.compared is None:
        return ""
    limit = _told_limit(rule.detector, band.raise_at, evidence.unit)
    gap = abs(band.raise_at - finding.compared)
    short = _gap(rule.detector, gap, evidence.unit)
    return f"{capital(band.severity.name)} is raised at {limit}; it is {short} short."


def _gap(detector: _Banded, gap: float, unit: str) -> str:
    is_share = isinstance(detector, Concentration) and detector.measure is Share.largest_share
    is_fraction = isinstance(detector, RateOfChange) and detector.relative
    if isinstance(detector, PercentChange) or is_share or is_fraction:
        return f"{number(round(100 * gap, 1) or 100 * gap)} percentage points"
    return amount(gap, unit) if isinstance(detector, Bands | RateOfChange) else number(gap)


def _kept_from_alerts(evidence: Evidence, *, in_force: bool) -> list[str]:
    """What keeps a rule from opening an alert even when it fires."""
    rule, observed_at = evidence.rule, evidence.finding.observed_at
    kept = []
    if not in_force:
        kept.append("The mechanism is not in force, so nothing that it finds opens an alert.")
    if rule.effective_from is not None and (observed_at is None or not rule.judges(observed_at)):
        begins = rule.effective_from
        begins_on = f"{begins.day} {MONTHS[begins.month - 1]} {begins.year}"
        kept.append(f"The rule judges what is observed from {begins_on} on.")
    if rule.shadow:
        kept.append("The rule is a shadow: it is judged and recorded, and moves no alert.")
    if rule.effect is Effect.follow_up:
        kept.append("The rule only tells those who follow an alert, and opens none.")
    if rule.effect is Effect.component:
        kept.append("The rule only counts towards a combination of rules.")
    return kept


def _is_beyond(direction: Direction, compared: float, limit: float) -> bool:
    """Whether it reaches a limit in the harmful direction, allowing as the detectors do."""
    return direction.sign * (compared - limit) >= -TOLERANCE


def _has_cleared(detector: _Banded, finding: Finding, band: Band) -> bool:
    compared = 0.0 if finding.compared is None else finding.compared
    return towards(detector).sign * (compared - band.clear_at) <= TOLERANCE


def _reached(evidence: Evidence) -> str:
    finding, rule = evidence.finding, evidence.rule
    if finding.clear_run:
        return f", which it has reached{_in_a_row(finding.clear_run, rule.clear_after)}"
    return f", which takes {rule.clear_after} observations in a row"


def _in_a_row(run: int, wanted: int) -> str:
    """How far a run of observations has come; nothing to say where one is enough."""
    return f" on {run} of {wanted} observations in a row" if wanted > 1 else ""


def _more(count: int) -> str:
    return f"{count} more observation{'s' if count != 1 else ''}"


def _on(finding: Finding) -> str:
    return f" on {day(finding.observed_at)}" if finding.observed_at else ""


# Events


def _event_sentence(evidence: Evidence, catalogue: Catalogue) -> str:
    finding, report, key = evidence.finding, evidence.report, evidence.key
    entry = catalogue.events.get(key.indicator)
    event = small(entry.title) if entry else key.indicator.replace("_", " ")
    place = where(key, catalogue) if key.place else ""
    subject = good_of(key.good, catalogue) or sector_of(key.sector, catalogue)
    about = f"{subject} {place}".rstrip()
    if finding.observed_at is None:
        return f"What was reported for {about} no longer stands: {event}."
    if finding.state is State.pending:
        said = f"Reported{_on(finding)} for {about}, not corroborated yet: {event}"
        return f"{said}; {finding.reason}."
    words = [f"Reported{_on(finding)} for {about}: {event}"]
    if not finding.fires:
        return f"{words[0]}, too mild to count."
    words.append(f"severity {finding.severity.name}")
    if report is not None:
        if report.announced_at and day(report.announced_at) != day(report.at):
            words.append(f"announced on {day(report.announced_at)}")
        if report.effective_at:
            words.append(f"in effect from {day(report.effective_at)}")
    return f"{', '.join(words)}."
