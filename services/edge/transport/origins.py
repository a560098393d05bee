"""Which web pages may open a WebSocket connection from a browser."""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.shared.config import ConfigError

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_PATTERN = re.compile(r"([a-z][a-z0-9+.-]*)://((?:\*\.)?[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"


class OriginRules:
    """Origins that are allowed: the page's own host always, and those of a list.

    Args:
        allowed: Exact origins (`https://example.com`), any subdomain of one (`https://*.example.com`, which is
            not `https://example.com` itself), `null`, or `*` for every origin but `null`.
        allow_no_origin: Whether a request without Origin, so not from a browser, may connect.

    Raises:
        ConfigError: an entry is none of these.
    """

    def __init__(self, allowed: Iterable[str] = (), *, allow_no_origin: bool = True) -> None:
        self._allow_no_origin = allow_no_origin
        self._exact: set[tuple[str, str, str]] = set()
        self._wildcards: list[tuple[str, re.Pattern[str], str]] = []
        self._any = False
        self._null = False
        for pattern in allowed:
            self._add(pattern)

    def _add(self, pattern: str) -> None:
        if pattern in ("*", "null"):
            self._any |= pattern == "*"
            self._null |= pattern == "null"
            return
        match = _PATTERN.fullmatch(pattern.lower().removesuffix("/"))
        if match is None:
            raise ConfigError(f"EDGE_ALLOWED_ORIGINS: {pattern!r} is not an origin such as https://*.example.com")
        scheme, host, port = match[1], match[2], match[3] or _DEFAULT_PORTS.get(match[1], "")
        if host.startswith("*."):
            self._wildcards.append((scheme, re.compile(_LABELS + re.escape(host[1:])), port))
        else:
            self._exact.add((scheme, host, port))

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether a request with this Origin (None: without) and Host header may connect."""
        if origin is None:
            return self._allow_no_origin
        if origin == "null":
            return self._null
        match = _ORIGIN.fullmatch(origin.lower())
        if match is None:
            return False
        scheme, name = match[1], match[2]
        port = match[3] or _DEFAULT_PORTS.get(scheme, "")
        return (
            self._any
            or (scheme, name, port) in self._exact
            or (scheme in ("http", "https") and (name, port) == _split_host(host, _DEFAULT_PORTS[scheme]))
            or any(s == scheme and p == port and pattern.fullmatch(name) for s, pattern, p in self._wildcards)
        )


def _split_host(host: str, default_port: str) -> tuple[str, str]:
    name, colon, port = host.lower().rpartition(":")
    if not colon or "]" in port:  # no port; the colon may be one of an IPv6 address
        return host.lower(), default_port
    return name, port or default_port
