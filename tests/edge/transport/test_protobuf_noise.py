"""Thousands of random Protobuf commands against an edge and a real Redis.

It has sockets. FULL=1 sends far more.

Whatever comes, the edge answers in words of the protocol, logs no error, serves those who behave meanwhile and
afterwards, and keeps nothing of those who are gone.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import logging
import os
import random
import secrets
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from websockets.exceptions import ConnectionClosed

from services.shared.errors import Unavailable
from services.shared.namespaces import DataFormat, Durability, Mode, Permission
from tests.edge.transport.support import PATH
from tests.support.edge import OPEN, Cluster, replace_namespace
from tests.support.full import sized
from tests.support.protobuf_noise import Noise
from tests.support.served_edge import ServedEdge
from tests.support.waiting import until
from tests.support.wire_client import WireClient, WireError

COMMANDS = sized(1_000, 20_000)
AT_ONCE = 12
FRAMES = 40  # of one client at most
LAST = 4_000_000_000  # id of the command that a client sends last
ERRORS = {*range(102, 113)}
CLOSES = {1009, 3005, 3010, 3012, 3500, 3501, 3502, 3504, 3505, 3507, 3508}
_LOGGED = replace_namespace(
    OPEN,
    recovery=Mode.FORCE,
    join_leave=Mode.FORCE,
    history=frozenset({Permission.AUTHENTICATED}),
    presence_read=frozenset({Permission.AUTHENTICATED}),
    publish=frozenset({Permission.AUTHENTICATED}),
)
_NONE = replace_namespace(OPEN, durability=Durability.NONE, recovery=Mode.OFF, positioning=Mode.OFF)
_BINARY = replace_namespace(_LOGGED, data_format=DataFormat.BINARY)


class _Over(Exception):
    """The edge has closed a client's connection."""


class Crowd:
    """Clients that send noise, and what the edge said to them."""

    def __init__(self, url: str, seed: int, cluster: Cluster) -> None:
        run = secrets.token_hex(4)
        channels = [f"{kind}{run}-{number}" for kind in ("", "none:", "raw:") for number in range(4)]
        self.tokens = [
            cluster.token("alice", ttl_s=None),
            cluster.token("bob", ttl_s=None, subs={channels[0]: {"data": {"a": 1}}}),
            cluster.token("alice", ttl_s=-(2**31)),
            cluster.token("", ttl_s=None),
            *(cluster.token("alice", ttl_s=None, channel=one) for one in channels[:3]),
        ]
        self._url = url
        self._chance = random.Random(seed)
        self._noise = Noise(seed, channels, self.tokens)
        self.sent = self.clients = 0
        self.errors: collections.Counter[int] = collections.Counter()
        self.closes: collections.Counter[int] = collections.Counter()
        self.answers: collections.Counter[str] = collections.Counter()

    async def run(self, commands: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._clients(commands))

    async def _clients(self, commands: int) -> None:
        while self.sent < commands:
            await self._client()

    async def _client(self) -> None:
        """One connection: usually a good connect, then noise.

        After each there is a command that is answered.
        """
        async with WireClient(self._url, protobuf=True, deadline_s=30) as client:
            is_open = False
            if self._chance.random() < 0.95:
                reply = await client.reply(await client.post(connect={"token": self.tokens[self._chance.randrange(2)]}))
                is_open = "connect" in reply
            with contextlib.suppress(ConnectionClosed, _Over):
                for _ in range(FRAMES if is_open else 1):
                    frame, count = self._noise.frame()
                    self.sent += count
                    await client.send_frame(frame)
                    if is_open:
                        await client.send({"id": LAST, "rpc": {"method": "of none"}})
                        await self._answer(client)
            self._judge(client)

    @staticmethod
    async def _answer(client: WireClient) -> None:
        """Wait for the reply to the last command, or for the end of the connection."""
        try:
            await client.reply(LAST)
        except WireError:
            if client.socket.close_code is None:
                raise
            raise _Over from None

    def _judge(self, client: WireClient) -> None:
        assert not client.broken, client.broken
        self.clients += 1
        for line in client.lines:
            if line.get("id") == LAST:
                continue
            if "error" in line:
                self.errors[line["error"]["code"]] += 1
            self.answers[next((name for name in line if name != "id"), "ping")] += 1
        if client.socket.close_code is not None:
            self.closes[client.socket.close_code] += 1


class Bystander:
    """Publishes and hears itself while the noise goes on."""

    def __init__(self, client: WireClient, channel: str) -> None:
        self._client, self._channel = client, channel
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await self._client.publish(self._channel, {"n": self.count})
            publication = await self._client.publication(self._channel)
            assert (publication["data"], publication["offset"]) == ({"n": self.count}, self.count)
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("take", range(sized(1, 3)))
async def test_noise_is_answered_in_words_of_the_protocol_and_leaves_nothing(
    take: int,
    redis_url: str,
    redis_conn: redis.asyncio.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = os.environ.get("FUZZ_SEED")
    seed = int(given) + take if given else secrets.randbits(32)
    print(f"FUZZ_SEED={seed}")
    caplog.set_level(logging.WARNING)
    failures: list[str] = []  # of Redis, as the edge sees it: a busy machine may be late
    monkeypatch.setattr(Unavailable, "__init__", lambda _, text="", **_others: failures.append(text))
    trouble: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))
    cluster = Cluster(default=_LOGGED, none=_NONE, raw=_BINARY)
    limits: dict[str, Any] = {"commands_per_s": 0.0, "new_channels_per_minute": 0, "connections_per_user": 0}
    async with ServedEdge(cluster, redis_url=redis_url, **limits) as edge:
        url = f"ws://127.0.0.1:{edge.port}{PATH}"
        node, before = edge.node, await traces(redis_conn)
        async with WireClient(url, protobuf=True) as good, WireClient(url) as good_in_json:
            channels = [f"good{secrets.token_hex(4)}" for _ in range(2)]
            watching = []
            for client, channel in zip((good, good_in_json), channels, strict=True):
                await client.connect(cluster.token("carol", ttl_s=None))
                await client.subscribe(channel)
                watching.append(Bystander(client, channel))
            crowd = Crowd(url, seed, cluster)
            noise = asyncio.create_task(crowd.run(COMMANDS))
            tasks = [asyncio.create_task(one.run()) for one in watching]
            await asyncio.wait([noise, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                assert not task.done() or task.exception() is None, task.exception()
            await noise
            for one in watching:
                seen = one.count
                await until(lambda one=one, seen=seen: one.count > seen, what="a bystander is served no more")  # type: ignore[misc]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        print(f"{crowd.sent} commands of {crowd.clients} clients; got {dict(crowd.answers)}")
        print(f"errors {dict(crowd.errors)}, closes {dict(crowd.closes)}")
        assert crowd.sent >= COMMANDS
        assert crowd.errors.pop(100, 0) <= len(failures), failures  # none but where Redis did not answer in time
        assert crowd.errors.keys() <= ERRORS
        assert crowd.closes.keys() <= CLOSES
        async with WireClient(url, protobuf=True) as later:
            await later.connect(cluster.token("dave", ttl_s=None))
            await later.subscribe(channels[0])
            await later.publish(channels[0], "afterwards")
            assert (await later.publication(channels[0]))["data"] == "afterwards"
        await until(lambda: not node.sessions and not node.clients and not node.users, what="sessions are left")
        await until(lambda: not any(cluster.presence.members_of.values()), what="members are left")
        await until(lambda: not node.hub.channels, what="channels are left")
        await until(lambda: sockets(edge.port) == 0, what="sockets are left")
        assert await traces(redis_conn) == before
    gc.collect()
    assert not trouble
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "Traceback" not in caplog.text


async def traces(conn: redis.asyncio.Redis) -> int:
    """How many channels of pub/sub are subscribed to in Redis."""
    return len(await conn.pubsub_channels())


def sockets(port: int) -> int:
    """Established TCP connections of this process to the edge, counted at its port."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)
