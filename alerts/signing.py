"""Signs webhooks as Standard Webhooks 1.0 asks: headers for a body, its keys and an instant.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
KEY_BYTES = 32
_FEWEST_KEY_BYTES, _MOST_KEY_BYTES = 24, 64


def secret_of(key: bytes) -> str:
    """The text a subscriber is given once: ``whsec_`` and the key in base64."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def key_of(secret: str) -> bytes:
    """The key inside a ``whsec_`` text; 24 to 64 bytes, as the standard allows.

    Raises:
        ValueError: the text is not such a secret; the secret is not in the message.
    """
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"A webhook secret begins with {SECRET_PREFIX}.")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"After {SECRET_PREFIX} a webhook secret is base64.") from None
    if not _FEWEST_KEY_BYTES <= len(key) <= _MOST_KEY_BYTES:
        raise ValueError(
            f"A webhook secret holds {_FEWEST_KEY_BYTES} to {_MOST_KEY_BYTES} bytes, not {len(key)}."
        )
    return key


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
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
