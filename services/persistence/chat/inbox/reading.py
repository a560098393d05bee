"""The head of a conversation from the conversation itself, where Redis has none."""

from __future__ import annotations

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain.state import Message, Type
from services.persistence.chat.inbox.heads import ACTIVE, Head, Last, last_of
from services.persistence.chat.live import Live
from services.persistence.domain.ports import Rows
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import COUNTS
from thalamus.common.v1.common_pb2 import Publication

_FIRST_ROWS, _MORE_ROWS = 8, 200  # of the first request, and of each other
_MAX_ROWS = 2_000  # rows that are looked at; a conversation without a message in them shows none
_MAX_BYTES = 4 << 20
_TRIES = 5


class HeadReading:
    """Makes heads; raises `Unavailable`."""

    def __init__(self, conversations: Conversations, rows: Rows) -> None:
        """Create it; `rows` is the store of the log."""
        self._conversations, self._rows = conversations, rows

    async def read(self, channel: str) -> tuple[Head, Live] | None:
        """Return a conversation's head at its newest position; None: there is none."""
        live = await self._conversations.current(channel)
        if not live.epoch:
            return None
        for _ in range(_TRIES):
            async with live.lock:
                head = await self._at_once(live)
            if head is not None:
                return head, live
        raise Unavailable("the conversation changes faster than it can be read")

    async def _at_once(self, live: Live) -> Head | None:
        """Return the head; None if the conversation was loaded anew meanwhile."""
        state, epoch, position = live.state, live.epoch, live.position
        head = Head(
            epoch,
            position,
            state.phase,
            state.type,
            state.name,
            state.n,
            live.mv,
            users=sorted(state.members) if state.type is Type.DIRECT else [],
        )
        since, left, count, has_counted = position + 1, _MAX_ROWS, _FIRST_ROWS, False
        while left > 0 and since > 1 and not (head.last and head.active and has_counted):
            rows = await self._rows.read_counted(
                live.channel, since_offset=since, upto=position, limit=count, reverse=True, max_bytes=_MAX_BYTES
            )
            if not rows:
                if await self._conversations.missed_removal(live):
                    return None
                break
            found = await self._conversations.messages_of(
                live, [(row.offset, row.publication) for row in rows], has_lock=True
            )
            if live.changed_at > position or live.epoch != epoch:
                return None
            for row in rows:
                publication = Publication.FromString(row.publication)
                if row.flags & ACTIVE and not head.active:
                    head.active = publication.time_ms
                message = found.get(row.offset)
                is_answer = isinstance(message, Message) and message.thread is not None  # it may mention somebody
                if (row.flags & COUNTS or is_answer) and not has_counted:
                    head.counted, has_counted = row.offset, True
                if head.last is None and isinstance(message, Message) and message.thread is None:
                    head.last = _last(row.offset, message)
            since, left, count = rows[-1].offset, left - len(rows), _MORE_ROWS
        return head


def _last(offset: int, message: Message) -> Last:
    return last_of(offset, message.author, message.time_ms, message)
