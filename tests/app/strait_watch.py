"""A small mechanism of the tests' own: ships through straits, and the pressure on supply chains.

Its numbers never change, whatever the mechanisms that ship become.
"""

from __future__ import annotations

from pathlib import Path

from app.settings import Settings

MECHANISM = "strait-watch"
RULE = "transits"

PROFILE = """\
id: strait-watch
version: 1
title: Strait watch
summary: Ships passing straits against the weeks before, and the index of pressure.
reference_prefix: SW
valid_from: 2019-01-01
valid_until: 2099-12-31
validity_source: our_design
default_tlp: GREEN
alert_per: [place]
parties:
  - { code: OP, title: Operators of this service }
sectors: [shipping, all_sectors]
levels:
  - level: monitoring
    title: Monitoring
    meaning: Indicators are watched; no alert is open.
    set_by: [engine]
    source: our_design
  - level: early_warning
    title: Early warning
    meaning: Traffic or pressure is far from what is usual.
    set_by: [engine, any_party]
    source: our_design
closing:
  hold_days: 14
  fresh_observations: 2
  source: our_design
rules:
  - id: transits
    title: Ships passing
    version: 1
    family: quantity
    sectors: [shipping]
    indicators: [chokepoint_transits]
    raise_after: 1
    clear_after: 14
    detector:
      kind: percent_change
      direction: down
      mean_of: 7
      baseline: { kind: median_of_window, days: 84, guard_days: 14, min_observations: 60 }
      bands:
        - { severity: moderate, raise_at: -0.25, clear_at: -0.15 }
        - { severity: severe, raise_at: -0.50, clear_at: -0.40 }
      source: our_design
    source: our_design
  - id: pressure
    title: Pressure on supply chains
    version: 1
    family: pressure
    sectors: [all_sectors]
    indicators: [gscpi]
    raise_after: 1
    clear_after: 2
    detector:
      kind: bands
      direction: up
      bands:
        - { severity: minor, raise_at: 1, clear_at: 0.5 }
        - { severity: moderate, raise_at: 2, clear_at: 1.5 }
      source: [index, our_design]
    source: our_design
sources:
  index:
    title: "Federal Reserve Bank of New York, Global Supply Chain Pressure Index"
    address: https://www.newyorkfed.org/research/policy/gscpi
"""


def beside_the_shipped(settings: Settings, folder: Path) -> Settings:
    """Settings with the mechanism among the operator's own, which are below ``folder``."""
    own = settings.profiles_dir or folder / "own-profiles"
    own.mkdir(exist_ok=True)
    (own / f"{MECHANISM}.yaml").write_text(PROFILE)
    return settings.model_copy(update={"profiles_dir": own})
