"""The files of a report: its JSON, a page that needs nothing else, and the plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from alerts.skill import Outcome as PairOutcome
from alerts.skill import Verdict
from app.backtest import pictures, tables
from app.backtest.pictures import Drawn, Picture, SweptPoint
from app.backtest.report import Document
from app.backtest.variants import Outcome

ROWS_AROUND = 20
"""So many observations on either side of the middle stand in a picture's table."""


def files(outcome: Outcome, drawn: Sequence[Picture]) -> dict[str, str]:
    """Every file of a report by name; the same outcome gives the same bytes."""
    document = outcome.document()
    found = {
        "report.json": json.dumps(document, indent=2, ensure_ascii=False) + "\n",
        "report.html": page(outcome, drawn),
    }
    for picture in drawn:
        name = f"{picture.wanted.kind}-{picture.number + 1:03d}.svg"
        found[name] = pictures.svg(picture, alone=True) + "\n"
    if outcome.swept:
        name = document["sweep"]["name"]
        found["sweep.svg"] = pictures.sweep_svg(name, curve(document), alone=True) + "\n"
    return found


def curve(document: Document) -> list[SweptPoint]:
    """The points of a sweep that have both a rate and a lead time."""
    return [
        SweptPoint(p["value"], p["false_per_series_year"], p["lead_days"]["median"])
        for p in document["sweep"]["points"]
        if p["false_per_series_year"] is not None and p["lead_days"]["median"] is not None
    ]


def page(outcome: Outcome, drawn: Sequence[Picture]) -> str:
    """The report as one page of HTML without scripts."""
    document = outcome.document()
    report = outcome.report
    score = report.score
    due = score.count(PairOutcome.miss) + sum(j.verdict is Verdict.false for j in score.episodes)
    sweep = document.get("sweep")
    return _template().render(
        found=document,
        style=pictures.STYLE,
        warnings=report.warnings(),
        scores=[(name, tables.number(document[key])) for key, name in tables.COMPARED],
        leads=tables.leads(document["lead_days"]),
        pairs=tables.pairs(document),
        episodes=tables.episodes(document),
        unscored=tables.unscored(document),
        alerts=[alert_row(a) for a in document["alerts"]],
        exemptions=[
            (x["title"], x["start"], x["end"], x["series"]) for x in document["exemptions"]
        ],
        swept=tables.swept(document) if sweep else [],
        sweep_columns=tables.SWEEP_COLUMNS,
        sweep_svg=pictures.sweep_svg(sweep["name"], curve(document)) if sweep else "",
        compared=tables.compared(document) if outcome.compared else [],
        compared_columns=[
            "",
            *(f"{p['profile']} {p['profile_version']}" for p in document.get("compare", ())),
        ],
        pictures=[
            {
                "title": p.wanted.title,
                "svg": pictures.svg(p),
                "said": p.said,
                "rule": p.rule,
                "rows": around(p),
            }
            for p in drawn
        ],
        more=due - len(drawn),
    )


def alert_row(alert: Document) -> tuple[str, ...]:
    """One alert as it was published: opened, resolved, about what, worst, how often told."""
    about = " ".join(word for word in (alert["sector"], alert["good"], alert["place"]) if word)
    return (
        alert["opened"][:10],
        (alert["resolved"] or "lasts")[:10],
        about,
        alert["peak_severity"],
        str(alert["notifications"]),
    )


def around(picture: Picture) -> list[tuple[str, ...]]:
    """The observations next to the opening, or to the middle where nothing opened."""
    points = picture.points
    opened = picture.wanted.opened
    middle = len(points) // 2
    if opened is not None:
        middle = next((n for n, p in enumerate(points) if p.at >= opened), middle)
    return [_row(p) for p in points[max(middle - ROWS_AROUND, 0) : middle + ROWS_AROUND]]


def _row(point: Drawn) -> tuple[str, ...]:
    at = point.at.isoformat(timespec="minutes").replace("T00:00+00:00", "")
    return (at, *(tables.number(v) for v in (point.value, point.baseline, point.raises)))


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html")
