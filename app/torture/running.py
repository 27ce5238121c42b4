"""Starts everything, lets the plan happen, waits until all is well again, and has it checked."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import httpx

from app.demo import processes
from app.demo.processes import DemoFailed
from app.torture import ground as grounds
from app.torture import owner, partner
from app.torture.checker import evidence, laws
from app.torture.checker.evidence import Logs, Rows
from app.torture.checker.laws import Law
from app.torture.checker.replay import HOLD
from app.torture.ground import LEASE_SECONDS, READY_WITHIN_SECONDS, Ground
from app.torture.plan import Fault, plan
from app.torture.wire import GIVES_UP_SECONDS

PARTNERS = ("aurora", "dorado", "baltica")
CROWDS = 2
_PLACES = (
    "DE",
    "FR",
    "NL",
    "IT",
    "ES",
    "PL",
    "SE",
    "IE",
    "US",
    "CA",
    "JP",
    "KR",
    "TW",
    "IN",
    "MX",
    "BR",
)
RECOVERED_WITHIN_SECONDS = 30.0
LEAST_BETWEEN_SECONDS = 0.3
AHEAD_UNTIL_SECONDS = 75.0
"""No clock is put ahead so shortly before the end: what it put off is brought forward each minute."""
_SWEEPS = 6.0
"""Two of them, and a moment."""

WANTED: list[tuple[str, dict[str, Any]]] = [
    ("well", {"exercises": True}),
    ("slow", {"goods": ["syringes"]}),
    ("flaky", {"min_severity": "severe"}),
    ("silent", {"places": ["DE", "FR", "US"], "types": ["alert.opened", "alert.resolved"]}),
    (
        "away",
        {"mechanisms": ["torture"], "sectors": ["medical_devices"], "min_level": "early_warning"},
    ),
    ("flaky", {"goods": ["implants", "catheters"], "exercises": True, "min_severity": "moderate"}),
    ("well", {"mechanisms": ["supply-watch"]}),
]
"""Who hears of what, and how its receiver behaves; the last hears nothing."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What was tried and what came of it; ``kept`` is the folder, where something was broken."""

    seed: int
    minutes: float
    faults: int
    tried: Counter[str]
    not_tried: Mapping[str, str]
    gave_up: int
    unclean: int
    resumed: int
    settled_after: float
    logs: Logs
    rows: Rows
    laws: list[Law]
    kept: str = ""
    more: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        """Every breach, as a sentence."""
        return self.more + [f"{law.name}: {what}" for law in self.laws for what in law.broken]


async def run(*, seed: int, minutes: float, tell: Tell, keep: bool = False) -> Outcome:
    """Tortures for so many minutes, and judges.

    Args:
        seed: of the plan; the load and the receivers are seeded by it as well.
        minutes: how long there are faults.
        tell: told what is being done, in words.
        keep: keeps the folder in any case.

    Raises:
        DemoFailed: something did not start.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    folder = Path(tempfile.mkdtemp(prefix=".forewarn-torture-", dir=Path.cwd()))
    folder.chmod(0o755)
    outcome = None
    try:
        async with AsyncExitStack() as stack:
            tell("starting")
            ground = await grounds.lay(stack, folder, Random(seed))
            outcome = await _torture(stack, ground, seed, minutes, tell)
    finally:
        if outcome is None:
            tell(f"did not come to its end; what there is of it is in {folder}")
        elif not (keep or outcome.violations):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    if folder.exists():
        outcome.kept = str(folder)
    return outcome


async def _torture(
    stack: AsyncExitStack, ground: Ground, seed: int, minutes: float, tell: Tell
) -> Outcome:
    faults = plan(seed, int(minutes * 60 / LEAST_BETWEEN_SECONDS) + 1, lease_seconds=LEASE_SECONDS)
    stop = ground.folder / "stop"
    roles = dict.fromkeys(PARTNERS, "partner") | {"owner": "subscriber", "operator": "operator"}
    keys = await grounds.keys(ground, roles)
    load = [await _owner(stack, ground, keys, seed, stop)]
    load += [_partner(stack, ground, keys, name, seed, stop) for name in PARTNERS]
    keepers = [
        asyncio.create_task(child.keep())
        for child in (*ground.services.values(), *ground.receivers)
    ]
    stack.callback(lambda: [task.cancel() for task in keepers])
    tell(f"breaking things for {minutes:g} minutes, seed {seed}")
    happened = await _happen(ground, faults, minutes * 60, tell)
    tell("calm again")
    ground.calm.touch()
    more = []
    if late := await ground.are_ready(READY_WITHIN_SECONDS):
        more.append(f"recovery: not ready again without help: {ground.last_words(late)}")
    await asyncio.sleep(2.0)  # Under load, once all is well.
    stop.touch()
    more += await _ended(load)
    begun = time.monotonic()
    await asyncio.sleep(HOLD.total_seconds() + _SWEEPS)
    resumed = await _resume(ground, keys)
    tell("waiting until all is delivered")
    more += await _settled(ground, within_seconds=60 + 60 * minutes)
    settled_after = time.monotonic() - begun
    tell("checking")
    logs = evidence.logs(
        [ground.log(name) for name in PARTNERS],
        [ground.log("owner")],
        [ground.log(child.name) for child in ground.receivers],
    )
    rows = await evidence.rows(ground.database_url)
    children = ground.services.values()
    return Outcome(
        seed=seed,
        minutes=minutes,
        faults=happened,
        tried=ground.tried,
        not_tried=ground.not_tried,
        gave_up=sum(child.gave_up for child in children),
        unclean=sum(child.unclean for child in children),
        resumed=resumed,
        settled_after=settled_after,
        logs=logs,
        rows=rows,
        laws=await asyncio.to_thread(laws.judge, logs, rows),
        more=more,
    )


async def _owner(
    stack: AsyncExitStack, ground: Ground, keys: Mapping[str, str], seed: int, stop: Path
) -> subprocess.Popen[bytes]:
    """Whoever subscribes; returns once the standing subscriptions are active."""
    order = owner.Order(
        key=keys["owner"],
        operator=keys["operator"],
        ports=ground.doors,
        receivers=ground.receiver_ports,
        log=str(ground.log("owner")),
        seed=seed,
        stop=str(stop),
        wanted=[list(wanted) for wanted in WANTED],
    )
    process = _start(stack, "app.torture.owner", asdict(order))
    assert process.stdout is not None
    async with asyncio.timeout(READY_WITHIN_SECONDS):
        said = await asyncio.to_thread(process.stdout.readline)
    if said.strip() != b"standing":
        raise DemoFailed("Nobody could subscribe.")
    return process


def _partner(
    stack: AsyncExitStack,
    ground: Ground,
    keys: Mapping[str, str],
    name: str,
    seed: int,
    stop: Path,
) -> subprocess.Popen[bytes]:
    number = PARTNERS.index(name)
    mine = _PLACES[number * 4 : number * 4 + 4]
    order = partner.Order(
        partner=name,
        key=keys[name],
        ports=ground.doors,
        log=str(ground.log(name)),
        seed=seed * len(PARTNERS) + number,
        stop=str(stop),
        orderly=[
            ["syringes", mine[0], "supply_interruption", ""],
            ["syringes", mine[1], "delivery_delay", ""],
            ["syringes", mine[2], "supply_interruption", ""],
            ["implants", mine[3], "supply_interruption", "torture-drill"],
        ],
        crowds=CROWDS,
        places=list(_PLACES),
        begun_at=datetime.now(UTC).replace(microsecond=0).isoformat(),
    )
    return _start(stack, "app.torture.partner", asdict(order))


def _start(stack: AsyncExitStack, module: str, order: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
        [sys.executable, "-m", module, json.dumps(order)],
        env=processes.outside(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def end() -> None:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    stack.callback(end)
    return process


async def _happen(ground: Ground, faults: list[Fault], seconds: float, tell: Tell) -> int:
    """Lets one fault begin after the other until the time is over and all are taken back; how many."""
    begun = time.monotonic()
    under_way: list[asyncio.Task[None]] = []
    for fault in faults:
        await asyncio.sleep(fault.after)
        if fault.is_kind:
            left = begun + seconds - time.monotonic()
            await ground.are_ready(min(left, RECOVERED_WITHIN_SECONDS))
        left = begun + seconds - time.monotonic()
        if left <= 0:
            break
        if fault.ahead > 0 and left < AHEAD_UNTIL_SECONDS:
            fault = replace(fault, ahead=-fault.ahead)  # noqa: PLW2901 - it is that one, otherwise
        tell(f"{seconds - left:6.1f} s  {fault.kind}")
        under_way.append(asyncio.create_task(ground.suffer(fault)))
    await asyncio.gather(*under_way)
    return len(under_way)


async def _ended(load: list[subprocess.Popen[bytes]]) -> list[str]:
    """Waits until everyone has had an answer to what was begun; who has not."""
    found = []
    for process in load:
        try:
            await asyncio.to_thread(process.wait, GIVES_UP_SECONDS + 10)
        except subprocess.TimeoutExpired:
            found.append("answered: somebody still waits for an answer")
    return found


async def _resume(ground: Ground, keys: Mapping[str, str]) -> int:
    """Resumes what was suspended meanwhile, as its owner would."""
    headers = {"authorization": f"Bearer {keys['owner']}"}
    base = f"http://127.0.0.1:{ground.doors[0]}/v1/subscriptions"
    async with httpx.AsyncClient(headers=headers, timeout=10) as client:
        listed = (await client.get(base, params={"limit": 200})).json()["items"]
        suspended = [one["id"] for one in listed if one["status"] == "suspended"]
        for one in suspended:
            (await client.post(f"{base}/{one}/resume")).raise_for_status()
    return len(suspended)


async def _settled(ground: Ground, within_seconds: float) -> list[str]:
    """Waits until nothing is owed any more to whoever is subscribed; a sentence if that never was."""
    connection = await asyncpg.connect(ground.database_url)
    until, owed = time.monotonic() + within_seconds, -1
    try:
        while time.monotonic() < until:
            owed = await connection.fetchval(
                "SELECT count(*) FROM deliveries AS d JOIN subscriptions AS s ON s.id = d.subscription_id "
                "WHERE d.state = 'owed' AND s.removed_at IS NULL"
            )
            if not owed:
                return []
            await asyncio.sleep(0.2)
    finally:
        await connection.close()
    return [f"received: {owed} deliveries are still owed after {within_seconds:g} s"]
