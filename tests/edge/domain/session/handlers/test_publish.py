"""Publish: what is refused and in which order, rates, keys, new channels."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.edge.domain.access.grants import NEVER, Operation
from services.edge.domain.session.node import Node
from services.shared.errors import Busy, Unavailable
from services.shared.namespaces import DataFormat, Durability, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle

SIGNED_IN = frozenset({Permission.AUTHENTICATED})
NOBODY: frozenset[Permission] = frozenset()
FREE = replace_namespace(OPEN, publish=SIGNED_IN)
PLAIN = replace_namespace(FREE, durability=Durability.NONE)


def made(**settings: Any) -> tuple[Cluster, Node]:
    cluster = Cluster(
        default=FREE,
        members=OPEN,
        closed=replace_namespace(FREE, publish=NOBODY),
        plain=PLAIN,
        binary=replace_namespace(FREE, data_format=DataFormat.BINARY),
        object=replace_namespace(FREE, data_format=DataFormat.OBJECT),
    )
    return cluster, cluster.edge(**settings)


async def publish(client: Client, channel: str, data: Any = 1, **more: Any) -> Any:
    """What publish is answered with.

    The result, the code of its error, or the code of the close.
    """
    command_id = await client.post(publish={"channel": channel, "data": data, **more})
    if client.closed is not None:
        return client.closed[0]
    (line,) = [line for line in client.lines if line.get("id") == command_id]
    return line["error"]["code"] if "error" in line else line["publish"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"channel": "", "data": 1}, 3501),
        ({"channel": "a b", "data": 1}, 107),
        ({"channel": "x:a", "data": 1}, 102),
        ({"channel": "a" * 256, "data": 1}, 107),
        ({"channel": "a"}, 107),
        ({"channel": "a", "data": 1, "type": 1}, 108),
        ({"channel": "a", "type": 1}, 108),
        ({"channel": "closed:a", "data": 1}, 103),
        ({"channel": "closed:a"}, 107),
        ({"channel": "members:a", "data": 1}, 103),
        ({"channel": "binary:a", "data": 1}, 108),
        ({"channel": "object:a", "data": 1}, 107),
        ({"channel": "object:a", "data": {}}, 0),
        ({"channel": "a", "data": 1, "idempotency_key": "k" * 129}, 107),
        ({"channel": "a", "data": None}, 0),
        ({"channel": "plain:a", "data": 1}, 0),
    ],
    ids=lambda value: str(value).replace("a" * 256, "long").replace("k" * 129, "long"),
)
async def test_what_may_not_be_is_refused_by_name_and_nothing_is_published(request_: dict[str, Any], code: int) -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    command_id = await client.post(publish=request_)
    if code > 1_000:
        assert client.closed is not None
        assert client.closed[0] == code
    else:
        (line,) = [line for line in client.lines if line.get("id") == command_id]
        assert line.get("error", {}).get("code", 0) == code
    assert bool(cluster.bus.logs) == (not code and not request_["channel"].startswith("plain"))


async def test_who_is_subscribed_may_publish_where_the_rule_says_so() -> None:
    cluster, node = made()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "members:a"})
    assert (await publish(client, "members:a"))["offset"] == 1
    client.session.subscriptions["members:a"].live = False  # its reply is not queued yet
    assert await publish(client, "members:a") == 103
    client.session.subscriptions["members:a"].live = True
    await client.call(unsubscribe={"channel": "members:a"})
    assert await publish(client, "members:a") == 103


async def test_insecure_mode_asks_no_rule() -> None:
    cluster, node = made(insecure=True, new_channels_per_minute=1)
    client = await connected(cluster, node)
    for number in range(3):
        assert (await publish(client, f"closed:{number}"))["offset"] == 1


async def test_a_publication_carries_the_info_of_its_subscription_or_of_the_client() -> None:
    cluster, node = made()
    bob = await connected(cluster, node, "bob", claims={"info": {"v": 1}})
    reader = await connected(cluster, node, "ann")
    await reader.call(subscribe={"channel": "a"})
    await publish(bob, "a", 1)
    await bob.call(subscribe={"channel": "a", "token": cluster.token("bob", channel="a", info={"r": 2})})
    await publish(bob, "a", 2)
    infos = [one["info"] for one in reader.publications("a")]
    mine = {"user": "bob", "client": bob.session.client, "conn_info": {"v": 1}}
    assert infos == [mine, {**mine, "chan_info": {"r": 2}}]
    assert [one.time_ms for one in cluster.bus.log("a").entries] == [int(cluster.clock.unix * 1000)] * 2


async def test_exclude_self_spares_the_publisher_alone() -> None:
    cluster, node = made()
    ann, bob = await connected(cluster, node, "ann"), await connected(cluster, node, "bob")
    for client in (ann, bob):
        await client.call(subscribe={"channel": "a"})
    await publish(ann, "a", 1, exclude_self=True)
    await publish(ann, "a", 2)
    assert [[one["data"] for one in client.publications("a")] for client in (ann, bob)] == [[2], [1, 2]]


async def test_a_key_is_its_users_and_anonymous_clients_share_none() -> None:
    cluster = Cluster(default=replace_namespace(FREE, publish=frozenset({Permission.ANYONE})))
    node = cluster.edge(allow_anonymous=True)
    ann, ann_again, bob = [await connected(cluster, node, user) for user in ("ann", "ann", "bob")]
    anonymous = [Client(cluster, node, client_id=f"c{number}") for number in range(2)]
    for client in anonymous:
        await client.call(connect={})
    offsets = [
        (await publish(client, "a", 1, idempotency_key="k"))["offset"]
        for client in (ann, ann_again, ann, bob, *anonymous, *anonymous)
    ]
    assert offsets == [1, 1, 1, 2, 3, 4, 3, 4]


# The rate of a namespace.


async def test_a_client_publishes_at_most_at_the_rate_of_the_namespace() -> None:
    limited = replace_namespace(FREE, publish_rate=2)
    cluster = Cluster(default=FREE, slow=limited, other=limited)
    node = cluster.edge()
    ann, bob = await connected(cluster, node, "ann"), await connected(cluster, node, "bob")
    assert [await publish(ann, f"slow:{number}") == 111 for number in range(4)] == [False, False, True, True]
    reply = await ann.reply(publish={"channel": "slow:0", "data": 1})
    assert reply["error"]["retry_after_ms"] == 500
    assert (await publish(ann, "other:a"))["offset"] == 1, "each namespace has its own"
    assert (await publish(bob, "slow:0"))["offset"] == 2, "and each client"
    cluster.clock.now += 0.5
    assert [await publish(ann, "slow:0") == 111 for _ in range(2)] == [False, True]
    for _ in range(10):
        await ann.call(publish={"channel": "a", "data": 1})
    carl = await connected(cluster, node, "carl")
    await carl.call(publish={"channel": "a", "data": 1})
    assert carl.session.publish_buckets is None, "where there is no rate, nothing is kept for one"


async def test_what_is_refused_takes_none_of_the_rate() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, publish_rate=1))
    client = await connected(cluster, cluster.edge())
    for _ in range(3):
        assert await publish(client, "a") == 103
    await client.call(subscribe={"channel": "a"})
    await client.post(publish={"channel": "a"})
    assert (await publish(client, "a"))["offset"] == 1
    assert await publish(client, "a") == 111


# Channels that nobody used before.


async def test_a_new_channel_takes_a_token_of_its_user() -> None:
    cluster, node = made(new_channels_per_minute=2)
    client = await connected(cluster, node)
    for channel in ("a", "b", "a", "b"):
        await client.call(publish={"channel": channel, "data": 1})
    assert await publish(client, "c") == 111
    assert set(cluster.bus.logs) == {"a", "b"}
    await client.call(publish={"channel": "plain:c", "data": 1})  # leaves nothing
    cluster.bus.log("d")
    assert (await publish(client, "d"))["offset"] == 1, "it exists"
    await (await connected(cluster, node, "bob")).call(subscribe={"channel": "e"})
    assert (await publish(client, "e"))["offset"] == 1, "it is open on this edge"


@pytest.mark.parametrize("channel", ["closed:a", "members:a", "binary:a", "x:a", "a b"])
async def test_a_publication_that_is_refused_begins_no_channel(channel: str) -> None:
    cluster, node = made(new_channels_per_minute=1)
    client = await connected(cluster, node)
    for _ in range(3):
        assert await publish(client, channel) in (102, 103, 107, 108)
    await client.call(publish={"channel": "new", "data": 1})


@pytest.mark.parametrize(
    ("channel", "more", "code"),
    [
        ("closed:a", {}, 103),
        ("binary:a", {}, 108),
        ("a b", {}, 107),
        ("d", {"type": 1}, 108),
        ("d", {"idempotency_key": "k" * 129}, 107),
        ("new", {}, 111),
        ("d", {}, 0),
    ],
    ids=["permission", "format", "name", "map", "key", "new", "accepted"],
)
async def test_who_began_too_many_is_checked_in_the_same_way(channel: str, more: dict[str, Any], code: int) -> None:
    cluster, node = made(new_channels_per_minute=1)
    client = await connected(cluster, node)
    await client.call(publish={"channel": "a", "data": 1})
    cluster.bus.log("d")
    found = await publish(client, channel, **more)
    assert found == code if code else found == {"offset": 1, "epoch": cluster.bus.log("d").epoch}


@pytest.mark.parametrize(("error", "code"), [(Unavailable("down"), 100), (Busy(), 111)])
async def test_who_began_too_many_is_told_what_the_log_says(error: Exception, code: int) -> None:
    cluster, node = made(new_channels_per_minute=1)
    client = await connected(cluster, node)
    await client.call(publish={"channel": "a", "data": 1})
    cluster.bus.log("d")
    asked = asyncio.Event()

    async def fails(*arguments: Any, **options: Any) -> Any:
        asked.set()
        raise error

    node.broker.append = fails  # type: ignore[method-assign]
    assert await publish(client, "d") == code
    assert asked.is_set()
    await settle()
    assert node.publisher.admission.redis.waiting == 0


async def test_a_client_that_left_before_the_log_answered_troubles_nobody() -> None:
    cluster, node = made(new_channels_per_minute=1)
    client = await connected(cluster, node)
    await client.call(publish={"channel": "a", "data": 1})
    cluster.bus.log("d")
    may_answer, append = asyncio.Event(), node.broker.append

    async def late(*arguments: Any, **options: Any) -> Any:
        await may_answer.wait()
        return await append(*arguments, **options)

    node.broker.append = late  # type: ignore[method-assign]
    trouble: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))
    await client.post(publish={"channel": "d", "data": 1})
    await client.hang_up()
    may_answer.set()
    await settle()
    assert cluster.bus.log("d").top == 1
    assert trouble == []


@pytest.mark.parametrize(("taken", "code"), [(False, 0), (True, 103)])
async def test_a_grant_that_changes_while_the_limit_is_asked_for_is_looked_at_again(
    taken: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(private=replace_namespace(FREE, publish=frozenset({Permission.GRANT})))
    node = cluster.edge()
    await cluster.grants.give_grants("alice", ["private:a"], [Operation.PUBLISH], NEVER)
    client = await connected(cluster, node)
    limit = Limit()
    monkeypatch.setattr(node, "publish_limit", limit)
    command_id = await client.post(publish={"channel": "private:a", "data": 1})
    assert limit.asked == 1
    if taken:
        await cluster.grants.take_grants("alice", [], [])
    node.grants.forget("alice")
    limit.go.set()
    await settle()
    (line,) = [line for line in client.lines if line.get("id") == command_id]
    assert line.get("error", {}).get("code", 0) == code


class Limit:
    """A limit of publications that is asked for, and answers when the test says."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0

    def is_ready(self, who: str) -> bool:
        return self.go.is_set()

    async def refill(self, who: str) -> None:
        self.asked += 1
        await self.go.wait()

    def take(self, who: str) -> None:
        """Permit it."""
