"""Plays history through a running service and shows what a subscriber hears of it."""

from __future__ import annotations

import json
import queue
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.demo import history, processes, telling, validity
from app.demo.client import Client
from app.demo.processes import DemoFailed, Heard, Wanted

SUBSCRIBER = Wanted("baltica watch", "subscriber")
OPERATOR = Wanted("demo operator", "operator")
REPORTERS = [Wanted(name, "partner", party) for name, party in history.PARTNERS.items()]

ACTIVE_WITHIN_SECONDS = 20
ARRIVE_WITHIN_SECONDS = 30
GONE_AFTER_SECONDS = 15
PAPER_COLUMNS = 140
QUIET_SECONDS = 0.05
"""No webhook for this long means that a batch has told all it has to tell."""

HEAR_WITHIN_SECONDS = 0.5
"""How long the replay pauses for the webhook of a batch, so that the story is told in order."""


def run(
    *,
    once: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    data_dir: Path | None = None,
    json_only: bool = False,
) -> int:
    """Runs the whole demo and returns the exit code: 0, or 1 when something was refused or lost.

    Args:
        once: end after the replay, when everything owed has arrived; the last line is then JSON.
            Otherwise the dashboard stays open until Ctrl-C.
        host: where the service listens.
        port: where the service listens; 0 takes a free port.
        data_dir: the service's data folder, kept afterwards; by default a fresh one, removed
            afterwards.
        json_only: print nothing but the last line of ``once``.

    Raises:
        DemoFailed: it cannot go on; everything has been stopped.
    """
    console = Console(quiet=json_only, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = PAPER_COLUMNS
    signal.signal(signal.SIGTERM, _leave)
    try:
        with ExitStack() as stack:
            stack.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
            show = _open(stack, console, host, port, data_dir)
            # Pushed last, so it runs first: a second Ctrl-C must not interrupt the tidying up.
            stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
            return show.play(once=once)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 130 if once else 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does."""
    raise KeyboardInterrupt


def _open(stack: ExitStack, console: Console, host: str, port: int, data_dir: Path | None) -> Show:
    """Starts everything, in the order in which it is stopped backwards."""
    started = time.monotonic()
    free = processes.free_port(host, port)
    folder = stack.enter_context(processes.data_folder(data_dir))
    with console.status("Starting the receiver and the service with its own PostgreSQL …"):
        heard = stack.enter_context(processes.receiver(folder))
        url = stack.enter_context(processes.service(host, free, folder))
        keys = processes.create_keys(folder, [*REPORTERS, SUBSCRIBER, OPERATOR])
    if data_dir is not None:
        stack.callback(processes.revoke_keys, folder, list(keys.values()))
    clients = {name: stack.enter_context(Client(url, key.token)) for name, key in keys.items()}
    console.print(f"The service listens at {url}, the receiver at {heard.url}.")
    for profile in validity.expired(datetime.now(UTC).date()):
        console.print(
            f"The validity of {profile.id} ended on {profile.valid_until}; this replay prolongs it."
        )
    return Show(console, url, clients, heard, started)


@dataclass(slots=True)
class Show:
    """One run of the demo, everything started."""

    console: Console
    url: str
    clients: Mapping[str, Client]
    heard: Heard
    started: float
    story: telling.Story = field(default_factory=telling.Story)
    sent: int = 0
    refused: int = 0

    def play(self, *, once: bool) -> int:
        """Subscribes, replays, waits for what is owed, tells; the exit code."""
        subscription = self._subscribe()
        self._replay()
        missing = self._await_deliveries(subscription)
        alerts = self._listener.alerts()
        transitions = sum(len(self._listener.timeline(str(alert["ref"]))) for alert in alerts)
        self.console.print(telling.table(self.story.episodes.values()), soft_wrap=False)
        seconds = round(time.monotonic() - self.started, 1)
        self.console.print(
            f"{self.sent} signals, {len(alerts)} alerts, {transitions} transitions, "
            f"{self.story.verified} webhooks verified with the reference library, "
            f"{self.story.failed} failed, in {seconds} s."
        )
        self._complain(missing)
        if not once:
            self._stay()
        sys.stdout.write(
            json.dumps(
                {
                    "signals": self.sent,
                    "alerts": len(alerts),
                    "transitions": transitions,
                    "webhooks_verified": self.story.verified,
                    "webhooks_failed": self.story.failed,
                    "seconds": seconds,
                }
            )
            + "\n"
        )
        sys.stdout.flush()
        return 1 if missing or self.refused or self.story.failed else 0

    @property
    def _listener(self) -> Client:
        return self.clients[OPERATOR.name]

    def _subscribe(self) -> str:
        """Subscribes the receiver and waits until the service has heard its answer."""
        baltica = self.clients[SUBSCRIBER.name]
        made = baltica.subscribe(self.heard.url, "the demo's receiver")
        self.heard.learn(str(made["secret"]))
        subscription = str(made["id"])
        until = time.monotonic() + ACTIVE_WITHIN_SECONDS
        while (status := baltica.subscription(subscription)["status"]) != "active":
            if time.monotonic() > until:
                told = (
                    f"The subscription is still {status} after {ACTIVE_WITHIN_SECONDS} s: "
                    "the receiver's answer to the challenge did not reach the service."
                )
                raise DemoFailed(told)
            time.sleep(0.05)
        self.console.print(
            f"{SUBSCRIBER.name} subscribed, and its endpoint answered the challenge.\n"
        )
        return subscription

    def _replay(self) -> None:
        """Posts history in the order it became known, telling what is heard of it meanwhile."""
        rows = history.read()
        with self._progress(len(rows)) as progress:
            for batch in history.batches(rows):
                progress.update(progress.task_ids[0], month=f"{batch.month:%B %Y}")
                receipt = self.clients[batch.partner].post_signals(batch.bodies)
                self._note(batch, receipt)
                progress.advance(progress.task_ids[0], len(batch.rows))
                self._listen_for(set(receipt.get("alerts", [])))
            progress.update(progress.task_ids[0], month="today")

    def _note(self, batch: history.Batch, receipt: Mapping[str, Any]) -> None:
        """Counts what was taken; shows what was refused, with the row it came from."""
        for told in receipt["items"]:
            if told.get("status") == "rejected":
                self.refused += 1
                row = batch.rows[int(told["index"])]
                self.console.print(telling.refusal({"file": row.file, "line": row.line, **told}))
        self.sent += len(batch.rows) - int(receipt["rejected"])

    def _listen_for(self, refs: set[str]) -> None:
        """Waits a moment for news of the alerts just touched, and tells it in history's order."""
        until = time.monotonic() + HEAR_WITHIN_SECONDS
        waiting = set(refs)
        news: list[dict[str, Any]] = []
        while (left := until - time.monotonic()) > 0:
            told = self._hear(left if waiting else QUIET_SECONDS if refs else 0.0)
            if told is None:
                break
            if told.get("ref"):
                waiting.discard(str(told["ref"]))
                news.append(told)
        # Several alerts are sent to side by side; only those of one alert are in order.
        for told in sorted(news, key=lambda t: (str(t["at"]), int(t["sequence"]))):
            self.console.print(telling.line(told))

    def _hear(self, wait_seconds: float) -> dict[str, Any] | None:
        """The next webhook about an alert, or {} for another line; None when there is none in time.

        Raises:
            DemoFailed: the receiver has ended.
        """
        try:
            told = self.heard.lines.get(block=wait_seconds > 0, timeout=wait_seconds)
        except queue.Empty:
            return None
        if not told:
            ended = "The receiver ended."
            raise DemoFailed(ended)
        if self.story.hear(told):
            return told
        if not told.get("verified"):
            self.console.print(f"[bold red]A webhook was not accepted: {told.get('error')}[/]")
        return {}

    def _await_deliveries(self, subscription: str) -> int:
        """Waits until everything owed has arrived; how many deliveries never did."""
        until = time.monotonic() + ARRIVE_WITHIN_SECONDS
        baltica = self.clients[SUBSCRIBER.name]
        while True:
            self._listen_for(set())
            owed = [
                d for d in baltica.deliveries(subscription) if str(d["type"]).startswith("alert.")
            ]
            missing = {int(d["sequence"]) for d in owed} - self.story.sequences
            if not missing or time.monotonic() > until:
                return len(missing)
            time.sleep(0.2)

    def _complain(self, missing: int) -> None:
        if missing:
            self.console.print(f"[bold red]{missing} deliveries did not arrive.[/]")
        if self.refused:
            self.console.print(f"[bold red]{self.refused} signals were refused.[/]")

    def _stay(self) -> None:
        """Leaves the dashboard open, and goes on telling, until Ctrl-C."""
        self.console.print(
            f"\nThe dashboard is open at [bold]{self.url}/[/] until you press Ctrl-C."
        )
        away = 0
        while away < GONE_AFTER_SECONDS:
            time.sleep(1.0)
            self._listen_for(set())
            away = 0 if processes.is_ready(self.url) else away + 1
        told = f"The service at {self.url} has not been ready for {GONE_AFTER_SECONDS} s."
        raise DemoFailed(told)

    @contextmanager
    def _progress(self, rows: int) -> Iterator[Progress]:
        columns = (
            TextColumn("[cyan]{task.fields[month]:>14}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} signals"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            progress.add_task("replay", total=rows, month="")
            yield progress
