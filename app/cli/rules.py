"""``forewarn rules test``: scenarios played through the engine, and what happened otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli import saying

app = typer.Typer(help="The rules of profiles.", no_args_is_help=True)


@app.callback()
def rules() -> None:
    """The rules of profiles."""


@app.command("test")
def play(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Scenarios as YAML; without, those that ship."),
    ] = None,
    profile: Annotated[
        list[Path] | None,
        typer.Option(help="Judges by this profile in place of that of the same id; repeatable."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Writes JUnit XML there, too.")
    ] = None,
    as_json: saying.AsJson = False,
) -> None:
    """Plays scenarios through the engine, and says what happened otherwise than they expect.

    Nothing is stored and no service is needed. Exits with 1 if any scenario fails, or if a file is
    not one of scenarios.
    """
    from datetime import UTC, datetime

    from app import documents, timetable

    catalogue = documents.load_catalogue()
    instead = [documents.load_profile(path, catalogue) for path in profile or ()]
    faults: list[documents.LineFault] = []
    read = []
    for file in files or timetable.shipped():
        try:
            read.append(timetable.read(file, catalogue, instead))
        except documents.DocumentFaulty as error:
            faults += error.faults
    if faults:
        raise documents.DocumentFaulty(faults)
    played = [one for each in read for one in timetable.play(each, catalogue)]
    if junit is not None:
        try:
            junit.write_bytes(timetable.junit(played, datetime.now(UTC)))
        except OSError as error:
            saying.failed(f"{junit} cannot be written: {error.strerror}.")
    saying.report(timetable.data(played), as_json, timetable.text(played))
    if timetable.failed(played):
        raise typer.Exit(1)
