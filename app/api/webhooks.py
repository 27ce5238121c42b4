"""What subscribers are sent: every type of event with its shape, and its place in the OpenAPI document.

``event_types`` serves the same as a catalogue.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header
from pydantic import BaseModel, ConfigDict, Field

from alerts.endpoints import EndpointEvent
from alerts.lifecycle import EventType
from alerts.payloads import TEST, VERIFY
from app.api.alerts import AlertShown


class TransitionShown(BaseModel):
    """What changed, and why."""

    model_config = ConfigDict(
        json_schema_extra={"additionalProperties": True}, populate_by_name=True
    )

    id: str = Field(description="The alert's reference and the transition's number.")
    number: int = Field(description="Counts the transitions of the alert, from 1.")
    type: str
    from_level: str = Field(alias="from", description="The level before.")
    to_level: str = Field(alias="to", description="The level after.")
    severity_from: str
    severity_to: str
    reason: str
    at: str = Field(description="Observation time.")
    recorded_at: str = Field(description="The service's clock.")
    decided_by: str
    explanation: dict[str, Any]


class AlertEventData(BaseModel):
    """An alert after a change, and the change."""

    alert: AlertShown
    transition: TransitionShown
    references: list[str] = Field(description="Earlier transitions of the alert, oldest first.")


class WithheldAlert(BaseModel):
    """An alert that is TLP:RED: that there is one, and where its recipients read it."""

    ref: str
    tlp: Literal["RED"]
    exercise: str | None
    links: dict[str, str]


class WithheldTransition(BaseModel):
    """What changed of a TLP:RED alert, as far as it is said."""

    id: str
    number: int
    type: str
    recorded_at: str


class WithheldData(BaseModel):
    """All that is sent of an alert that is TLP:RED."""

    alert: WithheldAlert
    transition: WithheldTransition
    references: list[str]


class AlertEvent(BaseModel):
    """One change of one alert."""

    type: EventType
    timestamp: str = Field(description="When it became owed, RFC 3339.")
    sequence: int = Field(description="Counts the events of the subscription, without gaps.")
    data: AlertEventData | WithheldData


class Challenge(BaseModel):
    """What an endpoint gives back to consent."""

    challenge: str


class VerifyEvent(BaseModel):
    """Asks a new endpoint whether it wants to be sent anything."""

    type: Literal["webhook.verify"]
    timestamp: str
    sequence: int
    data: Challenge


class TestData(BaseModel):
    """Says that it is a test."""

    message: str
    subscription: str


class TestEvent(BaseModel):
    """A test that its owner asked for; it goes the way alerts go."""

    type: Literal["webhook.test"]
    timestamp: str
    sequence: int
    data: TestData


class EndpointShown(BaseModel):
    """An endpoint that is in trouble, or no longer."""

    subscription: str
    url: str
    status: Literal["failing", "suspended", "active"]
    since: str = Field(description="Since when it has been so, RFC 3339.")
    reason: str
    last_error: str | None = Field(
        description="The error code of the last try; null if that was a success."
    )
    failed_attempts: int = Field(
        description="How many tries in a row have failed, or had until now."
    )
    owed: int = Field(description="How many events wait for it; nothing of them is lost.")
    oldest_owed_at: str | None = Field(description="Since when the oldest of them waits.")
    notice_percent: Literal[50, 70, 90, 100] | None = Field(
        description="How much of the time before it is suspended has passed."
    )
    links: dict[str, str]


class EndpointEventData(BaseModel):
    """The endpoint that is told of, which is seldom the one that is told."""

    endpoint: EndpointShown


class EndpointNotice(BaseModel):
    """News of an endpoint itself, for those who look after it."""

    type: EndpointEvent
    timestamp: str
    sequence: int
    data: EndpointEventData


@dataclass(frozen=True, slots=True)
class Described:
    """One type of event: in a line, in a sentence or two, since which version, and its shape."""

    summary: str
    description: str
    since: str
    body: type[BaseModel]


_ALERTS = {
    EventType.opened: (
        "An alert opened",
        "A rule fired that may open one: something may happen, or has. The alert's first event.",
    ),
    EventType.updated: (
        "An alert changed without getting better or worse",
        (
            "A value was revised, an announced measure takes effect, another finding joins, or another "
            "level is recommended."
        ),
    ),
    EventType.escalated: ("An alert got worse", "Its severity rose, or its level did."),
    EventType.eased: ("An alert got better", "Its severity fell; it is still open."),
    EventType.resolved: (
        "An alert ended",
        (
            "It is over; or, where `data.transition.explanation.taken_back` is true, nothing that it "
            "rested on ever held."
        ),
    ),
}

EVENTS: Mapping[str, Described] = MappingProxyType(
    {
        **{
            kind.value: Described(summary, description, "0.1.0", AlertEvent)
            for kind, (summary, description) in _ALERTS.items()
        },
        VERIFY: Described(
            "An endpoint is asked for its consent",
            "Sent before anything else to a new endpoint, which answers with the challenge.",
            "0.1.0",
            VerifyEvent,
        ),
        TEST: Described(
            "A test", "Its owner asked for it; it goes the way alerts go.", "0.1.0", TestEvent
        ),
        EndpointEvent.failing.value: Described(
            "An endpoint is failing",
            "So many tries failed that it is sent less; or nothing has reached it for half, 70 % or 90 % "
            "of the time after which it is suspended.",
            "0.1.0",
            EndpointNotice,
        ),
        EndpointEvent.suspended.value: Described(
            "An endpoint was suspended",
            "Nothing more is sent to it until it is resumed; what it is owed is kept.",
            "0.1.0",
            EndpointNotice,
        ),
        EndpointEvent.recovered.value: Described(
            "An endpoint recovered",
            "It failed or was suspended, and answers again.",
            "0.1.0",
            EndpointNotice,
        ),
    }
)
"""Every type that is sent, in the order of docs/webhooks.md; a test holds them together."""


WebhookId = Annotated[
    str,
    Header(alias="webhook-id", description="The same on every try; keep those you have handled."),
]
WebhookTimestamp = Annotated[
    str,
    Header(
        alias="webhook-timestamp",
        description="Seconds since 1970 at this try; refuse one that is more than five minutes off.",
    ),
]
WebhookSignature = Annotated[
    str,
    Header(
        alias="webhook-signature",
        description="`v1,` and the HMAC-SHA256 of id, timestamp and body; several, separated by spaces, "
        "while a secret is being rotated.",
    ),
]

_ANY_2XX: dict[int | str, dict[str, Any]] = {
    "2XX": {"description": "Taken. Anything else is tried again."}
}


def describe(app: FastAPI) -> None:
    """Adds every type of event to the application's OpenAPI document."""
    app.webhooks.routes.extend(_described().routes)


@functools.cache
def _described() -> APIRouter:
    described = APIRouter()
    for kind, event in EVENTS.items():
        described.post(kind, summary=event.summary, responses=dict(_ANY_2XX))(_receiver(event))
    return described


def _receiver(event: Described) -> Callable[..., Any]:
    """What a subscriber's endpoint does; its parameters are what the document shows."""
    if event.body is AlertEvent:
        return _alert_event()
    if event.body is EndpointNotice:
        return _endpoint_notice()
    return _verify if event.body is VerifyEvent else _test


def _alert_event() -> Callable[..., None]:
    def event(
        body: AlertEvent, id: WebhookId, timestamp: WebhookTimestamp, signature: WebhookSignature
    ) -> None:
        """Answer 2xx within the time limit, then do the work; check the signature first."""

    return event


def _endpoint_notice() -> Callable[..., None]:
    def event(
        body: EndpointNotice,
        id: WebhookId,
        timestamp: WebhookTimestamp,
        signature: WebhookSignature,
    ) -> None:
        """Answer 2xx; then see to the endpoint."""

    return event


def _verify(
    body: VerifyEvent, id: WebhookId, timestamp: WebhookTimestamp, signature: WebhookSignature
) -> Challenge:
    """Answer with the challenge; the subscription is active from then on."""
    return Challenge(challenge=body.data.challenge)


def _test(
    body: TestEvent, id: WebhookId, timestamp: WebhookTimestamp, signature: WebhookSignature
) -> None:
    """Answer 2xx; there is nothing to do."""
