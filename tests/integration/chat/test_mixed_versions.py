"""Versions from before conversations beside this one, in one cluster.

An edge and a replica of persistence run the code of a commit from before. As long as such a persistence is connected,
conversations answer 100 on the edges of this version: it could number an event that it does not understand. Everything
else goes on, on all edges.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from tests.support.before import checkout_of_before, environment_of
from tests.support.chat_client import UNAVAILABLE, Backend, ChatClient, some_key
from tests.support.chat_follower import Follower
from tests.support.chat_stack import ChatStack
from tests.support.full import sized
from tests.support.wire_client import JsonObject

CHANNEL = "chat:mixed"
TOGETHER_S = sized(1, 20)
SECOND = "persistence-2"
CREATE = {"method": "conversations.create", "data": {"type": "group"}}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatStack]:
    old = environment_of(checkout_of_before(tmp_path_factory.mktemp("before")))
    with ChatStack(tmp_path_factory.mktemp("mixed"), of_edges={"edge-3": old}, of_second=old) as running:
        yield running


async def answer_to_subscribe(client: ChatClient) -> int:
    """The code with which an edge answers about a conversation that there is none of."""
    reply = await client.reply(await client.post(subscribe={"channel": "conv:g." + "a" * 26}))
    code: int = reply["error"]["code"]
    return code


async def until(mixed: ChatStack, edge: int, *, serves: bool) -> JsonObject:
    """Wait until an edge serves conversations, or answers 100; the last answer."""
    deadline = time.monotonic() + 30
    async with Backend(mixed.stack, edge) as backend:
        while True:
            answer = await backend.raw("conversations.create", "ann", type="group", key=some_key())
            is_served = "result" in answer
            if is_served or answer["error"]["code"] != UNAVAILABLE:
                assert is_served, answer
            if is_served == serves:
                return answer
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_conversations_wait_for_the_last_persistence_of_before_and_nothing_else_does(mixed: ChatStack) -> None:
    """Mutant: an edge asks whichever replica it reaches."""
    stack, acked = mixed.stack, list[int]()
    ended = asyncio.Event()

    async def publish(client: ChatClient) -> None:
        while not ended.is_set():
            key = some_key()
            while "publish" not in (
                reply := await client.reply(await client.post(publish={"channel": CHANNEL, "data": {"key": key}}))
            ):
                assert reply["error"]["code"] == UNAVAILABLE, reply
            acked.append(reply["publish"]["offset"])
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as exits:
        followers = [
            await exits.enter_async_context(Follower(url, partial(stack.token, "ann"), CHANNEL))
            for url in stack.ws_urls
        ]
        for follower in followers:
            await asyncio.wait_for(follower.is_live.wait(), 20)
        publishers = [await mixed.join(exits, f"p{edge}", edge) for edge in range(3)]
        for publisher in publishers:
            await publisher.subscribe(CHANNEL)
        publishing = [asyncio.create_task(publish(one)) for one in publishers]
        try:
            for edge in (0, 1):  # which notice it with their next try to open a stream
                while await answer_to_subscribe(publishers[edge]) != UNAVAILABLE:
                    await asyncio.sleep(0.05)
                await until(mixed, edge, serves=False)
            ends = time.monotonic() + TOGETHER_S
            while time.monotonic() < ends:
                for publisher in publishers[:2]:
                    assert await answer_to_subscribe(publisher) == UNAVAILABLE
                    created = await publisher.reply(await publisher.post(rpc=CREATE))
                    assert created["error"]["code"] == UNAVAILABLE, created
            # The update of the last persistence.
            await asyncio.to_thread(mixed.replicas.kill9, SECOND)
            mixed.replicas.environment_of_second = {}
            await asyncio.to_thread(mixed.replicas.start, SECOND)
            for edge in (0, 1):
                await until(mixed, edge, serves=True)
            channel = (await until(mixed, 0, serves=True))["result"]["channel"]
            sent = await publishers[1].error(publish={"channel": channel, "data": {"kind": "message", "text": "Hi"}})
            assert sent["code"] == 103, "not a member"
            old = await publishers[2].error(publish={"channel": channel, "data": {"kind": "message", "text": "Hi"}})
            assert old["code"] == 102, "an edge of before has no such namespace"
            async with Backend(mixed.stack) as backend:
                channel = await backend.group("p0", "p1")
            for publisher in publishers[:2]:
                assert "subscribe" in await publisher.try_subscribe(channel)
            # The edge of before can't read who types, so nobody is told: it would have come before the message.
            await publishers[0].do("typing.start", channel=channel)
            await publishers[0].do("messages.send", channel=channel, text="Hi")
            heard = await publishers[1].publication(channel)
            assert heard["data"]["kind"] == "message", heard
            await asyncio.sleep(TOGETHER_S)
        finally:
            ended.set()
            await asyncio.gather(*publishing)
        top = max(acked)
        for follower in followers:
            await follower.until_offset(top)
            offsets = follower.heard.offsets
            assert offsets == list(range(offsets[0], offsets[-1] + 1))
            assert follower.heard.not_recovered == 0
    assert len(acked) == len(set(acked)) == top
    for name in ("persistence", "edge-1", "edge-2", "edge-3"):
        assert not any("Traceback" in line or "unreadable payload" in line for line in stack.lines(name)), name
