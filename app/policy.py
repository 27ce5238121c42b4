"""What may be reported and what is asked of it: the catalogue and the profiles in use."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from alerts import detectors
from alerts.catalogue import Catalogue, Event, Indicator
from alerts.detectors.joint import joint_questions
from alerts.detectors.reading import Reach
from alerts.detectors.screens import Screen, screen_of
from alerts.mechanisms import Profile, Scope
from alerts.rules import Rule
from alerts.signals import SeriesId, SeriesKey
from app.store.shelves import Shelf

Question = tuple[Profile, Rule]

KEYS_REMEMBERED = 1_000_000
"""Of so many series the rules that ask them are kept in memory; of more they are looked for again."""


@dataclass(frozen=True, slots=True)
class Brief:
    """What there is to know before a series is judged; the same until the profiles change.

    Attributes:
        questions: the rules asked of it by itself, with their mechanisms. Of the series that stands
            for a joint finding it is the joint rule.
        joint: the joint rules it has a part in, each with the key of its finding.
        scopes: what its questions' alerts are about.
        unit: of its values; empty for events.
        is_event: whether it is made of reports of an event.
        reach: how far back its rules look, at most.
        breaks: when what it means changed, as any profile that asks it declares.
        lateness: how late a value of it may be and still be judged; None: however late.
        trusts: whether a rule asks who says what.
        screens: one for each question, where a look at them says enough of a series of which nothing is
            remembered: no rule of it hangs on other series, on reporters or on breaks; else None.
    """

    questions: tuple[Question, ...]
    joint: tuple[tuple[Profile, Rule, SeriesKey], ...]
    scopes: frozenset[Scope]
    unit: str
    is_event: bool
    reach: Reach
    breaks: tuple[datetime, ...]
    lateness: timedelta | None
    trusts: bool
    screens: tuple[Screen, ...] | None


@dataclass(slots=True)
class Policy:
    """The catalogue, the profiles in use and what operators have shelved.

    ``vetted`` remembers the series keys already found to be in the catalogue. ``edition`` rises
    with every change of the profiles: what detectors remember of an older one is worth nothing.
    """

    catalogue: Catalogue
    profiles: Mapping[str, Profile]
    shelves: Sequence[Shelf] = ()
    edition: int = 0
    vetted: dict[tuple[SeriesKey, bool], Indicator | Event] = field(default_factory=dict)
    _briefs: dict[SeriesKey, Brief] = field(default_factory=dict)
    _rules: dict[tuple[str, str], Rule] = field(default_factory=dict)
    _screens: dict[tuple[str, str], Screen | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Indexes the rules by mechanism and id."""
        self._rules = {(p.id, r.id): r for p in self.profiles.values() for r in p.rules}
        self._screens = {name: screen_of(rule) for name, rule in self._rules.items()}

    def renew(self, profiles: Mapping[str, Profile], shelves: Sequence[Shelf]) -> None:
        """Swaps what is in use, in place; everyone who holds the policy asks the new rules next.

        Whoever reads parts of it with an ``await`` in between keeps to one ``as_it_stands``.
        """
        self.shelves = tuple(shelves)
        if profiles == self.profiles:
            return
        self.profiles = dict(profiles)
        # A new one instead of clearing, for whoever holds the policy as it stood.
        self._briefs = {}
        self.edition += 1
        self.__post_init__()

    def as_it_stands(self) -> Policy:
        """The policy of this moment, which no renewal changes; it shares what is remembered."""
        return copy.copy(self)

    def brief(self, key: SeriesKey) -> Brief:
        """What there is to know before a series is judged."""
        found = self._briefs.get(key)
        if found is None:
            found = self._look_up(key)
            if len(self._briefs) < KEYS_REMEMBERED:
                self._briefs[key] = found
        return found

    def rule(self, mechanism: str, rule: str) -> Rule | None:
        """A rule of a profile in use; None when the profile has dropped it."""
        return self._rules.get((mechanism, rule))

    def shelf(self, series: SeriesId, mechanism: str, rule: str, now: datetime) -> Shelf | None:
        """The shelf that a rule on a series is on, the longest-lasting of several."""
        found = (s for s in self.shelves if s.is_on(now) and s.covers(series, mechanism, rule))
        return max(found, key=lambda s: (s.over_at, s.id), default=None)

    def shelved(self, series: SeriesId, now: datetime) -> Collection[tuple[str, str]]:
        """The rules, as (mechanism, id), that an operator has quietened on a series."""
        if not self.shelves:
            return ()
        found = [s for s in self.shelves if s.series in {None, series} and s.is_on(now)]
        if any(not s.rule for s in found):
            return self._rules.keys()
        return {(s.mechanism, s.rule) for s in found}

    def _look_up(self, key: SeriesKey) -> Brief:
        questions = tuple(
            (p, r)
            for p in self.profiles.values()
            for r in p.rules
            if (key.indicator == f"rule:{r.id}" if r.is_joint else r.asks(key))
        )
        joint = tuple(joint_questions(self.profiles.values(), key))
        asked = [rule for _, rule in questions] + [rule for _, rule, _ in joint]
        reaches = [detectors.reach_of(rule) for rule in asked]
        indicator = self.catalogue.indicators.get(key.indicator)
        allowed = [p.allowed_lateness for p, _ in questions]
        days = [a.days for a in allowed if a is not None]
        is_event = key.indicator in self.catalogue.events
        breaks = tuple(sorted({at for p, _ in questions for at in p.breaks_of(key)}))
        screens = [self._screens[p.id, r.id] for p, r in questions]
        alone = not (is_event or joint or breaks)
        return Brief(
            questions=questions,
            joint=joint,
            scopes=frozenset(p.scope_of(key) for p, _ in questions),
            unit=indicator.unit if indicator else "",
            is_event=is_event,
            reach=Reach(
                max((r.span for r in reaches), default=timedelta(0)),
                max((r.observations for r in reaches), default=0),
            ),
            breaks=breaks,
            lateness=timedelta(days=max(days)) if days and len(days) == len(allowed) else None,
            trusts=any(rule.trust is not None for _, rule in questions),
            screens=_all_of(screens) if alone else None,
        )


def _all_of(screens: Sequence[Screen | None]) -> tuple[Screen, ...] | None:
    """The screens, or None where one is missing."""
    found = tuple(s for s in screens if s is not None)
    return found if len(found) == len(screens) else None
