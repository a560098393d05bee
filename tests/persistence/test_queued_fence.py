"""What was acknowledged before it was stored is missed where Redis goes back."""

from __future__ import annotations

from pathlib import Path

from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.persistence.test_store_restored import persistence
from tests.support.redis import RedisServer
from tests.support.waiting import until


async def test_persistence_that_has_seen_more_writes_begins_a_generation(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    plain = RedisPipeline(own_redis.url)
    async with persistence(own_redis.url, tmp_path / "store.sqlite3") as one:
        first = one.gate.incarnation
        assert first is not None
        one.gate.saw_writes("another.1", 100)  # of an incarnation that is over
        assert one.gate.known.writes < 100
        await plain.execute([("HSET", keys.observed(), "writes", 7)], timeout_s=2.0)
        one.gate.saw_writes(first.token, 7)
        await plain.execute([("HSET", keys.observed(), "writes", 6)], timeout_s=2.0)
        one.gate.saw_writes(first.token, 0)  # looks now
        await until(lambda: one.gate.generation == first.generation + 1)
    await plain.aclose()
