"""Why: every finding and every change of an alert as data and as plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count

from alerts import detectors
from alerts.catalogue import EU, Catalogue
from alerts.detectors import MONTHS, TOLERANCE
from alerts.findings import Finding, State
from alerts.lifecycle import Advice, Alert, AlertState, Cause, Evidence, News, Step, weighing
from alerts.mechanisms import Scope
from alerts.rules import Band, Bands, Direction, EventTrigger, MedianOfWindow, PercentChange, Rule
from alerts.signals import SeriesKey

_UNITS = {
    "percent": "%",
    "fraction": "",
    "index": "",
    "ratio": "",
    "score": "",
    "sd": "standard deviations",
}
"""Units that read otherwise than they are written."""


def title(scope: Scope, catalogue: Catalogue) -> str:
    """What an alert is about, for a headline: "Gallium (semiconductors)"."""
    names = [_good(scope.good, catalogue), _place(scope.place, catalogue)]
    subject = ", ".join(n for n in names if n)
    sector = _sector(scope.sector, catalogue)
    return f"{_capital(subject)} ({sector})" if subject else _capital(sector)


def why(
    evidence: Sequence[Evidence], catalogue: Catalogue, state: AlertState = AlertState.open
) -> str:
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
    return f"{sentence(worst, catalogue)}{f' {others} more {agree}.' if others else ''}"


def sentence(evidence: Evidence, catalogue: Catalogue) -> str:
    """What one finding says, in words a minister can read."""
    finding, detector = evidence.finding, evidence.rule.detector
    what = _what(evidence.key, catalogue)
    stands = f"; its last known severity, {finding.severity.name}, stands" if finding.fires else ""
    if finding.state in {State.stale, State.no_data}:
        since = f" since {day(finding.observed_at)}" if finding.observed_at else ""
        return f"{what} has not been reported{since}{stands}."
    if finding.state is State.not_evaluable:
        return f"{what} could not be judged{_on(finding)}: {finding.reason}{stands}."
    match detector:
        case EventTrigger():
            return _event_sentence(evidence, catalogue)
        case Bands():
            return f"{what} stood at {_level_sentence(detector, evidence)}."
        case PercentChange():
            return f"{what} {_change_sentence(detector, evidence)}."


def to_clear(evidence: Evidence) -> str:
    """What would have to happen for the finding to fall by one band."""
    finding, rule = evidence.finding, evidence.rule
    if not finding.fires:
        return ""
    match rule.detector:
        case EventTrigger(ending=ending):
            return (
                "people decide that it is over"
                if ending == "by_people"
                else "a measurement that fired beside it comes back to ok, or people decide"
            )
        case Bands() | PercentChange():
            band = _band_of(rule.detector.bands, finding)
            if band is None:
                return ""
            side = "at or below" if rule.detector.direction is Direction.up else "at or above"
            limit = (
                amount(band.clear_at, evidence.unit)
                if isinstance(rule.detector, Bands)
                else f"{_signed(band.clear_at)} against its baseline"
            )
            left = rule.clear_after - finding.clear_run
            return f"{side} {limit} on {left} more observation{'s' if left != 1 else ''} in a row"


def describe(evidence: Evidence, catalogue: Catalogue) -> dict[str, object]:
    """One finding as data: everything needed to check it by hand. Instants are RFC 3339."""
    finding, rule, key = evidence.finding, evidence.rule, evidence.key
    detector = rule.detector
    band = None if isinstance(detector, EventTrigger) else _band_of(detector.bands, finding)
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
        "baseline_frozen_at": instant(_frozen_at(evidence)),
        "band": band
        and {"severity": band.severity.name, "raise_at": band.raise_at, "clear_at": band.clear_at},
        "missing": finding.reason or None,
        "to_clear": to_clear(evidence) or None,
        "sentence": sentence(evidence, catalogue),
        "source": rule.source or None,
    }


def explain(
    evidence: Sequence[Evidence], alert: Alert, catalogue: Catalogue
) -> Mapping[str, object]:
    """A transition's explanation: all findings behind it and what is recommended."""
    return {
        "sentence": why(evidence, catalogue, alert.state),
        "findings": [describe(e, catalogue) for e in evidence],
        "recommendation": recommendation(alert.recommendation),
    }


def recommendation(advice: Advice | None) -> dict[str, object] | None:
    """Advice as data."""
    if advice is None:
        return None
    return {"level": advice.level.name, "reasons": list(advice.reasons)}


def reason(step: Step, cause: Cause, catalogue: Catalogue) -> str:
    """Why an alert changed, in one or two sentences."""
    advice = step.alert.recommendation
    match step.news:
        case News.closed:
            return (
                "All that is measured has been back to normal long enough, on fresh observations."
            )
        case News.taken_back:
            return "What it rested on has been taken back."
        case News.measure:
            return f"An announced measure takes effect: {_small(step.measure)}."
        case News.advice if advice is None:
            return "Nothing above the present level is recommended any more."
        case News.advice:
            assert advice is not None
            level = advice.level.name.replace("_", " ")
            return f"The engine recommends {level}: {'; '.join(advice.reasons)}."
        case News.finding:
            said = sentence(cause.evidence, catalogue) if cause.evidence else "Time has passed."
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
        was_said, now_said = _apart(was, now)
        said = (
            f"The value for {day(at)} was revised from {was_said} to {_with_unit(now_said, unit)}"
        )
    others = len(corrections) - 1
    more = f" (and {others} other {'value' if others == 1 else 'values'} with it)"
    return f"{said}{more if others else ''}."


def instant(at: datetime | None) -> str | None:
    """RFC 3339 in UTC with a Z, or null."""
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def day(at: datetime) -> str:
    """A day as people write it: "3 July 2023"."""
    return f"{at.day} {MONTHS[at.month - 1]} {at.year}"


def amount(value: float | None, unit: str) -> str:
    """A number with its unit, no more digits than matter: "26.6 weeks", "43 transits a day"."""
    return "unknown" if value is None else _with_unit(_number(value), unit)


def _with_unit(number: str, unit: str) -> str:
    words = _UNITS.get(unit, unit)
    first, slash, span = words.partition("/")
    if slash and span in {"day", "week", "month", "year"}:
        words = f"{first} a {span}"
    if number in {"1", "-1"}:
        counted, per, rest = words.partition(" a ")
        words = f"{counted.removesuffix('s')}{per}{rest}"
    return f"{number} {words}".rstrip()


def _number(value: float, digits: int | None = None) -> str:
    """A number for people: four digits or so; ``digits`` asks for that many behind the point."""
    size = abs(value)
    if size >= 1e15 or (0 < size < 0.001 and digits is None):
        return f"{value:.3g}"
    if digits is None:
        digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    said = f"{value:,.{digits}f}"
    said = said.rstrip("0").rstrip(".") if "." in said else said
    return "0" if said == "-0" else said


def _apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart."""
    said = _number(one), _number(other)
    if abs(one - other) <= TOLERANCE or abs(one) >= 1e15 or abs(other) >= 1e15:
        return said
    for digits in count(1):
        if said[0] != said[1]:
            break
        said = _number(one, digits), _number(other, digits)
    return said


def _percent(fraction: float) -> str:
    return f"{_number(round(100 * fraction, 1))} %"


def _signed(fraction: float) -> str:
    return f"{'+' if fraction > 0 else ''}{_percent(fraction)}"


def _what(key: SeriesKey, catalogue: Catalogue) -> str:
    """A series as the subject of a sentence: "Volume exported of gallium from CN"."""
    entry = catalogue.indicators.get(key.indicator) or catalogue.events.get(key.indicator)
    words = [entry.title if entry else key.indicator.replace("_", " ")]
    if key.good:
        words.append(f"of {_good(key.good, catalogue)}")
    if key.place:
        words.append(_where(key, catalogue))
    return _capital(" ".join(words))


def _where(key: SeriesKey, catalogue: Catalogue) -> str:
    name = _place(key.place, catalogue)
    is_land = len(key.place) == 2 or "-" in key.place
    if key.place in catalogue.places and not is_land:
        return f"at the {name}"
    if key.place in {EU, "US"} and name == key.place:
        name = f"the {name}"
    if not is_land:
        return f"at {name}"
    if key.indicator in catalogue.events:
        return f"in {name}"
    direction = {"export": "from", "import": "into"}.get(key.indicator.partition("_")[0], "in")
    return f"{direction} {name}"


def _sector(code: str, catalogue: Catalogue) -> str:
    return _small(catalogue.sectors[code].title) if code in catalogue.sectors else code


def _good(code: str, catalogue: Catalogue) -> str:
    return _small(catalogue.goods[code].title) if code in catalogue.goods else code


def _place(code: str, catalogue: Catalogue) -> str:
    if code in catalogue.places:
        return catalogue.places[code].title
    return catalogue.countries.get(code, code)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _small(words: str) -> str:
    """Words as they stand within a sentence; DRAM stays DRAM."""
    return words if words[1:2].isupper() else words[:1].lower() + words[1:]


def _on(finding: Finding) -> str:
    return f" on {day(finding.observed_at)}" if finding.observed_at else ""


def _band_of(bands: Sequence[Band], finding: Finding) -> Band | None:
    """The band of the present severity, or the lowest one when nothing fires."""
    if finding.fires:
        return next((b for b in bands if b.severity is finding.severity), None)
    return min(bands, key=lambda b: b.severity, default=None)


def _frozen_at(evidence: Evidence) -> datetime | None:
    """The instant the baseline is frozen at; without an alert to tell, the finding's onset."""
    finding = evidence.finding
    if finding.baseline is None or finding.observed_at is None:
        return None
    if evidence.frozen_at is not None:
        return evidence.frozen_at
    is_earlier = finding.onset is not None and finding.onset < finding.observed_at
    return finding.onset if is_earlier else None


def _is_beyond(direction: Direction, compared: float, limit: float) -> bool:
    """Whether it reaches a limit in the harmful direction, allowing as the detectors do."""
    return direction.sign * (compared - limit) >= -TOLERANCE


def _in_a_row(run: int, wanted: int) -> str:
    """How far a run of observations has come; nothing to say where one is enough."""
    return f" on {run} of {wanted} observations in a row" if wanted > 1 else ""


def _level_sentence(detector: Bands, evidence: Evidence) -> str:
    finding, rule, unit = evidence.finding, evidence.rule, evidence.unit
    band = _band_of(detector.bands, finding)
    if band is None or finding.value is None:
        return f"{amount(finding.value, unit)}{_on(finding)}"
    value, limit = _apart(finding.value, band.raise_at)
    severity = band.severity.name
    said = f"{_with_unit(value, unit)}{_on(finding)}"
    limit = f"the limit of {_with_unit(limit, unit)} for {severity}"
    if _is_beyond(detector.direction, finding.value, band.raise_at):
        beyond = "above" if detector.direction is Direction.up else "below"
        side = "at" if abs(finding.value - band.raise_at) <= TOLERANCE else beyond
        waits = "" if finding.fires else _in_a_row(finding.raise_run, rule.raise_after)
        return f"{said}, {side} {limit}{',' if waits else ''}{waits}"
    if not finding.fires:
        return f"{said}, within {limit}"
    clear = amount(band.clear_at, unit)
    if _has_cleared(detector, finding, band):
        return f"{said}; {severity} clears at {clear}{_reached(rule, finding)}"
    return f"{said}, within {limit}, which clears at {clear}"


def _has_cleared(detector: Bands | PercentChange, finding: Finding, band: Band) -> bool:
    compared = 0.0 if finding.compared is None else finding.compared
    return detector.direction.sign * (compared - band.clear_at) <= TOLERANCE


def _reached(rule: Rule, finding: Finding) -> str:
    if finding.clear_run:
        return f", which it has reached{_in_a_row(finding.clear_run, rule.clear_after)}"
    return f", which takes {rule.clear_after} observations in a row"


def _change_sentence(detector: PercentChange, evidence: Evidence) -> str:
    finding, rule, unit = evidence.finding, evidence.rule, evidence.unit
    said = f"stood at {amount(finding.value, unit)}{_on(finding)}"
    if detector.mean_of > 1 and finding.observed_at is not None:
        until = day(finding.observed_at)
        said = (
            f"averaged {amount(finding.value, unit)} over the {detector.mean_of} observations up to "
            f"{until}"
        )
    if finding.compared is None or finding.baseline is None or finding.observed_at is None:
        return said
    normal = _baseline(detector, evidence, finding.observed_at)
    change = _percent(abs(finding.compared))
    side = "above" if finding.compared > 0 else "below"
    moved = "unchanged from" if change == "0 %" else f"{change} {side}"
    said = f"{said}, {moved} {normal} ({amount(finding.baseline, unit)})"
    band = _band_of(detector.bands, finding)
    if band is None or (not finding.fires and not finding.raise_run):
        return said
    severity, limit = band.severity.name, _signed(band.raise_at)
    if _is_beyond(detector.direction, finding.compared, band.raise_at):
        waits = "" if finding.fires else _in_a_row(finding.raise_run, rule.raise_after)
        return f"{said}; the limit for {severity} is {limit}{', reached' if waits else ''}{waits}"
    clears = f"{said}; {severity} clears at {_signed(band.clear_at)}"
    return f"{clears}{_reached(rule, finding)}" if _has_cleared(detector, finding, band) else clears


def _baseline(detector: PercentChange, evidence: Evidence, tested: datetime) -> str:
    """What the value was compared with: "November 2022", "the median of the 90 days before"."""
    frozen_at = _frozen_at(evidence)
    if not isinstance(detector.baseline, MedianOfWindow):
        year = detectors.year_compared(tested, frozen_at)
        return f"{MONTHS[tested.month - 1]} {year}"
    _, end = detectors.median_span(detector.baseline, tested, frozen_at)
    span = f"the median of the {detector.baseline.days:g} days"
    return f"{span} before" if end == tested else f"{span} up to {day(end)}"


def _event_sentence(evidence: Evidence, catalogue: Catalogue) -> str:
    finding, report, key = evidence.finding, evidence.report, evidence.key
    entry = catalogue.events.get(key.indicator)
    event = _small(entry.title) if entry else key.indicator.replace("_", " ")
    place = _where(key, catalogue) if key.place else ""
    subject = _good(key.good, catalogue) or _sector(key.sector, catalogue)
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
