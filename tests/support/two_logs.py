"""A reader of logs, and two logs in memory; Redis may have less than the store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from services.edge.domain.channels.channel_log import ChannelLog
from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.model import HistoryPage, Publication, StreamPosition
from services.edge.domain.settings import Settings
from services.shared.namespaces import Durability, Namespace
from tests.properties.manual_loop import ManualLoop
from tests.support.memory import MemoryBroker, MemoryBus, MemoryLog, MemoryStore

T = TypeVar("T")
CHANNEL = "room"
EPOCH = "e"
HOT = Namespace(name="", durability=Durability.HOT)
STORED = Namespace(name="", durability=Durability.STORED)
NOW_MS = 1_800_000_000_000
both = pytest.mark.parametrize("namespace", [HOT, STORED], ids=["hot", "stored"])


class GatedBroker(MemoryBroker):
    """Reads wait while `go` is cleared; what they found was taken before."""

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__(bus)
        self.go = asyncio.Event()
        self.go.set()

    async def read(self, channel: str, **options: Any) -> HistoryPage | None:
        found = await super().read(channel, **options)
        await self.go.wait()
        self.bus.check()
        return found


class CountingStore(MemoryStore):
    """Counts reads."""

    reads = 0

    async def read(self, channel: str, **options: Any) -> HistoryPage:
        self.reads += 1
        return await super().read(channel, **options)


class Logs:
    """A reader, Redis and the store."""

    def __init__(self, **settings: Any) -> None:
        self.redis, self.disk = MemoryBus(), MemoryBus()
        self.broker, self.store = GatedBroker(self.redis), CountingStore(self.disk)
        self.reader = LogReader(self.broker, self.store, Settings(**settings))
        self.recovering = self.view(7)  # what `missed` recovers for

    def fill(self, top: int, *, redis_from: int = 1, store_from: int = 1, size: int = 1, epoch: str = EPOCH) -> None:
        """Fill both logs up to `top`, from these offsets on."""
        for bus, first in ((self.redis, redis_from), (self.disk, store_from)):
            entries = [Publication(b"x" * size, offset=one, time_ms=NOW_MS) for one in range(first, top + 1)]
            bus.logs[CHANNEL] = MemoryLog(epoch, entries, top)

    async def after(self, namespace: Namespace, offset: int, epoch: str = EPOCH) -> list[int] | None:
        page = await self.reader.after(CHANNEL, namespace, StreamPosition(offset, epoch))
        return None if page is None else offsets(page)

    async def missed(self, namespace: Namespace, offset: int) -> list[int] | None:
        page = await self.reader.missed(CHANNEL, namespace, self.recovering, offset)
        return None if page is None else offsets(page)

    async def history(
        self, namespace: Namespace, limit: int, since: int | None = None, *, reverse: bool = False, epoch: str = EPOCH
    ) -> list[int]:
        position = None if since is None else StreamPosition(since, epoch)
        return offsets(await self.reader.history(CHANNEL, namespace, limit=limit, since=position, reverse=reverse))

    def view(self, top: int, epoch: str = EPOCH) -> ChannelLog:
        return ChannelLog(StreamPosition(top, epoch), ring_size=100, ring_max_bytes=100_000, buffer_size=4)


def offsets(page: HistoryPage) -> list[int]:
    return [one.offset for one in page.publications]


def upto(last: int, first: int = 1) -> list[int]:
    return list(range(first, last + 1))


def with_time(test: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop where waiting costs no time."""
    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        return runner.run(test)


def skip(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualLoop)
    loop.skip(seconds)
