"""The address that the service listens at, taken before anything else is begun."""

from __future__ import annotations

import socket

from app.settings import Unusable


class CannotListen(Unusable):
    """The address cannot be listened at; the message says which and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to that address; 0 takes a free port.

    Raises:
        CannotListen: it is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise CannotListen(
            f"Cannot listen on {host} port {port} ({error.strerror}). "
            "Choose another with --port, or `make run PORT=8001`."
        ) from error
    bound.set_inheritable(False)
    return bound


def address(listening: socket.socket) -> str:
    """The base address of what listens there."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
