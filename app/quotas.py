"""How much each key may write: a quota of signals a minute and another of all else, in this process.

Several processes grant several times as much. To count for all of them together would cost every request
a round trip, and what must be kept from harm is the process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from app.settings import Settings

WINDOW_SECONDS = 60.0
_INEXACT = 1e-6  # as sums of fractions are


class Spent(Exception):
    """A key has used up its quota; ``headers`` say when there is more."""

    def __init__(self, sentence: str, headers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(sentence)
        self.headers = headers


@dataclass(slots=True)
class Quota:
    """So many units a minute for each key, by the generic cell rate algorithm: a key is one number, the
    instant at which all of its quota will be free again.

    There is one for every key that was ever used in this process; a key that is none has none.
    """

    name: str
    unit: str
    most: int
    _free_at: dict[str, float] = field(default_factory=dict)

    def take(self, key: str, cost: int, now: float) -> tuple[tuple[str, str], ...]:
        """Takes ``cost`` of what the key has left, nothing with 0; the headers that say what is left.

        Who wants more than the whole quota gets it when all is free, and waits the longer afterwards.

        Args:
            key: whose.
            cost: in units of this quota.
            now: by the monotonic clock.

        Raises:
            Spent: there is not so much left, or with 0 nothing at all; nothing is taken.
        """
        each = WINDOW_SECONDS / self.most
        free_at = max(self._free_at.get(key, now), now)
        wait = free_at + min(max(cost, 1), self.most) * each - (now + WINDOW_SECONDS)
        if wait > _INEXACT:
            headers = (*self._headers(free_at, now), ("Retry-After", str(math.ceil(wait))))
            said = f"A key may send {self.most} {self.unit} a minute to this process; this one has."
            raise Spent(said, headers)
        self._free_at[key] = free_at = free_at + cost * each
        return self._headers(free_at, now)

    def give_back(self, key: str, cost: int) -> None:
        """Gives back what was taken for nothing."""
        self._free_at[key] -= cost * WINDOW_SECONDS / self.most

    def _headers(self, free_at: float, now: float) -> tuple[tuple[str, str], ...]:
        # draft-ietf-httpapi-ratelimit-headers-10, 3 and 4: the policy's name, with its quota, window and
        # unit; and of the same name what remains, and the seconds until all of it is there again.
        used = free_at - now
        left = max(0, int((WINDOW_SECONDS - used) * self.most / WINDOW_SECONDS + _INEXACT))
        policy = f'"{self.name}";q={self.most};w={WINDOW_SECONDS:.0f};qu="{self.unit}"'
        return (
            ("RateLimit-Policy", policy),
            ("RateLimit", f'"{self.name}";r={left};t={math.ceil(used)}'),
        )


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quotas of one process; None where a key may write as much as it can."""

    signals: Quota | None
    writes: Quota | None


def from_settings(settings: Settings) -> Quotas:
    """The quotas as an operator has set them."""
    signals, writes = settings.signals_per_minute, settings.writes_per_minute
    return Quotas(
        signals=Quota("signals", "signals", signals) if signals else None,
        writes=Quota("writes", "requests", writes) if writes else None,
    )
