"""Wire protocol, 4 (ping), 15 (join and leave), 17 (limits), 18 (bad input)."""

from __future__ import annotations

import math

import pytest

from services.edge.domain.control.operations import NO_CODE, Disconnect, execute
from services.edge.domain.ends import ClientEnd, EndReason
from services.edge.domain.model import ClientInfo
from services.shared.namespaces import Mode
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace


def pings(client: Client) -> int:
    return client.lines.count({})


async def test_4_the_server_pings_first_within_an_interval_then_every_interval() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(pong_timeout_s=0.0), claims={"ttl_s": None})
    await cluster.advance(12.0)
    assert pings(client) == 0
    await cluster.advance(13.3)
    assert pings(client) == 1
    await cluster.advance(25.1)
    assert pings(client) == 2


async def test_4_no_pong_in_time_closes_3012() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"ttl_s": None})
    while not pings(client):
        await cluster.advance(0.1)
    await cluster.advance(7.7)
    assert client.closed is None
    await cluster.advance(0.5)
    assert client.closed == (3012, "no pong")


async def test_4_a_pong_keeps_the_connection() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"ttl_s": None})
    for expected in (1, 2, 3):
        while pings(client) < expected:
            await cluster.advance(0.5)
        await client.raw("{}")
    assert client.closed is None


@pytest.mark.parametrize("after_ping", [False, True])
async def test_4_a_pong_that_nobody_asked_for_closes_3501(after_ping: bool) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"ttl_s": None})
    if after_ping:
        while not pings(client):
            await cluster.advance(0.5)
        await client.raw("{}")
        assert client.closed is None
    await client.raw("{}")
    assert client.closed == (3501, "bad request")


async def test_1_websocket_pings_instead_of_the_applications() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(), websocket_ping=True)
    result = await client.call(connect={"token": cluster.token("alice", ttl_s=None)})
    assert "ping" not in result
    assert "pong" not in result
    for expected in (1, 2):
        while client.connection.websocket_pings < expected:
            await cluster.advance(0.1)
        if expected == 1:
            client.protocol.control(pong=True)
            await cluster.advance(9.0)
            assert client.closed is None
    assert pings(client) == 0
    await cluster.advance(8.6)
    assert client.closed == (3012, "no pong")


async def test_15_the_newcomer_gets_its_own_join_behind_its_reply_and_is_in_presence_by_then() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, join_leave=Mode.FORCE))
    node = cluster.edge()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "a"})
    kinds = ["subscribe" if "subscribe" in line else "join" for line in client.lines[1:]]
    assert kinds == ["subscribe", "join"]
    assert client.session.client in cluster.presence.members_of["a"]


async def test_15_leave_is_told_to_the_others_before_the_reply_and_not_to_the_one_who_left() -> None:
    cluster = Cluster()
    node = cluster.edge()
    alice, bob = await connected(cluster, node), await connected(cluster, node, "bob")
    await alice.call(subscribe={"channel": "a", "join_leave": True})
    await bob.call(subscribe={"channel": "a", "join_leave": True})
    await bob.call(unsubscribe={"channel": "a"})
    assert [next(iter(set(push) - {"channel"})) for push in alice.pushes] == ["join", "join", "leave"]
    assert [next(iter(set(push) - {"channel"})) for push in bob.pushes] == ["join"]
    assert alice.pushes[-1]["leave"]["info"] == {"user": "bob", "client": bob.session.client}


async def test_15_join_and_leave_are_pushed_only_to_who_asked_where_the_namespace_says_allow() -> None:
    cluster = Cluster()
    node = cluster.edge()
    quiet, asking = await connected(cluster, node), await connected(cluster, node, "bob")
    await quiet.call(subscribe={"channel": "a"})
    await asking.call(subscribe={"channel": "a", "join_leave": True})
    assert quiet.pushes == []
    assert len(asking.pushes) == 1


async def test_15_joins_that_come_together_are_one_frame_for_each_who_asked() -> None:
    cluster = Cluster()
    node = cluster.edge()
    quiet, asking = await connected(cluster, node), await connected(cluster, node, "bob")
    await quiet.call(subscribe={"channel": "a"})
    await asking.call(subscribe={"channel": "a", "join_leave": True})
    frames = [len(client.connection.frames) for client in (quiet, asking)]
    node.hub.joined("a", [ClientInfo("x", "c1"), ClientInfo("y", "c2")])
    assert [len(client.connection.frames) for client in (quiet, asking)] == [frames[0], frames[1] + 1]
    assert [push["join"]["info"]["client"] for push in asking.pushes[-2:]] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("how", "stays_s"), [(ClientEnd.CLOSED, 0.0), (ClientEnd.GOING_AWAY, 2.0), (ClientEnd.LOST, math.inf)]
)
async def test_15_how_a_client_ends_says_how_long_it_stays_in_presence(how: ClientEnd, stays_s: float) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    await client.hang_up(how)
    assert cluster.presence.left == [("a", client.session.client, stays_s)]


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason is not EndReason.DISCONNECTED])
@pytest.mark.parametrize("how", ClientEnd)
async def test_15_whom_the_server_closes_may_come_back_whatever_the_client_answers(
    reason: EndReason, how: ClientEnd
) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    client.session.disconnect(reason)
    assert cluster.presence.left == []
    await client.hang_up(how)
    assert cluster.presence.left == [("a", client.session.client, math.inf)]


@pytest.mark.parametrize("how", ClientEnd)
@pytest.mark.parametrize("code", [NO_CODE, 3000, 4999])
async def test_15_whom_a_backend_removes_has_left_before_the_client_answers(how: ClientEnd, code: int) -> None:
    cluster = Cluster()
    client = await connected(cluster, node := cluster.edge())
    for channel in ("a", "b"):
        await client.call(subscribe={"channel": channel})
    await execute(node, Disconnect(user="alice", code=code))
    assert cluster.presence.left == [(channel, client.session.client, 0.0) for channel in ("a", "b")]
    await client.hang_up(how)
    assert len(cluster.presence.left) == 2


async def test_B30_over_50_commands_a_second_after_a_burst_of_300_is_111_with_a_hint() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    replies = [await client.reply(rpc={"method": "x"}) for _ in range(301)]
    assert {reply["error"]["code"] for reply in replies[:300]} == {104}
    assert replies[300]["error"] == {
        "code": 111,
        "message": "too many requests",
        "temporary": True,
        "retry_after_ms": 20,
    }
    assert await client.call(unsubscribe={"channel": "x"}) == {}  # not counted
    await cluster.advance(0.1)
    assert await client.error(rpc={"method": "x"}) == 104


async def test_B30_a_flood_kept_up_for_three_seconds_closes_3013() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    for _ in range(310):
        await client.post(rpc={"method": "x"})
    for _ in range(29):
        await cluster.advance(0.1)
        for _ in range(10):
            await client.post(rpc={"method": "x"})
    assert client.closed is None
    await cluster.advance(0.2)
    for _ in range(20):
        await client.post(rpc={"method": "x"})
    assert client.closed == (3013, "too many requests")


async def test_B30_a_message_without_reply_is_never_answered_with_an_error() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    for _ in range(301):
        await client.post(rpc={"method": "x"})
    await client.raw('{"send":{"data":1}}')
    assert client.closed == (3508, "not available")
    assert all(line.get("id") for line in client.lines)


async def test_B30_a_limit_of_zero_is_no_limit() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=0))
    for _ in range(1_000):
        assert await client.error(rpc={"method": "x"}) == 104


async def test_a_client_that_sends_faster_than_it_is_served_is_not_read() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(commands_per_s=0))
    frame = "\n".join(f'{{"id":{number},"subscribe":{{"channel":"c{number}"}}}}' for number in range(2, 90))
    client.send(frame)
    assert client.connection.paused
    for _ in range(200):
        await client.raw()
    assert not client.connection.paused
    assert len(client.lines) == 89


MALFORMED = {
    "B22-unknown-command": '{"id":2,"nope":{}}',
    "B22-no-command": '{"id":2}',
    "B24-id-0": '{"id":0,"rpc":{}}',
    "B24-id-absent": '{"rpc":{}}',
    "B25-channel-absent": '{"id":2,"subscribe":{}}',
    "B25-channel-empty": '{"id":2,"publish":{"channel":"","data":1}}',
    "B25-channel-null": '{"id":2,"publish":{"channel":null,"data":1}}',
    "18-ping-request": '{"id":2,"ping":{}}',
}
NOT_JSON = {
    "B22-not-json": "nonsense",
    "B22-empty-frame": "",
    "B22-empty-line": '{"id":2,"rpc":{}}\n\n{"id":3,"rpc":{}}',
    "B22-array": "[]",
    "B22-number": "1",
    "B23-id-as-string": '{"id":"2","rpc":{}}',
    "B23-id-float": '{"id":2.5,"rpc":{}}',
    "B23-channel-number": '{"id":2,"subscribe":{"channel":1}}',
    "B23-request-array": '{"id":2,"subscribe":[]}',
    "B23-offset-negative": '{"id":2,"subscribe":{"channel":"a","offset":-1}}',
    "B23-offset-over-u64": '{"id":2,"subscribe":{"channel":"a","offset":18446744073709551616}}',
    "B23-limit-over-i32": '{"id":2,"history":{"channel":"a","limit":2147483648}}',
    "B23-flag-as-bool": '{"id":2,"subscribe":{"channel":"a","recover":1}}',
    "B23-nan": '{"id":2,"publish":{"channel":"a","data":NaN}}',
    "B23-infinity": '{"id":2,"publish":{"channel":"a","data":-Infinity}}',
    "B23-lone-surrogate": '{"id":2,"publish":{"channel":"a","data":"\\ud800"}}',
    "B23-lone-surrogate-in-channel": '{"id":2,"subscribe":{"channel":"\\udc00"}}',
    "B23-nesting": '{"id":2,"publish":{"channel":"a","data":' + "[" * 30_000 + "]" * 30_000 + "}}",
    "B24-id-negative": '{"id":-1,"rpc":{}}',
    "B24-id-over-u32": '{"id":4294967296,"rpc":{}}',
    "18-trailing-garbage": '{"id":2,"rpc":{}} x',
}
_JSON_ONLY = pytest.mark.json_only("its syntax or its types are wrong; Protobuf has others: test_protobuf_wire.py")


@pytest.mark.parametrize(
    "frame",
    [
        *(pytest.param(frame, id=row) for row, frame in MALFORMED.items()),
        *(pytest.param(frame, id=row, marks=_JSON_ONLY) for row, frame in NOT_JSON.items()),
    ],
)
async def test_18_malformed_input_closes_3501_and_harms_nobody_else(frame: str) -> None:
    cluster = Cluster()
    node = cluster.edge()
    other = await connected(cluster, node, "bob")
    await other.call(subscribe={"channel": "a"})
    client = await connected(cluster, node)
    await client.raw(frame)
    assert client.closed == (3501, "bad request")
    await other.call(publish={"channel": "a", "data": 1})
    assert [pub["data"] for pub in other.publications("a")] == [1]


@pytest.mark.json_only("a JSON text in a binary frame")
async def test_18_bad_utf_8_in_a_binary_frame_closes_3501() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.raw(b'{"id":2,"subscribe":{"channel":"\xff"}}', binary=True)
    assert client.closed == (3501, "bad request")


@pytest.mark.json_only("a JSON text in a binary frame")
async def test_1_json_commands_are_taken_from_binary_frames_too() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.raw(b'{"id":2,"rpc":{}}', binary=True)
    assert client.lines[-1]["error"]["code"] == 104


_OF_JSON_TEXTS = pytest.mark.json_only("blanks, newlines, null and duplicates are of JSON texts")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(' {"id":2,"rpc":{}} ', id="blanks", marks=_OF_JSON_TEXTS),
        pytest.param('{"id":2,"rpc":{}}\n', id="newline", marks=_OF_JSON_TEXTS),
        pytest.param('{"id":2,"rpc":{},"unknown":[1]}', id="unknown-member"),
        pytest.param('{"id":2,"rpc":{"method":null,"x":1},"connect":null}', id="null-is-absent", marks=_OF_JSON_TEXTS),
        pytest.param('{"id":1,"id":2,"rpc":{}}', id="last-duplicate-wins", marks=_OF_JSON_TEXTS),
        pytest.param('{"id":2,"rpc":{},"sub_refresh":{"channel":"a"}}', id="first-request-taken"),
    ],
)
async def test_3_what_is_odd_but_allowed_is_served(frame: str) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.raw(frame)
    assert client.closed is None
    assert client.lines[-1] == {"id": 2, "error": {"code": 104, "message": "method not found"}}


@pytest.mark.json_only("the end of lines")
async def test_2_commands_may_be_separated_by_carriage_return_and_newline() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.raw('{"id":2,"rpc":{}}\r\n{"id":3,"rpc":{}}')
    assert [line["id"] for line in client.lines[1:]] == [2, 3]


async def test_B24_an_id_reused_while_pending_is_answered_twice() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.raw('{"id":7,"rpc":{}}\n{"id":7,"rpc":{}}')
    assert [line["id"] for line in client.lines[1:]] == [7, 7]
