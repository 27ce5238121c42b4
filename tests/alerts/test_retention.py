"""How long signals are kept: the policy's words, and months counted over years' ends."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from alerts.retention import LABELS, Keep, Retention, month_after, month_of

JANUARY = datetime(2024, 1, 1, tzinfo=UTC)


def policy(text: str) -> Retention:
    return Retention(tuple(Keep.read(line) for line in text.split(",")))


@pytest.mark.parametrize(
    ("text", "sector", "label", "months", "because"),
    [
        ("semiconductors/RED=24,*=120", "semiconductors", "RED", 24, "the first line that fits"),
        ("semiconductors/RED=24,*=120", "semiconductors", "AMBER", 120, "another label"),
        ("semiconductors/RED=24,*=120", "shipping", "RED", 120, "another sector"),
        ("semiconductors/RED=24,*=120", "shipping", "", 120, "no label: lines without one alone"),
        ("*/RED=24", "shipping", "", None, "what no line fits is kept for ever"),
        ("energy=forever,*=12", "energy", "RED", None, "for ever is a word of the policy"),
        ("*=12,energy=forever", "energy", "RED", 12, "a line that comes later says nothing"),
        ("*/TLP:AMBER+STRICT=6", "energy", "AMBER+STRICT", 6, "with or without the prefix"),
    ],
)
def test_the_first_line_that_fits_says_how_long(
    text: str, sector: str, label: str, months: int | None, because: str
) -> None:
    assert policy(text).months(sector, label) == months, because
    assert str(policy(text)) == text.replace("TLP:", "")


@pytest.mark.parametrize(
    "text",
    ["", "energy", "energy=0", "energy=1201", "*/PINK=3", "Energy=3", "energy=3.5", "/RED=3"],
)
def test_a_line_that_cannot_be_read_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"forever"):
        Keep.read(text)


def test_a_month_is_kept_for_so_many_whole_months_after_its_end() -> None:
    retention = policy("*=24")
    assert retention.goes_on(JANUARY, "energy", "") == datetime(2026, 2, 1, tzinfo=UTC)
    last = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    assert retention.expired(JANUARY, ["energy"], last) == []
    assert retention.kept_from(last, "energy", "") == JANUARY
    first = datetime(2026, 2, 1, tzinfo=UTC)
    assert retention.expired(JANUARY, ["energy"], first) == [("energy", lb) for lb in LABELS]
    assert retention.kept_from(first, "energy", "") == month_after(JANUARY, 1)


def test_all_is_kept_from_the_shortest_line_on_and_always_without_a_policy() -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    assert policy("*/RED=24,*=120").all_kept_from(now) == datetime(2024, 11, 1, tzinfo=UTC)
    assert policy("energy=forever").all_kept_from(now) is None
    assert Retention().all_kept_from(now) is None
    assert Retention().kept_from(now, "energy", "RED") is None


def test_months_are_counted_over_years_and_not_before_the_first() -> None:
    assert month_after(JANUARY, -1) == datetime(2023, 12, 1, tzinfo=UTC)
    assert month_after(JANUARY, 12) == datetime(2025, 1, 1, tzinfo=UTC)
    assert month_after(JANUARY, -100_000) == datetime(1, 1, 1, tzinfo=UTC)
    assert month_of(datetime(2024, 1, 31, 23, tzinfo=UTC)) == JANUARY


def test_a_sector_that_nobody_knows_is_named() -> None:
    assert policy("semis/RED=24,energy=3,*=120").unknown({"energy"}) == ["semis"]
