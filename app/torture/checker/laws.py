"""Each promise, how often it was looked at, and where it was broken."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, NamedTuple

from app.torture.checker import replay
from app.torture.checker.evidence import Answer, Asked, Item, Key, Logs, Observation, Rows, Wish
from app.torture.checker.replay import Told

STORED = frozenset({"accepted", "late", "revised", "duplicate"})
SEVERITIES = ("none", "minor", "moderate", "severe", "extreme")
LEVELS = ("monitoring", "early_warning", "disruption", "crisis")
ORDERLY = frozenset({"syringes", "implants"})
"""Goods of which each place has one reporter of one indicator, who waits for each answer."""


@dataclass(slots=True)
class Law:
    """One promise: ``checked`` says how often it was looked at, ``broken`` where it does not hold."""

    name: str
    says: str
    checked: int = 0
    broken: list[str] = field(default_factory=list)

    def holds(self, is_so: object, otherwise: str) -> None:
        """Looks at it once more."""
        self.checked += 1
        if not is_so:
            self.broken.append(otherwise)


def judge(logs: Logs, rows: Rows) -> list[Law]:
    """Every law, in the order in which a signal meets them."""
    signals = _Signals.of(logs, rows)
    owed = _Owed.of(logs, rows)
    return [
        _answered(logs),
        _stored(signals),
        _unsent(signals),
        _revised(signals),
        _findings(rows),
        _alerts(rows),
        _transitions(rows),
        _told_in_order(rows),
        _owed(logs, rows, signals),
        _received(logs, owed),
        _one_id(logs, owed),
        _in_order(owed),
        _signed(logs),
        _audit(logs, rows),
    ]


# What clients were told, beside what is stored


@dataclass(frozen=True, slots=True)
class _Signals:
    """By item: the requests that said it, the answers it got, and how often it is stored."""

    said: Mapping[Item, list[Asked]]
    answers: Mapping[Item, list[tuple[Answer, str]]]
    stored: Mapping[Item, int]

    @classmethod
    def of(cls, logs: Logs, rows: Rows) -> _Signals:
        said, answers = defaultdict(list), defaultdict(list)
        for asked in logs.asked:
            for place, item in enumerate(asked.items):
                said[item].append(asked)
                for answer in asked.answers:
                    if len(answer.statuses) > place:
                        answers[item].append((answer, answer.statuses[place]))
        return cls(said, answers, rows.signals)

    def is_acknowledged(self, item: Item) -> bool:
        return any(status in STORED for _, status in self.answers.get(item, ()))

    def may_be_stored(self, item: Item) -> bool:
        """Whether it was taken, or a try of it was never answered."""
        unanswered = any(a.tries > len(a.answers) for a in self.said.get(item, ()))
        return unanswered or self.is_acknowledged(item)


def _answered(logs: Logs) -> Law:
    law = Law(
        "answered", "a client hears 2xx, 4xx or 503, never another failure, and is heard in the end"
    )
    for asked in logs.asked:
        for answer in asked.answers:
            law.holds(answer.status < 500 or answer.status == 503, f"answered {answer.status}")
    for trouble in logs.troubles:
        law.broken.append(trouble)
    return law


def _stored(signals: _Signals) -> Law:
    law = Law(
        "stored",
        "every acknowledged signal is stored exactly once, and was taken as new at most once",
    )
    for item, answers in signals.answers.items():
        if signals.is_acknowledged(item):
            count = signals.stored.get(item, 0)
            law.holds(count == 1, f"{_named(item)} is stored {count} times")
            new = sum(status in STORED - {"duplicate"} for _, status in answers)
            law.holds(new <= 1, f"{_named(item)} was taken as new {new} times")
    return law


def _unsent(signals: _Signals) -> Law:
    law = Law("unsent", "nothing is stored that nobody sent, or that was refused")
    for item in signals.stored:
        law.holds(signals.may_be_stored(item), f"{_named(item)} is stored, and nobody sent it")
    return law


def _revised(signals: _Signals) -> Law:
    law = Law(
        "revised", "revisions count from 1 without gaps, and the newest acknowledged is there"
    )
    kept: dict[Observation, list[int]] = defaultdict(list)
    for item in signals.stored:
        kept[item.observation].append(item.revision)
    newest: dict[Observation, int] = defaultdict(int)
    for item in signals.answers:
        if signals.is_acknowledged(item):
            newest[item.observation] = max(newest[item.observation], item.revision)
    for said, revisions in kept.items():
        wanted = list(range(1, len(revisions) + 1))
        law.holds(sorted(revisions) == wanted, f"{said} has revisions {revisions}")
    for said, revision in newest.items():
        last = max(kept.get(said, [0]))
        law.holds(last >= revision, f"{said}: {revision} was taken, {last} is last")
    return law


def _named(item: Item) -> str:
    partner, key, at = item.observation
    return (
        f"{'/'.join(key)} at {at.isoformat()} by {partner}, revision {item.revision} ({item.value})"
    )


# What is judged, beside a replay


class _Subject(NamedTuple):
    good: str
    place: str
    exercise: str


def _subjects(rows: Rows) -> dict[_Subject, list[replay.Entry]]:
    found: dict[_Subject, list[replay.Entry]] = defaultdict(list)
    for entry in replay.entries(rows.signals):
        found[_subject(entry.key)].append(entry)
    return found


def _subject(key: Key) -> _Subject:
    return _Subject(key.good, key.place, key.exercise)


def _open_alerts(rows: Rows) -> dict[_Subject, list[Mapping[str, Any]]]:
    found: dict[_Subject, list[Mapping[str, Any]]] = defaultdict(list)
    for alert in _ours(rows.alerts.values()):
        if alert["state"] == "open":
            found[_Subject(alert["good"], alert["place"], alert["exercise"])].append(alert)
    return found


def _ours(alerts: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (a for a in alerts if a["mechanism"] == "torture")


def _findings(rows: Rows) -> Law:
    law = Law("findings", "every finding is as a replay of what is stored has it")
    expected: dict[tuple[Key, str], tuple[str, int]] = {}
    for seen in _subjects(rows).values():
        for name, finding in replay.replayed(seen, rows.read_at).findings.items():
            expected[name] = finding.state, finding.severity
    for name in sorted({*expected, *rows.findings}):
        wanted, found = expected.get(name, ("ok", 0)), rows.findings.get(name, ("ok", 0))
        law.holds(wanted == found, f"{name} is {found}, a replay says {wanted}")
    return law


def _alerts(rows: Rows) -> Law:
    law = Law("alerts", "an alert is open, once and as grave, exactly where a replay has one open")
    opened = _open_alerts(rows)
    subjects = _subjects(rows)
    for subject in sorted({*subjects, *opened}):
        stands = replay.replayed(subjects.get(subject, ()), rows.read_at)
        wanted = [(stands.severity, 1)] if stands.is_open else []
        found = [(a["severity"], a["level"]) for a in opened.get(subject, ())]
        law.holds(found == wanted, f"{subject}: {found} open, a replay has {wanted}")
    return law


def _transitions(rows: Rows) -> Law:
    law = Law(
        "transitions", "the transitions of an alert are numbered, each goes on from the one before"
    )
    by_alert: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for told in rows.transitions:
        by_alert[told["alert_id"]].append(told)
    for number, alert in rows.alerts.items():
        chain = sorted(by_alert[number], key=lambda t: int(t["number"]))
        fault = _fault_of(chain, alert)
        law.holds(not fault, f"{alert['ref']}: {fault}")
    return law


def _fault_of(chain: Sequence[Mapping[str, Any]], alert: Mapping[str, Any]) -> str:
    severity, level = 0, 0
    for place, told in enumerate(chain, start=1):
        before, after = told["severity_from"], told["severity_to"]
        if told["number"] != place:
            return f"transition {place} is missing"
        if (before, told["level_from"]) != (severity, level):
            return f"transition {place} goes on from something else"
        if (told["type"] == "alert.opened") != (place == 1):
            return f"transition {place} is {told['type']}"
        if (told["type"] == "alert.escalated" and after <= before) or (
            told["type"] == "alert.eased" and after >= before
        ):
            return f"transition {place} is {told['type']} from {before} to {after}"
        severity, level = after, told["level_to"]
    is_over = bool(chain) and chain[-1]["type"] == "alert.resolved"
    if is_over != (alert["state"] == "resolved") or severity != alert["severity"]:
        return "its last transition leads to something else"
    return "" if len(chain) == alert["number"] else "it counts other transitions than it has"


def _told_in_order(rows: Rows) -> Law:
    law = Law(
        "told", "where the order is determined, what was told is, one by one, what a replay tells"
    )
    told: dict[_Subject, list[Told]] = defaultdict(list)
    for one in rows.transitions:
        alert = rows.alerts[one["alert_id"]]
        if alert["mechanism"] == "torture" and alert["good"] in ORDERLY:
            subject = _Subject(alert["good"], alert["place"], alert["exercise"])
            step = Told(one["type"], one["severity_from"], one["severity_to"], one["at"])
            told[subject].append(step)
    for subject, seen in _subjects(rows).items():
        if subject.good in ORDERLY:
            fault = replay.departure(seen, told.pop(subject, []))
            law.holds(not fault, f"{subject}: {fault}")
            law.checked += len(seen) - 1
    for subject in told:
        law.broken.append(f"{subject}: something was told, and nothing was observed")
    return law


# Who is told of it


def _owed(logs: Logs, rows: Rows, signals: _Signals) -> Law:
    law = Law(
        "owed",
        "a transition is owed once to each who subscribed then and whose filter lets it through",
    )
    spans = _spans(logs, rows)
    count = Counter((d["subscription_id"], d["transition_id"]) for d in rows.deliveries)
    highest: dict[int, tuple[int, int]] = {}
    for told in rows.transitions:
        alert = rows.alerts[told["alert_id"]]
        level, severity = highest.get(alert["id"], (0, 0))
        level, severity = max(level, told["level_to"]), max(severity, told["severity_to"])
        if told["type"] != "alert.resolved":
            reach = (
                max(told["level_from"], told["level_to"]),
                max(told["severity_from"], told["severity_to"]),
            )
        else:
            reach = level, severity
        highest[alert["id"]] = level, severity
        for wish in logs.wishes.values():
            owed = count[wish.id, told["id"]]
            lets = not alert["folded"] and _lets_through(wish.filter, alert, told["type"], reach)
            could, must = _listened(wish, spans[told["id"]])
            law.holds(
                (1 if must else 0) <= owed <= 1 if lets and could else owed == 0,
                (
                    f"{alert['ref']} {told['number']} ({told['type']}) is owed {owed} times to {wish.id}"
                ),
            )
    return law


class _Span(NamedTuple):
    """What is known of when a transition was made: surely after, and surely before, these instants."""

    after: int
    before: int


_NEVER = 2**63


def _spans(logs: Logs, rows: Rows) -> dict[int, _Span]:
    """From when what caused a transition was first sent and answered; later ones of an alert come later.

    ``before`` is known only where the order is determined: what changed the past is not in the rows.
    """
    first: dict[tuple[Key, Any], int] = {}
    last: dict[tuple[Key, Any], int] = {}
    for asked in logs.asked:
        answered = min((a.at for a in asked.answers if a.status < 300), default=_NEVER)
        for item in asked.items:
            cause = item.observation.key, item.observation.at
            first[cause] = min(first.get(cause, _NEVER), asked.sent_at)
            last[cause] = min(last.get(cause, _NEVER), answered)
    found: dict[int, _Span] = {}
    latest: dict[int, int] = {}
    for told in rows.transitions:
        causes = rows.causes.get((told["alert_id"], told["number"]), [])
        after = min((first.get(c, 0) for c in causes), default=0)
        after = latest[told["alert_id"]] = max(after, latest.get(told["alert_id"], 0))
        is_orderly = rows.alerts[told["alert_id"]]["good"] in ORDERLY
        before = max((last.get(c, _NEVER) for c in causes), default=_NEVER)
        found[told["id"]] = _Span(after, before if is_orderly else _NEVER)
    return found


def _listened(wish: Wish, span: _Span) -> tuple[bool, bool]:
    """Whether a subscription could be there when a transition was made, and whether it must have been."""
    is_gone = wish.removed_at is not None and span.after > wish.removed_at
    could = not is_gone and span.before > wish.asked_at
    is_here = wish.active_at is not None and span.after > wish.active_at
    return could, is_here and (wish.leaving_at is None or span.before < wish.leaving_at)


def _lets_through(
    wish: Mapping[str, Any], alert: Mapping[str, Any], kind: str, reach: tuple[int, int]
) -> bool:
    lists = (
        ("mechanisms", alert["mechanism"]),
        ("sectors", alert["sector"]),
        ("goods", alert["good"]),
        ("places", alert["place"]),
        ("types", kind),
    )
    return (
        all(not wish.get(name) or value in wish[name] for name, value in lists)
        and (not alert["exercise"] or bool(wish.get("exercises")))
        and reach[0] >= LEVELS.index(wish.get("min_level", "monitoring"))
        and reach[1] >= SEVERITIES.index(wish.get("min_severity", "none"))
    )


# What receivers heard


class _Webhook(NamedTuple):
    id: str
    sequence: int
    data: Any
    is_alert: bool


@dataclass(frozen=True, slots=True)
class _Owed:
    """Deliveries by the id that receivers see, and what was heard, in order, as it says itself."""

    rows: Mapping[str, Mapping[str, Any]]
    heard: Sequence[_Webhook]
    removed: frozenset[str]

    @classmethod
    def of(cls, logs: Logs, rows: Rows) -> _Owed:
        by_id = {
            f"msg_{d['subscription_id'].removeprefix('sub_')}_{d['sequence']}": d
            for d in rows.deliveries
        }
        heard = []
        for one in logs.heard:
            said = json.loads(one.body)
            is_alert = said["type"].startswith("alert.")
            heard.append(_Webhook(one.id, said["sequence"], said["data"], is_alert))
        removed = {d["subscription_id"] for d in rows.deliveries} - rows.subscriptions
        return cls(by_id, heard, frozenset(removed))


def _received(logs: Logs, owed: _Owed) -> Law:
    law = Law(
        "received", "every delivery was received at least once as it was owed, and nothing else was"
    )
    times = Counter(one.id for one in owed.heard)
    for webhook_id, row in owed.rows.items():
        if row["subscription_id"] in owed.removed and row["state"] != "delivered":
            continue
        law.holds(
            row["state"] == "delivered" and times[webhook_id],
            f"{webhook_id} is {row['state']} and was received {times[webhook_id]} times",
        )
    data = {i: json.loads(row["data"]) for i, row in owed.rows.items()}
    for one in owed.heard:
        told = owed.rows.get(one.id)
        law.holds(
            told is not None and told["sequence"] == one.sequence and data[one.id] == one.data,
            f"{one.id} was received and is not what was owed",
        )
    return law


def _one_id(logs: Logs, owed: _Owed) -> Law:
    law = Law("one id", "one id always comes with the same body, and no event comes under two ids")
    bodies: dict[str, str] = {}
    for heard in logs.heard:
        law.holds(
            bodies.setdefault(heard.id, heard.body) == heard.body,
            f"{heard.id} came with two bodies",
        )
    ids: dict[tuple[str, str], str] = {}
    for one in owed.heard:
        if one.is_alert:
            to = one.id.rpartition("_")[0]
            told = (
                one.data["alert"]["ref"],
                json.dumps(one.data["references"]),
                one.data["transition"],
            )
            event = to, json.dumps(told, sort_keys=True)
            law.holds(
                ids.setdefault(event, one.id) == one.id,
                f"{one.id} and {ids[event]} are the same event",
            )
    return law


def _in_order(owed: _Owed) -> Law:
    law = Law(
        "in order", "the events of an alert are first received in the order they were owed in"
    )
    last: dict[tuple[str, str], int] = defaultdict(int)
    seen: set[str] = set()
    for one in owed.heard:
        if one.is_alert and one.id not in seen:
            seen.add(one.id)
            alert = one.id.rpartition("_")[0], one.data["alert"]["ref"]
            law.holds(
                one.sequence > last[alert],
                f"{one.id} of {alert[1]} came after {last[alert]}",
            )
            last[alert] = max(last[alert], one.sequence)
    return law


def _signed(logs: Logs) -> Law:
    law = Law("signed", "every request is signed with the secret of its subscription")
    keys = {
        wish.id.removeprefix("sub_"): base64.b64decode(wish.secret.removeprefix("whsec_"))
        for wish in logs.wishes.values()
    }
    for one in logs.heard:
        key = keys.get(one.id.removeprefix("msg_").rpartition("_")[0])
        if key is None:
            continue  # Its owner never heard that it was made, nor its secret.
        content = f"{one.id}.{one.timestamp}.{one.body}".encode()
        signature = base64.b64encode(hmac.digest(key, content, "sha256")).decode()
        law.holds(
            f"v1,{signature}" in one.signature.split(" "),
            f"{one.id} has a signature that is not its subscription's",
        )
    return law


# Who changed what


def _audit(logs: Logs, rows: Rows) -> Law:
    law = Law(
        "audit", "the chain of changes is whole, and holds every change that was acknowledged, once"
    )
    previous = b""
    for place, row in enumerate(rows.audit, start=1):
        fields = [
            row["id"],
            row["at"].astimezone(UTC).isoformat(),
            *(
                row[n]
                for n in ("key_id", "partner", "action", "subject", "before", "after", "reason")
            ),
        ]
        told = json.dumps(fields, ensure_ascii=False).encode()
        is_whole = row["id"] == place and hashlib.sha256(previous + told).digest() == row["hash"]
        law.holds(is_whole, f"row {row['id']} does not go on from the one before")
        previous = row["hash"]
    reasons = Counter(row["reason"] for row in rows.audit)
    for reason in logs.saved:
        count = reasons[reason]
        law.holds(count == 1, f"{reason!r} was acknowledged and is there {count} times")
    return law
