"""Prometheus metrics of presence."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from services.shared.process.metrics import BATCH_BUCKETS, SECONDS_BUCKETS

BATCH_ITEMS = Histogram("thalamus_presence_batch_items", "Changes of a batch.", buckets=BATCH_BUCKETS)
JOINS = Counter("thalamus_presence_joins", "Members that joined channels.")
LEAVES = Counter("thalamus_presence_leaves", "Members that left channels, by how.", ["how"])
LEASES_LOST = Counter("thalamus_presence_leases_lost", "Batches refused because the edge's lease had run out.")
REDIS_SECONDS = Histogram(
    "thalamus_presence_redis_seconds", "Seconds of a round trip to Redis.", ["op"], buckets=SECONDS_BUCKETS
)
