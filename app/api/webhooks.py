"""What subscribers are sent, described in the OpenAPI document under ``webhooks``; answers nothing here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header
from pydantic import BaseModel, ConfigDict, Field

from alerts.lifecycle import EventType
from app.api.alerts import AlertShown
from app.store.deliveries import TEST, VERIFY


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


class AlertEvent(BaseModel):
    """One change of one alert."""

    type: EventType
    timestamp: str = Field(description="When it became owed, RFC 3339.")
    sequence: int = Field(description="Counts the events of the subscription, without gaps.")
    data: AlertEventData


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

_SUMMARIES = {
    EventType.opened: "An alert opened",
    EventType.updated: "An alert changed without getting better or worse",
    EventType.escalated: "An alert got worse",
    EventType.eased: "An alert got better",
    EventType.resolved: "An alert ended",
}
_ANY_2XX: dict[int | str, dict[str, Any]] = {
    "2XX": {"description": "Taken. Anything else is tried again."}
}


def describe(app: FastAPI) -> None:
    """Adds every type of event to the application's OpenAPI document."""
    described: APIRouter = app.webhooks
    for kind in EventType:
        described.post(kind.value, summary=_SUMMARIES[kind], responses=_responses())(_alert_event())
    described.post(VERIFY, summary="An endpoint is asked for its consent", responses=_responses())(
        _verify
    )
    described.post(TEST, summary="A test", responses=_responses())(_test)


def _responses() -> dict[int | str, dict[str, Any]]:
    return dict(_ANY_2XX)


def _alert_event() -> Callable[..., None]:
    def event(
        body: AlertEvent, id: WebhookId, timestamp: WebhookTimestamp, signature: WebhookSignature
    ) -> None:
        """Answer 2xx within the time limit, then do the work; check the signature first."""

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
