"""What the doors of one process share; made by ``main``, closed by ``main``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from fastapi import Request

from alerts.catalogue import Catalogue
from alerts.mechanisms import Profile
from app import store
from app.database import Connection, Database
from app.ingest import Intake
from app.lately import Lately
from app.policy import Policy
from app.quotas import Quotas
from app.rulebook import Rulebook
from app.seals import Seals
from app.settings import Settings
from app.subscribe import Guesses

if TYPE_CHECKING:
    from app.backtest.stored import Desk

Role = Literal["all", "api", "worker"]


MOST_WAITING = 64
MOST_PREVIEWS = 2


class Crowded(Exception):
    """Every place is taken; there is no queue before the door."""


@dataclass(slots=True)
class Places:
    """So many requests of one kind at the same time, in this process."""

    most: int
    taken: int = 0
    _taken_by: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def one(self, whose: str | None = None) -> Iterator[None]:
        """Takes a place while the block runs.

        Somebody who is named has at most as many as are left for others, so alone half of them.

        Raises:
            Crowded: there is none.
        """
        left = self.most - self.taken
        if left <= (0 if whose is None else self._taken_by[whose]):
            raise Crowded
        self.taken += 1
        self._taken_by[whose or ""] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._taken_by[whose or ""] -= 1
            self._taken_by += Counter()  # forgets who has none


@dataclass(slots=True)
class House:
    """One process of the service."""

    settings: Settings
    role: Role
    database: Database
    policy: Policy
    rulebook: Rulebook
    seals: Seals
    intake: Intake
    quotas: Quotas
    draining: bool = False
    waiting: Places = field(default_factory=lambda: Places(MOST_WAITING))
    previews: Places = field(default_factory=lambda: Places(MOST_PREVIEWS))
    guesses: Guesses = field(default_factory=Guesses)
    feeds: Lately[store.board.Feeds] = field(init=False)
    deliveries: Lately[store.endpoint_health.Counts] = field(init=False)
    _desk: Desk | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        async def count_feeds(connection: Connection, now: datetime) -> store.board.Feeds:
            return await store.board.count_feeds(connection, self.catalogue, now)

        self.feeds = Lately(self.database, count_feeds)
        self.deliveries = Lately(self.database, store.endpoint_health.count)

    @property
    def backtests(self) -> Desk:
        """The backtests of this process."""
        from app.backtest.stored import Desk  # noqa: PLC0415 - slow, and loaded by the doors that use it

        if self._desk is None:
            self._desk = Desk()
        return self._desk

    @property
    def catalogue(self) -> Catalogue:
        """What may be reported."""
        return self.policy.catalogue

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The versions of mechanisms in use, by mechanism."""
        return self.policy.profiles


async def house(request: Request) -> House:
    """The house a request came into; a dependency: ``Annotated[House, Depends(house)]``.

    Asynchronous, for what is not is asked on a thread of its own.
    """
    found: House = request.app.state.house
    return found
