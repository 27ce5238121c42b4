"""Machine B: one alert, its level, its state and its severity.

    monitoring -> early_warning (open) -> resolved

The engine opens an early warning, moves its severity, recommends more and closes it; levels above
early_warning are set by people and only recommended here (MECHANISMS 7.2, invariant 1).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from alerts.detectors.reading import TOLERANCE
from alerts.findings import Finding, State
from alerts.mechanisms import (
    Closing,
    EventOnConcentratedGood,
    FamiliesTogether,
    Level,
    OpenWithoutEasing,
    PartyStatement,
    Profile,
    Recommendation,
    Scope,
    Tlp,
)
from alerts.rules import Effect, Ending, EventTrigger, Rule
from alerts.signals import Report, SeriesId, SeriesKey, Severity


class AlertState(enum.StrEnum):
    """Where an alert stands."""

    open = "open"
    resolved = "resolved"


class EventType(enum.StrEnum):
    """The types of what is published; the names are a promise to subscribers."""

    opened = "alert.opened"
    updated = "alert.updated"
    escalated = "alert.escalated"
    eased = "alert.eased"
    resolved = "alert.resolved"


@dataclass(frozen=True, slots=True)
class TakesEffect:
    """An announced measure and the day it begins to bite."""

    at: datetime
    what: str


@dataclass(frozen=True, slots=True)
class Advice:
    """A level the engine recommends people to set, and why. It never sets it itself."""

    level: Level
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One finding that feeds an alert, with what is needed to speak of it.

    ``report`` is the event behind the finding, where there is one; ``frozen_at`` the instant its
    baseline is frozen at, where it is. One that ``is_shelved`` is kept and shown, and does not weigh.
    """

    rule: Rule
    series: SeriesId
    key: SeriesKey
    unit: str
    finding: Finding
    report: Report | None = None
    frozen_at: datetime | None = None
    is_shelved: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """One continuous episode about one scope.

    ``opened_at``, ``updated_at`` and ``resolved_at`` are observation times; the baselines of its
    findings are frozen at ``opened_at``. ``recorded_at`` and ``eased_at`` are the service's clock.
    ``number`` counts its transitions. ``ref`` is empty until the service has numbered it. One that
    ``is_folded`` was opened beyond the mechanism's limit and is told in a summary (``overflow``).
    """

    scope: Scope
    profile_version: int
    level: Level
    state: AlertState
    severity: Severity
    tlp: Tlp
    opened_at: datetime
    recorded_at: datetime
    updated_at: datetime
    number: int
    title: str = ""
    why: str = ""
    ref: str = ""
    validated: bool = False
    eased_at: datetime | None = None
    resolved_at: datetime | None = None
    recommendation: Advice | None = None
    awaiting: tuple[TakesEffect, ...] = ()
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """A recorded change of an alert, with its reason: the fact that is published."""

    number: int
    type: EventType
    level_from: Level
    level_to: Level
    severity_from: Severity
    severity_to: Severity
    at: datetime
    recorded_at: datetime
    reason: str
    decided_by: str = "engine"
    explanation: Mapping[str, object] = field(default_factory=dict)


class Occasion(enum.StrEnum):
    """What made the engine look at an alert."""

    observation = "observation"
    revision = "revision"
    report = "report"
    time = "time"


@dataclass(frozen=True, slots=True)
class Cause:
    """What happened: its time, and the finding it moved (none when only time passed).

    ``before`` is that finding as it was; ``correction`` says in words what was corrected.
    """

    occasion: Occasion
    at: datetime
    evidence: Evidence | None = None
    before: Finding | None = None
    correction: str = ""


class News(enum.StrEnum):
    """What a step tells, so that it can be put into words."""

    finding = "finding"
    measure = "measure"
    advice = "advice"
    closed = "closed"
    taken_back = "taken_back"


@dataclass(frozen=True, slots=True)
class Step:
    """One change of an alert: the alert after it, its time and what it tells.

    ``at`` is the observation's own time, or an announced measure's day; ``measure`` that measure.
    """

    type: EventType
    alert: Alert
    at: datetime
    news: News
    measure: str = ""


def advance(
    profile: Profile,
    alert: Alert | None,
    evidence: Sequence[Evidence],
    cause: Cause,
    now: datetime,
) -> tuple[Step, ...]:
    """What the cause does to the alert of a scope, as steps in order; empty when nothing changes.

    At most one alert is open for a scope. The cases, each step naming its own:

    1. the mechanism is not in force, or no alert and nothing that may open one fires: nothing;
       an alert still open then stands as it is, and is looked at again when the mechanism is renewed
    2. no alert, and a finding that may open one fires: opened
    3. an announced measure's day has come: updated
    4. severity above before: escalated; below: eased
    5. same severity, but a finding rises, a used value was revised, or a report came: updated
    6. a recommendation is new or changed, and no other step told of it: updated
    7. every finding has been ok long enough on fresh observations, everything that was reported
       has been taken back, or the rules it rested on are gone: resolved

    Args:
        profile: the mechanism's rules of the game.
        alert: the open alert of the scope, if any.
        evidence: every finding that feeds it, or would; with their newest state.
        cause: what happened.
        now: the instant of judgement. Validity and waiting for people go by it; all else goes
            by ``cause.at``, the observation's own time.
    """
    if not profile.in_force(now.date()):  # case 1 (invariant 12)
        return ()
    if alert is None:
        if not may_open(evidence):
            return ()
        opened = _open(profile, evidence, cause, now)  # case 2
        return (Step(EventType.opened, opened, cause.at, News.finding),)
    steps: list[Step] = []
    current = _learn_of_measures(alert, cause)
    due = sorted((m for m in current.awaiting if m.at <= cause.at), key=lambda m: (m.at, m.what))
    for measure in due:  # case 3
        waiting = tuple(m for m in current.awaiting if m != measure)
        current = replace(_moved(current, measure.at), awaiting=waiting)
        steps.append(Step(EventType.updated, current, measure.at, News.measure, measure.what))
    was, severity = current.severity, severity_of(evidence)
    if severity != was:
        eased_at = now if severity < was else current.eased_at
        current = replace(current, severity=severity, eased_at=eased_at)
    advice = recommend(profile, current, evidence, now)
    is_new = advice != current.recommendation
    if is_new:
        current = replace(current, recommendation=advice)
    if severity != was:  # case 4
        current = _moved(current, cause.at)
        kind = EventType.escalated if severity > was else EventType.eased
        steps.append(Step(kind, current, cause.at, News.finding))
    elif _is_news(cause):  # case 5
        current = _moved(current, cause.at)
        steps.append(Step(EventType.updated, current, cause.at, News.finding))
    elif is_new:  # case 6
        current = _moved(current, cause.at)
        steps.append(Step(EventType.updated, current, cause.at, News.advice))
    if may_close(profile.closing, current, evidence, cause.at):  # case 7
        resolved = _ended(current, cause.at)
        news = News.closed if any(_measures(e) for e in evidence) else News.taken_back
        steps.append(Step(EventType.resolved, resolved, cause.at, news))
    return tuple(steps)


def correct(
    profile: Profile,
    told: Alert | None,
    hindsight: Alert | None,
    evidence: Sequence[Evidence],
    cause: Cause,
    now: datetime,
    *,
    is_news: bool,
    has_ended: bool = False,
) -> tuple[Step, ...]:
    """What judging a scope's whole history again does to its alert, as steps; at most one.

    What was told stays told: the alert keeps its reference, its numbering, its level and the
    service's instants. The cases:

    1. the mechanism is not in force, or no alert was told and none is open in hindsight: nothing
    2. none was told, and one is open in hindsight: opened
    3. one was told, and in hindsight nothing is open: resolved, unless people set a higher level
    4. severity above before: escalated; below: eased
    5. the same severity, but something that it rests on changed, it began at another time, other
       measures are awaited, or something else is recommended: updated

    Args:
        profile: the mechanism's rules of the game.
        told: the open alert as it was told, if any.
        hindsight: the alert that the whole history leaves open, if any.
        evidence: every finding that feeds it now.
        cause: what was corrected, or came after others.
        now: the instant of judgement.
        is_news: whether subscribers should hear of it although the severity stays.
        has_ended: whether in hindsight the alert that was told has run its course.
    """
    if not profile.in_force(now.date()) or (told is None and hindsight is None):  # case 1
        return ()
    if told is None:
        assert hindsight is not None
        opened = replace(hindsight, number=1)  # case 2
        advice = recommend(profile, opened, evidence, now)
        opened = replace(opened, recommendation=advice)
        return (Step(EventType.opened, opened, cause.at, News.finding),)
    if hindsight is None and told.level is Level.early_warning:  # case 3
        news = News.closed if has_ended else News.taken_back
        return (Step(EventType.resolved, _ended(told, cause.at), cause.at, news),)
    severity = hindsight.severity if hindsight else Severity.none
    waiting = hindsight.awaiting if hindsight else ()
    current = replace(
        told,
        opened_at=hindsight.opened_at if hindsight else told.opened_at,
        severity=severity,
        eased_at=now if severity < told.severity else told.eased_at,
        awaiting=tuple(m for m in waiting if m in told.awaiting or m.at > now),
    )
    current = replace(current, recommendation=recommend(profile, current, evidence, now))
    if severity != told.severity:  # case 4
        kind = EventType.escalated if severity > told.severity else EventType.eased
        return (Step(kind, _moved(current, cause.at), cause.at, News.finding),)
    is_other = (current.opened_at, current.awaiting) != (told.opened_at, told.awaiting)
    if is_news or is_other or current.recommendation != told.recommendation:  # case 5
        news = News.finding if is_news or is_other else News.advice
        return (Step(EventType.updated, _moved(current, cause.at), cause.at, news),)
    return ()


def _ended(alert: Alert, at: datetime) -> Alert:
    return replace(
        _moved(alert, at),
        state=AlertState.resolved,
        level=Level.monitoring,
        severity=Severity.none,
        resolved_at=at,
        recommendation=None,
    )


def may_open(evidence: Sequence[Evidence]) -> bool:
    """Whether an early warning is due."""
    return any(e.finding.fires for e in weighing(evidence))


def weighing(evidence: Sequence[Evidence]) -> list[Evidence]:
    """The findings that bear on an alert's severity.

    A follow-up never weighs, nor what an operator has shelved. An event that measurements answer
    stops weighing once one of them, having fired beside it, has come back to ok since the event
    was last told: what is measured replaces what was feared, and silence after that takes nothing
    back.
    """
    return [
        e
        for e in evidence
        if e.rule.effect is Effect.early_warning and not e.is_shelved and not _answered(e, evidence)
    ]


def severity_of(evidence: Sequence[Evidence]) -> Severity:
    """The worst severity among the findings that weigh."""
    return max((e.finding.severity for e in weighing(evidence)), default=Severity.none)


def may_close(closing: Closing, alert: Alert, evidence: Sequence[Evidence], at: datetime) -> bool:
    """Whether an early warning closes by itself at an observation's time (MECHANISMS 7.7).

    Every measured finding must have been ok for the hold time, on enough observations, the newest
    not stale. Higher levels keep it open, and so does an event that only people end, or that no
    measurement has answered yet; not one that was taken back. Where nothing is measured and every
    event was taken back, or no rule is left that was asked, there is nothing to wait for. What is
    shelved neither keeps it open nor lets it close.
    """
    if alert.level is not Level.early_warning:
        return False
    if not evidence:
        return True
    fed = [e for e in evidence if e.rule.effect is Effect.early_warning and not e.is_shelved]
    if any(e.rule.is_event and e.finding.state is not State.ok for e in weighing(fed)):
        return False
    measured = [e for e in fed if _measures(e)]
    return bool(fed) and all(_has_held(closing, e, at) for e in measured)


def _has_held(closing: Closing, evidence: Evidence, at: datetime) -> bool:
    finding, freshness = evidence.finding, evidence.rule.freshness
    if finding.state is not State.ok or finding.ok_since is None or finding.observed_at is None:
        return False
    if freshness is not None:
        stale_after = timedelta(days=freshness.stale_after_days)
        if at - finding.observed_at > stale_after:
            return False
    held = at - finding.ok_since >= timedelta(days=closing.hold_days)
    return held and finding.ok_run >= closing.fresh_observations


def recommend(
    profile: Profile, alert: Alert, evidence: Sequence[Evidence], now: datetime
) -> Advice | None:
    """The highest level above the alert's own that any of the profile's conditions recommends."""
    met = [
        (condition.level, reason)
        for condition in profile.recommendations
        if condition.level > alert.level
        and (reason := _condition_met(condition, profile, alert, evidence, now))
    ]
    if not met:
        return None
    highest = max(level for level, _ in met)
    return Advice(highest, tuple(reason for level, reason in met if level is highest))


def _condition_met(
    condition: Recommendation,
    profile: Profile,
    alert: Alert,
    evidence: Sequence[Evidence],
    now: datetime,
) -> str:
    """The reason in words when the condition holds, else an empty string."""
    firing = [e for e in weighing(evidence) if e.finding.fires]
    match condition:
        case FamiliesTogether():
            grave = [e for e in firing if e.finding.severity >= condition.at_least]
            families = sorted({e.rule.family for e in grave})
            if len(families) >= condition.count and set(families) & set(condition.one_of):
                return (
                    f"{listed(families)} findings are at least {condition.at_least.name} together"
                )
        case EventOnConcentratedGood():
            good = profile.key_good(alert.scope.good)
            grave_event = any(
                e.rule.is_event and e.finding.severity >= condition.at_least for e in firing
            )
            if grave_event and good is not None:
                if good.hhi is not None and good.hhi > condition.hhi_above + TOLERANCE:
                    return (
                        f"an event that is at least {condition.at_least.name} hits a good whose "
                        f"supply is concentrated (HHI {good.hhi:g}, above {condition.hhi_above:g})"
                    )
                share = good.top_share
                if share is not None and share > condition.top_share_above + TOLERANCE:
                    return (
                        f"an event that is at least {condition.at_least.name} hits a good of which "
                        f"one supplier holds {100 * share:.3g} % (above "
                        f"{100 * condition.top_share_above:.3g} %)"
                    )
        case OpenWithoutEasing():
            since = alert.eased_at or alert.recorded_at
            if alert.severity and now - since >= timedelta(days=condition.days):
                return f"open for {condition.days:g} days without any fall in severity"
        case PartyStatement():
            pass  # An alert does not carry what parties stated; nothing is stated, nothing is met.
    return ""


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


def _open(profile: Profile, evidence: Sequence[Evidence], cause: Cause, now: datetime) -> Alert:
    trigger = cause.evidence or next(e for e in evidence if e.finding.fires)
    alert = Alert(
        scope=profile.scope_of(trigger.key),
        profile_version=profile.version,
        level=Level.early_warning,
        state=AlertState.open,
        severity=severity_of(evidence),
        tlp=profile.default_tlp,
        opened_at=cause.at,
        recorded_at=now,
        updated_at=cause.at,
        number=1,
    )
    alert = _learn_of_measures(alert, cause)
    advice = recommend(profile, alert, evidence, now)
    return alert if advice is None else replace(alert, recommendation=advice)


def _learn_of_measures(alert: Alert, cause: Cause) -> Alert:
    """Notes when a reported measure takes effect, if that is still to come.

    What a correction says of the day replaces what was noted before.
    """
    evidence = cause.evidence
    if evidence is None or not evidence.rule.is_event:
        return alert
    place = f" ({evidence.key.place})" if evidence.key.place else ""
    what = f"{evidence.rule.title}{place}"
    noted = alert.awaiting
    if cause.occasion is Occasion.revision:
        noted = tuple(m for m in noted if m.what != what)
    day = evidence.report.effective_at if evidence.report else None
    if day is not None and day > max(cause.at, alert.updated_at):
        measure = TakesEffect(day, what)
        noted = (*(m for m in noted if m != measure), measure)
    return alert if noted == alert.awaiting else replace(alert, awaiting=noted)


def _moved(alert: Alert, at: datetime) -> Alert:
    return replace(alert, number=alert.number + 1, updated_at=max(at, alert.updated_at))


def _is_news(cause: Cause) -> bool:
    """Whether subscribers should hear of it although the severity stays."""
    if cause.evidence is None:
        return False
    if cause.occasion is not Occasion.observation:
        return True
    was = cause.before.severity if cause.before else Severity.none
    return cause.evidence.finding.severity > was


def _measures(evidence: Evidence) -> bool:
    return evidence.rule.effect is Effect.early_warning and not evidence.rule.is_event


def _answered(event: Evidence, evidence: Sequence[Evidence]) -> bool:
    detector, told_at = event.rule.detector, event.finding.since
    if not isinstance(detector, EventTrigger) or detector.ending is not Ending.with_measurements:
        return False
    return any(
        _measures(e)
        and not e.finding.fires
        and e.finding.ok_since is not None
        and (told_at is None or e.finding.ok_since > told_at)
        for e in evidence
    )
