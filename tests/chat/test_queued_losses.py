"""Random operations on a `queued` conversation whose Redis is lost now and then.

After a loss every replica has the fold of what is left, all that takes rights or content away is there, and no position
is given twice in one epoch. A failure names its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from random import Random

import pytest

from services.persistence.chat.append import Appended, NewEvent
from services.persistence.chat.domain.fold import Entry, fold
from services.persistence.domain.draining import Handover
from services.persistence.domain.ports import Row
from services.shared.errors import Unavailable
from tests.chat.naive_fold import NaiveFold, event_of
from tests.chat.random_log import random_event
from tests.support.chat import GROUP, OPTIONS, ChatSite, Replica, new_event
from tests.support.full import sized
from thalamus.common.v1 import common_pb2

QUEUED = OPTIONS._replace(queued=True)
_STORED_FIRST = ("member", "conversation", "delete", "purge")


class Moody:
    """A queue that stores some rows, some time."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    async def hand_over(self, channel: str, epoch: str, rows: Sequence[Row]) -> Handover:
        now = rows[: self._rng.choice([0, 0, 0, 1, len(rows)])]
        return Handover(now, len(now) < len(rows))


def _ends(new: NewEvent) -> bool:
    """Whether an event deletes the conversation: then there is no more to see."""
    event = event_of(new.data) or {}
    return (event.get("kind"), event.get("op")) == ("conversation", "delete")


class Play:
    """Replicas, and what was acknowledged."""

    def __init__(self, chat: ChatSite, seed: int) -> None:
        self.chat, self.rng, self.seed = chat, Random(seed), seed
        chat.drain_s = 0.01
        self.generation = 1
        self.told: dict[tuple[str, int], tuple[bytes, bytes]] = {}  # position → id and data of what was appended
        self.replicas = [self.replica(), self.replica()]

    def replica(self) -> Replica:
        made = self.chat.replica(sink=Moody(self.rng))
        made.process.incarnation = f"run.{self.generation}"
        return made

    async def log(self, replica: Replica) -> list[Entry]:
        rows, _ = await replica.process.log.read(GROUP, since_offset=0, limit=10_000, reverse=False)
        parsed = [(offset, common_pb2.Publication.FromString(row)) for offset, row in rows]
        return [Entry(offset, one.info.user, one.time_ms, one.data) for offset, one in parsed]

    async def some(self, count: int) -> None:
        """Append something."""
        log = await self.log(self.rng.choice(self.replicas))
        state, now_ms = fold(log), int(time.time() * 1_000)
        top = log[-1].offset if log else 0
        made = [new_event(*random_event(self.rng, state, top + 1, now_ms), options=QUEUED) for _ in range(count)]
        made = [one for one in made if not _ends(one)]
        results = await asyncio.gather(*(self.rng.choice(self.replicas).appender.append(one) for one in made))
        for one, result in zip(made, results, strict=True):
            if isinstance(result, Appended):
                place = result.epoch, result.offset
                assert place not in self.told, (self.seed, place, one.data, self.told[place])
                self.told[place] = one.publication_id, one.data

    async def lose(self) -> None:
        """Empty Redis; perhaps while something is appended."""
        at_once = asyncio.create_task(self.some(self.rng.randint(1, 4))) if self.rng.random() < 0.5 else None
        for _ in range(self.rng.randint(0, 6)):
            await asyncio.sleep(0)
        await self.chat.site.client.flushdb()
        self.generation += 1
        for replica in self.replicas:
            replica.process.incarnation = f"run.{self.generation}"
        if at_once is not None:
            with contextlib.suppress(Unavailable):  # the log was read while it was lost
                await at_once

    async def check(self) -> None:
        """Whether all replicas have the fold of the log, and the log has what it must."""
        log = await self.log(self.replicas[0])
        naive = NaiveFold()
        for entry in log:
            naive.apply(entry.offset, entry.author, entry.time_ms, entry.data)
        wanted = naive.view()
        for replica in self.replicas:
            found = await replica.view()
            assert found == wanted, self.seed
        rows, top = await self.replicas[0].process.log.read(GROUP, since_offset=0, limit=10_000, reverse=False)
        ids = {offset: common_pb2.Publication.FromString(row).id for offset, row in rows}
        for (epoch, offset), (publication_id, data) in self.told.items():
            kind = (event_of(data) or {}).get("kind")
            if epoch == top.epoch or kind in _STORED_FIRST:
                assert ids.get(offset) == publication_id, (self.seed, epoch, offset, data)


@pytest.mark.parametrize("seed", range(sized(4, 150)))
async def test_a_lost_redis_takes_nothing_that_was_stored_first_and_leaves_nothing_of_the_rest(
    chat: ChatSite, seed: int
) -> None:
    play = Play(chat, seed)
    for _ in range(60):
        what = play.rng.choices(["some", "write", "check", "lose", "anew"], [60, 10, 10, 8, 4])[0]
        one = play.rng.choice(play.replicas)
        try:
            if what == "some":
                await play.some(play.rng.randint(1, 5))
            elif what == "write" and (live := one.conversations.cached(GROUP)) is not None:
                await one.conversations.write(live)
            elif what == "check":
                await play.check()
            elif what == "lose":
                await play.lose()
            elif what == "anew":
                play.replicas[play.replicas.index(one)] = play.replica()
        except Unavailable:  # what it was about is lost; who asks again gets what is there
            assert what == "write"
    await play.lose()
    await play.some(3)
    await play.check()
