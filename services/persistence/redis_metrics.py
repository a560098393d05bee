"""Prometheus metrics about the Redis server, from its INFO.

They are asked for in the background, so that no scrape waits for Redis.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import redis.asyncio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import exceptions

from services.shared.errors import CONNECTION_LOST

logger = logging.getLogger(__name__)

EVERY_S = 5.0  # seconds between queries
TIMEOUT_S = 2.0  # longest wait for a reply, seconds
_SECTIONS = ("server", "clients", "memory", "persistence", "stats", "replication", "keyspace")
# Field of INFO → name and help.
_GAUGES = {
    "uptime_in_seconds": ("uptime_seconds", "Seconds since it was started."),
    "connected_clients": ("connected_clients", "Connections of clients."),
    "blocked_clients": ("blocked_clients", "Clients that wait in a blocking command."),
    "used_memory": ("used_memory_bytes", "Bytes that it has allocated."),
    "used_memory_rss": ("resident_memory_bytes", "Bytes that the system has given it."),
    "maxmemory": ("maxmemory_bytes", "Bytes beyond which it refuses writes; 0: no limit."),
    "instantaneous_ops_per_sec": ("commands_per_second", "Commands per second, by its own count."),
    "pubsub_channels": ("pubsub_channels", "Pub/sub channels that have a subscriber."),
    "aof_enabled": ("aof_enabled", "Whether it keeps an append-only file."),
    "aof_rewrite_in_progress": ("aof_rewrite_in_progress", "Whether that file is being rewritten."),
    "loading": ("loading", "Whether it is still reading its data."),
}
_OK = {
    "aof_last_write_status": ("aof_last_write_ok", "Whether the last write to the append-only file succeeded."),
    "aof_last_bgrewrite_status": ("aof_last_rewrite_ok", "Whether the last rewrite of that file succeeded."),
    "rdb_last_bgsave_status": ("rdb_last_save_ok", "Whether the last snapshot succeeded."),
}
_COUNTERS = {
    "evicted_keys": ("evicted_keys", "Keys that it evicted because its memory was full."),
    "expired_keys": ("expired_keys", "Keys whose time was over."),
    "total_commands_processed": ("commands", "Commands that it ran."),
    "rejected_connections": ("rejected_connections", "Connections refused for being too many."),
}


class RedisMetrics(Collector):
    """Collector of the last reply to INFO.

    If Redis did not answer, `thalamus_redis_up` is 0 and the other metrics are missing.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        """`client` must pass no gate: the metrics are about Redis in any incarnation."""
        self._client = client
        self._said: Mapping[str, Any] | None = None

    async def run(self) -> None:
        """Query Redis every 5 s until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(EVERY_S)

    async def ask(self) -> None:
        """Query Redis once, for at most 2 s; leave a server that is a replica."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._said = await self._client.info(*_SECTIONS)
                if self._said.get("role") == "slave":  # a demoted master: the next connection may lead to the new one
                    await self._client.connection_pool.disconnect()
        except (exceptions.RedisError, *CONNECTION_LOST) as error:
            if self._said is not None:
                logger.warning("Redis does not say how it is", extra={"error": str(error)})
            self._said = None

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of one scrape."""
        said = self._said
        yield GaugeMetricFamily("thalamus_redis_up", "Whether Redis answered last.", value=float(said is not None))
        if said is None:
            return
        for field, (name, text) in _GAUGES.items():
            if field in said:
                yield GaugeMetricFamily(f"thalamus_redis_{name}", text, value=float(said[field]))
        for field, (name, text) in _OK.items():
            if field in said:
                yield GaugeMetricFamily(f"thalamus_redis_{name}", text, value=float(said[field] == "ok"))
        for field, (name, text) in _COUNTERS.items():
            if field in said:
                yield CounterMetricFamily(f"thalamus_redis_{name}", text, value=float(said[field]))
        yield _labelled("keys", "Keys by database.", "db", _keys(said))
        yield _labelled("role", "1 for what this server is.", "role", {str(said.get("role", "unknown")): 1.0})


def _keys(said: Mapping[str, Any]) -> dict[str, float]:
    """Number of keys by database; INFO lists only databases that are not empty."""
    found = {name: float(of["keys"]) for name, of in said.items() if name.startswith("db") and isinstance(of, dict)}
    return found or {"db0": 0.0}


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"thalamus_redis_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
