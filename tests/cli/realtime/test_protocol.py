"""The protocol as a client speaks it, by the transcript of its page (§19)."""

from __future__ import annotations

import json

import pytest

from cli.realtime.messages import Position
from cli.realtime.protocol import (
    Connected,
    ConnectRefused,
    Joined,
    Left,
    Message,
    ProtocolBroken,
    Published,
    Refreshed,
    Subscribed,
    SubscribeRefused,
    Unsubscribed,
    WireClient,
)

CONNECTED = '{"id":1,"connect":{"client":"bbbb","version":"1.0.0","ping":25,"pong":true}}'


def commands(frame: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in frame.split("\n")]


def connected(channel: str = "room", since: Position | None = None) -> WireClient:
    client = WireClient({channel: since}, token="t")
    client.hello()
    client.receive(CONNECTED)
    return client


def test_the_first_frame_connects_and_subscribes() -> None:
    connect, subscribe = commands(WireClient({"room": None}, token="t", version="1").hello())
    assert connect == {"id": 1, "connect": {"name": "cli", "version": "1", "token": "t"}}
    assert subscribe == {
        "id": 2,
        "subscribe": {"channel": "room", "recoverable": True, "positioned": True, "join_leave": True},
    }


def test_a_position_is_recovered_from() -> None:
    _, subscribe = commands(WireClient({"room": Position(2, "NtFMHbCA")}).hello())
    assert subscribe["subscribe"]["recover"] is True  # type: ignore[index]
    assert subscribe["subscribe"]["offset"] == 2  # type: ignore[index]
    assert subscribe["subscribe"]["epoch"] == "NtFMHbCA"  # type: ignore[index]


def test_pings_are_answered_where_the_server_wants_that() -> None:
    assert connected().receive("{}") == ([], "{}")
    client = WireClient({})
    client.hello()
    client.receive('{"id":1,"connect":{"client":"c","version":"1","ping":25}}')
    assert client.receive("{}") == ([], "")


def test_several_replies_in_a_frame_come_in_order_and_a_ping_among_them_counts() -> None:
    client = connected()
    events, pong = client.receive(
        '{"id":2,"subscribe":{"recoverable":true,"epoch":"NtFMHbCA","offset":4,"positioned":true}}\n{}\n'
        '{"push":{"channel":"room","pub":{"data":{"n":1.0},"offset":5}}}'
    )
    assert pong == "{}"
    subscribed, published = events
    assert subscribed == Subscribed("room", Position(4, "NtFMHbCA"), None, False, 0)
    assert isinstance(published, Published)
    assert bytes(published.publication.data) == b'{"n":1.0}', "payloads keep their text"
    assert client.channels == {"room": Position(5, "NtFMHbCA")}


def test_a_connection_that_expires_says_when() -> None:
    client = WireClient({})
    client.hello()
    events, _ = client.receive('{"id":1,"connect":{"client":"c","version":"1","expires":true,"ttl":60,"ping":25}}')
    assert events == [Connected("c", "1", 25, 60)]
    client.refresh("new")
    assert client.receive('{"id":2,"refresh":{"expires":true,"ttl":30}}')[0] == [Refreshed(30)]
    assert "new" in client.hello(), "later connections use the newer token"


def test_recovered_publications_follow_the_answer_and_move_the_position() -> None:
    client = connected(since=Position(0, ""))
    events, _ = client.receive(
        '{"id":2,"subscribe":{"recoverable":true,"epoch":"NtFMHbCA","publications":[{"data":{"n":1},"offset":1},'
        '{"data":{"n":2},"offset":2}],"recovered":true,"positioned":true,"was_recovering":true}}'
    )
    assert events[0] == Subscribed("room", Position(0, "NtFMHbCA"), Position(0, ""), True, 2)
    assert [event.publication.offset for event in events[1:] if isinstance(event, Published)] == [1, 2]
    assert client.channels == {"room": Position(2, "NtFMHbCA")}


def test_a_failed_recovery_goes_on_from_the_top() -> None:
    client = connected(since=Position(2, "OLDEPOCH"))
    events, _ = client.receive(
        '{"id":2,"subscribe":{"recoverable":true,"epoch":"NtFMHbCA","offset":3,"positioned":true,"was_recovering":true}}'
    )
    assert events == [Subscribed("room", Position(3, "NtFMHbCA"), Position(2, "OLDEPOCH"), False, 0)]
    assert client.channels == {"room": Position(3, "NtFMHbCA")}


def test_a_channel_without_recovery_keeps_no_position() -> None:
    client = connected("tick:x")
    client.receive('{"id":2,"subscribe":{}}')
    client.receive('{"push":{"channel":"tick:x","pub":{"data":1}}}')
    assert client.channels == {"tick:x": None}


def test_the_epoch_of_a_new_stream_is_adopted() -> None:
    client = connected()
    client.receive('{"id":2,"subscribe":{"recoverable":true,"epoch":"A"}}')
    client.receive('{"push":{"channel":"room","pub":{"data":1,"offset":1,"epoch":"B"}}}')
    assert client.channels == {"room": Position(1, "B")}


@pytest.mark.parametrize(("code", "again"), [(2000, False), (2499, False), (2500, True), (2502, True)])
def test_an_ended_subscription_says_whether_to_come_back(code: int, again: bool) -> None:
    frame = json.dumps({"push": {"channel": "room", "unsubscribe": {"code": code, "reason": "why"}}})
    assert connected().receive(frame)[0] == [Unsubscribed("room", code, "why", again)]


def test_joins_leaves_and_messages_are_told() -> None:
    client = connected()
    info = {"info": {"user": "alice", "client": "aaaa", "conn_info": {"name": "Alice"}}}
    ((joined,), _) = client.receive(json.dumps({"push": {"channel": "room", "join": info}}))
    ((left,), _) = client.receive(json.dumps({"push": {"channel": "room", "leave": info}}))
    ((message,), _) = client.receive('{"push":{"message":{"data":[1]}}}')
    assert isinstance(joined, Joined)
    assert joined.info.user == "alice"
    assert json.loads(bytes(joined.info.conn_info)) == {"name": "Alice"}
    assert isinstance(left, Left)
    assert isinstance(message, Message)
    assert bytes(message.data) == b"[1]"


def test_refusals_belong_to_what_was_asked() -> None:
    client = WireClient({"room": None})
    client.hello()
    ((refused,), _) = client.receive('{"id":1,"error":{"code":109,"message":"token expired"}}')
    assert isinstance(refused, ConnectRefused)
    assert refused.expired
    ((refused,), _) = client.receive('{"id":2,"error":{"code":103,"message":"permission denied"}}')
    assert isinstance(refused, SubscribeRefused)
    assert str(refused.error) == "permission denied (103)"


@pytest.mark.parametrize("frame", ["", "x", "[]", '{"id":"1"}', '{"id":99,"publish":{}}', '{"id":1,"connect":{}}\n'])
def test_what_is_no_frame_of_the_protocol_is_refused(frame: str) -> None:
    client = WireClient({})
    client.hello()
    with pytest.raises(ProtocolBroken):
        client.receive(frame)


def test_control_characters_of_others_don_t_reach_the_terminal() -> None:
    client = connected()
    frame = json.dumps({"push": {"channel": "room", "pub": {"data": 1, "info": {"user": "\x1b[2J", "client": "c"}}}})
    ((published,), _) = client.receive(frame)
    assert isinstance(published, Published)
    assert str(published.publication) == "\\x1b[2J: 1"
