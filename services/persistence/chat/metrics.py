"""Prometheus metrics of conversations."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

RECHECKS = Counter(
    "thalamus_chat_rechecks", "Events that were decided again, because membership or rights had changed meanwhile."
)
VOID = Counter("thalamus_chat_void", "Events of conversations that were folded and changed nothing.")
CONVERSATIONS = Gauge("thalamus_chat_conversations", "Conversations in memory.")
PROJECTION_LAG = Gauge(
    "thalamus_chat_projection_lag_seconds", "Age of the oldest change that the read model does not have yet, seconds."
)
MARKERS_UNWRITTEN = Gauge(
    "thalamus_chat_markers_unwritten_seconds", "Age of the oldest marker that only Redis has, seconds."
)
UNREAD = Counter(
    "thalamus_chat_unread_answers",
    "Answers of how much is unread: `exact`, `at_least` (too far back) or `pending` (something is being deleted).",
    ["outcome"],
)
INBOX_HEADS = Counter(
    "thalamus_chat_inbox_heads",
    "Conversations that inboxes looked at, by where that was: `kept` in Redis, the `tail` of the log there, or the "
    "`conversation` itself.",
    ["source"],
)
SEARCH_INDEXED = Counter("thalamus_chat_search_indexed", "Messages that were written to the index of messages.")
SEARCH_SCANNED = Counter(
    "thalamus_chat_search_scanned", "Publications that searches read from the log, as they were not indexed yet."
)
