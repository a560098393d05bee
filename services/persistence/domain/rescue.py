"""Stores what was acknowledged early, also where the epoch is over.

Purpose. A channel gets another epoch when Redis may have lost something of it, or the store is another copy. Redis may
still have publications then that were acknowledged (`early.py`) and that the store lacks. None of them is dropped.

Rules.

* The store takes rows only in the epoch in which Redis numbered them (`Row.epoch`), so whoever writes late, across a
  change of the epoch, takes no place of the new one.
* Epoch of Redis and store are the same: entries are stored at their offsets, page by page. If one is missing, or the
  store has another publication in its place, the channel gets another epoch first.
* They differ: the entries get the next places of the store's epoch, in their order. Subscribers are told, since the
  epoch is another one. A repeated publish finds the new place.
* An entry whose publication the store has already, by its id, is left out: another process may have rescued it, or this
  Redis came back from a copy. So is one up to the offset to which history was removed.
* In a channel that counts (a conversation) an entry may name others by their offsets. Once one gets another offset,
  all behind it that do not count are left out, and those that name such a one (`Mover`). That is logged.

Example. Redis has 8 to 10 of epoch a, and the store 1 to 8 of epoch b, as somebody else stored 8 and then changed the
epoch. The store has the id of 8, so 9 and 10 are stored, in epoch b. Had the store got another 9 in the meantime, they
would have become 10 and 11.

Trade-offs. Ids of the store above what Redis knows to be stored are read: few, unless Redis came back from an old copy.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from itertools import count
from typing import NamedTuple

from services.persistence.domain.backlog import PAGE_ENTRIES, Mover, Named, first_page, pages, rows_of
from services.persistence.domain.ports import ChannelState, HotLog, LogStore
from services.persistence.domain.sizes import HistorySizes
from services.persistence.metrics import RESCUED, UNRESCUED
from services.shared.errors import Unavailable
from services.shared.hotlog.entries import Entry
from services.shared.hotlog.hotlog import Unstored

logger = logging.getLogger(__name__)

_ATTEMPTS = 5  # other processes may change the channel at the same time


class Saved(NamedTuple):
    """Up to where what was readable in Redis is dealt with, and in which epoch."""

    epoch: str
    upto: int


class Rescue:
    """Stores the early acknowledged publications of a channel."""

    def __init__(
        self,
        hot: HotLog,
        store: LogStore,
        sizes: HistorySizes,
        renew_epoch: Callable[[str, ChannelState], Awaitable[None]],
    ) -> None:
        """Create it; `renew_epoch` gives a channel another epoch than that of the state."""
        self._hot, self._store, self._sizes, self._renew_epoch = hot, store, sizes, renew_epoch
        self.named: Named | None = None

    async def rescue(self, channel: str) -> Saved:
        """Store all that is readable now and not stored; return up to where that was.

        What becomes readable meanwhile is left: others may publish all the time.

        Raises:
            Unavailable: Redis or the store does not answer, or the channel changes all the time. Part may be stored.
        """
        attempts, first = 0, None
        while attempts < _ATTEMPTS:
            found = await first_page(self._hot, channel)
            if found is None:
                return Saved("", 0)
            if first is None or found.epoch != first.epoch:
                first = found
            if first.readable <= found.stored:
                return Saved(found.epoch, found.stored)
            state = await self._store.open(channel)
            if found.epoch != state.epoch:
                if await self._move(channel, found, state):
                    return Saved(found.epoch, found.readable)
                attempts += 1
            elif not await self._store_page(channel, found, state):
                attempts += 1
        raise Unavailable("the channel changes all the time")

    async def _store_page(self, channel: str, found: Unstored, state: ChannelState) -> bool:
        """Store a page at its offsets, and have Redis note it; returns whether it is done.

        If something is missing or in its place, the channel gets another epoch.
        """
        rows = rows_of(channel, found, found.readable)
        whole = [row for row, offset in zip(rows, count(found.stored + 1), strict=False) if row.offset == offset]
        if whole:
            written = (await self._store.write(whole))[channel]
            if isinstance(written, Unavailable):
                raise written
            if written.is_stale:
                return False
            if not written.conflict:
                commit = (channel, found.epoch, whole[-1].offset, self._sizes.of(channel))
                (readable,) = await self._hot.commit([commit], found.incarnation)
                if isinstance(readable, Exception):
                    raise Unavailable(str(readable))
                if len(whole) == len(rows):
                    return readable >= whole[-1].offset
        await self._renew_epoch(channel, state)
        return False

    async def _move(self, channel: str, found: Unstored, state: ChannelState) -> bool:
        """Store what is readable at the next places of the store's epoch.

        Returns False if the channel has changed meanwhile: nothing is lost, and it is to be tried again.
        """
        there = await self._ids(channel, found, state)
        mover = Mover(channel, state, self.named)
        rescued = left_out = 0
        async for page in pages(self._hot, channel):
            if page.epoch != found.epoch:
                return False
            missing: list[Entry] = []
            for entry in page.entries:
                place = there.get(entry.publication_id)
                if place is not None and place != entry.offset:
                    mover.note(entry.offset)
                elif place is None and state.removed < entry.offset <= found.readable:
                    missing.append(entry)
            rows = mover.rows(missing)
            left_out += len(missing) - len(rows)
            if rows:
                written = (await self._store.write(rows))[channel]
                if isinstance(written, Unavailable):
                    raise written
                if written.conflict:
                    return False
                rescued += len(rows)
            if page.entries[-1].offset >= found.readable:
                break
        RESCUED.inc(rescued)
        UNRESCUED.inc(left_out)
        if rescued or left_out:
            logger.warning(
                "acknowledged publications are stored in another epoch",
                extra={"channel": channel, "rescued": rescued, "left_out": left_out},
            )
        return True

    async def _ids(self, channel: str, found: Unstored, state: ChannelState) -> dict[bytes, int]:
        """Return ids of the store, with offsets, among which those of the entries are.

        If it has them.

        They are at their own offsets, or at the end, where another process has moved them.
        """
        since = max(0, min(found.stored, state.top - (found.readable - found.stored)))
        ids: dict[bytes, int] = {}
        while since < state.top:
            page = await self._store.ids(channel, since_offset=since, upto=state.top, limit=PAGE_ENTRIES)
            if not page:
                break
            ids.update((publication_id, offset) for offset, publication_id in page)
            since = page[-1][0]
        return ids
