"""Events that race on two replicas: the log decides, and everybody is told."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random
from typing import Any

import pytest

from services.persistence.chat import append
from services.persistence.chat.append import Appended, Refused, Result
from services.persistence.chat.domain.rights import Role
from services.persistence.chat.metrics import RECHECKS
from tests.support.chat import GROUP, ChatSite, Replica, code, new_event
from tests.support.full import sized
from tests.support.lateness import Lateness

DIRECT = "conv:d.rd6fba6cbp2cavo6nolfqseq4o"
REMOVE = {"kind": "member", "op": "remove", "user": "eve"}
ADD = {"kind": "member", "op": "add", "user": "eve"}


def rechecks() -> float:
    return RECHECKS._value.get()  # type: ignore[no-any-return]  # noqa: SLF001


async def offsets_of(chat: ChatSite, author: str, channel: str = GROUP) -> list[int]:
    """Where the messages of a user are."""
    return [
        entry.offset
        for entry in await chat.log(channel)
        if entry.author == author and json.loads(entry.data)["kind"] == "message"
    ]


def pair(chat: ChatSite) -> tuple[Replica, Replica]:
    return chat.replica(), chat.replica()


@pytest.mark.parametrize("block", range(4))
async def test_C12_no_message_of_a_removed_member_is_above_the_removal(chat: ChatSite, block: int) -> None:
    """Also of those on their way, on both replicas, and with an emptied Redis."""
    rng = Random(block)
    one, two = pair(chat)
    await one.create("ann", "eve", "bob")
    recheck_count = rechecks()
    above = -1
    for _ in range(sized(25, 250)):
        began = asyncio.gather(
            *(rng.choice((one, two)).append("eve", {"kind": "message", "text": "x"}) for _ in range(rng.randint(1, 6))),
            *(rng.choice((one, two)).append("bob", {"kind": "message", "text": "y"}) for _ in range(rng.randint(0, 3))),
        )
        for _ in range(rng.randint(0, 4)):
            await asyncio.sleep(0)
        emptied = rng.random() < 0.1
        if emptied:
            await chat.site.client.flushdb()
        remove = new_event("ann", REMOVE)
        removed = await rng.choice((one, two)).appender.append(remove)
        if emptied and code(removed) == 100:  # what was numbered and not stored is lost
            removed = await one.appender.append(remove)
        assert isinstance(removed, Appended)
        assert removed.void is None
        later = [await replica.append("eve", {"kind": "message", "text": "late"}) for replica in (one, two)]
        assert [code(found) for found in later] == [103, 103]
        results: list[Result] = await began
        assert {code(found) for found in results} <= ({"ok", 103, 100} if emptied else {"ok", 103})
        mine = await offsets_of(chat, "eve")
        assert not [offset for offset in mine if offset > removed.offset]
        told = {found.offset for found in results if isinstance(found, Appended)}
        assert emptied or told >= {offset for offset in mine if offset > above}
        await rng.choice((one, two)).did("ann", ADD)
        above = await rng.choice((one, two)).say("eve", "back")
    assert rechecks() > recheck_count
    assert await one.view() == await two.view() == (await chat.naive()).view()


async def test_who_was_let_in_by_another_replica_is_not_refused(chat: ChatSite) -> None:
    one, two = pair(chat)
    await one.create("ann")
    assert code(await two.append("eve", {"kind": "message", "text": "a"})) == 103
    await one.did("ann", ADD)
    assert await two.say("eve") == 3
    assert code(await two.append("bob", {"kind": "message", "text": "a"})) == 103


async def test_an_edit_of_what_another_replica_has_just_numbered(chat: ChatSite) -> None:
    one, two = pair(chat)
    await one.create("ann")
    await two.view()
    said = await one.say("ann")
    assert await two.did("ann", {"kind": "edit", "of": said, "text": "b"}) == said + 1
    assert code(await two.append("ann", {"kind": "edit", "of": said + 1, "text": "b"})) == 404


async def test_C03_an_edit_and_a_delete_race(chat: ChatSite) -> None:
    """Whoever comes second is told so, and nobody sees content of the deleted."""
    one, two = pair(chat)
    await one.create("ann", "bob")
    told, rng = set(), Random(3)
    for number in range(sized(25, 500)):
        said = await one.say("bob")
        for replica in (one, two):
            await replica.conversations.prepare(await replica.conversations.current(GROUP), _edit(said))
        editing = new_event("bob", {"kind": "edit", "of": said, "text": f"new {number}"})
        deleting = new_event("ann", {"kind": "delete", "of": said})
        if rng.random() < 0.5:
            edited, deleted = await asyncio.gather(two.appender.append(editing), one.appender.append(deleting))
        else:
            deleted = await one.appender.append(deleting)
            edited = await two.appender.append(editing)  # it has not heard of it yet
        told.add(code(edited))
        assert code(deleted) == "ok"
        assert code(edited) in ("ok", "deleted", 410)
        for replica in (one, two):
            assert (await replica.view())["messages"][str(said)]["state"] == "deleted"
    assert "deleted" in told


def _edit(of: int) -> Any:
    from services.persistence.chat.domain.events import Edit

    return Edit(of=of, text="a")


async def test_C15_there_is_always_one_owner(chat: ChatSite) -> None:
    one, two = pair(chat)
    for number in range(sized(10, 100)):
        rng = Random(number)
        channel = f"{GROUP[:-3]}{number:03}"
        await one.create("ann", "bob", "eve", "dan", channel=channel)
        await one.did("ann", {"kind": "member", "op": "role", "user": "bob", "role": "admin"}, channel=channel)
        what: list[tuple[str, dict[str, Any]]] = [
            ("ann", {"kind": "member", "op": "leave"}),
            ("bob", {"kind": "member", "op": "leave"}),
            ("ann", {"kind": "member", "op": "role", "user": "eve", "role": "owner"}),
            ("ann", {"kind": "member", "op": "role", "user": "dan", "role": "owner"}),
            ("bob", {"kind": "member", "op": "ban", "user": "dan"}),
            ("bob", {"kind": "member", "op": "unban", "user": "dan"}),
        ]
        some = rng.sample(what, rng.randint(2, len(what)))
        results = await asyncio.gather(
            *(rng.choice((one, two)).append(author, event, channel=channel) for author, event in some)
        )
        assert 100 not in map(code, results)
        views = [await replica.view(channel) for replica in (one, two, chat.replica())]
        assert views[0] == views[1] == views[2] == (await chat.naive(channel)).view(), number
        owners = [user for user, member in views[0]["members"].items() if member["role"] == Role.OWNER.value]
        assert len(owners) == 1, number


async def test_C16_a_storm_of_joins_decides_nothing_again(chat: ChatSite) -> None:
    one, two = pair(chat)
    await one.create("ann", settings={"join": "anyone", "max_members": 2_000})
    before = rechecks()
    users = [f"u{number}" for number in range(sized(300, 1_000))]

    async def talk() -> int:
        said = 0
        while not joined.done():
            said += len(await asyncio.gather(one.say("ann"), two.say("ann")))
        return said

    began = time.monotonic()
    joined = asyncio.ensure_future(
        asyncio.gather(
            *(
                (one, two)[number % 2].append(user, {"kind": "member", "op": "join"})
                for number, user in enumerate(users)
            )
        )
    )
    said = await talk()
    assert {code(result) for result in joined.result()} == {"ok"}
    assert rechecks() == before
    assert said > 2
    assert time.monotonic() - began < 60
    live = await two.conversations.current(GROUP)
    assert len(live.state.members) == len(users) + 1
    assert live.mv == 0


async def test_C08_two_who_begin_at_once_have_one_conversation(chat: ChatSite) -> None:
    one, two = pair(chat)
    create = {"kind": "conversation", "op": "create", "type": "direct", "users": ["u1", "u2"]}
    results = await asyncio.gather(
        *(replica.append(user, create, channel=DIRECT) for user in ("u1", "u2") for replica in (one, two))
    )
    assert {code(result) for result in results} <= {"ok", "exists", 409}
    assert [code(result) for result in results].count("ok") == 1
    assert {code(await one.append(user, create, channel=DIRECT)) for user in ("u1", "u2")} == {409}
    assert code(await two.append("u3", create, channel=DIRECT)) == 103


async def test_a_version_that_is_never_readable_is_unavailable_in_time(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica has numbered a removal, and can't store it."""
    monkeypatch.setattr(append, "_PATIENCE_S", 2.5)
    one, two = pair(chat)
    await one.create("ann", "bob", "eve")
    await two.view()
    may_write = one.process.store.hold_writes()
    removing = asyncio.ensure_future(one.append("ann", REMOVE))
    async with asyncio.timeout(30):
        while not one.process.store.writes or one.process.store.writes[-1] != [(GROUP, 4)]:
            await asyncio.sleep(0.01)
    two.process.store.hold_writes()  # nor can this one make up for it
    async with Lateness() as late:
        began = time.monotonic()
        result = await two.append("bob", {"kind": "message", "text": "a"})
        assert time.monotonic() - began > 1
    assert isinstance(result, Refused)
    assert result.code == 100
    assert late.took_s < 5
    may_write.set()
    assert code(await removing) == "ok"


async def test_refusals_of_what_exists_and_what_does_not_are_the_same(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann")
    said = await one.say("ann")
    await one.did("ann", {"kind": "member", "op": "ban", "user": "bob"})
    other = GROUP[:-1] + "b"
    closed = GROUP[:-1] + "c"
    await one.create("ann", channel=closed)
    await one.did("ann", {"kind": "conversation", "op": "close"}, channel=closed)
    gone = GROUP[:-1] + "d"
    await one.create("ann", channel=gone)
    await one.did("ann", {"kind": "conversation", "op": "delete"}, channel=gone)
    events: list[dict[str, Any]] = [
        {"kind": "message", "text": "a"},
        {"kind": "edit", "of": said, "text": "a"},
        {"kind": "edit", "of": 99, "text": "a"},
        {"kind": "delete", "of": said},
        {"kind": "reaction", "of": said, "name": "x", "op": "add"},
        {"kind": "pin", "of": said, "op": "remove"},
        {"kind": "member", "op": "join"},
        {"kind": "member", "op": "leave"},
        {"kind": "member", "op": "decline"},
        {"kind": "member", "op": "add", "user": "eve"},
        {"kind": "conversation", "op": "update", "name": "a"},
        {"kind": "conversation", "op": "delete"},
        {"kind": "x.poll"},
    ]
    for user in ("eve", "bob"):
        for event in events:
            found = {await one.append(user, event, channel=channel) for channel in (GROUP, other, closed, gone)}
            assert found == {Refused(103, "not_allowed", "not allowed")}, (user, event)
    assert isinstance(await one.append("", {"kind": "message", "text": "by the platform"}), Appended)


async def test_a_batch_has_one_result_each(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann")
    results: dict[int, Result] = {}
    done = asyncio.Event()

    def take(index: int, result: Result) -> None:
        assert index not in results
        results[index] = result
        if len(results) == 5:
            done.set()

    one.appender.submit(
        [
            new_event("ann", {"kind": "message", "text": "a"}),
            new_event("eve", {"kind": "message", "text": "a"}),
            new_event("ann", b"{"),
            new_event("ann", {"kind": "member", "op": "add", "user": "bob"}),
            new_event("ann", {"kind": "message", "text": "b"}),
        ],
        take,
    )
    await asyncio.wait_for(done.wait(), 30)
    assert [code(results[index]) for index in range(5)] == ["ok", 103, 107, "ok", "ok"]


async def test_who_was_behind_knows_of_the_deletion_though_what_came_before_it_is_removed(chat: ChatSite) -> None:
    """Also that who deleted it might: that was in the removed part."""
    one, two = pair(chat)
    await one.create("ann", "bob")
    assert (await two.conversations.current(GROUP)).position == 2
    await one.did("ann", {"kind": "member", "op": "role", "user": "bob", "role": "owner"})
    await one.say("bob")
    await one.did("bob", {"kind": "conversation", "op": "delete"})
    assert code(await two.append("ann", {"kind": "message", "text": "x"})) == 103
    live = await two.conversations.current(GROUP)
    assert (live.state.phase, live.state.n, live.state.members) == ("deleted", 1, {})
