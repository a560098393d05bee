"""FLUSHALL while everything runs.

`hot` channels tell it once, nobody joins twice, and rosters are soon whole again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
import redis.asyncio

from tests.support.lateness import Lateness
from tests.support.stack import Stack
from tests.support.wire_client import WireClient

HOT, STORED = "flushed", "chat:flushed"
SUBSCRIBERS = 20
WHOLE_WITHIN_S = 5.0
LOOKED_ON_S = 8.0  # longer than the edges' comparison of quiet channels takes to come round


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


class Follower:
    """Subscribes to both channels, and again after each end with 2500, as SDKs do."""

    def __init__(self, client: WireClient, user: str) -> None:
        self.client, self.user = client, user
        self.told: Counter[str] = Counter()
        self._from = 0

    async def begin(self, token: str) -> None:
        await self.client.connect(token)
        for channel in (HOT, STORED):
            await self.client.subscribe(channel, join_leave=True)

    def count_from_here(self) -> None:
        self._from = len(self.client.lines)

    def pushes(self, kind: str, channel: str) -> list[str]:
        """Users that such pushes named since `count_from_here`.

        Of `unsubscribe` the codes.
        """
        found = [
            line["push"][kind]
            for line in self.client.lines[self._from :]
            if line.get("push", {}).get("channel") == channel and kind in line["push"]
        ]
        return [str(one["code"]) if kind == "unsubscribe" else one["info"]["user"] for one in found]

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            told = len(self.pushes("unsubscribe", HOT))
            if told > self.told[HOT]:
                self.told[HOT] = told
                await self.client.subscribe(HOT, join_leave=True)
            await asyncio.sleep(0.02)


async def roster(http: httpx.AsyncClient, url: str, channel: str) -> set[str]:
    """By the server API of one edge; empty where it does not answer yet."""
    response = (await http.post(f"{url}/api/presence", json={"channel": channel})).json()
    return {member["user"] for member in response.get("result", {"presence": {}})["presence"].values()}


async def test_everyone_is_told_once_and_nobody_joins_twice(own_stack: Stack) -> None:
    users = [f"user{number}" for number in range(SUBSCRIBERS)]
    async with AsyncExitStack() as exits:
        http = await exits.enter_async_context(httpx.AsyncClient(headers={"x-api-key": own_stack.api_key}, timeout=10))
        followers = []
        for number, user in enumerate(users):
            client = await exits.enter_async_context(WireClient(own_stack.ws_urls[number % 2]))
            followers.append(Follower(client, user))
            await followers[-1].begin(own_stack.token(user))
        for channel in (HOT, STORED):
            for number in range(3):
                await followers[0].client.publish(channel, number)
        await asyncio.sleep(1.0)
        for follower in followers:
            follower.count_from_here()
        following = [asyncio.create_task(follower.follow()) for follower in followers]

        async with redis.asyncio.Redis.from_url(own_stack.redis_url) as conn:
            await conn.flushall()
        whole_at: dict[tuple[str, str], float] = {}
        async with Lateness() as late:
            while late.took_s < LOOKED_ON_S:
                for channel in (HOT, STORED):
                    for url in own_stack.http_urls:
                        if await roster(http, url, channel) == set(users):
                            whole_at.setdefault((channel, url), late.took_s)
                        else:
                            whole_at.pop((channel, url), None)
                await asyncio.sleep(0.1)

        assert {follower.user: follower.pushes("unsubscribe", HOT) for follower in followers} == {
            user: ["2500"] for user in users
        }
        for follower in followers:
            assert follower.pushes("unsubscribe", STORED) == []
            assert follower.pushes("join", STORED) == follower.pushes("leave", STORED) == []
            twice = [user for user, times in Counter(follower.pushes("join", HOT)).items() if times > 1]
            assert twice == []
        assert len(whole_at) == 4, whole_at
        assert max(whole_at.values()) <= WHOLE_WITHIN_S, whole_at
        for task in following:
            assert not task.done()
            task.cancel()
