"""The rules that ``judge`` asks of a weekly series, and which of them make a case. All calm."""

from __future__ import annotations

from alerts.rules import (
    Agreement,
    Band,
    Bands,
    Cusum,
    Direction,
    Ears,
    EarsMethod,
    Ewma,
    Family,
    LastObservations,
    LevelView,
    Measured,
    Method,
    PercentChange,
    RateOfChange,
    Rule,
    Run,
    SamePeriod,
    Statistic,
    Transform,
    ZScore,
)
from alerts.signals import Severity
from app.bench import workload

MIXES = {
    1: "robust z",
    2: "bands and robust z",
    10: "one of each kind",
    50: "five of each kind",
}
"""How many rules are asked of a series, and which ones."""

KINDS = 10
_UP = Direction.up


def rules(count: int) -> tuple[Rule, ...]:
    """The rules of a case of ``MIXES``."""
    if count <= 2:
        every = each(0)
        found = [every[0], every[1]][-count:]
    else:
        found = [one for turn in range(count // KINDS) for one in each(turn)]
    return tuple(
        Rule(
            id=f"question-{number}",
            title=f"Question {number}",
            version=1,
            family=Family.quantity,
            sectors=workload.SECTORS,
            indicators=(workload.INDICATOR,),
            detector=detector,
        )
        for number, detector in enumerate(found)
    )


def each(turn: int) -> tuple[Measured, ...]:
    """One detector of each kind; every turn, from 0, has other constants.

    A hundred weekly observations are enough for each of them to be read.
    """
    return (
        Bands("bands", _UP, _bands(130.0 + turn)),
        ZScore(
            "z_score",
            _UP,
            Method.robust,
            LastObservations("last_observations", 52 + 4 * turn, 26, guard=4),
            _bands(5.0),
            transform=Transform.log,
        ),
        PercentChange(
            "percent_change",
            _UP,
            LastObservations("last_observations", 26 + 4 * turn, 13, guard=turn),
            _bands(0.5),
        ),
        Ewma(
            "ewma",
            _UP,
            weight=0.2 + 0.05 * turn,
            run=20 + turn,
            baseline=_mean_of(52),
            bands=_bands(5.0),
            transform=Transform.log,
        ),
        Cusum(
            "cusum",
            _UP,
            slack=0.5 + 0.1 * turn,
            run=20 + turn,
            baseline=_mean_of(52),
            bands=_bands(8.0),
            transform=Transform.log,
        ),
        Ears(
            "ears",
            _UP,
            tuple(EarsMethod)[(turn + 1) % 3],
            _bands(12.0),
            observations=7 + turn,
            min_sigma=2.0,
        ),
        PercentChange(
            "percent_change",
            _UP,
            SamePeriod("same_period", 3, 21.0 + 2 * turn, min_years=1, min_observations=4),
            _bands(0.5),
        ),
        Run("run", _UP, _bands(10.0), least_move=0.001 * turn, longest=12 + turn),
        RateOfChange("rate_of_change", _UP, 8 + turn, _bands(0.5), relative=True),
        Agreement(
            "agreement",
            _UP,
            Transform.log,
            mean_of=1,
            levels=(LevelView(52 + turn, 3, 24), LevelView(26 + turn, 3, 13)),
            changes=(1, 4, 13),
            need=3,
            quantile=0.98,
            ratio=1.5,
            least=3.0,
            memory=260 + 52 * turn,
            min_memory=24,
            guard=4,
            floor=0.005,
            bands=_bands(1.0),
        ),
    )


def _mean_of(observations: int) -> LastObservations:
    return LastObservations("last_observations", observations, 26, statistic=Statistic.mean)


def _bands(raise_at: float) -> tuple[Band, ...]:
    return (
        Band(Severity.moderate, raise_at, 0.8 * raise_at),
        Band(Severity.severe, 2 * raise_at, 1.8 * raise_at),
    )
