"""What is wrong with a profile: its own contradictions, and numbers that say not where from.

terms       parties, levels, clocks, goods, breaks: what is agreed
rules       what a rule is asked of, whom it believes, what it may do
detectors   how a rule looks: bands, baselines, units
parts       a profile taken apart
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from alerts.catalogue import Catalogue, Fault
from alerts.mechanisms import Profile
from alerts.mechanisms.soundness.parts import number_faults
from alerts.mechanisms.soundness.rules import rule_faults
from alerts.mechanisms.soundness.terms import term_faults

_UNNUMBERED = frozenset({"version"})


def check(profile: Profile, catalogue: Catalogue) -> tuple[Fault, ...]:
    """Everything in a profile that cannot be meant; empty when it may be used.

    Pointers are JSON pointers into the document as it is written.
    """
    return (
        *number_faults(profile),
        *term_faults(profile, catalogue),
        *rule_faults(profile, catalogue),
    )


def unsourced(document: Mapping[str, object]) -> tuple[Fault, ...]:
    """Numbers of a document as it is written that do not say where they come from.

    Every mapping that directly holds a number must have a ``source``, or stand in one that has,
    below the root. ``version`` needs none, and dates are text here.
    """
    return tuple(_unsourced(document, "", is_sourced=False, is_root=True))


def _unsourced(value: object, pointer: str, *, is_sourced: bool, is_root: bool) -> Iterator[Fault]:
    if isinstance(value, Mapping):
        is_sourced = is_sourced or (not is_root and bool(value.get("source")))
        for key, inner in value.items():
            if _is_number(inner) and not is_sourced and key not in _UNNUMBERED:
                detail = (
                    f"{key!r} is a number without a source: name one of `sources`, or our_design."
                )
                yield Fault(f"{pointer}/{key}", detail)
            yield from _unsourced(inner, f"{pointer}/{key}", is_sourced=is_sourced, is_root=False)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            if _is_number(inner) and not is_sourced:
                detail = "A number without a source: name one of `sources`, or our_design."
                yield Fault(f"{pointer}/{number}", detail)
            yield from _unsourced(
                inner, f"{pointer}/{number}", is_sourced=is_sourced, is_root=False
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
