"""Format ``text``: the few lines of ``telling`` as plain text."""

from __future__ import annotations

from alerts.payloads import telling
from alerts.payloads.messages import Message, Written

CONTENT_TYPE = "text/plain; charset=utf-8"


def write(message: Message, origin: str) -> Written:
    """The message as text; its lines hold no control characters."""
    said = "\n".join(telling.lines(message, origin))
    return Written(CONTENT_TYPE, body=f"{said}\n".encode())
