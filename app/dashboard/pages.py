"""The operators' pages: Now, one alert, one series, all alerts; plain HTML first.

Every page can be asked for in part (htmx says so in a header): the part that moves, without the
frame around it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import AwareDatetime

from alerts import explanation, judgement
from alerts.lifecycle import Alert, AlertState, Evidence
from alerts.mechanisms import Profile
from alerts.rules import Rule
from alerts.signals import Report, SeriesId, SeriesKey
from app import inquire, store
from app.dashboard import delivery_words, frame, plots
from app.dashboard.frame import Missing, Visitor
from app.dashboard.plots import Plot
from app.dashboard.session import visitor
from app.dashboard.words import Titles
from app.database import Connection
from app.house import House, house
from app.store.dossiers import Dossier, Feeding

router = APIRouter(include_in_schema=False, route_class=frame.Page)

Here = Annotated[House, Depends(house)]
Who = Annotated[Visitor, Depends(visitor)]

AFTER_THE_ALERT = timedelta(days=60)
LISTED = 100
ALERTS_ON_THE_BOARD = 50
ENDPOINTS_ON_THE_BOARD = 8
GREATEST_ID = 2**63 - 1


@router.get("/")
async def show_now(request: Request, here: Here, who: Who) -> HTMLResponse:
    """The board: what is wrong, where, since when and how bad; then the rest in order of need."""
    now = datetime.now(UTC)
    feeds, counts = await asyncio.gather(here.feeds.look(now), here.deliveries.look(now))
    async with here.database.begin() as connection:
        board = await store.board.read(connection, here.catalogue, now, feeds=feeds, counts=counts)
    worst = board.worst
    return frame.page(
        request,
        "now",
        who,
        part="now",
        heading=f"{worst.severity.name}: {worst.title}" if worst else "All calm",
        now=now,
        board=board,
        alerts=board.alerts[:ALERTS_ON_THE_BOARD],
        endpoints=board.delivery.endpoints[:ENDPOINTS_ON_THE_BOARD],
        stands=delivery_words.standing,
        titles=Titles(here.catalogue),
        origin=str(request.base_url).rstrip("/"),
    )


@router.get("/alerts")
async def list_alerts(
    request: Request,
    here: Here,
    who: Who,
    moved: AwareDatetime | None = None,
    before: Annotated[int | None, Query(ge=1, le=GREATEST_ID)] = None,
) -> HTMLResponse:
    """Alerts, open and resolved, the last moved first; from behind one on that moved then."""
    now = datetime.now(UTC)
    place = None if moved is None or before is None else (moved, before)
    async with here.database.begin() as connection:
        kept = await store.alerts.newest(connection, before=place, limit=LISTED + 1, equal_to={})
    shown = kept[:LISTED]
    return frame.page(
        request,
        "alerts",
        who,
        part="alerts",
        heading="Alerts",
        now=now,
        here=request.url.path + (f"?{request.url.query}" if place else ""),
        alerts=[k.alert for k in shown],
        is_newest=place is None,
        last=shown[-1] if len(kept) > LISTED else None,
    )


@router.get("/alerts/{ref}")
async def show_alert(
    ref: str, request: Request, here: Here, who: Who, part: str = ""
) -> HTMLResponse:
    """One alert; ``part=series`` is its pictures alone, which are drawn anew only when it moved."""
    if not ref.isprintable():
        raise Missing("There is no alert of that reference.")
    now = datetime.now(UTC)
    wants_plots = part == "series" or "hx-request" not in request.headers
    async with here.database.begin() as connection:
        dossier = await store.dossiers.read(connection, ref)
        if dossier is None:
            raise Missing(f"There is no alert {ref}.")
        said = await _said(connection, here, dossier)
        pictures = await _pictures(connection, here, dossier, said) if wants_plots else []
        sector = dossier.alert.scope.sector
        retired = await store.retirement.retired_before(connection, sector)
    alert = dossier.alert
    state = alert.severity.name if alert.state is AlertState.open else alert.state.value
    return frame.page(
        request,
        "alert",
        who,
        part="pictures" if part == "series" else "alert",
        heading=f"{state}: {alert.title}",
        now=now,
        dossier=dossier,
        alert=alert,
        said=said,
        pictures=pictures,
        retired_before=retired if retired and retired > alert.opened_at else None,
        titles=Titles(here.catalogue),
        profile=here.profiles.get(alert.scope.mechanism),
    )


@router.get("/series/{series_id}")
async def show_series(
    series_id: Annotated[int, Path(ge=1, le=GREATEST_ID)], request: Request, here: Here, who: Who
) -> HTMLResponse:
    """One series with the lines of every rule that is asked of it."""
    now = datetime.now(UTC)
    async with here.database.begin() as connection:
        row = await store.dossiers.one_series(connection, SeriesId(series_id))
        if row is None:
            raise Missing(f"There is no series {series_id}.")
        since = _back_from(row.last_observed_at or now, here, row.key)
        samples = (await store.signals.windows(connection, [(row.id, since)]))[row.id]
        is_event = row.key.indicator in here.catalogue.events
        reports = await store.signals.reports(connection, [row.id]) if is_event else {}
        fed = await store.dossiers.alerts_of_series(connection, row.id)
        answers = await inquire.of_series(connection, here.policy.as_it_stands(), [row], now)
        retired = await store.retirement.retired_before(connection, row.key.sector)
    titles = Titles(here.catalogue)
    rules: Sequence[Rule | None] = [
        r for _, r in here.policy.brief(row.key).questions if not r.is_event
    ]

    def drawn() -> list[Plot]:
        return [
            plots.draw(
                rule,
                samples,
                None,
                series=row.id,
                title=rule.title if rule else titles.series(row.key),
                unit=titles.unit(row.key),
                place=row.key.place,
            )
            for rule in rules or [None]
        ]

    return frame.page(
        request,
        "series",
        who,
        now=now,
        row=row,
        drawn=[] if is_event else await asyncio.to_thread(drawn),
        reports=reports.get(row.id, []),
        fed=fed,
        retired_before=retired,
        answers=answers,
        fed_now=any(answer.alert_ref for answer in answers),
        titles=titles,
    )


@router.get("/static/{path:path}")
async def show_file(path: str, request: Request) -> Response:
    """A file of the pages: style, script, licence."""
    return await frame.file(path, request)


async def _said(
    connection: Connection, here: House, dossier: Dossier
) -> list[tuple[Feeding, Mapping[str, Any], list[Report]]]:
    """Each finding with its description as it stands now, and the reports behind an event."""
    profile = here.profiles.get(dossier.alert.scope.mechanism)
    events = [f.series for f in dossier.feeding if f.key.indicator in here.catalogue.events]
    reports = await store.signals.reports(connection, events) if events else {}
    return [
        (
            feeding,
            _described(here, profile, feeding, reports, dossier.alert),
            reports.get(feeding.series, []),
        )
        for feeding in dossier.feeding
    ]


def _described(
    here: House,
    profile: Profile | None,
    feeding: Feeding,
    reports: Mapping[SeriesId, list[Report]],
    alert: Alert,
) -> Mapping[str, Any]:
    """The finding in words: anew where it is still remembered, else as last published."""
    rule = _rule(profile, feeding.rule)
    if rule is None or feeding.finding is None:
        return feeding.said
    finding = feeding.finding
    heard = [r for r in reports.get(feeding.series, ()) if r.at == finding.observed_at]
    evidence = Evidence(
        rule,
        feeding.series,
        feeding.key,
        Titles(here.catalogue).unit(feeding.key),
        finding,
        heard[-1] if heard else None,
    )
    evidence = judgement.frozen(evidence, alert.opened_at)
    return explanation.describe(evidence, here.catalogue)


async def _pictures(
    connection: Connection,
    here: House,
    dossier: Dossier,
    said: list[tuple[Feeding, Mapping[str, Any], list[Report]]],
) -> list[tuple[Feeding, Mapping[str, Any], Plot]]:
    """The plots of the measured findings, drawn beside the event loop."""
    alert, titles = dossier.alert, Titles(here.catalogue)
    profile = here.profiles.get(alert.scope.mechanism)
    measured = [
        (feeding, described, _rule(profile, feeding.rule))
        for feeding, described, _ in said
        if feeding.key.indicator not in here.catalogue.events
    ]
    if not measured:
        return []
    wanted = [
        (f.series, plots.since(rule, alert.opened_at, _every(here, f.key)))
        for f, _, rule in measured
    ]
    windows = await store.signals.windows(connection, _widest(wanted))
    until = alert.resolved_at and alert.resolved_at + AFTER_THE_ALERT

    def drawn() -> list[Plot]:
        return [
            plots.draw(
                rule,
                [s for s in windows[feeding.series] if until is None or s.at <= until],
                (_frozen_at(feeding, alert.opened_at), alert.resolved_at),
                series=feeding.series,
                title=titles.series(feeding.key),
                unit=titles.unit(feeding.key),
                place=feeding.key.place,
                shown_since=alert.opened_at - plots.BEFORE_THE_ALERT,
                marks=feeding.observed,
            )
            for feeding, _, rule in measured
        ]

    made = await asyncio.to_thread(drawn)
    return [(f, described, plot) for (f, described, _), plot in zip(measured, made, strict=True)]


def _widest(wanted: Sequence[tuple[SeriesId, datetime]]) -> list[tuple[SeriesId, datetime]]:
    since: dict[SeriesId, datetime] = {}
    for series, at in wanted:
        since[series] = min(at, since.get(series, at))
    return list(since.items())


def _back_from(newest: datetime, here: House, key: SeriesKey) -> datetime:
    """Since when on a series is read for its own page: as far as a plot reaches at its usual pace."""
    try:
        return newest - _every(here, key) * plots.POINTS_SHOWN
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _every(here: House, key: SeriesKey) -> timedelta:
    """The usual gap between the observations of a series."""
    indicator = here.catalogue.indicators.get(key.indicator)
    return timedelta(days=indicator.every_days if indicator else 1)


def _frozen_at(feeding: Feeding, opened_at: datetime) -> datetime:
    """Since when the finding's baseline is frozen: its onset or the alert's, whichever is earlier."""
    onset = feeding.finding.onset if feeding.finding else None
    noted = feeding.said.get("baseline_frozen_at")
    known = [onset, datetime.fromisoformat(noted) if noted else None]
    return min([opened_at, *(at for at in known if at)])


def _rule(profile: Profile | None, rule: str) -> Rule | None:
    return next((r for r in profile.rules if r.id == rule), None) if profile else None
