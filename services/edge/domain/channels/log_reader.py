"""Reading logs: tops, history pages, gaps and recovery; from the hot log, then from the store."""

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
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.namespaces import Durability, Namespace

_RETRY_AFTER_S = 1.0
_TURN_S = 2.5
PAGE_BYTES = 65_536  # of what is read at a time for a client that catches up
_FRESH_S = 1.0  # so long others may be given a page of a `hot` log
_FIRST_PAUSE_S, _DOUBLED, _LONGEST_PAUSE_S = 0.1, 4, 1.0
Page = TypeVar("Page")


class TooMuch(Exception):
    """More than a reply may carry."""


def pause_s(failures: int) -> float:
    """How long to wait before a log is read again that could not be read so many times in a row."""
    return min(_FIRST_PAUSE_S * (1 << min(failures - 1, _DOUBLED)), _LONGEST_PAUSE_S)


class _Recovery:
    """One read for all who come back to a channel while it is under way."""

    __slots__ = ("begun", "log", "offset", "page")

    def __init__(self, log: ChannelLog, offset: int) -> None:
        self.log = log
        self.offset = offset  # of the client that has missed most
        self.begun = False
        self.page: asyncio.Task[HistoryPage | None]


class LogReader:
    """Reads of channels with durability above `none`; equal reads at the same time are one read."""

    def __init__(self, broker: Broker, store: Store, settings: Settings) -> None:
        self._broker = broker
        self._store = store
        self._settings = settings
        self._pages = PageCache()
        self._running: dict[tuple[object, ...], asyncio.Task[HistoryPage | None]] = {}
        self._recoveries: dict[str, _Recovery] = {}  # by channel, the last that was begun
        self.reads = 0
        self._waiting = 0
        self._slots = {stored: asyncio.Semaphore(settings.max_reads) for stored in (False, True)}

    async def top(self, channel: str, namespace: Namespace) -> StreamPosition:
        """Readable top; makes the epoch of a channel that has none yet."""
        if namespace.durability is Durability.STORED:
            return await self._broker.stored_top(channel) or await self._store.open(channel)
        return await self._broker.top(channel)

    async def has_begun(self, channel: str, namespace: Namespace) -> bool:
        """Whether there is a log; it does not begin one."""
        if namespace.durability is Durability.STORED:
            return await self._broker.stored_top(channel) is not None or await self._store.has_begun(channel)
        page = await self._broker.read(channel, since_offset=0, limit=1, reverse=False, stored=False, max_bytes=1)
        return page is not None

    async def after(self, channel: str, namespace: Namespace, position: StreamPosition) -> HistoryPage | None:
        """Everything after the position, ascending and without a hole, up to the top: all of it or None.

        None also where it is more than `recovery_limit` publications or `reply_max_bytes`, where the epoch is
        another one, and where the position is beyond the top: continuity can't be had.
        """
        try:
            return await self._all_after(channel, namespace, position)
        except TooMuch:
            return None

    async def _all_after(self, channel: str, namespace: Namespace, position: StreamPosition) -> HistoryPage | None:
        key = ("after", channel, position)
        return await self._once(key, namespace, lambda: self._after(channel, namespace, position))

    async def missed(self, channel: str, namespace: Namespace, log: ChannelLog, offset: int) -> HistoryPage | None:
        """As `after`, for one of many who come back: it may begin earlier, or have been asked for by another.

        The ring has what was found, as far as there is room, so that whoever comes next needs no read.

        Raises:
            TooMuch: it may well be there: see `page`.
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
        if page is None and recovery.offset < offset:  # not to be had from there, maybe from here
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
        stored = namespace.durability is Durability.STORED
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
                raise TooMuch  # it has begun: a read ends after so many bytes
            return None
        tag_times(namespace, publications)
        return HistoryPage(publications, top)

    async def page(self, channel: str, namespace: Namespace, log: ChannelLog, offset: int) -> list[Publication] | None:
        """What comes behind the offset, without a hole: as much as is read at a time; None: it is not there any more.

        Many who catch up in one channel share what is read: pages end at the same offsets.
        """
        key = (channel, log.epoch, offset)
        now = asyncio.get_running_loop().time()
        is_stored = namespace.durability is Durability.STORED
        known = self._pages.get(key, -math.inf if is_stored else now - _FRESH_S)  # a `hot` log may have been cut since
        if known is not None:
            return known
        edition = self._pages.edition
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
        if namespace.durability is Durability.STORED:
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
        """A history was removed: nothing that was read before is given out."""
        self._pages.clear()

    async def history(
        self, channel: str, namespace: Namespace, *, limit: int, since: StreamPosition | None, reverse: bool
    ) -> HistoryPage:
        """One page; semantics of wire protocol, 11.2. `limit` is already cut; 0 asks for the top only.

        Raises:
            ThalamusError: 107 for offset 0 with `reverse`, 112 for another epoch.
        """
        if since is not None and reverse and since.offset == 0:
            raise ThalamusError("since.offset must be above 0 with reverse", ErrorCode.BAD_REQUEST)
        offset = since.offset if since else 0
        if limit == 0:
            page = HistoryPage([], await self.top(channel, namespace))
        elif namespace.durability is Durability.STORED:
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
            or (not reverse and expected > page.top.offset)  # nothing there to read
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
        task = self._running.get(key)
        if task is None:
            self.reads += 1

            async def run() -> HistoryPage | None:
                return await self._in_turn(namespace, read)

            task = asyncio.create_task(run())
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def _in_turn(self, namespace: Namespace, read: Callable[[], Awaitable[Page]]) -> Page:
        """Not too many at a time, and not too many that wait; those that need the store hold up no others.

        Raises:
            Busy: too many wait.
            Unavailable: its turn did not come in time.
        """
        slots = self._slots[namespace.durability is Durability.STORED]
        if self._waiting >= self._settings.max_waiting_reads:
            raise Busy("too many reads wait", ErrorCode.TOO_MANY_REQUESTS, retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
        try:
            try:
                async with asyncio.timeout(_TURN_S):
                    await slots.acquire()
            except TimeoutError:
                raise Unavailable("too many reads before this one") from None
            try:
                return await read()
            finally:
                slots.release()
        finally:
            self._waiting -= 1


def within(publications: list[Publication], max_bytes: int) -> list[Publication]:
    """The first of them that fit a reply, at least one."""
    total = 0
    for count, publication in enumerate(publications):
        total += publication.size
        if total > max_bytes and count:
            return publications[:count]
    return publications
