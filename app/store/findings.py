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
from app.database import Transaction, driver

_FIELDS = (
    "state, severity, onset, since, observed_at, value, compared, baseline, raise_run, clear_run, "
    "ok_since, ok_run, reason, measures"
)
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[tuple[str, float, float | None]])
_SELECT = f"SELECT series_id, mechanism, rule, rule_version, alert_id, {_FIELDS} FROM findings"


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


async def keep(
    connection: Transaction,
    changed: Mapping[FindingKey, tuple[Finding, int]],
    feeds: Mapping[FindingKey, int],
) -> None:
    """Writes changed findings with their rule's version; forgets the quiet ones."""
    raw = driver(connection)
    quiet = [key for key, (finding, _) in changed.items() if finding.is_quiet]
    if quiet:
        await raw.execute(
            "DELETE FROM findings AS f USING unnest($1::bigint[], $2::text[], $3::text[]) "
            "AS q (series_id, mechanism, rule) WHERE f.series_id = q.series_id "
            "AND f.mechanism = q.mechanism AND f.rule = q.rule",
            *zip(*quiet, strict=True),
        )
    rows = [
        (*key, version, feeds.get(key), *_values(finding))
        for key, (finding, version) in sorted(changed.items())
        if not finding.is_quiet
    ]
    if not rows:
        return
    await raw.execute(
        f"INSERT INTO findings (series_id, mechanism, rule, rule_version, alert_id, {_FIELDS}) "
        "SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::bigint[], "
        "$6::text[], $7::smallint[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], "
        "$11::float8[], $12::float8[], $13::float8[], $14::int[], $15::int[], $16::timestamptz[], "
        "$17::int[], $18::text[], $19::text[]) "
        "ON CONFLICT (series_id, mechanism, rule) DO UPDATE SET "
        "rule_version = excluded.rule_version, alert_id = excluded.alert_id, "
        "state = excluded.state, severity = excluded.severity, onset = excluded.onset, "
        "since = excluded.since, observed_at = excluded.observed_at, value = excluded.value, "
        "compared = excluded.compared, baseline = excluded.baseline, "
        "raise_run = excluded.raise_run, clear_run = excluded.clear_run, "
        "ok_since = excluded.ok_since, ok_run = excluded.ok_run, reason = excluded.reason, "
        "measures = excluded.measures",
        *zip(*rows, strict=True),
    )


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
