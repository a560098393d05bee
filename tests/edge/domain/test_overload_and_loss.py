"""Reads that others began, too much at once, and logs that went back."""

from __future__ import annotations

import asyncio
from typing import Any

from services.edge.domain.channels.publish_admission import ALWAYS
from services.edge.domain.model import HistoryPage
from services.edge.domain.session.node import Node
from services.shared.errors import Unavailable
from services.shared.namespaces import Durability, Mode, Permission
from tests.support.edge import OPEN, Client, Cluster, connected, replace_namespace, settle
from tests.support.memory import MemoryBroker
from tests.support.waiting import until

FORCED = replace_namespace(OPEN, recovery=Mode.FORCE, history=frozenset({Permission.AUTHENTICATED}))


class Gate:
    """Holds back the answers of a broker's reads; they are as of when asked."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.open = asyncio.Event()
        self._read = broker.read
        broker.read = self.read  # type: ignore[method-assign]

    async def read(self, channel: str, **options: Any) -> HistoryPage | None:
        page = await self._read(channel, **options)
        await self.open.wait()
        return page


async def subscribers(cluster: Cluster, node: Node, count: int) -> list[Client]:
    clients = [await connected(cluster, node, f"user{number}") for number in range(count)]
    for client in clients:
        await client.call(subscribe={"channel": "a"})
    return clients


async def test_whoever_joins_a_read_under_way_misses_nothing_that_came_after_it_began() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0, ring_size=1)
    alice = await connected(cluster, node)
    epoch = (await alice.call(subscribe={"channel": "a"}))["epoch"]
    for number in range(1, 11):
        await alice.call(publish={"channel": "a", "data": number})
    assert isinstance(node.broker, MemoryBroker)
    gate = Gate(node.broker)
    bob, carol = [await connected(cluster, node, name) for name in ("bob", "carol")]
    recover = {"channel": "a", "recover": True, "offset": 3, "epoch": epoch}
    await bob.post(subscribe=recover)
    await alice.post(publish={"channel": "a", "data": 11})
    await carol.post(subscribe=recover)
    await alice.post(publish={"channel": "a", "data": 12})
    gate.open.set()
    await settle()
    for client in (bob, carol):
        (reply,) = [line["subscribe"] for line in client.lines if "subscribe" in line]
        assert reply["recovered"] is True
        recovered = [pub["data"] for pub in reply["publications"]]
        assert recovered + [pub["data"] for pub in client.publications("a")] == list(range(4, 13))


def hold_appends(node: Node) -> asyncio.Event:
    """What is handed to the log is held until the event is set."""
    waiting = asyncio.Event()
    append = node.broker.append

    async def slow(*arguments: Any, **options: Any) -> Any:
        await waiting.wait()
        return await append(*arguments, **options)

    node.broker.append = slow  # type: ignore[method-assign]
    return waiting


async def test_publications_that_would_wait_too_long_are_refused_by_name_and_nothing_was_done() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0)
    many = await subscribers(cluster, node, ALWAYS + 3)
    waiting = hold_appends(node)
    for number in range(ALWAYS):
        await many[number].post(publish={"channel": "a", "data": number})
    cluster.clock.now += 1.5  # without an answer
    for client in many[ALWAYS:]:
        await client.post(publish={"channel": "a", "data": "no"})
    errors = [[line["error"] for line in client.lines if "error" in line] for client in many]
    assert [len(of_one) for of_one in errors] == [0] * ALWAYS + [1] * 3
    for (error,) in errors[ALWAYS:]:
        assert error["code"] == 111
        assert error["temporary"]
        assert error["retry_after_ms"] > 0
    waiting.set()
    await settle()
    assert [pub["data"] for pub in many[-1].publications("a")] == list(range(ALWAYS))
    assert node.publisher.admission.redis.waiting == node.publisher.admission.bytes == 0
    await many[-1].call(publish={"channel": "a", "data": "again"})


async def test_too_many_bytes_that_wait_are_refused_but_one_is_always_taken() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0, max_pending_publish_bytes=10)
    alice, bob = await subscribers(cluster, node, 2)
    await alice.call(publish={"channel": "a", "data": "x" * 100})
    waiting = hold_appends(node)
    await alice.post(publish={"channel": "a", "data": "12345"})
    assert await bob.error(publish={"channel": "a", "data": "123456789"}) == 111
    waiting.set()


async def test_too_many_reads_that_wait_are_refused_by_name() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0, max_reads=1, max_waiting_reads=2)
    many = await subscribers(cluster, node, 3)
    alice = many[2]
    await alice.call(publish={"channel": "a", "data": 1})
    assert isinstance(node.broker, MemoryBroker)
    gate = Gate(node.broker)
    for client in many[:2]:
        await client.post(history={"channel": "a", "limit": 5})
    assert await alice.error(history={"channel": "a", "limit": 5}) == 111
    gate.open.set()
    await settle()
    assert all([line for line in client.lines if "history" in line] for client in many[:2])
    await alice.call(history={"channel": "a", "limit": 5})


async def subscribed(cluster: Cluster, **members: Any) -> tuple[Client, str]:
    client = await connected(cluster, cluster.edge(commands_per_s=0))
    epoch: str = (await client.call(subscribe={"channel": "a", **members}))["epoch"]
    return client, epoch


async def test_a_log_below_what_was_delivered_of_it_begins_anew_and_all_are_told() -> None:
    cluster = Cluster(default=FORCED)
    (alice, epoch), (bob, _) = [await subscribed(cluster) for _ in range(2)]
    for number in range(5):
        await alice.call(publish={"channel": "a", "data": number})
    log = cluster.bus.log("a")
    log.entries, log.top = log.entries[:2], 2  # it went back, and nobody noticed
    for _ in range(2):  # what was active is compared the next time
        bob.session.node.hub.check_tops()
    await settle()
    assert cluster.bus.log("a").epoch != epoch
    for client in (alice, bob):
        assert [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push] == [2500]
    result = await alice.call(subscribe={"channel": "a", "recover": True, "offset": 5, "epoch": epoch})
    assert result.get("recovered", False) is False
    assert result["epoch"] != epoch


async def test_a_made_up_position_ends_nobodys_continuity() -> None:
    cluster = Cluster(default=FORCED)
    alice, epoch = await subscribed(cluster)
    mallory = await connected(cluster, alice.session.node, "mallory")
    result = await mallory.call(subscribe={"channel": "a", "recover": True, "offset": 1 << 40, "epoch": epoch})
    assert result.get("recovered", False) is False
    assert cluster.bus.log("a").epoch == epoch
    assert not [push for push in alice.pushes if "unsubscribe" in push]


async def test_an_edge_that_is_behind_and_cannot_ask_redis_says_so_instead_of_telling_a_gap() -> None:
    """F08: a client comes from an edge that hears Redis to one that does not."""
    cluster = Cluster(default=FORCED)
    (alice, epoch), (bob, _) = [await subscribed(cluster) for _ in range(2)]
    stalled = bob.session.node
    assert isinstance(stalled.broker, MemoryBroker)
    stalled.broker.stalled = True
    await alice.call(publish={"channel": "a", "data": 1})
    cluster.bus.down = True
    carol = await connected(cluster, stalled, "carol")
    recover = {"channel": "a", "recover": True, "offset": 1, "epoch": epoch}
    command = await carol.post(subscribe=recover)
    async with asyncio.timeout(30):
        while not (replies := [line for line in carol.lines if line.get("id") == command]):
            await asyncio.sleep(0.05)
    assert replies[0]["error"]["code"] == 100
    assert replies[0]["error"]["temporary"]
    cluster.bus.down = False

    async def recovered() -> bool:
        command = await carol.post(subscribe=recover)
        reply = await until(lambda: next((line for line in carol.lines if line.get("id") == command), None))
        return reply.get("subscribe", {}).get("recovered") is True

    await until(recovered)  # the repair tries again


async def test_publications_in_the_queues_of_clients_count_too_and_are_forgotten_with_them() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0, max_pending_publish_bytes=100)
    alice, bob = await subscribers(cluster, node, 2)
    waiting = hold_appends(node)
    admission = node.publisher.admission
    for _ in range(2):
        await alice.post(publish={"channel": "a", "data": "x" * 8})
    assert (admission.redis.in_flight, admission.redis.waiting, admission.bytes) == (1, 2, 20)
    assert await bob.error(publish={"channel": "a", "data": "x" * 88}) == 111
    assert admission.refused["bytes"] == 1
    await alice.hang_up()
    assert (admission.redis.waiting, admission.bytes) == (1, 10)
    waiting.set()
    await settle()
    assert (admission.redis.waiting, admission.bytes) == (0, 0)
    await bob.call(publish={"channel": "a", "data": "x" * 88})


async def test_one_client_takes_no_more_than_its_share_of_what_may_wait() -> None:
    """By bytes, what waits in its queue counting.

    By time its queue holds up nobody but itself.
    """
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0, max_pending_publish_bytes=10_000)
    alice, bob = await subscribers(cluster, node, 2)
    waiting = hold_appends(node)
    for _ in range(60):
        await alice.post(publish={"channel": "a", "data": "x" * 98})
    taken = 60 - len([line for line in alice.lines if "error" in line])
    assert 5 < taken <= 14  # 1,400 bytes; 8 times 1,300 were free
    for _ in range(5):
        await bob.post(publish={"channel": "a", "data": "x" * 98})
    assert not [line for line in bob.lines if "error" in line]
    waiting.set()
    async with asyncio.timeout(20):
        while len(bob.publications("a")) < taken + 5:
            await asyncio.sleep(0.001)
    await settle()  # the last one is delivered before its acknowledgement is counted
    admission = node.publisher.admission
    assert (admission.redis.waiting, admission.bytes) == (0, 0)


async def test_a_burst_of_one_client_is_taken_whole() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0)
    alice, bob = await subscribers(cluster, node, 2)
    waiting = hold_appends(node)
    for number in range(300):
        await alice.post(publish={"channel": "a", "data": number})
    assert not alice.connection.paused  # its publications are bounded by admission
    waiting.set()
    async with asyncio.timeout(20):
        while len(bob.publications("a")) < 300:
            await asyncio.sleep(0.001)
    assert [pub["data"] for pub in bob.publications("a")] == list(range(300))


async def test_a_slow_store_keeps_nothing_from_redis() -> None:
    cluster = Cluster(default=FORCED, kept=replace_namespace(FORCED, durability=Durability.STORED))
    node = cluster.edge(commands_per_s=0)
    many = await subscribers(cluster, node, ALWAYS + 1)
    waiting = asyncio.Event()

    async def never(*_: Any, **__: Any) -> Any:
        await waiting.wait()
        raise Unavailable("down")

    node.store.append = never  # type: ignore[method-assign]
    for client in many:
        await client.call(subscribe={"channel": "kept:a"})
    for client in many[:ALWAYS]:
        await client.post(publish={"channel": "kept:a", "data": 1})
    cluster.clock.now += 1.5
    assert await many[-1].error(publish={"channel": "kept:a", "data": 1}) == 111
    assert node.publisher.admission.refused["silent"] == 1
    await many[-1].call(publish={"channel": "a", "data": 1})
    waiting.set()
    await settle()


async def test_whoever_is_refused_much_is_not_read_for_a_while() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0, max_pending_publish_bytes=100)
    alice, bob = await subscribers(cluster, node, 2)
    waiting = hold_appends(node)
    await bob.post(publish={"channel": "a", "data": "x" * 98})
    one = '{"id":%d,"publish":{"channel":"a","data":1}}'
    await alice.raw("\n".join(one % (1_000 + number) for number in range(31)))
    assert not alice.connection.paused
    await alice.raw("\n".join(one % (2_000 + number) for number in range(10)))
    assert alice.connection.paused
    assert len([line for line in alice.lines if line.get("error", {}).get("code") == 111]) == 41
    async with asyncio.timeout(30):
        while alice.connection.paused:
            await asyncio.sleep(0.01)
    waiting.set()
    await settle()
    await alice.call(publish={"channel": "a", "data": "again"})


async def test_publications_that_are_refused_for_want_of_room_cost_credit_like_other_commands() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=10, commands_burst=20, max_pending_publish_bytes=100, flood_close_s=3)
    alice, bob = await subscribers(cluster, node, 2)
    waiting = hold_appends(node)
    await bob.post(publish={"channel": "a", "data": "x" * 98})
    for _ in range(25):
        await alice.post(publish={"channel": "a", "data": 1})
    assert await alice.error(history={"channel": "a"}) == 111
    cluster.clock.now += 1
    await alice.call(history={"channel": "a"})
    for _ in range(40):
        cluster.clock.now += 0.1
        for _ in range(3):
            await alice.post(publish={"channel": "a", "data": 1})
    assert alice.closed is not None
    assert alice.closed[0] == 3013
    waiting.set()
    await settle()


async def test_a_client_that_we_do_not_read_is_not_ended_for_a_pong_that_lies_behind() -> None:
    cluster = Cluster(default=FORCED)
    node = cluster.edge(commands_per_s=0, max_pending_commands=2, ping_interval_s=5.0, pong_timeout_s=3.0)
    (alice,) = await subscribers(cluster, node, 1)
    waiting = hold_appends(node)
    await alice.post(publish={"channel": "a", "data": 1})
    for _ in range(4):
        await alice.post(presence={"channel": "a"})
    assert alice.connection.paused
    await cluster.advance(20.0)
    assert alice.closed is None
    assert [line for line in alice.lines if line == {}] == [{}]  # one ping: the pong to it may be all there is
    waiting.set()
    await settle()
    assert not alice.connection.paused
    await cluster.advance(20.0)
    assert alice.closed is not None
    assert alice.closed[0] == 3012
