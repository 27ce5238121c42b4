"""A profile taken apart: every dataclass in it with where it stands, and every number."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date

from alerts.catalogue import Fault, Indicator
from alerts.mechanisms import Profile

OUR_DESIGN = "our_design"
"""The source of a number that no public text gives."""

LONGEST_DAYS = 36_525
"""No rule looks or waits longer than a century; beyond lie dates that no calendar has."""

MOST_OBSERVATIONS = 100_000
"""No rule looks back on more: that is 270 years of days. It bounds what one reading can cost."""

ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_DAYS = re.compile(r"days|[a-z_]+_days")
_COUNTS = frozenset(
    {"observations", "min_observations", "guard", "back", "mean_of", "run", "longest", "memory"}
    | {"min_memory", "long_observations", "changes", "change_over", "of", "years"}
)


_WHOLE = (str, int, float, date, type(None))
"""What has no parts; most of a profile is such, and asking it for parts would be most of the work."""


def parts_of(value: object, pointer: str = "") -> Iterator[tuple[str, object]]:
    """A dataclass and every dataclass within it, with JSON pointers."""
    if dataclasses.is_dataclass(value):
        yield pointer, value
    for name, part in _inner(value):
        if not isinstance(part, _WHOLE):
            yield from parts_of(part, f"{pointer}/{name}")


def number_faults(profile: Profile) -> Iterator[Fault]:
    """Numbers that cannot be compared, and spans and counts beyond all use."""
    for pointer, name, number in _numbers(profile, "", ""):
        if not -math.inf < number < math.inf:
            yield Fault(pointer, f"{number} is not a number that can be compared.")
        elif _DAYS.fullmatch(name) and number > LONGEST_DAYS:
            yield Fault(pointer, f"At most {LONGEST_DAYS} days, a century, are looked at.")
        elif name in _COUNTS and number > MOST_OBSERVATIONS:
            yield Fault(pointer, f"At most {MOST_OBSERVATIONS} observations are looked back on.")


def _numbers(value: object, pointer: str, name: str) -> Iterator[tuple[str, str, float]]:
    """Every number, with its pointer and the field that holds it."""
    if isinstance(value, _WHOLE):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield pointer, name, value
        return
    for step, part in _inner(value):
        yield from _numbers(part, f"{pointer}/{step}", step if isinstance(step, str) else name)


def _inner(value: object) -> Iterable[tuple[object, object]]:
    """What a value is made of, by name or number."""
    if dataclasses.is_dataclass(value):
        return ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    if isinstance(value, tuple):
        return enumerate(value)
    if isinstance(value, Mapping):
        return value.items()
    return ()


def twice(words: Sequence[object], pointer: str, key: str = "") -> Iterator[Fault]:
    """The faults of entries of one list that are the same."""
    seen: set[object] = set()
    for number, word in enumerate(words):
        if word in seen:
            yield Fault(f"{pointer}/{number}{key}", f"{word!r} is there twice.")
        seen.add(word)


def codes(known: Sequence[Indicator]) -> str:
    """The indicators in words."""
    return " and ".join(indicator.code for indicator in known)


def bounds(known: Sequence[Indicator]) -> tuple[float | None, float | None]:
    """The least and the most that any of the indicators can be; None where one is not bounded."""
    low = [i.minimum for i in known if i.minimum is not None]
    high = [i.maximum for i in known if i.maximum is not None]
    return (
        min(low) if low and len(low) == len(known) else None,
        max(high) if high and len(high) == len(known) else None,
    )
