"""Timetables: what comes when, and what must follow of it. They are how rules are tested.

written     what may stand in a file
instants    31d, +1w, 2021-03-31
planning    a file -> scenarios ready to be played, or its faults with their lines
playing     scenarios -> what happened otherwise than expected
telling     text, JUnit XML, data
"""

from __future__ import annotations

from pathlib import Path

from app import documents
from app.timetable.planning import Timetable, read
from app.timetable.playing import Failure, Played, failed, play
from app.timetable.telling import data, junit, text

__all__ = [
    "SCENARIOS_DIR",
    "Failure",
    "Played",
    "Timetable",
    "data",
    "failed",
    "junit",
    "play",
    "read",
    "shipped",
    "text",
]

SCENARIOS_DIR = documents.PROFILES_DIR / "scenarios"


def shipped() -> list[Path]:
    """The scenarios that come with the profiles, by name."""
    return sorted(SCENARIOS_DIR.glob("*.yaml"))
