"""Edits, deletes and erasing, at once and while others read.

Rows C03, C04, C30, C32 and C36. Three edges, two replicas of persistence.
In JavaScript the same log must lead to the same state, too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from services.persistence.chat.domain.fold import fold
from services.persistence.chat.domain.state import Conversation, Deleted, Message
from tests.support.chat_client import Backend, ChatClient, Refused, entry_of, some_key
from tests.support.chat_follower import Follower
from tests.support.chat_stack import EDGES, ChatStack
from tests.support.full import sized
from tests.support.javascript_fold import JavaScriptFold
from tests.support.wire_client import JsonObject

OWNER, AUTHOR = "owner", "author"
PAIRS = sized(40, 1_000)
AT_ONCE = 8
DELETES = sized(12, 200)
PROBES_PER_DELETE = sized(5, 50)
RACES = sized(20, 1_000)
PURGED = sized(12, 300)  # conversations
MESSAGES = sized(10, 17)  # in each of them

Outcome = tuple[int, bool, Any]


@pytest.fixture(scope="module")
def javascript() -> Iterator[JavaScriptFold]:
    with JavaScriptFold() as running:
        yield running


@pytest.fixture
async def backends(chat_stack: ChatStack, exits: AsyncExitStack) -> list[Backend]:
    return [await exits.enter_async_context(Backend(chat_stack.stack, edge)) for edge in range(EDGES)]


async def answer(backend: Backend, method: str, user: str, /, **params: Any) -> Outcome:
    """Offset (0: none), whether it applies, and why not: a word or a code."""
    try:
        result = await backend.do(method, user, key=some_key(), **params)
    except Refused as refused:
        return 0, False, refused.code
    return result.get("offset", 0), result["applied"], result.get("why")


def state_of(publications: list[JsonObject]) -> Conversation:
    return fold(entry_of(one) for one in publications)


async def test_c03_of_an_edit_and_a_delete_at_once_there_are_two_outcomes_and_the_same_everywhere(
    chat_stack: ChatStack, backends: list[Backend], exits: AsyncExitStack, javascript: JavaScriptFold
) -> None:
    """Mutant: an edit of a deleted message brings it back, in either fold."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, stack = random.Random(seed), chat_stack.stack
    channel = await backends[0].group(OWNER, AUTHOR)
    live = await exits.enter_async_context(Follower(stack.ws_urls[2], partial(stack.token, OWNER), channel))
    await asyncio.wait_for(live.is_live.wait(), 20)
    first = await backends[0].do("messages.send", OWNER, channel=channel, text="first")
    outcomes: dict[int, tuple[Outcome, Outcome]] = {}

    async def pair(number: int) -> None:
        one, other = rng.sample(backends, 2)
        sent = await one.do("messages.send", AUTHOR, channel=channel, text=f"before {number}")
        pause_s = rng.uniform(-0.004, 0.004)

        async def later(seconds: float, method: str, backend: Backend, **params: Any) -> Outcome:
            await asyncio.sleep(max(0.0, seconds))
            return await answer(backend, method, AUTHOR, channel=channel, of=sent["offset"], **params)

        outcomes[sent["offset"]] = await asyncio.gather(
            later(pause_s, "messages.edit", one, text=f"edited {number}"), later(-pause_s, "messages.delete", other)
        )

    for at in range(0, PAIRS, AT_ONCE):
        await asyncio.gather(*(pair(number) for number in range(at, min(at + AT_ONCE, PAIRS))))
    last = await backends[0].do("messages.send", OWNER, channel=channel, text="last")
    edits_won = 0
    for (edited, applies, why), (deleted, is_deleted, _) in outcomes.values():
        assert is_deleted
        if applies:
            assert 0 < edited < deleted
            edits_won += 1
        else:
            assert why in (410, "deleted")
            assert edited == 0 or edited > deleted
    print(f"{edits_won} of {PAIRS} edits were before their delete")
    await live.until_offset(last["offset"])
    epoch = (await backends[0].raw("history", channel=channel, limit=1))["result"]["epoch"]
    recovered = await exits.enter_async_context(
        Follower(stack.ws_urls[1], partial(stack.token, AUTHOR), channel, since=(first["offset"] - 1, epoch))
    )
    await recovered.until_offset(last["offset"])
    log = await backends[1].log(channel)
    began = log[: first["offset"] - 1]
    states = {
        "log": state_of(log),
        "live": state_of(began + live.heard.publications),
        "recovered": state_of(began + recovered.heard.publications),
    }
    in_javascript = javascript.fold([entry_of(one) for one in log]).view["messages"]
    listed = [await everything(backend, channel) for backend in backends]
    for offset, ((edited, applies, _), (deleted, _, _)) in outcomes.items():
        for name, state in states.items():
            message = state.messages[offset]
            assert isinstance(message, Deleted), (name, offset, message)
            assert message.by == deleted, (name, offset)
        assert in_javascript[str(offset)]["by"] == deleted
        for page in listed:
            assert page[offset].get("deleted"), page[offset]
            assert page[offset]["by"] == deleted
            assert "text" not in page[offset]
        assert not any(text in str(log) for text in (f"before {offset}",)), "content is left"
        assert applies == (0 < edited < deleted)
    left = [one for one in log if "before" in str(one["data"]) or "edited" in str(one["data"])]
    assert left == [], "content is left"


async def everything(backend: Backend, channel: str, user: str = "") -> dict[int, JsonObject]:
    """All messages, by offset."""
    found: dict[int, JsonObject] = {}
    page: JsonObject = {}
    while True:
        result = await backend.do("messages.list", user, channel=channel, limit=100, **page)
        found |= {one["offset"]: one for one in result["messages"]}
        if not result["more"]:
            return found
        page = {"before": result.get("before") or result["messages"][0]["offset"]}


async def test_c04_edits_that_may_not_be_change_nothing(
    backends: list[Backend], chat_stack: ChatStack, exits: AsyncExitStack
) -> None:
    """Mutant: whoever may edit own messages may edit any."""
    backend = backends[0]
    channel = await backend.group(OWNER, AUTHOR, "other")
    sent = await backend.do("messages.send", AUTHOR, channel=channel, text="mine")
    gone = await backend.do("messages.send", AUTHOR, channel=channel, text="gone")
    await backend.do("messages.delete", AUTHOR, channel=channel, of=gone["offset"])
    cases = [
        ("stranger", {"of": sent["offset"]}, 103),
        ("other", {"of": sent["offset"]}, 103),
        (AUTHOR, {"of": 1}, 404),
        (AUTHOR, {"of": 10_000}, 404),
        (AUTHOR, {"of": gone["offset"]}, 410),
        (AUTHOR, {"of": sent["offset"], "if_rev": gone["offset"]}, 409),
    ]
    top = (await backend.log(channel))[-1]["offset"]
    for user, params, code in cases:
        for one in backends:
            assert await one.refused("messages.edit", user, channel=channel, text="changed", **params) == code, params
        client = await chat_stack.join(exits, user, 1)
        data = {"kind": "edit", "text": "changed", **params}
        assert (await client.error(publish={"channel": channel, "data": data}))["code"] == code
    await backend.do("conversations.update", OWNER, channel=channel, settings={"edit_window_s": 0})
    assert await backend.refused("messages.edit", AUTHOR, channel=channel, of=sent["offset"], text="late") not in (
        0,
        100,
    )
    log = await backend.log(channel)
    assert log[-1]["offset"] == top + 1, "something was numbered"
    assert (await everything(backend, channel))[sent["offset"]]["text"] == "mine"


async def test_c04_a_moderator_who_was_removed_edits_nothing_any_more(backends: list[Backend]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(sized(15, 300)):
        channel = await backends[0].group(OWNER, AUTHOR, "mod")
        await backends[0].do("members.role", OWNER, channel=channel, user="mod", role="moderator")
        sent = await backends[0].do("messages.send", AUTHOR, channel=channel, text="mine")

        async def edit(at: int, backend: Backend, *, of: int, channel: str = channel) -> Outcome:
            await asyncio.sleep(at / 1_000)
            return await answer(backend, "messages.edit", "mod", channel=channel, of=of, text="changed")

        edits = [edit(at, rng.choice(backends), of=sent["offset"]) for at in range(4)]
        removal = backends[number % EDGES].do("members.remove", OWNER, channel=channel, user="mod")
        edited, removed = await asyncio.gather(asyncio.gather(*edits), removal)
        log = await backends[0].log(channel)
        his = [one["offset"] for one in log if one.get("info", {}).get("user") == "mod"]
        assert max(his, default=0) < removed["offset"]
        assert sorted(offset for offset, applies, _ in edited if applies) == his


async def test_c30_once_a_delete_is_acknowledged_nobody_gets_what_it_said(
    chat_stack: ChatStack, backends: list[Backend], exits: AsyncExitStack
) -> None:
    """Mutant: an edge keeps its ring."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    channel = await backends[0].group(OWNER, AUTHOR)
    probes: list[ChatClient] = []
    for edge in range(EDGES):  # some who follow, so that edges have rings
        watcher = await chat_stack.join(exits, OWNER, edge)
        await watcher.subscribe(channel)
        probes.append(await chat_stack.join(exits, AUTHOR, edge))
    epoch = (await backends[0].raw("history", channel=channel, limit=1))["result"]["epoch"]
    for _ in range(DELETES):
        secret = f"secret-{rng.getrandbits(64):x}"
        again = f"secret-{rng.getrandbits(64):x}"
        sent = await backends[0].do("messages.send", AUTHOR, channel=channel, text=secret)
        await backends[1].do("messages.edit", AUTHOR, channel=channel, of=sent["offset"], text=again)
        await backends[2].do("reactions.add", OWNER, channel=channel, of=sent["offset"], name="👍")
        for one in probes:  # edges have it, too
            await one.call(history={"channel": channel, "limit": 10, "reverse": True})
        deleted = await rng.choice(backends).do("messages.delete", AUTHOR, channel=channel, of=sent["offset"])
        assert deleted["applied"]

        async def probe(number: int, client: ChatClient, *, of: int, by: int, secrets: tuple[str, ...]) -> None:
            if number % 4 == 0:
                reply = await client.call(history={"channel": channel, "limit": 10, "reverse": True})
            elif number % 4 == 1:
                reply = await client.do("messages.list", channel=channel, limit=10)
            elif number % 4 == 2:
                since = {"offset": of - 1, "epoch": epoch}
                reply = await client.call(history={"channel": channel, "limit": 10, "since": since})
            else:
                fresh = await exits.enter_async_context(ChatClient(client.url, deadline_s=20))
                await fresh.connect(chat_stack.stack.token(AUTHOR))
                reply = await fresh.subscribe(channel, recover=True, offset=of - 1, epoch=epoch)
                assert reply["recovered"]
                if reply.get("offset", 0) < by and all(one["offset"] < by for one in reply["publications"]):
                    while (await fresh.publication(channel))["offset"] < by:  # this edge had not heard of it yet
                        pass
                    reply = {}
                await fresh.socket.close()
            assert not any(text in str(reply) for text in secrets), (number, by, reply)

        await asyncio.gather(
            *(
                probe(rng.randrange(4), one, of=sent["offset"], by=deleted["offset"], secrets=(secret, again))
                for _ in range(PROBES_PER_DELETE)
                for one in probes
            )
        )
    log = await backends[0].log(channel)
    assert [one["offset"] for one in log] == list(range(1, len(log) + 1)), "erasing leaves no hole"
    assert "secret" not in str(log)


@pytest.mark.slow
async def test_c32_who_recovers_across_a_delete_ends_with_the_same_state(
    chat_stack: ChatStack, backends: list[Backend], exits: AsyncExitStack, javascript: JavaScriptFold
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, stack = random.Random(seed), chat_stack.stack
    channel = await backends[0].group(OWNER, AUTHOR)
    epoch = (await backends[0].raw("history", channel=channel, limit=1))["result"]["epoch"]
    for number in range(RACES):
        sent = [
            (await backends[0].do("messages.send", AUTHOR, channel=channel, text=f"{number} {at}"))["offset"]
            for at in range(3)
        ]
        before = (await backends[0].log(channel))[: sent[0] - 1]

        async def delete(of: int, pause_s: float) -> JsonObject:
            await asyncio.sleep(pause_s)
            return await rng.choice(backends).do("messages.delete", AUTHOR, channel=channel, of=of)

        url = rng.choice(stack.ws_urls)
        follower = Follower(url, partial(stack.token, OWNER), channel, since=(sent[0] - 1, epoch))
        async with follower:
            deleted, last = await asyncio.gather(
                delete(sent[1], rng.uniform(0, 0.02)),
                backends[1].do("messages.send", AUTHOR, channel=channel, text="after"),
            )
            top = max(deleted["offset"], last["offset"])
            await follower.until_offset(top)
        heard = follower.heard
        assert heard.not_recovered == 0
        assert heard.offsets == list(range(sent[0], top + 1)), "a hole, or twice"
        log = await backends[2].log(channel)
        its, whole = before + heard.publications, log[:top]
        assert state_of(its).messages == state_of(whole).messages
        if number % 10 == 0:
            in_javascript = [javascript.fold(map(entry_of, one)).view for one in (its, whole)]
            assert in_javascript[0] == in_javascript[1]


@pytest.mark.slow
async def test_c36_all_of_a_user_s_messages_in_many_conversations_are_purged(backends: list[Backend]) -> None:
    secret, leaver = "secret-of-the-leaver", f"leaver-{some_key()[:8]}"
    channels = [await backends[0].group(OWNER, leaver) for _ in range(PURGED)]

    async def fill(channel: str) -> None:
        for number in range(MESSAGES):
            backend = backends[number % EDGES]
            sent = await backend.do("messages.send", leaver, channel=channel, text=f"{secret} {number}")
            await backend.do("messages.send", OWNER, channel=channel, text=str(number), reply_to=sent["offset"])

    for at in range(0, PURGED, 4):
        await asyncio.gather(*(fill(channel) for channel in channels[at : at + 4]))
    before = {channel: (await backends[0].do("conversations.get", OWNER, channel=channel))["n"] for channel in channels}
    purged = [await backends[0].do("messages.purge", "", channel=channel, user=leaver) for channel in channels]
    assert all(one["applied"] for one in purged)
    for channel, purge in zip(channels, purged, strict=True):
        log = await backends[1].log(channel)
        assert [one["offset"] for one in log] == list(range(1, len(log) + 1))
        assert secret not in str(log)
        assert sum(one["data"].get("kind") == "purge" for one in log) == 1
        about = [one["data"].get("kind") for one in log if leaver in str(one)]
        assert set(about) <= {"member", "purge"}, about
        state = state_of(log)
        gone = [message for message in state.messages.values() if isinstance(message, Deleted)]
        assert {message.by for message in gone} == {purge["offset"]}
        assert len(gone) == MESSAGES
        kept = [message for message in state.messages.values() if isinstance(message, Message)]
        assert len(kept) == MESSAGES
        assert all(isinstance(message.reply_to, int) for message in kept)
        got = await backends[2].do("conversations.get", OWNER, channel=channel)
        assert got["n"] == before[channel] == 2 * MESSAGES
        listed = await everything(backends[2], channel, OWNER)
        assert sum(bool(one.get("deleted")) for one in listed.values()) == MESSAGES
