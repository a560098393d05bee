"""Metrics of the archive."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SEGMENTS = Counter("thalamus_archive_segments", "Segments that were archived.")
ROWS = Counter("thalamus_archive_rows", "Publications that were archived.")
FAILURES = Counter("thalamus_archive_failures", "What could not be done in the archive.", ["op"])
LOADS = Counter("thalamus_archive_loads", "Segments that were read for pages and not in memory.")
RUN_AT = Gauge(
    "thalamus_archive_run_timestamp_seconds",
    "Unix time at which this replica had archived all that is old enough, and nothing failed; 0: it has not yet.",
)
ON = Gauge("thalamus_archive_on", "1: there are namespaces whose publications are archived.")
