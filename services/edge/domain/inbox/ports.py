"""Where an edge learns which conversations users have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class Place(NamedTuple):
    """How far a conversation is: newest offset, and messages that count."""

    offset: int
    n: int


class Members(NamedTuple):
    """Which of the users that were asked for are members, as of a place."""

    users: frozenset[str]
    place: Place


class InboxSource(Protocol):
    """Persistence; every method raises `Unavailable`, also if it is of before."""

    async def watch(self, user: str) -> Mapping[str, Place]:
        """Return the conversations of which the user is a member."""

    async def members(self, channel: str, users: Sequence[str]) -> Members:
        """Return which of these users are members of a conversation."""
