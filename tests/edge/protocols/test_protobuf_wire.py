"""Protobuf on the wire of an edge.

What is malformed in it, and what is odd but allowed. Wire protocol, 2 and 18.

The rest of the wire is tested in both encodings by tests/edge/wire.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.edge.domain.session.rpc import RpcContext
from services.shared.namespaces import DataFormat
from tests.support import protobuf_by_hand as by_hand
from tests.support.edge import JSON, OPEN, PROTOBUF, Client, Cluster, connected, replace_namespace
from tests.support.protobuf_by_hand import BYTES, FIXED32, FIXED64, VARINT, delimited, tagged, write

RPC = write("Command", {"id": 2, "rpc": {"method": "x"}})
GROUP_START, GROUP_END = 3, 4


def subscribe(*fields: bytes) -> bytes:
    """Command 2 with a subscribe of these fields, without its length."""
    return tagged(1, VARINT, b"\x02") + tagged(5, BYTES, b"".join(fields))


def tags_filter(depth: int) -> bytes:
    """The field of a tags filter with so many levels."""
    node = write("FilterNode", {"key": "a", "cmp": "ex"})
    for _ in range(depth - 1):
        node = write("FilterNode", {"op": "not"}) + tagged(6, BYTES, node)
    return tagged(13, BYTES, node)


MALFORMED = {
    "empty frame": b"",
    "a length without end": b"\xff" * 11,
    "half a length": b"\x80",
    "ends inside a command": delimited(RPC)[:-1],
    "a length of 4 GiB": b"\xff\xff\xff\xff\x0f" + RPC,
    "a byte behind the command": delimited(RPC) + b"\x05",
    "JSON": b'{"id":2,"rpc":{}}',
    "field number 0": delimited(b"\x00\x00" + RPC),
    "wire type 6": delimited(RPC + b"\x0e"),
    "wire type 7": delimited(RPC + b"\x0f"),
    "a group that does not end": delimited(RPC + tagged(99, GROUP_START, b"")),
    "an end of no group": delimited(RPC + tagged(99, GROUP_END, b"")),
    "a varint of eleven bytes": delimited(b"\x08" + b"\xff" * 10 + b"\x01" + RPC),
    "a field that is longer than the command": delimited(tagged(1, VARINT, b"\x02") + b"\x6a\x7f"),
    "a request of text": delimited(subscribe(b"not a message")),
    "text that is not UTF-8": delimited(subscribe(tagged(1, BYTES, b"\xff"))),
    "text with a surrogate": delimited(subscribe(tagged(1, BYTES, b"\xed\xa0\x80"))),
    "a tags filter nested 200 deep": delimited(subscribe(tagged(1, BYTES, b"a"), tags_filter(200))),
    "an id and no request": delimited(tagged(1, VARINT, b"\x02")),
    "an unknown request": delimited(tagged(1, VARINT, b"\x02") + tagged(20, BYTES, b"")),
    "a request of a wrong wire type": delimited(tagged(1, VARINT, b"\x02") + tagged(13, VARINT, b"\x01")),
    "a channel of a wrong wire type": delimited(subscribe(tagged(1, VARINT, b"\x05"))),
}


@pytest.mark.parametrize("good_before", [False, True])
@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
async def test_18_malformed_protobuf_closes_3501_and_harms_nobody_else(frame: bytes, good_before: bool) -> None:
    if good_before and not frame:
        return
    cluster = Cluster()
    node = cluster.edge()
    others = [Client(cluster, node, client_id=f"other-{encoding}", encoding=encoding) for encoding in (JSON, PROTOBUF)]
    for other in others:
        await other.call(connect={"token": cluster.token("bob")})
        await other.call(subscribe={"channel": "a"})
    client = Client(cluster, node, encoding=PROTOBUF)
    await client.call(connect={"token": cluster.token("alice")})
    seen = len(client.lines)
    await client.raw((delimited(write("Command", {"id": 9, "rpc": {}})) if good_before else b"") + frame)
    assert client.closed == (3501, "bad request")
    before = {9, 2} if frame.startswith(delimited(RPC)) else {9}
    assert {line.get("id") for line in client.lines[seen:]} <= before  # what came before may have been executed
    await others[0].call(publish={"channel": "a", "data": 1})
    for other in others:
        assert other.closed is None
        assert [pub["data"] for pub in other.publications("a")] == [1]


ODD = {
    "an unknown varint": RPC + tagged(500, VARINT, b"\x7f"),
    "an unknown fixed64": RPC + tagged(500, FIXED64, bytes(8)),
    "an unknown text": RPC + tagged(500, BYTES, b"\xff\xfe"),
    "an unknown fixed32": RPC + tagged(500, FIXED32, bytes(4)),
    "an unknown group": RPC + tagged(500, GROUP_START, b"") + tagged(1, VARINT, b"\x01") + tagged(500, GROUP_END, b""),
    "the largest field number": RPC + tagged(2**29 - 1, VARINT, b"\x01"),
    "a number that is reserved": RPC + tagged(2, BYTES, b"x") + tagged(3, VARINT, b"\x01"),
    "unknown first": tagged(16, BYTES, b"x") + RPC,
    "the request before the id": tagged(13, BYTES, b"") + tagged(1, VARINT, b"\x02"),
    "an id twice, the last counts": tagged(1, VARINT, b"\x07") + RPC,
    "an id in more bytes than it needs": tagged(1, VARINT, b"\x82\x80\x00") + tagged(13, BYTES, b""),
    "a request in two parts": RPC + tagged(13, BYTES, write("RpcRequest", {"data": b"1"})),
    "a later request too": RPC + tagged(15, BYTES, write("SubRefreshRequest", {"channel": "a"})),
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
async def test_3_what_is_odd_but_allowed_is_served(body: bytes) -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(), encoding=PROTOBUF)
    await client.call(connect={"token": cluster.token("alice")})
    await client.raw(delimited(body))
    assert client.closed is None
    assert client.lines[-1] == {"id": 2, "error": {"code": 104, "message": "method not found"}}


async def test_1_protobuf_commands_are_taken_from_text_frames_too() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(), encoding=PROTOBUF)
    await client.call(connect={"token": cluster.token("alice")})
    client.protocol.message(delimited(RPC), binary=False)
    await client.raw()
    assert client.lines[-1] == {"id": 2, "error": {"code": 104, "message": "method not found"}}


async def test_2_a_successful_unsubscribe_is_five_bytes() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(), encoding=PROTOBUF)
    await client.call(connect={"token": cluster.token("alice")})
    await client.raw(delimited(write("Command", {"id": 7, "unsubscribe": {"channel": "a"}})))
    assert client.connection.frames[-1] == bytes.fromhex("0408073a00")


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff\xfe", b"}{", b"null", bytes(range(256)) * 100])
async def test_10_binary_data_reaches_subscribers_unchanged(data: bytes) -> None:
    cluster = Cluster(raw=replace_namespace(OPEN, data_format=DataFormat.BINARY))
    node = cluster.edge()
    client = Client(cluster, node, encoding=PROTOBUF)
    await client.call(connect={"token": cluster.token("alice")})
    await client.call(subscribe={"channel": "raw:a"})
    seen = len(client.connection.frames)
    await client.raw(delimited(write("Command", {"id": 9, "publish": {"channel": "raw:a", "data": data}})))
    got: list[dict[str, Any]] = [
        by_hand.read("Reply", part) for frame in client.connection.frames[seen:] for part in by_hand.parts(frame)
    ]
    if not data:
        assert [one["error"]["code"] for one in got] == [107]  # empty data is no data
        return
    (push,) = [one["push"] for one in got if "push" in one]
    assert push["pub"]["data"] == data


async def test_2_a_payload_of_null_is_left_out_in_json_and_is_its_text_in_protobuf() -> None:
    cluster = Cluster()
    node = cluster.edge()

    async def nothing(context: RpcContext, data: bytes) -> bytes:
        return b"null"

    cluster.rpc.register("nothing", nothing)
    found = {}
    for encoding in (JSON, PROTOBUF):
        client = Client(cluster, node, client_id=encoding, encoding=encoding)
        await client.call(connect={"token": cluster.token("alice")})
        found[encoding] = await client.call(rpc={"method": "nothing"})
    assert found == {JSON: {}, PROTOBUF: {"data": None}}


async def test_the_bystanders_of_both_encodings_see_what_json_sees() -> None:
    cluster = Cluster()
    node = cluster.edge()
    clients = [
        await connected(cluster, node, user="alice"),
        Client(cluster, node, client_id="proto", encoding=PROTOBUF),
    ]
    await clients[1].call(connect={"token": cluster.token("bob", info={"a": [1.0, 1e2]})})
    for client in clients:
        await client.call(subscribe={"channel": "a", "join_leave": True})
    for client in clients:
        await client.raw('{"id":50,"publish":{"channel":"a","data":{"big":12345678901234567890123,"a":1.0}}}')
    await clients[1].call(unsubscribe={"channel": "a"})
    json_pushes, proto_pushes = ([text for text in client.texts if b"push" in text] for client in clients)
    assert list(map(json.loads, json_pushes[1:-1])) == list(map(json.loads, proto_pushes))
    assert all(b'"data":{"big":12345678901234567890123,"a":1.0}' in text for text in proto_pushes[1:])
