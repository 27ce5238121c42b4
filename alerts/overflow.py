"""Too many alerts at once: those beyond a mechanism's limit are told together, in one summary alert.

A flood of single messages is read by nobody. What is folded is still judged, kept, shown and
counted; subscribers hear of it through the summary, which opens, changes and is resolved like any
other alert.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from alerts.catalogue import Catalogue
from alerts.lifecycle import Alert, AlertState, EventType, Transition
from alerts.mechanisms import Level, Profile, Scope
from alerts.signals import Severity
from alerts.tracks import Published

SUMMARY = "*"
"""Stands for the good in the scope of a summary alert; no good has such a code."""

LISTED = 100
"""The explanation names at most this many of the folded alerts, the gravest first."""


def is_summary(scope: Scope) -> bool:
    """Whether a scope is that of a summary alert."""
    return scope.good == SUMMARY


def summary_scope(scope: Scope) -> Scope:
    """The scope of the summary that an alert beyond the limit is folded into."""
    return Scope(scope.mechanism, scope.sector, SUMMARY, "", scope.exercise)


def summarise(
    profile: Profile,
    scope: Scope,
    summary: Alert | None,
    folded: Sequence[Alert],
    catalogue: Catalogue,
    now: datetime,
) -> Published | None:
    """What the summary alert of a scope has to tell; None when that is nothing new.

    Args:
        profile: the mechanism.
        scope: the summary's scope.
        summary: the open summary, if there is one.
        folded: the open alerts that are folded into it.
        catalogue: names.
        now: the instant of judgement.
    """
    if not profile.in_force(now.date()) or (summary is None and not folded):
        return None
    ranked = sorted(folded, key=lambda a: (-a.severity, a.ref))
    severity = ranked[0].severity if ranked else Severity.none
    why = _why(ranked)
    if summary is not None and why == summary.why:
        return None
    at = max((a.updated_at for a in folded), default=now)
    before = summary or _opened(profile, scope, catalogue, at, now)
    alert = replace(
        before,
        number=before.number + 1,
        severity=severity,
        why=why,
        updated_at=max(at, before.updated_at),
        state=AlertState.open if folded else AlertState.resolved,
        level=Level.early_warning if folded else Level.monitoring,
        resolved_at=None if folded else now,
        eased_at=now if severity < before.severity else before.eased_at,
    )
    transition = Transition(
        number=alert.number,
        type=_type(summary, alert),
        level_from=summary.level if summary else Level.monitoring,
        level_to=alert.level,
        severity_from=before.severity,
        severity_to=severity,
        at=at,
        recorded_at=now,
        reason=why,
        explanation={
            "sentence": why,
            "findings": [],
            "recommendation": None,
            "folded": [
                {"ref": a.ref, "title": a.title, "severity": a.severity.name}
                for a in ranked[:LISTED]
            ],
        },
    )
    return Published(scope, alert, transition, (), ())


def _opened(
    profile: Profile, scope: Scope, catalogue: Catalogue, at: datetime, now: datetime
) -> Alert:
    sector = catalogue.sectors.get(scope.sector)
    return Alert(
        scope=scope,
        profile_version=profile.version,
        level=Level.early_warning,
        state=AlertState.open,
        severity=Severity.none,
        tlp=profile.default_tlp,
        opened_at=at,
        recorded_at=now,
        updated_at=at,
        number=0,
        title=f"More alerts ({(sector.title if sector else scope.sector).lower()})",
    )


def _type(summary: Alert | None, alert: Alert) -> EventType:
    if summary is None:
        return EventType.opened
    if alert.state is AlertState.resolved:
        return EventType.resolved
    if alert.severity != summary.severity:
        return EventType.escalated if alert.severity > summary.severity else EventType.eased
    return EventType.updated


def _why(ranked: Sequence[Alert]) -> str:
    """One sentence: how many, how grave, and which is the worst."""
    if not ranked:
        return "No more alerts are open than are told one by one."
    counted = Counter(a.severity for a in ranked)
    each = ", ".join(f"{counted[s]} {s.name}" for s in sorted(counted, reverse=True) if s)
    number = f"{len(ranked)} more alert{'s are' if len(ranked) > 1 else ' is'} open"
    worst = ranked[0]
    told = f": {each}" if each else ""
    return f"{number} than are told one by one{told}. The worst is {worst.ref}, {worst.title}."
