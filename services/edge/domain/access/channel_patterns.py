"""Patterns of channel names.

`*` stands for any text, also for none; all else stands for itself. A pattern is matched piece by piece
from the left, without backtracking. So whoever writes patterns, or names of channels, can't make a match slow.
"""

from __future__ import annotations

WILDCARD = "*"


class ChannelPattern:
    """A pattern. Without `*` it stands for the channel of that name."""

    __slots__ = ("_end", "_least", "_middle", "_start")

    def __init__(self, text: str) -> None:
        self._start, *rest = text.split(WILDCARD)
        self._middle = tuple(filter(None, rest[:-1]))
        self._end = rest[-1] if rest else None
        self._least = len(self._start) + len(self._end or "")

    def matches(self, channel: str) -> bool:
        """Return whether the pattern stands for the channel."""
        if self._end is None:
            return channel == self._start
        if len(channel) < self._least or not (channel.startswith(self._start) and channel.endswith(self._end)):
            return False
        at, end = len(self._start), len(channel) - len(self._end)
        for piece in self._middle:
            at = channel.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True
