"""What persistence exports of Redis.

The server's own numbers, and no more than `up` 0 while it is away.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry

from services.persistence.redis_metrics import TIMEOUT_S, RedisMetrics
from services.shared.redis.client import redis_client
from tests.support.lateness import Lateness
from tests.support.redis import RedisServer

WATCHED = {  # what deploy/prometheus and deploy/grafana stand on
    "thalamus_redis_up",
    "thalamus_redis_uptime_seconds",
    "thalamus_redis_used_memory_bytes",
    "thalamus_redis_maxmemory_bytes",
    "thalamus_redis_connected_clients",
    "thalamus_redis_evicted_keys_total",
    "thalamus_redis_aof_last_write_ok",
}


def samples(metrics: RedisMetrics) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    return {
        "/".join((sample.name, *sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


async def test_the_numbers_are_those_of_the_server(own_redis: RedisServer) -> None:
    client = redis_client(own_redis.url, max_connections=1)
    other = redis_client(own_redis.url)
    metrics = RedisMetrics(client)
    assert samples(metrics) == {"thalamus_redis_up": 0.0}
    await other.config_set("maxmemory", "200mb")
    await other.mset({"t:a": 1, "t:b": 2})
    await other.set("t:c", 1, px=1)
    received = other.pubsub()
    await received.subscribe("t:control")
    await received.get_message(timeout=60)
    await asyncio.sleep(0.01)  # until the key is over by the server's clock
    assert await other.get("t:c") is None
    await metrics.ask()
    found = samples(metrics)
    assert found.keys() >= WATCHED
    assert found["thalamus_redis_up"] == 1
    assert found["thalamus_redis_maxmemory_bytes"] == 200 << 20
    assert found["thalamus_redis_used_memory_bytes"] > 100_000
    assert found["thalamus_redis_connected_clients"] == 3
    assert found["thalamus_redis_pubsub_channels"] == 1
    assert found["thalamus_redis_keys/db0"] == 3  # the two, and the incarnation that the fixture began
    assert found["thalamus_redis_expired_keys_total"] == 1
    assert found["thalamus_redis_evicted_keys_total"] == 0
    assert found["thalamus_redis_commands_total"] >= 4
    assert found["thalamus_redis_role/master"] == 1
    assert (found["thalamus_redis_aof_enabled"], found["thalamus_redis_aof_last_write_ok"]) == (1, 1)
    assert found["thalamus_redis_rdb_last_save_ok"] == 1
    assert found["thalamus_redis_aof_rewrite_in_progress"] == 0
    await other.set("t:d", 1)
    assert samples(metrics) == found, "a scrape asks nothing of Redis"
    await received.aclose()  # type: ignore[no-untyped-call]
    await other.aclose()
    await client.aclose()


async def test_a_redis_that_is_away_is_0_is_told_once_and_comes_back(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis_client(own_redis.url, max_connections=1)
    metrics = RedisMetrics(client)
    await metrics.ask()
    own_redis.kill()
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            await metrics.ask()
            assert samples(metrics) == {"thalamus_redis_up": 0.0}
    (said,) = [record for record in caplog.records if record.name.startswith("services")]
    assert said.levelno == logging.WARNING
    assert said.exc_info is None
    own_redis.start()
    await metrics.ask()
    assert samples(metrics)["thalamus_redis_up"] == 1
    await client.aclose()


async def test_a_redis_that_hangs_is_away_within_the_deadline(own_redis: RedisServer) -> None:
    client = redis_client(own_redis.url, max_connections=1)
    metrics = RedisMetrics(client)
    await metrics.ask()
    own_redis.pause()
    async with Lateness() as late:
        await metrics.ask()
    assert late.took_s < TIMEOUT_S + 0.5
    assert samples(metrics) == {"thalamus_redis_up": 0.0}
    own_redis.resume()
    await metrics.ask()
    assert samples(metrics)["thalamus_redis_up"] == 1
    await client.aclose()


async def test_a_redis_that_refuses_to_say_is_away(own_redis: RedisServer) -> None:
    admin = redis_client(own_redis.url)
    await admin.acl_setuser("mute", enabled=True, nopass=True, commands=["+ping"])
    client = redis_client(own_redis.url.replace("redis://", "redis://mute:x@"), max_connections=1)
    metrics = RedisMetrics(client)
    await metrics.ask()
    assert samples(metrics) == {"thalamus_redis_up": 0.0}
    await client.aclose()
    await admin.aclose()
