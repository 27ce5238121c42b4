"""What must come of the signals that are stored: the rules of the torture's profile, written anew.

The numbers are those of ``profiles/torture.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import NamedTuple

from app.torture.checker.evidence import Item, Key

HOLD = timedelta(days=0.00006)
FRESH = 2


class Question(NamedTuple):
    """A rule of bands: (severity, raise at, clear at), from low to high."""

    rule: str
    bands: tuple[tuple[int, float, float], ...]
    raise_after: int
    clear_after: int


MEASURED = {
    "supply_interruption": Question("at-once", ((2, 60, 50), (3, 120, 100)), 1, 2),
    "delivery_delay": Question("held", ((1, 20, 15), (3, 80, 60)), 3, 2),
}
EVENTS = {"gmp_suspension": "suspended"}


class Entry(NamedTuple):
    """One observation as it counts, in the order of judging."""

    at: datetime
    key: Key
    order: int
    value: float


class Told(NamedTuple):
    """A transition: its type, the severity before and after, and the instant behind it."""

    type: str
    before: int
    after: int
    at: datetime


@dataclass(slots=True)
class Finding:
    """One rule on one series."""

    is_event: bool
    state: str = "ok"
    severity: int = 0
    raising: int = 0
    clearing: int = 0
    ok_since: datetime | None = None
    ok_run: int = 0

    def measure(self, ask: Question, at: datetime, value: float) -> None:
        """Moves by one more observation."""
        raised = max((s for s, up, _ in ask.bands if value >= up), default=0)
        held = max((s for s, _, down in ask.bands if value > down), default=0)
        if raised > self.severity:
            self.raising += 1
            if self.severity or self.raising >= ask.raise_after:
                self.state, self.severity, self.ok_since, self.ok_run = "firing", raised, None, 0
                self.raising = self.clearing = 0
            else:
                self.state = "pending"
        elif held < self.severity:
            self.state, self.raising, self.clearing = "recovering", 0, self.clearing + 1
            if self.clearing >= ask.clear_after:
                lower = max((s for s, _, _ in ask.bands if s < self.severity), default=0)
                self.state, self.severity, self.clearing = "firing", lower, 0
                if not lower:
                    self.state, self.ok_since, self.ok_run = "ok", at, 1
        elif self.severity:
            self.state, self.raising, self.clearing = "firing", 0, 0
        else:
            self.state, self.raising, self.clearing = "ok", 0, 0
            self.ok_run += self.ok_since is not None


@dataclass(slots=True)
class Subject:
    """One good at one place, with its findings and whether an alert of it is open."""

    findings: dict[tuple[Key, str], Finding] = field(default_factory=dict)
    feeding: set[tuple[Key, str]] = field(default_factory=set)
    is_open: bool = False
    severity: int = 0

    def observe(self, entry: Entry) -> list[Told]:
        """What is told of one more observation."""
        ask = MEASURED.get(entry.key.code)
        name = entry.key, ask.rule if ask else EVENTS[entry.key.code]
        finding = self.findings.setdefault(name, Finding(is_event=ask is None))
        before = finding.severity
        if ask is not None:
            finding.measure(ask, entry.at, entry.value)
        else:
            finding.state, finding.severity = "firing", max(before, int(entry.value))
        if not finding.severity and name not in self.feeding:
            return []
        was = self.severity
        self.feeding.add(name)
        self.severity = max(self.findings[n].severity for n in self.feeding)
        told = []
        if not self.is_open:
            self.is_open = True
            return [Told("alert.opened", 0, self.severity, entry.at)]
        if self.severity != was:
            kind = "alert.escalated" if self.severity > was else "alert.eased"
            told.append(Told(kind, was, self.severity, entry.at))
        elif finding.is_event or finding.severity > before:
            told.append(Told("alert.updated", was, was, entry.at))
        return told + self.close(entry.at)

    def close(self, at: datetime) -> list[Told]:
        """The end of the alert, if at that instant everything has been well for long enough."""
        feeding = [self.findings[n] for n in self.feeding]
        if not self.is_open or not all(
            f.state == "ok" and f.ok_since and at - f.ok_since >= HOLD and f.ok_run >= FRESH
            for f in feeding
        ):
            return []
        told = Told("alert.resolved", self.severity, 0, at)
        for name in self.feeding:
            self.findings[name] = Finding(self.findings[name].is_event)
        self.feeding.clear()
        self.is_open, self.severity = False, 0
        return [told]


def entries(items: Iterable[Item]) -> list[Entry]:
    """What stored signals count for, in order: of a measurement the median over partners of their newest
    revisions, of an event each partner's own.
    """
    newest: dict[tuple[Key, datetime], dict[str, Item]] = {}
    for item in items:
        said = newest.setdefault(item.observation[1:], {})
        kept = said.get(item.observation.partner)
        if kept is None or item.revision > kept.revision:
            said[item.observation.partner] = item
    found = []
    for (key, at), by_partner in newest.items():
        values = [i.value for _, i in sorted(by_partner.items()) if i.value is not None]
        if key.code in MEASURED and values:
            found.append(Entry(at, key, 0, median(values)))
        elif key.code in EVENTS:
            found += [Entry(at, key, n, value) for n, value in enumerate(values)]
    return sorted(found)


def replayed(seen: Sequence[Entry], until: datetime) -> Subject:
    """How a subject stands once all that was observed of it is judged, and time has passed since."""
    subject = Subject()
    for entry in seen:
        subject.observe(entry)
    subject.close(until)
    return subject


def departure(seen: Sequence[Entry], told: Sequence[Told]) -> str:
    """Where what was told departs from what had to be told; empty when it does not.

    For a subject whose signals came one by one in the order they were observed. An end may also have come
    by time alone, between two observations, once it was due.
    """
    subject, rest = Subject(), list(told)
    instants = {entry.at for entry in seen}
    for entry in seen:
        for step in subject.observe(entry):
            if not rest:
                return f"nothing more was told, and {step} was to be"
            if rest[0] != step:
                return f"{rest[0]} was told, and {step} was to be"
            rest.pop(0)
        is_end = rest and rest[0].type == "alert.resolved" and rest[0].at not in instants
        if is_end and subject.close(rest[0].at) == [rest[0]]:
            rest.pop(0)
    return f"{rest[0]} was told, and nothing more was to be" if rest else ""
