"""Prometheus metrics of persistence."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.shared.process.metrics import SECONDS_BUCKETS, RenamedCounter

BATCHES = Counter("thalamus_persistence_batches", "Batches of publications.")
BATCH_ITEMS = Histogram(
    "thalamus_persistence_batch_items",
    "Publications of a batch.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
WAITING = Gauge("thalamus_persistence_waiting", "Publications that wait for a batch.")
STORED = Counter("thalamus_persistence_stored", "Publications written to the store.")
UNSTORED = Counter("thalamus_persistence_unstored", "Publications that were answered with a failure.", ["reason"])
UNSTORED_BUSY, UNSTORED_UNAVAILABLE = UNSTORED.labels("busy"), UNSTORED.labels("unavailable")
COMMITS = Counter("thalamus_persistence_store_commits", "Transactions that wrote publications.")
STORE_SECONDS = Histogram(
    "thalamus_persistence_store_seconds", "Seconds of a call to the store.", ["op"], buckets=SECONDS_BUCKETS
)
REDIS_SECONDS = Histogram(
    "thalamus_persistence_redis_seconds", "Seconds of a round trip to Redis.", ["op"], buckets=SECONDS_BUCKETS
)
QUEUED = Counter("thalamus_persistence_queued", "Publications acknowledged before they were stored.")
DRAINED = Counter("thalamus_persistence_drained", "Publications stored after they were acknowledged.")
DRAIN_FAILURES = Counter("thalamus_persistence_drain_failures", "Attempts to store such publications that failed.")
DRAIN_OLDEST = Gauge(
    "thalamus_persistence_drain_oldest_seconds",
    "Seconds since which a channel has such publications that are not stored; 0: none has.",
)
LOST = Counter(
    "thalamus_persistence_lost",
    "Channels that got another epoch since Redis may have lost publications that were not stored.",
)
RESCUED = Counter(
    "thalamus_persistence_rescued", "Acknowledged publications that were stored in another epoch than they were given."
)
UNRESCUED = Counter(
    "thalamus_persistence_unrescued",
    "Acknowledged events of conversations that were not, as they may name others by offsets that have changed.",
)
CONFLICTS = Counter("thalamus_persistence_conflicts", "Channels whose sequencer was behind the store.")
INCARNATIONS = RenamedCounter(
    "thalamus_persistence_redis_incarnations",
    "Incarnations of Redis that this replica has used, the first one included.",
    old_name="thalamus_persistence_redis_lives",
)
RETENTION_CHANNELS = Counter("thalamus_persistence_retention_channels", "Channels that retention has looked at.")
RETENTION_FAILED = Counter("thalamus_persistence_retention_failed", "Channels that it could not look at.")
RETENTION_REMOVED = Counter("thalamus_persistence_retention_removed", "Publications that retention has removed.")
RETENTION_DOUBTS = Counter(
    "thalamus_persistence_retention_doubts", "Times that retention removed nothing since clocks differed or jumped."
)
RETENTION_SWEPT = Gauge(
    "thalamus_persistence_retention_swept_timestamp_seconds",
    "Unix time at which this replica had looked at all channels; 0: it has not yet.",
)
SWEPT = Counter("thalamus_persistence_swept", "Channels that a sweep had to finish.")
ERASED = Counter("thalamus_persistence_erased", "Publications that were replaced because they were deleted.")
REBUILT = Counter("thalamus_persistence_rebuilt_entries", "Entries of logs in Redis written again to erase others.")
ERASURE_OLDEST = Gauge(
    "thalamus_erasure_oldest_seconds",
    "Age of the oldest erasure that has not reached a place yet, seconds; 0: there is none.",
    ["target"],
)
