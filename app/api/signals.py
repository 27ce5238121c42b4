"""Signals come in: one or an array, each item answered for itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from app import telemetry
from app.access import KEY_SCHEME, Caller, let_in
from app.api import arrivals
from app.api.arrivals import Checked
from app.api.bodies import Body, inflated
from app.api.problems import MEDIA_TYPE, MOST_ERRORS, Problem
from app.api.straight import Plain
from app.database import DatabaseAway
from app.house import House, house
from app.ingest import Behind, Receipt, Status

router = APIRouter(tags=["signals"], route_class=Plain)

_BUSY_RETRY_SECONDS = 1


class ItemAnswer(BaseModel):
    """What became of one item, in the order sent."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    index: int
    status: Literal["accepted", "duplicate", "revised", "late", "rejected"]
    problem: dict[str, Any] | None = None
    retryable: bool | None = None


class BatchAnswer(BaseModel):
    """What became of a batch. `items` lists what was not simply accepted; `?verbose=true` all."""

    accepted: int
    duplicate: int
    revised: int
    late: int
    rejected: int
    items: list[ItemAnswer]
    alerts: list[str]


def _described(model: type[msgspec.Struct]) -> dict[str, Any]:
    """What these routes take from the request by themselves, for the description of the service."""
    _, parts = msgspec.json.schema_components([model], ref_template="{name}")
    single = _whole(parts[model.__name__], parts)
    several = {"type": "array", "items": single, "minItems": 1, "maxItems": 1000}
    body = {"schema": {"anyOf": [single, several]}}
    return {
        "security": [{KEY_SCHEME: []}],
        "parameters": [
            {
                "name": "verbose",
                "in": "query",
                "required": False,
                "description": "Lists every item, those that were simply accepted as well.",
                "schema": {"type": "boolean", "default": False},
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": body}},
    }


def _whole(part: Any, parts: Mapping[str, Any]) -> Any:
    """A part of a schema with the others in the places that refer to them."""
    if isinstance(part, list):
        return [_whole(each, parts) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _whole(parts[part["$ref"]], parts)
    return {name: _whole(each, parts) for name, each in part.items()}


_yes_or_no = TypeAdapter(bool)


def _is_verbose(request: Request) -> bool:
    said = request.query_params.get("verbose") if request.scope["query_string"] else None
    if said is None:
        return False
    try:
        return _yes_or_no.validate_python(said)
    except ValidationError as error:
        raise RequestValidationError(
            [{**f, "loc": ("query", "verbose")} for f in error.errors()]
        ) from error


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": BatchAnswer,
        "description": "Every item is accepted, a duplicate, late or revised.",
    },
    207: {
        "model": BatchAnswer,
        "description": "Some items were rejected; `items` says which and why.",
    },
    422: {
        "description": "Every item was rejected: a problem with the members of a batch's answer."
    },
    429: {"description": "This key has used up its signals of a minute; `RateLimit` says more."},
    503: {"description": "Behind, or the database is away; `Retry-After` says how long to wait."},
}


@router.post(
    "/v1/signals",
    summary="Report signals",
    openapi_extra=_described(arrivals.Item),
    responses=_ANSWERS,
)
async def post_signals(request: Request) -> Response:
    """Accepts one signal or an array of up to 1,000. Each item is stored, judged and what follows
    is owed before the answer is sent; sending the same again is harmless.
    """
    caller, here = await let_in(request, "signals:write"), await house(request)
    now, verbose = datetime.now(UTC), _is_verbose(request)
    body = await _json_body(request, here)
    checked, several = arrivals.check_items(body, caller.partner_id, here, now)
    return await _answer(request, here, caller, checked, now, is_batch=several, verbose=verbose)


@router.post(
    "/v1/signals/retract",
    summary="Take signals back",
    openapi_extra=_described(arrivals.Retraction),
    responses=_ANSWERS,
)
async def retract_signals(request: Request) -> Response:
    """Takes back what this partner reported. The record stays; it no longer counts, and the series
    is judged again.
    """
    caller, here = await let_in(request, "signals:write"), await house(request)
    now, verbose = datetime.now(UTC), _is_verbose(request)
    body = await _json_body(request, here)
    checked, several = arrivals.check_retractions(body, caller.partner_id, here, now)
    return await _answer(request, here, caller, checked, now, is_batch=several, verbose=verbose)


async def _json_body(request: Request, here: House) -> bytes:
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem("unsupported-media-type", f"The body is {kind}; send application/json.")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding in ("gzip", "x-gzip"):
        return await inflated(request, here.settings.ingest_body_limit_bytes)
    if encoding != "identity":
        raise Problem(
            "unsupported-media-type",
            f"The body is encoded as {encoding[:100]}; send it plain or with gzip.",
            headers={"Accept-Encoding": "gzip"},  # RFC 9110, 12.5.3
        )
    body: Body = request.state.body
    return await body.whole()


async def _answer(
    request: Request,
    here: House,
    caller: Caller,
    checked: Checked,
    now: datetime,
    *,
    is_batch: bool,
    verbose: bool,
) -> Response:
    quota, cost = here.quotas.signals, len(checked.places) + len(checked.refused)
    if quota is not None:
        request.state.quota = quota.take(caller.key_id, cost, monotonic())
    receipt = Receipt([])
    if checked.arrivals:
        try:
            receipt = await here.intake.accept(checked.arrivals, now)
        except (Behind, DatabaseAway) as error:
            if quota is not None:
                quota.give_back(caller.key_id, cost)
            if isinstance(error, DatabaseAway):
                raise
            telemetry.refusals.labels("behind").inc()
            raise Problem(
                "busy",
                "More signals are waiting than can be stored at once.",
                headers={"Retry-After": str(_BUSY_RETRY_SECONDS)},
                retryable=True,
            ) from error
    counts = dict.fromkeys(_counted, 0)
    items: list[tuple[int, dict[str, Any]]] = []
    for index, status in zip(checked.places, receipt.statuses, strict=True):
        if status in _NOT_STORED:
            slug, said = _NOT_STORED[status]
            checked.refused[index] = Problem(slug, said)
            continue
        counts[status] += 1
        if verbose or status is not Status.accepted:
            items.append((index, {"index": index, "status": status.value}))
    for index, problem in checked.refused.items():
        counts["rejected"] += 1
        rejected = {"index": index, "status": "rejected", "problem": problem.document()}
        items.append((index, {**rejected, "retryable": problem.retryable}))
    for outcome, count in counts.items():
        if count:
            _counted[outcome].inc(count)
    request.state.counts = counts
    document = {**counts, "items": [item for _, item in sorted(items)], "alerts": receipt.refs}
    if not checked.refused:
        return _json(document, 200)
    if len(checked.refused) < len(checked.refused) + sum(counts.values()) - counts["rejected"]:
        return _json(document, 207)
    return _all_refused(request, checked, document, is_batch=is_batch)


_counted = {
    outcome: telemetry.signals.labels(outcome)
    for outcome in ("accepted", "duplicate", "revised", "late", "rejected")
}
_NOT_STORED = {
    Status.conflict: (
        "conflict",
        "That revision number was used for another value; use a higher one.",
    ),
    Status.unknown: (
        "not-found",
        "This partner has reported nothing under that key and instant, or it is kept no longer.",
    ),
}


def _all_refused(
    request: Request, checked: Checked, document: dict[str, Any], *, is_batch: bool
) -> Response:
    """A problem that also has the members of a batch's answer."""
    problems = [checked.refused[index] for index in sorted(checked.refused)]
    if not is_batch:
        whole = problems[0]
    else:
        errors = [error for problem in problems for error in problem.errors]
        whole = Problem(
            "invalid", f"All {len(problems)} items were rejected.", errors=errors[:MOST_ERRORS]
        )
    said = {**whole.document(request.state.request_id), **document}
    return _json(said, whole.kind.status, MEDIA_TYPE)


def _json(document: dict[str, Any], status: int, media_type: str = "application/json") -> Response:
    return Response(msgspec.json.encode(document), status, media_type=media_type)
