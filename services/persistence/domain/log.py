"""Commit protocol of `stored` channels: number, store, make readable, acknowledge.

Purpose. A publication is acknowledged only when the store has it, and no subscriber sees it before. All see one order.

Rules. Publications take these steps in batches; what arrives while a batch is written is the next one (group commit).

1. Number: Redis marks the channel as dirty, then gives each publication the next offset. Nobody can read it yet.
2. Store: one write takes everything from the readable top to the last offset, including what other replicas numbered.
   What an item erases is erased now (`erasures.py`).
3. Make readable (commit): Redis moves the readable top and publishes in the order of offsets.
4. Acknowledge: the callback of each publication gets its stream position.

* If a step fails, the outcome is `Unavailable`, which means unknown: repeat with the same key. A key has one offset.
* A process that dies in between leaves a marked channel with unreadable entries. A later sweep of any replica finishes
  them.
* An item with a guard gets an offset only if the guard is the membership version at that moment; else its outcome is
  `Recheck`. A repeated key has its first position whatever the guard says.
* Conflict: the store has another publication at an offset, or another epoch. Redis is advanced to the store, and
  numbers again.
* Publications of durability `queued` become readable and are acknowledged first, and are stored later (`early.py`).
* A channel not yet compared with the store in this incarnation is refused, compared (`comparison.py`) and retried.

Example. The top of `news` is 7. Two edges send one publication each: both get offsets in one batch, 8 and 9, are
stored, become readable and are acknowledged. If the process dies after the write, nobody sees 8 and 9 until a sweep
commits them. Publishers who repeat with their keys get 8 and 9.

Trade-offs. A busy log makes few round trips, but a publication may wait for the batch before its own. In SQLite all
channels but `queued` ones share a batch, and a slow one delays all; those, and all in DynamoDB, have their own. See
docs/decisions/0002, 0008, 0049.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Unpack

from services.persistence.domain import reading
from services.persistence.domain.backlog import Named
from services.persistence.domain.comparison import Comparison, First
from services.persistence.domain.draining import Drainer, Sink
from services.persistence.domain.due import due_marks
from services.persistence.domain.early import EarlyAcknowledgement
from services.persistence.domain.erasures import Erasures
from services.persistence.domain.keyed_queue import KeyedQueue
from services.persistence.domain.numbered import Numbered, rows_to_store
from services.persistence.domain.outcomes import AppendedPosition, Outcome, OutcomeCallback, Recheck, TooLarge
from services.persistence.domain.ports import ChannelState, CountedRow, HotLog, LogStore, Written
from services.persistence.domain.reading import Bounds
from services.persistence.domain.requests import Request as Request
from services.persistence.domain.requests import batch_of, is_larger, parts_of
from services.persistence.domain.sizes import HistorySizes
from services.persistence.metrics import (
    BATCH_ITEMS,
    BATCHES,
    CONFLICTS,
    STORED,
    UNSTORED_BUSY,
    UNSTORED_UNAVAILABLE,
    WAITING,
)
from services.shared.batching.linger import Linger
from services.shared.errors import Busy, Unavailable
from services.shared.hotlog.hotlog import MOST_NUMBERED

logger = logging.getLogger(__name__)

_MOST_UNSTORED = 20_000  # of one channel, whatever the setting says: a script looks at all of them
_ROUNDS = 4  # attempts per batch: compare with the store, resolve a conflict, append, and one to spare
_MAX_WAIT_S = 2.5  # longest wait in the queue, seconds: edges give up after 2.8 s
_LONGEST_WAIT_S = 0.005  # longest linger, seconds: how long a busy process waits for a larger batch
_SINK_SWEEP_AGE_S = 8.0  # least age of marks of rows that go through a sink, seconds: it has 5 s for them
_MAX_QUEUED = 200_000  # channels that are remembered to be `queued`
_SWEPT_AT_ONCE = 3  # channels that a sweep finishes concurrently
_SWEEP_FAILURES = 3  # failed channels after which a sweep ends: each may have cost seconds


_Waiting = tuple[Request, int, OutcomeCallback]  # request, its index in the call of `append`, callback


class Log:
    """Log of the `stored` channels: appends in batches, reads, sweeps and removals.

    Requests wait in a keyed queue: by channel if the store writes each channel by itself, or the channel is `queued`,
    so that it waits for no write of others; otherwise under one key.
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
        first: First | None = None,
        sink: Sink | None = None,
    ) -> None:
        """Create the log; `run` does the writing. Appends beyond a limit get `Busy`.

        `max_unstored`: entries of one channel that are not stored yet.
        `max_item_bytes`: of one publication with its key, as the store can keep it; a larger one gets `TooLarge`.
        `first` is called with a channel before its first use, in each incarnation of Redis.
        `sink`: where what was acknowledged early goes in place of the store.
        """
        self._hot, self._store = hot, store
        self._max_item_bytes = max_item_bytes
        self._max_unstored = min(max_unstored, _MOST_UNSTORED)
        self._sizes = HistorySizes()
        self.erasures = Erasures(hot, store, self._sizes.of)
        self._comparison = Comparison(hot, store, self._sizes, self.erasures, first)
        self._early = EarlyAcknowledgement(hot, store, self._sizes)
        self._drainer = Drainer(hot, store, self._comparison, self._sizes, sink)
        self._queued: set[str] = set()  # channels with queued publications
        self._early_sweep_age_s = 0.0 if sink is None else _SINK_SWEEP_AGE_S
        self._queue: KeyedQueue[_Waiting] = KeyedQueue(
            self._settle,
            _reject,
            max_waiting=max_waiting,
            max_per_key=(max_waiting + 1) // 2 if store.apart else max_waiting,
            max_batch=max_batch,
            max_wait_s=_MAX_WAIT_S,
            linger=Linger(_LONGEST_WAIT_S),
        )

    def ask_named(self, named: Named) -> None:
        """Have it asked what publications name that may get other offsets."""
        self._comparison.rescue.named = named

    def append(self, requests: Sequence[Request], on_outcome: OutcomeCallback) -> None:
        """Queue publications for the next batch; `on_outcome` gets the outcome of each.

        `on_outcome` is called with the index of a request and its outcome as soon as that is known, possibly before
        this returns. If it is `Unavailable`, nobody knows: repeat with the same key. What is too large gets no offset:
        it would block its channel.
        """
        for index, request in enumerate(requests):
            if request.queued:
                if len(self._queued) >= _MAX_QUEUED:
                    self._queued.clear()
                self._queued.add(request.channel)
            key = self._key_of(request.channel)
            if is_larger(request.item, self._max_item_bytes):
                on_outcome(index, TooLarge(f"at most {self._max_item_bytes} bytes can be stored"))
            elif not self._queue.has_room(key):
                UNSTORED_BUSY.inc()
                on_outcome(index, Busy("too much waits to be stored"))
            else:
                self._queue.put(key, (request, index, on_outcome))
        WAITING.set(self._queue.waiting)

    async def run(self) -> None:
        """Write batches until cancelled; requests that still wait then get `Unavailable`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            group.create_task(self._drainer.run())

    async def drain(self, timeout_s: float) -> None:
        """Wait until nothing waits, is being written or is to be drained.

        `timeout_s`: longest wait, seconds.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not (self._queue.is_empty and self._drainer.is_idle):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            logger.warning("stopping with unfinished batches")

    async def open(self, channel: str) -> ChannelState:
        """Return epoch and readable top; afterwards Redis has the channel's meta.

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
        """Whether the channel has a log; begins none."""
        return await self._hot.readable(channel) is not None or await self._store.has_begun(channel)

    async def read(
        self, channel: str, upto: int | None = None, **bounds: Unpack[Bounds]
    ) -> tuple[list[tuple[int, bytes]], ChannelState]:
        """As `LogStore.read`, but up to the readable top, which is returned as well.

        `upto`: a readable offset, above which nothing is read.
        """
        top = await self.open(channel)
        return await reading.read(self._hot, self._store, channel, reading.below(top, upto), **bounds), top

    async def read_counted(
        self, channel: str, upto: int | None = None, **bounds: Unpack[Bounds]
    ) -> tuple[list[CountedRow], ChannelState]:
        """As `read`, with what the log has counted up to each publication."""
        top = await self.open(channel)
        return await reading.read_counted(self._hot, self._store, channel, reading.below(top, upto), **bounds), top

    async def remove_history(self, channel: str, upto: int | None = None) -> None:
        """Hide everything readable, or up to an offset. `tidy` deletes it later."""
        state = await self.have_stored(channel, upto)
        top = state.top if upto is None else upto
        await self._store.begin_removal(channel, top)
        await self._hot.trim(channel, top)

    async def erase(self, channel: str, publications: Mapping[int, bytes], epoch: str = "") -> None:
        """Put other publications in the place of readable ones, by offset.

        See `erasures.py`. They have the same ids and flags. Afterwards nobody reads the former ones. Repeating is safe.
        `epoch`: that of the offsets, as in `have_stored`.
        """
        if publications:
            await self.have_stored(channel, max(publications), epoch)
            await self.erasures.erase(channel, publications)

    async def have_stored(self, channel: str, upto: int | None = None, epoch: str = "") -> ChannelState:
        """Have the store take what is readable up to an offset, if it lacks any of it.

        `upto` None: all. `epoch`: that of the offset; "": the present one. Returns epoch and readable top of before.

        Raises:
            Unavailable: it can't be stored now, or the channel has another epoch.
        """
        state = found = await self.open(channel)
        top = state.top if upto is None else min(upto, state.top)
        if epoch in ("", state.epoch) and state.top - state.behind < top:
            if await self._finish(channel) is None:
                raise Unavailable("the newest publications can't be stored now")
            found = await self.open(channel)  # Redis may have been lost meanwhile
        if epoch not in ("", state.epoch) or found.epoch != state.epoch:
            raise Unavailable("the log has another epoch")
        if found.top - found.behind < top:
            raise Unavailable("the newest publications are not stored yet")
        return state

    async def tidy(self) -> None:
        """Continue the removals of all replicas, including those of processes that died.

        Raises:
            Unavailable: at least one could not be continued; the others were.
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
        """Finish what crashed processes numbered, in channels marked over `age_s` ago.

        Returns how many channels needed it.

        Raises:
            Unavailable: Redis or the store does not answer.
        """
        await self.erasures.clean()
        marks = await due_marks(self._hot, age_s, self._early_sweep_age_s, limit)
        # The running batch finishes a channel with batches of its own, or the next sweep does.
        marks = [mark for mark in marks if not self._key_of(mark[0]) or not self._queue.is_busy(mark[0])]
        random.shuffle(marks)  # channels that fail are not the first ones every time
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
        async with self._queue.exclusive(self._key_of(channel)):
            return await self._comparison.finish(channel)

    def _key_of(self, channel: str) -> str:
        return channel if self._store.apart or channel in self._queued else ""

    # Writing one batch.

    async def _settle(self, batch: list[_Waiting]) -> None:
        WAITING.set(self._queue.waiting)
        BATCHES.inc()
        BATCH_ITEMS.observe(len(batch))
        told: set[int] = set()

        def tell(index: int, outcome: Outcome) -> None:
            told.add(index)
            batch[index][2](batch[index][1], outcome)

        try:
            outcomes = await self._write([request for request, *_ in batch], tell)
        except Unavailable as error:
            outcomes = [error] * len(batch)
        except Exception:
            logger.exception("a batch failed")
            outcomes = [Unavailable("internal error")] * len(batch)
        left = [(index, outcome) for index, outcome in enumerate(outcomes) if index not in told]
        failed = [outcome for _, outcome in left if not isinstance(outcome, AppendedPosition)]
        if failed:
            UNSTORED_BUSY.inc(sum(isinstance(outcome, Busy) for outcome in failed))
            UNSTORED_UNAVAILABLE.inc(sum(isinstance(outcome, Unavailable) for outcome in failed))
        for index, outcome in left:
            tell(index, outcome)

    async def _write(self, requests: list[Request], tell: OutcomeCallback) -> list[Outcome]:
        """Number, store and commit; `tell` gets outcomes that are known before the end."""
        outcomes: list[Outcome] = [Unavailable("the outcome is unknown")] * len(requests)
        for indexes in parts_of(requests, MOST_NUMBERED):
            open_indexes = indexes
            try:
                for _ in range(_ROUNDS):
                    if not open_indexes:
                        break
                    open_indexes = await self._round(requests, open_indexes, outcomes, tell)
            except Unavailable as error:
                for index in open_indexes:
                    outcomes[index] = error
                break
        return outcomes

    async def _round(
        self, requests: list[Request], indexes: list[int], outcomes: list[Outcome], tell: OutcomeCallback
    ) -> list[int]:
        """Number, store and commit these requests; return the indexes to try again."""
        groups: dict[str, list[int]] = {}
        for index in indexes:
            groups.setdefault(requests[index].channel, []).append(index)
        batches = [batch_of([requests[index] for index in group]) for group in groups.values()]
        again: list[int] = []
        unverified: list[str] = []
        doubtful: list[int] = []
        incarnation = self._hot.incarnation()
        numbered: dict[str, Numbered] = {}
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
                if appended.counts is not None:
                    refused = [group[place] for place in appended.counts.refused]
                    doubtful += [index for index in refused if not isinstance(outcomes[index], Recheck)]
                    for index in refused:
                        outcomes[index] = Recheck(appended.counts.mv_behind)
                places = [place for place in places if place[1]]
            if places:
                numbered[batch.channel] = Numbered(
                    appended.epoch,
                    appended.stored,
                    appended.stamp,
                    places,
                    appended.counts,
                    appended.may_be_queued,
                )
        early = {
            batch.channel: numbered[batch.channel] for batch in batches if batch.queued and batch.channel in numbered
        }
        if early:
            for channel in await self._early.acknowledge(early, outcomes, incarnation):
                for index, _ in numbered.pop(channel).places:
                    if isinstance(outcomes[index], AppendedPosition):
                        tell(index, outcomes[index])
                self._drainer.wake(channel)
        again += await self._store_and_commit(requests, numbered, outcomes, incarnation)
        # A Redis that went back may have lost the key, or the version: refused is what it refuses once it was compared.
        again += doubtful
        compared = {*unverified, *(requests[index].channel for index in doubtful)}
        failed = await self._comparison.verify_all([*compared])
        for index in again:
            if requests[index].channel in failed:
                outcomes[index] = failed[requests[index].channel]
        return [index for index in again if requests[index].channel not in failed]

    async def _store_and_commit(
        self,
        requests: list[Request],
        numbered: dict[str, Numbered],
        outcomes: list[Outcome],
        incarnation: str,
    ) -> list[int]:
        items = [request.item for request in requests]
        rows, uptos, waiting = await rows_to_store(self._hot, items, numbered)
        unfinished = {channel for channel in waiting if await self._comparison.finish(channel, uptos[channel]) is None}
        written = await self._store.write(rows) if rows else {}
        epochs = {channel: found.epoch for channel, found in numbered.items()}
        unerased = await self.erasures.before_commit(rows, written, epochs, incarnation)
        again: list[int] = []
        commits: list[tuple[str, str, int, int]] = []
        for channel, (epoch, _, _, places, *_) in numbered.items():
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
            failure = failure or unerased.get(channel)
            if channel in unfinished:
                failure = Unavailable("what is in front of it can't be stored now")
            if failure is not None:
                for index, _ in places:
                    outcomes[index] = failure
                continue
            commits.append((channel, epoch, uptos[channel], self._sizes.of(channel)))
        STORED.inc(sum([isinstance(written[row.channel], Written) for row in rows]))
        changed: list[str] = []
        for commit, readable in zip(commits, await self._hot.commit(commits, incarnation), strict=True):
            channel = commit[0]
            epoch, _, _, places, *_ = numbered[channel]
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


def _reject(waiting: Sequence[_Waiting]) -> None:
    UNSTORED_UNAVAILABLE.inc(len(waiting))
    for _, index, on_outcome in waiting:
        on_outcome(index, Unavailable("nobody came to write it"))
