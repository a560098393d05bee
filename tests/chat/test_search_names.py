"""Conversations are found by name by those who know them, and by nobody else."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from services.persistence.chat.live import Live
from services.persistence.chat.search import names as names_module
from tests.support.chat_calls import CallRefused, Replica
from tests.support.full import sized


async def group(a: Replica, owner: str, *users: str, name: str) -> str:
    channel: str = (await a.call(owner, "conversations.create", users=list(users), name=name))["channel"]
    return channel


async def names(a: Replica, user: str, **params: Any) -> list[str]:
    found: list[str] = []
    cursor = ""
    while True:
        answer = await a.call(user, "conversations.search", cursor=cursor, **params)
        found += [one["name"] or one["with"] for one in answer["conversations"]]
        cursor = answer.get("cursor", "")
        if not cursor:
            return sorted(found)


async def test_own_conversations_are_found_by_words_of_their_names(a: Replica, b: Replica) -> None:
    await group(a, "ann", "bob", name="Café at noon")
    await group(a, "ann", "cem", name="Noon walk")
    await a.call("bob", "messages.send", to="ann", text="hi")
    assert await names(b, "ann", query="noo") == ["Café at noon", "Noon walk"]
    assert await names(b, "ann", query="cafe no") == ["Café at noon"]
    assert await names(b, "ann", query="no", limit=1) == ["Café at noon", "Noon walk"]
    assert await names(b, "ann", query="bo") == ["bob"]
    assert await names(b, "ann", query="ann") == []
    assert await names(b, "ann", member="bob") == ["Café at noon", "bob"]
    assert await names(b, "ann", member="bob", query="cafe") == ["Café at noon"]
    assert await names(b, "ann", query="cafe walk") == []
    with pytest.raises(CallRefused, match="107 malformed"):
        await names(b, "ann")


async def test_nothing_is_read_of_a_member_but_what_the_users_own_conversations_say(
    a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would take longer the more conversations that member has elsewhere."""
    await group(a, "ann", "bob", name="Both")
    await group(a, "ann", name="Alone")
    await a.call("bob", "messages.send", to="ann", text="hi")
    for number in range(3):
        await group(a, "bob", "cem", name=f"Elsewhere {number}")
    asked: list[str] = []
    loaded: list[str] = []
    store, upto = a.store, a.conversations.upto

    def recording(real: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **more: Any) -> Any:
            asked.extend(str(one) for one in (*args, *more.values()))
            return real(*args, **more)

        return recorded

    for name in [name for name in dir(type(store)) if name[0] != "_" and callable(getattr(store, name))]:
        monkeypatch.setattr(store, name, recording(getattr(store, name)))

    async def counted(channel: str, offset: int, epoch: str = "") -> Live:
        loaded.append(channel)
        return await upto(channel, offset, epoch)

    monkeypatch.setattr(a.conversations, "upto", counted)
    assert await names(a, "ann", member="bob") == ["Both", "bob"]
    assert await names(a, "ann", member="eve") == []
    assert not {"bob", "eve"} & set(asked)
    assert len(loaded) == 4  # the two groups, twice


async def test_a_member_is_looked_for_in_a_bounded_number_and_the_cursor_goes_on(
    a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "_AT_ONCE", 2)
    monkeypatch.setattr(names_module, "_MAX_LOADED", 4)
    wanted = [f"Group {number}" for number in range(11)]
    for number, name in enumerate(wanted):
        await group(a, "ann", *(["bob"] if number % 5 == 0 else []), name=name)
    assert await names(a, "ann", member="bob") == ["Group 0", "Group 10", "Group 5"]
    assert await names(a, "ann", member="bob", limit=1) == ["Group 0", "Group 10", "Group 5"]
    assert await names(a, "ann", query="group", limit=3) == sorted(wanted)
    assert "cursor" in await a.call("ann", "conversations.search", member="eve")
    assert await names(a, "ann", member="eve") == []


async def test_open_conversations_are_found_by_the_beginning_of_their_names(a: Replica) -> None:
    await a.call("", "conversations.create", type="open", id="lobby", name="Lobby")
    answer = await a.call("eve", "conversations.search", query="Lo")
    assert (answer["conversations"], [one["name"] for one in answer["open"]]) == ([], ["Lobby"])
    assert (await a.call("", "conversations.search", query="Lo"))["open"] == answer["open"]
    await a.call("", "conversations.close", channel="conv:o.lobby")
    assert (await a.call("eve", "conversations.search", query="Lo"))["open"] == []


async def test_a_private_name_is_never_confirmed(a: Replica) -> None:
    """Whatever somebody guesses, the answer is the same in every byte."""
    rng = random.Random(4)
    secret = [await group(a, "ann", "bob", name=f"Project {name}") for name in ("Falcon", "Heron")]
    left = await group(a, "ann", "eve", name="Project Left")
    await a.call("eve", "conversations.leave", channel=left)
    await a.call("ann", "members.invite", channel=secret[0], user="gus")
    nothing = (await a.ask("eve", "conversations.search", query="no such name at all")).result
    guesses = ["Project", "Falcon", "Project Falcon", "F", "Heron", "Left", secret[0], "bob", "ann"]
    for _ in range(sized(60, 10_000)):
        guess = rng.choice(guesses)[: rng.randint(1, 40)]
        for user in ("eve", "gus"):
            assert (await a.ask(user, "conversations.search", query=guess)).result == nothing
            assert (await a.call(user, "conversations.search", member=rng.choice(("ann", "bob")))) == {
                "conversations": []
            }
