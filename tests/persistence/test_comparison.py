"""A channel is compared with the store once for all who ask, however slow the store is."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.persistence.domain.comparison import Comparison, HistorySizes
from services.persistence.domain.ports import ChannelState
from services.shared.errors import Unavailable


class SlowStore:
    """Opens nothing before it is allowed to."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.allowed = asyncio.Event()
        self.failure: Unavailable | None = None

    async def open(self, channel: str) -> ChannelState:
        self.opened.append(channel)
        await self.allowed.wait()
        if self.failure is not None:
            raise self.failure
        return ChannelState("epoch", 0)


class Hot:
    """Knows which channels were compared."""

    def __init__(self) -> None:
        self.compared: list[str] = []

    async def verify(self, channel: str, state: ChannelState) -> int:
        self.compared.append(channel)
        return 1


def comparison() -> tuple[Comparison, SlowStore, Hot]:
    store, hot = SlowStore(), Hot()
    return Comparison(cast(Any, hot), cast(Any, store), HistorySizes()), store, hot


async def impatient(made: Comparison, channel: str) -> None:
    async with asyncio.timeout(0.02):
        await made.verify(channel)


async def test_those_who_give_up_leave_a_comparison_behind_that_serves_who_comes_next() -> None:
    made, store, hot = comparison()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await impatient(made, "a")
    late = asyncio.create_task(made.verify("a"))
    await asyncio.sleep(0)
    store.allowed.set()
    await late
    assert (store.opened, hot.compared) == (["a"], ["a"])


async def test_channels_do_not_share_and_a_later_question_is_asked_anew() -> None:
    made, store, _ = comparison()
    store.allowed.set()
    await asyncio.gather(made.verify("a"), made.verify("b"))
    await made.verify("a")
    assert store.opened == ["a", "b", "a"]


async def test_a_failure_is_told_to_all_who_wait_and_kept_for_nobody() -> None:
    made, store, _ = comparison()
    store.failure = Unavailable("too slow")
    waiting = [asyncio.create_task(made.verify("a")) for _ in range(3)]
    await asyncio.sleep(0)
    store.allowed.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in found] == ["too slow"] * 3
    store.failure = None
    await made.verify("a")
    assert len(store.opened) == 2
