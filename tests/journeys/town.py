"""A town to tell journeys in: a running service, its partners, and what a receiver process has heard."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.demo import processes
from app.demo.client import Client
from app.demo.history import PARTNERS
from app.demo.processes import Heard

AURORA, DORADO = PARTNERS
BALTICA = "baltica watch"
CYGNUS = "cygnus press"

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**processes.outside(), "PYTHONPATH": str(ROOT)}
"""For commands run from another folder: no settings of whoever runs the tests, and this project."""


@dataclass(slots=True)
class Town:
    """A running service at ``url``, one client a key, and what baltica's receiver has heard."""

    url: str
    folder: Path
    clients: Mapping[str, Client]
    receiver: Heard
    subscription: str
    heard: list[dict[str, Any]] = field(default_factory=list)

    def post(self, partner: str, *bodies: Mapping[str, Any]) -> dict[str, Any]:
        """Posts as that partner; nothing may be refused."""
        receipt = self.clients[partner].post_signals(bodies)
        assert receipt["rejected"] == 0, receipt
        return receipt

    def alert_of(self, good: str) -> dict[str, Any] | None:
        """The newest alert of a good as the API shows it, or none."""
        found = [a for a in self.clients[BALTICA].alerts() if a["good"] == good]
        newest = max(found, key=lambda a: str(a["ref"]), default=None)
        return None if newest is None else self.clients[BALTICA].alert(str(newest["ref"]))

    def listen(self) -> list[dict[str, Any]]:
        """All that baltica's receiver has verified so far, oldest first."""
        while True:
            try:
                told = self.receiver.lines.get_nowait()
            except queue.Empty:
                return self.heard
            assert told.get("verified"), f"not verified: {told}"
            if str(told["type"]).startswith("alert."):
                self.heard.append(told)

    def hear(self, ref: str, kind: str, within_seconds: float = 60) -> dict[str, Any]:
        """The newest webhook of that type about that alert; waits for one."""
        until = time.monotonic() + within_seconds
        while time.monotonic() < until:
            about = [t for t in self.listen() if (t["ref"], t["type"]) == (ref, kind)]
            if about:
                return about[-1]
            time.sleep(0.05)
        raise AssertionError(f"no {kind} about {ref} within {within_seconds} s: {self.heard}")

    def hear_all(self, ref: str, many: int, within_seconds: float = 60) -> list[dict[str, Any]]:
        """All webhooks about that alert, oldest first; waits until there are that many."""
        until = time.monotonic() + within_seconds
        while True:
            about = [told for told in self.listen() if told["ref"] == ref]
            if len(about) >= many:
                return about
            assert time.monotonic() < until, f"{len(about)} of {many} webhooks about {ref}"
            time.sleep(0.05)
