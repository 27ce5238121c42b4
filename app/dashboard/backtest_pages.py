"""The page of backtests: a plain form, and what would have been said of all that was reported."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse

from alerts.signals import SeriesKey
from app.backtest import pages, stored, tables
from app.backtest.stored import Asked, Found, NothingStored, Occupied
from app.dashboard import frame, session
from app.dashboard.frame import Visitor
from app.dashboard.session import visitor
from app.dashboard.words import Titles
from app.database import DatabaseAway
from app.house import House, house
from app.settings import Unusable

router = APIRouter(include_in_schema=False, route_class=frame.Page)

Here = Annotated[House, Depends(house)]
Who = Annotated[Visitor, Depends(visitor)]
Short = Annotated[str, Form(max_length=200)]

SCOPE = "rules:write"


@router.get("/backtest")
async def show_form(
    request: Request, here: Here, who: Who, mechanism: str = "", rule: str = ""
) -> HTMLResponse:
    """The form, with what a link has chosen."""
    await here.rulebook.renew()
    what = f"{mechanism}/{rule}" if rule else mechanism
    return _page(request, here, who, {"what": what})


@router.post("/backtest")
async def run(
    request: Request,
    here: Here,
    who: Who,
    what: Short = "",
    since: Annotated[str, Form(alias="from", max_length=20)] = "",
    until: Annotated[str, Form(alias="to", max_length=20)] = "",
    known: Short = "",
    as_of: Short = "",
    labels: Annotated[str, Form(max_length=60_000)] = "",
    name: Annotated[str, Form(alias="sweep", max_length=200)] = "",
    first: Annotated[str, Form(alias="sweep_from", max_length=40)] = "",
    last: Annotated[str, Form(alias="sweep_to", max_length=40)] = "",
    step: Annotated[str, Form(alias="sweep_step", max_length=40)] = "",
) -> HTMLResponse:
    """Replays and shows what was found; what was typed stands in the form again."""
    if not session.from_ourselves(request):
        said = "Use the form on this service's own page, please."
        return frame.trouble(request, 403, "Not from here", said)
    if who.key_id and not who.may(SCOPE):
        said = f"Your key has not the scope {SCOPE}."
        return frame.trouble(request, 403, "This key may not do that", said)
    typed = {
        "what": what, "from": since, "to": until, "known": known, "as_of": as_of, "labels": labels,
        "sweep": name, "sweep_from": first, "sweep_to": last, "sweep_step": step,
    }  # fmt: skip
    await here.rulebook.renew()
    now = datetime.now(UTC)
    try:
        found = await here.backtests.run(here.database, here.catalogue, _asked(here, typed), now)
    except DatabaseAway:
        raise
    except Occupied as error:
        response = _page(request, here, who, typed, fault=str(error), status=429)
        response.headers["Retry-After"] = str(stored.TRY_AGAIN_SECONDS)
        return response
    except NothingStored as error:
        return _page(request, here, who, typed, fault=str(error), status=409)
    except Unusable as error:
        return _page(request, here, who, typed, fault=str(error), status=422)
    return _page(request, here, who, typed, found=found)


def _asked(here: House, typed: dict[str, str]) -> Asked:
    """What the form asks.

    Raises:
        Unusable: it cannot be read; a sentence a person can act on.
    """
    mechanism, _, rule = typed["what"].partition("/")
    profile = here.rulebook.edition.profiles.get(mechanism)
    if profile is None:
        raise Unusable("Choose what to replay.")
    since, until = _day(typed["from"], "From"), _day(typed["to"], "To")
    if since and until and since > until:
        raise Unusable(f"From, {since}, lies after To, {until}.")
    sweep = ""
    if typed["sweep"].strip():
        numbers = ":".join(typed[part].strip() for part in ("sweep_from", "sweep_to", "sweep_step"))
        sweep = f"{typed['sweep'].strip()}={numbers}"
    return Asked(
        profile=stored.narrowed(profile, [rule] if rule else []),
        labels=stored.labels_of(typed["labels"]),
        as_of=bool(typed["as_of"]),
        since=since,
        until=until,
        only_newest=typed["known"] == "published",
        sweep=sweep,
    )


def _day(text: str, name: str) -> date | None:
    try:
        return date.fromisoformat(text.strip()) if text.strip() else None
    except ValueError:
        raise Unusable(f"{name}, {text!r}, is not a date such as 2021-03-23.") from None


def _page(
    request: Request,
    here: House,
    who: Visitor,
    typed: dict[str, str],
    *,
    fault: str = "",
    status: int = 200,
    found: Found | None = None,
) -> HTMLResponse:
    blank = dict.fromkeys(
        ("what", "from", "to", "known", "as_of", "labels", "sweep", "sweep_from", "sweep_to",
         "sweep_step"), "",
    )  # fmt: skip
    return frame.page(
        request,
        "backtest",
        who,
        status=status,
        now=datetime.now(UTC),
        profiles=here.rulebook.edition.profiles,
        typed={**blank, **typed},
        fault=fault,
        found=_told(found, Titles(here.catalogue)) if found else None,
        most=stored.MOST_JUDGED,
    )


def _told(found: Found, titles: Titles) -> dict[str, Any]:
    """What was found, as the template's tables have it."""
    document = found.document
    return {
        "document": document,
        "scores": [(name, tables.number(document[key])) for key, name in tables.COMPARED],
        "leads": tables.leads(document["lead_days"]),
        "pairs": [
            (name, outcome, lead, start, _titled(titles, series))
            for name, series, start, outcome, lead in tables.pairs(document)
        ],
        "episodes": [
            (opened, resolved, verdict, worst, _titled(titles, series))
            for opened, resolved, series, worst, verdict in tables.episodes(document)
        ],
        "unscored": [
            (name, _titled(titles, series), why) for name, series, why in tables.unscored(document)
        ],
        "alerts": [pages.alert_row(alert) for alert in document["alerts"]],
        "months": [(month, str(n)) for month, n in document["notifications_by_month"].items()],
        "swept": tables.swept(document) if "sweep" in document else [],
        "sweep_columns": tables.SWEEP_COLUMNS,
        "sweep_svg": found.sweep_inline,
        "drawings": found.drawings,
        "warnings": found.warnings,
    }


def _titled(titles: Titles, series: str) -> str:
    """A series by its titles; reports name it by its codes."""
    return titles.series(SeriesKey(*series.split("/"))) if series else ""
