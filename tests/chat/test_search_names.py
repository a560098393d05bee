"""Conversations are found by name by those who know them, and by nobody else."""

from __future__ import annotations

import random
from typing import Any

import pytest

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
