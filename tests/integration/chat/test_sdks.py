"""Conversations with the official SDKs, unchanged, on two edges (C32).

centrifuge-js in Node.js and centrifuge-python. What an SDK was told is folded, in Python and in JavaScript, and is the
state of the log.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.persistence.chat.domain.fold import fold
from services.persistence.chat.domain.state import view
from tests.support.chat_client import Backend, entry_of
from tests.support.chat_stack import ChatStack
from tests.support.full import sized
from tests.support.javascript_fold import JavaScriptFold
from tests.support.participants import Participant, commands
from tests.support.tcp_proxy import TcpProxy

RACES = sized(30, 1_000)
CASES = [("js", "python", "json"), ("python", "js", "json"), ("js", "python", "protobuf")]


async def states(backend: Backend, channel: str, participant: Participant, since: int, upto: int) -> list[Any]:
    """States of the log up to an offset, and of a participant, by both folds.

    The participant began behind `since`.
    """
    log = [entry_of(one) for one in (await backend.log(channel))[:upto]]
    its = log[:since] + [entry for entry in participant.entries if entry.offset <= upto]
    with JavaScriptFold() as javascript:
        return [view(fold(log)), view(fold(its)), javascript.fold(log).view, javascript.fold(its).view]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second", "encoding"), CASES)
async def test_a_group_chat_with_edits_deletes_and_a_removal_across_two_edges(
    first: str,
    second: str,
    encoding: str,
    javascript: list[str],
    chat_stack: ChatStack,
    backend: Backend,
    exits: AsyncExitStack,
) -> None:
    stack, programs = chat_stack.stack, commands(javascript)
    channel = await backend.group("ann", "bob")
    since = (await backend.log(channel))[-1]["offset"]
    ann, bob = [
        await exits.enter_async_context(
            Participant(programs[sdk], stack.ws_urls[edge], stack.token(user), channel, encoding=encoding)
        )
        for sdk, edge, user in ((first, 0, "ann"), (second, 1, "bob"))
    ]
    for one in (ann, bob):
        await one.wait("subscribed")
    assert await ann.publish({"kind": "message", "text": "See you at 8", "cid": "1"}) == 0
    assert await bob.publish({"kind": "message", "text": "Fine", "reply_to": since + 1}) == 0
    assert await ann.publish({"kind": "edit", "of": since + 1, "text": "See you at 9"}) == 0
    assert await bob.publish({"kind": "edit", "of": since + 1, "text": "not his"}) == 103
    assert await bob.publish({"kind": "reaction", "of": since + 1, "name": "👍", "op": "add"}) == 0
    assert await ann.publish({"kind": "message", "text": "secret"}) == 0
    await bob.until_offset(since + 5)
    assert (await ann.do("messages.delete", channel=channel, of=since + 5))["applied"]
    assert await ann.publish({"kind": "edit", "of": since + 5, "text": "too late"}) == 410
    assert await bob.publish({"kind": "member", "op": "remove", "user": "ann"}) == 103
    listed = await bob.do("messages.list", channel=channel)
    assert [one.get("text") for one in listed["messages"]] == ["See you at 9", "Fine", None]
    removed = await ann.do("members.remove", channel=channel, user="bob")
    assert await ann.publish({"kind": "message", "text": "without bob"}) == 0
    ended = await bob.wait("unsubscribed")
    assert ended["code"] == 2100
    assert ended["reason"]
    await ann.until_offset(removed["offset"] + 1)
    assert bob.publications[-1]["offset"] == removed["offset"], "his removal is the last thing that he hears"
    for one, upto in ((ann, removed["offset"] + 1), (bob, removed["offset"])):
        offsets = [publication["offset"] for publication in one.publications]
        assert offsets == list(range(since + 1, upto + 1))
        found = await states(backend, channel, one, since, upto)
        assert found[0] == found[1]
        assert found[2] == found[3]
    assert "bob" not in found[0]["members"]


@pytest.mark.slow
@pytest.mark.parametrize("sdk", ["js", "python"])
async def test_c32_who_is_cut_off_again_and_again_ends_with_the_state_of_who_was_there_all_the_time(
    sdk: str, javascript: list[str], chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, stack, program = random.Random(seed), chat_stack.stack, commands(javascript)[sdk]
    channel = await backend.group("ann", "bob", "cut")
    since = (await backend.log(channel))[-1]["offset"]
    host, _, port = stack.http_urls[1].removeprefix("http://").rpartition(":")
    proxy = await exits.enter_async_context(TcpProxy(host, int(port)))
    through = f"ws://127.0.0.1:{proxy.port}/connection/websocket"
    live, cut = [
        await exits.enter_async_context(Participant(program, url, stack.token(user), channel))
        for url, user in ((stack.ws_urls[0], "bob"), (through, "cut"))
    ]
    for one in (live, cut):
        await one.wait("subscribed")
    messages: list[int] = []
    top = since
    for number in range(RACES):

        async def change(number: int, user: str) -> int:
            await asyncio.sleep(rng.uniform(0, 0.01))
            target = rng.choice(messages[-6:]) if messages and rng.random() < 0.6 else 0
            kind = rng.choice(("edit", "delete", "react")) if target else "send"
            calls: dict[str, tuple[str, dict[str, Any]]] = {
                "send": ("messages.send", {"text": f"{number} {user}"}),
                "edit": ("messages.edit", {"of": target, "text": f"{number} edited"}),
                "delete": ("messages.delete", {"of": target}),
                "react": ("reactions.add", {"of": target, "name": rng.choice("xyz")}),
            }
            method, params = calls[kind]
            answer = await backend.raw(method, user, channel=channel, **params)
            offset = int(answer.get("result", {}).get("offset", 0))
            if offset and kind == "send":
                messages.append(offset)
            return offset

        changes = [change(number, rng.choice(("ann", "bob"))) for _ in range(4)]
        gathered = asyncio.gather(*changes)
        await asyncio.sleep(rng.uniform(0, 0.01))
        proxy.cut() if rng.random() < 0.5 else proxy.reset()
        top = max(top, *(await gathered))
        proxy.heal()
        for one in (live, cut):
            if top > since:
                await one.until_offset(top)
    recoveries = cut.events("subscribed")[1:]
    print(f"{len(recoveries)} recoveries, {top - since} events")
    assert len(recoveries) >= RACES / 4
    lost = [event for event in recoveries if not (event["was_recovering"] and event["recovered"])]
    assert lost == []
    for one in (live, cut):
        assert [publication["offset"] for publication in one.publications] == list(range(since + 1, top + 1))
        found = await states(backend, channel, one, since, top)
        assert found[0] == found[1]
        assert found[2] == found[3]
