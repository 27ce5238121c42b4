"""Which proxy, if any, a request leaves through: none, one for all, or what the environment says."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Literal
from urllib.request import getproxies_environment

from app.outbound.addresses import literal_of
from app.settings import Proxy, SettingsFaulty


class Proxies:
    """The proxies of a deployment, settled when it starts.

    Args:
        setting: None for no proxy, whatever the environment says; a proxy for every request; or
            ``environment`` for the conventional variables, in capitals or not. Of these
            ``NO_PROXY`` lists what is reached directly, separated by commas: names, which stand
            for what is below them too, addresses, networks such as ``10.0.0.0/8``, any of the
            first two with a port, or ``*``.

    Raises:
        SettingsFaulty: a variable of the environment does not name a proxy we can use.
    """

    def __init__(self, setting: Proxy | Literal["environment"] | None) -> None:
        self._direct: list[str] = []
        self._by_scheme: dict[str, Proxy] = {}
        if isinstance(setting, Proxy):
            self._by_scheme = {"https": setting, "http": setting}
        elif setting is not None:
            told = getproxies_environment()
            self._direct = [part.strip().lower() for part in told.get("no", "").split(",")]
            for scheme in ("https", "http"):
                # urllib knows ALL_PROXY as "all".
                if text := told.get(scheme) or told.get("all"):
                    self._by_scheme[scheme] = _read(scheme, text)

    def of(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for an endpoint; None to go directly. The host is in lower case."""
        proxy = self._by_scheme.get(scheme)
        if proxy is None or any(_covers(entry, host, port) for entry in self._direct):
            return None
        return proxy


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    literal = literal_of(host)
    if literal is not None and "/" in entry:
        try:
            return literal in ip_network(entry, strict=False)
        except ValueError:  # Not a network: it covers nothing.
            return False
    name = entry.removesuffix(f":{port}").strip("[]").lstrip(".")
    return bool(name) and (host == name or (literal is None and host.endswith(f".{name}")))


def _read(scheme: str, text: str) -> Proxy:
    try:
        # The scheme is often left out: HTTPS_PROXY=proxy.example:3128.
        return Proxy.read(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise SettingsFaulty(
            f"{scheme.upper()}_PROXY or ALL_PROXY cannot be used: {error}."
        ) from None
