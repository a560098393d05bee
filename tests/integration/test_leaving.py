"""When a client has left presence.

At once, within 3 s, or after its grace, by how its connection ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.support.lateness import Lateness
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

CHANNEL = "chat:leaving"
AT_ONCE_S = 1.0  # generous: a few round trips on a busy machine


class Room:
    """A watcher on the first edge, and clients on any."""

    def __init__(self, stack: Stack, exits: AsyncExitStack) -> None:
        self.stack = stack
        self._exits = exits

    async def client(self, user: str, edge: int) -> WireClient:
        made = await self._exits.enter_async_context(WireClient(self.stack.ws_urls[edge]))
        await made.connect(self.stack.token(user))
        await made.subscribe(CHANNEL, join_leave=True)
        return made


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


async def test_1000_leaves_at_once_1001_within_3_s_and_whoever_comes_back_is_not_seen_leaving(stack: Stack) -> None:
    async with AsyncExitStack() as exits:
        room = Room(stack, exits)
        watcher = await room.client("watcher", 0)
        gone: list[tuple[str, str]] = []  # user and client, in the order in which they are to leave
        for name, edge in (("ann", 1), ("bob", 1), ("cid", 0), ("dan", 1)):
            client = await room.client(name, edge)
            await watcher.push(CHANNEL, "join")
            if name == "watcher":
                continue
            late = await exits.enter_async_context(Lateness())
            if name == "dan":
                client.abort()
                await watcher.expect_silence(3.5)  # its grace is 10 s
                continue
            gone.append((name, client.client_id))
            await client.socket.close({"ann": 1000, "bob": 1001, "cid": 1001}[name])
            if name == "cid":
                back = await room.client(name, 1)  # another edge
                await watcher.expect_silence(3.5)
                there = (await watcher.call(presence={"channel": CHANNEL}))["presence"]
                assert sorted(info["user"] for info in there.values()) == ["cid", "watcher"]
                await back.socket.close(1000)
                gone.append((name, back.client_id))  # told after the leave of the client whose place it took
            leave = await watcher.push(CHANNEL, "leave")
            assert leave["leave"]["info"]["user"] == name
            if name == "cid":
                await watcher.push(CHANNEL, "leave")
            if name == "ann":
                assert late.took_s < AT_ONCE_S
            elif name == "bob":
                assert late.took_s + late.total_s > 1.0
                assert late.took_s <= 3.0
        joined = {push["join"]["info"]["client"] for push in watcher.pushes(CHANNEL, "join")}
        infos = [push["leave"]["info"] for push in watcher.pushes(CHANNEL, "leave")]
        left = [(info["user"], info["client"]) for info in infos]
        assert left == gone
        # A reader that keeps members by client sees each leave once.
        assert [user for user, client in left if client in joined] == ["ann", "bob", "cid"]


async def test_a_removed_user_has_left_though_the_client_does_not_answer(stack: Stack) -> None:
    async with AsyncExitStack() as exits:
        room = Room(stack, exits)
        watcher = await room.client("observer", 0)
        clients = [await room.client("eve", edge) for edge in (0, 1)]
        for _ in clients:
            await watcher.push(CHANNEL, "join")
        for client in clients:
            client.pause_reading()
        async with Lateness() as late:
            async with httpx.AsyncClient(headers={"X-API-Key": stack.api_key}) as http:
                response = await http.post(f"{stack.http_urls[0]}/api/disconnect", json={"user": "eve"})
            assert "error" not in response.json()
            for _ in clients:
                await watcher.push(CHANNEL, "leave")
        assert late.took_s < 2 * AT_ONCE_S
        there = (await watcher.call(presence={"channel": CHANNEL}))["presence"]
        assert "eve" not in {info["user"] for info in there.values()}
        for client in clients:
            client.resume_reading()
