"""Routing: who hears of a transition, and for everyone else a reason why not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import routing
from alerts.lifecycle import Alert, AlertState, EventType
from alerts.mechanisms import Level, Scope, Tlp
from alerts.routing import Filter, Listener, SubscriptionId
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
DRILL = replace(NEON, scope=replace(NEON.scope, exercise="spring-drill"))
WHOLE_SECTOR = replace(NEON, scope=Scope("supply-watch", "shipping"))
ENDED = replace(NEON, level=Level.monitoring, state=AlertState.resolved)


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
        (
            Filter(types=(EventType.resolved,)),
            NEON,
            EventType.opened,
            None,
            "about type alert.opened",
        ),
        (Filter(types=(EventType.opened,)), NEON, EventType.opened, None, ""),
        (
            Filter(min_level=Level.early_warning),
            NEON,
            EventType.opened,
            None,
            "",
        ),  # equal is enough
        (Filter(min_level=Level.disruption), NEON, EventType.opened, None, "begins at disruption"),
        # Whoever heard of the rise hears of the fall.
        (Filter(min_level=Level.disruption), NEON, EventType.eased, Level.disruption, ""),
        (Filter(min_level=Level.early_warning), ENDED, EventType.resolved, Level.early_warning, ""),
        (
            Filter(min_level=Level.crisis),
            ENDED,
            EventType.resolved,
            Level.early_warning,
            "begins at",
        ),
        # Without the level before, an end is told rather than kept.
        (Filter(min_level=Level.early_warning), ENDED, EventType.resolved, None, ""),
        (Filter(), DRILL, EventType.opened, None, "exercise spring-drill"),  # not asked for
        (Filter(exercises=True), DRILL, EventType.opened, None, ""),
        (Filter(exercises=True), NEON, EventType.opened, None, ""),  # exercises besides the real
    ],
)
def test_a_subscription_hears_of_what_it_asked_for_or_there_is_a_reason(
    wish: Filter, alert: Alert, kind: EventType, was: Level | None, reason: str
) -> None:
    found = routing.why_not(wish, alert, kind, was)
    assert reason in found
    assert bool(found) is bool(reason)


@given(st.sets(st.text("0123456789abcdef", min_size=1, max_size=6)))
def test_recipients_come_sorted_whatever_order_they_are_given_in(names: set[str]) -> None:
    listeners = [Listener(SubscriptionId(f"sub_{name}")) for name in names]
    found = routing.recipients(listeners, NEON, EventType.opened)
    assert list(found) == sorted(f"sub_{name}" for name in names)


@given(
    st.builds(
        Filter,
        sectors=st.sampled_from([(), ("semiconductors",)]),
        goods=st.sampled_from([(), ("neon",)]),
        min_level=st.sampled_from(Level),
        exercises=st.just(False),
    ),
    st.sampled_from(EventType),
    st.sampled_from([None, *Level]),
)
def test_an_exercise_never_reaches_a_subscription_that_did_not_ask(
    wish: Filter, kind: EventType, was: Level | None
) -> None:
    assert routing.recipients([Listener(SubscriptionId("sub_1"), wish)], DRILL, kind, was) == ()
