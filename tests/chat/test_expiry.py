"""Retention deletes messages that are too old, and nothing else.

On a real Redis and SQLite, with two replicas. Time is passed in.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
import time
from typing import Any

import pytest

from services.persistence.chat import append as chat_append
from services.persistence.chat import expiry
from services.persistence.chat.domain.state import PLATFORM
from services.persistence.chat.markers.record import Marker, Place
from services.persistence.domain.retention import Retention
from services.shared.errors import Unavailable
from services.shared.hotlog import keys
from services.shared.namespaces import DataFormat, Durability, Namespace, Namespaces
from services.shared.process.cancellation import end_task
from tests.support.chat import GROUP, ChatSite, Replica
from tests.support.chat_calls import Site as CallSite
from tests.support.full import FULL
from tests.support.retention import retention_of as retention_on

DAY = 86_400.0
DAYS = 30
STEPS, SEEDS = (600, range(6)) if FULL else (120, (1, 2))
USERS = ("ann", "bob", "eve")
KEEPS = Namespace(name="conv", durability=Durability.STORED, data_format=DataFormat.OBJECT, conversations=True)


def retention_of(chat: ChatSite, replica: Replica) -> Retention:
    namespace = dataclasses.replace(KEEPS, retention_days=DAYS)
    process, namespaces = replica.process, Namespaces(None, {"conv": namespace})
    clock = chat.site.store._clock  # noqa: SLF001
    return retention_on(process.log, process.hot, process.store, namespaces, clock, replica.chat.expiry)[0]


async def sweep(retention: Retention) -> int:
    swept = await retention.sweep()
    assert swept is not None
    assert not swept.failed
    return swept.removed


async def rows(chat: ChatSite) -> bytes:
    """All that the store has of the log."""
    found = await chat.site.store.read(GROUP, since_offset=0, upto=1 << 40, limit=100_000, reverse=False)
    return b"\n".join(publication for _, publication in found)


class Said:
    """What was said, and is to be there."""

    def __init__(self, chat: ChatSite) -> None:
        self.chat, self.number = chat, 0
        self.live: dict[int, tuple[str, str, float]] = {}  # offset → author, newest text, when it was said
        self.texts: dict[int, list[str]] = {}

    def text(self) -> str:
        self.number += 1
        return f"text-{self.number:05}."

    def older_than(self, days: float) -> set[int]:
        before = self.chat.site.store._clock() - days * DAY  # noqa: SLF001
        return {offset for offset, (_, _, at) in self.live.items() if at < before}


async def step(said: Said, replica: Replica, chance: random.Random) -> None:
    """Something that members do."""
    site = said.chat.site
    of = chance.choice([*said.live]) if said.live else 0
    match chance.choice(["say"] * 6 + ["edit", "react", "delete", "thread", "pin", "wait", "wait", "member"]):
        case "say":
            author, text = chance.choice((*USERS, PLATFORM)), said.text()
            offset = await replica.say(author, text)
            said.live[offset], said.texts[offset] = (author, text, site.store._clock()), [text]  # noqa: SLF001
        case "edit" if of and said.live[of][0]:
            text = said.text()
            await replica.did(said.live[of][0], {"kind": "edit", "of": of, "text": text})
            said.live[of] = (said.live[of][0], text, said.live[of][2])
            said.texts[of].append(text)
        case "react" if of:
            await replica.append(chance.choice(USERS), {"kind": "reaction", "of": of, "name": "+", "op": "add"})
        case "pin" if of:
            await replica.append("ann", {"kind": "pin", "of": of, "op": "add"})
        case "delete" if of:
            await replica.did("ann", {"kind": "delete", "of": of, "reason": "moderator"})
            del said.live[of]
        case "thread" if of:
            text = said.text()
            offset = await replica.did("bob", {"kind": "message", "text": text, "thread": of})
            said.live[offset], said.texts[offset] = ("bob", text, site.store._clock()), [text]  # noqa: SLF001
        case "wait":
            site.later_s += chance.choice([400, DAY / 3, 2 * DAY, 9 * DAY])
        case "member":
            await replica.append("ann", {"kind": "member", "op": chance.choice(["add", "remove"]), "user": "zoe"})
        case _:
            pass


async def agrees(said: Said, replica: Replica) -> None:
    """The conversation has just the messages that are to be there."""
    chat = said.chat
    found = await replica.view()
    naive = (await chat.naive()).view()
    assert found["members"].keys() == naive["members"].keys()
    assert found["messages"] == naive["messages"]
    live = {int(of): one["text"] for of, one in found["messages"].items() if "text" in one}
    assert live == {of: text for of, (_, text, _) in said.live.items()}
    check = await replica.chat.upkeep.check(GROUP)
    assert check.differences == []
    kept = await rows(chat)
    gone = [text for of, texts in said.texts.items() if of not in said.live for text in texts]
    assert [text for text in gone if text.encode() in kept] == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_too_old_goes_and_all_else_stays_as_it_was(chat: ChatSite, seed: int) -> None:
    print(f"seed {seed}")
    chance, said = random.Random(seed), Said(chat)
    replicas = [chat.replica(), chat.replica()]
    await replicas[0].create(*USERS)
    for _ in range(STEPS):
        replica = chance.choice(replicas)
        if chance.random() > 0.15:
            await step(said, replica, chance)
            continue
        if chance.random() < 0.3:
            await chat.site.client.delete(keys.expired(GROUP))  # as Redis may lose it
        gone = said.older_than(DAYS) if said.older_than(DAYS + 1) else set[int]()
        removed = await sweep(retention_of(chat, replica))
        if removed:
            gone = said.older_than(DAYS)
        assert removed == len(gone), "each once"
        said.live = {of: one for of, one in said.live.items() if of not in gone}
        await agrees(said, chance.choice(replicas))
    await agrees(said, chat.replica())


async def messages_of(replica: Replica, channel: str = GROUP) -> list[str]:
    """Texts of the messages that are there."""
    found = (await replica.view(channel))["messages"]
    return [one["text"] for one in found.values() if "text" in one]


async def test_nothing_goes_before_a_day_s_worth_is_too_old_and_one_event_is_enough_for_an_author(
    chat: ChatSite,
) -> None:
    one, other = chat.replica(), chat.replica()
    await one.create(*USERS)
    for number in range(10):
        await one.say(USERS[number % 2], f"old {number}")
    chat.site.later_s += (DAYS + 0.9) * DAY
    assert await sweep(retention_of(chat, one)) == 0
    await one.say("eve", "new")
    chat.site.later_s += 0.2 * DAY
    before = len(await chat.log())
    assert await sweep(retention_of(chat, other)) == 10
    added = [entry.data for entry in (await chat.log())[before:]]
    upto = b'"upto":%d' % (before - 1)
    assert added == [b'{"kind":"purge","user":"%s",%s}' % (user, upto) for user in (b"ann", b"bob")]
    for replica in (one, other, chat.replica()):
        assert await messages_of(replica) == ["new"]
    for _ in range(2):
        assert await sweep(retention_of(chat, other)) == 0
    assert len(await chat.log()) == before + 2


async def test_what_is_unread_after_retention_is_what_is_left(chat: ChatSite) -> None:
    one, other = chat.replica(), chat.replica()
    await one.create(*USERS)
    for number in range(8):
        await one.say("bob", f"{number}")
    place = {GROUP: Place(Marker(0, 0))}
    for replica in (one, other):
        assert (await replica.chat.counts.of("ann", place))[GROUP].unread == 8
    chat.site.later_s += (DAYS + 2) * DAY
    await one.say("eve", "new")
    await sweep(retention_of(chat, one))
    for replica in (one, other, chat.replica()):
        found = (await replica.chat.counts.of("ann", place))[GROUP]
        assert (found.unread, found.at_least, found.pending) == (1, False, False)


async def test_a_long_history_goes_in_one_sweep_and_is_not_read_again(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_MOST_ROWS", 16)
    one, other = chat.replica(), chat.replica()
    await one.create(*USERS)
    for number in range(100):
        await one.say(USERS[number % 3], f"{number}")
    chat.site.later_s += (DAYS + 2) * DAY
    assert await sweep(retention_of(chat, one)) == 100
    assert await messages_of(other) == []
    for number in range(40):
        await one.say(USERS[number % 3], f"{number}")
    chat.site.later_s += (DAYS + 2) * DAY
    assert await sweep(retention_of(chat, other)) == 40
    assert await other.chat.expiry.gone_upto(GROUP) > 100
    await chat.site.store.begin_new_epochs(await chat.site.store.heartbeat())
    assert await other.chat.expiry.gone_upto(GROUP) == 0, "a restored store may have them again"


@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["write", "erase", "read"])
async def test_a_sweep_that_fails_anywhere_is_made_up_for_by_the_next_one(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch, operation: str, when: str, call: int
) -> None:
    """Whichever call to the store fails, before or after it has done its work."""
    one, other = chat.replica(), chat.replica()
    await one.create(*USERS)
    for number in range(9):
        await one.say((*USERS, PLATFORM)[number % 4], f"text {number}")
    chat.site.later_s += (DAYS + 2) * DAY
    await one.say("ann", "new")
    real, calls = getattr(chat.site.store, operation), 0

    async def fails(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls, is_failing = calls + 1, calls == call
        if is_failing and when == "before":
            raise Unavailable("as if the store had gone")
        found = await real(*arguments, **named)
        if is_failing:
            raise Unavailable("as if the answer were lost")
        return found

    monkeypatch.setattr(chat.site.store, operation, fails)
    await retention_of(chat, one).sweep()
    monkeypatch.setattr(chat.site.store, operation, real)
    await other.process.log.sweep(0, 10)  # a delete may be stored, and not be readable
    await other.chat.eraser.sweep(0)
    for _ in range(2):
        await sweep(retention_of(chat, other))
        await other.chat.eraser.sweep(0)
    for replica in (one, other, chat.replica()):
        assert await messages_of(replica) == ["new"]
    assert b"text" not in (await rows(chat)).replace(b'"text":', b"").replace(b'"text"', b"")


async def test_a_sweep_that_is_cancelled_leaves_what_it_began_to_others(
    chat: ChatSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for its events any more, and all that they share is as it was."""
    one = chat.replica()
    await one.create(*USERS)
    for number in range(9):
        await one.say((*USERS, PLATFORM)[number % 4], f"text {number}")
    chat.site.later_s += (DAYS + 2) * DAY
    of_before = await one.say("ann", "new")
    real, begun, may_go_on = chat.site.store.write, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        begun.set()
        await may_go_on.wait()
        return await real(*arguments)

    monkeypatch.setattr(chat.site.store, "write", slow)
    failed: list[str] = []
    monkeypatch.setattr(chat_append.logger, "error", lambda text, **_: failed.append(text))
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["message"]))
    sweeping = asyncio.create_task(retention_of(chat, one).sweep())
    await begun.wait()
    await end_task(sweeping)
    may_go_on.set()
    edited = await one.did("ann", {"kind": "edit", "of": of_before, "text": "newer"})
    await one.appender.close()
    gc.collect()  # tells of tasks whose failure nobody saw
    assert failed == []
    assert edited > of_before
    assert await messages_of(one) == ["newer"]


async def test_in_dynamodb_it_is_the_same(dynamodb_calls: CallSite) -> None:
    one, other = dynamodb_calls.replicas[:2]
    made = await one.call("ann", "conversations.create", users=["bob"])
    channel = str(made["channel"])
    for number in range(6):
        await one.call(("ann", "bob")[number % 2], "messages.send", channel=channel, text=f"old {number}")
    await one.rows.retain(channel)
    namespaces = Namespaces(None, {"conv": dataclasses.replace(KEEPS, retention_days=DAYS)})

    def later() -> float:
        return time.time() + (DAYS + 2) * DAY

    for replica, removed in ((one, 6), (other, 0)):
        retention, _ = retention_on(replica.log, replica.hot, replica.rows, namespaces, later, replica.chat.expiry)
        assert await sweep(retention) == removed
    for replica in (one, other, dynamodb_calls.another()):
        page = await replica.call("ann", "messages.list", channel=channel)
        assert [one["text"] for one in page["messages"] if "text" in one] == []
        assert (await replica.conversations.current(channel)).state.members.keys() == {"ann", "bob"}
    stored = await one.rows.read(channel, since_offset=0, upto=1 << 40, limit=100, reverse=False)
    assert b"old" not in b"".join(publication for _, publication in stored)
