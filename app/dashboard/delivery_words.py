"""How endpoints and deliveries stand, in words: why, since when, and what happens next."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from alerts.endpoints import Patience
from alerts.routing import Filter
from app import store
from app.dashboard.words import Titles, ago, ahead, clock, span
from app.store.delivery_log import Delivery, Listed
from app.store.endpoint_health import EndpointHealth
from app.store.subscriptions import Ordering, Subscription

STATES = ("owed", "delivered", "failed", "superseded", "expired", "withdrawn")

STATE_NAMES = {"failed": "given up"}

VERDICTS = {
    "delivered": "delivered",
    "retry": "failed",
    "throttled": "asked for patience",
    "give_up": "given up",
    "aborted": "not wanted",
    "gone": "wants nothing more",
}


def standing(endpoint: EndpointHealth, now: datetime) -> list[str]:
    """How an endpoint stands, in phrases; the first says its standing."""
    health = endpoint.health
    found: list[str]
    match endpoint.standing:
        case "suspended":
            at = endpoint.suspended_at
            since = f" since {clock(at)} ({ago(at, now)})" if at else ""
            found = [
                f"suspended{since}" + (f" because {endpoint.reason}" if endpoint.reason else "")
            ]
        case "pending":
            found = ["pending: it has not answered its challenge yet"]
        case "failing":
            assert health.failing_since is not None
            tries = f"{health.failures} tr{'y' if health.failures == 1 else 'ies'} in a row"
            since = f"{clock(health.failing_since)} ({ago(health.failing_since, now)})"
            found = [f"failing since {since}, {tries}"]
        case _:
            found = ["active"]
    if health.open_until is not None and health.open_until > now:
        until = f"{clock(health.open_until)} ({ahead(health.open_until, now)})"
        found.append(f"breaker open until {until}")
    if health.pause_until is not None and health.pause_until > now:
        until = f"{clock(health.pause_until)} ({ahead(health.pause_until, now)})"
        found.append(f"paused until {until} because it asked (Retry-After)")
    return found


def what_next(
    endpoint: EndpointHealth, patience: Patience, backlog_kept: timedelta, now: datetime
) -> str:
    """What happens to an endpoint next if nobody does anything, in one sentence."""
    ready_at = endpoint.ready_at
    at = f"at {clock(ready_at)} ({ahead(ready_at, now)})" if ready_at else ""
    match endpoint.standing:
        case "suspended":
            return (
                "Nothing is sent until it is resumed; what is owed waits for it for "
                f"{span(backlog_kept)} and stays in the pull feed."
            )
        case "pending":
            asked = (
                f"It is asked again {at}" if at else "It is asked again when somebody sends a test"
            )
            return f"{asked}; until it answers its challenge nothing else is sent."
        case "failing":
            tried = f"Next try {at}" if at else "It is tried again with the next event"
            return f"{tried}; {_way_to_suspension(endpoint, patience, now)}."
        case _:
            if at and endpoint.owed:
                return f"The next of what is owed goes out {at}."
            return "Nothing waits; the next event goes out at once."


def _way_to_suspension(endpoint: EndpointHealth, patience: Patience, now: datetime) -> str:
    health = endpoint.health
    assert health.failing_since is not None
    way = min(100, int(100 * ((now - health.failing_since) / patience.suspend_after)))
    said = (
        f"after {span(patience.suspend_after)} without success it is suspended: {way} % of the way"
    )
    if health.failed_apart:
        return said
    return f"{said}, if two messages at least {span(patience.apart)} apart fail"


def state(
    delivery: Delivery | Listed, status: str, last_reason: str, ahead_of: int | None, now: datetime
) -> str:
    """What became of a delivery, or what it waits for, in one sentence.

    Args:
        delivery: the delivery.
        status: that of its subscription.
        last_reason: what its last try came to; empty before the first.
        ahead_of: the sequence of the event of its alert that it waits for.
        now: the instant of the question.
    """
    finished = f" at {clock(delivery.finished_at)}" if delivery.finished_at else ""
    match delivery.state:
        case "delivered":
            after = ""
            if delivery.finished_at is not None:
                after = f", {span(delivery.finished_at - delivery.created_at)} after it became owed"
            return f"Delivered{finished}{after}."
        case "failed":
            return f"Given up{finished}. {last_reason}".strip()
        case "superseded":
            return f"A newer event of the same alert was sent instead{finished}; it stays in the pull feed."
        case "expired":
            return f"Its endpoint was suspended for too long{finished}; it stays in the pull feed."
        case "withdrawn":
            return f"Withdrawn{finished}: there was no endpoint left to send it to."
        case _:
            return _owed(delivery, status, last_reason, ahead_of, now)


def _owed(
    delivery: Delivery | Listed, status: str, last_reason: str, ahead_of: int | None, now: datetime
) -> str:
    again = "Sent again by hand. " if delivery.finished_at else ""
    if delivery.lease_until is not None and delivery.lease_until > now:
        return f"{again}Owed, and in the hands of a worker just now."
    if delivery.blocked:
        which = f"event {ahead_of}" if ahead_of is not None else "an earlier event"
        return f"{again}Owed; it waits for {which} of the same alert, so that they come in order."
    if status == "suspended":
        return f"{again}Owed, and kept: its endpoint is suspended."
    if delivery.due_at is None:
        return f"{again}Owed, and kept until its endpoint has consented."
    when = f"{clock(delivery.due_at)} ({ahead(delivery.due_at, now)})"
    return f"{again}Owed; next try at {when}. {last_reason}".strip()


def wish(asked: Filter, titles: Titles) -> list[tuple[str, str]]:
    """What a subscription asks for: noun and words, one line for each part that restricts."""
    document = store.subscriptions.document_of(asked)
    found: list[tuple[str, str]] = []
    title_of: Mapping[str, object] = {
        "sectors": titles.sector,
        "goods": titles.good,
        "places": titles.place,
    }
    for name, value in document.items():
        if name == "exercises":
            continue
        noun = name.replace("min_", "from ").replace("_", " ")
        if isinstance(value, list):
            title = title_of.get(name, str)
            assert callable(title)
            found += [(noun, ", ".join(title(code) for code in value))] if value else []
        else:
            found.append((noun, f"{value}".replace("_", " ")))
    found.append(("exercises", "too" if asked.exercises else "none"))
    return found


def manner(subscription: Subscription) -> list[tuple[str, str]]:
    """How a subscription is written to: format, order and pace."""
    order = {
        Ordering.strict: "strict: later events of an alert wait for the earlier ones",
        Ordering.latest: "latest: the newest of an alert overtakes one that fails and fails",
    }[subscription.ordering]
    per_second = subscription.per_second
    return [
        ("format", f"{subscription.format}, version {subscription.format_version}"),
        ("order", order),
        (
            "pace",
            "as fast as it answers" if per_second is None else f"at most {per_second:g} a second",
        ),
    ]


def shortened(signatures: str) -> str:
    """Signatures long enough to be told apart, and too short to be used."""
    return " ".join(f"{one[:13]}\N{HORIZONTAL ELLIPSIS}" for one in signatures.split(" "))
