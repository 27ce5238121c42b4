"""Addresses: which endpoints may be sent to, in every form that a URL or an address can take."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import httpx
import pytest

from app.outbound import EndpointRefused, Policy

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.org/", "plain http"),
        ("ftp://hooks.example.org/", "begin with https"),
        ("hooks.example.org", "begin with https"),
        ("https://", "host must be a name"),
        ("https://user:word@hooks.example.org/", "user name"),
        ("https://@hooks.example.org/", "user name"),
        ("https://hooks.example.org/#part", "fragment"),
        ("https://hooks.example.org:25/", "port must be one of 443, 8443"),
        ("https://hooks.example.org:0/", "port must be between"),
        ("https://hooks.example.org:99999/", "port must be between"),
        ("https://hooks.example.org/a b", "characters"),
        ("https://hooks.example.org\\@10.0.0.1/", "characters"),
        ("https://hooks.example.org/\x00", "characters"),
        ("https://127.0.0.1/", "loopback"),
        ("https://127.1/", "usual form"),  # 127.0.0.1 to a resolver, as are the next four
        ("https://2130706433/", "usual form"),
        ("https://0x7f000001/", "usual form"),
        ("https://0177.0.0.1/", "cannot be read"),
        ("https://0x7f.0.0.0x1/", "usual form"),
        ("https://127.0.0.1./", "usual form"),
        ("https://①②⑦.⓪.⓪.①/", "loopback|usual form|cannot be read"),
        ("https://10.1.2.3/", "private"),
        ("https://172.31.255.255/", "private"),
        ("https://192.168.0.1/", "private"),
        ("https://100.64.0.1/", "carrier"),
        ("https://169.254.169.254/latest/meta-data", "metadata"),
        ("https://168.63.129.16/", "cloud"),
        ("https://0.0.0.0/", "very network"),
        ("https://224.0.0.1/", "multicast"),
        ("https://255.255.255.255/", "reserved"),
        ("https://[::1]/", "loopback"),
        ("https://[::]/", "IPv6 form"),
        ("https://[::ffff:127.0.0.1]/", "IPv6 form"),  # mapped, RFC 4291 §2.5.5.2
        ("https://[::ffff:7f00:1]/", "IPv6 form"),
        ("https://[64:ff9b::7f00:1]/", "NAT64"),
        ("https://[64:ff9b:1::1]/", "NAT64"),
        ("https://[2002:7f00:1::]/", "6to4"),
        ("https://[2001:0:1::1]/", "Teredo"),
        ("https://[fd00:ec2::254]/", "private"),
        ("https://[fe80::1]/", "link-local"),
        ("https://[fec0::1]/", "site-local"),
        ("https://[ff02::1]/", "multicast"),
        ("https://[5f00::1]/", "not a public unicast"),
        ("https://[4000::1]/", "not a public unicast"),
        ("https://100.100.100.200/latest/meta-data", "carrier"),  # Alibaba's metadata
        ("https://0/", "usual form"),  # 0.0.0.0, which Linux dials as this machine
        ("https://017700000001/", "usual form"),  # octal, all in one
        ("https://0x7f.1/", "usual form"),
        ("https://127.0.1/", "usual form"),
        ("https://[::7f00:1]/", "IPv6 form"),  # compatible, RFC 4291 §2.5.5.1
        ("https://[::ffff:0:7f00:1]/", "not a public unicast"),  # translated, RFC 7915
        ("https://[::ffff:169.254.169.254]/", "IPv6 form"),
        ("https://[64:ff9b::169.254.169.254]/", "NAT64"),
        ("https://[2002:a9fe:a9fe::]/", "6to4"),
        ("https://[2001:0:4136:e378:8000:63bf:5601:5601]/", "Teredo"),
        ("https://[fe80::1%25eth0]/", "link-local"),  # a zone, RFC 6874
        ("https://[fe80::1%eth0]/", "link-local"),
        ("https://[2606:4700::1111%25eth0]/", "one network interface"),
        ("https://[2606:4700::1111/", "cannot be read"),
        ("https://[v1.x]/", "cannot be read|host must be a name"),
        ("https://１２７.0.0.1/", "cannot be read"),  # noqa: RUF001 - fullwidth digits
        ("https://127。0。0。1/", "loopback"),  # ideographic full stops, which IDNA calls dots
        ("https://169。254。169。254/", "metadata"),
        ("https://ⓔxample.com/", "cannot be read"),  # a circled letter
        ("https://exa\u00admple.org/", "characters"),  # a soft hyphen
        ("https://hooks.example.org\u202e/", "characters"),  # writes what follows backwards
        ("https://%31%32%37.0.0.1/", "host must be a name"),
        ("https://127.0.0.1%00/", "host must be a name"),
        ("https://hooks%2eexample%2eorg/", "host must be a name"),
        ("https://hooks.example.org%2f@10.0.0.1/", "user name"),
        ("https://hooks.example.org:443@10.0.0.1/", "user name"),
        ("https://:443/", "host must be a name"),
        ("https:hooks.example.org", "host must be a name"),
        ("https:///hooks.example.org/", "host must be a name"),
        ("https://hooks.example.org./", "host must be a name"),  # another pool key, another Host
        ("https://hooks.example.org:80/", "port must be one of"),
        ("https://hooks.example.org:-443/", "port must be between"),
        ("https://8.8.8.8:22/", "port 22 is not one of"),
        ("https://[2606:4700::1111]:9200/", "port 9200 is not one of"),
        ("https://" + "a" * 2_100, "longer than 2048"),
        ("https://-.example.org/", "host must be a name|cannot be read"),
        ("https://a..b/", "host must be a name|cannot be read"),
    ],
)
def test_an_endpoint_that_may_not_be_sent_to_is_refused_with_a_reason(url: str, why: str) -> None:
    with pytest.raises(EndpointRefused, match=why):
        Policy().read(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/a/b?c=d",
        "https://hooks.example.org:8443/",
        "https://bücher.example/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://xn--bcher-kva.example/",
    ],
)
def test_an_endpoint_on_the_public_internet_may_be_sent_to(url: str) -> None:
    assert isinstance(Policy().read(url), httpx.URL)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:9000/", True),  # any port within an allowed network
        ("http://127.9.9.9:9000/", True),
        ("http://127.0.0.1:65535/", True),
        ("http://127.0.0.1:65536/", False),  # no port at all, which nothing allows
        ("http://hooks.example.org:99999/", False),
        ("http://127.0.0.1:0/", False),
        ("http://10.0.0.1:9000/", False),  # another network
        ("http://8.8.8.8/", True),  # plain http on its own port
        ("http://8.8.8.8:9000/", False),  # an odd port elsewhere
        ("http://[::ffff:127.0.0.1]:9000/", False),  # allowing IPv4 does not allow its disguises
    ],
)
def test_the_allow_list_opens_networks_and_nothing_else(url: str, allowed: bool) -> None:
    policy = Policy(LOOPBACK, plain_http=True)
    if allowed:
        policy.read(url)
    else:
        with pytest.raises(EndpointRefused):
            policy.read(url)


@pytest.mark.parametrize("block", ["0.0.0.0/5", "100.0.0.0/8", "172.0.0.0/8", "192.0.0.0/7"])
def test_every_ipv4_address_that_python_calls_private_is_closed(block: str) -> None:
    wide = ip_network(block).subnets(new_prefix=20)
    narrow = (n for c in ("192.0.0.0/16", "198.51.0.0/16") for n in ip_network(c).subnets(8))
    for network in (*wide, *narrow):
        probe = ip_address(int(network.network_address) + 1)
        if not probe.is_global:
            assert Policy().why_not(probe, 443), probe
