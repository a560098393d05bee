"""Rules for the Origin header: which web pages may connect from a browser."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from services.shared.addresses import is_loopback
from services.shared.process.config import ConfigError

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_SCHEME = r"([a-z][a-z0-9+.-]*)"
_ORIGIN = re.compile(rf"{_SCHEME}://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?")
_PATTERN = re.compile(rf"{_SCHEME}://((?:\*\.)?[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}|\*))?")
_LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_OPAQUE = ("null", "file://")  # each stands for many unrelated pages, so "*" does not allow them
_ANY_PORT = "*"


class OriginRules:
    """The origins that are allowed: the request's own host, and those of a list.

    Args:
        allowed: Exact origins (`https://example.com`, `capacitor://localhost`); all subdomains of a host
            (`https://*.example.com`, which does not include `https://example.com`); either with `:*` for any port;
            `null` and `file://`, which stand for many pages each; `*` for every origin except these two.
        allow_no_origin: Whether a request without Origin, which does not come from a browser, may connect.

    Raises:
        ConfigError: an entry is none of these.
    """

    def __init__(self, allowed: Iterable[str] = (), *, allow_no_origin: bool = True) -> None:
        self._allow_no_origin = allow_no_origin
        self._exact: set[tuple[str, str, str]] = set()
        self._wildcards: list[tuple[str, re.Pattern[str], str]] = []
        self._any = False
        self._opaque: set[str] = set()
        for pattern in allowed:
            self._add(pattern)

    def _add(self, pattern: str) -> None:
        if pattern == "*":
            self._any = True
            return
        if (opaque := _opaque(pattern)) is not None:
            self._opaque.add(opaque)
            return
        match = _PATTERN.fullmatch(_ascii(pattern).lower().removesuffix("/"))
        if match is None:
            raise ConfigError(
                f"EDGE_ALLOWED_ORIGINS: {pattern!r} is no origin such as https://*.example.com or http://localhost:*"
            )
        scheme, host, port = match[1], match[2], match[3] or _DEFAULT_PORTS.get(match[1], "")
        if host.startswith("*."):
            self._wildcards.append((scheme, re.compile(_LABELS + re.escape(host[1:])), port))
        else:
            self._exact.add((scheme, host, port))

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether a request with this Origin (None: without one) and Host may connect."""
        if origin is None:
            return self._allow_no_origin
        if (opaque := _opaque(origin)) is not None:
            return opaque in self._opaque
        return self._matches(origin, host, any_page=self._any)

    def names(self, origin: str, host: str) -> bool:
        """Whether it is the origin of the request's own host, or one that the list names.

        `*` names nobody, and `null` and `file://` name many pages. A page of the own host over http is named only on
        this machine: elsewhere anybody on the way may have written it, and not all browsers keep a cookie of https from
        it.
        """
        return _opaque(origin) is None and self._matches(origin, host, any_page=False, needs_tls=True)

    def _matches(self, origin: str, host: str, *, any_page: bool, needs_tls: bool = False) -> bool:
        match = _ORIGIN.fullmatch(origin.lower())
        if match is None:
            return False
        scheme, name = match[1], match[2]
        port = match[3] or _DEFAULT_PORTS.get(scheme, "")
        return (
            any_page
            or (scheme, name, port) in self._exact
            or (scheme, name, _ANY_PORT) in self._exact
            or (
                (scheme == "https" or (scheme == "http" and (not needs_tls or _is_this_machine(name))))
                and (name, port) == _split_host(host, _DEFAULT_PORTS[scheme])
            )
            or any(s == scheme and p in (port, _ANY_PORT) and r.fullmatch(name) for s, r, p in self._wildcards)
        )


def _opaque(origin: str) -> str | None:
    """Return `null` or `file://`, normalised, if the origin is one of them; else None."""
    plain = origin.lower()
    plain = "file://" if plain == "file:///" else plain
    return plain if plain in _OPAQUE else None


def _is_this_machine(host: str) -> bool:
    """Return whether browsers take the host for their own machine."""
    return is_loopback(host) or host.endswith(".localhost")


def _ascii(pattern: str) -> str:
    """Return the pattern with an internationalised host in its ASCII form.

    Browsers send hosts in this form (RFC 5891, 4.4).

    Raises:
        ConfigError: a label can't be written in ASCII.
    """
    if pattern.isascii():
        return pattern
    scheme, separator, rest = pattern.partition("://")
    host, colon, port = rest.partition(":")
    labels = []
    for label in unicodedata.normalize("NFKC", host.lower()).removesuffix("/").split("."):
        encoded = label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}"
        if len(encoded) > 63 or not (label.isascii() or all(map(_is_of_a_name, label))):
            raise ConfigError(f"EDGE_ALLOWED_ORIGINS: {pattern!r}: give the host in its ASCII form (xn--…)")
        labels.append(encoded)
    return f"{scheme}{separator}{'.'.join(labels)}{colon}{port}"


def _is_of_a_name(character: str) -> bool:
    return character == "-" or unicodedata.category(character)[0] in "LMN"


def _split_host(host: str, default_port: str) -> tuple[str, str]:
    name, colon, port = host.lower().rpartition(":")
    if not colon or "]" in port:  # there is no port; the colon may be part of an IPv6 address
        return host.lower(), default_port
    return name, port or default_port
