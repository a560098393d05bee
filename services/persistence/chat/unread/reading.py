"""Looks further back into the log for `Recent`.

A page at a time is read, and what became of its messages. While it is read the conversation's lock is held, so nothing
but plain messages is folded meanwhile, and what was found holds for the position. Between pages others may fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.documents import Overlay, message_of
from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import Message
from services.persistence.chat.live import Live
from services.persistence.chat.recent import Found, Recent
from services.persistence.chat.rows import parsed_row
from services.persistence.chat.said import NOBODY, is_loud, mentions_in, said_by
from services.persistence.domain.ports import CountedRow, Rows
from services.shared.hotlog.hotlog import COUNTS

_PAGE_ROWS = 512
_PAGE_BYTES = 4 << 20


class Reading:
    """Reads older messages; raises `Unavailable` if the store does not answer."""

    def __init__(self, conversations: Conversations, rows: Rows) -> None:
        """Create it; `rows` is the store of the log."""
        self._conversations, self._rows = conversations, rows

    async def reach(self, live: Live, low: int) -> Recent:
        """Return what is recent, with all messages above `low`, as of `live.position`."""
        while True:
            recent = live.recent
            if recent is None:
                recent = live.recent = Recent(live.position)
            if recent.low <= low:
                return recent
            async with live.lock:
                if live.recent is recent and recent.low > low:
                    await self._read(live, recent, low)

    async def _read(self, live: Live, recent: Recent, low: int) -> None:
        """Read the next page down."""
        high = recent.low
        rows = await self._rows.read_counted(
            live.channel,
            since_offset=high + 1,
            upto=high,
            limit=min(_PAGE_ROWS, high - low),
            reverse=True,
            max_bytes=_PAGE_BYTES,
        )
        if not rows:  # history was removed up to here
            if not await self._conversations.missed_removal(live):
                recent.prepend(0, [])
            return
        first = rows[-1].offset
        overlays = await self._conversations.overlays_between(live, first, high)
        if live.recent is not recent:  # another replica has gone on: the conversation was loaded anew
            return
        found, unclear_until = _found(live, rows, overlays)
        recent.erased(unclear_until)
        recent.prepend(first - 1, found)


def _found(live: Live, rows: Sequence[CountedRow], overlays: Mapping[int, Overlay]) -> tuple[list[Found], int]:
    """Return the live messages among rows, and until when something is unclear."""
    found: list[Found] = []
    unclear_until = 0
    for row in rows:
        offset, overlay = row.offset, overlays.get(row.offset)
        if row.flags == COUNTS and overlay is None and not live.knows(offset):
            said = said_by(row.publication)
            unclear_until = max(unclear_until, said.unclear_until)
            if not said.is_erased and live.deleted_by(said.author, offset) is None:
                found.append(Found(offset, said.author, True, said.mentions))
            continue
        event, entry = parsed_row(offset, row.publication)
        if isinstance(event, events.Erased) and event.was == "message":
            unclear_until = max(unclear_until, event.by)
        if isinstance(event, events.Message) and event.erased and event.next is not None:
            unclear_until = max(unclear_until, event.next)
        known = live.knows(offset)
        message = live.state.messages.get(offset) if known else message_of(live, offset, overlay, (event, entry))
        if isinstance(message, Message):
            is_heard = is_loud(counts=message.counts, thread=message.thread)
            mentions = mentions_in(message.content) if is_heard else NOBODY
            if message.counts or mentions is not NOBODY:
                found.append(Found(offset, message.author, message.counts, mentions))
    return found, unclear_until
