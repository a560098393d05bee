"""However many users purge, the head of a conversation stays small.

In an open conversation everybody may purge what he wrote, also without being a member.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.documents import live_of
from services.persistence.chat.ports import ChatStore, Loaded
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from services.shared.errors import Unavailable
from tests.chat.test_folding import row, write_rows
from tests.support.chat import ChatSite, full_view
from tests.support.dynamodb import settings_of

OPEN = "conv:o.lobby"
USERS = 120
MakeStore = Callable[[], ChatStore]


@pytest.fixture
async def dynamodb_store(dynamodb: str) -> AsyncIterator[MakeStore]:
    settings = settings_of(dynamodb, f"{uuid.uuid4().hex}-")
    db = DynamoDb(settings)
    await tables.create(db, settings)
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
