"""Wire protocol, 5.1 (connect), 9 (tokens) and 12 (server-side subscriptions)."""

from __future__ import annotations

import json
import uuid

import pytest

from services.shared.namespaces import Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace

OUTSIDE = frozenset({Permission.ANYONE})


async def test_5_1_a_valid_token_is_answered_with_client_version_and_pings() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(), client_id=str(uuid.uuid4()))
    result = await client.call(connect={"token": cluster.token("alice", ttl_s=None)})
    assert result == {"client": client.session.client, "version": result["version"], "ping": 25, "pong": True}
    assert result["version"]


async def test_5_1_anything_before_connect_closes_3501() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await client.post(subscribe={"channel": "room"})
    assert client.closed == (3501, "bad request")
    assert client.lines == []


async def test_5_1_a_second_connect_closes_3501() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.post(connect={})
    assert client.closed == (3501, "bad request")


async def test_5_1_no_connect_within_ten_seconds_closes_3502() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await cluster.advance(9.8)
    assert client.closed is None
    await cluster.advance(0.4)
    assert client.closed == (3502, "stale")


async def test_5_1_commands_in_the_frame_of_connect_run_after_it_in_order() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await client.raw(
        json.dumps({"id": 1, "connect": {"token": cluster.token("alice")}})
        + "\n"
        + json.dumps({"id": 2, "subscribe": {"channel": "a"}})
        + "\n"
        + json.dumps({"id": 3, "subscribe": {"channel": "b"}})
    )
    assert [line["id"] for line in client.lines if "id" in line] == [1, 2, 3]
    assert all("error" not in line for line in client.lines)


async def test_5_1_no_token_closes_3501_unless_anonymous_is_allowed() -> None:
    cluster = Cluster()
    refused = Client(cluster, cluster.edge())
    await refused.post(connect={})
    assert refused.closed == (3501, "bad request")
    allowed = Client(cluster, cluster.edge(allow_anonymous=True))
    assert "client" in await allowed.call(connect={})
    assert allowed.session.user == ""


@pytest.mark.parametrize("token", ["x", "a.b.c", "..", "eyJhbGciOiJub25lIn0.e30."])
async def test_5_1_a_token_that_is_none_closes_3500(token: str) -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await client.post(connect={"token": token})
    assert client.closed == (3500, "invalid token")


async def test_5_1_a_subscription_token_closes_3500() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    await client.post(connect={"token": cluster.token("alice", channel="room")})
    assert client.closed == (3500, "invalid token")


@pytest.mark.parametrize("claims", [{"ttl_s": -1}, {"ttl_s": 300, "nbf": 1_900_000_000}], ids=["expired", "nbf"])
async def test_5_1_an_expired_token_is_error_109_and_the_connection_is_of_no_more_use(claims: dict[str, float]) -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    token = cluster.token("alice", **claims)
    await client.raw(
        json.dumps({"id": 1, "connect": {"token": token}}) + "\n" + json.dumps({"id": 2, "subscribe": {"channel": "a"}})
    )
    assert client.lines == [{"id": 1, "error": {"code": 109, "message": "token expired"}}]
    assert client.closed is None
    assert client.connection.dropped_after == 5.0
    await client.post(subscribe={"channel": "room"})
    assert len(client.lines) == 1


async def test_5_1_expire_at_in_the_past_is_error_110() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    assert await client.error(connect={"token": cluster.token("alice", expire_at=1_000)}) == 110


async def test_5_1_a_channel_of_an_unknown_namespace_in_the_token_is_error_102() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    assert await client.error(connect={"token": cluster.token("alice", channels=["nope:x"])}) == 102


async def test_5_1_a_token_without_user_closes_3507_where_anonymous_tokens_are_forbidden() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(disallow_anonymous_tokens=True))
    await client.post(connect={"token": cluster.token()})
    assert client.closed == (3507, "permission denied")
    other = Client(cluster, cluster.edge())
    assert "client" in await other.call(connect={"token": cluster.token()})


async def test_5_1_too_many_connections_of_a_user_close_3504() -> None:
    cluster = Cluster()
    node = cluster.edge(connections_per_user=2)
    first = await connected(cluster, node)
    await connected(cluster, node)
    third = Client(cluster, node)
    await third.post(connect={"token": cluster.token("alice")})
    assert third.closed == (3504, "connection limit")
    await connected(cluster, node, "bob")
    await first.hang_up()
    await connected(cluster, node)


async def test_5_1_a_limit_of_zero_connections_per_user_is_no_limit() -> None:
    cluster = Cluster()
    node = cluster.edge(connections_per_user=0)
    for _ in range(120):
        await connected(cluster, node)


async def test_5_1_more_server_side_channels_than_allowed_close_3505() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(channels_per_client=3))
    await client.post(connect={"token": cluster.token("alice", channels=["a", "b", "c", "d"])})
    assert client.closed == (3505, "channel limit")


async def test_5_1_an_internal_failure_is_temporary_error_100() -> None:
    cluster = Cluster()
    cluster.bus.down = True
    client = Client(cluster, cluster.edge())
    reply = await client.reply(connect={"token": cluster.token("alice", channels=["a"])})
    assert reply["error"] == {"code": 100, "message": "internal server error", "temporary": True}


async def test_5_1_a_refused_connect_is_counted_by_kind_and_by_code() -> None:
    cluster = Cluster()
    node = cluster.edge()
    assert await Client(cluster, node).error(connect={"token": cluster.token("alice", ttl_s=-1)}) == 109
    assert await Client(cluster, node).error(connect={"token": cluster.token("alice", channels=["nope:x"])}) == 102
    cluster.bus.down = True
    assert await Client(cluster, node).error(connect={"token": cluster.token("alice", channels=["a"])}) == 100
    assert node.counters.errors == {109: 1, 102: 1, 100: 1}
    assert node.counters.commands == {"connect": 3}


async def test_5_1_a_connect_refused_because_of_overload_says_when_to_come_again() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, recovery=Mode.FORCE))
    token = cluster.token("alice", channels=["a"])
    first = Client(cluster, cluster.edge())
    epoch = (await first.call(connect={"token": token}))["subs"]["a"]["epoch"]
    await first.call(publish={"channel": "a", "data": 1})
    full = cluster.edge(max_waiting_reads=0)
    late = Client(cluster, full)
    reply = await late.reply(connect={"token": token, "subs": {"a": {"recover": True, "epoch": epoch}}})
    assert reply["error"] == {"code": 111, "message": "too many requests", "temporary": True, "retry_after_ms": 1000}
    assert late.connection.dropped_after == 5.0
    assert full.counters.errors == {111: 1}


async def test_9_an_expiring_token_is_told_and_closes_3005_after_ttl_and_grace() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge(ping_interval_s=0.0))
    result = await client.call(connect={"token": cluster.token("alice", ttl_s=60)})
    assert (result["expires"], result["ttl"]) == (True, 54)  # a tenth before the end
    await cluster.advance(84.5)
    assert client.closed is None
    await cluster.advance(1.0)
    assert client.closed == (3005, "connection expired")


async def test_9_expire_at_is_the_expiry_instead_of_exp_and_zero_is_never() -> None:
    cluster = Cluster()
    node = cluster.edge()
    later = Client(cluster, node)
    result = await later.call(connect={"token": cluster.token("a", expire_at=cluster.clock.unix + 100)})
    assert result["ttl"] == 90
    never = Client(cluster, node)
    result = await never.call(connect={"token": cluster.token("a", expire_at=0)})
    assert "expires" not in result
    assert "ttl" not in result


async def test_9_ttl_is_capped_at_a_year() -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    result = await client.call(connect={"token": cluster.token("alice", ttl_s=10 * 365 * 86_400)})
    assert result["ttl"] == 365 * 86_400


async def test_9_info_becomes_conn_info_byte_for_byte() -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = await connected(cluster, node, claims={"info": {"name": "Ann", "big": 12345678901234567890123}})
    await client.call(subscribe={"channel": "room"})
    presence = await client.call(presence={"channel": "room"})
    assert presence["presence"][client.session.client] == {
        "user": "alice",
        "client": client.session.client,
        "conn_info": {"name": "Ann", "big": 12345678901234567890123},
    }


async def test_10_insecure_mode_connects_without_token_and_nothing_expires_but_a_sent_token_is_verified() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, subscribe=frozenset({Permission.NOBODY})))
    node = cluster.edge(insecure=True)
    client = Client(cluster, node)
    await client.call(connect={})
    await client.call(subscribe={"channel": "room"})
    await client.call(publish={"channel": "room", "data": 1})
    expiring = Client(cluster, node)
    assert "expires" not in await expiring.call(connect={"token": cluster.token("alice", ttl_s=5)})
    wrong = Client(cluster, node)
    await wrong.post(connect={"token": "wrong"})
    assert wrong.closed == (3500, "invalid token")
    assert await client.error(subscribe={"channel": "nope:x"}) == 102


async def test_12_channels_of_the_token_are_in_the_connect_result_with_their_positions() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, recovery=Mode.FORCE))
    node = cluster.edge()
    client = Client(cluster, node)
    result = await client.call(connect={"token": cluster.token("alice", channels=["a", "b"])})
    assert set(result["subs"]) == {"a", "b"}
    assert result["subs"]["a"] == {"recoverable": True, "epoch": result["subs"]["a"]["epoch"], "positioned": True}
    assert await client.error(subscribe={"channel": "a"}) == 105


async def test_12_subs_claim_wins_over_channels_and_carries_info_data_and_override() -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = Client(cluster, node)
    subs = {"a": {"info": {"r": 1}, "data": {"d": 2}, "override": {"presence": {"value": False}}}}
    result = await client.call(connect={"token": cluster.token("alice", subs=subs, channels=["b"])})
    assert set(result["subs"]) == {"a"}
    assert result["subs"]["a"]["data"] == {"d": 2}
    assert cluster.presence.members_of.get("a", {}) == {}
    await client.call(publish={"channel": "a", "data": 1})
    assert client.publications("a")[0]["info"]["chan_info"] == {"r": 1}


async def test_12_server_side_subscriptions_recover_from_the_positions_the_client_sends() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, recovery=Mode.FORCE))
    node = cluster.edge()
    token = cluster.token("alice", channels=["a"])
    client = Client(cluster, node)
    epoch = (await client.call(connect={"token": token}))["subs"]["a"]["epoch"]
    await client.hang_up()
    other = await connected(cluster, node, "bob", claims={"channels": ["a"]})
    for number in (1, 2):
        await other.call(publish={"channel": "a", "data": number})
    back = Client(cluster, node)
    result = await back.call(
        connect={"token": token, "subs": {"a": {"recover": True, "epoch": epoch}, "other": {"recover": True}}}
    )
    assert set(result["subs"]) == {"a"}  # names in `subs` create no subscription (20)
    assert result["subs"]["a"]["recovered"] is True
    assert [pub["data"] for pub in result["subs"]["a"]["publications"]] == [1, 2]


async def test_12_losing_the_position_of_a_server_side_subscription_closes_3010() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, recovery=Mode.FORCE))
    node = cluster.edge()
    client = await connected(cluster, node, claims={"channels": ["a"]})
    node.hub.was_reset("a", "another")
    assert client.closed == (3010, "insufficient state")


@pytest.mark.parametrize(("namespace", "channel"), [("", "#alice"), ("personal", "personal:#alice")])
async def test_10_the_personal_channel_is_subscribed_at_connect(namespace: str, channel: str) -> None:
    cluster = Cluster(personal=OPEN)
    node = cluster.edge(personal_channel=True, personal_channel_namespace=namespace)
    client = Client(cluster, node)
    assert set((await client.call(connect={"token": cluster.token("alice")}))["subs"]) == {channel}
    mallory = await connected(cluster, node, "mallory")
    assert await mallory.error(subscribe={"channel": channel}) == 103


async def test_16_the_connect_reply_precedes_every_push() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, join_leave=Mode.FORCE))
    client = Client(cluster, cluster.edge())
    await client.call(connect={"token": cluster.token("alice", channels=["a"])})
    assert "connect" in client.lines[0]
    assert client.lines[1]["push"]["join"]["info"]["client"] == client.session.client


async def test_a_token_that_expires_beyond_all_numbers_connects_without_pings_too() -> None:
    cluster = Cluster(default=OPEN)
    client = Client(cluster, cluster.edge(ping_interval_s=0))
    reply = await client.call(connect={"token": cluster.token("alice", ttl_s=None, exp=1.7e308)})
    assert reply["ttl"] == 365 * 86_400
