"""A single HTTP request with a timeout: all the HTTP that the command line needs."""

from __future__ import annotations

import http.client
import urllib.parse
from collections.abc import Mapping

_MAX_RESPONSE_BYTES = 64 * 1024 * 1024


class NoResponse(Exception):
    """The server did not answer. The text says why."""


def request(
    method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None, timeout_s: float
) -> tuple[int, bytes]:
    """Send a request and return status and body. Blocks.

    Each step (connect, send, receive) may take `timeout_s` seconds.

    Raises:
        NoResponse: refused, broken off, not HTTP, or not in time.
    """
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            connection.request(method, parts.path or "/", body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read(_MAX_RESPONSE_BYTES)
        finally:
            connection.close()
    except TimeoutError as error:
        raise NoResponse(f"no response within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoResponse(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error
