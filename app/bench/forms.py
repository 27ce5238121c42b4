"""How a signal is written down: as our partners write it, and as the peer takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alerts.signals import SeriesKey


def subject(sector: str, good: str, place: str) -> str:
    """What an alert of the bench is about, in one word."""
    return f"{sector}/{good}/{place}"


@dataclass(frozen=True, slots=True)
class Form:
    """Bytes around the instant and around the value; ``answer`` begins the answer to so many taken."""

    head: Callable[[SeriesKey], bytes]
    tail: Callable[[float], bytes]
    body: Callable[[Sequence[bytes]], bytes]
    answer: Callable[[int], bytes]


def _ours(key: SeriesKey) -> bytes:
    return f'{{{_named(key)},"unit":"days","observed_at":"'.encode()


def _named(key: SeriesKey) -> str:
    return ",".join(f'"{name}":"{code}"' for name, code in key._asdict().items() if code)


def _list(parts: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(parts) + b"]"


def _listed(parts: Sequence[bytes]) -> bytes:
    """One signal is an object, several are a list."""
    return parts[0] if len(parts) == 1 else _list(parts)


def _peers(hook: str) -> Form:
    """Alerts of Alertmanager. ``hook`` is the label by which it chooses where their webhooks go."""
    return Form(
        head=lambda key: (
            f'{{"labels":{{"alertname":"Delay","hook":"{hook}",{_named(key)}}},"startsAt":"'
        ).encode(),
        # A day that is far away: it may not resolve what the bench still looks at.
        tail=lambda value: (
            f'","endsAt":"2099-01-01T00:00:00Z","annotations":{{"days":"{value}"}}}}'.encode()
        ),
        body=_list,
        answer=lambda _: b"",
    )


OURS = Form(
    head=_ours,
    tail=lambda value: f'","value":{value}}}'.encode(),
    body=_listed,
    answer=lambda count: b'{"accepted":%d,' % count,
)

FORMS = {
    "ours": OURS,
    "peer, to nobody": _peers("none"),
    "peer, heard": _peers("hear"),
    "peer, counted": _peers("count"),
}
"""By the names with which a hand is told."""
