"""Why: every finding and every change of an alert as data and as plain sentences.

words       numbers, days, places and goods as people write them
sentences   what one finding says, what it lacks, and why there is no alert
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from alerts import detectors
from alerts.catalogue import Catalogue
from alerts.detectors import baselines
from alerts.detectors.joint import panel_reach
from alerts.detectors.reading import Reach
from alerts.explanation.sentences import band_of, frozen_at, quiet, sentence, to_clear, to_raise
from alerts.explanation.words import (
    amount,
    apart,
    capital,
    day,
    good_of,
    instant,
    place_of,
    sector_of,
    small,
    with_unit,
)
from alerts.lifecycle import Advice, Alert, AlertState, Cause, Evidence, News, Step, weighing
from alerts.mechanisms import Scope
from alerts.rules import (
    Combination,
    Composite,
    Concentration,
    Effect,
    EventTrigger,
    MedianOfWindow,
    PercentChange,
    SameMonthLastYear,
    SamePeriod,
    Surge,
    ZScore,
)

__all__ = [
    "amount",
    "corrected",
    "day",
    "describe",
    "explain",
    "instant",
    "quiet",
    "reason",
    "recommendation",
    "sentence",
    "title",
    "to_clear",
    "to_raise",
    "why",
]


Say = Callable[[Evidence], str]
"""How a finding is put into words: ``sentence``, or what remembers what it said."""


def title(scope: Scope, catalogue: Catalogue) -> str:
    """What an alert is about, for a headline: "Gallium (semiconductors)"."""
    names = [good_of(scope.good, catalogue), place_of(scope.place, catalogue)]
    subject = ", ".join(n for n in names if n)
    sector = sector_of(scope.sector, catalogue)
    return f"{capital(subject)} ({sector})" if subject else capital(sector)


def why(evidence: Sequence[Evidence], say: Say, state: AlertState = AlertState.open) -> str:
    """One plain sentence for the finding that weighs most, and how many more agree with it."""
    if state is AlertState.resolved:
        return "It is over: nothing that fed the alert weighs any more."
    firing = [e for e in weighing(evidence) if e.finding.fires]
    if not firing:
        return (
            "Nothing fires at present; the alert closes when that has held on fresh observations."
        )
    worst = max(firing, key=lambda e: (e.finding.severity, not e.rule.is_event, e.rule.id))
    others = len(firing) - 1
    agree = "finding agrees" if others == 1 else "findings agree"
    return f"{say(worst)}{f' {others} more {agree}.' if others else ''}"


def describe(
    evidence: Evidence, catalogue: Catalogue, *, in_force: bool = True
) -> dict[str, object]:
    """One finding as data: everything needed to check it by hand. Instants are RFC 3339.

    ``window`` is how far it looked; ``quiet`` says why it opens no alert, of one that does not
    fire or is kept from alerts. ``in_force`` is whether the mechanism is.
    """
    finding, rule, key = evidence.finding, evidence.rule, evidence.key
    detector = rule.detector
    band = None if isinstance(detector, EventTrigger) else band_of(detector.bands, finding)
    feeds = finding.fires and in_force and not rule.shadow and rule.effect is Effect.early_warning
    return {
        "rule": rule.id,
        "rule_version": rule.version,
        "family": rule.family.value,
        "series_id": evidence.series,
        "sector": key.sector,
        "indicator": key.indicator,
        "good": key.good or None,
        "place": key.place or None,
        "state": finding.state.value,
        "severity": finding.severity.name,
        "value": finding.value,
        "unit": evidence.unit,
        "observed_at": instant(finding.observed_at),
        "compared": finding.compared,
        "baseline": finding.baseline,
        "baseline_frozen_at": instant(frozen_at(evidence)),
        "window": _window(evidence),
        "measures": [
            {"name": m.name, "value": m.value, "limit": m.limit} for m in finding.measures
        ],
        "band": band
        and {"severity": band.severity.name, "raise_at": band.raise_at, "clear_at": band.clear_at},
        "missing": finding.reason or None,
        "to_clear": to_clear(evidence) or None,
        "to_raise": to_raise(evidence) or None,
        "sentence": sentence(evidence, catalogue),
        "quiet": None if feeds else quiet(evidence, catalogue, in_force=in_force),
        "source": rule.source or None,
    }


def explain(
    findings: Sequence[Mapping[str, object]], alert: Alert, *, taken_back: bool = False
) -> Mapping[str, object]:
    """A transition's explanation: all findings behind it, as ``describe`` gives them, and what is
    recommended.

    ``taken_back`` stands in it only where it is true: the alert ends because nothing that it
    rested on stands, and standards that cancel tell that from an end.
    """
    explained: dict[str, object] = {
        "sentence": alert.why,
        "findings": findings,
        "recommendation": recommendation(alert.recommendation),
    }
    return {**explained, "taken_back": True} if taken_back else explained


def recommendation(advice: Advice | None) -> dict[str, object] | None:
    """Advice as data."""
    if advice is None:
        return None
    return {"level": advice.level.name, "reasons": list(advice.reasons)}


def reason(step: Step, cause: Cause, say: Say) -> str:
    """Why an alert changed, in one or two sentences."""
    advice = step.alert.recommendation
    match step.news:
        case News.closed:
            return (
                "All that is measured has been back to normal long enough, on fresh observations."
            )
        case News.taken_back:
            return f"{cause.correction} Nothing that it rested on stands any more.".strip()
        case News.measure:
            return f"An announced measure takes effect: {small(step.measure)}."
        case News.advice if advice is None:
            return "Nothing above the present level is recommended any more."
        case News.advice:
            assert advice is not None
            level = advice.level.name.replace("_", " ")
            return f"The engine recommends {level}: {'; '.join(advice.reasons)}."
        case News.finding:
            said = say(cause.evidence) if cause.evidence else "Time has passed."
            return f"{cause.correction} {said}".strip()


def corrected(
    corrections: Sequence[tuple[datetime, float | None, float | None]],
    unit: str,
    *,
    is_event: bool = False,
) -> str:
    """What was corrected, in words; each correction is (observed at, was, is now), the last told."""
    at, was, now = corrections[-1]
    if is_event:
        said = f"The report of {day(at)} was {'taken back' if now is None else 'revised'}"
    elif was is None:
        said = f"A late value for {day(at)} came in: {amount(now, unit)}"
    elif now is None:
        said = f"The value for {day(at)}, {amount(was, unit)}, was taken back"
    else:
        was_said, now_said = apart(was, now)
        said = f"The value for {day(at)} was revised from {was_said} to {with_unit(now_said, unit)}"
    others = len(corrections) - 1
    more = f" (and {others} other {'value' if others == 1 else 'values'} with it)"
    return f"{said}{more if others else ''}."


def _window(evidence: Evidence) -> dict[str, object]:
    """How many observations or days before the tested one it looked at, and from when to when.

    Both are null where it looked at the value alone; ``from`` and ``until`` where they hang on
    when the observations were made. Frozen, they lie before the onset.
    """
    detector, tested = evidence.rule.detector, evidence.finding.observed_at
    frozen = frozen_at(evidence)
    match detector:
        case EventTrigger():
            reach = Reach(timedelta(days=detector.corroboration.within_days))
        case Concentration() | Surge() | Composite():
            reach = panel_reach(detector)
        case Combination():
            reach = Reach()
        case _:
            reach = detectors.reach(detector)
    begins: datetime | None = None
    ends: datetime | None = None
    if isinstance(detector, PercentChange | ZScore) and tested is not None:
        begins, ends = _span_of(detector, tested, frozen)
    return {
        "observations": reach.observations or None,
        "days": reach.span / timedelta(days=1) or None,
        "from": instant(begins),
        "until": instant(ends),
    }


def _span_of(
    detector: PercentChange | ZScore, tested: datetime, frozen: datetime | None
) -> tuple[datetime | None, datetime | None]:
    """From when to when the observations compared with were made, where the rule says so."""
    match detector.baseline:
        case MedianOfWindow() as rule:
            return baselines.median_span(rule, tested, frozen)
        case SamePeriod() as rule:
            periods = baselines.periods_compared(rule, tested, frozen)
            return (periods[-1][0], periods[0][1]) if periods else (None, None)
        case SameMonthLastYear() if (year := baselines.year_compared(tested, frozen)) >= 1:
            begins = tested.replace(year=year, day=1, hour=0, minute=0, second=0, microsecond=0)
            return begins, (begins + timedelta(days=32)).replace(day=1)
    return None, None
