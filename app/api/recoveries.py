"""Recoveries: a range of a subscription's deliveries owed again, as a job to be watched and stopped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NoReturn

from fastapi import APIRouter, Depends, Path
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from alerts.explanation import instant
from app import recover, store
from app.access import Caller, needs
from app.api.problems import Problem
from app.api.subscriptions import the_one
from app.database import Connection
from app.house import House, house
from app.store.recoveries import Recovery
from app.store.subscriptions import Status, Subscription

router = APIRouter(tags=["subscriptions"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Writer = Annotated[Caller, Depends(needs("subscriptions:write"))]
Here = Annotated[House, Depends(house)]
Number = Annotated[int, Path(ge=1, lt=2**63)]

State = Literal["failed", "expired", "superseded", "delivered"]


class RecoveryBody(BaseModel):
    """Which deliveries to send again. What is left out does not restrict."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime | None = Field(
        default=None,
        description="Owed since then; at the earliest 30 days ago, which is the default.",
    )
    until: AwareDatetime | None = Field(default=None, description="Owed until then; default now.")
    after: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Only events behind this sequence: the last you have.",
    )
    states: list[State] = Field(
        default=["failed", "expired"],
        min_length=1,
        max_length=4,
        description="In these states. `delivered` sends what you have answered 2xx to once more.",
    )


class RecoveryShown(BaseModel):
    """One recovery."""

    id: int
    subscription: str
    first_sequence: int
    last_sequence: int
    states: list[str]
    redelivered: int = Field(description="How many were owed again so far.")
    state: Literal["running", "done", "stopped"]
    created_at: str
    created_by: str
    finished_at: str | None
    stopped_by: str | None
    links: dict[str, str]


class RecoveryStarted(RecoveryShown):
    """A recovery that was just written down."""

    wanted: int = Field(description="How many deliveries it will send again.")


class RecoveryList(BaseModel):
    """The recoveries of a subscription, the newest first; at most a hundred."""

    items: list[RecoveryShown]


@router.post(
    "/v1/subscriptions/{id}/recover",
    status_code=202,
    summary="Send a range again",
    response_model=RecoveryStarted,
)
async def start_recovery(
    id: str, caller: Writer, here: Here, body: RecoveryBody | None = None
) -> dict[str, object]:
    """Sends events of a range again under their ids, the oldest first and not all at once.

    The job is kept in the database: it goes on after a restart, and waits while the subscription is
    suspended. At most 10,000 events of the last 30 days at a time.
    """
    now, wish = datetime.now(UTC), body or RecoveryBody()
    since = wish.since or now - recover.FARTHEST_BACK
    if since < now - recover.FARTHEST_BACK - timedelta(minutes=1):
        _refuse("/since", "It must not be more than 30 days ago; the pull feed reaches further.")
    if wish.until is not None and wish.until < since:
        _refuse("/until", "It must not be before `since`.")
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        if held.status is not Status.active:
            raise Problem(
                "conflict", f"The subscription is {held.status}; it must be active to be sent to."
            )
        try:
            job, wanted = await recover.start(
                connection,
                held.id,
                tuple(dict.fromkeys(wish.states)),
                since=since,
                until=wish.until or now,
                after=wish.after,
                by=caller.partner,
                now=now,
            )
        except recover.Nothing:
            raise Problem("conflict", "No event of that range is in such a state.") from None
        except recover.TooMany:
            _refuse(
                "/since", f"The range holds more than {recover.MOST_RECOVERED:,} events: narrow it."
            )
    return {**_shown(job), "wanted": wanted}


@router.get(
    "/v1/subscriptions/{id}/recoveries", summary="List recoveries", response_model=RecoveryList
)
async def list_recoveries(id: str, caller: Reader, here: Here) -> dict[str, object]:
    """What was asked to be sent again, the newest first."""
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id)
        found = await store.recoveries.listing(connection, held.id)
    return {"items": [_shown(job) for job in found]}


@router.get(
    "/v1/subscriptions/{id}/recoveries/{number}",
    summary="One recovery",
    response_model=RecoveryShown,
)
async def show_recovery(id: str, number: Number, caller: Reader, here: Here) -> dict[str, object]:
    """How far a recovery has come."""
    async with here.database.begin() as connection:
        return _shown(await _job(connection, await the_one(connection, caller, id), number))


@router.post(
    "/v1/subscriptions/{id}/recoveries/{number}/stop",
    summary="Stop a recovery",
    response_model=RecoveryShown,
)
async def stop_recovery(id: str, number: Number, caller: Writer, here: Here) -> dict[str, object]:
    """Sends nothing more for it; what it has owed again already stays owed."""
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id, lock=True)
        job = await _job(connection, held, number)
        if job.finished_at is not None:
            raise Problem("conflict", "The recovery has ended already.")
        await store.recoveries.finish(connection, job, datetime.now(UTC), by=caller.partner)
        return _shown(await _job(connection, held, number))


async def _job(connection: Connection, held: Subscription, number: int) -> Recovery:
    found = await store.recoveries.find(connection, held.id, number)
    if found is None:
        raise Problem("not-found", f"There is no recovery {number} of this subscription.")
    return found


def _refuse(pointer: str, detail: str) -> NoReturn:
    raise Problem(
        "invalid", f"{pointer}: {detail}", errors=[{"pointer": pointer, "detail": detail}]
    )


def _shown(job: Recovery) -> dict[str, object]:
    here = f"/v1/subscriptions/{job.subscription_id}"
    ended = job.finished_at is not None
    return {
        "id": job.id,
        "subscription": job.subscription_id,
        "first_sequence": job.first_sequence,
        "last_sequence": job.last_sequence,
        "states": list(job.states),
        "redelivered": job.redelivered,
        "state": "stopped" if job.stopped_by else "done" if ended else "running",
        "created_at": instant(job.created_at),
        "created_by": job.created_by,
        "finished_at": instant(job.finished_at),
        "stopped_by": job.stopped_by or None,
        "links": {"self": f"{here}/recoveries/{job.id}", "subscription": here},
    }
