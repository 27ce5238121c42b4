"""What this process remembers of series between transactions: windows and detectors' memories.

Nothing here is the truth: an entry counts only for the version of the series state that it was made
with, and only after its transaction has committed. What is missing is read from the database.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from alerts.detectors.agreement import Views
from alerts.signals import Sample, SeriesId

SAMPLES_REMEMBERED = 1_000_000
"""So many samples are kept in memory, of the series that reported last: about 150 MB."""


@dataclass(slots=True)
class Remembered:
    """The newest samples of a series, oldest first, and what detectors made of them.

    ``version`` is that of the series' state, ``edition`` that of the rules.
    """

    version: int
    edition: int
    samples: list[Sample]
    views: dict[tuple[str, str], Views] = field(default_factory=dict)


class Recall:
    """The windows of the series that reported last. One transaction at a time holds a series."""

    def __init__(self, most_samples: int = SAMPLES_REMEMBERED) -> None:
        self._most = most_samples
        self._held = 0
        self._kept: OrderedDict[SeriesId, Remembered] = OrderedDict()
        self._unsure: dict[SeriesId, Remembered] = {}

    def take(self, series: SeriesId, version: int) -> Remembered | None:
        """What is remembered of a series at that version of its state; it is forgotten here."""
        found = self._kept.pop(series, None)
        if found is None:
            return None
        self._held -= len(found.samples)
        return found if found.version == version else None

    def put(self, series: SeriesId, remembered: Remembered) -> None:
        """Remembers a series, should the transaction commit."""
        self._unsure[series] = remembered

    def committed(self, touched: Iterable[SeriesId]) -> None:
        """What was put about these series is true now."""
        for series in touched:
            remembered = self._unsure.pop(series, None)
            if remembered is not None:
                self._kept[series] = remembered
                self._held += len(remembered.samples)
        while self._held > self._most:
            _, oldest = self._kept.popitem(last=False)
            self._held -= len(oldest.samples)

    def forgotten(self, touched: Iterable[SeriesId]) -> None:
        """What was put about these series never came true."""
        for series in touched:
            self._unsure.pop(series, None)
