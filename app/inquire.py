"""Answers why there is no alert, of every rule asked of a series or a subject; and why somebody was
not told of one.

Calm findings are not remembered, so they are read anew here, from the same windows by the same
detectors. Writes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from alerts import detectors, explanation, findings, judgement, routing
from alerts.catalogue import nearest
from alerts.detectors import voices
from alerts.detectors.events import read_reports
from alerts.detectors.reading import Reading
from alerts.explanation import day, instant
from alerts.findings import QUIET, Finding, State, carried
from alerts.lifecycle import Alert, Evidence
from alerts.mechanisms import Profile
from alerts.rules import Effect, EventTrigger, Measured, Rule, Trust, towards
from alerts.signals import Report, Sample, SeriesId, SeriesKey, Severity, Voice
from app import store
from app.database import Connection
from app.policy import Policy
from app.store.dossiers import SeriesRow
from app.store.finding_log import Hearing, Shown
from app.store.shelves import Shelf
from app.store.subscriptions import Status, Subscription


class Obstacle(enum.StrEnum):
    """What stands between a rule and an alert; several may at once.

    ``alerting`` is none: the finding feeds an open alert. ``due`` is none either: it fires, and
    nothing keeps it from one.
    """

    alerting = "alerting"
    due = "due"
    quiet = "quiet"
    pending = "pending"
    undefined = "undefined"
    stale = "stale"
    no_data = "no_data"
    not_in_force = "not_in_force"
    scheduled = "scheduled"
    shadow = "shadow"
    shelved = "shelved"
    follow_up = "follow_up"
    component = "component"


Outcome = Literal[
    "delivered", "owed", "failing", "suspended", "failed", "superseded", "expired", "withdrawn",
    "not_consented", "not_subscribed", "filtered", "folded", "changed",
]  # fmt: skip
"""What became of a transition for one subscription; from `not_consented` on it was never owed."""


@dataclass(frozen=True, slots=True)
class Short:
    """How far a finding is from being raised, in what is compared with the bands."""

    severity: Severity
    compared: float
    raise_at: float
    by: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What one rule says of one series, and what stands between that and an alert."""

    profile: Profile
    rule: Rule
    evidence: Evidence
    obstacles: tuple[Obstacle, ...]
    why: str
    short: Short | None = None
    shelf: Shelf | None = None
    alert_ref: str | None = None


@dataclass(frozen=True, slots=True)
class Unasked:
    """A series that no rule in use asks, and the indicators of its sector that rules do ask."""

    series: SeriesId
    key: SeriesKey
    near: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unreported:
    """A rule that would ask a subject, did anyone report its indicators for it."""

    profile: Profile
    rule: Rule
    indicators: tuple[str, ...]


@dataclass(slots=True)
class _Known:
    """What is remembered of the series asked about: findings, and what they are read from."""

    findings: Mapping[tuple[SeriesId, str, str], Shown]
    reports: Mapping[SeriesId, Sequence[Report]]
    windows: dict[SeriesId, list[Sample]] = field(default_factory=dict)
    voices: Mapping[SeriesId, Mapping[datetime, Sequence[Voice]]] = field(default_factory=dict)
    subjects: Mapping[SeriesKey, SeriesId] = field(default_factory=dict)


async def of_series(
    connection: Connection, policy: Policy, rows: Sequence[SeriesRow], now: datetime
) -> list[Answer]:
    """Every rule asked of these series, in their order. A few queries, and one or two a series."""
    known = await _known(connection, policy, rows)
    answers: dict[tuple[SeriesKey, str, str], Answer] = {}
    for row in rows:
        for profile, rule in policy.brief(row.key).questions:
            finding, report = _finding(policy, known, row, profile, rule)
            asked = (profile, rule, finding, report)
            answers[row.key, profile.id, rule.id] = _answer(policy, known, row, asked, now)
        for profile, rule, subject in policy.brief(row.key).joint:
            if (subject, profile.id, rule.id) in answers:
                continue  # Another series of the subject has answered for it.
            of = replace(row, id=known.subjects.get(subject, row.id), key=subject)
            shown = known.findings.get((of.id, profile.id, rule.id))
            finding = _taken_over(rule, shown) if shown else QUIET
            asked = (profile, rule, finding, None)
            answers[subject, profile.id, rule.id] = _answer(policy, known, of, asked, now)
    return list(answers.values())


async def evidence_of(
    connection: Connection, policy: Policy, shown: Sequence[Shown], now: datetime
) -> list[Evidence | None]:
    """Remembered findings with what is needed to speak of them, in their order.

    None where the rule is in use no more. One query where there are events.
    """
    events = {s.kept.key[0] for s in shown if policy.brief(s.key).is_event}
    reports = await store.signals.reports(connection, events) if events else {}
    found: list[Evidence | None] = []
    for one in shown:
        series, mechanism, rule_id = one.kept.key
        rule = policy.rule(mechanism, rule_id)
        if rule is None:
            found.append(None)
            continue
        finding = _taken_over(rule, one)
        evidence = Evidence(
            rule,
            series,
            one.key,
            policy.brief(one.key).unit,
            finding,
            _report_behind(reports.get(series, ()), finding),
            is_shelved=policy.shelf(series, mechanism, rule_id, now) is not None,
        )
        found.append(_frozen(evidence, one))
    return found


def unasked(policy: Policy, rows: Sequence[SeriesRow]) -> list[Unasked]:
    """The series among these that no rule asks."""
    return [
        Unasked(row.id, row.key, nearest(row.key.indicator, _asked_in(policy, row.key.sector)))
        for row in rows
        if not policy.brief(row.key).questions
        and not policy.brief(row.key).joint
        and (row.key.indicator in policy.catalogue.indicators or policy.brief(row.key).is_event)
    ]


def unreported(
    policy: Policy, sector: str, good: str | None, place: str | None, reported: Collection[str]
) -> list[Unreported]:
    """The rules that would ask a subject, and of whose indicators nothing is ``reported``."""
    return [
        Unreported(profile, rule, rule.indicators)
        for profile in policy.profiles.values()
        for rule in profile.rules
        if sector in rule.sectors
        and (good is None or not rule.goods or good in rule.goods)
        and (place is None or not rule.places or place in rule.places)
        and rule.indicators
        and not set(rule.indicators) & set(reported)
    ]


def _asked_in(policy: Policy, sector: str) -> set[str]:
    return {
        indicator
        for profile in policy.profiles.values()
        for rule in profile.rules
        if sector in rule.sectors
        for indicator in rule.indicators
    }


async def _known(connection: Connection, policy: Policy, rows: Sequence[SeriesRow]) -> _Known:
    subjects = {subject for row in rows for *_, subject in policy.brief(row.key).joint}
    ids = await store.series.ids_of(connection, subjects) if subjects else {}
    asked = {row.id for row in rows} | set(ids.values())
    shown = await store.finding_log.of_series(connection, asked)
    events = {row.id for row in rows if policy.brief(row.key).is_event}
    reports = await store.signals.reports(connection, events) if events else {}
    known = _Known({s.kept.key: s for s in shown}, reports, subjects=ids)
    measured = [
        row
        for row in rows
        if row.last_observed_at is not None
        and row.id not in events
        and any(isinstance(r.detector, Measured) for _, r in policy.brief(row.key).questions)
    ]
    for row in measured:
        known.windows[row.id] = await _window(connection, policy, row)
    wanted = [
        (row.id, known.windows[row.id][0].at)
        for row in measured
        if known.windows[row.id] and policy.brief(row.key).trusts
    ]
    if wanted:
        known.voices = await store.signals.voices(connection, wanted)
    return known


async def _window(connection: Connection, policy: Policy, row: SeriesRow) -> list[Sample]:
    """The newest samples of a series as far back as its rules look, since its last break."""
    last, reach = row.last_observed_at, policy.brief(row.key).reach
    assert last is not None
    since = max(last - reach.span, store.signals.BEGINNING)
    if reach.observations:
        back = await store.signals.instant_back(connection, row.id, last, reach.observations)
        since = min(since, back)
    begun = max((b for b in policy.brief(row.key).breaks if b <= last), default=since)
    found = await store.signals.windows(connection, [(row.id, max(since, begun))])
    return found[row.id]


def _finding(
    policy: Policy, known: _Known, row: SeriesRow, profile: Profile, rule: Rule
) -> tuple[Finding, Report | None]:
    """A rule's finding on a series: the remembered one, or a calm one read anew."""
    shown = known.findings.get((row.id, profile.id, rule.id))
    reports = known.reports.get(row.id, ())
    if shown is not None:
        finding = _taken_over(rule, shown)
        report = _report_behind(reports, finding)
        if finding.compared is not None or finding.fires or finding.state is not State.ok:
            return finding, report
    try:
        if isinstance(rule.detector, EventTrigger):
            if not reports:
                return QUIET, None
            reading = read_reports(rule.detector, reports)
            return findings.advance(rule, QUIET, reading), reports[-1]
        window = known.windows.get(row.id, [])
        if not isinstance(rule.detector, Measured) or not window:
            return QUIET, None
        if rule.trust is not None:
            window = _heard(rule.trust, window, known.voices.get(row.id, {}))
        if not window:
            said = "no report of it is reliable enough for the rule"
            at = row.last_observed_at
            return replace(QUIET, state=State.not_evaluable, observed_at=at, reason=said), None
        reading = detectors.read(rule.detector, window, place=row.key.place)
    except Exception as error:  # noqa: BLE001 - one broken rule must not hide what others say
        at = row.last_observed_at or store.signals.BEGINNING
        failed = f"the rule failed ({type(error).__name__})"
        reading = Reading(at, row.last_value, undefined=failed)
    return findings.advance(rule, QUIET, reading), None


def _report_behind(reports: Sequence[Report], finding: Finding) -> Report | None:
    return next((r for r in reversed(reports) if r.at == finding.observed_at), None)


def _frozen(evidence: Evidence, shown: Shown | None) -> Evidence:
    if shown is None or shown.alert_opened_at is None:
        return evidence
    return judgement.frozen(evidence, shown.alert_opened_at)


def _taken_over(rule: Rule, shown: Shown) -> Finding:
    return carried(rule, shown.kept.finding, shown.kept.rule_version)


def _heard(
    trust: Trust, window: Sequence[Sample], told: Mapping[datetime, Sequence[Voice]]
) -> list[Sample]:
    """The window as a rule hears it that believes some more than others."""
    found = []
    for sample in window:
        kept = voices.heard(trust, told.get(sample.at, ()))
        if kept:
            found.append(Sample(sample.at, voices.combined(trust, kept)))
    return found


def _answer(
    policy: Policy,
    known: _Known,
    row: SeriesRow,
    asked: tuple[Profile, Rule, Finding, Report | None],
    now: datetime,
) -> Answer:
    profile, rule, finding, report = asked
    shown = known.findings.get((row.id, profile.id, rule.id))
    shelf = policy.shelf(row.id, profile.id, rule.id, now)
    unit = policy.brief(row.key).unit
    evidence = Evidence(rule, row.id, row.key, unit, finding, report, is_shelved=shelf is not None)
    evidence = _frozen(evidence, shown)
    in_force = profile.in_force(now.date())
    ref = shown.alert_ref if shown else None
    said = [explanation.quiet(evidence, policy.catalogue, in_force=in_force)]
    if shelf is not None:
        said.append(sentence_of(shelf))
    if ref is not None:
        said = [explanation.sentence(evidence, policy.catalogue), f"It feeds the alert {ref}."]
    return Answer(
        profile,
        rule,
        evidence,
        _obstacles(profile, evidence, ref, now),
        " ".join(said),
        short_of(evidence),
        shelf,
        ref,
    )


def _obstacles(
    profile: Profile, evidence: Evidence, ref: str | None, now: datetime
) -> tuple[Obstacle, ...]:
    """What the finding lacks first, then what keeps its rule from alerts whatever it finds."""
    finding, rule = evidence.finding, evidence.rule
    if ref is not None and not evidence.is_shelved:
        return (Obstacle.alerting,)
    found: list[Obstacle] = []
    match finding.state:
        case State.stale:
            found.append(Obstacle.stale)
        case State.no_data:
            found.append(Obstacle.no_data)
        case State.not_evaluable:
            found.append(Obstacle.undefined)
        case State.pending:
            found.append(Obstacle.pending)
        case State.ok | State.firing | State.recovering if not finding.fires:
            found.append(Obstacle.quiet)
        case _:
            pass
    if not profile.in_force(now.date()):
        found.append(Obstacle.not_in_force)
    observed = finding.observed_at
    if rule.effective_from is not None and (observed is None or not rule.judges(observed)):
        found.append(Obstacle.scheduled)
    kept_from = {
        Obstacle.shadow: rule.shadow,
        Obstacle.shelved: evidence.is_shelved,
        Obstacle.follow_up: rule.effect is Effect.follow_up,
        Obstacle.component: rule.effect is Effect.component,
    }
    found += [obstacle for obstacle, is_so in kept_from.items() if is_so]
    return tuple(found) or (Obstacle.due,)


def short_of(evidence: Evidence) -> Short | None:
    """How far from being raised; None where it fires, or nothing can be compared."""
    finding, detector = evidence.finding, evidence.rule.detector
    if finding.fires or finding.compared is None or isinstance(detector, EventTrigger):
        return None
    band = min(detector.bands, key=lambda b: b.severity, default=None)
    if band is None:
        return None
    by = towards(detector).sign * (band.raise_at - finding.compared)
    return Short(band.severity, finding.compared, band.raise_at, max(by, 0.0))


def sentence_of(shelf: Shelf) -> str:
    """What a shelf says, for people."""
    reason = shelf.reason.rstrip(".")
    return f"{shelf.created_by} has shelved it until {day(shelf.until)}: {reason}."


def outcome_of(
    held: Subscription,
    owed_since: datetime | None,
    alert: Alert,
    hearing: Hearing,
    last_reason: str,
    now: datetime,
) -> tuple[Outcome, str]:
    """What became of a transition for a subscription, as a word and as a sentence.

    Args:
        held: the subscription as it stands now.
        owed_since: since when it is owed what it asks for.
        alert: the alert, as it stands now.
        hearing: the transition, and its delivery if there is one.
        last_reason: what the last attempt came to.
        now: the instant of the question.
    """
    if hearing.delivery is None:
        return _never_owed(held, owed_since, alert, hearing)
    return _owed(held, hearing, last_reason, now)


def _never_owed(
    held: Subscription, owed_since: datetime | None, alert: Alert, hearing: Hearing
) -> tuple[Outcome, str]:
    """Why a transition was never owed to a subscription; the first reason that applies."""
    if hearing.recorded_at < held.created_at:
        return "not_subscribed", "The subscription is younger than this."
    if owed_since is None:
        return "not_consented", "The endpoint has never consented; it is owed nothing before."
    if hearing.recorded_at < owed_since:
        return "not_consented", f"The endpoint consented only at {instant(owed_since)}."
    then = replace(alert, level=hearing.level_to, severity=hearing.severity_to)
    why = routing.why_not(held.filter, then, hearing.type, hearing.was)
    if why == routing.FOLDED:
        return "folded", f"{why[:1].upper()}{why[1:]}."
    if why:
        return "filtered", f"The subscription's filter: {why}."
    return "changed", "The subscription asks for this now, and asked for something else then."


def _owed(
    held: Subscription, hearing: Hearing, last_reason: str, now: datetime
) -> tuple[Outcome, str]:
    """How a delivery stands."""
    if hearing.state == "delivered":
        return "delivered", f"Delivered at {instant(hearing.finished_at)}."
    if hearing.state == "withdrawn":
        return "withdrawn", "It was withdrawn before it was delivered."
    if hearing.state == "superseded":
        return "superseded", "A newer one of the same alert is sent in its place."
    if hearing.state == "expired":
        return "expired", "The subscription was suspended for longer than what it is owed is kept."
    if hearing.state == "failed":
        return "failed", f"Given up after {hearing.attempts} attempts. {last_reason}".strip()
    if held.status is Status.suspended:
        reason = f" ({held.reason})" if held.reason else ""
        return "suspended", (
            f"The subscription is suspended since {instant(held.suspended_at)}{reason}; "
            "it is kept and sent when resumed."
        )
    if held.verified_at is None:
        return "not_consented", "The endpoint it has now has not consented; it is kept until then."
    if held.not_before is not None and held.not_before > now and held.health.failures:
        return "failing", (
            f"The endpoint has failed {held.health.failures} times in a row and is left in peace until "
            f"{instant(held.not_before)}. {held.health.last_error}"
        )
    if hearing.attempts:
        due = hearing.due_at
        again = f" It is tried again at {instant(due)}." if due and due > now else ""
        return "failing", f"Tried {hearing.attempts} times. {last_reason}{again}"
    return "owed", "It is owed and has not been tried yet, or waits for one of its alert before it."
