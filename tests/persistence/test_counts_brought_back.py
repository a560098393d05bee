"""What a channel has counted comes back to Redis with its epoch and top."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from services.persistence.domain.log import Request
from services.persistence.domain.outcomes import AppendedPosition, Recheck
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, Item
from tests.support.log import append
from tests.support.persistence import Process, Site


class Counting:
    """A store that counts its calls."""

    def __init__(self, store: Any) -> None:
        self._store, self.calls = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return found(*arguments, **options)

        return call


def request(channel: str, flags: int, guard: int | None = None) -> Request:
    item = Item(os.urandom(16), b"x", "u", os.urandom(4).hex(), flags=flags, guard=guard)
    return Request(channel, item, 100, 600)


async def test_after_a_loss_of_redis_the_store_is_asked_no_more_than_for_another_channel(site: Site) -> None:
    calls = []
    for channel, flags in (("chat:plain", 0), ("chat:counts", COUNTS | CHANGES_MEMBERSHIP)):
        process = site.process()
        await append(process.log, [request(channel, flags) for _ in range(3)])
        await site.client.flushdb()
        process.incarnation = "second"
        counting = process.store.real = Counting(process.store.real)  # type: ignore[assignment]
        (outcome,) = await append(process.log, [request(channel, flags, 3 if flags else None)])
        assert isinstance(outcome, AppendedPosition)
        assert outcome.offset == 4
        calls.append(counting.calls)
    assert calls[0] == calls[1]
    assert calls[0]["open"] == 2


async def test_the_first_item_that_counts_is_numbered_at_once_in_a_new_channel(process: Process) -> None:
    counting = process.store.real = Counting(process.store.real)  # type: ignore[assignment]
    outcomes = await append(process.log, [request("chat:new", 0), request("chat:new", COUNTS, 0)])
    assert [one.offset for one in outcomes if isinstance(one, AppendedPosition)] == [1, 2]
    assert counting.calls["open"] == 2, "as for any channel that Redis does not know"


async def test_a_refusal_names_the_version_that_the_store_has(site: Site, process: Process) -> None:
    """Redis went back, and nobody noticed.

    It would name an old version, and refuse a key that has a position.
    """
    channel = "chat:slipped"
    first = request(channel, CHANGES_MEMBERSHIP)
    await append(process.log, [first])
    old = {name: await site.client.dump(name) for name in await site.client.keys("*")}
    repeated = request(channel, COUNTS, 1)
    await append(process.log, [repeated, request(channel, CHANGES_MEMBERSHIP)])
    await site.client.flushdb()
    for name, value in old.items():
        assert value is not None
        await site.client.restore(name, 0, value)
    repeated = repeated._replace(item=repeated.item._replace(guard=7))
    outcomes = await append(process.log, [request(channel, COUNTS, 9), repeated])
    assert isinstance(outcomes[0], Recheck)
    assert outcomes[0].mv == 3
    assert isinstance(outcomes[1], AppendedPosition)
    assert (outcomes[1].offset, outcomes[1].repeated_key) == (2, True)


@pytest.mark.parametrize("plain", [1, 30])
async def test_what_a_busy_plain_channel_is_asked_to_count_is_counted_from_then_on(
    process: Process, plain: int
) -> None:
    channel = "chat:busy"
    await append(process.log, [request(channel, 0) for _ in range(plain)])
    outcomes = await append(process.log, [request(channel, 0), request(channel, COUNTS, 0), request(channel, 0)])
    assert [one.offset for one in outcomes if isinstance(one, AppendedPosition)] == [plain + one for one in (1, 2, 3)]
    rows, _ = await process.log.read_counted(channel, since_offset=0, limit=99, reverse=False)
    assert [one.n for one in rows] == [0] * (plain + 1) + [1, 1]


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_the_store_had_a_while_ago_is_not_taken_for_what_is_counted_now(
    site: Site, process: Process, is_known: bool
) -> None:
    """Another replica has gone on since the store was asked, and the hot log was cut."""
    channel = "chat:cut"
    for _ in range(5):
        await append(process.log, [request(channel, COUNTS)._replace(history_size=8) for _ in range(8)])
    if not is_known:
        await site.client.hset(keys.meta(channel), "counts", "")
    now = await site.store.open(channel)
    assert (now.top, now.n) == (40, 40)
    assert await process.hot.verify(channel, now._replace(top=3, n=3), may_be_ahead=True) == 1
    await append(process.log, [request(channel, COUNTS)])
    assert (await site.store.open(channel)).n == 41
