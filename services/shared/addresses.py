"""IPv4 and IPv6 addresses: how to write one with a port, and how to listen on it."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

_EVERYWHERE = "::"


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
