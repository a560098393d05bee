"""Wire protocol, 5.4 to 5.9: publish, presence, rpc, send and refreshes."""

from __future__ import annotations

import pytest

from services.edge.domain.session.rpc import RpcContext
from services.shared.namespaces import DataFormat, Durability, Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace

NONE = replace_namespace(OPEN, durability=Durability.NONE, recovery=Mode.OFF, positioning=Mode.OFF)
STORED = replace_namespace(OPEN, durability=Durability.STORED)


async def subscribed(cluster: Cluster, channel: str = "a", user: str = "alice") -> Client:
    client = await connected(cluster, cluster.nodes[0] if cluster.nodes else cluster.edge(), user)
    await client.call(subscribe={"channel": channel})
    return client


async def test_5_4_publish_is_answered_and_pushed_with_the_publishers_info() -> None:
    cluster = Cluster()
    client = await subscribed(cluster)
    result = await client.call(publish={"channel": "a", "data": {"n": 1}})
    assert result == {"offset": 1, "epoch": result["epoch"]}  # our extension
    assert client.publications("a") == [
        {
            "data": {"n": 1},
            "info": {"user": "alice", "client": client.session.client},
            "offset": 1,
            "time": 1_800_000_000_000,
            "epoch": result["epoch"],
        }
    ]


async def test_5_4_without_a_log_there_is_no_position() -> None:
    cluster = Cluster(tick=NONE)
    client = await subscribed(cluster, "tick:a")
    assert await client.call(publish={"channel": "tick:a", "data": 1}) == {}
    assert "offset" not in client.publications("tick:a")[0]


async def test_6_the_epoch_stands_in_a_live_publication_only_with_offset_1() -> None:
    cluster = Cluster()
    client = await subscribed(cluster)
    for number in range(3):
        await client.call(publish={"channel": "a", "data": number})
    assert ["epoch" in pub for pub in client.publications("a")] == [True, False, False]


@pytest.mark.parametrize(
    "data", ["null", "0", '"x"', "[]", "1.0", "12345678901234567890123", "1e308", '{"b":1,"a":[2]}']
)
async def test_5_4_any_json_value_is_data_and_is_carried_byte_for_byte(data: str) -> None:
    cluster = Cluster()
    client = await subscribed(cluster)
    await client.raw('{"id":77,"publish":{"channel":"a","data":' + data + "}}")
    assert f'"data":{data}'.encode() in client.texts[-1] + client.texts[-2]


async def test_5_4_absent_data_is_107() -> None:
    cluster = Cluster()
    client = await subscribed(cluster)
    assert await client.error(publish={"channel": "a"}) == 107


async def test_5_4_a_namespace_may_demand_an_object() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, data_format=DataFormat.OBJECT))
    client = await subscribed(cluster)
    assert await client.error(publish={"channel": "a", "data": [1]}) == 107
    await client.call(publish={"channel": "a", "data": {}})


async def test_5_4_errors_by_name() -> None:
    cluster = Cluster()
    client = await subscribed(cluster)
    assert await client.error(publish={"channel": "nope:x", "data": 1}) == 102
    assert await client.error(publish={"channel": "not-subscribed", "data": 1}) == 103
    assert await client.error(publish={"channel": "a", "data": 1, "type": 1}) == 108
    await client.post(publish={"data": 1})
    assert client.closed == (3501, "bad request")


async def test_B28_data_over_the_bound_is_106_and_nothing_is_kept() -> None:
    cluster = Cluster()
    client = await subscribed(cluster)
    await client.call(publish={"channel": "a", "data": "x" * 32_766})
    assert await client.error(publish={"channel": "a", "data": "x" * 32_767}) == 106
    assert cluster.bus.log("a").top == 1


async def test_B28_a_repeated_key_returns_the_first_position_and_another_users_key_is_independent() -> None:
    cluster = Cluster()
    alice, bob = await subscribed(cluster), await subscribed(cluster, user="bob")
    ask = {"channel": "a", "data": 1, "idempotency_key": "k"}
    first = await alice.call(publish=ask)
    assert await alice.call(publish={**ask, "data": "other"}) == first
    assert (await bob.call(publish=ask))["offset"] == 2
    assert [pub["data"] for pub in alice.publications("a")] == [1, 1]
    assert await alice.error(publish={**ask, "idempotency_key": "k" * 129}) == 107


async def test_exclude_self_spares_the_sender_and_nobody_else() -> None:
    cluster = Cluster()
    alice, bob = await subscribed(cluster), await subscribed(cluster, user="bob")
    await alice.call(publish={"channel": "a", "data": 1, "exclude_self": True})
    await alice.call(publish={"channel": "a", "data": 2})
    assert [pub["data"] for pub in alice.publications("a")] == [2]
    assert [pub["data"] for pub in bob.publications("a")] == [1, 2]
    page = await bob.call(history={"channel": "a", "limit": 10})
    assert [pub["data"] for pub in page["publications"]] == [1, 2]


async def test_publish_rate_of_a_namespace_answers_111() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, publish_rate=2.0))
    client = await subscribed(cluster)
    codes = [await client.reply(publish={"channel": "a", "data": n}) for n in range(3)]
    assert ["error" in reply for reply in codes] == [False, False, True]
    assert codes[2]["error"]["code"] == 111


async def test_5_5_presence_and_stats_of_a_channel() -> None:
    cluster = Cluster()
    alice, bob = await subscribed(cluster), await subscribed(cluster, user="bob")
    again = await subscribed(cluster, user="bob")
    there = (await alice.call(presence={"channel": "a"}))["presence"]
    assert {client: info["user"] for client, info in there.items()} == {
        alice.session.client: "alice",
        bob.session.client: "bob",
        again.session.client: "bob",
    }
    assert await alice.call(presence_stats={"channel": "a"}) == {"num_clients": 3, "num_users": 2}


async def test_5_5_nobody_is_an_empty_map_and_zeros() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, presence_read=frozenset({Permission.AUTHENTICATED})))
    client = await connected(cluster, cluster.edge())
    assert await client.call(presence={"channel": "empty"}) == {"presence": {}}
    assert await client.call(presence_stats={"channel": "empty"}) == {"num_clients": 0, "num_users": 0}


@pytest.mark.parametrize("command", ["presence", "presence_stats"])
async def test_5_5_errors_by_name(command: str) -> None:
    cluster = Cluster(off=replace_namespace(OPEN, presence=False))
    client = await connected(cluster, cluster.edge())
    assert await client.error(**{command: {"channel": "off:a"}}) == 108
    assert await client.error(**{command: {"channel": "nope:a"}}) == 102
    assert await client.error(**{command: {"channel": "a"}}) == 103
    cluster.presence.down = True
    await client.call(subscribe={"channel": "a"})
    assert await client.error(**{command: {"channel": "a"}}) == 100
    await client.post(**{command: {}})
    assert client.closed == (3501, "bad request")


async def test_F14_a_presence_that_does_not_answer_harms_no_subscribe_nor_publish() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    cluster.presence.down = True
    await client.call(subscribe={"channel": "a"})
    await client.call(publish={"channel": "a", "data": 1})
    assert [pub["data"] for pub in client.publications("a")] == [1]


async def test_5_7_an_unknown_method_is_104_and_a_known_one_answers() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())

    async def echo(context: RpcContext, data: bytes) -> bytes:
        return b'{"user":"' + context.user.encode() + b'","got":' + data + b"}"

    cluster.rpc.register("echo", echo)
    assert await client.error(rpc={"method": "x", "data": {}}) == 104
    assert await client.call(rpc={"method": "echo", "data": [1]}) == {"data": {"user": "alice", "got": [1]}}


async def test_5_7_a_server_that_takes_no_messages_closes_3508() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.raw('{"send":{"data":1}}')
    assert client.closed == (3508, "not available")


async def test_5_8_refresh_prolongs_and_its_info_replaces_the_old() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0), claims={"ttl_s": 60})
    await cluster.advance(70)
    result = await client.call(refresh={"token": cluster.token("alice", ttl_s=100, info={"v": 2})})
    assert result == {"expires": True, "ttl": 90}
    await cluster.advance(100)
    assert client.closed is None
    await client.call(subscribe={"channel": "a"})
    await client.call(publish={"channel": "a", "data": 1})
    assert client.publications("a")[0]["info"]["conn_info"] == {"v": 2}
    await cluster.advance(30)
    assert client.closed == (3005, "connection expired")


async def test_20_refresh_to_a_token_without_exp_drops_the_expiry() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0), claims={"ttl_s": 60})
    assert await client.call(refresh={"token": cluster.token("alice", ttl_s=None)}) == {}
    await cluster.advance(200)
    assert client.closed is None


@pytest.mark.parametrize(
    ("user", "claims", "code"),
    [
        ("", {}, 3501),
        ("alice", {"ttl_s": -1}, 3005),
        ("bob", {}, 3500),
        ("alice", {"channel": "a"}, 3500),
        ("alice", {"channels": ["b"]}, 3010),
    ],
    ids=["no-token", "expired", "other-user", "subscription-token", "other-channels"],
)
async def test_5_8_refresh_that_fails_closes(user: str, claims: dict[str, object], code: int) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    token = cluster.token(user, **claims) if user else ""  # type: ignore[arg-type]
    await client.post(refresh={"token": token} if token else {})
    assert client.closed is not None
    assert client.closed[0] == code


async def test_5_9_sub_refresh_prolongs_the_subscription() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0), claims={"ttl_s": 10_000})
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=60)})
    await cluster.advance(70)
    renewed = cluster.token("alice", channel="a", ttl_s=100)
    assert await client.call(sub_refresh={"channel": "a", "token": renewed}) == {"expires": True, "ttl": 90}
    await cluster.advance(110)
    assert client.pushes == []
    await cluster.advance(20)
    assert client.pushes[-1]["unsubscribe"]["code"] == 2501


async def test_5_9_without_channel_the_token_says_which() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=60)})
    token = cluster.token("alice", channel="a", ttl_s=100)
    assert await client.call(sub_refresh={"token": token}) == {"expires": True, "ttl": 90}


async def test_5_9_sub_refresh_errors() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=60)})
    token = cluster.token("alice", channel="b")
    assert await client.error(sub_refresh={"channel": "b", "token": token}) == 103
    assert await client.error(sub_refresh={"channel": "a"}) == 107
    expired = cluster.token("alice", channel="a", ttl_s=-1)
    assert (
        await client.error(sub_refresh={"channel": "a", "token": expired}) == 109
    )  # 20: upstream would keep it for ever


@pytest.mark.parametrize(
    "request_",
    [{}, {"channel": "a", "token": "x"}, {"channel": "a", "token": "other"}],
    ids=["none", "invalid", "other"],
)
async def test_5_9_sub_refresh_that_closes(request_: dict[str, str]) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    if request_.get("token") == "other":
        request_["token"] = cluster.token("alice", channel="b")
    await client.post(sub_refresh=request_)
    assert client.closed is not None
    assert client.closed[0] == (3500 if request_ else 3501)
