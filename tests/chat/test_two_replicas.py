"""Two replicas at one conversation: each has the fold of the log.

Random events go through either of two replicas, alone or at the same time; the read model is written, replicas end and
begin anew in between. A failure names its seed. In `queued` ones a part of the log is only in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from services.persistence.chat.append import Appended, Options, Refused, Result
from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry, apply
from services.persistence.chat.domain.state import Conversation, view
from services.persistence.domain.draining import Handover
from services.persistence.domain.ports import Row
from tests.chat.naive_fold import NaiveFold
from tests.chat.random_log import random_event
from tests.support.chat import GROUP, OPTIONS, ChatSite, Replica, full_view, new_event
from tests.support.chat_play import only_before_numbering
from tests.support.full import sized
from thalamus.common.v1 import common_pb2

SEEDS = range(sized(12, 200))
QUEUED_SEEDS = range(sized(4, 100))
STEPS = 100
QUEUED = OPTIONS._replace(queued=True)
_BY_TIME = {"too_late", "silenced", "banned"}  # decided with a margin


class Reference:
    """The fold of what is stored, entry by entry, and the naive one beside it."""

    def __init__(self, chat: ChatSite, process: dict[str, Any] | None = None, incarnation: str = "first") -> None:
        """`process`: options of each replica's process."""
        self._chat, self._process, self._incarnation = chat, process or {}, incarnation
        self._rows: dict[int, bytes] = {}
        self.state, self.naive, self.position = Conversation(), NaiveFold(), 0
        self.views: list[dict[str, Any]] = [view(self.state)]
        self.why: dict[int, str | None] = {}

    async def record(self, rows: Sequence[Row]) -> None:
        """Keep what is about to be stored: it may be erased soon."""
        self._rows.update({row.offset: row.publication for row in rows})

    def replica(self) -> Replica:
        made = self._chat.replica(**self._process)
        made.process.incarnation = self._incarnation
        made.process.store.before_write = self.record
        return made

    async def catch_up(self, replica: Replica) -> None:
        """Take in what became readable; what is stored as it was then."""
        rows, _ = await replica.process.log.read(GROUP, since_offset=self.position, limit=10_000, reverse=False)
        self._rows = dict(rows) | self._rows
        while self.position + 1 in self._rows:
            one = common_pb2.Publication.FromString(self._rows[self.position + 1])
            self.take(Entry(self.position + 1, one.info.user, one.time_ms, one.data))

    def take(self, entry: Entry) -> None:
        assert entry.offset == self.position + 1
        why = apply(self.state, entry)
        assert why == self.naive.apply(entry.offset, entry.author, entry.time_ms, entry.data)
        self.position = entry.offset
        self.why[entry.offset] = why
        self.views.append(view(self.state))

    def check(self, author: str, data: bytes, result: Result, now_ms: int, *, alone: bool) -> None:
        """Whether what was told is so."""
        if isinstance(result, Appended):
            assert result.void == self.why[result.offset], (data, result)
            return
        assert isinstance(result, Refused)
        assert result.code != 100, (data, result)
        if not alone or result.why in _BY_TIME:
            return
        try:
            event = events.parse(data)
        except events.Malformed:
            assert result.code == 107
            return
        hidden = only_before_numbering(self.naive.view(), author, self.object(data))
        if not isinstance(event, events.Custom | events.Erased) and not hidden:
            assert self.naive.why(self.position + 1, author, now_ms - 100, self.object(data)) is not None, (
                data,
                result,
            )

    @staticmethod
    def object(data: bytes) -> dict[str, Any]:
        from tests.chat.naive_fold import event_of

        found = event_of(data)
        assert found is not None
        return found


class Slow:
    """A queue that stores nothing for a long time."""

    async def hand_over(self, channel: str, epoch: str, rows: Sequence[Row]) -> Handover:
        return Handover([], True)


async def check_state(reference: Reference, replica: Replica, seed: int) -> None:
    live = await replica.conversations.current(GROUP)
    assert live.position == reference.position, seed
    found = await full_view(replica, live)
    assert found == reference.views[live.position], (seed, live.position)
    assert live.state.n == reference.state.n


@pytest.mark.parametrize("seed", SEEDS)
async def test_both_have_the_fold_of_the_log_at_every_position(chat: ChatSite, seed: int) -> None:
    await _play(chat, seed, Reference(chat), OPTIONS)


@pytest.mark.parametrize("seed", QUEUED_SEEDS)
async def test_so_they_have_while_a_part_of_the_log_is_only_in_redis(chat: ChatSite, seed: int) -> None:
    process = {"sink": Slow()} if seed % 2 else {}
    chat.drain_s = 0.01
    await _play(chat, seed, Reference(chat, process, "run1.1"), QUEUED)


async def _play(chat: ChatSite, seed: int, reference: Reference, options: Options) -> None:
    rng = Random(seed)
    replicas = [reference.replica(), reference.replica()]
    for _ in range(STEPS):
        what = rng.choices(["one", "some", "check", "write", "sweep", "anew", "lost"], [50, 20, 15, 15, 3, 5, 3])[0]
        one = rng.choice(replicas)
        if what == "check":
            await check_state(reference, one, seed)
        elif what == "write":
            live = one.conversations.cached(GROUP)
            if live is not None:
                await one.conversations.write(live)
        elif what == "sweep":
            await one.projection.sweep(0)
        elif what == "anew":
            replicas[replicas.index(one)] = reference.replica()
        elif what == "lost":  # the read model is made again, from what was not erased
            await chat.store.drop(GROUP)
            replicas = [reference.replica(), reference.replica()]
        else:
            now_ms = int(chat.clock() * 1_000)
            made = [
                random_event(rng, reference.state, reference.position + 1, now_ms)
                for _ in range(1 if what == "one" else rng.randint(2, 8))
            ]
            results = await asyncio.gather(
                *(
                    rng.choice(replicas).appender.append(new_event(author, data, options=options))
                    for author, data in made
                )
            )
            await reference.catch_up(one)
            for (author, data), result in zip(made, results, strict=True):
                reference.check(author, data, result, now_ms, alone=len(made) == 1)
    for replica in [*replicas, reference.replica()]:
        await check_state(reference, replica, seed)
