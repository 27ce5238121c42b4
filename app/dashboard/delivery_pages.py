"""The pages of deliveries: endpoints, what each is owed, every try of every delivery; and what may be done.

Reads need what every page needs. What changes something needs ``subscriptions:write`` and is written
to the audit. Secrets are never shown, nor what a challenge asks.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from alerts.payloads import TEST, VERIFY
from alerts.routing import SubscriptionId
from app import inquire, store, subscribe
from app.dashboard import delivery_words, frame, session, words
from app.dashboard.frame import Missing, Visitor
from app.dashboard.session import visitor
from app.dashboard.words import Titles
from app.database import Connection
from app.deliver import patience_of
from app.deliver.letters import Desk, Letter, Unsigned
from app.house import House, house
from app.seals import SealBroken
from app.store.audit import Action, Actor, Entry
from app.store.delivery_log import Attempt, Listed
from app.store.endpoint_health import EndpointHealth
from app.store.queue import Claimed
from app.store.subscriptions import Subscription
from app.subscribe import Backlog, WrongState

router = APIRouter(include_in_schema=False, route_class=frame.Page)

Here = Annotated[House, Depends(house)]
Who = Annotated[Visitor, Depends(visitor)]
State = Literal["owed", "delivered", "failed", "superseded", "expired", "withdrawn"]
StandingName = Literal["suspended", "failing", "pending", "active"]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
Reason = Annotated[str, Form(max_length=1_000)]

SCOPE = "subscriptions:write"
DELIVERIES_SHOWN = 50
ENDPOINTS_SHOWN = 200
RECOVERIES_SHOWN = 10
SHORTEST_REASON = 3

# What a page says after a form; addresses name these and carry no words of their own.
SAID = {
    "suspended": "It is suspended. What happens meanwhile is kept.",
    "resumed": "It is resumed. What was kept is sent, the oldest first and not all at once.",
    "tested": "A test is on its way; it is the newest delivery below.",
    "asked": "It has not consented yet, so it is asked again; the question is the newest delivery below.",
    "redelivered": "It is sent again, under the same id.",
    "left": "It was left as it is: it waits for an earlier event of its alert, or is under way.",
}


@dataclass(frozen=True, slots=True)
class Try:
    """One try as it is shown. ``headers`` are as sent, the signature shortened; empty where the secret
    cannot be read here. ``connecting``, ``waiting`` and ``reading`` are milliseconds of its phases.
    """

    attempt: Attempt
    headers: Sequence[tuple[str, str]]
    connecting: float
    waiting: float
    reading: float


@router.get("/deliveries")
async def list_deliveries(
    request: Request,
    here: Here,
    who: Who,
    state: State | None = None,
    standing: StandingName | None = None,
    before: Before = None,
) -> HTMLResponse:
    """Every endpoint, those in trouble first; and the newest deliveries, of one state or all."""
    now = datetime.now(UTC)
    counts = await here.deliveries.look(now)
    async with here.database.begin() as connection:
        survey = await store.endpoint_health.survey(connection, now, counts=counts)
        found = await store.delivery_log.newest(
            connection, state=state, before=before, limit=DELIVERIES_SHOWN + 1
        )
    chosen = [e for e in survey.endpoints if standing in (None, e.standing)]
    troubled = f"{survey.troubled} of {len(survey.endpoints)} endpoints in trouble"
    return frame.page(
        request,
        "deliveries",
        who,
        part="deliveries",
        heading=troubled if survey.troubled else "Deliveries",
        now=now,
        here=_with_query(request),
        survey=survey,
        endpoints=chosen[:ENDPOINTS_SHOWN],
        left_out=len(chosen) - len(chosen[:ENDPOINTS_SHOWN]),
        standing=standing,
        stands=delivery_words.standing,
        state=state,
        states=delivery_words.STATES,
        state_names=delivery_words.STATE_NAMES,
        deliveries=found[:DELIVERIES_SHOWN],
        older=found[DELIVERIES_SHOWN - 1].id if len(found) > DELIVERIES_SHOWN else None,
        is_newest=before is None,
    )


@router.get("/endpoints/{subscription}")
async def show_endpoint(
    subscription: str,
    request: Request,
    here: Here,
    who: Who,
    state: State | None = None,
    before: Before = None,
    said: str = "",
) -> HTMLResponse:
    """One endpoint: how it stands and why, what it asks for, what it is owed, and what happens next."""
    return await _endpoint(request, here, who, subscription, state, before, SAID.get(said, ""))


@router.get("/endpoints/{subscription}/why")
async def show_why(
    subscription: str,
    request: Request,
    here: Here,
    who: Who,
    alert: Annotated[str, Query(max_length=200)] = "",
) -> HTMLResponse:
    """Why an endpoint was told, or not told, of each change of an alert."""
    now = datetime.now(UTC)
    async with here.database.begin() as connection:
        held = await _held(connection, subscription)
        kept = await store.alerts.by_ref(connection, alert) if alert.isprintable() else None
        if kept is None:
            raise Missing(f"There is no alert {alert}.")
        since = await store.finding_log.owed_since(connection, held.id)
        answers = []
        for hearing in await store.finding_log.hearings(connection, held.id, kept.id):
            tries = (
                await store.delivery_log.attempts_of(connection, hearing.delivery)
                if hearing.delivery is not None
                else []
            )
            last = tries[-1].reason if tries else ""
            outcome, why = inquire.outcome_of(held, since, kept.alert, hearing, last, now)
            name = hearing.sequence and store.deliveries.webhook_id(held.id, hearing.sequence)
            answers.append((hearing, outcome.replace("_", " "), why, name))
    return frame.page(
        request, "why", who, now=now, held=held, alert=kept.alert, answers=answers[::-1]
    )


@router.get("/deliveries/{webhook_id}")
async def show_delivery(
    webhook_id: str, request: Request, here: Here, who: Who, said: str = ""
) -> HTMLResponse:
    """One delivery: what it says, what became of it, and every try with what was sent and answered."""
    now = datetime.now(UTC)
    async with here.database.begin() as connection:
        listed = await _listed(connection, webhook_id)
        found = await store.delivery_log.find(connection, listed.subscription_id, listed.sequence)
        assert found is not None
        held = await store.subscriptions.find(connection, listed.subscription_id)
        attempts = await store.delivery_log.attempts_of(connection, found.id)
        ahead = await store.delivery_log.ahead_of(connection, found)
        hand = await store.delivery_log.as_sent(
            connection,
            found.id,
            [attempt.at for attempt in attempts] or [now],
        )
    desk = Desk(here.seals, here.settings.public_url or "")
    letters = [_letter(desk, claimed, claimed.due_at) for claimed in hand]
    tries = [_try(a, letter) for a, letter in zip(attempts, letters, strict=False)]
    is_challenge = found.type == VERIFY
    status = held.status.value if held else "removed"
    return frame.page(
        request,
        "delivery",
        who,
        part="delivery",
        heading=f"{delivery_words.STATE_NAMES.get(found.state, found.state)}: {webhook_id}",
        now=now,
        delivery=found,
        listed=listed,
        standing=status,
        sentence=delivery_words.state(found, status, listed.last_reason, ahead, now),
        ahead=ahead and store.deliveries.webhook_id(found.subscription_id, ahead),
        tries=tries[::-1],
        longest=max((a.milliseconds for a in attempts), default=0.0),
        verdicts=delivery_words.VERDICTS,
        state_names=delivery_words.STATE_NAMES,
        is_challenge=is_challenge,
        body=None if is_challenge else _pretty(letters[0]),
        size=len(letters[0].body) if letters[0] else 0,
        may_redeliver=status == "active" and not is_challenge and found.state != "withdrawn",
        said=SAID.get(said, ""),
        scope=SCOPE,
    )


@router.get("/deliveries/{webhook_id}/body")
async def download_body(webhook_id: str, here: Here, who: Who) -> Response:
    """The bytes of a delivery, as they are sent on every try; a challenge's are for its endpoint alone."""
    del who  # Whoever may see the page may have the bytes.
    now = datetime.now(UTC)
    async with here.database.begin() as connection:
        listed = await _listed(connection, webhook_id)
        (claimed,) = await store.delivery_log.as_sent(
            connection, listed.id, [listed.last_at or now]
        )
    if listed.type == VERIFY:
        raise Missing("What a challenge says is for its endpoint alone.")
    letter = _letter(Desk(here.seals, here.settings.public_url or ""), claimed, claimed.due_at)
    if letter is None:
        raise Missing("It cannot be written here: the secret that signs it cannot be read.")
    kind = letter.headers["content-type"]
    ending = "json" if "json" in kind else "txt"
    return Response(
        letter.body,
        media_type=kind,
        headers={"Content-Disposition": f'attachment; filename="{listed.webhook_id}.{ending}"'},
    )


# --- what may be done -------------------------------------------------------------------------------


@router.post("/endpoints/{subscription}/suspend")
async def suspend(
    subscription: str, request: Request, here: Here, who: Who, reason: Reason = ""
) -> Response:
    """Sends nothing more for now, and leads back to the endpoint."""
    if (refused := _refusal(request, who, "suspend")) is not None:
        return refused
    reason = reason.strip()
    if len(reason) < SHORTEST_REASON or not reason.isprintable():
        fault = "Say in a few words why; its owner and whoever is next on duty read it."
        return await _endpoint(request, here, who, subscription, fault=fault, typed=reason)
    now = datetime.now(UTC)
    async with here.database.begin() as connection:
        held = await _locked(connection, subscription)
        after = await subscribe.suspend(connection, held, f"suspended by {who.name}: {reason}", now)
        if after is held:
            return frame.trouble(request, 409, "It is suspended already", f"Because: {held.reason}")
        was, becomes = {"status": held.status.value}, {"status": after.status.value}
        await _write_down(
            connection, who, now, "subscription.suspended", held.id, was, becomes, reason
        )
    return _back(f"/endpoints/{words.in_an_address(subscription)}", "suspended")


@router.post("/endpoints/{subscription}/resume")
async def resume(
    subscription: str,
    request: Request,
    here: Here,
    who: Who,
    backlog: Annotated[Backlog, Form()] = Backlog.all,
) -> Response:
    """Sends again, beginning with what was kept, and leads back to the endpoint."""
    if (refused := _refusal(request, who, "resume")) is not None:
        return refused
    now = datetime.now(UTC)
    try:
        async with here.database.begin() as connection:
            held = await _locked(connection, subscription)
            after = await subscribe.resume(
                connection,
                held,
                _challenge(),
                now,
                backlog=backlog,
                per_second=here.settings.drain_per_second,
            )
            before = {"status": held.status.value, "reason": held.reason}
            made = {"status": after.status.value, "backlog": backlog.value}
            await _write_down(connection, who, now, "subscription.resumed", held.id, before, made)
    except WrongState as error:
        return frame.trouble(request, 409, "Not now", str(error))
    return _back(f"/endpoints/{words.in_an_address(subscription)}", "resumed")


@router.post("/endpoints/{subscription}/test")
async def send_test(subscription: str, request: Request, here: Here, who: Who) -> Response:
    """Sends a test the way alerts go, and leads back to the endpoint."""
    if (refused := _refusal(request, who, "test")) is not None:
        return refused
    now = datetime.now(UTC)
    try:
        async with here.database.begin() as connection:
            held = await _locked(connection, subscription)
            kind = await subscribe.send_test(connection, held, _challenge(), now)
            made = {"type": kind, "sequence": held.last_sequence + 1}
            await _write_down(connection, who, now, "subscription.tested", held.id, None, made)
    except WrongState as error:
        return frame.trouble(request, 409, "Not now", str(error))
    said = "tested" if kind == TEST else "asked"
    return _back(f"/endpoints/{words.in_an_address(subscription)}", said)


@router.post("/deliveries/{webhook_id}/redeliver")
async def redeliver(webhook_id: str, request: Request, here: Here, who: Who) -> Response:
    """Sends one again under its id, or at once if it waits for a retry, and leads back to it."""
    if not (instead := f"POST /v1/deliveries/{webhook_id}/redeliver").isprintable():
        raise Missing("There is no such delivery.")
    if (refused := session.refusal(request, who, SCOPE, instead)) is not None:
        return refused
    now = datetime.now(UTC)
    try:
        async with here.database.begin() as connection:
            await store.audit.lock(connection)
            listed = await _listed(connection, webhook_id)
            held = await _held(connection, listed.subscription_id, lock=True)
            found = await store.delivery_log.find(
                connection, listed.subscription_id, listed.sequence
            )
            assert found is not None
            is_sent = await subscribe.redeliver(connection, held, found, now)
            if is_sent:
                before, after = {"state": found.state}, {"state": "owed"}
                subject = f"{held.id}/{found.webhook_id}"
                await _write_down(
                    connection, who, now, "delivery.redelivered", subject, before, after
                )
    except WrongState as error:
        return frame.trouble(request, 409, "Not now", str(error))
    address = f"/deliveries/{words.in_an_address(webhook_id)}"
    return _back(address, "redelivered" if is_sent else "left")


def _refusal(request: Request, who: Visitor, verb: str) -> HTMLResponse | None:
    return session.refusal(request, who, SCOPE, f"POST /v1/subscriptions/…/{verb}")


def _back(address: str, said: str) -> RedirectResponse:
    return RedirectResponse(f"{address}?said={said}", status_code=303)


def _challenge() -> str:
    return secrets.token_urlsafe(24)


async def _write_down(
    connection: Connection,
    who: Visitor,
    now: datetime,
    action: Action,
    subject: str,
    before: Mapping[str, object] | None,
    after: Mapping[str, object],
    reason: str = "",
) -> None:
    actor = Actor(who.key_id, who.name)
    entry = Entry(now, actor, action, f"subscriptions/{subject}", before, after, reason)
    await store.audit.record(connection, entry)


async def _held(connection: Connection, subscription: str, *, lock: bool = False) -> Subscription:
    found = (
        await store.subscriptions.find(connection, subscription, lock=lock)
        if subscription.isprintable()
        else None
    )
    if found is None:
        raise Missing(f"There is no endpoint of a subscription {subscription[:100]}.")
    return found


async def _locked(connection: Connection, subscription: str) -> Subscription:
    """The subscription, held still. The audit's lock comes before an endpoint's, as everywhere."""
    await store.audit.lock(connection)
    return await _held(connection, subscription, lock=True)


# --- what is shown ----------------------------------------------------------------------------------


async def _endpoint(
    request: Request,
    here: House,
    who: Visitor,
    subscription: str,
    state: State | None = None,
    before: int | None = None,
    said: str = "",
    *,
    fault: str = "",
    typed: str = "",
) -> HTMLResponse:
    now = datetime.now(UTC)
    async with here.database.begin() as connection:
        held = await _held(connection, subscription)
        endpoint = await _health(connection, held.id, now)
        found = await store.delivery_log.newest_of(
            connection, held.id, state=state, before=before, limit=DELIVERIES_SHOWN + 1
        )
        recoveries = (await store.recoveries.listing(connection, held.id))[:RECOVERIES_SHOWN]
    backlog_kept = timedelta(days=here.settings.backlog_days)
    patience = patience_of(here.settings)
    return frame.page(
        request,
        "endpoint",
        who,
        part="endpoint",
        status=422 if fault else 200,
        heading=f"{endpoint.standing}: {endpoint.partner}",
        now=now,
        here=_with_query(request) if not fault else f"/endpoints/{subscription}",
        endpoint=endpoint,
        held=held,
        stands=delivery_words.standing(endpoint, now),
        next=delivery_words.what_next(endpoint, patience, backlog_kept, now),
        wish=delivery_words.wish(held.filter, Titles(here.catalogue)),
        manner=delivery_words.manner(held),
        state=state,
        states=delivery_words.STATES,
        state_names=delivery_words.STATE_NAMES,
        deliveries=found[:DELIVERIES_SHOWN],
        older=found[DELIVERIES_SHOWN - 1].sequence if len(found) > DELIVERIES_SHOWN else None,
        is_newest=before is None,
        recoveries=recoveries,
        said=said,
        fault=fault,
        typed=typed,
        scope=SCOPE,
    )


async def _health(
    connection: Connection, subscription: SubscriptionId, now: datetime
) -> EndpointHealth:
    survey = await store.endpoint_health.survey(connection, now, subscription)
    if not survey.endpoints:
        raise Missing("It was removed just now.")
    return survey.endpoints[0]


async def _listed(connection: Connection, webhook_id: str) -> Listed:
    place = store.deliveries.place_of(webhook_id)
    if place is not None:
        subscription, sequence = place
        found = await store.delivery_log.newest_of(
            connection, subscription, state=None, before=sequence + 1, limit=1
        )
        if found and found[0].sequence == sequence:
            return found[0]
    raise Missing("There is no such delivery.")


def _letter(desk: Desk, claimed: Claimed, at: datetime) -> Letter | None:
    """What was sent at that instant; None where its secret cannot be read."""
    try:
        return desk.write(claimed, at)
    except (SealBroken, Unsigned):
        return None


def _try(attempt: Attempt, letter: Letter | None) -> Try:
    headers = dict(letter.headers) if letter else {}
    if "webhook-signature" in headers:
        headers["webhook-signature"] = delivery_words.shortened(headers["webhook-signature"])
    whole = attempt.milliseconds
    sent = whole if attempt.sent_after is None else min(attempt.sent_after, whole)
    answered = whole if attempt.answered_after is None else min(attempt.answered_after, whole)
    answered = max(sent, answered)
    return Try(attempt, list(headers.items()), sent, answered - sent, whole - answered)


def _pretty(letter: Letter | None) -> str | None:
    """A body for people: JSON indented, all else as it is."""
    if letter is None:
        return None
    text = letter.body.decode("utf-8", "replace")
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _with_query(request: Request) -> str:
    """The address of this page with what narrows it, without what was said once."""
    query = request.url.remove_query_params("said").query
    return request.url.path + (f"?{query}" if query else "")
