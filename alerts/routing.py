"""Who hears of a transition, and for everyone else why not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, NewType

from alerts.endpoints import EndpointEvent
from alerts.lifecycle import Alert, EventType
from alerts.mechanisms import Level
from alerts.signals import Severity

SubscriptionId = NewType("SubscriptionId", str)

Type = EventType | EndpointEvent
"""A type of event that may be asked for by name."""

TYPES: dict[str, Type] = {kind.value: kind for kind in (*EventType, *EndpointEvent)}


FOLDED = "more alerts were open than are told singly, and a summary tells of this one"
"""The last reason there may be, when nothing in the filter is one."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a subscriber wishes to hear of. An empty tuple does not restrict.

    ``goods`` and ``places`` choose alerts that name one of them: an alert about a whole sector
    names no good and reaches only subscribers who restrict by none. ``min_level`` and
    ``min_severity`` are met by what the alert had reached before the transition or has after it,
    so that whoever heard of a rise hears of the fall, and of the end.
    """

    mechanisms: tuple[str, ...] = ()
    sectors: tuple[str, ...] = ()
    goods: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    min_level: Level = Level.monitoring
    min_severity: Severity = Severity.none
    types: tuple[Type, ...] = ()
    exercises: bool = False


@dataclass(frozen=True, slots=True)
class Listener:
    """A subscription as routing sees it."""

    id: SubscriptionId
    filter: Filter = field(default_factory=Filter)


class Reached(NamedTuple):
    """What an alert had reached before a transition; ``reached`` says it of a whole history.

    Before any but the last, its level and severity just then. Before its end, the highest it ever
    had: an alert has often eased to nothing days before it ends, and who was told that it is grave
    must be told that it is over.
    """

    level: Level
    severity: Severity


def reached(kind: EventType, just_before: Reached, highest: Reached) -> Reached:
    """What counts as reached before a transition of that type.

    Args:
        kind: its type.
        just_before: the level and severity it changed.
        highest: the highest level and the highest severity that any earlier transition led to.
    """
    return highest if kind is EventType.resolved else just_before


def recipients(
    listeners: Iterable[Listener], alert: Alert, kind: EventType, was: Reached | None = None
) -> tuple[SubscriptionId, ...]:
    """The subscriptions that hear of a transition, in sorted order, which is the order of locks.

    Args:
        listeners: every subscription that may hear; each at most once.
        alert: the alert after the transition.
        kind: the type of the transition.
        was: what the alert had reached before it; None where that is not known.
    """
    return tuple(
        sorted(
            listener.id for listener in listeners if not why_not(listener.filter, alert, kind, was)
        )
    )


def why_not(wish: Filter, alert: Alert, kind: EventType, was: Reached | None = None) -> str:
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
    level, severity = was or _unknown(alert, kind)
    for noun, least, highest in (
        ("level", wish.min_level, max(alert.level, level)),
        ("severity", wish.min_severity, max(alert.severity, severity)),
    ):
        if highest < least:
            return f"its {noun} is {highest.name}, and the subscription begins at {least.name}"
    return FOLDED if alert.is_folded else ""


def _unknown(alert: Alert, kind: EventType) -> Reached:
    """Without what was reached, an end is told to everyone rather than kept from someone."""
    if kind is EventType.resolved:
        return Reached(max(Level), max(Severity))
    return Reached(alert.level, alert.severity)
