"""One profile replayed over one history and scored; many at once, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from alerts import skill
from alerts.catalogue import Catalogue
from alerts.mechanisms import Profile
from alerts.signals import SeriesKey
from alerts.skill import DECLARED, Exemption, Label, Score
from app import backtest, documents
from app.backtest import judging
from app.backtest.reading import Row
from app.skill import made_up, recorded

Tell = Callable[[int, int], None]
"""Hears how many replays are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Play:
    """What is replayed: a profile over recorded history, or over one of two lots of made-up series.

    ``as_of`` replays every vintage when it came out; ``vintage`` one vintage alone.
    """

    history: Literal["recorded", "made up", "learnt from"]
    profile: Profile
    as_of: bool = False
    vintage: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a replay: the score of all, and of each series."""

    score: Score
    by_series: dict[SeriesKey, Score]


def play(asked: Sequence[Play], workers: int, tell: Tell | None = None) -> list[Played]:
    """Replays everything asked, in order."""
    done = 0

    def hear(_: Played) -> None:
        nonlocal done
        done += 1
        if tell is not None:
            tell(done, len(asked))

    with judging.crew(min(workers, len(asked))) as crew:
        return crew.do(play_one, [(one,) for one in asked], hear)


def play_one(one: Play) -> Played:
    """Replays a profile over a history and scores it."""
    catalogue = _catalogue()
    labels: Sequence[Label]
    rows: Sequence[Row]
    exempt: tuple[Exemption, ...]
    if one.history == "recorded":
        rows = tuple(recorded.rows(catalogue, one.vintage))
        labels, exempt = recorded.labels(), DECLARED
    else:
        series = _made_up(one.history)
        rows = [row for s in series for row in s.rows]
        labels, exempt = [label for s in series for label in s.labels], ()
    plan = backtest.Plan(
        labels=tuple(labels),
        as_of=one.as_of,
        workers=1,
        exemptions=exempt,
        catalogue=catalogue,
    )
    report = backtest.run(one.profile, rows, plan)
    broken = sorted(report.played.broken)
    if broken:
        raise ValueError(f"The rule {broken[0][0]} of {one.profile.id} failed: {broken[0][1]}.")
    episodes = report.played.episodes
    return Played(
        report.score,
        {
            w.key: skill.score(
                [label for label in labels if label.names(w.key)],
                [w],
                [e for e in episodes if e.series == w.key],
                exempt,
            )
            for w in report.played.watched
        },
    )


@cache
def _catalogue() -> Catalogue:
    return documents.load_catalogue()


@cache
def _made_up(history: str) -> tuple[made_up.Series, ...]:
    return made_up.unseen() if history == "made up" else made_up.learnt_from()
