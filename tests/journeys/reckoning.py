"""What was owed beside what was heard: says where the promise of delivery was broken.

Reads two things only: the rows of a database, and the logs that receivers wrote before they answered
(``tests.journeys.listener``). It shares no code with what sends.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg


@dataclass(frozen=True, slots=True)
class Owed:
    """One delivery as its rows have it; ``tries`` are the number, verdict and status of its attempts."""

    id: str
    subscription: str
    alert: int | None
    sequence: int
    state: str
    attempts: int
    finished: bool
    data: str
    tries: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """One verified request as its receiver wrote it down; ``at`` in nanoseconds of the monotonic clock."""

    id: str
    sequence: int
    body: str
    data: str
    at: int


async def owed(database_url: str) -> list[Owed]:
    """Every delivery there is, by subscription and sequence, as of one instant."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        rows = await connection.fetch(
            "SELECT d.id, d.subscription_id, d.sequence, d.alert_id, d.state, d.attempts, "
            "d.finished_at IS NOT NULL AS finished, coalesce(d.data, t.data) AS data "
            "FROM deliveries AS d LEFT JOIN transitions AS t ON t.id = d.transition_id "
            "ORDER BY d.subscription_id, d.sequence"
        )
        tries = defaultdict(list)
        for row in await connection.fetch(
            "SELECT delivery_id, number, verdict, status FROM attempts ORDER BY delivery_id, number"
        ):
            tries[row["delivery_id"]].append((row["number"], row["verdict"], row["status"]))
    finally:
        await connection.close()
    return [
        Owed(
            id=f"msg_{row['subscription_id'].removeprefix('sub_')}_{row['sequence']}",
            subscription=row["subscription_id"],
            alert=row["alert_id"],
            sequence=row["sequence"],
            state=row["state"],
            attempts=row["attempts"],
            finished=row["finished"],
            data=hashlib.sha256(
                json.dumps(json.loads(row["data"]), sort_keys=True).encode()
            ).hexdigest(),
            tries=tuple(tries[row["id"]]),
        )
        for row in rows
    ]


def heard(*logs: Path) -> list[Heard]:
    """All that receivers verified; what is heard by one log is in the order in which it came.

    What was sipped or refused is left out.
    """
    found = []
    for log in logs:
        for line in _whole_lines(log):
            told = json.loads(line)
            if "id" in told:
                found.append(Heard(**told))
    return found


def sipped(log: Path) -> list[str]:
    """The ids whose bodies a receiver began to read and did not read on."""
    return [t["sipped"] for t in map(json.loads, _whole_lines(log)) if "sipped" in t]


def refused(log: Path) -> list[str]:
    """The ids of what could not be verified."""
    return [t["refused"] for t in map(json.loads, _whole_lines(log)) if "refused" in t]


def _whole_lines(log: Path) -> list[bytes]:
    return log.read_bytes().split(b"\n")[:-1] if log.exists() else []


def faults(
    owed: Sequence[Owed],
    heard: Sequence[Heard],
    *,
    dead: Collection[str] = (),
    refused: Sequence[str] = (),
) -> list[str]:
    """Every way in which the promise was broken, as sentences; empty when it was kept.

    1. What is owed was heard, at least once, and is recorded as delivered; ``dead`` subscriptions,
       whose receivers take nothing, may be left waiting.
    2. One id always comes with the same body, and it is the body that was owed.
    3. Nothing is heard that is not owed.
    4. In each subscription the events of one alert are first heard in the order of their sequence.
    5. What is recorded happened: a delivery is delivered if and only if a try of it was; tries are
       numbered without gaps; and no more of them were answered than were heard or ``refused``.
    6. Sequences have no gaps.
    """
    by_id = {one.id: one for one in owed}
    times = Counter(one.id for one in heard)
    answers = times + Counter(refused)
    return [
        *(f"{one.id} is owed and was never heard" for one in _unheard(owed, times, dead)),
        *(f"{one.id} is {one.state} at the end" for one in _unfinished(owed, dead)),
        *_other_bodies(by_id, heard),
        *(f"{name} was heard and is not owed" for name in times if name not in by_id),
        *_out_of_order(by_id, heard),
        *(said for one in owed for said in _inconsistent(one, answers[one.id])),
        *_gaps(owed),
    ]


def _unheard(owed: Iterable[Owed], times: Counter[str], dead: Collection[str]) -> Iterable[Owed]:
    return (one for one in owed if not times[one.id] and one.subscription not in dead)


def _unfinished(owed: Iterable[Owed], dead: Collection[str]) -> Iterable[Owed]:
    return (one for one in owed if one.state != "delivered" and one.subscription not in dead)


def _other_bodies(by_id: dict[str, Owed], heard: Iterable[Heard]) -> Iterable[str]:
    bodies: dict[str, str] = {}
    for one in heard:
        if bodies.setdefault(one.id, one.body) != one.body:
            yield f"{one.id} came with two bodies"
        row = by_id.get(one.id)
        if row and (row.data, row.sequence) != (one.data, one.sequence):
            yield f"{one.id} says another thing than is owed"


def _out_of_order(by_id: dict[str, Owed], heard: Iterable[Heard]) -> Iterable[str]:
    first: set[str] = set()
    last: dict[tuple[str, int], int] = {}
    for one in heard:
        row = by_id.get(one.id)
        if row is None or row.alert is None or one.id in first:
            continue
        first.add(one.id)
        place = (row.subscription, row.alert)
        if last.get(place, 0) > row.sequence:
            yield f"{one.id} was first heard after {last[place]} of the same alert"
        last[place] = row.sequence


def _inconsistent(one: Owed, answers: int) -> Iterable[str]:
    numbers = [number for number, _, _ in one.tries]
    if numbers != list(range(1, one.attempts + 1)):
        yield f"{one.id} had {one.attempts} attempts, and those kept are {numbers}"
    taken = [number for number, verdict, _ in one.tries if verdict == "delivered"]
    if (one.state == "delivered") != (len(taken) == 1):
        yield f"{one.id} is {one.state}, and tries {taken} were taken"
    if one.state == "delivered" and not one.finished:
        yield f"{one.id} is delivered and not finished"
    answered = sum(status is not None for _, _, status in one.tries)
    if answered > answers:
        yield f"{one.id} has {answered} answered tries and was answered {answers} times"


def _gaps(owed: Iterable[Owed]) -> Iterable[str]:
    sequences = defaultdict(list)
    for one in owed:
        sequences[one.subscription].append(one.sequence)
    for name, found in sequences.items():
        if found != list(range(1, len(found) + 1)):
            yield f"{name} has gaps in its sequences"
