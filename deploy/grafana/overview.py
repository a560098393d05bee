"""The first dashboard to look at: is all well, who is there, what do they do."""

from __future__ import annotations

from deploy.grafana.board import board
from deploy.grafana.panels import EDGE, Row, lines, number, p99

OVERVIEW = board(
    "thalamus-overview",
    "Thalamus: overview",
    (
        Row(
            "Now",
            (
                number("Clients connected", "short", f"sum(thalamus_edge_sessions{{{EDGE}}})"),
                number("Publications", "pubps", f"sum(rate(thalamus_edge_published_total{{{EDGE}}}RATE))"),
                number("Deliveries", "delps", f"sum(rate(thalamus_edge_deliveries_total{{{EDGE}}}RATE))"),
                number("Acknowledged within (p99)", "s", "max(durability:ack_seconds:p99)"),
                number("Delivered within (p99)", "s", "thalamus:delivery_seconds:p99"),
                number("Alerts", "short", 'count(ALERTS{alertstate="firing", severity!="info"}) or vector(0)'),
            ),
        ),
        Row(
            "What runs",
            (
                lines("Replicas that answer", "short", ("job:up:count", "{{job}}")),
                lines(
                    "Readiness",
                    "short",
                    ("min by (job, check) (thalamus_ready)", "{{job}}: {{check}}"),
                    help="1: holds on every replica; 0: not on every one.",
                ),
                lines(
                    "Age of the youngest process",
                    "s",
                    ('min by (job) (time() - process_start_time_seconds{job!="prometheus"})', "{{job}}"),
                ),
            ),
        ),
        Row(
            "Connections",
            (
                lines("Connections", "short", (f"sum by (kind) (thalamus_edge_connections{{{EDGE}}})", "{{kind}}")),
                lines("Clients of each edge", "short", (f"thalamus_edge_sessions{{{EDGE}}}", "{{instance}}")),
                lines(
                    "Clients by protocol",
                    "short",
                    (f"sum by (protocol) (thalamus_edge_protocol_sessions{{{EDGE}}})", "{{protocol}}"),
                ),
                lines(
                    "Users, channels, subscriptions",
                    "short",
                    (f"sum(thalamus_edge_users{{{EDGE}}})", "users"),
                    (f"sum(thalamus_edge_channels{{{EDGE}}})", "channels"),
                    (f"sum(thalamus_edge_subscriptions{{{EDGE}}})", "subscriptions"),
                    help="Of each edge, added: a user or channel at two edges counts twice.",
                ),
                lines(
                    "Accepted connections",
                    "cps",
                    (f"sum by (kind) (rate(thalamus_edge_accepted_total{{{EDGE}}}RATE))", "{{kind}}"),
                ),
                lines(
                    "Connections refused",
                    "cps",
                    (f"sum by (reason) (rate(thalamus_edge_refused_total{{{EDGE}}}RATE))", "{{reason}}"),
                ),
                lines(
                    "Ends of WebSocket connections",
                    "cps",
                    (
                        f"sum by (code, by) (rate(thalamus_edge_websocket_closes_total{{{EDGE}}}RATE))",
                        "{{code}} by {{by}}",
                    ),
                    help="1006: without a close frame; 3001: drained; 3008: read too slowly.",
                ),
            ),
        ),
        Row(
            "Commands",
            (
                lines(
                    "Commands", "cps", (f"sum by (kind) (rate(thalamus_edge_commands_total{{{EDGE}}}RATE))", "{{kind}}")
                ),
                lines(
                    "Commands refused",
                    "cps",
                    (f"sum by (code) (rate(thalamus_edge_errors_total{{{EDGE}}}RATE))", "{{code}}"),
                    help="Only internal (100) is never the client's doing.",
                ),
                lines(
                    "Server API within (p99)",
                    "s",
                    (p99("thalamus_edge_api_seconds", "method", where=EDGE), "{{method}}"),
                ),
            ),
        ),
        Row(
            "Processes",
            (
                lines("CPU", "percentunit", ("rate(process_cpu_seconds_totalRATE)", "{{job}} {{instance}}")),
                lines("Memory", "bytes", ("process_resident_memory_bytes", "{{job}} {{instance}}")),
                lines("Open files", "short", ("process_open_fds", "{{job}} {{instance}}")),
            ),
        ),
        Row(
            "Balancer",
            (
                lines(
                    "Edges behind the balancer",
                    "short",
                    ('haproxy_backend_active_servers{proxy="edges"}', "{{instance}}"),
                ),
                lines(
                    "Connections at the balancer",
                    "short",
                    ('haproxy_frontend_current_sessions{proxy="public"}', "{{instance}}"),
                    ("haproxy_process_max_connections", "{{instance}}: at most"),
                ),
                lines(
                    "Responses at the public port",
                    "reqps",
                    ('sum by (code) (rate(haproxy_frontend_http_responses_total{proxy="public"}RATE))', "{{code}}"),
                ),
            ),
        ),
    ),
)
