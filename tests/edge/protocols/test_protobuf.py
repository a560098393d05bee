"""The Protobuf codec beside the official schema, both ways, and any bytes."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import msgspec
import pytest
from centrifuge.protocol import client_pb2 as official
from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[attr-defined]
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.domain import commands as c
from services.edge.domain import replies as r
from services.edge.domain.model import Publication
from services.edge.protocols.centrifugal.codec import MAX_ENTRIES, Pong
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from services.edge.protocols.centrifugal.protobuf_codec import CentrifugalProtobuf
from tests.edge.protocols.replies import Reply, Sent, encoded
from tests.edge.protocols.test_json_sdk import NAMES, NOT_SENT, REPLIES, SENT_AS
from tests.support.full import sized
from thalamus.client.v1 import client_pb2 as ours

CODEC = CentrifugalProtobuf(bytes)
JSON = CentrifugalJson(bytes)


def parsed(payload: bytes) -> list[Message]:
    """The replies of a message, as the official schema reads them."""
    found, at = [], 0
    while at < len(payload):
        length, at = _DecodeVarint(payload, at)
        reply = official.Reply.FromString(payload[at : at + length])
        reply.DiscardUnknownFields()  # our extensions
        found.append(reply)
        at += length
    assert at == len(payload)
    return found


def fill(message: Any, value: Any) -> None:
    """Set the fields of an official message by the domain's names.

    It uses nothing of the codec's code.
    """
    message.SetInParent()
    for field in msgspec.structs.fields(value):
        name, member = SENT_AS.get(field.name, field.name), getattr(value, field.name)
        if field.name in NOT_SENT or name not in message.DESCRIPTOR.fields_by_name or not member:
            continue
        if isinstance(member, list):
            for one in member:
                fill(getattr(message, name).add(), one)
        elif isinstance(member, dict):
            for key, one in member.items():
                if isinstance(one, str):
                    getattr(message, name)[key] = one
                else:
                    fill(getattr(message, name)[key], one)
        elif isinstance(member, msgspec.Struct):
            fill(getattr(message, name), member)
        else:
            setattr(message, name, member)


def expected(reply: Sent) -> Any:
    message: Any = official.Reply()
    if isinstance(reply, Reply):
        message.id = reply.id
        part = getattr(message, NAMES[type(reply.result)])
        part.SetInParent()
        if isinstance(reply.result, r.PresenceResult):
            for info in reply.result.presence:
                fill(part.presence[info.client], info)
        elif isinstance(reply.result, r.HistoryResult):
            fill(part, reply.result)
            part.offset, part.epoch = reply.result.top
        else:
            fill(part, reply.result)
        if isinstance(reply.result, r.ConnectResult):
            part.ping = int(reply.pings.interval_s)
            part.pong = bool(reply.pings.interval_s and reply.pings.timeout_s)
        return message
    part = getattr(message.push, NAMES[type(reply)])
    message.push.channel = getattr(reply, "channel", "")
    if isinstance(reply, r.PublicationPush):
        fill(part, reply.publication)
    else:
        fill(part, reply)
    return message


@settings(max_examples=sized(300, 3_000), deadline=None)
@given(st.lists(REPLIES, min_size=1, max_size=3))
def test_2_any_replies_are_what_the_official_schema_reads(replies: list[Sent]) -> None:
    assert parsed(b"".join(encoded(CODEC, reply) for reply in replies)) == [expected(reply) for reply in replies]


@pytest.mark.parametrize("size", [0, 1, 100, 120, 127, 128, 16_383, 16_384, 100_000])
def test_2_lengths_of_any_size_are_read(size: int) -> None:
    push = r.PublicationPush("a", Publication(data=b"x" * size, offset=1))
    (found,) = parsed(CODEC.encode(push))
    assert found.push.pub.data == b"x" * size  # type: ignore[attr-defined]


def test_6_the_epoch_comes_with_offset_1_only() -> None:
    one, two = (r.PublicationPush("a", Publication(data=b"1", offset=offset), "abc") for offset in (1, 2))
    assert b"abc" in CODEC.encode(one)
    assert b"abc" not in CODEC.encode(two)


# Commands.

TEXTS = st.text(max_size=6)
BOOLS, U32S, I32S = st.booleans(), st.integers(1, 2**32 - 1), st.integers(-(2**31), 2**31 - 1)
U64S = st.integers(0, 2**64 - 1)
DATA = st.sampled_from(['"x"', "1", '{"a":[1,2]}', "[]"])
SUBSCRIBE = {
    "channel": TEXTS,
    "token": TEXTS,
    "recover": BOOLS,
    "epoch": TEXTS,
    "offset": U64S,
    "data": DATA,
    "positioned": BOOLS,
    "recoverable": BOOLS,
    "join_leave": BOOLS,
    "delta": TEXTS,
    "tf": st.just({"key": "a", "cmp": "eq", "val": "b"}),
    "flag": st.integers(-4, 4),
    "type": st.integers(-1, 5),
}
SUB = st.fixed_dictionaries({}, optional={name: one for name, one in SUBSCRIBE.items() if name != "type"})
REQUESTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "connect": {
        "token": TEXTS,
        "data": DATA,
        "subs": st.dictionaries(TEXTS, SUB, max_size=2),
        "name": TEXTS,
        "version": TEXTS,
        "headers": st.dictionaries(TEXTS, TEXTS, max_size=1),
    },
    "subscribe": SUBSCRIBE,
    "unsubscribe": {"channel": TEXTS},
    "publish": {"channel": TEXTS, "data": DATA, "type": I32S},
    "presence": {"channel": TEXTS},
    "presence_stats": {"channel": TEXTS},
    "history": {
        "channel": TEXTS,
        "limit": I32S,
        "since": st.fixed_dictionaries({}, optional={"offset": U64S, "epoch": TEXTS}),
        "reverse": BOOLS,
    },
    "ping": {},
    "send": {"data": DATA},
    "rpc": {"data": DATA, "method": TEXTS},
    "refresh": {"token": TEXTS},
    "sub_refresh": {"channel": TEXTS, "token": TEXTS, "type": I32S},
}
COMMANDS = st.one_of(
    *(
        st.builds(
            lambda command_id, part, name=name: {"id": command_id, name: part},
            U32S,
            st.fixed_dictionaries({}, optional=members),
        )
        for name, members in REQUESTS.items()
    )
)


def in_json(value: Any, name: str = "") -> str:
    """The JSON text of a command; `data` members are JSON texts already."""
    if name == "data":
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{in_json(one, key)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def in_protobuf(value: Any, name: str = "") -> Any:
    """The same in the JSON form of Protobuf, where bytes are base64."""
    if name == "data":
        return base64.b64encode(value.encode()).decode()
    if isinstance(value, dict):
        return {key: in_protobuf(one, key) for key, one in value.items()}
    return value


def delimited(message: Message) -> bytes:
    body = message.SerializeToString()
    return bytes(_VarintBytes(len(body))) + body


def message_of(command: dict[str, Any]) -> bytes:
    """The command behind its length.

    `type` by our schema, because this SDK's has none, and the rest by the SDK's.
    """
    command_part: Message = ParseDict(in_protobuf(command), official.Command(), ignore_unknown_fields=True)
    body = command_part.SerializeToString()
    for name, part in command.items():
        if isinstance(part, dict) and "type" in part and name != "sub_refresh":
            body += ParseDict({name: {"type": part["type"]}}, ours.Command()).SerializeToString()  # messages are merged
    return bytes(_VarintBytes(len(body))) + body


@settings(max_examples=sized(400, 4_000), deadline=None)
@given(st.lists(COMMANDS, min_size=1, max_size=3))
def test_3_a_command_means_the_same_in_both_encodings(commands: list[dict[str, Any]]) -> None:
    found = CODEC.decode(b"".join(map(message_of, commands)), binary=True)
    assert found == JSON.decode("\n".join(map(in_json, commands)).encode(), binary=False)
    assert not any(isinstance(one, Pong) or isinstance(one.request, c.Malformed) for one in found)


def test_4_an_empty_command_is_a_pong() -> None:
    pong, command, again = CODEC.decode(b"\x00" + delimited(_SOUND) + b"\x00", binary=True)
    assert isinstance(pong, Pong)
    assert isinstance(again, Pong)
    assert isinstance(command, c.Command)
    assert CODEC.decode(CODEC.ping_frame, binary=True) == [pong]  # the answer looks like the ping
    assert CODEC.decode(b"\x02\x08\x00", binary=True) == [pong]  # an encoder that writes an id of 0


_SOUND = official.Command(id=1, rpc=official.RPCRequest(method="a"))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x05\x08\x01", id="cut off"),
        pytest.param(bytes((len(delimited(_SOUND)[1:]) + 1,)) + delimited(_SOUND)[1:], id="the last byte is missing"),
        pytest.param(b"\xff" * 11, id="a length without end"),
        pytest.param(b"\x80", id="half a length"),
        pytest.param(b"\x02\xff\xff", id="no Protobuf"),
        pytest.param(b"\x02\x08\x01", id="an id and no request"),
        pytest.param(delimited(official.Command(rpc=official.RPCRequest(method="a"))), id="no id"),
        pytest.param(b'{"id":1,"rpc":{}}', id="JSON"),
        pytest.param(b"\x08\x08\x01\x2a\x04\x0a\x02\xff\xfe", id="a text that is not UTF-8"),
    ],
)
def test_18_what_is_no_command_ends_malformed(payload: bytes) -> None:
    good = delimited(_SOUND)
    for before in (b"", good):
        found = CODEC.decode(before + payload, binary=True)
        if before and not payload:
            continue
        assert isinstance(found[-1], c.Command)
        assert isinstance(found[-1].request, c.Malformed)
        assert len(found) == (2 if before else 1)


def test_one_message_holds_a_bounded_number_of_commands() -> None:
    codec = CentrifugalProtobuf(bytes, max_commands=3)
    assert len(codec.decode(b"\x00" * 3, binary=True)) == 3
    *pongs, last = codec.decode(b"\x00" * 4, binary=True)
    assert len(pongs) == 3
    assert isinstance(last, c.Command)
    assert isinstance(last.request, c.Malformed)


@pytest.mark.parametrize("name", ["subs", "headers"])
def test_5_1_connect_holds_a_bounded_number_of_entries(name: str) -> None:
    """Nobody without a token yet keeps the edge busy with tens of thousands."""
    for count, fits in ((MAX_ENTRIES, True), (MAX_ENTRIES + 1, False)):
        entries: dict[str, Any] = {f"a{number}": {"offset": 1} if name == "subs" else "b" for number in range(count)}
        connect = {"id": 1, "connect": {name: entries}}
        (one,) = CODEC.decode(message_of(connect), binary=True)
        (other,) = JSON.decode(json.dumps(connect).encode(), binary=False)
        for found in (one, other):
            assert isinstance(found, c.Command)
            assert isinstance(found.request, c.Connect if fits else c.Malformed)


def test_any_bytes_become_commands_or_end_malformed() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    sound = [delimited(ParseDict({"id": 1, name: {}}, official.Command())) for name in REQUESTS]
    for _ in range(20_000):
        payload = bytearray(b"".join(chance.choices(sound, k=chance.randint(1, 3))))
        for _ in range(chance.randint(0, 4)):
            at = chance.randrange(len(payload) + 1)
            payload[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 3))
        found = CODEC.decode(bytes(payload), binary=True)
        assert found
        for one in found[:-1]:
            assert isinstance(one, Pong) or not isinstance(one.request, c.Malformed)
