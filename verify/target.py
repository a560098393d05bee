"""The stack that a run tests: addresses of its edges, and credentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

API_S = 6.0


class ApiError(Exception):
    """A call of the server API gave no result."""


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses and credentials of a stack.

    `websockets` and `https` are addresses of the same edges, or of one balancer. `token` returns the token of a user.
    """

    websockets: tuple[str, ...]
    https: tuple[str, ...]
    api_key: str
    token: Callable[[str], str]


async def call_api(client: httpx.AsyncClient, url: str, api_key: str, method: str, **body: Any) -> dict[str, Any]:
    """Return the result of one call of the server API.

    Raises:
        ApiError: no response, or an error.
    """
    try:
        response = await client.post(f"{url}/api/{method}", json=body, headers={"X-API-Key": api_key}, timeout=API_S)
        found = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ApiError(f"{method}: {error!r}") from error
    if "result" not in found:
        raise ApiError(f"{method}: {response.status_code} {found.get('error')}")
    result = found["result"]
    return result if isinstance(result, dict) else {}
