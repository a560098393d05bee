"""Keeps the index of messages up with the log, behind all acknowledgements.

Purpose. Searches read what is not indexed yet from the log, so they find everything at once. That is slow if it is
much. So a conversation is indexed about half a second after something was said.

Rules.

* A conversation is indexed from where it was up to its position, in pages. The messages that a page names (new, edited,
  deleted, purged ones) are looked up, and their documents are what they are then: perhaps newer than the page, never
  older. So an erased message leaves the index by the event that erased it.
* The position moves only if nobody else moved it: of two replicas one indexes a page.
* Where a mark says that something changed (`projection.py`), it goes once that is indexed, too. So a deletion reaches
  the index whoever dies.
* Plain messages have no mark. What a process that died has left of them, and all that was written before there was an
  index, is found by a sweep: at the start, and every ten minutes. It looks for logs that go on beyond the index, takes
  its time, and begins where it was after a restart, as the positions are kept.

Example. 30 messages in ten conversations within half a second: one transaction, 30 documents.

Trade-offs. Documents are made a second time for messages that change. Old conversations pass through memory when the
sweep indexes them; those that nobody uses go again at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

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
from services.persistence.domain.ports import LogStore
from services.shared.errors import Unavailable

logger = logging.getLogger(__name__)

_TICK_S = 0.1
_SOON_S = 0.5  # from a message to its document
_PAGE_ROWS = 256
_PAGE_BYTES = 1 << 20
_WRITTEN_AT_ONCE = 16  # conversations of one transaction
_SWEEP_S = 600.0  # seconds between sweeps
_SCRUB_S = 300.0  # seconds between rounds of scrubbing
_SWEPT_AT_ONCE = 1_000  # channels
_PAUSE_S = 0.01  # of the sweep, behind each page
_TRIES = 10


class Indexing:
    """Indexes conversations of this process; see the module."""

    def __init__(self, conversations: Conversations, rows: LogStore, index: SearchIndex) -> None:
        """Create it; `rows` is the store of the log."""
        self._conversations, self._rows, self._index = conversations, rows, index
        self._due: dict[str, float] = {}  # channel → when to index it, by the clock of the loop

    def soon(self, channel: str) -> None:
        """Have a conversation indexed soon."""
        if channel not in self._due:
            self._due[channel] = asyncio.get_running_loop().time() + _SOON_S

    async def reach(self, live: Live) -> None:
        """Index a conversation up to its present position.

        Raises:
            Unavailable: the store does not answer, or other replicas index it all the time.
        """
        upto = live.position
        self._due.pop(live.channel, None)
        for _ in range(_TRIES):
            while (update := await self._page(live)) is not None:
                if not (await self._write([update]))[0]:
                    break
            if (await self._index.indexed([live.channel]))[live.channel] >= upto:
                return
        raise Unavailable("other replicas index the conversation all the time")

    async def run(self) -> None:
        """Index what is due, sweep and scrub, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run())
            group.create_task(_again_and_again(self.sweep, _SWEEP_S))
            group.create_task(_again_and_again(self._index.scrub, _SCRUB_S))

    async def flush(self) -> None:
        """Index all that is due soon, as at an orderly stop."""
        await self._index_due(float("inf"))

    async def sweep(self) -> int:
        """Index all conversations that are behind; return how many those were."""
        count, after = 0, ""
        while True:
            channels, after = await self._index.behind(after, _SWEPT_AT_ONCE)
            for channel in channels:
                if type_of(channel) is not None:
                    count += await self._sweep_one(channel)
            if not after:
                return count

    async def _sweep_one(self, channel: str) -> int:
        """Index a conversation slowly; return 1, or 0 if that failed."""
        was_used = self._conversations.cached(channel) is not None
        try:
            live = await self._conversations.current(channel)
            while (update := await self._page(live)) is not None and (await self._write([update]))[0]:
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
            await asyncio.sleep(_TICK_S)
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
        for channel in channels:
            live = self._conversations.cached(channel)
            if self._due.pop(channel, None) is None:  # `reach` came first
                continue
            try:
                if live is not None and (update := await self._page(live)) is not None:
                    updates.append(update)
                    if update.indexed < live.position:
                        self.soon(channel)
            except Exception as error:  # a search reads it from the log, and the sweep comes by
                _log([channel], error)
        try:
            if updates:
                await self._write(updates)
        except Exception as error:
            _log([update.channel for update in updates], error)

    async def _write(self, updates: Sequence[Update]) -> list[bool]:
        outcome = await self._index.apply(updates)
        SEARCH_INDEXED.inc(sum(len(one.documents) for one, is_done in zip(updates, outcome, strict=True) if is_done))
        return outcome

    # One page.

    async def _page(self, live: Live) -> Update | None:
        """Return the next page of a conversation; None: it is indexed."""
        async with live.lock:
            channel = live.channel
            indexed = (await self._index.indexed([channel]))[channel]
            position = live.position
            if indexed >= position:
                return None
            if live.state.phase is Phase.DELETED:
                return Update(channel, indexed, position, await self._removed(channel, indexed, position))
            documents = await self._removed(channel, indexed, live.removed) if live.removed else {}
            rows = await self._rows.read_counted(
                channel, since_offset=indexed, upto=position, limit=_PAGE_ROWS, reverse=False, max_bytes=_PAGE_BYTES
            )
            upto = rows[-1].offset if rows else position
            named: set[int] = set()
            for row in rows:
                event, _ = parsed_row(row.offset, row.publication)
                match event:
                    case events.Message():
                        named.add(row.offset)
                    case events.Edit() | events.Delete():
                        named.add(event.of)
                    case events.Purge():
                        await self._purge(live, indexed, event.user, min(event.upto, indexed))
            found = await self._conversations.messages(live, named, has_lock=True)
            documents |= {offset: document_of(found.get(offset)) for offset in named}
            return Update(channel, indexed, upto, documents)

    async def _removed(self, channel: str, indexed: int, upto: int) -> dict[int, Document | None]:
        """Take documents of removed history out; return the last of them."""
        while True:
            offsets = await self._index.offsets_upto(channel, min(upto, indexed), _PAGE_ROWS)
            if len(offsets) < _PAGE_ROWS:
                return dict.fromkeys(offsets)
            await self._index.apply([Update(channel, indexed, indexed, dict.fromkeys(offsets))])

    async def _purge(self, live: Live, indexed: int, user: str, upto: int) -> None:
        """Take the documents of a user's purged messages out."""
        above = 0
        while offsets := await self._index.offsets_with(live.channel, author_tag(user), above, upto, _PAGE_ROWS):
            above = offsets[-1]
            found = await self._conversations.messages(live, offsets, has_lock=True)
            gone = [offset for offset in offsets if not isinstance(found.get(offset), Message)]
            if gone:
                await self._index.apply([Update(live.channel, indexed, indexed, dict.fromkeys(gone))])


def document_of(message: Found | None) -> Document | None:
    """Return the document of a message; None if nothing of it can be found."""
    if not isinstance(message, Message) or is_emptied(message.content):
        return None
    content = message.content
    return Document(message.time_ms, atoms_of(content.text), tags_of(message.author, content))


def is_emptied(content: Content) -> bool:
    """Whether there is nothing in it any more: nobody writes such a message."""
    return not (content.text or content.attachments or content.meta)


async def _again_and_again(work: Callable[[], Awaitable[object]], every_s: float) -> None:
    """Do something now, and at intervals, whether it fails or not."""
    while True:
        try:
            await work()
        except Exception as error:
            _log((), error)
        await asyncio.sleep(every_s)


def _log(channels: Collection[str], error: Exception) -> None:
    """Log why something could not be indexed."""
    if isinstance(error, Unavailable):
        logger.warning("it can't be indexed now", extra={"channels": list(channels), "error": str(error)})
    else:
        logger.error("it could not be indexed", exc_info=error, extra={"channels": list(channels)})
