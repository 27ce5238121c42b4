"""What was tried and what came of it: as JSON for scripts, as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from app.torture.plan import Kind
from app.torture.running import Outcome

MOST_TOLD = 50


def document(outcome: Outcome) -> dict[str, Any]:
    """One object; its first seven fields are a promise."""
    broken = {law.name: len(law.broken) for law in outcome.laws}
    done = outcome.tried
    asked = outcome.logs.asked
    return {
        "requests": sum(one.tries for one in asked),
        "acknowledged": sum(bool(one.answers) for one in asked),
        "kills": done[Kind.kill_service] + done[Kind.kill_postgres] + done[Kind.kill_backend],
        "lost": broken["stored"] + broken["received"],
        "duplicate_ids": broken["one id"],
        "out_of_order": broken["in order"],
        "violations": outcome.violations[:MOST_TOLD],
        "violations_in_all": len(outcome.violations),
        "seed": outcome.seed,
        "minutes": outcome.minutes,
        "faults": outcome.faults,
        "restarts": done[Kind.restart_service] + done[Kind.restart_postgres],
        "pauses": done[Kind.pause_service] + done[Kind.pause_postgres],
        "disconnects": done[Kind.cut] + done[Kind.hold_up],
        "disk_full": done[Kind.fill_disk],
        "clock_steps": done[Kind.step_clock],
        "unanswered_tries": sum(one.tries - len(one.answers) for one in asked),
        "receiver_kills": done[Kind.kill_receiver],
        "starts_that_failed": outcome.gave_up,
        "unclean_stops": outcome.unclean,
        "endpoints_resumed": outcome.resumed,
        "signals": len(outcome.rows.signals),
        "transitions": len(outcome.rows.transitions),
        "deliveries": len(outcome.rows.deliveries),
        "webhooks": len(outcome.logs.heard),
        "settled_after_seconds": round(outcome.settled_after, 1),
        "tried": dict(sorted(done.items())),
        "not_tried": dict(outcome.not_tried),
        "laws": {
            law.name: {"checked": law.checked, "broken": len(law.broken)} for law in outcome.laws
        },
        "kept": outcome.kept,
    }


def tables(outcome: Outcome) -> Group:
    """What was tried, then each law with how often it was looked at and its verdict."""
    told = document(outcome)
    tried = Table(
        "tried",
        "count",
        title=f"seed {outcome.seed}, {outcome.minutes:g} minutes",
        title_justify="left",
    )
    for name in (
        "requests", "acknowledged", "unanswered_tries", "signals", "transitions", "deliveries", "webhooks"
    ):  # fmt: skip
        tried.add_row(name.replace("_", " "), f"{told[name]:,}")
    for name, count in told["tried"].items():
        tried.add_row(name, f"{count:,}")
    tried.add_row("starts that failed while the database was away", f"{outcome.gave_up:,}")
    tried.add_row("orderly stops that did not end with 0", f"{outcome.unclean:,}")
    tried.add_row("endpoints suspended, and resumed by their owner", f"{outcome.resumed:,}")
    for name, why in told["not_tried"].items():
        tried.add_row(name, f"not tried: {why}")
    judged = Table("law", "checked", "verdict")
    for law in outcome.laws:
        verdict = f"broken {len(law.broken):,} times" if law.broken else "holds"
        judged.add_row(law.says, f"{law.checked:,}", verdict)
    if not outcome.violations:
        return Group(tried, judged)
    broken = Table(f"violations (the logs are in {outcome.kept})")
    for what in outcome.violations[:MOST_TOLD]:
        broken.add_row(what)
    return Group(tried, judged, broken)
