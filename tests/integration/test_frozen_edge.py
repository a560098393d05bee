"""Questions to all edges while one of them is frozen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.edge.domain.control.connections import has_edge
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

CHANNEL = "chat:frozen"
QUESTIONS = {"channels": {"pattern": CHANNEL}, "connections": {"channel": CHANNEL}, "info": {}}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(edges=2, restart=False) as running:
        yield running


def counted(method: str, result: dict[str, Any]) -> int:
    """The connections that an answer counts, or the nodes."""
    if method == "channels":
        return int(result["channels"].get(CHANNEL, {"num_clients": 0})["num_clients"])
    return len(result["connections" if method == "connections" else "nodes"])


async def test_the_others_answer_where_that_is_asked_for_and_the_answer_says_who_is_missing(stack: Stack) -> None:
    async with (
        httpx.AsyncClient(base_url=stack.http_urls[0], headers={"X-API-Key": stack.api_key}, timeout=10) as http,
        WireClient(stack.ws_urls[0]) as here,
        WireClient(stack.ws_urls[1]) as there,
    ):

        async def ask(method: str, **body: Any) -> dict[str, Any]:
            answer: dict[str, Any] = (await http.post(f"/api/{method}", json=body)).json()
            return answer

        for client, user in ((here, "ann"), (there, "bob")):
            await client.connect(stack.token(user))
            await client.subscribe(CHANNEL)
        nodes = (await ask("info"))["result"]["nodes"]
        assert (await ask("connections", edge="no-such-edge"))["error"]["code"] == 108
        names = {node["name"] for node in nodes}
        for name in names:
            assert len((await ask("connections", edge=name))["result"]["connections"]) == 1
        await asyncio.to_thread(stack.stop, "edge-2")
        try:
            for method, body in QUESTIONS.items():
                refused = (await ask(method, **body))["error"]
                assert refused == {"code": 100, "message": "internal server error"}, "an incomplete answer is none"
                result = (await ask(method, **body, partial=True))["result"]
                assert (counted(method, result), result["unanswered"]) == (1, 1)
            (left,) = (await ask("info", partial=True))["result"]["nodes"]
            (frozen,) = names - {left["name"]}
            for name in (frozen, "no-such-edge"):  # nobody can tell them apart
                found = (await ask("connections", edge=name, partial=True))["result"]
                assert found == {"connections": [], "unanswered": 1}
        finally:
            await asyncio.to_thread(stack.cont, "edge-2")
        async with asyncio.timeout(30):
            for method, body in QUESTIONS.items():
                while "unanswered" in (result := (await ask(method, **body, partial=True))["result"]):
                    await asyncio.sleep(0.05)
                assert counted(method, result) == 2
        assert (await ask("connections", edge="no-such-edge", partial=True))["error"]["code"] == 108


def test_an_edge_of_before_may_be_the_one_that_is_asked_for() -> None:
    assert has_edge([{"is_asked": False}, {"connections": [], "more": False}])
    assert has_edge([{"is_asked": False}, {"is_asked": True}])
    assert not has_edge([{"is_asked": False}])
