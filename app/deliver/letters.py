"""Writes what is sent: a claimed delivery as signed bytes and headers, for one instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from alerts import payloads, signing
from alerts.explanation import instant
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
    """Writes letters. Keys that were unsealed once are remembered, for that costs more than signing."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals
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
        body = payloads.body(
            claimed.type, instant(claimed.created_at) or "", claimed.sequence, claimed.data
        )
        headers = {
            "content-type": "application/json",
            **signing.headers(keys, claimed.webhook_id, at, body),
        }
        return Letter(headers, body)

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
