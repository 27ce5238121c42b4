"""The same signals end in the same state, in whatever order they arrive (MECHANISMS 7.11, 8).

Compared are findings (state, severity, onset, value, compared, baseline) and open alerts (level,
severity, beginning, what they recommend), after one last sweep at the same instant.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.signals import Origin
from tests.alerts.cast import (
    CONTROL,
    DORADO,
    LEAD_TIME,
    MODERATE,
    PRICE,
    Entry,
    daily,
    days,
    event,
    report,
    value,
    values,
)
from tests.alerts.histories import (
    LATE,
    arrivals,
    histories,
    in_order,
    judged,
    law,
    revised,
    shuffled,
    standing,
)

SWEPT = LATE + days(1)


@law(40)
@given(st.data(), histories())
def test_signals_in_any_order_and_any_transactions_end_in_the_same_state(
    data: st.DataObject, history: list[Entry]
) -> None:
    """(8)."""
    ordered = judged([[entry] for entry in history])
    anyhow = judged(data.draw(arrivals(history)))
    for here in (ordered, anyhow):
        here.sweep(SWEPT)
    assert standing(anyhow) == standing(ordered)


@law(40)
@given(st.data(), histories(most=20))
def test_of_every_observation_the_last_revision_counts_whatever_the_order_of_the_others(
    data: st.DataObject, history: list[Entry]
) -> None:
    """(8)."""
    said, stands = data.draw(revised(history))
    ordered = judged([[entry] for entry in in_order(stands)])
    anyhow = judged(data.draw(shuffled(said)))
    for here in (ordered, anyhow):
        here.sweep(SWEPT)
    assert standing(anyhow) == standing(ordered)


@law(30)
@given(histories())
def test_judging_step_by_step_is_judging_from_the_beginning(history: list[Entry]) -> None:
    """Forward equals hindsight: what was judged in order is not moved by judging it again."""
    here = judged([[entry] for entry in history])
    before, published = standing(here), list(here.published)
    here.judge_again()
    assert standing(here) == before
    assert here.published == published


@law(30)
@given(st.data(), histories(most=20))
def test_judging_again_what_came_anyhow_moves_nothing(
    data: st.DataObject, history: list[Entry]
) -> None:
    said, _ = data.draw(revised(history))
    here = judged(data.draw(shuffled(said)))
    before, published = standing(here), list(here.published)
    here.judge_again()
    assert standing(here) == before
    assert here.published == published


LEAD_OPENS = value(LEAD_TIME, "2022-01-03", 14)
LEAD_ENDS = values(LEAD_TIME, [*daily("2022-01-12", 12, 12), *daily("2022-01-21", 12)])
PRICES = values(PRICE, [*daily("2022-01-01", 10, 10), *daily("2022-01-04", *[12] * 7)])


@pytest.mark.parametrize(
    ("before", "late"),
    [
        # 13 is 30 % above the baseline that the alert froze, and 8 % above the one of that day.
        ([LEAD_OPENS, *PRICES, *LEAD_ENDS], value(PRICE, "2022-01-11", 13)),
        # Another party's word tells the event anew, before its alert was over.
        (
            [
                event(CONTROL, report("2022-01-02")),
                LEAD_OPENS,
                *LEAD_ENDS,
            ],
            event(CONTROL, report("2022-01-15", MODERATE, DORADO, Origin.press)),
        ),
    ],
    ids=["a frozen baseline", "a second voice"],
)
def test_what_belongs_before_the_end_of_an_alert_may_come_after_the_alert_ended(
    before: list[Entry], late: Entry
) -> None:
    """(8): each is the newest of its own series, and calm without the alert that was open then."""
    ordered = judged([[entry] for entry in in_order([*before, late])])
    anyhow = judged([[entry] for entry in [*in_order(before), late]])
    assert [p.alert.state for p in judged([[e] for e in in_order(before)]).published][
        -1
    ] == "resolved"
    assert standing(anyhow) == standing(ordered)
    assert len(ordered.alerts) == 1
