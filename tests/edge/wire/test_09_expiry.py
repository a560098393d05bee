"""Wire protocol, 9 and 5.8: when to refresh, and what an expired token does.

And a new `info`.
"""

from __future__ import annotations

from typing import Any

import pytest

from services.edge.domain.session.rpc import RpcContext
from services.shared.namespaces import Mode
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace


@pytest.mark.parametrize(
    ("left_s", "ttl"), [(1, 1), (5, 4), (60, 54), (300, 270), (301, 271), (3_600, 3_570), (10**10, 365 * 86_400)]
)
async def test_ttl_is_30_s_or_a_tenth_before_the_expiry(left_s: int, ttl: int) -> None:
    cluster = Cluster()
    client = Client(cluster, cluster.edge())
    result = await client.call(connect={"token": cluster.token("alice", ttl_s=left_s)})
    assert result["ttl"] == ttl


async def expired(cluster: Cluster) -> Client:
    """A client with a subscription, 5 s after its token has expired."""
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0), claims={"ttl_s": 60})
    await client.call(subscribe={"channel": "room"})
    for request in COMMANDS:
        await client.call(**request)
    await cluster.advance(65)
    assert client.closed is None
    return client


COMMANDS: list[dict[str, Any]] = [
    {"publish": {"channel": "room", "data": 1}},
    {"history": {"channel": "room", "limit": 1}},
    {"presence": {"channel": "room"}},
    {"presence_stats": {"channel": "room"}},
]


@pytest.mark.parametrize("request_", COMMANDS, ids=lambda request: next(iter(request)))
async def test_after_the_expiry_a_command_is_109_and_nothing_happens(request_: dict[str, Any]) -> None:
    cluster = Cluster()
    client = await expired(cluster)
    before = len(client.publications("room"))
    reply = await client.reply(**request_)
    assert reply["error"]["code"] == 109
    assert len(client.publications("room")) == before
    await client.call(refresh={"token": cluster.token("alice", ttl_s=300)})
    await client.call(**request_)


async def test_after_the_expiry_subscribe_and_unsubscribe_go_on() -> None:
    client = await expired(Cluster())
    await client.call(subscribe={"channel": "another"})
    await client.call(unsubscribe={"channel": "another"})


async def test_rpc_is_109_too() -> None:
    cluster = Cluster()

    async def echo(context: RpcContext, data: bytes) -> bytes:
        return data

    cluster.rpc.register("echo", echo)
    client = await expired(cluster)
    reply = await client.reply(rpc={"method": "echo", "data": 1})
    assert reply["error"]["code"] == 109


async def test_a_new_info_is_what_publications_and_presence_show_on_every_edge() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, join_leave=Mode.FORCE))
    client = await connected(cluster, cluster.edge(), claims={"info": {"v": 1}})
    other = await connected(cluster, cluster.edge(), "bob")
    for one in (other, client):
        await one.call(subscribe={"channel": "room"})
    joins = [push for push in other.pushes if "join" in push]
    await client.call(refresh={"token": cluster.token("alice", ttl_s=300, info={"v": 2})})
    await client.call(publish={"channel": "room", "data": 1})
    assert other.publications("room")[-1]["info"]["conn_info"] == {"v": 2}
    roster = (await other.call(presence={"channel": "room"}))["presence"]
    assert roster[client.session.client]["conn_info"] == {"v": 2}
    *before, update = [push for push in other.pushes if "join" in push]
    assert before == joins  # nobody has come or gone
    assert update["join"] == {"info": roster[client.session.client], "updated": True}
    await client.call(unsubscribe={"channel": "room"})
    left = [push["leave"]["info"] for push in other.pushes if "leave" in push]
    assert [info["conn_info"] for info in left] == [{"v": 2}]


async def test_chan_info_stays_when_info_is_replaced() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"info": {"v": 1}})
    token = cluster.token("alice", channel="room", info={"role": "x"})
    await client.call(subscribe={"channel": "room", "token": token})
    await client.call(refresh={"token": cluster.token("alice", ttl_s=300, info={"v": 2})})
    await client.call(publish={"channel": "room", "data": 1})
    assert client.publications("room")[-1]["info"]["conn_info"] == {"v": 2}
    assert client.publications("room")[-1]["info"]["chan_info"] == {"role": "x"}
