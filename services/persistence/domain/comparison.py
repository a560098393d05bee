"""Redis and the store compared, channel by channel: what one of them lacks is brought from the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from services.persistence.domain.ports import ChannelState, HotLog, LogStore, Row
from services.shared.errors import ThalamusError, Unavailable
from services.shared.hotlog.hotlog import KEY_TTL_S, Unstored
from services.shared.publication import parse

logger = logging.getLogger(__name__)

UNSTORED_LIMIT = 20_000
_DEFAULT_SIZE = 1_000  # where no namespace was heard of
_MAX_REMEMBERED = 200_000
_VERIFIED_AT_ONCE = 32
_MAX_WAIT_S = 2.0
_VERIFY_ATTEMPTS = 4  # others may be at it at the same time


class HistorySizes:
    """`history_size` of channels as edges named it last, for work that no edge asks for."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def remember(self, channel: str, history_size: int) -> None:
        """At most 200,000 channels."""
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[channel] = history_size

    def of(self, channel: str) -> int:
        """As many publications as Redis keeps of it."""
        return self._known.get(channel, _DEFAULT_SIZE)


class Comparison:
    """Every method raises `Unavailable` where Redis or the store does not answer."""

    def __init__(self, hot: HotLog, store: LogStore, sizes: HistorySizes) -> None:
        self._hot, self._store, self._sizes = hot, store, sizes
        self._verifying: dict[str, asyncio.Task[None]] = {}

    async def verify_all(self, channels: Sequence[str]) -> dict[str, Unavailable]:
        """Those that could not be compared, and why."""
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
        """Where there is much to bring, other channels of a batch do not wait for it."""
        try:
            async with asyncio.timeout(_MAX_WAIT_S):
                await self.verify(channel)
        except TimeoutError:
            raise Unavailable("the channel is being compared with the store") from None

    async def verify(self, channel: str) -> None:
        """Missing in Redis: bring it. Behind the store: advance it, and bring the keys that still count.

        One for all who ask meanwhile, and it goes on when they give up: a slow store is asked once, and not again and
        again in vain.
        """
        task = self._verifying.get(channel)
        if task is None:
            task = self._verifying[channel] = asyncio.create_task(self._verify(channel), name=f"verify {channel}")
            task.add_done_callback(lambda done: self._verified(channel, done))
        await asyncio.shield(task)

    def _verified(self, channel: str, done: asyncio.Task[None]) -> None:
        self._verifying.pop(channel, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it, and it is no error if nobody does

    async def _verify(self, channel: str) -> None:
        for _ in range(_VERIFY_ATTEMPTS):
            state = await self._store.open(channel)
            if state.removed:  # a Redis from before the removal has it still
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
        """Redis may be ahead of what was read of the store only because somebody stored more meanwhile.

        Raises:
            Unavailable: it is not that: readers saw what the store has not. It is an older one.
        """
        seen = await self._store.heartbeat()
        (found,) = await self._hot.unstored([channel], 1)
        state = await self._store.open(channel)
        if found is not None and found.epoch == state.epoch and found.stored > state.top:
            logger.error(
                "the store is older than it was: all `stored` channels get new epochs",
                extra={"channel": channel, "top": state.top, "was": found.stored},
            )
            await self._store.begin_anew(seen)
            raise Unavailable("the store is older than it was")

    async def _finish_or_advance(self, channel: str, state: ChannelState) -> None:
        """The store has more than readers see: a crash before the commit, or a Redis that went back."""
        (found,) = await self._hot.unstored([channel], UNSTORED_LIMIT)
        rows = rows_of(channel, found, state.top) if found and found.epoch == state.epoch else []
        whole = found is not None and len(rows) == state.top - found.stored
        written = (await self._store.write(rows))[channel] if whole and rows else None
        if isinstance(written, Unavailable):
            raise written
        if found is not None and written is not None and not written.conflict:
            commit = (channel, state.epoch, state.top, self._sizes.of(channel))
            (readable,) = await self._hot.commit([commit], found.incarnation)
            if not isinstance(readable, Exception) and readable >= state.top:
                return
        await self._advance(channel, state, [])

    async def try_to_resolve(self, channel: str, forget: Sequence[tuple[str, str]]) -> Unavailable | None:
        try:
            await self._resolve(channel, forget)
        except Unavailable as error:
            return error
        return None

    async def _resolve(self, channel: str, forget: Sequence[tuple[str, str]]) -> None:
        """A conflict: the sequencer was behind the store."""
        logger.warning("Redis was behind the store", extra={"channel": channel})
        await self._store_is_whole(channel)
        state = await self._store.open(channel)
        await self._advance(channel, state, forget)

    async def _advance(self, channel: str, state: ChannelState, forget: Sequence[tuple[str, str]]) -> None:
        known = await self._store.recent_keys(channel, KEY_TTL_S)
        await self._hot.advance(channel, state, await self._newest_ms(channel, state), known, forget)

    async def _newest_ms(self, channel: str, state: ChannelState) -> int:
        """Time of the newest publication, below which none may fall; 0: there is none, or it can't be read."""
        newest = await self._store.read(channel, since_offset=0, upto=state.top, limit=1, reverse=True)
        try:
            return parse(newest[0][1]).time_ms if newest else 0
        except ThalamusError:
            return 0

    async def finish(self, channel: str) -> bool | None:
        """Store and commit what is above `stored`; whether there was any; None: it can't be done now."""
        (found,) = await self._hot.unstored([channel], UNSTORED_LIMIT)
        if found is None or not found.entries:
            return False
        offsets = [offset for offset, *_ in found.entries]
        if offsets != list(range(found.stored + 1, found.stored + 1 + len(offsets))):
            return None if await self.try_to_resolve(channel, []) else True
        rows = [Row(channel, offset, pid, pub, key) for offset, pid, pub, key in found.entries]
        written = (await self._store.write(rows))[channel]
        if isinstance(written, Unavailable):
            return None
        if written.conflict:
            return None if await self.try_to_resolve(channel, []) else True
        commit = (channel, found.epoch, written.top, self._sizes.of(channel))
        (readable,) = await self._hot.commit([commit], found.incarnation)
        # Another life of Redis, or somebody changed the channel: what is there now must be looked at again.
        return True if not isinstance(readable, Exception) and readable >= written.top else None


def rows_of(channel: str, found: Unstored | None, upto: int) -> list[Row]:
    """Rows of the entries that Redis has above what is stored, through an offset."""
    entries = found.entries if found else []
    return [Row(channel, offset, pid, pub, key) for offset, pid, pub, key in entries if offset <= upto]
