"""Data of publications is what the namespace says, whoever brings it.

Clients, the server API, code of the edge.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import assume, example, given, seed, settings
from hypothesis import strategies as st

from services.edge.api import requests as r
from services.edge.api.methods import batch, broadcast, history, publish, subscribe
from services.edge.domain.access.api_keys import ApiKey
from services.edge.domain.control.operations import Operation, execute
from services.edge.domain.session.node import Node
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.json_text import InvalidJson, JsonText
from services.shared.namespaces import DataFormat, Durability, Mode, Namespace
from tests.edge.api.test_batch import context
from tests.edge.protocols.corpus import BROKEN, SOUND
from tests.support.edge import OPEN, PROTOBUF, SIGNED_IN, Client, Cluster, connected, replace_namespace, settle

JSON = replace_namespace(OPEN, publish=SIGNED_IN, history=SIGNED_IN, max_data_bytes=1 << 20)
OBJECT = replace_namespace(JSON, data_format=DataFormat.OBJECT)
BINARY = replace_namespace(JSON, data_format=DataFormat.BINARY)
SPLICE = b'1},"offset":999,"x":{"y":2'
ANY_BYTES = bytes(range(256))


async def begun(node: Node, namespace: Namespace, data: bytes | None) -> Any:
    """What the domain makes of data that nobody has checked."""
    return await node.publisher.publish("a", namespace, data, time_ms=1)


@pytest.mark.parametrize("namespace", [JSON, OBJECT], ids=["json", "object"])
@pytest.mark.parametrize("data", [SPLICE, b'{"a":' + SPLICE + b"}}", *BROKEN.values()], ids=repr)
async def test_the_domain_itself_refuses_what_is_no_json_text(namespace: Namespace, data: bytes) -> None:
    cluster = Cluster(default=namespace)
    node = cluster.edge()
    with pytest.raises(InvalidJson) as refusal:
        await begun(node, namespace, data)
    assert refusal.value.code is ErrorCode.BAD_REQUEST
    assert "a" not in cluster.bus.logs or cluster.bus.log("a").top == 0


@pytest.mark.parametrize("data", SOUND.values(), ids=SOUND)
async def test_the_domain_takes_sound_texts_as_they_are(data: bytes) -> None:
    cluster = Cluster(default=JSON)
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    await begun(client.session.node, JSON, b" " + data + b"\n")
    await settle()
    assert b'"data":' + data.replace(b"\n", b"") in client.connection.frames[-1]


async def test_an_object_is_an_object() -> None:
    cluster = Cluster(default=OBJECT)
    node = cluster.edge()
    for data in (b"[]", b"null", b'"{}"', b" 1 "):
        with pytest.raises(ThalamusError) as refusal:
            await begun(node, OBJECT, data)
        assert refusal.value.code is ErrorCode.BAD_REQUEST
    assert (await begun(node, OBJECT, b' {"a":1} ')).position.offset == 1


async def test_what_was_checked_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(text: bytes) -> bytes:
        raise AssertionError(f"parsed again: {text!r}")

    monkeypatch.setattr("services.edge.domain.channels.data_format.checked_json", parsed)
    cluster = Cluster(default=OBJECT)
    client = await connected(cluster, cluster.edge())
    assert (await client.call(publish={"channel": "a", "data": {"n": 1}}))["offset"] == 1
    with pytest.raises(AssertionError):
        await begun(client.session.node, OBJECT, b"{}")


def test_a_copy_or_a_part_of_a_checked_text_is_not_checked() -> None:
    text = JsonText(b'[1,"x"]')
    others: list[bytes] = [text[1:], text + b"", text.strip(), bytes(text), text.replace(b"1", b"2"), text * 1]
    assert all(type(other) is bytes for other in others)


# Bytes.


async def test_a_binary_namespace_takes_any_bytes_and_gives_them_back_over_http() -> None:
    cluster = Cluster(raw=BINARY)
    api = context(cluster.edge())
    given_in = [ANY_BYTES, SPLICE, b"\x00", b'{"a":1}']
    for data in given_in:
        assert await publish(api, r.Publish(channel="raw:a", b64data=base64.b64encode(data).decode()))
    page = await history(api, r.History(channel="raw:a", limit=10))
    assert [base64.b64decode(one["b64data"]) for one in page["publications"]] == given_in
    assert not any("data" in one for one in page["publications"])
    assert json.loads(msgspec.json.encode(page))
    with pytest.raises(ThalamusError) as refusal:
        await publish(api, r.Publish(channel="raw:a"))
    assert refusal.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("durability", [Durability.HOT, Durability.STORED])
async def test_a_json_client_is_refused_where_data_is_bytes(durability: Durability) -> None:
    cluster = Cluster(raw=replace_namespace(BINARY, durability=durability))
    node = cluster.edge()
    client = await connected(cluster, node)
    assert await client.error(publish={"channel": "raw:a", "data": {}}) == 108
    assert await client.error(subscribe={"channel": "raw:a"}) == 108
    assert await client.error(history={"channel": "raw:a", "limit": 1}) == 108
    token = cluster.token("alice", channel="raw:a")
    assert await client.error(subscribe={"channel": "raw:a", "token": token}) == 108
    late = Client(cluster, node)
    assert await late.error(connect={"token": cluster.token("alice", channels=["raw:a"])}) == 108
    assert not client.session.subscriptions
    assert client.closed is None
    assert "raw:a" not in node.hub.channels


class Everywhere:
    """Edges that answer as those of a cluster do."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes

    async def everywhere(self, operation: Operation) -> list[dict[str, Any]]:
        return [json.loads(json.dumps(await execute(node, operation))) for node in self.nodes]


@pytest.mark.parametrize("carry_bytes", [(), (0,), (1,), (0, 1), (2,), (0, 1, 2)], ids=str)
async def test_the_server_api_tells_how_many_clients_it_could_not_subscribe_where_data_is_bytes(
    carry_bytes: tuple[int, ...],
) -> None:
    """Two clients of the user on one edge, one on another, and none on a third."""
    cluster = Cluster(raw=BINARY)
    nodes = [cluster.edge() for _ in range(3)]
    clients = [
        Client(cluster, node, encoding=PROTOBUF if number in carry_bytes else "json")
        for number, node in enumerate((nodes[0], nodes[0], nodes[1]))
    ]
    for client in clients:
        await client.call(connect={"token": cluster.token("alice")})
    api = replace(context(nodes[2]), cluster=cast(Any, Everywhere(*nodes)))
    for _ in range(2):  # the second one finds the subscriptions
        if carry_bytes:
            refused = len(clients) - len(carry_bytes)
            done = await subscribe(api, r.Subscribe(user="alice", channel="raw:a"))
            assert done == ({"refused_clients": refused} if refused else {})
        else:
            with pytest.raises(ThalamusError) as refusal:
                await subscribe(api, r.Subscribe(user="alice", channel="raw:a"))
            assert refusal.value.code is ErrorCode.NOT_AVAILABLE
        for number, client in enumerate(clients):
            assert bool(client.session.subscriptions) == (number in carry_bytes)
    assert await subscribe(api, r.Subscribe(user="nobody", channel="raw:a")) == {}


async def test_a_client_whose_protocol_carries_bytes_may_do_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CentrifugalJson, "carries_bytes", True)
    cluster = Cluster(raw=BINARY)
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "raw:a"})
    await client.call(publish={"channel": "raw:a", "data": {}})
    assert (await client.call(history={"channel": "raw:a", "limit": 1}))["offset"] == 1


# As on the wire before.


async def test_over_websocket_the_codes_are_those_of_the_protocol() -> None:
    cluster = Cluster(default=JSON, object=OBJECT)
    client = await connected(cluster, cluster.edge())
    values: list[Any] = [[], None, 1, "{}"]
    for data in values:
        assert await client.error(publish={"channel": "object:a", "data": data}) == 107
    assert await client.error(publish={"channel": "a"}) == 107
    await client.raw('{"id":9,"publish":{"channel":"a","data":1}}')
    await client.raw('{"id":10,"publish":{"channel":"object:a","data": {"b" : 1.0} }}')
    assert [set(line) for line in client.lines if line.get("id", 0) >= 9] == [{"id", "publish"}] * 2
    await client.raw(b'{"id":11,"publish":{"channel":"a","data":' + SPLICE + b"}}")
    assert client.closed is None  # a command with other members: its data is 1
    await client.raw(b'{"id":12,"publish":{"channel":"a","data":[1}]}}')
    assert client.closed == (3501, "bad request")


async def test_over_http_the_codes_are_those_of_the_server_api() -> None:
    cluster = Cluster(default=JSON, object=OBJECT)
    api = context(cluster.edge())

    async def alone(channel: str, data: bytes) -> Any:
        try:
            return await publish(api, r.Publish(channel=channel, b64data=base64.b64encode(data).decode()))
        except ThalamusError as error:
            return int(error.code), str(error)

    async def broadcasted(channel: str, data: bytes) -> Any:
        body = r.Broadcast(channels=[channel], b64data=base64.b64encode(data).decode())
        (reply,) = (await broadcast(api, body))["responses"]
        return (reply["error"]["code"], reply["error"]["message"]) if "error" in reply else reply["result"]

    async def batched(channel: str, data: bytes) -> Any:
        body = {"channel": channel, "b64data": base64.b64encode(data).decode()}
        commands = [{"publish": msgspec.Raw(json.dumps(body).encode())}]
        (reply,) = (await batch(api, r.Batch(commands=commands), ApiKey("admin")))["replies"]
        return (reply["error"]["code"], reply["error"]["message"]) if "error" in reply else reply["publish"]

    for call in (alone, broadcasted, batched):
        for channel, data in (("a", SPLICE), ("a", b"\xff"), ("a", b"1e999"), ("object:a", b"{}}")):
            code, message = await call(channel, data)
            assert code == 107
            assert "b64data: " in message
        assert (await call("object:a", b"[]"))[0] == 107
        assert (await call("a", b'"' + b"x" * (1 << 20) + b'"'))[0] == 106
        assert (await call("object:a", b" {} "))["offset"]
    with pytest.raises(ThalamusError) as refusal:
        await publish(api, r.Publish(channel="a", data=msgspec.Raw(b"1e999")))
    assert (refusal.value.code, str(refusal.value)) == (107, "a number beyond doubles")


# What is accepted reaches subscribers as the same data, and as nothing else.

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
_PIECES = rb'} { ] [ , : " \ NaN // 0 1e400 \ud800 "},"push":{" 1,"data":2'.split(b" ")
PIECES = st.sampled_from([*_PIECES, SPLICE[1:], *b"\r \n \r\n \x00 \xff \xed\xa0\x80 \xe2\x80\xa8".split(b" ")])


@st.composite
def nearly_json(draw: st.DrawFn) -> bytes:
    """A JSON text with pieces put in and cut out."""
    text = json.dumps(draw(VALUES), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for piece in draw(st.lists(st.one_of(PIECES, st.binary(max_size=3)), max_size=3)):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + piece + text[at + draw(st.integers(0, 2)) :]
    return text


def members(pairs: list[tuple[str, Any]]) -> Any:
    """An object; one with a member twice keeps that visible."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else ("twice", pairs)


def received(client: Client) -> list[Any]:
    """The publications of all frames, which must be whole and have nothing besides."""
    found = []
    for frame in client.connection.frames:
        for line in frame.split(b"\n"):
            message = json.loads(line, object_pairs_hook=members)
            if "push" in message:
                assert set(message) == {"push"}
                assert set(message["push"]) == {"channel", "pub"}
                pub = message["push"]["pub"]
                assert {"data", "offset", "time"} <= set(pub) <= {"data", "offset", "time", "epoch", "info"}
                found.append((pub["offset"], pub["data"]))
    return found


@seed(20_261_129)
@settings(max_examples=600, deadline=None)
@given(st.one_of(st.binary(max_size=12), nearly_json()), st.sampled_from([JSON, OBJECT]))
@example(SPLICE, JSON)
@example(b'{"a":1},"offset":999,"x":{"y":2}', OBJECT)
def test_what_is_accepted_is_the_same_for_subscribers_and_nothing_else(data: bytes, namespace: Namespace) -> None:
    async def run() -> None:
        cluster = Cluster(default=namespace)
        client = await connected(cluster, cluster.edge())
        await client.call(subscribe={"channel": "a"})
        refused: ThalamusError | None = None
        try:
            await begun(client.session.node, namespace, data)
        except ThalamusError as error:
            refused = error
        await begun(client.session.node, namespace, b"{}")
        await settle()
        if refused is not None:
            assert refused.code is ErrorCode.BAD_REQUEST
            assert received(client) == [(1, {})]
        else:
            assert received(client) == [(1, json.loads(data, object_pairs_hook=members)), (2, {})]

    asyncio.run(run())


@seed(20_261_129)
@settings(max_examples=600, deadline=None)
@given(st.one_of(st.binary(max_size=12), nearly_json()))
@example(SPLICE)
@example(b"1\n")
def test_what_a_json_client_publishes_is_the_same_for_subscribers_and_nothing_else(data: bytes) -> None:
    assume(b"\n" not in data)  # it ends a line
    line = b'{"id":7,"publish":{"channel":"a","data":' + data + b"}}"

    async def run() -> None:
        cluster = Cluster(default=replace_namespace(JSON, join_leave=Mode.OFF))
        client = await connected(cluster, cluster.edge())
        reader = await connected(cluster, client.session.node, "bob")
        await reader.call(subscribe={"channel": "a"})
        await client.raw(line)
        if client.closed is not None:
            assert client.closed[0] == 3501
            assert received(reader) == []
            return
        request = json.loads(line)["publish"]
        (reply,) = [one for one in client.lines if "publish" in one]
        assert received(reader) == [(reply["publish"]["offset"], request["data"])]

    asyncio.run(run())
