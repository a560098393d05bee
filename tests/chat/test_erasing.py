"""What is deleted from a conversation is gone, whoever did it and whoever died."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.persistence.chat.append import Appended
from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry, fold
from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.state import Deleted, view
from services.persistence.chat.live import Live
from services.persistence.chat.pages import Moved, View
from services.persistence.domain.ports import Row
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from tests.support.chat import GROUP, ChatSite, Replica, code, new_event
from thalamus.common.v1 import common_pb2

SECRET = "planted:b1946ac92492d234"


async def where(chat: ChatSite, secret: str = SECRET) -> set[str]:
    """Where the secret is still to be had: rows, memory of Redis, files."""
    client, found = chat.site.client, set()
    await client.config_set("rdbcompression", "no")
    if any(secret.encode() in entry.data for entry in await chat.log()):
        found.add("rows")
    async for name in client.scan_iter():
        if secret.encode() in (await client.dump(name) or b""):
            found.add(f"redis {name.decode()}")
    assert chat.store.search is not None
    await chat.store.search.scrub()
    await chat.site.store.scrub()
    (file,) = await chat.site.store.database.run(
        "read", "files", lambda connection: [row[2] for row in connection.execute("PRAGMA database_list")]
    )
    folder = Path(file).parent
    return found | {one.name for one in folder.iterdir() if secret.encode() in one.read_bytes()}


async def erased(chat: ChatSite, *offsets: int) -> list[events.Event | None]:
    entries = {entry.offset: entry for entry in await chat.log()}
    assert all(not entries[offset].author for offset in offsets)
    return [events.read(entries[offset].data) for offset in offsets]  # type: ignore[misc]


async def never(*_: Any) -> None:
    raise Died


async def unreadable(chat: ChatSite) -> bool:
    """Whether something is numbered and not readable."""
    top, stored = await chat.site.client.hmget(keys.meta(GROUP), "top", "stored")
    return top != stored


async def projected(replica: Replica) -> None:
    await replica.projection.flush()


async def test_a_deleted_message_leaves_a_tombstone_and_so_do_its_edits_and_reactions(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann", SECRET)
    edit = await one.did("ann", {"kind": "edit", "of": message, "text": SECRET + " again"})
    reaction = await one.did("bob", {"kind": "reaction", "of": message, "name": SECRET, "op": "add"})
    rows = await chat.site.store.read_counted(GROUP, since_offset=0, upto=99, limit=99, reverse=False)
    by = await one.did("ann", {"kind": "delete", "of": message})
    assert await where(chat) == set()
    assert await erased(chat, message, edit, reaction) == [
        events.Erased(was="message", by=by, counts=True),
        events.Erased(was="edit", by=by),
        events.Erased(was="reaction", by=by),
    ]
    after = await chat.site.store.read_counted(GROUP, since_offset=0, upto=99, limit=99, reverse=False)
    for former, now in zip(rows, after, strict=False):
        assert former[2:] == now[2:]
        then, made = map(common_pb2.Publication.FromString, (former.publication, now.publication))
        assert (then.id, then.time_ms, then.flags) == (made.id, made.time_ms, made.flags)


@pytest.mark.parametrize("apart", [False, True], ids=["by its process", "by another"])
async def test_c30_whoever_reads_the_delete_can_not_read_the_message(chat: ChatSite, apart: bool) -> None:
    one, two = chat.replica(apart=True), chat.replica(apart=True)
    await one.create("ann", "bob")
    seen: list[set[str]] = []

    def look_before_commits(replica: Replica) -> None:
        hot: Any = replica.process.hot
        commit = hot.commit

        async def look_and_commit(channels: Any, incarnation: str) -> Any:
            if channels and await is_deleting():
                seen.append(await where(chat) & {"rows", f"redis {keys.log(GROUP)}"})
            return await commit(channels, incarnation)

        hot.commit = look_and_commit

    async def is_deleting() -> bool:
        return b'"delete"' in (await chat.log())[-1].data or apart

    for replica in (one, two):
        look_before_commits(replica)
    for _ in range(5):
        message = await one.say("ann", SECRET)
        await one.did("ann", {"kind": "edit", "of": message, "text": SECRET})
        await projected(one)
        await two.conversations.current(GROUP)
        seen.clear()
        if apart:
            log: Any = one.process.log
            one.process.store.before_write = never
            one.appender.submit([new_event("ann", {"kind": "delete", "of": message})], lambda *_: None)
            async with asyncio.timeout(30):
                while not await unreadable(chat):
                    await asyncio.sleep(0.01)
            await two.say("bob")  # it stores the delete, and makes it readable
            one.process.store.before_write = None
            await log.drain(5)
        else:
            await one.did("ann", {"kind": "delete", "of": message})
        assert seen, "nobody looked"
        assert seen[0] == set()
        await one.conversations.current(GROUP)


async def test_a_reply_that_is_deleted_is_counted_by_nobody_also_where_it_was_not_in_memory(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    root = await one.say("ann")
    replies = [await one.did("bob", {"kind": "message", "text": SECRET, "thread": root}) for _ in range(2)]
    await projected(one)
    await two.conversations.current(GROUP)  # knows neither root nor replies
    by = await one.did("bob", {"kind": "delete", "of": replies[0]})
    assert await erased(chat, replies[0]) == [events.Erased(was="message", by=by, thread=root)]
    view_of_two = await two.view()
    assert view_of_two["messages"][str(root)]["replies"] == 1
    assert view_of_two == await one.view()
    three = chat.replica()
    assert await three.view() == view_of_two
    purge = await one.did("bob", {"kind": "purge", "user": "bob", "upto": by})
    assert await erased(chat, replies[1]) == [events.Erased(was="message", by=purge, thread=root)]
    for replica in (two, three, chat.replica()):
        assert (await replica.view())["messages"][str(root)]["replies"] == 0
    assert {entry.offset for entry in await chat.log()} == set(range(1, purge + 1))


async def test_an_edit_that_comes_too_late_erases_itself_before_its_answer(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    for number in range(10):
        message = await one.say("ann", "before")
        await two.did("bob", {"kind": "reaction", "of": message, "name": "x", "op": "add"})  # it is in memory there
        edit, delete = {"kind": "edit", "of": message, "text": SECRET}, {"kind": "delete", "of": message}
        if number % 2:
            await asyncio.gather(two.append("ann", edit), one.append("ann", delete))
        else:
            await one.did("ann", delete)
            late = await two.append("ann", edit)  # it has not heard of the delete
            assert isinstance(late, Appended)
            assert late.void is Why.DELETED
        assert await where(chat) == set()


@pytest.mark.parametrize("in_memory", [True, False], ids=["in memory", "not in memory"])
@pytest.mark.parametrize("count", [1, 3, 60])
async def test_c03_what_came_just_before_a_delete_is_erased_with_it(
    chat: ChatSite, count: int, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    """The replica that deletes has not seen it yet.

    It forgets the message before it folds.

    Mutants: the rows in front of the delete are not looked through; what is folded behind an erasure is not about it.
    """
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    for _ in range(3):
        message = await one.say("ann", SECRET)
        live = await two.conversations.current(GROUP)
        await two.conversations.prepare(live, events.Delete(of=message))
        for each in range(count):
            if each % 2:
                event = {"kind": "reaction", "of": message, "name": f"{SECRET} {each}", "op": "add"}
            else:
                event = {"kind": "edit", "of": message, "text": f"{SECRET} {each}"}
            await one.did("ann", event)
        erase = two.process.hot.erase

        left: list[set[str]] = []

        async def erase_and_forget(*arguments: Any, live: Live = live, erase: Any = erase, left: Any = left) -> bool:
            is_clean: bool = await erase(*arguments)
            left.append(await where(chat) & {"rows"})
            if not in_memory:
                live.state.messages.clear()
                monkeypatch.setattr("services.persistence.chat.live._LOADED_KEPT", 0)
            return is_clean

        with monkeypatch.context() as patched:
            patched.setattr("services.persistence.chat.conversations._PAGE_ROWS", 7)
            patched.setattr(two.process.hot, "erase", erase_and_forget)
            await two.did("ann", {"kind": "delete", "of": message})
        monkeypatch.undo()
        assert left[0] == (set() if count < 49 else {"rows"}), "before anybody can read the delete"
        assert await where(chat) == set()
    assert await one.view() == await two.view() == await chat.replica().view() == (await chat.naive()).view()


@pytest.mark.parametrize("at_once", [1, 50])
async def test_c35_a_purge_that_ends_within_a_message_is_finished_by_another(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Mutant: the message is erased first, and nobody finds its edits any more."""
    monkeypatch.setattr("services.persistence.chat.erasing._ERASED_AT_ONCE", at_once)
    for after in range(4):
        one = chat.replica()
        channel = f"{GROUP[:-1]}{'bcde'[after]}"
        await one.create("ann", "bob", channel=channel)
        message = await one.say("ann", SECRET, channel=channel)
        await one.did("ann", {"kind": "edit", "of": message, "text": SECRET}, channel=channel)
        await one.did("bob", {"kind": "reaction", "of": message, "name": SECRET, "op": "add"}, channel=channel)
        log: Any = one.process.log
        erase, left = log.erase, [after]

        async def erase_some(*arguments: Any, erase: Any = erase, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Died
            await erase(*arguments)

        log.erase = erase_some
        await one.did("ann", {"kind": "purge", "user": "ann", "upto": 99}, channel=channel)
        log.erase = erase
        two = chat.replica()
        assert await two.chat.eraser.sweep(-1) == 1
        assert SECRET not in str([entry.data for entry in await chat.log(channel)]), after
    assert await where(chat) <= {"log.sqlite3"}, "in the read model alone, which nobody has written"


async def test_of_two_deletes_at_once_all_replicas_say_the_same(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    for _ in range(10):
        message = await one.say("bob", SECRET)
        await two.conversations.current(GROUP)
        await asyncio.gather(
            two.append("ann", {"kind": "delete", "of": message, "reason": "moderator"}),
            one.append("bob", {"kind": "delete", "of": message}),
        )
        assert await where(chat) == set()
        (tombstone,) = await erased(chat, message)
        assert isinstance(tombstone, events.Erased)
        views = [await replica.view() for replica in (one, two, chat.replica())]
        assert views[0] == views[1] == views[2]
        assert views[0]["messages"][str(message)]["by"] == tombstone.by


async def test_a_purge_erases_all_messages_of_a_user_and_what_is_about_them(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob", "eve")
    own = [await one.say("bob", f"{SECRET} {number}") for number in range(300)]
    await one.did("ann", {"kind": "edit", "of": own[3], "text": f"{SECRET} by a moderator"})
    await one.did("eve", {"kind": "reaction", "of": own[3], "name": SECRET, "op": "add"})
    kept = await one.say("eve", "of somebody else")
    await projected(one)
    by = await one.did("ann", {"kind": "purge", "user": "bob", "upto": kept})
    assert await where(chat) == set()
    assert {event.by for event in await erased(chat, *own) if isinstance(event, events.Erased)} == {by}
    assert (await one.view())["messages"][str(kept)]["text"] == "of somebody else"
    assert await one.view() == await chat.replica().view()


async def test_a_purge_that_takes_long_goes_on_behind_its_answer(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.persistence.chat.erasing._PURGE_S", 0.05)
    one = chat.replica()
    await one.create("ann", "bob")
    for _ in range(3):
        await one.say("bob", SECRET)
    erase, go = one.process.log.erase, asyncio.Event()

    async def slowly(*arguments: Any) -> None:
        await go.wait()
        await erase(*arguments)

    log: Any = one.process.log
    log.erase = slowly
    await one.did("bob", {"kind": "purge", "user": "bob", "upto": 99})
    assert {one.get("state") for one in (await one.view())["messages"].values()} == {"deleted"}
    assert "rows" in await where(chat)
    assert await one.chat.eraser.sweep(-1) == 0, "its process is at it"
    assert await chat.site.client.zcard(keys.chat_erasures()) == 1
    go.set()
    async with asyncio.timeout(30):
        while await where(chat):
            await asyncio.sleep(0.02)
    await one.chat.eraser.flush()
    assert await chat.site.client.zcard(keys.chat_erasures()) == 0


async def test_a_purge_leaves_no_content_in_the_read_model_though_another_replica_writes_it(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann", "first")
    await one.did("ann", {"kind": "edit", "of": message, "text": SECRET})
    await projected(one)
    conversations: Any = one.conversations
    write = conversations.write

    async def second(live: Live, *more: Any) -> None:
        await two.say("bob")
        await two.conversations.write(await two.conversations.current(GROUP))
        await write(live, *more)

    conversations.write = second
    await one.did("ann", {"kind": "purge", "user": "ann", "upto": 99})
    assert await where(chat) == set()
    assert SECRET.encode() not in (await chat.store.overlays(GROUP, [message]))[message]
    assert await one.view() == await chat.replica().view()


async def test_a_void_edit_leaves_no_content_behind(chat: ChatSite) -> None:
    """Whoever deletes the message does not know of it."""
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann")
    await two.conversations.prepare(await two.conversations.current(GROUP), events.Delete(of=message))
    await one.did("ann", {"kind": "edit", "of": message, "text": "y"})
    late = {"kind": "edit", "of": message, "text": SECRET, "if_rev": message}
    assert code(await two.append("ann", late, key="k")) == "other_rev"
    assert await where(chat) == set()
    assert code(await chat.replica().append("ann", late, key="k")) == "other_rev"
    assert await one.view() == await two.view() == await chat.replica().view()


async def test_a_void_reply_leaves_no_content_behind(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    root = await one.say("ann")
    await two.conversations.prepare(await two.conversations.current(GROUP), events.Delete(of=root))
    await one.did("ann", {"kind": "delete", "of": root})
    assert code(await two.append("bob", {"kind": "message", "thread": root, "text": SECRET})) == "deleted"
    assert await where(chat) == set()
    assert await one.view() == await two.view() == await chat.replica().view()


async def test_nobody_else_waits_for_a_purge(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    purged, message = await one.say("ann"), await one.say("bob")
    go = asyncio.Event()
    log: Any = one.process.log
    erase = log.erase

    async def slowly(channel: str, publications: dict[int, bytes], epoch: str) -> None:
        if purged in publications:
            await go.wait()
        await erase(channel, publications, epoch)

    log.erase = slowly
    told: list[str] = []

    async def tell(name: str, user: str, event: dict[str, Any]) -> None:
        await one.did(user, event)
        told.append(name)

    purge = asyncio.create_task(tell("purge", "ann", {"kind": "purge", "user": "ann", "upto": 9}))
    while len(await chat.log()) == message:
        await asyncio.sleep(0)
    await tell("reaction", "bob", {"kind": "reaction", "of": message, "name": "x", "op": "add"})
    await tell("delete", "bob", {"kind": "delete", "of": message})
    assert told == ["reaction", "delete"]
    await purge
    go.set()


async def test_what_could_not_be_decided_again_is_left_to_a_sweep(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    message = await one.say("bob")
    await two.conversations.prepare(await two.conversations.current(GROUP), events.Delete(of=message))
    await one.did("ann", {"kind": "member", "op": "silence", "user": "bob", "until": 1})
    conversations: Any = two.conversations
    current = conversations.current

    async def unavailable(*_: Any, **__: Any) -> Any:
        raise Unavailable("the store does not answer")

    conversations.current = unavailable
    assert code(await two.append("bob", {"kind": "delete", "of": message})) == 100
    conversations.current = current
    assert await two.chat.eraser.sweep(-1) == 1
    assert await chat.site.client.zcard(keys.chat_erasures()) == 0


@pytest.mark.parametrize("by_another", [False, True], ids=["by its process", "by another"])
async def test_a_message_with_very_many_reactions_does_not_keep_its_channel_from_readers(
    chat: ChatSite, by_another: bool
) -> None:
    """In DynamoDB each may be an item of its own.

    No operation takes hundreds of them in its time.
    """
    one = chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann", SECRET)
    edit = await one.did("ann", {"kind": "edit", "of": message, "text": SECRET})
    for number in range(100):
        await one.did("bob", {"kind": "reaction", "of": message, "name": f"{SECRET}{number}"[-60:], "op": "add"})
    await projected(one)
    other = chat.replica() if by_another else one
    store: Any = other.process.log.erasures._store  # noqa: SLF001
    sizes: list[int] = []
    erase, commit = store.erase, other.process.hot.commit
    readable_with: list[int] = []

    async def count_and_erase(channel: str, publications: Any) -> int:
        sizes.append(len(publications))
        found: int = await erase(channel, publications)
        return found

    async def note_and_commit(channels: Any, incarnation: str) -> Any:
        readable_with.append(sum(sizes))
        return await commit(channels, incarnation)

    store.erase = count_and_erase
    hot: Any = other.process.hot
    hot.commit = note_and_commit
    by = await other.did("ann", {"kind": "delete", "of": message})
    assert max(sizes) <= 50
    assert readable_with[0] == 50
    await projected(other)
    assert await where(chat, SECRET[:7]) == set()
    assert await erased(chat, message, edit) == [
        events.Erased(was="message", by=by, counts=True),
        events.Erased(was="edit", by=by),
    ]


async def test_a_deleted_conversation_has_no_history_below_its_deletion(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob", name=SECRET)
    await one.say("bob", SECRET)
    by = await one.did("ann", {"kind": "conversation", "op": "delete"})
    assert [entry.offset for entry in await chat.log()] == [by]
    await projected(one)
    chat.site.later_s = 400
    await one.process.log.tidy()
    assert await where(chat) == set()


class Died(Exception):
    """The process ended here."""


async def erase_half(died: asyncio.Event, erase: Any, channel: str, publications: dict[int, bytes], epoch: str) -> None:
    await erase(channel, dict(list(publications.items())[:1]), epoch)
    died.set()
    raise Died


_STEPS = ["marked", "numbered", "stored", "erased in the store", "before the commit", "readable", "half of it erased"]


@pytest.mark.parametrize("step", _STEPS)
async def test_c35_what_a_dead_process_left_is_erased_by_another_and_nothing_is_pending_then(
    chat: ChatSite, step: str
) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    for round_ in range(10):
        message = await one.say("ann", SECRET)
        await one.did("ann", {"kind": "edit", "of": message, "text": f"{SECRET} {round_}"})
        dying = chat.replica()
        await dying.conversations.current(GROUP)
        died = asyncio.Event()

        async def ends(*_: Any, died: asyncio.Event = died) -> Any:
            died.set()
            raise Died

        log, process = dying.process.log, dying.process
        hot: Any = process.hot
        if step == "marked":
            log.append = lambda requests, on_outcome, died=died: died.set()  # type: ignore[method-assign,misc]
        elif step == "numbered":
            process.store.before_write = ends
        elif step == "stored":
            process.store.after_write = ends
        elif step == "erased in the store":
            hot.erase = ends
        elif step == "before the commit":
            hot.commit = ends
        elif step == "readable":
            eraser: Any = dying.chat.eraser
            eraser.after = ends
        else:
            log.erase = partial(erase_half, died, log.erase)  # type: ignore[method-assign]
            log.erasures.resolve = None
        dying.appender.submit([new_event("ann", {"kind": "delete", "of": message})], lambda *_: None)
        await asyncio.wait_for(died.wait(), 30)
        await process.close()
        await one.process.log.drain(5)
        await one.process.log.sweep(0, 10)
        await one.chat.eraser.sweep(-1)
        pending = await chat.site.client.zcard(keys.chat_erasures())
        assert pending == 0
        if step == "marked":
            assert "rows" in await where(chat), "it was not deleted"
            await one.did("ann", {"kind": "delete", "of": message})
        assert await where(chat) == set(), (step, round_)
        found = (await one.conversations.messages(await one.conversations.current(GROUP), [message]))[message]
        assert isinstance(found, Deleted)


@pytest.mark.parametrize("kind", ["delete", "purge"])
async def test_a_late_edit_of_a_process_that_died_is_erased_by_another(chat: ChatSite, kind: str) -> None:
    one, dying = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann")
    await dying.conversations.prepare(await dying.conversations.current(GROUP), events.Delete(of=message))
    await one.did("ann", {"kind": kind, **({"of": message} if kind == "delete" else {"user": "ann", "upto": message})})
    eraser: Any = dying.chat.eraser

    async def ends(*_: Any) -> Any:
        raise Died

    eraser.after = ends
    assert code(await dying.append("ann", {"kind": "edit", "of": message, "text": SECRET})) == 100
    dying.projection.end(GROUP)
    assert "rows" in await where(chat)
    for replica in (one, chat.replica()):
        await replica.conversations.write(await replica.conversations.current(GROUP))
    assert await chat.replica().projection.sweep(-1) == 1
    assert await where(chat) == set()
    assert isinstance((await erased(chat, message + 2))[0], events.Erased)


async def test_an_event_that_is_refused_or_void_leaves_no_mark(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann", SECRET)
    await one.append("bob", {"kind": "delete", "of": message})
    await one.append("bob", {"kind": "delete", "of": 77})
    await one.chat.eraser.flush()
    assert await chat.site.client.zcard(keys.chat_erasures()) == 0
    assert "rows" in await where(chat)


async def test_a_delete_in_another_channel_than_a_conversation_erases_nothing(chat: ChatSite) -> None:
    one = chat.replica()
    await one.process.append("1", channel="chat:a")
    publication = common_pb2.Publication(data=b'{"kind":"delete","of":1}').SerializeToString()
    assert await one.chat.eraser.resolve(Row("chat:a", 2, bytes(16), publication, "")) == {}


async def test_what_is_beyond_the_first_edits_goes_before_the_answer(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody else's events wait while something is erased before a commit."""
    monkeypatch.setattr("services.persistence.chat.erasing._MOST_BEFORE", 2)
    one = chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann", SECRET)
    for text in range(4):
        await one.did("ann", {"kind": "edit", "of": message, "text": f"{SECRET} {text}"})
    hot: Any = one.process.hot
    erase, calls = hot.erase, list[int]()

    async def counted(channel: str, publications: dict[int, bytes], erasures: int) -> bool:
        calls.append(len(publications))
        is_clean: bool = await erase(channel, publications, erasures)
        return is_clean

    hot.erase = counted
    await one.did("ann", {"kind": "delete", "of": message})
    assert calls == [3, 2]
    assert await where(chat) == set()


async def test_an_edit_empties_only_what_the_one_before_it_did_not(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann", SECRET)
    for text in range(30):
        await one.did("ann", {"kind": "edit", "of": message, "text": f"{SECRET} {text}"})
    await one.did("ann", {"kind": "conversation", "op": "update", "settings": {"versions": "erase"}})
    log: Any = one.process.log
    erase, erased_at = log.erase, list[list[int]]()

    async def counted(channel: str, publications: dict[int, bytes], epoch: str) -> None:
        erased_at.append(list(publications))
        await erase(channel, publications, epoch)

    log.erase = counted
    first = await one.did("ann", {"kind": "edit", "of": message, "text": "a"})
    assert await where(chat) == set()
    assert erased_at == [list(range(message, message + 31))], "the oldest first"
    await one.did("ann", {"kind": "edit", "of": message, "text": "b"})
    assert erased_at[1:] == [[first]]


async def test_a_page_from_before_an_edit_does_not_show_the_emptied_version(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob", settings={"versions": "erase"})
    message = await one.say("ann")
    live = await two.conversations.current(GROUP)
    before = View(live, live.epoch, live.position, 0)
    await one.did("ann", {"kind": "edit", "of": message, "text": "new"})
    with pytest.raises(Moved):
        await two.chat.queries.pages.below(before, message + 1, 10)
    page = await two.chat.queries.page(GROUP, "bob", lambda at: two.chat.queries.pages.below(at, 99, 10))
    assert [one["text"] for one in msgspec.json.decode(msgspec.json.encode(page))["messages"]] == ["new"]


@pytest.mark.parametrize("versions", ["erase", "keep"])
async def test_c34_content_that_was_edited_goes_if_the_conversation_says_so(chat: ChatSite, versions: str) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob", settings={"versions": versions})
    message = await one.say("ann", SECRET)
    await two.conversations.current(GROUP)
    for text in (f"{SECRET} second", "third"):
        rev = await one.did("ann", {"kind": "edit", "of": message, "text": text})
    await projected(one)
    assert (await where(chat) == set()) is (versions == "erase")
    for replica in (one, two, chat.replica()):
        found = (await replica.view())["messages"][str(message)]
        assert (found["text"], found["rev"], found["author"]) == ("third", rev, "ann")
    assert view(fold(await chat.log())) == await one.view()
    if versions == "erase":
        (row,) = await chat.site.store.read_counted(GROUP, since_offset=rev - 1, upto=rev, limit=1, reverse=False)
        assert row.flags == 4, "edges forget what they have of before"
        by = await one.did("ann", {"kind": "delete", "of": message})
        assert (await erased(chat, message))[0] == events.Erased(was="message", by=by, counts=True)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_fold_of_what_is_left_is_the_fold_of_what_was(chat: ChatSite, seed: int) -> None:
    """The fold of the log with tombstones is that of the log."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    replicas = [chat.replica(), chat.replica()]
    await replicas[0].create("ann", "bob", "eve")
    users, original, messages = ["ann", "bob", "eve"], dict[int, Entry](), list[int]()
    for _ in range(120):
        replica, user = chance.choice(replicas), chance.choice(users)
        of = chance.choice(messages or [1])
        kinds: list[dict[str, Any]] = [
            {"kind": "message", "text": f"text {chance.random()}"},
            {"kind": "message", "text": "reply", "thread": of},
            {"kind": "edit", "of": of, "text": "edited"},
            {"kind": "reaction", "of": of, "name": "x", "op": chance.choice(["add", "remove"])},
            {"kind": "delete", "of": of},
            {"kind": "pin", "of": of, "op": "add"},
            {"kind": "purge", "user": user, "upto": of},
        ]
        event = chance.choice(kinds[: 7 if chance.random() < 0.1 else 6])
        result = await replica.append(user, event)
        if isinstance(result, Appended) and result.void is None and event["kind"] == "message":
            messages.append(result.offset)
        for entry in await chat.log():
            original.setdefault(entry.offset, entry)
        if chance.random() < 0.2:
            await projected(replica)
    expected = view(fold(original.values()))
    assert view(fold(await chat.log())) == expected
    for replica in (*replicas, chat.replica()):
        assert await replica.view() == expected
    assert any(isinstance(events.read(entry.data), events.Erased) for entry in await chat.log())
