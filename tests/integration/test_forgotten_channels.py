"""Redis forgets a quiet `stored` channel while clients are subscribed to it.

Nobody notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio

from services.shared.hotlog import keys
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

CHANNELS = """
[namespaces.stored]
durability = "stored"
positioning = "force"
recovery = "force"
subscribe = ["authenticated"]
publish = ["authenticated"]
history = ["authenticated"]
"""
NAMES = ("stored:never", "stored:some")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    channels = tmp_path / "channels.toml"
    channels.write_text(CHANNELS)
    environment = {"EDGE_NEW_CHANNELS_PER_MINUTE": "3"}
    with Stack(channels_file=channels, environment=environment) as running:
        yield running


async def forget(client: redis.asyncio.Redis) -> None:
    """The time of what Redis keeps of the channels is over."""
    await client.delete(*(key for name in NAMES for key in (keys.meta(name), keys.log(name))))


async def refused_name(client: WireClient) -> str:
    """Subscribe to new channels until one is refused."""
    for number in range(50):
        name = f"stored:new{number}"
        reply = await client.reply(await client.post(subscribe={"channel": name}))
        if "error" in reply:
            assert reply["error"]["code"] == 111
            return name
    raise AssertionError("there is no limit")


async def test_subscribers_go_on_and_new_names_are_limited(stack: Stack) -> None:
    store = redis.asyncio.from_url(stack.redis_url)
    async with WireClient(stack.ws_urls[0]) as ann, WireClient(stack.ws_urls[1]) as bob:
        for client, user in ((ann, "ann"), (bob, "bob")):
            await client.connect(stack.token(user))
            for name in NAMES:
                await client.subscribe(name)
        await bob.publish("stored:some", 1)
        assert (await ann.publication("stored:some"))["offset"] == 1
        await forget(store)
        async with asyncio.timeout(30):  # views are compared with the logs, and bring them back
            while await store.exists(*map(keys.meta, NAMES)) < len(NAMES):
                await asyncio.sleep(0.1)
        await forget(store)
        assert (await bob.publish("stored:never", 1))["offset"] == 1
        assert (await bob.publish("stored:some", 2))["offset"] == 2
        assert (await ann.publication("stored:never"))["offset"] == 1
        assert (await ann.publication("stored:some"))["offset"] == 2
        assert not any(client.pushes(name, "unsubscribe") for client in (ann, bob) for name in NAMES)
        page = await ann.call(history={"channel": "stored:some", "limit": 10})
        assert [one["data"] for one in page["publications"]] == [1, 2]

        refused = await refused_name(ann)
        assert not await store.exists(keys.meta(refused))
        async with WireClient(stack.ws_urls[1]) as carol:
            await carol.connect(stack.token("carol"))
            await carol.subscribe(refused)
        await ann.subscribe(refused)  # it exists now
    await store.aclose()
