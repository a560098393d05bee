"""The counter in Redis that the store keeps too, and what Redis is told of its own life."""

from __future__ import annotations

import asyncio

import redis.asyncio
from redis import exceptions

from services.persistence.domain.ports import Beacon
from services.shared.errors import CONNECTION_LOST, Unavailable
from services.shared.hotlog import keys, life
from services.shared.hotlog.life import Life
from services.shared.hotlog.scripts import BEAT
from services.shared.redis import check_server, redis_client

TIMEOUT_S = 2.0


class RedisBeacon:
    """A connection of its own: it is the one that looks at lives nobody has spoken of yet."""

    def __init__(self, url: str) -> None:
        self._client: redis.asyncio.Redis = redis_client(url, max_connections=1)
        self._checked = ""  # run id of the server that was found to be one that we can use

    async def close(self) -> None:
        """End the connection."""
        await self._client.aclose()

    async def beat(self, kept: Beacon) -> tuple[Beacon, Life]:
        """Count on, compared with what is kept; what to keep now, and the life of Redis.

        Raises:
            Unavailable: no answer, or the server went while it was asked.
            ConfigError: it is too old, or refuses our password.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._beat(kept)
        except (exceptions.RedisError, *CONNECTION_LOST) as error:
            self._checked = ""
            raise Unavailable(f"Redis does not answer: {error}") from error

    async def _beat(self, kept: Beacon) -> tuple[Beacon, Life]:
        run_id = await self._run_id()
        if run_id != self._checked:
            self._checked = (await check_server(self._client)).run_id
            await self._client.script_load(BEAT.text)
        call = life.beat_call(run_id, kept.counter, kept.generation, kept.store)
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
            pipeline.get(keys.LIFE)
            beaten, said = await pipeline.execute()
        if await self._run_id() != run_id:
            raise Unavailable("Redis was started anew meanwhile")  # the next beat sets right what this one said
        counted, now = life.beat(beaten), life.parse(said)
        if now is None:
            raise Unavailable("Redis does not keep what it is told")
        return kept._replace(counter=counted.counter, generation=counted.generation), now

    async def _run_id(self) -> str:
        info = await self._client.info("server")
        return str(info["run_id"])
