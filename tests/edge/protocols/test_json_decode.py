"""What the JSON codec makes of messages.

Names begin with a section of the wire protocol or a row of reliability.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.domain import commands as c
from services.edge.domain.model import StreamPosition
from services.edge.protocols.centrifugal.codec import PONG, Pong
from services.edge.protocols.centrifugal.json_codec import CentrifugalJson
from tests.edge.protocols.corpus import BROKEN, SOUND, strict

CODEC = CentrifugalJson(bytes)


def decode(message: str | bytes, *, binary: bool = False) -> list[c.Command | Pong]:
    payload = message if isinstance(message, bytes) else message.encode()
    return CODEC.decode(payload, binary=binary)


def only(message: str | bytes) -> c.Command:
    (command,) = decode(message)
    assert isinstance(command, c.Command)
    return command


def kinds(message: str | bytes) -> list[type]:
    return list(map(kind, decode(message)))


def kind(command: c.Command | Pong) -> type:
    return Pong if isinstance(command, Pong) else type(command.request)


def is_malformed(message: str | bytes) -> bool:
    command = decode(message)[-1]
    if isinstance(command, Pong):
        return False
    assert not isinstance(command.request, c.Malformed) or (command.id == 0 and command.request.reason)
    return isinstance(command.request, c.Malformed)


EVERY_MEMBER: dict[str, tuple[dict[str, Any], c.Request]] = {
    "5.1-connect": (
        {
            "connect": {
                "token": "t",
                "data": {"a": 1},
                "subs": {"a": {"recover": True, "offset": 7, "epoch": "e"}, "b": {}},
                "name": "js",
                "version": "1",
                "headers": {"x": "y"},
                "flag": 1,
                "dict": "d",
                "profile": "p",
            }
        },
        c.Connect(
            token="t",
            data=b'{"a":1}',
            subs={"a": c.Subscribe(recover=True, offset=7, epoch="e"), "b": c.Subscribe()},
            name="js",
            version="1",
            headers={"x": "y"},
        ),
    ),
    "5.2-subscribe": (
        {
            "subscribe": {
                "channel": "room",
                "token": "t",
                "recover": True,
                "epoch": "e",
                "offset": 2**64 - 1,
                "data": [1],
                "positioned": True,
                "recoverable": True,
                "join_leave": True,
                "delta": "fossil",
                "tf": {"key": "k", "cmp": "ex"},
                "flag": -(2**63),
                "type": -(2**31),
                "phase": 1,
                "cursor": "x",
                "limit": -1,
                "asc": True,
            }
        },
        c.Subscribe(
            channel="room",
            token="t",
            recover=True,
            epoch="e",
            offset=2**64 - 1,
            positioned=True,
            recoverable=True,
            join_leave=True,
            delta="fossil",
            has_tags_filter=True,
            kind=c.SubscriptionKind.OTHER,
        ),
    ),
    "5.3-unsubscribe": ({"unsubscribe": {"channel": "room"}}, c.Unsubscribe(channel="room")),
    "5.4-publish": (
        {
            "publish": {
                "channel": "room",
                "data": {"n": 1},
                "type": 1,
                "key": "k",
                "removed": True,
                "idempotency_key": "i",
                "exclude_self": True,
            }
        },
        c.Publish(channel="room", data=b'{"n":1}', to_map=True, idempotency_key="i", exclude_self=True),
    ),
    "5.5-presence": ({"presence": {"channel": "room"}}, c.Presence(channel="room")),
    "5.5-presence-stats": ({"presence_stats": {"channel": "room"}}, c.PresenceStats(channel="room")),
    "5.6-history": (
        {"history": {"channel": "room", "limit": -1, "since": {"offset": 5, "epoch": "e"}, "reverse": True}},
        c.History(channel="room", limit=-1, since=StreamPosition(5, "e"), reverse=True),
    ),
    "3-ping": ({"ping": {}}, c.Ping()),
    "5.7-send": ({"send": {"data": "x"}}, c.Send(data=b'"x"')),
    "5.7-rpc": ({"rpc": {"data": 1, "method": "m"}}, c.Rpc(method="m", data=b"1")),
    "5.8-refresh": ({"refresh": {"token": "t"}}, c.Refresh(token="t")),
    "5.9-sub-refresh": (
        {"sub_refresh": {"channel": "room", "token": "t", "type": 1, "track": [{}], "untrack": ["k"]}},
        c.SubRefresh(channel="room", token="t"),
    ),
}
EMPTY: dict[str, c.Request] = {
    "connect": c.Connect(),
    "subscribe": c.Subscribe(),
    "unsubscribe": c.Unsubscribe(),
    "publish": c.Publish(),
    "presence": c.Presence(),
    "presence_stats": c.PresenceStats(),
    "history": c.History(),
    "ping": c.Ping(),
    "send": c.Send(),
    "rpc": c.Rpc(),
    "refresh": c.Refresh(),
    "sub_refresh": c.SubRefresh(),
}
ORDER = list(EMPTY)


def text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


@pytest.mark.parametrize(("sent", "request_"), EVERY_MEMBER.values(), ids=EVERY_MEMBER)
def test_5_every_member_of_every_command_is_read(sent: dict[str, Any], request_: c.Request) -> None:
    assert only(text({"id": 3, **sent})) == c.Command(3, request_)


@pytest.mark.parametrize(("name", "request_"), EMPTY.items())
def test_5_absent_members_have_their_zero_value(name: str, request_: c.Request) -> None:
    assert only(text({"id": 1, name: {}})) == c.Command(1, request_)


@pytest.mark.parametrize("sent", [sent for sent, _ in EVERY_MEMBER.values()], ids=EVERY_MEMBER)
def test_2_a_member_that_is_null_counts_as_absent(sent: dict[str, Any]) -> None:
    ((name, members),) = sent.items()
    nulls: dict[str, None] = dict.fromkeys(members)
    if name == "publish":
        assert only(text({"id": 1, name: nulls})).request == c.Publish(data=b"null")  # 5.4: here null is data
        del nulls["data"]
    others = {other: None for other in ORDER if other != name}
    assert only(text({"id": 1, name: nulls, **others})) == c.Command(1, EMPTY[name])


def test_2_null_within_members_counts_as_absent() -> None:
    assert only('{"id":1,"history":{"since":{"offset":null,"epoch":null}}}').request == c.History(
        since=StreamPosition(0, "")
    )
    request = only('{"id":1,"connect":{"subs":{"a":null,"b":{"offset":null}},"headers":{"h":null}}}').request
    assert request == c.Connect(subs={"b": c.Subscribe()})


@pytest.mark.parametrize("name", ORDER)
def test_2_unknown_members_are_ignored(name: str) -> None:
    message = '{"zz":[{"a":1e300}],"id":1,"NAME":{"zz":{"zz":[null]},"":"x"},"":0}'.replace("NAME", name)
    assert only(message) == c.Command(1, EMPTY[name])


@pytest.mark.parametrize("first", range(len(ORDER) - 1))
def test_3_of_several_requests_the_first_of_the_table_is_taken(first: int) -> None:
    message = text({"id": 1, **{name: {} for name in reversed(ORDER[first:])}})
    assert only(message) == c.Command(1, EMPTY[ORDER[first]])


def test_3_a_request_that_is_ignored_must_still_be_well_formed() -> None:
    assert is_malformed('{"id":1,"rpc":{},"refresh":{"token":5}}')
    assert is_malformed('{"id":1,"rpc":{},"refresh":[]}')


def test_3_the_id_reaches_from_1_to_the_end_of_u32() -> None:
    for number in (1, 2**31, 2**32 - 1):
        assert only(f'{{"id":{number},"rpc":{{}}}}').id == number


@pytest.mark.parametrize("blanks", ["", " ", "\t", "\r", " \r\t "])
def test_2_one_command_per_line_with_blanks_around(blanks: str) -> None:
    one, two = '{"id":1,"connect":{}}', '{"id":2,"rpc":{}}'
    message = f"{blanks}{one}{blanks}\n{blanks}{two}{blanks}"
    for sent in (message, message + "\n", f"{one}\r\n{two}\r\n"):
        assert decode(sent) == [c.Command(1, c.Connect()), c.Command(2, c.Rpc())]


@pytest.mark.parametrize(
    "message",
    ["", "\n", "\r\n", " ", "\t", '{"id":1,"rpc":{}}\n\n', '{"id":1,"rpc":{}}\n \n', '\n{"id":1,"rpc":{}}', "{}\n\n{}"],
)
def test_2_an_empty_frame_or_line_is_malformed(message: str) -> None:
    assert is_malformed(message)


def test_2_what_precedes_a_malformed_line_stays_and_what_follows_is_not_looked_at() -> None:
    message = '{"id":1,"connect":{}}\n{"id":2,"rpc":{}}\n{"id":3\n{"id":4,"rpc":{}}\n'
    assert kinds(message) == [c.Connect, c.Rpc, c.Malformed]
    assert kinds('{"id":1,"connect":{}}\n\n{"id":4,"rpc":{}}') == [c.Connect, c.Malformed]


def test_2_bad_utf_8_spoils_its_own_line_and_what_follows() -> None:
    message = b'{"id":1,"connect":{}}\n{"id":2,"rpc":{"data":"\xff"}}\n{"id":3,"rpc":{}}'
    assert kinds(message) == [c.Connect, c.Malformed]


@pytest.mark.parametrize("pong", ["{}", " {} ", "{ }", "{}\n", "{}\r\n", '{"id":0}', '{"id":null}', '{"rpc":null}'])
def test_4_an_empty_command_is_a_pong(pong: str) -> None:
    assert decode(pong) == [PONG]


def test_4_pongs_come_among_commands_in_the_order_sent() -> None:
    assert kinds('{}\n{"id":1,"rpc":{}}\n{}') == [Pong, c.Rpc, Pong]


@pytest.mark.parametrize("send", ['{"send":{}}', '{"id":0,"send":{}}', '{"id":null,"send":{"data":null}}'])
def test_3_send_needs_no_id(send: str) -> None:
    assert only(send) == c.Command(0, c.Send())


@pytest.mark.parametrize("name", [name for name in ORDER if name != "send"])
@pytest.mark.parametrize("id_", ["", '"id":0,', '"id":null,'])
def test_18_id_0_with_any_request_but_send_is_malformed(name: str, id_: str) -> None:
    assert is_malformed(f'{{{id_}"{name}":{{}}}}')


@pytest.mark.parametrize(
    "message",
    ['{"id":1}', '{"id":1,"nope":{}}', '{"nope":{}}', '{"id":1,"Rpc":{}}', '{"id":1,"rpc":null}', '{"id":1,"push":{}}'],
)
def test_3_no_known_request_is_malformed(message: str) -> None:
    assert is_malformed(message)


@pytest.mark.parametrize("line", ["[]", "1", '"x"', "null", "true", "nonsense", '{"id":1,"rpc":{}} x', "{}{}", "[{}]"])
def test_B22_what_is_not_one_object_is_malformed(line: str) -> None:
    assert is_malformed(line)


STRINGS = ["1", "true", "[]", "{}"]
BOOLEANS = ["1", "0", '"true"', "[]", "{}"]
INTEGERS = ['"1"', "true", "1.5", "1.0", "1e2", "[]", "{}", "9" * 5_000]
OBJECTS = ["1", '"x"', "true", "[]"]
U64 = [*INTEGERS, "-1", str(2**64), str(2**70)]
I32 = [*INTEGERS, str(2**31), str(-(2**31) - 1)]
I64 = [*INTEGERS, str(2**63), str(-(2**63) - 1)]
WRONG: dict[str, list[str]] = {
    '{"id":%s,"rpc":{}}': [*INTEGERS, "-1", str(2**32), str(2**64)],
    **{f'{{"id":1,"{name}":%s}}': OBJECTS for name in ORDER},
    **{
        f'{{"id":1,"{name}":{{"channel":%s}}}}': STRINGS
        for name in ("subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history", "sub_refresh")
    },
    **{f'{{"id":1,"{n}":{{"token":%s}}}}': STRINGS for n in ("connect", "subscribe", "refresh", "sub_refresh")},
    **{f'{{"id":1,"connect":{{"{member}":%s}}}}': STRINGS for member in ("name", "version", "dict", "profile")},
    '{"id":1,"connect":{"subs":%s}}': OBJECTS,
    '{"id":1,"connect":{"subs":{"a":%s}}}': OBJECTS,
    '{"id":1,"connect":{"subs":{"a":{"offset":%s}}}}': U64,
    '{"id":1,"connect":{"headers":%s}}': OBJECTS,
    '{"id":1,"connect":{"headers":{"a":%s}}}': STRINGS,
    '{"id":1,"connect":{"flag":%s}}': I64,
    **{f'{{"id":1,"subscribe":{{"{member}":%s}}}}': STRINGS for member in ("epoch", "delta", "cursor")},
    **{
        f'{{"id":1,"subscribe":{{"{member}":%s}}}}': BOOLEANS
        for member in ("recover", "positioned", "recoverable", "join_leave", "asc")
    },
    '{"id":1,"subscribe":{"offset":%s}}': U64,
    '{"id":1,"subscribe":{"flag":%s}}': I64,
    **{f'{{"id":1,"subscribe":{{"{member}":%s}}}}': I32 for member in ("type", "phase", "limit")},
    '{"id":1,"subscribe":{"tf":%s}}': OBJECTS,
    **{f'{{"id":1,"publish":{{"{member}":%s}}}}': STRINGS for member in ("key", "idempotency_key")},
    **{f'{{"id":1,"publish":{{"{member}":%s}}}}': BOOLEANS for member in ("removed", "exclude_self")},
    '{"id":1,"publish":{"type":%s}}': I32,
    '{"id":1,"history":{"limit":%s}}': I32,
    '{"id":1,"history":{"reverse":%s}}': BOOLEANS,
    '{"id":1,"history":{"since":%s}}': OBJECTS,
    '{"id":1,"history":{"since":{"offset":%s}}}': U64,
    '{"id":1,"history":{"since":{"epoch":%s}}}': STRINGS,
    '{"id":1,"rpc":{"method":%s}}': STRINGS,
    '{"id":1,"sub_refresh":{"type":%s}}': I32,
    '{"id":1,"sub_refresh":{"track":%s}}': STRINGS[:2],
    '{"id":1,"sub_refresh":{"untrack":%s}}': STRINGS[:2],
}


@pytest.mark.parametrize("pattern", WRONG)
def test_B23_a_member_of_the_wrong_type_or_out_of_range_is_malformed(pattern: str) -> None:
    for value in WRONG[pattern]:
        assert is_malformed(pattern % value), value


def test_B23_of_duplicate_members_the_last_wins() -> None:
    assert only('{"id":1,"rpc":{"method":"a"},"id":2,"rpc":{"method":"b"}}') == c.Command(2, c.Rpc(method="b"))
    assert only('{"id":1,"publish":{"channel":"a","data":1,"data":null}}').request == c.Publish(
        channel="a", data=b"null"
    )
    assert only('{"id":1,"rpc":{},"\\u0069d":9}').id == 9  # escaped or not, it is the same name
    assert is_malformed('{"id":1,"rpc":{},"id":0}')


PAYLOADS = {
    "5.4-publish": '{"id":1,"publish":{"channel":"a","data":%s}}',
    "5.7-rpc": '{"id":1,"rpc":{"data":%s}}',
    "5.7-send": '{"send":{"data":%s}}',
    "5.1-connect": '{"id":1,"connect":{"data":%s}}',
}
HOLDERS = {
    **PAYLOADS,
    "5.2-subscribe-data": '{"id":1,"subscribe":{"channel":"a","data":%s}}',
    "3-unknown-member": '{"id":1,"rpc":{},"zz":%s}',
    "5.4-unknown-member": '{"id":1,"publish":{"data":1,"zz":%s}}',
    "5.9-track": '{"id":1,"sub_refresh":{"track":[{"a":%s}]}}',
}


@pytest.mark.parametrize("pattern", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("name", SOUND)
def test_B23_payloads_are_carried_byte_for_byte(pattern: str, name: str) -> None:
    before, after = pattern.encode().split(b"%s")
    for blanks in (b"", b" ", b"\t\r "):
        request: Any = only(before + blanks + SOUND[name] + blanks + after).request
        absent = name == "null" and "publish" not in pattern
        assert request.data == (b"" if absent else SOUND[name])


@pytest.mark.parametrize("pattern", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("name", BROKEN)
def test_B23_broken_json_is_malformed_wherever_it_stands(pattern: str, name: str) -> None:
    before, after = pattern.encode().split(b"%s")
    assert is_malformed(before + BROKEN[name] + after)


@pytest.mark.parametrize(
    "string",
    ["\\ud800", "\\udc00", "\\ude00\\ud83d", "\\x", "\x01", "\\u12"],
    ids=["high", "low", "swapped", "escape", "raw", "cut"],
)
@pytest.mark.parametrize(
    "pattern",
    [
        '{"id":1,"subscribe":{"channel":"%s"}}',
        '{"id":1,"connect":{"subs":{"%s":{}}}}',
        '{"id":1,"publish":{"idempotency_key":"%s"}}',
        '{"id":1,"rpc":{"%s":1}}',
        '{"id":1,"rpc":{},"%s":1}',
    ],
)
def test_B23_broken_strings_are_malformed_in_names_and_members_too(pattern: str, string: str) -> None:
    assert is_malformed(pattern % string)


def test_B32_strings_come_unescaped_and_may_hold_anything() -> None:
    message = '{"id":1,"subscribe":{"channel":"a\\"\\\\\\n\\u0000\\u2028\\ud83d\\ude00<b>ж"}}'
    assert only(message).request == c.Subscribe(channel='a"\\\n\0\u2028😀<b>ж')


def test_B23_nesting_is_counted_from_the_command_itself() -> None:
    def nested(levels: int) -> bytes:
        return b'{"id":1,"publish":{"data":' + b"[" * levels + b"]" * levels + b"}}"

    assert not is_malformed(nested(98))
    assert is_malformed(nested(99))


def test_1_json_is_taken_from_binary_messages_alike() -> None:
    message = '{"id":1,"publish":{"channel":"ж","data":"ж"}}\n{}'
    assert decode(message, binary=True) == decode(message)
    assert kind(decode(b"\x05\x08\x01\x22\x00", binary=True)[-1]) is c.Malformed


def test_one_message_holds_a_bounded_number_of_commands() -> None:
    codec = CentrifugalJson(bytes, max_commands=3)
    found = list(map(kind, codec.decode(b"\n".join([b"{}"] * 3) + b"\n", binary=False)))
    assert found == [Pong] * 3
    found = list(map(kind, codec.decode(b"\n".join([b"{}"] * 4), binary=False)))
    assert found == [Pong] * 3 + [c.Malformed]


PIECES = st.sampled_from(
    b'{"id": 1 0 -1 , "rpc": "send": "publish": "data": "channel":"a" { } {} null " [ ] : \\ud800 1e999 NaN'.split(b" ")
    + b'{"id":1,"rpc":{}}|{"id":2,"publish":{"channel":"a","data":|}}|{"send":{"data":"|\n|\r\n| |\xff|\x00'.split(b"|")
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=14).map(b"".join) | st.binary(max_size=60), st.booleans())
def test_B22_any_bytes_become_commands_of_sound_parts_or_end_malformed(message: bytes, binary: bool) -> None:
    commands = decode(message, binary=binary)
    assert commands
    assert c.Malformed not in map(kind, commands[:-1])
    lines = message.removesuffix(b"\n").split(b"\n")
    for line, command in zip(lines, commands, strict=False):
        if kind(command) is c.Malformed:
            continue
        value = strict(line)
        assert isinstance(value, dict)
        data = getattr(command.request, "data", None) if isinstance(command, c.Command) else None
        if data:
            assert b"\n" not in data
            strict(data)
    if kind(commands[-1]) is not c.Malformed:
        assert len(commands) == len(lines)
