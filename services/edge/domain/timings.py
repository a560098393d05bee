"""Histograms of publications: time until acknowledged, and until fanned out."""

from __future__ import annotations

from services.shared.namespaces import Durability
from services.shared.process.metrics import SECONDS_BUCKETS, QuickHistogram

ACK_SECONDS = QuickHistogram(
    "thalamus_edge_ack_seconds",
    "Seconds from the check of a publication until its log holds it.",
    SECONDS_BUCKETS,
).by("durability", [each.value for each in Durability])
DELIVERY_SECONDS = QuickHistogram(
    "thalamus_edge_delivery_seconds",
    "Seconds from the time of a publication (its log numbered it) until it is fanned out here, by the clock of Redis.",
    (*SECONDS_BUCKETS, 5.0, 15.0, 60.0),  # a publication that pub/sub lost without an error is repaired within 15 s
).unlabelled()
