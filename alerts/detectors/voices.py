"""Several partners on one observation: which value they make together, and who must agree."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from statistics import median

from alerts.detectors.baselines import mean
from alerts.detectors.events import independent
from alerts.rules import Combine, Trust
from alerts.signals import Voice

_value = attrgetter("value")


def heard(trust: Trust, voices: Sequence[Voice]) -> list[Voice]:
    """The voices that are reliable enough, by value; one without a grade is not, where one is asked."""
    least = trust.least_reliability
    kept = [v for v in voices if not least or _reaches(v.reliability, least)]
    return sorted(kept, key=lambda v: (v.value, v.partner))


def _reaches(grade: str, least: str) -> bool:
    """Whether both the source (A to F) and the information (1 to 6) are at least as good."""
    return bool(grade) and grade[0] <= least[0] and grade[1] <= least[1]


def combined(trust: Trust, voices: Sequence[Voice]) -> float:
    """The one value that several voices, at least one, make of an observation."""
    values = [v.value for v in voices]
    match trust.combine:
        case Combine.median:
            return median(values)
        case Combine.mean:
            return mean(values)
        case Combine.latest:
            return max(voices, key=lambda v: (v.received_at, v.partner)).value
        case Combine.lowest:
            return min(values)
        case Combine.highest:
            return max(values)
        case Combine.sum:
            return sum(values)
        case Combine.weighted_median:
            return _weighted_median(trust, voices)


def _weighted_median(trust: Trust, voices: Sequence[Voice]) -> float:
    """The value at which half of the weight lies on either side; between two, their mean."""
    ordered = sorted(voices, key=_value)
    weights = [_weight(trust, v) for v in ordered]
    half, below = sum(weights) / 2, 0.0
    for place, (voice, weight) in enumerate(zip(ordered, weights, strict=True)):
        below += weight
        if below > half or place == len(ordered) - 1:
            return voice.value
        if below == half:
            return (voice.value + ordered[place + 1].value) / 2
    raise ValueError("there is no voice to combine")


def _weight(trust: Trust, voice: Voice) -> float:
    return trust.weights.get(voice.name, trust.weights.get(voice.party, 1.0))


def believed(trust: Trust, backing: Sequence[Voice]) -> bool:
    """Whether those who report it are enough to raise on it (MECHANISMS invariant 7).

    One official origin is. Otherwise so many are needed of which no two share a party or an
    origin reference: one party counts once, and one story once however many repeat it.
    """
    if any(v.origin in trust.official_origins for v in backing):
        return True
    told: dict[str, set[str]] = {}
    for voice in backing:
        speaker = voice.party or f"partner {voice.partner}"
        told.setdefault(speaker, set()).add(voice.origin_ref or f"word of {speaker}")
    return independent(told) >= trust.parties


def lacking(trust: Trust, backing: Sequence[Voice]) -> str:
    """What is still needed before it is believed, in words."""
    parties = {v.party or f"partner {v.partner}" for v in backing}
    official = ", or one official source" if trust.official_origins else ""
    return (
        f"{trust.parties} parties must report it independently{official}; "
        f"{len(parties)} of them {'does' if len(parties) == 1 else 'do'}"
    )
