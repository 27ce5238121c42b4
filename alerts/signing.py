"""Signs webhooks as Standard Webhooks 1.0 asks: headers for a body, its keys and an instant.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime

SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
KEY_BYTES = 32


def secret_of(key: bytes) -> str:
    """The text a subscriber is given once: ``whsec_`` and the key in base64."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def headers(keys: Sequence[bytes], webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of one attempt.

    Args:
        keys: newest first; each signs, so that a receiver may hold the old or the new one while a
            secret is being rotated.
        webhook_id: the same on every attempt of one delivery; holds no full stop.
        at: the instant of this attempt; receivers refuse one more than five minutes off.
        body: the exact bytes sent.

    Raises:
        ValueError: there is no key. Nothing is ever sent unsigned.
    """
    if not keys:
        raise ValueError("A webhook needs at least one key to sign it.")
    timestamp = str(int(at.timestamp()))
    content = b".".join((webhook_id.encode(), timestamp.encode(), body))
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_signature(key, content) for key in keys),
    }


def _signature(key: bytes, content: bytes) -> str:
    return f"v1,{base64.b64encode(hmac.digest(key, content, 'sha256')).decode()}"
