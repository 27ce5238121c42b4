"""A process that does what it is told: puts load on, or runs a bare limit, and says what it found.

    python -m app.bench.hand

Orders are JSON objects, one a line on standard input: ``{"do": "insert", …}``. Each is answered by one
on standard output: ``{"done": …}``, or ``{"failed": "why"}``. An empty line ends what goes on until then.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from app.bench import bare, judging, load, loops
from app.bench.lines import BenchFailed

TASKS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    "post": load.post,
    "post_marks": load.post_marks,
    "flow": load.flow,
    "read": load.read,
    "insert": bare.insert,
    "commit": bare.commit,
    "update": bare.update,
    "send": bare.send,
    "judge": judging.judge,
}


def main() -> int:
    """Obeys until there are no more orders."""
    gc.freeze()
    while order := sys.stdin.readline():
        wanted = json.loads(order)
        gc.collect()
        gc.disable()  # Its pauses would be measured as the product's.
        try:
            answer: dict[str, Any] = {"done": loops.run(TASKS[wanted.pop("do")](**wanted))}
        except BenchFailed as error:
            answer = {"failed": str(error)}
        except Exception as error:  # noqa: BLE001 - whoever ordered it must hear of it
            answer = {"failed": f"{type(error).__name__}: {error}"}
        gc.enable()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
