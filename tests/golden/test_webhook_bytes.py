"""The bytes and headers we promised to subscribers: a change here breaks somebody's receiver.

More fields may be added to a body; then `python -m tests.golden.test_webhook_bytes` writes the files
anew, and the difference is read line by line before it is kept.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from alerts import payloads, signing
from alerts.lifecycle import Advice, Alert, AlertState, EventType, Transition
from alerts.mechanisms import Level, Scope, Tlp
from alerts.signals import Severity

FOLDER = Path(__file__).parent / "webhooks"

KEY, OLD_KEY = bytes(range(32)), bytes(range(32, 64))
SENT_AT = datetime(2026, 3, 7, 9, 30, 5, tzinfo=UTC)
OPENED_AT = datetime(2026, 3, 6, tzinfo=UTC)
RECORDED_AT = datetime(2026, 3, 7, 9, 30, 0, 250_000, tzinfo=UTC)

NEON = Alert(
    scope=Scope("ttc-semiconductors", "semiconductors", "neon", "UA"),
    profile_version=1,
    level=Level.early_warning,
    state=AlertState.open,
    severity=Severity.severe,
    tlp=Tlp.green,
    opened_at=OPENED_AT,
    recorded_at=RECORDED_AT,
    updated_at=OPENED_AT,
    number=2,
    title="Néon in Ukraine: “price”",
    why="Price of neon is 540 USD/kg, three times its median of the last 90 days.",
    ref="TTC-SEMI-2026-0007",
    recommendation=Advice(Level.disruption, ("price and quantity findings are severe together",)),
)
FINDING = {
    "rule": "price",
    "series_id": 17,
    "state": "firing",
    "severity": "severe",
    "value": 540.0,
    "unit": "USD/kg",
    "observed_at": "2026-03-06T00:00:00Z",
}
ESCALATED = Transition(
    number=2,
    type=EventType.escalated,
    level_from=Level.early_warning,
    level_to=Level.early_warning,
    severity_from=Severity.moderate,
    severity_to=Severity.severe,
    at=OPENED_AT,
    recorded_at=RECORDED_AT,
    reason="Price of neon has passed 360 USD/kg.",
    explanation={"sentence": "Price of neon is 540 USD/kg.", "findings": [FINDING]},
)


def bodies() -> dict[str, bytes]:
    """Every promised body by its type, as it is signed and sent."""
    stamp = "2026-03-07T09:30:00.250000Z"
    return {
        "alert.escalated": payloads.body(
            "alert.escalated", stamp, 4, payloads.render(NEON, ESCALATED, [FINDING])
        ),
        "webhook.verify": payloads.body(
            "webhook.verify", stamp, 1, '{"challenge":"jJ6rF0yTz0Bz6nUq"}'
        ),
        "webhook.test": payloads.body(
            "webhook.test",
            stamp,
            2,
            '{"message":"This is a test.","subscription":"sub_0a1b2c3d4e5f60718293"}',
        ),
    }


def headers_of(body: bytes) -> str:
    """The headers of one attempt, while a secret is being rotated."""
    signed = signing.headers([KEY, OLD_KEY], "msg_0a1b2c3d4e5f60718293_4", SENT_AT, body)
    return "".join(f"{name}: {value}\n" for name, value in signed.items())


@pytest.mark.parametrize("kind", sorted(bodies()))
def test_a_body_is_what_it_was(kind: str) -> None:
    assert bodies()[kind] == (FOLDER / f"{kind}.json").read_bytes()


@pytest.mark.parametrize("kind", sorted(bodies()))
def test_headers_are_what_they_were_and_the_reference_library_makes_the_same(kind: str) -> None:
    body = (FOLDER / f"{kind}.json").read_bytes()
    kept = (FOLDER / f"{kind}.headers").read_text("ascii")
    assert headers_of(body) == kept
    for key in (KEY, OLD_KEY):
        reference = Webhook(signing.secret_of(key))
        assert reference.sign("msg_0a1b2c3d4e5f60718293_4", SENT_AT, body.decode()) in kept


@pytest.mark.parametrize("kind", sorted(bodies()))
def test_a_body_is_json_with_the_four_members_in_their_order(kind: str) -> None:
    assert list(json.loads(bodies()[kind])) == ["type", "timestamp", "sequence", "data"]


if __name__ == "__main__":
    for name, content in bodies().items():
        (FOLDER / f"{name}.json").write_bytes(content)
        (FOLDER / f"{name}.headers").write_text(headers_of(content), "ascii")
