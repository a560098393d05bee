"""The counter in Redis that the store keeps too, and what Redis is told of its own life."""

from __future__ import annotations

import asyncio

from services.persistence.domain.ports import Beacon
from services.shared.errors import Unavailable
from services.shared.hotlog import life
from services.shared.hotlog.life import Life
from services.shared.redis import check_server, redis_client
from services.shared.redis_life import RunWatch
from services.shared.redis_pipeline import RedisPipeline

TIMEOUT_S = 2.0


class RedisBeacon:
    """A connection of its own: it is the one that looks at lives nobody has spoken of yet."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watch = RunWatch()
        self._redis = RedisPipeline(url, gate=self._watch)
        self._checked = ""  # run id of the server that was found to be one that we can use

    async def close(self) -> None:
        """End the connection."""
        await self._redis.aclose()

    async def beat(self, kept: Beacon) -> tuple[Beacon, Life]:
        """Count on, compared with what is kept; what to keep now, and the life of Redis.

        Raises:
            Unavailable: no answer, or the server went while it was asked.
            ConfigError: it is too old, or refuses our password.
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
        call = life.beat_call(run_id, kept.counter, kept.generation, kept.store)
        (answer,) = await self._redis.run([call], timeout_s=TIMEOUT_S)
        if self._watch.run_id != run_id:
            raise Unavailable("Redis was started anew meanwhile")  # the next beat sets right what this one said
        counted = life.beat(answer)
        if counted.life is None:
            raise Unavailable("Redis does not keep what it is told")
        return kept._replace(counter=counted.counter, generation=counted.generation), counted.life

    async def _check(self) -> None:
        async with redis_client(self._url, max_connections=1) as client:
            self._checked = (await check_server(client)).run_id
