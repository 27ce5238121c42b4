"""Reports of events: what the newest of them says, and whether enough others say it too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from alerts.detectors.reading import Reading
from alerts.rules import Corroboration, EventTrigger
from alerts.signals import Report, Severity


def read_reports(detector: EventTrigger, reports: Sequence[Report]) -> Reading:
    """Reads the newest report of an event against those before it, oldest first.

    An official origin raises its own severity alone; others raise the highest severity up to their
    own that enough distinct parties call at least as bad. Events do not clear by being read:
    ``held`` never falls below what was raised.
    """
    newest = reports[-1]
    severity = newest.severity
    reading = Reading(newest.at, float(severity), held=Severity.extreme, bands=(severity,))
    if severity < detector.min_severity:
        return reading
    wanted = detector.corroboration
    for reached in range(severity, max(detector.min_severity, Severity.minor) - 1, -1):
        if is_corroborated(wanted, [r for r in reports if r.severity >= reached]):
            raised = Severity(reached)
            return reading._replace(raised=raised, bands=(raised,))
    lacks = (
        f"{wanted.parties} parties must report it independently within {wanted.within_days:g} days"
    )
    official = ", or one official source" if wanted.official_origins else ""
    return reading._replace(awaits=f"{lacks}{official}")


def is_corroborated(wanted: Corroboration, reports: Sequence[Report]) -> bool:
    """Whether the newest report stands: official, or told by enough distinct parties.

    Enough means: so many reports can be found of which no two share a party or an origin
    reference. So one party counts once however often it reports, and one story once however many
    repeat it (MECHANISMS invariant 7). A reporter that acts for no party counts as itself.
    Reports exactly ``within_days`` old still count.
    """
    newest = reports[-1]
    if newest.origin in wanted.official_origins:
        return True
    since = newest.at - timedelta(days=wanted.within_days)
    told: dict[str, set[str]] = {}
    for report in reports:
        if report.at >= since:
            voice = report.party or f"partner {report.partner}"
            told.setdefault(voice, set()).add(report.origin_ref or f"word of {voice}")
    return independent(told) >= wanted.parties


def independent(told: dict[str, set[str]]) -> int:
    """How many voices can each be given an origin of their own (a maximum matching).

    ``told`` gives for each voice the origins of what it says.
    """
    given: dict[str, str] = {}

    def finds(voice: str, asked: set[str]) -> bool:
        for origin in sorted(told[voice]):
            if origin in asked:
                continue
            asked.add(origin)
            if origin not in given or finds(given[origin], asked):
                given[origin] = voice
                return True
        return False

    return sum(finds(voice, set()) for voice in sorted(told))
