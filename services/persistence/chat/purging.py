"""What must be known before a purge is folded.

Purpose. A purge deletes all messages of a user up to an offset, without naming them. So a conversation in memory keeps
its purges: whatever of that user is read later is deleted by the first one that takes it.

Rules.

* A purge is kept for as long as its messages may stand in the log. Once they are erased, their tombstones say by which
  event they went. A mark in Redis is there from before a purge is appended until all is erased (`erasure_marks.py`).
* Of each user 32 are kept without asking. From then on those go of which there is no mark any more.
* More than 1,000 of one user are never kept: the messages of the oldest one count as deleted by the next one.
* In a conversation with threads the replies are counted that a purge deletes, as their roots say how many there are.

Example. bob's messages 1 to 40 are purged one by one while the store is slow. All 40 purges are kept, and message 1 was
deleted by the first. When the 41st is folded, 1 to 30 are erased: ten purges are kept, and the 41st.

Trade-offs. Counting replies reads the log since that user's last purge, so that they are exact at every position. Who
purges more than 32 times costs one question to Redis each time that nothing can go. A Redis that comes back empty has
lost the marks: then purges may go too soon, and a message that is not erased names a later one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry
from services.persistence.chat.domain.state import Message
from services.persistence.chat.live import Live
from services.persistence.chat.lookup import Lookup
from services.persistence.chat.rows import parsed_row
from services.persistence.domain.ports import Rows
from services.shared.hotlog.hotlog import COUNTS

_KEPT = 32  # purges of one user, without asking which are done
_PAGE_ROWS = 512
_PAGE_BYTES = 4 << 20

# Position of a channel's lowest mark: what stands above it may not be erased yet. None: there is no mark.
LowestMark = Callable[[str], Awaitable[int | None]]


class Purging:
    """Looks at what a purge deletes; for who holds the conversation's lock.

    Methods raise `Unavailable` if Redis or the store does not answer.
    """

    def __init__(self, rows: Rows, lookup: Lookup) -> None:
        """Create it; `rows` is the store of the log."""
        self._rows, self._lookup = rows, lookup
        self.lowest_mark: LowestMark | None = None

    async def before(self, live: Live, event: events.Purge, entry: Entry) -> Mapping[int, int]:
        """Return the replies that the next entry deletes, by root; roots are loaded."""
        if not live.will_apply(event, entry):
            return {}
        if len(live.purges.get(event.user, ())) >= _KEPT and self.lowest_mark is not None:
            lowest = await self.lowest_mark(live.channel)
            live.forget_purges(event.user, live.position if lowest is None else lowest)
        if not live.has_threads:
            return {}
        return await self._replies(live, event.user, min(event.upto, entry.offset - 1), entry.offset)

    async def _replies(self, live: Live, user: str, upto: int, by: int) -> Mapping[int, int]:
        replies: Counter[int] = Counter()
        since = max((purge.upto for purge in live.purges.get(user, ())), default=0)  # below it nothing is left
        while rows := await self._rows.read_counted(
            live.channel, since_offset=since, upto=upto, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
        ):
            since = rows[-1].offset
            parsed = {row.offset: parsed_row(row.offset, row.publication) for row in rows if not row.flags & COUNTS}
            own = [
                offset
                for offset, (event, entry) in parsed.items()
                if isinstance(event, events.Message) and event.thread is not None and entry.author == user
            ]
            for offset, (event, _) in parsed.items():  # another replica has folded the purge, and erases already
                if isinstance(event, events.Erased) and event.by == by and offset not in live.uncounted:
                    replies.update(() if event.thread is None else [event.thread])
            found = await self._lookup.found(live, own)
            replies.update(one.thread for one in found.values() if isinstance(one, Message) and one.thread is not None)
        live.keep(await self._lookup.fetch(live, [root for root in replies if not live.knows(root)]))
        return replies
