"""The log of `stored` channels: number, store, make readable, answer; a batch at a time, group commit across edges."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.persistence.domain.ports import ChannelState, HotLog, LogStore, Row, Written
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
from services.shared.hotlog.hotlog import KEY_TTL_S, Appended, Batch, Item, Unstored
from services.shared.hotlog.keys import pair

logger = logging.getLogger(__name__)

_ROUNDS = 4  # of one batch: init, then a conflict, then the append that succeeds, and one to spare
_UNSTORED_LIMIT = 20_000
_DEFAULT_LIMITS = (1_000, 86_400)  # history_size and history_ttl_s where no namespace was heard of
_VERIFIED_AT_ONCE = 32
_VERIFY_ATTEMPTS = 4  # others may be at it at the same time
_MAX_REMEMBERED = 200_000  # channels whose history options are remembered for the sweeper
_SWEEP_FAILURES = 3  # channels that the store can't take now, before a sweep ends: each may have cost seconds


@dataclass(frozen=True, slots=True)
class Request:
    """One publication to append and what its namespace says."""

    channel: str
    item: Item
    history_size: int
    history_ttl_s: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where it stands; `repeated_key`: an earlier publish with its key does."""

    offset: int
    epoch: str
    repeated_key: bool


class TooLarge(ThalamusError):
    """More than one place of the store's log can hold; nothing was done."""

    code = ErrorCode.BAD_REQUEST


Outcome = Position | Unavailable | Busy | TooLarge


class Log:
    """One writer per process: what arrives while a batch is being written is the next batch."""

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
        self._max_unstored, self._max_waiting, self._max_batch = max_unstored, max_waiting, max_batch
        self._queue: deque[tuple[Request, asyncio.Future[Outcome]]] = deque()
        self._news = asyncio.Event()
        self._limits: dict[str, tuple[int, int]] = {}  # history options last seen, for the sweeper
        self._lock = asyncio.Lock()  # one batch, or one sweep of a channel, at a time

    async def append(self, requests: Sequence[Request]) -> list[Outcome]:
        """Outcomes in order; `Unavailable`: unknown, repeat with the same key.

        What is too large is refused before it has a number: a place that can't be stored would hold up its channel.
        """
        if len(self._queue) + len(requests) > self._max_waiting:
            UNSTORED_BUSY.inc(len(requests))
            return [Busy("too much waits to be stored") for _ in requests]
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in requests]
        for request, future in zip(requests, futures, strict=True):
            if _bytes_of(request.item) > self._max_item_bytes:
                future.set_result(TooLarge(f"at most {self._max_item_bytes} bytes can be stored"))
            else:
                self._queue.append((request, future))
        WAITING.set(len(self._queue))
        self._news.set()
        return [await future for future in futures]

    async def run(self) -> None:
        """Write batches until cancelled; what still waits then gets `Unavailable`."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._queue:
                    batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))]
                    WAITING.set(len(self._queue))
                    await self._settle(batch)
        finally:
            for _, future in self._queue:
                if not future.done():
                    future.set_result(Unavailable("persistence is stopping"))

    async def drain(self, timeout_s: float) -> None:
        """Wait until nothing waits any more."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._queue or self._lock.locked():
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
            await self._verify(channel)
            found = await self._hot.readable(channel)
        if found is None:
            raise Unavailable("Redis does not keep the channel")
        return found

    async def read(
        self, channel: str, *, since_offset: int, limit: int, reverse: bool
    ) -> tuple[list[tuple[int, bytes]], ChannelState]:
        """Publications up to what is readable, and the readable top."""
        top = await self.open(channel)
        found = await self._store.read(channel, since_offset=since_offset, upto=top.top, limit=limit, reverse=reverse)
        return found, top

    async def remove_history(self, channel: str) -> None:
        """Drop everything readable; epoch and top stay."""
        top = await self.open(channel)
        await self._store.remove(channel, top.top)
        await self._hot.trim(channel)

    async def sweep(self, age_s: float, limit: int) -> int:
        """Finish what a crash left between the steps; returns how many channels had anything to finish."""
        marks = await self._hot.settled(age_s, limit)
        random.shuffle(marks)  # what fails is not first every time
        finished, failures = 0, 0
        done: list[tuple[str, bytes]] = []
        for mark in marks:
            async with self._lock:
                found = await self._finish(mark[0])
            if found is None:
                failures += 1
                if failures == _SWEEP_FAILURES:
                    break
                continue
            finished += found
            done.append(mark)
        if done:
            await self._hot.unmark(done)
        return finished

    async def _finish(self, channel: str) -> bool | None:
        """Store and commit what is above `stored`; whether there was any; None: the store can't now."""
        (found,) = await self._hot.unstored([channel], _UNSTORED_LIMIT)
        if found is None or not found.entries:
            return False
        if [offset for offset, *_ in found.entries] != list(
            range(found.stored + 1, found.stored + 1 + len(found.entries))
        ):
            await self._resolve(channel, [])
            return True
        rows = [Row(channel, offset, pid, pub, key) for offset, pid, pub, key in found.entries]
        written = (await self._store.write(rows))[channel]
        if isinstance(written, Unavailable):
            return None
        if written.conflict:
            await self._resolve(channel, [])
            return True
        size, ttl_s = self._limits.get(channel, _DEFAULT_LIMITS)
        (readable,) = await self._hot.commit([(channel, found.epoch, written.top, size, ttl_s)], found.life)
        if isinstance(readable, Exception):
            raise readable
        return True

    # One batch.

    async def _settle(self, batch: list[tuple[Request, asyncio.Future[Outcome]]]) -> None:
        BATCHES.inc()
        BATCH_ITEMS.observe(len(batch))
        try:
            async with self._lock:
                outcomes = await self._write([request for request, _ in batch])
        except Unavailable as error:
            outcomes = [error] * len(batch)
        except Exception:
            logger.exception("a batch failed")
            outcomes = [Unavailable("internal error")] * len(batch)
        UNSTORED_BUSY.inc(sum(isinstance(outcome, Busy) for outcome in outcomes))
        UNSTORED_UNAVAILABLE.inc(sum(isinstance(outcome, Unavailable) for outcome in outcomes))
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)

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
                True,
                requests[group[0]].history_size,
                requests[group[0]].history_ttl_s,
                [requests[index].item for index in group],
            )
            for channel, group in groups.items()
        ]
        again: list[int] = []
        unverified: list[str] = []
        life = self._hot.life()
        numbered: dict[str, list[tuple[int, Appended]]] = {}
        for batch, appended in zip(batches, await self._hot.append(batches, self._max_unstored), strict=True):
            group = groups[batch.channel]
            self._remember_limits(batch)
            if isinstance(appended, Exception):
                for index in group:
                    outcomes[index] = Unavailable(str(appended))
                continue
            if appended[0].status == "INIT":
                unverified.append(batch.channel)
                again += group
                continue
            for index, result in zip(group, appended, strict=True):
                if result.status == "BUSY":
                    outcomes[index] = Busy("too much of the channel is not stored yet")
                else:
                    numbered.setdefault(batch.channel, []).append((index, result))
        again += await self._store_and_commit(requests, numbered, outcomes, life)
        failed = await self._verify_all(unverified)
        for channel, error in failed.items():
            for index in groups[channel]:
                outcomes[index] = error
        return [index for index in again if requests[index].channel not in failed]

    def _remember_limits(self, batch: Batch) -> None:
        if len(self._limits) >= _MAX_REMEMBERED:
            self._limits.clear()
        self._limits[batch.channel] = (batch.history_size, batch.history_ttl_s)

    async def _store_and_commit(
        self,
        requests: list[Request],
        numbered: dict[str, list[tuple[int, Appended]]],
        outcomes: list[Outcome],
        life: str,
    ) -> list[int]:
        rows, uptos = await self._rows(requests, numbered)
        written = await self._store.write(rows) if rows else {}
        again: list[int] = []
        commits: list[tuple[str, str, int, int, int]] = []
        for channel, results in numbered.items():
            epoch = results[0][1].epoch
            result = written.get(channel, Written(uptos[channel], False))
            failure = result if isinstance(result, Unavailable) else None
            if isinstance(result, Written) and result.conflict:
                CONFLICTS.inc()
                forget = [(requests[i].item.key_user, requests[i].item.key) for i, r in results if r.status == "NEW"]
                failure = await self._try_to_resolve(channel, forget)
                if failure is None:
                    again += [index for index, _ in results]
                    continue
            if failure is not None:
                for index, _ in results:
                    outcomes[index] = failure
                continue
            commits.append((channel, epoch, uptos[channel], *self._limits.get(channel, _DEFAULT_LIMITS)))
        STORED.inc(sum(isinstance(written[row.channel], Written) for row in rows))
        changed: list[str] = []
        for commit, readable in zip(commits, await self._hot.commit(commits, life), strict=True):
            channel = commit[0]
            if not isinstance(readable, Exception) and readable < commit[2]:
                changed.append(channel)
            for index, result_ in numbered[channel]:
                if isinstance(readable, Exception):
                    outcomes[index] = Unavailable(str(readable))
                elif readable >= result_.offset:
                    outcomes[index] = Position(result_.offset, result_.epoch, result_.status == "KNOWN")
                else:
                    outcomes[index] = Unavailable("the channel changed meanwhile")
        for channel in changed:
            await self._try_to_resolve(channel, [])
        return again

    async def _rows(
        self, requests: list[Request], numbered: dict[str, list[tuple[int, Appended]]]
    ) -> tuple[list[Row], dict[str, int]]:
        """Everything above `stored` through the last offset, also what others appended."""
        rows: list[Row] = []
        uptos: dict[str, int] = {}
        incomplete: list[str] = []
        for channel, results in numbered.items():
            stored = results[0][1].stored
            uptos[channel] = max(result.offset for _, result in results)
            new = [(index, result) for index, result in results if result.status == "NEW"]
            mine = [result.offset for _, result in new]
            if mine != list(range(stored + 1, uptos[channel] + 1)) and uptos[channel] > stored:
                incomplete.append(channel)
                continue
            for index, result in new:
                item = requests[index].item
                rows.append(
                    Row(channel, result.offset, item.publication_id, item.publication, pair(item.key_user, item.key))
                )
        if incomplete:
            for channel, found in zip(incomplete, await self._hot.unstored(incomplete, _UNSTORED_LIMIT), strict=True):
                rows += _rows_of(channel, found, uptos[channel])
        return rows, uptos

    # Redis and the store compared.

    async def _verify_all(self, channels: Sequence[str]) -> dict[str, Unavailable]:
        """Those that could not be compared, and why."""
        failed: dict[str, Unavailable] = {}
        for start in range(0, len(channels), _VERIFIED_AT_ONCE):
            some = channels[start : start + _VERIFIED_AT_ONCE]
            for channel, result in zip(
                some, await asyncio.gather(*map(self._verify, some), return_exceptions=True), strict=True
            ):
                if isinstance(result, Unavailable):
                    failed[channel] = result
                elif result is not None:
                    raise result
        return failed

    async def _verify(self, channel: str) -> None:
        """Missing in Redis: bring it. Behind the store: advance it, and bring the keys that still count."""
        for _ in range(_VERIFY_ATTEMPTS):
            state = await self._store.open(channel)
            found = await self._hot.verify(channel, state)
            if found == 1:
                return
            if found == -1:
                await self._hot.init(channel, state, await self._store.recent_keys(channel, KEY_TTL_S))
            else:
                await self._finish_or_advance(channel, state)

    async def _finish_or_advance(self, channel: str, state: ChannelState) -> None:
        """The store has more than readers see: a crash before the commit, or a Redis that went back."""
        (found,) = await self._hot.unstored([channel], _UNSTORED_LIMIT)
        rows = _rows_of(channel, found, state.top) if found and found.epoch == state.epoch else []
        whole = found is not None and len(rows) == state.top - found.stored
        written = (await self._store.write(rows))[channel] if whole and rows else None
        if isinstance(written, Unavailable):
            raise written
        if found is not None and written is not None and not written.conflict:
            size, ttl_s = self._limits.get(channel, _DEFAULT_LIMITS)
            (readable,) = await self._hot.commit([(channel, state.epoch, state.top, size, ttl_s)], found.life)
            if not isinstance(readable, Exception) and readable >= state.top:
                return
        await self._hot.advance(channel, state, await self._store.recent_keys(channel, KEY_TTL_S), [])

    async def _try_to_resolve(self, channel: str, forget: Sequence[tuple[str, str]]) -> Unavailable | None:
        try:
            await self._resolve(channel, forget)
        except Unavailable as error:
            return error
        return None

    async def _resolve(self, channel: str, forget: Sequence[tuple[str, str]]) -> None:
        """A conflict: the sequencer was behind the store."""
        logger.warning("Redis was behind the store", extra={"channel": channel})
        state = await self._store.open(channel)
        await self._hot.advance(channel, state, await self._store.recent_keys(channel, KEY_TTL_S), forget)


def _bytes_of(item: Item) -> int:
    return len(item.publication) + len(item.key_user.encode()) + len(item.key.encode())


def _rows_of(channel: str, found: Unstored | None, upto: int) -> list[Row]:
    entries = found.entries if found else []
    return [Row(channel, offset, pid, pub, key) for offset, pid, pub, key in entries if offset <= upto]
