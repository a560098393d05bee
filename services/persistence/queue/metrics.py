"""Prometheus metrics of the queue."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.shared.process.metrics import SECONDS_BUCKETS

MESSAGES = Counter("thalamus_queue_messages", "Messages that a worker has received.", ["outcome"])
SENT = Counter("thalamus_queue_sent", "Messages sent to the queue.")
PAST = Counter("thalamus_queue_past", "Publications that persistence stored past the queue.", ["reason"])
WAITING = Gauge("thalamus_queue_waiting_messages", "Messages that wait for a worker, about.")
DEAD = Gauge("thalamus_queue_dead_messages", "Messages in the dead-letter queue, about.")
CALLS = Histogram("thalamus_queue_seconds", "Seconds of a call to the queue.", ["op"], buckets=SECONDS_BUCKETS)
