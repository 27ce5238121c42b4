"""``forewarn signals send``: a file of signals, posted to a running service in batches."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import saying

if TYPE_CHECKING:
    import httpx

app = typer.Typer(help="Signals from files.", no_args_is_help=True)

_BATCH = 1_000
_PATIENCE_SECONDS = 120
_SHOW_REFUSED = 20

_COLUMNS = frozenset(
    {
        *("id", "sector", "indicator", "event", "good", "place", "observed_at", "value", "unit"),
        *("severity", "origin", "origin_ref", "reliability", "tlp", "note", "revision", "horizon"),
        *("announced_at", "effective_at", "exercise"),
    }
)
_NOT_SENT = frozenset({"available_at", "partner"})  # Columns of the backtest that say nothing here.
_OUTCOMES = ("accepted", "duplicate", "revised", "late", "rejected")


@dataclass(slots=True)
class _Sent:
    """What the service answered so far; refused signals with the line they stand on."""

    counts: Counter[str] = field(default_factory=Counter)
    alerts: dict[str, None] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)

    def add(self, answer: dict[str, Any], lines: list[int]) -> None:
        self.counts.update({outcome: answer.get(outcome, 0) for outcome in _OUTCOMES})
        self.alerts.update(dict.fromkeys(answer.get("alerts", ())))
        for found in answer.get("items", ()):
            if found.get("status") == "rejected":
                self.refused.append({"line": lines[found["index"]], **found})


@app.command()
def send(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .ndjson file.")],
    url: Annotated[str, typer.Option(help="Where the service listens.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="FOREWARN_KEY", help="A key with signals:write.")] = "",
    as_json: saying.AsJson = False,
) -> None:
    """Posts the signals of a file, 1,000 at a time, in the order of the file.

    A CSV has a header with `sector`, `indicator` or `event`, `observed_at`, `value`, and any other
    field of a signal. Sending a file again does no harm: what is known counts as a duplicate.
    Exits with 1 if any signal was refused.
    """
    import httpx
    from rich.console import Console
    from rich.progress import Progress

    if not key:
        saying.failed("Give a key with --key or in FOREWARN_KEY; `forewarn keys create` makes one.")
    if file.suffix.lower() not in {".csv", ".ndjson", ".jsonl"}:
        saying.failed(f"{file.name} is neither .csv nor .ndjson.")
    sent = _Sent()
    try:
        with (
            file.open(encoding="utf-8-sig", newline="") as text,
            httpx.Client(
                base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60
            ) as client,
            Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress,
        ):
            task = progress.add_task(f"Sending {file.name}", total=file.stat().st_size)
            told = _told(text, lambda read: progress.update(task, advance=read))
            signals = _rows(told) if file.suffix.lower() == ".csv" else _objects(told)
            while batch := list(islice(signals, _BATCH)):
                lines = [line for line, _ in batch]
                sent.add(_post(client, [signal for _, signal in batch], lines), lines)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        saying.failed(f"{file} cannot be read: {reason}.")
    _tell(sent, as_json)
    if sent.counts["rejected"]:
        raise typer.Exit(1)


def _tell(sent: _Sent, as_json: bool) -> None:
    counts = {outcome: sent.counts[outcome] for outcome in _OUTCOMES}
    lines = [
        f"line {found['line']}: {found.get('problem', found).get('detail', 'refused')}"
        for found in sent.refused[:_SHOW_REFUSED]
    ]
    if len(sent.refused) > _SHOW_REFUSED:
        lines.append(f"and {len(sent.refused) - _SHOW_REFUSED} more")
    lines.append(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if sent.alerts:
        lines.append(f"alerts: {', '.join(sent.alerts)}")
    found = {**counts, "alerts": list(sent.alerts), "items": sent.refused}
    saying.report(found, as_json, "\n".join(lines))


def _told(text: io.TextIOBase, tell: Any) -> Iterator[str]:
    for line in text:
        tell(len(line.encode()))
        yield line


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The signals of a CSV with the line each ends on; empty cells are left out."""
    reader = csv.DictReader(lines, strict=True)
    try:
        if unknown := sorted(set(reader.fieldnames or ()) - _COLUMNS - _NOT_SENT):
            saying.failed(
                f"There is no column {', '.join(unknown)}; a signal has {', '.join(sorted(_COLUMNS))}."
            )
        for row in reader:
            if None in row:
                saying.failed(f"Line {reader.line_num} has more cells than the header.")
            kept = {name: cell.strip() for name, cell in row.items() if cell and cell.strip()}
            yield reader.line_num, _typed(kept, reader.line_num)
    except csv.Error as error:
        saying.failed(f"Line {reader.line_num} is not CSV: {error}.")


def _typed(cells: dict[str, str], line: int) -> dict[str, Any]:
    signal: dict[str, Any] = {name: c for name, c in cells.items() if name not in _NOT_SENT}
    for name, kind in (("value", float), ("revision", int)):
        if name in signal:
            try:
                signal[name] = kind(signal[name])
            except ValueError:
                saying.failed(f"Line {line}: the {name} {signal[name]!r} is not a number.")
    for name in ("observed_at", "announced_at", "effective_at"):
        if len(signal.get(name, "")) == len("2021-03-31"):
            signal[name] = f"{signal[name]}T00:00:00Z"
    return signal


def _objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The signals of an NDJSON file with their lines; empty lines are left out."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            signal = json.loads(line)
        except ValueError as error:
            saying.failed(f"Line {number} is not JSON: {error}.")
        if not isinstance(signal, dict):
            saying.failed(f"Line {number} is not a JSON object.")
        yield number, signal


def _post(client: httpx.Client, signals: list[dict[str, Any]], lines: list[int]) -> dict[str, Any]:
    """Posts one batch, and waits while the service asks to come back later; posting twice is harmless."""
    import httpx

    where = f"Lines {lines[0]} to {lines[-1]}"
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            answer = client.post("/v1/signals", json=signals)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            saying.failed(f"{where} did not reach {client.base_url}: {error}.")
        except ValueError as error:
            saying.failed(f"{where} cannot be sent: {error}.")
        if answer.status_code not in {429, 503} or time.monotonic() > until:
            break
        hint = answer.headers.get("retry-after", "")
        time.sleep(min(float(hint), 30.0) if hint.isdigit() else 2.0)
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or "rejected" not in found:
        said = found.get("detail") if isinstance(found, dict) else None
        saying.failed(f"{where} were answered {answer.status_code}: {said or answer.reason_phrase}")
    return found
