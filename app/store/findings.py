"""Findings: machine A's memory, kept only where there is something to remember."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg
import msgspec

from alerts.detectors.reading import Measure
from alerts.findings import Finding, State
from alerts.signals import SeriesId, Severity
from alerts.tracks import FindingKey
from app.database import Transaction, Write, driver

_KEY = ("series_id", "mechanism", "rule")
_TYPES = {
    "series_id": "bigint", "mechanism": "text", "rule": "text", "rule_version": "int",
    "alert_id": "bigint", "state": "text", "severity": "smallint", "onset": "timestamptz",
    "since": "timestamptz", "observed_at": "timestamptz", "value": "float8", "compared": "float8",
    "baseline": "float8", "raise_run": "int", "clear_run": "int", "ok_since": "timestamptz",
    "ok_run": "int", "reason": "text", "measures": "text",
}  # fmt: skip
_COLUMNS = tuple(_TYPES)
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[tuple[str, float, float | None]])
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM findings"
_KEEP = (
    f"INSERT INTO findings ({', '.join(_COLUMNS)}) "
    f"SELECT * FROM unnest({', '.join(f'CAST(:{name} AS {kind}[])' for name, kind in _TYPES.items())}) "
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    f"{', '.join(f'{name} = excluded.{name}' for name in _COLUMNS if name not in _KEY)}"
)
_FORGET = (
    "DELETE FROM findings AS f USING "
    f"unnest({', '.join(f'CAST(:{name} AS {_TYPES[name]}[])' for name in _KEY)}) AS q ({', '.join(_KEY)}) "
    f"WHERE {' AND '.join(f'f.{name} = q.{name}' for name in _KEY)}"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A finding as stored, with the alert it feeds."""

    key: FindingKey
    rule_version: int
    alert_id: int | None
    finding: Finding


async def of_series(connection: Transaction, series: Sequence[SeriesId]) -> list[Kept]:
    """The remembered findings of series; any other is quiet."""
    rows = await driver(connection).fetch(f"{_SELECT} WHERE series_id = ANY($1::bigint[])", series)
    return [_kept(row) for row in rows]


async def of_alerts(connection: Transaction, alerts: Collection[int]) -> list[Kept]:
    """The findings that feed these alerts, from any series."""
    rows = await driver(connection).fetch(
        f"{_SELECT} WHERE alert_id = ANY($1::bigint[])", list(alerts)
    )
    return [_kept(row) for row in rows]


async def unheard(connection: Transaction) -> list[Kept]:
    """The findings that fire and feed no alert."""
    rows = await driver(connection).fetch(
        f"{_SELECT} WHERE severity > 0 AND alert_id IS NULL ORDER BY series_id, mechanism, rule"
    )
    return [_kept(row) for row in rows]


def keep(
    changed: Mapping[FindingKey, tuple[Finding, int]], feeds: Mapping[FindingKey, int]
) -> list[Write]:
    """What writes changed findings with their rule's version, and forgets the quiet ones."""
    quiet = [key for key, (finding, _) in changed.items() if finding.is_quiet]
    rows = [
        (*key, version, feeds.get(key), *_values(finding))
        for key, (finding, version) in sorted(changed.items())
        if not finding.is_quiet
    ]
    writes = []
    if quiet:
        columns = map(list, zip(*quiet, strict=True))
        writes.append(Write(_FORGET, dict(zip(_KEY, columns, strict=True))))
    if rows:
        columns = map(list, zip(*rows, strict=True))
        writes.append(Write(_KEEP, dict(zip(_COLUMNS, columns, strict=True))))
    return writes


def _kept(row: asyncpg.Record) -> Kept:
    series, mechanism, rule, version, alert_id, state, severity, *rest, measures = row
    told = tuple(Measure(*m) for m in _DECODER.decode(measures)) if measures else ()
    finding = Finding(State(state), Severity(severity), *rest)
    if told:
        finding = replace(finding, measures=told)
    return Kept((series, mechanism, rule), version, alert_id, finding)


def _values(finding: Finding) -> tuple[object, ...]:
    return (
        finding.state.value,
        int(finding.severity),
        finding.onset,
        finding.since,
        finding.observed_at,
        finding.value,
        finding.compared,
        finding.baseline,
        finding.raise_run,
        finding.clear_run,
        finding.ok_since,
        finding.ok_run,
        finding.reason,
        _ENCODER.encode(finding.measures).decode() if finding.measures else None,
    )
