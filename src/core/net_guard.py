"""Where this process may send a request: what keeps a base URL, or a vendor's answer, from reaching inside the network.

`https` to any public host. Hosts in `AI_HTTP_HOSTS` may also speak `http` and may have a private or loopback address.
A name is judged by the addresses it resolves to, for the connections of the next seconds (`src.core.exchange`).
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# What `is_global` takes for public, in some versions of Python or in all (3.11 to 3.14).
NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's WireServer
            "192.0.0.0/24",  # RFC 6890; Oracle's metadata service
            "fec0::/10",  # site-local, RFC 3879
            "2002::/16",  # 6to4, which leads to any IPv4 address and is given up, RFC 7526
            "::/96",  # IPv4-compatible, RFC 4291
            "64:ff9b:1::/48",  # local NAT64, RFC 8215
        ),
    )
)
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class UrlRefused(ValueError):
    """This URL, or the address behind it, may not be asked; the message says why."""


def check_url(url: str) -> None:
    """Refuse a URL by what can be seen without asking DNS.

    Raises:
        UrlRefused: it is no http(s) URL with a host, carries a user name, speaks `http` to a host that is not in
            `AI_HTTP_HOSTS`, or names a private address.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UrlRefused(f"it can't be read: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UrlRefused("it must start with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise UrlRefused("it must not carry a user name or password")
    check_target(parts.scheme, host)


def check_base_url(url: str) -> None:
    """`check_url` for a URL that paths are appended to. Raises `UrlRefused`, also for a query or a fragment."""
    check_url(url)
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise UrlRefused("it must not have a query or a fragment: paths are appended to it")


def check_target(scheme: str, host: str) -> None:
    """The part of `check_url` that every single request goes through. Raises `UrlRefused`."""
    if is_exempt(host):
        return
    if scheme != "https":
        raise UrlRefused(f"plain http is only allowed to the hosts in AI_HTTP_HOSTS, and '{host}' is not one of them")
    if (address := _literal(host)) is not None:
        check_address(host, address)


def check_address(host: str, address: IPAddress) -> None:
    """Refuse to connect to `address`, which `host` resolved to. Raises `UrlRefused`."""
    if is_exempt(host):
        return
    if not all(_is_public(candidate) for candidate in (address, *_embedded(address))):
        raise UrlRefused(
            f"'{host}' has the address {address}, which is not a public one. A host inside the network must be listed "
            "in AI_HTTP_HOSTS"
        )


def is_exempt(host: str) -> bool:
    """Whether `AI_HTTP_HOSTS` lists this host."""
    return _plain(host) in map(_plain, settings.AI_HTTP_HOSTS)


@lru_cache(maxsize=1024)
def _plain(host: str) -> str:
    """One spelling of a host's name, in letters that DNS knows."""
    host = host.lower().rstrip(".")
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _literal(host: str) -> IPAddress | None:
    """The address that `host` is, in any form that a resolver takes: 2130706433 and 0x7f.1 are 127.0.0.1."""
    host = host.partition("%")[0].rstrip(".")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _is_public(address: IPAddress) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in NOT_PUBLIC)


def _embedded(address: IPAddress) -> tuple[IPAddress, ...]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    nat64 = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
    teredo = address.teredo[1] if address.teredo else None
    return tuple(inner for inner in (address.ipv4_mapped, teredo, nat64) if inner is not None)
