"""Addresses of IPv4 and IPv6: how they are written with a port, and where one listens."""

from __future__ import annotations

import socket
from typing import Any

_EVERYWHERE = "::"


def with_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    bare = without_brackets(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def without_brackets(host: str) -> str:
    """`[::1]` as `::1`; everything else as it is."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def listening(host: str, port: int, *, backlog: int = 100, reuse_port: bool = False) -> dict[str, Any]:
    """Arguments by which a server of asyncio listens there: `::` is both families, which asyncio itself keeps apart.

    Raises:
        OSError: the port can't be had.
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
