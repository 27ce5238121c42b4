"""Signals: the immutable record, its revisions, and the windows read back from it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg

from alerts.signals import Origin, PartnerId, Report, Sample, SeriesId, Severity, Voice
from app.database import Transaction, Write, driver, fetch, write
from app.store.series import as_instant, microseconds

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
"""Before anything that was ever observed."""


class MonthOpened(Exception):
    """A month got its partition while its signals were on their way to the default; begin again."""


class Row(NamedTuple):
    """One signal as stored; a value of None takes the observation back."""

    series: SeriesId
    observed_at: datetime
    partner: PartnerId
    revision: int
    value: float | None
    received_at: datetime
    detail: str | None


class Stored(NamedTuple):
    """What one partner has said of one observation, in one revision."""

    revision: int
    value: float | None
    detail: str | None


# Instants go as numbers, and what is the same of all rows goes once: for the driver an instant in an array is
# three times as much work as a number, and this way is faster than COPY.
ALIKE = "CAST(:partner_id AS int[]), CAST(:revision AS int[]), CAST(:detail AS text[])"
"""SQL: the arrays that ``alike`` gives."""

_GIVEN = f"""
    (SELECT series_id, {as_instant("at")} AS observed_at, value, partner_id, revision, detail
    FROM unnest(CAST(:series_id AS bigint[]), CAST(:observed_at AS bigint[]), CAST(:value AS float8[]),
        {ALIKE})
        AS given (series_id, at, value, partner_id, revision, detail))
"""


INSERT_FROM = """
    INSERT INTO signals (series_id, observed_at, partner_id, revision, value, received_at, detail)
    SELECT s.series_id, s.observed_at, coalesce(s.partner_id, :partner), coalesce(s.revision, 1),
        s.value, :received_at, s.detail
    FROM {given} AS s
"""
"""SQL: stores what is given, with ``parameters``: a relation with a column for each but ``received_at``."""

INSERT = INSERT_FROM.format(given=_GIVEN)

# One sample an instant: the newest revision of each partner, the median over partners.
_SAMPLES = """
    SELECT series_id, observed_at, percentile_cont(0.5) WITHIN GROUP (ORDER BY value)
    FROM (
        SELECT DISTINCT ON (s.series_id, s.observed_at, s.partner_id)
            s.series_id, s.observed_at, s.value
        FROM signals AS s
        JOIN unnest($1::bigint[], $2::timestamptz[]) AS wanted (series_id, since)
            ON s.series_id = wanted.series_id AND s.observed_at >= wanted.since
        ORDER BY s.series_id, s.observed_at, s.partner_id, s.revision DESC
    ) AS newest
    WHERE value IS NOT NULL
    GROUP BY series_id, observed_at
    ORDER BY series_id, observed_at
"""


async def stored(
    connection: Transaction, instants: Collection[tuple[SeriesId, datetime]]
) -> dict[tuple[SeriesId, datetime], dict[PartnerId, list[Stored]]]:
    """Everything said of these observations, by partner, revisions ascending. One query."""
    series, at = zip(*instants, strict=True)
    rows = await driver(connection).fetch(
        "SELECT s.series_id, s.observed_at, s.partner_id, s.revision, s.value, s.detail "
        "FROM unnest($1::bigint[], $2::timestamptz[]) AS wanted (series_id, observed_at) "
        "JOIN signals AS s USING (series_id, observed_at) "
        "ORDER BY s.series_id, s.observed_at, s.partner_id, s.revision",
        series,
        at,
    )
    found: dict[tuple[SeriesId, datetime], dict[PartnerId, list[Stored]]] = {}
    for series_id, observed_at, partner, revision, value, detail in rows:
        by_partner = found.setdefault((series_id, observed_at), {})
        by_partner.setdefault(partner, []).append(Stored(revision, value, detail))
    return found


async def keep(connection: Transaction, rows: Sequence[Row]) -> None:
    """Stores signals known to be new. The primary key remains the law.

    Raises:
        asyncpg.UniqueViolationError: one was stored already, which the lanes should prevent.
        MonthOpened: roll back and do the same again.
    """
    with heeding_months():
        await write(connection, [insertion(rows)])


def insertion(rows: Sequence[Row]) -> Write:
    """What stores signals, as ``keep`` does; to be written while ``heeding_months``."""
    return Write(INSERT, parameters(rows))


def parameters(rows: Sequence[Row]) -> dict[str, object]:
    """The parameters of ``INSERT`` for rows that were received at one instant: an array for each column."""
    return {
        "series_id": [row.series for row in rows],
        "observed_at": [microseconds(row.observed_at) for row in rows],
        "value": [row.value for row in rows],
        **alike(rows),
    }


def alike(rows: Sequence[Row]) -> dict[str, object]:
    """The parameters of ``INSERT`` in which rows are mostly alike: all but series, instants and values.

    An array in which all would be as usual is empty: what is shorter than others is filled up with nulls.
    """
    _, _, partners, revisions, _, received_at, details = zip(*rows, strict=True)
    assert received_at.count(received_at[0]) == len(rows), "They are of one transaction."
    return {
        "partner": partners[0],
        "partner_id": () if partners.count(partners[0]) == len(rows) else partners,
        "revision": () if revisions.count(1) == len(rows) else revisions,
        "received_at": received_at[0],
        "detail": () if details.count(None) == len(rows) else details,
    }


@contextmanager
def heeding_months() -> Iterator[None]:
    """Says ``MonthOpened`` when a month got its partition while signals of it were stored."""
    try:
        yield
    except asyncpg.CheckViolationError as error:
        if error.constraint_name is not None:
            raise
        # Not a constraint of the table but of the default partition, which takes that month no more.
        raise MonthOpened from error


async def instant_back(
    connection: Transaction, series: SeriesId, before: datetime, count: int
) -> datetime:
    """The instant of the ``count``-th sample before another; the beginning where there are fewer."""
    (found,) = await instants_back(connection, [(series, before, count)])
    return found


async def instants_back(
    connection: Transaction, wanted: Collection[tuple[SeriesId, datetime, int]]
) -> list[datetime]:
    """For each (series, instant, count) the instant of the ``count``-th sample before that one;
    the beginning where there are fewer.

    One query; for each a backward scan of the primary key that stops there. By way of the state, which
    each of them has: where tables are spread over machines, a row goes where its series is.
    """
    rows = await driver(connection).fetch(
        "SELECT (SELECT observed_at FROM (SELECT DISTINCT ON (s.observed_at, s.partner_id) "
        "s.observed_at, s.value FROM signals AS s "
        "WHERE s.series_id = state.series_id AND s.observed_at < wanted.before "
        "ORDER BY s.observed_at DESC, s.partner_id DESC, s.revision DESC) AS newest "
        "WHERE value IS NOT NULL GROUP BY observed_at ORDER BY observed_at DESC "
        "LIMIT 1 OFFSET wanted.count - 1) FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[]) "
        "WITH ORDINALITY AS wanted (series_id, before, count, place) "
        "JOIN series_state AS state USING (series_id) ORDER BY place",
        *zip(*wanted, strict=True),
    )
    return [row[0] or BEGINNING for row in rows]


async def windows(
    connection: Transaction, wanted: Collection[tuple[SeriesId, datetime]]
) -> dict[SeriesId, list[Sample]]:
    """Samples of each series from its instant on, oldest first. One query, by primary key."""
    series, since = zip(*wanted, strict=True)
    rows = await driver(connection).fetch(_SAMPLES, series, since)
    found: dict[SeriesId, list[Sample]] = {series_id: [] for series_id in series}
    for series_id, at, value in rows:
        found[series_id].append(Sample(at, value))
    return found


async def voices(
    connection: Transaction, wanted: Collection[tuple[SeriesId, datetime]]
) -> dict[SeriesId, dict[datetime, list[Voice]]]:
    """Who reports each instant of each series from its instant on, in the newest revision."""
    series, since = zip(*wanted, strict=True)
    rows = await driver(connection).fetch(
        "SELECT series_id, observed_at, partner_id, name, party, value, received_at, detail FROM ("
        "SELECT DISTINCT ON (s.series_id, s.observed_at, s.partner_id) s.* FROM signals AS s "
        "JOIN unnest($1::bigint[], $2::timestamptz[]) AS wanted (series_id, since) "
        "ON s.series_id = wanted.series_id AND s.observed_at >= wanted.since "
        "ORDER BY s.series_id, s.observed_at, s.partner_id, s.revision DESC) AS newest "
        "JOIN partners ON partners.id = partner_id WHERE value IS NOT NULL "
        "ORDER BY series_id, observed_at, partner_id",
        series,
        since,
    )
    found: dict[SeriesId, dict[datetime, list[Voice]]] = {}
    for series_id, at, partner, name, party, value, received_at, detail in rows:
        said = json.loads(detail) if detail else {}
        voice = Voice(
            PartnerId(partner),
            name,
            party,
            value,
            Origin(said.get("origin", Origin.assessment)),
            received_at,
            said.get("origin_ref", ""),
            said.get("reliability", ""),
        )
        found.setdefault(SeriesId(series_id), {}).setdefault(at, []).append(voice)
    return found


async def reports(
    connection: Transaction, series: Iterable[SeriesId]
) -> dict[SeriesId, list[Report]]:
    """All standing reports of event series, oldest first; those taken back are left out."""
    rows = await fetch(
        connection,
        "SELECT series_id, observed_at, partner_id, party, value, detail FROM ("
        "SELECT DISTINCT ON (series_id, observed_at, partner_id) series_id, observed_at, "
        "partner_id, value, detail FROM signals WHERE series_id = ANY(CAST(:series AS bigint[])) "
        "ORDER BY series_id, observed_at, partner_id, revision DESC) AS newest "
        "JOIN partners ON partners.id = partner_id WHERE value IS NOT NULL "
        "ORDER BY series_id, observed_at, partner_id",
        {"series": list(series)},
    )
    found: dict[SeriesId, list[Report]] = {}
    for series_id, at, partner, party, value, detail in rows:
        report = _report(at, PartnerId(partner), party, value, detail)
        found.setdefault(SeriesId(series_id), []).append(report)
    return found


def _report(
    at: datetime, partner: PartnerId, party: str, value: float, detail: str | None
) -> Report:
    said = json.loads(detail) if detail else {}
    return Report(
        at=at,
        severity=Severity(int(value)),
        partner=partner,
        party=party,
        origin=Origin(said.get("origin", Origin.assessment)),
        origin_ref=said.get("origin_ref", ""),
        announced_at=_instant(said.get("announced_at")),
        effective_at=_instant(said.get("effective_at")),
        note=said.get("note", ""),
    )


def _instant(said: str | None) -> datetime | None:
    return datetime.fromisoformat(said) if said else None
