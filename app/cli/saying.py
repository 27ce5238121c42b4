"""How commands speak: results on standard output, all else on standard error, faults as sentences."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Prints JSON, for scripts.")]

T = TypeVar("T")


def out(text: str) -> None:
    """Prints a result, at once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def report(found: Any, as_json: bool, text: str) -> None:
    """Prints a result as JSON on one line, or as text."""
    out(json.dumps(found, default=str) if as_json else text)


def size(number: int) -> str:
    """So many bytes in words: 9,999 kB, and 10 MB from there on."""
    for unit in ("B", "kB", "MB"):
        if number < 10_000:
            return f"{number:,} {unit}"
        number = round(number / 1024)
    return f"{number:,} GB"


def failed(sentence: str) -> NoReturn:
    """Prints why a command cannot go on, and exits with 1."""
    sys.stderr.write(f"forewarn: {sentence}\n")
    raise SystemExit(1)


@contextmanager
def sentences() -> Iterator[None]:
    """Turns the errors that a person can mend into a sentence and exit code 1."""
    try:
        yield
    except Exception as error:
        from app.settings import Unusable

        if not isinstance(error, Unusable):
            raise
        failed(str(error))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, on uvloop where there is one."""
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
