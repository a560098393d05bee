"""Keeps the index of messages up with the log, behind all acknowledgements.

Purpose. Searches read what is not indexed yet from the log, so they find everything at once. That is slow if it is
much. So a conversation is indexed about half a second after something was said.

Rules.

* Some stores write some hundred documents at once as cheaply as one (`rows_at_once`). There fewer rows wait, unless one
  of them changes or deletes a message, or a search has asked for them (`at_once`).
* A conversation is indexed from where it was up to its position, in pages. The messages that a page names (new, edited,
  deleted ones) are looked up, and their documents are what they are then: perhaps newer than the page, never older. So
  an erased message leaves the index by the event that erased it.
* Documents of removed history, of a deleted conversation and of purged messages are taken out some at a time, before
  the position passes the event that says so.
* A page is one transaction of some 128 KiB, and only one waits for the log's writer at a time. So a publish waits for
  one page at most.
* The position moves only if nobody else moved it: of two replicas one indexes a page.
* Where a mark says that something changed (`projection.py`), it goes once that is indexed, too. So a deletion reaches
  the index whoever dies. The projection waits for a few pages at most, and comes again for the rest.
* Plain messages have no mark. What a process that died has left of them, and all that was written before there was an
  index, is found by a sweep: at the start, and every ten minutes. It looks for logs that go on beyond the index, takes
  its time, and begins where it was after a restart, as the positions are kept. If that, or scrubbing, takes long, it is
  done less often.

Example. 30 messages in ten conversations within half a second: one transaction, 30 documents.

Trade-offs. Documents are made a second time for messages that change. Old conversations pass through memory when the
sweep indexes them; those that nobody uses go again at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from services.persistence.chat.conversations import Conversations
from services.persistence.chat.domain import events
from services.persistence.chat.domain.names import type_of
from services.persistence.chat.domain.state import Content, Message, Phase
from services.persistence.chat.index.analyser import atoms_of
from services.persistence.chat.index.ports import Document, SearchIndex, Update
from services.persistence.chat.index.query import author_tag, tags_of
from services.persistence.chat.live import Found, Live
from services.persistence.chat.metrics import SEARCH_INDEXED
from services.persistence.chat.rows import parsed_row
from services.persistence.domain.ports import Rows
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

_TICK_S = 0.1
_SOON_S = 0.5  # from a message to its document
_PAGE_ROWS = 256
_PAGE_BYTES = 128 << 10  # of a transaction, about
_CHANGE_BYTES = 8 << 10  # that count for a document that is replaced or taken out: it may have been long
_REACHED_PAGES = 4  # that the projection waits for
_WRITTEN_AT_ONCE = 16  # conversations of one transaction
_SWEEP_S = 600.0  # seconds between sweeps
_ASKED_S = 1.0  # seconds between looks at what searches have asked for
_SCRUB_S = 300.0  # seconds between rounds of scrubbing
_REST = 20.0  # times what a sweep or a round of scrubbing took: the least pause after it
_SWEPT_AT_ONCE = 1_000  # channels
_PAUSE_S = 0.01  # of the sweep, behind each page
_TRIES = 10
_ASKED_FOR = 1_000  # conversations that searches want indexed; the next search asks again
_KNOWN = 10_000  # conversations of which it is remembered what was looked at


class _Reach(Enum):
    """How much of a conversation is indexed; all, where a row is worth a write."""

    MUCH = "much"  # so much that it is worth a write
    CHANGES = "changes"  # and what changes messages
    ALL = "all"


class _Known(NamedTuple):
    """What is known of a conversation.

    So one that is written to is not asked for each time.

    Args:
        indexed: It is indexed up to here at least.
        seen: No row above `indexed`, up to here, changes what is indexed.
        removed: Nothing of the history that was removed up to here is in the index.
    """

    indexed: int = 0
    seen: int = 0
    removed: int = 0


class Indexing:
    """Indexes conversations of this process; see the module."""

    def __init__(self, conversations: Conversations, rows: Rows, index: SearchIndex) -> None:
        """Create it; `rows` is the store of the log."""
        self._conversations, self._rows, self._index = conversations, rows, index
        self.is_conversation: Callable[[str], bool] = lambda channel: type_of(channel) is not None  # of what is swept
        self._due: dict[str, float] = {}  # channel → when to index it, by the clock of the loop
        self._asked_for: set[str] = set()  # that searches could not read, and want indexed
        self._known: OrderedDict[str, _Known] = OrderedDict()  # by channel
        self._writing = asyncio.Lock()  # so that one transaction at most stands before those of the log

    def soon(self, channel: str) -> None:
        """Have a conversation indexed soon."""
        if channel not in self._due:
            self._due[channel] = asyncio.get_running_loop().time() + _SOON_S

    def at_once(self, channel: str) -> None:
        """Have all of a conversation indexed soon, however little it is.

        Also of one that nobody uses.
        """
        if len(self._asked_for) < _ASKED_FOR:
            self._asked_for.add(channel)

    async def reach(self, live: Live) -> bool:
        """Index some pages of a conversation; return whether that was all of it.

        What is left is indexed soon.

        Raises:
            Unavailable: the store does not answer, or other replicas index it all the time.
        """
        upto = live.position
        self._due.pop(live.channel, None)
        pages = 0
        for _ in range(_TRIES):
            update = await self._page(live, _Reach.CHANGES)
            if update is None:
                return True
            if not (await self._write([update]))[0]:
                continue
            if update.indexed >= upto:
                return True
            pages += 1
            if pages == _REACHED_PAGES:
                self._go_on(live.channel)
                return False
        raise Unavailable("other replicas index the conversation all the time")

    async def run(self) -> None:
        """Index what is due, sweep and scrub, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run())
            group.create_task(_again_and_again(self.index_asked_for, _ASKED_S, rest=1.0))
            group.create_task(_again_and_again(self.sweep, _SWEEP_S))
            group.create_task(_again_and_again(self._index.scrub, _SCRUB_S))

    async def flush(self) -> None:
        """Index all that is due soon, as at an orderly stop."""
        await self._index_due(float("inf"))

    async def index_asked_for(self) -> None:
        """Index what searches could not read."""
        asked_for, self._asked_for = self._asked_for, set()
        for channel in asked_for:
            await self._index_slowly(channel, _Reach.ALL)

    async def sweep(self) -> int:
        """Index all conversations that are behind; return how many those were."""
        count, after = 0, ""
        while True:
            channels, after = await self._index.behind(after, _SWEPT_AT_ONCE)
            for channel in channels:
                if self.is_conversation(channel):
                    count += await self._index_slowly(channel, _Reach.MUCH)
            if not after:
                return count

    async def _index_slowly(self, channel: str, reach: _Reach) -> int:
        """Index a conversation with pauses; return 1, or 0 if that failed."""
        was_used = self._conversations.cached(channel) is not None
        try:
            live = await self._conversations.current(channel)
            failures = 0
            while failures < _TRIES and (update := await self._page(live, reach)) is not None:
                failures = 0 if (await self._write([update]))[0] else failures + 1
                await asyncio.sleep(_PAUSE_S)
            return 1
        except Exception as error:
            _log([channel], error)
            return 0
        finally:
            if not was_used:
                self._conversations.forget(channel)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            await asyncio.sleep(_PAUSE_S if any(at <= now for at in self._due.values()) else _TICK_S)
            try:
                await self._index_due(loop.time())
            except Exception as error:  # a search may be slow, and the log must go on
                _log((), error)

    async def _index_due(self, now: float) -> None:
        due = [channel for channel, at in self._due.items() if at <= now]
        for start in range(0, len(due), _WRITTEN_AT_ONCE):
            await self._index_some(due[start : start + _WRITTEN_AT_ONCE])

    async def _index_some(self, channels: Sequence[str]) -> None:
        """Index one page of each of these conversations, and go on later if need be."""
        updates: list[Update] = []
        positions: dict[str, int] = {}
        for channel in channels:
            live = self._conversations.cached(channel)
            if self._due.pop(channel, None) is None:  # `reach` came first
                continue
            try:
                if live is not None and (update := await self._page(live)) is not None:
                    updates.append(update)
                    positions[channel] = live.position
            except Exception as error:  # a search reads it from the log, and the sweep comes by
                _log([channel], error)
        for some in _parts(updates):
            try:
                for update, is_done in zip(some, await self._write(some), strict=True):
                    if not is_done or update.indexed < positions[update.channel]:
                        self._go_on(update.channel)
            except Exception as error:
                _log([update.channel for update in some], error)

    def _go_on(self, channel: str) -> None:
        """Have the next page of a conversation indexed, after a pause."""
        self._due[channel] = asyncio.get_running_loop().time()

    async def _write(self, updates: Sequence[Update]) -> list[bool]:
        async with self._writing:
            outcome = await self._index.apply(updates)
        SEARCH_INDEXED.inc(sum(len(one.documents) for one, is_done in zip(updates, outcome, strict=True) if is_done))
        return outcome

    # One page.

    async def _is_early(self, live: Live, reach: _Reach) -> bool:
        """Whether what is not indexed waits."""
        known = self._known.get(live.channel, _Known())
        if reach is _Reach.ALL or live.position - known.indexed >= self._index.rows_at_once:
            return False
        if live.removed > known.removed or live.state.phase is Phase.DELETED:
            return False
        return reach is _Reach.MUCH or not await self._changes(live, known)

    async def _changes(self, live: Live, known: _Known) -> bool:
        """Whether any row that was not looked at changes messages that may be indexed."""
        if live.position <= known.seen:
            return False
        position = await self._conversations.stored_position(live)  # after a loss others may take these offsets
        rows = await self._rows.read_counted(
            live.channel, since_offset=known.seen, upto=position, limit=self._index.rows_at_once, reverse=False
        )
        parsed = (parsed_row(row.offset, row.publication)[0] for row in rows)
        if any(isinstance(event, events.Edit | events.Delete | events.Purge) for event in parsed):
            return True
        self._note(live.channel, seen=position)
        return False

    def _note(self, channel: str, *, indexed: int = 0, seen: int = 0, removed: int = 0) -> None:
        """Note what is known of a conversation, beside what was."""
        known = self._known.get(channel, _Known())
        indexed = max(known.indexed, indexed)
        self._known[channel] = _Known(indexed, max(known.seen, indexed, seen), max(known.removed, removed))
        self._known.move_to_end(channel)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    async def _page(self, live: Live, reach: _Reach = _Reach.MUCH) -> Update | None:
        """Return the next page of a conversation; None: it is indexed, or waits."""
        channel = live.channel
        if await self._is_early(live, reach):
            return None
        indexed = (await self._index.indexed([channel]))[channel]
        if indexed > self._known.get(channel, _Known()).indexed:
            self._note(channel, indexed=indexed)
            if await self._is_early(live, reach):
                return None
        async with live.lock:
            if indexed >= live.position:
                return None
            position = await self._conversations.stored_position(live)  # what Redis may lose is not indexed
            is_deleted = live.state.phase is Phase.DELETED
            removed = live.removed
            lost = indexed if is_deleted else min(removed, indexed)
            if lost and (gone := await self._index.offsets_upto(channel, lost, self._index.gone_at_once)):
                return Update(channel, indexed, indexed, dict.fromkeys(gone))
            if is_deleted:
                return Update(channel, indexed, position, {})
            if removed > self._known.get(channel, _Known()).removed:
                self._note(channel, removed=removed)
                if await self._is_early(live, reach):
                    return None
            rows = await self._rows.read_counted(
                channel, since_offset=indexed, upto=position, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
            )
            upto = indexed if rows else position
            size = 0
            named: set[int] = set()
            for row in rows:
                event, _ = parsed_row(row.offset, row.publication)
                match event:
                    case events.Message():
                        named.add(row.offset)
                        size += len(row.publication)
                    case events.Edit() | events.Delete():
                        named.add(event.of)
                        size += len(row.publication) + _CHANGE_BYTES
                    case events.Purge() if named:
                        break  # it begins a page of its own
                    case events.Purge():
                        if gone := await self._purged(live, event.user, min(event.upto, indexed)):
                            return Update(channel, indexed, indexed, dict.fromkeys(gone))
                upto = row.offset
                if size >= _PAGE_BYTES:
                    break
            found = await self._conversations.messages(live, named, has_lock=True)
            return Update(channel, indexed, upto, {offset: document_of(found.get(offset)) for offset in named})

    async def _purged(self, live: Live, user: str, upto: int) -> list[int]:
        """Return some purged messages of a user that still have documents."""
        if user not in live.purges:
            return []
        above, most = 0, self._index.gone_at_once
        while offsets := await self._index.offsets_with(live.channel, author_tag(user), above, upto, most):
            above = offsets[-1]
            found = await self._conversations.messages(live, offsets, has_lock=True)
            if gone := [offset for offset in offsets if not isinstance(found.get(offset), Message)]:
                return gone
        return []


def _parts(updates: Sequence[Update]) -> Iterator[list[Update]]:
    """Yield updates in groups that one transaction each can write quickly."""
    part: list[Update] = []
    size = 0
    for update in updates:
        more = sum(_CHANGE_BYTES if one is None else sum(map(len, one.atoms)) for one in update.documents.values())
        if part and size + more > _PAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(update)
        size += more
    if part:
        yield part


def document_of(message: Found | None) -> Document | None:
    """Return the document of a message; None if nothing of it can be found."""
    if not isinstance(message, Message) or is_emptied(message.content):
        return None
    content = message.content
    return Document(message.time_ms, atoms_of(content.text), tags_of(message.author, content))


def is_emptied(content: Content) -> bool:
    """Whether there is nothing in it any more: nobody writes such a message."""
    return not (content.text or content.attachments or content.meta)


async def _again_and_again(work: Callable[[], Awaitable[object]], every_s: float, *, rest: float = _REST) -> None:
    """Do something now, and at intervals, whether it fails or not."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await work()
        except Exception as error:
            _log((), error)
        await asyncio.sleep(pause_s(every_s, loop.time() - began, rest))


def pause_s(every_s: float, took_s: float, rest: float = _REST) -> float:
    """Return how long to wait before work that took so long is done again."""
    return max(every_s, rest * took_s)


def _log(channels: Collection[str], error: Exception) -> None:
    """Log why something could not be indexed."""
    if isinstance(error, Unavailable):
        logger.warning("it can't be indexed now", extra={"channels": list(channels), "error": str(error)})
    else:
        logger.error("it could not be indexed", exc_info=error, extra={"channels": list(channels)})
