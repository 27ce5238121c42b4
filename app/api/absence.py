"""Why there is no alert, and why a subscriber was not told.

This file is before ``alerts`` in the order of names, so that `/v1/alerts/why` is no reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from alerts import catalogue as codes
from alerts import explanation
from alerts.explanation import instant
from alerts.lifecycle import Alert
from alerts.signals import SeriesId
from app import inquire, store
from app.access import Caller, needs
from app.api.problems import Problem
from app.api.shelves import Code
from app.api.shelves import shown as shelf_shown
from app.api.subscriptions import the_one
from app.database import Connection
from app.house import House, house
from app.inquire import Answer, Obstacle, Outcome, Unasked, Unreported
from app.rulebook import Clause, Status
from app.store.dossiers import SeriesRow
from app.store.finding_log import Hearing
from app.store.subscriptions import Subscription

router = APIRouter(tags=["why"])

AlertReader = Annotated[Caller, Depends(needs("alerts:read"))]
SignalReader = Annotated[Caller, Depends(needs("signals:read"))]
Here = Annotated[House, Depends(house)]
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]

MOST_SERIES = 50
"""Of a subject with more series the first are answered for, and ``more`` says so."""

ATTEMPTS_SHOWN = 5


class ShortShown(BaseModel):
    """How far a rule is from raising, in what it compares with its bands."""

    severity: str = Field(description="What would be raised.")
    compared: float
    raise_at: float
    by: float = Field(description="What is missing; 0 when only more observations are.")


class AnswerShown(BaseModel):
    """What one rule says of one series, and what stands between that and an alert."""

    mechanism: str
    rule: str
    title: str
    series_id: int
    indicator: str
    good: str | None
    place: str | None
    obstacles: list[Obstacle] = Field(
        description="`alerting`: it feeds `alert`; `due`: it fires and nothing keeps it from one."
    )
    why: str
    short: ShortShown | None
    shelf: dict[str, Any] | None
    alert: str | None
    finding: dict[str, Any]


class UnreportedShown(BaseModel):
    """A rule that would ask this subject, did anyone report one of its indicators."""

    mechanism: str
    rule: str
    title: str
    indicators: list[str]
    why: str


class UnaskedShown(BaseModel):
    """A series that no rule asks, and indicators of its sector that rules do ask."""

    series_id: int
    indicator: str
    near: list[str]
    why: str


class LeftOut(BaseModel):
    """A rule that would ask, and is retired or cannot be used."""

    mechanism: str
    rule: str
    status: Status
    why: str


class WhyNoAlert(BaseModel):
    """Every rule asked, and why there is no alert."""

    sentence: str
    alerts: list[str] = Field(description="Open alerts that these series feed.")
    rules: list[AnswerShown]
    unreported: list[UnreportedShown]
    unasked: list[UnaskedShown]
    left_out: list[LeftOut]
    more: bool = Field(description="Whether there are more series than are answered for.")


class Tried(BaseModel):
    """One try of a delivery."""

    number: int
    at: str
    verdict: str
    reason: str
    status: int | None


class Told(BaseModel):
    """One transition of the alert, and what became of it for this subscription."""

    number: int
    type: str
    at: str
    recorded_at: str
    outcome: Outcome
    why: str
    delivery: str | None
    delivered_at: str | None
    attempts: list[Tried] = Field(description="The last of them.")


class WhyNotTold(BaseModel):
    """Every transition of an alert, oldest first, and whether a subscription was told of it."""

    subscription: str
    alert: str
    status: str
    sentence: str
    transitions: list[Told]


@router.get("/v1/alerts/why", summary="Why is there no alert?", response_model=WhyNoAlert)
async def why_no_alert(
    _: AlertReader,
    here: Here,
    sector: Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")],
    good: Code = None,
    place: Code = None,
    exercise: Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")] = "",
) -> dict[str, object]:
    """For every rule that is, or would be, asked of a subject: what it says, and what is missing.

    Leave out `good` or `place` for any; an empty one means "not limited to one".
    """
    _known_codes(here, sector, good, place)
    wanted = {"sector": sector, "good": good, "place": place, "exercise": exercise}
    equal_to = {name: code for name, code in wanted.items() if code is not None}
    async with here.database.begin() as connection:
        rows = await store.dossiers.series_list(connection, 0, MOST_SERIES + 1, equal_to)
        shown = await _why(connection, here, rows[:MOST_SERIES])
    policy = here.policy
    reported = {row.key.indicator for row in rows}
    missing = inquire.unreported(policy, sector, good, place, reported)
    shown["unreported"] = [_unreported(one) for one in missing]
    shown["more"] = len(rows) > MOST_SERIES
    if not rows and not missing:
        asked = codes.nearest(
            sector, {s for p in policy.profiles.values() for r in p.rules for s in r.sectors}
        )
        shown["sentence"] = (
            f"Nobody reports it and no rule asks about it; rules ask about {', '.join(asked)}."
        )
    elif not rows:
        shown["sentence"] = "Nobody reports anything about it that a rule asks for."
    return shown


@router.get(
    "/v1/series/{series_id}/why",
    summary="Why does a series raise no alert?",
    response_model=WhyNoAlert,
)
async def why_series_is_quiet(series_id: Id, _: SignalReader, here: Here) -> dict[str, object]:
    """For every rule that is asked of a series: what it says now, and what is missing."""
    async with here.database.begin() as connection:
        row = await store.dossiers.one_series(connection, SeriesId(series_id))
        if row is None:
            raise Problem("not-found", f"There is no series {series_id}.")
        return await _why(connection, here, [row])


@router.get("/v1/subscriptions/{id}/why", summary="Why was I not told?", response_model=WhyNotTold)
async def why_not_told(
    id: str,
    caller: AlertReader,
    here: Here,
    alert: Annotated[str, Query(max_length=200, description="The alert's reference.")],
) -> dict[str, object]:
    """For every transition of an alert: told when, owed since when and why not yet, or why never."""
    now = datetime.now(UTC)
    async with here.database.begin() as connection:
        held = await the_one(connection, caller, id)
        kept = None if "\x00" in alert else await store.alerts.by_ref(connection, alert)
        if kept is None:
            raise Problem("not-found", f"There is no alert {alert!r}.")
        since = await store.finding_log.owed_since(connection, held.id)
        hearings = await store.finding_log.hearings(connection, held.id, kept.id)
        told = [
            await _told(connection, held, since, kept.alert, hearing, now) for hearing in hearings
        ]
    return {
        "subscription": held.id,
        "alert": alert,
        "status": held.status.value,
        "sentence": _in_short(told),
        "transitions": told,
    }


async def _why(connection: Connection, here: House, rows: Sequence[SeriesRow]) -> dict[str, object]:
    now, policy = datetime.now(UTC), here.policy.as_it_stands()
    left_out = [c for c in here.rulebook.edition.clauses.values() if _would_ask(c, rows)]
    answers = await inquire.of_series(connection, policy, rows, now)
    without = inquire.unasked(policy, rows)
    refs = sorted({a.alert_ref for a in answers if a.alert_ref is not None})
    return {
        "sentence": _sentence(answers, refs),
        "alerts": refs,
        "rules": [_answer(here, answer, now) for answer in answers],
        "unreported": [],
        "unasked": [_unasked(one) for one in without],
        "left_out": [_left_out(clause) for clause in left_out],
        "more": False,
    }


def _sentence(answers: Sequence[Answer], refs: Sequence[str]) -> str:
    """The answer in short."""
    if refs:
        return f"There is an alert: {', '.join(refs)}."
    if not answers:
        return "No rule asks about it."
    count = f"{len(answers)} rules ask" if len(answers) > 1 else "One rule asks"
    nearest = min(
        (a for a in answers if a.short is not None),
        key=lambda a: a.short.by / (abs(a.short.raise_at) or 1) if a.short else 0,
        default=None,
    )
    firing = [a for a in answers if a.evidence.finding.fires]
    if firing:
        return f"{count}, and {len(firing)} fire without an alert. {firing[0].why}"
    if nearest is None:
        return f"{count}, and none fires. {answers[0].why}"
    return f"{count}, and none fires. Nearest is {nearest.rule.title}: {nearest.why}"


def _answer(here: House, answer: Answer, now: datetime) -> dict[str, object]:
    key, short = answer.evidence.key, answer.short
    in_force = answer.profile.in_force(now.date())
    return {
        "mechanism": answer.profile.id,
        "rule": answer.rule.id,
        "title": answer.rule.title,
        "series_id": answer.evidence.series,
        "indicator": key.indicator,
        "good": key.good or None,
        "place": key.place or None,
        "obstacles": list(answer.obstacles),
        "why": answer.why,
        "short": short
        and {
            "severity": short.severity.name,
            "compared": short.compared,
            "raise_at": short.raise_at,
            "by": short.by,
        },
        "shelf": answer.shelf and shelf_shown(answer.shelf, now),
        "alert": answer.alert_ref,
        "finding": explanation.describe(answer.evidence, here.catalogue, in_force=in_force),
    }


def _unreported(one: Unreported) -> dict[str, object]:
    what = " or ".join(one.indicators)
    return {
        "mechanism": one.profile.id,
        "rule": one.rule.id,
        "title": one.rule.title,
        "indicators": list(one.indicators),
        "why": f"Nobody reports {what} for it.",
    }


def _unasked(one: Unasked) -> dict[str, object]:
    near = f" Rules of this sector ask for {', '.join(one.near)}." if one.near else ""
    return {
        "series_id": one.series,
        "indicator": one.key.indicator,
        "near": list(one.near),
        "why": f"No rule asks about {one.key.indicator} here.{near}",
    }


def _would_ask(clause: Clause, rows: Iterable[SeriesRow]) -> bool:
    """Whether a rule that is left out would ask one of the series."""
    if clause.status not in {Status.retired, Status.refused}:
        return False
    if clause.rule is not None:
        return any(clause.rule.asks(row.key) for row in rows)
    said = clause.content.get("indicators")
    named = said if isinstance(said, list) else [said]
    return any(row.key.indicator in named for row in rows)


def _left_out(clause: Clause) -> dict[str, object]:
    why = "An operator has retired it."
    if clause.status is Status.refused:
        why = f"It cannot be used: {' '.join(f.detail for f in clause.faults)}"
    return {
        "mechanism": clause.mechanism,
        "rule": clause.id,
        "status": clause.status,
        "why": why,
    }


async def _told(
    connection: Connection,
    held: Subscription,
    owed_since: datetime | None,
    alert: Alert,
    hearing: Hearing,
    now: datetime,
) -> dict[str, object]:
    tries = (
        []
        if hearing.delivery is None
        else await store.delivery_log.attempts_of(connection, hearing.delivery)
    )
    last = tries[-1].reason if tries else ""
    outcome, why = inquire.outcome_of(held, owed_since, alert, hearing, last, now)
    sequence = hearing.sequence
    return {
        "number": hearing.number,
        "type": hearing.type.value,
        "at": instant(hearing.at),
        "recorded_at": instant(hearing.recorded_at),
        "outcome": outcome,
        "why": why,
        "delivery": None if sequence is None else store.deliveries.webhook_id(held.id, sequence),
        "delivered_at": instant(hearing.finished_at) if outcome == "delivered" else None,
        "attempts": [
            {
                "number": tried.number,
                "at": instant(tried.at),
                "verdict": tried.verdict,
                "reason": tried.reason,
                "status": tried.status,
            }
            for tried in tries[-ATTEMPTS_SHOWN:]
        ],
    }


def _in_short(told: Sequence[dict[str, object]]) -> str:
    """How many transitions there were, and how many of them were told."""
    heard = sum(one["outcome"] == "delivered" for one in told)
    said = f"{heard} of {len(told)} transitions of this alert were delivered."
    first = next((one for one in told if one["outcome"] != "delivered"), None)
    return said if first is None else f"{said} Number {first['number']} was not: {first['why']}"


def _known_codes(here: House, sector: str, good: str | None, place: str | None) -> None:
    """Refuses codes that the catalogue does not have, and names the nearest."""
    known = here.catalogue
    faults = []
    if sector not in known.sectors:
        faults.append(codes.unknown("sector", "sector", sector, known.sectors))
    if good and good not in known.goods:
        faults.append(codes.unknown("good", "good", good, known.goods))
    if place and not known.is_place(place):
        faults.append(codes.unknown("place", "place", place, known.places))
    if faults:
        errors = [
            {"parameter": f.pointer, "detail": f.detail, "allowed": list(f.allowed)} for f in faults
        ]
        raise Problem("invalid", f"{faults[0].pointer}: {faults[0].detail}", errors=errors)
