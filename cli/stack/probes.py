"""Readiness probes of the supervisor: "" when ready, else what it waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from cli.http import NoResponse, request

_TIMEOUT_S = 1.0
Probe = Callable[[], Awaitable[str]]


def http_ready(url: str) -> Probe:
    """Return a probe of a service's /readyz."""

    async def probe() -> str:
        try:
            status, body = await asyncio.to_thread(request, "GET", url, timeout_s=_TIMEOUT_S)
        except NoResponse as error:
            return f"{url}: {error}"
        return "" if status == 200 else f"{url} says {_failing(body) or status}"

    return probe


def _failing(body: bytes) -> str:
    """Return the names of the failing checks."""
    try:
        return ", ".join(f"no {name}" for name in json.loads(body)["failing"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def redis_ready(port: int) -> Probe:
    """Return a probe that sends PING to a Redis, which is not ready while it loads."""

    async def probe() -> str:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"PING\r\n")
                    reply = await reader.readline()
                finally:
                    writer.close()
        except TimeoutError:
            return f"port {port}: no reply within {_TIMEOUT_S:g} s"
        except (OSError, ValueError) as error:
            return f"port {port}: {getattr(error, 'strerror', None) or error}"
        return "" if reply.startswith(b"+PONG") else f"port {port} says {reply.decode(errors='replace').strip()!r}"

    return probe
