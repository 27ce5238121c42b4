"""Plays planned scenarios through the engine, and says what happened otherwise than expected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter

from alerts import explanation
from alerts.catalogue import Catalogue
from alerts.desk import Desk
from alerts.lifecycle import Alert
from alerts.mechanisms import Scope
from alerts.signals import SeriesKey
from alerts.tracks import Judgement, Published
from app.timetable.instants import shown
from app.timetable.planning import Planned, Stage, Timetable, Wanted
from app.timetable.written import Move, Open

_TOLD = ("type", "series", "severity", "level", "recommends", "at")
"""What is told of a transition that nothing expects; its sentence follows."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that happened otherwise; ``sentence`` is what the engine says of it."""

    line: int
    detail: str
    expected: str
    happened: str
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of one scenario."""

    file: str
    scenario: str
    line: int
    mechanism: str
    failures: tuple[Failure, ...]
    seconds: float


def play(timetable: Timetable, catalogue: Catalogue) -> Iterator[Played]:
    """Plays the scenarios of a file, one after another."""
    for planned in timetable.scenarios:
        began = perf_counter()
        failures = tuple(_Play(planned, timetable.keys, catalogue).failures())
        yield Played(
            timetable.file,
            planned.name,
            planned.line,
            planned.profile.id,
            failures,
            perf_counter() - began,
        )


@dataclass(slots=True)
class _Play:
    """One scenario on its way; ``swept`` counts the sweeps that are over."""

    planned: Planned
    keys: dict[str, SeriesKey]
    catalogue: Catalogue
    desk: Desk = field(init=False)
    published: list[Published] = field(default_factory=list)
    held_back: bool = False
    broken: list[str] = field(default_factory=list)
    swept: int = 0

    def __post_init__(self) -> None:
        """Sets up an empty desk."""
        self.desk = Desk([self.planned.profile], self.catalogue)

    def failures(self) -> Iterator[Failure]:
        for stage in self.planned.stages:
            self.published, self.held_back, self.broken = [], False, []
            for moment in stage.moments:
                self._pass_time(moment.at)
                self._note(self.desk.post(moment.entries, moment.at))
                self._note(self.desk.sweep(moment.at))
            self._pass_time(stage.ends_at)
            if not stage.moments:
                self._note(self.desk.sweep(stage.ends_at))
            yield from self._compared(stage)

    def _pass_time(self, until: datetime) -> None:
        """Sweeps whenever it is time to before an instant; at the instant is the caller's."""
        sweeps = self.planned.sweeps
        while self.swept < len(sweeps) and sweeps[self.swept] <= until:
            if sweeps[self.swept] < until:
                self._note(self.desk.sweep(sweeps[self.swept]))
            self.swept += 1

    def _note(self, outcome: Judgement) -> None:
        self.published += outcome.published
        self.held_back |= bool(outcome.held_back)
        self.broken += [f"{rule}: {said}" for _, rule, said in outcome.broken]

    def _compared(self, stage: Stage) -> Iterator[Failure]:
        on = shown(stage.ends_at)
        for said in dict.fromkeys(self.broken):
            yield Failure(stage.line, f"a rule broke on {on}", "every rule answers", said)
        yield from self._moves(stage, on)
        for wanted in stage.findings:
            yield from self._finding(wanted, on)
        if stage.alerts is not None:
            yield from self._alerts(stage, on)

    def _moves(self, stage: Stage, on: str) -> Iterator[Failure]:
        """Transitions in order: each expected one beside the one that happened in its place."""
        for place, (line, move, at, recorded) in enumerate(stage.moves):
            if place >= len(self.published):
                held = "the profile was not in force" if self.held_back else ""
                detail = f"no such transition by {on}"
                yield Failure(line, detail, _said(_wanted(move, at, recorded)), "nothing", held)
                continue
            found = self.published[place]
            wanted, seen = _wanted(move, at, recorded), self._seen(found, move)
            wrong = [word for word in wanted if not _fits(wanted[word], seen[word])]
            if wrong:
                detail = f"another {' and '.join(wrong)} on {shown(found.transition.recorded_at)}"
                words = dict.fromkeys(["type", *wrong])
                expected, happened = ({w: of[w] for w in words} for of in (wanted, seen))
                yield Failure(line, detail, _said(expected), _said(happened), self._sentence(found))
        for found in self.published[len(stage.moves) :]:
            detail = f"a transition on {shown(found.transition.recorded_at)} that nothing expects"
            seen = self._seen(found, Move(""))
            told = _said({word: seen[word] for word in _TOLD})
            yield Failure(stage.line, detail, "nothing", told, self._sentence(found))

    def _seen(self, found: Published, move: Move) -> dict[str, object]:
        alert, transition = found.alert, found.transition
        return {
            "type": transition.type.value.removeprefix("alert."),
            "series": move.series if self._scope(move.series) == found.scope else repr(alert.title),
            "severity": alert.severity.name,
            "level": alert.level.name,
            "recommends": _recommended(alert),
            "at": shown(transition.at),
            "recorded": shown(transition.recorded_at),
            "reason": transition.reason,
            "because": "; ".join(alert.recommendation.reasons) if alert.recommendation else "",
        }

    def _scope(self, series: str) -> Scope | None:
        return self.planned.profile.scope_of(self.keys[series]) if series else None

    def _sentence(self, found: Published) -> str:
        said, why = found.transition.reason, str(found.transition.explanation["sentence"])
        return next(
            (one for one, other in ((why, said), (said, why)) if other in one), f"{said} {why}"
        )

    def _finding(self, wanted: Wanted, on: str) -> Iterator[Failure]:
        stands, profile, rule = wanted.stands, self.planned.profile, wanted.rule
        evidence = self.desk.evidence(wanted.key, profile, rule)
        finding = evidence.finding
        sentence = explanation.sentence(evidence, self.catalogue) if finding.observed_at else ""
        seen: dict[str, object] = {
            "state": finding.state.value,
            "severity": finding.severity.name,
            "value": finding.value,
            "compared": finding.compared,
            "baseline": finding.baseline,
            "reason": f"{finding.reason} {sentence}".strip(),
        }
        expected: dict[str, object] = {
            "state": stands.state and stands.state.value,
            "severity": None if stands.severity is None else stands.severity.name,
            "value": stands.value,
            "compared": stands.compared,
            "baseline": stands.baseline,
            "reason": stands.reason or None,
        }
        expected = {word: said for word, said in expected.items() if said is not None}
        wrong = [word for word in expected if not _fits(expected[word], seen[word])]
        if wrong:
            what = f"the finding of {rule.id} on {stands.series}"
            detail = f"{what} has another {' and '.join(wrong)} on {on}"
            told, happened = ({w: of[w] for w in wrong} for of in (expected, seen))
            yield Failure(wanted.line, detail, _said(told), _said(happened), sentence)

    def _alerts(self, stage: Stage, on: str) -> Iterator[Failure]:
        left = dict(self.desk.alerts)
        for line, one in stage.alerts or ():
            scope = self._scope(one.series)
            alert = left.pop(scope, None) if scope else None
            expected = _wanted_open(one)
            if alert is None:
                detail = f"no alert is open for {one.series} on {on}"
                yield Failure(line, detail, _said(expected) or "one", "none")
                continue
            seen: dict[str, object] = {
                "severity": alert.severity.name,
                "level": alert.level.name,
                "recommends": _recommended(alert),
                "why": alert.why,
            }
            wrong = [word for word in expected if not _fits(expected[word], seen[word])]
            if wrong:
                detail = f"the alert for {one.series} has another {' and '.join(wrong)} on {on}"
                told, happened = ({w: of[w] for w in wrong} for of in (expected, seen))
                yield Failure(line, detail, _said(told), _said(happened), alert.why)
        for alert in left.values():
            detail = f"an alert is open on {on} that nothing expects"
            yield Failure(stage.line, detail, "none", f"{alert.title}", alert.why)


def _recommended(alert: Alert) -> str:
    return alert.recommendation.level.name if alert.recommendation else "none"


def _wanted(move: Move, at: datetime | None, recorded: datetime | None) -> dict[str, object]:
    """What a move must be, by word, without what may be anything."""
    wanted: dict[str, object] = {
        "type": move.type,
        "series": move.series or None,
        "severity": None if move.severity is None else move.severity.name,
        "level": None if move.level is None else move.level.name,
        "recommends": move.recommends and move.recommends.value,
        "at": at and shown(at),
        "recorded": recorded and shown(recorded),
        "reason": move.reason or None,
        "because": move.because or None,
    }
    return {word: said for word, said in wanted.items() if said is not None}


def _wanted_open(one: Open) -> dict[str, object]:
    wanted: dict[str, object] = {
        "severity": None if one.severity is None else one.severity.name,
        "level": None if one.level is None else one.level.name,
        "recommends": one.recommends and one.recommends.value,
        "why": one.why or None,
    }
    return {word: said for word, said in wanted.items() if said is not None}


def _fits(wanted: object, seen: object) -> bool:
    """Phrases must be contained, numbers equal to the decimals written, all else the same."""
    if isinstance(wanted, tuple):
        return all(phrase in str(seen) for phrase in wanted)
    if isinstance(wanted, float):
        return isinstance(seen, float | int) and abs(seen - wanted) <= _tolerance(wanted)
    return wanted == seen


def _tolerance(wanted: float) -> float:
    """Half of the last decimal written; a whole number has none and is exact but for rounding."""
    decimals = f"{wanted!r}".partition(".")[2]
    if "e" in decimals or set(decimals) <= {"0"}:
        return 1e-9 * max(1.0, abs(wanted))
    return 0.5 * 10.0 ** -len(decimals) + 1e-12


def _said(words: dict[str, object] | Iterable[tuple[str, object]]) -> str:
    """Words and what they are, for one line."""
    told = []
    for word, said in dict(words).items():
        if isinstance(said, tuple):
            told.append(f"{word} with {' and '.join(repr(phrase) for phrase in said)}")
        elif word == "type":
            told.append(str(said))
        elif word in {"reason", "because", "why"}:
            told.append(f"{word} {str(said)!r}" if said else f"no {word}")
        elif said is None:
            told.append(f"no {word}")
        else:
            told.append(f"{word} {said:.6g}" if isinstance(said, float) else f"{word} {said}")
    return ", ".join(told)


def failed(played: Sequence[Played]) -> int:
    """How many scenarios failed."""
    return sum(bool(p.failures) for p in played)
