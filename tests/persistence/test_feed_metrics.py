"""What persistence says about the feed in its metrics."""

from __future__ import annotations

import redis.asyncio

from services.persistence.feed_metrics import FeedMetrics
from services.shared.feed.events import EventType
from services.shared.feed.reader import FeedReader
from services.shared.hotlog import keys
from tests.support.feed import tell_publications


def values(metrics: FeedMetrics) -> dict[tuple[str, str], float]:
    return {
        (family.name, next(iter(sample.labels.values()))): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


async def test_entries_and_what_each_group_has_not_read(redis_url: str, redis_conn: redis.asyncio.Redis) -> None:
    metrics = FeedMetrics(redis_conn, 100)
    assert values(metrics) == {}
    await tell_publications(redis_conn, "chat:1", 1, 2)
    await redis_conn.xadd(keys.lifecycle(3), {"k": "vacated", "n": 1, "c": "chat:1", "m": ""})
    every = FeedReader(redis_url, "every", from_start=True)
    published = FeedReader(redis_url, "published", types=[EventType.PUBLICATION])
    await published.next(wait_s=0)
    await every.next(1, wait_s=0)
    await metrics.ask()
    assert values(metrics) == {
        ("thalamus_feed_entries", "publications"): 2,
        ("thalamus_feed_entries", "lifecycle"): 1,
        ("thalamus_feed_waiting", "every"): 2,
        ("thalamus_feed_waiting", "published"): 0,
        ("thalamus_feed_behind_ratio", "every"): 0.01,  # one of each of two streams, which may keep 100
        ("thalamus_feed_behind_ratio", "published"): 0.0,
    }
    await tell_publications(redis_conn, "chat:2", 1)
    await every.next(wait_s=0)
    await metrics.ask()
    assert values(metrics)["thalamus_feed_waiting", "every"] == 0
    assert values(metrics)["thalamus_feed_waiting", "published"] == 1
    await tell_publications(redis_conn, "chat:2", *range(2, 60))
    await metrics.ask()
    assert values(metrics)["thalamus_feed_behind_ratio", "published"] == 0.59
    assert values(metrics)["thalamus_feed_behind_ratio", "every"] == 0.58
    await every.close()
    await published.close()


async def test_without_redis_there_are_no_metrics() -> None:
    client = redis.asyncio.Redis(port=1)
    metrics = FeedMetrics(client, 100)
    await metrics.ask()
    assert values(metrics) == {}
    await client.aclose()
