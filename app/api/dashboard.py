"""The operators' board as JSON: the same as the front page shows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from alerts.lifecycle import Advice
from app import store
from app.access import Caller, needs
from app.house import House, house
from app.store.board import AlertRow, Board, Change, Feed, FeedCounts, SectorRow
from app.store.endpoint_health import EndpointHealth, Percentiles, Speed, Survey

router = APIRouter(tags=["dashboard"])

Operator = Annotated[Caller, Depends(needs("dashboard:read"))]
Here = Annotated[House, Depends(house)]


class FeedCountsShown(BaseModel):
    """How many feeds keep their pace; events have none and are not counted."""

    series: int
    stale: int = Field(description="Silent for over twice their usual gap.")
    silent: int = Field(description="Silent for over five times their usual gap.")
    newest_observed_at: datetime | None


class ChangeShown(BaseModel):
    """One transition."""

    ref: str
    title: str
    sector: str
    exercise: str | None
    type: str
    level_from: str
    level_to: str
    severity_from: str
    severity_to: str
    at: datetime = Field(description="Observation time.")
    recorded_at: datetime = Field(description="The service's clock.")
    reason: str


class SectorShown(BaseModel):
    """One sector: the worst of its open alerts; drills never count."""

    sector: str
    title: str
    level: str
    severity: str
    open_alerts: int
    trend: str = Field(description="rising, easing or steady, by the last change of any alert.")
    changes: list[ChangeShown] = Field(description="The newest of its transitions, oldest first.")
    feeds: FeedCountsShown


class AdviceShown(BaseModel):
    """A level the engine recommends people to set, and why."""

    level: str
    reasons: list[str]


class OpenAlertShown(BaseModel):
    """One open alert, in short; `GET /v1/alerts/{ref}` has all of it."""

    ref: str
    mechanism: str
    sector: str
    good: str | None
    place: str | None
    exercise: str | None
    level: str
    severity: str
    title: str
    why: str
    validated: bool
    opened_at: datetime = Field(description="Observation time.")
    updated_at: datetime = Field(description="Observation time.")
    recommendation: AdviceShown | None


class FeedShown(BaseModel):
    """One series that is expected to be heard of regularly."""

    series_id: int
    sector: str
    indicator: str
    good: str | None
    place: str | None
    freshness: str = Field(description="ok, stale or silent, by when something was last received.")
    last_observed_at: datetime
    last_received_at: datetime
    last_value: float | None
    every_days: float = Field(description="The usual gap between observations, in days.")
    partners: str = Field(description="Who reported the newest observation.")


class PartnerShown(BaseModel):
    """When a partner that may report was last seen."""

    name: str
    party: str | None
    last_seen_at: datetime | None


class HourShown(BaseModel):
    """One clock hour: deliveries that were delivered in it, and tries that failed."""

    begins_at: datetime
    delivered: int
    failed: int


class PercentilesShown(BaseModel):
    """Seconds within which half, 95 and 99 in a hundred came, of the `count` that were looked at.

    Of more than 30,000 a day that is a random sample of about so many.
    """

    count: int
    p50: float
    p95: float
    p99: float


class SpeedShown(BaseModel):
    """How soon changes of alerts came, from the acceptance of their signal; first attempts only."""

    first_byte: PercentilesShown | None = Field(description="Until the first byte was sent.")
    success: PercentilesShown | None = Field(description="Until a 2xx was whole.")


class DeliveryObjective(BaseModel):
    """How soon subscribers hear, and what waits."""

    counted_at: datetime = Field(
        description="When the count of deliveries and tries began, of `endpoints` too: at `now`, or where "
        "they are many some seconds before."
    )
    last_hour: SpeedShown
    last_day: SpeedShown
    owed: int = Field(description="Deliveries owed, suspended endpoints included.")
    oldest_owed_at: datetime | None = Field(
        description="Since when the oldest delivery is owed to an active endpoint."
    )
    standings: dict[str, int] = Field(
        description="How many endpoints are suspended, failing, pending and active."
    )


class EndpointShown(BaseModel):
    """How deliveries to one subscription go."""

    subscription: str
    partner: str
    url: str
    status: str
    standing: str = Field(
        description="`suspended`, `failing` (active, and does not answer well), `pending` or `active`."
    )
    troubled: bool = Field(description="Whether an operator should look at it.")
    failing_since: datetime | None
    failures: int = Field(description="Attempts that failed in a row.")
    suspended_at: datetime | None
    open_until: datetime | None = Field(
        description="Until when it is left in peace because it fails."
    )
    pause_until: datetime | None = Field(
        description="Until when it is left in peace because it asked for it (`Retry-After`)."
    )
    next_try_at: datetime | None = Field(
        description="When it may next be sent something; null when nothing waits, or nothing may be sent."
    )
    speed: SpeedShown = Field(description="Of the last 24 hours.")
    reason: str = Field(description="Why it is suspended; else empty.")
    owed: int
    oldest_owed_at: datetime | None
    delivered: int = Field(description="Deliveries delivered within the hours shown.")
    failed: int = Field(description="Tries within the hours shown that failed.")
    given_up: int = Field(description="Deliveries given up within them.")
    hours: list[HourShown] = Field(description="The last 24 clock hours, oldest first.")
    last_error: str
    last_error_at: datetime | None


class BoardShown(BaseModel):
    """Everything on the front page at one instant, but for what was counted a moment before."""

    now: datetime
    feeds_counted_at: datetime = Field(
        description="When the count of feeds began: at `now`, or where they are many some seconds before."
    )
    open_alerts: int = Field(description="How many are open, drills not counted.")
    sectors: list[SectorShown] = Field(description="The worst first.")
    alerts: list[OpenAlertShown] = Field(description="The worst first, drills last; at most 100.")
    changes: list[ChangeShown] = Field(description="The newest recorded first; at most 14.")
    feed_counts: FeedCountsShown
    feeds: list[FeedShown] = Field(description="The latest against their pace first; at most 25.")
    partners: list[PartnerShown] = Field(description="The longest unseen first.")
    delivery: DeliveryObjective
    endpoints: list[EndpointShown] = Field(description="Those in trouble first.")


@router.get("/v1/dashboard", summary="The operators' board", response_model=BoardShown)
async def show_board(_: Operator, here: Here) -> BoardShown:
    """What is wrong, where, since when and how bad; what changed; feeds and deliveries."""
    now = datetime.now(UTC)
    feeds, counts = await asyncio.gather(here.feeds.look(now), here.deliveries.look(now))
    async with here.database.begin() as connection:
        board = await store.board.read(connection, here.catalogue, now, feeds=feeds, counts=counts)
    return _shown(board)


def _shown(board: Board) -> BoardShown:
    return BoardShown(
        now=board.now,
        feeds_counted_at=board.feeds_counted_at,
        open_alerts=board.open_alerts,
        sectors=[_sector(row) for row in board.sectors],
        alerts=[_alert(row) for row in board.alerts],
        changes=[_change(change) for change in board.changes],
        feed_counts=_counts(board.feed_counts),
        feeds=[_feed(feed) for feed in board.feeds],
        partners=[
            PartnerShown(name=p.name, party=p.party or None, last_seen_at=p.last_seen_at)
            for p in board.partners
        ],
        delivery=_objective(board.delivery),
        endpoints=[_endpoint(endpoint) for endpoint in board.delivery.endpoints],
    )


def _sector(row: SectorRow) -> SectorShown:
    return SectorShown(
        sector=row.code,
        title=row.title,
        level=row.level.name,
        severity=row.severity.name,
        open_alerts=row.open_alerts,
        trend=row.trend.value,
        changes=[_change(change) for change in row.changes],
        feeds=_counts(row.feeds),
    )


def _alert(row: AlertRow) -> OpenAlertShown:
    return OpenAlertShown(
        ref=row.ref,
        mechanism=row.mechanism,
        sector=row.sector,
        good=row.good or None,
        place=row.place or None,
        exercise=row.exercise or None,
        level=row.level.name,
        severity=row.severity.name,
        title=row.title,
        why=row.why,
        validated=row.validated,
        opened_at=row.opened_at,
        updated_at=row.updated_at,
        recommendation=_advice(row.recommendation),
    )


def _advice(advice: Advice | None) -> AdviceShown | None:
    if advice is None:
        return None
    return AdviceShown(level=advice.level.name, reasons=list(advice.reasons))


def _change(change: Change) -> ChangeShown:
    return ChangeShown(
        ref=change.ref,
        title=change.title,
        sector=change.sector,
        exercise=change.exercise or None,
        type=change.type,
        level_from=change.level_from.name,
        level_to=change.level_to.name,
        severity_from=change.severity_from.name,
        severity_to=change.severity_to.name,
        at=change.at,
        recorded_at=change.recorded_at,
        reason=change.reason,
    )


def _counts(counts: FeedCounts) -> FeedCountsShown:
    return FeedCountsShown(
        series=counts.series,
        stale=counts.stale,
        silent=counts.silent,
        newest_observed_at=counts.newest_observed_at,
    )


def _feed(feed: Feed) -> FeedShown:
    return FeedShown(
        series_id=feed.series,
        sector=feed.key.sector,
        indicator=feed.key.indicator,
        good=feed.key.good or None,
        place=feed.key.place or None,
        freshness=feed.freshness.value,
        last_observed_at=feed.last_observed_at,
        last_received_at=feed.last_received_at,
        last_value=feed.last_value,
        every_days=feed.every_days,
        partners=feed.partners,
    )


def _objective(survey: Survey) -> DeliveryObjective:
    return DeliveryObjective(
        counted_at=survey.counted_at,
        last_hour=_speed(survey.last_hour),
        last_day=_speed(survey.last_day),
        owed=survey.owed,
        oldest_owed_at=survey.oldest_owed_at,
        standings=dict(survey.standings),
    )


def _speed(speed: Speed) -> SpeedShown:
    return SpeedShown(
        first_byte=_percentiles(speed.first_byte), success=_percentiles(speed.success)
    )


def _percentiles(found: Percentiles | None) -> PercentilesShown | None:
    if found is None:
        return None
    return PercentilesShown(count=found.count, p50=found.p50, p95=found.p95, p99=found.p99)


def _endpoint(endpoint: EndpointHealth) -> EndpointShown:
    return EndpointShown(
        subscription=endpoint.subscription,
        partner=endpoint.partner,
        url=endpoint.url,
        status=endpoint.status,
        standing=endpoint.standing,
        troubled=endpoint.is_troubled,
        failing_since=endpoint.health.failing_since,
        failures=endpoint.health.failures,
        suspended_at=endpoint.suspended_at,
        open_until=endpoint.health.open_until,
        pause_until=endpoint.health.pause_until,
        next_try_at=endpoint.ready_at,
        speed=_speed(endpoint.speed),
        reason=endpoint.reason,
        owed=endpoint.owed,
        oldest_owed_at=endpoint.oldest_owed_at,
        delivered=endpoint.delivered,
        failed=endpoint.failed,
        given_up=endpoint.given_up,
        hours=[
            HourShown(begins_at=h.begins_at, delivered=h.delivered, failed=h.failed)
            for h in endpoint.hours
        ],
        last_error=endpoint.last_error,
        last_error_at=endpoint.last_error_at,
    )
