"""Knocking at a server's socket: what it says to somebody who asks to be let in."""

from __future__ import annotations

import enum
import re
import socket
from contextlib import suppress
from pathlib import Path

_SECONDS = 5

# Of PostgreSQL's protocol: https://www.postgresql.org/docs/18/protocol-message-formats.html
_PROTOCOL = 3 << 16  # version 3.0, in the first message of a client
_READY_FOR_QUERY = b"Z\0\0\0\5I"
_TERMINATE = b"X\0\0\0\4"
_SQLSTATE = re.compile(rb"\0C([0-9A-Z]{5})\0")


class Answer(enum.Enum):
    """What a server says to somebody who asks to be let into a database."""

    not_now = "not now"
    no_database = "no database"
    welcome = "welcome"


_REFUSALS = {b"3D000": Answer.no_database, b"57P03": Answer.not_now}


def is_answered(at: Path) -> bool:
    """Whether someone answers at the socket, be it only "starting up"."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
        knocking.settimeout(_SECONDS)
        try:
            knocking.connect(str(at))
        except OSError:
            return False
    return True


def knock(at: Path, user: str, database: str) -> Answer:
    """Asks to be let into a database, in PostgreSQL's protocol, and leaves again.

    Some milliseconds, where its own programs take thirty; every command waits for it.
    Whoever is refused for another reason than these is told so when connecting.
    """
    names = f"user\0{user}\0database\0{database}\0\0".encode()
    first = (len(names) + 8).to_bytes(4, "big") + _PROTOCOL.to_bytes(4, "big") + names
    heard = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking, suppress(OSError):
        knocking.settimeout(_SECONDS)
        knocking.connect(str(at))
        knocking.sendall(first)
        while not heard.endswith(_READY_FOR_QUERY) and (more := knocking.recv(4096)):
            heard += more
        knocking.sendall(_TERMINATE)
    if heard.endswith(_READY_FOR_QUERY):
        return Answer.welcome
    refused = _SQLSTATE.search(heard)
    if refused is None:
        return Answer.not_now
    return _REFUSALS.get(refused[1], Answer.welcome)
