"""The counter in Redis that the store keeps too, and what Redis is told of its own life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.persistence.adapters.redis_neighbours import Neighbours
from services.persistence.domain.other_store import OtherStore, OtherStoreFound
from services.persistence.domain.ports import Beacon
from services.shared.errors import Unavailable
from services.shared.hotlog import life
from services.shared.hotlog.life import Beat, Foreign, Life
from services.shared.redis import check_server, redis_client
from services.shared.redis_life import RunWatch
from services.shared.redis_pipeline import RedisPipeline

TIMEOUT_S = 2.0


class RedisBeacon:
    """A connection of its own: it is the one that looks at lives nobody has spoken of yet."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._watch = RunWatch()
        self._redis = RedisPipeline(url, gate=self._watch)
        self._clock = clock
        self._neighbours = Neighbours(url, clock=clock)
        self._other = OtherStore()
        self._mine = ""  # name of the store that was compared last
        self._checked = ""  # run id of the server that was found to be one that we can use

    async def close(self) -> None:
        """End the connection."""
        await self._redis.aclose()

    async def beat(self, kept: Beacon) -> tuple[Beacon, Life]:
        """Count on, compared with what is kept; what to keep now, and the life of Redis.

        Raises:
            Unavailable: no answer, or the server went while it was asked.
            OtherStoreFound: it has been another store's until now, which may be in use: nothing was done.
            ConfigError: it is too old, refuses our password, or another store is in use there.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._beat(kept)
        except TimeoutError as error:
            self._checked = ""
            raise Unavailable(f"Redis does not answer: nothing in {TIMEOUT_S:g} s") from error
        except Unavailable:
            self._checked = ""
            raise

    async def _beat(self, kept: Beacon) -> tuple[Beacon, Life]:
        if not self._checked:
            await self._check()
        await self._redis.execute([("TIME",)], timeout_s=TIMEOUT_S)  # connects: the run of the server is known then
        if self._watch.run_id != self._checked:
            await self._check()
        run_id = self._checked
        await self._neighbours.check(kept)
        counted = await self._compare(run_id, kept)
        if isinstance(counted, Foreign):
            if counted.store != self._mine and not self._other.may_be_replaced(*counted, self._clock()):
                raise OtherStoreFound("Redis was used with another store; waiting whether it still is")
            counted = await self._compare(run_id, kept, replaces=counted.store)
            if isinstance(counted, Foreign):
                raise OtherStoreFound("Redis is used with another store")
        self._other.forget()
        self._mine = kept.store
        if counted.life is None:
            raise Unavailable("Redis does not keep what it is told")
        return kept._replace(counter=counted.counter, generation=counted.generation), counted.life

    async def _compare(self, run_id: str, kept: Beacon, *, replaces: str = "") -> Beat | Foreign:
        call = life.beat_call(run_id, kept.counter, kept.generation, kept.store, replaces=replaces)
        (answer,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        if self._watch.run_id != run_id:
            raise Unavailable("Redis was started anew meanwhile")  # the next beat sets right what this one said
        return life.beat(answer)

    async def _check(self) -> None:
        async with redis_client(self._url, max_connections=1) as client:
            self._checked = (await check_server(client)).run_id
