"""Subscribe and unsubscribe.

What is refused and in which order, which options are given, and what a failure leaves.
"""

from __future__ import annotations

import asyncio
import json
from itertools import product
from typing import Any

import pytest

from services.edge.domain.model import Publication
from services.edge.domain.replies import SubscribeResult
from services.edge.domain.session.node import Node
from services.edge.protocols.centrifugal import json_replies, protobuf_replies
from services.shared.errors import Unavailable
from services.shared.namespaces import DataFormat, Durability, Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle
from tests.support.memory import MemoryBroker

GRANTED = frozenset({Permission.GRANT})
NOBODY: frozenset[Permission] = frozenset()
FORCED = replace_namespace(OPEN, recovery=Mode.FORCE)
CLOSED = replace_namespace(OPEN, subscribe=GRANTED)


async def subscribe(client: Client, **request: Any) -> Any:
    """What subscribe is answered with.

    The result, the code of its error, or the code of the close.
    """
    command_id = await client.post(subscribe=request)
    if client.closed is not None:
        return client.closed[0]
    (line,) = [line for line in client.lines if line.get("id") == command_id]
    return line["error"]["code"] if "error" in line else line["subscribe"]


def expires(cluster: Cluster, in_s: float) -> float:
    return cluster.clock.unix + in_s


# What is refused.


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"channel": ""}, 3501),
        ({"channel": "a", "delta": "unknown"}, 3501),
        ({"channel": "a", "delta": "fossil"}, 0),
        ({"channel": "a" * 256}, 107),
        ({"channel": "a" * 255}, 0),
        ({"channel": "é" * 128}, 107),
        ({"channel": "x:" + "a" * 255}, 107),
        ({"channel": "x:a"}, 102),
        ({"channel": "a b"}, 107),
        ({"channel": "a", "type": 1}, 103),
        ({"channel": "a", "type": 4}, 108),
        ({"channel": "a", "tf": {"a": 1}}, 107),
        ({"channel": "$a"}, 103),
        ({"channel": "a#bob"}, 103),
        ({"channel": "a#bob,alice"}, 0),
        ({"channel": "closed:a"}, 103),
        ({"channel": "binary:a"}, 108),
        ({"channel": "a", "token": "x"}, 103),
    ],
    ids=lambda value: (
        str(value) if isinstance(value, int) else json.dumps(value).replace("a" * 255, "long").replace("\\u00e9", "e")
    ),
)
async def test_what_may_not_be_is_refused_by_name(request_: dict[str, Any], code: int) -> None:
    cluster = Cluster(closed=CLOSED, binary=replace_namespace(OPEN, data_format=DataFormat.BINARY))
    client = await connected(cluster, cluster.edge())
    found = await subscribe(client, **request_)
    assert (0 if isinstance(found, dict) else found) == code
    assert len(client.session.subscriptions) == (not code)


async def test_a_limit_of_channels_counts_those_that_are_there() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge(channels_per_client=2))
    for channel in ("a", "b"):
        await client.call(subscribe={"channel": channel})
    assert await subscribe(client, channel="a") == 105, "before the limit"
    assert await subscribe(client, channel="c") == 106
    assert await subscribe(client, channel="x:c") == 106, "before the namespace"
    await client.call(unsubscribe={"channel": "a"})
    await client.call(subscribe={"channel": "c"})


async def test_insecure_mode_asks_no_rule_and_nothing_expires() -> None:
    cluster = Cluster(default=replace_namespace(CLOSED, history=NOBODY, presence_read=NOBODY, recovery=Mode.OFF))
    client = await connected(cluster, cluster.edge(insecure=True))
    result = await client.call(subscribe={"channel": "$a", "recoverable": True, "join_leave": True})
    assert result["recoverable"]
    assert client.session.subscriptions["$a"].wants_joins
    token = cluster.token("alice", channel="b", ttl_s=60)
    assert "expires" not in await client.call(subscribe={"channel": "b", "token": token})
    assert client.session.subscriptions["b"].expires_at is None


# Tokens.


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({}, 0),
        ({"client": "me"}, 0),
        ({"channel": "other"}, 3500),
        ({"user": "bob"}, 3500),
        ({"client": "another"}, 3500),
        ({"ttl_s": 0}, 109),
        ({"expire_at": 0.0}, 110),
        ({"expire_at": -1.0}, 110),
        ({"expire_at": 1.0}, 0),
    ],
    ids=repr,
)
async def test_a_token_permits_this_channel_to_this_user_on_this_connection(claims: dict[str, Any], code: int) -> None:
    cluster = Cluster(default=CLOSED)
    client = await connected(cluster, cluster.edge())
    claims = {"user": "alice", "channel": "$a", **claims}
    if claims.get("client") == "me":
        claims["client"] = client.session.client
    if "expire_at" in claims:
        claims["expire_at"] = expires(cluster, claims["expire_at"])
    found = await subscribe(client, channel="$a", token=cluster.token(**claims))
    assert (0 if isinstance(found, dict) else found) == code
    if not code:
        assert client.session.subscriptions["$a"].granted


async def test_what_a_token_says_of_the_subscription_holds() -> None:
    cluster = Cluster(default=CLOSED)
    client = await connected(cluster, cluster.edge(ping_interval_s=0.0, expired_sub_close_delay_s=5.0))
    token = cluster.token("alice", channel="a", info={"r": 1}, data={"d": 2}, ttl_s=60)
    result = await client.call(subscribe={"channel": "a", "token": token})
    assert (result["data"], result["expires"], result["ttl"]) == ({"d": 2}, True, 54)
    assert cluster.presence.members_of["a"][client.session.client].chan_info == b'{"r":1}'
    await cluster.advance(64)
    assert client.pushes == []
    await cluster.advance(2)
    assert [push["unsubscribe"]["code"] for push in client.pushes] == [2501]


async def test_a_rule_grants_nothing_but_a_token_does() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, publish=GRANTED))
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    assert await client.error(publish={"channel": "a", "data": 1}) == 103
    await client.call(subscribe={"channel": "b", "token": cluster.token("alice", channel="b")})
    await client.call(publish={"channel": "b", "data": 1})


# Options.

MODES = {"off": Mode.OFF, "allow": Mode.ALLOW, "force": Mode.FORCE}
OFF_ON = (False, True)
UNSET_OFF_ON = (None, False, True)  # of an override in a token


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", ["recovery", "positioning"])
async def test_recovery_and_positioning_are_forced_or_asked_for_and_allowed(option: str, mode: str) -> None:
    other = {"recovery": "positioning", "positioning": "recovery"}[option]
    wish = {"recovery": "recoverable", "positioning": "positioned"}[option]
    base = replace_namespace(CLOSED, **{option: MODES[mode], other: Mode.OFF, "history": NOBODY})
    cluster = Cluster(default=base, read=replace_namespace(base, history=GRANTED))
    client = await connected(cluster, cluster.edge(commands_per_s=0))
    for number, (override, asked, may_read) in enumerate(product(UNSET_OFF_ON, OFF_ON, OFF_ON)):
        values = {} if override is None else {f"force_{option}": {"value": override}}
        channel = f"{'read:' if may_read else ''}{number}"
        token = cluster.token("alice", channel=channel, override=values)
        result = await client.call(subscribe={"channel": channel, "token": token, wish: asked})
        forced = mode == "force" if override is None else override
        given = forced or (asked and (mode != "off" or may_read))
        row = (override, asked, may_read)
        assert result.get(wish, False) == given, row
        assert result.get("positioned", False) == given, ("who may recover is positioned, too", row)
        assert result.get("recoverable", False) == (given and option == "recovery"), row
        assert ("epoch" in result) == given, row


@pytest.mark.parametrize(
    "namespace",
    [replace_namespace(FORCED, durability=Durability.NONE), replace_namespace(FORCED, history_size=0)],
    ids=["no-log", "no-history"],
)
async def test_without_a_log_there_is_no_position(namespace: Any) -> None:
    cluster = Cluster(default=namespace)
    client = await connected(cluster, cluster.edge())
    assert await client.call(subscribe={"channel": "a", "recoverable": True, "positioned": True}) == {}


@pytest.mark.parametrize("mode", MODES)
async def test_joins_are_announced_and_pushed_as_namespace_token_and_client_say(mode: str) -> None:
    base = replace_namespace(OPEN, join_leave=MODES[mode], presence_read=NOBODY)
    cluster = Cluster(default=base, read=replace_namespace(base, presence_read=GRANTED))
    client = await connected(cluster, cluster.edge(commands_per_s=0))
    for number, row in enumerate(product(UNSET_OFF_ON, UNSET_OFF_ON, OFF_ON, OFF_ON)):
        announce, push, asked, may_read = row
        options = {"join_leave": announce, "force_push_join_leave": push}
        values = {name: {"value": value} for name, value in options.items() if value is not None}
        channel = f"{'read:' if may_read else ''}{number}"
        token = cluster.token("alice", channel=channel, override=values)
        await client.call(subscribe={"channel": channel, "token": token, "join_leave": asked})
        subscription = client.session.subscriptions[channel]
        announces = mode != "off" if announce is None else announce
        pushes = mode == "force" if push is None else push
        assert subscription.announces == announces, row
        assert subscription.wants_joins == (announces and (pushes or (asked and may_read))), row
        joins = [one for one in client.pushes if "join" in one and one["channel"] == channel]
        assert len(joins) == subscription.wants_joins, row


@pytest.mark.parametrize(
    ("namespace", "override", "entered"), [(True, None, True), (True, False, False), (False, True, True)]
)
async def test_presence_is_as_the_namespace_or_the_token_says(
    namespace: bool, override: bool | None, entered: bool
) -> None:
    cluster = Cluster(default=replace_namespace(OPEN, presence=namespace))
    client = await connected(cluster, cluster.edge())
    values = {} if override is None else {"presence": {"value": override}}
    await client.call(
        subscribe={"channel": "a", "token": cluster.token("alice", channel="a", override=values)},
    )
    assert bool(cluster.presence.members_of.get("a")) == entered
    assert (client.session.presence.get("a") is not None) == entered


# The reply, and what follows it.


async def test_the_reply_precedes_what_came_while_the_subscription_was_made() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    client = await connected(cluster, node)
    go, written = asyncio.Event(), cluster.presence.written

    async def held(channel: str, client_id: str) -> bool:
        await go.wait()
        return await written(channel, client_id)

    cluster.presence.written = held  # type: ignore[method-assign, assignment]
    await client.post(subscribe={"channel": "a"})
    cluster.bus.append("a", Publication(b"7"), "", "", 10)
    await settle()
    assert len(client.lines) == 1
    go.set()
    await settle()
    assert client.lines[1]["subscribe"].get("offset", 0) == 0, "the position of the join"
    assert [one["data"] for one in client.publications("a")] == [7]


@pytest.mark.parametrize(
    ("asked", "rejects", "found"),
    [
        ({"recover": True, "offset": 1}, False, "recovered"),
        ({"recover": True, "offset": 1}, True, "recovered"),
        ({"recover": True, "offset": 9}, False, "not recovered"),
        ({"recover": True, "offset": 9}, True, 112),
        ({"offset": 1}, False, "not asked"),
        ({"offset": 1}, True, "not asked"),
    ],
    ids=repr,
)
async def test_recovery_is_told_and_counted(asked: dict[str, Any], rejects: bool, found: object) -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    for number in (1, 2, 3):
        cluster.bus.append("a", Publication(b"%d" % number), "", "", 10)
    client = await connected(cluster, node)
    result = await subscribe(client, channel="a", **asked, flag=2 if rejects else 0)
    if found == 112:
        assert result == 112
        assert not client.session.subscriptions
        assert not any(cluster.presence.members_of.values())
        assert node.counters.recoveries == {"not_recovered": 1}
        return
    assert result.get("recovered", False) == (found == "recovered")
    assert result.get("was_recovering", False) == (found != "not asked")
    assert result["offset"] == (1 if found == "recovered" else 3)
    assert [one["offset"] for one in result.get("publications", [])] == ([2, 3] if found == "recovered" else [])
    counted = {"recovered": {"recovered": 1}, "not recovered": {"not_recovered": 1}}
    assert node.counters.recoveries == counted.get(str(found), {})


async def test_a_subscription_that_is_only_positioned_does_not_recover() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, recovery=Mode.OFF, positioning=Mode.FORCE, history=NOBODY))
    cluster.bus.append("a", Publication(b"1"), "", "", 10)
    client = await connected(cluster, cluster.edge())
    result = await client.call(subscribe={"channel": "a", "recover": True})
    assert (result["offset"], result["was_recovering"]) == (1, True)
    assert "recovered" not in result
    assert "publications" not in result


# A client that is ahead of this edge.


async def lagging() -> tuple[Cluster, Node, MemoryBroker]:
    """An edge that has not heard of the second of two publications."""
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    broker = node.broker
    assert isinstance(broker, MemoryBroker)
    await (await connected(cluster, node, "bob")).call(subscribe={"channel": "a"})
    cluster.bus.append("a", Publication(b"1"), "", "", 10)
    broker.stalled = True
    cluster.bus.append("a", Publication(b"2"), "", "", 10)
    return cluster, node, broker


@pytest.mark.parametrize(
    ("asked", "reads"),
    [
        ({"recover": True, "offset": 2}, True),
        ({"recover": True, "offset": 2, "epoch": "epoch1"}, True),
        ({"recover": True, "offset": 1}, False),
        ({"recover": True, "offset": 2, "epoch": "another"}, False),
        ({"offset": 2}, False),
    ],
    ids=repr,
)
async def test_who_is_ahead_of_this_edge_has_it_read_the_log_first(asked: dict[str, Any], reads: bool) -> None:
    cluster, _, broker = await lagging()
    client = await connected(cluster, cluster.nodes[0])
    before = broker.reads
    result = await client.call(subscribe={"channel": "a", **asked})
    assert (broker.reads - before, result["offset"]) == ((1, 2) if reads else (0, 1))
    assert result.get("recovered", False) == (asked.get("recover", False) and asked.get("epoch") != "another")


async def test_whether_a_client_is_ahead_is_not_guessed_where_the_log_can_not_be_read() -> None:
    cluster, node, broker = await lagging()
    client = await connected(cluster, node)
    go = asyncio.Event()

    async def never(*_: object, **__: object) -> Any:
        await go.wait()
        raise Unavailable("away")

    broker.read = never  # type: ignore[method-assign]
    catch_up = node.hub.catch_up

    async def short(view: Any, _: float) -> None:
        await catch_up(view, 0.01)

    node.hub.catch_up = short  # type: ignore[method-assign, assignment]
    await client.post(subscribe={"channel": "a", "recover": True, "offset": 2})
    async with asyncio.timeout(30):
        while "error" not in client.lines[-1]:
            await asyncio.sleep(0.01)
    assert client.lines[-1]["error"]["code"] == 100
    go.set()


# What goes wrong meanwhile.


async def test_a_channel_that_is_closed_while_it_is_joined_is_opened_again_three_times_at_most() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    client = await connected(cluster, node)
    join, failures = node.hub.join, 2

    def failing(*arguments: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Unavailable("the channel was closed while being joined")
        return join(*arguments)

    node.hub.join = failing  # type: ignore[method-assign, assignment]
    await client.call(subscribe={"channel": "a"})
    failures = 3
    assert await client.error(subscribe={"channel": "b"}) == 100
    assert set(client.session.subscriptions) == {"a"}
    assert failures == 0


@pytest.mark.parametrize(
    ("at", "how"),
    [
        ("open", "unsubscribed"),
        ("open", "closed"),
        ("presence", "unsubscribed"),
        ("presence", "reset"),
        ("presence", "closed"),
    ],
)
async def test_a_subscription_that_ends_while_it_is_made_leaves_nothing(at: str, how: str) -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    client = await connected(cluster, node)
    go = asyncio.Event()
    if at == "open":
        real = node.broker.subscribe

        async def held(channel: str) -> None:
            await go.wait()
            await real(channel)

        node.broker.subscribe = held  # type: ignore[method-assign]
    else:

        async def waits(*_: object) -> bool:
            await go.wait()
            return True

        cluster.presence.written = waits  # type: ignore[method-assign, assignment]
    await client.post(subscribe={"channel": "a"})
    subscription = client.session.subscriptions["a"]
    if how == "unsubscribed":
        client.session.end_subscription(subscription, 2000)
    elif how == "reset":
        node.hub.was_reset("a", "another")
    else:
        await client.hang_up()
    go.set()
    await settle()
    assert not client.session.subscriptions
    assert not any(len(channel) for channel in node.hub.channels.values())
    assert not any(cluster.presence.members_of.values())
    found = [line["error"]["code"] for line in client.lines if "error" in line]
    assert found == ([] if how == "closed" else [100])


async def test_a_subscription_whose_reply_can_not_be_encoded_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may ask again: it is not "already subscribed" without knowing."""
    cluster = Cluster(default=FORCED)
    node = cluster.edge()
    client = await connected(cluster, node)
    with monkeypatch.context() as patch:
        patch.setitem(json_replies._RESULTS, SubscribeResult, lambda result: 1 / 0)  # noqa: SLF001
        patch.setitem(protobuf_replies._RESULTS, SubscribeResult, lambda message, result: 1 / 0)  # noqa: SLF001
        assert await subscribe(client, channel="a") == 100
    assert not client.session.subscriptions
    assert not any(len(channel) for channel in node.hub.channels.values())
    assert not any(cluster.presence.members_of.values())
    assert isinstance(await subscribe(client, channel="a"), dict)


async def test_a_buffer_that_ran_over_while_the_subscription_was_made_fails_it() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(join_buffer_size=2)
    client = await connected(cluster, node)
    go = asyncio.Event()

    async def waits(*_: object) -> bool:
        await go.wait()
        return True

    cluster.presence.written = waits  # type: ignore[method-assign, assignment]
    await client.post(subscribe={"channel": "a"})
    for _ in range(3):
        cluster.bus.append("a", Publication(b"1"), "", "", 10)
    go.set()
    await settle()
    assert client.lines[-1]["error"]["code"] == 100
    assert not client.session.subscriptions


async def test_a_presence_that_does_not_answer_fails_no_subscription() -> None:
    cluster = Cluster()
    cluster.presence.down = True
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    assert client.session.subscriptions["a"].live


# Unsubscribe.


async def test_unsubscribe_is_answered_once_presence_knows() -> None:
    cluster = Cluster()
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    asked: list[tuple[str, str]] = []

    async def written(channel: str, client_id: str) -> bool:
        asked.append((channel, client_id))
        return True

    cluster.presence.written = written  # type: ignore[method-assign, assignment]
    assert await client.call(unsubscribe={"channel": "a"}) == {}
    assert asked == [("a", client.session.client)]
    assert cluster.presence.left == [("a", client.session.client, 0.0)]
    assert not len(client.session.node.hub.channels["a"])
    assert await client.call(unsubscribe={"channel": "a"}) == {}
    assert len(asked) == 1
    await client.post(unsubscribe={"channel": ""})
    assert client.closed == (3501, "bad request")


async def test_unsubscribe_where_nobody_is_on_a_roster_asks_no_presence() -> None:
    cluster = Cluster(default=replace_namespace(OPEN, presence=False))
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})

    async def written(*_: object) -> bool:
        raise AssertionError("asked")

    cluster.presence.written = written  # type: ignore[method-assign, assignment]
    assert await client.call(unsubscribe={"channel": "a"}) == {}
