"""Stores what was acknowledged before it was stored (durability `queued`).

Purpose. Whatever Redis made readable early goes to the store soon, in large writes.

Rules.

* Who acknowledged something of a channel drains it. If that process dies, the sweep of any replica does: the channel
  is still marked as dirty. Nobody owns a channel: writes of two processes are the same rows with the same ids.
* Only what is readable is drained, in the order of offsets. What is numbered above belongs to a batch that stores it.
* If the store fails, it is tried again after a pause. What is not stored stays in Redis, and beyond `max_unstored`
  publishers are refused. A change of the epoch meanwhile may drop it: see Known limits in docs/storage.md.
* With a queue (`services/persistence/queue`) rows are handed to that, and what the store has got of them is looked up
  about every second.
* A hole, or another publication at an offset of the store, is a case for the comparison (`comparison.py`).

Example. 8 and 9 were acknowledged early. The drainer reads them from Redis, writes them, and commits: `stored` is 9.

Trade-offs. Entries are read back from Redis: one more round trip per write, in exchange for a memory that does not grow
with the backlog. With SQLite channels that wait at the same time share a transaction; with DynamoDB each has its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.persistence.domain.backlog import PAGE_ENTRIES, is_next, rows_of
from services.persistence.domain.comparison import Comparison
from services.persistence.domain.keyed_queue import KeyedQueue
from services.persistence.domain.ports import PAGE_BYTES, HotLog, LogStore, Row, Written
from services.persistence.domain.sizes import HistorySizes
from services.persistence.metrics import DRAIN_FAILURES, DRAIN_OLDEST, DRAINED
from services.shared.batching.linger import Linger
from services.shared.errors import Unavailable
from services.shared.hotlog.hotlog import Unstored

logger = logging.getLogger(__name__)

_ENTRIES = PAGE_ENTRIES  # of one write
LEAST_ENTRIES = 16  # of one channel, however many are in the write
_CHANNELS = 64  # of one write, if channels share a transaction
_LONGEST_WAIT_S = 0.02  # longest linger, seconds: nobody waits for a drain
_PAUSE_S = (0.5, 1.5)  # least and longest pause before a failed channel is tried again, seconds
_LOOK_S = (0.8, 1.2)  # least and longest pause before it is looked what the store has got, seconds
_FOREVER_S = 1e9


class Handover(NamedTuple):
    """What became of rows that were handed over.

    `rows`: the first ones, which are to be stored now. `waits`: whether others are under way.
    """

    rows: Sequence[Row]
    waits: bool


class Sink(Protocol):
    """Where rows are handed over in place of the store."""

    async def hand_over(self, channel: str, epoch: str, rows: Sequence[Row]) -> Handover:
        """Take consecutive rows that the store lacks.

        Called again with them until they are stored.

        Raises:
            Unavailable: it can't be done now.
        """


@dataclass(slots=True)
class _Age:
    """Since when a channel may have something to drain, by the clock of the drainer.

    At `read_at` it was readable up to `readable`: once that is stored, what is left is younger.
    """

    since: float
    read_at: float
    readable: int = 0

    def stored(self, upto: int, read_at: float, readable: int) -> None:
        """Note that it is stored up to `upto`; at `read_at` the top was `readable`."""
        if upto >= readable:
            self.since = read_at
        elif upto >= self.readable:
            self.since = self.read_at
        else:
            return
        self.read_at, self.readable = read_at, readable


class Drainer:
    """Stores the early acknowledged publications of channels that it is told of."""

    def __init__(
        self,
        hot: HotLog,
        store: LogStore,
        comparison: Comparison,
        sizes: HistorySizes,
        sink: Sink | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create it; `run` does the work.

        `sink`: where rows go in place of the store. `clock`: seconds that only grow.
        """
        self._clock = clock
        self._hot, self._store, self._comparison, self._sizes = hot, store, comparison, sizes
        self._sink, self._apart = sink, store.apart or sink is not None
        self._queue: KeyedQueue[str] = KeyedQueue(
            self._drain,
            lambda channels: None,  # at the end of the process: a sweep of another one finds them
            max_waiting=1 << 40,
            max_per_key=1 << 40,
            max_batch=1 if self._apart else _CHANNELS,
            max_wait_s=_FOREVER_S,
            linger=Linger(_LONGEST_WAIT_S),
        )
        self._waiting: set[str] = set()  # channels in the queue
        self._ages: dict[str, _Age] = {}  # by channel, of those that may have something to drain
        DRAIN_OLDEST.set_function(lambda: self.oldest_s)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to drain, as far as this process knows."""
        return not self._ages

    @property
    def oldest_s(self) -> float:
        """Seconds that the oldest waits to be stored, or somewhat more; 0: none waits."""
        oldest = min((age.since for age in self._ages.values()), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    def wake(self, channel: str) -> None:
        """Note that a channel has something to drain."""
        if channel in self._waiting:
            return
        self._waiting.add(channel)
        now = self._clock()
        self._ages.setdefault(channel, _Age(now, now))
        self._queue.put(channel if self._apart else "", channel)

    async def run(self) -> None:
        """Drain channels until cancelled."""
        await self._queue.run()

    async def _drain(self, channels: list[str]) -> None:
        """Store one part of each channel.

        Those that have more, or failed, are drained again.
        """
        self._waiting.difference_update(channels)
        try:
            left = await self._write(channels)
        except Unavailable as error:
            left = dict.fromkeys(channels, error)
        except Exception as error:
            logger.exception("draining failed")
            left = dict.fromkeys(channels, Unavailable(str(error)))
        for channel in channels:
            failure = left.get(channel, False)
            if isinstance(failure, Unavailable):
                DRAIN_FAILURES.inc()
                logger.warning("not stored yet", extra={"channel": channel, "error": str(failure)})
                asyncio.get_running_loop().call_later(random.uniform(*_PAUSE_S), self.wake, channel)
            elif failure is None:
                asyncio.get_running_loop().call_later(random.uniform(*_LOOK_S), self.wake, channel)
            elif failure:
                self.wake(channel)
            elif channel not in self._waiting:
                self._ages.pop(channel, None)

    async def _write(self, channels: Sequence[str]) -> dict[str, Unavailable | bool | None]:
        """Store and commit; return the channels that are not done.

        They have more (True), wait for the sink (None), or failed.
        """
        left: dict[str, Unavailable | bool | None] = {}
        rows: list[Row] = []
        found: dict[str, Unstored] = {}
        waiting: set[str] = set()
        read_at = self._clock()
        entries, max_bytes = max(LEAST_ENTRIES, _ENTRIES // len(channels)), PAGE_BYTES // len(channels)
        pages = await self._hot.unstored(channels, entries, max_bytes=max_bytes)
        for channel, one in zip(channels, pages, strict=True):
            if one is None or one.readable <= one.stored:
                if one is not None:
                    self._note_stored(channel, one.stored, read_at, one.readable)
                continue
            mine = rows_of(channel, one, one.readable)
            if not is_next(mine, one.stored):
                left |= await self._compare(channel)
                continue
            if self._sink is not None:
                try:
                    now, waits = await self._sink.hand_over(channel, one.epoch, mine)
                except Unavailable as error:
                    left[channel] = error
                    continue
                if waits:
                    waiting.add(channel)
                if not now:
                    left[channel] = None
                    continue
                mine = [*now]
            found[channel] = one._replace(entries=one.entries[: len(mine)])
            rows += mine
        written = await self._store.write(rows) if rows else {}
        stored: dict[str, list[tuple[str, str, int, int]]] = {}  # by incarnation
        for channel, one in found.items():
            result = written[channel]
            if isinstance(result, Unavailable):
                left[channel] = result
            elif result.conflict:
                left |= await self._compare(channel)
            else:
                upto = min(result.top, one.entries[-1].offset)
                stored.setdefault(one.incarnation, []).append((channel, one.epoch, upto, self._sizes.of(channel)))
        DRAINED.inc(sum(isinstance(written[row.channel], Written) for row in rows))
        for incarnation, commits in stored.items():
            for commit, readable in zip(commits, await self._hot.commit(commits, incarnation), strict=True):
                if isinstance(readable, Exception):
                    left[commit[0]] = Unavailable(str(readable))
                elif readable != commit[2]:  # there is more, or the channel has changed meanwhile
                    left[commit[0]] = None if commit[0] in waiting else True
                if isinstance(readable, int) and readable >= commit[2]:
                    self._note_stored(commit[0], commit[2], read_at, found[commit[0]].readable)
        return left

    def _note_stored(self, channel: str, upto: int, read_at: float, readable: int) -> None:
        if age := self._ages.get(channel):
            age.stored(upto, read_at, readable)

    async def _compare(self, channel: str) -> dict[str, Unavailable | bool | None]:
        """Have a channel compared that differs from the store."""
        failure = await self._comparison.try_to_resolve(channel, [])
        return {} if failure is None else {channel: failure}
