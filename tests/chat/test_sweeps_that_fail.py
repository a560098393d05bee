"""What fails for good does not keep sweeps from the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from services.persistence.chat.markers.flushing import Flusher
from services.persistence.chat.markers.kept import KeptMarkers
from services.persistence.chat.markers.markers import Markers
from services.persistence.chat.markers.ports import Of
from services.persistence.chat.markers.record import Marker, Record
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.support.chat import GROUP, ChatSite, Replica
from tests.support.marker_store import MemoryMarkerStore

FAILING = 230  # more than twice as many as one sweep looks at


@pytest.fixture
async def one(chat: ChatSite, monkeypatch: pytest.MonkeyPatch) -> Replica:
    """There is one conversation that can be read; others can't."""
    made = chat.replica()
    await made.create("ann", "bob")
    await made.projection.flush()
    current = made.conversations.current

    async def only_one(channel: str, **options: Any) -> Any:
        if channel != GROUP:
            raise Unavailable("its rows can't be read")
        return await current(channel, **options)

    monkeypatch.setattr(made.conversations, "current", only_one)
    return made


def bad(number: int) -> str:
    return f"conv:g.{number + 1:026}".translate(str.maketrans("0189", "abcd"))


async def test_erasures(chat: ChatSite, one: Replica) -> None:
    marks = {f"1 {number:016x} {bad(number)}": 1_000 + number for number in range(FAILING)}
    marks["1 0123456789abcdef " + GROUP] = 9_000
    await chat.site.client.zadd(keys.chat_erasures(), marks)
    done = [await one.chat.eraser.sweep(1) for _ in range(6)]
    assert sum(done) == 1
    assert await chat.site.client.zcard(keys.chat_erasures()) == FAILING
    await chat.site.client.zadd(keys.chat_erasures(), {"1 0000000000000000 " + GROUP: 1})
    assert 1 in [await one.chat.eraser.sweep(1) for _ in range(6)], "it does not begin again"


async def test_read_models(chat: ChatSite, one: Replica) -> None:
    await chat.site.client.zadd(keys.chat_pending(), {bad(number): 1_000 + number for number in range(FAILING)})
    await chat.site.client.zadd(keys.chat_pending(), {GROUP: 9_000})
    done = [await one.projection.sweep(1) for _ in range(4)]
    assert sum(done) == 1
    assert await chat.site.client.zcard(keys.chat_pending()) == FAILING
    await chat.site.client.zadd(keys.chat_pending(), {GROUP: 1})
    assert 1 in [await one.projection.sweep(1) for _ in range(4)], "it does not begin again"


class FailingMarkers(MemoryMarkerStore):
    """A store that can't write markers of some users."""

    def __init__(self, error: Exception, bad: set[str]) -> None:
        super().__init__()
        self.error, self.bad, self.writes = error, bad, 0

    async def merge(self, records: Sequence[tuple[Of, Record]]) -> None:
        self.writes += 1
        if any(of.user in self.bad for of, _ in records):
            raise self.error
        await super().merge(records)


@pytest.mark.parametrize("error", [Unavailable("the item is too hot"), ValueError("the item is too large")])
async def test_markers(redis_pipeline: RedisPipeline, error: Exception) -> None:
    bad = [f"bad-{number}" for number in range(12)]
    store = FailingMarkers(error, set(bad))
    kept = KeptMarkers(redis_pipeline, lambda: 1.0, lambda: "incarnation")
    markers, flusher = Markers(kept, store), Flusher(kept, store)
    users = [*bad, *(f"good-{number}" for number in range(700))]
    for user in users:
        await markers.merge(user, GROUP, "epoch", Marker(0, 5))
    for _ in range(6):
        with contextlib.suppress(type(error)):
            await flusher.sweep(-1)
    assert len(store.kept) == 700
    assert {note.of.user for note in await kept.noted(-1, 1_000)} == store.bad
    store.bad = set()
    for _ in range(4):  # it begins again
        await flusher.sweep(-1)
    assert {of.user for of in store.kept} == set(users)


async def test_a_store_that_is_not_there_is_not_asked_for_each_marker(redis_pipeline: RedisPipeline) -> None:
    users = {f"user-{number}" for number in range(100)}
    store = FailingMarkers(Unavailable("away"), users)
    kept = KeptMarkers(redis_pipeline, lambda: 1.0, lambda: "incarnation")
    markers, flusher = Markers(kept, store), Flusher(kept, store)
    for user in users:
        await markers.merge(user, GROUP, "epoch", Marker(0, 5))
    with pytest.raises(Unavailable):
        await flusher.sweep(-1)
    assert store.writes < 10
    store.bad = set()
    await flusher.flush()
    assert {of.user for of in store.kept} == users
