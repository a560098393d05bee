"""Reads the logs of channels: newest positions, gaps, recovery and history pages.

**Purpose.** After a lost message or a reconnect, many clients and channels need parts of the same logs at the same
time. This module reads them from Redis and, for `stored` channels, from the store. It reads each part once for all who
need it, and bounds the reads.

**Rules.**

1. A `hot` log is read from Redis only. A `stored` log is read from Redis first, and what Redis does not keep any more
   is read from the store.
2. A read for a repair or a recovery (`after`, `missed`) is complete or nothing: every offset after the position up to
   the newest one, without a hole. None: continuity is impossible from there. If it is more than one reply may carry,
   `after` returns None as well, and `missed` raises `TooMuch`: it can be read page by page.
3. Equal reads at the same time are one read. Recoveries in one channel that wait for their turn become one read, from
   the lowest offset that any of the clients has. What was found goes into the channel's ring, for those who come later.
4. A page (`page`) ends at a multiple of `recovery_limit`, or earlier if it has 64 KiB. So clients that catch up in one
   channel meet at the same offsets and share pages. Pages of `stored` logs may be shared until a history is removed,
   those of `hot` logs for one second, because the log may have been trimmed since. So are those of namespaces with
   retention, and those of conversations, because something may have been erased that this edge has not heard of yet.
5. At most `max_reads` run at the same time, for `hot` and `stored` channels each. A read waits 2.5 s at most for its
   turn, and if too many wait, it is refused at once (`Busy`). Reads of newest positions are not bounded here.

**Example.** An edge dies, and 1,000 of its clients come back to one channel here. They are at offsets from 90 to 100,
and the newest one is 120. The ring has nothing yet. One read after 90 serves all of them, and each takes what is behind
its own offset.

**Trade-offs.** A client that missed little may wait for the read of one that missed much. If that read is too much or
has a hole, the client is read for by itself.

Decisions: docs/decisions/0025-recovery-goes-on-behind-the-reply.md,
docs/decisions/0006-overload-is-refused-on-arrival.md (bounds), docs/decisions/0024-stored-channels-keep-everything.md
(what each kind of log keeps).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.channels.page_cache import PageCache
from services.edge.domain.channels.time_tag import tag_times
from services.edge.domain.model import HistoryPage, Publication, StreamPosition
from services.edge.domain.ports import Broker, Store
from services.edge.domain.settings import Settings
from services.shared.errors import Busy, ErrorCode, ThalamusError
from services.shared.namespaces import Namespace
from services.shared.process.backoff import Backoff
from services.shared.process.single_flight import SingleFlight

_TURN_S = 2.5  # longest wait for a read slot, seconds
PAGE_BYTES = 65_536  # publications of one page for a client that catches up; one publication may be larger
_FRESH_S = 1.0  # how long a page may be shared of a log from which something may have gone, seconds
_PAUSE_S = (0.1, 1.0)  # first and longest pause before a failed read is repeated, seconds
Page = TypeVar("Page")


class TooMuch(Exception):
    """The publications are more than one reply may carry."""


def read_backoff() -> Backoff:
    """Pauses before failed reads of one log are repeated: 100 ms, doubling up to 1 s.

    Without jitter: reads that failed together are repeated together, as one batch to Redis.
    """
    return Backoff(*_PAUSE_S, jitter=0.0)


class _Recovery:
    """One read, shared by all clients that recover in a channel at the same time."""

    __slots__ = ("begun", "log", "offset", "page")

    def __init__(self, log: ChannelLog, offset: int) -> None:
        self.log = log
        self.offset = offset  # lowest offset of the clients: the read begins behind it
        self.begun = False  # the read is under way, so its offset is fixed
        self.page: asyncio.Task[HistoryPage | None]


class LogReader:
    """Reader of all logs of one edge; shares and bounds the reads."""

    def __init__(self, broker: Broker, store: Store, settings: Settings) -> None:
        self._broker = broker
        self._store = store
        self._settings = settings
        self._pages = PageCache()
        self._running = SingleFlight[HistoryPage | None]()
        self._recoveries: dict[str, _Recovery] = {}  # channel → its newest shared read
        self.reads = 0  # gaps, recoveries and pages read since the start
        self._waiting = 0  # reads that wait for a slot or are under way
        self._slots = {stored: asyncio.Semaphore(settings.max_reads) for stored in (False, True)}  # by "is `stored`"

    async def top(self, channel: str, namespace: Namespace) -> StreamPosition:
        """Return the newest readable position; create the log if there is none."""
        if namespace.durability.keeps:
            return await self._broker.stored_top(channel) or await self._store.open(channel)
        return await self._broker.top(channel)

    async def has_begun(self, channel: str, namespace: Namespace) -> bool:
        """Return whether the channel has a log; do not create one."""
        if namespace.durability.keeps:
            return await self._broker.stored_top(channel) is not None or await self._store.has_begun(channel)
        page = await self._broker.read(channel, since_offset=0, limit=1, reverse=False, stored=False, max_bytes=1)
        return page is not None

    async def after(self, channel: str, namespace: Namespace, position: StreamPosition) -> HistoryPage | None:
        """Return everything after the position, in ascending order, or None.

        None if there is a hole, if it is more than `recovery_limit` publications or `reply_max_bytes` bytes, if the log
        has another epoch, or if the position is beyond the newest one.
        """
        try:
            return await self._all_after(channel, namespace, position)
        except TooMuch:
            return None

    async def _all_after(self, channel: str, namespace: Namespace, position: StreamPosition) -> HistoryPage | None:
        key = ("after", channel, position)
        return await self._once(key, namespace, lambda: self._after(channel, namespace, position))

    async def missed(self, channel: str, namespace: Namespace, log: ChannelLog, offset: int) -> HistoryPage | None:
        """Return everything after `offset`, as `after` does, from a shared read.

        The result may begin before `offset`, if another client needs more. It may end before the newest position, if
        the read began earlier: then the caller tries again. The publications are also put into the ring of `log`, as
        far as there is room.

        Raises:
            TooMuch: it is more than a reply may carry: read it with `page`.
        """
        recovery = self._recoveries.get(channel)
        if recovery is None or recovery.log is not log or (recovery.begun and recovery.offset > offset):
            recovery = self._recoveries[channel] = _Recovery(log, offset)
            recovery.page = asyncio.create_task(self._recover(channel, namespace, recovery))
        recovery.offset = min(recovery.offset, offset)
        try:
            page = await asyncio.shield(recovery.page)
        except TooMuch:
            if recovery.offset == offset:
                raise
            page = None
        if page is None and recovery.offset < offset:  # impossible from the lower offset, but maybe not from this one
            return await self._all_after(channel, namespace, StreamPosition(offset, log.epoch))
        return page

    async def _recover(self, channel: str, namespace: Namespace, recovery: _Recovery) -> HistoryPage | None:
        log = recovery.log

        async def read() -> HistoryPage | None:
            recovery.begun = True
            return await self._after(channel, namespace, StreamPosition(recovery.offset, log.epoch))

        self.reads += 1
        forgotten = log.forgotten
        try:
            page = await self._in_turn(namespace, read)
        finally:
            if self._recoveries.get(channel) is recovery:
                del self._recoveries[channel]
        if page is not None and log.forgotten == forgotten:
            log.refill(page.publications)
        return page

    async def _after(self, channel: str, namespace: Namespace, position: StreamPosition) -> HistoryPage | None:
        limit = self._settings.recovery_limit
        stored = namespace.durability.keeps
        page = await self._broker.read(
            channel,
            since_offset=position.offset,
            limit=limit + 1,
            reverse=False,
            stored=stored,
            max_bytes=2 * self._settings.reply_max_bytes,
        )
        if page is None:
            if not stored:
                return None
            top = await self._store.open(channel)
            page = HistoryPage([], top)
        top = page.top
        if top.epoch != position.epoch or position.offset > top.offset:
            return None
        if top.offset - position.offset > limit:
            raise TooMuch
        publications = [one for one in page.publications if one.offset <= top.offset]
        first_kept = publications[0].offset if publications else top.offset + 1
        if first_kept > position.offset + 1 and stored:
            older = await self._store.read(
                channel,
                since_offset=position.offset,
                limit=first_kept - position.offset - 1,
                reverse=False,
                max_bytes=2 * self._settings.reply_max_bytes,
            )
            publications = [one for one in older.publications if one.offset < first_kept] + publications
        if sum(one.size for one in publications) > self._settings.reply_max_bytes:
            raise TooMuch
        expected = range(position.offset + 1, top.offset + 1)
        if [one.offset for one in publications] != list(expected):
            if publications and publications[0].offset == expected.start:
                raise TooMuch  # the beginning is there, and the read stopped at its limit of bytes
            return None
        tag_times(namespace, publications)
        return HistoryPage(publications, top)

    async def page(self, channel: str, namespace: Namespace, log: ChannelLog, offset: int) -> list[Publication] | None:
        """Return the next page of publications after `offset`, without a hole.

        It has at most `recovery_limit` publications and 64 KiB, but at least one publication. None if the log does not
        have them any more, or has another epoch. Clients that catch up in the same channel share pages.
        """
        key = (channel, log.epoch, offset)
        now = asyncio.get_running_loop().time()
        is_fixed = not (namespace.conversations or namespace.has_retention)
        lasts = namespace.durability.keeps and is_fixed
        known = self._pages.get(key, -math.inf if lasts else now - _FRESH_S)
        if known is not None:
            return known
        edition = self._pages.edition(channel)
        found = await self._once(("page", edition, *key), namespace, lambda: self._page(channel, namespace, offset))
        if found is None or found.top.epoch != log.epoch:
            return None
        page = found.publications
        if not page or [one.offset for one in page] != list(range(offset + 1, offset + 1 + len(page))):
            return None
        self._pages.put(key, page, edition, now)
        return page

    async def _page(self, channel: str, namespace: Namespace, offset: int) -> HistoryPage | None:
        size = self._settings.recovery_limit
        limit = size - offset % size
        if namespace.durability.keeps:
            found = await self._stored_history(channel, limit, offset, reverse=False, max_bytes=PAGE_BYTES)
        else:
            read = await self._broker.read(
                channel, since_offset=offset, limit=limit, reverse=False, stored=False, max_bytes=PAGE_BYTES
            )
            if read is None:
                return None
            found = read
        publications = within(found.publications, PAGE_BYTES)
        tag_times(namespace, publications)
        return HistoryPage(publications, found.top)

    def forget(self) -> None:
        """Drop all cached pages, because a history was removed."""
        self._pages.clear()

    def forget_channel(self, channel: str) -> None:
        """Drop the cached pages of a channel, because something was erased from it."""
        self._pages.drop(channel)

    async def history(
        self,
        channel: str,
        namespace: Namespace,
        *,
        limit: int,
        since: StreamPosition | None,
        reverse: bool,
        above: int = 0,
    ) -> HistoryPage:
        """Return one page of a channel's history (wire protocol, 11.2).

        Args:
            limit: Largest number of publications, not above the settings' limit; 0 asks for the newest position only.
            above: What stands up to this offset is left out.

        Raises:
            ThalamusError: 107 for offset 0 with `reverse`, 112 if `since` has another epoch than the log.
        """
        if since is not None and reverse and since.offset == 0:
            raise ThalamusError("since.offset must be above 0 with reverse", ErrorCode.BAD_REQUEST)
        offset = since.offset if since else 0
        if not reverse:
            offset = max(offset, above)
        if limit == 0:
            page = HistoryPage([], await self.top(channel, namespace))
        elif namespace.durability.keeps:
            page = await self._in_turn(
                namespace,
                lambda: self._stored_history(
                    channel, limit, offset, reverse=reverse, max_bytes=self._settings.reply_max_bytes
                ),
            )
        else:
            found = await self._in_turn(
                namespace,
                lambda: self._broker.read(
                    channel,
                    since_offset=offset,
                    limit=limit,
                    reverse=reverse,
                    stored=False,
                    max_bytes=self._settings.reply_max_bytes,
                ),
            )
            page = found or HistoryPage([], await self.top(channel, namespace))
        if since is not None and since.epoch and since.epoch != page.top.epoch:
            raise ThalamusError(code=ErrorCode.UNRECOVERABLE_POSITION)
        publications = within(page.publications, self._settings.reply_max_bytes)
        if above and reverse:
            publications = [one for one in publications if one.offset > above]
        tag_times(namespace, publications)
        return HistoryPage(publications, page.top)

    async def _stored_history(
        self, channel: str, limit: int, offset: int, *, reverse: bool, max_bytes: int
    ) -> HistoryPage:
        page = await self._broker.read(
            channel, since_offset=offset, limit=limit, reverse=reverse, stored=True, max_bytes=max_bytes
        )
        if page is None:
            await self._store.open(channel)
            page = HistoryPage([], StreamPosition(0, ""))
        newest = min(offset - 1, page.top.offset) if offset else page.top.offset
        expected = newest if reverse else offset + 1
        whole = page.top.epoch != "" and (
            (reverse and expected <= 0)
            or (not reverse and expected > page.top.offset)  # there is nothing after the offset
            or (
                bool(page.publications)
                and page.publications[0].offset == expected
                and (len(page.publications) == limit or not reverse or page.publications[-1].offset == 1)
            )
        )
        if whole:
            return page
        return await self._store.read(channel, since_offset=offset, limit=limit, reverse=reverse, max_bytes=max_bytes)

    async def _once(
        self, key: tuple[object, ...], namespace: Namespace, read: Callable[[], Awaitable[HistoryPage | None]]
    ) -> HistoryPage | None:
        async def run() -> HistoryPage | None:
            self.reads += 1
            return await self._in_turn(namespace, read)

        return await self._running.do(key, run)

    async def _in_turn(self, namespace: Namespace, read: Callable[[], Awaitable[Page]]) -> Page:
        """Run a read once there is a slot for it.

        Reads of `stored` channels have their own slots, so that a slow store does not hold up `hot` channels.

        Raises:
            Busy: too many reads wait, or there was no slot within 2.5 s.
        """
        slots = self._slots[namespace.durability.keeps]
        if self._waiting >= self._settings.max_waiting_reads:
            raise Busy("too many reads wait")
        self._waiting += 1
        try:
            try:
                async with asyncio.timeout(_TURN_S):
                    await slots.acquire()
            except TimeoutError:
                raise Busy("too many reads before this one") from None
            try:
                return await read()
            finally:
                slots.release()
        finally:
            self._waiting -= 1


def within(publications: list[Publication], max_bytes: int) -> list[Publication]:
    """Return the first publications that fit into `max_bytes`, at least one."""
    total = 0
    for count, publication in enumerate(publications):
        total += publication.size
        if total > max_bytes and count:
            return publications[:count]
    return publications
