"""The Redis client against a real server, and against servers of no use."""

from __future__ import annotations

import logging
import time

import pytest
import redis.asyncio
from redis import exceptions

from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from services.shared.redis.client import _server_info, check_server, redis_client
from tests.support.lateness import Lateness
from tests.support.redis import RedisServer


async def test_answers_are_bytes(redis_conn: redis.asyncio.Redis) -> None:
    await redis_conn.set("t:x", b"\xff")
    assert await redis_conn.get("t:x") == b"\xff"


async def test_a_stopped_server_fails_a_call_within_three_seconds(own_redis: RedisServer) -> None:
    client = redis_client(own_redis.url)
    await client.ping()
    own_redis.pause()
    async with Lateness() as late:
        began = time.monotonic()
        with pytest.raises(exceptions.TimeoutError):
            await client.ping()
        assert time.monotonic() - began > 2.0
    assert late.took_s < 3.0
    own_redis.resume()
    await client.aclose()


async def test_a_command_whose_outcome_is_unknown_is_not_repeated(own_redis: RedisServer) -> None:
    client = redis_client(own_redis.url, socket_timeout=0.3)
    await client.ping()
    own_redis.pause()
    with pytest.raises(exceptions.TimeoutError):
        await client.incr("t:counter")
    own_redis.resume()
    await client.ping()  # in the order of arrival: the other command is done
    assert await client.get("t:counter") == b"1"
    await client.aclose()


async def test_a_server_says_what_it_is_and_another_start_is_another_run(own_redis: RedisServer) -> None:
    client = redis_client(own_redis.url)
    first = await check_server(client)
    assert first.name in ("redis", "valkey")
    assert first.version
    assert first.maxmemory_policy == "noeviction"
    own_redis.kill()
    with pytest.raises(Unavailable):
        await check_server(client)
    own_redis.start()
    second = await check_server(client)
    assert second.run_id != first.run_id
    await client.aclose()


async def test_a_server_that_may_evict_is_warned_of(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    client = redis_client(own_redis.url)
    await client.config_set("maxmemory-policy", "allkeys-lru")
    with caplog.at_level(logging.WARNING):
        await check_server(client)
    assert "noeviction" in caplog.text
    await client.aclose()


async def test_a_wrong_password_is_a_wrong_setting(own_redis: RedisServer) -> None:
    admin = redis_client(own_redis.url)
    await admin.config_set("requirepass", "right")
    wrong = redis_client(own_redis.url.replace("redis://", "redis://:wrong@"))
    with pytest.raises(ConfigError, match="REDIS_URL: refused"):
        await check_server(wrong)
    await admin.aclose()
    await wrong.aclose()


@pytest.mark.parametrize("version", ["6.2.14", "5.0", "", "rolling"])
def test_an_older_server_is_refused_by_name(version: str) -> None:
    with pytest.raises(ConfigError, match=f"Redis 7.0 or later.*redis {version or '[?]'}"):
        _server_info({"redis_version": version})


def test_valkey_counts_by_the_redis_version_it_is_compatible_with() -> None:
    info = _server_info({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"})
    assert (info.name, info.version) == ("valkey", "9.1.2")


def test_an_address_that_is_none_names_its_variable() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL"):
        redis_client("http://127.0.0.1")
