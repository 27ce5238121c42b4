"""The API for readers: one page made from the OpenAPI document, with nothing from elsewhere."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from app.api import webhooks

router = APIRouter(include_in_schema=False)

# The style sheet carries its own small pictures as data.
_CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'"
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address, or one event that is sent."""

    method: str
    path: str
    summary: str
    description: str
    parameters: tuple[Mapping[str, Any], ...]
    body: str
    answers: tuple[tuple[str, str, str], ...]

    @property
    def anchor(self) -> str:
        """Where the page can be pointed at."""
        return f"{self.method}-{self.path}".replace("/", "-").replace("{", "").replace("}", "")


@router.get("/openapi.json")
async def show_openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(_described(request.app), media_type="application/json")


@router.get("/docs")
async def show_reference(request: Request) -> HTMLResponse:
    """Every operation and every event with its parameters and shapes."""
    return HTMLResponse(_page(request.app), headers={"Content-Security-Policy": _CONTENT_POLICY})


@functools.lru_cache(maxsize=1)
def _document(app: FastAPI) -> dict[str, Any]:
    webhooks.describe(app)
    return app.openapi()


# Both are made once: whoever comes may ask for them, and it takes tens of milliseconds.
@functools.lru_cache(maxsize=1)
def _described(app: FastAPI) -> bytes:
    return msgspec.json.encode(_document(app))


@functools.lru_cache(maxsize=1)
def _page(app: FastAPI) -> str:
    document = _document(app)
    return _template().render(
        title=document["info"]["title"],
        summary=document["info"].get("summary", ""),
        version=document["info"]["version"],
        groups=_grouped(document),
        schemas={
            name: json.dumps(schema, indent=2)
            for name, schema in sorted(document.get("components", {}).get("schemas", {}).items())
        },
    )


def _grouped(document: Mapping[str, Any]) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = {}
    for path, method, operation in _each(document.get("paths", {})):
        group = operation.get("tags", ["other"])[0]
        groups.setdefault(group, []).append(_operation(method, path, operation))
    events = [_operation("event", name, o) for name, _, o in _each(document.get("webhooks", {}))]
    return {**dict(sorted(groups.items())), "webhooks": events}


def _each(paths: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield path, method, operation


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Operation:
    return Operation(
        method=method,
        path=path,
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        parameters=tuple(operation.get("parameters", ())),
        body=_shape(operation.get("requestBody", {})),
        answers=tuple(
            (status, answer.get("description", ""), _shape(answer))
            for status, answer in operation.get("responses", {}).items()
        ),
    )


def _shape(holder: Mapping[str, Any]) -> str:
    """The name of a shape of the components, or what stands in its place, as words."""
    for media_type, content in holder.get("content", {}).items():
        schema = content.get("schema", {})
        return _named(schema) or media_type
    return ""


def _named(schema: Mapping[str, Any]) -> str:
    if reference := schema.get("$ref"):
        return str(reference).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_named(schema.get('items', {})) or 'anything'}"
    for joint in ("anyOf", "oneOf"):
        if joint in schema:
            return " or ".join(_named(part) or "anything" for part in schema[joint])
    return str(schema.get("type", ""))


@functools.cache
def _template() -> jinja2.Template:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("reference.html")
