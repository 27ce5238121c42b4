"""Routing: who hears of a transition, and for everyone else a reason why not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import routing
from alerts.endpoints import EndpointEvent
from alerts.lifecycle import Alert, AlertState, EventType
from alerts.mechanisms import Level, Scope, Tlp
from alerts.routing import TYPES, Filter, Listener, Reached, SubscriptionId
from alerts.signals import Severity

AT = datetime(2026, 3, 7, tzinfo=UTC)
NEON = Alert(
    scope=Scope("ttc-semiconductors", "semiconductors", "neon", "UA"),
    profile_version=1,
    level=Level.early_warning,
    state=AlertState.open,
    severity=Severity.severe,
    tlp=Tlp.green,
    opened_at=AT,
    recorded_at=AT,
    updated_at=AT,
    number=1,
)
DRILL = replace(NEON, scope=NEON.scope._replace(exercise="spring-drill"))
WHOLE_SECTOR = replace(NEON, scope=Scope("supply-watch", "shipping"))
ENDED = replace(NEON, level=Level.monitoring, state=AlertState.resolved, severity=Severity.none)


WARNED = Reached(Level.early_warning, Severity.severe)
DISRUPTED = Reached(Level.disruption, Severity.severe)
EASED = replace(NEON, severity=Severity.none)


@pytest.mark.parametrize(
    ("wish", "alert", "kind", "was", "reason"),
    [
        (Filter(), NEON, EventType.opened, None, ""),  # no restriction
        (Filter(mechanisms=("ttc-semiconductors",)), NEON, EventType.opened, None, ""),
        (Filter(mechanisms=("supply-watch",)), NEON, EventType.opened, None, "about mechanism ttc"),
        (Filter(sectors=("shipping", "semiconductors")), NEON, EventType.opened, None, ""),
        (Filter(sectors=("shipping",)), NEON, EventType.opened, None, "asks for shipping"),
        (Filter(goods=("neon",)), NEON, EventType.opened, None, ""),
        (Filter(goods=("gallium",)), NEON, EventType.opened, None, "about good neon"),
        (Filter(goods=("neon",)), WHOLE_SECTOR, EventType.opened, None, "about no one good"),
        (Filter(places=("TW",)), NEON, EventType.opened, None, "about place UA"),
        (Filter(types=(EventType.resolved,)), NEON, EventType.opened, None, "type alert.opened"),
        (Filter(types=(EventType.opened,)), NEON, EventType.opened, None, ""),
        # Who asks for what befalls its endpoint alone hears of no alert.
        (Filter(types=(EndpointEvent.failing,)), NEON, EventType.opened, None, "endpoint.failing"),
        (Filter(types=(EndpointEvent.failing, EventType.opened)), NEON, EventType.opened, None, ""),
        (Filter(min_level=Level.early_warning), NEON, EventType.opened, None, ""),  # equal does
        (Filter(min_level=Level.disruption), NEON, EventType.opened, None, "begins at disruption"),
        (Filter(min_severity=Severity.severe), NEON, EventType.opened, None, ""),  # equal does
        (Filter(min_severity=Severity.extreme), NEON, EventType.opened, None, "begins at extreme"),
        # Whoever heard of the rise hears of the fall.
        (Filter(min_level=Level.disruption), NEON, EventType.eased, DISRUPTED, ""),
        (Filter(min_level=Level.early_warning), ENDED, EventType.resolved, WARNED, ""),
        (Filter(min_level=Level.crisis), ENDED, EventType.resolved, WARNED, "begins at crisis"),
        (Filter(min_severity=Severity.severe), EASED, EventType.eased, WARNED, ""),
        (Filter(min_severity=Severity.extreme), EASED, EventType.eased, WARNED, "is severe"),
        # Without what was reached before, an end is told rather than kept.
        (Filter(min_level=Level.early_warning), ENDED, EventType.resolved, None, ""),
        (Filter(min_severity=Severity.extreme), ENDED, EventType.resolved, None, ""),
        (Filter(), DRILL, EventType.opened, None, "exercise spring-drill"),  # not asked for
        (Filter(exercises=True), DRILL, EventType.opened, None, ""),
        (Filter(exercises=True), NEON, EventType.opened, None, ""),  # exercises besides the real
    ],
)
def test_a_subscription_hears_of_what_it_asked_for_or_there_is_a_reason(
    wish: Filter, alert: Alert, kind: EventType, was: Reached | None, reason: str
) -> None:
    found = routing.why_not(wish, alert, kind, was)
    assert reason in found
    assert bool(found) is bool(reason)


def test_the_end_of_an_alert_is_measured_by_the_highest_it_ever_had() -> None:
    """It opened severe, eased to nothing, and ends a fortnight later, from nothing to nothing."""
    just_before = Reached(Level.early_warning, Severity.none)
    assert routing.reached(EventType.resolved, just_before, DISRUPTED) == DISRUPTED
    for kind in set(EventType) - {EventType.resolved}:
        assert routing.reached(kind, just_before, DISRUPTED) == just_before


def test_every_type_can_be_asked_for_by_its_name() -> None:
    assert set(TYPES) == {*EventType, *EndpointEvent}
    assert all(kind.value == name for name, kind in TYPES.items())


@given(st.sets(st.text("0123456789abcdef", min_size=1, max_size=6)))
def test_recipients_come_sorted_whatever_order_they_are_given_in(names: set[str]) -> None:
    listeners = [Listener(SubscriptionId(f"sub_{name}")) for name in names]
    found = routing.recipients(listeners, NEON, EventType.opened)
    assert list(found) == sorted(f"sub_{name}" for name in names)


reacheds = st.builds(Reached, st.sampled_from(Level), st.sampled_from(Severity))
wishes = st.builds(
    Filter,
    mechanisms=st.sampled_from([(), ("ttc-semiconductors",), ("supply-watch",)]),
    sectors=st.sampled_from([(), ("semiconductors",), ("shipping", "semiconductors")]),
    goods=st.sampled_from([(), ("neon",), ("gallium", "neon"), ("gallium",)]),
    places=st.sampled_from([(), ("UA",), ("TW",)]),
    min_level=st.sampled_from(Level),
    min_severity=st.sampled_from(Severity),
    types=st.lists(st.sampled_from(list(TYPES.values())), max_size=3).map(tuple),
    exercises=st.booleans(),
)
alerts_of_all_kinds = st.builds(
    replace,
    st.sampled_from([NEON, DRILL, WHOLE_SECTOR]),
    level=st.sampled_from(Level),
    severity=st.sampled_from(Severity),
)


@given(wishes, alerts_of_all_kinds, st.sampled_from(EventType), st.one_of(st.none(), reacheds))
def test_an_exercise_never_reaches_a_subscription_that_did_not_ask(
    wish: Filter, alert: Alert, kind: EventType, was: Reached | None
) -> None:
    drill = replace(alert, scope=alert.scope._replace(exercise="spring-drill"))
    quiet = Listener(SubscriptionId("sub_1"), replace(wish, exercises=False))
    assert routing.recipients([quiet], drill, kind, was) == ()


@given(
    wishes,
    wishes,
    alerts_of_all_kinds,
    st.sampled_from(EventType),
    st.one_of(st.none(), reacheds),
)
def test_a_narrower_filter_hears_a_part_of_what_a_wider_one_hears(
    wide: Filter, other: Filter, alert: Alert, kind: EventType, was: Reached | None
) -> None:
    """Of two filters, the one that asks for what both ask for hears what both would hear."""
    narrow = _both(wide, other)
    if narrow is None:  # They have nothing in common, and an empty list would not restrict.
        return
    hears = {w: not routing.why_not(w, alert, kind, was) for w in (wide, other, narrow)}
    assert hears[narrow] is (hears[wide] and hears[other])


def _both(one: Filter, other: Filter) -> Filter | None:
    """The filter that lets through what both let through; None where no filter says that."""
    lists: dict[str, Any] = {}
    for name in ("mechanisms", "sectors", "goods", "places", "types"):
        first, second = getattr(one, name), getattr(other, name)
        common = tuple(c for c in first if c in second) if first and second else first or second
        if (first or second) and not common:
            return None
        lists[name] = common
    return Filter(
        min_level=max(one.min_level, other.min_level),
        min_severity=max(one.min_severity, other.min_severity),
        exercises=one.exercises and other.exercises,
        **lists,
    )


@given(wishes, st.lists(reacheds, min_size=1, max_size=8))
def test_whoever_hears_an_alert_open_hears_every_fall_and_the_end(
    wish: Filter, course: list[Reached]
) -> None:
    """Whatever course it takes from there, by least level and severity."""
    wish = Filter(min_level=wish.min_level, min_severity=wish.min_severity)
    nothing = Reached(Level.monitoring, Severity.none)
    highest = just_before = nothing
    hears = has_heard = False
    for number, now in enumerate([*course, nothing]):
        is_end = number == len(course)
        kind = EventType.resolved if is_end else EventType.updated if number else EventType.opened
        was = routing.reached(kind, just_before, highest)
        alert = replace(NEON, level=now.level, severity=now.severity)
        heard = not routing.why_not(wish, alert, kind, was)
        assert heard or not hears, "it was above, so its fall is told"
        assert heard or not (is_end and has_heard), "it was told, so its end is"
        hears = now.level >= wish.min_level and now.severity >= wish.min_severity
        has_heard |= heard
        just_before = now
        highest = Reached(max(highest.level, now.level), max(highest.severity, now.severity))
