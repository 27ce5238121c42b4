"""What a backtest found, as a document: the same input gives the same bytes, on however many cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from alerts.lifecycle import EventType
from alerts.mechanisms import Profile, Scope
from alerts.replay import Moved
from alerts.signals import Severity
from alerts.skill import Judged, Leads, LeftOut, Outcome, Pair, Score, Watched
from app.backtest.judging import Played
from app.backtest.reading import Noted, series_name

_DIGITS = 6

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Alerted:
    """One alert as it was published: its scope, its life and how often it was told of."""

    scope: Scope
    opened: datetime
    resolved: datetime | None
    peak: Severity
    notifications: int


@dataclass(slots=True)
class Report:
    """One profile replayed over one history and scored."""

    profile: Profile
    played: Played
    score: Score
    noted: Noted
    as_of: bool = False
    since: date | None = None
    until: date | None = None
    labelled: bool = True

    @property
    def alerts(self) -> list[Alerted]:
        """Every alert that was opened, in order."""
        found: list[Alerted] = []
        open_now: dict[Scope, Alerted] = {}
        for move in self.played.moved:
            before = open_now.pop(move.scope, None)
            alert = Alerted(
                move.scope,
                before.opened if before else move.at,
                move.at if move.type is EventType.resolved else None,
                max(move.severity, before.peak if before else Severity.none),
                (before.notifications if before else 0) + 1,
            )
            if alert.resolved is None and move.level != "monitoring":
                open_now[move.scope] = alert
            else:
                found.append(alert)
        return sorted([*found, *open_now.values()], key=lambda a: (a.opened, a.scope))

    @property
    def months(self) -> float:
        """How many months the observations span."""
        first = min((w.first for w in self.played.watched), default=None)
        last = max((w.last for w in self.played.watched), default=None)
        if first is None or last is None:
            return 0.0
        return float((last.year - first.year) * 12 + last.month - first.month + 1)

    @property
    def notifications(self) -> dict[str, int]:
        """How many transitions were published in each month that had any."""
        months = Counter(f"{self._month(move):%Y-%m}" for move in self.played.moved)
        return dict(sorted(months.items()))

    def _month(self, move: Moved) -> datetime:
        return move.told_at if self.as_of else move.at

    def document(self) -> Document:
        """The report as plain values; instants ISO 8601, numbers rounded to six digits."""
        score = self.score
        published = len(self.played.moved)
        return {
            "profile": self.profile.id,
            "profile_version": self.profile.version,
            "as_of": self.as_of,
            "from": _day(self.since),
            "to": _day(self.until),
            "series": score.series,
            "series_years": _rounded(score.series_years),
            "samples": self.played.samples,
            "hits": score.hits,
            "covered": score.count(Outcome.covered),
            "misses": score.misses,
            "false_episodes": score.false_episodes,
            "pod": _rounded(score.pod),
            "far": _rounded(score.far),
            "csi": _rounded(score.csi),
            "false_per_series_year": _rounded(score.false_per_series_year),
            "lead_days": {
                **_leads(score.leads),
                "announced": _leads(score.leads_on_announced),
            },
            "timely": score.timely,
            "events": {
                "hits": sum(o is not Outcome.miss for o in score.events.values()),
                "misses": sum(o is Outcome.miss for o in score.events.values()),
                "outcomes": {name: outcome.value for name, outcome in score.events.items()},
            },
            "pairs": [pair_document(pair) for pair in score.pairs],
            "episodes": [episode_document(judged) for judged in score.episodes],
            "notifications": published,
            "notifications_per_month": _rounded(published / self.months if self.months else None),
            "notifications_by_month": self.notifications,
            "notifications_by_type": dict(
                sorted(Counter(move.type.value for move in self.played.moved).items())
            ),
            "alerts": [_alert(alert) for alert in self.alerts],
            "unscored": [_left_out(left) for left in score.left_out],
            "exemptions": [
                {
                    "title": exemption.title,
                    "start": exemption.start.isoformat(),
                    "end": exemption.end.isoformat(),
                    "series": series_name(key),
                }
                for exemption, key in score.exempted
            ],
            "not_judged": [series_name(w.key) for w in self.not_judged],
            "broken_rules": [
                {"rule": rule, "said": said} for rule, said in sorted(self.played.broken)
            ],
            "unknown_codes": unknown_codes(self.noted),
            "impossible_values": {
                series_name(key): count for key, count in sorted(self.noted.impossible.items())
            },
            "notes": self.notes(),
        }

    @property
    def not_judged(self) -> list[Watched]:
        """Series that no rule asks."""
        return [w for w in self.played.watched if not w.judged]

    def notes(self) -> list[str]:
        """What a reader must know to read the numbers rightly."""
        score = self.score
        profile = self.profile
        validity = (
            f"The validity of {profile.id} ({profile.valid_from} to {profile.valid_until}) and the "
            "effective dates of its rules are lifted: history is judged as if they had always "
            "been in force."
        )
        said = [validity]
        if self.as_of:
            said.append(
                "Every value counts from when it was available, and corrections correct. Open "
                "alerts are looked at once a day for what is due by time alone."
            )
        else:
            said.append(
                "Every value is its last vintage, judged in the order of observation. Nothing "
                "waits for the clock, so recommendations that only time brings are not made."
            )
        if score.pairs:
            said.append(
                f"{len(score.pairs)} pairs of a disruption and a series, of "
                f"{len(score.events)} disruptions. A difference of a few pairs is noise."
            )
        if not self.labelled:
            said.append("No labels were given, so every episode counts as false.")
        elif score.false_episodes:
            said.append(
                "An episode is false when no label speaks of it. Some are real and nobody labelled "
                "them: look at their dates before you tune them away."
            )
        return said

    def warnings(self) -> list[str]:
        """What of the data is not as the catalogue or the profile expects; a sentence each."""
        said = [
            f"The catalogue knows no {kind} {_some(codes)}; judged all the same where a rule asks."
            for kind, codes in unknown_codes(self.noted).items()
        ]
        if self.not_judged:
            names = [series_name(w.key) for w in self.not_judged]
            said.append(f"No rule of {self.profile.id} asks {_some(names)}: not judged.")
        if self.noted.impossible:
            names = [series_name(key) for key in sorted(self.noted.impossible)]
            count = sum(self.noted.impossible.values())
            said.append(
                f"{count} impossible values of {_some(names)} are left out, as the service "
                "would refuse them."
            )
        said += [f"The rule {rule} failed: {why}." for rule, why in sorted(self.played.broken)]
        return said


def _some(names: Sequence[str], most: int = 5) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def unknown_codes(noted: Noted) -> dict[str, list[str]]:
    """The codes that are not in the catalogue, by kind."""
    kinds = sorted({kind for kind, _ in noted.unknown})
    return {kind: sorted(code for k, code in noted.unknown if k == kind) for kind in kinds}


def pair_document(pair: Pair) -> Document:
    """A disruption on a series and what became of it."""
    episode = pair.episode if pair.outcome is not Outcome.miss else None
    return {
        "id": pair.label.id,
        "title": pair.label.title,
        "series": series_name(pair.series),
        "start": pair.label.start.isoformat(),
        "end": _day(pair.label.end),
        "announced": _day(pair.label.announced),
        "outcome": pair.outcome.value,
        "opened": _instant(episode.opened) if episode else None,
        "known": _instant(episode.known_at) if episode else None,
        "lead_days": _rounded(pair.lead_days),
        "lead_on_announced_days": _rounded(pair.lead_on_announced_days),
        "timely": pair.timely,
        "why": pair.why or None,
    }


def episode_document(judged: Judged) -> Document:
    """An episode and what it was."""
    episode = judged.episode
    return {
        "series": series_name(episode.series),
        "opened": _instant(episode.opened),
        "resolved": _instant(episode.resolved),
        "known": _instant(episode.known_at),
        "peak_severity": episode.peak.name,
        "label": judged.label,
        "verdict": judged.verdict.value,
        "rules": list(episode.rules),
        "unscored_label": judged.unscored,
    }


def _alert(alert: Alerted) -> Document:
    scope = alert.scope
    return {
        "sector": scope.sector,
        "good": scope.good or None,
        "place": scope.place or None,
        "opened": _instant(alert.opened),
        "resolved": _instant(alert.resolved),
        "peak_severity": alert.peak.name,
        "notifications": alert.notifications,
    }


def _left_out(left: LeftOut) -> Document:
    return {
        "id": left.label.id,
        "label": left.label.kind.value,
        "series": series_name(left.series) if left.series else None,
        "start": left.label.start.isoformat(),
        "why": left.why,
    }


def _leads(leads: Leads | None) -> Document:
    if leads is None:
        return {"pairs": 0, "min": None, "median": None, "mean": None, "max": None}
    return {
        "pairs": leads.pairs,
        "min": _rounded(leads.lowest),
        "median": _rounded(leads.median),
        "mean": _rounded(leads.mean),
        "max": _rounded(leads.highest),
    }


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def _day(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(float(number), _DIGITS)
