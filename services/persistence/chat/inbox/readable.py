"""Conversations that a user may read, for who looks into all of them."""

from __future__ import annotations

from typing import NamedTuple

from services.persistence.chat.domain.state import Type
from services.persistence.chat.inbox.heads import Head


class Readable(NamedTuple):
    """A conversation that a user may read, at one position.

    `above`: history is visible above this offset. `active`: see `Head`. `users`: of a direct one.
    """

    channel: str
    type: Type
    name: str
    users: list[str]
    epoch: str
    position: int
    above: int
    active: int


def readable_of(channel: str, head: Head, above: int) -> Readable:
    """Return a conversation as its head says."""
    return Readable(channel, head.type, head.name, head.users, head.epoch, head.position, above, head.active)
