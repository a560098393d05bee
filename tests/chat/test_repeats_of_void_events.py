"""Whoever repeats a void event is told that it is void, however many followed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.persistence.chat import live as live_module
from services.persistence.chat.append import Appended, Result
from services.persistence.chat.domain import events
from services.persistence.chat.domain.rules import Why
from tests.support.chat import GROUP, ChatSite, Replica, new_event
from tests.support.full import sized

MANY = sized(70, 400)
BURST = sized(300, 2_000)
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def few_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_VOID_KEPT", 64)


def fate(result: Result) -> tuple[int, bool, Why | None]:
    assert isinstance(result, Appended), result
    return result.offset, result.repeated_key, result.void


async def void(one: Replica, two: Replica, author: str, first: Json, second: Json, key: str) -> tuple[int, Why | None]:
    """Have `two` number an event before it has heard of another one."""
    event = events.parse(json.dumps(second).encode())
    assert not isinstance(event, events.Erased)
    await two.conversations.prepare(await two.conversations.current(GROUP), event)
    offset = await one.did("ann", first)
    found = await two.append(author, second, key=key)
    assert isinstance(found, Appended)
    assert found.void is not None
    assert found.offset == offset + 1
    return found.offset, found.void


@pytest.mark.parametrize("erases", [False, True], ids=["", "what they are about is erased"])
async def test_a_void_event_is_void_also_when_many_void_ones_followed(chat: ChatSite, erases: bool) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    told: dict[str, tuple[str, Json, tuple[int, Why | None]]] = {}
    messages = [await one.say("bob", f"{number}") for number in range(6)]
    pin = {"kind": "pin", "of": messages[0], "op": "add"}
    reaction = {"kind": "reaction", "of": messages[1], "name": "x", "op": "add"}
    edit = {"kind": "edit", "of": messages[2], "text": "new", "if_rev": messages[2]}
    delete = {"kind": "delete", "of": messages[3]}
    late_edit = {"kind": "edit", "of": messages[4], "text": "new"}
    reply = {"kind": "message", "text": "re", "thread": messages[5]}
    for name, author, first, second in (
        ("pin", "ann", pin, pin),
        ("reaction", "ann", reaction, reaction),
        ("edit", "ann", {**edit, "text": "other"}, edit),
        ("delete", "bob", delete, delete),
        ("late edit", "ann", {"kind": "delete", "of": messages[4]}, late_edit),
        ("reply", "bob", {"kind": "delete", "of": messages[5]}, reply),
    ):
        told[name] = (author, second, await void(one, two, author, first, second, name))
    assert {why for *_, (_, why) in told.values()} == {Why.UNCHANGED, Why.OTHER_REV, Why.DELETED}
    later = await one.say("bob", "later")
    applies = {"kind": "reaction", "of": later, "name": "y", "op": "add"}
    applied = await one.append("bob", applies, key="applied")
    for number in range(MANY):
        mark = {"kind": "reaction", "of": later, "name": "x", "op": "add" if number % 2 == 0 else "remove"}
        await void(one, two, "ann", mark, mark, f"later {number}")
    if erases:
        for of in messages[:3]:
            await one.did("ann", {"kind": "delete", "of": of})
    await one.conversations.write(await one.conversations.current(GROUP))
    third = chat.replica()
    live = await third.conversations.current(GROUP)
    assert not live.void.keys() & {offset for *_, (offset, _) in told.values()}, "too few void events"
    for replica in (one, two, third):
        for name, (author, event, (offset, why)) in told.items():
            assert fate(await replica.append(author, event, key=name)) == (offset, True, why), name
            if event["kind"] == "reaction":  # a key is what counts, whatever comes with it
                message = {"kind": "message", "text": "x"}
                assert fate(await replica.append(author, message, key=name)) == (offset, True, why)
        again = await replica.append("bob", applies, key="applied")
        assert fate(again) == (fate(applied)[0], True, None)


async def test_of_many_void_events_at_once_each_is_told(chat: ChatSite) -> None:
    one, two = chat.replica(), chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann")
    await two.conversations.current(GROUP)
    reaction = {"kind": "reaction", "of": message, "name": "x", "op": "add"}
    results = await asyncio.gather(*(two.appender.append(new_event("bob", reaction)) for _ in range(BURST)))
    told = [fate(result) for result in results]
    naive = await chat.naive()
    applied = {fact.offset for fact in naive.facts}
    assert len(told) == BURST
    assert [void for offset, _, void in told] == [
        None if offset in applied else Why.UNCHANGED for offset, _, void in told
    ]


async def test_void_events_that_are_not_written_yet_are_told(chat: ChatSite) -> None:
    one = chat.replica()
    await one.create("ann", "bob")
    message = await one.say("ann")
    await one.projection.flush()
    reaction = {"kind": "reaction", "of": message, "name": "x", "op": "add"}
    made = [new_event("bob", reaction, key=f"{number}") for number in range(70)]
    first = [fate(result) for result in await asyncio.gather(*map(one.appender.append, made))]
    live = one.conversations.cached(GROUP)
    assert live is not None
    assert len(live.unwritten.void) > len(live.void), "they are written, or few"
    again = [fate(result) for result in await asyncio.gather(*map(one.appender.append, made))]
    assert again == [(offset, True, void) for offset, _, void in first]
    assert [void for *_, void in first].count(None) == 1
