"""The same history under other numbers: a sweep of one, or other profiles side by side."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import yaml

from alerts.catalogue import Catalogue
from alerts.mechanisms import Profile
from app import documents
from app.backtest.reading import series_name
from app.backtest.report import Document, Report
from app.documents import DocumentFaulty, ProfileDocument
from app.settings import Unusable

POINTS_AT_MOST = 100

_SWEEP = re.compile(r"(?P<name>[^=]+)=(?P<first>[^:]+):(?P<last>[^:]+):(?P<step>[^:]+)")

SHORT = {
    "band": "raise_at and clear_at of every band, times",
    "ratio": "ratio of every agreement",
}
"""The short names of a sweep, and what they mean."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a swept number, and the profile that has it."""

    value: float
    profile: Profile


@dataclass(slots=True)
class Outcome:
    """Everything one backtest found: the report, profiles beside it, and the points of a sweep."""

    report: Report
    compared: Sequence[Report] = ()
    sweep: str = ""
    swept: Sequence[tuple[Point, Report]] = ()

    def document(self) -> Document:
        """The report's document, with ``compare`` and ``sweep`` where they were asked for."""
        found = self.report.document()
        if self.compared:
            found["compare"] = [
                {
                    **summary(report),
                    "pairs": [
                        {
                            "id": pair.label.id,
                            "series": series_name(pair.series),
                            "outcome": pair.outcome.value,
                            "lead_days": pair.lead_days,
                        }
                        for pair in report.score.pairs
                    ],
                }
                for report in self.compared
            ]
        if self.swept:
            found["sweep"] = {
                "name": self.sweep.partition("=")[0],
                "points": [{"value": p.value, **summary(r)} for p, r in self.swept],
            }
        return found


_SUMMED = (
    "profile", "profile_version", "series", "hits", "covered", "misses", "false_episodes", "pod",
    "far", "csi", "false_per_series_year", "lead_days", "timely", "notifications_per_month",
)  # fmt: skip


def summary(report: Report) -> Document:
    """The numbers of a report without its lists."""
    document = report.document()
    return {name: document[name] for name in _SUMMED}


def points(document: ProfileDocument, sweep: str, catalogue: Catalogue) -> list[Point]:
    """The profiles of a sweep such as ``band=0.7:0.9:0.05``; both ends belong to it.

    Args:
        document: the profile whose number is swept.
        sweep: the number's address and its values. The address is the id of a rule and the way
            from there, such as ``chokepoint-transits.detector.bands.0.raise_at``, or a name in
            ``SHORT``.
        catalogue: what the profiles are checked against.

    Raises:
        Unusable: it cannot be read, or a point of it is no sound profile.
    """
    name, values = _values(sweep)
    found: list[Point] = []
    for value in values:
        content = copy.deepcopy(dict(document.content))
        _set(content, name, value)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        try:
            profile = documents.load_profile(text, catalogue)
        except DocumentFaulty as error:
            why = " ".join(fault.detail for fault in error.faults[:3])
            raise Unusable(f"The sweep's point {name}={value} is unsound: {why}") from None
        found.append(Point(float(value), profile))
    return found


def _values(sweep: str) -> tuple[str, list[Decimal]]:
    match = _SWEEP.fullmatch(sweep.strip())
    if match is None:
        raise Unusable(f"The sweep {sweep!r} is not written NAME=FIRST:LAST:STEP.")
    try:
        first, last, step = (Decimal(match[part]) for part in ("first", "last", "step"))
    except InvalidOperation:
        raise Unusable(f"The sweep {sweep!r} has something in it that is not a number.") from None
    if not (first.is_finite() and last.is_finite() and step.is_finite()):
        raise Unusable(f"The sweep {sweep!r} has something in it that is not a finite number.")
    if max(abs(n.adjusted()) for n in (first, last, step)) > 300:
        raise Unusable(f"The sweep {sweep!r} has a number in it that is too large or too small.")
    if not step or (last - first) / step < 0:
        raise Unusable(f"The sweep {sweep!r} never reaches its last value.")
    steps = (last - first) / step
    if steps >= POINTS_AT_MOST:
        count = int(steps) + 1 if steps < 10**12 else f"{steps:.0e}"
        raise Unusable(
            f"The sweep {sweep!r} has {count} points; at most {POINTS_AT_MOST} are drawn."
        )
    count = int(steps) + 1
    return match["name"].strip(), [first + n * step for n in range(count)]


def _set(content: dict[str, Any], name: str, value: Decimal) -> None:
    rules = content["rules"]
    if name == "band":
        scaled = [band for rule in rules for band in rule["detector"].get("bands", ())]
        if not scaled:
            raise Unusable("No rule of the profile has bands to sweep.")
        for band in scaled:
            for end in ("raise_at", "clear_at"):
                band[end] = float(Decimal(str(band[end])) * value)
        return
    if name == "ratio":
        agreeing = [r["detector"] for r in rules if r["detector"].get("kind") == "agreement"]
        if not agreeing:
            raise Unusable("No rule of the profile is an agreement with a ratio to sweep.")
        for detector in agreeing:
            detector["ratio"] = float(value)
        return
    rule_id, _, path = name.partition(".")
    rule = next((r for r in rules if r["id"] == rule_id), None)
    if rule is None or not path:
        known = ", ".join([*SHORT, *(f"{r['id']}.…" for r in rules)])
        raise Unusable(f"There is nothing to sweep at {name!r}; use one of {known}.")
    holder, last = _walk(rule, name, path.split("."))
    before = holder[last]
    if isinstance(before, bool) or not isinstance(before, int | float):
        raise Unusable(f"What stands at {name!r} is {before!r}, not a number.")
    is_whole = isinstance(before, int) and value == value.to_integral_value()
    holder[last] = int(value) if is_whole else float(value)


def _walk(rule: Any, name: str, steps: Sequence[str]) -> tuple[Any, Any]:
    """Where a number stands: what holds it, and its key or place there."""
    holder: Any = rule
    last: Any = None
    for n, step in enumerate(steps):
        last = int(step) if isinstance(holder, list) and step.isdecimal() else step
        try:
            inner = holder[last]
        except (KeyError, IndexError, TypeError):
            raise Unusable(f"There is no {'.'.join(steps[: n + 1])} in {name!r}.") from None
        if n < len(steps) - 1:
            holder = inner
    return holder, last
