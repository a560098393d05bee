"""Grants: which operations somebody may do in which channels.

They come from the claim `caps` of a connection token (`caps.py`), or are stored in auth (`stored_grants.py`). What a
grant is worth is up to the namespace: it counts where the rule of an operation lists `grant` (`authorize.py`).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from typing import NamedTuple

from services.edge.domain.access.channel_patterns import ChannelPattern

NEVER = math.inf  # a time at which nothing ends
_MOST_REMEMBERED = 256  # outcomes of patterns, for each holder of grants


class Operation(enum.StrEnum):
    """What a client may do in a channel."""

    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    HISTORY = "history"
    PRESENCE = "presence"
    ENTER = "enter"
    MANAGE = "manage"


class Grant(NamedTuple):
    """Permits an operation in a channel until a time (Unix seconds).

    `is_pattern`: in all channels that `channel` stands for, see `ChannelPattern`.
    """

    channel: str
    operation: Operation
    until: float = NEVER
    is_pattern: bool = False


class Grants:
    """The grants of one holder. They never change; other ones replace them."""

    __slots__ = ("_exact", "_patterns", "_remembered")

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._exact: dict[tuple[str, str], float] = {}
        self._patterns: dict[str, list[tuple[ChannelPattern, float]]] = {}
        self._remembered: dict[tuple[str, str], float] = {}
        for channel, operation, until, is_pattern in grants:
            if is_pattern:
                self._patterns.setdefault(operation, []).append((ChannelPattern(channel), until))
            else:
                self._exact[channel, operation] = max(until, self._exact.get((channel, operation), 0.0))

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def next_end(self, after: float) -> float:
        """Return when the next one ends after a time, Unix seconds."""
        ends = [*self._exact.values(), *(until for some in self._patterns.values() for _, until in some)]
        return min((until for until in ends if until > after), default=NEVER)

    def until(self, channel: str, operation: Operation) -> float:
        """Return until when the operation is permitted, Unix seconds; 0: it is not."""
        key = (channel, operation)
        until = self._exact.get(key, 0.0)
        patterns = self._patterns.get(operation)
        if patterns is None or until == NEVER:
            return until
        known = self._remembered.get(key)
        if known is None:
            known = max((until for pattern, until in patterns if pattern.matches(channel)), default=0.0)
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = known
        return max(until, known)


NO_GRANTS = Grants()
