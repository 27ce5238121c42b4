"""The catalogue of event types: what each means, its shape, an example, and the formats it comes in.

Open to everyone, as ``/openapi.json`` is: it describes the interface and nothing that happened.
"""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from pydantic.json_schema import GenerateJsonSchema

from alerts import payloads
from alerts.payloads import VERSIONS, Format
from app.api import examples
from app.api.catalogue import Listed
from app.api.problems import Problem
from app.api.webhooks import EVENTS
from app.house import House, house

router = APIRouter(tags=["event types"])

Here = Annotated[House, Depends(house)]


class FormatOut(BaseModel):
    """A format that a type comes in."""

    format: str
    versions: list[int] = Field(description="The versions that are written, oldest first.")
    content_type: str


class EventTypeOut(BaseModel):
    """One type of event."""

    type: str
    summary: str
    description: str
    since: str = Field(description="The version of the service that sent it first.")
    formats: list[FormatOut]
    example: dict[str, Any] = Field(description="A body in format `json`.")
    body_schema: dict[str, Any] = Field(
        alias="schema", description="JSON Schema 2020-12 of a body in format `json`."
    )
    links: dict[str, str]


@router.get("/v1/event-types", summary="Every type of event that subscribers are sent")
async def list_event_types(here: Here) -> Listed[EventTypeOut]:
    """What may arrive at an endpoint. More types will come; ignore those you do not know."""
    return Listed(items=[_shown(kind, _origin(here)) for kind in EVENTS])


@router.get("/v1/event-types/{type}", summary="One type of event")
async def show_event_type(type: str, here: Here) -> EventTypeOut:
    """A type with its schema and an example. CloudEvents name this address as `dataschema`."""
    if type not in EVENTS:
        raise Problem(
            "not-found", f"There is no event type {type}; `GET /v1/event-types` lists them all."
        )
    return _shown(type, _origin(here))


def _origin(here: House) -> str:
    return here.settings.public_url or ""


def _shown(kind: str, origin: str) -> EventTypeOut:
    event = EVENTS[kind]
    address = f"/v1/event-types/{kind}"
    return EventTypeOut(
        type=kind,
        summary=event.summary,
        description=event.description,
        since=event.since,
        formats=_formats(kind),
        example=_example(kind),
        schema={
            "$schema": GenerateJsonSchema.schema_dialect,
            "$id": f"{origin}{address}",
            **_schema(kind),
        },
        links={"self": address},
    )


@functools.cache
def _schema(kind: str) -> dict[str, Any]:
    """The shape of a body, narrowed to its one type."""
    schema = EVENTS[kind].body.model_json_schema()
    schema["properties"]["type"] = {"const": kind}
    schema.get("$defs", {}).pop("EventType", None)
    schema.get("$defs", {}).pop("EndpointEvent", None)
    return schema


@functools.cache
def _example(kind: str) -> dict[str, Any]:
    written = payloads.write(Format.json, 1, examples.messages()[kind], "")
    example: dict[str, Any] = json.loads(written.body)
    return example


@functools.cache
def _formats(kind: str) -> list[FormatOut]:
    """As they are written, so that what is said of a format is what is sent."""
    message = examples.messages()[kind]
    return [
        FormatOut(
            format=format.value,
            versions=list(VERSIONS[format]),
            content_type=payloads.write(format, VERSIONS[format][-1], message, "").content_type,
        )
        for format in Format
    ]
