"""A line of the bench: what was measured, and how it stands to its bare limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from app.settings import Unusable

DIGITS = 4


class BenchFailed(Unusable):
    """The bench cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of one case.

    ``value`` and ``limit`` are medians over ``runs`` interleaved runs, in ``unit``; ``ratio`` is
    value by limit: of rates more is better, of times less. ``low`` and ``high`` are the worst and
    best single run of the product. ``peer`` is for another product on the same work.
    """

    measure: str
    case: str
    value: float
    unit: str
    limit: float | None
    ratio: float | None
    peer: float | None
    runs: int
    low: float
    high: float

    def document(self) -> dict[str, object]:
        """The line as it is printed as JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def compare(
    measure: str,
    case: str,
    unit: str,
    values: Sequence[float],
    limits: Sequence[float] = (),
    peers: Sequence[float] = (),
) -> Line:
    """A line from what the runs gave; without limits it stands alone."""
    value = median(values)
    limit = median(limits) if limits else None
    return Line(
        measure=measure,
        case=case,
        value=_short(value),
        unit=unit,
        limit=None if limit is None else _short(limit),
        ratio=_short(value / limit) if limit else None,
        peer=_short(median(peers)) if peers else None,
        runs=len(values),
        low=_short(min(values)),
        high=_short(max(values)),
    )


def _short(number: float) -> float:
    """As many digits as mean something."""
    return float(f"{number:.{DIGITS}g}")


def quantile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed; there must be one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
