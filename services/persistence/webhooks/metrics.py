"""Prometheus metrics of the webhook dispatcher."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("thalamus_webhooks_requests", "Requests to an endpoint, by how they ended.", ["endpoint", "outcome"])
SECONDS = Histogram(
    "thalamus_webhooks_seconds",
    "Seconds until an endpoint answered, or the request failed.",
    ["endpoint"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
EVENTS = Counter("thalamus_webhooks_events", "Events that an endpoint took.", ["endpoint"])
WAITING = Gauge(
    "thalamus_webhooks_waiting", "Batches that an endpoint has not taken yet, of all replicas.", ["endpoint"]
)
LAG = Gauge("thalamus_webhooks_lag_seconds", "Age of the newest event that was read for an endpoint.", ["endpoint"])
DEAD = Gauge("thalamus_webhooks_dead_letters", "Batches that were given up and are kept.", ["endpoint"])
DIED = Counter("thalamus_webhooks_given_up", "Batches that were given up.", ["endpoint"])
DROPPED = Counter("thalamus_webhooks_dropped", "Dead letters that were dropped to make room.", ["endpoint"])
