"""Who hears of a transition, and for everyone else why not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NewType

from alerts.lifecycle import Alert, EventType
from alerts.mechanisms import Level

SubscriptionId = NewType("SubscriptionId", str)


@dataclass(frozen=True, slots=True)
class Filter:
    """What a subscriber wishes to hear of. An empty tuple does not restrict.

    ``goods`` and ``places`` choose alerts that name one of them: an alert about a whole sector
    names no good and reaches only subscribers who restrict by none. ``min_level`` is met by the
    level before the transition or after it, so that whoever heard of a rise hears of the fall.
    """

    mechanisms: tuple[str, ...] = ()
    sectors: tuple[str, ...] = ()
    goods: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    min_level: Level = Level.monitoring
    types: tuple[EventType, ...] = ()
    exercises: bool = False


@dataclass(frozen=True, slots=True)
class Listener:
    """A subscription as routing sees it."""

    id: SubscriptionId
    filter: Filter = field(default_factory=Filter)


def recipients(
    listeners: Iterable[Listener], alert: Alert, kind: EventType, was: Level | None = None
) -> tuple[SubscriptionId, ...]:
    """The subscriptions that hear of a transition, in sorted order, which is the order of locks.

    Args:
        listeners: every subscription that may hear; each at most once.
        alert: the alert after the transition.
        kind: the type of the transition.
        was: the alert's level before it; None for an alert that has just opened.
    """
    return tuple(
        sorted(
            listener.id for listener in listeners if not why_not(listener.filter, alert, kind, was)
        )
    )


def why_not(wish: Filter, alert: Alert, kind: EventType, was: Level | None = None) -> str:
    """Why a subscription does not hear of a transition; empty when it does."""
    scope = alert.scope
    if scope.exercise and not wish.exercises:
        return f"it is part of exercise {scope.exercise}, and the subscription takes no exercises"
    for noun, wanted, value in (
        ("mechanism", wish.mechanisms, scope.mechanism),
        ("sector", wish.sectors, scope.sector),
        ("good", wish.goods, scope.good),
        ("place", wish.places, scope.place),
        ("type", wish.types, kind),
    ):
        if wanted and value not in wanted:
            about = f"{noun} {value}" if value else f"no one {noun}"
            return f"it is about {about}, and the subscription asks for {', '.join(wanted)}"
    reached = max(alert.level, was if was is not None else alert.level)
    if reached < wish.min_level and not _ends_what_may_have_been_heard(kind, was):
        return f"its level is {reached.name}, and the subscription begins at {wish.min_level.name}"
    return ""


def _ends_what_may_have_been_heard(kind: EventType, was: Level | None) -> bool:
    """Without the level before, an end is told to everyone rather than kept from someone."""
    return kind is EventType.resolved and was is None
