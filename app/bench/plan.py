"""How much the bench does: sizes, times and repetitions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a bench. The defaults keep ``all`` near six minutes on two cores.

    Attributes:
        seconds: of one run of one part.
        runs: how often each part is run, taking turns with the others.
        series: how many report; 10,000 at most.
        samples: minutes of history that each has before.
        batches: signals in a request.
        connections: requests at the same time.
        marks: alerts opened one after the other in a run of ``latency``.
        receivers: endpoints of ``deliver``.
        deliveries: owed in a run of ``deliver``.
        subscriptions: that one alert of ``deliver`` is owed to.
        flat_series: how many report in ``flat``.
        stored: signals stored before, the two sides of ``flat``.
        rules: asked of a series in ``judge``, keys of ``questions.MIXES``.
        held: samples that a series of ``judge`` has, from few to many.
        call: signals in one call of the engine, on series of the middle of ``held``.
    """

    seconds: float = 1.5
    runs: int = 3
    series: int = 10_000
    samples: int = 32
    batches: tuple[int, ...] = (1, 100, 1_000)
    connections: tuple[int, ...] = (1, 16)
    marks: int = 150
    receivers: tuple[int, ...] = (1, 50)
    deliveries: int = 4_000
    subscriptions: int = 1_000
    flat_series: int = 1_000
    stored: tuple[int, int] = (100_000, 1_000_000)
    rules: tuple[int, ...] = (1, 2, 10, 50)
    held: tuple[int, int, int] = (100, 10_000, 1_000_000)
    call: int = 1_000

    @property
    def spare_minutes(self) -> int:
        """How long before now the history ends: the runs report the minutes up to now.

        Generous, and short of the two weeks after which a shipped rule calls a feed stale.
        """
        return min(13 * 24 * 60, 600 + int(self.seconds * (self.runs + 1) * 500))


TINY = Plan(
    seconds=0.2,
    runs=1,
    series=100,
    samples=30,
    batches=(1, 50),
    connections=(1, 2),
    marks=5,
    receivers=(1, 2),
    deliveries=20,
    subscriptions=6,
    flat_series=50,
    stored=(1_500, 3_000),
    rules=(1, 10),
    held=(100, 200, 5_000),
    call=5,
)
"""Shows that everything works; its numbers mean nothing."""
