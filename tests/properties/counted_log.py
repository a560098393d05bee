"""Random schedules of a `stored` channel whose publications have flags and guards.

As in `stored_log.py`, replicas die between any two steps, Redis is emptied or goes back; or one of the two replicas is
of a version of before. What must hold is computed from the flags alone, in the order that the store has.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio

from services.persistence.domain.log import Log, Request
from services.persistence.domain.outcomes import AppendedPosition, Outcome, Recheck
from services.persistence.domain.ports import CountedRow
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, Item
from services.shared.redis.pipeline import RedisPipeline
from tests.properties.stored_log import Channel, Incarnation, Replica
from tests.support.before_counts import HotLogBefore
from tests.support.counts import counts_of
from tests.support.log import append, unstamped

_HISTORY_SIZE = 8


@dataclass
class CountedChannel(Channel):
    """A schedule; what is to be published is (key, flags, kind of guard)."""

    mv: int = 0  # as the store had it last
    sent: dict[bytes, Item] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)

    def _request(self, key: Any) -> Request:
        name, flags, kind = key or ("", 0, "none")
        guard = {"none": None, "right": self.mv, "old": max(0, self.mv - 1), "new": self.mv + 1}[kind]
        data = os.urandom(6)
        item = Item(os.urandom(16), data, "u", name or data.hex(), flags=flags, guard=guard)
        self.sent[data] = item
        return Request(self.name, item, _HISTORY_SIZE, 3_600)

    def _told(self, item: Item, key: Any, outcome: Outcome) -> None:
        name = key[0]
        if isinstance(outcome, AppendedPosition):
            self._acked(item, name, outcome)
        elif isinstance(outcome, Recheck):
            assert item.guard is not None
            assert name not in self.places, "refused, although the key has a position"
            self.refused.add(item.publication)

    async def append(self, who: int, keys: Sequence[Any], death_at: int, after: bool) -> None:
        replica = self.replicas[who]
        replica.death.calls, replica.death.at, replica.death.after = 0, death_at, after
        requests = [self._request(key) for key in keys]
        for request, key, outcome in zip(requests, keys, await append(replica.log, requests), strict=True):
            self._told(request.item, key, outcome)
        if death_at >= 0:
            await replica.close()
            self.replicas[who] = Replica(self.pipeline, self.store, self.incarnation)

    async def fall_back(
        self, lost: Sequence[Any], noticed: bool, who: int, keys: Sequence[Any], death_at: int, after: bool
    ) -> None:
        """Redis goes back behind what was appended last; then somebody appends.

        Whether or not it was noticed.
        """
        await self.take_dump()
        await self.append(0, lost, -1, False)
        if not noticed:
            await self.slip(False, who, keys, death_at, after)
            return
        await self.go_back(empty=False)
        await self.append(who, keys, death_at, after)

    async def compare_anew(self) -> None:
        """Redis has all it had, and every channel is compared before its next use."""
        self.incarnation.number += 1

    async def look(self) -> None:
        await super().look()
        rows = await self._rows()
        items = [self.sent[unstamped(row.publication)] for row in rows]
        for row, item, counts in zip(rows, items, counts_of([item.flags for item in items]), strict=True):
            assert (row.flags, row.n, row.mv) == (item.flags, *counts), [one.flags for one in items[: row.offset]]
        before = 0
        for row, item in zip(rows, items, strict=True):
            assert item.guard in (None, before), "a guard that was wrong let it pass"
            before = row.mv
        stored = {item.publication for item in items}
        assert not stored & self.refused, "refused and stored"
        state = await self.store.open(self.name)
        assert (state.n, state.mv) == ((rows[-1].n, rows[-1].mv) if rows else (0, 0))
        self.mv = state.mv
        await self._look_at_redis(rows)

    async def _look_at_redis(self, rows: Sequence[CountedRow]) -> None:
        """What entries say of themselves is what their rows say."""
        said = {row.offset: b"%d %d %d" % (row.flags, row.n, row.mv) for row in rows}
        readable = int(await self.client.hget(keys.meta(self.name), "stored") or 0)
        entries: Any = await self.client.xrange(keys.log(self.name))
        for name, fields in entries:
            offset = int(name.split(b"-")[0])
            if b"c" in fields and offset <= readable:
                assert fields[b"c"] == said[offset]

    async def _rows(self) -> list[CountedRow]:
        return await self.store.read_counted(self.name, since_offset=0, upto=1 << 40, limit=10_000, reverse=False)

    async def finish(self) -> None:
        """Recovered, it counts on, and the right guard passes."""
        await super().finish()
        before = (await self._rows())[-1]
        for flags in (COUNTS, CHANGES_MEMBERSHIP, COUNTS | CHANGES_MEMBERSHIP):
            await self.look()
            request = self._request(("", flags, "right"))
            (outcome,) = await append(self.replicas[0].log, [request])
            assert isinstance(outcome, AppendedPosition), outcome
        await self.look()
        last = (await self._rows())[-1]
        assert (last.offset, last.n, last.mv) == (before.offset + 3, before.n + 2, before.offset + 3)


@dataclass
class MixedChannel(CountedChannel):
    """The second replica is of before.

    It numbers publications without flags, and nobody dies.
    """

    async def begin(self) -> None:
        await super().begin()
        await self.replicas[1].close()
        before = self.replicas[1]
        before.log = Log(
            HotLogBefore(self.pipeline, lambda: self.incarnation.token),
            _StoreBefore(self.store),
            max_unstored=100,
            max_waiting=1_000,
            max_batch=64,
        )
        before.restart()

    async def append(self, who: int, keys: Sequence[Any], death_at: int, after: bool) -> None:
        await super().append(who, [(key, 0, "none") if who else (key, *rest) for key, *rest in keys], -1, False)

    async def sweep(self, who: int, death_at: int, after: bool) -> None:
        await super().sweep(who, -1, False)


class _StoreBefore:
    """A store that is given rows without flags, and says nothing of them."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, rows: Any) -> Any:
        return await self._store.write([row._replace(flags=0, n=0, mv=0) for row in rows])


def actions(rng: random.Random) -> list[tuple[Any, ...]]:
    """Return the actions of one schedule."""

    def items() -> list[tuple[str, int, str]]:
        kinds = ["none", "none", "right", "right", "old", "new"]
        flags = [0, 0, 1, 1, 1, 2, 2, 3, 4, 7]
        return [
            (rng.choice(["", "", "a", "b", "c"]), rng.choice(flags), rng.choice(kinds))
            for _ in range(rng.randint(1, 4))
        ]

    def one() -> tuple[Any, ...]:
        who, death, after = rng.randrange(2), rng.choice([-1, -1, rng.randint(1, 8)]), rng.random() < 0.5
        match rng.choice(["append"] * 4 + ["sweep", "slip", "take_dump", "go_back", "fall_back", "compare_anew"]):
            case "compare_anew":
                return ("compare_anew",)
            case "fall_back":
                return "fall_back", items(), rng.random() < 0.5, who, items(), death, after
            case "append":
                return "append", who, items(), death, after
            case "sweep":
                return "sweep", who, death, after
            case "slip":
                return "slip", rng.random() < 0.5, who, items(), death, after
            case "take_dump":
                return ("take_dump",)
        return "go_back", rng.random() < 0.5

    return [one() for _ in range(rng.randint(2, 14))]


async def live(
    kind: type[CountedChannel], client: redis.asyncio.Redis, pipeline: RedisPipeline, store: Any, seed: str
) -> None:
    """One schedule."""
    channel = kind(client, pipeline, store, incarnation=Incarnation())
    await channel.begin()
    try:
        for name, *arguments in actions(random.Random(seed)):
            await getattr(channel, name)(*arguments)
            await channel.look()
        await channel.finish()
    finally:
        await channel.end()
