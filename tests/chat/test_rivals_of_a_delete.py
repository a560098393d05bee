"""Of several events that delete one message the first one did, for everybody."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from services.persistence.chat.append import Appended
from services.persistence.chat.domain import events
from services.persistence.chat.domain.rules import Why
from tests.support.chat import GROUP, ChatSite, Replica, new_event
from tests.support.full import sized

RACES = sized(40, 300)
SEED = 20261130
Json = dict[str, Any]


def holds(gate: asyncio.Event) -> Any:
    async def hold(*_: Any) -> None:
        await gate.wait()

    return hold


def submitted(replica: Replica, author: str, event: Json) -> asyncio.Future[Any]:
    found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    replica.appender.submit([new_event(author, event)], lambda _, result: found.set_result(result))
    return found


async def numbered(chat: ChatSite, offset: int) -> None:
    async with asyncio.timeout(30):
        while (await chat.log())[-1].offset < offset:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("first", ["purge", "delete"])
@pytest.mark.parametrize("when", ["readable with it", "readable before it", "known", "known, and not in memory"])
async def test_a_delete_behind_an_event_that_deletes_the_same_message(chat: ChatSite, first: str, when: str) -> None:
    one, two, three = chat.replica(), chat.replica(), chat.replica()
    await one.create("ann", "bob")
    root = await one.say("ann")
    message = await one.did("bob", {"kind": "message", "text": "secret", "thread": root})
    edit = await one.did("bob", {"kind": "edit", "of": message, "text": "secret again"})
    await one.projection.flush()
    for replica in (two, three):
        await replica.conversations.current(GROUP)
    purge = {"kind": "purge", "user": "bob", "upto": edit}
    delete = {"kind": "delete", "of": message}
    two_may_commit, erases = asyncio.Event(), asyncio.Event()
    eraser: Any = two.chat.eraser
    eraser_of_one: Any = one.chat.eraser
    after, after_of_one = eraser.after, eraser_of_one.after

    async def after_a_while(*arguments: Any) -> None:
        await erases.wait()
        await after(*arguments)

    async def after_a_while_of_one(*arguments: Any) -> None:
        await erases.wait()
        await after_of_one(*arguments)

    eraser.after, eraser_of_one.after = after_a_while, after_a_while_of_one
    if when == "readable with it":
        two.process.store.after_write = holds(two_may_commit)
    rival = None
    if when.startswith("known"):
        hot: Any = one.process.hot
        append, one_may_number, is_numbering = hot.append, asyncio.Event(), asyncio.Event()

        async def append_later(*arguments: Any) -> Any:
            is_numbering.set()
            await one_may_number.wait()
            return await append(*arguments)

        hot.append = append_later
        rival = submitted(one, "ann", delete)
        await asyncio.wait_for(is_numbering.wait(), 30)
    begun = submitted(two, "bob", purge if first == "purge" else delete)
    await numbered(chat, edit + 1)
    if when != "readable with it":
        async with asyncio.timeout(30):
            while (await two.process.log.open(GROUP)).top < edit + 1:
                await asyncio.sleep(0.005)
    if rival is None:
        rival = submitted(one, "ann", delete)  # decided with a state in which the message is there
    else:
        live = await one.conversations.current(GROUP)
        if when != "known":
            await one.conversations.write(live)
            live.state.messages.clear()
        one_may_number.set()
    await numbered(chat, edit + 2)
    async with asyncio.timeout(30):
        while (await one.process.log.open(GROUP)).top < edit + 2:
            await asyncio.sleep(0.005)
    fresh = chat.replica()
    views = [await replica.view() for replica in (one, two, three, fresh)]
    two_may_commit.set()
    erases.set()
    assert (await begun).void is None
    found = await rival
    assert isinstance(found, Appended)
    assert (found.offset, found.void) == (edit + 2, Why.DELETED)
    views += [await replica.view() for replica in (one, two, three, fresh, chat.replica())]
    assert [view["messages"][str(message)]["by"] for view in views] == [edit + 1] * len(views)
    assert [view["messages"][str(root)]["replies"] for view in views] == [0] * len(views)
    tombstones = {entry.offset: events.read(entry.data) for entry in await chat.log()}
    assert tombstones[message] == events.Erased(was="message", by=edit + 1, thread=root)
    assert tombstones[edit] == events.Erased(was="edit", by=edit + 1)
    naive = await chat.naive()
    assert naive.view() == views[0]


async def test_rivals_at_once(chat: ChatSite) -> None:
    rng = Random(SEED)
    replicas = [chat.replica(), chat.replica(), chat.replica()]
    await replicas[0].create("ann", "bob")
    deletes: dict[int, Why | None] = {}
    for _ in range(RACES):
        root = await rng.choice(replicas).say("ann")
        mine = [
            await rng.choice(replicas).did(
                "bob", {"kind": "message", "text": "x", **rng.choice([{}, {"thread": root}])}
            )
            for _ in range(2)
        ]
        some: list[tuple[str, Json]] = []
        for _ in range(rng.randint(2, 6)):
            kind = rng.choice(["purge", "delete", "delete", "edit", "reply", "reaction"])
            of = rng.choice(mine)
            event = {
                "purge": {"kind": "purge", "user": "bob", "upto": of},
                "delete": {"kind": "delete", "of": of},
                "edit": {"kind": "edit", "of": of, "text": "y"},
                "reply": {"kind": "message", "text": "z", "thread": of},
                "reaction": {"kind": "reaction", "of": of, "op": "add", "name": "x"},
            }[kind]
            some.append((rng.choice(["ann", "bob"]), event))
        results = await asyncio.gather(*(rng.choice(replicas).append(author, event) for author, event in some))
        if rng.random() < 0.3:
            await rng.choice(replicas).projection.flush()
        for (_, event), result in zip(some, results, strict=True):
            if event["kind"] == "delete" and isinstance(result, Appended):
                deletes[result.offset] = result.void
    naive = await chat.naive()
    for replica in [*replicas, chat.replica()]:
        assert await replica.view() == naive.view()
    rows = {entry.offset: entry for entry in await chat.log()}
    for offset, void in deletes.items():
        delete = events.read(rows[offset].data)
        assert isinstance(delete, events.Delete)
        by = naive.deleted_by(delete.of)
        assert (void is None) == (by == offset), (offset, void, by)
    assert {*deletes.values()} == {None, Why.DELETED}, "nothing raced"


async def test_who_found_a_reply_erased_does_not_believe_who_counted_it(chat: ChatSite) -> None:
    """One replica has folded the reply itself, the other one its tombstone."""
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    root = await one.say("ann")
    await one.projection.flush()
    await two.conversations.current(GROUP)
    reply = await one.did("bob", {"kind": "message", "text": "x", "thread": root})
    await one.say("bob")
    await one.conversations.write(await one.conversations.current(GROUP))
    hot: Any = one.process.hot
    commit, may_commit, is_erased = hot.commit, asyncio.Event(), asyncio.Event()

    async def commit_later(*arguments: Any) -> Any:
        is_erased.set()
        await may_commit.wait()
        return await commit(*arguments)

    hot.commit = commit_later
    deleting = submitted(one, "bob", {"kind": "delete", "of": reply})
    await asyncio.wait_for(is_erased.wait(), 30)
    live = await two.conversations.current(GROUP)
    assert live.uncounted == {reply: reply + 2}
    await two.conversations.prepare(live, events.Message(text="y", thread=root))  # the other one has written it
    may_commit.set()
    assert (await deleting).void is None
    for replica in (one, two, chat.replica()):
        assert (await replica.view())["messages"][str(root)]["replies"] == 0
