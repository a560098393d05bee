"""Random schedules of one `stored` channel.

Replicas die between any two steps, Redis is emptied or goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from hypothesis import strategies as st

from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition
from services.shared.errors import Unavailable
from services.shared.hotlog import hotlog
from services.shared.hotlog.hotlog import Item
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from tests.support.log import append, unstamped
from tests.support.scripts import run

_numbers = itertools.count()
_HISTORY_SIZE = 8  # small: the hot log is cut all the time


class Died(Exception):
    """The process ended here."""


class Steps:
    """A port whose k-th call from now is its process' last.

    Before or after it took effect.
    """

    def __init__(self, port: Any, death: Death) -> None:
        self._port, self._death = port, death

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._port, name)
        if name in ("incarnation", "apart"):
            return call

        async def step(*arguments: Any, **options: Any) -> Any:
            before, after = self._death.next()
            if before:
                raise Died
            result = await call(*arguments, **options)
            if after:
                raise Died
            return result

        return step


@dataclass
class Death:
    """When: counted over both ports of a replica.

    Once dead, every further call fails, too.
    """

    at: int = -1  # call number; -1: never
    after: bool = False
    calls: int = 0

    def next(self) -> tuple[bool, bool]:
        self.calls += 1
        if self.at < 0 or self.calls < self.at:
            return False, False
        if self.calls > self.at:
            return True, False
        return not self.after, self.after


class Replica:
    """One persistence process."""

    def __init__(self, pipeline: RedisPipeline, store: SqliteLogStore, incarnation: Incarnation) -> None:
        self.death = Death()
        self.log = Log(
            Steps(RedisHotLog(pipeline, lambda: incarnation.token), self.death),
            Steps(store, self.death),
            max_unstored=100,
            max_waiting=1_000,
            max_batch=64,
        )
        self.restart()

    def restart(self) -> None:
        """Begin to write, after `close` too."""
        self._task = asyncio.create_task(self.log.run())

    async def close(self) -> None:
        await end_task(self._task)


@dataclass
class Incarnation:
    """The incarnation of Redis, as persistence has been told of it."""

    number: int = 0

    @property
    def token(self) -> str:
        return f"incarnation{self.number}"


@dataclass
class Channel:
    """One random schedule of one channel, and what must hold of it."""

    client: redis.asyncio.Redis
    pipeline: RedisPipeline
    store: SqliteLogStore
    name: str = field(default_factory=lambda: f"chat:{next(_numbers)}")
    incarnation: Incarnation = field(default_factory=Incarnation)
    replicas: list[Replica] = field(default_factory=list)
    acked: dict[int, bytes] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    seen: dict[int, bytes] = field(default_factory=dict)  # what readers saw
    top: int = 0
    epoch: str = ""
    dump: list[tuple[Any, bytes]] = field(default_factory=list)

    async def begin(self) -> None:
        await self.client.flushdb()
        self.replicas = [Replica(self.pipeline, self.store, self.incarnation) for _ in range(2)]

    async def end(self) -> None:
        for replica in self.replicas:
            await replica.close()

    # Actions.

    async def append(self, who: int, keys: Sequence[str], death_at: int, after: bool) -> None:
        """Some publications at once, of which the replica may die."""
        replica = self.replicas[who]
        replica.death.calls, replica.death.at, replica.death.after = 0, death_at, after
        requests = [self._request(key) for key in keys]
        outcomes = await append(replica.log, requests)
        for request, key, outcome in zip(requests, keys, outcomes, strict=True):
            if isinstance(outcome, AppendedPosition):
                self._acked(request.item, key, outcome)
        if death_at >= 0:
            await replica.close()
            self.replicas[who] = Replica(self.pipeline, self.store, self.incarnation)

    def _request(self, key: str) -> Request:
        data = os.urandom(6)
        item = Item(os.urandom(16), data, "u", key or data.hex())
        return Request(self.name, item, _HISTORY_SIZE, 3_600)

    def _acked(self, item: Item, key: str, position: AppendedPosition) -> None:
        assert self.epoch in ("", position.epoch), "the epoch of a stored channel changed"
        self.epoch = position.epoch
        if key:
            assert self.places.setdefault(key, position.offset) == position.offset, "one key, two positions"
        if not position.repeated_key:
            assert self.acked.setdefault(position.offset, item.publication) == item.publication, "one position twice"

    async def sweep(self, who: int, death_at: int, after: bool) -> None:
        replica = self.replicas[who]
        replica.death.calls, replica.death.at, replica.death.after = 0, death_at, after
        with contextlib.suppress(Died, Unavailable):
            await replica.log.sweep(0.0, 100)
        if death_at >= 0:
            await replica.close()
            self.replicas[who] = Replica(self.pipeline, self.store, self.incarnation)

    async def take_dump(self) -> None:
        self.dump = [
            (name, value) for name in await self.client.keys("*") if (value := await self.client.dump(name)) is not None
        ]

    async def go_back(self, empty: bool) -> None:
        """Another incarnation of Redis.

        What it is told of is nobody's business but persistence's.
        """
        await self.client.flushdb()
        for name, value in [] if empty else self.dump:
            await self.client.restore(name, 0, value)
        self.incarnation.number += 1

    async def slip(self, empty: bool, who: int, keys: Sequence[str], death_at: int, after: bool) -> None:
        """Redis goes back, and somebody appends before anybody has noticed.

        What the store has is the net beneath.
        """
        await self.go_back(empty)
        self.incarnation.number -= 1
        await self.append(who, keys, death_at, after)
        self.incarnation.number += 1

    # What must always hold.

    async def look(self) -> None:
        """As an edge does: the hot log, in the present incarnation, or nothing."""
        call = hotlog.read_call(
            self.name, stored=True, incarnation=self.incarnation.token, since_offset=0, limit=1_000, reverse=False
        )
        page = hotlog.page((await run(self.client, [call]))[0])
        if page is None:
            return
        assert self.epoch in ("", page.epoch)
        self.epoch = page.epoch
        assert page.top >= self.top, "readers were taken back"
        self.top = page.top
        stored = dict(await self.store.read(self.name, since_offset=0, upto=1 << 40, limit=10_000, reverse=False))
        offsets = [offset for offset, _ in page.entries]
        assert offsets == list(range(offsets[0], page.top + 1)) if offsets else True, "a hole in the hot log"
        for offset, data in page.entries:
            assert self.seen.setdefault(offset, data) == data, "readers saw two publications at one place"
            assert stored.get(offset) == data, "readers saw what the store has not"

    async def finish(self) -> None:
        """All parts work again: what was numbered is readable, or gone for ever."""
        healthy = self.replicas[0]
        await healthy.log.sweep(0.0, 100)
        (outcome,) = await append(healthy.log, [self._request("")])
        assert isinstance(outcome, AppendedPosition), outcome
        stored = dict(await self.store.read(self.name, since_offset=0, upto=1 << 40, limit=10_000, reverse=False))
        assert sorted(stored) == list(range(1, outcome.offset + 1)), "a hole in the store"
        for offset, data in self.seen.items():
            assert stored[offset] == data, "seen, and not stored"
        for offset, data in self.acked.items():
            assert unstamped(stored[offset]) == data, "acknowledged, and not stored"
        assert (await healthy.log.open(self.name)).top == outcome.offset
        (left,) = await RedisHotLog(self.pipeline, lambda: self.incarnation.token).unstored([self.name], 100)
        assert left is not None
        assert left.entries == [], "numbered, and neither readable nor gone"
        await self.look()


keys = st.sampled_from(["", "", "a", "b", "c"])
deaths = st.one_of(st.just(-1), st.integers(1, 8))
who = st.integers(0, 1)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("append"), who, st.lists(keys, min_size=1, max_size=3), deaths, st.booleans()),
        st.tuples(st.just("append"), who, st.lists(keys, min_size=1, max_size=3), deaths, st.booleans()),
        st.tuples(st.just("append"), who, st.lists(keys, min_size=1, max_size=3), deaths, st.booleans()),
        st.tuples(st.just("sweep"), who, deaths, st.booleans()),
        st.tuples(st.just("slip"), st.booleans(), who, st.lists(keys, min_size=1, max_size=3), deaths, st.booleans()),
        st.tuples(st.just("take_dump")),
        st.tuples(st.just("go_back"), st.booleans()),
    ),
    min_size=2,
    max_size=14,
)


async def live(
    client: redis.asyncio.Redis, pipeline: RedisPipeline, store: SqliteLogStore, steps: Sequence[tuple[Any, ...]]
) -> None:
    """One schedule."""
    channel = Channel(client, pipeline, store)
    await channel.begin()
    try:
        for name, *arguments in steps:
            await getattr(channel, name)(*arguments)
            await channel.look()
        await channel.finish()
    finally:
        await channel.end()
