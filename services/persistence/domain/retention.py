"""Retention: what is older, or more, than a namespace keeps is removed.

Purpose. A log need not grow for ever. `retention_days` says for how long the store keeps a publication,
`retention_messages` how many of a channel. What is beyond that goes, without a call and without a publish that pays.

Rules.

* About once an hour one replica looks at all channels of namespaces with retention (`sweep`). So up to an hour's worth
  more is kept. Whose turn it is stands in Redis (`Turn`); if two take it, both do the same.
* A channel is removed up to the last publication that is too old, or to the newest one less `retention_messages`:
  whichever is higher. Nothing goes that is less than 5 minutes old, or can't be read yet: edges may still read it for
  subscribers that are connected, where pub/sub lost it.
* It is removed as by `/api/history_remove`: hidden at once in Redis and store, deleted from the store once its
  idempotency keys no longer count. Epoch, offsets and top stay. So whoever recovers from below is told that it can't,
  nobody gets a page with a hole, and earlier versions of persistence know what it is.
* The age is the time since the publication was stored. Times of a channel rise with its offsets if clocks are right.
  So the place is searched for by steps that double, then halve.
* No clock is trusted alone. Nothing is removed while clocks differ or jump (`Clocks`). Before a removal all times below
  the place are read: it ends below the first that is young, since what comes behind that one is younger still. So
  times that are too low, or too high, keep more.
* The log of a conversation keeps its beginning, as it says who the members are. There, messages are deleted once a
  day's worth is too old (`Messages`).
* A channel that can't be looked at, for whatever reason, is counted and left for the next sweep, and so is the rest if
  the replica dies.

Example. `retention_days = 30`, and of 900 publications 1 to 400 are of last month. The search asks for the times of 1,
2, 4, 8 … 512, then of those between 256 and 512, and finds 400. Then the times of 1 to 400 are read.
A client that comes back with offset 380 gets `recovered: false`, one with 400 gets all.

Trade-offs. A sweep costs two or three reads of the store for a channel, also for one in which nothing happens; in
return nothing is written for a publication, and no timer can be lost. What is
removed is read once more before. See docs/decisions/0064.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from services.persistence.domain.clocks import Clocks, ClocksDisagree
from services.persistence.domain.log import Log
from services.persistence.domain.ports import Extent, HotLog, LogStore
from services.persistence.metrics import RETENTION_CHANNELS, RETENTION_FAILED, RETENTION_REMOVED, RETENTION_SWEPT
from services.shared.errors import Unavailable
from services.shared.namespaces import Namespace, Namespaces

logger = logging.getLogger(__name__)

PAUSE_S = 3_600  # seconds from the end of a sweep to the begin of the next one
_FIRST_S = 5.0  # longest time from the start to the first look, seconds
_LOOK_S = 30.0  # seconds between looks whether a sweep is due
_AT_ONCE = 8  # channels that are looked at at the same time
_DAY_S = 86_400.0
_READ_AT_ONCE = 500  # offsets whose times are read in one go
_SETTLED_S = 300.0  # age below which nothing is removed: an edge may have to read it for those who are connected


class Swept(NamedTuple):
    """What a sweep has done.

    `channels`: looked at. `failed`: channels that could not be looked at. `removed`: publications.
    """

    channels: int = 0
    failed: int = 0
    removed: int = 0


class Kept(NamedTuple):
    """What of a channel is kept.

    `oldest_at`: when the first publication was stored, Unix seconds; None: there is none.
    """

    extent: Extent
    oldest_at: float | None


class Turn(Protocol):
    """Says which replica sweeps, and when.

    Every method raises `Unavailable` if Redis does not answer.
    """

    async def time(self) -> float:
        """Return the time of Redis, Unix seconds."""

    async def take(self) -> bool:
        """Take the turn, if a sweep is due and nobody has it."""

    async def keep(self) -> bool:
        """Say that the sweep goes on; return whether the turn is still ours.

        To be called every few seconds.
        """

    async def end(self, swept: Swept, pause_s: int) -> None:
        """Note what the sweep has done; the next one is due after `pause_s` seconds."""


class Messages(Protocol):
    """Messages in logs that must keep their beginning.

    Every method raises `Unavailable`.
    """

    async def gone_upto(self, channel: str) -> int:
        """Return an offset up to which no message is left."""

    async def expire(self, channel: str, namespace: Namespace, upto: int) -> int:
        """Delete messages up to an offset; return how many, of those that were looked at."""


class Retention:
    """Removes what namespaces do not keep; see the module."""

    def __init__(
        self,
        log: Log,
        hot: HotLog,
        store: LogStore,
        namespaces: Namespaces,
        turn: Turn,
        clocks: Clocks,
        messages: Messages | None = None,
    ) -> None:
        """Create it.

        `messages`: of namespaces with conversations; None: these are left alone.
        """
        self._messages = messages
        self._log, self._hot, self._store, self._turn = log, hot, store, turn
        self._namespaces, self._clocks = namespaces, clocks

    async def run(self) -> None:
        """Sweep whenever it is due, until cancelled."""
        await asyncio.sleep(random.uniform(0.0, _FIRST_S))
        while True:
            try:
                await self.sweep()
            except (Unavailable, ClocksDisagree) as error:
                logger.warning("what is too old can't be removed now", extra={"error": str(error)})
            except Exception:  # a process ends with its first task that does, and nothing here is worth that
                logger.exception("what is too old can't be removed")
            await asyncio.sleep(_LOOK_S * random.uniform(0.8, 1.2))

    async def sweep(self) -> Swept | None:
        """Look at all channels, if it is due and no other replica does it.

        Returns what was done; None: it was not ours to do, or another replica has taken over.

        Raises:
            ClocksDisagree: it is not known what is too old. Another replica may know it.
            Unavailable: Redis does not answer, or the store can't list channels.
        """
        now = await self._clocks.now()
        if not await self._turn.take():
            return None
        swept, cursor = Swept(), ""
        while True:
            channels, cursor = await self._store.retained(cursor, self._namespaces)
            mine = [(channel, of) for channel in channels if (of := self._with_retention(channel)) is not None]
            for start in range(0, len(mine), _AT_ONCE):
                swept = await self._look(mine[start : start + _AT_ONCE], now, swept)
                if not await self._turn.keep():
                    return None
            if not cursor:
                break
            if not await self._turn.keep():
                return None
        await self._turn.end(swept, PAUSE_S)
        RETENTION_SWEPT.set_to_current_time()
        if swept.removed or swept.failed:
            logger.info("publications were removed by retention", extra=swept._asdict())
        return swept

    async def kept(self, channel: str) -> Kept:
        """Return what of a channel is kept.

        Raises:
            Unavailable: the store does not answer.
        """
        extent = await self._store.extent(channel)
        found = await self._store.stored_at(channel, extent.removed + 1) if extent.top > extent.removed else None
        return Kept(extent, None if found is None else found.at)

    def of(self, channel: str) -> Namespace | None:
        """Return the namespace of a channel."""
        return self._namespaces.find(channel)

    def _with_retention(self, channel: str) -> Namespace | None:
        found = self._namespaces.find(channel)
        return found if found is not None and found.has_retention else None

    async def _look(self, some: Sequence[tuple[str, Namespace]], now: float, swept: Swept) -> Swept:
        """Look at channels at the same time; return what was done so far."""
        outcomes = await asyncio.gather(*(self._remove(*one, now) for one in some), return_exceptions=True)
        channels, failed, removed = swept
        for (channel, _), outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failed += 1
                why = None if isinstance(outcome, Unavailable) else outcome
                about = {"channel": channel, "error": str(outcome)}
                logger.warning("a channel can't be looked at by retention", extra=about, exc_info=why)
            elif isinstance(outcome, BaseException):  # it is cancelled
                raise outcome
            else:
                channels, removed = channels + 1, removed + outcome
        RETENTION_CHANNELS.inc(channels - swept.channels)
        RETENTION_FAILED.inc(failed - swept.failed)
        RETENTION_REMOVED.inc(removed - swept.removed)
        return Swept(channels, failed, removed)

    async def _remove(self, channel: str, namespace: Namespace, now: float) -> int:
        """Remove what a channel does not keep; return how many publications."""
        if namespace.conversations:
            return await self._expire(channel, namespace, now)
        extent = await self._store.extent(channel)
        upto = extent.removed
        if namespace.retention_messages:
            spare = Extent(upto, extent.top - namespace.retention_messages)
            upto = await self._last_before(channel, spare, now - _SETTLED_S)
        if namespace.retention_days:
            old = Extent(upto, extent.top)
            upto = await self._last_before(channel, old, now - namespace.retention_days * _DAY_S)
        if upto <= extent.removed:
            return 0
        readable = await self._hot.readable(
            channel
        )  # None: it was not used since Redis began, and is as the store says
        upto = upto if readable is None else min(upto, readable.top)
        await self._log.remove_history(channel, upto)
        return max(0, upto - extent.removed)

    async def _expire(self, channel: str, namespace: Namespace, now: float) -> int:
        """Delete the messages that a conversation does not keep; return how many.

        Only if a day's worth is too old: each time there are events in the log for it.
        """
        if self._messages is None:
            return 0
        low, before = await self._messages.gone_upto(channel), now - namespace.retention_days * _DAY_S
        first = await self._store.stored_at(channel, low + 1)
        if first is None or first.at >= before - _DAY_S:
            return 0
        upto = await self._last_before(channel, Extent(low, (await self._store.extent(channel)).top), before)
        expired = 0
        while upto > low:
            done = await self._messages.expire(channel, namespace, upto)
            last, low, expired = low, await self._messages.gone_upto(channel), expired + done
            if not done and low <= last:  # the rest is being erased: the next sweep goes on
                break
        return expired

    async def _last_before(self, channel: str, extent: Extent, before: float) -> int:
        """Return an offset up to which all of these were stored before a time.

        `removed` if none was. It is the highest one if times rise with offsets.
        """
        upto = await self._search(channel, extent, before)
        for low in range(extent.removed + 1, upto + 1, _READ_AT_ONCE):
            young = await self._store.first_since(channel, low, min(low + _READ_AT_ONCE - 1, upto), before)
            if young is not None:
                return young - 1
        return upto

    async def _search(self, channel: str, extent: Extent, before: float) -> int:
        """Return the place that times suggest, by few reads."""
        low, high, step = extent.removed, extent.top + 1, 1  # `low` is old enough, `high` is not
        is_far = True
        while low + 1 < high:
            offset = min(low + step, high - 1) if is_far else (low + high) // 2
            found = await self._store.stored_at(channel, offset)
            if found is None:  # somebody else has removed it meanwhile
                break
            if found.at < before:
                low = min(found.last, high - 1)
            else:
                high, is_far = max(found.first, low + 1), False
            step *= 2
        return low
