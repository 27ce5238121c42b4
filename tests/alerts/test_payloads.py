"""The bytes of a webhook's ``data`` for a small fixed scenario, exactly as promised.

Field names are a promise; sentences may improve. After a wanted change
``python -m tests.alerts.test_payloads`` writes the files of ``tests/golden/alerts`` anew; read the
difference line by line before you keep it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alerts import payloads
from alerts.mechanisms import (
    EventOnConcentratedGood,
    FamiliesTogether,
    KeyGood,
    Level,
)
from alerts.rules import Family
from alerts.tracks import Published
from tests.alerts.cast import (
    CONTROL,
    CONTROL_RULE,
    MODERATE,
    PRICE,
    PRICE_RULE,
    SEVERE,
    Desk,
    at,
    daily,
    event,
    mechanism,
    report,
    samples,
    values,
)

FOLDER = Path(__file__).parent.parent / "golden" / "alerts"
KINDS = ("opened", "updated", "escalated", "eased", "resolved")
OURS = ("our_design",)
REF = "AB-2026-0001"
"""As the promised bytes bear it; a desk counts within the year of its clock."""


def neon_price_triples() -> list[Published]:
    """Aurora reports a price that jumps, an export control, and the price coming back."""
    here = Desk(
        [
            mechanism(
                PRICE_RULE,
                CONTROL_RULE,
                recommendations=(
                    FamiliesTogether(
                        "families_together", Level.disruption, MODERATE, 2, tuple(Family), OURS
                    ),
                    EventOnConcentratedGood(
                        "event_on_concentrated_good", Level.disruption, SEVERE, 0.4, 0.65, OURS
                    ),
                ),
                key_goods=(KeyGood("neon", OURS, top_share=0.7),),
            )
        ],
        now=at("2022-05-01"),
    )
    here.post(
        *values(PRICE, samples(("2022-02-01", 180), ("2022-02-08", 180), ("2022-02-15", 260)))
    )
    here.post(event(CONTROL, report("2022-02-24", effective="2022-03-01")))
    here.post(*values(PRICE, samples(("2022-03-08", 540))))
    here.post(*values(PRICE, daily("2022-03-20", *[190] * 21)))
    return [replace(p, alert=replace(p.alert, ref=REF)) for p in here.published]


def data_of(kind: str) -> bytes:
    """The data of the first transition of a kind, as text with a line's end."""
    published = next(p for p in neon_price_triples() if p.transition.type.value == f"alert.{kind}")
    found = published.transition.explanation["findings"]
    text = payloads.render(published.alert, published.transition, found)  # type: ignore[arg-type]
    return f"{text}\n".encode()


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_a_transition_are_as_promised(kind: str) -> None:
    assert data_of(kind) == (FOLDER / f"{kind}.json").read_bytes()


def test_the_scenario_tells_every_kind_in_order() -> None:
    told = [p.transition.type.value.removeprefix("alert.") for p in neon_price_triples()]
    assert told == ["opened", "escalated", *["updated"] * 3, "eased", "resolved"]


def test_the_same_is_rendered_every_time() -> None:
    assert data_of("escalated") == data_of("escalated")


def test_what_is_not_limited_is_null_and_never_an_empty_string() -> None:
    alert = json.loads(data_of("opened"))["alert"]
    assert (alert["place"], alert["exercise"], alert["resolved_at"]) == (None, None, None)
    assert (alert["good"], alert["ref"]) == ("neon", "AB-2026-0001")


def test_a_transition_refers_to_those_before_it() -> None:
    assert json.loads(data_of("opened"))["references"] == []
    data = json.loads(data_of("resolved"))
    number = data["transition"]["number"]
    assert data["references"] == [f"AB-2026-0001/{n}" for n in range(1, number)]
    assert data["alert"]["references"] == data["references"]
    assert data["transition"]["id"] == f"AB-2026-0001/{number}"


@pytest.mark.parametrize(
    ("number", "names", "reason"),
    [
        (1, [], "nothing came before the opening"),
        (2, ["R/1"], "the opening"),
        (4, ["R/1", "R/2", "R/3"], "all of them"),
        (51, [f"R/{n}" for n in range(1, 51)], "as many as fit"),
        (102, ["R/1", *[f"R/{n}" for n in range(53, 102)]], "the opening and the newest"),
    ],
)
def test_references_stay_short(number: int, names: list[str], reason: str) -> None:
    assert payloads.earlier("R", number) == names, reason


def test_too_many_findings_leave_the_gravest_and_say_how_many_are_missing() -> None:
    published = neon_price_triples()[0]
    (one,) = json.loads(data_of("opened"))["transition"]["explanation"]["findings"]
    found = [
        {**one, "series_id": n, "severity": "severe" if n % 10 == 0 else "minor"} for n in range(99)
    ]
    transition = replace(published.transition, explanation={"findings": found})
    text = payloads.render(published.alert, transition, found)
    data = json.loads(text)
    kept = [f["series_id"] for f in data["alert"]["findings"]]
    assert len(text.encode()) <= payloads.LONGEST_DATA
    assert set(range(0, 99, 10)) <= set(kept)
    assert kept == sorted(kept), "in their own order"
    assert kept == [f["series_id"] for f in data["transition"]["explanation"]["findings"]]
    assert data["findings_left_out"] == 99 - len(kept)


def test_a_body_puts_its_head_before_the_data_as_rendered() -> None:
    whole = payloads.body("alert.opened", "2026-03-07T09:30:00Z", 7, '{"a":"é"}')
    assert (
        whole
        == (
            '{"type":"alert.opened","timestamp":"2026-03-07T09:30:00Z","sequence":7,"data":{"a":"é"}}'
        ).encode()
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for written in KINDS:
        (FOLDER / f"{written}.json").write_bytes(data_of(written))
