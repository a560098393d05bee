"""However many users purge, the head of a conversation stays small.

In an open conversation everybody may purge what he wrote, also without being a member.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.documents import live_of
from services.persistence.chat.domain import events
from services.persistence.chat.domain.state import Deleted
from services.persistence.chat.erasure_marks import ErasureMarks
from services.persistence.chat.ports import ChatStore, Loaded
from services.shared.dynamodb.client import DynamoDb
from services.shared.errors import Unavailable
from tests.chat.test_folding import row, write_rows
from tests.support.chat import GROUP, ChatSite, Replica, full_view
from tests.support.dynamodb_tables import own_tables

OPEN = "conv:o.lobby"
USERS = 120
MakeStore = Callable[[], ChatStore]


@pytest.fixture
async def dynamodb_store(dynamodb: str) -> AsyncIterator[MakeStore]:
    settings = await own_tables(dynamodb)
    db = DynamoDb(settings)
    yield lambda: DynamoDbChatStore(db, settings.chat_table)
    await db.close()


@pytest.fixture(params=["sqlite", "dynamodb"])
def make_store(request: pytest.FixtureRequest, chat: ChatSite) -> MakeStore:
    """Make another object on the same data."""
    if request.param == "sqlite":
        return lambda: SqliteChatStore(chat.site.store.database)
    made: MakeStore = request.getfixturevalue("dynamodb_store")
    return made


async def loaded_of(store: ChatStore) -> Loaded:
    loaded = await store.load(OPEN)
    assert loaded is not None
    return loaded


async def is_away(*_: object) -> bool:
    raise Unavailable("the store is away")


async def test_many_who_purge_leave_the_head_as_it_was(
    chat: ChatSite, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = make_store()
    one = chat.replica(store=written)
    await one.did("", {"kind": "conversation", "op": "create", "type": "open"}, channel=OPEN)
    users = [f"user {number}" for number in range(USERS)]
    for user in users[:4]:
        await one.did("", {"kind": "member", "op": "role", "user": user, "role": "moderator"}, channel=OPEN)
    await write_rows(one, [row(user, {"kind": "message", "text": "x"}, OPEN, 3) for user in users for _ in range(2)])
    await one.conversations.write(await one.conversations.current(OPEN))
    store = make_store()
    before = await loaded_of(store)
    first = before.position - 2 * USERS + 1
    for seen in (1, 0):  # the first message of each, after that both of every second one
        some = [(number, user) for number, user in enumerate(users) if seen or number % 2]
        purges = [{"kind": "purge", "user": user, "upto": first + 2 * number + 1 - seen} for number, user in some]
        await write_rows(one, [row(user, purge, OPEN, 2) for (_, user), purge in zip(some, purges, strict=True)])
        live = await one.conversations.current(OPEN)
        with monkeypatch.context() as patched:
            patched.setattr(written, "apply", is_away)
            with pytest.raises(Unavailable):
                await one.conversations.write(live)
        await one.conversations.write(live)
    await one.did("", {"kind": "member", "op": "role", "user": users[0], "role": "member"}, channel=OPEN)
    live = await one.conversations.current(OPEN)
    await one.conversations.write(live)

    after = await loaded_of(store)
    assert len(after.head) <= len(before.head) + 8, "only numbers in it may be longer"
    assert (len(before.people), len(after.people)) == (4, USERS)
    other = chat.replica(store=store)
    again = await other.conversations.current(OPEN)
    assert again.purges == live.purges
    assert [await store.conversations_of(user, "", 1) for user in users[4:]] == [[]] * (USERS - 4)
    assert [len(again.purges[user]) for user in users] == [1, 2] * (USERS // 2)
    found = await full_view(other, again)
    assert found == await full_view(one, live) == (await chat.naive(OPEN)).view()
    states = [message["state"] for message in found["messages"].values()]
    assert (states.count("deleted"), states.count("live")) == (USERS + USERS // 2, USERS // 2)

    await other.did("", {"kind": "conversation", "op": "delete"}, channel=OPEN)
    await other.conversations.write(await other.conversations.current(OPEN))
    assert (await loaded_of(make_store())).people == {}


async def test_c03_each_message_names_its_purge_however_many_come_before_the_first_is_erased(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the oldest of 33 purges is forgotten though it is not finished."""
    seed = 33
    print(f"seed {seed}")
    rng, may_erase = random.Random(seed), asyncio.Event()
    one = chat.replica()
    await one.create("ann", "bob")
    monkeypatch.setattr("services.persistence.chat.erasing._PURGE_S", 0.0)
    erase = one.chat.eraser._erase_messages_of  # noqa: SLF001

    async def erase_later(*arguments: Any) -> None:
        await may_erase.wait()
        await erase(*arguments)

    monkeypatch.setattr(one.chat.eraser, "_erase_messages_of", erase_later)
    expected: dict[int, int] = {}

    async def write_and_purge(times: int) -> None:
        for _ in range(times):
            said = [await one.say("bob") for _ in range(rng.randint(1, 3))]
            expected.update(
                dict.fromkeys(said, await one.did("bob", {"kind": "purge", "user": "bob", "upto": said[-1]}))
            )

    async def by(replica: Replica) -> dict[int, int]:
        live = await replica.conversations.current(GROUP)
        found = await replica.conversations.messages(live, list(expected))
        return {offset: message.by for offset, message in found.items() if isinstance(message, Deleted)}

    await write_and_purge(40)
    await one.conversations.write(await one.conversations.current(GROUP))
    assert await by(one) == await by(chat.replica()) == expected
    other = chat.replica()
    assert await full_view(other, await other.conversations.current(GROUP)) == (await chat.naive()).view()
    await write_and_purge(3)
    assert await by(one) == await by(other) == await by(chat.replica()) == expected

    may_erase.set()
    marks = ErasureMarks(chat.site.pipeline, chat.clock)
    async with asyncio.timeout(20):
        while await marks.lowest(GROUP) is not None:
            await one.chat.eraser.flush()
            await asyncio.sleep(0.01)
    entries = {entry.offset: events.read(entry.data) for entry in await chat.log()}
    assert {offset: getattr(entries[offset], "by", None) for offset in expected} == expected
    await write_and_purge(1)
    for replica in (one, other, chat.replica()):
        assert await by(replica) == expected
        live = await replica.conversations.current(GROUP)
        assert len(live.purges["bob"]) < 10, "what is erased is not kept"


async def test_a_head_that_has_purges_is_read(chat: ChatSite) -> None:
    """As versions before the first release wrote it."""
    one = chat.replica()
    await one.did("", {"kind": "conversation", "op": "create", "type": "open"}, channel=OPEN)
    live = await one.conversations.current(OPEN)
    await one.conversations.write(live)
    loaded = await loaded_of(chat.store)
    head = json.dumps(json.loads(loaded.head) | {"purges": {"ann": [[1, 2]]}}).encode()
    assert live_of(OPEN, loaded._replace(head=head)).state == live_of(OPEN, loaded).state
    with pytest.raises(msgspec.ValidationError):
        live_of(OPEN, loaded._replace(head=b'{"epoch":1}'))
