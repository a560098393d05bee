"""A channel is compared with the store once for all, however slow that is."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.persistence.domain import comparison as domain
from services.persistence.domain import sizes as sizes_module
from services.persistence.domain.comparison import Comparison
from services.persistence.domain.erasures import Erasures
from services.persistence.domain.ports import ChannelState
from services.persistence.domain.sizes import HistorySizes
from services.shared.errors import Unavailable


class SlowStore:
    """Opens nothing before it is allowed to."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.allowed = asyncio.Event()
        self.failure: Unavailable | None = None
        self.failing: set[str] = set()

    async def open(self, channel: str) -> ChannelState:
        self.opened.append(channel)
        await self.allowed.wait()
        if self.failure is not None:
            raise self.failure
        if channel in self.failing:
            raise Unavailable("by the test")
        return ChannelState("epoch", 0)


class Hot:
    """Knows which channels were compared."""

    def __init__(self) -> None:
        self.compared: list[str] = []
        self.broken = False

    async def verify(self, channel: str, state: ChannelState) -> int:
        self.compared.append(channel)
        return 1 // (not self.broken)


def comparison() -> tuple[Comparison, SlowStore, Hot]:
    store, hot = SlowStore(), Hot()
    sizes = HistorySizes()
    erasures = Erasures(cast(Any, hot), cast(Any, store), lambda channel: 1_000)
    return Comparison(cast(Any, hot), cast(Any, store), sizes, erasures), store, hot


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


async def test_of_many_channels_those_that_failed_are_named_and_the_others_compared() -> None:
    made, store, hot = comparison()
    store.allowed.set()
    store.failing = {"c3", "c40"}
    channels = [f"c{number}" for number in range(50)]
    failed = await made.verify_all(channels)
    assert {channel: str(error) for channel, error in failed.items()} == {"c3": "by the test", "c40": "by the test"}
    assert sorted(hot.compared) == sorted(set(channels) - store.failing)


async def test_a_fault_of_the_code_is_not_taken_for_a_store_that_is_away() -> None:
    made, store, hot = comparison()
    store.allowed.set()
    hot.broken = True
    with pytest.raises(ZeroDivisionError):
        await made.verify_all(["a"])


async def test_a_channel_that_takes_long_is_told_and_compared_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "_MAX_WAIT_S", 0.02)
    made, store, hot = comparison()
    assert set(await made.verify_all(["a"])) == {"a"}
    store.allowed.set()
    await made.verify("a")
    assert (store.opened, hot.compared) == (["a"], ["a"])


def test_sizes_are_what_edges_said_last_and_are_all_forgotten_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes_module, "_MAX_REMEMBERED", 2)
    sizes = HistorySizes()
    assert sizes.of("a") == 1_000
    sizes.remember("a", 10)
    sizes.remember("a", 20)
    assert sizes.of("a") == 20
    sizes.remember("b", 30)
    sizes.remember("c", 40)
    assert [sizes.of(channel) for channel in "abc"] == [1_000, 1_000, 40]
