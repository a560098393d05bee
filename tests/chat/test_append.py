"""Appending events of a conversation, on one replica and on two."""

from __future__ import annotations

from tests.support.chat import ChatSite, code


async def test_a_group_is_created_and_talks(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    first = await one.say("ann", "Hi")
    assert await one.did("bob", {"kind": "reaction", "of": first, "name": "x", "op": "add"}) == first + 1
    assert code(await one.append("eve", {"kind": "message", "text": "Hi"})) == 103
    assert (await one.view()) == (await chat.naive()).view()
    two = chat.replica()
    assert (await two.view()) == (await one.view())
    assert await two.say("bob") == first + 2
