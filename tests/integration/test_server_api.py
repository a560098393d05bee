"""The server API over HTTP on two edges.

Shapes, refusals, and what one edge does for clients of the other.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import redis.asyncio

from tests.support.stack import Stack
from tests.support.wire_client import WireClient


class Api:
    """Calls on one edge."""

    def __init__(self, stack: Stack, edge: int) -> None:
        self.http = httpx.AsyncClient(base_url=stack.http_urls[edge], headers={"X-API-Key": stack.api_key}, timeout=10)

    async def raw(self, method: str, body: str | bytes) -> httpx.Response:
        return await self.http.post(f"/api/{method}", content=body)

    async def call(self, method: str, **body: Any) -> Any:
        response = await self.http.post(f"/api/{method}", json=body)
        assert response.status_code == 200, response.text
        assert set(response.json()) == {"result"}, response.text
        return response.json()["result"]

    async def error(self, method: str, **body: Any) -> int:
        response = await self.http.post(f"/api/{method}", json=body)
        assert response.status_code == 200, response.text
        code: int = response.json()["error"]["code"]
        assert response.json()["error"]["message"]
        return code


@pytest.fixture
async def exits() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
async def apis(stack: Stack) -> AsyncIterator[list[Api]]:
    made = [Api(stack, 0), Api(stack, 1)]
    yield made
    for api in made:
        await api.http.aclose()


@pytest.fixture
def channel() -> str:
    return f"chat:api-{secrets.token_hex(4)}"


async def join(exits: AsyncExitStack, stack: Stack, edge: int, user: str, *channels: str, **claims: Any) -> WireClient:
    client = await exits.enter_async_context(WireClient(stack.ws_urls[edge]))
    await client.connect(stack.token(user, **claims))
    for one in channels:
        await client.subscribe(one)
    return client


METHODS = [
    *("publish", "broadcast", "subscribe", "unsubscribe", "disconnect", "revoke", "refresh"),
    *("history", "history_remove", "presence", "presence_stats", "channels", "connections", "info", "batch"),
    *("presence_members", "presence_counts", "presence_channels", "presence_online"),
    *("presence_enter", "presence_update", "presence_leave", "presence_remove"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", [None, "", "wrong", "thk_" + "A" * 43])
async def test_a_missing_or_wrong_key_is_401(stack: Stack, method: str, key: str | None) -> None:
    async with httpx.AsyncClient(base_url=stack.http_urls[0]) as http:
        response = await http.post(f"/api/{method}", json={}, headers={} if key is None else {"X-API-Key": key})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == 101


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"nonsense", 400, "malformed"),
        (b"[]", 400, "array"),
        (b'{"channel":1,"data":1}', 400, "$.channel"),
        (b'{"data":1}', 400, "channel"),
        (b'{"channel":"a","data":' + b"1" * 1_048_577 + b"}", 413, "large"),
        (b'{"channel":"\xff","data":1}', 400, ""),
    ],
    ids=["not-json", "not-an-object", "wrong-type", "missing", "too-large", "bad-utf-8"],
)
async def test_what_can_not_be_read_is_told_by_status_and_name(
    apis: list[Api], body: bytes, status: int, text: str
) -> None:
    response = await apis[0].raw("publish", body)
    assert response.status_code == status
    assert text in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "data", ["NaN", '"\\ud800"', '"\xff"', "[" * 200 + "]" * 200, "{", '1} , "x": {'], ids=lambda data: data[:8]
)
async def test_data_that_would_break_subscribers_never_reaches_them(apis: list[Api], data: str) -> None:
    response = await apis[0].raw("publish", b'{"channel":"chat:x","data":' + data.encode("latin-1") + b"}")
    assert response.status_code == 400 or response.json()["error"]["code"] == 107


async def test_publish_reaches_every_edge_and_keeps_the_text_of_numbers(
    stack: Stack, apis: list[Api], exits: AsyncExitStack, channel: str
) -> None:
    clients = [await join(exits, stack, edge, f"user{edge}", channel) for edge in (0, 1)]
    text = '{"big":12345678901234567890123,"one":1.0,"far":1e308}'
    response = await apis[0].raw("publish", f'{{"channel":"{channel}","data":{text},"tags":{{"k":"v"}}}}')
    assert response.json()["result"]["offset"] == 1
    for client in clients:
        publication = await client.publication(channel)
        assert publication["tags"] == {"k": "v"}
        assert "info" not in publication
    response = await apis[1].raw("history", f'{{"channel":"{channel}","limit":10}}')
    assert text in response.text
    assert re.findall(r'"time":(\d+)', response.text) == [str(publication["time"])]


async def test_a_repeated_key_returns_the_first_position_on_any_edge(apis: list[Api], channel: str) -> None:
    for name in (channel, channel.replace("chat:", "live:")):
        first = await apis[0].call("publish", channel=name, data=1, idempotency_key="k")
        again = await apis[1].call("publish", channel=name, data=2, idempotency_key="k")
        assert first == again
        assert (await apis[0].call("history", channel=name, limit=10))["offset"] == 1


async def test_a_key_may_come_as_in_centrifugos_clients(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.http_urls[0]) as http:
        for header, status in (
            (f"apikey {stack.api_key}", 200),
            (f"ApiKey  {stack.api_key}", 200),
            (f"Bearer {stack.api_key}", 401),
            (f"apikey {stack.api_key}x", 401),
            (stack.api_key, 401),
            ("apikey", 401),
        ):
            response = await http.post("/api/info", json={}, headers={"Authorization": header})
            assert response.status_code == status, header


@pytest.mark.parametrize("name", ["live:skipped", "chat:skipped"])
async def test_what_is_not_to_be_kept_reaches_who_is_there_and_leaves_the_log_as_it_was(
    stack: Stack, apis: list[Api], exits: AsyncExitStack, name: str
) -> None:
    name = f"{name}-{secrets.token_hex(4)}"
    clients = [await join(exits, stack, edge, f"user{edge}", name) for edge in (0, 1)]
    assert (await apis[0].call("publish", channel=name, data="kept"))["offset"] == 1
    for client in clients:
        assert (await client.publication(name))["offset"] == 1
    assert await apis[0].call("publish", channel=name, data="gone", tags={"a": "b"}, skip_history=True) == {}
    many = await apis[1].call("broadcast", channels=[name], data="gone too", skip_history=True)
    assert many == {"responses": [{"result": {}}]}
    for client in clients:
        received = [await client.publication(name) for _ in range(2)]
        assert received[0] == {"data": "gone", "tags": {"a": "b"}} | {
            k: v for k, v in received[0].items() if k == "time"
        }
        assert received[1]["data"] == "gone too"
        assert "offset" not in received[0] | received[1]
    position = await apis[1].call("publish", channel=name, data="kept as well")
    assert position["offset"] == 2
    for client in clients:
        assert (await client.publication(name))["offset"] == 2
    page = await apis[1].call("history", channel=name, limit=10)
    assert [one["data"] for one in page["publications"]] == ["kept", "kept as well"]
    late = await join(exits, stack, 1, "late")
    found = await late.subscribe(name, recover=True, offset=1, epoch=position["epoch"])
    assert (found["recovered"], [one["data"] for one in found["publications"]]) == (True, ["kept as well"])
    for client in clients:  # nobody was told that something is missing
        await client.expect_silence(0.2)


async def test_payloads_may_come_in_base64(stack: Stack, apis: list[Api], exits: AsyncExitStack, channel: str) -> None:
    client = await join(exits, stack, 1, "encoded")
    text = base64.b64encode(b' {"n":1.0} ').decode()
    await apis[0].call("subscribe", user="encoded", channel=channel, b64data=text, b64info=text, data="not this")
    assert (await client.push(channel, "subscribe"))["subscribe"]["data"] == {"n": 1}
    await apis[0].call("publish", channel=channel, b64data=text, data="not this")
    assert (await client.publication(channel))["data"] == {"n": 1}
    there = (await apis[0].call("presence", channel=channel))["presence"]
    assert [one["chan_info"] for one in there.values()] == [{"n": 1}]
    for method, member in (("publish", "b64data"), ("subscribe", "b64data"), ("subscribe", "b64info")):
        for wrong in ("?", "e30=e30=", base64.b64encode(b"\x00\x01").decode(), base64.b64encode(b"{").decode()):
            body = {"channel": channel, member: wrong} | ({"user": "u"} if method == "subscribe" else {})
            reply = (await apis[0].raw(method, json.dumps(body))).json()
            assert reply["error"]["code"] == 107
            assert member in reply["error"]["message"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_member_that_is_not_taken_is_refused_by_name(apis: list[Api], method: str) -> None:
    sound: dict[str, Any] = {"channel": "chat:x", "channels": [], "user": "u", "users": [], "commands": [], "data": 1}
    needs = {
        **dict.fromkeys(("publish", "history", "history_remove", "presence", "presence_stats"), "channel"),
        **dict.fromkeys(("disconnect", "refresh"), "user"),
        **dict.fromkeys(("subscribe", "unsubscribe"), "user channel"),
        **dict.fromkeys(("broadcast", "presence_counts"), "channels"),
        **dict.fromkeys(("presence_channels", "presence_remove"), "user"),
        **dict.fromkeys(("presence_enter", "presence_leave"), "user channel"),
        "presence_members": "channel",
        "presence_update": "user channel data",
        "presence_online": "users",
        "batch": "commands",
    }
    body = {name: sound[name] for name in needs.get(method, "").split()}
    response = await apis[0].raw(method, json.dumps(body | {"delta": True}))
    assert (response.status_code, response.json()["error"]["code"]) == (400, 107)
    assert "`delta`" in response.json()["error"]["message"]


async def test_integers_may_be_written_as_json_has_them(apis: list[Api], channel: str) -> None:
    for number in range(3):
        await apis[0].call("publish", channel=channel, data=number)
    response = await apis[0].raw("history", f'{{"channel":"{channel}","limit":1.0,"since":{{"offset":1e0}}}}')
    assert [one["offset"] for one in response.json()["result"]["publications"]] == [2]
    response = await apis[0].raw("disconnect", '{"user":"nobody","disconnect":{"code":4000.0}}')
    assert response.json() == {"result": {}}


async def test_errors_come_with_200(apis: list[Api]) -> None:
    api = apis[0]
    assert await api.error("publish", channel="nope:x", data=1) == 102
    assert await api.error("publish", channel="chat:é", data=1) == 107
    assert await api.error("publish", channel="", data=1) == 107
    assert await api.error("publish", channel="chat:x") == 107
    assert await api.error("publish", channel="chat:x", data="x" * 40_000) == 106
    assert await api.error("history", channel="tick:x") == 108
    assert await api.error("presence", channel="live:x") == 108
    assert await api.error("disconnect", user="") == 107
    assert await api.error("disconnect", user="x", disconnect={"code": 1000, "reason": "x"}) == 107
    assert await api.error("disconnect", user="x", disconnect={"code": 4000, "reason": "{}"}) == 107
    for wrong in ({}, {"user": "a", "token": "b"}, {"user": "x" * 256}, {"user": "a", "ttl_s": 0}):
        assert await api.error("revoke", **wrong) == 107


async def test_broadcast_answers_for_each_channel(apis: list[Api], channel: str) -> None:
    result = await apis[0].call("broadcast", channels=[f"{channel}-1", "nope:x", f"{channel}-2"], data={"n": 1})
    assert [next(iter(response)) for response in result["responses"]] == ["result", "error", "result"]
    assert result["responses"][1]["error"]["code"] == 102
    assert result["responses"][2]["result"]["offset"] == 1


async def test_disconnect_asked_of_edge_1_closes_a_client_of_edge_2(
    stack: Stack, apis: list[Api], exits: AsyncExitStack
) -> None:
    gone = await join(exits, stack, 1, "to-disconnect")
    stays = await join(exits, stack, 1, "somebody-else")
    await apis[0].call("disconnect", user="to-disconnect", disconnect={"code": 4501, "reason": "moved out"})
    assert await gone.expect_close() == (4501, "moved out")
    await stays.subscribe("chat:still")


@pytest.mark.parametrize("kind", ["user", "session", "token"])
async def test_revoke_asked_of_edge_1_ends_the_client_of_edge_2_and_its_token(
    stack: Stack, apis: list[Api], exits: AsyncExitStack, kind: str
) -> None:
    name = f"revoked-{secrets.token_hex(4)}"
    claims: dict[str, Any] = {"session": {"sid": name}, "token": {"jti": name}}.get(kind, {})
    user = name if kind == "user" else "somebody"
    gone = await join(exits, stack, 1, user, **claims)
    stays = await join(exits, stack, 1, "somebody-else")
    await apis[0].call("revoke", **{kind: name}, ttl_s=60)
    assert await gone.expect_close() == (3503, "force disconnect")
    for edge in (0, 1):
        refused = await exits.enter_async_context(WireClient(stack.ws_urls[edge]))
        await refused.post(connect={"token": stack.token(user, **claims)})
        assert await refused.expect_close() == (3500, "invalid token")
    again = await exits.enter_async_context(WireClient(stack.ws_urls[0]))
    await again.connect(stack.token(user, iat=int(time.time()) + 2))
    await stays.subscribe("chat:still")


async def test_a_whitelisted_client_stays(stack: Stack, apis: list[Api], exits: AsyncExitStack) -> None:
    gone, stays = [await exits.enter_async_context(WireClient(stack.ws_urls[1])) for _ in range(2)]
    await gone.connect(stack.token("listed"))
    kept = (await stays.connect(stack.token("listed")))["client"]
    await apis[0].call("disconnect", user="listed", whitelist=[kept])
    assert await gone.expect_close() == (3503, "force disconnect")
    await stays.subscribe("chat:still")


async def test_subscribe_and_unsubscribe_asked_of_edge_1_reach_a_client_of_edge_2(
    stack: Stack, apis: list[Api], exits: AsyncExitStack, channel: str
) -> None:
    client = await join(exits, stack, 1, "subscribed-by-us")
    await apis[0].call("publish", channel=channel, data="before")
    await apis[0].call(
        "subscribe", user="subscribed-by-us", channel=channel, data={"d": 1}, recover_since={"offset": 0, "epoch": ""}
    )
    push = (await client.push(channel, "subscribe"))["subscribe"]
    assert push["data"] == {"d": 1}
    assert (await client.publication(channel))["data"] == "before"
    await apis[0].call("publish", channel=channel, data="after")
    assert (await client.publication(channel))["data"] == "after"
    assert (await client.error(subscribe={"channel": channel}))["code"] == 105
    await apis[0].call("unsubscribe", user="subscribed-by-us", channel=channel)
    push = (await client.push(channel, "unsubscribe"))["unsubscribe"]
    assert push == {"code": 2000, "reason": "server unsubscribe"}
    await apis[0].call("publish", channel=channel, data="unheard")
    await client.expect_silence(0.3)


async def test_refresh_prolongs_or_ends_a_connection_of_the_other_edge(
    stack: Stack, apis: list[Api], exits: AsyncExitStack
) -> None:
    client = await join(exits, stack, 1, "to-refresh", ttl_s=600)
    await apis[0].call("refresh", user="to-refresh", expire_at=0)
    assert (await client.push("", "refresh"))["refresh"] == {}
    await apis[0].call("refresh", user="to-refresh", expired=True)
    assert await client.expect_close() == (3005, "connection expired")


@pytest.mark.parametrize("name", ["chat:positions", "live:positions"])
async def test_positions_that_no_log_can_have_are_refused_before_a_log_sees_them(apis: list[Api], name: str) -> None:
    await apis[0].call("publish", channel=name, data=1)
    for offset, status in (("-1", 400), ("-9223372036854775809", 400), ("18446744073709551616", 200), ("1.5", 400)):
        since = f'{{"offset":{offset},"epoch":""}}'
        for method, body in (
            ("history", f'{{"channel":"{name}","limit":1,"since":{since}}}'),
            ("subscribe", f'{{"user":"u","channel":"{name}","recover_since":{since}}}'),
        ):
            response = await apis[0].raw(method, body)
            assert (response.status_code, response.json()["error"]["code"]) == (status, 107), response.text
            assert "offset" in response.json()["error"]["message"]
    top = {"offset": 2**64 - 1, "epoch": ""}
    assert (await apis[0].call("history", channel=name, limit=1, since=top))["publications"] == []


async def test_history_pages_and_is_removed_without_the_position(
    stack: Stack, apis: list[Api], exits: AsyncExitStack, channel: str
) -> None:
    for name in (channel, channel.replace("chat:", "live:")):
        client = await join(exits, stack, 1, "reader", name)
        for number in range(5):
            await apis[0].call("publish", channel=name, data=number)
        result = await apis[1].call("history", channel=name, limit=2, since={"offset": 1, "epoch": ""})
        assert [entry["data"] for entry in result["publications"]] == [1, 2]
        epoch = result["epoch"]
        assert await apis[1].error("history", channel=name, limit=2, since={"offset": 1, "epoch": "x"}) == 112
        assert await apis[0].call("history_remove", channel=name) == {}
        assert await apis[1].call("history", channel=name, limit=9) == {
            "publications": [],
            "epoch": epoch,
            "offset": 5,
        }
        await apis[0].call("publish", channel=name, data="next")
        while (await client.publication(name))["data"] != "next":
            pass
        again = await join(exits, stack, 1, "late")
        assert "recovered" not in await again.subscribe(name, recover=True, offset=2, epoch=epoch)


async def test_presence_channels_and_info_are_those_of_all_edges(
    stack: Stack, apis: list[Api], exits: AsyncExitStack, channel: str
) -> None:
    for edge, user in ((0, "ann"), (1, "bob"), (1, "bob")):
        await join(exits, stack, edge, user, channel)
    there = (await apis[0].call("presence", channel=channel))["presence"]
    assert sorted(info["user"] for info in there.values()) == ["ann", "bob", "bob"]
    assert await apis[1].call("presence_stats", channel=channel) == {"num_clients": 3, "num_users": 2}
    assert (await apis[0].call("channels", pattern=channel))["channels"] == {channel: {"num_clients": 3}}
    nodes = (await apis[1].call("info"))["nodes"]
    assert len(nodes) == 2
    assert sum(node["num_clients"] for node in nodes) >= 3


async def test_connections_are_those_of_all_edges_page_by_page(
    stack: Stack, apis: list[Api], exits: AsyncExitStack
) -> None:
    """Also in a channel without presence."""
    user, channel = f"u-{secrets.token_hex(4)}", f"live:{secrets.token_hex(4)}"
    before = time.time()
    clients = [await join(exits, stack, edge, user, sid=f"s{number}") for number, edge in enumerate((0, 1, 1, 0, 1))]
    for client in clients[:3]:
        await client.subscribe(channel)
    ids = sorted(client.client_id for client in clients)
    for limit in (1, 2, 4, 5, 1_000):
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = await apis[limit % 2].call("connections", user=user, limit=limit, cursor=cursor)
            assert len(page["connections"]) <= limit
            found += page["connections"]
            cursor = page.get("cursor", "")
            if not cursor:
                break
        assert [one["client"] for one in found] == ids
    assert sorted(one["session"] for one in found) == ["s0", "s1", "s2", "s3", "s4"]
    assert all(before - 1 <= one["connected_at"] / 1000 <= time.time() + 1 for one in found)
    assert {(one["user"], one["transport"], one["protocol"]) for one in found} == {
        (user, "websocket", "centrifugal-json")
    }
    names = {one["edge"] for one in found}
    assert len(names) == 2
    there = (await apis[0].call("connections", channel=channel, with_channels=True))["connections"]
    assert [one["client"] for one in there] == sorted(client.client_id for client in clients[:3])
    assert [one["channels"] for one in there] == [[channel]] * 3
    for name, of_edge in ((one["edge"], one["edge_id"]) for one in found):
        for asked in (name, of_edge):
            on = {one["client"] for one in (await apis[0].call("connections", edge=asked, limit=1_000))["connections"]}
            assert on & set(ids) == {one["client"] for one in found if one["edge"] == name}
    for nothing in ({"user": "nobody"}, {"channel": "chat:nobody"}):
        assert await apis[1].call("connections", **nothing) == {"connections": []}
    text = str(found + there)
    assert not any(part in text for part in stack.token(user).split(".")[1:])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user": "a", "channel": "b"},
        {"user": "a", "limit": 0},
        {"user": "a", "limit": 1_001},
        {"user": "a", "limit": 101, "with_channels": True},
        {"user": "a" * 1_025},
        {"user": "a", "cursor": "a" * 1_025},
    ],
)
async def test_what_connections_can_not_do_is_107(apis: list[Api], body: dict[str, Any]) -> None:
    answer = await apis[0].raw("connections", json.dumps(body).encode())
    assert answer.json()["error"]["code"] == 107


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_batch_answers_each_command_in_order(apis: list[Api], channel: str, parallel: bool) -> None:
    commands = [
        {"publish": {"channel": channel, "data": 1}},
        {"nope": {}},
        {"publish": {"channel": "nope:x", "data": 1}},
        {"presence_stats": {"channel": channel}},
        {"publish": {"channel": 5}},
    ]
    replies = (await apis[0].call("batch", commands=commands, parallel=parallel))["replies"]
    assert replies[0]["publish"]["offset"] == 1
    assert [reply["error"]["code"] for reply in replies if "error" in reply] == [104, 102, 107]
    assert replies[3] == {"presence_stats": {"num_clients": 0, "num_users": 0}}


async def test_rpc_refresh_and_history_stay_on_their_node(stack: Stack, exits: AsyncExitStack, channel: str) -> None:
    client = await join(exits, stack, 0, "quiet", channel)
    await client.publish(channel, 1)
    await client.publication(channel)
    async with redis.asyncio.Redis.from_url(stack.redis_url) as conn, conn.pubsub() as everything:
        await everything.psubscribe("*")

        async def published() -> list[bytes]:
            """Since the last time, but for the edges' canaries; a marker of ours ends it."""
            marker = os.urandom(8).hex()
            await conn.publish("marker", marker)
            found: list[bytes] = []
            async for message in everything.listen():
                if message["type"] == "pmessage" and not message["channel"].startswith(b"t:canary:"):
                    if message["data"] == marker.encode():
                        return found
                    found.append(message["channel"])
            raise AssertionError("the connection ended")

        await published()
        await client.error(rpc={"method": "x", "data": {}})
        await client.call(refresh={"token": stack.token("quiet")})
        await client.call(history={"channel": channel, "limit": 5})
        assert await published() == []
        await client.publish(channel, 2)
        assert len(await published()) == 1


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/api/nope", "/nope", "/static/../config.py"])
async def test_B35_nothing_internal_is_on_the_public_port(stack: Stack, path: str) -> None:
    async with httpx.AsyncClient(base_url=stack.http_urls[0]) as http:
        assert (await http.get(path)).status_code == 404
