"""Every field of the protocol in Protobuf: in the schema, and as it is sent.

What it takes is in test_protobuf_requests.py. The fields are those of tests/support/protobuf_schema.py, which is
written from the specification. What the edge does not support stands here with the reason.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from centrifuge.protocol import client_pb2 as official
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto
from hypothesis import given, settings

from services.edge.domain.control.operations import Refresh, Subscribe, Unsubscribe, execute
from services.edge.domain.model import Publication
from services.edge.domain.session.rpc import RpcContext
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf
from services.shared.namespaces import Delta, Mode
from tests.edge.protocols.replies import Sent, encoded
from tests.edge.protocols.test_json_sdk import REPLIES
from tests.support import protobuf_by_hand as by_hand
from tests.support.edge import OPEN, PROTOBUF, Client, Cluster, replace_namespace, settle
from tests.support.protobuf_schema import SCHEMA, Field, is_message
from thalamus.client.v1 import client_pb2 as ours

CODEC = CentrifugalProtobuf(bytes)
JSON_CODEC = CentrifugalJson(bytes)
Place = tuple[str, str]  # message and field

MAP = "of map subscriptions, which are not served"
POLL = "of shared-poll subscriptions, which are not served"
HTTP = "of transports over HTTP and one-way transports, which are not served"
DICTIONARY = "of compression by dictionaries, which is not served"

ABSENT = {
    ("Reply", "ping"): "the request closes the connection",
    ("Push", "id"): "of channel ids, which are not given",
    ("Push", "connect"): HTTP,
    ("ConnectRequest", "flag"): DICTIONARY,
    ("ConnectRequest", "dict"): DICTIONARY,
    ("ConnectRequest", "profile"): "ignored: no hook reads it",
    ("ConnectResult", "session"): HTTP,
    ("ConnectResult", "node"): HTTP,
    ("ConnectResult", "time"): "off by default; publications have a time",
    ("ConnectResult", "flag"): DICTIONARY,
    ("ConnectResult", "dict"): DICTIONARY,
    ("SubscribeRequest", "phase"): MAP,
    ("SubscribeRequest", "cursor"): MAP,
    ("SubscribeRequest", "limit"): MAP,
    ("SubscribeRequest", "asc"): MAP,
    ("SubscribeResult", "id"): "of channel ids, which are not given",
    ("SubscribeResult", "type"): MAP,
    ("SubscribeResult", "phase"): MAP,
    ("SubscribeResult", "cursor"): MAP,
    ("SubscribeResult", "state"): MAP,
    ("SubscribeResult", "publish_debounce"): MAP,
    ("SubRefreshRequest", "track"): POLL,
    ("SubRefreshRequest", "untrack"): POLL,
    ("SubRefreshResult", "items"): POLL,
    ("Publication", "channel"): "of wildcard subscriptions, which are not served",
    ("Publication", "key"): MAP,
    ("Publication", "removed"): MAP,
    ("Publication", "score"): MAP,
    ("Publication", "prev_data"): "never leaves a server",
    ("Publication", "version"): POLL,
}
"""Fields of the specification that client.proto does not have: their numbers are reserved."""

NOT_SENT = {
    ("ConnectResult", "data"): "of connect hooks, which are not served",
    ("Push", "message"): "nothing sends messages",
    ("Message", "data"): "nothing sends messages",
    ("Push", "disconnect"): "the close frame says it",
    ("Disconnect", "code"): "the close frame says it",
    ("Disconnect", "reason"): "the close frame says it",
    ("Disconnect", "reconnect"): "the close frame says it",
    ("RefreshResult", "client"): "other servers leave it out, too",
    ("RefreshResult", "version"): "other servers leave it out, too",
}
"""Fields of client.proto that the edge has no occasion to send."""

_ONLY_THEIRS = {"Dictionary", "Track", "TrackItem", "Connect", "PingResult"}  # messages of fields that are absent
_NOT_OVER_WEBSOCKET = {"EmulationRequest"}  # of the official schema
_UNDER_OTHER_NAMES = {"RpcRequest": "RPCRequest", "RpcResult": "RPCResult"}
FIELDS = [(message, field) for message, fields in SCHEMA.items() for field in fields.values()]


def everywhere(root: str) -> set[Place]:
    """Every field that is reached from a message through fields that client.proto has."""
    found: set[Place] = set()
    waiting = [root]
    while waiting:
        message = waiting.pop()
        for field in SCHEMA[message].values():
            if (message, field.name) not in found | ABSENT.keys():
                found.add((message, field.name))
                waiting += [field.kind] * is_message(field.kind)
    return found


# The schema.

_TYPES = {
    "u32": FieldDescriptor.TYPE_UINT32,
    "u64": FieldDescriptor.TYPE_UINT64,
    "i32": FieldDescriptor.TYPE_INT32,
    "i64": FieldDescriptor.TYPE_INT64,
    "s64": FieldDescriptor.TYPE_SINT64,
    "bool": FieldDescriptor.TYPE_BOOL,
    "str": FieldDescriptor.TYPE_STRING,
    "raw": FieldDescriptor.TYPE_BYTES,
}


def assert_is(found: Any, field: Field) -> None:
    """The field of a schema is what the specification says.

    Name, number, type, one or many.
    """
    is_map = found.message_type is not None and found.message_type.GetOptions().map_entry
    value = found.message_type.fields_by_name["value"] if is_map else found
    assert (found.name, found.number) == (field.name, field.number)
    assert found.is_repeated == bool(field.many)
    assert is_map == (field.many == "{")
    if is_map:
        assert found.message_type.fields_by_name["key"].type == FieldDescriptor.TYPE_STRING
    if is_message(field.kind):
        assert value.message_type.name == _UNDER_OTHER_NAMES.get(field.kind, field.kind) or (
            value.message_type.name == field.kind
        )
    else:
        assert value.type == _TYPES[field.kind]


@pytest.mark.parametrize(("message", "field"), [pytest.param(m, f, id=f"{m}.{f.name}") for m, f in FIELDS])
def test_a_field_of_the_specification_is_in_the_schema_or_its_number_is_reserved(message: str, field: Field) -> None:
    if message in _ONLY_THEIRS:
        assert message not in ours.DESCRIPTOR.message_types_by_name
        return
    descriptor = ours.DESCRIPTOR.message_types_by_name[message]
    if (message, field.name) in ABSENT:
        assert field.number not in descriptor.fields_by_number
        proto = DescriptorProto()
        descriptor.CopyToProto(proto)
        assert any(one.start <= field.number < one.end for one in proto.reserved_range)
    else:
        assert_is(descriptor.fields_by_number[field.number], field)


def test_the_schema_has_nothing_else() -> None:
    for message in ours.DESCRIPTOR.message_types_by_name.values():
        assert {field.number for field in message.fields} <= SCHEMA[message.name].keys()
    for message_name, field in FIELDS:
        assert field.ours == (field.number >= 100), (message_name, field)


@pytest.mark.parametrize("name", sorted({*official.DESCRIPTOR.message_types_by_name} - _NOT_OVER_WEBSOCKET))
def test_the_schema_of_the_official_sdk_agrees_with_the_specification(name: str) -> None:
    mine = {theirs: own for own, theirs in _UNDER_OTHER_NAMES.items()}.get(name, name)
    for found in official.DESCRIPTOR.message_types_by_name[name].fields:
        assert_is(found, SCHEMA[mine][found.number])


# What the edge sends.


async def conversation() -> list[by_hand.Message]:
    """Every reply and push that an edge sends in one conversation, read by hand."""
    cluster = Cluster(
        default=replace_namespace(
            OPEN, recovery=Mode.FORCE, join_leave=Mode.FORCE, time_in_tags=True, publish_rate=30.0, delta=Delta.FOSSIL
        )
    )
    node = cluster.edge()

    async def echo(context: RpcContext, data: bytes) -> bytes:
        return data

    cluster.rpc.register("echo", echo)
    alice, bob, carol, dave = clients = [
        Client(cluster, node, client_id=f"client{number}", encoding=PROTOBUF) for number in range(4)
    ]

    def token(user: str, **claims: Any) -> str:
        return cluster.token(user, **{"info": {"of": "connection"}, **claims})

    subs = {"a": {"data": {"of": "token"}, "info": {"of": "subscription"}}}
    await alice.call(connect={"token": token("alice", subs=subs)})
    await bob.call(connect={"token": token("bob")})
    expiring = cluster.token("bob", channel="$b", ttl_s=60, info={"of": "subscription"}, data={"of": "token"})
    await bob.call(subscribe={"channel": "$b", "token": expiring})
    await bob.call(sub_refresh={"channel": "$b", "token": expiring})
    epoch = (await bob.call(subscribe={"channel": "a"}))["epoch"]
    for client, channel in ((alice, "a"), (bob, "a"), (bob, "$b")):
        await client.call(publish={"channel": channel, "data": {"n": 1}})
    position = {"recover": True, "epoch": epoch, "offset": 1}
    await carol.call(connect={"token": token("alice", subs=subs), "subs": {"a": position}})
    await dave.call(connect={"token": token("dave")})
    await dave.call(subscribe={"channel": "a", **position})
    await dave.call(subscribe={"channel": "d", "delta": "fossil"})
    for _ in range(2):
        await dave.call(publish={"channel": "d", "data": "long enough for a patch " * 10})
    await bob.call(presence={"channel": "$b"})
    await bob.call(presence_stats={"channel": "$b"})
    await bob.call(history={"channel": "a", "limit": 10})
    await bob.call(rpc={"method": "echo", "data": {"n": 1}})
    await bob.call(refresh={"token": token("bob", ttl_s=1_000, info={"of": "another connection token"})})
    while "error" not in await bob.reply(publish={"channel": "a", "data": 1}):  # until its rate is reached
        pass
    await dave.call(unsubscribe={"channel": "a"})
    cluster.bus.append("c", Publication(b"1"), "", "", 10)
    await execute(node, Subscribe(user="bob", channel="c", data=b'{"of":"api"}'))
    await execute(node, Unsubscribe(user="bob", channel="c"))
    await execute(node, Refresh(user="bob", expire_at=cluster.clock.unix + 100))
    await settle()
    frames = [frame for client in clients for frame in client.connection.frames]
    return [by_hand.read("Reply", part) for frame in frames for part in by_hand.parts(frame)]


async def test_the_edge_sends_every_field_that_it_supports_and_no_other() -> None:
    sent = {place for reply in await conversation() for place in by_hand.fields_of("Reply", reply)}
    assert sent == everywhere("Reply") - NOT_SENT.keys()


@settings(max_examples=400, deadline=None)
@given(REPLIES)
def test_any_reply_read_by_hand_is_the_one_in_json(reply: Sent) -> None:
    (part,) = by_hand.parts(encoded(CODEC, reply))
    found = by_hand.read("Reply", part)
    assert without_null(json.loads(by_hand.as_json("Reply", found))) == without_null(
        json.loads(encoded(JSON_CODEC, reply))
    )


def without_null(value: Any) -> Any:
    """The value without payloads of null, and without a channel that has no name.

    JSON leaves out null.
    """
    if isinstance(value, dict):
        return {
            key: without_null(one) for key, one in value.items() if one is not None and (key, one) != ("channel", "")
        }
    return [without_null(one) for one in value] if isinstance(value, list) else value
