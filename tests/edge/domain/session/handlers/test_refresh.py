"""Refresh of connections and subscriptions.

Which tokens are taken, and what they change.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.edge import Client, Cluster, connected


async def ask(client: Client, kind: str, **request: Any) -> int:
    """The code of the error or of the close; 0: it was answered."""
    command_id = await client.post(**{kind: request})
    if client.closed is not None:
        return client.closed[0]
    (line,) = [line for line in client.lines if line.get("id") == command_id]
    code: int = line.get("error", {}).get("code", 0)
    return code


# The token of the connection.


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({}, 0),
        ({"ttl_s": 0}, 3005),
        ({"expire_at": 1_800_000_000.0}, 3005),
        ({"expire_at": 1_800_000_001.0}, 0),
        ({"user": "bob"}, 3500),
        ({"user": ""}, 3500),
        ({"channel": "a"}, 3500),
        ({"channels": []}, 3010),
        ({"channels": ["a", "b"]}, 3010),
        ({"channels": ["b"]}, 3010),
        ({"subs": {"a": {"info": {"other": 1}}}}, 0),
    ],
    ids=repr,
)
async def test_a_token_of_the_same_user_and_channels_is_taken(claims: dict[str, Any], code: int) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(), claims={"channels": ["a"]})
    token = cluster.token(**{"user": "alice", "channels": ["a"], **claims})
    assert await ask(client, "refresh", token=token) == code


@pytest.mark.parametrize(("token", "code"), [("", 3501), ("x", 3500)])
async def test_what_is_no_token_ends_the_connection(token: str, code: int) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    assert await ask(client, "refresh", token=token) == code


async def test_the_new_token_replaces_expiry_info_and_sign_in() -> None:
    cluster = Cluster()
    client = await connected(
        cluster, cluster.edge(ping_interval_s=0.0), claims={"ttl_s": 60, "info": {"v": 1}, "sid": "s1"}
    )
    await cluster.advance(50)
    token = cluster.token("alice", ttl_s=100, info={"v": 2}, sid="s2")
    assert await client.call(refresh={"token": token}) == {"expires": True, "ttl": 90}
    assert (client.session.conn_info, client.session.token_session) == (b'{"v":2}', "s2")
    await cluster.advance(124)
    assert client.closed is None
    await cluster.advance(2)
    assert client.closed == (3005, "connection expired")


async def test_a_token_without_an_expiry_ends_the_expiry() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0), claims={"ttl_s": 10})
    assert await client.call(refresh={"token": cluster.token("alice", ttl_s=None)}) == {}
    await cluster.advance(60)
    assert client.closed is None


async def test_it_affects_this_connection_alone() -> None:
    cluster = Cluster()
    node = cluster.edge(ping_interval_s=0.0, expired_close_delay_s=1.0)
    first, second = [await connected(cluster, node, claims={"ttl_s": 10}) for _ in range(2)]
    await first.call(refresh={"token": cluster.token("alice", ttl_s=100)})
    await cluster.advance(12)
    assert (first.closed, second.closed) == (None, (3005, "connection expired"))


# The token of a subscription.


@pytest.mark.parametrize(
    ("request_", "claims", "code"),
    [
        ({"channel": "a"}, {}, 0),
        ({}, {}, 0),
        ({"channel": "a"}, {"client": "me"}, 0),
        ({"channel": "a"}, {"client": "another"}, 3500),
        ({"channel": "a"}, {"user": "bob"}, 3500),
        ({}, {"user": "bob"}, 3500),
        ({"channel": "a"}, {"channel": "b"}, 3500),
        ({"channel": "c"}, {"channel": "c"}, 103),
        ({}, {"channel": "c"}, 103),
        ({"channel": "a"}, {"ttl_s": 0}, 109),
        ({}, {"ttl_s": 0}, 109),
        ({"channel": "a"}, {"expire_at": 1_800_000_000.0}, 110),
        ({"channel": "a"}, {"expire_at": 1_800_000_001.0}, 0),
        ({"channel": "a"}, {"channel": None}, 3500),
        ({}, {"channel": None}, 3501),
        ({"channel": "a"}, None, 107),
        ({"channel": "c"}, None, 103),
        ({}, None, 3501),
    ],
    ids=repr,
)
async def test_a_token_for_this_subscription_is_taken(
    request_: dict[str, str], claims: dict[str, Any] | None, code: int
) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=60)})
    await client.call(subscribe={"channel": "b"})
    if claims is not None:
        claims = {"user": "alice", "channel": "a", **claims}
        if claims.get("client") == "me":
            claims["client"] = client.session.client
        if claims["channel"] is None:
            del claims["channel"]
        request_ = {**request_, "token": cluster.token(**claims)}
    assert await ask(client, "sub_refresh", **request_) == code


@pytest.mark.parametrize("named", [False, True], ids=["without-channel", "with-channel"])
async def test_the_subscription_ends_when_the_new_token_says(named: bool) -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0, expired_sub_close_delay_s=5.0))
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=10)})
    request = {"channel": "a"} if named else {}
    await cluster.advance(8)
    token = cluster.token("alice", channel="a", ttl_s=20)
    assert await client.call(sub_refresh={**request, "token": token}) == {"expires": True, "ttl": 18}
    await cluster.advance(24)
    assert client.pushes == []
    await cluster.advance(2)
    assert [push["unsubscribe"]["code"] for push in client.pushes] == [2501]


async def test_a_subscription_token_without_an_expiry_ends_the_expiry_and_an_earlier_one_counts_at_once() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0, expired_sub_close_delay_s=1.0))
    await client.call(subscribe={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=10)})
    assert (
        await client.call(sub_refresh={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=None)}) == {}
    )
    await cluster.advance(20)
    assert client.pushes == []
    await client.call(sub_refresh={"channel": "a", "token": cluster.token("alice", channel="a", ttl_s=2)})
    await cluster.advance(4)
    assert [push["unsubscribe"]["code"] for push in client.pushes] == [2501]
