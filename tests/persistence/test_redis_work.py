"""However much comes at once, one script of Redis does a bounded amount.

Everybody waits for it meanwhile. What is counted are the commands that a script runs, not time.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services.persistence.domain.log import Request
from services.persistence.domain.outcomes import AppendedPosition
from services.persistence.domain.ports import Row
from services.shared.errors import Unavailable
from services.shared.hotlog import erasing, hotlog, keys
from services.shared.hotlog.hotlog import COUNTS, ERASES, Item
from services.shared.hotlog.scripts import Call, name_of
from tests.support.log import append
from tests.support.persistence import CHANNEL, Process, Site, both

MOST = 256  # entries of a log that one script handles
AT_ONCE = 1_024  # publications of one batch


class Counting:
    """Has scripts sent one by one, and counts the commands that each runs."""

    def __init__(self, site: Site, processes: Sequence[Process]) -> None:
        self.most: dict[str, int] = defaultdict(int)  # script → most commands of one call
        self.calls: dict[str, int] = defaultdict(int)
        self._client = site.client
        for process in processes:
            hot: Any = process.hot
            hot._run = self._run_of(hot._run)  # noqa: SLF001

    def _run_of(self, run: Any) -> Any:
        async def one_by_one(op: str, calls: Sequence[Call]) -> list[object]:
            results: list[object] = []
            for call in calls:
                before = await self._commands()
                results += await run(op, [call])
                name = name_of(call.script.sha) or ""
                self.most[name] = max(self.most[name], await self._commands() - before - 2)  # its own, and INFO
                self.calls[name] += 1
            return results

        return one_by_one

    async def _commands(self) -> int:
        said: Any = await self._client.info("commandstats")
        return sum(one["calls"] for one in said.values())


def items(count: int, flags: int) -> list[Request]:
    made = [Item(os.urandom(16), b"x" * 100, "bob", os.urandom(8).hex(), "bob", flags) for _ in range(count)]
    return [Request(CHANNEL, item, 10_000, 3_600) for item in made]


@both
async def test_c37_a_script_handles_256_entries_at_most(site: Site, apart: bool) -> None:
    """Mutants: a batch is numbered, made readable, or written again all at once."""
    assert hotlog.MOST_COMMITTED == erasing.MOST_WRITTEN == hotlog.MOST_NUMBERED == MOST
    process = site.process(apart=apart, max_batch=AT_ONCE)
    first = await append(process.log, items(AT_ONCE, COUNTS))  # now it counts, and is long
    assert len({outcome.offset for outcome in first if isinstance(outcome, AppendedPosition)}) == AT_ONCE
    counting = Counting(site, [process])
    erased = iter(range(1, 1 + AT_ONCE))

    async def resolve(_: Row) -> Mapping[int, bytes]:
        return {next(erased): b"gone"}

    process.log.erasures.resolve = resolve
    outcomes = await append(process.log, items(AT_ONCE, ERASES))
    offsets = [outcome.offset for outcome in outcomes if isinstance(outcome, AppendedPosition)]
    assert offsets == list(range(AT_ONCE + 1, 2 * AT_ONCE + 1)), "they stay in order"
    print(dict(counting.most), dict(counting.calls))
    assert 0 < counting.most["append_stored.lua"] <= 2 * MOST + 10
    assert 0 < counting.most["commit.lua"] <= 2 * MOST + 10
    assert 0 < counting.most["erase.lua"] <= MOST + 2 * MOST / 16 + 10
    assert counting.calls["append_stored.lua"] == counting.calls["commit.lua"] == AT_ONCE / MOST


@pytest.mark.parametrize(("author", "commands"), [(None, 4), ("bob", 5)], ids=["plain", "told by the feed"])
async def test_a_publication_that_the_feed_tells_of_costs_one_command_more(
    site: Site, author: str | None, commands: int
) -> None:
    """They are HMGET, XRANGE, HSET, PUBLISH; and XADD.

    Mutant: what the feed told last is read or written by itself.
    """
    process = site.process()
    told = [request._replace(item=request.item._replace(author=author)) for request in items(3, COUNTS)]
    await append(process.log, told[:1])  # the scripts are known
    counting = Counting(site, [process])
    for request in told[1:]:
        await append(process.log, [request])
    assert counting.most["commit.lua"] == commands
    assert counting.most["append_stored.lua"] == 6, "HMGET, TIME, SET, XADD, HSET, TTL"


async def test_what_others_have_numbered_is_made_readable_in_steps(site: Site) -> None:
    """Two replicas: one of them finishes what the other one has left."""
    dead, other = site.process(max_batch=AT_ONCE), site.process()

    async def ends(_: Any) -> None:
        raise Unavailable("the process ended here")

    await append(other.log, items(1, COUNTS))
    dead.store.before_write = ends
    for _ in range(3):
        await append(dead.log, items(200, COUNTS))
    counting = Counting(site, [other])
    published = site.client.pubsub()
    async with published:
        await published.subscribe(keys.pub(CHANNEL))
        await published.get_message(timeout=60)  # that it is subscribed
        (outcome,) = await append(other.log, items(1, COUNTS))
        assert isinstance(outcome, AppendedPosition)
        assert outcome.offset == 602
        told: list[int] = []
        while len(told) < 601:
            message: Any = await published.get_message(ignore_subscribe_messages=True, timeout=60)
            assert message is not None
            told.append(int(message["data"].split(b" ", 2)[1]))
    assert told == list(range(2, 603)), "each is told once, in order"
    assert counting.calls["commit.lua"] == 3
    assert counting.most["commit.lua"] <= 2 * MOST + 10


async def test_of_a_batch_that_fails_in_the_midst_the_first_part_is_acknowledged(site: Site) -> None:
    process = site.process(max_batch=AT_ONCE)
    await append(process.log, items(1, COUNTS))
    writes = len(process.store.writes)

    async def fails(_: Any) -> None:
        if len(process.store.writes) > writes + 1:
            raise Unavailable("the store is away")

    process.store.before_write = fails
    outcomes = await append(process.log, items(3 * MOST, COUNTS))
    assert [isinstance(outcome, AppendedPosition) for outcome in outcomes] == [True] * MOST + [False] * 2 * MOST
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes[MOST:])
