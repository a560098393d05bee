"""What is refused: bad events, and operations of those who may not (C07, C10).

Three edges, two replicas of persistence.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.alike import assert_alike
from tests.support.chat_client import Backend, ChatClient
from tests.support.chat_stack import ChatStack
from tests.support.full import sized
from tests.support.wire_client import JsonObject

USERS = ("stranger", "invited", "reader", "member", "silenced", "banned", "removed")
NO = 103
MESSAGE = {"kind": "message", "text": "Hi"}
TIMED = sized(60, 1_000)

# Code of each user's operation, by USERS; 0: it is done.
TABLE: dict[str, tuple[JsonObject, list[int]]] = {
    "subscribe": ({"subscribe": {}}, [NO, NO, 0, 0, 0, NO, NO]),
    "recover": ({"subscribe": {"recover": True, "offset": 1, "epoch": "…"}}, [NO, NO, 0, 0, 0, NO, NO]),
    "history": ({"history": {"limit": 5}}, [NO, NO, 0, 0, 0, NO, NO]),
    "presence": ({"presence": {}}, [NO, NO, 0, 0, 0, NO, NO]),
    "presence_stats": ({"presence_stats": {}}, [NO, NO, 0, 0, 0, NO, NO]),
    "message": ({"publish": {"data": MESSAGE}}, [NO, NO, NO, 0, NO, NO, NO]),
    "silent message": ({"publish": {"data": {**MESSAGE, "silent": True}}}, [NO, NO, NO, 0, NO, NO, NO]),
    "edit": ({"publish": {"data": {"kind": "edit", "of": 2, "text": "x"}}}, [NO] * 7),
    "delete": ({"publish": {"data": {"kind": "delete", "of": 2}}}, [NO] * 7),
    "reaction": (
        {"publish": {"data": {"kind": "reaction", "of": 2, "name": "x", "op": "add"}}},
        [NO, NO, 0, 0, 0, NO, NO],
    ),
    "pin": ({"publish": {"data": {"kind": "pin", "of": 2, "op": "add"}}}, [NO] * 7),
    "x.poll": ({"publish": {"data": {"kind": "x.poll", "a": 1}}}, [NO, NO, NO, 0, NO, NO, NO]),
    "member": ({"publish": {"data": {"kind": "member", "op": "add", "user": "u9"}}}, [NO] * 7),
    "conversation": ({"publish": {"data": {"kind": "conversation", "op": "close"}}}, [NO] * 7),
    "purge": ({"publish": {"data": {"kind": "purge", "user": "member", "upto": 9}}}, [NO] * 7),
    "erased": ({"publish": {"data": {"kind": "erased", "was": "message", "by": 1}}}, [NO] * 7),
}


async def furnished(backend: Backend) -> str:
    """A group in which each of USERS is what the name says.

    Offset 2 is a message of its owner.
    """
    channel = await backend.group("owner")
    await backend.do("messages.send", "owner", channel=channel, text="first")
    for user in ("reader", "member", "silenced", "banned", "removed"):
        await backend.do("members.add", "owner", channel=channel, user=user)
    await backend.do("members.role", "owner", channel=channel, user="reader", role="reader")
    until = int(time.time() * 1_000) + 3_600_000
    await backend.do("members.silence", "owner", channel=channel, user="silenced", until=until)
    await backend.do("members.ban", "owner", channel=channel, user="banned")
    await backend.do("members.remove", "owner", channel=channel, user="removed")
    await backend.do("members.invite", "owner", channel=channel, user="invited")
    return channel


def about(request: JsonObject, channel: str, epoch: str) -> JsonObject:
    """The command, with the channel and its epoch in it."""
    ((name, members),) = request.items()
    return {name: {"channel": channel, **members, **({"epoch": epoch} if "epoch" in members else {})}}


@pytest.mark.parametrize("edge", [0, 2])
async def test_c10_every_operation_of_everybody_has_the_code_of_the_table(
    edge: int, chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutants: readers may post; strangers may read."""
    channel = await furnished(backend)
    epoch = (await backend.raw("history", channel=channel, limit=1))["result"]["epoch"]
    wrong = []
    for at, user in enumerate(USERS):
        client = await chat_stack.join(exits, user, edge)
        for name, (request, codes) in TABLE.items():
            reply = await client.reply(await client.post(**about(request, channel, epoch)))
            code = reply.get("error", {}).get("code", 0)
            if code != codes[at]:
                wrong.append(f"{user} {name}: {reply}, not {codes[at]}")
            if "subscribe" in reply:
                await client.call(unsubscribe={"channel": channel})
    assert wrong == []


async def test_c10_refusals_do_not_tell_whether_there_is_such_a_conversation(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutant: strangers are told why it is refused."""
    channel = await furnished(backend)
    absent = channel[:-6] + "zzzzzz"
    client = await chat_stack.join(exits, "stranger", 1)
    methods: list[tuple[str, JsonObject]] = [
        *[(method, {}) for method in ("conversations.get", "members.list", "messages.list", "pins.list")],
        ("markers.get", {}),
        *[(f"conversations.{method}", {}) for method in ("join", "leave", "decline", "close", "reopen", "delete")],
        *[(f"members.{method}", {"user": "u9"}) for method in ("add", "remove", "ban", "unban", "invite", "silence")],
        ("members.role", {"user": "u9", "role": "admin"}),
        ("messages.send", {"text": "Hi"}),
        ("messages.edit", {"of": 2, "text": "Hi"}),
        ("messages.delete", {"of": 2}),
        ("messages.purge", {"user": "member"}),
        ("messages.get", {"offset": 2}),
        ("messages.versions", {"offset": 2}),
        ("reactions.add", {"of": 2, "name": "x"}),
        ("reactions.list", {"offset": 2}),
        ("pins.add", {"of": 2}),
        ("conversations.update", {"name": "mine"}),
    ]
    requests: list[Any] = [about(request, "", "…") for request, _ in TABLE.values()]
    requests += [{"rpc": {"method": method, "data": {"channel": "", **params}}} for method, params in methods]
    for request in requests:
        replies = []
        for name in (channel, absent):
            text = json.dumps({"id": 77, **request}).replace('"channel": ""', json.dumps("channel") + f': "{name}"')
            await client.send(text)
            await client.reply(77)
            replies.append(client.frames[-1])
        assert replies[0] == replies[1], request
        assert f'"code":{NO}' in str(replies[0]), (request, replies[0])


async def test_c10_refusals_take_as_long_whether_or_not_there_is_such_a_conversation(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    channel = await furnished(backend)
    client = await chat_stack.join(exits, "stranger", 0)
    requests: list[JsonObject] = [
        {"subscribe": {}},
        {"publish": {"data": MESSAGE}},
        {"rpc": {"method": "messages.list", "data": {}}},
    ]
    for request in requests:
        numbers = itertools.count()

        async def once(is_there: bool, request: JsonObject = request, numbers: Iterator[int] = numbers) -> float:
            absent = f"{channel[:-6]}{next(numbers) % 1_000_000:06d}".translate(str.maketrans("0189", "abcd"))
            name = channel if is_there else absent
            asked = about(request, name, "…")
            if "rpc" in request:
                asked = {"rpc": {"method": "messages.list", "data": {"channel": name}}}
            began = time.perf_counter()
            assert (await client.error(**asked))["code"] == NO
            return time.perf_counter() - began

        print(next(iter(request)))
        await assert_alike(once, True, False, samples=TIMED)


async def test_c07_what_is_no_event_of_a_client_is_refused_and_gets_no_number(
    chat_stack: ChatStack, backend: Backend, exits: AsyncExitStack
) -> None:
    """Mutant: events are read as leniently on their way in as in the log."""
    channel = await backend.group("owner", "member")
    top = (await backend.log(channel))[-1]["offset"]
    client = await chat_stack.join(exits, "owner", 0)
    deep = '{"kind":"message","text":"a","meta":{"a":' + "[" * 5_000 + "]" * 5_000 + "}}"
    many = json.dumps({"kind": "message", "text": "a", "mentions": ["u" * 200] * 100})
    large = json.dumps({"kind": "message", "text": "a", "mentions": ["u" * 200] * 200})
    undecodable = [deep, '{"kind":"message","text":"\\ud800"}', '{"kind":"message","text":"a}', '{"kind":"message",}']
    cases: list[tuple[str, set[int]]] = [
        ('{"kind":"erased","was":"message","by":1}', {103}),
        ('{"kind":"member","op":"add","user":"u9"}', {103}),
        ('{"kind":"conversation","op":"delete"}', {103}),
        ('{"kind":"purge","user":"member","upto":9}', {103}),
        ('{"kind":"message","text":"a","info":{"user":"member"}}', {107}),
        ('{"kind":"message","text":"a","author":"member"}', {107}),
        ('{"kind":"message","kind":"message","text":"a"}', {107}),
        ('{"kind":"message","kind":"erased","was":"message","by":1}', {107}),
        ('{"kind":"message","\\u006bind":"member","text":"a"}', {107}),
        ('{"kind":"message","text":"a","erased":true}', {107}),
        ('{"kind":"message"}', {107}),
        ('{"kind":"colour"}', {107}),
        ('{"kind":7}', {107}),
        ('{"text":"a"}', {107}),
        ("[]", {107}),
        ('"a"', {107}),
        (many, {106, 107}),
        (large, {106, 107}),
    ]
    for data, codes in cases:
        await client.send('{"id":9,"publish":{"channel":"' + channel + '","data":' + data + "}}")
        reply = await client.reply(9)
        assert reply.get("error", {}).get("code") in codes, (data[:100], reply)
    for data in undecodable:
        other = await chat_stack.join(exits, "owner", 1)
        await other.send('{"id":9,"publish":{"channel":"' + channel + '","data":' + data + "}}")
        assert (await other.expect_close())[0] == 3501
    await send_ten_megabytes(chat_stack, exits, channel)
    assert (await backend.log(channel))[-1]["offset"] == top
    spoofed = {"kind": "message", "text": "a"}
    await client.publish(channel, spoofed, info={"user": "member"})
    assert (await backend.log(channel))[-1]["info"]["user"] == "owner", "who publishes says who he is"


async def send_ten_megabytes(chat_stack: ChatStack, exits: AsyncExitStack, channel: str) -> None:
    """It ends with the connection at the latest, and is no event."""
    client: ChatClient = await chat_stack.join(exits, "owner", 2)
    data = {"kind": "message", "text": "a", "mentions": ["u" * 100] * 100_000}
    with contextlib.suppress(ConnectionClosed):  # it is closed while it sends
        await client.send({"id": 10, "publish": {"channel": channel, "data": data}})
    code, _ = await client.expect_close(20)
    assert code in (1009, 3503)
