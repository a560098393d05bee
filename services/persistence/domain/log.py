"""The log of `stored` channels: number, store, make readable, answer; in batches, group commit across edges."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.persistence.domain.comparison import UNSTORED_LIMIT, Comparison, HistorySizes, rows_of
from services.persistence.domain.keyed_queue import KeyedQueue
from services.persistence.domain.ports import MAX_BYTES, ChannelState, HotLog, LogStore, Row, Written
from services.persistence.metrics import (
    BATCH_ITEMS,
    BATCHES,
    CONFLICTS,
    STORED,
    UNSTORED_BUSY,
    UNSTORED_UNAVAILABLE,
    WAITING,
)
from services.shared.errors import Busy, ErrorCode, ThalamusError, Unavailable
from services.shared.hotlog.hotlog import STAMP_BYTES, Batch, Item
from services.shared.hotlog.keys import pair
from services.shared.rpc.linger import Linger

logger = logging.getLogger(__name__)

_ROUNDS = 4  # of one batch: init, then a conflict, then the append that succeeds, and one to spare
_MAX_WAIT_S = 2.5  # edges wait 2.8 s: what waited for longer is not worth a number
_LONGEST_WAIT_S = 0.005  # of a busy process, for more to write at once
_SWEPT_AT_ONCE = 3
_SWEEP_FAILURES = 3  # channels that the store can't take now, before a sweep ends: each may have cost seconds


class Request(NamedTuple):
    """One publication to append and what its namespace says."""

    channel: str
    item: Item
    history_size: int
    history_ttl_s: int


class AppendedPosition(NamedTuple):
    """Where it stands; `repeated_key`: an earlier publish with its key does."""

    offset: int
    epoch: str
    repeated_key: bool


class _Numbered(NamedTuple):
    """Requests with places in one channel: (index, offset), the offset negative where an earlier publish had it."""

    epoch: str
    stored: int  # readable up to there
    stamp: bytes  # what the log put behind each publication that is new
    places: list[tuple[int, int]]


class TooLarge(ThalamusError):
    """More than one place of the store's log can hold; nothing was done."""

    code = ErrorCode.BAD_REQUEST


Outcome = AppendedPosition | ThalamusError
OutcomeCallback = Callable[[int, Outcome], None]
_Waiting = tuple[Request, int, OutcomeCallback]  # the place of the request among those it came with, and whom to tell


class Log:
    """One writer per lane: what arrives while a batch is being written is the lane's next batch.

    A lane is one channel where the store takes each by itself, so that none waits for another; else it is all of them.
    """

    def __init__(
        self,
        hot: HotLog,
        store: LogStore,
        *,
        max_unstored: int,
        max_waiting: int,
        max_batch: int,
        max_item_bytes: int = 1 << 30,
    ) -> None:
        """`max_item_bytes`: what the store can keep of one publication with its key."""
        self._hot, self._store = hot, store
        self._max_item_bytes = max_item_bytes
        self._max_unstored = max_unstored
        self._sizes = HistorySizes()
        self._comparison = Comparison(hot, store, self._sizes)
        self._queue: KeyedQueue[_Waiting] = KeyedQueue(
            self._settle,
            _give_up,
            max_waiting=max_waiting,
            max_per_key=(max_waiting + 1) // 2 if store.apart else max_waiting,
            max_batch=max_batch,
            max_wait_s=_MAX_WAIT_S,
            linger=Linger(_LONGEST_WAIT_S),
        )

    def append(self, requests: Sequence[Request], tell: OutcomeCallback) -> None:
        """`tell` is called with the place of each and its outcome, as soon as it is known, maybe at once.

        `Unavailable`: unknown, repeat with the same key. What is too large is refused before it has a number: a place
        that can't be stored would hold up its channel.
        """
        for index, request in enumerate(requests):
            lane = self._lane_of(request.channel)
            if _is_larger(request.item, self._max_item_bytes):
                tell(index, TooLarge(f"at most {self._max_item_bytes} bytes can be stored"))
            elif not self._queue.has_room(lane):
                UNSTORED_BUSY.inc()
                tell(index, Busy("too much waits to be stored"))
            else:
                self._queue.put(lane, (request, index, tell))
        WAITING.set(self._queue.waiting)

    async def run(self) -> None:
        """Write batches until cancelled; what still waits then gets `Unavailable`."""
        await self._queue.run()

    async def drain(self, timeout_s: float) -> None:
        """Wait until nothing waits any more."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._queue.is_empty:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            logger.warning("stopping with unfinished batches")

    async def open(self, channel: str) -> ChannelState:
        """Readable top; Redis has the channel's meta afterwards.

        Raises:
            Unavailable: Redis or the store does not answer.
        """
        found = await self._hot.readable(channel)
        if found is None:
            await self._comparison.verify(channel)
            found = await self._hot.readable(channel)
        if found is None:
            raise Unavailable("Redis does not keep the channel")
        return found

    async def has_begun(self, channel: str) -> bool:
        """Whether there is a log of the channel; it begins none."""
        return await self._hot.readable(channel) is not None or await self._store.has_begun(channel)

    async def read(
        self, channel: str, *, since_offset: int, limit: int, reverse: bool, max_bytes: int = MAX_BYTES
    ) -> tuple[list[tuple[int, bytes]], ChannelState]:
        """Publications up to what is readable, and the readable top."""
        top = await self.open(channel)
        found = await self._store.read(
            channel, since_offset=since_offset, upto=top.top, limit=limit, reverse=reverse, max_bytes=max_bytes
        )
        return found, top

    async def remove_history(self, channel: str) -> None:
        """Hide everything readable; epoch and top stay. What is hidden goes when `tidy` comes to it."""
        top = await self.open(channel)
        await self._store.remove(channel, top.top)
        await self._hot.trim(channel, top.top)

    async def tidy(self) -> None:
        """Go on with removals of any replica, also those whose process died between two steps.

        Raises:
            Unavailable: some could not be gone on with.
        """
        failed: Unavailable | None = None
        for removal in await self._store.removals():
            try:
                await self._hot.trim(removal.channel, removal.upto)
                if removal.is_due:
                    await self._store.finish_removal(removal)
            except Unavailable as error:
                failed = error
        if failed is not None:
            raise failed

    async def sweep(self, age_s: float, limit: int) -> int:
        """Finish what a crash left between the steps; returns how many channels had anything to finish."""
        marks = await self._hot.settled(age_s, limit)
        if self._store.apart:  # whoever writes such a channel now finishes it, or the next sweep does
            marks = [mark for mark in marks if not self._queue.is_busy(mark[0])]
        random.shuffle(marks)  # what fails is not first every time
        finished, failures = 0, 0
        done: list[tuple[str, bytes]] = []
        while marks and failures < _SWEEP_FAILURES:
            some, marks = marks[:_SWEPT_AT_ONCE], marks[_SWEPT_AT_ONCE:]
            outcomes = await asyncio.gather(*(self._finish(channel) for channel, _ in some), return_exceptions=True)
            for mark, found in zip(some, outcomes, strict=True):
                if isinstance(found, BaseException):
                    raise found
                if found is None:
                    failures += 1
                else:
                    finished += found
                    done.append(mark)
        if done:
            await self._hot.unmark(done)
        return finished

    async def _finish(self, channel: str) -> bool | None:
        async with self._queue.exclusive(self._lane_of(channel)):
            return await self._comparison.finish(channel)

    def _lane_of(self, channel: str) -> str:
        return channel if self._store.apart else ""

    # One batch.

    async def _settle(self, batch: list[_Waiting]) -> None:
        WAITING.set(self._queue.waiting)
        BATCHES.inc()
        BATCH_ITEMS.observe(len(batch))
        try:
            outcomes = await self._write([request for request, *_ in batch])
        except Unavailable as error:
            outcomes = [error] * len(batch)
        except Exception:
            logger.exception("a batch failed")
            outcomes = [Unavailable("internal error")] * len(batch)
        failed = [outcome for outcome in outcomes if not isinstance(outcome, AppendedPosition)]
        if failed:
            UNSTORED_BUSY.inc(sum(isinstance(outcome, Busy) for outcome in failed))
            UNSTORED_UNAVAILABLE.inc(sum(isinstance(outcome, Unavailable) for outcome in failed))
        for (_, index, tell), outcome in zip(batch, outcomes, strict=True):
            tell(index, outcome)

    async def _write(self, requests: list[Request]) -> list[Outcome]:
        outcomes: list[Outcome] = [Unavailable("the outcome is unknown")] * len(requests)
        open_indexes = list(range(len(requests)))
        for _ in range(_ROUNDS):
            if not open_indexes:
                break
            open_indexes = await self._round(requests, open_indexes, outcomes)
        return outcomes

    async def _round(self, requests: list[Request], indexes: list[int], outcomes: list[Outcome]) -> list[int]:
        """Number, store and commit these; returns the ones that must be tried again."""
        groups: dict[str, list[int]] = {}
        for index in indexes:
            groups.setdefault(requests[index].channel, []).append(index)
        batches = [
            Batch(
                channel,
                requests[group[0]].history_size,
                requests[group[0]].history_ttl_s,
                [requests[index].item for index in group],
            )
            for channel, group in groups.items()
        ]
        again: list[int] = []
        unverified: list[str] = []
        incarnation = self._hot.incarnation()
        numbered: dict[str, _Numbered] = {}
        for batch, appended in zip(batches, await self._hot.append(batches, self._max_unstored), strict=True):
            group = groups[batch.channel]
            self._sizes.remember(batch.channel, batch.history_size)
            if isinstance(appended, Exception):
                for index in group:
                    outcomes[index] = Unavailable(str(appended))
                continue
            if appended is None:
                unverified.append(batch.channel)
                again += group
                continue
            places = list(zip(group, appended.offsets, strict=True))
            if 0 in appended.offsets:
                for index in [index for index, offset in places if not offset]:
                    outcomes[index] = Busy("too much of the channel is not stored yet")
                places = [place for place in places if place[1]]
            if places:
                numbered[batch.channel] = _Numbered(appended.epoch, appended.stored, appended.stamp, places)
        again += await self._store_and_commit(requests, numbered, outcomes, incarnation)
        failed = await self._comparison.verify_all(unverified)
        for channel, error in failed.items():
            for index in groups[channel]:
                outcomes[index] = error
        return [index for index in again if requests[index].channel not in failed]

    async def _store_and_commit(
        self,
        requests: list[Request],
        numbered: dict[str, _Numbered],
        outcomes: list[Outcome],
        incarnation: str,
    ) -> list[int]:
        rows, uptos = await self._rows(requests, numbered)
        written = await self._store.write(rows) if rows else {}
        again: list[int] = []
        commits: list[tuple[str, str, int, int]] = []
        for channel, (epoch, _, _, places) in numbered.items():
            result = written.get(channel, Written(uptos[channel], False))
            failure = result if isinstance(result, Unavailable) else None
            if isinstance(result, Written) and result.conflict:
                CONFLICTS.inc()
                items = [requests[index].item for index, offset in places if offset > 0]
                forget = [(item.key_user, item.key) for item in items]
                failure = await self._comparison.try_to_resolve(channel, forget)
                if failure is None:
                    again += [index for index, _ in places]
                    continue
            if failure is not None:
                for index, _ in places:
                    outcomes[index] = failure
                continue
            commits.append((channel, epoch, uptos[channel], self._sizes.of(channel)))
        STORED.inc(sum([isinstance(written[row.channel], Written) for row in rows]))
        changed: list[str] = []
        for commit, readable in zip(commits, await self._hot.commit(commits, incarnation), strict=True):
            channel = commit[0]
            epoch, _, _, places = numbered[channel]
            if isinstance(readable, Exception):
                for index, _ in places:
                    outcomes[index] = Unavailable(str(readable))
                continue
            if readable < commit[2]:
                changed.append(channel)
            for index, offset in places:
                if readable >= abs(offset):
                    outcomes[index] = AppendedPosition(abs(offset), epoch, offset < 0)
                else:
                    outcomes[index] = Unavailable("the channel changed meanwhile")
        for channel in changed:
            await self._comparison.try_to_resolve(channel, [])
        return again

    async def _rows(self, requests: list[Request], numbered: dict[str, _Numbered]) -> tuple[list[Row], dict[str, int]]:
        """Everything above `stored` through the last offset, also what others appended."""
        rows: list[Row] = []
        uptos: dict[str, int] = {}
        incomplete: list[str] = []
        for channel, (_, stored, stamp, places) in numbered.items():
            upto = uptos[channel] = max([abs(offset) for _, offset in places])
            new = [place for place in places if place[1] > 0]  # ascending
            if upto > stored and (not new or new[0][1] != stored + 1 or len(new) != upto - stored):
                incomplete.append(channel)
                continue
            for index, offset in new:
                publication_id, publication, user, key = requests[index].item
                rows.append(Row(channel, offset, publication_id, publication + stamp, pair(user, key)))
        if incomplete:
            for channel, found in zip(incomplete, await self._hot.unstored(incomplete, UNSTORED_LIMIT), strict=True):
                rows += rows_of(channel, found, uptos[channel])
        return rows, uptos


def _give_up(waiting: Sequence[_Waiting]) -> None:
    UNSTORED_UNAVAILABLE.inc(len(waiting))
    for _, index, tell in waiting:
        tell(index, Unavailable("nobody came to write it"))


def _is_larger(item: Item, max_bytes: int) -> bool:
    publication, user, key = len(item.publication) + STAMP_BYTES, item.key_user, item.key
    if publication + 4 * (len(user) + len(key)) <= max_bytes:  # no character takes more
        return False
    return publication + len(user.encode()) + len(key.encode()) > max_bytes
