"""`HotLog` on Redis: script calls, several in one round trip."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from redis import exceptions

from services.persistence.adapters.redis.rewrites import note_call
from services.persistence.domain.backlog import pages
from services.persistence.domain.ports import PAGE_BYTES, ChannelState, KnownKey
from services.persistence.metrics import REBUILT, REDIS_SECONDS
from services.shared.errors import Unavailable
from services.shared.hotlog import erasing, hotlog, keys, queued
from services.shared.hotlog.hotlog import Appended, Batch, Unstored
from services.shared.hotlog.scripts import Call, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

TIMEOUT_S = 2.0  # longest round trip, seconds
_KEYS_AT_ONCE = 2_000  # keys of one script, which takes a few milliseconds
_MAX_TOLD = 200_000  # channels that the feed tells of and that are remembered
_REBUILD_EVERY_S = (
    0.05  # least time between rebuilds that keep readable entries, seconds: each blocks Redis for about 2 ms
)
_ERASED_AT_ONCE = 100  # publications of one script


class RedisHotLog:
    """The hot log in Redis; `HotLog` describes the methods."""

    def __init__(
        self,
        client: RedisPipeline,
        incarnation: Callable[[], str] = lambda: "",
        writes: Callable[[], int] = lambda: 0,
        *,
        saw_writes: Callable[[str, int], None] = lambda incarnation, writes: None,
        feed_max_entries: int = hotlog.FEED_MAX_ENTRIES,
        max_unstored_bytes: int = hotlog.MAX_UNSTORED_BYTES,
    ) -> None:
        """Create it on a connection.

        `incarnation` returns the token of the present incarnation. `writes` returns how many writes of `hot` logs Redis
        must have, unless it went back. `saw_writes` gets the incarnation and their number in it; 0: Redis went back.
        `feed_max_entries`: entries that a stream of the feed keeps. `max_unstored_bytes`: of a channel, that may be
        readable before they are stored; beyond, an item gets no offset.
        """
        self._client = client
        self._incarnation, self._writes, self._saw_writes = incarnation, writes, saw_writes
        self._feed_max_entries, self._max_unstored_bytes = feed_max_entries, max_unstored_bytes
        self._full_rebuild_at = 0.0  # monotonic time from which a rebuild may keep readable entries
        self._told: set[str] = set()  # channels that the feed tells of

    async def _run(self, op: str, calls: Sequence[Call]) -> list[object]:
        """Run scripts in one round trip; measures it under the name `op`."""
        started = time.perf_counter()
        try:
            return await self._client.run(calls, timeout_s=TIMEOUT_S)
        finally:
            REDIS_SECONDS.labels(op).observe(time.perf_counter() - started)

    def incarnation(self) -> str:
        return self._incarnation()

    async def append(self, batches: Sequence[Batch], max_unstored: int) -> list[Appended | Exception | None]:
        incarnation = self._incarnation()
        self._remember_told([batch.channel for batch in batches if batch.items and batch.items[0].author is not None])
        calls = [hotlog.mark_call([batch.channel for batch in batches])]
        limits = {"max_unstored": max_unstored, "max_unstored_bytes": self._max_unstored_bytes}
        calls += [hotlog.append_call(batch, incarnation=incarnation, **limits) for batch in batches]
        marked, *results = await self._run("append", calls)
        raise_for_error(marked)
        outcomes: list[Appended | Exception | None] = []
        for result in results:
            try:
                outcomes.append(hotlog.appended(result))
            except Unavailable as error:
                outcomes.append(error)
        return outcomes

    async def commit(self, channels: Sequence[tuple[str, str, int, int]], incarnation: str) -> list[int | Exception]:
        return (await self._commit(channels, incarnation, early=False))[0]

    async def show(self, channels: Sequence[tuple[str, str, int, int]], incarnation: str) -> list[int | Exception]:
        if not channels:
            return []
        results, writes = await self._commit(channels, incarnation, early=True)
        if isinstance(writes, Exception):
            return [writes] * len(channels)
        self._saw_writes(incarnation, writes)
        return results if writes else [Unavailable("Redis went back")] * len(channels)

    async def _commit(
        self, channels: Sequence[tuple[str, str, int, int]], incarnation: str, *, early: bool
    ) -> tuple[list[int | Exception], int | Exception]:
        """Commit; `early`: before the store has the entries.

        Returns the readable tops and, if `early`, the number of writes. A write is counted with each call that shows
        something. The number is 0 once Redis has counted fewer than this process has seen; then the rest is not tried.
        """
        reached = [-1] * len(channels)
        results: list[int | Exception] = [*reached]
        writes: int | Exception = 0
        left = list(range(len(channels)))
        counts = [queued.count_write_call(self._writes())] if early else []
        while left:
            calls = [self._commit_call(channels[index], incarnation, early) for index in left]
            found = await self._run("show" if early else "commit", [*calls, *counts])
            if counts:
                writes = _number(found[-1])
            again: list[int] = []
            for index, result in zip(left, found[: len(left)], strict=True):
                readable, before = _number(result), reached[index]
                results[index] = readable
                if isinstance(readable, Exception):
                    continue
                reached[index] = readable
                if readable == hotlog.NEEDS_FEED:  # others numbered them: another replica, or this one before a restart
                    self._remember_told([channels[index][0]])
                    again.append(index)
                elif max(before, -1) < readable < channels[index][2]:  # the next ones by another call
                    again.append(index)
            left = [] if early and (isinstance(writes, Exception) or not writes) else again
        return results, writes

    def _commit_call(self, commit: tuple[str, str, int, int], incarnation: str, early: bool) -> Call:
        most = self._feed_max_entries if commit[0] in self._told else 0
        return hotlog.commit_call(*commit, incarnation, feed_max_entries=most, early=early)

    def _remember_told(self, channels: Sequence[str]) -> None:
        if channels and len(self._told) >= _MAX_TOLD:
            self._told.clear()
        self._told.update(channels)

    async def verify(self, channel: str, state: ChannelState, *, may_be_ahead: bool = False) -> int:
        call = hotlog.verify_call(
            channel,
            state.epoch,
            state.top,
            self._incarnation(),
            n=state.n,
            mv=state.mv,
            erasures=state.erasures,
            may_be_ahead=may_be_ahead,
        )
        verified, _ = await self._run("verify", [call, hotlog.rest_call(channel)])
        return int(raise_for_error(verified))

    async def init(self, channel: str, state: ChannelState, time_ms: int, known: Sequence[KnownKey]) -> None:
        known = await self._remember(channel, state, known)
        call = hotlog.init_call(channel, state.epoch, state.top, time_ms, self._incarnation(), known)
        raise_for_error((await self._run("init", [call]))[0])

    async def advance(
        self,
        channel: str,
        state: ChannelState,
        time_ms: int,
        known: Sequence[KnownKey],
        forget: Sequence[tuple[str, str]],
        saved: tuple[str, int] = ("", 0),
    ) -> bool:
        if len(known) > _KEYS_AT_ONCE:
            doubtful = set(forget)  # the script drops these, and must bring them again in the same step
            async for page in pages(self, channel):
                doubtful |= {keys.unpair(entry.key) for entry in page.entries}
            again = [one for one in known if (one.user, one.key) in doubtful]
            known = [*again, *await self._remember(channel, state, known)]
        for most in (self._feed_max_entries if channel in self._told else 0, self._feed_max_entries):
            call = hotlog.advance_call(
                channel,
                state.epoch,
                state.top,
                time_ms,
                self._incarnation(),
                forget=forget,
                remember=known,
                feed_max_entries=most,
                saved=saved,
            )
            done = raise_for_error((await self._run("advance", [call]))[0])
            if done != hotlog.NEEDS_FEED:
                break
        return bool(done != queued.HAS_MORE)

    async def _remember(self, channel: str, state: ChannelState, known: Sequence[KnownKey]) -> Sequence[KnownKey]:
        """Bring all keys but the first 2,000, and return those.

        `init` or `advance`, which let others append, bring them in the same script. More in one script would block
        Redis.
        """
        for start in range(_KEYS_AT_ONCE, len(known), _KEYS_AT_ONCE):
            some = known[start : start + _KEYS_AT_ONCE]
            raise_for_error((await self._run("remember", [hotlog.remember_call(channel, state.epoch, some)]))[0])
        return known[:_KEYS_AT_ONCE]

    async def unstored(
        self,
        channels: Sequence[str],
        limit: int,
        *,
        max_bytes: int = PAGE_BYTES,
        since_offset: int = 0,
        reverse: bool = False,
    ) -> list[Unstored | None]:
        page = partial(
            hotlog.unstored_call, limit=limit, max_bytes=max_bytes, since_offset=since_offset, reverse=reverse
        )
        results = await self._run("unstored", [page(channel) for channel in channels])
        return [hotlog.unstored(result) for result in results]

    async def readable(self, channel: str) -> ChannelState | None:
        call = hotlog.stored_top_call(channel, self._incarnation(), writes=self._writes())
        (result,) = await self._run("top", [call])
        found = hotlog.top(result)
        if found is None:
            return None
        return ChannelState(found[1], found[0], hotlog.removed(result), behind=found[0] - queued.stored_upto(result))

    async def noted(self, channel: str, incarnation: str, generation: int | None = None) -> int:
        (found,) = await self._run("note", [queued.note_call(channel, incarnation, generation)])
        return int(raise_for_error(found))

    async def trim(self, channel: str, upto: int) -> None:
        raise_for_error((await self._run("trim", [erasing.trim_call(channel, upto), note_call()]))[0])

    async def erase(self, channel: str, publications: Mapping[int, bytes], erasures: int) -> bool:
        keep = erasing.KEPT if time.monotonic() >= self._full_rebuild_at else 0
        if keep:
            self._full_rebuild_at = time.monotonic() + _REBUILD_EVERY_S
        is_clean = True
        offsets = list(publications)
        if len(offsets) > _ERASED_AT_ONCE:
            keep = 0  # the last call has none of what the first ones would keep
        for start in range(0, max(1, len(offsets)), _ERASED_AT_ONCE):
            some = {offset: publications[offset] for offset in offsets[start : start + _ERASED_AT_ONCE]}
            call = erasing.erase_call(channel, erasures, some, keep=keep)
            result, _ = await self._run("erase", [call, note_call()])
            found = erasing.erased(result)
            is_clean = is_clean and found.is_clean
            REBUILT.inc(found.entries)
        return is_clean

    async def settled(self, age_s: float, limit: int) -> list[tuple[str, bytes]]:
        found = raise_for_error((await self._run("settled", [hotlog.settled_call(age_s, limit)]))[0])
        return [(channel.decode(), mark) for channel, mark in zip(found[::2], found[1::2], strict=True)]

    async def unmark(self, marks: Sequence[tuple[str, bytes]]) -> None:
        calls = [hotlog.unmark_call(marks), *(hotlog.rest_call(channel) for channel, _ in marks)]
        raise_for_error((await self._run("unmark", calls))[0])


def _number(result: object) -> int | Exception:
    """Return the number that a script returned; `Unavailable`: Redis refused the call."""
    if isinstance(result, exceptions.RedisError):
        return Unavailable(f"Redis refused: {result}")
    return int(result)  # type: ignore[call-overload,no-any-return]
