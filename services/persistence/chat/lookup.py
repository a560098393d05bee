"""Messages at a conversation's position: from memory, read model, or log.

What is in memory counts. Of other messages there is a document in the read model if anything became of them, and their
row in the log; a document that has all needs no row. A document that is newer than the position means that another
replica wrote the read model meanwhile (`Ahead`): the conversation is to be loaded anew.

Every method is for who holds the conversation's lock, and raises `Unavailable` if the store does not answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from services.persistence.chat.documents import Overlay, message_of, overlay_of
from services.persistence.chat.domain.state import Phase
from services.persistence.chat.live import Found, Live
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.rows import parsed_row, read_single
from services.persistence.domain.ports import Rows


class Ahead(Exception):
    """The read model is newer than the conversation in memory."""


class Lookup:
    """Finds messages. Every method raises `Ahead`, too."""

    def __init__(self, rows: Rows, store: ChatStore) -> None:
        """Create it; `rows` is the store of the log."""
        self._rows, self._store = rows, store

    async def found(self, live: Live, offsets: Collection[int]) -> dict[int, Found]:
        """Return those of these messages that there are."""
        fetched = await self.fetch(live, [offset for offset in offsets if not live.knows(offset)])
        found = {offset: live.state.messages.get(offset) or fetched.get(offset) for offset in offsets}
        return {offset: message for offset, message in found.items() if message is not None}

    async def among(self, live: Live, rows: Sequence[tuple[int, bytes]]) -> dict[int, Found]:
        """Return the messages among rows of the log.

        `rows`: (offset, publication), by offset in either direction.
        """
        if live.state.phase is Phase.DELETED:
            return {}
        ends = rows[0][0], rows[-1][0]
        overlays = await self.overlays_between(live, min(ends), max(ends))
        found: dict[int, Found] = {}
        for offset, publication in rows:
            if live.knows(offset):
                message = live.state.messages.get(offset)
            elif offset <= live.position:
                message = message_of(live, offset, overlays.get(offset), parsed_row(offset, publication))
            else:
                message = None
            if message is not None:
                found[offset] = message
        return found

    async def fetch(self, live: Live, offsets: Collection[int]) -> dict[int, Found]:
        """Return those of these messages that the read model or the log has."""
        offsets = [offset for offset in offsets if offset <= live.position]
        if not offsets or live.state.phase is Phase.DELETED:
            return {}
        overlays = _overlays(live, await self._store.overlays(live.channel, offsets))
        rows = await read_single(
            self._rows, live.channel, [one for one in offsets if one not in overlays or not overlays[one].ends]
        )
        found = {offset: message_of(live, offset, overlays.get(offset), rows.get(offset)) for offset in offsets}
        return {offset: message for offset, message in found.items() if message is not None}

    async def overlays_between(self, live: Live, first: int, last: int) -> dict[int, Overlay]:
        """Return what became of messages from `first` to `last`.

        Apart from what is in memory.
        """
        return _overlays(live, await self._store.overlays_between(live.channel, first, last))


def _overlays(live: Live, documents: Mapping[int, bytes]) -> dict[int, Overlay]:
    overlays = {offset: overlay_of(document) for offset, document in documents.items()}
    # Who has found a reply erased counts it nowhere, and a replica that found it there does.
    upto = (live.projected or 0) if live.uncounted else live.position
    if any(overlay.at > upto for overlay in overlays.values()):
        raise Ahead
    return overlays
