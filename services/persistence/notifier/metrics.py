"""Prometheus metrics of the notifier."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("thalamus_notifier_requests", "Requests to a way out, by how they ended.", ["way", "outcome"])
SECONDS = Histogram(
    "thalamus_notifier_seconds",
    "Seconds until a way out answered, or the request failed.",
    ["way"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
SENT = Counter(
    "thalamus_notifier_sent", "Notifications that a way out took, and that were taken back.", ["way", "kind"]
)
UNWANTED = Counter(
    "thalamus_notifier_unwanted", "Notifications that were not wanted any more when they were due.", ["way"]
)
WAITING = Gauge("thalamus_notifier_waiting", "Notifications that wait to be sent, of all replicas.", ["way"])
DEAD = Gauge("thalamus_notifier_dead_letters", "Notifications that were given up and are kept.", ["way"])
DIED = Counter("thalamus_notifier_given_up", "Notifications that were given up.", ["way"])
DROPPED = Counter("thalamus_notifier_dropped", "Dead letters that were dropped to make room.", ["way"])
GONE = Counter("thalamus_notifier_devices_removed", "Devices that their service does not know any more.", ["way"])
DECIDED = Counter("thalamus_notifier_decisions", "Users with something unread, by what was decided.", ["decision"])
DUE = Gauge("thalamus_notifier_conversations_due", "Conversations with new events, of all replicas.")
LATE = Gauge("thalamus_notifier_late_seconds", "How long the conversation looked at last was due.")
for _decision in ("told", "present", "shown", "no_way"):
    DECIDED.labels(_decision)
