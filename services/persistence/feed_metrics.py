"""Prometheus metrics of the feed: what is kept, and what groups have not read.

They are asked for in the background, so that no scrape waits for Redis.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import redis.asyncio
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import exceptions

from services.shared.errors import CONNECTION_LOST
from services.shared.hotlog import keys

logger = logging.getLogger(__name__)

EVERY_S = 10.0  # seconds between queries
TIMEOUT_S = 2.0  # longest wait for a reply, seconds
MOST_GROUPS = 100  # groups with metrics; the first ones by name


class FeedMetrics(Collector):
    """Collector of the last replies; without any there are no metrics."""

    def __init__(self, client: redis.asyncio.Redis, max_entries: int) -> None:
        """Take the connection; asks nothing yet.

        Args:
            client: Must pass no gate: the metrics are about Redis in any incarnation.
            max_entries: Entries that a stream of the feed keeps.
        """
        self._client, self._max_entries = client, max_entries
        self._entries: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._behind: dict[str, float] = {}

    async def run(self) -> None:
        """Query Redis every 10 s until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(EVERY_S)

    async def ask(self) -> None:
        """Query Redis once, for at most 2 s for each of two round trips."""
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                await self._ask()
        except (exceptions.RedisError, *CONNECTION_LOST) as error:
            if self._entries:
                logger.warning("Redis does not say what the feed keeps", extra={"error": str(error)})
            self._entries, self._waiting, self._behind = {}, {}, {}

    async def _ask(self) -> None:
        streams = {
            "publications": [keys.commits(shard) for shard in range(keys.FEED_SHARDS)],
            "lifecycle": [keys.lifecycle(shard) for shard in range(keys.FEED_SHARDS)],
        }
        asked = [name for names in streams.values() for name in names]
        async with self._client.pipeline(transaction=False) as pipeline:
            for name in asked:
                pipeline.xinfo_stream(name)
            for names in streams.values():
                pipeline.xinfo_groups(names[0])  # a group reads all streams of a kind
            said: list[Any] = await pipeline.execute(raise_on_error=False)
        found = {name: one for name, one in zip(asked, said, strict=False) if isinstance(one, dict)}
        self._entries = {
            kind: sum(found[name]["length"] for name in names if name in found) for kind, names in streams.items()
        }
        groups = sorted(
            {one["name"].decode() for each in said[len(asked) :] if isinstance(each, list) for one in each}
        )[:MOST_GROUPS]
        async with self._client.pipeline(transaction=False) as pipeline:
            for group in groups:
                pipeline.hgetall(keys.feed_group(group))
            records: list[Any] = await pipeline.execute() if groups else []
        unread = {
            group: [
                max(0, found[name]["entries-added"] - int(record[name.encode()]))
                for name in found
                if name.encode() in record
            ]
            for group, record in zip(groups, records, strict=True)
        }
        self._waiting = {group: sum(counts) for group, counts in unread.items()}
        self._behind = {group: max(counts, default=0) / self._max_entries for group, counts in unread.items()}

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of one scrape."""
        entries = GaugeMetricFamily("thalamus_feed_entries", "Events that the feed keeps.", labels=["kind"])
        for kind, count in self._entries.items():
            entries.add_metric([kind], count)
        yield entries
        waiting = GaugeMetricFamily("thalamus_feed_waiting", "Events that a group has not read.", labels=["group"])
        for group, count in self._waiting.items():
            waiting.add_metric([group], count)
        yield waiting
        behind = GaugeMetricFamily(
            "thalamus_feed_behind_ratio",
            "Events of one stream that a group has not read, of those that a stream keeps: over 1 it is told a gap.",
            labels=["group"],
        )
        for group, ratio in self._behind.items():
            behind.add_metric([group], ratio)
        yield behind
