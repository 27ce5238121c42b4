"""Findings: what each rule says of each series, wherever there is anything to remember."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from alerts import explanation
from alerts.explanation import instant
from alerts.findings import State
from alerts.lifecycle import Evidence
from alerts.signals import Severity
from app import inquire, store
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, page, place_of
from app.api.problems import Problem
from app.api.shelves import Code
from app.api.shelves import shown as shelf_shown
from app.house import House, house
from app.store.finding_log import Shown

router = APIRouter(tags=["findings"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Here = Annotated[House, Depends(house)]


class FindingWhole(BaseModel):
    """One finding as explanations have it, with the alert it feeds and what it is shelved by.

    The inner fields are those of `GET /v1/alerts/{ref}/explanation`. A finding whose rule is in
    use no more has only the fields listed here.
    """

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True}, extra="allow")

    mechanism: str
    rule: str
    rule_version: int
    series_id: int
    state: str
    severity: str
    value: float | None
    observed_at: str | None
    since: str | None
    shadow: bool
    alert: str | None
    shelf: dict[str, Any] | None
    sentence: str


class FindingList(BaseModel):
    """A page of findings by series, mechanism and rule."""

    items: list[FindingWhole]
    next: str | None


@router.get("/v1/findings", summary="List findings", response_model=FindingList)
async def list_findings(
    request: Request,
    response: Response,
    _: Reader,
    here: Here,
    mechanism: Code = None,
    rule: Code = None,
    series_id: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    state: State | None = None,
    severity: Annotated[
        str | None, Query(description="none, minor, moderate, severe, extreme.")
    ] = None,
    firing: Annotated[
        bool | None, Query(description="Only those that hold a severity, or hold none.")
    ] = None,
    shadow: Annotated[
        bool | None, Query(description="Only those of shadow rules, or of all others.")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """What is remembered, narrowed by any of the parameters. What is calm is not remembered.

    `GET /v1/series/{id}/why` says what every rule makes of one series, calm or not.
    """
    behind = place_of(after, int, str, str) or (0, "", "")
    wanted = {
        "mechanism": mechanism,
        "rule": rule,
        "series_id": series_id,
        "state": state and state.value,
        "severity": None if severity is None else int(_severity(severity)),
    }
    shadows = {(p.id, r.id) for p in here.profiles.values() for r in p.rules if r.shadow}
    now = datetime.now(UTC)
    policy = here.policy.as_it_stands()
    async with here.database.begin() as connection:
        found = await store.finding_log.listing(
            connection,
            behind=behind,
            limit=limit + 1,
            equal_to={name: value for name, value in wanted.items() if value is not None},
            fires=firing,
            among=shadows if shadow else None,
            beside=shadows if shadow is False else (),
        )
        shown = found[:limit]
        evidence = await inquire.evidence_of(connection, policy, shown, now)
    items = []
    for one, with_rule in zip(shown, evidence, strict=True):
        series, of, rule_id = one.kept.key
        shelf = policy.shelf(series, of, rule_id, now)
        told = _bare(one) if with_rule is None else _described(here, one, with_rule, now)
        items.append({**told, "shelf": shelf and shelf_shown(shelf, now)})
    following = cursor(*found[limit - 1].kept.key) if len(found) > limit else None
    return page(request, response, items, following)


def _severity(word: str) -> Severity:
    try:
        return Severity[word]
    except KeyError:
        errors = [
            {
                "parameter": "severity",
                "detail": "There is no such severity",
                "allowed": [s.name for s in Severity],
            }
        ]
        raise Problem("invalid", "severity: there is no such severity.", errors=errors) from None


def _described(here: House, one: Shown, evidence: Evidence, now: datetime) -> dict[str, object]:
    mechanism = one.kept.key[1]
    profile = here.profiles[mechanism]
    told = explanation.describe(evidence, here.catalogue, in_force=profile.in_force(now.date()))
    return {
        **told,
        "mechanism": mechanism,
        "since": instant(evidence.finding.since),
        "shadow": evidence.rule.shadow,
        "alert": one.alert_ref,
    }


def _bare(one: Shown) -> dict[str, object]:
    series, mechanism, rule = one.kept.key
    finding = one.kept.finding
    return {
        "mechanism": mechanism,
        "rule": rule,
        "rule_version": one.kept.rule_version,
        "series_id": series,
        "state": finding.state.value,
        "severity": finding.severity.name,
        "value": finding.value,
        "observed_at": instant(finding.observed_at),
        "since": instant(finding.since),
        "shadow": False,
        "alert": one.alert_ref,
        "sentence": "The rule is in use no more; this is what it said last.",
    }
