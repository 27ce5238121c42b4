"""Detectors: rule + window -> reading. Each is a pure function that says one thing once.

A reading that cannot be made says why (``undefined``); it is never "ok" and never infinite.

    reading     what is said, and how a value is compared with bands
    baselines   which earlier observations a value is compared with
    change      bands, percent change, rate of change, runs, hazards at sites
    charts      z-scores and control charts: EWMA, CUSUM, EARS
    agreement   self-calibrated agreement of several views
    joint       several series, or other findings, of one subject
    events      reports of events and their corroboration
    screens     whether a sample is surely calm, on bare numbers
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from alerts.detectors.agreement import Views, reach_of_agreement, read_agreement
from alerts.detectors.baselines import reach_of_baseline
from alerts.detectors.change import (
    read_bands,
    read_percent_change,
    read_rate_of_change,
    read_run,
    read_site_hazard,
)
from alerts.detectors.charts import (
    reach_of_ears,
    read_cusum,
    read_ears,
    read_ewma,
    read_z_score,
)
from alerts.detectors.joint import panel_reach
from alerts.detectors.reading import Reach, Reading
from alerts.rules import (
    Agreement,
    Bands,
    Composite,
    Concentration,
    Cusum,
    Ears,
    Ewma,
    Measured,
    PercentChange,
    RateOfChange,
    Rule,
    Run,
    SiteHazard,
    Surge,
    ZScore,
)
from alerts.signals import Sample


def read(
    detector: Measured,
    window: Sequence[Sample],
    frozen_at: datetime | None = None,
    *,
    place: str = "",
    views: Views | None = None,
) -> Reading:
    """Reads the newest sample of ``window``, judged against those before it.

    Args:
        detector: what to ask.
        window: samples oldest first, the tested one last; gaps allowed; values in the
            indicator's unit. It must reach back as far as ``reach`` says; what lies further back
            changes nothing.
        frozen_at: baselines use only samples before this instant (a finding's or alert's onset),
            so that a crisis does not become the new normal. EARS, runs, rates of change and the
            changes among the views of an agreement are about the newest observations, and are
            not frozen.
        place: where the series is observed; hazards at sites look it up.
        views: what an agreement remembers of this series (``views_of``), or nothing.
    """
    match detector:
        case Bands():
            return read_bands(detector, window)
        case PercentChange():
            return read_percent_change(detector, window, frozen_at)
        case ZScore():
            return read_z_score(detector, window, frozen_at)
        case Ewma():
            return read_ewma(detector, window, frozen_at)
        case Cusum():
            return read_cusum(detector, window, frozen_at)
        case Ears():
            return read_ears(detector, window)
        case RateOfChange():
            return read_rate_of_change(detector, window)
        case Run():
            return read_run(detector, window)
        case SiteHazard():
            return read_site_hazard(detector, window, place)
        case Agreement():
            return read_agreement(detector, window, frozen_at, views)
        case _ as never:
            assert_never(never)


def reach(detector: Measured) -> Reach:
    """How far before the tested sample, or before the frozen onset, the window must reach."""
    match detector:
        case Bands() | SiteHazard():
            return Reach()
        case PercentChange() | ZScore():
            span, observations = reach_of_baseline(detector.baseline)
            return Reach(span, observations + detector.mean_of - 1)
        case Ewma() | Cusum():
            span, observations = reach_of_baseline(detector.baseline)
            return Reach(span, observations + detector.run - 1)
        case Ears():
            return Reach(observations=reach_of_ears(detector))
        case RateOfChange():
            return Reach(observations=detector.observations - 1)
        case Run():
            return Reach(observations=detector.longest)
        case Agreement():
            return Reach(observations=reach_of_agreement(detector))
        case _ as never:
            assert_never(never)


def reach_of(rule: Rule) -> Reach:
    """How far back a rule looks on one series: its detector, and whether the series is young."""
    if isinstance(rule.detector, Concentration | Surge | Composite):
        return panel_reach(rule.detector)
    if not isinstance(rule.detector, Measured):
        return Reach()
    span, observations = reach(rule.detector)
    return Reach(span, max(observations, rule.young_until or 0))


def views_of(detector: Measured) -> Views | None:
    """A fresh memory of one series for detectors that have one."""
    return Views(detector) if isinstance(detector, Agreement) else None
