"""Subscriptions: who wants to hear what, and where.

A subscription belongs to the partner that made it. Operators see all; for anyone else there is
none: they are told 404, not 403.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from alerts import catalogue, signing
from alerts.explanation import instant
from alerts.mechanisms import Level
from alerts.payloads import VERIFY, VERSIONS, Format, withheld
from alerts.routing import TYPES, Filter, SubscriptionId, Type
from alerts.signals import Severity
from app import store, subscribe
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, page, place_of
from app.api.problems import Problem
from app.database import Connection
from app.house import House, house
from app.outbound import EndpointRefused, Policy
from app.store.delivery_log import Delivery
from app.store.subscriptions import Ordering, Status, Subscription
from app.subscribe import Answer, Backlog, Dice, WrongState

router = APIRouter(tags=["subscriptions"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Writer = Annotated[Caller, Depends(needs("subscriptions:write"))]
Here = Annotated[House, Depends(house)]

OrderName = Literal["strict", "latest"]
PerSecond = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] | None
_ORDER = (
    "When an event of an alert cannot be delivered: `strict` makes the later ones of that alert wait, "
    "`latest` lets the newest overtake it after its fourth failure; those left behind stay in the pull feed."
)
_PER_SECOND = "The most events to be sent in a second; null for as fast as you answer."

LevelName = Literal["monitoring", "early_warning", "disruption", "crisis"]
SeverityName = Literal["none", "minor", "moderate", "severe", "extreme"]
Codes = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=200)]

_ID = re.compile(r"sub_[0-9a-f]{20}")
_OVERSEERS = frozenset({"operator", "admin"})


def _named(name: object) -> object:
    """The type of event of that name; alerts' and endpoints' are one list to whoever chooses."""
    if isinstance(name, str) and name in TYPES:
        return TYPES[name]
    listed = ", ".join(f"'{known}'" for known in TYPES)
    said = "There is no such type of event; there are {expected}"
    raise PydanticCustomError("enum", said, {"expected": listed})


TypeName = Annotated[Type, BeforeValidator(_named)]


class FilterBody(BaseModel):
    """What to hear of. An empty list does not restrict."""

    model_config = ConfigDict(extra="forbid")

    mechanisms: Codes = Field(default=[], description="Ids of mechanisms.")
    sectors: Codes = Field(default=[], description="Codes of sectors.")
    goods: Codes = Field(
        default=[],
        description="Codes of goods; then alerts about a whole sector, which name no good, are left out.",
    )
    places: Codes = Field(
        default=[], description="Codes of places; then alerts that name no place are left out."
    )
    min_level: LevelName = Field(
        default="monitoring",
        description="The least level, before or after the change: whoever hears of a rise hears of the fall.",
    )
    min_severity: SeverityName = Field(
        default="none",
        description="The least severity, likewise. Whoever heard of an alert hears of its end.",
    )
    types: list[TypeName] = Field(
        default=[], max_length=50, description="Types of events, of alerts and of your endpoint."
    )
    exercises: bool = Field(default=False, description="Whether to hear of exercises as well.")


class SubscriptionBody(BaseModel):
    """A wish to be told."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        max_length=2_048,
        description="The endpoint, https. It is asked with a `webhook.verify` before anything else is sent.",
        examples=["https://alerts.example.org/forewarn"],
    )
    format: Format = Field(
        default=Format.json, description="How bodies are written: docs/formats.md shows each."
    )
    filter: FilterBody = Field(default_factory=FilterBody)
    description: str = Field(default="", max_length=500, pattern=r"^[^\x00]*$")
    order: OrderName = Field(default="strict", description=_ORDER)
    per_second: PerSecond = Field(default=None, description=_PER_SECOND)


class SubscriptionChange(BaseModel):
    """What to change; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(
        default=None,
        max_length=2_048,
        description="Another endpoint; it is asked for its consent, and what is owed waits for it.",
    )
    format: Format | None = Field(
        default=None,
        description="Another format, in its newest version; what is owed comes in it too.",
    )
    filter: FilterBody | None = Field(default=None, description="Replaces the filter as a whole.")
    description: str | None = Field(default=None, max_length=500, pattern=r"^[^\x00]*$")
    order: OrderName | None = Field(default=None, description=_ORDER)
    per_second: PerSecond = Field(default=None, description=_PER_SECOND)


class Resumption(BaseModel):
    """How a subscription goes on."""

    model_config = ConfigDict(extra="forbid")

    backlog: Backlog = Field(
        default=Backlog.all,
        description="`all` that was kept, or of each alert only the `latest`, which says how it stands now; "
        "those before it stay in the pull feed.",
    )


class Rotation(BaseModel):
    """How a secret changes."""

    model_config = ConfigDict(extra="forbid")

    overlap_hours: float = Field(
        default=subscribe.OVERLAP / timedelta(hours=1),
        ge=0,
        le=subscribe.LONGEST_OVERLAP / timedelta(hours=1),
        allow_inf_nan=False,
        description="How long older secrets sign beside the new one; 0 retires them at once.",
    )


class Confirmation(BaseModel):
    """The challenge as the endpoint shows it; space around it is not part of it."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    challenge: str = Field(min_length=1, max_length=200)


class SubscriptionShown(BaseModel):
    """One subscription. Its secret is never shown again."""

    id: str
    url: str
    format: str
    filter: FilterBody
    description: str
    order: OrderName
    per_second: float | None
    format_version: int
    status: Literal["pending", "active", "suspended"] = Field(
        description="`pending`: the endpoint has not consented; `suspended`: all is kept, nothing is sent."
    )
    reason: str = Field(description="Why it is suspended; else empty.")
    created_at: str
    verified_at: str | None = Field(description="When the endpoint consented.")
    suspended_at: str | None
    failing_since: str | None = Field(
        description="Since when nothing was delivered; null while the endpoint answers."
    )
    failures: int = Field(description="Attempts that failed in a row.")
    last_error: str = Field(description="What the last failure was.")
    next_try_at: str | None = Field(
        description="Until when the endpoint is left in peace, because it fails or has asked for it."
    )
    last_sequence: int = Field(description="The sequence of the last event.")
    links: dict[str, str]


class SubscriptionMade(SubscriptionShown):
    """A new subscription with its secret, which is shown this once."""

    secret: str = Field(description="`whsec_` and a key in base64, for Standard Webhooks.")


class SecretMade(BaseModel):
    """A new secret, which is shown this once."""

    id: str
    secret: str
    older_sign_until: str


class SubscriptionList(BaseModel):
    """A page of subscriptions."""

    items: list[SubscriptionShown]
    next: str | None


class TestSent(BaseModel):
    """What was put in the queue."""

    id: str = Field(description="The delivery, and the `webhook-id` the endpoint sees.")
    type: str
    links: dict[str, str]


@router.post(
    "/v1/subscriptions", status_code=201, summary="Subscribe", response_model=SubscriptionMade
)
async def subscribe_endpoint(
    body: SubscriptionBody, response: Response, caller: Writer, here: Here
) -> dict[str, object]:
    """Makes a subscription and asks its endpoint for consent; the secret is shown this once.

    It is `pending` until the endpoint answers a `webhook.verify` with 2xx and
    `{"challenge": "..."}`, and is owed nothing before.
    """
    now = datetime.now(UTC)
    wanted = Subscription(
        id=SubscriptionId(f"sub_{secrets.token_hex(10)}"),
        partner_id=caller.partner_id,
        url=_endpoint(here, body.url),
        format=body.format,
        format_version=VERSIONS[body.format][-1],
        ordering=Ordering(body.order),
        per_second=body.per_second,
        filter=wish_of(here, body.filter),
        description=body.description,
        status=Status.pending,
        created_at=now,
    )
    dice = _dice()
    async with here.database.begin() as connection:
        await subscribe.subscribe(connection, here.seals, wanted, dice, now)
        made = await the_one(connection, caller, wanted.id)
    response.headers["Location"] = f"/v1/subscriptions/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return {**_shown(made), "secret": signing.secret_of(dice.key)}


@router.get("/v1/subscriptions", summary="List subscriptions", response_model=SubscriptionList)
async def list_subscriptions(
    request: Request,
    response: Response,
    caller: Reader,
    here: Here,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """Your subscriptions; an operator sees everyone's. Removed ones are not listed."""
    (behind,) = place_of(after, _any_id) or ("",)
    partner = None if caller.role in _OVERSEERS else caller.partner_id
    async with here.database.begin() as connection:
        found = await store.subscriptions.listing(
            connection, partner=partner, after=behind, limit=limit + 1
        )
    following = cursor(found[limit - 1].id) if len(found) > limit else None
    return page(request, response, [_shown(s) for s in found[:limit]], following)


@router.get("/v1/subscriptions/{id}", summary="One subscription", response_model=SubscriptionShown)
async def show_subscription(id: str, caller: Reader, here: Here) -> dict[str, object]:
    """A subscription as it stands."""
    async with here.database.begin() as connection:
        return _shown(await the_one(connection, caller, id))


@router.patch(
    "/v1/subscriptions/{id}", summary="Change a subscription", response_model=SubscriptionShown
)
async def change_subscription(
    id: str, body: SubscriptionChange, caller: Writer, here: Here
) -> dict[str, object]:
    """Changes what is asked for, or where it goes. What is owed already stays owed."""
    url = None if body.url is None else _endpoint(here, body.url)
    wish = None if body.filter is None else wish_of(here, body.filter)
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        wanted = replace(
            held,
            url=url or held.url,
            filter=wish or held.filter,
            description=held.description if body.description is None else body.description,
            format=body.format or held.format,
            format_version=VERSIONS[body.format][-1] if body.format else held.format_version,
            ordering=held.ordering if body.order is None else Ordering(body.order),
            per_second=body.per_second
            if "per_second" in body.model_fields_set
            else held.per_second,
        )
        await subscribe.change(connection, held, wanted, _challenge(), datetime.now(UTC))
        return _shown(await the_one(connection, caller, id))


@router.delete("/v1/subscriptions/{id}", status_code=204, summary="End a subscription")
async def remove_subscription(id: str, caller: Writer, here: Here) -> None:
    """Ends a subscription for ever; what is still owed is withdrawn."""
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        await subscribe.remove(connection, held, datetime.now(UTC))


@router.post(
    "/v1/subscriptions/{id}/test", status_code=202, summary="Send a test", response_model=TestSent
)
async def send_test(id: str, caller: Writer, here: Here) -> dict[str, object]:
    """Sends a `webhook.test` the way alerts go: same queue, signature and retries.

    An endpoint that has not consented is sent a new `webhook.verify` instead.
    """
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        try:
            kind = await subscribe.send_test(connection, held, _challenge(), datetime.now(UTC))
        except WrongState as error:
            raise Problem("conflict", str(error)) from None
    sent = store.deliveries.webhook_id(held.id, held.last_sequence + 1)
    return {"id": sent, "type": kind, "links": {"delivery": f"/v1/deliveries/{sent}"}}


@router.post(
    "/v1/subscriptions/{id}/confirm",
    summary="Consent for an endpoint that cannot answer",
    response_model=SubscriptionShown,
)
async def confirm_subscription(
    id: str, body: Confirmation, caller: Writer, here: Here
) -> dict[str, object]:
    """Gives the challenge back by hand, for an endpoint that shows what it is sent and cannot answer.

    It was sent to the endpoint alone, so that knowing it proves reading there. It holds for 7 days;
    after 10 wrong ones a new one is needed, which `POST .../test` sends.
    """
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        try:
            answer = await subscribe.confirm(
                connection, here.guesses, held, body.challenge, datetime.now(UTC)
            )
        except WrongState as error:
            raise Problem("conflict", str(error)) from None
        confirmed = await the_one(connection, caller, id)
    said = "This is not the challenge that was sent last"
    match answer:
        case Answer.right:
            return _shown(confirmed)
        case Answer.wrong:
            said = f"{said}; copy it whole from the newest `webhook.verify`"
        case Answer.spent:
            said = f"{said}, nor were those before; it is void now, and `POST .../test` sends a new one"
    raise Problem(
        "invalid", f"/challenge: {said}.", errors=[{"pointer": "/challenge", "detail": said}]
    )


@router.post(
    "/v1/subscriptions/{id}/rotate-secret", summary="Change the secret", response_model=SecretMade
)
async def rotate_secret(
    id: str, response: Response, caller: Writer, here: Here, body: Rotation | None = None
) -> dict[str, object]:
    """Gives a new secret, shown this once. Older ones sign beside it for a day, or as you say.

    While they do, `webhook-signature` holds one signature for each, separated by spaces.
    """
    now, key = datetime.now(UTC), secrets.token_bytes(signing.KEY_BYTES)
    overlap = timedelta(hours=(body or Rotation()).overlap_hours)
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        await subscribe.rotate_secret(connection, here.seals, held.id, key, overlap, now)
    response.headers["Cache-Control"] = "no-store"
    until = instant(now + overlap)
    return {"id": held.id, "secret": signing.secret_of(key), "older_sign_until": until}


@router.post(
    "/v1/subscriptions/{id}/suspend", summary="Pause sending", response_model=SubscriptionShown
)
async def suspend_subscription(id: str, caller: Writer, here: Here) -> dict[str, object]:
    """Sends nothing until it is resumed. What happens meanwhile is kept and then sent in order."""
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        reason = f"suspended by {caller.partner}"
        await subscribe.suspend(connection, held, reason, datetime.now(UTC))
        return _shown(await the_one(connection, caller, id))


@router.post(
    "/v1/subscriptions/{id}/resume", summary="Send again", response_model=SubscriptionShown
)
async def resume_subscription(
    id: str, caller: Writer, here: Here, body: Resumption | None = None
) -> dict[str, object]:
    """Sends what was kept, the oldest first and not all at once, then goes on.

    What happens from now on does not wait for it. An endpoint that has not consented is asked again.
    """
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        try:
            await subscribe.resume(
                connection,
                held,
                _challenge(),
                datetime.now(UTC),
                backlog=(body or Resumption()).backlog,
                per_second=here.settings.drain_per_second,
            )
        except WrongState as error:
            raise Problem("conflict", str(error)) from None
        return _shown(await the_one(connection, caller, id))


async def owned(
    connection: Connection, caller: Caller, subscription_id: str, *, lock: bool = False
) -> Subscription | None:
    """A subscription that the caller may see, or None."""
    if not _ID.fullmatch(subscription_id):
        return None
    found = await store.subscriptions.find(connection, subscription_id, lock=lock)
    if found is None:
        return None
    may = caller.role in _OVERSEERS or found.partner_id == caller.partner_id
    return found if may else None


def event_data(delivery: Delivery) -> dict[str, Any]:
    """The data of an event as its owner may read it.

    A challenge is for the endpoint alone: whoever could read it here could answer it elsewhere. What a
    webhook withholds of a TLP:RED alert is withheld here too, for a machine reads this as well.
    """
    if delivery.type == VERIFY:
        return {"challenge": "(sent to the endpoint only)"}
    data: dict[str, Any] = json.loads(withheld.sendable(delivery.data))
    return data


async def the_one(
    connection: Connection, caller: Caller, subscription_id: str, *, lock: bool = False
) -> Subscription:
    """A subscription that the caller may see; for anyone else there is none.

    Raises:
        Problem: ``not-found``.
    """
    found = await owned(connection, caller, subscription_id, lock=lock)
    if found is None:
        raise Problem("not-found", f"There is no subscription {subscription_id[:100]!r}.")
    return found


def _shown(subscription: Subscription) -> dict[str, object]:
    here = f"/v1/subscriptions/{subscription.id}"
    return {
        "id": subscription.id,
        "url": subscription.url,
        "format": subscription.format,
        "filter": store.subscriptions.document_of(subscription.filter),
        "description": subscription.description,
        "order": subscription.ordering.value,
        "per_second": subscription.per_second,
        "format_version": subscription.format_version,
        "status": subscription.status.value,
        "reason": subscription.reason,
        "created_at": instant(subscription.created_at),
        "verified_at": instant(subscription.verified_at),
        "suspended_at": instant(subscription.suspended_at),
        "failing_since": instant(subscription.health.failing_since),
        "failures": subscription.health.failures,
        "last_error": subscription.health.last_error,
        "next_try_at": instant(subscription.health.not_before),
        "last_sequence": subscription.last_sequence,
        "links": {
            "self": here,
            "deliveries": f"{here}/deliveries",
            "events": f"{here}/events",
        },
    }


def _endpoint(here: House, url: str) -> str:
    """The URL as it will be called."""
    policy = Policy(here.settings.webhook_allow, here.settings.webhook_allow_http)
    try:
        return str(policy.read(url))
    except EndpointRefused as error:
        raise Problem(
            "invalid", f"/url: {error}", errors=[{"pointer": "/url", "detail": str(error)}]
        ) from None


def wish_of(here: House, body: FilterBody) -> Filter:
    """The filter, every code of it known.

    Raises:
        Problem: ``invalid``, one is not; each error points below ``/filter``.
    """
    errors: list[dict[str, object]] = []

    def check(field: str, noun: str, codes: Iterable[str], known: Iterable[str]) -> None:
        for index, code in enumerate(codes):
            if code not in known:
                fault = catalogue.unknown(f"/filter/{field}/{index}", noun, code, known)
                errors.append(
                    {
                        "pointer": fault.pointer,
                        "detail": fault.detail,
                        "allowed": list(fault.allowed),
                    }
                )

    check("mechanisms", "mechanism", body.mechanisms, here.profiles)
    check("sectors", "sector", body.sectors, here.catalogue.sectors)
    check("goods", "good", body.goods, here.catalogue.goods)
    known = {*here.catalogue.places, *filter(here.catalogue.is_place, body.places)}
    check("places", "place", body.places, known)
    if errors:
        detail = f"{errors[0]['pointer']}: {errors[0]['detail']}"
        raise Problem("invalid", detail, errors=errors)
    return Filter(
        mechanisms=tuple(body.mechanisms),
        sectors=tuple(body.sectors),
        goods=tuple(body.goods),
        places=tuple(body.places),
        min_level=Level[body.min_level],
        min_severity=Severity[body.min_severity],
        types=tuple(body.types),
        exercises=body.exercises,
    )


def _any_id(text: object) -> str:
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise ValueError(text)
    return text


def _challenge() -> str:
    return secrets.token_urlsafe(24)


def _dice() -> Dice:
    return Dice(secrets.token_bytes(signing.KEY_BYTES), _challenge())
