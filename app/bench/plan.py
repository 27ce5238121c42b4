"""How much the bench does: sizes, times and repetitions."""

from __future__ import annotations

from dataclasses import dataclass

_SERIES_MINUTES_A_SECOND = 5_000_000
"""So many series times minutes may be reported in the runs of all measures, for each second of one run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a bench. The defaults keep ``all`` near a quarter of an hour on two cores.

    Attributes:
        seconds: of one run of one part.
        runs: how often each part is run, taking turns with the others.
        series: how many report; 10,000 at most.
        samples: minutes of history that each has before.
        batches: signals in a request.
        connections: requests at the same time.
        marks: alerts opened one after the other in a part of ``latency``.
        background: calm signals a second meanwhile, where it is not idle.
        background_batches: signals in a request of these.
        firing: series in a hundred that fire in ``crisis``.
        receivers: endpoints of ``deliver``.
        deliveries: owed in a run of ``deliver``.
        subscriptions: that one alert of ``deliver`` is owed to.
        processes: of ``scale``, the first alone.
        flat_samples: minutes of history where the rest is spread over 36 months.
        stored: signals stored before, from few to many, in ``flat``; ``reads`` has the most.
        open_alerts: of ``reads`` and ``memory``.
        owed_to: subscriptions that each of these alerts is owed to.
        rules: asked of a series in ``judge``, keys of ``questions.MIXES``.
        held: samples that a series of ``judge`` has, from few to many.
        call: signals in one call of the engine, on series of the middle of ``held``.
        peer: whether Alertmanager does the same work beside us.
    """

    seconds: float = 1.5
    runs: int = 3
    series: int = 10_000
    samples: int = 32
    batches: tuple[int, ...] = (1, 100, 1_000)
    connections: tuple[int, ...] = (1, 16, 64)
    marks: int = 150
    background: int = 1_000
    background_batches: tuple[int, ...] = (10, 1)
    firing: tuple[int, ...] = (1, 5, 20)
    receivers: tuple[int, ...] = (1, 50)
    deliveries: int = 4_000
    subscriptions: int = 1_000
    processes: tuple[int, ...] = (1, 2, 4)
    flat_samples: int = 5
    stored: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    open_alerts: int = 10_000
    owed_to: int = 10
    rules: tuple[int, ...] = (1, 2, 10, 50)
    held: tuple[int, int, int] = (100, 10_000, 1_000_000)
    call: int = 1_000
    peer: bool = False

    @property
    def spare_minutes(self) -> int:
        """How long before now the history ends: the runs report the minutes up to now, the fewer series the
        more of them.

        Generous, and short of the two weeks after which a shipped rule calls a feed stale.
        """
        a_second = _SERIES_MINUTES_A_SECOND // self.series
        return min(13 * 24 * 60, 600 + int(self.seconds * (self.runs + 1) * a_second))


TINY = Plan(
    seconds=0.2,
    runs=1,
    series=100,
    samples=30,
    batches=(1, 50),
    connections=(1, 2),
    marks=5,
    background=100,
    background_batches=(10,),
    firing=(1, 20),
    receivers=(1, 2),
    deliveries=20,
    subscriptions=6,
    processes=(1, 2),
    stored=(1_000, 3_000),
    open_alerts=20,
    owed_to=2,
    rules=(1, 10),
    held=(100, 200, 5_000),
    call=5,
)
"""Shows that everything works; its numbers mean nothing."""
