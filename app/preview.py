"""Says what a filter would have let through: asks routing anew of every transition of some days.

It is the very routing that decides who hears of what happens now; only the transitions are older.
Writes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from alerts import routing
from alerts.routing import Filter
from app import store
from app.database import Connection
from app.store.transition_log import Past

MOST_EXAMINED = 20_000
"""Transitions looked at, the newest: in a second or two."""

MOST_EVENTS = 50
MOST_EXAMPLES = 10
MOST_ALIKE = 3
"""Examples of one reason; the next are more use when they show another."""

_PAGE = 250  # Others are answered between two pages.


@dataclass(slots=True)
class Preview:
    """What a filter lets through and what not, of the transitions recorded from ``since`` on.

    ``since`` is later than was asked for where more transitions were recorded than are examined;
    then ``is_whole`` is False. ``newest`` and ``examples`` begin with the newest; an example
    comes with the reason.
    """

    since: datetime
    is_whole: bool = True
    examined: int = 0
    events: Counter[str] = field(default_factory=Counter)
    alerts: set[int] = field(default_factory=set)
    newest: list[Past] = field(default_factory=list)
    filtered: int = 0
    exercise: int = 0
    folded: int = 0
    examples: list[tuple[Past, str]] = field(default_factory=list)
    _alike: Counter[str] = field(default_factory=Counter)

    def take(self, wish: Filter, past: Past) -> None:
        """Counts one transition, as routing decides."""
        self.examined += 1
        why = routing.why_not(wish, past.alert, past.type, past.was)
        if not why:
            self.events[past.type.value] += 1
            self.alerts.add(past.alert_id)
            if len(self.newest) < MOST_EVENTS:
                self.newest.append(past)
            return
        if why == routing.FOLDED:
            self.folded += 1
        elif past.alert.scope.exercise and not wish.exercises:
            self.exercise += 1
        else:
            self.filtered += 1
        if len(self.examples) < MOST_EXAMPLES and self._alike[why] < MOST_ALIKE:
            self._alike[why] += 1
            self.examples.append((past, why))


async def preview(
    connection: Connection, wish: Filter, since: datetime, *, most: int = MOST_EXAMINED
) -> Preview:
    """What the filter would have let through since then, had it been subscribed all the time.

    Some hundred transitions a query, no more of them held at once; ``most`` of them, the newest.
    """
    found = Preview(since)
    behind: int | None = None
    oldest = since
    while True:
        page = await store.transition_log.newest(connection, behind=behind, limit=_PAGE)
        recent = [past for past in page if past.recorded_at >= since]
        for past in recent:
            if found.examined == most:
                found.since, found.is_whole = oldest, False
                return found
            found.take(wish, past)
            oldest = past.recorded_at
        # Numbers follow the clock but for transactions side by side, far fewer than a page holds.
        if len(page) < _PAGE or not recent:
            return found
        behind = page[-1].id
