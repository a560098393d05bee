"""Whom `Conversations` tells that lists of users change, or that users left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from services.persistence.chat.domain.state import Type
from services.persistence.chat.live import Live

Away = Callable[[], Awaitable[Collection[str]]]  # asks who of them is away, at the newest position
OnLeft = Callable[[str, Sequence[str], Away], Awaitable[None]]


class ListWatcher(Protocol):
    """Whom to tell that lists of users are written."""

    async def changing(self, channel: str, users: Collection[str], gone: Collection[str]) -> str:
        """Their lists will be written; return what `changed` takes.

        `gone`: those of them who have no place in the conversation any more.

        Raises:
            Unavailable: they must not be written now.
        """

    async def changed(self, mark: str, users: Collection[str]) -> None:
        """Their lists were written."""


def left(live: Live) -> set[str]:
    """Users of whom it is not written yet that they can read it no more."""
    changed = live.unwritten
    people = set() if live.state.type is Type.OPEN else changed.people - live.state.members.keys()
    return people | changed.gone
