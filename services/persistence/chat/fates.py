"""What became of events that are in the log: whether they are void, and why.

Of the newest ones the conversation in memory knows; the read model has a document of each void one.
"""

from __future__ import annotations

from collections.abc import Collection

from services.persistence.chat.documents import overlay_of
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.live import Live
from services.persistence.chat.ports import ChatStore


class Fates:
    """Tells what became of events."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store

    async def of(self, live: Live, offsets: Collection[int]) -> dict[int, Why | None]:
        """Return why events are void, by offset; None: they apply.

        `offsets`: not above the position. Events of messages that were deleted since are told as they were.

        Raises:
            Unavailable: the store does not answer.
        """
        if all(offset >= live.void_from for offset in offsets):
            return {offset: live.void.get(offset) for offset in offsets}
        async with live.lock:  # or they may be under way from memory to the store
            documents = await self._store.overlays(live.channel, [one for one in offsets if one < live.void_from])
            known = {offset: overlay_of(document).void for offset, document in documents.items()}
            known |= live.unwritten.void | live.void
            return {offset: known.get(offset) for offset in offsets}
