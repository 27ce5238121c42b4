"""An alert and a transition as documents: what all doors show and every format is written from.

Field names are a promise: more may be added, none changes its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from alerts import explanation
from alerts.explanation import instant
from alerts.lifecycle import Alert, Transition
from alerts.signals import Severity

LONGEST_DATA = 20_000
"""Bytes of a webhook's ``data``: what receivers take without trouble; more is behind the links."""

MOST_REFERENCES = 50
"""An alert that moved more often names its opening and the newest of its other transitions."""


def alert_document(alert: Alert, findings: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """An alert as JSON-ready values, in the order they are published.

    Args:
        alert: the alert.
        findings: its findings as ``explanation.describe`` gives them.
    """
    scope = alert.scope
    return {
        "ref": alert.ref,
        "mechanism": scope.mechanism,
        "sector": scope.sector,
        "good": scope.good or None,
        "place": scope.place or None,
        "level": alert.level.name,
        "state": alert.state.value,
        "severity": alert.severity.name,
        "title": alert.title,
        "why": alert.why,
        "opened_at": instant(alert.opened_at),
        "updated_at": instant(alert.updated_at),
        "resolved_at": instant(alert.resolved_at),
        "recorded_at": instant(alert.recorded_at),
        "validated": alert.validated,
        "tlp": alert.tlp.value,
        "exercise": scope.exercise or None,
        "findings": [{name: finding[name] for name in _SHORT} for finding in findings],
        "recommendation": explanation.recommendation(alert.recommendation),
        "positions": {},
        "clocks": [],
        "references": earlier(alert.ref, alert.number),
        "links": {
            "self": f"/v1/alerts/{alert.ref}",
            "timeline": f"/v1/alerts/{alert.ref}/timeline",
            "explanation": f"/v1/alerts/{alert.ref}/explanation",
            "page": f"/alerts/{alert.ref}",
        },
    }


_SHORT = ("rule", "series_id", "state", "severity", "value", "unit", "observed_at")


def transition_document(ref: str, transition: Transition) -> dict[str, object]:
    """A transition as JSON-ready values; ``at`` is observation time, ``recorded_at`` ours."""
    return {
        "id": transition_id(ref, transition.number),
        "number": transition.number,
        "type": transition.type.value,
        "from": transition.level_from.name,
        "to": transition.level_to.name,
        "severity_from": transition.severity_from.name,
        "severity_to": transition.severity_to.name,
        "reason": transition.reason,
        "at": instant(transition.at),
        "recorded_at": instant(transition.recorded_at),
        "decided_by": transition.decided_by,
        "explanation": transition.explanation,
    }


def earlier(ref: str, number: int) -> list[str]:
    """The transitions before one, oldest first: the opening and the newest of the others."""
    return [transition_id(ref, n) for n in earlier_numbers(number)]


def earlier_numbers(number: int) -> list[int]:
    """The numbers of the transitions that ``earlier`` names."""
    numbers = range(1, number)
    return [*numbers[:1], *numbers[1:][-(MOST_REFERENCES - 1) :]]


def transition_id(ref: str, number: int) -> str:
    """The name of a transition wherever one is referred to."""
    return f"{ref}/{number}"


def render(alert: Alert, transition: Transition, findings: Sequence[Mapping[str, object]]) -> str:
    """The ``data`` of a webhook: rendered once, in the transaction that owes it, never again.

    Where many findings would make it longer than ``LONGEST_DATA`` bytes, the gravest stay and
    ``findings_left_out`` says how many did not; the alert's own page has them all.
    """
    kept = list(findings)
    folded: Sequence[object] = transition.explanation.get("folded", ())  # type: ignore[assignment]
    told = len(folded)
    while True:
        if told < len(folded):  # The gravest come first.
            shorter = {**transition.explanation, "folded": folded[:told]}
            transition = replace(transition, explanation=shorter)
        text = json.dumps(
            _data(alert, transition, kept, len(findings) - len(kept)),
            ensure_ascii=False,
            separators=(",", ":"),
            allow_nan=False,
        )
        if len(text.encode()) <= LONGEST_DATA or not (kept or told):
            return text
        if kept:
            kept = _gravest(kept, len(kept) * 3 // 4)
        else:
            told = told * 3 // 4


def _data(
    alert: Alert, transition: Transition, kept: Sequence[Mapping[str, object]], left_out: int
) -> dict[str, object]:
    document = transition_document(alert.ref, transition)
    document["explanation"] = {**transition.explanation, "findings": kept}
    data: dict[str, object] = {
        "alert": alert_document(alert, kept),
        "transition": document,
        "references": earlier(alert.ref, transition.number),
    }
    return {**data, "findings_left_out": left_out} if left_out else data


def _gravest(findings: Sequence[Mapping[str, object]], count: int) -> list[Mapping[str, object]]:
    """That many of the findings, the gravest, in their own order."""
    ranked = sorted(findings, key=lambda f: Severity[str(f["severity"])], reverse=True)
    kept = {id(f) for f in ranked[:count]}
    return [f for f in findings if id(f) in kept]
