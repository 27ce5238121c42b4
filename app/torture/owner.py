"""Subscribes and unsubscribes, and saves rules, while everything breaks; as a process of its own.

    python -m app.torture.owner '{"key": "fw_…", "ports": [8000], …}'

Whoever subscribes and hears no answer finds the subscription in the list, without its secret: it is removed
again, and made anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from app.torture.wire import Client, CutOff, Diary

_RULE = {
    "id": "spare",
    "title": "Days until a notified body has time",
    "family": "availability",
    "sectors": ["medical_devices"],
    "indicators": ["notified_body_capacity"],
    "detector": {
        "kind": "bands",
        "direction": "up",
        "bands": [{"severity": "minor", "raise_at": 100, "clear_at": 80}],
        "source": "our_design",
    },
    "source": "our_design",
}
"""Nobody reports what it asks for: saving it changes what is asked, and nothing that is found."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the owner is to do; ``wanted`` are filters with the manner of their receiver."""

    key: str
    operator: str
    ports: list[int]
    receivers: list[int]
    log: str
    seed: int
    stop: str
    wanted: list[list[Any]]


class Owner:
    """Who subscribes."""

    def __init__(self, client: Client, diary: Diary) -> None:
        self._client = client
        self._diary = diary
        self._made = 0

    async def subscribe(self, port: int, manner: str, wish: Mapping[str, Any]) -> str:
        """Makes a subscription whose secret is known; gives its id."""
        while True:
            self._made += 1
            name = f"torture {self._made}"
            body = {
                "url": f"http://127.0.0.1:{port}/{manner}",
                "filter": wish,
                "description": name,
            }
            asked_at, tries = time.monotonic_ns(), [0]

            def tried(counted: list[int] = tries) -> None:
                counted[0] += 1

            answer = await self._client.ask("POST", "/v1/subscriptions", body, tried=tried)
            if answer.status != 201:
                raise CutOff(f"subscribing was answered {answer.status}: {answer.body!r}")
            made = answer.json()
            self._diary.write(
                "subscribed", id=made["id"], secret=made["secret"], filter=wish, asked_at=asked_at
            )
            if tries[0] > 1:
                await self._remove_others(name, made["id"])
            return str(made["id"])

    async def _remove_others(self, name: str, kept: str) -> None:
        for one in await self.listed():
            if one["description"] == name and one["id"] != kept:
                await self._client.ask("DELETE", f"/v1/subscriptions/{one['id']}")

    async def listed(self) -> list[dict[str, Any]]:
        """Every subscription of this owner."""
        answer = await self._client.ask("GET", "/v1/subscriptions?limit=200")
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    async def status(self, id: str) -> str:
        """How a subscription stands; an active one is written down."""
        answer = await self._client.ask("GET", f"/v1/subscriptions/{id}")
        status = str(answer.json()["status"])
        if status == "active":
            self._diary.write("active", id=id)
        return status

    async def remove(self, id: str) -> None:
        """Ends a subscription."""
        self._diary.write("removing", id=id)
        answer = await self._client.ask("DELETE", f"/v1/subscriptions/{id}")
        if answer.status in {204, 404}:
            self._diary.write("removed", id=id)
        else:
            self._diary.write("trouble", what=f"removing {id} was answered {answer.status}")


async def _come_and_go(order: Order, owner: Owner, dice: Random, over: Path) -> None:
    """Subscriptions that live for some seconds."""
    here: list[str] = []
    while not over.exists():
        await asyncio.sleep(0.5 + dice.random())
        if len(here) < 3:
            manner = dice.choice(("well", "slow", "flaky"))
            wish = dice.choice(order.wanted)[1]
            here.append(await owner.subscribe(dice.choice(order.receivers), manner, wish))
        else:
            await owner.remove(here.pop(0))
        for id in here:
            await owner.status(id)


async def _save_rules(client: Client, diary: Diary, dice: Random, over: Path) -> None:
    """Saves another version of a rule now and then, as somebody who looks before trying again."""
    path, number = "/v1/rules/torture/spare", 0
    while not over.exists():
        number += 1
        reason = f"Version {number} of {dice.randrange(2**32)} of the torture."
        while True:
            seen = await client.ask("GET", path)
            versions = seen.json()["versions"] if seen.status == 200 else []
            if any(version["reason"] == reason for version in versions):
                break
            if seen.status == 200:
                body = {"rule": _RULE | {"title": f"Days, {number}"}, "reason": reason}
                newest = {"if-match": seen.headers["etag"]}
                answer = await client.ask("PUT", path, body, headers=newest)
            else:
                new = {"mechanism": "torture", "rule": _RULE, "reason": reason}
                answer = await client.ask("POST", "/v1/rules", new)
            if answer.status in {200, 201}:
                break
            if answer.status not in {409, 412}:
                diary.write("trouble", what=f"a rule was answered {answer.status}: {answer.body!r}")
                return
        diary.write("saved", reason=reason)
        await asyncio.sleep(0.5 + 2 * dice.random())


async def _work(order: Order) -> None:
    diary, dice, over = Diary(Path(order.log)), Random(order.seed), Path(order.stop)
    owner = Owner(Client(order.key, order.ports, Random(dice.random())), diary)
    standing: Sequence[str] = [
        await owner.subscribe(order.receivers[n % len(order.receivers)], manner, wish)
        for n, (manner, wish) in enumerate(order.wanted)
    ]
    for id in standing:
        while await owner.status(id) != "active":  # noqa: ASYNC110 - another process knows
            await asyncio.sleep(0.05)
    print("standing", flush=True)  # noqa: T201 - whoever started this waits for it
    operator = Client(order.operator, order.ports, Random(dice.random()))
    works = [
        _come_and_go(order, owner, Random(dice.random()), over),
        _save_rules(operator, diary, Random(dice.random()), over),
    ]
    for ended in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(ended, BaseException):
            diary.write("trouble", what=f"an owner gave up: {ended!r}")
    diary.write("over")


def main() -> int:
    """Does so until the file says stop."""
    parser = argparse.ArgumentParser(prog="app.torture.owner")
    parser.add_argument("order")
    asyncio.run(_work(Order(**json.loads(parser.parse_args().order))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
