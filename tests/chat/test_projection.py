"""The read model follows the log, also behind a replica that died."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.persistence.chat import projection as module
from services.persistence.chat.metrics import PROJECTION_LAG
from services.persistence.chat.ports import TooLarge
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.process.cancellation import end_task
from tests.support.chat import GROUP, ChatSite, code
from tests.support.chat_store import MemoryChatStore
from tests.support.waiting import until


async def marks(chat: ChatSite) -> list[str]:
    found: list[Any] = await chat.site.client.zrange(keys.chat_pending(), 0, -1)
    return [channel.decode() for channel in found]


async def position(chat: ChatSite, channel: str = GROUP) -> int | None:
    loaded = await chat.store.load(channel)
    return None if loaded is None else loaded.position


async def test_a_burst_is_written_once_and_soon_and_the_mark_goes(chat: ChatSite) -> None:
    store = MemoryChatStore()
    writes: list[int] = []
    real = store.apply

    async def counted(channel: str, expected: int | None, changes: Any) -> bool:
        writes.append(changes.position)
        return await real(channel, expected, changes)

    store.apply = counted  # type: ignore[method-assign]
    one = chat.replica(store=store, run=True)
    await one.create("ann")
    await until(lambda: writes == [1])
    said = await one.say("ann")
    for number in range(20):
        await one.did("ann", {"kind": "reaction", "of": said, "name": f"r{number}", "op": "add"})
    assert await marks(chat) == [GROUP]
    await until(lambda: writes[-1] == said + 20)
    assert len(writes) <= 4
    async with asyncio.timeout(30):
        while await marks(chat):
            await asyncio.sleep(0.02)


async def test_another_replica_writes_what_a_crash_left(chat: ChatSite) -> None:
    """It ends behind the acknowledgement, or even before: between commit and fold."""
    one = chat.replica()
    await one.create("ann", "bob")
    assert await position(chat) is None
    said = await one.say("bob")

    async def ends(*_: Any) -> None:
        raise ZeroDivisionError

    one.conversations.upto = ends  # type: ignore[assignment, method-assign]
    assert code(await one.append("bob", {"kind": "edit", "of": said, "text": "b"})) == 100
    two = chat.replica()
    assert await two.projection.sweep(60) == 0
    assert await marks(chat) == [GROUP]
    assert await two.projection.sweep(0) == 1
    assert (await position(chat), await marks(chat)) == (said + 1, [])
    loaded = await chat.store.load(GROUP)
    assert loaded is not None
    assert set(loaded.people) == {"ann", "bob"}
    assert set(await chat.store.overlays(GROUP, [said])) == {said}
    assert [channel for channel, _ in await chat.store.conversations_of("bob", "", 10)] == [GROUP]
    assert await chat.replica().view() == (await chat.naive()).view()


async def test_a_mark_stays_while_another_event_is_on_its_way(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann")
    said = await one.say("ann")
    may_write = one.process.store.hold_writes()
    adding = asyncio.ensure_future(one.append("ann", {"kind": "pin", "of": said, "op": "add"}))
    await until(lambda: one.process.store.writes[-1] == [(GROUP, said + 1)])
    await one.projection.flush()
    assert await one.projection.sweep(0) == 0
    assert await marks(chat) == [GROUP]
    may_write.set()
    assert code(await adding) == "ok"
    await one.projection.flush()
    assert await marks(chat) == []
    assert await position(chat) == said + 1


async def test_a_mark_that_another_replica_renewed_stays(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann")
    said = await one.say("ann")
    chat.later_s = 1.0
    await two.did("ann", {"kind": "pin", "of": said, "op": "add"})
    await one.projection.flush()
    assert await marks(chat) == [GROUP]
    await two.projection.flush()
    assert await marks(chat) == []


async def test_plain_messages_are_not_marked_and_written_every_256(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann")
    await one.projection.flush()
    for _ in range(256):
        await one.say("ann")
    await one.projection.flush()
    assert (await position(chat), await marks(chat)) == (1, [])
    await one.say("ann")
    await one.projection.flush()
    assert await position(chat) == 258


async def test_who_comes_second_reads_anew_and_writes_the_rest(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    said = await one.say("bob")
    await two.view()
    for number, replica in enumerate((one, two, one, two, two, one)):
        await replica.did("ann", {"kind": "reaction", "of": said, "name": f"r{number}", "op": "add"})
        await replica.projection.flush()
        assert await position(chat) == said + 1 + number
    assert await chat.replica().view() == await one.view() == (await chat.naive()).view()


async def test_a_process_that_starts_looks_when_redis_was_compared(
    chat: ChatSite, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("projection", "erasing"):
        monkeypatch.setattr(f"services.persistence.chat.{part}._TICK_S", 0.2)
        monkeypatch.setattr(f"services.persistence.chat.{part}._SWEEP_S", 0)
    one = chat.replica()
    looked = asyncio.Event()

    async def refused(*_: Any) -> Any:
        looked.set()
        raise Unavailable("it has not been compared yet")

    eraser: Any = one.chat.eraser
    eraser.sweep = refused
    task = asyncio.create_task(one.chat.run())
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert not looked.is_set()
        assert not caplog.records
        async with asyncio.timeout(30):
            await looked.wait()
    finally:
        await end_task(task)


async def test_a_store_that_fails_is_tried_again(chat: ChatSite, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryChatStore()
    one = chat.replica(store=store)
    await one.create("ann", "bob")
    for failing in (Unavailable("away"), TooLarge("too large"), ZeroDivisionError()):
        store.failing = failing
        await one.projection.flush()
        await one.projection.sweep(0)
        assert store.kept == {}
    assert len(caplog.records) >= 3
    store.failing = None
    assert code(await one.append("bob", {"kind": "message", "text": "a"})) == "ok"
    await one.did("ann", {"kind": "member", "op": "remove", "user": "bob"})
    await one.projection.flush()
    assert store.kept[GROUP].position == 4
    assert set(store.kept[GROUP].people) == {"ann"}
    assert await one.view() == (await chat.naive()).view()


async def test_the_lag_is_the_age_of_the_oldest_mark(chat: ChatSite) -> None:
    one = chat.replica()
    await one.projection.sweep(60)
    assert PROJECTION_LAG._value.get() == 0  # noqa: SLF001
    await one.create("ann")
    chat.later_s = 30.0
    await one.projection.sweep(60)
    assert 30 <= PROJECTION_LAG._value.get() < 35  # noqa: SLF001


async def test_a_deleted_conversation_leaves_lists_and_loses_its_documents(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    said = await one.say("bob")
    await one.did("bob", {"kind": "edit", "of": said, "text": "secret"})
    await one.did("ann", {"kind": "member", "op": "invite", "user": "eve"})
    await one.projection.flush()
    assert len(await chat.store.conversations_of("eve", "", 10)) == 1
    await one.did("ann", {"kind": "conversation", "op": "delete"})
    await one.projection.flush()
    for user in ("ann", "bob", "eve"):
        assert await chat.store.conversations_of(user, "", 10) == []
    assert await chat.store.overlays(GROUP, [said]) == {}
    loaded = await chat.store.load(GROUP)
    assert loaded is not None
    assert (json.loads(loaded.head)["phase"], loaded.people) == ("deleted", {})
    for replica in (one, chat.replica()):
        found = await replica.view()
        assert (found["phase"], found["members"], found["n"]) == ("deleted", {}, 1)
        assert code(await replica.append("ann", {"kind": "conversation", "op": "create"})) == 103


async def test_open_conversations_are_in_the_directory_while_they_are_active(chat: ChatSite) -> None:
    one = chat.replica()
    lobby, named = "conv:o.lobby", "conv:o.other"
    create: dict[str, Any] = {"kind": "conversation", "op": "create", "type": "open"}
    await one.did("ann", create, channel=lobby)
    await one.did("ann", {**create, "name": "News"}, channel=named)
    await one.create("ann", name="Private")
    await one.projection.flush()
    assert list(await chat.store.directory("conv", "", "", 10)) == [("News", named), ("lobby", lobby)]
    await one.did("ann", {"kind": "conversation", "op": "update", "name": "Olds"}, channel=named)
    await one.did("ann", {"kind": "conversation", "op": "close"}, channel=lobby)
    await one.projection.flush()
    assert list(await chat.store.directory("conv", "", "", 10)) == [("Olds", named)]


async def test_the_service_sweeps_by_itself(chat: ChatSite, monkeypatch: pytest.MonkeyPatch) -> None:
    one = chat.replica()
    await one.create("ann")
    monkeypatch.setattr(module, "_SWEEP_S", 0.05)
    chat.replica(run=True)
    async with asyncio.timeout(30):
        while await position(chat) != 1 or await marks(chat):
            await asyncio.sleep(0.02)


async def test_an_orderly_stop_writes_what_is_due(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann")
    appending = asyncio.ensure_future(one.append("ann", {"kind": "member", "op": "add", "user": "bob"}))
    await asyncio.sleep(0)
    await one.chat.drain(3)
    assert appending.done()
    assert (await position(chat), await marks(chat)) == (2, [])


async def test_two_flushes_at_once_write_each_conversation(chat: ChatSite) -> None:
    """As at a stop, while the projection still runs."""
    one = chat.replica()
    channels = [f"conv:g.{number}" for number in range(20)]
    for channel in channels:
        await one.create("ann", channel=channel)
    await asyncio.gather(*(one.chat.projection.flush() for _ in range(2)))
    assert [await position(chat, channel) for channel in channels] == [1] * 20
