"""What cannot be meant by a rule: what it is asked of, whom it believes, what it may do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from alerts.catalogue import Catalogue, Fault, nearest, unknown
from alerts.mechanisms import Profile
from alerts.mechanisms.soundness.detectors import detector_faults
from alerts.mechanisms.soundness.parts import ID
from alerts.mechanisms.soundness.terms import good_faults, place_faults
from alerts.rules import Combination, Combine, Effect, Measured, Rule, Trust

_GRADE = re.compile(r"[A-F][1-6]")

LONGEST_ID = 100
MOST_AFTER = 10_000
"""Waiting longer than this is never to fire, or never to clear."""


def rule_faults(profile: Profile, catalogue: Catalogue) -> Iterator[Fault]:
    siblings = {rule.id: rule for rule in profile.rules}
    counted = {
        name
        for rule in profile.rules
        if isinstance(rule.detector, Combination)
        for name in rule.detector.rules
    }
    for number, rule in enumerate(profile.rules):
        pointer = f"/rules/{number}"
        yield from _asks(profile, catalogue, rule, pointer)
        yield from _counts(rule, pointer)
        yield from _time(profile, rule, pointer)
        if rule.trust is not None:
            yield from _trust(rule.trust, f"{pointer}/trust")
        if rule.effect is Effect.component and rule.id not in counted:
            detail = f"No combination counts {rule.id}, so it would do nothing."
            yield Fault(f"{pointer}/effect", detail)
        yield from detector_faults(rule, siblings, catalogue, pointer)


def _asks(profile: Profile, catalogue: Catalogue, rule: Rule, pointer: str) -> Iterator[Fault]:
    for number, sector in enumerate(rule.sectors):
        if sector not in profile.sectors:
            detail = f"{sector!r} is not a sector of this mechanism."
            yield Fault(f"{pointer}/sectors/{number}", detail, nearest(sector, profile.sectors))
    is_combination = isinstance(rule.detector, Combination)
    kind = "event" if rule.is_event else "indicator"
    known: Mapping[str, object] = catalogue.events if rule.is_event else catalogue.indicators
    of_sector = catalogue.events_of if rule.is_event else catalogue.indicators_of
    for number, code in enumerate(rule.indicators):
        place = f"{pointer}/indicators/{number}"
        if code not in known:
            yield unknown(place, kind, code, known)
        elif not any(code in of_sector(sector) for sector in rule.sectors):
            yield Fault(place, f"No sector of the rule has the {kind} {code}.")
    for name in ("sectors", "indicators"):
        # A combination is asked of findings; it needs no indicators.
        if not getattr(rule, name) and not (name == "indicators" and is_combination):
            yield Fault(f"{pointer}/{name}", f"A rule names at least one of its {name}.")
    for number, code in enumerate(rule.goods):
        yield from good_faults(rule.sectors, catalogue, code, f"{pointer}/goods/{number}")
    for number, code in enumerate(rule.places):
        yield from place_faults(catalogue, code, f"{pointer}/places/{number}")


def _counts(rule: Rule, pointer: str) -> Iterator[Fault]:
    if not ID.fullmatch(rule.id):
        yield Fault(f"{pointer}/id", f"{rule.id!r} must be lower-case words joined by '-'.")
    elif len(rule.id) > LONGEST_ID:
        yield Fault(f"{pointer}/id", f"An id has at most {LONGEST_ID} characters.")
    if not rule.title.strip():
        yield Fault(f"{pointer}/title", "Sentences name the rule by its title; give it one.")
    for name in ("version", "raise_after", "clear_after"):
        if getattr(rule, name) < 1:
            yield Fault(f"{pointer}/{name}", f"{name} counts from 1.")
    for name in ("raise_after", "clear_after"):
        if getattr(rule, name) > MOST_AFTER:
            said = f"At most {MOST_AFTER:,} observations are waited for."
            yield Fault(f"{pointer}/{name}", said)
    if rule.young_until is not None and rule.young_until < 1:
        yield Fault(f"{pointer}/young_until", "A series has at least one observation.")
    if rule.young_until is not None and not isinstance(rule.detector, Measured):
        detail = "Only a rule that reads one series can tell how young it is."
        yield Fault(f"{pointer}/young_until", detail)
    freshness = rule.freshness
    if freshness is not None and not (
        0 < freshness.stale_after_days < freshness.no_data_after_days
    ):
        detail = "A finding must first become stale, then be without data, both after some days."
        yield Fault(f"{pointer}/freshness", detail)


def _time(profile: Profile, rule: Rule, pointer: str) -> Iterator[Fault]:
    day = rule.effective_from
    if day is not None and not profile.in_force(day):
        detail = (
            f"{day} lies outside the validity of the profile, "
            f"{profile.valid_from} to {profile.valid_until}."
        )
        yield Fault(f"{pointer}/effective_from", detail)


def _trust(trust: Trust, pointer: str) -> Iterator[Fault]:
    if trust.parties < 1:
        yield Fault(f"{pointer}/parties", "At least one party must report an observation.")
    if trust.least_reliability and not _GRADE.fullmatch(trust.least_reliability):
        detail = (
            f"{trust.least_reliability!r} is no grade: a source from A to F and "
            f"information from 1 to 6, such as B2."
        )
        yield Fault(f"{pointer}/least_reliability", detail)
    if trust.weights and trust.combine is not Combine.weighted_median:
        detail = f"Weights matter to a weighted_median, and not to a {trust.combine}."
        yield Fault(f"{pointer}/weights", detail)
    for name, weight in trust.weights.items():
        if not weight > 0:
            yield Fault(f"{pointer}/weights/{name}", "A weight is above 0.")
