"""What fails for good does not keep sweeps from the rest."""

from __future__ import annotations

from typing import Any

import pytest

from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from tests.support.chat import GROUP, ChatSite, Replica

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
