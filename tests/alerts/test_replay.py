"""A replay is the engine over history: the same in whatever pieces, and the same as live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts import judgement, replay
from alerts.desk import Desk, Entry
from alerts.lifecycle import EventType
from alerts.mechanisms import (
    Dimension,
    Level,
    OpenWithoutEasing,
    Profile,
    Scope,
    SeriesBreak,
)
from alerts.replay import Arrival, Moved, Replay
from alerts.rules import Band, Combination, Direction, Effect, Ending
from alerts.signals import Report, Sample, SeriesId, SeriesKey
from alerts.tracks import Docket, Track
from tests.alerts import cast
from tests.alerts.cast import MINOR, MODERATE, SEVERE, at, days

TRANSITS = SeriesKey("shipping", "transits", "", "suez")
BAB = SeriesKey("shipping", "transits", "", "bab")
ONE, TWO = SeriesId(1), SeriesId(2)
NOW = at("2030-01-01")

FALLS = cast.rule(
    "transits",
    cast.change(
        (MODERATE, -0.25, -0.15),
        (SEVERE, -0.5, -0.4),
        baseline=cast.median_of(40, observations=10, guard=5),
        direction="down",
        mean_of=3,
    ),
    clear_after=3,
)
STRAITS = replay.lasting(cast.mechanism(FALLS, alert_per=(Dimension.place,), hold_days=5))


def as_observed(_series: SeriesId, observed_at: datetime) -> datetime:
    return observed_at


def replayed(
    profile: Profile, series: Mapping[SeriesKey, Sequence[Sample]], at_once: int
) -> Replay:
    """Everything in the order of observation, so many instants at a time."""
    keys = {SeriesId(n): key for n, key in enumerate(series, start=1)}
    play = Replay(profile, cast.CATALOGUE, keys)
    instants = sorted({s.at for samples in series.values() for s in samples})
    for begin in range(0, len(instants), at_once):
        these = set(instants[begin : begin + at_once])
        fresh = {n: [s for s in series[key] if s.at in these] for n, key in keys.items()}
        play.observe({n: found for n, found in fresh.items() if found}, {}, NOW, as_observed)
    return play


def by_hand(
    profile: Profile, key: SeriesKey, samples: Sequence[Sample]
) -> list[tuple[object, ...]]:
    """What a service does that keeps everything: one signal, one judgement, no forgetting."""
    track = Track(ONE, key, "transits/day", [(profile, rule) for rule in profile.rules])
    dockets: dict[Scope, Docket] = {}
    found: list[tuple[object, ...]] = []
    for sample in samples:
        track.fresh = [sample]
        outcome = judgement.judge([track], dockets, cast.CATALOGUE, NOW)
        track.known.append(sample)
        found += [(p.transition.type, p.transition.at, p.alert.severity) for p in outcome.published]
    return found


def told(play: Replay) -> list[tuple[object, ...]]:
    return [(m.type, m.at, m.severity) for m in play.moved]


def a_history(levels: Sequence[int], first: str = "2021-01-01") -> list[Sample]:
    """Ten days at each level, a little uneven."""
    values = [float(level + (n * 7) % 5) for level in levels for n in range(10)]
    return cast.daily(first, *values)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([20, 45, 60, 60, 60, 90]), min_size=8, max_size=25), st.data())
def test_a_replay_in_pieces_is_what_a_service_tells_one_signal_after_the_other(
    levels: list[int], data: st.DataObject
) -> None:
    samples = a_history(levels)
    live = by_hand(STRAITS, TRANSITS, samples)
    at_once = data.draw(st.sampled_from([1, 3, 17, 10_000]))
    assert told(replayed(STRAITS, {TRANSITS: samples}, at_once)) == live


def test_pieces_do_not_matter_for_episodes_either() -> None:
    history = {
        TRANSITS: a_history([60, 60, 60, 60, 20, 20, 60, 60, 60, 60, 60, 40, 60, 60]),
        BAB: a_history([50, 50, 50, 50, 50, 50, 10, 50, 50, 50], first="2021-02-01"),
    }
    whole = replayed(STRAITS, history, 10_000)
    assert len(whole.episodes()) == 3
    for at_once in (1, 7, 50):
        pieces = replayed(STRAITS, history, at_once)
        assert pieces.episodes() == whole.episodes()
        assert pieces.moved == whole.moved
        assert pieces.watched() == whole.watched()


def test_what_no_rule_reaches_back_to_is_forgotten() -> None:
    play = replayed(STRAITS, {TRANSITS: a_history([60] * 100)}, 100)
    (track,) = play._tracks.values()
    assert len(track.known) <= 100 + 45 + 3  # One piece, and what the baseline and the mean need.


def test_an_episode_says_what_opened_it_when_and_how_bad_it_became() -> None:
    samples = a_history([60] * 5 + [40, 20] + [60] * 5)
    (episode,) = replayed(STRAITS, {TRANSITS: samples}, 1_000).episodes()
    assert (episode.series, episode.peak, episode.rules) == (TRANSITS, SEVERE, ("transits",))
    assert at("2021-02-20") <= episode.opened < at("2021-02-25")
    assert episode.known_at == episode.opened
    assert episode.resolved is not None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (replace(FALLS, shadow=True), "a shadow rule warns nobody"),
        (replace(FALLS, effect=Effect.component), "a component counts only in a combination"),
        (replace(FALLS, effect=Effect.follow_up), "a follow-up is told only to those who follow"),
    ],
)
def test_what_is_no_warning_by_itself_makes_no_episode(changed: object, why: str) -> None:
    profile = replace(STRAITS, rules=(changed,))  # type: ignore[arg-type]
    samples = a_history([60] * 5 + [20] + [60] * 5)
    assert replayed(profile, {TRANSITS: samples}, 1_000).episodes() == [], why


def test_history_is_judged_although_the_mechanism_was_not_in_force() -> None:
    late = replace(FALLS, effective_from=at("2029-01-01").date())
    profile = cast.mechanism(
        late, valid=("2029-01-01", "2029-12-31"), alert_per=(Dimension.place,), hold_days=5
    )
    samples = a_history([60] * 5 + [20] + [60] * 5)
    assert replayed(profile, {TRANSITS: samples}, 1_000).moved == []
    assert told(replayed(replay.lasting(profile), {TRANSITS: samples}, 1_000)) != []


def test_a_series_that_no_rule_asks_is_watched_and_not_judged() -> None:
    other = SeriesKey("shipping", "price", "neon")
    play = replayed(STRAITS, {other: a_history([60] * 2)}, 5)
    (watched,) = play.watched()
    assert (watched.judged, watched.first, watched.last) == (
        False,
        at("2021-01-01"),
        at("2021-01-20"),
    )


def test_how_often_a_series_is_observed_shows_in_its_gaps() -> None:
    monthly = [
        Sample(at(f"20{year}-{month:02}-01"), 60) for year in (20, 21) for month in range(1, 13)
    ]
    play = replayed(STRAITS, {TRANSITS: monthly, BAB: monthly[:5]}, 7)
    found = {w.key: w.every_days for w in play.watched()}
    assert found[TRANSITS] == 31
    assert found[BAB] == 1  # Too few to tell: the catalogue is believed.


def test_a_declared_break_resets_the_baseline_instead_of_alarming() -> None:
    samples = a_history([60] * 6 + [30] * 8)  # Half the receivers are gone; nothing happened.
    assert replayed(STRAITS, {TRANSITS: samples}, 1_000).episodes() != []
    broken = SeriesBreak("shipping", "transits", at("2021-03-02").date(), "fewer receivers")
    declared = replace(STRAITS, series_breaks=(broken,))
    assert replayed(declared, {TRANSITS: samples}, 1_000).episodes() == []


def test_a_joint_finding_is_about_the_series_whose_findings_made_it() -> None:
    profile = replay.lasting(profiles()["joint"])
    history = {
        cast.LEAD_TIME: cast.daily("2021-01-01", 12, 17, 17),
        cast.PRICE: cast.daily("2021-01-01", 12, 12, 17),
        SeriesKey("semiconductors", "price", "neon", "CN"): cast.daily("2021-01-01", 12, 12, 12),
    }
    found = replayed(profile, history, 1).episodes()
    assert {e.series for e in found} == {cast.LEAD_TIME, cast.PRICE}
    assert {(e.opened, e.rules) for e in found} == {(at("2021-01-03"), ("both",))}


def arrived(profile: Profile, batches: Sequence[tuple[str, Sequence[Arrival]]]) -> Replay:
    play = Replay(profile, cast.CATALOGUE, {ONE: TRANSITS, TWO: BAB})
    for now, arrivals in batches:
        play.arrive(arrivals, at(now))
    return play


def test_without_corrections_the_order_of_arrival_tells_the_same() -> None:
    samples = a_history([60] * 5 + [20, 20] + [60] * 5)
    play = Replay(STRAITS, cast.CATALOGUE, {ONE: TRANSITS})
    for n in range(0, len(samples), 7):
        week = samples[n : n + 7]
        play.arrive([Arrival(ONE, s.at, s.value) for s in week], week[-1].at + days(4))
    assert told(play) == by_hand(STRAITS, TRANSITS, samples)
    (episode,) = play.episodes()
    assert timedelta(days=4) <= episode.known_at - episode.opened <= timedelta(days=10)


def test_a_revision_moves_the_opening_to_when_it_was_known() -> None:
    bands = replay.lasting(cast.mechanism(cast.LEAD_TIME_RULE))
    play = Replay(bands, cast.CATALOGUE, {ONE: cast.LEAD_TIME})
    play.arrive([Arrival(ONE, at("2021-01-31"), 12.0)], at("2021-02-10"))
    play.arrive([Arrival(ONE, at("2021-02-28"), 13.0)], at("2021-03-10"))
    assert play.moved == []
    play.arrive([Arrival(ONE, at("2021-02-28"), 17.0)], at("2021-06-10"))
    (move,) = play.moved
    assert (move.type, move.told_at) == (EventType.opened, at("2021-06-10"))
    (episode,) = play.episodes()
    assert (episode.opened, episode.known_at) == (at("2021-02-28"), at("2021-06-10"))
    play.arrive([Arrival(ONE, at("2021-02-28"), 12.0)], at("2021-07-10"))
    assert [e.resolved for e in play.episodes()] == [at("2021-02-28")]


def test_a_value_told_again_changes_nothing() -> None:
    same = Arrival(ONE, at("2021-01-01"), 60.0)
    play = arrived(STRAITS, [("2021-01-02", [same]), ("2021-01-03", [same])])
    assert (play.moved, play.episodes()) == ([], [])
    (watched,) = play.watched()
    assert watched.first == watched.last == at("2021-01-01")


def test_a_value_taken_back_before_anything_was_known_is_nothing() -> None:
    play = arrived(STRAITS, [("2021-01-02", [Arrival(ONE, at("2021-01-01"), None)])])
    assert play.moved == []


def test_what_comes_late_is_judged_as_if_it_had_come_in_time() -> None:
    samples = a_history([60] * 5 + [20, 20] + [60] * 5)
    late = samples[52]
    play = Replay(STRAITS, cast.CATALOGUE, {ONE: TRANSITS})
    for sample in samples:
        if sample is not late:
            play.arrive([Arrival(ONE, sample.at, sample.value)], sample.at)
    play.arrive([Arrival(ONE, late.at, late.value)], samples[-1].at + days(1))
    in_time = by_hand(STRAITS, TRANSITS, samples)
    assert play.episodes()[0].resolved is not None
    assert [kind for kind, *_ in in_time][-1] is play.moved[-1].type


def test_events_are_told_and_their_measures_take_effect() -> None:
    control = replace(cast.CONTROL_RULE, effect=Effect.early_warning)
    profile = replay.lasting(cast.mechanism(control))
    report = cast.report("2023-07-03", announced="2023-07-03", effective="2023-08-01")
    play = Replay(profile, cast.CATALOGUE, {ONE: cast.CONTROL})
    play.arrive([Arrival(ONE, report.at, report=report)], at("2023-07-03"))
    play.arrive([], at("2023-09-01"))
    assert [(m.type, m.told_at) for m in play.moved] == [
        (EventType.opened, at("2023-07-03")),
        (EventType.updated, at("2023-08-01")),
    ]
    assert [w.told for w in play.watched()] == [True]


def test_a_report_taken_back_is_taken_back() -> None:
    profile = replay.lasting(
        cast.mechanism(cast.rule("site_outage", cast.trigger(Ending.by_people)))
    )
    report = cast.report("2023-07-03")
    nothing = replace(report, severity=cast.NONE)
    play = Replay(profile, cast.CATALOGUE, {ONE: cast.OUTAGE})
    play.arrive([Arrival(ONE, report.at, report=report)], at("2023-07-03"))
    play.arrive([Arrival(ONE, report.at, report=report)], at("2023-07-04"))
    play.arrive([Arrival(ONE, report.at, report=nothing)], at("2023-07-05"))
    assert play.moved[0].type is EventType.opened
    assert len(play.moved) == 2
    assert play.episodes()[0].resolved is not None


def test_time_alone_recommends_when_an_alert_stays_open() -> None:
    waits = OpenWithoutEasing("open_without_easing", Level.disruption, 30, ("our_design",))
    profile = replay.lasting(cast.mechanism(cast.LEAD_TIME_RULE, recommendations=(waits,)))
    play = Replay(profile, cast.CATALOGUE, {ONE: cast.LEAD_TIME})
    play.arrive([Arrival(ONE, at("2021-01-31"), 17.0)], at("2021-02-10"))
    play.arrive([Arrival(ONE, at("2021-03-31"), 17.0)], at("2021-04-10"))
    assert [(m.type, m.told_at) for m in play.moved] == [
        (EventType.opened, at("2021-02-10")),
        (EventType.updated, at("2021-03-12")),
    ]


def test_reports_and_measurements_go_together_in_the_order_of_observation() -> None:
    profile = replay.lasting(cast.mechanism(cast.PRICE_RULE, cast.CONTROL_RULE))
    play = Replay(profile, cast.CATALOGUE, {ONE: cast.PRICE, TWO: cast.CONTROL})
    prices = cast.daily("2023-07-01", 100, 100, 300)
    reports: list[Report] = [cast.report("2023-07-02")]
    play.observe({ONE: prices}, {TWO: reports}, NOW, as_observed)
    moves: list[Moved] = play.moved
    assert moves[0].at == at("2023-07-02")
    assert {e.series for e in play.episodes()} >= {cast.CONTROL}


def test_a_minor_finding_is_an_episode_too() -> None:
    bands = replay.lasting(cast.mechanism(cast.LEAD_TIME_RULE))
    play = replayed(bands, {cast.LEAD_TIME: cast.samples(("2021-01-31", 14.5))}, 1)
    assert [e.peak for e in play.episodes()] == [MINOR]


LEAD_TIMES = (12.0, 13.5, 14.5, 17.0, 21.0)
NEON_PRICE = cast.rule("price", cast.bands((MODERATE, 14, 13.5)), clear_after=2)
BOTH = Combination(
    "combination", Direction.up, ("lead_time", "price"), (Band(SEVERE, 2, 1),), at_least=MINOR
)


def profiles() -> dict[str, Profile]:
    """Measurements alone, measurements that freeze each other's baselines, and a joint rule."""
    lead = replace(cast.LEAD_TIME_RULE, id="lead_time")
    price = replace(NEON_PRICE, id="price")
    part = Effect.component
    together = replace(lead, id="both", indicators=("lead_time", "price"), detector=BOTH)
    return {
        "two rules": cast.mechanism(lead, price),
        "frozen": cast.mechanism(lead, cast.PRICE_RULE),
        "joint": cast.mechanism(replace(lead, effect=part), replace(price, effect=part), together),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["two rules", "frozen", "joint"]),
    st.lists(
        st.lists(
            st.tuples(st.booleans(), st.integers(0, 40), st.sampled_from([*LEAD_TIMES, None])),
            min_size=1,
            max_size=6,
            unique_by=lambda said: said[:2],
        ),
        min_size=3,
        max_size=15,
    ),
)
def test_what_arrives_in_any_order_is_told_as_a_service_tells_it(
    kind: str, batches: list[list[tuple[bool, int, float | None]]]
) -> None:
    profile = replay.lasting(profiles()[kind])
    keys = {ONE: cast.LEAD_TIME, TWO: cast.PRICE}
    live = Desk([profile], cast.CATALOGUE)
    play = Replay(profile, cast.CATALOGUE, keys)
    heard: list[tuple[object, ...]] = []
    known: set[tuple[SeriesId, datetime]] = set()
    for n, batch in enumerate(batches):
        # Requests within an hour: no day passes on which the service would sweep.
        now = at("2022-01-01") + timedelta(minutes=n)
        said = [
            (TWO if other else ONE, at("2021-01-01") + days(3 * place), v)
            for other, place, v in batch
        ]
        # Only what was said can be taken back.
        said = [(s, when, v) for s, when, v in said if v is not None or (s, when) in known]
        known |= {(s, when) for s, when, _ in said}
        if not said:
            continue
        entries = [Entry(keys[series], when, value) for series, when, value in said]
        outcome = live.post(entries, now)
        heard += [(p.transition.type, p.transition.at, p.alert.severity) for p in outcome.published]
        play.arrive([Arrival(series, when, value) for series, when, value in said], now)
    assert told(play) == heard
