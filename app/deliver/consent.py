"""Whether an endpoint consents: it gives the challenge back, or shakes hands as CloudEvents has it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from alerts import retries
from alerts.payloads import Format
from alerts.retries import ErrorCode, Outcome
from app.outbound import Outbound
from app.store.queue import Claimed

_SECONDS_A_MINUTE = 60
_FASTEST = 10_000.0  # events a second: as much as a subscription may ask for


@dataclass(frozen=True, slots=True)
class Handshake:
    """An endpoint's answer to ``OPTIONS``; ``per_second`` is the pace it allows, None for any."""

    outcome: Outcome
    per_second: float | None


async def shake_hands(outbound: Outbound, claimed: Claimed, origin: str) -> Handshake | None:
    """Asks an endpoint that wants CloudEvents by ``OPTIONS``; None where it does not consent so.

    Source: CloudEvents 1.0, HTTP webhooks, section 4: it must name our origin, or ``*``, in
    ``WebHook-Allowed-Origin``; a mere 200 is no consent. ``WebHook-Allowed-Rate`` is in a minute.
    """
    if claimed.endpoint.format not in {Format.cloudevents, Format.cloudevents_binary}:
        return None
    name = urlsplit(origin).hostname or "forewarn"
    outcome = await outbound.ask(claimed.endpoint.url, {"webhook-request-origin": name})
    said = outcome.answer_headers
    allowed = [part.strip().lower() for part in said.get("webhook-allowed-origin", "").split(",")]
    is_good = outcome.error is None and retries.error_of(outcome.status) is None
    if not is_good or not {name.lower(), "*"} & set(allowed):
        return None
    return Handshake(outcome, _pace(said.get("webhook-allowed-rate", "")))


def answered(outcome: Outcome, data: str) -> Outcome:
    """The outcome of a challenge: a success that does not give it back is none."""
    if _consents(outcome, data) or outcome.error is not None:
        return outcome
    # A refusal says enough as it is.
    missing = ErrorCode.challenge if retries.error_of(outcome.status) is None else None
    return replace(outcome, error=missing)


def _pace(text: str) -> float | None:
    """Events a second from a rate a minute; None for ``*`` and for what is no rate."""
    if not (text.isascii() and text.isdigit()) or not int(text[:12]):
        return None
    return min(int(text[:12]) / _SECONDS_A_MINUTE, _FASTEST)


def _consents(outcome: Outcome, data: str) -> bool:
    try:
        answer = json.loads(outcome.answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and answer.get("challenge") == json.loads(data)["challenge"]
