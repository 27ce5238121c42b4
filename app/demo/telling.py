"""How the demo tells what happens: one line for a webhook, one table at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

SEVERITIES = ("none", "minor", "moderate", "severe", "extreme")
"""From harmless to worst; the order in which they are compared."""

LOOKS = {
    "none": ("○", "green"),
    "minor": ("●", "yellow"),
    "moderate": ("▲", "dark_orange"),
    "severe": ("◆", "red"),
    "extreme": ("■", "magenta"),
}
"""Shape and colour of a severity; the shape and the word say it without the colour."""

WORDS = {
    "alert.opened": "opens",
    "alert.updated": "goes on",
    "alert.escalated": "rises",
    "alert.eased": "eases",
    "alert.resolved": "resolves",
}


def severity(word: str | None) -> Text:
    """A severity as shape, word and colour."""
    shape, colour = LOOKS.get(word or "none", ("·", "white"))
    return Text(f"{shape} {word or 'none':<8}", style=colour)


def line(told: Mapping[str, Any]) -> Text:
    """One webhook as one line: day in history, reference, what happened, how bad, what and why."""
    kind = str(told.get("type"))
    about = str(told.get("title") or "")
    why = str(told.get("reason") or told.get("why") or "")
    if about.rsplit(" (", 1)[0].lower() in why.lower():
        about = ""
    text = Text.assemble(
        (f"{str(told.get('at') or '')[:10]:<10}", "cyan"),
        "  ",
        (f"{told.get('ref') or '':<18}", "bold"),
        "  ",
        f"{WORDS.get(kind, kind):<8}  ",
        severity(told.get("severity")),
        "  ",
        (f"{about}: " if about else "", "bold"),
        why,
    )
    if told.get("recommended"):
        text.append(f" ⇒ {told['recommended']} recommended", style="bold magenta")
    return text


def refusal(fault: Mapping[str, Any]) -> Text:
    """Why the service refused one signal."""
    return Text(f"refused: {fault}", style="bold red")


@dataclass(slots=True)
class Episode:
    """One alert as its webhooks told it."""

    ref: str
    title: str = ""
    opened: str = ""
    resolved: str = ""
    severity: str = "none"
    worst: str = "none"
    recommended: str = ""

    def hear(self, told: Mapping[str, Any]) -> None:
        """Takes in one more webhook of this alert."""
        day = str(told.get("at") or "")[:10]
        self.title = str(told.get("title") or self.title)
        self.severity = str(told.get("severity") or "none")
        self.worst = max(self.worst, self.severity, key=_rank)
        if told.get("type") == "alert.opened":
            self.opened = day
        if told.get("type") == "alert.resolved":
            self.resolved = day
        if told.get("recommended"):
            self.recommended = str(told["recommended"])


@dataclass(slots=True)
class Story:
    """All that the receiver has told: episodes by reference, and the counts that are shown.

    ``verified`` counts distinct webhooks whose signature held, the endpoint's challenge left out.
    """

    episodes: dict[str, Episode] = field(default_factory=dict)
    sequences: set[int] = field(default_factory=set)
    verified: int = 0
    failed: int = 0
    duplicates: int = 0

    def hear(self, told: Mapping[str, Any]) -> bool:
        """Takes in one line of the receiver; whether it is news about an alert."""
        if not told.get("verified"):
            self.failed += 1
            return False
        if told.get("duplicate"):
            self.duplicates += 1
            return False
        if not str(told.get("type")).startswith("alert."):
            return False
        self.verified += 1
        self.sequences.add(int(told["sequence"]))
        ref = str(told["ref"])
        self.episodes.setdefault(ref, Episode(ref)).hear(told)
        return True


def table(episodes: Iterable[Episode]) -> Table:
    """What happened, one row an alert, in the order they opened."""
    shown = Table(title="What happened", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("alert", "about", "opened", "resolved", "worst", "now", "recommended"):
        shown.add_column(heading, no_wrap=heading != "about")
    for episode in sorted(episodes, key=lambda e: (e.opened, e.ref)):
        shown.add_row(
            episode.ref,
            episode.title,
            episode.opened,
            episode.resolved or "open",
            severity(episode.worst),
            severity(episode.severity),
            episode.recommended,
        )
    return shown


def _rank(word: str) -> int:
    return SEVERITIES.index(word) if word in SEVERITIES else 0
