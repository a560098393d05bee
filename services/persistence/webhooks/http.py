"""Requests to services of others: bounded answers, no redirects, no surprises.

Taken is what was answered 2xx in time. Everything else is a failure: another status, a redirect (it is not followed, so
only the given address is ever called), an answer that is no HTTP, silence. A short answer is read, so that the
connection can be used again; a longer one ends the connection. Only public addresses are connected to where the
address comes from a user (`pinned`).
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from services.shared.version import VERSION

MAX_BODY_BYTES = 16_384  # of an answer that is read; a longer one ends the connection
_IDLE_S = 30.0  # how long an unused connection stays open, seconds
_SHOWN = 200  # characters of an error that are kept
_LATER = 500  # from this status on, and those below, a repeat may help
_AGAIN = frozenset({408, 425, 429})
_TRANSLATED = tuple(  # NAT64, 6to4, Teredo, and older ones: a gateway may lead to any IPv4 address
    map(ipaddress.IPv6Network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10"))
)


class Outcome(enum.StrEnum):
    """How a request ended; values of the label `outcome`."""

    TAKEN = "taken"
    GONE = "gone"  # 404, 410: what it was for is not known any more
    INVALID = "invalid"  # refused, and would be again
    REFUSED = "refused"  # refused for now
    REDIRECT = "redirect"
    TIMEOUT = "timeout"
    FAILED = "failed"  # no connection, or no HTTP


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended.

    `retry_after_s`: how long to wait, as it asked; 0: it did not.
    """

    outcome: Outcome
    error: str = ""
    retry_after_s: float = 0.0


class NotPublic(Exception):
    """A name of which an address is private, or that has none."""


async def pinned(url: str, servers: Collection[str]) -> tuple[httpx.URL, dict[str, str], dict[str, Any]]:
    """Resolve the host of a URL; return a URL of its address, and what goes with it.

    The connection goes to the address that was looked at, whatever the name means a moment later; TLS still wants a
    certificate for the name. `servers`: `host:port` that may be in a private network.

    Raises:
        NotPublic: an address is private, or there is none.
    """
    parsed = httpx.URL(url)
    port = parsed.port or 443
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parsed.host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotPublic(f"{parsed.host} has no address: {error}") from error
    addresses = [str(one[4][0]).partition("%")[0] for one in found]
    private = [one for one in addresses if not is_public(one)]
    if (private and f"{parsed.host}:{port}" not in servers) or not addresses:
        raise NotPublic(f"{parsed.host} is at {', '.join(private)}, which is not public")
    headers = {"Host": parsed.netloc.decode("ascii")}
    return parsed.copy_with(host=addresses[0]), headers, {"sni_hostname": parsed.host}


def is_public(address: str) -> bool:
    """Whether an address is public, also as one that stands for an IPv4 address."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if any(found in network for network in _TRANSLATED):
            return False
        found = found.ipv4_mapped or found
    return found.is_global and not found.is_multicast


def client(*, timeout_s: float, connections: int, verify: Any = True, proxies: bool = False) -> httpx.AsyncClient:
    """Return a client.

    Args:
        timeout_s: Longest wait for a part of an answer.
        connections: At most so many.
        verify: Context of TLS, or True for the usual authorities.
        proxies: Whether to use the proxy that the environment names.
    """
    return httpx.AsyncClient(
        verify=verify,
        limits=httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_IDLE_S
        ),
        follow_redirects=False,
        trust_env=proxies,
        timeout=timeout_s,
        headers={"User-Agent": f"thalamus/{VERSION}", "Accept-Encoding": "identity"},
    )


async def post(
    http: httpx.AsyncClient,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    timeout_s: float,
    *,
    public_but: Collection[str] | None = None,
) -> tuple[Answer, int, bytes]:
    """Send a request; return what it comes to by its status, the status, and the body.

    Raises nothing but a cancellation. Status 0: there was no answer. `public_but`: only public addresses are called,
    and these servers, `host:port`; None: any.
    """
    try:
        async with asyncio.timeout(timeout_s):
            where, more, extensions = (url, {}, {}) if public_but is None else await pinned(url, public_but)
            request = http.stream("POST", where, content=body, headers={**headers, **more}, extensions=extensions)
            async with request as response:
                read = bytearray()
                async for chunk in response.aiter_raw():
                    read += chunk
                    if len(read) > MAX_BODY_BYTES:
                        break
                return judged(response), response.status_code, bytes(read[:MAX_BODY_BYTES])
    except TimeoutError:
        return Answer(Outcome.TIMEOUT, f"no answer in {timeout_s:g} s"), 0, b""
    except httpx.TimeoutException:
        return Answer(Outcome.TIMEOUT, "no connection in time"), 0, b""
    except Exception as error:  # whatever is answered, it was not taken
        return Answer(Outcome.FAILED, f"{type(error).__name__}: {error}"[:_SHOWN]), 0, b""


def judged(response: httpx.Response) -> Answer:
    """Return what a status means, as most services use it."""
    status = response.status_code
    if response.is_success:
        return Answer(Outcome.TAKEN)
    if response.is_redirect:
        place = response.headers.get("location", "")
        return Answer(Outcome.REDIRECT, f"it redirects to {place[:100]!r}, which is not followed")
    if status in (404, 410):
        return Answer(Outcome.GONE, f"status {status}")
    if status >= _LATER or status in _AGAIN:
        return Answer(Outcome.REFUSED, f"status {status}", retry_after_s(response.headers.get("retry-after", "")))
    return Answer(Outcome.INVALID, f"status {status}")


def refused_or_taken(answer: Answer) -> Answer:
    """Return what an answer means where whoever is asked is never given up.

    A backend that is being replaced answers anything, 404 too.
    """
    return Answer(Outcome.REFUSED, answer.error) if answer.outcome in (Outcome.GONE, Outcome.INVALID) else answer


def retry_after_s(text: str) -> float:
    """Return the seconds that a `Retry-After` asks for; 0: none."""
    if text.isascii() and text.isdecimal() and len(text) < 9:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time()) if text else 0.0
    except ValueError:
        return 0.0
