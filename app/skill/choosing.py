"""Leave one series out: constants chosen without a series, then scored on that series alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from alerts.catalogue import Catalogue
from alerts.mechanisms import Profile
from alerts.rules import Agreement
from alerts.signals import SeriesKey
from alerts.skill import Cadence, Score, cadence_of
from app import documents
from app.skill import methods
from app.skill.methods import Point
from app.skill.plays import Played

BUDGET = 0.05
"""So many false episodes a series-year are allowed where constants are chosen."""

Outcomes = Mapping[Point, tuple[Played, Played]]
"""What each point of the grid did on recorded series, and on made-up ones to learn from."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A recorded series, and what was chosen without it.

    ``point`` is None where nothing is chosen, because no agreement asks the series; ``score`` is
    then that of the shipped constants. ``allowed`` counts the points within the budget.
    """

    series: SeriesKey
    point: Point | None
    allowed: int
    score: Score


class Tally(NamedTuple):
    """Some series together."""

    hits: int
    pairs: int
    false: int
    years: float

    @property
    def within(self) -> bool:
        """Whether it keeps the budget."""
        return self.false <= BUDGET * self.years


def tally(scores: Iterable[Score]) -> Tally:
    """The scores of some series as one."""
    found = list(scores)
    return Tally(
        sum(s.hits for s in found),
        sum(len(s.pairs) for s in found),
        sum(s.false_episodes for s in found),
        sum(s.series_years for s in found),
    )


def choices(profile: Profile, outcomes: Outcomes) -> list[Choice]:
    """What is chosen without each recorded series, in their order.

    Of the points that keep the budget on all other series as often observed, recorded and made up,
    it is the one with the most hits there; of equals the one with the fewest false episodes, then
    the one nearest to the shipped constants.
    """
    recorded, learnt_from = outcomes[methods.SHIPPED]
    asked = {key: _is_chosen(profile, key) for key in (*recorded.by_series, *learnt_from.by_series)}
    found: list[Choice] = []
    for left_out, shipped in recorded.by_series.items():
        if not asked[left_out]:
            found.append(Choice(left_out, None, 0, shipped))
            continue
        others = {
            key
            for key, is_asked in asked.items()
            if is_asked and key != left_out and _cadence(key) is _cadence(left_out)
        }
        told = {point: _among(others, played) for point, played in outcomes.items()}
        allowed = [point for point, its in told.items() if its.within]
        chosen = max(allowed, key=lambda p: (told[p].hits, -told[p].false, _nearness(p)))
        score = outcomes[chosen][0].by_series[left_out]
        found.append(Choice(left_out, chosen, len(allowed), score))
    return found


def _among(keys: Collection[SeriesKey], played: tuple[Played, Played]) -> Tally:
    return tally(s for one in played for key, s in one.by_series.items() if key in keys)


def _nearness(point: Point) -> float:
    shipped = methods.SHIPPED
    away = abs(point.ratio - shipped.ratio) / 0.25, abs(point.quantile - shipped.quantile) / 0.01
    return -sum(away) - abs(point.need - shipped.need)


def _cadence(key: SeriesKey) -> Cadence:
    return cadence_of(_catalogue().indicators[key.indicator].every_days)


def _is_chosen(profile: Profile, key: SeriesKey) -> bool:
    return any(isinstance(r.detector, Agreement) and r.asks(key) for r in profile.rules)


@cache
def _catalogue() -> Catalogue:
    return documents.load_catalogue()
