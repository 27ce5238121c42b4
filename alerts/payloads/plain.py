"""Format ``json``: type, timestamp and sequence before the data as it was rendered."""

from __future__ import annotations

import json

from alerts.explanation import instant
from alerts.payloads.messages import Message, Written

CONTENT_TYPE = "application/json"


def write(message: Message) -> Written:
    """The message as JSON."""
    stamp = instant(message.created_at) or ""
    return Written(CONTENT_TYPE, body=body(message.type, stamp, message.sequence, message.data))


def body(kind: str, timestamp: str, sequence: int, data: str) -> bytes:
    """The bytes that are signed and sent; the same on every try.

    ``timestamp`` is when the message became owed (RFC 3339), ``sequence`` its place in the
    subscription, ``data`` JSON text as rendered.
    """
    head = f'"type":{json.dumps(kind)},"timestamp":{json.dumps(timestamp)},"sequence":{sequence}'
    return f'{{{head},"data":{data}}}'.encode()
