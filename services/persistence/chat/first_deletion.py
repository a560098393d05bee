"""Which event deletes a message, and what is about it, if much comes at once.

Purpose. A tombstone says by which event its message went. It is written before that event can be read, so before it was
folded; and replicas that fold later believe it. So it must name the event that the fold names: the first one in the log
that deletes the message.

Rules.

* What has an offset and deletes a message that is there applies: `delete` and `purge` are guarded by the membership
  version, and a `delete` whose author has a window gets no offset after it. So nothing need be folded.
* The first one is known by the state in memory, or else the read model, up to its position; above it, up to the event
  that is about to become readable, the rows of the log are looked through. They are stored by then, if not readable.
* Edits and reactions among these rows are found, too. Nobody finds them later: whoever folds them finds the message
  erased, and they change nothing of it.

Example. 5 is a message of bob, 6 purges him, 7 deletes 5, and both were on their way at once. Before 7 is readable its
process reads row 6, and the tombstone says `"by":6`. Folded, 6 applies and 7 is void.

Trade-offs. A delete reads the rows behind the state in memory: none, or those of the same moment. Of a log without a
read model no more than 4,096 are read.
"""

from __future__ import annotations

from typing import NamedTuple

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.documents import live_of, overlay_of
from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import Deleted, Message
from services.persistence.chat.live import Event, Live
from services.persistence.chat.ports import ChatStore
from services.persistence.chat.rows import parsed_row
from services.persistence.domain.ports import LogStore
from services.shared.hotlog.hotlog import COUNTS, ERASES

_PAGE_ROWS = 512
_PAGE_BYTES = 4 << 20
_MOST_ROWS = 4_096  # that are looked through; else it takes too long, as the log waits


class Known(NamedTuple):
    """What is known of a message before an event.

    `position`: up to where. `about`: offsets of its edits and reactions. `by`: which event deleted it.
    """

    live: Live
    position: int
    about: tuple[int, ...]
    by: int | None


class Found(NamedTuple):
    """What deletes a message, and what is about it that was not known before."""

    by: int
    about: tuple[int, ...]


class FirstDeletion:
    """Finds it; methods raise `Unavailable` if the store does not answer."""

    def __init__(self, rows: LogStore, store: ChatStore, conversations: Conversations) -> None:
        """Create it; `rows` is the store of the log."""
        self._rows, self._store, self._conversations = rows, store, conversations

    async def known(self, channel: str, of: int, before: int) -> Known:
        """Return what is known of a message without looking at the log."""
        live = self._conversations.cached(channel)
        if live is None or not before - _MOST_ROWS <= live.position < before:
            loaded = await self._store.load(channel)
            live = Live(channel, "") if loaded is None else live_of(channel, loaded)
        if live.position >= before:  # of another epoch
            live = Live(channel, "")
        message = live.state.messages.get(of)
        position = live.position
        if isinstance(message, Deleted):
            return Known(live, position, message.about, message.by)
        if isinstance(message, Message):
            about = (*message.edits, *(offset for users in message.reactions.values() for offset in users.values()))
            return Known(live, position, about, None)
        documents = await self._store.overlays(channel, [of])
        if of not in documents:
            return Known(live, position, (), None)
        overlay = overlay_of(documents[of])
        return Known(live, position, overlay.known or overlay.about, overlay.deleted)

    async def of(self, known: Known, message: bytes | None, of: int, before: int) -> Found:
        """Return what deletes a message, at the latest the event at `before`.

        `message`: the row at offset `of`.
        """
        if message is None:
            return Found(before, ())
        event, entry = parsed_row(of, message)
        by = event.by if isinstance(event, events.Erased) else None
        if by is None:
            by = known.live.deleted_by(entry.author, of) if known.by is None else known.by
            if by is not None and by < before and known.live.epoch == (await self._rows.open(known.live.channel)).epoch:
                return Found(by, ())
            by = None
        about: list[int] = []
        since = max(known.position, of, before - _MOST_ROWS)
        while since < before - 1:
            rows = await self._rows.read_counted(
                known.live.channel,
                since_offset=since,
                upto=before - 1,
                limit=_PAGE_ROWS,
                reverse=False,
                max_bytes=_PAGE_BYTES,
            )
            for row in rows:
                if row.flags & COUNTS:
                    continue
                one = parsed_row(row.offset, row.publication)[0]
                if isinstance(one, (events.Edit, events.Reaction)) and one.of == of:
                    about.append(row.offset)
                elif row.flags & ERASES and by is None and _deletes(one, of, entry.author):
                    return Found(row.offset, tuple(about))
            since = rows[-1].offset if rows else before
        return Found(before if by is None else by, tuple(about))


def _deletes(event: Event | None, of: int, author: str) -> bool:
    """Whether an event deletes the message of an author at an offset, if it is there."""
    if isinstance(event, events.Purge):
        return event.user == author and event.upto >= of
    return isinstance(event, events.Delete) and event.of == of
