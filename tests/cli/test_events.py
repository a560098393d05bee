"""`thalamus events` as processes, on a real Redis."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from services.shared.hotlog import keys
from tests.support.feed import tell_publications
from tests.support.redis import RedisServer
from tests.support.stack import clean_environment


class Consumer:
    """One process and the lines that it printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, url: str, *options: str) -> Consumer:
        command = (sys.executable, "-m", "cli.main", "events", *options)
        environment = clean_environment() | {"REDIS_URL": url, "PYTHONPATH": os.getcwd()}
        piped = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdout=piped, stderr=piped, env=environment))

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            line = await self.process.stdout.readline()
        assert line, await self.said()
        found: dict[str, Any] = json.loads(line)
        return found

    async def numbers(self, count: int) -> list[int]:
        return [(await self.line())["number"] for _ in range(count)]

    async def said(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def end(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        """Return the exit code; without a signal it ends by itself."""
        if self.process.returncode is None and number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@pytest.fixture
async def consumers() -> AsyncIterator[list[Consumer]]:
    started: list[Consumer] = []
    yield started
    for one in started:
        await one.end(signal.SIGKILL)


async def test_lines_are_events_and_each_is_acknowledged_once_written(
    redis_url: str, redis_conn: redis.asyncio.Redis, consumers: list[Consumer]
) -> None:
    consumers.append(one := await Consumer.start(redis_url, "--group", "g"))
    assert (await one.line())["reason"] == "new"
    await tell_publications(redis_conn, "chat:1", 1, 2)
    assert await one.numbers(2) == [1, 2]
    assert await one.end() == 0
    await tell_publications(redis_conn, "chat:1", 3)
    consumers.append(other := await Consumer.start(redis_url, "--group", "g", "--claim-after", "0.1"))
    assert await other.numbers(1) == [3]


async def test_a_process_that_is_killed_leaves_its_events_to_another_one(
    redis_url: str, redis_conn: redis.asyncio.Redis, consumers: list[Consumer]
) -> None:
    await tell_publications(redis_conn, "chat:1", *range(1, 101), author="a" * 900)  # more than a pipe holds
    dead = await Consumer.start(redis_url, "--group", "g", "--from", "start")
    consumers.append(dead)
    await dead.line()
    assert await dead.numbers(1) == [1]  # it waits for room in the pipe now
    await dead.end(signal.SIGKILL)
    options = ("--group", "g", "--claim-after", "0.2")
    started = [await Consumer.start(redis_url, *options) for _ in range(2)]
    consumers.extend(started)
    found: list[int] = []

    async def read(one: Consumer) -> None:
        while True:
            found.append((await one.line()).get("number", 0))

    reading = [asyncio.create_task(read(one)) for one in started]
    async with asyncio.timeout(20):
        while not set(range(101)) <= set(found):  # 0: the gap was not acknowledged either
            await asyncio.sleep(0.05)
    for task in reading:
        task.cancel()


async def test_types_and_groups(redis_url: str, redis_conn: redis.asyncio.Redis, consumers: list[Consumer]) -> None:
    await tell_publications(redis_conn, "chat:1", 1)
    await redis_conn.xadd(keys.lifecycle(0), {"k": "vacated", "n": 7, "c": "chat:1", "m": ""})
    for group, types, expected in (("a", "vacated, gap", 7), ("b", "publication", 1)):
        consumers.append(one := await Consumer.start(redis_url, "--group", group, "--types", types, "--from", "start"))
        assert (await one.line())["type"] == "gap"
        assert (await one.line())["number"] == expected


async def test_a_redis_that_was_away_is_waited_for(own_redis: RedisServer, consumers: list[Consumer]) -> None:
    consumers.append(one := await Consumer.start(own_redis.url, "--group", "g"))
    await one.line()
    async with redis.asyncio.Redis(port=own_redis.port) as client:
        await tell_publications(client, "chat:1", 1)
        assert await one.numbers(1) == [1]
        await client.execute_command("WAITAOF", 1, 0, 2_000)  # type: ignore[no-untyped-call]
    own_redis.kill()
    own_redis.start()
    async with redis.asyncio.Redis(port=own_redis.port) as client:
        await tell_publications(client, "chat:1", 2)
    while (await one.line()).get("number") != 2:  # the first may come again
        pass


async def test_a_group_can_be_forgotten(
    redis_url: str, redis_conn: redis.asyncio.Redis, consumers: list[Consumer]
) -> None:
    consumers.append(one := await Consumer.start(redis_url, "--group", "g"))
    await one.line()
    await one.end()
    consumers.append(forgetting := await Consumer.start(redis_url, "--group", "g", "--forget"))
    assert await forgetting.end(None) == 0
    assert not await redis_conn.keys("t:events:g*")
    assert not await redis_conn.xinfo_groups(keys.commits(0))


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (("--group", "a b"), "--group: a group is", 2),
        (("--group", "g", "--types", "joins"), "'joins' is not a valid EventType; known: publication, connect", 2),
        ((), "Missing option '--group'", 2),
    ],
)
async def test_what_is_wrong_is_said(
    redis_url: str, consumers: list[Consumer], options: tuple[str, ...], said: str, code: int
) -> None:
    consumers.append(one := await Consumer.start(redis_url, *options))
    assert said in await one.said()
    assert await one.end(None) == code


async def test_nobody_answers(consumers: list[Consumer]) -> None:
    consumers.append(one := await Consumer.start("redis://127.0.0.1:1/0", "--group", "g"))
    assert "Redis does not answer" in await one.said()
    assert await one.end(None) == 3
