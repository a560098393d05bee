"""A conversation in memory follows its log, whatever the log holds."""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import pytest

from services.persistence.chat import conversations as module
from services.persistence.chat import live as live_module
from services.persistence.chat.append import Appended
from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry, apply
from services.persistence.chat.domain.state import Conversation, Message, view
from services.persistence.chat.live import Live
from services.persistence.domain.log import Request
from services.persistence.domain.outcomes import AppendedPosition
from services.shared.hotlog.hotlog import Item
from tests.chat.random_log import random_log
from tests.support.chat import GROUP, ChatSite, Replica, full_view, new_event
from tests.support.chat_store import MemoryChatStore
from tests.support.full import sized
from tests.support.log import append
from thalamus.common.v1 import common_pb2


def row(author: str, data: bytes | dict[str, Any], channel: str = GROUP, flags: int = 0) -> Request:
    """A publication as the log takes it, without any decision."""
    publication = common_pb2.Publication(data=data if isinstance(data, bytes) else json.dumps(data).encode())
    publication.info.user = author
    publication_id = os.urandom(16)
    item = Item(publication_id, publication.SerializeToString(), "u", publication_id.hex(), flags=flags)
    return Request(channel, item, 100, 600)


async def write_rows(replica: Replica, rows: list[Request]) -> None:
    for outcome in await append(replica.process.log, rows):
        assert isinstance(outcome, AppendedPosition)


def views_of(entries: list[Entry]) -> list[dict[str, Any]]:
    state = Conversation()
    views = [view(state)]
    for entry in entries:
        apply(state, entry)
        views.append(view(state))
    return views


@pytest.mark.parametrize("block", range(sized(8, 40)))
async def test_any_log_is_folded_as_it_is(chat: ChatSite, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """In pages, with writes of the read model in between, by several replicas."""
    monkeypatch.setattr(module, "_PAGE_ROWS", 7)
    monkeypatch.setattr(module, "_WRITE_AT", 3)
    for seed in range(block * 10, block * 10 + 10):
        rng = Random(seed)
        channel = f"{GROUP[:-3]}{seed:03}"
        log = random_log(rng, 60)
        replicas = [chat.replica(), chat.replica()]
        done, entries = 0, dict[int, Entry]()  # the log loses its entries to a deletion, once that is written
        while done < len(log):
            some = log[done : done + rng.randint(1, 20)]
            done += len(some)
            await write_rows(replicas[0], [row(entry.author, entry.data, channel) for entry in some])
            one = rng.choice(replicas)
            entries |= {entry.offset: entry for entry in await chat.log(channel)}
            live = await one.conversations.current(channel)
            found = await full_view(one, live)
            assert found == views_of(list(entries.values()))[live.position], (seed, live.position)
            if rng.random() < 0.3:
                await one.conversations.write(live)
            if rng.random() < 0.2:
                replicas[replicas.index(one)] = chat.replica()


async def test_own_messages_move_the_position_without_being_read(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    live = await one.conversations.current(GROUP)
    reads: list[int] = []
    real = one.process.store.real.read_counted

    async def counted(*arguments: Any, **options: Any) -> Any:
        reads.append(options["since_offset"])
        return await real(*arguments, **options)

    one.process.store.real.read_counted = counted  # type: ignore[method-assign]
    try:
        for _ in range(30):
            await one.say("bob")
        await one.did("bob", {"kind": "message", "text": "hush", "silent": True})
        await one.did("bob", {"kind": "x.poll"})
        assert reads == []
        assert (live.position, live.state.n) == (34, 30)
        assert await one.conversations.current(GROUP) is live
        assert reads == []
    finally:
        one.process.store.real.read_counted = real  # type: ignore[method-assign]
    assert await one.view() == (await chat.naive()).view()
    assert await chat.replica().view() == await one.view()


async def test_a_message_that_is_taken_in_during_a_page_can_be_edited_in_it(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the page waits behind its first row, the next one is acknowledged."""
    monkeypatch.setattr(module, "_WRITE_AT", 1)
    one = chat.replica()
    await one.create("ann")
    first = await one.say("ann")
    live = await one.conversations.current(GROUP)
    await write_rows(
        one,
        [
            row("ann", {"kind": "pin", "of": first, "op": "add"}),
            row("ann", {"kind": "message", "text": "a"}, flags=1),
            row("ann", {"kind": "edit", "of": first + 2, "text": "b"}),
        ],
    )
    real = chat.store.apply

    async def slow(*arguments: Any) -> bool:
        live.acked(first + 2, events.Message(text="a"), "ann")
        return await real(*arguments)

    monkeypatch.setattr(chat.store, "apply", slow)
    await one.conversations.current(GROUP)
    assert live.void == {}
    assert (live.position, live.state.n) == (first + 3, 2)
    edited = (await one.conversations.messages(live, [first + 2]))[first + 2]
    assert isinstance(edited, Message)
    assert edited.content.text == "b"
    assert await one.view() == (await chat.naive()).view()


async def test_a_long_tail_is_folded_in_pages(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann")
    first = await one.say("ann")
    rows = [row("ann", {"kind": "message", "text": str(number)}, flags=1) for number in range(2_000)]
    rows[700] = row("ann", {"kind": "reaction", "of": first, "name": "x", "op": "add"})
    rows[1_800] = row("ann", {"kind": "edit", "of": first + 700, "text": "later"})
    for start in range(0, len(rows), 200):
        await write_rows(one, rows[start : start + 200])
    two = chat.replica()
    live = await two.conversations.current(GROUP)
    assert (live.position, live.state.n) == (first + 2_000, 1_999)
    found = await two.conversations.messages(live, [first, first + 700, first + 1_900])
    assert [message.content.text for message in found.values() if isinstance(message, Message)] == [
        "x",
        "later",
        "1899",
    ]
    first_message = found[first]
    assert isinstance(first_message, Message)
    assert list(first_message.reactions) == ["x"]
    assert len(live.state.messages) < 100
    assert live.projected is not None
    assert live.projected > 1_000


async def test_pages_of_the_log_have_what_became_of_their_messages(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    offsets = [await one.say("bob", str(number)) for number in range(6)]
    await one.did("bob", {"kind": "edit", "of": offsets[0], "text": "edited"})
    await one.did("ann", {"kind": "delete", "of": offsets[1]})
    await one.conversations.write(await one.conversations.current(GROUP))
    await one.did("ann", {"kind": "reaction", "of": offsets[2], "name": "x", "op": "add"})
    await one.did("ann", {"kind": "purge", "user": "bob", "upto": offsets[4]})
    live = await one.conversations.current(GROUP)
    rows, _ = await one.process.log.read(GROUP, since_offset=0, limit=100, reverse=True)
    found = await one.conversations.messages_of(live, rows)
    expected = (await chat.naive()).view()["messages"]
    shown = Conversation(messages=dict(sorted(found.items())))
    assert view(shown)["messages"] == expected
    assert await one.conversations.messages_of(live, []) == {}


async def test_a_restored_store_has_its_conversations_made_again(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    await one.say("bob")
    live = await one.conversations.current(GROUP)
    await one.conversations.write(live)
    before = live.epoch
    await chat.site.store.begin_new_epochs(await chat.site.store.heartbeat())
    await chat.site.client.flushdb()
    live = await one.conversations.current(GROUP)
    assert live.epoch != before
    assert (live.position, live.projected) == (4 - 1, None)
    assert await one.view() == (await chat.naive()).view()
    two = chat.replica()
    assert (await two.conversations.current(GROUP)).projected is None
    assert await two.say("bob") == 4
    await two.conversations.write(await two.conversations.current(GROUP))
    assert (await chat.replica().conversations.current(GROUP)).projected == 4


async def test_purges_take_replies_from_the_roots_that_stay(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob", "eve")
    roots = [await one.say("ann"), await one.say("eve")]
    replies = []
    for number in range(12):
        event = {"kind": "message", "text": "r", "thread": roots[number % 2]}
        replies.append(await one.did(["eve", "bob", "eve"][number % 3], event))
    await one.did("ann", {"kind": "delete", "of": replies[0]})
    await one.conversations.write(await one.conversations.current(GROUP))
    await one.say("eve")
    await chat.replica().did("ann", {"kind": "purge", "user": "eve", "upto": replies[8]})
    for replica in (one, chat.replica()):
        assert await replica.view() == (await chat.naive()).view()
    await one.did("ann", {"kind": "purge", "user": "eve", "upto": 10_000})
    await one.say("eve")
    await one.conversations.write(await one.conversations.current(GROUP))
    for replica in (one, chat.replica()):
        assert await replica.view() == (await chat.naive()).view()


async def test_replies_that_were_erased_are_counted_by_nobody_who_folds_later(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tombstones stand in front of what erased them; a replica may stop in between."""
    monkeypatch.setattr(module, "_PAGE_ROWS", 3)
    monkeypatch.setattr(module, "_WRITE_EVERY", 2)
    monkeypatch.setattr(live_module, "_LOADED_KEPT", 1)
    one = chat.replica()
    await one.create("ann", "bob", "eve")
    root = await one.say("ann")
    replies = [
        await one.did(author, {"kind": "message", "text": "r", "thread": root})
        for author in ("eve", "bob", "bob", "eve", "ann")
    ]
    for _ in range(6):
        await one.say("ann")
    await one.did("bob", {"kind": "delete", "of": replies[1]})
    for _ in range(6):
        await one.say("ann")
    await one.did("ann", {"kind": "purge", "user": "eve", "upto": 1_000})
    await one.say("ann")
    await chat.store.drop(GROUP)
    two = chat.replica()
    live = await two.conversations.upto(GROUP, replies[-1] + 2)
    await two.conversations.write(live)
    for replica in (two, chat.replica(), chat.replica()):
        found = await replica.view()
        assert found["messages"][str(root)]["replies"] == 2
        assert found == (await chat.naive()).view()


async def test_many_purges_of_one_user_stay_bounded(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann")
    said = []
    for _ in range(40):
        said.append(await one.say("ann"))
        await one.did("ann", {"kind": "purge", "user": "ann", "upto": said[-1]})
        await one.chat.eraser.flush()
    live = await one.conversations.current(GROUP)
    assert len(live.purges["ann"]) <= 32
    await one.conversations.write(live)
    found = await one.conversations.messages(live, said)
    deleted_by = [message.by for message in found.values() if not isinstance(message, Message)]
    assert deleted_by == [offset + 1 for offset in said]


async def test_only_so_many_conversations_are_in_memory(chat: ChatSite) -> None:
    one = chat.replica()
    conversations = module.Conversations(one.process.log, one.process.store, chat.store, max_channels=3, max_people=5)
    channels = [f"{GROUP[:-1]}{letter}" for letter in "bcdef"]
    for channel in channels:
        await one.create("ann", channel=channel)
    for channel in channels[:4]:
        await conversations.current(channel)
    assert [conversations.cached(channel) is not None for channel in channels] == [False, True, True, True, False]
    conversations.cached(channels[1])  # used: the next one goes
    await conversations.current(channels[4])
    assert [conversations.cached(channel) is not None for channel in channels] == [False, True, False, True, True]
    for user in ("bob", "cid", "dan"):
        await one.did("ann", {"kind": "member", "op": "add", "user": user}, channel=channels[4])
    await conversations.current(channels[4])
    assert [conversations.cached(channel) is not None for channel in channels] == [False, False, False, True, True]


async def test_a_half_written_read_model_is_made_again(chat: ChatSite) -> None:
    """A document is newer than the conversation, and nobody finishes the write."""
    store = MemoryChatStore()
    one = chat.replica(store=store)
    await one.create("ann")
    first = await one.say("ann")
    await one.conversations.write(await one.conversations.current(GROUP))
    await one.did("ann", {"kind": "edit", "of": first, "text": "new"})
    kept = store.kept[GROUP]
    position, head = kept.position, kept.head
    await one.conversations.write(await one.conversations.current(GROUP))
    kept.position, kept.head = position, head
    two = chat.replica(store=store)
    assert await two.did("ann", {"kind": "reaction", "of": first, "name": "x", "op": "add"}) == first + 2
    assert await two.view() == (await chat.naive()).view()


async def test_nothing_is_begun_by_who_asks(chat: ChatSite) -> None:
    one = chat.replica()
    live = await one.conversations.current(GROUP)
    assert isinstance(live, Live)
    assert (live.epoch, live.position) == ("", 0)
    await one.append("ann", {"kind": "message", "text": "a"})
    assert not await one.process.log.has_begun(GROUP)
    found = await one.appender.append(new_event("ann", {"kind": "conversation", "op": "create"}))
    assert isinstance(found, Appended)


async def test_a_purge_reads_only_what_came_since_the_last_one(chat: ChatSite) -> None:
    """Who repeats it must not have everybody read the whole log."""
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    root = await one.say("ann")
    for _ in range(2):
        replies = [await one.did("bob", {"kind": "message", "text": "x", "thread": root}) for _ in range(3)]
        await two.conversations.current(GROUP)
        by = await one.did("bob", {"kind": "purge", "user": "bob", "upto": replies[-1]})
        assert (await one.view())["messages"][str(root)]["replies"] == 0
    rows: Any = two.process.store
    read, begun = rows.read_counted, []

    async def counted(channel: str, *, since_offset: int, **bounds: Any) -> Any:
        begun.append(since_offset)
        return await read(channel, since_offset=since_offset, **bounds)

    rows.read_counted = counted
    live = await two.conversations.current(GROUP)
    assert (live.position, min(begun)) == (by, replies[0] - 2)
    assert await two.view() == await one.view() == (await chat.naive()).view()


async def test_what_is_kept_of_pins_is_bounded(chat: ChatSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.persistence.chat.live.PINS_KEPT", 20)
    one = chat.replica()
    await one.create("ann")
    messages = [await one.say("ann") for _ in range(30)]
    for of in messages:
        await one.did("ann", {"kind": "pin", "of": of, "op": "add"})
    await one.did("ann", {"kind": "pin", "of": messages[29], "op": "remove"})
    await one.did("ann", {"kind": "delete", "of": messages[28]})
    await one.conversations.write(await one.conversations.current(GROUP))
    for replica in (one, chat.replica()):
        live = await replica.conversations.current(GROUP)
        assert list(live.pins) == messages[10:28]
        found = await full_view(replica, live)
        assert [found["messages"][str(of)].get("pinned") for of in messages] == [True] * 28 + [None, False]
    assert (await one.chat.upkeep.check(GROUP)).differences == []
