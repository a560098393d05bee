"""A service that is frozen costs one call its deadline.

The next ones fail at once, until it goes on.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
from collections.abc import Iterator

import httpx
import pytest

from services.shared.rpc.breaker import PROBE_S
from tests.support.lateness import Lateness
from tests.support.stack import Stack

FIRST_S = 3.0
AT_ONCE_S = 0.3  # a few milliseconds, and the edge may be woken late
BACK_S = 3.0
WHO = {"username": "ann", "password": "correct horse battery"}
CALLS = {
    "auth": "/auth/login",
    "presence": "/api/presence_stats",
    "persistence": "/api/history",  # of a channel that only the store may know
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(edges=1, restart=False, environment={"AUTH_ATTEMPTS_PER_ADDRESS": "0"}) as running:
        httpx.post(f"{running.http_urls[0]}/auth/register", json=WHO, timeout=10).raise_for_status()
        yield running


@pytest.mark.parametrize("frozen_before_s", [0.0, 8.0], ids=["now", "long-ago"])
@pytest.mark.parametrize("service", CALLS)
async def test_five_calls_while_it_is_frozen_and_it_comes_back_by_itself(
    stack: Stack, service: str, frozen_before_s: float
) -> None:
    """Long ago: gRPC has given its connection up, and the kernel accepts new ones."""
    async with httpx.AsyncClient(base_url=stack.http_urls[0], headers={"X-API-Key": stack.api_key}, timeout=10) as http:

        async def call() -> tuple[bool, float]:
            body = WHO if service == "auth" else {"channel": f"chat:{secrets.token_hex(8)}"}
            async with Lateness() as late:
                response = await http.post(CALLS[service], json=body)
            return response.status_code == 200 and "error" not in response.json(), late.took_s

        assert (await call())[0]
        stack.stop(service)
        try:
            await asyncio.sleep(frozen_before_s)
            found = [await call() for _ in range(5)]
            assert [works for works, _ in found] == [False] * 5
            assert found[0][1] <= FIRST_S
            assert statistics.median(took_s for _, took_s in found[1:]) <= AT_ONCE_S
            await asyncio.sleep(2 * PROBE_S)  # probes do not let anybody wait again
            assert statistics.median([(await call())[1] for _ in range(5)]) <= AT_ONCE_S
        finally:
            stack.cont(service)
        async with Lateness() as late:
            while not (await call())[0]:
                assert late.took_s <= BACK_S
        print(f"{service}: first {found[0][1]:.3f} s, then {found[1][1] * 1e3:.1f} ms, back in {late.took_s:.2f} s")
