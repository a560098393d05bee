"""The scripts of `hot` logs on a real Redis against a small model.

Offsets, keys, generations, trimming, pages.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.shared.hotlog import hot, hotlog, keys, scripts
from services.shared.hotlog.scripts import Call, Script
from services.shared.redis.client import redis_client
from tests.support.full import sized
from tests.support.log import unstamped
from tests.support.scripts import run

_EXAMPLES = sized(500, 5_000)
_FOR_A_MUTANT = 1_500
_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}
_numbers = itertools.count()


@dataclass
class Model:
    """What the log of one channel must be."""

    client: redis.asyncio.Redis
    history_size: int
    name: str = field(default_factory=lambda: f"live:model{next(_numbers)}")
    generation: int = -1  # of the log; -1: there is none
    epoch: str = ""
    entries: list[tuple[int, bytes]] = field(default_factory=list)
    top: int = 0
    places: dict[tuple[str, str], int] = field(default_factory=dict)  # (epoch, key) → offset
    epochs: set[str] = field(default_factory=set)

    async def call(self, call: Call) -> Any:
        (found,) = await run(self.client, [call])
        assert not isinstance(found, Exception), found
        return found

    def _begin(self, generation: int, epoch: str) -> None:
        assert epoch not in self.epochs, "an epoch came back"
        assert epoch.startswith(f"{generation}.")
        self.epochs.add(epoch)
        self.generation, self.epoch, self.entries, self.top = generation, epoch, [], 0

    def batch(self, names: Sequence[str]) -> hot.HotBatch:
        items = [(os.urandom(5), keys.key(self.name, "u", name) if name else "") for name in names]
        return hot.HotBatch(self.name, self.history_size, 60, items)

    def appended(self, generation: int, batch: hot.HotBatch, appended: hot.HotAppended | Exception | None) -> None:
        if generation < self.generation:
            assert appended is None
            return
        assert isinstance(appended, hot.HotAppended), appended
        if generation > self.generation:
            self._begin(generation, appended.epoch)
        assert appended.epoch == self.epoch
        for (publication, key), offset in zip(batch.items, appended.offsets, strict=True):
            known = self.places.get((self.epoch, key)) if key else None
            if known is not None:
                assert offset == -known
                continue
            self.top += 1
            assert offset == self.top
            self.places[self.epoch, key] = self.top
            self.entries.append((self.top, publication))
        self.entries = self.entries[-self.history_size :]

    async def look(self, generation: int) -> None:
        found = hotlog.top(await self.call(hotlog.hot_top_call(self.name, generation)))
        if generation < self.generation:
            assert found is None
            return
        assert found is not None
        if generation > self.generation:
            self._begin(generation, found[1])
        assert found == (self.top, self.epoch)

    async def read(self, generation: int, since: int, limit: int, reverse: bool, max_bytes: int) -> None:
        call = hotlog.read_call(
            self.name,
            stored=False,
            incarnation=generation,
            since_offset=since,
            limit=limit,
            reverse=reverse,
            max_bytes=max_bytes,
        )
        page = hotlog.page(await self.call(call))
        if generation != self.generation:
            assert page is None
            return
        assert page is not None
        assert (page.top, page.epoch) == (self.top, self.epoch)
        if reverse:
            expected = [one for one in reversed(self.entries) if not 0 < since <= one[0]]
        else:
            expected = [one for one in self.entries if one[0] > since]
        assert [(offset, unstamped(found)) for offset, found in page.entries] == expected[: len(page.entries)]
        whole = len(page.entries) == len(expected[:limit])
        assert whole or sum(len(data) for _, data in page.entries) > max_bytes  # stamps count

    async def reset(self, stale: bool) -> None:
        if self.generation < 0:
            return
        epoch = "0.other" if stale else self.epoch
        done = await self.call(hotlog.reset_call(self.name, epoch, self.generation))
        assert done == (0 if stale else 1)
        if not stale:
            (now,) = await run(self.client, [hotlog.hot_top_call(self.name, self.generation)])
            self._begin(self.generation, hotlog.top(now)[1])  # type: ignore[index]

    async def lose_meta(self) -> None:
        """It expired, or was evicted; the log is still there."""
        await self.client.delete(keys.meta(self.name))
        self.generation = -1


async def append(models: Sequence[Model], generation: int, wanted: Sequence[tuple[int, Sequence[str]]]) -> None:
    """To several channels, and maybe to one of them more than once, in one call."""
    batches = [models[index].batch(names) for index, names in wanted]
    call = hot.append_call(batches, edge="edge", fresh_epoch=hotlog.new_epoch(generation), now_s=int(time.time()))
    reply = hot.appended(await models[0].call(call))
    assert reply is not None
    for (index, _), batch, appended in zip(wanted, batches, reply.batches, strict=True):
        models[index].appended(generation, batch, appended)


generations = st.integers(0, 3)
which = st.integers(0, 1)
names = st.lists(st.sampled_from(["", "", "a", "b"]), min_size=1, max_size=4)
appends = st.lists(st.tuples(which, names), min_size=1, max_size=3)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("append"), generations, appends),
        st.tuples(st.just("append"), generations, appends),
        st.tuples(st.just("look"), which, generations),
        st.tuples(
            st.just("read"),
            which,
            generations,
            st.integers(0, 12),
            st.integers(1, 8),
            st.booleans(),
            st.sampled_from([0, 7, 1_000]),
        ),
        st.tuples(st.just("reset"), which, st.booleans()),
        st.tuples(st.just("lose_meta"), which),
    ),
    min_size=2,
    max_size=15,
)
schedules = st.tuples(st.sampled_from([1, 3, 50]), actions)


@pytest.fixture
def play(redis_url: str) -> Iterator[Callable[[Any], None]]:
    with asyncio.Runner() as runner:
        client = redis_client(redis_url)

        async def live(schedule: tuple[int, Sequence[tuple[Any, ...]]]) -> None:
            models = [Model(client, schedule[0]) for _ in range(2)]
            for name, *arguments in schedule[1]:
                if name == "append":
                    await append(models, *arguments)
                else:
                    index, *rest = arguments
                    await getattr(models[index], name)(*rest)
                for model in models:
                    if model.generation >= 0:
                        await model.read(model.generation, 0, 1_000, False, 1 << 30)

        yield lambda schedule: runner.run(live(schedule))
        runner.run(client.aclose())


def test_hot_logs_are_as_the_model_says(play: Callable[[Any], None]) -> None:
    @settings(max_examples=_EXAMPLES, **_SETTINGS)
    @given(schedules)
    def check(schedule: Any) -> None:
        play(schedule)

    check()


def _mutated(script: Script, old: str, new: str) -> Script:
    text = script.text.decode()
    assert old in text
    folder = Path(tempfile.mkdtemp())
    (folder / "mutant.lua").write_text(text.replace(old, new, 1))
    made = scripts.load(folder / "mutant.lua")
    shutil.rmtree(folder)
    return made


MUTANTS = {
    "an offset is used again": (
        "APPEND_HOT",
        "local last, spare = string.format('%d', top),",
        "local last, spare = known[2] or '0',",
    ),
    "a stale generation may write": ("APPEND_HOT", "if age > 0 then return {} end", ""),
    "an older log goes on": (
        "APPEND_HOT",
        "if not epoch or string.sub(epoch, 1, #generation) ~= generation then",
        "if not epoch then",
    ),
    "a key counts in every epoch": ("APPEND_HOT", "if key_epoch == epoch then", "if key_epoch then"),
    "a key is forgotten": ("APPEND_HOT", "if key_epoch == epoch then", "if false then"),
    "a key is that of another": ("APPEND_HOT", "next_key = next_key + 1", ""),
    "keys are those of another channel": ("APPEND_HOT", "next_key + 2 + keyed", "next_key + 2"),
    "the log is never cut": ("APPEND_HOT", "'MAXLEN', size, ", ""),
    "a log outlives its meta": ("TOP", "redis.call('DEL', KEYS[1], KEYS[2])  -- a log may outlive its meta", ""),
    "a stale generation may ask": ("TOP", "if age > 0 then return {} end", ""),
    "another generation may read": (
        "READ",
        "if not stored and string.match(known[1], '^(%d+)%.') ~= ARGV[5]",
        "if false",
    ),
    "a page begins one too late": ("READ", "local from = since + 1", "local from = since + 2"),
    "any epoch can be reset": ("RESET", "if redis.call('HGET', KEYS[2], 'epoch') ~= ARGV[1] then return 0 end", ""),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found(mutant: str, play: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    name, old, new = MUTANTS[mutant]
    monkeypatch.setattr(hot if name == "APPEND_HOT" else hotlog, name, _mutated(getattr(scripts, name), old, new))

    @settings(
        max_examples=_FOR_A_MUTANT, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False, **_SETTINGS
    )
    @given(schedules)
    def check(schedule: Any) -> None:
        play(schedule)

    with pytest.raises(AssertionError):
        check()
