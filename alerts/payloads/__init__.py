"""Events as bytes, per published format; and alerts as the documents all doors show.

documents     an alert and a transition as JSON-ready values; the ``data`` of an event
messages      what is to be written, what was written, and in which formats
withheld      what is said of a TLP:RED item, in every format
plain         format ``json``
cloudevents   formats ``cloudevents`` and ``cloudevents_binary``
cap           format ``cap``
text          format ``text``
chat          format ``chat``
telling       an event as a few lines that a person reads
atom          the feed that lists alerts
markup        XML that no text can break
words         text from elsewhere as one harmless line; links

A format's version is a promise: what is written in it does not change. A change that a receiver
could notice is a new version, and a subscription keeps the version it was made with.
"""

from __future__ import annotations

from alerts.payloads import cap, chat, cloudevents, plain, text, withheld
from alerts.payloads.documents import (
    LONGEST_DATA,
    MOST_REFERENCES,
    alert_document,
    earlier,
    earlier_numbers,
    render,
    transition_document,
    transition_id,
)
from alerts.payloads.messages import TEST, VERIFY, VERSIONS, Format, Message, Written
from alerts.payloads.plain import body

__all__ = [
    "LONGEST_DATA",
    "MOST_REFERENCES",
    "TEST",
    "VERIFY",
    "VERSIONS",
    "Format",
    "Message",
    "Written",
    "alert_document",
    "body",
    "earlier",
    "earlier_numbers",
    "render",
    "transition_document",
    "transition_id",
    "write",
]

_FORMAT_HEADER = "webhook-format"


def write(format: Format, version: int, message: Message, origin: str) -> Written:
    """A message as it is signed and sent; the same bytes on every try.

    A ``webhook.verify`` asks a machine: in ``cap``, which has no words for a question, it is
    written as ``json``, and its header says so. In ``text`` and ``chat`` it asks people.

    Args:
        format: how the subscription wants its bodies.
        version: one of ``VERSIONS[format]``.
        message: the event.
        origin: this deployment's public address without a slash at its end, such as
            ``https://forewarn.example``; empty when the operator gave none, and then no link is
            absolute.

    Raises:
        LookupError: the format has no such version.
    """
    if version not in VERSIONS[format]:
        raise LookupError(f"Format {format.value} has no version {version}.")
    if format is Format.cap and message.type == VERIFY:
        format, version = Format.json, 1
    written = _written(format, withheld.withhold(message), origin)
    named = {**written.headers, _FORMAT_HEADER: f"{format.value}/{version}"}
    return Written(written.content_type, named, written.body)


def _written(format: Format, message: Message, origin: str) -> Written:
    match format:
        case Format.json:
            return plain.write(message)
        case Format.cloudevents:
            return cloudevents.write(message, origin)
        case Format.cloudevents_binary:
            return cloudevents.write_binary(message, origin)
        case Format.cap:
            return cap.write(message, origin)
        case Format.text:
            return text.write(message, origin)
        case Format.chat:
            return chat.write(message, origin)
