"""What is judged: the logs of clients, owners and receivers, and the rows of one instant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg


class Key(NamedTuple):
    """What names a series."""

    sector: str
    code: str
    good: str
    place: str
    exercise: str


class Observation(NamedTuple):
    """What one partner says of one series for one instant."""

    partner: str
    key: Key
    at: datetime


class Item(NamedTuple):
    """One thing said of an observation; a value of None takes it back."""

    observation: Observation
    revision: int
    value: float | None


class Answer(NamedTuple):
    """What a client was told, and when by the monotonic clock; ``statuses`` one an item."""

    at: int
    status: int
    statuses: tuple[str, ...]


@dataclass(slots=True)
class Asked:
    """One request of a client, sent first at ``sent_at``, and the answers it got to its tries."""

    items: tuple[Item, ...]
    sent_at: int
    tries: int = 0
    answers: list[Answer] = field(default_factory=list)


@dataclass(slots=True)
class Wish:
    """A subscription as its owner knows it; instants by the monotonic clock, None for not (yet)."""

    id: str
    secret: str
    filter: Mapping[str, Any]
    asked_at: int
    active_at: int | None = None
    leaving_at: int | None = None
    removed_at: int | None = None


class Heard(NamedTuple):
    """One request as a receiver wrote it down before it answered."""

    id: str
    timestamp: str
    signature: str
    body: str
    at: int


@dataclass(slots=True)
class Logs:
    """Everything that was written down outside of the product.

    ``saved`` are the reasons of the rules that an operator saved and was told so; ``troubles`` are
    answers that should not have been given, in words.
    """

    asked: list[Asked] = field(default_factory=list)
    wishes: dict[str, Wish] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Rows:
    """The rows of one instant. ``signals`` are by item, with how often it is there."""

    signals: dict[Item, int]
    findings: dict[tuple[Key, str], tuple[str, int]]
    alerts: dict[int, Mapping[str, Any]]
    transitions: list[Mapping[str, Any]]
    causes: dict[tuple[int, int], list[tuple[Key, datetime]]]
    subscriptions: set[str]
    deliveries: list[Mapping[str, Any]]
    audit: list[Mapping[str, Any]]
    read_at: datetime


def logs(clients: Iterable[Path], owners: Iterable[Path], receivers: Iterable[Path]) -> Logs:
    """Reads the logs; a line that was broken off by a kill is left out."""
    found = Logs()
    for path in clients:
        _read_client(path, found)
    for path in owners:
        _read_owner(path, found)
    for path in receivers:
        found.heard += (
            Heard(said["id"], said["timestamp"], said["signature"], said["body"], said["at"])
            for said in _lines(path)
        )
    return found


def _read_client(path: Path, found: Logs) -> None:
    by_number: dict[int, Asked] = {}
    for said in _lines(path):
        match said["did"]:
            case "send":
                items = tuple(_item(said["partner"], told) for told in said["items"])
                by_number[said["number"]] = Asked(items, said["at"])
            case "try":
                by_number[said["number"]].tries += 1
            case "answered":
                answer = Answer(said["at"], said["status"], tuple(said["statuses"]))
                by_number[said["number"]].answers.append(answer)
            case "trouble":
                found.troubles.append(said["what"])
            case _:
                pass
    found.asked += by_number.values()


def _item(partner: str, told: list[Any]) -> Item:
    *key, at, revision, value = told
    return Item(Observation(partner, Key(*key), datetime.fromisoformat(at)), revision, value)


def _read_owner(path: Path, found: Logs) -> None:
    for said in _lines(path):
        match said["did"]:
            case "subscribed":
                found.wishes[said["id"]] = Wish(
                    said["id"], said["secret"], said["filter"], said["asked_at"]
                )
            case "active":
                found.wishes[said["id"]].active_at = said["at"]
            case "removing":
                found.wishes[said["id"]].leaving_at = said["at"]
            case "removed":
                found.wishes[said["id"]].removed_at = said["at"]
            case "saved":
                found.saved.append(said["reason"])
            case "trouble":
                found.troubles.append(said["what"])
            case _:
                pass


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return (json.loads(line) for line in whole)


async def rows(database_url: str) -> Rows:
    """Reads what is stored, as of one instant."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            series = {
                r["series_id"]: Key(*r[1:])
                for r in await connection.fetch(
                    "SELECT series_id, sector, indicator, good, place, exercise FROM series"
                )
            }
            signals: dict[Item, int] = {}
            for r in await connection.fetch(
                "SELECT p.name, s.series_id, s.observed_at, s.revision, s.value "
                "FROM signals AS s JOIN partners AS p ON p.id = s.partner_id"
            ):
                said = Observation(r["name"], series[r["series_id"]], r["observed_at"])
                item = Item(said, r["revision"], r["value"])
                signals[item] = signals.get(item, 0) + 1
            causes: dict[tuple[int, int], list[tuple[Key, datetime]]] = {}
            for r in await connection.fetch(
                "SELECT alert_id, number, series_id, observed_at FROM alert_signals"
            ):
                cause = series[r["series_id"]], r["observed_at"]
                causes.setdefault((r["alert_id"], r["number"]), []).append(cause)
            found = await connection.fetch(
                "SELECT series_id, mechanism, rule, state, severity FROM findings"
            )
            return Rows(
                signals=signals,
                findings={
                    (series[r["series_id"]], r["rule"]): (r["state"], r["severity"])
                    for r in found
                    if r["mechanism"] == "torture"
                },
                alerts={r["id"]: dict(r) for r in await connection.fetch("SELECT * FROM alerts")},
                transitions=[
                    dict(r) for r in await connection.fetch("SELECT * FROM transitions ORDER BY id")
                ],
                causes=causes,
                subscriptions={
                    r["id"]
                    for r in await connection.fetch(
                        "SELECT id FROM subscriptions WHERE removed_at IS NULL"
                    )
                },
                deliveries=[
                    dict(r)
                    for r in await connection.fetch(
                        "SELECT d.id, d.subscription_id, d.sequence, d.type, d.transition_id, d.alert_id, "
                        "d.state, coalesce(d.data, t.data) AS data FROM deliveries AS d "
                        "LEFT JOIN transitions AS t ON t.id = d.transition_id "
                        "ORDER BY d.subscription_id, d.sequence"
                    )
                ],
                audit=[dict(r) for r in await connection.fetch("SELECT * FROM audit ORDER BY id")],
                read_at=await connection.fetchval("SELECT now()"),
            )
    finally:
        await connection.close()
