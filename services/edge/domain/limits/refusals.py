"""Names of the limits, and how often each refused something."""

from __future__ import annotations

API_CALLS = "api_calls"
PUBLISHES = "publishes"
CONNECTIONS_PER_USER = "connections_per_user"
CONNECTIONS_PER_ADDRESS = "connections_per_address"
MESSAGES = "messages"
REACTIONS = "reactions"
CONVERSATIONS = "conversations"
INVITES = "invites"
CHANGES = "changes"
MARKERS = "markers"
SEARCHES = "searches"
LIMITS = (
    API_CALLS,
    PUBLISHES,
    CONNECTIONS_PER_USER,
    CONNECTIONS_PER_ADDRESS,
    MESSAGES,
    REACTIONS,
    CONVERSATIONS,
    INVITES,
    CHANGES,
    MARKERS,
    SEARCHES,
)


class LimitRefusals:
    """Refusals of one edge by limit: plain numbers, read by the metrics."""

    __slots__ = ("by_limit",)

    def __init__(self) -> None:
        self.by_limit = dict.fromkeys(LIMITS, 0)

    def count(self, limit: str) -> None:
        """Count one refusal."""
        self.by_limit[limit] += 1
