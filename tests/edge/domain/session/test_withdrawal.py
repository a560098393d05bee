"""What goes on of a subscription when grants change, also while it is made."""

from __future__ import annotations

import asyncio

import pytest

from services.edge.domain.access.grants import NEVER, Operation
from services.edge.domain.session.withdrawal import grants_changed
from services.shared.namespaces import Mode, Namespace, Permission
from tests.support.edge import OPEN, SIGNED_IN, Client, Cluster, connected, replace_namespace, settle

GRANT = frozenset({Permission.GRANT})
PRIVATE = Namespace(name="private", presence=True, join_leave=Mode.ALLOW, subscribe=GRANT, presence_read=GRANT)
BOTH = [Operation.SUBSCRIBE, Operation.PRESENCE]


async def half_subscribed(cluster: Cluster, channel: str) -> tuple[Client, asyncio.Event]:
    """A client whose subscribe waits for presence, until the event is set."""
    node = cluster.edge(ping_interval_s=0.0)
    client = await connected(cluster, node, "ann")
    go, written = asyncio.Event(), node.presence.written

    async def held(channel: str, client: str) -> bool:
        await go.wait()
        return await written(channel, client)

    node.presence.written = held  # type: ignore[method-assign]
    await client.post(subscribe={"channel": channel, "join_leave": True})
    assert not client.session.subscriptions[channel].live
    return client, go


async def sees_joins(cluster: Cluster, client: Client, channel: str) -> bool:
    other = await connected(cluster, client.session.node, "bob", claims={"channels": [channel]})
    await settle()
    assert other.closed is None
    return any(push["join"]["info"]["user"] == "bob" for push in client.pushes if "join" in push)


@pytest.mark.parametrize("namespace", [OPEN, replace_namespace(OPEN, presence_read=frozenset({Permission.SUBSCRIBER}))])
async def test_a_change_while_a_client_subscribes_does_not_cost_it_the_joins(namespace: Namespace) -> None:
    cluster = Cluster(chat=replace_namespace(namespace, presence=True, join_leave=Mode.ALLOW))
    client, go = await half_subscribed(cluster, "chat:a")
    await grants_changed(client.session.node, "ann")
    go.set()
    await settle()
    assert await sees_joins(cluster, client, "chat:a")


@pytest.mark.parametrize("left", [[], [Operation.PRESENCE], BOTH])
async def test_a_subscription_that_is_being_made_gets_what_is_left(left: list[Operation]) -> None:
    cluster = Cluster(private=PRIVATE)
    await cluster.grants.give_grants("ann", ["private:*"], BOTH, NEVER)
    client, go = await half_subscribed(cluster, "private:a")
    await cluster.grants.take_grants("ann", [], [])
    if left != [Operation.PRESENCE]:
        await cluster.grants.give_grants("ann", ["private:*"], left or [Operation.SUBSCRIBE], NEVER)
    await grants_changed(client.session.node, "ann")
    go.set()
    await settle()
    if left == [Operation.PRESENCE]:
        assert [line["error"]["code"] for line in client.lines if "error" in line] == [100]
        return
    assert await sees_joins(cluster, client, "private:a") is (left == BOTH)


async def test_a_subscription_is_not_made_if_what_permitted_it_ends_while_grants_are_read() -> None:
    """The token permits it; only the history needs stored grants.

    A refresh brings a token without them.
    """
    cluster = Cluster(private=replace_namespace(PRIVATE, history=GRANT, recovery=Mode.OFF, positioning=Mode.OFF))
    node = cluster.edge(ping_interval_s=0.0)
    caps = [{"channels": ["private:a"], "allow": ["sub"]}]
    client = await connected(cluster, node, "ann", claims={"caps": caps})
    cluster.grants.hold = asyncio.Event()
    await client.post(subscribe={"channel": "private:a", "recoverable": True})
    await settle()
    assert cluster.grants.asked == ["ann"]
    client.session.caps = type(client.session.caps)()
    cluster.grants.hold.set()
    await settle()
    assert [line["error"]["code"] for line in client.lines if "error" in line] == [103]
    assert client.session.subscriptions == {}


# A plain subscribe does not ask for what only its options need.


@pytest.mark.parametrize("asked", [{}, {"recoverable": True}, {"positioned": True}, {"join_leave": True}])
@pytest.mark.parametrize("mode", [Mode.OFF, Mode.ALLOW, Mode.FORCE])
async def test_stored_grants_are_read_only_where_the_answer_matters(asked: dict[str, bool], mode: Mode) -> None:
    team = replace_namespace(
        OPEN, subscribe=SIGNED_IN, history=GRANT, presence_read=GRANT, recovery=mode, positioning=mode, join_leave=mode
    )
    cluster = Cluster(team=team)
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0), "alice")
    cluster.grants.away = True
    reply = await client.reply(subscribe={"channel": "team:a", **asked})
    needs_history = mode is Mode.OFF and ("recoverable" in asked or "positioned" in asked)
    needs_presence = mode is Mode.ALLOW and "join_leave" in asked
    if needs_history or needs_presence:
        assert reply["error"]["code"] == 100
        assert cluster.grants.asked == ["alice"]
    else:
        assert "subscribe" in reply
        assert cluster.grants.asked == []


async def test_a_stored_grant_permits_to_subscribe_although_the_grants_of_the_token_have_expired() -> None:
    cluster = Cluster(private=PRIVATE)
    node = cluster.edge(ping_interval_s=0.0)
    caps = [{"channels": ["private:a", "private:b"], "allow": ["sub"]}]
    client = await connected(cluster, node, "ann", claims={"ttl_s": 10, "caps": caps})
    await cluster.grants.give_grants("ann", ["private:a"], [Operation.SUBSCRIBE], NEVER)
    await cluster.advance(12)
    assert "subscribe" in await client.reply(subscribe={"channel": "private:a"})
    assert (await client.reply(subscribe={"channel": "private:b"}))["error"]["code"] == 109
