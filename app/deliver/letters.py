"""Writes what is sent: a claimed delivery as signed bytes and headers, for one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from alerts import payloads, signing
from alerts.payloads import Format, Message
from app.seals import Seals
from app.store.queue import Claimed, Endpoint

KEYS_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Letter:
    """What one attempt sends."""

    headers: Mapping[str, str]
    body: bytes


class Unsigned(Exception):
    """There is no key that can be read here, and nothing is sent unsigned."""


class Desk:
    """Writes letters. Keys that were unsealed once are remembered, for that costs more than signing.

    Args:
        seals: opens the subscriptions' secrets.
        origin: this deployment's public address; empty when it has none.
    """

    def __init__(self, seals: Seals, origin: str) -> None:
        self._seals = seals
        self._origin = origin
        self._keys: dict[bytes, bytes] = {}

    def write(self, claimed: Claimed, at: datetime) -> Letter:
        """The delivery's bytes, the same on every try, with headers signed for this instant.

        Raises:
            SealBroken: a secret was sealed with another key.
            Unsigned: there is none.
        """
        keys = self._keys_of(claimed.endpoint, at)
        if not keys:
            raise Unsigned
        message = Message(
            id=claimed.webhook_id,
            subscription=claimed.subscription_id,
            type=claimed.type,
            created_at=claimed.created_at,
            sequence=claimed.sequence,
            data=claimed.data,
            earlier=claimed.earlier,
        )
        endpoint = claimed.endpoint
        written = payloads.write(
            Format(endpoint.format), endpoint.format_version, message, self._origin
        )
        headers = {
            "content-type": written.content_type,
            **written.headers,
            **signing.headers(keys, message.id, at, written.body),
        }
        return Letter(headers, written.body)

    def _keys_of(self, endpoint: Endpoint, at: datetime) -> list[bytes]:
        found: list[bytes] = []
        for sealed in endpoint.sealed_secrets:
            key = self._keys.get(sealed)
            if key is None:
                key = self._seals.unseal("webhook secret", sealed, at)
                if len(self._keys) >= KEYS_REMEMBERED:
                    self._keys.clear()
                self._keys[sealed] = key
            found.append(key)
        return found
