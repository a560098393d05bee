"""`HotLog` on Redis: script calls, several in one round trip."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from redis import exceptions

from services.persistence.domain.ports import ChannelState, KnownKey
from services.persistence.metrics import REDIS_SECONDS
from services.shared.errors import Unavailable
from services.shared.hotlog import hotlog, keys
from services.shared.hotlog.hotlog import Appended, Batch, Unstored
from services.shared.hotlog.scripts import Call, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

TIMEOUT_S = 2.0  # longest round trip, seconds
_KEYS_AT_ONCE = 2_000  # keys of one script, which takes a few milliseconds
_UNSTORED_KEYS = 20_000  # entries not stored whose keys are looked at


class RedisHotLog:
    """The hot log in Redis; `HotLog` describes the methods."""

    def __init__(
        self, client: RedisPipeline, incarnation: Callable[[], str] = lambda: "", writes: Callable[[], int] = lambda: 0
    ) -> None:
        """Create it on a connection.

        `incarnation` returns the token of the present incarnation. `writes` returns how many writes of `hot` logs Redis
        must have, unless it went back.
        """
        self._client = client
        self._incarnation, self._writes = incarnation, writes

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
        calls = [hotlog.mark_call([batch.channel for batch in batches])]
        calls += [hotlog.append_call(batch, incarnation=incarnation, max_unstored=max_unstored) for batch in batches]
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
        if not channels:
            return []
        results = await self._run("commit", [hotlog.commit_call(*channel, incarnation) for channel in channels])
        return [
            Unavailable(f"Redis refused: {result}") if isinstance(result, exceptions.RedisError) else int(result)  # type: ignore[call-overload]
            for result in results
        ]

    async def verify(self, channel: str, state: ChannelState, *, may_be_ahead: bool = False) -> int:
        call = hotlog.verify_call(channel, state.epoch, state.top, self._incarnation(), may_be_ahead=may_be_ahead)
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
    ) -> None:
        if len(known) > _KEYS_AT_ONCE:
            (found,) = await self.unstored([channel], _UNSTORED_KEYS)
            doubtful = {keys.unpair(key) for *_, key in found.entries} if found is not None else set()
            doubtful |= set(forget)  # the script drops these, and must bring them again in the same step
            again = [one for one in known if (one.user, one.key) in doubtful]
            known = [*again, *await self._remember(channel, state, known)]
        call = hotlog.advance_call(
            channel, state.epoch, state.top, time_ms, self._incarnation(), forget=forget, remember=known
        )
        raise_for_error((await self._run("advance", [call]))[0])

    async def _remember(self, channel: str, state: ChannelState, known: Sequence[KnownKey]) -> Sequence[KnownKey]:
        """Bring all keys but the first 2,000, and return those.

        `init` or `advance`, which let others append, bring them in the same script. More in one script would block
        Redis.
        """
        for start in range(_KEYS_AT_ONCE, len(known), _KEYS_AT_ONCE):
            some = known[start : start + _KEYS_AT_ONCE]
            raise_for_error((await self._run("remember", [hotlog.remember_call(channel, state.epoch, some)]))[0])
        return known[:_KEYS_AT_ONCE]

    async def unstored(self, channels: Sequence[str], limit: int) -> list[Unstored | None]:
        results = await self._run("unstored", [hotlog.unstored_call(channel, limit) for channel in channels])
        return [hotlog.unstored(result) for result in results]

    async def readable(self, channel: str) -> ChannelState | None:
        found = hotlog.top(
            (await self._run("top", [hotlog.stored_top_call(channel, self._incarnation(), writes=self._writes())]))[0]
        )
        return None if found is None else ChannelState(found[1], found[0])

    async def trim(self, channel: str, upto: int) -> None:
        raise_for_error((await self._run("trim", [hotlog.trim_call(channel, upto)]))[0])

    async def settled(self, age_s: float, limit: int) -> list[tuple[str, bytes]]:
        found = raise_for_error((await self._run("settled", [hotlog.settled_call(age_s, limit)]))[0])
        return [(channel.decode(), mark) for channel, mark in zip(found[::2], found[1::2], strict=True)]

    async def unmark(self, marks: Sequence[tuple[str, bytes]]) -> None:
        calls = [hotlog.unmark_call(marks), *(hotlog.rest_call(channel) for channel, _ in marks)]
        raise_for_error((await self._run("unmark", calls))[0])
