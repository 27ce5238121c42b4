"""What may stand in a file of scenarios: its keys are the fields of these dataclasses."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from alerts.findings import State
from alerts.mechanisms import Level, SeriesBreak
from alerts.signals import Origin, Severity


class Advised(enum.StrEnum):
    """The level that is recommended, or none."""

    none = "none"
    early_warning = "early_warning"
    disruption = "disruption"
    crisis = "crisis"


@dataclass(frozen=True, slots=True)
class Named:
    """A series that the steps call by a short name; ``indicator`` or ``event``, as in a signal."""

    sector: str
    indicator: str = ""
    event: str = ""
    good: str = ""
    place: str = ""
    exercise: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What a partner reports or revises.

    ``values``, or ``value``, ``repeat`` times over, come one by one, ``every`` so long; null is a
    day without a report. ``observed`` is when the first of them was; without it, when it comes.
    """

    series: str
    value: float | None = None
    values: tuple[float | None, ...] = ()
    repeat: int = 1
    every: str = ""
    severity: Severity | None = None
    observed: str = ""
    partner: str = ""
    origin: Origin = Origin.assessment
    ref: str = ""
    reliability: str = ""
    announced: str = ""
    effective: str = ""


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What a partner takes back: its report of one instant of a series."""

    series: str
    observed: str
    partner: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """One transition as it must be; what is left out may be anything.

    ``at`` is the observation's own time, ``recorded`` that of the service. ``reason`` holds phrases
    that its sentence must contain, ``because`` phrases of the reasons for what is recommended.
    """

    type: str
    series: str = ""
    severity: Severity | None = None
    level: Level | None = None
    recommends: Advised | None = None
    at: str = ""
    recorded: str = ""
    reason: tuple[str, ...] = ()
    because: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stands:
    """How the finding of a rule must stand on a series; ``rule`` where more than one asks it."""

    series: str
    rule: str = ""
    state: State | None = None
    severity: Severity | None = None
    value: float | None = None
    compared: float | None = None
    baseline: float | None = None
    reason: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Open:
    """An alert that must be open: that which ``series`` may feed. ``why`` holds phrases of it."""

    series: str
    severity: Severity | None = None
    level: Level | None = None
    recommends: Advised | None = None
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One instant: what comes then, in one transaction, and how everything must stand after it.

    ``expect`` are all transitions since the step before, in order; ``alerts`` all open alerts.
    """

    at: str
    report: tuple[Told, ...] = ()
    revise: tuple[Told, ...] = ()
    retract: tuple[TakenBack, ...] = ()
    expect: tuple[Move, ...] = ()
    findings: tuple[Stands, ...] = ()
    alerts: tuple[Open, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story. ``shadow`` and ``breaks`` change the profile for it alone.

    ``always_in_force`` judges as if the profile had no first and last day; ``sweep_every`` is how
    often the service looks at what is due by time alone.
    """

    name: str
    steps: tuple[Step, ...]
    about: str = ""
    start: str = "2025-01-01"
    sweep_every: str = "1d"
    always_in_force: bool = False
    shadow: tuple[str, ...] = ()
    breaks: tuple[SeriesBreak, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """One file: the profile that judges, the series and partners its scenarios name.

    ``profile`` is the id of one that ships, or a path from the file's own folder. ``partners``
    gives for each partner the party it acts for; an empty text is none.
    """

    profile: str
    scenarios: tuple[Scenario, ...]
    series: Mapping[str, Named] = field(default_factory=dict)
    partners: Mapping[str, str] = field(default_factory=dict)
    about: str = ""
