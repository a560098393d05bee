"""A read model that is made again is never missing for replicas that use it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.live import Live
from services.persistence.chat.ports import Loaded
from services.shared.errors import Unavailable
from tests.support.chat import GROUP, ChatSite, Replica

Execute = Callable[[sqlite3.Connection], Any]


class Watched:
    """A store, and what is done before and after each of its calls."""

    def __init__(self, store: SqliteChatStore, between: Callable[[str], Any]) -> None:
        self._store, self._between = store, between

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if not asyncio.iscoroutinefunction(real):
            return real

        async def call(*arguments: Any) -> Any:
            await self._between(name)
            found = await real(*arguments)
            await self._between(name)
            return found

        return call


async def execute(chat: ChatSite, statement: str, *values: Any) -> None:
    def run(connection: sqlite3.Connection) -> None:
        connection.execute(statement, values)

    await chat.site.store.database.run("write", "test", run)


async def kept(chat: ChatSite) -> Loaded:
    loaded = await chat.store.load(GROUP)
    assert loaded is not None
    return loaded


@pytest.fixture
async def one(chat: ChatSite) -> Replica:
    """It has a conversation with an edited message, which is not in its memory."""
    made = chat.replica()
    await made.create("ann", "bob")
    message = await made.say("bob", "first")
    await made.did("bob", {"kind": "edit", "of": message, "text": "second"})
    await made.conversations.write(await made.conversations.current(GROUP))
    return made


def forget(live: Live) -> None:
    """Have in memory only what the read model does not have."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("services.persistence.chat.live._LOADED_KEPT", 0)
        live.trim()


async def text_of(replica: Replica, offset: int = 3) -> str:
    live = await replica.conversations.current(GROUP)
    forget(live)
    return str((await replica.view())["messages"][str(offset)]["text"])


@pytest.mark.parametrize("how", ["not whole", "of another epoch", "rebuilt"])
async def test_an_edited_message_is_never_shown_as_first_written(chat: ChatSite, one: Replica, how: str) -> None:
    before = await kept(chat)
    for number in range(3):
        await one.did("ann", {"kind": "reaction", "of": 3, "name": f"{number}", "op": "add"})
    await one.conversations.write(await one.conversations.current(GROUP))
    after = await kept(chat)
    if how == "not whole":  # overlays are newer than the head, as a replica leaves them that dies in a large write
        statement = "UPDATE conversations SET position = ?, head = ? WHERE channel = ?"
        await execute(chat, statement, before.position, before.head, GROUP)
    seen: list[str] = []

    async def look(_: str) -> None:
        seen.append(await text_of(one))

    other = chat.replica(store=Watched(chat.store, look))
    if how == "of another epoch":
        await one.conversations.current(GROUP)
        head = after.head.replace(b'"epoch":"', b'"epoch":"x')
        await execute(chat, "UPDATE conversations SET head = ? WHERE channel = ?", head, GROUP)
        one.conversations.forget(GROUP)
    elif how == "rebuilt":
        await other.chat.upkeep.rebuild(GROUP)
    assert await text_of(other) == "second"
    assert {*seen} == {"second"}
    assert (await other.chat.upkeep.check(GROUP)).differences == []
    assert await one.view() == await other.view() == await chat.replica().view() == (await chat.naive()).view()


async def test_who_is_slow_does_not_drop_what_another_one_has_made_again(chat: ChatSite, one: Replica) -> None:
    head = (await kept(chat)).head.replace(b'"epoch":"', b'"epoch":"x')
    await execute(chat, "UPDATE conversations SET head = ? WHERE channel = ?", head, GROUP)
    has_loaded, goes_on = asyncio.Event(), asyncio.Event()

    async def between(name: str) -> None:
        if name == "drop":
            has_loaded.set()
            await goes_on.wait()

    slow = chat.replica(store=Watched(chat.store, between))
    loading = asyncio.create_task(slow.conversations.current(GROUP))
    await has_loaded.wait()
    quick = chat.replica()
    await quick.conversations.write(await quick.conversations.current(GROUP))
    assert await text_of(quick) == "second"
    goes_on.set()
    await loading
    assert await text_of(quick) == await text_of(slow) == "second"


async def test_a_read_model_that_goes_on_is_not_made_again(
    chat: ChatSite, one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often another replica has written before this one could read."""
    left, remade = list(range(9)), list[str]()

    async def between(name: str) -> None:
        if name == "overlays" and left:
            await one.did("ann", {"kind": "reaction", "of": 3, "name": f"{left.pop()}", "op": "add"})
            await one.conversations.write(await one.conversations.current(GROUP))

    other = chat.replica(store=Watched(chat.store, between))
    live = await other.conversations.current(GROUP)

    async def remake(channel: str, *_: Any) -> bool:
        remade.append(channel)
        return False

    monkeypatch.setattr(other.conversations, "remake", remake)
    forget(live)
    with contextlib.suppress(Unavailable):
        await other.conversations.messages(live, [3])
    assert len(left) < 2, "it was read too early"
    assert remade == []
