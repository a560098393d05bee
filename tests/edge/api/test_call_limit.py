"""The limit of the calls of an API key, at the HTTP API: what counts, and when."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx
import pytest

from services.edge.domain.limits.api_calls import ApiCallLimit
from tests.edge.api.test_overload import http_of
from tests.support.edge import OPEN, Cluster
from tests.support.limits import LimitEdge

RATE = 0.01  # calls per second: none comes back while a test runs


@pytest.fixture
async def edge(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LimitEdge]:
    # A busy machine may be late; after half a second the edge would count by itself, from the beginning.
    monkeypatch.setattr("services.edge.adapters.redis.limit_calls.TIMEOUT_S", 5.0)
    made = LimitEdge(redis_url)
    yield made
    await made.close()


def client_of(edge: LimitEdge, burst: int) -> httpx.AsyncClient:
    limit = ApiCallLimit(edge.rates, rate=RATE, burst=burst, now=time.monotonic, refusals=edge.refusals)
    return http_of(Cluster(default=OPEN), call_limit=limit)


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b'{"what":1}', 400), (b"x" * 1_100_000, 413)])
@pytest.mark.parametrize("method", ["publish", "batch"])
async def test_bodies_that_are_refused_count_and_over_the_limit_nobody_reads_them(
    edge: LimitEdge, method: str, body: bytes, status: int
) -> None:
    parts_read = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal parts_read
        parts_read += 1
        yield body

    async with client_of(edge, 3) as client:
        answers = [(await client.post(f"/api/{method}", content=parts())).status_code for _ in range(5)]
    assert answers == [status] * 3 + [429] * 2
    assert parts_read == 3


async def test_a_request_without_a_key_counts_for_nobody(edge: LimitEdge) -> None:
    async with client_of(edge, 1) as client:
        for _ in range(3):
            assert (await client.post("/api/publish", headers={"X-API-Key": "thk_other"})).status_code == 401
        assert (await client.post("/api/publish", content=b"{")).status_code == 400


async def test_a_batch_counts_as_its_commands_all_others_or_none(edge: LimitEdge) -> None:
    async with client_of(edge, 10) as client:

        async def batch(commands: int) -> httpx.Response:
            return await client.post("/api/batch", json={"commands": [{"info": {}, "more": {}}] * commands})

        assert (await batch(11)).json()["error"]["code"] == 106  # counts as one: it came
        assert (await batch(0)).status_code == 200  # one
        assert len((await batch(6)).json()["result"]["replies"]) == 6
        refused = await batch(3)  # 2 are left, and this one takes one of them
        assert refused.status_code == 429
        # 1 is left: after 2 more there are the 3 that a repeat needs
        assert int(refused.headers["Retry-After"]) == pytest.approx(2 / RATE, abs=2)
        assert (await client.post("/api/publish", content=b"{")).status_code == 400
        assert (await client.post("/api/publish", content=b"{")).status_code == 429


async def test_a_batch_of_the_whole_burst_is_allowed(edge: LimitEdge) -> None:
    async with client_of(edge, 10) as client:
        answer = await client.post("/api/batch", json={"commands": [{"nothing": {}}] * 10})
    assert len(answer.json()["result"]["replies"]) == 10
