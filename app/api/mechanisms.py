"""The mechanisms in use: every profile whole, with where each of its numbers comes from."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from alerts import catalogue
from alerts.mechanisms import Profile
from app import documents
from app.access import needs
from app.api.catalogue import Listed
from app.api.problems import Problem
from app.house import House, house

router = APIRouter(tags=["mechanisms"], dependencies=[Depends(needs("alerts:read"))])

Here = Annotated[House, Depends(house)]


class PartyOut(BaseModel):
    code: str
    title: str


class MechanismOut(BaseModel):
    """A mechanism in short."""

    id: str
    version: int
    title: str
    summary: str
    reference_prefix: str = Field(description="Begins the references of its alerts.")
    parties: list[PartyOut]
    sectors: list[str]
    valid_from: date
    valid_until: date = Field(description="The last day on which it may issue alerts.")
    in_force: bool
    in_force_note: str | None = Field(
        description="Why it issues nothing today; null while it is in force."
    )


class MechanismDetail(MechanismOut):
    """A profile whole. Inner shapes are those of the profile format; `source` names keys of
    `sources`, or `our_design` for what no public text gives.
    """

    validity_source: list[str]
    default_tlp: str
    alert_per: list[str] = Field(description="What tells two alerts of one sector apart.")
    levels: list[dict[str, Any]]
    closing: dict[str, Any]
    rules: list[dict[str, Any]]
    recommendations: list[dict[str, Any]]
    key_goods: list[dict[str, Any]]
    listing: dict[str, Any] | None
    clocks: list[dict[str, Any]]
    consultation: dict[str, Any] | None
    bodies: list[dict[str, Any]]
    gates: list[dict[str, Any]]
    records: list[dict[str, Any]]
    sources: dict[str, Any]


@router.get("/v1/mechanisms", summary="Mechanisms")
async def list_mechanisms(here: Here) -> Listed[MechanismOut]:
    """The mechanisms this service works under, each in its newest version."""
    today = datetime.now(UTC).date()
    profiles = (here.profiles[name] for name in sorted(here.profiles))
    return Listed(items=[MechanismOut.model_validate(_shown(p, today)) for p in profiles])


@router.get("/v1/mechanisms/{mechanism}", summary="One mechanism, its profile whole")
async def show_mechanism(mechanism: str, here: Here) -> MechanismDetail:
    """Parties, levels, clocks, rules and recommendations, every number with its source."""
    profile = here.profiles.get(mechanism)
    if profile is None:
        known = ", ".join(catalogue.nearest(mechanism, here.profiles)) or "none is loaded"
        raise Problem("not-found", f"There is no mechanism {mechanism!r}; there are: {known}.")
    return MechanismDetail.model_validate(_shown(profile, datetime.now(UTC).date()))


def _shown(profile: Profile, today: date) -> dict[str, object]:
    fields = documents.plain(profile)
    assert isinstance(fields, dict)
    return {
        **fields,
        "in_force": profile.in_force(today),
        "in_force_note": _not_in_force(profile, today),
    }


def _not_in_force(profile: Profile, today: date) -> str | None:
    """The sentence that says why a mechanism issues nothing today; None when it may."""
    if today < profile.valid_from:
        return (
            f"{profile.title} begins on {profile.valid_from}. Signals are accepted and judged, "
            "but no alert is issued before."
        )
    if today > profile.valid_until:
        return (
            f"{profile.title} ended on {profile.valid_until}. Signals are still accepted, but no "
            "alert is issued until a profile with a later last day is loaded."
        )
    return None
