"""What this process remembers of series between transactions: windows and detectors' memories.

Nothing here is the truth: an entry counts only for the version of the series state that it was made
with, and only after its transaction has committed. What is missing is read from the database.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from alerts.detectors.agreement import Views
from alerts.detectors.reading import Reach
from alerts.detectors.screens import Screen
from alerts.mechanisms import Scope
from alerts.signals import Sample, SeriesId
from app.store.series import (
    RING_SAMPLES,
    SeriesState,
    microseconds,
    place_of_scope,
    samples_of,
)

SAMPLES_REMEMBERED = 2_000_000
"""So many samples are kept in memory, of the series that reported last: 16 bytes each, 32 MB."""

_SERIES_COSTS = 30
"""What remembering a series takes besides, in samples."""

_BEFORE_ALL = -(2**63)

_TRIM = 64
"""So many samples more than are needed are dropped together."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A scope with no open alert, as of a version of its lane; until when the last one was open."""

    scope: Scope
    lane: int
    version: int
    ended: int | None

    @classmethod
    def of(cls, scope: Scope, versions: Sequence[int], ended: datetime | None) -> Ground:
        """How a scope stands of which no alert is open, by the versions of all scopes' lanes."""
        place = place_of_scope(scope)
        return cls(scope, place, versions[place], None if ended is None else microseconds(ended))


@dataclass(slots=True)
class Calm:
    """What lets a series be judged by a look: of it no finding is remembered, and no alert is open.

    ``span``, in microseconds, and ``count`` of samples are how far back is looked; ``last`` is the
    newest instant of which anything is stored; ``most`` so many samples are held before some are dropped.
    """

    screens: Sequence[Screen]
    grounds: Collection[Ground]
    span: int
    count: int
    last: int
    observations: int
    most: int = 0

    @classmethod
    def of(
        cls,
        screens: Sequence[Screen],
        reach: Reach,
        last: datetime | None,
        observations: int,
        grounds: Collection[Ground] = (),
    ) -> Calm:
        """For a series whose rules look so far back, and of which nothing is stored after ``last``."""
        until = microseconds(last) if last is not None else _BEFORE_ALL
        span = reach.span // timedelta(microseconds=1)
        return cls(screens, grounds, span, reach.observations, until, observations)


@dataclass(slots=True)
class Remembered:
    """The newest samples of a series, oldest first, and what detectors made of them.

    ``version`` is that of the series' state, ``edition`` that of the rules. ``instants`` are in
    microseconds since 1970. ``calm`` is None where a look does not do.
    """

    version: int
    edition: int
    instants: array[int]
    values: array[float]
    views: dict[tuple[str, str], Views] = field(default_factory=dict)
    calm: Calm | None = None

    @classmethod
    def of(cls, version: int, edition: int, samples: Sequence[Sample]) -> Remembered:
        """Remembers these samples."""
        instants = array("q", [microseconds(s.at) for s in samples])
        return cls(version, edition, instants, array("d", [s.value for s in samples]))

    @classmethod
    def of_state(cls, state: SeriesState, edition: int) -> Remembered:
        """Remembers what the state of a series holds of it."""
        instants, values = state.slots()
        return cls(state.version, edition, array("q", instants), array("d", values))

    @property
    def grounds(self) -> Collection[Ground]:
        """The scopes that must be as they were for a look to do."""
        return self.calm.grounds if self.calm is not None else ()

    def samples(self) -> list[Sample]:
        """The samples, oldest first."""
        return samples_of(self.instants, self.values)

    def takes(self, at: int, value: float) -> bool:
        """Appends a sample if it is newer than all there is of the series, and surely calm."""
        calm, instants, values = self.calm, self.instants, self.values
        assert calm is not None
        held = len(instants)
        if at <= calm.last:
            return False
        if held < calm.observations and (  # It has more than is held here.
            held < calm.count or (calm.span and (not held or instants[0] > at - calm.span))
        ):
            return False
        for ground in calm.grounds:
            if ground.ended is not None and at <= ground.ended:
                return False
        instants.append(at)
        values.append(value)
        for screen in calm.screens:
            if not screen(instants, values):
                del instants[-1], values[-1]
                return False
        calm.last = at
        calm.observations += 1
        if held >= calm.most:
            self._trim(calm)
        return True

    def give_back(self, count: int) -> None:
        """Takes the newest so many samples away again; a look does not do for it any more."""
        if count:
            del self.instants[-count:], self.values[-count:]
            self.calm = None

    def _trim(self, calm: Calm) -> None:
        """Drops what no look will reach any more."""
        instants, values = self.instants, self.values
        # The ring of the state is cut from what is held, so as much as that holds always stays.
        begin = len(instants) - 1 - max(calm.count, RING_SAMPLES)
        if calm.span:
            begin = min(begin, bisect_right(instants, instants[-1] - calm.span) - 1)
        if begin > 0:
            del instants[:begin], values[:begin]
        calm.most = len(instants) + _TRIM


class Recall:
    """The series that reported last. One transaction at a time holds a series."""

    def __init__(self, most_samples: int = SAMPLES_REMEMBERED) -> None:
        self._most = most_samples
        self._held = 0
        self._kept: OrderedDict[SeriesId, Remembered] = OrderedDict()
        self._unsure: dict[SeriesId, Remembered] = {}

    def take(self, series: SeriesId, version: int) -> Remembered | None:
        """What is remembered of a series at that version of its state; it is forgotten here."""
        found = self._pop(series)
        return found if found is not None and found.version == version else None

    def take_calm(self, series: SeriesId, edition: int) -> Remembered | None:
        """What is remembered of a series that a look does for; it is forgotten here. What else is
        remembered stays, for ``take``.
        """
        found = self._kept.get(series)
        if found is None or found.calm is None or found.edition != edition:
            return None
        return self._pop(series)

    def put_back(self, series: SeriesId, remembered: Remembered) -> None:
        """Remembers what is true now: what has committed, and what was taken and is as it was then."""
        self._kept[series] = remembered
        self._held += len(remembered.instants) + _SERIES_COSTS

    def put(self, series: SeriesId, remembered: Remembered) -> None:
        """Remembers a series, should the transaction commit."""
        self._unsure[series] = remembered

    def committed(self, touched: Iterable[SeriesId]) -> None:
        """What was put about these series is true now."""
        for series in touched:
            remembered = self._unsure.pop(series, None)
            if remembered is not None:
                self.put_back(series, remembered)
        while self._held > self._most:
            self._pop(next(iter(self._kept)))

    def forgotten(self, touched: Iterable[SeriesId]) -> None:
        """What was put about these series never came true."""
        for series in touched:
            self._unsure.pop(series, None)

    def forget(self) -> None:
        """Forgets everything that has committed: the database may be another one than it was."""
        self._kept.clear()
        self._held = 0

    def _pop(self, series: SeriesId) -> Remembered | None:
        found = self._kept.pop(series, None)
        if found is not None:
            self._held -= len(found.instants) + _SERIES_COSTS
        return found
