"""Which fault comes when: the same for the same seed."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from random import Random


class Kind(enum.StrEnum):
    """What is done."""

    kill_service = "a service killed"
    restart_service = "a service restarted"
    pause_service = "a service paused"
    kill_postgres = "PostgreSQL killed"
    kill_backend = "a process of PostgreSQL killed"
    restart_postgres = "PostgreSQL restarted"
    pause_postgres = "PostgreSQL paused"
    cut = "connections to PostgreSQL cut"
    hold_up = "connections to PostgreSQL held up"
    fill_disk = "the disk filled"
    step_clock = "a clock stepped"
    kill_receiver = "a receiver killed"


_DECK = (
    *(Kind.kill_service,) * 4,
    *(Kind.restart_service,) * 2,
    *(Kind.pause_service,) * 3,
    *(Kind.kill_backend,) * 2,
    Kind.kill_postgres,
    Kind.restart_postgres,
    Kind.pause_postgres,
    *(Kind.cut,) * 2,
    Kind.hold_up,
    Kind.fill_disk,
    *(Kind.step_clock,) * 2,
    *(Kind.kill_receiver,) * 2,
)
"""Dealt in random order, again and again, so that a short plan has some of everything."""

_STEPS = (-3_600.0, -240.0, -20.0, 20.0, 3_600.0, 259_200.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing done, so many seconds after the one before, to the target of that number.

    One that ``is_kind`` waits until the system has recovered from those before; the others hit it while it
    recovers. ``seconds`` is how long it lasts; ``ahead`` by how much a clock is stepped.
    """

    kind: Kind
    target: int
    after: float
    is_kind: bool
    seconds: float = 0.0
    ahead: float = 0.0


def plan(seed: int, count: int, *, lease_seconds: float) -> list[Fault]:
    """The first faults of a seed. How many of them happen is up to the time there is.

    Pauses of services are longer than the lease of what they hold, so that others take it over.
    """
    dice = Random(seed)
    faults: list[Fault] = []
    deck: list[Kind] = []
    for _ in range(count):
        if not deck:
            deck = list(_DECK)
            dice.shuffle(deck)
        kind = deck.pop()
        lasts = {
            Kind.pause_service: lease_seconds + 0.5 + dice.random() * 3,
            Kind.pause_postgres: 0.5 + dice.random() * 3,
            Kind.hold_up: 0.5 + dice.random() * 4,
            Kind.fill_disk: 1 + dice.random() * 3,
            Kind.step_clock: 2 + dice.random() * 6,
        }.get(kind, 0.0)
        after, is_kind = 0.3 + dice.random() * 1.5, dice.random() < 0.6
        ahead = dice.choice(_STEPS) if kind is Kind.step_clock else 0.0
        faults.append(Fault(kind, dice.randrange(2**16), after, is_kind, lasts, ahead))
    return faults
