"""Many publications by way of the server API."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.stack import Stack


async def fill(stack: Stack, channel: str, count: int, first: int = 0) -> str:
    """Publish the numbers from the first on, so many; returns the epoch."""
    headers = {"X-API-Key": stack.api_key}
    async with httpx.AsyncClient(base_url=stack.http_urls[0], headers=headers, timeout=30) as http:

        async def batch(start: int) -> dict[str, Any]:
            commands = [
                {"publish": {"channel": channel, "data": {"n": number} if first else number}}
                for number in range(start, min(start + 200, first + count))
            ]
            response = (await http.post("/api/batch", json={"commands": commands, "parallel": True})).json()
            replies: list[dict[str, Any]] = response["result"]["replies"]
            assert all("publish" in reply for reply in replies), replies[:3]
            offsets = [reply["publish"]["offset"] for reply in replies]
            assert offsets == list(range(start + 1, start + 1 + len(commands))), offsets
            return replies[-1]["publish"]  # type: ignore[no-any-return]

        last: dict[str, Any] = {}
        for start in range(first, first + count, 200):
            last = await batch(start)
        assert last["offset"] == first + count
        return str(last["epoch"])
