"""Redis or the store comes back older than what was acknowledged.

On a whole stack.

No place is given twice in one epoch, and nobody is told that it has recovered what is gone.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import redis

from tests.support.redis import RedisServer
from tests.support.stack import Stack, clean_environment
from tests.support.wire_client import WireClient

HOT, STORED = "live:went-back", "chat:went-back"
WITHIN_S = 20.0


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Two edges; what dies stays dead until the test starts it."""
    with Stack(restart=False) as running:
        yield running


class Publisher:
    """A backend that publishes through each edge in turn, and keeps positions."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._headers = {"x-api-key": stack.api_key}
        self.places: list[tuple[str, int]] = []

    async def publish(self, channel: str, count: int) -> list[tuple[str, int]]:
        """Each until it is acknowledged."""
        made: list[tuple[str, int]] = []
        deadline = time.monotonic() + WITHIN_S
        async with httpx.AsyncClient(headers=self._headers, timeout=10) as http:
            while len(made) < count:
                url = self.stack.http_urls[len(made) % 2] + "/api/publish"
                body = {"channel": channel, "data": f"{time.monotonic()}", "idempotency_key": os.urandom(8).hex()}
                response = (await http.post(url, json=body)).json()
                if "result" in response:
                    made.append((response["result"]["epoch"], response["result"]["offset"]))
                else:
                    assert time.monotonic() < deadline, response
                    await asyncio.sleep(0.05)
        self.places += made
        return made

    def none_twice(self) -> None:
        assert len(set(self.places)) == len(self.places), f"given twice: {self.places}"


async def recovers(stack: Stack, channel: str, place: tuple[str, int]) -> dict[str, Any]:
    """What a client that comes back with this position is told."""
    epoch, offset = place
    async with WireClient(stack.ws_urls[1]) as client:
        await client.connect(stack.token("reader"))
        return await client.subscribe(channel, recover=True, epoch=epoch, offset=offset)


async def copied(stack: Stack) -> None:
    """A copy of Redis' file, made while it runs."""
    await asyncio.sleep(1.1)  # longer than Redis may put off writing it
    shutil.copytree(stack.data / "redis", stack.data / "copy")


async def back_from_copy(stack: Stack) -> None:
    await asyncio.to_thread(stack.kill9, "redis")
    shutil.rmtree(stack.data / "redis")
    shutil.copytree(stack.data / "copy", stack.data / "redis")
    await asyncio.to_thread(stack.start, "redis")


@pytest.mark.parametrize("edges", ["alive", "started anew"])
async def test_redis_from_a_copy_that_is_younger_than_the_kept_heartbeat(own_stack: Stack, edges: str) -> None:
    publisher = Publisher(own_stack)
    await publisher.publish(HOT, 10)
    await asyncio.to_thread(own_stack.kill9, "persistence")
    await copied(own_stack)
    *_, last = await publisher.publish(HOT, 5)
    if edges == "started anew":
        for name in ("edge-1", "edge-2"):
            await asyncio.to_thread(own_stack.kill9, name)
    await back_from_copy(own_stack)
    await asyncio.to_thread(own_stack.start, "persistence")
    for name in ("edge-1", "edge-2"):
        await asyncio.to_thread(own_stack.start, name)
    await publisher.publish(HOT, 5)
    publisher.none_twice()
    assert not (await recovers(own_stack, HOT, last)).get("recovered")


async def test_redis_killed_with_persistence_and_whole_the_epoch_stays(own_stack: Stack) -> None:
    publisher = Publisher(own_stack)
    (first, *_) = await publisher.publish(HOT, 10)
    await asyncio.sleep(2.5)
    for name in ("persistence", "redis"):
        await asyncio.to_thread(own_stack.kill9, name)
    await asyncio.sleep(2.0)
    for name in ("redis", "persistence", "edge-1", "edge-2"):
        await asyncio.to_thread(own_stack.start, name)
    assert await publisher.publish(HOT, 2) == [(first[0], 11), (first[0], 12)]
    assert (await recovers(own_stack, HOT, first))["recovered"]


async def test_redis_becomes_a_copy_while_it_runs(own_stack: Stack) -> None:
    publisher = Publisher(own_stack)
    await publisher.publish(HOT, 6)
    await publisher.publish(STORED, 6)
    copy = RedisServer()
    copy.start(whole=False)
    try:
        with redis.Redis.from_url(own_stack.redis_url) as ours, redis.Redis.from_url(copy.url) as other:
            for one in (ours, other):
                one.config_set("repl-diskless-sync-delay", 0)
            other.replicaof("127.0.0.1", str(own_stack.plan.ports["redis", "REDIS_PORT"]))
            await synced(other)
            other.replicaof("NO", "ONE")
            last = (await publisher.publish(HOT, 9))[-1], (await publisher.publish(STORED, 9))[-1]
            ours.replicaof("127.0.0.1", str(copy.port))
            await synced(ours)
            ours.replicaof("NO", "ONE")
        await publisher.publish(HOT, 9)
        await publisher.publish(STORED, 9)
    finally:
        copy.close()
    publisher.none_twice()
    assert not (await recovers(own_stack, HOT, last[0])).get("recovered")
    stored = await recovers(own_stack, STORED, last[1])
    assert stored["recovered"]
    assert [one["offset"] for one in stored["publications"]] == list(range(16, 25))


async def synced(client: redis.Redis) -> None:
    deadline = time.monotonic() + WITHIN_S
    while client.info("replication").get("master_link_status") != "up":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("redis_is", ["kept", "emptied"])
@pytest.mark.slow
async def test_the_store_is_restored_from_a_backup(own_stack: Stack, redis_is: str) -> None:
    """As docs/operations.md has it; with Redis kept it is noticed without the command."""
    publisher, store = Publisher(own_stack), own_stack.data / "persistence.sqlite3"
    await publisher.publish(STORED, 10)
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(own_stack.data / "backup")) as backup:
        source.backup(backup)
    *_, last = await publisher.publish(STORED, 5)
    await asyncio.sleep(2.5)
    await asyncio.to_thread(own_stack.terminate, "persistence")
    for suffix in ("-wal", "-shm"):
        store.with_name(store.name + suffix).unlink(missing_ok=True)
    shutil.copy(own_stack.data / "backup", store)
    if redis_is == "emptied":
        for name in ("edge-1", "edge-2", "redis"):
            await asyncio.to_thread(own_stack.kill9, name)
        shutil.rmtree(own_stack.data / "redis")
        (own_stack.data / "redis").mkdir()
        command = [sys.executable, "-m", "cli.main", "store", "restore", "--db", str(store)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=clean_environment())
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{store}  every channel has a new epoch\n"
    for name in ("redis", "persistence", "edge-1", "edge-2"):
        await asyncio.to_thread(own_stack.start, name)
    *_, newest = await publisher.publish(STORED, 7)
    publisher.none_twice()
    assert newest[1] == 17
    assert not (await recovers(own_stack, STORED, last)).get("recovered")
    assert (await recovers(own_stack, STORED, (newest[0], 12)))["recovered"]
