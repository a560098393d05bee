"""Comparison of Redis with the store, by channel, and repair of what differs.

Purpose. The store is the truth about a `stored` channel; Redis numbers it and keeps its recent part. They differ after
a crash between two steps of the commit protocol (`log.py`), after a loss in Redis, or after a restore of the store. So
a channel is compared before its first use in every incarnation of Redis.

Rules. `stored` is the readable top in Redis, `top` the last offset of the store.

* Redis has no meta of the channel: epoch, top and the idempotency keys of the last 300 s are brought from the store.
* Same epoch, `stored` = `top`: Redis notes the incarnation in which the channel was compared, and if the channel counts
  what it has counted (`n`, `mv`), from the store and the entries above its top. It may be used.
* `stored` < `top`, and Redis has just the entries in between, with the same publication ids: a process died before the
  commit, which is made up for.
* Otherwise Redis is behind or has another epoch: it is advanced to the store. What it had numbered beyond that goes; it
  was never acknowledged.
* `stored` > `top`, and a second look confirms it: readers saw what the store does not have, so the store is an older
  copy. All `stored` channels get new epochs.
* A `queued` channel has entries that were readable, and acknowledged, before they were stored. They are stored before
  Redis is advanced, in whatever epoch they are (`rescue.py`). If one is missing, or the store has another publication
  in its place, or Redis has lost something since the generation that the store has noted, the channel gets another
  epoch.
* Keys come before, or together with, what lets anybody append: a repeated publish must find its first position.

Example. The store has offsets 1 to 9. Redis came back from a copy with 1 to 7. It has no entries 8 and 9, so it is
advanced to 9, with the keys of both. The next publication gets 10; a repeat of the ninth within 300 s gets 9.

Trade-offs. Each channel costs a comparison per incarnation, when it is used first: nothing is done for idle channels,
and the first use after a restart is slower. All callers share one comparison, which goes on when they give up: a slow
store is asked once, not again and again in vain. See docs/decisions/0002, 0005 and 0021.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from google.protobuf.message import DecodeError

from services.persistence.domain.backlog import first_page, is_next, rows_of
from services.persistence.domain.erasures import Erasures
from services.persistence.domain.generations import generation_of
from services.persistence.domain.ports import ChannelState, HotLog, LogStore
from services.persistence.domain.rescue import Rescue
from services.persistence.domain.sizes import HistorySizes
from services.persistence.metrics import LOST
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import KEY_TTL_S
from services.shared.process.single_flight import SingleFlight
from thalamus.common.v1 import common_pb2

logger = logging.getLogger(__name__)

_ADVANCE_ATTEMPTS = 4  # something may become readable meanwhile
_VERIFIED_AT_ONCE = 32  # channels compared concurrently
_MAX_WAIT_S = 2.0  # longest wait of a batch for a comparison, seconds
_VERIFY_ATTEMPTS = 5  # other replicas may change the channel at the same time
First = Callable[[str], Awaitable[None]]  # called with a channel; raises `Unavailable` if it must not be used now


class Comparison:
    """Compares channels in Redis with the store, and repairs what differs.

    A method raises `Unavailable` if Redis or the store does not answer, unless it says that it returns the failure.
    """

    def __init__(
        self, hot: HotLog, store: LogStore, sizes: HistorySizes, erasures: Erasures, first: First | None = None
    ) -> None:
        """Create it; `first` is called with a channel before it is compared."""
        self._hot, self._store, self._sizes, self._erasures = hot, store, sizes, erasures
        self._first = first
        self.rescue = Rescue(hot, store, sizes, self._renew_epoch)
        self._verifying = SingleFlight[None]()

    async def verify_all(self, channels: Sequence[str]) -> dict[str, Unavailable]:
        """Compare these channels; return those that failed, with the reason."""
        failed: dict[str, Unavailable] = {}
        for start in range(0, len(channels), _VERIFIED_AT_ONCE):
            some = channels[start : start + _VERIFIED_AT_ONCE]
            for channel, result in zip(
                some, await asyncio.gather(*map(self._verify_soon, some), return_exceptions=True), strict=True
            ):
                if isinstance(result, Unavailable):
                    failed[channel] = result
                elif result is not None:
                    raise result
        return failed

    async def _verify_soon(self, channel: str) -> None:
        """Compare a channel, but wait at most 2 s for it.

        The comparison goes on in the background, so a channel with much to bring does not delay the others of a batch.

        Raises:
            Unavailable: it takes longer, or can't be done.
        """
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await self.verify(channel)
        except TimeoutError:
            raise Unavailable("the channel is being compared with the store") from None

    async def verify(self, channel: str) -> None:
        """Bring Redis up to the store, and have it note that the channel was compared.

        All callers share one comparison, which goes on when they give up.
        """
        await self._verifying.do(channel, lambda: self._verify(channel), name=f"verify {channel}")

    async def _verify(self, channel: str) -> None:
        """Compare and repair until Redis has what the store has, at most 5 times.

        After that it returns: the caller looks whether Redis has the channel, and reports `Unavailable` or tries again.
        """
        if self._first is not None:
            await self._first(channel)
        for _ in range(_VERIFY_ATTEMPTS):
            state = await self._store.open(channel)
            if state.queued_in and state.queued_in != generation_of(self._hot.incarnation()):
                await self.rescue.rescue(channel)
                await self._renew_epoch(channel, state, forget=True)
                continue
            if state.removed:  # Redis may be from before the removal
                await self._hot.trim(channel, state.removed)
            found = await self._hot.verify(channel, state)
            if found == 2:
                await self._store_is_whole(channel)
                found = await self._hot.verify(channel, state, may_be_ahead=True)
            if found == 1:
                return
            if found == -1:
                known = await self._store.recent_keys(channel, KEY_TTL_S)
                await self._hot.init(channel, state, await self._newest_ms(channel, state), known)
            else:
                await self._finish_or_advance(channel, state)

    async def _store_is_whole(self, channel: str) -> None:
        """Check that the store is not an older copy, where Redis seems to be ahead of it.

        Redis may be ahead of what was read because another replica has stored more meanwhile. If not, readers saw what
        the store does not have, and all `stored` channels get new epochs.

        Raises:
            Unavailable: the store is an older copy.
        """
        seen = await self._store.heartbeat()
        (found,) = await self._hot.unstored([channel], 1)
        state = await self._store.open(channel)
        if found is not None and found.epoch == state.epoch and found.stored > state.top:
            logger.error(
                "the store is older than it was: all `stored` channels get new epochs",
                extra={"channel": channel, "top": state.top, "was": found.stored},
            )
            await self._store.begin_new_epochs(seen)
            raise Unavailable("the store is older than it was")

    async def _finish_or_advance(self, channel: str, state: ChannelState) -> None:
        """Bring Redis, which is behind, up to the top of the store."""
        if not await self._commit_stored(channel, state):
            await self._advance(channel, state, [])

    async def _commit_stored(self, channel: str, state: ChannelState) -> bool:
        """Commit what the store has, page by page; return whether it is done.

        It can be done if Redis has just the entries that are missing, and the store agrees.
        """
        upto = 0
        while upto < state.top:
            found = await first_page(self._hot, channel)
            rows = rows_of(channel, found, state.top) if found and found.epoch == state.epoch else []
            if found is None or not is_next(rows, found.stored):
                return False
            written = (await self._store.write(rows))[channel]
            if isinstance(written, Unavailable):
                raise written
            if written.conflict:
                return False
            await self._erasures.before_readable(channel, state.epoch, rows, found.incarnation)
            upto = rows[-1].offset
            commit = (channel, state.epoch, upto, self._sizes.of(channel))
            (readable,) = await self._hot.commit([commit], found.incarnation)
            if isinstance(readable, Exception) or readable < upto:
                return False
        return upto > 0

    async def try_to_resolve(self, channel: str, forget: Sequence[tuple[str, str]]) -> Unavailable | None:
        """Resolve a conflict: advance Redis to the store. Returns the failure, if any.

        `forget` has (user, key) of the publications whose offsets turned out to be taken.
        """
        try:
            await self._resolve(channel, forget)
        except Unavailable as error:
            return error
        return None

    async def _resolve(self, channel: str, forget: Sequence[tuple[str, str]]) -> None:
        """Advance Redis, which gave offsets that the store had already."""
        logger.warning("Redis was behind the store", extra={"channel": channel})
        await self._store_is_whole(channel)
        state = await self._store.open(channel)
        if not forget and await self._is_resolved(channel, state):
            return
        await self._advance(channel, state, forget)

    async def _is_resolved(self, channel: str, state: ChannelState) -> bool:
        """Whether Redis has what the store has, and can go on: somebody else was faster."""
        if state.queued_in not in (0, generation_of(self._hot.incarnation())):
            return False
        if await self._hot.verify(channel, state) != 1:
            return False
        found = await first_page(self._hot, channel)
        if found is None or found.epoch != state.epoch:
            return False
        return found.top == found.stored or is_next(rows_of(channel, found, found.top), found.stored)

    async def _advance(self, channel: str, state: ChannelState, forget: Sequence[tuple[str, str]]) -> None:
        """Set Redis to the store's state, with the keys of the last 300 s.

        What was acknowledged before it was stored is stored first.
        """
        for _ in range(_ADVANCE_ATTEMPTS):
            saved = await self.rescue.rescue(channel)
            state = await self._store.open(channel)
            known = await self._store.recent_keys(channel, KEY_TTL_S)
            if await self._hot.advance(channel, state, await self._newest_ms(channel, state), known, forget, saved):
                return
        raise Unavailable("publications become readable all the time")

    async def _renew_epoch(self, channel: str, state: ChannelState, *, forget: bool = False) -> None:
        """Give a channel another epoch: Redis may have lost what was not stored.

        `forget`: nothing was acknowledged early in this generation of Redis. The next loss costs no epoch unless
        something is. Whoever acknowledges notes the generation before, and then nothing is done here.
        """
        generation = generation_of(self._hot.incarnation())
        if generation < state.queued_in:
            raise Unavailable("another incarnation of Redis is in use")
        await self._store.renew_epoch(channel, state, generation, forget=forget)
        LOST.inc()
        logger.warning("a channel gets another epoch: Redis may have lost something", extra={"channel": channel})

    async def _newest_ms(self, channel: str, state: ChannelState) -> int:
        """Time of the newest publication, Unix ms; 0 if there is none or it can't be read.

        No later publication may have an earlier time.
        """
        newest = await self._store.read(channel, since_offset=0, upto=state.top, limit=1, reverse=True)
        try:
            return common_pb2.Publication.FromString(newest[0][1]).time_ms if newest else 0
        except DecodeError:
            return 0

    async def finish(self, channel: str, upto: int | None = None) -> bool | None:
        """Store and commit the entries above the readable top, page by page.

        `upto`: up to this offset; None: as many as there are now. Returns whether there were any; None if it can't be
        done now, and then some may be done.
        """
        is_first = True
        while True:
            found = await first_page(self._hot, channel)
            if found is None or not found.entries or (upto is not None and found.stored >= upto):
                return not is_first
            upto, is_first = found.top if upto is None else upto, False
            rows = rows_of(channel, found, found.entries[-1].offset)
            if not is_next(rows, found.stored):
                return None if await self.try_to_resolve(channel, []) else True
            written = (await self._store.write(rows))[channel]
            if isinstance(written, Unavailable):
                return None
            if written.conflict:
                return None if await self.try_to_resolve(channel, []) else True
            try:
                await self._erasures.before_readable(channel, found.epoch, rows, found.incarnation)
            except Unavailable:
                return None
            commit = (channel, found.epoch, rows[-1].offset, self._sizes.of(channel))
            (readable,) = await self._hot.commit([commit], found.incarnation)
            if isinstance(readable, Exception) or readable < rows[-1].offset:
                return None  # incarnation or channel have changed: the next sweep looks at what is there now
