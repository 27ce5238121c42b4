"""A service as ``forewarn serve`` runs it, whose clock can be stepped while it runs.

    python -m app.torture.process --port 8000 --role api --clock clock.txt

The file holds the seconds by which the clock is ahead; it is read anew a few times a second. Nothing in
the product gives way for this: once all of it is loaded, with what a start does not wait for, the modules
that read the clock, those of the product and of its scheduler, are given a stand-in for the class of
instants, whose ``now`` is another.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Literal

import apscheduler.schedulers.asyncio
import apscheduler.triggers.interval  # noqa: F401 - loaded before the clock is changed

from app import access, doorstep, main, settings, telemetry
from app.bench import loops

_LOOK_AGAIN_SECONDS = 0.1
_READERS = ("app.", "apscheduler.")


class _Clock:
    """The machine's clock, so many seconds ahead as the file says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ahead = timedelta(0)
        self._looked_at = 0.0

    def now(self, zone: tzinfo | None = None) -> datetime:
        if time.monotonic() - self._looked_at > _LOOK_AGAIN_SECONDS:
            self._looked_at = time.monotonic()
            self._ahead = timedelta(seconds=float(self._file.read_text()))
        return datetime.now(zone) + self._ahead


def step_by(file: Path) -> type[datetime]:
    """The class of instants, whose ``now`` goes by a file; in all else it is the class itself."""
    clock = _Clock(file)

    class Stepped(type):
        def __call__(cls, *parts: Any, **more: Any) -> datetime:
            return datetime(*parts, **more)  # noqa: DTZ001 - as it is called

        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, datetime)

        def __getattr__(cls, name: str) -> Any:
            return getattr(datetime, name)

    class Instant(metaclass=Stepped):
        now = staticmethod(clock.now)

    return Instant  # type: ignore[return-value]


def _stand_in(instants: type[datetime]) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith(_READERS) and getattr(module, "datetime", None) is datetime:
            setattr(module, "datetime", instants)  # noqa: B010 - of any module


def run() -> int:
    """Runs the service until SIGTERM."""
    parser = argparse.ArgumentParser(prog="app.torture.process")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--role", choices=("api", "worker", "all"), required=True)
    parser.add_argument("--clock", type=Path, required=True)
    told = parser.parse_args()
    role: Literal["api", "worker", "all"] = told.role
    chosen = settings.from_environment()
    telemetry.configure(chosen.log_level, chosen.log_format)
    main.later_routes()
    _stand_in(step_by(told.clock))

    def tell(address: str, key: access.IssuedKey | None) -> None:
        telemetry.line("torture.listens", address=address, made_key=key is not None)

    loops.run(
        main.serve(chosen, listening=doorstep.listen("127.0.0.1", told.port), role=role, tell=tell)
    )
    return 0


if __name__ == "__main__":
    sys.exit(run())
