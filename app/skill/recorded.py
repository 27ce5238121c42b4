"""Recorded history: signals with their vintages, and the labels of what is known to have happened.

``history/README.md`` says where each figure comes from.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from alerts.catalogue import Catalogue
from alerts.signals import SeriesKey
from alerts.skill import Label
from app.backtest import reading
from app.backtest.reading import DataFaulty, Fault, Row

FOLDER = Path(__file__).parent / "history"
LABELS = Path(__file__).parent / "labels.csv"

INVENTORIES = "auto_inventories.csv"

VINTAGES = ("2023-01", "2023-12", "2025-08")
"""The vintages of the car inventories, oldest first: when the file was downloaded."""


def labels() -> list[Label]:
    """What is known to have happened, a row for each event and series."""
    return reading.read_labels(LABELS)


def files() -> list[Path]:
    """The files of signals, by name."""
    return sorted(FOLDER.glob("*.csv"))


def vintages() -> dict[SeriesKey, list[str]]:
    """The vintages of each series that has several, oldest first."""
    found: dict[SeriesKey, set[str]] = {}
    for file in files():
        with file.open(encoding="utf-8", newline="") as text:
            for cells in csv.DictReader(text):
                if "vintage" in cells:
                    key = SeriesKey(*(cells[n] for n in ("sector", "indicator", "good", "place")))
                    found.setdefault(key, set()).add(cells["vintage"])
    return {key: sorted(names) for key, names in found.items() if len(names) > 1}


def rows(catalogue: Catalogue, vintage: str = "") -> Iterator[Row]:
    """Every row of every file; with a vintage the car inventories alone, as known at that time.

    Raises:
        DataFaulty: with the faults of the first file that has any.
    """
    for file in files():
        if not vintage or file.name == INVENTORIES:
            yield from _rows(file, catalogue, vintage)


def _rows(file: Path, catalogue: Catalogue, vintage: str) -> Iterator[Row]:
    faults: list[Fault] = []
    with file.open(encoding="utf-8", newline="") as text:
        lines = csv.reader(text)
        header = next(lines)
        known = (c for c in lines if not vintage or c[header.index("vintage")] <= vintage)
        columns = reading.Columns(file.name, header, catalogue)
        yield from columns.rows(known, lambda: lines.line_num, faults)
    if faults:
        raise DataFaulty(faults)
