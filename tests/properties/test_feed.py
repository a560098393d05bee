"""Every event of the feed is told at least once, or a gap is told.

Publications are appended by the real script to a real Redis with short streams. The readers of a group die between
taking and acknowledging. Redis is killed, comes back from an older copy, or loses everything. What nobody was told must
be covered by a gap that was told.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
import redis

from services.shared.feed.events import Event, EventType, GapReason
from services.shared.feed.reader import Backlog, FeedReader
from services.shared.hotlog import hot, keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.full import sized
from tests.support.redis import RedisServer

CHANNELS = [f"chat:{number}" for number in range(5)]
MOST = 12  # entries that a stream keeps
STEPS = 80


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that trims streams in steps of a few entries."""
    made = RedisServer("--stream-node-max-entries", "4")
    try:
        made.start()
        yield made
    finally:
        made.close()


class Group:
    """Redis, those who publish, the readers of one group, and what was told."""

    def __init__(self, server: RedisServer, rng: random.Random) -> None:
        self.server, self.rng = server, rng
        self.generation = 1
        self.losses_ms: list[int] = []  # when Redis came back with less, by its clock
        self.appended: dict[tuple[str, str, int], int] = {}  # channel, epoch, number → losses until then
        self.taken: list[tuple[FeedReader, list[Event]]] = []
        self.readers: list[FeedReader] = []
        self.events: dict[str, Event] = {}
        self.told: set[tuple[str, str, int]] = set()
        self.missed: Counter[str] = Counter()  # stream → entries of gaps
        self.losses_told = 0  # gaps told of so many losses
        self.calls = 0

    async def append(self, pipeline: RedisPipeline) -> None:
        channel, count = self.rng.choice(CHANNELS), self.rng.randint(1, 6)
        self.calls += 1
        batch = hot.HotBatch(channel, 5, 60, [(b"{}", "")] * count, ["ann"] * count)
        fresh = f"{self.generation}.e{self.calls}"
        call = hot.append_call([batch], edge="e", fresh_epoch=fresh, now_s=0, feed_max_entries=MOST)
        reply = hot.appended((await pipeline.run([call], timeout_s=2))[0])
        assert reply is not None
        (result,) = reply.batches
        assert isinstance(result, hot.HotAppended)
        for offset in result.offsets:
            self.appended[channel, result.epoch, offset] = len(self.losses_ms)

    async def take(self) -> None:
        if (len(self.readers) < 3 and self.rng.random() < 0.5) or not self.readers:
            self.readers.append(FeedReader(self.server.url, "g", from_start=True, claim_after_s=0.02))
        reader = self.rng.choice(self.readers)
        if events := await reader.next(self.rng.randint(1, 8), wait_s=0):
            self.taken.append((reader, events))

    async def acknowledge(self) -> None:
        """Hand some events on, then acknowledge them."""
        if not self.taken:
            return
        reader, events = self.taken.pop(self.rng.randrange(len(self.taken)))
        for event in events:
            first = self.events.setdefault(event.id, event)
            assert first == event, "an id has one event"
            if event is first or event.type is not EventType.GAP:
                self._handed_on(event, again=event is not first)
        await reader.done(events)

    def _handed_on(self, event: Event, *, again: bool) -> None:
        if event.type is not EventType.GAP:
            self.told.add((event.channel, event.epoch, event.number))
        elif event.reason == GapReason.TRIMMED and not again:
            assert event.missed is not None
            self.missed[event.stream] += event.missed
        elif event.reason != GapReason.TRIMMED:
            earlier = sum(event.time_ms >= ms for ms in self.losses_ms)
            self.losses_told = max(self.losses_told, earlier)

    async def die(self) -> None:
        """One reader is gone, with what it has taken."""
        if self.readers:
            dead = self.readers.pop(self.rng.randrange(len(self.readers)))
            self.taken = [one for one in self.taken if one[0] is not dead]
            await dead.close()

    def restart(self, how: str) -> None:
        """Redis is killed and comes back; persistence says what that means."""
        self.server.kill()
        if how == "older":
            self.server.go_back()
        elif how == "empty":
            self.server.wipe()
        self.server.start()
        if how != "whole":
            self.generation += 1
            with redis.Redis(port=self.server.port) as client:
                seconds, micros = client.time()
                self.losses_ms.append(seconds * 1000 + micros // 1000)
                client.set(keys.incarnation(), f"{client.info('server')['run_id']} {self.generation} 0")
        self.server.copy()

    def check(self) -> None:
        """Whatever was not told, a gap covers."""
        silent = Counter[str]()
        for (channel, epoch, number), losses in self.appended.items():
            if (channel, epoch, number) not in self.told and losses >= self.losses_told:
                silent[f"feed{keys.feed_shard(channel)}"] += 1
        for stream, count in silent.items():
            assert count <= self.missed[stream], f"{count} events of {stream} were neither told nor missed"
        assert self.told <= set(self.appended), "what was not published is not told"


@pytest.mark.parametrize("seed", range(1, 1 + sized(4, 60)))
async def test_every_event_is_told_or_a_gap_is(server: RedisServer, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    group = Group(server, rng)
    pipeline = RedisPipeline(server.url)
    server.copy()
    for _ in range(STEPS):
        step = rng.choices(("append", "take", "acknowledge", "die", "restart"), (8, 8, 6, 2, 0.4))[0]
        if step == "append":
            await group.append(pipeline)
        elif step == "take":
            await group.take()
        elif step == "acknowledge":
            await group.acknowledge()
        elif step == "die":
            await group.die()
        else:
            await pipeline.aclose()
            for reader in group.readers:
                await reader.close()
            group.readers, group.taken = [], []
            group.restart(rng.choice(["whole", "older", "empty"]))
    while group.readers:
        await group.die()
    last = FeedReader(server.url, "g", from_start=True, claim_after_s=0.02)
    group.readers = [last]
    backlog = Backlog(1, 1)
    while backlog != Backlog(0, 0):
        if events := await last.next(100, wait_s=0.05):
            group.taken.append((last, events))
            await group.acknowledge()
        backlog = await last.backlog()
    group.check()
    counts = f"{len(group.appended)} appended, {len(group.told)} told, {len(group.losses_ms)} losses of Redis"
    print(f"{counts}, missed {dict(group.missed)}")
    await last.close()
    await pipeline.aclose()


async def test_one_reader_gets_the_events_of_a_channel_in_order(server: RedisServer) -> None:
    group = Group(server, random.Random(7))
    pipeline = RedisPipeline(server.url)
    for _ in range(40):
        await group.append(pipeline)
    reader = FeedReader(server.url, "g", from_start=True)
    last: Counter[str] = Counter()
    while events := await reader.next(3, wait_s=0):
        for event in events:
            assert event.number > last[event.channel] or event.type is EventType.GAP
            last[event.channel] = event.number
        await reader.done(events)
    assert set(last) >= set(CHANNELS)
    await reader.close()
    await pipeline.aclose()
