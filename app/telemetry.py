"""Logs and metrics: one canonical line per unit of work, and what Prometheus scrapes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Literal

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry(auto_describe=True)

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 21_600, 86_400, 259_200)

requests = Counter(
    "forewarn_requests",
    "HTTP requests answered, by method, route and status.",
    ("method", "route", "status"),
    registry=REGISTRY,
)
request_seconds = Histogram(
    "forewarn_request_seconds",
    "Time from the first byte of a request to the last of its answer.",
    ("method", "route"),
    buckets=_FAST,
    registry=REGISTRY,
)
refusals = Counter(
    "forewarn_refusals",
    "Requests and connections turned away because it was too much, by reason: pressure.md lists them.",
    ("reason",),
    registry=REGISTRY,
)
connections = Gauge(
    "forewarn_connections", "Connections of callers that are open.", registry=REGISTRY
)
body_bytes = Gauge(
    "forewarn_body_bytes",
    "What the bodies of requests hold in memory until they are answered.",
    registry=REGISTRY,
)
waiting_signals = Gauge(
    "forewarn_waiting_signals", "Signals accepted and not stored yet.", registry=REGISTRY
)
signals = Counter(
    "forewarn_signals",
    "Signals received, by outcome: accepted, duplicate, revised, late, rejected.",
    ("outcome",),
    registry=REGISTRY,
)
signals_at_a_glance = Counter(
    "forewarn_signals_at_a_glance",
    "Signals accepted that were so surely calm that nothing had to be read for them.",
    registry=REGISTRY,
)
signals_at_a_closer_look = Counter(
    "forewarn_signals_at_a_closer_look",
    "Signals accepted that were surely calm by the states of their series, which were read; not judged.",
    registry=REGISTRY,
)
deliveries_born_claimed = Counter(
    "forewarn_deliveries_born_claimed",
    "Deliveries that the process which owed them sent without claiming them.",
    registry=REGISTRY,
)
signals_retired = Counter(
    "forewarn_signals_retired",
    "Signals that the retention policy took away.",
    registry=REGISTRY,
)
ingest_seconds = Histogram(
    "forewarn_ingest_transaction_seconds",
    "Time of one ingest transaction, from its first lock to its commit.",
    buckets=_FAST,
    registry=REGISTRY,
)
commit_seconds = Histogram(
    "forewarn_commit_seconds",
    "Time from the acceptance of a signal to its commit, what follows from it included.",
    buckets=_FAST,
    registry=REGISTRY,
)
ingest_requests_per_transaction = Histogram(
    "forewarn_ingest_requests_per_transaction",
    "Requests that one ingest transaction commits together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
transitions = Counter(
    "forewarn_transitions",
    "Transitions of alerts, by mechanism and type.",
    ("mechanism", "type"),
    registry=REGISTRY,
)
rule_failures = Counter(
    "forewarn_rule_failures",
    "Rules that raised and became not_evaluable, by mechanism and rule.",
    ("mechanism", "rule"),
    registry=REGISTRY,
)
rules_refused = Gauge(
    "forewarn_rules_refused",
    "Rules that are kept and cannot be used: unreadable to this version, or unsound.",
    registry=REGISTRY,
)
lines_lost = Counter(
    "forewarn_log_lines_lost",
    "Lines of the log that could not be written.",
    registry=REGISTRY,
)
sweeps = Counter(
    "forewarn_sweeps",
    "Duties done because time passed, by outcome: done, failed, away.",
    ("outcome",),
    registry=REGISTRY,
)
attempts = Counter(
    "forewarn_attempts",
    "Delivery attempts, by verdict: delivered, retry, throttled, give_up, aborted, gone.",
    ("verdict",),
    registry=REGISTRY,
)
attempt_seconds = Histogram(
    "forewarn_attempt_seconds", "Time of one delivery attempt.", buckets=_FAST, registry=REGISTRY
)
first_byte_seconds = Histogram(
    "forewarn_first_byte_seconds",
    "Time from the acceptance of a signal to the first byte of the webhook's first attempt.",
    buckets=_FAST,
    registry=REGISTRY,
)
endpoint_events = Counter(
    "forewarn_endpoint_events",
    "What owners were told of their endpoints: failing, suspended, recovered.",
    ("type",),
    registry=REGISTRY,
)
endpoints = Gauge(
    "forewarn_endpoints",
    "Endpoints by how they stand: pending, active, failing, suspended.",
    ("standing",),
    registry=REGISTRY,
)
owed_deliveries = Gauge(
    "forewarn_owed_deliveries", "Deliveries owed, suspended endpoints included.", registry=REGISTRY
)
oldest_owed = Gauge(
    "forewarn_oldest_owed_seconds",
    "How long the oldest delivery has been owed to an active endpoint.",
    registry=REGISTRY,
)
delivery_seconds = Histogram(
    "forewarn_delivery_seconds",
    "Time from the acceptance of a signal to the 2xx of one endpoint.",
    buckets=_SLOW,
    registry=REGISTRY,
)
database_reachable = Gauge(
    "forewarn_database_reachable",
    "1 while the database answers, 0 while it does not.",
    registry=REGISTRY,
)

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

SCRAPE_CONTENT_TYPE = CONTENT_TYPE_LATEST


def scrape() -> bytes:
    """All metrics in the OpenMetrics text format."""
    text: bytes = generate_latest(REGISTRY)  # type: ignore[no-untyped-call]
    return text


def show_deliveries(standings: Mapping[str, int], owed: int, oldest_owed_seconds: float) -> None:
    """Sets the gauges of what is owed and of how endpoints stand, by standing."""
    for standing, count in standings.items():
        endpoints.labels(standing).set(count)
    owed_deliveries.set(owed)
    oldest_owed.set(max(0.0, oldest_owed_seconds))


def configure(level: str, form: Literal["json", "console"]) -> None:
    """Sends our lines and those of the libraries to standard error in one format. Call once, at start."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    rendering: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_as_json)]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # no values of variables
            )
        ]
    )
    # Ours are written directly: the way through the records of the standard library took as long as
    # all else that a delivery costs here but its sending.
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _StandardError(),
        cache_logger_on_first_use=False,
    )
    global _logger  # noqa: PLW0603 - the one there is, for as long as this configuration holds
    _logger = structlog.get_logger().bind()
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "apscheduler", "alembic", "httpx"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)


class _StandardError:
    """Whatever standard error is when a line is written: it writes at the end of every line.

    A line that cannot be written, on a full disk or to whoever has gone, is lost and counted: the work that
    it tells of goes on.
    """

    def msg(self, text: str) -> None:
        try:
            sys.stderr.write(f"{text}\n")
        except OSError:
            lines_lost.inc()

    debug = info = warning = error = critical = msg


def _as_json(fields: Mapping[str, Any], **_: Any) -> str:
    return _encoder.encode(fields).decode()


# Bound once: to find it anew for every line took as long as to write the line.
_logger: Any = None
_encoder = msgspec.json.Encoder(enc_hook=repr)


def line(event: str, *, level: str = "info", **fields: Any) -> None:
    """Writes one line. ``event`` is past tense and names its room: ``delivery.attempted``."""
    getattr(_logger or structlog.get_logger(), level)(event, **fields)


@contextmanager
def unit_of_work(event: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """Writes one canonical line when the block ends, with its time and what was put in the dict.

    A block that raises is written at level error with the exception, which goes on to the caller.
    A block that sets ``"skip"`` to true writes nothing, for a unit that found no work.
    """
    found: dict[str, Any] = {}
    started = perf_counter()
    try:
        yield found
    except Exception:
        line(event, level="error", exc_info=True, **_merged(fields, found, started))
        raise
    if not found.pop("skip", False):
        line(event, **_merged(fields, found, started))


def _merged(fields: Mapping[str, Any], found: Mapping[str, Any], started: float) -> dict[str, Any]:
    return {**fields, **found, "milliseconds": round((perf_counter() - started) * 1000, 2)}
