"""IPv4 and IPv6 addresses: how to write, count and listen on one."""

from __future__ import annotations

import functools
import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

_EVERYWHERE = "::"
_HOST_BITS = 64  # of an IPv6 address that a customer of a provider chooses himself


def with_port(host: str, port: int) -> str:
    """Return `host:port`; an IPv6 address is put in brackets."""
    bare = without_brackets(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def without_brackets(host: str) -> str:
    """Return `[::1]` as `::1`, and any other host unchanged."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(without_brackets(host)).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def why_not_called(url: str, *, plain_http: bool = False) -> str:
    """Return why an address must not be called over HTTP; empty if it may.

    Args:
        url: The address, of the settings.
        plain_http: Whether `http:` may lead to other machines.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # raises if it is no port
    except ValueError:
        host = None
    if not host or not url.isascii():
        return "has no host, a port that is none, or is not ASCII"
    if parts.scheme not in ("http", "https"):
        return "must begin with https://"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must have no user, password or fragment"
    if parts.scheme == "http" and not plain_http and not is_loopback(host):
        return "must begin with https:// (http:// is for this machine alone)"
    return ""


@functools.lru_cache(maxsize=4_096)
def network_of(address: str) -> str:
    """Return what limits count an address as: an IPv6 address as its /64 network.

    Every customer of a provider has at least such a network, and any address in it. IPv4 addresses, and text that is no
    address, are returned unchanged.
    """
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address, 128 - _HOST_BITS), strict=False))
    except ValueError:
        return address


def listening(host: str, port: int, *, backlog: int = 100, reuse_port: bool = False) -> dict[str, Any]:
    """Return the arguments with which an asyncio server listens on this address.

    The host `::` listens for IPv4 and IPv6. asyncio itself would listen for IPv6 only, so the socket is made here.

    Raises:
        OSError: the port is taken or not allowed.
    """
    bare = without_brackets(host)
    if bare != _EVERYWHERE:
        return {"host": bare, "port": port, "backlog": backlog, "reuse_port": reuse_port or None}
    both = socket.has_dualstack_ipv6()
    sock = socket.create_server(
        (bare, port), family=socket.AF_INET6, backlog=backlog, reuse_port=reuse_port, dualstack_ipv6=both
    )
    sock.setblocking(False)
    return {"sock": sock, "backlog": backlog}
