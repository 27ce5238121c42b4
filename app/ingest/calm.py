"""A look at what has come in: what is surely calm is stored without anything being read for it.

Nearly every signal is: newer than all there is of its series, of which no finding is remembered, about
something of which no alert is open, and harmless by every rule. All of that is remembered from the last
time, and whether it still holds is found out by writing: when it does not, everything is rolled back, and
looked at again by what the database says of the series.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from operator import attrgetter

from alerts.signals import SeriesId
from app import store
from app.database import Driver
from app.ingest.arriving import Arrival
from app.policy import Policy
from app.recall import Calm, Ground, Recall, Remembered
from app.store.calm import Advances
from app.store.series import microseconds, slots_of
from app.store.signals import Row
from app.store.standing import Standing

_row = partial(tuple.__new__, Row)  # Of the same value, without a call in Python for each.

Request = tuple[Sequence[SeriesId], Sequence[Arrival]]
"""The series of a request's arrivals, and the arrivals."""


class Overtaken(Exception):
    """What was remembered of a series or a scope is true no more; roll back and look again."""


@dataclass(slots=True)
class Glance:
    """What a look found: the rows of what is surely calm, and the series that it does not do for.

    ``moved`` says of the calm series what is remembered of them, with the new samples, and how many these
    are. ``versions`` says which versions the scopes' lanes must have: the newest that any series remembers
    that was taken to be calm. ``is_last`` says that nothing may be looked at closer.
    """

    rows: list[Row] = field(default_factory=list)
    moved: dict[SeriesId, tuple[Remembered, int]] = field(default_factory=dict)
    others: set[SeriesId] = field(default_factory=set)
    versions: dict[int, int] = field(default_factory=dict)
    is_last: bool = False

    def left_of(self, requests: Sequence[Request]) -> tuple[list[list[int]], list[Request]]:
        """What must be judged of each request, after the places of it."""
        places: list[list[int]] = []
        left: list[Request] = []
        for series, arrivals in requests:
            here = [place for place, s in enumerate(series) if s in self.others]
            places.append(here)
            left.append(([series[p] for p in here], [arrivals[p] for p in here]))
        return places, left

    def left_over(self, requests: Sequence[Request]) -> dict[SeriesId, list[Arrival]]:
        """The same by series: what came of each that the look does not do for, in order."""
        came: dict[SeriesId, list[Arrival]] = {}
        for series, arrivals in requests:
            for s, arrival in zip(series, arrivals, strict=True):
                if s in self.others:
                    came.setdefault(s, []).append(arrival)
        return came


def look(requests: Sequence[Request], recall: Recall, policy: Policy, now: datetime) -> Glance:
    """Looks at all arrivals; what is remembered of their series is taken.

    A series is calm only if all that came of it is, and if nothing that must be judged is about the same:
    an alert may open in this very transaction, and what is observed after that is part of its story.
    """
    found = Glance()
    rows, moved, others = found.rows, found.moved, found.others
    edition = policy.edition
    for series, arrivals in requests:
        for s, arrival in zip(series, arrivals, strict=True):
            if s in others:
                continue
            known = moved.get(s)
            held = known[0] if known else recall.take_calm(s, edition)
            partner, _, at, value, revision, detail, _ = arrival
            if held is None:
                others.add(s)
                continue
            if value is None or not held.takes(microseconds(at), value):
                others.add(s)
                moved.pop(s, None)
                _put_back(recall, s, held, known[1] if known else 0)
                continue
            moved[s] = held, known[1] + 1 if known else 1
            rows.append(_row((s, at, partner, revision or 1, value, now, detail)))
    _judge_too(found, _aged(found), recall)
    if others and rows:
        _take_along(found, requests, policy, recall)
    return found


def look_closer(
    found: Glance,
    requests: Sequence[Request],
    left_over: Mapping[SeriesId, Sequence[Arrival]],
    standing: Standing,
    recall: Recall,
    policy: Policy,
    now: datetime,
) -> None:
    """Looks again at what a look did not do for, by the states of its series, which hold their newest
    samples, and by how its scopes stand: another process has gone on with them, or this one has not met them
    yet.

    The lanes of the series must be locked.

    Raises:
        Overtaken: a scope is not as it was when the look took something to be calm.
    """
    states, versions, quiet = standing
    if any(versions[lane] != version for lane, version in found.versions.items()):
        raise Overtaken
    grounds = {scope: Ground.of(scope, versions, ended) for scope, ended in quiet.items()}
    for s, arrivals in left_over.items():
        brief, state = policy.brief(arrivals[0].key), states[s]
        if brief.screens is None or state.has_findings or not grounds.keys() >= brief.scopes:
            continue
        held = recall.take(s, state.version)
        if held is None or held.edition != policy.edition:
            held = Remembered.of_state(state, policy.edition)
        known = [grounds[scope] for scope in brief.scopes]
        last = state.last_observed_at
        held.calm = Calm.of(brief.screens, brief.reach, last, state.observations, known)
        gained = _takes(held, arrivals)
        if gained < len(arrivals):
            held.calm = None
            _put_back(recall, s, held, gained)
            continue
        found.versions.update({g.lane: g.version for g in known})
        found.moved[s] = held, gained
        found.others.discard(s)
        found.rows += [
            _row((s, a.observed_at, a.partner, a.revision or 1, a.value, now, a.detail))
            for a in arrivals
        ]
    if found.others and found.rows:
        _take_along(found, requests, policy, recall)


def _takes(held: Remembered, arrivals: Sequence[Arrival]) -> int:
    """How many of these, from the first on, are surely calm."""
    for count, arrival in enumerate(arrivals):
        if arrival.value is None or not held.takes(
            microseconds(arrival.observed_at), arrival.value
        ):
            return count
    return len(arrivals)


def _aged(found: Glance) -> set[SeriesId]:
    """The series that remember scopes as they were before others do; notes the versions that count."""
    versions, is_one = found.versions, True
    for held, _ in found.moved.values():
        for ground in held.grounds:
            before = versions.setdefault(ground.lane, ground.version)
            if before != ground.version:
                versions[ground.lane] = max(before, ground.version)
                is_one = False
    if is_one:
        return set()
    return {
        s
        for s, (held, _) in found.moved.items()
        if any(versions[ground.lane] != ground.version for ground in held.grounds)
    }


def _judge_too(found: Glance, series: Collection[SeriesId], recall: Recall) -> None:
    """Has these judged although they looked calm."""
    for s in series:
        held, gained = found.moved.pop(s)
        _put_back(recall, s, held, gained)
    found.others.update(series)


def _put_back(recall: Recall, series: SeriesId, held: Remembered, gained: int) -> None:
    held.give_back(gained)
    recall.put_back(series, held)


def _take_along(found: Glance, requests: Sequence[Request], policy: Policy, recall: Recall) -> None:
    """Has the calm series judged too that share a scope with one that must be."""
    keys = {
        s: a.key for series, arrivals in requests for s, a in zip(series, arrivals, strict=True)
    }
    briefs = {s: policy.brief(key) for s, key in keys.items()}
    restless = {scope for s in found.others for scope in briefs[s].scopes}
    restless |= {p.scope_of(subject) for s in found.others for p, _, subject in briefs[s].joint}
    along = {s for s in found.moved if not restless.isdisjoint(briefs[s].scopes)}
    _judge_too(found, along, recall)
    found.rows = [row for row in found.rows if row.series not in found.others]


async def keep(connection: Driver, glance: Glance, recall: Recall) -> None:
    """Stores what is calm and moves its series on; their lanes must be locked. Does not commit.

    Raises:
        Overtaken: something is not as it is remembered.
    """
    moved = sorted(glance.moved.items())
    helds = [held for _, (held, _) in moved]
    instants, values = [h.instants[-1] for h in helds], [h.values[-1] for h in helds]
    gained: list[int] = []
    if len(moved) == len(glance.rows):
        slots = store.series.slots(instants, values)
    else:
        gained = [count for _, (_, count) in moved]
        slots = [
            slots_of(h.instants[-count:], h.values[-count:])
            for h, count in zip(helds, gained, strict=True)
        ]
    known = [h.version for h in helds]
    advances = Advances([s for s, _ in moved], known, instants, values, slots, gained)
    rows = sorted(glance.rows, key=attrgetter("series"))
    with store.signals.heeding_months():
        count, versions = await store.calm.advance(connection, advances, rows)
    if count != len(moved) or any(versions[n] != v for n, v in glance.versions.items()):
        raise Overtaken
    for series, (held, _) in glance.moved.items():
        held.version += 1
        recall.put(series, held)
