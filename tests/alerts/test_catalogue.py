"""What may be reported, and how a signal that does not fit is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import catalogue
from alerts.catalogue import Catalogue, Event, Good, Harm, Indicator, Place, Sector
from alerts.signals import Severity

LEAD_TIME = Indicator("lead_time", "Lead time", "weeks", Harm.up, 30, minimum=0, maximum=520)
TRANSITS = Indicator(
    "chokepoint_transits", "Transits", "transits/day", Harm.down, 1, ("shipping",), minimum=0
)
KNOWN = Catalogue(
    sectors={"chips": Sector("chips", "Chips"), "shipping": Sector("shipping", "Shipping")},
    goods={"neon": Good("neon", "Neon", ("chips",)), "mcu": Good("mcu", "MCU", ("chips",))},
    indicators={i.code: i for i in (LEAD_TIME, TRANSITS)},
    events={
        "strike": Event("strike", "Strike", Severity.moderate),
        "site_outage": Event("site_outage", "Outage", Severity.severe, ("chips",)),
    },
    places={"suez": Place("suez", "Suez Canal")},
    countries={"TW": "Taiwan", "NL": "the Netherlands", "US": "the United States"},
)


@pytest.mark.parametrize(
    ("said", "pointer", "words", "nearest"),
    [
        ({"sector": "chps", "indicator": "lead_time"}, "/sector", "Did you mean chips?", "chips"),
        ({"indicator": "led_time"}, "/indicator", "Did you mean lead_time?", "lead_time"),
        ({"indicator": "strike"}, "/indicator", "is an event", None),
        ({"indicator": "chokepoint_transits"}, "/indicator", "of shipping", "lead_time"),
        ({"event": "strik"}, "/event", "Did you mean strike?", "strike"),
        ({"event": "lead_time"}, "/event", "is an indicator", None),
        ({"sector": "shipping", "event": "site_outage"}, "/event", "but of chips", "strike"),
        ({"indicator": "lead_time", "good": "noen"}, "/good", "Did you mean neon?", "neon"),
        ({"sector": "shipping", "event": "strike", "good": "neon"}, "/good", "of chips", None),
        ({"indicator": "lead_time", "place": "tw"}, "/place", "ISO 3166-1", "TW"),
        ({"indicator": "lead_time", "place": "suex"}, "/place", "named place", "suez"),
        ({"indicator": "lead_time", "unit": "days"}, "/unit", "measured in weeks", "weeks"),
        ({"indicator": "lead_time", "value": -1.0}, "/value", "between 0 and 520", None),
        ({"indicator": "lead_time", "value": math.nan}, "/value", "finite", None),
        ({}, "", "either an indicator or an event", None),
        ({"indicator": "lead_time", "event": "strike"}, "", "not both", None),
    ],
)
def test_a_signal_that_does_not_fit_names_its_field_and_what_would_do(
    said: Mapping[str, str], pointer: str, words: str, nearest: str | None
) -> None:
    (fault,) = catalogue.faults(KNOWN, **{"sector": "chips", **said})  # type: ignore[arg-type]
    assert fault.pointer == pointer
    assert words in fault.detail
    assert fault.detail.endswith((".", "?"))
    assert (fault.allowed[0] if fault.allowed else None) == nearest


@pytest.mark.parametrize(
    "said",
    [
        {"indicator": "lead_time", "good": "mcu", "place": "TW", "unit": "weeks", "value": 16.0},
        {"indicator": "lead_time"},
        {"event": "strike", "place": "NLRTM"},
        {"sector": "shipping", "indicator": "chokepoint_transits", "place": "suez"},
    ],
)
def test_a_signal_that_fits_has_no_fault(said: Mapping[str, object]) -> None:
    assert catalogue.faults(KNOWN, **{"sector": "chips", **said}) == ()  # type: ignore[arg-type]


def test_every_fault_of_a_signal_is_told_at_once() -> None:
    found = catalogue.faults(
        KNOWN, "chips", indicator="lead_time", good="x", place="Mars", unit="days", value=1e9
    )
    assert [fault.pointer for fault in found] == ["/unit", "/value", "/good", "/place"]


@pytest.mark.parametrize(
    ("place", "valid"),
    [
        ("TW", True),  # ISO 3166-1
        ("EU", True),  # exceptionally reserved
        ("NLRTM", True),  # UN/LOCODE
        ("US2AB", True),  # UN/LOCODE writes digits 2 to 9
        ("US0AB", False),  # and neither 0 nor 1
        ("US-TX", True),  # ISO 3166-2
        ("US-48", True),
        ("suez", True),
        ("XX", False),  # no country
        ("XXRTM", False),  # of no country
        ("XX-TX", False),
        ("EU-TX", False),  # the Union has no subdivisions
        ("nlrtm", False),  # codes are upper case
        ("TW ", False),
        ("TW\n", False),
        ("US-TEXAS", False),
    ],
)
def test_a_place_is_a_country_or_shaped_like_a_code_of_one_or_named(
    place: str, valid: bool
) -> None:
    assert KNOWN.is_place(place) is valid


@pytest.mark.parametrize(
    ("unit", "value", "pointer"),
    [
        ("weeks", 16.0, None),
        ("weeks", 0.0, None),  # equal to the minimum is possible
        ("weeks", 520.0, None),  # and so is the maximum
        ("weeks", -0.1, "/value"),
        ("weeks", 520.1, "/value"),
        ("days", 16.0, "/unit"),
        ("Weeks", 16.0, "/unit"),  # units are written one way
        ("weeks", math.inf, "/value"),
        ("weeks", -math.inf, "/value"),
        ("weeks", math.nan, "/value"),
    ],
)
def test_an_impossible_value_is_refused(unit: str, value: float, pointer: str | None) -> None:
    fault = catalogue.value_fault(LEAD_TIME, unit, value)
    assert (fault.pointer if fault else None) == pointer


def test_a_value_bounded_on_one_side_says_which() -> None:
    fault = catalogue.value_fault(TRANSITS, "transits/day", -1)
    assert fault is not None
    assert "never below 0" in fault.detail


def test_at_most_thirty_allowed_codes_are_listed_the_nearest_first() -> None:
    known = [f"code_{number}" for number in range(100)]
    near = catalogue.nearest("code_42", known)
    assert len(near) == catalogue.LISTED == 30
    assert near[0] == "code_42"


@given(st.text(), st.text(), st.text(), st.text())
def test_any_text_is_refused_in_sentences_of_bounded_length(
    sector: str, indicator: str, good: str, place: str
) -> None:
    found = catalogue.faults(
        KNOWN, sector * 50, indicator=indicator * 50, good=good * 50, place=place * 50
    )
    assert all(len(fault.detail) < 1000 for fault in found)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Catalogue(goods={"neon": Good("neon", "Neon", ("chip",))}), "no sector 'chip'"),
        (
            Catalogue(
                indicators={"strike": LEAD_TIME},
                events={"strike": Event("strike", "Strike", Severity.minor)},
            ),
            "both an indicator and an event",
        ),
        (
            Catalogue(
                indicators={"x": Indicator("x", "X", "kg", Harm.up, 1, minimum=5, maximum=5)}
            ),
            "not below its maximum",
        ),
    ],
)
def test_a_catalogue_that_contradicts_itself_says_so(wrong: Catalogue, words: str) -> None:
    (fault,) = catalogue.catalogue_faults(wrong)
    assert words in fault.detail
