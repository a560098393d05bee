"""Limits of what one user does with conversations, over all edges.

Messages, reactions, changes, markers and searches may come often: edges take tokens from Redis in slices
(`limits/publishes.py`). Conversations and invitations are few, and each one asks Redis, so those limits are exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from services.edge.domain.conversations.event_rate import OF_EVENTS, rate_of
from services.edge.domain.limits.exact import ExactLimit
from services.edge.domain.limits.ports import SharedRates
from services.edge.domain.limits.publishes import PublishLimit
from services.edge.domain.limits.refusals import (
    CHANGES,
    CONVERSATIONS,
    INVITES,
    MARKERS,
    MESSAGES,
    REACTIONS,
    SEARCHES,
    LimitRefusals,
)
from services.edge.domain.settings import Settings
from services.shared.chat_methods import Rate

_HOUR_S = 3_600
_USERS = 100_000  # that are counted here while Redis is away


class ChatLimits:
    """Limits per user; those that are 0 cost nothing.

    Args:
        shared: The buckets in Redis; None: there are no limits.
        now: Monotonic seconds.
        spawn: Runs a coroutine as a background task.
        refusals: Counts what is refused.
    """

    def __init__(
        self,
        shared: SharedRates | None,
        settings: Settings,
        *,
        now: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        refusals: LimitRefusals,
    ) -> None:
        self._often: dict[Rate, PublishLimit] = {}
        self._few: dict[Rate, ExactLimit] = {}
        self._limits_events = False
        if shared is None:
            return
        for kind, limit, rate, burst in (
            (Rate.MESSAGES, MESSAGES, settings.messages_per_user_per_s, settings.messages_per_user_burst),
            (Rate.REACTIONS, REACTIONS, settings.reactions_per_user_per_s, 0),
            (Rate.CHANGES, CHANGES, settings.changes_per_user_per_s, settings.changes_per_user_burst),
            (Rate.MARKERS, MARKERS, settings.markers_per_user_per_s, settings.markers_per_user_burst),
            (Rate.SEARCHES, SEARCHES, settings.searches_per_user_per_s, settings.searches_per_user_burst),
        ):
            if rate:
                self._often[kind] = PublishLimit(
                    shared, rate=rate, burst=burst, now=now, spawn=spawn, refusals=refusals, limit=limit
                )
        self._limits_events = not self._often.keys().isdisjoint(OF_EVENTS)
        for kind, limit, per_h, what in (
            (Rate.CONVERSATIONS, CONVERSATIONS, settings.conversations_per_user_per_h, "conversations"),
            (Rate.INVITES, INVITES, settings.invites_per_user_per_h, "users"),
        ):
            if per_h:
                self._few[kind] = ExactLimit(
                    shared,
                    limit=limit,
                    what=what,
                    rate=per_h / _HOUR_S,
                    burst=per_h,
                    now=now,
                    refusals=refusals,
                    max_names=_USERS,
                )

    def of_event(self, data: bytes) -> PublishLimit | None:
        """Return the limit for which an event of a client counts; None: there is none.

        `data`: that of the publication.
        """
        return self._often.get(rate_of(data)) if self._limits_events else None

    def has(self, rate: Rate) -> bool:
        """Whether there is such a limit."""
        return rate in self._often or rate in self._few

    async def take(self, user: str, rate: Rate, count: int = 1) -> None:
        """Count what a user does.

        Raises:
            ThalamusError: 111 with the time after which it is allowed; 106 if so many never are at once.
        """
        who = f"u{user}"
        if (often := self._often.get(rate)) is not None:
            await often.refill(who)
            often.take(who)
        elif (few := self._few.get(rate)) is not None:
            await few.take(who, count)
