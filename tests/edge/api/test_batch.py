"""What fails unforeseen in one of several commands fails that command alone.

Over HTTP, and in a frame.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.api import requests as r
from services.edge.api.bodies import result_response
from services.edge.api.context import ApiContext
from services.edge.api.methods import batch, broadcast
from services.edge.domain.access.api_keys import ApiKey
from services.edge.domain.model import AppendResult, HistoryPage
from services.edge.domain.session.node import Node
from tests.support.edge import OPEN, SIGNED_IN, Client, Cluster, connected, settle
from tests.support.memory import MemoryBroker

BROKEN = "broken"
NAMESPACE = dataclasses.replace(OPEN, publish=SIGNED_IN, history=SIGNED_IN)
INTERNAL = {"code": 100, "message": "internal server error"}
CHANNELS = st.lists(st.sampled_from(["a", "b", BROKEN]), min_size=1, max_size=6)


class UnforeseenError(Exception):
    """No error that anybody reckons with."""


class HalfBroken(MemoryBroker):
    """Whatever is asked of the log of one channel ends in such an error."""

    def append(self, channel: str, *args: Any, **options: Any) -> Awaitable[AppendResult]:  # type: ignore[override]
        if channel == BROKEN:
            raise UnforeseenError
        return super().append(channel, *args, **options)

    async def read(self, channel: str, **options: Any) -> HistoryPage | None:
        if channel == BROKEN:
            raise UnforeseenError
        return await super().read(channel, **options)


def half_broken_edge() -> tuple[Cluster, Node]:
    cluster = Cluster(default=NAMESPACE)
    cluster.broker_type = HalfBroken
    return cluster, cluster.edge()


def context(node: Node) -> ApiContext:
    """As far as the methods of these tests look into it."""
    nothing = cast(Any, None)
    return ApiContext(
        node=node,
        cluster=nothing,
        revoker=nothing,
        granter=nothing,
        accounts=nothing,
        users=cast(Any, None),
        profile_news=cast(Any, None),
        tickets=nothing,
        chat=cast(Any, None),
        keyring=nothing,
        web_dir=Path(),
        websocket_path="/connection/websocket",
        origin_allowed=lambda _: False,
        is_own_page=lambda _origin, _host: False,
    )


def told(result: dict[str, Any]) -> Any:
    """The result as it goes over the wire."""
    return json.loads(bytes(result_response(result).body))["result"]


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


async def run_batch(channels: list[str], *, parallel: bool) -> None:
    _, node = half_broken_edge()
    commands = []
    for channel in channels:
        commands.append({"publish": raw({"channel": channel, "data": {}})})
        commands.append({"history": raw({"channel": channel, "limit": 1})})
    replies = told(await batch(context(node), r.Batch(commands=commands, parallel=parallel), ApiKey("admin")))[
        "replies"
    ]
    assert len(replies) == len(commands)
    for number, channel in enumerate(channels):
        publish, history = replies[2 * number : 2 * number + 2]
        if channel == BROKEN:
            assert publish == history == {"error": INTERNAL}
        else:
            assert publish["publish"]["offset"] > 0
            assert "publications" in history["history"]


@pytest.mark.parametrize("parallel", [False, True], ids=["one-by-one", "parallel"])
@given(channels=CHANNELS)
def test_a_command_of_a_batch_fails_for_itself(channels: list[str], parallel: bool) -> None:
    asyncio.run(run_batch(channels, parallel=parallel))


async def run_broadcast(channels: list[str]) -> None:
    _, node = half_broken_edge()
    responses = told(await broadcast(context(node), r.Broadcast(channels=channels, data=raw({}))))["responses"]
    assert [one.get("error") for one in responses] == [INTERNAL if name == BROKEN else None for name in channels]
    assert all(one["result"]["offset"] > 0 for one in responses if "result" in one)


@given(channels=CHANNELS)
def test_a_channel_of_a_broadcast_fails_for_itself(channels: list[str]) -> None:
    asyncio.run(run_broadcast(channels))


async def run_frame(channels: list[str]) -> None:
    cluster, node = half_broken_edge()
    client: Client = await connected(cluster, node)
    commands: list[dict[str, Any]] = []
    for channel in channels:
        commands.append({"id": 100 + len(commands), "publish": {"channel": channel, "data": {}}})
        commands.append({"id": 100 + len(commands), "history": {"channel": channel, "limit": 1}})
    client.protocol.message("\n".join(map(json.dumps, commands)).encode(), binary=False)
    await settle()
    replies = {line["id"]: line for line in client.lines if line.get("id", 0) >= 100}
    assert list(replies) == [command["id"] for command in commands]  # each once, in order
    for command in commands:
        (request,) = (command[name] for name in ("publish", "history") if name in command)
        error = replies[command["id"]].get("error")
        assert (error and error["code"]) == (100 if request["channel"] == BROKEN else None)
    assert client.connection.closed is None


@given(channels=CHANNELS)
def test_a_command_of_a_frame_fails_for_itself(channels: list[str]) -> None:
    asyncio.run(run_frame(channels))
