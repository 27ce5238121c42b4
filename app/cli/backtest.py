"""``forewarn backtest``: a profile replayed over recorded history, scored against what happened."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import saying

if TYPE_CHECKING:
    from app.backtest import Tell
    from app.backtest.report import Report
    from app.documents import ProfileDocument

_MEGABYTE = 2**20


def backtest(
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder of CSV files with signals.")],
    profile: Annotated[
        str | None,
        typer.Option(metavar="P", help="A shipped profile's id, or a file of one."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A CSV of what is known to have happened.")
    ] = None,
    as_of: Annotated[
        bool, typer.Option("--as-of", help="Judges every value when it was available.")
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="NAME=A:B:STEP", help="Replays for each value of a number."),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="V1 V2", help="Two profiles side by side."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Writes report.json, report.html and plots there."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="Scores from that day on."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="Reads nothing observed after that day."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processes; all cores if not given.")
    ] = None,
    as_json: saying.AsJson = False,
) -> None:
    """Replays a profile over recorded history exactly as the service would, and scores it.

    Finds what was hit, missed and falsely alarmed, and how early. The same input gives the same
    report, on however many cores.
    """
    import time

    from app import backtest as backtests
    from app import documents
    from app.backtest import pages, reading, tables, variants

    if profile is None and compare is None:
        raise typer.BadParameter("Give --profile, or --compare with two.")
    if since and until and since > until:
        raise typer.BadParameter(f"--from {since:%Y-%m-%d} lies after --to {until:%Y-%m-%d}.")
    if out is not None:
        _write(out, {})  # A folder that cannot be made is said before the work, not after it.
    asked = [_profile(name) for name in [profile, *(compare or ())] if name is not None]
    main = asked[0]
    points = variants.points(main, sweep, documents.load_catalogue()) if sweep else []
    plan = backtests.Plan(
        labels=tuple(reading.read_labels(labels)) if labels else (),
        as_of=as_of,
        since=since.date() if since else None,
        until=until.date() if until else None,
        workers=workers or os.cpu_count() or 1,
    )
    began = time.perf_counter()
    profiles = [d.profile for d in asked] + [point.profile for point in points]
    with _progress(as_json) as tell, backtests.recording(plan, data, profiles, tell) as recorded:
        reports = recorded.reports(profiles)
        report, compared = reports[0], reports[1 : len(asked)]
        if profile is None:
            compared = reports[: len(asked)]
        swept = list(zip(points, reports[len(asked) :], strict=True))
        outcome = variants.Outcome(report, compared, sweep or "", swept)
        pictures = recorded.pictures(report) if out is not None else []
    seconds = time.perf_counter() - began
    if out is not None:
        _write(out, pages.files(outcome, pictures))
    _warn(report)
    document = outcome.document()
    if as_json:
        saying.out(json.dumps(document, ensure_ascii=False))
    else:
        tables.show(outcome)
    _footer(sum(r.played.samples for r in reports), seconds, plan.workers)


def _profile(name: str) -> ProfileDocument:
    """A profile by the id of a shipped one, or from a file."""
    from app import documents

    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return documents.read_profile(path)
    shipped = {path.stem: path for path in documents.shipped_profiles()}
    wanted, _, version = name.partition("@")
    if wanted not in shipped:
        known = ", ".join(shipped)
        saying.failed(f"There is no profile {name}: give the path of a file, or one of {known}.")
    found = documents.read_profile(shipped[wanted])
    if version and version != str(found.profile.version):
        saying.failed(f"{wanted} ships in version {found.profile.version}, not {version}.")
    return found


@contextmanager
def _progress(quiet: bool) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Remaining())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield tell


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        saying.failed(f"{folder} cannot be written ({error.strerror}).")


def _warn(report: Report) -> None:
    """Says once what the data has that the catalogue has not."""
    for sentence in report.warnings():
        sys.stderr.write(f"forewarn: {sentence}\n")


def _footer(samples: int, seconds: float, workers: int) -> None:
    rate = samples / seconds if seconds else 0.0
    said = f"{samples:,} samples in {seconds:.1f} s, {rate:,.0f} a second on {workers} "
    said += f"process{'es' if workers != 1 else ''}"
    if (peak := _peak_megabytes()) is not None:
        said += f"; at most {peak:,.0f} MB in one process"
    sys.stderr.write(f"{said}.\n")


def _peak_megabytes() -> float | None:
    """The most memory that this process or one of its own has had, where the system says."""
    if sys.platform == "win32":
        return None
    import resource

    most = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return most / _MEGABYTE if sys.platform == "darwin" else most * 1024 / _MEGABYTE
