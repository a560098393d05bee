"""Wire protocol, 11: history, positioning, recovery.

The join of stream and live feed.
"""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from services.edge.domain.ends import ClientEnd
from services.edge.domain.model import Publication
from services.shared.namespaces import Durability, Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle
from tests.support.memory import MemoryBroker

FORCED = replace_namespace(OPEN, recovery=Mode.FORCE, history=frozenset({Permission.AUTHENTICATED}))


async def filled(count: int, **settings: int) -> tuple[Cluster, Client, str]:
    cluster = Cluster(default=FORCED)
    client = await connected(cluster, cluster.edge(commands_per_s=0, **settings))
    epoch = (await client.call(subscribe={"channel": "a"}))["epoch"]
    for number in range(1, count + 1):
        await client.call(publish={"channel": "a", "data": number})
    return cluster, client, epoch


def numbers(result: dict[str, list[dict[str, int]]]) -> list[int]:
    return [pub["data"] for pub in result.get("publications", [])]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, []),
        ({"limit": 0}, []),
        ({"limit": 3}, [1, 2, 3]),
        ({"limit": -1}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"limit": -7}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"limit": 2, "reverse": True}, [10, 9]),
        ({"limit": 3, "since": {"offset": 4}}, [5, 6, 7]),
        ({"limit": 3, "since": {"offset": 4}, "reverse": True}, [3, 2, 1]),
        ({"limit": 3, "since": {"offset": 10}}, []),
        ({"limit": 3, "since": {"offset": 99}}, []),
        ({"limit": 3, "since": {}}, [1, 2, 3]),
    ],
)
async def test_11_2_history(request_: dict[str, object], expected: list[int]) -> None:
    _, client, epoch = await filled(10)
    result = await client.call(history={"channel": "a", **request_})
    assert numbers(result) == expected
    assert (result["offset"], result["epoch"]) == (10, epoch)
    assert isinstance(result["publications"], list)


async def test_B29_history_limits_are_cut_to_300() -> None:
    _, client, _ = await filled(310)
    assert numbers(await client.call(history={"channel": "a", "limit": 5_000})) == list(range(1, 301))
    assert numbers(await client.call(history={"channel": "a", "limit": -1, "reverse": True})) == list(
        range(310, 10, -1)
    )


async def test_11_2_since_older_than_the_oldest_kept_starts_at_the_oldest() -> None:
    cluster = Cluster(default=replace_namespace(FORCED, history_size=3))
    client = await connected(cluster, cluster.edge())
    await client.call(subscribe={"channel": "a"})
    for number in range(1, 8):
        await client.call(publish={"channel": "a", "data": number})
    assert numbers(await client.call(history={"channel": "a", "limit": 9, "since": {"offset": 1}})) == [5, 6, 7]


async def test_B29_history_errors() -> None:
    _, client, epoch = await filled(3)
    assert await client.error(history={"channel": "a", "limit": 1, "since": {"offset": 1, "epoch": "x"}}) == 112
    assert await client.error(history={"channel": "a", "limit": 1, "since": {"epoch": epoch}, "reverse": True}) == 107
    assert await client.error(history={"channel": "nope:a"}) == 102
    await client.post(history={})
    assert client.closed == (3501, "bad request")


async def test_5_6_no_history_is_108_and_no_permission_103() -> None:
    none = replace_namespace(OPEN, durability=Durability.NONE, recovery=Mode.OFF, positioning=Mode.OFF)
    cluster = Cluster(tick=none)
    client = await connected(cluster, cluster.edge())
    assert await client.error(history={"channel": "tick:a"}) == 108
    assert await client.error(history={"channel": "a"}) == 103


async def test_16_after_the_publish_reply_a_history_call_sees_the_publication() -> None:
    _, client, _ = await filled(1)
    await client.raw('{"id":50,"publish":{"channel":"a","data":2}}\n{"id":51,"history":{"channel":"a","limit":9}}')
    found = next(line for line in client.lines if line.get("id") == 51)
    assert numbers(found["history"]) == [1, 2]


async def resubscribe(cluster: Cluster, **request: object) -> dict[str, object]:
    client = await connected(cluster, cluster.nodes[0], "bob")
    result: dict[str, object] = await client.call(subscribe={"channel": "a", "recover": True, **request})
    return result


async def test_11_4_what_was_missed_is_in_the_reply_and_the_offset_echoes_the_request() -> None:
    cluster, _, epoch = await filled(10)
    result = await resubscribe(cluster, offset=7, epoch=epoch)
    assert numbers(result) == [8, 9, 10]  # type: ignore[arg-type]
    assert {key: result[key] for key in ("recovered", "was_recovering", "offset", "epoch")} == {
        "recovered": True,
        "was_recovering": True,
        "offset": 7,
        "epoch": epoch,
    }


async def test_11_4_nothing_missed_is_recovered_without_publications() -> None:
    cluster, _, epoch = await filled(3)
    result = await resubscribe(cluster, offset=3, epoch=epoch)
    assert result["recovered"] is True
    assert "publications" not in result


async def test_11_4_an_empty_epoch_matches_any() -> None:
    cluster, _, _ = await filled(3)
    assert numbers(await resubscribe(cluster)) == [1, 2, 3]  # type: ignore[arg-type]


async def test_11_4_zero_and_no_epoch_on_a_new_stream_is_recovered_with_nothing() -> None:
    cluster, _, _ = await filled(0)
    result = await resubscribe(cluster)
    assert result["recovered"] is True
    assert "offset" not in result


@pytest.mark.parametrize(
    ("offset", "epoch"), [(3, "another"), (11, ""), (99, "")], ids=["epoch", "beyond-the-top", "far-beyond"]
)
async def test_B29_what_cannot_be_recovered_is_told_with_the_top_and_never_a_part(offset: int, epoch: str) -> None:
    cluster, _, current = await filled(10)
    result = await resubscribe(cluster, offset=offset, epoch=epoch)
    assert "recovered" not in result
    assert "publications" not in result
    assert (result["offset"], result["epoch"], result["was_recovering"]) == (10, current, True)


async def test_11_4_more_than_may_be_recovered_is_not() -> None:
    cluster, _, epoch = await filled(21, recovery_limit=5, recovery_total=20)
    assert "recovered" not in await resubscribe(cluster, epoch=epoch)
    assert (await resubscribe(cluster, epoch=epoch, offset=1))["recovered"] is True


async def test_11_4_up_to_the_recovery_limit_all_is_in_the_reply() -> None:
    cluster, _, epoch = await filled(21, recovery_limit=20)
    assert len(numbers(await resubscribe(cluster, epoch=epoch, offset=1))) == 20  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"recovery_limit": 20}, {"reply_max_bytes": 100}], ids=["number", "bytes"])
async def test_11_4_more_than_a_reply_may_carry_follows_it_in_pages(settings: dict[str, int]) -> None:
    cluster, publisher, epoch = await filled(200, **settings)
    client = await connected(cluster, cluster.nodes[0], "bob")
    result = await client.call(subscribe={"channel": "a", "recover": True, "offset": 3, "epoch": epoch})
    await settle()
    for number in (201, 202):
        await publisher.call(publish={"channel": "a", "data": number})
    await settle()
    assert (result["recovered"], result["offset"], result["epoch"]) == (True, 3, epoch)
    first = [pub["offset"] for pub in result["publications"]]
    later = [pub["offset"] for pub in client.publications("a")]
    assert first
    assert first + later == list(range(4, 203))
    subscribed = next(index for index, line in enumerate(client.lines) if "subscribe" in line)
    assert all("push" not in line for line in client.lines[:subscribed])


async def test_11_4_pages_come_at_the_pace_that_the_client_takes_and_nothing_is_held_meanwhile() -> None:
    cluster, publisher, epoch = await filled(100, recovery_limit=10, ring_size=1)
    client = await connected(cluster, cluster.nodes[0], "bob")
    client.connection.replies_wait = True
    client.send(f'{{"id":7,"subscribe":{{"channel":"a","recover":true,"epoch":"{epoch}"}}}}')
    client.connection.replies_wait = False
    client.session.replies_taken()
    client.connection.replies_wait = True  # the reply is more than it takes at once
    await settle()
    await settle()
    assert client.publications("a") == []
    await publisher.call(publish={"channel": "a", "data": 101})
    (subscription,) = [one for one in client.session.subscriptions.values() if one.channel == "a"]
    assert not subscription.held
    assert client.publications("a") == []
    await client.raw('{"id":8,"presence_stats":{"channel":"a"}}')  # waits behind what it asked for before
    client.connection.replies_wait = False
    client.session.replies_taken()
    for _ in range(10):
        await settle()
    assert [pub["offset"] for pub in client.publications("a")] == list(range(11, 102))


@pytest.mark.parametrize("end", ["unsubscribe", "closed", "api"])
async def test_11_4_a_subscription_that_ends_amid_pages_leaves_nothing(end: str) -> None:
    cluster, publisher, epoch = await filled(100, recovery_limit=10, ring_size=1)
    node = cluster.nodes[0]
    client = await connected(cluster, node, "bob")
    result = client.post(subscribe={"channel": "a", "recover": True, "epoch": epoch})
    client.connection.replies_wait = False
    task = asyncio.ensure_future(result)
    while not any("subscribe" in line for line in client.lines):
        await asyncio.sleep(0)
    client.connection.replies_wait = True
    await task
    before = len(client.publications("a"))
    assert before < 90
    assert len(node.hub.channels["a"]) == 2
    if end == "unsubscribe":
        client.send('{"id":9,"unsubscribe":{"channel":"a"}}')
        client.connection.replies_wait = False
        client.session.replies_taken()
    elif end == "closed":
        client.protocol.closed(ClientEnd.CLOSED)
    else:
        client.session.end_subscription(client.session.subscriptions["a"], 2000)
    await settle()
    after = len(client.publications("a"))
    await publisher.call(publish={"channel": "a", "data": 101})
    client.connection.replies_wait = False
    client.session.replies_taken()
    for _ in range(10):
        await settle()
    assert len(client.publications("a")) == after
    assert len(node.hub.channels["a"]) == 1
    assert not [task for task in asyncio.all_tasks() if "catch_up" in repr(task)]


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize("fault", ["cut", "epoch", "epoch, and the edge does not hear of it"])
async def test_11_4_a_log_that_is_cut_or_begins_anew_amid_pages_is_told(fault: str, server_side: bool) -> None:
    cluster, _, epoch = await filled(100, recovery_limit=10, ring_size=1)
    node = cluster.nodes[0]
    wish = {"recover": True, "offset": 1, "epoch": epoch}
    client = Client(cluster, node)
    if server_side:
        claims = {"sub": "bob", "subs": {"a": {}}}
        line = {"id": 1, "connect": {"token": cluster.token("bob", subs=claims["subs"]), "subs": {"a": wish}}}
        client.send(json.dumps(line))
    else:
        client = await connected(cluster, node, "bob")
        line = {"id": 9, "subscribe": {"channel": "a", **wish}}
        client.send(json.dumps(line))
    while not any("subscribe" in one or "subs" in one.get("connect", {}) for one in client.lines):
        await asyncio.sleep(0)
    client.connection.replies_wait = True
    await settle()
    log = cluster.bus.log("a")
    if fault == "cut":
        log.entries = log.entries[-3:]
    else:
        assert isinstance(node.broker, MemoryBroker)
        node.broker.stalled = fault != "epoch"
        cluster.bus.reset("a", epoch)
        for number in range(100):
            cluster.bus.append("a", Publication(data=b"0"), "", str(number), 1_000)
    client.connection.replies_wait = False
    client.session.replies_taken()
    for _ in range(10):
        await settle()
    if server_side:
        assert client.closed is not None
        assert client.closed[0] == 3010
    else:
        assert [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push] == [2500]
    got = [pub["offset"] for pub in client.publications("a")]
    assert got == list(range(12, 12 + len(got)))


async def test_11_4_a_drop_amid_pages_resumes_at_the_last_received() -> None:
    cluster, _, epoch = await filled(300, recovery_limit=10, ring_size=1)
    offset, drops = 0, 0
    while offset < 300:
        client = await connected(cluster, cluster.nodes[0], f"bob{drops}")
        wish = {"channel": "a", "recover": True, "offset": offset, "epoch": epoch}
        client.send(json.dumps({"id": 9, "subscribe": wish}))
        for _ in range(40 + 7 * drops):
            await asyncio.sleep(0)
        (result,) = [line["subscribe"] for line in client.lines if "subscribe" in line]
        assert (result["recovered"], result.get("offset", 0)) == (True, offset)
        got = [pub["offset"] for pub in result.get("publications", []) + client.publications("a")]
        assert got == list(range(offset + 1, offset + 1 + len(got)))
        assert got
        offset = got[-1]
        drops += 1
        client.protocol.closed(ClientEnd.LOST)
    assert drops > 1


async def test_many_who_catch_up_in_one_channel_share_what_is_read() -> None:
    cluster, _, epoch = await filled(500, recovery_limit=50, ring_size=1)
    node = cluster.nodes[0]
    clients = [await connected(cluster, node, f"user{number}") for number in range(100)]
    broker = node.broker
    assert isinstance(broker, MemoryBroker)
    before = broker.reads
    for number, client in enumerate(clients):
        wish = {"channel": "a", "recover": True, "offset": number % 3, "epoch": epoch}
        client.send(json.dumps({"id": 2, "subscribe": wish}))
    for _ in range(100):
        await settle()
    for number, client in enumerate(clients):
        (result,) = [line["subscribe"] for line in client.lines if "subscribe" in line]
        got = [pub["offset"] for pub in result["publications"] + client.publications("a")]
        assert got == list(range(number % 3 + 1, 501))
    assert broker.reads - before <= 3 * (500 // 50)


async def test_11_4_what_the_log_no_longer_has_is_not_recovered() -> None:
    cluster = Cluster(default=replace_namespace(FORCED, history_size=3))
    client = await connected(cluster, cluster.edge(ring_size=1))
    epoch = (await client.call(subscribe={"channel": "a"}))["epoch"]
    for number in range(1, 8):
        await client.call(publish={"channel": "a", "data": number})
    assert numbers(await resubscribe(cluster, offset=4, epoch=epoch)) == [5, 6, 7]  # type: ignore[arg-type]
    assert "recovered" not in await resubscribe(cluster, offset=3, epoch=epoch)


async def test_a_client_from_an_edge_that_is_ahead_recovers_on_one_that_is_behind() -> None:
    cluster = Cluster(default=FORCED)
    ahead, behind = cluster.edge(), cluster.edge()
    alice, bob = await connected(cluster, ahead), await connected(cluster, behind, "bob")
    epoch = (await alice.call(subscribe={"channel": "a"}))["epoch"]
    await bob.call(subscribe={"channel": "a"})
    broker = behind.broker
    assert isinstance(broker, MemoryBroker)
    broker.stalled = True
    for number in (1, 2, 3):
        await alice.call(publish={"channel": "a", "data": number})
    moved = await connected(cluster, behind)
    result = await moved.call(subscribe={"channel": "a", "recover": True, "offset": 2, "epoch": epoch})
    assert numbers(result) == [3]
    assert [pub["data"] for pub in bob.publications("a")] == [1, 2, 3]


async def test_a_thousand_clients_of_one_channel_coming_back_cost_one_read() -> None:
    cluster, _, epoch = await filled(50, ring_size=1)
    node = cluster.nodes[0]
    clients = [await connected(cluster, node, f"user{number}") for number in range(1_000)]
    broker = node.broker
    assert isinstance(broker, MemoryBroker)
    reads, before = broker.read, broker.reads

    async def slow(*args: object, **options: object) -> object:
        found = await reads(*args, **options)  # type: ignore[arg-type]
        for _ in range(5):
            await asyncio.sleep(0)
        return found

    broker.read = slow  # type: ignore[assignment]
    line = '{"id":2,"subscribe":{"channel":"a","recover":true,"offset":10,"epoch":"' + epoch + '"}}'
    for client in clients:
        client.send(line)
    for _ in range(20):
        await settle()
    assert all(
        len(client.lines[-1]["subscribe"]["publications"]) == 40
        for client in clients
        if "subscribe" in client.lines[-1]
    )
    assert broker.reads - before <= 3


async def test_11_3_a_gap_is_repaired_from_the_log_without_the_client_noticing() -> None:
    cluster = Cluster(default=FORCED)
    one, two = cluster.edge(), cluster.edge()
    alice, bob = await connected(cluster, one), await connected(cluster, two, "bob")
    await alice.call(subscribe={"channel": "a"})
    await bob.call(subscribe={"channel": "a"})
    broker = two.broker
    assert isinstance(broker, MemoryBroker)
    await alice.call(publish={"channel": "a", "data": 1})
    broker.stalled = True
    await alice.call(publish={"channel": "a", "data": 2})
    await alice.call(publish={"channel": "a", "data": 3})
    broker.stalled = False
    await alice.call(publish={"channel": "a", "data": 4})
    assert [pub["data"] for pub in bob.publications("a")] == [1, 2, 3, 4]
    broker.stalled = True
    await alice.call(publish={"channel": "a", "data": 5})
    two.hub.check_tops()
    await settle()
    two.hub.check_tops()
    await settle()
    assert [pub["data"] for pub in bob.publications("a")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("positioned", [True, False])
async def test_11_3_insufficient_state_ends_positioned_subscriptions_with_2500_and_spares_others(
    positioned: bool,
) -> None:
    cluster = Cluster()
    node = cluster.edge()
    client = await connected(cluster, node)
    await client.call(subscribe={"channel": "a", "positioned": positioned})
    del cluster.bus.logs["a"]
    node.hub.was_reset("a", cluster.bus.log("a").epoch)
    await settle()
    told = [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push]
    assert told == ([2500] if positioned else [])
    assert ("a" in client.session.subscriptions) is not positioned


async def test_6_between_reply_and_live_nothing_is_lost_or_doubled() -> None:
    """Random joins among publications on two edges, with gaps in pub/sub.

    Every client sees (its start, top] once.
    """
    for seed in range(60):
        rng = random.Random(seed)
        cluster = Cluster(default=replace_namespace(FORCED, history_size=500))
        nodes = [cluster.edge(ring_size=rng.choice((1, 4, 64)), commands_per_s=0) for _ in range(2)]
        publisher = await connected(cluster, nodes[0], "publisher")
        epoch = (await publisher.call(subscribe={"channel": "a"}))["epoch"]
        clients: list[tuple[Client, int]] = []
        sent = 0
        for _ in range(80):
            action = rng.random()
            if action < 0.6:
                sent += 1
                publisher.send(f'{{"id":{sent + 10},"publish":{{"channel":"a","data":{sent}}}}}')
            elif action < 0.8:
                start = rng.randint(0, max(0, cluster.bus.log("a").top))
                client = await connected(cluster, rng.choice(nodes), f"u{len(clients)}")
                clients.append((client, start))
                client.send(
                    f'{{"id":2,"subscribe":{{"channel":"a","recover":true,"offset":{start},"epoch":"{epoch}"}}}}'
                )
            elif action < 0.9:
                broker = rng.choice(nodes).broker
                assert isinstance(broker, MemoryBroker)
                broker.stalled = not broker.stalled
            for _ in range(rng.randint(0, 6)):
                await asyncio.sleep(0)
        await settle()
        for node in nodes:
            assert isinstance(node.broker, MemoryBroker)
            node.broker.stalled = False
            node.hub.reconnected()
        await settle()
        await settle()
        for client, start in clients:
            reply = next(line["subscribe"] for line in client.lines if line.get("id") == 2)
            assert reply.get("recovered") is True, f"seed {seed}: {reply}"
            got = numbers(reply) + [pub["data"] for pub in client.publications("a")]
            assert got == list(range(start + 1, sent + 1)), f"seed {seed}: from {start} to {sent}: {got}"
