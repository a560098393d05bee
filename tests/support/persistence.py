"""Persistence on a real Redis and store; a test holds back steps or fails them."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.draining import Handover
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import Row, Written
from services.shared.errors import Unavailable
from services.shared.hotlog import hotlog
from services.shared.hotlog.hotlog import Item
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.log import append, unstamped
from tests.support.scripts import run

CHANNEL = "chat:a"
_numbers = itertools.count()


def request(data: str = "", *, key: str = "", user: str = "ann", channel: str = CHANNEL, size: int = 100) -> Request:
    key = key or f"own{next(_numbers)}"
    return Request(channel, Item(os.urandom(16), data.encode(), user, key), size, 3_600)


class Store:
    """The real store; a test may act before a write, or replace the result of one."""

    def __init__(self, store: SqliteLogStore, *, apart: bool = False) -> None:
        self.real, self.apart = store, apart
        self.before_write: Callable[[Sequence[Row]], Awaitable[None]] | None = None
        self.after_write: Callable[[], Awaitable[None]] | None = None
        self.answers: dict[str, Written | Unavailable] = {}
        self.writes: list[list[tuple[str, int]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def hold_writes(self) -> asyncio.Event:
        """Let writes wait until the returned event is set."""
        may_write = asyncio.Event()

        async def wait(_: Sequence[Row]) -> None:
            await may_write.wait()

        self.before_write = wait
        return may_write

    async def write(self, rows: Sequence[Row]) -> Mapping[str, Written | Unavailable]:
        self.writes.append([(row.channel, row.offset) for row in rows])
        if self.before_write is not None:
            await self.before_write(rows)
        written = await self.real.write([row for row in rows if row.channel not in self.answers])
        if self.after_write is not None:
            await self.after_write()
        return {
            **written,
            **{channel: self.answers[channel] for channel, _ in self.writes[-1] if channel in self.answers},
        }


class Hot(RedisHotLog):
    """The real hot log, which does not answer for some channels."""

    silent: frozenset[str] = frozenset()

    async def trim(self, channel: str, upto: int) -> None:
        if channel in self.silent:
            raise Unavailable("as if Redis had gone")
        await super().trim(channel, upto)

    async def commit(self, channels: Any, incarnation: str) -> list[int | Exception]:
        found = await super().commit([one for one in channels if one[0] not in self.silent], incarnation)
        replies = iter(found)
        return [Unavailable("refused") if one[0] in self.silent else next(replies) for one in channels]


class Process:
    """One persistence process: a log with its writer running."""

    def __init__(self, pipeline: RedisPipeline, store: SqliteLogStore, *, apart: bool = False, **limits: Any) -> None:
        self.incarnation = "first"
        self.store = Store(store, apart=apart)
        others = ("writes", "saw_writes", "max_unstored_bytes")
        self.hot = Hot(
            pipeline, lambda: self.incarnation, **{name: limits.pop(name) for name in others if name in limits}
        )
        options: dict[str, Any] = {"max_unstored": 1_000, "max_waiting": 10_000, "max_batch": 256, **limits}
        self.log = Log(self.hot, self.store, **options)
        self.writer = asyncio.create_task(self.log.run())

    async def append(self, data: str = "", **options: Any) -> AppendedPosition:
        (outcome,) = await append(self.log, [request(data, **options)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def crash(self, when: str, data: str, **options: Any) -> None:
        """Publish, but the process does not get beyond this step."""

        async def ends(*_: Any) -> None:
            raise ZeroDivisionError("the process ended here")

        if when == "before it is stored":
            self.store.before_write = ends
        else:
            self.store.after_write = ends
        with pytest.raises(Unavailable):
            await self.append(data, **options)
        self.store.before_write = self.store.after_write = None

    async def close(self) -> None:
        await end_task(self.writer)


class Nowhere:
    """A queue that loses everything."""

    async def hand_over(self, channel: str, epoch: str, rows: Sequence[Row]) -> Handover:
        return Handover([], True)


class Site:
    """Redis, a store in a file, and as many processes as a test wants."""

    def __init__(self, client: redis.asyncio.Redis, pipeline: RedisPipeline, file: Path) -> None:
        self.client, self.pipeline = client, pipeline
        self.later_s = 0.0  # by so much the clock of the store goes before the real one
        self.store = SqliteLogStore(file, clock=lambda: time.time() + self.later_s)
        self.processes: list[Process] = []

    async def close(self) -> None:
        for process in self.processes:
            await process.close()
        await self.store.close()

    def process(self, **options: Any) -> Process:
        self.processes.append(Process(self.pipeline, self.store, **options))
        return self.processes[-1]

    async def stored(self, channel: str = CHANNEL) -> list[tuple[int, str]]:
        found = await self.store.read(channel, since_offset=0, upto=1 << 40, limit=1_000, reverse=False)
        return [(offset, unstamped(publication).decode()) for offset, publication in found]

    async def readable(self, channel: str = CHANNEL, incarnation: str = "first") -> list[tuple[int, str]]:
        """What edges see in Redis."""
        call = hotlog.read_call(
            channel, stored=True, incarnation=incarnation, since_offset=0, limit=1_000, reverse=False
        )
        page = hotlog.page((await run(self.client, [call]))[0])
        return [(offset, unstamped(publication).decode()) for offset, publication in page.entries] if page else []


both = pytest.mark.parametrize("apart", [False, True], ids=["one write for all", "a write per channel"])
