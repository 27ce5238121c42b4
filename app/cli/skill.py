"""``forewarn skill``: the shipped profile scored on recorded history, beside other methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli import saying


def skill(
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Writes the page for people there.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processes; all cores if not given.")
    ] = None,
    as_json: saying.AsJson = False,
) -> None:
    """Scores the profile supply-watch on recorded history, and other methods beside it.

    Prints the page, or with --json what is in it. It takes one to two minutes of two cores; the same
    data and rules give the same bytes, on however many.
    """
    import os

    from rich.console import Console
    from rich.progress import Progress

    from app import skill as skills
    from app.skill import page

    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("Replaying", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        found = skills.measure(workers or os.cpu_count() or 1, tell)
    text = page.markdown(found)
    if write is not None:
        try:
            write.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            saying.failed(f"{write} cannot be written ({error.strerror}).")
    if as_json:
        saying.out(json.dumps(page.document(found), ensure_ascii=False))
    elif write is None:
        saying.out(text.rstrip("\n"))
