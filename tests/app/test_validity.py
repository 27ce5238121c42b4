"""History can be replayed after a mechanism's own validity has ended."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from app import documents
from app.demo import validity


def test_while_all_are_in_force_nothing_is_written(tmp_path: Path) -> None:
    assert validity.prolong(tmp_path, date(2026, 11, 22)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_mechanism_that_is_over_gets_a_next_version_that_differs_in_nothing_else(
    tmp_path: Path,
) -> None:
    today = date(2027, 4, 6)
    shipped = {p.id: p for p in map(documents.load_profile, documents.shipped_profiles())}
    assert [p.id for p in validity.expired(today - timedelta(days=1))] == []
    assert [p.id for p in validity.expired(today)] == ["ttc-semiconductors"]
    folder = validity.prolong(tmp_path, today)
    assert folder is not None
    (path,) = folder.iterdir()
    prolonged = documents.load_profile(path)
    before = shipped[prolonged.id]
    assert prolonged.version == before.version + 1
    assert prolonged.in_force(today)
    assert prolonged.rules == before.rules
    assert prolonged.levels == before.levels
