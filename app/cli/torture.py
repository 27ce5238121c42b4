"""``forewarn torture``: breaks what a service stands on, and proves what must be true afterwards."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from app.cli import saying


def torture(
    minutes: Annotated[
        float, typer.Option(min=0.05, max=10_080, help="How long things are broken.")
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31, help="Of the plan; any if not given.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keeps the folder with all logs in any case.")
    ] = False,
    as_json: saying.AsJson = False,
) -> None:
    """Puts load on a service of its own while it is killed, paused, disconnected and starved, and proves
    from the logs of clients and receivers that every promise was kept.

    Everything is in processes and a folder of its own; your service is left alone. Exit code 1 if a
    promise was broken.
    """
    import secrets

    from rich.console import Console

    from app.torture import running, telling

    chosen = secrets.randbelow(2**31) if seed is None else seed
    console = Console(stderr=True)

    def tell(what: str) -> None:
        if not as_json:
            console.print(what, highlight=False)

    outcome = saying.run(running.run(seed=chosen, minutes=minutes, tell=tell, keep=keep))
    if as_json:
        saying.out(json.dumps(telling.document(outcome)))
    else:
        Console().print(telling.tables(outcome))
    if outcome.violations:
        raise typer.Exit(1)
