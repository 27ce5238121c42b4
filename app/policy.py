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
from alerts.mechanisms import Profile
from alerts.rules import Rule
from alerts.signals import SeriesId, SeriesKey
from app.store.shelves import Shelf

Question = tuple[Profile, Rule]

KEYS_REMEMBERED = 1_000_000
"""Of so many series the rules that ask them are kept in memory; of more they are looked for again."""


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
    _questions: dict[SeriesKey, tuple[Question, ...]] = field(default_factory=dict)
    _joint: dict[SeriesKey, tuple[tuple[Profile, Rule, SeriesKey], ...]] = field(
        default_factory=dict
    )
    _reaches: dict[SeriesKey, Reach] = field(default_factory=dict)
    _rules: dict[tuple[str, str], Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Indexes the rules by mechanism and id."""
        self._rules = {(p.id, r.id): r for p in self.profiles.values() for r in p.rules}

    def renew(self, profiles: Mapping[str, Profile], shelves: Sequence[Shelf]) -> None:
        """Swaps what is in use, in place; everyone who holds the policy asks the new rules next.

        Whoever reads parts of it with an ``await`` in between keeps to one ``as_it_stands``.
        """
        self.shelves = tuple(shelves)
        if profiles == self.profiles:
            return
        self.profiles = dict(profiles)
        # New ones instead of clearing, for whoever holds the policy as it stood.
        self._questions, self._joint, self._reaches = {}, {}, {}
        self.edition += 1
        self.__post_init__()

    def as_it_stands(self) -> Policy:
        """The policy of this moment, which no renewal changes; it shares what is remembered."""
        return copy.copy(self)

    def questions(self, key: SeriesKey) -> tuple[Question, ...]:
        """The rules asked of a series by itself, with their mechanisms.

        Of the series that stands for a joint finding it is the joint rule.
        """
        found = self._questions.get(key)
        if found is None:
            found = tuple(
                (p, r)
                for p in self.profiles.values()
                for r in p.rules
                if (key.indicator == f"rule:{r.id}" if r.is_joint else r.asks(key))
            )
            if len(self._questions) < KEYS_REMEMBERED:
                self._questions[key] = found
        return found

    def joint(self, key: SeriesKey) -> tuple[tuple[Profile, Rule, SeriesKey], ...]:
        """The joint rules a series has a part in, each with the key of its finding."""
        found = self._joint.get(key)
        if found is None:
            found = tuple(joint_questions(self.profiles.values(), key))
            if len(self._joint) < KEYS_REMEMBERED:
                self._joint[key] = found
        return found

    def trusts(self, key: SeriesKey) -> bool:
        """Whether a rule asks of this series who says what."""
        return any(r.trust is not None for _, r in self.questions(key))

    def rule(self, mechanism: str, rule: str) -> Rule | None:
        """A rule of a profile in use; None when the profile has dropped it."""
        return self._rules.get((mechanism, rule))

    def shelf(self, series: SeriesId, mechanism: str, rule: str, now: datetime) -> Shelf | None:
        """The shelf that a rule on a series is on, the longest-lasting of several."""
        found = (s for s in self.shelves if s.is_on(now) and s.covers(series, mechanism, rule))
        return max(found, key=lambda s: (s.over_at, s.id), default=None)

    def shelved(self, series: SeriesId, now: datetime) -> Collection[tuple[str, str]]:
        """The rules, as (mechanism, id), that an operator has quietened on a series."""
        found = [s for s in self.shelves if s.series in {None, series} and s.is_on(now)]
        if any(not s.rule for s in found):
            return self._rules.keys()
        return {(s.mechanism, s.rule) for s in found}

    def unit_of(self, key: SeriesKey) -> str:
        """The unit of a series' values; empty for events."""
        indicator = self.catalogue.indicators.get(key.indicator)
        return indicator.unit if indicator else ""

    def is_event(self, key: SeriesKey) -> bool:
        """Whether a series is made of reports of an event."""
        return key.indicator in self.catalogue.events

    def breaks(self, key: SeriesKey) -> tuple[datetime, ...]:
        """When what a series means changed, as any profile that asks it declares."""
        return tuple(sorted({at for p, _ in self.questions(key) for at in p.breaks_of(key)}))

    def lateness(self, key: SeriesKey) -> timedelta | None:
        """How late a value of a series may be and still be judged; None: however late."""
        allowed = [p.allowed_lateness for p, _ in self.questions(key)]
        days = [a.days for a in allowed if a is not None]
        return timedelta(days=max(days)) if days and len(days) == len(allowed) else None

    def reach(self, key: SeriesKey) -> Reach:
        """How far back the rules that ask a series look, at most."""
        found = self._reaches.get(key)
        if found is None:
            asked = [rule for _, rule in self.questions(key)]
            asked += [rule for _, rule, _ in self.joint(key)]
            reaches = [detectors.reach_of(rule) for rule in asked]
            found = Reach(
                max((r.span for r in reaches), default=timedelta(0)),
                max((r.observations for r in reaches), default=0),
            )
            if len(self._reaches) < KEYS_REMEMBERED:
                self._reaches[key] = found
        return found
