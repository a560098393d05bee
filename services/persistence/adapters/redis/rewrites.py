"""Rewrites the append-only file of Redis, so that it loses what was erased.

The file has every command ever sent since it was written anew. So a publication that was erased stays in it until then.
Redis rewrites it by itself once it has doubled, which a quiet one may not do for years.

Rules. What was erased first since the last rewrite began is noted in Redis. 12 hours later one replica has the file
rewritten (BGREWRITEAOF): at most once an hour, and 24 hours after an erasure at the latest unless that fails. The note
goes once Redis says that it is done; if it failed, or Redis was started again meanwhile, it is tried again.

Trade-offs. A rewrite forks Redis and writes all of its data: so not after each erasure. Replicas of Redis have files of
their own, which this does not reach.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import exceptions

from services.persistence.metrics import ERASURE_OLDEST
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.hotlog.scripts import Call, load, raise_for_error
from services.shared.redis.pipeline import RedisPipeline

logger = logging.getLogger(__name__)

DUE_S = 12 * 3600.0  # age of an erasure at which the file is rewritten
_LEAST_S = 3600.0  # between two rewrites
_LOOK_S = 60.0
_TIMEOUT_S = 2.0  # longest round trip
_FOLDER = Path(__file__).parent
_NOTE = load(_FOLDER / "note_erasure.lua")
_CLAIM = load(_FOLDER / "claim_rewrite.lua")


def note_call() -> Call:
    """Return the call that notes that something was erased."""
    return Call(_NOTE, [keys.erasures()], [])


async def oldest_ms(client: RedisPipeline) -> int | None:
    """Return when the oldest erasure was that the file may still have, Unix ms.

    None: there is none. Raises `Unavailable` if Redis does not answer.
    """
    command = ("HMGET", keys.erasures(), "since", "covers")
    found = raise_for_error((await client.execute([command], timeout_s=_TIMEOUT_S))[0])
    return min((int(one) for one in found if one is not None), default=None)


class AofRewrites:
    """Has the append-only file of Redis rewritten in time; see the module."""

    def __init__(self, client: RedisPipeline, clock: Callable[[], float]) -> None:
        """Create it; `clock` returns the time of Redis, Unix seconds."""
        self._client, self._clock = client, clock

    async def run(self) -> None:
        """Look every minute until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S * random.uniform(0.8, 1.2))
            try:
                await self.look()
            except Unavailable as error:
                logger.warning("whether Redis has erased content can't be read", extra={"error": str(error)})

    async def look(self) -> None:
        """Rewrite the file if that is due, and note whether the last rewrite is done.

        Raises:
            Unavailable: Redis does not answer.
        """
        oldest = await oldest_ms(self._client)
        now_ms = int(self._clock() * 1_000)
        ERASURE_OLDEST.labels("aof").set(0 if oldest is None else max(0, now_ms - oldest) / 1_000)
        if oldest is None:
            return
        said = await self._info()
        if said.get("aof_enabled") == "0":
            await self._forget("since", "covers")
            return
        run = said.get("run_id", "")
        (covered,) = await self._execute(("HMGET", keys.erasures(), "covers", "run"))
        is_idle = said.get("aof_rewrite_in_progress") == "0" and said.get("aof_rewrite_scheduled") == "0"
        is_done = is_idle and said.get("aof_last_bgrewrite_status") == "ok" and covered[1] == run.encode()
        if covered[0] is not None and is_done:
            await self._forget("covers", "run")
        arguments = (now_ms, int(DUE_S * 1_000), int(_LEAST_S * 1_000))
        (mine,) = await self._client.run([Call(_CLAIM, [keys.erasures()], arguments)], timeout_s=_TIMEOUT_S)
        if raise_for_error(mine):
            await self._rewrite(run)

    async def _rewrite(self, run: str) -> None:
        (result,) = await self._client.execute([("BGREWRITEAOF",)], timeout_s=_TIMEOUT_S)
        if isinstance(result, exceptions.RedisError):  # no right to, or one is under way
            logger.error("the append-only file of Redis can't be rewritten now", extra={"error": str(result)})
        else:
            await self._execute(("HSET", keys.erasures(), "run", run))  # from here on it may count as done
            logger.info("the append-only file of Redis is rewritten, because something was erased")

    async def _forget(self, *fields: str) -> None:
        await self._execute(("HDEL", keys.erasures(), *fields))

    async def _info(self) -> dict[str, str]:
        texts = await self._execute(("INFO", "persistence"), ("INFO", "server"))
        lines = (line.split(":", 1) for text in texts for line in text.decode().splitlines())
        return {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}

    async def _execute(self, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        return [raise_for_error(found) for found in await self._client.execute(commands, timeout_s=_TIMEOUT_S)]
