"""Reports signals as partners do, as a process of its own: desks that wait for each answer and try again.

    python -m app.torture.partner '{"partner": "aurora", "key": "fw_…", "ports": [8000], …}'

Two kinds of desk:

    orderly   one series for each place, observed and sent one after the other
    crowd     many partners on the same series: late, revised and retracted values, reports of events,
              the same again, and batches of it all, some of them wrong

What will be corrected numbers its revisions, as a client must that tries again: an earlier try may still be
under way, and a value without a number would be news once more.

Each request is a line of the log before it is sent, and each answer a line when it has come.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from app.torture.wire import GIVES_UP_SECONDS, Answer, Client, CutOff, Diary

SECTOR = "medical_devices"
SEVERITIES = ("none", "minor", "moderate", "severe", "extreme")
GRID = timedelta(milliseconds=500)
EPOCH_SECONDS = 20
GOODS = ("catheters", "ventilators", "pacemakers")
"""Goods of the crowd; those of orderly desks are given to them."""

_MOODS = {"calm": (0, 40), "between": (51, 59), "high": (60, 110), "grave": (120, 200)}


@dataclass(frozen=True, slots=True)
class Order:
    """What this partner is to do."""

    partner: str
    key: str
    ports: list[int]
    log: str
    seed: int
    stop: str
    orderly: list[list[str]]
    crowds: int
    places: list[str]
    begun_at: str


@dataclass(frozen=True, slots=True)
class Said:
    """One thing said of an observation; its revision is named where it ``is_numbered``."""

    code: str
    good: str
    place: str
    exercise: str
    at: datetime
    revision: int
    value: float | None
    is_numbered: bool = False
    unit: str = "days"

    @property
    def observation(self) -> tuple[object, ...]:
        """What it is said of."""
        return self.code, self.good, self.place, self.exercise, self.at

    def line(self) -> list[object]:
        """As the log has it."""
        key = [SECTOR, self.code, self.good, self.place, self.exercise]
        return [*key, self.at.isoformat(), self.revision, self.value]

    def body(self) -> dict[str, Any]:
        """As it is sent."""
        is_event = self.code == "gmp_suspension"
        said: dict[str, Any] = {
            "sector": SECTOR,
            "event" if is_event else "indicator": self.code,
            "good": self.good,
            "place": self.place,
            "observed_at": self.at.isoformat(),
        }
        if self.exercise:
            said["exercise"] = self.exercise
        if self.value is None:
            return {**said, "reason": "It was wrong."}
        if self.is_numbered:
            said["revision"] = self.revision
        if is_event:
            return {**said, "severity": SEVERITIES[int(self.value)]}
        return {**said, "value": self.value, "unit": self.unit}


@dataclass(slots=True)
class Desk:
    """One who reports, one request after the other; ``place`` tells apart those of one partner."""

    order: Order
    diary: Diary
    client: Client
    dice: Random
    numbers: list[int]
    place: int = 0
    last: datetime = field(default_factory=lambda: datetime.now(UTC))

    def instant(self) -> datetime:
        """Now, and later than any before."""
        self.last = max(datetime.now(UTC), self.last + timedelta(microseconds=1))
        return self.last

    def is_over(self) -> bool:
        """Whether the load is to end."""
        return Path(self.order.stop).exists()

    async def report(self, items: Sequence[Said], *, patient: bool = True) -> None:
        """Sends until all are answered; what a slow clock calls the future is sent again, if patient."""
        left, until = list(items), time.monotonic() + GIVES_UP_SECONDS
        while left:
            if time.monotonic() > until:
                raise CutOff(f"{left[0]} was refused for {GIVES_UP_SECONDS:g} s")
            statuses = await self._post(left)
            left = [i for i, s in zip(left, statuses, strict=True) if s == "rejected"]
            if not patient:
                return
            if left:
                await asyncio.sleep(0.3 + self.dice.random() * 0.3)

    async def _post(self, items: Sequence[Said]) -> list[str]:
        number = self.numbers[0] = self.numbers[0] + 1
        is_retraction = items[0].value is None
        path = "/v1/signals/retract" if is_retraction else "/v1/signals"
        bodies = [item.body() for item in items]
        self.diary.write(
            "send", number=number, partner=self.order.partner, items=[i.line() for i in items]
        )
        heard: list[list[str]] = []

        def answered(answer: Answer) -> None:
            statuses = _statuses(answer, len(items))
            heard.append(statuses)
            self.diary.write("answered", number=number, status=answer.status, statuses=statuses)

        final = await self.client.ask(
            "POST",
            f"{path}?verbose=true",
            bodies[0] if len(bodies) == 1 else bodies,
            tried=lambda: self.diary.write("try", number=number),
            answered=answered,
        )
        if not heard[-1]:
            raise CutOff(f"signals were answered {final.status}: {final.body!r}")
        return heard[-1]

    async def breathe(self) -> None:
        """A short pause."""
        await asyncio.sleep(0.01 + self.dice.random() * 0.08)


def _statuses(answer: Answer, count: int) -> list[str]:
    """What became of each item; nothing where the answer does not say."""
    items = answer.json().get("items", []) if answer.status < 500 else []
    return [item["status"] for item in items] if len(items) == count else []


async def orderly(desk: Desk, subjects: Sequence[Sequence[str]]) -> None:
    """Each series in a mood that changes now and then."""
    moods = {place: ("calm", 0) for _, place, _, _ in subjects}
    while not desk.is_over():
        count = 1 if desk.dice.random() < 0.85 else desk.dice.randrange(2, 30)
        items = []
        for _ in range(count):
            good, place, code, exercise = desk.dice.choice(subjects)
            mood, left = moods[place]
            if not left:
                mood, left = desk.dice.choice(list(_MOODS)), desk.dice.randrange(2, 9)
            moods[place] = mood, left - 1
            value = float(desk.dice.randint(*_MOODS[mood]))
            items.append(Said(code, good, place, exercise, desk.instant(), 1, value))
        await desk.report(items)
        await desk.breathe()


class Crowd:
    """A desk among others that report the same series."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._begun = datetime.fromisoformat(desk.order.begun_at)
        self._place = ""
        self._said: dict[tuple[object, ...], list[Said]] = {}

    async def run(self) -> None:
        """Reports until it is over."""
        while not self._desk.is_over():
            self._move_on()
            fate = self._desk.dice.random()
            if fate < 0.72:
                await self._desk.report([self._one()])
            elif fate < 0.80:
                await self._take_back()
            elif fate < 0.92:
                count = self._desk.dice.randrange(2, 25)
                await self._desk.report([self._one() for _ in range(count)])
            else:
                await self._blunder()
            await self._desk.breathe()

    def _move_on(self) -> None:
        """Another place every so often, so that no history grows long; the same for all."""
        epoch = int((datetime.now(UTC) - self._begun).total_seconds() // EPOCH_SECONDS)
        place = self._desk.order.places[epoch % len(self._desk.order.places)]
        if place != self._place:
            self._place, self._said = place, {}

    def _one(self) -> Said:
        """Something new, late, revised, or the same again."""
        dice, fate = self._desk.dice, self._desk.dice.random()
        if self._said and fate < 0.12:
            return dice.choice(list(self._said.values()))[0]
        if fate < 0.3:
            numbered = [said[-1] for said in self._said.values() if said[-1].is_numbered]
            standing = [one for one in numbered if one.value is not None]
            if standing:
                return self._revision(dice.choice(standing))
        good = dice.choice(GOODS[:2])
        if fate < 0.36:
            severity, code = float(dice.randint(1, 4)), "gmp_suspension"
            return self._keep(self._new(code, good, self._desk.instant(), severity))
        code = dice.choice(("supply_interruption", "delivery_delay"))
        newest = datetime.now(UTC).timestamp() // GRID.total_seconds()
        back = 0 if dice.random() < 0.6 else dice.randrange(1, 40)
        # Other partners speak of the same instants; other desks of this one do not.
        at = datetime.fromtimestamp((newest - back) * GRID.total_seconds(), UTC)
        at += timedelta(milliseconds=self._desk.place) - GRID
        value = float(dice.randint(*_MOODS[dice.choice(list(_MOODS))]))
        one = self._new(code, good, at, value)
        if one.observation in self._said:
            return self._said[one.observation][0]
        return self._keep(one)

    def _new(self, code: str, good: str, at: datetime, value: float) -> Said:
        numbered = self._desk.dice.random() < 0.6
        return Said(code, good, self._place, "", at, 1, value, numbered)

    def _revision(self, last: Said) -> Said:
        severity = last.code == "gmp_suspension"
        value = self._desk.dice.randint(1, 4) if severity else self._desk.dice.randint(0, 150)
        return self._keep(
            Said(
                last.code, last.good, last.place, "", last.at, last.revision + 1, float(value), True
            )
        )

    def _keep(self, one: Said) -> Said:
        self._said.setdefault(one.observation, []).append(one)
        return one

    async def _take_back(self) -> None:
        numbered = [said[-1] for said in self._said.values() if said[-1].is_numbered]
        standing = [one for one in numbered if one.value is not None]
        if not standing:
            return
        chosen = self._desk.dice.sample(standing, min(len(standing), self._desk.dice.randint(1, 3)))
        await self._desk.report(
            [
                self._keep(
                    Said(o.code, o.good, o.place, "", o.at, o.revision + 1, None, is_numbered=True)
                )
                for o in chosen
            ]
        )

    async def _blunder(self) -> None:
        """Something wrong, by itself or among others: of the future, or in a unit it has not."""
        desk, wrong = self._desk, self._desk.dice.random() < 0.5
        at = desk.instant() + (timedelta(minutes=10) if wrong else timedelta(0))
        unit = "days" if wrong else "weeks"
        place = desk.order.orderly[0][1]
        one = Said("supply_interruption", GOODS[2], place, "", at, 1, 1.0, unit=unit)
        good = Said("supply_interruption", GOODS[2], place, "", desk.instant(), 1, 2.0)
        if desk.dice.random() < 0.5:
            await desk.report([one], patient=False)
        else:
            await desk.report([one, good], patient=False)


async def _work(order: Order) -> None:
    diary, numbers = Diary(Path(order.log)), [0]
    dice = Random(order.seed)

    def desk(place: int) -> Desk:
        own = Random(dice.random())
        client = Client(order.key, order.ports, own, cuts=0.06)
        return Desk(order, diary, client, own, numbers, place)

    works = [orderly(desk(0), order.orderly)]
    works += [Crowd(desk(place)).run() for place in range(order.crowds)]
    for ended in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(ended, CutOff):
            diary.write("trouble", what=str(ended))
        elif isinstance(ended, BaseException):
            diary.write("trouble", what=f"{order.partner} failed: {ended!r}")
    diary.write("over")


def main() -> int:
    """Reports until the file says stop, and everything begun is answered."""
    parser = argparse.ArgumentParser(prog="app.torture.partner")
    parser.add_argument("order")
    asyncio.run(_work(Order(**json.loads(parser.parse_args().order))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
