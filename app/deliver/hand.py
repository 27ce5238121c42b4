"""What a worker has in hand: deliveries it has claimed and not yet recorded, endpoint by endpoint.

Decides what is begun next, how many more to claim of whom, and what to give back. Holds no locks and
does no I/O; one event loop uses it.

An endpoint has at most so many attempts under way, one while it fails. All together have at most so
many, but an attempt that takes long is counted apart: endpoints that hang would otherwise fill every slot
and hold up those that answer.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from alerts.routing import SubscriptionId
from app.store.queue import Claimed
from app.store.records import Standing

MOST_AHEAD = 256
"""The most that is claimed ahead of one endpoint: what it took in the last second, up to this."""

LEAST_AHEAD = 8
"""Of an endpoint that was sent nothing lately so many times as many are claimed as are under way at once: a
claim takes as long as many attempts, and one that is quick would wait for the next."""

SLOW_ROOMS = 16
"""Slow attempts may be so many times as many as quick ones; beyond that they count as quick ones."""

BUSY_WITH = 16

_SPARE_AHEAD = 1_024
_RETRIES_SHARE = 0.75
_FORGET_SECONDS = 5.0


@dataclass(slots=True)
class _Post:
    """One endpoint's deliveries in hand."""

    waiting: deque[Claimed] = field(default_factory=deque)
    under_way: int = 0
    at_once: int | None = None
    may_have_more: bool = False
    is_queued: bool = False
    second: float = 0.0  # the second that is being counted, by the monotonic clock
    taken: int = 0  # what it took in that second
    took: int = 0  # what it took in the second before

    def count(self, now: float) -> None:
        """One more taken."""
        self._turn(now)
        self.taken += 1

    def pace(self, now: float) -> int:
        """How many it takes in a second."""
        self._turn(now)
        return max(self.taken, self.took)

    def _turn(self, now: float) -> None:
        if now - self.second >= 1:
            self.took = self.taken if now - self.second < 2 else 0
            self.second, self.taken = now, 0


class Hand:
    """Deliveries in hand.

    Args:
        in_flight: quick attempts under way at once, over all endpoints.
        per_endpoint: attempts under way at once to one endpoint.
    """

    def __init__(self, in_flight: int, per_endpoint: int) -> None:
        self._in_flight = in_flight
        self._per_endpoint = per_endpoint
        self._posts: dict[SubscriptionId, _Post] = {}
        self._queue: deque[SubscriptionId] = deque()
        self._held: dict[int, tuple[Claimed, datetime]] = {}
        self._waiting = 0
        self._quick = 0
        self._slow = 0
        self._retries = 0

    @property
    def slots(self) -> int:
        """How many more may be claimed now."""
        return max(0, self._in_flight + _SPARE_AHEAD - self._waiting - self._quick)

    @property
    def free(self) -> int:
        """How many more might be begun now."""
        return max(0, self._in_flight - self._waiting - self._quick)

    @property
    def retry_slots(self) -> int:
        """How many of them may be third or later attempts: they never fill more than three quarters.

        Slow ones fill none. One may be always, lest the smallest worker make none at all.
        """
        return max(0, max(1, int(self._in_flight * _RETRIES_SHARE)) - self._retries)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is claimed and not recorded."""
        return not self._held

    @property
    def is_busy(self) -> bool:
        """Whether much is under way or waits, so that more will end soon."""
        return self._quick + self._waiting >= BUSY_WITH

    @property
    def under_way(self) -> int:
        """Attempts under way."""
        return self._quick + self._slow

    def rooms(self, now: float) -> Mapping[SubscriptionId, int]:
        """How many more to claim of each endpoint of which something is in hand, or was just now."""
        found: dict[SubscriptionId, int] = {}
        for name, post in list(self._posts.items()):
            held = len(post.waiting) + post.under_way
            if not held and not post.is_queued and now - post.second > _FORGET_SECONDS:
                del self._posts[name]
                continue
            found[name] = self._room(post, now)
            if post.at_once is not None and held:
                found[name] = 0
        return found

    def full(self, wanted: Collection[SubscriptionId], now: float) -> list[SubscriptionId]:
        """Those endpoints of which nothing more is taken now: that fail, or have enough in hand."""
        posts = ((name, post) for name in wanted if (post := self._posts.get(name)) is not None)
        return [n for n, p in posts if p.at_once is not None or self._room(p, now) <= 0]

    def add(self, claimed: Iterable[Claimed], lease_until: datetime) -> None:
        """Takes in what was claimed. An attempt that failed and is not recorded yet weighs more than what is
        on record of its endpoint.
        """
        for one in claimed:
            name = one.subscription_id
            post = self._posts.setdefault(name, _Post())
            if one.endpoint.at_once is not None:
                post.at_once = one.endpoint.at_once
            post.waiting.append(one)
            self._waiting += 1
            self._retries += one.lane
            self._held[one.id] = (one, lease_until)
            self._enqueue(name, post)

    def filled(self, claimed: Iterable[Claimed], rooms: Mapping[SubscriptionId, int]) -> None:
        """Notes of which endpoints more may be due than was claimed: of those that filled their room."""
        for name, count in Counter(one.subscription_id for one in claimed).items():
            self._posts[name].may_have_more = count >= rooms.get(name, self._per_endpoint)

    def begin(self) -> Claimed | None:
        """The next delivery to send, now under way; None when nothing may be begun."""
        while self._queue and self._quick < self._in_flight:
            name = self._queue.popleft()
            post = self._posts[name]
            post.is_queued = False
            if not self._may_begin(post):
                continue
            one = post.waiting.popleft()
            post.under_way += 1
            self._waiting -= 1
            self._quick += 1
            self._enqueue(name, post)
            return one
        return None

    def slow(self, one: Claimed) -> bool:
        """Counts an attempt under way among the slow ones; False when there is no room for it there."""
        if self._slow >= self._in_flight * SLOW_ROOMS:
            return False
        self._quick -= 1
        self._retries -= one.lane
        self._slow += 1
        return True

    def end(self, one: Claimed, now: float, *, was_slow: bool, was_taken: bool) -> bool:
        """An attempt is no more under way; True when more of its endpoint should be claimed."""
        if was_slow:
            self._slow -= 1
        else:
            self._quick -= 1
            self._retries -= one.lane
        post = self._posts[one.subscription_id]
        post.under_way -= 1
        if was_taken:
            post.count(now)
            post.at_once = None
        else:
            post.at_once = 1  # until it is recorded, and known better
        self._enqueue(one.subscription_id, post)
        return post.may_have_more and self._room(post, now) > 0

    def recorded(self, one: Claimed) -> None:
        """A claim is in hand no more; a later one of the same delivery is."""
        self._release(one)

    def stand(self, name: SubscriptionId, standing: Standing, now: datetime) -> list[Claimed]:
        """Heeds how an endpoint stands; gives what is to be given back because it may not be sent now."""
        post = self._posts.get(name)
        if post is None:
            return []
        post.at_once = standing.at_once
        if standing.is_open and (standing.not_before is None or standing.not_before <= now):
            self._enqueue(name, post)
            if standing.at_once is None:
                return []
            return self._drop(post, keep=standing.at_once - post.under_way)
        return self._drop(post, keep=0)

    def drop_all(self) -> list[Claimed]:
        """Everything that was not begun, to be given back."""
        return [one for post in self._posts.values() for one in self._drop(post, keep=0)]

    def forget(self, lost: Iterable[Claimed]) -> None:
        """Deliveries that others have taken over: they are not begun any more."""
        gone = {one.key: one for one in lost}
        for post in self._posts.values():
            kept = deque(one for one in post.waiting if one.key not in gone)
            self._waiting -= len(post.waiting) - len(kept)
            self._retries -= sum(one.lane for one in post.waiting if one.key in gone)
            post.waiting = kept
        for one in gone.values():
            self._release(one)

    def leases_before(self, instant: datetime) -> list[Claimed]:
        """What is in hand under a lease that ends before an instant."""
        return [one for one, until in self._held.values() if until < instant]

    def extended(self, held: Iterable[Claimed], lease_until: datetime) -> None:
        """These are this worker's for longer."""
        for one in held:
            if self._holds(one):
                self._held[one.id] = (one, lease_until)

    def _holds(self, one: Claimed) -> bool:
        held = self._held.get(one.id)
        return held is not None and held[0].fence == one.fence

    def _release(self, one: Claimed) -> None:
        if self._holds(one):
            del self._held[one.id]

    def _drop(self, post: _Post, *, keep: int) -> list[Claimed]:
        dropped: list[Claimed] = []
        while len(post.waiting) > max(0, keep):
            one = post.waiting.pop()
            self._waiting -= 1
            self._retries -= one.lane
            self._release(one)
            dropped.append(one)
        return dropped

    def _room(self, post: _Post, now: float) -> int:
        """How many more to claim of an endpoint.

        None while it has more than half of what it may have and something waits its turn, so that
        claims come in batches. Where nothing waits every free place is filled: an endpoint that is slow
        would otherwise have little more than half the attempts under way that it may have.
        """
        held = len(post.waiting) + post.under_way
        ahead = max(self._per_endpoint * LEAST_AHEAD, min(post.pace(now), MOST_AHEAD))
        return ahead - held if held * 2 <= ahead or not post.waiting else 0

    def _may_begin(self, post: _Post) -> bool:
        limit = self._per_endpoint if post.at_once is None else post.at_once
        return bool(post.waiting) and post.under_way < limit

    def _enqueue(self, name: SubscriptionId, post: _Post) -> None:
        if not post.is_queued and self._may_begin(post):
            post.is_queued = True
            self._queue.append(name)
