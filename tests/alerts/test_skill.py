"""How warnings are scored: every clause of the definition is a row, computed by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts import skill
from alerts.catalogue import (
    Catalogue,
    CountedFrom,
    Harm,
    Indicator,
    Publication,
    Weekday,
    catalogue_faults,
)
from alerts.signals import SeriesKey, Severity
from alerts.skill import Episode, Exemption, Kind, Label, Outcome, Score, Verdict, Watched
from app import documents

STRAIT = SeriesKey("shipping", "transits", "", "suez")
INDEX = SeriesKey("all_sectors", "pressure")
CARS = SeriesKey("automotive", "auto_inventory", "", "US")


PORTWATCH = Publication(4, on_weekday=Weekday.tuesday)
GSCPI = Publication(35, CountedFrom.month)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def day(text: str) -> date:
    return date.fromisoformat(text)


DAILY = Watched(STRAIT, 1, at("2019-01-01"), at("2024-12-31"), pause=14)
MONTHLY = Watched(INDEX, 30.4, at("1998-01-31"), at("2024-12-31"), pause=2)
WEEKLY = replace(DAILY, every_days=7.0, pause=1)


def episode(
    opened: str, resolved: str | None = None, known: str = "", key: SeriesKey = STRAIT
) -> Episode:
    until = at(resolved) if resolved else None
    return Episode(key, at(opened), until, Severity.moderate, at(known or opened), ("rule",))


def label(
    start: str,
    end: str | None,
    kind: Kind = Kind.positive,
    *,
    announced: str = "",
    visible: str = "yes",
    key: SeriesKey = STRAIT,
    id: str = "E",
) -> Label:
    return Label(
        id,
        *key[:4],
        day(start),
        day(end) if end else None,
        kind,
        day(announced) if announced else None,
        visible,
    )


def score(labels: list[Label], *episodes: Episode, watched: Watched = DAILY) -> Score:
    return skill.score(labels, [watched], episodes)


@pytest.mark.parametrize(
    ("observed", "every_days", "start", "end", "why"),
    [
        ("2021-03-25T23:59", 1, "2021-03-25", "2021-03-25", "daily its day"),
        ("2021-03-25T23:59", 1 / 1440, "2021-03-25", "2021-03-25", "by the minute its day too"),
        ("2021-03-28", 7, "2021-03-22", "2021-03-28", "weekly its week: stamped on Sunday"),
        ("2021-03-22", 7, "2021-03-22", "2021-03-28", "or on Monday, the same week"),
        ("2021-03-01", 30.4, "2021-03-01", "2021-03-31", "monthly its month: on the first"),
        ("2021-03-31", 30.4, "2021-03-01", "2021-03-31", "or on the last, the same month"),
        ("2020-12-31", 31, "2020-12-01", "2020-12-31", "December does not run into a year"),
        ("2021-05-15", 91, "2021-04-01", "2021-06-30", "quarterly its quarter"),
        ("2021-05-15", 365, "2021-01-01", "2021-12-31", "yearly its year"),
    ],
)
def test_an_observation_speaks_of_its_reference_period(
    observed: str, every_days: float, start: str, end: str, why: str
) -> None:
    assert skill.period_of(at(observed), every_days) == (day(start), day(end)), why


@given(st.dates(date(1970, 1, 1), date(2100, 1, 1)), st.sampled_from([1.0, 7.0, 30.4, 91.3, 365.0]))
def test_every_day_lies_in_its_period_and_periods_follow_each_other(
    when: date, every_days: float
) -> None:
    period = skill.period_of(datetime(when.year, when.month, when.day, tzinfo=UTC), every_days)
    assert period.start <= when <= period.end
    first = datetime(period.start.year, period.start.month, period.start.day, tzinfo=UTC)
    assert skill.period_of(first, every_days) == period


@pytest.mark.parametrize(
    ("announced", "begin", "why"),
    [
        ("", "2021-02-21", "30 days before the start"),
        ("2021-03-20", "2021-02-21", "an announcement within the 30 days changes nothing"),
        ("2021-02-01", "2021-02-01", "an earlier announcement opens the window"),
        ("2020-06-01", "2021-01-22", "but at most 60 days before the start"),
        ("2021-04-01", "2021-02-21", "an announcement after the start changes nothing"),
    ],
)
def test_a_window_opens_before_the_start(announced: str, begin: str, why: str) -> None:
    assert label("2021-03-23", "2021-04-03", announced=announced).window[0] == day(begin), why


@pytest.mark.parametrize(
    ("opened", "outcome", "verdict", "why"),
    [
        ("2021-03-25", Outcome.hit, Verdict.hit, "an opening inside the window"),
        ("2021-02-21", Outcome.hit, Verdict.hit, "on its first day"),
        ("2021-02-20", Outcome.miss, Verdict.false, "a day before it"),
        ("2021-04-03", Outcome.hit, Verdict.hit, "on its last day"),
        ("2021-04-04", Outcome.miss, Verdict.false, "a day after it"),
    ],
)
def test_a_hit_is_an_opening_inside_the_window(
    opened: str, outcome: Outcome, verdict: Verdict, why: str
) -> None:
    ends = f"{opened[:8]}{int(opened[8:]) + 1:02}"
    found = score([label("2021-03-23", "2021-04-03")], episode(opened, ends))
    assert (found.pairs[0].outcome, found.episodes[0].verdict) == (outcome, verdict), why


@pytest.mark.parametrize("stamp", ["01", "28"])
def test_a_month_matches_wherever_in_it_the_observation_is_stamped(stamp: str) -> None:
    disruption = label("2021-03-20", "2021-03-25", key=INDEX)
    found = score([disruption], episode(f"2021-02-{stamp}", key=INDEX), watched=MONTHLY)
    assert found.hits == 1  # February ends on the 28th, after the 18th on which the window opens.
    found = score([disruption], episode(f"2021-01-{stamp}", key=INDEX), watched=MONTHLY)
    assert found.hits == 0


def test_an_episode_of_one_disruption_that_still_stands_covers_the_next() -> None:
    first = label("2021-03-23", "2021-04-03", id="A")
    second = label("2021-06-10", "2021-07-01", id="B")
    found = score([first, second], episode("2021-03-25", "2021-06-20", known="2021-03-30"))
    assert [p.outcome for p in found.pairs] == [Outcome.hit, Outcome.covered]
    assert (found.hits, found.count(Outcome.covered), found.misses) == (2, 1, 0)
    assert found.leads is not None
    assert found.leads.pairs == 1  # A covered pair has a lead, which no average counts.
    assert found.pairs[1].lead_days == 72
    assert found.pairs[1].timely


@pytest.mark.parametrize(
    ("resolved", "outcome", "why"),
    [
        ("2021-06-10", Outcome.miss, "off on the day of the start is off"),
        ("2021-06-11", Outcome.covered, "off the day after was still on"),
        (None, Outcome.covered, "it lasts"),
    ],
)
def test_only_an_episode_that_is_on_at_the_start_covers(
    resolved: str | None, outcome: Outcome, why: str
) -> None:
    labels = [label("2021-03-23", "2021-04-03", id="A"), label("2021-06-10", "2021-06-12", id="B")]
    assert score(labels, episode("2021-03-25", resolved)).pairs[1].outcome is outcome, why


def test_a_disruption_is_missed_although_a_false_episode_was_already_on() -> None:
    found = score([label("2021-03-23", "2021-04-03")], episode("2020-10-01", "2021-05-01"))
    (pair,) = found.pairs
    assert (pair.outcome, pair.why) == (Outcome.miss, "a false episode was already on")
    assert (found.false_episodes, found.pod, found.far, found.csi) == (1, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("kind", "verdict", "false", "why"),
    [
        (Kind.near_miss, Verdict.near_miss, 0, "a near miss neither helps nor hurts"),
        (Kind.ambiguous, Verdict.ambiguous, 0, "nor does what is ambiguous"),
        (Kind.negative_control, Verdict.false, 1, "a negative control is always false"),
    ],
)
def test_what_the_other_labels_do(kind: Kind, verdict: Verdict, false: int, why: str) -> None:
    found = score([label("2021-11-08", "2021-11-14", kind)], episode("2021-11-10", "2021-12-20"))
    assert [j.verdict for j in found.episodes] == [verdict], why
    assert (found.false_episodes, found.hits, found.misses, found.pairs) == (false, 0, 0, ()), why


def test_a_short_negative_control_beats_a_positive_window_around_it() -> None:
    around = label("2021-10-01", "2021-12-31", id="A")
    control = label("2021-11-08", "2021-11-14", Kind.negative_control, id="C")
    inside = score([around, control], episode("2021-11-10", "2021-12-20"))
    assert (inside.hits, inside.misses, inside.false_episodes) == (0, 1, 1)
    assert inside.episodes[0].label == "C"
    # The days before a control are none of it: its window is exactly as long as it says.
    before = score([around, control], episode("2021-11-07", "2021-12-20"))
    assert (before.hits, before.misses, before.false_episodes) == (1, 0, 0)


@pytest.mark.parametrize(
    ("watched", "off", "on", "count", "why"),
    [
        (DAILY, "2021-03-01", "2021-03-14", 1, "13 days apart, daily: one"),
        (DAILY, "2021-03-01", "2021-03-15", 2, "14 days apart are two"),
        (replace(DAILY, pause=30), "2021-03-01", "2021-03-15", 1, "unless the rule waits longer"),
        (WEEKLY, "2021-03-01", "2021-03-15", 1, "two weeks apart, weekly: one"),
        (WEEKLY, "2021-03-01", "2021-03-22", 2, "three weeks are two"),
        (MONTHLY, "2021-03-01", "2021-05-31", 1, "two months apart, monthly: one"),
        (MONTHLY, "2021-03-31", "2021-06-01", 2, "three months are two, whatever the day"),
    ],
)
def test_episodes_nearer_than_their_pause_are_one(
    watched: Watched, off: str, on: str, count: int, why: str
) -> None:
    apart = [episode("2021-02-01", off), episode(on, "2022-01-01")]
    found = skill.joined(watched, apart)
    assert len(found) == count, why
    assert found[-1].resolved == at("2022-01-01")


def test_a_joined_episode_keeps_its_first_opening_and_its_worst_severity() -> None:
    worse = replace(episode("2021-03-10"), peak=Severity.severe, rules=("other",))
    (found,) = skill.joined(DAILY, [worse, episode("2021-02-01", "2021-03-01")])
    assert (found.opened, found.resolved, found.peak) == (at("2021-02-01"), None, Severity.severe)
    assert found.rules == ("other", "rule")


def test_lead_is_from_publication_to_the_start_and_to_the_announcement() -> None:
    known = label("2023-12-15", "2024-12-31", announced="2023-11-19")
    (pair,) = score([known], episode("2023-12-22", known="2023-12-26")).pairs
    assert (pair.lead_days, pair.lead_on_announced_days) == (-11, -37)


@pytest.mark.parametrize(
    ("watched", "known", "timely", "why"),
    [
        (DAILY, "2021-04-06", True, "14 days after the start, daily"),
        (DAILY, "2021-04-07", False, "15 days"),
        (WEEKLY, "2021-04-13", True, "21 days, weekly"),
        (WEEKLY, "2021-04-14", False, "22 days"),
        (replace(MONTHLY, key=STRAIT), "2021-06-06", True, "75 days, monthly"),
        (replace(MONTHLY, key=STRAIT), "2021-06-07", False, "76 days"),
    ],
)
def test_a_warning_is_timely_within_the_limit_of_its_cadence(
    watched: Watched, known: str, timely: bool, why: str
) -> None:
    found = score(
        [label("2021-03-23", "2021-04-03")], episode("2021-03-25", known=known), watched=watched
    )
    assert (found.pairs[0].timely, found.timely) == (timely, int(timely)), why


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (label("2018-11-01", "2018-12-01"), "it was over before the series begins"),
        (label("2018-11-01", "2019-02-01"), "it was under way when the series begins"),
        (label("2018-11-01", None), "it was under way when the series begins"),
        (label("2025-03-01", "2025-04-01"), "it starts after the series ends"),
        (label("2021-03-23", "2021-04-03", visible="no"), "visible is 'no', not yes or partial"),
        (label("2021-03-23", "2021-04-03", key=INDEX), "no series of it is in the data"),
    ],
)
def test_what_cannot_be_scored_is_listed_and_not_counted(one: Label, why: str) -> None:
    found = score([one])
    assert [(o.label, o.why) for o in found.left_out] == [(one, why)]
    assert (found.pairs, found.pod, found.far, found.csi) == ((), None, None, None)


def test_rows_that_are_partly_visible_count() -> None:
    assert score([label("2021-03-23", "2021-04-03", visible="partial")]).misses == 1


def test_a_false_episode_in_the_window_of_an_unscored_label_says_so() -> None:
    found = score([label("2021-03-23", "2021-04-03", visible="no")], episode("2021-03-25"))
    assert [(j.verdict, j.label, j.unscored) for j in found.episodes] == [
        (Verdict.false, None, "E")
    ]


@pytest.mark.parametrize(
    ("key", "exempt", "why"),
    [
        (CARS, True, "by its sector and its indicator"),
        (SeriesKey("semiconductors", "inventory", "cars", "US"), True, "by its good"),
        (SeriesKey("shipping", "inventory_sales_ratio"), True, "by its indicator"),
        (SeriesKey("semiconductors", "inventory", "chips", "US"), False, "no sign of vehicles"),
    ],
)
def test_series_of_vehicles_are_known_by_their_codes(
    key: SeriesKey, exempt: bool, why: str
) -> None:
    assert any(x.covers(key) for x in skill.DECLARED) is exempt, why


def test_vehicle_series_are_exempt_while_the_pandemic_stopped_them() -> None:
    cars = replace(MONTHLY, key=CARS)
    during = label("2020-03-15", "2020-05-01", key=CARS, id="A")
    after = label("2020-12-01", None, key=CARS, id="B")
    fired = [
        episode("2020-04-30", "2020-06-30", key=CARS),
        episode("2021-03-31", known="2021-04-30", key=CARS),
    ]
    found = score([during, after], *fired, watched=cars)
    assert [(p.label.id, p.outcome) for p in found.pairs] == [("B", Outcome.hit)]
    assert [j.verdict for j in found.episodes] == [Verdict.exempt, Verdict.hit]
    assert [o.label.id for o in found.left_out] == ["A"]
    assert [key for _, key in found.exempted] == [CARS]
    elsewhere = score([], episode("2020-04-30"), watched=DAILY)
    assert (elsewhere.false_episodes, elsewhere.exempted) == (1, ())


@pytest.mark.parametrize(
    ("published", "observed", "known", "why"),
    [
        (PORTWATCH, "2021-03-25", "2021-03-30", "Thursday and 4 days is Monday: the next Tuesday"),
        (PORTWATCH, "2021-03-26", "2021-03-30", "Friday and 4 days is a Tuesday: that day"),
        (PORTWATCH, "2021-03-27T23:00", "2021-04-06", "Saturday and 4 days is Wednesday"),
        (GSCPI, "2021-03-01", "2021-04-05", "35 days from the first of the month"),
        (GSCPI, "2021-03-31", "2021-04-05", "wherever in it the month is stamped"),
        (Publication(45, CountedFrom.month), "2021-02-28", "2021-03-18", "output, 45 days"),
        (Publication(60, CountedFrom.month), "2021-03-01", "2021-04-30", "inventories, 60 days"),
        (Publication(50, CountedFrom.month), "2021-03-31", "2021-04-20", "trade, 50 days"),
    ],
)
def test_a_figure_is_known_when_it_is_published(
    published: Publication, observed: str, known: str, why: str
) -> None:
    assert published.known_at(at(observed)) == at(known), why


def test_the_shipped_catalogue_says_how_late_its_figures_come_out() -> None:
    indicators = documents.load_catalogue().indicators
    assert indicators["chokepoint_transits"].published == replace(
        PORTWATCH, source="IMF PortWatch, weekly update"
    )
    assert indicators["gscpi"].published == GSCPI


def test_figures_published_before_they_are_observed_are_a_fault() -> None:
    wrong = Indicator("x", "X", "kg", Harm.up, 1, published=Publication(-1))
    (fault,) = catalogue_faults(Catalogue(indicators={"x": wrong}))
    assert fault.pointer == "/indicators/x/published/after_days"


def test_exemptions_may_be_declared_otherwise() -> None:
    strike = Exemption("a strike", day("2021-03-01"), day("2021-03-31"), sectors=("shipping",))
    found = skill.score([], [DAILY], [episode("2021-03-25")], [strike])
    assert [j.verdict for j in found.episodes] == [Verdict.exempt]


def test_a_series_that_no_rule_asks_misses_its_disruptions_and_has_no_years() -> None:
    unasked = replace(DAILY, judged=False)
    found = score([label("2021-03-23", "2021-04-03")], watched=unasked)
    assert [(p.outcome, p.why) for p in found.pairs] == [(Outcome.miss, "no rule asks this series")]
    assert (found.series, found.series_years, found.false_per_series_year) == (0, 0.0, None)


def test_years_count_from_the_first_period_to_the_last() -> None:
    assert score([]).series_years == pytest.approx(2192 / 365.25)  # 2019 to 2024, two of them leap
    since = skill.score([], [DAILY], [], since=day("2024-01-01"))
    assert since.series_years == pytest.approx(366 / 365.25)


def test_what_opened_before_the_scoring_begins_is_neither_hit_nor_false() -> None:
    labels = [label("2020-03-23", "2020-04-03", id="A"), label("2021-03-23", "2021-04-03", id="B")]
    fired = [episode("2020-03-25", "2020-05-01"), episode("2020-09-01", "2020-10-01")]
    found = skill.score(labels, [DAILY], fired, since=day("2021-01-01"))
    assert found.episodes == ()
    assert [(p.label.id, p.outcome) for p in found.pairs] == [("B", Outcome.miss)]


def test_a_disruption_on_two_series_is_two_pairs_and_one_event() -> None:
    other = SeriesKey("shipping", "transits", "", "bab_el_mandeb")
    labels = [label("2021-03-23", "2021-04-03"), label("2021-03-23", "2021-04-03", key=other)]
    watched = [DAILY, replace(DAILY, key=other)]
    found = skill.score(labels, watched, [episode("2021-03-25")])
    assert (found.hits, found.misses) == (1, 1)
    assert found.events == {"E": Outcome.hit}


def test_a_label_that_names_no_series_exactly_speaks_of_all_it_fits() -> None:
    everywhere = replace(label("2021-03-23", "2021-04-03"), place="")
    other = replace(DAILY, key=SeriesKey("shipping", "transits", "", "malacca"))
    found = skill.score([everywhere], [DAILY, other, MONTHLY], [])
    assert [p.series.place for p in found.pairs] == ["malacca", "suez"]
    plain = replace(DAILY, key=SeriesKey("shipping", "transits"))
    assert len(skill.score([everywhere], [DAILY, plain], []).pairs) == 1  # Named exactly.


def test_reported_events_are_not_judgements_and_never_false() -> None:
    told = replace(DAILY, told=True)
    found = score([], episode("2021-03-25"), watched=told)
    assert ([j.verdict for j in found.episodes], found.series_years) == ([Verdict.told], 0.0)


def test_the_rates_by_hand() -> None:
    labels = [
        label("2020-03-01", "2020-03-10", id="A"),
        label("2021-03-01", "2021-03-10", id="B"),
        label("2022-03-01", "2022-03-10", id="C"),
    ]
    found = score(
        labels,
        episode("2020-03-02", "2020-04-01", known="2020-03-06"),
        episode("2021-02-20", "2021-04-01", known="2021-02-23"),
        episode("2023-03-02", "2023-04-01"),
    )
    assert (found.hits, found.misses, found.false_episodes) == (2, 1, 1)
    assert found.pod == pytest.approx(2 / 3)
    assert found.far == pytest.approx(1 / 3)
    assert found.csi == pytest.approx(2 / 4)
    assert found.leads_on_announced is None
    assert found.leads == (2, -5, 0.5, 0.5, 6)
