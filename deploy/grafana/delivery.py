"""From publish to subscriber: how quick, how much, what waits, what was repaired."""

from __future__ import annotations

from deploy.grafana.board import board
from deploy.grafana.panels import EDGE, Row, lines, median, p99

DELIVERY = board(
    "thalamus-delivery",
    "Thalamus: delivery",
    (
        Row(
            "Latency",
            (
                lines(
                    "Acknowledged within",
                    "s",
                    ("durability:ack_seconds:p50", "{{durability}} p50"),
                    ("durability:ack_seconds:p99", "{{durability}} p99"),
                    help="From the check of a publish to the answer of its log; waiting for one's turn is not in it.",
                ),
                lines(
                    "Delivered within",
                    "s",
                    ("thalamus:delivery_seconds:p50", "p50"),
                    ("thalamus:delivery_seconds:p99", "p99"),
                    help="From publish to fan-out at every edge with subscribers, by the clock of Redis.",
                ),
                lines(
                    "Server API publishes within (p99)",
                    "s",
                    (
                        p99("thalamus_edge_api_seconds", "method", where=f'{EDGE}, method=~"publish|broadcast|batch"'),
                        "{{method}}",
                    ),
                ),
            ),
        ),
        Row(
            "Volume",
            (
                lines(
                    "Publications accepted",
                    "pubps",
                    (f"rate(thalamus_edge_published_total{{{EDGE}}}RATE)", "{{instance}}"),
                ),
                lines(
                    "Deliveries of each edge",
                    "delps",
                    (f"rate(thalamus_edge_deliveries_total{{{EDGE}}}RATE)", "{{instance}}"),
                ),
                lines(
                    "Publications that Redis brought",
                    "pubps",
                    (f"rate(thalamus_edge_publications_received_total{{{EDGE}}}RATE)", "{{instance}}"),
                ),
                lines(
                    "Bytes to clients", "Bps", (f"rate(thalamus_edge_sent_bytes_total{{{EDGE}}}RATE)", "{{instance}}")
                ),
                lines(
                    "Bytes from clients",
                    "Bps",
                    (f"rate(thalamus_edge_received_bytes_total{{{EDGE}}}RATE)", "{{instance}}"),
                ),
                lines(
                    "Frames in one write",
                    "short",
                    (
                        f"rate(thalamus_edge_frames_sent_total{{{EDGE}}}RATE)"
                        f" / rate(thalamus_edge_writes_total{{{EDGE}}}RATE)",
                        "{{instance}}",
                    ),
                    help="More under load: what piles up goes together.",
                ),
            ),
        ),
        Row(
            "Queues",
            (
                lines(
                    "Publications that wait for their logs",
                    "short",
                    (f"thalamus_edge_publishes_pending{{{EDGE}}}", "{{instance}}: {{log}}"),
                    help="Those behind others of their client included.",
                ),
                lines(
                    "Publications that wait: for how long",
                    "s",
                    (f"thalamus_edge_publish_wait_seconds{{{EDGE}}}", "{{instance}}: {{log}}"),
                    help="On average, until their log holds them, behind others of their client included.",
                ),
                lines("Publications that wait to be stored", "short", ("thalamus_persistence_waiting", "{{instance}}")),
                lines(
                    "Bytes that wait for slow clients",
                    "bytes",
                    (f"thalamus_edge_outbox_bytes{{{EDGE}}}", "{{instance}}"),
                ),
                lines(
                    "Publications refused because of overload",
                    "pubps",
                    (
                        f"rate(thalamus_edge_publishes_refused_total{{{EDGE}}}RATE)",
                        "{{instance}}: {{rule}}",
                    ),
                    ('rate(thalamus_persistence_unstored_total{reason="busy"}RATE)', "{{instance}}: store"),
                ),
                lines(
                    "Publications not stored for a failure",
                    "pubps",
                    ('rate(thalamus_persistence_unstored_total{reason="unavailable"}RATE)', "{{instance}}"),
                ),
                lines(
                    "Clients ended for reading too slowly",
                    "cps",
                    (f'sum(rate(thalamus_edge_websocket_closes_total{{{EDGE}, code="3008"}}RATE))', "3008"),
                ),
            ),
        ),
        Row(
            "Continuity",
            (
                lines(
                    "Gaps repaired by reading",
                    "ops",
                    (f"rate(thalamus_edge_gaps_total{{{EDGE}}}RATE)", "{{instance}}"),
                    help="Pub/sub lost something, and nobody noticed.",
                ),
                lines("Gap notifications", "ops", (f"rate(thalamus_edge_resyncs_total{{{EDGE}}}RATE)", "{{instance}}")),
                lines(
                    "Recoveries",
                    "ops",
                    (f"sum by (outcome) (rate(thalamus_edge_recoveries_total{{{EDGE}}}RATE))", "{{outcome}}"),
                ),
                lines("Reads of logs", "ops", (f"rate(thalamus_edge_log_reads_total{{{EDGE}}}RATE)", "{{instance}}")),
                lines(
                    "Pub/sub of edges stalled",
                    "ops",
                    (f"rate(thalamus_edge_pubsub_stalled_total{{{EDGE}}}RATE)", "{{instance}}"),
                ),
                lines(
                    "Queued publications not stored for",
                    "s",
                    ("thalamus_persistence_drain_oldest_seconds", "{{instance}}"),
                ),
                lines(
                    "Messages of the queue",
                    "short",
                    ("max(thalamus_queue_waiting_messages)", "for workers"),
                    ("max(thalamus_queue_dead_messages)", "in the dead-letter queue"),
                    help="`thalamus dlq` handles what no worker could store.",
                ),
                lines(
                    "Publications completed after a crash",
                    "ops",
                    ("rate(thalamus_persistence_swept_totalRATE)", "swept, {{instance}}"),
                    ("rate(thalamus_persistence_conflicts_totalRATE)", "Redis behind the store, {{instance}}"),
                ),
            ),
        ),
        Row(
            "Group commit",
            (
                lines("Publications stored", "pubps", ("rate(thalamus_persistence_stored_totalRATE)", "{{instance}}")),
                lines(
                    "Publications of a batch",
                    "short",
                    (median("thalamus_persistence_batch_items"), "p50"),
                    (p99("thalamus_persistence_batch_items"), "p99"),
                ),
                lines(
                    "Publications of a transaction",
                    "short",
                    (
                        "rate(thalamus_persistence_stored_totalRATE)"
                        " / rate(thalamus_persistence_store_commits_totalRATE)",
                        "{{instance}}",
                    ),
                ),
            ),
        ),
    ),
)
