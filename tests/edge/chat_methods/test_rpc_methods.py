"""Methods on conversations by rpc, over real gRPC to a scripted persistence."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest

from services.edge.adapters import chat_calls
from services.edge.domain.control.operations import Revoke, execute
from services.edge.domain.profiles.reader import ProfileReader
from services.edge.domain.session.node import Node
from services.shared.chat_methods import METHODS
from services.shared.namespaces import CommandToken, UnknownUsers
from tests.support.chat_methods import CONV, GROUP, PERSONAL, ChatServer, ScriptedChat, rpc, rpc_text, sample
from tests.support.edge import OPEN, Client, Cluster, connected
from tests.support.profiles import MemoryProfiles, user_of
from tests.support.waiting import until
from thalamus.chat.v1 import chat_pb2 as pb

WRITES = [name for name, method in METHODS.items() if method.writes]


class Scene(NamedTuple):
    cluster: Cluster
    node: Node
    script: ScriptedChat
    alice: Client


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    cluster = Cluster(default=OPEN, conv=CONV, user=PERSONAL, chat=OPEN)
    node = cluster.edge()
    async with ChatServer() as server:
        server.methods(node)
        yield Scene(
            cluster, node, server.script, await connected(cluster, node, claims={"info": {"n": 1}, "sid": "s1"})
        )


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_is_passed_on_and_its_result_comes_back_byte_for_byte(scene: Scene, method: str) -> None:
    result = b'{"a":1.0e5, "text":"\\u00e9"}'
    scene.script.answer = pb.CallResponse(result=result)
    params = b" " + msgspec.json.encode(sample(method))
    assert b'"data":' + result + b"}" in await rpc_text(scene.alice, method, params)
    asked = scene.script.take()
    assert (asked.method, asked.params.strip(), asked.key, asked.key_user) == (method, params.strip(), "", "u:alice")
    assert (asked.info.user, asked.info.client) == ("alice", scene.alice.session.client)
    assert asked.info.conn_info == b'{"n": 1}' or asked.info.conn_info == b'{"n":1}'
    assert asked.session == ("s1" if method == "devices.set" else "")
    if method in ("conversations.list", "inbox.list", "me.preferences") or method.startswith("devices."):
        assert (asked.namespace, asked.HasField("options")) == ("", False)
    else:
        assert asked.namespace == "conv"
        assert (asked.options.history_size, asked.options.group_max_members) == (1000, 1000)
        assert (asked.options.max_data_bytes, asked.options.history_ttl_s) == (32_768, 86_400)


@pytest.mark.parametrize("method", METHODS)
async def test_who_has_not_signed_in_is_refused_before_anything_is_asked(scene: Scene, method: str) -> None:
    node = scene.cluster.edge(allow_anonymous=True)
    nobody = Client(scene.cluster, node)
    await nobody.call(connect={})
    assert (await rpc(nobody, method, sample(method)))["error"]["code"] == 103
    assert scene.script.asked == []


@pytest.mark.parametrize(
    ("code", "text", "message", "temporary"),
    [
        (100, "the store does not answer", "internal server error", True),
        (103, "the log of g.1 says no", "permission denied", False),
        ((103, "not_allowed"), "the log of g.1 says no", "permission denied", False),
        ((103, "silenced"), "you are silenced", "permission denied: you are silenced", False),
        (106, "", "limit exceeded", False),
        (106, "the group is full", "limit exceeded: the group is full", False),
        (107, "there is no member `colour`", "bad request: there is no member `colour`", False),
        (111, "", "too many requests", True),
        (404, "", "not found", False),
        (409, "it has rev 19", "conflict: it has rev 19", False),
        (410, "", "gone", False),
        (999, "of a later version", "internal server error", True),
    ],
)
async def test_a_refusal_has_its_code_its_text_and_when_to_come_again(
    scene: Scene,
    code: int | tuple[int, str],
    text: str,
    message: str,
    temporary: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    code, why = code if isinstance(code, tuple) else (code, "")
    scene.script.refuse(code, why=why, text=text, retry_after_ms=1_500 if code == 111 else 0)
    expected: dict[str, Any] = {"code": code if code != 999 else 100, "message": message}
    if temporary:
        expected["temporary"] = True
    if code == 111:
        expected["retry_after_ms"] = 1_500
    assert (await rpc(scene.alice, "messages.send", sample("messages.send")))["error"] == expected
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_persistence_of_an_earlier_version_is_not_available() -> None:
    cluster = Cluster(conv=CONV)
    async with ChatServer(knows_chat=False) as server:
        server.methods(cluster.edge())
        alice = await connected(cluster, cluster.nodes[0])
        assert (await rpc(alice, "conversations.list"))["error"]["code"] == 100


async def test_an_answer_that_does_not_come_is_not_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat_calls.DEADLINE_S == 2.5
    monkeypatch.setattr(chat_calls, "DEADLINE_S", 0.2)
    scene.script.go.clear()
    assert (await rpc(scene.alice, "conversations.list"))["error"]["code"] == 100


@pytest.mark.parametrize("method", METHODS)
async def test_only_what_writes_has_a_key(scene: Scene, method: str) -> None:
    await rpc(scene.alice, method, {**sample(method), "key": "k1"})
    assert scene.script.take().key == ("k1" if method in WRITES else "")
    if method in WRITES:
        for key, code in (("x" * 129, 107), ("é" * 65, 107), ("é" * 64, None)):
            reply = await rpc(scene.alice, method, {**sample(method), "key": key})
            assert reply.get("error", {}).get("code") == code, (key, reply)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        (b'{"channel":"room"}', 108),
        (b'{"channel":"chat:lobby"}', 108),
        (b'{"channel":"nowhere:x"}', 102),
        (b'{"channel":"conv:a b"}', 107),
        (b'{"channel":"conv:%s"}' % (b"x" * 300), 107),
        (b'{"channel":1}', 107),
        (b"[]", 107),
        (b'{"channel":"conv:g.x","channel":"chat:lobby"}', 108),  # the last one counts, there and here
    ],
)
@pytest.mark.parametrize("method", ["messages.list", "members.add", "conversations.delete"])
async def test_what_can_lie_in_no_conversation_is_not_asked(
    scene: Scene, method: str, params: bytes, code: int
) -> None:
    assert (await rpc(scene.alice, method, params))["error"]["code"] == code
    assert scene.script.asked == []


async def test_without_a_channel_the_namespace_is_named_or_the_usual_one() -> None:
    async with ChatServer() as server:
        for names, named, expected in (
            (["conv"], "", "conv"),
            (["team"], "", "team"),
            (["team", "conv"], "", "conv"),
            (["team", "conv"], "team", "team"),
            (["team", "room"], "", 107),
            (["team"], "conv", 108),
        ):
            cluster = Cluster(**dict.fromkeys(names, CONV))
            server.methods(cluster.edge())
            alice = await connected(cluster, cluster.nodes[0])
            reply = await rpc(alice, "messages.send", {"to": "u2", "text": "Hi", "namespace": named})
            found = reply["error"]["code"] if "error" in reply else server.script.take().namespace
            assert found == expected, (names, named)


async def test_a_server_without_conversations_has_no_such_methods() -> None:
    cluster = Cluster(default=OPEN, chat=OPEN)
    async with ChatServer() as server:
        server.methods(cluster.edge())
        alice = await connected(cluster, cluster.nodes[0])
        assert (await rpc(alice, "conversations.list"))["error"]["code"] == 104


async def test_a_namespace_that_wants_command_tokens_gets_them() -> None:
    cluster = Cluster(conv=replace(CONV, command_token=CommandToken.REQUIRED), team=CONV)
    async with ChatServer() as server:
        server.methods(cluster.edge())
        alice = await connected(cluster, cluster.nodes[0])
        token, of_bob = cluster.token("alice"), cluster.token("bob")
        for method in METHODS:
            assert (await rpc(alice, method, sample(method)))["error"]["code"] == 103, method
            assert (await rpc(alice, method, sample(method), token=of_bob))["error"]["code"] == 103, method
        assert server.script.asked == []
        assert "error" not in await rpc(alice, "members.list", sample("members.list"), token=token)
        assert "error" not in await rpc(alice, "members.list", {"channel": "team:g.x"})


async def test_who_is_concerned_is_told_on_the_personal_channel(scene: Scene) -> None:
    told = [("u2", "#u2"), ("u 2,é", "#u%202%2C%C3%A9"), ("urn:x:bob", "#urn:x:bob"), ("x" * 255, "")]
    listeners = {}
    for user, name in told:
        if name:
            listeners[user] = await connected(scene.cluster, scene.cluster.edge(), user)
            await listeners[user].call(subscribe={"channel": f"user:{name}"})
    notice = b'{"kind":"added","channel":"%s"}' % GROUP.encode()
    scene.script.answer = pb.CallResponse(
        result=b'{"offset":4}', notices=[pb.Notice(user=user, data=notice) for user, _ in reversed(told)]
    )
    assert (await rpc(scene.alice, "members.add", sample("members.add"))) == {"data": {"offset": 4}}
    for user, name in told:
        if name:
            heard = functools.partial(listeners[user].publications, f"user:{name}")
            await until(heard)
            (publication,) = heard()
            assert publication["data"] == {"kind": "added", "channel": GROUP}
            assert publication["offset"] == 1
            assert "info" not in publication


async def test_what_is_ephemeral_is_kept_in_no_personal_channel(scene: Scene) -> None:
    bob = await connected(scene.cluster, scene.cluster.edge(), "bob")
    await bob.call(subscribe={"channel": "user:#bob"})
    closed, gone = [b'{"kind":"%s"}' % kind for kind in (b"closed", b"deleted")]
    notices = [pb.Notice(user="bob", data=closed, ephemeral=True), pb.Notice(user="bob", data=gone)]
    scene.script.answer = pb.CallResponse(result=b"{}", notices=notices)
    assert (await rpc(scene.alice, "members.add", sample("members.add"))) == {"data": {}}
    await until(lambda: len(bob.publications("user:#bob")) == len(notices))
    found = bob.publications("user:#bob")
    assert [(one["data"]["kind"], one.get("offset")) for one in found] == [("closed", None), ("deleted", 1)]


async def test_who_follows_a_conversation_is_told_in_the_name_of_who_called(scene: Scene) -> None:
    bob = await connected(scene.cluster, scene.cluster.edge(), "bob")
    await bob.call(subscribe={"channel": "chat:room"})
    events = [pb.Ephemeral(channel=channel, data=b'{"kind":"x"}') for channel in ("nowhere:a", "chat:room", "a b")]
    scene.script.answer = pb.CallResponse(result=b"{}", ephemerals=events)
    assert (await rpc(scene.alice, "members.add", sample("members.add"))) == {"data": {}}
    await until(lambda: bob.publications("chat:room"))
    client = {"user": "alice", "client": scene.alice.session.client, "conn_info": {"n": 1}}
    assert bob.publications("chat:room") == [{"data": {"kind": "x"}, "info": client}]
    scene.cluster.bus.down = True
    assert (await rpc(scene.alice, "members.add", sample("members.add"))) == {"data": {}}


async def test_a_device_set_while_its_sign_in_ends_is_forgotten_again(scene: Scene) -> None:
    scene.script.go.clear()
    await scene.alice.post(rpc={"method": "devices.set", "data": sample("devices.set")})
    await until(lambda: scene.script.asked)
    assert scene.script.take().session == "s1"
    await execute(scene.node, Revoke(user="alice", session="s1", kind="session", id="s1", at=0.0, until=2e9))
    assert scene.alice.closed is not None
    scene.script.go.set()
    await until(lambda: scene.script.asked)
    assert msgspec.json.decode(scene.script.take().params) == {"user": "alice", "sessions": ["s1"]}


async def test_without_a_namespace_for_it_nobody_is_told() -> None:
    cluster = Cluster(conv=CONV)
    async with ChatServer() as server:
        server.methods(cluster.edge())
        server.script.answer = pb.CallResponse(result=b"{}", notices=[pb.Notice(user="u2", data=b"{}")])
        alice = await connected(cluster, cluster.nodes[0])
        assert (await rpc(alice, "members.add", sample("members.add"))) == {"data": {}}


async def test_a_direct_conversation_is_begun_only_with_somebody_who_is_known() -> None:
    cluster = Cluster(conv=replace(CONV, unknown_users=UnknownUsers.REFUSE))
    node = cluster.edge()
    profiles = MemoryProfiles(user_of("u2"))
    node.profiles = ProfileReader(profiles, node.clock.monotonic, lambda user: False)
    async with ChatServer() as server:
        server.methods(node)
        alice = await connected(cluster, node)
        for method, params, code in (
            ("messages.send", {"to": "u2", "text": "Hi"}, None),
            ("messages.send", {"to": "u3", "text": "Hi"}, 103),
            ("messages.send", {"to": "alice", "text": "Hi"}, None),
            ("messages.send", {"channel": GROUP, "text": "Hi"}, None),
            ("conversations.create", {"type": "direct", "users": ["u2"]}, None),
            ("conversations.create", {"type": "direct", "users": ["u3"]}, 103),
            ("conversations.create", {"type": "direct", "users": ["u3", "alice"]}, 103),
            ("conversations.create", {"type": "group", "users": ["u3"]}, None),
            ("messages.between", {"with": "u3"}, None),
        ):
            reply = await rpc(alice, method, params)
            assert reply.get("error", {}).get("code") == code, (method, params)
        profiles.away = True
        cluster.clock.now += 301  # what is known does not hold any longer
        assert (await rpc(alice, "messages.send", {"to": "u2", "text": "Hi"}))["error"]["code"] == 100


@pytest.mark.parametrize("method", ["messages.send", "conversations.create"])
async def test_a_refusal_does_not_tell_whether_there_is_such_a_user(method: str) -> None:
    """In its bytes, and in its time: nobody is told before the step."""
    cluster = Cluster(conv=replace(CONV, unknown_users=UnknownUsers.REFUSE))
    node = cluster.edge(refusal_step_s=0.2)
    node.profiles = ProfileReader(MemoryProfiles(user_of("u2")), node.clock.monotonic, lambda user: False)
    loop, told, steps = asyncio.get_running_loop(), set(), []
    async with ChatServer() as server:
        server.methods(node)
        server.script.refuse(103, why="not_allowed")
        for user in ("u2", "u3", "u4"):
            alice = await connected(cluster, node)
            params = {"to": user, "text": "Hi"} if method == "messages.send" else {"type": "direct", "users": [user]}
            began = loop.time()
            reply = await rpc_text(alice, method, msgspec.json.encode(params))
            told.add(re.sub(rb'"id":\d+', b"", reply))
            steps.append(loop.time() - began)
        assert len(server.script.asked) == 1  # only about who is known
    assert len(told) == 1
    assert min(steps) >= 0.19


async def test_who_may_not_know_of_a_conversation_is_told_at_a_step_of_time() -> None:
    cluster = Cluster(conv=CONV)
    node = cluster.edge(refusal_step_s=0.2)
    async with ChatServer() as server:
        server.methods(node)
        alice = await connected(cluster, node)
        loop = asyncio.get_running_loop()
        for code, waits in ((103, True), (404, False)):
            server.script.refuse(code)
            began = loop.time()
            assert (await rpc(alice, "messages.list", sample("messages.list")))["error"]["code"] == code
            assert (loop.time() - began >= 0.19) is waits
