"""One episode as subscribers are told it: an example of every type of event, for the catalogue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from alerts import payloads
from alerts.endpoints import EndpointEvent
from alerts.lifecycle import Advice, Alert, AlertState, EventType, Transition
from alerts.mechanisms import Level, Scope, Tlp
from alerts.payloads import TEST, VERIFY, Message
from alerts.routing import SubscriptionId
from alerts.signals import Severity
from app.store.deliveries import webhook_id

_SUBSCRIPTION = SubscriptionId("sub_0a1b2c3d4e5f60718293")
_BEGAN = datetime(2026, 3, 6, tzinfo=UTC)
_TOLD = datetime(2026, 3, 7, 9, 30, tzinfo=UTC)

_OPEN = Alert(
    scope=Scope("ttc-semiconductors", "semiconductors", "neon", "UA"),
    profile_version=1,
    level=Level.early_warning,
    state=AlertState.open,
    severity=Severity.moderate,
    tlp=Tlp.amber,
    opened_at=_BEGAN,
    recorded_at=_TOLD,
    updated_at=_BEGAN,
    number=1,
    title="Neon, Ukraine (semiconductors)",
    why="Price of neon in Ukraine stood at 260 USD/kg on 6 March 2026, 44 % above the median of the "
    "90 days before (180 USD/kg).",
    ref="TTC-SEMI-2026-0007",
)
_ADVICE = Advice(Level.disruption, ("price and event findings are at least moderate together",))

# What each step changes of the alert, and its reason. Each follows the one before.
_STEPS: Mapping[EventType, tuple[Mapping[str, Any], str]] = {
    EventType.opened: ({}, "Price of neon in Ukraine rose 44 % above its median."),
    EventType.updated: (
        {"recommendation": _ADVICE},
        f"The engine recommends disruption: {_ADVICE.reasons[0]}.",
    ),
    EventType.escalated: (
        {"severity": Severity.severe},
        "Price of neon in Ukraine has passed 324 USD/kg.",
    ),
    EventType.eased: (
        {"severity": Severity.minor, "recommendation": None},
        "Price of neon in Ukraine has come back below 207 USD/kg twice.",
    ),
    EventType.resolved: (
        {"severity": Severity.none, "level": Level.monitoring, "state": AlertState.resolved},
        "All that is measured has been back to normal long enough, on fresh observations.",
    ),
}


def messages() -> dict[str, Message]:
    """An example of every type that is sent, by type."""
    told = {kind.value: data for kind, data in _episode().items()}
    told[VERIFY] = _json({"challenge": "jJ6rF0yTz0Bz6nUqkq0mVv1cWq3Yw5aS"})
    told[TEST] = _json({"message": "This is a test.", "subscription": _SUBSCRIPTION})
    told |= {kind.value: _json(_endpoint(kind)) for kind in EndpointEvent}
    return {
        kind: Message(
            webhook_id(_SUBSCRIPTION, number),
            _SUBSCRIPTION,
            kind,
            _TOLD + timedelta(days=number),
            number,
            data,
        )
        for number, (kind, data) in enumerate(told.items(), start=1)
    }


def _episode() -> dict[EventType, str]:
    told: dict[EventType, str] = {}
    alert = replace(_OPEN, level=Level.monitoring, severity=Severity.none)
    for number, (kind, (changed, reason)) in enumerate(_STEPS.items(), start=1):
        at = _BEGAN + timedelta(days=7 * (number - 1))
        before = alert
        alert = replace(_OPEN if number == 1 else before, **changed, number=number, updated_at=at)
        if alert.state is AlertState.resolved:
            alert = replace(alert, resolved_at=at, why="It is over: nothing weighs any more.")
        transition = Transition(
            number=number,
            type=kind,
            level_from=before.level,
            level_to=alert.level,
            severity_from=before.severity,
            severity_to=alert.severity,
            at=at,
            recorded_at=_TOLD + timedelta(days=number),
            reason=reason,
            explanation={"sentence": alert.why, "recommendation": None},
        )
        told[kind] = payloads.render(alert, transition, [_finding(alert, at)])
    return told


def _finding(alert: Alert, at: datetime) -> Mapping[str, object]:
    over = alert.severity is Severity.none
    return {
        "rule": "price-above-median",
        "series_id": 17,
        "state": "ok" if over else "firing",
        "severity": alert.severity.name,
        "value": 180.0 if over else 260.0,
        "unit": "USD/kg",
        "observed_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
    }


def _endpoint(kind: EndpointEvent) -> dict[str, object]:
    owed = 0 if kind is EndpointEvent.recovered else 17
    return {
        "endpoint": {
            "subscription": "sub_99999999999999999999",
            "url": "https://alerts.example.org/forewarn",
            "status": {
                EndpointEvent.failing: "failing",
                EndpointEvent.suspended: "suspended",
                EndpointEvent.recovered: "active",
            }[kind],
            "since": "2026-03-02T09:30:00Z"
            if kind is EndpointEvent.failing
            else "2026-03-07T09:30:00Z",
            "reason": {
                EndpointEvent.failing: "Nothing has been delivered since 2 March 2026, 09:30 UTC.",
                EndpointEvent.suspended: "Nothing was delivered for five days.",
                EndpointEvent.recovered: "It answers again; what was owed is delivered.",
            }[kind],
            "last_error": None if kind is EndpointEvent.recovered else "timeout",
            "failed_attempts": 61,
            "owed": owed,
            "oldest_owed_at": "2026-03-02T09:30:00Z" if owed else None,
            "notice_percent": {EndpointEvent.failing: 50, EndpointEvent.suspended: 100}.get(kind),
            "links": {
                "self": "/v1/subscriptions/sub_99999999999999999999",
                "deliveries": "/v1/subscriptions/sub_99999999999999999999/deliveries",
                "events": "/v1/subscriptions/sub_99999999999999999999/events",
            },
        }
    }


def _json(data: Mapping[str, object]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
