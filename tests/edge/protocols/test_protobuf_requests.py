"""Every field of the requests of the client protocol in Protobuf.

The edge hears it, or ignores it on purpose.

Also what it makes of fields of the future. The bytes are written by hand, by tests/support/protobuf_schema.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from services.edge.domain import commands as c
from services.edge.domain.model import StreamPosition
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf
from tests.edge.protocols.test_protobuf_fields import ABSENT, MAP, POLL, Place, everywhere
from tests.support.protobuf_by_hand import BYTES, FIXED32, FIXED64, VARINT, delimited, tagged, write
from tests.support.protobuf_schema import SCHEMA, Field, is_message

CODEC = CentrifugalProtobuf(bytes)

NOT_USED = {
    ("ConnectRequest", "data"): "kept with the command; no hook reads it",
    ("SubscribeRequest", "data"): "ignored: no hook reads it",
    ("PublishRequest", "key"): MAP,
    ("PublishRequest", "removed"): MAP,
    ("SubRefreshRequest", "type"): POLL,
}
"""Fields of client.proto that a client may send and that change nothing."""

_FILTER = {"op": "and", "key": "k", "cmp": "in", "val": "v", "vals": ["v"], "nodes": [{"key": "k", "cmp": "ex"}]}
_POSITION = {"offset": 2**64 - 1, "epoch": "e"}
TAKEN: dict[Place, tuple[Any, str, Any]] = {
    ("ConnectRequest", "token"): ("t", "token", "t"),
    ("ConnectRequest", "subs"): ({"a": {"offset": 5}}, "subs", {"a": c.Subscribe(offset=5)}),
    ("ConnectRequest", "name"): ("n", "name", "n"),
    ("ConnectRequest", "version"): ("v", "version", "v"),
    ("ConnectRequest", "headers"): ({"a": "b"}, "headers", {"a": "b"}),
    ("ConnectRequest", "data"): (b"1", "data", b"1"),
    ("SubscribeRequest", "channel"): ("a", "channel", "a"),
    ("SubscribeRequest", "token"): ("t", "token", "t"),
    ("SubscribeRequest", "recover"): (True, "recover", True),
    ("SubscribeRequest", "epoch"): ("e", "epoch", "e"),
    ("SubscribeRequest", "offset"): (2**64 - 1, "offset", 2**64 - 1),
    ("SubscribeRequest", "positioned"): (True, "positioned", True),
    ("SubscribeRequest", "recoverable"): (True, "recoverable", True),
    ("SubscribeRequest", "join_leave"): (True, "join_leave", True),
    ("SubscribeRequest", "delta"): ("fossil", "delta", "fossil"),
    ("SubscribeRequest", "tf"): (_FILTER, "has_tags_filter", True),
    ("SubscribeRequest", "flag"): (3, "rejects_gap", True),
    ("SubscribeRequest", "type"): (4, "kind", c.SubscriptionKind.SHARED_POLL),
    ("UnsubscribeRequest", "channel"): ("a", "channel", "a"),
    ("PublishRequest", "channel"): ("a", "channel", "a"),
    ("PublishRequest", "data"): (b"1", "data", b"1"),
    ("PublishRequest", "type"): (-1, "to_map", True),
    ("PublishRequest", "idempotency_key"): ("k", "idempotency_key", "k"),
    ("PublishRequest", "exclude_self"): (True, "exclude_self", True),
    ("PresenceRequest", "channel"): ("a", "channel", "a"),
    ("PresenceStatsRequest", "channel"): ("a", "channel", "a"),
    ("HistoryRequest", "channel"): ("a", "channel", "a"),
    ("HistoryRequest", "limit"): (-(2**31), "limit", -(2**31)),
    ("HistoryRequest", "since"): (_POSITION, "since", StreamPosition(2**64 - 1, "e")),
    ("HistoryRequest", "reverse"): (True, "reverse", True),
    ("SendRequest", "data"): (b"1", "data", b"1"),
    ("RpcRequest", "data"): (b"1", "data", b"1"),
    ("RpcRequest", "method"): ("m", "method", "m"),
    ("RefreshRequest", "token"): ("t", "token", "t"),
    ("SubRefreshRequest", "channel"): ("a", "channel", "a"),
    ("SubRefreshRequest", "token"): ("t", "token", "t"),
}
"""Per field of a request: a value, and which member of the domain's request has which value then."""

REQUESTS = {field.kind: field for field in SCHEMA["Command"].values() if field.name != "id"}
KINDS = {
    "connect": c.Connect,
    "subscribe": c.Subscribe,
    "unsubscribe": c.Unsubscribe,
    "publish": c.Publish,
    "presence": c.Presence,
    "presence_stats": c.PresenceStats,
    "history": c.History,
    "ping": c.Ping,
    "send": c.Send,
    "rpc": c.Rpc,
    "refresh": c.Refresh,
    "sub_refresh": c.SubRefresh,
}
SOME: dict[str, Any] = {"str": "x", "raw": b"1", "bool": True}


def decoded(body: bytes) -> c.Command:
    """The command that the edge reads."""
    (found,) = CODEC.decode(delimited(body), binary=True)
    assert isinstance(found, c.Command)
    return found


def value_for(field: Field) -> Any:
    """Some value that is not zero."""
    one = {} if is_message(field.kind) else SOME.get(field.kind, 1)
    return {"[": [one], "{": {"x": one}}.get(field.many, one)


@pytest.mark.parametrize("name", KINDS)
def test_a_request_is_the_one_of_its_number(name: str) -> None:
    command = decoded(write("Command", {"id": 2**32 - 1, name: {}}))
    assert (command.id, command.request) == (2**32 - 1, KINDS[name]())


@pytest.mark.parametrize("name", KINDS)
def test_the_token_beside_a_request_is_read(name: str) -> None:
    command = decoded(write("Command", {"id": 1, "token": "t", name: {}}))
    assert command.request == KINDS[name](command_token="t")


@pytest.mark.parametrize(("place", "row"), TAKEN.items(), ids=map(".".join, TAKEN))
def test_a_field_of_a_request_is_heard(place: Place, row: tuple[Any, str, Any]) -> None:
    message, name = place
    value, member, expected = row
    request = REQUESTS[message].name
    found = decoded(write("Command", {"id": 1, request: {name: value}})).request
    assert getattr(found, member) == expected
    assert getattr(KINDS[request](), member) != expected
    if isinstance(value, str | bytes):
        return
    nothing = decoded(write("Command", {"id": 1, request: {}})).request
    assert nothing == KINDS[request]()


@pytest.mark.parametrize(
    "place", [place for place in {**NOT_USED, **ABSENT} if place[0] in REQUESTS], ids=lambda place: ".".join(place)
)
def test_a_field_that_is_not_used_changes_nothing(place: Place) -> None:
    message, name = place
    if place in TAKEN:
        return
    (field,) = [one for one in SCHEMA[message].values() if one.name == name]
    request = REQUESTS[message].name
    found = decoded(write("Command", {"id": 1, request: {name: value_for(field)}})).request
    assert found == KINDS[request]()


def test_every_field_of_a_request_has_a_row() -> None:
    inner = {place for place in everywhere("Command") if place[0] not in {*REQUESTS, "Command"}}
    assert {message for message, _ in inner} == {"FilterNode", "StreamPosition"}
    fields = everywhere("Command") - inner - {("Command", name) for name in ("id", "token", *KINDS)}
    assert fields == TAKEN.keys() | NOT_USED.keys()


# Numbers of the future.

FUTURE = {
    "varint": tagged(200, VARINT, b"\xff\x01"),
    "fixed64": tagged(201, FIXED64, bytes(8)),
    "text": tagged(202, BYTES, b"future"),
    "fixed32": tagged(203, FIXED32, bytes(4)),
    "message": tagged(204, BYTES, write("Command", {"id": 7, "ping": {}})),
}


def with_future(message: str, values: dict[str, Any], future: bytes) -> bytes:
    """The message with fields of the future in it, and in every message within it."""
    out = future
    for field in SCHEMA[message].values():
        if field.name not in values:
            continue
        value = values[field.name]
        if not is_message(field.kind):
            out += write(message, {field.name: value})
        elif field.many == "{":
            for key, one in value.items():
                entry = tagged(1, BYTES, key.encode()) + tagged(2, BYTES, with_future(field.kind, one, future))
                out += tagged(field.number, BYTES, entry)
        else:
            for one in value if field.many else [value]:
                out += tagged(field.number, BYTES, with_future(field.kind, one, future))
    return out + future


@pytest.mark.parametrize("future", FUTURE.values(), ids=FUTURE)
@pytest.mark.parametrize("name", KINDS)
def test_fields_of_the_future_are_skipped_in_commands(name: str, future: bytes) -> None:
    message = next(kind for kind, field in REQUESTS.items() if field.name == name)
    values = {place[1]: row[0] for place, row in TAKEN.items() if place[0] == message}
    plain = {"id": 1, name: values}
    assert decoded(with_future("Command", plain, future)) == decoded(write("Command", plain))
