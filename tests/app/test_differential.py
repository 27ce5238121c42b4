"""What a live service recorded, replayed by the pure engine, gives the same (MECHANISMS 7.11, 8).

A random life goes through the service's intake on real PostgreSQL: requests at once, late, revised
and taken back, with sweeps and restarts between them. What it stored is read back, transaction by
transaction in the order they were committed, and judged by the engine's own desk.

Observable oracles: the rows of signals, findings, alerts and transitions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from alerts.findings import Finding
from alerts.lifecycle import Alert
from alerts.mechanisms import Profile, Scope
from alerts.signals import Origin, PartnerId, Report, SeriesId, SeriesKey, Severity
from alerts.tracks import FindingKey
from app import store
from app.database import Connection, Database
from app.evaluate import sweep
from app.ingest import Arrival, Intake
from app.policy import Policy
from tests.alerts.cast import AURORA, CATALOGUE, PARTIES, Desk, Entry
from tests.alerts.histories import FIRST, LATE, WATCH, Do, Step, known_of, law, lives

REAL = settings(
    law(6),
    suppress_health_check=[*HealthCheck],  # one database, emptied each time
    phases=[Phase.explicit, Phase.generate],  # a shorter failure would take too long to find
)
TABLES = (
    "signals, series_state, series, findings, alert_signals, transitions, alerts, alert_numbers, "
    "alert_ends"
)
AT_ONCE = 3
A_SECOND = timedelta(seconds=1)

Told = tuple[object, ...]
"""One transition as published: number, type, levels, severities, instants, reason, explanation."""


class Truth(NamedTuple):
    """What there is in the end: what was told of each scope in order, findings, open alerts."""

    told: dict[Scope, list[Told]]
    findings: dict[FindingKey, Finding]
    alerts: dict[Scope, Alert]


async def empty(database: Database, profile: Profile = WATCH) -> None:
    """Nothing is stored but the profile and the partners."""
    async with database.begin() as connection:
        await connection.execute(text(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE"))
        await connection.execute(
            text(
                "INSERT INTO profiles (mechanism, version, sha256, document, loaded_at) "
                "VALUES (:mechanism, :version, '', '{}', :now) ON CONFLICT DO NOTHING"
            ),
            {"mechanism": profile.id, "version": profile.version, "now": FIRST},
        )
        for name, party in (("aurora", "EU"), ("dorado", "US")):
            await store.partners.keep(connection, name, party, FIRST)


def arrival(entry: Entry) -> Arrival:
    """An entry as a partner sends it."""
    told = entry.report
    if told is None:
        return Arrival(AURORA, entry.key, entry.at, entry.value)
    said = {"origin": told.origin.value, "origin_ref": told.origin_ref}
    if told.effective_at is not None:
        said["effective_at"] = told.effective_at.isoformat()
    if not told.severity:
        return Arrival(told.partner, entry.key, entry.at, None, is_event=True)
    return Arrival(
        told.partner,
        entry.key,
        entry.at,
        float(told.severity),
        detail=json.dumps(said),
        is_event=True,
    )


async def serve(database: Database, life: Sequence[Step], lanes: int) -> list[datetime]:
    """Lives through it: requests next to each other are sent at once. Gives when it swept."""
    await empty(database)
    policy = Policy(CATALOGUE, {WATCH.id: WATCH})
    intake = Intake(database, policy, lanes=lanes)
    now, sweeps = FIRST, []
    for do, steps in groupby(life, key=lambda s: s.do):
        waiting = list(steps)
        while waiting:
            sent, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            requests = []
            for step in sent:
                now = max(now + A_SECOND, step.when)
                if do is Do.post:
                    requests.append(intake.accept([arrival(e) for e in step.entries], now))
                elif do is Do.sweep:
                    await sweep(database, policy, now)
                    sweeps.append(now)
                elif do is Do.restart:
                    await intake.stop()
                    intake = Intake(database, Policy(CATALOGUE, {WATCH.id: WATCH}), lanes=lanes)
            await asyncio.gather(*requests)
    await intake.stop()
    return sweeps


async def recorded(connection: Connection) -> Truth:
    """What the service has written down."""
    rows = await connection.execute(
        text(
            "SELECT mechanism, sector, good, place, exercise, t.number, type, level_from, level_to, "
            "severity_from, severity_to, at, t.recorded_at, reason, explanation "
            "FROM transitions AS t JOIN alerts AS a ON a.id = alert_id ORDER BY t.id"
        )
    )
    told: dict[Scope, list[Told]] = {}
    for row in rows:
        told.setdefault(Scope(*row[:5]), []).append(tuple(row[5:]))
    ids = (await connection.execute(text("SELECT series_id FROM series"))).scalars().all()
    kept = await store.findings.of_series(connection, [SeriesId(i) for i in ids])
    opened = await store.alerts.all_open(connection)
    return Truth(
        told,
        {k.key: k.finding for k in kept},
        {scope: replace(k.alert, ref="") for scope, k in opened.items()},
    )


async def replayed(connection: Connection, sweeps: Sequence[datetime]) -> Truth:
    """What the engine makes of the signals in store, a transaction at a time, as they came."""
    rows = await connection.execute(
        text(
            "SELECT s.xmin::text::bigint, received_at, series_id, sector, indicator, good, place, "
            "exercise, observed_at, partner_id, value, detail FROM signals AS s "
            "JOIN series USING (series_id) ORDER BY 1, series_id, observed_at, partner_id, "
            "revision"
        )
    )
    here, due = Desk([WATCH]), list(sweeps)
    for (_, now), stored in groupby(rows, key=lambda r: (r[0], r[1])):
        while due and due[0] < now:
            here.sweep(due.pop(0))
        entries: dict[tuple[SeriesKey, datetime, int], Entry] = {}
        for row in stored:
            key = SeriesKey(*row[3:8])
            here.ids[key] = SeriesId(row[2])
            entries[key, row[8], row[9]] = entry(key, *row[8:])  # the last revision of each
        here.now = now
        here.post(*entries.values())
    for now in due:
        here.sweep(now)
    told: dict[Scope, list[Told]] = {}
    for published in here.published:
        t = published.transition
        told.setdefault(published.scope, []).append(
            (
                t.number,
                t.type.value,
                int(t.level_from),
                int(t.level_to),
                int(t.severity_from),
                int(t.severity_to),
                t.at,
                t.recorded_at,
                t.reason,
                json.loads(json.dumps(t.explanation)),
            )
        )
    return Truth(told, here.findings, {s: replace(a, ref="") for s, a in here.alerts.items()})


def entry(
    key: SeriesKey, at: datetime, partner: int, value: float | None, detail: str | None
) -> Entry:
    """A stored signal as the engine hears it."""
    if key.indicator not in CATALOGUE.events:
        return Entry(key, at, value)
    said = json.loads(detail) if detail else {}
    effective = said.get("effective_at")
    who = PartnerId(partner)
    report = Report(
        at,
        Severity(int(value or 0)),
        who,
        PARTIES[who],
        Origin(said.get("origin", Origin.assessment)),
        said.get("origin_ref", ""),
        effective_at=datetime.fromisoformat(effective) if effective else None,
    )
    return Entry(key, at, report=report)


@st.composite
def service_lives(draw: st.DrawFn) -> list[Step]:
    """Lives of signals, sweeps and restarts, of which the service itself is all there is."""
    mine = {Do.post, Do.sweep, Do.restart}
    return [step for step in draw(lives(30)) if step.do in mine]


@pytest.mark.parametrize("restarts", [False, True], ids=["one process", "restarted in the middle"])
@REAL
@given(life=service_lives())
async def test_replaying_what_a_live_service_recorded_gives_the_same_transitions(
    database: Database, restarts: bool, life: list[Step]
) -> None:
    """One lane, so that its transactions have one order."""
    steps = [s for s in life if s.do is not Do.restart]
    if restarts:
        middle = len(steps) // 2
        steps.insert(middle, Step(FIRST, Do.restart))
    sweeps = await serve(database, steps, lanes=1)
    async with database.begin() as connection:
        live, again = await recorded(connection), await replayed(connection, sweeps)
    assert live.told == again.told
    assert live.findings == again.findings
    assert live.alerts == again.alerts


@REAL
@given(life=service_lives())
async def test_lanes_at_once_end_as_the_same_signals_in_order(
    database: Database, life: list[Step]
) -> None:
    """Which lane comes first is chance; what is true in the end is not."""
    steps = [s for s in life if s.do is not Do.sweep]
    await serve(database, [*steps, Step(LATE, Do.sweep)], lanes=4)
    async with database.begin() as connection:
        live, again = await recorded(connection), await replayed(connection, [LATE])
    assert {k: known_of(f) for k, f in live.findings.items()} == {
        k: known_of(f) for k, f in again.findings.items()
    }
    assert {s: (a.severity, a.opened_at, a.level) for s, a in live.alerts.items()} == {
        s: (a.severity, a.opened_at, a.level) for s, a in again.alerts.items()
    }
