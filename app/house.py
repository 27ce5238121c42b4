"""What the doors of one process share; made by ``main``, closed by ``main``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fastapi import Request

from alerts.catalogue import Catalogue
from alerts.mechanisms import Profile
from app.backtest.stored import Desk
from app.database import Database
from app.ingest import Intake
from app.policy import Policy
from app.rulebook import Rulebook
from app.seals import Seals
from app.settings import Settings

Role = Literal["all", "api", "worker"]


@dataclass(slots=True)
class House:
    """One process of the service."""

    settings: Settings
    role: Role
    database: Database
    policy: Policy
    rulebook: Rulebook
    seals: Seals
    intake: Intake
    draining: bool = False
    backtests: Desk = field(default_factory=Desk)

    @property
    def catalogue(self) -> Catalogue:
        """What may be reported."""
        return self.policy.catalogue

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The versions of mechanisms in use, by mechanism."""
        return self.policy.profiles


def house(request: Request) -> House:
    """The house a request came into; a dependency: ``Annotated[House, Depends(house)]``."""
    found: House = request.app.state.house
    return found
