"""Pages of messages: what the log holds, with what became of it.

Purpose. The log is the table of messages. Most messages never change; of those that did the read model has documents. A
page is the log's rows of a range of offsets, merged with the documents of that range: two requests, however many
messages. The answer is the fold of the log at one position, `as_of`, exactly.

Rules.

* The conversation's position is taken first; rows above it are left out. Afterwards nothing but plain messages may have
  been folded into the conversation in memory: otherwise it says more than its old position did (`Moved`), and the page
  is read again. The last try holds the conversation's lock, so that nothing is folded meanwhile.
* A row that was erased, or emptied, because of an event above the position is `Moved`, too.
* Nothing at or below `above` is read or told: there ends what a member may see.
* Rows that are no messages (edits, reactions, members) are passed over. A page ends after `MAX_ROWS` rows or 4 MiB; if
  they do not fill it, it says where to go on all the same.
* Messages of one thread have no place of their own: the rows above its root are looked through, the others left out.
* Rows may be missing only because history was removed, as the deletion of a conversation does. What is in memory may
  not know of that: so that is `Moved` as well, unless it was looked at again.

Example. Offsets 5 and 6 are messages, 7 is an edit of 5, and the position is 7. The page below 8 reads the rows 1 to 7
and their documents; 5 has the content of 7. Meanwhile 8, a message, was folded: it is not in the page; `as_of` is 7.

Trade-offs. Somebody who reads while others edit or react may need a second try, with two more requests. The other ways,
a copy of each message, or a lock whenever somebody reads, would make every message pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.documents import content_of
from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import Content, Deleted, Message
from services.persistence.chat.live import Found, Live
from services.persistence.domain.log import Log
from services.persistence.domain.ports import CountedRow
from thalamus.common.v1.common_pb2 import Publication

MAX_ROWS = 2_000  # that one page may read
_MAX_BYTES = 4 << 20  # of rows, after which a page ends; also of one request
_AT_ONCE = 8  # requests for single rows at the same time
_ROWS_OF_A_THREAD = 500  # that are read at once: most may be no messages of it
_SPARE = 10  # rows beyond those wanted: a page with few other events needs one request


class Moved(Exception):
    """The store knows of an event above the position that is read at."""


class View(NamedTuple):
    """A conversation at one position, as somebody may see it."""

    live: Live
    epoch: str
    position: int
    above: int  # offsets up to this one are not shown
    is_first: bool = False  # nothing was looked at again yet
    is_last: bool = False  # there will be no other try; the reader has the conversation's lock

    @property
    def has_moved(self) -> bool:
        """Whether more than plain messages was folded since the position."""
        return self.live.changed_at > self.position or self.live.epoch != self.epoch


class Shown(NamedTuple):
    """A message, or what is left of it."""

    offset: int
    time_ms: int
    message: Found


class Version(NamedTuple):
    """What an event made a message say; None: that was erased."""

    offset: int
    time_ms: int
    content: Content | None


class Page(NamedTuple):
    """Messages, the oldest first: those below what was asked for, and those above.

    `older`, `newer`: the offset below or above which to go on; None if there are no more.
    """

    below: list[Shown]
    above: list[Shown]
    older: int | None = None
    newer: int | None = None


class Pages:
    """Reads messages as of a position; every method raises `Moved` or `Unavailable`."""

    def __init__(self, log: Log, conversations: Conversations) -> None:
        self._log, self._conversations = log, conversations

    async def below(self, at: View, offset: int, limit: int) -> Page:
        """Return the newest messages below an offset."""
        found, rest = await self._scan(at, at.above + 1, min(offset - 1, at.position), limit, reverse=True)
        return Page(found[::-1], [], older=rest)

    async def above(self, at: View, offset: int, limit: int) -> Page:
        """Return the oldest messages above an offset."""
        found, rest = await self._scan(at, max(offset, at.above) + 1, at.position, limit, reverse=False)
        return Page([], found, newer=rest)

    async def around(self, at: View, offset: int, limit: int) -> Page:
        """Return messages below an offset, half of the limit, and others from it on."""
        half = limit // 2
        if at.is_last:  # who has the lock reads one after the other
            older, newer = await self.below(at, offset, half), await self.above(at, offset - 1, limit - half)
        else:
            older, newer = await asyncio.gather(self.below(at, offset, half), self.above(at, offset - 1, limit - half))
        return Page(older.below, newer.above, older.older, newer.newer)

    async def answers_above(self, at: View, root: Shown, offset: int, limit: int) -> Page:
        """Return the oldest live messages of a thread above an offset.

        From the root on it is known how many there are, so nothing is read behind the last one.
        """
        count = root.message.replies if offset <= root.offset else None
        low = max(offset, root.offset, at.above) + 1
        found, rest = await self._scan(at, low, at.position, limit, reverse=False, of=root.offset, count=count)
        return Page([], found, newer=rest)

    async def answers_below(self, at: View, root: Shown, offset: int, limit: int) -> Page:
        """Return the newest live messages of a thread below an offset."""
        low, high = max(root.offset, at.above) + 1, min(offset - 1, at.position)
        found, rest = await self._scan(at, low, high, limit, reverse=True, of=root.offset)
        return Page(found[::-1], [], older=rest)

    async def one(self, at: View, offset: int) -> Shown | None:
        """Return the message at an offset; None if there is none."""
        if not at.above < offset <= at.position:
            return None
        found = await self._read(at, offset, 1, reverse=False)
        return found[1][0] if found[1] else None

    async def pinned(self, at: View, offsets: Sequence[int]) -> list[Shown]:
        """Return those of these messages that are pinned, in this order."""
        found = await self._conversations.messages(at.live, offsets, has_lock=at.is_last)
        self._check(at)
        pinned = [(offset, found.get(offset)) for offset in offsets]
        if not at.is_last and any(one is not None and _is_erased_later(one, of, at.position) for of, one in pinned):
            raise Moved
        return [Shown(offset, one.time_ms, one) for offset, one in pinned if isinstance(one, Message) and one.pinned]

    async def contents(self, at: View, revisions: Sequence[int]) -> list[Version]:
        """Return the contents that the events at these offsets gave to a message."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(offset: int) -> CountedRow | None:
            async with at_once:
                rows = await self._rows(at, offset, 1, reverse=False)
                return rows[0] if rows else None

        rows = await asyncio.gather(*map(one, revisions))
        return [version for row in rows if row is not None and (version := _version(row)) is not None]

    async def _scan(
        self,
        at: View,
        low: int,
        high: int,
        limit: int,
        *,
        reverse: bool,
        of: int | None = None,
        count: int | None = None,
    ) -> tuple[list[Shown], int | None]:
        """Return messages of low … high, and where to go on; None: there are no more.

        `of`: only the live ones in the thread of the message there. `count`: so many there are.
        """
        found: list[Shown] = []
        left, left_bytes, start = MAX_ROWS, _MAX_BYTES, high + 1 if reverse else low - 1
        if count == 0:
            return [], None
        while low <= high and left > 0 and left_bytes > 0:
            missing = limit + 1 - len(found)  # one more tells whether there are more
            wanted = missing + missing // 2 + _SPARE if of is None else _ROWS_OF_A_THREAD
            rows = min(wanted, left, high - low + 1)
            last, some, size = await self._read(at, high - rows + 1 if reverse else low, rows, reverse=reverse)
            if last is None:
                break  # history was removed up to here
            found += some if of is None else [one for one in some if _is_in_thread(one, of)]
            if len(found) > limit:
                return found[:limit], found[limit - 1].offset if limit else start
            if len(found) == count:
                break
            left, left_bytes = left - rows, left_bytes - size
            low, high = (low, last - 1) if reverse else (last + 1, high)
        else:
            if low <= high:
                return found, high + 1 if reverse else low - 1
        return found, None

    async def _read(self, at: View, first: int, count: int, *, reverse: bool) -> tuple[int | None, list[Shown], int]:
        """Return the last offset that was read, the messages, and bytes of all rows.

        They are those from `first` on, `count` at most; the highest first if `reverse`.
        """
        rows = await self._rows(at, first, count, reverse=reverse)
        if not rows:
            if at.is_first:
                raise Moved
            return None, [], 0
        publications = [(row.offset, row.publication) for row in rows]
        messages = await self._conversations.messages_of(at.live, publications, has_lock=at.is_last)
        self._check(at)
        shown: list[Shown] = []
        for row in rows:
            message = messages.get(row.offset)
            if message is None:
                continue
            if _is_erased_later(message, row.offset, at.position) and not at.is_last:
                raise Moved
            shown.append(Shown(row.offset, Publication.FromString(row.publication).time_ms, message))
        return rows[-1].offset, shown, sum(len(row.publication) for row in rows)

    async def _rows(self, at: View, first: int, count: int, *, reverse: bool) -> list[CountedRow]:
        rows, _ = await self._log.read_counted(
            at.live.channel,
            since_offset=first + count if reverse else first - 1,
            limit=count,
            reverse=reverse,
            max_bytes=_MAX_BYTES,
        )
        return [row for row in rows if first <= row.offset < first + count]

    def _check(self, at: View) -> None:
        """Raise Moved if the conversation says more than at the position."""
        if at.has_moved:
            raise Moved


def _is_in_thread(one: Shown, root: int) -> bool:
    """Whether it is a message of this thread that is not deleted."""
    return isinstance(one.message, Message) and one.message.thread == root


def _is_erased_later(message: Found, offset: int, position: int) -> bool:
    """Whether a row was erased because of an event above the position.

    Nobody writes a message without content; an edit leaves one, where older versions are erased.
    """
    if isinstance(message, Deleted):
        return message.by > position
    content = message.content
    return message.rev == offset and not (content.text or content.attachments or content.meta)


def _version(row: CountedRow) -> Version | None:
    """Return the version that a row of the log holds; None if it holds none."""
    publication = Publication.FromString(row.publication)
    event = events.read(publication.data)
    if not isinstance(event, events.Message | events.Edit):
        return None
    return Version(row.offset, publication.time_ms, None if event.erased else content_of(event))
