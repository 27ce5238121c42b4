"""The peer: Prometheus' Alertmanager on the same work, where it is installed. It keeps all in memory.

Each alert is a group of its own that waits for nothing (``group_by: ['...']``, ``group_wait: 0s``), so
that it sends a webhook for each as soon as it can. Where alerts go is chosen by their label ``hook``. A
hundred thousand groups keep it busy ever after, so that it is stopped (SIGSTOP) while others are measured.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.bench.lines import BenchFailed
from app.demo import processes

PROGRAM = "prometheus-alertmanager"
_READY_SECONDS = 20
_STOP_SECONDS = 20


def version() -> str:
    """The peer and its version.

    Raises:
        BenchFailed: it is not installed.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise BenchFailed(
            f"There is no program {PROGRAM} on the PATH. Install it "
            f"(Debian: apt-get install {PROGRAM}), or leave --peer away."
        )
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    words = (told.stdout or told.stderr).split()
    return f"Alertmanager {words[2] if len(words) > 2 else 'of unknown version'}"


@dataclass(slots=True)
class Peer:
    """The peer, stopped but for those who need it awake; ``url`` is the address of its way in."""

    url: str
    process: subprocess.Popen[bytes]
    needed: int = 0

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Lets it run while the block does."""
        self.needed += 1
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.needed -= 1
            if not self.needed:
                self.process.send_signal(signal.SIGSTOP)


@contextmanager
def running(sink: str) -> Iterator[Peer]:
    """The peer, which sends its webhooks to that sink.

    Raises:
        BenchFailed: it did not start.
    """
    port = processes.free_port("127.0.0.1")
    url = processes.address("127.0.0.1", port)
    with tempfile.TemporaryDirectory(prefix="forewarn-bench-peer-") as name:
        folder = Path(name)
        # JSON is YAML.
        (folder / "peer.yml").write_text(json.dumps(_configuration(sink)), encoding="utf-8")
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                [
                    shutil.which(PROGRAM) or PROGRAM,
                    f"--config.file={folder / 'peer.yml'}",
                    f"--storage.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--cluster.listen-address=",
                    "--log.level=error",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            _wait(url, process, folder / "log")
            process.send_signal(signal.SIGSTOP)
            yield Peer(f"{url}/api/v2/alerts", process)
        finally:
            process.terminate()
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _READY_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/-/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > until:
            raise BenchFailed(f"The peer did not start: {processes.last_words(log)}")
        time.sleep(0.05)


def _configuration(sink: str) -> dict[str, object]:
    hooks = ("hear", "count")
    return {
        "route": {
            "receiver": "none",
            "group_by": ["..."],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "4h",
            "routes": [{"matchers": [f'hook="{hook}"'], "receiver": hook} for hook in hooks],
        },
        "receivers": [
            {"name": "none"},
            *(
                {
                    "name": hook,
                    "webhook_configs": [{"url": f"{sink}/{hook}", "send_resolved": False}],
                }
                for hook in hooks
            ),
        ],
    }
