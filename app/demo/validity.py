"""Lets history be replayed under a mechanism whose own validity has ended since.

An expired mechanism issues nothing, and so it should. The demo, and the tests that run the real
service by the real clock, then add a version of its profile that is still valid.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from alerts.mechanisms import Profile
from app import documents

_LAST_DAY = date(2099, 12, 31)


def expired(today: date) -> list[Profile]:
    """The shipped mechanisms that are over on that day."""
    read = (documents.load_profile(path) for path in documents.shipped_profiles())
    return [profile for profile in read if today > profile.valid_until]


def prolong(folder: Path, today: date) -> Path | None:
    """Writes a next version, still valid, of every mechanism that is over; their folder.

    None, and nothing is written, when none is over.
    """
    over = {profile.id: profile for profile in expired(today)}
    if not over:
        return None
    profiles = folder / "profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    for path in documents.shipped_profiles():
        text = path.read_text(encoding="utf-8")
        profile = documents.load_profile(text)
        if profile.id in over:
            text = re.sub(r"(?m)^version: .*$", f"version: {profile.version + 1}", text)
            text = re.sub(r"(?m)^valid_until: .*$", f"valid_until: {_LAST_DAY}", text)
            (profiles / path.name).write_text(text, encoding="utf-8")
    return profiles
