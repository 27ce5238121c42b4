"""What a judgement reads and what it gives, as values: tracks and dockets in, a judgement out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from alerts.detectors.agreement import Views
from alerts.findings import Finding
from alerts.lifecycle import Alert, Evidence, Transition
from alerts.mechanisms import Profile, Scope
from alerts.rules import Rule
from alerts.signals import Report, Sample, SeriesId, SeriesKey, Voice

FindingKey = tuple[SeriesId, str, str]
"""Series, mechanism, rule id."""


@dataclass(frozen=True, slots=True)
class Correction:
    """A value that was revised, came late (no ``was``) or was taken back (no ``now``)."""

    at: datetime
    was: float | None
    now: float | None


@dataclass(slots=True)
class Track:
    """One series as loaded, with what is new on it.

    ``known`` and ``fresh`` are oldest first and do not overlap; ``known`` reaches back as far as
    the rules do. ``reports`` are all reports of an event series, oldest first; ``fresh_reports``
    those of them that are new. ``corrections`` say what of the past was changed; only
    ``hindsight`` can judge them, from the whole history. ``breaks`` are instants at which what the
    series means changed: what lies before one is no baseline for what lies after. ``views`` are
    the detectors' memories by mechanism and rule; one that is missing is made anew. ``shelved``
    are the rules that an operator has quietened here. ``voices`` say who reported each instant, for
    rules that ask. A track of a joint rule has no samples: it is judged when its members move.
    """

    series: SeriesId
    key: SeriesKey
    unit: str
    questions: Sequence[tuple[Profile, Rule]]
    known: list[Sample] = field(default_factory=list)
    fresh: list[Sample] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    fresh_reports: list[Report] = field(default_factory=list)
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    breaks: Sequence[datetime] = ()
    views: dict[tuple[str, str], Views] = field(default_factory=dict)
    shelved: Collection[tuple[str, str]] = ()
    voices: Mapping[datetime, Sequence[Voice]] = field(default_factory=dict)

    @property
    def begins_at(self) -> datetime | None:
        """The earliest instant of which something is new or changed."""
        if not self.corrections and not self.fresh_reports:
            return self.fresh[0].at if self.fresh else None
        instants = [s.at for s in self.fresh[:1]]
        instants += [c.at for c in self.corrections]
        instants += [r.at for r in self.fresh_reports]
        return min(instants, default=None)


@dataclass(slots=True)
class Docket:
    """The open alert of a scope and the findings that feed it, from any series."""

    alert: Alert | None = None
    evidence: dict[FindingKey, Evidence] = field(default_factory=dict)

    def in_order(self) -> list[Evidence]:
        """The evidence by series, mechanism and rule: what is said of it is the same in every process."""
        return [self.evidence[key] for key in sorted(self.evidence)]


@dataclass(frozen=True, slots=True)
class Published:
    """One transition with the alert and the evidence as they stood right after it.

    ``fed_by`` names the observations that caused it.
    """

    scope: Scope
    alert: Alert
    transition: Transition
    evidence: tuple[Evidence, ...]
    fed_by: tuple[tuple[SeriesId, datetime], ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """A finding's state or severity changed: a history of findings is made of these.

    ``at`` is the observation's own time.
    """

    key: FindingKey
    at: datetime
    before: Finding
    after: Finding


@dataclass(slots=True)
class Judgement:
    """What must be written down.

    ``findings`` holds every changed finding (a quiet one needs no memory) and ``feeds`` the scope
    whose open alert it feeds. ``published`` are the transitions in order; ``restated`` is what
    open alerts say now although nothing was published since. ``scopes`` says whose alert each
    changed finding is about. ``ended`` is the observation up to which an alert of a scope, told or
    not, was open that is open no more. ``turns`` are the changes of findings, in order. ``touched`` are all
    scopes an alert was looked at for; ``broken`` the rules that raised (mechanism, rule, what);
    ``held_back`` the mechanisms that would have issued but are not in force.
    """

    findings: dict[FindingKey, Finding] = field(default_factory=dict)
    feeds: dict[FindingKey, Scope] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    restated: dict[Scope, str] = field(default_factory=dict)
    scopes: dict[FindingKey, Scope] = field(default_factory=dict)
    ended: dict[Scope, datetime] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    touched: set[Scope] = field(default_factory=set)
    broken: list[tuple[str, str, str]] = field(default_factory=list)
    held_back: set[str] = field(default_factory=set)

    def without(self, scopes: Collection[Scope]) -> Judgement:
        """The same, but for everything about these scopes."""
        kept = {k for k, scope in self.scopes.items() if scope not in scopes}
        return replace(
            self,
            findings={k: f for k, f in self.findings.items() if k in kept},
            feeds={k: s for k, s in self.feeds.items() if s not in scopes},
            published=[p for p in self.published if p.scope not in scopes],
            restated={s: why for s, why in self.restated.items() if s not in scopes},
            scopes={k: s for k, s in self.scopes.items() if k in kept},
            ended={s: at for s, at in self.ended.items() if s not in scopes},
            turns=[t for t in self.turns if t.key in kept],
            touched=self.touched - set(scopes),
        )

    def add(self, other: Judgement) -> None:
        """Takes up what was judged of other scopes."""
        self.findings.update(other.findings)
        self.feeds.update(other.feeds)
        self.published += other.published
        self.restated.update(other.restated)
        self.scopes.update(other.scopes)
        self.ended.update(other.ended)
        self.turns += other.turns
        self.touched |= other.touched
        self.broken += [b for b in other.broken if b not in self.broken]
        self.held_back |= other.held_back
