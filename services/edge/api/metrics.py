"""Prometheus metrics of the HTTP API."""

from __future__ import annotations

from prometheus_client import Histogram

API_SECONDS = Histogram(
    "thalamus_edge_api_seconds",
    "Time to answer a call of the server API.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
