"""A report on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from app.backtest.report import Document
from app.backtest.variants import Outcome

COMPARED = (
    ("hits", "hits"),
    ("covered", "of them covered"),
    ("misses", "misses"),
    ("false_episodes", "false episodes"),
    ("pod", "POD"),
    ("far", "FAR"),
    ("csi", "CSI"),
    ("false_per_series_year", "false a series-year"),
    ("timely", "timely"),
    ("notifications_per_month", "notifications a month"),
)
"""The numbers of a summary, in the order they are shown, and their names."""


def show(outcome: Outcome) -> None:
    """Prints everything found, most important first."""
    console = Console(highlight=False)
    document = outcome.document()
    console.print(
        f"{document['profile']} version {document['profile_version']}: {document['series']} series, "
        f"{document['series_years']:.1f} series-years, {document['samples']:,} samples"
    )
    console.print(_table(("", ""), [(name, number(document[key])) for key, name in COMPARED]))
    console.print(leads(document["lead_days"]))
    _list(
        console,
        "Disruptions",
        ("disruption", "series", "start", "outcome", "lead"),
        pairs(document),
    )
    _list(
        console,
        "Episodes",
        ("opened", "resolved", "series", "worst", "what it was"),
        episodes(document),
    )
    _list(console, "Not scored", ("label", "series", "why"), unscored(document))
    if outcome.compared:
        columns = ["", *(f"{s['profile']} {s['profile_version']}" for s in document["compare"])]
        _list(console, "Compared", columns, compared(document))
    if outcome.swept:
        _list(console, f"Sweep of {document['sweep']['name']}", SWEEP_COLUMNS, swept(document))
    for said in document["notes"]:
        console.print(said)


def pairs(document: Document) -> list[tuple[str, ...]]:
    """Each disruption on a series: id, series, start, outcome, lead in days."""
    return [
        (
            p["id"],
            p["series"],
            p["start"],
            f"{p['outcome']}{': ' + p['why'] if p['why'] else ''}",
            number(p["lead_days"]),
        )
        for p in document["pairs"]
    ]


def episodes(document: Document) -> list[tuple[str, ...]]:
    """Each episode: opened, resolved, series, worst severity, what it was."""
    return [
        (
            e["opened"][:10],
            (e["resolved"] or "lasts")[:10],
            e["series"],
            e["peak_severity"],
            " ".join(word for word in (e["verdict"], e["label"] or _near(e)) if word),
        )
        for e in document["episodes"]
    ]


def _near(episode: Document) -> str:
    unscored_label = episode["unscored_label"]
    return f"(in the window of {unscored_label}, not scored)" if unscored_label else ""


def unscored(document: Document) -> list[tuple[str, ...]]:
    """Each label that was not scored: id, series, why."""
    return [(u["id"], u["series"] or "", u["why"]) for u in document["unscored"]]


def compared(document: Document) -> list[tuple[str, ...]]:
    """The numbers of the compared profiles, then what became of each pair under each."""
    profiles: Sequence[Document] = document["compare"]
    rows = [(name, *(number(p[key]) for p in profiles)) for key, name in COMPARED]
    rows.append(("median lead", *(number(p["lead_days"]["median"]) for p in profiles)))
    outcomes = [{(q["id"], q["series"]): q["outcome"] for q in p["pairs"]} for p in profiles]
    places = sorted({place for found in outcomes for place in found})
    rows += [(" ".join(p), *(found.get(p, "not scored") for found in outcomes)) for p in places]
    return rows


SWEEP_COLUMNS = (
    "value", "hits", "misses", "false", "POD", "FAR", "CSI", "false a series-year", "median lead",
)  # fmt: skip


def swept(document: Document) -> list[tuple[str, ...]]:
    """The points of a sweep, in the columns of ``SWEEP_COLUMNS``."""
    return [
        (
            f"{p['value']:g}",
            *(number(p[k]) for k in ("hits", "misses", "false_episodes", "pod", "far", "csi")),
            number(p["false_per_series_year"]),
            number(p["lead_days"]["median"]),
        )
        for p in document["sweep"]["points"]
    ]


def leads(lead_days: Document) -> str:
    """The lead times in a sentence."""
    if not lead_days["pairs"]:
        return "No lead time: no pair was hit."
    said = (
        f"Lead on the start: median {number(lead_days['median'])} days "
        f"({number(lead_days['min'])} to {number(lead_days['max'])}, {lead_days['pairs']} pairs)"
    )
    announced = lead_days["announced"]
    if announced["pairs"]:
        said += f"; on the announcement: median {number(announced['median'])} days"
    return f"{said}. Negative is late."


def number(value: Any) -> str:
    """A number as people read it; what is undefined is a dash."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else f"{value:,.0f}"


def _list(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    rows = list(rows)
    if rows:
        console.print(f"\n{title}")
        console.print(_table(columns, rows))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
