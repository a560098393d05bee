"""What services need: Redis, the store, and one another."""

from __future__ import annotations

from deploy.grafana.board import board
from deploy.grafana.panels import EDGE, Row, lines, median, number, p99

_GRPC = "thalamus_(auth|presence|persistence)_grpc"

DEPENDENCIES = board(
    "thalamus-dependencies",
    "Thalamus: dependencies",
    (
        Row(
            "Redis",
            (
                number("Redis answers", "short", "max(thalamus_redis_up)", "1: at least one service reaches it."),
                number("Runs for", "s", "max(thalamus_redis_uptime_seconds)"),
                number("Append-only file is written", "short", "min(thalamus_redis_aof_last_write_ok)", "1: yes."),
                number("Clients of Redis", "short", "max(thalamus_redis_connected_clients)"),
                number("Keys evicted", "short", "max(thalamus_redis_evicted_keys_total)", "Anything but 0 is a loss."),
                number("Memory used", "bytes", "max(thalamus_redis_used_memory_bytes)"),
                lines(
                    "Memory of Redis",
                    "bytes",
                    ("max(thalamus_redis_used_memory_bytes)", "used"),
                    ("max(thalamus_redis_maxmemory_bytes)", "at most; 0: no limit"),
                ),
                lines("Round trips to Redis within (p99)", "s", ("job:redis_seconds:p99", "{{job}}")),
                lines(
                    "Calls of edges in a round trip",
                    "short",
                    (median("thalamus_edge_redis_batch_items", where=EDGE), "p50"),
                    (p99("thalamus_edge_redis_batch_items", where=EDGE), "p99"),
                ),
            ),
        ),
        Row(
            "Store",
            (
                lines(
                    "Calls to the store",
                    "ops",
                    ("sum by (op) (rate(thalamus_persistence_store_seconds_countRATE))", "{{op}}"),
                ),
                lines("Calls to the store within (p99)", "s", ("op:store_seconds:p99", "{{op}}")),
                lines(
                    "DynamoDB: calls",
                    "ops",
                    ("sum by (job, op) (rate(thalamus_dynamodb_calls_totalRATE))", "{{job}} {{op}}"),
                ),
                lines(
                    "DynamoDB: repetitions",
                    "ops",
                    ("sum by (op, reason) (rate(thalamus_dynamodb_repeats_totalRATE))", "{{op}}: {{reason}}"),
                ),
                lines("DynamoDB: calls within (p99)", "s", ("op:dynamodb_seconds:p99", "{{op}}")),
            ),
        ),
        Row(
            "Calls between services",
            (
                lines(
                    "Response time for edges (p99)",
                    "s",
                    (p99("thalamus_edge_grpc_client_seconds", "method", where=EDGE), "{{method}}"),
                ),
                lines(
                    "Calls of edges that failed",
                    "ops",
                    (
                        f"sum by (method, status) (rate(thalamus_edge_grpc_client_failures_total{{{EDGE}}}RATE))",
                        "{{method}} {{status}}",
                    ),
                    help="UNAUTHENTICATED of a login is a wrong password.",
                ),
                lines(
                    "Items sent again after a broken stream",
                    "ops",
                    (
                        f"sum by (method) (rate(thalamus_edge_grpc_client_repeated_items_total{{{EDGE}}}RATE))",
                        "{{method}}",
                    ),
                ),
                lines(
                    "Calls served",
                    "ops",
                    (f'sum by (job, method) (rate({{__name__=~"{_GRPC}_seconds_count"}}RATE))', "{{job}} {{method}}"),
                ),
                lines(
                    "Calls served within (p99)",
                    "s",
                    (
                        "histogram_quantile(0.99, sum by (method, le) (rate("
                        f'{{__name__=~"{_GRPC}_seconds_bucket"}}RATE)))',
                        "{{method}}",
                    ),
                ),
                lines(
                    "Profiles by where they were found",
                    "ops",
                    (f"sum by (outcome) (rate(thalamus_edge_profile_cache_total{{{EDGE}}}RATE))", "{{outcome}}"),
                    help="Hits cost auth nothing; stale and failed: auth does not answer.",
                ),
                lines(
                    "Calls that ended with an error",
                    "ops",
                    (
                        f'sum by (method, status) (rate({{__name__=~"{_GRPC}_failures_total"}}RATE))',
                        "{{method}} {{status}}",
                    ),
                ),
            ),
        ),
        Row(
            "Presence",
            (
                lines("Members", "short", (f"thalamus_edge_presence_members{{{EDGE}}}", "{{instance}}")),
                lines(
                    "Joins and leaves",
                    "ops",
                    ("sum(rate(thalamus_presence_joins_totalRATE))", "came"),
                    ("sum by (how) (rate(thalamus_presence_leaves_totalRATE))", "went, {{how}}"),
                    help="clean: said so; unclean: connection broke; due: after its grace; reap: its edge died.",
                ),
                lines(
                    "Changes that presence has not confirmed",
                    "short",
                    (f"thalamus_edge_presence_pending{{{EDGE}}}", "{{instance}}"),
                ),
                lines(
                    "Edges in touch with presence",
                    "short",
                    (f"thalamus_edge_presence_connected{{{EDGE}}}", "{{instance}}"),
                ),
                lines(
                    "Leases lost",
                    "ops",
                    (f"rate(thalamus_edge_presence_leases_lost_total{{{EDGE}}}RATE)", "{{instance}}"),
                ),
                lines("Changes of a batch", "short", (p99("thalamus_presence_batch_items"), "p99")),
            ),
        ),
        Row(
            "Hooks",
            (
                lines(
                    "Questions to hooks",
                    "reqps",
                    (
                        f"sum by (hook, outcome) (rate(thalamus_edge_hook_calls_total{{{EDGE}}}RATE))",
                        "{{hook}} {{outcome}}",
                    ),
                    help="answered, refused: the backend decided. Everything else is a failure of the hook.",
                ),
                lines(
                    "Hooks answered within (p99)",
                    "s",
                    (p99("thalamus_edge_hook_seconds", "hook", where=EDGE), "{{hook}}"),
                ),
                lines(
                    "Questions under way, and edges that do not ask",
                    "short",
                    (f"sum by (hook) (thalamus_edge_hook_under_way{{{EDGE}}})", "{{hook}} under way"),
                    (f"sum by (hook) (thalamus_edge_hook_silent{{{EDGE}}})", "{{hook}} silent"),
                ),
            ),
        ),
        Row(
            "Feed",
            (
                lines(
                    "Events that the feed keeps",
                    "short",
                    ("max by (kind) (thalamus_feed_entries)", "{{kind}}"),
                    help="At most 16 times FEED_MAX_ENTRIES of each kind.",
                ),
                lines(
                    "Events that a group has not read", "short", ("max by (group) (thalamus_feed_waiting)", "{{group}}")
                ),
                lines(
                    "How far a group is behind",
                    "percentunit",
                    ("max by (group) (thalamus_feed_behind_ratio)", "{{group}}"),
                    help="Of what its fullest stream keeps. Over 100 % it is told a gap.",
                ),
            ),
        ),
        Row(
            "Webhooks",
            (
                lines(
                    "Webhook requests",
                    "reqps",
                    (
                        "sum by (endpoint, outcome) (rate(thalamus_webhooks_requests_totalRATE))",
                        "{{endpoint}} {{outcome}}",
                    ),
                    help="taken: 2xx. Everything else is sent again.",
                ),
                lines(
                    "Webhook batches that wait, and dead letters",
                    "short",
                    ("max by (endpoint) (thalamus_webhooks_waiting)", "{{endpoint}} waiting"),
                    ("max by (endpoint) (thalamus_webhooks_dead_letters)", "{{endpoint}} dead"),
                ),
                lines(
                    "Webhooks answered within (p99), and age of what was read last",
                    "s",
                    (p99("thalamus_webhooks_seconds", "endpoint"), "{{endpoint}} p99"),
                    ("max by (endpoint) (thalamus_webhooks_lag_seconds)", "{{endpoint}} age"),
                ),
            ),
        ),
        Row(
            "Notifications",
            (
                lines(
                    "Requests to push services",
                    "reqps",
                    ("sum by (way, outcome) (rate(thalamus_notifier_requests_totalRATE))", "{{way}} {{outcome}}"),
                    help="gone: the device is removed. Everything but taken and gone is sent again, or given up.",
                ),
                lines(
                    "Notifications that wait, and dead letters",
                    "short",
                    ("max by (way) (thalamus_notifier_waiting)", "{{way}} waiting"),
                    ("max by (way) (thalamus_notifier_dead_letters)", "{{way}} dead"),
                ),
                lines(
                    "Users with something unread, by what was decided",
                    "ops",
                    ("sum by (decision) (rate(thalamus_notifier_decisions_totalRATE))", "{{decision}}"),
                ),
            ),
        ),
        Row(
            "Accounts",
            (
                lines("Logins", "ops", ("sum by (outcome) (rate(thalamus_auth_logins_totalRATE))", "{{outcome}}")),
                lines("Tokens minted", "ops", ("sum by (kind) (rate(thalamus_auth_tokens_totalRATE))", "{{kind}}")),
                lines(
                    "Registrations",
                    "ops",
                    ("sum by (outcome) (rate(thalamus_auth_registrations_totalRATE))", "{{outcome}}"),
                ),
                lines(
                    "Refresh tokens used",
                    "ops",
                    ("sum by (outcome) (rate(thalamus_auth_refreshes_totalRATE))", "{{outcome}}"),
                    help="reused: an old one came again; its session was ended.",
                ),
                lines(
                    "Passwords checked within",
                    "s",
                    (median("thalamus_auth_hash_seconds"), "p50"),
                    (p99("thalamus_auth_hash_seconds"), "p99"),
                ),
            ),
        ),
    ),
)
