"""Check for other platforms in other databases of the same Redis.

Pub/sub does not separate databases, so platforms in different databases need different prefixes: see
docs/decisions/0022.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from redis import exceptions

from services.persistence.domain.other_store import SILENT_S, OtherStore, OtherStoreFound
from services.persistence.domain.ports import Heartbeat
from services.shared.errors import CONNECTION_LOST, Unavailable
from services.shared.hotlog import keys
from services.shared.process.config import ConfigError
from services.shared.redis.address import parse_redis_url
from services.shared.redis.client import redis_client

logger = logging.getLogger(__name__)

_HEARTBEATS_S = 2.5  # seconds within which a store in use is counted for
_EVERY_S = 10.0  # seconds between looks
_MOST_DATABASES = 64  # databases that are looked into


class Neighbours:
    """Looks for stores that other databases name under our prefix.

    Of two platforms that are in use, the one that has counted less stops.
    """

    def __init__(self, url: str, *, clock: Callable[[], float]) -> None:
        self._url, self._clock = url, clock
        self._db = parse_redis_url(url).db
        self._others: dict[int, OtherStore] = {}
        self._settled = False  # no other store was in use at the start
        self._next = 0.0
        self._may_check = True
        self._logged: set[int] = set()

    async def check(self, kept: Heartbeat) -> None:
        """Look into the other databases, if it is time.

        At the start it looks every time until no other store is in use, then every 10 s.

        Raises:
            OtherStoreFound: there is one, and it is not known yet whether it is in use.
            ConfigError: it is in use, and has counted more than ours or was there before us.
            Unavailable: no reply.
        """
        now = self._clock()
        if not self._may_check or (self._settled and now < self._next):
            return
        self._next = now + _EVERY_S
        waiting = False
        for db, name, count in await self._named():
            if name == kept.store:
                continue
            older = count > kept.counter
            other = self._others.setdefault(db, OtherStore())
            try:
                silent = other.may_be_replaced(
                    name, count, now, place=f" in database {db}", silent_s=SILENT_S if older else _HEARTBEATS_S
                )
            except ConfigError as error:
                if older or not self._settled:
                    raise
                other.forget()
                if db not in self._logged:
                    self._logged.add(db)
                    logger.error("%s", error)
                continue
            waiting = waiting or not silent
        if waiting and not self._settled:
            raise OtherStoreFound("another database of Redis was used by another platform; waiting whether it still is")
        self._settled = True

    async def _named(self) -> list[tuple[int, str, int]]:
        """Return (database, name of its store, counter) for each other database."""
        try:
            async with redis_client(self._url, max_connections=1) as client:
                said: dict[str, Any] = await client.info("keyspace")
                found = sorted(int(name[2:]) for name in said if name.startswith("db"))
                databases = [db for db in found if db != self._db][:_MOST_DATABASES]
                async with client.pipeline(transaction=False) as pipeline:  # one connection for all, closed afterwards
                    for db in databases:
                        for words in (("SELECT", db), ("GET", keys.store()), ("GET", keys.heartbeat())):
                            pipeline.execute_command(*words)
                    replies = await pipeline.execute(raise_on_error=False)
        except exceptions.NoPermissionError:
            return self._stop_checking()
        except (exceptions.RedisError, *CONNECTION_LOST) as error:
            raise Unavailable(f"Redis does not answer: {error}") from error
        named = []
        for db, *reply in zip(databases, replies[::3], replies[1::3], replies[2::3], strict=True):
            for part in reply:
                if isinstance(part, exceptions.NoPermissionError):
                    return self._stop_checking()
                if isinstance(part, exceptions.RedisError) and not str(part).startswith("WRONGTYPE"):
                    raise Unavailable(f"Redis does not answer: {part}") from part
            _, name, count = reply
            if isinstance(name, bytes) and (count is None or (isinstance(count, bytes) and count.isdigit())):
                named.append((db, name.decode(errors="replace"), int(count or 0)))
        return named

    def _stop_checking(self) -> list[tuple[int, str, int]]:
        """Give up looking: this user of Redis has no right to."""
        self._may_check = False
        logger.info("this user of Redis may not look into other databases: platforms there are not noticed")
        return []
