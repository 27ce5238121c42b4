"""``forewarn bench``: measures the product beside its bare limits."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli import saying


def bench(
    measure: Annotated[
        Literal[
            "all",
            "ingest",
            "single",
            "latency",
            "deliver",
            "crisis",
            "scale",
            "flat",
            "reads",
            "memory",
            "judge",
        ],
        typer.Argument(help="What to measure."),
    ],
    as_json: saying.AsJson = False,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, max=600, help="Of one run of one part; 1.5 if not given."),
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, max=99, help="Of each part, taking turns; 3 if not given.")
    ] = None,
    stored: Annotated[
        int | None,
        typer.Option(
            min=200_000,
            max=100_000_000,
            help="The most signals that are stored; 10,000,000 if not given.",
        ),
    ] = None,
    peer: Annotated[
        Literal["alertmanager"] | None,
        typer.Option(
            help="Has another product, where it is installed, do the same work beside us."
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also writes the page for people there.")
    ] = None,
) -> None:
    """Measures the product beside its bare limits, in processes and a data folder of its own.

    With --json prints one object a line, each as soon as it is known; otherwise a table. It never
    judges a number. `all` takes about a quarter of an hour.
    """
    import dataclasses
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.progress import Progress

    from app.bench import measures, page
    from app.bench.plan import Plan

    plan = Plan()
    if seconds is not None:
        plan = dataclasses.replace(plan, seconds=seconds)
    if runs is not None:
        plan = dataclasses.replace(plan, runs=runs)
    if stored is not None:
        less = (one for one in plan.stored if one < stored)
        plan = dataclasses.replace(plan, stored=(*less, stored))
    if peer is not None:
        plan = dataclasses.replace(plan, peer=True)
    names = measures.NAMES if measure == "all" else (measure,)
    begun, load_before = datetime.now(UTC), page.load_average()
    where = {"machine": page.machine(), "versions": page.versions(plan)}
    lines = []
    with (
        _stopped_in_order(),
        Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress,
    ):
        task = progress.add_task(f"Measuring {measure}", total=measures.ticks(names, plan))
        for line in measures.take(names, plan, lambda: progress.advance(task)):
            lines.append(line)
            if as_json:
                saying.out(json.dumps(line.document() | where))
    if not as_json:
        Console().print(page.table(lines))
    if write is not None:
        command = f"forewarn bench {measure}" + (f" --peer {peer}" if peer else "")
        occasion = page.Occasion(begun, plan, load_before, page.load_average(), command)
        try:
            write.write_text(page.markdown(lines, occasion), encoding="utf-8")
        except OSError as error:
            saying.failed(f"{write} cannot be written ({error.strerror}).")


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: what was started is stopped, and its folder removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
