"""A server that says that it can't serve us ends the connection.

The next one may lead to another server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from redis import exceptions

from services.shared.errors import Unavailable
from services.shared.incarnation.gate import RunTracker
from services.shared.redis.pipeline import ROLE_S, RedisPipeline
from tests.support.faults import free_port
from tests.support.redis import RedisServer
from tests.support.replication import Pair


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with Pair() as made:
        yield made


async def test_after_a_demotion_the_next_command_goes_to_the_new_master(pair: Pair) -> None:
    pipeline = RedisPipeline(pair.url)
    assert await pipeline.execute([("SET", "t:x", 1)], timeout_s=2) == [b"OK"]
    await pair.fail_over()
    refused, pong = await pipeline.execute([("SET", "t:x", 2), ("PING",)], timeout_s=2)
    assert isinstance(refused, exceptions.ResponseError)
    assert str(refused).startswith("READONLY")
    assert pong == b"PONG", "what was under way is answered"
    assert await pipeline.execute([("SET", "t:x", 3)], timeout_s=2) == [b"OK"]
    await pipeline.aclose()
    assert await pair.clients_of_the_old() == 0


@pytest.mark.parametrize("command", [("EVAL", "return redis.call('SET', KEYS[1], 1)", 1, "t:x"), ("EXEC",)])
async def test_also_where_a_script_or_a_transaction_says_so(pair: Pair, command: tuple[str | int, ...]) -> None:
    pipeline = RedisPipeline(pair.url)
    commands = [command] if command[0] == "EVAL" else [("MULTI",), ("INCR", "t:x"), command]
    await pipeline.execute(commands, timeout_s=2)
    await pair.fail_over()
    assert isinstance((await pipeline.execute(commands, timeout_s=2))[-1], exceptions.RedisError)
    assert not isinstance((await pipeline.execute(commands, timeout_s=2))[-1], exceptions.RedisError)
    await pipeline.aclose()


async def test_who_only_reads_notices_too(pair: Pair) -> None:
    watch = RunTracker()
    pipeline = RedisPipeline(pair.url, gate=watch)
    await pipeline.execute([("GET", "t:x")], timeout_s=2)
    before = watch.run_id
    await pair.fail_over()
    async with asyncio.timeout(ROLE_S + 5):
        while watch.run_id == before:
            await pipeline.execute([("GET", "t:x")], timeout_s=2)
            await asyncio.sleep(0.05)
    await pipeline.aclose()


async def test_a_replica_is_never_connected_to_where_it_is_asked(pair: Pair) -> None:
    pipeline = RedisPipeline(pair.replica_url, gate=RunTracker())
    with pytest.raises(Unavailable, match="replica"):
        await pipeline.execute([("GET", "t:x")], timeout_s=2)
    await pipeline.aclose()


async def connection_id(pipeline: RedisPipeline) -> int:
    (found,) = await pipeline.execute([("CLIENT", "ID")], timeout_s=2)
    return int(found)


@pytest.mark.parametrize(
    ("options", "code"),
    [(("--min-replicas-to-write", "1"), "NOREPLICAS"), (("--cluster-enabled", "yes"), "CLUSTERDOWN")],
)
async def test_other_ways_of_saying_so(options: tuple[str, ...], code: str) -> None:
    server = RedisServer(*options, *(("--cluster-port", str(free_port())) if "--cluster-enabled" in options else ()))
    try:
        server.start(whole=False)
        pipeline = RedisPipeline(server.url)
        first = await connection_id(pipeline)
        assert await connection_id(pipeline) == first
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            (refused,) = await pipeline.execute([("SET", "t:x", 1)], timeout_s=2)
            assert str(refused).startswith(code)
        assert await connection_id(pipeline) > first
        assert asyncio.get_running_loop().time() - began > 0.15, "new connections are not made without a pause"
        await pipeline.aclose()
    finally:
        server.close()


async def test_a_replica_without_its_master(pair: Pair) -> None:
    async with redis.asyncio.Redis(port=pair.replica.port) as client:
        await client.config_set("replica-serve-stale-data", "no")
        pair.master.kill()
        pipeline = RedisPipeline(pair.replica_url)
        first = await connection_id(pipeline)
        async with asyncio.timeout(30):
            while not str((await pipeline.execute([("GET", "t:x")], timeout_s=2))[0]).startswith("MASTERDOWN"):
                await asyncio.sleep(0.05)
        assert await connection_id(pipeline) > first
        await pipeline.aclose()


async def test_an_ordinary_refusal_ends_nothing(redis_pipeline: RedisPipeline) -> None:
    first = await connection_id(redis_pipeline)
    (refused,) = await redis_pipeline.execute([("INCR", "t:x", "y")], timeout_s=2)
    assert isinstance(refused, exceptions.ResponseError)
    assert await connection_id(redis_pipeline) == first
