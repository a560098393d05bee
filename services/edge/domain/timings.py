"""What is measured of every publication: how long until it is kept, and until it is fanned out."""

from __future__ import annotations

from prometheus_client import Histogram

from services.shared.metrics import SECONDS_BUCKETS

ACK_SECONDS = Histogram(
    "thalamus_edge_ack_seconds",
    "Seconds from the check of a publication until its log holds it.",
    ["durability"],
    buckets=SECONDS_BUCKETS,
)
DELIVERY_SECONDS = Histogram(
    "thalamus_edge_delivery_seconds",
    "Seconds from the publishing of what is fanned out here, by the clock of Redis.",
    buckets=(*SECONDS_BUCKETS, 5.0, 15.0, 60.0),  # what is lost without an error is repaired within 15 s
)
