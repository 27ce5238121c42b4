"""Which endpoints may be connected to: the form of their URLs, and every address behind a name.

The rule is a list of what is closed, not the standard library's ``is_global``, which calls
IPv4-mapped, NAT64 and 6to4 addresses public and so would let ``64:ff9b::7f00:1`` through.
Source: the IANA special-purpose address registries, and the metadata addresses of the clouds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL = 2_048
PUBLIC_PORTS = {"https": frozenset({443, 8443}), "http": frozenset({80})}

_CLOSED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), words)
    for network, words in (
        ("0.0.0.0/8", "an address of this very network"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "an address shared behind a carrier's NAT"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "a cloud's own address"),
        ("169.254.0.0/16", "a link-local address, where clouds keep metadata"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "an address reserved for protocols"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.31.196.0/24", "an address reserved for AS112"),
        ("192.52.193.0/24", "an address reserved for AMT"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "a private address"),
        ("192.175.48.0/24", "an address reserved for AS112"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::1/128", "a loopback address"),
        ("::ffff:0:0/96", "an IPv4 address in IPv6 form"),
        ("::/96", "an IPv4 address in IPv6 form"),
        ("64:ff9b::/96", "an IPv4 address behind NAT64"),
        ("64:ff9b:1::/48", "an IPv4 address behind NAT64"),
        ("2001::/32", "a Teredo address"),
        ("2001::/23", "an address reserved for protocols"),
        ("2001:db8::/32", "an address for documentation"),
        ("2002::/16", "an IPv4 address behind 6to4"),
        ("2620:4f:8000::/48", "an address reserved for AS112"),
        ("3fff::/20", "an address for documentation"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
    )
)
_UNICAST_V6 = ip_network("2000::/3")

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


class EndpointRefused(Exception):
    """An endpoint's URL is not one we may send to; the message says why and what would do."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a deployment allows: networks that are not public, and plain http."""

    allowed: Sequence[Network] = ()
    plain_http: bool = False

    def why_not(self, address: Address, port: int) -> str:
        """Why an address may not be connected to on a port; empty when it may."""
        if any(address in network for network in self.allowed):
            return ""
        if getattr(address, "scope_id", None):
            return f"{address} is {_words(address) or 'bound to one network interface'}"
        if words := _words(address):
            return f"{address} is {words}"
        if port not in self.ports:
            return f"port {port} is not one of {_listed(self.ports)}"
        return ""

    @property
    def ports(self) -> frozenset[int]:
        """The ports open to endpoints on public addresses."""
        plain = PUBLIC_PORTS["http"] if self.plain_http else frozenset()
        return PUBLIC_PORTS["https"] | plain

    def read(self, text: str) -> httpx.URL:
        """An endpoint's URL, checked as far as that goes without resolving its name.

        Raises:
            EndpointRefused: the URL cannot be used here, whatever its name resolves to.
        """
        import httpx  # noqa: PLC0415 - brings a command line of its own, and no start needs it

        if len(text) > LONGEST_URL:
            raise EndpointRefused(f"The URL is longer than {LONGEST_URL} characters.")
        if not text.isprintable() or any(c in text for c in ' \\"<>^`{|}'):
            raise EndpointRefused("The URL holds characters that a URL cannot hold.")
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, ValueError) as error:
            raise EndpointRefused(f"The URL cannot be read: {error}.") from None
        if url.scheme not in PUBLIC_PORTS:
            raise EndpointRefused("The URL must begin with https://.")
        if url.scheme == "http" and not self.plain_http:
            raise EndpointRefused(
                "The URL must begin with https://; plain http is not allowed here."
            )
        if "@" in re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[0]:
            raise EndpointRefused("The URL must not hold a user name or password.")
        if "#" in text:
            raise EndpointRefused("The URL must not hold a fragment.")
        host = url.raw_host.decode("ascii", "replace")
        port = port_of(url)
        if not 0 < port < 65_536:
            raise EndpointRefused("The URL's port must be between 1 and 65535.")
        literal = literal_of(host)
        if literal is not None:
            if reason := self.why_not(literal, port):
                raise EndpointRefused(f"The URL cannot be used: {reason}.")
        elif not _is_name(host):
            raise EndpointRefused(
                "The URL's host must be a name, or an IP address in its usual form, such as 198.51.100.7."
            )
        elif port not in self.ports and not self.allowed:
            raise EndpointRefused(f"The URL's port must be one of {_listed(self.ports)}.")
        return url


def port_of(url: httpx.URL) -> int:
    """The port a URL means."""
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def literal_of(host: str) -> Address | None:
    """The address a host spells out in its usual form, or None for anything else."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    """Whether a host is a name. One that ends in a number is an address in disguise: 127.1,
    2130706433, 0177.0.0.1 and 0x7f000001 are all 127.0.0.1 to a resolver (WHATWG URL, 4.5.3).
    """
    labels = host.lower().split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return False
    return not _NUMBER.fullmatch(labels[-1])


def _words(address: Address) -> str:
    """What kind of closed address it is; empty for a public one."""
    for network, words in _CLOSED:
        if address in network:
            return words
    if isinstance(address, IPv6Address) and address not in _UNICAST_V6:
        return "not a public unicast address"
    return ""


def _listed(ports: frozenset[int]) -> str:
    return ", ".join(str(port) for port in sorted(ports))
